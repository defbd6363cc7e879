//! What capacity an origin is believed to have.
//!
//! For each of [`RUNGS`] capacities from 1 to 1024 it is kept how likely it is, and what `S`, the time an answer takes
//! alone, would be, with which error, if it was this one. After each window of answers, Bayes' rule weighs every capacity by
//! how well it foretold the time they took at the `n` in flight. Between windows the capacity may have moved a bit or leapt
//! anywhere, with `S` the same, or `S` may have leapt, with the capacity the same; these are a hidden Markov model and a
//! Kalman filter each (interacting multiple models: Blom and Bar-Shalom, IEEE Transactions on Automatic Control 33, 1988).
//! What an answer's time scatters is measured too, so that a window of scattered answers moves the belief less.

use super::{FEW, MOST, Window};

/// Capacities told apart: each is 16 % more than the one before.
const RUNGS: usize = 48;
/// The chance that the capacity has moved by a rung since the last window.
const STEPS: f64 = 0.05;
/// The chance that it is any other, unforeseen.
const LEAPS: f64 = 0.015;
/// What an answer's time alone moves between windows: the standard error of its logarithm.
const DRIFT: f64 = 0.02;
/// The chance that it is another, unforeseen, and how far the logarithm leaps then.
const JUMPS: f64 = 0.005;
const JUMP: f64 = 1.5;
/// The noise of a single answer is taken for so many times the variance measured, as skewed times have wild means ...
const CAUTION: f64 = 1.5;
/// ... and for this at least; it follows a window's measure by this part.
const LEAST_NOISE: f64 = 0.3;
const ADAPT: f64 = 0.15;

/// Answers are overdue after so many seconds when, in so many turns, less than this part of them has come ...
const OVERDUE: f64 = 0.05;
const OVERDUE_TURNS: f64 = 4.0;
const OVERDUE_PART: f64 = 0.5;
/// ... and that is so many standard errors from what was foretold.
const ERRORS: f64 = 4.0;

/// What is believed of the origin.
#[derive(Clone, Debug)]
pub(super) struct Belief {
    /// The rung in the middle.
    pub middle: usize,
    /// For each rung the chance that it's the capacity; they sum up to 1.
    chance: [f32; RUNGS],
    /// The logarithm of the seconds an answer takes alone, if it is.
    time: [f32; RUNGS],
    /// And the variance of this.
    error: [f32; RUNGS],
    /// The variance of the logarithm of a single answer's time.
    pub noise: f64,
    /// Windows learned from.
    learned: u32,
}

/// What a window showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub in_flight: f64,
    /// Seconds an answer took.
    pub took: f64,
    pub answers: u32,
}

impl Belief {
    /// Any capacity is as likely.
    pub fn new(limit: usize) -> Belief {
        Belief {
            middle: (0..RUNGS)
                .rfind(|rung| capacity(*rung) <= limit as f64)
                .unwrap_or(0),
            chance: [1.0 / RUNGS as f32; RUNGS],
            time: [0.0; RUNGS],
            error: [0.0; RUNGS],
            noise: 1.0,
            learned: 0,
        }
    }

    pub fn capacity(&self) -> f64 {
        capacity(self.middle)
    }

    /// The rung below which the capacity is with this chance.
    pub fn quantile(&self, chance: f64) -> usize {
        let mut sum = 0.0;
        let is_above = |each: &f32| {
            sum += f64::from(*each);
            sum >= chance
        };
        self.chance.iter().position(is_above).unwrap_or(RUNGS - 1)
    }

    /// Takes note of how far answers' times were apart: their variance, over the square of their mean.
    pub fn scatters(&mut self, variance: f64) {
        self.noise += ADAPT * ((CAUTION * variance).max(LEAST_NOISE) - self.noise);
    }

    /// Far fewer answers came than the middle foretells.
    pub fn is_overdue(&self, window: &Window) -> bool {
        let in_flight = window.in_flight();
        if self.learned < 2 || window.lasted() < OVERDUE {
            return false;
        }
        let foretold =
            window.load / (f64::from(self.time[self.middle]) + waits(in_flight, self.middle)).exp();
        let came = f64::from(window.ended);
        foretold > (OVERDUE_TURNS * in_flight.min(self.capacity())).max(FEW)
            && came < OVERDUE_PART * foretold
            && (foretold - came).powi(2) > ERRORS.powi(2) * self.noise * foretold
    }

    /// Weighs each capacity by what it foretold of this.
    pub fn learn(&mut self, seen: Seen) {
        let took = seen.took.ln();
        let noise = self.noise / f64::from(seen.answers);
        self.learned = self.learned.saturating_add(1);
        if self.learned == 1 {
            for rung in 0..RUNGS {
                self.time[rung] = (took - waits(seen.in_flight, rung)) as f32;
                self.error[rung] = noise as f32;
            }
            return;
        }
        self.drift();
        for rung in 0..RUNGS {
            let off = took - waits(seen.in_flight, rung) - f64::from(self.time[rung]);
            let error = f64::from(self.error[rung]);
            // An answer's time alone is as it was, or has leapt: the likelihood of what is seen, and the part of it that
            // the time follows (the Kalman gain), for both.
            let likelihood =
                |variance: f64| (-off * off / (2.0 * variance)).exp() / variance.sqrt();
            let leapt = error + JUMP.powi(2);
            let was_same = (1.0 - JUMPS) * likelihood(error + noise);
            let has_leapt = JUMPS * likelihood(leapt + noise);
            let gains = (error / (error + noise), leapt / (leapt + noise));
            let part = has_leapt / (was_same + has_leapt).max(f64::MIN_POSITIVE);
            let gain = (1.0 - part) * gains.0 + part * gains.1;
            let apart = part * (1.0 - part) * ((gains.1 - gains.0) * off).powi(2);
            self.time[rung] += (gain * off) as f32;
            self.error[rung] = (gain * noise + apart) as f32;
            self.chance[rung] *= (was_same + has_leapt) as f32;
        }
        let sum: f32 = self.chance.iter().sum();
        let is_told = sum > 0.0 && sum.is_finite();
        self.chance = self.chance.map(|chance| {
            if is_told {
                chance / sum
            } else {
                1.0 / RUNGS as f32
            }
        });
        self.middle = self.quantile(0.5);
    }

    /// Time has passed: the capacity may be a neighbour's or any, and what was known of its time goes with it.
    fn drift(&mut self) {
        let was = self.clone();
        let each = |rung: usize, weight: f64| {
            (
                weight * f64::from(was.chance[rung]),
                f64::from(was.time[rung]),
                f64::from(was.error[rung]),
            )
        };
        let any = mix((0..RUNGS).map(|rung| each(rung, 1.0)));
        for rung in 0..RUNGS {
            let neighbours = [rung.saturating_sub(1), (rung + 1).min(RUNGS - 1)];
            let mixed = mix([
                each(rung, 1.0 - STEPS - LEAPS),
                each(neighbours[0], STEPS / 2.0),
                each(neighbours[1], STEPS / 2.0),
                (LEAPS / RUNGS as f64, any.1, any.2),
            ]
            .into_iter());
            self.chance[rung] = mixed.0 as f32;
            self.time[rung] = mixed.1 as f32;
            self.error[rung] = (mixed.2 + DRIFT.powi(2)) as f32;
        }
    }
}

/// The weight, mean and variance of several with a weight, a mean and a variance each.
fn mix(each: impl Iterator<Item = (f64, f64, f64)> + Clone) -> (f64, f64, f64) {
    let weight: f64 = each.clone().map(|one| one.0).sum();
    let mean = each.clone().map(|one| one.0 * one.1).sum::<f64>() / weight;
    let variance = each
        .map(|one| one.0 * (one.2 + (one.1 - mean).powi(2)))
        .sum::<f64>()
        / weight;
    (weight, mean, variance)
}

/// The capacity of a rung, from `LEAST` to `MOST`.
pub(super) fn capacity(rung: usize) -> f64 {
    (MOST as f64).powf(rung as f64 / (RUNGS - 1) as f64)
}

/// How much longer an answer takes with so many in flight than alone: the logarithm.
fn waits(in_flight: f64, rung: usize) -> f64 {
    (in_flight / capacity(rung)).max(1.0).ln()
}
