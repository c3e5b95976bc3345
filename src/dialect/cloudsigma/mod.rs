//! CloudSigma's API, version 2.0: drives, and where and how much of them this server takes.
//!
//! Follows the vendor's published documents and what its own clients send; where the two disagree, both are served.
//! Paths end with a slash there; the spelling without one is served as well.

mod decode;
mod drive;
mod encode;
mod fields;
mod listing;

use http::Method;

use super::{
    Answer, ByHead, Call, Dialect, Endpoint, Entry, ForKnown, Guard, KnownOperation, Operation, Places, Reply, Route,
    Side, Work, basic, lies_in,
};
use crate::domain::{Fault, Outcome, Principal};

pub(super) static DIALECT: Dialect = Dialect {
    name: "cloudsigma",
    routes: ROUTES,
    has_path: |path| lies_in(path, BASE),
    fault: encode::fault,
    challenge: basic,
    request_id_fields: |_| &[],
};

/// What every path begins with.
const BASE: &str = "/api/2.0";

/// The most bytes of a JSON body. It bounds what a caller can make us hold: parsed, JSON is up to a dozen times as
/// large. About 5,000 drives can be named in it for deletion.
const MAX_JSON: usize = 256 << 10;

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Download,
    List,
    ListDetail,
    Show,
    Create,
    Update,
    Delete,
    DeleteMany,
    Act,
    Capabilities,
    Locations,
}

impl Operation for Op {
    /// The vendor's clients ask every list, and the capabilities with them, for `limit=0`; of the capabilities there is
    /// one, on every page.
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::List | Self::ListDetail => listing::PARAMETERS,
            Self::Show => &["fields", "format"],
            Self::Act => &["do"],
            Self::Capabilities | Self::Locations => &["format", "limit", "offset"],
            Self::Download | Self::Create | Self::Update | Self::Delete | Self::DeleteMany => &[],
        }
    }

    fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        encode::encode(*self, call, outcome, places)
    }
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, _: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault> {
        Ok((Work::Control(decode::decode(*self, call, body)?), Answer(self)))
    }
}

/// An upload, which is a drive.
#[derive(Debug)]
struct Upload;

impl Operation for Upload {
    fn encode(&self, _: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        encode::uploaded(outcome, places)
    }
}

static ROUTES: &[Route] = &[
    Route {
        pattern: "/api/2.0/drives/upload",
        allow: "POST, PUT",
        endpoints: &[upload(Method::POST), upload(Method::PUT)],
    },
    Route {
        pattern: "/api/2.0/drives/upload/{file_name}",
        allow: "POST, PUT",
        endpoints: &[upload(Method::POST), upload(Method::PUT)],
    },
    Route {
        pattern: "/api/2.0/drives/{uuid}/download",
        allow: "GET, HEAD",
        endpoints: &[read(&Op::Download, "redirects to a URL that serves the drive's bytes")],
    },
    Route {
        pattern: "/api/2.0/drives",
        allow: "GET, HEAD, POST, DELETE",
        endpoints: &[
            read(&Op::List, "the drives, in short"),
            json(Method::POST, &Op::Create, "makes blank drives"),
            json(Method::DELETE, &Op::DeleteMany, "removes drives"),
        ],
    },
    Route {
        pattern: "/api/2.0/drives/detail",
        allow: "GET, HEAD",
        endpoints: &[read(&Op::ListDetail, "the drives, in full")],
    },
    Route {
        pattern: "/api/2.0/drives/{uuid}",
        allow: "GET, HEAD, PUT, DELETE",
        endpoints: &[
            read(&Op::Show, "one drive"),
            json(Method::PUT, &Op::Update, "changes a drive's name, media, labels or size"),
            json(Method::DELETE, &Op::Delete, "removes a drive"),
        ],
    },
    Route {
        pattern: "/api/2.0/drives/{uuid}/action",
        allow: "POST",
        endpoints: &[json(Method::POST, &Op::Act, "do=clone copies a drive, do=resize grows it")],
    },
    Route {
        pattern: "/api/2.0/capabilities",
        allow: "GET, HEAD",
        endpoints: &[read(&Op::Capabilities, "the limits of this server")],
    },
    Route {
        pattern: "/api/2.0/locations",
        allow: "GET, HEAD",
        endpoints: &[read(&Op::Locations, "the URLs of this server")],
    },
];

const fn upload(method: Method) -> Endpoint {
    let summary = "makes a drive of the bytes in the body";
    let entry = Entry::Receive(Guard::Basic, ByHead { op: &Upload, decode: decode::upload });
    Endpoint { method, side: Side::Direct, summary, entry }
}

const fn read(op: &'static Op, summary: &'static str) -> Endpoint {
    // The documents name the direct side for downloads, and clients of the control side find them here.
    let side = if matches!(op, Op::Download) { Side::Either } else { Side::Control };
    Endpoint { method: Method::GET, side, summary, entry: known(op, None) }
}

const fn json(method: Method, op: &'static Op, summary: &'static str) -> Endpoint {
    Endpoint { method, side: Side::Control, summary, entry: known(op, Some(MAX_JSON)) }
}

const fn known(op: &'static Op, body: Option<usize>) -> Entry {
    Entry::Known(ForKnown { guard: Guard::Basic, body, op })
}
