//! What there is for visitors while the app is gone, beside what is cached: files of a directory, and the maintenance page; and for
//! which routes it is on.
//!
//! In reading order: [`file`] finds a page's file and reads it, by ways that [`beneath`] keeps in the directory; [`kinds`] tells what it
//! is. Who asks and what goes on the wire is the front's.

mod beneath;
mod file;
mod kinds;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

use crate::cache::entry::Entry;
use crate::cache::memory::Memory;
use crate::config::policy::{Policy, Route};
use crate::origin::UpstreamSpec;
use crate::rules::time::Moment;
use crate::telemetry::names::{self, Family};
use crate::telemetry::{Counter, FallbackSource, Metrics};
pub use file::Wanted;
pub use kinds::ending;

/// So many look for files at once: more would wait for the same disk.
const READERS: usize = 16;
/// So long, in milliseconds, only one is sent to see whether an upstream is back: it takes a moment until its breaker knows of him.
const PAUSE: u64 = 100;
/// The bundled page.
const MAINTENANCE: &[u8] = include_bytes!("maintenance.html");

/// What there is under one policy.
pub struct Reserve {
    dir: Option<PathBuf>,
    page: Bytes,
    /// When visitors are to come again.
    pub retry_after: Duration,
    /// By route id.
    counts: Vec<Counts>,
    drills: Vec<Counts>,
    /// By the upstream's place.
    sways: Vec<Arc<Sway>>,
    news: Arc<News>,
    readers: Arc<Semaphore>,
}

type Counts = [Arc<Counter>; FallbackSource::ALL.len()];

/// What fallback would have come to with the last minutes' requests.
#[derive(Default)]
pub struct Rehearsal {
    /// From the first of them to now.
    pub seconds: u64,
    /// Of how many of a thousand clients they are.
    pub per_mille: u32,
    /// Where answers would have come from, by [`FallbackSource`].
    pub answers: [u64; FallbackSource::ALL.len()],
    /// The keys of pages of which there is nothing, and how often they were asked for: the most wanted first.
    pub missing: Vec<(Box<[u8]>, u64)>,
}

/// One upstream's, whatever the policy.
struct Sway {
    upstream: String,
    /// It is on by itself for its routes.
    is_on: AtomicBool,
    turns: AtomicU64,
    /// When somebody was sent to see whether it is back, in milliseconds.
    sent: AtomicU64,
}

impl Sway {
    fn new(upstream: &str) -> Sway {
        Sway {
            upstream: upstream.to_owned(),
            is_on: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }
}

/// For whom it is on by now, for those who wait since before.
#[derive(Default)]
struct News {
    /// The routes that a lever is pulled for.
    pulled: ArcSwap<BTreeSet<String>>,
    turned: Notify,
}

impl Reserve {
    /// For a policy; `before` is what the one before had.
    pub fn new(policy: &Policy, before: Option<&Reserve>, metrics: &Metrics) -> Reserve {
        let fallback = &policy.fallback;
        let page = fallback.page.as_ref();
        let own = page.map(|page| Bytes::copy_from_slice(page));
        let counts = |family: &'static Family| {
            let of = |route: &Arc<Route>| {
                let count = |source: &FallbackSource| {
                    metrics.counter(family, &[&route.name[..], source.label()])
                };
                std::array::from_fn(|at| count(&FallbackSource::ALL[at]))
            };
            policy.routes.iter().map(of).collect()
        };
        let sway = |upstream: &UpstreamSpec| {
            let mut known = before.into_iter().flat_map(|before| &before.sways);
            let known = known.find(|known| known.upstream == upstream.name);
            let new = || Arc::new(Sway::new(&upstream.name));
            known.cloned().unwrap_or_else(new)
        };
        Reserve {
            dir: fallback.dir.clone(),
            page: own.unwrap_or(Bytes::from_static(MAINTENANCE)),
            retry_after: fallback.retry_after,
            counts: counts(&names::FALLBACK_ANSWERS),
            drills: counts(&names::FALLBACK_DRILLED),
            sways: policy.upstreams.iter().map(sway).collect(),
            news: before.map_or_else(Arc::default, |before| Arc::clone(&before.news)),
            readers: before.map_or_else(
                || Arc::new(Semaphore::new(READERS)),
                |before| Arc::clone(&before.readers),
            ),
        }
    }

    /// Whether a route's visitors get what there is here.
    pub fn is_on(&self, route: &Route) -> bool {
        route.pulled.fallback || self.is_on_by_itself(route)
    }

    /// Whether they do since nothing healthy is left of its upstream.
    pub fn is_on_by_itself(&self, route: &Route) -> bool {
        let sway = self.sways.get(route.upstream);
        sway.is_some_and(|sway| sway.is_on.load(Ordering::Relaxed))
    }

    /// It goes on or off by itself for the routes of an upstream; those who wait for that are told.
    pub fn sway(&self, upstream: &str, is_on: bool) {
        for sway in self.sways.iter().filter(|sway| sway.upstream == upstream) {
            sway.is_on.store(is_on, Ordering::Relaxed);
            sway.turns.fetch_add(1, Ordering::Relaxed);
        }
        if is_on {
            self.news.turned.notify_waiters();
        }
    }

    /// How often it has gone on or off by itself, by upstream.
    pub fn turns(&self) -> impl Iterator<Item = (&str, u64)> {
        let sways = self.sways.iter();
        sways.map(|sway| (&*sway.upstream, sway.turns.load(Ordering::Relaxed)))
    }

    /// Whether somebody is to go and see now whether a route's upstream is back, and nobody has gone just before.
    pub fn sends_one(&self, route: &Route, now: Moment) -> bool {
        let Some(sway) = self.sways.get(route.upstream) else {
            return false;
        };
        let last = sway.sent.load(Ordering::Relaxed);
        let is_due = now.0 >= last.saturating_add(PAUSE);
        let (order, due) = (Ordering::Relaxed, now.0);
        is_due && sway.sent.compare_exchange(last, due, order, order).is_ok()
    }

    /// Tells those who wait for a page which routes levers are pulled for, now that `policy` is in force.
    pub fn announce(&self, policy: &Policy) {
        let pulled = policy.routes.iter().filter(|route| route.pulled.fallback);
        let pulled: BTreeSet<_> = pulled.map(|route| route.name.clone()).collect();
        if **self.news.pulled.load() != pulled {
            self.news.pulled.store(Arc::new(pulled));
            self.news.turned.notify_waiters();
        }
    }

    /// Waits until it is on for a route, by whatever has come into force since.
    pub async fn goes_on(&self, route: &Route) {
        loop {
            let turned = self.news.turned.notified();
            let is_pulled = self.news.pulled.load().contains(&route.name);
            if is_pulled || self.is_on(route) {
                return;
            }
            turned.await;
        }
    }

    /// Whether there are files at all.
    pub fn has_files(&self) -> bool {
        self.dir.is_some()
    }

    /// The file that stands for a page. Blocks.
    pub fn file(&self, wanted: &Wanted<'_>, memory: &Arc<Memory>) -> Option<Arc<Entry>> {
        file::find(self.dir.as_deref()?, wanted, memory)
    }

    /// Whether there is one. Blocks.
    pub fn has_file(&self, wanted: &Wanted<'_>) -> bool {
        let dir = self.dir.as_deref();
        dir.is_some_and(|dir| file::is_there(dir, wanted))
    }

    /// Leave to look for one; to be held meanwhile.
    pub fn readers(&self) -> &Arc<Semaphore> {
        &self.readers
    }

    /// The page that says that there is none.
    pub fn page(&self) -> &Bytes {
        &self.page
    }

    /// An answer came from there.
    pub fn count(&self, route: &Route, source: FallbackSource) {
        if let Some(counts) = self.counts.get(route.id) {
            counts[source as usize].add(1);
        }
    }

    /// It was tried on a request, and this is where its answer came from, or, for the maintenance page, would have.
    pub fn count_drill(&self, route: &Route, source: FallbackSource) {
        if let Some(counts) = self.drills.get(route.id) {
            counts[source as usize].add(1);
        }
    }

    /// On how many requests it was tried, by what that came to.
    pub fn drilled(&self, route: &Route, source: FallbackSource) -> u64 {
        let counts = self.drills.get(route.id);
        counts.map_or(0, |counts| counts[source as usize].total())
    }

    /// How many answers to a route's visitors came from there since the process began.
    pub fn counted(&self, route: &Route, source: FallbackSource) -> u64 {
        let counts = self.counts.get(route.id);
        counts.map_or(0, |counts| counts[source as usize].total())
    }
}
