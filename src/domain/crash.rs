//! Crash points: where a test ends the process as a power cut would.

#[cfg(debug_assertions)]
use std::io::Write as _;
#[cfg(debug_assertions)]
use std::sync::Arc;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the places between two durable steps, and ends the process at one of them. Nothing in release builds.
#[derive(Clone, Debug, Default)]
pub struct CrashPoints {
    /// Crash points left; the process aborts at the last one.
    #[cfg(debug_assertions)]
    left: Option<Arc<AtomicU64>>,
}

impl CrashPoints {
    /// Never ends the process.
    pub fn none() -> Self {
        Self::default()
    }

    /// Ends the process at the `k`-th point passed, counted from 1, over all clones. Never, in release builds.
    pub fn after(k: u64) -> Self {
        #[cfg(not(debug_assertions))]
        let _ = k;
        Self {
            #[cfg(debug_assertions)]
            left: Some(Arc::new(AtomicU64::new(k))),
        }
    }

    /// A durable step has been done and the next has not begun.
    #[cfg_attr(not(debug_assertions), expect(clippy::unused_self, reason = "compiles to nothing"))]
    pub fn hit(&self, name: &'static str) {
        #[cfg(debug_assertions)]
        if let Some(left) = &self.left
            && left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            // `eprintln` panics when nobody can read it.
            let _ = writeln!(std::io::stderr(), "crash point: {name}");
            // No destructor runs and nothing is flushed: as near to a SIGKILL as a process comes by itself.
            std::process::abort();
        }
        #[cfg(not(debug_assertions))]
        let _ = name;
    }
}
