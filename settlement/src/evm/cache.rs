//! A bounded map in two generations: what was used since the last turn, and what was used before it.
//!
//! Invariant: it never holds more than twice its capacity, and a value inserted is the value got until it falls out.

use std::collections::HashMap;
use std::hash::Hash;

/// Least-recently-used by generation: a full young generation becomes the old one, and the old one is dropped.
#[derive(Debug)]
pub(crate) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Eq + Hash + Copy, V: Clone> Generations<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.insert(*key, value.clone());
        Some(value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.old = core::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_bounded_and_never_gives_a_stale_value() {
        let mut cache = Generations::new(8);
        for round in 0..200_u32 {
            for key in 0..24_u32 {
                cache.insert(key, round);
                assert_eq!(cache.get(&key), Some(round));
                assert!(cache.young.len() <= 8 && cache.old.len() <= 8);
            }
            for key in 0..24_u32 {
                assert!(cache.get(&key).is_none_or(|value| value == round));
            }
        }
    }
}
