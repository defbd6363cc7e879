//! The hostile among the tests' wire scripts, run against nginx, Varnish, HAProxy and Tidegate in front of one recording
//! origin, and judged by rules that hold for any of them (`judge.rs`), not by the words of Tidegate's answers.

#![expect(unsafe_code, reason = "signals and affinity are system calls")]

mod client;
mod conn;
#[expect(dead_code, reason = "scripts are performed in another way here")]
#[path = "../../tests/harness/mod.rs"]
mod harness;
mod judge;
mod origin;
#[expect(dead_code, reason = "no access logs are read here")]
#[path = "../peers/servers.rs"]
mod servers;
#[expect(dead_code, reason = "one reader, more users")]
#[path = "../../fuzz/src/strict.rs"]
mod strict;
#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../support/mod.rs"]
mod support;
mod vectors;
mod verdict;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use client::Report;
use harness::clock;
use harness::script::Script;
use harness::text::show;
use judge::Kind;
use origin::Origin;
use servers::{Contender, Place};
use support::args::{self, Args};
use support::report::Checks;
use support::sys;
use support::tidegate::{Folder, target};
use vectors::{CLASSES, VECTORS};

/// How long anything that should come may take.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a connection may take to close that has to.
const CLOSING: Duration = Duration::from_millis(500);
/// How long all scripts may take against one server.
const PATIENCE: Duration = Duration::from_secs(60);
const OURS: &str = "tidegate";

fn main() -> ExitCode {
    args::run(
        "hostile",
        "Hostile wire scripts against Tidegate, nginx, HAProxy and Varnish.",
        &[("--class", "only this class, 1 to 37")],
        measure,
    )
}

/// All that was run against one server.
struct Trial {
    name: &'static str,
    version: String,
    /// By place in [`VECTORS`].
    reports: Vec<Option<Report>>,
    survived: bool,
}

fn measure(args: &Args) -> Result<Checks, String> {
    sys::raise_open_files();
    let dir = Folder::temporary("hostile");
    let origin = Origin::start()?;
    let place = Place {
        dir: dir.path(),
        shm: dir.path(),
        origin: origin.port,
        core: sys::cores().0,
        configs: [
            include_str!("nginx.conf"),
            include_str!("../peers/haproxy.cfg"),
            include_str!("../peers/varnish.vcl"),
        ],
    };
    let mut contenders = vec![servers::start_tidegate(OURS, None, &place)?];
    contenders.extend(servers::start_peers(&place));
    let class = args.number("--class", 0);
    let trials = contenders
        .into_iter()
        .map(|contender| attack(contender, &origin, class))
        .collect::<Result<Vec<_>, _>>()?;

    println!("\n{}", table(&trials));
    println!("{}", kinds());
    let file = target().join("bench/hostile.txt");
    let told = details(&trials);
    fs::create_dir_all(target().join("bench"))
        .and_then(|()| fs::write(&file, &told))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    println!("each finding: {}\n", file.display());
    let mut checks = Checks::default();
    let ours = &trials[0];
    let violations = count(ours, |_| true, Kind::is_violation);
    checks.check(
        violations == 0,
        "Tidegate violates no rule",
        format!("{violations} of {} requests", requests(ours, |_| true)),
    );
    checks.check(
        ours.survived && ours.reports.iter().all(|r| class > 0 || r.is_some()),
        "Tidegate ran through all scripts",
        format!("in {} s at most", PATIENCE.as_secs()),
    );
    if violations > 0 {
        let own = told.lines().filter(|line| line.starts_with(OURS));
        own.for_each(|line| println!("  {line}"));
    }
    Ok(checks)
}

fn attack(mut contender: Contender, origin: &Origin, class: u64) -> Result<Trial, String> {
    let begun = clock::now();
    let mut serial = 0;
    let mut reports = Vec::new();
    for vector in VECTORS {
        if (class > 0 && class != u64::from(vector.class)) || begun.elapsed() > PATIENCE {
            reports.push(None);
            continue;
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/wire")
            .join(format!("{}.wire", vector.script));
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let script = Script::parse(&text).map_err(|fault| format!("{}: {fault}", vector.script))?;
        let report = client::perform(script, vector, contender.port, origin, &mut serial);
        reports.push(Some(report));
    }
    println!(
        "{} {}: {} scripts in {:.1} s",
        contender.name,
        contender.version,
        reports.iter().flatten().count(),
        begun.elapsed().as_secs_f64()
    );
    Ok(Trial {
        name: contender.name,
        version: contender.version,
        reports,
        survived: contender.server.is_running(),
    })
}

/// Classes down, servers across; a cell says what a server did, and to how many requests.
fn table(trials: &[Trial]) -> String {
    let mut text = String::from("| class | requests |");
    for trial in trials {
        text += &format!(" {} {} |", trial.name, trial.version);
    }
    text += &format!("\n|---|---:|{}\n", "---|".repeat(trials.len()));
    for (class, what) in CLASSES {
        let sent = requests(&trials[0], |of| of == *class);
        if sent > 0 {
            text += &format!("| C{class} {what} | {sent} |");
            for trial in trials {
                text += &format!(" {} |", cell(trial, |of| of == *class));
            }
            text += "\n";
        }
    }
    text += &format!("| all: violations | {} |", requests(&trials[0], |_| true));
    for trial in trials {
        let found = count(trial, |_| true, Kind::is_violation);
        text += &format!(" {found} |");
    }
    text + "\n"
}

fn cell(trial: &Trial, of: impl Fn(u8) -> bool + Copy) -> String {
    let parts: Vec<_> = Kind::ALL
        .into_iter()
        .map(|kind| (kind, count(trial, of, |held| held == kind)))
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{} {count}", kind.name()))
        .collect();
    match parts.is_empty() {
        true => "ok".into(),
        false => parts.join(", "),
    }
}

fn count(trial: &Trial, of: impl Fn(u8) -> bool, kind: impl Fn(Kind) -> bool) -> usize {
    let found = of_class(trial, of).flat_map(|report| &report.findings);
    found.filter(|finding| kind(finding.kind)).count()
}

fn requests(trial: &Trial, of: impl Fn(u8) -> bool) -> usize {
    of_class(trial, of).map(|report| report.requests).sum()
}

fn of_class(trial: &Trial, of: impl Fn(u8) -> bool) -> impl Iterator<Item = &Report> {
    let reports = VECTORS.iter().zip(&trial.reports);
    reports.filter_map(move |(vector, report)| report.as_ref().filter(|_| of(vector.class)))
}

/// A line for each finding.
fn details(trials: &[Trial]) -> String {
    let mut text = String::new();
    for trial in trials {
        for (vector, report) in VECTORS.iter().zip(&trial.reports) {
            for finding in report.iter().flat_map(|report| &report.findings) {
                text += &format!(
                    "{} C{} {} {}.wire:{}: {}\n",
                    trial.name,
                    vector.class,
                    finding.kind.name(),
                    vector.script,
                    finding.line,
                    show(finding.why.as_bytes())
                );
            }
        }
    }
    text
}

fn kinds() -> &'static str {
    "forwards: the origin got what it never should. runs: it got a request that nobody had sent. caches: an answer from the \
     store that may not be,\nor another's. relays: a broken answer, or a cut one as if it were whole. open: went on where \
     nobody knows where the next request\nbegins. hangs: neither an answer nor a close within 2 s. accepts: took it for \
     good and passed it on clean; no violation here, but one\nbehind a server that reads it in another way."
}

/// Bytes as they go out: `site.test` by the name that it has at this time, which is as long.
fn on_stage(bytes: &[u8], site: &str) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for at in 0..out.len().saturating_sub(8) {
        if !site.is_empty() && &out[at..at + 9] == b"site.test" {
            out[at..at + 4].copy_from_slice(site.as_bytes());
        }
    }
    out
}

/// Bytes as the script has them: every `z….test` is `site.test` again.
fn from_stage(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for at in 0..out.len().saturating_sub(8) {
        let name = &out[at..at + 9];
        let digits = name[1..4]
            .iter()
            .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        if name[0] == b'z' && digits && name.ends_with(b".test") {
            out[at..at + 4].copy_from_slice(b"site");
        }
    }
    out
}
