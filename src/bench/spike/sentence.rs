//! What was measured, in plain words: who served how many, and who failed.

use super::figures::{errors, failed, refused};
use super::groups::Group;
use super::report::{Run, Wrong};
use super::words::{Unit, list, many, name, plain, show, whole};

/// One or two sentences on a scenario: what became of the crowd at each target.
pub fn headline(group: &Group) -> String {
    let valid: Vec<&Run> = group
        .runs
        .iter()
        .copied()
        .filter(|run| is_valid(run))
        .collect();
    let mut parts = Vec::new();
    let all: Vec<String> = valid
        .iter()
        .filter(|run| failed(run) == 0)
        .map(|run| name(run))
        .collect();
    if !all.is_empty() {
        parts.push(format!("{} served everybody", list(&all)));
    }
    let mut short: Vec<&&Run> = valid.iter().filter(|run| failed(run) > 0).collect();
    short.sort_by(|a, b| lost(a).total_cmp(&lost(b)));
    parts.extend(
        short
            .iter()
            .map(|run| format!("{} failed {}", name(run), of_whom(run))),
    );
    let mut out = match parts.len() {
        0 => "Nothing could be measured".to_owned(),
        _ => parts.join("; "),
    };
    out.push('.');
    let wrong: Vec<String> = valid
        .iter()
        .filter(|run| run.wrong.sum() > 0)
        .map(|run| format!("{} {}", name(run), whole(run.wrong.sum())))
        .collect();
    if !wrong.is_empty() {
        out += &format!(" Wrong pages went out: {}.", list(&wrong));
    }
    let invalid: Vec<String> = group
        .runs
        .iter()
        .filter(|run| !is_valid(run))
        .map(|run| name(run))
        .collect();
    if !invalid.is_empty() {
        out += &format!(" Not valid: {}.", list(&invalid));
    }
    out
}

/// What one run came to.
pub fn sentence(run: &Run) -> String {
    let name = name(run);
    if !is_valid(run) {
        return format!(
            "{name}: not a valid measurement, so its figures mean nothing: {}.",
            reasons(run)
        );
    }
    if run.load.due == 0 {
        return format!("{name}: nobody came.");
    }
    let mut out = match failed(run) {
        0 => format!("{name} served all {} requests", whole(run.load.due)),
        failed => format!(
            "{name} served {} of {} requests ({}) and failed {}",
            whole(run.answers.good),
            whole(run.load.due),
            show(Unit::Share, run.answers.good as f64 / run.load.due as f64),
            how(run, failed),
        ),
    };
    if run.latency.count > 0 {
        out += &format!(
            "; half of the answers took at most {}, 99 of 100 at most {}",
            show(Unit::Millis, run.latency.p50),
            show(Unit::Millis, run.latency.p99)
        );
    }
    out.push('.');
    if let Some(origin) = &run.origin {
        out += &format!(
            " Its origin was asked {} for {}, by {} at once at most (it can bear {}).",
            many(origin.fetches, "time"),
            many(origin.pages, "page"),
            whole(origin.peak as u64),
            whole(origin.capacity as u64)
        );
    }
    if run.wrong.sum() > 0 {
        out += &format!(" WRONG PAGES: {}.", wrong(&run.wrong));
    }
    match (run.fault_end_s, run.recovery_s) {
        (_, Some(after)) => {
            out += &format!(
                " It was well again {} after the fault.",
                show(Unit::Seconds, after)
            )
        }
        (Some(_), None) => out += " It did not get well again after the fault.",
        (None, None) => {}
    }
    out
}

/// `36 with an error answer`, or how many of each kind.
fn how(run: &Run, failed: u64) -> String {
    match (refused(run), errors(run)) {
        (refused, 0) if refused == failed => format!("{} with an error answer", whole(failed)),
        (0, errors) if errors == failed => format!("{} without an answer", whole(failed)),
        (0, 0) => whole(failed),
        (refused, errors) => format!(
            "{} ({} with an error answer, {} without any)",
            whole(failed),
            whole(refused),
            whole(errors)
        ),
    }
}

pub fn is_valid(run: &Run) -> bool {
    run.invalid.is_empty()
}

/// Why its figures mean nothing.
pub fn reasons(run: &Run) -> String {
    let reasons: Vec<String> = run.invalid.iter().map(|reason| plain(reason)).collect();
    reasons.join("; ")
}

/// Each kind of wrong page that there was.
pub fn wrong(wrong: &Wrong) -> String {
    let kinds: Vec<String> = kinds(wrong)
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{} {kind}", whole(*count)))
        .collect();
    list(&kinds)
}

pub fn kinds(wrong: &Wrong) -> [(&'static str, u64); 5] {
    [
        ("another page", wrong.page),
        ("somebody else's", wrong.user),
        ("cut short", wrong.short),
        ("torn", wrong.torn),
        ("purged before", wrong.purged),
    ]
}

fn lost(run: &Run) -> f64 {
    failed(run) as f64 / run.load.due.max(1) as f64
}

/// `1 in 16`, where that is near enough.
fn of_whom(run: &Run) -> String {
    let (failed, due) = (failed(run), run.load.due);
    let lost = lost(run);
    let counted = format!("{} of {}", whole(failed), whole(due));
    if failed == due {
        return "everybody".to_owned();
    }
    if !(0.01..=0.35).contains(&lost) {
        return counted;
    }
    format!("1 in {}", whole((1.0 / lost).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::super::groups::{groups, targets};
    use super::super::report::{Answers, Load, Origin, Quantiles, Report, Target};
    use super::super::sample;
    use super::*;

    fn run(name: &str, due: u64, good: u64) -> Run {
        Run {
            target: Target {
                name: name.to_owned(),
                ..Target::default()
            },
            load: Load {
                due,
                ..Load::default()
            },
            answers: Answers {
                good,
                ..Answers::default()
            },
            ..Run::default()
        }
    }

    fn told(runs: Vec<Run>) -> String {
        let report = Report {
            runs,
            ..sample::report(1)
        };
        headline(&groups(&report, &targets(&report))[0])
    }

    #[test]
    fn who_served_whom() {
        let mut invalid = run("varnish", 100, 100);
        invalid.invalid = vec!["late".into()];
        let mut wrong = run("a", 1000, 1000);
        wrong.wrong.user = 12;
        for (runs, says) in [
            (
                vec![run("a", 10, 10), run("b", 10, 10)],
                "a and b served everybody.",
            ),
            (
                vec![
                    run("c", 1000, 600),
                    run("a", 1000, 1000),
                    run("b", 1000, 940),
                ],
                "a served everybody; b failed 1 in 17; c failed 400 of 1,000.",
            ),
            (
                vec![run("a", 100_000, 99_988), run("b", 10, 0), run("c", 10, 3)],
                "a failed 12 of 100,000; c failed 7 of 10; b failed everybody.",
            ),
            (
                vec![wrong, invalid.clone()],
                "a served everybody. Wrong pages went out: a 12. Not valid: varnish.",
            ),
            (
                vec![invalid],
                "Nothing could be measured. Not valid: varnish.",
            ),
        ] {
            assert_eq!(told(runs), says);
        }
    }

    #[test]
    fn one_run_in_words() {
        let mut of = run("nginx", 30_000, 28_120);
        of.answers.by_status = [(200, 28_120), (503, 1200)].into();
        of.answers.errors = [("timeout".into(), 680)].into();
        of.latency = Quantiles {
            count: 28_120,
            p50: 3.1,
            p99: 1250.0,
            ..Quantiles::default()
        };
        of.origin = Some(Origin {
            fetches: 9,
            pages: 3,
            capacity: 8,
            peak: 7,
            ..Origin::default()
        });
        assert_eq!(
            sentence(&of),
            "nginx served 28,120 of 30,000 requests (93.7 %) and failed 1,880 (1,200 with an error answer, 680 without any); half of \
             the answers took at most 3.10 ms, 99 of 100 at most 1.25 s. Its origin was asked 9 times for 3 pages, by 7 at once at \
             most (it can bear 8)."
        );
        let mut refusing = of.clone();
        refusing.answers.good = 28_800;
        refusing.answers.errors.clear();
        let told = sentence(&refusing);
        assert!(
            told.contains(" and failed 1,200 with an error answer; half"),
            "{told}"
        );
        of.wrong.torn = 2;
        of.wrong.user = 1;
        of.fault_end_s = Some(4.0);
        assert!(sentence(&of).ends_with(
            " WRONG PAGES: 1 somebody else's and 2 torn. It did not get well again after the fault."
        ));
        of.recovery_s = Some(0.5);
        assert!(sentence(&of).ends_with(" It was well again 500 ms after the fault."));
        of.invalid = vec!["a".into(), "b\x1b".into()];
        assert_eq!(
            sentence(&of),
            "nginx: not a valid measurement, so its figures mean nothing: a; b\u{fffd}."
        );
        assert_eq!(sentence(&run("x", 0, 0)), "x: nobody came.");
    }
}
