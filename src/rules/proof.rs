//! Proof of work, and the pass that it earns: what a browser shows that was asked to show something.
//!
//! A *puzzle* is a text that only the holder of a key can make. A *solution* is a puzzle and a nonce behind it, so that the
//! SHA-256 of both begins with as many zero bits as the puzzle says (Back, "Hashcash", 2002). It earns a *pass*: again a
//! text that only the holder of the key can make. Both are bound to a client and to a host, which are signed but not
//! written, so nobody learns anything from them, and one that was taken along to another address is worth nothing.
//!
//! No puzzle is remembered, nor which were solved. A pass ends so long after its *puzzle* was made, so a solution that is sent
//! twice earns the same pass twice, and whoever has it may come with it as often as he likes anyway.
//!
//! Times are the wall clock's: proxies that share a key have no other in common. One that steps back ends the passes that
//! would last longer than any may; one that steps forward ends those it passes. Either costs a visitor another puzzle.

use std::fmt;

use ring::digest::{Context, SHA256};
use ring::hmac;

use super::client::Client;
use super::fields::Fields;
use super::host::Scheme;
use super::identity;
use super::sticky::Token;

/// Bytes of a puzzle: one block of SHA-256, so that a try costs the next one only.
pub const PUZZLE: usize = 64;
/// Bytes of a nonce, which may be any. Hex digits are enough for the hardest puzzle.
pub const NONCE: usize = 8;
/// Seconds that the clocks of proxies with one key may differ by.
const SKEW: u64 = 60;
/// How many cookies of the pass's name are looked at. A browser sends one; what another host of the same domain has put
/// beside it must not hide that, nor may a crowd of them cost more than a page.
const TRIES: usize = 4;

/// Both texts begin with their version, and end with half an HMAC in hex.
const VERSION: u8 = b'1';
const TAG: usize = 32;
/// Version, time, difficulty, salt.
const PUZZLE_FACTS: usize = PUZZLE - TAG;
/// Version, time.
const PASS_FACTS: usize = 10;
const PASS: usize = PASS_FACTS + TAG;

/// What puzzles and passes are signed with.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl Key {
    pub fn new(secret: &[u8]) -> Key {
        Key(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn tag(&self, kind: &str, facts: &[u8], whose: Whose<'_>) -> Token {
        // Of equal length for all but the host, which is last: no two of them are written alike.
        let mut unit = [0; 9];
        let (family, octets) = unit.split_at_mut(1);
        match whose.client {
            Client::V4(ip) => octets[..4].copy_from_slice(&ip),
            Client::V6(network) => {
                family[0] = 6;
                octets.copy_from_slice(&network);
            }
        }
        let mut signing = hmac::Context::with_key(&self.0);
        signing.update(kind.as_bytes());
        signing.update(facts);
        signing.update(&unit);
        signing.update(whose.host.as_bytes());
        let signed = signing.sign();
        let mut half = [0; TAG / 2];
        half.copy_from_slice(&signed.as_ref()[..TAG / 2]);
        Token::of(&half)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Who is asked, and where: a host as the cache's key has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Whose<'a> {
    pub client: Client,
    pub host: &'a str,
}

/// What is asked for, and what is given for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Zero bits; each doubles the work.
    pub bits: u8,
    /// Seconds from a puzzle to the end of its pass.
    pub pass: u64,
    /// Seconds from a puzzle to the end of its use.
    pub solve_within: u64,
}

/// A puzzle's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Puzzle([u8; PUZZLE]);

impl Puzzle {
    /// `now` is in Unix seconds. Of `salt` 80 bits count: no two puzzles are to be the same, but it need not be a secret.
    pub fn make(key: &Key, whose: Whose<'_>, terms: &Terms, salt: u128, now: u64) -> Puzzle {
        let mut text = [VERSION; PUZZLE];
        write_hex(now.into(), &mut text[1..10]);
        write_hex(terms.bits.into(), &mut text[10..12]);
        write_hex(salt, &mut text[12..PUZZLE_FACTS]);
        let tag = key.tag("tidegate puzzle\n", &text[..PUZZLE_FACTS], whose);
        text[PUZZLE_FACTS..].copy_from_slice(tag.text());
        Puzzle(text)
    }

    pub fn text(&self) -> &[u8; PUZZLE] {
        &self.0
    }
}

/// What a solution is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Solved(Pass),
    /// No puzzle of this key's for this client and host, or not solved.
    Wrong,
    /// A puzzle of a time too long ago, or yet to come.
    Expired,
}

/// Judges a puzzle's text with a nonce behind it. `now` is in Unix seconds.
pub fn judge(key: &Key, whose: Whose<'_>, terms: &Terms, solution: &[u8], now: u64) -> Verdict {
    if solution.len() != PUZZLE + NONCE {
        return Verdict::Wrong;
    }
    let (facts, rest) = solution.split_at(PUZZLE_FACTS);
    let tag = key.tag("tidegate puzzle\n", facts, whose);
    if Token::read(&rest[..TAG]) != Some(tag) {
        return Verdict::Wrong;
    }
    // What is signed is as it was written.
    let (Some(made), Some(bits)) = (read_hex(&facts[1..10]), read_hex(&facts[10..12])) else {
        return Verdict::Wrong;
    };
    if made > now.saturating_add(SKEW) || now > made.saturating_add(terms.solve_within) {
        return Verdict::Expired;
    }
    match u64::from(zero_bits(solution)) >= bits {
        true => Verdict::Solved(Pass::make(key, whose, made.saturating_add(terms.pass))),
        false => Verdict::Wrong,
    }
}

/// Zero bits at the beginning of the SHA-256 of a text, as far as they are asked for.
fn zero_bits(text: &[u8]) -> u32 {
    let mut hashing = Context::new(&SHA256);
    hashing.update(text);
    let hash = hashing.finish();
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_ref()[..8]);
    u64::from_be_bytes(first).leading_zeros()
}

/// A pass's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass([u8; PASS]);

impl Pass {
    /// `ends`: from when on it is worth nothing, in Unix seconds.
    fn make(key: &Key, whose: Whose<'_>, ends: u64) -> Pass {
        let mut text = [VERSION; PASS];
        write_hex(ends.into(), &mut text[1..PASS_FACTS]);
        let tag = key.tag("tidegate pass\n", &text[..PASS_FACTS], whose);
        text[PASS_FACTS..].copy_from_slice(tag.text());
        Pass(text)
    }

    /// The cookie it is kept in, as Set-Cookie says it. `now` is in Unix seconds.
    pub fn line(&self, scheme: Scheme, now: u64) -> String {
        let name = cookie(scheme);
        let text = String::from_utf8_lossy(&self.0);
        let left = read_hex(&self.0[1..PASS_FACTS])
            .unwrap_or_default()
            .saturating_sub(now);
        let secure = match scheme {
            Scheme::Http => "",
            Scheme::Https => "; Secure",
        };
        format!("{name}={text}; Path=/; Max-Age={left}; HttpOnly; SameSite=Lax{secure}")
    }
}

/// The name of a pass's cookie. Over TLS no other host of the same domain, and nobody without TLS, can set one of this name
/// (RFC 6265bis §4.1.3.2); without TLS browsers would not keep it.
pub fn cookie(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "tidegate_pass",
        Scheme::Https => "__Host-tidegate-pass",
    }
}

/// Whether a text is a pass that lets this client in, here and now (Unix seconds).
pub fn admits(key: &Key, whose: Whose<'_>, terms: &Terms, pass: &[u8], now: u64) -> bool {
    if pass.len() != PASS {
        return false;
    }
    let (facts, tag) = pass.split_at(PASS_FACTS);
    if Token::read(tag) != Some(key.tag("tidegate pass\n", facts, whose)) {
        return false;
    }
    let longest = now.saturating_add(terms.pass).saturating_add(SKEW);
    read_hex(&facts[1..]).is_some_and(|ends| now < ends && ends <= longest)
}

/// Whether a request brings such a pass.
pub fn brings(
    request: &dyn Fields,
    scheme: Scheme,
    key: &Key,
    whose: Whose<'_>,
    terms: &Terms,
    now: u64,
) -> bool {
    let name = cookie(scheme).as_bytes();
    let (mut tries, mut admitted) = (0, false);
    request.each_named("cookie", &mut |line| {
        for pass in identity::pairs(line).filter_map(|pair| pair.value_of(name)) {
            if admitted || tries == TRIES {
                return;
            }
            tries += 1;
            admitted = admits(key, whose, terms, pass, now);
        }
    });
    admitted
}

/// Writes a number with as many digits as there is room for, the highest left out.
fn write_hex(number: u128, out: &mut [u8]) {
    for (at, digit) in out.iter_mut().rev().enumerate() {
        let four = number.checked_shr(4 * at as u32).unwrap_or(0) & 15;
        *digit = b"0123456789abcdef"[four as usize];
    }
}

fn read_hex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0_u64, |number, digit| {
        let four = char::from(*digit).to_digit(16)?;
        Some(number.checked_mul(16)? + u64::from(four))
    })
}

#[cfg(test)]
mod tests;
