//! Assembly: a policy becomes a running proxy. Wired once, top to bottom; [`sockets`] are how people come in, [`leave`] is
//! how it ends, [`handover`] how another begins in its place, and [`change`] how it goes on under another policy.

mod change;
mod files;
mod fleet;
mod gauges;
mod handover;
mod leave;
mod operators;
mod reload;
mod sockets;
mod standby;
mod warm;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::background::{GenBackgroundService, background_service};
use tokio_rustls::TlsAcceptor;

use crate::admin::{Health, State};
use crate::cache::memory::Memory;
use crate::cache::store::Store;
use crate::clock;
use crate::config::live::{Live, Source};
use crate::config::policy::Policy;
use crate::fallback::Reserve;
use crate::fetch::Fetcher;
use crate::files::Watched;
use crate::fleet::Fleet;
use crate::front;
use crate::front::door::{Door, Doors, Front};
use crate::front::guests::{Guests, Told};
use crate::front::tls::{self, Certificates};
use crate::front::watch::{SWEEP, Watch};
use crate::front::{Challenges, InForce, Site};
use crate::guard::Guard;
use crate::limits;
use crate::origin::{self, FirstRound};
use crate::rules::breaker;
use crate::snapshot::{self, Snapshot};
use crate::state;
use crate::telemetry::{self, Metrics, Telemetry, names};
use leave::{Entrance, Leave};
use operators::Operators;
use sockets::Sockets;

/// The longest that a config may wait for who is inside.
const DRAIN_MOST: Duration = Duration::from_secs(3600);

/// How the process comes by its listeners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// It binds them.
    Fresh,
    /// The process that has them hands them over.
    Upgrade,
}

/// Serves until told to stop.
///
/// # Errors
/// An address that cannot be had, a log that cannot be opened, a certificate file that cannot be read; for people.
pub fn run(policy: Policy, start: Start, source: Source, text: &str) -> Result<(), String> {
    let watched = source.path.as_deref().map(Watched::new);
    let telemetry = telemetry::start(&policy.log.access, policy.log.level, &policy.log.hide_query)
        .map_err(|e| format!("log: {e}"))?;
    let config = (source, text, watched);
    let served = run_with(policy, start, config, &telemetry);
    telemetry.close();
    served
}

/// Where the config comes from, what it said, and its file, as it was before it was looked at.
type Config<'a> = (Source, &'a str, Option<Watched>);

fn run_with(
    policy: Policy,
    start: Start,
    config: Config<'_>,
    telemetry: &Telemetry,
) -> Result<(), String> {
    let (source, text, watched) = config;
    let leave = Leave::prepare()?;
    let operators = Operators::prepare(&policy, &telemetry.metrics)?;
    let health = Health::new();
    let base = Arc::new(policy);
    let (kept, history) = (
        operators.file(state::LEVERS),
        operators.file(state::CONFIGS),
    );
    let place = operators.file(state::FLEET);
    let fleet = fleet::alone(base.listen.address.port(), place);
    let begun = reload::begun(&base, kept.as_deref());
    let site = site(begun, telemetry, &health, fleet, operators.state())?;
    let policy = Arc::clone(&site.policy);
    let in_force: InForce = Arc::new(ArcSwap::new(Arc::clone(&site)));
    gauges::site(&telemetry.metrics, &in_force);
    let board = reload::board(kept, base, &in_force, &telemetry.metrics);
    let live = reload::live((source, text), &in_force, &board, &telemetry.metrics);
    let tls = tls(&policy, &telemetry.metrics)?;
    // Nobody comes in before it is known where the servers are,
    let leave = first(leave, origin::resolve(site.fetcher.upstreams())?)?;
    // which of them are well,
    let leave = first(leave, origin::watch(site.fetcher.upstreams())?)?;
    // nor before nearly all that can fail is done.
    let (leave, sockets, successor) = match start {
        Start::Fresh => (leave, Sockets::open(&policy, Vec::new())?, None),
        Start::Upgrade => {
            let address = policy.listen.address;
            let (leave, (successor, handed)) =
                leave.unless_told(move || handover::wait(address, handover::WAITS))?;
            (leave, Sockets::open(&policy, handed)?, Some(successor))
        }
    };
    warm::begin(&in_force)?;
    let copies = sockets.copies().map_err(|e| e.to_string())?;
    let listen = sockets.public.local_addr().map_err(|e| e.to_string())?;
    let doors = Doors::new(1 + usize::from(sockets.redirect.is_some()));
    readiness(&health, &in_force, &live, listen, &doors);
    let operators = operators.bind(&policy, start)?;
    let about = (Arc::clone(&telemetry.metrics), Arc::clone(&health));
    sweep(&in_force)?;
    change::look_at_files(&in_force)?;
    standby::watch(&in_force, operators.audit())?;
    if let Some(fleet) = &policy.fleet {
        site.limits.join(fleet, &telemetry.metrics)?;
    }
    fleet::join(&in_force, &board, &telemetry.metrics)?;
    tracing::info!(address = %listen, threads = policy.listen.threads, "listening");
    let mut fronts = vec![front(&in_force, tls, None, sockets.public, &doors)];
    fronts.extend(sockets.redirect.map(|listener| {
        let port = policy.listen.redirect_port.unwrap_or(listen.port());
        front(&in_force, None, Some(port), listener, &doors)
    }));
    let server = server(&policy, fronts);
    let entrance = Entrance {
        sockets: copies,
        doors: Arc::clone(&doors),
    };
    let facts = Arc::clone(&in_force);
    let changes = (Arc::clone(&live), Arc::clone(&board));
    let taken = changes.clone();
    // In a fleet the others tell what was pulled.
    let is_late = successor.is_some() && policy.fleet.is_none();
    let begun = async move {
        while !doors.are_open() {
            if doors.is_one_lost() {
                return Err("a listener is lost".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ready = tokio::task::spawn_blocking(move || {
            reload::take_over(&taken.0, &taken.1, history, is_late);
            successor.map_or(Ok(()), |successor| successor.ready())
        });
        ready.await.map_err(|e| e.to_string())??;
        // Until now operators asked the process before this one, if there was one.
        operators.start(sockets.admin, about, facts, changes)
    };
    drop(site);
    reload::watch(&live, &board, watched)?;
    leave.when_told(server, &in_force, &live, &health, entrance, begun)
}

/// Waits for first answers, if there are any to come.
fn first(leave: Leave, round: Option<FirstRound>) -> Result<Leave, String> {
    let Some(round) = round else {
        return Ok(leave);
    };
    let waited = leave.unless_told(move || {
        round.wait();
        Ok(())
    });
    Ok(waited?.0)
}

fn tls(policy: &Policy, metrics: &Metrics) -> Result<Option<TlsAcceptor>, String> {
    let Some(tls) = &policy.listen.tls else {
        return Ok(None);
    };
    let certificates = Certificates::load(&tls.certificates)?;
    certificates
        .watch()
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    gauges::certificates(metrics, &certificates);
    tls::acceptor(tls, &certificates, offered(policy.listen.http2)).map(Some)
}

/// A listener's service, with workers of its own.
fn front(
    in_force: &InForce,
    tls: Option<TlsAcceptor>,
    redirect: Option<u16>,
    listener: TcpListener,
    doors: &Arc<Doors>,
) -> GenBackgroundService<Front> {
    let door = Door { tls, redirect };
    let front = Front::new(Arc::clone(in_force), door, listener, Arc::clone(doors));
    let mut service = background_service("front", front);
    // To send people elsewhere one is enough.
    service.threads = redirect.map(|_| 1);
    service
}

/// The protocols offered over TLS (RFC 7301), the best first.
fn offered(http2: bool) -> &'static [&'static [u8]] {
    match http2 {
        true => &[front::HTTP2, b"http/1.1"],
        false => &[b"http/1.1"],
    }
}

/// The address at which this machine reaches one that may mean "all".
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            SocketAddr::from(([127, 0, 0, 1], v4.port()))
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], v6.port()))
        }
        other => other,
    }
}

fn site(
    policy: Policy,
    telemetry: &Telemetry,
    health: &Arc<Health>,
    fleet: Arc<Fleet>,
    state: Option<&Path>,
) -> Result<Arc<Site>, String> {
    let metrics = &telemetry.metrics;
    let guests = Guests::new(told(metrics));
    files::leave_room(&policy, &guests);
    // A sixteenth is for what is not counted piece by piece: connections, and the index of what is stored. Images have an
    // account of their own, so that they never keep a page from being stored.
    let images = policy.cache.max_memory / 64;
    let memory = Memory::new(policy.cache.max_memory / 16 * 15 - images);
    let tags = snapshot::tags_key(state).map_err(|e| e.to_string())?;
    let (variants, cap) = (policy.cache.max_variants, Arc::clone(&memory));
    let store = Arc::new(Store::keyed(cap, variants, Some(tags)));
    let snapshot = Snapshot::new(state, tags, change::kept(&policy), &store, &memory);
    let upstreams = change::upstreams(&policy, &[])?;
    let watched = change::watched(&upstreams, metrics);
    let fetching = change::fetching(&policy);
    change::warn_of_open(&policy);
    Ok(Arc::new(Site {
        guard: Guard::new(&policy, None, metrics)?,
        identities: limits::Identities::by(&policy.identity, None, metrics)?,
        reserve: Arc::new(Reserve::new(&policy, None, metrics)),
        guests: Arc::new(guests),
        limits: Arc::new(limits::Limits::new(
            &policy.limits,
            policy.routes.len(),
            policy.fleet.as_ref(),
            change::room(&memory),
            metrics,
        )),
        fetcher: Fetcher::new(store, memory, upstreams, watched, fetching).remembering(snapshot),
        watch: Arc::new(Watch::default()),
        access: Arc::clone(&telemetry.access),
        routes: change::routes(&policy, metrics),
        unrouted: metrics.unrouted(),
        connections: metrics.counter(&names::CONNECTIONS, &[]),
        failed_handshakes: metrics.counter(&names::FAILED_HANDSHAKES, &[]),
        challenges: Arc::new(Challenges::new(metrics)?),
        images: Memory::new(images),
        waiters: Arc::default(),
        health: Arc::clone(health),
        recent: Arc::default(),
        fleet,
        policy: Arc::new(policy),
    }))
}

fn told(metrics: &Metrics) -> Told {
    Told {
        shed: metrics.counter(&names::CONNECTIONS_SHED, &[]),
        refused_client: metrics.counter(&names::CONNECTIONS_REFUSED, &["client"]),
        refused_full: metrics.counter(&names::CONNECTIONS_REFUSED, &["full"]),
        refused_proxy: metrics.counter(&names::CONNECTIONS_REFUSED, &["proxy"]),
    }
}

fn server(policy: &Policy, fronts: Vec<GenBackgroundService<Front>>) -> Server {
    let conf = ServerConf {
        threads: policy.listen.threads,
        // One worker has nobody to share with, and is cheaper without the means to.
        work_stealing: policy.listen.threads > 1,
        // Once told to stop it sleeps for so long, while we wait for who is inside, as long as the config by then says; then the
        // process ends.
        grace_period_seconds: Some(DRAIN_MOST.as_secs() + 60),
        // The engine's own timers need a thread that wakes a hundred times a second, and keep what is cancelled.
        fast_timeout_to_tokio_threshold_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    for front in fronts {
        server.add_service(front);
    }
    server
}

/// Deadlines are looked at from a thread of their own, however busy the workers are; and what limits need no longer.
fn sweep(in_force: &InForce) -> Result<(), String> {
    let in_force = Arc::clone(in_force);
    std::thread::Builder::new()
        .name("watch".into())
        .spawn(move || {
            for nth in 0_usize.. {
                std::thread::sleep(SWEEP);
                let site = in_force.load();
                site.watch.sweep(clock::uptime_millis());
                site.limits.tidy(nth, clock::tick().nanos());
            }
        })
        .map(drop)
        .map_err(|e| format!("cannot start a thread: {e}"))
}

fn readiness(
    health: &Health,
    in_force: &InForce,
    live: &Arc<Live>,
    listen: SocketAddr,
    doors: &Arc<Doors>,
) {
    let doors = Arc::clone(doors);
    health.ready_when("listener", move || match doors.are_open() {
        true => State::Ok(format!("{listen}")),
        false => State::Failing(format!("{listen} is not there yet")),
    });
    let live = Arc::clone(live);
    health.ready_when("config", move || {
        let version = live.version().number;
        // What was refused harms nobody; what is in force is good.
        State::Ok(match live.refused() {
            None => format!("version {version}"),
            Some(_) => format!("version {version}; the last change was refused"),
        })
    });
    let in_force = Arc::clone(in_force);
    health.ready_when("origins", move || origins(&in_force.load()));
}

/// It would do well with traffic as long as a server is well, of any upstream, or something is stored to fall back on: a
/// balancer that turned away from all proxies at once would leave visitors without the stale pages they have.
fn origins(site: &Site) -> State {
    let upstreams = site.fetcher.upstreams();
    let told: Vec<_> = upstreams
        .iter()
        .map(|upstream| {
            let (name, servers) = (upstream.name(), upstream.servers());
            let mut told = match upstream.spec().health {
                None => format!("{name}: {} not checked", servers.len()),
                Some(_) => {
                    let well = servers.iter().filter(|server| server.seen().is_well());
                    format!("{name}: {} of {} well", well.count(), servers.len())
                }
            };
            told += match upstream.circuit().state() {
                breaker::State::Closed => "",
                breaker::State::HalfOpen => ", breaker half-open",
                breaker::State::Open => ", breaker open",
            };
            for named in upstream.named() {
                if let Some(why) = named.fault() {
                    told += &format!(" ({}: {why})", named.host());
                }
            }
            told
        })
        .collect();
    let told = told.join(", ");
    if !upstreams.iter().all(|upstream| upstream.is_all_ill()) {
        return State::Ok(told);
    }
    match site.fetcher.store.size().0 {
        0 if site.reserve.has_files() => State::Ok(format!("{told}; files to fall back on")),
        0 => State::Failing(told),
        pages => State::Ok(format!("{told}; entries stored: {pages}")),
    }
}
