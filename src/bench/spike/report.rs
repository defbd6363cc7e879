//! What a measurement comes to: the figures, and nothing of how they are shown. It is what the JSON has.
//!
//! Times are in milliseconds, and count from when a request was due, not from when it was sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of this form.
pub const FORM: u32 = 1;

/// One or several runs, made together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    pub form: u32,
    /// RFC 3339.
    pub made: String,
    /// Of this program.
    pub version: String,
    pub machine: Machine,
    /// Runs of one scenario stand together, one for each target.
    pub runs: Vec<Run>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    /// Name and release.
    pub system: String,
}

/// One target in one scenario.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    pub scenario: Told,
    pub target: Target,
    pub seed: u64,
    /// How long requests came, in seconds.
    pub seconds: f64,
    /// Why its figures mean nothing: the generator was the bottleneck, or the target was never reached. Empty: they do.
    pub invalid: Vec<String>,
    pub load: Load,
    pub answers: Answers,
    /// Bodies that were not what they should have been, by how.
    pub wrong: Wrong,
    /// To the last byte, of answers that were good.
    pub latency: Quantiles,
    /// To the first byte, of good answers to what was due in the spike's first second.
    pub first_second: Quantiles,
    /// Good answers a second while the spike lasted, and what was asked for.
    pub goodput: f64,
    pub demand: f64,
    /// How old the oldest page was that was served, in seconds, from when it was made; none: unstamped.
    pub oldest_s: Option<f64>,
    /// Who is behind the target, if that is ours.
    pub origin: Option<Origin>,
    /// When the last fault ended, in seconds from the start; none: there was no fault.
    #[serde(default)]
    pub fault_end_s: Option<f64>,
    /// From the last fault's end to the first second in which 99 % of the answers were good and fresh, in seconds; none: there was no fault, or no
    /// such second.
    pub recovery_s: Option<f64>,
    /// What the target's processes took, if they are ours.
    pub process: Option<Process>,
    /// What happened when: faults, restarts, purges.
    pub events: Vec<Event>,
    /// Slices of the run, each as long, in order.
    pub slices: Vec<Slice>,
    pub slice_s: f64,
}

/// A scenario, as it tells of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Told {
    pub name: String,
    /// A sentence.
    pub about: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Target {
    /// `tidegate`, `nginx`, or the address that was given.
    pub name: String,
    /// As it says itself; empty if it is not ours.
    pub version: String,
    pub url: String,
}

/// What the generator did.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// Requests that were due, those that were sent, and those sent again by clients that had no answer.
    pub due: u64,
    pub sent: u64,
    pub retries: u64,
    pub connections: u64,
    /// How much later than due requests were sent.
    pub lag: Quantiles,
    /// The share of a core it took, at most 1.
    pub busy: f64,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Answers {
    /// Whole, the right page, below 400.
    pub good: u64,
    /// Of them those older than they say they may be.
    pub stale: u64,
    /// Whole answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Why there was none: `refused`, `closed`, `broken`, `garbage`, `timeout`.
    pub errors: BTreeMap<String, u64>,
    /// How good answers were come by, in the target's own words: `hit`, `miss`, `uri-miss collapsed`.
    pub cache: BTreeMap<String, u64>,
}

/// All zero for a target that can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Wrong {
    /// Another page than was asked for.
    pub page: u64,
    /// A page made for somebody else.
    pub user: u64,
    /// Fewer bytes than the page has, though it ended well.
    pub short: u64,
    /// Bytes that are not the page's.
    pub torn: u64,
    /// Older than a purge that had been answered.
    pub purged: u64,
}

impl Wrong {
    pub fn sum(&self) -> u64 {
        self.page + self.user + self.short + self.torn + self.purged
    }
}

#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// What reached the origin.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Origin {
    pub fetches: u64,
    /// Pages that were fetched at all.
    pub pages: u64,
    /// What it can work on at once without slowing down.
    pub capacity: usize,
    /// The most that was in flight there.
    pub peak: usize,
    /// Requests that it failed, as it was over capacity or out of order.
    pub failed: u64,
    /// Work done for nobody: who asked had gone.
    pub wasted: u64,
}

impl Origin {
    pub fn fetches_per_page(&self) -> f64 {
        match self.pages {
            0 => 0.0,
            pages => self.fetches as f64 / pages as f64,
        }
    }
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Process {
    pub cpu_s: f64,
    pub cpu_us_per_answer: f64,
    pub peak_memory_bytes: u64,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Event {
    /// Seconds from the start.
    pub at_s: f64,
    pub what: String,
}

/// What was due in one slice of the run. The origin's part is what it had in that time.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Slice {
    pub due: u64,
    pub good: u64,
    pub stale: u64,
    /// Whole answers that are not good, and none at all.
    pub refused: u64,
    pub errors: u64,
    /// Good ones that the target had in memory; 0 where it doesn't tell.
    pub hits: u64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
    pub origin_fetches: u64,
    /// On average.
    pub origin_in_flight: f64,
}
