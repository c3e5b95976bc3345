//! A map of bounded size that forgets what is oldest.

use std::collections::HashMap;
use std::hash::Hash;

use crate::domain::UnixTime;

/// A map that holds at most so many entries. When it is full, the older half goes: that is one pass over the map for
/// every half of it that was added.
pub(super) struct Recent<K, V> {
    entries: HashMap<K, (UnixTime, V)>,
    capacity: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity: capacity.max(1) }
    }

    /// The value, when it was put no earlier than `since`.
    pub(super) fn get(&self, key: &K, since: UnixTime) -> Option<&V> {
        self.entries.get(key).filter(|(put, _)| *put >= since).map(|(_, value)| value)
    }

    /// The value, to be changed without being put anew.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    pub(super) fn put(&mut self, key: K, now: UnixTime, value: V) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.forget_older_half();
        }
        self.entries.insert(key, (now, value));
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    fn forget_older_half(&mut self) {
        let mut times: Vec<_> = self.entries.values().map(|(put, _)| *put).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let mut excess = self.entries.len() - middle;
        // Many may share the median's millisecond; only as many as needed go.
        self.entries.retain(|_, (put, _)| {
            let goes = *put <= *median && excess > 0;
            excess -= usize::from(goes);
            !goes
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVER: UnixTime = UnixTime(i64::MIN);

    #[test]
    fn a_full_map_forgets_the_oldest_and_never_grows_above_its_bound() {
        let mut recent = Recent::new(8);
        for key in 0..1_000 {
            recent.put(key, UnixTime(key), ());
            assert!(recent.len() <= 8);
            assert!((key - 3..=key).all(|young| young < 0 || recent.get(&young, EVER).is_some()));
        }
    }

    #[test]
    fn a_full_map_of_one_moment_keeps_half() {
        let mut recent = Recent::new(8);
        for key in 0..9 {
            recent.put(key, UnixTime(0), ());
        }
        assert_eq!(recent.len(), 5);
        Recent::new(1).put(1, UnixTime(0), ());
    }

    #[test]
    fn what_was_put_too_early_is_not_there() {
        let mut recent = Recent::new(8);
        recent.put(1, UnixTime(10), 'a');
        assert_eq!(recent.get(&1, UnixTime(10)), Some(&'a'));
        assert_eq!(recent.get(&1, UnixTime(11)), None);
        recent.remove(&1);
        assert_eq!(recent.get(&1, EVER), None);
    }
}
