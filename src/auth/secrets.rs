//! Random secrets that are kept as digests.

use rand::Rng;
use sha2::{Digest, Sha256 as Hasher};
use subtle::ConstantTimeEq;

use crate::domain::{Secret, Sha256};

/// A new secret of 256 bits, as 64 hexadecimal digits: it can stand in a URL as it is.
pub(crate) fn random_secret() -> Secret {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    Secret::new(format!("{:?}", Sha256(bytes)))
}

/// Returns the digest of a secret, which is all that is kept. A fast digest is enough for 256 random bits.
pub(crate) fn digest_of(secret: &Secret) -> Sha256 {
    Sha256(Hasher::digest(secret.reveal().as_bytes()).into())
}

/// Whether these bytes have this digest.
pub(crate) fn is_digest_of(digest: &Sha256, bytes: &[u8]) -> bool {
    *digest == Sha256(Hasher::digest(bytes).into())
}

/// Whether this is the secret of a digest, in constant time.
pub(crate) fn is_secret(secret: &Secret, digest: &Sha256) -> bool {
    digest_of(secret).0.ct_eq(&digest.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_64_hexadecimal_digits_and_known_by_its_digest() {
        let [one, other] = [random_secret(), random_secret()];
        assert!(one.reveal().len() == 64 && one.reveal().bytes().all(|b| b"0123456789abcdef".contains(&b)));
        assert!(is_secret(&one, &digest_of(&one)));
        assert!(!is_secret(&other, &digest_of(&one)));
    }
}
