//! How many requests one server may have at once: a number that is given, or one that is learned.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::rules::concurrency::{Begun, Came, Limit};

/// What one server may have.
#[derive(Debug, Clone)]
pub enum Room {
    Fixed(usize),
    Learned(Box<Limit>),
}

impl Room {
    /// `most`: so many, else learned.
    pub fn new(most: Option<usize>) -> Room {
        match most {
            Some(most) => Room::Fixed(most.max(1)),
            None => Room::Learned(Box::default()),
        }
    }

    pub fn most(&self) -> usize {
        match self {
            Room::Fixed(most) => *most,
            Room::Learned(limit) => limit.get(),
        }
    }

    /// A request begins. `now` is any clock's that never steps.
    pub fn begin(&mut self, now: Duration) -> Option<Begun> {
        match self {
            Room::Fixed(_) => None,
            Room::Learned(limit) => Some(limit.begin(now)),
        }
    }

    /// It has ended.
    pub fn end(&mut self, begun: Option<Begun>, now: Duration, came: Came) {
        if let (Room::Learned(limit), Some(begun)) = (self, begun) {
            limit.end(begun, now, came);
        }
    }
}

impl Default for Room {
    fn default() -> Room {
        Room::Fixed(usize::MAX)
    }
}

/// What became of a request, as far as it tells how much its server can take. Its exchange knows, its slot asks.
#[derive(Debug, Clone, Default)]
pub struct Fate(Arc<AtomicU8>);

const UNTOLD: u8 = 0;
const ANSWERED: u8 = 1;
const FAILED: u8 = 2;

impl Fate {
    /// It was, in its time, if it has not failed before.
    pub fn answered(&self) {
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        // Else it has.
        let _ = self.0.compare_exchange(UNTOLD, ANSWERED, set, fetch);
    }

    /// An overloaded server's word came, or none in time.
    pub fn failed(&self) {
        self.0.store(FAILED, Ordering::Relaxed);
    }

    pub fn came(&self) -> Came {
        match self.0.load(Ordering::Relaxed) {
            ANSWERED => Came::Answered,
            FAILED => Came::Failed,
            UNTOLD.. => Came::Untold,
        }
    }
}
