//! What was purged, and when.
//!
//! Purges of a tag, below a path, of a host and of everything search for nothing: each notes its generation under what it
//! covers, and a stored page is judged by these notes when it is next asked for. While no purge has come since a page was
//! judged last, that costs two loads and a comparison. A pass in the background judges all that nobody asks for, and frees
//! its memory; the notes that it has gone through are then forgotten, so that they never pile up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::entry::Entry;
use super::generation::Generations;
use super::memory::Memory;
use super::tags::Tags;
use crate::rules::prefixes::Prefixes;
use crate::rules::purge::{Epoch, Standing};

/// Notes on beginnings of places; where there are more, a pass is made at once.
const MOST: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Purges {
    pub generations: Arc<Generations>,
    pub tags: Arc<Tags>,
    /// The last one that left its pages where they were.
    latest: AtomicU64,
    /// One after the other, so that whoever sees `latest` sees all up to it.
    turn: Mutex<()>,
    /// By what their places begin with.
    starts: RwLock<Prefixes<Epoch>>,
    are_starts: AtomicBool,
}

impl Purges {
    /// `key`: tags are hashed with it; none: with one of the process's own.
    pub fn new(memory: &Arc<Memory>, key: Option<[u64; 2]>) -> Purges {
        let generations = Arc::default();
        Purges {
            tags: match key {
                None => Tags::new(memory, &generations),
                Some(key) => Tags::keyed(memory, &generations, key),
            },
            generations,
            latest: AtomicU64::new(0),
            turn: Mutex::default(),
            starts: RwLock::default(),
            are_starts: AtomicBool::new(false),
        }
    }

    /// What was found right under this is still right while it stays the same.
    pub fn latest(&self) -> u64 {
        self.latest.load(Ordering::Acquire)
    }

    /// When a page's place was covered last, whatever its tags.
    pub fn covered(&self, place: &[u8]) -> Epoch {
        if !self.are_starts.load(Ordering::Acquire) {
            return Epoch::default();
        }
        let starts = self.starts.read();
        starts
            .of(place)
            .fold(Epoch::default(), |all, one| all.or(*one))
    }

    /// What is left of an entry at a place.
    pub fn left(&self, place: &[u8], entry: &Entry) -> Standing {
        let by_place = self.covered(place).leaves(entry.generation);
        by_place.max(entry.tags.left(entry.generation))
    }

    /// Purges what has a tag. How many entries that were.
    pub fn tag(&self, tag: &str, soft: bool) -> u64 {
        let _turn = self.turn.lock();
        let generation = self.generations.next();
        let entries = self.tags.purge(tag, generation, soft);
        self.latest.store(generation, Ordering::Release);
        entries
    }

    /// Purges all whose places begin so.
    pub fn start(&self, start: &[u8], soft: bool) {
        let _turn = self.turn.lock();
        let generation = self.generations.next();
        let mut starts = self.starts.write();
        starts.entry(start).raise(generation, soft);
        self.are_starts.store(true, Ordering::Release);
        drop(starts);
        self.latest.store(generation, Ordering::Release);
    }

    /// Whether a pass has to come before the next note.
    pub fn is_full(&self) -> bool {
        self.are_starts.load(Ordering::Acquire) && self.starts.read().len() >= MOST
    }

    pub fn notes(&self) -> usize {
        self.starts.read().len()
    }

    /// Every page was judged by all up to `seen`, and nothing is under way from before `oldest`: forgets what neither needs.
    /// With no room left for more, what is under way from before `seen` is given up.
    pub fn forget(&self, seen: u64, oldest: u64) {
        let mut starts = self.starts.write();
        starts.retain(|epoch| epoch.latest() > seen.min(oldest));
        if starts.len() >= MOST {
            self.generations.raise_floor(seen);
            starts.retain(|epoch| epoch.latest() > seen);
        }
        self.are_starts.store(!starts.is_empty(), Ordering::Release);
        drop(starts);
        self.tags.forget(oldest);
    }
}
