//! Generations: what lies between two purges or invalidations, numbered, and which of them fetches are under way of.
//!
//! A fetch belongs to the generation in which it begins. What covers a page and came later means what that fetch brings; so
//! the record of a purge is needed until all is gone that began before it. [`Generations::oldest`] says when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// See the module.
#[derive(Debug, Default)]
pub struct Generations {
    current: AtomicU64,
    /// How many fetches are under way of each.
    air: Mutex<BTreeMap<u64, usize>>,
    /// What began before is neither stored nor joined.
    floor: AtomicU64,
}

impl Generations {
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    /// Begins the next one, and returns it.
    pub fn next(&self) -> u64 {
        self.current.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// A fetch begins, in the current one.
    pub fn begin(self: &Arc<Self>) -> Begun {
        let mut air = self.air.lock();
        let generation = self.current();
        *air.entry(generation).or_default() += 1;
        Begun {
            generations: Arc::clone(self),
            generation,
        }
    }

    /// The first of which a fetch is under way, else the current one. Whatever begins later is of this or a later one.
    pub fn oldest(&self) -> u64 {
        let air = self.air.lock();
        let first = air.keys().next().copied();
        first.unwrap_or_else(|| self.current())
    }

    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::Acquire)
    }

    /// From now on nothing is stored of fetches that began before `generation`: there is no room to remember what was
    /// purged since.
    pub fn raise_floor(&self, generation: u64) {
        self.floor.fetch_max(generation, Ordering::AcqRel);
    }
}

/// A fetch under way; dropping it ends it.
#[derive(Debug)]
pub struct Begun {
    generations: Arc<Generations>,
    generation: u64,
}

impl Begun {
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut air = self.generations.air.lock();
        if let Some(fetches) = air.get_mut(&self.generation) {
            *fetches -= 1;
            if *fetches == 0 {
                air.remove(&self.generation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_under_way_is_known() {
        let generations = Arc::new(Generations::default());
        assert_eq!((generations.next(), generations.oldest()), (1, 1));
        let (first, same) = (generations.begin(), generations.begin());
        generations.next();
        let second = generations.begin();
        generations.next();
        assert_eq!((first.generation(), second.generation()), (1, 2));
        assert_eq!(generations.oldest(), 1);
        drop(first);
        assert_eq!(generations.oldest(), 1);
        drop(same);
        assert_eq!(generations.oldest(), 2);
        drop(second);
        assert_eq!(generations.oldest(), 3);
    }

    #[test]
    fn a_floor_only_rises() {
        let generations = Generations::default();
        generations.raise_floor(5);
        generations.raise_floor(3);
        assert_eq!(generations.floor(), 5);
    }
}
