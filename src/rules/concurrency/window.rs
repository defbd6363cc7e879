//! What is counted of an origin's requests while one limit is tried.

use super::{Begun, FAILED, FAILING, LATE, SHORTEST};

/// What is counted while a limit is tried.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// Seconds on the clock; none until something begins or ends.
    pub began: Option<f64>,
    pub until: f64,
    /// In-flight requests times seconds, of all and of the sample.
    pub load: f64,
    pub sample_load: f64,
    pub ended: u32,
    /// When one did, or since when all of these count.
    pub ended_last: f64,
    pub answered: u32,
    /// Of those that began in it.
    pub failed: u32,
    /// Requests in the sample, those of them in flight, and those answered.
    pub sampled: u32,
    pub pending: u32,
    pub timed: u32,
    /// The sums of their seconds, and of the squares of these.
    pub seconds: f64,
    pub squares: f64,
}

impl Window {
    /// Time has passed with so many in flight.
    pub fn pass(&mut self, now: f64, in_flight: usize) {
        if self.began.is_none() {
            (self.began, self.until, self.ended_last) = (Some(now), now, now);
        }
        let passed = (now - self.until).max(0.0);
        self.load += passed * in_flight as f64;
        self.sample_load += passed * f64::from(self.pending);
        self.until = self.until.max(now);
    }

    /// One of the sample tells nothing.
    pub fn forget(&mut self, begun: Begun) {
        self.sampled = self.sampled.saturating_sub(1);
        self.sample_load -= (self.until - begun.at.as_secs_f64()).max(0.0);
    }

    pub fn lasted(&self) -> f64 {
        self.began.map_or(0.0, |began| self.until - began)
    }

    /// On average.
    pub fn in_flight(&self) -> f64 {
        self.load / self.lasted().max(f64::MIN_POSITIVE)
    }

    /// The sample is large enough, and nearly all of it has ended.
    pub fn is_complete(&self, sample: u32) -> bool {
        self.sampled >= sample
            && self.pending <= self.sampled / LATE
            && self.timed > 0
            && self.lasted() >= SHORTEST
    }

    pub fn is_failing(&self) -> bool {
        let all = f64::from(self.answered + self.failed);
        self.failed >= FAILED && f64::from(self.failed) > all * FAILING
    }
}
