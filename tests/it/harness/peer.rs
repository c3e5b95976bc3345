//! Peers that stall: sockets with small buffers, TLS of a client, stopped processes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Curl, PATIENCE, Server, Setup, wait_for};

/// Opens a connection whose receive buffer is as small as the kernel allows, so that a peer that does not read is
/// noticed after few bytes.
pub(crate) fn narrow(authority: &str) -> TcpStream {
    let address: SocketAddr = authority.parse().expect("an authority is an address");
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket can be made");
    sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("a buffer can be small");
    connect(&socket, &address).expect("the server listens");
    patient(TcpStream::from(socket))
}

/// Opens a connection from another address of this machine.
pub(crate) fn from_address(source: [u8; 4], authority: &str) -> TcpStream {
    let address: SocketAddr = authority.parse().expect("an authority is an address");
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket can be made");
    rustix::net::bind(&socket, &SocketAddr::from((source, 0))).expect("all of 127/8 is ours");
    connect(&socket, &address).expect("the server listens");
    patient(TcpStream::from(socket))
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// Returns the path of a file among the test certificates.
pub(crate) fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tls").join(name)
}

/// Returns a setup that serves TLS with the first certificate.
pub(crate) fn tls_setup() -> Setup {
    let line = |key: &str, file: &str| format!("tls.{key} = \"{}\"", certificate(file).display());
    Setup::default().config(&line("certificate", "first.pem")).config(&line("key", "first.key"))
}

/// Makes a curl trust the first certificate.
pub(crate) fn trusting(curl: Curl) -> Curl {
    curl.arg("--cacert").arg(certificate("first.pem"))
}

/// Returns the address of a server that may speak TLS.
pub(crate) fn authority(server: &Server) -> &str {
    let endpoint = server.endpoint();
    endpoint.split_once("://").expect("an endpoint is a URL").1
}

/// Opens a TLS connection over `socket` that speaks this protocol.
pub(crate) fn tls(socket: TcpStream, alpn: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::new(tls_config(alpn)), name).expect("a session can be made");
    StreamOwned::new(session, socket)
}

/// Returns the client configuration of such a connection.
pub(crate) fn tls_config(alpn: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let first = CertificateDer::from_pem_file(certificate("first.pem")).expect("the certificate can be read");
    roots.add(first).expect("the certificate can be trusted");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the versions are supported")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config
}

/// Reads one head of an answer, byte by byte, so that nothing after it is read.
#[track_caller]
pub(crate) fn read_head(stream: &mut impl Read) -> super::Response {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            ended => panic!("{ended:?} in a head: {:?}", String::from_utf8_lossy(&head)),
        }
    }
    head.truncate(head.len() - 4);
    super::Response::parse_head(&String::from_utf8_lossy(&head))
}

/// Reads a request of the server, its body by `Content-Length`; returns the head.
#[track_caller]
pub(crate) fn read_request(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("the server sends"), 1, "the connection ended in a head");
        head.extend(byte);
    }
    let head = String::from_utf8(head).expect("a head is text").to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).expect("the server sends the whole body");
    head
}

/// Reads to the end, whether or not the server closed properly; returns the number of bytes.
#[track_caller]
pub(crate) fn drain(stream: &mut impl Read) -> u64 {
    let mut buffer = vec![0; 64 << 10];
    let mut came = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return came,
            Ok(read) => came += read as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the server neither sends nor closes"),
            // A reset, or TLS without its closing message.
            Err(_) => return came,
        }
    }
}

/// Writes `bytes`; returns whether the server refuses them.
pub(crate) fn is_refused(stream: &mut impl Write, bytes: &[u8]) -> bool {
    stream.write_all(bytes).and_then(|()| stream.flush()).is_err()
}

/// A curl that runs beside the test, and is ended when this is dropped.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Starts `curl` with these arguments. Its standard input comes from [`Running::feed`].
    pub(crate) fn curl(args: &[&str]) -> Self {
        let mut command = Command::new("curl");
        command.args(["--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", "120"]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().expect("curl runs") }
    }

    /// Sends bytes to it; returns whether it has taken them.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> bool {
        self.child.stdin.as_mut().is_some_and(|input| input.write_all(bytes).is_ok())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id is not zero");
        kill_process(pid, signal).expect("curl runs");
    }

    /// Waits until it ends.
    #[track_caller]
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.stdin = None;
        wait_for("curl to end", || self.child.try_wait().expect("a child can be waited for"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
