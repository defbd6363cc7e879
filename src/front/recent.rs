//! The last minutes' requests of some clients: a sample in memory, on which another config can be tried.
//!
//! Whole clients and not single requests, since what limits say of one depends on those before it. Which clients goes by a keyed
//! hash; of how many is so chosen that the sample is some minutes long however many come. Heads are kept as they came, with all that is secret
//! in them: they never leave this module but to be judged again.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::asking::Whence;
use crate::clock::Tick;

/// No older ones are kept.
const OLDEST: Duration = Duration::from_secs(300);
/// More are not kept, nor longer ones, nor more bytes.
const MOST: usize = 4_096;
const LONGEST: usize = 4_096;
const BYTES: usize = 2 << 20;
/// So many a second are wanted, so that the sample is about [`OLDEST`] long.
const WANTED: u32 = 14;
/// No more a second are taken: a client that floods is not all of the sample.
const PACE: u32 = 8 * WANTED;
const EVERYBODY: u32 = u32::MAX;

/// See the module.
pub struct Recent {
    seed: RandomState,
    /// Clients whose hash is no larger are in the sample.
    share: AtomicU32,
    ring: Mutex<Ring>,
}

/// A request as it came.
#[derive(Clone)]
pub struct Heard {
    pub head: Box<[u8]>,
    pub from: Whence,
    pub at: Tick,
    hash: u32,
}

struct Ring {
    all: VecDeque<Heard>,
    bytes: usize,
    /// The second that is being counted in, and what came in it.
    second: u64,
    came: u32,
}

/// What is in memory at a moment.
pub struct Sample {
    /// In the order in which they came.
    pub requests: Vec<Heard>,
    /// Of how many of a thousand clients.
    pub per_mille: u32,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent {
            seed: RandomState::new(),
            share: AtomicU32::new(EVERYBODY),
            ring: Mutex::new(Ring {
                all: VecDeque::new(),
                bytes: 0,
                second: 0,
                came: 0,
            }),
        }
    }
}

impl Recent {
    /// A request has come. `client`: whom it is believed to be from.
    pub fn hear(&self, head: &[u8], from: Whence, client: IpAddr, at: Tick) {
        let hash = self.seed.hash_one(client) as u32;
        let share = self.share.load(Ordering::Relaxed);
        if hash > share || head.len() > LONGEST {
            return;
        }
        // Nobody waits for it.
        let Some(mut ring) = self.ring.try_lock() else {
            return;
        };
        let second = at.uptime_millis() / 1000;
        if second != ring.second {
            let share = after_a_second(share, ring.came);
            self.share.store(share, Ordering::Relaxed);
            (ring.second, ring.came) = (second, 0);
        }
        ring.came = ring.came.saturating_add(1);
        if ring.came > PACE {
            return;
        }
        ring.bytes += head.len();
        ring.all.push_back(Heard {
            head: head.into(),
            from,
            at,
            hash,
        });
        ring.trim(at);
    }

    /// What there is now.
    pub fn sample(&self, now: Tick) -> Sample {
        let mut ring = self.ring.lock();
        ring.trim(now);
        let share = self.share.load(Ordering::Relaxed);
        // Of others not all is there.
        let its = ring.all.iter().filter(|one| one.hash <= share);
        Sample {
            requests: its.cloned().collect(),
            per_mille: (u64::from(share) * 1000).div_ceil(u64::from(EVERYBODY)) as u32,
        }
    }
}

/// How large the share is to be, after a second in which so many came of it.
fn after_a_second(share: u32, came: u32) -> u32 {
    match came {
        came if came > 2 * WANTED => (share / 2).max(1),
        came if came < WANTED / 2 => share.saturating_mul(2).saturating_add(1),
        _ => share,
    }
}

impl Ring {
    fn trim(&mut self, now: Tick) {
        while let Some(first) = self.all.front() {
            let age = Duration::from_micros(now.micros_since(first.at));
            if self.all.len() <= MOST && self.bytes <= BYTES && age <= OLDEST {
                break;
            }
            self.bytes -= first.head.len();
            self.all.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::rules::host::Scheme;

    fn from(last: u8) -> Whence {
        let peer = IpAddr::from([192, 0, 2, last]);
        Whence {
            peer,
            claims: false,
            client: peer,
            scheme: Scheme::Http,
            http2: false,
            redirect: None,
        }
    }

    #[test]
    fn the_share_follows_what_comes() {
        assert_eq!(after_a_second(EVERYBODY, 0), EVERYBODY);
        assert_eq!(after_a_second(EVERYBODY, WANTED), EVERYBODY);
        assert_eq!(after_a_second(EVERYBODY, 10 * WANTED), EVERYBODY / 2);
        assert_eq!(after_a_second(1, 10 * WANTED), 1);
        assert_eq!(after_a_second(1, 0), 3);
    }

    #[test]
    fn of_each_client_all_or_nothing_is_kept() {
        let recent = Recent::default();
        recent.share.store(EVERYBODY / 2, Ordering::Relaxed);
        let at = clock::tick();
        // Not the first of a second.
        recent.ring.lock().second = at.uptime_millis() / 1000;
        for _ in 0..2 {
            for last in 0..40 {
                recent.hear(b"GET / HTTP/1.1\r\n\r\n", from(last), from(last).peer, at);
            }
        }
        let sample = recent.sample(at);
        assert!(
            (1..=500).contains(&sample.per_mille),
            "{}",
            sample.per_mille
        );
        let mut counts = std::collections::HashMap::<_, usize>::new();
        for one in &sample.requests {
            *counts.entry(one.from.peer).or_default() += 1;
        }
        assert!(!counts.is_empty() && counts.len() < 40, "{counts:?}");
        assert!(counts.values().all(|count| *count == 2), "{counts:?}");
    }

    #[test]
    fn it_is_bounded() {
        let recent = Recent::default();
        let at = clock::tick();
        let head = vec![b'a'; LONGEST];
        for _ in 0..3 * PACE {
            recent.hear(&head, from(1), from(1).peer, at);
        }
        recent.hear(&vec![b'a'; LONGEST + 1], from(1), from(1).peer, at);
        let ring = recent.ring.lock();
        assert!(ring.all.len() <= PACE as usize && ring.bytes <= BYTES);
        assert_eq!(ring.bytes, ring.all.len() * LONGEST);
    }
}
