//! HPC-AI's API, as far as it is about storage volumes: make, list, remove, and a login that gives the token for them.
//!
//! Follows the vendor's published documents. They do not say where a login goes, what other statuses than `Pending` are
//! called, which status numbers faults have, or how large a GB is; what is chosen here for these is marked as that.
//! Every call is a POST of JSON. Its token is sent in a cookie, which browsers send by themselves; so a body must say
//! that it is JSON, which a page of another site cannot have a browser do without asking first (the Fetch standard,
//! "CORS-preflight").

mod decode;
mod encode;

use http::{HeaderValue, Method};

use super::{
    Anonymous, Answer, Call, Dialect, Endpoint, Entry, ForAnyone, ForKnown, Guard, KnownOperation, OpenOperation,
    Operation, Places, Reply, Route, Side, Work, lies_in,
};
use crate::domain::{Fault, Outcome, Principal};

pub(super) static DIALECT: Dialect = Dialect {
    name: "hpc_ai",
    routes: ROUTES,
    has_path: |path| BASES.into_iter().any(|base| lies_in(path, base)),
    fault: encode::fault,
    // A browser that is asked for Basic would ask its user for a password, which is of no use there.
    challenge: |_| Some(HeaderValue::from_static("Bearer realm=\"longshore\"")),
    request_id_fields: |_| &[],
};

/// What an endpoint of known callers does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Create,
    List,
    Delete,
}

impl Operation for Op {
    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        encode::encode(*self, outcome)
    }
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, caller: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault> {
        Ok((Work::Control(decode::decode(*self, call, caller, body)?), Answer::of(self)))
    }
}

/// The login.
#[derive(Debug)]
struct Login;

impl Operation for Login {
    fn encode(&self, _: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        let Outcome::LoggedIn { token, seconds } = outcome else { return None };
        encode::logged_in(token, *seconds, places)
    }
}

impl OpenOperation for Login {
    fn decode(&'static self, call: &Call, body: &[u8]) -> Result<(Anonymous, Answer), Fault> {
        Ok((Anonymous::Login(decode::login(call, body)?), Answer::of(self)))
    }
}

/// The most bytes of a body; no call needs a hundredth of it.
const MAX_JSON: usize = 64 << 10;

/// What paths of this API begin with.
const BASES: [&str; 2] = ["/api/storage", "/api/user"];

/// The type of volumes that are trees; a volume of any other is a drive.
const FILESYSTEM: &str = "filesystem";

/// The cookie that holds the token.
const COOKIE: &str = "AccessToken";

static ROUTES: &[Route] = &[
    Route { pattern: "/api/user/login", allow: "POST", endpoints: &[login()] },
    Route {
        pattern: "/api/storage/volume/create",
        allow: "POST",
        endpoints: &[call(&Op::Create, "makes a blank drive or an empty tree")],
    },
    Route {
        pattern: "/api/storage/volume/list",
        allow: "POST",
        endpoints: &[call(&Op::List, "the drives and trees, in order of making")],
    },
    Route {
        pattern: "/api/storage/volume/delete",
        allow: "POST",
        endpoints: &[call(&Op::Delete, "removes a drive or a tree")],
    },
];

const fn login() -> Endpoint {
    let summary = "signs a token for a user name and password";
    let entry = Entry::Anonymous(ForAnyone { body: Some(MAX_JSON), op: &Login });
    Endpoint { method: Method::POST, media: None, side: Side::Control, summary, entry }
}

const fn call(op: &'static Op, summary: &'static str) -> Endpoint {
    let entry = Entry::Known(ForKnown { guard: Guard::Cookie, body: Some(MAX_JSON), op });
    Endpoint { method: Method::POST, media: None, side: Side::Control, summary, entry }
}
