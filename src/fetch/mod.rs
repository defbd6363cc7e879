//! The origin side: the only road by which a page that may be cached is fetched.
//!
//! One detached task per flight, whatever the reason: a miss, a refresh in the background, a revalidation, an eager
//! refresh, a private page with one reader. It survives its first client, and a slow reader never slows it. In reading
//! order: [`errand`] is what is asked for; [`fly`] asks, with a place and memory ([`held`]); [`arrived`] decides what an
//! answer's head means, and [`land`] brings it to its readers; [`keep`] puts a whole answer into the store; [`encode`]
//! compresses the hot ones; [`pass`] is the same road for what is never cached; [`refused`] is what is told of those who are
//! not let through; [`purge`] takes out of the cache what is no longer so.

mod arrived;
mod encode;
mod errand;
mod fly;
mod held;
mod keep;
mod land;
mod meter;
mod pass;
mod purge;
mod refused;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

pub use encode::Encoder;
pub use errand::{Errand, Reason, ttl as errand_ttl};
pub use meter::Bill;
pub use pass::{Invalidates, Passage, Underway, Upload};

use crate::cache::entry::Entry;
use crate::cache::flight::{Filler, Flight, Reader};
use crate::cache::generation::Begun;
use crate::cache::key::{Key, KeyRef};
use crate::cache::memory::{Charge, Memory};
use crate::cache::store::{Slot, Store};
use crate::cache::table::{Ask, Joined, Table, Ticket};
use crate::cache::tags::Set;
use crate::clock;
use crate::config::policy::Route;
use crate::origin::{Upstream, Wanted};
use crate::rules::client::Client;
use crate::rules::fields::Fields;
use crate::rules::identity::Class;
use crate::rules::purge::is_outdated;
use crate::rules::time::{Moment, Now};
use crate::rules::vary::{self, AsSent};
use crate::snapshot::{self, Snapshot, Thawed};
use crate::telemetry::UpstreamMetrics;

/// Key and class: what a lane of the flight table is named by.
pub type Lane = (Key, Class);
type Seat = Ticket<Lane, Trip>;

/// Sizes and times of fetching, from the `[cache]` section.
#[derive(Debug, Clone)]
pub struct Limits {
    pub max_object_size: u64,
    pub pass_buffer: usize,
    pub hit_for_miss: Duration,
}

/// A flight and, in case its leader fails before a head came, another request to try with.
pub struct Trip {
    pub flight: Arc<Flight>,
    /// Whose request it began with, and how many came of others.
    client: Client,
    others: AtomicUsize,
    /// Another request to try with, and whose it is.
    spare: Mutex<Option<(Errand, u64)>>,
    /// The page that is to be renewed.
    stored: Option<Arc<Entry>>,
    /// What it may be stored or joined by; nobody's if its answer is one reader's.
    _begun: Option<Begun>,
}

/// How many want its answer. Of the client it began with one counts, however often it asks.
impl Wanted for Trip {
    fn by(&self) -> usize {
        let others = self.others.load(Ordering::Relaxed);
        self.flight.readers().min(1 + others)
    }

    fn heat(&self) -> u32 {
        self.stored.as_ref().map_or(0, |stored| stored.rest.asked())
    }
}

/// What every fetch works with: the store, the table of flights, and the origins of a policy.
#[derive(Clone)]
pub struct Fetcher {
    pub store: Arc<Store>,
    /// What of it lies on the disk.
    pub snapshot: Arc<Snapshot>,
    pub memory: Arc<Memory>,
    table: Arc<Table<Lane, Trip>>,
    upstreams: Vec<Arc<Upstream>>,
    metrics: Vec<Arc<UpstreamMetrics>>,
    limits: Limits,
    /// Another for each set of routes and upstreams.
    reign: u64,
    shedding: Arc<tokio::sync::Mutex<()>>,
    pub counts: Arc<Counts>,
    pub encoder: Arc<Encoder>,
    sweeper: Arc<purge::Sweeper>,
    told: Arc<purge::Told>,
}

/// What fetches did, for gauges and counters.
#[derive(Debug, Default)]
pub struct Counts {
    /// Flights in the air, joinable or not.
    pub flying: AtomicUsize,
    pub stored: AtomicU64,
}

/// How a request came to its answer.
pub enum Boarded {
    /// It reads a flight; `collapsed` if that was under way already.
    Reader { reader: Reader, collapsed: bool },
    /// The page was there after all.
    Found(Arc<Entry>),
    /// The page's last fetch failed just now: what is stored is to be served while it rests.
    Resting,
    /// A hit-for-miss mark holds: the request is to go by itself, with what it alone may ask ([`Fetcher::alone`]).
    Alone,
    /// Nobody has asked for it, and this request may not.
    Barred,
}

/// What another look under the table's lock came to.
enum Again {
    Found(Arc<Entry>),
    Resting,
    Barred,
}

impl Fetcher {
    /// `metrics`: one for each of `upstreams`.
    pub fn new(
        store: impl Into<Arc<Store>>,
        memory: Arc<Memory>,
        upstreams: Vec<Arc<Upstream>>,
        metrics: Vec<Arc<UpstreamMetrics>>,
        limits: Limits,
    ) -> Arc<Fetcher> {
        let store = store.into();
        Arc::new(Fetcher {
            table: Table::new(memory.cap() / 32),
            snapshot: Snapshot::off(&store, &memory),
            store,
            memory,
            upstreams,
            metrics,
            limits,
            reign: 0,
            shedding: Arc::default(),
            counts: Arc::default(),
            encoder: Arc::default(),
            sweeper: Arc::default(),
            told: Arc::default(),
        })
    }

    /// The same, for other origins or, unless `elsewhere`, for the same ones otherwise. Elsewhere nobody waits for what is on
    /// its way from where pages came from before, and once this one [takes over](Self::takes_over) it is not stored.
    pub fn renewed(
        &self,
        upstreams: Vec<Arc<Upstream>>,
        metrics: Vec<Arc<UpstreamMetrics>>,
        limits: Limits,
        elsewhere: bool,
    ) -> Arc<Fetcher> {
        Arc::new(Fetcher {
            upstreams,
            metrics,
            limits,
            reign: self.reign + u64::from(elsewhere),
            ..self.clone()
        })
    }

    /// The same, which keeps what it stores on the disk, too.
    pub fn remembering(&self, snapshot: Arc<Snapshot>) -> Arc<Fetcher> {
        Arc::new(Fetcher {
            snapshot,
            ..self.clone()
        })
    }

    /// From now on the store takes nothing that was asked for elsewhere.
    pub fn takes_over(&self) {
        self.store.reigns(self.reign);
    }

    /// Hit-for-miss marks that are remembered.
    pub fn marks(&self) -> usize {
        self.table.marks()
    }

    pub fn upstream(&self, index: usize) -> &Arc<Upstream> {
        &self.upstreams[index]
    }

    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// Joinable flights and remembered lanes.
    pub fn lanes(&self) -> (usize, usize) {
        self.table.len()
    }

    /// The stored page, as a request that just read the clock sees it.
    pub fn find(&self, key: KeyRef, now: Moment) -> Option<Arc<Slot>> {
        self.store.get(key, now)
    }

    /// Whether the page of a route lies on the disk since before this process, in a variant that `select` selects: then it is to
    /// be brought back before anybody is asked for it.
    pub fn is_cold(
        &self,
        key: KeyRef,
        route: &Route,
        select: impl FnMut(&[http::HeaderName]) -> Box<[u8]>,
    ) -> bool {
        let origin = || self.origin(route.upstream);
        route.cache && self.snapshot.is_cold(key, origin, select)
    }

    /// Brings it back. Reads the disk.
    pub fn thaw(&self, key: &Key, route: &Route) -> Thawed {
        let origin = self.origin(route.upstream);
        self.snapshot.thaw(key, origin, self.reign)
    }

    /// The same for somebody who waits for it: others have to make room.
    pub fn thaw_now(&self, key: &Key, route: &Route) -> Option<Arc<Slot>> {
        if let Thawed::Done(page) = self.thaw(key, route) {
            return page;
        }
        self.store.shed();
        match self.thaw(key, route) {
            Thawed::Done(page) => page,
            Thawed::NoMemory => None,
        }
    }

    /// What an upstream is known by on the disk.
    pub fn origin(&self, upstream: usize) -> u64 {
        snapshot::origin(self.upstream(upstream).name())
    }

    /// Boards the flight that fetches what `errand` asks for, starting it if nobody has. `seen` is what the request has
    /// looked at and found wanting: only another entry counts as found. `may_lead` is asked if nobody has, and waits for nothing.
    pub fn board(
        self: &Arc<Self>,
        errand: Errand,
        lane: &Lane,
        seen: &Seen,
        may_lead: impl FnOnce() -> bool,
    ) -> Boarded {
        let now = seen.now;
        let select = |names: &[http::HeaderName]| vary_values(names, &errand.fields, &errand.sent);
        let key = lane.0.as_ref();
        // What is known to carry tags that were purged since it began is not joined either.
        let known = seen
            .entry
            .as_ref()
            .map_or(0, |entry| entry.tags.epoch().latest());
        let ask = Ask {
            now: now.mono.0,
            generation: self.store.generation(key).max(known).max(seen.at_least),
            purged: self.store.purged(key),
            reign: self.reign,
            presumed: seen.presumed.clone(),
            select: &select,
        };
        let stored = || {
            // Its flight may have failed between this request's look and now.
            let rests = |known: &Arc<Entry>| {
                let moment = clock::moment();
                let returned = self.upstream(errand.route.upstream).open_since(moment);
                known.rest.holds(moment, returned.unwrap_or_default()) && errand.has_stand_in(now)
            };
            if seen.entry.as_ref().is_some_and(rests) {
                return Some(Again::Resting);
            }
            let slot = self.store.get(lane.0.as_ref(), now.mono)?;
            let entry = slot.find(|names| select(names))?;
            let new = seen
                .entry
                .as_ref()
                .is_none_or(|known| !Arc::ptr_eq(known, entry));
            (new && errand.would_serve(entry, now)).then(|| Again::Found(Arc::clone(entry)))
        };
        let look_again = || stored().or_else(|| (!may_lead()).then_some(Again::Barred));
        let joined = self.table.join(
            lane,
            &ask,
            |trip| trip.flight.board(),
            look_again,
            || self.trip(&errand, None),
        );
        match joined {
            Joined::Found(Again::Found(entry)) => Boarded::Found(entry),
            Joined::Found(Again::Resting) => Boarded::Resting,
            Joined::Found(Again::Barred) => Boarded::Barred,
            Joined::Follow(trip, reader) => {
                if errand.client != trip.client {
                    trip.others.fetch_add(1, Ordering::Relaxed);
                }
                trip.spare.lock().get_or_insert((errand, reader.id()));
                Boarded::Reader {
                    reader,
                    collapsed: true,
                }
            }
            Joined::Lead(trip, seat) => {
                let reader = trip.flight.board_first();
                self.take_off(errand, trip, Some(seat));
                Boarded::Reader {
                    reader,
                    collapsed: false,
                }
            }
            Joined::Alone => Boarded::Alone,
        }
    }

    /// Goes to the origin for one reader, with an errand made for it alone.
    pub fn alone(self: &Arc<Self>, errand: Errand) -> Reader {
        let (trip, _) = self.trip(&errand, Some(self.limits.pass_buffer));
        let reader = trip.flight.board_first();
        self.take_off(errand, trip, None);
        reader
    }

    /// Refreshes in the background, unless somebody does already.
    pub fn refresh(self: &Arc<Self>, entry: &Arc<Entry>, lane: &Lane, now: Now, errand: Errand) {
        let variant = &entry.variant;
        let select = |names: &[http::HeaderName]| {
            if *names == *variant.names {
                variant.values.clone()
            } else {
                Box::default()
            }
        };
        let key = lane.0.as_ref();
        let known = entry.tags.epoch().latest();
        let ask = Ask {
            now: now.mono.0,
            generation: self.store.generation(key).max(known),
            purged: self.store.purged(key),
            reign: self.reign,
            presumed: Some(Arc::clone(&variant.names)),
            select: &select,
        };
        let look_again = || {
            let slot = self.store.get(lane.0.as_ref(), now.mono)?;
            let current = slot
                .variants()
                .iter()
                .find(|other| other.variant == *variant)?;
            (!Arc::ptr_eq(current, entry)).then_some(())
        };
        let joined = self.table.join(
            lane,
            &ask,
            |_| Some(()),
            look_again,
            || self.trip(&errand, None),
        );
        if let Joined::Lead(trip, seat) = joined {
            self.take_off(errand, trip, Some(seat));
        }
    }

    /// Evicts stored pages to make room, off the workers' threads. One at a time: who waited for another's eviction has
    /// its room.
    async fn make_room(self: &Arc<Self>) {
        let Ok(_alone) = self.shedding.try_lock() else {
            let _done = self.shedding.lock().await;
            return;
        };
        let fetcher = Arc::clone(self);
        // A lost worker only means that no room was made.
        let _ = tokio::task::spawn_blocking(move || fetcher.store.shed()).await;
    }

    /// Memory for a whole body, unless what is on its way or held by readers would then take half of all.
    fn allowance(&self, bytes: usize) -> Option<Charge> {
        let fits = self.store.outside() + bytes <= self.memory.cap() / 2;
        fits.then(|| self.memory.charge_modestly(bytes)).flatten()
    }

    /// Whether what is on its way or held by readers takes half of the memory: then nothing more is kept whole.
    fn is_crowded(&self) -> bool {
        self.store.outside() > self.memory.cap() / 2
    }

    /// A trip and the generation it belongs to.
    fn trip(&self, errand: &Errand, window: Option<usize>) -> (Arc<Trip>, u64) {
        debug_assert_eq!(errand.single_reader, window.is_some());
        let begun = window.is_none().then(|| self.store.begin());
        let generation = begun.as_ref().map_or(0, Begun::generation);
        let trip = Trip {
            flight: Flight::new(&self.memory, clock::instant(), generation, window),
            client: errand.client,
            others: AtomicUsize::new(0),
            spare: Mutex::default(),
            stored: errand.stored.clone(),
            _begun: begun,
        };
        (Arc::new(trip), generation)
    }

    fn take_off(self: &Arc<Self>, errand: Errand, trip: Arc<Trip>, seat: Option<Seat>) {
        // With a page to stand in, a fetch outlives its client, who may have been served that.
        let filler = Filler::new(
            &trip.flight,
            !errand.single_reader || errand.stored.is_some(),
        );
        let flying = Flying::begin(self);
        let fetcher = Arc::clone(self);
        tokio::spawn(async move {
            fly::fly(&fetcher, errand, filler, &trip, seat).await;
            drop(flying);
        });
    }
}

/// What a request has seen before it boards.
#[derive(Clone)]
pub struct Seen {
    pub now: Now,
    pub entry: Option<Arc<Entry>>,
    pub presumed: Option<Arc<[http::HeaderName]>>,
    /// In which generation it began.
    pub since: u64,
    /// Flights of an earlier one are not for it.
    pub at_least: u64,
}

impl Seen {
    /// What it was told was fetched before a purge that came before this request: that is not for it.
    pub fn look_for_newer(&mut self) {
        self.at_least = self.since;
        self.now = clock::now();
    }

    /// Whether a purge of one of these tags forbids to tell this request of what was fetched in `generation`.
    pub fn forbids(&self, tags: &Set, generation: u64) -> bool {
        self.since > generation && is_outdated(generation, tags.epoch().latest(), self.since)
    }

    /// The page varies on these fields, it turned out: look with them, and from now on.
    pub fn look_for(&mut self, names: Arc<[http::HeaderName]>) {
        self.presumed = Some(names);
        self.now = clock::now();
    }
}

/// The normalised values by which a request selects its variant.
pub fn vary_values(names: &[http::HeaderName], fields: &dyn Fields, sent: &AsSent) -> Box<[u8]> {
    let mut out = Vec::new();
    vary::select(names, fields, sent, &mut out);
    out.into()
}

/// Counts a flight while it lasts, however it ends.
struct Flying(Arc<Fetcher>);

impl Flying {
    fn begin(fetcher: &Arc<Fetcher>) -> Flying {
        fetcher.counts.flying.fetch_add(1, Ordering::Relaxed);
        Flying(Arc::clone(fetcher))
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.0.counts.flying.fetch_sub(1, Ordering::Relaxed);
    }
}
