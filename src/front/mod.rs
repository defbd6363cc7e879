//! The road, client side: what meets a request, in the order it meets it.
//!
//! [`wire`] reads its bytes and [`h1`] runs the connection; [`asking`] routes it, names its key and class; [`lookup`]
//! decides ([`challenge`]: on who needs a pass, [`liked`]: on the coding); then it is answered from memory ([`deliver`]), by a flight ([`miss`], [`follow`]), past the cache ([`pass`],
//! its body by [`body`]), without an app ([`fallback`]), or by an answer of our own ([`problem`]; [`down`] where its upstream is; [`blocked`] where rules say so;
//! [`purging`] where pages are to be forgotten; [`limited`] where a client comes too often, which is asked before anything is looked up and again before an origin is); [`record`] counts and logs it; [`recent`] remembers some, on which [`replay`] tries another config and [`rehearse`] an app that is gone. [`lines`] are what their
//! heads have in common, [`watch`] keeps the deadlines. [`h2`] runs a connection of HTTP/2, over
//! [`paced`], which gathers its writes. Below HTTP, [`door`] accepts connections, [`proxied`] reads whom they
//! are from where a proxy says so, and [`stream`] is one, or [`tls`] on one.
//!
//! A hit goes through `wire`, `lookup`, `deliver`, `record` and awaits nothing but the client's socket.

mod asking;
mod blocked;
mod body;
mod challenge;
mod deliver;
pub mod door;
mod down;
mod exchange;
mod fallback;
mod follow;
pub mod guests;
mod h1;
mod h2;
mod image;
mod liked;
mod limited;
mod lines;
mod lookup;
mod miss;
mod outline;
mod paced;
mod page;
mod part;
mod pass;
mod problem;
mod proxied;
mod purging;
mod recent;
mod record;
mod rehearse;
pub mod replay;
mod stream;
mod thaw;
pub mod tls;
mod translate;
pub mod watch;
mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;

use crate::admin::Health;
use crate::cache::memory::Memory;
use crate::config::policy::Policy;
use crate::fallback::Reserve;
use crate::fetch::Fetcher;
use crate::fleet::Fleet;
use crate::guard::Guard;
use crate::limits::{Identities, Limits};
use crate::telemetry::sharded::Counter;
use crate::telemetry::{AccessLog, RouteMetrics};
pub use challenge::Challenges;
use guests::Guests;
pub use recent::Recent;
pub use rehearse::rehearse;
use watch::Watch;

/// What is in force, for whoever comes next.
pub type InForce = Arc<ArcSwap<Site>>;

/// Everything a request may need, as it stands under one policy: a request takes it once and sees it to its end. Another
/// policy makes another of it, which has the same store, clients and counts.
#[derive(Clone)]
pub struct Site {
    pub policy: Arc<Policy>,
    pub fetcher: Arc<Fetcher>,
    pub guard: Arc<Guard>,
    pub reserve: Arc<Reserve>,
    pub limits: Arc<Limits>,
    pub watch: Arc<Watch>,
    pub access: Arc<AccessLog>,
    /// By route id.
    pub routes: Vec<Arc<RouteMetrics>>,
    pub unrouted: Arc<RouteMetrics>,
    pub connections: Arc<Counter>,
    pub guests: Arc<Guests>,
    /// None: nobody is known by anything.
    pub identities: Option<Arc<Identities>>,
    pub failed_handshakes: Arc<Counter>,
    pub challenges: Arc<Challenges>,
    /// What images of hot pages may take.
    pub images: Arc<Memory>,
    /// Requests that wait for a flight's head.
    pub waiters: Arc<AtomicUsize>,
    pub health: Arc<Health>,
    pub recent: Arc<Recent>,
    pub fleet: Arc<Fleet>,
}

/// HTTP/2, as TLS's protocol negotiation knows it (RFC 9113 §3.2).
pub const HTTP2: &[u8] = b"h2";
