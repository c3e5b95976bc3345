//! Scripted servers for the tests of this module.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::dial::{Dialer, Resolve, Resolving, Stream};
use super::{FileUrl, Location, Policy, Remote, RemoteError};

/// The reaction of a stub to a request.
pub(super) enum Reply {
    /// Sends this, and closes.
    Close(Vec<u8>),
    /// Sends this, and then stays silent.
    Hold(Vec<u8>),
}

/// A server with one reply per connection, in order; further connections are closed.
pub(super) struct Stub {
    pub(super) port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    /// Starts a server. Its replies may depend on the port.
    pub(super) async fn start(replies: impl FnOnce(u16) -> Vec<Reply>) -> Self {
        Self::run(replies, None).await
    }

    /// Starts a server with TLS and a certificate for `localhost` and 127.0.0.1.
    pub(super) async fn start_tls(replies: impl FnOnce(u16) -> Vec<Reply>) -> Self {
        let certificate = CertificateDer::from_pem_file(fixture("first.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(fixture("first.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self::run(replies, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn run(replies: impl FnOnce(u16) -> Vec<Reply>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut replies = VecDeque::from(replies(port));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let tasks = TaskTracker::new();
        tasks.clone().spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let stream: Box<dyn Stream> = match &tls {
                    None => Box::new(stream),
                    // A client that refuses the certificate closes the connection.
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => Box::new(stream),
                        Err(_) => continue,
                    },
                };
                let reply = replies.pop_front();
                tasks.spawn(answer(stream, reply, Arc::clone(&seen)));
            }
        });
        Self { port, requests }
    }

    /// Returns the requests received, heads and bodies.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Returns a policy that allows this stub and nothing else on this machine.
    pub(super) fn policy(&self) -> Policy {
        policy(self.port)
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

async fn answer(mut stream: Box<dyn Stream>, reply: Option<Reply>, seen: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    seen.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
    // Writing fails if a client refuses the head and closes.
    match reply {
        Some(Reply::Close(bytes)) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Some(Reply::Hold(bytes)) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.flush().await;
            let _ = stream.read_buf(&mut request).await;
        }
        None => {}
    }
}

/// Whether the head and the body that it declares have arrived.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    request.len() >= head.len() + 4 + length.unwrap_or(0)
}

/// Returns an answer with a body of the declared length.
pub(super) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

pub(super) fn redirect(status: u16, to: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Elsewhere\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

/// Returns a policy that allows one port of 127.0.0.1.
pub(super) fn policy(port: u16) -> Policy {
    Policy { ports: vec![port], networks: vec!["127.0.0.1".parse().unwrap()], ..Policy::default() }
}

/// Returns a client that trusts the certificate of TLS stubs and resolves nothing.
pub(super) fn remote(policy: Policy) -> Remote {
    resolving(policy, Arc::new(Names::new(&[])))
}

pub(super) fn resolving(policy: Policy, names: Arc<Names>) -> Remote {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture("first.pem")).unwrap()).unwrap();
    Remote::with(policy, Dialer::new(names, roots))
}

/// Returns a client that trusts no certificate.
pub(super) fn distrusting(policy: Policy) -> Remote {
    Remote::with(policy, Dialer::new(Arc::new(Names::new(&[])), RootCertStore::empty()))
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tls").join(name)
}

/// A resolver that gives the next answer of a list for any name.
pub(super) struct Names {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    pub(super) fn new(answers: &[&[&str]]) -> Self {
        let parsed = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        Self { answers: Mutex::new(answers.iter().map(parsed).collect()), asked: Mutex::default() }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a> {
        self.asked.lock().unwrap().push(name.to_owned());
        let answer = self.answers.lock().unwrap().pop_front();
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no such name")) })
    }
}

pub(super) fn file(url: &str) -> FileUrl {
    match Location::parse(url) {
        Ok(Location::File(file)) => file,
        other => panic!("{other:?}"),
    }
}

/// Fetches a whole file.
pub(super) async fn fetch(remote: &Remote, url: &str) -> Result<String, RemoteError> {
    let mut opened = remote.open(&file(url)).await?;
    let mut body = Vec::new();
    while let Some(bytes) = opened.next().await? {
        body.extend_from_slice(&bytes);
    }
    assert!(opened.length().is_none_or(|length| length == body.len() as u64));
    Ok(String::from_utf8(body).unwrap())
}

/// A stall limit that is long enough for a busy machine and short enough for a test to wait for.
pub(super) const SHORT: Duration = Duration::from_millis(500);
