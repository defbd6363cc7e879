//! `tidegate bench capacity`.

use std::time::Duration;

use super::super::{DONE, FAILED, print, say};
use super::stand::{Failed, Stand};
use super::{Out, Whom, report};
use crate::bench::spike::capacity::{Probe, at_rate, search, words};
use crate::bench::spike::report::Run;
use crate::bench::spike::scenario::Scenario;
use crate::bench::spike::verdict;

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
  tidegate bench capacity --peers tidegate --fail-if \"p99>100ms\" --fail-if \"errors>0\"
  tidegate bench capacity --target http://127.0.0.1:8080 --path / --most 2000")]
pub struct Capacity {
    /// Whose pages, and whose mixture of requests
    #[arg(long, value_name = "NAME|FILE", default_value = "viral-post")]
    scenario: String,

    #[command(flatten)]
    whom: Whom,

    #[command(flatten)]
    out: Out,

    /// What must not be [default: p99>200ms, errors>0, goodput<0.99]
    #[arg(long, value_name = "THRESHOLD")]
    fail_if: Vec<String>,

    /// The first rate to try, in requests a second
    #[arg(long, value_name = "RATE", default_value_t = 500.0)]
    first: f64,

    /// No higher rate is tried
    #[arg(long, value_name = "RATE", default_value_t = 50_000.0)]
    most: f64,

    /// How long each rate is tried
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = super::super::health::timeout)]
    lasts: Duration,
}

pub fn run(capacity: &Capacity) -> u8 {
    match measure(capacity) {
        Ok(code) => code,
        Err(failed) => failed.told(),
    }
}

fn measure(capacity: &Capacity) -> Result<u8, Failed> {
    let usual = ["p99>200ms", "errors>0", "goodput<0.99"].map(str::to_owned);
    let thresholds = match capacity.fail_if.as_slice() {
        [] => &usual,
        said => said,
    };
    let thresholds = thresholds.iter().map(|text| verdict::parse(text));
    let thresholds: Vec<_> = thresholds
        .collect::<Result<_, _>>()
        .map_err(Failed::Misused)?;
    let scenario = Scenario::find(&capacity.scenario).map_err(Failed::Misused)?;
    if !(capacity.first >= 1.0 && capacity.most >= capacity.first && capacity.most <= 1e6) {
        return Err(Failed::Misused(
            "--first is at least 1, --most not less and up to 1000000".into(),
        ));
    }
    let mut runs: Vec<Run> = Vec::new();
    let mut code = DONE;
    for stand in Stand::find(&capacity.whom)?.each() {
        let probes = search(capacity.first, capacity.most, |rate| {
            let scenario = at_rate(&scenario, rate, capacity.lasts);
            let measured = stand.run(&scenario, &capacity.whom, 0, |_, _| {});
            let run = match measured.map(|mut runs| runs.pop()) {
                Ok(Some(run)) => run,
                Ok(None) => return Err("it can't take part".to_owned()),
                Err(Failed::Misused(why) | Failed::Broke(why)) => return Err(why),
            };
            let told = report(vec![run.clone()]);
            let broke = verdict::judge(&told, &thresholds).failures;
            let went = if broke.is_empty() { "well" } else { "not well" };
            say(&format!(
                "{rate:>8.0}/s: {went}, p99 {:.1} ms\n",
                run.latency.p99
            ));
            Ok(Probe { rate, run, broke })
        });
        let probes = probes.map_err(Failed::Broke)?;
        let name = probes.first().map(|probe| probe.run.target.name.clone());
        let told = format!(
            "{}: {}",
            name.unwrap_or_default(),
            words(&probes, capacity.most)
        );
        code = code.max(print(&told));
        if probes.iter().all(|probe| !probe.broke.is_empty()) {
            code = FAILED;
        }
        runs.extend(probes.into_iter().map(|probe| probe.run));
    }
    Ok(code.max(capacity.out.write(&report(runs))))
}
