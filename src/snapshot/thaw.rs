//! From the disk back into memory, with true ages.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::HeaderName;

use super::log::Item;
use super::record::Stamp;
use super::segment::{Segment, Unread};
use super::{Skipped, Snapshot};
use crate::cache::entry::{Entry, EntryParts};
use crate::cache::generation::Begun;
use crate::cache::key::{Key, KeyRef};
use crate::cache::store::Slot;
use crate::clock;
use crate::rules::purge::Standing;
use crate::rules::storing::Terms;

/// A wall clock that is so far behind when a page was written may be the same one, put right.
const SLACK: u64 = 2_000;

/// A record that is to be read.
pub(super) struct ToRead {
    segment: Arc<Segment>,
    at: u64,
    stamp: Stamp,
    is_stale: bool,
    /// What is purged later means the page.
    generation: u64,
}

/// A page that could be brought back.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub key: Key,
    /// From which upstream it came ([`origin`](super::origin)).
    pub origin: u64,
}

/// What bringing a page back came to.
pub enum Thawed {
    /// It is in the store as far as it could be read, or was purged or replaced meanwhile. The page, if it was brought back
    /// here: the store may have no room to keep it.
    Done(Option<Arc<Slot>>),
    /// It may be tried again.
    NoMemory,
}

impl Snapshot {
    /// Whether a page of that upstream is here in a variant that `select` selects, and was not fetched anew since the process
    /// began. Cheap where there is none at all.
    pub fn is_cold(
        &self,
        key: KeyRef<'_>,
        origin: impl FnOnce() -> u64,
        mut select: impl FnMut(&[HeaderName]) -> Box<[u8]>,
    ) -> bool {
        if self.cold.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let (log, key, origin) = (self.log.lock(), key.to_key(), origin());
        let is_there = |item: &Item| {
            item.is_cold
                && item.origin == origin
                && log.standing(key.as_ref(), item) != Standing::Gone
                && item.is_selected(&mut select)
        };
        log.of(&key).iter().any(is_there)
    }

    /// Pages that were not fetched anew since the process began, those first that were asked for last.
    pub fn candidates(&self) -> Vec<Candidate> {
        let log = self.log.lock();
        let cold = log.all().filter(|(_, item)| item.is_cold);
        let mut all: Vec<_> = cold
            .map(|(key, item)| (item.asked, key.clone(), item.origin))
            .collect();
        drop(log);
        all.sort_unstable_by_key(|(asked, ..)| std::cmp::Reverse(*asked));
        // A page comes back in all its variants.
        let mut seen = HashSet::new();
        all.retain(|(_, key, _)| seen.insert(key.clone()));
        let candidate = |(_, key, origin)| Candidate { key, origin };
        all.into_iter().map(candidate).collect()
    }

    /// Brings a page back in all its variants, for whoever has `reign` over the store; what is stored already is newer. Reads
    /// the disk, or waits for another who does.
    pub fn thaw(&self, key: &Key, origin: u64, reign: u64) -> Thawed {
        let (thawing, done) = &self.thawing;
        let mut all = thawing.lock();
        if !all.insert(key.clone()) {
            while all.contains(key) {
                done.wait(&mut all);
            }
            return Thawed::Done(None);
        }
        drop(all);
        let _over = Over(self, key);
        self.thaw_alone(key, origin, reign)
    }

    fn thaw_alone(&self, key: &Key, origin: u64, reign: u64) -> Thawed {
        let cold: Vec<_> = {
            let log = self.log.lock();
            let cold = log.of(key).iter();
            let cold = cold.filter(|item| item.is_cold && item.origin == origin);
            cold.map(Item::place).collect()
        };
        let mut page = None;
        for place in cold {
            let Some((read, begun)) = self.to_read(key, |item| item.place() == place) else {
                continue;
            };
            match self.try_read(key, read) {
                Ok(entry) => {
                    let (entry, now) = (Arc::new(entry), clock::moment());
                    page = self.store.restore(key, &entry, reign, now).or(page);
                }
                Err(Unread::NoMemory) => return Thawed::NoMemory,
                Err(Unread::Torn) => {}
            }
            drop(begun);
        }
        Thawed::Done(page)
    }

    /// The newest item of a page that is such and not purged. What begins now is not over before it is read.
    pub(super) fn to_read(
        &self,
        key: &Key,
        mut is: impl FnMut(&Item) -> bool,
    ) -> Option<(ToRead, Begun)> {
        let log = self.log.lock();
        let mut items = log.of(key).iter().rev();
        let item = items.find(|item| is(item))?;
        let standing = log.standing(key.as_ref(), item);
        if standing == Standing::Gone {
            return None;
        }
        let begun = self.store.begin();
        let read = ToRead {
            segment: Arc::clone(&item.segment),
            at: item.at,
            stamp: item.stamp,
            is_stale: standing == Standing::Stale,
            generation: begun.generation(),
        };
        Some((read, begun))
    }

    pub(super) fn read(&self, key: &Key, read: ToRead) -> Option<Entry> {
        self.try_read(key, read).ok()
    }

    fn try_read(&self, key: &Key, read: ToRead) -> Result<Entry, Unread> {
        let ToRead { segment, at, .. } = &read;
        let lost = |why| {
            if why == Unread::Torn && self.log.lock().lose(key, segment, *at) {
                self.skipped(Skipped::Torn, 1);
            }
            why
        };
        let found = segment.read(*at, &read.stamp, &self.memory);
        let (meta, body) = found.map_err(lost)?;
        if *meta.key != *key.as_ref().bytes() {
            return Err(lost(Unread::Torn));
        }
        let now = clock::now().mono;
        let tags = self.store.tags().again(&meta.tags);
        let parts = EntryParts {
            head: meta.head,
            body,
            terms: aged(meta.terms, &read.stamp, clock::wall_millis(now)),
            stored: now,
            variant: meta.variant,
            cost: meta.cost,
            generation: read.generation,
            tags: tags.ok_or(Unread::NoMemory)?,
        };
        let entry = Entry::new(parts, &self.memory).ok_or(Unread::NoMemory)?;
        if read.is_stale {
            entry.mark(now);
        }
        Ok(entry)
    }
}

/// A page was brought back, or can't be.
struct Over<'a>(&'a Snapshot, &'a Key);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let (thawing, done) = &self.0.thawing;
        thawing.lock().remove(self.1);
        done.notify_all();
    }
}

/// Terms as they are after the time that went by since the page came. A clock that has gone back can't tell how much that was:
/// then it is stale, not young.
fn aged(terms: Terms, stamp: &Stamp, now: u64) -> Terms {
    let initial_age = match now.checked_sub(stamp.stored) {
        Some(elapsed) => terms
            .initial_age
            .saturating_add(Duration::from_millis(elapsed)),
        None if stamp.stored - now <= SLACK => terms
            .initial_age
            .saturating_add(Duration::from_millis(SLACK)),
        None => terms.initial_age.max(terms.lifetime),
    };
    Terms {
        initial_age,
        ..terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::storing::tests::terms;

    #[test]
    fn time_that_went_by_is_age_and_a_clock_that_went_back_makes_no_page_young() {
        let stamp = Stamp {
            stored: 100_000,
            ..Stamp::default()
        };
        let age = |now| aged(terms(60), &stamp, now).initial_age.as_millis();
        let began = terms(60).initial_age.as_millis();
        assert_eq!(age(100_000), began);
        assert_eq!(age(130_500), began + 30_500);
        assert_eq!(age(99_000), began + 2_000);
        assert_eq!(age(50_000), 60_000);
        let old = aged(terms(60), &stamp, 50_000);
        assert!(!crate::rules::fresh::is_fresh(
            &old,
            Default::default(),
            Default::default()
        ));
    }
}
