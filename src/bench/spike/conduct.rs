//! One run: the crowd is sent on its schedule, whatever becomes of it, while events happen at their time.
//!
//! Two threads: one has all clients, and counts; the other is the clock of events, and looks on. The origin has a third.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout_at};

use super::app::{App, COOKIE, Counts};
use super::client::{Ask, Connections, Server};
use super::count::{Count, Outcome, SLICE};
use super::report::{Load, Origin, Run, Slice};
use super::scenario::{Scenario, What};
use super::visits::{Site, Visit};
use crate::bench::timer::Timer;
use crate::bench::wire::Failed;
use crate::clock;

/// A browser that could not connect, or was cut off, tries again after so long, and twice as long each further time.
const TRIES_AGAIN: Duration = Duration::from_millis(250);

/// What is to be measured.
pub struct Plan<'a> {
    pub scenario: &'a Scenario,
    pub site: &'a Site,
    pub visits: Arc<[Visit]>,
    pub server: Server,
    /// Who is behind it, if that is ours.
    pub app: Option<&'a App>,
    pub seed: u64,
}

/// What happens to the target itself.
pub trait Target {
    /// Has it forget all it has stored.
    ///
    /// # Errors
    /// It can't, or did not; for people.
    fn purge(&mut self) -> Result<(), String>;

    /// Kills it, and starts it again.
    ///
    /// # Errors
    /// It can't be had any more; for people.
    fn restart(&mut self) -> Result<(), String>;
}

/// A target that is somebody else's: nothing happens to it.
pub struct Elses;

impl Target for Elses {
    fn purge(&mut self) -> Result<(), String> {
        Err("it is not ours to purge".to_owned())
    }

    fn restart(&mut self) -> Result<(), String> {
        Err("it is not ours to restart".to_owned())
    }
}

/// How it stands while it runs.
#[derive(Clone, Debug, Default)]
pub struct Now {
    pub elapsed: Duration,
    /// The slices until now.
    pub slices: Vec<Slice>,
    pub origin: Counts,
    /// Whether the origin is ours.
    pub has_origin: bool,
}

struct Shared {
    count: Mutex<Count>,
    /// No answer to what is sent from now on may be of an earlier version.
    version: AtomicU32,
}

/// Conducts a run. `look`: is told how it stands, four times a second.
///
/// # Errors
/// What can't be had; for people.
pub fn conduct(
    plan: &Plan<'_>,
    target: &mut dyn Target,
    mut look: impl FnMut(&Now),
) -> Result<Run, String> {
    let stamped = plan.app.is_some();
    if plan.scenario.warm {
        warm(plan)?;
    }
    if let Some(app) = plan.app {
        app.forget();
    }
    let shared = Shared {
        count: Mutex::new(Count::new(plan.scenario, plan.site, stamped)),
        version: AtomicU32::new(0),
    };
    // All threads count from here; who is to send needs a moment to be there.
    let began = clock::instant() + Duration::from_millis(50);
    let mut at_origin = Vec::new();
    let mut run = Run {
        scenario: plan.scenario.told(),
        seed: plan.seed,
        events: super::count::events(plan.scenario),
        ..Run::default()
    };
    let driven = std::thread::scope(|scope| {
        let drives = std::thread::Builder::new()
            .name("bench-crowd".to_owned())
            .spawn_scoped(scope, || drive(plan, &shared, began))
            .map_err(|e| format!("no thread for the crowd: {e}"))?;
        let mut events = plan.scenario.event.iter().peekable();
        let slices = plan.scenario.lasts.as_nanos().div_ceil(SLICE.as_nanos()) as u32;
        for slice in 1..=slices {
            let ends = SLICE * slice;
            while let Some(event) = events.next_if(|event| event.at < ends) {
                until(began + event.at);
                if let Err(why) = happens(plan, target, &shared, event.what) {
                    run.invalid.push(format!("{}: {why}", event.what.words()));
                }
            }
            until(began + ends);
            let counts = plan.app.map(App::counts).unwrap_or_default();
            at_origin.push(counts);
            let told = shared.count.lock();
            let now = Now {
                elapsed: ends,
                slices: (0..slice as usize)
                    .filter_map(|at| told.slice(at))
                    .collect(),
                origin: counts,
                has_origin: stamped,
            };
            drop(told);
            look(&now);
        }
        drives
            .join()
            .map_err(|_| "the crowd's thread panicked".to_owned())?
            .map_err(|e| format!("the crowd could not be sent: {e}"))
    });
    let driven = driven?;
    run.load = Load {
        connections: driven.connections,
        busy: driven.busy,
        ..Load::default()
    };
    run.origin = plan.app.map(|app| {
        let counts = app.counts();
        Origin {
            fetches: counts.fetches,
            pages: counts.pages,
            capacity: plan.scenario.origin.at_once,
            peak: counts.peak,
            failed: counts.failed,
            wasted: counts.wasted,
        }
    });
    let count = shared.count.into_inner();
    Ok(count.done(run, &at_origin, plan.scenario.over_at()))
}

fn until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(clock::instant()));
}

fn happens(
    plan: &Plan<'_>,
    target: &mut dyn Target,
    shared: &Shared,
    what: What,
) -> Result<(), String> {
    if let Some(app) = plan.app {
        app.meet(what).map_err(|e| e.to_string())?;
    }
    match what {
        What::Purge => {
            target.purge()?;
            if let Some(app) = plan.app {
                shared.version.store(app.version(), Relaxed);
            }
            Ok(())
        }
        What::Restart => target.restart(),
        _ => Ok(()),
    }
}

/// Asks for every page that may be stored, a few at a time.
fn warm(plan: &Plan<'_>) -> Result<(), String> {
    use super::scenario::Kind;
    let at_once = plan.scenario.origin.at_once;
    let public = |page: &&super::visits::Page| page.kind == Kind::Public;
    let pages: Vec<_> = plan.site.pages.iter().filter(public).collect();
    let warmed = alone().map_err(|e| e.to_string())?.block_on(async {
        let local = LocalSet::new();
        let connections = Rc::new(Connections::new(plan.server.clone()));
        let next = Rc::new(RefCell::new(pages.into_iter()));
        let asks = (0..at_once).map(|_| {
            let (connections, next) = (Rc::clone(&connections), Rc::clone(&next));
            async move {
                loop {
                    let Some(page) = next.borrow_mut().next() else {
                        return Ok(());
                    };
                    let ask = Ask {
                        client: 0,
                        path: &page.path,
                        fields: &[],
                        new_connection: false,
                        http2: false,
                    };
                    let asked = connections.ask(&ask);
                    let patience = Duration::from_secs(20);
                    match tokio::time::timeout(patience, asked).await {
                        Ok(Ok(answer)) if answer.status < 400 => {}
                        Ok(Ok(answer)) => return Err(format!("{}: {}", page.path, answer.status)),
                        Ok(Err(failed)) => return Err(format!("{}: {failed:?}", page.path)),
                        Err(_) => return Err(format!("{}: no answer", page.path)),
                    }
                }
            }
        });
        let all: Vec<_> = asks.collect();
        local
            .run_until(async {
                for ask in all {
                    ask.await?;
                }
                Ok::<(), String>(())
            })
            .await
    });
    warmed.map_err(|why| format!("before the crowd comes: {why}"))
}

/// How it went for the crowd's thread itself.
struct Driven {
    connections: u64,
    busy: f64,
}

fn drive(plan: &Plan<'_>, shared: &Shared, began: Instant) -> io::Result<Driven> {
    let before = used();
    let connections = alone()?.block_on(LocalSet::new().run_until(send(plan, shared, began)))?;
    let wall = clock::instant().saturating_duration_since(began);
    let busy = (used() - before).as_secs_f64() / wall.as_secs_f64().max(1e-9);
    Ok(Driven {
        connections,
        busy: busy.min(1.0),
    })
}

/// CPU time of this thread.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

async fn send(plan: &Plan<'_>, shared: &Shared, began: Instant) -> io::Result<u64> {
    let mut timer = Timer::new()?;
    let connections = Rc::new(Connections::new(plan.server.clone()));
    let paths: Rc<[Rc<str>]> = plan
        .site
        .pages
        .iter()
        .map(|page| page.path.as_str().into())
        .collect();
    let habits: Vec<_> = plan
        .scenario
        .crowd
        .iter()
        .map(|crowd| (crowd.patience, crowd.retries))
        .collect();
    let (done, mut outcomes) = mpsc::unbounded_channel::<Outcome>();
    let sends = async {
        for visit in plan.visits.iter() {
            let due = began + visit.at;
            timer.until(due).await?;
            let (patience, retries) = habits[usize::from(visit.crowd)];
            let goes = Goes {
                visit: *visit,
                due,
                patience,
                retries,
                path: Rc::clone(&paths[visit.page as usize]),
                version: shared.version.load(Relaxed),
                connections: Rc::clone(&connections),
            };
            let done = done.clone();
            tokio::task::spawn_local(async move {
                // Nobody listens any more only when the run has been given up.
                let _ = done.send(goes.on().await);
            });
        }
        Ok::<(), io::Error>(())
    };
    let counts = async {
        let mut left = plan.visits.len();
        while left > 0 {
            let mut ready = Vec::with_capacity(64);
            left -= outcomes.recv_many(&mut ready, 64).await;
            let mut count = shared.count.lock();
            ready.iter().for_each(|outcome| count.add(outcome));
        }
        Ok::<(), io::Error>(())
    };
    tokio::try_join!(sends, counts)?;
    Ok(connections.opened())
}

/// One visit on its way.
struct Goes {
    visit: Visit,
    due: Instant,
    patience: Duration,
    retries: u32,
    path: Rc<str>,
    version: u32,
    connections: Rc<Connections>,
}

impl Goes {
    async fn on(self) -> Outcome {
        let lag = clock::instant().saturating_duration_since(self.due);
        let mut tries = 0;
        let end = timeout_at((self.due + self.patience).into(), self.ask(&mut tries)).await;
        let end = end.unwrap_or(Err(Failed::TimedOut));
        let now = clock::now();
        let took = clock::instant().saturating_duration_since(self.due);
        let first_byte = match &end {
            Ok(answer) => answer.first_byte.saturating_duration_since(self.due),
            Err(_) => took,
        };
        Outcome {
            visit: self.visit,
            lag,
            first_byte,
            took,
            at: clock::wall_millis(now.mono),
            retries: tries,
            version: self.version,
            end,
        }
    }

    async fn ask(&self, tries: &mut u32) -> Result<super::client::Answer, Failed> {
        let mut fields = Vec::new();
        fields.push(("user-agent", "tidegate-bench".to_owned()));
        if let Some(user) = self.visit.user {
            fields.push(("cookie", format!("{COOKIE}{user}")));
        }
        if self.visit.reload {
            fields.push(("cache-control", "no-cache".to_owned()));
        }
        let ask = Ask {
            client: self.visit.client,
            path: &self.path,
            fields: &fields,
            new_connection: self.visit.new_connection,
            http2: self.visit.http2,
        };
        loop {
            match self.connections.ask(&ask).await {
                Err(Failed::Refused | Failed::Closed) if *tries < self.retries => {
                    sleep(TRIES_AGAIN * 2_u32.pow(*tries)).await;
                    *tries += 1;
                }
                end => return end,
            }
        }
    }
}

fn alone() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
