//! Our own API, for what no other has: transfers, the state of sessions, and receipts; described by itself.

mod body;
mod events;
mod openapi;
mod pieces;
mod receipts;
mod sessions;
mod transfers;
mod view;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    ByHead, Call, Dialect, Endpoint, Entry, ForAnyone, ForKnown, Guard, KnownOperation, OpenOperation, Reply, Route,
    Side, basic, direct, lies_in, reply, resumable, ticket,
};
use crate::domain::{Fault, FaultKind, UnixTime};

pub(super) use body::{Fields, digest_of};
pub(super) use openapi::{problem, text_answer};
pub(super) use pieces::{MAX_HAVE, compared, have};
pub(super) use transfers::{MAX_LABELS, finished, is_text};
pub(super) use view::whole as transfer;

pub(super) static DIALECT: Dialect = Dialect {
    name: "native",
    routes: ROUTES,
    has_path: |path| lies_in(path, BASE),
    fault,
    challenge: basic,
    request_id_fields: |_| &[],
};

/// What every path begins with.
const BASE: &str = "/api/v1";

/// The most bytes of a body. The labels of a drive are the most that it has.
const MAX_JSON: usize = 64 << 10;

static ROUTES: &[Route] = &[
    Route {
        pattern: "/api/v1/sessions",
        allow: "GET, HEAD",
        endpoints: &[call(
            Method::GET,
            &sessions::Op::Sessions,
            "a page of the sessions, newest first: `limit`, `marker`",
        )],
    },
    Route {
        pattern: "/api/v1/sessions/{session}",
        allow: "GET, HEAD, DELETE",
        endpoints: &[
            call(Method::GET, &sessions::Op::Session, "one session"),
            call(Method::DELETE, &sessions::Op::Cancel, "ends a session, and drops what was uploaded"),
        ],
    },
    Route {
        pattern: "/api/v1/transfers",
        allow: "GET, HEAD, POST",
        endpoints: &[
            call(
                Method::GET,
                &transfers::Op::List,
                "a page of the transfers, newest first: `reference`, `state`, `limit`, `marker`",
            ),
            json_call(
                Method::POST,
                &transfers::Op::Create,
                "begins a transfer, and tells the URL that takes its parts",
            ),
        ],
    },
    Route {
        pattern: "/api/v1/transfers/{uuid}",
        allow: "GET, HEAD, PATCH, DELETE",
        endpoints: &[
            call(Method::GET, &transfers::Op::Show, "one transfer, and what of it has come"),
            Endpoint {
                method: Method::PATCH,
                media: None,
                side: Side::Either,
                summary: "takes a part at the end of what has come",
                entry: Entry::Part(Some(Guard::Basic), ByHead { op: &ticket::Part::Append, decode: transfers::append }),
            },
            call(Method::DELETE, &transfers::Op::Cancel, "ends a transfer, and drops what has come"),
        ],
    },
    Route {
        pattern: "/api/v1/transfers/{uuid}/events",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &events::Events, "the progress of a transfer, told until its end")],
    },
    Route {
        pattern: "/api/v1/transfers/{uuid}/finish",
        allow: "POST",
        endpoints: &[json_call(Method::POST, &transfers::Op::Finish, "makes the drive of what has come")],
    },
    Route {
        pattern: "/api/v1/transfers/{uuid}/have",
        allow: "POST",
        endpoints: &[known(
            Method::POST,
            &pieces::Op::Have,
            Some(MAX_HAVE),
            "takes over what a base has of what the client has, and tells what is to be sent",
        )],
    },
    Route {
        pattern: "/api/v1/transfers/{uuid}/receipt",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &receipts::Op::OfTransfer, "the receipt of the drive that a transfer made")],
    },
    Route {
        pattern: "/api/v1/drives/{uuid}/receipt",
        allow: "GET, HEAD",
        endpoints: &[call(Method::GET, &receipts::Op::OfDrive, "what is stored of a drive, signed")],
    },
    Route {
        pattern: "/api/v1/drives/{uuid}/pieces",
        allow: "GET, HEAD",
        endpoints: &[call(
            Method::GET,
            &pieces::Op::Pieces,
            "the BLAKE3 of the drive's pieces of 4 MiB: `from`, `limit`",
        )],
    },
    Route {
        // RFC 8615, and the name that issuers of tokens use.
        pattern: "/.well-known/jwks.json",
        allow: "GET, HEAD",
        endpoints: &[open(&receipts::Keys, "the keys that check receipts")],
    },
    Route {
        pattern: "/api/v1/openapi.json",
        allow: "GET, HEAD",
        endpoints: &[open(&openapi::Document, "this description")],
    },
];

const fn open(op: &'static dyn OpenOperation, summary: &'static str) -> Endpoint {
    let entry = Entry::Anonymous(ForAnyone { body: None, op });
    Endpoint { method: Method::GET, media: None, side: Side::Control, summary, entry }
}

const fn call(method: Method, op: &'static dyn KnownOperation, summary: &'static str) -> Endpoint {
    known(method, op, None, summary)
}

const fn json_call(method: Method, op: &'static dyn KnownOperation, summary: &'static str) -> Endpoint {
    known(method, op, Some(MAX_JSON), summary)
}

const fn known(
    method: Method,
    op: &'static dyn KnownOperation,
    body: Option<usize>,
    summary: &'static str,
) -> Endpoint {
    let entry = Entry::Known(ForKnown { guard: Guard::Basic, body, op });
    Endpoint { method, media: None, side: Side::Control, summary, entry }
}

/// `{"error": {"message": ..., "field": ...}}`, with the same status numbers as the direct side has, but for a drive
/// that has not the bytes that were asserted: the request is right, and what it speaks of is not.
///
/// A part that resumes an upload is refused in the words of the draft, where it has some.
pub(super) fn fault(call: &Call, fault: &Fault) -> Reply {
    let problem = if resumable::is_append(call.headers) { resumable::problem(call, fault) } else { None };
    let mut reply = problem.unwrap_or_else(|| error(fault));
    resumable::advise(reply.headers_mut(), fault);
    reply
}

fn error(fault: &Fault) -> Reply {
    let error = json!({"error": {"message": fault.told, "field": fault.point}});
    let status = match fault.kind {
        FaultKind::DigestMismatch => StatusCode::UNPROCESSABLE_ENTITY,
        kind => direct::status(kind),
    };
    json_reply(status, &error)
}

fn date(time: UnixTime) -> String {
    Timestamp::from_millisecond(time.0).map(|time| time.to_string()).unwrap_or_default()
}

pub(super) fn json_reply(status: StatusCode, value: &Value) -> Reply {
    reply(status, "application/json", format!("{value}\n"))
}

/// The number of entries of a page.
fn limit(text: &str, most: u32) -> Result<u32, Fault> {
    let told = || Fault::invalid("limit", format!("must be 1 to {most}"));
    text.parse().ok().filter(|limit| (1..=most).contains(limit)).ok_or_else(told)
}
