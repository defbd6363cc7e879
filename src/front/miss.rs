//! A request that waits for a flight: boarding it, waiting with patience, and what to do when it fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::asking::{Asking, Noted};
use super::down::Down;
use super::h1::Conn;
use super::limited::Gate;
use super::lookup::{self, Miss};
use super::part::Part;
use super::problem::Problem;
use super::record::Outcome;
use super::{Site, challenge, deliver, down, fallback, follow, limited};
use crate::cache::entry::{Entry, Head};
use crate::cache::flight::{Answer, Failure, News, Reader, Sharing};
use crate::cache::table::Variant;
use crate::clock;
use crate::fetch::{Boarded, Errand, Seen, errand_ttl, vary_values};
use crate::rules::cache_status::{Detail, Told, Way};
use crate::rules::identity::Class;
use crate::rules::request::{Method, Request};
use crate::rules::reuse::is_origin_error;
use crate::rules::storing::{self, Terms};
use crate::telemetry::CacheResult;

/// More than this a client may not pipeline while it waits.
pub const PIPELINED: usize = 64 * 1024;
/// A request that finds itself on the wrong flight changes at most so often before it goes alone.
const CHANGES: usize = 3;

/// How a wait for a flight ended.
enum Waited {
    News(News),
    /// The stored page is to be served instead of waiting on.
    Slow,
    /// The client's own patience, or ours for it, is over.
    TooLong,
    /// Its route has gone into fallback meanwhile.
    Fallback,
    Gone,
}

/// Serves a request by a flight.
///
/// # Errors
/// The client's connection failed.
pub async fn serve(conn: &mut Conn, noted: &Noted, miss: Miss) -> io::Result<Outcome> {
    let mut seen = miss.seen.clone();
    let mut alone = miss.alone;
    for change in 0.. {
        // A place first: who is refused one must not have asked for anything.
        let Some(place) = Place::take(&conn.site, conn.policy().cache.max_waiters) else {
            let problem = Problem::too_many_waiters(backlog(conn, &miss));
            return rescue(conn, noted, &miss, None, problem).await;
        };
        let goes_alone = alone || change >= CHANGES;
        let (boarded, gate) = match board(conn, noted, &miss, &seen, goes_alone) {
            Some(boarded) => boarded,
            None => return conn.answer(&Problem::looped(), noted, None).await,
        };
        let (mut reader, collapsed) = match boarded {
            Boarded::Found(entry) => return landed(conn, noted, &miss, entry, false, true).await,
            Boarded::Reader { reader, collapsed } => (reader, collapsed),
            Boarded::Resting => return stand_in(conn, noted, &miss, None, Detail::Sie).await,
            Boarded::Alone => {
                alone = true;
                continue;
            }
            Boarded::Barred => {
                drop(place);
                match gate {
                    Gate::Open => continue,
                    Gate::Later(wait) => {
                        if limited::sleep(conn, noted, wait).await {
                            continue;
                        }
                        return Ok(Outcome {
                            route: Some(Arc::clone(&miss.route)),
                            ..Outcome::aborted()
                        });
                    }
                    Gate::OnlyStored(_) if miss.stand_in => {
                        return stand_in(conn, noted, &miss, None, Detail::Limited).await;
                    }
                    Gate::OnlyStored(refused) | Gate::Shut(refused) => {
                        return limited::refuse(conn, noted, refused).await;
                    }
                    Gate::Challenge(what) => return challenge::answer(conn, noted, *what).await,
                }
            }
        };
        let waited = wait(conn, noted, &miss, &mut reader).await?;
        drop(place);
        match waited {
            Waited::News(News::Head(answer)) => match standing(&answer, &reader, conn, &seen) {
                Standing::Mine => {
                    if !reader.is_alone() && asks_for_its_range(conn, &answer) {
                        alone = true;
                        continue;
                    }
                    return follow::flight(conn, noted, &miss, reader, &answer, collapsed).await;
                }
                Standing::Failed(failure) => {
                    return rescue(
                        conn,
                        noted,
                        &miss,
                        Some(answer.fwd_status),
                        Problem::failure(&failure),
                    )
                    .await;
                }
                Standing::Another(presumed) => seen.look_for(presumed),
                Standing::Outdated => seen.look_for_newer(),
                Standing::Again => {}
                Standing::Alone => alone = true,
            },
            Waited::News(News::Landed { entry, .. })
                if !reader.is_leader() && seen.forbids(&entry.tags, entry.generation) =>
            {
                seen.look_for_newer();
            }
            Waited::News(News::Landed { entry, validated }) => {
                match selects(conn, &entry.variant, &entry.terms, &reader) {
                    Standing::Mine => {
                        return landed(conn, noted, &miss, entry, validated, collapsed).await;
                    }
                    Standing::Another(presumed) => seen.look_for(presumed),
                    Standing::Alone
                    | Standing::Failed(_)
                    | Standing::Again
                    | Standing::Outdated => alone = true,
                }
            }
            Waited::News(News::Failed(Failure::Refused(refusal))) if refusal.is_down => {
                if miss.stand_in {
                    return stand_in(conn, noted, &miss, None, Detail::Breaker).await;
                }
                return down::refuse(conn, noted, &Down::of(&miss, refusal)).await;
            }
            Waited::News(News::Failed(failure)) => {
                let status = if let Failure::OriginStatus(status) = failure {
                    Some(status)
                } else {
                    None
                };
                return rescue(conn, noted, &miss, status, Problem::failure(&failure)).await;
            }
            Waited::News(News::Interim { .. }) => {}
            Waited::Slow => return stand_in(conn, noted, &miss, None, Detail::Slow).await,
            Waited::TooLong => {
                let problem = Problem::waited(backlog(conn, &miss));
                return rescue(conn, noted, &miss, None, problem).await;
            }
            Waited::Fallback => {
                drop(reader);
                return fallback::after_all(conn, noted, &miss).await;
            }
            Waited::Gone => {
                return Ok(Outcome {
                    route: Some(Arc::clone(&miss.route)),
                    ..Outcome::aborted()
                });
            }
        }
    }
    Ok(Outcome::aborted())
}

/// Boards the page's flight, or one of its own, if no limit bars it from that. `None`: the request has been through here
/// already.
fn board(
    conn: &Conn,
    noted: &Noted,
    miss: &Miss,
    seen: &Seen,
    alone: bool,
) -> Option<(Boarded, Gate)> {
    let fetcher = &conn.site.fetcher;
    let boarded = |asking: &Asking| {
        limited::know(&conn.site, &asking.who(), noted);
        let mut gate = Gate::Open;
        let mut may_go = || {
            gate = limited::at_the_origin(&conn.site, &asking.who(), noted);
            match &gate {
                Gate::OnlyStored(_) if miss.stand_in => {}
                Gate::OnlyStored(_) | Gate::Shut(_) | Gate::Challenge(_) => {
                    limited::give_back(&conn.site, &asking.who(), noted);
                }
                Gate::Open | Gate::Later(_) => {}
            }
            matches!(gate, Gate::Open)
        };
        let boarded = match alone {
            true if !may_go() => Boarded::Barred,
            true => Boarded::Reader {
                reader: fetcher.alone(errand(conn, asking, noted, miss, alone)?),
                collapsed: false,
            },
            false => {
                let errand = errand(conn, asking, noted, miss, alone)?;
                fetcher.board(errand, &miss.lane, seen, may_go)
            }
        };
        Some((boarded, gate))
    };
    lookup::again(conn.policy(), conn.inbox.bytes(), conn.whence(), boarded).flatten()
}

fn errand(conn: &Conn, asking: &Asking, noted: &Noted, miss: &Miss, alone: bool) -> Option<Errand> {
    let stored = miss.seen.entry.clone();
    let errand = asking.errand(noted, miss.reason, alone, stored).ok()?;
    Some(Errand {
        bill: limited::bill(&conn.site, &asking.who(), noted),
        ..errand
    })
}

/// Whether an answer is for this reader's request.
enum Standing {
    Mine,
    /// It varies on these fields and selects another request's values.
    Another(Arc<[http::HeaderName]>),
    /// It is its leader's alone.
    Alone,
    /// It is its leader's alone because of that request's Authorization: others try together.
    Again,
    /// It was fetched before a purge that came before this request.
    Outdated,
    /// It is an error that all who waited share.
    Failed(Failure),
}

fn standing(answer: &Answer, reader: &Reader, conn: &Conn, seen: &Seen) -> Standing {
    if reader.is_leader() {
        return Standing::Mine;
    }
    if seen.forbids(&answer.tags, reader.flight().generation()) {
        return Standing::Outdated;
    }
    match &answer.sharing {
        Sharing::Leader { .. } if is_origin_error(answer.fwd_status) => {
            Standing::Failed(Failure::OriginStatus(answer.fwd_status))
        }
        Sharing::Leader { oddity: true, .. } if !has_authorization(conn) => Standing::Again,
        Sharing::Leader { .. } => Standing::Alone,
        Sharing::Everyone { variant, terms } => selects(conn, variant, terms, reader),
    }
}

fn has_authorization(conn: &Conn) -> bool {
    with_request(conn, |request| request.known.authorization).unwrap_or(true)
}

/// Whether a shared answer is for the request at hand: it selects that variant, and the rules let it take it.
fn selects(conn: &Conn, variant: &Variant, terms: &Terms, reader: &Reader) -> Standing {
    if reader.is_leader() {
        return Standing::Mine;
    }
    let found = lookup::again(conn.policy(), conn.inbox.bytes(), conn.whence(), |asking| {
        let values = vary_values(&variant.names, &asking.selecting(), &asking.as_sent());
        (
            values == variant.values,
            storing::follower(terms, &asking.asked(false)).is_ok(),
        )
    });
    match found {
        Some((true, true)) => Standing::Mine,
        Some((false, _)) => Standing::Another(Arc::clone(&variant.names)),
        _ => Standing::Alone,
    }
}

/// Whether a request with a range is better served by asking for that range itself: the flight doesn't know its
/// length, or is too large to be kept. With HEAD a Range means nothing (RFC 9110 §14.2).
fn asks_for_its_range(conn: &Conn, answer: &Answer) -> bool {
    let most = conn.policy().cache.max_object_size;
    answer.length.is_none_or(|length| length > most)
        && answer.head.status == 200
        && with_request(conn, |request| {
            request.method == Method::Get && request.known.range.is_some()
        })
        .unwrap_or(false)
}

/// Reads the request at the front of the inbox again.
pub fn with_request<T>(conn: &Conn, then: impl FnOnce(&Request) -> T) -> Option<T> {
    lookup::again(conn.policy(), conn.inbox.bytes(), conn.whence(), |asking| {
        then(asking.request)
    })
}

/// Waits for the flight's head, as long as it makes sense. Interim answers are passed on.
async fn wait(
    conn: &mut Conn,
    noted: &Noted,
    miss: &Miss,
    reader: &mut Reader,
) -> io::Result<Waited> {
    let anonymous = miss.lane.1 == Class::Anonymous;
    let started = reader.flight().started;
    let slow_at = miss
        .stand_in
        .then(|| started + miss.route.serve_stale_after);
    let too_long_at = noted.began.instant() + conn.policy().cache.max_wait;
    let slow_first = slow_at.is_some_and(|at| at < too_long_at);
    let until = slow_at.filter(|_| slow_first).unwrap_or(too_long_at);
    let site = Arc::clone(&conn.site);
    let mut goes_on = std::pin::pin!(site.reserve.goes_on(&miss.route));
    loop {
        let news = tokio::select! {
            biased;
            news = reader.news() => news,
            () = tokio::time::sleep_until(until.into()) => {
                return Ok(if slow_first { Waited::Slow } else { Waited::TooLong });
            }
            () = &mut goes_on => return Ok(Waited::Fallback),
            true = conn.wire.gone(&mut conn.inbox, PIPELINED) => return Ok(Waited::Gone),
        };
        match news {
            // Another's early answer may say whose it is.
            News::Interim {
                status,
                fields,
                mine,
            } if !noted.http10 && (anonymous || mine) => {
                follow::interim(conn, status, &fields).await?
            }
            News::Interim { .. } => {}
            news => return Ok(Waited::News(news)),
        }
    }
}

/// The page is in the store now: it was validated, or somebody else fetched it.
async fn landed(
    conn: &mut Conn,
    noted: &Noted,
    miss: &Miss,
    entry: Arc<Entry>,
    validated: bool,
    collapsed: bool,
) -> io::Result<Outcome> {
    let now = clock::now();
    let ttl = errand_ttl(&entry, now);
    let (told, result) = if validated {
        (
            Told::stored(miss.why, 304, ttl, collapsed),
            CacheResult::Revalidated,
        )
    } else {
        (
            Told::stored(miss.why, entry.head.status, ttl, collapsed),
            CacheResult::Collapsed,
        )
    };
    deliver::stored(conn, noted, miss, &entry, told, result).await
}

/// The stored page instead of an answer.
async fn stand_in(
    conn: &mut Conn,
    noted: &Noted,
    miss: &Miss,
    status: Option<u16>,
    detail: Detail,
) -> io::Result<Outcome> {
    let Some(entry) = miss.seen.entry.clone() else {
        let problem = Problem::waited(backlog(conn, miss));
        return conn.answer(&problem, noted, None).await;
    };
    let ttl = errand_ttl(&entry, clock::now());
    let told = Told::rescued(miss.why, status, ttl, detail);
    let result = match detail {
        Detail::Slow => CacheResult::StaleSlow,
        Detail::Limited => CacheResult::Stale,
        _ => CacheResult::StaleError,
    };
    deliver::stored(conn, noted, miss, &entry, told, result).await
}

/// The last good page if there is one that may be used, else the problem.
async fn rescue(
    conn: &mut Conn,
    noted: &Noted,
    miss: &Miss,
    status: Option<u16>,
    problem: Problem,
) -> io::Result<Outcome> {
    if miss.stand_in {
        return stand_in(conn, noted, miss, status, Detail::Sie).await;
    }
    let way = Way::Forwarded {
        why: miss.why,
        status,
        stored: false,
        collapsed: false,
    };
    let told = Told {
        way,
        ttl: None,
        detail: None,
        key: miss.status_key.as_deref(),
    };
    let outcome = conn.answer(&problem, noted, Some(&told)).await?;
    Ok(Outcome {
        route: Some(Arc::clone(&miss.route)),
        asked: 1,
        ..outcome
    })
}

/// How long it takes to work off what waits for the places of the page's route.
fn backlog(conn: &Conn, miss: &Miss) -> Duration {
    let fetcher = &conn.site.fetcher;
    let upstream = fetcher.upstream(miss.route.upstream);
    upstream.backlog(miss.route.bulkhead)
}

/// A place among those who wait; dropping it leaves.
pub struct Place(Arc<Site>);

impl Place {
    pub fn take(site: &Arc<Site>, most: usize) -> Option<Place> {
        if site.waiters.fetch_add(1, Ordering::Relaxed) >= most {
            site.waiters.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(Arc::clone(site)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the request at hand asks for of a page with this head.
pub fn part_of(conn: &Conn, head: &Head, size: Option<u64>) -> Part {
    let wall = clock::now().wall;
    with_request(conn, |request| Part::of(request, head, size, wall)).unwrap_or(Part::Whole)
}
