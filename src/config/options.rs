//! Every option, declared once: name, type, default, bounds and prose.
//!
//! From a declaration come the field that holds what was written, the walk's notion of a valid file, the commented
//! default file, and the JSON Schema. So what the documentation says is what the program does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::credentials::{FieldName, SecretFile};
use super::keys::Keys;
use super::limiting::{Action, Costs, Counts, Frequency, Key, MethodName, Preset, Tell, Tiers};
use super::report::At;
use super::sharing::{Password, Prefix, RedisServer};
use super::steering::{CookieName, HashBy, Secret};
use super::value::{Bounds, Kind, Literal, OrAuto, OrOff, Rate, Size, Value, Wrong};
use super::walk::{Found, Given, Walk};
use super::words::{
    AcceptEncoding, Authority, Balance, CdnId, ClaimedBy, Coding, Family, Field, Health,
    HealthMethod, Host, Level, ListAction, Member, Name, Network, Output, PathPrefix, Pattern,
    Priority, Protocol, Purger, Resolver, RuleAction, Server, SetCookie, Statuses, Target, When,
};
use crate::rules::token::Algorithm;

/// One table of the file and its options.
#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    /// Whether it can stand several times, as `[[name]]`.
    pub many: bool,
    /// Whether there need be none of it: then the default file has it as a comment.
    pub optional: bool,
    pub prose: &'static [&'static str],
    pub options: &'static [Opt],
}

/// One option of a table.
#[derive(PartialEq, Eq, Debug)]
pub struct Opt {
    pub name: &'static str,
    pub kind: Kind,
    pub shown: Shown,
    pub bounds: Option<Bounds>,
    /// Its lines, each with the blank that a doc comment starts with.
    pub prose: &'static [&'static str],
}

/// What stands where nobody wrote anything, without the quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    Default(&'static str),
    /// Nothing; an example for the default file.
    Unset(&'static str),
    /// It has to be written; the default file does so with this.
    Example(&'static str),
}
use Shown::{Default, Example, Unset};

/// Every table, in the order of the default file.
pub const TABLES: [&Table; 15] = [
    &Listen::TABLE,
    &Upstream::TABLE,
    &Route::TABLE,
    &List::TABLE,
    &Geo::TABLE,
    &Rule::TABLE,
    &Identity::TABLE,
    &Limit::TABLE,
    &Challenge::TABLE,
    &Redis::TABLE,
    &Cache::TABLE,
    &Fallback::TABLE,
    &State::TABLE,
    &Admin::TABLE,
    &Log::TABLE,
];

impl Table {
    pub fn option(&self, name: &str) -> Option<&'static Opt> {
        self.options.iter().find(|option| option.name == name)
    }

    /// `[listen]` or `[[route]]`.
    pub fn header(&self) -> String {
        match self.many {
            true => format!("[[{}]]", self.name),
            false => format!("[{}]", self.name),
        }
    }
}

impl Opt {
    /// The default or the example as the file has it.
    pub fn toml(&self) -> String {
        let (Default(text) | Unset(text) | Example(text)) = self.shown;
        match self.kind.is_quoted() {
            true => format!("\"{text}\""),
            false => text.to_owned(),
        }
    }

    /// What stands where it was not written, if that may be.
    pub fn absent<T: Value>(&self) -> Option<T> {
        (!matches!(self.shown, Example(_))).then(|| self.default())
    }

    /// The default as a value.
    ///
    /// # Panics
    /// If a declared default is no value of its type; a test reads them all.
    pub fn default<T: Value>(&self) -> T {
        let literal = match (self.shown, self.kind) {
            (Default(text), Kind::List(_)) => {
                let literal = |text: &str| Literal::Text {
                    text: text.to_owned(),
                    filled: false,
                };
                Literal::List(listed(text).map(literal).collect())
            }
            (Default(text), kind) => Literal::Text {
                text: text.to_owned(),
                filled: !kind.is_quoted(),
            },
            (Unset(_) | Example(_), _) => Literal::Absent,
        };
        T::read(&literal, self.bounds).expect("a declared default is a value of its type")
    }
}

/// The elements of a list of texts, as a default has it.
pub(super) fn listed(text: &str) -> impl Iterator<Item = &str> {
    let elements = text.trim_matches(['[', ']']).split(',');
    let texts = elements.map(|element| element.trim().trim_matches('"'));
    texts.filter(|text| !text.is_empty())
}

/// Declares a table: a struct of what was written, and its [`Table`].
macro_rules! table {
    (
        $(#[doc = $prose:literal])+
        $Table:ident = $name:literal, many: $many:literal $(, optional: $optional:literal)?;
        $(
            $(#[doc = $about:literal])+
            $option:ident: $Type:ty = $shown:expr $(, $least:literal to $most:literal)?;
        )+
    ) => {
        $(#[doc = $prose])+
        #[derive(Clone, Debug)]
        pub struct $Table {
            /// Where its header stands.
            pub at: At,
            $($(#[doc = $about])+ pub $option: Given<$Type>,)+
        }

        impl $Table {
            pub const TABLE: Table = Table {
                name: $name,
                many: $many,
                optional: false $(|| $optional)?,
                prose: &[$($prose),+],
                options: &[$(table!(@ $option, $Type, $shown, [$($about),+] $(, $least, $most)?)),+],
            };

            /// Takes what was written, or the defaults.
            pub fn read(walk: &mut Walk<'_>, found: &Found<'_>) -> Self {
                $Table {
                    at: found.at.clone(),
                    $($option: walk.value(
                        found,
                        const { &table!(@ $option, $Type, $shown, [$($about),+] $(, $least, $most)?) },
                    ),)+
                }
            }
        }
    };
    (@ $option:ident, $Type:ty, $shown:expr, [$($about:literal),+] $(, $least:literal, $most:literal)?) => {
        Opt {
            name: stringify!($option),
            kind: <$Type as Value>::KIND,
            shown: $shown,
            bounds: table!(@bounds $($least, $most)?),
            prose: &[$($about),+],
        }
    };
    (@bounds) => { None };
    (@bounds $least:literal, $most:literal) => { Some(($least, $most)) };
}

/// Declares a table within a list, and the option that has to be written: where it stands alone it needs no table.
macro_rules! record {
    (
        $(#[doc = $prose:literal])+
        $Record:ident;
        $(#[doc = $what:literal])+
        $alone:ident: $Alone:ty = $example:expr;
        $(
            $(#[doc = $about:literal])+
            $option:ident: $Type:ty = $shown:expr $(, $least:literal to $most:literal)?;
        )+
    ) => {
        $(#[doc = $prose])+
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $Record {
            $(#[doc = $what])+
            pub $alone: $Alone,
            $($(#[doc = $about])+ pub $option: $Type,)+
        }

        impl $Record {
            pub const OPTIONS: &'static [Opt] = &[
                table!(@ $alone, $Alone, $example, [$($what),+]),
                $(table!(@ $option, $Type, $shown, [$($about),+] $(, $least, $most)?)),+
            ];
        }

        impl Value for $Record {
            const KIND: Kind = Kind::OrTable(&<$Alone as Value>::KIND, Self::OPTIONS);

            fn read(literal: &Literal, bounds: Option<Bounds>) -> Result<Self, Vec<Wrong>> {
                let Literal::Table(found) = literal else {
                    return Ok($Record {
                        $alone: <$Alone as Value>::read(literal, bounds)?,
                        $($option: (const {
                            &table!(@ $option, $Type, $shown, [$($about),+] $(, $least, $most)?)
                        }).default(),)+
                    });
                };
                let mut keys = Keys::of(found, Self::OPTIONS);
                let $alone = keys.take(const { &table!(@ $alone, $Alone, $example, [$($what),+]) });
                $(let $option = keys.take(const {
                    &table!(@ $option, $Type, $shown, [$($about),+] $(, $least, $most)?)
                });)+
                let made = (|| Some($Record { $alone: $alone?, $($option: $option?,)+ }))();
                keys.end(made)
            }
        }
    };
}

table! {
    /// Where visitors come in, and what they may ask of the process.
    Listen = "listen", many: false;

    /// Address and port. `0.0.0.0:80` and `[::]:80` listen on every interface.
    address: SocketAddr = Default("127.0.0.1:8080");

    /// Certificates to speak TLS with; without any, `address` speaks plain HTTP. Each is a folder with `fullchain.pem` and
    /// `privkey.pem` (as certbot writes it) or `tls.crt` and `tls.key` (as Kubernetes does), or a PEM file with chain
    /// and key. A visitor gets the one that names the host asked for, else the first. They are read anew when they change.
    certificates: Option<Vec<PathBuf>> = Unset(r#"["/etc/letsencrypt/live/example.com"]"#);

    /// A PEM file of certificate authorities; visitors must show a certificate that one of them has signed.
    client_ca: Option<PathBuf> = Unset("/etc/tidegate/clients-ca.pem");

    /// Whether HTTP/2 is offered over TLS.
    http2: bool = Default("true");

    /// Whether clients may begin with HTTP/2 where there is no TLS (prior knowledge, RFC 9113 §3.3).
    h2c: bool = Default("false");

    /// The most requests at once on a connection of HTTP/2.
    max_streams: usize = Default("100"), "1" to "10000";

    /// Another address, which speaks plain HTTP and sends every visitor to HTTPS (308).
    redirect_from: Option<SocketAddr> = Unset("0.0.0.0:80");

    /// The port of HTTPS as visitors know it, where that is not `address`'s own: behind a port mapping.
    redirect_port: Option<usize> = Unset("443"), "1" to "65535";

    /// The most connections at once; 0 is as many as the process's open files allow, less what the origins, the admin
    /// listener and the logs need. Past it, those that have been between requests the longest are closed.
    max_connections: usize = Default("0"), "0" to "10000000";

    /// The most connections of one client at once; 0 is a quarter of all. More are closed as they come. Trusted proxies have
    /// no such bound, since all visitors may come through one.
    max_connections_per_client: usize = Default("0"), "0" to "10000000";

    /// Who counts as one client, wherever clients are counted: an address of IPv4, or all of IPv6 that have so many bits in
    /// common. Whoever has one address of a /64 can have them all.
    client_ipv6_prefix: usize = Default("64"), "32" to "64";

    /// The proxies in front of this one, as addresses and networks. What they say of their clients is believed; what others
    /// say is dropped. The client is the last one named whom none of these vouches for.
    trusted_proxies: Vec<Network> = Default("[]");

    /// Where trusted proxies say whom they were asked by: `x-forwarded-for` (and the scheme in X-Forwarded-Proto) or `forwarded`
    /// (RFC 7239). It has to be the one that they write themselves: the other is dropped, whoever sends it.
    client_ip_header: ClaimedBy = Default("x-forwarded-for");

    /// Whether each connection begins with a header of the PROXY protocol (version 1 or 2), before TLS, as load balancers
    /// of TCP send it. Then nobody but trusted proxies is let in, and the header says who the client is.
    proxy_protocol: bool = Default("false");

    /// Threads that serve; 0 takes one for each core.
    threads: usize = Default("0"), "0" to "1024";

    /// How long a client may take for a whole request head, however its bytes come.
    head_deadline: Duration = Default("10s"), "100ms" to "10m";

    /// How long a kept connection may wait for its next request.
    idle_timeout: Duration = Default("60s"), "100ms" to "1d";

    /// How long requests in flight may take to finish after SIGTERM or SIGINT. The process ends as soon as they have, and at
    /// once at a second signal.
    drain: Duration = Default("10s"), "0" to "1h";

    /// How long a request body may pause.
    body_timeout: Duration = Default("30s"), "100ms" to "1h";

    /// The slowest pace at which a client may send a request body or take an answer; 0 is off, and then nothing but the
    /// process's end parts it from a client that takes nothing.
    min_rate: Rate = Default("1KiB/s"), "0" to "1GiB/s";

    /// How long a client may fall below `min_rate`.
    min_rate_grace: Duration = Default("5s"), "0" to "10m";

    /// The largest request head; a larger one is answered 431.
    max_head: Size = Default("32KiB"), "1KiB" to "1MiB";

    /// The most fields of a request head; more are answered 431.
    max_fields: usize = Default("100"), "1" to "250";

    /// The longest request target (path and query); a longer one is answered 414.
    max_target: Size = Default("8KiB"), "64B" to "1MiB";

    /// The largest request body; a larger one is answered 413. 0 sets no limit.
    max_body: Size = Default("64MiB"), "0" to "16TiB";

    /// Request bodies up to this size are read whole before an origin is asked, so that a slow upload holds none.
    request_buffer: Size = Default("64KiB"), "0" to "16MiB";
}

table! {
    /// An app to stand in front of, as one or more servers.
    Upstream = "upstream", many: true;

    /// What routes, metrics and logs call it; else its first server's host and port.
    name: Option<Name> = Unset("app");

    /// The servers, `http://` or `https://`. A name stands for all its addresses, each a server of its own (128 at most), and
    /// is asked for again as they grow old: new ones are used, those that go finish what they have. Where DNS fails the
    /// last ones stay; where there were none yet, others of the upstream are used, or requests get a stale copy, else 503. The
    /// hosts file comes first. At start the first answers are waited for, 5s at most. A server that is not like the others
    /// is a table, as in `{ address = "http://app-2:8000", weight = 2, backup = true, max_in_flight = 8 }`.
    servers: Vec<Backend> = Example(r#"["http://127.0.0.1:8000"]"#);

    /// DNS servers to ask for names, instead of the system's: `"10.0.0.2"`, `"127.0.0.1:5353"`.
    resolver: Vec<Resolver> = Default("[]");

    /// Which addresses of a name are used. One server often has one of each kind, and would count as two with `all`.
    resolve_family: Family = Default("ipv4_first");

    /// How long after an answer a name is asked for again, at least: whatever its TTL.
    resolve_min: Duration = Default("1s"), "100ms" to "1h";

    /// And at most.
    resolve_max: Duration = Default("30s"), "100ms" to "1d";

    /// The Host to send instead of the one the visitor asked for.
    host: Option<Authority> = Unset("app.internal");

    /// The most requests in flight to a server at once, unless it has its own. What comes on top waits in the queue. With
    /// `auto` it is learned, for each server: it grows while more at once take no longer, and shrinks while they only wait
    /// in the server; it begins at 16 and stays between 1 and 1024. Now and then a few less or more are tried. A server that
    /// only says "overloaded" (429, 503, 504) or nothing in time gets half.
    max_in_flight: OrAuto = Default("auto"), "1" to "65536";

    /// How a server is chosen: `p2c` takes the better of two at random, by requests in flight and quickness of late;
    /// `round_robin` takes turns, evenly mixed; `least_in_flight` the least busy; `consistent_hash` the one that
    /// `hash_by` belongs to, so that what servers remember of it is remembered once. All of them go by `weight`.
    balance: Balance = Default("p2c");

    /// What `consistent_hash` finds a server by: `path` is what the cache knows a page by (host, path and query),
    /// `header:NAME` and `cookie:NAME` what a request says there, `address` its client (see `client_ipv6_prefix`). Of several
    /// requests that share an answer it's the first one's. A request that doesn't say it goes as with `p2c`. When a server
    /// leaves, its part moves to all the others and comes back with it; nothing else moves.
    hash_by: HashBy = Default("path");

    /// The most that `consistent_hash` gives to a server at once, in hundredths of its fair share of all in flight; past
    /// it the next in line has the request. Who has less than an eighth of `max_in_flight` is not passed over.
    hash_bound: usize = Default("125"), "100" to "10000";

    /// A cookie of this name binds each visitor to a server, for apps that remember visitors in memory. The app must not use
    /// the name; it never sees the cookie, nor does the cache count it. It is set where an answer went to the app for
    /// this visitor alone and no cache may keep it (such an answer becomes `private` if it says nothing), never with stored or
    /// shared pages nor with a server's errors, and ends with the browser's session (`Path=/; HttpOnly; SameSite=Lax`, over
    /// TLS `Secure`; with a name that begins with `__Host-` or `__Secure-` always). Its value tells nothing, and is signed:
    /// one that was made up is ignored and replaced. When the server is ill,
    /// left alone, drained, full, or a backup whose time is over, the visitor is bound to another.
    sticky: Option<CookieName> = Unset("app_server");

    /// What signs that cookie: at least 16 bytes, the same for all proxies of a site, as `${NAME}` or as
    /// `file:/run/secrets/sticky`. Without it each process makes one at its start: then a restart binds everybody
    /// anew, and so does each of several proxies.
    sticky_key: Option<Secret> = Unset("file:/run/secrets/sticky");

    /// After so many failures in a row (no answer, or 502, 503 or 504) a server is left alone; 0 is never for that alone.
    eject_after: usize = Default("5"), "0" to "1000000";

    /// So is one that fails more often than the others together by so many hundredths of its requests, of half a minute
    /// and 20 at least; 0 is never.
    eject_share: usize = Default("20"), "0" to "100";

    /// For how long, the first time; the second time twice that, and so on to five minutes at most.
    eject_for: Duration = Default("10s"), "100ms" to "5m";

    /// The most servers that are left alone at once, in hundredths; so a single one never is, unless a backup is ready.
    eject_most: usize = Default("50"), "0" to "100";

    /// With fewer usable servers than this, in hundredths of all, all are used: better than none.
    panic_below: usize = Default("25"), "0" to "100";

    /// How long a server that comes back has less than its share, unless it has proven itself sooner.
    slow_start: Duration = Default("10s"), "0" to "1h";

    /// With so many failures within ten seconds and hardly an answer beside them (`breaker_share`), the servers as a whole
    /// count as down, a single one too: nobody waits or is sent there, but for one request about every half second,
    /// until one is answered (within 2s, but for one of them at a time, which has as long as any). Three failures in a row
    /// are enough where no server is left that can be used. 0 is never.
    breaker_after: usize = Default("10"), "0" to "1000000";

    /// How much of what comes of requests has to be failures for that, in hundredths.
    breaker_share: usize = Default("80"), "1" to "100";

    /// Of a hundred requests, how many may be asked again at another server: those that got no answer at all, and
    /// can be asked twice.
    retries: usize = Default("10"), "0" to "100";

    /// The most requests that wait for a place; more get a stale copy, else 503.
    queue: usize = Default("1024"), "0" to "16384";

    /// How long a request may wait for a place.
    queue_wait: Duration = Default("5s"), "0" to "10m";

    /// The most event streams and upgraded connections at once; they hold no place in `max_in_flight`.
    max_streams: usize = Default("1024"), "0" to "1000000";

    /// How long a connection may take to stand, TLS included.
    connect_timeout: Duration = Default("3s"), "10ms" to "5m";

    /// How long the first byte of an answer may take.
    first_byte_timeout: Duration = Default("30s"), "10ms" to "1h";

    /// How long an answer may pause.
    between_bytes_timeout: Duration = Default("30s"), "10ms" to "1h";

    /// How long an answer may take in all; event streams and upgraded connections are free of it.
    total_timeout: Duration = Default("10m"), "10ms" to "1d";

    /// How long an idle connection is kept; uvicorn and Node close theirs at 5s.
    keepalive: Duration = Default("4s"), "0" to "4s";

    /// HTTP version; `auto` asks over TLS and is HTTP/1.1 without.
    protocol: Protocol = Default("auto");

    /// Whether a TLS server must prove who it is.
    verify: bool = Default("true");

    /// A PEM file of certificate authorities to trust instead of the system's.
    ca: Option<PathBuf> = Unset("/etc/ssl/certs/internal-ca.pem");

    /// Whether each server is asked again and again if it is well: by a request of HTTP (`http`) or of gRPC's own
    /// health service (`grpc`), or for no more than a connection (`tcp`). An ill server gets no requests; where too
    /// few are well (`panic_below`), all of them are used. The first answers are waited for at start, as long as
    /// `health_timeout`.
    health: Health = Default("off");

    /// How long from one probe of a server to the next, give or take a tenth.
    health_interval: Duration = Default("5s"), "10ms" to "1d";

    /// How long a probe may take in all.
    health_timeout: Duration = Default("2s"), "10ms" to "5m";

    /// Probes in a row that have to go well for an ill server to be used again. The first probe of all decides alone.
    health_rise: usize = Default("2"), "1" to "1000";

    /// Probes in a row that have to fail for a server to count as ill.
    health_fall: usize = Default("3"), "1" to "1000";

    /// What `http` asks for: a path, with a query or without.
    health_path: Target = Default("/");

    /// How `http` asks. The answer to a HEAD has no body to look into.
    health_method: HealthMethod = Default("GET");

    /// The Host that `http` and `grpc` ask for; else `host`, else the server's own.
    health_host: Option<Authority> = Unset("app.internal");

    /// Fields that `http` and `grpc` send along.
    health_headers: Vec<Field> = Default("[]");

    /// The statuses that `http` takes for well.
    health_status: Vec<Statuses> = Default(r#"["200-399"]"#);

    /// A text that the body of `http`'s answer has to hold, in its first 64 KiB.
    health_body: Option<String> = Unset("pong");

    /// A field that the body of `http`'s answer has to have as JSON of up to 64 KiB, and its value; `checks.db=ok` is a
    /// field within a field.
    health_json: Option<Member> = Unset("status=ok");

    /// The service that `grpc` asks about; else the server as a whole.
    health_service: Option<String> = Unset("blog.Posts");
}

record! {
    /// One server of an upstream.
    Backend;

    /// Its URL: `http://` or `https://`, a host and a port.
    address: Server = Example("http://127.0.0.1:8000");

    /// Its part of what all servers get, in proportion to theirs. Zero drains it: what it has in hand is finished, and
    /// nobody new comes, visitors that were bound to it neither.
    weight: usize = Default("1"), "0" to "1000";

    /// Whether it is asked only while no other server can be.
    backup: bool = Default("false");

    /// The most requests in flight to it at once; else the upstream's.
    max_in_flight: Option<usize> = Unset("8"), "1" to "65536";
}

table! {
    /// Requests by host and path, their upstream, and how their answers are cached. The most specific host wins (exact,
    /// then the longest wildcard, then any), then the longest path. Without a route everything goes to the only
    /// upstream; a request that no route matches is answered 404.
    Route = "route", many: true;

    /// What metrics call it; else its first host and its path.
    name: Option<Name> = Unset("blog");

    /// `"example.com"`, or `"*.example.com"` for every name below it. Empty is any host. Ports don't matter.
    hosts: Vec<Host> = Default("[]");

    /// The path at or below which requests are the route's: `/blog` takes `/blog` and `/blog/x`, not `/blogs`.
    path: PathPrefix = Default("/");

    /// The upstream's name; may be left out where there is only one.
    upstream: Option<Name> = Unset("app");

    /// Whose requests are served first where they wait for the same servers.
    priority: Priority = Default("normal");

    /// The most requests of the route in flight to its upstream at once, over all servers, so that answers that are slow
    /// here leave places to other routes. What comes on top waits in the upstream's `queue` and holds up nobody else there.
    /// It may fill as much of the queue as the route may of all places; more get a stale copy, else 503. Refreshes and
    /// retries count, event streams and upgraded connections don't. Without a number the upstream's is the only one.
    max_in_flight: Option<usize> = Unset("8"), "1" to "65536";

    /// Whether answers may be stored at all.
    cache: bool = Default("true");

    /// How long to keep answers that say nothing about caching, for visitors that bring no cookie or credentials.
    default_ttl: Option<Duration> = Unset("10s"), "0" to "365d";

    /// How long to keep errors (404, 405, 410, 414, 501) that say nothing about caching; 1s where `default_ttl` is
    /// set, else not at all.
    error_ttl: Option<Duration> = Unset("1s"), "0" to "1d";

    /// The longest lifetime guessed from `Last-Modified` for answers that say nothing else; 0 guesses none.
    heuristic_cap: Duration = Default("1d"), "0" to "365d";

    /// How long past its end an answer still goes out at once while a fresh one is fetched. The origin's own figure
    /// comes first; without either, 60s where the lifetime came from here, else not at all.
    stale_while_revalidate: Option<Duration> = Unset("60s"), "0" to "365d";

    /// How long past its end an answer may stand in for an origin that fails. The origin's own figure comes first.
    stale_if_error: Duration = Default("1d"), "0" to "365d";

    /// How long visitors wait for a slow origin while an old copy is at hand.
    serve_stale_after: Duration = Default("300ms"), "0" to "10m";

    /// Whether to refresh a page in demand shortly before its end, so that nobody meets it stale.
    eager_refresh: bool = Default("true");

    /// Answers with `Set-Cookie`: don't store them, store them without it, or share it with everyone. The last two
    /// only where the origin calls the answer shared (`public`, `s-maxage`).
    set_cookie: SetCookie = Default("refuse");

    /// Cookies that identify nobody, beside the well-known ones of analytics: `"theme"`, `"ab_*"`.
    harmless_cookies: Vec<Pattern> = Default("[]");

    /// Query parameters to leave out, for the cache and the origin alike: `"utm_*"`, `"fbclid"`.
    query_drop: Vec<Pattern> = Default("[]");

    /// The only query parameters to keep; every other is left out.
    query_keep: Option<Vec<Pattern>> = Unset(r#"["page", "q"]"#);

    /// Whether to sort query parameters by name.
    query_sort: bool = Default("false");

    /// Whether a visitor's `Cache-Control` and `Pragma` count: a crowd that presses reload then reaches the origin.
    honor_request_directives: bool = Default("false");

    /// Whether the origin is told a visitor's address also where others may share the answer.
    forward_client_address: bool = Default("false");

    /// What the origin may encode its answers with: nothing, gzip, or what the visitor takes (a variant for each).
    accept_encoding: AcceptEncoding = Default("identity");

    /// What hot pages of text are compressed with, for visitors that take it; the first of these that a visitor likes as
    /// much as any other is taken. `[]` compresses nothing. What the origin has encoded, signed with a digest or marked
    /// `no-transform` stays as it is.
    compress: Vec<Coding> = Default(r#"["br", "zstd", "gzip"]"#);

    /// How long browsers are to remember that the site is HTTPS only (`Strict-Transport-Security`, RFC 6797), told over
    /// TLS where the origin says nothing of it.
    hsts: Option<Duration> = Unset("365d"), "0" to "3650d";

    /// Whether to add `X-Content-Type-Options: nosniff`, `X-Frame-Options: SAMEORIGIN` and
    /// `Referrer-Policy: strict-origin-when-cross-origin`, each where the origin says nothing of it.
    security_headers: bool = Default("false");

    /// Whether to add `X-Cache: HIT` or `MISS`, for tools that don't know `Cache-Status`.
    x_cache: bool = Default("false");

    /// Whether visitors see the origin's tag fields (`Surrogate-Key`, `Cache-Tag`, `Cache-Groups`).
    show_tags: bool = Default("false");

    /// Who may purge by requests with the method `PURGE`: addresses, networks, and `"list:NAME"`. Such a request takes the page
    /// that it names out of the cache, in all its variants; with `*` at the end of its path, all of the host whose path begins
    /// so; and with `Surrogate-Key`, `Cache-Tag` or `Cache-Groups`, what carries one of these tags instead, of all hosts and
    /// routes. With `Soft-Purge: 1` pages are marked stale instead. Others get 405. A list's `deny` comes first.
    purge_from: Vec<Purger> = Default("[]");

    /// Whether `Cache-Status` names the cache key.
    cache_status_key: bool = Default("false");
}

table! {
    /// Addresses under one name: to be kept out, let in, or asked for by rules (`listed("name")`). Of the networks that hold
    /// a client the longest prefix among lists with an action decides, and `allow` where two are as long. Who is kept out
    /// gets 403 whatever is asked for, pages in memory too; who is let in still meets the rules. At most 64 lists.
    List = "list", many: true, optional: true;

    /// What rules, metrics and logs call it.
    name: Option<Name> = Example("office");

    /// Addresses and networks: `"192.0.2.1"`, `"2001:db8::/32"`.
    networks: Vec<Network> = Default("[]");

    /// A file of more: one a line, `#` or `;` before a comment; or JSON as owners of crawlers publish it, with
    /// `"prefixes": [{"ipv4Prefix": "…"}, {"ipv6Prefix": "…"}]`. A million entries at most. It is read anew when it changes; where it
    /// can't be read then, or something in it is none, what was read last stays.
    file: Option<PathBuf> = Unset("/etc/tidegate/office.txt");

    /// What becomes of those it holds: 403, or let in though a wider network of another list is denied. Without it the list
    /// is for rules only.
    action: Option<ListAction> = Unset("deny");
}

table! {
    /// Where clients are, by files in the MaxMind DB format. They are read anew when they change; one that can't be used then
    /// leaves the last one in use.
    Geo = "geo", many: false;

    /// The file that knows countries: for `country` in rules.
    country: Option<PathBuf> = Unset("/var/lib/GeoIP/GeoLite2-Country.mmdb");

    /// The file that knows the networks' operators: for `asn` in rules.
    asn: Option<PathBuf> = Unset("/var/lib/GeoIP/GeoLite2-ASN.mmdb");
}

table! {
    /// What is done with some requests, before anything is looked up: each rule in the order of the file, after the lists.
    /// The first that blocks ends it. Requests that no route takes meet none.
    Rule = "rule", many: true, optional: true;

    /// What metrics and logs call it.
    name: Option<Name> = Example("no-scanners");

    /// Which requests: an expression in CEL. It knows `method`, `scheme`, `host` (in lower case, without a port), `path` (percent
    /// codes decoded where that changes nothing), `query` (as it came), `headers["name"]` (`""` where it is absent), `client`,
    /// `country` (`"DE"`) and `asn` (by `[geo]`; `""` and 0 if unknown); `listed("name")` of a `[[list]]`,
    /// `client in ["10.0.0.0/8"]`; of texts `startsWith`, `endsWith`, `contains`, `matches` (a pattern, of RE2's kind) and
    /// `size`; `==`, `!=`, `in ["a", "b"]`, `<`, `<=`, `>`, `>=` (of numbers), `&&`, `||`, `!`, `? :`. Dots and double slashes in a
    /// path stay as they came: what an app takes for the same path is the app's to say.
    when: Option<String> = Example("path.startsWith('/wp-admin')");

    /// What is done: answered 403; past the cache, neither served from memory nor stored, within the upstream's budget; a tag
    /// in the access log; a pass has to be shown (`challenge`, by `[challenge]`); it counts for a limit, and is held to it (`limit`); or
    /// only counted, to try a rule before it does anything. All are counted. 32 rules at most may tag.
    action: Option<RuleAction> = Example("block");

    /// The name of the `[[limit]]` that `limit` applies. One that is named by any rule holds for the requests of such rules alone,
    /// once for each however many of them name it, and for no others; it has no `routes` of its own.
    limit: Option<Name> = Unset("visitors");

    /// The only routes it is for, by name; else all.
    routes: Option<Vec<Name>> = Unset(r#"["blog"]"#);
}

table! {
    /// What visitors can show to be known by, for limits to count by (`tiers`, `key`). Who shows nothing that is verified, or
    /// a token that is expired, forged or signed in another way, is anonymous: not turned away for it, and counted by the
    /// address like any other.
    Identity = "identity", many: false;

    /// What identities are hashed with before they are counted: at least 16 bytes, or `file:/run/secrets/identity`. The same
    /// on all proxies that count together; without it what they share by `[redis]` (`password` and `prefix`), else each
    /// process makes one at its start.
    secret: Option<Secret> = Unset("file:/run/secrets/identity");

    /// A file of API keys. A line is `key`, `key name` or `key name tier`, a key 16 to 256 visible characters; what begins with
    /// `#` says nothing. Keys of one name are one client. It is read anew when it changes, and only hashes of it are kept.
    api_keys: Option<SecretFile> = Unset("file:/run/secrets/api-keys");

    /// The field that brings an API key, alone or behind `Bearer`.
    api_key_header: FieldName = Default("x-api-key");

    /// The secret by which HS256 verifies JSON Web Tokens (RFC 7519): at least 16 bytes, or `file:/run/secrets/jwt`.
    jwt_secret: Option<Secret> = Unset("file:/run/secrets/jwt");

    /// A file of public keys (JSON Web Key Set, RFC 7517) by which RS256, ES256 and EdDSA do: the one that the token names
    /// (`kid`), or the only one for its algorithm. It is read anew when it changes.
    jwks_file: Option<PathBuf> = Unset("/etc/tidegate/jwks.json");

    /// How tokens may be signed; without it, in every way that there is a key for. A key is for one algorithm alone, whatever
    /// a token says: HS256 has `jwt_secret`, all others have `jwks_file`.
    jwt_algorithms: Option<Vec<Algorithm>> = Unset(r#"["HS256", "RS256"]"#);

    /// The field that brings a token: `Authorization` behind `Bearer`, any other one also without.
    jwt_header: FieldName = Default("authorization");

    /// A cookie that brings it, where that field doesn't.
    jwt_cookie: Option<CookieName> = Unset("session");

    /// Who may have issued a token (`iss`); empty is anybody who has the key.
    jwt_issuer: Vec<String> = Default("[]");

    /// Names of yours, one of which a token has to be meant for (`aud`). Empty takes tokens that are meant for nobody in
    /// particular, and none of the others (RFC 7519 §4.1.3).
    jwt_audience: Vec<String> = Default("[]");

    /// The claim that says whose a token is, a text or a whole number. A token without it is nobody's.
    jwt_claim: String = Default("sub");

    /// The claim that says which tier of the limits its owner has, as `tiers` calls it.
    tier_claim: Option<String> = Unset("plan");

    /// How far clocks may be apart when a token begins (`nbf`) and ends (`exp`).
    jwt_leeway: Duration = Default("60s"), "0" to "10m";

    /// How far off its end may be. A token without an end is not accepted.
    jwt_max_life: Duration = Default("365d"), "1m" to "3650d";

    /// The longest token.
    jwt_max_size: Size = Default("8KiB"), "256B" to "64KiB";

    /// How many verified tokens are remembered, so that they need not be verified again: some 100 bytes each.
    jwt_cache: usize = Default("16384"), "256" to "1000000";
}

table! {
    /// How often each client may come. There is no limit until one is written; a request may meet several, and then all of
    /// them have to admit it, or it counts for none. Begin with `action = "log"` and look at
    /// `tidegate_limited_total{action="logged"}`: it says what would be refused.
    Limit = "limit", many: true, optional: true;

    /// What metrics, the access log and the fields `RateLimit` call it; else `limit-1`, `limit-2` and so on.
    name: Option<Name> = Unset("visitors");

    /// A limit to begin with, for what is worth more than a page; whatever else is written here comes first. `login`: 5 a
    /// minute, of POST, and up to 15 minutes for who goes on. `search`: 30 a minute, 10 at once, of what reaches the origin.
    /// `write`: 20 a minute, 10 at once, of POST, PUT, PATCH and DELETE, and up to a minute for who goes on.
    preset: Option<Preset> = Unset("login");

    /// What makes two requests the same client's: `ip` is the address (of IPv6 the /64), `route` and `host` the site's own,
    /// `header:NAME` and `cookie:NAME` what the request says there, `api_key` whose key it brings, `jwt:CLAIM` whom a
    /// verified token names so (by `[identity]`; four claims at most), and its address where there is none of it, or several things; several with
    /// `+`, as in `ip+route`. What a request says is hashed and never written down. Anybody can say something new each
    /// time, so beside a limit by header or cookie there should be one by `ip`; keys and tokens that are not verified are none.
    key: Key = Default("ip");

    /// How many requests a client may make, as in `10/s`, `100/min`, `1000/h` or `5/15m`: evenly, so nobody has more than
    /// that and the burst in any period. At most 1000000/s.
    rate: Option<Frequency> = Unset("100/min");

    /// Rates of those who are known by `[identity]`, instead of `rate`: `signed_in` is everybody with a key or a verified
    /// token, any other name the tier that the file of keys or `tier_claim` gives to some of them. Each counts for who it is,
    /// whatever the address: where `key` has `ip`, that stands for the person. A person counts by the token, if there are both.
    /// Who has no rate here counts like the unknown.
    tiers: Option<Tiers> = Unset(r#"{ signed_in = "1000/min", gold = "5000/min" }"#);

    /// How many of them at once; else as many as `rate` says for a whole period. For tiers it grows with the rate.
    burst: Option<usize> = Unset("20"), "1" to "1000000";

    /// How many requests of a client may be in hand at once, from their heads to the ends of their answers, WebSockets
    /// too. It may stand without `rate`.
    concurrency: Option<usize> = Unset("8"), "1" to "10000";

    /// The names of the routes it is for; else it is for every request, those that no route takes too.
    routes: Vec<Name> = Default("[]");

    /// The methods it is for, `GET` for HEAD too; else all.
    methods: Vec<MethodName> = Default("[]");

    /// What counts: `all` requests, or only those that an `origin` is asked for, so that a school behind one address may
    /// read cached pages as it likes. With `origin` those count who are the first to ask for a page and whose answers
    /// can't be shared; not those who get what is stored or wait for what others have asked for.
    counts: Counts = Default("all");

    /// What a request counts for: a number, or with `origin_ms` a millisecond of an origin's time each, from the place it
    /// gets there to the end of the answer (streams and WebSockets: their beginning). That is charged afterwards, so a client
    /// may owe as much as a whole burst: then it is beyond the limit until the debt is paid.
    cost: Costs = Default("1");

    /// What becomes of a request beyond the limit: `refuse` answers 429; `delay` lets it wait for its turn, up to
    /// `max_delay`, and refuses it past that; `stale` serves what is stored, however old the page's own terms let it be, and
    /// refuses what isn't; `challenge` asks for a pass (`[challenge]`): a browser gets the puzzle, whoever shows no pages 429, and
    /// who has a pass goes on; `log` does nothing, and is how to try a limit out: it is counted and logged. A pass lets its
    /// bearer through limits that ask for one, as often as he likes while it lasts, and through no others: beside such a limit
    /// there should be a wider one that refuses.
    action: Action = Default("refuse");

    /// How long `delay` lets a request wait. What is over `concurrency` doesn't wait.
    max_delay: Duration = Default("1s"), "1ms" to "1m";

    /// How long a client may come to be kept out that goes on though it is refused: each refused request then counts as
    /// one that was not, until the client would have to wait so long. Whoever stays away gets back what it costs with
    /// time, like any other. 0 is off.
    penalty: Duration = Default("0"), "0" to "1d";

    /// The most clients that are remembered (of each tier as many), at 20 bytes each; else a million, or as many as there is room for.
    /// All limits together have room for a tenth of `max_memory`, which is taken from that as clients come, and given back when they
    /// have gone. Who has all its burst again is forgotten. Past it who has used least is forgotten for a newcomer, but
    /// nobody who has used more than half; where that leaves nobody, newcomers are let in and counted in
    /// `tidegate_limit_unremembered_total`.
    max_clients: Option<usize> = Unset("300000"), "100" to "100000000";

    /// Which answers tell their clients what is left, in `RateLimit` and `RateLimit-Policy`: `always`; `near`, to those
    /// that have less than half of the burst left; `refused`, those that are refused only. With `always` hot pages go out
    /// a little slower.
    tell: Tell = Default("near");

    /// Whether its rate is shared by all proxies of the fleet, where there is a `[redis]`; else each has all of it. What
    /// `concurrency` says each counts for itself.
    shared: bool = Default("true");

    /// Whether to tell it in `X-RateLimit-Limit`, `-Remaining` and `-Reset` as well, the last in seconds from now.
    x_ratelimit: bool = Default("false");
}

table! {
    /// A puzzle for browsers, against bots: whoever comes without a pass gets a small page whose script solves it, keeps the
    /// pass as a cookie, and asks again. Who shows no pages (programs, an app's own requests) is told 403 instead. Origins see
    /// nothing of it, and neither does the cache: with a pass everybody shares the same pages.
    Challenge = "challenge", many: false;

    /// Who needs a pass: nobody (`off`); whom a `[[rule]]` or a `[[limit]]` with `action = "challenge"` asks for one (`asked`); those,
    /// and every request of `routes` (`always`).
    when: When = Default("off");

    /// The names of the routes that always need one; `[]` is all. Feeds, interfaces for programs, `/robots.txt`, `/.well-known/`
    /// and what others embed or post to (webhooks) are better left out, on routes of their own.
    routes: Vec<Name> = Default("[]");

    /// The names of `[[list]]`s of those who need none, whoever asks for it: an office, monitoring, crawlers of search engines by
    /// the ranges that their owners publish. What they say of themselves (`User-Agent`) proves nothing.
    exempt: Vec<Name> = Default("[]");

    /// How hard the puzzle is: a browser needs 2 to the power of this many tries, and makes about a million a second on a desk,
    /// a third of that in a hand. Each step more doubles it: 16 is a tenth of a second, 20 some seconds.
    difficulty: usize = Default("16"), "1" to "24";

    /// How long a pass lasts. It is good for one client (an IPv4 address, a /64 of IPv6) at one host.
    pass: Duration = Default("1h"), "1m" to "30d";

    /// How long a browser may take for the puzzle.
    solve_within: Duration = Default("5m"), "10s" to "1h";

    /// What puzzles and passes are signed with; keep it secret. Several proxies share one, so that what one gives counts at
    /// all of them. Without it, a new random one at each start (an upgrade is one, too), and passes of before are worth
    /// nothing. `file:PATH` reads it from a file.
    secret: Option<Secret> = Unset("file:/run/secrets/challenge");
}

table! {
    /// Where several proxies meet that share limits, and tell each other of purges and levers. No request waits for it: each proxy has
    /// an even part of every limit, and clients who are refused by that are made known here, so that the others spare what they don't
    /// use. Without Redis (5 or later, or what speaks like it) each goes on with its even part, and hears of purges and levers later.
    Redis = "redis", many: false;

    /// `redis://host:port`, or `rediss://` with TLS, and `/3` behind it for another database than 0. Of several one is
    /// used and the others are tried when it fails: a cluster's nodes, say, of which the one is found that has our keys. Nothing
    /// else should be able to write there.
    servers: Option<Vec<RedisServer>> = Unset(r#"["redis://redis:6379"]"#);

    /// As whom to log in; else as `default`.
    username: Option<Name> = Unset("tidegate");

    /// Its password, or `file:` and where it is. All proxies have to have the same one: clients' names in Redis are
    /// hashes that are keyed with it, and with `prefix`.
    password: Option<Password> = Unset("file:/run/secrets/redis");

    /// A PEM file of certificate authorities to believe instead of the system's.
    ca: Option<PathBuf> = Unset("/etc/tidegate/redis-ca.pem");

    /// How long a message and its answer may take; a new connection may take ten times that, up to a second. What fails three times in a row
    /// is down: it is tried again ever more seldom, every two seconds at last.
    timeout: Duration = Default("50ms"), "5ms" to "1s";

    /// What all keys begin with, in braces. Proxies with another prefix are another fleet.
    prefix: Prefix = Default("tidegate");

    /// How many proxies there are, until Redis has said: what a proxy that starts without Redis divides by. It has to be
    /// said beside `servers`; where they come and go, the most there may be.
    proxies: Option<usize> = Unset("4"), "1" to "256";
}

table! {
    /// The store, shared by all routes.
    Cache = "cache", many: false;

    /// Memory for stored answers and those on their way; the process takes little beside it.
    max_memory: Size = Default("256MiB"), "8MiB" to "16TiB";

    /// The largest answer to store; a quarter of `max_memory` if that is less.
    max_object_size: Size = Default("16MiB"), "1KiB" to "1TiB";

    /// The most requests that wait for answers others have asked for; more get a stale copy, else 503.
    max_waiters: usize = Default("16384"), "1" to "10000000";

    /// How long a visitor waits for such an answer to begin.
    max_wait: Duration = Default("30s"), "10ms" to "10m";

    /// The most variants (by `Vary`) of one page; the oldest goes first.
    max_variants: usize = Default("32"), "1" to "1024";

    /// How much of an answer for one visitor is taken off the origin ahead of a slow reader.
    pass_buffer: Size = Default("1MiB"), "64KiB" to "64MiB";

    /// How long a page that turned out to be private is known as such, so that its visitors don't wait for each other.
    hit_for_miss: Duration = Default("10s"), "100ms" to "1h";

    /// This proxy's name in `CDN-Loop`, by which it notices requests that come round again. Without it, a new random
    /// one at each start; set it where several proxies stand in front of the same app.
    cdn_id: Option<CdnId> = Unset("tidegate-eu1");
}

table! {
    /// What there is for visitors when the app is gone.
    Fallback = "fallback", many: false;

    /// How much of the disk public pages may take, in `snapshot` in the state directory; 0 is off. The last good copy of each is
    /// written there after it was stored: never one that sets a cookie, an error, or what belongs to somebody. From there memory
    /// is filled when the process starts, after a crash too. Past it those that were asked for the longest ago go.
    snapshot: Size = Default("256MB"), "0" to "16TiB";

    /// How fast they are written, at most.
    snapshot_rate: Rate = Default("16MB/s"), "64KiB/s" to "64GiB/s";

    /// A folder of files for a route in fallback, for pages that no copy is stored of: `/about` is `about`, `about.html` or
    /// `about/index.html`, `/` is `index.html`, and beside each there may be one compressed before (`.br`, `.zst`, `.gz`). A folder in it
    /// with a host's name is that host's alone. No link in it is followed, and no file over `max_object_size` read.
    dir: Option<PathBuf> = Unset("/srv/blog/static");

    /// The maintenance page (HTML, 1MiB at most), for pages that there is nothing of; else a bundled one. It is read at start and at each reload,
    /// and sent with status 503. Programs that ask for JSON get that.
    page: Option<PathBuf> = Unset("/etc/tidegate/maintenance.html");

    /// When those who got the maintenance page are to come again, at the least (`Retry-After`).
    retry_after: Duration = Default("30s"), "1s" to "1h";

    /// Whether a route goes into fallback by itself when nothing healthy is left of its upstream: all servers are ill by their health
    /// check, or its breaker is open. Without it, where `dir` or `page` says that something was prepared for that: else stale copies
    /// and 503 do until a second after the app is back, and what forbids stale use is not served.
    auto: Option<bool> = Unset("true");

    /// How long nothing healthy has to be left before it goes on by itself.
    auto_after: Duration = Default("5s"), "0" to "1h";

    /// How long the upstream has to be healthy before it goes off by itself.
    auto_hold: Duration = Default("10s"), "0" to "1h";
}

table! {
    /// What outlives the process.
    State = "state", many: false;

    /// The directory of the token, the audit log and the admin socket, or `off`. Without it that of systemd
    /// (`StateDirectory=`), else `/var/lib/tidegate/PORT` by the port of `[listen]`, else `~/.local/state/tidegate/PORT`
    /// (`$XDG_STATE_HOME`). It is made for this user alone. Where it can't be written Tidegate serves without: see the log.
    dir: Option<OrOff<PathBuf>> = Unset("/var/lib/tidegate/blog");
}

table! {
    /// Metrics, health and the admin API, for operators only.
    Admin = "admin", many: false;

    /// Address and port of `/metrics`, `/healthz`, `/readyz` and, below `/v1/`, the admin API, or `off`. The API takes
    /// the token and asks for loopback names or the address itself as Host; it is in clear, so leave it on this machine.
    address: OrOff<SocketAddr> = Default("127.0.0.1:9901");

    /// Where a Unix socket with the same is, or `off`; else `admin.sock` in the state directory. It is this user's and
    /// root's alone, who need no token there. `tidegate ctl` finds it.
    socket: Option<OrOff<PathBuf>> = Unset("/run/tidegate/admin.sock");

    /// The token: at least 16 bytes of visible ASCII, as `${NAME}` or as `file:/run/secrets/admin`. Without it one is made at
    /// the first start, in `token` in the state directory.
    token: Option<Secret> = Unset("file:/run/secrets/admin");
}

table! {
    /// What is written down.
    Log = "log", many: false;

    /// The access log, one JSON object a line: `stdout`, `off`, or a file's path.
    access: Output = Default("stdout");

    /// The least weighty event to print.
    level: Level = Default("info");

    /// Query parameters whose values are not written: `"token"`.
    hide_query: Vec<String> = Default("[]");
}
