//! One flight, from the origin's permit to its end.

use std::sync::Arc;
use std::time::Duration;

use super::arrived::{self, Arrived};
use super::errand::{Errand, Reason};
use super::held::{Held, allow, reserve, reserve_window};
use super::land::{self, length};
use super::meter::Meter;
use super::{Fetcher, Seat, Trip, vary_values};
use crate::cache::flight::{Failure, Filler, News, Refusal};
use crate::clock;
use crate::origin::{
    Ask, Event, Exchange, OriginError, OriginErrorKind, OriginHead, Outgoing, Refused,
};
use crate::rules::sticky;
use crate::telemetry::{RefreshResult, ids};

/// How often a request is asked again at another server, and how long it waits before the first time, at most.
const RETRIES: u32 = 2;
const BACKOFF: Duration = Duration::from_millis(20);

/// Why a flight ended without an answer of its own.
pub enum Stopped {
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
pub enum Again {
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
    let mut errand = fetcher.without_the_purged(errand);
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
                if let Some(server) =
                    elsewhere.filter(|server| upstream.may_retry(*server, errand.route.bulkhead))
                {
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
                        errand = fetcher.without_the_purged(spare);
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
                refused => Stopped::Failed(fetcher.refused(&errand.route, refused)),
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
        let mut meter = Meter::start(metrics, errand.bill.clone());
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
                if outdated {
                    fetcher.forget(errand, now.mono);
                }
                return land::serve_once(
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
                return land::not_modified(fetcher, errand, filler, seat, merged, *terms, started);
            }
            Arrived::Share(_) | Arrived::LeaderOnly(_) => {
                if let (Arrived::LeaderOnly(_), Some(line)) = (&judged, &binds) {
                    sticky::bind(head.status, &mut head.fields, line.clone(), now);
                }
                let (judged, allowance) = allow(fetcher, judged, length(&head)).await;
                let held = Held::for_answer(permit, &head, &mut exchange);
                let held = held.map_err(|refused| {
                    Stopped::Failed(fetcher.turned_away(&errand.route, refused))
                })?;
                if held.is_stream() {
                    meter.pay();
                }
                let landing = land::settle(fetcher, errand, filler, seat, &head, judged, started);
                if landing.keeping.is_some() {
                    filler.keep_all(allowance);
                } else {
                    let window = reserve_window(fetcher, length(&head)).await;
                    filler.flight().reserve(window.map_err(Stopped::Failed)?);
                }
                return land::stream(
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

/// Whoever has waited for a permit looks up again first.
fn land_on_a_newer_page(fetcher: &Fetcher, errand: &Errand, filler: &Filler) -> bool {
    if errand.partial_or_conditional || errand.head_only || !errand.route.cache {
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
