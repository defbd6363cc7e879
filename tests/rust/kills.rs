//! A process that is killed at any moment starts clean, and has kept all that it said it had.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, thread};

use serde_json::{Value, json};

use super::consistency::Dice;
use super::site::{Origin, Site, answer, equal, eventually};
use super::{Outcome, Test};
use crate::harness::proxy::lay_over;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![(
        "kills::levers_and_configs_outlive_a_hundred_kills",
        levers_and_configs,
    )]
}

/// Sites beside each other, and how often each is killed.
const SITES: u64 = 4;
const KILLS: usize = 25;
/// The latest, in microseconds after an order was answered.
const LATEST: u64 = 20_000;

fn levers_and_configs() -> Outcome {
    let origin = Origin::start(|_, conn: &mut Conn| answer(conn, 200, "", b"page"))?;
    thread::scope(|scope| {
        let one = |seed| scope.spawn(move || killed(origin.address, seed));
        let all: Vec<_> = (1..=SITES).map(one).collect();
        let ended = all.into_iter().map(|site| {
            let ended = site.join();
            ended.unwrap_or_else(|_| Err("it panicked".into()))
        });
        ended.collect()
    })
}

fn killed(origin: std::net::SocketAddr, seed: u64) -> Outcome {
    let told = |why: String| format!("seed {seed}: {why}");
    let mut dice = Dice::of(seed);
    let mut site = Site::start(origin, "")?;
    site.proxy.healthy()?;
    let path = site.dir.path().join("tidegate.toml");
    let text = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    // What was answered to have been done.
    let (levers, configs) = (AtomicU64::new(0), AtomicU64::new(0));
    for kill in 0..KILLS {
        let at = Duration::from_micros(dice.below(LATEST));
        let (orders_before, first) = (levers.load(Ordering::SeqCst), dice.below(3));
        thread::scope(|scope| {
            scope.spawn(|| orders(&site, "/v1/levers", &levers, lever));
            scope.spawn(|| orders(&site, "/v1/config", &configs, |n| config(&text, n)));
            // So many are done in this life at least, and something is under way.
            let came = eventually("orders are carried out", || {
                let done = levers.load(Ordering::SeqCst) >= orders_before + first;
                Ok(done.then_some(()))
            });
            thread::sleep(at);
            site.proxy.stop();
            came
        })?;
        site = site
            .again()
            .map_err(|why| told(format!("kill {kill}: {why}")))?;
        let (lever, config) = (kept_lever(&site)?, kept_config(&site)?);
        for (what, kept, done) in [("lever", lever, &levers), ("config", config, &configs)] {
            // What it was killed in the middle of is there, or it is not.
            let said = done.load(Ordering::SeqCst);
            let is = kept == said || kept == said + 1;
            if !is {
                let why =
                    format!("kill {kill} after {at:?}: {what} {kept} is kept, {said} was said");
                return Err(told(why));
            }
            done.store(kept, Ordering::SeqCst);
        }
    }
    // Nothing but what is meant to be there.
    let mut left: Vec<_> = fs::read_dir(site.proxy.state(""))
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".bad"))
        .collect();
    left.sort();
    equal("left aside", left, vec![])?;
    let done = levers.load(Ordering::SeqCst);
    equal("orders were carried out", done > KILLS as u64 / 2, true)
}

/// Orders one after the other, until one is not answered.
fn orders(site: &Site, path: &str, done: &AtomicU64, body: impl Fn(u64) -> String) {
    for n in done.load(Ordering::SeqCst) + 1.. {
        match site.proxy.api("POST", path, &body(n)) {
            Ok(answer) if answer.status == 200 => done.store(n, Ordering::SeqCst),
            _ => return,
        }
    }
}

fn config(text: &str, n: u64) -> String {
    let with = format!("[cache]\nmax_waiters = {}", 1000 + n);
    json!({ "text": lay_over(text, &with).unwrap_or_default() }).to_string()
}

fn lever(n: u64) -> String {
    json!({ "pull": { "lever": "ttl", "least": n }, "reason": "crowd" }).to_string()
}

/// The number in the one lever that is pulled; 0 if none is.
fn kept_lever(site: &Site) -> Result<u64, String> {
    let told = site.proxy.api("GET", "/v1/levers", "")?.is(200)?.json()?;
    match told["levers"].as_array().map(Vec::as_slice) {
        Some([]) => Ok(0),
        Some([one]) => one["pull"]["least"].as_u64().ok_or(one.to_string()),
        _ => Err(told.to_string()),
    }
}

/// The number in the config that was applied last; 0 if none was.
fn kept_config(site: &Site) -> Result<u64, String> {
    let path = site.proxy.state("configs.json");
    let text = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let all: Vec<Value> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let numbers = all.iter().filter_map(|version| {
        let text = version["text"].as_str()?;
        let (_, number) = text.split_once("max_waiters = ")?;
        number.lines().next()?.trim().parse::<u64>().ok()
    });
    Ok(numbers
        .max()
        .map_or(0, |number| number.saturating_sub(1000)))
}
