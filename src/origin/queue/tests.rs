use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clock;

/// After so many milliseconds nobody is put off by who has just come.
const LONG: u64 = PATIENCE.as_millis() as u64;

impl Wanted for AtomicUsize {
    fn by(&self) -> usize {
        self.load(Ordering::Relaxed)
    }
}

fn by(wanted: usize) -> Arc<AtomicUsize> {
    Arc::new(AtomicUsize::new(wanted))
}

fn page(wanted: &Arc<AtomicUsize>) -> Ask {
    Ask {
        wanted: Some(wanted.clone()),
        ..Ask::default()
    }
}

fn of(client: u8) -> Ask {
    Ask {
        client: Some(Client::of(IpAddr::from([192, 0, 2, client]), 64)),
        ..Ask::default()
    }
}

/// As much of the queue as there is.
const ALL: usize = usize::MAX;
const TAKES: Duration = Duration::from_millis(50);

/// A queue, and a clock that is turned by hand.
struct Line {
    queue: Queue<&'static str>,
    now: Instant,
}

impl Line {
    fn of(most: usize) -> Line {
        Line {
            queue: Queue::new(most),
            now: clock::timer(),
        }
    }

    fn enter(&mut self, ask: Ask, name: &'static str) -> Ticket {
        self.queue.enter(ask, ALL, name, self.now).unwrap().0
    }

    fn after(&mut self, millis: u64) -> &mut Line {
        self.now += Duration::from_millis(millis);
        self
    }

    fn pop(&mut self) -> &'static str {
        let first = self
            .queue
            .first(self.now, |_| Some(TAKES))
            .map(|(ticket, _)| ticket);
        let served = first.and_then(|ticket| self.queue.serve(ticket, self.now));
        served.unwrap_or("nobody")
    }
}

#[test]
fn the_most_wanted_is_first_as_things_stand_when_a_place_is_free() {
    let mut line = Line::of(9);
    let (rising, steady) = (by(1), by(5));
    line.enter(page(&rising), "rising");
    line.enter(page(&steady), "steady");
    line.enter(page(&by(3)), "third");
    line.enter(page(&by(3)), "fourth");
    rising.store(7, Ordering::Relaxed);
    let order: Vec<_> = (0..5).map(|_| line.pop()).collect();
    assert_eq!(order, ["rising", "steady", "third", "fourth", "nobody"]);
}

#[test]
fn who_has_waited_long_starves_no_longer() {
    let mut line = Line::of(9);
    line.enter(page(&by(1)), "rare");
    line.after(LONG - 1).enter(page(&by(100)), "hot");
    assert_eq!(line.pop(), "hot");
    line.enter(page(&by(100)), "hot");
    assert_eq!(line.after(1).pop(), "rare");
}

#[test]
fn of_those_who_starve_the_most_wanted_is_first_and_after_half_a_second_the_first() {
    let mut line = Line::of(9);
    line.enter(page(&by(1)), "first");
    line.after(10).enter(page(&by(2)), "second");
    line.enter(page(&by(3)), "third");
    line.after(LONG).enter(page(&by(9)), "hot");
    assert_eq!(line.pop(), "third");
    line.after(500 - LONG - 10);
    assert_eq!(
        [line.pop(), line.pop(), line.pop()],
        ["first", "second", "hot"]
    );
}

#[test]
fn a_greedy_client_takes_turns_with_the_others() {
    let mut line = Line::of(100);
    for _ in 0..50 {
        line.enter(of(1), "greedy");
    }
    line.after(1_000);
    for _ in 0..3 {
        line.enter(of(2), "two");
        line.enter(of(3), "three");
    }
    let order: Vec<_> = (0..8).map(|_| line.after(1).pop()).collect();
    let of = |name| order.iter().filter(|one| **one == name).count();
    assert_eq!(order[0], "greedy", "it came first");
    assert!(of("two") >= 2 && of("three") >= 2, "{order:?}");
}

/// One that has so many requests at any time, each new as soon as one is served, beside another whose only one is
/// there from the start: a place is free every 5 ms, and the queue stands. Who is served until that one is.
fn beside(greedy: usize) -> Vec<&'static str> {
    let mut line = Line::of(1000);
    line.enter(of(9), "stands");
    for _ in 0..greedy {
        line.enter(of(1), "greedy");
    }
    line.after(60).enter(of(2), "polite");
    // The origin holds its breath.
    line.after(60);
    let mut order = Vec::new();
    while order.last() != Some(&"polite") && order.len() < 100 {
        order.push(line.after(5).pop());
        line.enter(of(1), "greedy");
    }
    order
}

#[test]
fn c84_a_greedy_client_has_no_turn_before_another_has_had_one() {
    for greedy in [1, 3, 50] {
        let order = beside(greedy);
        assert!(order.len() <= 5, "{greedy} at once: {order:?}");
    }
}

#[test]
fn c84_an_only_request_is_not_late_where_all_clients_can_be_served() {
    let mut line = Line::of(1000);
    // More come than go, of one client.
    for _ in 0..8 {
        for _ in 0..30 {
            line.enter(of(1), "greedy");
        }
        line.after(50);
        line.queue.late(line.now, |_| (TAKES, 4));
    }
    line.enter(of(2), "polite");
    for _ in 0..8 {
        for _ in 0..30 {
            line.enter(of(1), "greedy");
        }
        line.after(50);
        let late = line.queue.late(line.now, |_| (TAKES, 4));
        assert!(!late.is_empty() && !late.contains(&"polite"), "{late:?}");
    }
    // As soon as there are too many others, it is.
    for client in 10..40 {
        line.enter(of(client), "another");
    }
    line.after(5);
    let late = line.queue.late(line.now, |_| (TAKES, 4));
    assert!(late.contains(&"polite"), "{late:?}");
}

/// A client's few requests for parts of a page are no greed.
#[test]
fn who_asks_for_a_few_pages_starves_no_later_than_others() {
    let mut line = Line::of(1000);
    let led = |client: u8| Ask {
        client: of(client).client,
        ..page(&by(1))
    };
    for name in ["first", "second", "third"] {
        line.enter(led(1), name);
    }
    for client in 2..30 {
        line.enter(led(client), "other");
    }
    line.after(LONG - 100);
    assert_eq!(line.pop(), "first");
    line.enter(page(&by(9)), "hot");
    line.after(100);
    assert_eq!([line.pop(), line.pop()], ["second", "third"]);
}

/// Two addresses, of which one asks for what the other has asked for.
#[test]
fn requests_that_another_joins_are_still_their_clients() {
    let mut line = Line::of(8);
    let led = |wanted: usize| Ask {
        client: of(1).client,
        ..page(&by(wanted))
    };
    for _ in 0..8 {
        line.enter(led(2), "joined");
    }
    let (_, made) = line.queue.enter(of(3), ALL, "one", line.now).unwrap();
    assert_eq!(made, Some("joined"));
    // Nor does it starve before others.
    for _ in 0..3 {
        assert_eq!(line.after(1).pop(), "joined");
        line.enter(led(2), "joined");
    }
    line.after(LONG - 3);
    assert_eq!([line.pop(), line.pop()], ["one", "joined"]);
}

#[test]
fn nobody_starves_who_has_just_come_however_long_answers_take() {
    for takes in [1, 6] {
        let takes = Duration::from_secs(takes);
        let mut line = Line::of(100);
        line.enter(of(1), "stands");
        line.after(100).enter(page(&by(500)), "hot");
        line.after(100).enter(of(2), "new");
        let first = line.queue.first(line.now, |_| Some(takes)).unwrap().0;
        assert_eq!(line.queue.leave(first), Some("hot"));
    }
}

#[test]
fn what_ranks_low_makes_room_for_what_ranks_above() {
    let mut line = Line::of(3);
    let ranked = |priority, ask: Ask| Ask { priority, ..ask };
    line.enter(ranked(Priority::High, of(1)), "high");
    line.enter(ranked(Priority::Low, page(&by(5))), "low, wanted");
    line.enter(ranked(Priority::Low, of(2)), "low");
    let mut enter = |priority, client| {
        let ask = ranked(priority, of(client));
        let entered = line.queue.enter(ask, ALL, "none", line.now);
        entered.map(|(_, made_room)| made_room)
    };
    assert_eq!(enter(Priority::Normal, 3), Ok(Some("low")));
    assert_eq!(enter(Priority::High, 4), Ok(Some("low, wanted")));
    assert_eq!(enter(Priority::Low, 5), Err("none"));
    // The oldest of those that don't rank above it.
    assert_eq!(enter(Priority::Normal, 6), Ok(Some("none")));
    assert_eq!(line.queue.lanes[&None].waiting.len(), 3);
    assert!(
        line.queue.lanes[&None]
            .waiting
            .values()
            .any(|one| one.tell == "high")
    );
}

#[test]
fn c84_who_was_late_when_the_crowd_went_is_not_served_after_it() {
    let mut line = Line::of(1000);
    // The last of them come while others are there.
    for wave in 0..20 {
        for client in 0..50 {
            line.enter(of(client + 50 * (wave % 4)), "one");
        }
        let now = line.after(30).now;
        line.queue.late(now, |_| (TAKES, 0));
    }
    let (late, most) = windows(&mut line, 10, 0, 8);
    assert!(late > 60, "{late}");
    assert!(most <= 150, "{most} ms");
    // What comes later is a crowd of its own.
    assert_eq!(windows(&mut line, 1, 100, 8).0, 0);
    assert_eq!(windows(&mut line, 40, 0, 8).0, 0);
}

#[test]
fn a_turn_is_forgotten() {
    let mut line = Line::of(9);
    line.enter(of(1), "one");
    assert_eq!(line.pop(), "one");
    assert_eq!(line.queue.turns.len(), (1, 1));
    line.after(LONG - 1).enter(of(2), "two");
    assert_eq!(line.queue.turns.len(), (2, 1));
    line.after(1);
    assert_eq!(line.pop(), "two");
    assert_eq!(line.queue.turns.len(), (1, 1));
    line.after(500).enter(of(2), "two");
    line.enter(of(1), "one");
    assert_eq!([line.pop(), line.pop()], ["two", "one"]);
}

#[test]
fn a_greedy_client_makes_room_for_the_others() {
    let mut line = Line::of(4);
    for name in ["first", "second", "third", "fourth"] {
        line.enter(of(1), name);
    }
    let (_, made) = line.queue.enter(of(2), ALL, "other", line.now).unwrap();
    assert_eq!(made, Some("fourth"));
    let (_, made) = line.queue.enter(of(2), ALL, "again", line.now).unwrap();
    assert_eq!(made, Some("third"));
    // Two of each are as fair as it gets.
    assert_eq!(line.queue.enter(of(2), ALL, "more", line.now), Err("more"));
    assert_eq!(line.queue.enter(of(1), ALL, "more", line.now), Err("more"));
    assert_eq!(line.queue.len(), 4);
}

#[test]
fn where_all_have_one_the_oldest_makes_room_for_the_newest() {
    let mut line = Line::of(3);
    line.enter(page(&by(1)), "page");
    line.enter(of(1), "oldest");
    line.enter(of(2), "older");
    let (_, made) = line.queue.enter(of(3), ALL, "newest", line.now).unwrap();
    assert_eq!(made, Some("oldest"));
    assert_eq!(
        line.queue.enter(of(3), ALL, "second", line.now),
        Err("second")
    );
    let another = line.queue.enter(page(&by(1)), ALL, "another", line.now);
    assert_eq!(another.unwrap().1, Some("older"));
}

#[test]
fn a_refresh_makes_room_and_puts_nobody_off() {
    let mut line = Line::of(2);
    line.enter(page(&by(0)), "refresh");
    line.after(5_000).enter(page(&by(1)), "page");
    let (_, made) = line.queue.enter(of(1), ALL, "one", line.now).unwrap();
    assert_eq!(made, Some("refresh"));
    let mut line = Line::of(9);
    line.enter(page(&by(0)), "refresh");
    line.after(5_000).enter(page(&by(1)), "page");
    assert_eq!([line.pop(), line.pop()], ["page", "refresh"]);
}

/// A page that nobody waits for, asked for so often meanwhile.
struct Heat(u32);

impl Wanted for Heat {
    fn by(&self) -> usize {
        0
    }

    fn heat(&self) -> u32 {
        self.0
    }
}

fn refresh(heat: u32) -> Ask {
    Ask {
        wanted: Some(Arc::new(Heat(heat))),
        ..Ask::default()
    }
}

#[test]
fn the_hottest_refresh_is_first_and_the_coldest_makes_room() {
    let mut line = Line::of(4);
    line.enter(refresh(5), "warm");
    line.after(5_000).enter(refresh(100), "hot");
    line.enter(refresh(1), "cold");
    line.enter(page(&by(1)), "page");
    let (_, made) = line
        .queue
        .enter(refresh(7), ALL, "warmer", line.now)
        .unwrap();
    assert_eq!(made, Some("cold"));
    assert_eq!(line.queue.enter(refresh(5), ALL, "no", line.now), Err("no"));
    let order: Vec<_> = (0..4).map(|_| line.pop()).collect();
    assert_eq!(order, ["page", "hot", "warmer", "warm"]);
}

#[test]
fn routes_rank() {
    let mut line = Line::of(9);
    let ranked = |priority, wanted| Ask {
        priority,
        ..page(&by(wanted))
    };
    line.enter(ranked(Priority::Low, 9), "low");
    line.enter(ranked(Priority::Normal, 1), "normal");
    line.enter(ranked(Priority::High, 1), "high");
    let order: Vec<_> = (0..3).map(|_| line.pop()).collect();
    assert_eq!(order, ["high", "normal", "low"]);
}

/// Windows of 50 ms, in each of which so many come, of clients of their own, and so many are served.
fn windows(line: &mut Line, count: usize, come: usize, served: usize) -> (usize, usize) {
    let (mut late, mut most) = (0, 0);
    for _ in 0..count {
        for n in 0..come {
            line.enter(of(n as u8), "new");
        }
        for _ in 0..served {
            let first = line
                .queue
                .first(line.now, |_| Some(TAKES))
                .map(|(ticket, _)| ticket);
            let Some(ticket) = first else { break };
            let since = line.queue.lanes[&None].waiting[&ticket].since;
            most = most.max(line.now.duration_since(since).as_millis() as usize);
            line.queue.serve(ticket, line.now);
        }
        let now = line.after(50).now;
        late += line.queue.late(now, |_| (TAKES, 0)).len();
    }
    (late, most)
}

#[test]
fn c84_who_waits_alone_is_refused_when_it_would_be_late() {
    let mut line = Line::of(1000);
    let (late, _) = windows(&mut line, 3, 30, 8);
    assert_eq!(late, 0, "it may be a burst");
    let (late, most) = windows(&mut line, 20, 30, 8);
    assert!((380..=440).contains(&late), "22 too many each time: {late}");
    assert!(
        most <= 50,
        "those that are served have hardly waited: {most} ms"
    );
    assert!(line.queue.len() <= 90, "{}", line.queue.len());
}

#[test]
fn a_crowd_that_comes_once_is_served_all() {
    let mut line = Line::of(1000);
    assert_eq!(windows(&mut line, 1, 200, 8).0, 0);
    let (late, most) = windows(&mut line, 40, 0, 8);
    assert_eq!((late, line.queue.len()), (0, 0));
    assert!(most >= 1000, "however long it takes");
    // Nor are those who come as fast as they go.
    windows(&mut line, 1, 40, 8);
    assert_eq!(windows(&mut line, 40, 8, 8).0, 0);
}

#[test]
fn nobody_starves_where_as_many_come_as_go() {
    let mut line = Line::of(1000);
    let first = line.enter(of(200), "first");
    windows(&mut line, 1, 9, 8);
    windows(&mut line, 10, 8, 8);
    assert!(!line.queue.lanes[&None].waiting.contains_key(&first));
}

#[test]
fn a_place_that_may_be_free_at_any_moment_has_somebody_to_wait_for_it() {
    let mut line = Line::of(1000);
    line.enter(page(&by(1)), "page");
    for _ in 0..6 {
        line.enter(of(1), "one");
        line.enter(of(2), "two");
        let now = line.after(50).now;
        line.queue.late(now, |_| (TAKES, 3));
    }
    line.after(5_000);
    line.queue.late(line.now, |_| (TAKES, 3));
    assert_eq!((line.queue.lanes[&None].alone, line.queue.len()), (3, 4));
}

#[test]
fn who_leaves_is_forgotten() {
    let mut line = Line::of(9);
    let ticket = line.enter(of(1), "one");
    assert_eq!(line.queue.leave(ticket), Some("one"));
    assert_eq!(line.queue.leave(ticket), None);
    assert!(line.queue.is_empty() && line.queue.lanes[&None].is_forgotten());
}

/// Of route 7, which may have some of the places only.
fn slow(ask: Ask) -> Ask {
    let bulkhead = Some(Bulkhead { route: 7, most: 2 });
    Ask { bulkhead, ..ask }
}

/// While it has all of them.
fn full(route: Option<usize>) -> Option<Duration> {
    route.is_none().then_some(TAKES)
}

#[test]
fn a_full_route_is_passed_over_and_has_its_turn_when_it_has_a_place() {
    let mut line = Line::of(9);
    line.enter(slow(page(&by(100))), "slow");
    line.after(5_000).enter(page(&by(1)), "page");
    line.enter(slow(of(1)), "slow too");
    let first = line.queue.first(line.now, full).map(|(ticket, _)| ticket);
    let served = first.and_then(|ticket| line.queue.serve(ticket, line.now));
    assert_eq!(served, Some("page"));
    assert!(line.queue.first(line.now, full).is_none());
    assert_eq!(line.queue.len_of(Some(7)), 2);
    line.enter(page(&by(1)), "last");
    let order: Vec<_> = (0..3).map(|_| line.pop()).collect();
    assert_eq!(order, ["slow", "slow too", "last"], "one order for all");
}

#[test]
fn a_route_fills_its_share_and_no_more_and_in_it_clients_make_room() {
    let mut line = Line::of(9);
    for name in ["first", "second", "third"] {
        line.queue.enter(slow(of(1)), 3, name, line.now).unwrap();
    }
    // What others have is not its to take.
    line.enter(of(3), "another's");
    line.enter(refresh(0), "another's refresh");
    let refused = line.queue.enter(slow(of(1)), 3, "fourth", line.now);
    assert_eq!(refused, Err("fourth"));
    let (_, made) = line.queue.enter(slow(of(2)), 3, "other", line.now).unwrap();
    assert_eq!(made, Some("third"));
    assert_eq!(line.queue.len(), 5);
    // Where the whole queue is full, whoever has the most makes room, wherever it waits.
    let mut line = Line::of(4);
    for name in ["first", "second", "third"] {
        line.enter(slow(of(1)), name);
    }
    line.enter(of(2), "other");
    let (_, made) = line.queue.enter(of(3), ALL, "new", line.now).unwrap();
    assert_eq!(made, Some("third"));
    // Two of one route and one more would be the most of all: what it has is counted together.
    let refused = line.queue.enter(of(1), ALL, "elsewhere", line.now);
    assert_eq!(refused, Err("elsewhere"));
}

#[test]
fn of_a_full_queue_the_coldest_refresh_and_the_oldest_make_room_wherever_they_wait() {
    let mut line = Line::of(3);
    line.enter(slow(refresh(1)), "cold");
    line.enter(refresh(5), "warm");
    line.enter(slow(of(1)), "oldest");
    let (_, made) = line.queue.enter(of(2), ALL, "two", line.now).unwrap();
    assert_eq!(made, Some("cold"));
    let (_, made) = line.queue.enter(of(3), ALL, "three", line.now).unwrap();
    assert_eq!(made, Some("warm"));
    let (_, made) = line.queue.enter(of(4), ALL, "four", line.now).unwrap();
    assert_eq!(made, Some("oldest"));
}

#[test]
fn pressure_is_each_routes_own() {
    let of_each = |route: Option<usize>| match route {
        None => (TAKES, 4),
        Some(_) => (Duration::from_secs(2), 2),
    };
    let mut line = Line::of(1000);
    // Of the slow one more come than go, and some stand there at all times.
    let mut told = 0;
    for _ in 0..40 {
        for client in 0..8 {
            line.enter(slow(of(client)), "slow");
        }
        let now = line.after(500).now;
        told += line.queue.late(now, of_each).len();
    }
    assert!(told > 0 && line.queue.len_of(Some(7)) > 2, "{told} told");
    // A crowd of the others that comes once is no pressure, and served in order.
    for client in 0..40 {
        line.enter(of(client), "crowd");
    }
    line.after(40).enter(of(50), "last");
    let first = line.queue.first(line.now, full).map(|(ticket, _)| ticket);
    let served = first.and_then(|ticket| line.queue.serve(ticket, line.now));
    assert_eq!(served, Some("crowd"));
    let now = line.after(20).now;
    let late = line.queue.late(now, of_each);
    assert!(!late.contains(&"crowd"), "{late:?}");
    assert_eq!(line.queue.len_of(None), 40);
}

#[test]
fn a_turn_is_had_in_the_whole_queue() {
    let mut line = Line::of(9);
    // More than its part.
    for _ in 0..5 {
        line.enter(slow(of(1)), "slow");
        assert_eq!(line.pop(), "slow");
    }
    line.enter(of(1), "again");
    line.after(10).enter(of(2), "other");
    assert_eq!([line.pop(), line.pop()], ["other", "again"]);
}
