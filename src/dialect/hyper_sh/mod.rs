//! Hyper.sh's API, version 1.23, as far as it is about volumes: the Docker-style calls around them, and their
//! initialisation from archives and remote sources.
//!
//! Follows the vendor's published documents and what its own client sends; where the two disagree, both are served. A
//! client puts the version of the API before every path; without it, the same is served. A volume here is a tree; its
//! size is in GiB.

mod decode;
mod encode;

use http::Method;

use super::{BodyRule, Endpoint, Guard, Op as AnyOp, Route, Side};

pub(super) use decode::decode;
pub(super) use encode::{encode, fault};

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    List,
    Create,
    Show,
    Delete,
    Download,
    Initialize,
    Finish,
    Upload,
}

/// The most bytes of a JSON body: 64 volumes with long sources.
const MAX_JSON: usize = 256 << 10;

/// The driver that every volume is told to have.
const DRIVER: &str = "hyper";

/// The label that tells a volume's size.
const SIZE: &str = "size";

/// Names that are paths of this API.
pub(super) const RESERVED: [&str; 3] = ["create", "initialize", "uploadfinish"];

/// What the query of each endpoint may hold.
pub(super) const fn parameters(op: Op) -> &'static [&'static str] {
    match op {
        Op::List => &["filters"],
        Op::Delete => &["force"],
        Op::Finish => &["session"],
        Op::Upload => &["cookie"],
        Op::Create | Op::Show | Op::Download | Op::Initialize => &[],
    }
}

/// Whether an unknown path is answered as this API does.
pub(super) fn has_path(path: &str) -> bool {
    let path = match path.strip_prefix("/v1.") {
        Some(rest) => rest.trim_start_matches(|digit: char| digit.is_ascii_digit()),
        None => path,
    };
    path == "/volumes" || path.starts_with("/volumes/")
}

macro_rules! routes {
    ($($path:literal, $allow:literal, [$($endpoint:expr),+];)+) => {
        &[
            $(
                Route { pattern: $path, allow: $allow, endpoints: &[$($endpoint),+] },
                Route { pattern: concat!("/v1.{minor}", $path), allow: $allow, endpoints: &[$($endpoint),+] },
            )+
            Route {
                pattern: "/u/{upload}",
                allow: "POST, PUT",
                endpoints: &[upload(Method::POST), upload(Method::PUT)],
            },
        ]
    };
}

pub(super) static ROUTES: &[Route] = routes! {
    "/volumes", "GET, HEAD", [call(Method::GET, Op::List, "the trees")];
    "/volumes/create", "POST", [call(Method::POST, Op::Create, "makes an empty tree")];
    "/volumes/initialize", "POST", [call(Method::POST, Op::Initialize, "begins a session that fills trees")];
    "/volumes/uploadfinish", "PUT", [call(Method::PUT, Op::Finish, "ends a session, and shows what it has filled")];
    "/volumes/{name}", "GET, HEAD, DELETE", [
        call(Method::GET, Op::Show, "one tree"),
        call(Method::DELETE, Op::Delete, "removes a tree")
    ];
    "/volumes/{name}/download", "GET, HEAD", [
        call(Method::GET, Op::Download, "redirects to a URL that serves the tree as an archive")
    ];
};

/// Where an archive is uploaded to.
pub(super) fn upload_path(id: crate::domain::UploadId) -> String {
    format!("/u/{id}")
}

const fn call(method: Method, op: Op, summary: &'static str) -> Endpoint {
    let side = if matches!(op, Op::Download) { Side::Either } else { Side::Control };
    let body = BodyRule::Buffered { max: MAX_JSON };
    Endpoint { method, guard: Guard::Signature, body, side, summary, op: AnyOp::Hyper(op) }
}

const fn upload(method: Method) -> Endpoint {
    let summary = "fills a tree from the archive in the body";
    let (body, side) = (BodyRule::Streamed, Side::Direct);
    Endpoint { method, guard: Guard::Ticket, body, side, summary, op: AnyOp::Hyper(Op::Upload) }
}
