//! The activity of a connection, and when its peer has been idle for too long.
//!
//! Uploads and downloads are watched by [`crate::transfer::Transfers`]. This module watches the rest of a connection,
//! for either version of HTTP: the wait for a head, and small answers that the peer does not take. hyper's timer for
//! heads knows HTTP/1.1 only, and nothing in hyper limits how long an answer may stay unread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::moved::Moved;

/// Shared by a connection and its requests.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests in progress, and downloads being sent. Other limits make sure that these end.
    working: usize,
    /// Answers being sent from memory.
    answering: usize,
    /// When the last of both ended.
    waits_since: Instant,
}

/// Time limits for the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Longest wait for a request.
    pub(super) head: Duration,
    /// Longest time in which the peer takes no byte of an answer.
    pub(super) idle: Duration,
}

enum Now {
    Working,
    Answering,
    WaitingSince(Instant),
}

impl Activity {
    /// Returns the activity of a connection that waits for its first request.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { working: 0, answering: 0, waits_since: Instant::now() }) })
    }

    /// Marks a request, or its download, as in progress until the guard is dropped.
    pub(super) fn work(self: &Arc<Self>) -> Busy {
        self.begin(Kind::Work)
    }

    /// Marks an answer as being sent from memory until the guard is dropped.
    pub(super) fn answer(self: &Arc<Self>) -> Busy {
        self.begin(Kind::Answer)
    }

    /// Whether the connection has only waited for a request for at least `silence`.
    pub(super) fn is_waiting_for(&self, silence: Duration) -> bool {
        matches!(self.now(), Now::WaitingSince(since) if since.elapsed() >= silence)
    }

    /// Waits until the peer has sent no request, or taken no byte of an answer, for too long.
    pub(super) async fn until_idle(&self, moved: &Moved, patience: Patience) {
        let often = patience.head.min(patience.idle) / 4;
        let mut look = tokio::time::interval(often.clamp(Duration::from_millis(20), Duration::from_secs(1)));
        let mut taken = (moved.written(), Instant::now());
        loop {
            let now = look.tick().await.into_std();
            match self.now() {
                Now::Answering if taken.0 == moved.written() => {
                    if now.saturating_duration_since(taken.1) > patience.idle {
                        return;
                    }
                }
                Now::Answering | Now::Working => taken = (moved.written(), now),
                Now::WaitingSince(since) => {
                    taken = (moved.written(), now);
                    if now.saturating_duration_since(since) > patience.head {
                        return;
                    }
                }
            }
        }
    }

    fn begin(self: &Arc<Self>, kind: Kind) -> Busy {
        *self.lock().count(kind) += 1;
        Busy { activity: self.clone(), kind }
    }

    fn now(&self) -> Now {
        let state = self.lock();
        match (state.working, state.answering) {
            (0, 0) => Now::WaitingSince(state.waits_since),
            (0, _) => Now::Answering,
            _ => Now::Working,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The counters stay valid whatever panicked elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Work => &mut self.working,
            Kind::Answer => &mut self.answering,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Work,
    Answer,
}

/// See [`Activity::work`] and [`Activity::answer`].
#[derive(Debug)]
pub(super) struct Busy {
    activity: Arc<Activity>,
    kind: Kind,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        *state.count(self.kind) -= 1;
        state.waits_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { head: Duration::from_millis(50), idle: Duration::from_millis(50) };

    async fn is_idle(activity: &Arc<Activity>, moved: &Moved) -> bool {
        tokio::time::timeout(Duration::from_millis(300), activity.until_idle(moved, PATIENCE)).await.is_ok()
    }

    #[tokio::test]
    async fn a_peer_that_sends_no_request_or_takes_no_answer_is_idle() {
        let (activity, moved) = (Activity::new(), Moved::default());
        assert!(is_idle(&activity, &moved).await);
        let _answer = activity.answer();
        assert!(is_idle(&activity, &moved).await);
    }

    #[tokio::test]
    async fn a_request_that_is_worked_on_is_never_idle() {
        let (activity, moved) = (Activity::new(), Moved::default());
        let work = activity.work();
        let _answer = activity.answer();
        assert!(!is_idle(&activity, &moved).await);
        drop(work);
        assert!(is_idle(&activity, &moved).await);
    }
}
