mod bulkheads;
mod overload;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::super::bulkhead::Bulkhead;
use super::super::queue::{Ask, Wanted};
use super::super::standing::tests::RULES;
use super::*;

const LONG: Duration = Duration::from_secs(600);

fn budget(servers: usize, per_server: usize, queue: usize, streams: usize) -> Arc<Budget> {
    let role = Role {
        most: Some(per_server),
        ..Role::default()
    };
    let terms = terms(queue, streams, Balance::LeastInFlight);
    Budget::new(vec![role; servers], terms)
}

fn terms(queue: usize, max_streams: usize, balance: Balance) -> Terms {
    Terms {
        queue,
        max_streams,
        balance,
        rules: RULES,
    }
}

/// Servers of these ids that may have so many requests each.
fn joining(ids: &[usize], most: usize) -> Vec<(usize, Role)> {
    let role = Role {
        most: Some(most),
        ..Role::default()
    };
    ids.iter().map(|id| (*id, role.clone())).collect()
}

struct One;

impl Wanted for One {
    fn by(&self) -> usize {
        1
    }
}

/// What is never too late.
fn shared() -> Ask {
    Ask {
        wanted: Some(Arc::new(One)),
        ..Ask::default()
    }
}

/// Of a route that may have so many.
fn of_route(route: usize, most: usize) -> Ask {
    Ask {
        bulkhead: Some(Bulkhead { route, most }),
        ..shared()
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Slot, Refused>>>>;

fn ask(budget: &Arc<Budget>) -> Waiting {
    ask_for(budget, shared())
}

fn ask_for(budget: &Arc<Budget>, ask: Ask) -> Waiting {
    let budget = budget.clone();
    Box::pin(async move { budget.slot(LONG, ask).await })
}

fn poll(waiting: &mut Waiting) -> Poll<Result<Slot, Refused>> {
    waiting
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

#[derive(Debug, Clone)]
enum Step {
    /// With or without a bulkhead.
    Ask(Option<Bulkhead>),
    Poll(usize),
    Cancel(usize),
    Release(usize),
    Fail(usize),
    Reach(usize),
    Join,
    Leave(usize),
    Return(usize),
}

/// Routes 1 and 2 have one, which lets in as many.
fn bulkhead(route: usize) -> Option<Bulkhead> {
    let most = route;
    (1..=2).contains(&route).then_some(Bulkhead { route, most })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize).prop_map(|route| Step::Ask(bulkhead(route))),
        3 => any::<usize>().prop_map(Step::Poll),
        2 => any::<usize>().prop_map(Step::Cancel),
        3 => any::<usize>().prop_map(Step::Release),
        1 => (0..3usize).prop_map(Step::Fail),
        1 => (0..3usize).prop_map(Step::Reach),
        1 => Just(Step::Join),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => any::<usize>().prop_map(Step::Return),
    ]
}

proptest! {
    /// Whatever is asked, polled, cancelled, released, whoever joins, leaves and returns, in whatever order: never more
    /// in flight than the budget (a slot handed over but not looked at counts), but for what servers that have gone
    /// still have; never more waiting than the queue, nothing lost at the end.
    #[test]
    fn in_flight_requests_never_exceed_the_budget(
        servers in 1..4usize,
        per_server in 1..4usize,
        queue in 0..6usize,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let budget = budget(servers, per_server, queue, 1);
        let (mut waiting, mut held): (Vec<Waiting>, Vec<Slot>) = (vec![], vec![]);
        let (mut here, mut gone): (Vec<usize>, Vec<usize>) = ((0..servers).collect(), vec![]);
        for step in steps {
            match step {
                Step::Ask(bulkhead) => {
                    let mut new = ask_for(&budget, Ask { bulkhead, ..shared() });
                    match poll(&mut new) {
                        Poll::Ready(Ok(slot)) => held.push(slot),
                        Poll::Ready(Err(why)) => prop_assert_eq!(why, Refused::QueueFull),
                        Poll::Pending => waiting.push(new),
                    }
                }
                Step::Poll(at) if !waiting.is_empty() => {
                    let at = at % waiting.len();
                    if let Poll::Ready(done) = poll(&mut waiting[at]) {
                        drop(waiting.remove(at));
                        held.push(done.map_err(|why| TestCaseError::fail(format!("{why:?}")))?);
                    }
                }
                Step::Cancel(at) if !waiting.is_empty() => drop(waiting.remove(at % waiting.len())),
                Step::Release(at) if !held.is_empty() => drop(held.remove(at % held.len())),
                Step::Fail(server) => budget.unreachable(server),
                Step::Reach(server) => budget.reached(server),
                Step::Join => {
                    here.push(here.len() + gone.len());
                    budget.join(&joining(&here[here.len() - 1..], per_server), true);
                }
                Step::Leave(at) if here.len() > 1 => {
                    gone.push(here.remove(at % here.len()));
                    budget.leave(&gone[gone.len() - 1..]);
                }
                Step::Return(at) if !gone.is_empty() => {
                    here.push(gone.remove(at % gone.len()));
                    budget.join(&joining(&here[here.len() - 1..], per_server), true);
                }
                _ => {}
            }
            let in_flight = budget.in_flight();
            let of = |servers: &[usize]| -> usize {
                servers.iter().map(|id| budget.in_flight_at(*id)).sum()
            };
            prop_assert!(of(&here) <= here.len() * per_server);
            // Those who rest are not in use, unless all do.
            let rest = budget.state.lock().servers.iter().filter(|one| one.rests(clock::timer())).count();
            let in_use = if rest < here.len() { here.len() - rest } else { rest };
            prop_assert_eq!(budget.total(), in_use * per_server);
            prop_assert_eq!(of(&here) + of(&gone), in_flight);
            prop_assert!(budget.queued() <= queue);
            // Those who hold, and those who were handed one and have not looked.
            prop_assert_eq!(in_flight, held.len() + waiting.len() - budget.queued());
            for load in &budget.state.lock().servers {
                prop_assert!(load.in_flight <= per_server);
            }
            for bulkhead in [1, 2].map(bulkhead).into_iter().flatten() {
                prop_assert!(budget.of_route(bulkhead.route).0 <= bulkhead.most);
            }
            // Nobody waits for nothing.
            prop_assert!(budget.queued() == 0 || in_flight > 0);
        }
        // Everybody who waits is served in the end.
        while !waiting.is_empty() {
            let mut still = vec![];
            for mut next in waiting {
                match poll(&mut next) {
                    Poll::Ready(slot) => held.push(slot.map_err(|why| TestCaseError::fail(format!("{why:?}")))?),
                    Poll::Pending => still.push(next),
                }
            }
            waiting = still;
            prop_assert!(waiting.is_empty() || !held.is_empty(), "a permit was lost");
            drop(held.pop());
        }
        drop(held);
        prop_assert_eq!([1, 2].map(|route| budget.of_route(route)), [(0, 0); 2]);
        prop_assert_eq!(budget.in_flight(), 0);
        prop_assert_eq!(budget.queued(), 0);
    }
}

#[tokio::test]
async fn the_queue_is_first_come_first_served() {
    let budget = budget(1, 1, 8, 1);
    let first = budget.slot(LONG, shared()).await.unwrap();
    let mut waiting: Vec<_> = (0..3).map(|_| ask(&budget)).collect();
    for one in &mut waiting {
        assert!(poll(one).is_pending());
    }
    drop(first);
    assert!(poll(&mut waiting[1]).is_pending());
    assert!(poll(&mut waiting[2]).is_pending());
    assert!(matches!(poll(&mut waiting[0]), Poll::Ready(Ok(_))));
}

#[tokio::test]
async fn a_permit_handed_to_a_waiter_that_left_goes_on() {
    let budget = budget(1, 1, 8, 1);
    let first = budget.slot(LONG, shared()).await.unwrap();
    let (mut leaves, mut stays) = (ask(&budget), ask(&budget));
    assert!(poll(&mut leaves).is_pending());
    assert!(poll(&mut stays).is_pending());
    drop(first);
    drop(leaves);
    assert!(matches!(poll(&mut stays), Poll::Ready(Ok(_))));
    assert_eq!(budget.queued(), 0);
}

#[tokio::test]
async fn a_panic_gives_the_permit_back() {
    let budget = budget(1, 1, 8, 1);
    let slot = budget.slot(LONG, shared()).await.unwrap();
    let died = tokio::spawn(async move {
        let _held = slot;
        panic!("on purpose");
    });
    assert!(died.await.is_err());
    assert_eq!(budget.in_flight(), 0);
}

#[tokio::test]
async fn patience_ends_and_the_queue_is_bounded() {
    let budget = budget(1, 1, 1, 1);
    let held = budget.slot(LONG, shared()).await.unwrap();
    assert_eq!(
        budget.slot(Duration::ZERO, shared()).await.err(),
        Some(Refused::Waited)
    );
    let mut waits = ask(&budget);
    assert!(poll(&mut waits).is_pending());
    assert_eq!(
        budget.slot(LONG, shared()).await.err(),
        Some(Refused::QueueFull)
    );
    drop(waits);
    let waited = budget.slot(Duration::from_millis(20), shared()).await;
    assert_eq!(waited.err(), Some(Refused::Waited));
    assert_eq!(budget.queued(), 0);
    drop(held);
    assert!(budget.slot(Duration::ZERO, shared()).await.is_ok());
}

#[tokio::test]
async fn streams_are_beside_the_budget_and_bounded() {
    let budget = budget(1, 1, 0, 1);
    let stream = budget
        .slot(LONG, shared())
        .await
        .unwrap()
        .into_stream()
        .unwrap();
    assert_eq!((budget.in_flight(), budget.streams()), (0, 1));
    let second = budget.slot(LONG, shared()).await.unwrap();
    assert_eq!(second.into_stream().err(), Some(Refused::Streams));
    assert_eq!((budget.in_flight(), budget.streams()), (0, 1));
    drop(stream);
    assert_eq!(budget.streams(), 0);
}

#[tokio::test]
async fn the_least_busy_server_is_taken_and_a_dead_one_left_alone() {
    let budget = budget(2, 2, 8, 1);
    let one = budget.slot(LONG, shared()).await.unwrap();
    let two = budget.slot(LONG, shared()).await.unwrap();
    assert_ne!(one.server(), two.server());
    let dead = one.server();
    budget.unreachable(dead);
    drop(one);
    let three = budget.slot(LONG, shared()).await.unwrap();
    assert_ne!(three.server(), dead);
    // The living one is full, the dead one rests: wait.
    let mut waits = ask(&budget);
    assert!(poll(&mut waits).is_pending());
    budget.reached(dead);
    assert!(matches!(poll(&mut waits), Poll::Ready(Ok(slot)) if slot.server() == dead));
}

#[tokio::test]
async fn who_leaves_gets_nothing_more_and_is_counted_to_the_end() {
    let budget = budget(2, 2, 8, 1);
    let one = budget.slot(LONG, shared()).await.unwrap();
    let leaves = one.server();
    budget.leave(&[leaves]);
    let held = [
        budget.slot(LONG, shared()).await.unwrap(),
        budget.slot(LONG, shared()).await.unwrap(),
    ];
    assert!(held.iter().all(|slot| slot.server() != leaves));
    let mut waits = ask(&budget);
    assert!(poll(&mut waits).is_pending());
    assert_eq!((budget.in_flight(), budget.total()), (3, 2));
    assert_eq!(budget.failed(leaves), None);
    // It returns with what it has, and has room for one more.
    budget.join(&joining(&[leaves], 2), true);
    assert_eq!((budget.in_flight_at(leaves), budget.total()), (2, 4));
    let mut more = ask(&budget);
    assert!(poll(&mut more).is_pending());
    drop(one);
    for mut waiter in [waits, more] {
        let Poll::Ready(Ok(slot)) = poll(&mut waiter) else {
            panic!("it has room");
        };
        assert_eq!(slot.server(), leaves);
    }
    assert_eq!(budget.in_flight_at(leaves), 0);
    assert_eq!(budget.in_flight(), held.len());
}

#[tokio::test(start_paused = true)]
async fn who_returns_may_have_what_was_learned_and_begins_in_full() {
    let auto = Role {
        most: None,
        ..Role::default()
    };
    let budget = Budget::new([auto.clone()], terms(8, 1, Balance::LeastInFlight));
    // Ends its requests while it is away, too: they fail.
    let mut held = Vec::new();
    for _ in 0..12 {
        let slot = budget.slot(LONG, shared()).await.unwrap();
        slot.fate().failed();
        held.push(slot);
    }
    budget.leave(&[0]);
    drop(held);
    assert_eq!(budget.in_flight(), 0);
    budget.join(&[(1, auto.clone())], true);
    let others = budget.total();
    budget.join(&[(0, auto)], true);
    let learned = budget.total() - others;
    assert!(learned < others, "{learned} of {others}");
    let state = budget.state.lock();
    let share = state.servers[0].share(&RULES, clock::timer());
    assert!((share - 1.0).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn servers_that_are_out_and_backups_that_stand_by_work_nothing_off() {
    let role = |most, backup| Role {
        most: Some(most),
        backup,
        ..Role::default()
    };
    let of_each = [1, 1, 1].map(|most| role(most, false));
    let budget = Budget::new(
        of_each.into_iter().chain([role(2, true)]),
        terms(8, 1, Balance::LeastInFlight),
    );
    let mut waiting: Vec<_> = (0..9).map(|_| ask(&budget)).collect();
    let _held: Vec<_> = waiting.iter_mut().map(poll).collect();
    budget.answered(0, None, Duration::from_secs(1));
    assert_eq!((budget.total(), budget.queued()), (3, 6));
    assert_eq!(budget.backlog(None), Duration::from_secs(2));
    budget.set_well(0, false);
    let mut ejected = (0..RULES.eject_after).map(|_| budget.failed(1));
    assert!(ejected.any(|time| time.is_some()));
    assert_eq!(budget.total(), 1);
    assert_eq!(budget.backlog(None), Duration::from_secs(6));
    // Where the last is out, the backup does what is to be done.
    budget.unreachable(2);
    assert_eq!(budget.total(), 2);
}

#[tokio::test]
async fn without_a_server_nobody_waits() {
    let budget = budget(0, 2, 8, 1);
    let told = budget.slot(LONG, shared()).await;
    assert_eq!(told.err(), Some(Refused::NoServer));
    budget.join(&joining(&[0, 1], 2), true);
    let slots = [
        budget.slot(LONG, shared()).await.unwrap(),
        budget.slot(LONG, shared()).await.unwrap(),
        budget.slot(LONG, shared()).await.unwrap(),
        budget.slot(LONG, shared()).await.unwrap(),
    ];
    assert_eq!(budget.in_flight(), slots.len());
}

#[tokio::test]
async fn who_joins_begins_small() {
    let budget = budget(1, 20, 8, 1);
    let first = budget.slot(LONG, shared()).await.unwrap();
    budget.join(&joining(&[1], 20), true);
    let mut held = vec![first];
    while let Ok(slot) = budget.slot(Duration::ZERO, shared()).await {
        held.push(slot);
    }
    let had = held.iter().filter(|slot| slot.server() == 1).count();
    assert_eq!(had, 2, "a tenth of twenty");
}

#[tokio::test]
async fn nobody_overtakes_when_a_rest_ends() {
    let budget = budget(2, 1, 8, 1);
    let one = budget.slot(LONG, shared()).await.unwrap();
    let _two = budget.slot(LONG, shared()).await.unwrap();
    let dead = one.server();
    budget.unreachable(dead);
    drop(one);
    let mut first = ask(&budget);
    assert!(poll(&mut first).is_pending());
    let a_second_ago = clock::timer() - Duration::from_secs(1);
    budget.state.lock().servers[dead].unreachable(a_second_ago);
    let mut second = ask(&budget);
    assert!(poll(&mut second).is_pending());
    let tries = poll(&mut first);
    assert!(matches!(&tries, Poll::Ready(Ok(slot)) if slot.server() == dead));
    // It rests on while the one tries it.
    drop(tries);
    assert!(poll(&mut second).is_pending());
}

#[tokio::test]
async fn c76_an_ill_server_gets_nothing_unless_all_are() {
    let budget = budget(2, 2, 8, 1);
    budget.set_well(0, false);
    let held: Vec<_> = [
        budget.slot(LONG, shared()).await,
        budget.slot(LONG, shared()).await,
    ]
    .into();
    assert!(held.iter().all(|slot| slot.as_ref().unwrap().server() == 1));
    // The other is full. Once it is well again, who waits is served.
    let mut waits = ask(&budget);
    assert!(poll(&mut waits).is_pending());
    budget.set_well(0, true);
    let one = poll(&mut waits);
    assert!(matches!(&one, Poll::Ready(Ok(slot)) if slot.server() == 0));
    budget.set_well(0, false);
    let mut waits = ask(&budget);
    assert!(poll(&mut waits).is_pending());
    budget.set_well(1, false);
    assert!(matches!(poll(&mut waits), Poll::Ready(Ok(slot)) if slot.server() == 0));
}

#[tokio::test]
async fn the_only_well_server_does_not_rest() {
    let budget = budget(2, 2, 8, 1);
    budget.set_well(0, false);
    budget.unreachable(1);
    assert_eq!(budget.slot(LONG, shared()).await.unwrap().server(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_when_an_ejection_ends_though_nothing_else_happens() {
    let budget = budget(2, 1, 8, 1);
    let held = budget.slot(LONG, shared()).await.unwrap();
    let other = 1 - held.server();
    for _ in 0..RULES.eject_after {
        budget.failed(other);
    }
    assert!(budget.is_ejected(other));
    let slot = budget.slot(LONG, shared()).await.unwrap();
    assert_eq!(slot.server(), other);
}

#[tokio::test]
async fn who_has_failed_waits_for_nobody_and_never_comes_back() {
    let budget = budget(2, 1, 8, 1);
    let again = |failed| Ask {
        avoid: Some(failed),
        ..shared()
    };
    let first = budget.slot(LONG, shared()).await.unwrap();
    let failed = first.server();
    drop(first);
    assert!(budget.has_another(failed, None));
    let other = budget.slot(LONG, again(failed)).await.unwrap();
    assert_ne!(other.server(), failed);
    // The other has filled up meanwhile.
    assert!(!budget.has_another(failed, None));
    let refused = budget.slot(LONG, again(failed)).await.err();
    assert_eq!(refused, Some(Refused::NowhereElse));
    assert_eq!((budget.in_flight(), budget.queued()), (1, 0));
}

#[tokio::test]
async fn where_backups_stand_ready_every_other_may_be_ejected() {
    let role = |backup| Role {
        backup,
        ..Role::default()
    };
    let budget = Budget::new(
        [role(false), role(false), role(true)],
        terms(8, 1, Balance::RoundRobin),
    );
    let fails = |server| {
        let mut all = (0..RULES.eject_after).map(|_| budget.failed(server));
        all.any(|ejected| ejected.is_some())
    };
    assert!(fails(0) && fails(1));
    assert_eq!(budget.slot(LONG, shared()).await.unwrap().server(), 2);
    assert!(!fails(2), "the last of all is not");
}

#[tokio::test]
async fn who_fails_more_often_than_the_others_is_ejected() {
    let asked = |budget: &Budget, server, n| match n % 3 {
        0 => budget.failed(server).is_some(),
        _ => {
            budget.ended(server);
            false
        }
    };
    let budget = budget(3, 2, 8, 1);
    let mut when = None;
    for n in 1..=60 {
        budget.ended(0);
        budget.ended(1);
        if asked(&budget, 2, n) {
            when.get_or_insert(n);
        }
    }
    assert_eq!(when, Some(21), "the first failure after twenty requests");
    // Among those who are as bad, and alone, nobody is.
    for servers in [1, 3] {
        let budget = self::budget(servers, 2, 8, 1);
        let ejects = |n| (0..servers).any(|server| asked(&budget, server, n));
        assert!(!(1..=60).any(ejects), "of {servers}");
    }
}

#[test]
fn many_threads_many_cancellations_no_permit_lost() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    let budget = budget(2, 2, 64, 1);
    let most = Arc::new(AtomicUsize::new(0));
    let running = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let tasks: Vec<_> = (0..64u64)
            .map(|seed| {
                let (budget, most, running) = (budget.clone(), most.clone(), running.clone());
                tokio::spawn(async move {
                    for round in 0..200u64 {
                        let patience = Duration::from_micros((seed * 31 + round * 17) % 400);
                        if let Ok(slot) = budget.slot(patience, shared()).await {
                            most.fetch_max(
                                running.fetch_add(1, Ordering::SeqCst) + 1,
                                Ordering::SeqCst,
                            );
                            tokio::task::yield_now().await;
                            running.fetch_sub(1, Ordering::SeqCst);
                            drop(slot);
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert!((1..=4).contains(&most.load(Ordering::SeqCst)));
    assert_eq!((budget.in_flight(), budget.queued()), (0, 0));
}
