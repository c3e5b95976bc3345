//! Signed requests: the scheme `HYPER-HMAC-SHA256`, which is AWS Signature Version 4 with other names.
//!
//! A request carries the name of an access key, a time, the digest of its body, and the HMAC of all that matters in it
//! under a key derived from the secret. The secret never travels, and is not kept either: it is derived from the name
//! and the server's own key.
//!
//! A request can be sent again by whoever has seen it, as long as its time is recent: what keeps it from being seen is
//! TLS.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rand::Rng;
use sha2::{Digest, Sha256 as Hasher};
use zeroize::Zeroizing;

use super::hmac_sha256;
use crate::domain::{Clock, Fault, FaultKind, Principal, Secret, Sha256, UnixTime};
use crate::meta::Meta;

const SCHEME: &str = "HYPER-HMAC-SHA256";
const DATE: &str = "x-hyper-date";
const BODY: &str = "x-hyper-content-sha256";

/// The largest difference between the clocks of client and server, in milliseconds.
const WINDOW: i64 = 5 * 60 * 1000;

/// The most bytes of a request that are read to check its signature.
const LONGEST: usize = 4096;

/// A request as it is signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    /// The method.
    pub method: &'a str,
    /// The path as it was sent.
    pub path: &'a str,
    /// The query as it was sent.
    pub query: &'a str,
    /// The host that the client meant.
    pub host: &'a str,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

impl Signed<'_> {
    /// Whether an `Authorization` field is of this scheme.
    pub(crate) fn is_scheme(authorization: &str) -> bool {
        authorization.split(' ').next().is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
    }
}

/// The access keys of users.
pub(crate) struct Keys {
    meta: Meta,
    clock: Arc<dyn Clock>,
    master: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// Uses keys whose secrets are derived from this one.
    pub(crate) fn new(meta: Meta, clock: Arc<dyn Clock>, master: Zeroizing<[u8; 32]>) -> Self {
        Self { meta, clock, master }
    }

    /// Makes a key for a user; returns its name and its secret.
    pub(crate) async fn add(&self, user: &str) -> Result<(String, Secret), Fault> {
        /// Letters and digits that are not taken for one another.
        const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        let mut bytes = [0_u8; 20];
        rand::rng().fill_bytes(&mut bytes);
        let id: String = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
        self.meta.add_key(&id, user, self.clock.now()).await?;
        let secret = self.secret(&id);
        Ok((id, secret))
    }

    fn secret(&self, id: &str) -> Secret {
        let mac = hmac_sha256(&self.master).chain_update(b"access key ").chain_update(id.as_bytes());
        Secret::new(format!("{:?}", Sha256(mac.finalize().into_bytes().into())))
    }

    /// Returns the signer of a request, and the digest that its body must have.
    pub(crate) async fn authenticate(&self, request: &Signed<'_>) -> Result<(Principal, Sha256), Fault> {
        let authorization = field(request.headers, "authorization").ok_or_else(refused)?;
        let claim = Claim::parse(authorization).ok_or_else(refused)?;
        let date = field(request.headers, DATE).ok_or_else(refused)?;
        let signed_at = time_of(date).ok_or_else(refused)?;
        if !date.starts_with(claim.date) || (self.clock.now().0 - signed_at.0).abs() > WINDOW {
            let told = "the time of the signature is too far from the server's";
            return Err(Fault::new(FaultKind::Unauthenticated, told));
        }
        let body = field(request.headers, BODY).and_then(digest_from).ok_or_else(refused)?;
        let owner = self.meta.owner_of_key(claim.key).await?;
        let right = is_signed(request, &claim, date, &self.secret(claim.key));
        owner.filter(|_| right).map(|owner| (owner, body)).ok_or_else(refused)
    }
}

/// Returns the one refusal for all reasons.
fn refused() -> Fault {
    Fault::new(FaultKind::Unauthenticated, "the signature is not valid")
}

/// Whether the signature is the one of this secret.
fn is_signed(request: &Signed<'_>, claim: &Claim<'_>, date: &str, secret: &Secret) -> bool {
    let Some(canonical) = canonical(request, claim.headers) else { return false };
    let digest = Sha256(Hasher::digest(canonical).into());
    let text = [SCHEME, date, &claim.scope, &format!("{digest:?}")].join("\n");
    let first = Zeroizing::new(format!("HYPER{}", secret.reveal()));
    let key = [claim.date, claim.region, "hyper", "hyper_request"]
        .iter()
        .try_fold(first.as_bytes().to_vec(), |key, part| Some(mac(&key, part)?.finalize().into_bytes().to_vec()));
    // `verify_slice` compares in constant time.
    key.and_then(|key| mac(&key, &text)).is_some_and(|mac| mac.verify_slice(&claim.signature.0).is_ok())
}

/// Returns `Some` always: HMAC takes keys of any length.
fn mac(key: &[u8], text: &str) -> Option<Hmac<Hasher>> {
    Some(Hmac::<Hasher>::new_from_slice(key).ok()?.chain_update(text.as_bytes()))
}

/// The content of an `Authorization` field.
struct Claim<'a> {
    key: &'a str,
    date: &'a str,
    region: &'a str,
    scope: String,
    headers: &'a str,
    signature: Sha256,
}

impl<'a> Claim<'a> {
    fn parse(authorization: &'a str) -> Option<Self> {
        if authorization.len() > LONGEST || !Signed::is_scheme(authorization) {
            return None;
        }
        let (_, parts) = authorization.split_once(' ')?;
        let (mut credential, mut headers, mut signature) = (None, None, None);
        for part in parts.split(',') {
            let (name, value) = part.trim().split_once('=')?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        let (key, scope) = credential?.split_once('/')?;
        let [date, region, "hyper", "hyper_request"] = scope.split('/').collect::<Vec<_>>()[..] else { return None };
        Some(Self {
            key,
            date,
            region,
            scope: scope.to_owned(),
            headers: headers?,
            signature: digest_from(signature?)?,
        })
    }
}

/// Returns the canonical form of a request. It must name its host, its time and the digest of its body.
fn canonical(request: &Signed<'_>, signed: &str) -> Option<String> {
    let names: Vec<&str> = signed.split(';').collect();
    if !["host", DATE, BODY].iter().all(|name| names.contains(name)) {
        return None;
    }
    let mut fields = String::new();
    for name in &names {
        let value = if *name == "host" { without_usual_port(request.host) } else { field(request.headers, name)? };
        fields.push_str(name);
        fields.push(':');
        fields.push_str(value.trim());
        fields.push('\n');
    }
    let path = unescaped(request.path, false);
    let path: Vec<String> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(escaped).collect();
    let body = field(request.headers, BODY)?;
    Some([request.method, &path.join("/"), &query(request.query), &fields, signed, body].join("\n"))
}

fn without_usual_port(host: &str) -> &str {
    host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).unwrap_or(host)
}

/// Returns the query, ordered by names and escaped anew.
fn query(query: &str) -> String {
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (unescaped(name, true), unescaped(value, true)))
        .collect();
    pairs.sort_by(|one, other| one.0.cmp(&other.0));
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
    pairs.join("&")
}

/// Undoes percent-encoding; in a query a plus sign is a space.
fn unescaped(text: &str, plus: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            (b'+', ..) if plus => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    bytes
}

/// Percent-encodes all but the unreserved characters of RFC 3986 section 2.3.
fn escaped(bytes: impl AsRef<[u8]>) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for &byte in bytes.as_ref() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Returns the value of a field that occurs once.
fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

fn digest_from(text: &str) -> Option<Sha256> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(Sha256(digest))
}

fn time_of(date: &str) -> Option<UnixTime> {
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", date).ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(UnixTime(time.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// Signed by a program of its own, which reproduces the published vector of another implementation (the Ruby client
    /// `hyperb`) and differs from it only in the path.
    const VECTORS: [(&str, &str, &str, &str, &str, &str, &str); 3] = [
        (
            "GET",
            "/v1.23",
            "",
            "us-west-1.hyper.sh",
            "application/json",
            "",
            "d5913c9dca1575784c2c2b4da40e717de638b2885246b8300a599615c07d3fd2",
        ),
        (
            "POST",
            "/v1.23//volumes/initialize",
            "",
            "127.0.0.1:8700",
            "application/json",
            "{\"Reload\":false}\n",
            "be2910bb891fcafaaa6ce597df98af9463c8f2f2779bd92d345991e82fc62a61",
        ),
        (
            "PUT",
            "/volumes/uploadfinish",
            "session=a+b%2fc",
            "h:443",
            "text/plain",
            "",
            "5dcf7a4916954563c39c6d3cd4ef1cb5f14e753f46e0e6538e1cba1ba5cc1a02",
        ),
    ];

    const TIME: &str = "20170729T230845Z";

    fn headers(content_type: &str, body: &str) -> HeaderMap {
        let digest = Sha256(Hasher::digest(body).into());
        let value = |text: &str| HeaderValue::try_from(text).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("content-type", value(content_type));
        headers.insert(BODY, value(&format!("{digest:?}")));
        headers.insert(DATE, value(TIME));
        headers
    }

    fn authorization(signature: &str) -> String {
        format!(
            "{SCHEME} Credential=ak/20170729/us-west-1/hyper/hyper_request, \
             SignedHeaders=content-type;host;x-hyper-content-sha256;x-hyper-date, Signature={signature}"
        )
    }

    #[test]
    fn signatures_of_another_implementation_are_right_and_nothing_may_be_changed() {
        let secret = Secret::new("sk");
        for (method, path, query, host, content_type, body, signature) in VECTORS {
            let headers = headers(content_type, body);
            let text = authorization(signature);
            let claim = Claim::parse(&text).unwrap();
            let request = Signed { method, path, query, host, headers: &headers };
            assert!(is_signed(&request, &claim, TIME, &secret), "{method} {path}");
            for changed in [
                Signed { method: "DELETE", ..request },
                Signed { path: "/v1.23/volumes/other", ..request },
                Signed { query: "session=other", ..request },
                Signed { host: "other", ..request },
            ] {
                assert!(!is_signed(&changed, &claim, TIME, &secret), "{changed:?}");
            }
            assert!(!is_signed(&request, &claim, "20170729T230846Z", &secret));
            assert!(!is_signed(&request, &claim, TIME, &Secret::new("other")));
        }
    }

    #[test]
    fn a_claim_that_signs_too_little_is_none() {
        let headers = headers("text/plain", "");
        let request = Signed { method: "GET", path: "/", query: "", host: "h", headers: &headers };
        for signed in ["host", "host;x-hyper-date", "x-hyper-date;x-hyper-content-sha256", ""] {
            assert_eq!(canonical(&request, signed), None, "{signed}");
        }
        let whole = authorization(&"0".repeat(64));
        assert!(Claim::parse(&whole).is_some());
        for broken in [
            whole.replace("hyper_request", "aws4_request"),
            whole.replace("/hyper/", "/s3/"),
            whole.replace("Signature=0", "Signature="),
            whole.replace("SignedHeaders=", "Signed="),
            format!("{whole}, Signature=1"),
            whole.replacen(SCHEME, "AWS4-HMAC-SHA256", 1),
            "x".repeat(LONGEST + 1),
        ] {
            assert!(Claim::parse(&broken).is_none(), "{broken}");
        }
    }

    #[tokio::test]
    async fn a_key_is_good_for_its_user_until_it_is_removed_and_only_near_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let meta = Meta::open(&directory.path().join("meta")).await.unwrap();
        let tenant = meta.add_user("alice", "hash", "red", None, UnixTime(0)).await.unwrap();
        let clock = Arc::new(crate::domain::FixedClock::at(time_of(TIME).unwrap()));
        let keys = Keys::new(meta.clone(), clock.clone(), Zeroizing::new([7; 32]));
        let (id, secret) = keys.add("alice").await.unwrap();
        assert!(keys.add("nobody").await.is_err());

        let mut headers = headers("text/plain", "");
        let signed = "content-type;host;x-hyper-content-sha256;x-hyper-date";
        let canonical =
            canonical(&Signed { method: "GET", path: "/", query: "", host: "h", headers: &headers }, signed).unwrap();
        let scope = "20170729/here/hyper/hyper_request";
        let text = format!("{SCHEME}\n{TIME}\n{scope}\n{:?}", Sha256(Hasher::digest(canonical).into()));
        let key = ["20170729", "here", "hyper", "hyper_request"]
            .iter()
            .fold(format!("HYPER{}", secret.reveal()).into_bytes(), |key, part| {
                mac(&key, part).unwrap().finalize().into_bytes().to_vec()
            });
        let signature = format!("{:?}", Sha256(mac(&key, &text).unwrap().finalize().into_bytes().into()));
        let field = format!("{SCHEME} Credential={id}/{scope}, SignedHeaders={signed}, Signature={signature}");
        headers.insert("authorization", HeaderValue::try_from(field).unwrap());

        let request = Signed { method: "GET", path: "/", query: "", host: "h", headers: &headers };
        let (principal, body) = keys.authenticate(&request).await.unwrap();
        assert_eq!((principal.tenant, principal.user.as_str()), (tenant, "alice"));
        assert_eq!(body, Sha256(Hasher::digest("").into()));
        clock.advance_seconds(299);
        keys.authenticate(&request).await.unwrap();
        clock.advance_seconds(2);
        assert!(keys.authenticate(&request).await.is_err());
        let clock = Arc::new(crate::domain::FixedClock::at(time_of(TIME).unwrap()));
        let other = Keys::new(meta.clone(), clock.clone(), Zeroizing::new([8; 32]));
        assert!(other.authenticate(&request).await.is_err());
        let keys = Keys::new(meta.clone(), clock, Zeroizing::new([7; 32]));
        keys.authenticate(&request).await.unwrap();
        meta.remove_key(&id).await.unwrap();
        assert!(keys.authenticate(&request).await.is_err());
    }
}
