//! A report that could have been measured, for tests: three scenarios at four targets, the same for the same seed.

use super::report::{
    Answers, Event, FORM, Load, Machine, Origin, Process, Quantiles, Report, Run, Slice, Target,
    Told, Wrong,
};
use crate::bench::schedule::Random;

const SLICE: f64 = 0.5;
const SLICES: usize = 40;
const CAPACITY: usize = 8;

const SCENARIOS: [(&str, &str); 3] = [
    (
        "viral-post",
        "A hundred times the usual crowd within a second, on three pages that nobody had asked for before.",
    ),
    (
        "flash-sale",
        "A crowd that grows for ten seconds; one in five has something in the cart.",
    ),
    (
        "origin-death",
        "The app is killed under a steady crowd, and comes back six seconds later.",
    ),
];
const TARGETS: [(&str, &str); 4] = [
    ("tidegate", "0.1.0"),
    ("nginx", "nginx/1.22.1"),
    ("varnish", "varnish-7.1.1"),
    ("haproxy", "HAProxy 2.6.12"),
];

pub fn report(seed: u64) -> Report {
    let mut random = Random::new(seed);
    let mut runs = Vec::new();
    for scenario in 0..SCENARIOS.len() {
        for place in 0..TARGETS.len() {
            // Another is the first in each scenario.
            runs.push(run(
                &mut random,
                scenario,
                (place + scenario) % TARGETS.len(),
            ));
        }
    }
    // The last one was measured in vain.
    let last = runs.last_mut().expect("there are runs");
    last.invalid = vec![
        "the generator was the bottleneck: 99 of 100 requests were sent up to 312 ms late"
            .to_owned(),
    ];
    last.load.lag.p99 = 312.0;
    last.load.busy = 0.99;
    Report {
        form: FORM,
        made: "2026-11-28T12:00:00Z".to_owned(),
        version: "0.1.0".to_owned(),
        machine: Machine {
            cpu: "A processor of two cores".to_owned(),
            cores: 2,
            memory_bytes: 8 << 30,
            system: "Linux 6.1".to_owned(),
        },
        runs,
    }
}

fn run(random: &mut Random, scenario: usize, target: usize) -> Run {
    let slices: Vec<Slice> = (0..SLICES)
        .map(|at| slice(random, scenario, target, at as f64 * SLICE))
        .collect();
    let sum = |of: fn(&Slice) -> u64| slices.iter().map(of).sum::<u64>();
    let (due, good, stale) = (sum(|s| s.due), sum(|s| s.good), sum(|s| s.stale));
    let (refused, errors, hits) = (sum(|s| s.refused), sum(|s| s.errors), sum(|s| s.hits));
    let fetches = sum(|s| s.origin_fetches);
    let worst = |of: fn(&Slice) -> f64| slices.iter().map(of).fold(0.0, f64::max);
    let (p99, max) = (worst(|s| s.p99), worst(|s| s.max));
    let p50 = round(slices.iter().map(|s| s.p50).sum::<f64>() / SLICES as f64);
    let mut by_status = [(200, good)]
        .into_iter()
        .collect::<std::collections::BTreeMap<_, _>>();
    if refused > 0 {
        by_status.insert(503, refused);
    }
    let (name, version) = TARGETS[target];
    let cache = match target {
        0 => vec![
            ("hit", hits - stale),
            ("hit swr", stale),
            ("uri-miss collapsed", (good - hits) / 2),
        ],
        1 => vec![("hit", hits - stale), ("updating", stale)],
        _ => vec![("hit", hits)],
    };
    let told: u64 = cache.iter().map(|(_, n)| n).sum();
    let fetched = (if target == 0 { "uri-miss" } else { "miss" }, good - told);
    let quantiles = |p50: f64, p99: f64, max: f64, count: u64| Quantiles {
        count,
        mean: round(p50 * 1.4),
        p50,
        p90: round(p50 + (p99 - p50) * 0.2),
        p99,
        p999: round(p99 + (max - p99) * 0.5),
        max,
    };
    let count = |what: &[(&str, u64)]| -> std::collections::BTreeMap<String, u64> {
        let some = what.iter().filter(|(_, n)| *n > 0);
        some.map(|(word, n)| ((*word).to_owned(), *n)).collect()
    };
    let timeouts = errors * 3 / 4;
    Run {
        scenario: Told {
            name: SCENARIOS[scenario].0.to_owned(),
            about: SCENARIOS[scenario].1.to_owned(),
        },
        target: Target {
            name: name.to_owned(),
            version: version.to_owned(),
            url: format!("http://127.0.0.1:{}/", 8000 + target),
        },
        seed: 7,
        seconds: SLICES as f64 * SLICE,
        invalid: Vec::new(),
        load: Load {
            due,
            sent: due,
            retries: errors / 3,
            connections: 256,
            lag: quantiles(0.05, 0.9, 4.0, due),
            busy: 0.41,
        },
        answers: Answers {
            good,
            stale,
            by_status,
            errors: count(&[("timeout", timeouts), ("closed", errors - timeouts)]),
            cache: count(&[cache, vec![fetched]].concat()),
        },
        wrong: Wrong::default(),
        latency: quantiles(p50, round(p99 * 0.7), max, good),
        first_second: quantiles(round(p50 * 4.0), p99, max, slices[8].good + slices[9].good),
        goodput: round(good as f64 / (SLICES as f64 * SLICE)),
        demand: round(due as f64 / (SLICES as f64 * SLICE)),
        oldest_s: (stale > 0).then_some(7.5),
        origin: Some(Origin {
            fetches,
            pages: 3,
            capacity: CAPACITY,
            peak: worst(|s| s.origin_in_flight) as usize + 1,
            failed: refused + errors,
            wasted: errors / 2,
        }),
        fault_end_s: (scenario == 2).then_some(12.0),
        recovery_s: (scenario == 2 && target != 3).then_some([0.5, 1.5, 2.5, 0.0][target]),
        process: Some(Process {
            cpu_s: round(good as f64 * [21.0, 33.0, 48.0, 29.0][target] / 1e6),
            cpu_us_per_answer: [21.0, 33.0, 48.0, 29.0][target],
            peak_memory_bytes: [38, 24, 112, 91][target] << 20,
        }),
        events: match scenario {
            0 => vec![
                event(4.0, "the crowd comes"),
                event(16.0, "the crowd leaves"),
            ],
            1 => vec![event(10.0, "all of them are there")],
            _ => vec![
                event(6.0, "the app is killed"),
                event(12.0, "the app is back"),
            ],
        },
        slices,
        slice_s: SLICE,
    }
}

fn event(at_s: f64, what: &str) -> Event {
    Event {
        at_s,
        what: what.to_owned(),
    }
}

/// What was due in the slice that begins then.
fn slice(random: &mut Random, scenario: usize, target: usize, at: f64) -> Slice {
    let mut near = |value: f64| value * (0.85 + 0.3 * random.share());
    let rate = match scenario {
        0 if (4.0..16.0).contains(&at) => 1500.0,
        0 => 15.0,
        1 => 100.0 + 140.0 * at.min(10.0),
        _ => 600.0,
    };
    let due = near(rate * SLICE).round();
    let dead = scenario == 2 && (6.0..12.0).contains(&at);
    // How far it is into what is hard, in seconds.
    let hard = match scenario {
        0 if (4.0..16.0).contains(&at) => Some(at - 4.0),
        1 if at >= 5.0 => Some(at - 5.0),
        2 if dead => Some(at - 6.0),
        _ => None,
    };
    // Shares of what was due: stale, refused, without an answer; times; and what the origin has.
    let (stale, refused, errors, p50, p99, flying) = match (target, hard) {
        (_, None) => (0.0, 0.0, 0.0, 0.4, 3.0, 1.2),
        (0, Some(_)) if dead => (1.0, 0.0, 0.0, 0.3, 1.8, 0.1),
        (0, Some(into)) => (0.05, 0.0, 0.0, 0.3, 4.0 + 80.0 * (-into).exp(), 6.5),
        (1, Some(_)) if dead => (0.96, 0.0, 0.04, 0.6, 60.0, 2.0),
        (1, Some(into)) => (
            0.1,
            0.002,
            0.0,
            0.6,
            60.0 + 450.0 * (-into / 2.0).exp(),
            12.0,
        ),
        (2, Some(into)) if dead && into > 2.0 => (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
        (2, Some(_)) if dead => (1.0, 0.0, 0.0, 0.9, 8.0, 0.3),
        (2, Some(into)) => (0.02, 0.01, 0.0, 1.1, 40.0 + 360.0 * (-into).exp(), 14.0),
        (_, Some(_)) if dead => (0.0, 0.7, 0.3, 0.0, 0.0, 0.0),
        (_, Some(into)) => (
            0.0,
            0.2,
            0.15,
            60.0 * (1.0 + into),
            900.0 * (1.0 + into),
            180.0 + 25.0 * into,
        ),
    };
    let of = |share: f64| (due * share).round() as u64;
    let (refused, errors) = (of(refused), of(errors));
    let good = (due as u64).saturating_sub(refused + errors);
    let stale = of(stale).min(good);
    let (p50, p99) = if good == 0 {
        (0.0, 0.0)
    } else {
        (near(p50), near(p99))
    };
    let missed = (good as f64 * [0.01, 0.03, 0.02, 0.3][target]).ceil() as u64;
    Slice {
        due: due as u64,
        good,
        stale,
        refused,
        errors,
        hits: good.saturating_sub(missed).max(stale),
        p50: round(p50),
        p99: round(p99),
        max: round(p99 * 1.6),
        origin_fetches: near(flying * 6.0).round() as u64,
        origin_in_flight: round(near(flying)),
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The same report as the outer tests have it: `tests/spike/report.json`.
#[test]
fn the_file_of_the_outer_tests_is_this() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spike/report.json");
    let made = serde_json::to_string(&report(28)).expect("a report is JSON") + "\n";
    if std::env::var_os("TIDEGATE_WRITE").is_some() {
        std::fs::write(file, &made).expect("the file can be written");
    }
    let there = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        there == made,
        "{file} is another: TIDEGATE_WRITE=1 cargo test --lib spike::sample writes it"
    );
}
