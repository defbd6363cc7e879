//! Counters without a contended cache line: a shard for each thread, summed when somebody looks.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// One `T` a thread, as long as there are no more counting threads than shards; past that they
/// share, and stay right.
pub struct Sharded<T>(Box<[Padded<T>]>);

/// Two lines, since processors fetch them in pairs.
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> Sharded<T> {
    pub fn new() -> Sharded<T> {
        Sharded((0..shards()).map(|_| Padded(T::default())).collect())
    }
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Sharded<T> {
        Sharded::new()
    }
}

impl<T> Sharded<T> {
    /// This thread's.
    pub fn mine(&self) -> &T {
        // The length is a power of two.
        &self.0[slot() & (self.0.len() - 1)].0
    }

    pub fn each(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }

    pub fn sum(&self, part: impl Fn(&T) -> u64) -> u64 {
        self.each()
            .fold(0, |sum, shard| sum.wrapping_add(part(shard)))
    }
}

/// A count that only grows.
#[derive(Default)]
pub struct Counter(Sharded<AtomicU64>);

impl Counter {
    pub fn add(&self, by: u64) {
        self.0.mine().fetch_add(by, Relaxed);
    }

    pub fn total(&self) -> u64 {
        self.0.sum(|shard| shard.load(Relaxed))
    }
}

fn shards() -> usize {
    static SHARDS: OnceLock<usize> = OnceLock::new();
    // Twice the cores: the workers, and the few others that count.
    *SHARDS.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(4, usize::from);
        (2 * cores).next_power_of_two().clamp(4, 256)
    })
}

fn slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SLOT: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    match SLOT.get() {
        usize::MAX => {
            let mine = NEXT.fetch_add(1, Relaxed);
            SLOT.set(mine);
            mine
        }
        mine => mine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn more_threads_than_shards_lose_nothing() {
        let counter = Arc::new(Counter::default());
        let threads: Vec<_> = (0..4 * shards())
            .map(|_| {
                let counter = counter.clone();
                std::thread::spawn(move || (0..1000).for_each(|_| counter.add(3)))
            })
            .collect();
        let count = threads.len() as u64;
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(counter.total(), count * 3000);
    }
}
