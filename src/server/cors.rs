//! Requests that scripts of other sites make, in a browser that asks first whether they may (the CORS protocol of the
//! Fetch standard). Sites are named by the configuration; none by default.
//!
//! Credentials that a browser adds by itself are not allowed for: scripts send a login of their own.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::body::Body;

/// What a script may send beside what any may.
const ALLOW_HEADERS: &str = "Authorization, X-Auth-Token, Content-Type, Content-Range, Content-Encoding, \
    Content-Digest, Repr-Digest, Want-Repr-Digest, Want-Content-Digest, If-Match, If-None-Match, If-Range, Range, \
    Tus-Resumable, Upload-Length, Upload-Defer-Length, Upload-Metadata, Upload-Offset, Upload-Checksum, \
    Upload-Concat, Upload-Complete, Last-Event-ID, X-HTTP-Method-Override, X-Request-ID, X-Requested-With";
const ALLOW_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// What a script may read beside what any may.
const EXPOSE_HEADERS: &str = "Location, ETag, Accept-Ranges, Content-Range, Content-Disposition, Repr-Digest, \
    Retry-After, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, Upload-Offset, \
    Upload-Length, Upload-Defer-Length, Upload-Metadata, Upload-Expires, Upload-Complete, Upload-Concat, \
    Longshore-Drive, Longshore-Transfer, X-Request-ID";
/// Seconds for which a browser need not ask again.
const MAX_AGE: &str = "600";

/// The sites whose scripts may use this server, by their origins.
#[derive(Clone, Debug, Default)]
pub(super) struct Cors(Vec<String>);

impl Cors {
    /// Those of these origins, as in `https://portal.example.com`.
    pub(super) const fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// The origins.
    pub(super) fn origins(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(String::as_str)
    }

    /// Answers the question that a browser asks first; `None` if the request is none, or of no such site.
    pub(super) fn preflight(&self, head: &Parts) -> Option<Response<Body>> {
        self.origin(&head.headers)?;
        if head.method != Method::OPTIONS || !head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut answer = Response::new(Body::Whole(bytes::Bytes::new()));
        *answer.status_mut() = StatusCode::NO_CONTENT;
        set(answer.headers_mut(), header::ACCESS_CONTROL_ALLOW_METHODS, ALLOW_METHODS);
        set(answer.headers_mut(), header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS);
        set(answer.headers_mut(), header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(answer)
    }

    /// Adds to an answer what lets the script read it.
    pub(super) fn mark(&self, head: &Parts, answer: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        // Caches must not give the answer for one site to another.
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = self.origin(&head.headers) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            set(answer, header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSE_HEADERS);
        }
    }

    /// The origin of the request, if it is one of these. A request has one.
    fn origin<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let origin = origins.next().filter(|_| origins.next().is_none())?;
        self.0.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(origin.as_bytes())).then_some(origin)
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(method: &str, fields: &[(&str, &str)]) -> Parts {
        let request = fields
            .iter()
            .fold(Request::builder().method(method), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn scripts_of_the_named_sites_may_ask_and_read_and_no_others() {
        let cors = Cors::new(vec!["https://portal.example.com".to_owned()]);
        let (ours, theirs) = (("origin", "https://portal.example.com"), ("origin", "https://evil.example"));
        let asks = ("access-control-request-method", "PATCH");
        let preflight = |cors: &Cors, method, fields: &[_]| cors.preflight(&head(method, fields)).is_some();
        assert!(preflight(&cors, "OPTIONS", &[ours, asks]));
        assert!(!preflight(&cors, "OPTIONS", &[theirs, asks]));
        assert!(!preflight(&cors, "OPTIONS", &[ours, theirs, asks]));
        assert!(!preflight(&cors, "OPTIONS", &[asks]));
        assert!(!preflight(&cors, "OPTIONS", &[ours]), "it asks for the options themselves");
        assert!(!preflight(&cors, "PATCH", &[ours, asks]));
        assert!(!preflight(&Cors::default(), "OPTIONS", &[ours, asks]));
        let marked = |cors: &Cors, fields: &[_]| {
            let mut answer = HeaderMap::new();
            cors.mark(&head("GET", fields), &mut answer);
            let text = |name: HeaderName| answer.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            (text(header::ACCESS_CONTROL_ALLOW_ORIGIN), text(header::VARY))
        };
        let told = |origin: &str, vary: &str| (origin.to_owned(), vary.to_owned());
        assert_eq!(marked(&cors, &[ours]), told("https://portal.example.com", "Origin"));
        assert_eq!(marked(&cors, &[theirs]), told("", "Origin"));
        assert_eq!(marked(&Cors::default(), &[ours]), told("", ""));
    }
}
