//! A slow route of an upstream, and the others beside it: it has the places that it may have, and they have the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::site::{Gate, Inside, Origin, Site, answer, crowd, equal};
use super::{Outcome, Test};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "bulkheads::a_slow_route_leaves_the_others_their_places",
            slow_route,
        ),
        ("bulkheads::retries_hold_to_it", retries),
    ]
}

const PLACES: usize = 8;
const QUEUE: usize = 32;
/// What the slow route may have, and so how many of it may wait.
const SLOW: usize = 2;
const WAIT: usize = QUEUE * SLOW / PLACES;
/// How long an answer of the slow route takes.
const TAKES: Duration = Duration::from_millis(600);

fn config() -> String {
    format!(
        "[[upstream]]\nmax_in_flight = {PLACES}\nqueue = {QUEUE}\nqueue_wait = '60s'\n\
         [[route]]\nname = 'all'\n\
         [[route]]\nname = 'slow'\npath = '/slow'\nmax_in_flight = {SLOW}\n\
         [[route]]\nname = 'narrow'\npath = '/narrow'\nmax_in_flight = 1\n"
    )
}

fn of_route(site: &Site, metric: &str, route: &str) -> Result<f64, String> {
    let label = [("route".to_owned(), route.to_owned())];
    Ok(site.proxy.metric(metric, &label)?.unwrap_or(-1.0))
}

fn slow_route() -> Outcome {
    let (inside, gate, kept) = (
        Arc::<Inside>::default(),
        Arc::<Gate>::default(),
        AtomicUsize::new(0),
    );
    let (enters, waits) = (Arc::clone(&inside), Arc::clone(&gate));
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        if !asked.target.starts_with("/slow") {
            return answer(conn, 200, "Cache-Control: no-store\r\n", b"quick");
        }
        let _inside = enters.enter();
        match &*asked.target {
            "/slow/takes" => thread::sleep(TAKES),
            // It is quick once.
            "/slow/kept" if kept.fetch_add(1, Ordering::SeqCst) == 0 => {}
            _ => waits.wait(),
        }
        let fields = "Cache-Control: max-age=60, stale-while-revalidate=600\r\n";
        answer(conn, 200, fields, b"slow")
    })?;
    let site = Site::start(origin.address, &config())?;
    for target in ["/slow/takes", "/slow/kept"] {
        site.get(target, "")?.is(200)?;
    }
    site.proxy.advance(Duration::from_secs(61))?;
    // A refresh that nobody waits for has the first of the two places.
    site.get("/slow/kept", "")?.is(200)?;
    site.until("tidegate_route_in_flight", |places| places == 1.0)?;
    let asked = thread::scope(|scope| {
        // What is fetched for the cache, and what goes past it.
        let ask = |n: usize| {
            let method = if n.is_multiple_of(2) { "GET" } else { "POST" };
            let reply = site.client()?.ask(method, &format!("/slow/{n}"), "", b"")?;
            reply.is(200).map(drop)
        };
        let crowd_of_it: Vec<_> = (0..SLOW - 1 + WAIT)
            .map(|n| scope.spawn(move || ask(n)))
            .collect();
        let asked = beside(&site, &inside);
        gate.open();
        crowd_of_it.into_iter().try_for_each(joined)?;
        asked
    });
    asked?;
    site.until("tidegate_route_in_flight", |places| places == 0.0)?;
    equal("the most at once", inside.most(), SLOW)?;
    // Who was refused cost the origin nothing.
    let passed: usize = (0..=WAIT)
        .map(|n| origin.asked(&format!("POST /slow/{n}")))
        .sum();
    equal("passed", passed, (SLOW - 1 + WAIT) / 2)?;
    equal("refused", origin.asked("POST /slow/more"), 0)
}

/// While the slow route has all it may have, places and queue.
fn beside(site: &Site, inside: &Inside) -> Outcome {
    let full = |in_flight: f64, queued: f64| {
        equal("in flight", in_flight, SLOW as f64)?;
        equal("queued", queued, WAIT as f64)
    };
    site.until("tidegate_route_queued", |queued| queued == WAIT as f64)?;
    full(
        of_route(site, "tidegate_route_in_flight", "slow")?,
        of_route(site, "tidegate_route_queued", "slow")?,
    )?;
    equal(
        "one without a number",
        of_route(site, "tidegate_route_in_flight", "all")?,
        -1.0,
    )?;
    // All of its own, and in nobody's way: as many others as there are places left, again and again.
    crowd(PLACES - SLOW, |visitor| {
        let mut client = site.client()?;
        for n in 0..20 {
            let target = format!("/quick/{visitor}/{n}");
            equal(
                "page",
                client.get(&target, "")?.is(200)?.text(),
                "quick".into(),
            )?;
            client.ask("POST", &target, "", b"")?.is(200)?;
        }
        Ok(())
    })?;
    site.get("/narrow", "")?.is(200)?;
    // More of it are told when to come, by how long it takes to work off what waits of it.
    let rounds = WAIT / SLOW;
    let least = (TAKES * u32::try_from(rounds).unwrap_or(1)).as_secs() + 1;
    for method in ["GET", "POST"] {
        let reply = site.client()?.ask(method, "/slow/more", "", b"")?;
        equal("status", reply.status, 503)?;
        let seconds: u64 = reply.field("retry-after").parse().unwrap_or(0);
        let fits = (least..=60).contains(&seconds);
        equal(&format!("{seconds} is at least {least}"), fits, true)?;
    }
    let why = [("reason".to_owned(), "queue_full".to_owned())];
    let refused = site.proxy.metric("tidegate_origin_refused_total", &why)?;
    equal("refused", refused, Some(2.0))?;
    // What is stored goes out all the same.
    for target in ["/slow/kept", "/slow/takes"] {
        equal("page", site.get(target, "")?.is(200)?.text(), "slow".into())?;
    }
    full(
        site.metric("tidegate_origin_in_flight")?,
        site.metric("tidegate_origin_queued")?,
    )?;
    equal("the most at once", inside.most(), SLOW)
}

/// Two servers. What is asked again at the other one is one of the route's as well: where another of it has taken the place,
/// it is not asked again.
fn retries() -> Outcome {
    let (inside, asked) = (Arc::<Inside>::default(), Arc::new(AtomicUsize::new(0)));
    let (breaks, gate) = (Arc::<Gate>::default(), Arc::<Gate>::default());
    let server = || {
        let (enters, asked) = (Arc::clone(&inside), Arc::clone(&asked));
        let (breaks, gate) = (Arc::clone(&breaks), Arc::clone(&gate));
        Origin::start(move |_, conn: &mut Conn| {
            let _inside = enters.enter();
            let body = match asked.fetch_add(1, Ordering::SeqCst) {
                0 => {
                    breaks.wait();
                    return Err("on purpose".into());
                }
                1 => {
                    gate.wait();
                    "held"
                }
                2 => return Err("on purpose".into()),
                _ => "again",
            };
            answer(conn, 200, "Connection: close\r\n", body.as_bytes())
        })
    };
    let (one, other) = (server()?, server()?);
    let config = format!(
        "[[upstream]]\nservers = ['http://{}', 'http://{}']\nmax_in_flight = 8\n\
         retries = 100\nqueue_wait = '60s'\n[[route]]\nmax_in_flight = 1\n",
        one.address, other.address
    );
    let site = Site::start(one.address, &config)?;
    let asked_again = || site.metric("tidegate_origin_retries_total");
    thread::scope(|scope| {
        let broken = scope.spawn(|| Ok(site.get("/broken", "")?.status));
        site.until("tidegate_origin_in_flight", |requests| requests == 1.0)?;
        let held = scope.spawn(|| Ok(site.get("/held", "")?.is(200)?.text()));
        let asked = (|| {
            site.until("tidegate_origin_queued", |requests| requests == 1.0)?;
            breaks.open();
            equal("the broken one", joined(broken)?, 502)?;
            equal("asked again", asked_again()?, 0.0)
        })();
        breaks.open();
        gate.open();
        equal("the other", joined(held)?, "held".into())?;
        asked
    })?;
    equal(
        "again",
        site.get("/alone", "")?.is(200)?.text(),
        "again".into(),
    )?;
    equal("asked again", asked_again()?, 1.0)?;
    equal("the most at once", inside.most(), 1)
}

fn joined<T>(one: thread::ScopedJoinHandle<'_, Result<T, String>>) -> Result<T, String> {
    one.join().unwrap_or(Err("a client panicked".into()))
}
