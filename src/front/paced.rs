//! An HTTP/2 connection's bytes below its frames: what a client takes and sends, and since when it has not.
//!
//! Frames are HTTP/2's own business. Only their outlines are read here, to know how long a client has been saying one
//! request head (C62).
//!
//! HTTP/2 writes frame by frame, and a write costs more than a page's copy. What it writes while the connection holds
//! its breath ([`Flow::hold`]) is gathered, and goes out in one.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::outline::Outline;
use super::stream::Stream;
use super::watch::Post;
use super::wire::{Pace, Patience};
use crate::clock;

/// Nothing of the kind.
const NEVER: u64 = u64::MAX;

/// What is gathered before it is written.
const GATHERED: usize = 64 * 1024;
/// Slices that go into one write behind what was gathered.
const SLICES: usize = 15;

thread_local! {
    /// A connection gathers while it is polled, and is rarely left with anything: one buffer serves all of a worker's.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is known of a connection's bytes, in the process's milliseconds.
#[derive(Debug)]
pub struct Flow {
    /// When a client that does not take what it is sent is to be cut.
    stalled_until: AtomicU64,
    /// Since when a request's head, or the client's first settings, are under way.
    head_since: AtomicU64,
    /// Bytes it has taken.
    taken: AtomicU64,
    /// More is about to be written: what comes is gathered.
    holds: AtomicBool,
    /// HTTP/2 was told that all is flushed, and it is not.
    owes: AtomicBool,
}

impl Flow {
    fn new() -> Flow {
        let now = clock::uptime_millis();
        Flow {
            stalled_until: AtomicU64::new(NEVER),
            head_since: AtomicU64::new(now),
            taken: AtomicU64::new(0),
            holds: AtomicBool::new(false),
            owes: AtomicBool::new(false),
        }
    }

    /// From here on what is written is gathered.
    pub fn hold(&self) {
        self.holds.store(true, Relaxed);
    }

    /// From here on what is written goes out at once. Whether anything is left that has to be flushed by another poll.
    pub fn release(&self) -> bool {
        self.holds.store(false, Relaxed);
        self.owes.swap(false, Relaxed)
    }

    pub fn stalled_until(&self) -> Option<u64> {
        Some(self.stalled_until.load(Relaxed)).filter(|at| *at != NEVER)
    }

    pub fn head_since(&self) -> Option<u64> {
        Some(self.head_since.load(Relaxed)).filter(|at| *at != NEVER)
    }

    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }
}

/// A connection that keeps its [`Flow`] and comes back when HTTP/2 is done with it.
pub struct Paced {
    stream: Option<Stream>,
    back: Option<oneshot::Sender<Stream>>,
    /// What was read before.
    ahead: Bytes,
    outline: Outline,
    post: Arc<Post>,
    pace: Pace,
    /// How long a request's head may take, in milliseconds.
    head: u64,
    patience: Patience,
    flow: Arc<Flow>,
    /// What was not written yet: from `written` on.
    gathered: Vec<u8>,
    written: usize,
    /// Something was written since the last flush.
    unflushed: bool,
}

impl Paced {
    /// With the connection's flow, and where the stream comes back from.
    pub fn new(
        stream: Stream,
        ahead: Bytes,
        post: Arc<Post>,
        pace: Pace,
        head: u64,
    ) -> (Paced, Arc<Flow>, oneshot::Receiver<Stream>) {
        let (back, comes_back) = oneshot::channel();
        let flow = Arc::new(Flow::new());
        let paced = Paced {
            stream: Some(stream),
            back: Some(back),
            ahead,
            outline: Outline::default(),
            post,
            pace,
            head,
            patience: Patience::default(),
            flow: Arc::clone(&flow),
            gathered: Vec::new(),
            written: 0,
            unflushed: false,
        };
        (paced, flow, comes_back)
    }

    /// `None` only while being dropped.
    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(stream))
    }

    fn watch(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => {
                let until = self.patience.until(self.pace).unwrap_or(NEVER);
                self.flow.stalled_until.store(until, Relaxed);
                // The loop has its own deadline; this one may be nearer.
                self.post.arm_by(until);
            }
            Poll::Ready(Ok(n)) => {
                self.patience.took(*n);
                self.flow.taken.fetch_add(*n as u64, Relaxed);
            }
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        if let (Some(stream), Some(back)) = (self.stream.take(), self.back.take()) {
            // Nobody waits for one that is to be reset: dropping it here does that.
            let _ = back.send(stream);
        }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        if this.ahead.is_empty() {
            ready!(this.stream()?.poll_read(cx, into))?;
        } else {
            let part = this.ahead.len().min(into.remaining());
            into.put_slice(&this.ahead[..part]);
            this.ahead.advance(part);
        }
        let under_way = this.outline.read(&into.filled()[before..]);
        match (under_way, this.flow.head_since().is_some()) {
            (true, false) => {
                let now = clock::uptime_millis();
                this.flow.head_since.store(now, Relaxed);
                this.post.arm_by(now + this.head);
            }
            (false, true) => this.flow.head_since.store(NEVER, Relaxed),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl Paced {
    /// Takes `pieces` to be written with what follows. `false`: they are too many.
    fn gather(&mut self, pieces: &[IoSlice<'_>], len: usize) -> bool {
        if self.gathered.len() + len > GATHERED {
            return false;
        }
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE.take();
        }
        for piece in pieces {
            self.gathered.extend_from_slice(piece);
        }
        true
    }

    /// Writes what was gathered and `pieces` behind it. How much of the pieces the socket took.
    fn poll_out(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let left = self.gathered.len() - self.written;
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            let written = if left == 0 {
                Pin::new(stream).poll_write_vectored(cx, pieces)
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES + 1];
                slices[0] = IoSlice::new(&self.gathered[self.written..]);
                let behind = pieces.len().min(SLICES);
                slices[1..=behind].copy_from_slice(&pieces[..behind]);
                Pin::new(stream).poll_write_vectored(cx, &slices[..=behind])
            };
            let n = ready!(self.watch(written))?;
            if n < left {
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += n;
                continue;
            }
            self.all_written();
            let n = n - left;
            if n > 0 || left == 0 {
                return Poll::Ready(Ok(n));
            }
            if pieces.iter().all(|piece| piece.is_empty()) {
                return Poll::Ready(Ok(0));
            }
        }
    }

    fn all_written(&mut self) {
        self.written = 0;
        let mut buffer = std::mem::take(&mut self.gathered);
        buffer.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.capacity() < buffer.capacity() {
                *spare = buffer;
            }
        });
    }

    fn poll_all_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            ready!(self.poll_out(cx, &[]))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unflushed = true;
        let len = pieces.iter().map(|piece| piece.len()).sum();
        if this.flow.holds.load(Relaxed) && this.gather(pieces, len) {
            return Poll::Ready(Ok(len));
        }
        this.poll_out(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unflushed && this.flow.holds.load(Relaxed) {
            this.flow.owes.store(true, Relaxed);
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_all_out(cx))?;
        let flushed = this.stream()?.poll_flush(cx).map_ok(|()| 0);
        ready!(this.watch(flushed))?;
        // It has taken everything.
        this.unflushed = false;
        this.patience = Patience::default();
        this.flow.stalled_until.store(NEVER, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_all_out(cx))?;
        this.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::watch::Watch;
    use super::*;

    /// A connection's lower side with its flow, and its client.
    async fn pair() -> (Paced, Arc<Flow>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, served) = tokio::join!(client, listener.accept());
        let pace = Pace {
            rate: Some(1),
            grace: Duration::from_secs(1000),
        };
        let post = Watch::default().enroll();
        let stream = Stream::Plain(served.unwrap().0);
        let (paced, flow, _) = Paced::new(stream, Bytes::new(), post, pace, 1000);
        (paced, flow, client.unwrap())
    }

    #[tokio::test]
    async fn what_is_written_together_goes_out_in_one() {
        let (mut paced, flow, mut client) = pair().await;
        flow.hold();
        for n in 0..3 {
            paced.write_all(&[n; 10 * 1024]).await.unwrap();
            paced.flush().await.unwrap();
        }
        let mut byte = [0];
        let early = client.try_read(&mut byte);
        assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(flow.release(), "it owes a flush");
        assert!(!flow.release(), "and no more than one");
        paced.flush().await.unwrap();
        assert_eq!(flow.taken(), 30 * 1024);
        let mut read = vec![0; 30 * 1024];
        client.read_exact(&mut read).await.unwrap();
        assert!(
            read.chunks(10 * 1024)
                .zip(0..)
                .all(|(part, n)| part == [n; 10 * 1024])
        );
        // Nothing is owed where nothing was written.
        flow.hold();
        paced.flush().await.unwrap();
        assert!(!flow.release());
    }

    #[tokio::test]
    async fn a_slow_client_gets_all_in_order_and_is_known_to_stall() {
        let (mut paced, flow, mut client) = pair().await;
        let sent: Vec<u8> = (0..12_000_000_u32).map(|n| (n / 7) as u8).collect();
        let write = async {
            for (n, whole) in sent.chunks(100_000).enumerate() {
                if n % 3 == 0 {
                    flow.hold();
                } else {
                    let _ = flow.release();
                }
                let mut at = 0;
                while at < whole.len() {
                    let (one, two) = whole[at..].split_at((whole.len() - at) / 3);
                    let both = [IoSlice::new(one), IoSlice::new(two)];
                    at += paced.write_vectored(&both).await.unwrap();
                }
                if n % 5 == 0 {
                    paced.flush().await.unwrap();
                }
            }
            flow.hold();
            paced.write_all(b"the end").await.unwrap();
            paced.shutdown().await.unwrap();
        };
        let read = async {
            while flow.stalled_until().is_none() {
                tokio::task::yield_now().await;
            }
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            read
        };
        let ((), read) = tokio::join!(write, read);
        assert!(read.strip_suffix(b"the end") == Some(&sent[..]));
    }
}
