//! The server's certificate, which is loaded from PEM files and can be replaced while the server runs.
//!
//! There is one TLS provider, passed explicitly and never installed for the process. TLS 1.2 and 1.3; HTTP/2 and HTTP/1
//! by ALPN.
//!
//! # Invariants
//! - There is always a usable certificate with the matching key: a failed load changes nothing.
//! - A reload affects new handshakes only; open connections continue.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio_rustls::TlsAcceptor;

use crate::dialect::Side;

/// A certificate in use, and the paths of its files.
#[derive(Debug)]
pub(crate) struct Tls {
    cert_path: PathBuf,
    key_path: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Loads a certificate chain (leaf first) and its private key. Reads small files, so it is meant for the start.
    pub(crate) fn load(cert_path: &Path, key_path: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = Arc::new(Current(ArcSwap::from_pointee(read(cert_path, key_path, &provider)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(TlsError::Unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = ["h2", "http/1.1", "http/1.0"].map(|name| name.as_bytes().to_vec()).to_vec();
        Ok(Self {
            cert_path: cert_path.to_owned(),
            key_path: key_path.to_owned(),
            provider,
            current,
            config: Arc::new(config),
        })
    }

    /// Returns an acceptor, which makes TLS streams of sockets. It stays current over reloads, and is cheap to clone.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Reads the same files again, for future handshakes. On an error the old certificate stays.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        self.current.0.store(Arc::new(read(&self.cert_path, &self.key_path, &self.provider)?));
        Ok(())
    }
}

/// The certificates of the two sides; a shared listener uses either.
#[derive(Clone, Debug, Default)]
pub(crate) struct SideTls {
    /// The data plane's certificate; without one it speaks plain HTTP.
    pub(crate) direct: Option<Arc<Tls>>,
    /// The metadata side's certificate; without one it speaks plain HTTP.
    pub(crate) control: Option<Arc<Tls>>,
}

impl SideTls {
    pub(super) fn of(&self, side: Option<Side>) -> Option<&Arc<Tls>> {
        match side {
            Some(Side::Control) => self.control.as_ref(),
            Some(Side::Direct | Side::Either) | None => self.direct.as_ref(),
        }
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read, or its PEM section is missing or malformed.
    #[error("{path} does not hold the PEM that is expected there")]
    Pem {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: pem::Error,
    },
    /// The certificate or the key has an unsupported type, or they do not match.
    #[error("the certificate and its key cannot be used")]
    Unusable(#[source] rustls::Error),
}

fn read(cert_path: &Path, key_path: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let open = |path: &Path| fs::read(path).map_err(|error| at(path)(pem::Error::Io(error)));
    let chain = CertificateDer::pem_slice_iter(&open(cert_path)?)
        .collect::<Result<Vec<_>, _>>()
        .and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(at(cert_path))?;
    let key = PrivateKeyDer::from_pem_slice(&open(key_path)?).map_err(at(key_path))?;
    CertifiedKey::from_der(chain, key, provider).map_err(TlsError::Unusable)
}

/// Gives every handshake the current certificate, for any server name.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
    use tokio_rustls::TlsConnector;

    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tls").join(name)
    }

    fn leaf(name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(fixture(name)).unwrap()
    }

    /// Returns the certificate and the protocol that a client gets that trusts both fixtures.
    async fn handshake(
        tls: &Tls,
        version: &'static SupportedProtocolVersion,
        alpn: &[&str],
    ) -> (CertificateDer<'static>, Option<Vec<u8>>) {
        let mut roots = RootCertStore::empty();
        roots.add(leaf("first.pem")).unwrap();
        roots.add(leaf("second.pem")).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let (client, server) = tokio::join!(connector.connect(name, near), tls.acceptor().accept(far));
        server.unwrap();
        let client = client.unwrap();
        let (_, session) = client.get_ref();
        (session.peer_certificates().unwrap()[0].clone(), session.alpn_protocol().map(<[u8]>::to_vec))
    }

    #[tokio::test]
    async fn client_picks_version_and_protocol() {
        let tls = Tls::load(&fixture("first.pem"), &fixture("first.key")).unwrap();
        for version in [&TLS12, &TLS13] {
            for (offered, agreed) in [
                (vec!["http/1.1", "h2"], Some(&b"h2"[..])),
                (vec!["http/1.1"], Some(&b"http/1.1"[..])),
                (vec!["http/1.0"], Some(&b"http/1.0"[..])),
                (vec![], None),
            ] {
                let (certificate, protocol) = handshake(&tls, version, &offered).await;
                assert_eq!(certificate, leaf("first.pem"));
                assert_eq!(protocol.as_deref(), agreed);
            }
        }
    }

    #[tokio::test]
    async fn reload_serves_the_new_certificate_and_keeps_the_old_one_when_the_new_one_is_bad() {
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        let install = |from: &str, to: &Path| fs::copy(fixture(from), to).unwrap();
        install("first.pem", &cert);
        install("first.key", &key);
        let tls = Tls::load(&cert, &key).unwrap();

        install("second.pem", &cert);
        let mixed = tls.reload().unwrap_err();
        assert!(matches!(mixed, TlsError::Unusable(_)), "{mixed:?}");
        assert_eq!(handshake(&tls, &TLS13, &[]).await.0, leaf("first.pem"));

        fs::write(&key, "no key").unwrap();
        let garbage = tls.reload().unwrap_err();
        assert!(matches!(&garbage, TlsError::Pem { path, .. } if *path == key), "{garbage:?}");
        assert_eq!(handshake(&tls, &TLS13, &[]).await.0, leaf("first.pem"));

        install("second.key", &key);
        tls.reload().unwrap();
        assert_eq!(handshake(&tls, &TLS13, &[]).await.0, leaf("second.pem"));

        fs::remove_file(&cert).unwrap();
        assert!(matches!(tls.reload().unwrap_err(), TlsError::Pem { path, .. } if path == cert));
        assert_eq!(handshake(&tls, &TLS12, &[]).await.0, leaf("second.pem"));
    }

    #[test]
    fn empty_certificate_file_is_refused() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        let error = Tls::load(empty.path(), &fixture("first.key")).unwrap_err();
        assert!(matches!(error, TlsError::Pem { .. }), "{error:?}");
    }
}
