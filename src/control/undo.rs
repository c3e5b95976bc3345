//! Undoing what was begun and did not come to its end.
//!
//! # Cancellation
//! What is undone is undone on a task of its own, to its end: whoever waits for it may go.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Something that was begun.
pub(super) trait Undoing: Send + Sized + 'static {
    /// Why it is undone, where nobody said why.
    const CUT_OFF: &'static str;

    /// The pauses, in seconds, between attempts to undo it.
    const AGAIN: &'static [u64] = &[];

    /// All that undoing it takes. It is asked for once.
    fn hand_over(&mut self) -> Self;

    /// Undoes it; whether that is done.
    fn undo(&mut self, why: &str) -> impl Future<Output = bool> + Send;

    /// Whether another attempt is of no use any more.
    fn is_over(&self) -> bool {
        false
    }
}

/// What is undone when this is dropped, unless it came to its end.
pub(super) struct Undo<T: Undoing> {
    what: T,
    tracker: TaskTracker,
    is_armed: bool,
}

impl<T: Undoing> Undo<T> {
    /// It has begun.
    pub(super) fn new(tracker: &TaskTracker, what: T) -> Self {
        Self { what, tracker: tracker.clone(), is_armed: true }
    }

    /// It came to its end.
    pub(super) fn complete(&mut self) {
        self.is_armed = false;
    }

    /// Undoes it at once, so that whoever reads why it failed can try again. What fails is tried again later.
    pub(super) async fn now(&mut self, why: &str) {
        if !std::mem::take(&mut self.is_armed) {
            return;
        }
        let (tried, first) = oneshot::channel();
        self.tracker.spawn(undo(self.what.hand_over(), why.to_owned(), Some(tried)));
        // It is dropped when the first attempt has ended.
        let _ = first.await;
    }
}

impl<T: Undoing> Deref for Undo<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.what
    }
}

impl<T: Undoing> DerefMut for Undo<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.what
    }
}

impl<T: Undoing> Drop for Undo<T> {
    fn drop(&mut self) {
        if self.is_armed {
            self.tracker.spawn(undo(self.what.hand_over(), T::CUT_OFF.to_owned(), None));
        }
    }
}

async fn undo<T: Undoing>(mut what: T, why: String, tried: Option<oneshot::Sender<()>>) {
    let mut is_undone = what.undo(&why).await;
    drop(tried);
    for pause in T::AGAIN {
        if is_undone {
            return;
        }
        for _ in 0..*pause {
            if what.is_over() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        is_undone = what.undo(&why).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::FutureExt as _;

    use super::*;

    /// Counts the attempts to undo it.
    #[derive(Clone)]
    struct Begun {
        told: Arc<Mutex<Vec<String>>>,
        /// The attempt that undoes it.
        undone_by: usize,
        /// The attempt after which another is of no use.
        over_after: usize,
    }

    impl Undoing for Begun {
        const CUT_OFF: &'static str = "cut off";
        const AGAIN: &'static [u64] = &[1, 1];

        fn hand_over(&mut self) -> Self {
            self.clone()
        }

        async fn undo(&mut self, why: &str) -> bool {
            tokio::task::yield_now().await;
            let mut told = self.told.lock().unwrap();
            told.push(why.to_owned());
            told.len() >= self.undone_by
        }

        fn is_over(&self) -> bool {
            self.told.lock().unwrap().len() >= self.over_after
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_did_not_come_to_its_end_is_undone_until_that_is_done() {
        let tracker = TaskTracker::new();
        let begin = || {
            let told = Arc::<Mutex<Vec<String>>>::default();
            (Undo::new(&tracker, Begun { told: told.clone(), undone_by: 2, over_after: usize::MAX }), told)
        };
        let (mut complete, nothing) = begin();
        complete.complete();
        drop(complete);
        let (dropped, cut_off) = begin();
        drop(dropped);
        let (mut failed, told) = begin();
        failed.now("why").await;
        assert_eq!(*told.lock().unwrap(), ["why"], "the first attempt was waited for");
        failed.now("again").await;
        drop(failed);
        tracker.close();
        tracker.wait().await;
        assert!(nothing.lock().unwrap().is_empty());
        assert_eq!(*cut_off.lock().unwrap(), ["cut off"; 2]);
        assert_eq!(*told.lock().unwrap(), ["why"; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_ends_without_who_waited_for_it_and_none_follows_that_is_of_no_use() {
        let tracker = TaskTracker::new();
        let told = Arc::<Mutex<Vec<String>>>::default();
        let mut failed = Undo::new(&tracker, Begun { told: told.clone(), undone_by: usize::MAX, over_after: 1 });
        assert!(failed.now("why").now_or_never().is_none(), "the attempt takes a while");
        drop(failed);
        tracker.close();
        tracker.wait().await;
        assert_eq!(*told.lock().unwrap(), ["why"]);
    }
}
