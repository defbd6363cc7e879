//! Tags: which stored answers belong together, how many they are, and when they were purged last.
//!
//! An answer holds its tags, and each tag its numbers, so that a purge writes one number whether a tag has one answer or a
//! million, and a look at an answer needs no table. A tag lives as long as an answer has it, and is charged to the cache's
//! memory. That one was purged is remembered for as long as fetches are under way that began before, and may bring it.
//!
//! Tags are known by a keyed hash, so that nobody can make two of one; where stored answers outlive the process, so does the key. Two
//! that share one would be purged together.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;
use parking_lot::Mutex;
use siphasher::sip::SipHasher13;

use super::generation::Generations;
use super::memory::{Charge, Memory};
use crate::rules::purge::{Epoch, Standing};
use crate::rules::tags;

const SHARDS: usize = 64;
/// What a tag takes: itself and its place in the table, in bytes.
const TAG: usize = 160;
/// What an answer's set of them takes beside a pointer to each.
const SET: usize = 64;
/// Purged tags that no answer has, at most.
const MOST_GHOSTS: usize = 16_384;

/// See the module.
#[derive(Debug)]
pub struct Tags {
    shards: Box<[Shard]>,
    hasher: SipHasher13,
    /// What answers have that are [beyond](crate::rules::tags): every purge of a tag means it as well.
    beyond: Arc<Tag>,
    ghosts: Mutex<HashMap<u64, Epoch, Hasher>>,
    generations: Arc<Generations>,
    memory: Arc<Memory>,
}

type Hasher = foldhash::fast::RandomState;
type Shard = Mutex<HashMap<u64, Arc<Tag>, Hasher>>;

#[derive(Debug)]
struct Tag {
    hash: u64,
    hard: AtomicU64,
    soft: AtomicU64,
    /// Stored answers that have it and were not purged by it.
    answers: Mutex<u64>,
    _charge: Option<Charge>,
}

impl Tags {
    /// With a key of the process's own.
    pub fn new(memory: &Arc<Memory>, generations: &Arc<Generations>) -> Arc<Tags> {
        let drawn = Hasher::default();
        Tags::keyed(memory, generations, [0_u8, 1].map(|n| drawn.hash_one(n)))
    }

    /// With a key that others have, too.
    pub fn keyed(memory: &Arc<Memory>, generations: &Arc<Generations>, key: [u64; 2]) -> Arc<Tags> {
        Arc::new(Tags {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            beyond: Arc::new(Tag::new(0, Epoch::default(), None)),
            ghosts: Mutex::default(),
            generations: Arc::clone(generations),
            memory: Arc::clone(memory),
            hasher: SipHasher13::new_with_keys(key[0], key[1]),
        })
    }

    /// The tags of an answer with these fields, or nothing if memory is full. `before`: those of the stored answer that a 304
    /// with these fields renews; they stay where the 304 leaves out a field that they may have come from.
    pub fn of(self: &Arc<Self>, fields: &HeaderMap, before: Option<&Set>) -> Option<Set> {
        let read = tags::read(fields);
        let stays = before
            .and_then(|before| before.0.as_deref())
            .filter(|before| before.fields & !read.fields != 0);
        if let (Some(before), true) = (before, read.fields == 0) {
            return Some(before.clone());
        }
        let mut hashes: Vec<u64> = read.tags.iter().map(|tag| self.hash(tag)).collect();
        let (mut beyond, mut from) = (read.beyond, read.fields);
        if let Some(stays) = stays {
            hashes.extend(stays.tags.iter().map(|tag| tag.hash));
            beyond |= stays.beyond || hashes.len() > 2 * tags::MOST;
            hashes.truncate(2 * tags::MOST);
            from |= stays.fields;
        }
        hashes.sort_unstable();
        hashes.dedup();
        if hashes.is_empty() && !beyond {
            return Some(Set::default());
        }
        let mut set = Tagged {
            tags: Vec::with_capacity(hashes.len()),
            beyond,
            fields: from,
            table: Arc::clone(self),
        };
        for hash in hashes {
            set.tags.push(self.get(hash)?);
        }
        Some(Set(Some(Arc::new(set))))
    }

    /// The same tags as a set [said](Set::said) that it has, or nothing if memory is full.
    pub fn again(self: &Arc<Self>, said: &Said) -> Option<Set> {
        if said.hashes.is_empty() && !said.beyond {
            return Some(Set::default());
        }
        let mut set = Tagged {
            tags: Vec::with_capacity(said.hashes.len()),
            beyond: said.beyond,
            fields: said.fields,
            table: Arc::clone(self),
        };
        for hash in &said.hashes {
            set.tags.push(self.get(*hash)?);
        }
        Some(Set(Some(Arc::new(set))))
    }

    /// Notes that what has `tag` was purged; how many answers that were, with those that count as having every tag.
    pub fn purge(&self, tag: &str, generation: u64, soft: bool) -> u64 {
        let hash = self.hash(tag);
        let others = self.beyond.purge(generation, soft);
        let shard = self.shard(hash).lock();
        match shard.get(&hash) {
            Some(tag) => others + tag.purge(generation, soft),
            None => {
                self.haunt(hash, Epoch::of(generation, soft));
                others
            }
        }
    }

    /// How many answers a purge of `tag` would mean.
    pub fn answers(&self, tag: &str) -> u64 {
        let hash = self.hash(tag);
        let shard = self.shard(hash).lock();
        let its = shard.get(&hash).map_or(0, |tag| *tag.answers.lock());
        its + *self.beyond.answers.lock()
    }

    /// Tags that answers have, and purged ones that none has.
    pub fn len(&self) -> (usize, usize) {
        let tags = self.shards.iter().map(|shard| shard.lock().len()).sum();
        (tags, self.ghosts.lock().len())
    }

    /// Forgets what no fetch under way can bring any more.
    pub fn forget(&self, oldest: u64) {
        self.ghosts
            .lock()
            .retain(|_, epoch| epoch.latest() > oldest);
    }

    pub fn hash(&self, tag: &str) -> u64 {
        self.hasher.hash(tag.as_bytes())
    }

    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[hash as usize % SHARDS]
    }

    fn get(&self, hash: u64) -> Option<Arc<Tag>> {
        let mut shard = self.shard(hash).lock();
        if let Some(tag) = shard.get(&hash) {
            return Some(Arc::clone(tag));
        }
        let charge = self.memory.charge(TAG)?;
        let purged = self.ghosts.lock().remove(&hash).unwrap_or_default();
        let tag = Arc::new(Tag::new(hash, purged, Some(charge)));
        shard.insert(hash, Arc::clone(&tag));
        Some(tag)
    }

    /// An answer that had it is gone.
    fn retire(&self, tag: Arc<Tag>) {
        let mut shard = self.shard(tag.hash).lock();
        // The table's, and this one.
        if Arc::strong_count(&tag) == 2 {
            shard.remove(&tag.hash);
            self.haunt(tag.hash, tag.epoch());
        }
        // Under the lock, or of two who retire it neither would be the last.
        drop(tag);
    }

    /// Remembers a purge of a tag that no answer has.
    fn haunt(&self, hash: u64, epoch: Epoch) {
        if epoch.latest() == 0 {
            return;
        }
        let mut ghosts = self.ghosts.lock();
        if ghosts.len() >= MOST_GHOSTS && !ghosts.contains_key(&hash) {
            let oldest = self.generations.oldest();
            ghosts.retain(|_, epoch| epoch.latest() > oldest);
            if ghosts.len() >= MOST_GHOSTS {
                // No room to tell which tags fetches that last so long must not bring: they are to bring nothing.
                self.generations.raise_floor(self.generations.current());
                ghosts.clear();
            }
        }
        let known = ghosts.entry(hash).or_default();
        *known = known.or(epoch);
    }
}

impl Tag {
    fn new(hash: u64, purged: Epoch, charge: Option<Charge>) -> Tag {
        Tag {
            hash,
            hard: AtomicU64::new(purged.hard),
            soft: AtomicU64::new(purged.soft),
            answers: Mutex::default(),
            _charge: charge,
        }
    }

    fn epoch(&self) -> Epoch {
        Epoch {
            hard: self.hard.load(Ordering::Acquire),
            soft: self.soft.load(Ordering::Acquire),
        }
    }

    fn purge(&self, generation: u64, soft: bool) -> u64 {
        let mut answers = self.answers.lock();
        if soft {
            self.soft.fetch_max(generation, Ordering::AcqRel);
            return *answers;
        }
        self.hard.fetch_max(generation, Ordering::AcqRel);
        std::mem::take(&mut *answers)
    }

    /// Counts an answer in or out. One that a purge has taken was counted out by that.
    fn count(&self, generation: u64, change: i64) {
        let mut answers = self.answers.lock();
        if self.hard.load(Ordering::Acquire) <= generation {
            *answers = answers.saturating_add_signed(change);
        }
    }
}

/// The tags of an answer; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Set(Option<Arc<Tagged>>);

#[derive(Debug)]
struct Tagged {
    tags: Vec<Arc<Tag>>,
    beyond: bool,
    /// From which fields they are.
    fields: u8,
    table: Arc<Tags>,
}

/// What a set is made of, for those who keep it elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    pub hashes: Box<[u64]>,
    /// It counts as having every tag.
    pub beyond: bool,
    /// From which fields they are.
    pub fields: u8,
}

impl Set {
    /// What it is made of.
    pub fn said(&self) -> Said {
        let Some(set) = &self.0 else {
            return Said::default();
        };
        Said {
            hashes: set.tags.iter().map(|tag| tag.hash).collect(),
            beyond: set.beyond,
            fields: set.fields,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// When one of them was purged last.
    pub fn epoch(&self) -> Epoch {
        let epochs = self.all().map(Tag::epoch);
        epochs.fold(Epoch::default(), Epoch::or)
    }

    /// What purges of them have left of an answer.
    pub fn left(&self, generation: u64) -> Standing {
        self.epoch().leaves(generation)
    }

    /// Whether a purge of the tag of this hash means it.
    pub fn has(&self, hash: u64) -> bool {
        let tagged = self.0.as_deref();
        tagged.is_some_and(|set| set.beyond || set.tags.iter().any(|tag| tag.hash == hash))
    }

    /// An answer with these tags is stored.
    pub fn enter(&self, generation: u64) {
        self.all().for_each(|tag| tag.count(generation, 1));
    }

    /// And is stored no longer.
    pub fn exit(&self, generation: u64) {
        self.all().for_each(|tag| tag.count(generation, -1));
    }

    /// Bytes it takes beside tags that others have too.
    pub fn weight(&self) -> usize {
        let Some(set) = &self.0 else { return 0 };
        let own = |tag: &&Arc<Tag>| Arc::strong_count(tag) == 2;
        let own = set.tags.iter().filter(own).count();
        SET + set.tags.len() * size_of::<Arc<Tag>>() + own * TAG
    }

    fn all(&self) -> impl Iterator<Item = &Tag> {
        let set = self.0.as_deref();
        let beyond = set.filter(|set| set.beyond).map(|set| &*set.table.beyond);
        let tags = set.map_or(&[][..], |set| &set.tags);
        tags.iter().map(|tag| &**tag).chain(beyond)
    }
}

impl Drop for Tagged {
    fn drop(&mut self) {
        for tag in self.tags.drain(..) {
            self.table.retire(tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn table() -> (Arc<Tags>, Arc<Generations>, Arc<Memory>) {
        let (memory, generations) = (Memory::new(64 << 20), Arc::new(Generations::default()));
        (Tags::new(&memory, &generations), generations, memory)
    }

    fn named(value: &str) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert("surrogate-key", HeaderValue::from_str(value).unwrap());
        fields
    }

    #[test]
    fn a_million_answers_are_purged_by_one_number() {
        let (tags, generations, _memory) = table();
        let set = tags.of(&named("news"), None).unwrap();
        let before = generations.current();
        (0..1_000_000).for_each(|_| set.enter(before));
        assert_eq!(tags.answers("news"), 1_000_000);
        assert_eq!(tags.purge("news", generations.next(), false), 1_000_000);
        assert_eq!(set.left(before), Standing::Gone);
        // Counted out already, by the purge.
        set.exit(before);
        assert_eq!(tags.answers("news"), 0);
        assert_eq!(tags.purge("news", generations.next(), false), 0);
        let after = generations.current();
        set.enter(after);
        assert_eq!((tags.answers("news"), set.left(after)), (1, Standing::Good));
        set.exit(after);
        assert_eq!(tags.answers("news"), 0);
    }

    #[test]
    fn a_soft_purge_leaves_them_counted() {
        let (tags, generations, _memory) = table();
        let set = tags.of(&named("a b"), None).unwrap();
        set.enter(0);
        assert_eq!(tags.purge("b", generations.next(), true), 1);
        assert_eq!(set.left(0), Standing::Stale);
        assert_eq!(tags.purge("a", generations.next(), false), 1);
        assert_eq!(set.left(0), Standing::Gone);
        assert_eq!(tags.purge("c", generations.next(), false), 0);
    }

    #[test]
    fn who_is_beyond_is_purged_by_any_tag() {
        let (tags, generations, _memory) = table();
        let long = "x".repeat(tags::LONGEST + 1);
        let set = tags.of(&named(&long), None).unwrap();
        set.enter(0);
        assert_eq!(tags.purge("anything", generations.next(), false), 1);
        assert_eq!(set.left(0), Standing::Gone);
        assert!(set.has(tags.hash("anything")));
    }

    #[test]
    fn tags_are_charged_and_go_with_their_last_answer() {
        let (tags, _generations, memory) = table();
        let first = tags.of(&named("a b"), None).unwrap();
        let second = tags.of(&named("b c"), None).unwrap();
        assert_eq!((memory.used(), tags.len()), (3 * TAG, (3, 0)));
        assert_eq!(first.weight(), SET + 2 * size_of::<usize>() + TAG);
        drop((first, second));
        assert_eq!((memory.used(), tags.len()), (0, (0, 0)));
        let (little, generations) = (Memory::new(TAG), Arc::default());
        let scarce = Tags::new(&little, &generations);
        assert!(scarce.of(&named("a b"), None).is_none());
        assert_eq!((little.used(), scarce.len()), (0, (0, 0)));
    }

    #[test]
    fn a_purge_is_remembered_while_what_began_before_may_bring_its_tag() {
        let (tags, generations, _memory) = table();
        let begun = generations.begin();
        tags.purge("late", generations.next(), false);
        tags.forget(generations.oldest());
        assert_eq!(tags.len(), (0, 1));
        let set = tags.of(&named("late"), None).unwrap();
        assert_eq!(set.left(begun.generation()), Standing::Gone);
        // Its last answer is gone, and the fetch is still under way.
        drop(set);
        tags.forget(generations.oldest());
        assert_eq!(tags.len(), (0, 1));
        drop(begun);
        tags.forget(generations.oldest());
        assert_eq!(tags.len(), (0, 0));
    }

    #[test]
    fn a_flood_of_purges_takes_no_more_room() {
        let (tags, generations, _memory) = table();
        let begun = generations.begin();
        for n in 0..3 * MOST_GHOSTS {
            tags.purge(&format!("t{n}"), generations.next(), false);
            assert!(tags.len().1 <= MOST_GHOSTS);
        }
        // What it may not bring can't be told any more: it brings nothing.
        assert!(generations.floor() > begun.generation());
        drop(begun);
        let floor = generations.floor();
        for n in 0..3 * MOST_GHOSTS {
            tags.purge(&format!("u{n}"), generations.next(), false);
        }
        assert_eq!(generations.floor(), floor, "nothing is under way");
    }

    #[test]
    fn a_304_keeps_the_tags_that_it_does_not_replace() {
        let (tags, _generations, _memory) = table();
        let mut fields = named("a");
        fields.insert("cache-tag", HeaderValue::from_static("b"));
        let before = tags.of(&fields, None).unwrap();
        let has = |set: &Set, all: [&str; 4]| all.map(|tag| set.has(tags.hash(tag)));
        let all = ["a", "b", "c", "d"];
        let silent = tags.of(&HeaderMap::new(), Some(&before)).unwrap();
        assert_eq!(has(&silent, all), [true, true, false, false]);
        let one = tags.of(&named("c"), Some(&before)).unwrap();
        assert_eq!(has(&one, all), [true, true, true, false]);
        fields.insert("surrogate-key", HeaderValue::from_static("c"));
        fields.insert("cache-tag", HeaderValue::from_static("d"));
        let both = tags.of(&fields, Some(&one)).unwrap();
        assert_eq!(has(&both, all), [false, false, true, true]);
    }
}
