//! Deadlines of connections, without a timer a request.
//!
//! A connection writes the moment at which its patience ends into its [`Post`]; one sweep, ten times a second, fires
//! what is due. Setting a deadline is one store; none is finer than the sweep.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

use crate::clock;

/// How often deadlines are looked at.
pub const SWEEP: Duration = Duration::from_millis(100);

/// In a drain who has asked for nothing this long is sent away: who talks to us all the time asks again within it, and is
/// told with the answer, so that no request crosses our farewell.
pub const LULL: Duration = Duration::from_secs(1);

const FIRED: u64 = 0;
const NEVER: u64 = u64::MAX;

/// All connections' deadlines.
#[derive(Debug, Default)]
pub struct Watch {
    posts: Mutex<Vec<Weak<Post>>>,
    draining: AtomicBool,
}

/// One connection's deadline.
#[derive(Debug)]
pub struct Post {
    /// In the process's milliseconds.
    due: AtomicU64,
    /// Between requests.
    idle: AtomicBool,
    /// It has said nothing yet.
    silent: AtomicBool,
    /// It wants to hear of a drain, whatever it does.
    hears: AtomicBool,
    /// It was fired to make room for others.
    shed: AtomicBool,
    waker: AtomicWaker,
}

impl Watch {
    /// A post for a new connection.
    pub fn enroll(&self) -> Arc<Post> {
        let post = self.enroll_request();
        post.silent.store(true, Ordering::Release);
        post
    }

    /// A post for one of a connection's requests, which has a post too.
    pub fn enroll_request(&self) -> Arc<Post> {
        let post = Arc::new(Post {
            due: AtomicU64::new(NEVER),
            idle: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            hears: AtomicBool::new(false),
            shed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        self.posts.lock().push(Arc::downgrade(&post));
        post
    }

    /// From now on connections close after their next answer, or when they have asked for nothing for a [`LULL`].
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.sweep(clock::uptime_millis());
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Fires the `most` connections that have been between requests the longest; says how many that were.
    pub fn shed(&self, most: usize) -> usize {
        let mut idle: Vec<(u64, Arc<Post>)> = {
            let posts = self.posts.lock();
            let held = posts.iter().filter_map(Weak::upgrade);
            let idle = held.filter(|post| post.idle.load(Ordering::Acquire));
            idle.map(|post| (post.due.load(Ordering::Acquire), post))
                .filter(|(due, _)| *due != FIRED)
                .collect()
        };
        if idle.len() > most {
            // All wait equally long: whose deadline is nearest has waited longest.
            idle.select_nth_unstable_by_key(most, |(due, _)| *due);
            idle.truncate(most);
        }
        for (due, post) in &idle {
            post.shed.store(true, Ordering::Release);
            post.fire(*due);
        }
        idle.len()
    }

    /// Fires what is due at `now`, in the process's milliseconds.
    pub fn sweep(&self, now: u64) {
        let draining = self.is_draining();
        self.posts.lock().retain(|post| {
            let Some(post) = post.upgrade() else {
                return false;
            };
            post.fire_if_due(now, draining);
            true
        });
    }
}

impl Post {
    /// Sets the deadline, `after` from now.
    pub fn arm(&self, after: Duration) {
        self.arm_at(clock::uptime_millis() + after.as_millis() as u64);
    }

    /// Sets the deadline, in the process's milliseconds.
    pub fn arm_at(&self, at: u64) {
        self.due
            .store(at.clamp(FIRED + 1, NEVER - 1), Ordering::Release);
    }

    /// Brings the deadline forward to `at`, in the process's milliseconds, if it is later.
    pub fn arm_by(&self, at: u64) {
        let due = self.due.load(Ordering::Acquire);
        if due != FIRED && at < due {
            // A sweep may have fired it meanwhile, which is as good.
            let _ = self.due.compare_exchange(
                due,
                at.max(FIRED + 1),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
    }

    pub fn disarm(&self) {
        self.due.store(NEVER, Ordering::Release);
    }

    /// Whether the connection is between requests.
    pub fn set_idle(&self, idle: bool) {
        if self.idle.load(Ordering::Relaxed) != idle {
            self.idle.store(idle, Ordering::Release);
        }
    }

    /// The client has said something.
    pub fn has_spoken(&self) {
        if self.silent.load(Ordering::Relaxed) {
            self.silent.store(false, Ordering::Release);
        }
    }

    /// Whether a drain is to fire it whatever it does; until it has heard of it.
    pub fn set_hears(&self, hears: bool) {
        self.hears.store(hears, Ordering::Release);
    }

    /// Whether it was asked to make room since this was last asked.
    pub fn take_shed(&self) -> bool {
        self.shed.swap(false, Ordering::AcqRel)
    }

    /// Ready once the deadline has passed.
    pub fn poll_due(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.due.load(Ordering::Acquire) == FIRED {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// What comes of `work` before the deadline passes.
    ///
    /// # Errors
    /// Its own, or [`io::ErrorKind::TimedOut`].
    pub async fn in_time<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Pending => self
                .poll_due(cx)
                .map(|()| Err(io::ErrorKind::TimedOut.into())),
            done => done,
        })
        .await
    }

    fn fire_if_due(&self, now: u64, draining: bool) {
        let due = self.due.load(Ordering::Acquire);
        if due == FIRED {
            return;
        }
        if due <= now || draining && self.hears.load(Ordering::Acquire) {
            self.fire(due);
        } else if draining
            && (self.idle.load(Ordering::Acquire) || self.silent.load(Ordering::Acquire))
        {
            self.arm_by(now + LULL.as_millis() as u64);
        }
    }

    /// Unless the connection has set another deadline than `due` meanwhile: then that one holds.
    fn fire(&self, due: u64) {
        let fired = self
            .due
            .compare_exchange(due, FIRED, Ordering::AcqRel, Ordering::Relaxed);
        if fired.is_ok() {
            self.waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn fired(post: &Post) -> bool {
        post.poll_due(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn fires_what_is_due_and_only_that() {
        let watch = Watch::default();
        let (due, later, never) = (watch.enroll(), watch.enroll(), watch.enroll());
        due.arm_at(500);
        later.arm_at(501);
        watch.sweep(500);
        assert!(fired(&due));
        assert!(!fired(&later));
        assert!(!fired(&never));
        due.arm_at(900);
        assert!(!fired(&due), "a new deadline starts anew");
    }

    #[test]
    fn a_drain_fires_the_idle_after_a_lull_and_who_answers_not_at_all() {
        let watch = Watch::default();
        let [silent, idle, busy, hears] = [(); 4].map(|()| watch.enroll());
        for post in [&silent, &idle, &busy, &hears] {
            post.arm_at(u64::MAX - 9);
        }
        for post in [&idle, &busy, &hears] {
            post.has_spoken();
        }
        idle.set_idle(true);
        hears.set_hears(true);
        watch.draining.store(true, Ordering::Release);
        watch.sweep(1_000);
        let all = |posts: [&Post; 4]| posts.map(fired);
        assert_eq!(
            all([&silent, &idle, &busy, &hears]),
            [false, false, false, true]
        );
        watch.sweep(1_999);
        assert_eq!(
            all([&silent, &idle, &busy, &hears]),
            [false, false, false, true]
        );
        watch.sweep(2_000);
        assert_eq!(
            all([&silent, &idle, &busy, &hears]),
            [true, true, false, true]
        );
    }

    #[test]
    fn c66_who_has_been_idle_longest_is_shed_first() {
        let watch = Watch::default();
        let posts: Vec<_> = (0..5).map(|_| watch.enroll()).collect();
        for (at, post) in posts.iter().enumerate() {
            post.arm_at(1_000 - 10 * at as u64);
            // The last is answering.
            post.set_idle(at < 4);
        }
        assert_eq!(watch.shed(2), 2);
        let fired: Vec<_> = posts.iter().map(|post| fired(post)).collect();
        assert_eq!(fired, [false, false, true, true, false]);
        assert_eq!(watch.shed(9), 2);
        assert_eq!(watch.shed(9), 0, "who answers is never shed");
    }

    #[test]
    fn forgets_connections_that_are_gone() {
        let watch = Watch::default();
        let post = watch.enroll();
        assert_eq!(watch.posts.lock().len(), 1);
        drop(post);
        watch.sweep(1);
        assert_eq!(watch.posts.lock().len(), 0);
    }
}
