//! Byte ranges of RFC 9110 section 14: the fields of requests read, and the framing of an answer in several parts.

use bytes::Bytes;

use crate::domain::{ByteCount, Extent};

/// The most ranges in one request; one with more is answered with the whole.
///
/// A part costs the client about 10 bytes and us about 150 and a system call. No client that reads a disk image asks
/// for more than a few extents at once, and 64 bound an answer's framing to 10 KiB.
pub const MAX_RANGES: usize = 64;

/// What a `Range` field comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// It is not for us, or not well-formed, or asks too much: the whole is sent, as if it were not there.
    Ignored,
    /// No byte it asks for exists.
    Unsatisfiable,
    /// These; at least one, none empty, none touching another, all within the size.
    Parts(Vec<Extent>),
}

/// Reads the value of a `Range` field against a representation of this size.
///
/// Ranges that overlap or touch are sent as one, so that no byte is sent twice and a hostile set costs no more than
/// the whole (RFC 9110 section 14.2). The parts keep the order in which they were asked for (section 15.3.7.2).
pub fn parse(value: &[u8], size: ByteCount) -> Ranges {
    let Some(set) = byte_range_set(value) else { return Ranges::Ignored };
    let size = size.get();
    if size == 0 {
        // No `Content-Range` can be written for a part of nothing.
        return Ranges::Ignored;
    }
    let mut wanted = Vec::new();
    let mut count = 0;
    // A list may have empty elements (section 5.6.1.2).
    for spec in set.split(|byte| *byte == b',').map(trim).filter(|spec| !spec.is_empty()) {
        count += 1;
        match range_of(spec, size) {
            Ok(extent) if count <= MAX_RANGES => wanted.extend(extent),
            Ok(_) | Err(Malformed) => return Ranges::Ignored,
        }
    }
    match (count, wanted.is_empty()) {
        (0, _) => Ranges::Ignored,
        (_, true) => Ranges::Unsatisfiable,
        _ => Ranges::Parts(coalesced(wanted)),
    }
}

/// The list after `bytes=`. Unit names are case-insensitive (section 14.1).
fn byte_range_set(value: &[u8]) -> Option<&[u8]> {
    let (unit, set) = value.split_at_checked(b"bytes=".len())?;
    unit.eq_ignore_ascii_case(b"bytes=").then_some(set)
}

/// A range that is not well-formed.
struct Malformed;

/// `None`: outside the representation.
fn range_of(spec: &[u8], size: u64) -> Result<Option<Extent>, Malformed> {
    let dash = spec.iter().position(|byte| *byte == b'-').ok_or(Malformed)?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        let len = number(last)?.min(size);
        return Ok((len > 0).then(|| Extent { offset: size - len, len }));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return Err(Malformed);
    }
    Ok((first < size).then(|| Extent { offset: first, len: last.min(size - 1) - first + 1 }))
}

/// A number of decimal digits; one too large for us is beyond any size just as `u64::MAX` is.
fn number(digits: &[u8]) -> Result<u64, Malformed> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    Ok(digits.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

fn trim(spec: &[u8]) -> &[u8] {
    // Optional white space is space and tab; a header value holds no other.
    spec.trim_ascii()
}

/// Merges what overlaps or touches. A merged part stands where the first of its ranges stood.
fn coalesced(wanted: Vec<Extent>) -> Vec<Extent> {
    let mut sorted: Vec<(usize, Extent)> = wanted.into_iter().enumerate().collect();
    sorted.sort_by_key(|(_, extent)| extent.offset);
    let mut merged: Vec<(usize, Extent)> = Vec::with_capacity(sorted.len());
    for (place, extent) in sorted {
        match merged.last_mut() {
            Some((first_place, last)) if extent.offset <= last.end() => {
                last.len = last.end().max(extent.end()) - last.offset;
                *first_place = place.min(*first_place);
            }
            _ => merged.push((place, extent)),
        }
    }
    merged.sort_by_key(|(place, _)| *place);
    merged.into_iter().map(|(_, extent)| extent).collect()
}

/// Reads the value of a `Content-Range` field that speaks of the body of a request (section 14.4): which bytes these
/// are, and of how many, if that is told. `None` when it is not well-formed.
pub fn of_part(value: &[u8]) -> Option<(Extent, Option<ByteCount>)> {
    let (unit, rest) = value.split_at_checked(b"bytes ".len())?;
    let mut halves = rest.splitn(2, |byte| *byte == b'/');
    let (range, size) = (halves.next()?, halves.next()?);
    let mut bounds = range.splitn(2, |byte| *byte == b'-');
    let (first, last) = (number(bounds.next()?).ok()?, number(bounds.next()?).ok()?);
    let end = ByteCount::new(last.checked_add(1)?)?;
    let size = if size == b"*" { None } else { Some(ByteCount::new(number(size).ok()?)?) };
    let is_right = unit.eq_ignore_ascii_case(b"bytes ") && first <= last && size.is_none_or(|size| end <= size);
    is_right.then(|| (Extent { offset: first, len: last - first + 1 }, size))
}

/// The value of `Content-Range` for one part.
pub fn content_range(part: Extent, size: ByteCount) -> String {
    format!("bytes {}-{}/{size}", part.offset, part.end().saturating_sub(1))
}

/// The framing of `multipart/byteranges` (RFC 9110 section 14.6): pure text, the bytes of the parts go between.
#[derive(Clone, Copy, Debug)]
pub struct Multipart<'a> {
    /// What separates the parts: 1 to 70 letters or digits (RFC 2046 section 5.1.1). It must be random, because an
    /// image could hold any fixed text.
    pub boundary: &'a str,
    /// The size of the whole.
    pub size: ByteCount,
}

impl Multipart<'_> {
    /// The value of `Content-Type`.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// What stands before the bytes of a part. The line end before the first boundary is an empty preamble.
    pub fn part_head(&self, part: Extent) -> Bytes {
        let range = content_range(part, self.size);
        let boundary = self.boundary;
        format!("\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {range}\r\n\r\n").into()
    }

    /// What stands after the bytes of the last part.
    pub fn closing(&self) -> Bytes {
        format!("\r\n--{}--\r\n", self.boundary).into()
    }

    /// The exact length of the whole answer. Cannot overflow for parts that [`parse`] gave: they are disjoint, so
    /// they add up to `i64::MAX` at most, and their framing is a few KiB.
    pub fn content_length(&self, parts: &[Extent]) -> u64 {
        let framed = |part: &Extent| self.part_head(*part).len() as u64 + part.len;
        parts.iter().map(framed).sum::<u64>() + self.closing().len() as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(n: u64) -> ByteCount {
        ByteCount::new(n).unwrap()
    }

    fn parts(of: &[(u64, u64)]) -> Ranges {
        Ranges::Parts(of.iter().map(|&(offset, len)| Extent { offset, len }).collect())
    }

    #[test]
    fn ranges_are_read_as_the_specification_has_them() {
        for (value, expected) in [
            ("bytes=0-499", parts(&[(0, 500)])),
            ("bytes=500-", parts(&[(500, 500)])),
            ("bytes=-500", parts(&[(500, 500)])),
            ("bytes=-5000", parts(&[(0, 1000)])),
            ("bytes=0-", parts(&[(0, 1000)])),
            ("BYTES=0-0", parts(&[(0, 1)])),
            ("bytes=999-999", parts(&[(999, 1)])),
            ("bytes=990-99999999999999999999999999", parts(&[(990, 10)])),
            ("bytes=0-0,-1", parts(&[(0, 1), (999, 1)])),
            ("bytes= 0-0 ,\t, 2-2", parts(&[(0, 1), (2, 1)])),
            ("bytes=500-600,601-999", parts(&[(500, 500)])),
            ("bytes=500-700,601-999", parts(&[(500, 500)])),
            ("bytes=900-909,0-9,905-919", parts(&[(900, 20), (0, 10)])),
            ("bytes=0-0,1000-", parts(&[(0, 1)])),
            ("bytes=1000-", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=18446744073709551616-", Ranges::Unsatisfiable),
        ] {
            assert_eq!(parse(value.as_bytes(), bytes(1000)), expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_well_formed_is_as_if_it_were_not_there() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=1-0",
            "bytes=a-b",
            "bytes=0-1-2",
            "bytes=0x1-2",
            "bytes=+1-2",
            "bytes=0 - 1",
            "bytes=0-1;2-3",
            "items=0-1",
            "bytes =0-1",
            "bytes=0-0,x",
        ] {
            assert_eq!(parse(value.as_bytes(), bytes(1000)), Ranges::Ignored, "{value}");
        }
    }

    #[test]
    fn the_range_of_a_part_is_read_as_the_specification_has_it() {
        let part = |offset, len, size: Option<u64>| Some((Extent { offset, len }, size.map(bytes)));
        for (value, expected) in [
            ("bytes 0-0/1", part(0, 1, Some(1))),
            ("bytes 500-999/1000", part(500, 500, Some(1000))),
            ("BYTES 500-999/*", part(500, 500, None)),
            ("bytes 0-9223372036854775806/9223372036854775807", part(0, i64::MAX as u64, Some(i64::MAX as u64))),
            ("bytes 9223372036854775806-9223372036854775806/*", part(i64::MAX as u64 - 1, 1, None)),
            ("bytes 0-9223372036854775807/*", None),
            ("bytes 0-99999999999999999999999/*", None),
            ("bytes 0-0/99999999999999999999999", None),
            ("bytes 500-999/999", None),
            ("bytes 500-499/1000", None),
            ("bytes */1000", None),
            ("bytes 500-/1000", None),
            ("bytes -500/1000", None),
            ("bytes 500-*/*", None),
            ("bytes 500-999", None),
            ("bytes 500-999/", None),
            ("bytes 500-999/1000/1000", None),
            ("bytes=500-999/1000", None),
            ("bytes  500-999/1000", None),
            ("bytes 500-999/1000 ", None),
            ("bytes +500-999/1000", None),
            ("items 500-999/1000", None),
            ("", None),
        ] {
            assert_eq!(of_part(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn too_many_ranges_are_answered_with_the_whole() {
        let set = |n: usize| (0..n).map(|i| format!("{0}-{0}", i * 2)).collect::<Vec<_>>().join(",");
        let Ranges::Parts(at_most) = parse(format!("bytes={}", set(MAX_RANGES)).as_bytes(), bytes(1000)) else {
            panic!("the most that is allowed is refused")
        };
        assert_eq!(at_most.len(), MAX_RANGES);
        assert_eq!(parse(format!("bytes={}", set(MAX_RANGES + 1)).as_bytes(), bytes(1000)), Ranges::Ignored);
    }

    #[test]
    fn a_range_of_nothing_is_ignored() {
        assert_eq!(parse(b"bytes=0-", ByteCount::ZERO), Ranges::Ignored);
        assert_eq!(parse(b"bytes=-1", ByteCount::ZERO), Ranges::Ignored);
    }

    #[test]
    fn the_framing_of_parts_is_as_long_as_it_says() {
        let multipart = Multipart { boundary: "b0", size: bytes(1000) };
        let parts = [Extent { offset: 0, len: 1 }, Extent { offset: 990, len: 10 }];
        let mut text = String::new();
        for part in parts {
            text.push_str(std::str::from_utf8(&multipart.part_head(part)).unwrap());
            text.push_str(&"x".repeat(part.len as usize));
        }
        text.push_str(std::str::from_utf8(&multipart.closing()).unwrap());
        assert_eq!(
            text,
            "\r\n--b0\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-0/1000\r\n\r\nx\
             \r\n--b0\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 990-999/1000\r\n\r\nxxxxxxxxxx\
             \r\n--b0--\r\n"
        );
        assert_eq!(multipart.content_length(&parts), text.len() as u64);
    }

    /// Answers by looking at each byte of a small representation in turn.
    fn naive(specs: &[(Option<u64>, Option<u64>)], size: u64) -> Option<Vec<bool>> {
        let mut marked = vec![false; size as usize];
        for spec in specs {
            for at in 0..size {
                marked[at as usize] |= match *spec {
                    (Some(first), Some(last)) if last < first => return None,
                    (Some(first), last) => first <= at && last.is_none_or(|last| at <= last),
                    (None, Some(suffix)) => size - at <= suffix,
                    (None, None) => return None,
                };
            }
        }
        Some(marked)
    }

    fn written((first, last): &(Option<u64>, Option<u64>)) -> String {
        let text = |n: &Option<u64>| n.map_or(String::new(), |n| n.to_string());
        format!("{}-{}", text(first), text(last))
    }

    proptest! {
        #[test]
        fn parts_hold_exactly_the_bytes_that_were_asked_for(
            specs in prop::collection::vec((prop::option::weighted(0.9, 0..80_u64), prop::option::of(0..80_u64)), 1..8),
            size in 1..64_u64,
        ) {
            let value = format!("bytes={}", specs.iter().map(written).collect::<Vec<_>>().join(","));
            let answer = parse(value.as_bytes(), bytes(size));
            match naive(&specs, size) {
                None => prop_assert_eq!(answer, Ranges::Ignored),
                Some(marked) if !marked.contains(&true) => prop_assert_eq!(answer, Ranges::Unsatisfiable),
                Some(marked) => {
                    let Ranges::Parts(parts) = answer else { panic!("{answer:?}") };
                    let mut sent = vec![0; size as usize];
                    for part in &parts {
                        prop_assert!(part.len > 0);
                        part.range().for_each(|at| sent[at as usize] += 1);
                        // A neighbour would have been joined.
                        prop_assert!(parts.iter().all(|other| other.end() != part.offset));
                    }
                    prop_assert_eq!(sent, marked.into_iter().map(u8::from).collect::<Vec<_>>());
                }
            }
        }

        #[test]
        fn no_field_value_panics(value in "(bytes=|[0-9]{1,25}|[-, =a-z]){0,20}", size in 0..=i64::MAX as u64) {
            if let Ranges::Parts(parts) = parse(value.as_bytes(), bytes(size)) {
                prop_assert!(parts.iter().all(|part| part.len > 0 && part.end() <= size));
                let length = Multipart { boundary: "b", size: bytes(size) }.content_length(&parts);
                prop_assert!(length >= parts.iter().map(|part| part.len).sum());
            }
        }

        #[test]
        fn no_bytes_panic(value: Vec<u8>) {
            let _ = (parse(&value, bytes(1000)), of_part(&value), of_part(&[b"bytes ", value.as_slice()].concat()));
            let _ = parse(&[b"bytes=", value.as_slice()].concat(), ByteCount::MAX);
        }
    }
}
