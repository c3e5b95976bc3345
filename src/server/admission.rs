//! Limits the connections: in all and per address. Chooses the one that is closed when there are too many.
//!
//! A connection is a stranger until one of its requests has been authenticated. When all places are taken, a new
//! connection takes the place of a stranger that has been silent for [`GRACE`], so silent connections keep nobody out.
//! A new connection waits while all places are held by known callers or by requests in progress, each of which ends
//! within its time limit.
//!
//! # Invariants
//! - No more places are held than there are, and no address has more than its share, except those for which `is_exempt`
//!   holds.
//!
//! # Cancellation
//! A dropped [`Admission::place`] takes no place.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;

/// The time before a silent stranger may be closed: callers in a burst must not displace one another before their
/// requests are read.
const GRACE: Duration = Duration::from_secs(2);

/// Interval between searches for a stranger that has been silent for [`GRACE`].
const LOOK: Duration = Duration::from_millis(100);

/// The number of strangers that are searched for a silent one, which limits the cost of a place under a flood.
const LOOKED_AT: usize = 64;

/// The places of connections.
#[derive(Debug)]
pub(super) struct Admission {
    total: usize,
    share: usize,
    grace: Duration,
    state: Mutex<State>,
    /// Notified when a place becomes free.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    /// The number of places of each address that has a share.
    of_address: HashMap<IpAddr, usize>,
    /// In the order of their arrival.
    strangers: BTreeMap<u64, Arc<Standing>>,
    next: u64,
}

/// The state of a connection that its requests share.
#[derive(Debug)]
pub(super) struct Standing {
    /// The connection's activity.
    pub(super) activity: Arc<Activity>,
    number: u64,
    is_known: AtomicBool,
    evicted: CancellationToken,
    admission: Arc<Admission>,
}

/// A place, held until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    standing: Arc<Standing>,
    /// The address whose share it counts for, once that is known.
    address: OnceLock<IpAddr>,
}

/// The address holds all the connections that one may have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address has all the connections that one may have")]
pub(super) struct ShareIsTaken;

impl Admission {
    /// Returns `total` places, of which one address has at most `share`.
    pub(super) fn new(total: usize, share: usize) -> Arc<Self> {
        Self::with_grace(total, share, GRACE)
    }

    fn with_grace(total: usize, share: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self { total, share, grace, state: Mutex::default(), freed: Notify::new() })
    }

    /// Waits for a place for a connection from `address`; which is `None` if it has no share (as a proxy).
    pub(super) async fn place(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, ShareIsTaken> {
        let address = address.map(holder);
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            {
                let mut state = self.lock();
                if address.is_some_and(|address| state.count(address) >= self.share) {
                    return Err(ShareIsTaken);
                }
                if state.held < self.total {
                    return Ok(self.take(&mut state, address));
                }
                state.evict(self.grace);
            }
            let _ = tokio::time::timeout(LOOK, freed).await;
        }
    }

    fn take(self: &Arc<Self>, state: &mut State, address: Option<IpAddr>) -> Place {
        state.held += 1;
        if let Some(address) = address {
            *state.of_address.entry(address).or_default() += 1;
        }
        let number = state.next;
        state.next += 1;
        let standing = Arc::new(Standing {
            activity: Activity::new(),
            number,
            is_known: AtomicBool::new(false),
            evicted: CancellationToken::new(),
            admission: self.clone(),
        });
        state.strangers.insert(number, standing.clone());
        Place { standing, address: address.map(OnceLock::from).unwrap_or_default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics between two changes of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the number of places that this address holds.
    fn count(&self, address: IpAddr) -> usize {
        self.of_address.get(&address).copied().unwrap_or_default()
    }

    /// Closes the connection of a stranger that has been silent for [`GRACE`], if there is one.
    fn evict(&mut self, silence: Duration) {
        let oldest = self.strangers.values().take(LOOKED_AT);
        let leaves =
            oldest.filter(|stranger| stranger.activity.is_waiting_for(silence)).map(|stranger| stranger.number).next();
        if let Some(stranger) = leaves.and_then(|number| self.strangers.remove(&number)) {
            stranger.evicted.cancel();
        }
    }
}

impl Standing {
    /// Marks the connection as known: one of its requests was authenticated.
    pub(super) fn know(&self) {
        if !self.is_known.swap(true, Ordering::Relaxed) {
            self.admission.lock().strangers.remove(&self.number);
        }
    }
}

impl Place {
    /// Returns the state that the connection's requests share.
    pub(super) fn standing(&self) -> Arc<Standing> {
        self.standing.clone()
    }

    /// Counts the place against the share of this address, which a proxy has reported for the connection.
    pub(super) fn is_of(&self, address: IpAddr) -> Result<(), ShareIsTaken> {
        let address = holder(address);
        let admission = &self.standing.admission;
        let mut state = admission.lock();
        if state.count(address) >= admission.share {
            return Err(ShareIsTaken);
        }
        if self.address.set(address).is_ok() {
            *state.of_address.entry(address).or_default() += 1;
        }
        Ok(())
    }

    /// Waits until the place is given to another connection.
    pub(super) async fn evicted(&self) {
        self.standing.evicted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let admission = &self.standing.admission;
        let mut state = admission.lock();
        state.held -= 1;
        state.strangers.remove(&self.standing.number);
        if let Some(address) = self.address.get()
            && let Some(held) = state.of_address.get_mut(address)
        {
            *held -= 1;
            if *held == 0 {
                state.of_address.remove(address);
            }
        }
        drop(state);
        // Each listener has at most one connection waiting, which checks again whether there is room.
        admission.freed.notify_waiters();
    }
}

/// Returns the holder of a share: the address, or with IPv6 its whole network of 64 bits, the least that one subscriber
/// gets (RFC 6177).
pub(super) fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Whether a place is free without closing another connection.
    async fn is_waiting(place: impl Future<Output = Result<Place, ShareIsTaken>>) -> bool {
        let mut place = pin!(place);
        std::future::poll_fn(|cx| std::task::Poll::Ready(place.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn one_address_has_its_share_and_others_have_the_rest() {
        let admission = Admission::new(4, 2);
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(admission.place(Some(address("10.0.0.1"))).await.unwrap());
        }
        for same in ["10.0.0.1", "::ffff:10.0.0.1"] {
            assert_eq!(admission.place(Some(address(same))).await.unwrap_err(), ShareIsTaken);
        }
        held.push(admission.place(Some(address("10.0.0.2"))).await.unwrap());
        held.pop();
        held.pop();
        held.push(admission.place(Some(address("10.0.0.1"))).await.unwrap());
        drop(held);
        assert!(admission.lock().of_address.is_empty());
    }

    #[tokio::test]
    async fn a_network_of_ipv6_is_one_address_and_a_proxy_is_none() {
        let admission = Admission::new(8, 1);
        let _one = admission.place(Some(address("2001:db8::1"))).await.unwrap();
        assert!(admission.place(Some(address("2001:db8::ffff:1"))).await.is_err());
        let _other = admission.place(Some(address("2001:db8:0:1::1"))).await.unwrap();
        let _proxy = [admission.place(None).await.unwrap(), admission.place(None).await.unwrap()];
    }

    #[tokio::test]
    async fn what_comes_by_a_proxy_is_of_the_share_of_who_is_behind_it() {
        let admission = Admission::new(8, 2);
        let proxied = [admission.place(None).await.unwrap(), admission.place(None).await.unwrap()];
        let direct = admission.place(Some(address("10.0.0.1"))).await.unwrap();
        proxied[0].is_of(address("::ffff:10.0.0.1")).unwrap();
        assert_eq!(proxied[1].is_of(address("10.0.0.1")), Err(ShareIsTaken));
        proxied[1].is_of(address("10.0.0.2")).unwrap();
        drop(direct);
        let _direct = admission.place(Some(address("10.0.0.1"))).await.unwrap();
        drop(proxied);
        assert_eq!(admission.lock().of_address.len(), 1);
    }

    #[tokio::test]
    async fn a_silent_stranger_makes_room_and_others_do_not() {
        let admission = Admission::with_grace(3, 3, Duration::ZERO);
        let known = admission.place(Some(address("10.0.0.1"))).await.unwrap();
        known.standing().know();
        let busy = admission.place(Some(address("10.0.0.1"))).await.unwrap();
        let _work = busy.standing().activity.work();
        let silent = admission.place(Some(address("10.0.0.1"))).await.unwrap();
        let newcomer = admission.place(Some(address("10.0.0.2")));
        let (newcomer, ()) = tokio::join!(newcomer, async {
            silent.evicted().await;
            drop(silent);
        });
        newcomer.unwrap().standing().know();
        let another = admission.place(Some(address("10.0.0.2"))).await.unwrap();
        another.standing().know();
        assert!(is_waiting(admission.place(Some(address("10.0.0.3")))).await);
        assert!(!busy.standing.evicted.is_cancelled() && !known.standing.evicted.is_cancelled());
    }

    #[tokio::test]
    async fn a_stranger_who_has_just_come_is_left_its_place() {
        let admission = Admission::new(1, 1);
        let first = admission.place(Some(address("10.0.0.1"))).await.unwrap();
        assert!(is_waiting(admission.place(Some(address("10.0.0.2")))).await);
        assert!(!first.standing.evicted.is_cancelled());
    }
}
