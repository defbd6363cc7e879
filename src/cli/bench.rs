//! `tidegate bench`: measures what a crowd does to a site or a proxy.

mod capacity;
mod spike;
mod stand;
mod target;

use std::fs;
use std::path::{Path, PathBuf};

use super::{DONE, FAILED, MISUSED, print, say};
use crate::bench::spike::report::{FORM, Report, Run};
use crate::bench::spike::{compare, html, live, machine, readme, saved};
use crate::clock;
use crate::telemetry::access::stamp;

/// Measure what a crowd does to a site or a proxy
#[derive(clap::Args, Clone, Debug)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum What {
    /// Send a crowd, and tell what came of it
    Spike(spike::Spike),
    /// Find the highest rate at which all goes well
    Capacity(capacity::Capacity),
    /// Tell what got better from one report to another, and what worse
    Compare {
        #[arg(value_name = "A.json")]
        a: PathBuf,
        #[arg(value_name = "B.json")]
        b: PathBuf,
    },
    /// Make a table for a README of a report
    Table {
        #[arg(value_name = "REPORT.json")]
        report: PathBuf,
    },
}

/// Who is measured.
#[derive(clap::Args, Clone, Debug)]
struct Whom {
    /// A site or a proxy that runs already
    #[arg(long, value_name = "URL", conflicts_with = "peers")]
    target: Option<String>,

    /// To be started: tidegate, nginx, varnish, haproxy
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "tidegate"
    )]
    peers: Vec<String>,

    /// What to ask a target for, the most wanted first [default: /]
    #[arg(long = "path", value_name = "PATH", requires = "target")]
    paths: Vec<String>,

    /// It is not on this machine, and mine: else that is an attack
    #[arg(long, requires = "target")]
    i_own_this: bool,

    /// Take any certificate of the target's
    #[arg(long, requires = "target")]
    insecure: bool,

    /// Another crowd of the same kind
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Where what came of it goes.
#[derive(clap::Args, Clone, Debug)]
struct Out {
    /// Write all figures to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) fn run(bench: &Bench) -> u8 {
    match &bench.what {
        What::Spike(spike) => spike::run(spike),
        What::Capacity(capacity) => capacity::run(capacity),
        What::Compare { a, b } => read(a).and_then(|a| Ok((a, read(b)?))).map_or_else(
            |told| told,
            |(a, b)| print(&compare::page(&compare::compare(&a, &b), columns())),
        ),
        What::Table { report } => read(report).map_or_else(
            |told| told,
            |report| print(&format!("{}\n", readme::table(&report).trim_end())),
        ),
    }
}

/// What was measured now, on this machine.
fn report(runs: Vec<Run>) -> Report {
    Report {
        form: FORM,
        made: stamp(clock::wall_millis(clock::moment())),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: machine::this(),
        runs,
    }
}

/// Columns of the screen, or of a page where there is none.
fn columns() -> usize {
    live::width().unwrap_or(100)
}

/// The error has been told, and is the exit code.
fn read(path: &Path) -> Result<Report, u8> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|e| format!("{name}: {e}"));
    text.and_then(|text| saved::read(&text, &name))
        .map_err(|why| {
            say(&format!("error: {why}\n"));
            MISUSED
        })
}

impl Out {
    /// Writes a report where it is wanted.
    fn write(&self, report: &Report) -> u8 {
        // It is made of texts and numbers.
        let json = || serde_json::to_string_pretty(report).unwrap_or_default() + "\n";
        let json = self.json.as_ref().map(|path| (path, json()));
        let html = self.html.as_ref().map(|path| (path, html::page(report)));
        for (path, text) in json.into_iter().chain(html) {
            if let Err(why) = fs::write(path, text) {
                say(&format!("error: {}: {why}\n", path.display()));
                return FAILED;
            }
        }
        DONE
    }
}
