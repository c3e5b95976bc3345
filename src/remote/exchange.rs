//! One request and its answer, over HTTP/1.1 on a connection of their own.
//!
//! # Invariants
//! - Every hop of a redirect is checked as if the user had named it.
//! - A body is counted against the policy, and its declared length is checked before it is read.
//!
//! # Cancellation
//! The connection lives in the answer, and no task drives it: dropping the answer closes it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, LOCATION, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::dial::{Stream, within};
use super::error::{BadUrl, Flaw, Refusal, RemoteError, Surplus};
use super::{Remote, Scheme, location};

/// The most bytes of a head, and of a body read ahead.
const BUFFER: usize = 64 << 10;

/// The most header fields of an answer.
const FIELDS: usize = 100;

const AGENT: HeaderValue = HeaderValue::from_static("longshore");

type Running = Pin<Box<Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>>>;

/// The bounds of an exchange.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// The most bytes of the body.
    pub(super) most: u64,
    /// The time at which the whole exchange must be done.
    pub(super) deadline: Instant,
}

/// The head of an answer, and its body, which is read later.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Remote {
    /// Gets a URL, follows redirects, and returns the last URL with its answer, which is a 200.
    pub(super) async fn get(
        &self,
        mut url: Url,
        headers: &HeaderMap,
        bounds: Bounds,
    ) -> Result<(Url, Answer), RemoteError> {
        for _ in 0..=self.policy.redirects {
            let answer = self.ask(&Method::GET, &url, headers, Bytes::new(), bounds).await?;
            if answer.status == StatusCode::OK {
                return Ok((url, answer));
            }
            url = location::redirected(&url, answer.location()?)?;
        }
        Err(Refusal::Redirects.into())
    }

    /// Posts a body to a URL without following redirects. The answer is a 200.
    pub(super) async fn post(
        &self,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Answer, RemoteError> {
        let answer = self.ask(&Method::POST, url, headers, body, bounds).await?;
        if answer.status == StatusCode::OK { Ok(answer) } else { Err(RemoteError::Status(answer.status)) }
    }

    /// Sends a request. The answer may have any status.
    pub(super) async fn ask(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Answer, RemoteError> {
        let asked = self.exchange(method, url, headers, body, bounds);
        timeout_at(bounds.deadline, asked).await.map_err(|_| RemoteError::TooSlow(self.policy.time))?
    }

    async fn exchange(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Answer, RemoteError> {
        let policy = &self.policy;
        let (scheme, host, port) = location::parts(url)?;
        let stream = self.dialer.dial(policy, scheme, &host, port).await?;
        let stream: Box<dyn Stream> = match scheme {
            Scheme::Http => Box::new(stream),
            Scheme::Https => Box::new(self.dialer.secure(policy, &host, stream).await?),
            Scheme::Git => return Err(Refusal::Scheme.into()),
        };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .max_headers(FIELDS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(RemoteError::Http)?;
        let mut connection = Driven(Some(Box::pin(connection)));
        let mut response = pin!(sender.send_request(request(method, url, headers, body)?));
        let answered = poll_fn(|cx| {
            connection.drive(cx);
            response.as_mut().poll(cx)
        });
        let (head, incoming) = within(policy.stall, answered).await?.map_err(RemoteError::Http)?.into_parts();
        let mut answer = Answer {
            status: head.status,
            headers: head.headers,
            body: Body { length: None, seen: 0, bounds, stall: policy.stall, time: policy.time, connection, incoming },
        };
        if answer.status.is_success() {
            answer.measure()?;
        }
        Ok(answer)
    }
}

impl Answer {
    /// Returns the target of a redirect.
    fn location(&self) -> Result<&str, RemoteError> {
        match self.status.as_u16() {
            301 | 302 | 303 | 307 | 308 => self
                .headers
                .get(LOCATION)
                .and_then(|location| location.to_str().ok())
                .ok_or_else(|| Refusal::Redirect.into()),
            _ => Err(RemoteError::Status(self.status)),
        }
    }

    /// Checks the header fields that describe the body.
    fn measure(&mut self) -> Result<(), RemoteError> {
        let is_identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        if !self.headers.get_all(CONTENT_ENCODING).iter().all(is_identity) {
            return Err(Flaw::Encoded.into());
        }
        let mut codings = self.headers.get_all(TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            // hyper reads the body of an answer with another coding as raw bytes to the end of the connection.
            let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            if !is_chunked || self.headers.contains_key(CONTENT_LENGTH) {
                return Err(Flaw::Framing.into());
            }
            return Ok(());
        }
        self.body.length = self.body.incoming.size_hint().exact();
        match self.body.length {
            Some(length) if length > self.body.bounds.most => Err(Surplus::Bytes(self.body.bounds.most).into()),
            _ => Ok(()),
        }
    }

    /// Whether the end of the body differs from a cut connection.
    pub(super) fn is_bounded(&self) -> bool {
        self.body.length.is_some() || self.headers.contains_key(TRANSFER_ENCODING)
    }
}

/// A body that is being read.
pub(super) struct Body {
    length: Option<u64>,
    seen: u64,
    bounds: Bounds,
    stall: Duration,
    time: Duration,
    connection: Driven,
    incoming: Incoming,
}

impl Body {
    pub(super) const fn length(&self) -> Option<u64> {
        self.length
    }

    /// Returns the next bytes, at least one; `None` at the proper end. Dropping this future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        loop {
            let frame = poll_fn(|cx| {
                self.connection.drive(cx);
                Pin::new(&mut self.incoming).poll_frame(cx)
            });
            let frame = match timeout_at(self.bounds.deadline, within(self.stall, frame)).await {
                Ok(frame) => frame?,
                Err(_) => return Err(RemoteError::TooSlow(self.time)),
            };
            let Some(frame) = frame else {
                return match self.length {
                    Some(length) if length != self.seen => Err(RemoteError::BrokeOff(None)),
                    _ => Ok(None),
                };
            };
            let frame = frame.map_err(|error| RemoteError::BrokeOff(Some(error.into())))?;
            // Trailers are ignored.
            let Ok(bytes) = frame.into_data() else { continue };
            if bytes.is_empty() {
                continue;
            }
            self.seen += bytes.len() as u64;
            if self.seen > self.bounds.most {
                return Err(Surplus::Bytes(self.bounds.most).into());
            }
            return Ok(Some(bytes));
        }
    }
}

/// A connection that is polled only while the answer or its body is awaited.
struct Driven(Option<Running>);

impl Driven {
    /// Polls the connection. Its errors are also returned by the answer and the body.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.0
            && let Poll::Ready(_) = connection.as_mut().poll(cx)
        {
            self.0 = None;
        }
    }
}

fn request(method: &Method, url: &Url, headers: &HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, RemoteError> {
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err(BadUrl::Host.into()),
    };
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.clone();
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| BadUrl::Syntax)?;
    let fields = request.headers_mut();
    fields.insert(HOST, host.parse().map_err(|_| BadUrl::Host)?);
    fields.insert(USER_AGENT, AGENT);
    fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
    fields.extend(headers.clone());
    Ok(request)
}
