//! The store: what is kept, found by key, evicted by worth.
//!
//! moka (W-TinyLFU, weighed in bytes) decides what stays. Two things stand around it. In front, a small table of each
//! worker's hottest pages, because moka logs every read through one bounded channel. Behind, an account of generations:
//! an invalidation bumps its key's, and what was fetched under an earlier one is not stored. What many pages are purged by
//! at once is noted beside them ([`super::purges`]), and found out when they are next asked for ([`purging`]).

mod purging;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use http::HeaderName;
use moka::notification::RemovalCause;
use moka::sync::Cache;
use parking_lot::Mutex;

use super::entry::Entry;
use super::generation::Begun;
use super::key::{Key, KeyHasher, KeyRef};
use super::memory::Memory;
use super::purges::Purges;
use crate::clock;
use crate::rules::encoding::Coding;
use crate::rules::purge::{Standing, place};
use crate::rules::time::Moment;
use purging::Counts;
pub use purging::Purged;

/// Stripes of generations and of the write lock. Two keys that share one share invalidations of flights in the air:
/// the other's answer is served but not stored, once.
const STRIPES: usize = 16_384;
/// Pages in a worker's hot table.
const HOT: usize = 512;
/// One in so many hot hits is told to moka, so that it knows them as popular.
const TELL_EVERY: u8 = 32;
/// A page refused at admission stays findable this long, in milliseconds: the crowd that waited for it comes back.
const FINDABLE: u64 = 1_000;
/// How many such pages, at most.
const REFUSED_PAGES: usize = 256;

/// All variants of one page. Immutable: a new variant makes a new slot, and the old one is dead.
#[derive(Debug)]
pub struct Slot {
    key: Key,
    /// Newest first.
    variants: Vec<Arc<Entry>>,
    dead: AtomicBool,
    /// When it was read last, in milliseconds, to the second.
    touched: AtomicU64,
    /// When, and under which generation of its key, it was put.
    put: Moment,
    generation: u64,
    /// About how often the page was found, in this slot and those before it.
    found: AtomicU64,
    /// The last purge that it was judged by.
    judged: AtomicU64,
}

impl Slot {
    /// The variant for a request whose normalised values of given fields `select` tells.
    pub fn find(&self, mut select: impl FnMut(&[HeaderName]) -> Box<[u8]>) -> Option<&Arc<Entry>> {
        let first = self.variants.first()?;
        if first.variant.names.is_empty() {
            return Some(first);
        }
        let mut values = select(&first.variant.names);
        let mut names = &first.variant.names;
        self.variants.iter().find(|entry| {
            if entry.variant.names != *names {
                names = &entry.variant.names;
                values = select(names);
            }
            entry.variant.values == values
        })
    }

    /// The fields that the newest answer varied on.
    pub fn varies_on(&self) -> Option<Arc<[HeaderName]>> {
        self.variants
            .first()
            .map(|entry| Arc::clone(&entry.variant.names))
    }

    pub fn variants(&self) -> &[Arc<Entry>] {
        &self.variants
    }

    fn weight(&self) -> u32 {
        self.variants
            .iter()
            .fold(self.key.len() as u32, |sum, entry| {
                sum.saturating_add(entry.weight())
            })
    }

    fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    fn touch(&self, now: Moment) {
        let second = now.0 / 1_000 * 1_000;
        if self.touched.load(Ordering::Relaxed) != second {
            self.touched.store(second, Ordering::Relaxed);
        }
    }
}

/// A page that is asked for, as operators see it.
#[derive(Debug, Clone)]
pub struct Warm {
    pub key: Key,
    /// About how often it was found: what each worker found last is not counted yet.
    pub found: u64,
    pub bytes: u64,
    pub variants: usize,
}

/// Whether an entry was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Yes,
    /// The page was invalidated after the fetch began, or comes from elsewhere by now.
    Outdated,
}

type Refused = Arc<Mutex<HashMap<u64, Arc<Slot>>>>;

/// See the module.
pub struct Store {
    id: u64,
    pages: Cache<Key, Arc<Slot>, KeyHasher>,
    refused: Refused,
    stripes: Arc<[Stripe]>,
    memory: Arc<Memory>,
    max_variants: usize,
    evicted: Arc<AtomicU64>,
    invalidated: AtomicU64,
    /// Of whoever may keep anything here.
    reign: AtomicU64,
    purges: Purges,
    counts: Counts,
}

#[derive(Default)]
struct Stripe {
    generation: AtomicU64,
    write: Mutex<()>,
}

impl Store {
    /// A store that fills at most three quarters of `memory`; the rest is for what is on its way.
    pub fn new(memory: Arc<Memory>, max_variants: usize) -> Store {
        Store::keyed(memory, max_variants, None)
    }

    /// The same with a key that tags are hashed with.
    pub fn keyed(memory: Arc<Memory>, max_variants: usize, key: Option<[u64; 2]>) -> Store {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let refused = Refused::default();
        let noted = Arc::clone(&refused);
        let stripes: Arc<[Stripe]> = (0..STRIPES).map(|_| Stripe::default()).collect();
        let watched = Arc::clone(&stripes);
        let evicted = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&evicted);
        let pages = Cache::builder()
            .max_capacity((memory.cap() / 4 * 3) as u64)
            .weigher(|_, slot: &Arc<Slot>| slot.weight())
            .eviction_listener(move |_, slot: Arc<Slot>, cause| {
                if cause != RemovalCause::Replaced {
                    slot.variants.iter().for_each(|entry| entry.leave());
                }
                if cause == RemovalCause::Size {
                    counted.fetch_add(1, Ordering::Relaxed);
                    note_refused(&noted, &watched, slot);
                }
            })
            .build_with_hasher(KeyHasher::default());
        Store {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            pages,
            refused,
            stripes,
            purges: Purges::new(&memory, key),
            memory,
            max_variants,
            evicted,
            invalidated: AtomicU64::new(0),
            reign: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// From now on nothing is kept that was asked for under an earlier reign: it came from elsewhere.
    pub fn reigns(&self, reign: u64) {
        self.reign.fetch_max(reign, Ordering::AcqRel);
    }

    /// The page under `key`.
    pub fn get(&self, key: KeyRef, now: Moment) -> Option<Arc<Slot>> {
        let slot = hot(self.id, key).or_else(|| {
            let slot = self
                .pages
                .get(&key)
                .or_else(|| self.just_refused(key, now))?;
            warm(self.id, key, &slot);
            Some(slot)
        })?;
        let latest = self.purges.latest();
        if slot.judged.load(Ordering::Relaxed) == latest {
            slot.touch(now);
            return Some(slot);
        }
        let slot = self.judge(slot, latest, now)?;
        slot.touch(now);
        Some(slot)
    }

    /// The page under `key`, for those who only look whether it is there: nothing is made of it.
    pub fn peek(&self, key: KeyRef, now: Moment) -> Option<Arc<Slot>> {
        let slot = self.pages.get(&key);
        let slot = slot.or_else(|| self.just_refused(key, now))?;
        let latest = self.purges.latest();
        match slot.judged.load(Ordering::Relaxed) == latest {
            true => Some(slot),
            false => self.judge(slot, latest, now),
        }
    }

    /// Tells of each page when it was asked for last.
    pub fn each_touched(&self, mut tell: impl FnMut(&Key, Moment)) {
        for (key, slot) in &self.pages {
            tell(&key, Moment(slot.touched.load(Ordering::Relaxed)));
        }
    }

    /// Begins the next generation, for a purge of what is kept elsewhere too.
    pub fn next_generation(&self) -> u64 {
        self.purges.generations.next()
    }

    /// A fetch begins: what it brings is of the generation that is now the current one.
    pub fn begin(&self) -> Begun {
        self.purges.generations.begin()
    }

    /// The generation in which a request begins that is made now.
    pub fn current(&self) -> u64 {
        self.purges.generations.current()
    }

    /// The generation of `key`: what began in an earlier one is not to be told of it.
    pub fn generation(&self, key: KeyRef) -> u64 {
        let stripe = self.stripe(key.hash()).generation.load(Ordering::Acquire);
        stripe
            .max(self.purges.covered(place(key.bytes())).latest())
            .max(self.purges.generations.floor())
    }

    /// When `key` was last purged together with others, whatever their tags; 0 if that is long ago.
    pub fn purged(&self, key: KeyRef) -> u64 {
        self.purges.covered(place(key.bytes())).latest()
    }

    /// Keeps `entry`, unless its page was invalidated or purged since its fetch began, or its reign is over; marked stale, if it was
    /// purged softly.
    pub fn put(&self, key: &Key, entry: Arc<Entry>, reign: u64, now: Moment) -> Kept {
        let newer = |other: &Arc<Entry>| {
            other.variant == entry.variant
                && (other.generation, other.stored) > (entry.generation, entry.stored)
        };
        match self.put_unless(key, &entry, reign, now, newer) {
            Some(_) => Kept::Yes,
            None => Kept::Outdated,
        }
    }

    /// The same for one that was kept elsewhere: whatever is stored of it is newer. Gives the page, for there may be no room to keep
    /// it.
    pub fn restore(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
        reign: u64,
        now: Moment,
    ) -> Option<Arc<Slot>> {
        let same = |other: &Arc<Entry>| {
            other.variant == entry.variant
                || other.variant.names.is_empty()
                || entry.variant.names.is_empty()
        };
        self.put_unless(key, entry, reign, now, same)
    }

    fn put_unless(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
        reign: u64,
        now: Moment,
        is_better: impl Fn(&Arc<Entry>) -> bool,
    ) -> Option<Arc<Slot>> {
        let stripe = self.stripe(key.hash());
        let _writing = stripe.write.lock();
        let generation = stripe.generation.load(Ordering::Acquire);
        let latest = self.purges.latest();
        // Under the lock: a page of the next reign is put after this one, or seen here.
        if entry.generation < generation.max(self.purges.generations.floor())
            || self.reign.load(Ordering::Acquire) > reign
        {
            return None;
        }
        match self.purges.left(place(key.as_ref().bytes()), entry) {
            Standing::Good => {}
            Standing::Stale => {
                entry.mark(now);
            }
            Standing::Gone => return None,
        }
        let before = self.current_slot(key, now);
        if before
            .as_ref()
            .is_some_and(|before| before.variants.iter().any(is_better))
        {
            return None;
        }
        let mut variants = vec![Arc::clone(entry)];
        if let Some(before) = before.as_ref().filter(|_| !entry.variant.names.is_empty()) {
            let others = before
                .variants
                .iter()
                .filter(|other| other.variant != entry.variant && !other.variant.names.is_empty());
            variants.extend(others.take(self.max_variants.saturating_sub(1)).cloned());
        }
        Some(self.replace(key, before, variants, generation, latest, now))
    }

    /// Adds a coding to `entry`, if that is still what is stored. Whether it is.
    pub fn encode(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
        coding: Coding,
        encoded: Arc<Entry>,
        now: Moment,
    ) -> bool {
        let stripe = self.stripe(key.hash());
        let _writing = stripe.write.lock();
        let Some(before) = self.pages.get(&key.as_ref()) else {
            return false;
        };
        if !before
            .variants
            .iter()
            .any(|other| Arc::ptr_eq(other, entry))
        {
            return false;
        }
        entry.encoded.add(coding, encoded);
        // The slot weighs more now.
        let (variants, generation) = (before.variants.clone(), before.generation);
        let judged = before.judged.load(Ordering::Relaxed);
        self.replace(key, Some(before), variants, generation, judged, now);
        true
    }

    /// Forgets one entry, if it is still what is stored.
    pub fn forget(&self, key: &Key, entry: &Arc<Entry>, now: Moment) {
        let stripe = self.stripe(key.hash());
        let _writing = stripe.write.lock();
        let Some(before) = self.pages.get(&key.as_ref()) else {
            return;
        };
        let left: Vec<Arc<Entry>> = before
            .variants
            .iter()
            .filter(|other| !Arc::ptr_eq(other, entry))
            .cloned()
            .collect();
        if left.len() == before.variants.len() {
            return;
        }
        if left.is_empty() {
            self.pages.invalidate(key);
            before.dead.store(true, Ordering::Release);
            return;
        }
        let (generation, judged) = (before.generation, before.judged.load(Ordering::Relaxed));
        self.replace(key, Some(before), left, generation, judged, now);
    }

    fn replace(
        &self,
        key: &Key,
        before: Option<Arc<Slot>>,
        variants: Vec<Arc<Entry>>,
        generation: u64,
        judged: u64,
        now: Moment,
    ) -> Arc<Slot> {
        let found = before.as_ref().map_or(0, |before| before.found());
        let slot = Arc::new(Slot {
            key: key.clone(),
            found: AtomicU64::new(found),
            variants,
            dead: AtomicBool::new(false),
            touched: AtomicU64::new(now.0),
            put: now,
            generation,
            judged: AtomicU64::new(judged),
        });
        self.refused.lock().remove(&key.hash());
        self.pages.insert(key.clone(), Arc::clone(&slot));
        if let Some(before) = before {
            before.dead.store(true, Ordering::Release);
            let stays =
                |entry: &Arc<Entry>| slot.variants.iter().any(|new| Arc::ptr_eq(new, entry));
            let left = before.variants.iter().filter(|entry| !stays(entry));
            left.for_each(|entry| entry.leave());
        }
        self.pages.run_pending_tasks();
        slot
    }

    /// Forgets the page and everything on its way to it (RFC 9111 §4.4).
    pub fn invalidate(&self, key: KeyRef) {
        let stripe = self.stripe(key.hash());
        let _writing = stripe.write.lock();
        self.next_of(stripe);
        self.invalidated.fetch_add(1, Ordering::Relaxed);
        self.remove(key);
    }

    /// From now on what began before is not told of the stripe's keys.
    fn next_of(&self, stripe: &Stripe) {
        let next = self.purges.generations.next();
        stripe.generation.store(next, Ordering::Release);
    }

    fn remove(&self, key: KeyRef) {
        if let Some(slot) = self.pages.remove(&key) {
            slot.dead.store(true, Ordering::Release);
        }
        if let Some(slot) = self.refused.lock().remove(&key.hash()) {
            slot.dead.store(true, Ordering::Release);
        }
    }

    /// Makes room for what is on its way: evicts pages, longest unread first and none that is being read, until the
    /// account is down to four fifths. Those read last stay, up to an eighth of the cap: what slow readers hold is no
    /// reason to have nothing for the others. Blocking.
    pub fn shed(&self) {
        let goal = self.memory.cap() / 5 * 4;
        let mut need = self.memory.used().saturating_sub(goal);
        if need == 0 {
            return;
        }
        self.refused.lock().clear();
        let is_read = |entry: &Arc<Entry>| Arc::strong_count(entry) > 1;
        // Of those read in the same second the newest goes first: the others have been asked for again.
        let mut pages: Vec<(u64, Reverse<Moment>, Arc<Slot>)> = self
            .pages
            .iter()
            .filter(|(_, slot)| !slot.variants.iter().any(is_read))
            .map(|(_, slot)| {
                let touched = slot.touched.load(Ordering::Relaxed) / 1_000;
                (touched, Reverse(slot.put), slot)
            })
            .collect();
        pages.sort_unstable_by_key(|(touched, put, _)| (*touched, *put));
        let unread: usize = pages.iter().map(|(.., slot)| slot.weight() as usize).sum();
        need = need.min(unread.saturating_sub(self.memory.cap() / 8));
        for (.., slot) in pages {
            if need == 0 {
                break;
            }
            // Somebody may have come meanwhile.
            if slot.variants.iter().any(Entry::is_read) {
                continue;
            }
            let stripe = self.stripe(slot.key.hash());
            let _writing = stripe.write.lock();
            if !self
                .pages
                .get(&slot.key.as_ref())
                .is_some_and(|current| Arc::ptr_eq(&current, &slot))
            {
                continue;
            }
            self.pages.invalidate(&slot.key);
            slot.dead.store(true, Ordering::Release);
            self.evicted.fetch_add(1, Ordering::Relaxed);
            need = need.saturating_sub(slot.weight() as usize);
        }
        self.pages.run_pending_tasks();
    }

    /// The pages that were found most often, those first. Blocking: it looks at all.
    pub fn warmest(&self, most: usize) -> Vec<Warm> {
        let mut warmest: Vec<(u64, Arc<Slot>)> = Vec::new();
        let keep = |warmest: &mut Vec<(u64, Arc<Slot>)>| {
            warmest.sort_unstable_by_key(|(found, _)| Reverse(*found));
            warmest.truncate(most);
        };
        for (_, slot) in &self.pages {
            warmest.push((slot.found(), slot));
            if warmest.len() >= 2 * most + 64 {
                keep(&mut warmest);
            }
        }
        keep(&mut warmest);
        let told = |(found, slot): (u64, Arc<Slot>)| Warm {
            key: slot.key.clone(),
            found,
            bytes: slot.weight().into(),
            variants: slot.variants.len(),
        };
        warmest.into_iter().map(told).collect()
    }

    /// The keys of all pages. Blocking: it looks at all.
    pub fn keys(&self) -> Vec<Key> {
        self.pages
            .iter()
            .map(|(_, slot)| slot.key.clone())
            .collect()
    }

    /// Bytes that are on their way or held by readers, but not stored.
    pub fn outside(&self) -> usize {
        self.memory
            .used()
            .saturating_sub(self.pages.weighted_size() as usize)
    }

    /// Pages and their bytes, for gauges.
    pub fn size(&self) -> (u64, u64) {
        (self.pages.entry_count(), self.pages.weighted_size())
    }

    /// Pages that made room for others.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Invalidations of keys, whether anything was stored under them or not.
    pub fn invalidated(&self) -> u64 {
        self.invalidated.load(Ordering::Relaxed)
    }

    fn just_refused(&self, key: KeyRef, now: Moment) -> Option<Arc<Slot>> {
        let refused = self.refused.lock();
        let slot = refused.get(&key.hash())?;
        let generation = self.stripe(key.hash()).generation.load(Ordering::Acquire);
        let current = generation == slot.generation;
        let found =
            current && now.0 < slot.put.0 + FINDABLE && slot.key.as_ref().bytes() == key.bytes();
        found.then(|| Arc::clone(slot))
    }

    fn stripe(&self, hash: u64) -> &Stripe {
        stripe(&self.stripes, hash)
    }
}

/// Keeps a page that was refused at admission for a second, unless it has been invalidated meanwhile.
fn note_refused(refused: &Refused, stripes: &[Stripe], slot: Arc<Slot>) {
    let now = clock::now().mono;
    let expired = |slot: &Slot| now.0 >= slot.put.0 + FINDABLE;
    let current = stripe(stripes, slot.key.hash())
        .generation
        .load(Ordering::Acquire)
        == slot.generation;
    let mut refused = refused.lock();
    refused.retain(|_, slot| !expired(slot));
    if expired(&slot)
        || !current
        || slot.dead.load(Ordering::Acquire)
        || refused.len() >= REFUSED_PAGES
    {
        slot.dead.store(true, Ordering::Release);
        return;
    }
    refused.insert(slot.key.hash(), slot);
}

fn stripe(stripes: &[Stripe], hash: u64) -> &Stripe {
    &stripes[hash as usize % STRIPES]
}

/// A worker's hottest pages, held weakly: eviction frees them all the same.
struct HotTable {
    store: u64,
    places: Vec<(u64, Weak<Slot>, u8)>,
}

thread_local! {
    static HOT_PAGES: RefCell<HotTable> = const { RefCell::new(HotTable { store: 0, places: Vec::new() }) };
}

fn hot(store: u64, key: KeyRef) -> Option<Arc<Slot>> {
    HOT_PAGES.with_borrow_mut(|table| {
        if table.store != store {
            return None;
        }
        let (hash, slot, left) = &mut table.places[key.hash() as usize % HOT];
        if *hash != key.hash() || *left == 0 {
            return None;
        }
        let slot = slot.upgrade()?;
        if slot.dead.load(Ordering::Acquire) || slot.key.as_ref().bytes() != key.bytes() {
            return None;
        }
        *left -= 1;
        Some(slot)
    })
}

fn warm(store: u64, key: KeyRef, slot: &Arc<Slot>) {
    HOT_PAGES.with_borrow_mut(|table| {
        if table.store != store {
            table.store = store;
            table.places.clear();
            table.places.resize_with(HOT, || (0, Weak::new(), 0));
        }
        let place = &mut table.places[key.hash() as usize % HOT];
        let (_, before, left) = place;
        // What was found here goes to the page that had the place, and this time to the one that gets it.
        if let Some(before) = before.upgrade() {
            let found = TELL_EVERY - *left;
            before.found.fetch_add(found.into(), Ordering::Relaxed);
        }
        slot.found.fetch_add(1, Ordering::Relaxed);
        *place = (key.hash(), Arc::downgrade(slot), TELL_EVERY);
    });
}
