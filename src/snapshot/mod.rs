//! The snapshot: the last good public pages on the disk, for the next process and for when the app is gone.
//!
//! In reading order: [`place`] is the directory; [`record`] a page as bytes, [`segment`] a file of them; [`notes`] is what was
//! purged and [`log`] what is where; [`writer`] is the one thread that writes, [`scan`] how it finds what is there, and [`thaw`]
//! brings pages back into memory.
//!
//! Nobody waits for it but who purges: one line or one byte is written before a purge returns.

mod log;
mod notes;
mod place;
mod record;
mod scan;
mod segment;
mod thaw;
mod writer;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderName;
use parking_lot::{Condvar, Mutex};
use siphasher::sip::SipHasher13;

use crate::cache::entry::Entry;
use crate::cache::key::{Key, KeyRef};
use crate::cache::memory::Memory;
use crate::cache::store::Store;
use crate::cache::table::Variant;
use crate::clock;
use crate::rules::purge::{Purge, Standing};
use log::Log;
use place::Place;
pub use thaw::{Candidate, Thawed};
pub use writer::Writer;

/// Its directory, in the state directory.
pub const DIR: &str = "snapshot";
/// Pages that wait to be written; of more none is noted.
const QUEUED: usize = 1 << 17;
/// How long whoever ends it waits for what is yet to be written.
const LEAVES: Duration = Duration::from_secs(3);

/// What may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes on the disk; 0: nothing is kept.
    pub size: u64,
    /// Bytes a second.
    pub rate: u64,
}

/// See the module.
pub struct Snapshot {
    path: Option<PathBuf>,
    store: Arc<Store>,
    memory: Arc<Memory>,
    tags: place::Key,
    /// What [`Bounds`] say.
    size: AtomicU64,
    rate: AtomicU64,
    is_on: AtomicBool,
    queue: Mutex<Queue>,
    woken: Condvar,
    log: Mutex<Log>,
    /// Pages of processes before that were not fetched anew.
    cold: Arc<AtomicUsize>,
    /// Those that are on their way, and who waits for them.
    thawing: (Mutex<HashSet<Key>>, Condvar),
    counts: Counts,
}

/// Pages that are to be written, each once however often it was stored.
#[derive(Default)]
struct Queue {
    /// With the upstream that they came from.
    pages: HashMap<Key, u64>,
    order: VecDeque<Key>,
    is_ending: bool,
    has_ended: bool,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    skipped: [AtomicU64; Skipped::ALL.len()],
    error: Mutex<Option<String>>,
}

/// Why a page is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skipped {
    /// What lay on the disk was not whole.
    Torn,
    /// It is too large for it.
    Large,
    /// Too many waited to be written.
    Behind,
    /// There is no memory to remember where it is.
    Memory,
    /// It could not be written.
    Error,
}

impl Skipped {
    pub const ALL: [Skipped; 5] = [
        Skipped::Torn,
        Skipped::Large,
        Skipped::Behind,
        Skipped::Memory,
        Skipped::Error,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Skipped::Torn => "torn",
            Skipped::Large => "large",
            Skipped::Behind => "behind",
            Skipped::Memory => "memory",
            Skipped::Error => "error",
        }
    }
}

/// A page that is there.
#[derive(Clone, Debug)]
pub struct Page {
    pub key: Key,
    pub variant: Variant,
    /// Of its body.
    pub bytes: u64,
    /// When it came or was validated last, and about when it was asked for last, in Unix seconds.
    pub stored: u64,
    pub asked: u64,
}

/// How it is, for operators.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Told {
    /// Whether pages are written.
    pub is_on: bool,
    /// Each variant one.
    pub pages: usize,
    pub bytes: u64,
    pub bytes_max: u64,
    /// Of processes before, and not fetched anew.
    pub cold: usize,
    pub queued: usize,
    /// Why the last one could not be written; nothing once one could be.
    pub error: Option<String>,
}

impl Snapshot {
    /// In `dir`, the state directory; none: it stays empty. `tags`: what tags are hashed with.
    pub fn new(
        dir: Option<&Path>,
        tags: place::Key,
        bounds: Bounds,
        store: &Arc<Store>,
        memory: &Arc<Memory>,
    ) -> Arc<Snapshot> {
        let cold = Arc::default();
        Arc::new(Snapshot {
            path: dir.map(|dir| dir.join(DIR)),
            store: Arc::clone(store),
            memory: Arc::clone(memory),
            tags,
            size: AtomicU64::new(bounds.size),
            rate: AtomicU64::new(bounds.rate),
            is_on: AtomicBool::new(dir.is_some()),
            queue: Mutex::default(),
            woken: Condvar::new(),
            log: Mutex::new(Log::new(&cold)),
            cold,
            thawing: Default::default(),
            counts: Counts::default(),
        })
    }

    /// One that stays empty.
    pub fn off(store: &Arc<Store>, memory: &Arc<Memory>) -> Arc<Snapshot> {
        let bounds = Bounds { size: 0, rate: 0 };
        Snapshot::new(None, [0; 2], bounds, store, memory)
    }

    /// Whether there is a directory for it.
    pub fn has_place(&self) -> bool {
        self.path.is_some()
    }

    /// Nobody writes: nothing is noted any more.
    pub fn stop(&self) {
        self.is_on.store(false, Ordering::Relaxed);
        self.woken.notify_all();
    }

    /// From now on it keeps to these.
    pub fn obey(&self, bounds: Bounds) {
        self.size.store(bounds.size, Ordering::Relaxed);
        self.rate.store(bounds.rate, Ordering::Relaxed);
    }

    /// A page was stored that came from `origin` ([`origin`]): it is to be written, if it is [public](Entry::is_public).
    /// Waits for nothing.
    pub fn note(&self, key: &Key, origin: u64) {
        if !self.is_on.load(Ordering::Relaxed) || self.size.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut queue = self.queue.lock();
        let is_full = queue.pages.len() >= QUEUED;
        if queue.is_ending {
            return;
        }
        if let Some(known) = queue.pages.get_mut(key) {
            *known = origin;
        } else if is_full {
            drop(queue);
            self.skipped(Skipped::Behind, 1);
        } else {
            queue.pages.insert(key.clone(), origin);
            queue.order.push_back(key.clone());
        }
    }

    /// Has `store`, which purges there, see to it that a purge means what is here as well: from when it has returned nothing
    /// that is purged comes from here, in this process or another. A dry run means nothing.
    pub fn purge<T>(&self, purge: &Purge, store: impl FnOnce() -> T) -> T {
        if purge.dry_run {
            return store();
        }
        let hash = |tag: &str| self.store.tags().hash(tag);
        self.purging(
            |log, generation| log.purge(&purge.what, hash, purge.soft, generation),
            store,
        )
    }

    /// The same for what makes a page outdated, by its key.
    pub fn invalidate<T>(&self, key: KeyRef<'_>, store: impl FnOnce() -> T) -> T {
        self.purging(|log, generation| log.invalidate(key, generation), store)
    }

    /// Noted first, then in the store: so a page that is read here meanwhile is not kept there, and one that is found there
    /// meanwhile is not kept here.
    fn purging<T>(&self, note: impl FnOnce(&mut Log, u64), store: impl FnOnce() -> T) -> T {
        if !self.is_on.load(Ordering::Relaxed) {
            return store();
        }
        let mut log = self.log.lock();
        // Under the lock, so that whoever has it sees all purges up to the current generation.
        let generation = self.store.next_generation();
        note(&mut log, generation);
        let failed = log.failed.take();
        drop(log);
        if let Some(error) = failed {
            self.troubled("a purge may not outlive this process", &error);
        }
        let _ends = Ends(self, generation);
        store()
    }

    /// Forgets one variant of a page, which is not for others any more.
    pub fn forget(&self, key: &Key, variant: &Variant) {
        if self.is_on.load(Ordering::Relaxed) {
            self.log
                .lock()
                .drop_items(key, |item| item.variant == *variant);
        }
    }

    /// Whether some variant of a page is here.
    pub fn covered(&self, key: KeyRef<'_>) -> bool {
        let (log, key) = (self.log.lock(), key.to_key());
        let is_there = |item| log.standing(key.as_ref(), item) != Standing::Gone;
        log.of(&key).iter().any(is_there)
    }

    /// The page, as a request selects it whose normalised values of given fields `select` tells; not for the store. Reads
    /// the disk.
    pub fn find(
        &self,
        key: KeyRef<'_>,
        mut select: impl FnMut(&[HeaderName]) -> Box<[u8]>,
    ) -> Option<Arc<Entry>> {
        let key = key.to_key();
        let (read, _begun) = self.to_read(&key, |item| item.is_selected(&mut select))?;
        self.read(&key, read).map(Arc::new)
    }

    /// All that is here.
    pub fn pages(&self) -> Vec<Page> {
        let log = self.log.lock();
        let there = log
            .all()
            .filter(|(key, item)| log.standing(key.as_ref(), item) != Standing::Gone);
        let page = |(key, item): (&Key, &log::Item)| Page {
            key: key.clone(),
            variant: item.variant.clone(),
            bytes: item.body,
            stored: item.stamp.stored / 1000,
            asked: item.asked / 1000,
        };
        there.map(page).collect()
    }

    pub fn told(&self) -> Told {
        let bytes_max = self.size.load(Ordering::Relaxed);
        let queued = self.queue.lock().pages.len();
        let log = self.log.lock();
        Told {
            is_on: self.is_on.load(Ordering::Relaxed) && bytes_max > 0,
            pages: log.size().0,
            bytes: log.on_disk(),
            bytes_max,
            cold: self.cold.load(Ordering::Relaxed),
            queued,
            error: self.counts.error.lock().clone(),
        }
    }

    /// Bytes that were written so far.
    pub fn written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }

    /// Pages that are not here though they should be.
    pub fn skips(&self, why: Skipped) -> u64 {
        self.counts.skipped[why as usize].load(Ordering::Relaxed)
    }

    /// Writes what is yet to be written, as far as there is time, and leaves the directory to another process. Blocking.
    pub fn leave(&self) {
        let until = clock::instant() + LEAVES;
        let mut queue = self.queue.lock();
        queue.is_ending = true;
        self.woken.notify_all();
        while !queue.has_ended && self.is_on.load(Ordering::Relaxed) {
            if self.woken.wait_until(&mut queue, until).timed_out() {
                return;
            }
        }
    }

    fn skipped(&self, why: Skipped, pages: u64) {
        self.counts.skipped[why as usize].fetch_add(pages, Ordering::Relaxed);
    }

    /// Told once, until something can be written again.
    fn troubled(&self, what: &str, why: &dyn std::fmt::Display) {
        let mut error = self.counts.error.lock();
        if error.is_none() {
            tracing::error!(%why, "snapshot: {what}");
        }
        *error = Some(format!("{what}: {why}"));
    }

    fn well(&self) {
        if self.counts.error.lock().take().is_some() {
            tracing::info!("snapshot: it can be written again");
        }
    }
}

/// A purge has reached the store, however that went.
struct Ends<'a>(&'a Snapshot, u64);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.log.lock().ends(self.1);
    }
}

/// What the tags of a state directory are hashed with: what lies there, else something new.
///
/// # Errors
/// The system has no random numbers.
pub fn tags_key(dir: Option<&Path>) -> std::io::Result<place::Key> {
    let place = dir.map(|dir| Place::look(&dir.join(DIR)));
    let kept = place.and_then(|place| place.ok()?.key());
    kept.map_or_else(place::random, Ok)
}

/// What an upstream is known by on the disk, by its name.
pub fn origin(upstream: &str) -> u64 {
    SipHasher13::new().hash(upstream.as_bytes())
}
