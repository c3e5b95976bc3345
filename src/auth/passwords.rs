//! Passwords: their slow digests, and random ones.
//!
//! # Cancellation
//! A digest that has begun runs to its end on its blocking thread, and keeps its permit until then: dropped requests
//! cannot add up to more memory than the permits allow.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{self, PasswordHasher, PasswordVerifier};
use rand::Rng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use zeroize::Zeroizing;

use crate::domain::Fault;

/// Each digest takes 19 MiB and a core for tens of milliseconds; two at once leave the rest of the machine to the
/// transfers (I12).
const AT_ONCE: usize = 2;

/// Letters and digits that are not taken for one another when read aloud or copied by hand (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The digest of no password, at the cost of a real one: the password of an unknown user is compared with it.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyB0aGlzIQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Makes and checks the digests of passwords: argon2id with 19 MiB, two passes and one lane, as OWASP advises
/// (Password Storage Cheat Sheet). Clones share the same permits.
#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    permits: Arc<Semaphore>,
}

/// The right to run one digest.
pub(super) type Permit = OwnedSemaphorePermit;

/// A failure to digest or compare a password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The stored text is not such a digest, or the machine has no randomness.
    #[error("the password could not be digested")]
    Digest(#[source] password_hash::Error),
    /// The runtime is stopping.
    #[error("the digest was interrupted")]
    Interrupted(#[source] JoinError),
}

impl From<PasswordError> for Fault {
    fn from(error: PasswordError) -> Self {
        Self::internal(error)
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Passwords {
    /// Returns the digest of a password with a new salt, as text to be stored (PHC string format).
    pub(crate) async fn hash(&self, password: Zeroizing<String>) -> Result<String, PasswordError> {
        let permit = self.permit().await;
        let digest = move || Argon2::default().hash_password(password.as_bytes()).map(|digest| digest.to_string());
        run(permit, digest).await
    }

    /// Reports whether a password matches this digest. Without a digest it takes as long, and reports false.
    pub(super) async fn verify(
        permit: Permit,
        password: Zeroizing<String>,
        digest: Option<String>,
    ) -> Result<bool, PasswordError> {
        run(permit, move || {
            let known = digest.is_some();
            let digest = PasswordHash::new(digest.as_deref().unwrap_or(NOBODY))?;
            match Argon2::default().verify_password(password.as_bytes(), &digest) {
                Ok(()) => Ok(known),
                Err(password_hash::Error::PasswordInvalid) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Waits until a digest may run.
    pub(super) async fn permit(&self) -> Permit {
        loop {
            // The semaphore is never closed.
            if let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
                return permit;
            }
        }
    }
}

async fn run<T: Send + 'static>(
    permit: Permit,
    digest: impl FnOnce() -> Result<T, password_hash::Error> + Send + 'static,
) -> Result<T, PasswordError> {
    let digest = move || {
        let result = digest();
        drop(permit);
        result
    };
    tokio::task::spawn_blocking(digest).await.map_err(PasswordError::Interrupted)?.map_err(PasswordError::Digest)
}

/// Returns a random password of 150 bits, in groups, that needs no quoting in a shell or a URL.
pub(super) fn random_password() -> Zeroizing<String> {
    let mut random = Zeroizing::new([0; 30]);
    rand::rng().fill_bytes(&mut *random);
    let mut password = Zeroizing::new(String::with_capacity(34));
    for (place, byte) in random.iter().enumerate() {
        if place > 0 && place % 6 == 0 {
            password.push('-');
        }
        password.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    password
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    async fn verify(
        passwords: &Passwords,
        password: Zeroizing<String>,
        digest: Option<String>,
    ) -> Result<bool, PasswordError> {
        Passwords::verify(passwords.permit().await, password, digest).await
    }

    #[tokio::test]
    async fn a_digest_fits_its_password_only() {
        let passwords = Passwords::default();
        let digest = passwords.hash(secret("right")).await.unwrap();
        assert!(!digest.contains("right"));
        assert!(verify(&passwords, secret("right"), Some(digest.clone())).await.unwrap());
        assert!(!verify(&passwords, secret("Right"), Some(digest.clone())).await.unwrap());
        assert!(!verify(&passwords, secret(""), Some(digest.clone())).await.unwrap());
        assert_ne!(passwords.hash(secret("right")).await.unwrap(), digest, "salted");
    }

    #[tokio::test]
    async fn an_unknown_user_costs_what_a_known_one_does() {
        let passwords = Passwords::default();
        let digest = passwords.hash(secret("x")).await.unwrap();
        let costs = |digest: &str| digest.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(costs(&digest), costs(NOBODY));
        assert_eq!(digest.len(), NOBODY.len());
        assert!(!verify(&passwords, secret("x"), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_damaged_digest_is_an_error_and_not_a_wrong_password() {
        let refused = verify(&Passwords::default(), secret("x"), Some("plain text".to_owned())).await;
        assert!(matches!(refused, Err(PasswordError::Digest(_))));
    }

    #[tokio::test]
    async fn no_more_than_two_digests_run_at_once() {
        let passwords = Passwords::default();
        let first = passwords.permit().await;
        let _second = passwords.permit().await;
        let mut third = Box::pin(passwords.hash(secret("x")));
        assert!(poll_once(&mut third).await.is_none());
        drop(first);
        third.await.unwrap();
    }

    /// Polls a future once.
    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    #[test]
    fn random_passwords_differ_and_are_safe_in_shells_and_urls() {
        let many: HashSet<String> = (0..100).map(|_| random_password().to_string()).collect();
        assert_eq!(many.len(), 100);
        for password in many {
            assert_eq!(password.split('-').map(str::len).collect::<Vec<_>>(), [6; 5]);
            assert!(password.bytes().all(|byte| byte == b'-' || ALPHABET.contains(&byte)));
        }
    }
}
