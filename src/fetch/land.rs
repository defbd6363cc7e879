//! What an answer comes to: who may read it, what is kept of it, and its way to both.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header;

use super::arrived::{self, Alone, Arrived};
use super::errand::{self, Errand};
use super::fly::{Stopped, failure};
use super::held::{Held, PIECE, reserve_window};
use super::keep::{self, Keeping};
use super::meter::Meter;
use super::{Fetcher, Seat, vary_values};
use crate::cache::flight::{Abandoned, Answer, Failure, Filler, News, Pushed, Sharing};
use crate::cache::memory::Charge;
use crate::cache::table::{Settled, Variant};
use crate::cache::tags::Set;
use crate::clock;
use crate::origin::{Event, Exchange, OriginHead};
use crate::rules::fresh;
use crate::rules::response::BodyFraming;
use crate::rules::storing::{self, Terms};
use crate::rules::time::Now;
use crate::telemetry::RefreshResult;

/// The window of an answer that cannot be kept whole.
const LARGE_WINDOW: usize = 1024 * 1024;

/// What an answer's head comes to: what readers are told, and what is kept of it when it is whole.
pub struct Landing {
    pub answer: Arc<Answer>,
    pub keeping: Option<Keeping>,
}

/// Judges are done: files the flight under what its head says.
pub fn settle(
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
    let (terms, alone, tags) = match terms {
        None => (None, alone, Set::default()),
        Some(terms) => match fetcher.store.tags().of(&head.fields, None) {
            Some(tags) => (Some(terms), alone, tags),
            None => (
                None,
                Some(Alone::just("no memory for its tags")),
                Set::default(),
            ),
        },
    };
    if let (Some(Alone { outdates: true, .. }), Some(stored)) = (alone, &errand.stored) {
        fetcher.forget(&errand.key, stored, now.mono);
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
            // Who came after the purge would have to leave at once.
            tags.epoch().latest() > filler.flight().generation(),
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
        tags: tags.clone(),
    });
    let keeping = terms.map(|terms| Keeping {
        head: rendered,
        terms,
        variant,
        stored: now.mono,
        cost: started.elapsed(),
        generation: filler.flight().generation(),
        tags,
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
    is_purged: bool,
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
        None if is_purged => seat.close(),
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
pub async fn stream(
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
    let (early, is_whole) = at_hand(&mut exchange, expected).await;
    if is_whole && let Some(body) = hold(fetcher, filler, &early).await {
        exchange.finish().await;
        let kept = came_of(keeping.as_ref());
        // It is in the store before anybody has read it whole, and before who waited for the place looks there.
        if let Some(keeping) = keeping {
            keep::keep(fetcher, errand, keeping, &body, expected.unwrap_or(0));
        }
        let is_waited_for = fetcher.upstream(errand.route.upstream).queued() > 0;
        drop(held);
        meter.end();
        if is_waited_for {
            step_aside().await;
        }
        filler.land(answer, body);
        return Ok(kept);
    }
    filler.tell(News::Head(answer));
    let mut early = early.into_iter();
    let mut len = 0u64;
    let mut last = None;
    loop {
        let event = match early.next() {
            Some(piece) => Event::Body(piece),
            None => tokio::select! {
                event = exchange.next() => event.map_err(|error| {
                    meter.failed(&error);
                    Stopped::Failed(failure(&error))
                })?,
                () = filler.abandoned() => return Err(Stopped::Abandoned),
            },
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
            if expected == Some(len) {
                // Held back until the page is in the store, and the connection free: who has read it whole and asks again gets
                // a hit, or that connection.
                last = Some(piece);
                break;
            }
            push(fetcher, filler, seat, &mut keeping, &piece).await?;
        }
    }
    exchange.finish().await;
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
    drop(held);
    meter.end();
    if let Some(last) = last {
        push(fetcher, filler, seat, &mut None, &last).await?;
    }
    filler.complete();
    Ok(kept)
}

/// Of a short body what is there already, and whether that is all of it. What went wrong is told once more by the next call.
async fn at_hand(exchange: &mut Exchange, expected: Option<u64>) -> (Vec<Bytes>, bool) {
    let mut pieces = Vec::new();
    match expected {
        // Its end may come by itself.
        Some(0) => return (pieces, matches!(exchange.next().await, Ok(Event::End))),
        Some(length) if length <= PIECE as u64 => {}
        _ => return (pieces, false),
    }
    let mut now = Context::from_waker(Waker::noop());
    loop {
        match pin!(exchange.next()).poll(&mut now) {
            Poll::Ready(Ok(Event::Body(piece))) => pieces.push(piece),
            Poll::Ready(Ok(Event::End)) => return (pieces, true),
            _ => return (pieces, false),
        }
    }
}

/// Memory for a whole body, shedding stored pages if need be.
async fn hold(fetcher: &Arc<Fetcher>, filler: &Filler, body: &[Bytes]) -> Option<Vec<Bytes>> {
    if let Some(held) = filler.hold(body) {
        return Some(held);
    }
    fetcher.make_room().await;
    filler.hold(body)
}

/// Lets whoever has been given the origin's place ask on this thread first.
async fn step_aside() {
    let mut is_back = false;
    poll_fn(|context| {
        if is_back {
            return Poll::Ready(());
        }
        is_back = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
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

pub fn not_modified(
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
    let tags = fetcher.store.tags().of(&fields, Some(&stored.tags));
    let tags = tags.ok_or(Stopped::Failed(Failure::NoMemory))?;
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
        tags,
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
pub async fn serve_once(
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

pub fn variant(errand: &Errand, terms: Option<&Terms>) -> Variant {
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
