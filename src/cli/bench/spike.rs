//! `tidegate bench spike`.

use std::io;

use super::super::{FAILED, print, say};
use super::stand::{Failed, Stand};
use super::{Out, Whom, columns, report};
use crate::bench::spike::conduct;
use crate::bench::spike::count::SLICE;
use crate::bench::spike::live::{self, Live};
use crate::bench::spike::report::{Report, Slice};
use crate::bench::spike::scenario::{OWN, Scenario};
use crate::bench::spike::terminal;
use crate::bench::spike::verdict::{self, Threshold};

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Scenarios: viral-post, flash-sale, api-stampede, origin-brownout, origin-death, bot-flood,
purge-all, restart; or a file like those in config/scenarios/.
  tidegate bench spike --peers tidegate,nginx,varnish,haproxy --all --html report.html
  tidegate bench spike --target http://127.0.0.1:8080 --path / --path /posts/1
Exit codes: 0 done, 1 a threshold was broken or it failed, 2 bad usage")]
pub struct Spike {
    /// What happens; several times for several
    #[arg(long, value_name = "NAME|FILE", default_value = "viral-post")]
    scenario: Vec<String>,

    /// All scenarios that come with the program
    #[arg(long, conflicts_with = "scenario")]
    all: bool,

    #[command(flatten)]
    whom: Whom,

    #[command(flatten)]
    out: Out,

    /// What must not be, as in p99>200ms, errors>0 or goodput<0.95
    #[arg(long, value_name = "THRESHOLD")]
    fail_if: Vec<String>,
}

pub fn run(spike: &Spike) -> u8 {
    match measure(spike) {
        Ok((report, thresholds)) => tell(spike, &report, &thresholds),
        Err(failed) => failed.told(),
    }
}

fn measure(spike: &Spike) -> Result<(Report, Vec<Threshold>), Failed> {
    let thresholds = spike.fail_if.iter().map(|text| verdict::parse(text));
    let thresholds = thresholds
        .collect::<Result<_, _>>()
        .map_err(Failed::Misused)?;
    let names: Vec<&str> = match spike.all {
        true => OWN.iter().map(|(name, _)| *name).collect(),
        false => spike.scenario.iter().map(String::as_str).collect(),
    };
    let scenarios = names.into_iter().map(Scenario::find);
    let scenarios = scenarios
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failed::Misused)?;
    let stand = Stand::find(&spike.whom)?;
    let all = scenarios.len() * stand.count();
    let mut live = Live::new(io::stderr(), live::width());
    let mut runs = Vec::new();
    let mut begun = 0;
    for (turn, scenario) in scenarios.iter().enumerate() {
        let look = |target: &str, now: &conduct::Now| {
            if now.slices.len() == 1 {
                begun += 1;
            }
            // A screen that has gone is no reason to stop.
            let _ = live.show(&shown(scenario, target, now, (begun, all)));
        };
        runs.extend(stand.run(scenario, &spike.whom, turn, look)?);
    }
    let _ = live.clear();
    Ok((report(runs), thresholds))
}

fn shown(
    scenario: &Scenario,
    target: &str,
    now: &conduct::Now,
    (run, runs): (usize, usize),
) -> live::Now {
    let last = now.slices.last().cloned().unwrap_or_default();
    let a_second = |count: u64| count as f64 / SLICE.as_secs_f64();
    let of = |slice: &Slice, millis: f64| (slice.good > 0).then_some(millis);
    live::Now {
        scenario: scenario.name.clone(),
        target: target.to_owned(),
        run,
        runs,
        elapsed: now.elapsed,
        total: scenario.lasts,
        due: a_second(last.due),
        good: a_second(last.good),
        errors: a_second(last.refused + last.errors),
        p50: of(&last, last.p50),
        p99: of(&last, last.p99),
        history: now
            .slices
            .iter()
            .map(|slice| of(slice, slice.p99))
            .collect(),
        origin_in_flight: now.has_origin.then_some(now.origin.in_flight as f64),
        origin_capacity: now.has_origin.then_some(scenario.origin.at_once),
    }
}

fn tell(spike: &Spike, report: &Report, thresholds: &[Threshold]) -> u8 {
    let written = spike.out.write(report);
    let printed = print(&terminal::page(report, columns()));
    let verdict = verdict::judge(report, thresholds);
    for note in &verdict.notes {
        say(&format!("note: {note}\n"));
    }
    for failure in &verdict.failures {
        say(&format!("failed: {failure}\n"));
    }
    match thresholds.is_empty() || !verdict.failed() {
        true => written.max(printed),
        false => FAILED,
    }
}
