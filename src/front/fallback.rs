//! A route in fallback: its visitors get what there is without the app, in this order: the page that is cached, however stale; its
//! last good copy on the disk; a file of the directory; the maintenance page. Nobody goes to the origin but, while its breaker is open, who is to go and see.
//!
//! Downstream nobody is to keep any of it as the page, but for a cached one that is as fresh as ever: that is the page.

mod disk;
mod maintenance;

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use super::Site;
use super::asking::{Asking, Noted};
use super::deliver;
use super::h1::Conn;
use super::liked::in_liked_coding;
use super::lookup::{self, Decision, Miss, Turn};
use super::miss::part_of;
use super::page::Guise;
use super::part::Part;
use super::record::Outcome;
use crate::cache::entry::Entry;
use crate::clock;
use crate::config::policy::Route;
use crate::fetch::{Reason, Seen};
use crate::rules::cache_status::{Detail, Told};
use crate::rules::identity::Class;
use crate::rules::request::{Method, RequestBody};
use crate::rules::reuse::{Demand, Reuse, is_origin_error};
use crate::rules::time::{Moment, Now};
use crate::rules::vary::{self, AsSent};
use crate::telemetry::FallbackSource;
use disk::{Look, Lying, look, on_disk};
use maintenance::maintenance;

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

/// Where an answer would come from.
pub enum Found {
    Cached,
    /// From where only a look at the disk finds out.
    Elsewhere(Box<Look>),
    /// It can't be had without the app.
    Nothing,
}

/// Where a request's answer would come from.
pub fn found(site: &Site, asking: &Asking, now: Now) -> Found {
    match instead(site, asking, now).what {
        What::Stored(_) => Found::Cached,
        What::Look(look) => Found::Elsewhere(look),
        What::Nothing => Found::Nothing,
    }
}

/// Decides on a request of a route that is in fallback; `live`: what is done with others.
pub fn decide(
    site: &Site,
    asking: &Asking,
    noted: &Noted,
    now: Now,
    turn: &Turn,
    live: impl FnOnce() -> Decision,
) -> Decision {
    let instead = instead(site, asking, now);
    let stored = match &instead.what {
        What::Stored(stored) => Some(&stored.entry),
        What::Look(_) => None,
        What::Nothing if goes_itself(site, asking, now, turn) => return live(),
        What::Nothing => return Decision::Instead(Box::new(instead)),
    };
    if is_due(site, asking, now) && site.reserve.sends_one(asking.route, now.mono) {
        send_to_see(site, asking, noted, stored, now);
    }
    Decision::Instead(Box::new(instead))
}

/// Whether it is time to see whether the app is back.
fn is_due(site: &Site, asking: &Asking, now: Now) -> bool {
    let upstream = site.fetcher.upstream(asking.route.upstream);
    upstream.open_since(now.mono) == Some(Moment(u64::MAX))
}

/// Whether a request that is refused otherwise goes to see itself: an app that nobody reads pages of would be taken for gone for
/// ever. Not where somebody has said that it is. Who has waited for his turn since had leave to go; there its breaker lets one
/// through.
fn goes_itself(site: &Site, asking: &Asking, now: Now, turn: &Turn) -> bool {
    !asking.route.pulled.fallback
        && is_due(site, asking, now)
        && (matches!(turn, Turn::Waited) || site.reserve.sends_one(asking.route, now.mono))
}

/// A fetch of this page goes to see, as a refresh does: nobody waits for it. Without it nobody would learn of the app's return where
/// no health check does.
fn send_to_see(site: &Site, asking: &Asking, noted: &Noted, stored: Option<&Arc<Entry>>, now: Now) {
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
pub fn drill(site: &Site, asking: &Asking, noted: &Noted, now: Now) -> Option<Instead> {
    let (route, pulled) = (asking.route, &asking.route.pulled);
    let is_one = pulled.drill > 0 && noted.id.draw() <= pulled.drill;
    // What goes past the cache is nothing to be tried there.
    if !is_one || noted.marks.bypasses() || pulled.bypass || !route.cache {
        return None;
    }
    if asking.class != Class::Anonymous || asking.only_if_cached {
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
            What::Look(look) => look.is_worth_it(),
            What::Nothing => false,
        };
        match live() {
            live @ (Decision::Miss(_) | Decision::Down(_) | Decision::Cold(_)) if may_be_found => {
                let live = Some(live);
                Decision::Instead(Box::new(Instead { live, ..self }))
            }
            live => {
                count_in_vain(site, &self.route, &live);
                live
            }
        }
    }
}

/// It was tried on a request that the app answers after all. One whose page is brought back first is tried again then, and counted.
fn count_in_vain(site: &Site, route: &Route, live: &Decision) {
    if !matches!(live, Decision::Cold(_)) {
        let reserve = &site.reserve;
        reserve.count_drill(route, FallbackSource::Maintenance);
    }
}

/// The cached page, whatever forbids its use while the app is there; a stranger's, if there is none of this request's own kind. What
/// is cached is nobody's own. An origin's error is no page.
fn stored(site: &Site, asking: &Asking, now: Now) -> Option<Stored> {
    // A route that was told to cache nothing may have been told so for what is stored.
    if !asking.route.cache {
        return None;
    }
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
                    count_in_vain(&conn.site, &route, &live);
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
