//! Resumable uploads as the IETF's draft has them (draft-ietf-httpbis-resumable-upload, interop version 8): what is the
//! same at each URL where they begin or go on.
//!
//! The draft has receivers ignore a field whose value is of another type. Here it is refused: an upload that was taken
//! for a plain one by such a mistake would make a drive of a part of its bytes.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Call, Reply, bare, checks, digest_fields, direct, media, reply};
use crate::domain::{
    ByteCount, Checks, Digests, Encoding, Fault, FaultKind, Finishes, PartOffset, PartPlan, PartTarget, Reason,
    TransferAction, TransferSeen, TransferSpec, TransferState,
};

/// The media type of a part at the end of what has come.
pub(super) const PARTIAL: &str = "application/partial-upload";

pub(super) const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(super) const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(super) const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
const UPLOAD_LIMIT: HeaderName = HeaderName::from_static("upload-limit");
/// The client's own name for an upload, by which it is found again.
const REFERENCE: HeaderName = HeaderName::from_static("x-client-reference");

const INTEROP: HeaderName = HeaderName::from_static("upload-draft-interop-version");
/// The version of the draft that is spoken here.
const INTEROP_VERSION: &str = "8";

/// The most characters of a reference.
const MAX_REFERENCE: usize = 255;

/// What is told while the body of a request comes, in interim answers.
#[derive(Clone, Copy, Debug)]
pub enum Meanwhile<'a> {
    /// A transfer was made for it.
    Begun(&'a TransferSeen),
    /// Its bytes before this offset are durable.
    Durable(u64),
}

/// Whether a request begins a resumable upload where it would begin a plain one else.
pub(super) fn is_creation(headers: &HeaderMap) -> bool {
    headers.contains_key(UPLOAD_COMPLETE)
}

/// Whether a body is a part at the end of what has come.
pub(super) fn is_append(headers: &HeaderMap) -> bool {
    media::of(headers).is_some_and(|media| media.eq_ignore_ascii_case(PARTIAL))
}

/// The first part of a new transfer for the drive of this name.
pub(super) fn creation(call: &Call, name: String) -> Result<PartPlan, Fault> {
    let is_last = is_complete(call)?;
    if count(call, &UPLOAD_OFFSET)?.is_some_and(|offset| offset != ByteCount::ZERO) {
        return Err(Fault::invalid(UPLOAD_OFFSET.as_str(), "an upload begins at byte 0"));
    }
    if is_last && call.length == Some(0) {
        return Err(Fault::new(FaultKind::Empty, "the request has no body; the image goes there"));
    }
    let told = count(call, &UPLOAD_LENGTH)?;
    let size = match call.length.filter(|_| is_last).and_then(ByteCount::new) {
        Some(length) => Some(length),
        None => told,
    };
    let is_too_long = told.is_some_and(|told| call.length.is_some_and(|length| length > told.get()));
    if is_too_long || told.is_some() && told != size {
        return Err(inconsistent("Upload-Length is not the length of the body"));
    }
    // The content of the only request is all bytes: what is asserted of them is no reason to count none before the end.
    let (asserted, checks) = if is_last {
        (digest_fields::asserted(call.headers)?, Checks::default())
    } else {
        (digest_fields::of_representation(call.headers)?, checks::of_head(call.headers)?)
    };
    check_wishes(call, &asserted)?;
    let reference = reference(call)?;
    let spec = TransferSpec { name, size, asserted, reference, ..TransferSpec::default() };
    let target = PartTarget::New(Box::new(spec));
    let finishes = finishes(is_last);
    let (at, length) = (PartOffset::At(0), call.length);
    let (encoding, asserted) = (Encoding::Plain, Digests::NONE);
    Ok(PartPlan { target, at, length, encoding, size: None, checks, asserted, finishes })
}

/// A part at the end of what has come.
pub(super) fn append(call: &Call, target: PartTarget) -> Result<PartPlan, Fault> {
    let is_last = is_complete(call)?;
    let offset = offset(call)?;
    let size = count(call, &UPLOAD_LENGTH)?;
    let end = call.length.and_then(|length| offset.get().checked_add(length));
    if let (Some(size), Some(end)) = (size, end)
        && (end > size.get() || is_last && end != size.get())
    {
        return Err(inconsistent("Upload-Length is not the end of the body"));
    }
    let at = PartOffset::End(offset.get());
    let (checks, asserted, finishes) = (Checks::default(), Digests::NONE, finishes(is_last));
    Ok(PartPlan { target, at, length: call.length, encoding: Encoding::Plain, size, checks, asserted, finishes })
}

/// Refuses the wish for a digest by an algorithm by which none is asserted: a transfer is digested by no other.
fn check_wishes(call: &Call, asserted: &Digests) -> Result<(), Fault> {
    let known = asserted.algorithms();
    if known.or(digest_fields::wanted(call.headers)) == known {
        return Ok(());
    }
    let told = "a resumable upload tells only digests that are asserted of it";
    Err(Fault::invalid("want-repr-digest", told))
}

/// How a transfer is looked at: `HEAD` is of who goes on with it.
pub(super) fn look(method: &Method) -> TransferAction {
    if method == Method::HEAD { TransferAction::Resume } else { TransferAction::Show }
}

/// The offset at which a part begins.
pub(super) fn offset(call: &Call) -> Result<ByteCount, Fault> {
    let offset = count(call, &UPLOAD_OFFSET)?;
    offset.ok_or_else(|| Fault::invalid(UPLOAD_OFFSET.as_str(), "Upload-Offset is required"))
}

/// A number of bytes in a field.
pub(super) fn count(call: &Call, name: &HeaderName) -> Result<Option<ByteCount>, Fault> {
    let wrong = || Fault::invalid(name.as_str(), format!("{name} must be a whole number of bytes"));
    let number = |value: &HeaderValue| {
        let text = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        text.and_then(|text| text.parse().ok()).and_then(ByteCount::new).ok_or_else(wrong)
    };
    one(call, name)?.map(number).transpose()
}

/// A field that may be there once.
pub(super) fn one<'a>(call: &'a Call, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Fault> {
    let mut values = call.headers.get_all(name).iter();
    let value = values.next();
    match values.next() {
        None => Ok(value),
        Some(_) => Err(Fault::invalid(name.as_str(), format!("{name} is there twice"))),
    }
}

/// Whether a part is the last: a boolean of RFC 9651.
fn is_complete(call: &Call) -> Result<bool, Fault> {
    match one(call, &UPLOAD_COMPLETE)?.map(HeaderValue::as_bytes) {
        Some(b"?0") => Ok(false),
        Some(b"?1") => Ok(true),
        _ => Err(Fault::invalid(UPLOAD_COMPLETE.as_str(), "Upload-Complete must be ?0 or ?1")),
    }
}

fn finishes(is_last: bool) -> Finishes {
    if is_last { Finishes::Here } else { Finishes::Never }
}

fn reference(call: &Call) -> Result<Option<String>, Fault> {
    let Some(value) = one(call, &REFERENCE)? else { return Ok(None) };
    let is_one =
        |text: &&str| !text.is_empty() && text.chars().count() <= MAX_REFERENCE && !text.chars().any(char::is_control);
    let text = std::str::from_utf8(value.as_bytes()).ok().filter(is_one);
    let told = || Fault::invalid(REFERENCE.as_str(), "must be 1 to 255 characters, none of them a control character");
    text.map(|text| Some(text.to_owned())).ok_or_else(told)
}

fn inconsistent(told: &str) -> Fault {
    Fault::invalid(UPLOAD_LENGTH.as_str(), told).for_reason(Reason::InconsistentLength)
}

/// The fields of an interim answer, for clients that speak this version of the draft; others must not get one.
pub(super) fn interim(call: &Call, meanwhile: Meanwhile, location: Option<String>) -> Option<HeaderMap> {
    let version = call.headers.get(INTEROP)?;
    if version != INTEROP_VERSION {
        return None;
    }
    let mut fields = HeaderMap::new();
    fields.insert(INTEROP, HeaderValue::from_static(INTEROP_VERSION));
    match (meanwhile, location) {
        (Meanwhile::Begun(seen), Some(location)) => {
            fields.insert(header::LOCATION, HeaderValue::try_from(location).ok()?);
            add_limit(&mut fields, seen);
        }
        (Meanwhile::Begun(_), None) => return None,
        (Meanwhile::Durable(offset), _) => drop(fields.insert(UPLOAD_OFFSET, offset.into())),
    }
    Some(fields)
}

/// The answer to a first part whose transfer goes on at this URL.
pub(super) fn begun(seen: &TransferSeen, location: String) -> Option<Reply> {
    let is_finishing = seen.transfer.state == TransferState::Finishing;
    let mut reply = bare(if is_finishing { StatusCode::ACCEPTED } else { StatusCode::CREATED });
    reply.headers_mut().insert(header::LOCATION, HeaderValue::try_from(location).ok()?);
    direct::guarded(reply.headers_mut());
    add_state(reply.headers_mut(), seen);
    Some(reply)
}

/// Adds how far a transfer has come, as tus and the draft tell it alike.
pub(super) fn add_state(headers: &mut HeaderMap, seen: &TransferSeen) {
    headers.insert(UPLOAD_OFFSET, seen.offset().into());
    if let Some(size) = seen.transfer.size {
        headers.insert(UPLOAD_LENGTH, size.get().into());
    }
    // The draft's word for it: its client has said so, and not only sent all bytes.
    let is_complete = matches!(seen.transfer.state, TransferState::Finishing | TransferState::Done);
    headers.insert(UPLOAD_COMPLETE, HeaderValue::from_static(if is_complete { "?1" } else { "?0" }));
    add_limit(headers, seen);
}

fn add_limit(headers: &mut HeaderMap, seen: &TransferSeen) {
    let limit = match seen.left {
        0 => format!("max-size={}", seen.most),
        left => format!("max-size={}, max-age={left}", seen.most),
    };
    headers.extend(HeaderValue::try_from(limit).ok().map(|limit| (UPLOAD_LIMIT, limit)));
}

/// What [`add_state`] adds, for OpenAPI.
pub(super) fn described_state() -> Value {
    let number = json!({"schema": {"type": "integer"}});
    json!({
        "Upload-Offset": {
            "schema": {"type": "integer"},
            "description": "The count of bytes that are durable from the first on.",
        },
        "Upload-Length": number,
        "Upload-Complete": {"schema": {"type": "string", "enum": ["?0", "?1"]}},
        "Upload-Limit": {"schema": {"type": "string"}},
    })
}

/// The fields of a part at the end of what has come, for OpenAPI.
pub(super) fn described_part() -> Vec<Value> {
    let field = |name: &str, is_required: bool, kind: &str, about: &str| {
        json!({
            "name": name,
            "in": "header",
            "required": is_required,
            "schema": {"type": kind},
            "description": about,
        })
    };
    vec![
        field("Upload-Offset", true, "integer", "Where the part begins, which is where the bytes that have come end."),
        field(
            "Upload-Complete",
            false,
            "string",
            "Whether it is the last part, as ?1 or ?0; required of a partial upload.",
        ),
        field("Upload-Length", false, "integer", "The bytes that come in all."),
        field("Content-Digest", false, "string", "The digest of the part (RFC 9530), by sha-256 or blake3."),
        field("Repr-Digest", false, "string", "The digest of all bytes of the drive, likewise."),
        field("Upload-Checksum", false, "string", "The checksum of the part, as tus has it."),
        field("Tus-Resumable", false, "string", "The version of tus; required of its parts."),
    ]
}

/// Adds the largest size of a drive.
pub(super) fn add_most(headers: &mut HeaderMap, most: ByteCount) {
    headers.extend(HeaderValue::try_from(format!("max-size={most}")).ok().map(|limit| (UPLOAD_LIMIT, limit)));
}

/// The fault of a resumable upload in the draft's own words, where it has some.
pub(super) fn problem(call: &Call, fault: &Fault) -> Option<Reply> {
    let (status, name, title) = match fault.reason.as_deref()? {
        Reason::WrongOffset { .. } => {
            (StatusCode::CONFLICT, "mismatching-upload-offset", "offset from request does not match offset of resource")
        }
        Reason::TransferComplete if call.length == Some(0) => {
            (StatusCode::BAD_REQUEST, "completed-upload", "upload is already completed")
        }
        Reason::TransferComplete | Reason::InconsistentLength => {
            (StatusCode::BAD_REQUEST, "inconsistent-upload-length", "inconsistent length values for upload")
        }
        _ => return None,
    };
    let kind = format!("https://iana.org/assignments/http-problem-types#{name}");
    let mut problem = json!({"type": kind, "title": title, "detail": fault.told, "status": status.as_u16()});
    if let Some(Reason::WrongOffset { expected, told }) = fault.reason.as_deref() {
        problem["expected-offset"] = (*expected).into();
        problem["provided-offset"] = (*told).into();
    }
    Some(reply(status, "application/problem+json", format!("{problem}\n")))
}

/// The schema of [`problem`].
pub(super) fn schema() -> Value {
    let offset = json!({"type": "integer", "description": "Of `mismatching-upload-offset`."});
    json!({
        "type": "object",
        "required": ["type", "title", "detail", "status"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "detail": {"type": "string"},
            "status": {"type": "integer"},
            "expected-offset": offset,
            "provided-offset": offset,
        },
    })
}

/// Adds to the answer that tells a fault what helps to go on.
pub(super) fn advise(headers: &mut HeaderMap, fault: &Fault) {
    match fault.reason.as_deref() {
        Some(Reason::WrongOffset { expected, .. }) => drop(headers.insert(UPLOAD_OFFSET, (*expected).into())),
        Some(Reason::LargerThan(most)) => add_most(headers, *most),
        _ => {}
    }
}
