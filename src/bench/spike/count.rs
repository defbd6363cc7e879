//! What outcomes come to: counted as they come, slice by slice.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::app;
use super::client::Answer;
use super::report::{Answers, Event, Load, Quantiles, Run, Slice, Wrong};
use super::scenario::{Kind, Scenario};
use super::stamp::{Seen, Stamp};
use super::visits::{Site, Visit};
use crate::bench::wire::Failed;

/// How long a slice is.
pub const SLICE: Duration = Duration::from_millis(250);
/// A clock and a transfer may differ so much before a page counts as older than it may be.
const SLACK: Duration = Duration::from_millis(1_000);
/// So late at the 99th percentile and the generator was what was measured.
const LATEST: f64 = 20.0;

/// What became of one visit.
pub struct Outcome {
    pub visit: Visit,
    /// How much later than due it was first sent.
    pub lag: Duration,
    /// From when it was due to the answer's first byte, and to its end or to when it was given up.
    pub first_byte: Duration,
    pub took: Duration,
    /// The moment of its end in Unix milliseconds.
    pub at: u64,
    pub retries: u32,
    /// No answer to it may have a page of an earlier version.
    pub version: u32,
    pub end: Result<Answer, Failed>,
}

/// See the module.
pub struct Count {
    ttls: Vec<Duration>,
    late: Vec<Duration>,
    kinds: Vec<(usize, Kind)>,
    unwanted: Vec<bool>,
    /// Whether every page has a stamp, since the origin is ours.
    stamped: bool,
    spike_at: Duration,
    lasts: Duration,
    load: Load,
    lag: Histogram<u64>,
    answers: Answers,
    wrong: Wrong,
    latency: Histogram<u64>,
    first_second: Histogram<u64>,
    oldest: Option<Duration>,
    slices: Vec<Sliced>,
    /// Good in the spike, and due in it, of those who are wanted.
    spike: (u64, u64),
}

struct Sliced {
    told: Slice,
    took: Histogram<u64>,
    /// Good ones that are no older than they may be.
    current: u64,
    wanted: u64,
}

impl Count {
    pub fn new(scenario: &Scenario, site: &Site, stamped: bool) -> Count {
        let slices = scenario.lasts.as_nanos().div_ceil(SLICE.as_nanos()) as usize;
        Count {
            ttls: scenario.pages.iter().map(|pages| pages.ttl).collect(),
            late: scenario
                .pages
                .iter()
                .map(|pages| pages.ttl + pages.swr)
                .collect(),
            kinds: site
                .pages
                .iter()
                .map(|page| (page.group, page.kind))
                .collect(),
            unwanted: scenario.crowd.iter().map(|crowd| crowd.unwanted).collect(),
            stamped,
            spike_at: scenario.spike_at,
            lasts: scenario.lasts,
            load: Load::default(),
            lag: histogram(3),
            answers: Answers::default(),
            wrong: Wrong::default(),
            latency: histogram(3),
            first_second: histogram(3),
            oldest: None,
            slices: (0..slices)
                .map(|_| Sliced {
                    told: Slice::default(),
                    took: histogram(2),
                    current: 0,
                    wanted: 0,
                })
                .collect(),
            spike: (0, 0),
        }
    }

    pub fn add(&mut self, outcome: &Outcome) {
        self.load.due += 1;
        self.load.sent += 1 + u64::from(outcome.retries);
        self.load.retries += u64::from(outcome.retries);
        record(&mut self.lag, outcome.lag);
        // Bots are there to be in the way: how they fare is in the slices alone.
        let wanted = !self.unwanted[usize::from(outcome.visit.crowd)];
        let in_spike = outcome.visit.at >= self.spike_at;
        let judged = self.judge(outcome, wanted);
        let at = (outcome.visit.at.as_nanos() / SLICE.as_nanos()) as usize;
        let last = self.slices.len() - 1;
        let slice = &mut self.slices[at.min(last)];
        slice.told.due += 1;
        slice.wanted += u64::from(wanted);
        match judged {
            Judged::Good {
                stale,
                current,
                hit,
            } => {
                slice.told.good += 1;
                slice.told.stale += u64::from(stale);
                slice.told.hits += u64::from(hit);
                slice.current += u64::from(current && wanted);
                record(&mut slice.took, outcome.took);
                if wanted {
                    record(&mut self.latency, outcome.took);
                    let second = self.spike_at + Duration::from_secs(1);
                    if in_spike && outcome.visit.at < second {
                        record(&mut self.first_second, outcome.first_byte);
                    }
                }
            }
            Judged::Refused => slice.told.refused += 1,
            Judged::Error => slice.told.errors += 1,
        }
        if in_spike && wanted {
            self.spike.1 += 1;
            self.spike.0 += u64::from(matches!(judged, Judged::Good { .. }));
        }
    }

    fn judge(&mut self, outcome: &Outcome, wanted: bool) -> Judged {
        let answer = match &outcome.end {
            Ok(answer) => answer,
            Err(failed) => {
                if wanted {
                    let word = match failed {
                        Failed::Refused => "refused",
                        Failed::Closed => "closed",
                        Failed::Broken => "broken",
                        Failed::Garbage => "garbage",
                        Failed::TimedOut => "timeout",
                    };
                    *self.answers.errors.entry(word.to_owned()).or_default() += 1;
                }
                return Judged::Error;
            }
        };
        if wanted {
            *self.answers.by_status.entry(answer.status).or_default() += 1;
        }
        let right = match self.stamped {
            true => self.check(outcome, answer),
            false => Ok(None),
        };
        if answer.status >= 400 {
            return Judged::Refused;
        }
        let Ok(stamp) = right else {
            return Judged::Error;
        };
        let (mut stale, mut current) = (false, true);
        if let Some(stamp) = stamp {
            let age = Duration::from_millis(outcome.at.saturating_sub(stamp.made));
            let group = self.kinds[outcome.visit.page as usize].0;
            stale = age > self.ttls[group] + SLACK;
            current = age <= self.late[group] + SLACK;
            self.oldest = Some(self.oldest.unwrap_or_default().max(age));
        }
        let hit = answer.cache.starts_with("hit");
        if wanted {
            self.answers.good += 1;
            self.answers.stale += u64::from(stale);
            *self.answers.cache.entry(answer.cache.clone()).or_default() += 1;
        }
        Judged::Good {
            stale,
            current,
            hit,
        }
    }

    /// The stamp of a page as it should be. An error's page, or one of the proxy's own, has none.
    fn check(&mut self, outcome: &Outcome, answer: &Answer) -> Result<Option<Stamp>, ()> {
        let visit = &outcome.visit;
        let wrong = &mut self.wrong;
        let stamp = match &answer.seen {
            Seen::Whole(stamp) => stamp,
            Seen::Short(stamp) => {
                wrong.short += 1;
                // It may be somebody else's besides.
                stamp
            }
            Seen::Torn(stamp) => {
                wrong.torn += 1;
                stamp
            }
            Seen::Unstamped if answer.status >= 400 => return Ok(None),
            Seen::Unstamped => {
                wrong.torn += 1;
                return Err(());
            }
        };
        let is_private = self.kinds[visit.page as usize].1 == Kind::Private;
        let mut right = matches!(answer.seen, Seen::Whole(_));
        if stamp.page != visit.page {
            wrong.page += 1;
            right = false;
        }
        if stamp.user != visit.user.filter(|_| is_private) {
            wrong.user += 1;
            right = false;
        }
        if stamp.version < outcome.version {
            wrong.purged += 1;
            right = false;
        }
        match right {
            true => Ok(Some(stamp.clone())),
            false => Err(()),
        }
    }

    /// What is known of one slice now, for whoever looks on.
    pub fn slice(&self, number: usize) -> Option<Slice> {
        self.slices.get(number).map(Sliced::told)
    }

    /// All of it, with what the origin counted at the end of each slice.
    pub fn done(
        mut self,
        run: Run,
        at_origin: &[app::Counts],
        recovers_from: Option<Duration>,
    ) -> Run {
        let mut before = app::Counts::default();
        for (slice, now) in self.slices.iter_mut().zip(at_origin) {
            slice.told.origin_fetches = now.fetches.saturating_sub(before.fetches);
            slice.told.origin_in_flight = (now.spent - before.spent).max(0.0) / SLICE.as_secs_f64();
            before = *now;
        }
        let lag = quantiles(&self.lag);
        let mut invalid = run.invalid;
        if lag.p99 > LATEST {
            invalid.push(format!(
                "the generator was late: {:.0} ms at the 99th percentile",
                lag.p99
            ));
        }
        let spike = (self.lasts - self.spike_at).as_secs_f64();
        Run {
            invalid,
            seconds: self.lasts.as_secs_f64(),
            load: Load {
                lag,
                connections: run.load.connections,
                busy: run.load.busy,
                ..self.load
            },
            latency: quantiles(&self.latency),
            first_second: quantiles(&self.first_second),
            goodput: self.spike.0 as f64 / spike,
            demand: self.spike.1 as f64 / spike,
            oldest_s: self.oldest.map(|age| age.as_secs_f64()),
            fault_end_s: recovers_from.map(|from| from.as_secs_f64()),
            recovery_s: recovers_from.and_then(|from| self.recovery(from)),
            slices: self.slices.iter().map(Sliced::told).collect(),
            slice_s: SLICE.as_secs_f64(),
            answers: self.answers,
            wrong: self.wrong,
            ..run
        }
    }

    /// How long after `from` the first second begins in which 99 % of what is due is answered well and with nothing too old.
    fn recovery(&self, from: Duration) -> Option<f64> {
        let a_second = (1_000 / SLICE.as_millis()) as usize;
        let first = from.as_nanos().div_ceil(SLICE.as_nanos()) as usize;
        let seconds = self.slices.get(first..)?.windows(a_second).enumerate();
        let mut well = seconds.filter(|(_, slices)| {
            let sum = |of: fn(&Sliced) -> u64| slices.iter().map(of).sum::<u64>();
            let (due, good) = (sum(|slice| slice.wanted), sum(|slice| slice.current));
            due > 0 && good * 100 >= due * 99
        });
        let (at, _) = well.next()?;
        let begins = SLICE * (first + at) as u32;
        Some(begins.saturating_sub(from).as_secs_f64())
    }
}

enum Judged {
    Good {
        stale: bool,
        current: bool,
        hit: bool,
    },
    Refused,
    Error,
}

impl Sliced {
    fn told(&self) -> Slice {
        Slice {
            p50: millis(self.took.value_at_quantile(0.5)),
            p99: millis(self.took.value_at_quantile(0.99)),
            max: millis(self.took.max()),
            ..self.told.clone()
        }
    }
}

/// Events as they are told.
pub fn events(scenario: &Scenario) -> Vec<Event> {
    let event = |event: &super::scenario::Event| Event {
        at_s: event.at.as_secs_f64(),
        what: event.what.words(),
    };
    scenario.event.iter().map(event).collect()
}

fn histogram(digits: u8) -> Histogram<u64> {
    // A microsecond to ten minutes; these bounds are good ones.
    Histogram::new_with_bounds(1, 600_000_000, digits).expect("good bounds")
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    histogram.saturating_record(micros.max(1));
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    if histogram.is_empty() {
        return Quantiles::default();
    }
    let at = |quantile| millis(histogram.value_at_quantile(quantile));
    Quantiles {
        count: histogram.len(),
        mean: histogram.mean() / 1000.0,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: millis(histogram.max()),
    }
}
