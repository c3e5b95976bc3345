//! The bytes that a connection has moved, for the watch over stalled peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts of a connection's bytes, shared with the tasks that watch for stalled peers.
#[derive(Debug, Default)]
pub struct Moved {
    read: AtomicU64,
    written: AtomicU64,
    /// Whether the body of an admitted upload is being read.
    wide: AtomicBool,
}

/// The guard of [`Moved::widen`].
#[derive(Debug)]
pub(super) struct Wide(Arc<Moved>);

impl Drop for Wide {
    fn drop(&mut self) {
        self.0.wide.store(false, Ordering::Relaxed);
    }
}

impl Moved {
    /// Returns the bytes received so far.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Counts received bytes.
    pub(super) fn add_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Allows large reads of an upload's body until the guard is dropped.
    pub(super) fn widen(self: &Arc<Self>) -> Wide {
        self.wide.store(true, Ordering::Relaxed);
        Wide(self.clone())
    }

    pub(super) fn is_wide(&self) -> bool {
        self.wide.load(Ordering::Relaxed)
    }

    /// Counts bytes that the socket has taken.
    pub(super) fn add_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes that the socket has taken so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}
