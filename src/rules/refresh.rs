//! When a hot page is fetched anew before it expires, and when a page whose refresh failed is asked
//! for again.

use std::time::Duration;

use super::fresh;
use super::pulled::Pulled;
use super::storing::Terms;
use super::time::{Moment, millis};

/// How eager: 1 is the published optimum, more is earlier.
pub const BETA: f64 = 1.0;

/// The most fetch times ahead of expiry that a refresh starts. Without a bound the hottest pages,
/// asked thousands of times a second, would draw ever luckier numbers and be fetched far more than
/// once per lifetime.
pub const MOST_AHEAD: f64 = 2.0;

/// Whether this hit on a fresh answer should start a refresh behind it (XFetch: Vattani et al.,
/// "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015): at random, the likelier the
/// nearer it is to expiry, and the earlier the longer `fetch_cost`, the time its last fetch took.
/// `random` draws evenly from 0 to 1, where a draw decides. Never within the first half of its time here, and never
/// later than without: the jitter only shortens.
pub fn eager(
    terms: &Terms,
    pulled: &Pulled,
    stored: Moment,
    now: Moment,
    fetch_cost: Duration,
    random: impl FnOnce() -> f64,
    beta: f64,
) -> bool {
    if terms.always_revalidate {
        return false;
    }
    let here = fresh::remaining_pulled(terms, pulled, stored, stored);
    let remaining = fresh::remaining_pulled(terms, pulled, stored, now);
    if remaining <= 0 {
        return false;
    }
    // most hits are far from it, and draw nothing
    if remaining as f64 > millis(fetch_cost) as f64 * MOST_AHEAD {
        return false;
    }
    // 0 draws an infinity, which the bound cuts
    let draw = (-random().clamp(0.0, 1.0).ln() * beta.max(0.0)).min(MOST_AHEAD);
    let ahead = (millis(fetch_cost) as f64 * draw).min(here as f64 / 2.0);
    remaining as f64 <= ahead
}

/// How long a key rests after so many failed refreshes in a row: 1 s, doubling to 30 s.
pub fn rest(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        1..=5 => Duration::from_secs(1 << (failures - 1)),
        _ => Duration::from_secs(30),
    }
}

/// How long a key rests whose origin could not be asked, for want of a place: as long as after a first failure, however often.
pub const TURNED_AWAY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::storing::tests::terms;
    use proptest::prelude::*;

    const COST: Duration = Duration::from_millis(500);

    fn at(ms: u64, random: f64) -> bool {
        // ten seconds to live
        eager(
            &terms(10),
            &Pulled::default(),
            Moment(0),
            Moment(ms),
            COST,
            || random,
            BETA,
        )
    }

    #[test]
    fn eager_refresh_starts_before_expiry_and_not_long_before() {
        assert!(!at(8_999, 0.0), "more than two fetch times ahead");
        assert!(at(9_000, 0.0), "the luckiest draw");
        assert!(at(9_999, 0.9), "almost every draw at the very end");
        assert!(!at(9_000, 0.9), "few draws early");
        assert!(!at(9_999, 1.0), "but never by certainty");
    }

    #[test]
    fn eager_refresh_is_for_what_is_fresh_and_may_be_reused() {
        assert!(!at(10_000, 0.0));
        let mut no_cache = terms(10);
        no_cache.always_revalidate = true;
        assert!(!eager(
            &no_cache,
            &Pulled::default(),
            Moment(0),
            Moment(9_999),
            COST,
            || 0.0,
            BETA
        ));
    }

    #[test]
    fn eager_refresh_leaves_slow_pages_half_their_time() {
        let slow = Duration::from_secs(60);
        assert!(!eager(
            &terms(10),
            &Pulled::default(),
            Moment(0),
            Moment(4_999),
            slow,
            || 0.0,
            BETA
        ));
        assert!(eager(
            &terms(10),
            &Pulled::default(),
            Moment(0),
            Moment(5_000),
            slow,
            || 0.0,
            BETA
        ));
    }

    #[test]
    fn a_key_rests_one_second_doubling_to_thirty() {
        let seconds: Vec<u64> = (0..9).map(|n| rest(n).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(rest(u32::MAX), Duration::from_secs(30));
    }

    proptest! {
        /// Once a draw would start a refresh, it would at every later moment while the page is
        /// fresh.
        #[test]
        fn eager_refresh_only_grows_likelier(a in 0u64..12_000, later in 0u64..2_000, random in 0.0..=1.0f64, cost in 0u64..20_000) {
            let at = |ms| eager(&terms(10), &Pulled::default(), Moment(0), Moment(ms), Duration::from_millis(cost), || random, BETA);
            prop_assert!(!at(a) || at(a + later) || a + later >= 10_000);
        }
    }
}
