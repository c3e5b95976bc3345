//! Slows down callers who guess passwords.
//!
//! Failures are counted per address and per user, and give the pace at which further passwords are looked at. Nobody is
//! locked out: whoever comes waits for their turn, and a turn comes. The turns of an address go round the users who are
//! named there, those of a user round the addresses that name them, and users who have logged in before have turns of
//! their own: so only who names the same user at the same address stands in line with a guesser, and there too every
//! other turn is that of who came last ([`super::lanes`]).
//!
//! The price: from the order of the turns, a guesser who waits beside others can tell which users logged in lately.
//!
//! # Invariants
//! - A password that is looked at is counted as wrong until it was found right, also if its caller goes away.
//! - A waiting caller is refused only after [`ThrottleSettings::longest_wait`], or when their address or user has more
//!   waiting than there are places left.
//!
//! # Cancellation
//! A caller who goes away while waiting has learned nothing, and leaves the line.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::lanes::{Head, Lanes};
use super::recent::Recent;
use crate::domain::{Clock, Fault, FaultKind, UnixTime};

/// The pace at which an address names a user while that pair fails, before it is known whether a password must be
/// looked at: what a remembered password is recognised by takes microseconds.
const GLANCE: Duration = Duration::from_millis(50);

/// Settings for slowing down guesses.
#[derive(Clone, Debug)]
pub(crate) struct ThrottleSettings {
    /// Failures that cost nothing: people mistype. More give a guesser more free guesses.
    pub free_failures: u32,
    /// Failures are forgotten when none came for so many seconds. Longer slows guessers down for longer, and the
    /// people behind the same address too.
    pub window_seconds: u32,
    /// The first pause before a turn; each further failure doubles it.
    pub first_pause: Duration,
    /// The longest pause between two turns of an address. Longer slows down guesses, and those who stand in line with
    /// the guesser.
    pub longest_pause: Duration,
    /// The longest pause between two turns of a user, wherever they are named. Longer slows down guesses at one user
    /// from many addresses, and that user at a new address.
    pub longest_pause_of_user: Duration,
    /// The longest wait for a turn before a caller is refused. Waits longer than those of clients are of no use.
    pub longest_wait: Duration,
    /// Requests that may wait in all, those of users who have logged in before counted apart. Each holds a connection
    /// and a kilobyte.
    pub waiting: u32,
    /// Addresses and users whose failures, and whose successes, are remembered, about 100 bytes each; above that the
    /// oldest are forgotten.
    pub remembered: usize,
}

impl Default for ThrottleSettings {
    fn default() -> Self {
        Self {
            free_failures: 5,
            window_seconds: 600,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(1),
            longest_pause_of_user: Duration::from_millis(125),
            longest_wait: Duration::from_mins(1),
            waiting: 2_048,
            remembered: 16_384,
        }
    }
}

/// A login attempt, as the throttle counts it.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    address: IpAddr,
    // A keyed hash: names are long, and those of failed logins are sometimes passwords.
    user: u64,
    /// Whether this user has logged in before, from anywhere.
    is_known: bool,
    /// Whether this user has logged in before from this address.
    is_at_home: bool,
}

/// A key that failures are counted for and that turns are given to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// An address; apart for users who have logged in before.
    Address(IpAddr, bool),
    User(u64),
    /// An address with one user.
    Both(IpAddr, u64),
    /// The same, before a password is looked at.
    Glance(IpAddr, u64),
}

/// A successful login.
#[derive(PartialEq, Eq, Hash)]
enum Success {
    User(u64),
    At(IpAddr, u64),
}

pub(super) struct Throttle {
    settings: ThrottleSettings,
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    lanes: Lanes<Key>,
    state: Mutex<State>,
}

struct State {
    failures: Recent<Key, Failures>,
    successes: Recent<Success, ()>,
    /// Waiting requests: of each share, and in total, for users who have not logged in before and for those who have.
    waiting: HashMap<Share, u32>,
    waiting_in_all: [u32; 2],
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    /// The time of the last turn.
    turn: Instant,
}

/// The share that a waiting request is counted in: an address, or a user who has logged in before at an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Share {
    Address(IpAddr),
    User(IpAddr, u64),
}

impl Throttle {
    pub(super) fn new(settings: ThrottleSettings, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            failures: Recent::new(settings.remembered),
            successes: Recent::new(settings.remembered),
            waiting: HashMap::new(),
            waiting_in_all: [0; 2],
        };
        Self { settings, clock, hasher: RandomState::new(), lanes: Lanes::new(), state: Mutex::new(state) }
    }

    pub(super) fn caller(&self, peer: IpAddr, user: &str) -> Caller {
        const EVER: UnixTime = UnixTime(i64::MIN);
        let (address, user) = (network_of(peer), self.hasher.hash_one(user));
        let state = self.state();
        let has = |success| state.successes.get(&success, EVER).is_some();
        Caller { address, user, is_known: has(Success::User(user)), is_at_home: has(Success::At(address, user)) }
    }

    /// Waits until a password of this caller may be compared with those that are remembered.
    pub(super) async fn glance(&self, caller: &Caller) {
        let Caller { address, user, .. } = *caller;
        if self.pause(&Key::Both(address, user)).is_zero() {
            return;
        }
        let _head = self.lanes.head_of(Key::Glance(address, user)).await;
        tokio::time::sleep(GLANCE).await;
    }

    /// Waits until a password of this caller may be digested and compared.
    pub(super) async fn turn<'a>(&'a self, caller: &Caller) -> Result<Turn<'a>, Fault> {
        let place = self.take_place(caller)?;
        let heads = self.bounded(self.line_up(caller)).await?;
        Ok(Turn { throttle: self, caller: *caller, _heads: heads, _place: place })
    }

    /// Waits for another resource that a turn needs, for no longer than for the turn.
    pub(super) async fn bounded<T>(&self, wait: impl Future<Output = T>) -> Result<T, Fault> {
        let waited = tokio::time::timeout(self.settings.longest_wait, wait).await;
        waited.map_err(|_| too_many(self.settings.longest_pause))
    }

    /// No deadlock: a user's line is left at once, and the other lines are always entered in this order.
    async fn line_up(&self, caller: &Caller) -> [Head<'_, Key>; 2] {
        let Caller { address, user, is_known, is_at_home } = *caller;
        let pair = self.lanes.head_of(Key::Both(address, user)).await;
        if !is_at_home {
            let _user = self.lanes.head_of(Key::User(user)).await;
            self.keep_pace(Key::User(user)).await;
        }
        let key = Key::Address(address, is_known);
        let at_address = self.lanes.head_of(key).await;
        self.keep_pace(key).await;
        [at_address, pair]
    }

    /// Waits until the pause since the last turn is over, and takes this one.
    async fn keep_pace(&self, key: Key) {
        loop {
            let (pause, now) = (self.pause(&key), Instant::now());
            let due = {
                let mut state = self.state();
                let Some(failures) = state.failures.get_mut(&key) else { return };
                let due = failures.turn + pause;
                if due <= now {
                    failures.turn = now;
                    return;
                }
                due
            };
            tokio::time::sleep_until(due).await;
        }
    }

    /// The present pause between two turns.
    fn pause(&self, key: &Key) -> Duration {
        let count = self.state().count(key, self.since());
        let Some(doublings) = count.checked_sub(self.settings.free_failures) else { return Duration::ZERO };
        let longest = match key {
            Key::User(_) => self.settings.longest_pause_of_user,
            Key::Address(..) | Key::Both(..) | Key::Glance(..) => self.settings.longest_pause,
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.settings.first_pause.saturating_mul(factor).min(longest)
    }

    /// The longest of the pauses that apply to a caller.
    #[cfg(test)]
    pub(super) fn pause_of(&self, caller: &Caller) -> Duration {
        let [at_address, user, _] = caller.keys();
        self.pause(&at_address).max(if caller.is_at_home { Duration::ZERO } else { self.pause(&user) })
    }

    /// Records that a password was wrong.
    fn failed(&self, caller: &Caller) {
        let (now, since) = (self.clock.now(), self.since());
        let mut state = self.state();
        for key in caller.keys() {
            let count = state.count(&key, since).saturating_add(1);
            state.failures.put(key, now, Failures { count, turn: Instant::now() });
        }
    }

    /// Records that a password was right: forgets the failures of the user, and those of the address with this user.
    /// The failures of the address with other users stay, or a guesser with an account could guess at theirs without
    /// delay.
    fn succeeded(&self, caller: &Caller) {
        let (now, since) = (self.clock.now(), self.since());
        let Caller { address, user, .. } = *caller;
        let mut state = self.state();
        let [at_address, of_user, both] = caller.keys();
        let forgiven = state.count(&both, since);
        state.failures.remove(&both);
        state.failures.remove(&of_user);
        match state.count(&at_address, since).saturating_sub(forgiven) {
            0 => state.failures.remove(&at_address),
            count => state.failures.put(at_address, now, Failures { count, turn: Instant::now() }),
        }
        state.successes.put(Success::User(user), now, ());
        state.successes.put(Success::At(address, user), now, ());
    }

    /// Whether a share may have one more waiting: it may have at most as many as there are places left, so that other
    /// shares always have one.
    fn take_place(&self, caller: &Caller) -> Result<Place<'_>, Fault> {
        let Caller { address, user, is_known, .. } = *caller;
        let share = if is_known { Share::User(address, user) } else { Share::Address(address) };
        let mut state = self.state();
        let of_share = state.waiting.get(&share).copied().unwrap_or(0);
        let in_all = &mut state.waiting_in_all[usize::from(is_known)];
        if of_share >= self.settings.waiting.saturating_sub(*in_all) {
            return Err(too_many(self.settings.longest_pause));
        }
        *in_all += 1;
        state.waiting.insert(share, of_share + 1);
        Ok(Place { throttle: self, share, is_known })
    }

    /// The time before which failures are forgotten.
    fn since(&self) -> UnixTime {
        let window = i64::from(self.settings.window_seconds) * 1_000;
        UnixTime(self.clock.now().0.saturating_sub(window))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counters stay usable whatever panicked beside them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    /// The keys that a failure of this attempt counts for.
    fn keys(&self) -> [Key; 3] {
        let Self { address, user, is_known, .. } = *self;
        [Key::Address(address, is_known), Key::User(user), Key::Both(address, user)]
    }
}

impl State {
    fn count(&self, key: &Key, since: UnixTime) -> u32 {
        self.failures.get(key, since).map_or(0, |failures| failures.count)
    }
}

/// The right to have a password compared. While it lasts, no other request of the same address and lane has one.
pub(super) struct Turn<'a> {
    throttle: &'a Throttle,
    caller: Caller,
    _heads: [Head<'a, Key>; 2],
    _place: Place<'a>,
}

impl Turn<'_> {
    /// Counts the password as wrong, from now on and until it is found right.
    pub(super) fn look(&self) {
        self.throttle.failed(&self.caller);
    }

    /// Records that the password was right.
    pub(super) fn succeeded(self) {
        self.throttle.succeeded(&self.caller);
    }
}

/// A place among the waiting requests.
struct Place<'a> {
    throttle: &'a Throttle,
    share: Share,
    is_known: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.throttle.state();
        state.waiting_in_all[usize::from(self.is_known)] -= 1;
        match state.waiting.get(&self.share).copied() {
            Some(others @ 2..) => {
                state.waiting.insert(self.share, others - 1);
            }
            Some(_) | None => {
                state.waiting.remove(&self.share);
            }
        }
    }
}

/// Returns the refusal of a caller who should retry after this time.
fn too_many(wait: Duration) -> Fault {
    let retry_after = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
    Fault::new(FaultKind::Throttled { retry_after }, "too many logins at once; wait, then try again")
}

/// Returns what counts as one address: of IPv6 the network of 64 bits, since a subscriber may use any address of it
/// (RFC 6177).
pub(super) fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

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

    /// Guesses at these names from an address without end, with a connection for each; counts the guesses.
    fn guess(
        throttle: &Arc<Throttle>,
        last: u8,
        names: Vec<String>,
    ) -> (JoinSet<()>, Arc<std::sync::atomic::AtomicU32>) {
        let looked_at = Arc::default();
        let mut guessers = JoinSet::new();
        for name in names {
            let (throttle, looked_at) = (Arc::clone(throttle), Arc::<std::sync::atomic::AtomicU32>::clone(&looked_at));
            guessers.spawn(async move {
                loop {
                    let caller = throttle.caller(address(last), &name);
                    if let Ok(turn) = throttle.turn(&caller).await {
                        turn.look();
                        looked_at.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        (guessers, looked_at)
    }

    /// Returns the seconds that the right password takes while guesses go on.
    async fn seconds_until_in(throttle: &Throttle, last: u8, name: &str) -> f64 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let begin = Instant::now();
        let caller = throttle.caller(address(last), name);
        let turn = throttle.turn(&caller).await.map_err(|fault| fault.kind).unwrap();
        turn.look();
        turn.succeeded();
        begin.elapsed().as_secs_f64()
    }

    #[test]
    fn five_failures_are_free_and_then_the_pause_doubles_up_to_its_bound() {
        let (_, throttle) = throttle();
        let caller = throttle.caller(address(1), "alice");
        fail(&throttle, &caller, 4);
        for expected in [0, 250, 500, 1_000, 1_000] {
            assert_eq!(throttle.pause_of(&caller), Duration::from_millis(expected));
            throttle.failed(&caller);
        }
        fail(&throttle, &caller, 100);
        assert_eq!(throttle.pause_of(&caller), Duration::from_secs(1));
    }

    #[test]
    fn an_address_is_slowed_down_at_all_users_and_a_user_at_all_addresses() {
        let (_, throttle) = throttle();
        fail(&throttle, &throttle.caller(address(1), "alice"), 5);
        let pause = |last, user| throttle.pause_of(&throttle.caller(address(last), user));
        assert_eq!(pause(1, "bob"), Duration::from_millis(250));
        assert_eq!(pause(2, "alice"), Duration::from_millis(125));
        assert_eq!(pause(2, "bob"), Duration::ZERO);
    }

    #[test]
    fn failures_are_forgotten_after_a_quiet_window() {
        let (clock, throttle) = throttle();
        let caller = throttle.caller(address(1), "alice");
        fail(&throttle, &caller, 5);
        clock.advance_seconds(600);
        assert_eq!(throttle.pause_of(&caller), Duration::from_millis(250));
        clock.advance_seconds(1);
        assert_eq!(throttle.pause_of(&caller), Duration::ZERO);
        throttle.failed(&caller);
        assert_eq!(throttle.pause_of(&caller), Duration::ZERO, "counted anew");
    }

    #[test]
    fn a_success_forgives_its_user_but_not_guesses_at_others() {
        let (_, throttle) = throttle();
        let mine = throttle.caller(address(1), "mallory");
        let theirs = throttle.caller(address(1), "alice");
        fail(&throttle, &mine, 6);
        throttle.succeeded(&mine);
        assert_eq!(throttle.pause_of(&mine), Duration::ZERO);
        fail(&throttle, &theirs, 5);
        throttle.succeeded(&mine);
        assert_eq!(throttle.pause_of(&mine), Duration::from_millis(250));
        throttle.succeeded(&theirs);
        assert_eq!(throttle.pause_of(&mine), Duration::ZERO);
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
    async fn guesses_of_an_address_are_looked_at_once_a_second_however_many_connections_it_has() {
        let (_, throttle) = throttle();
        for names in [vec!["alice".to_owned(); 100], (0..100).map(|number| number.to_string()).collect()] {
            let last = names.len() as u8 + u8::from(names[0] == "alice");
            let (_guessers, looked_at) = guess(&throttle, last, names);
            tokio::time::sleep(Duration::from_mins(10)).await;
            let looked_at = looked_at.load(std::sync::atomic::Ordering::SeqCst);
            assert!((550..=610).contains(&looked_at), "{looked_at} in 600 seconds");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_is_guessed_at_eight_times_a_second_however_many_addresses_do() {
        let (_, throttle) = throttle();
        let guesses: Vec<_> = (0..200).map(|last| guess(&throttle, last, vec!["alice".to_owned()])).collect();
        tokio::time::sleep(Duration::from_mins(1)).await;
        let looked_at: u32 = guesses.iter().map(|(_, count)| count.load(std::sync::atomic::Ordering::SeqCst)).sum();
        assert!(looked_at <= 60 * 8 + 200, "{looked_at} in 60 seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn the_right_password_waits_its_turn_behind_guesses_at_the_same_user_and_address() {
        let (_, throttle) = throttle();
        let (_guessers, _) = guess(&throttle, 1, vec!["alice".to_owned(); 6]);
        let waited = seconds_until_in(&throttle, 1, "alice").await;
        assert!(waited <= 8.0, "{waited}");
        let (_guessers, _) = guess(&throttle, 2, vec!["bob".to_owned(); 500]);
        let waited = seconds_until_in(&throttle, 2, "bob").await;
        assert!(waited <= 3.0, "however many there are: {waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_logged_in_before_is_held_up_by_guesses_at_others_by_none_of_them() {
        let (_, throttle) = throttle();
        throttle.succeeded(&throttle.caller(address(9), "alice"));
        let (_guessers, _) = guess(&throttle, 1, (0..500).map(|number| number.to_string()).collect());
        let waited = seconds_until_in(&throttle, 1, "alice").await;
        assert!(waited < 0.1, "{waited}");
        // Who has not is one of many users that are named there.
        let (_guessers, _) = guess(&throttle, 2, (0..6).map(|number| number.to_string()).collect());
        let waited = seconds_until_in(&throttle, 2, "bob").await;
        assert!(waited <= 8.0, "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_guessed_at_from_elsewhere_is_not_slowed_down_where_they_have_logged_in() {
        let (_, throttle) = throttle();
        throttle.succeeded(&throttle.caller(address(250), "alice"));
        let _guesses: Vec<_> = (0..100).map(|last| guess(&throttle, last, vec!["alice".to_owned()])).collect();
        let waited = seconds_until_in(&throttle, 250, "alice").await;
        assert!(waited < 0.1, "{waited}");
        let _guesses: Vec<_> = (0..100).map(|last| guess(&throttle, last, vec!["carol".to_owned()])).collect();
        let waited = seconds_until_in(&throttle, 251, "carol").await;
        assert!(waited <= 14.0, "one guess of each address: {waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_refused_and_leaves_no_trace() {
        let (_, throttle) = throttle();
        let caller = throttle.caller(address(1), "alice");
        let turn = throttle.turn(&caller).await.map_err(|fault| fault.kind).unwrap();
        let begin = Instant::now();
        let refused = throttle.turn(&caller).await.map(drop).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Throttled { retry_after: 1 });
        assert_eq!(begin.elapsed().as_secs(), 60);
        drop(turn);
        assert_eq!((throttle.lanes.members(), throttle.state().waiting.len()), (0, 0));
        assert_eq!(throttle.state().waiting_in_all, [0; 2]);
        assert_eq!(throttle.pause_of(&caller), Duration::ZERO, "who was not looked at has not failed");
    }

    #[tokio::test(start_paused = true)]
    async fn no_address_and_no_user_takes_the_last_place() {
        let clock = Arc::new(FixedClock::at(UnixTime(0)));
        let settings = ThrottleSettings { waiting: 8, ..ThrottleSettings::default() };
        let throttle = Arc::new(Throttle::new(settings, clock));
        let places = |last: u8, user: &str| {
            let caller = throttle.caller(address(last), user);
            std::iter::from_fn(|| throttle.take_place(&caller).ok()).take(100).collect::<Vec<_>>()
        };
        let all = [places(1, "a"), places(1, "b"), places(2, "a"), places(3, "a"), places(4, "a")];
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [4, 0, 2, 1, 1]);
        throttle.succeeded(&throttle.caller(address(9), "known"));
        assert_eq!(places(1, "known").len(), 4, "who has logged in before is counted apart");
    }

    #[test]
    fn a_storm_of_names_and_addresses_is_remembered_within_the_bound() {
        let clock = Arc::new(FixedClock::at(UnixTime(0)));
        let throttle = Throttle::new(ThrottleSettings { remembered: 100, ..ThrottleSettings::default() }, clock);
        for name in 0..2_000_u32 {
            let caller = throttle.caller(IpAddr::from(name.to_be_bytes()), &name.to_string());
            throttle.failed(&caller);
            throttle.succeeded(&throttle.caller(IpAddr::from([0, 0, 0, 1]), &name.to_string()));
            let state = throttle.state();
            assert!(state.failures.len() <= 100 && state.successes.len() <= 100);
        }
    }
}
