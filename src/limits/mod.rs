//! Who is asking, beyond the address: somebody with a key of the list, or with a token that was verified. Everybody else is
//! anonymous, and nobody is turned away here: what an app thinks of a bad token is the app's to say.
//!
//! [`identities`] reads a request; [`keys`] are API keys, [`jwt`] tokens, by secrets and the keys of [`jwks`]. [`seen`] knows
//! the tokens of late, [`pace`] who sends forged ones. [`standing`] is what comes of it, for who counts.

pub mod identities;
mod jwks;
mod jwt;
mod keys;
mod pace;
mod seen;
pub mod standing;
mod watched;

use std::fs;
use std::io::{self, Read};
use std::path::Path;

pub use identities::{Identities, IdentitySpec, JwtSpec, KeySpec};
pub use standing::{Id, Kind, Known, Standing, Tier};

/// More than this is no list of keys.
const MOST_BYTES: u64 = 64 << 20;

/// A file's text, if it is as long as keys may be.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = fs::File::open(path)?.take(MOST_BYTES + 1);
    file.read_to_string(&mut text)?;
    match text.len() as u64 > MOST_BYTES {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(text),
    }
}
