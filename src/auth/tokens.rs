//! Tokens: random secrets that stand for a user in a project, for a time.
//!
//! # Invariants
//! - Only the digest of a token is kept, in memory and in the database. It is found by that digest: what the time of a
//!   search could tell is of a digest, which nobody can choose.
//! - A token that is revoked here is refused from then on. What another process changes (it removes the user, or ends a
//!   membership) is noticed within [`REMEMBERED_FOR`].
//!
//! # Cancellation
//! Dropping `check` is safe. A dropped `issue` or `revoke` either happened or not.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::keystone::Keystone;
use super::recent::Recent;
use super::secrets::{digest_of, random_secret};
use crate::domain::{Clock, Fault, FaultKind, Principal, Project, Secret, Token, TokenId, UnixTime, User};
use crate::meta::{Meta, MetaError};

/// Milliseconds for which a valid token is not looked up again: a client's calls come in bursts.
const REMEMBERED_FOR: i64 = 5_000;
/// The most tokens that are remembered, about 400 bytes each.
const REMEMBERED: usize = 4_096;
/// The longest text that is digested: longer than any token, those with data of their own included.
const LONGEST: usize = 4096;

/// Issues tokens and checks them.
pub(crate) struct Tokens {
    issuer: Issuer,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

/// The service that issues and validates tokens.
#[derive(Debug)]
enum Issuer {
    /// This server.
    Own(Meta),
    /// An identity service elsewhere.
    Elsewhere(Box<Keystone>),
}

/// The tokens that were valid a short time ago.
struct Known {
    tokens: Recent<[u8; 32], Token>,
    /// Revocations so far: a token that was read before one must not be remembered after it.
    revocations: u64,
}

impl Tokens {
    /// Tokens that are kept in this database.
    pub(crate) fn new(meta: Meta, clock: Arc<dyn Clock>) -> Self {
        let known = Known { tokens: Recent::new(REMEMBERED), revocations: 0 };
        Self { issuer: Issuer::Own(meta), clock, known: Mutex::new(known) }
    }

    /// Tokens of an identity service elsewhere.
    pub(crate) fn elsewhere(keystone: Keystone, clock: Arc<dyn Clock>) -> Self {
        let known = Known { tokens: Recent::new(REMEMBERED), revocations: 0 };
        Self { issuer: Issuer::Elsewhere(Box::new(keystone)), clock, known: Mutex::new(known) }
    }

    /// Returns the caller whose token this text of an `X-Auth-Token` field is.
    pub(crate) async fn authenticate(&self, token: Option<&str>) -> Result<Principal, Fault> {
        let token = Secret::new(token.ok_or_else(refused)?);
        let Token { user, project, .. } = self.check(&token).await?.ok_or_else(refused)?;
        Ok(Principal { user: user.name, user_id: user.id, tenant: project.id, is_admin: user.is_admin })
    }

    /// Returns what a token stands for, if it is valid.
    pub(super) async fn check(&self, token: &Secret) -> Result<Option<Token>, Fault> {
        if token.reveal().is_empty() || token.reveal().len() > LONGEST {
            return Ok(None);
        }
        let (digest, now) = (digest_of(token), self.clock.now());
        let (remembered, revocations) = {
            let known = self.known();
            let since = UnixTime(now.0.saturating_sub(REMEMBERED_FOR - 1));
            (known.tokens.get(&digest.0, since).cloned(), known.revocations)
        };
        if let Some(token) = remembered.filter(|token| token.expires > now) {
            return Ok(Some(token));
        }
        let found = match &self.issuer {
            Issuer::Own(meta) => meta.token(&digest, now).await?,
            Issuer::Elsewhere(keystone) => keystone.token(token).await?.filter(|token| token.expires > now),
        };
        let mut known = self.known();
        match &found {
            Some(token) if known.revocations == revocations => known.tokens.put(digest.0, now, token.clone()),
            Some(_) | None => {}
        }
        Ok(found)
    }

    /// Issues a token: the secret, and what it stands for. For a token that is given for another one: that one, and the
    /// first of the chain.
    pub(super) async fn issue(
        &self,
        user: User,
        project: Project,
        old: Option<(Secret, TokenId)>,
        expires: UnixTime,
    ) -> Result<(Secret, Token), Fault> {
        let (old, chain) = old.map(|(old, chain)| (digest_of(&old), chain)).unzip();
        let token = Token { id: TokenId::random(), user, project, chain, issued: self.clock.now(), expires };
        let secret = random_secret();
        let Issuer::Own(meta) = &self.issuer else { return Err(elsewhere()) };
        match meta.insert_token(&digest_of(&secret), &token, old.as_ref()).await {
            Ok(()) => Ok((secret, token)),
            // The user, the project or the old token has gone since it was looked at.
            Err(MetaError::NotFound) => Err(refused()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends a token and those that were given for it, durably.
    pub(super) async fn revoke(&self, token: &Secret) -> Result<(), Fault> {
        let Issuer::Own(meta) = &self.issuer else { return Err(elsewhere()) };
        let ended = meta.remove_token(&digest_of(token)).await?;
        let mut known = self.known();
        known.revocations += 1;
        for digest in ended {
            known.tokens.remove(&digest.0);
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A map of copies stays usable whatever panicked beside it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

fn elsewhere() -> Fault {
    Fault::new(
        FaultKind::NotFound,
        "tokens are issued and ended by the identity service that this server is told to use",
    )
}

/// Returns the one refusal for all reasons.
pub(super) fn refused() -> Fault {
    Fault::new(FaultKind::Unauthenticated, "a valid token is needed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{FixedClock, Named};

    struct Scene {
        tokens: Tokens,
        meta: Meta,
        clock: Arc<FixedClock>,
        user: User,
        project: Project,
        directory: tempfile::TempDir,
    }

    /// A user `alice` with the project `red`.
    async fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let meta = Meta::open(&directory.path().join("meta.db")).await.unwrap();
        let clock = Arc::new(FixedClock::at(UnixTime(1_000_000)));
        meta.add_user("alice", "hash", "red", None, clock.now()).await.unwrap();
        let user = meta.account(&Named::Name("alice".to_owned())).await.unwrap().unwrap();
        let project = Project { id: user.project, name: "red".to_owned() };
        let tokens = Tokens::new(meta.clone(), clock.clone());
        Scene { tokens, meta, clock, user, project, directory }
    }

    impl Scene {
        async fn issue(&self) -> Secret {
            let expires = self.clock.now().plus_seconds(60);
            self.tokens.issue(self.user.clone(), self.project.clone(), None, expires).await.unwrap().0
        }

        async fn is_good(&self, token: &Secret) -> bool {
            self.tokens.authenticate(Some(token.reveal())).await.is_ok()
        }
    }

    #[tokio::test]
    async fn a_token_stands_for_its_user_in_its_project_until_it_expires() {
        let scene = scene().await;
        let token = scene.issue().await;
        let principal = scene.tokens.authenticate(Some(token.reveal())).await.unwrap();
        assert_eq!((principal.user.as_str(), principal.tenant), ("alice", scene.project.id));
        scene.clock.advance_seconds(59);
        assert!(scene.is_good(&token).await);
        scene.clock.advance_seconds(1);
        assert!(!scene.is_good(&token).await, "although it was remembered");
    }

    #[tokio::test]
    async fn what_is_no_token_is_refused_without_telling_why() {
        let scene = scene().await;
        let mut told = Vec::new();
        for text in [None, Some(""), Some("x"), Some(&*"0".repeat(64)), Some(&*"0".repeat(100_000))] {
            let fault = scene.tokens.authenticate(text).await.unwrap_err();
            assert_eq!(fault.kind, FaultKind::Unauthenticated);
            told.push(fault.told);
        }
        told.dedup();
        assert_eq!(told.len(), 1);
    }

    #[tokio::test]
    async fn a_revoked_token_is_refused_at_once_and_others_are_not() {
        let scene = scene().await;
        let (one, other) = (scene.issue().await, scene.issue().await);
        assert!(scene.is_good(&one).await && scene.is_good(&other).await);
        scene.tokens.revoke(&one).await.unwrap();
        assert!(!scene.is_good(&one).await);
        assert!(scene.is_good(&other).await);
    }

    #[tokio::test]
    async fn what_another_process_changes_is_noticed_after_a_short_time() {
        let scene = scene().await;
        let token = scene.issue().await;
        assert!(scene.is_good(&token).await);
        scene.meta.set_password("alice", "new").await.unwrap();
        scene.clock.advance_seconds(5);
        assert!(!scene.is_good(&token).await);
    }

    #[tokio::test]
    async fn only_the_digest_of_a_token_is_kept() {
        let scene = scene().await;
        let token = scene.issue().await;
        scene.meta.close().await;
        for entry in std::fs::read_dir(scene.directory.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(64).any(|window| window == token.reveal().as_bytes()));
        }
    }
}
