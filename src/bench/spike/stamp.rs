//! Bodies that can be checked: each says on its first line which page it is, for whom, when it was made and how long it is, and every byte
//! behind that follows from this line. So a client knows of each answer whether it is the right page, whole, and for the right
//! user, and how old it is, whatever stands between it and the origin.

use std::fmt;

/// How every body begins.
const BEGINS: &[u8] = b"tidegate-bench 1 ";
/// The longest first line; a body is at least as long.
pub const LEAST: usize = 192;

/// The first line of a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The page's number.
    pub page: u32,
    /// Whom it was made for, if not for everybody.
    pub user: Option<u32>,
    /// The page's content counts up with each purge.
    pub version: u32,
    /// When it was made, in Unix milliseconds.
    pub made: u64,
    /// Bytes of the whole body.
    pub len: u64,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.map_or(0, |user| u64::from(user) + 1);
        write!(
            f,
            "tidegate-bench 1 page={} user={user} version={} made={} len={}",
            self.page, self.version, self.made, self.len
        )
    }
}

impl Stamp {
    fn read(line: &[u8]) -> Option<Stamp> {
        let line = std::str::from_utf8(line.strip_prefix(BEGINS)?).ok()?;
        let mut words = line.split(' ');
        let mut number = |name: &str| -> Option<u64> {
            let (told, value) = words.next()?.split_once('=')?;
            value.parse().ok().filter(|_| told == name)
        };
        Some(Stamp {
            page: number("page")?.try_into().ok()?,
            user: match number("user")? {
                0 => None,
                user => Some((user - 1).try_into().ok()?),
            },
            version: number("version")?.try_into().ok()?,
            made: number("made")?,
            len: number("len")?,
        })
    }

    /// What the bytes behind the first line follow from.
    fn seed(&self) -> u64 {
        let user = self.user.map_or(0, |user| u64::from(user) + 1);
        let mut seed = mix(u64::from(self.page) << 32 | u64::from(self.version));
        seed = mix(seed ^ user);
        mix(seed ^ self.made)
    }

    /// The body, of its length or of [`LEAST`] if that is more.
    pub fn body(mut self) -> Vec<u8> {
        self.len = self.len.max(LEAST as u64);
        let mut body = format!("{self}\n").into_bytes();
        let line = body.len();
        body.resize(self.len as usize, 0);
        let seed = self.seed();
        for (at, chunk) in body[line..].chunks_mut(8).enumerate() {
            chunk.copy_from_slice(&word(seed, at as u64)[..chunk.len()]);
        }
        body
    }
}

/// SplitMix64's finisher (Steele, Lea and Flood, OOPSLA 2014).
fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Eight letters, the `at`-th of a body.
fn word(seed: u64, at: u64) -> [u8; 8] {
    let bits = mix(seed.wrapping_add(at));
    // Letters, so that whoever looks at it sees text: `a` to `p`.
    ((bits & 0x0f0f_0f0f_0f0f_0f0f) + 0x6161_6161_6161_6161).to_le_bytes()
}

/// What a body turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// All of it is as its first line says.
    Whole(Stamp),
    /// It ended before its length.
    Short(Stamp),
    /// Some of it is not of this body, or more than it.
    Torn(Stamp),
    /// It has no such line.
    Unstamped,
}

/// Checks a body as it comes.
#[derive(Default)]
pub struct Check {
    line: Vec<u8>,
    state: State,
    /// Bytes behind the first line so far.
    at: u64,
}

#[derive(Default)]
enum State {
    #[default]
    Line,
    Filling(Stamp, u64),
    Torn(Stamp),
    Unstamped,
}

impl Check {
    /// More of it has come.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        if let State::Line = self.state {
            let room = LEAST.saturating_sub(self.line.len());
            let end = memchr::memchr(b'\n', &bytes[..bytes.len().min(room)]);
            let taken = end.map_or(bytes.len().min(room), |end| end + 1);
            self.line.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            let is_one = self.line.starts_with(BEGINS) || BEGINS.starts_with(&self.line);
            self.state = match end {
                Some(_) => match Stamp::read(self.line.trim_ascii_end()) {
                    Some(stamp) => {
                        let seed = stamp.seed();
                        State::Filling(stamp, seed)
                    }
                    None => State::Unstamped,
                },
                None if is_one && self.line.len() < LEAST => State::Line,
                None => State::Unstamped,
            };
        }
        let State::Filling(stamp, seed) = &self.state else {
            return;
        };
        let left = stamp.len.saturating_sub(self.line.len() as u64 + self.at);
        if bytes.len() as u64 > left || !follows(*seed, self.at, bytes) {
            self.state = State::Torn(stamp.clone());
            return;
        }
        self.at += bytes.len() as u64;
    }

    /// That was all.
    pub fn end(self) -> Seen {
        match self.state {
            State::Line | State::Unstamped => Seen::Unstamped,
            State::Torn(stamp) => Seen::Torn(stamp),
            State::Filling(stamp, _) => match self.line.len() as u64 + self.at == stamp.len {
                true => Seen::Whole(stamp),
                false => Seen::Short(stamp),
            },
        }
    }
}

/// Whether `bytes` are those at `at`.
fn follows(seed: u64, at: u64, bytes: &[u8]) -> bool {
    let into = (at % 8) as usize;
    let (first, rest) = bytes.split_at(((8 - into) % 8).min(bytes.len()));
    if !first.is_empty() && word(seed, at / 8)[into..into + first.len()] != *first {
        return false;
    }
    let from = (at + first.len() as u64) / 8;
    let words = rest.chunks_exact(8);
    let last = words.remainder();
    let count = words.len() as u64;
    words
        .zip(from..)
        .all(|(chunk, at)| *chunk == word(seed, at))
        && word(seed, from + count)[..last.len()] == *last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(len: u64) -> Stamp {
        Stamp {
            page: 7,
            user: Some(0),
            version: 3,
            made: 1_700_000_000_123,
            len,
        }
    }

    fn seen(pieces: &[&[u8]]) -> Seen {
        let mut check = Check::default();
        pieces.iter().for_each(|piece| check.feed(piece));
        check.end()
    }

    #[test]
    fn a_body_is_whole_however_it_is_cut() {
        for len in [0, 192, 193, 1000, 4096] {
            let body = stamp(len).body();
            assert_eq!(body.len() as u64, len.max(LEAST as u64));
            let whole = Seen::Whole(stamp(len.max(LEAST as u64)));
            assert_eq!(seen(&[&body]), whole);
            for cut in 0..body.len().min(300) {
                let (one, other) = body.split_at(cut);
                assert_eq!(seen(&[one, other]), whole, "{len} at {cut}");
            }
            let bytes: Vec<&[u8]> = body.chunks(1).collect();
            assert_eq!(seen(&bytes), whole);
        }
    }

    #[test]
    fn what_is_short_torn_or_none_is_seen() {
        let body = stamp(1000).body();
        for end in [100, 193, 999] {
            assert_eq!(seen(&[&body[..end]]), Seen::Short(stamp(1000)), "{end}");
        }
        let mut torn = body.clone();
        for at in [120, 500, 999] {
            torn[at] ^= 1;
            assert_eq!(seen(&[&torn]), Seen::Torn(stamp(1000)), "{at}");
            torn[at] ^= 1;
        }
        assert_eq!(seen(&[&body, b"x"]), Seen::Torn(stamp(1000)));
        // The beginning of one, the end of another.
        let other = Stamp {
            page: 8,
            ..stamp(1000)
        }
        .body();
        assert_eq!(
            seen(&[&body[..500], &other[500..]]),
            Seen::Torn(stamp(1000))
        );
        for text in [
            &b""[..],
            b"<html>",
            b"tidegate-bench 1 page=x\n",
            &[b't'; 400],
        ] {
            assert_eq!(seen(&[text]), Seen::Unstamped);
        }
    }
}
