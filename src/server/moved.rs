//! The bytes that a connection has sent, for the watch over stalled peers, and how much it may read at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The count of a connection's sent bytes, and the size of its reads; shared with its requests and its watch.
#[derive(Debug, Default)]
pub(super) struct Moved {
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
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}
