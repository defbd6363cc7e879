//! When those who were refused are to come back: Retry-After (RFC 9110 §10.2.3), in seconds.

use std::time::Duration;

/// Seconds that nobody is told to stay away longer than, before the spread.
const MOST: u64 = 30;
/// The least spread, in seconds.
const SPREAD: u64 = 3;

/// Once what waits now has been worked off, and spread over as long a time again, so that those who are turned away
/// together don't come back together; from 1 to 60. `random` is any number.
pub fn retry_after(backlog: Duration, random: u64) -> u64 {
    let whole = backlog.as_secs() + u64::from(backlog.subsec_nanos() > 0);
    let least = whole.clamp(1, MOST);
    least + random % (least.max(SPREAD) + 1)
}

/// The seconds of a wait that is one client's own, rounded up, and up to a quarter more, a second at least and a minute at
/// most: who was refused for coming too often gains nothing by it, but those whose wait began together come apart.
pub fn after_wait(wait: Duration, random: u64) -> u64 {
    let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let least = whole.max(1);
    least + random % ((least / 4).clamp(1, 60) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc9110_10_2_3_refused_ones_come_back_apart_and_not_before_their_time() {
        let range = |millis| {
            let drawn = |random| retry_after(Duration::from_millis(millis), random);
            let all: Vec<u64> = (0..1_000).map(drawn).collect();
            (*all.iter().min().unwrap(), *all.iter().max().unwrap())
        };
        assert_eq!(range(0), (1, 4));
        assert_eq!(range(2_001), (3, 6));
        assert_eq!(range(10_000), (10, 20));
        assert_eq!(range(3_600_000), (30, 60));
    }

    #[test]
    fn rfc9110_10_2_3_who_waits_alone_is_told_no_less_and_hardly_more() {
        let range = |millis| {
            let drawn = |random| after_wait(Duration::from_millis(millis), random);
            let all: Vec<u64> = (0..1_000).map(drawn).collect();
            (*all.iter().min().unwrap(), *all.iter().max().unwrap())
        };
        assert_eq!(range(0), (1, 2));
        assert_eq!(range(600), (1, 2));
        assert_eq!(range(12_001), (13, 16));
        assert_eq!(range(3_600_000), (3_600, 3_660));
    }

    proptest! {
        #[test]
        fn it_is_never_zero_and_never_long(millis: u64, random: u64) {
            let seconds = retry_after(Duration::from_millis(millis), random);
            prop_assert!((1..=60).contains(&seconds));
        }
    }
}
