//! Fleets of proxies in simulated time: one client, a ledger that can be late, lost or gone, and clocks that step.

use super::ledger::{Account, Members, Whole};
use super::*;
use crate::rules::gcra::Cell;

const MILLI: u64 = 1_000_000;

/// Numbers that look random and are the same for a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A proxy, as far as one client goes.
struct Proxy {
    id: u64,
    running: bool,
    cell: Cell,
    lease: Option<Lease>,
    refused: bool,
    count: Count,
    pace: Pace,
    requests: u64,
    next: u64,
    /// Messages so far.
    number: u64,
    /// When it asked what was answered last.
    heard: Option<u64>,
    standing: Standing,
    flight: Option<Flight>,
}

/// A message and its answer under way, in milliseconds.
struct Flight {
    sent: u64,
    arrives: u64,
    returns: u64,
    lost: Lost,
    said: Said,
    reply: Option<Reply>,
}

/// What a message says.
#[derive(Clone, Copy)]
struct Said {
    id: u64,
    number: u64,
    known: u32,
    report: Option<Report>,
}

#[derive(Clone, Copy, PartialEq)]
enum Lost {
    No,
    Message,
    Answer,
    /// It arrives, but after the proxy has given it up, and perhaps after the next one.
    Late,
}

struct Reply {
    counted: u32,
    hot: bool,
    grant: Option<Grant>,
}

struct Fleet {
    whole: Gcra,
    /// Milliseconds.
    now: u64,
    proxies: Vec<Proxy>,
    /// The ledger.
    up: bool,
    ahead: f64,
    members: Members,
    account: Option<Account>,
    loss: f64,
    late: Vec<(u64, Said)>,
    dice: Dice,
    messages: u64,
    /// What a bucket of the rate, a hundredth more, would hold of the admitted; its high-water mark.
    level: f64,
    most: f64,
    asked: f64,
    admitted: f64,
}

impl Fleet {
    fn new(count: u64, per: Duration, burst: u64, proxies: usize, seed: u64) -> Fleet {
        let whole = Gcra::new(count, per, burst).unwrap();
        let mut fleet = Fleet {
            whole,
            now: 1_000,
            proxies: Vec::new(),
            up: true,
            ahead: 0.0,
            members: Members::default(),
            account: None,
            loss: 0.0,
            late: Vec::new(),
            dice: Dice(seed),
            messages: 0,
            level: 0.0,
            most: 0.0,
            asked: 0.0,
            admitted: 0.0,
        };
        for _ in 0..proxies {
            fleet.join(proxies as u32);
        }
        fleet
    }

    fn join(&mut self, expected: u32) {
        let proxy = Proxy {
            id: self.dice.next(),
            running: true,
            cell: Cell::default(),
            lease: None,
            refused: false,
            count: Count::new(expected),
            pace: Pace::default(),
            requests: 0,
            next: self.now + (self.dice.unit() * 100.0) as u64,
            number: 0,
            heard: None,
            standing: Standing::Alone,
            flight: None,
        };
        self.proxies.push(proxy);
    }

    /// A millisecond, in which so many requests come to each proxy.
    fn step(&mut self, requests: impl Fn(&mut Dice, usize) -> u64) {
        self.now += 1;
        self.level = (self.level - self.whole.rate() * 1.01 / 1000.0).max(0.0);
        let now = self.now;
        let due: Vec<_> = self.late.extract_if(.., |(at, _)| *at == now).collect();
        for (_, said) in due {
            self.arrive(said);
        }
        for i in 0..self.proxies.len() {
            if !self.proxies[i].running {
                continue;
            }
            let come = requests(&mut self.dice, i);
            for _ in 0..come {
                self.asked += 1.0;
                if self.proxies[i].request(&self.whole, self.now * MILLI) {
                    self.admitted += 1.0;
                    self.level += 1.0;
                    self.most = self.most.max(self.level);
                }
            }
            self.talk(i);
        }
    }

    fn talk(&mut self, i: usize) {
        let now = self.now * MILLI;
        let proxy = &mut self.proxies[i];
        proxy.stand(now);
        let Some(flight) = &mut proxy.flight else {
            let news = proxy.refused || proxy.lease.as_ref().is_some_and(|l| l.has_news(now));
            let soon = proxy.next.saturating_sub(REST.as_millis() as u64);
            if self.now >= soon + proxy.pace.next(news).as_millis() as u64 {
                self.send(i);
            }
            return;
        };
        let (said, returns) = (flight.said, flight.returns);
        let arrives = matches!(flight.lost, Lost::No | Lost::Answer);
        if self.now == flight.arrives && arrives && self.up {
            let reply = self.arrive(said);
            if let Some(flight) = &mut self.proxies[i].flight {
                flight.reply = Some(reply);
            }
        }
        if self.now < returns {
            return;
        }
        let proxy = &mut self.proxies[i];
        let flight = proxy.flight.take().expect("it is under way");
        match flight.reply.filter(|_| flight.lost != Lost::Answer) {
            Some(reply) => proxy.hear(&self.whole, flight.sent, said.report.is_some(), reply, now),
            None => proxy.count.lost(),
        }
    }

    /// A message comes to the ledger.
    fn arrive(&mut self, said: Said) -> Reply {
        let wall = self.now as f64 / 1000.0 + self.ahead;
        let counted = self.members.heard(said.id, wall);
        let whole = Whole {
            rate: self.whole.rate(),
            burst: self.whole.burst(),
            least: 1.0,
        };
        let grant = said.report.and_then(|report| {
            let parts = said.known.max(counted);
            let mut account = self.account.take().unwrap_or(Account::new(parts, wall));
            let me = (said.id, said.number);
            let grant = account.step(me, whole, report, &self.members, wall);
            self.account = grant.map(|_| account);
            grant
        });
        Reply {
            counted,
            hot: self.account.is_some(),
            grant,
        }
    }

    fn send(&mut self, i: usize) {
        let now = self.now * MILLI;
        let proxy = &mut self.proxies[i];
        if std::mem::take(&mut proxy.refused) && proxy.lease.is_none() {
            let n = proxy.count.known();
            proxy.lease = Some(Lease::new(self.whole, n, 1.0, proxy.cell, true, now));
        }
        let lease = proxy.lease.as_mut().filter(|lease| lease.is_due(now));
        let report = lease.map(|lease| lease.report(now));
        let lost = match self.dice.unit() {
            x if x < self.loss / 3.0 => Lost::Message,
            x if x < self.loss / 1.5 => Lost::Answer,
            x if x < self.loss => Lost::Late,
            _ => Lost::No,
        };
        let there = 1 + (self.dice.unit() * 2.0) as u64;
        let and_back = there + 1 + (self.dice.unit() * 2.0) as u64;
        let late = if lost != Lost::No || !self.up {
            50
        } else {
            and_back
        };
        let proxy = &mut self.proxies[i];
        proxy.number += 1;
        let said = Said {
            id: proxy.id,
            number: proxy.number,
            known: proxy.count.known(),
            report,
        };
        if lost == Lost::Late && self.up {
            let late = 51 + (self.dice.unit() * 400.0) as u64;
            self.late.push((self.now + late, said));
        }
        proxy.flight = Some(Flight {
            sent: self.now,
            arrives: self.now + there,
            returns: self.now + late,
            lost,
            said,
            reply: None,
        });
        (proxy.pace).sent(std::mem::take(&mut proxy.requests), 1);
        proxy.next = self.now + REST.as_millis() as u64;
        self.messages += 1;
    }

    /// For so long, so many a second come to each proxy, as evenly as it goes.
    fn run(&mut self, time: Duration, rates: &[f64]) -> (f64, f64) {
        let before = (self.asked, self.admitted);
        let start = self.now;
        for _ in 0..time.as_millis() {
            let millis = self.now - start;
            self.step(|_, i| {
                let first = i as f64 / rates.len() as f64;
                let so_far = |millis: u64| (rates[i] * millis as f64 / 1000.0 + first) as u64;
                so_far(millis + 1) - so_far(millis)
            });
        }
        (self.asked - before.0, self.admitted - before.1)
    }

    /// The same, at random moments (a Poisson process).
    fn run_at_random(&mut self, time: Duration, rates: &[f64]) -> (f64, f64) {
        let before = (self.asked, self.admitted);
        for _ in 0..time.as_millis() {
            self.step(|dice, i| {
                let (mut come, mut p) = (0, dice.unit());
                let none = (-rates[i] / 1000.0).exp();
                while p > none {
                    come += 1;
                    p *= dice.unit();
                }
                come
            });
        }
        (self.asked - before.0, self.admitted - before.1)
    }

    fn run_as(&mut self, random: bool, time: Duration, rates: &[f64]) -> (f64, f64) {
        match random {
            true => self.run_at_random(time, rates),
            false => self.run(time, rates),
        }
    }

    /// Admitted were never more than the burst and the rate, over any time; `slack` tokens beside it.
    fn assert_bound(&self, slack: f64) {
        let most = self.whole.burst().max(self.proxies.len() as f64) + slack;
        assert!(self.most <= most + 1e-6, "{} of {most}", self.most);
    }
}

impl Proxy {
    fn request(&mut self, whole: &Gcra, now: u64) -> bool {
        self.requests += 1;
        if let Some(lease) = &mut self.lease {
            return matches!(lease.decide(now, 1), Verdict::Admit { .. });
        }
        match even(whole, self.count.known(), 1.0).decide(self.cell, now, 1) {
            Verdict::Admit { cell, .. } => {
                self.cell = cell;
                true
            }
            _ => {
                self.refused = true;
                false
            }
        }
    }

    fn stand(&mut self, now: u64) {
        let silence = self
            .heard
            .map_or(Duration::MAX, |heard| Duration::from_nanos(now - heard));
        let standing = Standing::after(silence);
        if standing != self.standing {
            self.standing = standing;
            if standing != Standing::Member
                && let Some(lease) = &mut self.lease
            {
                lease.fall_back(standing, self.count.known(), now);
            }
        }
    }

    fn hear(&mut self, whole: &Gcra, sent: u64, reported: bool, reply: Reply, now: u64) {
        self.heard = Some(sent * MILLI);
        self.standing = Standing::Member;
        self.count.heard(reply.counted, now);
        let n = self.count.known();
        match (&mut self.lease, reply.grant) {
            (Some(lease), Some(grant)) => {
                assert!(grant.is_possible(whole, 1.0), "{grant:?}");
                lease.granted(grant, now);
            }
            (Some(lease), None) if (reported || lease.is_idle()) && !reply.hot => {
                self.cell = lease.cooled(n, now);
                self.lease = None;
            }
            (None, _) if reply.hot => {
                self.lease = Some(Lease::new(*whole, n, 1.0, self.cell, false, now));
            }
            _ => {}
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// How a client may come to `n` proxies; all are one on average.
fn spreads(n: usize) -> Vec<Vec<f64>> {
    let all = n as f64;
    let part = |of: &dyn Fn(f64) -> f64| (0..n).map(|i| of(i as f64)).collect();
    vec![
        part(&|_| 1.0),
        part(&|i| if i == 0.0 { all } else { 0.0 }),
        part(&|i| 2.0 * (i + 0.5) / all),
        part(&|i| match i {
            0.0 => 0.9 * all + 0.1 * f64::from(n == 1),
            _ => 0.1 * all / (all - 1.0),
        }),
    ]
}

fn scaled(spread: &[f64], rate: f64) -> Vec<f64> {
    let all = spread.len() as f64;
    spread.iter().map(|part| part * rate / all).collect()
}

#[test]
fn whoever_asks_for_more_gets_the_rate_however_he_spreads() {
    for n in [1, 4, 8] {
        for spread in spreads(n) {
            for (rate, burst) in [(1000, 1000), (1000, 400), (300, 300)] {
                for (over, random) in [
                    (1.1, false),
                    (2.0, false),
                    (4.0, false),
                    (2.0, true),
                    (4.0, true),
                ] {
                    let mut fleet = Fleet::new(rate, SECOND, burst, n, rate + burst);
                    let rates = scaled(&spread, over * rate as f64);
                    fleet.run_as(random, SECOND, &rates);
                    let (_, admitted) = fleet.run_as(random, 30 * SECOND, &rates);
                    let part = admitted / (30 * rate) as f64;
                    let case = format!("{spread:.1?} {rate}/s {burst} x{over} {random}: {part}");
                    assert!(part >= 0.98, "{case}");
                    fleet.assert_bound(0.0);
                    // One for a hundred requests, beside two a second of each that has nothing to tell.
                    let (of, messages) = (fleet.asked, fleet.messages as f64);
                    let most = 0.01 * of + (2.0 * 31.0 + 22.0) * n as f64;
                    assert!(messages <= most, "{case}: {messages} of {of}");
                }
            }
        }
    }
}

#[test]
fn whoever_stays_below_the_rate_is_hardly_refused() {
    for n in [1, 2, 4, 8] {
        for spread in spreads(n) {
            for (rate, burst) in [(1000, 1000), (1000, 200), (100, 100)] {
                for over in [0.2, 0.5, 0.9] {
                    let mut fleet = Fleet::new(rate, SECOND, burst, n, rate + burst);
                    let rates = scaled(&spread, over * rate as f64);
                    // His own place has to become known as the one, if he comes to one alone.
                    let (asked, admitted) = fleet.run(2 * SECOND, &rates);
                    let case = format!("{spread:.1?} {rate}/s {burst} x{over}");
                    let refused = asked - admitted;
                    assert!(refused <= 0.65 * rate as f64, "{case}: {refused} at first");
                    let (asked, admitted) = fleet.run(28 * SECOND, &rates);
                    assert!(admitted >= 0.99 * asked, "{case}: {admitted} of {asked}");
                }
            }
        }
    }
}

#[test]
fn even_parts_need_no_ledger() {
    let mut fleet = Fleet::new(1000, SECOND, 1000, 4, 3);
    fleet.up = false;
    fleet.run(SECOND, &[1000.0; 4]);
    let (_, admitted) = fleet.run(10 * SECOND, &[1000.0; 4]);
    assert!((9_990.0..10_010.0).contains(&admitted), "{admitted}");
    fleet.assert_bound(0.0);
}

#[test]
fn messages_that_are_lost_cost_no_bound() {
    for n in [2, 4, 8] {
        for spread in spreads(n) {
            for (loss, least) in [(0.05, 0.98), (0.2, 0.96), (0.5, 0.85)] {
                let mut fleet = Fleet::new(1000, SECOND, 1000, n, 7);
                fleet.loss = loss;
                let rates = scaled(&spread, 3000.0);
                fleet.run(2 * SECOND, &rates);
                let (_, admitted) = fleet.run_at_random(30 * SECOND, &rates);
                let part = admitted / 30_000.0;
                assert!(part >= least, "{spread:.1?} loss {loss}: {part}");
                fleet.assert_bound(0.0);
            }
        }
    }
}

/// Where a client comes, and how much, changes all the time.
fn restless(fleet: &mut Fleet, time: Duration, mut each: impl FnMut(&mut Fleet)) {
    let end = fleet.now + time.as_millis() as u64;
    while fleet.now < end {
        let all = 500.0 + 4000.0 * fleet.dice.unit();
        let weight = |dice: &mut Dice| match dice.unit() {
            x if x < 0.4 => 0.0,
            _ => dice.unit(),
        };
        let weights: Vec<f64> = (0..fleet.proxies.len())
            .map(|_| weight(&mut fleet.dice))
            .collect();
        let sum = weights.iter().sum::<f64>().max(0.1);
        let rates: Vec<f64> = weights.iter().map(|weight| weight * all / sum).collect();
        let time = Duration::from_millis(100 + (fleet.dice.unit() * 2000.0) as u64);
        fleet.run(time, &rates);
        each(fleet);
    }
}

#[test]
fn whatever_is_lost_while_rates_change_costs_no_bound() {
    for n in [2, 4, 8] {
        // What a message is under way for, tokens come in that it does not tell of.
        for (loss, slack) in [(0.0, 10.0), (0.05, 50.0), (0.2, 50.0), (0.5, 50.0)] {
            for seed in 0..8 {
                println!("{n} proxies, loss {loss}, seed {seed}");
                let mut fleet = Fleet::new(1000, SECOND, 250, n, seed);
                fleet.loss = loss;
                restless(&mut fleet, 60 * SECOND, |_| {});
                fleet.assert_bound(slack);
            }
        }
    }
}

#[test]
fn a_ledger_that_forgets_costs_an_eighth_of_a_second_at_most() {
    for n in [2, 4, 8] {
        for loss in [0.0, 0.05] {
            for seed in 0..24 {
                println!("{n} proxies, loss {loss}, seed {seed}");
                let mut fleet = Fleet::new(1000, SECOND, 250, n, seed);
                fleet.loss = loss;
                restless(&mut fleet, 15 * SECOND, |_| {});
                // An account, or who is there, or both.
                if seed % 3 != 0 {
                    fleet.account = None;
                }
                if seed % 3 != 1 {
                    fleet.members = Members::default();
                }
                let all = |fleet: &Fleet| fleet.proxies.iter().all(|p| p.count.known() == n as u32);
                restless(&mut fleet, 15 * SECOND, |fleet| assert!(all(fleet)));
                // Who holds more than his even part holds it until he asks again.
                fleet.assert_bound(125.0);
            }
        }
    }
}

#[test]
fn without_the_ledger_each_has_its_even_part_and_comes_back_without_a_burst() {
    for (n, forgets) in [
        (2, false),
        (4, false),
        (8, false),
        (2, true),
        (4, true),
        (8, true),
    ] {
        for spread in spreads(n) {
            let mut fleet = Fleet::new(1000, SECOND, 500, n, 7);
            let rates = scaled(&spread, 3000.0);
            fleet.run(10 * SECOND, &rates);
            fleet.up = false;
            fleet.run(3 * SECOND, &rates);
            let (_, alone) = fleet.run(17 * SECOND, &rates);
            let even: f64 = rates.iter().map(|r| r.min(1000.0 / n as f64)).sum();
            let part = alone / 17.0 / even;
            let case = format!("{spread:.1?} {forgets}: {part}");
            assert!((0.98..=1.01).contains(&part), "{case}");
            fleet.up = true;
            if forgets {
                fleet.account = None;
                fleet.members = Members::default();
            }
            fleet.run(2 * SECOND, &rates);
            let (_, again) = fleet.run(10 * SECOND, &rates);
            assert!(again >= 9_800.0, "{case}: {again}");
            // Those who asked last before it went hold their grants a moment longer than the others.
            fleet.assert_bound(125.0);
        }
    }
}

#[test]
fn the_rate_follows_a_client_who_moves() {
    for n in [2, 4, 8] {
        for (rate, burst) in [(1000, 500), (100, 100)] {
            let mut fleet = Fleet::new(rate, SECOND, burst, n, 7);
            for turn in 0..6 {
                let here = |i| {
                    if i == turn % n {
                        2.0 * rate as f64
                    } else {
                        0.0
                    }
                };
                let rates: Vec<f64> = (0..n).map(here).collect();
                fleet.run(SECOND, &rates);
                let (_, admitted) = fleet.run(4 * SECOND, &rates);
                let part = admitted / (4 * rate) as f64;
                assert!(part >= 0.97, "{n} {rate}/s, turn {turn}: {part}");
            }
            fleet.assert_bound(0.0);
        }
    }
}

#[test]
fn proxies_come_and_go() {
    for spread in spreads(4).into_iter().filter(|spread| spread[3] > 0.0) {
        let mut fleet = Fleet::new(1000, SECOND, 500, 4, 7);
        let rates = scaled(&spread, 3000.0);
        fleet.run(10 * SECOND, &rates);
        // The busiest dies, and says nothing: its part is given out again after it has long not been heard.
        let busiest = if spread[0] > spread[3] { 0 } else { 3 };
        fleet.proxies[busiest].running = false;
        fleet.run(12 * SECOND, &rates);
        let (_, admitted) = fleet.run(10 * SECOND, &rates);
        let left: f64 = (0..4).filter(|i| *i != busiest).map(|i| rates[i]).sum();
        let most = left.min(1000.0);
        assert!(admitted >= 0.97 * 10.0 * most, "{spread:.1?}: {admitted}");
        fleet.assert_bound(0.0);
        // Another takes its place, and believes for a moment that it is alone.
        fleet.join(1);
        let mut rates = rates;
        let moved = std::mem::take(&mut rates[busiest]);
        rates.push(moved);
        fleet.run(2 * SECOND, &rates);
        let (_, admitted) = fleet.run(10 * SECOND, &rates);
        assert!(admitted >= 9_800.0, "{spread:.1?}: {admitted}");
        fleet.assert_bound(500.0);
    }
}

#[test]
fn a_clock_that_steps_gives_away_no_more_than_a_burst() {
    for spread in spreads(4) {
        for step in [3600.0, -3600.0, 1.0, -1.0, 1e9, -1e9] {
            let mut fleet = Fleet::new(1000, SECOND, 500, 4, 7);
            let rates = scaled(&spread, 3000.0);
            fleet.run(10 * SECOND, &rates);
            fleet.ahead += step;
            fleet.run(2 * SECOND, &rates);
            let (_, admitted) = fleet.run(15 * SECOND, &rates);
            let part = admitted / 15_000.0;
            assert!(part >= 0.97, "{spread:.1?} stepped by {step}: {part}");
            fleet.assert_bound(500.0);
        }
    }
}

#[test]
fn who_has_gone_quiet_is_forgotten_with_a_full_bucket() {
    let mut fleet = Fleet::new(100, SECOND, 100, 4, 7);
    fleet.run(5 * SECOND, &[400.0, 0.0, 0.0, 0.0]);
    assert!(fleet.account.is_some());
    fleet.run(10 * SECOND, &[0.0; 4]);
    assert!(fleet.account.is_none());
    assert!(fleet.proxies.iter().all(|proxy| proxy.lease.is_none()));
    let before = fleet.admitted;
    fleet.run(Duration::from_millis(50), &[1e4; 4]);
    let at_once = fleet.admitted - before;
    assert!((100.0..=106.0).contains(&at_once), "{at_once}");
    fleet.assert_bound(0.0);
}

#[test]
fn answers_that_no_ledger_gives_are_seen() {
    let whole = Gcra::new(10, SECOND, 20).unwrap();
    let good = Grant {
        share: 0.5,
        burst: 10.0,
        tokens: 3.0,
    };
    assert!(good.is_possible(&whole, 1.0));
    for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY, 1e300, -1e300] {
        assert!(
            !Grant { share: bad, ..good }.is_possible(&whole, 1.0),
            "{bad}"
        );
        let bad = bad * 30.0;
        assert!(
            !Grant { burst: bad, ..good }.is_possible(&whole, 1.0),
            "{bad}"
        );
        assert!(
            !Grant {
                tokens: bad,
                ..good
            }
            .is_possible(&whole, 1.0),
            "{bad}"
        );
    }
}

#[test]
fn a_count_that_falls_is_believed_late() {
    let second = 1_000 * MILLI;
    let mut count = Count::new(4);
    count.heard(1, 0);
    assert_eq!(count.known(), 4, "the others are only coming");
    count.heard(5, second);
    assert_eq!(count.known(), 5);
    // However long it has been a member: a ledger that has forgotten all counts them anew.
    count.heard(1, 31 * second);
    count.heard(4, 32 * second);
    assert_eq!(count.known(), 5, "they may be coming back");
    count.heard(3, 40 * second);
    assert_eq!(count.known(), 5);
    count.heard(3, 41 * second);
    assert_eq!(count.known(), 4, "so many there were meanwhile");
    count.heard(3, 42 * second);
    count.heard(4, 43 * second);
    count.heard(3, 53 * second);
    assert_eq!(count.known(), 4, "it was lower for a moment only");
    count.lost();
    count.heard(1, 60 * second);
    count.heard(1, 69 * second);
    assert_eq!(count.known(), 4, "the others are only coming back");
    count.heard(1, 70 * second);
    assert_eq!(count.known(), 1);
}

#[test]
fn messages_are_soon_only_where_there_is_news_and_traffic() {
    let mut pace = Pace::default();
    assert_eq!(pace.next(false), REST);
    for _ in 0..20 {
        assert_eq!(pace.next(true), BRISK);
        pace.sent(0, 0);
    }
    assert_eq!(pace.next(true), REST);
    pace.sent(200, 0);
    assert_eq!(pace.next(true), BRISK);
    // What says more costs more.
    pace.sent(200, 100);
    assert_eq!(pace.next(true), REST);
}
