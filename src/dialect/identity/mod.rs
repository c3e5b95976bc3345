//! OpenStack's Identity API, as far as a client needs it to log in and find the services: version 3, and of version 2.0
//! what old clients ask for. Roles, the domain, the region, services and endpoints are only listed and shown.
//!
//! Follows the vendor's reference (<https://docs.openstack.org/api-ref/identity/>) and what the clients send. There is
//! one domain, `default`; a project is a tenant. Where version 3 begins is told by the block storage service, which has
//! a version of that number at the same path.

mod catalog;
mod decode;
mod encode;
mod records;

use http::Method;

use self::records::Kind;
use super::{
    Anonymous, Answer, Call, Dialect, Endpoint, Entry, ForAnyone, ForKnown, Guard, KnownOperation, OpenOperation,
    Operation, Places, Reply, Route, Side, Work, keystone, lies_in,
};
use crate::domain::{Fault, Outcome, Principal};

pub(super) static DIALECT: Dialect = Dialect {
    name: "identity",
    routes: ROUTES,
    has_path,
    fault: encode::fault,
    challenge: keystone,
    request_id_fields: |_| &[],
};

/// The one domain.
const DOMAIN_ID: &str = "default";
const DOMAIN_NAME: &str = "Default";

/// Field of a request or an answer: the token that it is about, where that is not the caller's own.
const SUBJECT: &str = "x-subject-token";

/// The most bytes of a request for a token.
const MAX_JSON: usize = 16 << 10;

/// What an endpoint of known callers does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    ShowToken,
    Revoke,
    Catalog,
    OwnProjects,
    ProjectsOf,
    Project,
    Users,
    User,
    Records(Kind),
    Record(Kind),
    OldProjects,
}

/// What an endpoint does that is open to anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenOp {
    Issue,
    OldVersion,
    OldIssue,
}

impl Operation for Op {
    /// With `allow_expired` a service asks for a token that has ended also; none is told of here, and the answer is
    /// that there is none.
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::ShowToken => &["allow_expired", "nocatalog"],
            Self::OwnProjects | Self::ProjectsOf => &["domain_id", "enabled", "is_domain", "name", "parent_id"],
            Self::OldProjects => &["name"],
            Self::Users => &["domain_id", "enabled", "name"],
            Self::Records(kind) => kind.filters(),
            Self::Revoke | Self::Catalog | Self::Project | Self::User | Self::Record(_) => &[],
        }
    }

    fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        let Outcome::Identity(outcome) = outcome else { return None };
        encode::encode(*self, call, outcome, &places.control)
    }
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, _: &Principal, _: &[u8]) -> Result<(Work, Answer), Fault> {
        let is_short = *self == Self::ShowToken && decode::wants_no_catalog(call);
        let answer = if is_short { Answer::of(&Short::Shown) } else { Answer::of(self) };
        Ok((Work::Identity(decode::decode(*self, call)?), answer))
    }
}

/// A token that is told without the catalogue of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Short {
    Shown,
    Issued,
}

impl Operation for Short {
    fn encode(&self, call: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        let Outcome::Identity(outcome) = outcome else { return None };
        encode::encode_short(*self, call, outcome)
    }
}

impl Operation for OpenOp {
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::Issue => &["nocatalog"],
            Self::OldVersion | Self::OldIssue => &[],
        }
    }

    fn encode(&self, _: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        let Outcome::Identity(outcome) = outcome else { return None };
        encode::encode_open(*self, outcome, &places.control)
    }
}

impl OpenOperation for OpenOp {
    fn decode(&'static self, call: &Call, body: &[u8]) -> Result<(Anonymous, Answer), Fault> {
        let is_short = *self == Self::Issue && decode::wants_no_catalog(call);
        let answer = if is_short { Answer::of(&Short::Issued) } else { Answer::of(self) };
        Ok((Anonymous::Identity(decode::decode_open(*self, body)?), answer))
    }
}

const PATHS: [&str; 10] = [
    "/v2.0",
    "/v3/auth",
    "/v3/domains",
    "/v3/endpoints",
    "/v3/groups",
    "/v3/projects",
    "/v3/regions",
    "/v3/roles",
    "/v3/services",
    "/v3/users",
];

fn has_path(path: &str) -> bool {
    PATHS.iter().any(|base| lies_in(path, base))
}

static ROUTES: &[Route] = &[
    Route {
        pattern: "/v3/auth/tokens",
        allow: "GET, HEAD, POST, DELETE",
        endpoints: &[
            call(Method::GET, &Op::ShowToken, "what a token stands for"),
            open(Method::POST, &OpenOp::Issue, "a token for a password or another token"),
            call(Method::DELETE, &Op::Revoke, "ends a token"),
        ],
    },
    Route {
        pattern: "/v3/auth/catalog",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Catalog, "where the services are")],
    },
    Route {
        pattern: "/v3/auth/projects",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::OwnProjects, "the caller's projects")],
    },
    Route {
        pattern: "/v3/projects",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::OwnProjects, "the projects that the caller may see")],
    },
    Route {
        pattern: "/v3/projects/{project}",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Project, "one project")],
    },
    Route {
        pattern: "/v3/users",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Users, "the users that the caller may see")],
    },
    Route { pattern: "/v3/users/{user}", allow: "GET, HEAD", endpoints: &[call(Method::GET, &Op::User, "one user")] },
    Route {
        pattern: "/v3/users/{user}/projects",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::ProjectsOf, "the projects of a user")],
    },
    Route {
        pattern: "/v3/roles",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Records(Kind::Role), "the roles")],
    },
    Route {
        pattern: "/v3/roles/{id}",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Record(Kind::Role), "one role")],
    },
    Route {
        pattern: "/v3/domains",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Records(Kind::Domain), "the one domain, as a list")],
    },
    Route {
        pattern: "/v3/domains/{id}",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Record(Kind::Domain), "one domain")],
    },
    Route {
        pattern: "/v3/groups",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Records(Kind::Group), "groups of users, of which there are none")],
    },
    Route {
        pattern: "/v3/regions",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Records(Kind::Region), "the one region, as a list")],
    },
    Route {
        pattern: "/v3/regions/{id}",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Record(Kind::Region), "one region")],
    },
    Route {
        pattern: "/v3/services",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Records(Kind::Service), "the services")],
    },
    Route {
        pattern: "/v3/services/{id}",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Record(Kind::Service), "one service")],
    },
    Route {
        pattern: "/v3/endpoints",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Records(Kind::Endpoint), "the endpoints of the services")],
    },
    Route {
        pattern: "/v3/endpoints/{id}",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::Record(Kind::Endpoint), "one endpoint")],
    },
    Route { pattern: "/v2.0", allow: "GET, HEAD", endpoints: &[open(Method::GET, &OpenOp::OldVersion, "version 2.0")] },
    Route {
        pattern: "/v2.0/tokens",
        allow: "POST",
        endpoints: &[open(Method::POST, &OpenOp::OldIssue, "a token, by version 2.0")],
    },
    // A client that is told nothing of domains takes the first version 2 that it finds, and that is the one of block
    // storage.
    Route {
        pattern: "/v2/tokens",
        allow: "POST",
        endpoints: &[open(Method::POST, &OpenOp::OldIssue, "a token, by version 2.0, beside block storage")],
    },
    Route {
        pattern: "/v2.0/tenants",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &Op::OldProjects, "the caller's projects, by version 2.0")],
    },
];

const fn call(method: Method, op: &'static Op, summary: &'static str) -> Endpoint {
    let entry = Entry::Known(ForKnown { guard: Guard::Token, body: None, op });
    Endpoint { method, media: None, side: Side::Control, summary, entry }
}

const fn open(method: Method, op: &'static OpenOp, summary: &'static str) -> Endpoint {
    let entry = Entry::Anonymous(ForAnyone { body: Some(MAX_JSON), op });
    Endpoint { method, media: None, side: Side::Control, summary, entry }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_block_storage_are_not_of_this_api() {
        for path in ["/v2.0", "/v2.0/tokens/x", "/v3/auth/tokens", "/v3/auth/OS-FEDERATION", "/v3/users", "/v3/roles/x"]
        {
            assert!(has_path(path), "{path}");
        }
        for path in ["/", "/v3", "/v2", "/v3/0123/volumes", "/v3/authors", "/v2.01"] {
            assert!(!has_path(path), "{path}");
        }
    }
}
