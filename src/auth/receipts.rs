//! Receipts: signed here by Ed25519, and checked by whoever has the public keys.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use tokio::task::spawn_blocking;

use super::signing_keys::{KeyError, KeyRing, Purpose};
use crate::domain::{Fault, PublicKey, Receipt, SignedReceipt, UnixTime};

/// Signs receipts.
pub(crate) struct Receipts {
    issuer: String,
    keys: Arc<KeyRing>,
}

impl Receipts {
    /// Receipts of this issuer, signed by the keys of this file; it is made with the first receipt. Blocks; for the
    /// start only.
    pub(crate) fn open(issuer: String, path: PathBuf) -> Result<Self, KeyError> {
        Ok(Self { issuer, keys: Arc::new(KeyRing::open(path, Purpose::Receipts)?) })
    }

    /// Who issues them.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs a receipt.
    ///
    /// # Cancellation
    /// Safe at any await. A key that is being made becomes one of ours all the same.
    pub(crate) async fn sign(&self, receipt: Receipt, now: UnixTime) -> Result<SignedReceipt, Fault> {
        let key = self.keys.current(now).await?;
        let signed = spawn_blocking(move || key.sign(&receipt).map(|jws| SignedReceipt { receipt, jws })).await;
        Ok(signed.map_err(KeyError::Interrupted)??)
    }

    /// Returns the keys that check the receipts which were issued here.
    pub(crate) fn public_keys(&self, now: UnixTime) -> Vec<PublicKey> {
        self.keys.public(now)
    }
}

/// Why a signature proves nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiptError {
    /// It is not a signature by Ed25519 at all.
    #[error("it is no compact JWS by Ed25519")]
    Malformed,
    /// The key that it names is not one of those given.
    #[error("its key {0:?} is none of those given")]
    UnknownKey(String),
    /// The key is none of Ed25519.
    #[error("the key is not the 32 bytes of an Ed25519 key in base64url")]
    BadKey,
    /// The key has not signed this.
    #[error("it was not signed by that key, or was changed since")]
    Forged,
}

/// Returns what a compact JWS says, if one of these keys has signed it. A key with an empty name is for any signature.
pub(crate) fn verified(jws: &str, keys: &[PublicKey]) -> Result<Receipt, ReceiptError> {
    let header = jsonwebtoken::decode_header(jws).map_err(|_| ReceiptError::Malformed)?;
    if header.alg != Algorithm::EdDSA {
        return Err(ReceiptError::Malformed);
    }
    let kid = header.kid.unwrap_or_default();
    let key = keys.iter().find(|key| key.kid.is_empty() || key.kid == kid).ok_or(ReceiptError::UnknownKey(kid))?;
    let is_ed25519 = key.kty == "OKP" && key.crv == "Ed25519";
    let bytes = URL_SAFE_NO_PAD.decode(&key.x).ok().filter(|bytes| bytes.len() == 32 && is_ed25519);
    let bytes = bytes.ok_or(ReceiptError::BadKey)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    // A receipt tells what was, which does not expire.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let decoded = jsonwebtoken::decode(jws, &DecodingKey::from_ed_der(&bytes), &validation);
    decoded.map(|token| token.claims).map_err(|_| ReceiptError::Forged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ByteCount, ReceiptDigests, TenantId, VolumeId};

    const NOW: UnixTime = UnixTime(1_700_000_000_000);

    fn receipt() -> Receipt {
        Receipt {
            issuer: "https://cloud.example.com".to_owned(),
            issued: "2023-11-14T22:13:20Z".to_owned(),
            drive: VolumeId::from_bytes([7; 16]),
            name: "na\u{ef}ve".to_owned(),
            tenant: TenantId::from_bytes([1; 16]),
            user: None,
            transfer: None,
            size: ByteCount::mib(3),
            allocated: Some(4096),
            digest: ReceiptDigests { blake3: Some("b3".repeat(32)), ..ReceiptDigests::default() },
            created: "2023-11-14T22:13:19Z".to_owned(),
            stored: None,
            checked: None,
            checked_from: None,
        }
    }

    #[tokio::test]
    async fn what_was_signed_is_verified_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| Receipts::open("a".to_owned(), directory.path().join(name)).unwrap();
        let (ours, others) = (open("receipts.key"), open("others.key"));
        let signed = ours.sign(receipt(), NOW).await.unwrap();
        let keys = ours.public_keys(NOW);
        assert_eq!((keys.len(), verified(&signed.jws, &keys).unwrap()), (1, receipt()));
        // By the same keys after a restart.
        assert_eq!(open("receipts.key").public_keys(NOW), keys);

        let theirs = others.sign(receipt(), NOW).await.unwrap();
        assert!(matches!(verified(&theirs.jws, &keys), Err(ReceiptError::UnknownKey(_))));
        let nameless = |key: &PublicKey| vec![PublicKey { kid: String::new(), ..key.clone() }];
        assert!(verified(&signed.jws, &nameless(&keys[0])).is_ok());
        assert!(matches!(verified(&theirs.jws, &nameless(&keys[0])), Err(ReceiptError::Forged)));
        let parts: Vec<&str> = signed.jws.split('.').collect();
        let changed =
            URL_SAFE_NO_PAD.encode(serde_json::to_vec(&Receipt { user: Some("x".to_owned()), ..receipt() }).unwrap());
        let changed = format!("{}.{changed}.{}", parts[0], parts[2]);
        assert!(matches!(verified(&changed, &keys), Err(ReceiptError::Forged)));
        let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), parts[1]);
        for text in ["", "a.b.c", &none, &signed.jws[1..]] {
            assert!(matches!(verified(text, &keys), Err(ReceiptError::Malformed)), "{text}");
        }
        let short = vec![PublicKey { x: "AAAA".to_owned(), ..keys[0].clone() }];
        assert!(matches!(verified(&signed.jws, &short), Err(ReceiptError::BadKey)));
    }
}
