//! The one who writes: what is stored, when there is time; what is purged, for good; and when pages were asked for.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::log::{Item, Log};
use super::place::Place;
use super::record::{self, LARGEST, META_MOST, State};
use super::scan::{RECENT, to_recent};
use super::segment::{HEADER, Segment};
use super::{Skipped, Snapshot};
use crate::cache::entry::Entry;
use crate::cache::key::Key;
use crate::clock;
use crate::rules::purge::Standing;
use crate::rules::time::Moment;

/// How often it looks what there is to do. A page that is stored again meanwhile is written once.
const TURN: Duration = Duration::from_millis(250);
/// How often what was written is flushed to the disk.
const SYNC: Duration = Duration::from_secs(1);
/// How often it is written down when pages were asked for.
const HARVEST: Duration = Duration::from_secs(30);
/// After something could not be written, it is tried again so much later.
const RETRY: Duration = Duration::from_secs(5);
/// All pages are gone through for purges at most so often, and rested from so many times as long as it took.
const SWEEP: Duration = Duration::from_secs(1);
const RESTS: u32 = 20;
/// Pages that are looked at before others may look.
const CHUNK: usize = 256;
/// For so long whoever ends it waits for what is yet to be written.
const LAST_TURN: Duration = Duration::from_secs(1);

/// Files of pages are a sixteenth of all, but in these bounds; and there are not more than so many.
const SEGMENT_LEAST: u64 = 64 << 10;
const SEGMENT_MOST: u64 = 64 << 20;
const SEGMENTS: u64 = 128;
/// Variants of a page.
const VARIANTS: usize = 32;

/// See the module.
pub struct Writer {
    of: Arc<Snapshot>,
    place: Arc<Place>,
    /// To write here.
    right: Option<File>,
    /// Where the next page goes, and the number after it.
    open: Option<Arc<Segment>>,
    next: u64,
    synced: Moment,
    harvested: Moment,
    swept: Moment,
    rests: Duration,
    /// Nothing is tried until then.
    troubled: Option<Moment>,
    /// Bytes that were written faster than they may be.
    owed: u64,
    /// Not the rate's: what is to be done before it ends.
    is_ending: bool,
}

impl Writer {
    /// Opens the directory and finds out what is there. None: there is none to be had, which is told.
    pub fn open(of: &Arc<Snapshot>) -> Option<Writer> {
        let path = of.path.as_deref()?;
        let opened = Place::open(path).map(Arc::new).and_then(|place| {
            let mut writer = Writer {
                of: Arc::clone(of),
                place,
                right: None,
                open: None,
                next: 0,
                synced: Moment::default(),
                harvested: clock::moment(),
                swept: Moment::default(),
                rests: SWEEP,
                troubled: None,
                owed: 0,
                is_ending: false,
            };
            let right = writer.place.lock()?;
            if right.is_none() {
                tracing::info!("another process writes the snapshot: this one reads it");
            }
            writer.begin(right)?;
            Ok(writer)
        });
        opened
            .inspect_err(|why| {
                tracing::warn!(%why, path = %path.display(), "no snapshot of pages is kept");
                of.stop();
            })
            .ok()
    }

    /// Works until it is told to end.
    pub fn work(mut self) {
        // Behind the workers, but not at their mercy.
        let _ = rustix::process::nice(5);
        while !self.is_ending {
            self.turn();
            self.wait(TURN);
        }
        self.end();
    }

    fn wait(&mut self, time: Duration) {
        let mut queue = self.of.queue.lock();
        if !queue.is_ending {
            self.of.woken.wait_for(&mut queue, time);
        }
        self.is_ending = queue.is_ending;
    }

    /// Takes the right to write, if it is to be had, and finds out what is there.
    fn begin(&mut self, right: Option<File>) -> io::Result<()> {
        self.right = right;
        let is_ours = self.place.key() == Some(self.of.tags);
        let is_off = self.of.size.load(Ordering::Relaxed) == 0;
        match self.right.is_some() {
            true if is_off || !is_ours => {
                // Tags that were hashed with another key can't be purged.
                self.place.clear()?;
                self.place.keep(self.of.tags)?;
            }
            false if !is_ours => return Ok(()),
            _ => {}
        }
        let scanned = self.of.scan(&self.place)?;
        self.next = scanned.next;
        if self.right.is_some() {
            self.sync();
            self.tidy();
            if self.troubled.is_none() && self.of.log.lock().is_all_buried() {
                // What they say was carried out.
                for name in scanned.purged {
                    self.place.remove(&name)?;
                }
            }
        }
        Ok(())
    }

    /// One look at all there is to do.
    pub fn turn(&mut self) {
        let now = clock::moment();
        if self.right.is_none() {
            if let Err(why) = self.begin_later() {
                self.of.troubled("it can't be taken over", &why);
            }
            if self.right.is_none() {
                return;
            }
        }
        if self.troubled.is_some_and(|until| now < until) {
            return;
        }
        self.troubled = None;
        match self.bounds().0 {
            0 => self.wipe(),
            _ => match self.make_room(0) {
                Ok(()) => self.catch_up(),
                Err(why) => self.fails("room can't be made", &why),
            },
        }
        self.keep_house();
    }

    /// The process that wrote may be gone.
    fn begin_later(&mut self) -> io::Result<()> {
        match self.place.lock()? {
            None => Ok(()),
            right => self.begin(right),
        }
    }

    /// Bytes that all may take, and one file of them.
    fn bounds(&self) -> (u64, u64) {
        let size = self.of.size.load(Ordering::Relaxed);
        let most = SEGMENT_MOST.max(size / SEGMENTS);
        (size, (size / 16).clamp(SEGMENT_LEAST, most))
    }

    /// It was switched off: nothing stays.
    fn wipe(&mut self) {
        let mut queue = self.of.queue.lock();
        queue.pages.clear();
        queue.order.clear();
        drop(queue);
        let mut log = self.of.log.lock();
        if log.segments.is_empty() {
            return;
        }
        log.empty();
        drop(log.written.take());
        drop(log);
        self.open = None;
        if let Err(why) = self.place.clear() {
            self.fails("its files can't be taken away", &why);
        }
    }

    /// Writes what was stored since.
    fn catch_up(&mut self) {
        // Of what is stored again meanwhile the next turn is.
        let pages = self.of.queue.lock().order.len();
        for _ in 0..pages {
            let mut queue = self.of.queue.lock();
            let Some(key) = queue.order.pop_front() else {
                return;
            };
            let origin = queue.pages.remove(&key).unwrap_or_default();
            drop(queue);
            if let Err(why) = self.write(&key, origin) {
                self.of.skipped(Skipped::Error, 1);
                self.of.note(&key, origin);
                self.fails("pages can't be written", &why);
                return;
            }
            self.pace();
            if self.troubled.is_some() {
                return;
            }
        }
    }

    fn fails(&mut self, what: &str, why: &io::Error) {
        self.of.troubled(what, why);
        self.troubled = Some(clock::moment().after(RETRY));
    }

    /// Waits where it was too fast, and does meanwhile what can't wait.
    fn pace(&mut self) {
        let rate = self.of.rate.load(Ordering::Relaxed).max(1);
        self.keep_house();
        while self.owed > 0 && !self.is_ending {
            let time = Duration::from_micros(self.owed.saturating_mul(1_000_000) / rate);
            if time < Duration::from_millis(5) {
                return;
            }
            let time = time.min(TURN);
            self.wait(time);
            let paid = u128::from(rate) * time.as_micros() / 1_000_000;
            self.owed = self
                .owed
                .saturating_sub(u64::try_from(paid).unwrap_or(u64::MAX));
            self.keep_house();
        }
    }

    fn wrote(&mut self, bytes: u64) {
        self.owed += bytes;
        self.of.counts.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What has to be done every now and then.
    fn keep_house(&mut self) {
        let now = clock::moment();
        if now.since(self.swept) >= self.rests {
            self.sweep();
        }
        if now.since(self.synced) >= SYNC {
            self.sync();
        }
        if now.since(self.harvested) >= HARVEST {
            self.harvest();
        }
    }

    /// Flushes to the disk what was written.
    fn sync(&mut self) {
        self.synced = clock::moment();
        let mut log = self.of.log.lock();
        log.bury_again();
        let segments: Vec<_> = log.segments.values().cloned().collect();
        let purged = log.written.as_mut().and_then(|written| written.unsynced());
        drop(log);
        let synced = segments.iter().try_for_each(|segment| segment.sync());
        let purged = purged.map_or(Ok(()), |file| file?.sync_data());
        match synced.and(purged) {
            Ok(()) if self.troubled.is_none() => self.of.well(),
            Ok(()) => {}
            Err(why) => self.fails("it can't be flushed to the disk", &why),
        }
    }

    /// Carries out on the disk what was purged, so that it need not be remembered.
    pub fn sweep(&mut self) {
        self.swept = clock::moment();
        let mut log = self.of.log.lock();
        // Nothing is being written now: pages that are purged at once are forgotten.
        let upto = self.of.store.current();
        if !log.notes.are_open() && log.written.is_none() {
            log.forget(upto);
            return;
        }
        let began = clock::instant();
        let said = log.turn_over();
        let keys = log.keys();
        drop(log);
        for keys in keys.chunks(CHUNK) {
            let mut log = self.of.log.lock();
            for key in keys {
                log.judge(key);
            }
        }
        self.sync();
        let failed = {
            let mut log = self.of.log.lock();
            log.forget(upto);
            log.failed.take()
        };
        if let Some(why) = failed {
            self.fails("what is purged stays on the disk", &why);
        } else if let Some(name) = said
            && self.troubled.is_none()
            && self.of.log.lock().is_all_buried()
            && let Err(why) = self.place.remove(&name)
        {
            self.fails("a file of purges can't be taken away", &why);
        }
        self.rests = SWEEP.max(began.elapsed() * RESTS);
    }

    /// Finds out when pages were asked for, and writes it down.
    pub fn harvest(&mut self) {
        self.harvested = clock::moment();
        self.look_who_is_asked_for();
        let log = self.of.log.lock();
        let recent = to_recent(log.all().map(|(_, item)| (item.place(), item.asked)));
        drop(log);
        // It only says in which order.
        if let Err(why) = self.place.write(RECENT, &recent) {
            self.fails("when pages were asked for can't be written down", &why);
        }
    }

    fn look_who_is_asked_for(&self) {
        let now = clock::moment();
        let wall = clock::wall_millis(now);
        let mut touched: Vec<(Key, u64)> = Vec::new();
        self.of.store.each_touched(|key, at| {
            let ago = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
            touched.push((key.clone(), wall.saturating_sub(ago)));
        });
        for touched in touched.chunks(CHUNK) {
            let mut log = self.of.log.lock();
            for (key, asked) in touched {
                for item in log.of_mut(key) {
                    item.asked = item.asked.max(*asked);
                }
            }
        }
    }

    /// Writes a page in all variants that are not there as they are.
    fn write(&mut self, key: &Key, origin: u64) -> io::Result<()> {
        let now = clock::moment();
        {
            let mut log = self.of.log.lock();
            log.begin(self.of.store.current());
        }
        let slot = self.of.store.peek(key.as_ref(), now);
        let mut written = Ok(());
        // The newest last.
        for entry in slot.iter().flat_map(|slot| slot.variants().iter().rev()) {
            if entry.is_public() && written.is_ok() {
                written = self.write_entry(key, origin, entry, now);
            }
        }
        self.of.log.lock().done();
        written
    }

    fn write_entry(
        &mut self,
        key: &Key,
        origin: u64,
        entry: &Arc<Entry>,
        now: Moment,
    ) -> io::Result<()> {
        let same = |item: &&Item| item.variant == entry.variant;
        let is_known = |item: &Item| item.of == Some(identity(entry));
        if self
            .of
            .log
            .lock()
            .of(key)
            .iter()
            .find(same)
            .is_some_and(is_known)
        {
            return Ok(());
        }
        let ago = u64::try_from(now.since(entry.stored).as_millis()).unwrap_or(u64::MAX);
        let stored = clock::wall_millis(now).saturating_sub(ago);
        let stamp = record::stamp(entry, stored);
        let digest = record::digest(origin, entry);
        let mut log = self.of.log.lock();
        if log.renew(key, entry, digest, stamp)? {
            drop(log);
            self.wrote(record::ALIGN);
            return Ok(());
        }
        drop(log);
        let meta = record::meta(key.as_ref().bytes(), origin, digest, entry);
        let body = entry.body.pieces().iter().map(|piece| &piece[..]);
        let span = (record::FIXED as u64 + meta.len() as u64 + entry.body.len())
            .next_multiple_of(record::ALIGN);
        let (size, most) = self.bounds();
        let fits = span + HEADER <= most.min(size.saturating_sub(most));
        if meta.len() > META_MOST || entry.body.len() > LARGEST || !fits {
            self.of.skipped(Skipped::Large, 1);
            return Ok(());
        }
        self.make_room(span)?;
        let segment = self.room(span)?;
        let at = segment.append(entry.generation, stamp, &meta, body)?;
        self.wrote(span);
        let mut log = self.of.log.lock();
        let tags = entry.tags.said();
        let left = log.notes.left(key.as_ref(), &tags, entry.generation);
        if left == Standing::Gone {
            return Ok(());
        }
        let room = self.of.room(&log, key.len() + entry.variant.values.len());
        let Some(charge) = room else {
            self.of.skipped(Skipped::Memory, 1);
            return Ok(());
        };
        let item = Item {
            segment,
            at,
            span,
            body: entry.body.len(),
            variant: entry.variant.clone(),
            stamp,
            asked: stored,
            digest,
            origin,
            generation: entry.generation,
            tags,
            is_stale: left == Standing::Stale || entry.is_marked(),
            is_cold: false,
            of: Some(identity(entry)),
            _charge: charge,
        };
        log.insert(key, item, VARIANTS)
    }

    /// A file that has room for so many bytes.
    fn room(&mut self, span: u64) -> io::Result<Arc<Segment>> {
        let (_, most) = self.bounds();
        let has_room = |open: &&Arc<Segment>| open.size() + span <= most;
        if let Some(open) = self.open.as_ref().filter(has_room) {
            return Ok(Arc::clone(open));
        }
        let number = self.next;
        self.next += 1;
        let epoch = self.of.log.lock().epoch;
        let segment = Segment::create(&self.place, number, epoch).inspect_err(|_| {
            // It is of no use.
            let _ = self.place.remove(&Segment::name(number));
        });
        let segment = Arc::new(segment?);
        let mut log = self.of.log.lock();
        log.segments.insert(number, Arc::clone(&segment));
        self.open = Some(Arc::clone(&segment));
        Ok(segment)
    }

    /// The oldest files go until so much more fits. What is live in them is carried on.
    fn make_room(&mut self, span: u64) -> io::Result<()> {
        loop {
            let (size, segment) = self.bounds();
            // Room for what is carried on while its file is there.
            let usable = size.saturating_sub(segment);
            let log = self.of.log.lock();
            let fits = log.on_disk() + span <= usable && log.segments.len() as u64 <= SEGMENTS;
            let oldest = log.segments.values().next().cloned();
            drop(log);
            match oldest {
                Some(oldest) if !fits => {
                    self.thin_out(usable / 4 * 3);
                    self.retire(&oldest)?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Those that were asked for the longest ago go, until others have no more than `most` bytes.
    fn thin_out(&mut self, most: u64) {
        if self.of.log.lock().size().1 <= most {
            return;
        }
        self.look_who_is_asked_for();
        let log = self.of.log.lock();
        let mut excess = log.size().1.saturating_sub(most / 16 * 15);
        let all = log.all();
        let mut all: Vec<_> = all
            .map(|(key, item)| (item.asked, key.clone(), item.place(), item.span))
            .collect();
        drop(log);
        all.sort_unstable_by_key(|(asked, ..)| *asked);
        for (_, key, place, span) in all {
            if excess == 0 {
                break;
            }
            let mut log = self.of.log.lock();
            log.drop_items(&key, |item| item.place() == place);
            excess = excess.saturating_sub(span);
        }
    }

    /// Takes a file away. What is live in it is written anew first.
    fn retire(&mut self, oldest: &Arc<Segment>) -> io::Result<()> {
        if self
            .open
            .as_ref()
            .is_some_and(|open| Arc::ptr_eq(open, oldest))
        {
            self.open = None;
        }
        let log = self.of.log.lock();
        let live: Vec<(Key, u64)> = log
            .all()
            .filter(|(_, item)| Arc::ptr_eq(&item.segment, oldest))
            .map(|(key, item)| (key.clone(), item.at))
            .collect();
        drop(log);
        for (key, at) in live {
            self.carry_on(&key, oldest, at)?;
        }
        if let Some(open) = &self.open {
            open.sync()?;
        }
        self.of.log.lock().segments.remove(&oldest.number);
        self.place.remove(&Segment::name(oldest.number))
    }

    fn carry_on(&mut self, key: &Key, from: &Arc<Segment>, at: u64) -> io::Result<()> {
        let Some((meta, body)) = from.raw(at) else {
            if self.of.log.lock().lose(key, from, at) {
                self.of.skipped(Skipped::Torn, 1);
            }
            return Ok(());
        };
        let mut log = self.of.log.lock();
        let Some(item) = log.at_mut(key, from, at) else {
            return Ok(());
        };
        let (stamp, generation, span) = (item.stamp, item.generation, item.span);
        drop(log);
        // There is room while its old file is there, too.
        let to = self.room(span)?;
        let place = to.append(generation, stamp, &meta, std::iter::once(&body[..]))?;
        self.wrote(span);
        // It may have been purged meanwhile.
        let moved = self.of.log.lock().move_item(key, (from, at), (to, place));
        self.pace();
        moved
    }

    /// Takes away the files of processes before in which nothing is live.
    fn tidy(&mut self) {
        let mut log = self.of.log.lock();
        let live: HashSet<u64> = log.all().map(|(_, item)| item.segment.number).collect();
        let dead: Vec<u64> = log
            .segments
            .keys()
            .copied()
            .filter(|number| !live.contains(number))
            .collect();
        for number in dead {
            log.segments.remove(&number);
            // It is looked at again by the next process.
            let _ = self.place.remove(&Segment::name(number));
        }
    }

    /// The last turn: others may write here then.
    fn end(&mut self) {
        if self.right.is_some() && self.bounds().0 > 0 {
            let until = clock::instant() + LAST_TURN;
            while clock::instant() < until && self.troubled.is_none() {
                let mut queue = self.of.queue.lock();
                let Some(key) = queue.order.pop_front() else {
                    break;
                };
                let origin = queue.pages.remove(&key).unwrap_or_default();
                drop(queue);
                if let Err(why) = self.write(&key, origin) {
                    self.fails("pages can't be written", &why);
                }
            }
            self.harvest();
            self.sync();
        }
        self.right = None;
        self.of.queue.lock().has_ended = true;
        self.of.woken.notify_all();
    }
}

/// Tells an answer from all that are stored beside it or were at another time.
fn identity(entry: &Arc<Entry>) -> (usize, Moment) {
    (Arc::as_ptr(entry).addr(), entry.stored)
}

impl Log {
    /// Whether a page is there already as `entry` is: then it has its age from now on.
    fn renew(
        &mut self,
        key: &Key,
        entry: &Arc<Entry>,
        digest: u64,
        stamp: record::Stamp,
    ) -> io::Result<bool> {
        let tags = entry.tags.said();
        let left = self.notes.left(key.as_ref(), &tags, entry.generation);
        let found = self.of(key).iter().find(|item| {
            item.variant == entry.variant
                && item.digest == digest
                && self.standing(key.as_ref(), item) != Standing::Gone
        });
        let (Some(place), true) = (found.map(Item::place), left != Standing::Gone) else {
            return Ok(false);
        };
        let is_stale = left == Standing::Stale || entry.is_marked();
        let state = if is_stale { State::Stale } else { State::Live };
        let mut items = self.of_mut(key).iter_mut();
        let Some(item) = items.find(|item| item.place() == place) else {
            return Ok(false);
        };
        item.segment.stamp(item.at, state, &stamp)?;
        item.stamp = stamp;
        item.asked = item.asked.max(stamp.stored);
        item.of = Some(identity(entry));
        item.is_stale = is_stale;
        item.generation = entry.generation;
        self.renewed(key, &entry.variant);
        Ok(true)
    }

    /// The record of an item is elsewhere from now on, if it still stands here.
    fn move_item(
        &mut self,
        key: &Key,
        from: (&Arc<Segment>, u64),
        to: (Arc<Segment>, u64),
    ) -> io::Result<()> {
        let Some(item) = self.at_mut(key, from.0, from.1) else {
            return Ok(());
        };
        let state = match item.is_stale {
            true => State::Stale,
            false => State::Live,
        };
        to.0.set(to.1, state)?;
        (item.segment, item.at) = to;
        // Or the next process might find it twice.
        self.bury(from.0, from.1);
        Ok(())
    }
}
