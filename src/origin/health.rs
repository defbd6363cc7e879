//! Which servers are well: every server of an upstream that has a health check is asked at an interval, and its answers
//! decide whether it gets requests.
//!
//! ```text
//! begin() ──► a thread of its own, a task a server:  Probe ──► Course ──► Server's Seen, Budget, log
//!             and one an upstream, for servers that come and go
//!    └──────► FirstRound::wait(), before anybody is let in
//! ```
//!
//! The thread is its own so that busy workers don't make servers look ill. What an answer has to be, and how many it
//! takes, is [`crate::rules::health`]'s to say; what it means to be ill, the budget's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep_until;

use super::aside::{Aside, First, FirstRound, GRACE};
use super::probe::{self, Failed, HealthSpec, Probe};
use super::server::Server;
use super::upstream::Upstream;
use crate::clock;
use crate::rules::health::{Change, Course, spread};
use crate::telemetry::{ProbeResult, ids};

/// What the answers of a server came to, for all to read.
pub struct Seen {
    well: AtomicBool,
    /// It was asked, and has not been away since.
    known: AtomicBool,
    counts: [AtomicU64; ProbeResult::ALL.len()],
}

impl Default for Seen {
    /// A server counts as well until it has been asked, or where it never is.
    fn default() -> Self {
        Self {
            well: AtomicBool::new(true),
            known: AtomicBool::new(false),
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

    /// How it counts until it is asked.
    pub(super) fn presume_well(&self, well: bool) {
        self.known.store(false, Ordering::Relaxed);
        self.well.store(well, Ordering::Relaxed);
    }

    /// How it is, by its answers.
    pub(super) fn set_well(&self, well: bool) {
        self.well.store(well, Ordering::Relaxed);
        self.known.store(true, Ordering::Relaxed);
    }

    /// Of a server that was asked by another spec's check, too, no answer decides alone.
    fn course(&self) -> Course {
        match self.known.load(Ordering::Relaxed) {
            true => Course::going_on(self.is_well()),
            false => Course::default(),
        }
    }

    fn count(&self, result: ProbeResult) {
        self.counts[result as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Watches the servers of all that have a health check, until their upstream is retired; `None` where none has.
///
/// # Errors
/// As with [`watching`].
pub fn watch(upstreams: &[Arc<Upstream>]) -> Result<Option<FirstRound>, String> {
    Ok(watching(upstreams)?.map(Watching::begin))
}

/// All that it takes to watch servers.
pub struct Watching {
    aside: Aside,
    wards: Vec<Ward>,
    patience: Duration,
}

/// Gets ready to watch the servers of all that have a health check; `None` where none has.
///
/// # Errors
/// A thread that can't be had, roots that can't be read; for people.
pub fn watching(upstreams: &[Arc<Upstream>]) -> Result<Option<Watching>, String> {
    let mut wards = Vec::new();
    let mut patience = Duration::ZERO;
    for upstream in upstreams {
        let Some(spec) = &upstream.spec().health else {
            continue;
        };
        patience = patience.max(spec.timeout + GRACE);
        wards.push(Ward {
            upstream: Arc::clone(upstream),
            twin: probe::twin(upstream.spec(), spec)?,
            probe: Arc::new(Probe::new(spec)?),
            spec: spec.clone(),
        });
    }
    if wards.is_empty() {
        return Ok(None);
    }
    Ok(Some(Watching {
        aside: Aside::new("health")?,
        wards,
        patience,
    }))
}

impl Watching {
    /// Watches until their upstream is retired.
    pub fn begin(self) -> FirstRound {
        let (first, round) = FirstRound::new(self.patience);
        let begin = |ward: Ward| (ward.upstream.watch_servers(), ward);
        let wards: Vec<_> = self.wards.into_iter().map(begin).collect();
        self.aside.run(move || {
            let run = |(changes, ward): (_, Ward)| tokio::spawn(ward.run(changes, first.clone()));
            wards.into_iter().map(run).collect()
        });
        round
    }
}

/// The servers of an upstream, which may come and go.
struct Ward {
    upstream: Arc<Upstream>,
    twin: Arc<Upstream>,
    probe: Arc<Probe>,
    spec: HealthSpec,
}

impl Ward {
    async fn run(self, mut changes: watch::Receiver<()>, first: First) {
        let mut first = Some(first);
        // However this ends, they end with it.
        let mut watchers = JoinSet::new();
        let mut watched: HashMap<usize, AbortHandle> = HashMap::new();
        loop {
            changes.mark_unchanged();
            let here = self.upstream.servers();
            // From then on they may be others' servers, which this one's spec knows nothing of.
            if self.upstream.is_retired() {
                return;
            }
            while watchers.try_join_next().is_some() {}
            watched.retain(|id, watcher| {
                let stays = here.iter().any(|server| server.id == *id);
                if !stays {
                    watcher.abort();
                }
                stays
            });
            for server in here.iter() {
                watched.entry(server.id).or_insert_with(|| {
                    let watcher = self.watcher(server, first.clone());
                    watchers.spawn(watcher.run())
                });
            }
            first = None;
            tokio::select! {
                biased;
                () = self.upstream.retired() => return,
                // The upstream is held here: there is one who tells.
                _ = changes.changed() => {}
            }
        }
    }

    fn watcher(&self, server: &Arc<Server>, first: Option<First>) -> Watcher {
        Watcher {
            upstream: Arc::clone(&self.upstream),
            server: Arc::clone(server),
            asked: self.twin.reach(server),
            twin: Arc::clone(&self.twin),
            probe: Arc::clone(&self.probe),
            spec: self.spec.clone(),
            course: server.seen().course(),
            first,
        }
    }
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
    /// What all its answers have come to.
    course: Course,
    /// Dropped with the first answer.
    first: Option<First>,
}

impl Watcher {
    async fn run(mut self) {
        loop {
            let begun = clock::timer();
            let answer = self.ask().await;
            self.tell(answer);
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

    fn tell(&mut self, answer: Result<(), Failed>) {
        let change = self.course.after(answer.is_ok(), self.spec.hysteresis);
        let server = &self.server;
        let seen = server.seen();
        let (result, why) = match answer {
            Ok(()) => (ProbeResult::Ok, String::new()),
            Err(failed) => (failed.result, failed.why),
        };
        seen.count(result);
        let was_all_ill = self.upstream.is_all_ill();
        // Also where nothing has changed: it may have just come, or come back.
        self.upstream.let_in(server, self.course.is_well());
        self.upstream.probed(server, result == ProbeResult::Ok);
        let (upstream, name) = (self.upstream.name(), server.name());
        let Some(change) = change else {
            if result != ProbeResult::Ok {
                tracing::debug!(upstream, server = name, why, "a health check has failed");
            }
            return;
        };
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

#[cfg(test)]
mod tests {
    use super::super::probe::Check;
    use super::super::server::{Place, ServerSpec};
    use super::super::upstream::tests::spec;
    use super::*;
    use crate::rules::health::Hysteresis;

    fn health() -> HealthSpec {
        HealthSpec {
            check: Check::Tcp,
            interval: Duration::from_secs(3_600),
            timeout: Duration::from_secs(1),
            hysteresis: Hysteresis { rise: 2, fall: 3 },
        }
    }

    /// With so many servers, at addresses where nobody is.
    fn upstream(servers: u16) -> Arc<Upstream> {
        let mut spec = spec(false, None);
        let of = |port: u16| ServerSpec {
            place: Place::Address(([127, 0, 0, 1], port).into()),
            authority: format!("127.0.0.1:{port}"),
            ..spec.servers[0].clone()
        };
        spec.servers = (1..=servers).map(of).collect();
        spec.health = Some(health());
        Upstream::new(spec).unwrap()
    }

    fn ward(upstream: &Arc<Upstream>) -> Ward {
        Ward {
            twin: probe::twin(upstream.spec(), &health()).unwrap(),
            upstream: Arc::clone(upstream),
            probe: Arc::new(Probe::new(&health()).unwrap()),
            spec: health(),
        }
    }

    /// Another spec says nothing against a server that is well, and nothing for one that is ill.
    #[tokio::test]
    async fn one_answer_under_another_spec_changes_nobody_who_is_known() {
        let before = upstream(2);
        let here = before.servers();
        let watcher = |ward: &Ward, at: usize| ward.watcher(&ward.upstream.servers()[at], None);
        let fails = || Err(Failed::broken("no"));
        let ward_before = ward(&before);
        watcher(&ward_before, 0).tell(Ok(()));
        watcher(&ward_before, 1).tell(fails());
        let well = || {
            here.iter()
                .map(|one| one.seen().is_well())
                .collect::<Vec<_>>()
        };
        assert_eq!(well(), [true, false], "the first answers decide");
        let mut spec = before.spec().clone();
        spec.queue += 1;
        let heir = before.succeeded_by(spec).unwrap();
        heir.take_over(&before);
        let ward = ward(&heir);
        let (mut one, mut other) = (watcher(&ward, 0), watcher(&ward, 1));
        one.tell(fails());
        other.tell(Ok(()));
        assert_eq!(well(), [true, false], "it takes as many as ever");
        other.tell(Ok(()));
        (0..2).for_each(|_| one.tell(fails()));
        assert_eq!(well(), [false, true]);
    }

    /// The servers that it sees by then are of a spec that its twin knows nothing of.
    #[tokio::test]
    async fn who_is_retired_looks_at_no_server_of_its_heirs() {
        let before = upstream(1);
        let (late, early) = (ward(&before), ward(&before));
        let (first, round) = FirstRound::new(Duration::from_secs(10));
        let [soon, later] = [(); 2].map(|()| before.watch_servers());
        let running = tokio::spawn(early.run(soon, first.clone()));
        while Arc::strong_count(&before) < 4 {
            tokio::task::yield_now().await;
        }
        let heir = before.succeeded_by(upstream(3).spec().clone()).unwrap();
        heir.take_over(&before);
        running.await.expect("no panic where both are told at once");
        late.run(later, first).await;
        // Nobody watches any more.
        while Arc::strong_count(&before) > 1 {
            tokio::task::yield_now().await;
        }
        round.wait();
    }
}
