//! Which server fails more than the others do.
//!
//! A server's share of failures against that of all others together: where the app fails as a whole, nobody stands out. What
//! chance alone might well bring doesn't count (the test of two proportions: Pearson 1900).
//!
//! What this does not know: what a failure is, and what becomes of who stands out.

use super::recent::{Came, Recent};

/// What came of a server's requests in the last half minute: long enough for small sites to have [`ENOUGH`] of them.
pub type Lately = Recent<3_000>;

/// Of fewer requests nothing is told, be they its own or the others'.
pub const ENOUGH: u64 = 20;
/// Chance is that: so many standard errors. It is looked at with each failure, so that what is rare would happen.
const ERRORS: f64 = 3.0;

/// Whether a server's failures are more than the others' by `margin`, in hundredths of all requests; 0 is never.
pub fn stands_out(own: Came, others: Came, margin: u32) -> bool {
    if margin == 0 || own.all() < ENOUGH || others.all() < ENOUGH {
        return false;
    }
    let share = |came: Came| f64::from(came.failed) / came.all() as f64;
    let more = share(own) - share(others);
    let all = share(own.and(others));
    let error = (all * (1.0 - all) * (1.0 / own.all() as f64 + 1.0 / others.all() as f64)).sqrt();
    more * 100.0 >= f64::from(margin) - 1e-9 && more > ERRORS * error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(all: u32, failed: u32) -> Came {
        Came {
            answered: all - failed,
            failed,
        }
    }

    #[test]
    fn c77_who_fails_more_than_the_others_by_the_margin_stands_out() {
        assert!(stands_out(came(100, 20), came(200, 0), 20));
        assert!(!stands_out(came(100, 19), came(200, 0), 20));
        assert!(stands_out(came(100, 30), came(200, 20), 20));
        assert!(!stands_out(came(100, 29), came(200, 20), 20));
        assert!(stands_out(came(100, 1), came(1_000_000, 0), 1));
        assert!(stands_out(came(100, 100), came(100, 0), 100));
        assert!(!stands_out(came(100, 100), came(100, 0), 0), "never");
    }

    #[test]
    fn where_all_fail_nobody_stands_out() {
        for failed in [0, 30, 60, 100] {
            assert!(!stands_out(came(100, failed), came(300, 3 * failed), 1));
        }
        assert!(!stands_out(came(100, 0), came(100, 50), 20));
    }

    #[test]
    fn of_few_nothing_is_told() {
        assert!(!stands_out(came(19, 19), came(100, 0), 20));
        assert!(!stands_out(came(100, 100), came(19, 0), 20));
        assert!(stands_out(came(20, 20), came(20, 0), 20));
        assert!(!stands_out(came(0, 0), came(0, 0), 20));
    }

    #[test]
    fn chance_is_no_reason() {
        // 11 and 7 of 20 are drawn from the same urn often enough.
        assert!(!stands_out(came(20, 11), came(40, 14), 20));
        assert!(stands_out(came(200, 110), came(400, 140), 20));
    }
}
