//! What a person pulls during an incident: levers, each with a scope, who pulled it and why, and when it undoes itself.
//!
//! A lever is data. What it does is one function of the policy ([`over`](apply::over)): what is in force is the config's policy
//! with all levers over it, so a request sees either all of them or none. [`board`] remembers what is pulled, in a file too, so that a
//! restart in the middle of an incident undoes nothing; what proxies of a fleet tell each other of levers comes by there, too.

pub mod apply;
pub mod board;
mod uid;

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
pub use uid::Uid;

/// One that is pulled.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Lever {
    /// What it is called by here; never given twice.
    pub id: u64,
    /// What it is known by to all proxies of a fleet.
    #[serde(default = "Uid::fresh")]
    pub uid: Uid,
    /// The fleet knows of it: where it has it no longer, it was undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    #[serde(flatten)]
    pub pull: Pull,
    pub who: String,
    pub reason: String,
    /// When it was pulled, in Unix seconds.
    pub since: u64,
    /// When it undoes itself, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// It was to be pulled though it may turn everybody away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What is pulled. `route` and `limit`: of that name; all, where none is named.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "lever", rename_all = "snake_case", deny_unknown_fields)]
pub enum Pull {
    /// Pages stay fresh longer, those that are stored too: so many times their lifetime, and at least so many seconds.
    Ttl {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<String>,
        #[serde(default = "once", skip_serializing_if = "is_once")]
        stretch: f64,
        #[serde(default, skip_serializing_if = "is_none")]
        least: u64,
    },
    /// Pages are served stale for so many seconds at least, where their origin does not forbid it.
    Stale {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<String>,
        window: u64,
    },
    /// So many times the rate of a limit.
    Limit {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<String>,
        times: f64,
    },
    /// Who comes from there is turned away.
    Block { network: IpNet },
    /// Who comes from there is let in, though a wider network is denied.
    Allow { network: IpNet },
    /// A rule of the config blocks those it is true of, whatever it did before.
    BlockRule { rule: String },
    /// A rule of the config does nothing any more but count.
    AllowRule { rule: String },
    /// Browsers have to show a pass.
    Challenge {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<String>,
    },
    /// A server gets nothing more.
    Drain { upstream: String, server: String },
    /// Requests in flight to each server of an upstream, however much it is believed to be good for.
    Budget { upstream: String, most: usize },
    /// Requests go to the origin, each for itself and under its budget; what is stored stands in where that fails.
    Bypass { route: String },
    /// Visitors get what there is without the app: cached pages, however stale, files, the maintenance page.
    Fallback {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<String>,
    },
    /// That is tried on a part of the requests: they get such a page, where there is one.
    Drill {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<String>,
        share: f64,
    },
    /// Unsafe methods are refused.
    Readonly {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        route: Option<String>,
    },
}

fn once() -> f64 {
    1.0
}

// serde gives references.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_once(times: &f64) -> bool {
    *times == once()
}

#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_none(seconds: &u64) -> bool {
    *seconds == 0
}

impl Pull {
    /// The kind of lever: its label in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Pull::Ttl { .. } => "ttl",
            Pull::Stale { .. } => "stale",
            Pull::Limit { .. } => "limit",
            Pull::Block { .. } => "block",
            Pull::Allow { .. } => "allow",
            Pull::BlockRule { .. } => "block_rule",
            Pull::AllowRule { .. } => "allow_rule",
            Pull::Challenge { .. } => "challenge",
            Pull::Drain { .. } => "drain",
            Pull::Budget { .. } => "budget",
            Pull::Bypass { .. } => "bypass",
            Pull::Fallback { .. } => "fallback",
            Pull::Drill { .. } => "drill",
            Pull::Readonly { .. } => "readonly",
        }
    }

    /// All of [`name`](Self::name).
    pub const NAMES: [&'static str; 14] = [
        "ttl",
        "stale",
        "limit",
        "block",
        "allow",
        "block_rule",
        "allow_rule",
        "challenge",
        "drain",
        "budget",
        "bypass",
        "fallback",
        "drill",
        "readonly",
    ];

    /// Whether the other is the same lever on the same thing, so that this one takes its place.
    pub fn replaces(&self, other: &Pull) -> bool {
        use Pull::*;
        match (self, other) {
            (Ttl { route: a, .. }, Ttl { route: b, .. })
            | (Stale { route: a, .. }, Stale { route: b, .. })
            | (Limit { limit: a, .. }, Limit { limit: b, .. })
            | (Challenge { route: a }, Challenge { route: b })
            | (Fallback { route: a }, Fallback { route: b })
            | (Drill { route: a, .. }, Drill { route: b, .. })
            | (Readonly { route: a }, Readonly { route: b }) => a == b,
            (
                Block { network: a } | Allow { network: a },
                Block { network: b } | Allow { network: b },
            ) => a == b,
            (
                BlockRule { rule: a } | AllowRule { rule: a },
                BlockRule { rule: b } | AllowRule { rule: b },
            ) => a == b,
            (
                Drain {
                    upstream: a,
                    server: c,
                },
                Drain {
                    upstream: b,
                    server: d,
                },
            ) => (a, c) == (b, d),
            (Budget { upstream: a, .. }, Budget { upstream: b, .. }) => a == b,
            (Bypass { route: a }, Bypass { route: b }) => a == b,
            _ => false,
        }
    }
}

/// Who pulls, why, for how long, and whether to do so though it may turn everybody away.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Order {
    pub who: String,
    pub reason: String,
    pub time: Option<Duration>,
    pub force: bool,
}
