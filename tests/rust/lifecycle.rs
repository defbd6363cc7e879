//! Going down and coming up: drains, second signals, kills, and logs that cannot be written.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::site::{Client, Gate, Origin, Site, answer, binary, equal, eventually};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::proxy::{Proxy, lay_over};
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
        (
            "lifecycle::c86_who_asks_in_a_drain_is_told_with_the_answer",
            c86_told_with_the_answer,
        ),
        (
            "lifecycle::c86_what_a_slow_client_has_yet_to_take_is_not_cut",
            c86_slow_reader,
        ),
        (
            "lifecycle::c86_a_successor_that_waits_can_be_stopped",
            c86_successor_told,
        ),
        (
            "lifecycle::c86_a_successor_serves_before_the_old_one_stops",
            c86_upgrade,
        ),
        (
            "lifecycle::c86_a_successor_that_dies_changes_nothing",
            c86_dead_successor,
        ),
        (
            "lifecycle::c86_no_request_is_lost_through_upgrades",
            c86_upgrades_under_load,
        ),
        ("lifecycle::c87_killed_it_serves_again_at_once", c87_killed),
        ("lifecycle::c87_a_full_log_harms_nobody", c87_full_log),
    ]
}

pub fn signal(site: &Site, name: &str) -> Outcome {
    let pid = site.proxy.pid()?.to_string();
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

fn c86_told_with_the_answer() -> Outcome {
    let (origin, gate) = closed()?;
    let site = Site::start(origin.address, "[listen]\ndrain = \"1h\"")?;
    let mut client = site.client()?;
    client.get("/open", "")?.is(200)?;
    let _busy = waiting(&site, &origin)?;
    signal(&site, "-TERM")?;
    // Who goes on asking meets no end but one that was told.
    eventually("it is told", || {
        let reply = client.get("/open", "")?.is(200)?;
        Ok((reply.field("connection") == "close").then_some(()))
    })?;
    equal("then", client.reply("GET").is_err(), true)?;
    gate.open();
    ends(&site)
}

/// An answer that a slow client has still to take when its connection is sent away is taken whole.
fn c86_slow_reader() -> Outcome {
    const PAGE: usize = 200 << 10;
    let origin = Origin::start(|_, conn: &mut Conn| answer(conn, 200, "", &[b'x'; PAGE]))?;
    let site = Site::start(origin.address, "[listen]\ndrain = \"1h\"")?;
    let mut client = site.client()?;
    client.send("GET", "/", "", b"")?;
    // All of it is the kernel's, and the connection is idle.
    site.until("tidegate_responses_total", |answers| answers >= 1.0)?;
    signal(&site, "-TERM")?;
    ends(&site)?;
    equal("whole", client.reply("GET")?.is(200)?.body.len(), PAGE)
}

/// A successor that is told to stop while it waits ends at once, and leaves its place.
fn c86_successor_told() -> Outcome {
    let (origin, _) = closed()?;
    let site = Site::start(origin.address, "")?;
    let config = site.dir.path().join("tidegate.toml");
    for name in ["first", "second"] {
        let mut waits = successor(&site, &config, name)?;
        tell(&waits.0, "-TERM")?;
        equal(
            "its end",
            waits.0.wait().map_err(|e| e.to_string())?.code(),
            Some(1),
        )?;
    }
    site.get("/open", "")?.is(200)?;
    site.proxy.healthy()
}

/// A process of the test's own, which ends with it.
pub struct Own(Child);

impl Drop for Own {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the proxy has told of itself.
fn events(site: &Site) -> String {
    fs::read_to_string(site.dir.path().join("stdout")).unwrap_or_default()
}

/// A successor that waits for `site`'s sockets.
pub fn successor(site: &Site, config: &Path, name: &str) -> Result<Own, String> {
    let events = site.dir.path().join(name);
    let out = File::create(&events).map_err(|e| e.to_string())?;
    let child = Command::new(binary())
        .args(["run", "--upgrade", "-c"])
        .arg(config)
        .current_dir(site.dir.path())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    let child = Own(child);
    eventually("the successor waits", || {
        let said = fs::read_to_string(&events).unwrap_or_default();
        Ok(said
            .contains("waiting for the running process")
            .then_some(()))
    })?;
    Ok(child)
}

fn tell(child: &Child, name: &str) -> Outcome {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    equal("kill", sent.is_ok_and(|status| status.success()), true)
}

fn c86_upgrade() -> Outcome {
    let (origin, gate) = closed()?;
    let site = Site::start(origin.address, "[listen]\ndrain = \"1h\"")?;
    let mut idle = site.client()?;
    idle.get("/open", "")?.is(200)?;
    let mut busy = waiting(&site, &origin)?;
    // Another config at the same addresses.
    let config = site.dir.path().join("tidegate.toml");
    let new = fs::read_to_string(&config).map_err(|e| e.to_string())?;
    let next = site.dir.path().join("next.toml");
    fs::write(&next, lay_over(&new, "[[route]]\nx_cache = true")?).map_err(|e| e.to_string())?;
    let mut child = successor(&site, &next, "successor")?;
    equal(
        "so far",
        site.get("/open", "")?.is(200)?.field("x-cache"),
        "",
    )?;
    signal(&site, "-QUIT")?;
    // The old one finishes what it has, and tells who stays to come again.
    eventually("the new one serves", || {
        let reply = site.get("/open", "")?.is(200)?;
        Ok((reply.field("x-cache") == "MISS" || reply.field("x-cache") == "HIT").then_some(()))
    })?;
    site.proxy.alive()?;
    equal("told", idle.reply("GET").is_err(), true)?;
    gate.open();
    let reply = busy.reply("GET")?.is(200)?;
    equal("connection", reply.field("connection"), "close")?;
    ends(&site)?;
    site.get("/open", "")?.is(200)?;
    // The operators' listener went along.
    site.proxy
        .metric("tidegate_build_info", &[])?
        .ok_or("no metrics")?;
    tell(&child.0, "-TERM")?;
    child.0.wait().map_err(|e| e.to_string()).map(drop)
}

fn c86_dead_successor() -> Outcome {
    let (origin, _) = closed()?;
    let site = Site::start(origin.address, "")?;
    let mut client = site.client()?;
    // Nobody waits.
    signal(&site, "-QUIT")?;
    eventually("it says so", || {
        let said = events(&site);
        Ok(said
            .contains("no `tidegate run --upgrade` waits")
            .then_some(()))
    })?;
    // Somebody waits, and is stopped before it can say that it serves.
    let config = site.dir.path().join("tidegate.toml");
    let mut child = successor(&site, &config, "successor")?;
    tell(&child.0, "-STOP")?;
    signal(&site, "-QUIT")?;
    client.get("/open", "")?.is(200)?;
    tell(&child.0, "-KILL")?;
    child.0.wait().map_err(|e| e.to_string())?;
    eventually("it serves on", || {
        let said = events(&site);
        Ok(said
            .contains("the successor did not come to serve")
            .then_some(()))
    })?;
    client.get("/open", "")?.is(200)?;
    site.get("/open", "")?.is(200)?;
    site.proxy.healthy()?;
    // And the next one is taken as if nothing had been.
    let mut child = successor(&site, &config, "next")?;
    signal(&site, "-QUIT")?;
    ends(&site)?;
    site.get("/open", "")?.is(200)?;
    tell(&child.0, "-TERM")?;
    child.0.wait().map_err(|e| e.to_string()).map(drop)
}

/// Clients that come again when they are told to go: each of their requests is answered, whole, at the first try.
fn c86_upgrades_under_load() -> Outcome {
    const UPGRADES: usize = 3;
    let (origin, gate) = closed()?;
    gate.open();
    let site = Site::start(origin.address, "")?;
    let over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let ask = || {
        let mut client = site.client()?;
        while !over.load(Ordering::Relaxed) {
            let reply = client.get("/open", "")?.is(200)?;
            equal("page", reply.text(), "page".into())?;
            answered.fetch_add(1, Ordering::Relaxed);
            if reply.field("connection") == "close" {
                client = site.client()?;
            }
        }
        Ok(())
    };
    let upgrade = || {
        let config = site.dir.path().join("tidegate.toml");
        let mut old: Option<Own> = None;
        for turn in 0..UPGRADES {
            let new = successor(&site, &config, &format!("successor-{turn}"))?;
            match &mut old {
                None => {
                    signal(&site, "-QUIT")?;
                    ends(&site)?;
                }
                Some(old) => {
                    tell(&old.0, "-QUIT")?;
                    let status = old.0.wait().map_err(|e| e.to_string())?;
                    equal("the old one's end", status.code(), Some(0))?;
                }
            }
            let before = answered.load(Ordering::Relaxed);
            eventually("the new one answers", || {
                Ok((answered.load(Ordering::Relaxed) > before + 100).then_some(()))
            })?;
            old = Some(new);
        }
        Ok(old)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        let last: Result<Option<Own>, String> = upgrade();
        over.store(true, Ordering::Relaxed);
        let joined = |client: thread::ScopedJoinHandle<'_, Outcome>| {
            client.join().unwrap_or(Err("a client panicked".into()))
        };
        let asked = clients.into_iter().try_for_each(joined);
        if let Some(mut last) = last? {
            tell(&last.0, "-TERM")?;
            last.0.wait().map_err(|e| e.to_string())?;
        }
        asked
    })
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
