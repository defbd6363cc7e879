//! `GET /v1/status`: what runs, and how it is.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Desk;
use super::fleet::{self, FleetStatus};
use super::health::Told;
use crate::clock;
use crate::config::Policy;
use crate::fallback::{Rehearsal, Reserve};
use crate::fetch::Fetcher;
use crate::fleet::Fleet;
use crate::limits::Limit;
use crate::origin::Upstream;
use crate::rules::breaker;
use crate::rules::replay::Replay;
use crate::snapshot;
use crate::telemetry::Limited;
use crate::telemetry::access::stamp;

/// What operators ask about, as it is now.
pub trait Facts: Send + Sync {
    fn policy(&self) -> Arc<Policy>;
    fn fetcher(&self) -> Arc<Fetcher>;
    fn limits(&self) -> Vec<Arc<Limit>>;
    /// Client connections open, and how many there may be.
    fn connections(&self) -> (usize, usize);
    /// What there is without apps, under the policy in force.
    fn reserve(&self) -> (Arc<Policy>, Arc<Reserve>);
    /// What fallback would have come to with the last minutes' requests. Blocks.
    fn rehearse(&self) -> Rehearsal;
    /// Requests that wait for a flight's head or for a permit.
    fn waiters(&self) -> usize;
    /// What another config, under the levers that are pulled, would have done with the last minutes' requests.
    ///
    /// # Errors
    /// A file that it names can't be read; for people.
    fn replay(&self, policy: Policy) -> Result<Replay, String>;
    fn fleet(&self) -> Arc<Fleet>;
}

/// What runs, and how it is.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// When it was started (RFC 3339)
    pub started: String,
    pub uptime_seconds: u64,
    /// The file it was configured by
    pub config: Option<String>,
    /// Its state directory
    pub state: Option<String>,
    pub listeners: Listeners,
    pub ready: bool,
    pub readiness: std::collections::BTreeMap<String, Told>,
    pub connections: Connections,
    pub cache: Cache,
    pub snapshot: Snapshot,
    pub upstreams: Vec<UpstreamStatus>,
    pub limits: Vec<LimitStatus>,
    /// The proxies that tell each other of purges and levers; nothing without `[redis]`
    pub fleet: Option<FleetStatus>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct Listeners {
    /// Where visitors come in
    pub public: String,
    /// What sends them to HTTPS
    pub redirect: Option<String>,
    pub admin: Option<String>,
    pub socket: Option<String>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct Connections {
    pub open: usize,
    pub most: usize,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct Cache {
    /// What is stored, and what is on its way
    pub bytes: usize,
    pub bytes_max: usize,
    /// Pages, each with all its variants
    pub entries: u64,
    /// Pages being fetched
    pub flights: usize,
    /// Requests that wait for one, or for a place at an upstream
    pub waiters: usize,
}

/// The last good pages, on the disk
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Whether they are kept
    pub on: bool,
    /// Each with each variant
    pub pages: usize,
    pub bytes: u64,
    pub bytes_max: u64,
    /// Pages that are yet to be written
    pub queued: usize,
    /// Why pages can't be written, while they can't
    pub error: Option<String>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct UpstreamStatus {
    pub name: String,
    /// `closed`, `half_open` or `open`
    pub breaker: String,
    pub in_flight: usize,
    /// The most requests in flight at the servers in use
    pub budget: usize,
    pub queued: usize,
    pub streams: usize,
    pub servers: Vec<ServerStatus>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct ServerStatus {
    pub name: String,
    /// What its health check says; nothing where there is none
    pub well: Option<bool>,
    /// Left alone for its failures
    pub ejected: bool,
    pub in_flight: usize,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct LimitStatus {
    pub name: String,
    /// Clients it remembers
    pub clients: usize,
    /// Requests beyond it since the start, by what became of them
    pub refused: u64,
    pub delayed: u64,
    pub stale: u64,
    pub logged: u64,
}

/// What runs, and how it is
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
pub(super) async fn status(admin: Desk) -> Json<Status> {
    let (policy, fetcher) = (admin.facts.policy(), admin.facts.fetcher());
    let uptime = clock::uptime_millis();
    let now = clock::wall_millis(clock::moment());
    let readiness = admin.health.readiness();
    let (open, most) = admin.facts.connections();
    let shown = |address: SocketAddr| address.to_string();
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: stamp(now.saturating_sub(uptime)),
        uptime_seconds: uptime / 1000,
        config: policy.file.clone(),
        state: (admin.state.as_ref()).map(|dir| dir.path().display().to_string()),
        listeners: Listeners {
            public: shown(policy.listen.address),
            redirect: policy.listen.redirect_from.map(shown),
            admin: policy.admin.address.map(shown),
            socket: admin.socket.get().map(|path| path.display().to_string()),
        },
        ready: readiness.ok,
        readiness: readiness.parts,
        connections: Connections { open, most },
        cache: Cache {
            bytes: fetcher.memory.used(),
            bytes_max: fetcher.memory.cap(),
            entries: fetcher.store.size().0,
            flights: (fetcher.counts.flying).load(std::sync::atomic::Ordering::Relaxed),
            waiters: admin.facts.waiters(),
        },
        snapshot: snapshot(&fetcher.snapshot.told()),
        upstreams: fetcher.upstreams().iter().map(upstream).collect(),
        limits: admin.facts.limits().iter().map(limit).collect(),
        fleet: fleet::status(&admin.facts.fleet()),
    })
}

fn snapshot(told: &snapshot::Told) -> Snapshot {
    Snapshot {
        on: told.is_on,
        pages: told.pages,
        bytes: told.bytes,
        bytes_max: told.bytes_max,
        queued: told.queued,
        error: told.error.clone(),
    }
}

fn upstream(upstream: &Arc<Upstream>) -> UpstreamStatus {
    let is_checked = upstream.spec().health.is_some();
    let servers = upstream.servers();
    let server = |server: &Arc<crate::origin::Server>| ServerStatus {
        name: server.name().to_owned(),
        well: is_checked.then(|| server.seen().is_well()),
        ejected: upstream.is_ejected(server.id()),
        in_flight: upstream.in_flight_at(server.id()),
    };
    let breaker = match upstream.circuit().state() {
        breaker::State::Closed => "closed",
        breaker::State::HalfOpen => "half_open",
        breaker::State::Open => "open",
    };
    UpstreamStatus {
        name: upstream.name().to_owned(),
        breaker: breaker.to_owned(),
        in_flight: upstream.in_flight(),
        budget: upstream.budget(),
        queued: upstream.queued(),
        streams: upstream.streams(),
        servers: servers.iter().map(server).collect(),
    }
}

fn limit(limit: &Arc<Limit>) -> LimitStatus {
    LimitStatus {
        name: limit.spec.name.clone(),
        clients: limit.clients().0,
        refused: limit.counted(Limited::Refused),
        delayed: limit.counted(Limited::Delayed),
        stale: limit.counted(Limited::Stale),
        logged: limit.counted(Limited::Logged),
    }
}
