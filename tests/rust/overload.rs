//! More is asked for than an origin can give: who is served, who waits, who is told to come later.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::guests::from;
use super::site::{Gate, Inside, Origin, Site, answer, equal, eventually, lock};
use super::{Outcome, Test};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("overload::c84_a_greedy_client_delays_itself", greedy_client),
        (
            "overload::c84_a_greedy_client_behind_a_proxy_delays_itself",
            greedy_behind_a_proxy,
        ),
        ("overload::c84_who_is_refused_is_told_when_to_come", refused),
        ("overload::a_page_that_was_turned_away_is_no_failure", stale),
        ("overload::what_an_origin_can_do_is_learned", learned),
    ]
}

const BUSY: Duration = Duration::from_millis(5);

fn busy_origin() -> Result<Origin, String> {
    Origin::start(|_, conn: &mut Conn| {
        thread::sleep(BUSY);
        answer(conn, 200, "Cache-Control: no-store\r\n", b"done")
    })
}

const NARROW: &str = "[[upstream]]\nmax_in_flight = 2\nqueue = 16\nqueue_wait = '10s'";

enum Who {
    Greedy,
    Polite,
}

/// Each has an address of its own.
fn greedy_client() -> Outcome {
    take_turns(NARROW, |who| match who {
        Who::Greedy => (Ipv4Addr::new(127, 0, 0, 2), String::new()),
        Who::Polite => (Ipv4Addr::new(127, 0, 0, 3), String::new()),
    })
}

/// Both come through one proxy; the greedy one has a network of IPv6, and never the same address again.
fn greedy_behind_a_proxy() -> Outcome {
    let proxy = Ipv4Addr::new(127, 0, 0, 9);
    let config = format!("[listen]\ntrusted_proxies = [\"{proxy}\"]\n{NARROW}");
    let next = AtomicUsize::new(1);
    take_turns(&config, |who| {
        let client = match who {
            Who::Greedy => format!("2001:db8::{:x}", next.fetch_add(1, Ordering::Relaxed)),
            Who::Polite => "203.0.113.9".to_owned(),
        };
        (proxy, format!("X-Forwarded-For: {client}\r\n"))
    })
}

/// A client with forty requests at any time beside one that asks one after the other: that one is served. `visitor`: where
/// each connects from, and what fields it sends.
fn take_turns(config: &str, visitor: impl Fn(Who) -> (Ipv4Addr, String) + Sync) -> Outcome {
    let origin = busy_origin()?;
    let site = Site::start(origin.address, config)?;
    let (over, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    let press = || {
        let mut client = from(visitor(Who::Greedy).0, site.address)?;
        while !over.load(Ordering::Relaxed) {
            let (greedy, fields) = visitor(Who::Greedy);
            let reply = client.ask("POST", "/greedy", &fields, b"")?;
            match reply.status {
                200 => {}
                503 => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    // Being refused costs so little that forty would keep the machine from everything else.
                    thread::sleep(Duration::from_millis(5));
                    if reply.field("connection") == "close" {
                        client = from(greedy, site.address)?;
                    }
                }
                _ => return Err(format!("{reply:?}")),
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let pressing: Vec<_> = (0..40).map(|_| scope.spawn(press)).collect();
        let asked = (|| {
            eventually("the origin is busy", || {
                Ok((refused.load(Ordering::Relaxed) > 0).then_some(()))
            })?;
            let (polite, fields) = visitor(Who::Polite);
            let mut client = from(polite, site.address)?;
            let mut lost = 0;
            for _ in 0..100 {
                let reply = client.ask("POST", "/polite", &fields, b"")?;
                if reply.status == 503 {
                    // A machine that stands still for a tenth of a second makes anybody late.
                    lost += 1;
                    if reply.field("connection") == "close" {
                        client = from(polite, site.address)?;
                    }
                } else {
                    reply.is(200)?;
                }
            }
            let pressed = refused.load(Ordering::Relaxed);
            match lost <= 3 && pressed > 50 {
                true => Ok(()),
                false => Err(format!(
                    "{lost} of 100 lost, beside {pressed} of the greedy one's"
                )),
            }
        })();
        over.store(true, Ordering::Relaxed);
        let joined = |client: thread::ScopedJoinHandle<'_, Outcome>| {
            client.join().unwrap_or(Err("a client panicked".into()))
        };
        pressing.into_iter().try_for_each(joined)?;
        asked
    })
}

fn refused() -> Outcome {
    const EACH: usize = 6;
    let origin = busy_origin()?;
    let site = Site::start(origin.address, NARROW)?;
    let (served, turned) = (AtomicUsize::new(0), AtomicUsize::new(0));
    super::site::crowd(64, |_| {
        let mut client = site.client()?;
        for _ in 0..EACH {
            let reply = client.ask("POST", "/", "", b"")?;
            match reply.status {
                200 => served.fetch_add(1, Ordering::Relaxed),
                503 if !reply.field("retry-after").is_empty() => {
                    if reply.field("connection") == "close" {
                        client = site.client()?;
                    }
                    turned.fetch_add(1, Ordering::Relaxed)
                }
                _ => return Err(format!("{reply:?}")),
            };
        }
        Ok(())
    })?;
    let (served, turned) = (served.into_inner(), turned.into_inner());
    equal("all", served + turned, 64 * EACH)?;
    equal("some of each", served > 0 && turned > 0, true)?;
    let counted = site.metric("tidegate_origin_refused_total")?;
    equal("refused, for a reason", counted, turned as f64)?;
    // Who was refused cost the origin nothing.
    equal("requests", origin.asked("POST /"), served)
}

/// Stale pages that find no place for their refresh are tried again soon, however often that was.
fn stale() -> Outcome {
    const TIMES: usize = 5;
    let gate = Arc::new(Gate::default());
    let waits = Arc::clone(&gate);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        if asked.target == "/held" {
            waits.wait();
        }
        let fields = "Cache-Control: max-age=1, stale-while-revalidate=600\r\n";
        answer(conn, 200, fields, b"page")
    })?;
    let config = "[[upstream]]\nmax_in_flight = 1\nqueue = 0";
    let site = Site::start(origin.address, config)?;
    site.get("/page", "")?.is(200)?;
    let mut holds = site.client()?;
    holds.send("GET", "/held", "", b"")?;
    eventually("it is held", || {
        Ok((origin.asked("GET /held") == 1).then_some(()))
    })?;
    for times in 1..=TIMES {
        site.proxy.advance(Duration::from_millis(2_100))?;
        let reply = site.get("/page", "")?.is(200)?;
        equal("stale", reply.told("hit") && reply.told("ttl=-"), true)?;
        site.until("tidegate_origin_refused_total", |refused| {
            refused == times as f64
        })?;
    }
    gate.open();
    holds.reply("GET")?.is(200)?;
    site.until("tidegate_origin_in_flight", |in_flight| in_flight == 0.0)?;
    site.until("tidegate_flights", |flights| flights == 0.0)?;
    // After as many failures it would rest for 16 seconds.
    site.proxy.advance(Duration::from_millis(1_100))?;
    site.get("/page", "")?.is(200)?;
    eventually("it is asked for", || {
        Ok((origin.asked("GET /page") == 2).then_some(()))
    })
}

/// So many places, for as long as one works.
#[derive(Default)]
struct Places {
    taken: Mutex<usize>,
    freed: Condvar,
}

impl Places {
    fn work(&self, places: usize, takes: Duration) {
        let taken = lock(&self.taken);
        let taken = self.freed.wait_while(taken, |taken| *taken >= places);
        let Ok(mut taken) = taken else {
            return;
        };
        *taken += 1;
        drop(taken);
        thread::sleep(takes);
        *lock(&self.taken) -= 1;
        self.freed.notify_one();
    }
}

/// Four at once, and a crowd that never lets it rest: from sixteen it comes down to about that.
fn learned() -> Outcome {
    const CAN: usize = 4;
    const TAKES: Duration = Duration::from_millis(20);
    const BUDGET: &str = "tidegate_origin_budget";
    let (places, inside) = (Places::default(), Arc::<Inside>::default());
    let counts = Arc::clone(&inside);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        let visit = counts.enter();
        places.work(CAN, TAKES);
        drop(visit);
        answer(conn, 200, "Cache-Control: no-store\r\n", b"done")
    })?;
    let site = Site::start(origin.address, "[[upstream]]\nmax_in_flight = 'auto'")?;
    equal("at first", site.metric(BUDGET)?, 16.0)?;
    let over = AtomicBool::new(false);
    let press = || {
        let mut client = site.client()?;
        while !over.load(Ordering::Relaxed) {
            let reply = client.ask("POST", "/", "", b"")?;
            match reply.status {
                200 => {}
                503 => {
                    thread::sleep(TAKES);
                    if reply.field("connection") == "close" {
                        client = site.client()?;
                    }
                }
                _ => return Err(format!("{reply:?}")),
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let pressing: Vec<_> = (0..32).map(|_| scope.spawn(press)).collect();
        // More is tried now and then, and less.
        let is_near = |middle: usize| (CAN - 1..=2 * CAN - 1).contains(&middle);
        let mut last = (0, 0);
        let settled = eventually("it settles", || {
            let (mut at_origin, mut budget) = (Vec::new(), Vec::new());
            for _ in 0..100 {
                at_origin.push(inside.now());
                budget.push(site.metric(BUDGET)? as usize);
                thread::sleep(Duration::from_millis(10));
            }
            last = (middle(at_origin), middle(budget));
            Ok((is_near(last.0) && is_near(last.1)).then_some(()))
        });
        let settled = settled.map_err(|why| format!("{why}: {last:?} at once"));
        over.store(true, Ordering::Relaxed);
        let joined = |client: thread::ScopedJoinHandle<'_, Outcome>| {
            client.join().unwrap_or(Err("a client panicked".into()))
        };
        pressing.into_iter().try_for_each(joined)?;
        settled
    })
}

fn middle(mut of: Vec<usize>) -> usize {
    of.sort_unstable();
    of[of.len() / 2]
}
