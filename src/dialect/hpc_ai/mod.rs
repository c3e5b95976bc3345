//! HPC-AI's API, as far as it is about storage volumes: make, list, remove, and a login that gives the token for them.
//!
//! Follows the vendor's published documents. They do not say where a login goes, what other statuses than `Pending` are
//! called, which status numbers faults have, or how large a GB is; what is chosen here for these is marked as that.
//! Every call is a POST of JSON. Its token is sent in a cookie, which browsers send by themselves; so a body must say
//! that it is JSON, which a page of another site cannot have a browser do without asking first (the Fetch standard,
//! "CORS-preflight").

mod decode;
mod encode;

use http::Method;

use super::{BodyRule, Endpoint, Guard, Op as AnyOp, Route, Side};

pub(super) use decode::decode;
pub(super) use encode::{encode, fault};

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Login,
    Create,
    List,
    Delete,
}

/// The most bytes of a body; no call needs a hundredth of it.
const MAX_JSON: usize = 64 << 10;

/// What paths of this API begin with.
pub(super) const BASES: [&str; 2] = ["/api/storage", "/api/user"];

/// The cookie that holds the token.
const COOKIE: &str = "AccessToken";

pub(super) static ROUTES: &[Route] = &[
    Route {
        pattern: "/api/user/login",
        allow: "POST",
        endpoints: &[call(Guard::Open, Op::Login, "signs a token for a user name and password")],
    },
    Route {
        pattern: "/api/storage/volume/create",
        allow: "POST",
        endpoints: &[call(Guard::Cookie, Op::Create, "makes a blank drive or an empty tree")],
    },
    Route {
        pattern: "/api/storage/volume/list",
        allow: "POST",
        endpoints: &[call(Guard::Cookie, Op::List, "the drives and trees, in order of making")],
    },
    Route {
        pattern: "/api/storage/volume/delete",
        allow: "POST",
        endpoints: &[call(Guard::Cookie, Op::Delete, "removes a drive or a tree")],
    },
];

const fn call(guard: Guard, op: Op, summary: &'static str) -> Endpoint {
    let (body, side) = (BodyRule::Buffered { max: MAX_JSON }, Side::Control);
    Endpoint { method: Method::POST, guard, body, side, summary, op: AnyOp::HpcAi(op) }
}
