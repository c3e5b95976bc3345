//! Outcomes and faults into replies.

use http::header::{self, HeaderValue};
use http::{HeaderName, StatusCode};
use serde_json::{Value, json};

use super::super::{Call, Places, Reply, bare, digest_fields, direct, reply, resumable, ticket};
use super::{BASE, Op, UPLOAD_ALLOW, Wish, chunks, drive};
use crate::domain::{
    Fault, FaultKind, Limits, Listing, Outcome, Page, Reason, Secret, Transfer, TransferSeen, TransferState, Volume,
    VolumeState,
};

/// `None` when the endpoint cannot have this outcome.
pub(super) fn encode(op: Op, wish: &Wish, outcome: &Outcome, places: &Places) -> Option<Reply> {
    Some(match (op, outcome) {
        (Op::Download, Outcome::Download { id, token }) => direct::redirect(*id, token, places)?,
        (Op::List | Op::ListDetail, Outcome::Listing(listing)) => listed(op, wish, listing),
        (Op::Show, Outcome::Volume(drive)) => {
            json_reply(StatusCode::OK, &drive::with_fields(&drive.volume, wish.fields.as_deref()))
        }
        (Op::Update, Outcome::Volume(drive)) => json_reply(StatusCode::OK, &drive::object(&drive.volume).into()),
        (Op::Create, Outcome::Created(drives)) => created(drives, places),
        (Op::Act, Outcome::Volume(drive)) => {
            json_reply(StatusCode::ACCEPTED, &json!({"objects": [drive::object(&drive.volume)]}))
        }
        (Op::Act, Outcome::ChunkLink(link)) => chunk_link(link),
        (Op::Delete | Op::DeleteMany, Outcome::Removed) => bare(StatusCode::NO_CONTENT),
        (Op::UploadOptions, Outcome::Described(limits)) => upload_options(limits),
        (Op::Capabilities, Outcome::Described(limits)) => json_reply(StatusCode::OK, &capabilities(limits)),
        (Op::Locations, Outcome::Described(_)) => json_reply(StatusCode::OK, &locations(wish.page, places)),
        _ => return None,
    })
}

/// A list of one error, as the vendor's clients read them; for a resumable upload in the words of its draft, where it
/// has some.
pub(super) fn fault(call: &Call, fault: &Fault) -> Reply {
    if !resumable::is_creation(call.headers) {
        return error(fault);
    }
    let mut reply = resumable::problem(call, fault).unwrap_or_else(|| error(fault));
    resumable::advise(reply.headers_mut(), fault);
    reply
}

pub(super) fn error(fault: &Fault) -> Reply {
    let kind = match fault.reason.as_deref() {
        // What was sent is wrong, whatever the state of the drive; to send it again helps nobody.
        Some(Reason::InconsistentLength) => FaultKind::Invalid,
        _ => fault.kind,
    };
    let (status, error_type) = spelling(kind);
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
        FaultKind::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "validation"),
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
    let Outcome::Uploaded { id, digests } = outcome else { return None };
    let mut reply = reply(StatusCode::CREATED, "text/plain; charset=utf-8", format!("{id}\n"));
    set(&mut reply, header::LOCATION, &places.control_location(&drive::resource_uri(*id)));
    if let Some(value) = digest_fields::repr_digest(digests) {
        // RFC 9530 section 3.1: in the answer to a change it may speak of the resource that the answer refers to.
        reply.headers_mut().insert(digest_fields::REPR_DIGEST, value);
    }
    Some(reply)
}

/// The answer to the first part of a resumable upload.
pub(super) fn begun(outcome: &Outcome, places: &Places) -> Option<Reply> {
    let Outcome::Transfer(seen) = outcome else { return None };
    match seen.transfer.state {
        TransferState::Done => resumed(seen, places),
        _ => resumable::begun(seen, resumes_at(seen, places)?),
    }
}

/// The answer to an upload that has become a drive in the end: that of a plain one, with what the draft adds.
pub(in crate::dialect) fn resumed(seen: &TransferSeen, places: &Places) -> Option<Reply> {
    let Transfer { volume: id, digests, .. } = seen.transfer;
    let mut reply = uploaded(&Outcome::Uploaded { id, digests }, places)?;
    resumable::add_state(reply.headers_mut(), seen);
    Some(reply)
}

/// Where an upload is resumed.
pub(super) fn resumes_at(seen: &TransferSeen, places: &Places) -> Option<String> {
    Some(places.direct_location(&ticket::path(seen.ticket.as_ref()?, seen.transfer.id)))
}

/// The link is a secret for as long as it is good.
fn chunk_link(link: &Secret) -> Reply {
    let mut reply = json_reply(StatusCode::OK, &json!({"link": chunks::path(link)}));
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

fn upload_options(limits: &Limits) -> Reply {
    let mut reply = bare(StatusCode::NO_CONTENT);
    let headers = reply.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(UPLOAD_ALLOW));
    headers.insert(HeaderName::from_static("accept-patch"), HeaderValue::from_static(resumable::PARTIAL));
    resumable::add_most(headers, limits.max_drive);
    reply
}

fn listed(op: Op, wish: &Wish, listing: &Listing) -> Reply {
    let shown = |drive: &Volume| match (op, &wish.fields) {
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
fn locations(page: Page, places: &Places) -> Value {
    let mut objects = vec![json!({
        "api_endpoint": format!("{}{BASE}/", places.control),
        "display_name": "Longshore",
        "id": "LOCAL",
        "upload_url": format!("{}{BASE}/", places.direct),
    })];
    objects.truncate(usize::from(page.offset == 0));
    let meta = json!({"limit": page.limit.unwrap_or(0), "offset": page.offset, "total_count": 1});
    json!({"meta": meta, "objects": objects})
}

pub(super) fn json_reply(status: StatusCode, body: &Value) -> Reply {
    reply(status, "application/json; charset=utf-8", body.to_string())
}

/// Sets a field to a URL of ours. A base that cannot stand in a field is left out rather than sent broken.
pub(super) fn set(reply: &mut Reply, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::try_from(text) {
        reply.headers_mut().insert(name, value);
    }
}
