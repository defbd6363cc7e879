//! The flight table: who fetches a page, who follows, who goes alone.
//!
//! For one key, class and variant there is at most one *joinable* flight. What is kept per lane (key and class):
//! the flights that may be joined, and the hit-for-miss marks that say "the last answer could not be shared, don't
//! wait for each other". The table knows nothing of bytes or sockets; its locks come from [`super::sync`], so that a
//! model checker can drive it through every interleaving.
//!
//! What it does not know: whether a flight will succeed. A leader holds a [`Ticket`]; dropping it, for whatever
//! reason, takes the flight out of the table.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash};

use http::HeaderName;

use super::sync::{Arc, AtomicU64, Mutex, Ordering};

const SHARDS: usize = 16;
/// Marks one page may have, one a variant; the oldest gives way.
const MARKS_PER_LANE: usize = 32;
/// What a mark takes beside its key and values, in bytes.
const MARK_WEIGHT: usize = 320;

/// Request fields an answer depends on, and their normalised values in one request (RFC 9111 §4.1). No names: every
/// request matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variant {
    pub names: Arc<[HeaderName]>,
    pub values: Box<[u8]>,
}

/// One request at the table.
pub struct Ask<'a> {
    /// Milliseconds, monotonic.
    pub now: u64,
    /// The key's generation: flights of an earlier one are not for this request.
    pub generation: u64,
    /// Under which routes and upstreams it is made: flights and marks of others are not for it either.
    pub reign: u64,
    /// When the key was purged: marks from before are void.
    pub purged: u64,
    /// The fields its page is known to vary on, if any answer told.
    pub presumed: Option<Arc<[HeaderName]>>,
    /// This request's normalised values of the given fields.
    pub select: &'a dyn Fn(&[HeaderName]) -> Box<[u8]>,
}

/// Where a request found itself.
pub enum Joined<K: Eq + Hash + Clone, F, T, R> {
    /// A flight is under way, and this is how it was boarded.
    Follow(Arc<F>, R),
    /// Nobody is fetching it: this request's flight is now in the table.
    Lead(Arc<F>, Ticket<K, F>),
    /// A hit-for-miss mark holds: go to the origin for oneself.
    Alone,
    /// It was there after all.
    Found(T),
}

/// The table. `K` is key and class, `F` the flight.
pub struct Table<K, F> {
    shards: Box<[Mutex<Shard<K, F>>]>,
    hasher: foldhash::fast::RandomState,
    next_id: AtomicU64,
    weight_per_shard: usize,
}

struct Shard<K, F> {
    lanes: HashMap<K, Lane<F>, foldhash::fast::RandomState>,
    /// Marks in the order they were made, with their bytes, for the bound. Some may be gone already.
    order: VecDeque<(K, u64, usize)>,
    weight: usize,
}

struct Lane<F> {
    flights: Vec<Filed<F>>,
    marks: Vec<Mark>,
}

struct Filed<F> {
    id: u64,
    generation: u64,
    reign: u64,
    /// Until when, in milliseconds, its answer may be taken without asking again.
    until: u64,
    /// Before the head: what it is presumed to be, if anything. After it: what it is.
    variant: Option<Variant>,
    flight: Arc<F>,
}

struct Mark {
    id: u64,
    reign: u64,
    generation: u64,
    variant: Option<Variant>,
    since: u64,
    until: u64,
    /// The flight that asks again after the mark ended.
    probe: Option<u64>,
}

impl<K: Eq + Hash + Clone, F> Table<K, F> {
    /// A table that keeps at most about `marks` bytes of hit-for-miss marks.
    pub fn new(marks: usize) -> Arc<Table<K, F>> {
        let shard = || {
            Mutex::new(Shard {
                lanes: HashMap::default(),
                order: VecDeque::new(),
                weight: 0,
            })
        };
        Arc::new(Table {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: foldhash::fast::RandomState::default(),
            next_id: AtomicU64::new(1),
            weight_per_shard: marks / SHARDS,
        })
    }

    /// Seats a request: with a flight under way that `board` boards, alone under a mark, with what `look_again` finds, or
    /// as the leader of the flight that `make` makes, with its generation.
    pub fn join<T, R>(
        self: &Arc<Self>,
        key: &K,
        ask: &Ask,
        board: impl FnOnce(&Arc<F>) -> Option<R>,
        look_again: impl FnOnce() -> Option<T>,
        make: impl FnOnce() -> (Arc<F>, u64),
    ) -> Joined<K, F, T, R> {
        let mut shard = self.shard(key).lock();
        let selected = Selected::by(ask);
        let lane = shard.lanes.entry(key.clone()).or_insert_with(Lane::empty);
        lane.forget_old_marks(ask.now, ask.purged);
        lane.flights.retain(|filed| ask.now < filed.until);
        if let Some(flight) = lane.joinable(ask, &selected) {
            // Under a mark nobody waits: the last answer could not be shared, and somebody is asking already. Nor can one
            // board a flight that has let its start go.
            let marked = lane.mark(&selected).is_some();
            return match board(&flight).filter(|_| !marked) {
                Some(boarded) => Joined::Follow(flight, boarded),
                None => Joined::Alone,
            };
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if let Some(mark) = lane.mark(&selected) {
            if ask.now < mark.until || mark.probe.is_some() {
                return Joined::Alone;
            }
            mark.probe = Some(id);
        }
        if let Some(found) = look_again() {
            if let Some(mark) = lane.mark(&selected) {
                mark.probe = None;
            }
            shard.tidy(key);
            return Joined::Found(found);
        }
        let variant = ask.presumed.clone().map(|names| Variant {
            values: (ask.select)(&names),
            names,
        });
        let (flight, generation) = make();
        lane.flights.push(Filed {
            id,
            generation,
            reign: ask.reign,
            until: u64::MAX,
            variant,
            flight: Arc::clone(&flight),
        });
        Joined::Lead(
            flight,
            Ticket {
                table: Arc::clone(self),
                key: key.clone(),
                id,
                reign: ask.reign,
                generation,
            },
        )
    }

    /// Flights that can be joined and lanes that are remembered, for gauges and tests.
    pub fn len(&self) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(flights, lanes), shard| {
            let shard = shard.lock();
            let inside: usize = shard.lanes.values().map(|lane| lane.flights.len()).sum();
            (flights + inside, lanes + shard.lanes.len())
        })
    }

    /// Hit-for-miss marks that are remembered, ended ones too.
    pub fn marks(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| {
                shard
                    .lock()
                    .lanes
                    .values()
                    .map(|lane| lane.marks.len())
                    .sum::<usize>()
            })
            .sum()
    }

    /// Forgets the marks of a page that was purged.
    pub fn forget_marks(&self, key: &K) {
        let mut shard = self.shard(key).lock();
        if let Some(lane) = shard.lanes.get_mut(key) {
            lane.marks.clear();
        }
        shard.tidy(key);
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, F>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

impl<K: Eq + Hash + Clone, F> Shard<K, F> {
    fn tidy(&mut self, key: &K) {
        if self
            .lanes
            .get(key)
            .is_some_and(|lane| lane.flights.is_empty() && lane.marks.is_empty())
        {
            self.lanes.remove(key);
        }
    }

    fn close(&mut self, key: &K, id: u64) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.flights.retain(|filed| filed.id != id);
            for mark in lane.marks.iter_mut().filter(|mark| mark.probe == Some(id)) {
                mark.probe = None;
            }
        }
        self.tidy(key);
    }

    /// Forgets the oldest marks over `most` bytes.
    fn bound(&mut self, most: usize) {
        while self.weight > most {
            let Some((key, id, weight)) = self.order.pop_front() else {
                return;
            };
            self.weight -= weight;
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.marks.retain(|mark| mark.id != id);
            }
            self.tidy(&key);
        }
    }
}

impl<F> Lane<F> {
    fn empty() -> Lane<F> {
        Lane {
            flights: Vec::new(),
            marks: Vec::new(),
        }
    }

    fn joinable(&self, ask: &Ask, selected: &Selected) -> Option<Arc<F>> {
        self.flights
            .iter()
            .filter(|filed| filed.generation >= ask.generation && filed.reign == ask.reign)
            .find(|filed| selected.matches(filed.variant.as_ref()))
            .map(|filed| Arc::clone(&filed.flight))
    }

    fn mark(&mut self, selected: &Selected) -> Option<&mut Mark> {
        let mut marks = self.marks.iter_mut();
        marks.find(|mark| {
            mark.reign == selected.ask.reign && selected.matches(mark.variant.as_ref())
        })
    }

    /// A mark is for a page that is asked for all the time. Where nobody came for as long as it held, the next crowd waits
    /// for one answer again.
    fn forget_old_marks(&mut self, now: u64, purged: u64) {
        self.marks.retain(|mark| {
            mark.generation >= purged
                && (mark.probe.is_some()
                    || now < mark.until.saturating_add(mark.until - mark.since))
        });
    }
}

/// What a request selects by, worked out once for each set of fields.
struct Selected<'a> {
    ask: &'a Ask<'a>,
    known: RefCell<Vec<Variant>>,
}

impl<'a> Selected<'a> {
    fn by(ask: &'a Ask<'a>) -> Selected<'a> {
        Selected {
            ask,
            known: RefCell::default(),
        }
    }

    /// An unknown variant matches every request; it may turn out otherwise when the head comes.
    fn matches(&self, variant: Option<&Variant>) -> bool {
        let Some(variant) = variant.filter(|variant| !variant.names.is_empty()) else {
            return true;
        };
        let mut known = self.known.borrow_mut();
        if let Some(known) = known.iter().find(|known| known.names == variant.names) {
            return known.values == variant.values;
        }
        let values = (self.ask.select)(&variant.names);
        let matches = values == variant.values;
        known.push(Variant {
            names: Arc::clone(&variant.names),
            values,
        });
        matches
    }
}

/// A leader's seat. Dropping it takes the flight out of the table.
pub struct Ticket<K: Eq + Hash + Clone, F> {
    table: Arc<Table<K, F>>,
    key: K,
    id: u64,
    reign: u64,
    generation: u64,
}

/// What a flight may still do once its head told its variant.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Settled {
    /// Later requests of that variant join it.
    Joinable,
    /// Another flight of the same variant was first: this one serves those who are on it.
    Doubled,
    /// It had been closed already.
    Closed,
}

impl<K: Eq + Hash + Clone, F> Ticket<K, F> {
    /// The head came and can be shared until the moment `until`: files the flight under its true variant, and lifts the
    /// mark it probed for.
    pub fn settle(&self, variant: Variant, until: u64) -> Settled {
        let mut shard = self.table.shard(&self.key).lock();
        let Some(lane) = shard.lanes.get_mut(&self.key) else {
            return Settled::Closed;
        };
        lane.marks.retain(|mark| mark.probe != Some(self.id));
        let Some(at) = lane.flights.iter().position(|filed| filed.id == self.id) else {
            return Settled::Closed;
        };
        let (generation, reign) = (lane.flights[at].generation, lane.flights[at].reign);
        let doubled = lane.flights.iter().any(|other| {
            other.id != self.id
                && other.generation >= generation
                && other.reign == reign
                && other.variant.as_ref() == Some(&variant)
        });
        if doubled {
            lane.flights.swap_remove(at);
            return Settled::Doubled;
        }
        lane.flights[at].until = until;
        // What began earlier is not for everybody any more: this one is.
        let id = self.id;
        let is_other =
            |filed: &Filed<F>| filed.id == id || filed.variant.as_ref() != Some(&variant);
        lane.flights.retain(is_other);
        if let Some(filed) = lane.flights.iter_mut().find(|filed| filed.id == id) {
            filed.variant = Some(variant);
        }
        Settled::Joinable
    }

    /// From now on nobody joins it.
    pub fn close(&self) {
        self.table.shard(&self.key).lock().close(&self.key, self.id);
    }

    /// From now on nobody joins it, if `idle` says that nobody is on it. Whether that is so.
    pub fn close_if(&self, idle: impl FnOnce() -> bool) -> bool {
        let mut shard = self.table.shard(&self.key).lock();
        let idle = idle();
        if idle {
            shard.close(&self.key, self.id);
        }
        idle
    }

    /// The answer cannot be shared: from `now` until the moment `until`, requests of that variant (of any, if `None`)
    /// don't wait for each other. `weight`: what a mark of this page takes, in bytes.
    pub fn mark(&self, variant: Option<Variant>, now: u64, until: u64, weight: usize) {
        let generation = self.generation;
        let id = self.table.next_id.fetch_add(1, Ordering::Relaxed);
        let values = variant.as_ref().map_or(0, |variant| variant.values.len());
        let weight = weight + values + MARK_WEIGHT;
        let mut shard = self.table.shard(&self.key).lock();
        let lane = shard
            .lanes
            .entry(self.key.clone())
            .or_insert_with(Lane::empty);
        lane.flights.retain(|filed| filed.id != self.id);
        let reign = self.reign;
        let is_its = |mark: &Mark| mark.variant == variant && mark.reign == reign;
        lane.marks
            .retain(|mark| mark.probe != Some(self.id) && !is_its(mark));
        if lane.marks.len() == MARKS_PER_LANE {
            lane.marks.remove(0);
        }
        lane.marks.push(Mark {
            id,
            reign,
            generation,
            variant,
            since: now,
            until,
            probe: None,
        });
        shard.order.push_back((self.key.clone(), id, weight));
        shard.weight += weight;
        let most = self.table.weight_per_shard;
        shard.bound(most);
    }
}

impl<K: Eq + Hash + Clone, F> Drop for Ticket<K, F> {
    fn drop(&mut self) {
        self.close();
    }
}
