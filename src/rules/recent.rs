//! What came of requests of late: answers and failures, in slices of time that slide.

use super::time::Moment;

/// Slices that are looked back on.
pub const SLICES: u64 = 10;

/// Counts over [`SLICES`] slices of so many milliseconds each, the one that runs among them.
#[derive(Debug, Default, Clone)]
pub struct Recent<const SLICE: u64> {
    slices: [Came; SLICES as usize],
    /// The slice that was counted last, since the beginning of time.
    last: u64,
}

/// How many came so.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    pub answered: u32,
    pub failed: u32,
}

impl Came {
    pub fn all(self) -> u64 {
        u64::from(self.answered) + u64::from(self.failed)
    }

    /// And those.
    #[must_use]
    pub fn and(self, other: Came) -> Came {
        Came {
            answered: self.answered.saturating_add(other.answered),
            failed: self.failed.saturating_add(other.failed),
        }
    }
}

impl<const SLICE: u64> Recent<SLICE> {
    /// What is counted now.
    pub fn slice(&mut self, now: Moment) -> &mut Came {
        let slice = now.0 / SLICE;
        let passed = slice.saturating_sub(self.last).min(SLICES);
        for step in 0..passed {
            self.slices[((slice - step) % SLICES) as usize] = Came::default();
        }
        self.last = self.last.max(slice);
        &mut self.slices[(self.last % SLICES) as usize]
    }

    /// All that is not too long ago.
    pub fn sum(&mut self, now: Moment) -> Came {
        self.slice(now);
        self.slices
            .iter()
            .fold(Came::default(), |sum, came| sum.and(*came))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_ago_does_not_count() {
        let mut recent = Recent::<1_000>::default();
        for second in 0..30 {
            recent.slice(Moment(second * 1_000)).answered += 1;
            let counted = u64::from(recent.sum(Moment(second * 1_000 + 999)).answered);
            assert_eq!(counted, (second + 1).min(SLICES));
        }
        assert_eq!(recent.sum(Moment(38_999)).answered, 1);
        assert_eq!(recent.sum(Moment(39_000)), Came::default());
        recent.slice(Moment(90_000)).failed += 2;
        assert_eq!(recent.sum(Moment(90_000)).all(), 2);
    }
}
