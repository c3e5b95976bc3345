//! Outcomes and faults into replies.

use http::header::{self, HeaderValue};
use http::{HeaderName, StatusCode};
use serde_json::{Value, json};

use super::super::{Call, Places, Reply, bare, digest_fields, direct, reply};
use super::{BASE, Op, drive, listing};
use crate::domain::{Fault, FaultKind, Limits, Listing, Outcome, Volume, VolumeState};

/// `None` when the endpoint cannot have this outcome.
pub(super) fn encode(op: Op, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
    Some(match (op, outcome) {
        (Op::Download, Outcome::Download { id, token }) => direct::redirect(*id, token, places)?,
        (Op::List | Op::ListDetail, Outcome::Listing(listing)) => listed(op, call, listing),
        (Op::Show, Outcome::Volume(drive)) => {
            let fields = listing::fields(call.query);
            json_reply(StatusCode::OK, &drive::with_fields(drive, fields.as_deref()))
        }
        (Op::Update, Outcome::Volume(drive)) => json_reply(StatusCode::OK, &drive::object(drive).into()),
        (Op::Create, Outcome::Created(drives)) => created(drives, places),
        (Op::Act, Outcome::Volume(drive)) => {
            json_reply(StatusCode::ACCEPTED, &json!({"objects": [drive::object(drive)]}))
        }
        (Op::Delete | Op::DeleteMany, Outcome::Removed) => bare(StatusCode::NO_CONTENT),
        (Op::Capabilities, Outcome::Described(limits)) => json_reply(StatusCode::OK, &capabilities(limits)),
        (Op::Locations, Outcome::Described(_)) => json_reply(StatusCode::OK, &locations(call, places)?),
        _ => return None,
    })
}

/// A list of one error, as the vendor's clients read them.
pub(super) fn fault(_: &Call, fault: &Fault) -> Reply {
    let (status, error_type) = spelling(fault.kind);
    let error = json!({"error_message": fault.told, "error_point": fault.point, "error_type": error_type});
    json_reply(status, &json!([error]))
}

/// How each fault is told. The vendor has eight words for errors; its clients go by the status, and then show the text.
const fn spelling(kind: FaultKind) -> (StatusCode, &'static str) {
    match kind {
        // The vendor has 400 for all that is wrong with what was sent; its clients know no 422.
        FaultKind::Invalid
        | FaultKind::BadFraming
        | FaultKind::Empty
        | FaultKind::DigestMismatch
        | FaultKind::BodyIncomplete => (StatusCode::BAD_REQUEST, "validation"),
        FaultKind::Unauthenticated => (StatusCode::UNAUTHORIZED, "permission"),
        FaultKind::Throttled { .. } => (StatusCode::TOO_MANY_REQUESTS, "permission"),
        // A full quota is "operation not allowed", which the vendor answers with 403; 402 is for unpaid bills.
        FaultKind::TicketRefused | FaultKind::Forbidden | FaultKind::QuotaExceeded => {
            (StatusCode::FORBIDDEN, "permission")
        }
        FaultKind::NotFound => (StatusCode::NOT_FOUND, "notexist"),
        FaultKind::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "validation"),
        FaultKind::PeerTooSlow => (StatusCode::REQUEST_TIMEOUT, "validation"),
        FaultKind::Conflict | FaultKind::Cancelled => (StatusCode::CONFLICT, "concurrency"),
        // The state of the drive, which its owner reads in its status: asking again helps nobody, nor is it an
        // accident.
        FaultKind::Corrupt => (StatusCode::CONFLICT, "backend"),
        FaultKind::Gone => (StatusCode::GONE, "notexist"),
        FaultKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "validation"),
        FaultKind::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "validation"),
        FaultKind::RangeNotSatisfiable { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "validation"),
        FaultKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "backend"),
        FaultKind::Upstream => (StatusCode::BAD_GATEWAY, "backend"),
        FaultKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "backend"),
        FaultKind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "backend"),
    }
}

/// The UUID and a newline, as text: scripts take the whole body for the UUID, and a terminal shows it on a line.
pub(super) fn uploaded(outcome: &Outcome, places: &Places) -> Option<Reply> {
    let Outcome::Uploaded { id, sha256 } = outcome else { return None };
    let mut reply = reply(StatusCode::CREATED, "text/plain; charset=utf-8", format!("{id}\n"));
    set(&mut reply, header::LOCATION, &places.control_location(&drive::resource_uri(*id)));
    if let Some(sha256) = sha256 {
        // RFC 9530 section 3.1: in the answer to a change it may speak of the resource that the answer refers to.
        reply.headers_mut().insert(digest_fields::REPR_DIGEST, digest_fields::repr_digest(sha256));
    }
    Some(reply)
}

fn listed(op: Op, call: &Call, listing: &Listing) -> Reply {
    let fields = listing::fields(call.query);
    let shown = |drive: &Volume| match (op, &fields) {
        (Op::List, None) => drive::short(drive),
        (_, fields) => drive::with_fields(drive, fields.as_deref()),
    };
    let objects: Vec<Value> = listing.volumes.iter().map(shown).collect();
    let limit = listing.page.limit.unwrap_or(0);
    let meta = json!({"limit": limit, "offset": listing.page.offset, "total_count": listing.total});
    json_reply(StatusCode::OK, &json!({"meta": meta, "objects": objects}))
}

fn created(drives: &[Volume], places: &Places) -> Reply {
    // The vendor tells a drive that was just made as being made; the first look at it tells more.
    let begun = |drive: &Volume| drive::object(&Volume { state: VolumeState::Creating, ..drive.clone() });
    let objects: Vec<_> = drives.iter().map(begun).collect();
    let mut reply = json_reply(StatusCode::CREATED, &json!({"objects": objects}));
    if let [drive] = drives {
        set(&mut reply, header::LOCATION, &places.control_location(&drive::resource_uri(drive.id)));
    }
    reply
}

/// `min_size` and `max_size` are the vendor's older spelling of the same.
fn capabilities(limits: &Limits) -> Value {
    let (min, max) = (limits.min_drive.get(), limits.max_drive.get());
    json!({
        "default_storage_type": drive::STORAGE_TYPE,
        "drives": {
            drive::STORAGE_TYPE: {"size": {"max": max, "min": min}},
            "max_size": max,
            "min_size": min,
        },
    })
}

/// One location: here. A country and a websocket are not shown, because there are none to tell of.
fn locations(call: &Call, places: &Places) -> Option<Value> {
    let page = listing::page(call.query).ok()?;
    let mut objects = vec![json!({
        "api_endpoint": format!("{}{BASE}/", places.control),
        "display_name": "Longshore",
        "id": "LOCAL",
        "upload_url": format!("{}{BASE}/", places.direct),
    })];
    objects.truncate(usize::from(page.offset == 0));
    let meta = json!({"limit": page.limit.unwrap_or(0), "offset": page.offset, "total_count": 1});
    Some(json!({"meta": meta, "objects": objects}))
}

fn json_reply(status: StatusCode, body: &Value) -> Reply {
    reply(status, "application/json; charset=utf-8", body.to_string())
}

/// Sets a field to a URL of ours. A base that cannot stand in a field is left out rather than sent broken.
fn set(reply: &mut Reply, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::try_from(text) {
        reply.headers_mut().insert(name, value);
    }
}
