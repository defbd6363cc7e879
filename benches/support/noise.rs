//! The bodies: every path has its own, any byte of it can be checked without holding it.

use std::io::IoSlice;
use std::sync::LazyLock;

const LEN: usize = 1 << 16;
/// Bytes at the start of a body that name it.
const STAMP: usize = 16;

/// One table of printable bytes, written twice so that any window of up to `LEN` bytes is contiguous.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut table: Vec<u8> = (0..LEN)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b"abcdefghijklmnopqrstuvwxyz0123456789 ,.-ABCDEFGHIJKLMNOPQRSTUV\n\t"
                [(state >> 58) as usize]
        })
        .collect();
    table.extend_from_within(..);
    table
});

/// The body of one path: a stamp of the path's hash, then the table from a place that the hash names.
#[derive(Clone, Copy)]
pub struct Body {
    stamp: [u8; STAMP],
    from: usize,
    pub len: usize,
}

impl Body {
    pub fn of(path: &str, len: usize) -> Body {
        let hash = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut stamp = [0; STAMP];
        for (place, digit) in stamp.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(hash >> (60 - 4 * place) & 15) as usize];
        }
        Body {
            stamp,
            from: (hash >> 20) as usize % LEN,
            len,
        }
    }

    /// The bytes from `at` on, as far as they lie together; empty at the end.
    pub fn piece(&self, at: usize) -> &[u8] {
        if at >= self.len {
            return &[];
        }
        if at < STAMP {
            return &self.stamp[at..STAMP.min(self.len)];
        }
        let start = (self.from + at) % LEN;
        &TABLE[start..start + LEN.min(self.len - at)]
    }

    /// Whether `bytes` are what stands at `at`.
    pub fn agrees(&self, mut at: usize, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let piece = self.piece(at);
            let common = piece.len().min(bytes.len());
            if common == 0 || piece[..common] != bytes[..common] {
                return false;
            }
            at += common;
            bytes = &bytes[common..];
        }
        true
    }

    /// Head (from `sent` on) and body as slices for one vectored write, up to 1 MiB.
    pub fn slices<'a>(&'a self, head: &'a [u8], sent: usize) -> Vec<IoSlice<'a>> {
        let mut slices = Vec::with_capacity(4);
        if sent < head.len() {
            slices.push(IoSlice::new(&head[sent..]));
        }
        let mut at = sent.saturating_sub(head.len());
        while slices.len() < 16 {
            let piece = self.piece(at);
            if piece.is_empty() {
                break;
            }
            slices.push(IoSlice::new(piece));
            at += piece.len();
        }
        slices
    }

    pub fn to_vec(self) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.len);
        while whole.len() < self.len {
            whole.extend_from_slice(self.piece(whole.len()));
        }
        whole
    }
}
