//! What a server does to those who ask: as a test says, and as long as it says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use super::Outcome;
use super::site::{Gate, answer};
use crate::harness::wire::Conn;

pub const WELL: u8 = 0;
pub const RESETS: u8 = 1;
pub const FAILS: u8 = 2;
/// Answers nobody.
pub const HANGS: u8 = 3;
/// Every third time.
pub const FAILS_OFTEN: u8 = 4;

/// A server's, and its test's. At first it is well.
#[derive(Clone, Default)]
pub struct Manners(Arc<AtomicU8>, Arc<Gate>, Arc<AtomicUsize>);

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
            FAILS_OFTEN if self.2.fetch_add(1, Ordering::SeqCst) % 3 == 2 => {
                Some(answer(conn, 502, "Cache-Control: no-store\r\n", b"broken"))
            }
            _ => None,
        }
    }
}
