//! A route in fallback: its visitors get what there is without the app, in this order: the page that is cached, however stale; its
//! last good copy on the disk; a file of the directory; the maintenance page. Nobody goes to the origin but, while its breaker is open, who is to go and see.
//!
//! Downstream nobody is to keep any of it as the page, but for a cached one that is as fresh as ever: that is the page.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Site;
use super::asking::{Asking, Noted, Verb};
use super::deliver;
use super::h1::{Conn, Next};
use super::liked::in_liked_coding;
use super::lines::{Lines, common_lines};
use super::lookup::{self, Decision, Miss};
use super::miss::{Place, part_of};
use super::page::Guise;
use super::part::Part;
use super::record::Outcome;
use crate::cache::entry::Entry;
use crate::cache::key::Key;
use crate::clock;
use crate::config::policy::Route;
use crate::fallback::Wanted;
use crate::fetch::{Reason, Seen, vary_values};
use crate::rules::cache_status::{Detail, Fwd, Told};
use crate::rules::date;
use crate::rules::decimal;
use crate::rules::fallback as rules;
use crate::rules::host::{self, Scheme};
use crate::rules::identity::Class;
use crate::rules::request::{Method, RequestBody};
use crate::rules::retry_after::after_wait;
use crate::rules::reuse::{Demand, Reuse, is_origin_error};
use crate::rules::time::{Moment, Now};
use crate::rules::vary::{self, AsSent, Codings};
use crate::telemetry::{CacheResult, FallbackSource, ids};

/// How long the disk is looked at: a disk that hangs is as good as none.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a request gets without the app.
pub struct Instead {
    route: Arc<Route>,
    what: What,
    /// It is only tried: what is done if that comes to nothing.
    live: Option<Decision>,
    is_drill: bool,
    /// Where the route wants it told.
    status_key: Option<Box<[u8]>>,
}

enum What {
    Stored(Box<Stored>),
    /// What is on the disk, if it is there.
    Look(Box<Look>),
    /// It can't be had without the app.
    Nothing,
}

struct Stored {
    entry: Arc<Entry>,
    /// The same in the coding that the client likes.
    told: Arc<Entry>,
    part: Part,
    ttl: i64,
    /// It is as fresh as ever.
    keeps: bool,
}

struct Look {
    copy: Option<Copy>,
    host: Box<str>,
    files: Vec<Vec<u8>>,
    codings: Codings,
    own: Vec<(HeaderName, HeaderValue)>,
}

impl Look {
    /// Reads the disk.
    fn find(&self, site: &Site) -> Option<Lying> {
        let copy = self.copy.as_ref().and_then(|copy| {
            let entry = copy.find(site)?;
            Some(Lying {
                keeps: is_fresh(&entry, &copy.demand, clock::moment()),
                entry,
                source: FallbackSource::Snapshot,
            })
        });
        copy.or_else(|| {
            let entry = site
                .reserve
                .file(&self.wanted(site), &site.fetcher.memory)?;
            Some(Lying {
                entry,
                source: FallbackSource::File,
                keeps: false,
            })
        })
    }

    fn wanted(&self, site: &Site) -> Wanted<'_> {
        Wanted {
            host: &self.host,
            files: &self.files,
            codings: self.codings,
            most: site.policy.cache.max_object_size,
            own: &self.own,
            now: clock::now(),
        }
    }
}

/// A copy in the snapshot, which holds what strangers were given.
struct Copy {
    key: Key,
    /// The request's fields, and what of them selects a copy.
    fields: HeaderMap,
    sent: AsSent,
    demand: Demand,
}

impl Copy {
    fn of(site: &Site, asking: &Asking) -> Option<Copy> {
        let is_there = asking.route.cache && site.fetcher.snapshot.covered(asking.key);
        if !is_there {
            return None;
        }
        let mut fields = HeaderMap::new();
        for line in asking.request.lines {
            let name = HeaderName::from_bytes(line.name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value)) {
                fields.append(name, value);
            }
        }
        Some(Copy {
            key: asking.key.to_key(),
            fields,
            sent: as_stranger(asking),
            demand: demand(asking),
        })
    }

    /// Reads the disk.
    fn find(&self, site: &Site) -> Option<Arc<Entry>> {
        let select = |names: &[HeaderName]| vary_values(names, &self.fields, &self.sent);
        site.fetcher.snapshot.find(self.key.as_ref(), select)
    }
}

fn as_stranger(asking: &Asking) -> AsSent {
    AsSent {
        class: Class::Anonymous,
        ..asking.as_sent()
    }
}

/// What a request asks of a copy, where nothing forbids its use.
fn demand(asking: &Asking) -> Demand {
    Demand {
        class: asking.class,
        directives: None,
        only_if_cached: false,
        pulled: asking.route.pulled.pages,
    }
}

/// Whether it is the page, as fresh as ever.
fn is_fresh(entry: &Entry, demand: &Demand, now: Moment) -> bool {
    matches!(entry.reuse(now, demand), Reuse::Fresh { .. })
}

/// Where an answer would come from.
pub enum Found {
    Cached,
    /// From where only a look at the disk finds out.
    Elsewhere(Elsewhere),
    /// It can't be had without the app.
    Nothing,
}

/// What is to be looked for.
pub struct Elsewhere(Box<Look>);

impl Elsewhere {
    /// Where it is found. Blocks.
    pub fn source(&self, site: &Site) -> FallbackSource {
        let wanted = self.0.wanted(site);
        match self.0.copy {
            Some(_) => FallbackSource::Snapshot,
            None if site.reserve.has_file(&wanted) => FallbackSource::File,
            None => FallbackSource::Maintenance,
        }
    }
}

/// Where a request's answer would come from.
pub fn found(site: &Site, asking: &Asking, now: Now) -> Found {
    match instead(site, asking, now).what {
        What::Stored(_) => Found::Cached,
        What::Look(look) => Found::Elsewhere(Elsewhere(look)),
        What::Nothing => Found::Nothing,
    }
}

/// Decides on a request of a route that is in fallback.
pub fn decide(site: &Site, asking: &Asking, noted: &Noted, now: Now) -> Decision {
    let instead = instead(site, asking, now);
    let stored = match &instead.what {
        What::Stored(stored) => Some(&stored.entry),
        What::Look(_) => None,
        What::Nothing => return Decision::Instead(Box::new(instead)),
    };
    send_to_see(site, asking, noted, stored, now);
    Decision::Instead(Box::new(instead))
}

/// Where it is time to see whether the app is back, a fetch of this page goes for that, as a refresh does: nobody waits for it. Without
/// it nobody would learn of its return where no health check does.
fn send_to_see(site: &Site, asking: &Asking, noted: &Noted, stored: Option<&Arc<Entry>>, now: Now) {
    let upstream = site.fetcher.upstream(asking.route.upstream);
    let is_due = upstream.open_since(now.mono) == Some(Moment(u64::MAX));
    if !is_due || !site.reserve.sends_one(asking.route, now.mono) {
        return;
    }
    let seen = Seen {
        now,
        entry: stored.cloned(),
        presumed: None,
        since: site.fetcher.store.current(),
        at_least: 0,
    };
    let lane = (asking.key.to_key(), asking.class);
    // A request that has been through here is no news from there.
    if let Ok(errand) = asking.errand(noted, Reason::Refresh, false, stored.cloned()) {
        drop(site.fetcher.board(errand, &lane, &seen, || true));
    }
}

fn instead(site: &Site, asking: &Asking, now: Now) -> Instead {
    let request = asking.request;
    let reads = matches!(request.method, Method::Get | Method::Head)
        && request.body == RequestBody::None
        && !asking.upgrades();
    let what = match reads {
        false => What::Nothing,
        true => match stored(site, asking, now) {
            Some(stored) => What::Stored(Box::new(stored)),
            None => What::Look(Box::new(look(site, asking))),
        },
    };
    Instead {
        route: Arc::clone(asking.route),
        what,
        live: None,
        is_drill: false,
        status_key: asking.route.status_key.then(|| asking.key.bytes().into()),
    }
}

/// Whether a request is one of those on which it is tried what there is without the app, and what that comes to. None: it is not.
pub fn drill(site: &Site, asking: &Asking, now: Now) -> Option<Instead> {
    let share = asking.route.pulled.drill;
    let is_one = share > 0 && (ids::random() >> 32) as u32 <= share;
    if !is_one || asking.class != Class::Anonymous || asking.only_if_cached {
        return None;
    }
    let instead = Instead {
        is_drill: true,
        ..instead(site, asking, now)
    };
    (!matches!(instead.what, What::Nothing)).then_some(instead)
}

impl Instead {
    /// Answers so if it can, else does what is done with others.
    pub fn or_else(self, site: &Site, live: impl FnOnce() -> Decision) -> Decision {
        let may_be_found = match &self.what {
            What::Stored(_) => return Decision::Instead(Box::new(self)),
            What::Look(look) => look.copy.is_some() || !look.files.is_empty(),
            What::Nothing => false,
        };
        match live() {
            live @ (Decision::Miss(_) | Decision::Down(_)) if may_be_found => {
                let live = Some(live);
                Decision::Instead(Box::new(Instead { live, ..self }))
            }
            live => {
                site.reserve
                    .count_drill(&self.route, FallbackSource::Maintenance);
                live
            }
        }
    }
}

/// The cached page, whatever forbids its use while the app is there; a stranger's, if there is none of this request's own kind. What
/// is cached is nobody's own. An origin's error is no page.
fn stored(site: &Site, asking: &Asking, now: Now) -> Option<Stored> {
    let slot = site.fetcher.find(asking.key, now.mono)?;
    let select = |sent: AsSent| {
        slot.find(|names| {
            let mut values = Vec::with_capacity(64);
            vary::select(names, &asking.selecting(), &sent, &mut values);
            values.into()
        })
    };
    let own = select(asking.as_sent());
    let entry = own.or_else(|| select(as_stranger(asking)))?;
    if is_origin_error(entry.head.status) {
        return None;
    }
    let keeps = is_fresh(entry, &demand(asking), now.mono);
    let ttl = entry.ttl(now.mono);
    let told = in_liked_coding(site, asking, entry);
    let size = Some(told.body.len());
    Some(Stored {
        part: Part::of(asking.request, &told.head, size, now.wall),
        told: Arc::clone(told),
        entry: Arc::clone(entry),
        ttl,
        keeps,
    })
}

fn look(site: &Site, asking: &Asking) -> Look {
    let query = asking.target.split_once('?').map(|(_, query)| query);
    let files = match site.reserve.has_files() {
        true => rules::files(asking.path, query),
        false => Vec::new(),
    };
    let plain = asking.request.known.range.is_some() || asking.no_transform;
    let hsts = asking.route.hsts.clone();
    let hsts = hsts.filter(|_| asking.scheme == Scheme::Https);
    let hsts = hsts.map(|value| (header::STRICT_TRANSPORT_SECURITY, value));
    Look {
        copy: Copy::of(site, asking),
        host: host::without_port(asking.host).into(),
        files,
        codings: match plain {
            true => Codings::IDENTITY,
            false => Codings::of(asking.request),
        },
        own: asking.route.added.iter().cloned().chain(hsts).collect(),
    }
}

/// Answers a request so.
///
/// # Errors
/// The client's connection failed.
pub async fn serve(conn: &mut Conn, noted: &Noted, instead: Instead) -> io::Result<Outcome> {
    let Instead {
        route,
        what,
        status_key,
        live,
        is_drill,
    } = instead;
    let key = status_key.as_deref();
    match what {
        What::Stored(stored) => {
            let told = Told {
                key,
                ..Told::stale(stored.ttl, Detail::Fallback)
            };
            let guise = Guise {
                source: FallbackSource::Cache,
                keeps: stored.keeps,
                is_drill,
            };
            let (entry, part) = (&stored.told, &stored.part);
            send(conn, noted, &route, (entry, part), &told, guise).await
        }
        What::Look(look) => match on_disk(conn, *look).await {
            Some(Lying {
                entry,
                source,
                keeps,
            }) => {
                let told = match source {
                    FallbackSource::File => Told::fallback(),
                    _ => Told::stale(entry.ttl(clock::moment()), Detail::Fallback),
                };
                let told = Told { key, ..told };
                let guise = Guise {
                    source,
                    keeps,
                    is_drill,
                };
                let part = part_of(conn, &entry.head, Some(entry.body.len()));
                send(conn, noted, &route, (&entry, &part), &told, guise).await
            }
            None => match live {
                Some(live) => {
                    let reserve = &conn.site.reserve;
                    reserve.count_drill(&route, FallbackSource::Maintenance);
                    go_on(conn, noted, live).await
                }
                None => maintenance(conn, noted, &route, FallbackSource::Maintenance, key).await,
            },
        },
        What::Nothing => maintenance(conn, noted, &route, FallbackSource::Refused, key).await,
    }
}

/// Has the app answer after all.
fn go_on<'a>(
    conn: &'a mut Conn,
    noted: &'a Noted,
    live: Decision,
) -> Pin<Box<dyn Future<Output = io::Result<Outcome>> + Send + 'a>> {
    Box::pin(conn.carry_out(noted, live))
}

/// Answers a request so that has waited for the app until now.
///
/// # Errors
/// The client's connection failed.
pub async fn after_all(conn: &mut Conn, noted: &Noted, miss: &Miss) -> io::Result<Outcome> {
    let site = Arc::clone(&conn.site);
    let now = clock::now();
    let found = lookup::again(conn.policy(), conn.inbox.bytes(), conn.whence(), |asking| {
        instead(&site, asking, now)
    });
    let instead = found.unwrap_or_else(|| Instead {
        route: Arc::clone(&miss.route),
        what: What::Nothing,
        live: None,
        is_drill: false,
        status_key: miss.status_key.clone(),
    });
    serve(conn, noted, instead).await
}

async fn send(
    conn: &mut Conn,
    noted: &Noted,
    route: &Arc<Route>,
    page: (&Arc<Entry>, &Part),
    told: &Told<'_>,
    guise: Guise,
) -> io::Result<Outcome> {
    match guise.is_drill {
        true => conn.site.reserve.count_drill(route, guise.source),
        false => conn.site.reserve.count(route, guise.source),
    }
    deliver::disguised(conn, noted, route, page, told, guise).await
}

/// What was found on the disk.
struct Lying {
    entry: Arc<Entry>,
    source: FallbackSource,
    keeps: bool,
}

/// The copy of a page or the file that stands for it, looked for off the worker's thread.
async fn on_disk(conn: &Conn, look: Look) -> Option<Lying> {
    if look.copy.is_none() && look.files.is_empty() {
        return None;
    }
    let _place = Place::take(&conn.site, conn.policy().cache.max_waiters)?;
    let site = Arc::clone(&conn.site);
    let looks = async move {
        let turn = Arc::clone(site.reserve.readers());
        let turn = turn.acquire_owned().await.ok()?;
        let found = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            look.find(&site)
        });
        found.await.ok()?
    };
    tokio::time::timeout(PATIENCE, looks).await.ok()?
}

/// Says that there is nothing without the app, and when to come again.
async fn maintenance(
    conn: &mut Conn,
    noted: &Noted,
    route: &Arc<Route>,
    source: FallbackSource,
    key: Option<&[u8]>,
) -> io::Result<Outcome> {
    let reserve = &conn.site.reserve;
    reserve.count(route, source);
    let accept = noted.accept.map(|accept| accept.bytes(conn.inbox.bytes()));
    let json = accept.is_some_and(rules::prefers_json);
    let (kind, body) = match (json, source) {
        (true, FallbackSource::Refused) => (PROBLEM, Bytes::from_static(CHANGES_NOTHING)),
        (true, _) => (PROBLEM, Bytes::from_static(NO_PAGE)),
        (false, _) => (PAGE, reserve.page().clone()),
    };
    let retry = after_wait(reserve.retry_after, ids::random());
    // A body that was sent along must never be taken for the next request.
    let close = noted.has_body || conn.closes(noted);
    let told = Told {
        detail: Some(Detail::Fallback),
        key,
        ..Told::refused(match source {
            FallbackSource::Refused => Fwd::Method,
            _ => Fwd::UriMiss,
        })
    };
    let mut lines = Lines::take();
    let out = &mut lines.0;
    out.extend_from_slice(b"HTTP/1.1 503 Service Unavailable\r\nDate: ");
    out.extend_from_slice(&date::format(clock::now().wall));
    out.extend_from_slice(b"\r\nCache-Control: no-store\r\nRetry-After: ");
    decimal::write(retry, out);
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\r\nContent-Length: ");
    decimal::write(body.len(), out);
    out.extend_from_slice(b"\r\nCache-Status: ");
    told.write(out);
    out.extend_from_slice(b"\r\n");
    if route.x_cache {
        out.extend_from_slice(format!("X-Cache: {}\r\n", told.x_cache()).as_bytes());
    }
    Guise::line(source, false, out);
    common_lines(noted, close, out);
    out.extend_from_slice(b"\r\n");
    let pieces: &[Bytes] = match noted.method {
        Verb::Known("HEAD") => &[],
        _ => std::slice::from_ref(&body),
    };
    conn.wire.send_body(lines.bytes(), pieces, false).await?;
    Ok(Outcome {
        status: 503,
        bytes: pieces.iter().map(|piece| piece.len() as u64).sum(),
        result: CacheResult::Fallback,
        route: Some(Arc::clone(route)),
        asked: 0,
        next: if close { Next::Close } else { Next::Keep },
    })
}

const PAGE: &str = "text/html; charset=utf-8";
const PROBLEM: &str = "application/problem+json";
const NO_PAGE: &[u8] =
    b"{\"detail\":\"the app behind this site is not there, and no copy of this page is\",\
\"status\":503,\"title\":\"Service Unavailable\",\"type\":\"about:blank\"}\n";
const CHANGES_NOTHING: &[u8] = b"{\"detail\":\"the app behind this site is not there: it can be read, as far as there are copies\",\
\"status\":503,\"title\":\"Service Unavailable\",\"type\":\"about:blank\"}\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9457_both_bodies_are_problems() {
        for body in [NO_PAGE, CHANGES_NOTHING] {
            let json: serde_json::Value = serde_json::from_slice(body).unwrap();
            assert_eq!(json["status"], 503);
        }
    }
}
