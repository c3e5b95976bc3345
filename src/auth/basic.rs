//! Basic authentication (RFC 7617): from a header to a principal.
//!
//! # Invariants
//! - A remembered password is good only with the digest that the user's record holds now: a new password and a removed
//!   user are noticed by the next request.
//! - What is remembered is remembered for one address. Elsewhere the same password is looked at anew, so that a guess
//!   that happens to be right is not told from a wrong one by its speed; and nobody's failures elsewhere slow down who
//!   is remembered. Where an address fails with a user, it is looked for at a pace too.
//! - No password is refused unseen, but after a long wait, or where too many wait ([`super::throttle`]).
//!
//! # Cancellation
//! Dropping `authenticate` is safe at any await. From when the password is looked at, it counts as a failure.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::Mac;
use rand::Rng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::hmac_sha256;
use super::passwords::Passwords;
use super::recent::Recent;
use super::throttle::{Throttle, ThrottleSettings, Turn, network_of};
use crate::domain::{Clock, Fault, FaultKind, Secret, UnixTime, UserId};
use crate::meta::{Meta, UserRecord};

/// The longest header value that is decoded: enough for any name and password.
const LONGEST_HEADER: usize = 1_024;
const LONGEST_USER: usize = 128;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Settings for checking logins.
#[derive(Clone, Debug)]
pub(crate) struct BasicSettings {
    /// Seconds since its last use for which a right password is remembered and not digested again. A digest takes tens
    /// of milliseconds of a core, which a client pays per request without this; more than minutes gains nothing.
    pub remember_seconds: u32,
    /// The most passwords that are remembered, about 200 bytes each.
    pub remembered: usize,
    /// Settings for slowing down guesses.
    pub throttle: ThrottleSettings,
}

impl Default for BasicSettings {
    fn default() -> Self {
        Self { remember_seconds: 60, remembered: 4_096, throttle: ThrottleSettings::default() }
    }
}

/// Checks Basic credentials against the users.
pub(crate) struct Basic {
    meta: Meta,
    clock: Arc<dyn Clock>,
    passwords: Passwords,
    throttle: Throttle,
    /// The key of [`Basic::mark`], random for each process.
    key: Zeroizing<[u8; 32]>,
    remember_seconds: u32,
    /// The mark of credentials, and the stored digest that they matched.
    remembered: Mutex<Recent<Mark, String>>,
    #[cfg(test)]
    comparisons: std::sync::atomic::AtomicU32,
}

/// The keyed digest of an address, a user and a password.
type Mark = [u8; 32];

impl Basic {
    /// Checks against the users of this database.
    pub(crate) fn new(meta: Meta, settings: BasicSettings, clock: Arc<dyn Clock>) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(&mut *key);
        Self {
            meta,
            passwords: Passwords::default(),
            throttle: Throttle::new(settings.throttle, Arc::clone(&clock)),
            key,
            remember_seconds: settings.remember_seconds,
            remembered: Mutex::new(Recent::new(settings.remembered)),
            clock,
            #[cfg(test)]
            comparisons: std::sync::atomic::AtomicU32::new(0),
        }
    }

    /// Returns the user who sent this `Authorization` header from this address.
    pub(crate) async fn authenticate(&self, authorization: Option<&str>, peer: IpAddr) -> Result<UserRecord, Fault> {
        let credentials = authorization.and_then(Credentials::parse).ok_or_else(unauthenticated)?;
        self.check(&credentials, peer).await
    }

    /// Reports whether this user is there, and their password still the one with this digest.
    pub(super) async fn has_password(&self, user: UserId, digest: &Secret) -> Result<bool, Fault> {
        let user = self.meta.user_with_id(user).await?;
        Ok(user.is_some_and(|user| user.password_hash.as_bytes().ct_eq(digest.reveal().as_bytes()).into()))
    }

    /// The user of this name and password, with the digest that the password is right for: for logins by other ways
    /// than a header, checked and slowed down like those.
    pub(crate) async fn login(&self, user: &str, password: &str, peer: IpAddr) -> Result<UserRecord, Fault> {
        let credentials = Credentials::new(user, password).ok_or_else(unauthenticated)?;
        self.check(&credentials, peer).await
    }

    async fn check(&self, credentials: &Credentials, peer: IpAddr) -> Result<UserRecord, Fault> {
        let mark = self.mark(credentials, peer);
        let caller = self.throttle.caller(peer, &credentials.user);
        self.throttle.glance(&caller).await;
        if let Some(record) = self.recall(&mark, credentials).await? {
            return Ok(record);
        }
        let turn = self.throttle.turn(&caller).await?;
        // The same credentials may have been verified while this caller waited.
        if let Some(record) = self.recall(&mark, credentials).await? {
            return Ok(record);
        }
        // At most two callers of an address wait for this.
        let permit = self.throttle.bounded(self.passwords.permit()).await?;
        // Read after the wait, so that a change meanwhile is seen.
        let record = self.meta.user(&credentials.user).await?;
        let digest = record.as_ref().map(|record| record.password_hash.clone());
        #[cfg(test)]
        self.comparisons.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        turn.look();
        let right = Passwords::verify(permit, credentials.password.clone(), digest).await?;
        self.settle(turn, mark, record.filter(|_| right))
    }

    /// Applies the result of a comparison; `record` is the user's, if the password was right.
    fn settle(&self, turn: Turn<'_>, mark: Mark, record: Option<UserRecord>) -> Result<UserRecord, Fault> {
        let record = record.ok_or_else(unauthenticated)?;
        // Remember before the turn ends: the next caller in line may have the same password.
        self.remembered().put(mark, self.clock.now(), record.password_hash.clone());
        turn.succeeded();
        Ok(record)
    }

    /// Returns the user of credentials that are remembered, if the user's record has not changed since.
    async fn recall(&self, mark: &Mark, credentials: &Credentials) -> Result<Option<UserRecord>, Fault> {
        let since = UnixTime(self.clock.now().0.saturating_sub(i64::from(self.remember_seconds) * 1_000 - 1));
        let Some(digest) = self.remembered().get(mark, since).cloned() else { return Ok(None) };
        let record = self.meta.user(&credentials.user).await?;
        let unchanged = record.filter(|record| record.password_hash.as_bytes().ct_eq(digest.as_bytes()).into());
        match &unchanged {
            Some(_) => self.remembered().put(*mark, self.clock.now(), digest),
            None => self.remembered().remove(mark),
        }
        Ok(unchanged)
    }

    fn mark(&self, credentials: &Credentials, peer: IpAddr) -> Mark {
        let address = match network_of(peer) {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        // No user holds a colon, so no two pairs run together.
        hmac_sha256(&self.key)
            .chain_update(address.octets())
            .chain_update(credentials.user.as_bytes())
            .chain_update(b":")
            .chain_update(credentials.password.as_bytes())
            .finalize()
            .into_bytes()
            .into()
    }

    fn remembered(&self) -> MutexGuard<'_, Recent<Mark, String>> {
        // A map of copies stays usable whatever panicked beside it.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Basic")
    }
}

/// Whether a user may have this name: one that can be sent by Basic authentication and shown on a line.
pub(super) fn check_user_name(name: &str) -> Result<(), Fault> {
    if name.is_empty() || name.len() > LONGEST_USER {
        return Err(Fault::invalid("name", format!("a user's name has 1 to {LONGEST_USER} bytes")));
    }
    if name.contains(|c: char| c == ':' || c.is_control()) {
        return Err(Fault::invalid("name", "a user's name has no colon and no control characters"));
    }
    Ok(())
}

/// Returns the one refusal for all reasons, which discloses nothing about users.
fn unauthenticated() -> Fault {
    Fault::new(FaultKind::Unauthenticated, "a valid user name and password are needed")
}

/// The credentials that a header holds.
struct Credentials {
    user: String,
    password: Zeroizing<String>,
}

impl Credentials {
    fn parse(authorization: &str) -> Option<Self> {
        if authorization.len() > LONGEST_HEADER {
            return None;
        }
        let (scheme, encoded) = authorization.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = Zeroizing::new(BASE64.decode(encoded.trim_matches(' ')).ok()?);
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Self::new(user, password)
    }

    fn new(user: &str, password: &str) -> Option<Self> {
        check_user_name(user).ok()?;
        // RFC 7617 section 2: neither has control characters.
        if password.len() > LONGEST_HEADER || password.contains(char::is_control) {
            return None;
        }
        Some(Self { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::*;
    use crate::domain::{FixedClock, Principal, Quota};

    struct Scene {
        basic: Arc<Basic>,
        meta: Meta,
        clock: Arc<FixedClock>,
        _directory: tempfile::TempDir,
    }

    /// A user `alice` with the password `sesame:1`.
    async fn scene_with(settings: BasicSettings) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let meta = Meta::open(&directory.path().join("meta.db")).await.unwrap();
        let clock = Arc::new(FixedClock::at(UnixTime(1_000_000)));
        let basic = Arc::new(Basic::new(meta.clone(), settings, clock.clone()));
        let digest = digest_of("sesame:1").await;
        meta.add_user("alice", &digest, "red", Some(Quota::default()), clock.now()).await.unwrap();
        Scene { basic, meta, clock, _directory: directory }
    }

    async fn scene() -> Scene {
        scene_with(BasicSettings::default()).await
    }

    async fn digest_of(password: &str) -> String {
        Passwords::default().hash(Zeroizing::new(password.to_owned())).await.unwrap()
    }

    fn header(user: &str, password: &str) -> String {
        format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    impl Scene {
        async fn login(&self, password: &str, last: u8) -> Result<Principal, FaultKind> {
            let user = self.basic.authenticate(Some(&header("alice", password)), address(last)).await;
            user.map(|user| user.principal()).map_err(|fault| fault.kind)
        }

        fn comparisons(&self) -> u32 {
            self.basic.comparisons.load(Ordering::SeqCst)
        }

        /// Returns how long a login of `alice` takes at an address.
        fn pause(&self, last: u8) -> Duration {
            self.basic.throttle.pause_of(&self.basic.throttle.caller(address(last), "alice"))
        }

        async fn alice(&self) -> Principal {
            self.meta.user("alice").await.unwrap().unwrap().principal()
        }
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_is_let_in() {
        let scene = scene().await;
        assert_eq!(scene.login("sesame:1", 1).await, Ok(scene.alice().await));
        assert_eq!(scene.login("sesame:2", 1).await, Err(FaultKind::Unauthenticated));
        let wrong = scene.basic.authenticate(Some(&header("alice", "")), address(1)).await.unwrap_err();
        let unknown = scene.basic.authenticate(Some(&header("bob", "sesame:1")), address(1)).await.unwrap_err();
        let absent = scene.basic.authenticate(None, address(1)).await.unwrap_err();
        for fault in [&unknown, &absent] {
            assert_eq!((fault.kind, &fault.told), (wrong.kind, &wrong.told));
        }
        assert_eq!(scene.comparisons(), 4, "the unknown user's password was compared too");
    }

    #[tokio::test]
    async fn a_login_without_a_header_is_checked_and_slowed_down_like_one_with_it() {
        let scene = scene().await;
        let login = |user: &'static str, password: &'static str| {
            let basic = Arc::clone(&scene.basic);
            async move { basic.login(user, password, address(1)).await.map_err(|fault| fault.kind) }
        };
        let record = login("alice", "sesame:1").await.unwrap();
        assert_eq!(Some(record), scene.meta.user("alice").await.unwrap());
        let unauthenticated = Err(FaultKind::Unauthenticated);
        for (user, password) in [("bob", "sesame:1"), ("ali:ce", "x"), ("alice", "a\nb"), ("", "")] {
            assert_eq!(login(user, password).await, unauthenticated);
        }
        assert_eq!(scene.pause(1), Duration::ZERO);
        for _ in 0..5 {
            assert_eq!(login("alice", "guess").await, unauthenticated);
        }
        assert_eq!(scene.pause(1), Duration::from_millis(250));
    }

    #[tokio::test]
    async fn headers_in_every_legal_form_are_understood() {
        let scene = scene().await;
        let plain = BASE64.encode("alice:sesame:1");
        let bare = plain.trim_end_matches('=');
        for text in [format!("Basic {plain}"), format!("basic {bare}"), format!("BASIC   {plain} ")] {
            let user = scene.basic.authenticate(Some(&text), address(1)).await.unwrap();
            assert_eq!(user.principal(), scene.alice().await, "{text}");
        }
    }

    #[tokio::test]
    async fn malformed_headers_are_unauthenticated_and_cost_nothing() {
        let scene = scene().await;
        let encode = |bytes: &[u8]| format!("Basic {}", BASE64.encode(bytes));
        let malformed = [
            String::new(),
            "Basic".to_owned(),
            "Basic ".to_owned(),
            "Basic %%%".to_owned(),
            format!("Bearer {}", BASE64.encode("alice:sesame:1")),
            encode(b"alice"),
            encode(b":sesame"),
            encode(b"ali\xffce:sesame"),
            encode(b"alice:ses\name"),
            encode(b"alice\0:sesame"),
            encode(&[b'a'; 2_000]),
            header(&"a".repeat(129), "x"),
        ];
        for text in malformed {
            let fault = scene.basic.authenticate(Some(&text), address(1)).await.unwrap_err();
            assert_eq!(fault.kind, FaultKind::Unauthenticated, "{text}");
            assert!(text.is_empty() || !format!("{fault:?}").contains(&text));
        }
        assert_eq!(scene.comparisons(), 0);
    }

    #[tokio::test]
    async fn a_right_password_is_compared_once_per_address_until_it_was_not_used_for_a_minute() {
        let scene = scene().await;
        for _ in 0..5 {
            assert!(scene.login("sesame:1", 1).await.is_ok());
        }
        assert_eq!(scene.comparisons(), 1);
        assert!(scene.login("sesame:1", 2).await.is_ok());
        assert_eq!(scene.comparisons(), 2);
        for _ in 0..3 {
            scene.clock.advance_seconds(59);
            assert!(scene.login("sesame:1", 1).await.is_ok());
        }
        assert_eq!(scene.comparisons(), 2);
        scene.clock.advance_seconds(60);
        assert!(scene.login("sesame:1", 1).await.is_ok());
        assert_eq!(scene.comparisons(), 3);
        assert_eq!(scene.login("sesame", 1).await, Err(FaultKind::Unauthenticated), "remembering lets no other in");
    }

    #[tokio::test]
    async fn nothing_is_remembered_when_the_time_is_zero() {
        let scene = scene_with(BasicSettings { remember_seconds: 0, ..BasicSettings::default() }).await;
        for _ in 0..2 {
            assert!(scene.login("sesame:1", 1).await.is_ok());
        }
        assert_eq!(scene.comparisons(), 2);
    }

    #[tokio::test]
    async fn a_changed_password_and_a_removed_user_are_refused_at_once() {
        let scene = scene().await;
        assert!(scene.login("sesame:1", 1).await.is_ok());
        scene.meta.set_password("alice", &digest_of("new").await).await.unwrap();
        assert_eq!(scene.login("sesame:1", 1).await, Err(FaultKind::Unauthenticated));
        assert_eq!(scene.login("new", 1).await, Ok(scene.alice().await));
        scene.meta.remove_user("alice").await.unwrap();
        assert_eq!(scene.login("new", 1).await, Err(FaultKind::Unauthenticated));
    }

    #[tokio::test]
    async fn a_login_holds_until_its_password_is_changed_or_its_user_removed() {
        let scene = scene().await;
        let user = scene.basic.authenticate(Some(&header("alice", "sesame:1")), address(1)).await.unwrap();
        let (old, new) = (Secret::new(user.password_hash), Secret::new("new"));
        assert!(scene.basic.has_password(user.id, &old).await.unwrap());
        assert_eq!(scene.comparisons(), 1);
        scene.meta.set_password("alice", "new").await.unwrap();
        assert!(!scene.basic.has_password(user.id, &old).await.unwrap());
        assert!(scene.basic.has_password(user.id, &new).await.unwrap());
        scene.meta.remove_user("alice").await.unwrap();
        assert!(!scene.basic.has_password(user.id, &new).await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn first_requests_that_come_together_are_compared_once() {
        let scene = scene().await;
        let mut logins = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let basic = Arc::clone(&scene.basic);
            logins.spawn(async move { basic.authenticate(Some(&header("alice", "sesame:1")), address(1)).await });
        }
        assert!(logins.join_all().await.iter().all(Result::is_ok));
        assert_eq!(scene.comparisons(), 1);
    }

    /// Guesses without a pause between them at one user of an address, of whom the right password is the last.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_right_password_is_never_refused_for_guesses_that_came_with_it() {
        let throttle = ThrottleSettings { first_pause: Duration::from_millis(1), ..ThrottleSettings::default() };
        let throttle = ThrottleSettings { longest_pause: Duration::from_millis(2), ..throttle };
        let scene = scene_with(BasicSettings { throttle, ..BasicSettings::default() }).await;
        let mut guesses = tokio::task::JoinSet::new();
        for guess in 0..20 {
            let basic = Arc::clone(&scene.basic);
            let header = header("alice", &guess.to_string());
            guesses.spawn(async move { basic.authenticate(Some(&header), address(1)).await.unwrap_err().kind });
        }
        assert_eq!(scene.login("sesame:1", 1).await, Ok(scene.alice().await));
        assert!(guesses.join_all().await.iter().all(|kind| *kind == FaultKind::Unauthenticated));
        assert_eq!(scene.comparisons(), 21);
    }

    #[tokio::test]
    async fn who_is_remembered_is_not_slowed_down_by_others() {
        let scene = scene().await;
        assert!(scene.login("sesame:1", 1).await.is_ok());
        for _ in 0..6 {
            assert_eq!(scene.login("guess", 2).await, Err(FaultKind::Unauthenticated));
        }
        assert_eq!(scene.pause(2), Duration::from_millis(500));
        assert_eq!(scene.pause(1), Duration::ZERO);
        assert_eq!(scene.login("sesame:1", 1).await, Ok(scene.alice().await));
        assert_eq!(scene.comparisons(), 7);
    }

    #[tokio::test]
    async fn a_login_that_is_dropped_while_it_is_looked_at_has_failed() {
        let scene = scene().await;
        for _ in 0..5 {
            let login = scene.login("sesame:1", 1);
            let mut login = std::pin::pin!(login);
            let before = scene.comparisons();
            std::future::poll_fn(|cx| {
                assert!(login.as_mut().poll(cx).is_pending());
                if scene.comparisons() > before { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
        }
        assert_eq!(scene.pause(1), Duration::from_millis(250));
    }

    #[tokio::test]
    async fn a_right_password_ends_the_pauses() {
        let throttle = ThrottleSettings { first_pause: Duration::from_millis(1), ..ThrottleSettings::default() };
        let scene = scene_with(BasicSettings { throttle, ..BasicSettings::default() }).await;
        for _ in 0..7 {
            assert_eq!(scene.login("guess", 1).await, Err(FaultKind::Unauthenticated));
        }
        assert_eq!(scene.pause(1), Duration::from_millis(4));
        assert_eq!(scene.login("sesame:1", 1).await, Ok(scene.alice().await));
        assert_eq!(scene.pause(1), Duration::ZERO);
    }

    #[tokio::test]
    async fn more_logins_than_may_wait_are_refused() {
        let throttle = ThrottleSettings { waiting: 0, ..ThrottleSettings::default() };
        let scene = scene_with(BasicSettings { throttle, ..BasicSettings::default() }).await;
        assert_eq!(scene.login("sesame:1", 1).await, Err(FaultKind::Throttled { retry_after: 1 }));
    }

    #[test]
    fn names_that_could_not_log_in_are_refused() {
        for name in ["", "a:b", "a\nb", &"a".repeat(129)] {
            assert!(check_user_name(name).is_err(), "{name:?}");
        }
        assert!(check_user_name("J\u{fc}rgen 1").is_ok());
    }
}
