//! A cold crowd: 1,000 clients at once on one uncached page that takes 500 ms, beside a bare broadcast of the same
//! bytes in the same run; then the same with event streams and slow readers connected, and 200 cold pages at once.

#![expect(unsafe_code, reason = "epoll, pinning and signals are system calls")]

#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../support/mod.rs"]
mod support;

mod broadcast;

use broadcast::Broadcast;
use std::process::ExitCode;
use std::time::Duration;
use support::args::{self, Args};
use support::client::{Clients, Outcome};
use support::http::End;
use support::noise::Body;
use support::origin::{Origin, Plan};
use support::readers::{Reader, Readers};
use support::report::{Checks, count, median, ms, quantile};
use support::sys;
use support::tidegate::{Folder, Setup, Tidegate};

const PAGE: usize = 10 << 10;
const LARGE: usize = 8 << 20;
const DELAY: Duration = Duration::from_millis(500);
const MAX_IN_FLIGHT: usize = 8;
const STREAMS: usize = 20;
const SLOW: usize = 50;
const PAGES: usize = 200;
/// Most that the slowest first byte may lag behind the broadcast's.
const RATIO: f64 = 3.0;

fn main() -> ExitCode {
    args::run(
        "crowd",
        "A cold crowd on one page, beside a raw broadcast of the same bytes.",
        &[
            ("--clients", "how many at once, 1000"),
            ("--rounds", "crowds each way, 5"),
        ],
        measure,
    )
}

fn measure(args: &Args) -> Result<Checks, String> {
    let clients = args.number("--clients", 1000) as usize;
    let rounds = args.number("--rounds", if args.quick { 2 } else { 5 });
    sys::raise_open_files();
    let (server_core, client_core) = sys::cores();
    sys::pin(client_core);

    let folder = Folder::temporary("crowd");
    let origin = Origin::start(client_core, true, plan);
    let setup = Setup {
        origin: origin.port,
        core: server_core,
        cache: "",
        upstream: &format!("max_in_flight = {MAX_IN_FLIGHT}"),
        route: "",
        build: None,
    };
    let tidegate = Tidegate::start(folder.path(), &setup)?;
    let broadcast = Broadcast::start(server_core, DELAY, PAGE);

    let mut checks = Checks::default();
    println!(
        "{} clients at once, {} bytes, origin {} ms, {rounds} rounds",
        count(clients as u64),
        PAGE,
        DELAY.as_millis()
    );
    one_page(
        &mut checks,
        "alone",
        clients,
        rounds,
        &origin,
        &tidegate,
        &broadcast,
    );

    let mut stay: Vec<Reader> = Vec::new();
    stay.extend((0..STREAMS).map(|_| Reader {
        path: "/events".into(),
        len: None,
        per_tick: 4 << 10,
    }));
    stay.extend((0..SLOW).map(|_| Reader {
        path: "/large".into(),
        len: Some(LARGE),
        per_tick: 8 << 10,
    }));
    let readers = Readers::start(client_core, tidegate.port, stay);
    let all = readers.wait_begun(STREAMS + SLOW, Duration::from_secs(10));
    checks.check(
        all,
        "event streams and slow readers connected",
        format!("{} of {} began", readers.begun(), STREAMS + SLOW),
    );
    origin.seen.take_peak();
    let among = format!("with {STREAMS} event streams and {SLOW} slow readers");
    one_page(
        &mut checks,
        &among,
        clients,
        rounds,
        &origin,
        &tidegate,
        &broadcast,
    );
    many_pages(&mut checks, clients, &origin, &tidegate);
    let streams = origin
        .seen
        .streams
        .load(std::sync::atomic::Ordering::Relaxed);
    let tally = readers.finish();
    checks.check(
        tally.served == STREAMS + SLOW && streams == STREAMS,
        "event streams and slow readers served throughout",
        format!(
            "{} served, {} refused, {} broken, {} wrong, {} silent; {streams} streams open at the origin",
            tally.served, tally.refused, tally.broken, tally.wrong, tally.silent
        ),
    );
    Ok(checks)
}

fn plan(path: &str) -> Plan {
    let (delay, len) = match path {
        "/events" => return Plan::Events,
        "/large" => (Duration::ZERO, LARGE),
        _ if path.starts_with("/page/") => (DELAY / 10, PAGE),
        _ => (DELAY, PAGE),
    };
    Plan::Page {
        delay,
        len,
        cache_control: "max-age=3600",
    }
}

/// Rounds of a crowd on one cold page, by turns through the proxy and from the broadcast.
fn one_page(
    checks: &mut Checks,
    among: &str,
    clients: usize,
    rounds: u64,
    origin: &Origin,
    tidegate: &Tidegate,
    broadcast: &Broadcast,
) {
    let mut lags: [Vec<(u64, u64)>; 2] = Default::default();
    let (mut wrong, mut asked) = (0, Vec::new());
    origin.seen.take_peak();
    for round in 0..rounds {
        let path = format!("/cold/{}/{round}", among.len());
        for turn in 0..2 {
            let through_proxy = (turn + round) % 2 == 0;
            let port = if through_proxy {
                tidegate.port
            } else {
                broadcast.port
            };
            let outcomes = crowd(port, clients, |_| path.clone());
            wrong += clients - outcomes.iter().filter(|o| is_right(o)).count();
            let answered = if through_proxy {
                asked.push(origin.seen.requests_of(&path));
                origin.seen.answered_at(&path)
            } else {
                broadcast.answered_at()
            };
            let late: Vec<u64> = outcomes
                .iter()
                .map(|o| o.first_byte.saturating_sub(answered))
                .collect();
            lags[usize::from(!through_proxy)].push((quantile(&late, 0.5), quantile(&late, 0.99)));
        }
    }
    let peak = origin.seen.take_peak();
    let middle = |lags: &[(u64, u64)], pick: fn(&(u64, u64)) -> u64| {
        median(&lags.iter().map(|lag| pick(lag) as f64).collect::<Vec<_>>())
    };
    let [ours, bare] =
        [&lags[0], &lags[1]].map(|lags| [middle(lags, |l| l.0), middle(lags, |l| l.1)]);
    for (name, [p50, p99], lags) in [("tidegate", ours, &lags[0]), ("broadcast", bare, &lags[1])] {
        let each: Vec<String> = lags.iter().map(|l| ms(l.1)).collect();
        println!(
            "      {name:9} first byte p50 {}, p99 {} (rounds: {})",
            ms(p50 as u64),
            ms(p99 as u64),
            each.join(", ")
        );
    }
    let one_each = asked.iter().all(|&count| count == 1);
    checks.check(
        one_each,
        format!("crowd {among}: one origin request each round"),
        format!("{asked:?}"),
    );
    checks.check(
        wrong == 0,
        format!("crowd {among}: every client whole and right"),
        format!("{wrong} were not"),
    );
    let ratio = ours[1] / bare[1];
    checks.check(
        ratio <= RATIO,
        format!("crowd {among}: first byte p99 at most {RATIO} times the broadcast's"),
        format!(
            "{} to {}, ratio {ratio:.2}",
            ms(ours[1] as u64),
            ms(bare[1] as u64)
        ),
    );
    checks.check(
        peak <= MAX_IN_FLIGHT,
        format!("crowd {among}: in flight at the origin at most {MAX_IN_FLIGHT}"),
        format!("peak {peak}"),
    );
}

/// The crowd spread over many cold pages, more than the origin may have in flight.
fn many_pages(checks: &mut Checks, clients: usize, origin: &Origin, tidegate: &Tidegate) {
    origin.seen.take_peak();
    let start = sys::now();
    let outcomes = crowd(tidegate.port, clients, |i| format!("/page/{}", i % PAGES));
    let took = sys::now() - start;
    let peak = origin.seen.take_peak();
    let right = outcomes.iter().filter(|o| is_right(o)).count();
    let asked: Vec<u64> = (0..PAGES.min(clients))
        .map(|i| origin.seen.requests_of(&format!("/page/{i}")))
        .collect();
    checks.check(
        right == clients,
        format!("{PAGES} cold pages at once: every client whole and right"),
        format!("{right} of {clients} in {}", ms(took)),
    );
    checks.check(
        asked.iter().all(|&count| count == 1),
        format!("{PAGES} cold pages at once: one origin request each"),
        format!("{} in all", asked.iter().sum::<u64>()),
    );
    checks.check(
        peak <= MAX_IN_FLIGHT && peak > 1,
        format!("{PAGES} cold pages at once: in flight at the origin at most {MAX_IN_FLIGHT}"),
        format!("peak {peak}"),
    );
}

fn is_right(outcome: &Outcome) -> bool {
    outcome.status == 200 && outcome.end == End::Whole
}

/// Connects `count` clients, then sends all their requests at once and waits for the answers, at most 20 s.
fn crowd(port: u16, count: usize, page: impl Fn(usize) -> String) -> Vec<Outcome> {
    let mut clients = Clients::new(port);
    for _ in 0..count {
        clients.add();
    }
    std::thread::sleep(Duration::from_millis(200));
    for client in 0..count {
        let path = page(client);
        clients.ask(client, &path, Body::of(&path, PAGE), sys::now());
    }
    let give_up = sys::now() + 20_000_000_000;
    let mut outcomes = Vec::with_capacity(count);
    while outcomes.len() < count && sys::now() < give_up {
        clients.poll(10, |outcome| outcomes.push(outcome));
    }
    outcomes
}
