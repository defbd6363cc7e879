//! `tidegate bench spike`.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::super::{DONE, FAILED, MISUSED, print, say};
use super::stand::{Failed, Stand};
use super::{Out, Whom};
use crate::bench::spike::conduct::Now;
use crate::bench::spike::machine;
use crate::bench::spike::report::{FORM, Report};
use crate::bench::spike::scenario::{OWN, Scenario};
use crate::clock;
use crate::telemetry::access::stamp;

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Scenarios: viral-post, flash-sale, api-stampede, origin-brownout, origin-death, bot-flood, purge-all, restart; or a file like those in config/scenarios/.
Examples:
  tidegate bench spike --peers tidegate,nginx,varnish,haproxy --all
  tidegate bench spike --target http://127.0.0.1:8080 --path / --path /posts/1")]
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
}

pub fn run(spike: &Spike) -> u8 {
    match measure(spike) {
        Ok(report) => tell(spike, &report),
        Err(Failed::Misused(why)) => {
            say(&format!("error: {why}\n"));
            MISUSED
        }
        Err(Failed::Broke(why)) => {
            say(&format!("error: {why}\n"));
            FAILED
        }
    }
}

fn measure(spike: &Spike) -> Result<Report, Failed> {
    let names: Vec<String> = match spike.all {
        true => OWN.iter().map(|(name, _)| (*name).to_owned()).collect(),
        false => spike.scenario.clone(),
    };
    let scenarios = names.iter().map(|name| Scenario::find(name));
    let scenarios = scenarios
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failed::Misused)?;
    let stand = Stand::find(&spike.whom)?;
    let mut runs = Vec::new();
    for (turn, scenario) in scenarios.iter().enumerate() {
        let look = |target: &str, now: &Now| look(scenario, target, now);
        runs.extend(stand.run(scenario, &spike.whom, turn, look)?);
    }
    Ok(Report {
        form: FORM,
        made: stamp(clock::wall_millis(clock::moment())),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: machine::this(),
        runs,
    })
}

/// Tells how it goes.
fn look(scenario: &Scenario, target: &str, now: &Now) {
    if now.slices.len().is_multiple_of(8) {
        let last = now.slices.last().cloned().unwrap_or_default();
        say(&format!(
            "{} · {target} · {:.0} s: {} due, {} good, {} refused, {} errors, p99 {:.0} ms; origin {} in flight\n",
            scenario.name,
            now.elapsed.as_secs_f64(),
            last.due * 4,
            last.good * 4,
            last.refused * 4,
            last.errors * 4,
            last.p99,
            now.origin.in_flight,
        ));
    }
}

fn tell(spike: &Spike, report: &Report) -> u8 {
    // It is made of texts and numbers.
    let json = serde_json::to_string_pretty(report).unwrap_or_default() + "\n";
    if let Some(path) = &spike.out.json
        && let Err(why) = write(path, &json)
    {
        say(&format!("error: {}: {why}\n", path.display()));
        return FAILED;
    }
    for run in &report.runs {
        print(&format!(
            "{:<16} {:<9} good {} of {}, wrong {}, p50 {:.1} p99 {:.1} p99.9 {:.1} ms, first second p99 {:.1} ms, goodput {:.0} of {:.0}, fetches/page {:.1}, peak {}, oldest {:?}, recovery {:?}, cpu {:.1} us, {} MB, errors {:?} status {:?} busy {:.2} lag p99 {:.1} {:?}\n",
            run.scenario.name,
            run.target.name,
            run.answers.good,
            run.load.due,
            run.wrong.sum(),
            run.latency.p50,
            run.latency.p99,
            run.latency.p999,
            run.first_second.p99,
            run.goodput,
            run.demand,
            run.origin
                .as_ref()
                .map_or(0.0, |origin| origin.fetches_per_page()),
            run.origin.as_ref().map_or(0, |origin| origin.peak),
            run.oldest_s,
            run.recovery_s,
            run.process.as_ref().map_or(0.0, |p| p.cpu_us_per_answer),
            run.process
                .as_ref()
                .map_or(0, |p| p.peak_memory_bytes >> 20),
            run.answers.errors,
            run.answers.by_status,
            run.load.busy,
            run.load.lag.p99,
            run.invalid,
        ));
    }
    DONE
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    fs::File::create(path)?.write_all(text.as_bytes())
}
