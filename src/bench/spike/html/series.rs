//! A run over time, in so few points that a page stays small and a line can be read.

use super::super::report::{Run, Slice};

/// More slices than these are drawn as one.
const POINTS: usize = 160;
/// What is larger is no figure of a run.
const LARGEST: f64 = 1e12;

pub struct Series {
    pub slices: Vec<Slice>,
    /// How long each lasts, in seconds.
    pub each: f64,
}

impl Series {
    /// None if there is nothing to draw.
    pub fn of(run: &Run) -> Option<Series> {
        if run.slices.is_empty() || !(1e-3..LARGEST).contains(&run.slice_s) {
            return None;
        }
        let together = run.slices.len().div_ceil(POINTS);
        Some(Series {
            slices: run.slices.chunks(together).map(one).collect(),
            each: run.slice_s * together as f64,
        })
    }

    pub fn seconds(&self) -> f64 {
        self.each * self.slices.len() as f64
    }

    /// The middle of a slice, and what it has; none where it has nothing.
    pub fn points(&self, of: impl Fn(&Slice) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
        let point = |(at, slice): (usize, &Slice)| {
            let value = of(slice).filter(|value| value.is_finite());
            (
                (at as f64 + 0.5) * self.each,
                value.map(|value| value.clamp(0.0, LARGEST)),
            )
        };
        self.slices.iter().enumerate().map(point).collect()
    }

    pub fn rate(&self, count: u64) -> f64 {
        count as f64 / self.each
    }
}

/// Neighbours as one: counts add up, of p99 and the longest the worst counts, p50 and what is in flight are averages.
fn one(slices: &[Slice]) -> Slice {
    let sum = |of: fn(&Slice) -> u64| slices.iter().map(of).fold(0, u64::saturating_add);
    let worst = |of: fn(&Slice) -> f64| slices.iter().map(of).fold(0.0, f64::max);
    let good = sum(|slice| slice.good);
    let weighed = slices
        .iter()
        .map(|slice| slice.p50.min(LARGEST) * slice.good as f64);
    Slice {
        due: sum(|slice| slice.due),
        good,
        stale: sum(|slice| slice.stale),
        refused: sum(|slice| slice.refused),
        errors: sum(|slice| slice.errors),
        hits: sum(|slice| slice.hits),
        p50: weighed.sum::<f64>() / good.max(1) as f64,
        p99: worst(|slice| slice.p99),
        max: worst(|slice| slice.max),
        origin_fetches: sum(|slice| slice.origin_fetches),
        origin_in_flight: slices
            .iter()
            .map(|slice| slice.origin_in_flight.min(LARGEST))
            .sum::<f64>()
            / slices.len() as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(good: u64, p50: f64, p99: f64, flying: f64) -> Slice {
        Slice {
            due: good + 1,
            good,
            p50,
            p99,
            origin_in_flight: flying,
            ..Slice::default()
        }
    }

    #[test]
    fn neighbours_become_one_without_hiding_the_worst() {
        let pair = [slice(30, 1.0, 5.0, 2.0), slice(10, 5.0, 900.0, 4.0)];
        let run = Run {
            slices: std::iter::repeat_n(pair, 160).flatten().collect(),
            slice_s: 0.5,
            ..Run::default()
        };
        let series = Series::of(&run).expect("slices");
        assert_eq!(
            (series.slices.len(), series.each, series.seconds()),
            (160, 1.0, 160.0)
        );
        let first = &series.slices[0];
        assert_eq!(
            (
                first.due,
                first.good,
                first.p50,
                first.p99,
                first.origin_in_flight
            ),
            (42, 40, 2.0, 900.0, 3.0)
        );
        assert_eq!(series.rate(first.good), 40.0);
        assert_eq!(
            series.points(|slice| Some(slice.p99))[1],
            (1.5, Some(900.0))
        );
    }

    #[test]
    fn few_slices_stay_as_they_are_and_none_is_nothing() {
        let mut run = Run {
            slices: vec![slice(1, 1.0, 1.0, 1.0); 160],
            slice_s: 0.25,
            ..Run::default()
        };
        assert_eq!(Series::of(&run).map(|series| series.each), Some(0.25));
        run.slice_s = 0.0;
        assert!(Series::of(&run).is_none());
        assert!(Series::of(&Run::default()).is_none());
    }
}
