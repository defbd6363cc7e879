//! The table of a scenario: a row for each figure, the targets side by side. It is what a terminal and a page show.

use std::collections::BTreeSet;

use super::figures::{Better, known};
use super::report::Run;
use super::sentence::{is_valid, kinds};
use super::words::{plain, show, whole};

pub struct Row {
    /// What stands over it, where that changes.
    pub part: &'static str,
    pub title: String,
    /// Whether it is a part of the row above.
    pub within: bool,
    /// One for each run, in their order.
    pub cells: Vec<Cell>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    pub text: String,
    /// Better than most: marked where several can be compared.
    pub best: bool,
}

/// What stands where nothing was measured.
pub const NONE: &str = "–";

/// Who served less than this part of what the best one did can't be the best in anything: to fail is quick and cheap.
const ENOUGH: f64 = 0.95;

pub fn rows(runs: &[&Run]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut part = |part: &'static str, names: &[&str]| {
        for name in names {
            if let Some(row) = row(part, name, runs) {
                rows.push(row);
            }
            rows.extend(below(part, name, runs));
        }
    };
    part(
        "Answers",
        &[
            "due", "good", "served", "stale", "refused", "errors", "wrong",
        ],
    );
    part(
        "Latency, of good answers",
        &["p50", "p90", "p99", "p99.9", "max"],
    );
    part(
        "First byte, in the spike's first second",
        &["ttfb_p50", "ttfb_p99"],
    );
    part("Goodput, while the spike lasted", &["goodput"]);
    part("Cache", &["hits", "oldest"]);
    part(
        "Origin",
        &[
            "fetches",
            "fetches_per_page",
            "origin_peak",
            "origin_failed",
            "origin_wasted",
        ],
    );
    part("Faults", &["recovery"]);
    part("What it took", &["cpu", "memory"]);
    rows
}

/// None if no run has it.
fn row(part: &'static str, name: &str, runs: &[&Run]) -> Option<Row> {
    let figure = known(name);
    let values: Vec<Option<f64>> = runs.iter().map(|run| (figure.of)(run)).collect();
    if values.iter().all(Option::is_none) {
        return None;
    }
    let best = best(figure.better, runs, &values);
    let cells = runs.iter().zip(&values).map(|(run, value)| Cell {
        text: match (name, value) {
            (_, None) => NONE.to_owned(),
            ("origin_peak", Some(peak)) => beside_capacity(run, *peak),
            (_, Some(value)) => show(figure.unit, *value),
        },
        best: value.is_some() && *value == best && is_valid(run),
    });
    Some(Row {
        part,
        title: figure.title.to_owned(),
        within: false,
        cells: cells.collect(),
    })
}

fn beside_capacity(run: &Run, peak: f64) -> String {
    let capacity = run.origin.as_ref().map_or(0, |origin| origin.capacity);
    format!("{} of {}", whole(peak as u64), whole(capacity as u64))
}

/// The best value, if it is one that not all have.
fn best(better: Better, runs: &[&Run], values: &[Option<f64>]) -> Option<f64> {
    let share = |run: &Run| (known("served").of)(run).unwrap_or(0.0);
    let most = runs
        .iter()
        .filter(|run| is_valid(run))
        .map(|run| share(run))
        .fold(0.0, f64::max);
    let judged = runs.iter().zip(values).filter(|(run, _)| is_valid(run));
    let all: Vec<f64> = judged.clone().filter_map(|(_, value)| *value).collect();
    let fit = judged
        .filter(|(run, _)| share(run) >= ENOUGH * most)
        .filter_map(|(_, value)| *value);
    let best = match better {
        Better::Less => fit.min_by(f64::total_cmp),
        Better::More => fit.max_by(f64::total_cmp),
        Better::Neither => None,
    };
    best.filter(|best| all.iter().any(|value| value != best))
}

/// The kinds of what a row counts, where there are any.
fn below(part: &'static str, name: &str, runs: &[&Run]) -> Vec<Row> {
    let counted = |title: String, count: &dyn Fn(&Run) -> u64| Row {
        part,
        title,
        within: true,
        cells: runs
            .iter()
            .map(|run| Cell {
                text: whole(count(run)),
                best: false,
            })
            .collect(),
    };
    match name {
        "refused" => {
            let statuses = runs.iter().flat_map(|run| run.answers.by_status.keys());
            let statuses: BTreeSet<u16> =
                statuses.copied().filter(|status| *status >= 400).collect();
            let of = |status: u16| {
                counted(status.to_string(), &move |run: &Run| {
                    run.answers.by_status.get(&status).copied().unwrap_or(0)
                })
            };
            statuses.into_iter().map(of).collect()
        }
        "errors" => {
            let kinds: BTreeSet<&String> = runs
                .iter()
                .flat_map(|run| run.answers.errors.keys())
                .collect();
            let of = |kind: &String| {
                counted(plain(kind), &|run: &Run| {
                    run.answers.errors.get(kind).copied().unwrap_or(0)
                })
            };
            kinds.into_iter().map(of).collect()
        }
        "wrong" => {
            let some = |at: &usize| runs.iter().any(|run| kinds(&run.wrong)[*at].1 > 0);
            let of = |at: usize| {
                let title = kinds(&runs[0].wrong)[at].0.to_owned();
                counted(title, &move |run: &Run| kinds(&run.wrong)[at].1)
            };
            (0..5).filter(some).map(of).collect()
        }
        "goodput" => {
            let rate = |title: &str, of: fn(&Run) -> f64| Row {
                part,
                title: title.to_owned(),
                within: true,
                cells: runs
                    .iter()
                    .map(|run| Cell {
                        text: show(super::words::Unit::Rate, of(run)),
                        best: false,
                    })
                    .collect(),
            };
            vec![
                rate("good answers", |run| run.goodput),
                rate("asked for", |run| run.demand),
            ]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::FIGURES;
    use super::super::sample;
    use super::*;

    fn find<'a>(rows: &'a [Row], title: &str) -> &'a Row {
        rows.iter()
            .find(|row| row.title == title)
            .unwrap_or_else(|| panic!("no row {title}"))
    }

    #[test]
    fn each_figure_has_its_row_and_none_is_empty() {
        let report = sample::report(1);
        let runs: Vec<&Run> = report.runs[8..].iter().collect();
        let rows = rows(&runs);
        for figure in FIGURES
            .iter()
            // What two others add up to, and what hides more than it tells.
            .filter(|figure| !matches!(figure.name, "failed" | "mean"))
        {
            assert_eq!(find(&rows, figure.title).cells.len(), 4, "{}", figure.name);
        }
        for row in &rows {
            assert!(
                row.cells.iter().any(|cell| cell.text != NONE),
                "{}",
                row.title
            );
        }
    }

    #[test]
    fn what_nobody_has_is_no_row() {
        let mut run = sample::report(1).runs.remove(0);
        run.process = None;
        run.origin = None;
        run.answers.errors.clear();
        let rows = rows(&[&run]);
        for part in ["Origin", "What it took", "Faults"] {
            assert!(rows.iter().all(|row| row.part != part), "{part}");
        }
        assert!(
            rows.iter()
                .all(|row| row.cells.iter().all(|cell| !cell.best)),
            "nothing to compare it with"
        );
    }

    #[test]
    fn to_fail_quickly_or_to_be_invalid_is_never_the_best() {
        let report = sample::report(1);
        let runs: Vec<&Run> = report.runs[..3].iter().collect();
        let best = |runs: &[&Run], title: &str| -> Vec<bool> {
            find(&rows(runs), title)
                .cells
                .iter()
                .map(|cell| cell.best)
                .collect()
        };
        let mut quick = runs[1].clone();
        quick.latency.p99 = 0.001;
        assert_eq!(
            best(&[runs[0], &quick, runs[2]], "p99"),
            [false, true, false]
        );
        quick.answers.good = quick.load.due / 2;
        assert_eq!(
            best(&[runs[0], &quick, runs[2]], "p99"),
            [true, false, false]
        );
        let mut invalid = runs[0].clone();
        invalid.invalid = vec!["late".to_owned()];
        assert!(!best(&[&invalid, runs[1], runs[2]], "p99")[0]);
        assert_eq!(
            best(&[runs[0], runs[0]], "p99"),
            [false, false],
            "all alike"
        );
    }

    #[test]
    fn kinds_stand_below_what_they_add_up_to() {
        let mut run = sample::report(1).runs.remove(0);
        run.answers.by_status = [(200, 5), (429, 1), (503, 1200)].into();
        run.answers.errors = [("timeout".to_owned(), 3)].into();
        run.wrong.user = 2;
        let rows = rows(&[&run]);
        for (title, within, text) in [
            ("error answers", false, "1,201"),
            ("429", true, "1"),
            ("503", true, "1,200"),
            ("no answer", false, "3"),
            ("timeout", true, "3"),
            ("wrong pages", false, "2"),
            ("somebody else's", true, "2"),
        ] {
            let row = find(&rows, title);
            assert_eq!((row.within, &*row.cells[0].text), (within, text), "{title}");
        }
        assert!(rows.iter().all(|row| row.title != "torn"));
    }
}
