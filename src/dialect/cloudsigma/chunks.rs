//! Uploads in chunks. A drive is begun, and its chunks come in any order, by one of two ways that may be mixed: to
//! links that are asked for chunk by chunk, numbered from 0, or in the form of resumable.js, numbered from 1. The last
//! chunk has what is left as well.
//!
//! Clients take any 2xx to the question for a chunk for "it is there", and any to a chunk for "it is stored".

use std::ops::Range;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::form::Form;
use super::super::{
    Answer, ByForm, ByHead, Call, Endpoint, Entry, ForKnown, Guard, KnownOperation, Operation, Places, Reply, Route,
    Side, Work, checks, digest_fields, direct, query, ticket,
};
use super::{BASE, MAX_JSON, drive, encode, fields};
use crate::domain::{
    ByteCount, Checks, Chunk, ChunkLength, ChunkSource, Command, Digests, Encoding, Fault, FaultKind, Finishes, Media,
    Outcome, PartOffset, PartPlan, PartTarget, Principal, Reason, Secret, TransferCommand, TransferSeen, TransferState,
    VolumeId, VolumeSpec,
};

/// The URL at which the transfer that fills a drive takes parts in other dialects.
const TRANSFER: HeaderName = HeaderName::from_static("longshore-transfer");

pub(super) const INIT_UPLOAD: Route = Route {
    pattern: "/api/2.0/initupload",
    allow: "POST",
    endpoints: &[Endpoint {
        method: Method::POST,
        media: None,
        side: Side::Control,
        summary: "begins a drive that is uploaded in chunks",
        entry: Entry::Known(ForKnown { guard: Guard::Basic, body: Some(MAX_JSON), op: &InitUpload }),
    }],
};

pub(super) const LINK: Route = Route {
    pattern: "/api/2.0/upload_chunk/{token}",
    allow: "POST",
    endpoints: &[Endpoint {
        method: Method::POST,
        media: None,
        side: Side::Either,
        summary: "takes the chunk that the link is for",
        entry: Entry::Part(None, ByHead { op: &Linked, decode: linked }),
    }],
};

pub(super) const RESUMABLE_JS: Route = Route {
    pattern: "/api/2.0/drives/{uuid}/upload",
    allow: "GET, HEAD, POST",
    endpoints: &[
        Endpoint {
            method: Method::GET,
            media: None,
            side: Side::Either,
            summary: "tells whether a chunk has come",
            entry: Entry::Known(ForKnown { guard: Guard::Basic, body: None, op: &Test }),
        },
        Endpoint {
            method: Method::POST,
            media: Some("application/octet-stream"),
            side: Side::Either,
            summary: "takes a chunk as the body, by the terms in the query",
            entry: Entry::Part(Some(Guard::Basic), ByHead { op: &InQuery, decode: octets }),
        },
        Endpoint {
            method: Method::POST,
            media: None,
            side: Side::Either,
            summary: "takes a chunk in a form",
            entry: Entry::Form(Guard::Basic, ByForm { op: &InQuery, decode: form }),
        },
    ],
};

/// The terms of a chunk. The last four describe the file to its sender, and mean nothing here.
const TERMS: &[&str] = &[
    "resumableChunkNumber",
    "resumableChunkSize",
    "resumableTotalSize",
    "resumableCurrentChunkSize",
    "resumableTotalChunks",
    "resumableType",
    "resumableIdentifier",
    "resumableFilename",
    "resumableRelativePath",
];

/// The path of a link. It lies beneath the base of the API, which some clients take for granted. Some put a slash at
/// its end, and curl would put the name of a file behind one.
pub(super) fn path(link: &Secret) -> String {
    format!("{BASE}/upload_chunk/{}", link.reveal())
}

/// The start of a drive that is uploaded in chunks.
#[derive(Debug)]
struct InitUpload;

impl Operation for InitUpload {
    fn parameters(&self) -> &'static [&'static str] {
        &["avoid"]
    }

    fn encode(&self, _: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        let Outcome::Filling { drive, transfer } = outcome else { return None };
        let mut reply = encode::json_reply(StatusCode::CREATED, &json!({"objects": [drive::object(drive)]}));
        encode::set(&mut reply, header::LOCATION, &places.control_location(&drive::resource_uri(drive.id)));
        let url = format!("{}{}", places.direct, ticket::path(transfer.ticket.as_ref()?, transfer.transfer.id));
        encode::set(&mut reply, TRANSFER, &url);
        reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(reply)
    }
}

impl KnownOperation for InitUpload {
    fn decode(&'static self, call: &Call, _: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault> {
        check_avoid(call.query)?;
        let object = fields::one(body)?;
        let spec = VolumeSpec {
            name: object.name()?.ok_or_else(|| object.missing("name"))?,
            size: Some(object.size()?.ok_or_else(|| object.missing("size"))?),
            media: object.media()?.unwrap_or(Media::Disk),
            meta: object.meta()?.unwrap_or_default(),
            attributes: object.attributes()?,
            ..VolumeSpec::default()
        };
        Ok((Work::Control(Command::Transfer(TransferCommand::Fill(Box::new(spec)))), Answer::of(self)))
    }
}

/// Drives and servers from which the new one should be kept apart, if that can be: all are on one storage here.
fn check_avoid(query: &str) -> Result<(), Fault> {
    for (name, list) in query::pairs(query) {
        let is_one = |id: &str| id.parse::<VolumeId>().is_ok();
        if !list.split(',').all(is_one) {
            return Err(Fault::invalid(name, "avoid must be UUIDs with commas between them"));
        }
    }
    Ok(())
}

/// The chunk for which a link is made: `{"chunk_number": 0, "chunk_size": 5242880}`.
pub(super) fn chunk(body: &[u8]) -> Result<Chunk, Fault> {
    let numbers = fields::numbers(body, &["chunk_number", "chunk_size"])?;
    let [Some(number), Some(size)] = numbers else {
        return Err(Fault::invalid("chunk_number", "chunk_number and chunk_size are required"));
    };
    if size == 0 {
        return Err(Fault::invalid("chunk_size", "a chunk has at least one byte"));
    }
    Ok(Chunk { number, size })
}

/// A chunk that came to a link.
#[derive(Debug)]
struct Linked;

impl Operation for Linked {
    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        stored(outcome)
    }
}

fn linked(call: &Call) -> Result<PartPlan, Fault> {
    super::decode::check_form(call)?;
    if call.length == Some(0) {
        return Err(Fault::new(FaultKind::Empty, "the request has no body; the chunk goes there"));
    }
    let target = PartTarget::Chunk(ChunkSource::Linked(Secret::new(call.param("token"))), length_of(call));
    Ok(of_chunk(target, (0, call.length), None, digests(call)?))
}

/// The plan of a chunk: with the last of them, the drive is made.
fn of_chunk(
    target: PartTarget,
    (start, length): (u64, Option<u64>),
    size: Option<ByteCount>,
    (checks, asserted): (Checks, Digests),
) -> PartPlan {
    let (at, encoding, finishes) = (PartOffset::At(start), Encoding::Plain, Finishes::WhenWhole);
    PartPlan { target, at, length, encoding, size, checks, asserted, finishes }
}

/// A chunk with terms, as resumable.js has them.
#[derive(Debug)]
struct InQuery;

impl Operation for InQuery {
    fn parameters(&self) -> &'static [&'static str] {
        TERMS
    }

    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        stored(outcome)
    }
}

/// A chunk that is the body.
fn octets(call: &Call) -> Result<PartPlan, Fault> {
    super::decode::check_form(call)?;
    let (range, total) = place(&query::pairs(call.query).collect::<Vec<_>>())?;
    let length = range.end - range.start;
    if let Some(told) = call.length.filter(|told| *told != length) {
        return Err(Fault::invalid("content-length", format!("this chunk has {length} bytes, and the body {told}")));
    }
    let (checks, asserted) = digests(call)?;
    plan(call, (range, total), length_of(call), (checks, asserted))
}

/// A chunk that is the file of a form, which may say again what the query says.
fn form(call: &Call, form: &Form) -> Result<PartPlan, Fault> {
    if digests(call)? != (Checks::default(), Digests::NONE) {
        return Err(Fault::invalid(
            "content-digest",
            "digests are compared of chunks that are the body, and not a form",
        ));
    }
    let mut terms: Vec<(String, String)> = query::pairs(call.query).collect();
    for (name, value) in &form.fields {
        if !TERMS.contains(&name.as_str()) {
            return Err(Fault::invalid(name, format!("this form takes no field {name:?}")));
        }
        match terms.iter().find(|(known, _)| known == name) {
            Some((_, known)) if known != value => {
                return Err(Fault::invalid(name, format!("{name} is {known} in the query, and {value} in the form")));
            }
            Some(_) => {}
            None => terms.push((name.clone(), value.clone())),
        }
    }
    let (range, total) = place(&terms)?;
    let length = range.end - range.start;
    if !form.fits(length) {
        let told = format!("the form is not one with this chunk, of {length} bytes, at its end");
        return Err(Fault::invalid("file", told));
    }
    let ending = if form.rest.is_some() { ChunkLength::Framed } else { ChunkLength::Unknown };
    plan(call, (range, total), ending, (Checks::default(), Digests::NONE))
}

fn plan(
    call: &Call,
    (range, total): (Range<u64>, ByteCount),
    ending: ChunkLength,
    digests: (Checks, Digests),
) -> Result<PartPlan, Fault> {
    let target = PartTarget::Chunk(ChunkSource::Drive(call.volume_id()?), ending);
    Ok(of_chunk(target, (range.start, Some(range.end - range.start)), Some(total), digests))
}

fn length_of(call: &Call) -> ChunkLength {
    if call.length.is_some() { ChunkLength::Told } else { ChunkLength::Unknown }
}

fn digests(call: &Call) -> Result<(Checks, Digests), Fault> {
    Ok((checks::of_head(call.headers)?, digest_fields::of_representation(call.headers)?))
}

/// The bytes of a chunk by its terms, and the size of the drive.
fn place(terms: &[(String, String)]) -> Result<(Range<u64>, ByteCount), Fault> {
    let [number, size, total] = [TERMS[0], TERMS[1], TERMS[2]].map(|name| {
        number(terms, name)?.ok_or_else(|| Fault::invalid(name, format!("{name} is required, before the file")))
    });
    let (number, size) = (number?, size?);
    let total = ByteCount::new(total?).ok_or_else(|| Fault::invalid(TERMS[2], "no drive can have so many bytes"))?;
    let is_beyond = || {
        let told = format!("a file of {total} bytes has no chunk {number} of {size} bytes; they are numbered from 1");
        Fault::invalid(TERMS[0], told)
    };
    let chunk = Chunk { number: number - 1, size };
    // With the option `forceChunkSize`, what is left is a chunk of its own: the sizes of the last ones tell.
    let range = match self::number(terms, TERMS[3])? {
        None => chunk.within(total).ok_or_else(is_beyond)?,
        Some(current) => {
            let start = chunk.number.checked_mul(size).ok_or_else(is_beyond)?;
            let end = start.checked_add(current).filter(|end| *end <= total.get()).ok_or_else(is_beyond)?;
            if current != size && (end != total.get() || current / 2 >= size) {
                let told = format!("chunk {number} of a file of {total} bytes in chunks of {size} has not {current}");
                return Err(Fault::invalid(TERMS[3], told));
            }
            start..end
        }
    };
    let counts = [chunk.count(total), total.get().div_ceil(size)];
    match self::number(terms, TERMS[4])? {
        Some(told) if !counts.contains(&told) || number > told => {
            let told = format!("a file of {total} bytes has not {told} chunks of {size} bytes");
            Err(Fault::invalid(TERMS[4], told))
        }
        _ => Ok((range, total)),
    }
}

/// A number among the terms. None of them can be 0.
fn number(terms: &[(String, String)], name: &str) -> Result<Option<u64>, Fault> {
    let Some((_, text)) = terms.iter().find(|(known, _)| known == name) else { return Ok(None) };
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let number = number.filter(|number: &u64| *number > 0);
    number.map(Some).ok_or_else(|| Fault::invalid(name, format!("{name} must be a whole number of at least 1")))
}

/// The question whether a chunk has come.
#[derive(Debug)]
struct Test;

impl Operation for Test {
    fn parameters(&self) -> &'static [&'static str] {
        TERMS
    }

    fn encode(&self, _: &Call, _: &Outcome, _: &Places) -> Option<Reply> {
        None
    }
}

impl KnownOperation for Test {
    fn decode(&'static self, call: &Call, _: &Principal, _: &[u8]) -> Result<(Work, Answer), Fault> {
        let command = TransferCommand::Filling(call.volume_id()?);
        let (range, total) = place(&query::pairs(call.query).collect::<Vec<_>>())?;
        Ok((Work::Control(Command::Transfer(command)), Answer::asked(Tested { range, total })))
    }
}

/// The question with what it is about.
#[derive(Debug)]
struct Tested {
    range: Range<u64>,
    total: ByteCount,
}

impl Operation for Tested {
    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        let Outcome::Transfer(seen) = outcome else { return None };
        if let Some(size) = seen.transfer.size.filter(|size| *size != self.total) {
            let told = format!("the upload is one of {size} bytes, not {}", self.total);
            let fault = Fault::invalid(TERMS[2], told).for_reason(Reason::InconsistentLength);
            return Some(encode::error(&fault));
        }
        if seen.durable.first_gap(self.range.clone()).is_some() {
            // Not 204, which resumable.js would have: other clients take it for a success.
            return Some(encode::error(&Fault::new(FaultKind::NotFound, "this chunk has not come")));
        }
        stored(outcome)
    }
}

/// The answer to a chunk that is stored; always the same, since it may be asked for again.
fn stored(outcome: &Outcome) -> Option<Reply> {
    let Outcome::Transfer(seen) = outcome else { return None };
    let mut reply = encode::json_reply(StatusCode::OK, &json!({"objects": [told(seen)]}));
    direct::guarded(reply.headers_mut());
    Some(reply)
}

/// The drive of a transfer, as far as the transfer tells it.
fn told(seen: &TransferSeen) -> Value {
    let status = if seen.transfer.state == TransferState::Done { "unmounted" } else { "uploading" };
    let id = seen.transfer.volume;
    json!({"resource_uri": drive::resource_uri(id), "status": status, "uuid": id.to_string()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Vec<(String, String)> {
        let whole = |pair: &str| {
            let (name, value) = pair.split_once('=').expect("a pair");
            let name = ["Number", "Size", "Total", "Current", "Chunks"].iter().position(|known| *known == name);
            (TERMS[name.expect("a term")].to_owned(), value.to_owned())
        };
        text.split(' ').map(whole).collect()
    }

    #[test]
    fn terms_tell_the_bytes_of_a_chunk_with_a_last_one_that_is_larger_or_smaller() {
        for (text, expected) in [
            ("Number=1 Size=2 Total=5", 0..2),
            ("Number=2 Size=2 Total=5", 2..5),
            ("Number=2 Size=2 Total=5 Current=3 Chunks=2", 2..5),
            ("Number=2 Size=2 Total=5 Current=2 Chunks=3", 2..4),
            ("Number=3 Size=2 Total=5 Current=1 Chunks=3", 4..5),
            ("Number=1 Size=9 Total=5 Current=5 Chunks=1", 0..5),
        ] {
            assert_eq!(place(&terms(text)).unwrap().0, expected, "{text}");
        }
    }

    #[test]
    fn terms_that_do_not_fit_each_other_are_refused() {
        for (text, point) in [
            ("Number=3 Size=2 Total=5", 0),
            ("Number=0 Size=2 Total=5", 0),
            ("Number=-1 Size=2 Total=5", 0),
            ("Number=18446744073709551615 Size=18446744073709551615 Total=5", 0),
            ("Number=18446744073709551615 Size=18446744073709551615 Total=5 Current=2", 0),
            ("Number=1 Size=0 Total=5", 1),
            ("Number=1 Size=2 Total=0", 2),
            ("Number=1 Size=2 Total=9223372036854775808", 2),
            ("Number=1 Size=2 Total=", 2),
            ("Number=2 Size=2", 2),
            ("Number=1 Size=2 Total=5 Current=3", 3),
            ("Number=1 Size=2 Total=5 Current=5", 3),
            ("Number=2 Size=2 Total=5 Current=1", 3),
            ("Number=2 Size=2 Total=5 Current=4", 0),
            ("Number=1 Size=2 Total=5 Chunks=4", 4),
            ("Number=3 Size=2 Total=5 Current=1 Chunks=2", 4),
        ] {
            assert_eq!(place(&terms(text)).unwrap_err().point.as_deref(), Some(TERMS[point]), "{text}");
        }
    }
}
