//! When an upstream as a whole counts as down, and when it is back (the circuit breaker: Nygard, "Release It!", 2007).
//!
//! ```text
//!            failures, and hardly anything else          a rest is over, somebody asks
//!   Closed ───────────────────────────────────► Open ─────────────────────────────────► HalfOpen
//!     ▲                                           ▲ ◄───────────── the trial fails ────────┘ │
//!     └───────────────────────────────────────────┼──────── a trial is answered ─────────────┘
//! ```
//!
//! While it is open nobody is let through. Half-open is one request at a time, the *trial*: the first that is answered
//! closes it. A trial that takes long is not waited for: after another rest the next one may go beside it, and whichever
//! is answered first closes (how long each of them may take, its caller says). Rests hardly grow, so that a return is seen within the second, and are of random length, so
//! that the proxies of a fleet don't try together.
//!
//! What this does not know: what a failure is, and who is let through.

use std::time::Duration;

use super::recent::{Recent, SLICES};
use super::time::Moment;

#[cfg(test)]
mod tests;

/// What is looked back on, in slices of a second.
const SLICE: u64 = 1_000;
/// So far back: what counts towards opening has happened since.
pub const WINDOW: Duration = Duration::from_millis(SLICES * SLICE);
/// Where not one server is left that can be used, so many failures in a row are enough.
pub const NONE_LEFT: u32 = 3;
/// The first rest, what each failed trial adds to it, and the longest, in milliseconds. Each is up to a quarter shorter.
const REST: u64 = 400;
const GROWS: u64 = 50;
const LONGEST: u64 = 600;

/// When it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Failures within [`WINDOW`]; 0 is never.
    pub after: u32,
    /// Of what came of all requests in that time, how much has to be failures, in hundredths.
    pub share: u32,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    HalfOpen,
    Open,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// As if there were no breaker.
    Pass,
    /// It goes to see whether the upstream is back.
    Trial(Trial),
    /// Nobody goes before that moment.
    Refused(Moment),
}

/// A request that goes to see whether the upstream is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// How often the breaker had opened from closed.
    outage: u64,
    number: u64,
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Opened(Why),
    Closed,
}

/// Why it opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Of what came of its requests, nearly all were failures.
    Failures,
    /// It has no server left that can be used, and failed again and again.
    NoneLeft,
}

/// One upstream's.
#[derive(Debug)]
pub struct Breaker {
    rules: Rules,
    at: At,
    window: Recent<SLICE>,
    /// Failures in a row, while closed.
    row: u32,
    outages: u64,
    /// Trials of this outage.
    trials: u64,
    /// Of those, how many came to nothing.
    failed: u64,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Closed,
    /// Until then nobody goes.
    Open(Moment),
    /// The trial with this number is out; from then on it isn't waited for.
    HalfOpen(u64, Moment),
}

impl Breaker {
    pub fn new(rules: Rules) -> Breaker {
        Breaker {
            rules,
            at: At::Closed,
            window: Recent::default(),
            row: 0,
            outages: 0,
            trials: 0,
            failed: 0,
        }
    }

    pub fn state(&self) -> State {
        match self.at {
            At::Closed => State::Closed,
            At::Open(_) => State::Open,
            At::HalfOpen(..) => State::HalfOpen,
        }
    }

    /// From when on a request may go; `None` while all may.
    pub fn shut_until(&self) -> Option<Moment> {
        match self.at {
            At::Closed => None,
            At::Open(until) | At::HalfOpen(_, until) => Some(until),
        }
    }

    /// Somebody wants to ask the upstream. `random` is any number.
    pub fn enter(&mut self, now: Moment, random: u64) -> Entry {
        match self.shut_until() {
            None => Entry::Pass,
            Some(until) if now < until => Entry::Refused(until),
            Some(_) => {
                if self.state() == State::HalfOpen {
                    // The one before has not come back.
                    self.failed += 1;
                }
                self.trials += 1;
                self.at = At::HalfOpen(self.trials, self.rested(now, random));
                Entry::Trial(Trial {
                    outage: self.outages,
                    number: self.trials,
                })
            }
        }
    }

    /// The trial is on its way now, after it had to wait for a place. Whether it still is the one that is to go, or all
    /// may by now.
    pub fn begin(&mut self, trial: Trial, now: Moment, random: u64) -> bool {
        if let At::Closed = self.at {
            return true;
        }
        let is_due = self.is_out(trial);
        if is_due {
            self.at = At::HalfOpen(trial.number, self.rested(now, random));
        }
        is_due
    }

    /// A request was answered.
    pub fn answered(&mut self, trial: Option<Trial>, now: Moment) -> Option<Change> {
        if let At::Closed = self.at {
            self.row = 0;
            self.window.slice(now).answered += 1;
            return None;
        }
        // What was asked before it opened says nothing of now.
        let is_of_now = trial.is_some_and(|trial| trial.outage == self.outages);
        is_of_now.then(|| {
            self.at = At::Closed;
            self.row = 0;
            self.window = Recent::default();
            Change::Closed
        })
    }

    /// A request has failed. `was_answered`: it had been told of as answered. `none_left`: no server can be used.
    pub fn failed(
        &mut self,
        trial: Option<Trial>,
        was_answered: bool,
        none_left: bool,
        now: Moment,
        random: u64,
    ) -> Option<Change> {
        let At::Closed = self.at else {
            if trial.is_some_and(|trial| self.is_out(trial)) {
                self.failed += 1;
                self.at = At::Open(self.rested(now, random));
            }
            return None;
        };
        self.row = self.row.saturating_add(1);
        let slice = self.window.slice(now);
        slice.failed += 1;
        if was_answered {
            slice.answered = slice.answered.saturating_sub(1);
        }
        let why = self.opens(none_left, now)?;
        self.outages += 1;
        (self.trials, self.failed) = (0, 0);
        self.at = At::Open(self.rested(now, random));
        Some(Change::Opened(why))
    }

    /// A trial's client has gone, or it never came to be asked: the next request may go.
    pub fn lost(&mut self, trial: Trial, now: Moment) {
        if self.is_out(trial) {
            self.at = At::Open(now);
        }
    }

    /// Something else found a server well: the next request may go.
    pub fn hope(&mut self, now: Moment) {
        if let At::Open(until) = self.at {
            self.at = At::Open(until.min(now));
        }
    }

    fn is_out(&self, trial: Trial) -> bool {
        let is_it = matches!(self.at, At::HalfOpen(number, _) if number == trial.number);
        is_it && trial.outage == self.outages
    }

    fn opens(&mut self, none_left: bool, now: Moment) -> Option<Why> {
        if self.rules.after == 0 {
            return None;
        }
        if none_left && self.row >= NONE_LEFT.min(self.rules.after) {
            return Some(Why::NoneLeft);
        }
        let came = self.window.sum(now);
        let is_most = u64::from(came.failed) * 100 >= came.all() * u64::from(self.rules.share);
        (came.failed >= self.rules.after && is_most).then_some(Why::Failures)
    }

    /// When a rest that begins now is over.
    fn rested(&self, now: Moment, random: u64) -> Moment {
        let whole = REST
            .saturating_add(GROWS.saturating_mul(self.failed))
            .min(LONGEST);
        Moment(now.0 + whole - random % (whole / 4 + 1))
    }
}

/// The longest rest.
pub fn longest_rest() -> Duration {
    Duration::from_millis(LONGEST)
}
