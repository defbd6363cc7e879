//! An origin that is down as a whole: left alone but for trials, and back to work as soon as one is answered.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::manners::{FAILS, Manners, RESETS, WELL};
use super::site::{Gate, Inside, Origin, Reply, Site, answer, crowd, equal, eventually, lock};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("breaker::c72_a_dead_origin_sees_only_trials", only_trials),
        ("breaker::c72_half_open_is_one_at_a_time", herd),
        ("breaker::who_waits_is_told_when_it_opens", queue),
        ("breaker::one_slow_page_opens_nothing", one_page),
        ("breaker::c78_the_hottest_pages_come_back_first", hottest),
        ("breaker::c78_all_servers_are_back_at_once", servers),
        ("breaker::c72_a_trial_is_not_asked_again", no_retries),
        ("breaker::trials_that_hang_leave_places_for_others", hangs),
        ("breaker::an_origin_that_is_slow_is_back_too", slowly),
        ("breaker::a_probe_that_goes_well_ends_the_rest", probe),
        ("breaker::c84_refusals_tell_the_queue_and_a_reason", reasons),
    ]
}

const STATE: &str = "tidegate_origin_breaker_state";
const OPENED: &str = "tidegate_origin_breaker_opened_total";
const REFUSED: &str = "tidegate_origin_refused_total";
/// No rest is shorter, in milliseconds, and none longer.
const SHORTEST: u128 = 300;
const LONGEST: Duration = Duration::from_millis(600);

/// An origin whose manners can be changed. What is below `/held` waits at a gate, where it is well.
struct Server {
    origin: Origin,
    manners: Manners,
    order: Arc<Mutex<Vec<String>>>,
    inside: Arc<Inside>,
    gate: Arc<Gate>,
}

impl Server {
    fn start(fields: &'static str) -> Result<Server, String> {
        let manners = Manners::default();
        let order = Arc::<Mutex<Vec<String>>>::default();
        let (inside, gate) = (Arc::<Inside>::default(), Arc::<Gate>::default());
        let (read, notes) = (manners.clone(), Arc::clone(&order));
        let (enters, waits) = (Arc::clone(&inside), Arc::clone(&gate));
        let origin = Origin::start(move |asked, conn: &mut Conn| {
            if asked.target == "/up" {
                return answer(conn, 200, "", b"up");
            }
            let _inside = enters.enter();
            lock(&notes).push(asked.target.clone());
            if let Some(done) = read.misbehave(conn) {
                return done;
            }
            if asked.target.starts_with("/held") {
                waits.wait();
            }
            answer(conn, 200, fields, b"here")
        })?;
        Ok(Server {
            origin,
            manners,
            order,
            inside,
            gate,
        })
    }

    fn behave(&self, manners: u8) {
        self.manners.become_like(manners);
    }

    fn asked(&self) -> usize {
        lock(&self.order).len()
    }

    fn at(&self) -> SocketAddr {
        self.origin.address
    }
}

/// Asks for new pages until the breaker has opened.
fn open(site: &Site) -> Outcome {
    for n in 0..200 {
        let status = site.get(&format!("/opens-{n}"), "")?.status;
        if site.metric(STATE)? == 2.0 {
            let is_gateways = (502..=504).contains(&status);
            return equal("a gateway's error until then", is_gateways, true);
        }
    }
    Err("it stays closed".into())
}

/// Refused by the breaker: at once, and with a time to come back.
fn is_refused(reply: &Reply) -> bool {
    let seconds = reply.field("retry-after").parse::<u32>();
    reply.status == 503
        && reply.told("detail=breaker")
        && seconds.is_ok_and(|seconds| (1..=4).contains(&seconds))
}

const SHORT: &str = "Cache-Control: max-age=1\r\n";

fn only_trials() -> Outcome {
    let server = Server::start(SHORT)?;
    let site = Site::start(server.at(), "")?;
    site.get("/warm", "")?.is(200)?;
    site.proxy.advance(Duration::from_secs(5))?;
    server.behave(RESETS);
    open(&site)?;
    // The first of them twice: the connection it was on might have been old.
    equal("failures until then", server.asked(), 1 + 1 + 10)?;
    let (before, began) = (server.asked(), clock::now());
    let (mut tried, mut posted) = (0, 0);
    for n in 0..40 {
        let warm = site.get("/warm", "")?.is(200)?;
        match warm.told("hit") && warm.told("detail=breaker") {
            true => {}
            false if warm.told("fwd=stale") && warm.told("detail=sie") => tried += 1,
            // It rests for having failed as a trial.
            false if tried > 0 && warm.told("detail=sie") => {}
            false => return Err(format!("{warm:?}")),
        }
        let new = site.get(&format!("/new-{n}"), "")?;
        let post = site.client()?.ask("POST", "/post", "", b"once")?;
        for reply in [&new, &post] {
            match reply.status {
                502 => tried += 1,
                _ if is_refused(reply) => {}
                _ => return Err(format!("{reply:?}")),
            }
        }
        posted += usize::from(post.status == 502);
    }
    let most = 1 + (clock::now() - began).as_millis() / SHORTEST;
    equal("trials", server.asked() - before, tried)?;
    equal("once each", server.origin.asked("POST"), posted)?;
    equal(
        &format!("at most {most}, not {tried}"),
        tried as u128 <= most,
        true,
    )?;
    let reason = [("reason".to_owned(), "breaker".to_owned())];
    let counted = site.proxy.metric(REFUSED, &reason)?;
    equal(
        "counted",
        counted.is_some_and(|refused| refused >= 70.0),
        true,
    )?;
    // One that fails keeps it open, one that is answered closes it.
    site.proxy.advance(LONGEST)?;
    let failed = server.asked();
    site.get("/trial", "")?.is(502)?;
    equal("asked", server.asked(), failed + 1)?;
    server.behave(WELL);
    site.proxy.advance(LONGEST)?;
    site.get("/trial", "")?.is(200)?;
    equal("closed", site.metric(STATE)?, 0.0)?;
    equal("opened", site.metric(OPENED)?, 1.0)?;
    site.client()?.ask("POST", "/post", "", b"again")?.is(200)?;
    let log = site.dir.path().join("stdout");
    eventually("the log tells", || {
        let told = std::fs::read_to_string(&log).map_err(|e| e.to_string())?;
        let is_told = told.contains("breaker opened") && told.contains("breaker closed");
        Ok(is_told.then_some(()))
    })
}

fn herd() -> Outcome {
    const VISITORS: usize = 50;
    let server = Server::start("Cache-Control: no-store\r\n")?;
    let site = Site::start(server.at(), "")?;
    server.behave(FAILS);
    open(&site)?;
    server.behave(WELL);
    site.proxy.advance(LONGEST)?;
    let (before, began) = (server.asked(), clock::now());
    let (refused, served) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let trials = AtomicUsize::new(0);
    crowd(VISITORS, |visitor| {
        let reply = site.get(&format!("/held-{visitor}"), "")?;
        match reply.status {
            200 => {
                served.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            _ if is_refused(&reply) => {}
            _ => return Err(format!("{reply:?}")),
        }
        // Nobody is answered before nearly all have been refused.
        if refused.fetch_add(1, Ordering::SeqCst) + 1 == VISITORS * 3 / 4 {
            // The trial may still be on its way.
            eventually("one was tried", || {
                Ok((server.asked() > before).then_some(()))
            })?;
            trials.store(server.asked() - before, Ordering::SeqCst);
            server.gate.open();
        }
        Ok(())
    })?;
    let most = 1 + (clock::now() - began).as_millis() / SHORTEST;
    let trials = trials.into_inner();
    equal("one was tried", trials >= 1, true)?;
    equal(
        &format!("at most {most}, not {trials}"),
        trials as u128 <= most,
        true,
    )?;
    equal("served", served.into_inner() >= 1, true)?;
    site.until(STATE, |state| state == 0.0)
}

fn queue() -> Outcome {
    const VISITORS: usize = 60;
    let server = Server::start("Cache-Control: no-store\r\n")?;
    server.behave(FAILS);
    let config = "[[upstream]]\nmax_in_flight = 1\nqueue_wait = '30s'";
    let site = Site::start(server.at(), config)?;
    let (refused, began) = (AtomicUsize::new(0), clock::now());
    crowd(VISITORS, |visitor| {
        let reply = site
            .client()?
            .ask("POST", &format!("/{visitor}"), "", b"x")?;
        match is_refused(&reply) {
            true => refused.fetch_add(1, Ordering::SeqCst),
            false if reply.text() == "not now" => 0,
            false => return Err(format!("{reply:?}")),
        };
        Ok(())
    })?;
    let trials = (clock::now() - began).as_millis() / SHORTEST;
    let asked = server.asked();
    equal(
        "each was asked or refused",
        asked + refused.into_inner(),
        VISITORS,
    )?;
    equal(
        &format!("{asked} asked"),
        asked as u128 <= 10 + trials,
        true,
    )
}

fn one_page() -> Outcome {
    let gate = Arc::new(Gate::default());
    let waits = Arc::clone(&gate);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        if asked.target.starts_with("/slow") {
            waits.wait();
        }
        answer(conn, 200, "Cache-Control: no-store\r\n", b"here")
    })?;
    let site = Site::start(origin.address, "[[upstream]]\nfirst_byte_timeout = '60ms'")?;
    for n in 0..14 {
        site.get("/slow", "")?.is(504)?;
        site.get(&format!("/good-{n}"), "")?.is(200)?;
    }
    gate.open();
    equal("opened", site.metric(OPENED)?, 0.0)?;
    // Alone they would have opened it.
    let gate = Arc::new(Gate::default());
    let waits = Arc::clone(&gate);
    let origin = Origin::start(move |_, _: &mut Conn| {
        waits.wait();
        Err("too late".into())
    })?;
    let site = Site::start(origin.address, "[[upstream]]\nfirst_byte_timeout = '60ms'")?;
    open(&site)?;
    gate.open();
    Ok(())
}

/// With one place: who is first when it is back.
fn hottest() -> Outcome {
    const PAGES: usize = 10;
    let server = Server::start("Cache-Control: max-age=1, stale-while-revalidate=600\r\n")?;
    let config = "[[upstream]]\nmax_in_flight = 1\nbreaker_after = 50";
    let site = Site::start(server.at(), config)?;
    server.gate.open();
    let page = |n: usize| format!("/held-{n}");
    let all = || (0..PAGES).try_for_each(|n| site.get(&page(n), "")?.is(200).map(drop));
    all()?;
    site.proxy.advance(Duration::from_secs(3))?;
    // They fail three times each: then they would rest for four seconds.
    server.behave(RESETS);
    for rest in [1, 2] {
        all()?;
        let failed = format!("tidegate_refreshes_total of rest {rest}");
        eventually(&failed, || {
            let result = [("result".to_owned(), "failed".to_owned())];
            let failed = site.proxy.metric("tidegate_refreshes_total", &result)?;
            Ok((failed == Some((PAGES * rest) as f64)).then_some(()))
        })?;
        site.proxy
            .advance(Duration::from_millis(rest as u64 * 1_000 + 100))?;
    }
    all()?;
    site.until("tidegate_flights", |flights| flights == 0.0)?;
    open(&site)?;
    site.get(&page(0), "")?.is(200)?;
    // It returns, with a gate that holds what is asked first.
    let gate = Arc::new(Gate::default());
    let returned = {
        let (waits, order) = (Arc::clone(&gate), Arc::<Mutex<Vec<String>>>::default());
        let (notes, inside) = (Arc::clone(&order), Arc::clone(&server.inside));
        let address = server.at();
        drop(server);
        let start = || {
            let (waits, notes) = (Arc::clone(&waits), Arc::clone(&notes));
            let inside = Arc::clone(&inside);
            Origin::start_at(address, move |asked, conn: &mut Conn| {
                let _inside = inside.enter();
                lock(&notes).push(asked.target.clone());
                if asked.target != "/trial" {
                    waits.wait();
                }
                let fields = "Cache-Control: max-age=60\r\n";
                answer(conn, 200, fields, b"new")
            })
        };
        let origin = eventually("its port is free", || Ok(start().ok()))?;
        (origin, order, inside)
    };
    let (_origin, order, inside) = &returned;
    eventually("it is seen to be back", || {
        Ok((site.get("/trial", "")?.status == 200).then_some(()))
    })?;
    lock(order).clear();
    all()?;
    site.until("tidegate_origin_queued", |queued| {
        queued == (PAGES - 1) as f64
    })?;
    for (n, times) in [(5, 9), (8, 5), (2, 3)] {
        (0..times).try_for_each(|_| site.get(&page(n), "")?.is(200).map(drop))?;
    }
    thread::scope(|scope| {
        let person = scope.spawn(|| site.get("/person", "")?.is(200).map(drop));
        let queued = site.until("tidegate_origin_queued", |queued| queued == PAGES as f64);
        gate.open();
        person.join().unwrap_or(Err("a client panicked".into()))?;
        queued
    })?;
    site.until("tidegate_flights", |flights| flights == 0.0)?;
    let seen = lock(order).clone();
    let first: Vec<&str> = seen.iter().map(String::as_str).take(5).collect();
    equal("first", first[0].starts_with("/held-"), true)?;
    let hot = ["/person", "/held-5", "/held-8", "/held-2"];
    equal("then", &first[1..], &hot[..])?;
    equal("all, once", seen.len(), PAGES + 1)?;
    equal("at once", inside.most(), 1)?;
    all()?;
    equal("fresh", site.get(&page(7), "")?.text(), "new".into())
}

fn servers() -> Outcome {
    let fields = "Cache-Control: no-store\r\n";
    let (one, other) = (Server::start(fields)?, Server::start(fields)?);
    let config = format!(
        "[[upstream]]\nservers = [\"http://{}\", \"http://{}\"]\nbalance = 'least_in_flight'\n\
         eject_after = 3\neject_for = '60s'\neject_most = 100\nslow_start = '60s'\nretries = 100",
        one.at(),
        other.at()
    );
    let site = Site::start(one.at(), &config)?;
    one.behave(FAILS);
    other.behave(RESETS);
    open(&site)?;
    one.behave(WELL);
    other.behave(WELL);
    site.proxy.advance(LONGEST)?;
    site.get("/back", "")?.is(200)?;
    equal(
        "ejected",
        site.metric("tidegate_origin_server_ejected")?,
        0.0,
    )?;
    let before = (one.asked(), other.asked());
    for n in 0..20 {
        site.get(&format!("/after-{n}"), "")?.is(200)?;
    }
    let shares = (one.asked() - before.0, other.asked() - before.1);
    let is_fair = shares.0 >= 8 && shares.1 >= 8;
    equal(&format!("both have their share, {shares:?}"), is_fair, true)
}

fn no_retries() -> Outcome {
    let (one, other) = (Server::start("")?, Server::start("")?);
    one.behave(RESETS);
    other.behave(RESETS);
    let config = format!(
        "[[upstream]]\nservers = [\"http://{}\", \"http://{}\"]\neject_after = 0\nretries = 100",
        one.at(),
        other.at()
    );
    let site = Site::start(one.at(), &config)?;
    open(&site)?;
    let again = site.metric("tidegate_origin_retries_total")?;
    equal("until then they were", again > 0.0, true)?;
    let before = one.asked() + other.asked();
    for n in 0..4 {
        site.proxy.advance(LONGEST)?;
        site.get(&format!("/trial-{n}"), "")?.is(502)?;
    }
    equal("asked", one.asked() + other.asked() - before, 4)
}

/// It takes requests and answers none, until it does again: those it never answers hold no place for long.
fn hangs() -> Outcome {
    const PLACES: usize = 4;
    let server = Server::start("Cache-Control: no-store\r\n")?;
    let config = format!(
        "[[upstream]]\nmax_in_flight = {PLACES}\nfirst_byte_timeout = '10m'\nqueue_wait = '30s'"
    );
    let site = Site::start(server.at(), &config)?;
    server.behave(FAILS);
    open(&site)?;
    server.behave(WELL);
    let before = server.asked();
    // Those who ask are there until the test is over.
    let mut trials = Vec::new();
    for n in 0..PLACES {
        site.proxy.advance(LONGEST)?;
        let mut client = site.client()?;
        client.send("GET", &format!("/held-{n}"), "", b"")?;
        eventually("it is tried", || {
            Ok((server.asked() == before + n + 1).then_some(()))
        })?;
        trials.push(client);
    }
    equal(
        "all places",
        site.metric("tidegate_origin_in_flight")?,
        PLACES as f64,
    )?;
    let mut n = 0;
    eventually("its return is seen", || {
        n += 1;
        Ok((site.get(&format!("/well-{n}"), "")?.status == 200).then_some(()))
    })?;
    equal("closed", site.metric(STATE)?, 0.0)?;
    // One of them has all the time there is.
    site.until("tidegate_origin_in_flight", |in_flight| in_flight == 1.0)?;
    server.gate.open();
    trials[0].reply("GET")?.is(200)?;
    trials[1..]
        .iter_mut()
        .try_for_each(|trial| trial.reply("GET")?.is(504).map(drop))
}

/// It is back, and answers nothing sooner than trials are waited for.
fn slowly() -> Outcome {
    let manners = Manners::default();
    let read = manners.clone();
    let origin = Origin::start(move |_, conn: &mut Conn| {
        if let Some(done) = read.misbehave(conn) {
            return done;
        }
        thread::sleep(Duration::from_millis(2_500));
        answer(conn, 200, "Cache-Control: no-store\r\n", b"here")
    })?;
    let site = Site::start(origin.address, "[[upstream]]\nmax_in_flight = 2")?;
    manners.become_like(FAILS);
    open(&site)?;
    manners.become_like(WELL);
    eventually("its return is seen", || {
        let reply = site.get("/", "")?;
        Ok((reply.status == 200).then_some(()))
    })?;
    equal("closed", site.metric(STATE)?, 0.0)
}

fn probe() -> Outcome {
    const TRIALS: usize = 20;
    let server = Server::start("Cache-Control: no-store\r\n")?;
    let config = "[[upstream]]\nhealth = 'http'\nhealth_path = '/up'\nhealth_interval = '20ms'";
    let site = Site::start(server.at(), config)?;
    server.behave(FAILS);
    open(&site)?;
    let (before, began) = (server.asked(), clock::now());
    let mut n = 0;
    eventually("trials", || {
        n += 1;
        site.get(&format!("/{n}"), "")?;
        Ok((server.asked() - before >= TRIALS).then_some(()))
    })?;
    let took = (clock::now() - began).as_millis();
    let least = SHORTEST * (TRIALS as u128 - 1);
    equal(
        &format!("sooner than {least}, in {took} ms"),
        took < least,
        true,
    )
}

fn reasons() -> Outcome {
    const QUEUE: usize = 8;
    let (gate, first) = (Arc::new(Gate::default()), AtomicUsize::new(0));
    let waits = Arc::clone(&gate);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        match first.fetch_add(1, Ordering::SeqCst) {
            0 => thread::sleep(Duration::from_millis(600)),
            _ => waits.wait(),
        }
        answer(conn, 200, "Cache-Control: no-store\r\n", b"here")
    })?;
    let config = format!("[[upstream]]\nmax_in_flight = 1\nqueue = {QUEUE}\nqueue_wait = '30s'");
    let site = Site::start(origin.address, &config)?;
    site.get("/takes", "")?.is(200)?;
    let reason = |reason: &str| {
        let label = [("reason".to_owned(), reason.to_owned())];
        site.proxy.metric(REFUSED, &label)
    };
    thread::scope(|scope| {
        let ask = |n: usize| site.get(&format!("/{n}"), "")?.is(200).map(drop);
        let waiting: Vec<_> = (0..=QUEUE).map(|n| scope.spawn(move || ask(n))).collect();
        let asked = (|| {
            site.until("tidegate_origin_queued", |queued| queued == QUEUE as f64)?;
            let mut told = Vec::new();
            for n in 0..12 {
                let reply = site.get(&format!("/more-{n}"), "")?;
                equal("status", reply.status, 503)?;
                let seconds: u32 = reply.field("retry-after").parse().unwrap_or(0);
                told.push(seconds);
            }
            // Eight that wait, each for as long as an answer takes: more than half a second.
            let fits = |seconds: &u32| (5..=60).contains(seconds);
            equal(&format!("{told:?} fits"), told.iter().all(fits), true)?;
            equal(
                "apart",
                told.iter().any(|seconds| *seconds != told[0]),
                true,
            )?;
            equal("queue_full", reason("queue_full")?, Some(12.0))
        })();
        gate.open();
        let joined = |one: thread::ScopedJoinHandle<'_, Outcome>| {
            one.join().unwrap_or(Err("a client panicked".into()))
        };
        waiting.into_iter().try_for_each(joined)?;
        asked
    })?;
    equal("others", reason("breaker")?, Some(0.0))
}
