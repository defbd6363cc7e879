//! One greedy client with 1,000 connections beside 100 polite ones that ask for half of what the origin can do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tidegate::bench::driver::{Grabbed, Greedy};
use tidegate::bench::ledger::most_in_flight;
use tidegate::bench::schedule::{Crowd, Spacing};
use tidegate::bench::tally::Tally;

use super::stand::{Settings, Stand, Which, stand};
use super::support::report::{Checks, count, table};
use super::support::svg::{self, Bar, Kind, Panel};
use super::{AT_ONCE, Bench, SEED, Shown, TAKES, ms, no_store, percent, plan, send};

const PATIENCE: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 1000;
/// How long a greedy connection waits before it asks again, whatever it was told: 5,000 requests/s and more if refused.
const PAUSE: Duration = Duration::from_millis(200);
const POLITE: u32 = 100;
const LOST: f64 = 0.01;

pub fn measure(bench: &Bench, checks: &mut Checks) -> Result<Shown, String> {
    let settings = Settings::new(
        [&format!("max_in_flight = {}", bench.budget), ""],
        // Two at a time for each address leave the origin room.
        [
            "limit_conn_zone $binary_remote_addr zone=clients:10m; limit_conn_status 503;",
            "",
            &format!("max_conns={AT_ONCE} max_fails=0"),
            "limit_conn clients 2;",
        ],
        [&format!("    .max_connections = {AT_ONCE};"), ""],
    );
    let (mut lines, mut figures, mut bars) = (Vec::new(), Vec::new(), Vec::new());
    for &which in &bench.contenders {
        let stand = stand(which, &bench.place, &settings, &[plan(0, no_store)])?;
        let alone = polite(&stand, Duration::from_secs(if bench.quick { 2 } else { 4 }))?;
        let stop = AtomicBool::new(false);
        let (beside, grabbed) = std::thread::scope(|scope| {
            let pressing = scope.spawn(|| greedy(&stand, &stop));
            // By then all its connections stand.
            std::thread::sleep(Duration::from_secs(1));
            let beside = polite(
                &stand,
                Duration::from_secs(if bench.quick { 3 } else { 10 }),
            );
            stop.store(true, Ordering::Relaxed);
            let grabbed = pressing.join().unwrap_or(Err("it panicked".into()));
            Ok::<_, String>((beside?, grabbed?))
        })?;
        let fetches = stand.origins[0].ledger.fetches();
        let (first, last) = (fetches.first(), fetches.last());
        let span = first
            .zip(last)
            .map(|(first, last)| (first.arrived, last.arrived));
        let most = span.map_or(0, |(from, to)| most_in_flight(&fetches, from, to));
        let lost = 1.0 - beside.good as f64 / beside.asked as f64;
        let lost_alone = 1.0 - alone.good as f64 / alone.asked as f64;
        if which == Which::Tidegate {
            let ends: Vec<String> = beside
                .ends
                .iter()
                .map(|(end, n)| format!("{n} × {end}"))
                .collect();
            checks.check(
                lost < LOST && grabbed.refused > 0,
                format!("the polite lose less than {} beside it", percent(LOST)),
                format!(
                    "{}: {}; {} alone",
                    percent(lost),
                    ends.join(", "),
                    percent(lost_alone)
                ),
            );
        }
        lines.push(vec![
            which.name().to_owned(),
            percent(lost),
            ms(beside.took.quantile(0.5)),
            ms(beside.took.quantile(0.99)),
            ms(alone.took.quantile(0.99)),
            count(grabbed.served),
            count(grabbed.refused),
            count(grabbed.failed),
            most.to_string(),
        ]);
        figures.push(json!({
            "name": which.name(), "lost": lost, "lost_alone": lost_alone, "origin_most_in_flight": most,
            "greedy": { "served": grabbed.served, "refused": grabbed.refused, "failed": grabbed.failed },
            "beside": beside.json(), "alone": alone.json(),
        }));
        bars.push(Bar {
            name: which.name().to_owned(),
            value: lost * 100.0,
            range: (lost * 100.0, lost * 100.0),
            note: percent(lost),
            kind: if which == Which::Tidegate {
                Kind::Ours
            } else {
                Kind::Peer
            },
        });
    }
    let head = [
        "",
        "lost",
        "p50",
        "p99",
        "p99 alone",
        "greedy served",
        "refused",
        "failed",
        "most in flight",
    ];
    println!("{}", table(&head, &lines));
    let panel = Panel {
        title: format!(
            "{POLITE} polite clients beside one with {} connections",
            count(CONNECTIONS as u64)
        ),
        bars,
    };
    Ok(Shown {
        figures: json!({ "servers": figures }),
        svg: svg::bars(
            "A greedy client: what the others lose",
            "requests of the polite that were not answered within 2 s, in hundredths; less is better",
            &[panel],
        ),
    })
}

fn polite(stand: &Stand, lasts: Duration) -> Result<Tally, String> {
    let crowd = Crowd {
        rate: 0.5 * AT_ONCE as f64 / TAKES.as_secs_f64(),
        lasts,
        spacing: Spacing::Random,
        pages: 50,
        exponent: 0.0,
        clients: POLITE,
        first_client: 1,
    };
    let mut tally = Tally::default();
    send(stand, &crowd.arrivals(SEED), PATIENCE, |outcome| {
        tally.add(&outcome)
    })?;
    Ok(tally)
}

fn greedy(stand: &Stand, stop: &AtomicBool) -> Result<Grabbed, String> {
    let greedy = Greedy {
        server: stand.address,
        host: "bench.test".into(),
        client: POLITE + 1,
        connections: CONNECTIONS,
        pause: PAUSE,
        path: "/page/0".into(),
    };
    greedy.press(stop).map_err(|e| e.to_string())
}
