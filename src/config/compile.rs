//! From what was written to what is believed, with every contradiction told.
//!
//! Sizes become bytes, upstreams places in a list. What was already told as a mistake is not told
//! again for its consequences.

mod balancing;
mod challenge;
mod guarding;
mod identity;
mod limiting;
mod operating;
mod sharing;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use ipnet::IpNet;

use super::file::File;
use super::nearest::nearest;
use super::options::{self, Backend};
use super::policy::{Cache, Listen, Log, Policy, Pulled, PurgeFrom, Route, Tls};
use super::report::{At, Mistake};
use super::table::Table;
use super::walk::{Env, Given};
use super::words::{Health, Pattern, Protocol, Server};
use crate::origin::{
    Asking, Check, HealthSpec, Place, ResolveSpec, Rules, ServerSpec, UpstreamSpec,
};
use crate::rules::breaker;
use crate::rules::claims::ClaimedBy;
use crate::rules::client::IPV6_PREFIX;
use crate::rules::health::{Expects, Hysteresis};
use crate::rules::identity::{Harmless, OWN_PREFIXES};
use crate::rules::request::HeadLimits;
use crate::rules::resolve::Bounds;
use crate::rules::storing::StoreTerms;
use crate::rules::target::{self, QueryRules};

pub(super) use operating::{socket, state};

/// What a config asks of the world around it, so that a test can answer.
pub struct World<'a> {
    pub env: Env<'a>,
    /// Whether a file can be read.
    pub readable: &'a dyn Fn(&Path) -> io::Result<()>,
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// Whether a certificate can be used, or why not.
    pub certificate: &'a dyn Fn(&Path) -> Result<(), String>,
    /// A name nobody else has.
    pub unique: &'a dyn Fn() -> String,
    pub cores: usize,
}

/// Believes what was written, or tells what contradicts itself or the world. `text`: of the file.
pub fn compile(file: &File, text: &str, world: &World<'_>, mistakes: &mut Vec<Mistake>) -> Policy {
    let mut compile = Compile {
        world,
        mistakes,
        secrets: Vec::new(),
    };
    let upstreams = compile.upstreams(&file.upstreams);
    let (routes, table) = compile.routes(file, &upstreams);
    let mut limits = compile.limits(file, &routes);
    compile.room_for_clients(&file.limits, &mut limits, &file.cache);
    let fleet = compile.fleet(&file.redis, &file.limits);
    let identity = compile.identity(&file.identity, &file.limits, fleet.as_ref());
    Policy {
        listen: compile.listen(&file.listen),
        cache: compile.cache(&file.cache),
        fallback: compile.fallback(&file.fallback),
        challenge: compile.challenge(file, &routes),
        upstreams,
        lists: compile.lists(&file.lists),
        geo: compile.geo(&file.geo),
        rules: compile.rules(file, text, &routes, &limits),
        routes,
        credentials: identity::credentials(&identity),
        identity,
        limits,
        fleet,
        admin: compile.admin(&file.admin, &file.listen),
        state: state(&file.state),
        log: Log {
            access: file.log.access.value.clone(),
            level: file.log.level.value.0,
            hide_query: file.log.hide_query.value.clone(),
        },
        secrets: compile.secrets,
        file: None,
        table,
    }
}

struct Compile<'a, 'w> {
    world: &'a World<'w>,
    mistakes: &'a mut Vec<Mistake>,
    /// Files of secrets that were read.
    secrets: Vec<PathBuf>,
}

impl Compile<'_, '_> {
    fn listen(&mut self, listen: &options::Listen) -> Listen {
        let (head, target) = (listen.max_head.value.0, listen.max_target.value.0);
        if target > head && listen.max_target.at.is_written() {
            let what = "`max_target` is larger than `max_head`, which holds it";
            self.tell(&listen.max_target.at, what, "raise `max_head` as well");
        }
        Listen {
            address: listen.address.value,
            tls: self.tls(listen),
            redirect_from: self.redirect_from(listen),
            redirect_port: listen
                .redirect_port
                .value
                .and_then(|port| u16::try_from(port).ok()),
            max_connections: listen.max_connections.value,
            max_connections_per_client: listen.max_connections_per_client.value,
            client_ipv6_prefix: u8::try_from(listen.client_ipv6_prefix.value)
                .unwrap_or(IPV6_PREFIX),
            trusted_proxies: self.trusted_proxies(listen),
            claimed_by: listen.client_ip_header.value,
            proxy_protocol: listen.proxy_protocol.value,
            http2: listen.http2.value,
            h2c: listen.h2c.value,
            max_streams: listen.max_streams.value,
            threads: match listen.threads.value {
                0 => self.world.cores.max(1),
                threads => threads,
            },
            head_deadline: listen.head_deadline.value,
            idle_timeout: listen.idle_timeout.value,
            drain: listen.drain.value,
            body_timeout: listen.body_timeout.value,
            min_rate: listen.min_rate.value.0,
            min_rate_grace: listen.min_rate_grace.value,
            head: HeadLimits {
                head_bytes: to_usize(head),
                fields: listen.max_fields.value,
                target_bytes: to_usize(target.min(head)),
            },
            max_body: listen.max_body.value.0,
            request_buffer: to_usize(listen.request_buffer.value.0),
        }
    }

    fn trusted_proxies(&mut self, listen: &options::Listen) -> Vec<IpNet> {
        let trusted = &listen.trusted_proxies;
        if trusted.value.is_empty() && trusted.at != At::Told {
            if listen.proxy_protocol.value {
                let what =
                    "with `proxy_protocol` only trusted proxies are let in, and there are none";
                let help = "add `trusted_proxies` with their addresses or networks";
                self.tell(&listen.proxy_protocol.at, what, help);
            }
            if listen.client_ip_header.value != ClaimedBy::XForwardedFor {
                let what = "nobody is trusted to say who clients are";
                let help = "add `trusted_proxies`, or leave it out";
                self.tell(&listen.client_ip_header.at, what, help);
            }
        }
        trusted.value.iter().map(|network| network.0).collect()
    }

    fn tls(&mut self, listen: &options::Listen) -> Option<Tls> {
        let certificates = &listen.certificates;
        let paths = certificates.value.clone().unwrap_or_default();
        for path in &paths {
            if let Err(why) = (self.world.certificate)(path) {
                let what = format!("the certificate {} can't be used: {why}", path.display());
                let help = "a folder with fullchain.pem and privkey.pem, or tls.crt and tls.key; or one PEM file with both";
                self.tell(&certificates.at, what, help);
            }
        }
        let client_ca = listen.client_ca.value.clone();
        if let Some(ca) = &client_ca
            && let Err(error) = (self.world.readable)(ca)
        {
            let what = format!("{}: {error}", ca.display());
            let help = "a file of certificates in PEM, readable by this user";
            self.tell(&listen.client_ca.at, what, help);
        }
        if paths.is_empty() {
            for (option, is_given) in [
                (&listen.client_ca.at, client_ca.is_some()),
                (
                    &listen.redirect_from.at,
                    listen.redirect_from.value.is_some(),
                ),
            ] {
                if is_given && certificates.at != At::Told {
                    let what = "this needs TLS, and no certificate is given";
                    self.tell(option, what, "add `certificates`, or leave it out");
                }
            }
            return None;
        }
        if listen.h2c.value {
            let what =
                "`h2c` is HTTP/2 without TLS, and `certificates` make the listener speak TLS";
            self.tell(
                &listen.h2c.at,
                what,
                "leave it out: `http2` offers it over TLS",
            );
        }
        Some(Tls {
            certificates: paths,
            client_ca,
        })
    }

    fn redirect_from(&mut self, listen: &options::Listen) -> Option<SocketAddr> {
        if listen.redirect_from.value.is_none() && listen.redirect_port.value.is_some() {
            let what = "nobody is sent to this port";
            self.tell(
                &listen.redirect_port.at,
                what,
                "add `redirect_from`, or leave it out",
            );
        }
        let from = listen.redirect_from.value?;
        if from == listen.address.value && from.port() != 0 {
            let what = format!("HTTPS and the redirect to it can't both have {from}");
            let help = "plain HTTP is on port 80, HTTPS on 443";
            self.tell(&listen.redirect_from.at, what, help);
        }
        Some(from)
    }

    fn cache(&mut self, cache: &options::Cache) -> Cache {
        let memory = cache.max_memory.value.0;
        let mut largest = cache.max_object_size.value.0;
        if !cache.max_object_size.at.is_written() {
            largest = largest.min(memory / 4);
        } else if largest > memory && cache.max_memory.at != At::Told {
            let what = "`max_object_size` is larger than `max_memory`, which holds it";
            self.tell(
                &cache.max_object_size.at,
                what,
                "a quarter of `max_memory` is plenty",
            );
        }
        Cache {
            max_memory: to_usize(memory),
            max_object_size: largest,
            max_waiters: cache.max_waiters.value,
            max_wait: cache.max_wait.value,
            max_variants: cache.max_variants.value,
            pass_buffer: to_usize(cache.pass_buffer.value.0),
            hit_for_miss: cache.hit_for_miss.value,
            cdn_id: match &cache.cdn_id.value {
                Some(id) => id.0.clone(),
                None => (self.world.unique)(),
            },
        }
    }

    fn upstreams(&mut self, written: &[options::Upstream]) -> Vec<UpstreamSpec> {
        if written.is_empty() && self.mistakes.is_empty() {
            let help = "add `[[upstream]]` with `servers = [\"http://127.0.0.1:8000\"]`, or run with --origin URL";
            self.tell(&At::Default, "no upstream to stand in front of", help);
        }
        let specs: Vec<_> = written
            .iter()
            .map(|upstream| self.upstream(upstream))
            .collect();
        let names = written.iter().zip(&specs).map(|(written, spec)| {
            let at = pick(&written.name.at, &written.at);
            (spec.name.as_str(), at)
        });
        self.twins("upstream", names);
        let cookies = written.iter().filter_map(|upstream| {
            let cookie = upstream.sticky.value.as_ref()?;
            Some((cookie.0.as_str(), &upstream.sticky.at))
        });
        self.twins("upstream's cookie", cookies);
        specs
    }

    fn upstream(&mut self, upstream: &options::Upstream) -> UpstreamSpec {
        let servers = &upstream.servers;
        if servers.value.is_empty() && servers.at != At::Told {
            let at = pick(&servers.at, &upstream.at);
            self.tell(
                at,
                "an upstream without servers",
                "add `servers = [\"http://127.0.0.1:8000\"]`",
            );
        }
        self.roles(servers);
        if let Some(ca) = &upstream.ca.value
            && let Err(error) = (self.world.readable)(ca)
        {
            let what = format!("`ca`: {}: {error}", ca.display());
            self.tell(
                &upstream.ca.at,
                what,
                "a file of certificates in PEM, readable by this user",
            );
        }
        let name = match (&upstream.name.value, servers.value.first()) {
            (Some(name), _) => name.0.clone(),
            (None, Some(server)) => server.address.authority(),
            (None, None) => String::new(),
        };
        UpstreamSpec {
            name,
            servers: servers.value.iter().map(server).collect(),
            resolve: self.resolve(upstream),
            max_in_flight: upstream.max_in_flight.value.is(),
            queue: upstream.queue.value,
            queue_wait: upstream.queue_wait.value,
            balance: self.balance(upstream),
            hash_by: upstream.hash_by.value.clone(),
            sticky: self.sticky(upstream),
            rules: Rules {
                eject_after: u32::try_from(upstream.eject_after.value).unwrap_or(u32::MAX),
                eject_for: upstream.eject_for.value,
                eject_share: u32::try_from(upstream.eject_share.value).unwrap_or(u32::MAX),
                eject_most: upstream.eject_most.value,
                panic_below: upstream.panic_below.value,
                slow_start: upstream.slow_start.value,
            },
            breaker: breaker::Rules {
                after: u32::try_from(upstream.breaker_after.value).unwrap_or(u32::MAX),
                share: u32::try_from(upstream.breaker_share.value).unwrap_or(u32::MAX),
            },
            retries: upstream.retries.value as u64,
            max_streams: upstream.max_streams.value,
            connect_timeout: upstream.connect_timeout.value,
            first_byte_timeout: upstream.first_byte_timeout.value,
            between_bytes_timeout: upstream.between_bytes_timeout.value,
            total_timeout: upstream.total_timeout.value,
            keepalive: upstream.keepalive.value,
            protocol: upstream.protocol.value,
            tls_verify: upstream.verify.value,
            tls_ca: upstream.ca.value.clone(),
            health: self.health(upstream),
        }
    }

    fn health(&mut self, upstream: &options::Upstream) -> Option<HealthSpec> {
        self.idle_health(upstream);
        let asking = |target: &str| Asking {
            target: target.to_owned(),
            host: [&upstream.health_host, &upstream.host]
                .into_iter()
                .find_map(|host| host.value.as_ref())
                .map(|host| host.0.clone()),
            fields: upstream
                .health_headers
                .value
                .iter()
                .map(|field| (field.0.clone(), field.1.clone()))
                .collect(),
        };
        let check = match upstream.health.value {
            Health::Off => return None,
            Health::Tcp => Check::Tcp,
            Health::Http => Check::Http {
                method: upstream.health_method.value.0.clone(),
                asking: asking(&upstream.health_path.value.0),
                expects: self.expects(upstream),
            },
            Health::Grpc => {
                if upstream.protocol.value == Protocol::Http1 {
                    let what = "`grpc` needs HTTP/2, and `protocol` is `http1`";
                    self.tell(
                        &upstream.health.at,
                        what,
                        "leave `protocol` out, or make it `http2`",
                    );
                }
                Check::Grpc {
                    asking: asking("/grpc.health.v1.Health/Check"),
                    service: upstream.health_service.value.clone().unwrap_or_default(),
                }
            }
        };
        Some(HealthSpec {
            check,
            interval: upstream.health_interval.value,
            timeout: upstream.health_timeout.value,
            hysteresis: Hysteresis {
                rise: upstream.health_rise.value,
                fall: upstream.health_fall.value,
            },
        })
    }

    fn expects(&mut self, upstream: &options::Upstream) -> Expects {
        let statuses = &upstream.health_status;
        if statuses.value.is_empty() && statuses.at != At::Told {
            let what = "without any status no answer would do";
            self.tell(
                &statuses.at,
                what,
                "leave it out, or name some: `[\"200-399\"]`",
            );
        }
        let (body, json) = (&upstream.health_body, &upstream.health_json);
        if upstream.health_method.value.0 == Method::HEAD {
            for (at, is_given) in [
                (&body.at, body.value.is_some()),
                (&json.at, json.value.is_some()),
            ] {
                if is_given {
                    let what = "the answer to a HEAD has no body to look into";
                    self.tell(at, what, "leave it out, or make `health_method` `GET`");
                }
            }
        }
        Expects {
            statuses: statuses.value.iter().map(|some| some.0).collect(),
            body: body.value.clone(),
            json: json.value.as_ref().map(|member| member.0.clone()),
        }
    }

    /// Tells every option that the kind of health check has no use for. What is switched off by a word may keep its
    /// options.
    fn idle_health(&mut self, upstream: &options::Upstream) {
        use Health::{Grpc, Http, Tcp};
        let health = &upstream.health;
        if health.at == At::Told || (health.at.is_written() && health.value == Health::Off) {
            return;
        }
        let all: [(&str, &At, &[Health]); 12] = [
            (
                "health_interval",
                &upstream.health_interval.at,
                &[Http, Tcp, Grpc],
            ),
            (
                "health_timeout",
                &upstream.health_timeout.at,
                &[Http, Tcp, Grpc],
            ),
            ("health_rise", &upstream.health_rise.at, &[Http, Tcp, Grpc]),
            ("health_fall", &upstream.health_fall.at, &[Http, Tcp, Grpc]),
            ("health_path", &upstream.health_path.at, &[Http]),
            ("health_method", &upstream.health_method.at, &[Http]),
            ("health_host", &upstream.health_host.at, &[Http, Grpc]),
            ("health_headers", &upstream.health_headers.at, &[Http, Grpc]),
            ("health_status", &upstream.health_status.at, &[Http]),
            ("health_body", &upstream.health_body.at, &[Http]),
            ("health_json", &upstream.health_json.at, &[Http]),
            ("health_service", &upstream.health_service.at, &[Grpc]),
        ];
        for (name, at, kinds) in all {
            if !at.is_written() || kinds.contains(&health.value) {
                continue;
            }
            let kind = kinds[0].word();
            match health.value {
                Health::Off => self.tell(
                    at,
                    format!("`{name}` without a health check"),
                    format!("add `health = \"{kind}\"`, or leave it out"),
                ),
                other => self.tell(
                    at,
                    format!("`{}` has no use for `{name}`", other.word()),
                    format!("leave it out, or make `health` `{kind}`"),
                ),
            }
        }
    }

    fn resolve(&mut self, upstream: &options::Upstream) -> ResolveSpec {
        let (min, max) = (&upstream.resolve_min, &upstream.resolve_max);
        if min.value > max.value {
            let at = pick(&min.at, &max.at);
            let what = "`resolve_min` is longer than `resolve_max`";
            self.tell(at, what, "the former is the least, the latter the most");
        }
        ResolveSpec {
            servers: upstream
                .resolver
                .value
                .iter()
                .map(|server| server.0)
                .collect(),
            family: upstream.resolve_family.value,
            bounds: Bounds {
                min: min.value,
                max: max.value,
            },
        }
    }

    fn routes(&mut self, file: &File, specs: &[UpstreamSpec]) -> (Vec<Arc<Route>>, Table) {
        let (written, upstreams) = (&file.routes, &file.upstreams);
        let mut table = Table::default();
        let mut routes = Vec::with_capacity(written.len());
        for (id, route) in written.iter().enumerate() {
            let upstream = self.upstream_of(route, upstreams, specs);
            let host = upstreams
                .get(upstream)
                .and_then(|upstream| upstream.host.value.as_ref());
            let host = host.map(|host| host.0.clone());
            let purge_from = self.purge_from(&route.purge_from, &file.lists);
            let spec = specs.get(upstream);
            routes.push(Route {
                purge_from,
                ..self.route(id, route, upstream, host, spec)
            });
            self.place(&mut table, id, written);
        }
        let names = written.iter().zip(&routes);
        self.twins(
            "route",
            // Two that nobody named share a place as well, and that is told.
            names.map(|(written, route)| (route.name.as_str(), &written.name.at)),
        );
        (routes.into_iter().map(Arc::new).collect(), table)
    }

    fn route(
        &mut self,
        id: usize,
        route: &options::Route,
        upstream: usize,
        host: Option<String>,
        spec: Option<&UpstreamSpec>,
    ) -> Route {
        let sticky = spec.and_then(|spec| spec.sticky.as_ref());
        let sticky = sticky.map(|sticky| sticky.cookie.as_str());
        let own = OWN_PREFIXES.iter().map(|own| format!("{own}*"));
        let first = route.hosts.value.first().map_or("", |host| host.0.as_str());
        let path = &route.path.value.0;
        let patterns =
            |written: &[Pattern]| written.iter().map(|p| target::Pattern::new(&p.0)).collect();
        let default_ttl = route.default_ttl.value.filter(|ttl| !ttl.is_zero());
        let name = match &route.name.value {
            Some(name) => name.0.clone(),
            None => format!("{first}{path}"),
        };
        Route {
            id,
            upstream,
            priority: route.priority.value,
            pulled: Pulled::default(),
            bulkhead: self.bulkhead(&name, route, spec),
            name,
            cache: route.cache.value,
            store: StoreTerms {
                default_ttl,
                error_ttl: route.error_ttl.value.unwrap_or(match default_ttl {
                    Some(_) => Duration::from_secs(1),
                    None => Duration::ZERO,
                }),
                heuristic_cap: route.heuristic_cap.value,
                stale_while_revalidate: route.stale_while_revalidate.value,
                stale_if_error: Some(route.stale_if_error.value),
                set_cookie: route.set_cookie.value,
                ..StoreTerms::default()
            },
            serve_stale_after: route.serve_stale_after.value,
            eager: route.eager_refresh.value,
            harmless: self.harmless(&route.harmless_cookies, sticky),
            own_cookies: own.chain(sticky.map(str::to_owned)).collect(),
            sticky: sticky.map(str::to_owned),
            query: QueryRules {
                drop: patterns(&route.query_drop.value),
                keep: route.query_keep.value.as_deref().map(patterns),
                sort: route.query_sort.value,
            },
            honor_directives: route.honor_request_directives.value,
            forward_client_address: route.forward_client_address.value,
            accept_encoding: route.accept_encoding.value,
            compress: route.compress.value.clone(),
            added: added(route.security_headers.value),
            hsts: route.hsts.value.and_then(hsts),
            x_cache: route.x_cache.value,
            show_tags: route.show_tags.value,
            status_key: route.cache_status_key.value,
            purge_from: PurgeFrom::default(),
            upstream_host: host,
        }
    }

    /// `own`: a cookie of ours.
    fn harmless(&mut self, written: &Given<Vec<Pattern>>, own: Option<&str>) -> Harmless {
        let patterns = written.value.iter().map(|pattern| pattern.0.as_str());
        let patterns: Vec<_> = patterns.chain(own).collect();
        Harmless::with(&patterns).unwrap_or_else(|bad| {
            let what = format!("`harmless_cookies`: {:?} {}", bad.pattern, bad.why);
            self.tell(
                &written.at,
                what,
                "write cookie names, or beginnings as in `\"ab_*\"`",
            );
            Harmless::default()
        })
    }

    /// The place of the upstream that a route names, or of the only one.
    fn upstream_of(
        &mut self,
        route: &options::Route,
        upstreams: &[options::Upstream],
        specs: &[UpstreamSpec],
    ) -> usize {
        let known = || {
            specs
                .iter()
                .map(|spec| spec.name.as_str())
                .filter(|name| !name.is_empty())
        };
        let is_told = |upstream: &options::Upstream| match &upstream.name.value {
            Some(_) => false,
            None => upstream.name.at == At::Told || upstream.servers.at == At::Told,
        };
        let are_told = upstreams.iter().any(is_told);
        let list = || known().collect::<Vec<_>>().join(", ");
        match &route.upstream.value {
            Some(name) => {
                if let Some(at) = specs.iter().position(|spec| spec.name == name.0) {
                    return at;
                }
                if !are_told && !specs.is_empty() {
                    let help = match nearest(&name.0, known()) {
                        Some(near) => format!("did you mean `\"{near}\"`?"),
                        None => format!("the upstreams are {}", list()),
                    };
                    self.tell(
                        &route.upstream.at,
                        format!("no upstream is called `{}`", name.0),
                        help,
                    );
                }
            }
            None if specs.len() > 1 && route.upstream.at != At::Told => {
                let what = "a route that names no upstream, where there are several";
                let help = format!("add `upstream = \"…\"`: one of {}", list());
                self.tell(&route.at, what, help);
            }
            None => {}
        }
        0
    }

    /// Gives a route its places in the table.
    fn place(&mut self, table: &mut Table, id: usize, written: &[options::Route]) {
        let route = &written[id];
        if route.hosts.at == At::Told || route.path.at == At::Told {
            return;
        }
        let path = &route.path.value.0;
        let hosts = route.hosts.value.iter().map(|host| Some(host.0.as_str()));
        let any = route.hosts.value.is_empty().then_some(None);
        for (index, host) in hosts.chain(any).enumerate() {
            let Err(taken) = table.insert(host, path, id) else {
                continue;
            };
            let place = format!("{}{path}", host.unwrap_or(""));
            let at = pick(&route.path.at, &route.at);
            if taken == id {
                self.tell(
                    route.hosts.element(index),
                    format!("`{place}` twice in one route"),
                    "once will do",
                );
            } else {
                let what = format!("an earlier route has `{place}` already");
                self.tell(
                    at,
                    what,
                    "give one of them another host or path, or make them one",
                );
            }
        }
    }

    /// Tells every name that stands for two, where one of them was written.
    fn twins<'n>(&mut self, what: &str, names: impl Iterator<Item = (&'n str, &'n At)>) {
        let mut seen: Vec<(&str, &At)> = Vec::new();
        for (name, at) in names {
            let earlier = seen.iter().find(|(earlier, _)| *earlier == name);
            if let Some((_, earlier)) = earlier
                && !name.is_empty()
            {
                let at = pick(at, earlier);
                if at.is_written() {
                    let what = format!("another {what} is called `{name}` as well");
                    self.tell(at, what, "give each a `name` of its own");
                }
            }
            seen.push((name, at));
        }
    }

    fn tell(&mut self, at: &At, what: impl Into<String>, help: impl Into<String>) {
        self.mistakes.push(Mistake::new(at, what).help(help));
    }
}

/// The first place if somebody wrote there, else the second.
fn pick<'a>(first: &'a At, second: &'a At) -> &'a At {
    if first.is_written() { first } else { second }
}

fn server(backend: &Backend) -> ServerSpec {
    let Server { tls, host, port } = &backend.address;
    let (place, sni) = match host.parse::<IpAddr>() {
        Ok(address) => (
            Place::Address(SocketAddr::new(address, *port)),
            String::new(),
        ),
        Err(_) => {
            let (host, port) = (host.clone(), *port);
            (
                Place::Name {
                    host: host.clone(),
                    port,
                },
                host,
            )
        }
    };
    ServerSpec {
        place,
        tls: *tls,
        sni,
        authority: backend.address.authority(),
        weight: u32::try_from(backend.weight).unwrap_or(u32::MAX),
        backup: backend.backup,
        max_in_flight: backend.max_in_flight,
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What `security_headers` stands for.
fn added(security: bool) -> Vec<(HeaderName, HeaderValue)> {
    let all = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
        (header::REFERRER_POLICY, "strict-origin-when-cross-origin"),
    ];
    let all = all.map(|(name, value)| (name, HeaderValue::from_static(value)));
    all.into_iter().filter(|_| security).collect()
}

fn hsts(age: Duration) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("max-age={}", age.as_secs())).ok()
}
