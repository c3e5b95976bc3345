//! Authentication: users with their passwords, tokens and access keys, the slowing down of guesses, and tickets and
//! secrets for single transfers.
//!
//! It identifies callers; what they may do is decided elsewhere.
//!
//! # Invariants
//! - No password is kept, in memory or on disk: only slow salted digests, and digests under a key that dies with the
//!   process; no token either, but its digest. Nothing here logs (I10).
//! - Secrets are compared in constant time, and an unknown user costs as much as a wrong password.
//! - The memory that callers without a password can make it use is bounded (I12).

mod accounts;
mod basic;
mod chunk_tickets;
mod identity;
mod jwt;
mod keystone;
mod lanes;
mod logins;
mod passwords;
mod private_file;
mod rates;
mod receipts;
mod recent;
mod secrets;
mod signatures;
mod signing_keys;
mod throttle;
mod tickets;
mod tokens;

use hmac::{Hmac, KeyInit};
use sha2::Sha256;
use zeroize::Zeroizing;

pub(crate) use accounts::{AccountError, Accounts, Bounds, NewPassword, NewUser};
pub(crate) use basic::{Basic, BasicSettings};
pub(crate) use identity::{Identity, IdentitySettings};
pub(crate) use jwt::{AccessTokens, TokenNames};
pub(crate) use keystone::Keystone;
pub(crate) use logins::{Caller, Grounds, Logins, has_credentials};
pub(crate) use receipts::{Receipts, verified};
pub(crate) use secrets::{digest_of, is_digest_of, is_secret, random_secret};
pub(crate) use signatures::{Keys, Signed};
pub(crate) use tickets::{TicketLife, Tickets, load_or_create_key};

/// HMAC-SHA256 under this key. Filling a short key up with zeros is what HMAC itself does (RFC 2104 section 2), and
/// makes it infallible here.
fn hmac_sha256(key: &[u8; 32]) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key);
    Hmac::new((&*block).into())
}

#[cfg(test)]
mod tests {
    use hmac::Mac;

    use super::*;

    #[test]
    fn the_keyed_digest_is_the_hmac_of_rfc_4231() {
        // Test case 2 of RFC 4231, whose key is shorter still: the fill is the same.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let mac = hmac_sha256(&key).chain_update(b"what do ya want for nothing?").finalize().into_bytes();
        let text = format!("{:?}", crate::domain::Sha256(mac.into()));
        assert_eq!(text, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
