//! Assembly: a policy becomes a running proxy. Wired once, top to bottom; [`leave`] is how it ends.

mod leave;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use pingora::listeners::ListenerConfig;
use pingora::protocols::l4::stream::L4BufferSettings;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admin::{self, Admin, Health, State};
use crate::cache::memory::Memory;
use crate::cache::store::Store;
use crate::clock;
use crate::config::policy::Policy;
use crate::fetch::{Fetcher, Limits};
use crate::front;
use crate::front::guests::{Guests, Told};
use crate::front::tls::{self, Certificates};
use crate::front::watch::{SWEEP, Watch};
use crate::front::{Door, Front, Site};
use crate::origin::Upstream;
use crate::rules::encoding::Coding;
use crate::telemetry::{self, Metrics, Telemetry, names};

/// Serves until told to stop.
///
/// # Errors
/// An address that cannot be had, a log that cannot be opened, a certificate file that cannot be read; for people.
pub fn run(policy: Policy) -> Result<(), String> {
    let telemetry = telemetry::start(&policy.log.access, policy.log.level, &policy.log.hide_query)
        .map_err(|e| format!("log: {e}"))?;
    let listen = free(policy.listen.address)?;
    let redirect = policy.listen.redirect_from.map(free).transpose()?;
    let certificates = match &policy.listen.tls {
        Some(tls) => Some(Certificates::load(&tls.certificates)?),
        None => None,
    };
    let health = Health::new();
    let site = site(policy, &telemetry, &health)?;
    gauges(&telemetry.metrics, &site);
    let tls = match (&certificates, &site.policy.load().listen.tls) {
        (Some(certificates), Some(tls)) => {
            certificates
                .watch()
                .map_err(|e| format!("cannot start a thread: {e}"))?;
            certificate_gauges(&telemetry.metrics, certificates);
            Some(tls::acceptor(
                tls,
                certificates,
                offered(site.policy.load().listen.http2),
            )?)
        }
        _ => None,
    };
    readiness(&health, &site, listen);
    let policy = site.policy.load_full();
    let _admin = match policy.admin.address {
        Some(address) => {
            let admin = Admin {
                metrics: Arc::clone(&telemetry.metrics),
                health: Arc::clone(&health),
            };
            Some(admin::start(address, admin).map_err(|e| e.to_string())?)
        }
        None => None,
    };
    sweep(&site)?;
    tracing::info!(address = %listen, threads = policy.listen.threads, "listening");
    let mut doors = vec![(
        listen,
        Door {
            tls,
            redirect: None,
        },
    )];
    doors.extend(redirect.map(|address| {
        let door = Door {
            tls: None,
            redirect: Some(policy.listen.redirect_port.unwrap_or(listen.port())),
        };
        (address, door)
    }));
    let served = serve(&policy, doors, &site, &health);
    telemetry.close();
    served
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

/// Whether the address can be had, told before the engine is asked for it: it can only panic.
fn free(address: SocketAddr) -> Result<SocketAddr, String> {
    TcpListener::bind(address)
        .and_then(|listener| listener.local_addr())
        .map_err(|e| format!("cannot listen on {address}: {e}"))
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
    let watched = upstreams
        .iter()
        .map(|upstream| metrics.upstream(upstream.name()))
        .collect();
    let told = Told {
        shed: metrics.counter(&names::CONNECTIONS_SHED, &[]),
        refused_client: metrics.counter(&names::CONNECTIONS_REFUSED, &["client"]),
        refused_full: metrics.counter(&names::CONNECTIONS_REFUSED, &["full"]),
    };
    let guests = Guests::new(room(&policy), told);
    let (asked, most) = (policy.listen.max_connections, guests.most(&policy.listen));
    if asked > most {
        tracing::warn!(
            asked,
            most,
            "open files allow fewer connections than `max_connections`"
        );
    }
    Ok(Arc::new(Site {
        guests: Arc::new(guests),
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

/// How many connections of clients the process's open files leave room for, once it may have as many as the system lets
/// it: origins, the admin listener and logs keep theirs.
fn room(policy: &Policy) -> usize {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limits.maximum,
        ..limits
    };
    // Where that is not allowed, what was allowed before still is.
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limits.maximum,
        Err(_) => limits.current,
    };
    let files = files.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    let servers = policy
        .upstreams
        .iter()
        .map(|upstream| upstream.servers.len() * upstream.max_in_flight + upstream.max_streams);
    let kept = servers.sum::<usize>().min(files / 4) + OWN_FILES.min(files / 4);
    (files - kept).max(1)
}

/// Descriptors of the process itself: the admin listener's connections, logs, runtimes, certificates being read.
const OWN_FILES: usize = 256;

fn serve(
    policy: &Policy,
    doors: Vec<(SocketAddr, Door)>,
    site: &Arc<Site>,
    health: &Health,
) -> Result<(), String> {
    let conf = ServerConf {
        threads: policy.listen.threads,
        // One worker has nobody to share with, and is cheaper without the means to.
        work_stealing: policy.listen.threads > 1,
        listener_tasks_per_fd: policy.listen.threads.clamp(1, 4),
        // Once told to stop it sleeps for so long, while we wait for who is inside; then the process ends.
        grace_period_seconds: Some(policy.listen.drain.as_secs() + 60),
        // The engine's own timers need a thread that wakes a hundred times a second, and keep what is cancelled.
        fast_timeout_to_tokio_threshold_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    for (address, door) in doors {
        // Each has workers of its own; to send people elsewhere one is enough.
        let threads = door.redirect.map(|_| 1);
        let mut front = Service::new("front".into(), Front::new(Arc::clone(site), door));
        front.threads = threads;
        front.add_listener(
            ListenerConfig::tcp(address.to_string()).l4_buffer(L4BufferSettings::unbuffered()),
        );
        server.add_service(front);
    }
    leave::run_until_told(server, site, health)
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

fn readiness(health: &Health, site: &Arc<Site>, listen: SocketAddr) {
    let listens = AtomicBool::new(false);
    health.ready_when("listener", move || {
        let there = || TcpStream::connect_timeout(&reachable(listen), SWEEP).is_ok();
        // Once it is there it stays.
        if listens.load(Ordering::Relaxed) || there() {
            listens.store(true, Ordering::Relaxed);
            State::Ok(format!("{listen}"))
        } else {
            State::Failing(format!("{listen} is not there yet"))
        }
    });
    let servers: usize = site
        .fetcher
        .upstreams()
        .iter()
        .map(|upstream| upstream.budget())
        .sum();
    health.ready_when("config", || State::Ok("valid".into()));
    // Which of them are well is known once they are probed.
    health.ready_when("origins", move || {
        State::Ok(format!("a budget of {servers} requests in flight"))
    });
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
    }
}
