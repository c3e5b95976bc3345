//! Requests and their answers.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::throttle::Throttle;
use super::{ClientError, Login};

/// The longest time for a connection to be made.
const CONNECT: Duration = Duration::from_secs(20);
/// The longest time for which a peer may be silent, and for a whole answer of the control side.
pub(super) const STALL: Duration = Duration::from_mins(2);
/// The most bytes of a refusal that are read.
const REFUSAL: usize = 64 << 10;

/// A server with a login.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    login: Login,
    /// The longest time without any progress, after which a transfer gives up.
    pub(super) patience: Duration,
    /// The limit on the bytes that are moved.
    pub(super) throttle: Throttle,
    /// The folder with the records of transfers that are under way.
    pub(super) records: PathBuf,
}

impl Client {
    /// Returns the host of a server's URL, for which a login is found.
    pub(crate) fn host(url: &str) -> Result<String, ClientError> {
        Ok(base(url)?.host_str().unwrap_or_default().to_owned())
    }

    /// Makes a client. Nothing is connected before something is asked.
    pub(crate) fn new(url: &str, login: Login, patience: Duration, records: PathBuf) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            // Parts come over connections of their own, which HTTP/2 would make one.
            .http1_only()
            // A redirect leads to a ticket, which takes no login.
            .redirect(Policy::none())
            // Repeating is ours, which knows what may have come.
            .retry(reqwest::retry::never())
            .build()?;
        Ok(Self { http, base: base(url)?, login, patience, throttle: Throttle::default(), records })
    }

    /// Moves no more than this many bytes in a second from now on, if a limit is given.
    #[must_use]
    pub(crate) fn limited(self, rate: Option<u64>) -> Self {
        Self { throttle: rate.map(Throttle::new).unwrap_or_default(), ..self }
    }

    /// Returns the server's URL.
    pub(crate) fn url(&self) -> &str {
        self.base.as_str()
    }

    /// Returns the URL of a path, or of a reference in an answer.
    pub(super) fn place(&self, reference: &str) -> Result<Url, ClientError> {
        self.base.join(reference).map_err(|_| ClientError::Nonsense("a URL that is none"))
    }

    /// Begins a request with the login.
    pub(super) fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, ClientError> {
        let (name, value) = self.login.header();
        Ok(self.http.request(method, self.place(path)?).header(name, value))
    }

    /// Begins a request without a login: its URL is the capability for it.
    pub(super) fn bare(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Asks the control side, and reads the whole answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, ClientError> {
        let mut request = self.request(method, path)?;
        if let Some(body) = body {
            let json = HeaderValue::from_static("application/json");
            request = request.header(CONTENT_TYPE, json).body(body.to_string());
        }
        read(request).await
    }
}

/// Sends a request, and reads the whole answer as JSON.
pub(super) async fn read<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ClientError> {
    let answer = async { Ok::<Bytes, ClientError>(send(request).await?.bytes().await?) };
    let body = timeout(STALL, answer).await.map_err(|_| ClientError::Stalled(STALL))??;
    serde_json::from_slice(&body).map_err(|_| ClientError::Nonsense("its JSON is of another form"))
}

/// Sends a request without a large body. The answer is a success or a redirect.
pub(super) async fn send(request: RequestBuilder) -> Result<Response, ClientError> {
    let response = timeout(STALL, request.send()).await.map_err(|_| ClientError::Stalled(STALL))?;
    accepted(response?).await
}

/// Sends a request with a large body, and reads the whole answer. `taken` counts the bytes that went into the
/// connection; it fails when none does for `patience`.
pub(super) async fn send_counted(
    request: RequestBuilder,
    taken: &AtomicU64,
    patience: Duration,
) -> Result<Bytes, ClientError> {
    let answered = async { accepted(request.send().await?).await?.bytes().await.map_err(ClientError::from) };
    let mut answered = std::pin::pin!(answered);
    let mut before = taken.load(Ordering::Relaxed);
    loop {
        tokio::select! {
            answer = &mut answered => return answer,
            () = sleep(patience) => {}
        }
        let now = taken.load(Ordering::Relaxed);
        if now == before {
            return Err(ClientError::Stalled(patience));
        }
        before = now;
    }
}

/// Makes an error of a refusal.
pub(super) async fn accepted(mut response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        return Ok(response);
    }
    let retry = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    // What cannot be read of the reason is not told.
    while let Ok(Ok(Some(bytes))) = timeout(STALL, response.chunk()).await
        && body.len() < REFUSAL
    {
        body.extend_from_slice(&bytes);
    }
    let told = reason(&body).unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason").to_owned());
    Err(ClientError::Refused { status, told, retry: retry.map(Duration::from_secs) })
}

/// Returns the reason in the body of a refusal: in the words of the native API, of CloudSigma's, or a line of text.
fn reason(body: &[u8]) -> Option<String> {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Array(errors)) => errors.first()?.get("error_message")?.as_str()?.to_owned(),
        Ok(json) => json.get("error")?.get("message")?.as_str()?.to_owned(),
        Err(_) => std::str::from_utf8(body).ok()?.lines().next()?.to_owned(),
    };
    let plain: String = text.trim().chars().filter(|char| !char.is_control()).take(500).collect();
    Some(plain).filter(|text| !text.is_empty())
}

/// Reads the URL of a server, which has no path.
fn base(url: &str) -> Result<Url, ClientError> {
    let url = Url::parse(url).map_err(|_| ClientError::Url)?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    let is_alone = url.query().is_none() && url.fragment().is_none();
    let is_known = ["http", "https"].contains(&url.scheme()) && url.has_host();
    if is_known && is_plain && is_alone { Ok(url) } else { Err(ClientError::Url) }
}

/// Calls what blocks on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_server_is_scheme_and_host() {
        for good in ["http://127.0.0.1:8700", "https://a.example/", "http://[::1]:80"] {
            assert!(base(good).is_ok(), "{good}");
        }
        for bad in ["", "a.example", "ftp://a.example", "http://u:p@a.example", "http://a.example/x", "http://a/?x"] {
            assert!(matches!(base(bad), Err(ClientError::Url)), "{bad}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_each_api() {
        let told = |body: &str| reason(body.as_bytes());
        assert_eq!(told(r#"{"error": {"message": "no room", "field": null}}"#).as_deref(), Some("no room"));
        assert_eq!(told(r#"[{"error_message": "no drive", "error_type": "x"}]"#).as_deref(), Some("no drive"));
        assert_eq!(told("the link is over\n").as_deref(), Some("the link is over"));
        assert_eq!(told("a\u{1b}[2Jb").as_deref(), Some("a[2Jb"));
        assert_eq!(told("{}"), None);
        assert_eq!(told(""), None);
    }
}
