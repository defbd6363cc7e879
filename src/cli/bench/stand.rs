//! Who is measured, and the one run that any measurement is made of.

use super::super::{FAILED, MISUSED, say};
use super::{Whom, target};
use crate::bench::spike::app::App;
use crate::bench::spike::client::Server;
use crate::bench::spike::conduct::{Elses, Now, Plan, conduct};
use crate::bench::spike::machine;
use crate::bench::spike::peers::{self, Peer, Which};
use crate::bench::spike::report::{self, Run};
use crate::bench::spike::scenario::{Kind, OWN, Pages, Scenario};
use crate::bench::spike::visits::{Site, visits};

/// Why there are no figures.
pub enum Failed {
    /// What was asked for makes no sense.
    Misused(String),
    Broke(String),
}

impl Failed {
    /// Tells it; the exit code.
    pub fn told(&self) -> u8 {
        let (why, code) = match self {
            Failed::Misused(why) => (why, MISUSED),
            Failed::Broke(why) => (why, FAILED),
        };
        say(&format!("error: {why}\n"));
        code
    }
}

/// Who is measured: one that runs already, or some that are started here.
pub enum Stand {
    Outside {
        server: Server,
        url: String,
    },
    Peers {
        all: Vec<Which>,
        core: Option<usize>,
    },
}

impl Stand {
    /// Whom the command line names.
    ///
    /// # Errors
    /// There is nobody, or he is not to be asked.
    pub fn find(whom: &Whom) -> Result<Stand, Failed> {
        machine::raise_open_files();
        if let Some(url) = &whom.target {
            let server = target::find(url, whom).map_err(Failed::Misused)?;
            let url = url.clone();
            return Ok(Stand::Outside { server, url });
        }
        let named = whom.peers.iter().map(|name| Which::read(name));
        let named = named
            .collect::<Result<Vec<_>, _>>()
            .map_err(Failed::Misused)?;
        let is_there = |which: &Which| which.program().is_some();
        let (all, missing): (Vec<_>, Vec<_>) = named.into_iter().partition(is_there);
        for which in missing {
            say(&format!("left out: {} is not installed\n", which.name()));
        }
        if all.is_empty() {
            return Err(Failed::Misused("none of them is installed".to_owned()));
        }
        let core = machine::keep_to_the_last_core().first().copied();
        Ok(Stand::Peers { all, core })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Stand::Outside { .. } => 1,
            Stand::Peers { all, .. } => all.len(),
        }
    }

    /// Each by himself.
    pub fn each(self) -> Vec<Stand> {
        match self {
            Stand::Peers { all, core } => {
                let alone = |which| Stand::Peers {
                    all: vec![which],
                    core,
                };
                all.into_iter().map(alone).collect()
            }
            outside => vec![outside],
        }
    }

    /// Runs a scenario on each, in their order but for who begins: the `turn` says that.
    ///
    /// # Errors
    /// Somebody can't be had, or can't take part.
    pub fn run(
        &self,
        scenario: &Scenario,
        whom: &Whom,
        turn: usize,
        mut look: impl FnMut(&str, &Now),
    ) -> Result<Vec<Run>, Failed> {
        let (all, core) = match self {
            Stand::Outside { server, url } => {
                let run = outside(server, url, whom, scenario.clone(), |now| look(url, now))?;
                return Ok(vec![run]);
            }
            Stand::Peers { all, core } => (all, *core),
        };
        let mut runs = Vec::new();
        for at in 0..all.len() {
            let at = (at + turn) % all.len();
            let which = all[at];
            if let Some(why) = which.lacks(scenario) {
                say(&format!("{}: left out: {why}\n", scenario.name));
                continue;
            }
            let run = one(which, scenario, whom.seed, core, |now| {
                look(which.name(), now)
            });
            // The others can be measured all the same.
            let run = run.unwrap_or_else(|why| Run {
                scenario: scenario.told(),
                target: report::Target {
                    name: which.name().to_owned(),
                    ..report::Target::default()
                },
                seed: whom.seed,
                invalid: vec![why],
                ..Run::default()
            });
            runs.push((at, run));
        }
        runs.sort_by_key(|(at, _)| *at);
        Ok(runs.into_iter().map(|(_, run)| run).collect())
    }
}

fn outside(
    server: &Server,
    url: &str,
    whom: &Whom,
    mut scenario: Scenario,
    look: impl FnMut(&Now),
) -> Result<Run, Failed> {
    if !scenario.event.is_empty() {
        let why = format!(
            "{}: what happens in it can only happen to proxies that are started here (--peers)",
            scenario.name
        );
        return Err(Failed::Misused(why));
    }
    let mut site = Site::of(&scenario);
    // Our own scenarios' pages are our own app's.
    let is_ours = OWN.iter().any(|(name, _)| *name == scenario.name);
    let first = ["/".to_owned()];
    let paths = match whom.paths.as_slice() {
        [] if is_ours => &first,
        paths => paths,
    };
    if !paths.is_empty() {
        at_paths(&mut scenario, paths.len());
        site = Site::at(paths);
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
    let mut run = conduct(&plan, &mut Elses, look).map_err(Failed::Broke)?;
    run.target.name = server.host.clone();
    run.target.url = url.to_owned();
    Ok(run)
}

/// The whole crowd is for these paths.
fn at_paths(scenario: &mut Scenario, count: usize) {
    let first = scenario.pages.first().cloned();
    let pages = first.map(|first| Pages {
        name: "target".to_owned(),
        count: count as u32,
        kind: Kind::Public,
        ..first
    });
    scenario.pages = pages.into_iter().collect();
    scenario
        .crowd
        .iter_mut()
        .for_each(|crowd| crowd.wants.clear());
}

fn one(
    which: Which,
    scenario: &Scenario,
    seed: u64,
    core: Option<usize>,
    look: impl FnMut(&Now),
) -> Result<Run, String> {
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
    let mut run = conduct(&plan, &mut peer, look)?;
    let answers = run.answers.by_status.values().sum();
    run.process = Some(peers::process(before, peer.taken(), answers));
    run.target = target;
    Ok(run)
}
