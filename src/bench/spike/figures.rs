//! The figures that a run comes to, each declared once: what it is called, its unit, and which way is better. Tables, thresholds and
//! comparisons are made of them.

use super::report::{Quantiles, Run};
use super::words::{Unit, show};

pub struct Figure {
    /// As a threshold names it.
    pub name: &'static str,
    /// As a table does.
    pub title: &'static str,
    pub unit: Unit,
    pub better: Better,
    /// None: it was not measured, or there was nothing to measure. Infinite: it never came.
    pub of: fn(&Run) -> Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    Less,
    More,
    /// What is better depends on what for.
    Neither,
}

impl Figure {
    pub fn shown(&self, run: &Run) -> Option<String> {
        (self.of)(run).map(|value| show(self.unit, value))
    }
}

/// In the order of a table.
pub const FIGURES: &[Figure] = &[
    figure("due", "requests", Unit::Count, Better::Neither, |run| {
        some(run.load.due)
    }),
    figure("good", "served", Unit::Count, Better::Neither, |run| {
        some(run.answers.good)
    }),
    figure("served", "share served", Unit::Share, Better::More, |run| {
        (run.load.due > 0).then(|| run.answers.good as f64 / run.load.due as f64)
    }),
    figure(
        "stale",
        "of them stale",
        Unit::Count,
        Better::Neither,
        |run| some(run.answers.stale),
    ),
    figure("failed", "not served", Unit::Count, Better::Less, |run| {
        some(failed(run))
    }),
    figure(
        "refused",
        "error answers",
        Unit::Count,
        Better::Less,
        |run| some(refused(run)),
    ),
    figure("errors", "no answer", Unit::Count, Better::Less, |run| {
        some(errors(run))
    }),
    figure("wrong", "wrong pages", Unit::Count, Better::Less, |run| {
        some(run.wrong.sum())
    }),
    figure("p50", "p50", Unit::Millis, Better::Less, |run| {
        of(&run.latency, |q| q.p50)
    }),
    figure("p90", "p90", Unit::Millis, Better::Less, |run| {
        of(&run.latency, |q| q.p90)
    }),
    figure("p99", "p99", Unit::Millis, Better::Less, |run| {
        of(&run.latency, |q| q.p99)
    }),
    figure("p99.9", "p99.9", Unit::Millis, Better::Less, |run| {
        of(&run.latency, |q| q.p999)
    }),
    figure("max", "longest", Unit::Millis, Better::Less, |run| {
        of(&run.latency, |q| q.max)
    }),
    figure("mean", "mean", Unit::Millis, Better::Less, |run| {
        of(&run.latency, |q| q.mean)
    }),
    figure(
        "ttfb_p50",
        "first byte p50",
        Unit::Millis,
        Better::Less,
        |run| of(&run.first_second, |q| q.p50),
    ),
    figure(
        "ttfb_p99",
        "first byte p99",
        Unit::Millis,
        Better::Less,
        |run| of(&run.first_second, |q| q.p99),
    ),
    figure("goodput", "goodput", Unit::Share, Better::More, |run| {
        (run.demand > 0.0).then(|| run.goodput / run.demand)
    }),
    figure("hits", "from its memory", Unit::Share, Better::More, hits),
    figure("fetches", "fetches", Unit::Count, Better::Less, |run| {
        origin(run, |o| o.fetches as f64)
    }),
    figure(
        "fetches_per_page",
        "fetches a page",
        Unit::Times,
        Better::Less,
        |run| origin(run, |o| o.fetches_per_page()),
    ),
    figure(
        "origin_peak",
        "most at once",
        Unit::Count,
        Better::Less,
        |run| origin(run, |o| o.peak as f64),
    ),
    figure(
        "origin_failed",
        "failed there",
        Unit::Count,
        Better::Less,
        |run| origin(run, |o| o.failed as f64),
    ),
    figure(
        "origin_wasted",
        "done for nobody",
        Unit::Count,
        Better::Less,
        |run| origin(run, |o| o.wasted as f64),
    ),
    figure(
        "oldest",
        "oldest page",
        Unit::Seconds,
        Better::Less,
        |run| run.oldest_s,
    ),
    figure("recovery", "recovery", Unit::Seconds, Better::Less, |run| {
        run.recovery_s.or(run.fault_end_s.map(|_| f64::INFINITY))
    }),
    figure("cpu", "CPU an answer", Unit::Micros, Better::Less, |run| {
        run.process
            .as_ref()
            .map(|process| process.cpu_us_per_answer)
    }),
    figure("memory", "peak memory", Unit::Bytes, Better::Less, |run| {
        run.process
            .as_ref()
            .map(|process| process.peak_memory_bytes as f64)
    }),
];

/// The figure of this name, which is there.
pub fn known(name: &str) -> &'static Figure {
    let found = FIGURES.iter().find(|figure| figure.name == name);
    found.expect("a figure that is declared above")
}

/// Whole answers that are none to be glad of.
pub fn refused(run: &Run) -> u64 {
    let statuses = run.answers.by_status.iter();
    statuses
        .filter(|(status, _)| **status >= 400)
        .map(|(_, n)| n)
        .sum()
}

pub fn errors(run: &Run) -> u64 {
    run.answers.errors.values().sum()
}

pub fn failed(run: &Run) -> u64 {
    run.load.due.saturating_sub(run.answers.good)
}

/// How a good answer was come by, of the words that proxies have for it ([`super::super::wire::came_by`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Come {
    Memory,
    Stale,
    Joined,
    Fetched,
    Other,
}

impl Come {
    pub fn by(word: &str) -> Come {
        let word = word.to_ascii_lowercase();
        let mut parts = word.split([' ', ';', ',']).filter(|part| !part.is_empty());
        let detailed = word.contains(' ');
        match parts.next() {
            _ if word.contains("collapsed") => Come::Joined,
            // Why it was not a fresh one stands behind it.
            Some("hit") if detailed => Come::Stale,
            Some("hit") => Come::Memory,
            Some("stale" | "updating") => Come::Stale,
            None => Come::Other,
            Some(_) => Come::Fetched,
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Come::Memory => "from memory",
            Come::Stale => "from memory, stale",
            Come::Joined => "joined a fetch",
            Come::Fetched => "fetched",
            Come::Other => "not told",
        }
    }
}

fn hits(run: &Run) -> Option<f64> {
    let cache = &run.answers.cache;
    let told = |is: fn(Come) -> bool| -> u64 {
        cache
            .iter()
            .filter(|(word, _)| is(Come::by(word)))
            .map(|(_, n)| n)
            .sum()
    };
    let all = told(|come| come != Come::Other);
    let hits = told(|come| matches!(come, Come::Memory | Come::Stale));
    (all > 0).then(|| hits as f64 / all as f64)
}

fn some(count: u64) -> Option<f64> {
    Some(count as f64)
}

fn of(quantiles: &Quantiles, which: fn(&Quantiles) -> f64) -> Option<f64> {
    (quantiles.count > 0).then(|| which(quantiles))
}

fn origin(run: &Run, which: fn(&super::report::Origin) -> f64) -> Option<f64> {
    run.origin.as_ref().map(which)
}

const fn figure(
    name: &'static str,
    title: &'static str,
    unit: Unit,
    better: Better,
    of: fn(&Run) -> Option<f64>,
) -> Figure {
    Figure {
        name,
        title,
        unit,
        better,
        of,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::report::{Origin, Process};
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let names: BTreeSet<_> = FIGURES.iter().map(|figure| figure.name).collect();
        assert_eq!(names.len(), FIGURES.len());
    }

    #[test]
    fn what_was_not_measured_is_no_zero() {
        let bare = Run::default();
        let there: Vec<_> = FIGURES
            .iter()
            .filter(|figure| (figure.of)(&bare).is_some())
            .map(|figure| figure.name)
            .collect();
        let counted = [
            "due", "good", "stale", "failed", "refused", "errors", "wrong",
        ];
        assert_eq!(there, counted);
    }

    #[test]
    fn each_figure_is_its_own() {
        let mut run = Run {
            goodput: 90.0,
            demand: 100.0,
            oldest_s: Some(7.0),
            fault_end_s: Some(3.0),
            origin: Some(Origin {
                fetches: 6,
                pages: 4,
                capacity: 8,
                peak: 9,
                failed: 10,
                wasted: 11,
            }),
            process: Some(Process {
                cpu_s: 1.0,
                cpu_us_per_answer: 12.0,
                peak_memory_bytes: 13,
            }),
            ..Run::default()
        };
        run.load.due = 100;
        run.answers.good = 80;
        run.answers.stale = 5;
        run.answers.by_status = [(200, 80), (304, 1), (429, 2), (503, 3)].into();
        run.answers.errors = [("closed".into(), 4), ("timeout".into(), 5)].into();
        run.answers.cache = [("hit".into(), 60), ("uri-miss".into(), 20)].into();
        run.wrong.torn = 14;
        let figure = |name: &str| (known(name).of)(&run).unwrap_or(f64::NAN);
        for (name, value) in [
            ("served", 0.8),
            ("failed", 20.0),
            ("refused", 5.0),
            ("errors", 9.0),
            ("wrong", 14.0),
            ("goodput", 0.9),
            ("hits", 0.75),
            ("fetches_per_page", 1.5),
            ("origin_peak", 9.0),
            ("origin_failed", 10.0),
            ("origin_wasted", 11.0),
            ("oldest", 7.0),
            ("recovery", f64::INFINITY),
            ("cpu", 12.0),
            ("memory", 13.0),
        ] {
            assert_eq!(figure(name), value, "{name}");
        }
    }

    #[test]
    fn words_of_other_proxies() {
        for (word, come) in [
            ("hit", Come::Memory),
            ("HIT", Come::Memory),
            ("hit sie", Come::Stale),
            ("stale", Come::Stale),
            ("updating", Come::Stale),
            ("uri-miss", Come::Fetched),
            ("expired", Come::Fetched),
            ("revalidated", Come::Fetched),
            ("uri-miss collapsed", Come::Joined),
            ("", Come::Other),
        ] {
            assert_eq!(Come::by(word), come, "{word}");
        }
    }
}
