//! Routes that may have some of the places only.

use super::*;

/// A route's that may have two.
fn slow() -> Ask {
    of_route(1, 2)
}

/// The route's two, both had.
async fn both(budget: &Arc<Budget>) -> [Slot; 2] {
    let [one, two] = [(); 2].map(|()| budget.slot(LONG, slow()));
    [one.await.unwrap(), two.await.unwrap()]
}

#[tokio::test]
async fn a_full_route_waits_and_holds_up_nobody() {
    let budget = budget(2, 2, 8, 1);
    let [one, _two] = both(&budget).await;
    let mut waits = ask_for(&budget, slow());
    assert!(poll(&mut waits).is_pending());
    // Neither those without a number, nor those of a route with another.
    let common = budget.slot(Duration::ZERO, shared()).await.unwrap();
    let other = budget.slot(Duration::ZERO, of_route(2, 1)).await.unwrap();
    assert_eq!((budget.in_flight(), budget.queued()), (4, 1));
    // Now all is full, and whoever comes waits; a place goes to whoever may have it.
    let mut next = ask(&budget);
    assert!(poll(&mut next).is_pending());
    drop(common);
    assert!(poll(&mut waits).is_pending());
    let Poll::Ready(Ok(next)) = poll(&mut next) else {
        panic!("it waits behind those who may not have it");
    };
    // One of its own ends: it is next.
    drop(one);
    assert!(matches!(poll(&mut waits), Poll::Ready(Ok(_))));
    drop((next, other));
}

#[tokio::test]
async fn nobody_overtakes_those_of_its_own_route() {
    let budget = budget(1, 3, 8, 1);
    let [one, _two] = both(&budget).await;
    let _common = budget.slot(LONG, shared()).await.unwrap();
    let (mut first, mut second) = (ask_for(&budget, slow()), ask_for(&budget, slow()));
    assert!(poll(&mut first).is_pending());
    assert!(poll(&mut second).is_pending());
    drop(one);
    assert!(poll(&mut second).is_pending());
    assert!(matches!(poll(&mut first), Poll::Ready(Ok(_))));
}

#[tokio::test]
async fn a_route_has_as_much_of_the_queue_as_of_the_places() {
    let budget = budget(1, 8, 16, 1);
    let _held = both(&budget).await;
    let mut waiting: Vec<_> = (0..4).map(|_| ask_for(&budget, slow())).collect();
    assert!(waiting.iter_mut().all(|one| poll(one).is_pending()));
    let mut refused = ask_for(&budget, slow());
    assert!(matches!(
        poll(&mut refused),
        Poll::Ready(Err(Refused::QueueFull))
    ));
    assert_eq!(budget.of_route(1), (2, 4));
    // The others have the rest of both.
    let mut others: Vec<_> = (0..6 + 12).map(|_| ask(&budget)).collect();
    let at_once = |one: &mut Waiting| match poll(one) {
        Poll::Ready(slot) => Some(slot.unwrap()),
        Poll::Pending => None,
    };
    let held: Vec<Slot> = others.iter_mut().filter_map(at_once).collect();
    assert_eq!((held.len(), budget.queued()), (6, 16));
    let mut refused = ask(&budget);
    assert!(matches!(
        poll(&mut refused),
        Poll::Ready(Err(Refused::QueueFull))
    ));
}

#[tokio::test]
async fn a_retry_holds_to_it_too() {
    let budget = budget(3, 2, 8, 1);
    let [failed, _other] = both(&budget).await;
    let avoid = failed.server();
    let again = Ask {
        avoid: Some(avoid),
        ..slow()
    };
    assert!(!budget.has_another(avoid, Some(1)) && budget.has_another(avoid, None));
    let refused = budget.slot(LONG, again.clone()).await.err();
    assert_eq!(refused, Some(Refused::NowhereElse));
    drop(failed);
    assert!(budget.has_another(avoid, Some(1)));
    assert_ne!(budget.slot(LONG, again).await.unwrap().server(), avoid);
}

#[tokio::test]
async fn a_stream_gives_its_place_back() {
    let budget = budget(1, 4, 8, 1);
    let [one, _two] = both(&budget).await;
    let mut waits = ask_for(&budget, slow());
    assert!(poll(&mut waits).is_pending());
    let stream = one.into_stream().unwrap();
    assert!(matches!(poll(&mut waits), Poll::Ready(Ok(_))));
    drop(stream);
}

#[tokio::test]
async fn each_route_has_a_backlog_of_its_own() {
    let seconds = Duration::from_secs;
    let budget = budget(1, 8, 16, 1);
    let _held = both(&budget).await;
    let mut waiting: Vec<_> = (0..4).map(|_| ask_for(&budget, slow())).collect();
    assert!(waiting.iter_mut().all(|one| poll(one).is_pending()));
    budget.answered(0, Some(1), seconds(2));
    budget.answered(0, None, Duration::from_millis(50));
    assert_eq!(budget.backlog(Some(1)), seconds(4), "two rounds");
    assert_eq!(budget.backlog(None), seconds(0));
    // What waits for any place is before it as well.
    let common: Vec<_> = (0..6).map(|_| budget.slot(LONG, shared())).collect();
    let mut held = vec![];
    for one in common {
        held.push(one.await.unwrap());
    }
    waiting.extend((0..8).map(|_| ask(&budget)));
    assert!(waiting.iter_mut().all(|one| poll(one).is_pending()));
    assert_eq!(budget.backlog(None), Duration::from_millis(50));
    assert_eq!(budget.backlog(Some(2)), Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn who_is_late_its_own_routes_answers_say() {
    let budget = budget(1, 8, 1024, 1);
    let _held = both(&budget).await;
    budget.answered(0, Some(1), Duration::from_secs(2));
    budget.answered(0, None, Duration::from_millis(50));
    let alone = || Ask {
        wanted: None,
        ..slow()
    };
    let mut waiting = vec![];
    let mut come = async |times: usize, every: u64| {
        for _ in 0..times {
            waiting.push(ask_for(&budget, alone()));
            waiting.retain_mut(|one| poll(one).is_pending());
            tokio::time::sleep(Duration::from_millis(every)).await;
        }
        waiting.len()
    };
    // For the others' answers this would be far too late.
    assert_eq!(come(60, 25).await, 60);
    let left = come(30, 500).await;
    assert!(left < 60, "more come than go for long: {left} wait on");
}

#[tokio::test]
async fn a_route_has_as_many_places_as_its_number_and_its_servers_say() {
    let budget = budget(2, 2, 8, 1);
    let [one, other] = [slow(), of_route(2, 100)].map(|ask| budget.slot(LONG, ask));
    let _both = (one.await.unwrap(), other.await.unwrap());
    assert_eq!(budget.places(Some(1)), 2);
    assert_eq!(budget.places(Some(2)), 4);
    assert_eq!(budget.places(None), 4);
}
