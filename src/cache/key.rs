//! What a page is stored under: scheme, host, path and query, exactly as the origin is asked for it.
//!
//! The 64-bit hash is seeded per process, so that a stranger cannot aim at a shard; equality is on the bytes, so that
//! two pages never meet in one entry.

use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use moka::Equivalent;

static SEED: LazyLock<foldhash::fast::RandomState> =
    LazyLock::new(foldhash::fast::RandomState::default);

/// A key that owns its bytes; clones share them.
#[derive(Debug, Clone)]
pub struct Key {
    hash: u64,
    bytes: Arc<[u8]>,
}

/// The same, borrowed from the buffer it was written into.
#[derive(Debug, Clone, Copy)]
pub struct KeyRef<'a> {
    hash: u64,
    bytes: &'a [u8],
}

impl Key {
    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef {
            hash: self.hash,
            bytes: &self.bytes,
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Bytes it takes on the heap.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl<'a> KeyRef<'a> {
    /// The key that `bytes` spell.
    pub fn new(bytes: &'a [u8]) -> KeyRef<'a> {
        KeyRef {
            hash: SEED.hash_one(bytes),
            bytes,
        }
    }

    pub fn to_key(self) -> Key {
        Key {
            hash: self.hash,
            bytes: self.bytes.into(),
        }
    }

    pub fn hash(self) -> u64 {
        self.hash
    }

    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.hash == other.hash && self.bytes == other.bytes
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.hash == key.hash && *self.bytes == *key.bytes
    }
}

/// Hands on the hash a key already has.
#[derive(Default, Clone, Copy)]
pub struct AlreadyHashed(u64);

pub type KeyHasher = BuildHasherDefault<AlreadyHashed>;

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_hashes_do_not_make_equal_keys() {
        let a = Key {
            hash: 1,
            bytes: (*b"a").as_slice().into(),
        };
        let b = Key {
            hash: 1,
            bytes: (*b"b").as_slice().into(),
        };
        assert_ne!(a, b);
        assert!(!a.as_ref().equivalent(&b));
    }

    #[test]
    fn a_borrowed_key_finds_its_owned_self() {
        let owned = KeyRef::new(b"http\0a\0/").to_key();
        assert!(KeyRef::new(b"http\0a\0/").equivalent(&owned));
        assert!(!KeyRef::new(b"http\0b\0/").equivalent(&owned));
    }
}
