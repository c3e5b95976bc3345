//! Wire to domain and back: each dialect turns one request into an [`Intent`], and what came of it into a reply.
//!
//! Pure and synchronous. A dialect cannot await, holds no handle and knows no server: it sees a [`Call`], and golden
//! files test it. What a fault looks like on the wire, status number included, stands in one table per dialect.
//!
//! [`resolve()`] finds the [`Endpoint`] of a request's head. Its [`Entry`] says what must be had before it decodes: a
//! caller, a body in memory, a body on the socket. The operation takes exactly that, so that nothing can be decoded
//! without. What is decoded is executed, and [`Answer::encode`] or [`Dialect::fault`] tells how it ended.
//!
//! A dialect is a folder with its [`Dialect`] and its routes, `decode`, `encode`, `fault` and fixtures, and one line
//! in the list in `resolve.rs`.

#![expect(clippy::trivially_copy_pass_by_ref, reason = "the table of routes refers to operations of every dialect")]

pub mod checks;
mod cloudsigma;
mod codings;
pub mod conditional;
pub mod digest_fields;
pub mod direct;
mod endpoint;
pub mod form;
#[cfg(test)]
mod golden;
mod hpc_ai;
mod hyper_sh;
mod identity;
mod imageio;
mod intent;
mod media;
mod native;
mod openstack;
mod operational;
mod query;
pub mod ranges;
mod resolve;
mod resumable;
mod ticket;

use std::fmt;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::domain::{Fault, FaultKind, Guard, VolumeId};
use endpoint::{KnownOperation, OpenOperation, Operation};
use resolve::Params;

pub use endpoint::{Answer, ByForm, ByHead, Endpoint, Entry, ForAnyone, ForKnown, Route, Side, too_large};
pub use intent::{Anonymous, Intent, Work};
pub use operational::{Probe, Report};
pub use resolve::{Resolved, resolve};
pub use resumable::Meanwhile;

/// A whole reply: dialects answer control requests from memory.
pub type Reply = http::Response<Bytes>;

/// The head of one request, as a dialect sees it.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as it was sent.
    pub path: &'a str,
    /// The parameters that the route's pattern matched.
    params: Params<'a>,
    /// The query as it was sent, without its question mark.
    pub query: &'a str,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// How long the body is by its framing; `None` when only its end will tell (chunked, or HTTP/2 without a length).
    ///
    /// The one reader of framing is the server: a dialect that read `Content-Length` again could disagree with it.
    pub length: Option<u64>,
}

impl Call<'_> {
    /// A matched parameter; empty when the route has none of this name.
    fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    /// The volume that the path names.
    fn volume_id(&self) -> Result<VolumeId, Fault> {
        let no_such = |_| Fault::new(FaultKind::NotFound, "there is no such drive");
        self.param("uuid").parse().map_err(no_such)
    }
}

/// Where this server is, for URLs in replies. Never taken from a request: its Host may be forged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The base of the control side, as in `http://127.0.0.1:8700`, without a slash at its end.
    pub control: String,
    /// Whether a redirect to the control side is a path only: true when no public URL is configured for it.
    pub control_relative: bool,
    /// The base of the side that moves bytes.
    pub direct: String,
    /// Whether a redirect to the direct side is a path only: true when it shares the control side's listener and no
    /// public URL is configured for it.
    pub direct_relative: bool,
    /// The base of the identity service: the control side, or one elsewhere.
    pub identity: String,
}

impl Places {
    fn control_location(&self, path: &str) -> String {
        if self.control_relative { path.to_owned() } else { format!("{}{path}", self.control) }
    }

    fn direct_location(&self, path: &str) -> String {
        if self.direct_relative { path.to_owned() } else { format!("{}{path}", self.direct) }
    }
}

/// A wire format that is spoken here.
pub struct Dialect {
    /// What it is called; the folder of its fixtures.
    pub name: &'static str,
    /// The paths that it serves.
    routes: &'static [Route],
    /// Whether a path that no route matches is answered by it.
    has_path: fn(&str) -> bool,
    /// The reply that tells a fault, but for what every dialect tells alike.
    fault: fn(&Call, &Fault) -> Reply,
    /// How a caller is to prove who they are (RFC 9110 section 11.6.1).
    challenge: fn(&Places) -> Option<HeaderValue>,
    /// See [`Self::request_id_fields`].
    request_id_fields: fn(&str) -> &'static [&'static str],
}

impl Dialect {
    /// The reply that tells a fault.
    pub fn fault(&self, call: &Call, fault: &Fault, places: &Places) -> Reply {
        let mut reply = (self.fault)(call, fault);
        if fault.kind == FaultKind::Unauthenticated
            && let Some(challenge) = (self.challenge)(places)
        {
            reply.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        advise(fault.kind, reply.headers_mut());
        reply
    }

    /// The header fields, beside our own, in which a reply at this path names its request as clients look for it. The
    /// value is `req-` and a UUID.
    pub fn request_id_fields(&self, path: &str) -> &'static [&'static str] {
        (self.request_id_fields)(path)
    }
}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Whether a path is this one, or lies beneath it.
fn lies_in(path: &str, base: &str) -> bool {
    path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The challenge for a user name and password.
#[expect(clippy::unnecessary_wraps, reason = "a challenge may name a place that no field can hold")]
fn basic(_: &Places) -> Option<HeaderValue> {
    Some(HeaderValue::from_static("Basic realm=\"longshore\", charset=\"UTF-8\""))
}

/// The challenge of OpenStack's services, as the middleware of these has it: it names where tokens are had.
fn keystone(places: &Places) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("Keystone uri=\"{}/v3\"", places.identity)).ok()
}

/// Seconds after which to come back when the server is full or stops: time for a restart, or for some transfer to end.
const RETRY_UNAVAILABLE: u32 = 5;

/// Adds the fields that tell a client what to do about a fault; they are the same in every dialect.
fn advise(kind: FaultKind, headers: &mut HeaderMap) {
    let (name, value): (HeaderName, HeaderValue) = match kind {
        FaultKind::Throttled { retry_after } => (header::RETRY_AFTER, retry_after.into()),
        FaultKind::Unavailable => (header::RETRY_AFTER, RETRY_UNAVAILABLE.into()),
        FaultKind::MethodNotAllowed { allow } => (header::ALLOW, HeaderValue::from_static(allow)),
        FaultKind::RangeNotSatisfiable { size } => match HeaderValue::try_from(format!("bytes */{size}")) {
            Ok(value) => (header::CONTENT_RANGE, value),
            Err(_) => return,
        },
        FaultKind::Invalid
        | FaultKind::BadFraming
        | FaultKind::Empty
        // What it is answered with depends on the dialect.
        | FaultKind::Unauthenticated
        | FaultKind::TicketRefused
        | FaultKind::Forbidden
        | FaultKind::NotFound
        | FaultKind::Conflict
        | FaultKind::Gone
        | FaultKind::NotAcceptable
        | FaultKind::UnsupportedMediaType
        | FaultKind::TooLarge
        | FaultKind::QuotaExceeded
        | FaultKind::NoSpace
        | FaultKind::DigestMismatch
        | FaultKind::BodyIncomplete
        | FaultKind::PeerTooSlow
        | FaultKind::Cancelled
        | FaultKind::Upstream
        | FaultKind::Corrupt
        | FaultKind::Internal => return,
    };
    // A dialect may have said it in its own way.
    headers.entry(name).or_insert(value);
}

/// A reply with a body.
fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Reply::new(body.into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// A reply without a body.
fn bare(status: StatusCode) -> Reply {
    let mut reply = Reply::new(Bytes::new());
    *reply.status_mut() = status;
    reply
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::resolve::routes;
    use super::*;
    use crate::domain::{Listing, Outcome, Page, Secret, TransferState};

    #[test]
    fn every_route_allows_exactly_the_methods_it_serves() {
        for (_, route) in routes() {
            let mut served: Vec<&str> = route.endpoints.iter().map(|endpoint| endpoint.method.as_str()).collect();
            // Those of one method for several media types.
            served.dedup();
            if let Some(at) = served.iter().position(|method| *method == "GET") {
                served.insert(at + 1, "HEAD");
            }
            assert_eq!(route.allow, served.join(", "), "{}", route.pattern);
        }
    }

    #[test]
    fn no_endpoint_passes_over_a_parameter() {
        let (headers, caller) = (HeaderMap::new(), openstack::fixture_principal(false));
        for endpoint in endpoints() {
            let Some(parameters) = endpoint.parameters() else { continue };
            let point = |query: &str| {
                let call = call(&endpoint.method, &headers, Vec::new(), query, 0);
                endpoint.decode(&call, &caller, b"").expect_err(endpoint.summary).point
            };
            assert_eq!(point("no_such=1").as_deref(), Some("no_such"), "{}", endpoint.summary);
            for name in parameters.iter().filter(|name| !["fields", "sort_dir", "sort_key"].contains(name)) {
                let twice = format!("{name}=1&{name}=1");
                assert_eq!(point(&twice).as_deref(), Some(*name), "{}", endpoint.summary);
            }
        }
    }

    #[test]
    fn an_outcome_that_an_endpoint_cannot_have_is_our_fault() {
        let headers = HeaderMap::new();
        let call = call(&Method::GET, &headers, Vec::new(), "", 0);
        let outcome = Outcome::Described(golden::limits());
        for endpoint in endpoints().filter(|endpoint| !endpoint.summary.contains("this server")) {
            let reply = endpoint.answer().encode(&call, &outcome, &golden::relative_places());
            assert_eq!(reply.expect_err(endpoint.summary).kind, FaultKind::Internal);
        }
    }

    fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
        routes().flat_map(|(_, route)| route.endpoints)
    }

    fn call<'a>(
        method: &'a Method,
        headers: &'a HeaderMap,
        params: Params<'a>,
        query: &'a str,
        length: u64,
    ) -> Call<'a> {
        Call { method, path: "/", params, query, headers, length: Some(length) }
    }

    /// Bodies that look like what is meant, so that the deeper checks are reached too.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            "disk|cdrom|[0-9]{1,20}(\\.0)?|.{0,8}".prop_map(Value::from),
            Just(Value::from("01938c2e-7d10-7a42-9b51-3f0c5d2e8a77")),
        ];
        let key = "objects|name|size|media|meta|tags|affinities|allow_multimount|storage_type|uuid|.{0,3}";
        let json = scalar.prop_recursive(3, 24, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        prop_oneof![json.prop_map(|json| json.to_string().into_bytes()), any::<Vec<u8>>()]
    }

    proptest! {
        #[test]
        fn no_request_panics_and_every_reply_is_whole(
            method in "GET|HEAD|POST|PUT|DELETE|[A-Z]{1,9}",
            id in "01938c2e-7d10-7a42-9b51-3f0c5d2e8a77|.{0,40}",
            name in ".{0,300}",
            query in "((do|limit|offset|fields|name|status|media|size__gt|.{0,4})=(clone|resize|[0-9]{1,12}|.{0,9})&?){0,4}",
            fields in prop::collection::vec((0..9_usize, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            body in body(),
        ) {
            let names = [
                header::CONTENT_TYPE,
                header::RANGE,
                header::IF_NONE_MATCH,
                digest_fields::REPR_DIGEST,
                digest_fields::CONTENT_DIGEST,
                header::CONTENT_ENCODING,
                header::CONTENT_RANGE,
                HeaderName::from_static("upload-offset"),
                HeaderName::from_static("upload-complete"),
            ];
            let headers: HeaderMap = fields
                .into_iter()
                .filter_map(|(at, value)| Some((names[at].clone(), HeaderValue::from_bytes(&value).ok()?)))
                .collect();
            let method: Method = method.parse().unwrap();
            let params = [("uuid", &id), ("file_name", &name), ("token", &name)];
            let params = params.into_iter().map(|(key, value)| (key, value.into())).collect();
            let call = call(&method, &headers, params, &query, body.len() as u64);
            let caller = openstack::fixture_principal(false);
            let drive = golden::drive();
            let page = Page { limit: None, offset: 0 };
            let outcomes = [
                Outcome::Listing(Listing { volumes: vec![drive.clone()], rest: Vec::new(), page, total: 1 }),
                Outcome::Volume(Box::new(drive.clone().into())),
                Outcome::Created(vec![drive.clone()]),
                Outcome::Download { id: drive.id, token: Secret::new(name.clone()) },
                Outcome::Uploaded { id: drive.id, digests: drive.digests },
                Outcome::Transfer(Box::new(golden::transfer(TransferState::Open, drive.size))),
            ];
            for (dialect, endpoint) in routes().flat_map(|(dialect, route)| route.endpoints.iter().map(move |one| (dialect, one))) {
                let answer = match endpoint.decode(&call, &caller, &body) {
                    Ok((_, answer)) => answer,
                    Err(fault) => {
                        let reply = dialect.fault(&call, &fault, &golden::relative_places());
                        prop_assert!(reply.status().is_client_error());
                        endpoint.answer()
                    }
                };
                for outcome in &outcomes {
                    let reply = answer.encode(&call, outcome, &golden::relative_places());
                    let Ok(reply) = reply else { continue };
                    let is_json = reply.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
                        value.as_bytes().starts_with(b"application/json")
                    });
                    prop_assert!(!is_json || serde_json::from_slice::<Value>(reply.body()).is_ok());
                }
            }
            let answer = direct::answer(&call, &drive, (drive.created, None), "b");
            prop_assert!(method != Method::HEAD || answer.body().iter().all(|chunk| matches!(chunk, direct::Chunk::Framing(_))));
        }
    }
}
