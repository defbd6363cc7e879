//! Who asks for what, and when: written down before anything is sent, from a seed, so that every server under test and the
//! [simulation](super::simulate) meet the same crowd.

use std::sync::Arc;
use std::time::Duration;

/// One request to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When it is due, from the start.
    pub at: Duration,
    /// The page it asks for, a number.
    pub page: u32,
    /// Whose it is: 0 is nobody's in particular, every other number a client with an address of its own.
    pub client: u32,
}

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// One after the other, evenly.
    Even,
    /// Each at a moment of its own (a Poisson process): as people come who know nothing of each other.
    Random,
}

/// A crowd: so many requests a second for so long, each for one of `pages` by one of `clients`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crowd {
    /// Requests a second.
    pub rate: f64,
    pub lasts: Duration,
    pub spacing: Spacing,
    /// How many pages there are; asked for by [`Zipf`] with this exponent, 0 for all alike.
    pub pages: u32,
    pub exponent: f64,
    /// How many clients; 0 for none in particular.
    pub clients: u32,
    /// The first client's number.
    pub first_client: u32,
}

impl Crowd {
    /// Its requests in the order they are due, the same for the same `seed`.
    pub fn arrivals(&self, seed: u64) -> Arc<[Arrival]> {
        let mut random = Random::new(seed);
        let zipf = Zipf::new(self.pages, self.exponent);
        let total = (self.rate * self.lasts.as_secs_f64()) as usize;
        let mut at = 0.0;
        let arrivals = (0..total).map(|number| {
            at = match self.spacing {
                Spacing::Even => number as f64 / self.rate,
                Spacing::Random => at - (1.0 - random.share()).ln() / self.rate,
            };
            Arrival {
                at: Duration::from_secs_f64(at),
                page: zipf.page(&mut random),
                client: match self.clients {
                    0 => 0,
                    some => self.first_client + random.below(some),
                },
            }
        });
        arrivals.collect()
    }
}

/// Several crowds at once.
pub fn together(crowds: &[Arc<[Arrival]>]) -> Arc<[Arrival]> {
    let mut all: Vec<Arrival> = crowds
        .iter()
        .flat_map(|crowd| crowd.iter().copied())
        .collect();
    all.sort_by_key(|arrival| arrival.at);
    all.into()
}

/// Pages by rank: the n-th is asked for in proportion to n^-exponent. Page 0 is the most wanted.
#[derive(Debug, Clone)]
pub struct Zipf {
    /// The chance of a page or one before it.
    up_to: Vec<f64>,
}

impl Zipf {
    pub fn new(pages: u32, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let mut up_to: Vec<f64> = (1..=pages.max(1))
            .map(|rank| {
                sum += f64::from(rank).powf(-exponent);
                sum
            })
            .collect();
        up_to.iter_mut().for_each(|part| *part /= sum);
        Zipf { up_to }
    }

    /// A page by chance.
    pub fn page(&self, random: &mut Random) -> u32 {
        let drawn = random.share();
        let page = self.up_to.partition_point(|part| *part <= drawn);
        page.min(self.up_to.len() - 1) as u32
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the same numbers for the same seed, on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, but not, 1.
    pub fn share(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 up to, but not, `most`, which is at least 1.
    pub fn below(&mut self, most: u32) -> u32 {
        ((u128::from(self.draw()) * u128::from(most)) >> 64) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CROWD: Crowd = Crowd {
        rate: 1000.0,
        lasts: Duration::from_secs(20),
        spacing: Spacing::Random,
        pages: 200,
        exponent: 1.0,
        clients: 50,
        first_client: 7,
    };

    #[test]
    fn the_same_seed_is_the_same_crowd_and_another_is_another() {
        assert_eq!(CROWD.arrivals(1), CROWD.arrivals(1));
        assert_ne!(CROWD.arrivals(1), CROWD.arrivals(2));
    }

    #[test]
    fn a_crowd_comes_at_its_rate_in_order_and_from_its_clients() {
        let even = Crowd {
            spacing: Spacing::Even,
            ..CROWD
        };
        let arrivals = even.arrivals(1);
        assert_eq!(arrivals.len(), 20_000);
        assert_eq!(arrivals[1].at, Duration::from_millis(1));
        assert_eq!(arrivals[19_999].at, Duration::from_micros(19_999_000));

        let random = CROWD.arrivals(1);
        assert!(random.is_sorted_by_key(|arrival| arrival.at));
        // 20,000 gaps of 1 ms ± 1 ms: their sum has a standard error of 0.14 s.
        let last = random[19_999].at.as_secs_f64();
        assert!((19.2..20.8).contains(&last), "{last}");
        let (least, most) = (7, 56);
        assert!(random.iter().all(|a| (least..=most).contains(&a.client)));
        assert!(
            [least, most]
                .iter()
                .all(|c| random.iter().any(|a| a.client == *c))
        );
    }

    #[test]
    fn pages_are_asked_for_by_rank() {
        let arrivals = CROWD.arrivals(1);
        let asked = |page| arrivals.iter().filter(|a| a.page == page).count() as f64;
        // The harmonic number of 200 is 5.878: a share of 0.170 for the first page, a tenth of it for the tenth.
        assert!((asked(0) / 20_000.0 - 0.170).abs() < 0.01, "{}", asked(0));
        assert!((asked(0) / asked(9) - 10.0).abs() < 2.0, "{}", asked(9));
        assert!(arrivals.iter().all(|a| a.page < 200));

        let alike = Zipf::new(4, 0.0);
        let mut random = Random::new(1);
        let mut drawn = [0; 4];
        (0..4000).for_each(|_| drawn[alike.page(&mut random) as usize] += 1);
        assert!(
            drawn.iter().all(|count| (900..1100).contains(count)),
            "{drawn:?}"
        );
    }

    #[test]
    fn crowds_together_come_in_order() {
        let all = together(&[CROWD.arrivals(1), CROWD.arrivals(2)]);
        assert_eq!(all.len(), 40_000);
        assert!(all.is_sorted_by_key(|arrival| arrival.at));
    }
}
