//! One flight, from the origin's permit to its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use std::time::Instant;

use super::arrived::{self, Alone, Arrived};
use super::errand::{self, Errand, Reason};
use super::keep::{self, Keeping};
use super::meter::Meter;
use super::{Fetcher, Seat, Trip, vary_values};
use crate::cache::flight::{
    Abandoned, Answer, Failure, Filler, News, Pushed, Refusal, Sharing, WINDOW_FLOOR,
};
use crate::cache::memory::Charge;
use crate::cache::table::{Settled, Variant};
use crate::clock;
use crate::origin::{
    Ask, Event, Exchange, OriginError, OriginErrorKind, OriginHead, Outgoing, Permit, Refused,
    StreamPermit,
};
use crate::rules::fresh;
use crate::rules::response::BodyFraming;
use crate::rules::sticky;
use crate::rules::storing::{self, Terms};
use crate::rules::time::Now;
use crate::telemetry::{RefreshResult, ids};

/// What an exchange with an origin holds in buffers, in bytes.
const EXCHANGE_BUFFERS: usize = 96 * 1024;
/// What a window takes beside the pieces that are charged one by one: the one being read, the one that
/// waits, and the one on its way in.
const WINDOW_BUFFERS: usize = 3 * WINDOW_FLOOR;
/// The window of an answer that cannot be kept whole.
const LARGE_WINDOW: usize = 1024 * 1024;
/// Pieces are cut to this, so that windows and write deadlines stay fine-grained.
pub const PIECE: usize = 64 * 1024;

/// How often a request is asked again at another server, and how long it waits before the first time, at most.
const RETRIES: u32 = 2;
const BACKOFF: Duration = Duration::from_millis(20);

/// Why a flight ended without an answer of its own.
enum Stopped {
    /// It broke before a head: another try may do better.
    Broken(Failure, Again),
    /// It failed in a way that trying again at once would not mend.
    Failed(Failure),
    /// It was to be asked for at another server, and there was none.
    NowhereElse,
    /// Nobody wanted it any more.
    Abandoned,
}

/// How what broke may be tried again.
#[derive(Clone, Copy)]
enum Again {
    /// At another server than this one, or with another waiter's request.
    Elsewhere(usize),
    /// At another server only: it took its time already.
    ElsewhereOnly(usize),
    /// With another waiter's request only: it may be this one that is not borne.
    Otherwise,
}

impl Again {
    fn elsewhere(self) -> Option<usize> {
        match self {
            Again::Elsewhere(server) | Again::ElsewhereOnly(server) => Some(server),
            Again::Otherwise => None,
        }
    }
}

/// Flies `errand`, and if it breaks before its head, at another server, or the request of one other waiter.
pub async fn fly(
    fetcher: &Arc<Fetcher>,
    errand: Errand,
    mut filler: Filler,
    trip: &Arc<Trip>,
    seat: Option<Seat>,
) {
    let upstream = Arc::clone(fetcher.upstream(errand.route.upstream));
    upstream.asked();
    let mut errand = errand;
    let (mut retries, mut again, mut avoid) = (0, true, None);
    // Why it is asked for again.
    let mut before = Failure::Lost;
    loop {
        let failure = match attempt(fetcher, &errand, trip, &mut filler, seat.as_ref(), avoid).await
        {
            Ok(came_of_it) => {
                if errand.reason == Reason::Refresh {
                    fetcher.metrics[errand.route.upstream].refreshed(came_of_it);
                }
                return;
            }
            Err(Stopped::Abandoned) => return,
            Err(Stopped::Broken(failure, how)) => {
                let elsewhere = how.elsewhere().filter(|_| retries < RETRIES);
                if let Some(server) = elsewhere.filter(|server| upstream.may_retry(*server)) {
                    // Those that broke at once are not to come again at once.
                    tokio::time::sleep(backoff(retries)).await;
                    retries += 1;
                    (avoid, before) = (Some(server), failure);
                    continue;
                }
                // One more try for all who wait, if it was not had elsewhere.
                let otherwise = again
                    && retries == 0
                    && upstream.circuit().is_closed()
                    && !matches!(how, Again::ElsewhereOnly(_));
                match trip.spare.lock().take().filter(|_| otherwise) {
                    Some((spare, reader)) => {
                        again = false;
                        // The answer will be to that request, so it is that reader's.
                        filler.flight().lead(reader);
                        errand = spare;
                        continue;
                    }
                    None => failure,
                }
            }
            Err(Stopped::NowhereElse) => {
                upstream.did_not_retry();
                before
            }
            Err(Stopped::Failed(failure)) => failure,
        };
        note_failure(fetcher, &errand, &failure);
        // Out of the table first: who comes from now on starts anew, or rests on the stored page.
        drop(seat);
        filler.tell(News::Failed(failure));
        return;
    }
}

/// Up to so long, at random, doubled for each try (full jitter).
fn backoff(retries: u32) -> Duration {
    let most = BACKOFF.as_micros() as u64 * (1 << retries.min(10));
    Duration::from_micros(ids::random() % most)
}

/// After a failed refresh or revalidation the page rests; not for what happens to all pages of an upstream that is down.
fn note_failure(fetcher: &Fetcher, errand: &Errand, failure: &Failure) {
    if let Some(stored) = &errand.stored {
        let now = clock::now().mono;
        let returned = fetcher.upstream(errand.route.upstream).open_since(now);
        let returned = returned.unwrap_or_default();
        match failure {
            Failure::Refused(Refusal { is_down: true, .. }) => {}
            Failure::Refused(_) => stored.rest.turned_away(now, returned),
            _ => stored.rest.failed(now, returned),
        }
    }
    if errand.reason == Reason::Refresh {
        fetcher.metrics[errand.route.upstream].refreshed(RefreshResult::Failed);
    }
}

async fn attempt(
    fetcher: &Arc<Fetcher>,
    errand: &Errand,
    trip: &Arc<Trip>,
    filler: &mut Filler,
    seat: Option<&Seat>,
    avoid: Option<usize>,
) -> Result<RefreshResult, Stopped> {
    let upstream = fetcher.upstream(errand.route.upstream);
    let metrics = &fetcher.metrics[errand.route.upstream];
    let permit = tokio::select! {
        permit = upstream.permit(Duration::MAX, Ask { avoid, ..errand.ask(trip) }) => {
            permit.map_err(|refused| match refused {
                Refused::NowhereElse => Stopped::NowhereElse,
                refused => Stopped::Failed(fetcher.refused(errand.route.upstream, refused)),
            })?
        }
        () = deserted(errand, filler, seat) => return Err(Stopped::Abandoned),
    };
    if land_on_a_newer_page(fetcher, errand, filler) {
        return Ok(RefreshResult::Stored);
    }
    let reserve = reserve(fetcher)
        .await
        .ok_or(Stopped::Failed(Failure::NoMemory))?;
    let server = permit.server().id();
    let binds = errand.binds(upstream, &permit);
    let started = clock::instant();
    let mut validating = errand.can_validate();
    loop {
        let head = errand
            .to_head(validating)
            .ok_or(Stopped::Failed(Failure::BadGateway("unsendable request")))?;
        let mut meter = Meter::start(metrics);
        let exchange = tokio::select! {
            exchange = Exchange::start(upstream, &permit, head, Outgoing::None) => {
                exchange.map_err(|error| broken(&error, server, &mut meter))?
            }
            () = filler.abandoned() => return Err(Stopped::Abandoned),
        };
        let (mut exchange, mut head) = next_head(exchange, filler, server, &mut meter).await?;
        meter.head(&head);
        let now = clock::now();
        let max_object = fetcher.limits.max_object_size;
        let judged = arrived::arrived(
            errand,
            &head,
            validating,
            now,
            max_object,
            started.elapsed(),
        );
        match judged {
            Arrived::AskAgain => {
                drain(&mut exchange).await;
                exchange.finish().await;
                meter.end();
                validating = false;
            }
            Arrived::Nonsense(why) => return Err(Stopped::Failed(Failure::BadGateway(why))),
            Arrived::Failed(status) => return Err(Stopped::Failed(Failure::OriginStatus(status))),
            Arrived::NotModifiedOnce { fields, outdated } => {
                drain(&mut exchange).await;
                exchange.finish().await;
                meter.end();
                drop(permit);
                if outdated && let Some(stored) = &errand.stored {
                    fetcher.store.forget(&errand.key, stored, now.mono);
                }
                return serve_once(
                    fetcher,
                    errand,
                    filler,
                    seat,
                    OriginHead { fields, ..head },
                    started,
                )
                .await;
            }
            Arrived::NotModified(fields, terms) => {
                drain(&mut exchange).await;
                exchange.finish().await;
                meter.end();
                drop(permit);
                let merged = OriginHead { fields, ..head };
                return not_modified(fetcher, errand, filler, seat, merged, *terms, started);
            }
            Arrived::Share(_) | Arrived::LeaderOnly(_) => {
                if let (Arrived::LeaderOnly(_), Some(line)) = (&judged, &binds) {
                    sticky::bind(head.status, &mut head.fields, line.clone(), now);
                }
                let (judged, allowance) = allow(fetcher, judged, length(&head)).await;
                let held = Held::for_answer(permit, &head, &mut exchange);
                let held = held.map_err(|refused| {
                    Stopped::Failed(fetcher.turned_away(errand.route.upstream, refused))
                })?;
                let landing = settle(fetcher, errand, filler, seat, &head, judged, started);
                if landing.keeping.is_some() {
                    filler.keep_all(allowance);
                } else {
                    let window = reserve_window(fetcher, length(&head)).await;
                    filler.flight().reserve(window.map_err(Stopped::Failed)?);
                }
                return stream(
                    fetcher, errand, filler, seat, exchange, held, &head, landing, reserve, meter,
                )
                .await;
            }
        }
    }
}

/// Completes when those who wanted it have gone while it still waits for its turn: nothing was asked yet, so nothing is
/// lost. What renews a stored page goes on: its clients left with that page.
async fn deserted(errand: &Errand, filler: &Filler, seat: Option<&Seat>) {
    if errand.reason != Reason::Miss {
        return std::future::pending().await;
    }
    loop {
        filler.empty().await;
        let flight = filler.flight();
        if seat.is_none_or(|seat| seat.close_if(|| flight.readers() == 0)) {
            return;
        }
    }
}

/// Interim answers go to who is there; then the head that counts.
async fn next_head(
    mut exchange: Exchange,
    filler: &Filler,
    server: usize,
    meter: &mut Meter,
) -> Result<(Exchange, OriginHead), Stopped> {
    loop {
        let event = tokio::select! {
            event = exchange.next() => event.map_err(|error| broken(&error, server, meter))?,
            () = filler.abandoned() => return Err(Stopped::Abandoned),
        };
        match event {
            Event::Interim { status, fields } => filler.interim(status, fields),
            Event::Head(head) => return Ok((exchange, head)),
            Event::Switched(_) | Event::Body(_) | Event::End => {
                let failure = Failure::BadGateway("an answer out of order");
                return Err(Stopped::Broken(failure, Again::Otherwise));
            }
        }
    }
}

/// What an answer's head comes to: what readers are told, and what is kept of it when it is whole.
struct Landing {
    answer: Arc<Answer>,
    keeping: Option<Keeping>,
}

/// Judges are done: files the flight under what its head says.
fn settle(
    fetcher: &Fetcher,
    errand: &Errand,
    filler: &mut Filler,
    seat: Option<&Seat>,
    head: &OriginHead,
    judged: Arrived,
    started: Instant,
) -> Landing {
    let now = clock::now();
    let (terms, alone) = match judged {
        Arrived::Share(terms) => {
            let refusal = storing::follower(&terms, &errand.asked).err();
            let alone = refusal.map(|refusal| Alone {
                mark: true,
                ..Alone::just(refusal.why())
            });
            (Some(*terms), alone)
        }
        Arrived::LeaderOnly(alone) => (None, Some(alone)),
        _ => (None, Some(Alone::just("not for sharing"))),
    };
    if let (Some(Alone { outdates: true, .. }), Some(stored)) = (alone, &errand.stored) {
        fetcher.store.forget(&errand.key, stored, now.mono);
    }
    let variant = variant(errand, terms.as_ref());
    if let Some(seat) = seat {
        file(
            fetcher,
            errand,
            seat,
            head,
            &variant,
            terms.as_ref(),
            alone,
            now,
        );
    }
    filler.keep(terms.is_some());
    if terms.is_none() {
        filler.open_window(fetcher.limits.pass_buffer);
    }
    let fields = arrived::dressed(head, terms.as_ref(), now);
    let rendered = arrived::render(
        head.status,
        &fields,
        &errand.route,
        errand.scheme,
        terms.as_ref().map(|terms| (terms, length(head))),
    );
    let sharing = match (&terms, alone) {
        (Some(terms), None) => Sharing::Everyone {
            variant: variant.clone(),
            terms: Arc::new(terms.clone()),
        },
        (_, alone) => {
            let alone = alone.unwrap_or(Alone::just("not for sharing"));
            Sharing::Leader {
                why: alone.why,
                oddity: alone.oddity,
            }
        }
    };
    let answer = Arc::new(Answer {
        head: rendered.clone(),
        length: if errand.head_only {
            content_length(head)
        } else {
            length(head)
        },
        age: terms
            .as_ref()
            .map_or_else(|| age(head), |terms| Some(terms.initial_age.as_secs())),
        arrived: now.mono,
        sharing,
        stored: terms
            .as_ref()
            .map(|terms| fresh::ttl(terms, now.mono, now.mono)),
        fwd_status: head.status,
    });
    let keeping = terms.map(|terms| Keeping {
        head: rendered,
        terms,
        variant,
        stored: now.mono,
        cost: started.elapsed(),
        generation: filler.flight().generation(),
    });
    Landing { answer, keeping }
}

/// Files a flight in the table: joinable by its variant's requests while its answer is fresh, or a hit-for-miss mark in
/// its place.
#[expect(clippy::too_many_arguments, reason = "what was judged meets who waits")]
fn file(
    fetcher: &Fetcher,
    errand: &Errand,
    seat: &Seat,
    head: &OriginHead,
    variant: &Variant,
    terms: Option<&Terms>,
    alone: Option<Alone>,
    now: Now,
) {
    let fresh_until = terms.map_or(now.mono, |terms| {
        // A second at least: those who waited for it come all at once, and not later.
        let left = terms
            .lifetime
            .saturating_sub(terms.initial_age)
            .saturating_add(terms.swr);
        now.mono.after(left.max(Duration::from_secs(1)))
    });
    match alone {
        None if seat.settle(variant.clone(), fresh_until.0) == Settled::Joinable => {}
        Some(Alone { mark: true, .. }) => {
            let until = now.mono.after(fetcher.limits.hit_for_miss);
            let weight = errand.key.len();
            seat.mark(mark_variant(errand, head), now.mono.0, until.0, weight);
        }
        _ => seat.close(),
    }
}

/// Streams the body to readers and store. The permit is the origin's work: it ends with the last byte that came in.
#[expect(
    clippy::too_many_arguments,
    reason = "the one place where all that a flight holds meets"
)]
async fn stream(
    fetcher: &Arc<Fetcher>,
    errand: &Errand,
    filler: &mut Filler,
    seat: Option<&Seat>,
    mut exchange: Exchange,
    held: Held,
    head: &OriginHead,
    landing: Landing,
    reserve: Charge,
    mut meter: Meter,
) -> Result<RefreshResult, Stopped> {
    let _reserve = reserve;
    let Landing {
        answer,
        mut keeping,
    } = landing;
    let expected = length(head);
    if expected == Some(0) && matches!(exchange.next().await, Ok(Event::End)) {
        // As below: it is in the store before anybody has read it whole.
        exchange.finish().await;
        drop(held);
        meter.end();
        let kept = came_of(keeping.as_ref());
        if let Some(keeping) = keeping {
            keep::keep(fetcher, errand, keeping, &[], 0);
        }
        filler.tell(News::Head(answer));
        filler.complete();
        return Ok(kept);
    }
    filler.tell(News::Head(answer));
    let mut len = 0u64;
    let mut last = None;
    loop {
        let event = tokio::select! {
            event = exchange.next() => event.map_err(|error| {
                meter.failed(&error);
                Stopped::Failed(failure(&error))
            })?,
            () = filler.abandoned() => return Err(Stopped::Abandoned),
        };
        let piece = match event {
            Event::Body(piece) => piece,
            Event::End => break,
            _ => {
                return Err(Stopped::Failed(Failure::BadGateway(
                    "an answer out of order",
                )));
            }
        };
        for piece in errand::cut(piece, PIECE) {
            len += piece.len() as u64;
            let crowded = expected.is_none() && fetcher.is_crowded();
            let too_large = len > fetcher.limits.max_object_size || crowded;
            if keeping.is_some() && too_large {
                give_up_keeping(&mut keeping, filler, seat);
                let window = reserve_window(fetcher, expected).await;
                filler.flight().reserve(window.map_err(Stopped::Failed)?);
            }
            if keeping.is_some() && expected == Some(len) {
                // Held back until the page is in the store: who has read it whole and asks again gets a hit.
                last = Some(piece);
                break;
            }
            push(fetcher, filler, seat, &mut keeping, &piece).await?;
        }
    }
    exchange.finish().await;
    drop(held);
    meter.end();
    let kept = came_of(keeping.as_ref());
    if let Some(keeping) = keeping
        && let Some(mut pieces) = filler.whole()
    {
        pieces.extend(
            last.as_ref()
                .and_then(|last| fetcher.memory.hold(last.clone())),
        );
        keep::keep(fetcher, errand, keeping, &pieces, len);
    }
    if let Some(last) = last {
        push(fetcher, filler, seat, &mut None, &last).await?;
    }
    filler.complete();
    Ok(kept)
}

fn came_of(keeping: Option<&Keeping>) -> RefreshResult {
    keeping.map_or(RefreshResult::Unstorable, |_| RefreshResult::Stored)
}

async fn push(
    fetcher: &Arc<Fetcher>,
    filler: &mut Filler,
    seat: Option<&Seat>,
    keeping: &mut Option<Keeping>,
    piece: &Bytes,
) -> Result<(), Stopped> {
    let mut shed = false;
    loop {
        match filler.push(piece).await {
            Ok(Pushed::Kept) => return Ok(()),
            Ok(Pushed::NoMemory) if !shed => {
                fetcher.make_room().await;
                shed = true;
            }
            Ok(Pushed::NoMemory) => give_up_keeping(keeping, filler, seat),
            Err(Abandoned) => return Err(Stopped::Abandoned),
        }
    }
}

/// From here on the answer is only passed through: nobody new may join, and a window is all that is kept.
fn give_up_keeping(keeping: &mut Option<Keeping>, filler: &mut Filler, seat: Option<&Seat>) {
    *keeping = None;
    if let Some(seat) = seat {
        seat.close();
    }
    filler.keep(false);
    filler.open_window(LARGE_WINDOW);
}

fn not_modified(
    fetcher: &Arc<Fetcher>,
    errand: &Errand,
    filler: &mut Filler,
    seat: Option<&Seat>,
    merged: OriginHead,
    terms: Terms,
    started: Instant,
) -> Result<RefreshResult, Stopped> {
    let now = clock::now();
    let variant = variant(errand, Some(&terms));
    let stored = errand
        .stored
        .as_ref()
        .ok_or(Stopped::Failed(Failure::Lost))?;
    let mut fields = merged.fields;
    storing::dress(&mut fields, &terms, now.wall);
    let keeping = Keeping {
        head: arrived::render(
            stored.head.status,
            &fields,
            &errand.route,
            errand.scheme,
            Some((&terms, Some(stored.body.len()))),
        ),
        terms,
        variant,
        stored: now.mono,
        cost: started.elapsed(),
        generation: filler.flight().generation(),
    };
    let entry = keep::renew(fetcher, errand, keeping).ok_or(Stopped::Failed(Failure::NoMemory))?;
    if let Some(seat) = seat {
        seat.close();
    }
    filler.tell(News::Landed {
        entry,
        validated: true,
    });
    Ok(RefreshResult::Unchanged)
}

/// The stored page is still true, and the origin says that it must not be stored any longer: the leader gets it, this
/// once.
async fn serve_once(
    fetcher: &Arc<Fetcher>,
    errand: &Errand,
    filler: &mut Filler,
    seat: Option<&Seat>,
    merged: OriginHead,
    started: Instant,
) -> Result<RefreshResult, Stopped> {
    let stored = errand
        .stored
        .as_ref()
        .ok_or(Stopped::Failed(Failure::Lost))?;
    let mut fields = merged.fields;
    // It is told anew below.
    fields.remove(header::VIA);
    let head = OriginHead {
        status: stored.head.status,
        framing: BodyFraming::Length(stored.body.len()),
        fields,
        ..merged
    };
    let judged = Arrived::LeaderOnly(Alone {
        mark: true,
        ..Alone::just("validated for one request")
    });
    let mut landing = settle(fetcher, errand, filler, seat, &head, judged, started);
    if let Some(answer) = Arc::get_mut(&mut landing.answer) {
        answer.fwd_status = 304;
    }
    filler.tell(News::Head(landing.answer));
    for piece in stored.body.pieces() {
        push(fetcher, filler, seat, &mut None, piece).await?;
    }
    filler.complete();
    Ok(RefreshResult::Unstorable)
}

/// Whoever has waited for a permit looks up again first.
fn land_on_a_newer_page(fetcher: &Fetcher, errand: &Errand, filler: &Filler) -> bool {
    if errand.partial_or_conditional || errand.head_only {
        return false;
    }
    let now = clock::now();
    let Some(slot) = fetcher.store.get(errand.key.as_ref(), now.mono) else {
        return false;
    };
    let Some(entry) = slot.find(|names| vary_values(names, &errand.fields, &errand.sent)) else {
        return false;
    };
    let newer = errand
        .stored
        .as_ref()
        .is_none_or(|stored| !Arc::ptr_eq(stored, entry));
    if !newer || !errand.would_serve(entry, now) {
        return false;
    }
    filler.tell(News::Landed {
        entry: Arc::clone(entry),
        validated: false,
    });
    true
}

/// A body of known length gets its memory before its first byte, so that it never has to be given up amid it. Where there
/// is none the answer is passed through a window, and nobody joins it.
async fn allow(
    fetcher: &Arc<Fetcher>,
    judged: Arrived,
    length: Option<u64>,
) -> (Arrived, Option<Charge>) {
    let (Arrived::Share(_), Some(length)) = (&judged, length) else {
        return (judged, None);
    };
    let bytes = length as usize + PIECE_COSTS * (length as usize / PIECE + 2);
    if let Some(charge) = fetcher.allowance(bytes) {
        return (judged, Some(charge));
    }
    fetcher.make_room().await;
    match fetcher.allowance(bytes) {
        Some(charge) => (judged, Some(charge)),
        None => (
            Arrived::LeaderOnly(Alone::just("no memory to keep it")),
            None,
        ),
    }
}

/// What a piece of [`PIECE`] bytes may cost beyond them, at most.
const PIECE_COSTS: usize = PIECE / 8 + 256;

/// What an exchange holds, shedding stored pages if need be.
pub async fn reserve(fetcher: &Arc<Fetcher>) -> Option<Charge> {
    if let Some(charge) = fetcher.memory.charge(EXCHANGE_BUFFERS) {
        return Some(charge);
    }
    fetcher.make_room().await;
    fetcher.memory.charge(EXCHANGE_BUFFERS)
}

/// What the window of a long answer takes. A short one is charged by its pieces.
pub async fn reserve_window(
    fetcher: &Arc<Fetcher>,
    length: Option<u64>,
) -> Result<Option<Charge>, Failure> {
    if length.is_some_and(|length| length <= WINDOW_FLOOR as u64) {
        return Ok(None);
    }
    if let Some(charge) = fetcher.memory.charge_modestly(WINDOW_BUFFERS) {
        return Ok(Some(charge));
    }
    fetcher.make_room().await;
    fetcher
        .memory
        .charge_modestly(WINDOW_BUFFERS)
        .map(Some)
        .ok_or(Failure::NoMemory)
}

fn variant(errand: &Errand, terms: Option<&Terms>) -> Variant {
    let names: Arc<[http::HeaderName]> = match terms.map(|terms| &terms.vary) {
        Some(crate::rules::vary::Vary::Names(names)) => names.iter().cloned().collect(),
        _ => Arc::default(),
    };
    Variant {
        values: vary_values(&names, &errand.fields, &errand.sent),
        names,
    }
}

/// Which requests a hit-for-miss mark holds for: those of the answer's variant, or all where it varies on everything.
fn mark_variant(errand: &Errand, head: &OriginHead) -> Option<Variant> {
    match crate::rules::vary::of(&head.fields) {
        crate::rules::vary::Vary::Names(names) => {
            let names: Arc<[http::HeaderName]> = names.iter().cloned().collect();
            Some(Variant {
                values: vary_values(&names, &errand.fields, &errand.sent),
                names,
            })
        }
        _ => None,
    }
}

/// How long the body will be, if that is known.
pub fn length(head: &OriginHead) -> Option<u64> {
    match head.framing {
        BodyFraming::Length(length) => Some(length),
        BodyFraming::None => Some(0),
        BodyFraming::Chunked | BodyFraming::Close => None,
    }
}

/// The age an answer came with, for answers whose age nobody here counts.
pub fn age(head: &OriginHead) -> Option<u64> {
    head.fields
        .get(header::AGE)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// What an answer to HEAD says of its page.
pub fn content_length(head: &OriginHead) -> Option<u64> {
    head.fields
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// What of the origin an answer under way occupies.
pub enum Held {
    Work { _permit: Permit },
    Stream { _permit: StreamPermit },
}

impl Held {
    /// An event stream lives long and works little: from its head on it is one of the upstream's streams.
    ///
    /// # Errors
    /// It is a stream, and there are too many.
    pub fn for_answer(
        permit: Permit,
        head: &OriginHead,
        exchange: &mut Exchange,
    ) -> Result<Held, Refused> {
        if arrived::is_event_stream(&head.fields) {
            return Held::stream(permit, exchange);
        }
        Ok(Held::Work { _permit: permit })
    }

    /// # Errors
    /// There are too many.
    pub fn stream(permit: Permit, exchange: &mut Exchange) -> Result<Held, Refused> {
        exchange.become_stream();
        Ok(Held::Stream {
            _permit: permit.into_stream()?,
        })
    }
}

/// The rest of an answer that nobody reads, if it is short; else its connection is closed.
async fn drain(exchange: &mut Exchange) {
    let mut left = 64 * 1024usize;
    while let Ok(Ok(Event::Body(piece))) =
        tokio::time::timeout(Duration::from_secs(1), exchange.next()).await
    {
        match left.checked_sub(piece.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn broken(error: &OriginError, server: usize, meter: &mut Meter) -> Stopped {
    meter.failed(error);
    let failure = failure(error);
    match error.kind {
        OriginErrorKind::Connect | OriginErrorKind::Tls | OriginErrorKind::Reset => {
            Stopped::Broken(failure, Again::Elsewhere(server))
        }
        OriginErrorKind::ConnectTimeout => Stopped::Broken(failure, Again::ElsewhereOnly(server)),
        _ => match failure {
            Failure::Timeout(_) => Stopped::Failed(failure),
            _ => Stopped::Broken(failure, Again::Otherwise),
        },
    }
}

pub fn failure(error: &OriginError) -> Failure {
    tracing::warn!(error = %error, "origin");
    let why = match error.kind {
        OriginErrorKind::Connect | OriginErrorKind::Tls => "the origin cannot be reached",
        OriginErrorKind::Malformed(_) | OriginErrorKind::TooLarge => {
            "the origin's answer breaks the rules of HTTP"
        }
        OriginErrorKind::Reset | OriginErrorKind::Write => "the origin broke the connection off",
        _ => "the origin did not answer in time",
    };
    if error.status() == 504 {
        Failure::Timeout(why)
    } else {
        Failure::BadGateway(why)
    }
}
