//! What origins go through, and what their visitors get: a cold spike, an overload, a greedy client, a farm whose servers
//! fail, and an outage, each in front of origins of known capacity, beside nginx and Varnish where they are installed.
//!
//! The crowd and the origins are `tidegate::bench`'s. Each proxy has one core and fresh origins of its own; crowd and origins
//! share the other.

#![expect(unsafe_code, reason = "pinning and signals are system calls")]

#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../support/mod.rs"]
mod support;

mod cold;
mod farm;
mod greedy;
mod outage;
mod overload;
mod stand;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::bench::driver::{Driven, Load, Outcome, drive};
use tidegate::bench::origin::{Page, Plan};
use tidegate::bench::schedule::Arrival;

use stand::{Place, Settings, Stand, Which, stand};
use support::args::{self, Args};
use support::report::Checks;
use support::sys;
use support::tidegate::{Folder, target};

/// The origin of most measurements: so many requests at once, so long each.
const AT_ONCE: usize = 8;
const TAKES: Duration = Duration::from_millis(50);
const SEED: u64 = 4;

type Scenario = fn(&Bench, &mut Checks) -> Result<Shown, String>;

const SCENARIOS: [(&str, Scenario); 5] = [
    ("cold", cold::measure),
    ("overload", overload::measure),
    ("greedy", greedy::measure),
    ("farm", farm::measure),
    ("outage", outage::measure),
];

/// What a measurement leaves: figures and a chart.
struct Shown {
    figures: Value,
    svg: String,
}

/// What all of them share.
struct Bench<'a> {
    place: Place<'a>,
    contenders: Vec<Which>,
    quick: bool,
    /// Tidegate's `max_in_flight` where the origin is overloaded; else it is what the origin can do.
    budget: String,
}

impl Bench<'_> {
    /// Measures all contenders at once, each before origins of its own. A peer that could not be measured is said to be
    /// left out; ours is the first.
    fn side_by_side<T: Send>(
        &self,
        settings: &Settings,
        plans: &[Plan],
        run: impl Fn(&Stand) -> Result<T, String> + Sync,
    ) -> Result<Vec<T>, String> {
        let stands = self
            .contenders
            .iter()
            .map(|which| stand(*which, &self.place, settings, plans));
        let stands: Vec<Stand> = stands.collect::<Result<_, _>>()?;
        let ran: Vec<_> = thread::scope(|scope| {
            let run = &run;
            let running: Vec<_> = stands
                .iter()
                .map(|stand| scope.spawn(move || run(stand)))
                .collect();
            let joined = running.into_iter().map(|one| one.join());
            joined
                .map(|one| one.unwrap_or(Err("it panicked".into())))
                .collect()
        });
        let mut measured = Vec::new();
        for one in ran {
            match one {
                Ok(one) => measured.push(one),
                Err(why) if measured.is_empty() => return Err(why),
                Err(why) => println!("skipped: {why}"),
            }
        }
        Ok(measured)
    }
}

fn main() -> ExitCode {
    let names: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
    args::run_with_words(
        "origin",
        "Origins in a spike, overloaded, beside a greedy client, failing one by one and all at once.",
        &[],
        &[
            ("--only", &names, "one of the measurements"),
            (
                "--budget",
                &[],
                "Tidegate's max_in_flight in overload and greedy, auto",
            ),
        ],
        measure,
    )
}

fn measure(args: &Args) -> Result<Checks, String> {
    sys::raise_open_files();
    let (server_core, client_core) = sys::cores();
    sys::pin(client_core);
    let (dir, shm) = (
        Folder::temporary("origin"),
        Folder::below(Path::new("/dev/shm"), "origin"),
    );
    let budget = args.word("--budget").unwrap_or("auto");
    let bench = Bench {
        place: Place {
            dir: dir.path(),
            shm: shm.path(),
            core: server_core,
        },
        contenders: stand::contenders(),
        quick: args.quick,
        budget: match budget.parse::<u32>() {
            Ok(_) => budget.to_owned(),
            Err(_) => format!("\"{budget}\""),
        },
    };
    println!(
        "proxies on core {server_core}, crowd and origins on core {client_core}, {}",
        sys::processor()
    );
    let mut checks = Checks::default();
    for (name, scenario) in SCENARIOS {
        if args.word("--only").is_some_and(|only| only != name) {
            continue;
        }
        println!("\n{name}");
        let before = checks.lines.len();
        match scenario(&bench, &mut checks) {
            Ok(shown) => write(name, &shown, &checks.lines[before..])?,
            Err(why) => checks.check(false, name, why),
        }
    }
    Ok(checks)
}

/// origin-NAME.json and .svg in target/bench.
fn write(name: &str, shown: &Shown, checks: &[(bool, String, String)]) -> Result<(), String> {
    let folder = target().join("bench");
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let judged: Vec<Value> = checks
        .iter()
        .map(
            |(passed, what, figures)| json!({ "passed": passed, "what": what, "figures": figures }),
        )
        .collect();
    let json = json!({
        "unix_time": sys::wall(), "processor": sys::processor(), "figures": shown.figures, "checks": judged,
    });
    for (ending, what) in [("json", format!("{json:#}\n")), ("svg", shown.svg.clone())] {
        let file = folder.join(format!("origin-{name}.{ending}"));
        fs::write(&file, what).map_err(|e| format!("{}: {e}", file.display()))?;
        println!("written: {}", file.display());
    }
    Ok(())
}

/// An origin of [`AT_ONCE`] and [`TAKES`].
fn plan(server: u8, page: fn(&str) -> Page) -> Plan {
    Plan {
        at_once: AT_ONCE,
        takes: TAKES,
        server,
        page,
    }
}

fn no_store(_: &str) -> Page {
    Page {
        len: 10 << 10,
        cache_control: "no-store",
    }
}

/// Sends `arrivals` to a stand.
fn send(
    stand: &Stand,
    arrivals: &std::sync::Arc<[Arrival]>,
    patience: Duration,
    told: impl FnMut(Outcome),
) -> Result<Driven, String> {
    let load = Load {
        server: stand.address,
        host: "bench.test".into(),
        arrivals: arrivals.clone(),
        patience,
        path: |page| format!("/page/{page}"),
    };
    let driven = drive(&load, told).map_err(|e| e.to_string())?;
    if driven.late > Duration::from_millis(100) {
        println!(
            "! {}: the crowd itself was {} ms late at worst; measure again on an idle machine",
            stand.which.name(),
            driven.late.as_millis()
        );
    }
    Ok(driven)
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// A part in hundredths.
fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}
