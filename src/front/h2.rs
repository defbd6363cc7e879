//! HTTP/2 (RFC 9113): one connection, its requests side by side.
//!
//! A request is judged as the HTTP/1.1 it could have been. A page in memory that fits the client's windows is answered at
//! once, by the connection's own task; any other request is served by a task of its own, on a [`Wire`] like any other.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::cache::Cache;
use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::Request;

use super::asking::{Noted, Verb, Whence};
use super::deliver::{self, Rest};
use super::exchange::Exchange;
use super::h1::{Conn, Next};
use super::limited::{self, Refused};
use super::lookup::{self, Decision, Hit};
use super::paced::{Flow, Paced};
use super::part::Part;
use super::problem::Problem;
use super::record::{self, Outcome};
use super::stream::Stream;
use super::watch::Post;
use super::wire::{Pace, SLICE, Wire};
use super::{InForce, Site, translate};
use crate::clock;
use crate::config::policy::Policy;
use crate::rules::claims;
use crate::rules::host::{KnownHost, Scheme};
use crate::telemetry::{Client, RequestId};

/// What a connection of HTTP/2 begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client may send of a body before it is read, for a stream and for the connection.
const WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What may wait for one stream's client below its windows.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that clients have reset and nobody has looked at yet: more is a flood (CVE-2023-44487).
const RESETS: usize = 20;
/// Streams that we had to reset for what their clients did (CVE-2025-8671).
const ERRORS: usize = 100;
/// How long a client that was told to go has for what it had asked for before.
const LEAVE: Duration = Duration::from_secs(10);

thread_local! {
    static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static ANSWER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a connection waits for.
enum Event {
    Request(Box<(Request<RecvStream>, SendResponse<Bytes>)>),
    /// It has ended, or broken.
    Over,
    /// A deadline has passed, or a drain has begun.
    Due,
}

/// Where a connection stands.
#[derive(Clone, Copy)]
enum Phase {
    Open,
    /// It was told to go (GOAWAY), and has until then, in the process's milliseconds.
    Leaving(u64),
}

/// How a connection ends.
enum End {
    /// What was sent is to arrive.
    Gently,
    /// Its client is too slow, or silent where it may not be.
    Cut,
}

/// Serves a connection until it ends; `ahead` are bytes of it that were read before.
pub async fn serve(
    in_force: &InForce,
    stream: Stream,
    post: Arc<Post>,
    ahead: Bytes,
    whence: Whence,
) {
    let site = in_force.load_full();
    let policy = &site.policy;
    let pace = Pace::of(policy);
    let (paced, flow, back) = {
        let head = millis(policy.listen.head_deadline);
        Paced::new(stream, ahead, Arc::clone(&post), pace, head)
    };
    let mut shaking = std::pin::pin!(limits(policy).handshake(paced));
    // The preface is still a head's business.
    let shaken = std::future::poll_fn(|cx| match shaking.as_mut().poll(cx) {
        Poll::Ready(shaken) => Poll::Ready(shaken.ok()),
        Poll::Pending => post.poll_due(cx).map(|()| None),
    });
    let Some(http2) = shaken.await else {
        return;
    };
    let requests = Requests {
        latest: Cache::new(Arc::clone(in_force)),
        site,
        whence: Whence {
            http2: true,
            ..whence
        },
        client: whence.client.into(),
        host: KnownHost::default(),
        live: Arc::new(()),
    };
    let connection = Connection {
        http2,
        requests,
        flow,
        post: Arc::clone(&post),
        phase: Phase::Open,
        asked: clock::uptime_millis(),
        pace,
        progress: (clock::uptime_millis(), 0),
    };
    // In here the connection, and with it the stream, is dropped.
    let end = connection.run().await;
    if let Ok(stream) = back.await {
        match end {
            End::Gently => Wire::new(stream, post, pace).close_gently().await,
            End::Cut => stream.reset(),
        }
    }
}

struct Connection {
    http2: h2::server::Connection<Paced, Bytes>,
    requests: Requests,
    flow: Arc<Flow>,
    post: Arc<Post>,
    phase: Phase,
    /// When the last request came.
    asked: u64,
    pace: Pace,
    /// When it was last seen that the client had taken a slice more, and how much it had taken then.
    progress: (u64, u64),
}

impl Connection {
    async fn run(mut self) -> End {
        loop {
            let now = clock::uptime_millis();
            match self.next_deadline(now) {
                Ok(deadline) => self.post.arm_at(deadline),
                Err(end) => return end,
            }
            self.post.has_spoken();
            self.post.set_hears(matches!(self.phase, Phase::Open));
            self.post.set_idle(self.is_idle());
            let Connection {
                http2, post, flow, ..
            } = &mut self;
            let event = std::future::poll_fn(|cx| {
                // Those that came together are answered together.
                flow.hold();
                let mut accepted = http2.poll_accept(cx);
                if accepted.is_pending() && flow.release() {
                    accepted = http2.poll_accept(cx);
                }
                match accepted {
                    Poll::Ready(Some(Ok(request))) => {
                        Poll::Ready(Event::Request(Box::new(request)))
                    }
                    Poll::Ready(Some(Err(_)) | None) => Poll::Ready(Event::Over),
                    Poll::Pending => post.poll_due(cx).map(|()| Event::Due),
                }
            });
            match event.await {
                Event::Request(request) => {
                    let (request, respond) = *request;
                    self.asked = clock::uptime_millis();
                    self.requests.take(request, respond);
                    tokio::task::coop::consume_budget().await;
                }
                Event::Over => return End::Gently,
                Event::Due => {}
            }
        }
    }

    /// Until when the connection may go on like this, after what is due now has been done.
    fn next_deadline(&mut self, now: u64) -> Result<u64, End> {
        let listen = &self.requests.site.policy.listen;
        let (idle, head) = (millis(listen.idle_timeout), millis(listen.head_deadline));
        let stalled = self.flow.stalled_until().unwrap_or(u64::MAX);
        let half_a_head = self
            .flow
            .head_since()
            .map_or(u64::MAX, |since| since + head);
        if stalled.min(half_a_head) <= now {
            return Err(End::Cut);
        }
        if self.post.take_shed() && self.is_idle() {
            return Err(End::Cut);
        }
        let draining = self.requests.site.watch.is_draining();
        let served = self.requests.live() > 0;
        let quiet_until = match self.phase {
            Phase::Open if draining => self.leave(now),
            // Who is served is watched by those who serve it.
            Phase::Open if served => now + idle,
            // What waits behind the client's windows is watched by nobody else.
            Phase::Open if self.http2.has_streams() => self.asked.max(self.progressed(now)) + idle,
            Phase::Open => self.asked + idle,
            Phase::Leaving(until) if until > now => until,
            // It crossed the word to go, and is answered.
            Phase::Leaving(_) if served && !draining => self.leave(now),
            Phase::Leaving(_) => return Err(End::Cut),
        };
        if quiet_until <= now {
            if self.http2.has_streams() {
                return Err(End::Cut);
            }
            return Ok(self.leave(now).min(half_a_head));
        }
        Ok(quiet_until.min(stalled).min(half_a_head))
    }

    /// Until when the client has as long as anybody has for a slice.
    fn progressed(&mut self, now: u64) -> u64 {
        let taken = self.flow.taken();
        if taken >= self.progress.1 + SLICE as u64 {
            self.progress = (now, taken);
        }
        self.progress.0 + self.pace.millis_for(SLICE as u64).unwrap_or(0)
    }

    /// Whether nothing is asked for.
    fn is_idle(&self) -> bool {
        self.requests.live() == 0 && !self.http2.has_streams()
    }

    /// Tells the client to go, and by when.
    fn leave(&mut self, now: u64) -> u64 {
        if matches!(self.phase, Phase::Open) {
            self.http2.graceful_shutdown();
        }
        let patience = match self.requests.site.watch.is_draining() {
            true => self.requests.site.policy.listen.drain.max(LEAVE),
            false => LEAVE,
        };
        let until = now + millis(patience);
        self.phase = Phase::Leaving(until);
        until
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// What a client may ask of a connection.
fn limits(policy: &Policy) -> Builder {
    let to_u32 = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(to_u32(policy.listen.max_streams))
        .max_header_list_size(to_u32(policy.listen.head.head_bytes))
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(ERRORS));
    builder
}

/// What the requests of one connection have in common.
struct Requests {
    /// Held by each task that serves one.
    live: Arc<()>,
    site: Arc<Site>,
    whence: Whence,
    client: Client,
    latest: Cache<InForce, Arc<Site>>,
    host: KnownHost,
}

impl Requests {
    /// How many have tasks of their own.
    fn live(&self) -> usize {
        Arc::strong_count(&self.live) - 1
    }

    /// Takes on a request.
    fn take(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        // Those that a client has reset count until their tasks have noticed.
        if self.live() >= self.site.policy.listen.max_streams {
            respond.send_reset(Reason::REFUSED_STREAM);
            return;
        }
        let latest = self.latest.load();
        if !Arc::ptr_eq(latest, &self.site) {
            self.site = Arc::clone(latest);
        }
        HEAD.with_borrow_mut(|head| {
            head.clear();
            let ends = request.body().is_end_stream();
            let is_head = request.method() == http::Method::HEAD;
            let written = translate::head(&request, self.scheme(&request), ends, head);
            let body = request.into_body();
            let mut noted = Noted::blank(clock::tick());
            let decision = match written {
                Ok(()) => lookup::decide(
                    &self.site,
                    head,
                    self.whence,
                    noted.began,
                    &mut self.host,
                    &mut noted,
                ),
                Err(why) => {
                    limited::unread(&self.site, self.whence, noted.began);
                    Decision::Refuse(Problem::malformed(why))
                }
            };
            match decision {
                Decision::Hit(hit) if matches!(hit.part, Part::Whole | Part::HeadOnly) => {
                    self.hit(noted, hit, body, respond, head);
                }
                Decision::Limited(refused) => self.refuse(noted, refused, body, respond, head),
                Decision::Refuse(_) => {
                    noted.id = RequestId::fresh();
                    if is_head {
                        noted.method = Verb::Known("HEAD");
                    }
                    self.serve(noted, decision, Exchange::new(body, respond), head);
                }
                decision => self.serve(noted, decision, Exchange::new(body, respond), head),
            }
        });
    }

    /// The scheme that a request may name: its connection's, or any if it comes from a trusted proxy, which may pass on its
    /// client's. What is believed is what the fields say.
    fn scheme(&self, request: &Request<RecvStream>) -> Scheme {
        let (whence, trusted) = (self.whence, &self.site.policy.listen.trusted_proxies);
        match request.uri().scheme_str() {
            Some(told) if told != whence.scheme.as_str() => {
                let passed_on = whence.claims && claims::trusts(trusted, whence.peer);
                let schemes = [Scheme::Http, Scheme::Https];
                let told = schemes.iter().find(|scheme| scheme.as_str() == told);
                told.copied().filter(|_| passed_on).unwrap_or(whence.scheme)
            }
            _ => whence.scheme,
        }
    }

    /// Answers from memory, at once if the client's windows take the whole page.
    fn hit(
        &self,
        noted: Noted,
        hit: Hit,
        body: RecvStream,
        mut respond: SendResponse<Bytes>,
        head: &[u8],
    ) {
        let entry = Arc::clone(&hit.entry);
        let bytes = match hit.part {
            Part::HeadOnly => 0,
            _ => entry.body.len(),
        };
        let answered = ANSWER.with_borrow_mut(|answer| {
            answer.clear();
            deliver::write_head(&noted, &hit, answer);
            let response = translate::response(answer).ok()?;
            respond.send_response(response, bytes == 0).ok()
        });
        let outcome = Outcome {
            status: entry.head.status,
            bytes,
            result: hit.result,
            route: Some(hit.route),
            asked: 0,
            next: Next::Keep,
        };
        let Some(mut stream) = answered else {
            record::answered(&self.site, &self.client, head, &noted, &Outcome::aborted());
            return;
        };
        let outcome = match bytes {
            0 => outcome,
            _ => match send_at_once(&mut stream, entry.body.pieces(), bytes) {
                AtOnce::Sent => outcome,
                AtOnce::Gone => Outcome::aborted(),
                AtOnce::Later => {
                    let mut conn = self.conn(Exchange::answering(body, stream), head);
                    let live = Arc::clone(&self.live);
                    tokio::spawn(async move {
                        let sent = Rest::body().send(&mut conn, &entry).await;
                        finish(conn, &noted, sent.map(|()| outcome));
                        drop(live);
                    });
                    return;
                }
            },
        };
        record::answered(&self.site, &self.client, head, &noted, &outcome);
    }

    /// Refuses at once who came too often.
    fn refuse(
        &self,
        noted: Noted,
        refused: Refused,
        body: RecvStream,
        mut respond: SendResponse<Bytes>,
        head: &[u8],
    ) {
        let told = refused.body();
        let answered = ANSWER.with_borrow_mut(|answer| {
            answer.clear();
            refused.head(&noted, false, answer);
            let response = translate::response(answer).ok()?;
            respond.send_response(response, told.is_empty()).ok()
        });
        let outcome = refused.outcome(false);
        let Some(mut stream) = answered else {
            record::answered(&self.site, &self.client, head, &noted, &Outcome::aborted());
            return;
        };
        let len = told.len() as u64;
        let sent = match len {
            0 => AtOnce::Sent,
            _ => send_at_once(&mut stream, std::slice::from_ref(&told), len),
        };
        let outcome = match sent {
            AtOnce::Sent => outcome,
            AtOnce::Gone => Outcome::aborted(),
            AtOnce::Later => {
                let mut conn = self.conn(Exchange::answering(body, stream), head);
                let live = Arc::clone(&self.live);
                tokio::spawn(async move {
                    let sent = conn.wire.send_body(&[], &[told], false).await;
                    finish(conn, &noted, sent.map(|()| outcome));
                    drop(live);
                });
                return;
            }
        };
        record::answered(&self.site, &self.client, head, &noted, &outcome);
    }

    /// Serves a request by a task of its own.
    fn serve(&self, noted: Noted, decision: Decision, exchange: Exchange, head: &[u8]) {
        let mut conn = self.conn(exchange, head);
        let live = Arc::clone(&self.live);
        tokio::spawn(async move {
            let sent = conn.carry_out(&noted, decision).await;
            finish(conn, &noted, sent);
            drop(live);
        });
    }

    fn conn(&self, exchange: Exchange, head: &[u8]) -> Conn {
        let post = self.site.watch.enroll_request();
        let wire = Wire::exchange(exchange, post, Pace::of(&self.site.policy));
        let mut conn = Conn::new(Arc::clone(&self.site), wire, self.whence);
        conn.inbox.extend(head);
        conn
    }
}

/// What became of a body that was to be sent at once.
enum AtOnce {
    Sent,
    /// The client's windows don't take it now.
    Later,
    /// The client has reset the stream.
    Gone,
}

/// Hands a body over whole, if the client's windows allow it now.
fn send_at_once(stream: &mut SendStream<Bytes>, pieces: &[Bytes], len: u64) -> AtOnce {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    stream.reserve_capacity(len.min(SEND_BUFFER));
    if stream.capacity() < len {
        return AtOnce::Later;
    }
    let last = pieces.len().saturating_sub(1);
    for (at, piece) in pieces.iter().enumerate() {
        if stream.send_data(piece.clone(), at == last).is_err() {
            return AtOnce::Gone;
        }
    }
    AtOnce::Sent
}

/// The end of a request that had a task of its own.
fn finish(mut conn: Conn, noted: &Noted, sent: io::Result<Outcome>) {
    let next = conn.done(noted, sent);
    conn.wire.end_exchange(next != Next::Break);
}
