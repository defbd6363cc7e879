//! The request's body on its way to the origin.
//!
//! Its own half of the exchange: while a [`BodySender`] is out, sending and [`Exchange::next`](super::Exchange::next)
//! may run at the same time, each in its own future. Put down, it goes back to the exchange.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use pingora::protocols::Stream;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::error::{OriginError, OriginErrorKind};
use super::exchange::Outgoing;
use crate::clock;

/// What is left of the request's body to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Length(u64),
    Chunks,
    /// Past a 101: bytes as they come.
    Tunnel,
    /// A write failed or was cancelled half-way.
    Broken,
}

/// Where the body goes.
pub(super) enum Sink {
    Http1(WriteHalf<Stream>),
    Http2(Http2Sink),
}

/// Sends a piece on an HTTP/2 stream as its window allows, and perhaps the end. Keeps what is not sent in the piece.
pub(super) type Http2Sink =
    Box<dyn FnMut(&mut Context<'_>, &mut Bytes, End) -> Poll<Result<(), String>> + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Now,
    Later,
}

pub(super) struct Body {
    sink: Sink,
    left: Left,
    between_bytes: Duration,
    total: Option<Instant>,
}

/// The body between the exchange and a sender, and what the exchange must know of its progress.
pub(super) struct Home {
    body: Mutex<Option<Body>>,
    /// When the request was last known to be all sent; `None` while its body is not.
    sent: Mutex<Option<Instant>>,
    /// The final head has been received.
    head_seen: AtomicBool,
    /// Rung when `sent` changes.
    pub(super) changed: Notify,
}

/// The sending half of an exchange. Dropping it gives the half back.
pub struct BodySender {
    body: Option<Body>,
    home: Arc<Home>,
}

impl BodySender {
    /// Sends a piece of the body, or of a tunnel. Returns when the origin's kernel has it.
    ///
    /// Not cancel-safe: a piece cut short breaks the body for good.
    ///
    /// # Errors
    /// `Write` if the origin takes no more or the body is longer than announced, `BetweenBytes` if it took nothing for
    /// that long, `Total`. An answer may be there all the same: ask `next` before giving up.
    pub async fn send(&mut self, data: Bytes) -> Result<(), OriginError> {
        let Some(body) = self.body.as_mut() else {
            return Err(write("the body has gone"));
        };
        let sent = body.send(data).await;
        sent.map_err(|error| self.home.placed(error))?;
        if body.left == Left::Nothing {
            self.home.sent_all();
        }
        Ok(())
    }

    /// Ends the body, if its length did not; in a tunnel, tells the origin that no more comes.
    ///
    /// # Errors
    /// As `send`, and `Write` if the body is shorter than announced.
    pub async fn end(&mut self) -> Result<(), OriginError> {
        let Some(body) = self.body.as_mut() else {
            return Err(write("the body has gone"));
        };
        let sent = body.end().await;
        sent.map_err(|error| self.home.placed(error))?;
        self.home.sent_all();
        Ok(())
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        *self.home.body.lock() = self.body.take();
    }
}

impl Home {
    pub(super) fn new(
        sink: Sink,
        outgoing: Outgoing,
        between_bytes: Duration,
        total: Option<Instant>,
    ) -> Arc<Self> {
        let left = match outgoing {
            Outgoing::None | Outgoing::Length(0) => Left::Nothing,
            Outgoing::Length(length) => Left::Length(length),
            Outgoing::Chunked => Left::Chunks,
        };
        Arc::new(Self {
            body: Mutex::new(Some(Body {
                sink,
                left,
                between_bytes,
                total,
            })),
            sent: Mutex::new((left == Left::Nothing).then(clock::timer)),
            head_seen: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    pub(super) fn sender(self: &Arc<Self>) -> Option<BodySender> {
        let body = self.body.lock().take()?;
        Some(BodySender {
            body: Some(body),
            home: self.clone(),
        })
    }

    pub(super) fn sent(&self) -> Option<Instant> {
        *self.sent.lock()
    }

    pub(super) fn saw_head(&self) {
        self.head_seen.store(true, Ordering::Relaxed);
    }

    fn placed(&self, error: OriginError) -> OriginError {
        OriginError {
            before_head: !self.head_seen.load(Ordering::Relaxed),
            ..error
        }
    }

    fn sent_all(&self) {
        self.sent.lock().get_or_insert_with(clock::timer);
        self.changed.notify_one();
    }

    /// The origin switched protocols. Returns false if the request's body is still being sent.
    pub(super) fn open_tunnel(&self) -> bool {
        match self.body.lock().as_mut() {
            Some(body) if body.left == Left::Nothing => {
                body.left = Left::Tunnel;
                body.total = None;
                true
            }
            _ => false,
        }
    }

    /// A stream has no total deadline.
    pub(super) fn lift_total(&self) {
        if let Some(body) = self.body.lock().as_mut() {
            body.total = None;
        }
    }

    /// The writing half of a connection that can carry another request: all of this one was sent.
    pub(super) fn take_clean(&self) -> Option<WriteHalf<Stream>> {
        match self.body.lock().take() {
            Some(Body {
                sink: Sink::Http1(half),
                left: Left::Nothing,
                ..
            }) => Some(half),
            _ => None,
        }
    }
}

impl Body {
    async fn send(&mut self, data: Bytes) -> Result<(), OriginError> {
        if data.is_empty() {
            return Ok(());
        }
        let length = data.len() as u64;
        // Broken unless it comes out at the other end.
        self.left = match std::mem::replace(&mut self.left, Left::Broken) {
            Left::Length(left) if length < left => {
                self.put(data, End::Later).await?;
                Left::Length(left - length)
            }
            Left::Length(left) if length == left => {
                self.put(data, End::Now).await?;
                Left::Nothing
            }
            Left::Chunks => {
                self.put_chunk(data).await?;
                Left::Chunks
            }
            Left::Tunnel => {
                self.put(data, End::Later).await?;
                Left::Tunnel
            }
            Left::Length(_) | Left::Nothing => {
                return Err(write("the body is longer than announced"));
            }
            Left::Broken => return Err(write("an earlier piece of the body was not sent")),
        };
        Ok(())
    }

    async fn end(&mut self) -> Result<(), OriginError> {
        match std::mem::replace(&mut self.left, Left::Broken) {
            Left::Nothing => {}
            Left::Chunks => match self.sink {
                Sink::Http1(_) => self.put(Bytes::from_static(b"0\r\n\r\n"), End::Now).await?,
                Sink::Http2(_) => self.put(Bytes::new(), End::Now).await?,
            },
            // Stays broken: there is nothing to come after it.
            Left::Tunnel => return self.shutdown().await,
            Left::Length(left) => return Err(write(format!("the body ended {left} bytes early"))),
            Left::Broken => return Err(write("an earlier piece of the body was not sent")),
        }
        self.left = Left::Nothing;
        Ok(())
    }

    async fn put_chunk(&mut self, data: Bytes) -> Result<(), OriginError> {
        match &mut self.sink {
            Sink::Http1(half) => {
                let size = Bytes::from(format!("{:x}\r\n", data.len()));
                let chunk = size.chain(data).chain(&b"\r\n"[..]);
                write_all(half, chunk, self.between_bytes, self.total).await
            }
            Sink::Http2(_) => self.put(data, End::Later).await,
        }
    }

    /// HTTP/1 has no use for `end`: its body's length is known from the framing.
    async fn put(&mut self, mut data: Bytes, end: End) -> Result<(), OriginError> {
        match &mut self.sink {
            Sink::Http1(half) => write_all(half, data, self.between_bytes, self.total).await,
            Sink::Http2(send) => {
                let sent = std::future::poll_fn(|cx| send(cx, &mut data, end));
                within(sent, self.between_bytes, self.total)
                    .await?
                    .map_err(write)
            }
        }
    }

    async fn shutdown(&mut self) -> Result<(), OriginError> {
        match &mut self.sink {
            Sink::Http1(half) => {
                let done = within(half.shutdown(), self.between_bytes, self.total).await?;
                done.map_err(failed)
            }
            Sink::Http2(_) => Ok(()),
        }
    }
}

/// Writes and flushes. The deadline runs from one taken byte to the next.
pub(super) async fn write_all(
    half: &mut WriteHalf<Stream>,
    mut data: impl Buf,
    between_bytes: Duration,
    total: Option<Instant>,
) -> Result<(), OriginError> {
    while data.has_remaining() {
        match within(half.write_buf(&mut data), between_bytes, total).await? {
            Ok(0) => return Err(failed(io::ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(why) => return Err(failed(why)),
        }
    }
    within(half.flush(), between_bytes, total)
        .await?
        .map_err(failed)
}

async fn within<T>(
    work: impl Future<Output = T>,
    between_bytes: Duration,
    total: Option<Instant>,
) -> Result<T, OriginError> {
    let silence = clock::timer() + between_bytes;
    let (deadline, kind) = match total {
        Some(total) if total < silence => (total, OriginErrorKind::Total),
        _ => (silence, OriginErrorKind::BetweenBytes),
    };
    let done = timeout_at(deadline, work).await;
    done.map_err(|_| OriginError::new(kind, "the origin takes no more of the request"))
}

fn write(why: impl Into<String>) -> OriginError {
    OriginError::new(OriginErrorKind::Write, why)
}

fn failed(why: io::Error) -> OriginError {
    write(format!("sending the request: {why}"))
}
