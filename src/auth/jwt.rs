//! Access tokens: JSON Web Tokens (RFC 7519) signed by RS256, with the claims that HPC-AI's have.
//!
//! A token is good for a day. Nothing of it is kept; what ends it before its time is what happens to its user. It holds
//! a keyed digest of the record of the user's password, so a new password makes every older token worthless at once, on
//! every clock; a time of the change beside `iat`, in whole seconds, would leave those of the same second.
//!
//! # Invariants
//! - A token is taken only if a key of ours that its header names has signed it by RS256: no other algorithm is, and no
//!   key that it brings itself.
//! - What a user may do is what their record says now, not what the token says.
//!
//! # Cancellation
//! Dropping a call is safe at any await. A key that is being made becomes one of ours all the same.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::Mac;
use http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, Validation};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::task::spawn_blocking;

use super::hmac_sha256;
use super::signing_keys::{Key, KeyError, KeyRing, Purpose};
use crate::domain::{Clock, Fault, FaultKind, Principal, Secret, UnixTime, UserId};
use crate::meta::{Meta, UserRecord};

/// Seconds for which a token is valid: a day, as the vendor's.
const LIFETIME: u32 = 24 * 60 * 60;
/// The most seconds by which a token may be ahead of this clock, which may have been set back since it was signed.
const AHEAD: i64 = 60;
/// The most bytes of a token; ours have under 900.
const LONGEST: usize = 8 << 10;
/// The most tokens of one request that are verified: a browser sends every cookie of the name that fits the path, and
/// each costs an operation of public-key cryptography.
const MOST: usize = 4;
/// The cookie that holds a token.
const COOKIE: &[u8] = b"AccessToken";

/// The issuer and the audience that tokens name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenNames {
    /// The claim `iss`.
    pub issuer: String,
    /// The claim `aud`.
    pub audience: String,
}

/// The claims of a token, in the order of the vendor's.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    /// Seconds since 1970, as in `iat`.
    exp: i64,
    group: Vec<String>,
    iat: i64,
    iss: String,
    /// See [`mark`].
    pwd: String,
    sub: String,
}

/// Signs tokens, and checks them.
pub(crate) struct AccessTokens {
    meta: Meta,
    clock: Arc<dyn Clock>,
    names: TokenNames,
    validation: Validation,
    keys: Arc<KeyRing>,
}

impl AccessTokens {
    /// Tokens for the users of this database, signed by the keys of this file; it is made with the first token. Blocks;
    /// for the start only.
    pub(crate) fn open(meta: Meta, clock: Arc<dyn Clock>, names: TokenNames, path: PathBuf) -> Result<Self, KeyError> {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_issuer(&[&names.issuer]);
        validation.set_audience(&[&names.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Checked here, against the clock that is passed in.
        validation.validate_exp = false;
        Ok(Self { meta, clock, names, validation, keys: Arc::new(KeyRing::open(path, Purpose::Tokens)?) })
    }

    /// Returns a new token for a user, and the seconds for which it is valid.
    pub(crate) async fn issue(&self, user: &UserRecord) -> Result<(Secret, u32), Fault> {
        let now = self.clock.now();
        let key = self.keys.current(now).await?;
        let claims = self.claims(user, &key, now);
        // Milliseconds of one core.
        let signed = spawn_blocking(move || key.sign(&claims)).await.map_err(KeyError::Interrupted)?;
        Ok((Secret::new(signed?), LIFETIME))
    }

    fn claims(&self, user: &UserRecord, key: &Key, now: UnixTime) -> Claims {
        let iat = seconds(now);
        Claims {
            aud: vec![self.names.audience.clone()],
            exp: iat + i64::from(LIFETIME),
            group: vec![if user.is_admin { "admin" } else { "user" }.to_owned()],
            iat,
            iss: self.names.issuer.clone(),
            pwd: mark(user, key),
            sub: user.id.to_string(),
        }
    }

    /// Returns the caller of a request with these fields: the bearer of a token in `Authorization: Bearer` (RFC 6750)
    /// or in the cookie `AccessToken`. Of several tokens the first valid one counts.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Fault> {
        for token in tokens_of(headers).take(MOST) {
            if let Some(user) = self.bearer_of(token).await? {
                return Ok(user.principal());
            }
        }
        Err(Fault::new(FaultKind::Unauthenticated, "a valid access token is needed; log in to get one"))
    }

    /// Returns the user of a token, if it is valid now.
    async fn bearer_of(&self, token: &str) -> Result<Option<UserRecord>, Fault> {
        let Some((claims, key)) = self.verified(token, self.clock.now()) else { return Ok(None) };
        let Ok(id) = claims.sub.parse::<UserId>() else { return Ok(None) };
        let user = self.meta.user_with_id(id).await?;
        Ok(user.filter(|user| mark(user, &key).as_bytes().ct_eq(claims.pwd.as_bytes()).into()))
    }

    /// Returns the claims of a token, and the key that signed it.
    fn verified(&self, token: &str, now: UnixTime) -> Option<(Claims, Arc<Key>)> {
        if token.len() > LONGEST {
            return None;
        }
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.alg != Algorithm::RS256 {
            return None;
        }
        let key = self.keys.known(&header.kid?, now)?;
        let claims: Claims = jsonwebtoken::decode(token, key.checking(), &self.validation).ok()?.claims;
        let now = seconds(now);
        let is_now = claims.iat <= now.saturating_add(AHEAD) && now < claims.exp;
        let is_as_long = claims.exp.checked_sub(claims.iat) == Some(i64::from(LIFETIME));
        (is_now && is_as_long).then_some((claims, key))
    }
}

const fn seconds(time: UnixTime) -> i64 {
    time.0.div_euclid(1_000)
}

/// Returns a digest of the record of a user's password, under the key that signs: a reader of a token can neither guess
/// the password from it nor see that two users or two days have the same.
fn mark(user: &UserRecord, key: &Key) -> String {
    let mac = hmac_sha256(key.secret()).chain_update(user.id.as_bytes()).chain_update(&user.password_hash);
    // 128 bits are enough: a guess can be tried at this server only.
    URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..16])
}

/// Returns the tokens in the fields of a request.
fn tokens_of(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
    });
    // HTTP/2 may send each cookie in a field of its own (RFC 9113 section 8.2.3).
    let cookies = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    bearer.chain(cookies.filter_map(token_of_cookie))
}

/// The value of a cookie, quoted or not (RFC 6265 section 4.1.1), if it is the one that holds a token.
fn token_of_cookie(pair: &[u8]) -> Option<&str> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
    if name != COOKIE {
        return None;
    }
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    std::str::from_utf8(unquoted.unwrap_or(value)).ok()
}

#[cfg(test)]
mod tests;
