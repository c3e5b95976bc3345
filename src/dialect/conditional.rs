//! Conditional requests of RFC 9110 section 13: whether to send a representation, and which part of it.
//!
//! Tags go before dates: a date has whole seconds, and two contents may share one. A field whose value is no date, or
//! that stands twice, is ignored, as sections 13.1.3 and 13.1.4 demand.

use std::time::SystemTime;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method};

use super::ranges::{self, Ranges};
use crate::domain::{ByteCount, Extent};

/// The part of the representation that a request selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of it: 200.
    Whole,
    /// These parts, as [`Ranges::Parts`] has them: 206.
    Parts(Vec<Extent>),
    /// The client has it already: 304.
    NotModified,
    /// It is not what the client asked for: 412.
    PreconditionFailed,
    /// No byte that was asked for exists: 416.
    Unsatisfiable,
}

/// What tells two representations of one volume apart.
#[derive(Clone, Copy, Debug)]
pub struct Validators<'a> {
    /// The entity tag, quotes included; strong unless it begins with `W/`.
    pub etag: &'a str,
    /// When the content came to be, in whole seconds.
    pub modified: SystemTime,
    /// Whether there was no other content in that second, so that the date is as good as a tag (section 8.8.2.2).
    pub is_only: bool,
}

/// Decides what a GET or HEAD request gets of a representation, in the order of RFC 9110 section 13.2.2.
pub fn select(method: &Method, headers: &HeaderMap, validators: &Validators, size: ByteCount) -> Selection {
    let etag = validators.etag.as_bytes();
    if headers.contains_key(header::IF_MATCH) {
        if !any_tag(headers, &header::IF_MATCH, |tag| tag == etag) {
            return Selection::PreconditionFailed;
        }
    } else if date(headers, &header::IF_UNMODIFIED_SINCE).is_some_and(|date| validators.modified > date) {
        return Selection::PreconditionFailed;
    }
    let reads = method == Method::GET || method == Method::HEAD;
    if headers.contains_key(header::IF_NONE_MATCH) {
        if any_tag(headers, &header::IF_NONE_MATCH, |tag| tag.strip_prefix(b"W/").unwrap_or(tag) == etag) {
            return if reads { Selection::NotModified } else { Selection::PreconditionFailed };
        }
    } else if reads && date(headers, &header::IF_MODIFIED_SINCE).is_some_and(|date| validators.modified <= date) {
        return Selection::NotModified;
    }
    // Section 14.2: ranges are defined for GET alone; with any other method the field is ignored.
    if method != Method::GET || !range_still_applies(headers, validators) {
        return Selection::Whole;
    }
    match only(headers, &header::RANGE).map(|value| ranges::parse(value, size)) {
        None | Some(Ranges::Ignored) => Selection::Whole,
        Some(Ranges::Unsatisfiable) => Selection::Unsatisfiable,
        Some(Ranges::Parts(parts)) => Selection::Parts(parts),
    }
}

/// `If-Range` by strong comparison (section 13.1.5): a weak tag, another date than ours, or two of them never match.
fn range_still_applies(headers: &HeaderMap, validators: &Validators) -> bool {
    if !headers.contains_key(header::IF_RANGE) {
        return true;
    }
    match date(headers, &header::IF_RANGE) {
        Some(date) => validators.is_only && date == validators.modified,
        None => only(headers, &header::IF_RANGE).is_some_and(|value| value == validators.etag.as_bytes()),
    }
}

/// The date of a field that stands once, in one of the three forms of section 5.6.7.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(only(headers, name)?).ok()?).ok()
}

/// The value of a field that may stand once only.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes().trim_ascii())
}

/// Whether a list of entity tags is `*` or has one that matches. Reading stops where the list is not well-formed.
fn any_tag(headers: &HeaderMap, name: &HeaderName, matches: impl Fn(&[u8]) -> bool) -> bool {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).any(|line| {
        let mut rest = line.trim_ascii();
        if rest == b"*" {
            return true;
        }
        while let Some((tag, after)) = first_tag(rest) {
            if matches(tag) {
                return true;
            }
            rest = after;
        }
        false
    })
}

/// The first entity tag of a list, and what follows it. A tag may hold commas, so quotes are what delimits it.
fn first_tag(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = list.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
    let list = &list[start..];
    let open = if list.starts_with(b"W/") { 2 } else { 0 };
    if list.get(open) != Some(&b'"') {
        return None;
    }
    let close = open + 1 + list[open + 1..].iter().position(|byte| *byte == b'"')?;
    Some(list.split_at(close + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ETAG: &str = "\"one-1\"";
    const BEFORE: &str = "Wed, 21 Oct 2026 07:27:59 GMT";
    const MODIFIED: &str = "Wed, 21 Oct 2026 07:28:00 GMT";
    const AFTER: &str = "Wed, 21 Oct 2026 07:28:01 GMT";

    fn validators() -> Validators<'static> {
        Validators { etag: ETAG, modified: httpdate::parse_http_date(MODIFIED).unwrap(), is_only: true }
    }

    fn selected(method: &Method, fields: &[(HeaderName, &str)]) -> Selection {
        selected_of(&validators(), method, fields)
    }

    fn selected_of(validators: &Validators, method: &Method, fields: &[(HeaderName, &str)]) -> Selection {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        select(method, &headers, validators, ByteCount::new(1000).unwrap())
    }

    fn got(fields: &[(HeaderName, &str)]) -> Selection {
        selected(&Method::GET, fields)
    }

    fn first_ten() -> Selection {
        Selection::Parts(vec![Extent { offset: 0, len: 10 }])
    }

    #[test]
    fn if_match_lets_only_the_named_tag_through_and_no_weak_one() {
        for (value, expected) in [
            ("*", Selection::Whole),
            ("\"one-1\"", Selection::Whole),
            ("\"a,b\", W/\"c\" ,, \"one-1\"", Selection::Whole),
            ("W/\"one-1\"", Selection::PreconditionFailed),
            ("\"one-2\"", Selection::PreconditionFailed),
            ("one-1", Selection::PreconditionFailed),
            ("", Selection::PreconditionFailed),
        ] {
            assert_eq!(got(&[(header::IF_MATCH, value)]), expected, "{value}");
        }
        let two_lines = [(header::IF_MATCH, "\"a\""), (header::IF_MATCH, ETAG)];
        assert_eq!(got(&two_lines), Selection::Whole);
    }

    #[test]
    fn if_none_match_is_weak_and_comes_before_a_range() {
        for value in ["*", "\"one-1\"", "W/\"one-1\"", "\"a\",\"one-1\""] {
            let fields = [(header::IF_NONE_MATCH, value), (header::RANGE, "bytes=0-9")];
            assert_eq!(got(&fields), Selection::NotModified, "{value}");
            assert_eq!(selected(&Method::HEAD, &fields), Selection::NotModified, "{value}");
            assert_eq!(selected(&Method::POST, &fields), Selection::PreconditionFailed, "{value}");
        }
        for value in ["\"one-2\"", "one-1", "\"one-1", "\"a\" x \"one-1\""] {
            assert_eq!(got(&[(header::IF_NONE_MATCH, value), (header::RANGE, "bytes=0-9")]), first_ten(), "{value}");
        }
    }

    #[test]
    fn if_range_keeps_a_range_only_for_the_same_strong_tag() {
        let with = |value| got(&[(header::IF_RANGE, value), (header::RANGE, "bytes=0-9")]);
        assert_eq!(with(ETAG), first_ten());
        for value in ["W/\"one-1\"", "\"one-2\"", "*", "\"one-1\", \"one-1\""] {
            assert_eq!(with(value), Selection::Whole, "{value}");
        }
    }

    #[test]
    fn if_range_keeps_a_range_for_the_very_date_if_that_tells_contents_apart() {
        let fields = |value| [(header::IF_RANGE, value), (header::RANGE, "bytes=0-9")];
        assert_eq!(got(&fields(MODIFIED)), first_ten());
        for other in [BEFORE, AFTER] {
            assert_eq!(got(&fields(other)), Selection::Whole, "{other}");
        }
        let shared = Validators { is_only: false, ..validators() };
        assert_eq!(selected_of(&shared, &Method::GET, &fields(MODIFIED)), Selection::Whole);
    }

    #[test]
    fn a_range_is_for_get_and_stands_once() {
        let range = (header::RANGE, "bytes=0-9");
        assert_eq!(got(std::slice::from_ref(&range)), first_ten());
        assert_eq!(selected(&Method::HEAD, std::slice::from_ref(&range)), Selection::Whole);
        assert_eq!(got(&[range.clone(), range]), Selection::Whole);
        assert_eq!(got(&[(header::RANGE, "bytes=1000-")]), Selection::Unsatisfiable);
        assert_eq!(got(&[(header::RANGE, "lines=1-2")]), Selection::Whole);
    }

    #[test]
    fn dates_decide_where_there_are_no_tags() {
        for (value, expected) in [
            (BEFORE, Selection::Whole),
            (MODIFIED, Selection::NotModified),
            (AFTER, Selection::NotModified),
            // The older forms, which must be understood.
            ("Wednesday, 21-Oct-26 07:28:01 GMT", Selection::NotModified),
            ("Wed Oct 21 07:28:01 2026", Selection::NotModified),
            ("tomorrow", Selection::Whole),
            ("", Selection::Whole),
        ] {
            let fields = [(header::IF_MODIFIED_SINCE, value), (header::RANGE, "bytes=1000-")];
            let expected = if expected == Selection::Whole { Selection::Unsatisfiable } else { expected };
            assert_eq!(got(&fields), expected, "{value}");
            let with_tag = [(header::IF_MODIFIED_SINCE, value), (header::IF_NONE_MATCH, "\"one-2\"")];
            assert_eq!(got(&with_tag), Selection::Whole, "{value}");
            assert_eq!(selected(&Method::POST, &fields[..1]), Selection::Whole, "{value}");
        }
        for (value, expected) in [
            (BEFORE, Selection::PreconditionFailed),
            (MODIFIED, Selection::Whole),
            (AFTER, Selection::Whole),
            ("tomorrow", Selection::Whole),
        ] {
            assert_eq!(got(&[(header::IF_UNMODIFIED_SINCE, value)]), expected, "{value}");
            assert_eq!(got(&[(header::IF_UNMODIFIED_SINCE, value), (header::IF_MATCH, ETAG)]), Selection::Whole);
        }
        assert_eq!(got(&[(header::IF_MODIFIED_SINCE, AFTER), (header::IF_MODIFIED_SINCE, AFTER)]), Selection::Whole);
    }

    proptest! {
        #[test]
        fn no_field_values_panic(values in prop::collection::vec(prop::collection::vec(0x20_u8..=0xff, 0..30), 4)) {
            let names = [header::IF_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE, header::RANGE];
            let headers: HeaderMap = names
                .into_iter()
                .zip(values)
                .filter_map(|(name, value)| Some((name, HeaderValue::from_bytes(&value).ok()?)))
                .collect();
            let _ = select(&Method::GET, &headers, &validators(), ByteCount::MAX);
        }
    }
}
