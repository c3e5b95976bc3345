//! Percent-encoding and query strings, read leniently: what cannot be decoded stays as it is.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::domain::Fault;

/// A path segment with its percent-encoding undone; as it was sent when the result is not UTF-8.
pub(super) fn percent_decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8().unwrap_or(Cow::Borrowed(text))
}

/// The name and value pairs of a query string. In it, a plus sign is a space.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned()
}

/// Parameters that may be there several times: each adds to a list.
const REPEATED: [&str; 3] = ["fields", "sort_dir", "sort_key"];

/// Refuses what an endpoint does not take, and what is said twice. A parameter that is passed over makes a list longer
/// than was asked for, and callers delete what they list.
pub(super) fn check(query: &str, taken: &[&str]) -> Result<(), Fault> {
    let mut seen: Vec<String> = Vec::new();
    for (name, _) in pairs(query) {
        if !taken.contains(&name.as_str()) {
            return Err(unknown(&name));
        }
        if !seen.contains(&name) {
            seen.push(name);
        } else if !REPEATED.contains(&name.as_str()) {
            return Err(Fault::invalid(&name, format!("the parameter {name} is there twice")));
        }
    }
    Ok(())
}

/// The fault of a parameter that is not taken.
pub(super) fn unknown(name: &str) -> Fault {
    Fault::invalid(name, format!("this call takes no parameter {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_where_it_is_valid() {
        for (sent, read) in [
            ("disk.img", "disk.img"),
            ("my%20disk%2Fimg", "my disk/img"),
            ("a+b", "a+b"),
            ("%E2%82%AC", "\u{20ac}"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%ff", "%ff"),
            ("%+1%-1", "%+1%-1"),
        ] {
            assert_eq!(percent_decoded(sent), read);
        }
    }

    #[test]
    fn what_is_not_taken_and_what_is_said_twice_is_refused() {
        let taken = ["name", "fields"];
        for right in ["", "&", "name=a", "fields=a&fields=b&name"] {
            assert!(check(right, &taken).is_ok(), "{right}");
        }
        for (wrong, point) in [("Name=a", "Name"), ("x", "x"), ("name=a&name=a", "name"), ("na%6De=a&name=b", "name")] {
            assert_eq!(check(wrong, &taken).expect_err(wrong).point.as_deref(), Some(point));
        }
    }

    #[test]
    fn a_query_is_read_as_pairs() {
        let read: Vec<_> = pairs("limit=0&&fields=uuid%2Cname&name=a+b&flag&x=1=2").collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            read,
            [pair("limit", "0"), pair("fields", "uuid,name"), pair("name", "a b"), pair("flag", ""), pair("x", "1=2")]
        );
    }
}
