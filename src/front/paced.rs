//! An HTTP/2 connection's bytes below its frames: what a client takes and sends, and since when it has not.
//!
//! Frames are HTTP/2's own business. Only their outlines are read here, to know how long a client has been saying one
//! request head (C62).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::stream::Stream;
use super::watch::Post;
use super::wire::{Pace, Patience};
use crate::clock;

/// Nothing of the kind.
const NEVER: u64 = u64::MAX;

/// What is known of a connection's bytes, in the process's milliseconds.
#[derive(Debug)]
pub struct Flow {
    /// When a client that does not take what it is sent is to be cut.
    stalled_until: AtomicU64,
    /// Since when a request's head, or the client's first settings, are under way.
    head_since: AtomicU64,
    /// Bytes it has taken.
    taken: AtomicU64,
}

impl Flow {
    fn new() -> Flow {
        let now = clock::uptime_millis();
        Flow {
            stalled_until: AtomicU64::new(NEVER),
            head_since: AtomicU64::new(now),
            taken: AtomicU64::new(0),
        }
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

impl AsyncWrite for Paced {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.stream()?.poll_write(cx, bytes);
        this.watch(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.stream()?.poll_write_vectored(cx, pieces);
        this.watch(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = this.stream()?.poll_flush(cx).map_ok(|()| 0);
        ready!(this.watch(flushed))?;
        // It has taken everything.
        this.patience = Patience::default();
        this.flow.stalled_until.store(NEVER, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(cx)
    }
}

/// Where in the frames the client's bytes are (RFC 9113 §4.1).
#[derive(Debug)]
struct Outline {
    part: Part,
    /// What is left of the part.
    left: usize,
    /// Nothing but the preface came yet.
    first: bool,
    head: Head,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Preface,
    /// What came of a frame's header.
    Header([u8; HEADER]),
    Payload,
}

/// A request's head: a HEADERS frame and its continuations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    None,
    /// More frames of it have to come.
    Open,
    /// It ends with the frame under way.
    Ending,
}

const PREFACE: usize = 24;
const HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

impl Default for Outline {
    fn default() -> Outline {
        Outline {
            part: Part::Preface,
            left: PREFACE,
            first: true,
            head: Head::None,
        }
    }
}

impl Outline {
    /// Goes on over `bytes`; says whether a head, or what comes before the first one, is under way.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let take = self.left.min(bytes.len());
            let (taken, rest) = bytes.split_at(take);
            if let Part::Header(header) = &mut self.part {
                let at = HEADER - self.left;
                header[at..at + take].copy_from_slice(taken);
            }
            self.left -= take;
            bytes = rest;
            if self.left == 0 {
                self.ended();
            }
        }
        self.first || self.head != Head::None
    }

    /// A part has ended.
    fn ended(&mut self) {
        match self.part {
            Part::Preface => {}
            Part::Header([a, b, c, kind, flags, ..]) => {
                if matches!(kind, HEADERS | CONTINUATION) {
                    self.head = match flags & END_HEADERS {
                        0 => Head::Open,
                        _ => Head::Ending,
                    };
                }
                let len = u32::from_be_bytes([0, a, b, c]) as usize;
                if len > 0 {
                    (self.part, self.left) = (Part::Payload, len);
                    return;
                }
                self.frame_ended();
            }
            Part::Payload => self.frame_ended(),
        }
        (self.part, self.left) = (Part::Header([0; HEADER]), HEADER);
    }

    fn frame_ended(&mut self) {
        self.first = false;
        if self.head == Head::Ending {
            self.head = Head::None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, len as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + len, 7);
        frame
    }

    #[test]
    fn c62_a_head_is_under_way_until_its_last_frame_has_come() {
        let mut bytes = vec![0; PREFACE];
        // Settings, a ping; a head in three frames; data; a head in one; a head of nothing.
        let frames = [
            (4, 0, 6, true),
            (6, 0, 8, false),
            (HEADERS, 0, 20, true),
            (CONTINUATION, 0, 5, true),
            (CONTINUATION, END_HEADERS, 0, false),
            (0, 0, 100, false),
            (HEADERS, END_HEADERS, 30, false),
            (HEADERS, END_HEADERS, 0, false),
        ];
        let mut ends = Vec::new();
        for (kind, flags, len, _) in frames {
            bytes.extend(frame(kind, flags, len));
            ends.push(bytes.len());
        }
        for step in [1, 2, 3, 7, 64, 1000] {
            let mut outline = Outline::default();
            let mut at = 0;
            for piece in bytes.chunks(step) {
                let under_way = outline.read(piece);
                at += piece.len();
                if let Some(frame) = ends.iter().position(|end| *end == at) {
                    let after = matches!(frame, 2 | 3);
                    assert_eq!(under_way, after, "after frame {frame}, by {step}");
                }
            }
            assert_eq!(at, bytes.len());
        }
        let mut outline = Outline::default();
        assert!(
            outline.read(&bytes[..PREFACE]),
            "the first settings are due"
        );
        assert!(!outline.read(&bytes[PREFACE..ends[1]]));
        assert!(
            outline.read(&bytes[ends[1]..ends[1] + HEADER + 3]),
            "half a head"
        );
    }
}
