//! Who sends forged tokens is not verified for a while: looking at a signature takes longer than a page from memory.
//!
//! Each client has an allowance of forgeries, a burst and then one each second (GCRA), in one of few places; clients may
//! share one. So all the world together has no more than the places do, whatever it sends from how many addresses, and who is
//! known by a token that was seen is not asked for it again.
//!
//! Some thousand addresses can hold all of these places. Then who has sent no forgery of late is looked at all the same, by a
//! second hash and many more places, each held for a while by the last forgery: so a stranger with a good token is seldom put
//! off, and a forger has no more than before.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::rules::client::Client;
use crate::rules::time::Moment;

const PLACES: usize = 4096;
/// Milliseconds a forgery.
const EACH: u64 = 1000;
const BURST: u64 = 10;
/// Of those who are looked at beyond that, and for how many seconds a forgery holds one: two thousand a second, of all the world.
const STRANGERS: usize = 65_536;
const HELD: u32 = 32;

pub struct Pace {
    /// When each has its whole allowance again.
    full: Box<[AtomicU64]>,
    /// Until which second each is held.
    held: Box<[AtomicU32]>,
    seed: foldhash::fast::RandomState,
    other: foldhash::fast::RandomState,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            full: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            held: (0..STRANGERS).map(|_| AtomicU32::new(0)).collect(),
            seed: foldhash::fast::RandomState::default(),
            other: foldhash::fast::RandomState::default(),
        }
    }
}

impl Pace {
    /// Whether another signature of this client's is looked at.
    pub fn allows(&self, client: Client, now: Moment) -> bool {
        let of_few = || self.of(client).load(Relaxed) <= now.0 + EACH * (BURST - 1);
        of_few() || self.of_many(client).load(Relaxed) <= second(now)
    }

    /// One was forged.
    pub fn forged(&self, client: Client, now: Moment) {
        let full = self.of(client);
        // Of two at once one may go uncounted: then one more is looked at.
        full.store(full.load(Relaxed).max(now.0) + EACH, Relaxed);
        self.of_many(client).store(second(now) + HELD, Relaxed);
    }

    fn of(&self, client: Client) -> &AtomicU64 {
        let hash = self.seed.hash_one(client) as usize;
        &self.full[hash % PLACES]
    }

    fn of_many(&self, client: Client) -> &AtomicU32 {
        let hash = self.other.hash_one(client) as usize;
        &self.held[hash % STRANGERS]
    }
}

fn second(now: Moment) -> u32 {
    (now.0 / 1000) as u32
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn client(n: u32) -> Client {
        Client::of(IpAddr::from(Ipv4Addr::from_bits(n)), 64)
    }

    fn looked_at(pace: &Pace, clients: u32, tries: u32, now: Moment) -> u32 {
        let mut looked = 0;
        for n in 0..clients * tries {
            let client = client(n % clients);
            if pace.allows(client, now) {
                pace.forged(client, now);
                looked += 1;
            }
        }
        looked
    }

    #[test]
    fn a_burst_and_then_one_a_second() {
        let pace = Pace::default();
        assert_eq!(looked_at(&pace, 1, 1000, Moment(0)), 10);
        assert_eq!(looked_at(&pace, 1, 1000, Moment(999)), 0);
        assert_eq!(looked_at(&pace, 1, 1000, Moment(1000)), 1);
        assert_eq!(looked_at(&pace, 1, 1000, Moment(3000)), 2);
        assert_eq!(looked_at(&pace, 1, 1000, Moment(1_000_000)), 10);
    }

    #[test]
    fn all_the_world_has_no_more_than_the_places() {
        let pace = Pace::default();
        let most = PLACES as u32 * BURST as u32 + STRANGERS as u32;
        assert!(looked_at(&pace, 100_000, 10, Moment(0)) <= most);
        assert!(looked_at(&pace, 100_000, 10, Moment(1000)) <= PLACES as u32);
    }

    #[test]
    fn a_botnet_that_holds_all_places_puts_few_strangers_off() {
        let pace = Pace::default();
        looked_at(&pace, 20_000, 10, Moment(0));
        let strangers = (1_000_000..1_001_000).map(client);
        let looked = strangers.filter(|one| pace.allows(*one, Moment(0)));
        assert!(looked.count() > 600);
        let bots = (0..1_000).map(client);
        let looked = bots.filter(|one| pace.allows(*one, Moment(0)));
        assert!(looked.count() < 50);
    }
}
