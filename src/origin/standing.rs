//! What is known of a server: how busy it is, how quick, and whether it is to be trusted with requests.
//!
//! Quickness is a peak EWMA (Finagle): a slow answer counts at once and is forgotten over ten seconds. A server that fails
//! several times in a row, or more often than the others, is *ejected*, each time for longer, as long as enough others are left;
//! it comes back slowly, by time or by success, whichever is sooner. One that can't even be reached rests for a second, then
//! one request a second tries it.

use std::time::Duration;

use tokio::time::Instant;

use super::room::Room;
use crate::rules::concurrency::Begun;
use crate::rules::outlier::Lately;
use crate::rules::sticky::Token;

/// How long an answer's quickness counts.
const FORGETS: f64 = 10.0;
/// After a failure a server counts as so much slower than its good answers, and at least as slow as this, in seconds: an
/// error is quick to give. Nothing counts as slower than the last.
const FAILED_SLOWER: f64 = 5.0;
const FAILED_TAKES: f64 = 0.1;
const SLOWEST: f64 = 60.0;
/// The longest ejection.
const LONGEST: Duration = Duration::from_secs(300);
/// How long a server that could not be reached rests.
const REST: Duration = Duration::from_secs(1);
/// Where a returning server begins, as a part of what it may have.
const BEGINS: f64 = 0.1;
/// So many answers in a row, and it has returned, however little time it took.
const PROVEN: u32 = 50;

/// When a server is to be left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row; 0 ejects nobody.
    pub eject_after: u32,
    /// The first ejection's time; the second is twice that, and so on.
    pub eject_for: Duration,
    /// By how much its share of failures has to be above the others', in hundredths; 0 ejects nobody.
    pub eject_share: u32,
    /// The most servers that are ejected at once, in hundredths.
    pub eject_most: usize,
    /// With fewer usable servers than this, in hundredths, all are used.
    pub panic_below: usize,
    /// How long a server that returns has less than its share.
    pub slow_start: Duration,
}

/// What a server is to do, by its config.
#[derive(Debug, Clone)]
pub struct Role {
    /// Its part of what all get, as a proportion; zero: it is drained.
    pub weight: u32,
    /// It is for when no other can be asked.
    pub backup: bool,
    /// Requests that it may have at once; none: it is learned.
    pub most: Option<usize>,
    /// What keys know it by, the same in every process.
    pub id: u64,
    /// What visitors who are bound to it bring.
    pub token: Option<Token>,
}

impl Default for Role {
    fn default() -> Self {
        Role {
            weight: 1,
            backup: false,
            most: Some(64),
            id: 0,
            token: None,
        }
    }
}

/// One server's.
#[derive(Debug, Default, Clone)]
pub struct Standing {
    pub role: Role,
    pub in_flight: usize,
    /// How many it may have.
    pub room: Room,
    /// How often it has got another room.
    pub rooms: u32,
    /// What came of its requests, since it was ejected last.
    pub lately: Lately,
    /// What it is owed where servers take turns.
    pub turn: f64,
    /// Since when its probes call it ill.
    ill_since: Option<Instant>,
    rests_until: Option<Instant>,
    /// Seconds that a good answer's head took.
    good: f64,
    /// Seconds that an answer's head takes, failures counted as slow ones, and when that was true.
    takes: f64,
    took_at: Option<Instant>,
    /// In a row.
    failures: u32,
    answers: u32,
    ejected_until: Option<Instant>,
    ejections: u32,
    /// When it was ejected last, and since when it can't be reached.
    ejected_at: Option<Instant>,
    unreached_since: Option<Instant>,
    /// What its probes said of it was for the upstream's whole outage, until they say it again.
    is_forgiven: bool,
    /// Since when it has been back.
    back_since: Option<Instant>,
}

impl Standing {
    pub fn of(role: Role) -> Standing {
        Standing {
            room: Room::new(role.most),
            role,
            ..Standing::default()
        }
    }

    /// It is to do something else. What it may have is learned on, if it still is to be learned.
    pub fn set_role(&mut self, role: Role) {
        if role.most != self.role.most {
            self.room = Room::new(role.most);
            self.rooms += 1;
        }
        self.role = role;
    }

    /// Its probes call it well or ill. `alone`: nothing else served meanwhile, so that it is needed whole.
    pub fn set_well(&mut self, well: bool, alone: bool, now: Instant) {
        if self.ill_since.is_some() && well {
            // How quick it was when it fell ill says nothing of it now.
            self.took_at = None;
            if !alone && !self.is_forgiven {
                self.back_since = Some(now);
                self.answers = 0;
            }
        }
        self.ill_since = (!well).then(|| self.ill_since.unwrap_or(now));
        self.is_forgiven = false;
    }

    /// A probe went wrong.
    pub fn probe_failed(&mut self) {
        self.is_forgiven = false;
    }

    /// The upstream is back as a whole: what this one was left alone for since then is forgotten, and it has its whole
    /// share.
    pub fn restore(&mut self, since: Instant) {
        if self.unreached_since.is_some_and(|at| at >= since) {
            self.reached();
        }
        if self.ejected_at.is_some_and(|at| at >= since) {
            self.back_at_once();
            self.ejections = 0;
        }
        self.is_forgiven = self.ill_since.is_some_and(|at| at >= since);
        self.lately = Lately::default();
        self.failures = 0;
    }

    fn back_at_once(&mut self) {
        self.ejected_until = None;
        self.back_since = None;
        self.took_at = None;
    }

    /// A head came, of an answer that is no failure, after `took`. Who is asked though it is ejected, since too few others
    /// are left, is back at once.
    pub fn answered(&mut self, took: Duration, now: Instant) {
        self.answers = self.answers.saturating_add(1);
        if self.is_ejected(now) {
            self.back_at_once();
        }
        self.good = took.as_secs_f64().min(SLOWEST);
        self.count(self.good, now);
    }

    /// Who was asked had sent no head after `time`, when nobody waited any more: an answer takes longer than that. It's no
    /// failure: some have no patience, and some pages take long.
    pub fn waited(&mut self, time: Duration, now: Instant) {
        let time = time.as_secs_f64().min(SLOWEST);
        let usual = if self.good > 0.0 {
            self.good
        } else {
            FAILED_TAKES
        };
        // It's a bound from below: it makes nobody look quicker than he does.
        if time > self.takes(usual, now) {
            self.takes = time;
            self.took_at = Some(now);
        }
    }

    /// Such an answer came to its end.
    pub fn ended(&mut self) {
        self.failures = 0;
    }

    /// Nothing came, or a gateway's error, or an answer broke off. Whether it has failed often enough to be ejected.
    pub fn failed(&mut self, rules: &Rules, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.answers = 0;
        let slower = (self.good * FAILED_SLOWER).clamp(FAILED_TAKES, SLOWEST);
        self.count(slower, now);
        rules.eject_after > 0 && self.failures >= rules.eject_after && !self.is_ejected(now)
    }

    pub fn eject(&mut self, rules: &Rules, now: Instant) -> Duration {
        // A long time without one counts for it.
        let ended = self.ejected_until.or(self.ejected_at);
        let good = ended.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let forgiven = good.as_secs() / rules.eject_for.as_secs().max(1);
        self.ejections = self
            .ejections
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
            .saturating_add(1);
        let time = rules.eject_for.saturating_mul(self.ejections).min(LONGEST);
        self.ejected_until = Some(now + time);
        self.ejected_at = Some(now);
        self.lately = Lately::default();
        self.failures = 0;
        self.answers = 0;
        time
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    /// It could not be reached.
    pub fn unreachable(&mut self, now: Instant) {
        self.rests_until = Some(now + REST);
        self.unreached_since.get_or_insert(now);
    }

    /// It was reached. Whether that ends a rest.
    pub fn reached(&mut self) -> bool {
        self.unreached_since = None;
        self.rests_until.take().is_some()
    }

    pub fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// Whether it is to be asked, as far as there are others.
    pub fn is_trusted(&self, now: Instant) -> bool {
        (self.ill_since.is_none() || self.is_forgiven) && !self.is_ejected(now)
    }

    /// Whether nothing is to be had of it: it is ill, ejected, or was not reached when it was tried last.
    pub fn is_out(&self, now: Instant) -> bool {
        !self.is_trusted(now) || self.unreached_since.is_some()
    }

    /// One request more. It tries a server that has rested; others stay away until it is back.
    /// `at`: the same, as its room knows it.
    pub fn take(&mut self, now: Instant, at: Duration) -> Option<Begun> {
        self.in_flight += 1;
        if self.rests_until.is_some() {
            self.rests_until = Some(now + REST);
        }
        // Its first since it was ejected.
        if let Some(until) = self.ejected_until
            && until <= now
            && self.back_since.is_none_or(|back| back < until)
        {
            self.back_since = Some(now);
            self.took_at = None;
        }
        self.room.begin(at)
    }

    /// Seconds that an answer took when one last came, if one did.
    pub fn took(&self) -> Option<f64> {
        self.took_at.map(|_| self.takes)
    }

    /// Seconds that an answer may take. What is known of it fades into what is `typical` of its like.
    pub fn takes(&self, typical: f64, now: Instant) -> f64 {
        match self.took_at {
            // Of orders of magnitude: one very slow answer is not remembered for minutes.
            Some(at) => typical * (self.takes / typical).powf(fading(now, at)),
            None => typical,
        }
    }

    /// Its weight, less while it returns.
    pub fn weight(&self, rules: &Rules, now: Instant) -> f64 {
        f64::from(self.role.weight) * self.share(rules, now)
    }

    /// What it may have of its share, from [`BEGINS`] to 1.
    pub fn share(&self, rules: &Rules, now: Instant) -> f64 {
        let Some(back) = self.back_since.filter(|_| !rules.slow_start.is_zero()) else {
            return 1.0;
        };
        let time = now.saturating_duration_since(back).as_secs_f64();
        let by_time = time / rules.slow_start.as_secs_f64();
        let by_success = f64::from(self.answers) / f64::from(PROVEN);
        by_time.max(by_success).clamp(BEGINS, 1.0)
    }

    fn count(&mut self, took: f64, now: Instant) {
        let took = took.max(1e-6);
        self.takes = match self.took_at {
            // What is quicker counts by how long ago the last was; a peak counts whole.
            Some(at) if took < self.takes => {
                let weight = fading(now, at).min(0.9);
                self.takes * weight + took * (1.0 - weight)
            }
            _ => took,
        };
        self.took_at = Some(now);
    }
}

/// From 1 for now to 0 for long ago.
fn fading(now: Instant, then: Instant) -> f64 {
    (-now.saturating_duration_since(then).as_secs_f64() / FORGETS).exp()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::clock;

    pub const RULES: Rules = Rules {
        eject_after: 3,
        eject_for: Duration::from_secs(10),
        eject_share: 20,
        eject_most: 50,
        panic_below: 25,
        slow_start: Duration::from_secs(10),
    };
    const QUICK: Duration = Duration::from_millis(10);

    pub fn start() -> Instant {
        clock::timer()
    }

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten() {
        let (mut server, start) = (Standing::default(), start());
        server.answered(QUICK, start);
        server.answered(Duration::from_secs(1), start);
        assert!((server.takes(0.01, start) - 1.0).abs() < 0.01);
        assert!(
            server.takes(0.01, after(start, 60.0)) < 0.02,
            "unasked, it is forgotten too"
        );
        for n in 0..100u32 {
            server.answered(QUICK, after(start, f64::from(n) / 10.0));
        }
        assert!(server.takes(0.01, after(start, 10.0)) < 0.05);
    }

    #[test]
    fn c77_failures_in_a_row_eject_for_longer_each_time() {
        let (mut server, start) = (Standing::default(), start());
        assert!(!server.failed(&RULES, start) && !server.failed(&RULES, start));
        server.answered(QUICK, start);
        server.ended();
        let fails = |server: &mut Standing, now| (0..3).any(|_| server.failed(&RULES, now));
        assert!(fails(&mut server, start));
        assert_eq!(server.eject(&RULES, start), Duration::from_secs(10));
        assert!(!server.is_trusted(after(start, 9.9)) && server.is_trusted(after(start, 10.0)));
        let again = after(start, 12.0);
        assert!(fails(&mut server, again));
        assert_eq!(server.eject(&RULES, again), Duration::from_secs(20));
        let later = after(again, 500.0);
        assert_eq!(
            server.eject(&RULES, later),
            Duration::from_secs(10),
            "forgiven"
        );
    }

    #[test]
    fn an_error_is_quick_to_give_and_makes_nobody_look_quick() {
        let (mut server, start) = (Standing::default(), start());
        server.answered(Duration::from_millis(200), start);
        server.failed(&RULES, start);
        assert!(server.takes(0.2, start) > 0.9);
    }

    #[test]
    fn who_was_waited_for_in_vain_takes_as_long_at_least_and_has_not_failed() {
        let (mut server, start) = (Standing::default(), start());
        server.waited(QUICK, start);
        assert_eq!(server.took(), None, "some leave at once");
        server.answered(QUICK, start);
        server.waited(Duration::from_secs(2), start);
        assert!((server.takes(0.01, start) - 2.0).abs() < 1e-9);
        for time in [Duration::ZERO, QUICK, Duration::from_secs(1)] {
            server.waited(time, start);
        }
        assert!((server.takes(0.01, start) - 2.0).abs() < 1e-9, "no sooner");
        let later = after(start, 20.0);
        assert!(server.takes(0.01, later) < 0.1, "it is forgotten");
        (0..1_000).for_each(|_| server.waited(Duration::from_secs(1), later));
        assert!((server.takes(0.01, later) - 1.0).abs() < 1e-9, "not longer");
        assert!(!server.is_out(later));
        // Two failures are none too many still.
        assert!(!server.failed(&RULES, later) && !server.failed(&RULES, later));
    }

    #[test]
    fn any_number_of_failures_is_forgotten() {
        let (mut server, start) = (Standing::default(), start());
        server.answered(QUICK, start);
        for _ in 0..2_000 {
            server.failed(&RULES, start);
        }
        assert!(server.takes(0.01, start) <= 0.1);
        for n in 0..100u32 {
            server.answered(QUICK, after(start, f64::from(n) / 10.0));
        }
        assert!(server.takes(0.01, after(start, 10.0)) < 0.05);
    }

    #[test]
    fn an_answer_that_breaks_off_is_a_failure_though_its_head_came() {
        let (mut server, start) = (Standing::default(), start());
        let mut cut = || {
            server.answered(QUICK, start);
            server.failed(&RULES, start)
        };
        assert!(!cut() && !cut() && cut());
    }

    #[test]
    fn who_answers_in_spite_of_its_ejection_is_back() {
        let (mut server, start) = (Standing::default(), start());
        server.eject(&RULES, start);
        server.answered(QUICK, after(start, 1.0));
        assert!(server.is_trusted(after(start, 1.0)));
        assert!((server.share(&RULES, after(start, 1.0)) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn who_is_back_at_once_has_its_whole_share_when_it_is_asked() {
        let (mut server, start) = (Standing::default(), start());
        server.eject(&RULES, start);
        server.answered(QUICK, after(start, 1.0));
        server.take(after(start, 1.0), Duration::ZERO);
        assert!((server.share(&RULES, after(start, 1.0)) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn after_an_outage_all_are_back_whole_but_those_who_were_out_before() {
        let start = start();
        let (mut before, mut within) = (Standing::default(), Standing::default());
        before.eject(&RULES, start);
        let outage = after(start, 5.0);
        within.unreachable(outage);
        within.eject(&RULES, outage);
        within.set_well(false, true, outage);
        let back = after(start, 8.0);
        assert!(before.is_out(back) && within.is_out(back));
        before.restore(outage);
        within.restore(outage);
        assert!(before.is_out(back) && !within.is_out(back));
        within.take(back, Duration::ZERO);
        assert!((within.share(&RULES, back) - 1.0).abs() < 1e-9);
        // Until a probe says again that it is ill.
        within.probe_failed();
        assert!(within.is_out(back));
    }

    #[test]
    fn who_was_ill_before_an_outage_is_ill_after_it() {
        let (mut server, start) = (Standing::default(), start());
        server.set_well(false, false, start);
        let outage = after(start, 60.0);
        // Its probes say it again and again.
        server.set_well(false, false, outage);
        let back = after(outage, 5.0);
        server.restore(outage);
        assert!(!server.is_trusted(back));
        // What was well for a while is another matter.
        server.set_well(true, false, back);
        server.set_well(false, false, back);
        server.restore(back);
        assert!(server.is_trusted(back));
    }

    #[test]
    fn who_returns_begins_small() {
        let (mut server, start) = (Standing::default(), start());
        assert!((server.share(&RULES, start) - 1.0).abs() < 1e-9);
        server.eject(&RULES, start);
        let back = after(start, 10.0);
        server.take(back, Duration::ZERO);
        assert!((server.share(&RULES, back) - BEGINS).abs() < 1e-9);
        assert!((server.share(&RULES, after(back, 5.0)) - 0.5).abs() < 1e-9);
        (0..PROVEN).for_each(|_| server.answered(QUICK, after(back, 1.0)));
        assert!(
            (server.share(&RULES, after(back, 1.0)) - 1.0).abs() < 1e-9,
            "proven"
        );
        server.set_well(false, false, back);
        server.set_well(true, true, back);
        assert!(
            (server.share(&RULES, after(back, 20.0)) - 1.0).abs() < 1e-9,
            "it was alone"
        );
    }

    #[test]
    fn who_rests_is_tried_once_a_second() {
        let (mut server, start) = (Standing::default(), start());
        server.unreachable(start);
        assert!(server.rests(after(start, 0.9)));
        let next = after(start, 1.0);
        assert!(!server.rests(next));
        server.take(next, Duration::ZERO);
        assert!(server.rests(next), "others stay away");
        assert!(server.reached() && !server.rests(next));
    }
}
