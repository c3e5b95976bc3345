//! Outcomes and faults into replies.

use std::ops::Range;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::resumable::{self, PARTIAL};
use super::super::{Call, Places, Reply, bare, checks, cloudsigma, direct, imageio, media, native};
use super::tus::{self, TUS_RESUMABLE, VERSION};
use super::{ALLOW, JSON, Op, Part, TUS};
use crate::domain::{ByteCount, Fault, FaultKind, Outcome, TransferSeen, TransferState};

/// The codings of a part that tells its place (RFC 7694).
const CODINGS: &str = "zstd";

/// The status that tus has for a part whose bytes do not have their checksum.
const CHECKSUM_MISMATCH: u16 = 460;

/// `None` when the endpoint cannot have this outcome.
pub(super) fn encode(op: Op, call: &Call, outcome: &Outcome) -> Option<Reply> {
    let reply = match (op, outcome) {
        (Op::Show, Outcome::Transfer(seen)) if is_offset_only(call) => progress(call, seen),
        (Op::Show, Outcome::Transfer(seen)) => told(StatusCode::OK, call, seen),
        (Op::Extents, Outcome::Transfer(seen)) => native::json_reply(StatusCode::OK, &extents(seen).into()),
        (Op::Act, Outcome::Transfer(seen)) => told(native::finished(seen), call, seen),
        (Op::Have, Outcome::Had(had)) => native::compared(had),
        (Op::Cancel, Outcome::Transfer(_)) => bare(StatusCode::NO_CONTENT),
        (Op::Options, Outcome::Transfer(seen)) => options(seen),
        _ => return None,
    };
    Some(finished(call, reply))
}

/// The answer to a part; `None` when it cannot have this outcome.
pub(super) fn received(part: Part, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
    let Outcome::Transfer(seen) = outcome else { return None };
    let mut reply = match part {
        Part::Put => told(StatusCode::OK, call, seen),
        // As if all had come in the request that began the transfer.
        Part::Append if resumable::is_append(call.headers) && seen.transfer.state == TransferState::Done => {
            cloudsigma::resumed(seen, places)?
        }
        Part::Append => progress(call, seen),
    };
    if media::of(call.headers).is_some_and(|media| media.eq_ignore_ascii_case(TUS)) {
        set(reply.headers_mut(), TUS_RESUMABLE, VERSION);
    }
    Some(finished(call, reply))
}

/// What a part at the end takes and is answered with, for OpenAPI.
pub(super) fn described_append() -> Value {
    let state = resumable::described_state();
    let mut made = native::text_answer("The drive is there; its UUID.");
    made["headers"] = state.clone();
    made["headers"]["Location"] = json!({"schema": {"type": "string"}, "description": "The drive."});
    let bytes = json!({"schema": {"type": "string", "contentEncoding": "binary"}});
    json!({
        "operationId": "appendToTransfer",
        "parameters": resumable::described_part(),
        "requestBody": {"required": true, "content": {PARTIAL: bytes, TUS: bytes}},
        "responses": {
            "201": made,
            "204": {"description": "The part is durable.", "headers": state},
            "4XX": native::problem(),
        },
    })
}

/// The extents of what has not come; `None` when the endpoint cannot have this outcome.
pub(super) fn missing(call: &Call, outcome: &Outcome) -> Option<Reply> {
    let Outcome::Transfer(seen) = outcome else { return None };
    let stretches = stretches(seen).into_iter().filter(|(_, has_come)| !has_come);
    let missing: Vec<Value> =
        stretches.map(|(range, _)| json!({"start": range.start, "length": range.end - range.start})).collect();
    Some(finished(call, native::json_reply(StatusCode::OK, &missing.into())))
}

/// As the native API tells it, with what clients of resumable uploads look for.
pub(super) fn fault(call: &Call, fault: &Fault) -> Reply {
    let mut reply = native::fault(call, fault);
    if fault.kind == FaultKind::DigestMismatch && call.method == Method::PUT {
        // The one part is refused, and no more is said of the drive.
        *reply.status_mut() = StatusCode::BAD_REQUEST;
    }
    if fault.kind == FaultKind::DigestMismatch
        && call.method == Method::PATCH
        && (call.headers.contains_key(TUS_RESUMABLE) || call.headers.contains_key(checks::UPLOAD_CHECKSUM))
        && let Ok(status) = StatusCode::from_u16(CHECKSUM_MISMATCH)
    {
        *reply.status_mut() = status;
    }
    let is_of_coding = fault.point.as_deref() == Some(header::CONTENT_ENCODING.as_str());
    if fault.kind == FaultKind::UnsupportedMediaType && is_of_coding {
        set(reply.headers_mut(), header::ACCEPT_ENCODING, CODINGS);
    }
    if fault.point.as_deref() == Some(TUS_RESUMABLE.as_str()) {
        *reply.status_mut() = StatusCode::PRECONDITION_FAILED;
        tus::add_versions(reply.headers_mut());
    }
    finished(call, reply)
}

/// The transfer, and how far it has come.
fn told(status: StatusCode, call: &Call, seen: &TransferSeen) -> Reply {
    let mut reply = native::json_reply(status, &native::transfer(seen));
    add_progress(reply.headers_mut(), call, seen);
    if tus::is_meant(call) && *call.method == Method::HEAD {
        tus::add_terms(reply.headers_mut(), seen);
    }
    reply
}

/// How far the transfer has come, and no more.
fn progress(call: &Call, seen: &TransferSeen) -> Reply {
    let mut reply = bare(StatusCode::NO_CONTENT);
    add_progress(reply.headers_mut(), call, seen);
    reply
}

/// Adds how far the transfer has come, in the fields that the client looks for.
pub(super) fn add_progress(headers: &mut HeaderMap, call: &Call, seen: &TransferSeen) {
    resumable::add_state(headers, seen);
    if tus::is_meant(call) {
        tus::add_state(headers, seen);
    }
}

/// Clients of tus may know no other success of `HEAD` than 200.
fn is_offset_only(call: &Call) -> bool {
    call.method == Method::HEAD && !tus::is_meant(call)
}

/// Adds what every answer has.
pub(super) fn finished(call: &Call, mut reply: Reply) -> Reply {
    let headers = reply.headers_mut();
    direct::guarded(headers);
    if tus::is_meant(call) {
        set(headers, TUS_RESUMABLE, VERSION);
    }
    reply
}

/// As imageio tells it to its clients, and with it what tus and RFC 5789 have for the same question.
fn options(seen: &TransferSeen) -> Reply {
    let mut reply = native::json_reply(StatusCode::OK, &imageio::options(&["extents", "zero", "flush"]));
    let headers = reply.headers_mut();
    set(headers, header::ALLOW, ALLOW);
    set(headers, header::ACCEPT_ENCODING, CODINGS);
    if let Ok(value) = HeaderValue::try_from([JSON, TUS, PARTIAL].join(", ")) {
        headers.insert(HeaderName::from_static("accept-patch"), value);
    }
    resumable::add_most(headers, seen.most);
    tus::add_description(headers, seen.most);
    reply
}

/// As imageio has them: what has not come is a hole, and reads as zero.
fn extents(seen: &TransferSeen) -> Vec<Value> {
    stretches(seen).iter().map(|(range, has_come)| imageio::extent(range, !has_come)).collect()
}

/// The stretches of the drive in order, each with whether it has come: up to its size, or to the end of what has come
/// when that is not known.
fn stretches(seen: &TransferSeen) -> Vec<(Range<u64>, bool)> {
    let end = seen.transfer.size.map_or(seen.durable.ranges().last().map_or(0, |last| last.end), ByteCount::get);
    imageio::stretches(&seen.durable, end)
}

pub(super) fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::super::super::resumable::{UPLOAD_COMPLETE, UPLOAD_LENGTH, UPLOAD_OFFSET};
    use super::super::super::{golden, resolve};
    use super::*;
    use crate::domain::{Extents, Transfer};

    fn call(fields: &HeaderMap) -> Call<'_> {
        resolve(&Method::HEAD, "/", "", fields, Some(0)).call
    }

    /// A transfer of which these bytes have come.
    fn seen(size: Option<u64>, ranges: &[(u64, u64)]) -> TransferSeen {
        let seen = golden::transfer(TransferState::Open, ByteCount::ZERO);
        let transfer = Transfer { size: size.map(|size| ByteCount::new(size).unwrap()), ..seen.transfer };
        let ranges = ranges.iter().map(|(start, end)| *start..*end).collect();
        TransferSeen { transfer, durable: Extents::from_sorted(ranges).unwrap(), ..seen }
    }

    #[test]
    fn stretches_cover_the_drive_as_far_as_its_end_is_known() {
        for (size, ranges, expected) in [
            (Some(9), &[][..], vec![(0..9, false)]),
            (Some(9), &[(0, 9)], vec![(0..9, true)]),
            (Some(9), &[(2, 4), (6, 9)], vec![(0..2, false), (2..4, true), (4..6, false), (6..9, true)]),
            (Some(9), &[(0, 4)], vec![(0..4, true), (4..9, false)]),
            (None, &[], vec![]),
            (None, &[(0, 4), (6, 8)], vec![(0..4, true), (4..6, false), (6..8, true)]),
        ] {
            assert_eq!(stretches(&seen(size, ranges)), expected);
        }
    }

    #[test]
    fn an_answer_tells_how_far_the_bytes_have_come_and_of_how_many_once_that_is_known() {
        for (size, ranges, expected) in [
            (None, &[(0, 4)][..], ["4", "", "?0"]),
            (Some(9), &[(2, 9)], ["0", "9", "?0"]),
            (Some(9), &[(0, 4), (6, 9)], ["4", "9", "?0"]),
            // Its client has not said yet that it is complete.
            (Some(9), &[(0, 9)], ["9", "9", "?0"]),
        ] {
            let fields = HeaderMap::new();
            let reply = told(StatusCode::OK, &call(&fields), &seen(size, ranges));
            let field = |name| reply.headers().get(name).map_or("", |value: &HeaderValue| value.to_str().unwrap());
            assert_eq!([UPLOAD_OFFSET, UPLOAD_LENGTH, UPLOAD_COMPLETE].map(field), expected);
        }
    }

    #[test]
    fn clients_of_tus_are_told_the_terms_and_the_end_of_a_transfer() {
        let fields = HeaderMap::from_iter([(TUS_RESUMABLE, HeaderValue::from_static(VERSION))]);
        let shown = |seen: &TransferSeen| told(StatusCode::OK, &call(&fields), seen);
        let open = shown(&seen(None, &[]));
        let field = |reply: &Reply, name| reply.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(field(&open, "upload-defer-length").as_deref(), Some("1"));
        assert_eq!(field(&open, "upload-metadata").as_deref(), Some("filename ZGlzay5pbWc="));
        assert_eq!(field(&open, "upload-expires").as_deref(), Some("Wed, 15 Nov 2023 22:14:20 GMT"));
        assert_eq!(field(&open, "longshore-drive"), None);
        let done = shown(&golden::transfer(TransferState::Done, ByteCount::mib(1)));
        assert_eq!((field(&done, "upload-defer-length"), field(&done, "upload-expires")), (None, None));
        assert_eq!(field(&done, "longshore-drive").as_deref(), Some("01938c2e-7d10-7a42-9b51-3f0c5d2e8a77"));
    }

    #[test]
    fn an_end_that_is_under_way_is_told_as_accepted() {
        let status = |state| native::finished(&golden::transfer(state, ByteCount::mib(1)));
        assert_eq!(status(TransferState::Finishing), StatusCode::ACCEPTED);
        assert_eq!(status(TransferState::Done), StatusCode::OK);
        assert_eq!(status(TransferState::Open), StatusCode::OK);
    }
}
