//! What was purged since all that is kept was last gone through: in memory, to judge by, and on the disk, for the next process.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::place::{self, Place};
use super::record::Seal;
use crate::cache::key::KeyRef;
use crate::cache::tags::Said;
use crate::rules::prefixes::Prefixes;
use crate::rules::purge::{Epoch, Standing, place as place_of};

/// Notes of one kind; where there are more, all that is kept counts as purged.
const MOST: usize = 1 << 18;
/// The longest purge that is written: of longer ones the beginning, which means more.
const LONGEST: usize = 512 * 1024;
/// The largest file of them that is read.
const LARGEST: u64 = 1 << 30;

/// What one means, as it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark<'a> {
    /// A page, by its key.
    Page(&'a [u8]),
    /// All whose places begin so.
    Start(&'a [u8]),
    /// A tag, by its hash.
    Tag(u64),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Notes {
    pages: HashMap<u64, Epoch>,
    starts: Prefixes<Epoch>,
    tags: HashMap<u64, Epoch>,
    any_tag: Epoch,
}

impl Notes {
    pub fn note(&mut self, mark: Mark<'_>, generation: u64, soft: bool) {
        let full = self.pages.len() >= MOST || self.tags.len() >= MOST;
        match mark {
            _ if full || self.starts.len() >= MOST => {
                *self = Notes::default();
                self.starts.entry(b"").raise(generation, soft);
                // What was meant before, too, and some of it was hard.
                self.starts.entry(b"").raise(generation, false);
            }
            Mark::Page(key) => {
                let page = self.pages.entry(KeyRef::new(key).hash()).or_default();
                page.raise(generation, soft);
            }
            Mark::Start(start) => self.starts.entry(start).raise(generation, soft),
            Mark::Tag(hash) => {
                self.tags.entry(hash).or_default().raise(generation, soft);
                self.any_tag.raise(generation, soft);
            }
        }
    }

    /// What they leave of a page whose fetch began in `generation`.
    pub fn left(&self, key: KeyRef<'_>, tags: &Said, generation: u64) -> Standing {
        if self.is_empty() {
            return Standing::Good;
        }
        let mut epoch = self.pages.get(&key.hash()).copied().unwrap_or_default();
        if !self.starts.is_empty() {
            let starts = self.starts.of(place_of(key.bytes()));
            epoch = starts.fold(epoch, |all, one| all.or(*one));
        }
        if !self.tags.is_empty() {
            let its = tags.hashes.iter().filter_map(|hash| self.tags.get(hash));
            epoch = its.fold(epoch, |all, one| all.or(*one));
        }
        if tags.beyond {
            epoch = epoch.or(self.any_tag);
        }
        epoch.leaves(generation)
    }

    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.starts.is_empty() && self.tags.is_empty()
    }

    /// Whether there are some that no page was gone through for.
    pub fn are_open(&self) -> bool {
        !self.starts.is_empty() || !self.tags.is_empty()
    }

    /// How many beginnings there are: each makes all others dearer.
    pub fn starts(&self) -> usize {
        self.starts.len()
    }

    /// Forgets those of pages up to a generation, which were carried out at once.
    pub fn forget_pages(&mut self, upto: u64) {
        self.pages.retain(|_, epoch| epoch.latest() > upto);
    }

    /// Forgets all others up to a generation.
    pub fn forget(&mut self, upto: u64) {
        self.starts.retain(|epoch| epoch.latest() > upto);
        self.tags.retain(|_, epoch| epoch.latest() > upto);
        if self.tags.is_empty() {
            self.any_tag = Epoch::default();
        }
    }
}

/// A file of purges of one process.
#[derive(Debug)]
pub struct Written {
    pub name: String,
    file: File,
    seal: Seal,
    len: u64,
    is_dirty: bool,
}

const MAGIC: [u8; 16] = *b"tidegate purges1";
const HEADER: usize = 64;

impl Written {
    /// The process's epoch in a file's name.
    pub fn epoch_in(name: &str) -> Option<u64> {
        let (epoch, nth) = name.strip_suffix(".purged")?.split_once('-')?;
        u64::from_str_radix(nth, 16).ok()?;
        u64::from_str_radix(epoch, 16).ok()
    }

    /// # Errors
    /// It can't be made.
    pub fn create(place: &Place, epoch: u64, nth: u64) -> io::Result<Written> {
        let name = format!("{epoch:016x}-{nth:016x}.purged");
        let file = place.create(&name)?;
        let seal = Seal(place::random()?);
        let mut header = [0; HEADER];
        header[..16].copy_from_slice(&MAGIC);
        header[16..32].copy_from_slice(seal.0.map(u64::to_le_bytes).as_flattened());
        let sum = seal.sum(b'p', 0, &[&header[..32]]);
        header[32..40].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&header, 0)?;
        Ok(Written {
            name,
            file,
            seal,
            len: HEADER as u64,
            is_dirty: true,
        })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// # Errors
    /// It can't be written.
    pub fn append(&mut self, mark: Mark<'_>, generation: u64, soft: bool) -> io::Result<()> {
        let hash;
        let (kind, what) = match mark {
            Mark::Page(key) => (0, key),
            Mark::Start(start) => (1, start),
            Mark::Tag(number) => {
                hash = number.to_le_bytes();
                (2, &hash[..])
            }
        };
        let what = &what[..what.len().min(LONGEST)];
        let mut out = Vec::with_capacity(what.len() + 32);
        out.extend_from_slice(&(what.len() as u64).to_le_bytes());
        out.extend_from_slice(&generation.to_le_bytes());
        out.extend_from_slice(&[kind, u8::from(soft)]);
        out.extend_from_slice(what);
        let sum = self.seal.sum(b'r', self.len, &[&out]);
        out.extend_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&out, self.len)?;
        self.len += out.len() as u64;
        self.is_dirty = true;
        Ok(())
    }

    /// What is to be flushed to the disk, if there is anything to.
    pub fn unsynced(&mut self) -> Option<io::Result<File>> {
        std::mem::take(&mut self.is_dirty).then(|| self.file.try_clone())
    }
}

/// What a file says, as far as it is whole; and whether that is all.
pub fn read(bytes: &[u8], mut each: impl FnMut(Mark<'_>, u64, bool)) -> bool {
    let header = bytes.get(..HEADER).unwrap_or_default();
    let word = |bytes: &[u8], from: usize| {
        let word = bytes.get(from..from + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(word))
    };
    let seal = match (word(header, 16), word(header, 24)) {
        (Some(one), Some(other)) => Seal([one, other]),
        _ => return false,
    };
    if header[..16] != MAGIC || Some(seal.sum(b'p', 0, &[&header[..32]])) != word(header, 32) {
        return false;
    }
    let mut at = HEADER;
    let mut record = || {
        let rest = &bytes[at..];
        let len = usize::try_from(word(rest, 0)?)
            .ok()
            .filter(|len| *len <= LONGEST)?;
        let generation = word(rest, 8)?;
        let (all, sum) = (rest.get(..18 + len)?, word(rest, 18 + len)?);
        if seal.sum(b'r', at as u64, &[all]) != sum {
            return None;
        }
        let what = &all[18..];
        let mark = match all[16] {
            0 => Mark::Page(what),
            1 => Mark::Start(what),
            2 => Mark::Tag(word(what, 0)?),
            _ => return None,
        };
        each(mark, generation, all[17] == 1);
        at += 26 + len;
        Some(())
    };
    while record().is_some() {}
    at == bytes.len()
}

/// What processes before this one have purged and not gone through.
#[derive(Debug, Default)]
pub struct Before {
    /// By the epoch of the process.
    notes: BTreeMap<u64, Notes>,
    /// The files that said so.
    pub names: Vec<String>,
    /// Files that end in the middle of something.
    pub torn: u64,
}

impl Before {
    /// All that is there but `own`.
    pub fn read(place: &Place, names: &[String], own: Option<&str>) -> Before {
        let mut before = Before::default();
        for name in names.iter().filter(|name| own != Some(name.as_str())) {
            let Some(epoch) = Written::epoch_in(name) else {
                continue;
            };
            let notes = before.notes.entry(epoch).or_default();
            let is_whole = place.read(name, LARGEST).is_ok_and(|bytes| {
                read(&bytes, |mark, generation, soft| {
                    notes.note(mark, generation, soft);
                })
            });
            before.torn += u64::from(!is_whole);
            before.names.push(name.clone());
        }
        before
    }

    /// The last process that is known of.
    pub fn epoch(&self) -> u64 {
        self.notes.keys().next_back().copied().unwrap_or(0)
    }

    /// What they left of a page of a process of `epoch`.
    pub fn left(&self, key: KeyRef<'_>, tags: &Said, epoch: u64, generation: u64) -> Standing {
        let later = self.notes.range(epoch..);
        later
            .map(|(of, notes)| {
                let began = if *of == epoch { generation } else { 0 };
                notes.left(key, tags, began)
            })
            .max()
            .unwrap_or(Standing::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"http\0a\0/b/1";

    fn said(hashes: &[u64]) -> Said {
        Said {
            hashes: hashes.into(),
            ..Said::default()
        }
    }

    #[test]
    fn a_page_is_judged_by_all_that_mean_it() {
        let left = |mark, soft, tags: &Said| {
            let mut notes = Notes::default();
            notes.note(mark, 5, soft);
            [4, 5].map(|generation| notes.left(KeyRef::new(KEY), tags, generation))
        };
        let (none, beyond) = (
            said(&[]),
            Said {
                beyond: true,
                ..said(&[])
            },
        );
        for (mark, tags) in [
            (Mark::Page(KEY), &none),
            (Mark::Start(b"a\0/b/"), &none),
            (Mark::Start(b""), &none),
            (Mark::Tag(7), &said(&[1, 7])),
            (Mark::Tag(7), &beyond),
        ] {
            assert_eq!(left(mark, false, tags), [Standing::Gone, Standing::Good]);
            assert_eq!(left(mark, true, tags), [Standing::Stale, Standing::Good]);
        }
        for (mark, tags) in [
            (Mark::Page(b"http\0a\0/b/"), &none),
            (Mark::Start(b"a\0/c"), &none),
            (Mark::Tag(8), &said(&[1, 7])),
        ] {
            assert_eq!(left(mark, false, tags), [Standing::Good; 2]);
        }
    }

    #[test]
    fn what_is_forgotten_means_nothing_any_more() {
        let mut notes = Notes::default();
        notes.note(Mark::Page(KEY), 5, false);
        notes.note(Mark::Tag(7), 6, false);
        notes.note(Mark::Start(b"x"), 7, false);
        notes.forget(6);
        assert_eq!(notes.left(KeyRef::new(KEY), &said(&[7]), 5), Standing::Good);
        assert_eq!(notes.left(KeyRef::new(KEY), &said(&[7]), 4), Standing::Gone);
        assert!(notes.are_open());
        notes.forget(7);
        notes.forget_pages(5);
        assert!(notes.is_empty());
    }

    #[test]
    fn what_is_written_is_read_as_far_as_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::open(folder.path()).unwrap();
        let mut written = Written::create(&place, 3, 0).unwrap();
        let marks = [Mark::Page(KEY), Mark::Start(b""), Mark::Tag(9)];
        let mut ends = vec![written.len()];
        for (n, mark) in marks.iter().enumerate() {
            written.append(*mark, n as u64 + 1, n == 1).unwrap();
            ends.push(written.len());
        }
        let bytes = place.read(&written.name, 1 << 20).unwrap();
        for len in 0..=bytes.len() {
            let mut seen = 0;
            let whole = read(&bytes[..len], |mark, generation, soft| {
                assert_eq!(
                    (mark, generation, soft),
                    (marks[seen], seen as u64 + 1, seen == 1)
                );
                seen += 1;
            });
            let all = ends.iter().filter(|end| **end <= len as u64).count();
            assert_eq!(seen, all.saturating_sub(1), "{len}");
            assert_eq!(whole, ends.contains(&(len as u64)), "{len}");
        }
        // Any bit that is another is noticed.
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            let whole = read(&flipped, |_, _, _| {});
            assert!(!whole || (40..HEADER).contains(&at), "{at}");
        }
        assert_eq!(Written::epoch_in(&written.name), Some(3));
    }

    #[test]
    fn purges_mean_what_processes_before_have_left() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::open(folder.path()).unwrap();
        let mut written = Written::create(&place, 3, 0).unwrap();
        written.append(Mark::Tag(7), 5, false).unwrap();
        let before = Before::read(&place, &place.names().unwrap(), None);
        let left =
            |epoch, generation| before.left(KeyRef::new(KEY), &said(&[7]), epoch, generation);
        assert_eq!((left(2, 9), left(3, 4)), (Standing::Gone, Standing::Gone));
        assert_eq!((left(3, 5), left(4, 0)), (Standing::Good, Standing::Good));
        assert_eq!((before.epoch(), before.torn), (3, 0));
    }
}
