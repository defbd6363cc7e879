//! An outage: pages are warmed and expire, then the origin is killed, answers 500, resets, hangs, or takes 30 s.
//! Every page must still come, marked stale, and no later than `serve_stale_after` allows.

#![expect(unsafe_code, reason = "epoll, pinning and signals are system calls")]

#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use support::args::{self, Args};
use support::client::{Outcome, fetch, open_loop};
use support::http::End;
use support::origin::{Mode, Origin, Plan};
use support::report::{Checks, count, ms, quantile};
use support::sys;
use support::tidegate::{Folder, Setup, Tidegate};

const PAGES: u64 = 50;
const PAGE: usize = 10 << 10;
const SERVE_STALE_AFTER: u64 = 300;
const LIMIT: u64 = (SERVE_STALE_AFTER + 20) * 1_000_000;

fn main() -> ExitCode {
    args::run(
        "outage",
        "Warmed pages while the origin is down, broken, silent or slow.",
        &[
            ("--rate", "requests a second, 1000"),
            ("--seconds", "length of each outage, 5"),
        ],
        measure,
    )
}

fn measure(args: &Args) -> Result<Checks, String> {
    let rate = args.number("--rate", 1000);
    let seconds = args.number("--seconds", if args.quick { 2 } else { 5 });
    sys::raise_open_files();
    let (server_core, client_core) = sys::cores();
    sys::pin(client_core);
    println!(
        "{PAGES} pages, {rate} requests/s on a schedule for {seconds} s, serve_stale_after {SERVE_STALE_AFTER} ms"
    );

    let mut checks = Checks::default();
    let faults = [
        ("killed", None),
        ("answering 500", Some(Mode::Error500)),
        ("resetting", Some(Mode::Reset)),
        ("hanging", Some(Mode::Hang)),
        ("taking 30 s", Some(Mode::Slow)),
    ];
    for (name, mode) in faults {
        if let Err(why) = outage(
            &mut checks,
            name,
            mode,
            rate,
            seconds,
            server_core,
            client_core,
        ) {
            checks.check(false, format!("origin {name}"), why);
        }
    }
    Ok(checks)
}

/// One fault, on a proxy of its own. Without a mode the origin is killed.
fn outage(
    checks: &mut Checks,
    name: &str,
    mode: Option<Mode>,
    rate: u64,
    seconds: u64,
    server_core: usize,
    client_core: usize,
) -> Result<(), String> {
    let folder = Folder::temporary("outage");
    let origin = Origin::start(client_core, false, |_| Plan::Page {
        delay: Duration::ZERO,
        len: PAGE,
        cache_control: "max-age=1",
    });
    let setup = Setup {
        origin: origin.port,
        core: server_core,
        cache: "",
        upstream: "",
        route: &format!("serve_stale_after = \"{SERVE_STALE_AFTER}ms\""),
        build: None,
    };
    let tidegate = Tidegate::start(folder.path(), &setup)?;
    for page in 0..PAGES {
        let answer = fetch(tidegate.port, &path(page), PAGE, 5000);
        if !answer.is_some_and(|o| o.status == 200 && o.end == End::Whole) {
            return Err(format!("warming {} failed", path(page)));
        }
    }
    // max-age=1 counted in whole seconds is over two seconds after any fill.
    std::thread::sleep(Duration::from_millis(2100));
    let seen = origin.seen.clone();
    let before = seen.requests.load(Relaxed);
    let mut alive = Some(origin);
    match mode {
        Some(mode) => seen.set(mode),
        None => alive = None,
    }

    let outcomes = open_loop(tidegate.port, rate, seconds, 3_000_000_000, |i| {
        (path(i % PAGES), PAGE)
    });
    let asked = seen.requests.load(Relaxed) - before;
    drop(tidegate);
    drop(alive);

    let wanted = rate * seconds;
    let right = outcomes
        .iter()
        .filter(|o| o.status == 200 && o.end == End::Whole)
        .count() as u64;
    checks.check(
        right == wanted,
        format!("origin {name}: every answer 200, whole and right"),
        format!("{} of {}{}", count(right), count(wanted), others(&outcomes)),
    );
    let stale = outcomes.iter().filter(|o| is_marked_stale(o)).count() as u64;
    let example = outcomes
        .iter()
        .find(|o| !is_marked_stale(o))
        .or(outcomes.last());
    let example = example
        .and_then(|o| o.cache_status.as_deref())
        .unwrap_or("none");
    checks.check(
        stale == wanted,
        format!("origin {name}: every answer marked stale"),
        format!("{} of {}, as in: {example}", count(stale), count(wanted)),
    );
    let waits: Vec<u64> = outcomes.iter().map(|o| o.done - o.intended).collect();
    let p99 = quantile(&waits, 0.99);
    checks.check(
        p99 <= LIMIT && !waits.is_empty(),
        format!("origin {name}: p99 at most {}", ms(LIMIT)),
        format!(
            "p50 {}, p99 {}, longest {}; the origin was asked {asked} times",
            ms(quantile(&waits, 0.5)),
            ms(p99),
            ms(quantile(&waits, 1.0))
        ),
    );
    Ok(())
}

fn path(page: u64) -> String {
    format!("/warm/{page}")
}

/// Cache-Status (RFC 9211 §2.3) tells a stale answer by a negative ttl.
fn is_marked_stale(outcome: &Outcome) -> bool {
    outcome
        .cache_status
        .as_deref()
        .is_some_and(|told| told.contains("ttl=-"))
}

/// The statuses that were not 200, for the report.
fn others(outcomes: &[Outcome]) -> String {
    let mut statuses: Vec<u16> = outcomes
        .iter()
        .map(|o| o.status)
        .filter(|&s| s != 200)
        .collect();
    statuses.sort_unstable();
    let groups = statuses.chunk_by(|a, b| a == b);
    groups
        .map(|group| format!(", {} × {}", group.len(), group[0]))
        .collect()
}
