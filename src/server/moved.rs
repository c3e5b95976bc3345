//! The bytes that a connection has moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How many bytes a connection has moved; shared with whoever watches for stalled peers.
#[derive(Debug, Default)]
pub struct Moved {
    read: AtomicU64,
    written: AtomicU64,
    /// The body of an upload that was let in is read.
    wide: AtomicBool,
}

/// See [`Moved::widen`].
#[derive(Debug)]
pub(super) struct Wide(Arc<Moved>);

impl Drop for Wide {
    fn drop(&mut self) {
        self.0.wide.store(false, Ordering::Relaxed);
    }
}

impl Moved {
    /// Bytes that came in.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Counts bytes that came in.
    pub(super) fn add_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Has an upload's body come in large pieces until the guard is dropped.
    pub(super) fn widen(self: &Arc<Self>) -> Wide {
        self.wide.store(true, Ordering::Relaxed);
        Wide(self.clone())
    }

    pub(super) fn is_wide(&self) -> bool {
        self.wide.load(Ordering::Relaxed)
    }

    /// Counts bytes the socket took.
    pub(super) fn add_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes the socket took.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}
