//! CloudSigma's API, version 2.0: drives, and where and how much of them this server takes.
//!
//! Follows the vendor's published documents and what its own clients send; where the two disagree, both are served.
//! Paths end with a slash there; the spelling without one is served as well.

mod chunks;
mod decode;
mod drive;
mod encode;
mod fields;
mod listing;

use http::{HeaderMap, Method};

use super::{
    Answer, ByHead, Call, Dialect, Endpoint, Entry, ForKnown, Guard, KnownOperation, Meanwhile, Operation, Places,
    Reply, Route, Side, Work, basic, lies_in, resumable,
};
use crate::domain::{Fault, Outcome, Page, Principal};

pub(super) use encode::resumed;

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
    UploadOptions,
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
            Self::Download | Self::Create | Self::Update | Self::Delete | Self::DeleteMany | Self::UploadOptions => &[],
        }
    }

    fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        Asked { op: *self, wish: Wish::default() }.encode(call, outcome, places)
    }
}

impl KnownOperation for Op {
    fn decode(&'static self, call: &Call, _: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault> {
        let (command, wish) = decode::decode(*self, call, body)?;
        let answer = if wish == Wish::default() { Answer::of(self) } else { Answer::asked(Asked { op: *self, wish }) };
        Ok((Work::Control(command), answer))
    }
}

/// What a query says of the reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wish {
    /// The fields of drives that are shown; all when none are named.
    fields: Option<Vec<String>>,
    /// The page of what there is one of.
    page: Page,
}

/// An operation with what the query says of its reply.
#[derive(Debug)]
struct Asked {
    op: Op,
    wish: Wish,
}

impl Operation for Asked {
    fn encode(&self, _: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        encode::encode(self.op, &self.wish, outcome, places)
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

/// The first part of an upload that can be resumed.
#[derive(Debug)]
struct Resumable;

impl Operation for Resumable {
    fn is_for(&self, headers: &HeaderMap) -> bool {
        resumable::is_creation(headers)
    }

    fn encode(&self, _: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        encode::begun(outcome, places)
    }

    fn interim(&self, call: &Call, meanwhile: Meanwhile, places: &Places) -> Option<HeaderMap> {
        let location = match meanwhile {
            Meanwhile::Begun(seen) => encode::resumes_at(seen, places),
            Meanwhile::Durable(_) => None,
        };
        resumable::interim(call, meanwhile, location)
    }
}

static ROUTES: &[Route] = &[
    chunks::INIT_UPLOAD,
    chunks::LINK,
    chunks::RESUMABLE_JS,
    Route { pattern: "/api/2.0/drives/upload", allow: UPLOAD_ALLOW, endpoints: UPLOADS },
    Route { pattern: "/api/2.0/drives/upload/{file_name}", allow: UPLOAD_ALLOW, endpoints: UPLOADS },
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
        endpoints: &[json(
            Method::POST,
            &Op::Act,
            "do=clone copies a drive, do=resize grows it, do=upload_chunk makes a link for a chunk of it",
        )],
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

/// The methods of uploads.
const UPLOAD_ALLOW: &str = "POST, PUT, OPTIONS";

static UPLOADS: &[Endpoint] = &[
    resumable_upload(Method::POST),
    upload(Method::POST),
    resumable_upload(Method::PUT),
    upload(Method::PUT),
    Endpoint {
        method: Method::OPTIONS,
        media: None,
        side: Side::Direct,
        summary: "tells that this server resumes uploads, and how large one may be",
        entry: known(&Op::UploadOptions, None),
    },
];

const fn resumable_upload(method: Method) -> Endpoint {
    let summary = "with `Upload-Complete`: begins an upload that can be resumed";
    let entry = Entry::Part(Some(Guard::Basic), ByHead { op: &Resumable, decode: decode::resumable });
    Endpoint { method, media: None, side: Side::Direct, summary, entry }
}

const fn upload(method: Method) -> Endpoint {
    let summary = "makes a drive of the bytes in the body";
    let entry = Entry::Receive(Guard::Basic, ByHead { op: &Upload, decode: decode::upload });
    Endpoint { method, media: None, side: Side::Direct, summary, entry }
}

const fn read(op: &'static Op, summary: &'static str) -> Endpoint {
    // The documents name the direct side for downloads, and clients of the control side find them here.
    let side = if matches!(op, Op::Download) { Side::Either } else { Side::Control };
    Endpoint { method: Method::GET, media: None, side, summary, entry: known(op, None) }
}

const fn json(method: Method, op: &'static Op, summary: &'static str) -> Endpoint {
    Endpoint { method, media: None, side: Side::Control, summary, entry: known(op, Some(MAX_JSON)) }
}

const fn known(op: &'static Op, body: Option<usize>) -> Entry {
    Entry::Known(ForKnown { guard: Guard::Basic, body, op })
}
