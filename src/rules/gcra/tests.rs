use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn per_second(count: u64, burst: u64) -> Gcra {
    Gcra::new(count, Duration::from_secs(1), burst).unwrap()
}

/// Decides and keeps the cell.
fn come(gcra: &Gcra, cell: &mut Cell, now: u64, cost: u64) -> Verdict {
    let verdict = gcra.decide(*cell, now, cost);
    let (Verdict::Admit { cell: next, .. }
    | Verdict::Wait { cell: next, .. }
    | Verdict::Refuse { cell: next, .. }) = verdict;
    *cell = next;
    verdict
}

fn is_admitted(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Admit { .. })
}

/// A token bucket as one would write it down: tokens of `per` parts each, `count` of which come in every nanosecond.
struct Bucket {
    count: u128,
    per: u128,
    most: u128,
    level: u128,
    last: u64,
}

impl Bucket {
    fn new(count: u64, per: Duration, burst: u64) -> Bucket {
        let (count, per) = (u128::from(count), per.as_nanos());
        let most = per * u128::from(burst);
        Bucket {
            count,
            per,
            most,
            level: most,
            last: 0,
        }
    }

    fn come(&mut self, now: u64, cost: u64) -> bool {
        let gained = u128::from(now - self.last) * self.count;
        self.last = now;
        self.level = self.most.min(self.level + gained);
        let takes = self.per * u128::from(cost);
        let admits = self.level >= takes;
        if admits {
            self.level -= takes;
        }
        admits
    }
}

#[test]
fn a_burst_and_then_the_rate() {
    let gcra = per_second(10, 3);
    let mut cell = Cell::default();
    for left in [2, 1, 0] {
        match come(&gcra, &mut cell, SECOND, 1) {
            Verdict::Admit {
                remaining, reset, ..
            } => {
                assert_eq!(remaining, left);
                assert_eq!(reset, Duration::from_millis(100 * (3 - left)));
            }
            other => panic!("{other:?}"),
        }
    }
    let refused = come(&gcra, &mut cell, SECOND, 1);
    let wait = Duration::from_millis(100);
    assert_eq!(refused, Verdict::Refuse { cell, wait });
    assert!(is_admitted(come(&gcra, &mut cell, SECOND + SECOND / 10, 1)));
}

#[test]
fn who_may_wait_has_a_place_and_keeps_it() {
    let gcra = per_second(10, 1).patient(Duration::from_millis(250));
    let mut cell = Cell::default();
    assert!(is_admitted(come(&gcra, &mut cell, 0, 1)));
    for millis in [100, 200] {
        let wait = Duration::from_millis(millis);
        let verdict = come(&gcra, &mut cell, 0, 1);
        assert_eq!(verdict, Verdict::Wait { cell, wait });
    }
    let wait = Duration::from_millis(300);
    let refused = come(&gcra, &mut cell, 0, 1);
    assert_eq!(refused, Verdict::Refuse { cell, wait });
}

#[test]
fn who_goes_on_waits_longer_up_to_a_bound_and_not_for_ever() {
    let most = Duration::from_secs(2);
    let gcra = per_second(10, 5).punishing(most);
    let mut cell = Cell::default();
    let mut waits = Vec::new();
    for _ in 0..100 {
        if let Verdict::Refuse { wait, .. } = come(&gcra, &mut cell, 0, 1) {
            waits.push(wait.as_millis());
        }
    }
    assert_eq!(waits[..3], [200, 300, 400]);
    assert!(waits.is_sorted());
    assert_eq!(*waits.last().unwrap(), 2_100);
    // Whoever stays away for as long as he was told is as welcome as anybody.
    assert!(!is_admitted(gcra.decide(cell, 2 * SECOND, 1)));
    assert!(is_admitted(gcra.decide(cell, 2_100_000_000, 1)));
    assert!(gcra.is_full(cell, 2_500_000_000));
}

#[test]
fn what_is_known_afterwards_is_owed_and_bounded() {
    let gcra = per_second(1_000, 500).lending();
    let cell = gcra.charge(Cell::default(), 0, 700);
    match gcra.decide(cell, 0, 0) {
        Verdict::Refuse { wait, .. } => assert_eq!(wait, Duration::from_millis(200)),
        other => panic!("{other:?}"),
    }
    assert!(is_admitted(gcra.decide(cell, 200_000_000, 0)));
    let cell = gcra.charge(cell, 0, u64::MAX);
    assert!(!gcra.is_full(cell, SECOND - 1) && gcra.is_full(cell, SECOND));
}

#[test]
fn what_is_given_back_was_never_taken() {
    let gcra = per_second(10, 4);
    let mut cell = Cell::default();
    come(&gcra, &mut cell, 7 * SECOND, 2);
    let before = cell;
    come(&gcra, &mut cell, 7 * SECOND, 2);
    assert_eq!(gcra.refund(cell, 2), before);
    assert!(gcra.is_full(gcra.refund(before, 2), 7 * SECOND));
}

#[test]
fn bounds() {
    let day = Duration::from_secs(86_400);
    assert!(Gcra::new(0, day, 1).is_none());
    assert!(Gcra::new(1, day, 0).is_none());
    assert!(Gcra::new(1, day, 366).is_some());
    assert!(Gcra::new(1, day, 367).is_none());
    assert!(Gcra::new(1_000_000, Duration::from_secs(1), 1).is_some());
    assert!(Gcra::new(1_000_001, Duration::from_secs(1), 1).is_none());
    assert!(Gcra::new(u64::MAX, Duration::MAX, u64::MAX).is_none());
}

/// Rates that people write: a count, its period in seconds, and a burst.
fn rates() -> impl Strategy<Value = (u64, Duration, u64)> {
    let per = prop_oneof![Just(1_u64), Just(60), Just(3_600)];
    (1_u64..=10_000, per, 1_u64..=200)
        .prop_map(|(count, per, burst)| (count, Duration::from_secs(per), burst))
}

/// Pauses between arrivals, from none to many times the interval, and what each costs.
fn arrivals(interval: u64) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let pause = prop_oneof![
        3 => Just(0),
        4 => 0..=interval * 2,
        2 => Just(interval),
        1 => 0..=interval.saturating_mul(300),
    ];
    let cost = prop_oneof![4 => Just(1_u64), 1 => 0_u64..=250];
    proptest::collection::vec((pause, cost), 1..400)
}

fn rates_and_arrivals() -> impl Strategy<Value = (u64, Duration, u64, Vec<(u64, u64)>)> {
    rates().prop_flat_map(|(count, per, burst)| {
        let interval = per.as_nanos() as u64 / count;
        (Just(count), Just(per), Just(burst), arrivals(interval))
    })
}

proptest! {
    /// Never more than the bucket, and never less than one that is slower by what rounding takes.
    #[test]
    fn it_is_a_token_bucket((count, per, burst, arrivals) in rates_and_arrivals()) {
        let gcra = Gcra::new(count, per, burst).unwrap();
        let exact = per.as_nanos() * u128::from(PARTS) % u128::from(count) == 0;
        let slowed = per + per / 100_000;
        let (mut above, mut below) = (Bucket::new(count, per, burst), Bucket::new(count, slowed, burst));
        let (mut cell, mut now) = (Cell::default(), 0);
        // Buckets that decide for themselves drift apart, so each goes by what was really let in.
        for (pause, cost) in arrivals {
            now += pause;
            let admits = is_admitted(come(&gcra, &mut cell, now, cost));
            let may = above.come(now, cost);
            prop_assert!(!admits || may, "admitted beyond the bucket at {}", now);
            if may && !admits {
                prop_assert!(!exact, "refused below the bucket at {}", now);
                above.level += above.per * u128::from(cost);
            }
            let must = below.come(now, cost);
            prop_assert!(admits || !must, "refused below the rate at {}", now);
            if admits && !must {
                below.level = below.level.saturating_sub(below.per * u128::from(cost));
            }
        }
    }

    /// However the clock steps: no more than a burst and what came in while it went forwards.
    #[test]
    fn no_step_of_the_clock_lets_more_in(
        (count, per, burst, arrivals) in rates_and_arrivals(),
        steps in proptest::collection::vec((any::<bool>(), 0_u64..=10_000_000_000_000), 400),
    ) {
        let gcra = Gcra::new(count, per, burst).unwrap();
        let (mut cell, mut now, mut forwards, mut taken) = (Cell::default(), 1_u64 << 50, 0_u128, 0_u128);
        for ((pause, cost), (is_step, back)) in arrivals.into_iter().zip(steps) {
            now += pause;
            forwards += u128::from(pause);
            if is_step {
                now = now.saturating_sub(back);
            }
            if is_admitted(come(&gcra, &mut cell, now, cost)) {
                taken += u128::from(cost);
            }
            let most = u128::from(burst) * per.as_nanos() + forwards * u128::from(count);
            prop_assert!(taken * per.as_nanos() <= most);
        }
    }

    /// Who was refused is admitted after the wait he was told and not a nanosecond earlier, and after a step of the clock
    /// the wait is no longer than a bucket takes to fill.
    #[test]
    fn the_wait_is_exact((count, per, burst) in rates(), used in 0_u64..=200, cost in 1_u64..=200, back in 0_u64..=1 << 50) {
        let gcra = Gcra::new(count, per, burst).unwrap();
        let now = 1_u64 << 51;
        let cost = cost.min(burst);
        let mut cell = Cell::default();
        for _ in 0..used.min(burst) {
            come(&gcra, &mut cell, now, 1);
        }
        let now = now - back;
        if let Verdict::Refuse { cell, wait } = gcra.decide(cell, now, cost) {
            let wait = wait.as_nanos() as u64;
            prop_assert!(wait > 0 && wait * PARTS <= gcra.capacity + PARTS);
            prop_assert!(is_admitted(gcra.decide(cell, now + wait, cost)));
            prop_assert!(!is_admitted(gcra.decide(cell, now + wait - 1, cost)));
        }
    }

    /// No number breaks it.
    #[test]
    fn no_number_is_too_large(cell: u64, now: u64, cost: u64, punish: bool) {
        let gcra = per_second(7, 3).patient(Duration::MAX).lending();
        let gcra = if punish { gcra.punishing(Duration::MAX) } else { gcra };
        let cell = Cell(cell);
        let _ = gcra.decide(cell, now, cost);
        let _ = gcra.charge(cell, now, cost);
        let _ = gcra.refund(cell, cost);
        prop_assert!(gcra.used(cell, now) <= gcra.furthest());
    }
}
