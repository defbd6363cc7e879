//! A wall clock that jumps while clients ask: libfaketime stands between the process and the system's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::site::{Origin, Site, answer, equal, eventually};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![("clocks::c88_jumps_of_the_wall_clock", c88_jumps)]
}

const DAY: i64 = 86_400;

/// The library that the package `faketime` brings, the one for threads.
fn library() -> Result<PathBuf, String> {
    let folders = fs::read_dir("/usr/lib").map_err(|e| e.to_string())?;
    let below = folders.flatten().map(|folder| folder.path());
    let mut files = below.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    files
        .find(|file| file.is_file())
        .ok_or("libfaketime is not installed (package faketime); make test installs it".into())
}

/// Sets the clock off by so many seconds.
fn set(file: &Path, off: i64) -> Outcome {
    let new = file.with_extension("new");
    fs::write(&new, format!("{off:+}\n")).map_err(|e| e.to_string())?;
    fs::rename(&new, file).map_err(|e| e.to_string())
}

/// What the proxy takes for the time, in Unix seconds: the Date of an answer of its own.
fn told(site: &Site) -> Result<i64, String> {
    let refused = site.client()?.ask("TRACE", "/", "", b"")?.is(405)?;
    let date = httpdate::parse_http_date(refused.field("date"))
        .map_err(|e| format!("{e}: {refused:?}"))?;
    Ok(since_1970(date))
}

fn since_1970(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs() as i64
}

fn c88_jumps() -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = folder.path().join("off");
    set(&file, 0)?;
    let origin = Origin::start(|asked, conn: &mut Conn| {
        // Its own clock is right.
        let date = httpdate::fmt_http_date(UNIX_EPOCH + clock::wall());
        let dated = if asked.target.starts_with("/dated") {
            format!("Date: {date}\r\n")
        } else {
            String::new()
        };
        answer(
            conn,
            200,
            &format!("{dated}Cache-Control: max-age=60\r\n"),
            b"page",
        )
    })?;
    let first = format!(
        "FAKETIME_TIMESTAMP_FILE={file:?} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 LD_PRELOAD={:?} exec",
        library()?
    );
    let site = Site::start_after(&first, origin.address, "")?;
    site.get("/p", "")?.is(200)?;
    let (over, hits) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Nobody is answered while the proxy is turned by hand: that is one request with two times.
    let turning = RwLock::new(());
    thread::scope(|scope| {
        let asks: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| asks(&site, &over, &hits, &turning)))
            .collect();
        let outcome = jumps(&site, &origin, &file, &hits, &turning);
        over.store(true, Ordering::SeqCst);
        let asked = asks
            .into_iter()
            .try_for_each(|one| one.join().map_err(|_| "a client panicked")?);
        asked.and(outcome)
    })?;
    site.proxy.healthy()
}

/// Hit after hit: each is one of a page that is not yet old.
fn asks(site: &Site, over: &AtomicBool, hits: &AtomicUsize, turning: &RwLock<()>) -> Outcome {
    let mut client = site.client()?;
    while !over.load(Ordering::SeqCst) {
        let answered = turning.read().map_err(|e| e.to_string())?;
        let reply = client.get("/p", "")?.is(200)?;
        drop(answered);
        let age: u64 = reply.field("age").parse().unwrap_or(0);
        if age > 60 {
            return Err(format!("{reply:?}"));
        }
        hits.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn jumps(
    site: &Site,
    origin: &Origin,
    file: &Path,
    hits: &AtomicUsize,
    turning: &RwLock<()>,
) -> Outcome {
    let now = clock::wall().as_secs() as i64;
    // By how much the proxy was turned by hand; that moves both its clocks.
    let mut turned = 0;
    for (round, off) in [0, -DAY, DAY, DAY - now, 0, 3650 * DAY, 0]
        .into_iter()
        .enumerate()
    {
        let at = |what: &str| format!("{what}, off by {off} s");
        let fetched = origin.asked("GET /p");
        set(file, off)?;
        // Date follows, within a second.
        eventually(&at("Date"), || {
            let should = clock::wall().as_secs() as i64 + off + turned;
            Ok(((told(site)? - should).abs() <= 2).then_some(()))
        })?;
        // What was stored before is as fresh as it was, for everybody.
        let seen = hits.load(Ordering::SeqCst);
        eventually(&at("hits"), || {
            Ok((hits.load(Ordering::SeqCst) > seen + 300).then_some(()))
        })?;
        equal(&at("fetched"), origin.asked("GET /p"), fetched)?;
        // A new page is kept from now on.
        let page = format!("/new-{round}");
        site.get(&page, "")?.is(200)?;
        let again = site.get(&page, "")?.is(200)?;
        equal(&at("a hit"), again.told("hit"), true)?;
        equal(
            &at("its age"),
            again.field("age").parse::<u64>().is_ok_and(|age| age < 10),
            true,
        )?;
        // One that carries its origin's Date too, unless that is further behind than the page may be old: then it is
        // as old as it says, and served.
        let page = format!("/dated-{round}");
        site.get(&page, "")?.is(200)?;
        let again = site.get(&page, "")?.is(200)?;
        equal(&at("a dated hit"), again.told("hit"), off + turned < 60)?;
        // And nothing lives for ever: a minute later it is fetched once.
        let turns = turning.write().map_err(|e| e.to_string())?;
        site.proxy.advance(Duration::from_secs(61))?;
        drop(turns);
        turned += 61;
        eventually(&at("fetched anew"), || {
            Ok((origin.asked("GET /p") > fetched).then_some(()))
        })?;
        let seen = hits.load(Ordering::SeqCst);
        eventually(&at("hits"), || {
            Ok((hits.load(Ordering::SeqCst) > seen + 300).then_some(()))
        })?;
        equal(&at("fetched"), origin.asked("GET /p"), fetched + 1)?;
    }
    Ok(())
}
