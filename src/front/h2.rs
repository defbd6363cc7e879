//! HTTP/2 (RFC 9113): one connection, its requests side by side.
//!
//! A request is judged as the HTTP/1.1 it could have been. A page in memory that fits the client's windows is answered at
//! once, by the connection's own task; any other request is served by a task of its own, on a [`Wire`] like any other.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use bytes::{Buf, Bytes};
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::asking::{Noted, Verb, Whence};
use super::deliver::{self, Rest};
use super::exchange::Exchange;
use super::h1::{Conn, Next};
use super::lookup::{self, Decision, Hit};
use super::part::Part;
use super::problem::Problem;
use super::record::{self, Outcome};
use super::stream::Stream;
use super::watch::Post;
use super::wire::{Pace, Patience, Wire};
use super::{Site, translate};
use crate::clock;
use crate::config::policy::Policy;
use crate::rules::host::KnownHost;
use crate::telemetry::{Client, RequestId};

/// What a connection of HTTP/2 begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client may send of a body before it is read, for a stream and for the connection.
const WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What may wait for one stream's client below its windows.
const SEND_BUFFER: usize = 256 * 1024;
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
    Due,
}

/// Serves a connection until it ends; `ahead` are bytes of it that were read before.
pub async fn serve(site: Arc<Site>, stream: Stream, ahead: Bytes, whence: Whence) {
    let policy = site.policy.load_full();
    let post = site.watch.enroll();
    // The preface and the first settings are its first head.
    post.arm(policy.listen.head_deadline);
    let stalled = Arc::new(AtomicBool::new(false));
    let io = Paced {
        stream,
        ahead,
        post: Arc::clone(&post),
        pace: Pace::of(&policy),
        idle: policy.listen.idle_timeout,
        patience: Patience::default(),
        stalled: Arc::clone(&stalled),
    };
    let mut shaking = std::pin::pin!(limits(&policy).handshake(io));
    let shaken = std::future::poll_fn(|cx| match shaking.as_mut().poll(cx) {
        Poll::Ready(shaken) => Poll::Ready(shaken.ok()),
        Poll::Pending => post.poll_due(cx).map(|()| None),
    });
    let Some(mut http2) = shaken.await else {
        return;
    };
    let idle = policy.listen.idle_timeout;
    let mut requests = Requests {
        latest: Cache::new(Arc::clone(&site.policy)),
        site,
        whence: Whence {
            http2: true,
            ..whence
        },
        client: whence.client.into(),
        policy,
        host: KnownHost::default(),
    };
    // A drain may fire it at any time.
    post.set_idle(true);
    post.arm(idle);
    let mut told_to_go = false;
    loop {
        let event = std::future::poll_fn(|cx| match http2.poll_accept(cx) {
            Poll::Ready(Some(Ok(request))) => Poll::Ready(Event::Request(Box::new(request))),
            Poll::Ready(Some(Err(_)) | None) => Poll::Ready(Event::Over),
            Poll::Pending => post.poll_due(cx).map(|()| Event::Due),
        });
        match event.await {
            Event::Request(request) => {
                let (request, respond) = *request;
                requests.take(request, respond);
                if !told_to_go && !stalled.load(Relaxed) {
                    post.arm(idle);
                }
                tokio::task::coop::consume_budget().await;
            }
            Event::Over => return,
            Event::Due if stalled.load(Relaxed) => return,
            Event::Due if requests.site.watch.is_draining() && !told_to_go => {
                http2.graceful_shutdown();
                told_to_go = true;
                post.set_idle(false);
                post.arm(LEAVE);
            }
            // What is asked for is watched by those who serve it.
            Event::Due if http2.has_streams() && !told_to_go => post.arm(idle),
            Event::Due if told_to_go => return,
            Event::Due => {
                http2.graceful_shutdown();
                told_to_go = true;
                post.arm(LEAVE);
            }
        }
    }
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
    site: Arc<Site>,
    whence: Whence,
    client: Client,
    policy: Arc<Policy>,
    latest: Cache<Arc<ArcSwap<Policy>>, Arc<Policy>>,
    host: KnownHost,
}

impl Requests {
    /// Takes on a request.
    fn take(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let latest = self.latest.load();
        if !Arc::ptr_eq(latest, &self.policy) {
            self.policy = Arc::clone(latest);
        }
        HEAD.with_borrow_mut(|head| {
            head.clear();
            let ends = request.body().is_end_stream();
            let is_head = request.method() == http::Method::HEAD;
            let written = translate::head(&request, self.whence.scheme, ends, head);
            let body = request.into_body();
            let mut noted = Noted::blank(clock::tick());
            let decision = match written {
                Ok(()) => lookup::decide(
                    &self.site,
                    &self.policy,
                    head,
                    self.whence,
                    noted.began,
                    &mut self.host,
                    &mut noted,
                ),
                Err(why) => Decision::Refuse(Problem::malformed(why)),
            };
            match decision {
                Decision::Hit(hit) if matches!(hit.part, Part::Whole | Part::HeadOnly) => {
                    self.hit(noted, hit, body, respond, head);
                }
                Decision::More | Decision::Refuse(_) => {
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
        if bytes == 0 || send_at_once(&mut stream, entry.body.pieces(), bytes) {
            record::answered(&self.site, &self.client, head, &noted, &outcome);
            return;
        }
        let mut conn = self.conn(Exchange::answering(body, stream), head);
        tokio::spawn(async move {
            let sent = Rest::body().send(&mut conn, &entry).await;
            finish(conn, &noted, sent.map(|()| outcome));
        });
    }

    /// Serves a request by a task of its own.
    fn serve(&self, noted: Noted, decision: Decision, exchange: Exchange, head: &[u8]) {
        let mut conn = self.conn(exchange, head);
        tokio::spawn(async move {
            let sent = conn.carry_out(&noted, decision).await;
            finish(conn, &noted, sent);
        });
    }

    fn conn(&self, exchange: Exchange, head: &[u8]) -> Conn {
        let post = self.site.watch.enroll_request();
        let wire = Wire::exchange(exchange, post, Pace::of(&self.policy));
        let (site, policy) = (Arc::clone(&self.site), Arc::clone(&self.policy));
        let mut conn = Conn::new(site, wire, self.whence, policy);
        conn.inbox.extend(head);
        conn
    }
}

/// Hands a body over whole, if the client's windows allow it now.
fn send_at_once(stream: &mut SendStream<Bytes>, pieces: &[Bytes], len: u64) -> bool {
    let Ok(len) = usize::try_from(len) else {
        return false;
    };
    stream.reserve_capacity(len);
    if stream.capacity() < len {
        return false;
    }
    let last = pieces.len().saturating_sub(1);
    for (at, piece) in pieces.iter().enumerate() {
        if stream.send_data(piece.clone(), at == last).is_err() {
            // It has reset the stream, and hears of nothing any more.
            return true;
        }
    }
    true
}

/// The end of a request that had a task of its own.
fn finish(mut conn: Conn, noted: &Noted, sent: io::Result<Outcome>) {
    let next = conn.done(noted, sent);
    conn.wire.end_exchange(next != Next::Break);
}

/// A connection's bytes, which its client must take at its pace.
struct Paced {
    stream: Stream,
    ahead: Bytes,
    post: Arc<Post>,
    pace: Pace,
    idle: Duration,
    patience: Patience,
    /// The deadline that is armed is for what the client is to take.
    stalled: Arc<AtomicBool>,
}

impl Paced {
    fn watch<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() {
            self.stalled.store(true, Relaxed);
            self.patience.wait(&self.post, self.pace);
        }
        written
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, into);
        }
        let part = this.ahead.len().min(into.remaining());
        into.put_slice(&this.ahead[..part]);
        this.ahead.advance(part);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(n)) = written {
            this.patience.took(n);
        }
        this.watch(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, pieces);
        if let Poll::Ready(Ok(n)) = written {
            this.patience.took(n);
        }
        this.watch(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        ready!(this.watch(flushed))?;
        if this.stalled.swap(false, Relaxed) {
            // It has taken everything: from here on it is idle.
            this.patience = Patience::default();
            this.post.arm(this.idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
