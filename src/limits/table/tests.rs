use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn ample() -> Room {
    Arc::new(|_| Some(Box::new(())))
}

/// Bytes that are taken, and the most that ever were.
#[derive(Clone, Default)]
struct Account {
    taken: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Account {
    fn room(&self, limit: usize) -> Room {
        let account = self.clone();
        Arc::new(move |bytes| {
            let sum = account.taken.fetch_add(bytes, Relaxed) + bytes;
            let given = Given(Arc::clone(&account.taken), bytes);
            (sum <= limit).then(|| {
                account.most.fetch_max(sum, Relaxed);
                Box::new(given) as Hold
            })
        })
    }

    fn now(&self) -> usize {
        self.taken.load(Relaxed)
    }
}

struct Given(Arc<AtomicUsize>, usize);

impl Drop for Given {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Relaxed);
    }
}

fn per_second(count: u64, burst: u64) -> Law {
    Law {
        gcra: Gcra::new(count, Duration::from_secs(1), burst),
        concurrency: None,
    }
}

/// Clients as a process would hash them.
fn clients(seed: &RandomState, range: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
    range.map(|client| seed.hash_one(client))
}

fn is_admitted(taken: Taken) -> bool {
    matches!(taken, Taken::Admit { .. } | Taken::Unremembered)
}

#[test]
fn a_client_is_sixteen_bytes() {
    assert_eq!(size_of::<Place>(), 16);
    assert_eq!(size_of::<Bucket>(), 16 * PLACES);
}

#[test]
fn c46_a_hundred_thousand_addresses_with_a_request_each_are_all_admitted() {
    let table = Table::new(per_second(1, 1), 1_000_000, ample());
    let seed = RandomState::new();
    for client in clients(&seed, 0..100_000) {
        assert!(matches!(table.take(client, 0, 1), Taken::Admit { .. }));
    }
    assert_eq!(table.remembered(), 100_000);
    assert!(table.bytes() <= 100_000 * 32, "{}", table.bytes());
    // And none of them is forgotten.
    for client in clients(&seed, 0..100_000) {
        assert_eq!(
            table.take(client, 0, 1),
            Taken::Refuse(Some(Duration::from_secs(1)))
        );
    }
}

#[test]
fn c47_no_number_of_addresses_takes_more_than_the_cap_or_frees_an_attacker() {
    const CLIENTS: usize = 20_000;
    let table = Table::new(per_second(1, 10), CLIENTS, ample());
    let seed = RandomState::new();
    let attackers: Vec<u64> = clients(&seed, 0..100).collect();
    for &attacker in &attackers {
        (0..10).for_each(|_| assert!(is_admitted(table.take(attacker, 0, 1))));
        assert!(!is_admitted(table.take(attacker, 0, 1)));
    }
    // Twenty times as many as there is room for, and all at once.
    for client in clients(&seed, 1_000..20 * CLIENTS as u64) {
        assert!(is_admitted(table.take(client, 0, 1)));
    }
    assert!(table.bytes() <= table.most_bytes());
    assert!(
        table.most_bytes() <= CLIENTS * 21 + (1 << 15),
        "{}",
        table.most_bytes()
    );
    assert!(table.remembered() >= CLIENTS);
    assert_eq!(
        table.unremembered.total(),
        0,
        "there was always one who had used less"
    );
    for attacker in attackers {
        assert!(!is_admitted(table.take(attacker, 0, 1)));
    }
}

#[test]
fn where_everybody_has_used_more_than_half_newcomers_are_let_in_and_counted() {
    let table = Table::new(per_second(1, 1), 1_000, ample());
    let seed = RandomState::new();
    for client in clients(&seed, 0..5_000) {
        assert!(is_admitted(table.take(client, 0, 1)));
    }
    let unremembered = table.unremembered.total();
    assert_eq!(table.remembered() as u64 + unremembered, 5_000);
    assert!(unremembered >= 3_700, "{unremembered}");
    // Who goes on has a place as soon as somebody's bucket is half full again, and then is limited like any other.
    let stubborn = seed.hash_one("stubborn");
    let admitted = (0..100)
        .filter(|_| is_admitted(table.take(stubborn, SECOND / 2, 1)))
        .count();
    assert_eq!(admitted, 1);
}

#[test]
fn a_flood_from_a_million_addresses_leaves_honest_clients_alone() {
    // Room for an eighth of them. Each comes twice, and beside them those who come as often as they may.
    let table = Table::new(per_second(1, 1), 125_000, ample());
    let seed = RandomState::new();
    let honest: Vec<u64> = clients(&seed, 0..1_000).collect();
    let mut flood = clients(&seed, 1_000_000..2_000_000);
    let mut refused = 0;
    for now in (0..10).map(|step| SECOND * step) {
        for &client in &honest {
            assert!(is_admitted(table.take(client, now, 1)), "at {now}");
        }
        for client in flood.by_ref().take(100_000) {
            assert!(is_admitted(table.take(client, now, 1)));
            refused += u64::from(!is_admitted(table.take(client, now, 1)));
        }
    }
    // Once in a few million newcomers both buckets are full of others who have just come.
    let unremembered = table.unremembered.total();
    assert!(unremembered <= 10, "{unremembered}");
    assert!(refused + unremembered >= 1_000_000, "{refused}");
    assert!(
        table.bytes() <= 125_000 * 21 + (1 << 16),
        "{}",
        table.bytes()
    );
}

#[test]
fn who_is_as_good_as_new_leaves_his_place_to_others() {
    let table = Table::new(per_second(10, 10), 100_000, ample());
    let seed = RandomState::new();
    for round in 0..20 {
        for client in clients(&seed, round * 1_000..(round + 1) * 1_000) {
            assert!(is_admitted(table.take(client, round * SECOND, 1)));
        }
    }
    assert!(table.bytes() < 20_000 * 16, "{}", table.bytes());
    assert!(table.remembered() < 10_000, "{}", table.remembered());
}

#[test]
fn memory_that_cannot_be_had_is_not_taken() {
    let account = Account::default();
    let table = Table::new(per_second(1, 10), 1_000_000, account.room(64 * 1024));
    let seed = RandomState::new();
    for client in clients(&seed, 0..50_000) {
        assert!(is_admitted(table.take(client, 0, 1)));
    }
    let held = account.now();
    assert!(held <= 64 * 1024 && held > 16 * 1024, "{held}");
    drop(table);
    assert_eq!(account.now(), 0);
}

#[test]
fn requests_at_once_are_counted_until_they_are_done() {
    let law = Law {
        gcra: None,
        concurrency: Some(2),
    };
    let table = Table::new(law, 1_000, ample());
    assert!(matches!(
        table.take(7, 0, 1),
        Taken::Admit { remaining: 1, .. }
    ));
    assert!(matches!(
        table.take(7, 0, 1),
        Taken::Admit { remaining: 0, .. }
    ));
    assert_eq!(table.take(7, 0, 1), Taken::Refuse(None));
    assert_eq!(table.look(7, 0, 1), Taken::Refuse(None));
    assert!(is_admitted(table.take(8, 0, 1)));
    table.release(7);
    assert!(is_admitted(table.take(7, 0, 1)));
    // Whoever has one in hand is not forgotten for any number of others.
    let seed = RandomState::new();
    for client in clients(&seed, 0..20_000) {
        table.take(client, 0, 1);
    }
    assert_eq!(table.take(7, 0, 1), Taken::Refuse(None));
    assert!(table.unremembered.total() > 10_000);
    // One release too many takes nothing from another.
    (0..5).for_each(|_| table.release(7));
    assert!(matches!(
        table.take(7, 0, 1),
        Taken::Admit { remaining: 1, .. }
    ));
}

#[test]
fn memory_of_clients_who_have_gone_is_given_back() {
    let account = Account::default();
    let table = Table::new(per_second(1, 10), 100_000, account.room(usize::MAX));
    let seed = RandomState::new();
    let all: Vec<u64> = clients(&seed, 0..50_000).collect();
    for client in &all {
        table.take(*client, 0, 1);
    }
    // A few are limited for nine seconds more than the others.
    let limited = &all[..200];
    for client in limited {
        while is_admitted(table.take(*client, 0, 1)) {}
    }
    let (full, tidy) = (table.bytes(), |now| {
        (0..256).for_each(|nth| table.tidy(nth, now))
    });
    tidy(0);
    assert_eq!(table.bytes(), full, "all of them are remembered");
    tidy(2 * SECOND);
    assert!(table.bytes() < full / 10, "{} of {full}", table.bytes());
    for client in limited {
        assert!(is_admitted(table.take(*client, 2 * SECOND, 2)));
        assert!(!is_admitted(table.take(*client, 2 * SECOND, 1)));
    }
    tidy(20 * SECOND);
    assert_eq!((account.now(), table.remembered()), (0, 0));
    assert!(is_admitted(table.take(all[0], 20 * SECOND, 10)));
    // What is in hand is not forgotten.
    let law = Law {
        gcra: None,
        concurrency: Some(1),
    };
    let table = Table::new(law, 100_000, ample());
    table.take(7, 0, 1);
    (0..256).for_each(|nth| table.tidy(nth, SECOND));
    assert_eq!(table.take(7, SECOND, 1), Taken::Refuse(None));
}

#[test]
fn a_table_for_many_more_is_made_anew_with_shards_for_them() {
    let law = per_second(1, 1);
    let small = Table::new(law, 4_000, ample());
    assert!(is_admitted(small.take(7, 0, 1)));
    // What is known stays known where a few times as many are to be held, and where fewer are.
    let more = small.under(law, 16_000).unwrap();
    assert!(!is_admitted(more.take(7, 0, 1)));
    assert!(!is_admitted(more.under(law, 100).unwrap().take(7, 0, 1)));
    let large = Table::new(law, 2_000_000, ample());
    assert!(is_admitted(large.take(7, 0, 1)));
    assert!(!is_admitted(large.under(law, 4_000).unwrap().take(7, 0, 1)));
    // One shard of two million would be copied under its lock whenever it grows.
    assert!(small.under(law, 2_000_000).is_none());
    assert!(small.under(law, 40_000).is_none());
}

#[test]
fn it_takes_no_more_than_was_said() {
    for clients in [100, 1_000, 5_000, 100_000] {
        let most = Table::takes(clients);
        assert!(most >= 20 * clients, "{clients}: {most}");
        // One shard may stand there twice.
        let twice = if clients < 8_000 { 2 } else { 1 };
        assert!(
            most <= 21 * clients * twice + 1_000_000,
            "{clients}: {most}"
        );
        let account = Account::default();
        let table = Table::new(per_second(1, 10), clients, account.room(usize::MAX));
        let seed = RandomState::new();
        for client in self::clients(&seed, 0..2 * clients as u64) {
            table.take(client, 0, 1);
        }
        assert!(table.remembered() > clients * 9 / 10);
        let peak = account.most.load(Relaxed);
        assert!(peak <= most, "{clients}: {peak} of {most}");
    }
}

#[test]
fn what_is_given_back_was_not_taken() {
    let law = Law {
        concurrency: Some(1),
        ..per_second(1, 2)
    };
    let table = Table::new(law, 1_000, ample());
    for _ in 0..10 {
        assert!(is_admitted(table.take(7, 0, 2)));
        table.refund(7, 2);
        assert_eq!(
            table.take(7, 0, 2),
            Taken::Refuse(None),
            "it is in hand yet"
        );
        table.release(7);
    }
    assert!(is_admitted(table.take(7, 0, 2)));
    assert_eq!(table.take(7, 0, 2), Taken::Refuse(None));
}

#[test]
fn what_costs_nothing_yet_needs_no_place() {
    let law = Law {
        gcra: per_second(100, 50).gcra.map(Gcra::lending),
        concurrency: None,
    };
    let table = Table::new(law, 1_000, ample());
    for client in 0..100 {
        assert!(is_admitted(table.take(client << 20, 0, 0)));
    }
    assert_eq!(table.remembered(), 0);
    table.charge(7 << 20, 0, 80);
    assert!(!is_admitted(table.take(7 << 20, 0, 0)));
    assert!(is_admitted(table.take(7 << 20, SECOND, 0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// As long as there is room for all, each client is judged as if it had a table to itself, however the table grows.
    #[test]
    fn growing_mixes_nobody_up(
        arrivals in proptest::collection::vec((0_u64..300, 0_u64..SECOND / 50, 1_u64..4), 1..3_000),
        random: u64,
    ) {
        let law = per_second(5, 5);
        let gcra = law.gcra.unwrap();
        let table = Table::new(law, 2_000, ample());
        let mut alone = std::collections::HashMap::new();
        let mut now = 0;
        for (client, pause, cost) in arrivals {
            now += pause;
            let cell: &mut Cell = alone.entry(client).or_default();
            let verdict = gcra.decide(*cell, now, cost);
            let hashed = (client + 1).wrapping_mul(random | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let taken = table.take(hashed, now, cost);
            match verdict {
                Verdict::Admit { cell: next, remaining, reset } => {
                    *cell = next;
                    prop_assert_eq!(taken, Taken::Admit { remaining, reset });
                }
                Verdict::Refuse { wait, .. } => prop_assert_eq!(taken, Taken::Refuse(Some(wait))),
                Verdict::Wait { .. } => unreachable!(),
            }
        }
        prop_assert_eq!(table.unremembered.total(), 0);
    }
}

#[test]
fn threads_together_admit_no_more_than_one_would() {
    let table = Arc::new(Table::new(per_second(1, 1_000), 100_000, ample()));
    let admitted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let table = Arc::clone(&table);
                scope.spawn(move || {
                    let seed = RandomState::new();
                    let others = clients(&seed, thread << 32..(thread << 32) + 2_000);
                    others
                        .filter(|other| {
                            table.take(*other, 0, 1);
                            is_admitted(table.take(42, 0, 1))
                        })
                        .count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(admitted, 1_000);
}
