//! Capability URLs: where a download is redirected to, and the head of the bytes that are served there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::conditional::{self, Selection, Validators};
use super::ranges::{Multipart, content_range};
use super::{
    Anonymous, Answer, ByHead, Call, Dialect, Endpoint, Entry, ForAnyone, OpenOperation, Operation, Places, Reply,
    Route, Side, advise, bare, basic, codings, digest_fields, imageio, query, reply,
};
use crate::domain::{
    Digests, Encoding, Extent, Fault, FaultKind, Outcome, Secret, SendPlan, SurveyPlan, UnixTime, Volume, VolumeId,
};

/// Of the capability URLs, and of every path that belongs to no API.
pub(super) static DIALECT: Dialect =
    Dialect { name: "direct", routes: ROUTES, has_path: |_| true, fault, challenge: basic, request_id_fields: |_| &[] };

static ROUTES: &[Route] = &[
    Route {
        pattern: "/t/{token}/{uuid}",
        allow: ALLOW,
        endpoints: &[
            Endpoint {
                method: Method::GET,
                media: None,
                side: Side::Direct,
                summary: "the bytes of a drive, whole or by range, or a tree as an archive",
                entry: Entry::Send(ByHead { op: &Download, decode }),
            },
            survey(Method::OPTIONS, &Look::Options, "the methods and features of the URL"),
        ],
    },
    Route {
        pattern: "/t/{token}/{uuid}/extents",
        allow: "GET, HEAD",
        endpoints: &[survey(Method::GET, &Look::Extents, "where a drive has data, and where zeros")],
    },
];

/// The methods of a download's URL.
const ALLOW: &str = "GET, HEAD, OPTIONS";

const fn survey(method: Method, op: &'static Look, summary: &'static str) -> Endpoint {
    let entry = Entry::Anonymous(ForAnyone { body: None, op });
    Endpoint { method, media: None, side: Side::Direct, summary, entry }
}

/// What is told of a drive beside its bytes, as clients of imageio expect it.
#[derive(Clone, Copy, Debug)]
enum Look {
    Options,
    Extents,
}

impl Operation for Look {
    fn parameters(&self) -> &'static [&'static str] {
        match self {
            Self::Extents => &["context"],
            Self::Options => &[],
        }
    }

    fn encode(&self, _: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        let Outcome::Survey(seen) = outcome else { return None };
        let json = match self {
            Self::Options if seen.is_tree => imageio::options(&[]),
            Self::Options => imageio::options(&["extents"]),
            Self::Extents => {
                let stretches = imageio::stretches(&seen.data, seen.size.get());
                stretches.iter().map(|(range, is_data)| imageio::extent(range, !is_data)).collect()
            }
        };
        let mut reply = reply(StatusCode::OK, "application/json", json.to_string());
        guarded(reply.headers_mut());
        if matches!(self, Self::Options) {
            reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(ALLOW));
        }
        Some(reply)
    }
}

impl OpenOperation for Look {
    fn decode(&'static self, call: &Call, _: &[u8]) -> Result<(Anonymous, Answer), Fault> {
        for (_, context) in query::pairs(call.query) {
            imageio::check_context(&context)?;
        }
        let (token, id) = (Secret::new(call.param("token")), call.volume_id()?);
        let wants_data = matches!(self, Self::Extents);
        Ok((Anonymous::Survey(SurveyPlan { token, id, wants_data }), Answer::of(self)))
    }
}

/// A download. It is answered with bytes, by [`answer`] or [`archive`].
#[derive(Debug)]
struct Download;

impl Operation for Download {
    fn encode(&self, _: &Call, _: &Outcome, _: &Places) -> Option<Reply> {
        None
    }
}

/// When the bytes of a drive were last read back whole, and were those that were stored.
const CHECKED: HeaderName = HeaderName::from_static("longshore-checked");

/// The path that [`ROUTES`] serves for a ticket.
pub(super) fn path(token: &str, id: VolumeId) -> String {
    format!("/t/{token}/{id}")
}

/// A redirect to the ticket's URL. It is a secret for as long as it is good, so nothing may keep or pass it on.
pub(super) fn redirect(id: VolumeId, token: &Secret, places: &Places) -> Option<Reply> {
    let location = HeaderValue::try_from(places.direct_location(&path(token.reveal(), id))).ok()?;
    let mut reply = bare(StatusCode::FOUND);
    let headers = reply.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Some(reply)
}

fn decode(call: &Call) -> Result<SendPlan, Fault> {
    Ok(SendPlan {
        token: Secret::new(call.param("token")),
        id: call.volume_id()?,
        wanted: digest_fields::wanted(call.headers),
        encoding: codings::accepted(call.headers),
    })
}

/// A stretch of the body of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Framing between parts.
    Framing(Bytes),
    /// Bytes of the drive.
    Extent(Extent),
}

/// The head of the answer to an admitted download, and what its body is made of.
///
/// `boundary` separates the parts when several are asked for; see [`Multipart::boundary`]. `modified` is when its bytes
/// came to be as they are, and `checked` when they were last seen to be so, if that is to be told.
pub fn answer(
    call: &Call,
    volume: &Volume,
    (modified, checked): (UnixTime, Option<UnixTime>),
    boundary: &str,
) -> Response<Vec<Chunk>> {
    let size = volume.size;
    let etag = volume.etag();
    let multipart = Multipart { boundary, size };
    // A first content had none before it in any second.
    let validators = Validators { etag: &etag, modified: whole_seconds(modified), is_only: volume.generation <= 1 };
    let selection = conditional::select(call.method, call.headers, &validators, size);
    let (status, content_type, range, length, chunks) = match selection {
        Selection::Whole => {
            (StatusCode::OK, OCTET_STREAM.to_owned(), None, size.get(), vec![Chunk::Extent(Extent::whole(size))])
        }
        Selection::Parts(parts) => {
            if let [part] = parts[..] {
                let range = Some(content_range(part, size));
                (StatusCode::PARTIAL_CONTENT, OCTET_STREAM.to_owned(), range, part.len, vec![Chunk::Extent(part)])
            } else {
                let framed = |part: &Extent| [Chunk::Framing(multipart.part_head(*part)), Chunk::Extent(*part)];
                let mut chunks: Vec<Chunk> = parts.iter().flat_map(framed).collect();
                chunks.push(Chunk::Framing(multipart.closing()));
                let length = multipart.content_length(&parts);
                (StatusCode::PARTIAL_CONTENT, multipart.content_type(), None, length, chunks)
            }
        }
        Selection::NotModified => return not_modified(&etag),
        Selection::PreconditionFailed => {
            return framed(line(StatusCode::PRECONDITION_FAILED, "the drive is not the one that was named"));
        }
        Selection::Unsatisfiable => {
            let told = format!("the drive has {size} bytes; the range lies outside");
            let kind = FaultKind::RangeNotSatisfiable { size };
            let mut reply = fault(call, &Fault::new(kind, told));
            advise(kind, reply.headers_mut());
            return framed(reply);
        }
    };
    let mut response = Response::new(if call.method == Method::HEAD { Vec::new() } else { chunks });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    guarded(headers);
    set(headers, header::CONTENT_TYPE, &content_type);
    set(headers, header::CONTENT_LENGTH, &length.to_string());
    // An id has no quotes, spaces or line ends, whatever the drive is named.
    set(headers, header::CONTENT_DISPOSITION, &format!("attachment; filename={}", volume.id));
    set(headers, header::ETAG, &etag);
    set(headers, header::LAST_MODIFIED, &httpdate::fmt_http_date(validators.modified));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(range) = range {
        set(headers, header::CONTENT_RANGE, &range);
    }
    // The one digest that was told to everybody before there were others stays so.
    let wanted = digest_fields::wanted(call.headers);
    let blake3 = volume.digests.blake3.filter(|_| wanted.blake3);
    let pieces = volume.digests.pieces.filter(|_| wanted.pieces);
    let digests = Digests { blake3, pieces, ..volume.digests };
    if let Some(value) = digest_fields::repr_digest(&digests) {
        headers.insert(digest_fields::REPR_DIGEST, value);
    }
    if let Some(checked) = checked {
        set(headers, CHECKED, &httpdate::fmt_http_date(whole_seconds(checked)));
    }
    response
}

/// The head of the answer to an admitted download of a tree, and whether the archive follows.
///
/// An archive has no length before it is made, and no ranges.
pub fn archive(call: &Call, tree: &Volume, modified: UnixTime, encoding: Encoding) -> (Response<Vec<Chunk>>, bool) {
    // Compressed it may come out otherwise after an upgrade; its tag is weak then (RFC 9110 section 8.8.1).
    let etag = match codings::name(encoding) {
        None => tree.etag(),
        Some(coding) => format!("W/\"{}-{}-{coding}\"", tree.id, tree.generation),
    };
    // By the rules of HEAD, which has no ranges.
    let validators = Validators { etag: &etag, modified: whole_seconds(modified), is_only: false };
    match conditional::select(&Method::HEAD, call.headers, &validators, tree.size) {
        Selection::NotModified => return (not_modified(&etag), false),
        Selection::PreconditionFailed => {
            let told = "the volume is not the one that was named";
            return (framed(line(StatusCode::PRECONDITION_FAILED, told)), false);
        }
        Selection::Whole | Selection::Parts(_) | Selection::Unsatisfiable => {}
    }
    let mut response = Response::new(Vec::new());
    let headers = response.headers_mut();
    guarded(headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    // The name of a tree has no quotes, spaces or line ends.
    set(headers, header::CONTENT_DISPOSITION, &format!("attachment; filename={}.tar", tree.name));
    set(headers, header::ETAG, &etag);
    set(headers, header::LAST_MODIFIED, &httpdate::fmt_http_date(validators.modified));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("none"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some(coding) = codings::name(encoding) {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    (response, call.method != Method::HEAD)
}

/// As a field of HTTP has it.
fn whole_seconds(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.0 / 1000).unwrap_or_default())
}

/// A fault as a line of text: whoever follows a redirect has curl, not an API client.
pub(super) fn fault(_: &Call, fault: &Fault) -> Reply {
    line(status(fault.kind), &fault.told)
}

const OCTET_STREAM: &str = "application/octet-stream";

fn line(status: StatusCode, text: &str) -> Reply {
    let mut reply = reply(status, "text/plain; charset=utf-8", format!("{text}\n"));
    guarded(reply.headers_mut());
    reply
}

/// Keeps the capability in the URL, and what it gives, out of caches and of other sites' logs; and a browser from
/// taking an image for a page.
pub(super) fn guarded(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// RFC 9110 section 15.4.5 wants the tag, and no length: there is no content.
fn not_modified(etag: &str) -> Response<Vec<Chunk>> {
    let mut response = Response::new(Vec::new());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    guarded(response.headers_mut());
    set(response.headers_mut(), header::ETAG, etag);
    response
}

fn framed(reply: Reply) -> Response<Vec<Chunk>> {
    reply.map(|body| vec![Chunk::Framing(body)])
}

/// Sets a field to text that we made of numbers, ids and a boundary.
fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

pub(super) const fn status(kind: FaultKind) -> StatusCode {
    match kind {
        FaultKind::Invalid
        | FaultKind::BadFraming
        | FaultKind::Empty
        | FaultKind::BodyIncomplete
        | FaultKind::DigestMismatch => StatusCode::BAD_REQUEST,
        FaultKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        FaultKind::Throttled { .. } => StatusCode::TOO_MANY_REQUESTS,
        FaultKind::TicketRefused | FaultKind::Forbidden | FaultKind::QuotaExceeded => StatusCode::FORBIDDEN,
        FaultKind::NotFound => StatusCode::NOT_FOUND,
        FaultKind::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
        FaultKind::Conflict | FaultKind::Corrupt | FaultKind::Cancelled => StatusCode::CONFLICT,
        FaultKind::Gone => StatusCode::GONE,
        FaultKind::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        FaultKind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        FaultKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        FaultKind::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
        FaultKind::PeerTooSlow => StatusCode::REQUEST_TIMEOUT,
        FaultKind::Upstream => StatusCode::BAD_GATEWAY,
        FaultKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        FaultKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        FaultKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
