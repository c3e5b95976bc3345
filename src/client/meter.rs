//! How far a transfer is. The transfer counts, and whoever shows it looks now and then.

use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::limiter::{Limiter, Waits};

/// Counts of one transfer.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    size: AtomicU64,
    done: AtomicU64,
    moved: AtomicU64,
    connections: AtomicUsize,
    notes: Mutex<Vec<String>>,
    pub(super) waits: Arc<Waits>,
}

/// The counts at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The bytes of the drive; `None` until they are known.
    pub(crate) size: Option<u64>,
    /// Those that are there, zeros included.
    pub(crate) done: u64,
    /// Those that this process moved over the line.
    pub(crate) moved: u64,
    /// The connections that move some.
    pub(crate) connections: usize,
}

impl Meter {
    /// Returns the counts.
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            size: Some(self.size.load(Ordering::Relaxed)).filter(|size| *size > 0),
            done: self.done.load(Ordering::Relaxed),
            moved: self.moved.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
        }
    }

    /// Returns what has kept it from going faster since these times, which become those of now.
    pub(crate) fn limiter(&self, since: &mut [Duration; 4]) -> Option<Limiter> {
        self.waits.limiter(since)
    }

    /// Takes what was noted since it was taken last.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        mem::take(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn note(&self, text: impl Into<String>) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text.into());
    }

    pub(super) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }

    pub(super) fn set_done(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn add_done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a connection for as long as the result lives.
    pub(super) fn connection(&self) -> Connected<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(&self.connections)
    }
}

/// A connection that is counted.
pub(super) struct Connected<'a>(&'a AtomicUsize);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
