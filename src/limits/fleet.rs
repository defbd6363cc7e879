//! Limits that several proxies share, over Redis.
//!
//! ```text
//!  request ─► Part ──not hot──► the limit's own table, by the even part
//!               └─────hot─────► Lease            a thread beside the requests, every 100 to 500 ms:
//!                                 ▲              reports of leases ─► fleet.lua in Redis ─► grants
//!                                 └───────────────────────────────────────────────────────────┘
//! ```
//!
//! No request waits for Redis. What a proxy may let in without it, [`lease`](crate::rules::lease) says; [`part`] is what
//! requests touch, `task` speaks with Redis by `message`s over a [`Link`](crate::redis::Link). Where Redis is down, slow, full or says what
//! it can't mean, each proxy goes on with its even part.
//!
//! In Redis there are keys of a fixed form below the prefix, each with an end: who is there, which clients are hot, and an
//! account of some hundred bytes for each of them, 10,000 at most. Clients are called by keyed hashes. All keys are in one slot, so of
//! a cluster one node has them.

mod message;
pub mod part;
mod task;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::redis::RedisSpec;
use crate::telemetry::{Counter, Metrics, RedisResult, names};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

pub use part::{Cells, Part};

/// How the proxies of a fleet find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSpec {
    pub redis: RedisSpec,
    /// Proxies there are believed to be until Redis has said.
    pub proxies: u32,
}

/// This proxy's place in the fleet.
pub struct Fleet {
    state: Arc<State>,
    task: UnboundedSender<Word>,
    patience: Duration,
}

/// What the task is told.
enum Word {
    /// These limits are shared from now on.
    Parts(Vec<Arc<Part>>),
    /// The process ends, or goes to another fleet. Dropped once the others know.
    Goodbye(mpsc::Sender<()>),
}

/// How things stand, for metrics and operators.
pub struct State {
    up: AtomicBool,
    proxies: AtomicU32,
    hot: AtomicUsize,
    operations: [Arc<Counter>; RedisResult::ALL.len()],
}

impl State {
    fn new(proxies: u32, metrics: &Metrics) -> Arc<State> {
        let count =
            |at: usize| metrics.counter(&names::REDIS_OPERATIONS, &[RedisResult::ALL[at].label()]);
        Arc::new(State {
            up: AtomicBool::new(false),
            proxies: AtomicU32::new(proxies),
            hot: AtomicUsize::new(0),
            operations: std::array::from_fn(count),
        })
    }

    /// Whether Redis answers.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Proxies that there are, as far as is known.
    pub fn proxies(&self) -> u32 {
        self.proxies.load(Relaxed)
    }

    /// Clients that the proxies keep in step.
    pub fn hot(&self) -> usize {
        self.hot.load(Relaxed)
    }

    /// Messages to Redis that came to this.
    pub fn operations(&self, result: RedisResult) -> u64 {
        self.operations[result as usize].total()
    }
}

impl Fleet {
    /// Joins, on a thread of its own, and stays until the process ends. Redis need not be there yet.
    ///
    /// # Errors
    /// Roots that can't be read, a thread that can't be had; for people.
    pub fn join(
        spec: FleetSpec,
        parts: Vec<Arc<Part>>,
        metrics: &Metrics,
    ) -> Result<Fleet, String> {
        if spec.redis.password.is_none() {
            tracing::warn!(
                "redis has no password, which clients' numbers there are keyed with: who knows the config can work them out"
            );
        }
        let state = State::new(spec.proxies, metrics);
        let (tell, told) = unbounded_channel();
        // One exchange that is under way, and the last.
        let patience = 3 * spec.redis.timeout;
        let task = task::Task::new(spec, parts, Arc::clone(&state), told)?;
        let no_thread = |e: std::io::Error| format!("cannot start a thread: {e}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(no_thread)?;
        let thread = std::thread::Builder::new().name("fleet".to_owned());
        thread
            .spawn(move || runtime.block_on(task.run()))
            .map_err(no_thread)?;
        Ok(Fleet {
            state,
            task: tell,
            patience,
        })
    }

    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Shares these limits instead of those of before. Whoever is in both goes on as it stands.
    pub fn renew(&self, parts: Vec<Arc<Part>>) {
        // Not as many proxies as are expected at first: it is known how many there are.
        for part in &parts {
            part.set_proxies(self.state.proxies());
        }
        // An error is the end of the task: then it shares nothing any more.
        let _ = self.task.send(Word::Parts(parts));
    }

    /// Tells the others that they may have this proxy's part, if Redis takes that soon. Blocks for three timeouts at most.
    pub fn leave(&self) {
        let (done, said) = mpsc::channel();
        if self.task.send(Word::Goodbye(done)).is_ok() {
            // An error is the end of the task, which is as good.
            let _ = said.recv_timeout(self.patience);
        }
    }
}

#[cfg(test)]
mod tests;
