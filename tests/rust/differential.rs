//! What mutated requests come to at a strict origin (C21 of `tests/wire/promises.txt`). Each case is a connection of up to four
//! pipelined requests, made by dice from a seed and its number. The test reads the client's bytes by itself
//! (`fuzz/src/strict.rs`) and holds what the origin got, and what the client was told, against that.
//!
//! | variable | |
//! |---|---|
//! | `TIDEGATE_DIFFERENTIAL` | how many cases |
//! | `TIDEGATE_SEED` | the seed |
//! | `TIDEGATE_CASE` | this case alone |

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, iter, thread};

use super::site::{Site, lock};
use super::{Outcome, Test};
use crate::harness::clock;
use client::{Asked, Talk, Wanted};
use draft::Dice;
use origin::{Origin, Seen};

mod attacks;
mod client;
mod draft;
mod mutate;
mod origin;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![("differential::c21_mutated_requests", c21_mutated_requests)]
}

/// Each with a proxy and an origin of its own, so that what comes is this case's.
const LANES: u64 = 4;
const CASES: u64 = 3_000;
const SEED: u64 = 21;
/// More say nothing new.
const MOST_FINDINGS: usize = 10;

fn c21_mutated_requests() -> Outcome {
    let (cases, seed) = (
        number("TIDEGATE_DIFFERENTIAL")?.unwrap_or(CASES),
        number("TIDEGATE_SEED")?.unwrap_or(SEED),
    );
    let only = number("TIDEGATE_CASE")?;
    let (first, end) = only.map_or((0, cases), |case| (case, case + 1));
    let (next, tally, began) = (
        AtomicU64::new(first),
        Mutex::new(Tally::default()),
        clock::now(),
    );
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES.min(end - first))
            .map(|_| scope.spawn(|| lane(seed, &next, end, &tally)))
            .collect();
        lanes.into_iter().try_for_each(|lane| {
            lane.join()
                .unwrap_or_else(|_| Err("a lane panicked".into()))
        })
    })?;
    let tally = lock(&tally);
    println!(
        "differential: seed {seed}, {} cases in {:.1} s: {} requests in a strict reader's eyes, {} answers, \
         {} requests at the origin, {} findings",
        tally.cases,
        (clock::now() - began).as_secs_f64(),
        tally.wanted,
        tally.answered,
        tally.seen,
        tally.findings.len()
    );
    match tally.findings.is_empty() {
        true => Ok(()),
        false => Err(tally.findings.join("\n")),
    }
}

fn number(name: &str) -> Result<Option<u64>, String> {
    let Some(value) = env::var(name).ok().filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    value
        .parse()
        .map(Some)
        .map_err(|_| format!("{name} is no number: {value}"))
}

#[derive(Default)]
struct Tally {
    cases: usize,
    wanted: usize,
    answered: usize,
    seen: usize,
    findings: Vec<String>,
}

/// Takes one case after the other.
fn lane(seed: u64, next: &AtomicU64, end: u64, tally: &Mutex<Tally>) -> Outcome {
    let origin = Origin::start()?;
    let site = Site::start(origin.address, "[log]\naccess = \"off\"")?;
    let mut before = None;
    loop {
        let case = next.fetch_add(1, Ordering::SeqCst);
        if case >= end || lock(tally).findings.len() >= MOST_FINDINGS {
            if let Err(why) = site.proxy.healthy() {
                lock(tally).findings.push(format!("at the end: {why}"));
            }
            return Ok(());
        }
        let mut dice = Dice::new(seed, case);
        let sent = draft::stream(&mut dice, case);
        let asked = client::asked(&sent);
        let talk = client::talk(site.address, &sent, &asked, &mut dice);
        let seen = origin.take();
        let mut tally = lock(tally);
        tally.cases += 1;
        tally.seen += seen.len();
        tally.wanted += asked.requests.len();
        tally.answered += talk.as_ref().map_or(0, |talk| talk.answers.len());
        let verdict =
            talk.and_then(|talk| judge(&asked, &talk, &seen, before.as_ref()).map(|()| talk.cut));
        let verdict = verdict.and_then(|cut| site.proxy.alive().map(|()| cut));
        match verdict {
            Ok(cut) => before = cut.then_some(asked),
            Err(why) => {
                tally.findings.push(finding(seed, case, &why, &sent, &seen));
                before = Some(asked);
            }
        }
    }
}

/// Holds what the origin got and what the client was told against what was asked. `before` is what the case before asked
/// if its client was cut off: something of it may come late.
fn judge(asked: &Asked, talk: &Talk, seen: &[Seen], before: Option<&Asked>) -> Outcome {
    if let Some(why) = &talk.broken {
        return Err(format!("the client got no proper answer: {why}"));
    }
    // A range of what can't be kept is asked for by itself, after all of it was asked for.
    let times = |wanted: &Wanted| 1 + usize::from(wanted.range);
    let mut wanted = asked
        .requests
        .iter()
        .flat_map(|wanted| iter::repeat_n(wanted, times(wanted)));
    let mut late = 0;
    for Seen { read, .. } in seen {
        let request = read
            .as_ref()
            .map_err(|why| format!("the origin got no proper request: {why}"))?;
        let mut rest = wanted.clone();
        if rest.any(|wanted| wanted.is(request)) {
            wanted = rest;
        } else if before
            .is_some_and(|before| before.requests.iter().any(|wanted| wanted.is(request)))
        {
            late += 1;
        } else {
            let (method, target) = (&request.method, &request.target);
            return Err(format!(
                "the origin was asked what the client did not ask: {method} {target}"
            ));
        }
    }
    for (answer, wanted) in talk.answers.iter().zip(&asked.requests) {
        if let Some(line) = answer
            .text("origin-saw")
            .filter(|line| !wanted.is_seen_as(line))
        {
            return Err(format!(
                "the client got the answer to another request: {line}"
            ));
        }
    }
    // A last answer may be to what is no request, or to one whose broken body the proxy had no need to read.
    let extra = talk.answers.get(asked.requests.len()..).unwrap_or_default();
    if extra.len() > 1
        || extra
            .iter()
            .any(|answer| answer.text("origin-serial").is_some())
    {
        return Err("there are more answers than requests".into());
    }
    if talk.answers.is_empty() && !talk.cut {
        return Err("the connection was closed without a word".into());
    }
    // Nothing is asked of the origin that no client is answered with.
    let told: HashSet<String> = talk
        .answers
        .iter()
        .filter_map(|answer| answer.text("origin-serial"))
        .collect();
    let untold = seen
        .iter()
        .filter(|seen| !told.contains(&seen.serial.to_string()))
        .count();
    let bodiless = talk
        .answers
        .iter()
        .filter(|answer| matches!(answer.status, 304 | 416))
        .count();
    let ranges = asked.requests.iter().filter(|wanted| wanted.range).count();
    if untold > late + bodiless + ranges + usize::from(talk.cut) {
        return Err(format!(
            "{untold} requests at the origin whose answers the client did not get"
        ));
    }
    Ok(())
}

/// A case that went wrong, as it can be sent again.
fn finding(seed: u64, case: u64, why: &str, sent: &[u8], seen: &[Seen]) -> String {
    let mut out = format!(
        "seed {seed} case {case}: {why}\n  sent: \"{}\"",
        sent.escape_ascii()
    );
    for Seen { raw, .. } in seen {
        // Writing to a String does not fail.
        let _ = write!(out, "\n  origin got: \"{}\"", raw.escape_ascii());
    }
    out
}
