//! What a cache in front of an origin would do at best with a crowd, by the order in which it asks: no network, no processor,
//! nothing but the origin's own time. One request is asked for a page, however many wait for it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::schedule::Arrival;

/// Which of the pages that wait is asked for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one that was wanted first.
    FirstCome,
    /// The one that most wait for, but the one that was wanted first once that was so long ago.
    MostWanted(Duration),
}

/// The origin, and for how long its pages are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simulated {
    /// Requests that the origin works on at once.
    pub at_once: usize,
    /// How long it takes for each.
    pub takes: Duration,
    /// How long a page is good, from when it has come, ...
    pub ttl: Duration,
    /// ... and how long it goes out after that while a fresh one is fetched.
    pub stale: Duration,
    pub order: Order,
}

impl Simulated {
    /// How long each of `arrivals`, which are in order, waits for its page.
    pub fn waits(&self, arrivals: &[Arrival]) -> Vec<Duration> {
        let pages = arrivals.iter().map(|arrival| arrival.page + 1).max();
        let mut run = Run {
            of: *self,
            waits: vec![Duration::ZERO; arrivals.len()],
            pages: vec![Page::default(); pages.unwrap_or(0) as usize],
            queue: Vec::new(),
            working: BinaryHeap::new(),
        };
        for (number, arrival) in arrivals.iter().enumerate() {
            run.until(Some(arrival.at), arrivals);
            run.arrives(number, *arrival);
        }
        run.until(None, arrivals);
        run.waits
    }
}

struct Run {
    of: Simulated,
    waits: Vec<Duration>,
    pages: Vec<Page>,
    /// Pages that wait for a place at the origin, in the order they were wanted, and since when.
    queue: Vec<(Duration, u32)>,
    /// What the origin works on: when it is done, and the page.
    working: BinaryHeap<Reverse<(Duration, u32)>>,
}

#[derive(Default, Clone)]
struct Page {
    good_until: Option<Duration>,
    /// Whether it has been asked for; by whom, if so.
    in_flight: bool,
    waiting: Vec<usize>,
}

impl Run {
    fn arrives(&mut self, number: usize, arrival: Arrival) {
        let page = &mut self.pages[arrival.page as usize];
        let until = page.good_until.unwrap_or(Duration::ZERO);
        if arrival.at < until {
            return;
        }
        if until.is_zero() || arrival.at >= until + self.of.stale {
            page.waiting.push(number);
        }
        if !std::mem::replace(&mut page.in_flight, true) {
            self.queue.push((arrival.at, arrival.page));
            self.ask(arrival.at);
        }
    }

    /// Everything the origin ends by `moment`; everything at all without one.
    fn until(&mut self, moment: Option<Duration>, arrivals: &[Arrival]) {
        while let Some(Reverse((done, number))) = self.working.peek().copied() {
            if moment.is_some_and(|moment| done > moment) {
                return;
            }
            self.working.pop();
            let page = &mut self.pages[number as usize];
            page.good_until = Some(done + self.of.ttl);
            page.in_flight = false;
            for waited in page.waiting.drain(..) {
                self.waits[waited] = done - arrivals[waited].at;
            }
            self.ask(done);
        }
    }

    fn ask(&mut self, now: Duration) {
        while self.working.len() < self.of.at_once && !self.queue.is_empty() {
            let next = match self.of.order {
                Order::FirstCome => 0,
                Order::MostWanted(patience) if self.queue[0].0 + patience <= now => 0,
                Order::MostWanted(_) => self.most_wanted(),
            };
            let (_, page) = self.queue.remove(next);
            self.working.push(Reverse((now + self.of.takes, page)));
        }
    }

    /// The earliest of those that most wait for.
    fn most_wanted(&self) -> usize {
        let wanted = |at: usize| self.pages[self.queue[at].1 as usize].waiting.len();
        let places = 0..self.queue.len();
        places
            .max_by_key(|at| (wanted(*at), Reverse(*at)))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn asks(all: &[(u64, u32)]) -> Vec<Arrival> {
        let arrival = |&(at, page)| Arrival {
            at: ms(at),
            page,
            client: 0,
        };
        all.iter().map(arrival).collect()
    }

    fn waits(order: Order, arrivals: &[Arrival]) -> Vec<u128> {
        let simulated = Simulated {
            at_once: 1,
            takes: ms(50),
            ttl: ms(1000),
            stale: Duration::ZERO,
            order,
        };
        simulated
            .waits(arrivals)
            .iter()
            .map(Duration::as_millis)
            .collect()
    }

    #[test]
    fn who_asks_for_a_page_in_flight_waits_for_it_and_then_it_is_there() {
        let arrivals = asks(&[(0, 0), (20, 0), (50, 0), (1049, 0), (1050, 0)]);
        assert_eq!(waits(Order::FirstCome, &arrivals), [50, 30, 0, 0, 50]);
    }

    #[test]
    fn first_come_is_first_served() {
        let arrivals = asks(&[(0, 0), (1, 1), (2, 2), (3, 2), (4, 2)]);
        assert_eq!(waits(Order::FirstCome, &arrivals), [50, 99, 148, 147, 146]);
    }

    #[test]
    fn the_most_wanted_goes_first_until_another_is_old() {
        let arrivals = asks(&[(0, 0), (1, 1), (2, 2), (3, 2), (4, 2)]);
        assert_eq!(
            waits(Order::MostWanted(ms(400)), &arrivals),
            [50, 149, 98, 97, 96]
        );
        assert_eq!(
            waits(Order::MostWanted(ms(40)), &arrivals),
            [50, 99, 148, 147, 146]
        );
    }

    #[test]
    fn nobody_waits_for_a_page_that_may_go_out_stale() {
        let simulated = Simulated {
            at_once: 1,
            takes: ms(50),
            ttl: ms(1000),
            stale: ms(500),
            order: Order::FirstCome,
        };
        let arrivals = asks(&[(0, 0), (1100, 0), (1120, 0), (1150, 0), (2700, 0)]);
        let waits = [ms(50), ms(0), ms(0), ms(0), ms(50)];
        assert_eq!(simulated.waits(&arrivals), waits);
    }

    #[test]
    fn an_origin_works_on_several_at_once() {
        let simulated = Simulated {
            at_once: 2,
            takes: ms(50),
            ttl: ms(1000),
            stale: Duration::ZERO,
            order: Order::FirstCome,
        };
        let arrivals = asks(&[(0, 0), (0, 1), (0, 2)]);
        assert_eq!(simulated.waits(&arrivals), [ms(50), ms(50), ms(100)]);
    }
}
