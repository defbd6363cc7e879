//! A file of records, one behind the other.

use std::fs::File;
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use rustix::fs::OFlags;
use siphasher::sip::SipHasher13;

use super::place::{self, Place};
use super::record::{self, ALIGN, FIXED, Fixed, LARGEST, META_MOST, Meta, Seal, Stamp, State};
use crate::cache::entry::Body;
use crate::cache::memory::Memory;

const MAGIC: [u8; 16] = *b"tidegate pages 1";
/// The file's own beginning.
pub const HEADER: u64 = 64;
/// Bodies up to this size are read as one piece, larger ones in such that a reader's window takes.
const ONE_PIECE: u64 = 256 * 1024;
const PIECE: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Segment {
    pub number: u64,
    /// Of the process that wrote it.
    pub epoch: u64,
    file: File,
    seal: Seal,
    size: AtomicU64,
    /// What was written since it was flushed to the disk.
    is_dirty: AtomicBool,
}

/// A record that was found.
pub struct Found {
    pub at: u64,
    pub fixed: Fixed,
    pub stamp: Stamp,
    pub meta: Meta,
}

/// Why a page can't be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unread {
    /// It is not what was written.
    Torn,
    /// Memory is full.
    NoMemory,
}

impl Segment {
    pub fn name(number: u64) -> String {
        format!("{number:016x}.pages")
    }

    /// The number in a file's name.
    pub fn number_in(name: &str) -> Option<u64> {
        let number = name.strip_suffix(".pages").filter(|hex| hex.len() == 16)?;
        u64::from_str_radix(number, 16).ok()
    }

    /// # Errors
    /// It can't be made.
    pub fn create(place: &Place, number: u64, epoch: u64) -> io::Result<Segment> {
        let file = place.create(&Segment::name(number))?;
        let seal = Seal(place::random()?);
        let mut header = [0; HEADER as usize];
        header[..16].copy_from_slice(&MAGIC);
        header[16..24].copy_from_slice(&epoch.to_le_bytes());
        header[24..40].copy_from_slice(seal.0.map(u64::to_le_bytes).as_flattened());
        let sum = seal.sum(b'f', 0, &[&header[..40]]);
        header[40..48].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&header, 0)?;
        Ok(Segment {
            number,
            epoch,
            file,
            seal,
            size: AtomicU64::new(HEADER),
            is_dirty: AtomicBool::new(true),
        })
    }

    /// One that is there.
    ///
    /// # Errors
    /// It can't be opened, or is none.
    pub fn open(place: &Place, number: u64) -> io::Result<Segment> {
        let file = place.file(&Segment::name(number), OFlags::RDWR)?;
        let mut header = [0; HEADER as usize];
        file.read_exact_at(&mut header, 0)?;
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&header[from..from + 8]);
            u64::from_le_bytes(word)
        };
        let seal = Seal([word(24), word(32)]);
        if header[..16] != MAGIC || seal.sum(b'f', 0, &[&header[..40]]) != word(40) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Segment {
            number,
            epoch: word(16),
            size: AtomicU64::new(file.metadata()?.len()),
            file,
            seal,
            is_dirty: AtomicBool::new(false),
        })
    }

    /// Bytes it takes on the disk.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Writes a record that is [`Born`](State::Born), and gives where. One thread at a time.
    ///
    /// # Errors
    /// It can't be written; then nothing of it is there.
    pub fn append<'a>(
        &self,
        generation: u64,
        stamp: Stamp,
        meta: &[u8],
        body: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> io::Result<u64> {
        let at = self.size().next_multiple_of(ALIGN);
        let meta_sum = self.seal.sum(b'm', at, &[meta]);
        let mut hasher = self.body_hasher(at, meta_sum);
        let mut body_len = 0;
        for piece in body.clone() {
            hasher.write(piece);
            body_len += piece.len() as u64;
        }
        let fixed = Fixed {
            state: State::Born,
            stamp: Some(stamp),
            meta_len: u32::try_from(meta.len()).map_err(io::Error::other)?,
            body_len,
            generation,
            meta_sum,
            body_sum: hasher.finish(),
        };
        let mut head = fixed.write(&self.seal, at).to_vec();
        head.extend_from_slice(meta);
        let written = self.write_all(at, head, body);
        if let Err(error) = written {
            // The next one is written there.
            let _ = self.file.set_len(self.size());
            return Err(error);
        }
        self.is_dirty.store(true, Ordering::Relaxed);
        self.size.store(at + fixed.span(), Ordering::Relaxed);
        Ok(at)
    }

    fn write_all<'a>(
        &self,
        at: u64,
        mut head: Vec<u8>,
        body: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        let mut to = at;
        for piece in body {
            if head.len() + piece.len() > PIECE {
                self.file.write_all_at(&head, to)?;
                to += head.len() as u64;
                head.clear();
            }
            match piece.len() > PIECE {
                true => {
                    self.file.write_all_at(piece, to)?;
                    to += piece.len() as u64;
                }
                false => head.extend_from_slice(piece),
            }
        }
        self.file.write_all_at(&head, to)
    }

    /// Says what a record is from now on.
    ///
    /// # Errors
    /// It can't be written.
    pub fn set(&self, at: u64, state: State) -> io::Result<()> {
        self.is_dirty.store(true, Ordering::Relaxed);
        self.file.write_all_at(&[state.byte()], at + 4)
    }

    /// The same, with another stamp.
    ///
    /// # Errors
    /// It can't be written.
    pub fn stamp(&self, at: u64, state: State, stamp: &Stamp) -> io::Result<()> {
        self.is_dirty.store(true, Ordering::Relaxed);
        let changed = record::changed(&self.seal, at, state, stamp);
        self.file.write_all_at(&changed, at + 4)
    }

    /// Flushes it to the disk, if there is anything to.
    ///
    /// # Errors
    /// It can't be.
    pub fn sync(&self) -> io::Result<()> {
        match self.is_dirty.swap(false, Ordering::Relaxed) {
            true => self.file.sync_data(),
            false => Ok(()),
        }
    }

    /// Gives each record that is live or stale, in the order in which they were written. How many torn places there are.
    pub fn scan(&self, mut each: impl FnMut(Found)) -> u64 {
        let (mut at, mut torn, mut lost) = (HEADER, 0, false);
        while at + FIXED as u64 <= self.size() {
            let Some(fixed) = self.fixed(at) else {
                // What comes behind something torn may still be good.
                torn += u64::from(!lost);
                lost = true;
                at += ALIGN;
                continue;
            };
            lost = false;
            if matches!(fixed.state, State::Live | State::Stale) {
                let found = fixed.stamp.and_then(|stamp| {
                    let is_all = at + fixed.len() <= self.size();
                    let meta = self.meta(at, &fixed, &stamp).filter(|_| is_all)?;
                    Some(Found {
                        at,
                        fixed,
                        stamp,
                        meta,
                    })
                });
                match found {
                    Some(found) => each(found),
                    None => torn += 1,
                }
            }
            at += fixed.span();
        }
        torn
    }

    fn fixed(&self, at: u64) -> Option<Fixed> {
        let mut bytes = [0; FIXED];
        self.file.read_exact_at(&mut bytes, at).ok()?;
        let fixed = Fixed::read(&bytes, &self.seal, at)?;
        let is_so = fixed.meta_len as usize <= META_MOST && fixed.body_len <= LARGEST;
        is_so.then_some(fixed)
    }

    fn meta(&self, at: u64, fixed: &Fixed, stamp: &Stamp) -> Option<Meta> {
        Meta::read(&self.meta_bytes(at, fixed)?, stamp)
    }

    fn meta_bytes(&self, at: u64, fixed: &Fixed) -> Option<Vec<u8>> {
        let mut bytes = vec![0; fixed.meta_len as usize];
        self.file
            .read_exact_at(&mut bytes, at + FIXED as u64)
            .ok()?;
        (self.seal.sum(b'm', at, &[&bytes]) == fixed.meta_sum).then_some(bytes)
    }

    /// Bound to what stands before it: the body of one record is none of another.
    fn body_hasher(&self, at: u64, meta_sum: u64) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_keys(self.seal.0[0], self.seal.0[1] ^ at);
        hasher.write(b"b");
        hasher.write(&meta_sum.to_le_bytes());
        hasher
    }

    /// The page of a record, as it was written. `stamp`: what is known of it. Blocking.
    ///
    /// # Errors
    /// It is torn, or there is no memory for it.
    pub fn read(
        &self,
        at: u64,
        stamp: &Stamp,
        memory: &Arc<Memory>,
    ) -> Result<(Meta, Body), Unread> {
        let fixed = self.fixed(at).ok_or(Unread::Torn)?;
        let meta = self.meta(at, &fixed, stamp).ok_or(Unread::Torn)?;
        let mut hasher = self.body_hasher(at, fixed.meta_sum);
        let mut from = at + FIXED as u64 + u64::from(fixed.meta_len);
        let end = from + fixed.body_len;
        let most = match fixed.body_len {
            0..=ONE_PIECE => ONE_PIECE as usize,
            _ => PIECE,
        };
        let mut pieces = Vec::new();
        while from < end {
            let len = usize::try_from(end - from).map_or(most, |left| left.min(most));
            let mut piece = vec![0; len];
            let read = self.file.read_exact_at(&mut piece, from);
            read.map_err(|_| Unread::Torn)?;
            hasher.write(&piece);
            pieces.push(memory.hold(Bytes::from(piece)).ok_or(Unread::NoMemory)?);
            from += len as u64;
        }
        match hasher.finish() == fixed.body_sum {
            true => Ok((meta, Body::gather(&pieces, memory))),
            false => Err(Unread::Torn),
        }
    }

    /// The bytes of a record, to write it elsewhere: what comes before its body, and that. Blocking.
    pub fn raw(&self, at: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        let fixed = self.fixed(at)?;
        let meta = self.meta_bytes(at, &fixed)?;
        let mut body = vec![0; usize::try_from(fixed.body_len).ok()?];
        let from = at + FIXED as u64 + u64::from(fixed.meta_len);
        self.file.read_exact_at(&mut body, from).ok()?;
        let mut hasher = self.body_hasher(at, fixed.meta_sum);
        hasher.write(&body);
        (hasher.finish() == fixed.body_sum).then_some((meta, body))
    }
}
