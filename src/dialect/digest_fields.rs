//! The digest fields of RFC 9530, for SHA-256 and BLAKE3: what a client asserts, what it wants, what it is told.
//!
//! The registry of algorithms has no BLAKE3. It is served by the name `blake3`, which others use for it, too.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::TRAILER;
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Dictionary, Item, ListEntry, Parser};

use crate::domain::{Algorithms, Blake3, Digests, Fault, Sha256};

/// The digest of the whole representation, whatever part of it is sent.
pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// The digest of the content as it is sent.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");
const WANT_CONTENT_DIGEST: HeaderName = HeaderName::from_static("want-content-digest");
const SHA_256: &str = "sha-256";
const BLAKE3: &str = "blake3";
/// Of representations only: a part has no pieces.
const PIECE_LIST: &str = "blake3-pieces";

/// The digests that the sender says its body has.
///
/// An upload is sent whole and without a content coding, so both fields speak of the same bytes and must agree. A
/// field that cannot be read is refused, not ignored: its sender believes that the bytes are being checked. Other
/// algorithms are passed over, as RFC 9530 section 2 lets a recipient do.
pub fn asserted(headers: &HeaderMap) -> Result<Digests, Fault> {
    let representation = asserted_by(headers, &REPR_DIGEST)?;
    let content = asserted_by(headers, &CONTENT_DIGEST)?;
    match representation.contradiction(&content) {
        Some(algorithm) => {
            let told = format!("Repr-Digest and Content-Digest name different {algorithm} digests");
            Err(Fault::invalid("Content-Digest", told))
        }
        None => Ok(representation.or(content)),
    }
}

/// The digests that the content of this request has, as its sender says.
pub fn of_content(headers: &HeaderMap) -> Result<Digests, Fault> {
    let digests = asserted_by(headers, &CONTENT_DIGEST)?;
    if digests.pieces.is_some() {
        let told = format!("{PIECE_LIST} is a digest of a whole drive, which Repr-Digest has");
        return Err(Fault::invalid(CONTENT_DIGEST.as_str(), told));
    }
    Ok(digests)
}

/// The digests that the whole representation has, as its sender says.
pub fn of_representation(headers: &HeaderMap) -> Result<Digests, Fault> {
    asserted_by(headers, &REPR_DIGEST)
}

/// The algorithms whose digests the client wants. A preference that cannot be read is no preference.
pub fn wanted(headers: &HeaderMap) -> Algorithms {
    [WANT_REPR_DIGEST, WANT_CONTENT_DIGEST].iter().fold(Algorithms::NONE, |wanted, name| {
        let Ok(preferences) = Members::of(headers, name) else { return wanted };
        // RFC 9530 section 4: 1 to 10 is how much it is wanted, 0 is "not acceptable".
        let is_wanted = |key| {
            matches!(
                preferences.member(key),
                Some(ListEntry::Item(Item { bare_item: BareItem::Integer(weight), .. }))
                    if (1..=10).contains(&i64::from(*weight))
            )
        };
        wanted.or(Algorithms { sha256: is_wanted(SHA_256), blake3: is_wanted(BLAKE3), pieces: is_wanted(PIECE_LIST) })
    })
}

/// The algorithms whose digests may be asserted behind the last byte (RFC 9110 section 6.5): all of them, if the field
/// `Trailer` announces a digest, since it does not say by which.
pub fn announced(headers: &HeaderMap) -> Algorithms {
    let lines = headers.get_all(TRAILER).iter().filter_map(|line| line.to_str().ok());
    let names: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    let is_announced = |field: &HeaderName| names.iter().any(|name| name.eq_ignore_ascii_case(field.as_str()));
    if is_announced(&REPR_DIGEST) {
        Algorithms::ALL
    } else if is_announced(&CONTENT_DIGEST) {
        Algorithms { pieces: false, ..Algorithms::ALL }
    } else {
        Algorithms::NONE
    }
}

/// The value of a `Repr-Digest` field; `None` if there is nothing to tell.
pub fn repr_digest(digests: &Digests) -> Option<HeaderValue> {
    let sha256 = digests.sha256.map(|digest| member_text(SHA_256, digest.0));
    let blake3 = digests.blake3.map(|digest| member_text(BLAKE3, digest.0));
    let pieces = digests.pieces.map(|digest| member_text(PIECE_LIST, digest.0));
    let members: Vec<_> = [sha256, blake3, pieces].into_iter().flatten().collect();
    (!members.is_empty()).then(|| HeaderValue::try_from(members.join(", ")).ok()).flatten()
}

fn member_text(key: &str, digest: [u8; 32]) -> String {
    format!("{key}=:{}:", STANDARD.encode(digest))
}

fn asserted_by(headers: &HeaderMap, name: &HeaderName) -> Result<Digests, Fault> {
    let unreadable = |told: &str| Fault::invalid(name.as_str(), told);
    let members = Members::of(headers, name)
        .map_err(|Malformed| unreadable("the field is not a dictionary such as sha-256=:base64:"))?;
    let digest = |key: &str| match members.member(key) {
        None => Ok(None),
        Some(ListEntry::Item(Item { bare_item: BareItem::ByteSequence(bytes), .. })) => {
            let digest = bytes.as_slice().try_into().map(Some);
            digest.map_err(|_| unreadable(&format!("a digest by {key} has 32 bytes")))
        }
        Some(_) => Err(unreadable(&format!("the digest must be written as {key}=:base64:"))),
    };
    Ok(Digests {
        sha256: digest(SHA_256)?.map(Sha256),
        blake3: digest(BLAKE3)?.map(Blake3),
        pieces: digest(PIECE_LIST)?.map(Blake3),
    })
}

/// The members of a dictionary field (RFC 9651 section 3.2); its lines are one list.
struct Members(Dictionary);

impl Members {
    fn of(headers: &HeaderMap, name: &HeaderName) -> Result<Self, Malformed> {
        let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if lines.is_empty() {
            return Ok(Self(Dictionary::new()));
        }
        Parser::new(&lines.join(&b", "[..])).parse().map(Self).map_err(|_| Malformed)
    }

    fn member(&self, key: &str) -> Option<&ListEntry> {
        self.0.get(key)
    }
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

    fn bytes() -> [u8; 32] {
        STANDARD.decode(EMPTY).unwrap().try_into().unwrap()
    }

    fn sha256() -> Digests {
        Digests { sha256: Some(Sha256(bytes())), ..Digests::NONE }
    }

    fn both() -> Digests {
        Digests { blake3: Some(Blake3([0xb3; 32])), ..sha256() }
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
                assert_eq!(asserted(&headers(&[(name, &value)])).unwrap(), sha256(), "{value}");
            }
        }
    }

    #[test]
    fn each_algorithm_is_read_from_the_field_that_names_it() {
        let (one, other) = (member_text(SHA_256, bytes()), member_text(BLAKE3, [0xb3; 32]));
        let split = headers(&[(REPR_DIGEST, &one), (CONTENT_DIGEST, &other)]);
        assert_eq!(asserted(&split).unwrap(), both());
        let told = format!("{other}, {one}");
        assert_eq!(asserted(&headers(&[(CONTENT_DIGEST, &told)])).unwrap(), both());
        let alone = asserted(&headers(&[(REPR_DIGEST, &other)])).unwrap();
        assert_eq!(alone, Digests { sha256: None, ..both() });
    }

    #[test]
    fn a_field_split_over_lines_is_one_dictionary() {
        let mut map = headers(&[(REPR_DIGEST, "sha-512=:AAAA:")]);
        map.append(REPR_DIGEST, HeaderValue::from_str(&format!("sha-256=:{EMPTY}:")).unwrap());
        assert_eq!(asserted(&map).unwrap(), sha256());
    }

    #[test]
    fn other_algorithms_and_no_field_assert_nothing() {
        assert_eq!(asserted(&HeaderMap::new()).unwrap(), Digests::NONE);
        assert_eq!(asserted(&headers(&[(REPR_DIGEST, "sha-512=:AAAA:, md5=:AAAA:")])).unwrap(), Digests::NONE);
        assert_eq!(asserted(&headers(&[(REPR_DIGEST, "")])).unwrap(), Digests::NONE);
    }

    #[test]
    fn a_digest_that_cannot_be_read_is_refused() {
        for value in
            ["sha-256", "sha-256=abc", "sha-256=:AAAA:", "sha-256=:!!:", "sha-256=:AAAA", "SHA-256=:AAAA:", "=", "a,"]
                .into_iter()
                .chain(["blake3", "blake3=:AAAA:"])
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
        assert_eq!(asserted(&headers(&[(REPR_DIGEST, &one), (CONTENT_DIGEST, &one)])).unwrap(), sha256());
    }

    #[test]
    fn a_sha256_is_wanted_when_its_weight_is_above_zero() {
        for (value, expected) in [
            ("sha-256=1, blake3=0", true),
            ("blake3=1", false),
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
                assert_eq!(wanted(&headers(&[(name, value)])).sha256, expected, "{value}");
            }
        }
        assert!(wanted(&HeaderMap::new()).is_empty());
        let of_both = headers(&[(WANT_REPR_DIGEST, "blake3=10, sha-256=0"), (WANT_CONTENT_DIGEST, "sha-256=3")]);
        assert_eq!(wanted(&of_both), Algorithms { pieces: false, ..Algorithms::ALL });
        assert!(wanted(&headers(&[(WANT_REPR_DIGEST, "blake3-pieces=1")])).pieces);
        assert!(!wanted(&headers(&[(WANT_REPR_DIGEST, "blake3=0")])).blake3);
    }

    #[test]
    fn a_digest_behind_the_last_byte_is_announced_by_its_field() {
        for (value, expected) in [
            ("Repr-Digest", Algorithms::ALL),
            ("x-checksum ,\tcontent-digest", Algorithms { pieces: false, ..Algorithms::ALL }),
            ("Server-Timing", Algorithms::NONE),
            ("Want-Repr-Digest, Repr-Digest-2", Algorithms::NONE),
        ] {
            assert_eq!(announced(&headers(&[(TRAILER, value)])), expected, "{value}");
        }
        assert!(announced(&HeaderMap::new()).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_told_can_be_asserted(sha256: Option<[u8; 32]>, blake3: Option<[u8; 32]>, pieces: Option<[u8; 32]>) {
            let digests =
                Digests { sha256: sha256.map(Sha256), blake3: blake3.map(Blake3), pieces: pieces.map(Blake3) };
            let map = repr_digest(&digests).into_iter().map(|value| (REPR_DIGEST, value)).collect();
            prop_assert_eq!(asserted(&map).unwrap(), digests);
        }

        #[test]
        fn no_field_value_panics(value in "[ -~\t]{0,40}|(sha-256|blake3|[a-z]|[=:;,()\"?@.0-9 ]){0,12}") {
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                let map = HeaderMap::from_iter([(REPR_DIGEST, value.clone()), (WANT_REPR_DIGEST, value)]);
                let _ = asserted(&map);
                let _ = wanted(&map);
            }
        }
    }
}
