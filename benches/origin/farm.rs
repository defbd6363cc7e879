//! An origin of four servers under load: one is killed, one slowed ten times, one flaps, one is fine; then all are well again.
//! The proxies run at once, each with four servers of its own: the load is small, and no time is judged.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate::bench::ledger::answered;
use tidegate::bench::origin::Plan;
use tidegate::bench::schedule::{Crowd, Spacing};
use tidegate::bench::tally::Tally;

use super::stand::{Settings, Stand, Which};
use super::support::graph::{self, Graph, Line};
use super::support::report::{Checks, table};
use super::{Bench, SEED, Shown, ms, no_store, percent, plan, send};

const NAMES: [&str; 4] = ["killed", "10× slower", "flapping", "fine"];
const RATE: f64 = 120.0;
const PATIENCE: Duration = Duration::from_secs(10);
/// Tidegate's `slow_start`, its default.
const SLOW_START: Duration = Duration::from_secs(10);
/// How long after it shares are taken, and the least of a fair one that is full.
const AFTER: Duration = Duration::from_secs(5);
const FULL: f64 = 0.8;
const GRAIN: Duration = Duration::from_millis(500);

struct Times {
    fails: Duration,
    mended: Duration,
    ends: Duration,
}

struct Ran {
    which: Which,
    tally: Tally,
    /// Answers of each server in each grain.
    answers: Vec<Vec<f64>>,
    /// Each server's part of the answers at the end.
    shares: Vec<f64>,
}

pub fn measure(bench: &Bench, checks: &mut Checks) -> Result<Shown, String> {
    let broken = Duration::from_secs(if bench.quick { 4 } else { 12 });
    let fails = Duration::from_secs(if bench.quick { 2 } else { 5 });
    let times = Times {
        fails,
        mended: fails + broken,
        ends: fails + broken + SLOW_START + AFTER,
    };
    let settings = Settings::new(
        [
            "max_in_flight = 8\nhealth = \"http\"\nhealth_interval = \"1s\"",
            "",
        ],
        [
            "",
            "least_conn;",
            "max_fails=1 fail_timeout=2s",
            "proxy_next_upstream error timeout http_502 http_503 http_504; proxy_next_upstream_tries 4; proxy_connect_timeout 1s;",
        ],
        [
            "    .connect_timeout = 1s;\n    .probe = { .url = \"/health\"; .interval = 1s; .timeout = 2s; .window = 3; .threshold = 2; .initial = 2; }",
            "sub vcl_backend_fetch { set bereq.backend = origin.backend(); }\n\
             sub vcl_backend_error { if (bereq.retries < 3) { return (retry); } }",
        ],
    );
    let plans: Vec<Plan> = (0..4).map(|server| plan(server, no_store)).collect();
    let ran = bench.side_by_side(&settings, &plans, |stand| run(stand, &times))?;

    let line = |ran: &Ran| {
        let shares = ran.shares.iter().map(|share| percent(*share));
        let errors = ran.tally.asked - ran.tally.good;
        let took = &ran.tally.took;
        let figures = [
            errors.to_string(),
            ms(took.quantile(0.99)),
            ms(took.quantile(1.0)),
        ];
        [ran.which.name().to_owned()]
            .into_iter()
            .chain(figures)
            .chain(shares)
            .collect()
    };
    let lines: Vec<Vec<String>> = ran.iter().map(line).collect();
    println!(
        "{}",
        table(
            &[&["", "errors", "p99", "longest"][..], &NAMES].concat(),
            &lines
        )
    );
    println!(
        "{RATE} requests/s, ill from {} to {} s; shares: of the answers {} s later and after\n",
        times.fails.as_secs(),
        times.mended.as_secs(),
        SLOW_START.as_secs()
    );
    let ours = &ran[0];
    let ends: Vec<String> = ours
        .tally
        .ends
        .iter()
        .map(|(end, n)| format!("{n} × {end}"))
        .collect();
    checks.check(
        ours.tally.good == ours.tally.asked,
        "no client error",
        ends.join(", "),
    );
    let least = ours.shares.iter().copied().fold(f64::INFINITY, f64::min);
    checks.check(
        least >= FULL / 4.0,
        format!(
            "all four have {FULL} of their share and more, {} s after their return",
            SLOW_START.as_secs()
        ),
        ours.shares
            .iter()
            .map(|share| percent(*share))
            .collect::<Vec<_>>()
            .join(", "),
    );
    let figures: Vec<_> = ran
        .iter()
        .map(|ran| {
            json!({
                "name": ran.which.name(), "answers_by_half_second": ran.answers, "shares_after": ran.shares,
                "tally": ran.tally.json(),
            })
        })
        .collect();
    let graphs: Vec<Graph> = ran.iter().map(|ran| graph(ran, &times)).collect();
    Ok(Shown {
        figures: json!({ "servers": NAMES, "proxies": figures }),
        svg: graph::graphs(
            "Four servers, three of them ill for a while",
            "answers a second of each server; 120 requests/s come in",
            &graphs,
        ),
    })
}

fn run(stand: &Stand, times: &Times) -> Result<Ran, String> {
    let crowd = Crowd {
        rate: RATE,
        lasts: times.ends,
        spacing: Spacing::Random,
        pages: 50,
        exponent: 0.0,
        clients: 100,
        first_client: 1,
    };
    let mut tally = Tally::default();
    let driven = thread::scope(|scope| {
        scope.spawn(|| {
            let [killed, slowed, flapping, _] = &stand.origins[..] else {
                return Err("four servers".to_owned());
            };
            thread::sleep(times.fails);
            killed.kill();
            slowed.slow(10.0);
            flapping.flap(Duration::from_millis(1500), Duration::from_millis(1500));
            thread::sleep(times.mended - times.fails);
            slowed.slow(1.0);
            killed
                .revive()
                .and_then(|()| flapping.revive())
                .map_err(|e| e.to_string())
        });
        send(stand, &crowd.arrivals(SEED), PATIENCE, |outcome| {
            tally.add(&outcome)
        })
    })?;
    let end = driven.began + times.ends;
    let by = |from: Instant, grain: Duration| -> Vec<Vec<f64>> {
        let ledgers = stand.origins.iter().map(|origin| origin.ledger.fetches());
        // Probes are not visitors.
        let visits = ledgers.map(|mut fetches| {
            fetches.retain(|fetch| fetch.path.starts_with("/page/"));
            answered(&fetches, from, end, grain)
        });
        visits.collect()
    };
    let last: Vec<f64> = by(end - AFTER, AFTER)
        .iter()
        .map(|answers| answers[0])
        .collect();
    let all: f64 = last.iter().sum();
    Ok(Ran {
        which: stand.which,
        tally,
        answers: by(driven.began, GRAIN),
        shares: last.iter().map(|answers| answers / all.max(1.0)).collect(),
    })
}

fn graph(ran: &Ran, times: &Times) -> Graph {
    let grain = GRAIN.as_secs_f64();
    let line = |(name, answers): (&&str, &Vec<f64>)| Line {
        name: (*name).to_owned(),
        points: answers
            .iter()
            .enumerate()
            .map(|(at, count)| (at as f64 * grain, count / grain))
            .collect(),
    };
    Graph {
        title: format!(
            "{} ({} errors)",
            ran.which.name(),
            ran.tally.asked - ran.tally.good
        ),
        lines: NAMES.iter().zip(&ran.answers).map(line).collect(),
        marks: [
            (times.fails, "ill"),
            (times.mended, "well"),
            (times.mended + SLOW_START, "slow start over"),
        ]
        .map(|(at, what)| (at.as_secs_f64(), what.to_owned()))
        .into(),
    }
}
