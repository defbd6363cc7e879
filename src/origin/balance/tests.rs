//! Servers, a clock that is turned by hand, and a seed.

use std::time::Duration;

use super::super::room::Room;
use super::super::standing::Role;
use super::super::standing::tests::{RULES, start};
use super::*;

const HASH: Balance = Balance::ConsistentHash { most: 125 };
const ALL: [Balance; 4] = [
    Balance::P2c,
    Balance::RoundRobin,
    Balance::LeastInFlight,
    HASH,
];

struct Farm {
    servers: Vec<Standing>,
    balance: Balance,
    now: Instant,
    seed: u64,
}

impl Farm {
    /// Each may have 64 in flight.
    fn of(count: usize, balance: Balance) -> Farm {
        Farm::weighing(&vec![1; count], balance)
    }

    fn weighing(weights: &[u32], balance: Balance) -> Farm {
        let role = |(at, weight): (usize, &u32)| Role {
            weight: *weight,
            id: rendezvous::hash([format!("10.0.0.{at}").as_bytes()]),
            token: Some(Token::of(&[at as u8; 16])),
            ..Role::default()
        };
        let roles = weights.iter().enumerate().map(role);
        Farm {
            servers: roles.map(Standing::of).collect(),
            balance,
            now: start(),
            seed: 42,
        }
    }

    fn holding(mut self, most: usize) -> Farm {
        for server in &mut self.servers {
            server.room = Room::Fixed(most);
        }
        self
    }

    fn backup(mut self, ones: &[usize]) -> Farm {
        for at in ones {
            self.servers[*at].role.backup = true;
        }
        self
    }

    fn choose(&mut self, avoid: Option<usize>, steer: Steer) -> Option<usize> {
        let mut choice = Choice {
            servers: &mut self.servers,
            rules: &RULES,
            balance: self.balance,
            steer,
            avoid,
            now: self.now,
        };
        let seed = &mut self.seed;
        choice.make(|| {
            *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            rendezvous::hash([&seed.to_le_bytes()[..]])
        })
    }

    /// By a key of its own each time.
    fn next(&mut self) -> Option<usize> {
        let key = rendezvous::hash([&self.seed.to_le_bytes()[..]]);
        self.seed += 1;
        self.choose(None, keyed(key))
    }

    /// Sends so many, each of which is answered before the next.
    fn send(&mut self, requests: usize) -> Vec<usize> {
        let mut sent = vec![0; self.servers.len()];
        for _ in 0..requests {
            if let Some(at) = self.next() {
                sent[at] += 1;
            }
        }
        sent
    }

    /// Sends so many that stay in flight.
    fn hold(&mut self, requests: usize) -> Vec<usize> {
        for _ in 0..requests {
            if let Some(at) = self.next() {
                self.servers[at].take(self.now, Duration::ZERO);
            }
        }
        self.servers.iter().map(|server| server.in_flight).collect()
    }

    fn answer(&mut self, at: usize, millis: u64) {
        self.servers[at].answered(Duration::from_millis(millis), self.now);
    }

    fn owner(&mut self, key: u64) -> Option<usize> {
        self.choose(None, keyed(key))
    }
}

fn keyed(key: u64) -> Steer {
    Steer {
        key: Some(key),
        bound: None,
    }
}

fn bound(at: u8) -> Steer {
    Steer {
        key: None,
        bound: Some(Token::of(&[at; 16])),
    }
}

#[test]
fn equals_have_equal_shares() {
    for balance in ALL {
        let mut farm = Farm::of(4, balance);
        (0..4).for_each(|at| farm.answer(at, 10));
        for sent in farm.send(1000) {
            assert!((200..=300).contains(&sent), "{balance:?}: {sent}");
        }
    }
}

#[test]
fn shares_follow_weights_idle_and_busy() {
    for balance in ALL {
        let mut farm = Farm::weighing(&[1, 2, 5], balance);
        (0..3).for_each(|at| farm.answer(at, 10));
        let sent = farm.send(8000);
        for (at, weight) in [1, 2, 5].into_iter().enumerate() {
            let off = sent[at].abs_diff(weight * 1000);
            assert!(off < 150, "{balance:?}: {sent:?}");
        }
        let held = farm.hold(40);
        for (at, weight) in [1, 2, 5].into_iter().enumerate() {
            let off = held[at].abs_diff(weight * 5);
            assert!(off <= 3, "{balance:?}: {held:?}");
        }
    }
}

#[test]
fn turns_are_smooth() {
    let mut farm = Farm::weighing(&[5, 1, 1], Balance::RoundRobin);
    let order: Vec<_> = (0..7).filter_map(|_| farm.next()).collect();
    // As in nginx's own description of it.
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn weights_are_a_matter_of_proportion() {
    for balance in ALL {
        let sent = |weights| Farm::weighing(weights, balance).send(100);
        assert_eq!(sent(&[1, 3]), sent(&[300, 900]), "{balance:?}");
    }
}

#[test]
fn who_is_drained_gets_nothing_even_where_nobody_else_is_there() {
    for balance in ALL {
        let mut farm = Farm::weighing(&[0, 1], balance);
        assert_eq!(farm.send(50), [0, 50], "{balance:?}");
        assert_eq!(farm.choose(None, bound(0)), Some(1), "nor who was bound");
        farm.servers[1].set_well(false, false, farm.now);
        assert_eq!(farm.send(50), [0, 50], "{balance:?}: an ill one is better");
        assert_eq!(farm.choose(Some(1), Steer::default()), None);
    }
}

#[test]
fn backups_wait_until_nobody_else_is_left() {
    for balance in ALL {
        let mut farm = Farm::of(4, balance).backup(&[2, 3]);
        let sent = farm.send(100);
        assert_eq!(sent[2] + sent[3], 0, "{balance:?}: {sent:?}");
        farm.servers[0].set_well(false, true, farm.now);
        assert_eq!(farm.send(100)[1], 100, "{balance:?}: one is enough");
        farm.servers[1].eject(&RULES, farm.now);
        let sent = farm.send(100);
        assert!(
            sent[0] + sent[1] == 0 && sent[2] > 20 && sent[3] > 20,
            "{balance:?}: {sent:?}"
        );
        farm.servers[2].set_well(false, true, farm.now);
        farm.servers[3].set_well(false, true, farm.now);
        let sent = farm.send(400);
        assert!(
            sent.iter().all(|sent| *sent > 20),
            "all, where none is left: {sent:?}"
        );
        farm.servers[0].set_well(true, true, farm.now);
        assert_eq!(farm.send(100)[0], 100, "{balance:?}: it is back");
    }
}

#[test]
fn backups_stand_in_while_nobody_can_be_reached() {
    let mut farm = Farm::of(2, Balance::P2c).backup(&[1]);
    farm.servers[0].unreachable(farm.now);
    assert_eq!(farm.send(10), [0, 10]);
    farm.now += Duration::from_secs(1);
    assert_eq!(farm.next(), Some(0), "one tries it");
    farm.servers[0].take(farm.now, Duration::ZERO);
    assert_eq!(farm.send(10), [0, 10]);
    farm.servers[0].reached();
    assert_eq!(farm.send(10), [10, 0]);
}

#[test]
fn a_full_server_is_no_reason_for_a_backup_but_a_failed_request_is() {
    let mut farm = Farm::of(2, Balance::P2c).backup(&[1]).holding(1);
    assert_eq!(farm.choose(Some(0), Steer::default()), Some(1));
    farm.servers[0].take(farm.now, Duration::ZERO);
    assert_eq!(farm.next(), None);
}

#[test]
fn who_comes_back_alone_is_needed_whole() {
    let mut farm = Farm::of(2, Balance::P2c).backup(&[1]).holding(20);
    farm.servers[0].set_well(false, false, farm.now);
    farm.servers[0].set_well(true, false, farm.now);
    assert!(farm.servers[0].share(&RULES, farm.now) < 1.0);
    assert_eq!(farm.hold(20), [20, 0]);
}

#[test]
fn each_holds_what_it_may() {
    for balance in ALL {
        let mut farm = Farm::of(3, balance);
        for (server, most) in farm.servers.iter_mut().zip([1, 2, 7]) {
            server.room = Room::Fixed(most);
        }
        assert_eq!(farm.hold(100), [1, 2, 7], "{balance:?}");
    }
}

#[test]
fn a_slow_one_has_less_and_a_busy_one_too() {
    let mut farm = Farm::of(4, Balance::P2c);
    (0..4).for_each(|at| farm.answer(at, if at == 2 { 100 } else { 10 }));
    farm.servers[1].in_flight = 3;
    let sent = farm.send(1000);
    assert_eq!(sent[2], 0, "never the better of two: {sent:?}");
    assert!(sent[1] < sent[0] && sent[1] < sent[3], "{sent:?}");
}

#[test]
fn c76_distrust_holds_while_enough_are_left() {
    let mut farm = Farm::of(4, Balance::P2c);
    for at in 0..2 {
        farm.servers[at].set_well(false, false, farm.now);
    }
    let sent = farm.send(400);
    assert_eq!((sent[0], sent[1]), (0, 0), "{sent:?}");
    farm.servers[2].eject(&RULES, farm.now);
    assert_eq!(farm.send(400)[3], 400, "a quarter is enough");
    farm.servers[3].eject(&RULES, farm.now);
    assert!(
        farm.send(400).iter().all(|sent| *sent > 0),
        "all, where none is left"
    );
}

#[test]
fn room_is_kept_to_and_who_failed_a_request_never_has_it_again() {
    for balance in ALL {
        let mut farm = Farm::of(3, balance).holding(2);
        for key in 0..20 {
            assert_ne!(farm.choose(Some(1), keyed(key)), Some(1));
            assert_ne!(farm.choose(Some(1), bound(1)), Some(1));
        }
        farm.servers[0].in_flight = 2;
        farm.servers[2].in_flight = 2;
        assert_eq!(farm.choose(Some(1), Steer::default()), None, "{balance:?}");
        assert_eq!(farm.next(), Some(1), "{balance:?}");
        farm.servers[1].in_flight = 2;
        assert_eq!(farm.next(), None);
    }
}

#[test]
fn a_failed_request_is_not_asked_again_at_who_is_ill_or_rests() {
    let mut farm = Farm::of(3, Balance::P2c);
    farm.servers[1].set_well(false, false, farm.now);
    farm.servers[2].unreachable(farm.now);
    assert_eq!(farm.choose(Some(0), Steer::default()), None);
    farm.servers[2].reached();
    assert_eq!(farm.choose(Some(0), Steer::default()), Some(2));
}

#[test]
fn who_returns_gets_little_at_first() {
    let mut farm = Farm::of(2, Balance::LeastInFlight).holding(20);
    farm.servers[0].eject(&RULES, farm.now);
    farm.now += RULES.eject_for;
    farm.servers[0].take(farm.now, Duration::ZERO);
    // A tenth of twenty.
    assert_eq!(farm.hold(100), [2, 20]);
}

#[test]
fn a_key_has_its_server_and_moves_only_without_it() {
    const KEYS: u64 = 5_000;
    let mut farm = Farm::of(10, HASH);
    let owners = |farm: &mut Farm| -> Vec<_> { (0..KEYS).map(|key| farm.owner(key)).collect() };
    let before = owners(&mut farm);
    assert_eq!(owners(&mut farm), before);
    farm.servers[3].eject(&RULES, farm.now);
    let without = owners(&mut farm);
    let moved = |was: &&Option<usize>| **was == Some(3);
    assert!(
        before
            .iter()
            .zip(&without)
            .all(|(was, is)| was == is || *was == Some(3))
    );
    let share = before.iter().filter(moved).count() as f64 / KEYS as f64;
    assert!((share - 0.1).abs() < 0.02, "{share}");
    farm.now += RULES.eject_for;
    assert_eq!(owners(&mut farm), before, "they come back");
}

#[test]
fn a_hot_key_overflows_to_the_next_in_line() {
    // Two are an eighth.
    let mut farm = Farm::of(4, HASH).holding(16);
    let mut order = Vec::new();
    for sent in 1..=40 {
        let at = farm.owner(7).unwrap();
        farm.servers[at].take(farm.now, Duration::ZERO);
        if !order.contains(&at) {
            order.push(at);
        }
        let fair = f64::from(sent) / 4.0;
        let most = ((fair * 1.25).ceil() as usize).max(2);
        for server in &farm.servers {
            assert!(server.in_flight <= most, "{} of {sent}", server.in_flight);
        }
    }
    assert_eq!((order.len(), farm.owner(7) == Some(order[0])), (4, false));
    // When the first has time again, it is the key's again.
    farm.servers[order[0]].in_flight = 0;
    assert_eq!(farm.owner(7), Some(order[0]));
}

#[test]
fn without_a_key_it_is_the_better_of_two() {
    let mut farm = Farm::of(2, HASH);
    farm.servers[0].in_flight = 5;
    assert_eq!(farm.choose(None, Steer::default()), Some(1));
}

#[test]
fn who_is_bound_has_its_server_while_that_may_be_asked() {
    for balance in ALL {
        let mut farm = Farm::of(3, balance).holding(1);
        for _ in 0..10 {
            assert_eq!(farm.choose(None, bound(2)), Some(2), "{balance:?}");
        }
        let unknown = farm.choose(None, bound(9));
        assert!(unknown.is_some());
        farm.servers[2].take(farm.now, Duration::ZERO);
        assert_ne!(farm.choose(None, bound(2)), Some(2), "full");
        farm.servers[2].in_flight = 0;
        farm.servers[2].eject(&RULES, farm.now);
        assert_ne!(farm.choose(None, bound(2)), Some(2), "ejected");
        farm.servers[1].set_well(false, false, farm.now);
        assert_eq!(farm.choose(None, bound(1)), Some(0), "ill");
    }
    let mut farm = Farm::of(2, Balance::P2c).backup(&[1]);
    assert_eq!(
        farm.choose(None, bound(1)),
        Some(0),
        "a backup's time is over"
    );
}
