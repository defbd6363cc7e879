//! A page as bytes on the disk.
//!
//! A record begins at a multiple of 64, so that what is changed in place, its state and its stamp, lies within one page of memory:
//! whoever is killed leaves the old or the new. Everything else is written once. Sums are keyed per file and bound to the
//! record's place, so that nothing in a page's body can pass for a record.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use siphasher::sip::SipHasher13;

use super::place::Key;
use crate::cache::entry::{Entry, Head};
use crate::cache::table::Variant;
use crate::cache::tags::Said;
use crate::rules::storing::{Audience, Source, Terms};
use crate::rules::vary::Vary;

/// Records begin at multiples of it.
pub const ALIGN: u64 = 64;
/// What comes before the rest, in bytes.
pub const FIXED: usize = 112;
/// The longest that lies between that and the body.
pub const META_MOST: usize = 256 * 1024;
/// The largest body that is kept: larger ones are no pages.
pub const LARGEST: u64 = 16 << 20;

const MAGIC: [u8; 4] = *b"page";

/// What a record is. Written last of all, and alone changed later, with the stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It may not be whole yet.
    Born,
    Live,
    /// A soft purge has made it stale.
    Stale,
    Dead,
}

impl State {
    fn of(byte: u8) -> Option<State> {
        [State::Born, State::Live, State::Stale, State::Dead]
            .get(usize::from(byte))
            .copied()
    }

    pub fn byte(self) -> u8 {
        self as u8
    }
}

/// What changes when the origin says that the page is still true.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    /// When it came, in Unix milliseconds.
    pub stored: u64,
    /// How old it was then, and may get, in milliseconds.
    pub initial_age: u64,
    pub lifetime: u64,
}

/// The beginning of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fixed {
    pub state: State,
    /// None: it is torn.
    pub stamp: Option<Stamp>,
    pub meta_len: u32,
    pub body_len: u64,
    pub generation: u64,
    pub meta_sum: u64,
    pub body_sum: u64,
}

impl Fixed {
    /// How far it is to where the next one may begin.
    pub fn span(&self) -> u64 {
        self.len().next_multiple_of(ALIGN)
    }

    /// Bytes to the end of its body.
    pub fn len(&self) -> u64 {
        FIXED as u64 + u64::from(self.meta_len) + self.body_len
    }

    pub fn write(&self, seal: &Seal, at: u64) -> [u8; FIXED] {
        let mut out = [0; FIXED];
        out[..4].copy_from_slice(&MAGIC);
        let stamp = self.stamp.unwrap_or_default();
        out[4..40].copy_from_slice(&changed(seal, at, self.state, &stamp));
        out[64..68].copy_from_slice(&self.meta_len.to_le_bytes());
        let numbers = [self.body_len, self.generation, self.meta_sum, self.body_sum];
        for (n, number) in numbers.iter().enumerate() {
            out[72 + 8 * n..80 + 8 * n].copy_from_slice(&number.to_le_bytes());
        }
        let sum = seal.sum(b'h', at, &[&out[64..104]]);
        out[104..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// None: no record begins here.
    pub fn read(bytes: &[u8; FIXED], seal: &Seal, at: u64) -> Option<Fixed> {
        let number = |from: usize| {
            let bytes = bytes.get(from..from + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        if bytes[..4] != MAGIC || seal.sum(b'h', at, &[&bytes[64..104]]) != number(104)? {
            return None;
        }
        let stamp = Stamp {
            stored: number(8)?,
            initial_age: number(16)?,
            lifetime: number(24)?,
        };
        let is_whole = seal.sum(b's', at, &[&bytes[8..32]]) == number(32)?;
        Some(Fixed {
            state: State::of(bytes[4])?,
            stamp: is_whole.then_some(stamp),
            meta_len: u32::try_from(number(64)?).ok()?,
            body_len: number(72)?,
            generation: number(80)?,
            meta_sum: number(88)?,
            body_sum: number(96)?,
        })
    }
}

/// What stands from the fourth byte of a record on and is changed in place.
pub fn changed(seal: &Seal, at: u64, state: State, stamp: &Stamp) -> [u8; 36] {
    let mut out = [0; 36];
    out[0] = state.byte();
    for (n, number) in [stamp.stored, stamp.initial_age, stamp.lifetime]
        .iter()
        .enumerate()
    {
        out[4 + 8 * n..12 + 8 * n].copy_from_slice(&number.to_le_bytes());
    }
    let sum = seal.sum(b's', at, &[&out[4..28]]);
    out[28..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// Makes sums with a file's key.
#[derive(Clone, Copy, Debug)]
pub struct Seal(pub Key);

impl Seal {
    /// The sum of parts of a record that begins at `at`. `what` tells the parts apart.
    pub fn sum<B: AsRef<[u8]>>(&self, what: u8, at: u64, parts: &[B]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0[0], self.0[1] ^ at);
        hasher.write(&[what]);
        parts.iter().for_each(|part| hasher.write(part.as_ref()));
        hasher.finish()
    }
}

/// What a record says of its page beside its body.
#[derive(Debug)]
pub struct Meta {
    pub key: Box<[u8]>,
    /// Which upstream it came from.
    pub origin: u64,
    /// Of all that makes it another page for its readers.
    pub digest: u64,
    pub head: Head,
    pub terms: Terms,
    pub variant: Variant,
    pub tags: Said,
    pub cost: Duration,
}

/// A page's stamp, which came at `stored` (Unix milliseconds).
pub fn stamp(entry: &Entry, stored: u64) -> Stamp {
    Stamp {
        stored,
        initial_age: millis(entry.terms.initial_age),
        lifetime: millis(entry.terms.lifetime),
    }
}

/// The bytes of a page beside its body.
pub fn meta(key: &[u8], origin: u64, digest: u64, entry: &Entry) -> Vec<u8> {
    let mut out = Out(Vec::with_capacity(512));
    out.bytes(key);
    out.number(origin);
    out.number(digest);
    out.number(millis(entry.cost));
    out.bytes(entry.head.bytes());
    out.number(entry.head.own_at() as u64);
    out.0.push(u8::from(entry.head.may_encode));
    terms(&entry.terms, &mut out);
    out.names(&entry.variant.names);
    out.bytes(&entry.variant.values);
    tags(&entry.tags.said(), &mut out);
    out.0
}

impl Meta {
    /// None: these are no such bytes.
    pub fn read(bytes: &[u8], stamp: &Stamp) -> Option<Meta> {
        let mut input = In(bytes);
        let key = input.bytes()?.into();
        let (origin, digest) = (input.number()?, input.number()?);
        let cost = Duration::from_millis(input.number()?);
        let head = Bytes::copy_from_slice(input.bytes()?);
        let own_at = usize::try_from(input.number()?).ok()?;
        let head = Head::restore(head, own_at, input.byte()? == 1)?;
        let terms = input.terms(stamp)?;
        let variant = Variant {
            names: input.names()?.into(),
            values: input.bytes()?.into(),
        };
        let (beyond, fields) = (input.byte()? == 1, input.byte()?);
        let hashes = (0..input.number()?).map(|_| input.number());
        let tags = Said {
            hashes: hashes.collect::<Option<_>>()?,
            beyond,
            fields,
        };
        input.0.is_empty().then_some(Meta {
            key,
            origin,
            digest,
            head,
            terms,
            variant,
            tags,
            cost,
        })
    }
}

/// Fields that are another in every answer, and make no other page.
const VOLATILE: [&[u8]; 6] = [
    b"date",
    b"expires",
    b"server-timing",
    b"x-request-id",
    b"x-response-time",
    b"x-runtime",
];

/// The same for pages that are the same to who reads them, however often they were fetched.
pub fn digest(origin: u64, entry: &Entry) -> u64 {
    let mut out = Out(Vec::with_capacity(512));
    out.number(origin);
    for line in entry.head.bytes().split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !VOLATILE.iter().any(|one| name.eq_ignore_ascii_case(one)) {
            out.0.extend_from_slice(line);
        }
    }
    out.0.push(u8::from(entry.head.may_encode));
    terms(&entry.terms, &mut out);
    out.names(&entry.variant.names);
    out.bytes(&entry.variant.values);
    tags(&entry.tags.said(), &mut out);
    let mut hasher = SipHasher13::new();
    hasher.write(&out.0);
    for piece in entry.body.pieces() {
        hasher.write(piece);
    }
    hasher.finish()
}

/// All but what the stamp says.
fn terms(terms: &Terms, out: &mut Out) {
    let source = match terms.source {
        Source::Explicit => 0,
        Source::NoCache => 1,
        Source::Heuristic => 2,
        Source::Default => 3,
        Source::ErrorTtl => 4,
    };
    let bits = [
        terms.always_revalidate,
        terms.forbids_stale,
        terms.fresh_on_arrival,
        terms.audience == Audience::AnonymousOnly,
        terms.explicitly_shared,
        terms.permits_authorization,
        terms.no_transform,
        terms.immutable,
        terms.strip_set_cookie,
    ];
    let bits = bits.iter().fold(0, |all, bit| all << 1 | u64::from(*bit));
    out.0.push(source);
    out.number(bits);
    out.number(millis(terms.swr));
    out.number(millis(terms.sie));
    match &terms.vary {
        Vary::None => out.names(&[]),
        Vary::Names(names) => out.names(names),
        // Nothing that is stored has it.
        Vary::Star => out.number(u64::MAX),
    }
}

fn tags(said: &Said, out: &mut Out) {
    out.0.extend([u8::from(said.beyond), said.fields]);
    out.number(said.hashes.len() as u64);
    said.hashes.iter().for_each(|hash| out.number(*hash));
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn names(&mut self, names: &[HeaderName]) {
        self.number(names.len() as u64);
        names.iter().for_each(|name| self.bytes(name.as_ref()));
    }
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }

    fn names(&mut self) -> Option<Vec<HeaderName>> {
        let names = (0..self.number()?).map(|_| HeaderName::from_bytes(self.bytes()?).ok());
        names.collect()
    }

    fn terms(&mut self, stamp: &Stamp) -> Option<Terms> {
        let source = match self.byte()? {
            0 => Source::Explicit,
            1 => Source::NoCache,
            2 => Source::Heuristic,
            3 => Source::Default,
            4 => Source::ErrorTtl,
            _ => return None,
        };
        let bits = self.number()?;
        let bit = |nth: u32| bits >> (8 - nth) & 1 == 1;
        Some(Terms {
            source,
            lifetime: Duration::from_millis(stamp.lifetime),
            initial_age: Duration::from_millis(stamp.initial_age),
            always_revalidate: bit(0),
            forbids_stale: bit(1),
            fresh_on_arrival: bit(2),
            audience: match bit(3) {
                true => Audience::AnonymousOnly,
                false => Audience::Everyone,
            },
            explicitly_shared: bit(4),
            permits_authorization: bit(5),
            no_transform: bit(6),
            immutable: bit(7),
            strip_set_cookie: bit(8),
            swr: Duration::from_millis(self.number()?),
            sie: Duration::from_millis(self.number()?),
            vary: match self.names()? {
                none if none.is_empty() => Vary::None,
                names => Vary::Names(names.into()),
            },
        })
    }
}

/// What selects a variant, shared by those that are alike.
pub fn shared(names: &[HeaderName], known: Option<&Arc<[HeaderName]>>) -> Arc<[HeaderName]> {
    match known {
        Some(known) if **known == *names => Arc::clone(known),
        _ => names.into(),
    }
}
