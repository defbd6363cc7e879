//! What operators have pulled for pages during an incident: they stay fresh longer, or are served stale longer, those included
//! that are stored already.

use std::time::Duration;

use super::storing::Terms;

/// The levers of freshness, as one route has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pulled {
    /// So many hundredths more than its lifetime, ...
    pub stretch: u32,
    /// ... and at least this.
    pub least: Duration,
    /// How long past its lifetime a page may be served at the least, both while it is refreshed and where that fails.
    pub stale: Duration,
}

impl Pulled {
    /// How old a page may get. One that has to be validated each time, or was old when it came by the origin's word, gets no
    /// older: there is nothing to stretch.
    pub fn lifetime(&self, terms: &Terms) -> Duration {
        if *self == Pulled::default() || terms.always_revalidate || terms.lifetime.is_zero() {
            return terms.lifetime;
        }
        let times = self.stretch.saturating_add(100);
        let stretched = terms.lifetime.checked_mul(times);
        stretched
            .map_or(Duration::MAX, |all| all / 100)
            .max(self.least)
    }

    /// How long past that it is served while it is refreshed. What its origin forbids to be stale is not.
    pub fn swr(&self, terms: &Terms) -> Duration {
        terms.swr.max(self.widened(terms))
    }

    /// How long past that it stands in for an origin that fails.
    pub fn sie(&self, terms: &Terms) -> Duration {
        terms.sie.max(self.widened(terms))
    }

    fn widened(&self, terms: &Terms) -> Duration {
        match terms.forbids_stale {
            true => Duration::ZERO,
            false => self.stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::storing::tests::terms;

    #[test]
    fn what_is_stored_lives_longer_and_no_shorter() {
        let none = Pulled::default();
        assert_eq!(none.lifetime(&terms(10)), Duration::from_secs(10));
        let tenfold = Pulled {
            stretch: 900,
            ..none
        };
        assert_eq!(tenfold.lifetime(&terms(10)), Duration::from_secs(100));
        assert_eq!(tenfold.lifetime(&terms(0)), Duration::ZERO);
        let least = Pulled {
            least: Duration::from_secs(60),
            ..none
        };
        assert_eq!(least.lifetime(&terms(10)), Duration::from_secs(60));
        assert_eq!(least.lifetime(&terms(90)), Duration::from_secs(90));
        let validated = Terms {
            always_revalidate: true,
            ..terms(10)
        };
        assert_eq!(tenfold.lifetime(&validated), Duration::from_secs(10));
        let most = Pulled {
            stretch: u32::MAX,
            ..none
        };
        let forever = Terms {
            lifetime: Duration::MAX,
            ..terms(1)
        };
        assert_eq!(most.lifetime(&forever), Duration::MAX);
    }

    #[test]
    fn stale_windows_widen_where_the_origin_does_not_forbid_it() {
        let pulled = Pulled {
            stale: Duration::from_secs(60),
            ..Pulled::default()
        };
        let stored = Terms {
            swr: Duration::from_secs(5),
            sie: Duration::from_secs(300),
            ..terms(10)
        };
        assert_eq!(pulled.swr(&stored), Duration::from_secs(60));
        assert_eq!(pulled.sie(&stored), Duration::from_secs(300));
        let forbids = Terms {
            forbids_stale: true,
            ..stored
        };
        assert_eq!(pulled.swr(&forbids), Duration::from_secs(5));
    }
}
