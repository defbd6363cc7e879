//! Assembly: a policy becomes a running proxy. Wired once, top to bottom; [`sockets`] are how people come in, [`leave`] is
//! how it ends, [`handover`] how another begins in its place.

mod files;
mod handover;
mod leave;
mod sockets;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::background::{GenBackgroundService, background_service};
use tokio_rustls::TlsAcceptor;

use crate::admin::{self, Admin, Health, State};
use crate::cache::memory::Memory;
use crate::cache::store::Store;
use crate::clock;
use crate::config::policy::Policy;
use crate::fetch::{Fetcher, Limits};
use crate::front;
use crate::front::Site;
use crate::front::door::{Door, Doors, Front};
use crate::front::guests::{Guests, Told};
use crate::front::tls::{self, Certificates};
use crate::front::watch::{SWEEP, Watch};
use crate::guard::Guard;
use crate::limits;
use crate::origin::{self, FirstRound, Upstream};
use crate::rules::breaker;
use crate::rules::encoding::Coding;
use crate::rules::purge::Kind;
use crate::telemetry::{self, Metrics, ProbeResult, ResolveResult, Telemetry, names};
use files::Files;
use leave::{Entrance, Leave};
use sockets::Sockets;

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
pub fn run(policy: Policy, start: Start) -> Result<(), String> {
    let telemetry = telemetry::start(&policy.log.access, policy.log.level, &policy.log.hide_query)
        .map_err(|e| format!("log: {e}"))?;
    let served = run_with(policy, start, &telemetry);
    telemetry.close();
    served
}

fn run_with(policy: Policy, start: Start, telemetry: &Telemetry) -> Result<(), String> {
    let leave = Leave::prepare()?;
    let health = Health::new();
    let site = site(policy, telemetry, &health)?;
    let policy = site.policy.load_full();
    gauges(&telemetry.metrics, &site);
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
    let copies = sockets.copies().map_err(|e| e.to_string())?;
    let listen = sockets.public.local_addr().map_err(|e| e.to_string())?;
    let doors = Doors::new(1 + usize::from(sockets.redirect.is_some()));
    readiness(&health, &site, listen, &doors);
    let admin = Admin {
        metrics: Arc::clone(&telemetry.metrics),
        health: Arc::clone(&health),
    };
    sweep(&site)?;
    if let Some(fleet) = &policy.fleet {
        site.limits.join(fleet, &telemetry.metrics)?;
    }
    tracing::info!(address = %listen, threads = policy.listen.threads, "listening");
    let mut fronts = vec![front(&site, tls, None, sockets.public, &doors)];
    fronts.extend(sockets.redirect.map(|listener| {
        let port = policy.listen.redirect_port.unwrap_or(listen.port());
        front(&site, None, Some(port), listener, &doors)
    }));
    let server = server(&policy, fronts);
    let entrance = Entrance {
        sockets: copies,
        doors: Arc::clone(&doors),
    };
    let begun = async move {
        while !doors.are_open() {
            if doors.is_one_lost() {
                return Err("a listener is lost".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if let Some(successor) = successor {
            let ready = tokio::task::spawn_blocking(|| successor.ready());
            ready.await.map_err(|e| e.to_string())??;
        }
        // Until now operators asked the process before this one, if there was one.
        let admin = sockets.admin.map(|listener| admin::start(listener, admin));
        admin
            .transpose()
            .map_err(|e| format!("admin listener: {e}"))
    };
    leave.when_told(server, &site, &health, entrance, begun)
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
    certificate_gauges(metrics, &certificates);
    tls::acceptor(tls, &certificates, offered(policy.listen.http2)).map(Some)
}

/// A listener's service, with workers of its own.
fn front(
    site: &Arc<Site>,
    tls: Option<TlsAcceptor>,
    redirect: Option<u16>,
    listener: TcpListener,
    doors: &Arc<Doors>,
) -> GenBackgroundService<Front> {
    let door = Door { tls, redirect };
    let front = Front::new(Arc::clone(site), door, listener, Arc::clone(doors));
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

fn site(policy: Policy, telemetry: &Telemetry, health: &Arc<Health>) -> Result<Arc<Site>, String> {
    let upstreams = policy
        .upstreams
        .iter()
        .cloned()
        .map(Upstream::new)
        .collect::<Result<Vec<Arc<Upstream>>, String>>()?;
    // A sixteenth is for what is not counted piece by piece: connections, and the index of what is stored. Images have an
    // account of their own, so that they never keep a page from being stored.
    let images = policy.cache.max_memory / 64;
    let memory = Memory::new(policy.cache.max_memory / 16 * 15 - images);
    let store = Store::new(Arc::clone(&memory), policy.cache.max_variants);
    let limits = Limits {
        max_object_size: policy.cache.max_object_size,
        pass_buffer: policy.cache.pass_buffer,
        hit_for_miss: policy.cache.hit_for_miss,
    };
    let metrics = &telemetry.metrics;
    let account = Arc::clone(&memory);
    let room = move |bytes| {
        let charge = account.charge(bytes)?;
        Some(Box::new(charge) as limits::table::Hold)
    };
    let watched = upstreams
        .iter()
        .map(|upstream| metrics.upstream(upstream.name()))
        .collect();
    let told = Told {
        shed: metrics.counter(&names::CONNECTIONS_SHED, &[]),
        refused_client: metrics.counter(&names::CONNECTIONS_REFUSED, &["client"]),
        refused_full: metrics.counter(&names::CONNECTIONS_REFUSED, &["full"]),
        refused_proxy: metrics.counter(&names::CONNECTIONS_REFUSED, &["proxy"]),
    };
    let files = Files::raise(&policy);
    let guests = Guests::new(files.guests(), told);
    let (asked, most) = (policy.listen.max_connections, guests.most(&policy.listen));
    if asked > most {
        tracing::warn!(
            asked,
            most,
            "open files allow fewer connections than `max_connections`"
        );
    }
    if let Err(why) = files.make_room(most) {
        tracing::warn!(why = %why, "no room for open files beforehand");
    }
    let guard = Guard::new(&policy, metrics)?;
    guard
        .watch()
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    Ok(Arc::new(Site {
        guard,
        guests: Arc::new(guests),
        limits: limits::Limits::new(
            &policy.limits,
            policy.routes.len(),
            policy.fleet.as_ref(),
            room,
            metrics,
        ),
        fetcher: Fetcher::new(store, memory, upstreams, watched, limits),
        watch: Arc::new(Watch::default()),
        access: Arc::clone(&telemetry.access),
        routes: policy
            .routes
            .iter()
            .map(|route| metrics.route(&route.name))
            .collect(),
        unrouted: metrics.unrouted(),
        connections: metrics.counter(&names::CONNECTIONS, &[]),
        failed_handshakes: metrics.counter(&names::FAILED_HANDSHAKES, &[]),
        images: Memory::new(images),
        waiters: AtomicUsize::new(0),
        health: Arc::clone(health),
        policy: Arc::new(ArcSwap::from_pointee(policy)),
    }))
}

fn server(policy: &Policy, fronts: Vec<GenBackgroundService<Front>>) -> Server {
    let conf = ServerConf {
        threads: policy.listen.threads,
        // One worker has nobody to share with, and is cheaper without the means to.
        work_stealing: policy.listen.threads > 1,
        // Once told to stop it sleeps for so long, while we wait for who is inside; then the process ends.
        grace_period_seconds: Some(policy.listen.drain.as_secs() + 60),
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

/// Deadlines are looked at from a thread of their own, however busy the workers are.
fn sweep(site: &Arc<Site>) -> Result<(), String> {
    let watch = Arc::clone(&site.watch);
    std::thread::Builder::new()
        .name("watch".into())
        .spawn(move || {
            loop {
                std::thread::sleep(SWEEP);
                watch.sweep(clock::uptime_millis());
            }
        })
        .map(drop)
        .map_err(|e| format!("cannot start a thread: {e}"))
}

fn readiness(health: &Health, site: &Arc<Site>, listen: SocketAddr, doors: &Arc<Doors>) {
    let doors = Arc::clone(doors);
    health.ready_when("listener", move || match doors.are_open() {
        true => State::Ok(format!("{listen}")),
        false => State::Failing(format!("{listen} is not there yet")),
    });
    health.ready_when("config", || State::Ok("valid".into()));
    let site = Arc::clone(site);
    health.ready_when("origins", move || origins(&site));
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
        0 => State::Failing(told),
        pages => State::Ok(format!("{told}; entries stored: {pages}")),
    }
}

fn certificate_gauges(metrics: &Metrics, certificates: &Arc<Certificates>) {
    let of = |read: fn(&Certificates) -> f64| {
        let certificates = Arc::clone(certificates);
        move || read(&certificates)
    };
    metrics.gauge(
        &names::CERTIFICATE_EXPIRY,
        &[],
        of(|certificates| certificates.expires() as f64),
    );
    metrics.count_from(
        &names::CERTIFICATE_RELOADS,
        &["done"],
        of(|certificates| certificates.reloads.done.load(Ordering::Relaxed) as f64),
    );
    metrics.count_from(
        &names::CERTIFICATE_RELOADS,
        &["refused"],
        of(|certificates| certificates.reloads.refused.load(Ordering::Relaxed) as f64),
    );
}

fn gauges(metrics: &Metrics, site: &Arc<Site>) {
    let of = |read: fn(&Site) -> f64| {
        let site = Arc::clone(site);
        move || read(&site)
    };
    metrics.gauge(
        &names::CACHE_BYTES,
        &[],
        of(|site| site.fetcher.memory.used() as f64),
    );
    metrics.gauge(
        &names::CACHE_BYTES_MAX,
        &[],
        of(|site| site.fetcher.memory.cap() as f64),
    );
    metrics.gauge(
        &names::CACHE_ENTRIES,
        &[],
        of(|site| site.fetcher.store.size().0 as f64),
    );
    metrics.gauge(
        &names::FLIGHTS,
        &[],
        of(|site| site.fetcher.counts.flying.load(Ordering::Relaxed) as f64),
    );
    metrics.gauge(
        &names::WAITERS,
        &[],
        of(|site| site.waiters.load(Ordering::Relaxed) as f64),
    );
    metrics.gauge(
        &names::HIT_FOR_MISS,
        &[],
        of(|site| site.fetcher.marks() as f64),
    );
    metrics.gauge(
        &names::CONNECTIONS_OPEN,
        &[],
        of(|site| site.guests.open() as f64),
    );
    metrics.count_from(
        &names::CACHE_STORED,
        &[],
        of(|site| site.fetcher.counts.stored.load(Ordering::Relaxed) as f64),
    );
    metrics.count_from(
        &names::CACHE_EVICTED,
        &[],
        of(|site| site.fetcher.store.evicted() as f64),
    );
    metrics.count_from(
        &names::CACHE_INVALIDATED,
        &[],
        of(|site| site.fetcher.store.invalidated() as f64),
    );
    for kind in Kind::ALL {
        for (soft, action) in [(false, "hard"), (true, "soft")] {
            let site = Arc::clone(site);
            metrics.count_from(&names::PURGES, &[kind.word(), action], move || {
                site.fetcher.store.purges_of(kind, soft) as f64
            });
        }
    }
    metrics.count_from(
        &names::PURGED_ENTRIES,
        &[],
        of(|site| site.fetcher.store.purged_entries() as f64),
    );
    for coding in Coding::ALL {
        let site = Arc::clone(site);
        let made =
            move || site.fetcher.encoder.counts.made[coding as usize].load(Ordering::Relaxed);
        metrics.count_from(&names::CACHE_ENCODED, &[coding.name()], move || {
            made() as f64
        });
    }
    metrics.count_from(
        &names::CACHE_ENCODED,
        &["no_shorter"],
        of(|site| {
            site.fetcher
                .encoder
                .counts
                .no_shorter
                .load(Ordering::Relaxed) as f64
        }),
    );
    metrics.count_from(
        &names::CACHE_ENCODED,
        &["put_off"],
        of(|site| site.fetcher.encoder.counts.put_off.load(Ordering::Relaxed) as f64),
    );
    for limit in site.limits.all() {
        let label = [limit.spec.name.as_str()];
        let read = Arc::clone(limit);
        metrics.gauge(&names::LIMIT_CLIENTS, &label, move || {
            read.clients().0 as f64
        });
        let read = Arc::clone(limit);
        metrics.count_from(&names::LIMIT_UNREMEMBERED, &label, move || {
            read.clients().1 as f64
        });
    }
    for route in &site.policy.load().routes {
        if let Some(bulkhead) = route.bulkhead {
            let upstream = site.fetcher.upstream(route.upstream);
            let of = |read: fn((usize, usize)) -> usize| {
                let upstream = Arc::clone(upstream);
                move || read(upstream.of_route(bulkhead)) as f64
            };
            let label = [route.name.as_str()];
            metrics.gauge(
                &names::ROUTE_IN_FLIGHT,
                &label,
                of(|(in_flight, _)| in_flight),
            );
            metrics.gauge(&names::ROUTE_QUEUED, &label, of(|(_, queued)| queued));
        }
    }
    for upstream in site.fetcher.upstreams() {
        let of = |read: fn(&Upstream) -> usize| {
            let upstream = Arc::clone(upstream);
            move || read(&upstream) as f64
        };
        let label = [upstream.name()];
        metrics.gauge(&names::ORIGIN_IN_FLIGHT, &label, of(Upstream::in_flight));
        metrics.gauge(&names::ORIGIN_QUEUED, &label, of(Upstream::queued));
        metrics.gauge(&names::ORIGIN_STREAMS, &label, of(Upstream::streams));
        metrics.gauge(&names::ORIGIN_BUDGET, &label, of(Upstream::budget));
        let read = Arc::clone(upstream);
        metrics.gauge(&names::ORIGIN_BREAKER, &label, move || {
            match read.circuit().state() {
                breaker::State::Closed => 0.0,
                breaker::State::HalfOpen => 1.0,
                breaker::State::Open => 2.0,
            }
        });
        let read = Arc::clone(upstream);
        metrics.count_from(&names::ORIGIN_BREAKER_OPENED, &label, move || {
            read.circuit().openings() as f64
        });
        let read = Arc::clone(upstream);
        metrics.count_from(&names::ORIGIN_RETRIES, &label, move || {
            read.retries() as f64
        });
        metrics.gauge(
            &names::ORIGIN_SERVERS,
            &label,
            of(|upstream| upstream.servers().len()),
        );
        of_servers(
            metrics,
            &names::ORIGIN_SERVER_IN_FLIGHT,
            upstream,
            |upstream, server| upstream.in_flight_at(server.id()) as f64,
        );
        of_servers(
            metrics,
            &names::ORIGIN_SERVER_EJECTED,
            upstream,
            |upstream, server| f64::from(u8::from(upstream.is_ejected(server.id()))),
        );
        if !upstream.named().is_empty() {
            for &result in ResolveResult::ALL {
                let read = Arc::clone(upstream);
                let labels = [upstream.name(), result.label()];
                metrics.count_from(&names::ORIGIN_RESOLVES, &labels, move || {
                    read.resolves(result) as f64
                });
            }
        }
        if upstream.spec().health.is_some() {
            health_gauges(metrics, upstream);
        }
    }
}

fn health_gauges(metrics: &Metrics, upstream: &Arc<Upstream>) {
    let name = upstream.name();
    let read = Arc::clone(upstream);
    metrics.gauge(&names::ORIGIN_ALL_ILL, &[name], move || {
        f64::from(u8::from(read.is_all_ill()))
    });
    of_servers(metrics, &names::ORIGIN_SERVER_UP, upstream, |_, server| {
        f64::from(u8::from(server.seen().is_well()))
    });
    let read = Arc::clone(upstream);
    metrics.series_from(&names::ORIGIN_PROBES, name, move || {
        let servers = read.servers();
        let results = servers.iter().flat_map(|server| {
            let of = |result: &ProbeResult| {
                let labels = [read.name(), server.name(), result.label()];
                let labels = labels.map(str::to_owned).to_vec();
                (labels, server.seen().probes(*result) as f64)
            };
            ProbeResult::ALL.iter().map(of)
        });
        results.collect()
    });
}

/// A series for each server there is, as they come and go.
fn of_servers(
    metrics: &Metrics,
    family: &'static names::Family,
    upstream: &Arc<Upstream>,
    read: fn(&Upstream, &origin::Server) -> f64,
) {
    let upstream = Arc::clone(upstream);
    let name = upstream.name().to_owned();
    metrics.series_from(family, &name, move || {
        let servers = upstream.servers();
        let of = |server: &Arc<origin::Server>| {
            let labels = [upstream.name(), server.name()];
            let labels = labels.map(str::to_owned).to_vec();
            (labels, read(&upstream, server))
        };
        servers.iter().map(of).collect()
    });
}
