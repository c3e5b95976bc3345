//! The ticket URL of a transfer: it takes the parts, tells what has come, and ends the transfer. Its secret is the
//! capability, and stands for a login.
//!
//! It is spoken to in several ways, which may be mixed: parts at any place as `PUT` with `Content-Range`, and the rest
//! as oVirt's imageio has it; parts at the end as tus 1.0 or the IETF's draft of resumable uploads has them.

mod decode;
mod encode;
mod tus;

use http::{HeaderMap, Method};
use serde_json::Value;

use super::{
    Anonymous, Answer, ByHead, Call, Dialect, Endpoint, Entry, ForAnyone, ForKnown, Guard, Meanwhile, OpenOperation,
    Operation, Places, Reply, Route, Side, basic, lies_in, native, resumable,
};
use crate::domain::{Fault, Outcome, Secret, TransferId};

pub(super) use decode::append_to;
pub(super) use tus::method_of;

pub(super) static DIALECT: Dialect = Dialect {
    name: "ticket",
    routes: ROUTES,
    has_path: |path| lies_in(path, "/x"),
    fault: encode::fault,
    challenge: basic,
    request_id_fields: |_| &[],
};

/// The most bytes of an operation in JSON.
const MAX_JSON: usize = 4 << 10;

/// The methods of a ticket's URL.
const ALLOW: &str = "GET, HEAD, PUT, PATCH, DELETE, OPTIONS";
/// The methods of the URL at which tus begins.
const ALLOW_AT_BASE: &str = "POST, OPTIONS";

const JSON: &str = "application/json";
/// The media type of a part that tus appends.
const TUS: &str = "application/offset+octet-stream";

/// The path of a ticket's URL.
pub(super) fn path(ticket: &Secret, id: TransferId) -> String {
    format!("/x/{}/{id}", ticket.reveal())
}

/// What an endpoint does without a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Show,
    Extents,
    Act,
    Have,
    Cancel,
    Options,
}

impl Operation for Op {
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::Extents => &["context", "missing"],
            Self::Show | Self::Act | Self::Have | Self::Cancel | Self::Options => &[],
        }
    }

    fn encode(&self, call: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        encode::encode(*self, call, outcome)
    }
}

impl OpenOperation for Op {
    fn decode(&'static self, call: &Call, body: &[u8]) -> Result<(Anonymous, Answer), Fault> {
        let anonymous = decode::action(*self, call, body)?;
        let is_of_missing = *self == Self::Extents && decode::is_of_missing(call.query)?;
        Ok((anonymous, Answer::of(if is_of_missing { &Missing } else { self })))
    }
}

/// The list of what has not come.
#[derive(Debug)]
struct Missing;

impl Operation for Missing {
    fn encode(&self, call: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        encode::missing(call, outcome)
    }
}

/// A part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Anywhere.
    Put,
    /// At the end of what has come.
    Append,
}

impl Operation for Part {
    /// Those of imageio, whose clients name them with every part.
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::Put => &["close", "flush"],
            Self::Append => &[],
        }
    }

    fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        encode::received(*self, call, outcome, places)
    }

    fn described(&self) -> Option<Value> {
        match self {
            Self::Put => None,
            Self::Append => Some(encode::described_append()),
        }
    }

    fn interim(&self, call: &Call, meanwhile: Meanwhile, _: &Places) -> Option<HeaderMap> {
        if resumable::is_append(call.headers) { resumable::interim(call, meanwhile, None) } else { None }
    }
}

static ROUTES: &[Route] = &[
    Route {
        pattern: "/api/v1/tus",
        allow: ALLOW_AT_BASE,
        endpoints: &[
            Endpoint {
                method: Method::POST,
                media: Some(TUS),
                side: Side::Direct,
                summary: "begins a transfer of tus with its first bytes, or all",
                entry: Entry::Part(
                    Some(Guard::Basic),
                    ByHead { op: &tus::Creation::WithUpload, decode: tus::with_upload },
                ),
            },
            Endpoint {
                method: Method::POST,
                media: None,
                side: Side::Direct,
                summary: "begins a transfer of tus",
                entry: Entry::Known(ForKnown { guard: Guard::Basic, body: Some(MAX_JSON), op: &tus::Creation::Empty }),
            },
            open(Method::OPTIONS, &tus::Describe, "what this server speaks of tus"),
        ],
    },
    Route {
        pattern: "/x/{token}/{uuid}",
        allow: ALLOW,
        endpoints: &[
            open(Method::GET, &Op::Show, "the transfer, and what of it has come"),
            Endpoint {
                method: Method::PUT,
                media: None,
                side: Side::Direct,
                summary: "takes a part, at the place that `Content-Range` names",
                entry: Entry::Part(None, ByHead { op: &Part::Put, decode: decode::put }),
            },
            Endpoint {
                method: Method::PATCH,
                media: Some(JSON),
                side: Side::Direct,
                summary: "makes bytes zero, makes durable what has come, or makes the drive of it",
                entry: Entry::Anonymous(ForAnyone { body: Some(MAX_JSON), op: &Op::Act }),
            },
            Endpoint {
                method: Method::PATCH,
                media: None,
                side: Side::Direct,
                summary: "takes a part at the end of what has come",
                entry: Entry::Part(None, ByHead { op: &Part::Append, decode: decode::append }),
            },
            open(Method::DELETE, &Op::Cancel, "ends the transfer, and drops what has come"),
            open(Method::OPTIONS, &Op::Options, "the methods and features of the URL"),
        ],
    },
    Route {
        pattern: "/x/{token}/{uuid}/extents",
        allow: "GET, HEAD",
        endpoints: &[open(
            Method::GET,
            &Op::Extents,
            "the extents of what has come, or with `missing` of what has not",
        )],
    },
    Route {
        pattern: "/x/{token}/{uuid}/have",
        allow: "POST",
        endpoints: &[Endpoint {
            method: Method::POST,
            media: None,
            side: Side::Direct,
            summary: "takes over what the base has of what the client has, and tells what is to be sent",
            entry: Entry::Anonymous(ForAnyone { body: Some(native::MAX_HAVE), op: &Op::Have }),
        }],
    },
];

const fn open(method: Method, op: &'static dyn OpenOperation, summary: &'static str) -> Endpoint {
    let entry = Entry::Anonymous(ForAnyone { body: None, op });
    Endpoint { method, media: None, side: Side::Direct, summary, entry }
}
