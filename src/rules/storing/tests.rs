use super::*;

use crate::rules::targeted::CDN_CACHE_CONTROL;
use proptest::prelude::*;

const WALL: u64 = 1_795_228_800;
const DAY: Duration = Duration::from_secs(86_400);

/// Terms of an ordinary answer that lives for so many seconds.
pub fn terms(seconds: u64) -> Terms {
    Terms {
        source: Source::Explicit,
        lifetime: Duration::from_secs(seconds),
        initial_age: Duration::ZERO,
        swr: Duration::ZERO,
        sie: Duration::ZERO,
        always_revalidate: false,
        forbids_stale: false,
        fresh_on_arrival: true,
        audience: Audience::Everyone,
        explicitly_shared: false,
        permits_authorization: false,
        no_transform: false,
        immutable: false,
        strip_set_cookie: false,
        vary: Vary::None,
    }
}

/// An ordinary request of a stranger.
const ASKED: Asked = Asked {
    method: Method::Get,
    body: false,
    class: Class::Anonymous,
    authorization: false,
    head_bytes: 200,
    method_override: false,
    no_store: false,
};

const IDENTIFIED: Asked = Asked {
    class: Class::Identified,
    ..ASKED
};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Unix seconds as a field's value, `from_now` seconds on.
fn at(from_now: i64) -> String {
    let date = date::format(WALL.saturating_add_signed(from_now));
    String::from_utf8(date.to_vec()).unwrap()
}

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

fn judged(
    asked: &Asked,
    status: u16,
    lines: &[(&str, &str)],
    route: &StoreTerms,
) -> Result<Terms, Refusal> {
    let now = Now {
        mono: Moment(5_000),
        wall: WALL,
    };
    match judge(asked, status, &fields(lines), route, now, Duration::ZERO) {
        Verdict::Store(terms) => Ok(terms),
        Verdict::Refuse(refusal) => Err(refusal),
    }
}

/// To a stranger, on a route that sets nothing.
fn plainly(status: u16, lines: &[(&str, &str)]) -> Result<Terms, Refusal> {
    judged(&ASKED, status, lines, &StoreTerms::default())
}

fn cc(value: &str) -> Result<Terms, Refusal> {
    plainly(200, &[("cache-control", value)])
}

/// A route that protects an app which says nothing.
fn protecting() -> StoreTerms {
    StoreTerms {
        default_ttl: Some(secs(10)),
        error_ttl: secs(1),
        ..StoreTerms::default()
    }
}

#[test]
fn rfc9111_3_any_final_status_with_explicit_freshness() {
    for status in [
        200, 201, 203, 204, 301, 302, 303, 307, 400, 404, 418, 429, 500, 503, 599,
    ] {
        let terms = plainly(status, &[("cache-control", "max-age=60")]).unwrap();
        assert_eq!(
            (terms.source, terms.lifetime),
            (Source::Explicit, secs(60)),
            "{status}"
        );
    }
}

#[test]
fn rfc9111_3_3_c35_206_and_304_and_interim_are_never_stored_as_such() {
    for status in [0, 100, 103, 199, 206, 304, 600, 999] {
        assert_eq!(
            plainly(status, &[("cache-control", "max-age=60")]),
            Err(Refusal::Status),
            "{status}"
        );
    }
}

#[test]
fn rfc9111_3_only_get_is_stored_and_head_never_for_get() {
    for method in [Method::Head, Method::Other] {
        let asked = Asked { method, ..ASKED };
        let verdict = judged(
            &asked,
            200,
            &[("cache-control", "public, max-age=60")],
            &protecting(),
        );
        assert_eq!(verdict, Err(Refusal::Method), "{method:?}");
    }
}

#[test]
fn c25_a_get_with_a_body_is_not_stored() {
    let asked = Asked {
        body: true,
        ..ASKED
    };
    assert_eq!(
        judged(
            &asked,
            200,
            &[("cache-control", "max-age=60")],
            &protecting()
        ),
        Err(Refusal::Body)
    );
}

#[test]
fn c27_odd_requests_leave_nothing_stored() {
    let explicit = [("cache-control", "public, max-age=60")];
    let large = |head_bytes| {
        judged(
            &Asked {
                head_bytes,
                ..ASKED
            },
            400,
            &explicit,
            &protecting(),
        )
    };
    assert!(large(8 * 1024).is_ok());
    assert_eq!(large(8 * 1024 + 1), Err(Refusal::LargeHead));
    let overriding = Asked {
        method_override: true,
        ..ASKED
    };
    assert_eq!(
        judged(&overriding, 200, &explicit, &protecting()),
        Err(Refusal::MethodOverride)
    );
}

#[test]
fn rfc9111_5_2_1_5_request_no_store() {
    let asked = Asked {
        no_store: true,
        ..ASKED
    };
    assert_eq!(
        judged(
            &asked,
            200,
            &[("cache-control", "max-age=60")],
            &protecting()
        ),
        Err(Refusal::RequestNoStore)
    );
}

#[test]
fn rfc9111_5_2_2_5_no_store() {
    for value in [
        "no-store",
        "max-age=60, No-Store",
        "no-store, public, s-maxage=60",
        "no-store=\"x\", max-age=60",
    ] {
        assert_eq!(cc(value), Err(Refusal::NoStore), "{value}");
    }
    let lines = [
        ("cache-control", "max-age=60"),
        ("cache-control", "no-store"),
    ];
    assert_eq!(plainly(200, &lines), Err(Refusal::NoStore));
}

#[test]
fn rfc9111_5_2_2_7_private() {
    for value in [
        "private",
        "PRIVATE, max-age=60",
        "public, private, s-maxage=60",
        "private=\"set-cookie\", max-age=60",
    ] {
        assert_eq!(cc(value), Err(Refusal::Private), "{value}");
    }
}

#[test]
fn rfc9111_3_5_c30_authorization_needs_leave() {
    let asked = Asked {
        authorization: true,
        ..IDENTIFIED
    };
    let of = |value| {
        judged(
            &asked,
            200,
            &[("cache-control", value)],
            &StoreTerms::default(),
        )
    };
    assert_eq!(of("max-age=60"), Err(Refusal::Authorization));
    assert_eq!(
        of("max-age=60, proxy-revalidate"),
        Err(Refusal::Authorization)
    );
    for value in [
        "max-age=60, public",
        "s-maxage=60",
        "max-age=60, must-revalidate",
    ] {
        assert_eq!(
            of(value).map(|terms| terms.audience),
            Ok(Audience::Everyone),
            "{value}"
        );
    }
    let targeted = [("cdn-cache-control", "max-age=60")];
    assert_eq!(
        judged(&asked, 200, &targeted, &StoreTerms::default()),
        Err(Refusal::Authorization)
    );
}

#[test]
fn rfc9111_4_1_c33_vary_star_on_any_line() {
    let lines = [
        ("cache-control", "max-age=60"),
        ("vary", "accept"),
        ("vary", "x, *"),
    ];
    assert_eq!(plainly(200, &lines), Err(Refusal::VaryStar));
    let named = plainly(
        200,
        &[
            ("cache-control", "max-age=60"),
            ("vary", "x-a"),
            ("vary", "x-b"),
        ],
    )
    .unwrap();
    assert_eq!(named.vary.names().len(), 2);
}

#[test]
fn rfc9111_7_3_c29_set_cookie_is_refused_by_default() {
    for value in [
        "max-age=60",
        "public, max-age=60",
        "s-maxage=60",
        "no-cache",
    ] {
        let lines = [
            ("cache-control", value),
            ("set-cookie", "a=1"),
            ("etag", "\"a\""),
        ];
        assert_eq!(plainly(200, &lines), Err(Refusal::SetCookie), "{value}");
    }
}

#[test]
fn rfc9111_7_3_set_cookie_is_stripped_or_shared_only_where_explicitly_shared() {
    for (set_cookie, stripped) in [(SetCookie::Strip, true), (SetCookie::Share, false)] {
        let route = StoreTerms {
            set_cookie,
            ..protecting()
        };
        let of = |value| {
            judged(
                &ASKED,
                200,
                &[("cache-control", value), ("set-cookie", "a=1")],
                &route,
            )
        };
        assert_eq!(of("max-age=60"), Err(Refusal::SetCookie));
        assert_eq!(of("must-revalidate, max-age=60"), Err(Refusal::SetCookie));
        for value in ["public, max-age=60", "s-maxage=60"] {
            assert_eq!(
                of(value).map(|terms| terms.strip_set_cookie),
                Ok(stripped),
                "{value}"
            );
        }
        // without a lifetime of its own, never
        assert_eq!(of("public"), Err(Refusal::SetCookie));
    }
}

#[test]
fn rfc9111_5_2_2_3_must_understand() {
    let of = |status, value| plainly(status, &[("cache-control", value)]);
    assert!(of(200, "must-understand, no-store, max-age=60").is_ok());
    assert_eq!(
        of(299, "must-understand, max-age=60"),
        Err(Refusal::NotUnderstood)
    );
    assert_eq!(
        of(200, "must-understand, private, max-age=60"),
        Err(Refusal::Private)
    );
    // no-store is lifted only where the origin gives a lifetime
    let route = protecting();
    let bare = judged(
        &ASKED,
        200,
        &[("cache-control", "must-understand, no-store")],
        &route,
    );
    assert_eq!(bare, Err(Refusal::NoStore));
}

#[test]
fn rfc9111_5_2_2_4_no_cache_is_stored_and_always_validated() {
    for value in [
        "no-cache",
        "no-cache, max-age=60",
        "no-cache=\"set-cookie\", s-maxage=60",
    ] {
        let terms = plainly(200, &[("cache-control", value), ("etag", "\"a\"")]).unwrap();
        assert!(
            terms.always_revalidate && terms.forbids_stale && !terms.fresh_on_arrival,
            "{value}"
        );
        assert_eq!(
            (terms.swr, terms.sie),
            (Duration::ZERO, Duration::ZERO),
            "{value}"
        );
    }
    assert_eq!(
        cc("no-cache, max-age=60"),
        Err(Refusal::NeverReusable),
        "nothing to validate by"
    );
}

#[test]
fn no_cache_without_a_lifetime_is_for_strangers() {
    let lines = [("cache-control", "no-cache"), ("etag", "\"a\"")];
    let terms = judged(&ASKED, 200, &lines, &protecting()).unwrap();
    assert_eq!(
        (terms.source, terms.audience),
        (Source::NoCache, Audience::AnonymousOnly)
    );
    assert_eq!(
        judged(&IDENTIFIED, 200, &lines, &protecting()),
        Err(Refusal::Identified)
    );
}

#[test]
fn rfc9111_5_4_response_pragma_counts_as_no_cache() {
    let lines = [("pragma", "no-cache"), ("etag", "\"a\"")];
    assert!(
        judged(&ASKED, 200, &lines, &protecting())
            .unwrap()
            .always_revalidate
    );
    let beside = [("pragma", "no-cache"), ("cache-control", "max-age=60")];
    assert!(!plainly(200, &beside).unwrap().always_revalidate);
}

#[test]
fn rfc9111_4_2_1_s_maxage_before_max_age_before_expires() {
    let (later, now) = (at(300), at(0));
    let lifetime = |value| {
        let lines = [
            ("cache-control", value),
            ("expires", later.as_str()),
            ("date", now.as_str()),
        ];
        plainly(200, &lines).unwrap().lifetime
    };
    assert_eq!(lifetime("s-maxage=100, max-age=200"), secs(100));
    assert_eq!(lifetime("max-age=200"), secs(200));
    assert_eq!(lifetime("public"), secs(300));
}

#[test]
fn rfc9111_5_3_expires_counts_from_date() {
    let (expires, date) = (at(300), at(-60));
    let terms = plainly(200, &[("expires", &expires), ("date", &date)]).unwrap();
    assert_eq!((terms.lifetime, terms.initial_age), (secs(360), secs(60)));
    let undated = plainly(200, &[("expires", &expires)]).unwrap();
    assert_eq!(
        (undated.lifetime, undated.initial_age),
        (secs(300), Duration::ZERO)
    );
}

#[test]
fn rfc9111_5_3_c31_invalid_repeated_or_zero_expires_is_the_past() {
    let good = at(300);
    for values in [
        &["0"][..],
        &["-1"],
        &[""],
        &["junk"],
        &[good.as_str(), good.as_str()],
        &["Thu, 01 Jan 1970 00:00:00 GMT"],
    ] {
        let mut lines: Vec<_> = values.iter().map(|value| ("expires", *value)).collect();
        assert_eq!(
            judged(&ASKED, 200, &lines, &protecting()),
            Err(Refusal::NeverReusable),
            "{values:?}"
        );
        lines.push(("etag", "\"a\""));
        let terms = judged(&ASKED, 200, &lines, &protecting()).unwrap();
        assert_eq!(
            (terms.source, terms.lifetime),
            (Source::Explicit, Duration::ZERO),
            "{values:?}"
        );
    }
}

#[test]
fn rfc9213_2_2_a_targeted_field_replaces_cache_control_expires_and_pragma() {
    let (past, date) = (at(-300), at(0));
    let lines = [
        ("cdn-cache-control", "max-age=60"),
        ("cache-control", "no-store"),
        ("expires", past.as_str()),
        ("date", date.as_str()),
        ("pragma", "no-cache"),
    ];
    let terms = plainly(200, &lines).unwrap();
    assert_eq!(
        (
            terms.lifetime,
            terms.explicitly_shared,
            terms.always_revalidate
        ),
        (secs(60), true, false)
    );
    let surrogate = [
        ("surrogate-control", "max-age=7"),
        ("cache-control", "private"),
    ];
    assert_eq!(plainly(200, &surrogate).unwrap().lifetime, secs(7));
    let refusing = [
        ("cdn-cache-control", "no-store"),
        ("cache-control", "max-age=60"),
    ];
    assert_eq!(plainly(200, &refusing), Err(Refusal::NoStore));
    let future = at(300);
    let silent = [
        ("cdn-cache-control", "must-revalidate"),
        ("expires", future.as_str()),
    ];
    assert_eq!(
        plainly(200, &silent),
        Err(Refusal::NoLifetime),
        "Expires is not heard beside it"
    );
}

#[test]
fn rfc9111_4_2_2_heuristic_from_last_modified() {
    let (changed, date) = (at(-1_000), at(0));
    let lines = [("last-modified", changed.as_str()), ("date", date.as_str())];
    let of = |status, route: &StoreTerms| judged(&ASKED, status, &lines, route);
    let terms = of(200, &StoreTerms::default()).unwrap();
    assert_eq!(
        (terms.source, terms.lifetime, terms.audience),
        (Source::Heuristic, secs(100), Audience::AnonymousOnly)
    );
    let capped = StoreTerms {
        heuristic_cap: secs(30),
        ..StoreTerms::default()
    };
    assert_eq!(of(200, &capped).unwrap().lifetime, secs(30));
    let off = StoreTerms {
        heuristic_cap: Duration::ZERO,
        ..StoreTerms::default()
    };
    assert_eq!(of(200, &off), Err(Refusal::NoLifetime));
    for status in [203, 204, 300, 301, 308] {
        assert!(of(status, &StoreTerms::default()).is_ok(), "{status}");
    }
    for status in [201, 302, 303, 307, 404, 410, 500] {
        assert_eq!(
            of(status, &StoreTerms::default()),
            Err(Refusal::NoLifetime),
            "{status}"
        );
    }
    assert_eq!(
        judged(&IDENTIFIED, 200, &lines, &StoreTerms::default()),
        Err(Refusal::Identified)
    );
}

#[test]
fn rfc9111_4_2_2_no_heuristic_where_the_origin_gives_a_lifetime() {
    let changed = at(-1_000_000);
    for line in [("cache-control", "max-age=0"), ("expires", "0")] {
        let terms = plainly(200, &[line, ("last-modified", &changed)]).unwrap();
        assert_eq!(terms.lifetime, Duration::ZERO, "{line:?}");
    }
}

#[test]
fn rfc9111_4_2_2_public_makes_any_status_fit_for_a_heuristic() {
    let changed = at(-1_000);
    let lines = [
        ("cache-control", "public"),
        ("last-modified", changed.as_str()),
    ];
    assert_eq!(plainly(302, &lines).unwrap().source, Source::Heuristic);
}

#[test]
fn default_ttl_protects_an_app_that_says_nothing() {
    let terms = judged(&ASKED, 200, &[], &protecting()).unwrap();
    assert_eq!(
        (terms.source, terms.lifetime, terms.audience),
        (Source::Default, secs(10), Audience::AnonymousOnly)
    );
    assert_eq!((terms.swr, terms.sie), (OWN_STALE_WHILE_REVALIDATE, DAY));
    assert_eq!(
        plainly(200, &[]),
        Err(Refusal::NoLifetime),
        "unless the route says so"
    );
}

#[test]
fn default_ttl_is_safe() {
    let of = |asked: &Asked, status, lines: &[(&str, &str)]| {
        judged(asked, status, lines, &protecting()).map(|_| ())
    };
    assert_eq!(of(&IDENTIFIED, 200, &[]), Err(Refusal::Identified));
    assert_eq!(
        of(
            &Asked {
                authorization: true,
                ..IDENTIFIED
            },
            200,
            &[("cache-control", "public")]
        ),
        Err(Refusal::Identified)
    );
    assert_eq!(
        of(&ASKED, 200, &[("set-cookie", "a=1")]),
        Err(Refusal::SetCookie)
    );
    assert_eq!(
        of(&ASKED, 200, &[("vary", "Accept, cookie")]),
        Err(Refusal::VaryCredentials)
    );
    assert_eq!(
        of(&ASKED, 200, &[("vary", "Authorization")]),
        Err(Refusal::VaryCredentials)
    );
    assert_eq!(
        of(
            &ASKED,
            200,
            &[("content-type", "Text/Event-Stream; charset=utf-8")]
        ),
        Err(Refusal::EventStream)
    );
    assert_eq!(
        of(&ASKED, 200, &[("cache-control", "no-store")]),
        Err(Refusal::NoStore)
    );
    assert_eq!(
        of(&ASKED, 200, &[("cache-control", "private")]),
        Err(Refusal::Private)
    );
    assert_eq!(
        of(&ASKED, 200, &[("cache-control", "max-age=0")]),
        Err(Refusal::NeverReusable)
    );
    assert_eq!(
        of(&ASKED, 200, &[("cache-control", "no-cache")]),
        Err(Refusal::NeverReusable)
    );
    assert_eq!(
        of(
            &Asked {
                method: Method::Other,
                ..ASKED
            },
            200,
            &[]
        ),
        Err(Refusal::Method)
    );
    for status in [201, 202, 302, 303, 307, 400, 401, 403, 429, 500, 503] {
        assert_eq!(
            of(&ASKED, status, &[]),
            Err(Refusal::NoLifetime),
            "{status}"
        );
    }
    for status in [200, 203, 204, 300, 301, 308] {
        assert_eq!(of(&ASKED, status, &[]), Ok(()), "{status}");
    }
}

#[test]
fn default_ttl_counts_from_arrival() {
    let now = Now {
        mono: Moment(0),
        wall: WALL,
    };
    let Verdict::Store(terms) = judge(&ASKED, 200, &HeaderMap::new(), &protecting(), now, secs(30))
    else {
        panic!("stored");
    };
    assert_eq!((terms.lifetime, terms.initial_age), (secs(40), secs(30)));
}

#[test]
fn extreme_figures_of_a_route_do_no_harm() {
    let route = StoreTerms {
        default_ttl: Some(Duration::MAX),
        heuristic_fraction: f64::NAN,
        stale_while_revalidate: Some(Duration::MAX),
        stale_if_error: Some(Duration::MAX),
        ..protecting()
    };
    let terms = judged(&ASKED, 200, &[("age", "5")], &route).unwrap();
    assert!(fresh::is_fresh(&terms, Moment(0), Moment(1 << 50)));
    assert!(!may_replace(500, 200, &terms, Moment(0), Moment(1 << 50)));
}

#[test]
fn error_ttl_keeps_five_statuses_for_a_moment() {
    for status in [404, 405, 410, 414, 501] {
        let terms = judged(&ASKED, status, &[], &protecting()).unwrap();
        assert_eq!(
            (terms.source, terms.lifetime, terms.audience),
            (Source::ErrorTtl, secs(1), Audience::AnonymousOnly),
            "{status}"
        );
        assert_eq!(
            (terms.swr, terms.sie),
            (Duration::ZERO, Duration::ZERO),
            "{status}"
        );
        assert_eq!(plainly(status, &[]), Err(Refusal::NoLifetime), "{status}");
        assert_eq!(
            judged(&IDENTIFIED, status, &[], &protecting()),
            Err(Refusal::Identified),
            "{status}"
        );
    }
    assert_eq!(
        judged(&ASKED, 404, &[("set-cookie", "a=1")], &protecting()),
        Err(Refusal::SetCookie)
    );
}

#[test]
fn share_explicit_freshness_serves_both_classes() {
    for lines in [
        [("cache-control", "max-age=60")],
        [("cache-control", "s-maxage=60")],
        [("expires", "Fri, 31 Dec 9999 23:59:59 GMT")],
    ] {
        let terms = judged(&IDENTIFIED, 200, &lines, &StoreTerms::default()).unwrap();
        assert_eq!(terms.audience, Audience::Everyone, "{lines:?}");
    }
}

#[test]
fn rfc9111_4_2_c32_age_counts_against_the_lifetime() {
    let of = |age| {
        plainly(
            200,
            &[
                ("cache-control", "max-age=60"),
                ("age", age),
                ("etag", "\"a\""),
            ],
        )
        .unwrap()
    };
    assert!(of("59").fresh_on_arrival);
    for age in ["60", "61", "99999999999999999999"] {
        assert!(!of(age).fresh_on_arrival, "{age}");
    }
    let bare = plainly(200, &[("cache-control", "max-age=60"), ("age", "60")]);
    assert_eq!(bare, Err(Refusal::NeverReusable));
}

#[test]
fn rfc9111_5_1_age_is_the_first_value_digits_only() {
    let of = |values: &[&str]| {
        let mut lines = vec![("cache-control", "max-age=60")];
        lines.extend(values.iter().map(|value| ("age", *value)));
        plainly(200, &lines).unwrap().initial_age
    };
    assert_eq!(of(&["7"]), secs(7));
    assert_eq!(of(&["7, 50"]), secs(7));
    assert_eq!(of(&["7", "50"]), secs(7));
    for junk in ["-7", "+7", "7.5", "7s", "", "x, 7"] {
        assert_eq!(of(&[junk]), Duration::ZERO, "{junk:?}");
    }
}

#[test]
fn rfc9111_4_2_3_initial_age_is_the_larger_of_two_ways() {
    let of = |age: &str, date: i64, delay| {
        let date = at(date);
        let lines = fields(&[
            ("cache-control", "max-age=600"),
            ("age", age),
            ("date", &date),
        ]);
        let now = Now {
            mono: Moment(0),
            wall: WALL,
        };
        match judge(&ASKED, 200, &lines, &StoreTerms::default(), now, delay) {
            Verdict::Store(terms) => terms.initial_age,
            Verdict::Refuse(refusal) => panic!("{refusal:?}"),
        }
    };
    assert_eq!(of("10", -100, secs(0)), secs(100));
    assert_eq!(of("100", -10, secs(0)), secs(100));
    assert_eq!(of("10", -11, secs(3)), secs(13));
    assert_eq!(
        of("0", 500, secs(0)),
        secs(0),
        "a Date to come is not a younger answer"
    );
    assert_eq!(
        of("0", -1, secs(0)),
        secs(0),
        "one second is the clocks' grain"
    );
    assert_eq!(
        of("0", 0, Duration::from_millis(700)),
        Duration::from_millis(700)
    );
}

#[test]
fn rfc5861_3_stale_while_revalidate_origin_then_route_then_ours() {
    let route = StoreTerms {
        stale_while_revalidate: Some(secs(5)),
        ..protecting()
    };
    let swr =
        |lines: &[(&str, &str)], route: &StoreTerms| judged(&ASKED, 200, lines, route).unwrap().swr;
    let (said, unsaid) = (
        [("cache-control", "max-age=60, stale-while-revalidate=7")],
        [("cache-control", "max-age=60")],
    );
    assert_eq!(swr(&said, &route), secs(7));
    assert_eq!(swr(&unsaid, &route), secs(5));
    assert_eq!(swr(&unsaid, &protecting()), Duration::ZERO);
    assert_eq!(swr(&[], &route), secs(5));
    assert_eq!(swr(&[], &protecting()), secs(60));
    assert_eq!(
        swr(
            &[("cache-control", "stale-while-revalidate=0")],
            &protecting()
        ),
        Duration::ZERO
    );
}

#[test]
fn rfc5861_4_stale_if_error_origin_then_route_then_a_day() {
    let route = StoreTerms {
        stale_if_error: Some(secs(5)),
        ..StoreTerms::default()
    };
    let sie = |value, route: &StoreTerms| {
        judged(&ASKED, 200, &[("cache-control", value)], route)
            .unwrap()
            .sie
    };
    assert_eq!(sie("max-age=60, stale-if-error=7", &route), secs(7));
    assert_eq!(sie("max-age=60, stale-if-error=0", &route), secs(0));
    assert_eq!(sie("max-age=60", &route), secs(5));
    assert_eq!(sie("max-age=60", &StoreTerms::default()), DAY);
}

#[test]
fn rfc9111_4_2_4_four_directives_forbid_stale_use() {
    let route = StoreTerms {
        stale_while_revalidate: Some(secs(5)),
        stale_if_error: Some(secs(5)),
        ..StoreTerms::default()
    };
    for value in [
        "max-age=60, must-revalidate",
        "max-age=60, proxy-revalidate",
        "max-age=60, no-cache",
        "s-maxage=60",
    ] {
        let terms = judged(
            &ASKED,
            200,
            &[("cache-control", value), ("etag", "\"a\"")],
            &route,
        )
        .unwrap();
        assert!(terms.forbids_stale, "{value}");
        assert_eq!(
            (terms.swr, terms.sie),
            (Duration::ZERO, Duration::ZERO),
            "{value}"
        );
    }
    for value in ["must-revalidate", "proxy-revalidate", "no-cache"] {
        let value = format!("s-maxage=60, stale-while-revalidate=7, stale-if-error=7, {value}");
        let terms = judged(
            &ASKED,
            200,
            &[("cache-control", &value), ("etag", "\"a\"")],
            &route,
        )
        .unwrap();
        assert_eq!(
            (terms.swr, terms.sie),
            (Duration::ZERO, Duration::ZERO),
            "{value}"
        );
    }
}

#[test]
fn rfc9111_5_2_2_10_explicit_stale_beside_s_maxage_is_obeyed() {
    let terms = cc("s-maxage=60, stale-while-revalidate=7").unwrap();
    assert_eq!((terms.swr, terms.sie), (secs(7), Duration::ZERO));
}

#[test]
fn share_unset_windows_never_apply_to_what_was_stale_on_arrival() {
    let route = StoreTerms {
        stale_while_revalidate: Some(secs(5)),
        ..StoreTerms::default()
    };
    for line in [("cache-control", "max-age=0"), ("expires", "0")] {
        let terms = judged(&ASKED, 200, &[line, ("etag", "\"a\"")], &route).unwrap();
        assert_eq!(
            (terms.swr, terms.sie),
            (Duration::ZERO, Duration::ZERO),
            "{line:?}"
        );
    }
    let own = cc("max-age=0, stale-while-revalidate=7, stale-if-error=8").unwrap();
    assert_eq!((own.swr, own.sie), (secs(7), secs(8)));
}

#[test]
fn share_unset_windows_never_apply_to_what_an_identified_request_filled() {
    let route = StoreTerms {
        stale_while_revalidate: Some(secs(5)),
        ..StoreTerms::default()
    };
    let of = |value| {
        let terms = judged(&IDENTIFIED, 200, &[("cache-control", value)], &route).unwrap();
        (terms.swr, terms.sie)
    };
    assert_eq!(of("max-age=60"), (Duration::ZERO, Duration::ZERO));
    assert_eq!(
        of("max-age=60, stale-if-error=8"),
        (Duration::ZERO, secs(8))
    );
    assert_eq!(of("max-age=60, public"), (secs(5), DAY));
}

#[test]
fn flights_a_follower_takes_only_what_could_be_its_own() {
    let shared = cc("max-age=60").unwrap();
    assert_eq!(follower(&shared, &ASKED), Ok(()));
    assert_eq!(follower(&shared, &IDENTIFIED), Ok(()));
    let authorized = Asked {
        authorization: true,
        ..IDENTIFIED
    };
    assert_eq!(follower(&shared, &authorized), Err(Refusal::Authorization));
    assert_eq!(
        follower(&cc("max-age=60, public").unwrap(), &authorized),
        Ok(())
    );
    let ours = judged(&ASKED, 200, &[], &protecting()).unwrap();
    assert_eq!(follower(&ours, &ASKED), Ok(()));
    assert_eq!(follower(&ours, &IDENTIFIED), Err(Refusal::Identified));
    let validated = plainly(200, &[("cache-control", "no-cache"), ("etag", "\"a\"")]).unwrap();
    assert_eq!(follower(&validated, &ASKED), Err(Refusal::NeverReusable));
    let expired = plainly(200, &[("cache-control", "max-age=0"), ("etag", "\"a\"")]).unwrap();
    assert_eq!(follower(&expired, &ASKED), Err(Refusal::NeverReusable));
    let head = Asked {
        method: Method::Head,
        ..ASKED
    };
    assert_eq!(follower(&shared, &head), Ok(()), "HEAD from a GET");
}

#[test]
fn flights_a_slow_answer_is_still_its_waiters() {
    let now = Now {
        mono: Moment(0),
        wall: WALL,
    };
    let lines = fields(&[("cache-control", "max-age=1")]);
    let Verdict::Store(terms) = judge(&ASKED, 200, &lines, &StoreTerms::default(), now, secs(3))
    else {
        panic!("stored");
    };
    assert!(!fresh::is_fresh(&terms, Moment(0), Moment(0)));
    assert_eq!(follower(&terms, &ASKED), Ok(()));
    assert_eq!(terms.sie, DAY);
}

#[test]
fn rfc5861_4_an_error_never_replaces_what_stale_if_error_could_use() {
    let mut old = terms(10);
    old.sie = secs(5);
    let replace = |new, old_status, ms| may_replace(new, old_status, &old, Moment(0), Moment(ms));
    for error in [400, 404, 500, 503] {
        assert!(!replace(error, 200, 0), "{error} over fresh");
        assert!(!replace(error, 200, 14_999), "{error} within the window");
        assert!(replace(error, 200, 15_000), "{error} past it");
        assert!(replace(error, 404, 0), "{error} over an error");
    }
    assert!(replace(200, 200, 0) && replace(301, 200, 0));
    let mut validated = terms(10);
    validated.always_revalidate = true;
    assert!(may_replace(500, 200, &validated, Moment(0), Moment(0)));
}

#[test]
fn rfc9110_6_6_1_a_missing_date_is_added() {
    for given in [
        &[][..],
        &[("date", "junk")],
        &[("date", "0"), ("date", "0")],
    ] {
        let mut map = fields(given);
        dress(&mut map, &terms(1), WALL);
        assert_eq!(
            map.get_all(DATE).iter().collect::<Vec<_>>(),
            [at(0).as_str()],
            "{given:?}"
        );
    }
    let given = at(-100);
    let mut map = fields(&[("date", &given)]);
    dress(&mut map, &terms(1), WALL);
    assert_eq!(map[DATE], given);
}

#[test]
fn rfc9111_3_1_what_is_never_stored_of_a_head() {
    let date = at(0);
    let mut map = fields(&[
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("proxy-authentication-info", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("age", "7"),
        ("date", &date),
        ("cdn-cache-control", "max-age=5"),
        ("set-cookie", "a=1"),
    ]);
    let mut stripping = terms(1);
    stripping.strip_set_cookie = true;
    dress(&mut map, &stripping, WALL);
    assert_eq!(
        map,
        fields(&[("date", &date), (CDN_CACHE_CONTROL.as_str(), "max-age=5")])
    );
}

fn any_asked() -> impl Strategy<Value = Asked> {
    (any::<bool>(), any::<bool>()).prop_map(|(identified, authorization)| Asked {
        class: if identified || authorization {
            Class::Identified
        } else {
            Class::Anonymous
        },
        authorization,
        ..ASKED
    })
}

fn any_lines() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let directive = "(public|must-revalidate|proxy-revalidate|must-understand|immutable|max-age=[0-9]{1,3}|s-maxage=[0-9]{1,3}|stale-if-error=9|stale-while-revalidate=9|no-cache|[a-z=\", -]{0,9})";
    let line = prop_oneof![
        proptest::collection::vec(directive, 0..4).prop_map(|d| ("cache-control", d.join(","))),
        Just(("expires", at(60))),
        Just(("last-modified", at(-9_999))),
        Just(("etag", "\"a\"".to_owned())),
        "[0-9]{1,3}".prop_map(|age| ("age", age)),
        "(cookie|accept|x)".prop_map(|vary| ("vary", vary)),
    ];
    proptest::collection::vec(line, 0..6)
}

fn weighed(
    asked: &Asked,
    status: u16,
    lines: &[(&'static str, String)],
    route: &StoreTerms,
) -> Result<Terms, Refusal> {
    let lines: Vec<_> = lines
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    judged(asked, status, &lines, route)
}

proptest! {
    /// Whatever else stands there, no-store and private on a line of their own are heard.
    #[test]
    fn rfc9111_3_what_is_forbidden_is_never_stored(asked in any_asked(), status in 200u16..600, mut lines in any_lines(), private: bool) {
        let understood = lines.iter().any(|(_, value)| value.contains("must-understand"));
        lines.push(("cache-control", if private { "private" } else { "no-store" }.to_owned()));
        prop_assume!(private || !understood);
        prop_assert!(weighed(&asked, status, &lines, &protecting()).is_err());
    }

    /// A lifetime of ours is never filled by, nor meant for, somebody.
    #[test]
    fn share_our_lifetimes_are_for_strangers(asked in any_asked(), status in 200u16..600, lines in any_lines()) {
        if let Ok(terms) = weighed(&asked, status, &lines, &protecting()) {
            let explicit = terms.source == Source::Explicit;
            prop_assert_eq!(terms.audience == Audience::Everyone, explicit);
            prop_assert!(explicit || asked.class == Class::Anonymous);
            prop_assert!(!asked.authorization || terms.permits_authorization);
        }
    }

    /// Where stale use is forbidden there is no window but the origin's own beside s-maxage.
    #[test]
    fn rfc9111_4_2_4_forbidden_stale_has_no_window(asked in any_asked(), lines in any_lines()) {
        if let Ok(terms) = weighed(&asked, 200, &lines, &protecting()) {
            let own = lines.iter().any(|(_, value)| value.contains("stale-"));
            prop_assert!(!terms.forbids_stale || own || (terms.swr.is_zero() && terms.sie.is_zero()));
            prop_assert!(!terms.always_revalidate || (terms.swr.is_zero() && terms.sie.is_zero()));
        }
    }
}
