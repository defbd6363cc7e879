//! Other configs, another binary in the place of the running one, and restarts, under load: what clients see of it.
//!
//! Configs alternate between two with two marks each on their answers, made from different tables; an answer with marks of both is a
//! mixture. One in five is bad.
//!
//! A request is accepted when the proxy has read it. Each that it has, by its access log, must have reached its client
//! whole; and through upgrades, where the sockets live on, no client may notice anything at all.

#![expect(unsafe_code, reason = "epoll, pinning and signals are system calls")]

#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../support/mod.rs"]
mod support;

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use support::args::{self, Args};
use support::client::{Clients, fetch};
use support::http::End;
use support::noise::Body;
use support::origin::{Origin, Plan};
use support::process::Server;
use support::report::{Checks, count, ms, quantile};
use support::sys;
use support::tidegate::{Folder, Setup, Tidegate, binary};

const PAGES: u64 = 20;
const PAGE: usize = 10 << 10;
/// The most at once, as a pool of connections has it: far below what one client may have.
const CONNECTIONS: usize = 512;
/// Between one change and the next.
const PAUSE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    args::run(
        "upgrade",
        "Reloads, upgrades and restarts under load, and what clients see of them.",
        &[
            ("--rate", "requests a second, 5000"),
            (
                "--reloads",
                "configs put in force, one in five of them bad, 100",
            ),
            ("--times", "upgrades, and then restarts, 10"),
        ],
        measure,
    )
}

fn measure(args: &Args) -> Result<Checks, String> {
    let rate = args.number("--rate", if args.quick { 500 } else { 5000 });
    let times = args.number("--times", if args.quick { 2 } else { 10 });
    sys::raise_open_files();
    let mut checks = Checks::default();
    let reloads = args.number("--reloads", if args.quick { 10 } else { 100 });
    println!("{reloads} reloads at {rate} requests/s on a schedule");
    let seen = run(reload, reloads, rate)?;
    told(&mut checks, "reloads", &seen);
    checks.check(
        seen.mixed == 0,
        "reloads: no answer mixes two configs",
        format!(
            "{} mixed; {} by one, {} by the other",
            seen.mixed,
            count(seen.by[0]),
            count(seen.by[1])
        ),
    );
    for (what, change) in [("upgrades", upgrade as Change), ("restarts", restart)] {
        println!("{times} {what} at {rate} requests/s on a schedule, {PAGES} pages of 10 KB");
        let seen = run(change, times, rate)?;
        told(&mut checks, what, &seen);
    }
    Ok(checks)
}

/// Puts another process in the place of the running one.
type Change = fn(Server, &Place, u64) -> Result<Server, String>;

/// Where the processes run.
struct Place<'a> {
    folder: &'a Path,
    config: &'a Path,
    port: u16,
    core: usize,
}

impl Place<'_> {
    fn command(&self, more: &[&str]) -> Result<Command, String> {
        let mut command = Command::new(binary()?);
        command.args(["run", "-c"]).arg(self.config).args(more);
        command.env("STATE_DIRECTORY", self.folder.join("state"));
        Ok(command)
    }
}

fn upgrade(old: Server, place: &Place, _: u64) -> Result<Server, String> {
    let output = place.folder.join("successor.out");
    let mut command = place.command(&["--upgrade"])?;
    let waits = "waiting for the running process";
    let new = Server::start_until(&mut command, place.core, &output, waits)?;
    old.end(libc::SIGQUIT)?;
    Ok(new)
}

/// What the config says of the route and after it.
fn marked(number: u64) -> String {
    format!(
        "x_cache = {}\n\n[[limit]]\nname = \"n{number}\"\nrate = \"{}/s\"\ntell = \"always\"\n",
        number % 2 == 1,
        500_000 + number
    )
}

/// Another config, the `turn`-th, counted from 1.
fn reload(old: Server, place: &Place, turn: u64) -> Result<Server, String> {
    let (first, next) = (
        place.folder.join("first.toml"),
        place.folder.join("next.toml"),
    );
    if turn == 1 {
        fs::copy(place.config, &first).map_err(|e| e.to_string())?;
    }
    let text = fs::read_to_string(&first).map_err(|e| e.to_string())?;
    let to = match turn.is_multiple_of(5) {
        true => "[[rout".to_owned(),
        false => text.replace(&marked(0), &marked(turn)),
    };
    fs::write(&next, to).map_err(|e| e.to_string())?;
    fs::rename(&next, place.config).map_err(|e| e.to_string())?;
    sys::signal(old.pid(), libc::SIGHUP);
    let admin = text.split("[admin]\naddress = \"").nth(1);
    let admin = admin
        .and_then(|rest| rest.split('"').next())
        .unwrap_or_default();
    let waits_until = sys::now() + 5_000_000_000;
    loop {
        let changes = changes(admin)?;
        match changes.0 + changes.1 >= turn {
            true if changes.1 == turn / 5 => return Ok(old),
            _ if sys::now() > waits_until => {
                return Err(format!(
                    "turn {turn}: {changes:?} configs were taken and refused"
                ));
            }
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// How many configs were put in force, and refused.
fn changes(admin: &str) -> Result<(u64, u64), String> {
    let told = |e: std::io::Error| format!("the admin listener: {e}");
    let mut stream = TcpStream::connect(admin).map_err(told)?;
    let ask = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).map_err(told)?;
    let mut page = String::new();
    stream.read_to_string(&mut page).map_err(told)?;
    let count = |result: &str| {
        let name = format!("tidegate_config_changes_total{{result=\"{result}\"}} ");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name.as_str()));
        line.and_then(|count| count.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Ok((count("done"), count("refused")))
}

fn restart(old: Server, place: &Place, _: u64) -> Result<Server, String> {
    old.end(libc::SIGTERM)?;
    let output = place.folder.join("restarted.out");
    Server::start(&mut place.command(&[])?, place.core, place.port, &output)
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    asked: u64,
    /// Ids of the answers that were whole.
    whole: HashSet<String>,
    /// Not 200, or other bytes.
    wrong: u64,
    /// Broken off after its first byte.
    cut: u64,
    /// The connection closed before a byte of the answer: asked again.
    crossed: u64,
    /// Nobody listened: asked again.
    refused: u64,
    unanswered: u64,
    latencies: Vec<u64>,
    /// Of the requests that the proxies read, by their access log.
    logged: u64,
    lost: u64,
    /// With marks of two configs; and those of either kind.
    mixed: u64,
    by: [u64; 2],
}

fn run(change: Change, times: u64, rate: u64) -> Result<Seen, String> {
    let (server_core, client_core) = sys::cores();
    sys::pin(client_core);
    let folder = Folder::temporary("upgrade");
    let origin = Origin::start(client_core, false, |_| Plan::Page {
        delay: Duration::ZERO,
        len: PAGE,
        cache_control: "max-age=600",
    });
    let setup = Setup {
        origin: origin.port,
        core: server_core,
        cache: "",
        upstream: "",
        route: &marked(0),
        build: None,
    };
    let tidegate = Tidegate::start(folder.path(), &setup)?;
    fetch(tidegate.port, "/0", PAGE, 5000).ok_or("no first page")?;
    let (port, log) = (tidegate.port, tidegate.log.clone());
    let config = folder.path().join(format!("tidegate-{port}.toml"));
    let place = Place {
        folder: folder.path(),
        config: &config,
        port,
        core: server_core,
    };
    let left = AtomicUsize::new(times as usize);
    let pause = PAUSE.min(Duration::from_secs(10) / times.max(1) as u32);
    let mut seen = std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let mut running = tidegate.server;
            let mut all = || {
                for turn in 1..=times {
                    std::thread::sleep(pause);
                    running = change(
                        std::mem::replace(&mut running, Server::none()),
                        &place,
                        turn,
                    )?;
                    left.fetch_sub(1, Relaxed);
                }
                std::thread::sleep(PAUSE);
                Ok(())
            };
            let done: Result<(), String> = all();
            left.store(usize::MAX, Relaxed);
            // What it has answered is in its log when it has ended.
            done.map(|()| running)
        });
        let seen = load(port, rate, || left.load(Relaxed) == usize::MAX);
        let ended = changes.join().map_err(|_| "the changes panicked")?;
        ended?.end(libc::SIGTERM)?;
        Ok::<_, String>(seen)
    })?;
    let log = fs::read_to_string(&log).map_err(|e| format!("the access log: {e}"))?;
    for line in log.lines() {
        let id = line.split("\"request_id\":\"").nth(1);
        let id = id
            .and_then(|rest| rest.split('"').next())
            .unwrap_or_default();
        seen.logged += 1;
        seen.lost += u64::from(!seen.whole.contains(id));
    }
    // The first page was asked for by none of them.
    seen.logged -= 1;
    seen.lost -= 1;
    Ok(seen)
}

/// Asks on a schedule until `over`, and asks again what found nobody.
fn load(port: u16, rate: u64, over: impl Fn() -> bool) -> Seen {
    let mut clients = Clients::new(port);
    let mut idle: Vec<usize> = (0..64).map(|_| clients.add()).collect();
    let mut seen = Seen::default();
    let mut due: VecDeque<(u64, u64)> = VecDeque::new();
    let mut asking: Vec<(u64, u64)> = vec![(0, 0); idle.len()];
    let start = sys::now();
    let mut ends_by = None;
    loop {
        let now = sys::now();
        if ends_by.is_none() && over() {
            ends_by = Some(now + 5_000_000_000);
        }
        while ends_by.is_none() && start + seen.asked * 1_000_000_000 / rate <= now {
            due.push_back((seen.asked, start + seen.asked * 1_000_000_000 / rate));
            seen.asked += 1;
        }
        while let Some((number, intended)) = due.pop_front() {
            if idle.is_empty() && clients.len() == CONNECTIONS {
                due.push_front((number, intended));
                break;
            }
            let client = idle.pop().unwrap_or_else(|| clients.add());
            asking.resize(clients.len(), (0, 0));
            asking[client] = (number, intended);
            let path = format!("/{}", number % PAGES);
            if !clients.try_ask(client, &path, Body::of(&path, PAGE), intended) {
                idle.push(client);
                seen.refused += 1;
                due.push_front((number, intended));
                break;
            }
        }
        clients.poll(1, |outcome| {
            idle.push(outcome.connection);
            match (outcome.end, outcome.status) {
                (End::Whole, 200) => {
                    let policy = outcome.policy.as_deref().and_then(|said| {
                        let number = said.strip_prefix("\"n")?.split('"').next()?;
                        number.parse::<u64>().ok()
                    });
                    let odd = usize::from(outcome.x_cache);
                    seen.by[odd] += 1;
                    seen.mixed += u64::from(policy.is_none_or(|n| n % 2 != odd as u64));
                    seen.whole.extend(outcome.request_id);
                    seen.latencies.push(outcome.done - outcome.intended);
                }
                (End::Broken, 0) if outcome.first_byte == outcome.done => {
                    seen.crossed += 1;
                    due.push_back(asking[outcome.connection]);
                }
                (End::Broken, _) => seen.cut += 1,
                _ => seen.wrong += 1,
            }
        });
        let settled = due.is_empty() && clients.waiting() == 0;
        match ends_by {
            Some(by) if settled || sys::now() > by => break,
            _ => {}
        }
    }
    seen.unanswered = (clients.waiting() + due.len()) as u64;
    seen
}

fn told(checks: &mut Checks, what: &str, seen: &Seen) {
    let whole = seen.whole.len() as u64;
    checks.check(
        whole == seen.asked && seen.wrong == 0 && seen.cut == 0 && seen.unanswered == 0,
        format!("{what}: every request answered, whole and right"),
        format!(
            "{} of {}; {} wrong, {} cut, {} unanswered",
            count(whole),
            count(seen.asked),
            seen.wrong,
            seen.cut,
            seen.unanswered
        ),
    );
    checks.check(
        seen.lost == 0 && seen.logged == whole,
        format!("{what}: every request that was accepted reached its client"),
        format!("{} logged, {} lost", count(seen.logged), seen.lost),
    );
    let again = format!(
        "{} closed before an answer, {} refused; p99 {}, longest {}",
        seen.crossed,
        seen.refused,
        ms(quantile(&seen.latencies, 0.99)),
        ms(quantile(&seen.latencies, 1.0))
    );
    match what {
        "upgrades" | "reloads" => checks.check(
            seen.crossed + seen.refused == 0,
            format!("{what}: nobody had to ask twice"),
            again,
        ),
        _ => println!("      {what}: asked again: {again}"),
    }
}
