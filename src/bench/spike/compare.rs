//! Two reports beside each other: what got better, and what worse, by how much.

use std::fmt::Write as _;

use serde::Serialize;

use super::figures::{Better, FIGURES, Figure};
use super::groups::{groups, targets};
use super::report::{Report, Run};
use super::sentence::{is_valid, reasons};
use super::words::{cut, list, many, name, plain, show, wrap};

/// A change by less than this part is none.
const NOISE: f64 = 0.05;

/// Two reports, run by run.
#[derive(Serialize)]
pub struct Comparison {
    pub pairs: Vec<Pair>,
    /// Runs that are in one report only, and those that are not valid.
    pub left_out: Vec<String>,
    /// Why the ratios may say little.
    pub doubts: Vec<String>,
}

/// The same scenario at the same target, twice.
#[derive(Serialize)]
pub struct Pair {
    pub scenario: String,
    pub target: String,
    pub changes: Vec<Change>,
}

#[derive(Serialize)]
pub struct Change {
    pub figure: &'static str,
    /// None: not measured, or it never came to it.
    pub a: Option<f64>,
    pub b: Option<f64>,
    /// B for each of A; none where A is nothing.
    pub ratio: Option<f64>,
    pub way: Way,
    #[serde(skip)]
    shown: (String, String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Within 5 %.
    Same,
    Better,
    Worse,
    /// Changed, and which is better depends.
    Other,
}

/// `a` is what was before.
pub fn compare(a: &Report, b: &Report) -> Comparison {
    let mut comparison = Comparison {
        pairs: Vec::new(),
        left_out: Vec::new(),
        doubts: doubts(a, b),
    };
    let before = sorted(a);
    let mut after: Vec<Option<&Run>> = sorted(b).into_iter().map(Some).collect();
    for run in before {
        let same = after
            .iter_mut()
            .find(|other| other.is_some_and(|other| at(other) == at(run)));
        // Taken out, so that a second run of the same finds the second one.
        let Some(other) = same.and_then(Option::take) else {
            comparison
                .left_out
                .push(format!("{} is in A only", at(run)));
            continue;
        };
        let invalid = [("A", run), ("B", other)]
            .into_iter()
            .filter(|(_, run)| !is_valid(run));
        let invalid: Vec<String> = invalid
            .map(|(which, run)| format!("in {which}: {}", reasons(run)))
            .collect();
        if !invalid.is_empty() {
            comparison
                .left_out
                .push(format!("{} is not valid, {}", at(run), list(&invalid)));
            continue;
        }
        unlike(run, other, &mut comparison.doubts);
        comparison.pairs.push(Pair {
            scenario: plain(&run.scenario.name),
            target: name(run),
            changes: FIGURES
                .iter()
                .filter_map(|figure| change(figure, run, other))
                .collect(),
        });
    }
    let alone = after.into_iter().flatten();
    comparison
        .left_out
        .extend(alone.map(|run| format!("{} is in B only", at(run))));
    comparison
}

/// For a terminal.
pub fn page(comparison: &Comparison, width: usize) -> String {
    let mut out = String::new();
    let count = |way: Way| {
        let changes = comparison.pairs.iter().flat_map(|pair| &pair.changes);
        changes.filter(|change| change.way == way).count()
    };
    let runs = match comparison.pairs.len() {
        0 => "There is nothing to compare".to_owned(),
        1 => "1 run compared".to_owned(),
        runs => format!("{runs} runs compared"),
    };
    let _ = writeln!(
        out,
        "{runs}: {} figures better by more than 5 %, {} worse.",
        count(Way::Better),
        count(Way::Worse)
    );
    for doubt in &comparison.doubts {
        let _ = writeln!(out, "{}", wrap(&format!("note: {doubt}"), width, 2));
    }
    for left in &comparison.left_out {
        let _ = writeln!(out, "{}", wrap(&format!("left out: {left}"), width, 2));
    }
    for pair in &comparison.pairs {
        let title = format!("{} at {}", pair.scenario, pair.target);
        let _ = writeln!(
            out,
            "\n{}\n{:20} {:>12} {:>12} {:>8}",
            cut(&title, width),
            "",
            "A",
            "B",
            "B/A"
        );
        for change in &pair.changes {
            let ratio = change
                .ratio
                .map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let way = match change.way {
                Way::Same => "",
                Way::Better => "better",
                Way::Worse => "WORSE",
                Way::Other => "changed",
            };
            let (a, b) = &change.shown;
            let line = format!("  {:18} {a:>12} {b:>12} {ratio:>8}  {way}", change.figure);
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    out
}

/// In an order that doesn't depend on who was measured first.
fn sorted(report: &Report) -> Vec<&Run> {
    let targets = targets(report);
    groups(report, &targets)
        .into_iter()
        .flat_map(|group| group.runs)
        .collect()
}

fn at(run: &Run) -> String {
    format!("{} at {}", plain(&run.scenario.name), name(run))
}

/// None if neither has it, or both have nothing.
fn change(figure: &'static Figure, a: &Run, b: &Run) -> Option<Change> {
    let (a, b) = ((figure.of)(a), (figure.of)(b));
    if matches!((a, b), (None | Some(0.0), None | Some(0.0))) {
        return None;
    }
    let shown =
        |value: Option<f64>| value.map_or("–".to_owned(), |value| show(figure.unit, value));
    let (way, ratio) = match (a, b) {
        (Some(a), Some(b)) => (way(figure.better, a, b), ratio(a, b)),
        _ => (Way::Other, None),
    };
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
    Some(Change {
        figure: figure.name,
        a: finite(a),
        b: finite(b),
        ratio,
        way,
        shown: (shown(a), shown(b)),
    })
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (a > 0.0 && a.is_finite() && b.is_finite()).then(|| b / a)
}

fn way(better: Better, a: f64, b: f64) -> Way {
    // Two that never came are alike, and from nothing each step is a change.
    let same = a == b || (b - a).abs() <= NOISE * a.abs() * (1.0 + f64::EPSILON) && a.is_finite();
    match (same, better) {
        (true, _) => Way::Same,
        (false, Better::Neither) => Way::Other,
        (false, Better::Less) if b < a => Way::Better,
        (false, Better::More) if b > a => Way::Better,
        (false, _) => Way::Worse,
    }
}

fn doubts(a: &Report, b: &Report) -> Vec<String> {
    let machine = |report: &Report| {
        let machine = &report.machine;
        plain(&format!(
            "{}, {}, {}",
            machine.cpu,
            many(machine.cores as u64, "core"),
            machine.system
        ))
    };
    match machine(a) == machine(b) {
        true => Vec::new(),
        false => vec![format!(
            "other machines: A on {}, B on {}",
            machine(a),
            machine(b)
        )],
    }
}

/// What makes two runs of the same name differ beside the target's work.
fn unlike(a: &Run, b: &Run, doubts: &mut Vec<String>) {
    if a.target.version != b.target.version {
        let (before, after) = (plain(&a.target.version), plain(&b.target.version));
        let doubt = format!("{} was {before} and is {after}", name(a));
        if !doubts.contains(&doubt) {
            doubts.push(doubt);
        }
    }
    let (before, after) = (a.load.due as f64, b.load.due as f64);
    if (before - after).abs() > NOISE * before {
        doubts.push(format!(
            "{}: another crowd, {before} requests and {after}",
            at(a)
        ));
    } else if a.seed != b.seed {
        doubts.push(format!(
            "{}: another seed, {} and {}",
            at(a),
            a.seed,
            b.seed
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn found<'a>(comparison: &'a Comparison, target: &str, figure: &str) -> &'a Change {
        let pair = comparison
            .pairs
            .iter()
            .find(|pair| pair.target == target)
            .expect("a pair");
        pair.changes
            .iter()
            .find(|change| change.figure == figure)
            .unwrap_or_else(|| panic!("no change of {figure}"))
    }

    #[test]
    fn better_and_worse_begin_beyond_five_in_a_hundred() {
        for (better, a, b, is) in [
            (Better::Less, 100.0, 104.9, Way::Same),
            (Better::Less, 100.0, 105.0, Way::Same),
            (Better::Less, 100.0, 105.1, Way::Worse),
            (Better::Less, 100.0, 94.9, Way::Better),
            (Better::More, 100.0, 94.9, Way::Worse),
            (Better::More, 100.0, 105.1, Way::Better),
            (Better::Neither, 100.0, 110.0, Way::Other),
            (Better::Less, 0.0, 1.0, Way::Worse),
            (Better::Less, 0.0, 0.0, Way::Same),
            (Better::Less, 3.0, 0.0, Way::Better),
            (Better::Less, f64::INFINITY, 3.0, Way::Better),
            (Better::Less, 3.0, f64::INFINITY, Way::Worse),
            (Better::Less, f64::INFINITY, f64::INFINITY, Way::Same),
        ] {
            assert_eq!(way(better, a, b), is, "{better:?} {a} {b}");
        }
    }

    #[test]
    fn runs_are_matched_by_scenario_and_target() {
        let a = sample::report(6);
        let mut b = a.clone();
        // Measured in another order.
        b.runs.reverse();
        let run = b
            .runs
            .iter_mut()
            .find(|run| run.target.name == "varnish" && run.scenario.name == "viral-post");
        let run = run.expect("a run");
        run.latency.p99 *= 2.0;
        run.latency.p50 /= 2.0;
        run.answers.errors.insert("closed".to_owned(), 3);
        let comparison = compare(&a, &b);
        assert_eq!(comparison.pairs.len(), 11);
        assert_eq!(comparison.left_out.len(), 1, "the run that is not valid");
        assert!(
            comparison.left_out[0]
                .starts_with("origin-death at nginx is not valid, in A: the generator")
        );
        assert_eq!(comparison.doubts, [""; 0]);
        for (figure, is, ratio) in [
            ("p99", Way::Worse, Some(2.0)),
            ("p50", Way::Better, Some(0.5)),
            ("errors", Way::Worse, None),
            ("p90", Way::Same, Some(1.0)),
        ] {
            let change = found(&comparison, "varnish", figure);
            assert_eq!((change.way, change.ratio), (is, ratio), "{figure}");
        }
        let changed = comparison.pairs.iter().flat_map(|pair| &pair.changes);
        assert_eq!(changed.filter(|change| change.way != Way::Same).count(), 3);
    }

    #[test]
    fn who_has_no_partner_is_told_and_a_second_run_finds_the_second() {
        let mut a = sample::report(6);
        let mut b = a.clone();
        a.runs.retain(|run| run.target.name != "haproxy");
        b.runs
            .retain(|run| run.scenario.name == "viral-post" && run.target.name != "nginx");
        let mut again = b.runs[0].clone();
        again.latency.p99 *= 3.0;
        again.seed = 8;
        a.runs.push(a.runs[0].clone());
        b.runs.push(again);
        let comparison = compare(&a, &b);
        let pairs: Vec<_> = comparison.pairs.iter().map(|pair| &*pair.target).collect();
        assert_eq!(pairs, ["tidegate", "tidegate", "varnish"]);
        assert_eq!(
            comparison.pairs[1]
                .changes
                .iter()
                .find(|change| change.figure == "p99")
                .and_then(|change| change.ratio),
            Some(3.0)
        );
        assert!(
            comparison
                .left_out
                .contains(&"viral-post at nginx is in A only".to_owned())
        );
        assert!(
            comparison
                .left_out
                .contains(&"flash-sale at tidegate is in A only".to_owned())
        );
        assert!(
            comparison
                .left_out
                .contains(&"viral-post at haproxy is in B only".to_owned())
        );
        assert_eq!(
            comparison.doubts,
            ["viral-post at tidegate: another seed, 7 and 8"]
        );
    }

    #[test]
    fn what_may_mislead_is_said() {
        let a = sample::report(6);
        let mut b = a.clone();
        b.machine.cores = 64;
        b.runs[0].target.version = "0.2.0".to_owned();
        b.runs[1].load.due *= 2;
        let doubts = compare(&a, &b).doubts;
        assert_eq!(doubts.len(), 3, "{doubts:?}");
        assert!(doubts[0].contains("B on A processor of two cores, 64 cores"));
        assert_eq!(doubts[1], "tidegate was 0.1.0 and is 0.2.0");
        assert!(doubts[2].starts_with("viral-post at nginx: another crowd"));
    }

    #[test]
    fn it_is_a_table_of_80_columns() {
        let a = sample::report(6);
        let mut b = a.clone();
        b.runs[0].latency.p99 *= 1.5;
        let page = page(&compare(&a, &b), 80);
        assert!(
            page.starts_with("11 runs compared: 0 figures better by more than 5 %, 1 worse.\n"),
            "{page}"
        );
        assert!(
            page.lines().all(|line| line.chars().count() <= 80),
            "{page}"
        );
        let row = page
            .lines()
            .find(|line| line.contains("WORSE"))
            .unwrap_or_default();
        assert!(
            row.starts_with("  p99 ") && row.ends_with(" 1.50  WORSE"),
            "{row}"
        );
    }
}
