//! The `Server-Timing` field (W3C Server Timing): how the time of a transfer was spent, to tell a slow network from a
//! slow disk.
//!
//! Durations are in milliseconds. They are not secret, and only the peer of the transfer gets them.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Version};

use crate::transfer::Progress;

/// The field's name.
pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Returns the waits of a transfer so far, and its run time.
pub(super) fn of(progress: &Progress) -> HeaderValue {
    let waits = progress.phases();
    metrics(&[
        ("peer", waits.peer),
        ("digest", waits.digest),
        ("disk", waits.disk),
        ("memory", waits.memory),
        ("total", progress.elapsed()),
    ])
}

/// Returns the time that an answer took to begin.
pub(super) fn until_first_byte(took: Duration) -> HeaderValue {
    metrics(&[("open", took)])
}

/// Whether the peer accepts a trailer (RFC 9110 section 6.5.1). Not on HTTP/1.1, where that would need chunked framing,
/// and a download keeps its `Content-Length`.
pub(super) fn takes_trailer(version: Version, headers: &HeaderMap) -> bool {
    let is_trailers = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| value.split(',').any(|code| code.trim().eq_ignore_ascii_case("trailers")))
    };
    version == Version::HTTP_2 && headers.get_all(header::TE).iter().any(is_trailers)
}

fn metrics(durations: &[(&str, Duration)]) -> HeaderValue {
    let mut text = String::new();
    for (name, duration) in durations {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing into a string cannot fail.
        let _ = write!(text, "{comma}{name};dur={:.3}", duration.as_secs_f64() * 1000.0);
    }
    // Names and numbers are ASCII.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_milliseconds() {
        let told = metrics(&[("disk", Duration::from_micros(12_345)), ("total", Duration::from_secs(2))]);
        assert_eq!(told, "disk;dur=12.345, total;dur=2000.000");
    }

    #[test]
    fn trailers_are_for_http2_peers_that_ask_for_them() {
        let mut headers = HeaderMap::new();
        assert!(!takes_trailer(Version::HTTP_2, &headers));
        headers.insert(header::TE, HeaderValue::from_static("gzip, Trailers"));
        assert!(takes_trailer(Version::HTTP_2, &headers));
        assert!(!takes_trailer(Version::HTTP_11, &headers));
    }
}
