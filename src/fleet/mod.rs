//! What the proxies of a fleet tell each other: purges and levers, by a log in Redis.
//!
//! ```text
//!  purge, lever ─► done here ─► queue ─► writer ─► log.lua in Redis: a stream, the levers that are pulled, who has read how far
//!                                                     │
//!  request ─► gate: is all read? ◄─── cache, board ◄─ reader, which has read all up to less than half a second ago
//! ```
//!
//! What is done at one proxy is in effect there at once, and an [`entry`](entry) of the log as soon as Redis takes it. Each proxy follows the
//! log and does what the others have done. It knows up to when it has read everything: a request that finds this half a second
//! ago waits until it is known again, for half a second at most, so that who was stopped for a while serves nothing that was
//! purged meanwhile. Where Redis is down that can't be known, and nobody waits for it: pages are served, and it says so.
//!
//! What comes twice does no harm: who has missed something, or may have, reads more than he needs. What comes from Redis is
//! bounded and not trusted; whatever is not as it should be is an outage of Redis, or left out.

mod entry;
mod levers;
mod message;
mod place;
mod queue;
mod reader;
mod shared;
mod told;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::clock::{self, Tick};
use crate::levers::Uid;
use crate::levers::board::{Board, Change};
use crate::redis::{Link, RedisSpec};
use crate::rules::purge::Purge;
use crate::telemetry::{Counter, Metrics, RedisResult, names};
use entry::Entry;
pub use message::Position;
use queue::Order;
use reader::Reader;
use shared::Shared;
pub use shared::{Proxy, Standing};
pub use told::Confirmed;
use writer::Writer;

/// A request waits for so long at most; and who has read all up to less than so long ago has read all.
const PATIENCE: Duration = Duration::from_millis(500);
/// For a message and its answer, whatever it takes to come to one.
const LONGEST: Duration = Duration::from_secs(2);
/// Before which nobody waits.
const ALWAYS: u64 = u64::MAX;

/// What a fleet's purges are to do here.
pub trait Cache: Send + Sync {
    fn purge(&self, purge: &Purge);
    /// Whether there is anything that could have been purged.
    fn has_pages(&self) -> bool;
}

/// The fleet that this proxy is in, if it is in one.
pub struct Fleet {
    gate: Arc<Gate>,
    /// What this proxy is called.
    name: String,
    /// Where the place in the log is kept, if anywhere.
    path: Option<PathBuf>,
    gaps: Arc<AtomicU64>,
    here: OnceLock<Here>,
    following: ArcSwapOption<Following>,
}

#[derive(Clone)]
struct Here {
    cache: Arc<dyn Cache>,
    board: Arc<Board>,
}

/// Until when requests need not wait; the process's milliseconds.
struct Gate(AtomicU64);

impl Gate {
    fn is_open(&self, at: u64) -> bool {
        at < self.0.load(Ordering::Acquire)
    }

    fn until(&self, at: u64) {
        self.0.store(at, Ordering::Release);
    }

    fn open(&self) {
        self.until(ALWAYS);
    }
}

/// What came of messages, and how often something may have been missed.
struct Counts {
    operations: [Arc<Counter>; RedisResult::ALL.len()],
    gaps: Arc<AtomicU64>,
}

/// One fleet.
struct Following {
    spec: RedisSpec,
    shared: Arc<Shared>,
    leaving: Arc<Mutex<Option<mpsc::Sender<()>>>>,
}

/// From one fleet to another, or to none.
pub struct Step(Next);

enum Next {
    Stay,
    Leave,
    Join(Arc<Following>, oneshot::Sender<Here>),
}

fn now() -> u64 {
    clock::uptime_millis()
}

impl Fleet {
    /// In none. `name`: what this proxy is called. `path`: where the place in the log is kept, if anywhere.
    pub fn new(name: String, path: Option<PathBuf>) -> Arc<Fleet> {
        Arc::new(Fleet {
            gate: Arc::new(Gate(AtomicU64::new(ALWAYS))),
            name,
            path,
            gaps: Arc::default(),
            here: OnceLock::new(),
            following: ArcSwapOption::empty(),
        })
    }

    /// What fleets have to do with. Once, before the first is joined.
    pub fn serves(&self, cache: Arc<dyn Cache>, board: Arc<Board>) {
        // It is always the same.
        let _ = self.here.set(Here { cache, board });
    }

    /// What it takes to be in this fleet, or in none; nothing has changed yet.
    ///
    /// # Errors
    /// Roots that can't be read, a thread that can't be had; for people.
    pub fn prepare(&self, spec: Option<&RedisSpec>, metrics: &Metrics) -> Result<Step, String> {
        let before = self.following.load();
        let is_in = before.as_ref().map(|following| &following.spec);
        Ok(Step(match spec {
            spec if spec == is_in => Next::Stay,
            None => Next::Leave,
            Some(spec) => {
                let (following, begin) = self.follow(spec, metrics)?;
                Next::Join(Arc::new(following), begin)
            }
        }))
    }

    /// Goes where it was prepared to go. Redis need not be there.
    pub fn take(&self, step: Step) {
        let resign = || {
            if let Some(before) = &*self.following.load() {
                before.shared.resign();
            }
        };
        let next = match step.0 {
            Next::Stay => return,
            Next::Leave => {
                resign();
                self.gate.open();
                None
            }
            Next::Join(following, begin) => {
                let Some(here) = self.here.get() else {
                    return;
                };
                resign();
                // What is read by then is of the other fleet.
                self.gate.until(0);
                // An error is the end of that thread: then nobody ever waits for it.
                let _ = begin.send(here.clone());
                Some(following)
            }
        };
        let before = self.following.swap(next);
        if let Some(before) = before {
            let (done, _) = mpsc::channel();
            before.leave(done);
        }
    }

    /// Waits until all is read that the fleet knows, or it is known that this can't be had soon. Blocks for half a second at most.
    pub fn first_read(&self) {
        let until = now() + PATIENCE.as_millis() as u64;
        while !self.gate.is_open(now()) && now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Tells the others that it leaves, if Redis takes that soon. Blocks for three timeouts at most.
    pub fn leave(&self) {
        if let Some(following) = self.following.swap(None) {
            let (done, said) = mpsc::channel();
            following.leave(done);
            // An error is the end of the thread, which is as good.
            let _ = said.recv_timeout(3 * following.spec.timeout);
        }
    }

    /// Whether a request that has come at `began` may be served from memory: all is read, or nobody can know.
    pub fn is_current(&self, began: Tick) -> bool {
        self.gate.is_open(began.uptime_millis())
    }

    /// Waits until it may; for half a second at most, and nobody does so again before all is read.
    pub async fn catch_up(&self) {
        let began = now();
        let following = self.following.load_full();
        let Some(following) = following else {
            return;
        };
        let shared = &following.shared;
        let mut changes = shared.changes();
        let read = async { while !self.gate.is_open(began) && changes.changed().await.is_ok() {} };
        if timeout(PATIENCE, read).await.is_err() {
            shared.waited(began);
        }
    }

    /// Tells the others what was purged here.
    pub fn purged(&self, purge: &Purge) {
        if let Some(following) = &*self.following.load() {
            following.shared.say(&Entry::Purge(purge.clone()));
        }
    }

    /// Tells the others of a lever.
    pub fn changed(&self, change: Change<'_>) {
        let following = self.following.load();
        let Some(following) = &*following else {
            return;
        };
        let shared = &following.shared;
        match change {
            Change::Pulled(lever) => {
                shared.pulled(lever.uid);
                shared.say(&Entry::Pull(lever.clone()));
            }
            Change::Undone(uid) => {
                shared.gone(uid, shared::Gone::Undone);
                shared.settle(uid);
                shared.say(&Entry::Undo(uid));
            }
            Change::Over(uid) => {
                shared.gone(uid, shared::Gone::Over);
                shared.settle(uid);
                shared.order(Order::over(uid));
            }
        }
    }

    /// How things stand in the fleet. None: it is in none.
    pub fn standing(&self) -> Option<Standing> {
        let following = self.following.load();
        following.as_ref().map(|one| one.shared.standing())
    }

    /// How often something may have been missed.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }

    /// What this proxy is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn follow(
        &self,
        spec: &RedisSpec,
        metrics: &Metrics,
    ) -> Result<(Following, oneshot::Sender<Here>), String> {
        let link = || Link::new(spec.clone(), message::SCRIPT, LONGEST);
        let (reads, writes) = (link()?, link()?);
        let count = |at: usize| metrics.counter(&names::FLEET_LOG, &[RedisResult::ALL[at].label()]);
        let counts = Counts {
            operations: std::array::from_fn(count),
            gaps: Arc::clone(&self.gaps),
        };
        let gate = Arc::clone(&self.gate);
        let shared = Shared::new(Uid::fresh(), self.name.clone(), gate, counts, now());
        let shared = Arc::new(shared);
        let leaving = Arc::default();
        let following = Following {
            spec: spec.clone(),
            shared: Arc::clone(&shared),
            leaving: Arc::clone(&leaving),
        };
        let path = self.path.clone();
        let no_thread = |e: std::io::Error| format!("cannot start a thread: {e}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(no_thread)?;
        let (jobs, to_do) = tokio::sync::mpsc::channel(levers::MOST_JOBS);
        let (begin, begun) = oneshot::channel::<Here>();
        let (tell_board, board) = mpsc::channel::<Arc<Board>>();
        let does = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("fleet-levers".to_owned());
        thread
            .spawn(move || {
                // An error: that fleet is not joined.
                if let Ok(board) = board.recv() {
                    levers::work(to_do, &board, &does);
                }
            })
            .map_err(no_thread)?;
        let run = async move {
            let Ok(Here { cache, board }) = begun.await else {
                return;
            };
            // An error is the end of that thread.
            let _ = tell_board.send(board);
            let at = path.as_deref().and_then(place::read);
            let reader = Reader::new(reads, Arc::clone(&shared), cache, jobs.clone(), at);
            let writer = Writer::new(writes, Arc::clone(&shared), jobs, path, leaving);
            tokio::select! {
                () = reader.run() => {}
                () = writer.run() => {}
            }
            shared.end();
        };
        let thread = std::thread::Builder::new().name("fleet-log".to_owned());
        thread
            .spawn(move || runtime.block_on(run))
            .map_err(no_thread)?;
        Ok((following, begin))
    }
}

impl Following {
    fn leave(&self, done: mpsc::Sender<()>) {
        *self.leaving.lock() = Some(done);
        self.shared.work.notify_one();
    }
}

#[cfg(test)]
mod tests;
