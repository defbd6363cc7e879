//! The token that opens the admin API over TCP, and the pace of those who guess at it.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

use crate::files;
use crate::rules::gcra::{Cell, Gcra, Verdict};
use crate::state::{Dir, TOKEN};

/// Fewer bytes than this could be guessed.
pub const LEAST: usize = 16;
const NEW: usize = 32;

/// Known by its digest alone: what is compared has one length, and nothing in memory opens anything.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// # Errors
    /// It could be guessed, or no client could send it (RFC 6750 §2.1); for people.
    pub fn new(token: &[u8]) -> Result<Token, String> {
        if token.is_empty() {
            return Err("an empty token".to_owned());
        }
        if token.len() < LEAST {
            return Err(format!("a token of less than {LEAST} bytes"));
        }
        match token.iter().all(u8::is_ascii_graphic) {
            true => Ok(Token(hash(token))),
            false => Err("a token with other characters than visible ASCII".to_owned()),
        }
    }

    /// The token of a state directory, made if there is none yet.
    ///
    /// # Errors
    /// It is none: for people. `Ok(None)`: it can't be had, which is told in the log.
    pub fn of(dir: &Dir) -> Result<Option<Token>, String> {
        let path = dir.file(TOKEN);
        let token = match had(dir) {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no token: over TCP the admin API is shut");
                return Ok(None);
            }
        };
        if files::is_open(&path) {
            tracing::warn!(path = %path.display(), "everybody on this machine can read the token");
        }
        // An editor ends a file with a line's end.
        let token = Token::new(token.trim_ascii_end());
        token
            .map(Some)
            .map_err(|why| format!("{}: {why}; remove it to have one made", path.display()))
    }

    /// Whether it is this one. How long it takes tells nothing of how much is right.
    pub fn is(&self, offered: &[u8]) -> bool {
        self.0.ct_eq(&hash(offered)).into()
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, token).as_ref());
    out
}

fn had(dir: &Dir) -> io::Result<Vec<u8>> {
    let path = dir.file(TOKEN);
    match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut random = [0; NEW];
            let dealt = SystemRandom::new().fill(&mut random);
            dealt.map_err(|_| io::Error::other("the system has no random numbers"))?;
            let token = URL_SAFE_NO_PAD.encode(random);
            dir.create(TOKEN, format!("{token}\n").as_bytes())?;
            // Another process may have been quicker.
            std::fs::read(&path)
        }
        read => read,
    }
}

/// How many wrong tokens an address may send at once, and in how long it may send one more.
const AT_ONCE: u64 = 10;
const ONE_IN: Duration = Duration::from_secs(6);
/// Addresses share places, so that no number of them takes more memory.
const PLACES: usize = 256;

/// Who guesses. An address that has guessed too often is not heard until it may guess again, whatever it sends.
pub struct Guesses {
    law: Gcra,
    seed: RandomState,
    cells: Mutex<[Cell; PLACES]>,
}

impl Guesses {
    pub fn new() -> Guesses {
        Guesses {
            law: Gcra::new(1, ONE_IN, AT_ONCE).expect("a rate within bounds"),
            seed: RandomState::new(),
            cells: Mutex::new([Cell::default(); PLACES]),
        }
    }

    /// How long an address is still not heard. `now`: nanoseconds.
    pub fn shut(&self, from: IpAddr, now: u64) -> Option<Duration> {
        let cell = self.cells.lock()[self.place(from)];
        match self.law.decide(cell, now, 1) {
            Verdict::Refuse { wait, .. } => Some(wait),
            Verdict::Admit { .. } | Verdict::Wait { .. } => None,
        }
    }

    /// It has sent a wrong one.
    pub fn wrong(&self, from: IpAddr, now: u64) {
        let cell = &mut self.cells.lock()[self.place(from)];
        if let Verdict::Admit { cell: after, .. } = self.law.decide(*cell, now, 1) {
            *cell = after;
        }
    }

    fn place(&self, from: IpAddr) -> usize {
        // Whoever has one address of a /64 can have them all.
        let client = match from.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        self.seed.hash_one(client) as usize % PLACES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c52_a_token_is_made_once_and_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        let token = Token::of(&dir).unwrap().unwrap();
        let written = std::fs::read_to_string(dir.file(TOKEN)).unwrap();
        let written = written.trim_end();
        assert_eq!(URL_SAFE_NO_PAD.decode(written).unwrap().len(), 32);
        assert!(token.is(written.as_bytes()));
        assert!(Token::of(&dir).unwrap().unwrap().is(written.as_bytes()));
        for wrong in [&written[1..], &format!("{written}x"), "", &"x".repeat(43)] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn c52_what_is_no_token_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        for (token, why) in [
            ("", "empty"),
            ("\n", "empty"),
            ("0123456789abcde", "less than 16"),
            ("0123456789 abcdef", "visible ASCII"),
        ] {
            std::fs::write(dir.file(TOKEN), token).unwrap();
            let told = Token::of(&dir).err().unwrap();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn c52_who_guesses_is_not_heard_for_a_while() {
        let guesses = Guesses::new();
        let (from, other) = ([127, 0, 0, 1].into(), [10, 0, 0, 1].into());
        let mut now = 1_000_000_000_000;
        for _ in 0..AT_ONCE {
            assert_eq!(guesses.shut(from, now), None);
            guesses.wrong(from, now);
        }
        let wait = guesses.shut(from, now).unwrap();
        assert!(wait <= ONE_IN && !wait.is_zero(), "{wait:?}");
        if guesses.place(other) != guesses.place(from) {
            assert_eq!(guesses.shut(other, now), None);
        }
        // Who is not heard does not make it longer by asking.
        guesses.wrong(from, now);
        now += u64::try_from(wait.as_nanos()).unwrap();
        assert_eq!(guesses.shut(from, now), None);
    }
}
