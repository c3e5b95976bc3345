//! Whether the last room of the disk is the database's alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Errors of the disk that are no further apart are of one shortage.
const LATELY: Duration = Duration::from_secs(2);

/// Is on while the space that is kept for removing is given up. That space is for the database: without it, whatever
/// fills the disk cannot be removed. So who writes bytes of volumes asks here before each block, and is refused as on a
/// full disk, also where the disk would take it. Clones share it.
///
/// Nothing here takes a lock or allocates, so that the handler of a signal can change it.
#[derive(Clone, Debug, Default)]
pub struct Shortage(Arc<State>);

#[derive(Debug)]
struct State {
    is_on: AtomicBool,
    began: Instant,
    /// When the disk last refused room, in milliseconds from `began`, counted from 1; 0 before it ever did.
    latest: AtomicU64,
}

impl Default for State {
    fn default() -> Self {
        Self { is_on: AtomicBool::new(false), began: Instant::now(), latest: AtomicU64::new(0) }
    }
}

impl Shortage {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::Acquire)
    }

    /// Turns it on or off.
    pub fn set(&self, is_on: bool) {
        self.0.is_on.store(is_on, Ordering::Release);
    }

    /// The disk has just refused room to somebody.
    pub fn note(&self) {
        self.0.latest.store(self.now(), Ordering::Release);
    }

    /// Whether the disk has refused room a moment ago: there may be some again by now.
    pub fn is_recent(&self) -> bool {
        let latest = self.0.latest.load(Ordering::Acquire);
        latest > 0 && u128::from(self.now().saturating_sub(latest)) <= LATELY.as_millis()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_recent_once_the_disk_has_refused_room_and_on_while_it_is_turned_on() {
        let shortage = Shortage::default();
        assert!(!shortage.is_on() && !shortage.is_recent());
        shortage.clone().note();
        assert!(!shortage.is_on() && shortage.is_recent());
        let other = Shortage::default();
        other.clone().set(true);
        assert!(other.is_on() && !other.is_recent());
        other.set(false);
        assert!(!other.is_on());
    }
}
