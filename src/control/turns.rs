//! Turns to work on something of which only so much is done at once: shared out among tenants.
//!
//! # Invariants
//! - Never more turns than the total, nor more for one tenant than its share, which is less than the total wherever
//!   that is more than one: whatever one tenant does, another finds a turn.
//! - A turn that becomes free goes to the waiting tenant that has the fewest; of two, to who waits longest.
//!
//! # Cancellation
//! Who stops waiting has no turn, and takes none from others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::domain::{Fault, FaultKind, TenantId};
use crate::transfer::Wanted;

/// Turns of one kind. Clones share them.
#[derive(Clone)]
pub(super) struct Turns {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    share: usize,
    wanted: Arc<Wanted>,
}

struct State {
    free: usize,
    held: HashMap<TenantId, usize>,
    /// In the order in which they came.
    waiting: Vec<(TenantId, oneshot::Sender<Turn>)>,
}

/// A turn, until it is dropped.
pub(super) struct Turn {
    turns: Turns,
    tenant: TenantId,
}

impl Turns {
    /// So many turns. Who holds one while others wait must move `least` bytes a second.
    pub(super) fn new(total: usize, least: u64) -> Self {
        let state = State { free: total, held: HashMap::new(), waiting: Vec::new() };
        let wanted = Arc::new(Wanted::new(least));
        Self { shared: Arc::new(Shared { state: Mutex::new(state), share: share_of(total), wanted }) }
    }

    /// A turn for this tenant, within a time.
    pub(super) async fn take(&self, tenant: TenantId, within: Duration) -> Result<Turn, Fault> {
        let receiver = {
            let mut state = self.lock();
            let (sender, receiver) = oneshot::channel();
            state.waiting.push((tenant, sender));
            let given = self.share_out(&mut state);
            if !state.waiting.is_empty() {
                self.shared.wanted.note();
            }
            drop(state);
            // A turn whose receiver has gone is given back when it is dropped, which takes the lock.
            drop(given);
            receiver
        };
        match tokio::time::timeout(within, receiver).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Fault::new(FaultKind::Unavailable, "as many archives as can be are on their way; try again")),
        }
    }

    /// Whether somebody waits, for who holds a turn.
    pub(super) fn wanted(&self) -> Arc<Wanted> {
        self.shared.wanted.clone()
    }

    /// Gives what is free to who waits; what was given to nobody.
    fn share_out(&self, state: &mut State) -> Vec<Turn> {
        let mut unwanted = Vec::new();
        state.waiting.retain(|(_, sender)| !sender.is_closed());
        while state.free > 0 {
            let held = |tenant: &TenantId| state.held.get(tenant).copied().unwrap_or(0);
            let waiting = state.waiting.iter().enumerate().map(|(at, (tenant, _))| (held(tenant), at));
            let Some((_, at)) = waiting.filter(|(held, _)| *held < self.shared.share).min() else { break };
            let (tenant, sender) = state.waiting.remove(at);
            state.free -= 1;
            *state.held.entry(tenant).or_default() += 1;
            if let Err(turn) = sender.send(Turn { turns: self.clone(), tenant }) {
                unwanted.push(turn);
            }
        }
        unwanted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts; each change leaves them whole.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.free += 1;
        if let Some(held) = state.held.get_mut(&self.tenant) {
            *held -= 1;
            if *held == 0 {
                state.held.remove(&self.tenant);
            }
        }
        let given = self.turns.share_out(&mut state);
        drop(state);
        drop(given);
    }
}

/// What one tenant may have of a total: three quarters, which leaves a lone tenant nearly all of the machine.
fn share_of(total: usize) -> usize {
    (total - total.div_ceil(4)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn a_tenant_gets_its_share_and_never_all() {
        for total in 2..20 {
            let (turns, greedy, other) = (Turns::new(total, 0), TenantId::random(), TenantId::random());
            let mut held = Vec::new();
            while let Ok(turn) = turns.take(greedy, SOON).await {
                held.push(turn);
            }
            assert!(!held.is_empty() && held.len() < total && held.len() * 2 >= total, "{} of {total}", held.len());
            assert!(turns.take(other, SOON).await.is_ok());
            held.pop();
            assert!(turns.take(greedy, SOON).await.is_ok());
        }
        let turns = Turns::new(1, 0);
        let only = turns.take(TenantId::random(), SOON).await.ok();
        assert!(only.is_some() && turns.take(TenantId::random(), SOON).await.is_err());
    }

    #[tokio::test]
    async fn a_free_turn_goes_to_the_waiting_tenant_that_has_the_fewest() {
        let (turns, greedy, other, third) =
            (Turns::new(4, 0), TenantId::random(), TenantId::random(), TenantId::random());
        let mut held = Vec::new();
        for tenant in [greedy, greedy, other, other] {
            held.push(turns.take(tenant, SOON).await.ok());
        }
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        let tracker = tokio_util::task::TaskTracker::new();
        for tenant in [greedy, greedy, third] {
            let (waiting, sender) = (turns.clone(), sender.clone());
            let already = turns.lock().waiting.len();
            tracker.spawn(async move {
                let turn = waiting.take(tenant, LATE).await.ok();
                sender.send((tenant, turn)).ok();
            });
            while turns.lock().waiting.len() == already {
                tokio::task::yield_now().await;
            }
        }
        held.pop();
        assert_eq!(order.recv().await.map(|(tenant, _)| tenant), Some(third));
    }

    #[tokio::test]
    async fn who_stops_waiting_takes_no_turn() {
        let (turns, tenant) = (Turns::new(1, 0), TenantId::random());
        let held = turns.take(tenant, SOON).await.ok();
        assert!(turns.take(tenant, SOON).await.is_err());
        drop(held);
        assert!(turns.take(TenantId::random(), SOON).await.is_ok());
        assert_eq!(turns.lock().free, 1);
    }

    #[tokio::test]
    async fn a_turn_is_wanted_for_a_while_after_somebody_waited() {
        let (turns, tenant) = (Turns::new(1, 7), TenantId::random());
        let held = turns.take(tenant, SOON).await.ok();
        assert_eq!(turns.wanted().least_rate(std::time::Instant::now()), 0);
        assert!(turns.take(tenant, SOON).await.is_err());
        assert_eq!(turns.wanted().least_rate(std::time::Instant::now()), 7);
        assert_eq!(turns.wanted().least_rate(std::time::Instant::now() + Duration::from_mins(10)), 0);
        drop(held);
    }
}
