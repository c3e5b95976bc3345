//! Hyper.sh's API, version 1.23, as far as it is about volumes: the Docker-style calls around them, and their
//! initialisation from archives and remote sources.
//!
//! Follows the vendor's published documents and what its own client sends; where the two disagree, both are served. A
//! client puts the version of the API before every path; without it, the same is served. A volume here is a tree; its
//! size is in GiB.

mod decode;
mod encode;

use http::Method;

use super::{
    Answer, ByHead, Call, Dialect, Endpoint, Entry, ForKnown, Guard, KnownOperation, Operation, Places, Reply, Route,
    Side, Work, basic,
};
use crate::domain::{Fault, Outcome, Principal};

pub(super) static DIALECT: Dialect = Dialect {
    name: "hyper",
    routes: ROUTES,
    has_path,
    fault: encode::fault,
    challenge: basic,
    request_id_fields: |_| &[],
};

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    List,
    Create,
    Show,
    Delete,
    Download,
    Initialize,
    Finish,
}

/// The most bytes of a JSON body: 64 volumes with long sources.
const MAX_JSON: usize = 256 << 10;

/// The driver that every volume is told to have.
const DRIVER: &str = "hyper";

/// The label that tells a volume's size.
const SIZE: &str = "size";

/// Names that are paths of this API.
pub(super) const RESERVED: [&str; 3] = ["create", "initialize", "uploadfinish"];

impl Operation for Op {
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::List => &["filters"],
            Self::Delete => &["force"],
            Self::Finish => &["session"],
            Self::Create | Self::Show | Self::Download | Self::Initialize => &[],
        }
    }

    fn encode(&self, _: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        encode::encode(*self, outcome, places)
    }
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, _: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault> {
        Ok((Work::Control(decode::decode(*self, call, body)?), Answer::of(self)))
    }
}

/// An upload, which is an archive.
#[derive(Debug)]
struct Upload;

impl Operation for Upload {
    fn parameters(&self) -> &'static [&'static str] {
        &["cookie"]
    }

    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        encode::uploaded(outcome)
    }
}

fn has_path(path: &str) -> bool {
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

static ROUTES: &[Route] = routes! {
    "/volumes", "GET, HEAD", [call(Method::GET, &Op::List, "the trees")];
    "/volumes/create", "POST", [call(Method::POST, &Op::Create, "makes an empty tree")];
    "/volumes/initialize", "POST", [call(Method::POST, &Op::Initialize, "begins a session that fills trees")];
    "/volumes/uploadfinish", "PUT", [call(Method::PUT, &Op::Finish, "ends a session, and shows what it has filled")];
    "/volumes/{name}", "GET, HEAD, DELETE", [
        call(Method::GET, &Op::Show, "one tree"),
        call(Method::DELETE, &Op::Delete, "removes a tree")
    ];
    "/volumes/{name}/download", "GET, HEAD", [
        call(Method::GET, &Op::Download, "redirects to a URL that serves the tree as an archive")
    ];
};

/// Where an archive is uploaded to.
fn upload_path(id: crate::domain::UploadId) -> String {
    format!("/u/{id}")
}

const fn call(method: Method, op: &'static Op, summary: &'static str) -> Endpoint {
    let side = if matches!(op, Op::Download) { Side::Either } else { Side::Control };
    let entry = Entry::Known(ForKnown { guard: Guard::Signature, body: Some(MAX_JSON), op });
    Endpoint { method, media: None, side, summary, entry }
}

const fn upload(method: Method) -> Endpoint {
    let summary = "fills a tree from the archive in the body";
    let entry = Entry::Unpack(ByHead { op: &Upload, decode: decode::upload });
    Endpoint { method, media: None, side: Side::Direct, summary, entry }
}
