//! From a request's head to the endpoint that it is for: the one way, for the server and for whoever tests or measures
//! what it would do.

use std::borrow::Cow;
use std::sync::LazyLock;

use http::{HeaderMap, Method};

use super::{
    Call, Dialect, Endpoint, Route, cloudsigma, direct, hpc_ai, hyper_sh, identity, native, openstack, operational,
    query, ticket,
};
use crate::domain::{Fault, FaultKind};

/// Every dialect, in the order in which they are asked whether an unknown path lies in theirs. The last takes all.
pub(super) static DIALECTS: [&Dialect; 9] = [
    &cloudsigma::DIALECT,
    &native::DIALECT,
    &identity::DIALECT,
    &hyper_sh::DIALECT,
    &hpc_ai::DIALECT,
    &openstack::DIALECT,
    &operational::DIALECT,
    &ticket::DIALECT,
    &direct::DIALECT,
];

/// The table of routes, which never changes.
static ROUTER: LazyLock<matchit::Router<(&'static Dialect, &'static Route)>> = LazyLock::new(|| {
    let mut router = matchit::Router::new();
    for (dialect, route) in routes() {
        for spelling in route.spellings() {
            // Every test that looks a route up would fail.
            router.insert(spelling, (dialect, route)).expect("no two routes conflict");
        }
    }
    router
});

/// Every path that is served.
pub(super) fn routes() -> impl Iterator<Item = (&'static Dialect, &'static Route)> {
    DIALECTS.into_iter().flat_map(|dialect| dialect.routes.iter().map(move |route| (dialect, route)))
}

/// What a request's head says that it is for.
#[derive(Debug)]
pub struct Resolved<'a> {
    /// The request.
    pub call: Call<'a>,
    /// The dialect in which it is answered, also when it is refused.
    pub dialect: &'static Dialect,
    /// The pattern that matched, or `none`: unlike the path it holds no capability.
    pub route: &'static str,
    /// The endpoint; or the fault that there is none at the path, or none for the method.
    pub endpoint: Result<&'static Endpoint, Fault>,
}

/// Finds out what a request is for. `length` is that of its body; see [`Call::length`].
pub fn resolve<'a>(
    method: &'a Method,
    path: &'a str,
    query: &'a str,
    headers: &'a HeaderMap,
    length: Option<u64>,
) -> Resolved<'a> {
    let method = ticket::method_of(method, path, headers);
    let call = |params| Call { method, path, params, query, headers, length };
    // Where an API lets a suffix of the path name a format, the path is matched without it.
    match ROUTER.at(openstack::without_suffix(path).0) {
        Ok(matched) => {
            let (dialect, route) = *matched.value;
            let params = matched.params.iter().map(|(name, value)| (name, query::percent_decoded(value))).collect();
            Resolved { call: call(params), dialect, route: route.pattern, endpoint: route.endpoint(method, headers) }
        }
        Err(_) => Resolved {
            call: call(Vec::new()),
            dialect: dialect_of(path),
            route: "none",
            endpoint: Err(Fault::new(FaultKind::NotFound, "no such path")),
        },
    }
}

/// In whose form a path is answered that no route matches.
fn dialect_of(path: &str) -> &'static Dialect {
    DIALECTS.into_iter().find(|dialect| (dialect.has_path)(path)).unwrap_or(&direct::DIALECT)
}

/// The parameters that a path matched, each with its percent-encoding undone.
pub(super) type Params<'a> = Vec<(&'static str, Cow<'a, str>)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_path_is_answered_in_the_form_of_the_api_it_lies_in() {
        for (path, name) in [
            ("/api/2.0", "cloudsigma"),
            ("/api/2.0/servers/", "cloudsigma"),
            ("/api/2.01/", "direct"),
            ("/volumes/x/y", "hyper"),
            ("/v1.23/volumes", "hyper"),
            ("/v1/volumes", "openstack"),
            ("/v4/volumes", "direct"),
            ("/api/storage/volume/x", "hpc_ai"),
            ("/api/user", "hpc_ai"),
            ("/api/users", "direct"),
            ("/api/v1/x", "native"),
            ("/v3/auth/x", "identity"),
            ("/x", "ticket"),
            ("/xy", "direct"),
            ("/healthz/x", "direct"),
            ("/", "direct"),
        ] {
            assert_eq!(dialect_of(path).name, name, "{path}");
        }
    }

    #[test]
    fn a_path_is_resolved_with_its_parameters_and_a_method_to_its_endpoint() {
        let headers = HeaderMap::new();
        let resolved = |method, path| resolve(method, path, "", &headers, None);
        let download = resolved(&Method::HEAD, "/api/2.0/drives/a%20b/download/");
        assert_eq!((download.route, download.call.param("uuid")), ("/api/2.0/drives/{uuid}/download", "a b"));
        assert!(download.endpoint.is_ok());
        let fault = resolved(&Method::GET, "/api/2.0/drives/upload").endpoint.expect_err("uploads have no GET");
        assert_eq!(fault.kind, FaultKind::MethodNotAllowed { allow: "POST, PUT, OPTIONS" });
        let unknown = resolved(&Method::GET, "/v3/auth/x");
        assert_eq!((unknown.route, unknown.dialect.name), ("none", "identity"));
        assert_eq!(unknown.endpoint.expect_err("it is unknown").kind, FaultKind::NotFound);
        // The dialect of a route is told by the route, whatever others begin with.
        assert_eq!(resolved(&Method::GET, "/").dialect.name, "openstack");
        assert_eq!(resolved(&Method::POST, "/v2/tokens").dialect.name, "identity");
    }
}
