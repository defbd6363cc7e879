//! A cold spike: 200 pages by Zipf, 1,500 requests/s on a schedule, an empty cache, an origin that could do 160 pages/s. What
//! decides is the order in which the pages are fetched; simulated beside it, the same crowd first come, first served.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidegate::bench::ledger::{by_page, most_in_flight, worked};
use tidegate::bench::origin::Page;
use tidegate::bench::schedule::{Arrival, Crowd, Spacing};
use tidegate::bench::simulate::{Order, Simulated};
use tidegate::bench::tally::{Tally, Times};
use tidegate::bench::wire::Answer;

use super::stand::{Settings, Which, stand};
use super::support::report::{Checks, count, table};
use super::support::svg::{self, Bar, Kind, Panel};
use super::{AT_ONCE, Bench, SEED, Shown, ms, plan, send};

const TTL: Duration = Duration::from_secs(2);
/// How long pages may go out stale while they are fetched anew: told to every proxy, as peers do it of themselves.
const STALE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(10);
const PAGE: usize = 20 << 10;
/// Crowds, each of a seed of its own and on an empty cache: how much the order can gain depends on the crowd.
const ROUNDS: u64 = 3;
/// The most of what first come, first served takes.
const P99: f64 = 0.85;
const P999: f64 = 1.05;

struct Row {
    name: &'static str,
    took: Times,
    kind: Kind,
}

/// What one proxy came to, all rounds together.
struct Ran {
    which: Which,
    tally: Tally,
    whole: u64,
    fetches: usize,
    /// Pages fetched, by the round.
    pages: usize,
    closest: Duration,
    most: usize,
    /// How long the origin worked on each.
    worked: Vec<Duration>,
}

pub fn measure(bench: &Bench, checks: &mut Checks) -> Result<Shown, String> {
    let lasts = Duration::from_secs(if bench.quick { 4 } else { 10 });
    let rounds: Vec<Arc<[Arrival]>> = (0..if bench.quick { 1 } else { ROUNDS })
        .map(|round| crowd(lasts).arrivals(SEED + round))
        .collect();
    let ran = bench
        .contenders
        .iter()
        .map(|which| run(bench, *which, &rounds, lasts))
        .collect::<Result<Vec<Ran>, _>>()?;
    let ours = &ran[0];
    let takes =
        ours.worked.iter().sum::<Duration>() / u32::try_from(ours.worked.len().max(1)).unwrap_or(1);
    let simulated = |name, order| {
        let simulated = Simulated {
            at_once: AT_ONCE,
            takes,
            ttl: TTL,
            stale: STALE,
            order,
        };
        let waits = rounds.iter().flat_map(|arrivals| simulated.waits(arrivals));
        Row {
            name,
            took: waits.collect(),
            kind: Kind::Reference,
        }
    };
    let first_come = simulated("first come", Order::FirstCome);
    let wanted = simulated("most wanted", Order::MostWanted(Duration::from_millis(400)));
    let rows: Vec<Row> = ran
        .iter()
        .map(Ran::row)
        .chain([first_come, wanted])
        .collect();
    tell(&ran, &rows, takes, rounds.len(), lasts);
    judge(&ran, &rows[ran.len()], lasts, checks);
    let figures = ran.iter().map(|ran| {
        json!({
            "name": ran.which.name(), "whole": ran.whole, "origin_fetches": ran.fetches, "origin_most_in_flight": ran.most,
            "pages": ran.pages, "closest_fetches_ms": ran.closest.as_millis() as u64, "tally": ran.tally.json(),
        })
    });
    let beside = rows[ran.len()..].iter().map(|row| {
        let [p50, p99, p999] =
            [0.5, 0.99, 0.999].map(|part| row.took.quantile(part).as_secs_f64() * 1e3);
        json!({ "name": row.name, "p50_ms": p50, "p99_ms": p99, "p999_ms": p999 })
    });
    Ok(Shown {
        figures: json!({
            "servers": figures.collect::<Vec<_>>(), "simulated": beside.collect::<Vec<_>>(),
            "origin_takes_ms": takes.as_secs_f64() * 1e3,
        }),
        svg: chart(&rows),
    })
}

fn crowd(lasts: Duration) -> Crowd {
    Crowd {
        rate: 1500.0,
        lasts,
        spacing: Spacing::Even,
        pages: 200,
        exponent: 1.0,
        clients: 500,
        first_client: 1,
    }
}

fn run(
    bench: &Bench,
    which: Which,
    rounds: &[Arc<[Arrival]>],
    lasts: Duration,
) -> Result<Ran, String> {
    let settings = Settings::new(
        [&format!("max_in_flight = {AT_ONCE}"), ""],
        [""; 4],
        [""; 2],
    );
    let page = |_: &str| Page {
        len: PAGE,
        cache_control: "max-age=2, stale-while-revalidate=10",
    };
    let mut ran = Ran {
        which,
        tally: Tally::default(),
        whole: 0,
        fetches: 0,
        pages: 0,
        closest: Duration::from_secs(3600),
        most: 0,
        worked: Vec::new(),
    };
    for arrivals in rounds {
        let stand = stand(which, &bench.place, &settings, &[plan(0, page)])?;
        let driven = send(&stand, arrivals, PATIENCE, |outcome| {
            let is_whole = |answer: &Answer| answer.status == 200 && answer.body == PAGE as u64;
            ran.whole += u64::from(outcome.end.as_ref().is_ok_and(is_whole));
            ran.tally.add(&outcome);
        })?;
        let fetches = stand.origins[0].ledger.fetches();
        ran.fetches += fetches.len();
        ran.most = ran.most.max(most_in_flight(
            &fetches,
            driven.began,
            driven.began + lasts + PATIENCE,
        ));
        ran.worked.extend(worked(&fetches));
        for times in by_page(&fetches).into_values() {
            ran.pages += 1;
            let closest = times.windows(2).map(|two| two[1] - two[0]).min();
            ran.closest = ran.closest.min(closest.unwrap_or(ran.closest));
        }
    }
    Ok(ran)
}

impl Ran {
    fn row(&self) -> Row {
        Row {
            name: self.which.name(),
            took: self.tally.took.clone(),
            kind: if self.which == Which::Tidegate {
                Kind::Ours
            } else {
                Kind::Peer
            },
        }
    }
}

fn tell(ran: &[Ran], rows: &[Row], takes: Duration, rounds: usize, lasts: Duration) {
    let line = |(number, row): (usize, &Row)| {
        let quantiles = [0.5, 0.95, 0.99, 0.999, 1.0].map(|part| ms(row.took.quantile(part)));
        let rest = ran
            .get(number)
            .map_or(["", "", ""].map(str::to_owned), |ran| {
                [
                    count(ran.fetches as u64),
                    ran.most.to_string(),
                    (ran.tally.asked - ran.whole).to_string(),
                ]
            });
        [vec![row.name.to_owned()], quantiles.to_vec(), rest.to_vec()].concat()
    };
    let lines: Vec<Vec<String>> = rows.iter().enumerate().map(line).collect();
    let head = [
        "",
        "p50",
        "p95",
        "p99",
        "p99.9",
        "longest",
        "fetches",
        "most in flight",
        "errors",
    ];
    println!(
        "{}1,500 requests/s, {rounds} rounds of {} s; the last two are simulated, with {} a page as the origin took\n",
        table(&head, &lines),
        lasts.as_secs(),
        ms(takes)
    );
}

fn judge(ran: &[Ran], first_come: &Row, lasts: Duration, checks: &mut Checks) {
    let ours = &ran[0];
    let errors = ours.tally.asked - ours.whole;
    checks.check(
        errors == 0,
        "no error, every answer whole",
        format!("{} of {} were not", count(errors), count(ours.tally.asked)),
    );
    checks.check(
        ours.most <= AT_ONCE,
        format!("in flight at the origin at most {AT_ONCE}"),
        ours.most.to_string(),
    );
    // A fetch shortly before a page's end is that of its next lifetime; it begins in the second half.
    let each = ours.fetches as f64 / ours.pages.max(1) as f64;
    let most = lasts.as_secs_f64() / TTL.as_secs_f64() + 1.0;
    checks.check(
        ours.closest >= TTL / 2 && each <= most,
        "one fetch a page and lifetime",
        format!(
            "{} fetches, {each:.2} a page and round, at most {most:.0}; the closest two of a page {} apart",
            count(ours.fetches as u64),
            ms(ours.closest)
        ),
    );
    let took = &ours.tally.took;
    for (part, name, most) in [(0.99, "p99", P99), (0.999, "p99.9", P999)] {
        let (ours, theirs) = (took.quantile(part), first_come.took.quantile(part));
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        checks.check(
            ratio <= most,
            format!("{name} at most {most} of first come, first served"),
            format!("{} to {}, ratio {ratio:.2}", ms(ours), ms(theirs)),
        );
    }
    for peer in &ran[1..] {
        let [ours, theirs] = [took, &peer.tally.took].map(|took| took.quantile(0.99));
        checks.check(
            ours < theirs,
            format!("p99 ahead of {}", peer.which.name()),
            format!("{} to {}", ms(ours), ms(theirs)),
        );
    }
}

fn chart(rows: &[Row]) -> String {
    let panel = |(part, title): (f64, &str)| {
        let bar = |row: &Row| {
            let value = row.took.quantile(part).as_secs_f64() * 1e3;
            Bar {
                name: row.name.to_owned(),
                value,
                range: (value, value),
                note: format!("{value:.0} ms"),
                kind: row.kind,
            }
        };
        Panel {
            title: title.to_owned(),
            bars: rows.iter().map(bar).collect(),
        }
    };
    let panels: Vec<Panel> = [(0.99, "p99"), (0.999, "p99.9")].map(panel).into();
    svg::bars(
        "A cold spike: how long visitors wait",
        "200 pages by Zipf, 1,500 requests/s, an origin of 160 pages/s; less is better; first come, most wanted: simulated",
        &panels,
    )
}
