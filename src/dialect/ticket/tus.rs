//! Protocol tus 1.0: the URL at which transfers begin, and the fields that only its clients look for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::super::resumable::{UPLOAD_LENGTH, UPLOAD_OFFSET, count, one};
use super::super::{
    Anonymous, Answer, Call, KnownOperation, OpenOperation, Operation, Places, Reply, Work, bare, checks, lies_in,
    native,
};
use super::{TUS, decode, encode, path};
use crate::domain::{
    Blake3, ByteCount, Command, Digests, Encoding, Fault, FaultKind, Finishes, Media, Origin, Outcome, PartOffset,
    PartPlan, PartTarget, Principal, Sha256, TransferCommand, TransferId, TransferSeen, TransferSpec, TransferState,
    UnixTime,
};

/// The version of tus that is spoken here.
pub(super) const VERSION: &str = "1.0.0";
/// The extensions of tus that are spoken here.
const EXTENSIONS: &str = "creation,creation-with-upload,creation-defer-length,expiration,checksum,checksum-trailer,\
                          termination,concatenation";

pub(super) const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
const TUS_CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");
const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
/// The drive that a transfer has become.
const DRIVE: HeaderName = HeaderName::from_static("longshore-drive");
const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// Where the owner of transfers finds them.
const TRANSFERS: &str = "/api/v1/transfers/";
/// The most uploads of which one is put together.
const MOST_PARTS: usize = 64;

/// The name of a drive whose client gives none.
const UNNAMED: &str = "uploaded drive";

static PATCH: Method = Method::PATCH;
static DELETE: Method = Method::DELETE;

/// The method that a request means. Clients that cannot send each one name it in a field of a `POST`.
pub(in crate::dialect) fn method_of<'a>(method: &'a Method, path: &str, headers: &HeaderMap) -> &'a Method {
    if *method != Method::POST || !lies_in(path, "/x") {
        return method;
    }
    match headers.get(METHOD_OVERRIDE).map(HeaderValue::as_bytes) {
        Some(b"PATCH") => &PATCH,
        Some(b"DELETE") => &DELETE,
        _ => method,
    }
}

/// Whether a request is one of tus.
pub(super) fn is_meant(call: &Call) -> bool {
    call.headers.contains_key(TUS_RESUMABLE)
}

/// Refuses another version than that which is spoken here.
pub(super) fn check_version(call: &Call) -> Result<(), Fault> {
    match one(call, &TUS_RESUMABLE)? {
        Some(version) if version != VERSION => Err(other_version()),
        _ => Ok(()),
    }
}

fn other_version() -> Fault {
    Fault::invalid(TUS_RESUMABLE.as_str(), format!("version {VERSION} of tus is spoken here"))
}

/// The start of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Creation {
    /// Without bytes.
    Empty,
    /// With the first bytes, or all.
    WithUpload,
}

impl Operation for Creation {
    fn encode(&self, call: &Call, outcome: &Outcome, places: &Places) -> Option<Reply> {
        let Outcome::Transfer(seen) = outcome else { return None };
        let location = places.direct_location(&path(seen.ticket.as_ref()?, seen.transfer.id));
        let mut reply = bare(StatusCode::CREATED);
        let headers = reply.headers_mut();
        headers.insert(header::LOCATION, HeaderValue::try_from(location).ok()?);
        encode::add_progress(headers, call, seen);
        Some(encode::finished(call, reply))
    }
}

impl KnownOperation for Creation {
    fn decode(&'static self, call: &Call, _: &Principal, body: &[u8]) -> Result<(Work, Answer), Fault> {
        if !body.is_empty() {
            return Err(decode::unsupported(&format!("the first bytes are sent as Content-Type: {TUS}")));
        }
        let command = TransferCommand::Create(Box::new(spec(call)?));
        Ok((Work::Control(Command::Transfer(command)), Answer::of(self)))
    }
}

/// The first part, and the transfer that it begins.
pub(super) fn with_upload(call: &Call) -> Result<PartPlan, Fault> {
    let spec = spec(call)?;
    let (checks, asserted) = decode::check_appended(call)?;
    if matches!(spec.origin, Some(Origin::PutTogether(_))) {
        return Err(Fault::invalid(UPLOAD_CONCAT.as_str(), "a final upload has no bytes but those of its parts"));
    }
    if let (Some(length), Some(size)) = (call.length, spec.size)
        && length > size.get()
    {
        let told = format!("the body has {length} bytes, and the whole upload {size}");
        return Err(Fault::new(FaultKind::TooLarge, told));
    }
    let target = PartTarget::New(Box::new(spec));
    let (at, length, finishes) = (PartOffset::At(0), call.length, Finishes::WhenWhole);
    Ok(PartPlan { target, at, length, encoding: Encoding::Plain, size: None, checks, asserted, finishes })
}

/// The versions, extensions and limits that are told to whoever asks.
#[derive(Debug)]
pub(super) struct Describe;

impl Operation for Describe {
    fn encode(&self, call: &Call, outcome: &Outcome, _: &Places) -> Option<Reply> {
        let Outcome::Described(limits) = outcome else { return None };
        let mut reply = bare(StatusCode::NO_CONTENT);
        encode::set(reply.headers_mut(), header::ALLOW, super::ALLOW_AT_BASE);
        add_description(reply.headers_mut(), limits.max_drive);
        Some(encode::finished(call, reply))
    }
}

impl OpenOperation for Describe {
    fn decode(&'static self, _: &Call, _: &[u8]) -> Result<(Anonymous, Answer), Fault> {
        Ok((Anonymous::Describe, Answer::of(self)))
    }
}

/// Adds the versions, as an answer has them that refuses another.
pub(super) fn add_versions(headers: &mut HeaderMap) {
    encode::set(headers, TUS_RESUMABLE, VERSION);
    encode::set(headers, TUS_VERSION, VERSION);
}

/// Adds what an answer to `OPTIONS` has.
pub(super) fn add_description(headers: &mut HeaderMap, most: ByteCount) {
    add_versions(headers);
    encode::set(headers, TUS_EXTENSION, EXTENSIONS);
    headers.insert(TUS_MAX_SIZE, most.get().into());
    if let Ok(names) = HeaderValue::try_from(checks::names()) {
        headers.insert(TUS_CHECKSUM_ALGORITHM, names);
    }
}

/// Adds the state of a transfer, beside its offset and length.
pub(super) fn add_state(headers: &mut HeaderMap, seen: &TransferSeen) {
    let transfer = &seen.transfer;
    if transfer.is_put_together() && transfer.state == TransferState::Open {
        // Nobody goes on there, and its client waits for it to be whole.
        headers.remove(UPLOAD_OFFSET);
    }
    match transfer.state {
        TransferState::Open => {
            if let Ok(value) = HeaderValue::try_from(date(transfer.expires())) {
                headers.insert(UPLOAD_EXPIRES, value);
            }
        }
        TransferState::Finishing | TransferState::Done => {
            if let Ok(value) = HeaderValue::try_from(transfer.volume.to_string()) {
                headers.insert(DRIVE, value);
            }
        }
        TransferState::Failed | TransferState::Expired | TransferState::Cancelled => {}
    }
}

/// Adds the terms of a transfer as its client gave them.
pub(super) fn add_terms(headers: &mut HeaderMap, seen: &TransferSeen) {
    let transfer = &seen.transfer;
    if transfer.size.is_none() {
        encode::set(headers, UPLOAD_DEFER_LENGTH, "1");
    }
    let concat = transfer.origin.as_ref().and_then(concatenation);
    headers.extend(concat.map(|concat| (UPLOAD_CONCAT, concat)));
    let metadata = transfer.metadata.as_deref().and_then(|metadata| HeaderValue::try_from(metadata).ok());
    if let Some(metadata) = metadata {
        headers.insert(UPLOAD_METADATA, metadata);
    }
}

/// What an upload is a part of, or is put together from; without the secrets of the URLs that were named.
fn concatenation(origin: &Origin) -> Option<HeaderValue> {
    match origin {
        Origin::Partial => Some(HeaderValue::from_static("partial")),
        Origin::PutTogether(parts) => {
            let urls: Vec<String> = parts.iter().map(|part| format!("{TRANSFERS}{part}")).collect();
            HeaderValue::try_from(format!("final;{}", urls.join(" "))).ok()
        }
        Origin::Base(_) => None,
    }
}

/// What a client says that an upload is a part of, or is put together from.
fn origin(call: &Call) -> Result<Option<Origin>, Fault> {
    let wrong = || {
        let told =
            "Upload-Concat must be partial, or final; and the URLs of 1 to 64 partial uploads, with spaces between";
        Fault::invalid(UPLOAD_CONCAT.as_str(), told)
    };
    let Some(value) = one(call, &UPLOAD_CONCAT)? else { return Ok(None) };
    let text = value.to_str().map_err(|_| wrong())?;
    if text == "partial" {
        return Ok(Some(Origin::Partial));
    }
    let urls = text.strip_prefix("final;").ok_or_else(wrong)?;
    let parts: Vec<TransferId> = urls.split_ascii_whitespace().map(part_at).collect::<Option<_>>().ok_or_else(wrong)?;
    if parts.is_empty() || parts.len() > MOST_PARTS {
        return Err(wrong());
    }
    Ok(Some(Origin::PutTogether(parts)))
}

/// The upload with this URL, absolute or not. Its secret is not looked at: it is the caller's own, or refused.
fn part_at(url: &str) -> Option<TransferId> {
    let path = match url.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/')?..],
        None => url,
    };
    let id = match path.strip_prefix(TRANSFERS) {
        Some(id) => id,
        None => path.strip_prefix("/x/")?.split_once('/')?.1,
    };
    id.parse().ok()
}

/// A date of HTTP, which has whole seconds.
fn date(time: UnixTime) -> String {
    let seconds = u64::try_from(time.0 / 1_000).unwrap_or_default();
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

/// The terms of a new transfer.
fn spec(call: &Call) -> Result<TransferSpec, Fault> {
    check_version(call)?;
    if !is_meant(call) {
        return Err(other_version());
    }
    let origin = origin(call)?;
    let size = match origin {
        Some(Origin::PutTogether(_)) => {
            if let Some(name) =
                [UPLOAD_LENGTH, UPLOAD_DEFER_LENGTH].into_iter().find(|name| call.headers.contains_key(name))
            {
                return Err(Fault::invalid(name.as_str(), "a final upload is as long as its parts"));
            }
            None
        }
        _ => size(call)?,
    };
    let mut spec = TransferSpec { size, origin, ..TransferSpec::default() };
    if let Some(metadata) = one(call, &UPLOAD_METADATA)? {
        let metadata = metadata.to_str().map_err(|_| wrong("must be pairs of a key and a value in Base64"))?;
        describe(&mut spec, metadata)?;
        spec.metadata = Some(metadata.to_owned()).filter(|metadata| !metadata.is_empty());
    }
    if spec.name.is_empty() {
        UNNAMED.clone_into(&mut spec.name);
    }
    Ok(spec)
}

/// The number of bytes that will come; `None` if the client says that it will tell later.
fn size(call: &Call) -> Result<Option<ByteCount>, Fault> {
    let deferred = one(call, &UPLOAD_DEFER_LENGTH)?;
    match (count(call, &UPLOAD_LENGTH)?, deferred) {
        (Some(ByteCount::ZERO), None) => Err(Fault::invalid(UPLOAD_LENGTH.as_str(), "a drive has at least one byte")),
        (Some(size), None) => Ok(Some(size)),
        (None, Some(deferred)) if deferred == "1" => Ok(None),
        (None, Some(_)) => Err(Fault::invalid(UPLOAD_DEFER_LENGTH.as_str(), "Upload-Defer-Length must be 1")),
        _ => {
            let told = "either Upload-Length or Upload-Defer-Length: 1 is required";
            Err(Fault::invalid(UPLOAD_LENGTH.as_str(), told))
        }
    }
}

/// Reads what a client says of its upload. What is no term of a transfer is a label of the drive; the media type is
/// not, since it is that of the client's file.
fn describe(spec: &mut TransferSpec, metadata: &str) -> Result<(), Fault> {
    let mut pairs = pairs(metadata)?;
    let mut take = |key: &str| pairs.remove(key).and_then(|value| value.as_str().map(str::to_owned));
    let is_text = |key: &str, text: Option<String>| match text {
        Some(text) if !native::is_text(&text) => {
            Err(wrong(&format!("{key} must have 1 to 255 characters, none of them a control character")))
        }
        text => Ok(text),
    };
    let digest = |key: &str, text: Option<String>| {
        let digest =
            text.map(|text| native::digest_of(&text).ok_or_else(|| wrong(&format!("{key} has 64 hex digits"))));
        digest.transpose()
    };
    spec.reference = is_text("reference", take("reference"))?;
    spec.media = match take("media").as_deref() {
        None | Some("disk") => Media::Disk,
        Some("cdrom") => Media::Cdrom,
        Some(_) => return Err(wrong("media must be disk or cdrom")),
    };
    spec.asserted = Digests {
        sha256: digest("sha-256", take("sha-256"))?.map(Sha256),
        blake3: digest("blake3", take("blake3"))?.map(Blake3),
        pieces: digest("blake3-pieces", take("blake3-pieces"))?.map(Blake3),
    };
    let name = match take("name") {
        Some(name) => is_text("name", Some(name))?,
        None => is_text("filename", take("filename"))?,
    };
    spec.name = name.unwrap_or_default();
    pairs.remove("filetype");
    spec.meta = pairs;
    Ok(())
}

/// The pairs of `Upload-Metadata`. The key of each is ASCII, and its value text in Base64, which may be empty.
fn pairs(metadata: &str) -> Result<Map<String, Value>, Fault> {
    let mut pairs = Map::new();
    if metadata.len() > native::MAX_LABELS {
        return Err(wrong(&format!("has at most {} bytes", native::MAX_LABELS)));
    }
    for pair in metadata.split(',').map(str::trim).filter(|_| !metadata.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        if key.is_empty() {
            return Err(wrong("has a pair without a key"));
        }
        let text = STANDARD.decode(value.trim()).ok().and_then(|value| String::from_utf8(value).ok());
        let text = text.filter(|text| !text.chars().any(char::is_control));
        let text = text.ok_or_else(|| wrong(&format!("the value of {key} must be printable text in Base64")))?;
        if pairs.insert(key.to_owned(), text.into()).is_some() {
            return Err(wrong(&format!("{key} is there twice")));
        }
    }
    Ok(pairs)
}

fn wrong(told: &str) -> Fault {
    Fault::invalid(UPLOAD_METADATA.as_str(), format!("Upload-Metadata: {told}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(metadata: &str) -> Result<TransferSpec, Fault> {
        let mut spec = TransferSpec::default();
        describe(&mut spec, metadata).map(|()| spec)
    }

    fn pair(key: &str, value: &str) -> String {
        format!("{key} {}", STANDARD.encode(value))
    }

    #[test]
    fn metadata_has_the_terms_of_a_transfer_and_labels_of_its_drive() {
        let digest = "ab".repeat(32);
        let all = [
            pair("filename", "d\u{ef}sk.img"),
            pair("filetype", "application/x-raw"),
            pair("reference", "batch 7"),
            pair("media", "cdrom"),
            pair("sha-256", &digest),
            pair("blake3", &digest.to_uppercase()),
            pair("blake3-pieces", &digest),
            pair("owner", "alice"),
            "is_urgent".to_owned(),
        ];
        let spec = described(&all.join(",")).unwrap();
        assert_eq!((&*spec.name, spec.reference.as_deref()), ("d\u{ef}sk.img", Some("batch 7")));
        assert_eq!(spec.media, Media::Cdrom);
        let blake3 = Some(Blake3([0xab; 32]));
        let digests = Digests { sha256: Some(Sha256([0xab; 32])), blake3, pieces: blake3 };
        assert_eq!(spec.asserted, digests);
        assert_eq!(Value::from(spec.meta), serde_json::json!({"owner": "alice", "is_urgent": ""}));
        let both = described(&[pair("filename", "file"), pair("name", "name")].join(", ")).unwrap();
        assert_eq!((&*both.name, &both.meta["filename"]), ("name", &Value::from("file")));
        assert_eq!(described("").unwrap(), TransferSpec::default());
    }

    #[test]
    fn metadata_that_cannot_be_kept_is_refused() {
        let long = "x".repeat(256);
        for metadata in [
            ",".to_owned(),
            "a YQ=".to_owned(),
            "a YQ==,a YQ==".to_owned(),
            pair("a", "line\nline"),
            "a /w==".to_owned(),
            pair("name", ""),
            pair("filename", &long),
            pair("reference", &long),
            pair("media", "tape"),
            pair("sha-256", "abcd"),
            pair("blake3", &"x".repeat(64)),
            pair("a", &"x".repeat(native::MAX_LABELS)),
        ] {
            let fault = described(&metadata).expect_err(&metadata);
            assert_eq!(fault.point.as_deref(), Some("upload-metadata"), "{metadata}");
        }
    }

    #[test]
    fn parts_are_named_by_their_urls() {
        let id = TransferId::random();
        for url in [
            format!("/x/{}/{id}", "7e".repeat(32)),
            format!("https://data.example.com:8443/x/{}/{id}", "7e".repeat(32)),
            format!("/api/v1/transfers/{id}"),
            format!("http://[::1]:8700/api/v1/transfers/{id}"),
        ] {
            assert_eq!(part_at(&url), Some(id), "{url}");
        }
        for url in
            [format!("/x/{id}"), id.to_string(), format!("/x/a/{id}/extents"), "http://".to_owned(), String::new()]
        {
            assert_eq!(part_at(&url), None, "{url}");
        }
    }

    #[test]
    fn a_post_may_mean_another_method_at_a_tickets_url_only() {
        let meant = |method: &Method, path: &str, named: &'static str| {
            let headers = HeaderMap::from_iter([(METHOD_OVERRIDE, HeaderValue::from_static(named))]);
            method_of(method, path, &headers).clone()
        };
        assert_eq!(meant(&Method::POST, "/x/a/b", "PATCH"), Method::PATCH);
        assert_eq!(meant(&Method::POST, "/x/a/b", "DELETE"), Method::DELETE);
        assert_eq!(meant(&Method::POST, "/x/a/b", "PUT"), Method::POST);
        assert_eq!(meant(&Method::GET, "/x/a/b", "DELETE"), Method::GET);
        assert_eq!(meant(&Method::POST, "/api/v1/transfers", "DELETE"), Method::POST);
    }
}
