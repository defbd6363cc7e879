//! What a server does to those who ask: as a test says, and as long as it says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Outcome;
use super::site::{Gate, answer};
use crate::harness::wire::Conn;

pub const WELL: u8 = 0;
pub const RESETS: u8 = 1;
pub const FAILS: u8 = 2;
/// Answers nobody.
pub const HANGS: u8 = 3;

/// A server's, and its test's. At first it is well.
#[derive(Clone, Default)]
pub struct Manners(Arc<AtomicU8>, Arc<Gate>);

impl Manners {
    pub fn become_like(&self, manners: u8) {
        self.0.store(manners, Ordering::SeqCst);
    }

    /// Those that hang.
    pub fn release(&self) {
        self.1.open();
    }

    /// What a request gets instead of an answer; none where the server is well.
    pub fn misbehave(&self, conn: &mut Conn) -> Option<Outcome> {
        match self.0.load(Ordering::SeqCst) {
            RESETS => Some(Err("on purpose".into())),
            FAILS => Some(answer(conn, 503, "Cache-Control: no-store\r\n", b"not now")),
            HANGS => {
                self.1.wait();
                Some(Err("too late".into()))
            }
            _ => None,
        }
    }
}
