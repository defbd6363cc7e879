//! A client's connection: bytes in, bytes out, each under its deadline.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::exchange::Exchange;
use super::stream::Stream;
use super::watch::Post;
use crate::clock;
use crate::config::policy::Policy;

/// Read at once from a socket.
const READ: usize = 16 * 1024;
/// What a client must have taken before its patience is counted anew.
pub const SLICE: usize = 64 * 1024;
/// Inboxes kept per worker for the next request.
const POOLED: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
    static INBOXES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// How fast a client must be at least.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes per second; none: as slow as it likes.
    pub rate: Option<u64>,
    /// Before the rate counts.
    pub grace: Duration,
}

impl Pace {
    pub fn of(policy: &Policy) -> Pace {
        Pace {
            rate: Some(policy.listen.min_rate).filter(|rate| *rate > 0),
            grace: policy.listen.min_rate_grace,
        }
    }

    /// Milliseconds a client may take for its first `bytes`.
    pub fn millis_for(self, bytes: u64) -> Option<u64> {
        self.rate
            .map(|rate| self.grace.as_millis() as u64 + bytes * 1_000 / rate.max(1))
    }
}

/// How a client is reached: its connection, or its stream of one.
enum Line {
    Stream(Stream),
    Exchange(Box<Exchange>),
}

/// One client, as whoever serves it sees it: bytes of a request in, an answer out.
pub struct Wire {
    line: Line,
    post: Arc<Post>,
    pace: Pace,
}

impl Wire {
    pub fn new(stream: Stream, post: Arc<Post>, pace: Pace) -> Wire {
        Wire {
            line: Line::Stream(stream),
            post,
            pace,
        }
    }

    /// For one request of an HTTP/2 connection.
    pub fn exchange(exchange: Exchange, post: Arc<Post>, pace: Pace) -> Wire {
        Wire {
            line: Line::Exchange(Box::new(exchange)),
            post,
            pace,
        }
    }

    /// Whether messages end by its own means, not by what their heads say.
    pub fn frames_itself(&self) -> bool {
        matches!(self.line, Line::Exchange(_))
    }

    pub fn pace(&self) -> Pace {
        self.pace
    }

    pub fn post(&self) -> &Post {
        &self.post
    }

    /// Reads what is there into `inbox`. 0 at the end of the stream.
    ///
    /// # Errors
    /// The socket's, or [`io::ErrorKind::TimedOut`] when the armed deadline passes.
    pub async fn fill(&mut self, inbox: &mut Inbox) -> io::Result<usize> {
        let Wire { line, post, .. } = self;
        std::future::poll_fn(|cx| match poll_fill(line, cx, inbox) {
            Poll::Pending => {
                ready!(post.poll_due(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            done => done,
        })
        .await
    }

    /// Writes what the socket takes at once, and says how many bytes of `pieces` that was.
    ///
    /// # Errors
    /// The socket's.
    pub fn send_now(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let Line::Stream(stream) = &self.line else {
            return Ok(0);
        };
        match stream.try_write(pieces) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Writes `pieces` in as few calls as the socket allows. The client must keep its pace.
    async fn send(&mut self, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut pieces, 0);
        let mut patience = Patience::default();
        let Wire { line, post, pace } = self;
        let Line::Stream(stream) = line else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        std::future::poll_fn(|cx| {
            loop {
                let stream = Pin::new(&mut *stream);
                let written = match &*pieces {
                    // What TLS has taken need not be on its way yet.
                    [] => match stream.poll_flush(cx) {
                        Poll::Ready(flushed) => return Poll::Ready(flushed),
                        Poll::Pending => Poll::Pending,
                    },
                    [one] => stream.poll_write(cx, one),
                    many => stream.poll_write_vectored(cx, many),
                };
                match written {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(n)) => {
                        IoSlice::advance_slices(&mut pieces, n);
                        patience.took(n);
                    }
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                    Poll::Pending => return patience.poll(post, *pace, cx),
                }
            }
        })
        .await
    }

    /// Sends an answer's head, or what is left of it.
    ///
    /// # Errors
    /// As [`Wire::send_body`].
    pub async fn send_head(&mut self, head: &[u8]) -> io::Result<()> {
        match &mut self.line {
            _ if head.is_empty() => Ok(()),
            Line::Exchange(exchange) => exchange.answer(head),
            Line::Stream(_) => self.send(&mut [IoSlice::new(head)]).await,
        }
    }

    /// Sends the head of an interim answer; HTTP/2's clients get none.
    ///
    /// # Errors
    /// As [`Wire::send_body`].
    pub async fn send_interim(&mut self, head: &[u8]) -> io::Result<()> {
        match self.line {
            Line::Exchange(_) => Ok(()),
            Line::Stream(_) => self.send(&mut [IoSlice::new(head)]).await,
        }
    }

    /// Sends `head`, if it isn't empty, and body pieces, framed as one chunk if `chunked` (RFC 9112 §7.1).
    ///
    /// # Errors
    /// The socket's, or [`io::ErrorKind::TimedOut`] when the client takes too little.
    pub async fn send_body(
        &mut self,
        head: &[u8],
        pieces: &[Bytes],
        chunked: bool,
    ) -> io::Result<()> {
        if self.frames_itself() {
            self.send_head(head).await?;
            return self.send_pieces(pieces).await;
        }
        let len: usize = pieces.iter().map(Bytes::len).sum();
        let size = format!("{len:x}\r\n");
        let mut slices = Vec::with_capacity(pieces.len() + 3);
        slices.push(IoSlice::new(head));
        if chunked && len > 0 {
            slices.push(IoSlice::new(size.as_bytes()));
        }
        slices.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
        if chunked && len > 0 {
            slices.push(IoSlice::new(b"\r\n"));
        }
        self.send(&mut slices).await
    }

    /// Sends body pieces on a stream of HTTP/2, as its windows open.
    async fn send_pieces(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let mut patience = Patience::default();
        let Wire { line, post, pace } = self;
        let Line::Exchange(exchange) = line else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        for piece in pieces {
            let mut piece = piece.clone();
            while !piece.is_empty() {
                let sent = std::future::poll_fn(|cx| match exchange.poll_send(cx, &mut piece) {
                    Poll::Pending => patience.poll(post, *pace, cx),
                    done => done,
                });
                let sent = sent.await?;
                patience.took(sent);
            }
        }
        Ok(())
    }

    /// Ends a chunked body (RFC 9112 §7.1).
    ///
    /// # Errors
    /// As [`Wire::send_body`].
    pub async fn send_last_chunk(&mut self) -> io::Result<()> {
        match self.line {
            Line::Exchange(_) => Ok(()),
            Line::Stream(_) => self.send(&mut [IoSlice::new(b"0\r\n\r\n")]).await,
        }
    }

    /// Whether the client has gone: completes on its end of stream or error, or when it sends on (into `inbox`).
    pub async fn gone(&mut self, inbox: &mut Inbox, most: usize) -> bool {
        if let Line::Exchange(exchange) = &mut self.line {
            std::future::poll_fn(|cx| exchange.poll_gone(cx)).await;
            return true;
        }
        loop {
            if inbox.len() >= most {
                // It pipelines more than we hold for it: it is there.
                std::future::pending::<()>().await;
            }
            match self.fill_unwatched(inbox).await {
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            }
        }
    }

    async fn fill_unwatched(&mut self, inbox: &mut Inbox) -> io::Result<usize> {
        self.post.disarm();
        self.fill(inbox).await
    }

    /// As [`Wire::gone`], for a request of HTTP/2; of a connection nothing is known without reading on.
    pub async fn stream_gone(&mut self) {
        match &mut self.line {
            Line::Exchange(exchange) => std::future::poll_fn(|cx| exchange.poll_gone(cx)).await,
            Line::Stream(_) => std::future::pending().await,
        }
    }

    /// Ends one request of an HTTP/2 connection, whole or not.
    pub fn end_exchange(&mut self, whole: bool) {
        if let Line::Exchange(exchange) = &mut self.line {
            exchange.end(whole);
        }
    }

    /// Closes so that what was sent arrives: ends our side, then reads until the client ends its own, for a short while
    /// (RFC 9112 §9.6).
    pub async fn close_gently(mut self) {
        self.post.arm(Duration::from_secs(2));
        if let Line::Stream(stream) = &mut self.line {
            let post = &self.post;
            // TLS has a last word, which need not find room.
            let shut = std::future::poll_fn(|cx| match Pin::new(&mut *stream).poll_shutdown(cx) {
                Poll::Pending => post.poll_due(cx).map(|()| false),
                Poll::Ready(shut) => Poll::Ready(shut.is_ok()),
            });
            if !shut.await {
                return;
            }
        }
        let mut waste = Inbox::default();
        let mut total = 0;
        while let Ok(n @ 1..) = self.fill(&mut waste).await {
            waste.clear();
            total += n;
            if total > 1 << 20 {
                return;
            }
        }
    }

    /// Closes without waiting for anything; what the socket has taken still goes out.
    pub async fn leave(mut self) {
        if let Line::Stream(stream) = &mut self.line {
            std::future::poll_fn(|cx| {
                // TLS says its last word if there is room for it.
                let _ = Pin::new(&mut *stream).poll_shutdown(cx);
                Poll::Ready(())
            })
            .await;
        }
    }

    /// Closes with a reset, so that nobody takes what was sent for the whole.
    pub fn reset(self) {
        if let Line::Stream(stream) = self.line {
            stream.reset();
        }
    }

    /// The connection, for who will speak another protocol on it.
    pub fn into_stream(self) -> Option<(Stream, Arc<Post>)> {
        match self.line {
            Line::Stream(stream) => Some((stream, self.post)),
            Line::Exchange(_) => None,
        }
    }
}

fn poll_fill(line: &mut Line, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<io::Result<usize>> {
    match line {
        Line::Stream(stream) => SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
            inbox.extend(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        }),
        Line::Exchange(exchange) => {
            let piece = ready!(exchange.poll_body(cx))?;
            inbox.extend(&piece);
            Poll::Ready(Ok(piece.len()))
        }
    }
}

/// How long a client may take what it is sent.
#[derive(Default)]
pub struct Patience {
    /// Since when it is to take a slice, and how much of it it has taken.
    since: Option<(u64, u64)>,
}

impl Patience {
    pub fn took(&mut self, bytes: usize) {
        if let Some((_, taken)) = &mut self.since {
            *taken += bytes as u64;
        }
    }

    /// For who can't send on: arms the deadline, and is ready with an error when it has passed.
    fn poll<T>(&mut self, post: &Post, pace: Pace, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let before = self.since;
        let until = self.until(pace);
        // Armed once a slice: a deadline that has fired is not to be armed anew before it is seen.
        if self.since != before {
            match until {
                Some(until) => post.arm_at(until),
                None => post.disarm(),
            }
        }
        ready!(post.poll_due(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// When a client that can't be sent more has to have taken a slice. The clock starts when nothing more is taken, and
    /// anew with each slice: haste now is no credit for later.
    pub fn until(&mut self, pace: Pace) -> Option<u64> {
        let since = match self.since {
            Some((since, taken)) if taken < SLICE as u64 => since,
            _ => {
                let now = clock::uptime_millis();
                self.since = Some((now, 0));
                now
            }
        };
        pace.millis_for(SLICE as u64).map(|millis| since + millis)
    }
}

/// What a client sent and we haven't dealt with. Its buffer is borrowed from the worker and given back when empty.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    from: usize,
}

impl Inbox {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.from
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Deals with the first `n` bytes.
    pub fn consume(&mut self, n: usize) {
        self.from += n;
        debug_assert!(self.from <= self.bytes.len());
        if self.from == self.bytes.len() {
            self.clear();
        }
    }

    /// Takes `n` bytes out from behind the first `at`.
    pub fn cut(&mut self, at: usize, n: usize) {
        let start = self.from + at;
        self.bytes.drain(start..start + n);
    }

    pub fn clear(&mut self) {
        self.from = 0;
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        if bytes.capacity() <= READ {
            INBOXES.with_borrow_mut(|pool| {
                if pool.len() < POOLED {
                    pool.push(bytes);
                }
            });
        }
    }

    pub fn extend(&mut self, more: &[u8]) {
        if more.is_empty() {
            return;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = INBOXES.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        if self.from > 0 {
            self.bytes.drain(..self.from);
            self.from = 0;
        }
        self.bytes.extend_from_slice(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_keeps_what_was_not_dealt_with() {
        let mut inbox = Inbox::default();
        inbox.extend(b"GET / HTTP");
        inbox.consume(4);
        inbox.extend(b"/1.1");
        assert_eq!(inbox.bytes(), b"/ HTTP/1.1");
        inbox.consume(10);
        assert!(inbox.is_empty());
        assert_eq!(
            inbox.bytes.capacity(),
            0,
            "an idle connection holds no buffer"
        );
    }
}
