//! Content codings of archives (RFC 9110 section 8.4): what a request is in, and what an answer may be in.

use http::{HeaderMap, header};

use crate::domain::Encoding;

/// How a request's body is compressed; none when that is not known here.
pub(super) fn sent(headers: &HeaderMap) -> Option<Encoding> {
    let mut found = Encoding::Plain;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let next = match value.to_str().ok()?.trim().to_ascii_lowercase().as_str() {
            "identity" => continue,
            "gzip" | "x-gzip" => Encoding::Gzip,
            "zstd" => Encoding::Zstd,
            _ => return None,
        };
        if std::mem::replace(&mut found, next) != Encoding::Plain {
            return None;
        }
    }
    Some(found)
}

/// The best compression that the client takes (RFC 9110 section 12.5.3): zstd before gzip where it likes both alike.
pub(super) fn accepted(headers: &HeaderMap) -> Encoding {
    let mut best = (0.0, Encoding::Plain);
    for value in headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()) {
        for coding in value.split(',') {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
            let encoding = match name.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => Encoding::Gzip,
                "zstd" => Encoding::Zstd,
                _ => continue,
            };
            let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
            let weight = weight.filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0);
            if weight > best.0 || (weight >= best.0 && weight > 0.0 && encoding == Encoding::Zstd) {
                best = (weight, encoding);
            }
        }
    }
    best.1
}

/// How a coding is called; none is the plain archive.
pub(super) const fn name(encoding: Encoding) -> Option<&'static str> {
    match encoding {
        Encoding::Plain => None,
        Encoding::Gzip => Some("gzip"),
        Encoding::Zstd => Some("zstd"),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn one_known_content_encoding_is_taken() {
        let of = |values: &[&'static str]| sent(&headers(&header::CONTENT_ENCODING, values));
        assert_eq!(of(&[]), Some(Encoding::Plain));
        assert_eq!(of(&["identity"]), Some(Encoding::Plain));
        assert_eq!(of(&["GZIP"]), Some(Encoding::Gzip));
        assert_eq!(of(&["x-gzip", "identity"]), Some(Encoding::Gzip));
        assert_eq!(of(&["zstd"]), Some(Encoding::Zstd));
        for unknown in [&["br"][..], &["gzip, gzip"], &["gzip", "zstd"]] {
            assert_eq!(of(unknown), None);
        }
    }

    #[test]
    fn the_compression_that_is_liked_best_is_chosen() {
        for (value, chosen) in [
            ("", Encoding::Plain),
            ("identity", Encoding::Plain),
            ("deflate, gzip, br, zstd", Encoding::Zstd),
            ("zstd, gzip", Encoding::Zstd),
            ("gzip", Encoding::Gzip),
            ("zstd;q=0.1, gzip;q=0.9", Encoding::Gzip),
            ("zstd;q=0, gzip;q=0.0", Encoding::Plain),
            ("zstd;q=2, gzip;q=x", Encoding::Plain),
            ("*", Encoding::Plain),
        ] {
            assert_eq!(accepted(&headers(&header::ACCEPT_ENCODING, &[value])), chosen, "{value}");
        }
    }
}
