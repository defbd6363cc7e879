//! The config as it is believed: one immutable value that a request takes once and sees to its end.
//!
//! Everything is resolved here but the names of servers, which may change: sizes to bytes, upstreams to indexes, routes to
//! the order in which they are tried.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::table::Table;
pub use super::words::{AcceptEncoding, ListAction, RuleAction};
use crate::limits::IdentitySpec;
use crate::limits::fleet::FleetSpec;
use crate::limits::spec::LimitSpec;
use crate::origin::{Bulkhead, Priority, Secret, UpstreamSpec};
use crate::rules::claims::ClaimedBy;
use crate::rules::encoding::Coding;
use crate::rules::expression::Expression;
use crate::rules::identity::Harmless;
use crate::rules::networks::{self, Listed};
use crate::rules::proof;
use crate::rules::pulled;
use crate::rules::purge::{self, Located, What};
use crate::rules::request::HeadLimits;
use crate::rules::standby;
use crate::rules::storing::StoreTerms;
use crate::rules::target::{self, QueryRules};
use crate::telemetry::Output;

/// What the process does, whole.
#[derive(Clone, Debug)]
pub struct Policy {
    pub listen: Listen,
    pub cache: Cache,
    pub fallback: Fallback,
    pub challenge: Challenge,
    pub upstreams: Vec<UpstreamSpec>,
    /// In the order of the file; a route's `id` is its place here.
    pub routes: Vec<Arc<Route>>,
    pub lists: Vec<List>,
    pub geo: Geo,
    /// In the order in which they are asked.
    pub rules: Vec<Rule>,
    /// What visitors are known by.
    pub identity: IdentitySpec,
    /// Fields that say who asks, beside those that are known for it.
    pub credentials: Vec<HeaderName>,
    /// In the order of the file.
    pub limits: Vec<LimitSpec>,
    /// Whom limits are shared with.
    pub fleet: Option<FleetSpec>,
    /// Files that hold secrets.
    pub secrets: Vec<PathBuf>,
    pub admin: Admin,
    pub state: StateDir,
    pub log: Log,
    /// Where it was written.
    pub file: Option<String>,
    pub(super) table: Table,
}

impl Policy {
    /// The route of a request, by its host (as `rules::host::normalize` writes it) and its path (as
    /// `rules::target::write_path` does; `*` counts as `/`): the most specific host first, then the longest path.
    pub fn route(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        self.table
            .find(host, if path == "*" { "/" } else { path })
            .map(|id| &self.routes[id])
    }

    /// The Host for a request of this route that names none (HTTP/1.0): its upstream's.
    pub fn authority<'a>(&'a self, route: &'a Route) -> &'a str {
        let server = || self.upstreams.get(route.upstream)?.servers.first();
        match &route.upstream_host {
            Some(host) => host,
            None => server().map_or("", |server| &server.authority),
        }
    }

    /// Whether every request has a route of the same place as by another.
    pub fn routes_like(&self, other: &Policy) -> bool {
        self.table == other.table
    }

    /// Path and query of a page as its key has them.
    pub fn target(&self, host: &str, path: &str, query: Option<&str>) -> String {
        let mut target = String::new();
        target::write_path(path, &mut target);
        if let Some(route) = self.route(host, &target) {
            target::write_query(query, &route.query, &mut target);
        }
        target
    }

    /// The page of a whole URL, as it is purged.
    ///
    /// # Errors
    /// It is no URL of a page.
    pub fn page(&self, url: &str) -> Result<What, purge::Flaw> {
        let Located { host, path, query } = purge::locate(url)?;
        let target = self.target(&host, path, query);
        Ok(What::Page { host, target })
    }

    /// Host, path and route, in the order in which they are tried.
    pub fn order(&self) -> impl Iterator<Item = (String, &str, &Arc<Route>)> {
        let all = self.table.order();
        all.map(|(host, path, id)| (host, path, &self.routes[id]))
    }
}

#[derive(Clone, Debug)]
pub struct Listen {
    pub address: SocketAddr,
    /// None: plain HTTP.
    pub tls: Option<Tls>,
    /// Where visitors of plain HTTP are sent to HTTPS from.
    pub redirect_from: Option<SocketAddr>,
    /// None: `address`'s own.
    pub redirect_port: Option<u16>,
    /// 0: what there is room for.
    pub max_connections: usize,
    /// 0: a quarter of all.
    pub max_connections_per_client: usize,
    /// How many bits of an IPv6 address tell clients apart.
    pub client_ipv6_prefix: u8,
    /// Networks of IPv4 are written as such.
    pub trusted_proxies: Vec<IpNet>,
    pub claimed_by: ClaimedBy,
    pub proxy_protocol: bool,
    pub http2: bool,
    pub h2c: bool,
    pub max_streams: usize,
    /// At least one.
    pub threads: usize,
    pub head_deadline: Duration,
    pub idle_timeout: Duration,
    pub drain: Duration,
    pub body_timeout: Duration,
    /// Bytes a second; 0 is off.
    pub min_rate: u64,
    pub min_rate_grace: Duration,
    pub head: HeadLimits,
    /// Bytes; 0 sets no limit.
    pub max_body: u64,
    pub request_buffer: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// At least one; the first is for visitors that name no host of the others.
    pub certificates: Vec<PathBuf>,
    pub client_ca: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Cache {
    pub max_memory: usize,
    pub max_object_size: u64,
    pub max_waiters: usize,
    pub max_wait: Duration,
    pub max_variants: usize,
    pub pass_buffer: usize,
    pub hit_for_miss: Duration,
    pub cdn_id: String,
}

/// What there is when the app is gone.
#[derive(Clone, Debug)]
pub struct Fallback {
    /// How much of the disk the last good pages may take, in bytes; 0: none are kept.
    pub snapshot: u64,
    /// How fast they are written, in bytes a second.
    pub snapshot_rate: u64,
    /// Where files lie that stand in for pages.
    pub dir: Option<PathBuf>,
    /// What visitors get where there is nothing else; none: the bundled page.
    pub page: Option<Arc<[u8]>>,
    /// When they are to come again.
    pub retry_after: Duration,
    /// When it goes on and off by itself; none: never.
    pub auto: Option<standby::Terms>,
}

#[derive(Clone, Debug)]
pub struct Challenge {
    pub terms: proof::Terms,
    /// None: one of the process's own.
    pub key: Option<proof::Key>,
    /// Who needs none: a bit for each of [`Policy::lists`].
    pub exempt: u64,
    /// By route id: whether all of its requests need a pass.
    pub(super) routes: Vec<bool>,
}

impl Challenge {
    /// From now on every request of a route does.
    pub fn switch_on(&mut self, route: usize) {
        if self.routes.len() <= route {
            self.routes.resize(route + 1, false);
        }
        self.routes[route] = true;
    }

    /// Whether every request of a route needs a pass.
    pub fn is_on(&self, route: &Route) -> bool {
        self.routes.get(route.id) == Some(&true)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub id: usize,
    /// Its label in metrics.
    pub name: String,
    /// Its place in [`Policy::upstreams`].
    pub upstream: usize,
    pub priority: Priority,
    /// Its number of requests in flight; none: as many as the upstream may have.
    pub bulkhead: Option<Bulkhead>,
    pub cache: bool,
    pub store: StoreTerms,
    pub serve_stale_after: Duration,
    pub eager: bool,
    pub harmless: Harmless,
    /// Cookies of ours, which no origin sees; `name*` is a prefix.
    pub own_cookies: Vec<String>,
    /// That of them which binds visitors to servers of its upstream.
    pub sticky: Option<String>,
    pub query: QueryRules,
    pub honor_directives: bool,
    pub forward_client_address: bool,
    pub accept_encoding: AcceptEncoding,
    /// What pages are given in, the best first.
    pub compress: Vec<Coding>,
    /// Fields that answers get where the origin says nothing of them.
    pub added: Vec<(HeaderName, HeaderValue)>,
    /// Strict-Transport-Security, likewise, over TLS.
    pub hsts: Option<HeaderValue>,
    pub x_cache: bool,
    pub show_tags: bool,
    pub status_key: bool,
    pub purge_from: PurgeFrom,
    /// The Host to send instead of the one asked for.
    pub upstream_host: Option<String>,
    /// What operators have pulled for it. Never of the config.
    pub pulled: Pulled,
}

/// The levers of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pulled {
    pub pages: pulled::Pulled,
    /// Unsafe methods are refused.
    pub readonly: bool,
    /// Its requests go to the origin each for itself; what is stored stands in where that fails.
    pub bypass: bool,
    /// Its visitors get what there is without the app.
    pub fallback: bool,
    /// Of how many of its requests that is tried: so many of 2^32. 0: of none.
    pub drill: u32,
}

/// Who may purge by requests.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PurgeFrom {
    pub networks: Vec<IpNet>,
    /// A bit for each list.
    pub lists: u64,
}

impl PurgeFrom {
    pub fn holds(&self, client: IpAddr, listed: Listed) -> bool {
        let is_in = |network: &IpNet| networks::holds(network, client);
        listed.lists & self.lists != 0 || self.networks.iter().any(is_in)
    }
}

/// Addresses under one name. Its place in [`Policy::lists`] is its bit in what is said of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub name: String,
    pub networks: Vec<IpNet>,
    /// Where there are more.
    pub file: Option<PathBuf>,
    pub action: Option<ListAction>,
}

/// Databases that tell where clients are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geo {
    pub country: Option<PathBuf>,
    pub asn: Option<PathBuf>,
}

/// What is done with the requests of which an expression is true.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub when: Expression,
    pub action: RuleAction,
    /// The limit it names: its [`by_rules`](LimitSpec::by_rules).
    pub limit: Option<u8>,
    /// The only routes it is for, by id; none: all.
    pub routes: Option<Vec<usize>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// None: no admin listener.
    pub address: Option<SocketAddr>,
    pub socket: SocketPlace,
    /// None: that of the state directory.
    pub token: Option<Secret>,
}

/// Where what outlives the process lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateDir {
    Off,
    At(PathBuf),
    /// Where [`crate::state::places`] says, by the port of `listen`.
    Usual,
}

/// Where operators' socket is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SocketPlace {
    Off,
    At(PathBuf),
    /// In the state directory.
    Usual,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub access: Output,
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    pub hide_query: Vec<String>,
}
