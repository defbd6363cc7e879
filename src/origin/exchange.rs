//! One request and its answer on one connection: the deadlines, the one retry, and what the caller sees.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use pingora::http::RequestHeader;
use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::rules::response::BodyFraming;

use super::body::BodySender;
use super::connect::{self, Line, NotOpened, Opened, Source};
use super::error::{OriginError, OriginErrorKind};
use super::server::Server;
use super::upstream::{Permit, Upstream};
use super::witness::Witness;

/// The body that a request will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing {
    None,
    Length(u64),
    Chunked,
}

/// What an origin says, in order: `Interim* Head Body* End`, or `Interim* Switched Body* End`.
#[derive(Debug)]
pub enum Event {
    /// 102 to 199 but 101 (RFC 9110 §15.2). HTTP/1 only.
    Interim {
        status: u16,
        fields: HeaderMap,
    },
    Head(OriginHead),
    /// A piece of the body, or of the tunnel. Never empty.
    Body(Bytes),
    /// The body is complete, by its own framing; the tunnel's origin sends no more.
    End,
    /// 101. What follows are the bytes of the other protocol.
    Switched(OriginHead),
}

/// A final head, checked, without the fields of the connection. On a 101 `Upgrade` stays.
#[derive(Debug, Clone)]
pub struct OriginHead {
    pub status: u16,
    pub fields: HeaderMap,
    /// How the end of the body is known. `Length` is kept to; `Close` over HTTP/2 means that the stream ends itself.
    pub framing: BodyFraming,
    /// The version it was received in, as `Via` tells it: `1.0`, `1.1` or `2`.
    pub version: &'static str,
}

/// One request and its answer. Dropping it closes the connection (HTTP/1) or resets the stream (HTTP/2).
pub struct Exchange {
    /// Tells of its server.
    witness: Witness,
    state: State,
    /// For the one retry: a request without a body, whose method may be sent twice (RFC 9110 §9.2.2).
    again: Option<Box<RequestHeader>>,
    attempts: u8,
    /// How long the head is waited for once the request was all sent.
    head_timeout: Duration,
    total: Option<Instant>,
    /// How long its caller was elsewhere with what it had got, and since when it is.
    away: Duration,
    away_since: Option<Instant>,
    /// Since when `next` waits for a byte, over cancelled calls too; `None` while the caller has the word.
    waits_since: Option<Instant>,
}

enum State {
    Open(Opened),
    /// The retry under way.
    Opening(Pin<Box<dyn Future<Output = Result<Opened, NotOpened>> + Send>>),
    Failed(OriginError),
}

impl Exchange {
    /// Connects, from the pool or anew, and writes the head, with framing fields after `body` and, where there is none,
    /// a Host. An `Upgrade` field asks for HTTP/1.1. The permit must live as long as the exchange does.
    ///
    /// A reused connection that turns out dead before any byte of an answer is replaced by a new one, once, here or in
    /// `next`, if the request has no body and an idempotent method.
    ///
    /// # Errors
    /// `Connect`, `ConnectTimeout`, `Tls`, `Write`, `BetweenBytes` (the origin takes no bytes), `Total`.
    pub async fn start(
        upstream: &Arc<Upstream>,
        permit: &Permit,
        head: Box<RequestHeader>,
        body: Outgoing,
    ) -> Result<Self, OriginError> {
        let witness = Witness::with(upstream, permit);
        Self::begin(witness, head, body, Source::PoolOrNew).await
    }

    /// The same at a server that needs no permit: a probe.
    pub(super) async fn at(
        upstream: &Arc<Upstream>,
        server: &Arc<Server>,
        head: Box<RequestHeader>,
        body: Outgoing,
        from: Source,
    ) -> Result<Self, OriginError> {
        Self::begin(Witness::new(upstream, server), head, body, from).await
    }

    async fn begin(
        mut witness: Witness,
        head: Box<RequestHeader>,
        body: Outgoing,
        from: Source,
    ) -> Result<Self, OriginError> {
        let (upstream, server) = (&witness.upstream, &witness.server);
        let total = witness.began() + upstream.spec.total_timeout;
        let repeatable =
            matches!(body, Outgoing::None | Outgoing::Length(0)) && is_idempotent(&head.method);
        let mut attempts = 1;
        let opened = match connect::open(upstream, server, &head, body, from, total).await {
            Err(failed) if failed.reused && repeatable => {
                attempts = 2;
                connect::open(upstream, server, &head, body, Source::New, total).await
            }
            opened => opened,
        };
        let opened = opened.map_err(|not| {
            witness.not_connected();
            not.error
        })?;
        Ok(Self {
            head_timeout: witness.patience(),
            witness,
            state: State::Open(opened),
            again: (repeatable && attempts == 1).then_some(head),
            attempts,
            total: Some(total),
            away: Duration::ZERO,
            away_since: None,
            waits_since: None,
        })
    }

    /// Sends a piece of the request's body, or of a tunnel. Reads ahead meanwhile, a little. For sending and receiving at
    /// once see [`Self::body_sender`].
    ///
    /// # Errors
    /// See [`BodySender::send`]. An answer may be there all the same: ask `next`.
    pub async fn send_body(&mut self, data: Bytes) -> Result<(), OriginError> {
        let mut sender = self.sender()?;
        self.read_ahead_while(sender.send(data)).await
    }

    /// Ends the request's body; in a tunnel, tells the origin that no more comes.
    ///
    /// # Errors
    /// See [`BodySender::end`].
    pub async fn end_body(&mut self) -> Result<(), OriginError> {
        let mut sender = self.sender()?;
        self.read_ahead_while(sender.end()).await
    }

    /// The sending half, to be used while `next` runs in another future. `None` while it is out. It comes back by being
    /// dropped; a connection whose sender is still out is not used again.
    pub fn body_sender(&mut self) -> Option<BodySender> {
        match &self.state {
            State::Open(opened) => opened.body.sender(),
            State::Opening(_) | State::Failed(_) => None,
        }
    }

    /// From now on this is a long-lived stream: `total_timeout` no longer applies, the silence between bytes does.
    pub fn become_stream(&mut self) {
        self.total = None;
        if let State::Open(opened) = &self.state {
            opened.body.lift_total();
        }
    }

    /// The fields after the body, once it has ended. HTTP/2 only.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        match &self.state {
            State::Open(Opened {
                line: Line::Http2(line),
                ..
            }) => line.trailers(),
            _ => None,
        }
    }

    /// Connections this request was sent on, 1 or 2.
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// What the origin says next. Cancel-safe: a call that is dropped loses nothing, and the deadlines run on over it.
    /// After `End` it says `End` again, after an error the same error.
    ///
    /// Deadlines: the head by `first_byte_timeout` after the request was all sent, each read of a body within
    /// `between_bytes_timeout` (a caller that comes back late is not held against the origin), everything by
    /// `total_timeout`. In a tunnel none applies: both its ends know better.
    ///
    /// # Errors
    /// An answer that is broken, late or cut off, never as `End`.
    pub async fn next(&mut self) -> Result<Event, OriginError> {
        if let Some(since) = self.away_since.take() {
            self.away += clock::timer().saturating_duration_since(since);
        }
        loop {
            match self.advance().await {
                Ok(Some(event)) => {
                    self.waits_since = None;
                    match &event {
                        Event::Head(head) | Event::Switched(head) => self.witness.head(head.status),
                        Event::End => self.witness.ended(self.away, self.sent()),
                        _ => {}
                    }
                    self.away_since = Some(clock::timer());
                    return Ok(event);
                }
                Ok(None) => {}
                Err(error) => {
                    self.witness.failed(error.kind);
                    return Err(error);
                }
            }
        }
    }

    /// After `End`: the connection goes back to the pool if nothing speaks against it.
    pub async fn finish(self) {
        if let State::Open(Opened {
            line: Line::Http1(line),
            body,
        }) = self.state
        {
            line.release(&body, &self.witness.upstream, &self.witness.server);
        }
    }

    async fn advance(&mut self) -> Result<Option<Event>, OriginError> {
        match &mut self.state {
            State::Failed(error) => return Err(error.clone()),
            State::Opening(opening) => {
                self.state = match opening.as_mut().await {
                    Ok(opened) => State::Open(opened),
                    Err(failed) => State::Failed(failed.error),
                };
                return Ok(None);
            }
            State::Open(_) => {}
        }
        match self.read().await {
            Ok(event) => Ok(event),
            Err(error) => {
                self.failed(error);
                Ok(None)
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Event>, OriginError> {
        let State::Open(opened) = &mut self.state else {
            return Ok(None);
        };
        if let Some(event) = opened.parse()? {
            return Ok(Some(event));
        }
        self.witness.sent(opened.body.sent());
        let now = clock::timer();
        let since = *self.waits_since.get_or_insert(now);
        // Also over an origin that never stops sending, where no timer would get its turn.
        if !opened.line.is_tunnel() && self.total.is_some_and(|total| total <= now) {
            return Err(OriginError::new(
                OriginErrorKind::Total,
                "the exchange took too long",
            ));
        }
        let silence = Silence {
            before_head: self.head_timeout,
            between_bytes: self.witness.upstream.spec.between_bytes_timeout,
        };
        let limit = deadline(opened, silence, since, self.total);
        let sends = opened.body.sent().is_none();
        let Opened { line, body } = opened;
        tokio::select! {
            biased;
            () = line.fill() => {
                self.waits_since = Some(clock::timer());
                Ok(None)
            }
            // The request has just been sent whole: another deadline.
            () = body.changed.notified(), if sends => Ok(None),
            () = sleep_until(limit.map_or(since, |(at, _)| at)), if limit.is_some() => {
                let kind = limit.map_or(OriginErrorKind::Total, |(_, kind)| kind);
                Err(OriginError::new(kind, "the origin is silent"))
            }
        }
    }

    /// Tries again if that is allowed and has a chance; else this was it.
    fn failed(&mut self, mut error: OriginError) {
        let State::Open(opened) = &self.state else {
            return;
        };
        error.before_head = opened.line.before_head();
        let worth_it = error.kind == OriginErrorKind::Reset && opened.line.may_be_stale();
        match self.again.take() {
            Some(head) if worth_it => self.state = State::Opening(self.open_again(head)),
            _ => {
                if matches!(
                    error.kind,
                    OriginErrorKind::FirstByteTimeout | OriginErrorKind::BetweenBytes
                ) {
                    opened.line.distrust();
                }
                self.state = State::Failed(error);
            }
        }
    }

    fn open_again(
        &mut self,
        head: Box<RequestHeader>,
    ) -> Pin<Box<dyn Future<Output = Result<Opened, NotOpened>> + Send>> {
        self.attempts += 1;
        self.waits_since = None;
        self.witness.sent(None);
        let upstream = self.witness.upstream.clone();
        let server = self.witness.server.clone();
        let total = self
            .total
            .unwrap_or_else(|| clock::timer() + upstream.spec.total_timeout);
        Box::pin(async move {
            let (body, from) = (Outgoing::None, Source::New);
            connect::open(&upstream, &server, &head, body, from, total).await
        })
    }

    /// When the request was all sent.
    fn sent(&self) -> Option<Instant> {
        match &self.state {
            State::Open(opened) => opened.body.sent(),
            State::Opening(_) | State::Failed(_) => None,
        }
    }

    fn sender(&mut self) -> Result<BodySender, OriginError> {
        if let State::Failed(error) = &self.state {
            return Err(error.clone());
        }
        let out = || OriginError::new(OriginErrorKind::Write, "the body is being sent by another");
        self.body_sender().ok_or_else(out)
    }

    async fn read_ahead_while<T>(&mut self, sending: impl Future<Output = T>) -> T {
        tokio::pin!(sending);
        loop {
            let State::Open(Opened { line, .. }) = &mut self.state else {
                return sending.await;
            };
            let wants_more = line.wants_more();
            tokio::select! {
                biased;
                sent = &mut sending => return sent,
                () = line.fill(), if wants_more => {}
            }
        }
    }
}

impl Opened {
    fn parse(&mut self) -> Result<Option<Event>, OriginError> {
        let event = match &mut self.line {
            Line::Http1(line) => line.parse(&self.body)?,
            Line::Http2(line) => line.parse()?,
        };
        if let Some(Event::Head(_) | Event::Switched(_)) = event {
            self.body.saw_head();
        }
        Ok(event)
    }
}

impl Line {
    async fn fill(&mut self) {
        match self {
            Self::Http1(line) => line.fill().await,
            Self::Http2(line) => line.fill().await,
        }
    }

    fn wants_more(&self) -> bool {
        match self {
            Self::Http1(line) => line.wants_more(),
            Self::Http2(line) => line.wants_more(),
        }
    }

    fn before_head(&self) -> bool {
        match self {
            Self::Http1(line) => line.before_head(),
            Self::Http2(line) => line.before_head(),
        }
    }

    fn is_tunnel(&self) -> bool {
        match self {
            Self::Http1(line) => line.is_tunnel(),
            Self::Http2(_) => false,
        }
    }

    /// The failure may be the connection's age rather than the origin's answer to this request.
    fn may_be_stale(&self) -> bool {
        match self {
            Self::Http1(line) => line.reused && !line.answered(),
            Self::Http2(line) => line.before_head() && (line.reused || line.unprocessed),
        }
    }

    fn distrust(&self) {
        if let Self::Http2(line) = self {
            line.distrust();
        }
    }
}

/// How long an origin may be silent.
struct Silence {
    before_head: Duration,
    between_bytes: Duration,
}

/// The next deadline, and what it means when it passes.
fn deadline(
    opened: &Opened,
    silence: Silence,
    since: Instant,
    total: Option<Instant>,
) -> Option<(Instant, OriginErrorKind)> {
    if opened.line.is_tunnel() {
        return None;
    }
    let total = total.map(|at| (at, OriginErrorKind::Total));
    let silence = match opened.line.before_head() {
        true => opened.body.sent().map(|sent| {
            (
                sent + silence.before_head,
                OriginErrorKind::FirstByteTimeout,
            )
        }),
        false => Some((since + silence.between_bytes, OriginErrorKind::BetweenBytes)),
    };
    total.into_iter().chain(silence).min_by_key(|(at, _)| *at)
}

/// RFC 9110 §9.2.2
fn is_idempotent(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::DELETE,
        Method::TRACE,
    ]
    .contains(method)
}
