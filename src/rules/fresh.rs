//! Age and freshness of a stored answer (RFC 9111 §4.2).
//!
//! Elapsed time is the monotonic clock's. Age is rounded down once, from the sum of how old the
//! answer was when it came and how long it has been here, so that 3.0 s never shows as 2, and
//! *fresh* is exactly `ttl > 0`.

use std::time::Duration;

use http::HeaderMap;
use http::header::{AGE, DATE, EXPIRES, HeaderName, LAST_MODIFIED};

use super::cache_control::delta_seconds;
use super::date;
use super::pulled::Pulled;
use super::storing::{Source, StoreTerms, Terms};
use super::targeted::{From, Policy};
use super::time::{Moment, Now, millis};

/// `current_age` in whole seconds, as sent (§4.2.3, §5.1). `stored` is when the answer's head came.
pub fn age(terms: &Terms, stored: Moment, now: Moment) -> u64 {
    aged(terms, stored, now).unsigned_abs() / 1000
}

/// The rest of its lifetime in seconds, as Cache-Status tells it: above 0 while fresh, then 0 and
/// below. For lifetimes of whole seconds this is the lifetime less the age.
pub fn ttl(terms: &Terms, stored: Moment, now: Moment) -> i64 {
    seconds_left(remaining(terms, stored, now))
}

/// The same where a soft purge has made it stale at `mark`.
pub fn ttl_of_marked(terms: &Terms, stored: Moment, mark: Option<Moment>, now: Moment) -> i64 {
    seconds_left(marked(remaining(terms, stored, now), mark, now))
}

/// What is left of so much life where a soft purge has ended it at `mark`.
pub(super) fn marked(remaining: i64, mark: Option<Moment>, now: Moment) -> i64 {
    mark.map_or(remaining, |at| remaining.min(-signed_millis(now.since(at))))
}

/// Milliseconds of life as seconds, rounded up.
pub(super) fn seconds_left(remaining: i64) -> i64 {
    -(-remaining).div_euclid(1000)
}

/// Whether its age is below its lifetime (§4.2). This alone does not say that it may be reused.
pub fn is_fresh(terms: &Terms, stored: Moment, now: Moment) -> bool {
    remaining(terms, stored, now) > 0
}

/// The rest of its lifetime in milliseconds; below zero once it is stale.
pub(super) fn remaining(terms: &Terms, stored: Moment, now: Moment) -> i64 {
    signed_millis(terms.lifetime) - aged(terms, stored, now)
}

/// The same of a page that is pulled to live longer.
pub(super) fn remaining_pulled(terms: &Terms, pulled: &Pulled, stored: Moment, now: Moment) -> i64 {
    signed_millis(pulled.lifetime(terms)) - aged(terms, stored, now)
}

/// Milliseconds, far from where sums of them could overflow.
pub(super) fn signed_millis(d: Duration) -> i64 {
    i64::try_from(millis(d)).map_or(i64::MAX / 8, |ms| ms.min(i64::MAX / 8))
}

fn aged(terms: &Terms, stored: Moment, now: Moment) -> i64 {
    signed_millis(terms.initial_age) + signed_millis(now.since(stored))
}

/// What an answer's own fields say of its time.
pub(super) struct Arrival {
    /// When the origin made it, in Unix seconds: its Date, else when it came (RFC 9110 §6.6.1).
    pub served: u64,
    /// How old it was when it came, by Age or by Date, whichever is more.
    pub age: Duration,
    /// The same by the whole of §4.2.3, where the time the origin took to answer counts as age too.
    pub initial_age: Duration,
}

/// Reads Date and Age of an answer whose head came at `now`, `response_delay` after it was asked
/// for (§4.2.3).
pub(super) fn arrival(fields: &HeaderMap, now: Now, response_delay: Duration) -> Arrival {
    let served = date_of(fields, DATE, now.wall).unwrap_or(now.wall);
    // both clocks are cut to seconds: a Date one second behind says nothing
    let apparent = match now.wall.saturating_sub(served) {
        0 | 1 => Duration::ZERO,
        seconds => Duration::from_secs(seconds),
    };
    let received = received_age(fields);
    Arrival {
        served,
        age: received.max(apparent),
        initial_age: apparent.max(received.saturating_add(response_delay)),
    }
}

/// The lifetime the origin gives: s-maxage, else max-age, else Expires − Date (§4.2.1).
pub(super) fn explicit(
    policy: &Policy,
    fields: &HeaderMap,
    served: u64,
    wall: u64,
) -> Option<Duration> {
    let directives = &policy.directives;
    if let Some(seconds) = directives.s_maxage.or(directives.max_age) {
        return Some(Duration::from_secs(seconds));
    }
    if policy.from != From::CacheControl || !fields.contains_key(EXPIRES) {
        return None;
    }
    // invalid or repeated: the past
    let expires = date_of(fields, EXPIRES, wall).unwrap_or(0);
    Some(Duration::from_secs(expires.saturating_sub(served)))
}

/// The lifetime given here where the origin gives none, and whose word it is: `error_ttl`, else a
/// heuristic, else `default_ttl`.
pub(super) fn own(
    status: u16,
    fields: &HeaderMap,
    route: &StoreTerms,
    policy: &Policy,
    served: u64,
    wall: u64,
) -> Option<(Source, Duration)> {
    if status >= 400 {
        let short = matches!(status, 404 | 405 | 410 | 414 | 501);
        return (short && !route.error_ttl.is_zero())
            .then_some((Source::ErrorTtl, route.error_ttl));
    }
    let by_itself = heuristically_cacheable(status);
    // §4.2.2: public makes any status fit for a heuristic
    if by_itself || policy.directives.public {
        let guess = heuristic(fields, route, served, wall);
        if !guess.is_zero() {
            return Some((Source::Heuristic, guess));
        }
    }
    let ttl = route
        .default_ttl
        .filter(|ttl| by_itself && !ttl.is_zero())?;
    Some((Source::Default, ttl))
}

/// The statuses below 400 that may have a lifetime the origin did not give (RFC 9110 §15.1).
fn heuristically_cacheable(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300 | 301 | 308)
}

/// A part of the time since the last change, in whole seconds, capped (§4.2.2).
fn heuristic(fields: &HeaderMap, route: &StoreTerms, served: u64, wall: u64) -> Duration {
    let Some(changed) = date_of(fields, LAST_MODIFIED, wall) else {
        return Duration::ZERO;
    };
    let unchanged = served.saturating_sub(changed) as f64;
    let guess = (unchanged * route.heuristic_fraction.clamp(0.0, 1.0)) as u64;
    Duration::from_secs(guess).min(route.heuristic_cap)
}

/// The first Age, digits only; anything else counts for nothing (§5.1).
fn received_age(fields: &HeaderMap) -> Duration {
    let line = fields.get(AGE).map_or(&b""[..], |value| value.as_bytes());
    let first = line.split(|&b| b == b',').next().unwrap_or_default();
    Duration::from_secs(delta_seconds(first.trim_ascii()).unwrap_or(0))
}

/// A date field that stands once and is valid.
pub(super) fn date_of(fields: &HeaderMap, name: HeaderName, wall: u64) -> Option<u64> {
    let mut lines = fields.get_all(name).iter();
    let only = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    date::parse(only.as_bytes(), wall)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::storing::tests::terms;
    use proptest::prelude::*;

    fn here(initial_ms: u64, lifetime_ms: u64) -> Terms {
        Terms {
            initial_age: Duration::from_millis(initial_ms),
            lifetime: Duration::from_millis(lifetime_ms),
            ..terms(0)
        }
    }

    #[test]
    fn rfc9111_4_2_3_age_is_rounded_once() {
        // 0.6 s old when it came and 2.4 s here are 3 s
        assert_eq!(age(&here(600, 9_000), Moment(100), Moment(2_500)), 3);
        assert_eq!(age(&here(0, 9_000), Moment(999), Moment(3_999)), 3);
        assert_eq!(age(&here(0, 9_000), Moment(0), Moment(2_999)), 2);
        assert_eq!(age(&here(7_000, 9_000), Moment(50), Moment(50)), 7);
    }

    #[test]
    fn rfc9111_4_2_fresh_while_the_lifetime_exceeds_the_age() {
        let ten = here(0, 10_000);
        for (ms, expected_ttl, fresh) in [
            (0, 10, true),
            (1, 10, true),
            (1_000, 9, true),
            (9_999, 1, true),
            (10_000, 0, false),
            (10_999, 0, false),
            (11_000, -1, false),
            (13_500, -3, false),
        ] {
            assert_eq!(ttl(&ten, Moment(0), Moment(ms)), expected_ttl, "{ms}");
            assert_eq!(is_fresh(&ten, Moment(0), Moment(ms)), fresh, "{ms}");
        }
    }

    #[test]
    fn rfc9111_4_2_age_spends_the_lifetime() {
        assert!(!is_fresh(&here(60_000, 60_000), Moment(0), Moment(0)));
        assert_eq!(ttl(&here(100_000, 60_000), Moment(0), Moment(0)), -40);
    }

    #[test]
    fn c88_a_moment_before_it_came_is_the_moment_it_came() {
        assert_eq!(age(&here(0, 10_000), Moment(9_000), Moment(1_000)), 0);
    }

    proptest! {
        /// What is told adds up, and its sign says what is done.
        #[test]
        fn rfc9211_2_4_ttl_and_age_make_the_lifetime(initial in 0u64..100_000, lifetime in 0u64..100, ms in 0u64..1_000_000) {
            let terms = here(initial, lifetime * 1_000);
            let (age, ttl) = (age(&terms, Moment(7), Moment(7 + ms)), ttl(&terms, Moment(7), Moment(7 + ms)));
            prop_assert_eq!(i64::try_from(age).unwrap() + ttl, i64::try_from(lifetime).unwrap());
            prop_assert_eq!(is_fresh(&terms, Moment(7), Moment(7 + ms)), ttl > 0);
        }

        #[test]
        fn rfc9111_4_2_3_age_never_falls(initial in 0u64..100_000, a: u32, b: u32) {
            let terms = here(initial, 1_000);
            let (first, second) = (u64::from(a.min(b)), u64::from(a.max(b)));
            prop_assert!(age(&terms, Moment(0), Moment(first)) <= age(&terms, Moment(0), Moment(second)));
        }

        #[test]
        fn extremes_do_not_overflow(initial: u64, lifetime: u64, stored: u64, now: u64) {
            let terms = here(initial, lifetime);
            prop_assert_eq!(is_fresh(&terms, Moment(stored), Moment(now)), ttl(&terms, Moment(stored), Moment(now)) > 0);
        }
    }
}
