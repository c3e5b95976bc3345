//! Slows down who guesses passwords.
//!
//! Failures are counted per address and per user; the worse count gives the delay that is served before a password is
//! looked at. Nobody is locked out: a delay has a bound, so that guessing somebody's password cannot shut them out.
//!
//! # Cancellation
//! A caller who goes away while waiting has failed once more, or hanging up early would be a way around the delay.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::recent::Recent;
use crate::domain::{Clock, Fault, FaultKind, UnixTime};

/// How guesses are slowed down.
#[derive(Clone, Debug)]
pub struct ThrottleSettings {
    /// Failures that cost nothing: people mistype. More give a guesser more free guesses.
    pub free_failures: u32,
    /// Failures are forgotten when none came for so many seconds. Longer slows guessers down for longer, and the
    /// people behind the same address too.
    pub window_seconds: u32,
    /// The first delay; each further failure doubles it.
    pub first_delay: Duration,
    /// The longest delay. Longer slows down guesses at one user from many addresses, and lets them annoy that user.
    pub longest_delay: Duration,
    /// Requests of one address that may be delayed at the same time; more are refused. More let an address guess so
    /// many times as often.
    pub waiting_per_address: u32,
    /// Requests that may be delayed at the same time in all; more are refused. Each holds a connection.
    pub waiting: u32,
    /// Addresses and users whose failures are remembered, about 100 bytes each; above that the oldest are forgotten.
    pub remembered: usize,
}

impl Default for ThrottleSettings {
    fn default() -> Self {
        Self {
            free_failures: 5,
            window_seconds: 600,
            first_delay: Duration::from_millis(250),
            longest_delay: Duration::from_secs(8),
            waiting_per_address: 4,
            waiting: 256,
            remembered: 16_384,
        }
    }
}

/// Who tries to log in, as the throttle counts them.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    address: IpAddr,
    // A keyed hash: names are long, and those of failed logins are sometimes passwords.
    user: u64,
}

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    User(u64),
    /// The failures of an address with one user, which that user's success takes back from the address.
    Both(IpAddr, u64),
}

pub(super) struct Throttle {
    settings: ThrottleSettings,
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    state: Mutex<State>,
}

struct State {
    failures: Recent<Key, u32>,
    /// Only addresses that wait now, so at most [`ThrottleSettings::waiting`].
    waiting: HashMap<IpAddr, u32>,
    waiting_in_all: u32,
}

impl Throttle {
    pub(super) fn new(settings: ThrottleSettings, clock: Arc<dyn Clock>) -> Self {
        let state = State { failures: Recent::new(settings.remembered), waiting: HashMap::new(), waiting_in_all: 0 };
        Self { settings, clock, hasher: RandomState::new(), state: Mutex::new(state) }
    }

    pub(super) fn caller(&self, peer: IpAddr, user: &str) -> Caller {
        Caller { address: network_of(peer), user: self.hasher.hash_one(user) }
    }

    /// How long this caller must wait before a password is looked at.
    pub(super) fn delay(&self, caller: &Caller) -> Duration {
        let since = self.since();
        let state = self.state();
        let failures =
            state.count(&Key::Address(caller.address), since).max(state.count(&Key::User(caller.user), since));
        let Some(doublings) = failures.checked_sub(self.settings.free_failures) else { return Duration::ZERO };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.settings.first_delay.saturating_mul(factor).min(self.settings.longest_delay)
    }

    /// Serves a delay, or refuses when too many are being served.
    pub(super) async fn wait(&self, caller: &Caller, delay: Duration) -> Result<(), Fault> {
        let mut place = self.take_place(caller, delay)?;
        tokio::time::sleep(delay).await;
        place.served = true;
        Ok(())
    }

    /// A password was wrong.
    pub(super) fn failed(&self, caller: &Caller) {
        let (now, since) = (self.clock.now(), self.since());
        let mut state = self.state();
        for key in [Key::Address(caller.address), Key::User(caller.user), Key::Both(caller.address, caller.user)] {
            let failures = state.count(&key, since).saturating_add(1);
            state.failures.put(key, now, failures);
        }
    }

    /// A password was right: the user's failures are forgiven, and the address its failures with this user. Not those
    /// with others, or a guesser with one account could guess at all others without delay.
    pub(super) fn succeeded(&self, caller: &Caller) {
        let (now, since) = (self.clock.now(), self.since());
        let mut state = self.state();
        let both = Key::Both(caller.address, caller.user);
        let forgiven = state.count(&both, since);
        state.failures.remove(&both);
        state.failures.remove(&Key::User(caller.user));
        let address = Key::Address(caller.address);
        match state.count(&address, since).saturating_sub(forgiven) {
            0 => state.failures.remove(&address),
            left => state.failures.put(address, now, left),
        }
    }

    fn take_place(&self, caller: &Caller, delay: Duration) -> Result<Place<'_>, Fault> {
        let mut state = self.state();
        let of_address = state.waiting.get(&caller.address).copied().unwrap_or(0);
        if of_address >= self.settings.waiting_per_address || state.waiting_in_all >= self.settings.waiting {
            return Err(too_many(delay));
        }
        state.waiting.insert(caller.address, of_address + 1);
        state.waiting_in_all += 1;
        Ok(Place { throttle: self, caller: *caller, served: false })
    }

    /// Failures before this moment are forgotten.
    fn since(&self) -> UnixTime {
        let window = i64::from(self.settings.window_seconds) * 1_000;
        UnixTime(self.clock.now().0.saturating_sub(window))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counters stay usable whatever panicked beside them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&self, key: &Key, since: UnixTime) -> u32 {
        self.failures.get(key, since).copied().unwrap_or(0)
    }
}

/// A place among those who wait.
struct Place<'a> {
    throttle: &'a Throttle,
    caller: Caller,
    served: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.throttle.state();
        state.waiting_in_all -= 1;
        let address = self.caller.address;
        match state.waiting.get(&address).copied() {
            Some(others @ 2..) => {
                state.waiting.insert(address, others - 1);
            }
            Some(_) | None => {
                state.waiting.remove(&address);
            }
        }
        drop(state);
        if !self.served {
            self.throttle.failed(&self.caller);
        }
    }
}

/// The refusal of a caller who should come back after this time.
pub(super) fn too_many(wait: Duration) -> Fault {
    let retry_after = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
    Fault::new(FaultKind::Throttled { retry_after }, "too many logins at once; wait, then try again")
}

/// What counts as one address. A network of 64 bits is one subscriber's, who may use any address of it (RFC 6177).
pub(super) fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::domain::FixedClock;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn throttle() -> (Arc<FixedClock>, Arc<Throttle>) {
        let clock = Arc::new(FixedClock::at(UnixTime(1_000_000)));
        (clock.clone(), Arc::new(Throttle::new(ThrottleSettings::default(), clock)))
    }

    fn fail(throttle: &Throttle, caller: &Caller, times: u32) {
        for _ in 0..times {
            throttle.failed(caller);
        }
    }

    #[test]
    fn five_failures_are_free_and_then_the_delay_doubles_up_to_its_bound() {
        let (_, throttle) = throttle();
        let caller = throttle.caller(address(1), "alice");
        fail(&throttle, &caller, 4);
        for expected in [0, 250, 500, 1_000, 2_000, 4_000, 8_000, 8_000] {
            assert_eq!(throttle.delay(&caller), Duration::from_millis(expected));
            throttle.failed(&caller);
        }
        fail(&throttle, &caller, 100);
        assert_eq!(throttle.delay(&caller), Duration::from_secs(8));
    }

    #[test]
    fn an_address_is_slowed_down_at_all_users_and_a_user_at_all_addresses() {
        let (_, throttle) = throttle();
        fail(&throttle, &throttle.caller(address(1), "alice"), 5);
        let delay = |last, user| throttle.delay(&throttle.caller(address(last), user));
        assert_eq!(delay(1, "bob"), Duration::from_millis(250));
        assert_eq!(delay(2, "alice"), Duration::from_millis(250));
        assert_eq!(delay(2, "bob"), Duration::ZERO);
    }

    #[test]
    fn failures_are_forgotten_after_a_quiet_window() {
        let (clock, throttle) = throttle();
        let caller = throttle.caller(address(1), "alice");
        fail(&throttle, &caller, 5);
        clock.advance_seconds(600);
        assert_eq!(throttle.delay(&caller), Duration::from_millis(250));
        clock.advance_seconds(1);
        assert_eq!(throttle.delay(&caller), Duration::ZERO);
        throttle.failed(&caller);
        assert_eq!(throttle.delay(&caller), Duration::ZERO, "counted anew");
    }

    #[test]
    fn a_success_forgives_its_user_but_not_guesses_at_others() {
        let (_, throttle) = throttle();
        let mine = throttle.caller(address(1), "mallory");
        let theirs = throttle.caller(address(1), "alice");
        fail(&throttle, &mine, 6);
        throttle.succeeded(&mine);
        assert_eq!(throttle.delay(&mine), Duration::ZERO);
        fail(&throttle, &theirs, 5);
        throttle.succeeded(&mine);
        assert_eq!(throttle.delay(&mine), Duration::from_millis(250));
        throttle.succeeded(&theirs);
        assert_eq!(throttle.delay(&mine), Duration::ZERO);
    }

    #[test]
    fn the_addresses_of_one_subscriber_are_one() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_served_in_full() {
        let (_, throttle) = throttle();
        let caller = throttle.caller(address(1), "alice");
        let begin = Instant::now();
        throttle.wait(&caller, Duration::from_secs(3)).await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 3);
        assert_eq!(throttle.delay(&caller), Duration::ZERO, "having waited is no failure");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_request_of_an_address_is_refused_while_four_wait() {
        let (_, throttle) = throttle();
        let begin = |last: u8| {
            let throttle = Arc::clone(&throttle);
            async move {
                let caller = throttle.caller(address(last), "alice");
                throttle.wait(&caller, Duration::from_millis(1_500)).await.map_err(|fault| fault.kind)
            }
        };
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..4 {
            waiting.spawn(begin(1));
        }
        tokio::task::yield_now().await;
        assert_eq!(begin(1).await, Err(FaultKind::Throttled { retry_after: 2 }));
        assert_eq!(begin(2).await, Ok(()));
        assert!(waiting.join_all().await.iter().all(Result::is_ok));
        assert_eq!(begin(1).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_up_while_waiting_counts_as_a_failure_and_frees_the_place() {
        let (_, throttle) = throttle();
        let caller = throttle.caller(address(1), "alice");
        for _ in 0..5 {
            let wait = throttle.wait(&caller, Duration::from_mins(1));
            assert!(tokio::time::timeout(Duration::from_secs(1), wait).await.is_err());
        }
        assert_eq!(throttle.delay(&caller), Duration::from_millis(250));
        assert_eq!(throttle.state().waiting_in_all, 0);
        assert!(throttle.state().waiting.is_empty());
    }

    #[test]
    fn a_storm_of_names_and_addresses_is_remembered_within_the_bound() {
        let clock = Arc::new(FixedClock::at(UnixTime(0)));
        let throttle = Throttle::new(ThrottleSettings { remembered: 100, ..ThrottleSettings::default() }, clock);
        for name in 0..2_000_u32 {
            throttle.failed(&throttle.caller(IpAddr::from(name.to_be_bytes()), &name.to_string()));
            assert!(throttle.state().failures.len() <= 100);
        }
    }
}
