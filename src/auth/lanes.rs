//! Queues for resources that one waiter holds at a time. The next holder is by turns the waiter who came first and the
//! one who came last: nobody waits for ever, and a single waiter does not wait for all requests of another client.
//!
//! # Cancellation
//! A waiter who is dropped leaves its line; a head that is dropped lets the next waiter in.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The lines that have a waiter; others take no memory.
pub(super) struct Lanes<K: Copy + Eq + Hash> {
    lines: Mutex<HashMap<K, Line>>,
}

/// The waiters behind a head.
#[derive(Default)]
struct Line {
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
    /// Waiters that have joined so far.
    comers: u64,
    is_newest_next: bool,
}

/// The head of a line.
pub(super) struct Head<'a, K: Copy + Eq + Hash> {
    lanes: &'a Lanes<K>,
    key: K,
}

/// A waiter in a line.
struct Waiting<'a, K: Copy + Eq + Hash> {
    lanes: &'a Lanes<K>,
    key: K,
    /// `None` once the waiter is the head.
    number: Option<u64>,
}

impl<K: Copy + Eq + Hash> Lanes<K> {
    pub(super) fn new() -> Self {
        Self { lines: Mutex::default() }
    }

    /// Joins a line and waits to be its head.
    pub(super) async fn head_of(&self, key: K) -> Head<'_, K> {
        let (sender, chosen) = oneshot::channel();
        let number = match self.lines().entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(Line::default());
                None
            }
            Entry::Occupied(mut line) => Some(line.get_mut().join(sender)),
        };
        if number.is_some() {
            let mut waiting = Waiting { lanes: self, key, number };
            // The sender is dropped only after it was used.
            let _ = chosen.await;
            waiting.number = None;
        }
        Head { lanes: self, key }
    }

    /// Makes the next waiter the head.
    fn let_in(&self, key: K) {
        let mut lines = self.lines();
        let Some(line) = lines.get_mut(&key) else { return };
        while let Some(next) = line.next() {
            if next.send(()).is_ok() {
                return;
            }
        }
        lines.remove(&key);
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<K, Line>> {
        // Queues stay usable whatever panicked beside them.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of waiters in all lines, heads included.
    #[cfg(test)]
    pub(super) fn members(&self) -> usize {
        self.lines().values().map(|line| 1 + line.waiting.len()).sum()
    }
}

impl Line {
    fn join(&mut self, sender: oneshot::Sender<()>) -> u64 {
        self.comers += 1;
        self.waiting.push_back((self.comers, sender));
        self.comers
    }

    fn next(&mut self) -> Option<oneshot::Sender<()>> {
        let next = if self.is_newest_next { self.waiting.pop_back() } else { self.waiting.pop_front() };
        self.is_newest_next = !self.is_newest_next;
        next.map(|(_, sender)| sender)
    }

    /// Removes a waiter; returns whether it was still in the line.
    fn leave(&mut self, number: u64) -> bool {
        // The waiters are in the order of their numbers.
        let found = self.waiting.binary_search_by_key(&number, |(number, _)| *number);
        found.is_ok_and(|at| self.waiting.remove(at).is_some())
    }
}

impl<K: Copy + Eq + Hash> Drop for Head<'_, K> {
    fn drop(&mut self) {
        self.lanes.let_in(self.key);
    }
}

impl<K: Copy + Eq + Hash> Drop for Waiting<'_, K> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let has_left = self.lanes.lines().get_mut(&self.key).is_some_and(|line| line.leave(number));
        if !has_left {
            // It was let in, and dropped before it was polled.
            self.lanes.let_in(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Waiter<'a> = Pin<Box<dyn Future<Output = Head<'a, u8>> + 'a>>;

    /// Polls a future once.
    fn once<'a>(waiter: &mut Waiter<'a>) -> Option<Head<'a, u8>> {
        match waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(head) => Some(head),
            Poll::Pending => None,
        }
    }

    /// Adds this many waiters behind a head.
    fn waiters(lanes: &Lanes<u8>, count: usize) -> Vec<Waiter<'_>> {
        let mut waiters: Vec<Waiter<'_>> = (0..count).map(|_| Box::pin(lanes.head_of(1)) as Waiter<'_>).collect();
        assert!(waiters.iter_mut().all(|waiter| once(waiter).is_none()));
        waiters
    }

    #[test]
    fn who_waits_longest_and_who_came_last_are_let_in_by_turns() {
        let lanes = Lanes::new();
        let mut head = once(&mut (Box::pin(lanes.head_of(1)) as Waiter<'_>)).unwrap();
        let mut waiters = waiters(&lanes, 5);
        let other = once(&mut (Box::pin(lanes.head_of(2)) as Waiter<'_>));
        assert!(other.is_some(), "another line");
        let mut order = Vec::new();
        while order.len() < 5 {
            drop(head);
            let mut let_in = waiters.iter_mut().enumerate().filter(|(at, _)| !order.contains(at));
            let (at, next) = let_in.find_map(|(at, waiter)| once(waiter).map(|head| (at, head))).unwrap();
            order.push(at);
            head = next;
        }
        assert_eq!(order, [0, 4, 1, 3, 2]);
        drop((head, other));
        assert!(lanes.lines().is_empty());
    }

    #[test]
    fn who_goes_away_holds_up_nobody() {
        let lanes = Lanes::new();
        let head = once(&mut (Box::pin(lanes.head_of(1)) as Waiter<'_>)).unwrap();
        let mut waiters = waiters(&lanes, 4);
        drop(waiters.remove(1));
        assert_eq!(lanes.members(), 4);
        drop(head);
        // The first waiter is let in now, and dropped before it is polled.
        drop(waiters.remove(0));
        assert_eq!(lanes.members(), 2);
        let head = once(&mut waiters[1]).unwrap();
        drop(waiters.remove(0));
        drop(head);
        assert!(lanes.lines().is_empty());
    }
}
