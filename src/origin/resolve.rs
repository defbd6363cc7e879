//! Where servers are that are configured by name: DNS is asked at start and again as the answers grow old, so that an app
//! that scales out, or moves, is found.
//!
//! ```text
//! begin() ──► a thread of its own, a task a name:  hosts file, else DNS ──► rules ──► Roster, Budget, log
//!    └────────► FirstRound::wait(), before anybody is let in
//! ```
//!
//! What an answer comes to is [`crate::rules::resolve`]'s to say. Each question reads hosts file and, where no resolver is
//! configured, resolv.conf anew: they are small, and change with networks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::aside::{Aside, First, FirstRound, GRACE};
use super::server::{Place, ServerSpec};
use super::upstream::Upstream;
use crate::rules::resolve::{self as rules, Bounds, Family, Fault, Said, Settled};
use crate::telemetry::{ResolveResult, ids};

/// For all of a question, whoever is asked how often.
const PATIENCE: Duration = Duration::from_secs(5);
/// For one server's answer, and how often all of them are asked.
const ONE: Duration = Duration::from_secs(1);
const ROUNDS: usize = 2;

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveSpec {
    /// Whom to ask; else the system's.
    pub servers: Vec<SocketAddr>,
    pub family: Family,
    pub bounds: Bounds,
}

impl Default for ResolveSpec {
    fn default() -> Self {
        ResolveSpec {
            servers: Vec::new(),
            family: Family::default(),
            bounds: Bounds {
                min: Duration::from_secs(1),
                max: Duration::from_secs(30),
            },
        }
    }
}

/// A name that servers are configured by.
pub struct Named {
    /// Which of the upstream's specs it is.
    of: usize,
    host: String,
    port: u16,
    fault: Mutex<Option<Fault>>,
}

impl Named {
    pub(super) fn all(specs: &[ServerSpec]) -> Vec<Named> {
        let specs = specs.iter().enumerate();
        let named = specs.filter_map(|(of, spec)| match &spec.place {
            Place::Address(_) => None,
            Place::Name { host, port } => Some(Named {
                of,
                host: host.clone(),
                port: *port,
                fault: Mutex::new(None),
            }),
        });
        named.collect()
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// Why it could not be resolved when it was last asked for; for people.
    pub fn fault(&self) -> Option<String> {
        self.fault
            .lock()
            .as_ref()
            .map(|fault| fault.why().to_owned())
    }
}

/// What came of all questions of an upstream.
#[derive(Default)]
pub(super) struct Told([AtomicU64; ResolveResult::ALL.len()]);

impl Told {
    pub(super) fn of(&self, result: ResolveResult) -> u64 {
        self.0[result as usize].load(Ordering::Relaxed)
    }

    fn count(&self, fault: Option<&Fault>) {
        let result = match fault {
            None => ResolveResult::Ok,
            Some(Fault::NoSuchName) => ResolveResult::NoSuchName,
            Some(Fault::NoAddress) => ResolveResult::NoAddress,
            Some(Fault::Timeout) => ResolveResult::Timeout,
            Some(Fault::Failed(_)) => ResolveResult::Failed,
        };
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Resolves the names of all upstreams, until they are retired; `None` where there is none.
///
/// # Errors
/// As with [`resolving`].
pub fn resolve(upstreams: &[Arc<Upstream>]) -> Result<Option<FirstRound>, String> {
    Ok(resolving(upstreams)?.map(Resolving::begin))
}

/// All that it takes to resolve names.
pub struct Resolving {
    aside: Aside,
    seekers: Vec<Seeker>,
}

/// Gets ready to resolve the names of all upstreams; `None` where there is none.
///
/// # Errors
/// A thread that can't be had; for people.
pub fn resolving(upstreams: &[Arc<Upstream>]) -> Result<Option<Resolving>, String> {
    let mut seekers = Vec::new();
    for upstream in upstreams {
        for at in 0..upstream.named().len() {
            seekers.push(Seeker {
                upstream: Arc::clone(upstream),
                at,
                known: Vec::new(),
                left_out: 0,
                first: None,
            });
        }
    }
    if seekers.is_empty() {
        return Ok(None);
    }
    Ok(Some(Resolving {
        aside: Aside::new("resolve")?,
        seekers,
    }))
}

impl Resolving {
    /// Resolves until their upstreams are retired.
    pub fn begin(self) -> FirstRound {
        let (first, round) = FirstRound::new(PATIENCE + GRACE);
        let mut seekers = self.seekers;
        for seeker in &mut seekers {
            seeker.first = Some(first.clone());
        }
        self.aside.run(move || {
            let run = |seeker: Seeker| tokio::spawn(seeker.run());
            seekers.into_iter().map(run).collect()
        });
        round
    }
}

/// The addresses that a name has now, asked for once. Blocks.
///
/// # Errors
/// None are to be had; for people.
pub fn look_up(host: &str, spec: &ResolveSpec) -> Result<Vec<IpAddr>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let settled = runtime.block_on(async {
        let (a, aaaa) = ask(host, spec).await;
        rules::settle(spec.family, a, aaaa, &[])
    });
    match settled {
        Ok(settled) => Ok(settled.addresses),
        Err(fault) => Err(fault.why().to_owned()),
    }
}

/// Seeks one name's addresses, again and again.
struct Seeker {
    upstream: Arc<Upstream>,
    /// Which of the upstream's names.
    at: usize,
    known: Vec<IpAddr>,
    left_out: usize,
    /// Dropped with the first answer.
    first: Option<First>,
}

impl Seeker {
    async fn run(mut self) {
        let bounds = self.upstream.spec().resolve.bounds;
        let mut failed = 0;
        loop {
            let settled = self.ask().await;
            let wait = match &settled {
                Ok(settled) => {
                    failed = 0;
                    rules::next(settled.ttl, bounds, ids::random())
                }
                Err(_) => {
                    failed += 1;
                    let wait = rules::retry(failed, ids::random());
                    // Whoever has servers can wait.
                    match self.known.is_empty() {
                        true => wait,
                        false => wait.max(bounds.min),
                    }
                }
            };
            self.tell(settled);
            self.first = None;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.upstream.retired() => return,
            }
        }
    }

    /// In a task of its own: what panics below is a question that failed, and the next one is asked.
    async fn ask(&self) -> Result<Settled, Fault> {
        let (upstream, at) = (Arc::clone(&self.upstream), self.at);
        let asked = tokio::spawn(async move {
            let spec = &upstream.spec().resolve;
            ask(upstream.named()[at].host(), spec).await
        });
        match asked.await {
            Ok((a, aaaa)) => {
                let family = self.upstream.spec().resolve.family;
                rules::settle(family, a, aaaa, &self.known)
            }
            Err(_) => Err(Fault::Failed("the resolver panicked".to_owned())),
        }
    }

    fn tell(&mut self, settled: Result<Settled, Fault>) {
        let named = &self.upstream.named()[self.at];
        let (upstream, name) = (self.upstream.name(), named.host());
        let fault = match &settled {
            Ok(settled) => settled.fault.clone(),
            Err(fault) => Some(fault.clone()),
        };
        self.upstream.resolves.count(fault.as_ref());
        let was = std::mem::replace(&mut *named.fault.lock(), fault.clone());
        let kind = |fault: &Option<Fault>| fault.as_ref().map(std::mem::discriminant);
        if let Some(fault) = &fault
            && kind(&was) != Some(std::mem::discriminant(fault))
        {
            let why = fault.why();
            match self.known.is_empty() {
                true => tracing::warn!(
                    upstream,
                    name,
                    why,
                    "a name is not resolved: no servers of it"
                ),
                false => tracing::warn!(
                    upstream,
                    name,
                    why,
                    "a name is not resolved: its servers stay"
                ),
            }
        }
        let Ok(settled) = settled else {
            return;
        };
        if was.is_some() && fault.is_none() {
            tracing::info!(upstream, name, "a name is resolved again");
        }
        if settled.left_out > 0 && self.left_out == 0 {
            let (used, left_out) = (settled.addresses.len(), settled.left_out);
            tracing::warn!(
                upstream,
                name,
                used,
                left_out,
                "a name has more addresses than are used"
            );
        }
        self.left_out = settled.left_out;
        self.known = settled.addresses;
        let addresses = self.known.iter().map(|ip| SocketAddr::new(*ip, named.port));
        let addresses: Vec<SocketAddr> = addresses.collect();
        let changed = self.upstream.set_addresses(named.of, &addresses);
        if changed.came + changed.went > 0 {
            let (now, came, went) = (addresses.len(), changed.came, changed.went);
            tracing::info!(upstream, name, now, came, went, "servers of a name");
        }
    }
}

/// IPv4's addresses, and IPv6's.
async fn ask(host: &str, spec: &ResolveSpec) -> (Said, Said) {
    let failed = |why: String| Said::Nothing(Fault::Failed(why));
    let name = match Name::from_utf8(host) {
        Ok(name) => name,
        Err(why) => return (failed(why.to_string()), failed(why.to_string())),
    };
    if let Some(known) = at_home(host, &name, spec.bounds.max) {
        return known;
    }
    let resolver = match resolver(spec) {
        Ok(resolver) => resolver,
        Err(why) => {
            let why = format!("no resolver: {why}");
            return (failed(why.clone()), failed(why));
        }
    };
    let (asks_a, asks_aaaa) = spec.family.asks();
    tokio::join!(
        ask_for(&resolver, &name, RecordType::A, asks_a),
        ask_for(&resolver, &name, RecordType::AAAA, asks_aaaa),
    )
}

/// What the hosts file has, and of `localhost` what everybody knows (RFC 6761 §6.3).
fn at_home(host: &str, name: &Name, ttl: Duration) -> Option<(Said, Said)> {
    let hosts = Hosts::from_system().unwrap_or_default();
    let of = |kind: RecordType| -> Vec<IpAddr> {
        let found = hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = found.map(|found| {
            let records = found.answers().iter();
            records.filter_map(|record| record.data.ip_addr()).collect()
        });
        found.unwrap_or_default()
    };
    let (mut a, mut aaaa) = (of(RecordType::A), of(RecordType::AAAA));
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if a.is_empty() && aaaa.is_empty() && (host == "localhost" || host.ends_with(".localhost")) {
        a.push(IpAddr::from([127, 0, 0, 1]));
        aaaa.push(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
    }
    let said = |addresses: Vec<IpAddr>| match addresses.is_empty() {
        true => Said::Nothing(Fault::NoAddress),
        false => Said::Addresses(addresses, ttl),
    };
    (!a.is_empty() || !aaaa.is_empty()).then(|| (said(a), said(aaaa)))
}

fn resolver(spec: &ResolveSpec) -> Result<TokioResolver, NetError> {
    let mut builder = match spec.servers.is_empty() {
        true => TokioResolver::builder_tokio()?,
        false => {
            let servers = spec.servers.iter().map(|address| {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                for connection in &mut server.connections {
                    connection.port = address.port();
                }
                server
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            let options = builder.options_mut();
            options.timeout = ONE;
            options.attempts = ROUNDS;
            builder
        }
    };
    let options = builder.options_mut();
    // One question each: nothing would be found again.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

async fn ask_for(resolver: &TokioResolver, name: &Name, kind: RecordType, asks: bool) -> Said {
    if !asks {
        return Said::Nothing(Fault::NoAddress);
    }
    let Ok(answer) = timeout(PATIENCE, resolver.lookup(name.clone(), kind)).await else {
        return Said::Nothing(Fault::Timeout);
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(NetError::Timeout) => return Said::Nothing(Fault::Timeout),
        Err(error) if error.is_nx_domain() => return Said::Nothing(Fault::NoSuchName),
        Err(error) if error.is_no_records_found() => return Said::Nothing(Fault::NoAddress),
        Err(error) => {
            let why: String = error.to_string().chars().take(200).collect();
            return Said::Nothing(Fault::Failed(why.escape_debug().to_string()));
        }
    };
    // A name that stands for another is as old as the oldest step on the way.
    let ttl = answer.answers().iter().map(|record| record.ttl).min();
    let records = answer.answers().iter();
    let addresses: Vec<IpAddr> = records.filter_map(|record| record.data.ip_addr()).collect();
    match addresses.is_empty() {
        true => Said::Nothing(Fault::NoAddress),
        false => Said::Addresses(addresses, Duration::from_secs(u64::from(ttl.unwrap_or(0)))),
    }
}
