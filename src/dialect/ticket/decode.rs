//! Requests into intents.

use http::{Method, header};

use super::super::resumable::{self, UPLOAD_LENGTH, count, one};
use super::super::{Anonymous, Call, checks, codings, digest_fields, imageio, media, native, query, ranges};
use super::{Op, TUS, tus};
use crate::domain::{
    ByteCount, Checks, Digests, Encoding, Extent, Fault, FaultKind, Finishes, PartOffset, PartPlan, PartTarget, Secret,
    TransferAction, TransferId,
};

/// Work on the transfer without a part.
pub(super) fn action(op: Op, call: &Call, body: &[u8]) -> Result<Anonymous, Fault> {
    tus::check_version(call)?;
    let (id, ticket) = capability(call)?;
    let action = match op {
        Op::Act => act(body)?,
        Op::Have => TransferAction::Have(Box::new(native::have(body, false)?)),
        Op::Cancel => TransferAction::Cancel,
        // Its clients take an upload of which all bytes have come for complete, and send nothing more.
        Op::Show if *call.method == Method::HEAD && tus::is_meant(call) => TransferAction::FinishWhole,
        Op::Show => resumable::look(call.method),
        Op::Extents | Op::Options => TransferAction::Show,
    };
    Ok(Anonymous::Transfer(id, ticket, action))
}

/// Whether the extents of what has not come are requested.
pub(super) fn is_of_missing(query: &str) -> Result<bool, Fault> {
    let mut is_of_missing = false;
    for (name, value) in query::pairs(query) {
        match (name.as_str(), value.as_str()) {
            ("missing", "") => is_of_missing = true,
            ("missing", _) => return Err(Fault::invalid(name, "missing has no value")),
            ("context", context) => imageio::check_context(context)?,
            _ => return Err(query::unknown(&name)),
        }
    }
    Ok(is_of_missing)
}

/// A part at any place.
pub(super) fn put(call: &Call) -> Result<PartPlan, Fault> {
    if !media::may_be(call.headers, "application/octet-stream") {
        return Err(unsupported("a part is sent as Content-Type: application/octet-stream"));
    }
    let encoding = coding(call)?;
    let (checks, asserted) = sums(call)?;
    if encoding != Encoding::Plain && (!checks.is_empty() || asserted != Digests::NONE) {
        // RFC 9530 has them over the bytes as they are sent, and here they are of those of the drive.
        return Err(Fault::invalid("content-encoding", "a compressed part takes no digests; assert them at the end"));
    }
    // What is answered is durable in any case, and nothing is kept open for a client.
    for (name, value) in query::pairs(call.query) {
        if !["y", "n"].contains(&value.as_str()) {
            return Err(Fault::invalid(&name, format!("{name} must be y or n")));
        }
    }
    let (extent, size) = match one(call, &header::CONTENT_RANGE)? {
        None => (None, None),
        Some(value) => {
            let range = ranges::of_part(value.as_bytes());
            let (extent, size) = range.ok_or_else(|| {
                Fault::invalid("content-range", "must be as in bytes 0-4095/8192, where the last number may be *")
            })?;
            (Some(extent), size)
        }
    };
    let length = match (call.length, extent) {
        (_, None) if encoding != Encoding::Plain => {
            let told = "of a compressed part, Content-Range tells how many bytes of the drive it has";
            return Err(Fault::invalid("content-range", told));
        }
        (Some(0), _) => return Err(Fault::new(FaultKind::Empty, "the request has no body; the part goes there")),
        (Some(length), Some(extent)) if encoding == Encoding::Plain && length != extent.len => {
            let told = format!("the range has {} bytes, and the body {length}", extent.len);
            return Err(Fault::invalid("content-range", told));
        }
        (length, extent) => extent.map(|extent| extent.len).or(length),
    };
    let at = PartOffset::At(extent.map_or(0, |extent| extent.offset));
    Ok(PartPlan { target: target(call)?, at, length, encoding, size, checks, asserted, finishes: Finishes::Never })
}

/// A part at the end of what has come.
pub(super) fn append(call: &Call) -> Result<PartPlan, Fault> {
    append_to(call, target(call)?)
}

/// A part at the end of what has come of this transfer.
pub(in crate::dialect) fn append_to(call: &Call, target: PartTarget) -> Result<PartPlan, Fault> {
    let is_tus = media::of(call.headers).is_some_and(|media| media.eq_ignore_ascii_case(TUS));
    match (is_tus, resumable::is_append(call.headers)) {
        (true, _) => tus::check_version(call)?,
        (_, true) => {}
        _ => {
            let told = "this method takes application/json, application/offset+octet-stream (tus) and \
                        application/partial-upload (resumable uploads)";
            return Err(unsupported(told));
        }
    }
    let (checks, asserted) = check_appended(call)?;
    if !is_tus {
        return Ok(PartPlan { checks, asserted, ..resumable::append(call, target)? });
    }
    let at = PartOffset::End(resumable::offset(call)?.get());
    let size = count(call, &UPLOAD_LENGTH)?;
    let (length, encoding, finishes) = (call.length, Encoding::Plain, Finishes::WhenWhole);
    Ok(PartPlan { target, at, length, encoding, size, checks, asserted, finishes })
}

fn act(body: &[u8]) -> Result<TransferAction, Fault> {
    let fields = native::Fields::read(body)?;
    let told = "must be zero, flush or finish";
    let op = fields.get("op", told, |value| value.as_str().map(str::to_owned))?;
    match op.as_deref() {
        Some("zero") => {
            fields.only(&["op", "offset", "size", "flush"])?;
            // What is answered is durable in any case.
            fields.get("flush", "must be true or false", serde_json::Value::as_bool)?;
            let most = ByteCount::MAX.get();
            let len = fields.number("size", 1..=most)?.ok_or_else(|| Fault::invalid("size", "size is required"))?;
            let offset = fields.number("offset", 0..=most - len)?;
            let offset = offset.ok_or_else(|| Fault::invalid("offset", "offset is required"))?;
            Ok(TransferAction::Zero(Extent { offset, len }))
        }
        Some("flush") => {
            fields.only(&["op"])?;
            Ok(TransferAction::Flush)
        }
        Some("finish") => {
            fields.only(&["op", "size", "digest"])?;
            Ok(TransferAction::Finish(fields.completion()?))
        }
        _ => Err(Fault::invalid("op", format!("op {told}"))),
    }
}

/// The transfer that the path names, and the secret in it.
fn capability(call: &Call) -> Result<(TransferId, Secret), Fault> {
    let no_such = |_| Fault::new(FaultKind::NotFound, "there is no such transfer");
    Ok((call.param("uuid").parse().map_err(no_such)?, Secret::new(call.param("token"))))
}

fn target(call: &Call) -> Result<PartTarget, Fault> {
    capability(call).map(|(id, ticket)| PartTarget::Ticketed(id, ticket))
}

/// As [`check_body`], of a part that has no place of its own.
pub(super) fn check_appended(call: &Call) -> Result<(Checks, Digests), Fault> {
    if call.headers.contains_key(header::CONTENT_RANGE) {
        return Err(Fault::invalid("content-range", "a part at the end takes no Content-Range"));
    }
    check_body(call)
}

/// The checksums of the body, which must be the plain bytes of the drive, and the digests of all bytes.
fn check_body(call: &Call) -> Result<(Checks, Digests), Fault> {
    if !media::is_uncoded(call.headers) {
        return Err(unsupported("a part is sent raw, without a Content-Encoding"));
    }
    sums(call)
}

/// The checksums of the body, and the digests of all bytes.
fn sums(call: &Call) -> Result<(Checks, Digests), Fault> {
    Ok((checks::of_head(call.headers)?, digest_fields::of_representation(call.headers)?))
}

/// The compression of a part that tells its place.
fn coding(call: &Call) -> Result<Encoding, Fault> {
    let is_known = |encoding: &Encoding| matches!(encoding, Encoding::Plain | Encoding::Zstd);
    let fault = || {
        let fault = unsupported("a part is sent raw, or with Content-Encoding: zstd");
        Fault { point: Some(header::CONTENT_ENCODING.to_string()), ..fault }
    };
    codings::sent(call.headers).filter(is_known).ok_or_else(fault)
}

pub(super) fn unsupported(told: &str) -> Fault {
    Fault::new(FaultKind::UnsupportedMediaType, told)
}
