//! What remembering clients costs: nanoseconds a decision, and bytes a client.

use super::support::report::{Checks, count, median, table};
use super::support::sys;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tidegate::limits::table::{Hold, Law, Room, Table};
use tidegate::rules::gcra::Gcra;

/// The most that a decision and a client may cost; where memory is so slow that it takes longer to read it twice, that long.
const NANOS: f64 = 150.0;
const BYTES: f64 = 32.0;
/// Decisions in a round, and rounds.
const DECISIONS: u64 = 1_000_000;

fn ample() -> Room {
    Arc::new(|_| Some(Box::new(()) as Hold))
}

/// A page's worth at once and a hundred a minute.
fn law() -> Law {
    Law {
        gcra: Gcra::new(100, Duration::from_secs(60), 20),
        concurrency: None,
    }
}

/// An address, hashed as the proxy does it.
fn client(seed: &RandomState, address: u32) -> u64 {
    let mut hasher = seed.build_hasher();
    hasher.write_u32(address);
    hasher.finish()
}

/// Which of `clients` comes next: any, and none that could be foretold by a processor.
fn next(state: &mut u64, clients: u64) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    ((u128::from(*state) * u128::from(clients)) >> 64) as u32
}

/// Nanoseconds of this thread for each of so many.
fn each(many: u64, mut one: impl FnMut()) -> f64 {
    let began = sys::thread_cpu();
    for _ in 0..many {
        one();
    }
    (sys::thread_cpu() - began) as f64 / many as f64
}

/// Nanoseconds of one read from anywhere in so much memory, after the one before: the floor of whatever looks there.
fn read(bytes: usize, many: usize) -> f64 {
    let words = (bytes / 8).next_power_of_two();
    // Each word names the next, in one long circle (a full-period generator).
    let next = |word: usize| (word.wrapping_mul(5).wrapping_add(12_345) & (words - 1)) as u64;
    let memory: Vec<u64> = (0..words).map(next).collect();
    let mut at = 0_usize;
    let mut mixed = 0x9e37_79b9_7f4a_7c15_u64;
    rounds(many, || {
        at = memory[(at ^ (mixed >> 32) as usize) & (words - 1)] as usize;
        mixed = mixed
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(at as u64 | 1);
    })
}

fn rounds(rounds: usize, mut one: impl FnMut()) -> f64 {
    let all: Vec<f64> = (0..rounds).map(|_| each(DECISIONS, &mut one)).collect();
    median(&all)
}

pub fn measure(quick: bool, checks: &mut Checks) {
    let sizes: &[u64] = match quick {
        true => &[1_000, 100_000],
        false => &[1_000, 100_000, 1_000_000, 10_000_000],
    };
    let many = if quick { 3 } else { 9 };
    let mut rows = Vec::new();
    for &clients in sizes {
        let seed = RandomState::new();
        let limit = Table::new(law(), clients as usize, ample());
        let mut now = 1_000_000_000;
        let began = sys::thread_cpu();
        for address in 0..clients as u32 {
            limit.take(client(&seed, address), now, 1);
        }
        let first = (sys::thread_cpu() - began) as f64 / clients as f64;
        let bytes = limit.bytes() as f64 / clients as f64;
        let remembered = limit.remembered();
        let mut state = 0x9e37_79b9_7f4a_7c15;
        let hash = rounds(many, || {
            black_box(client(&seed, next(&mut state, clients)));
        });
        // Time goes on, so that some are admitted and some are not.
        let decision = rounds(many, || {
            now += 10_000;
            let client = client(&seed, next(&mut state, clients));
            black_box(limit.take(client, now, 1));
        });
        let floor = read(limit.bytes(), many);
        // All the others there are, where there is no more room.
        let mut stranger = clients as u32;
        let newcomer = rounds(many, || {
            stranger = stranger.wrapping_add(1);
            black_box(limit.take(client(&seed, stranger), now, 1));
        });
        rows.push(vec![
            count(clients),
            format!("{decision:.0}"),
            format!("{hash:.0}"),
            format!("{floor:.0}"),
            format!("{first:.0}"),
            format!("{newcomer:.0}"),
            format!("{bytes:.1}"),
            format!("{:.2} %", remembered as f64 / clients as f64 * 100.0),
        ]);
        let most = NANOS.max(2.0 * floor);
        checks.check(
            decision <= most,
            format!(
                "{} clients: at most {most:.0} ns a decision",
                count(clients)
            ),
            format!("{decision:.0}"),
        );
        checks.check(
            bytes <= BYTES && limit.bytes() <= limit.most_bytes(),
            format!("{} clients: at most {BYTES:.0} bytes each", count(clients)),
            format!("{bytes:.1}"),
        );
    }
    let head = [
        "clients",
        "ns a decision",
        "of it the hash",
        "ns to read memory",
        "ns a first one, growing",
        "ns a newcomer, full",
        "bytes each",
        "remembered",
    ];
    println!("{}", table(&head, &rows));
}
