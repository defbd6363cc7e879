//! How often requests may be asked again elsewhere: a part of all that were asked, so that an upstream that fails as a whole
//! doesn't get the double (the retry budget of Finagle).

use std::sync::atomic::{AtomicU64, Ordering};

/// What one retry costs; a request brings `share` of it.
const PRICE: u64 = 100;
/// What there is at the start and without traffic, and the most that is saved up.
const SAVED: u64 = 10 * PRICE;
const MOST: u64 = 100 * PRICE;

/// The account of one upstream.
pub struct Retries {
    /// Of a hundred requests, how many may be asked again.
    share: u64,
    saved: AtomicU64,
    spent: AtomicU64,
}

impl Retries {
    pub fn new(share: u64) -> Retries {
        let saved = AtomicU64::new(if share > 0 { SAVED } else { 0 });
        Retries {
            share,
            saved,
            spent: AtomicU64::new(0),
        }
    }

    /// A request is asked for the first time.
    pub fn asked(&self) {
        self.save(self.share);
    }

    /// Whether one may be asked again.
    pub fn may(&self) -> bool {
        let spend = |saved: u64| saved.checked_sub(PRICE);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let may = self.share > 0 && self.saved.fetch_update(set, fetch, spend).is_ok();
        self.spent.fetch_add(u64::from(may), Ordering::Relaxed);
        may
    }

    /// One that might be was not, for want of a server.
    pub fn give_back(&self) {
        self.save(PRICE);
        self.spent.fetch_sub(1, Ordering::Relaxed);
    }

    fn save(&self, more: u64) {
        let add = |saved: u64| (saved < MOST).then(|| (saved + more).min(MOST));
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        // Where there is as much as may be, the rest is lost.
        let _ = self.saved.fetch_update(set, fetch, add);
    }

    /// How many were.
    pub fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c72_a_tenth_may_be_asked_again() {
        let retries = Retries::new(10);
        let may = |retries: &Retries| (0..1000).filter(|_| retries.may()).count();
        assert_eq!(may(&retries), 10, "what is there at the start");
        (0..500).for_each(|_| retries.asked());
        assert_eq!(may(&retries), 50);
        (0..100_000).for_each(|_| retries.asked());
        assert_eq!(may(&retries), 100, "no more is saved up");
        assert!({
            let spent = retries.spent();
            retries.asked();
            retries.give_back();
            retries.spent() == spent - 1 && retries.may() && !retries.may()
        });
        let none = Retries::new(0);
        none.asked();
        assert!(!none.may());
    }

    #[test]
    fn what_was_given_back_is_within_the_most() {
        let retries = Retries::new(10);
        (0..2_000).for_each(|_| retries.asked());
        assert!(retries.may());
        (0..10).for_each(|_| retries.asked());
        retries.give_back();
        assert_eq!((0..1_000).filter(|_| retries.may()).count(), 100);
    }

    #[test]
    fn of_what_two_do_at_once_nothing_is_lost() {
        const ROUNDS: u64 = 200;
        const ASKED: u64 = 2_000;
        for round in 0..ROUNDS {
            let retries = Retries::new(1);
            let together = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    together.wait();
                    (0..ASKED).for_each(|_| retries.asked());
                });
                together.wait();
                (0..ASKED).filter(|_| retries.may()).count()
            });
            let left = retries.saved.load(Ordering::Relaxed);
            let all = left + retries.spent() * PRICE;
            assert_eq!(all, SAVED + ASKED, "round {round}");
        }
    }
}
