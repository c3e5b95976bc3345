//! Volumes that were read a short time ago, so that a row that has not changed is not read again.
//!
//! # Invariants
//! - What is found here is as the database has it: whoever looks has just read the row's revision there, and every
//!   change of a row makes another one.
//! - Memory: two generations, of rows of [`MOST`] bytes each, which take some five times that when they are read, with
//!   the answer that was made of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{Seen, VolumeId};

/// The bytes of the rows of a generation; about 8,000 volumes.
const MOST: usize = 4 << 20;
/// What a row has beside its texts.
const LEAST_ROW: usize = 400;

/// Such volumes. Those that were not asked for while a generation grew up are forgotten with the one before.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<VolumeId, Known>,
    old: HashMap<VolumeId, Known>,
    /// Of the rows of the young one.
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Known {
    volume: Arc<Seen>,
    bytes: usize,
}

impl Recent {
    /// The volume, if it is known, whatever its revision.
    pub(super) fn any(&self, id: VolumeId) -> Option<Arc<Seen>> {
        let mut generations = self.generations();
        if let Some(known) = generations.young.get(&id) {
            return Some(Arc::clone(&known.volume));
        }
        let known = generations.old.remove(&id)?;
        let volume = Arc::clone(&known.volume);
        generations.add(known);
        Some(volume)
    }

    /// The volume, if it is known as it was at this revision.
    pub(super) fn at(&self, id: VolumeId, revision: u64) -> Option<Arc<Seen>> {
        self.any(id).filter(|volume| volume.revision == revision)
    }

    /// Remembers what was read from a row whose texts have this length.
    pub(super) fn put(&self, volume: Arc<Seen>, texts: usize) {
        self.generations().add(Known { volume, bytes: LEAST_ROW + texts });
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        // Maps of copies stay usable whatever panicked beside them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn add(&mut self, known: Known) {
        if self.bytes + known.bytes > MOST {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += known.bytes;
        if let Some(before) = self.young.insert(known.volume.id, known) {
            self.bytes -= before.bytes;
        }
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
            recent.put(volume(), MOST / 4);
            assert!(recent.any(asked.id).is_some());
            let generations = recent.generations();
            let bytes = |known: &HashMap<VolumeId, Known>| known.values().map(|known| known.bytes).sum::<usize>();
            assert!(bytes(&generations.young) <= MOST && bytes(&generations.old) <= MOST);
            assert_eq!(bytes(&generations.young), generations.bytes);
        }
        assert!(recent.any(other.id).is_none());
    }
}
