//! What lies on the disk when a process begins, or when it may write at last.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::log::{ITEM, Item, Log};
use super::notes::Before;
use super::place::Place;
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
    /// Puts all that is there into the log, but for what is purged or torn. Purges may come meanwhile.
    ///
    /// # Errors
    /// The directory can't be read.
    pub(super) fn scan(&self, place: &Arc<Place>) -> io::Result<Scanned> {
        let mut log = self.log.lock();
        let own = log.written.as_ref().map(|written| written.name.clone());
        let names = place.names()?;
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| Segment::number_in(name))
            .collect();
        numbers.sort_unstable();
        let opened = numbers.iter().map(|number| Segment::open(place, *number));
        let (good, bad): (Vec<_>, Vec<_>) = opened.partition(Result::is_ok);
        let segments: Vec<_> = good.into_iter().flatten().map(Arc::new).collect();
        self.skipped(Skipped::Torn, bad.len() as u64);
        let before = Before::read(place, &names, own.as_deref());
        self.skipped(Skipped::Torn, before.torn);
        let epoch = segments
            .iter()
            .map(|segment| segment.epoch)
            .max()
            .unwrap_or(0);
        log.empty();
        log.epoch = log.epoch.max(epoch.max(before.epoch()) + 1);
        log.place = Some(Arc::clone(place));
        log.is_scanning = true;
        log.segments = segments
            .iter()
            .map(|one| (one.number, Arc::clone(one)))
            .collect();
        drop(log);
        let asked = recent(place);
        for segment in &segments {
            let torn = segment.scan(|found| self.take_in(segment, found, &before, &asked));
            self.skipped(Skipped::Torn, torn);
        }
        self.log.lock().is_scanning = false;
        Ok(Scanned {
            next: numbers.last().map_or(0, |last| last + 1),
            purged: before.names,
        })
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
        let room = self.room(&log, key.len() + meta.variant.values.len());
        let (Some(charge), false) = (room, left == Standing::Gone) else {
            // Nothing that does not stand in the log may be live, or no purge would find it.
            log.bury(segment, at);
            if left != Standing::Gone {
                self.skipped(Skipped::Memory, 1);
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
            is_stale: fixed.state == State::Stale || left == Standing::Stale,
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
