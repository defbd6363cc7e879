//! Request ids, and W3C Trace Context's `traceparent`.
//!
//! Ids tell requests apart; they are no secrets. Each thread has its own generator (SplitMix64 from
//! a random seed), so making one takes no lock, no allocation and no system call.

use std::cell::Cell;
use std::hash::BuildHasher;

/// 16 lower-case hex digits, never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// No request's.
    pub const NONE: RequestId = RequestId([b'0'; 16]);

    pub fn fresh() -> RequestId {
        let mut text = [0; 16];
        write_hex(random_nonzero(), &mut text);
        RequestId(text)
    }

    /// A random number that is the request's: the same however often it is asked.
    pub fn draw(&self) -> u32 {
        let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default();
        let first = self.0.iter().take(8);
        first.fold(0, |number, byte| number << 4 | digit(*byte))
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        ascii(&self.0)
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A `traceparent` value of version 00: `00-<trace id>-<parent id>-<flags>`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceParent([u8; 55]);

impl TraceParent {
    /// The client's, if it is valid (Trace Context §3.2.2). A later version is read as §4.3 says
    /// and becomes a 00.
    pub fn accept(value: &[u8]) -> Option<TraceParent> {
        let (head, rest) = value.split_first_chunk::<55>()?;
        let version = [head[0], head[1]];
        let well_formed = head.iter().enumerate().all(|(at, &byte)| match at {
            2 | 35 | 52 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
        let ends = match &version {
            b"00" => rest.is_empty(),
            b"ff" => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let nonzero = |id: &[u8]| id.iter().any(|&digit| digit != b'0');
        if !(well_formed && ends && nonzero(&head[3..35]) && nonzero(&head[36..52])) {
            return None;
        }
        let mut own = *head;
        if &version != b"00" {
            own[..2].copy_from_slice(b"00");
            // Of the flags only "sampled" keeps its meaning.
            let sampled = char::from(head[54])
                .to_digit(16)
                .is_some_and(|flags| flags & 1 == 1);
            own[53..].copy_from_slice(if sampled { b"01" } else { b"00" });
        }
        Some(TraceParent(own))
    }

    /// A new trace, not sampled.
    pub fn fresh() -> TraceParent {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        for at in [3, 19, 36] {
            let mut digits = [0; 16];
            write_hex(random_nonzero(), &mut digits);
            text[at..at + 16].copy_from_slice(&digits);
        }
        TraceParent(text)
    }

    pub fn as_str(&self) -> &str {
        ascii(&self.0)
    }

    /// The 32 hex digits that all spans of the trace share.
    pub fn trace_id(&self) -> &str {
        ascii(&self.0[3..35])
    }
}

/// 64 random bits for jitter and sampling; not for secrets.
pub fn random() -> u64 {
    STATE.with(|state| {
        let seeded = match state.get() {
            // A generator that runs into its own "unseeded" mark once in 2^64 is seeded again.
            0 => std::hash::RandomState::new().hash_one(std::thread::current().id()),
            going => going,
        };
        let next = seeded.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        mix(next)
    })
}

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// SplitMix64's output function (Steele, Lea, Flood, OOPSLA 2014): a bijection, so one thread never
/// repeats itself.
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random_nonzero() -> u64 {
    match random() {
        0 => 1,
        other => other,
    }
}

fn write_hex(number: u64, text: &mut [u8; 16]) {
    for (pair, byte) in text.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair.copy_from_slice(&HEX[usize::from(byte)]);
    }
}

/// Each byte's two digits.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

fn ascii(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_hex_and_differ_between_requests_and_threads() {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(|| (0..10_000).map(|_| RequestId::fresh()).collect::<Vec<_>>())
            })
            .collect();
        let mut seen = HashSet::new();
        for thread in threads {
            for id in thread.join().unwrap() {
                assert!(
                    id.as_str()
                        .bytes()
                        .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
                );
                assert_eq!(id.as_str().len(), 16);
                assert!(seen.insert(id), "{id:?} twice");
            }
        }
        assert_eq!(seen.len(), 80_000);
    }

    #[test]
    fn a_draw_is_the_requests_own() {
        let id = RequestId(*b"89abcdef00000000");
        assert_eq!((id.draw(), id.draw()), (0x89ab_cdef, 0x89ab_cdef));
        assert_eq!(RequestId(*b"ffffffff00000000").draw(), u32::MAX);
    }

    #[test]
    fn hex_is_the_number() {
        let mut text = [0; 16];
        write_hex(0x0123_4567_89ab_cdef, &mut text);
        assert_eq!(&text, b"0123456789abcdef");
    }

    #[test]
    fn a_fresh_trace_is_one_that_is_accepted() {
        let made = TraceParent::fresh();
        assert!(TraceParent::accept(made.as_str().as_bytes()) == Some(made));
        assert!(made.as_str().ends_with("-00"));
        assert_eq!(made.trace_id(), &made.as_str()[3..35]);
    }

    #[test]
    fn trace_context_3_2_2_traceparent_values() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let accepted =
            |value: &str| TraceParent::accept(value.as_bytes()).map(|t| t.as_str().to_owned());
        assert_eq!(accepted(good).as_deref(), Some(good));
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0b-what-comes";
        assert_eq!(accepted(later).as_deref(), Some(good));
        let unsampled = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe";
        assert_eq!(
            accepted(unsampled).map(|t| t[52..].to_owned()).as_deref(),
            Some("-00")
        );
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e473\r-00f067aa0ba902b7-01",
        ] {
            assert_eq!(accepted(bad), None, "{bad:?}");
        }
    }
}
