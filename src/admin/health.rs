//! `/healthz` (alive: the loops turn) and `/readyz` (would do well with traffic), each with its
//! parts as JSON.
//!
//! Neither asks an origin. What they ask is registered when the server is put together; each part
//! answers from memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Desk;
use super::problem::later;
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

    /// What `/readyz` says.
    pub(super) fn readiness(&self) -> Page {
        let mut parts = asked(&self.ready);
        let draining = match self.draining.load(Relaxed) {
            false => State::Ok("no".to_owned()),
            true => State::Failing("yes".to_owned()),
        };
        parts.push(("draining".to_owned(), draining));
        Page::of(parts)
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

/// How it is, with its parts.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Health)]
pub struct Page {
    pub ok: bool,
    pub parts: BTreeMap<String, Told>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = HealthPart)]
pub struct Told {
    pub ok: bool,
    pub detail: String,
}

impl Page {
    fn of(parts: Vec<(String, State)>) -> Page {
        let told = |state| match state {
            State::Ok(detail) => Told { ok: true, detail },
            State::Failing(detail) => Told { ok: false, detail },
        };
        let parts = parts.into_iter().map(|(name, state)| (name, told(state)));
        let parts: BTreeMap<_, _> = parts.collect();
        Page {
            ok: parts.values().all(|part| part.ok),
            parts,
        }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        match self.ok {
            true => Json(self).into_response(),
            false => {
                let later = [(header::RETRY_AFTER, later())];
                (StatusCode::SERVICE_UNAVAILABLE, later, Json(self)).into_response()
            }
        }
    }
}

/// Whether it is alive
#[utoipa::path(
    get, path = "/healthz", security(()),
    responses((status = 200, body = Page), (status = 503, body = Page))
)]
pub(super) async fn healthz(admin: Desk) -> Page {
    Page::of(asked(&admin.health.alive))
}

/// Whether it would do well with visitors
#[utoipa::path(
    get, path = "/readyz", security(()),
    responses((status = 200, body = Page), (status = 503, body = Page))
)]
pub(super) async fn readyz(admin: Desk) -> Page {
    admin.health.readiness()
}

/// Asks each part, outside the lock.
fn asked(parts: &Mutex<Vec<Part>>) -> Vec<(String, State)> {
    let parts: Vec<(String, Ask)> = (parts.lock().iter())
        .map(|part| (part.name.clone(), part.ask.clone()))
        .collect();
    parts.into_iter().map(|(name, ask)| (name, ask())).collect()
}
