//! May a stored answer serve a request: at once, stale, or after asking the origin (RFC 9111 §4,
//! §5.2.1; RFC 5861).

use std::time::Duration;

use super::cache_control::RequestDirectives;
use super::cache_status::Fwd;
use super::fresh;
use super::identity::Class;
use super::pulled::Pulled;
use super::storing::{Audience, Terms};
use super::time::Moment;

/// What a request asks of a stored answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Demand {
    /// Whose request it is.
    pub class: Class,
    /// Its directives, where its route honours them.
    pub directives: Option<RequestDirectives>,
    /// §5.2.1.7, honoured everywhere.
    pub only_if_cached: bool,
    /// What operators have pulled for its route.
    pub pulled: Pulled,
}

/// How a stored answer serves a request. A ttl is in seconds, as Cache-Status tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reuse {
    /// As it is.
    Fresh {
        /// Above 0.
        ttl: i64,
    },
    /// At once, while one refresh runs behind it (RFC 5861 §3).
    StaleWhileRevalidate {
        /// 0 or less.
        ttl: i64,
    },
    /// At once: the client's max-stale takes it (§5.2.1.2).
    MaxStale {
        /// 0 or less.
        ttl: i64,
    },
    /// The origin is asked first.
    Forward {
        /// As Cache-Status tells it.
        why: Fwd,
        /// The ttl it would be served with should the origin fail or be slow (RFC 5861 §4); none:
        /// not even then.
        fallback: Option<i64>,
    },
    /// Not by asking the origin, and there is nothing else: 504 (§5.2.1.7).
    OnlyIfCached,
    /// It is not for this class, as if it were not there.
    NotForYou,
}

/// Decides how the answer whose head came at `stored` serves a request at `now`. `mark`: when a soft purge made it stale.
/// Its origin calls it fresh still, so it may be served, as stale, for as long as it could have been anyway.
pub fn reuse(
    terms: &Terms,
    stored: Moment,
    mark: Option<Moment>,
    now: Moment,
    demand: &Demand,
) -> Reuse {
    if demand.class == Class::Identified && terms.audience == Audience::AnonymousOnly {
        return Reuse::NotForYou;
    }
    let pulled = &demand.pulled;
    let unmarked = fresh::remaining_pulled(terms, pulled, stored, now);
    let remaining = fresh::marked(unmarked, mark, now);
    let ttl = fresh::seconds_left(remaining);
    // Windows begin where its lifetime ends.
    let within = |window| unmarked > -fresh::signed_millis(window);
    let forward = |why| {
        if demand.only_if_cached {
            return Reuse::OnlyIfCached;
        }
        let usable = !terms.always_revalidate && within(pulled.sie(terms));
        Reuse::Forward {
            why,
            fallback: usable.then_some(ttl),
        }
    };

    if terms.always_revalidate {
        return forward(Fwd::Stale);
    }
    let asked = demand.directives.unwrap_or_default();
    if asked.no_cache || asked.no_store {
        return forward(Fwd::Request);
    }
    let fresh = remaining > 0;
    let excused = fresh && terms.immutable;
    if !excused
        && asked
            .max_age
            .is_some_and(|most| fresh::age(terms, stored, now) > most)
    {
        return forward(if fresh { Fwd::Request } else { Fwd::Stale });
    }
    if asked
        .min_fresh
        .is_some_and(|least| remaining < seconds(least))
    {
        return forward(if fresh { Fwd::Request } else { Fwd::Stale });
    }
    if fresh {
        return Reuse::Fresh { ttl };
    }
    // §5.2.1.1: who names an age, and no staleness, wants nothing stale
    if asked.max_age.is_none() && within(pulled.swr(terms)) {
        return Reuse::StaleWhileRevalidate { ttl };
    }
    let taken = asked
        .max_stale
        .is_some_and(|most| remaining >= -seconds(most));
    if taken && !terms.forbids_stale {
        return Reuse::MaxStale { ttl };
    }
    forward(Fwd::Stale)
}

/// The same where operators have requests go to the origin, whatever is stored.
pub fn bypassed(
    terms: &Terms,
    stored: Moment,
    mark: Option<Moment>,
    now: Moment,
    demand: &Demand,
) -> Reuse {
    let remaining = fresh::remaining_pulled(terms, &demand.pulled, stored, now);
    let ttl = fresh::seconds_left(fresh::marked(remaining, mark, now));
    let forward = |fallback| Reuse::Forward {
        why: Fwd::Bypass,
        fallback,
    };
    match reuse(terms, stored, mark, now, demand) {
        Reuse::Fresh { .. } | Reuse::StaleWhileRevalidate { .. } | Reuse::MaxStale { .. } => {
            forward(Some(ttl))
        }
        Reuse::Forward { fallback, .. } => forward(fallback),
        other @ (Reuse::OnlyIfCached | Reuse::NotForYou) => other,
    }
}

/// Whether an answer of the origin counts as an error for stale-if-error (RFC 5861 §4).
pub fn is_origin_error(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

/// In milliseconds; figures are at most 2^31.
fn seconds(figure: u64) -> i64 {
    fresh::signed_millis(Duration::from_secs(figure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::storing::tests::terms;
    use proptest::prelude::*;

    const ANYONE: Demand = Demand {
        class: Class::Anonymous,
        directives: None,
        only_if_cached: false,
        pulled: Pulled {
            stretch: 0,
            least: Duration::ZERO,
            stale: Duration::ZERO,
        },
    };

    /// Ten seconds fresh, then five for a refresh, then up to twenty for an outage.
    fn stored() -> Terms {
        Terms {
            swr: Duration::from_secs(5),
            sie: Duration::from_secs(20),
            ..terms(10)
        }
    }

    fn at(terms: &Terms, ms: u64, demand: &Demand) -> Reuse {
        reuse(terms, Moment(0), None, Moment(ms), demand)
    }

    /// The same after a soft purge at two seconds.
    fn marked(terms: &Terms, ms: u64, demand: &Demand) -> Reuse {
        reuse(terms, Moment(0), Some(Moment(2_000)), Moment(ms), demand)
    }

    fn asking(directives: RequestDirectives) -> Demand {
        Demand {
            directives: Some(directives),
            ..ANYONE
        }
    }

    const NONE: RequestDirectives = RequestDirectives {
        no_cache: false,
        no_store: false,
        only_if_cached: false,
        max_age: None,
        min_fresh: None,
        max_stale: None,
        no_transform: false,
    };

    fn stale(fallback: Option<i64>) -> Reuse {
        Reuse::Forward {
            why: Fwd::Stale,
            fallback,
        }
    }

    fn by_request(fallback: i64) -> Reuse {
        Reuse::Forward {
            why: Fwd::Request,
            fallback: Some(fallback),
        }
    }

    #[test]
    fn rfc9111_4_fresh_then_stale_then_gone() {
        for (ms, expected) in [
            (0, Reuse::Fresh { ttl: 10 }),
            (9_999, Reuse::Fresh { ttl: 1 }),
            (10_000, Reuse::StaleWhileRevalidate { ttl: 0 }),
            (14_999, Reuse::StaleWhileRevalidate { ttl: -4 }),
            (15_000, stale(Some(-5))),
            (29_999, stale(Some(-19))),
            (30_000, stale(None)),
        ] {
            assert_eq!(at(&stored(), ms, &ANYONE), expected, "{ms}");
        }
    }

    #[test]
    fn rfc9111_4_2_4_stale_is_not_served_without_a_window() {
        let bare = terms(10);
        assert_eq!(at(&bare, 10_000, &ANYONE), stale(None));
    }

    #[test]
    fn rfc9111_5_2_2_4_no_cache_is_always_validated() {
        let terms = Terms {
            always_revalidate: true,
            ..stored()
        };
        assert_eq!(at(&terms, 0, &ANYONE), stale(None));
        let generous = asking(RequestDirectives {
            max_stale: Some(99),
            ..NONE
        });
        assert_eq!(at(&terms, 0, &generous), stale(None));
    }

    #[test]
    fn share_our_lifetimes_are_not_served_to_somebody() {
        let ours = Terms {
            audience: Audience::AnonymousOnly,
            ..stored()
        };
        let somebody = Demand {
            class: Class::Identified,
            only_if_cached: true,
            ..ANYONE
        };
        assert_eq!(at(&ours, 0, &somebody), Reuse::NotForYou);
        assert_eq!(at(&ours, 0, &ANYONE), Reuse::Fresh { ttl: 10 });
        assert_eq!(at(&stored(), 0, &somebody), Reuse::Fresh { ttl: 10 });
    }

    #[test]
    fn rfc9111_5_2_1_7_only_if_cached() {
        let demand = Demand {
            only_if_cached: true,
            ..ANYONE
        };
        assert_eq!(at(&stored(), 0, &demand), Reuse::Fresh { ttl: 10 });
        assert_eq!(
            at(&stored(), 12_000, &demand),
            Reuse::StaleWhileRevalidate { ttl: -2 }
        );
        assert_eq!(at(&stored(), 16_000, &demand), Reuse::OnlyIfCached);
    }

    #[test]
    fn c38_directives_are_not_heard_unless_the_route_says_so() {
        assert_eq!(at(&stored(), 9_000, &ANYONE), Reuse::Fresh { ttl: 1 });
    }

    #[test]
    fn rfc9111_5_2_1_4_and_5_no_cache_and_no_store_ask_the_origin() {
        let no_cache = asking(RequestDirectives {
            no_cache: true,
            ..NONE
        });
        assert_eq!(at(&stored(), 1_000, &no_cache), by_request(9));
        let no_store = asking(RequestDirectives {
            no_store: true,
            ..NONE
        });
        assert_eq!(at(&stored(), 1_000, &no_store), by_request(9));
    }

    #[test]
    fn rfc9111_5_2_1_1_max_age() {
        let demand = asking(RequestDirectives {
            max_age: Some(3),
            ..NONE
        });
        assert_eq!(at(&stored(), 3_000, &demand), Reuse::Fresh { ttl: 7 });
        assert_eq!(at(&stored(), 4_000, &demand), by_request(6));
        // and nothing stale
        let long = asking(RequestDirectives {
            max_age: Some(99),
            ..NONE
        });
        assert_eq!(at(&stored(), 12_000, &long), stale(Some(-2)));
    }

    #[test]
    fn rfc8246_2_immutable_is_not_asked_for_again_by_age() {
        let terms = Terms {
            immutable: true,
            ..stored()
        };
        let reload = asking(RequestDirectives {
            max_age: Some(0),
            ..NONE
        });
        assert_eq!(at(&terms, 5_000, &reload), Reuse::Fresh { ttl: 5 });
        assert_eq!(at(&terms, 16_000, &reload), stale(Some(-6)));
        let no_cache = asking(RequestDirectives {
            no_cache: true,
            ..NONE
        });
        assert_eq!(at(&terms, 5_000, &no_cache), by_request(5));
    }

    #[test]
    fn rfc9111_5_2_1_3_min_fresh() {
        let demand = asking(RequestDirectives {
            min_fresh: Some(4),
            ..NONE
        });
        assert_eq!(at(&stored(), 6_000, &demand), Reuse::Fresh { ttl: 4 });
        assert_eq!(at(&stored(), 6_001, &demand), by_request(4));
        assert_eq!(at(&stored(), 12_000, &demand), stale(Some(-2)));
    }

    #[test]
    fn rfc9111_5_2_1_2_max_stale() {
        let terms = Terms {
            swr: Duration::ZERO,
            ..stored()
        };
        let demand = asking(RequestDirectives {
            max_stale: Some(4),
            ..NONE
        });
        assert_eq!(at(&terms, 14_000, &demand), Reuse::MaxStale { ttl: -4 });
        assert_eq!(at(&terms, 14_001, &demand), stale(Some(-4)));
    }

    #[test]
    fn rfc9111_4_2_4_max_stale_does_not_lift_what_forbids() {
        let terms = Terms {
            forbids_stale: true,
            ..terms(10)
        };
        let demand = asking(RequestDirectives {
            max_stale: Some(99),
            ..NONE
        });
        assert_eq!(at(&terms, 11_000, &demand), stale(None));
    }

    #[test]
    fn what_is_marked_is_stale_from_then_on_and_keeps_its_windows() {
        let swr = |ttl| Reuse::StaleWhileRevalidate { ttl };
        for (ms, expected) in [
            (2_000, swr(0)),
            (9_999, swr(-7)),
            (14_999, swr(-12)),
            (15_000, stale(Some(-13))),
            (29_999, stale(Some(-27))),
            (30_000, stale(None)),
        ] {
            assert_eq!(marked(&stored(), ms, &ANYONE), expected, "{ms}");
        }
        // without a window as long as it would have been fresh
        assert_eq!(marked(&terms(10), 9_999, &ANYONE), swr(-7));
        assert_eq!(marked(&terms(10), 10_000, &ANYONE), stale(None));
        // and what had ended before it was marked has
        let late = reuse(
            &terms(1),
            Moment(0),
            Some(Moment(2_000)),
            Moment(2_000),
            &ANYONE,
        );
        assert_eq!(late, stale(None));
    }

    #[test]
    fn rfc9111_4_2_4_what_forbids_stale_use_is_fresh_to_its_origin_until_its_end() {
        let forbids = Terms {
            forbids_stale: true,
            ..terms(10)
        };
        let served = Reuse::StaleWhileRevalidate { ttl: -7 };
        assert_eq!(marked(&forbids, 9_999, &ANYONE), served);
        assert_eq!(marked(&forbids, 10_000, &ANYONE), stale(None));
        let no_cache = Terms {
            always_revalidate: true,
            ..terms(10)
        };
        assert_eq!(marked(&no_cache, 3_000, &ANYONE), stale(None));
    }

    #[test]
    fn rfc8246_2_immutable_is_no_excuse_once_marked() {
        let terms = Terms {
            immutable: true,
            ..stored()
        };
        let reload = asking(RequestDirectives {
            max_age: Some(0),
            ..NONE
        });
        assert_eq!(marked(&terms, 5_000, &reload), stale(Some(-3)));
        let min_fresh = asking(RequestDirectives {
            min_fresh: Some(1),
            ..NONE
        });
        assert_eq!(marked(&stored(), 5_000, &min_fresh), stale(Some(-3)));
    }

    #[test]
    fn rfc5861_4_origin_errors() {
        let errors: Vec<u16> = (100..600)
            .filter(|status| is_origin_error(*status))
            .collect();
        assert_eq!(errors, [500, 502, 503, 504]);
    }

    fn any_demand() -> impl Strategy<Value = Demand> {
        let figure = || proptest::option::of(0u64..40);
        (any::<[bool; 4]>(), figure(), figure(), figure()).prop_map(
            |([identified, honours, no_cache, only_if_cached], max_age, min_fresh, max_stale)| {
                Demand {
                    class: if identified {
                        Class::Identified
                    } else {
                        Class::Anonymous
                    },
                    directives: honours.then_some(RequestDirectives {
                        no_cache,
                        max_age,
                        min_fresh,
                        max_stale,
                        ..NONE
                    }),
                    only_if_cached,
                    pulled: Pulled::default(),
                }
            },
        )
    }

    fn any_terms() -> impl Strategy<Value = Terms> {
        (any::<[bool; 4]>(), 0u64..20, 0u64..20, 0u64..20).prop_map(
            |([ours, always_revalidate, forbids_stale, immutable], lifetime, swr, sie)| Terms {
                audience: if ours {
                    Audience::AnonymousOnly
                } else {
                    Audience::Everyone
                },
                always_revalidate,
                forbids_stale,
                immutable,
                swr: Duration::from_secs(swr),
                sie: Duration::from_secs(sie),
                ..terms(lifetime)
            },
        )
    }

    proptest! {
        /// Nothing goes out that the terms do not allow, whoever asks.
        #[test]
        fn rfc9111_4_reuse_keeps_to_the_terms(terms in any_terms(), demand in any_demand(), ms in 0u64..60_000) {
            let staleness = i64::try_from(ms).unwrap() - fresh::signed_millis(terms.lifetime);
            let verdict = at(&terms, ms, &demand);
            let somebody = demand.class == Class::Identified && terms.audience == Audience::AnonymousOnly;
            prop_assert_eq!(somebody, verdict == Reuse::NotForYou);
            match verdict {
                Reuse::Fresh { ttl } => prop_assert!(staleness < 0 && ttl > 0 && !terms.always_revalidate),
                Reuse::StaleWhileRevalidate { ttl } => {
                    prop_assert!(staleness >= 0 && ttl <= 0 && !terms.always_revalidate);
                    prop_assert!(staleness < fresh::signed_millis(terms.swr));
                }
                Reuse::MaxStale { .. } => prop_assert!(!terms.forbids_stale && !terms.always_revalidate && demand.directives.is_some()),
                Reuse::Forward { fallback, .. } => {
                    prop_assert!(!demand.only_if_cached);
                    prop_assert!(fallback.is_none() || (staleness < fresh::signed_millis(terms.sie) && !terms.always_revalidate));
                }
                Reuse::OnlyIfCached => prop_assert!(demand.only_if_cached),
                Reuse::NotForYou => {}
            }
        }

        /// Honoured directives only ever take away, but for max-stale.
        #[test]
        fn rfc9111_5_2_1_directives_only_restrict(terms in any_terms(), demand in any_demand(), ms in 0u64..60_000) {
            let silent = at(&terms, ms, &Demand { directives: None, ..demand });
            let verdict = at(&terms, ms, &demand);
            let served = |r: &Reuse| matches!(r, Reuse::Fresh { .. } | Reuse::StaleWhileRevalidate { .. });
            prop_assert!(!served(&verdict) || verdict == silent);
        }
    }
}
