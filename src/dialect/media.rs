//! What the head of a request says of the form of its body.

use http::{HeaderMap, header};

/// The media type of a body, without its parameters.
pub(super) fn of(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok().map(bare)
}

/// Whether a body has this media type, as far as its request says. One that names none is taken for raw bytes
/// (RFC 9110 section 8.3); it is what `curl -T` sends.
pub(super) fn may_be(headers: &HeaderMap, media: &str) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    types.all(|value| value.to_str().is_ok_and(|value| bare(value).eq_ignore_ascii_case(media)))
}

/// Whether a body is sent without a content coding.
pub(super) fn is_uncoded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.all(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

fn bare(value: &str) -> &str {
    value.split(';').next().unwrap_or(value).trim()
}
