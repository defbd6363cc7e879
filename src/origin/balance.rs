//! Which server of an upstream has the next request.
//!
//! Of those that are trusted and have room; of all that have room where too few are trusted (panic: better than none);
//! backups where no other is to be had at all. A server of weight zero is drained: nobody new comes.
//!
//! By default the better of two at random (Mitzenmacher 2001): less in flight, quicker of late. Two are enough to keep away
//! from the worst, and never send everybody to the one best. A server of weight three counts as three of weight one.
//! In turns it goes as with nginx (smooth weighted round robin): each gains its weight, the richest is next and pays for
//! all. By a key it is rendezvous hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, SODA 2018): who has more
//! than its fair share already is passed over.

use tokio::time::Instant;

use super::standing::{Rules, Standing};
use crate::rules::rendezvous;
use crate::rules::sticky::Token;

/// With less than this part of what it may have, nobody has too much for a key's sake: where little is in flight, a fair share
/// is less than one request.
const IDLE: f64 = 8.0;

/// How servers are chosen among.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// The better of two at random.
    #[default]
    P2c,
    /// In turn.
    RoundRobin,
    /// The one with the least in flight.
    LeastInFlight,
    /// Whose its key is; without a key, as [`Balance::P2c`].
    ConsistentHash {
        /// What a server may have in flight, in hundredths of its fair share.
        most: usize,
    },
}

/// What a request is chosen a server by, beside what is known of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Steer {
    /// For [`Balance::ConsistentHash`].
    pub key: Option<u64>,
    /// The server that its visitor is bound to, if that is one.
    pub bound: Option<Token>,
}

/// Where a request goes.
pub struct Choice<'a> {
    pub servers: &'a mut [Standing],
    pub rules: &'a Rules,
    pub balance: Balance,
    pub steer: Steer,
    /// Where the same request has failed just now: never there.
    pub avoid: Option<usize>,
    pub now: Instant,
}

impl Choice<'_> {
    /// A server's place, if one has room. `random` draws evenly from all numbers.
    pub fn make(&mut self, random: impl FnMut() -> u64) -> Option<usize> {
        let pool = Pool::of(self.servers, self.rules, self.avoid, self.now);
        let open = pool.open();
        let own = |at: &&usize| {
            let token = self.servers[**at].role.token;
            token.is_some() && token == self.steer.bound
        };
        if let Some(bound) = open.iter().find(own) {
            return Some(*bound);
        }
        match (self.balance, self.steer.key) {
            _ if open.is_empty() => None,
            (Balance::RoundRobin, _) => self.in_turn(&open),
            (Balance::LeastInFlight, _) => {
                let least = pool.least(&open);
                self.in_turn(&least)
            }
            (Balance::ConsistentHash { most }, Some(key)) => pool.nearest(key, most, &open),
            (Balance::P2c | Balance::ConsistentHash { .. }, _) => {
                Some(pool.better_of_two(&open, random))
            }
        }
    }

    /// Whose turn it is.
    fn in_turn(&mut self, ones: &[usize]) -> Option<usize> {
        let mut all = 0.0;
        let mut next: Option<usize> = None;
        for &at in ones {
            let gains = self.servers[at].weight(self.rules, self.now);
            all += gains;
            self.servers[at].turn += gains;
            if next.is_none_or(|next| self.servers[at].turn > self.servers[next].turn) {
                next = Some(at);
            }
        }
        self.servers[next?].turn -= all;
        next
    }
}

/// The servers that may be asked, full or not.
pub struct Pool<'a> {
    servers: &'a [Standing],
    rules: &'a Rules,
    now: Instant,
    ones: Vec<usize>,
    /// Each is needed whole, however short it has been back.
    whole: bool,
}

impl<'a> Pool<'a> {
    pub fn of(
        servers: &'a [Standing],
        rules: &'a Rules,
        avoid: Option<usize>,
        now: Instant,
    ) -> Pool<'a> {
        let trusted = |at: &usize| servers[*at].is_trusted(now);
        let rests = |at: &usize| servers[*at].rests(now);
        let usable = |at: &usize| trusted(at) && !rests(at) && Some(*at) != avoid;
        let used = || (0..servers.len()).filter(|at| servers[*at].role.weight > 0);
        let backup = |at: &usize| servers[*at].role.backup;
        let levels = [false, true].map(|level| used().filter(|at| backup(at) == level).collect());
        let levels: [Vec<usize>; 2] = levels;
        let level = levels
            .iter()
            .find(|ones| ones.iter().any(usable))
            .or_else(|| levels.iter().find(|ones| ones.iter().any(trusted)));
        // Where nobody is trusted, everybody will do.
        let mut ones = level.cloned().unwrap_or_else(|| used().collect());
        let few = ones.iter().filter(|at| trusted(at)).count() * 100
            < ones.len() * rules.panic_below
            || level.is_none();
        // One that has failed already is not asked again at who is likely to fail it.
        let panics = few && avoid.is_none();
        ones.retain(|at| panics || trusted(at));
        if avoid.is_some() || !ones.iter().all(rests) {
            ones.retain(|at| !rests(at));
        }
        ones.retain(|at| Some(*at) != avoid);
        let full = |at: &usize| servers[*at].share(rules, now) >= 1.0;
        Pool {
            whole: panics || !ones.iter().any(full),
            servers,
            rules,
            now,
            ones,
        }
    }

    /// Requests that all of them may have at once.
    pub fn places(&self) -> usize {
        let most = |at: &usize| self.servers[*at].room.most();
        self.ones.iter().map(most).sum()
    }

    /// Those that have room.
    pub fn open(&self) -> Vec<usize> {
        let has_room = |at: &usize| self.servers[*at].in_flight < self.room(*at);
        self.ones.iter().copied().filter(has_room).collect()
    }

    /// A server that has returned has less, unless each is needed whole.
    fn room(&self, at: usize) -> usize {
        let most = self.servers[at].room.most() as f64;
        ((most * self.share(at)).ceil() as usize).max(1)
    }

    fn share(&self, at: usize) -> f64 {
        match self.whole {
            true => 1.0,
            false => self.servers[at].share(self.rules, self.now),
        }
    }

    /// What it is to have of all, as a part of what the others do.
    fn weight(&self, at: usize) -> f64 {
        f64::from(self.servers[at].role.weight) * self.share(at)
    }

    /// Those with the least in flight for their weight.
    fn least(&self, open: &[usize]) -> Vec<usize> {
        let load = |at: &usize| self.servers[*at].in_flight as f64 / self.weight(*at);
        let least = open.iter().map(load).fold(f64::INFINITY, f64::min);
        let is_least = |at: &usize| load(at) <= least * (1.0 + 1e-9);
        open.iter().copied().filter(is_least).collect()
    }

    /// The best place for a key that is not over its share, or the best with room.
    fn nearest(&self, key: u64, most: usize, open: &[usize]) -> Option<usize> {
        let in_flight: usize = self.ones.iter().map(|at| self.servers[*at].in_flight).sum();
        let weight: f64 = self.ones.iter().map(|at| self.weight(*at)).sum();
        let bound = |at: usize| {
            let fair = (in_flight + 1) as f64 * self.weight(at) / weight;
            let bound = (fair * most as f64 / 100.0 - 1e-9).ceil();
            bound.max(self.servers[at].room.most() as f64 / IDLE)
        };
        let fair = |at: &usize| (self.servers[*at].in_flight as f64) < bound(*at);
        let score = |at: &usize| {
            let role = &self.servers[*at].role;
            rendezvous::score(key, role.id, f64::from(role.weight))
        };
        let best = |ones: &mut dyn Iterator<Item = usize>| {
            ones.max_by(|one, other| score(one).total_cmp(&score(other)))
        };
        best(&mut open.iter().copied().filter(fair)).or_else(|| best(&mut open.iter().copied()))
    }

    /// The better of two at random, where each is as many as its weight is times that of the lightest.
    fn better_of_two(&self, open: &[usize], mut random: impl FnMut() -> u64) -> usize {
        let weight = |at: usize| f64::from(self.servers[at].role.weight);
        let lightest = open.iter().map(|at| weight(*at)).fold(f64::MAX, f64::min);
        let count = |at: usize| weight(at) / lightest;
        let mut draw = |but: Option<usize>| {
            let left = |at: usize| count(at) - f64::from(u8::from(but == Some(at)));
            let all: f64 = open.iter().map(|at| left(*at)).sum();
            let mut drawn = (random() >> 11) as f64 / (1u64 << 53) as f64 * all;
            let mut last = None;
            for &at in open.iter().filter(|at| left(**at) > 0.0) {
                last = Some(at);
                drawn -= left(at);
                if drawn < 0.0 {
                    break;
                }
            }
            last
        };
        let one = draw(None).unwrap_or(open[0]);
        let other = draw(Some(one)).unwrap_or(one);
        // Of orders of magnitude, so that one sick server doesn't make the others look it.
        let known = self.servers.iter().filter_map(Standing::took);
        let (sum, known) = known.fold((0.0, 0.0), |(sum, n), took| (sum + took.ln(), n + 1.0));
        let typical = if known > 0.0 {
            f64::exp(sum / known)
        } else {
            1.0
        };
        // How many are in flight, and how long each takes.
        let cost = |at: usize| {
            let server = &self.servers[at];
            let in_flight = server.in_flight as f64 / count(at) + 1.0;
            in_flight * server.takes(typical, self.now) / self.share(at)
        };
        if cost(other) < cost(one) { other } else { one }
    }
}

#[cfg(test)]
mod tests;
