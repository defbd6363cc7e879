//! Going down and coming up: drains, second signals, kills, and logs that cannot be written.

use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::site::{Client, Gate, Origin, Site, answer, binary, equal, eventually};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::proxy::Proxy;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "lifecycle::c86_a_drain_finishes_what_is_asked_for",
            c86_drain,
        ),
        (
            "lifecycle::c86_a_drain_ends_as_soon_as_nobody_is_left",
            c86_nobody,
        ),
        (
            "lifecycle::c86_a_drain_ends_when_its_time_is_over",
            c86_endless,
        ),
        ("lifecycle::c86_a_second_signal_does_not_wait", c86_twice),
        ("lifecycle::c87_killed_it_serves_again_at_once", c87_killed),
        ("lifecycle::c87_a_full_log_harms_nobody", c87_full_log),
    ]
}

fn signal(site: &Site, name: &str) -> Outcome {
    let pid = site.pid()?.to_string();
    let sent = Command::new("kill").args([name, &pid]).status();
    equal("kill", sent.is_ok_and(|status| status.success()), true)
}

/// Waits for the process to end, however it does.
fn ends(site: &Site) -> Outcome {
    eventually("its end", || Ok(site.proxy.alive().is_err().then_some(())))
}

/// An origin that answers once its door is opened.
fn closed() -> Result<(Origin, Arc<Gate>), String> {
    let gate = Arc::new(Gate::default());
    let door = Arc::clone(&gate);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        if asked.target != "/open" {
            door.wait();
        }
        answer(conn, 200, "", b"page")
    })?;
    Ok((origin, gate))
}

/// A client whose request is with the origin.
fn waiting(site: &Site, origin: &Origin) -> Result<Client, String> {
    let mut client = site.client()?;
    client.send("GET", "/", "", b"")?;
    eventually("the request is with the origin", || {
        Ok((origin.asked("GET /") >= 1).then_some(()))
    })?;
    Ok(client)
}

fn c86_drain() -> Outcome {
    let (origin, gate) = closed()?;
    let site = Site::start(origin.address, "")?;
    let mut idle = site.client()?;
    idle.get("/open", "")?.is(200)?;
    let mut silent = site.client()?;
    let mut busy = waiting(&site, &origin)?;
    signal(&site, "-TERM")?;
    // Not ready any more, the doors shut, and those who asked for nothing sent away.
    eventually("the doors are shut", || {
        Ok(TcpStream::connect(site.address).is_err().then_some(()))
    })?;
    equal("idle", idle.reply("GET").is_err(), true)?;
    equal("silent", silent.reply("GET").is_err(), true)?;
    site.proxy.alive()?;
    gate.open();
    let reply = busy.reply("GET")?.is(200)?;
    equal(
        "connection",
        reply.field("connection").to_owned(),
        "close".into(),
    )?;
    ends(&site)
}

fn c86_nobody() -> Outcome {
    let (origin, _) = closed()?;
    let site = Site::start(origin.address, "[listen]\ndrain = \"1h\"")?;
    let mut idle = site.client()?;
    idle.get("/open", "")?.is(200)?;
    signal(&site, "-INT")?;
    ends(&site)
}

fn c86_endless() -> Outcome {
    let (origin, _gate) = closed()?;
    let site = Site::start(origin.address, "[listen]\ndrain = \"1s\"")?;
    let _busy = waiting(&site, &origin)?;
    let began = clock::now();
    signal(&site, "-TERM")?;
    ends(&site)?;
    equal(
        "it waited",
        clock::now() - began >= Duration::from_millis(900),
        true,
    )
}

fn c86_twice() -> Outcome {
    let (origin, _gate) = closed()?;
    let site = Site::start(origin.address, "[listen]\ndrain = \"1h\"")?;
    let _busy = waiting(&site, &origin)?;
    signal(&site, "-TERM")?;
    eventually("the doors are shut", || {
        Ok(TcpStream::connect(site.address).is_err().then_some(()))
    })?;
    site.proxy.alive()?;
    signal(&site, "-TERM")?;
    ends(&site)
}

fn c87_killed() -> Outcome {
    let (origin, _) = closed()?;
    let site = Site::start(origin.address, "")?;
    let mut client = site.client()?;
    client.get("/open", "")?.is(200)?;
    signal(&site, "-KILL")?;
    ends(&site)?;
    // On the same addresses and files, while connections of the dead one linger.
    let config = site.dir.path().join("tidegate.toml");
    let again = Proxy::start(&binary(), &config, &[], site.address, site.proxy.admin())?;
    site.get("/open", "")?.is(200)?;
    again.healthy()
}

fn c87_full_log() -> Outcome {
    let (origin, _) = closed()?;
    let site = Site::start(origin.address, "[log]\naccess = \"/dev/full\"")?;
    let ask = || {
        let mut client = site.client()?;
        for _ in 0..500 {
            client.get("/open", "")?.is(200)?;
        }
        Ok::<_, String>(())
    };
    thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        asking
            .into_iter()
            .try_for_each(|one| one.join().map_err(|_| "a client panicked")?)
    })?;
    site.until("tidegate_log_dropped_total", |n| n > 0.0)?;
    site.proxy.healthy()
}
