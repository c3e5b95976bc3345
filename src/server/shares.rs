//! Shares of a limited resource: each key may hold the same number of units at once.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The counts of all keys that hold units.
#[derive(Debug)]
pub(super) struct Shares<K> {
    most: usize,
    held: Mutex<HashMap<K, usize>>,
}

/// One unit of a key's share, held until it is dropped.
pub(super) struct Share<K: Copy + Eq + Hash> {
    shares: Arc<Shares<K>>,
    key: K,
}

impl<K: Copy + Eq + Hash> Shares<K> {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// Takes a unit for this key; `None` if the key holds its whole share.
    pub(super) fn take(self: &Arc<Self>, key: K) -> Option<Share<K>> {
        let mut held = self.lock();
        let of_key = held.entry(key).or_default();
        // Only keys that hold units have an entry.
        if *of_key >= self.most {
            if self.most == 0 {
                held.remove(&key);
            }
            return None;
        }
        *of_key += 1;
        Some(Share { shares: self.clone(), key })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // The counts stay valid: each change leaves them consistent.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.shares.lock();
        if let Some(of_key) = held.get_mut(&self.key) {
            *of_key -= 1;
            if *of_key == 0 {
                held.remove(&self.key);
            }
        }
    }
}

impl<K: Copy + Eq + Hash + fmt::Debug> fmt::Debug for Share<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Share").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_as_many_as_one_may_and_nothing_is_kept_of_who_has_none() {
        let shares = Shares::new(2);
        let held = [shares.take('a'), shares.take('a'), shares.take('b')];
        assert!(held.iter().all(Option::is_some));
        assert!(shares.take('a').is_none());
        drop(held);
        assert!(shares.take('a').is_some());
        assert!(shares.lock().is_empty());
        let none = Shares::new(0);
        assert!(none.take('a').is_none() && none.lock().is_empty());
    }
}
