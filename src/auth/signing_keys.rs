//! The keys that sign tokens (RSA of 2048 bits) and receipts (Ed25519), made here, and a new one after 30 days.
//!
//! A key of tokens signs for 30 days and is good for another day, which is as long as its last token is. So there are
//! two at most. What receipts were signed with is told for ten years.
//!
//! # Crash
//! A key is in the file, durably, before it signs.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256 as Hasher};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};
use zeroize::Zeroizing;

use crate::auth::private_file;
use crate::domain::{Fault, PublicKey, Sha256, UnixTime};

const DAY: i64 = 24 * 60 * 60 * 1_000;
/// The time for which a key signs.
const SIGNS: i64 = 30 * DAY;
/// The most bytes of the file: far above those of the most keys.
const LARGEST: u64 = 64 << 10;

/// What keys sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Access tokens.
    Tokens,
    /// Receipts of drives.
    Receipts,
}

impl Purpose {
    /// The time for which what a key has signed is accepted, from when the key was made.
    const fn checks(self) -> i64 {
        match self {
            Self::Tokens => SIGNS + DAY,
            Self::Receipts => 3_650 * DAY,
        }
    }

    /// The most keys that are kept: as many as are made in that time.
    const fn kept(self) -> usize {
        match self {
            Self::Tokens => 2,
            Self::Receipts => 122,
        }
    }
}

/// A failure to make, keep or use a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("the file of the keys cannot be used")]
    File(#[source] io::Error),
    /// The file holds something else.
    #[error("the file of the keys does not hold keys: remove it, which ends all that they have signed")]
    Damaged,
    /// The machine has no randomness, or no memory.
    #[error("no key can be made")]
    Make(#[source] Unspecified),
    /// The token or receipt cannot be signed.
    #[error("it cannot be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
    /// The runtime is stopping.
    #[error("the work was interrupted")]
    Interrupted(#[source] JoinError),
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        Self::internal(error)
    }
}

/// One key.
pub(super) struct Key {
    /// The name that tokens give it: the beginning of the digest of its public half.
    id: String,
    purpose: Purpose,
    made: UnixTime,
    /// The public half, in the form of its algorithm.
    public: Vec<u8>,
    private: Zeroizing<Vec<u8>>,
    /// For digests under a key that is never told, made of the private half.
    secret: Zeroizing<[u8; 32]>,
    signing: EncodingKey,
    checking: DecodingKey,
}

/// A key as it stands in the file.
#[derive(Serialize, Deserialize)]
struct StoredKey {
    /// When it was made, in milliseconds since 1970.
    made: i64,
    /// Its private half (RFC 5208), in base64.
    private: Zeroizing<String>,
}

impl Key {
    fn make(purpose: Purpose, now: UnixTime) -> Result<Self, KeyError> {
        let private = match purpose {
            Purpose::Tokens => {
                let pair = KeyPair::generate(KeySize::Rsa2048).map_err(KeyError::Make)?;
                let der: Pkcs8V1Der<'static> = pair.as_der().map_err(KeyError::Make)?;
                Zeroizing::new(der.as_ref().to_vec())
            }
            Purpose::Receipts => {
                let pair = Ed25519KeyPair::generate().map_err(KeyError::Make)?;
                Zeroizing::new(pair.to_pkcs8v1().map_err(KeyError::Make)?.as_ref().to_vec())
            }
        };
        Self::of(purpose, private, now).ok_or(KeyError::Damaged)
    }

    fn read(purpose: Purpose, stored: &StoredKey) -> Option<Self> {
        let private = Zeroizing::new(STANDARD.decode(stored.private.as_bytes()).ok()?);
        Self::of(purpose, private, UnixTime(stored.made))
    }

    fn of(purpose: Purpose, private: Zeroizing<Vec<u8>>, made: UnixTime) -> Option<Self> {
        let (public, signing, checking) = match purpose {
            Purpose::Tokens => {
                let public = KeyPair::from_pkcs8(&private).ok()?.public_key().as_ref().to_vec();
                let checking = DecodingKey::from_rsa_der(&public);
                (public, EncodingKey::from_rsa_der(pkcs1_of(&private)?), checking)
            }
            Purpose::Receipts => {
                let public = Ed25519KeyPair::from_pkcs8(&private).ok()?.public_key().as_ref().to_vec();
                let checking = DecodingKey::from_ed_der(&public);
                (public, EncodingKey::from_ed_der(&private), checking)
            }
        };
        let mut id = format!("{:?}", Sha256(Hasher::digest(&public).into()));
        id.truncate(32);
        let secret = Hasher::new().chain_update("marks of passwords").chain_update(&*private).finalize();
        Some(Self { id, purpose, made, public, secret: Zeroizing::new(secret.into()), signing, checking, private })
    }

    fn stored(&self) -> StoredKey {
        StoredKey { made: self.made.0, private: Zeroizing::new(STANDARD.encode(&*self.private)) }
    }

    /// Returns the milliseconds since it was made; negative when the clock was set back.
    fn age(&self, now: UnixTime) -> i64 {
        now.0.saturating_sub(self.made.0)
    }

    /// Whether it signs now. A key that seems to come from the future would sign for too long.
    fn signs(&self, now: UnixTime) -> bool {
        (-DAY..SIGNS).contains(&self.age(now))
    }

    /// Whether what it has signed is accepted now.
    fn checks(&self, now: UnixTime) -> bool {
        self.age(now) < self.purpose.checks()
    }

    /// Signs these claims.
    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<String, KeyError> {
        let mut header = match self.purpose {
            Purpose::Tokens => Header::new(Algorithm::RS256),
            Purpose::Receipts => Header { typ: Some("receipt+jwt".to_owned()), ..Header::new(Algorithm::EdDSA) },
        };
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, claims, &self.signing).map_err(KeyError::Sign)
    }

    /// The public half as those who check receipts want it.
    fn told(&self) -> PublicKey {
        PublicKey {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            kid: self.id.clone(),
            x: URL_SAFE_NO_PAD.encode(&self.public),
        }
    }

    /// The public half.
    pub(super) fn checking(&self) -> &DecodingKey {
        &self.checking
    }

    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    #[cfg(test)]
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

/// The keys, oldest first, and their file.
pub(super) struct KeyRing {
    path: PathBuf,
    purpose: Purpose,
    keys: ArcSwap<Vec<Arc<Key>>>,
    /// Held by the task that makes a key.
    turn: Arc<Semaphore>,
}

impl KeyRing {
    /// Reads the keys of this file; a missing file has none.
    pub(super) fn open(path: PathBuf, purpose: Purpose) -> Result<Self, KeyError> {
        let stored = read(&path)?;
        let keys = stored.iter().map(|stored| Key::read(purpose, stored).map(Arc::new).ok_or(KeyError::Damaged));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { path, purpose, keys: ArcSwap::from_pointee(keys), turn: Arc::new(Semaphore::new(1)) })
    }

    /// Returns the key that signs now, and makes one if need be.
    pub(super) async fn current(self: &Arc<Self>, now: UnixTime) -> Result<Arc<Key>, KeyError> {
        loop {
            if let Some(key) = self.signing(now) {
                return Ok(key);
            }
            // The semaphore is never closed.
            let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { continue };
            let ring = Arc::clone(self);
            // The turn goes with the work: a caller who leaves does not let another key be made beside this one.
            let work = move || {
                let renewed = ring.renew(now);
                drop(turn);
                renewed
            };
            spawn_blocking(work).await.map_err(KeyError::Interrupted)??;
        }
    }

    /// Returns the key of this id, if what it has signed is accepted now.
    pub(super) fn known(&self, id: &str, now: UnixTime) -> Option<Arc<Key>> {
        self.keys.load().iter().find(|key| key.id == id && key.checks(now)).cloned()
    }

    /// Returns the public halves of all keys whose signatures are accepted now, oldest first.
    pub(super) fn public(&self, now: UnixTime) -> Vec<PublicKey> {
        self.keys.load().iter().filter(|key| key.checks(now)).map(|key| key.told()).collect()
    }

    fn signing(&self, now: UnixTime) -> Option<Arc<Key>> {
        self.keys.load().last().filter(|key| key.signs(now)).cloned()
    }

    /// Makes a key, unless that was done while this one waited for its turn.
    fn renew(&self, now: UnixTime) -> Result<(), KeyError> {
        if self.signing(now).is_some() {
            return Ok(());
        }
        let mut keys: Vec<Arc<Key>> = self.keys.load().iter().filter(|key| key.checks(now)).cloned().collect();
        keys.push(Arc::new(Key::make(self.purpose, now)?));
        let goes = keys.len().saturating_sub(self.purpose.kept());
        keys.drain(..goes);
        let stored: Vec<StoredKey> = keys.iter().map(|key| key.stored()).collect();
        let text = serde_json::to_vec(&stored).map(Zeroizing::new).map_err(|error| KeyError::File(error.into()))?;
        private_file::write(&self.path, &text).map_err(KeyError::File)?;
        self.keys.store(Arc::new(keys));
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<StoredKey>, KeyError> {
    let file = match private_file::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(KeyError::File)?,
    };
    let mut text = Zeroizing::new(Vec::new());
    file.take(LARGEST).read_to_end(&mut text).map_err(KeyError::File)?;
    serde_json::from_slice(&text).map_err(|_| KeyError::Damaged)
}

/// The `RSAPrivateKey` (RFC 8017 appendix A.1.2) within a `PrivateKeyInfo` (RFC 5208 section 5), which is how a key is
/// made and which tokens are not signed with: version, algorithm, and then it, as the bytes of a string.
pub(super) fn pkcs1_of(pkcs8: &[u8]) -> Option<&[u8]> {
    let (info, _) = element(0x30, pkcs8)?;
    let (_version, info) = element(0x02, info)?;
    let (_algorithm, info) = element(0x30, info)?;
    element(0x04, info).map(|(key, _)| key)
}

/// The content of the element at the beginning of DER, if it has this tag, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(&len, rest)| (usize::from(len), rest))?,
        0x82 => rest.split_first_chunk().map(|(len, rest)| (usize::from(u16::from_be_bytes(*len)), rest))?,
        // No key of ours has 64 KiB.
        _ => return None,
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000_000);

    fn after(days: i64) -> UnixTime {
        UnixTime(NOW.0 + days * DAY)
    }

    fn ring(directory: &Path) -> Arc<KeyRing> {
        Arc::new(KeyRing::open(directory.join("tokens.key"), Purpose::Tokens).unwrap())
    }

    #[tokio::test]
    async fn a_key_signs_for_thirty_days_and_is_known_for_one_more() {
        let directory = tempfile::tempdir().unwrap();
        let ring = ring(directory.path());
        let first = ring.current(NOW).await.unwrap();
        assert_eq!(ring.current(UnixTime(after(30).0 - 1)).await.unwrap().id, first.id);
        let second = ring.current(after(30)).await.unwrap();
        assert_ne!(second.id, first.id);
        assert!(ring.known(&first.id, UnixTime(after(31).0 - 1)).is_some());
        assert!(ring.known(&first.id, after(31)).is_none());
        let third = ring.current(after(60)).await.unwrap();
        let ids: Vec<String> = ring.keys.load().iter().map(|key| key.id.clone()).collect();
        assert_eq!(ids, [second.id.clone(), third.id.clone()]);
        // A clock that was set back by years makes a key of its own, and there are never more than so many.
        assert_ne!(ring.current(after(-700)).await.unwrap().id, third.id);
        assert_eq!(ring.keys.load().len(), Purpose::Tokens.kept());
    }

    #[tokio::test]
    async fn what_has_signed_receipts_is_told_for_ten_years() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("receipts.key");
        let ring = Arc::new(KeyRing::open(path.clone(), Purpose::Receipts).unwrap());
        assert!(ring.public(NOW).is_empty());
        let first = ring.current(NOW).await.unwrap();
        for turn in 1..=130 {
            ring.current(after(30 * turn)).await.unwrap();
        }
        assert_eq!(ring.keys.load().len(), Purpose::Receipts.kept());
        let again = KeyRing::open(path, Purpose::Receipts).unwrap();
        assert_eq!(again.public(after(30 * 130)), ring.public(after(30 * 130)));
        assert!(ring.public(after(30 * 130)).len() >= 121 && ring.known(&first.id, after(30 * 130)).is_none());
    }

    #[tokio::test]
    async fn the_keys_are_private_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.key");
        std::fs::write(path.with_extension("new"), b"left by a crash").unwrap();
        let first = ring(directory.path());
        assert!(!path.exists(), "made when it is needed");
        let key = first.current(NOW).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        let again = ring(directory.path()).current(NOW).await.unwrap();
        assert_eq!((&again.id, &*again.secret), (&key.id, &*key.secret));
        assert_eq!(again.sign(&1).unwrap(), key.sign(&1).unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn those_who_come_together_get_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let ring = ring(directory.path());
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let ring = Arc::clone(&ring);
            waiting.spawn(async move { ring.current(NOW).await.unwrap().id.clone() });
        }
        let ids: std::collections::BTreeSet<String> = waiting.join_all().await.into_iter().collect();
        assert_eq!(ids.len(), 1);
    }

    #[tokio::test]
    async fn a_file_that_is_open_to_others_or_holds_no_keys_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.key");
        ring(directory.path()).current(NOW).await.unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(KeyRing::open(path.clone(), Purpose::Tokens), Err(KeyError::File(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "{}", "[{\"made\": 1, \"private\": \"AAAA\"}]", "[{\"made\": 1, \"private\": \"%\"}]"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(KeyRing::open(path.clone(), Purpose::Tokens), Err(KeyError::Damaged)), "{text}");
        }
    }

    #[test]
    fn no_der_makes_it_panic() {
        for der in [&[][..], &[0x30], &[0x30, 0x81], &[0x30, 0x82, 1], &[0x30, 0x84, 0, 0, 0, 0], &[0x30, 5, 2, 1, 0]] {
            assert_eq!(pkcs1_of(der), None);
        }
        assert_eq!(pkcs1_of(&[0x30, 9, 2, 1, 0, 0x30, 0, 4, 2, 7, 8, 9]), Some(&[7, 8][..]));
    }
}
