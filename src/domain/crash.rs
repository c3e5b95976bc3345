//! Crash points: places at which a test ends the process as a power cut would.

#[cfg(debug_assertions)]
use std::io::Write as _;
#[cfg(debug_assertions)]
use std::sync::Arc;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the places between two durable steps, and ends the process at one of them. Does nothing in release builds.
#[derive(Clone, Debug, Default)]
pub struct CrashPoints {
    /// The number of crash points left; the process aborts at the last one.
    #[cfg(debug_assertions)]
    left: Option<Arc<AtomicU64>>,
}

impl CrashPoints {
    /// Returns crash points that never end the process.
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns crash points that end the process at the `k`-th one passed, counted from 1 over all clones; in release
    /// builds, never.
    pub fn after(k: u64) -> Self {
        #[cfg(not(debug_assertions))]
        let _ = k;
        Self {
            #[cfg(debug_assertions)]
            left: Some(Arc::new(AtomicU64::new(k))),
        }
    }

    /// Passes a crash point, after one durable step and before the next.
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
