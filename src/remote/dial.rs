//! Connections to hosts: resolves, checks, connects, and starts TLS for HTTPS.
//!
//! # Invariants
//! - A name is resolved once, and only addresses that were checked are connected to.
//! - Certificates are always verified, for the name in the URL.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Host;

use super::error::{BadUrl, Refusal, RemoteError};
use super::network::is_permitted;
use super::{Policy, Scheme};

/// The most addresses of one host that are tried. Further ones are not more likely to answer.
const TRIED: usize = 4;

/// A connection, with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// A resolver of names to addresses.
pub(super) trait Resolve: Send + Sync {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a>;
}

/// The system's resolver.
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|found| found.ip()).collect()) })
    }
}

/// Returns the certificates that the system trusts. Having none is an error only when one is needed.
pub(super) fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some root certificates cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!("there are no root certificates: nothing is fetched over https");
    }
    roots
}

/// Makes connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dialer {
    resolver: Arc<dyn Resolve>,
    tls: TlsConnector,
}

impl Dialer {
    pub(super) fn new(resolver: Arc<dyn Resolve>, roots: RootCertStore) -> Self {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has suites for both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { resolver, tls: TlsConnector::from(Arc::new(config)) }
    }

    /// Connects to a host, if the policy allows it.
    pub(super) async fn dial(
        &self,
        policy: &Policy,
        scheme: Scheme,
        host: &Host,
        port: u16,
    ) -> Result<TcpStream, RemoteError> {
        if !policy.schemes.contains(&scheme) {
            return Err(Refusal::Scheme.into());
        }
        if !policy.ports.contains(&port) {
            return Err(Refusal::Port.into());
        }
        let addresses = match host {
            Host::Ipv4(address) => vec![IpAddr::V4(*address)],
            Host::Ipv6(address) => vec![IpAddr::V6(*address)],
            Host::Domain(name) => within(policy.stall, self.resolver.resolve(name))
                .await?
                .map_err(|error| RemoteError::Unresolved(Some(error)))?,
        };
        if addresses.is_empty() {
            return Err(RemoteError::Unresolved(None));
        }
        // An address that is not allowed beside one that is may be an attack by the owner of the name.
        if !addresses.iter().all(|address| is_permitted(*address, &policy.networks)) {
            return Err(Refusal::Address.into());
        }
        let mut last = None;
        for address in addresses.into_iter().take(TRIED) {
            match timeout(policy.stall, TcpStream::connect(SocketAddr::new(address, port))).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(io::ErrorKind::TimedOut.into()),
            }
        }
        Err(RemoteError::Unreachable(last))
    }

    /// Starts TLS on a connection, and verifies that the other end is `host`.
    pub(super) async fn secure(
        &self,
        policy: &Policy,
        host: &Host,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, RemoteError> {
        let name = match host {
            // Certificates have no dot at the end (RFC 6066 section 3).
            Host::Domain(name) => {
                ServerName::try_from(name.trim_end_matches('.').to_owned()).map_err(|_| BadUrl::Host)?
            }
            Host::Ipv4(address) => ServerName::from(IpAddr::V4(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::V6(*address)),
        };
        // The handshake's future is large.
        Box::pin(within(policy.stall, self.tls.connect(name, stream))).await?.map_err(RemoteError::Tls)
    }
}

/// Waits for a future; returns `Stalled` after this time.
pub(super) async fn within<F: Future>(stall: Duration, future: F) -> Result<F::Output, RemoteError> {
    timeout(stall, future).await.map_err(|_| RemoteError::Stalled(stall))
}
