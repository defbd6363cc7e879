//! HTTP/1 connections to one server that wait for the next request.
//!
//! Each is there for the next request the moment it is put here: whoever gives a place at the origin on has put its connection
//! here first, so that who gets the place need not open another. The one used last is used next, so that those not needed grow
//! old; a sweep closes what is too old, and what the server closed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::unconstrained;
use tokio::time::Instant;

use crate::clock;

/// How long one that its server closed may stay open here, unless it is asked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Those of one server.
pub(super) struct Idle<S> {
    most: usize,
    waiting: Mutex<Waiting<S>>,
}

struct Waiting<S> {
    /// The one that was used last is the last.
    all: VecDeque<One<S>>,
    is_swept: bool,
}

struct One<S> {
    stream: S,
    since: Instant,
    until: Instant,
}

impl<S: AsyncRead + Unpin + Send + 'static> Idle<S> {
    /// For `most` at most.
    pub(super) fn new(most: usize) -> Arc<Self> {
        let waiting = Waiting {
            all: VecDeque::new(),
            is_swept: false,
        };
        Arc::new(Self {
            most,
            waiting: Mutex::new(waiting),
        })
    }

    /// The one that was used last of those that are as good as new.
    pub(super) fn take(&self) -> Option<S> {
        let now = clock::timer();
        loop {
            // Not looked at under the lock: it may be a system call.
            let one = self.waiting.lock().all.pop_back()?;
            if let Some(stream) = one.if_good(now) {
                return Some(stream);
            }
        }
    }

    /// Keeps one whose last answer was read to its end, for so long at most. If there are too many, the one that was used
    /// first is closed. Must run in a runtime.
    pub(super) fn put(self: &Arc<Self>, stream: S, keep: Duration) {
        let since = clock::timer();
        let one = One {
            stream,
            since,
            until: since + keep,
        };
        let mut waiting = self.waiting.lock();
        let too_many = (waiting.all.len() >= self.most)
            .then(|| waiting.all.pop_front())
            .flatten();
        waiting.all.push_back(one);
        let starts = !std::mem::replace(&mut waiting.is_swept, true);
        drop(waiting);
        drop(too_many);
        if starts {
            self.keep_swept();
        }
    }

    /// Sweeps until none is left, or the server itself is gone.
    fn keep_swept(self: &Arc<Self>) {
        let idle = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(idle) = idle.upgrade() else {
                    return;
                };
                if idle.sweep() {
                    return;
                }
            }
        });
    }

    /// Looks at each once, those that were used first first. Whether none is left.
    fn sweep(&self) -> bool {
        let now = clock::timer();
        let mut looked_at = 0;
        loop {
            // One at a time: all others are there for who asks meanwhile.
            let mut waiting = self.waiting.lock();
            let next = match waiting.all.get(looked_at) {
                Some(one) if one.since < now => waiting.all.remove(looked_at),
                _ => None,
            };
            let Some(one) = next else {
                waiting.is_swept = !waiting.all.is_empty();
                return !waiting.is_swept;
            };
            drop(waiting);
            let (since, until) = (one.since, one.until);
            if let Some(stream) = one.if_good(now) {
                let one = One {
                    stream,
                    since,
                    until,
                };
                let mut waiting = self.waiting.lock();
                let place = looked_at.min(waiting.all.len());
                waiting.all.insert(place, one);
                looked_at = place + 1;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> One<S> {
    /// Unless it is too old, or its server closed it or said something unasked.
    fn if_good(mut self, now: Instant) -> Option<S> {
        (now < self.until && is_silent(&mut self.stream)).then_some(self.stream)
    }
}

/// Looks, whatever the task that asks has read before: a task that has had its turn would be told that nothing is there.
fn is_silent(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut byte = [0];
    let read =
        poll_fn(|context| Pin::new(&mut *stream).poll_read(context, &mut ReadBuf::new(&mut byte)));
    let mut nobody = Context::from_waker(Waker::noop());
    pin!(unconstrained(read)).poll(&mut nobody).is_pending()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(4);

    fn pair(idle: &Arc<Idle<DuplexStream>>, keep: Duration) -> DuplexStream {
        let (ours, theirs) = duplex(64);
        idle.put(ours, keep);
        theirs
    }

    /// Which of `theirs` the other end of one is.
    async fn end_of(mut ours: DuplexStream, theirs: &mut [DuplexStream]) -> usize {
        ours.write_all(b"x").await.unwrap();
        let mut byte = [0];
        let mut nobody = Context::from_waker(Waker::noop());
        theirs
            .iter_mut()
            .position(|one| {
                let mut into = ReadBuf::new(&mut byte);
                Pin::new(one).poll_read(&mut nobody, &mut into).is_ready()
            })
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_used_last_is_used_next_and_at_once() {
        let idle = Idle::new(8);
        let mut theirs = [pair(&idle, LONG), pair(&idle, LONG)];
        let last = idle.take().unwrap();
        assert_eq!(end_of(last, &mut theirs).await, 1);
        let first = idle.take().unwrap();
        assert_eq!(end_of(first, &mut theirs).await, 0);
        assert!(idle.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_closed_or_speaks_unasked_or_is_old_is_passed_over() {
        let idle = Idle::new(8);
        let mut good = [pair(&idle, LONG)];
        let closed = pair(&idle, LONG);
        let mut speaks = pair(&idle, LONG);
        let _old = pair(&idle, Duration::ZERO);
        drop(closed);
        speaks.write_all(b"HTTP/1.1 408").await.unwrap();
        let taken = idle.take().unwrap();
        assert_eq!(end_of(taken, &mut good).await, 0);
        assert!(idle.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_most_the_one_used_first_is_closed() {
        let idle = Idle::new(2);
        let mut theirs = [0; 3].map(|_| pair(&idle, LONG));
        assert!(theirs[0].write_all(b"x").await.is_err(), "it is closed");
        assert!(theirs[1].write_all(b"x").await.is_ok());
        assert!(theirs[2].write_all(b"x").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_closes_the_old_and_the_closed_and_ends_with_the_last() {
        let idle = Idle::new(8);
        let mut old = pair(&idle, Duration::from_millis(1500));
        let closed = pair(&idle, LONG);
        let mut good = pair(&idle, LONG);
        drop(closed);
        assert_eq!(idle.waiting.lock().all.len(), 3);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(idle.waiting.lock().all.len(), 2, "the closed one is gone");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(old.write_all(b"x").await.is_err(), "it was too old");
        assert!(good.write_all(b"x").await.is_ok());
        // What it said unasked has it closed, the last of them.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!idle.waiting.lock().is_swept);
        let _next = pair(&idle, LONG);
        assert!(idle.waiting.lock().is_swept, "the next is swept again");
    }

    /// A task is told that nothing is there once it has read 128 times in its turn.
    #[tokio::test]
    async fn those_that_were_closed_are_known_however_many_they_are() {
        const MANY: usize = 300;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let idle = Idle::new(MANY);
        for _ in 0..MANY {
            let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
            drop(theirs);
            let ours = ours.unwrap();
            ours.readable().await.unwrap();
            idle.put(ours, LONG);
        }
        let taken = tokio::spawn(async move { idle.take().is_some() });
        assert!(!taken.await.unwrap(), "a closed one was taken");
    }

    #[tokio::test(start_paused = true)]
    async fn with_its_server_all_are_closed() {
        let idle = Idle::new(8);
        let mut theirs = pair(&idle, LONG);
        drop(idle);
        assert!(theirs.write_all(b"x").await.is_err());
    }
}
