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

use super::{BodyRule, Endpoint, Guard, Op as AnyOp, Route, Side};

pub(super) use decode::decode;
pub(super) use encode::{encode, fault};

/// What every path begins with.
pub(super) const BASE: &str = "/api/2.0";

/// The most bytes of a JSON body. It bounds what a caller can make us hold: parsed, JSON is up to a dozen times as
/// large. About 5,000 drives can be named in it for deletion.
const MAX_JSON: usize = 256 << 10;

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Upload,
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

/// What the query of each endpoint may hold. The vendor's clients ask every list, and the capabilities with them, for
/// `limit=0`; of the capabilities there is one, on every page.
pub(super) const fn parameters(op: Op) -> &'static [&'static str] {
    match op {
        Op::List | Op::ListDetail => listing::PARAMETERS,
        Op::Show => &["fields", "format"],
        Op::Act => &["do"],
        Op::Capabilities | Op::Locations => &["format", "limit", "offset"],
        Op::Upload | Op::Download | Op::Create | Op::Update | Op::Delete | Op::DeleteMany => &[],
    }
}

pub(super) static ROUTES: &[Route] = &[
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
        endpoints: &[read(Op::Download, "redirects to a URL that serves the drive's bytes")],
    },
    Route {
        pattern: "/api/2.0/drives",
        allow: "GET, HEAD, POST, DELETE",
        endpoints: &[
            read(Op::List, "the drives, in short"),
            json(Method::POST, Op::Create, "makes blank drives"),
            json(Method::DELETE, Op::DeleteMany, "removes drives"),
        ],
    },
    Route {
        pattern: "/api/2.0/drives/detail",
        allow: "GET, HEAD",
        endpoints: &[read(Op::ListDetail, "the drives, in full")],
    },
    Route {
        pattern: "/api/2.0/drives/{uuid}",
        allow: "GET, HEAD, PUT, DELETE",
        endpoints: &[
            read(Op::Show, "one drive"),
            json(Method::PUT, Op::Update, "changes a drive's name, media, labels or size"),
            json(Method::DELETE, Op::Delete, "removes a drive"),
        ],
    },
    Route {
        pattern: "/api/2.0/drives/{uuid}/action",
        allow: "POST",
        endpoints: &[json(Method::POST, Op::Act, "do=clone copies a drive, do=resize grows it")],
    },
    Route {
        pattern: "/api/2.0/capabilities",
        allow: "GET, HEAD",
        endpoints: &[read(Op::Capabilities, "the limits of this server")],
    },
    Route {
        pattern: "/api/2.0/locations",
        allow: "GET, HEAD",
        endpoints: &[read(Op::Locations, "the URLs of this server")],
    },
];

const fn upload(method: Method) -> Endpoint {
    let summary = "makes a drive of the bytes in the body";
    let op = AnyOp::CloudSigma(Op::Upload);
    Endpoint { method, guard: Guard::Basic, body: BodyRule::Streamed, side: Side::Direct, summary, op }
}

const fn read(op: Op, summary: &'static str) -> Endpoint {
    // The documents name the direct side for downloads, and clients of the control side find them here.
    let side = if matches!(op, Op::Download) { Side::Either } else { Side::Control };
    Endpoint {
        method: Method::GET,
        guard: Guard::Basic,
        body: BodyRule::None,
        side,
        summary,
        op: AnyOp::CloudSigma(op),
    }
}

const fn json(method: Method, op: Op, summary: &'static str) -> Endpoint {
    let body = BodyRule::Buffered { max: MAX_JSON };
    Endpoint { method, guard: Guard::Basic, body, side: Side::Control, summary, op: AnyOp::CloudSigma(op) }
}
