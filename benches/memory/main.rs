//! Memory: a small `max_memory` under a million distinct pages and 500 slow readers of large objects. What is
//! resident must stay under the cap, a tenth more, and what the process takes when idle.

#![expect(unsafe_code, reason = "epoll, pinning and signals are system calls")]

#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use support::args::{self, Args};
use support::client::Clients;
use support::http::End;
use support::noise::Body;
use support::origin::{Origin, Plan};
use support::process;
use support::readers::{Reader, Readers};
use support::report::{Checks, count, mib};
use support::sys;
use support::tidegate::{Folder, Setup, Tidegate};

const CAP: u64 = 64 << 20;
const LARGE: usize = 8 << 20;
const CONNECTIONS: usize = 64;

/// What became of the pages.
#[derive(Default)]
struct Pages {
    right: u64,
    refused: u64,
    wrong: u64,
    lost: u64,
}

fn main() -> ExitCode {
    args::run(
        "memory",
        "Resident memory under a million pages and 500 slow readers.",
        &[
            ("--pages", "distinct pages, 1000000"),
            ("--slow", "slow readers of 8 MiB objects, 500"),
            ("--seconds", "give up after, 900"),
        ],
        measure,
    )
}

fn measure(args: &Args) -> Result<Checks, String> {
    let pages = args.number("--pages", if args.quick { 50_000 } else { 1_000_000 });
    let slow = args.number("--slow", 500) as usize;
    let seconds = args.number("--seconds", 900);
    sys::raise_open_files();
    let (server_core, client_core) = sys::cores();
    sys::pin(client_core);

    let folder = Folder::temporary("memory");
    let origin = Origin::start(client_core, false, |path| Plan::Page {
        delay: Duration::ZERO,
        len: length(path),
        cache_control: "max-age=3600",
    });
    // Every slow reader's object keeps its request to the origin open: the budget has to be wider than they are many, and
    // the time longer than the run.
    let setup = Setup {
        origin: origin.port,
        core: server_core,
        cache: "max_memory = \"64MiB\"",
        upstream: "max_in_flight = 1024\ntotal_timeout = \"1h\"",
        route: "",
        build: None,
    };
    let tidegate = Tidegate::start(folder.path(), &setup)?;
    std::thread::sleep(Duration::from_secs(1));
    let pid = tidegate.server.pid();
    let idle = process::taken(pid).resident;
    process::forget_peak(pid);
    let watch = Watch::start(pid);

    let all = (0..slow).map(|i| Reader {
        path: format!("/large/{i}"),
        len: Some(LARGE),
        per_tick: 1 << 10,
    });
    let readers = Readers::start(client_core, tidegate.port, all.collect());
    readers.wait_begun(slow, Duration::from_secs(10));
    println!(
        "idle {}, with {} of {slow} slow readers answered {}",
        mib(idle),
        readers.begun(),
        mib(process::taken(pid).resident)
    );
    let start = sys::now();
    let fared = ask_all(&tidegate, pages, seconds);
    let took = (sys::now() - start) as f64 / 1e9;
    let tally = readers.finish();
    let (samples, threads) = watch.finish();
    let peak = process::taken(pid).peak;

    let tenths = (0..10).filter_map(|tenth| samples.get(samples.len() * tenth / 10));
    let course: Vec<String> = tenths.map(|&bytes| mib(bytes)).collect();
    println!("resident, by tenths of the run: {}", course.join(", "));
    let asked = fared.right + fared.refused + fared.wrong + fared.lost;
    println!(
        "{} pages in {took:.1} s, {:.0}/s",
        count(asked),
        asked as f64 / took
    );
    println!(
        "slow readers: {} served ({} whole), {} refused, {} broken, {} wrong, {} silent; {} read",
        tally.served,
        tally.whole,
        tally.refused,
        tally.broken,
        tally.wrong,
        tally.silent,
        mib(tally.bytes)
    );
    let mut checks = Checks::default();
    let limit = CAP + CAP / 10 + idle;
    checks.check(
        peak <= limit,
        "resident memory under max_memory + 10 % + idle",
        format!(
            "peak {} of {}, at most {threads} threads",
            mib(peak),
            mib(limit)
        ),
    );
    checks.check(
        asked == pages,
        "every page asked for",
        format!("{} of {}", count(asked), count(pages)),
    );
    checks.check(
        fared.wrong == 0 && tally.wrong == 0,
        "no answer wrong",
        format!("{} pages, {} slow readers", fared.wrong, tally.wrong),
    );
    checks.check(
        fared.right * 100 >= asked * 99,
        "pages answered 200, whole",
        format!(
            "{}, {} refused, {} lost",
            count(fared.right),
            count(fared.refused),
            count(fared.lost)
        ),
    );
    checks.check(
        tally.served > 0 && tally.served + tally.refused + tally.broken == slow,
        "every slow reader served, refused at once, or cut for its slowness",
        format!(
            "{} served, {} refused, {} cut of {slow}",
            tally.served, tally.refused, tally.broken
        ),
    );
    Ok(checks)
}

/// Large objects are 8 MiB, pages some 10 KB, each its own length.
fn length(path: &str) -> usize {
    let number = path
        .strip_prefix("/page/")
        .and_then(|n| n.parse::<usize>().ok());
    number.map_or(LARGE, |n| 9728 + n * 7919 % 1024)
}

/// Asks for each page once, as fast as answers come.
fn ask_all(tidegate: &Tidegate, pages: u64, seconds: u64) -> Pages {
    let mut clients = Clients::new(tidegate.port);
    let mut fared = Pages::default();
    let mut next = 0;
    let mut ask = |clients: &mut Clients, client: usize| {
        if next < pages {
            let path = format!("/page/{next}");
            let body = Body::of(&path, length(&path));
            clients.ask(client, &path, body, sys::now());
            next += 1;
        }
    };
    for _ in 0..CONNECTIONS {
        let client = clients.add();
        ask(&mut clients, client);
    }
    let give_up = sys::now() + seconds * 1_000_000_000;
    let mut log_checked = sys::now();
    let mut free = Vec::new();
    while clients.waiting() > 0 && sys::now() < give_up {
        clients.poll(100, |outcome| {
            let count = match (outcome.end, outcome.status) {
                (End::Whole, 200) => &mut fared.right,
                (End::Whole, _) => &mut fared.refused,
                (End::Wrong, _) => &mut fared.wrong,
                (End::Broken, _) => &mut fared.lost,
            };
            *count += 1;
            free.push(outcome.connection);
        });
        for client in free.drain(..) {
            ask(&mut clients, client);
        }
        if sys::now() - log_checked > 5_000_000_000 {
            log_checked = sys::now();
            let _ = std::fs::OpenOptions::new()
                .write(true)
                .open(&tidegate.log)
                .and_then(|log| log.set_len(0));
        }
    }
    fared
}

/// Samples every 50 ms what the kernel keeps no peak of, and what is resident, to show its course.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(Vec<u64>, u64)>,
}

impl Watch {
    fn start(pid: u32) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut resident, mut threads) = (Vec::new(), 0);
            while !stopped.load(Relaxed) {
                let taken = process::taken(pid);
                resident.push(taken.resident);
                threads = threads.max(taken.threads);
                std::thread::sleep(Duration::from_millis(50));
            }
            (resident, threads)
        });
        Watch { stop, thread }
    }

    /// The samples of what was resident, in order, and the most threads seen.
    fn finish(self) -> (Vec<u64>, u64) {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap_or_default()
    }
}
