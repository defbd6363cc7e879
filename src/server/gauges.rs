//! What is told at each scrape, of whatever is in force by then.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::policy::Route;
use crate::fleet::Standing;
use crate::front::tls::Certificates;
use crate::front::{InForce, Site};
use crate::limits::fleet;
use crate::origin::{Bulkhead, Server, Upstream};
use crate::rules::breaker;
use crate::rules::encoding::Coding;
use crate::rules::purge::Kind;
use crate::snapshot::Skipped;
use crate::telemetry::metrics::Series;
use crate::telemetry::names::Family;
use crate::telemetry::{Metrics, ProbeResult, ResolveResult, names};

pub fn certificates(metrics: &Metrics, certificates: &Arc<Certificates>) {
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

pub fn site(metrics: &Metrics, in_force: &InForce) {
    let told = Told { metrics, in_force };
    told.cache();
    told.snapshot();
    told.clients();
    told.limits();
    told.fleet();
    told.lists();
    told.routes();
    told.upstreams();
    told.servers();
}

struct Told<'a> {
    metrics: &'a Metrics,
    in_force: &'a InForce,
}

impl Told<'_> {
    fn cache(&self) {
        self.gauge(&names::CACHE_BYTES, |site| site.fetcher.memory.used());
        self.gauge(&names::CACHE_BYTES_MAX, |site| site.fetcher.memory.cap());
        self.gauge(&names::CACHE_ENTRIES, |site| {
            site.fetcher.store.size().0 as usize
        });
        self.gauge(&names::FLIGHTS, |site| {
            site.fetcher.counts.flying.load(Ordering::Relaxed)
        });
        self.gauge(&names::HIT_FOR_MISS, |site| site.fetcher.marks());
        self.count(&names::CACHE_STORED, &[], |site| {
            site.fetcher.counts.stored.load(Ordering::Relaxed)
        });
        self.count(&names::CACHE_EVICTED, &[], |site| {
            site.fetcher.store.evicted()
        });
        self.count(&names::CACHE_INVALIDATED, &[], |site| {
            site.fetcher.store.invalidated()
        });
        for kind in Kind::ALL {
            for (soft, action) in [(false, "hard"), (true, "soft")] {
                self.count(&names::PURGES, &[kind.word(), action], move |site| {
                    site.fetcher.store.purges_of(kind, soft)
                });
            }
        }
        self.count(&names::PURGED_ENTRIES, &[], |site| {
            site.fetcher.store.purged_entries()
        });
        for coding in Coding::ALL {
            self.count(&names::CACHE_ENCODED, &[coding.name()], move |site| {
                site.fetcher.encoder.counts.made[coding as usize].load(Ordering::Relaxed)
            });
        }
        self.count(&names::CACHE_ENCODED, &["no_shorter"], |site| {
            let counts = &site.fetcher.encoder.counts;
            counts.no_shorter.load(Ordering::Relaxed)
        });
        self.count(&names::CACHE_ENCODED, &["put_off"], |site| {
            site.fetcher.encoder.counts.put_off.load(Ordering::Relaxed)
        });
    }

    fn snapshot(&self) {
        self.gauge(&names::SNAPSHOT_PAGES, |site| {
            site.fetcher.snapshot.told().pages
        });
        self.gauge(&names::SNAPSHOT_BYTES, |site| {
            usize::try_from(site.fetcher.snapshot.told().bytes).unwrap_or(usize::MAX)
        });
        self.count(&names::SNAPSHOT_WRITTEN, &[], |site| {
            site.fetcher.snapshot.written()
        });
        for why in Skipped::ALL {
            self.count(&names::SNAPSHOT_SKIPPED, &[why.label()], move |site| {
                site.fetcher.snapshot.skips(why)
            });
        }
    }

    fn clients(&self) {
        self.gauge(&names::WAITERS, |site| site.waiters.load(Ordering::Relaxed));
        self.gauge(&names::CONNECTIONS_OPEN, |site| site.guests.open());
    }

    fn limits(&self) {
        let of = |read: fn((usize, u64)) -> f64| {
            move |site: &Site| {
                let limits = site.limits.all().iter();
                limits
                    .map(|limit| (vec![limit.spec.name.clone()], read(limit.clients())))
                    .collect()
            }
        };
        self.series(&names::LIMIT_CLIENTS, of(|(clients, _)| clients as f64));
        self.series(
            &names::LIMIT_UNREMEMBERED,
            of(|(_, unremembered)| unremembered as f64),
        );
    }

    fn fleet(&self) {
        let of = |read: fn(&fleet::State) -> f64| {
            move |site: &Site| {
                let told = site.limits.fleet().map(|state| (Vec::new(), read(state)));
                told.into_iter().collect()
            }
        };
        self.series(&names::REDIS_UP, of(|s| f64::from(u8::from(s.is_up()))));
        self.series(&names::FLEET_PROXIES, of(|s| s.proxies().into()));
        self.series(&names::FLEET_HOT, of(|s| s.hot() as f64));
        let of = |read: fn(&Standing) -> f64| {
            move |site: &Site| {
                let told = site.fleet.standing().map(|one| (Vec::new(), read(&one)));
                told.into_iter().collect()
            }
        };
        self.series(
            &names::FLEET_BEHIND,
            of(|one| f64::from(u8::from(one.behind))),
        );
        self.series(&names::FLEET_QUEUED, of(|one| one.queued as f64));
        self.series(&names::FLEET_GAPS, |site| {
            let gaps = site.fleet.gaps() as f64;
            let told = site.fleet.standing().map(|_| (Vec::new(), gaps));
            told.into_iter().collect()
        });
    }

    fn lists(&self) {
        self.series(&names::LIST_ENTRIES, |site| {
            let entries = site.guard.entries();
            let told = |(name, entries): (&str, usize)| (owned(&[name]), entries as f64);
            entries.map(told).collect()
        });
    }

    /// Those of routes that may have only some of the permits, and which are in fallback.
    fn routes(&self) {
        self.series(&names::FALLBACK_ACTIVE, |site| {
            let routes = site.policy.routes.iter();
            let told = |route: &Arc<Route>| {
                let on = site.reserve.is_on(route);
                (vec![route.name.clone()], f64::from(u8::from(on)))
            };
            routes.map(told).collect()
        });
        self.series(&names::FALLBACK_TURNS, |site| {
            let turns = site.reserve.turns();
            let told = |(upstream, turns): (&str, u64)| (owned(&[upstream]), turns as f64);
            turns.map(told).collect()
        });
        let of = |read: fn((usize, usize)) -> usize| {
            move |site: &Site| {
                let bound = |route: &Arc<Route>| route.bulkhead.map(|b| (Arc::clone(route), b));
                let routes = site.policy.routes.iter().filter_map(bound);
                let told = |(route, bulkhead): (Arc<Route>, Bulkhead)| {
                    let counts = site.fetcher.upstream(route.upstream).of_route(bulkhead);
                    (vec![route.name.clone()], read(counts) as f64)
                };
                routes.map(told).collect()
            }
        };
        self.series(&names::ROUTE_IN_FLIGHT, of(|(in_flight, _)| in_flight));
        self.series(&names::ROUTE_QUEUED, of(|(_, queued)| queued));
    }

    fn upstreams(&self) {
        let number = |read: fn(&Upstream) -> usize| move |one: &Upstream| Some(read(one) as f64);
        self.of_upstreams(&names::ORIGIN_IN_FLIGHT, number(Upstream::in_flight));
        self.of_upstreams(&names::ORIGIN_QUEUED, number(Upstream::queued));
        self.of_upstreams(&names::ORIGIN_STREAMS, number(Upstream::streams));
        self.of_upstreams(&names::ORIGIN_BUDGET, number(Upstream::budget));
        self.of_upstreams(&names::ORIGIN_SERVERS, number(|one| one.servers().len()));
        self.of_upstreams(&names::ORIGIN_BREAKER, |one| {
            Some(match one.circuit().state() {
                breaker::State::Closed => 0.0,
                breaker::State::HalfOpen => 1.0,
                breaker::State::Open => 2.0,
            })
        });
        self.of_upstreams(&names::ORIGIN_BREAKER_OPENED, |one| {
            Some(one.circuit().openings() as f64)
        });
        self.of_upstreams(&names::ORIGIN_RETRIES, |one| Some(one.retries() as f64));
        self.of_upstreams(&names::ORIGIN_ALL_ILL, |one| {
            is_probed(one).then(|| f64::from(u8::from(one.is_all_ill())))
        });
        self.each_upstream(&names::ORIGIN_RESOLVES, |one| {
            let all = ResolveResult::ALL
                .iter()
                .filter(|_| !one.named().is_empty());
            let told = |&result: &ResolveResult| {
                let labels = [one.name(), result.label()];
                (owned(&labels), one.resolves(result) as f64)
            };
            all.map(told).collect()
        });
    }

    fn servers(&self) {
        self.of_servers(&names::ORIGIN_SERVER_IN_FLIGHT, |one, server| {
            Some(one.in_flight_at(server.id()) as f64)
        });
        self.of_servers(&names::ORIGIN_SERVER_EJECTED, |one, server| {
            Some(f64::from(u8::from(one.is_ejected(server.id()))))
        });
        self.of_servers(&names::ORIGIN_SERVER_UP, |one, server| {
            is_probed(one).then(|| f64::from(u8::from(server.seen().is_well())))
        });
        self.each_upstream(&names::ORIGIN_PROBES, |one| {
            let servers = one.servers();
            let probed = servers.iter().filter(|_| is_probed(one));
            let results = probed.flat_map(|server| {
                let of = |result: &ProbeResult| {
                    let labels = [one.name(), server.name(), result.label()];
                    (owned(&labels), server.seen().probes(*result) as f64)
                };
                ProbeResult::ALL.iter().map(of)
            });
            results.collect()
        });
    }

    fn gauge(&self, family: &'static Family, read: fn(&Site) -> usize) {
        let in_force = Arc::clone(self.in_force);
        self.metrics
            .gauge(family, &[], move || read(&in_force.load()) as f64);
    }

    fn count(
        &self,
        family: &'static Family,
        labels: &[&str],
        read: impl Fn(&Site) -> u64 + Send + Sync + 'static,
    ) {
        let in_force = Arc::clone(self.in_force);
        self.metrics
            .count_from(family, labels, move || read(&in_force.load()) as f64);
    }

    fn series(
        &self,
        family: &'static Family,
        read: impl Fn(&Site) -> Series + Send + Sync + 'static,
    ) {
        let in_force = Arc::clone(self.in_force);
        self.metrics
            .series_from(family, "site", move || read(&in_force.load()));
    }

    fn each_upstream(
        &self,
        family: &'static Family,
        read: impl Fn(&Upstream) -> Series + Send + Sync + 'static,
    ) {
        self.series(family, move |site| {
            let upstreams = site.fetcher.upstreams().iter();
            upstreams.flat_map(|upstream| read(upstream)).collect()
        });
    }

    /// A series for each upstream of which there is something to tell.
    fn of_upstreams(
        &self,
        family: &'static Family,
        read: impl Fn(&Upstream) -> Option<f64> + Send + Sync + 'static,
    ) {
        self.each_upstream(family, move |one| {
            let told = read(one).map(|value| (owned(&[one.name()]), value));
            told.into_iter().collect()
        });
    }

    /// A series for each server there is, as they come and go.
    fn of_servers(
        &self,
        family: &'static Family,
        read: impl Fn(&Upstream, &Server) -> Option<f64> + Send + Sync + 'static,
    ) {
        self.each_upstream(family, move |one| {
            let servers = one.servers();
            let told = |server: &Arc<Server>| {
                let labels = owned(&[one.name(), server.name()]);
                read(one, server).map(|value| (labels, value))
            };
            servers.iter().filter_map(told).collect()
        });
    }
}

fn is_probed(upstream: &Upstream) -> bool {
    upstream.spec().health.is_some()
}

fn owned(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|&label| label.to_owned()).collect()
}
