//! The two clocks as the rules see them: values handed in, never read here.

use std::time::Duration;

/// Monotonic milliseconds since the process started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `d` later, to the millisecond below.
    pub fn after(self, d: Duration) -> Moment {
        Moment(self.0.saturating_add(millis(d)))
    }

    /// How long ago `earlier` was; zero if it is yet to come.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read once per wake-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// For every measure of elapsed time: it never steps.
    pub mono: Moment,
    /// Unix seconds, for `Date` alone: it may step either way.
    pub wall: u64,
}

/// Whole milliseconds of a duration, at most `u64::MAX`.
pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_adds_and_subtracts_in_milliseconds() {
        let start = Moment(1_500);
        assert_eq!(start.after(Duration::from_micros(2_999)), Moment(1_502));
        assert_eq!(Moment(4_500).since(start), Duration::from_secs(3));
    }

    #[test]
    fn time_never_runs_backwards_or_over() {
        assert_eq!(Moment(5).since(Moment(9)), Duration::ZERO);
        assert_eq!(Moment(7).after(Duration::MAX), Moment(u64::MAX));
    }
}
