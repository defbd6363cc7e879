//! How often somebody may come: the generic cell rate algorithm (ITU-T I.371, annex A), a token bucket that is kept as one
//! number.
//!
//! That number, the *cell*, is when the bucket would be full again. Each request moves it on by what it costs; a request
//! after which it would be further ahead than a whole bucket takes to fill is refused. A cell in the past is a full
//! bucket, so a client that has not been seen, or not for long, is zero.
//!
//! Times are nanoseconds of a clock that need not be a good one. A step forwards fills the bucket as the time would have; a
//! step backwards takes out as much, but never more than all there is and may be owed: nobody is shut out for the length of
//! the step.

use std::time::Duration;

/// Cells count in parts of a nanosecond, so that what a request costs is hardly rounded: at a million a second by less than
/// a ten-thousandth, at a thousand by less than a ten-millionth. In 64 bits that is good for 36 years.
const PARTS: u64 = 16;
const MICROSECOND: u64 = 1_000 * PARTS;

/// The longest that a bucket may take to fill.
pub const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// A rate and what it allows at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gcra {
    /// What a request of cost 1 moves the cell by. Rounded up, so never too little.
    interval: u64,
    /// What a full bucket takes to fill.
    capacity: u64,
    /// How far beyond that a request may come, if it waits.
    patience: u64,
    /// How far beyond that those are put who go on though they were refused.
    penalty: u64,
    /// How far beyond that a cell may be moved afterwards.
    debt: u64,
}

/// When a client's bucket would be full again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Cell(pub u64);

/// What becomes of a request, and of its client's cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Admit {
        cell: Cell,
        /// How many more of cost 1 would be admitted at once.
        remaining: u64,
        /// When the bucket is full.
        reset: Duration,
    },
    /// It has a place, which is so long from now.
    Wait { cell: Cell, wait: Duration },
    /// After `wait`, and not before, it would be admitted if nobody else came.
    Refuse { cell: Cell, wait: Duration },
}

impl Gcra {
    /// `count` every `per`, and `burst` at once. None: out of bounds (nothing at all, more than a million a second, or a
    /// bucket that takes longer than [`LONGEST`] to fill).
    pub fn new(count: u64, per: Duration, burst: u64) -> Option<Gcra> {
        let per = u64::try_from(per.as_nanos()).ok()?.checked_mul(PARTS)?;
        let interval = per.checked_add(count.checked_sub(1)?)? / count;
        let capacity = interval.checked_mul(burst)?;
        let fits = per / count >= MICROSECOND && capacity <= parts(LONGEST);
        (fits && burst > 0).then_some(Gcra {
            interval,
            capacity,
            patience: 0,
            penalty: 0,
            debt: 0,
        })
    }

    /// Requests that are too early may wait for so long.
    pub fn patient(self, most: Duration) -> Gcra {
        Gcra {
            patience: parts(most.min(LONGEST)),
            ..self
        }
    }

    /// Refused requests count like others, until their client has so long to wait at most.
    pub fn punishing(self, most: Duration) -> Gcra {
        Gcra {
            penalty: parts(most.min(LONGEST)),
            ..self
        }
    }

    /// What requests cost is known afterwards only: then they may owe as much as a whole bucket.
    pub fn lending(self) -> Gcra {
        Gcra {
            debt: self.capacity,
            ..self
        }
    }

    /// `now`: nanoseconds. `cost` 0 asks whether there is no debt.
    pub fn decide(&self, cell: Cell, now: u64, cost: u64) -> Verdict {
        let now = now.saturating_mul(PARTS);
        let before = self.believed(cell, now);
        let full = now.saturating_add(self.capacity);
        let takes = self.takes(cost);
        let after = before.max(now).saturating_add(takes);
        if after <= full {
            return Verdict::Admit {
                cell: Cell(after),
                remaining: (full - after) / self.interval,
                reset: whole(after - now),
            };
        }
        if after - full <= self.patience {
            return Verdict::Wait {
                cell: Cell(after),
                wait: whole(after - full),
            };
        }
        let punished = after.min(full.saturating_add(self.penalty)).max(before);
        match self.penalty {
            0 => Verdict::Refuse {
                cell: Cell(before),
                wait: whole(after - full),
            },
            _ => Verdict::Refuse {
                cell: Cell(punished),
                wait: whole(punished.saturating_add(takes).saturating_sub(full)),
            },
        }
    }

    /// Takes what is known only afterwards, as far as may be owed.
    pub fn charge(&self, cell: Cell, now: u64, cost: u64) -> Cell {
        let now = now.saturating_mul(PARTS);
        let before = self.believed(cell, now).max(now);
        let after = before.saturating_add(self.takes(cost));
        Cell(after.min(now.saturating_add(self.furthest())).max(before))
    }

    /// Gives back what was taken for a request that did not come through.
    pub fn refund(&self, cell: Cell, cost: u64) -> Cell {
        Cell(cell.0.saturating_sub(self.takes(cost)))
    }

    /// Whether the client is as good as one that was never seen.
    pub fn is_full(&self, cell: Cell, now: u64) -> bool {
        cell.0 <= now.saturating_mul(PARTS)
    }

    /// How long the bucket takes to fill, in parts that only compare.
    pub fn used(&self, cell: Cell, now: u64) -> u64 {
        let now = now.saturating_mul(PARTS);
        self.believed(cell, now).saturating_sub(now)
    }

    /// Whether so much is more than half a bucket.
    pub fn is_over_half(&self, used: u64) -> bool {
        used > self.capacity / 2
    }

    fn takes(&self, cost: u64) -> u64 {
        self.interval.saturating_mul(cost)
    }

    fn furthest(&self) -> u64 {
        self.capacity + self.patience.max(self.penalty).max(self.debt)
    }

    /// No cell is further ahead than that, unless the clock went back.
    fn believed(&self, cell: Cell, now: u64) -> u64 {
        cell.0.min(now.saturating_add(self.furthest()))
    }
}

fn parts(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).map_or(u64::MAX, |nanos| nanos.saturating_mul(PARTS))
}

/// Rounded up: who comes then is not too early.
fn whole(parts: u64) -> Duration {
    Duration::from_nanos(parts.div_ceil(PARTS))
}

mod part;
#[cfg(test)]
mod tests;
