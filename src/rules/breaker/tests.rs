use super::*;
use proptest::prelude::*;

const RULES: Rules = Rules {
    after: 10,
    share: 80,
};

/// A breaker, and a clock that is turned by hand.
struct Bench {
    breaker: Breaker,
    now: Moment,
}

impl Bench {
    fn of(rules: Rules) -> Bench {
        Bench {
            breaker: Breaker::new(rules),
            now: Moment(50_000),
        }
    }

    fn open() -> Bench {
        let mut bench = Bench::of(RULES);
        assert_eq!(bench.fails(10), Some(Change::Opened(Why::Failures)));
        bench
    }

    fn after(&mut self, millis: u64) -> &mut Bench {
        self.now = Moment(self.now.0 + millis);
        self
    }

    fn fails(&mut self, times: usize) -> Option<Change> {
        let fail = |_| self.breaker.failed(None, false, false, self.now, 0);
        (0..times).filter_map(fail).last()
    }

    fn answers(&mut self, times: usize) {
        (0..times).for_each(|_| assert_eq!(self.breaker.answered(None, self.now), None));
    }

    fn enter(&mut self) -> Entry {
        self.breaker.enter(self.now, 0)
    }

    fn trial(&mut self) -> Trial {
        match self.enter() {
            Entry::Trial(trial) => trial,
            other => panic!("{other:?}"),
        }
    }

    fn trial_fails(&mut self, trial: Trial) {
        let change = self.breaker.failed(Some(trial), false, false, self.now, 0);
        assert_eq!(change, None);
    }
}

#[test]
fn c72_it_opens_when_hardly_anything_but_failures_comes() {
    let mut bench = Bench::of(RULES);
    assert_eq!(bench.fails(9), None, "too few");
    assert_eq!(bench.enter(), Entry::Pass);
    assert_eq!(bench.fails(1), Some(Change::Opened(Why::Failures)));
    assert_eq!(bench.breaker.state(), State::Open);
    assert_eq!(bench.enter(), Entry::Refused(Moment(50_400)));
}

#[test]
fn one_bad_page_among_good_ones_does_not_open_it() {
    let mut bench = Bench::of(RULES);
    for _ in 0..100 {
        bench.answers(1);
        assert_eq!(bench.fails(1), None);
        bench.after(50);
    }
    assert_eq!(bench.breaker.state(), State::Closed);
}

#[test]
fn what_was_ten_seconds_ago_does_not_count() {
    let mut bench = Bench::of(RULES);
    bench.answers(100);
    assert_eq!(bench.fails(9), None);
    bench.after(9_000);
    assert_eq!(bench.fails(9), None, "the answers count still");
    bench.after(1_000);
    assert_eq!(bench.fails(1), Some(Change::Opened(Why::Failures)));
    let mut bench = Bench::of(RULES);
    assert_eq!(bench.fails(9), None);
    bench.after(10_000);
    assert_eq!(bench.fails(9), None, "the failures don't");
}

#[test]
fn without_a_server_three_failures_in_a_row_are_enough() {
    let mut bench = Bench::of(RULES);
    let fails = |bench: &mut Bench| bench.breaker.failed(None, false, true, bench.now, 0);
    bench.answers(1_000);
    assert_eq!([fails(&mut bench), fails(&mut bench)], [None; 2]);
    bench.answers(1);
    assert_eq!([fails(&mut bench), fails(&mut bench)], [None; 2]);
    assert_eq!(fails(&mut bench), Some(Change::Opened(Why::NoneLeft)));
}

#[test]
fn an_answer_that_breaks_off_is_a_failure_though_it_was_told_as_answered() {
    let mut bench = Bench::of(RULES);
    let mut cut = || {
        bench.answers(1);
        bench.breaker.failed(None, true, false, bench.now, 0)
    };
    let opened = (0..10).filter_map(|_| cut()).count();
    assert_eq!(opened, 1);
}

#[test]
fn zero_never_opens_it() {
    let mut bench = Bench::of(Rules { after: 0, ..RULES });
    assert_eq!(bench.fails(1_000), None);
    let change = bench.breaker.failed(None, false, true, bench.now, 0);
    assert_eq!(change, None);
}

#[test]
fn the_first_trial_that_is_answered_closes_it() {
    let mut bench = Bench::open();
    bench.after(400);
    let trial = bench.trial();
    assert_eq!(bench.breaker.state(), State::HalfOpen);
    assert!(matches!(bench.enter(), Entry::Refused(_)), "one at a time");
    let closed = bench.breaker.answered(Some(trial), bench.now);
    assert_eq!(closed, Some(Change::Closed));
    assert!(bench.breaker.begin(trial, bench.now, 0), "as all may");
    assert_eq!(bench.enter(), Entry::Pass);
    assert_eq!(bench.fails(9), None, "it begins anew");
}

#[test]
fn a_failed_trial_rests_a_little_longer_and_never_long() {
    let mut bench = Bench::open();
    let mut rests = Vec::new();
    for _ in 0..8 {
        let until = bench.breaker.shut_until().unwrap();
        rests.push(until.since(bench.now).as_millis());
        bench.now = until;
        let trial = bench.trial();
        bench.trial_fails(trial);
    }
    assert_eq!(rests, [400, 450, 500, 550, 600, 600, 600, 600]);
}

#[test]
fn rests_are_of_random_length() {
    let rest = |random| {
        let breaker = Breaker::new(RULES);
        breaker.rested(Moment(0), random).0
    };
    let rests: Vec<u64> = (0..1_000).map(|n| rest(n * 7_919)).collect();
    let (least, most) = (rests.iter().min().unwrap(), rests.iter().max().unwrap());
    assert!((300..320).contains(least) && (380..=400).contains(most));
}

#[test]
fn a_trial_that_hangs_is_not_waited_for() {
    let mut bench = Bench::open();
    let hangs = bench.after(400).trial();
    assert!(matches!(bench.after(399).enter(), Entry::Refused(_)));
    let next = bench.after(1).trial();
    // Its failure, late, is not the next one's.
    bench.trial_fails(hangs);
    assert_eq!(bench.breaker.state(), State::HalfOpen);
    assert!(
        !bench.breaker.begin(hangs, bench.now, 0),
        "its turn is over"
    );
    assert!(bench.breaker.begin(next, bench.now, 0));
    // Its answer, late, is as good as any.
    let closed = bench.breaker.answered(Some(hangs), bench.now);
    assert_eq!(closed, Some(Change::Closed));
}

#[test]
fn what_was_asked_before_says_nothing_of_now() {
    let mut bench = Bench::open();
    let old = bench.after(400).trial();
    assert_eq!(bench.breaker.answered(None, bench.now), None);
    bench.breaker.answered(Some(old), bench.now);
    bench.fails(10);
    bench.after(400).trial();
    assert_eq!(bench.breaker.answered(Some(old), bench.now), None);
    bench.trial_fails(old);
    assert_eq!(bench.breaker.state(), State::HalfOpen);
}

#[test]
fn a_lost_trial_or_hope_lets_the_next_one_go_at_once() {
    let mut bench = Bench::open();
    bench.breaker.hope(bench.now);
    let lost = bench.trial();
    bench.breaker.hope(bench.now);
    assert!(matches!(bench.enter(), Entry::Refused(_)), "one is out");
    bench.breaker.lost(lost, bench.now);
    bench.breaker.lost(lost, bench.now);
    bench.trial();
    assert!(matches!(bench.enter(), Entry::Refused(_)));
    bench.breaker.lost(lost, bench.now);
    assert!(matches!(bench.enter(), Entry::Refused(_)), "lost long ago");
}

#[derive(Debug, Clone)]
enum Step {
    Turn(u64),
    Enter,
    Begin(usize),
    Answer(usize),
    Fail(usize, bool),
    Lose(usize),
    Hope,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..2_000u64).prop_map(Step::Turn),
        6 => Just(Step::Enter),
        1 => any::<usize>().prop_map(Step::Begin),
        1 => any::<usize>().prop_map(Step::Answer),
        4 => any::<(usize, bool)>().prop_map(|(at, none)| Step::Fail(at, none)),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => Just(Step::Hope),
    ]
}

proptest! {
    /// Whatever happens in whatever order: while it is not closed, between two moments at which a trial was lost, failed
    /// or given up on, one goes at most; nobody goes before `shut_until`; a rest is never long; and once trials
    /// are answered it is closed after one rest.
    #[test]
    fn c72_one_trial_at_a_time_and_never_stuck(
        steps in proptest::collection::vec(step(), 1..200),
        random: u64,
    ) {
        let mut breaker = Breaker::new(RULES);
        let mut now = Moment(1);
        // Requests that are out: which trial each is, if one.
        let mut out: Vec<Option<Trial>> = vec![];
        for step in steps {
            let was = breaker.shut_until();
            match step {
                Step::Turn(by) => now = Moment(now.0 + by),
                Step::Enter => match breaker.enter(now, random) {
                    Entry::Pass => {
                        prop_assert_eq!(was, None);
                        out.push(None);
                    }
                    Entry::Trial(trial) => {
                        prop_assert!(was.is_some_and(|until| until <= now));
                        let second = breaker.enter(now, random);
                        prop_assert!(matches!(second, Entry::Refused(_)), "a second trial");
                        out.push(Some(trial));
                    }
                    Entry::Refused(until) => {
                        prop_assert!(now < until);
                        prop_assert!(until.since(now) <= longest_rest());
                    }
                },
                Step::Hope => breaker.hope(now),
                Step::Begin(_) | Step::Answer(_) | Step::Fail(..) | Step::Lose(_) if out.is_empty() => {}
                Step::Begin(at) => {
                    if let Some(trial) = out[at % out.len()] {
                        breaker.begin(trial, now, random);
                    }
                }
                Step::Answer(at) => {
                    let trial = out.swap_remove(at % out.len());
                    breaker.answered(trial, now);
                }
                Step::Fail(at, none) => {
                    let trial = out.swap_remove(at % out.len());
                    breaker.failed(trial, false, none, now, random);
                }
                Step::Lose(at) => {
                    if let Some(trial) = out.swap_remove(at % out.len()) {
                        breaker.lost(trial, now);
                    }
                }
            }
            prop_assert_eq!(breaker.state() == State::Closed, breaker.shut_until().is_none());
        }
        if breaker.state() != State::Closed {
            now = now.after(longest_rest());
            let Entry::Trial(trial) = breaker.enter(now, random) else {
                return Err(TestCaseError::fail("it sticks"));
            };
            prop_assert_eq!(breaker.answered(Some(trial), now), Some(Change::Closed));
        }
    }
}
