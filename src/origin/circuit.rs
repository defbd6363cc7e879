//! An upstream's circuit breaker at work: who is let through, and what is done when it opens and closes.
//!
//! When is [`crate::rules::breaker`]'s to say. While all are let through it costs a request one load of a number, and while
//! nobody is, no more.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::budget::Refused;
use super::server::Server;
use super::upstream::Upstream;
use crate::clock;
use crate::rules::breaker::{Breaker, Change, Entry, Rules, State, Trial, WINDOW, Why};
use crate::rules::time::Moment;
use crate::telemetry::ids;

/// One upstream's.
pub struct Circuit {
    upstream: String,
    inside: Mutex<Inside>,
    /// From when on a request may go, in milliseconds; 0 while all may.
    shut_until: AtomicU64,
    /// When it closed last; 0 if it never had to.
    returned: AtomicU64,
    openings: AtomicU64,
    opened: Notify,
}

struct Inside {
    breaker: Breaker,
    opened_at: Option<Instant>,
    /// A trial is out that is waited for as long as anybody.
    one_has_time: bool,
    /// Trials since then that were not.
    hurried: u32,
}

/// How long the head of a trial's answer is waited for: an origin that takes requests and answers none would hold every
/// place else, and its return be seen only when one of those is given up.
const HURRY: Duration = Duration::from_secs(2);
/// Where there is only one place, so many are hurried before the next one is not.
const IN_A_ROW: u32 = 7;

/// Leave to ask for a place.
pub struct Pass {
    openings: u64,
    pub trial: Option<Arc<Trying>>,
}

/// A request that goes to see whether the upstream is back. Dropped without a result, it lets the next one go.
pub struct Trying {
    circuit: Arc<Circuit>,
    trial: Trial,
    has_time: AtomicBool,
}

impl Circuit {
    pub fn new(upstream: &str, rules: Rules) -> Arc<Circuit> {
        Arc::new(Circuit {
            upstream: upstream.to_owned(),
            inside: Mutex::new(Inside {
                breaker: Breaker::new(rules),
                opened_at: None,
                one_has_time: false,
                hurried: 0,
            }),
            shut_until: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            openings: AtomicU64::new(0),
            opened: Notify::new(),
        })
    }

    pub fn state(&self) -> State {
        self.inside.lock().breaker.state()
    }

    pub fn is_closed(&self) -> bool {
        self.shut_until.load(Ordering::Relaxed) == 0
    }

    /// How often it has opened.
    pub fn openings(&self) -> u64 {
        self.openings.load(Ordering::Relaxed)
    }

    /// Since when the upstream has been there, as far as its failures before say nothing of now; `None` while nobody is let
    /// through. The end of time where somebody is to go and see.
    pub fn open_since(&self, now: Moment) -> Option<Moment> {
        match self.shut_until.load(Ordering::Relaxed) {
            0 => Some(Moment(self.returned.load(Ordering::Relaxed))),
            until if now.0 < until => None,
            _ => Some(Moment(u64::MAX)),
        }
    }

    /// Lets a request through to the queue, or not.
    ///
    /// # Errors
    /// [`Refused::Down`].
    pub fn enter(self: &Arc<Self>) -> Result<Pass, Refused> {
        let openings = self.openings.load(Ordering::Acquire);
        let pass = |trial| Ok(Pass { openings, trial });
        if self.is_closed() {
            return pass(None);
        }
        let now = clock::moment();
        if self.open_since(now).is_none() {
            return Err(Refused::Down);
        }
        let entered = self.with(|inside| inside.breaker.enter(now, ids::random()));
        match entered {
            Entry::Pass => pass(None),
            Entry::Refused(_) => Err(Refused::Down),
            Entry::Trial(trial) => pass(Some(Arc::new(Trying {
                circuit: Arc::clone(self),
                trial,
                has_time: AtomicBool::new(false),
            }))),
        }
    }

    /// Waits for a place with `pass`, unless the breaker opens meanwhile: then at once no longer.
    ///
    /// # Errors
    /// [`Refused::Down`], or what `place` says.
    pub async fn unless_opened<T>(
        &self,
        pass: &Pass,
        place: impl Future<Output = Result<T, Refused>>,
    ) -> Result<T, Refused> {
        let mut place = pin!(place);
        if let Some(trying) = &pass.trial {
            let place = place.await?;
            let (now, trial) = (clock::moment(), trying.trial);
            let is_due = self.with(|inside| inside.breaker.begin(trial, now, ids::random()));
            return is_due.then_some(place).ok_or(Refused::Down);
        }
        let is_as_before = || self.openings.load(Ordering::Acquire) == pass.openings;
        // Most have theirs at once.
        let at_once = poll_fn(|context| Poll::Ready(place.as_mut().poll(context))).await;
        let place = match at_once {
            Poll::Ready(place) => place,
            Poll::Pending => {
                // From here on no opening is missed.
                let opened = self.opened.notified();
                if !is_as_before() {
                    return Err(Refused::Down);
                }
                tokio::select! {
                    biased;
                    () = opened => return Err(Refused::Down),
                    place = place => place,
                }
            }
        };
        place.and_then(|place| is_as_before().then_some(place).ok_or(Refused::Down))
    }

    /// A request was answered. Where that closes it, since when what servers did is to be forgotten.
    pub fn answered(&self, trying: Option<&Trying>) -> Option<Instant> {
        let (now, trial) = (clock::moment(), trying.map(|trying| trying.trial));
        let (change, opened_at) = self.with(|inside| {
            let change = inside.breaker.answered(trial, now);
            if change.is_some() {
                self.returned.store(now.0, Ordering::Relaxed);
            }
            (change, inside.opened_at)
        });
        change?;
        tracing::info!(upstream = self.upstream, "breaker closed: it answers again");
        let at = opened_at?;
        Some(at.checked_sub(WINDOW).unwrap_or(at))
    }

    /// A request has failed, of which it may have been told that it was answered; `none_left`: no server can be used.
    pub fn failed(&self, trying: Option<&Trying>, was_answered: bool, none_left: bool) {
        let (now, trial) = (clock::moment(), trying.map(|trying| trying.trial));
        let change = self.with(|inside| {
            let breaker = &mut inside.breaker;
            let change = breaker.failed(trial, was_answered, none_left, now, ids::random());
            if change.is_some() {
                inside.opened_at = Some(clock::timer());
            }
            change
        });
        let Some(Change::Opened(why)) = change else {
            return;
        };
        self.openings.fetch_add(1, Ordering::Release);
        self.opened.notify_waiters();
        let why = match why {
            Why::Failures => "hardly anything but failures comes",
            Why::NoneLeft => "no server is left that can be used",
        };
        tracing::warn!(upstream = self.upstream, why, "breaker opened");
    }

    /// A health check found a server well: somebody is to go and see.
    pub fn hope(&self) {
        if !self.is_closed() {
            self.with(|inside| inside.breaker.hope(clock::moment()));
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        let mut inside = self.inside.lock();
        let changed = change(&mut inside);
        let until = inside.breaker.shut_until();
        let until = until.map_or(0, |until| until.0.max(1));
        if self.shut_until.load(Ordering::Relaxed) != until {
            self.shut_until.store(until, Ordering::Relaxed);
        }
        changed
    }
}

impl Trying {
    /// How long its head is waited for, if not as long as any; there are so many `places`. One trial at a time has as
    /// much time as others: an origin that is slow works all the same.
    pub fn hurry(&self, places: usize) -> Option<Duration> {
        let mut inside = self.circuit.inside.lock();
        let may = !inside.one_has_time && (places > 1 || inside.hurried >= IN_A_ROW);
        // It may be asked twice with one place.
        if may || self.has_time.load(Ordering::Relaxed) {
            self.has_time.store(true, Ordering::Relaxed);
            (inside.one_has_time, inside.hurried) = (true, 0);
            return None;
        }
        inside.hurried = inside.hurried.saturating_add(1);
        Some(HURRY)
    }
}

impl Drop for Trying {
    fn drop(&mut self) {
        let (now, trial) = (clock::moment(), self.trial);
        self.circuit.with(|inside| {
            inside.breaker.lost(trial, now);
            if self.has_time.load(Ordering::Relaxed) {
                inside.one_has_time = false;
            }
        });
    }
}

impl Upstream {
    /// Its breaker.
    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// See [`Circuit::open_since`].
    pub fn open_since(&self, now: Moment) -> Option<Moment> {
        self.circuit.open_since(now)
    }

    /// A server has begun an answer to a request of a route, `took` after it was asked.
    pub(super) fn answered(
        &self,
        server: &Server,
        route: Option<usize>,
        took: Duration,
        trial: Option<&Trying>,
    ) {
        self.budget.answered(server.id, route, took);
        if let Some(since) = self.circuit.answered(trial) {
            self.budget.restore(since);
        }
    }

    /// A server has failed a request, of which it may have begun an answer.
    pub(super) fn failed(&self, server: &Server, trial: Option<&Trying>, was_answered: bool) {
        if let Some(time) = self.budget.failed(server.id) {
            tracing::warn!(
                upstream = self.name(),
                server = server.name(),
                seconds = time.as_secs(),
                "ejected: it failed too often"
            );
        }
        let none_left = self.budget.is_none_left();
        self.circuit.failed(trial, was_answered, none_left);
    }

    /// A probe of a server went well, or not.
    pub(super) fn probed(&self, server: &Server, well: bool) {
        match well {
            true => self.circuit.hope(),
            false => self.budget.probe_failed(server.id),
        }
    }
}

#[cfg(test)]
mod tests;
