//! What lies on the disk when a process begins, or when it may write at last.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::log::{ITEM, Item, Log};
use super::notes::{Before, Written};
use super::place::{Place, is_passing};
use super::record::{State, shared};
use super::segment::{Found, Segment};
use super::{Skipped, Snapshot};
use crate::cache::key::KeyRef;
use crate::cache::memory::Charge;
use crate::cache::table::Variant;
use crate::rules::purge::Standing;

/// The file of when pages were asked for.
pub const RECENT: &str = "recent";
const RECENT_MAGIC: &[u8; 16] = b"tidegate recent1";
/// The largest one that is read.
const RECENT_MOST: u64 = 1 << 30;
/// The index takes so much of the memory at most: an eighth.
const SHARE: usize = 8;

/// What was found.
pub struct Scanned {
    /// The next number for a file of pages.
    pub next: u64,
    /// Files of purges that have been carried out.
    pub purged: Vec<String>,
}

impl Snapshot {
    /// Puts all that is there into the log, but for what is purged or torn. For who has the right to write; purges may come
    /// meanwhile.
    ///
    /// # Errors
    /// The directory can't be read, or what can't be read there can't be taken away.
    pub(super) fn scan(&self, place: &Arc<Place>) -> io::Result<Scanned> {
        let names = place.names()?;
        let numbers = numbers(&names);
        let mut segments = Vec::new();
        for number in &numbers {
            match Segment::open(place, *number) {
                Ok(segment) => segments.push(Arc::new(segment)),
                Err(why) => self.give_up(place, *number, why)?,
            }
        }
        // What this process has noted so far, too: it stands in its log as well.
        let before = Before::read(place, &names)?;
        self.skipped(Skipped::Torn, before.torn);
        let mut purged = before.names.clone();
        let mut log = self.log.lock();
        log.empty();
        // Files of purges bear the epoch in which they were begun.
        purged.extend(log.turn_over().filter(|own| !names.contains(own)));
        log.epoch = next_epoch(place, &names, &segments).max(log.epoch);
        log.place = Some(Arc::clone(place));
        log.is_scanning = true;
        log.segments = segments
            .iter()
            .map(|one| (one.number, Arc::clone(one)))
            .collect();
        let epoch = log.epoch;
        drop(log);
        // Where it can't be written, what is written next bears it.
        let _ = place.keep_epoch(epoch);
        let asked = recent(place);
        for segment in &segments {
            let scanned = segment.scan(|found| match found {
                Ok(found) => self.take_in(segment, found, &before, &asked),
                // What is mended some day would be there again.
                Err(at) => self.log.lock().bury(segment, at),
            });
            match scanned {
                Ok(torn) => self.skipped(Skipped::Torn, torn),
                Err(why) => {
                    self.log.lock().abandon(segment);
                    self.give_up(place, segment.number, why)?;
                }
            }
        }
        self.log.lock().is_scanning = false;
        Ok(Scanned {
            next: numbers.last().map_or(0, |last| last + 1),
            purged,
        })
    }

    /// Takes a file of pages away that can't be read: what it has is not in the log, so no purge would find it, and a process that
    /// can read it would have it back.
    fn give_up(&self, place: &Place, number: u64, why: io::Error) -> io::Result<()> {
        if is_passing(&why) {
            return Err(why);
        }
        self.skipped(Skipped::Torn, 1);
        match place.remove(&Segment::name(number)) {
            // Whatever that is, it holds no pages.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(()),
            removed => removed,
        }
    }

    /// Another process writes. What is purged here until it is gone is noted, for this one and for the next.
    ///
    /// # Errors
    /// The directory can't be read.
    pub(super) fn wait(&self, place: &Arc<Place>) -> io::Result<()> {
        if self.log.lock().place.is_some() {
            return Ok(());
        }
        let names = place.names()?;
        let opened = numbers(&names)
            .into_iter()
            .map(|number| Segment::open(place, number));
        let segments: Vec<_> = opened.flatten().map(Arc::new).collect();
        let epoch = next_epoch(place, &names, &segments);
        let mut log = self.log.lock();
        log.epoch = epoch;
        log.place = Some(Arc::clone(place));
        drop(log);
        tracing::info!("another process writes the snapshot: this one waits for it");
        Ok(())
    }

    fn take_in(
        &self,
        segment: &Arc<Segment>,
        found: Found,
        before: &Before,
        asked: &HashMap<(u64, u64), u64>,
    ) {
        let Found {
            at,
            fixed,
            stamp,
            meta,
        } = found;
        let key = KeyRef::new(&meta.key).to_key();
        let mut log = self.log.lock();
        let names = &meta.variant.names;
        let known = log.of(&key).last().map(|item| &item.variant.names);
        let names = shared(names, known);
        let left = before
            .left(key.as_ref(), &meta.tags, segment.epoch, fixed.generation)
            .max(log.notes.left(key.as_ref(), &meta.tags, 0));
        let is_stale = fixed.state == State::Stale || left == Standing::Stale;
        // The file that says so goes soon: from now on its own byte does.
        let is_new = left == Standing::Stale && fixed.state != State::Stale;
        let is_told = !is_new || segment.set(at, State::Stale).is_ok();
        let room = self.room(&log, key.len() + meta.variant.values.len());
        let (Some(charge), false, true) = (room, left == Standing::Gone, is_told) else {
            // Nothing that does not stand in the log may be live, or no purge would find it.
            log.bury(segment, at);
            match is_told {
                _ if left == Standing::Gone => {}
                true => self.skipped(Skipped::Memory, 1),
                false => self.skipped(Skipped::Error, 1),
            }
            return;
        };
        let item = Item {
            segment: Arc::clone(segment),
            at,
            span: fixed.span(),
            body: fixed.body_len,
            variant: Variant {
                names,
                values: meta.variant.values,
            },
            stamp,
            asked: asked
                .get(&(segment.number, at))
                .copied()
                .unwrap_or(stamp.stored),
            digest: meta.digest,
            origin: meta.origin,
            generation: 0,
            tags: meta.tags,
            is_stale,
            is_cold: true,
            of: None,
            _charge: charge,
        };
        log.take_in(&key, item, usize::MAX);
    }

    /// Memory for an item, as long as all of them have no more than their share.
    pub(super) fn room(&self, log: &Log, bytes: usize) -> Option<Charge> {
        let all = (log.size().0 + 1).saturating_mul(ITEM);
        let fits = all <= self.memory.cap() / SHARE;
        fits.then(|| self.memory.charge_modestly(bytes + ITEM))
            .flatten()
    }
}

/// The numbers of files of pages, in their order.
fn numbers(names: &[String]) -> Vec<u64> {
    let numbers = names.iter().filter_map(|name| Segment::number_in(name));
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

/// One that no process has had that left anything here.
fn next_epoch(place: &Place, names: &[String], segments: &[Arc<Segment>]) -> u64 {
    let pages = segments.iter().map(|segment| segment.epoch);
    let purged = names.iter().filter_map(|name| Written::epoch_in(name));
    let last = pages.chain(purged).max().unwrap_or(0);
    last.max(place.epoch()).saturating_add(1)
}

/// When records were asked for, by file and place, in Unix milliseconds. Whatever is wrong with it, it only says less.
fn recent(place: &Place) -> HashMap<(u64, u64), u64> {
    let bytes = place.read(RECENT, RECENT_MOST).unwrap_or_default();
    let mut all = HashMap::new();
    if let Some(bytes) = bytes.strip_prefix(RECENT_MAGIC) {
        for one in bytes.chunks_exact(24) {
            let word = |from: usize| {
                let mut word = [0; 8];
                word.copy_from_slice(&one[from..from + 8]);
                u64::from_le_bytes(word)
            };
            all.insert((word(0), word(8)), word(16));
        }
    }
    all
}

/// What [`recent`] reads.
pub fn to_recent(all: impl Iterator<Item = ((u64, u64), u64)>) -> Vec<u8> {
    let mut out = RECENT_MAGIC.to_vec();
    for ((number, at), asked) in all {
        out.extend_from_slice([number, at, asked].map(u64::to_le_bytes).as_flattened());
    }
    out
}
