//! When an upstream as a whole counts as down, and when it is back (the circuit breaker: Nygard, "Release It!", 2007).
//!
//! ```text
//!            failures, and hardly anything else          a rest is over, somebody asks
//!   Closed ───────────────────────────────────► Open ─────────────────────────────────► HalfOpen
//!     ▲                                           ▲ ◄───────────── the trial fails ────────┘ │
//!     └───────────────────────────────────────────┼──────── a trial is answered ─────────────┘
//! ```
//!
//! While it is open nobody is let through. Half-open is one request at a time, the *trial*: the first that is answered
//! closes it. A trial that takes long is not waited for: after another rest the next one may go beside it, and whichever
//! is answered first closes. Rests hardly grow, so that a return is seen within the second, and are of random length, so
//! that the proxies of a fleet don't try together.
//!
//! What this does not know: what a failure is, and who is let through.

use std::time::Duration;

use super::time::Moment;

/// What is looked back on, in slices of a second.
const SLICES: usize = 10;
const SLICE: u64 = 1_000;
/// So far back: what counts towards opening has happened since.
pub const WINDOW: Duration = Duration::from_millis(SLICES as u64 * SLICE);
/// Where not one server is left that can be used, so many failures in a row are enough.
pub const NONE_LEFT: u32 = 3;
/// The first rest, what each failed trial adds to it, and the longest, in milliseconds. Each is up to a quarter shorter.
const REST: u64 = 400;
const GROWS: u64 = 50;
const LONGEST: u64 = 600;

/// When it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Failures within [`WINDOW`]; 0 is never.
    pub after: u32,
    /// Of what came of all requests in that time, how much has to be failures, in hundredths.
    pub share: u32,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Closed,
    HalfOpen,
    Open,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// As if there were no breaker.
    Pass,
    /// It goes to see whether the upstream is back.
    Trial(Trial),
    /// Nobody goes before that moment.
    Refused(Moment),
}

/// A request that goes to see whether the upstream is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// How often the breaker had opened from closed.
    outage: u64,
    number: u64,
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Opened(Why),
    Closed,
}

/// Why it opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Of what came of its requests, nearly all were failures.
    Failures,
    /// It has no server left that can be used, and failed again and again.
    NoneLeft,
}

/// One upstream's.
#[derive(Debug)]
pub struct Breaker {
    rules: Rules,
    at: At,
    window: Window,
    /// Failures in a row, while closed.
    row: u32,
    outages: u64,
    /// Trials of this outage.
    trials: u64,
    /// Of those, how many came to nothing.
    failed: u64,
}

#[derive(Debug, Clone, Copy)]
enum At {
    Closed,
    /// Until then nobody goes.
    Open(Moment),
    /// The trial with this number is out; from then on it isn't waited for.
    HalfOpen(u64, Moment),
}

impl Breaker {
    pub fn new(rules: Rules) -> Breaker {
        Breaker {
            rules,
            at: At::Closed,
            window: Window::default(),
            row: 0,
            outages: 0,
            trials: 0,
            failed: 0,
        }
    }

    pub fn state(&self) -> State {
        match self.at {
            At::Closed => State::Closed,
            At::Open(_) => State::Open,
            At::HalfOpen(..) => State::HalfOpen,
        }
    }

    /// From when on a request may go; `None` while all may.
    pub fn shut_until(&self) -> Option<Moment> {
        match self.at {
            At::Closed => None,
            At::Open(until) | At::HalfOpen(_, until) => Some(until),
        }
    }

    /// Somebody wants to ask the upstream. `random` is any number.
    pub fn enter(&mut self, now: Moment, random: u64) -> Entry {
        match self.shut_until() {
            None => Entry::Pass,
            Some(until) if now < until => Entry::Refused(until),
            Some(_) => {
                if self.state() == State::HalfOpen {
                    // The one before has not come back.
                    self.failed += 1;
                }
                self.trials += 1;
                self.at = At::HalfOpen(self.trials, self.rested(now, random));
                Entry::Trial(Trial {
                    outage: self.outages,
                    number: self.trials,
                })
            }
        }
    }

    /// The trial is on its way now, after it had to wait for a place. Whether it still is the one that is to go.
    pub fn begin(&mut self, trial: Trial, now: Moment, random: u64) -> bool {
        let is_due = self.is_out(trial);
        if is_due {
            self.at = At::HalfOpen(trial.number, self.rested(now, random));
        }
        is_due
    }

    /// A request was answered.
    pub fn answered(&mut self, trial: Option<Trial>, now: Moment) -> Option<Change> {
        if let At::Closed = self.at {
            self.row = 0;
            self.window.slice(now).answered += 1;
            return None;
        }
        // What was asked before it opened says nothing of now.
        let is_of_now = trial.is_some_and(|trial| trial.outage == self.outages);
        is_of_now.then(|| {
            self.at = At::Closed;
            self.row = 0;
            self.window = Window::default();
            Change::Closed
        })
    }

    /// A request has failed. `was_answered`: it had been told of as answered. `none_left`: no server can be used.
    pub fn failed(
        &mut self,
        trial: Option<Trial>,
        was_answered: bool,
        none_left: bool,
        now: Moment,
        random: u64,
    ) -> Option<Change> {
        let At::Closed = self.at else {
            if trial.is_some_and(|trial| self.is_out(trial)) {
                self.failed += 1;
                self.at = At::Open(self.rested(now, random));
            }
            return None;
        };
        self.row = self.row.saturating_add(1);
        let slice = self.window.slice(now);
        slice.failed += 1;
        if was_answered {
            slice.answered = slice.answered.saturating_sub(1);
        }
        let why = self.opens(none_left, now)?;
        self.outages += 1;
        (self.trials, self.failed) = (0, 0);
        self.at = At::Open(self.rested(now, random));
        Some(Change::Opened(why))
    }

    /// A trial's client has gone, or it never came to be asked: the next request may go.
    pub fn lost(&mut self, trial: Trial, now: Moment) {
        if self.is_out(trial) {
            self.at = At::Open(now);
        }
    }

    /// Something else found a server well: the next request may go.
    pub fn hope(&mut self, now: Moment) {
        if let At::Open(until) = self.at {
            self.at = At::Open(until.min(now));
        }
    }

    fn is_out(&self, trial: Trial) -> bool {
        let is_it = matches!(self.at, At::HalfOpen(number, _) if number == trial.number);
        is_it && trial.outage == self.outages
    }

    fn opens(&mut self, none_left: bool, now: Moment) -> Option<Why> {
        if self.rules.after == 0 {
            return None;
        }
        if none_left && self.row >= NONE_LEFT.min(self.rules.after) {
            return Some(Why::NoneLeft);
        }
        let Slice { answered, failed } = self.window.sum(now);
        let all = u64::from(answered) + u64::from(failed);
        let is_most = u64::from(failed) * 100 >= all * u64::from(self.rules.share);
        (failed >= self.rules.after && is_most).then_some(Why::Failures)
    }

    /// When a rest that begins now is over.
    fn rested(&self, now: Moment, random: u64) -> Moment {
        let whole = REST
            .saturating_add(GROWS.saturating_mul(self.failed))
            .min(LONGEST);
        Moment(now.0 + whole - random % (whole / 4 + 1))
    }
}

/// What came of requests of late.
#[derive(Debug, Default)]
struct Window {
    slices: [Slice; SLICES],
    /// The second that was counted last.
    last: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Slice {
    answered: u32,
    failed: u32,
}

impl Window {
    fn slice(&mut self, now: Moment) -> &mut Slice {
        let second = now.0 / SLICE;
        let passed = second.saturating_sub(self.last).min(SLICES as u64);
        for step in 0..passed {
            self.slices[((second - step) % SLICES as u64) as usize] = Slice::default();
        }
        self.last = self.last.max(second);
        &mut self.slices[(self.last % SLICES as u64) as usize]
    }

    fn sum(&mut self, now: Moment) -> Slice {
        self.slice(now);
        self.slices
            .iter()
            .fold(Slice::default(), |sum, slice| Slice {
                answered: sum.answered.saturating_add(slice.answered),
                failed: sum.failed.saturating_add(slice.failed),
            })
    }
}

/// The longest rest.
pub fn longest_rest() -> Duration {
    Duration::from_millis(LONGEST)
}

#[cfg(test)]
mod tests {
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
}
