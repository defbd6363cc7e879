//! What one route may have of its upstream, so that its slow answers leave places to the others.
//!
//! Requests of routes without a number of their own share what the upstream has; in what follows they are one more
//! route, called `None`.

use std::collections::BTreeMap;
use std::time::Duration;

/// A route's number, as its requests bring it along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bulkhead {
    /// Whose it is: no other route of the upstream is called so, and the same one in another config is.
    pub route: usize,
    /// Requests at the upstream at once, over all its servers.
    pub most: usize,
}

impl Bulkhead {
    /// How many of the route's may wait in a queue of so many, beside `total` places: as much of the queue as it may have of
    /// the places, and one at least.
    pub(super) fn of_queue(self, queue: usize, total: usize) -> usize {
        (queue.saturating_mul(self.most) / total.max(1)).clamp(1, queue.max(1))
    }
}

/// What each route has at the upstream. No more routes than are configured, or were and have requests.
#[derive(Default)]
pub(super) struct Shares(BTreeMap<Option<usize>, Share>);

pub(super) struct Share {
    pub most: usize,
    pub in_flight: usize,
    /// How long an answer takes, of late.
    pub takes: Duration,
}

impl Shares {
    /// Somebody of this route has come.
    pub fn know(&mut self, bulkhead: Option<Bulkhead>) {
        if let Some(bulkhead) = bulkhead {
            self.of_mut(Some(bulkhead.route)).most = bulkhead.most;
        }
    }

    /// Forgets those who have nothing in flight, which may have no route any more.
    pub fn forget_idle(&mut self) {
        self.0.retain(|_, share| share.in_flight > 0);
    }

    pub fn most(&self, route: Option<usize>) -> usize {
        self.of(route).map_or(usize::MAX, |share| share.most)
    }

    pub fn in_flight(&self, route: Option<usize>) -> usize {
        self.of(route).map_or(0, |share| share.in_flight)
    }

    /// How long an answer takes, of late; zero while that is unknown.
    pub fn takes(&self, route: Option<usize>) -> Duration {
        self.of(route).map_or(Duration::ZERO, |share| share.takes)
    }

    /// Whether it has as many as it may.
    pub fn is_full(&self, route: Option<usize>) -> bool {
        self.in_flight(route) >= self.most(route)
    }

    /// One more request.
    pub fn take(&mut self, route: Option<usize>) {
        self.of_mut(route).in_flight += 1;
    }

    /// One less.
    pub fn give_back(&mut self, route: Option<usize>) {
        self.of_mut(route).in_flight -= 1;
    }

    /// An answer has begun, `took` after it was asked for.
    pub fn answered(&mut self, route: Option<usize>, took: Duration) {
        let share = self.of_mut(route);
        share.takes = match share.takes {
            Duration::ZERO => took,
            takes => (takes * 15 + took) / 16,
        };
    }

    fn of(&self, route: Option<usize>) -> Option<&Share> {
        self.0.get(&route)
    }

    fn of_mut(&mut self, route: Option<usize>) -> &mut Share {
        self.0.entry(route).or_insert(Share {
            most: usize::MAX,
            in_flight: 0,
            takes: Duration::ZERO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_may_have_as_much_of_the_queue_as_of_the_places() {
        let of = |most, queue, total| Bulkhead { route: 0, most }.of_queue(queue, total);
        assert_eq!(of(2, 1024, 8), 256);
        assert_eq!(of(1, 16, 1024), 1, "one at least");
        assert_eq!(of(64, 16, 8), 16, "no more than there is");
        assert_eq!(of(2, 0, 8), 1, "which the queue itself refuses");
        assert_eq!(of(usize::MAX, 1_000_000, 0), 1_000_000);
    }
}
