//! What is on the disk and where, and what is purged of it.
//!
//! Under one lock, and so that a record on the disk is live if, and only if, it stands here: whatever leaves this table is dead
//! on the disk at once, by one byte in its place. So purges of a page are carried out when they are noted; of others a line is
//! written down, and the writer goes through all pages later.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderName;

use super::notes::{Mark, Notes, Written};
use super::place::Place;
use super::record::{Stamp, State};
use super::segment::Segment;
use crate::cache::key::{Key, KeyHasher, KeyRef};
use crate::cache::memory::Charge;
use crate::cache::table::Variant;
use crate::cache::tags::Said;
use crate::rules::purge::{Standing, What};
use crate::rules::time::Moment;

/// What an item takes in memory beside its key and values.
pub const ITEM: usize = 320;
/// And in the file of when pages were asked for.
const RECENT: usize = 24;
/// Notes on beginnings of places; where there are more, all pages are gone through at once.
const MOST_STARTS: usize = 4096;

/// A page that is on the disk, in one variant.
#[derive(Debug)]
pub struct Item {
    pub segment: Arc<Segment>,
    pub at: u64,
    /// Bytes it takes there, and its body alone.
    pub span: u64,
    pub body: u64,
    pub variant: Variant,
    pub stamp: Stamp,
    /// About when it was asked for last, in Unix milliseconds.
    pub asked: u64,
    pub digest: u64,
    pub origin: u64,
    /// In which its fetch began; 0 for those of processes before.
    pub generation: u64,
    pub tags: Said,
    pub is_stale: bool,
    /// It is of a process before, and was not fetched anew.
    pub is_cold: bool,
    /// Of which answer it is: where the store has it, and since when.
    pub of: Option<(usize, Moment)>,
    pub _charge: Charge,
}

impl Item {
    /// The number of its file, and where it is there.
    pub fn place(&self) -> (u64, u64) {
        (self.segment.number, self.at)
    }

    /// Whether it is the variant that `select` selects.
    pub fn is_selected(&self, mut select: impl FnMut(&[HeaderName]) -> Box<[u8]>) -> bool {
        let Variant { names, values } = &self.variant;
        names.is_empty() || select(names) == *values
    }

    fn is(&self, segment: &Arc<Segment>, at: u64) -> bool {
        self.at == at && Arc::ptr_eq(&self.segment, segment)
    }
}

/// See the module.
#[derive(Default)]
pub struct Log {
    pages: HashMap<Key, Vec<Item>, KeyHasher>,
    pub segments: BTreeMap<u64, Arc<Segment>>,
    pub notes: Notes,
    /// Purges that are on their way into the store, by their generations.
    under_way: Vec<u64>,
    /// The first generation whose purges may not be forgotten, since a page is being written that was found before.
    writing: Option<u64>,
    pub place: Option<Arc<Place>>,
    pub written: Option<Written>,
    /// Of this process, and how many files of purges it has begun.
    pub epoch: u64,
    nth: u64,
    /// Not all that is on the disk stands here yet.
    pub is_scanning: bool,
    /// What could not be marked as dead yet.
    undead: Vec<(Arc<Segment>, u64)>,
    /// Why something could not be written, until it is told.
    pub failed: Option<io::Error>,
    items: usize,
    live: u64,
    cold: Arc<AtomicUsize>,
}

impl Log {
    pub fn new(cold: &Arc<AtomicUsize>) -> Log {
        Log {
            cold: Arc::clone(cold),
            ..Log::default()
        }
    }

    /// Pages, each variant one, and the bytes of their records.
    pub fn size(&self) -> (usize, u64) {
        (self.items, self.live)
    }

    /// Bytes on the disk.
    pub fn on_disk(&self) -> u64 {
        let pages: u64 = self.segments.values().map(|segment| segment.size()).sum();
        let purged = self.written.as_ref().map_or(0, Written::len);
        pages + purged + (self.items * RECENT) as u64
    }

    pub fn of(&self, key: &Key) -> &[Item] {
        self.pages.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn of_mut(&mut self, key: &Key) -> &mut [Item] {
        self.pages.get_mut(key).map_or(&mut [], Vec::as_mut_slice)
    }

    pub fn all(&self) -> impl Iterator<Item = (&Key, &Item)> {
        let pages = self.pages.iter();
        pages.flat_map(|(key, items)| items.iter().map(move |item| (key, item)))
    }

    pub fn keys(&self) -> Vec<Key> {
        self.pages.keys().cloned().collect()
    }

    /// What purges have left of an item.
    pub fn standing(&self, key: KeyRef<'_>, item: &Item) -> Standing {
        let noted = self.notes.left(key, &item.tags, item.generation);
        match item.is_stale {
            true => noted.max(Standing::Stale),
            false => noted,
        }
    }

    /// One more, whose record is whole, in place of those that it stands for.
    ///
    /// # Errors
    /// It can't be told on the disk that it is there; then it isn't.
    pub fn insert(&mut self, key: &Key, item: Item, most: usize) -> io::Result<()> {
        let state = match item.is_stale {
            true => State::Stale,
            false => State::Live,
        };
        item.segment.set(item.at, state)?;
        self.take_in(key, item, most);
        Ok(())
    }

    /// The same for one that is known as live on the disk.
    pub fn take_in(&mut self, key: &Key, item: Item, most: usize) {
        let one = item.variant.clone();
        let replaced = |other: &Item| {
            one.names.is_empty() || other.variant.names.is_empty() || other.variant == one
        };
        self.drop_items(key, replaced);
        // The oldest stand first.
        let mut excess = (self.of(key).len() + 1).saturating_sub(most.max(1));
        self.drop_items(key, |_| {
            let goes = excess > 0;
            excess = excess.saturating_sub(1);
            goes
        });
        self.items += 1;
        self.live += item.span;
        self.cold
            .fetch_add(usize::from(item.is_cold), Ordering::Relaxed);
        self.pages.entry(key.clone()).or_default().push(item);
    }

    /// Takes items of a page out.
    pub fn drop_items(&mut self, key: &Key, mut is: impl FnMut(&Item) -> bool) -> usize {
        let Some(items) = self.pages.get_mut(key) else {
            return 0;
        };
        let before = items.len();
        for item in items.extract_if(.., |item| is(item)) {
            bury(&item.segment, item.at, &mut self.failed, &mut self.undead);
            self.items -= 1;
            self.live -= item.span;
            self.cold
                .fetch_sub(usize::from(item.is_cold), Ordering::Relaxed);
        }
        let left = items.len();
        if left == 0 {
            self.pages.remove(key);
        }
        before - left
    }

    /// Takes out what was found to be torn, if it still stands here.
    pub fn lose(&mut self, key: &Key, segment: &Arc<Segment>, at: u64) -> bool {
        self.drop_items(key, |item| item.is(segment, at)) > 0
    }

    /// It is known where a page is by its segment and place.
    pub fn at_mut(&mut self, key: &Key, segment: &Arc<Segment>, at: u64) -> Option<&mut Item> {
        let items = self.pages.get_mut(key)?;
        items.iter_mut().find(|item| item.is(segment, at))
    }

    /// Marks a record as dead that does not stand here.
    pub fn bury(&mut self, segment: &Arc<Segment>, at: u64) {
        bury(segment, at, &mut self.failed, &mut self.undead);
    }

    /// A page was fetched anew.
    pub fn renewed(&mut self, key: &Key, variant: &Variant) {
        let cold = Arc::clone(&self.cold);
        let items = self.of_mut(key).iter_mut();
        for item in items.filter(|item| item.variant == *variant) {
            cold.fetch_sub(usize::from(item.is_cold), Ordering::Relaxed);
            item.is_cold = false;
        }
    }

    /// Takes all out without a word to the disk: it is all gone there, or looked through anew.
    pub fn empty(&mut self) {
        self.pages.clear();
        self.segments.clear();
        self.undead.clear();
        (self.items, self.live) = (0, 0);
        self.cold.store(0, Ordering::Relaxed);
    }

    /// Notes a purge that begins, whose generation is `generation`: of tags their `hash` is told. Until it has
    /// [ended](Self::ends) it stays noted.
    pub fn purge(&mut self, what: &What, hash: impl Fn(&str) -> u64, soft: bool, generation: u64) {
        self.under_way.push(generation);
        match (what.keys(), what.start(), what) {
            (Some(keys), ..) => {
                let purge = |key: &Vec<u8>| self.purge_page(key, soft, generation);
                keys.iter().for_each(purge);
            }
            (_, Some(start), _) => self.note(Mark::Start(&start), soft, generation),
            (.., What::Tag(tag)) => self.note(Mark::Tag(hash(tag)), soft, generation),
            _ => {}
        }
    }

    /// The same of one page, by its key.
    pub fn invalidate(&mut self, key: KeyRef<'_>, generation: u64) {
        self.under_way.push(generation);
        self.purge_page(key.bytes(), false, generation);
    }

    fn note(&mut self, mark: Mark<'_>, soft: bool, generation: u64) {
        if self.notes.starts() >= MOST_STARTS && !self.is_scanning {
            self.go_through();
        }
        self.notes.note(mark, generation, soft);
        if !self.pages.is_empty() || self.is_scanning {
            self.write_down(mark, soft, generation);
        }
    }

    fn purge_page(&mut self, key: &[u8], soft: bool, generation: u64) {
        let mark = Mark::Page(key);
        self.notes.note(mark, generation, soft);
        if self.is_scanning {
            self.write_down(mark, soft, generation);
        }
        let key = KeyRef::new(key).to_key();
        match soft {
            false => {
                self.drop_items(&key, |_| true);
            }
            true => self.mark(&key, |_| true),
        }
    }

    /// Has items count as stale, here and on the disk.
    fn mark(&mut self, key: &Key, is: impl Fn(&Item) -> bool) {
        let mut failed = None;
        let fresh = |item: &&mut Item| !item.is_stale && is(item);
        for item in self.of_mut(key).iter_mut().filter(fresh) {
            item.is_stale = true;
            failed = item
                .segment
                .set(item.at, State::Stale)
                .err()
                .or(failed.take());
        }
        self.failed = failed.or(self.failed.take());
    }

    fn write_down(&mut self, mark: Mark<'_>, soft: bool, generation: u64) {
        let written = self
            .written()
            .and_then(|to| to.append(mark, generation, soft));
        if let Err(error) = written {
            self.failed = Some(error);
        }
    }

    fn written(&mut self) -> io::Result<&mut Written> {
        if self.written.is_none() {
            let place = self.place.as_ref().ok_or(io::ErrorKind::NotFound)?;
            self.nth += 1;
            // Another process may be of the same epoch.
            let nth = u64::from(std::process::id()) << 32 | self.nth;
            self.written = Some(Written::create(place, self.epoch, nth)?);
        }
        self.written.as_mut().ok_or(io::ErrorKind::NotFound.into())
    }

    /// A purge has reached the store.
    pub fn ends(&mut self, generation: u64) {
        self.under_way.retain(|one| *one != generation);
    }

    /// The first generation whose purges may not be forgotten, if they are not all over by `current`.
    pub fn needed(&self, current: u64) -> u64 {
        let first = self.under_way.iter().chain(&self.writing).min();
        first.copied().unwrap_or(current.saturating_add(1))
    }

    /// A page is looked up in the store now, to be written. What is purged from now on it is judged by when it is whole.
    pub fn begin(&mut self, current: u64) {
        self.writing = Some(self.needed(current));
    }

    /// It is written, or not.
    pub fn done(&mut self) {
        self.writing = None;
    }

    /// Judges one page by the notes, and carries out what they come to. How many items were taken out.
    pub fn judge(&mut self, key: &Key) -> usize {
        let of = |log: &Log, standing| -> Vec<(u64, u64)> {
            let items = log.of(key).iter();
            let such = items.filter(|item| log.standing(key.as_ref(), item) == standing);
            such.map(Item::place).collect()
        };
        let gone = of(self, Standing::Gone);
        let taken = match gone.is_empty() {
            true => 0,
            false => self.drop_items(key, |item| gone.contains(&item.place())),
        };
        let stale = of(self, Standing::Stale);
        if !stale.is_empty() {
            self.mark(key, |item| stale.contains(&item.place()));
        }
        taken
    }

    /// Judges all pages, and forgets what they were judged by.
    fn go_through(&mut self) {
        self.keys().iter().for_each(|key| {
            self.judge(key);
        });
        self.forget(u64::MAX - 1);
    }

    /// All were judged by what was purged up to `upto`: it is needed no longer, but for what is under way.
    pub fn forget(&mut self, upto: u64) {
        let upto = upto.min(self.needed(upto) - 1);
        self.notes.forget(upto);
        self.notes.forget_pages(upto);
    }

    /// Tries again what could not be marked as dead.
    pub fn bury_again(&mut self) {
        let is_left = |(segment, at): &(Arc<Segment>, u64)| segment.set(*at, State::Dead).is_err();
        self.undead.retain(is_left);
    }

    /// Whether all that is not here is dead on the disk.
    pub fn is_all_buried(&self) -> bool {
        self.undead.is_empty()
    }

    /// Begins another file of purges: what the ones before say is gone through, and then they go. Their names.
    pub fn turn_over(&mut self) -> Option<String> {
        self.written.take().map(|written| written.name)
    }
}

fn bury(
    segment: &Arc<Segment>,
    at: u64,
    failed: &mut Option<io::Error>,
    undead: &mut Vec<(Arc<Segment>, u64)>,
) {
    if let Err(error) = segment.set(at, State::Dead) {
        *failed = Some(error);
        undead.push((Arc::clone(segment), at));
    }
}
