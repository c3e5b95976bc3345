//! Volumes that were read a short time ago, so that a row that has not changed is not read again.
//!
//! # Invariants
//! - What is found here is as the database has it: whoever looks has just read the row's revision there, and every
//!   change of a row makes another one.
//! - Memory: rows of [`MOST`] bytes, which take some five times that when they are read, with the answer that was made
//!   of each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::domain::{Seen, VolumeId};

/// The bytes of the rows; about 16,000 volumes.
const MOST: usize = 8 << 20;
/// What a row has beside its texts.
const LEAST_ROW: usize = 400;

/// Such volumes. Those that were asked for the longest ago are forgotten first.
#[derive(Debug)]
pub(super) struct Recent(Mutex<Rows>);

#[derive(Debug)]
struct Rows {
    known: LruCache<VolumeId, Known>,
    /// Of all of them.
    bytes: usize,
}

#[derive(Debug)]
struct Known {
    volume: Arc<Seen>,
    bytes: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self(Mutex::new(Rows { known: LruCache::unbounded(), bytes: 0 }))
    }
}

impl Recent {
    /// The volume, if it is known, whatever its revision.
    pub(super) fn any(&self, id: VolumeId) -> Option<Arc<Seen>> {
        self.rows().known.get(&id).map(|known| Arc::clone(&known.volume))
    }

    /// The volume, if it is known as it was at this revision.
    pub(super) fn at(&self, id: VolumeId, revision: u64) -> Option<Arc<Seen>> {
        self.any(id).filter(|volume| volume.revision == revision)
    }

    /// Remembers what was read from a row whose texts have this length.
    pub(super) fn put(&self, volume: Arc<Seen>, texts: usize) {
        let bytes = LEAST_ROW + texts;
        let mut rows = self.rows();
        rows.bytes += bytes;
        if let Some(before) = rows.known.put(volume.id, Known { volume, bytes }) {
            rows.bytes -= before.bytes;
        }
        while rows.bytes > MOST
            && let Some((_, oldest)) = rows.known.pop_lru()
        {
            rows.bytes -= oldest.bytes;
        }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // A map of copies stays usable whatever panicked beside it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TenantId;
    use crate::meta::testing::drive;

    fn volume() -> Arc<Seen> {
        Seen::new(drive(TenantId::random(), 1))
    }

    #[test]
    fn a_volume_is_known_at_its_revision_only() {
        let recent = Recent::default();
        let (first, id) = (volume(), volume().id);
        recent.put(Arc::clone(&first), 0);
        assert_eq!(recent.at(first.id, first.revision), Some(Arc::clone(&first)));
        assert_eq!(recent.at(first.id, first.revision + 1), None);
        assert_eq!(recent.any(id), None);
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_forgotten_before_it_takes_too_much() {
        let recent = Recent::default();
        let (asked, other) = (volume(), volume());
        recent.put(Arc::clone(&asked), 0);
        recent.put(Arc::clone(&other), 0);
        for _ in 0..40 {
            let large = volume();
            recent.put(Arc::clone(&large), MOST / 8);
            recent.put(large, MOST / 4);
            assert!(recent.any(asked.id).is_some());
            let rows = recent.rows();
            assert_eq!(rows.known.iter().map(|(_, known)| known.bytes).sum::<usize>(), rows.bytes);
            assert!(rows.bytes <= MOST);
        }
        assert!(recent.any(other.id).is_none());
    }
}
