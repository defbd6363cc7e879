//! The wire harness: scripts of bytes against the real binary. In reading order:
//!
//! - [`tree`] an indented outline, [`text`] bytes and patterns, [`script`] and [`steps`] the language;
//! - [`wire`] HTTP/1 on a socket, [`meet`] barriers between parties;
//! - [`proxy`] the process under test, [`origin`] the scripted one behind it, [`dns`] where that is, [`mmdb`] where clients are;
//! - [`actor`] whoever carries out steps, [`speak`] in HTTP, [`check`] what is held against an answer;
//! - [`stage`] one script from start to verdict, [`coverage`] promises against what carries them.

mod actor;
mod check;
pub mod clock;
pub mod coverage;
pub mod dns;
pub mod meet;
pub mod mmdb;
mod origin;
pub mod proxy;
pub mod script;
pub mod speak;
pub mod stage;
mod steps;
pub mod text;
mod tree;
pub mod wire;

use std::fmt;

/// What went wrong, and where in the script.
#[derive(Clone, Debug)]
pub struct Fault {
    line: usize,
    why: String,
}

impl Fault {
    pub fn at(line: usize, why: impl Into<String>) -> Fault {
        Fault {
            line,
            why: why.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}
