//! Wire to domain and back: each dialect turns one request into an [`Intent`], and what came of it into a reply.
//!
//! Pure and synchronous. A dialect cannot await, holds no handle and knows no server: it sees a [`Call`], and golden
//! files test it. What a fault looks like on the wire, status number included, stands in one table per dialect.
//!
//! The server matches a path against [`routes`], picks the [`Endpoint`] of the method, obeys its [`Guard`] and its
//! [`BodyRule`], and then calls [`Endpoint::decode`], executes, and calls [`Endpoint::encode`] or [`Endpoint::fault`].

mod cloudsigma;
mod codings;
pub mod conditional;
pub mod digest_fields;
pub mod direct;
#[cfg(test)]
mod golden;
mod hpc_ai;
mod hyper_sh;
mod identity;
mod native;
mod openstack;
mod query;
pub mod ranges;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::domain::{Fault, FaultKind, Intent, Outcome, Principal, VolumeId};

pub use query::percent_decoded;

/// A whole reply: dialects answer control requests from memory.
pub type Reply = http::Response<Bytes>;

/// One request as a dialect sees it.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as it was sent.
    pub path: &'a str,
    /// The parameters that the route's pattern matched, each through [`percent_decoded`].
    pub params: &'a [(&'a str, &'a str)],
    /// The query as it was sent, without its question mark.
    pub query: &'a str,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// How long the body is by its framing; `None` when only its end will tell (chunked, or HTTP/2 without a length).
    ///
    /// The one reader of framing is the server: a dialect that read `Content-Length` again could disagree with it.
    pub length: Option<u64>,
    /// The body; empty where the endpoint's rule is not [`BodyRule::Buffered`].
    pub body: &'a [u8],
    /// Who is calling, once known.
    pub principal: Option<&'a Principal>,
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

/// What the server does with a request's body before it decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// The body means nothing here.
    None,
    /// It is read whole into memory; a larger one is [`FaultKind::TooLarge`].
    Buffered {
        /// The most bytes.
        max: usize,
    },
    /// It is the transfer: left on the socket until the request is admitted.
    Streamed,
}

/// The two sides of the server, which may have a listener each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The data plane.
    Direct,
    /// The metadata side.
    Control,
    /// Of an endpoint: served by both.
    Either,
}

/// How a caller proves who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Not at all.
    Open,
    /// User name and password (RFC 7617), or a token as for [`Self::Token`].
    Basic,
    /// A signature under an access key, or as for [`Self::Basic`].
    Signature,
    /// A signed token in the cookie `AccessToken`, or after `Authorization: Bearer`.
    Cookie,
    /// By the capability in the path.
    Ticket,
    /// A token of the identity service in X-Auth-Token.
    Token,
}

/// A path and what it does for each method.
#[derive(Debug)]
pub struct Route {
    /// The path in `matchit` syntax, without a slash at its end.
    pub pattern: &'static str,
    /// The methods it takes, for an `Allow` field (RFC 9110 section 10.2.1).
    pub allow: &'static str,
    /// One entry per method; `HEAD` is served by the entry of `GET`.
    pub endpoints: &'static [Endpoint],
}

impl Route {
    /// The pattern without and with a slash at its end: real clients send both.
    pub fn spellings(&self) -> [String; 2] {
        [self.pattern.to_owned(), format!("{}/", self.pattern)]
    }

    /// What this path does for a method.
    pub fn endpoint(&self, method: &Method) -> Result<&'static Endpoint, Fault> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.endpoints.iter().find(|endpoint| endpoint.method == *method).ok_or_else(|| {
            let kind = FaultKind::MethodNotAllowed { allow: self.allow };
            Fault::new(kind, format!("this path takes {} only", self.allow))
        })
    }
}

/// One method of one path.
#[derive(Debug)]
pub struct Endpoint {
    /// The method.
    pub method: Method,
    /// How the caller proves who they are.
    pub guard: Guard,
    /// What is done with the body.
    pub body: BodyRule,
    /// Where it is served, when the sides have listeners of their own.
    pub side: Side,
    /// What it does, in a few words.
    pub summary: &'static str,
    op: Op,
}

/// What an endpoint does, in its dialect's own terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    CloudSigma(cloudsigma::Op),
    Hyper(hyper_sh::Op),
    HpcAi(hpc_ai::Op),
    Identity(identity::Op),
    Native(native::Op),
    OpenStack(openstack::Op),
    Direct,
}

impl Endpoint {
    /// The dialect that it speaks.
    pub const fn dialect(&self) -> Dialect {
        match self.op {
            Op::CloudSigma(_) => Dialect::CloudSigma,
            Op::Hyper(_) => Dialect::Hyper,
            Op::HpcAi(_) => Dialect::HpcAi,
            Op::Identity(_) => Dialect::Identity,
            Op::Native(_) => Dialect::Native,
            Op::OpenStack(_) => Dialect::OpenStack,
            Op::Direct => Dialect::Direct,
        }
    }

    /// What its query may hold. It refuses everything else.
    const fn parameters(&self) -> &'static [&'static str] {
        match self.op {
            Op::CloudSigma(op) => cloudsigma::parameters(op),
            Op::Hyper(op) => hyper_sh::parameters(op),
            Op::Identity(op) => identity::parameters(op),
            Op::Native(op) => native::parameters(op),
            Op::OpenStack(op) => openstack::parameters(op),
            Op::HpcAi(_) | Op::Direct => &[],
        }
    }

    /// What the request asks for.
    pub fn decode(&self, call: &Call) -> Result<Intent, Fault> {
        query::check(call.query, self.parameters())?;
        match self.op {
            Op::CloudSigma(op) => cloudsigma::decode(op, call),
            Op::Hyper(op) => hyper_sh::decode(op, call),
            Op::HpcAi(op) => hpc_ai::decode(op, call),
            Op::Identity(op) => identity::decode(op, call),
            Op::Native(op) => native::decode(op, call),
            Op::OpenStack(op) => openstack::decode(op, call),
            Op::Direct => direct::decode(call),
        }
    }

    /// The reply that tells the outcome. An outcome that this endpoint cannot have is our fault, and told as that.
    pub fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Reply {
        let reply = match self.op {
            Op::CloudSigma(op) => cloudsigma::encode(op, call, outcome, places),
            Op::Hyper(op) => hyper_sh::encode(op, outcome, places),
            Op::HpcAi(op) => hpc_ai::encode(op, outcome, places),
            Op::Identity(op) => identity::encode(op, call, outcome, places),
            Op::Native(op) => native::encode(op, call, outcome),
            Op::OpenStack(op) => openstack::encode(op, call, outcome, places),
            // A ticket is answered with bytes, by `direct::answer`.
            Op::Direct => None,
        };
        reply.unwrap_or_else(|| {
            let fault = Fault::internal("an outcome that this endpoint cannot have");
            self.fault(call, &fault, places)
        })
    }

    /// The reply that tells a fault.
    pub fn fault(&self, call: &Call, fault: &Fault, places: &Places) -> Reply {
        self.dialect().fault(call, fault, places)
    }
}

/// The wire formats that are spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// CloudSigma's API, version 2.0.
    CloudSigma,
    /// Hyper.sh's API for volumes.
    Hyper,
    /// HPC-AI's API for storage volumes.
    HpcAi,
    /// OpenStack's Identity API.
    Identity,
    /// Our own.
    Native,
    /// OpenStack Block Storage, versions 1 to 3.
    OpenStack,
    /// The capability URLs that downloads are redirected to, and every path that belongs to no API.
    Direct,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 7] =
        [Self::CloudSigma, Self::Hyper, Self::HpcAi, Self::Identity, Self::Native, Self::OpenStack, Self::Direct];

    /// Whose form an answer takes when no route matched this path.
    pub fn of_path(path: &str) -> Self {
        let lies_in = |base| path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if lies_in(cloudsigma::BASE) {
            Self::CloudSigma
        } else if lies_in(native::BASE) {
            Self::Native
        } else if identity::has_path(path) {
            Self::Identity
        } else if hyper_sh::has_path(path) {
            Self::Hyper
        } else if hpc_ai::BASES.into_iter().any(lies_in) {
            Self::HpcAi
        } else if openstack::has_path(path) {
            Self::OpenStack
        } else {
            Self::Direct
        }
    }

    /// The paths that it serves.
    pub const fn routes(self) -> &'static [Route] {
        match self {
            Self::CloudSigma => cloudsigma::ROUTES,
            Self::Hyper => hyper_sh::ROUTES,
            Self::HpcAi => hpc_ai::ROUTES,
            Self::Identity => identity::ROUTES,
            Self::Native => native::ROUTES,
            Self::OpenStack => openstack::ROUTES,
            Self::Direct => direct::ROUTES,
        }
    }

    /// The reply that tells a fault.
    pub fn fault(self, call: &Call, fault: &Fault, places: &Places) -> Reply {
        let mut reply = match self {
            Self::CloudSigma => cloudsigma::fault(fault),
            Self::Hyper => hyper_sh::fault(fault),
            Self::HpcAi => hpc_ai::fault(fault),
            Self::Identity => identity::fault(fault),
            Self::Native => native::fault(fault),
            Self::OpenStack => openstack::fault(call, fault),
            Self::Direct => direct::fault(fault),
        };
        if fault.kind == FaultKind::Unauthenticated
            && let Some(challenge) = self.challenge(places)
        {
            reply.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        advise(fault.kind, reply.headers_mut());
        reply
    }

    /// How a caller is to prove who they are (RFC 9110 section 11.6.1).
    fn challenge(self, places: &Places) -> Option<HeaderValue> {
        match self {
            Self::CloudSigma | Self::Hyper | Self::Native | Self::Direct => {
                Some(HeaderValue::from_static("Basic realm=\"longshore\", charset=\"UTF-8\""))
            }
            // A browser that is asked for Basic would ask its user for a password, which is of no use there.
            Self::HpcAi => Some(HeaderValue::from_static("Bearer realm=\"longshore\"")),
            // As the middleware of OpenStack's own services does: it names where tokens are had.
            Self::Identity | Self::OpenStack => {
                HeaderValue::try_from(format!("Keystone uri=\"{}/v3\"", places.identity)).ok()
            }
        }
    }
}

/// Every path that is served.
pub fn routes() -> impl Iterator<Item = &'static Route> {
    Dialect::ALL.into_iter().flat_map(Dialect::routes)
}

/// Finds the route of a path that went through [`routed`].
pub fn router() -> matchit::Router<&'static Route> {
    let mut router = matchit::Router::new();
    for route in routes() {
        for spelling in route.spellings() {
            // The table is constant, and every test that looks a route up would fail.
            router.insert(spelling, route).expect("no two routes conflict");
        }
    }
    router
}

/// The path as routes are matched by it: where an API lets a suffix of the path name a format, without that.
pub fn routed(path: &str) -> &str {
    openstack::without_suffix(path).0
}

/// The header fields, beside our own, in which a reply names its request as clients of the path's API look for it.
/// The value is `req-` and a UUID.
pub fn request_id_fields(path: &str) -> &'static [&'static str] {
    match Dialect::of_path(path) {
        Dialect::OpenStack => openstack::request_id_fields(path),
        Dialect::CloudSigma
        | Dialect::Hyper
        | Dialect::HpcAi
        | Dialect::Identity
        | Dialect::Native
        | Dialect::Direct => &[],
    }
}

/// The fault of a path that no route matches; [`Dialect::of_path`] says whose form it takes.
pub fn no_route() -> Fault {
    Fault::new(FaultKind::NotFound, "there is nothing at this path")
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

    use super::*;
    use crate::domain::{Listing, Page, Secret};

    #[test]
    fn every_route_allows_exactly_the_methods_it_serves() {
        for route in routes() {
            let mut served: Vec<&str> = route.endpoints.iter().map(|endpoint| endpoint.method.as_str()).collect();
            if let Some(at) = served.iter().position(|method| *method == "GET") {
                served.insert(at + 1, "HEAD");
            }
            assert_eq!(route.allow, served.join(", "), "{}", route.pattern);
        }
    }

    #[test]
    fn a_method_that_a_path_does_not_take_is_told_which_it_does() {
        let upload = &cloudsigma::ROUTES[0];
        let fault = upload.endpoint(&Method::GET).expect_err("uploads have no GET");
        assert_eq!(fault.kind, FaultKind::MethodNotAllowed { allow: "POST, PUT" });
    }

    #[test]
    fn no_endpoint_passes_over_a_parameter() {
        let headers = HeaderMap::new();
        for endpoint in endpoints() {
            let name = "no_such";
            let call = call(&endpoint.method, &headers, &[], "no_such=1", b"");
            let fault = endpoint.decode(&call).expect_err(endpoint.summary);
            assert_eq!(fault.point.as_deref(), Some(name), "{}", endpoint.summary);
            for name in endpoint.parameters().iter().filter(|name| !["fields", "sort_dir", "sort_key"].contains(name)) {
                let query = format!("{name}=1&{name}=1");
                let fault = endpoint.decode(&Call { query: &query, ..call }).expect_err(endpoint.summary);
                assert_eq!(fault.point.as_deref(), Some(*name), "{}", endpoint.summary);
            }
        }
    }

    #[test]
    fn an_outcome_that_an_endpoint_cannot_have_is_our_fault() {
        let headers = HeaderMap::new();
        let call = call(&Method::GET, &headers, &[], "", b"");
        let outcome = Outcome::Described(golden::limits());
        for endpoint in endpoints().filter(|endpoint| !endpoint.summary.contains("this server")) {
            let reply = endpoint.encode(&call, &outcome, &golden::relative_places());
            assert_eq!(reply.status(), StatusCode::INTERNAL_SERVER_ERROR, "{}", endpoint.summary);
        }
    }

    #[test]
    fn an_unknown_path_is_answered_in_the_form_of_the_api_it_lies_in() {
        assert_eq!(Dialect::of_path("/api/2.0"), Dialect::CloudSigma);
        assert_eq!(Dialect::of_path("/api/2.0/servers/"), Dialect::CloudSigma);
        assert_eq!(Dialect::of_path("/api/2.01/"), Dialect::Direct);
        assert_eq!(Dialect::of_path("/volumes/x/y"), Dialect::Hyper);
        assert_eq!(Dialect::of_path("/v1.23/volumes"), Dialect::Hyper);
        assert_eq!(Dialect::of_path("/v1/volumes"), Dialect::OpenStack);
        assert_eq!(Dialect::of_path("/v4/volumes"), Dialect::Direct);
        assert_eq!(Dialect::of_path("/api/storage/volume/x"), Dialect::HpcAi);
        assert_eq!(Dialect::of_path("/api/user"), Dialect::HpcAi);
        assert_eq!(Dialect::of_path("/api/users"), Dialect::Direct);
        assert_eq!(Dialect::of_path("/api/v1/x"), Dialect::Native);
        assert_eq!(Dialect::of_path("/v3/auth/x"), Dialect::Identity);
        assert_eq!(Dialect::of_path("/"), Dialect::Direct);
    }
    fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
        routes().flat_map(|route| route.endpoints)
    }

    fn call<'a>(
        method: &'a Method,
        headers: &'a HeaderMap,
        params: &'a [(&'a str, &'a str)],
        query: &'a str,
        body: &'a [u8],
    ) -> Call<'a> {
        let length = Some(body.len() as u64);
        Call { method, path: "/", params, query, headers, length, body, principal: None }
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
            fields in prop::collection::vec((0..6_usize, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            body in body(),
        ) {
            let names = [
                header::CONTENT_TYPE,
                header::RANGE,
                header::IF_NONE_MATCH,
                digest_fields::REPR_DIGEST,
                digest_fields::CONTENT_DIGEST,
                header::CONTENT_ENCODING,
            ];
            let headers: HeaderMap = fields
                .into_iter()
                .filter_map(|(at, value)| Some((names[at].clone(), HeaderValue::from_bytes(&value).ok()?)))
                .collect();
            let method: Method = method.parse().unwrap();
            let params = [("uuid", id.as_str()), ("file_name", name.as_str()), ("token", name.as_str())];
            let call = call(&method, &headers, &params, &query, &body);
            let drive = golden::drive();
            let page = Page { limit: None, offset: 0 };
            let outcomes = [
                Outcome::Listing(Listing { drives: vec![drive.clone()], rest: Vec::new(), page, total: 1 }),
                Outcome::Drive(drive.clone().into()),
                Outcome::Created(vec![drive.clone()]),
                Outcome::Download { id: drive.id, token: Secret::new(name.clone()) },
                Outcome::Uploaded { id: drive.id, sha256: drive.sha256 },
            ];
            for endpoint in endpoints() {
                if let Err(fault) = endpoint.decode(&call) {
                    let reply = endpoint.fault(&call, &fault, &golden::relative_places());
                    prop_assert!(reply.status().is_client_error());
                }
                for outcome in &outcomes {
                    let reply = endpoint.encode(&call, outcome, &golden::relative_places());
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
