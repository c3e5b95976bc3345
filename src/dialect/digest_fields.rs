//! The digest fields of RFC 9530, of which SHA-256 is served: what a client asserts, what it wants, what it is told.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Dictionary, Item, ListEntry, Parser};

use crate::domain::{Fault, Sha256};

/// The digest of the whole representation, whatever part of it is sent.
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// The digest of the content as it is sent.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");
const WANT_CONTENT_DIGEST: HeaderName = HeaderName::from_static("want-content-digest");
const SHA_256: &str = "sha-256";

/// The SHA-256 that the sender says its body has.
///
/// An upload is sent whole and without a content coding, so both fields speak of the same bytes and must agree. A
/// field that cannot be read is refused, not ignored: its sender believes that the bytes are being checked. Other
/// algorithms are passed over, as RFC 9530 section 2 lets a recipient do.
pub fn asserted(headers: &HeaderMap) -> Result<Option<Sha256>, Fault> {
    let representation = asserted_by(headers, &REPR_DIGEST)?;
    let content = asserted_by(headers, &CONTENT_DIGEST)?;
    match (representation, content) {
        (Some(one), Some(other)) if one != other => {
            Err(Fault::invalid("Content-Digest", "Repr-Digest and Content-Digest name different SHA-256 digests"))
        }
        (one, other) => Ok(one.or(other)),
    }
}

/// Whether the client wants a SHA-256. A preference that cannot be read is no preference.
pub fn wanted(headers: &HeaderMap) -> bool {
    [WANT_REPR_DIGEST, WANT_CONTENT_DIGEST].iter().any(|name| {
        // RFC 9530 section 4: 1 to 10 is how much it is wanted, 0 is "not acceptable".
        let Ok(Some(ListEntry::Item(Item { bare_item: BareItem::Integer(weight), .. }))) =
            member(headers, name, SHA_256)
        else {
            return false;
        };
        (1..=10).contains(&i64::from(weight))
    })
}

/// The value of a `Repr-Digest` field.
pub fn repr_digest(sha256: &Sha256) -> HeaderValue {
    let text = format!("{SHA_256}=:{}:", STANDARD.encode(sha256.0));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn asserted_by(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Sha256>, Fault> {
    let unreadable = |told: &str| Err(Fault::invalid(name.as_str(), told));
    match member(headers, name, SHA_256) {
        Ok(None) => Ok(None),
        Ok(Some(ListEntry::Item(Item { bare_item: BareItem::ByteSequence(bytes), .. }))) => match bytes.try_into() {
            Ok(digest) => Ok(Some(Sha256(digest))),
            Err(_) => unreadable("a SHA-256 digest has 32 bytes"),
        },
        Ok(Some(_)) => unreadable("the digest must be written as sha-256=:base64:"),
        Err(Malformed) => unreadable("the field is not a dictionary such as sha-256=:base64:"),
    }
}

/// The member with this key of a dictionary field (RFC 9651 section 3.2); its lines are one list.
fn member(headers: &HeaderMap, name: &HeaderName, key: &str) -> Result<Option<ListEntry>, Malformed> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let mut members: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().map_err(|_| Malformed)?;
    Ok(members.swap_remove(key))
}

/// The text is not a structured field of this type.
#[derive(Debug)]
struct Malformed;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SHA-256 of nothing.
    const EMPTY: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn digest() -> Sha256 {
        Sha256(STANDARD.decode(EMPTY).unwrap().try_into().unwrap())
    }

    #[test]
    fn an_asserted_sha256_is_read_from_either_field() {
        for value in [
            format!("sha-256=:{EMPTY}:"),
            format!("sha-256=:{}:", EMPTY.trim_end_matches('=')),
            format!(" md5=:AAAA:, unixsum=30637 ,\tsha-256=:{EMPTY}:;a;b=\"x,\\\"y\" "),
            format!("x=(1 2.5;q a/b \"t\");w, y=?1, z=@12, flag, sha-256=:{EMPTY}:"),
            format!("sha-256=:AAAA:, sha-256=:{EMPTY}:"),
        ] {
            for name in [REPR_DIGEST, CONTENT_DIGEST] {
                assert_eq!(asserted(&headers(&[(name, &value)])).unwrap(), Some(digest()), "{value}");
            }
        }
    }

    #[test]
    fn a_field_split_over_lines_is_one_dictionary() {
        let mut map = headers(&[(REPR_DIGEST, "sha-512=:AAAA:")]);
        map.append(REPR_DIGEST, HeaderValue::from_str(&format!("sha-256=:{EMPTY}:")).unwrap());
        assert_eq!(asserted(&map).unwrap(), Some(digest()));
    }

    #[test]
    fn other_algorithms_and_no_field_assert_nothing() {
        assert_eq!(asserted(&HeaderMap::new()).unwrap(), None);
        assert_eq!(asserted(&headers(&[(REPR_DIGEST, "sha-512=:AAAA:, md5=:AAAA:")])).unwrap(), None);
        assert_eq!(asserted(&headers(&[(REPR_DIGEST, "")])).unwrap(), None);
    }

    #[test]
    fn a_digest_that_cannot_be_read_is_refused() {
        for value in
            ["sha-256", "sha-256=abc", "sha-256=:AAAA:", "sha-256=:!!:", "sha-256=:AAAA", "SHA-256=:AAAA:", "=", "a,"]
        {
            let fault = asserted(&headers(&[(CONTENT_DIGEST, value)])).expect_err(value);
            assert_eq!(fault.point.as_deref(), Some("content-digest"), "{value}");
        }
    }

    #[test]
    fn two_fields_that_disagree_are_refused_and_two_that_agree_are_not() {
        let one = format!("sha-256=:{EMPTY}:");
        let other = format!("sha-256=:{}:", STANDARD.encode([7; 32]));
        assert!(asserted(&headers(&[(REPR_DIGEST, &one), (CONTENT_DIGEST, &other)])).is_err());
        assert_eq!(asserted(&headers(&[(REPR_DIGEST, &one), (CONTENT_DIGEST, &one)])).unwrap(), Some(digest()));
    }

    #[test]
    fn a_sha256_is_wanted_when_its_weight_is_above_zero() {
        for (value, expected) in [
            ("sha-256=1", true),
            ("sha-512=3, sha-256=10", true),
            ("sha-256=0", false),
            ("sha-256", false),
            ("sha-512=3", false),
            ("sha-256=11", false),
            ("sha-256=-1", false),
            ("sha-256=1,", false),
        ] {
            for name in [WANT_REPR_DIGEST, WANT_CONTENT_DIGEST] {
                assert_eq!(wanted(&headers(&[(name, value)])), expected, "{value}");
            }
        }
        assert!(!wanted(&HeaderMap::new()));
    }

    proptest! {
        #[test]
        fn what_is_told_can_be_asserted(bytes: [u8; 32]) {
            let map = HeaderMap::from_iter([(REPR_DIGEST, repr_digest(&Sha256(bytes)))]);
            prop_assert_eq!(asserted(&map).unwrap(), Some(Sha256(bytes)));
        }

        #[test]
        fn no_field_value_panics(value in "[ -~\t]{0,40}|(sha-256|[a-z]|[=:;,()\"?@.0-9 ]){0,12}") {
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                let map = HeaderMap::from_iter([(REPR_DIGEST, value.clone()), (WANT_REPR_DIGEST, value)]);
                let _ = asserted(&map);
                let _ = wanted(&map);
            }
        }
    }
}
