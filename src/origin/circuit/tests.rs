use super::*;
use crate::origin::balance::Balance;
use crate::origin::budget::{Budget, Slot, Terms};
use crate::origin::queue::Ask;
use crate::origin::standing::Role;
use crate::origin::standing::tests::RULES;

const LONG: Duration = Duration::from_secs(600);

/// An upstream with one place.
struct Bench {
    circuit: Arc<Circuit>,
    budget: Arc<Budget>,
}

impl Bench {
    fn new() -> Bench {
        let rules = Rules {
            after: 3,
            share: 80,
        };
        let role = Role {
            most: Some(1),
            ..Role::default()
        };
        let terms = Terms {
            queue: 8,
            max_streams: 1,
            balance: Balance::default(),
            rules: RULES,
        };
        Bench {
            circuit: Circuit::new("app", rules),
            budget: Budget::new([role], terms),
        }
    }

    async fn ask(&self) -> Result<(Slot, Pass), Refused> {
        let pass = self.circuit.enter()?;
        let slot = self.budget.slot(LONG, Ask::default());
        let slot = self.circuit.unless_opened(&pass, slot).await?;
        Ok((slot, pass))
    }

    fn open(&self) {
        (0..3).for_each(|_| self.circuit.failed(None, false, false));
        assert_eq!(self.circuit.state(), State::Open);
    }
}

#[tokio::test]
async fn who_waits_is_told_at_once_when_it_opens() {
    let bench = Bench::new();
    let held = bench.ask().await.unwrap();
    let mut waits = pin!(bench.ask());
    let first = poll_fn(|context| Poll::Ready(waits.as_mut().poll(context))).await;
    assert!(first.is_pending());
    bench.open();
    assert_eq!(waits.await.err(), Some(Refused::Down));
    // Who comes later does not wait, nor is sent where there is room.
    drop(held);
    assert_eq!(bench.ask().await.err(), Some(Refused::Down));
    assert_eq!((bench.budget.queued(), bench.budget.in_flight()), (0, 0));
}

#[tokio::test]
async fn a_place_that_comes_after_the_opening_is_not_used() {
    let bench = Bench::new();
    let pass = bench.circuit.enter().unwrap();
    bench.open();
    let slot = bench.budget.slot(LONG, Ask::default());
    let slot = bench.circuit.unless_opened(&pass, slot).await;
    assert_eq!(slot.err(), Some(Refused::Down));
    assert_eq!(bench.budget.in_flight(), 0);
}

#[tokio::test]
async fn one_trial_goes_and_its_answer_lets_all_through() {
    let bench = Bench::new();
    bench.open();
    assert_eq!(bench.circuit.open_since(clock::moment()), None);
    bench.circuit.hope();
    let see = bench.circuit.open_since(clock::moment());
    assert_eq!(see, Some(Moment(u64::MAX)), "somebody is to see");
    let (slot, pass) = bench.ask().await.unwrap();
    assert_eq!(bench.ask().await.err(), Some(Refused::Down));
    assert!(bench.circuit.answered(pass.trial.as_deref()).is_some());
    drop((slot, pass));
    assert!(bench.circuit.is_closed() && bench.ask().await.is_ok());
    let now = clock::moment();
    assert!(bench.circuit.open_since(now).is_some_and(|at| at <= now));
}

/// The next trial, once the one before has failed.
fn trial(circuit: &Arc<Circuit>) -> Arc<Trying> {
    circuit.hope();
    let trial = circuit.enter().ok().and_then(|pass| pass.trial).unwrap();
    circuit.failed(Some(&trial), false, false);
    trial
}

#[test]
fn one_trial_at_a_time_has_time_and_no_other() {
    let bench = Bench::new();
    bench.open();
    let patient = trial(&bench.circuit);
    for _ in 0..3 {
        assert_eq!(patient.hurry(8), None);
        assert_eq!(trial(&bench.circuit).hurry(8), Some(HURRY));
    }
    drop(patient);
    assert_eq!(trial(&bench.circuit).hurry(8), None);
}

#[test]
fn at_one_place_now_and_then_a_trial_has_time() {
    let bench = Bench::new();
    bench.open();
    for _ in 0..2 {
        for _ in 0..IN_A_ROW {
            assert_eq!(trial(&bench.circuit).hurry(1), Some(HURRY));
        }
        assert_eq!(trial(&bench.circuit).hurry(1), None);
    }
}

#[tokio::test]
async fn a_trial_whose_client_has_gone_lets_the_next_one_go() {
    let bench = Bench::new();
    bench.open();
    bench.circuit.hope();
    drop(bench.ask().await.unwrap());
    let next = bench.ask().await;
    assert!(next.is_ok_and(|(_, pass)| pass.trial.is_some()));
}
