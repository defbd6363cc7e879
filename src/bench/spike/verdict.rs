//! Thresholds, so that a build can fail: `p99>200ms`, `goodput<0.95`. What is written is what must not be.

use super::figures::{FIGURES, Figure};
use super::report::{Report, Run};
use super::sentence::{is_valid, reasons};
use super::words::{Unit, name, plain, show};
use crate::config::nearest::nearest;

/// One condition under which a run has failed.
#[derive(Clone)]
pub struct Threshold {
    figure: &'static Figure,
    is: Is,
    limit: f64,
    /// As it was written.
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// What all thresholds came to over all runs.
pub struct Verdict {
    /// A line for each: what was broken where and by how much, what was invalid, what nobody measured.
    pub failures: Vec<String>,
    /// What could not be told of single runs, and is no failure: a recovery where there was no fault.
    pub notes: Vec<String>,
}

impl Verdict {
    pub fn failed(&self) -> bool {
        !self.failures.is_empty()
    }
}

impl std::fmt::Debug for Threshold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads one, as in `--fail-if "p99>200ms"`.
pub fn parse(text: &str) -> Result<Threshold, String> {
    let shape = "a threshold is a figure, one of > >= < <=, and a limit, as in \"p99>200ms\"";
    let Some(at) = text.find(['<', '>', '=']) else {
        return Err(format!("{text:?} compares nothing: {shape}"));
    };
    let (word, rest) = text.split_at(at);
    let (is, rest) = [
        (">=", Is::AtLeast),
        ("<=", Is::AtMost),
        (">", Is::Above),
        ("<", Is::Below),
    ]
    .iter()
    .find_map(|(sign, is)| Some((*is, rest.strip_prefix(sign)?)))
    .ok_or_else(|| format!("{text:?}: `=` alone holds by chance: {shape}"))?;
    let figure = figure(word.trim()).map_err(|why| format!("{text:?}: {why}"))?;
    let limit = limit(figure.unit, rest.trim()).map_err(|why| format!("{text:?}: {why}"))?;
    Ok(Threshold {
        figure,
        is,
        limit,
        text: text.trim().to_owned(),
    })
}

/// The names that a threshold may have.
pub fn names() -> String {
    let names: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
    names.join(", ")
}

/// Judges each run. An invalid run fails, whatever its figures; so does a threshold that nothing was measured for in any run.
pub fn judge(report: &Report, thresholds: &[Threshold]) -> Verdict {
    let mut verdict = Verdict {
        failures: Vec::new(),
        notes: Vec::new(),
    };
    if report.runs.is_empty() {
        verdict.failures.push("nothing was measured".to_owned());
    }
    for run in &report.runs {
        if !is_valid(run) {
            verdict.failures.push(format!(
                "{}: not a valid measurement: {}",
                at(run),
                reasons(run)
            ));
        }
    }
    let valid = || report.runs.iter().filter(|run| is_valid(run));
    for threshold in thresholds {
        let measured = valid().any(|run| (threshold.figure.of)(run).is_some());
        if !measured && valid().next().is_some() {
            verdict.failures.push(format!(
                "{}: {} was measured in no run, so it says nothing",
                threshold.text, threshold.figure.name
            ));
            continue;
        }
        for run in valid() {
            match (threshold.figure.of)(run) {
                None => verdict.notes.push(format!(
                    "{}: no {} was measured",
                    at(run),
                    threshold.figure.name
                )),
                Some(value) if threshold.is_met_by(value) => {
                    verdict
                        .failures
                        .push(format!("{}: {}", at(run), threshold.broken(value)));
                }
                Some(_) => {}
            }
        }
    }
    verdict
}

impl Threshold {
    fn is_met_by(&self, value: f64) -> bool {
        match self.is {
            Is::Above => value > self.limit,
            Is::AtLeast => value >= self.limit,
            Is::Below => value < self.limit,
            Is::AtMost => value <= self.limit,
        }
    }

    /// By how much, too.
    fn broken(&self, value: f64) -> String {
        let figure = self.figure;
        if !value.is_finite() {
            return format!("it never came to {}: fails if {}", figure.name, self.text);
        }
        let off = (value - self.limit).abs();
        let way = match self.is {
            Is::Above | Is::AtLeast => "over",
            Is::Below | Is::AtMost => "under",
        };
        let by = if off == 0.0 {
            ", at the limit".to_owned()
        } else if self.limit == 0.0 {
            format!(", {} {way}", show(figure.unit, off))
        } else {
            let share = show(Unit::Share, off / self.limit);
            format!(", {} ({share}) {way}", show(figure.unit, off))
        };
        format!(
            "{} is {}{by}: fails if {}",
            figure.name,
            show(figure.unit, value),
            self.text
        )
    }
}

fn at(run: &Run) -> String {
    format!("{} in {}", name(run), plain(&run.scenario.name))
}

fn figure(word: &str) -> Result<&'static Figure, String> {
    let found = FIGURES.iter().find(|figure| figure.name == word);
    found.ok_or_else(|| {
        let near = nearest(word, FIGURES.iter().map(|figure| figure.name));
        let meant = near.map_or(".".to_owned(), |near| format!("; did you mean {near:?}?"));
        format!("there is no figure {word:?}{meant} Known are: {}", names())
    })
}

fn limit(unit: Unit, text: &str) -> Result<f64, String> {
    let (units, wanted): (&[(&str, f64)], &str) = match unit {
        Unit::Millis => (
            &[
                ("us", 0.001),
                ("µs", 0.001),
                ("ms", 1.0),
                ("s", 1000.0),
                ("m", 60_000.0),
            ],
            "a time with its unit, as 200ms or 1.5s",
        ),
        Unit::Micros => (
            &[("us", 1.0), ("µs", 1.0), ("ms", 1000.0), ("s", 1e6)],
            "a time with its unit, as 50us or 1ms",
        ),
        Unit::Seconds => (
            &[("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)],
            "a time with its unit, as 60s or 500ms",
        ),
        Unit::Bytes => (
            &[
                ("GiB", 1_073_741_824.0),
                ("MiB", 1_048_576.0),
                ("KiB", 1024.0),
                ("GB", 1e9),
                ("MB", 1e6),
                ("kB", 1e3),
                ("B", 1.0),
            ],
            "a size with its unit, as 256MiB",
        ),
        Unit::Share => (&[("%", 0.01), ("", 1.0)], "a share of 1, as 0.95 or 95%"),
        Unit::Rate => (&[("/s", 1.0), ("", 1.0)], "a number a second, as 1500"),
        Unit::Count | Unit::Times => (&[("", 1.0)], "a number"),
    };
    let digits = text
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    // Nothing is nothing in any unit.
    let factor = match number.parse() {
        Ok(0.0) if unit.is_empty() => Some(0.0),
        _ => units
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, factor)| *factor),
    };
    match (number.parse::<f64>(), factor) {
        (Ok(number), Some(factor)) => Ok(number * factor),
        _ => Err(format!("{text:?} is no limit here: it takes {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn failures(report: &Report, thresholds: &[&str]) -> Vec<String> {
        let thresholds: Result<Vec<Threshold>, String> =
            thresholds.iter().map(|text| parse(text)).collect();
        judge(report, &thresholds.expect("thresholds")).failures
    }

    /// Runs of one target, which is good.
    fn good() -> Report {
        let mut report = sample::report(2);
        report.runs.retain(|run| run.target.name == "tidegate");
        report
    }

    #[test]
    fn limits_have_the_units_of_their_figures() {
        for (text, limit) in [
            ("p99>200ms", 200.0),
            ("p99.9 >= 1.5s", 1500.0),
            ("ttfb_p50>50us", 0.05),
            ("max>1m", 60_000.0),
            ("errors>0", 0.0),
            ("wrong>0", 0.0),
            ("goodput<0.95", 0.95),
            ("served<99.9%", 0.999),
            ("origin_peak>8", 8.0),
            ("fetches_per_page>2", 2.0),
            ("oldest>60s", 60.0),
            ("oldest>1h", 3600.0),
            ("recovery>2s", 2.0),
            ("recovery>0", 0.0),
            ("cpu>50us", 50.0),
            ("memory<=256MiB", 268_435_456.0),
            (" memory < 1 GB ", 1e9),
        ] {
            let threshold = parse(text).unwrap_or_else(|why| panic!("{why}"));
            assert!(
                (threshold.limit - limit).abs() <= limit * 1e-12,
                "{text}: {}",
                threshold.limit
            );
        }
    }

    #[test]
    fn mistakes_are_told_with_what_was_meant() {
        for (text, says) in [
            ("p99", "compares nothing"),
            ("", "compares nothing"),
            ("p99=3ms", "one of > >= < <="),
            (
                "p98>1ms",
                "there is no figure \"p98\"; did you mean \"p90\"? Known are: due, good",
            ),
            ("memry>1MiB", "did you mean \"memory\"?"),
            ("fetches-per-page>1", "did you mean \"fetches_per_page\"?"),
            (
                "zzzzzzzz>1",
                "there is no figure \"zzzzzzzz\". Known are: due",
            ),
            (">1", "there is no figure \"\""),
            (
                "p99>200",
                "\"200\" is no limit here: it takes a time with its unit, as 200ms or 1.5s",
            ),
            ("p99>200MiB", "it takes a time"),
            ("p99>-1ms", "it takes a time"),
            ("p99>1.2.3ms", "it takes a time"),
            ("p99>nanms", "it takes a time"),
            ("p99>", "it takes a time"),
            ("memory>256", "as 256MiB"),
            ("errors>3s", "it takes a number"),
            ("goodput<inf", "as 0.95 or 95%"),
            ("p99>>1ms", "it takes a time"),
        ] {
            let why = parse(text).expect_err(text);
            assert!(
                why.contains(says) && why.starts_with(&format!("{text:?}")),
                "{text}: {why}"
            );
        }
    }

    #[test]
    fn who_broke_what_and_by_how_much() {
        let mut report = good();
        report.runs.truncate(1);
        let run = &mut report.runs[0];
        run.latency.p99 = 312.0;
        run.wrong.user = 2;
        run.goodput = 90.0;
        run.demand = 100.0;
        assert_eq!(
            failures(
                &report,
                &[
                    "p99>200ms",
                    "wrong>0",
                    "goodput<0.95",
                    "goodput<=0.9",
                    "p99>312ms",
                    "errors>0"
                ]
            ),
            [
                "tidegate in viral-post: p99 is 312 ms, 112 ms (56 %) over: fails if p99>200ms",
                "tidegate in viral-post: wrong is 2, 2 over: fails if wrong>0",
                "tidegate in viral-post: goodput is 90 %, 5 % (5.3 %) under: fails if goodput<0.95",
                "tidegate in viral-post: goodput is 90 %, at the limit: fails if goodput<=0.9",
            ]
        );
    }

    #[test]
    fn each_run_is_judged() {
        let report = sample::report(2);
        let slow = failures(&report, &["p99>200ms"]);
        for who in [
            "nginx in viral-post",
            "varnish in flash-sale",
            "haproxy in viral-post",
        ] {
            assert!(
                slow.iter().any(|line| line.starts_with(who)),
                "{who}: {slow:?}"
            );
        }
        assert!(
            !slow.iter().any(|line| line.starts_with("tidegate")),
            "{slow:?}"
        );
    }

    #[test]
    fn an_invalid_run_fails_without_any_threshold() {
        let report = sample::report(2);
        let failures = failures(&report, &[]);
        assert_eq!(failures.len(), 1);
        assert!(
            failures[0]
                .starts_with("nginx in origin-death: not a valid measurement: the generator"),
            "{failures:?}"
        );
    }

    #[test]
    fn what_nobody_measured_is_no_success() {
        let mut report = good();
        let thresholds = [
            parse("recovery>1s").expect("one"),
            parse("cpu>1s").expect("one"),
        ];
        let verdict = judge(&report, &thresholds);
        // There was a fault in one scenario, and not in the others.
        assert!(!verdict.failed(), "{:?}", verdict.failures);
        assert_eq!(
            verdict.notes,
            [
                "tidegate in viral-post: no recovery was measured",
                "tidegate in flash-sale: no recovery was measured",
            ]
        );
        report.runs[2].recovery_s = None;
        let never = "tidegate in origin-death: it never came to recovery: fails if recovery>1s";
        assert_eq!(failures(&report, &["recovery>1s"]), [never]);
        report.runs.truncate(2);
        assert_eq!(
            failures(&report, &["recovery>1s"]),
            ["recovery>1s: recovery was measured in no run, so it says nothing"]
        );
        report.runs.clear();
        assert_eq!(failures(&report, &[]), ["nothing was measured"]);
    }
}
