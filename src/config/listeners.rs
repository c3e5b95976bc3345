//! Settings for the listeners: their addresses, certificates and public URLs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use super::{Config, ConfigError};

/// One of the two endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Endpoint {
    /// Its own address; `listen` when absent.
    pub listen: Option<SocketAddr>,
    /// The URL that clients reach it by, without a trailing slash. Absent: redirects are relative, and absolute URLs
    /// name the socket's own address. The request's `Host` is never used.
    pub public_url: Option<String>,
    /// Its own certificate, or `false` for none where a proxy in front speaks TLS; that of `tls` when absent.
    pub tls: EndpointTls,
}

/// The certificate of one endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) enum EndpointTls {
    /// The certificate of `tls`.
    #[default]
    Common,
    /// No certificate: plain HTTP.
    Off,
    /// A certificate of its own.
    Own(TlsFiles),
}

impl<'de> Deserialize<'de> for EndpointTls {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(from)? {
            toml::Value::Boolean(false) => Ok(Self::Off),
            files @ toml::Value::Table(_) => {
                TlsFiles::deserialize(files).map(Self::Own).map_err(|error| de::Error::custom(error.message()))
            }
            _ => Err(de::Error::custom("must be false, or a certificate and a key")),
        }
    }
}

/// The certificate chain and key, as PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsFiles {
    /// The chain, leaf first. Read again on SIGHUP.
    pub certificate: Option<PathBuf>,
    /// The private key. Read again on SIGHUP.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// Returns certificate and key, if both are set.
    pub(crate) fn pair(&self) -> Option<(&Path, &Path)> {
        self.certificate.as_deref().zip(self.key.as_deref())
    }
}

impl Config {
    /// Returns the files of an endpoint that has TLS.
    pub(crate) fn tls_of<'a>(&'a self, endpoint: &'a Endpoint) -> Option<(&'a Path, &'a Path)> {
        match &endpoint.tls {
            EndpointTls::Common => self.tls.pair(),
            EndpointTls::Off => None,
            EndpointTls::Own(files) => files.pair(),
        }
    }

    /// Whether each endpoint has a listener of its own. Two that ask the system for a port get two.
    pub(crate) fn is_split(&self) -> bool {
        let addresses = [&self.direct, &self.control].map(|endpoint| endpoint.listen.unwrap_or(self.listen));
        let has_own = self.direct.listen.is_some() || self.control.listen.is_some();
        has_own && (addresses[0] != addresses[1] || addresses[0].port() == 0)
    }

    pub(super) fn check_listeners(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem| Err(ConfigError::Value { key, problem });
        let has_half = |files: &TlsFiles| files.certificate.is_some() != files.key.is_some();
        if has_half(&self.tls) {
            return wrong("tls", "certificate and key go together");
        }
        for (key, endpoint) in [("direct.tls", &self.direct), ("control.tls", &self.control)] {
            if let EndpointTls::Own(files) = &endpoint.tls
                && files.pair().is_none()
            {
                return wrong(key, "must be false, or a certificate and a key");
            }
        }
        if !self.is_split() && self.tls_of(&self.direct) != self.tls_of(&self.control) {
            return wrong("direct.tls", "must be that of control, since both listen at one address");
        }
        for (key, endpoint) in [("direct.public_url", &self.direct), ("control.public_url", &self.control)] {
            let Some(url) = &endpoint.public_url else { continue };
            let plain = url.bytes().all(|b| b.is_ascii_graphic() && !b"\"'<>\\?#".contains(&b));
            if !(url.starts_with("http://") || url.starts_with("https://")) || url.ends_with('/') || !plain {
                return wrong(key, "must be an http or https URL without query or trailing slash");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::load;

    #[test]
    fn a_public_url_must_be_plain() {
        for url in ["ftp://x", "http://x/", "http://x\\r\\ny", "http://x?y"] {
            assert!(load(&format!("[direct]\npublic_url = \"{url}\"\n"), &[]).is_err(), "{url}");
        }
        assert!(load("[direct]\npublic_url = 'https://direct.example.com/x'\n", &[]).is_ok());
    }

    #[test]
    fn each_listener_may_have_a_certificate_of_its_own_or_none() {
        let common = "[tls]\ncertificate = 'c'\nkey = 'k'\n";
        let split = "[control]\nlisten = '127.0.0.1:2'\n";
        let sides = |text: &str, env: &[(&str, &str)]| {
            load(text, env).map(|config| {
                [&config.direct, &config.control].map(|side| config.tls_of(side).map(|(file, _)| file.to_owned()))
            })
        };
        let files =
            |direct: Option<&str>, control: Option<&str>| [direct.map(PathBuf::from), control.map(PathBuf::from)];
        assert_eq!(sides(common, &[]).unwrap(), files(Some("c"), Some("c")));
        assert_eq!(sides(&format!("{common}{split}tls = false\n"), &[]).unwrap(), files(Some("c"), None));
        let own = format!("{common}{split}[direct.tls]\ncertificate = 'd'\nkey = 'e'\n");
        assert_eq!(sides(&own, &[]).unwrap(), files(Some("d"), Some("c")));
        let env = [("LONGSHORE_DIRECT__TLS__CERTIFICATE", "d"), ("LONGSHORE_DIRECT__TLS__KEY", "e")];
        assert_eq!(sides(split, &env).unwrap(), files(Some("d"), None));
        assert_eq!(sides(&own, &[("LONGSHORE_DIRECT__TLS", "false")]).unwrap(), files(None, Some("c")));
        for wrong in ["tls = true\n", "tls = 'x'\n", "tls = {certificate = 'd'}\n", "tls = {}\n", "tls = {x = 'y'}\n"] {
            assert!(sides(&format!("{split}{wrong}"), &[]).is_err(), "{wrong}");
        }
        assert!(sides(&format!("{common}[direct]\ntls = false\n"), &[]).is_err(), "one address cannot have both");
    }
}
