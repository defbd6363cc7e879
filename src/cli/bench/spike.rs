//! `tidegate bench spike`.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::super::{DONE, FAILED, MISUSED, print, say};
use super::{Out, Whom, target};
use crate::bench::spike::app::App;
use crate::bench::spike::client::Server;
use crate::bench::spike::conduct::{self, Now, Plan, Target, conduct};
use crate::bench::spike::machine;
use crate::bench::spike::peers::{self, Peer, Which};
use crate::bench::spike::report::{FORM, Report, Run};
use crate::bench::spike::scenario::{Kind, OWN, Pages, Scenario};
use crate::bench::spike::visits::{Site, visits};
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

enum Failed {
    /// What was asked for makes no sense.
    Misused(String),
    Broke(String),
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
    machine::raise_open_files();
    let runs = match &spike.whom.target {
        Some(url) => outside(url, &spike.whom, scenarios)?,
        None => beside(&spike.whom, &scenarios)?,
    };
    Ok(Report {
        form: FORM,
        made: stamp(clock::wall_millis(clock::moment())),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: machine::this(),
        runs,
    })
}

/// Somebody who runs already.
fn outside(url: &str, whom: &Whom, scenarios: Vec<Scenario>) -> Result<Vec<Run>, Failed> {
    let server = target::find(url, whom).map_err(Failed::Misused)?;
    let mut runs = Vec::new();
    for mut scenario in scenarios {
        if !scenario.event.is_empty() {
            let why = format!(
                "{}: what happens in it can only happen to proxies that are started here (--peers)",
                scenario.name
            );
            return Err(Failed::Misused(why));
        }
        let mut site = Site::of(&scenario);
        if !whom.paths.is_empty() {
            at_paths(&mut scenario, whom.paths.len());
            site = Site::at(&whom.paths);
        }
        let visits = visits(&scenario, &mut site, whom.seed).map_err(Failed::Misused)?;
        let plan = Plan {
            scenario: &scenario,
            site: &site,
            visits,
            server: server.clone(),
            app: None,
            seed: whom.seed,
        };
        let mut run =
            conduct(&plan, &mut conduct::Elses, look(&scenario, url)).map_err(Failed::Broke)?;
        run.target.name = server.host.clone();
        run.target.url = url.to_owned();
        runs.push(run);
    }
    Ok(runs)
}

/// The whole crowd is for these paths.
fn at_paths(scenario: &mut Scenario, count: usize) {
    let zipf = scenario.pages.first().map_or(1.0, |pages| pages.zipf);
    let first = scenario.pages.first().cloned();
    scenario.pages = first
        .map(|first| Pages {
            name: "target".to_owned(),
            count: count as u32,
            kind: Kind::Public,
            zipf,
            ..first
        })
        .into_iter()
        .collect();
    scenario
        .crowd
        .iter_mut()
        .for_each(|crowd| crowd.wants.clear());
}

/// Proxies that are started here, one after the other; who is first changes from scenario to scenario.
fn beside(whom: &Whom, scenarios: &[Scenario]) -> Result<Vec<Run>, Failed> {
    let named = whom.peers.iter().map(|name| Which::read(name));
    let named = named
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failed::Misused)?;
    let (peers, missing): (Vec<_>, Vec<_>) = named
        .into_iter()
        .partition(|which| which.program().is_some());
    for which in missing {
        say(&format!("left out: {} is not installed\n", which.name()));
    }
    if peers.is_empty() {
        return Err(Failed::Misused("none of them is installed".to_owned()));
    }
    let cores = machine::keep_to_the_last_core();
    let mut runs = Vec::new();
    for (turn, scenario) in scenarios.iter().enumerate() {
        let mut of_scenario = Vec::new();
        for at in 0..peers.len() {
            let at = (at + turn) % peers.len();
            let which = peers[at];
            if let Some(why) = which.lacks(scenario) {
                say(&format!("{}: left out: {why}\n", scenario.name));
                continue;
            }
            let run = one(which, scenario, whom.seed, cores.first().copied());
            of_scenario.push((at, run.map_err(Failed::Broke)?));
        }
        of_scenario.sort_by_key(|(at, _)| *at);
        runs.extend(of_scenario.into_iter().map(|(_, run)| run));
    }
    Ok(runs)
}

fn one(which: Which, scenario: &Scenario, seed: u64, core: Option<usize>) -> Result<Run, String> {
    let mut site = Site::of(scenario);
    let visits = visits(scenario, &mut site, seed)?;
    let app = App::start(scenario, site.clone(), seed).map_err(|e| format!("the app: {e}"))?;
    let mut peer = Peer::start(which, scenario, app.address, core)?;
    let target = peer.told();
    let plan = Plan {
        scenario,
        site: &site,
        visits,
        server: Server {
            address: peer.address,
            host: peer.address.to_string(),
            tls: None,
        },
        app: Some(&app),
        seed,
    };
    let before = peer.taken();
    let target_is: &mut dyn Target = &mut peer;
    let mut run = conduct(&plan, target_is, look(scenario, which.name()))?;
    let answers = run.answers.by_status.values().sum();
    run.process = Some(peers::process(before, peer.taken(), answers));
    run.target = target;
    Ok(run)
}

/// Tells how it goes.
fn look(scenario: &Scenario, target: &str) -> impl FnMut(&Now) {
    let (name, target) = (scenario.name.clone(), target.to_owned());
    move |now| {
        if now.slices.len().is_multiple_of(8) {
            let last = now.slices.last().cloned().unwrap_or_default();
            say(&format!(
                "{name} · {target} · {:.0} s: {} due, {} good, {} refused, {} errors, p99 {:.0} ms; origin {} in flight\n",
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
