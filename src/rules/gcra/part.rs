//! A rate that several share: each has a part of it, and what is left in a bucket can be handed on.

use std::time::Duration;

use super::{Cell, Gcra, PARTS};

/// The longest that a part's bucket may take to fill: so long that adding it to a time never saturates.
const SLOWEST: u64 = u64::MAX / 8;

impl Gcra {
    /// `share` of the rate, above 0 and at most 1, and `burst` at once, at least 1.
    pub fn part(&self, share: f64, burst: f64) -> Gcra {
        let slowest = SLOWEST as f64 / burst;
        let interval = (self.interval as f64 / share).ceil().min(slowest) as u64;
        let capacity = (interval as f64 * burst) as u64;
        Gcra {
            interval,
            capacity,
            debt: if self.debt > 0 { capacity } else { 0 },
            ..*self
        }
    }

    /// Requests of cost 1 a second.
    pub fn rate(&self) -> f64 {
        (PARTS * 1_000_000_000) as f64 / self.interval as f64
    }

    /// How many of cost 1 a full bucket admits at once.
    pub fn burst(&self) -> f64 {
        self.capacity as f64 / self.interval as f64
    }

    /// How many of cost 1 would be admitted at once, with the part of one that is not whole yet; below zero where they owe.
    pub fn tokens(&self, cell: Cell, now: u64) -> f64 {
        self.left(self.used(cell, now))
    }

    /// The same, where so much is [used](Gcra::used).
    pub fn left(&self, used: u64) -> f64 {
        (self.capacity as f64 - used as f64) / self.interval as f64
    }

    /// A bucket with so many left.
    pub fn holding(&self, tokens: f64, now: u64) -> Cell {
        let used = (self.capacity as f64 - tokens * self.interval as f64).max(0.0);
        Cell(now.saturating_mul(PARTS).saturating_add(used.ceil() as u64))
    }

    /// How many did not find room in a full bucket from `since` to `now`.
    pub fn spilled(&self, cell: Cell, since: u64, now: u64) -> f64 {
        let full = cell.0.max(since.saturating_mul(PARTS));
        now.saturating_mul(PARTS).saturating_sub(full) as f64 / self.interval as f64
    }

    /// What filling the whole bucket takes.
    pub fn fills_in(&self) -> Duration {
        Duration::from_nanos(self.capacity / PARTS)
    }
}
