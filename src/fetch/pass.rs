//! Requests that go past the cache: unsafe methods, bodies, upgrades.
//!
//! They take the same road to the same origins under the same permits, and their answers are spooled like a private
//! page's, so that a client's slowness is not the origin's. What differs: the request has a body that is still coming, a
//! `101` may turn both directions into a tunnel, and an unsafe method invalidates.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use pingora::http::RequestHeader;
use tokio::sync::{mpsc, oneshot};

use super::errand::cut;
use super::held::{self, Held};
use super::meter::Meter;
use super::{Bill, Fetcher, Flying, arrived};
use super::{fly, land};
use crate::cache::flight::{Abandoned, Answer, Failure, Filler, Flight, News, Reader, Sharing};
use crate::cache::key::KeyRef;
use crate::cache::tags::Set;
use crate::clock;
use crate::config::policy::Route;
use crate::origin::{Ask, BodySender, Event, Exchange, OriginHead, Outgoing, Permit, Steer};
use crate::rules::client::Client;
use crate::rules::host::Scheme;
use crate::rules::sticky;

/// A request that goes past the cache.
pub struct Passage {
    pub route: Arc<Route>,
    pub client: Client,
    /// Which server that would have.
    pub steer: Steer,
    /// As its client speaks it.
    pub scheme: Scheme,
    pub head: Box<RequestHeader>,
    pub outgoing: Outgoing,
    /// What its answer invalidates, if it is not an error (RFC 9111 §4.4).
    pub invalidates: Option<Invalidates>,
    pub bill: Option<Bill>,
}

/// The keys to forget, made from the answer's status and fields.
pub type Invalidates = Box<dyn Fn(u16, &HeaderMap) -> Vec<Vec<u8>> + Send + Sync>;

/// A piece of a request's body, or of a tunnel.
pub enum Upload {
    Data(Bytes),
    /// The body is complete; the tunnel's client sends no more.
    End,
}

/// The client's end of a passage.
pub struct Underway {
    pub reader: Reader,
    /// For the body. Dropping it without [`Upload::End`] gives the request up.
    pub upload: mpsc::Sender<Upload>,
    /// Told once the origin is there to be asked: the permit is had and the connection is open.
    pub admitted: oneshot::Receiver<()>,
}

/// Pieces of a body between its client and its origin.
const UPLOADS: usize = 2;

impl Fetcher {
    /// Sends a request past the cache.
    pub fn pass(self: &Arc<Self>, passage: Passage) -> Underway {
        let window = Some(self.limits.pass_buffer);
        let flight = Flight::new(&self.memory, clock::instant(), 0, window);
        let (upload, uploads) = mpsc::channel(UPLOADS);
        let (admit, admitted) = oneshot::channel();
        let reader = flight.board_first();
        let filler = Filler::new(&flight, false);
        let flying = Flying::begin(self);
        let fetcher = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(failure) = carry(&fetcher, passage, &filler, uploads, admit).await {
                filler.end_with(failure);
            }
            drop(flying);
        });
        Underway {
            reader,
            upload,
            admitted,
        }
    }
}

async fn carry(
    fetcher: &Arc<Fetcher>,
    passage: Passage,
    filler: &Filler,
    uploads: mpsc::Receiver<Upload>,
    admit: oneshot::Sender<()>,
) -> Result<(), Failure> {
    let upstream = fetcher.upstream(passage.route.upstream);
    let metrics = &fetcher.metrics[passage.route.upstream];
    let ask = Ask {
        priority: passage.route.priority,
        client: Some(passage.client),
        wanted: None,
        avoid: None,
        steer: passage.steer,
        bulkhead: passage.route.bulkhead,
    };
    let permit = tokio::select! {
        permit = upstream.permit(Duration::MAX, ask) => permit.map_err(|refused| {
            fetcher.refused(&passage.route, refused)
        })?,
        () = filler.abandoned() => return Err(Failure::Lost),
    };
    let _reserve = held::reserve(fetcher).await.ok_or(Failure::NoMemory)?;
    let mut meter = Meter::start(metrics, passage.bill);
    // From here on the body may come. A client that has gone is noticed below.
    let _ = admit.send(());
    let head_only = passage.head.method == http::Method::HEAD;
    let exchange = tokio::select! {
        exchange = Exchange::start(upstream, &permit, passage.head, passage.outgoing) => exchange,
        () = filler.abandoned() => return Err(Failure::Lost),
    };
    let mut exchange = exchange.map_err(|error| {
        meter.failed(&error);
        fly::failure(&error)
    })?;
    let (hand, sender) = oneshot::channel();
    let mut hand = Some(hand);
    if passage.outgoing != Outgoing::None {
        hand_over(&mut hand, &mut exchange);
    }
    let up = upload(sender, uploads);
    let invalidates = passage.invalidates.as_ref();
    let secure = passage.scheme == Scheme::Https;
    let to = To {
        binds: upstream.binds(permit.server(), passage.steer.bound, secure),
        route: &passage.route,
        scheme: passage.scheme,
        head_only,
        invalidates,
    };
    let down = answer(fetcher, to, filler, exchange, permit, hand, meter);
    tokio::pin!(up, down);
    let mut uploading = true;
    // Until a head has said what came of it, an unsafe request may have changed what it was aimed at.
    let unknown = Unknown {
        fetcher,
        invalidates,
    };
    // The body goes up while the answer comes down, each at its own pace; the answer's end is the end of both.
    loop {
        tokio::select! {
            ended = &mut down => {
                if ended.is_ok() {
                    unknown.told();
                }
                return ended;
            }
            complete = &mut up, if uploading => match complete {
                true => uploading = false,
                false => return Err(Failure::Lost),
            },
        }
    }
}

/// Dropped without having been told of an answer, it invalidates as if there had been a good one.
struct Unknown<'a> {
    fetcher: &'a Fetcher,
    invalidates: Option<&'a Invalidates>,
}

impl Unknown<'_> {
    fn told(mut self) {
        self.invalidates = None;
    }
}

impl Drop for Unknown<'_> {
    fn drop(&mut self) {
        invalidate(self.fetcher, self.invalidates, 200, &HeaderMap::new());
    }
}

/// What an answer is to.
struct To<'a> {
    /// What would bind its client to the server that gives it.
    binds: Option<HeaderValue>,
    route: &'a Route,
    scheme: Scheme,
    head_only: bool,
    invalidates: Option<&'a Invalidates>,
}

type Hand = oneshot::Sender<BodySender>;

/// Lets the upload begin.
fn hand_over(hand: &mut Option<Hand>, exchange: &mut Exchange) {
    if let (Some(hand), Some(sender)) = (hand.take(), exchange.body_sender()) {
        let _ = hand.send(sender);
    }
}

async fn answer(
    fetcher: &Arc<Fetcher>,
    to: To<'_>,
    filler: &Filler,
    mut exchange: Exchange,
    permit: Permit,
    mut hand: Option<Hand>,
    mut meter: Meter,
) -> Result<(), Failure> {
    let turned_away = |refused| fetcher.turned_away(to.route, refused);
    let mut permit = Some(permit);
    let mut held = None;
    loop {
        let event = tokio::select! {
            event = exchange.next() => event.map_err(|error| {
                meter.failed(&error);
                fly::failure(&error)
            })?,
            () = filler.abandoned() => return Err(Failure::Lost),
        };
        match event {
            Event::Interim { status, fields } => filler.interim(status, fields),
            Event::Head(head) => {
                meter.head(&head);
                invalidate(fetcher, to.invalidates, head.status, &head.fields);
                if let Some(permit) = permit.take() {
                    held =
                        Some(Held::for_answer(permit, &head, &mut exchange).map_err(turned_away)?);
                }
                if held.as_ref().is_some_and(Held::is_stream) {
                    meter.pay();
                }
                let window = held::reserve_window(fetcher, land::length(&head)).await?;
                filler.flight().reserve(window);
                tell(filler, &to, head);
            }
            Event::Switched(head) => {
                if let Some(permit) = permit.take() {
                    held = Some(Held::stream(permit, &mut exchange).map_err(turned_away)?);
                }
                meter.pay();
                hand_over(&mut hand, &mut exchange);
                tell(filler, &to, head);
            }
            Event::Body(piece) => {
                for piece in cut(piece, held::PIECE) {
                    // A window never asks for memory it can't wait for, so only the reader's leaving ends this.
                    filler
                        .push(&piece)
                        .await
                        .map_err(|Abandoned| Failure::Lost)?;
                }
            }
            Event::End => break,
        }
    }
    meter.end();
    exchange.finish().await;
    drop(held);
    filler.complete();
    Ok(())
}

/// Sends what comes from the client on, once there is an origin that takes it. Whether it came to its end.
async fn upload(
    sender: oneshot::Receiver<BodySender>,
    mut uploads: mpsc::Receiver<Upload>,
) -> bool {
    let Ok(mut sender) = sender.await else {
        return true;
    };
    loop {
        match uploads.recv().await {
            Some(Upload::Data(piece)) => {
                // What the origin doesn't take is the answer's business: it may be there already.
                if sender.send(piece).await.is_err() {
                    return true;
                }
            }
            Some(Upload::End) => {
                let _ = sender.end().await;
                return true;
            }
            None => return false,
        }
    }
}

fn invalidate(
    fetcher: &Fetcher,
    invalidates: Option<&Invalidates>,
    status: u16,
    fields: &HeaderMap,
) {
    let Some(invalidates) = invalidates else {
        return;
    };
    for key in invalidates(status, fields) {
        let key = KeyRef::new(&key);
        fetcher
            .snapshot
            .invalidate(key, || fetcher.store.invalidate(key));
    }
}

fn tell(filler: &Filler, to: &To<'_>, mut head: OriginHead) {
    if let Some(line) = &to.binds {
        sticky::bind(head.status, &mut head.fields, line.clone(), clock::now());
    }
    let head = &head;
    let fields = arrived::dressed(head, None, clock::now());
    filler.tell(News::Head(Arc::new(Answer {
        head: arrived::render(head.status, &fields, to.route, to.scheme, None),
        length: if to.head_only {
            land::content_length(head)
        } else {
            land::length(head)
        },
        age: land::age(head),
        arrived: clock::moment(),
        sharing: Sharing::Leader {
            why: "past the cache",
            oddity: false,
        },
        stored: None,
        fwd_status: head.status,
        tags: Set::default(),
    })));
}
