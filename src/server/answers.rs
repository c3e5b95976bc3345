//! Limits the memory of answers that are complete and not sent yet: a budget of bytes, divided among tenants.
//!
//! Room for the longest possible answer is taken before its content is looked up. The answer then keeps what it really
//! needs until it was sent or dropped. So a caller who asks and does not read delays its own requests only.
//!
//! # Invariants
//! - No more room is held than the total, except by answers that are longer than expected: later ones wait for these,
//!   too.
//! - No tenant has more than its share, so that another always finds room. Callers without a login are one tenant.
//! - Room is given in the order of the requests for it; only those of tenants whose share is used up are passed over.
//!
//! # Cancellation
//! A caller who stops waiting holds no room.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::domain::{
    BlockCommand, Command, Fault, FaultKind, SessionCommand, TenantId, TransferAction, TransferCommand,
};

/// The total: eight of the longest pages at once, or some thirty usual ones.
const TOTAL: usize = 64 << 20;

/// Answers up to this length need no room: they count as memory of the connection.
const SMALL: usize = 16 << 10;

/// The most memory of a page, or of a part of a longer list: 2 MiB of its volumes' own words, at most two more, what
/// every volume has, and the same as text.
pub(super) const PAGE: usize = 8 << 20;

/// The most memory of one volume, whose row has 256 KiB at most.
const ONE: usize = 512 << 10;

/// The room for answers.
#[derive(Debug)]
pub(super) struct Answers {
    total: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    of_tenant: HashMap<Option<TenantId>, usize>,
    /// In the order of their arrival.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    tenant: Option<TenantId>,
    bytes: usize,
    sender: oneshot::Sender<Room>,
}

/// Room for an answer, held until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    answers: Arc<Answers>,
    tenant: Option<TenantId>,
    bytes: usize,
}

/// Returns the most that the answer to a command may take, if the command only reads; the answers to others depend on
/// their outcome.
pub(super) fn most_of(command: &Command) -> Option<usize> {
    match command {
        Command::List(_)
        | Command::Session(SessionCommand::List { .. })
        | Command::Transfer(TransferCommand::List(_))
        | Command::Block(BlockCommand::Backups(_) | BlockCommand::Servers(_) | BlockCommand::Attachments { .. }) => {
            Some(PAGE)
        }
        Command::Show(_)
        | Command::Digest(_)
        | Command::Session(SessionCommand::Show(_))
        | Command::Transfer(TransferCommand::On(_, TransferAction::Show)) => Some(ONE),
        Command::In { command, .. } | Command::WithOwner { command, .. } => most_of(command),
        _ => None,
    }
}

impl Answers {
    pub(super) fn new() -> Arc<Self> {
        Self::of(TOTAL)
    }

    fn of(total: usize) -> Arc<Self> {
        Arc::new(Self { total, state: Mutex::default() })
    }

    /// Waits for room for so many bytes, at most for `within`. A request beyond a tenant's share gets the whole share.
    pub(super) async fn room(
        self: &Arc<Self>,
        tenant: Option<TenantId>,
        bytes: usize,
        within: Duration,
    ) -> Result<Room, Fault> {
        let receiver = {
            let mut state = self.lock();
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(Waiting { tenant, bytes: bytes.min(self.share()), sender });
            let given = self.share_out(&mut state);
            drop(state);
            // Room whose receiver has gone is released when it is dropped, which takes the lock.
            drop(given);
            receiver
        };
        match tokio::time::timeout(within, receiver).await {
            Ok(Ok(room)) => Ok(room),
            _ => {
                Err(Fault::new(FaultKind::Unavailable, "answers that nobody takes fill the memory for them; try again"))
            }
        }
    }

    /// Waits for room for an answer that exists already, however long that takes, since its command was executed.
    /// Returns `None` if it needs none.
    pub(super) async fn room_of(self: &Arc<Self>, tenant: Option<TenantId>, length: usize) -> Option<Room> {
        self.room_within(tenant, length, Duration::MAX).await.ok().flatten()
    }

    /// Waits for room for a part of an answer that exists already, at most for `within`. Returns `None` if it needs
    /// none.
    pub(super) async fn room_within(
        self: &Arc<Self>,
        tenant: Option<TenantId>,
        length: usize,
        within: Duration,
    ) -> Result<Option<Room>, Fault> {
        if length <= SMALL {
            return Ok(None);
        }
        self.room(tenant, length, within).await.map(Some)
    }

    /// The share of one tenant: three quarters, as of other limits.
    fn share(&self) -> usize {
        self.total / 4 * 3
    }

    /// Gives the free room to those who wait; returns the room whose receivers have gone.
    fn share_out(self: &Arc<Self>, state: &mut State) -> Vec<Room> {
        let mut unwanted = Vec::new();
        state.waiting.retain(|waiting| !waiting.sender.is_closed());
        let mut at = 0;
        while let Some(next) = state.waiting.get(at) {
            let held = state.of_tenant.get(&next.tenant).copied().unwrap_or(0);
            if held > 0 && held + next.bytes > self.share() {
                at += 1;
                continue;
            }
            if state.held > 0 && state.held + next.bytes > self.total {
                break;
            }
            let Some(Waiting { tenant, bytes, sender }) = state.waiting.remove(at) else { break };
            state.held += bytes;
            *state.of_tenant.entry(tenant).or_default() += bytes;
            if let Err(room) = sender.send(Room { answers: self.clone(), tenant, bytes }) {
                unwanted.push(room);
            }
        }
        unwanted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The counts stay valid: each change leaves them consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// Reduces the room to an answer of this length; `None` if it needs none.
    pub(super) fn fit(mut self, length: usize) -> Option<Self> {
        if length <= SMALL {
            return None;
        }
        self.resize(length);
        Some(self)
    }

    fn resize(&mut self, bytes: usize) {
        let answers = self.answers.clone();
        let mut state = answers.lock();
        state.held = state.held - self.bytes + bytes;
        let held = state.of_tenant.entry(self.tenant).or_default();
        *held = *held - self.bytes + bytes;
        if *held == 0 {
            state.of_tenant.remove(&self.tenant);
        }
        self.bytes = bytes;
        let given = answers.share_out(&mut state);
        drop(state);
        drop(given);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    const LONG: Duration = Duration::from_hours(1);
    const KIB: usize = 1 << 10;

    async fn is_waiting<T>(room: &mut (impl Future<Output = T> + Unpin)) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *room).poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn one_tenant_has_its_share_and_another_finds_room() {
        let answers = Answers::of(400 * KIB);
        let (one, other) = (Some(TenantId::random()), Some(TenantId::random()));
        let held = answers.room(one, 250 * KIB, LONG).await.unwrap();
        let mut more = pin!(answers.room(one, 100 * KIB, LONG));
        assert!(is_waiting(&mut more).await);
        let others = answers.room(other, 150 * KIB, LONG).await.unwrap();
        drop(held);
        let more = more.await.unwrap();
        drop((more, others));
        let state = answers.lock();
        assert_eq!((state.held, state.of_tenant.len()), (0, 0));
    }

    #[tokio::test]
    async fn who_asks_for_much_is_not_passed_by_who_asks_for_little() {
        let answers = Answers::of(400 * KIB);
        let held = answers.room(Some(TenantId::random()), 300 * KIB, LONG).await.unwrap();
        let mut much = pin!(answers.room(None, 200 * KIB, LONG));
        assert!(is_waiting(&mut much).await);
        let mut little = pin!(answers.room(Some(TenantId::random()), KIB, LONG));
        assert!(is_waiting(&mut little).await);
        drop(held);
        much.await.unwrap();
        little.await.unwrap();
    }

    #[tokio::test]
    async fn what_an_answer_does_not_take_is_given_back_and_what_is_more_is_counted() {
        let answers = Answers::of(400 * KIB);
        let tenant = Some(TenantId::random());
        let room = answers.room(tenant, 300 * KIB, LONG).await.unwrap();
        let kept = room.fit(200 * KIB);
        assert_eq!(answers.lock().held, 200 * KIB);
        let small = answers.room(tenant, 100 * KIB, LONG).await.unwrap();
        assert!(small.fit(SMALL).is_none());
        assert_eq!(answers.lock().held, 200 * KIB);
        let long = answers.room(tenant, 50 * KIB, LONG).await.unwrap().fit(500 * KIB);
        assert_eq!(answers.lock().held, 700 * KIB);
        drop((kept, long));
        assert_eq!(answers.lock().held, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_none_in_time_is_told_so_and_takes_none_later() {
        let answers = Answers::of(400 * KIB);
        let tenant = Some(TenantId::random());
        let held = answers.room(tenant, 999 * KIB, LONG).await.unwrap();
        assert_eq!(held.bytes, 300 * KIB);
        let fault = answers.room(tenant, KIB, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unavailable);
        drop(held);
        assert_eq!(answers.lock().held, 0);
    }
}
