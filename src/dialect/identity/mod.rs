//! OpenStack's Identity API, as far as a client needs it to log in and find the services: version 3, and of version 2.0
//! what old clients ask for.
//!
//! Follows the vendor's reference (<https://docs.openstack.org/api-ref/identity/>) and what the clients send. There is
//! one domain, `default`; a project is a tenant. Where version 3 begins is told by the block storage service, which has
//! a version of that number at the same path.

mod catalog;
mod decode;
mod encode;

use http::Method;

use super::{BodyRule, Endpoint, Guard, Op as AnyOp, Route, Side};

pub(super) use decode::decode;
pub(super) use encode::{encode, fault};

/// The one domain.
const DOMAIN_ID: &str = "default";
const DOMAIN_NAME: &str = "Default";

/// Field of a request or an answer: the token that it is about, where that is not the caller's own.
const SUBJECT: &str = "x-subject-token";

/// The most bytes of a request for a token.
const MAX_JSON: usize = 16 << 10;

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Issue,
    ShowToken,
    Revoke,
    Catalog,
    OwnProjects,
    ProjectsOf,
    Project,
    Users,
    User,
    OldVersion,
    OldIssue,
    OldProjects,
}

/// What the query of each endpoint may hold. With `allow_expired` a service asks for a token that has ended also; none
/// is told of here, and the answer is that there is none.
pub(super) const fn parameters(op: Op) -> &'static [&'static str] {
    match op {
        Op::Issue => &["nocatalog"],
        Op::ShowToken => &["allow_expired", "nocatalog"],
        Op::OwnProjects | Op::ProjectsOf => &["domain_id", "enabled", "is_domain", "name", "parent_id"],
        Op::OldProjects => &["name"],
        Op::Users => &["domain_id", "enabled", "name"],
        _ => &[],
    }
}

/// Whether an unknown path is answered as this API does.
pub(super) fn has_path(path: &str) -> bool {
    ["/v2.0", "/v3/auth", "/v3/projects", "/v3/users"]
        .iter()
        .any(|base| path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

pub(super) static ROUTES: &[Route] = &[
    Route {
        pattern: "/v3/auth/tokens",
        allow: "GET, HEAD, POST, DELETE",
        endpoints: &[
            call(Method::GET, Op::ShowToken, "what a token stands for"),
            open(Method::POST, Op::Issue, "a token for a password or another token"),
            call(Method::DELETE, Op::Revoke, "ends a token"),
        ],
    },
    Route {
        pattern: "/v3/auth/catalog",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, Op::Catalog, "where the services are")],
    },
    Route {
        pattern: "/v3/auth/projects",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, Op::OwnProjects, "the caller's projects")],
    },
    Route {
        pattern: "/v3/projects",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, Op::OwnProjects, "the projects that the caller may see")],
    },
    Route {
        pattern: "/v3/projects/{project}",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, Op::Project, "one project")],
    },
    Route {
        pattern: "/v3/users",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, Op::Users, "the users that the caller may see")],
    },
    Route { pattern: "/v3/users/{user}", allow: "GET, HEAD", endpoints: &[call(Method::GET, Op::User, "one user")] },
    Route {
        pattern: "/v3/users/{user}/projects",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, Op::ProjectsOf, "the projects of a user")],
    },
    Route { pattern: "/v2.0", allow: "GET, HEAD", endpoints: &[open(Method::GET, Op::OldVersion, "version 2.0")] },
    Route {
        pattern: "/v2.0/tokens",
        allow: "POST",
        endpoints: &[open(Method::POST, Op::OldIssue, "a token, by version 2.0")],
    },
    // A client that is told nothing of domains takes the first version 2 that it finds, and that is the one of block
    // storage.
    Route {
        pattern: "/v2/tokens",
        allow: "POST",
        endpoints: &[open(Method::POST, Op::OldIssue, "a token, by version 2.0, beside block storage")],
    },
    Route {
        pattern: "/v2.0/tenants",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, Op::OldProjects, "the caller's projects, by version 2.0")],
    },
];

const fn call(method: Method, op: Op, summary: &'static str) -> Endpoint {
    let (guard, body, side) = (Guard::Token, BodyRule::None, Side::Control);
    Endpoint { method, guard, body, side, summary, op: AnyOp::Identity(op) }
}

const fn open(method: Method, op: Op, summary: &'static str) -> Endpoint {
    let (guard, body, side) = (Guard::Open, BodyRule::Buffered { max: MAX_JSON }, Side::Control);
    Endpoint { method, guard, body, side, summary, op: AnyOp::Identity(op) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_block_storage_are_not_of_this_api() {
        for path in ["/v2.0", "/v2.0/tokens/x", "/v3/auth/tokens", "/v3/auth/OS-FEDERATION", "/v3/users"] {
            assert!(has_path(path), "{path}");
        }
        for path in ["/", "/v3", "/v2", "/v3/0123/volumes", "/v3/authors", "/v2.01"] {
            assert!(!has_path(path), "{path}");
        }
    }
}
