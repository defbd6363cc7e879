//! Which servers are well: every server of an upstream that has a health check is asked at an interval, and its answers
//! decide whether it gets requests.
//!
//! ```text
//! watch() ──► a thread of its own, a task a server:  Probe ──► Course ──► Server's Seen, Budget, log
//!    └──────► FirstRound::wait(), before anybody is let in
//! ```
//!
//! The thread is its own so that busy workers don't make servers look ill. What an answer has to be, and how many it
//! takes, is [`crate::rules::health`]'s to say; what it means to be ill, the budget's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use tokio::time::sleep_until;

use super::probe::{self, Failed, HealthSpec, Probe};
use super::server::Server;
use super::upstream::Upstream;
use crate::clock;
use crate::rules::health::{Change, Course, spread};
use crate::telemetry::{ProbeResult, ids};

/// The first round ends with its probes' own deadlines; so much later it does where their thread gets no turn.
const GRACE: Duration = Duration::from_secs(1);

/// What the answers of a server came to, for all to read.
pub struct Seen {
    well: AtomicBool,
    counts: [AtomicU64; ProbeResult::ALL.len()],
}

impl Default for Seen {
    /// A server counts as well until it has been asked, or where it never is.
    fn default() -> Self {
        Self {
            well: AtomicBool::new(true),
            counts: Default::default(),
        }
    }
}

impl Seen {
    pub fn is_well(&self) -> bool {
        self.well.load(Ordering::Relaxed)
    }

    /// Probes that came to this.
    pub fn probes(&self, result: ProbeResult) -> u64 {
        self.counts[result as usize].load(Ordering::Relaxed)
    }

    fn count(&self, result: ProbeResult) {
        self.counts[result as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Every server's first answer, on its way.
pub struct FirstRound {
    answers: Receiver<()>,
    patience: Duration,
}

impl FirstRound {
    /// Blocks until all servers have answered, or should have.
    pub fn wait(self) {
        let until = clock::instant() + self.patience;
        loop {
            let left = until.saturating_duration_since(clock::instant());
            // Nothing is sent: the last server to answer drops the last sender.
            match self.answers.recv_timeout(left) {
                Ok(()) => {}
                Err(_) => return,
            }
        }
    }
}

/// Watches the servers of all that have a health check, until the process ends; `None` where none has.
///
/// # Errors
/// A thread that can't be had, roots that can't be read; for people.
pub fn watch(upstreams: &[Arc<Upstream>]) -> Result<Option<FirstRound>, String> {
    let (answered, answers) = mpsc::channel();
    let mut watchers = Vec::new();
    let mut patience = Duration::ZERO;
    for upstream in upstreams {
        let Some(spec) = &upstream.spec().health else {
            continue;
        };
        patience = patience.max(spec.timeout + GRACE);
        let twin = probe::twin(upstream.spec(), spec)?;
        let probe = Arc::new(Probe::new(spec)?);
        for server in upstream.servers().iter() {
            watchers.push(Watcher {
                upstream: Arc::clone(upstream),
                server: Arc::clone(server),
                asked: twin.reach(server.spec()),
                twin: Arc::clone(&twin),
                probe: Arc::clone(&probe),
                spec: spec.clone(),
                first: Some(answered.clone()),
            });
        }
    }
    if watchers.is_empty() {
        return Ok(None);
    }
    let no_thread = |e: std::io::Error| format!("cannot start a thread: {e}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(no_thread)?;
    std::thread::Builder::new()
        .name("health".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                for watcher in watchers {
                    tokio::spawn(watcher.run());
                }
                std::future::pending::<()>().await
            })
        })
        .map_err(no_thread)?;
    Ok(Some(FirstRound { answers, patience }))
}

/// Watches one server.
struct Watcher {
    upstream: Arc<Upstream>,
    server: Arc<Server>,
    /// The same, as the twin reaches it.
    asked: Arc<Server>,
    twin: Arc<Upstream>,
    probe: Arc<Probe>,
    spec: HealthSpec,
    /// Dropped with the first answer.
    first: Option<Sender<()>>,
}

impl Watcher {
    async fn run(mut self) {
        let mut course = Course::default();
        loop {
            let begun = clock::timer();
            let answer = self.ask().await;
            let change = course.after(answer.is_ok(), self.spec.hysteresis);
            self.tell(change, answer);
            self.first = None;
            // One at a time, however long it takes.
            sleep_until(begun + spread(self.spec.interval, ids::random())).await;
        }
    }

    /// In a task of its own: what panics below is a probe that failed, and the next one is made.
    async fn ask(&self) -> Result<(), Failed> {
        let (probe, twin) = (Arc::clone(&self.probe), Arc::clone(&self.twin));
        let server = Arc::clone(&self.asked);
        let asked = tokio::spawn(async move { probe.ask(&twin, &server).await });
        let panicked = |_| Err(Failed::broken("the probe panicked"));
        asked.await.unwrap_or_else(panicked)
    }

    fn tell(&self, change: Option<Change>, answer: Result<(), Failed>) {
        let server = &self.server;
        let seen = server.seen();
        let (result, why) = match answer {
            Ok(()) => (ProbeResult::Ok, String::new()),
            Err(failed) => (failed.result, failed.why),
        };
        seen.count(result);
        self.upstream.probed(server, result == ProbeResult::Ok);
        let (upstream, name) = (self.upstream.name(), server.authority());
        let Some(change) = change else {
            if result != ProbeResult::Ok {
                tracing::debug!(upstream, server = name, why, "a health check has failed");
            }
            return;
        };
        let was_all_ill = self.upstream.is_all_ill();
        let is_well = change == Change::Well;
        seen.well.store(is_well, Ordering::Relaxed);
        self.upstream.budget.set_well(server.id, is_well);
        match change {
            Change::Ill => tracing::warn!(upstream, server = name, why, "a server is ill"),
            Change::Well => tracing::info!(upstream, server = name, "a server is well again"),
        }
        // All servers change on this thread, so this is seen once.
        if self.upstream.is_all_ill() && !was_all_ill {
            tracing::warn!(upstream, "no server is well: all of them are used");
        }
    }
}
