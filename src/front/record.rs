//! The last stage: what happened is counted and logged.

use std::sync::Arc;

use super::Site;
use super::asking::Noted;
use super::h1::Next;
use super::problem::Problem;
use crate::clock::{self, Tick};
use crate::config::policy::Route;
use crate::telemetry::access::Marked;
use crate::telemetry::{Access, CacheResult, Client, RequestId};

/// What became of a request.
pub struct Outcome {
    /// As sent; 0 if no head was.
    pub status: u16,
    /// Body bytes sent.
    pub bytes: u64,
    pub result: CacheResult,
    pub route: Option<Arc<Route>>,
    /// Requests made to the origin for it.
    pub asked: u32,
    pub next: Next,
}

impl Outcome {
    /// The client went before anything was sent, or while it was.
    pub fn aborted() -> Outcome {
        Outcome {
            status: 0,
            bytes: 0,
            result: CacheResult::Aborted,
            route: None,
            asked: 0,
            next: Next::Break,
        }
    }
}

/// Counts and logs an answered request; `buf` holds its head still, and `client` is its connection's. Returns when it ended.
pub fn answered(
    site: &Site,
    client: &Client,
    buf: &[u8],
    noted: &Noted,
    outcome: &Outcome,
) -> Tick {
    let ended = clock::tick();
    let micros = ended.micros_since(noted.began);
    let metrics = match &outcome.route {
        Some(route) => &site.routes[route.id],
        None => &site.unrouted,
    };
    metrics.count(outcome.result, outcome.status, outcome.bytes, micros);
    let asked = outcome.route.as_ref().filter(|_| outcome.asked > 0);
    let named = noted.client.map(Client::from);
    site.access.write(&Access {
        at: ended.moment(),
        request_id: &noted.id,
        trace_id: noted.trace.as_ref().map(|trace| trace.trace_id()),
        client: named.as_ref().unwrap_or(client),
        method: noted.method.text(buf),
        host: noted.host.bytes(buf),
        path: noted.path.bytes(buf),
        query: noted.query.map(|query| query.text(buf)),
        user_agent: noted.agent.map(|agent| agent.bytes(buf)),
        status: outcome.status,
        bytes: outcome.bytes,
        micros,
        cache: outcome.result,
        limit: noted.admission.note(),
        upstream: asked.map(|route| site.fetcher.upstream(route.upstream).name()),
        attempts: outcome.asked,
        marked: site.guard.marked(noted.marks),
    });
    ended
}

/// Counts and logs what could not be read as a request.
pub fn unread(site: &Site, client: &Client, problem: &Problem, bytes: u64) {
    site.unrouted
        .count(problem.result, problem.status, bytes, 0);
    site.access.write(&Access {
        at: clock::moment(),
        request_id: &RequestId::fresh(),
        trace_id: None,
        client,
        method: "",
        host: b"",
        path: b"",
        query: None,
        user_agent: None,
        status: problem.status,
        bytes,
        micros: 0,
        cache: problem.result,
        limit: None,
        upstream: None,
        attempts: 0,
        marked: Marked::default(),
    });
}
