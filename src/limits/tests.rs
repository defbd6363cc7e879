use std::num::NonZeroU64;

use super::spec::{Key, Part, Rate};
use super::standing::{CLAIMS, Vouched};
use super::*;

const SECOND: u64 = 1_000_000_000;

pub fn spec(name: &str, count: u64, burst: u64) -> LimitSpec {
    LimitSpec {
        name: name.to_owned(),
        key: Key(vec![Part::Address]),
        rate: Some(Rate {
            count,
            per: Duration::from_secs(1),
            burst,
        }),
        concurrency: None,
        routes: Vec::new(),
        by_rules: None,
        methods: Vec::new(),
        counts: Counts::All,
        cost: Cost::Is(1),
        action: Action::Refuse,
        max_delay: Duration::ZERO,
        penalty: Duration::ZERO,
        max_clients: 1_000,
        tell: Tell::Near,
        shared: true,
        x_ratelimit: false,
        tiers: Vec::new(),
        tier: None,
    }
}

fn limits(specs: &[LimitSpec]) -> (Limits, Metrics) {
    let metrics = Metrics::new();
    let room = |_| Some(Box::new(()) as Hold);
    (Limits::new(specs, 2, None, room, &metrics), metrics)
}

/// One request of a client's, at all limits there are.
fn come(limits: &Limits, now: u64) -> Result<Granted, Refusal> {
    come_with(limits, now, || false)
}

fn come_with(limits: &Limits, now: u64, passes: impl FnOnce() -> bool) -> Result<Granted, Refusal> {
    let asked: Vec<_> = limits
        .all()
        .iter()
        .map(|limit| Asked { limit, client: 7 })
        .collect();
    ask(&asked, now, passes)
}

fn counted(metrics: &Metrics, limit: &str, action: &str) -> u64 {
    let series = format!("tidegate_limited_total{{limit=\"{limit}\",action=\"{action}\"}} ");
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(&*series));
    line.expect("a series for it").parse().unwrap()
}

#[test]
fn what_one_refuses_counts_for_none() {
    let at_once = LimitSpec {
        concurrency: Some(100),
        ..spec("wide", 100, 100)
    };
    let (limits, metrics) = limits(&[at_once, spec("narrow", 1, 2)]);
    let kept: Vec<_> = (0..2).map(|_| come(&limits, 0).ok().unwrap()).collect();
    for _ in 0..500 {
        let refusal = come(&limits, 0).err().unwrap();
        assert_eq!(refusal.limit.spec.name, "narrow");
        assert_eq!(refusal.wait, Some(Duration::from_secs(1)));
    }
    let wide = Asked {
        limit: &limits.all()[0],
        client: 7,
    };
    drop(kept);
    let more: Vec<_> = (0..98)
        .map(|_| ask(&[wide], 0, || false).ok().unwrap())
        .collect();
    assert!(
        ask(&[wide], 0, || false).is_err(),
        "two were taken, and no more"
    );
    drop(more);
    assert_eq!(counted(&metrics, "narrow", "refused"), 500);
}

#[test]
fn the_longest_wait_is_told() {
    let (limits, metrics) = limits(&[spec("a", 10, 1), spec("b", 1, 1), spec("c", 2, 1)]);
    assert!(come(&limits, 0).is_ok());
    let refusal = come(&limits, 0).err().unwrap();
    assert_eq!(refusal.limit.spec.name, "b");
    assert_eq!(refusal.wait, Some(Duration::from_secs(1)));
    assert!(come(&limits, SECOND).is_ok());
    assert_eq!(counted(&metrics, "b", "refused"), 1);
    assert_eq!(counted(&metrics, "a", "refused"), 0);
}

#[test]
fn of_the_limit_of_which_least_is_left_clients_are_told() {
    let always = |name, count| LimitSpec {
        tell: Tell::Always,
        ..spec(name, count, count)
    };
    let (limits, _metrics) = limits(&[always("wide", 100), always("narrow", 10)]);
    let granted = come(&limits, 0).ok().unwrap();
    let quota = granted.quota.as_ref().unwrap();
    assert_eq!(quota.limit.spec.name, "narrow");
    assert_eq!(
        (quota.remaining, quota.reset),
        (9, Duration::from_millis(100))
    );
}

#[test]
fn near_the_end_is_where_less_than_half_is_left() {
    let (limits, _metrics) = limits(&[spec("a", 1, 4)]);
    let told: Vec<_> = (0..4)
        .map(|_| {
            come(&limits, 0)
                .ok()
                .unwrap()
                .quota
                .map(|quota| quota.remaining)
        })
        .collect();
    assert_eq!(told, [None, None, Some(1), Some(0)]);
}

#[test]
fn a_limit_that_is_tried_out_refuses_nobody_and_says_what_it_would_have() {
    let dry = LimitSpec {
        action: Action::Log,
        tell: Tell::Always,
        ..spec("dry", 1, 3)
    };
    let (limits, metrics) = limits(&[dry]);
    for nth in 0..10 {
        let granted = come(&limits, 0).ok().unwrap();
        assert!(granted.quota.is_none());
        assert_eq!(granted.note.is_some(), nth >= 3);
    }
    assert_eq!(counted(&metrics, "dry", "logged"), 7);
    assert_eq!(counted(&metrics, "dry", "refused"), 0);
}

fn challenging(name: &str, count: u64, burst: u64) -> LimitSpec {
    LimitSpec {
        action: Action::Challenge,
        ..spec(name, count, burst)
    }
}

#[test]
fn a_pass_is_asked_for_beyond_the_limit_alone_and_once() {
    let (limits, metrics) = limits(&[challenging("a", 1, 2), challenging("b", 1, 2)]);
    for _ in 0..2 {
        assert!(come_with(&limits, 0, || panic!("within it")).is_ok());
    }
    let mut asked = 0;
    for _ in 0..5 {
        let passes = || {
            asked += 1;
            true
        };
        let granted = come_with(&limits, 0, passes).ok().unwrap();
        let (limit, what) = granted.note.as_ref().unwrap();
        assert_eq!((&*limit.spec.name, what.label()), ("a", "passed"));
    }
    assert_eq!(asked, 5, "both limits are content with one answer");
    let refusal = come(&limits, 0).err().unwrap();
    assert_eq!(refusal.limit.spec.name, "a");
    assert_eq!(refusal.wait, Some(Duration::from_secs(1)));
    for (limit, passed, challenged) in [("a", 5, 1), ("b", 5, 0)] {
        assert_eq!(counted(&metrics, limit, "passed"), passed);
        assert_eq!(counted(&metrics, limit, "challenged"), challenged);
        assert_eq!(counted(&metrics, limit, "refused"), 0);
    }
    // Who has gone on by a pass has taken nothing: the limit is there again when it would have been.
    assert!(come_with(&limits, SECOND, || panic!("within it")).is_ok());
}

#[test]
fn a_pass_is_no_ticket_for_other_limits() {
    for others_first in [false, true] {
        let mut specs = vec![challenging("asks", 1, 1), spec("refuses", 1, 4)];
        if others_first {
            specs.reverse();
        }
        let (limits, metrics) = limits(&specs);
        assert!(come(&limits, 0).is_ok());
        // Without a pass nothing is taken from the other,
        for _ in 0..100 {
            assert_eq!(come(&limits, 0).err().unwrap().limit.spec.name, "asks");
        }
        // and with one it counts.
        let passing = |now| come_with(&limits, now, || true);
        let admitted = (0..10).filter(|_| passing(0).is_ok()).count();
        assert_eq!(admitted, 3, "of four one was gone");
        // Where a pass would not help it is not what is asked for.
        for passes in [false, true] {
            let refusal = come_with(&limits, 0, || passes).err().unwrap();
            assert_eq!(refusal.limit.spec.name, "refuses");
        }
        assert_eq!(counted(&metrics, "asks", "challenged"), 100);
        assert_eq!(counted(&metrics, "refuses", "refused"), 9);
    }
}

#[test]
fn who_waits_has_taken_and_who_would_wait_too_long_has_not() {
    let patient = LimitSpec {
        action: Action::Delay,
        max_delay: Duration::from_millis(200),
        ..spec("patient", 10, 1)
    };
    let (limits, metrics) = limits(&[patient]);
    let waits: Vec<_> = (0..5)
        .map(|_| {
            come(&limits, 0)
                .map(|granted| granted.wait.map(|wait| wait.as_millis()))
                .ok()
        })
        .collect();
    assert_eq!(
        waits,
        [Some(None), Some(Some(100)), Some(Some(200)), None, None]
    );
    assert_eq!(counted(&metrics, "patient", "delayed"), 2);
    assert_eq!(counted(&metrics, "patient", "refused"), 2);
}

#[test]
fn limits_are_asked_where_they_are_for() {
    let of_route = LimitSpec {
        routes: vec![1],
        ..spec("of-route", 1, 1)
    };
    let of_origin = LimitSpec {
        counts: Counts::Origin,
        cost: Cost::OriginMillis,
        ..spec("of-origin", 1, 1)
    };
    let by_rules = LimitSpec {
        by_rules: Some(0),
        ..spec("by-rules", 1, 1)
    };
    let (limits, _metrics) = limits(&[of_route, of_origin, spec("of-all", 1, 1), by_rules]);
    let names = |limits: &[Arc<Limit>]| {
        let names = limits.iter().map(|limit| limit.spec.name.clone());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&limits.of(Some(1)).door), "of-route of-all by-rules");
    assert_eq!(names(&limits.of(Some(0)).door), "of-all by-rules");
    assert_eq!(names(&limits.of(None).door), "of-all");
    assert_eq!(names(&limits.of(Some(1)).origin), "of-origin");
    assert_eq!(names(&limits.of(Some(1)).billed), "of-origin");
}

#[test]
fn what_is_told_is_a_structured_field() {
    let mut out = Vec::new();
    let rate = LimitSpec {
        x_ratelimit: true,
        rate: Some(Rate {
            count: 100,
            per: Duration::from_secs(60),
            burst: 20,
        }),
        ..spec("visitors", 1, 1)
    };
    Lines::of(&rate).write(37, Duration::from_millis(11_001), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "RateLimit-Policy: \"visitors\";q=100;w=60\r\nRateLimit: \"visitors\";r=37;t=12\r\n\
         X-RateLimit-Limit: 100\r\nX-RateLimit-Remaining: 37\r\nX-RateLimit-Reset: 12\r\n"
    );
    let at_once = LimitSpec {
        rate: None,
        concurrency: Some(8),
        ..spec("at-once", 1, 1)
    };
    let mut out = Vec::new();
    Lines::of(&at_once).write(0, Duration::from_secs(1), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "RateLimit-Policy: \"at-once\";q=8;qu=\"concurrent-requests\"\r\nRateLimit: \"at-once\";r=0;t=1\r\n"
    );
}

/// Somebody known by a token, of a tier.
fn somebody(id: u64, tier: Option<Tier>) -> Standing {
    let id = Id(NonZeroU64::new(id).unwrap());
    Standing {
        key: None,
        token: Some(Vouched {
            known: Known { id, tier },
            claims: [None; CLAIMS],
        }),
    }
}

/// One request of somebody's, by the number of who it is, or of an address.
fn come_as(limits: &Limits, standing: &Standing, address: u64) -> Result<Granted, Refusal> {
    let (limit, member) = limits.all()[0].of(standing);
    let client = member.map_or(address, |id| id.0.get());
    ask(&[Asked { limit, client }], 0, || false)
}

#[test]
fn tiers_have_rates_and_clients_of_their_own() {
    let rate = |tier, name: &str, count| TierRate {
        tier,
        name: name.to_owned(),
        rate: Rate {
            count,
            per: Duration::from_secs(60),
            burst: count,
        },
    };
    let (gold, silver) = (Tier(1), Tier(2));
    let all = LimitSpec {
        tiers: vec![rate(Tier::SIGNED_IN, "signed_in", 5), rate(gold, "gold", 9)],
        ..spec("all", 3, 3)
    };
    let some = LimitSpec {
        tiers: vec![rate(gold, "gold", 9)],
        ..spec("some", 3, 3)
    };
    let admitted = |limits: &Limits, standing: &Standing, address| {
        let all = (0..20).map(|_| come_as(limits, standing, address));
        all.filter(Result::is_ok).count()
    };
    let (limits, metrics) = self::limits(&[all]);
    assert!(limits.all()[0].goes_by_standing());
    // Each counts for who it is: the number of an address is another's, though it be the same.
    assert_eq!(admitted(&limits, &somebody(7, Some(gold)), 1), 9);
    assert_eq!(admitted(&limits, &somebody(7, None), 1), 5);
    assert_eq!(
        admitted(&limits, &somebody(8, Some(silver)), 1),
        5,
        "no rate of its own"
    );
    assert_eq!(admitted(&limits, &Standing::NOBODY, 7), 3);
    assert_eq!(
        admitted(&limits, &somebody(7, Some(gold)), 2),
        0,
        "wherever he is"
    );
    // They are one limit to those who watch it, and each his own to those it is for.
    assert_eq!(counted(&metrics, "all", "refused"), 11 + 15 + 15 + 17 + 20);
    assert_eq!(limits.all()[0].clients().0, 4);
    let refusal = come_as(&limits, &somebody(8, None), 1).err().unwrap();
    let mut told = Vec::new();
    refusal
        .limit
        .lines
        .write(0, Duration::from_secs(1), &mut told);
    assert!(told.starts_with(b"RateLimit-Policy: \"all\";q=5;w=60\r\n"));

    // Without a rate for everybody who is known, only those of the tier are told apart.
    let (limits, _metrics) = self::limits(&[some]);
    assert_eq!(admitted(&limits, &somebody(7, None), 1), 3);
    assert_eq!(
        admitted(&limits, &somebody(8, Some(silver)), 1),
        0,
        "the same address"
    );
    assert_eq!(admitted(&limits, &somebody(8, Some(gold)), 1), 9);
}

#[test]
fn what_a_tier_needs_no_longer_it_gives_back() {
    let rate = Rate {
        count: 5,
        per: Duration::from_secs(1),
        burst: 5,
    };
    let all = LimitSpec {
        tiers: vec![TierRate {
            tier: Tier::SIGNED_IN,
            name: "signed_in".to_owned(),
            rate,
        }],
        ..spec("all", 3, 3)
    };
    let (limits, _metrics) = limits(&[all]);
    for standing in [Standing::NOBODY, somebody(1, None)] {
        assert!(come_as(&limits, &standing, 2).is_ok());
    }
    assert_eq!(limits.all()[0].clients().0, 2);
    limits.tidy(0, 0);
    assert_eq!(limits.all()[0].clients().0, 2, "both are remembered");
    limits.tidy(0, 10 * SECOND);
    assert_eq!(limits.all()[0].clients().0, 0);
}

#[test]
fn a_tier_that_is_tried_out_refuses_nobody() {
    let rate = Rate {
        count: 5,
        per: Duration::from_secs(60),
        burst: 5,
    };
    let dry = LimitSpec {
        action: Action::Log,
        tiers: vec![TierRate {
            tier: Tier::SIGNED_IN,
            name: "signed_in".to_owned(),
            rate,
        }],
        ..spec("dry", 3, 3)
    };
    let (limits, metrics) = limits(&[dry]);
    for standing in [Standing::NOBODY, somebody(1, None)] {
        for _ in 0..10 {
            assert!(come_as(&limits, &standing, 2).is_ok());
        }
    }
    assert_eq!(counted(&metrics, "dry", "logged"), 7 + 5);
}
