//! Purging: pages judged by what was noted, one at a time when they are asked for and all of them in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Slot, Store};
use crate::cache::entry::Entry;
use crate::cache::key::{Key, KeyRef};
use crate::cache::tags::Tags;
use crate::clock;
use crate::rules::purge::{Kind, Purge, Standing, What, place};
use crate::rules::time::Moment;

/// How long a purge may count what it takes: it is in effect only after that.
const COUNTS_FOR: Duration = Duration::from_millis(50);
/// And a dry run, which nobody waits for but who asked.
const WEIGHS_FOR: Duration = Duration::from_secs(2);
/// Who was asked for so lately is hot.
const LATELY: Duration = Duration::from_secs(60);

/// What a purge took, or would take.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Purged {
    /// Entries, each variant one.
    pub objects: u64,
    /// Those of them that were asked for, or stored, in the last minute; told by dry runs only.
    pub hot: Option<u64>,
    /// About how often their pages were found since they are stored; likewise.
    pub hits: Option<u64>,
    /// There was no time to count them all.
    pub at_least: bool,
}

/// What purges did, for counters.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By kind, hard and soft.
    purges: [[AtomicU64; 2]; Kind::ALL.len()],
    objects: AtomicU64,
}

impl Store {
    /// Purges, or only tells what would be. When it returns nothing that was stored or under way before is told to who
    /// asks from then on; but for pages that are marked stale, if it is a soft one.
    pub fn purge(&self, purge: &Purge, now: Moment) -> Purged {
        match purge.dry_run {
            true => self.weigh(&purge.what, WEIGHS_FOR, now),
            false => self.purge_counting(purge, COUNTS_FOR, now),
        }
    }

    /// The same without the time that it takes to count.
    pub fn purge_uncounted(&self, purge: &Purge, now: Moment) {
        self.purge_counting(purge, Duration::ZERO, now);
    }

    fn purge_counting(&self, purge: &Purge, time: Duration, now: Moment) -> Purged {
        let purged = match (&purge.what, purge.what.start()) {
            (What::Tag(tag), _) => Purged {
                objects: self.purges.tag(tag, purge.soft),
                ..Purged::default()
            },
            (what, Some(start)) => {
                let weighed = self.weigh(what, time, now);
                if self.purges.is_full() {
                    self.sweep(now);
                }
                self.purges.start(&start, purge.soft);
                Purged {
                    objects: weighed.objects,
                    at_least: weighed.at_least,
                    ..Purged::default()
                }
            }
            (page, None) => self.purge_page(page, purge.soft, now),
        };
        let kind = purge.what.kind() as usize;
        self.counts.purges[kind][usize::from(purge.soft)].fetch_add(1, Ordering::Relaxed);
        purged
    }

    /// Purges of a kind so far.
    pub fn purges_of(&self, kind: Kind, soft: bool) -> u64 {
        self.counts.purges[kind as usize][usize::from(soft)].load(Ordering::Relaxed)
    }

    /// Entries that were found purged so far, and taken out or marked.
    pub fn purged_entries(&self) -> u64 {
        self.counts.objects.load(Ordering::Relaxed)
    }

    /// What answers are tagged by.
    pub fn tags(&self) -> &Arc<Tags> {
        &self.purges.tags
    }

    /// Judges all that is stored, and frees what is purged; then what was noted of purges is not needed any more. Takes
    /// as long as there are pages; holds up nobody.
    pub fn sweep(&self, now: Moment) {
        let (latest, oldest) = (self.purges.latest(), self.purges.generations.oldest());
        let refused: Vec<_> = self.refused.lock().values().cloned().collect();
        let all = self.pages.iter().map(|(_, slot)| slot).chain(refused);
        for slot in all {
            if slot.dead.load(Ordering::Acquire) {
                // Another has its place, which may not be among those seen here.
                let stripe = self.stripe(slot.key.hash());
                let _writing = stripe.write.lock();
                self.current_slot(&slot.key, now);
            } else if slot.judged.load(Ordering::Relaxed) != latest {
                self.judge(slot, latest, now);
            }
        }
        self.purges.forget(latest, oldest);
    }

    /// Whether no purge or invalidation has taken an entry since it was found.
    pub fn is_there(&self, key: &Key, entry: &Arc<Entry>) -> bool {
        let key = key.as_ref();
        if self.purges.left(place(key.bytes()), entry) == Standing::Gone {
            return false;
        }
        let generation = self.stripe(key.hash()).generation.load(Ordering::Acquire);
        let is_same = |other: &Arc<Entry>| Arc::ptr_eq(other, entry);
        let holds = |slot: Arc<Slot>| slot.variants.iter().any(is_same);
        // Another key's may have been meant.
        generation <= entry.generation || self.pages.get(&key).is_some_and(holds)
    }

    /// What purges up to `latest` have left of a slot.
    #[cold]
    pub(super) fn judge(&self, slot: Arc<Slot>, latest: u64, now: Moment) -> Option<Arc<Slot>> {
        if !self.is_any_gone(&slot, now) {
            slot.judged.store(latest, Ordering::Relaxed);
            return Some(slot);
        }
        let key = &slot.key;
        let _writing = self.stripe(key.hash()).write.lock();
        let refused = |held: &Arc<Slot>| Arc::ptr_eq(held, &slot);
        let mut all = self.refused.lock();
        if all.get(&key.hash()).is_some_and(refused) {
            all.remove(&key.hash());
            slot.dead.store(true, Ordering::Release);
        }
        drop(all);
        self.current_slot(key, now)
    }

    /// What is stored under `key` by what is known now. The stripe has to be locked.
    pub(super) fn current_slot(&self, key: &Key, now: Moment) -> Option<Arc<Slot>> {
        let slot = self.pages.get(&key.as_ref())?;
        let latest = self.purges.latest();
        if slot.judged.load(Ordering::Relaxed) == latest {
            return Some(slot);
        }
        if !self.is_any_gone(&slot, now) {
            slot.judged.store(latest, Ordering::Relaxed);
            return Some(slot);
        }
        let place = place(key.as_ref().bytes());
        let (left, gone): (Vec<_>, Vec<_>) = slot
            .variants
            .iter()
            .cloned()
            .partition(|entry| self.purges.left(place, entry) != Standing::Gone);
        self.counts
            .objects
            .fetch_add(gone.len() as u64, Ordering::Relaxed);
        if left.is_empty() {
            self.pages.invalidate(key);
            slot.dead.store(true, Ordering::Release);
            return None;
        }
        let generation = slot.generation;
        Some(self.replace(key, Some(slot), left, generation, latest, now))
    }

    /// Whether a purge has taken any of its variants; those that were purged softly are marked.
    fn is_any_gone(&self, slot: &Slot, now: Moment) -> bool {
        let place = place(slot.key.as_ref().bytes());
        let covered = self.purges.covered(place);
        let mut any = false;
        for entry in &slot.variants {
            let by_place = covered.leaves(entry.generation);
            match by_place.max(entry.tags.left(entry.generation)) {
                Standing::Good => {}
                Standing::Stale => self.mark(entry, now),
                Standing::Gone => any = true,
            }
        }
        any
    }

    fn mark(&self, entry: &Entry, now: Moment) {
        if entry.mark(now) {
            self.counts.objects.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn purge_page(&self, page: &What, soft: bool, now: Moment) -> Purged {
        let keys = page.keys();
        let each = keys.iter().flatten();
        Purged {
            objects: each
                .map(|key| self.purge_key(KeyRef::new(key), soft, now))
                .sum(),
            ..Purged::default()
        }
    }

    fn purge_key(&self, key: KeyRef, soft: bool, now: Moment) -> u64 {
        let stripe = self.stripe(key.hash());
        let _writing = stripe.write.lock();
        self.next_of(stripe);
        let slot = self.current_slot(&key.to_key(), now);
        let variants = slot.as_ref().map_or(&[][..], |slot| slot.variants());
        match soft {
            true => variants.iter().for_each(|entry| self.mark(entry, now)),
            false => {
                self.remove(key);
                let objects = variants.len() as u64;
                self.counts.objects.fetch_add(objects, Ordering::Relaxed);
            }
        }
        variants.len() as u64
    }

    /// What is stored of it, as far as that can be counted within `time`.
    fn weigh(&self, what: &What, time: Duration, now: Moment) -> Purged {
        let until = clock::instant() + time;
        let mut weighed = Purged {
            hot: Some(0),
            hits: Some(0),
            ..Purged::default()
        };
        if let Some(keys) = what.keys() {
            let slots = keys
                .iter()
                .filter_map(|key| self.pages.get(&KeyRef::new(key)));
            slots.for_each(|slot| weighed.add(self.meant(&slot, |_| true), &slot, now));
            return weighed;
        }
        let (start, tag) = match what {
            What::Tag(tag) => (Vec::new(), Some(self.purges.tags.hash(tag))),
            what => (what.start().unwrap_or_default(), None),
        };
        for (seen, (_, slot)) in self.pages.iter().enumerate() {
            if seen % 1024 == 1023 && clock::instant() > until {
                weighed.at_least = true;
                break;
            }
            if place(slot.key.as_ref().bytes()).starts_with(&start) {
                let has = |entry: &Entry| tag.is_none_or(|tag| entry.tags.has(tag));
                weighed.add(self.meant(&slot, has), &slot, now);
            }
        }
        if let What::Tag(tag) = what {
            // Their number is known.
            weighed.objects = self.purges.tags.answers(tag);
        }
        weighed
    }

    /// How many entries of a slot are such, and not purged already.
    fn meant(&self, slot: &Slot, is_such: impl Fn(&Entry) -> bool) -> u64 {
        let place = place(slot.key.as_ref().bytes());
        let is_meant = |entry: &&Arc<Entry>| {
            is_such(entry) && self.purges.left(place, entry) != Standing::Gone
        };
        slot.variants.iter().filter(is_meant).count() as u64
    }
}

impl Purged {
    fn add(&mut self, objects: u64, slot: &Slot, now: Moment) {
        if objects == 0 {
            return;
        }
        self.objects += objects;
        *self.hits.get_or_insert(0) += slot.found();
        let touched = Moment(slot.touched.load(Ordering::Relaxed));
        if now.since(touched) < LATELY {
            *self.hot.get_or_insert(0) += objects;
        }
    }
}
