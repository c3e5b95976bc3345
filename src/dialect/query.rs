//! Percent-encoding and query strings, read leniently: what cannot be decoded stays as it is.

use std::borrow::Cow;

/// A path segment with its percent-encoding undone; as it was sent when the result is not UTF-8.
pub fn percent_decoded(text: &str) -> Cow<'_, str> {
    if text.contains('%') { decoded(text.as_bytes()).map_or(Cow::Borrowed(text), Cow::Owned) } else { text.into() }
}

/// The name and value pairs of a query string. In it, a plus sign is a space.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let plain = |text: &str| {
        let text = text.replace('+', " ");
        percent_decoded(&text).into_owned()
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (plain(name), plain(value))
    })
}

fn decoded(text: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if let (b'%', Some([high, low])) = (byte, after.get(..2))
            && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
        {
            out.push((high * 16 + low) as u8);
            rest = &after[2..];
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
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
    fn a_query_is_read_as_pairs() {
        let read: Vec<_> = pairs("limit=0&&fields=uuid%2Cname&name=a+b&flag&x=1=2").collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            read,
            [pair("limit", "0"), pair("fields", "uuid,name"), pair("name", "a b"), pair("flag", ""), pair("x", "1=2")]
        );
    }
}
