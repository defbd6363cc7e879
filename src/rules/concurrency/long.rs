//! What becomes of requests that take far longer than the others: an export, or what a client hardly reads.
//!
//! Whoever many others have overtaken is *set aside*: it has a place beside the limit, and what is learned is what there is
//! for the others. Where it does cost the origin a place, that shows in how long the others take. No more are set aside than
//! the limit holds, or a few, so that an origin that works on them has about twice what it can do at most.
//!
//! At an origin that has come to a halt nobody is overtaken. Whether it has, or all places are taken by long ones, nobody can
//! tell: after some seconds it gets as much again, once.

use std::time::Duration;

use super::{DEMAND, Limit, Runs, SHORTEST, Stands, TURNS, WARM};

/// Who is overtaken by so many times what may be in flight, and by so many times a few, is set aside.
const OVERTAKEN: usize = 10;
const FEW_OVERTAKE: usize = 4;
/// Nothing is waited for any longer than so many seconds, and so many times what an answer takes: the rest of a sample, what
/// a limit below the capacity tells, or that there is room for anybody again.
const PATIENCE: (f64, f64) = (2.0, 10.0);
/// Where no request at all ends for so many seconds, as many more are let in, once.
const BLOCKED: f64 = 5.0;
/// Asking low is given up sooner where what was in flight doesn't even make room for it: after so many times that.
const DRAINS: f64 = 4.0;
/// The most windows that are owed for one in which nothing was learned.
const MOST_OWED: f64 = 100.0;

impl Limit {
    /// Time passes, though nothing begins or ends.
    pub fn pass(&mut self, now: Duration) {
        self.window.pass(now.as_secs_f64(), self.running.len());
        if self.outlasts() {
            self.give_up();
        }
    }

    /// Whoever many others have overtaken is no longer in their way.
    pub(super) fn set_overtaken_aside(&mut self) {
        let many = OVERTAKEN * self.limit.max(FEW_OVERTAKE);
        while let Some((_, first)) = self.running.first_key_value()
            && self.answered - first.answered > many as u64
            && self.aside < self.most_aside()
        {
            self.set_first_aside();
        }
    }

    /// The oldest that runs is in nobody's way any more, nor ever was.
    fn set_first_aside(&mut self) {
        let Some((_, Runs { begun, .. })) = self.running.pop_first() else {
            return;
        };
        self.aside += 1;
        let since = begun.at.as_secs_f64();
        let within = (self.window.until - since).clamp(0.0, self.window.lasted());
        self.window.load -= within;
        if begun.window == self.windows && begun.is_sampled {
            self.window.pending = self.window.pending.saturating_sub(1);
            self.window.forget(begun);
        }
    }

    /// A good half of the sample has ended long ago: the others are not waited for.
    pub(super) fn is_late(&self) -> bool {
        self.window.lasted() > self.patience() && self.window.timed * 2 >= self.sample()
    }

    fn patience(&self) -> f64 {
        (PATIENCE.1 * self.takes()).max(PATIENCE.0)
    }

    /// Nothing is learned in the time that this may cost.
    pub(super) fn outlasts(&self) -> bool {
        let most = match (self.stands, self.is_draining) {
            (Stands::Low, true) => (DRAINS * self.takes()).max(SHORTEST),
            (Stands::Low, false) | (_, true) => self.patience(),
            (Stands::Hold | Stands::High, false) => return self.is_blocked(),
        };
        self.window.lasted() > most
    }

    /// All that may be in flight is, and nothing has ended for long: the origin has come to a halt, or all of these are long.
    fn is_blocked(&self) -> bool {
        let quiet = self.window.until - self.window.ended_last;
        quiet > self.patience().max(BLOCKED)
            && self.running.len() >= self.limit
            && self.aside + self.running.len() <= self.most_aside()
    }

    /// How many may be set aside.
    fn most_aside(&self) -> usize {
        self.at(Stands::Hold).max(WARM)
    }

    /// Seconds that an answer takes, as far as that is believed to be known, in this window.
    fn takes(&self) -> f64 {
        let in_flight = self.window.in_flight().max(self.limit as f64);
        self.belief.takes(in_flight)
    }

    /// Asking low took longer than it was paid for.
    pub(super) fn pay_low(&mut self) {
        let is_full = self.window.in_flight() >= DEMAND * self.limit as f64;
        if self.stands == Stands::Low && is_full {
            let usual = (TURNS as f64 * self.takes()).max(SHORTEST);
            self.low_allowance -= (self.window.lasted() / usual).min(MOST_OWED);
        }
    }

    /// What is in flight is in the way: of asking low, or of all that comes.
    pub(super) fn give_up(&mut self) {
        self.pay_low();
        if self.stands == Stands::Low {
            return self.stand(Stands::Hold, self.at(Stands::Hold).max(self.limit));
        }
        while !self.running.is_empty() {
            self.set_first_aside();
        }
        self.stand(self.stands, self.limit);
    }
}
