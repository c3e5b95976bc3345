//! Lines of those who wait for the same thing: first come, first served, one at a time.
//!
//! # Cancellation
//! Who goes away leaves their line, and who is at its head lets the next one in.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as Line, OwnedMutexGuard};

/// The lines that somebody is in; others take no memory.
pub(super) struct Lanes<K> {
    lines: Mutex<HashMap<K, Shared>>,
}

#[derive(Default)]
struct Shared {
    line: Arc<Line<()>>,
    members: usize,
}

/// The head of a line.
pub(super) struct Head<'a, K: Copy + Eq + Hash> {
    _line: OwnedMutexGuard<()>,
    // Dropped last: a line goes when nobody is in it.
    _member: Member<'a, K>,
}

struct Member<'a, K: Copy + Eq + Hash> {
    lanes: &'a Lanes<K>,
    key: K,
}

impl<K: Copy + Eq + Hash> Lanes<K> {
    pub(super) fn new() -> Self {
        Self { lines: Mutex::default() }
    }

    /// Waits to be the head of a line.
    pub(super) async fn head_of(&self, key: K) -> Head<'_, K> {
        let line = {
            let mut lines = self.lines();
            let shared = lines.entry(key).or_default();
            shared.members += 1;
            Arc::clone(&shared.line)
        };
        let member = Member { lanes: self, key };
        Head { _line: line.lock_owned().await, _member: member }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<K, Shared>> {
        // Counts stay usable whatever panicked beside them.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn members(&self) -> usize {
        self.lines().values().map(|shared| shared.members).sum()
    }
}

impl<K: Copy + Eq + Hash> Drop for Member<'_, K> {
    fn drop(&mut self) {
        let mut lines = self.lanes.lines();
        if let Some(shared) = lines.get_mut(&self.key) {
            shared.members -= 1;
            if shared.members == 0 {
                lines.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    /// What a future says to one poll.
    async fn once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut future = Some(future);
        poll_fn(|cx| {
            Poll::Ready(match future.take().map(|future| future.poll(cx)) {
                Some(Poll::Ready(output)) => Some(output),
                _ => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn a_line_is_served_in_order_and_who_leaves_it_holds_up_nobody() {
        let lanes = Lanes::new();
        let first = lanes.head_of(1).await;
        let _other = lanes.head_of(2).await;
        let mut third = pin!(lanes.head_of(1));
        {
            let mut second = pin!(lanes.head_of(1));
            assert!(once(second.as_mut()).await.is_none() && once(third.as_mut()).await.is_none());
            assert_eq!(lanes.members(), 4);
        }
        drop(first);
        let third = once(third.as_mut()).await.expect("the second has left");
        assert_eq!(lanes.members(), 2);
        drop(third);
        assert_eq!(lanes.lines().len(), 1);
    }
}
