//! The limit against simulated origins, on a clock of their own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

/// How an origin works on more than it can at once.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Works {
    FirstComeFirstServed,
    SharingProcessors,
}

/// How long requests take, in means.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Times {
    Constant,
    Uniform,
    Exponential,
    LogNormal,
    /// 90 % are quick, 10 % take 20 times as long.
    Bimodal,
}

use Times::{Bimodal, Constant, Exponential, LogNormal, Uniform};
use Works::{FirstComeFirstServed, SharingProcessors};

/// An origin under a limit.
struct Origin {
    works: Works,
    times: Times,
    limit: Limit,
    seed: u64,
    now: f64,
    /// Each with the nanoseconds it takes alone, by number.
    begun: Vec<(Begun, f64)>,
    in_flight: usize,
    queued: VecDeque<usize>,
    /// By the nanosecond they end, on the clock or in `shared`.
    working: BinaryHeap<Reverse<(u64, usize)>>,
    /// Nanoseconds each has been worked on, when they share.
    shared: f64,
    /// Seconds times what was worked on, what could have been, what was in flight, and the limit.
    worked: f64,
    could: f64,
    load: f64,
    limits: f64,
}

impl Origin {
    fn new(works: Works, times: Times, seed: u64) -> Origin {
        Origin {
            works,
            times,
            limit: Limit::default(),
            seed: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            now: 0.0,
            begun: Vec::new(),
            in_flight: 0,
            queued: VecDeque::new(),
            working: BinaryHeap::new(),
            shared: 0.0,
            worked: 0.0,
            could: 0.0,
            load: 0.0,
            limits: 0.0,
        }
    }

    /// Between 0 and 1 (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + 1e-17
    }

    fn takes(&mut self) -> f64 {
        match self.times {
            Constant => 1.0,
            Uniform => 0.5 + self.random(),
            Exponential => -self.random().ln(),
            LogNormal => {
                let far = (-2.0 * self.random().ln()).sqrt();
                (far * (std::f64::consts::TAU * self.random()).cos() - 0.5).exp()
            }
            Bimodal => (if self.random() < 0.9 { 5.0 } else { 100.0 }) / 14.5,
        }
    }

    /// Runs for some seconds, with as many clients, with its capacity and seconds a request takes, by the clock.
    fn run(&mut self, seconds: f64, clients: usize, at: impl Fn(f64) -> (usize, f64)) {
        (self.worked, self.could, self.load, self.limits) = (0.0, 0.0, 0.0, 0.0);
        let end = self.now + seconds;
        while self.now < end {
            let (capacity, service) = at(self.now);
            while self.in_flight < self.limit.get().min(clients) {
                let takes = self.takes() * service * 1e9;
                let begun = self.limit.begin(Duration::from_secs_f64(self.now));
                self.in_flight += 1;
                self.queued.push_back(self.begun.len());
                self.begun.push((begun, takes));
            }
            let shares = self.works == SharingProcessors;
            while (shares || self.working.len() < capacity)
                && let Some(name) = self.queued.pop_front()
            {
                let from = if shares { self.shared } else { self.now * 1e9 };
                self.working
                    .push(Reverse(((from + self.begun[name].1) as u64, name)));
            }
            let speed = if shares {
                (capacity as f64 / self.working.len() as f64).min(1.0)
            } else {
                1.0
            };
            let Reverse((ends, name)) = *self.working.peek().unwrap();
            let from = if shares { self.shared } else { self.now * 1e9 };
            let wait = ((ends as f64 - from).max(0.0) / speed / 1e9).max(1e-9);
            let passed = wait.min(0.01);
            self.now += passed;
            self.shared += passed * speed * 1e9;
            self.could += passed * capacity as f64;
            self.worked += passed * self.in_flight.min(capacity) as f64;
            self.load += passed * self.in_flight as f64;
            self.limits += passed * self.limit.get() as f64;
            if wait <= passed {
                self.working.pop();
                self.in_flight -= 1;
                self.limit.end(
                    self.begun[name].0,
                    Duration::from_secs_f64(self.now),
                    Came::Answered,
                );
            }
        }
    }

    /// The limit of the last run followed a capacity that moved all the time.
    fn keeps_up(&self, seconds: f64, most: f64, when: &str) {
        let (limit, capacity) = (self.limits / seconds, self.could / seconds);
        assert!(
            limit >= 0.7 * capacity && limit <= most * capacity + 2.0,
            "{when}, {:?} {:?}: limit {limit:.1} for {capacity:.1} at {:.0} s, goodput {:.3}",
            self.works,
            self.times,
            self.now,
            self.worked / self.could
        );
    }

    /// The limit of the last run was good for this capacity.
    fn is_near(&self, capacity: usize, goodput: f64, when: &str) {
        let (did, longer) = (self.worked / self.could, self.load / self.worked);
        let limit = self.limits * capacity as f64 / self.could;
        let told = format!(
            "{when}, {:?} {:?}: limit {limit:.1} for {capacity}, goodput {did:.3}, {longer:.2} times as long",
            self.works, self.times
        );
        assert!(
            limit >= 0.8 * capacity as f64 && limit <= 1.5 * capacity as f64 + 2.0,
            "{told}"
        );
        assert!(
            did >= goodput && (longer <= 1.6 || capacity <= 2 && longer <= 2.0),
            "{told}"
        );
    }
}

const ENDLESS: usize = 100_000;

fn each(seeds: u64, times: &[Times], test: impl Fn(Works, Times, u64)) {
    for works in [FirstComeFirstServed, SharingProcessors] {
        for times in times {
            (1..=seeds).for_each(|seed| test(works, *times, seed));
        }
    }
}

#[test]
fn it_finds_any_capacity() {
    each(
        1,
        &[Constant, Uniform, Exponential],
        |works, times, seed| {
            for (capacity, service) in [(1, 0.02), (2, 0.02), (8, 0.05), (50, 0.3)] {
                let mut origin = Origin::new(works, times, seed);
                origin.run(15.0, ENDLESS, |_| (capacity, service));
                origin.run(15.0, ENDLESS, |_| (capacity, service));
                origin.is_near(capacity, 0.93, &format!("seed {seed}, {service} s"));
            }
        },
    );
}

#[test]
fn it_finds_one_of_scattered_times() {
    each(1, &[LogNormal, Bimodal], |works, times, seed| {
        for capacity in [4, 20] {
            let mut origin = Origin::new(works, times, seed);
            origin.run(20.0, ENDLESS, |_| (capacity, 0.03));
            origin.run(15.0, ENDLESS, |_| (capacity, 0.03));
            origin.is_near(capacity, 0.84, &format!("seed {seed}"));
        }
    });
}

#[test]
fn it_follows_steps_from_4_to_400_and_back() {
    each(1, &[Constant, Exponential], |works, times, seed| {
        let mut origin = Origin::new(works, times, seed);
        for capacity in [4, 400, 8] {
            origin.run(12.0, ENDLESS, |_| (capacity, 0.05));
            origin.run(8.0, ENDLESS, |_| (capacity, 0.05));
            origin.is_near(capacity, 0.85, &format!("seed {seed}, after a step"));
        }
    });
}

#[test]
fn it_follows_a_ramp_from_4_to_400_and_back() {
    each(1, &[Constant, Exponential], |works, times, seed| {
        let mut origin = Origin::new(works, times, seed);
        let ramp = |now: f64| {
            let part = (1.0 - (now / 40.0 - 1.0).abs()).max(0.0);
            (4 + (396.0 * part) as usize, 0.05)
        };
        origin.run(10.0, ENDLESS, ramp);
        while origin.now < 75.0 {
            origin.run(5.0, ENDLESS, ramp);
            // On the way down it is a few seconds late.
            let most = if origin.now <= 40.0 { 1.5 } else { 2.3 };
            origin.keeps_up(5.0, most, &format!("seed {seed}, ramp"));
        }
        origin.run(20.0, ENDLESS, ramp);
        origin.run(5.0, ENDLESS, ramp);
        origin.is_near(4, 0.85, &format!("seed {seed}, after a ramp"));
    });
}

#[test]
fn it_follows_a_sawtooth_from_4_to_400() {
    each(1, &[Constant, Exponential], |works, times, seed| {
        let mut origin = Origin::new(works, times, seed);
        let tooth = |now: f64| (4 + (now % 60.0 * 6.6) as usize, 0.05);
        for _ in 0..2 {
            // The fall: what is in flight takes its time at a hundredth of the capacity.
            origin.run(20.0, ENDLESS, tooth);
            for _ in 0..8 {
                origin.run(5.0, ENDLESS, tooth);
                origin.keeps_up(5.0, 1.5, &format!("seed {seed}, sawtooth"));
            }
        }
    });
}

#[test]
fn a_slow_origin_is_not_a_full_one() {
    each(1, &[Uniform, Exponential], |works, times, seed| {
        let mut origin = Origin::new(works, times, seed);
        for service in [0.05, 0.5, 0.03] {
            origin.run(20.0, ENDLESS, |_| (40, service));
            origin.run(8.0, ENDLESS, |_| (40, service));
            origin.is_near(40, 0.9, &format!("seed {seed}, {service} s"));
        }
    });
}

#[test]
fn without_demand_nothing_is_tried() {
    each(1, &[Uniform, Exponential], |works, times, seed| {
        let mut origin = Origin::new(works, times, seed);
        origin.run(60.0, 3, |_| (40, 0.05));
        assert_eq!(origin.limit.get(), WARM);
        origin.run(20.0, ENDLESS, |_| (40, 0.05));
        origin.run(20.0, 3, |_| (40, 0.05));
        let learned = origin.limit.get();
        origin.run(60.0, 3, |_| (40, 0.05));
        assert_eq!(origin.limit.get(), learned);
        assert!(learned >= 24, "{works:?} {times:?} seed {seed}: {learned}");
    });
}

#[test]
fn failures_halve_it_once_a_window_and_answers_bring_it_back() {
    let mut limit = Limit::default();
    let mut now = Duration::ZERO;
    let mut turn = |limit: &mut Limit, came| {
        let begun: Vec<_> = (0..limit.get()).map(|_| limit.begin(now)).collect();
        now += Duration::from_millis(60);
        begun.iter().for_each(|begun| limit.end(*begun, now, came));
    };
    turn(&mut limit, Came::Failed);
    assert_eq!(limit.get(), WARM / 2);
    for _ in 0..20 {
        turn(&mut limit, Came::Failed);
    }
    assert_eq!(limit.get(), LEAST);
    for _ in 0..200 {
        turn(&mut limit, Came::Answered);
    }
    assert!(limit.get() >= WARM, "{limit:?}");
    let before = limit.get();
    for _ in 0..100 {
        turn(&mut limit, Came::Untold);
    }
    assert_eq!(limit.get(), before);
}

#[test]
fn it_is_small() {
    assert!(size_of::<Limit>() <= 1024, "{}", size_of::<Limit>());
}
