//! What came of the tokens of late: a table of a fixed size, by their prints.
//!
//! A print belongs to one of many sets of eight, each under a lock of its own; in a full set the one that was asked for the
//! longest ago goes.

use parking_lot::Mutex;

const WAYS: usize = 8;

pub struct Seen<V> {
    /// A power of two of them.
    sets: Box<[Mutex<Set<V>>]>,
}

type Set<V> = [Option<Slot<V>>; WAYS];

#[derive(Clone, Copy)]
struct Slot<V> {
    print: [u64; 2],
    /// In whole seconds, when it was last asked for.
    used: u32,
    value: V,
}

impl<V: Copy> Seen<V> {
    /// With room for `most`, or a few more.
    pub fn new(most: usize) -> Seen<V> {
        let sets = most.div_ceil(WAYS).next_power_of_two();
        Seen {
            sets: (0..sets).map(|_| Mutex::new([None; WAYS])).collect(),
        }
    }

    /// `now`: seconds.
    pub fn get(&self, print: [u64; 2], now: u64) -> Option<V> {
        let mut set = self.set(print).lock();
        let found = set.iter_mut().flatten().find(|slot| slot.print == print)?;
        found.used = now as u32;
        Some(found.value)
    }

    pub fn put(&self, print: [u64; 2], value: V, now: u64) {
        let slot = Slot {
            print,
            used: now as u32,
            value,
        };
        let mut set = self.set(print).lock();
        // Its own place, else an empty one, else the oldest.
        let place = set.iter_mut().min_by_key(|place| match place {
            Some(held) if held.print == print => (0, 0),
            None => (1, 0),
            Some(held) => (2, held.used),
        });
        if let Some(place) = place {
            *place = Some(slot);
        }
    }

    fn set(&self, [first, _]: [u64; 2]) -> &Mutex<Set<V>> {
        &self.sets[first as usize & (self.sets.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_asked_for_the_longest_ago_goes() {
        let seen = Seen::new(1);
        for n in 0..8 {
            seen.put([0, n], n, n);
        }
        assert_eq!(seen.get([0, 0], 8), Some(0));
        seen.put([0, 8], 8, 9);
        assert_eq!(seen.get([0, 1], 10), None);
        for n in [0, 2, 3, 4, 5, 6, 7, 8] {
            assert_eq!(seen.get([0, n], 10), Some(n));
        }
        seen.put([0, 8], 80, 11);
        assert_eq!(seen.get([0, 8], 11), Some(80));
        assert_eq!(seen.get([0, 0], 11), Some(0), "its own place was taken");
    }

    #[test]
    fn both_halves_of_a_print_count_and_the_size_stays() {
        let seen = Seen::new(100);
        assert_eq!(seen.sets.len(), 16);
        for n in 0..10_000 {
            seen.put([n, n], n, 0);
        }
        let held = (0..10_000)
            .filter(|n| seen.get([*n, *n], 0) == Some(*n))
            .count();
        assert_eq!(held, 128);
        assert_eq!(seen.get([9_999, 0], 0), None);
        assert_eq!(seen.get([0, 9_999], 0), None);
    }
}
