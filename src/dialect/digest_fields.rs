//! The digest fields of RFC 9530, of which SHA-256 is served: what a client asserts, what it wants, what it is told.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue};

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
        matches!(member(headers, name, SHA_256), Ok(Some(Item::Integer(1..=10))))
    })
}

/// The value of a `Repr-Digest` field.
pub fn repr_digest(sha256: &Sha256) -> HeaderValue {
    let text = format!("{SHA_256}=:{}:", BASE64.encode(sha256.0));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// RFC 8941 section 4.2.7 asks a parser not to insist on padding or on zero pad bits.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

fn asserted_by(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Sha256>, Fault> {
    let unreadable = |told: &str| Err(Fault::invalid(name.as_str(), told));
    match member(headers, name, SHA_256) {
        Ok(None) => Ok(None),
        Ok(Some(Item::Bytes(bytes))) => match bytes.try_into() {
            Ok(digest) => Ok(Some(Sha256(digest))),
            Err(_) => unreadable("a SHA-256 digest has 32 bytes"),
        },
        Ok(Some(_)) => unreadable("the digest must be written as sha-256=:base64:"),
        Err(Malformed) => unreadable("the field is not a dictionary such as sha-256=:base64:"),
    }
}

/// The last member with this key of a dictionary field; its lines are one list (RFC 8941 section 4.2).
fn member(headers: &HeaderMap, name: &HeaderName, key: &str) -> Result<Option<Item>, Malformed> {
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let joined = lines.join(&b", "[..]);
    let mut found = None;
    Scanner(&joined).dictionary(|member, item| {
        if member == key.as_bytes() {
            found = Some(item);
        }
    })?;
    Ok(found)
}

/// A bare item of a structured field; what no digest field uses is read only to find its end.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    Bytes(Vec<u8>),
    Integer(i64),
    Other,
}

/// The text is not a structured field of this type.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// Reads a structured field from its start (RFC 8941 section 4.2; dates of RFC 9651).
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    fn dictionary(&mut self, mut member: impl FnMut(&'a [u8], Item)) -> Result<(), Malformed> {
        self.skip(|byte| byte == b' ');
        self.0 = self.0.trim_ascii_end();
        while !self.0.is_empty() {
            let key = self.key()?;
            let item = if !self.eat(b'=') {
                Item::Other
            } else if self.eat(b'(') {
                self.rest_of_inner_list()?
            } else {
                self.bare_item()?
            };
            self.parameters()?;
            member(key, item);
            self.skip(|byte| matches!(byte, b' ' | b'\t'));
            if self.0.is_empty() {
                break;
            }
            if !self.eat(b',') {
                return Err(Malformed);
            }
            self.skip(|byte| matches!(byte, b' ' | b'\t'));
            if self.0.is_empty() {
                return Err(Malformed);
            }
        }
        Ok(())
    }

    fn rest_of_inner_list(&mut self) -> Result<Item, Malformed> {
        loop {
            self.skip(|byte| byte == b' ');
            if self.eat(b')') {
                return Ok(Item::Other);
            }
            self.bare_item()?;
            self.parameters()?;
            if !matches!(self.0.first(), Some(b' ' | b')')) {
                return Err(Malformed);
            }
        }
    }

    fn parameters(&mut self) -> Result<(), Malformed> {
        while self.eat(b';') {
            self.skip(|byte| byte == b' ');
            self.key()?;
            if self.eat(b'=') {
                self.bare_item()?;
            }
        }
        Ok(())
    }

    fn key(&mut self) -> Result<&'a [u8], Malformed> {
        match self.0.first() {
            Some(b'a'..=b'z' | b'*') => {
                Ok(self.skip(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*')))
            }
            _ => Err(Malformed),
        }
    }

    fn bare_item(&mut self) -> Result<Item, Malformed> {
        match self.0.first() {
            Some(b':') => self.byte_sequence(),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'@') => {
                self.eat(b'@');
                self.number().map(|_| Item::Other)
            }
            Some(b'?') => match self.0 {
                [_, b'0' | b'1', rest @ ..] => {
                    self.0 = rest;
                    Ok(Item::Other)
                }
                _ => Err(Malformed),
            },
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'*') => {
                self.skip(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
                Ok(Item::Other)
            }
            _ => Err(Malformed),
        }
    }

    fn byte_sequence(&mut self) -> Result<Item, Malformed> {
        self.eat(b':');
        let text = self.skip(|byte| byte != b':');
        if !self.eat(b':') {
            return Err(Malformed);
        }
        BASE64.decode(text).map(Item::Bytes).map_err(|_| Malformed)
    }

    fn string(&mut self) -> Result<Item, Malformed> {
        self.eat(b'"');
        loop {
            match self.0 {
                [b'"', rest @ ..] => {
                    self.0 = rest;
                    return Ok(Item::Other);
                }
                [b'\\', b'"' | b'\\', rest @ ..] | [b' '..=b'!' | b'#'..=b'[' | b']'..=b'~', rest @ ..] => {
                    self.0 = rest;
                }
                _ => return Err(Malformed),
            }
        }
    }

    /// An integer has at most 15 digits (RFC 8941 section 3.3.1); a decimal is of no use here.
    fn number(&mut self) -> Result<Item, Malformed> {
        let sign = if self.eat(b'-') { -1 } else { 1 };
        let digits = self.skip(|byte| byte.is_ascii_digit());
        if digits.is_empty() || digits.len() > 15 {
            return Err(Malformed);
        }
        if self.eat(b'.') {
            let fraction = self.skip(|byte| byte.is_ascii_digit());
            return if matches!(fraction.len(), 1..=3) { Ok(Item::Other) } else { Err(Malformed) };
        }
        Ok(Item::Integer(sign * digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))))
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.0.split_first().is_some_and(|(first, rest)| {
            *first == byte && {
                self.0 = rest;
                true
            }
        })
    }

    /// Passes over the bytes that match, and returns them.
    fn skip(&mut self, matches: impl Fn(u8) -> bool) -> &'a [u8] {
        let (passed, rest) = self.0.split_at(self.0.iter().take_while(|byte| matches(**byte)).count());
        self.0 = rest;
        passed
    }
}

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
        Sha256(BASE64.decode(EMPTY).unwrap().try_into().unwrap())
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
        let other = format!("sha-256=:{}:", BASE64.encode([7; 32]));
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
