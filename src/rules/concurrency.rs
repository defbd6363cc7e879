//! How many requests at once an origin is good for, learned from what it does.
//!
//! An origin works on up to `K` requests at once, its capacity; more than these wait inside it, whether in a queue or by
//! sharing what there is. Of `n` in flight, each answer takes `S · max(1, n / K)`, where `S` is the time one takes alone
//! (Little's law: answers come `min(n, K) / S` a second). The limit has to stand where `n` is about `K`: below it the
//! origin idles, above it everybody waits and no more answers come. Neither `K` nor `S` is known, both change, and one
//! number can't tell a slower origin from a fuller one: only what happens at *different* `n` can.
//!
//! So a [`Belief`] is kept: how likely each capacity is, after what was seen at different limits.
//!
//! The limit *holds* a little above the capacity the belief has in its middle. Where the belief is wide, it asks (dual
//! control: Feldbaum 1960): it stands *low*, below the capacity, to learn `S` alone, or *high* to learn whether more would
//! be worked on. Asking low costs goodput and asking high costs waiting, so each is paid from an allowance; only where the
//! belief spans more than twice the capacity it's lost, and asks at once. Without demand nothing is asked or learned.
//!
//! Of a window, the requests that begin first are its sample, and it is judged when nearly all of *these* have ended: the
//! first answers after a change are the quickest, and those to requests from before it belong to another regime. When far
//! fewer answers come than must, nobody waits for the sample: what is in flight and what came tells enough to fall.

mod belief;
#[cfg(test)]
mod tests;

use std::time::Duration;

use belief::{Belief, Seen, capacity};

/// The bounds of the limit, and the first one, until something is known.
pub const LEAST: usize = 1;
pub const MOST: usize = 1024;
const WARM: usize = 16;

/// A sample is so many answers, times their noise, ...
const FEW: f64 = 20.0;
/// ... and so many times what may be in flight ...
const TURNS: usize = 2;
/// ... and what begins in so many seconds.
const SHORTEST: f64 = 0.05;
/// One part in so many of a sample may be late: it counts with the time it has taken so far.
const LATE: u32 = 32;
/// A window in which less than this part of what may be was in flight had no demand.
const DEMAND: f64 = 0.9;

/// Chances below this and above one less this are neglected.
const DOUBT: f64 = 0.1;
/// Asked is where the doubtful capacities reach so many rungs away, ...
const NEAR: usize = 2;
/// ... and at any cost where so many: a factor of two.
const LOST: usize = 5;
/// Where the limit stands, in capacities: to ask low at most (and least), to hold, to ask high at least (and most).
const LOW: (f64, f64) = (0.25, 0.85);
const HOLD: f64 = 1.15;
const HIGH: (f64, f64) = (1.3, 2.0);
/// What rounds up to hold.
const ROUNDS: f64 = 0.3;
/// The most the limit grows at once, in times.
const GROWTH: usize = 4;
/// The parts of a window's goodput and time that asking low and high may cost on average.
const LOW_ALLOWANCE: f64 = 0.03;
const HIGH_ALLOWANCE: f64 = 0.15;
/// High is asked after so many windows even without doubt: where nobody waits, nothing else would ever raise one.
const HELD: u32 = 3;
/// So is low: a capacity that sinks slowly looks like answers that take longer alone.
const HELD_LOW: u32 = 15;

/// More than this share of failures in a window halves the limit, if it's so many.
const FAILING: f64 = 0.2;
const FAILED: u32 = 6;

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// An answer, in its time.
    Answered,
    /// An overloaded server's word, or none in time.
    Failed,
    /// Nothing that tells of the server: nobody wanted it any more.
    Untold,
}

/// A request that was begun; given back when it has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begun {
    at: Duration,
    /// The window it began in.
    window: u32,
    is_sampled: bool,
}

/// The limit of one origin.
#[derive(Clone, Debug)]
pub struct Limit {
    limit: usize,
    in_flight: usize,
    stands: Stands,
    /// The limit fell, and more is still in flight: nothing begins, and nothing is sampled.
    is_draining: bool,
    /// Allowances not spent, in windows.
    low_allowance: f64,
    high_allowance: f64,
    /// Windows since high was asked, and since low was.
    held: u32,
    held_low: u32,
    belief: Belief,
    window: Window,
    /// Counts windows.
    windows: u32,
}

/// Where the limit stands to the capacity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stands {
    Low,
    Hold,
    High,
}

/// What is counted while a limit is tried.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// Seconds on the clock; none until something begins or ends.
    began: Option<f64>,
    until: f64,
    /// In-flight requests times seconds, of all and of the sample.
    load: f64,
    sample_load: f64,
    ended: u32,
    answered: u32,
    /// Of those that began in it.
    failed: u32,
    /// Requests in the sample, those of them in flight, and those answered.
    sampled: u32,
    pending: u32,
    timed: u32,
    /// The sum of the squares of their seconds.
    squares: f64,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit {
            limit: WARM,
            in_flight: 0,
            stands: Stands::Hold,
            is_draining: false,
            low_allowance: 1.0,
            high_allowance: 1.0,
            held: 0,
            held_low: 0,
            belief: Belief::new(WARM),
            window: Window::default(),
            windows: 0,
        }
    }
}

impl Limit {
    /// Requests that may be in flight.
    pub fn get(&self) -> usize {
        self.limit
    }

    /// A request begins. `now` is any clock's that never steps.
    pub fn begin(&mut self, now: Duration) -> Begun {
        self.window.pass(now.as_secs_f64(), self.in_flight);
        let is_short = self.window.sampled < self.sample() || self.window.lasted() < SHORTEST;
        let is_sampled = is_short && !self.is_draining;
        self.in_flight += 1;
        self.window.sampled += u32::from(is_sampled);
        self.window.pending += u32::from(is_sampled);
        Begun {
            at: now,
            window: self.windows,
            is_sampled,
        }
    }

    /// It has ended.
    pub fn end(&mut self, begun: Begun, now: Duration, came: Came) {
        self.window.pass(now.as_secs_f64(), self.in_flight);
        self.in_flight = self.in_flight.saturating_sub(1);
        let is_current = begun.window == self.windows;
        let is_sampled = is_current && begun.is_sampled;
        self.window.pending = self.window.pending.saturating_sub(u32::from(is_sampled));
        self.window.ended += 1;
        match came {
            Came::Untold => {
                self.window.sampled = self.window.sampled.saturating_sub(u32::from(is_sampled));
            }
            Came::Failed => self.window.failed += u32::from(is_current),
            Came::Answered => {
                self.window.answered += 1;
                if is_sampled {
                    self.window.timed += 1;
                    self.window.squares += now.saturating_sub(begun.at).as_secs_f64().powi(2);
                }
            }
        }
        if self.window.is_failing() {
            // Of what it can do now, nothing is known but that it's less.
            let half = (self.limit / 2).max(LEAST);
            self.belief = Belief::new(half);
            self.stand(Stands::Hold, half);
        } else if self.belief.is_overdue(&self.window) {
            self.fall();
        } else if self.is_draining {
            if self.in_flight <= self.limit {
                self.stand(self.stands, self.limit);
            }
        } else if self.window.is_complete(self.sample()) {
            self.judge();
        }
    }

    /// Requests in a sample.
    fn sample(&self) -> u32 {
        (TURNS * self.limit).max((FEW * self.belief.noise.max(1.0)) as usize) as u32
    }

    /// Answers are overdue: falls to what the origin can do now if they take as long alone as before. If they don't, the
    /// answers there will show it.
    fn fall(&mut self) {
        let window = self.window;
        let in_flight = window.in_flight();
        if in_flight < DEMAND * self.limit as f64 {
            return self.stand(Stands::Hold, self.limit);
        }
        let answers = window.ended.max(1);
        self.belief.learn(Seen {
            in_flight,
            took: window.load / f64::from(answers),
            answers,
        });
        // Whether it comes back is asked soon.
        self.high_allowance = 1.0;
        self.stand(
            Stands::Low,
            (self.belief.capacity() as usize).clamp(LEAST, self.limit),
        );
    }

    /// The window is complete: learns from it, and says where the limit stands next.
    fn judge(&mut self) {
        let in_flight = self.window.in_flight();
        if in_flight < DEMAND * self.limit as f64 {
            // Nothing is tried; what was asked low is taken back.
            let hold = if self.stands == Stands::Low {
                self.at(Stands::Hold)
            } else {
                LEAST
            };
            return self.stand(Stands::Hold, hold.max(self.limit));
        }
        let answers = self.window.timed.max(1);
        let took = self.window.sample_load / f64::from(answers);
        let variance = self.window.squares / f64::from(answers) / took.powi(2) - 1.0;
        self.belief.scatters(variance);
        self.belief.learn(Seen {
            in_flight,
            took,
            answers,
        });

        let middle = self.belief.middle;
        let below = middle - self.belief.quantile(DOUBT).min(middle);
        let above = self.belief.quantile(1.0 - DOUBT).max(middle) - middle;
        let hold = self.belief.capacity().max(self.at(Stands::Hold) as f64);
        let depth = self.belief.capacity() / self.at(Stands::Low) as f64 - 1.0;
        let height = self.at(Stands::High) as f64 / hold - 1.0;
        let is_lost = (below >= LOST, above >= LOST);
        let low_price = if is_lost.0 { 0.0 } else { depth.max(0.0) };
        let high_price = if is_lost.1 { 0.0 } else { height.max(0.0) };
        self.low_allowance = (self.low_allowance + LOW_ALLOWANCE).min(1.0);
        self.high_allowance = (self.high_allowance + HIGH_ALLOWANCE).min(1.0);
        self.held += 1;
        self.held_low += 1;
        let was = self.stands;
        let asks_low = (below >= NEAR || self.held_low >= HELD_LOW) && was != Stands::Low;
        let asks_high = (above >= NEAR || self.held >= HELD) && was != Stands::High;
        let stands = if asks_low && low_price <= self.low_allowance {
            self.low_allowance -= low_price;
            self.held_low = 0;
            Stands::Low
        } else if (asks_high || is_lost.1) && high_price <= self.high_allowance {
            self.high_allowance -= high_price;
            self.held = 0;
            Stands::High
        } else {
            Stands::Hold
        };
        self.stand(stands, self.at(stands).min(GROWTH * self.limit));
    }

    /// The limit where it would stand so.
    fn at(&self, stands: Stands) -> usize {
        let middle = self.belief.capacity();
        // Where there are few, one more is much: it takes a good half.
        let hold = (middle * HOLD + ROUNDS).floor();
        let limit = match stands {
            Stands::Low => capacity(self.belief.quantile(DOUBT))
                .clamp(LOW.0 * middle, LOW.1 * middle)
                .floor(),
            Stands::Hold => hold,
            Stands::High => {
                let high = capacity(self.belief.quantile(1.0 - DOUBT));
                high.clamp(HIGH.0 * middle, HIGH.1 * middle)
                    .floor()
                    .max(hold + 1.0)
            }
        };
        (limit as usize).clamp(LEAST, MOST)
    }

    /// Stands there in a new window.
    fn stand(&mut self, stands: Stands, limit: usize) {
        self.stands = stands;
        self.limit = limit.clamp(LEAST, MOST);
        self.is_draining = self.in_flight > self.limit;
        self.windows = self.windows.wrapping_add(1);
        let now = self.window.until;
        self.window = Window {
            began: Some(now),
            until: now,
            ..Window::default()
        };
    }
}

impl Window {
    /// Time has passed with so many in flight.
    fn pass(&mut self, now: f64, in_flight: usize) {
        if self.began.is_none() {
            (self.began, self.until) = (Some(now), now);
        }
        let passed = (now - self.until).max(0.0);
        self.load += passed * in_flight as f64;
        self.sample_load += passed * f64::from(self.pending);
        self.until = self.until.max(now);
    }

    fn lasted(&self) -> f64 {
        self.began.map_or(0.0, |began| self.until - began)
    }

    /// On average.
    fn in_flight(&self) -> f64 {
        self.load / self.lasted().max(f64::MIN_POSITIVE)
    }

    /// The sample is large enough, and nearly all of it has ended.
    fn is_complete(&self, sample: u32) -> bool {
        self.sampled >= sample
            && self.pending <= self.sampled / LATE
            && self.timed > 0
            && self.lasted() >= SHORTEST
    }

    fn is_failing(&self) -> bool {
        let all = f64::from(self.answered + self.failed);
        self.failed >= FAILED && f64::from(self.failed) > all * FAILING
    }
}
