//! What bodies, heads and windows weigh, counted from allocation to the last holder's drop.
//!
//! A page that was evicted is not gone while somebody reads it. So the count is tied to the bytes themselves: a piece
//! of body carries its [`Charge`], and whoever drops the last handle to it gives the bytes back. Images of hot pages have
//! an account of the same kind beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// What one piece costs beside its bytes: the owner, the handle, the allocator's header.
const PIECE_OVERHEAD: usize = 112;

/// The process's account of cache memory, in bytes, under one cap.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    /// Of that by limits, for their clients.
    by_clients: AtomicUsize,
    cap: usize,
}

impl Memory {
    /// An account that holds at most `cap` bytes.
    pub fn new(cap: usize) -> Arc<Memory> {
        Arc::new(Memory {
            used: AtomicUsize::new(0),
            by_clients: AtomicUsize::new(0),
            cap,
        })
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub fn cap(&self) -> usize {
        self.cap
    }

    /// Whether windows and spools should shrink to their floor: less than a tenth is left.
    pub fn is_tight(&self) -> bool {
        self.used() > self.cap - self.cap / 10
    }

    /// Takes `bytes` from the account, or nothing if they don't fit.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        self.charge_below(bytes, self.cap)
    }

    /// The same for what must leave an eighth to others: long-lived windows, beside which pages are still to be fetched.
    pub fn charge_modestly(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        self.charge_below(bytes, self.cap / 8 * 7)
    }

    /// The same for what limits remember of clients: all of it has a ninth of the account at most, for it is not thrown away
    /// as pages are, and strangers choose how many they are.
    pub fn charge_for_clients(self: &Arc<Self>, bytes: usize) -> Option<ForClients> {
        let charge = self.charge(bytes)?;
        let sum = self.by_clients.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let charge = ForClients { charge };
        (sum <= self.cap / 9).then_some(charge)
    }

    fn charge_below(self: &Arc<Self>, bytes: usize, limit: usize) -> Option<Charge> {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit)
            })
            .ok()?;
        Some(Charge {
            memory: Arc::clone(self),
            bytes,
        })
    }

    /// A piece of body that gives its bytes back when its last holder drops it, or nothing if it doesn't fit. Bodies leave
    /// an eighth of the account, so that what they fill it with never keeps a small request from being made.
    pub fn hold(self: &Arc<Self>, piece: Bytes) -> Option<Bytes> {
        let charge = self.charge_modestly(weight(piece.len()))?;
        Some(held(piece, charge))
    }
}

/// What an allocation of `len` bytes really takes: allocators round up to size classes an eighth of a power of two apart.
pub fn weight(len: usize) -> usize {
    let step = (len.max(64).next_power_of_two() / 16).max(16);
    len.next_multiple_of(step) + PIECE_OVERHEAD
}

/// Bytes taken from the account; dropping it gives them back.
#[derive(Debug)]
pub struct Charge {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Charge {
    /// Gives `bytes` of this charge to one of their own, if there are so many left.
    pub fn split(&mut self, bytes: usize) -> Option<Charge> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(Charge {
            memory: Arc::clone(&self.memory),
            bytes,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes taken for limits' clients; dropping it gives them back.
#[derive(Debug)]
pub struct ForClients {
    charge: Charge,
}

impl Drop for ForClients {
    fn drop(&mut self) {
        let Charge { memory, bytes } = &self.charge;
        memory.by_clients.fetch_sub(*bytes, Ordering::Relaxed);
    }
}

/// A piece of body that gives `charge` back when its last holder drops it.
pub fn held(piece: Bytes, charge: Charge) -> Bytes {
    Bytes::from_owner(Held {
        piece,
        _charge: charge,
    })
}

struct Held {
    piece: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_counted_until_its_last_holder_drops_it() {
        let memory = Memory::new(10_000);
        let piece = memory.hold(Bytes::from(vec![7; 4_000])).expect("fits");
        let reader = piece.slice(100..200);
        drop(piece);
        assert_eq!(
            memory.used(),
            weight(4_000),
            "a reader of a part still holds the whole"
        );
        drop(reader);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_takes_nothing() {
        let memory = Memory::new(5_000);
        let first = memory.hold(Bytes::from(vec![0; 4_000])).expect("fits");
        assert!(memory.hold(Bytes::from(vec![0; 4_000])).is_none());
        assert_eq!(memory.used(), weight(4_000));
        drop(first);
        assert!(memory.hold(Bytes::from(vec![0; 4_000])).is_some());
    }

    #[test]
    fn clients_leave_most_of_it_to_pages() {
        let memory = Memory::new(9_000);
        let held: Vec<_> = (0..100)
            .filter_map(|_| memory.charge_for_clients(100))
            .collect();
        assert_eq!((held.len(), memory.used()), (10, 1_000));
        assert!(memory.charge(8_000).is_some());
        drop(held);
        assert_eq!(memory.used(), 0);
        assert!(memory.charge_for_clients(1_000).is_some());
        // What a config may ask for is there: a tenth of what it gives.
        for max_memory in [8 << 20, 256 << 20, 1 << 40] {
            let cap: usize = max_memory / 16 * 15 - max_memory / 64;
            assert!(max_memory / 10 <= cap / 9);
        }
    }

    #[test]
    fn weight_is_never_below_the_length_and_at_most_an_eighth_above() {
        for len in [0, 1, 63, 64, 1_000, 10_240, 65_536, 65_537, 1 << 24] {
            let rounded = weight(len) - PIECE_OVERHEAD;
            assert!(rounded >= len);
            assert!(rounded <= len + len / 8 + 64, "{len} became {rounded}");
        }
    }
}
