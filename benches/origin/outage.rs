//! All servers of an origin are down for 20 s under load, and come back. Most of the load is for pages that were warmed and
//! go out stale meanwhile; some of it nobody may store, and shows when the origin serves again. The proxies run at once.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tidegate::bench::ledger::{Fetch, answered, in_flight, most_in_flight};
use tidegate::bench::origin::{Page, Plan};
use tidegate::bench::schedule::{Arrival, Crowd, Spacing, together};
use tidegate::bench::tally::Tally;

use super::stand::{Settings, Stand, Which};
use super::support::graph::{self, Graph, Line};
use super::support::report::{Checks, table};
use super::{AT_ONCE, Bench, SEED, Shown, ms, percent, plan, send};

const PAGES: u32 = 100;
/// Pages from here on may not be stored.
const PRIVATE: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(5);
const REGAINED: f64 = 0.95;
const WITHIN: Duration = Duration::from_secs(1);
const GRAIN: Duration = Duration::from_millis(100);
/// What a rate is taken over.
const WINDOW: usize = 10;

struct Times {
    falls: Duration,
    returns: Duration,
    ends: Duration,
}

struct Ran {
    which: Which,
    /// Of the pages that were warmed, and of the others.
    warmed: Tally,
    private: Tally,
    /// The others that were due from a second after the return on: all, and those that were answered.
    after: (u64, u64),
    /// The most in flight at each server.
    most: Vec<usize>,
    /// Answers of all servers, and their requests in flight, by the grain.
    answers: Vec<f64>,
    in_flight: Vec<f64>,
    /// Answers in a second before the fall, and how long after the return there were as many again.
    normal: f64,
    regained: Option<Duration>,
}

pub fn measure(bench: &Bench, checks: &mut Checks) -> Result<Shown, String> {
    let falls = Duration::from_secs(4);
    let down = Duration::from_secs(if bench.quick { 5 } else { 20 });
    let times = Times {
        falls,
        returns: falls + down,
        ends: falls + down + Duration::from_secs(6),
    };
    let settings = Settings::new(
        [&format!("max_in_flight = {AT_ONCE}"), ""],
        [
            "",
            "",
            &format!("max_conns={AT_ONCE} max_fails=1 fail_timeout=1s"),
            "proxy_connect_timeout 1s;",
        ],
        [
            &format!(
                "    .max_connections = {AT_ONCE};\n    .connect_timeout = 1s;\n    \
                 .probe = {{ .url = \"/health\"; .interval = 500ms; .timeout = 2s; .window = 3; .threshold = 2; .initial = 2; }}"
            ),
            "sub vcl_backend_response { set beresp.grace = 1h; }",
        ],
    );
    let page = |path: &str| {
        let number = path
            .rsplit('/')
            .next()
            .and_then(|number| number.parse::<u32>().ok());
        Page {
            len: 10 << 10,
            cache_control: match number {
                Some(number) if number < PRIVATE => "max-age=1",
                _ => "no-store",
            },
        }
    };
    let plans: Vec<Plan> = (0..2).map(|server| plan(server, page)).collect();
    let ran = bench.side_by_side(&settings, &plans, |stand| run(stand, &times))?;

    let line = |ran: &Ran| {
        vec![
            ran.which.name().to_owned(),
            (ran.warmed.asked - ran.warmed.good).to_string(),
            ms(ran.warmed.took.quantile(0.99)),
            ran.most
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" and "),
            format!("{:.0}", ran.normal),
            ran.regained
                .map_or("never".into(), |after| format!("{} ms", after.as_millis())),
            percent(ran.after.1 as f64 / ran.after.0.max(1) as f64),
        ]
    };
    let lines: Vec<Vec<String>> = ran.iter().map(line).collect();
    let head = [
        "",
        "warmed: errors",
        "p99",
        "most in flight",
        "normal/s",
        "regained after",
        "private served",
    ];
    println!("{}", table(&head, &lines));
    judge(&ran[0], checks);
    let figures: Vec<_> = ran
        .iter()
        .map(|ran| {
            json!({
                "name": ran.which.name(), "origin_most_in_flight": ran.most, "normal_per_second": ran.normal,
                "regained_after_ms": ran.regained.map(|after| after.as_millis() as u64),
                "private_after": { "asked": ran.after.0, "good": ran.after.1 },
                "origin_answers_by_100_ms": ran.answers, "origin_in_flight_by_100_ms": ran.in_flight,
                "warmed": ran.warmed.json(), "private": ran.private.json(),
            })
        })
        .collect();
    let graphs: Vec<Graph> = ran.iter().map(|ran| graph(ran, &times)).collect();
    Ok(Shown {
        figures: json!({ "down_seconds": down.as_secs(), "proxies": figures }),
        svg: graph::graphs(
            "All servers down, and back",
            "answers of the origin a second, and its requests in flight",
            &graphs,
        ),
    })
}

fn judge(ours: &Ran, checks: &mut Checks) {
    let ends: Vec<String> = ours
        .warmed
        .ends
        .iter()
        .map(|(end, n)| format!("{n} × {end}"))
        .collect();
    checks.check(
        ours.warmed.good == ours.warmed.asked,
        "nothing but 200s on warmed pages",
        ends.join(", "),
    );
    checks.check(
        ours.regained.is_some_and(|after| after <= WITHIN),
        format!(
            "answers of the origin {} of normal within {} s of its return",
            percent(REGAINED),
            WITHIN.as_secs()
        ),
        match ours.regained {
            Some(after) => format!("{:.0}/s again {} ms after", ours.normal, after.as_millis()),
            None => format!("never again {:.0}/s", ours.normal),
        },
    );
    let (asked, good) = ours.after;
    checks.check(
        good as f64 >= REGAINED * asked as f64 && asked > 0,
        format!(
            "pages nobody may store served again {} s after the return",
            WITHIN.as_secs()
        ),
        format!("{good} of {asked}"),
    );
    checks.check(
        ours.most.iter().all(|most| *most <= AT_ONCE),
        format!("in flight at each server at most {AT_ONCE}"),
        format!("{:?}", ours.most),
    );
}

fn run(stand: &Stand, times: &Times) -> Result<Ran, String> {
    warm(stand)?;
    let crowd = |rate: f64, pages: u32, exponent: f64| Crowd {
        rate,
        lasts: times.ends,
        spacing: Spacing::Random,
        pages,
        exponent,
        clients: 100,
        first_client: 1,
    };
    let mut private = crowd(60.0, 50, 0.0).arrivals(SEED + 1).to_vec();
    private
        .iter_mut()
        .for_each(|arrival| arrival.page += PRIVATE);
    let all = together(&[crowd(300.0, PAGES, 1.0).arrivals(SEED), private.into()]);

    let (mut warmed, mut private, mut after) = (Tally::default(), Tally::default(), (0, 0));
    let driven = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(times.falls);
            stand
                .origins
                .iter()
                .for_each(tidegate::bench::origin::Origin::kill);
            thread::sleep(times.returns - times.falls);
            stand
                .origins
                .iter()
                .try_for_each(tidegate::bench::origin::Origin::revive)
                .map_err(|e| e.to_string())
        });
        send(stand, &all, PATIENCE, |outcome| {
            if outcome.arrival.page < PRIVATE {
                warmed.add(&outcome);
                return;
            }
            if outcome.arrival.at >= times.returns + WITHIN {
                after.0 += 1;
                after.1 += u64::from(matches!(&outcome.end, Ok(answer) if answer.status == 200));
            }
            private.add(&outcome);
        })
    })?;
    let end = driven.began + times.ends;
    let servers: Vec<Vec<Fetch>> = stand
        .origins
        .iter()
        .map(|origin| origin.ledger.fetches())
        .collect();
    let most = servers
        .iter()
        .map(|fetches| most_in_flight(fetches, driven.began, end))
        .collect();
    let mut all: Vec<Fetch> = servers.concat();
    // Probes are not visitors.
    all.retain(|fetch| fetch.path.starts_with("/page/"));
    let answers = answered(&all, driven.began, end, GRAIN);
    let at = |time: Duration| (time.as_secs_f64() / GRAIN.as_secs_f64()) as usize;
    let (falls, returns) = (at(times.falls), at(times.returns));
    let second = |from: usize| answers[from..from + WINDOW].iter().sum::<f64>();
    let normal =
        answers[WINDOW..falls].iter().sum::<f64>() / (falls - WINDOW) as f64 * WINDOW as f64;
    let regained =
        (returns..answers.len() - WINDOW).find(|from| second(*from) >= REGAINED * normal);
    Ok(Ran {
        which: stand.which,
        warmed,
        private,
        after,
        most,
        in_flight: in_flight(&all, driven.began, end, GRAIN),
        answers,
        normal,
        regained: regained.map(|from| GRAIN * (from - returns) as u32),
    })
}

/// Asks for every page once; for those that a busy machine made late, once more.
fn warm(stand: &Stand) -> Result<(), String> {
    let every = |page: u32| Arrival {
        at: Duration::from_millis(30) * page,
        page,
        client: 1 + page,
    };
    let pages: Arc<[Arrival]> = (0..PAGES).map(every).collect();
    let mut last = Tally::default();
    for _ in 0..3 {
        last = Tally::default();
        send(stand, &pages, PATIENCE, |outcome| last.add(&outcome))?;
        if last.good == last.asked {
            return Ok(());
        }
    }
    Err(format!(
        "{}: warming failed: {:?}",
        stand.which.name(),
        last.ends
    ))
}

fn graph(ran: &Ran, times: &Times) -> Graph {
    let grain = GRAIN.as_secs_f64();
    let per_second = ran.answers.iter().map(|count| count / grain).collect();
    let line = |name: &str, values: Vec<f64>| Line {
        name: name.to_owned(),
        points: values
            .into_iter()
            .enumerate()
            .map(|(at, value)| (at as f64 * grain, value))
            .collect(),
    };
    Graph {
        title: format!(
            "{} ({} errors on warmed pages)",
            ran.which.name(),
            ran.warmed.asked - ran.warmed.good
        ),
        lines: vec![
            line("answers/s", per_second),
            line("in flight", ran.in_flight.clone()),
        ],
        marks: [(times.falls, "down"), (times.returns, "back")]
            .map(|(at, what)| (at.as_secs_f64(), what.to_owned()))
            .into(),
    }
}
