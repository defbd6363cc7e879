//! A page in content codings of our own, as they come to be made.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use super::entry::Entry;
use crate::rules::encoding::Coding;

/// A page is worth a coding when it was asked for in it so often.
const WORTH: u8 = 3;

/// The encoded representations of one entry.
#[derive(Debug, Default)]
pub struct Encoded {
    made: [OnceLock<Arc<Entry>>; Coding::ALL.len()],
    asked: [AtomicU8; Coding::ALL.len()],
    /// A bit for each coding that is made, being made, or not worth making.
    claimed: AtomicU8,
}

impl Encoded {
    pub fn get(&self, coding: Coding) -> Option<&Arc<Entry>> {
        self.made[coding as usize].get()
    }

    /// Those that are there.
    pub fn made(&self) -> impl Iterator<Item = (Coding, &Arc<Entry>)> {
        let all = Coding::ALL.into_iter();
        all.filter_map(|coding| Some((coding, self.get(coding)?)))
    }

    /// Adds one; the first stays.
    pub fn add(&self, coding: Coding, entry: Arc<Entry>) {
        self.claim(coding);
        // Only one is ever claimed; a second would be the same.
        let _ = self.made[coding as usize].set(entry);
    }

    /// Notes a wish for `coding`. Whether it is now to be made, by whoever asks.
    pub fn wished(&self, coding: Coding) -> bool {
        if self.claimed.load(Ordering::Relaxed) & bit(coding) != 0 {
            return false;
        }
        let before = self.asked[coding as usize].fetch_add(1, Ordering::Relaxed);
        before.saturating_add(1) >= WORTH && self.claim(coding)
    }

    /// Whether it is the caller's to make.
    pub fn claim(&self, coding: Coding) -> bool {
        self.claimed.fetch_or(bit(coding), Ordering::Relaxed) & bit(coding) == 0
    }

    /// It could not be made now: a later wish may try again.
    pub fn give_up(&self, coding: Coding) {
        self.asked[coding as usize].store(0, Ordering::Relaxed);
        self.claimed.fetch_and(!bit(coding), Ordering::Relaxed);
    }
}

fn bit(coding: Coding) -> u8 {
    1 << coding as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coding_is_made_once_when_it_was_wished_for_often_enough() {
        let encoded = Encoded::default();
        let wishes = |coding| (0..600).filter(|_| encoded.wished(coding)).count();
        assert!(!encoded.wished(Coding::Br) && !encoded.wished(Coding::Br));
        assert!(encoded.wished(Coding::Br));
        assert_eq!(wishes(Coding::Br), 0);
        assert_eq!(wishes(Coding::Gzip), 1);
        encoded.give_up(Coding::Br);
        assert!(!encoded.wished(Coding::Br), "it is wished for anew");
        assert_eq!(wishes(Coding::Br), 1);
    }
}
