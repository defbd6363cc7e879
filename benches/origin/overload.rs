//! An overload of pages nobody can share: 2, 10 and 50 times what the origin can do, from clients that wait two seconds.

use std::time::Duration;

use serde_json::json;
use tidegate::bench::ledger::{Fate, in_flight, most_in_flight, worked};
use tidegate::bench::schedule::{Crowd, Spacing};
use tidegate::bench::tally::{Tally, Times};

use super::stand::{Settings, Stand, Which, stand};
use super::support::report::{Checks, count, table};
use super::support::svg::{self, Bar, Kind, Panel};
use super::{AT_ONCE, Bench, SEED, Shown, TAKES, ms, no_store, percent, plan, send};

const PATIENCE: Duration = Duration::from_secs(2);
const SETTLES: Duration = Duration::from_secs(2);
const GOODPUT: f64 = 0.95;
/// The most of the unloaded p99.
const SLOWER: f64 = 3.0;
const TIMES: [u32; 3] = [2, 10, 50];

struct Loaded {
    times: u32,
    goodput: f64,
    tally: Tally,
    most: usize,
    /// Lowest and highest average of half a second in flight, once settled, and the most at once.
    settled: (f64, f64, usize),
    wasted: usize,
    /// What those took that were served while the crowd came, and of them those due once it had settled.
    took: Times,
    took_settled: Times,
}

pub fn measure(bench: &Bench, checks: &mut Checks) -> Result<Shown, String> {
    let lasts = Duration::from_secs(if bench.quick { 4 } else { 6 });
    let settings = Settings::new(
        [&format!("max_in_flight = {}", bench.budget), ""],
        ["", "", &format!("max_conns={AT_ONCE} max_fails=0"), ""],
        [&format!("    .max_connections = {AT_ONCE};"), ""],
    );
    let (mut lines, mut figures, mut bars) = (Vec::new(), Vec::new(), Vec::new());
    for &which in &bench.contenders {
        let stand = stand(which, &bench.place, &settings, &[plan(0, no_store)])?;
        let mut unloaded = Tally::default();
        let calm = crowd(0.2, Duration::from_secs(if bench.quick { 2 } else { 5 }));
        send(&stand, &calm.arrivals(SEED), PATIENCE, |outcome| {
            unloaded.add(&outcome)
        })?;
        let unloaded = unloaded.took.quantile(0.99);
        for times in TIMES {
            let loaded = load(&stand, times, lasts)?;
            if which == Which::Tidegate {
                judge(&loaded, unloaded, checks);
            }
            let took = &loaded.took;
            let ends: Vec<String> = loaded
                .tally
                .ends
                .iter()
                .map(|(end, n)| format!("{} × {end}", count(*n)))
                .collect();
            lines.push(vec![
                format!("{} {times}×", which.name()),
                percent(loaded.goodput),
                ms(took.quantile(0.5)),
                ms(took.quantile(0.99)),
                ms(loaded.took_settled.quantile(0.99)),
                ms(unloaded),
                loaded.most.to_string(),
                loaded.wasted.to_string(),
                ends.join(", "),
            ]);
            figures.push(json!({
                "name": which.name(), "times": times, "goodput": loaded.goodput, "origin_most_in_flight": loaded.most,
                "unloaded_p99_ms": unloaded.as_secs_f64() * 1e3, "settled": loaded.settled,
                "wasted": loaded.wasted, "settled_p99_ms": loaded.took_settled.quantile(0.99).as_secs_f64() * 1e3,
                "tally": loaded.tally.json(),
            }));
            bars.push((times, which, loaded.goodput));
            // Those that gave up may still be in the proxy or the origin.
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    println!(
        "{}",
        table(
            &[
                "load",
                "goodput",
                "p50",
                "p99",
                "settled p99",
                "unloaded p99",
                "most in flight",
                "wasted",
                "ends"
            ],
            &lines
        )
    );
    Ok(Shown {
        figures: json!({ "loads": figures }),
        svg: chart(&bars),
    })
}

/// So many times the origin's capacity.
fn crowd(times: f64, lasts: Duration) -> Crowd {
    Crowd {
        rate: times * AT_ONCE as f64 / TAKES.as_secs_f64(),
        lasts,
        spacing: Spacing::Random,
        pages: 50,
        exponent: 0.0,
        clients: 1000,
        first_client: 1,
    }
}

fn load(stand: &Stand, times: u32, lasts: Duration) -> Result<Loaded, String> {
    let (mut tally, mut took, mut took_settled) = (Tally::default(), Times::new(), Times::new());
    let (mut ended, from) = (0_u32, Duration::from_secs(1));
    let before = stand.origins[0].ledger.fetches().len();
    let arrivals = crowd(f64::from(times), lasts).arrivals(SEED + u64::from(times));
    let driven = send(stand, &arrivals, PATIENCE, |outcome| {
        let at = outcome.arrival.at + outcome.took;
        let is_good = matches!(&outcome.end, Ok(answer) if answer.status == 200);
        ended += u32::from(is_good && at >= from && at < lasts);
        // Those that still wait when the crowd has gone are served without hurry.
        if is_good && at < lasts {
            took.add(outcome.took);
            if outcome.arrival.at >= SETTLES {
                took_settled.add(outcome.took);
            }
        }
        tally.add(&outcome);
    })?;
    let fetches = &stand.origins[0].ledger.fetches()[before..];
    let (settled, end) = (driven.began + SETTLES, driven.began + lasts);
    let each: Times = worked(fetches).into_iter().collect();
    // What the origin can do, by what a request costs it: its timers add to what was planned.
    let capacity = AT_ONCE as f64 / each.quantile(0.5).as_secs_f64();
    let averages = in_flight(fetches, settled, end, Duration::from_millis(500));
    let least = averages.iter().copied().fold(f64::INFINITY, f64::min);
    let most = averages.iter().copied().fold(0.0, f64::max);
    Ok(Loaded {
        times,
        goodput: f64::from(ended) / (lasts - from).as_secs_f64() / capacity,
        tally,
        most: most_in_flight(fetches, driven.began, end),
        settled: (least, most, most_in_flight(fetches, settled, end)),
        wasted: fetches
            .iter()
            .filter(|fetch| fetch.fate == Fate::Wasted)
            .count(),
        took,
        took_settled,
    })
}

fn judge(loaded: &Loaded, unloaded: Duration, checks: &mut Checks) {
    let Loaded { times, tally, .. } = loaded;
    checks.check(
        loaded.goodput >= GOODPUT,
        format!("{times}×: goodput at least {GOODPUT} of the origin's capacity"),
        format!("{:.3}", loaded.goodput),
    );
    let p99 = loaded.took.quantile(0.99);
    let ratio = p99.as_secs_f64() / unloaded.as_secs_f64();
    checks.check(
        ratio <= SLOWER,
        format!("{times}×: p99 of who is admitted and served while the crowd comes at most {SLOWER} times the unloaded"),
        format!(
            "{} to {}, ratio {ratio:.2}; {} once settled",
            ms(p99),
            ms(unloaded),
            ms(loaded.took_settled.quantile(0.99))
        ),
    );
    let (least, most, peak) = loaded.settled;
    checks.check(
        least >= 0.75 * AT_ONCE as f64 && most <= 1.5 * AT_ONCE as f64 && peak <= 2 * AT_ONCE,
        format!(
            "{times}×: in flight at the origin settled within {} s",
            SETTLES.as_secs()
        ),
        format!("from then on {least:.1} to {most:.1} by the half second, {peak} at most"),
    );
    checks.check(
        tally.lost() == 0,
        format!("{times}×: every refusal a 503 with Retry-After"),
        format!(
            "{} so refused, {} neither served nor so refused",
            count(tally.told_when),
            count(tally.lost())
        ),
    );
}

fn chart(bars: &[(u32, Which, f64)]) -> String {
    let panel = |times: u32| {
        let of = bars.iter().filter(|(of, ..)| *of == times);
        let bar = |(_, which, goodput): &(u32, Which, f64)| Bar {
            name: which.name().to_owned(),
            value: *goodput,
            range: (*goodput, *goodput),
            note: percent(*goodput),
            kind: if *which == Which::Tidegate {
                Kind::Ours
            } else {
                Kind::Peer
            },
        };
        Panel {
            title: format!("{times} times what the origin can do"),
            bars: of.map(bar).collect(),
        }
    };
    let panels: Vec<Panel> = TIMES.into_iter().map(panel).collect();
    svg::bars(
        "Overload: answers in time",
        "pages nobody can share, clients that wait 2 s; answered a second, of what the origin could; more is better",
        &panels,
    )
}
