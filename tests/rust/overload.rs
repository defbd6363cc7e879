//! More is asked for than an origin can give: who is served, who waits, who is told to come later.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::guests::from;
use super::site::{Origin, Site, answer, equal};
use super::{Outcome, Test};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("overload::c84_a_greedy_client_delays_itself", greedy_client),
        ("overload::c84_who_is_refused_is_told_when_to_come", refused),
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

/// A client with forty requests at any time beside one that asks one after the other: that one is served.
fn greedy_client() -> Outcome {
    let origin = busy_origin()?;
    let site = Site::start(origin.address, NARROW)?;
    let (over, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (greedy, polite) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let press = || {
        let mut client = from(greedy, site.address)?;
        while !over.load(Ordering::Relaxed) {
            let reply = client.ask("POST", "/greedy", "", b"")?;
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
            super::site::eventually("the origin is busy", || {
                Ok((refused.load(Ordering::Relaxed) > 0).then_some(()))
            })?;
            let mut client = from(polite, site.address)?;
            let mut lost = 0;
            for _ in 0..100 {
                let reply = client.ask("POST", "/polite", "", b"")?;
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
