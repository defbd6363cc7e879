//! What a load came to: how many of what, how long they took, and second by second.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::driver::Outcome;
use super::wire::Failed;

/// Figures of many outcomes.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub asked: u64,
    /// Answers of status 200.
    pub good: u64,
    /// By status, or by why there was none.
    pub ends: BTreeMap<String, u64>,
    /// 503s that say when to come again.
    pub told_when: u64,
    /// How the answers of status 200 were come by.
    pub caches: BTreeMap<String, u64>,
    /// What the answers of status 200 took.
    pub took: Times,
    /// By the second in which they were due.
    pub seconds: Vec<Second>,
}

/// One second of it.
#[derive(Debug, Clone)]
pub struct Second {
    pub asked: u64,
    pub good: u64,
    pub took: Times,
}

impl Tally {
    pub fn add(&mut self, outcome: &Outcome) {
        let second = outcome.arrival.at.as_secs() as usize;
        if self.seconds.len() <= second {
            let none = Second {
                asked: 0,
                good: 0,
                took: Times::new(),
            };
            self.seconds.resize(second + 1, none);
        }
        let second = &mut self.seconds[second];
        self.asked += 1;
        second.asked += 1;
        let end = match &outcome.end {
            Err(failed) => why(*failed).to_owned(),
            Ok(answer) => {
                if answer.status == 200 {
                    self.good += 1;
                    second.good += 1;
                    self.took.add(outcome.took);
                    second.took.add(outcome.took);
                    *self.caches.entry(answer.cache.clone()).or_default() += 1;
                }
                self.told_when += u64::from(answer.status == 503 && answer.retry_after);
                answer.status.to_string()
            }
        };
        *self.ends.entry(end).or_default() += 1;
    }

    /// What was neither answered with 200 nor refused as it should be: by a 503 that says when to come again.
    pub fn lost(&self) -> u64 {
        self.asked - self.good - self.told_when
    }

    /// How many ended in this way.
    pub fn ended(&self, how: &str) -> u64 {
        self.ends.get(how).copied().unwrap_or(0)
    }

    /// All of it, times in milliseconds.
    pub fn json(&self) -> Value {
        let seconds = self.seconds.iter().map(|second| {
            json!({ "asked": second.asked, "good": second.good, "p99_ms": ms(second.took.quantile(0.99)) })
        });
        json!({
            "asked": self.asked, "good": self.good, "ends": self.ends, "refused_with_retry_after": self.told_when,
            "caches": self.caches, "p50_ms": ms(self.took.quantile(0.5)), "p99_ms": ms(self.took.quantile(0.99)),
            "p999_ms": ms(self.took.quantile(0.999)), "longest_ms": ms(self.took.quantile(1.0)),
            "seconds": seconds.collect::<Vec<_>>(),
        })
    }
}

/// What became of those that got no answer, in words.
pub fn why(failed: Failed) -> &'static str {
    match failed {
        Failed::Refused => "no connection",
        Failed::Closed => "closed",
        Failed::Broken => "broken off",
        Failed::Garbage => "garbage",
        Failed::TimedOut => "timed out",
    }
}

/// What takes longer counts as this long: a day, in microseconds.
const LONGEST: u64 = 86_400_000_000;

/// Durations, by the microsecond, three digits of each.
#[derive(Debug, Clone)]
pub struct Times(Histogram<u64>);

impl Times {
    pub fn new() -> Times {
        Times(Histogram::new(3).expect("three digits are allowed"))
    }

    pub fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // It grows as it needs to, and has room for a day.
        self.0
            .record(micros.min(LONGEST))
            .expect("there is room for it");
    }

    /// The time within which this part (0 to 1) of them lies; zero of none.
    pub fn quantile(&self, part: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(part))
    }

    pub fn len(&self) -> u64 {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Times {
    fn default() -> Times {
        Times::new()
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Times {
        let mut all = Times::new();
        times.into_iter().for_each(|time| all.add(time));
        all
    }
}

fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::schedule::Arrival;
    use super::super::wire::Answer;
    use super::*;

    fn outcome(at: u64, took: u64, end: Result<(u16, bool), Failed>) -> Outcome {
        Outcome {
            number: 0,
            arrival: Arrival {
                at: Duration::from_millis(at),
                page: 0,
                client: 0,
            },
            took: Duration::from_millis(took),
            end: end.map(|(status, retry_after)| Answer {
                status,
                body: 0,
                cache: "hit".into(),
                retry_after,
                server: None,
            }),
        }
    }

    #[test]
    fn what_was_good_and_what_was_refused_as_it_should_be() {
        let mut tally = Tally::default();
        tally.add(&outcome(0, 5, Ok((200, false))));
        tally.add(&outcome(999, 7, Ok((200, false))));
        tally.add(&outcome(1000, 1, Ok((503, true))));
        tally.add(&outcome(1000, 1, Ok((503, false))));
        tally.add(&outcome(2500, 2000, Err(Failed::TimedOut)));
        assert_eq!(
            (tally.asked, tally.good, tally.told_when, tally.lost()),
            (5, 2, 1, 2)
        );
        assert_eq!(tally.ended("503"), 2);
        assert_eq!(tally.ended("timed out"), 1);
        assert_eq!(tally.caches["hit"], 2);
        let good: Vec<u64> = tally.seconds.iter().map(|second| second.good).collect();
        assert_eq!(good, [2, 0, 0]);
        assert_eq!(tally.json()["longest_ms"], 7.003);
    }

    #[test]
    fn quantiles_are_those_of_the_times() {
        let times: Times = (1..=1000).map(Duration::from_millis).collect();
        let p99 = times.quantile(0.99).as_millis();
        assert!((989..=991).contains(&p99), "{p99}");
        assert_eq!(Times::new().quantile(0.5), Duration::ZERO);
    }
}
