//! Services of the cloud that the configuration names: an identity service, an image service.
//!
//! They are trusted with credentials and reached wherever they are; so nothing that a user says decides where a request
//! goes, and no redirect is followed.
//!
//! The client is that of sources (`exchange`). `reqwest`, which `object_store` uses, would be a second one whose limits
//! and errors have to be made the same, in more lines than are here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::error::{BadUrl, Flaw, RemoteError};
use super::exchange::{Body, Bounds};
use super::{Policy, Remote, Scheme, location};
use crate::domain::Network;

/// The most bytes of an answer that is read whole.
const MOST: u64 = 4 << 20;

/// The base URL of a service, as in `http://identity.example.com:5000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl {
    /// Its path ends in a slash, so that other paths can be joined to it.
    base: Url,
    scheme: Scheme,
    port: u16,
}

/// A text that is not the URL of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a service is at an http or https URL without user name and password")]
pub struct NotAServiceUrl;

impl FromStr for ServiceUrl {
    type Err = NotAServiceUrl;

    fn from_str(text: &str) -> Result<Self, NotAServiceUrl> {
        let mut base = Url::parse(text).map_err(|_| NotAServiceUrl)?;
        let (scheme, _, port) = location::parts(&base).map_err(|_| NotAServiceUrl)?;
        if scheme == Scheme::Git || !base.username().is_empty() || base.password().is_some() {
            return Err(NotAServiceUrl);
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { base, scheme, port })
    }
}

/// Omits the slash at the end.
impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.as_str().trim_end_matches('/'))
    }
}

/// A service at a base URL. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    remote: Remote,
    base: Url,
}

/// A whole answer, of any status.
#[derive(Debug)]
pub struct Said {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A body that is being fetched from a service. Dropping it closes the connection.
pub struct Download {
    body: Body,
}

impl Service {
    /// Returns the service at this URL. `time` is the limit of a request.
    pub fn new(url: &ServiceUrl, time: Duration) -> Self {
        let ServiceUrl { base, scheme, port } = url.clone();
        let policy = Policy {
            schemes: vec![scheme],
            ports: vec![port],
            networks: Network::everywhere().to_vec(),
            max_bytes: u64::MAX,
            time,
            redirects: 0,
            ..Policy::default()
        };
        Self { remote: Remote::new(policy), base }
    }

    /// Sends a request and reads the whole answer.
    pub async fn ask(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Said, RemoteError> {
        let bounds = Bounds { most: MOST, deadline: Instant::now() + self.remote.policy.time };
        let mut answer = self.remote.ask(method, &self.at(path)?, headers, body, bounds).await?;
        let mut whole = Vec::new();
        // An answer to HEAD has no body.
        while method != Method::HEAD
            && let Some(bytes) = answer.body.next().await?
        {
            whole.extend_from_slice(&bytes);
        }
        Ok(Said { status: answer.status, headers: answer.headers, body: whole.into() })
    }

    /// Requests a body that may take long and has at most `most` bytes. The answer is a 200.
    pub async fn download(
        &self,
        path: &str,
        headers: &HeaderMap,
        most: u64,
        time: Duration,
    ) -> Result<Download, RemoteError> {
        let bounds = Bounds { most, deadline: Instant::now() + time };
        let answer = self.remote.ask(&Method::GET, &self.at(path)?, headers, Bytes::new(), bounds).await?;
        if answer.status != StatusCode::OK {
            return Err(RemoteError::Status(answer.status));
        }
        if !answer.is_bounded() {
            return Err(Flaw::Unbounded.into());
        }
        Ok(Download { body: answer.body })
    }

    /// Returns the URL of a path beneath the base. A user's text is checked before it becomes part of a path.
    fn at(&self, path: &str) -> Result<Url, RemoteError> {
        let url = self.base.join(path.trim_start_matches('/')).map_err(|_| BadUrl::Syntax)?;
        if url.origin() != self.base.origin() || !url.path().starts_with(self.base.path()) {
            return Err(BadUrl::Syntax.into());
        }
        Ok(url)
    }
}

/// Returns what is at a URL that whoever runs this program has named.
pub async fn small_file(url: &str, time: Duration) -> Result<Bytes, RemoteError> {
    let (base, name) = url.rsplit_once('/').ok_or(BadUrl::Syntax)?;
    let base = base.parse().map_err(|NotAServiceUrl| BadUrl::Syntax)?;
    let said = Service::new(&base, time).ask(&Method::GET, name, &HeaderMap::new(), Bytes::new()).await?;
    if said.status == StatusCode::OK { Ok(said.body) } else { Err(RemoteError::Status(said.status)) }
}

impl Download {
    /// Returns the next bytes; `None` after the last one, and only if all came. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        self.body.next().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(base: &str) -> Service {
        Service::new(&base.parse().unwrap(), Duration::from_secs(1))
    }

    #[test]
    fn a_path_stays_beneath_the_base() {
        let at = |base: &str, path: &str| service(base).at(path).map(|url| url.to_string()).ok();
        assert_eq!(at("http://h:5000", "/v3/auth/tokens").unwrap(), "http://h:5000/v3/auth/tokens");
        assert_eq!(at("https://h/identity", "v3").unwrap(), "https://h/identity/v3");
        for path in ["//other/v3", "http://other/", "../x", "v3/../../x", "%2e%2e/x"] {
            let there = at("https://h/identity/", path);
            assert!(there.is_none_or(|url| url.starts_with("https://h/identity/")), "{path}");
        }
    }

    #[test]
    fn a_service_is_named_without_the_slash_at_its_end() {
        for (given, named) in [("http://h:5000", "http://h:5000"), ("https://h/identity/", "https://h/identity")] {
            assert_eq!(given.parse::<ServiceUrl>().unwrap().to_string(), named);
        }
    }

    #[test]
    fn what_is_no_service_is_refused() {
        for base in ["", "h:5000", "git://h/", "ftp://h/", "http://user:secret@h/", "file:///etc"] {
            assert_eq!(base.parse::<ServiceUrl>(), Err(NotAServiceUrl), "{base}");
        }
    }
}
