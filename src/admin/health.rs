//! `/healthz` (alive: the loops turn) and `/readyz` (would do well with traffic), each with its
//! parts as JSON.
//!
//! Neither asks an origin. What they ask is registered when the server is put together; each part
//! answers from memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::Admin;
use super::reply::Reply;
use crate::clock;

/// How a part is, and a line about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    Ok(String),
    Failing(String),
}

/// The parts that make up health. Shared: parts may be added while it is asked.
#[derive(Default)]
pub struct Health {
    alive: Mutex<Vec<Part>>,
    ready: Mutex<Vec<Part>>,
    draining: AtomicBool,
}

struct Part {
    name: String,
    ask: Ask,
}

type Ask = Arc<dyn Fn() -> State + Send + Sync>;

impl Health {
    pub fn new() -> Arc<Health> {
        Arc::default()
    }

    /// Adds a loop that must go on turning: `/healthz` fails when it has not called
    /// [`Heartbeat::beat`] for `within`.
    pub fn heartbeat(&self, name: &str, within: Duration) -> Arc<Heartbeat> {
        let heart = Arc::new(Heartbeat(AtomicU64::new(0)));
        heart.beat();
        let asked = heart.clone();
        let part = Part {
            name: name.to_owned(),
            ask: Arc::new(move || asked.state(within)),
        };
        self.alive.lock().push(part);
        heart
    }

    /// Adds a part of `/readyz`. `ask` answers at once, from memory.
    pub fn ready_when(&self, name: &str, ask: impl Fn() -> State + Send + Sync + 'static) {
        let part = Part {
            name: name.to_owned(),
            ask: Arc::new(ask),
        };
        self.ready.lock().push(part);
    }

    /// From now on not ready: no new traffic, please.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }
}

/// A loop's sign of life.
pub struct Heartbeat(AtomicU64);

impl Heartbeat {
    /// To be called by the loop, several times in the time it was given.
    pub fn beat(&self) {
        self.0.store(clock::uptime_millis(), Relaxed);
    }

    fn state(&self, within: Duration) -> State {
        let silent =
            Duration::from_millis(clock::uptime_millis().saturating_sub(self.0.load(Relaxed)));
        if silent <= within {
            State::Ok("turning".to_owned())
        } else {
            State::Failing(format!("no beat for {} s", silent.as_secs()))
        }
    }
}

pub(super) fn alive_page(admin: &Admin) -> Reply {
    page(asked(&admin.health.alive))
}

pub(super) fn ready_page(admin: &Admin) -> Reply {
    let mut parts = asked(&admin.health.ready);
    let draining = match admin.health.draining.load(Relaxed) {
        false => State::Ok("no".to_owned()),
        true => State::Failing("yes".to_owned()),
    };
    parts.push(("draining".to_owned(), draining));
    page(parts)
}

/// Asks each part, outside the lock.
fn asked(parts: &Mutex<Vec<Part>>) -> Vec<(String, State)> {
    let parts: Vec<(String, Ask)> = (parts.lock().iter())
        .map(|part| (part.name.clone(), part.ask.clone()))
        .collect();
    parts.into_iter().map(|(name, ask)| (name, ask())).collect()
}

fn page(parts: Vec<(String, State)>) -> Reply {
    let all_ok = parts.iter().all(|(_, state)| matches!(state, State::Ok(_)));
    let parts: Map<String, Value> = parts
        .into_iter()
        .map(|(name, state)| match state {
            State::Ok(detail) => (name, json!({ "ok": true, "detail": detail })),
            State::Failing(detail) => (name, json!({ "ok": false, "detail": detail })),
        })
        .collect();
    let body = json!({ "ok": all_ok, "parts": parts });
    let body = format!("{body}\n");
    if all_ok {
        Reply::json(200, body)
    } else {
        Reply::json(503, body).retry_later()
    }
}
