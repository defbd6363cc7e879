//! Which server of an upstream has the next request.
//!
//! Of those that are trusted and have room; of all that have room where too few are trusted (panic: better than none). By
//! default the better of two at random (Mitzenmacher 2001): less in flight, quicker of late. Two are enough to keep away
//! from the worst, and never send everybody to the one best.

use tokio::time::Instant;

use super::standing::{Rules, Standing};

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
}

/// Where a request goes.
pub struct Choice<'a> {
    pub servers: &'a [Standing],
    pub rules: &'a Rules,
    pub balance: Balance,
    /// Where the same request has failed just now: only where no other has room.
    pub avoid: Option<usize>,
    /// Where the search begins, so that equals take turns.
    pub turn: usize,
    pub now: Instant,
}

impl Choice<'_> {
    /// A server's place, if one has room. `random` draws evenly from all numbers.
    pub fn make(&self, mut random: impl FnMut() -> u64) -> Option<usize> {
        let candidates = self.candidates();
        let others: Vec<usize> = candidates
            .iter()
            .copied()
            .filter(|at| Some(*at) != self.avoid)
            .collect();
        let candidates = if others.is_empty() {
            candidates
        } else {
            others
        };
        // Of orders of magnitude, so that one sick server doesn't make the others look it.
        let known = self.servers.iter().filter_map(Standing::took);
        let (sum, count) = known.fold((0.0, 0.0), |(sum, n), took| (sum + took.ln(), n + 1.0));
        let typical = if count > 0.0 {
            f64::exp(sum / count)
        } else {
            1.0
        };
        let best = |ones: &[usize]| {
            let cost = |at: &usize| self.cost(*at, typical);
            ones.iter()
                .copied()
                .min_by(|one, other| cost(one).total_cmp(&cost(other)))
        };
        match (self.balance, candidates.len()) {
            (_, 0) => None,
            (Balance::RoundRobin, _) => candidates.first().copied(),
            (Balance::LeastInFlight, _) | (_, 1 | 2) => best(&candidates),
            (Balance::P2c, count) => {
                let one = random() as usize % count;
                let other = (one + 1 + random() as usize % (count - 1)) % count;
                best(&[candidates[one], candidates[other]])
            }
        }
    }

    /// Those that may have it, beginning with whose turn it is.
    fn candidates(&self) -> Vec<usize> {
        let count = self.servers.len();
        let trusted = |server: &&Standing| server.is_trusted(self.now);
        let few =
            self.servers.iter().filter(trusted).count() * 100 < count * self.rules.panic_below;
        let none = !self.servers.iter().any(|server| trusted(&server));
        let panics = few || none;
        let used = |server: &Standing| panics || server.is_trusted(self.now);
        let mut all = self.servers.iter().filter(|server| used(server));
        let all_rest = all.all(|server| server.rests(self.now));
        (0..count)
            .map(|step| (self.turn + step) % count)
            .filter(|&at| {
                let server = &self.servers[at];
                used(server)
                    && server.in_flight < self.room(server, panics)
                    && (all_rest || !server.rests(self.now))
            })
            .collect()
    }

    /// A server that has returned has less, unless each is needed whole.
    fn room(&self, server: &Standing, panics: bool) -> usize {
        let share = match panics {
            true => 1.0,
            false => server.share(self.rules, self.now),
        };
        ((server.room.most() as f64 * share).ceil() as usize).max(1)
    }

    /// What a request there would cost: how many are in flight, and how long each takes.
    fn cost(&self, at: usize, typical: f64) -> f64 {
        let server = &self.servers[at];
        let share = server.share(self.rules, self.now);
        let in_flight = (server.in_flight as f64 + 1.0) / share;
        match self.balance {
            Balance::P2c => in_flight * server.takes(typical, self.now),
            _ => in_flight,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::room::Room;
    use super::super::standing::tests::{RULES, start};
    use super::*;

    /// Servers, and a clock that is turned by hand.
    struct Farm {
        servers: Vec<Standing>,
        balance: Balance,
        now: Instant,
        turn: usize,
        seed: u64,
    }

    impl Farm {
        fn of(count: usize, balance: Balance) -> Farm {
            Farm {
                servers: vec![Standing::default(); count],
                balance,
                now: start(),
                turn: 0,
                seed: 42,
            }
        }

        fn choose(&mut self, per_server: usize, avoid: Option<usize>) -> Option<usize> {
            for server in &mut self.servers {
                server.room = Room::Fixed(per_server);
            }
            let choice = Choice {
                servers: &self.servers,
                rules: &RULES,
                balance: self.balance,
                avoid,
                turn: self.turn,
                now: self.now,
            };
            let seed = &mut self.seed;
            let chosen = choice.make(|| {
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *seed >> 33
            })?;
            self.turn = (chosen + 1) % self.servers.len();
            Some(chosen)
        }

        /// Sends so many, each of which is answered before the next.
        fn send(&mut self, requests: usize) -> Vec<usize> {
            let mut sent = vec![0; self.servers.len()];
            for _ in 0..requests {
                if let Some(at) = self.choose(64, None) {
                    sent[at] += 1;
                }
            }
            sent
        }

        fn answer(&mut self, at: usize, millis: u64) {
            self.servers[at].answered(Duration::from_millis(millis), self.now);
        }
    }

    #[test]
    fn equals_have_equal_shares() {
        for balance in [Balance::P2c, Balance::RoundRobin, Balance::LeastInFlight] {
            let mut farm = Farm::of(4, balance);
            (0..4).for_each(|at| farm.answer(at, 10));
            for sent in farm.send(1000) {
                assert!((180..=320).contains(&sent), "{balance:?}: {sent}");
            }
        }
    }

    #[test]
    fn a_slow_one_has_less_and_a_busy_one_too() {
        let mut farm = Farm::of(4, Balance::P2c);
        (0..4).for_each(|at| farm.answer(at, if at == 2 { 100 } else { 10 }));
        farm.servers[1].in_flight = 3;
        let sent = farm.send(1000);
        assert_eq!(sent[2], 0, "never the better of two: {sent:?}");
        assert!(sent[1] < sent[0] && sent[1] < sent[3], "{sent:?}");
    }

    #[test]
    fn c76_distrust_holds_while_enough_are_left() {
        let mut farm = Farm::of(4, Balance::P2c);
        for at in 0..2 {
            farm.servers[at].set_well(false, false, farm.now);
        }
        let sent = farm.send(400);
        assert_eq!((sent[0], sent[1]), (0, 0), "{sent:?}");
        farm.servers[2].eject(&RULES, farm.now);
        assert_eq!(farm.send(400)[3], 400, "a quarter is enough");
        farm.servers[3].eject(&RULES, farm.now);
        assert!(
            farm.send(400).iter().all(|sent| *sent > 0),
            "all, where none is left"
        );
    }

    #[test]
    fn room_is_kept_to_and_what_failed_is_avoided() {
        for balance in [Balance::P2c, Balance::RoundRobin, Balance::LeastInFlight] {
            let mut farm = Farm::of(3, balance);
            for _ in 0..20 {
                assert_ne!(farm.choose(2, Some(1)), Some(1));
            }
            farm.servers[0].in_flight = 2;
            farm.servers[2].in_flight = 2;
            assert_eq!(farm.choose(2, Some(1)), Some(1), "the only one with room");
            farm.servers[1].in_flight = 2;
            assert_eq!(farm.choose(2, None), None);
        }
    }

    #[test]
    fn who_returns_gets_little_at_first() {
        let mut farm = Farm::of(2, Balance::LeastInFlight);
        farm.servers[0].eject(&RULES, farm.now);
        farm.now += RULES.eject_for;
        farm.servers[0].take(farm.now, Duration::ZERO);
        // A tenth of twenty.
        let mut had = 1;
        while let Some(at) = farm.choose(20, None) {
            farm.servers[at].in_flight += 1;
            had += usize::from(at == 0);
        }
        assert_eq!(had, 2);
    }
}
