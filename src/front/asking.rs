//! What a request asks for: its route, key and class, and the part of it that outlives its head's bytes.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use super::limited::{Admission, Who};
use super::problem;
use crate::cache::entry::Entry;
use crate::cache::key::KeyRef;
use crate::clock::Tick;
use crate::config::policy::{AcceptEncoding, Policy, Route};
use crate::fetch::{Errand, Reason};
use crate::guard::Marks;
use crate::origin::{HashBy, Steer};
use crate::rules::cache_control::RequestDirectives;
use crate::rules::claims;
use crate::rules::client::Client;
use crate::rules::fields::Fields;
use crate::rules::forward::{self, Forward, Kind, Loop};
use crate::rules::host::{KnownHost, Scheme};
use crate::rules::identity::{self, Class};
use crate::rules::rendezvous;
use crate::rules::request::{Method, Request, RequestBody, Version};
use crate::rules::sticky::{self, Without};
use crate::rules::storing::{self, Asked};
use crate::rules::target::{self, Target};
use crate::rules::vary::{AsSent, Codings};
use crate::telemetry::{RequestId, TraceParent};

/// Bytes of a request's head, by position in its inbox: for the log, which is written when the answer is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    from: u32,
    len: u32,
}

impl Span {
    fn of(buf: &[u8], part: &[u8]) -> Span {
        let from = (part.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize);
        if from > buf.len() {
            Span::default()
        } else {
            Span {
                from: from as u32,
                len: part.len() as u32,
            }
        }
    }

    pub fn bytes(self, buf: &[u8]) -> &[u8] {
        buf.get(self.from as usize..(self.from + self.len) as usize)
            .unwrap_or_default()
    }

    pub fn text(self, buf: &[u8]) -> &str {
        std::str::from_utf8(self.bytes(buf)).unwrap_or_default()
    }
}

/// A method, for the log: most have a name of ours.
#[derive(Debug, Clone, Copy)]
pub enum Verb {
    Known(&'static str),
    Other(Span),
}

impl Verb {
    fn of(buf: &[u8], method: Method) -> Verb {
        match method {
            Method::Get => Verb::Known("GET"),
            Method::Head => Verb::Known("HEAD"),
            Method::Post => Verb::Known("POST"),
            Method::Put => Verb::Known("PUT"),
            Method::Delete => Verb::Known("DELETE"),
            Method::Patch => Verb::Known("PATCH"),
            Method::Options => Verb::Known("OPTIONS"),
            other => Verb::Other(Span::of(buf, other.as_str().as_bytes())),
        }
    }

    pub fn text(self, buf: &[u8]) -> &str {
        match self {
            Verb::Known(name) => name,
            Verb::Other(span) => span.text(buf),
        }
    }
}

/// What the log and the answer's head need of any request that could be read. It lives as long as the request is served.
pub struct Noted {
    pub id: RequestId,
    pub trace: Option<TraceParent>,
    pub began: Tick,
    pub method: Verb,
    pub host: Span,
    pub path: Span,
    pub query: Option<Span>,
    pub agent: Option<Span>,
    pub head_len: usize,
    pub http10: bool,
    pub keep_alive: bool,
    /// A body follows the head.
    pub has_body: bool,
    pub accept: Option<Span>,
    /// Whom it is from, where that is not its connection's peer.
    pub client: Option<IpAddr>,
    /// What lists and rules made of it.
    pub marks: Marks,
    /// What limits granted it.
    pub admission: Admission,
}

impl Noted {
    /// Of a request that has not been read yet.
    pub fn blank(began: Tick) -> Noted {
        Noted {
            id: RequestId::NONE,
            trace: None,
            began,
            method: Verb::Known(""),
            host: Span::default(),
            path: Span::default(),
            query: None,
            agent: None,
            head_len: 0,
            http10: false,
            keep_alive: false,
            has_body: false,
            accept: None,
            client: None,
            marks: Marks::default(),
            admission: Admission::default(),
        }
    }

    pub fn of(buf: &[u8], request: &Request, head_len: usize, from: Whence, began: Tick) -> Noted {
        let (path, query) = match request.target {
            Target::Origin { path, query } => (Span::of(buf, path.as_bytes()), query),
            Target::Asterisk => (Span::default(), None),
        };
        Noted {
            id: RequestId::fresh(),
            trace: request.known.traceparent.and_then(TraceParent::accept),
            began,
            method: Verb::of(buf, request.method),
            host: Span::of(buf, request.known.host.unwrap_or(request.host.as_bytes())),
            path,
            query: query.map(|query| Span::of(buf, query.as_bytes())),
            agent: request.known.user_agent.map(|agent| Span::of(buf, agent)),
            head_len,
            http10: request.version == Version::Http10,
            keep_alive: request.keep_alive,
            has_body: request.body != RequestBody::None,
            accept: request.known.accept.map(|accept| Span::of(buf, accept)),
            client: (from.client != from.peer).then_some(from.client),
            marks: Marks::default(),
            admission: Admission::default(),
        }
    }

    /// Whether the client prefers a page to JSON.
    pub fn wants_html(&self, buf: &[u8]) -> bool {
        let accept = self.accept.map(|accept| accept.bytes(buf));
        accept.is_some_and(problem::prefers_html)
    }
}

/// Where a request comes from. IPv4 is IPv4, whatever its socket is.
#[derive(Debug, Clone, Copy)]
pub struct Whence {
    /// Who is at the other end of the connection: the socket's, or whom the PROXY protocol names.
    pub peer: IpAddr,
    /// Whether what it says of others may be its own word.
    pub claims: bool,
    /// Whom the request is from: `peer`, or whom that names, if it is a trusted proxy.
    pub client: IpAddr,
    pub scheme: Scheme,
    /// It is written as HTTP/1.1, but came by HTTP/2.
    pub http2: bool,
    /// Everybody is sent to HTTPS on this port.
    pub redirect: Option<u16>,
}

impl Whence {
    /// Whom limits count it for.
    pub fn whose(&self, policy: &Policy) -> Client {
        Client::of(self.client, policy.listen.client_ipv6_prefix)
    }

    /// The same for one request of the connection, which may have come through proxies.
    pub fn of(self, policy: &Policy, request: &Request) -> Whence {
        match self.claims && !policy.listen.trusted_proxies.is_empty() {
            true => self.by_its_word(policy, request),
            false => self,
        }
    }

    fn by_its_word(self, policy: &Policy, request: &Request) -> Whence {
        let believed = believed(self.peer, policy, request, &mut |_| {});
        Whence {
            client: believed.client,
            scheme: believed.scheme.unwrap_or(self.scheme),
            ..self
        }
    }
}

fn believed(
    peer: IpAddr,
    policy: &Policy,
    request: &Request,
    passed: &mut dyn FnMut(IpAddr),
) -> claims::Believed {
    let (by, trusted) = (policy.listen.claimed_by, &policy.listen.trusted_proxies);
    claims::believed(peer, request.lines, by, trusted, passed)
}

/// A request that has been routed, while its head's bytes are at hand.
pub struct Asking<'a> {
    pub policy: &'a Policy,
    pub request: &'a Request<'a>,
    pub route: &'a Arc<Route>,
    pub client: IpAddr,
    peer: IpAddr,
    pub scheme: Scheme,
    http2: bool,
    /// Everybody is sent to HTTPS on this port.
    pub redirect: Option<u16>,
    pub class: Class,
    pub key: KeyRef<'a>,
    /// Path and query, as key and origin have them.
    pub target: &'a str,
    /// The path alone.
    pub path: &'a str,
    /// The host, as the key has it.
    pub host: &'a str,
    pub head_len: usize,
    /// As far as the route honours them.
    pub directives: Option<RequestDirectives>,
    pub only_if_cached: bool,
    /// It wants the page's bytes as the origin sent them.
    pub no_transform: bool,
}

thread_local! {
    static KEY: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Routes a request and calls `then` with it; `None` if no route takes it.
pub fn with_route<T>(
    policy: &Policy,
    request: &Request,
    head_len: usize,
    from: Whence,
    known: &KnownHost,
    then: impl FnOnce(&Asking) -> T,
) -> Option<T> {
    let Whence {
        client,
        peer,
        scheme,
        http2,
        redirect,
        ..
    } = from;
    KEY.with_borrow_mut(|room| {
        room.clear();
        room.push_str(scheme.as_str());
        room.push('\0');
        let host_at = room.len();
        known.normalize(request.host, scheme, room);
        let host_end = room.len();
        room.push('\0');
        let target_at = room.len();
        let (path, query) = match request.target {
            Target::Origin { path, query } => (path, query),
            Target::Asterisk => ("*", None),
        };
        target::write_path(path, room);
        let path_end = room.len();
        let route = policy.route(&room[host_at..host_end], &room[target_at..])?;
        target::write_query(query, &route.query, room);
        let class = class(request, policy, route);
        let told = directives(request);
        let asking = Asking {
            policy,
            request,
            route,
            client,
            peer,
            scheme,
            http2,
            redirect,
            class,
            key: KeyRef::new(room.as_bytes()),
            target: &room[target_at..],
            path: &room[target_at..path_end],
            host: &room[host_at..host_end],
            head_len,
            directives: told.filter(|_| route.honor_directives),
            only_if_cached: told.is_some_and(|told| told.only_if_cached),
            no_transform: told.is_some_and(|told| told.no_transform),
        };
        Some(then(&asking))
    })
}

fn class(request: &Request, policy: &Policy, route: &Route) -> Class {
    let known = &request.known;
    let named = |name: &str| {
        let mut named = policy.credentials.iter();
        named.any(|field| name.eq_ignore_ascii_case(field.as_str()))
    };
    if request
        .lines
        .iter()
        .any(|line| identity::is_credential(line.name) || named(line.name))
    {
        return Class::Identified;
    }
    if known.cookies_many {
        let lines = request
            .lines
            .iter()
            .filter(|line| line.name.eq_ignore_ascii_case("cookie"));
        return identity::class(
            known.authorization,
            lines.map(|line| line.value),
            &route.harmless,
        );
    }
    identity::class(known.authorization, known.cookie, &route.harmless)
}

/// `only-if-cached` and `no-transform` are always obeyed; the others only where the route says so, or a crowd that presses
/// reload would reach the origin.
fn directives(request: &Request) -> Option<RequestDirectives> {
    let known = &request.known;
    (known.cache_control || known.pragma).then(|| RequestDirectives::of(request))
}

impl Asking<'_> {
    /// As far as limits look at it.
    pub fn who(&self) -> Who<'_> {
        Who {
            client: self.whose(),
            route: Some(self.route),
            host: self.host,
            request: self.request,
            asking: Some(self),
        }
    }

    pub fn is_head(&self) -> bool {
        self.request.method == Method::Head
    }

    /// Who counts as its client.
    pub fn whose(&self) -> Client {
        Client::of(self.client, self.policy.listen.client_ipv6_prefix)
    }

    /// The trusted proxies that it came through, its client's own first.
    fn proxies(&self) -> Vec<IpAddr> {
        let mut proxies = Vec::new();
        if self.client != self.peer {
            let mut passed = |proxy| proxies.push(proxy);
            believed(self.peer, self.policy, self.request, &mut passed);
        }
        proxies.reverse();
        proxies
    }

    /// Whether it asks for another protocol that goes on to the origin: a WebSocket, and nothing that has a body.
    pub fn upgrades(&self) -> bool {
        let websocket = |value: &[u8]| value.trim_ascii().eq_ignore_ascii_case(b"websocket");
        self.request.body == RequestBody::None && self.request.upgrade.is_some_and(websocket)
    }

    /// The request's fields as variants are told apart by them: without the cookie that binds it to a server.
    pub fn selecting(&self) -> Without<'_, &Request<'_>> {
        Without {
            fields: self.request,
            cookie: self.route.sticky.as_deref(),
        }
    }

    /// Which server it would have.
    pub fn steer(&self) -> Steer {
        let upstream = self.policy.upstreams.get(self.route.upstream);
        let by = upstream.and_then(|upstream| upstream.hashes());
        let sticky = self.route.sticky.as_deref();
        Steer {
            key: by.and_then(|by| self.hashed(by)),
            bound: sticky.and_then(|name| sticky::brought(self.request, name)),
        }
    }

    fn hashed(&self, by: &HashBy) -> Option<u64> {
        let mut value = Vec::new();
        match by {
            // The scheme is not part of it: the page is the same.
            HashBy::Path => {
                return Some(rendezvous::hash(
                    [self.host, self.target].map(str::as_bytes),
                ));
            }
            HashBy::Address => match self.whose() {
                Client::V4(octets) => value.extend_from_slice(&octets),
                Client::V6(octets) => value.extend_from_slice(&octets),
            },
            HashBy::Header(name) => self.request.joined(name.as_str(), &mut value),
            HashBy::Cookie(name) => self.request.each_named("cookie", &mut |line| {
                let mut pairs = identity::pairs(line);
                let found = pairs.find_map(|pair| pair.value_of(name.as_bytes()));
                if value.is_empty() {
                    value.extend_from_slice(found.unwrap_or_default());
                }
            }),
        }
        (!value.is_empty()).then(|| rendezvous::hash([value.as_slice()]))
    }

    /// What a shared fetch would make of the fields that Vary may name.
    pub fn as_sent(&self) -> AsSent {
        AsSent {
            class: self.class,
            codings: match self.route.accept_encoding {
                AcceptEncoding::Identity => Codings::IDENTITY,
                AcceptEncoding::Gzip => Codings::GZIP,
                AcceptEncoding::Client => Codings::of(self.request),
            },
            client: self.route.forward_client_address.then_some(self.client),
        }
    }

    /// The errand that fetches this request's page. `alone`: for this request only, with its own `Range` and `If-*`.
    ///
    /// # Errors
    /// The request has been through here already (RFC 8586).
    pub fn errand(
        &self,
        noted: &Noted,
        reason: Reason,
        alone: bool,
        stored: Option<Arc<Entry>>,
    ) -> Result<Errand, Loop> {
        let kind = if alone {
            Kind::SingleReader
        } else {
            Kind::Shared
        };
        let sent = self.as_sent();
        let fields = self.forwarded(noted, kind, &sent)?;
        let known = &self.request.known;
        let conditional = known.range.is_some()
            || known.if_none_match.is_some()
            || known.if_modified_since.is_some()
            || known.if_match
            || known.if_unmodified_since;
        Ok(Errand {
            route: Arc::clone(self.route),
            scheme: self.scheme,
            key: self.key.to_key(),
            target: self.target.into(),
            class: self.class,
            client: self.whose(),
            steer: self.steer(),
            reason,
            fields,
            sent,
            head_only: alone && self.is_head(),
            single_reader: alone,
            asked: self.asked(alone),
            partial_or_conditional: alone && conditional,
            stored,
            bill: None,
        })
    }

    /// What the rules must know of this request before they let its answer be stored or shared.
    pub fn asked(&self, alone: bool) -> Asked {
        let known = &self.request.known;
        Asked {
            method: if alone && self.is_head() {
                storing::Method::Head
            } else {
                storing::Method::Get
            },
            body: false,
            class: self.class,
            authorization: known.authorization,
            head_bytes: self.head_len,
            method_override: known.method_override,
            no_store: self.directives.is_some_and(|d| d.no_store) || !self.route.cache,
        }
    }

    /// The fields the origin gets.
    ///
    /// # Errors
    /// The request has been through here already (RFC 8586).
    pub fn forwarded(&self, noted: &Noted, kind: Kind, sent: &AsSent) -> Result<HeaderMap, Loop> {
        let fresh;
        let traceparent = match &noted.trace {
            Some(trace) => trace.as_str(),
            None => {
                fresh = TraceParent::fresh();
                fresh.as_str()
            }
        };
        let upgrade = kind == Kind::Pass && self.upgrades();
        let show_client = kind != Kind::Shared || self.route.forward_client_address;
        // What others share is fetched for the client, not for its way: `Vary` may name the field.
        let proxies = match kind {
            Kind::Shared => Vec::new(),
            Kind::SingleReader | Kind::Pass => self.proxies(),
        };
        forward::fields(
            self.request,
            &Forward {
                class: self.class,
                kind,
                scheme: self.scheme.as_str(),
                host_as_keyed: self.host,
                upstream_host: self.route.upstream_host.as_deref(),
                accept_encoding: match self.route.accept_encoding {
                    AcceptEncoding::Identity => forward::AcceptEncoding::Identity,
                    AcceptEncoding::Gzip => forward::AcceptEncoding::Gzip,
                    AcceptEncoding::Client => {
                        forward::AcceptEncoding::Client(sent.codings.as_str().as_bytes())
                    }
                },
                client: show_client.then_some(self.client),
                proxies: &proxies,
                via_version: match self.http2 {
                    true => "2",
                    false => self.request.version.number(),
                },
                cdn_id: &self.policy.cache.cdn_id,
                request_id: noted.id.as_str(),
                traceparent,
                upgrade,
                own_cookies: &self.route.own_cookies,
                forwarded: false,
            },
        )
    }
}

/// The key of another page of the same site, as a request for it would have it.
pub fn key_of(
    policy: &Policy,
    scheme: Scheme,
    host: &str,
    path: &str,
    query: Option<&str>,
) -> Vec<u8> {
    let target = policy.target(host, path, query);
    [scheme.as_str(), host, &target].join("\0").into_bytes()
}
