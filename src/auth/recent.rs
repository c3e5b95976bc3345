//! A map of bounded size that forgets the entry that was put the longest ago.

use std::hash::Hash;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::domain::UnixTime;

/// A map that holds at most so many entries, and knows when each was put.
pub(super) struct Recent<K: Eq + Hash, V>(LruCache<K, (UnixTime, V)>);

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self(LruCache::new(NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN)))
    }

    /// The value, when it was put no earlier than `since`.
    pub(super) fn get(&self, key: &K, since: UnixTime) -> Option<&V> {
        self.0.peek(key).filter(|(put, _)| *put >= since).map(|(_, value)| value)
    }

    /// The value, to be changed without being put anew.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.peek_mut(key).map(|(_, value)| value)
    }

    pub(super) fn put(&mut self, key: K, now: UnixTime, value: V) {
        self.0.put(key, (now, value));
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.0.pop(key);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVER: UnixTime = UnixTime(i64::MIN);

    #[test]
    fn a_full_map_forgets_the_oldest_and_never_grows_above_its_bound() {
        let mut recent = Recent::new(8);
        recent.put(0, UnixTime(0), ());
        for key in 1..1_000 {
            recent.put(key, UnixTime(key), ());
            // It is young as long as it is put, and not for being looked at.
            recent.put(0, UnixTime(key), ());
            assert!(recent.len() <= 8);
            assert!(((key - 6).max(1)..=key).all(|young| recent.get(&young, EVER).is_some()));
        }
        assert!(recent.get(&992, EVER).is_none() && recent.get(&0, EVER).is_some());
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
