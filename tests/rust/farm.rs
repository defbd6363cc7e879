//! Several servers of one upstream, some of which fail: nobody notices, and the others are not overrun.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::manners::{FAILS, FAILS_OFTEN, Manners, RESETS, WELL};
use super::site::{Origin, Site, answer, equal, eventually};
use super::{Outcome, Test};
use crate::harness::proxy::free_port;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "farm::c71_a_broken_answer_is_asked_for_elsewhere",
            asked_elsewhere,
        ),
        ("farm::c72_retries_have_a_budget", budget),
        (
            "farm::c77_a_server_that_fails_is_ejected_and_comes_back",
            ejected,
        ),
        (
            "farm::c77_a_server_that_fails_more_often_than_the_others_is_ejected",
            ejected_by_share,
        ),
        ("farm::a_single_server_is_never_ejected", single),
    ]
}

/// A server whose manners can be changed.
struct Server {
    origin: Origin,
    manners: Manners,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn start(name: &'static str) -> Result<Server, String> {
        let (manners, asked) = (Manners::default(), Arc::new(AtomicUsize::new(0)));
        let (read, count) = (manners.clone(), Arc::clone(&asked));
        let origin = Origin::start(move |_, conn: &mut Conn| {
            count.fetch_add(1, Ordering::SeqCst);
            if let Some(done) = read.misbehave(conn) {
                return done;
            }
            answer(conn, 200, "Cache-Control: no-store\r\n", name.as_bytes())
        })?;
        Ok(Server {
            origin,
            manners,
            asked,
        })
    }

    fn behave(&self, manners: u8) {
        self.manners.become_like(manners);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn site(servers: &[SocketAddr], more: &str) -> Result<Site, String> {
    let list: Vec<String> = servers
        .iter()
        .map(|at| format!("\"http://{at}\""))
        .collect();
    let config = format!("[[upstream]]\nservers = [{}]\n{more}", list.join(", "));
    Site::start(servers[0], &config)
}

const EJECTED: &str = "tidegate_origin_server_ejected";

fn asked_elsewhere() -> Outcome {
    let (bad, good) = (Server::start("bad")?, Server::start("good")?);
    bad.behave(RESETS);
    // A third that nobody listens at.
    let servers = [bad.origin.address, good.origin.address, free_port()];
    let site = site(
        &servers,
        "balance = 'round_robin'\neject_after = 0\nretries = 100\nbreaker_after = 0",
    )?;
    for n in 0..20 {
        let reply = site.get(&format!("/{n}"), "")?.is(200)?;
        equal("page", reply.text(), "good".into())?;
    }
    equal("the bad one was tried", bad.asked() > 0, true)?;
    // What may not be asked twice is not.
    let before = bad.asked() + good.asked();
    let mut told = 0;
    for _ in 0..20 {
        let reply = site.client()?.ask("POST", "/", "", b"once")?;
        told += usize::from(reply.status == 502);
        equal("whole", reply.status == 200 || reply.status == 502, true)?;
    }
    let asked = bad.asked() + good.asked() - before;
    equal("asked once each at most", asked <= 20, true)?;
    equal("some were told", told > 0, true)
}

fn budget() -> Outcome {
    let (one, other) = (Server::start("one")?, Server::start("other")?);
    one.behave(RESETS);
    other.behave(RESETS);
    let servers = [one.origin.address, other.origin.address];
    let site = site(&servers, "eject_after = 0\nretries = 10\nbreaker_after = 0")?;
    const REQUESTS: usize = 300;
    for n in 0..REQUESTS {
        site.get(&format!("/{n}"), "")?.is(502)?;
    }
    let asked = one.asked() + other.asked();
    // A tenth, and the ten there are at the start.
    let most = REQUESTS + REQUESTS / 10 + 10;
    if asked <= REQUESTS || asked > most {
        return Err(format!("{asked} requests for {REQUESTS}, at most {most}"));
    }
    let counted = site.metric("tidegate_origin_retries_total")?;
    equal("counted", counted, (asked - REQUESTS) as f64)
}

fn ejected() -> Outcome {
    let (bad, good) = (Server::start("bad")?, Server::start("good")?);
    let servers = [bad.origin.address, good.origin.address];
    let site = site(
        &servers,
        "balance = 'round_robin'\neject_after = 3\neject_for = '4s'\nslow_start = '0'",
    )?;
    bad.behave(FAILS);
    // Its errors are passed on until it is left alone.
    eventually("it is ejected", || {
        site.get(&format!("/{}", bad.asked() + good.asked()), "")?;
        Ok((site.metric(EJECTED)? == 1.0).then_some(()))
    })?;
    equal("its requests", bad.asked(), 3)?;
    for n in 0..50 {
        site.get(&format!("/after-{n}"), "")?.is(200)?;
    }
    equal("its requests", bad.asked(), 3)?;
    bad.behave(WELL);
    site.until(EJECTED, |ejected| ejected == 0.0)?;
    eventually("it has its share again", || {
        site.get(&format!("/{}", bad.asked() + good.asked()), "")?
            .is(200)?;
        Ok((bad.asked() > 6).then_some(()))
    })
}

/// Never twice in a row, but every third time.
fn ejected_by_share() -> Outcome {
    let bad = Server::start("bad")?;
    let good = [Server::start("one")?, Server::start("two")?];
    let servers = [&bad, &good[0], &good[1]].map(|server| server.origin.address);
    bad.behave(FAILS_OFTEN);
    let site = |more: &str| {
        let more = format!("balance = 'round_robin'\neject_for = '4s'\n{more}");
        site(&servers, &more)
    };
    let lenient = site("eject_share = 0")?;
    let mut told = 0;
    for n in 0..120 {
        told += usize::from(lenient.get(&format!("/{n}"), "")?.status == 502);
    }
    equal("its requests", bad.asked(), 40)?;
    equal("its errors, passed on", told, 13)?;
    equal("ejected", lenient.metric(EJECTED)?, 0.0)?;
    drop(lenient);
    let site = site("")?;
    for n in 0..120 {
        site.get(&format!("/{n}"), "")?;
    }
    equal("ejected", site.metric(EJECTED)?, 1.0)?;
    // Twenty at least, and on to the next failure.
    let asked = bad.asked() - 40;
    equal("soon", (20..=23).contains(&asked), true)?;
    for n in 0..30 {
        site.get(&format!("/after-{n}"), "")?.is(200)?;
    }
    bad.behave(WELL);
    site.until(EJECTED, |ejected| ejected == 0.0)?;
    eventually("it is asked again", || {
        site.get(&format!("/{}", bad.asked()), "")?.is(200)?;
        Ok((bad.asked() > 40 + asked).then_some(()))
    })
}

fn single() -> Outcome {
    let only = Server::start("only")?;
    let site = site(&[only.origin.address], "eject_after = 2\nbreaker_after = 0")?;
    only.behave(FAILS);
    for n in 0..20 {
        equal("status", site.get(&format!("/{n}"), "")?.status, 503)?;
    }
    equal("asked", only.asked(), 20)?;
    only.behave(WELL);
    site.get("/", "")?.is(200).map(drop)
}
