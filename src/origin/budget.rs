//! How much may be in flight to the servers of one upstream, and the queue for it.
//!
//! A [`Slot`] is one request at one server. It is a value: dropping it, however its holder ends, gives it back, and
//! whoever is next in the [`queue`](super::queue) gets it.
//! Which server it is at, [`balance`](super::balance) says, by what is known of each ([`standing`](super::standing)).
//!
//! Servers come and go. Outside, one is called by an id that no other ever has; a slot of one that has gone stays valid.

use crate::clock;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::balance::{Balance, Choice, Pool, Steer};
use super::queue::{Ask, Queue, Ticket};
use super::room::Fate;
use super::standing::{Role, Rules, Standing};
use crate::rules::concurrency::Begun;
use crate::telemetry::ids;

/// How often those who wait are looked after.
const TENDS: Duration = Duration::from_millis(25);

/// Why there was no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As many wait as may.
    QueueFull,
    /// So many wait that an answer would come too late.
    Late,
    /// The wait was longer than the caller's patience or the upstream's `queue_wait`.
    Waited,
    /// As many long-lived streams are open as may be.
    Streams,
    /// There is no server to be asked, yet.
    NoServer,
    /// The upstream as a whole is down.
    Down,
    /// No other server than the one that failed has a place at once.
    NowhereElse,
}

pub(super) struct Budget {
    terms: Terms,
    /// When the clock that rooms go by began.
    born: Instant,
    state: Mutex<State>,
}

/// What holds for an upstream as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Requests that wait.
    pub queue: usize,
    pub max_streams: usize,
    pub balance: Balance,
    pub rules: Rules,
}

struct State {
    /// The servers' ids, rising, in step with `servers`.
    ids: Vec<usize>,
    servers: Vec<Standing>,
    /// By id, what is in flight to those that have gone.
    gone: BTreeMap<usize, usize>,
    /// Nobody has been served: whoever joins now was there from the start.
    is_new: bool,
    /// Only those who still wait: a waiter that leaves takes its entry along.
    waiting: Queue<Serve>,
    /// How long an answer takes, of late.
    takes: Duration,
    /// Somebody looks after those who wait.
    is_tended: bool,
    streams: usize,
}

type Serve = oneshot::Sender<Result<Slot, Refused>>;

impl Budget {
    /// The servers are called 0, 1, and so on.
    pub(super) fn new(roles: impl IntoIterator<Item = Role>, terms: Terms) -> Arc<Self> {
        let servers: Vec<_> = roles.into_iter().map(Standing::of).collect();
        Arc::new(Self {
            terms,
            born: clock::timer(),
            state: Mutex::new(State {
                ids: (0..servers.len()).collect(),
                servers,
                gone: BTreeMap::new(),
                is_new: true,
                waiting: Queue::new(terms.queue),
                takes: Duration::ZERO,
                is_tended: false,
                streams: 0,
            }),
        })
    }

    pub(super) fn total(&self) -> usize {
        self.state.lock().total()
    }

    /// How many servers may have requests.
    pub(super) fn servers(&self) -> usize {
        self.state.lock().servers.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        let state = self.state.lock();
        let here: usize = state.servers.iter().map(|load| load.in_flight).sum();
        here + state.gone.values().sum::<usize>()
    }

    pub(super) fn queued(&self) -> usize {
        self.state.lock().waiting.len()
    }

    pub(super) fn streams(&self) -> usize {
        self.state.lock().streams
    }

    /// A slot, at once or after `patience` at most. Cancelling the future loses nothing.
    pub(super) async fn slot(
        self: &Arc<Self>,
        patience: Duration,
        ask: Ask,
    ) -> Result<Slot, Refused> {
        let mut waiter = match self.enter(patience, ask)? {
            Entered::Served(slot) => return Ok(slot),
            Entered::Waits(waiter) => waiter,
        };
        match timeout(patience, &mut waiter.served).await {
            Ok(Ok(served)) => served,
            // The sender goes only with its word in it or when the waiter itself leaves.
            Ok(Err(_)) | Err(_) => Err(Refused::Waited),
        }
    }

    fn enter(self: &Arc<Self>, patience: Duration, ask: Ask) -> Result<Entered, Refused> {
        let mut state = self.state.lock();
        // A name may have no address for long; who waits for that had better be told.
        if !state.servers.iter().any(|one| one.role.weight > 0) {
            return Err(Refused::NoServer);
        }
        // Nobody overtakes those who wait.
        if state.waiting.is_empty()
            && let Some(server) = state.pick(self, ask.avoid, ask.steer)
        {
            drop(state);
            return Ok(Entered::Served(self.slot_at(server)));
        }
        if ask.avoid.is_some() {
            return Err(Refused::NowhereElse);
        }
        if patience.is_zero() {
            return Err(Refused::Waited);
        }
        let (serve, served) = oneshot::channel();
        let entered = state.waiting.enter(ask, serve, clock::timer());
        let is_tended = std::mem::replace(&mut state.is_tended, true);
        drop(state);
        if !is_tended {
            tokio::spawn(tend(Arc::downgrade(self)));
        }
        let (ticket, made_room) = entered.map_err(|_| Refused::QueueFull)?;
        if let Some(serve) = made_room {
            // Whoever left meanwhile need not be told.
            let _ = serve.send(Err(Refused::QueueFull));
        }
        // A rest may have ended since the last slot came back.
        self.serve_waiting();
        Ok(Entered::Waits(Waiter {
            budget: self.clone(),
            ticket,
            served,
        }))
    }

    fn slot_at(self: &Arc<Self>, (server, begun): (usize, Option<Begun>)) -> Slot {
        Slot {
            budget: self.clone(),
            server,
            begun,
            fate: Fate::default(),
        }
    }

    fn serve_waiting(self: &Arc<Self>) {
        let now = clock::timer();
        loop {
            let mut state = self.state.lock();
            // Looking through the queue is worth it only then.
            let has_room = |standing: &Standing| standing.in_flight < standing.room.most();
            if !state.servers.iter().any(has_room) {
                return;
            }
            let Some((ticket, ask)) = state.waiting.first(now, state.takes) else {
                return;
            };
            let (avoid, steer) = (ask.avoid, ask.steer);
            let Some(server) = state.pick(self, avoid, steer) else {
                return;
            };
            let Some(serve) = state.waiting.serve(ticket, now) else {
                return;
            };
            drop(state);
            // A waiter that left in this instant hands the slot back to us by dropping it.
            drop(serve.send(Ok(self.slot_at(server))));
        }
    }

    /// Tells those who would be served too late.
    fn refuse_late(&self) {
        let now = clock::timer();
        let mut state = self.state.lock();
        let places = Pool::of(&state.servers, &self.terms.rules, None, now).places();
        let takes = state.takes;
        let late = state.waiting.late(now, takes, places);
        drop(state);
        for serve in late {
            // Whoever left meanwhile need not be told.
            let _ = serve.send(Err(Refused::Late));
        }
    }

    /// Servers that are to have requests from now on, each with an id higher than all before, or the one it had when it
    /// left. Where others served meanwhile, they begin small.
    pub(super) fn join(self: &Arc<Self>, servers: &[(usize, Role)], well: bool) {
        let now = clock::timer();
        let mut state = self.state.lock();
        let serves = |other: &Standing| other.role.weight > 0 && other.is_trusted(now);
        let alone = state.is_new || !state.servers.iter().any(serves);
        for (id, role) in servers {
            let id = *id;
            let Err(place) = state.ids.binary_search(&id) else {
                continue;
            };
            let mut standing = Standing::of(role.clone());
            standing.in_flight = state.gone.remove(&id).unwrap_or(0);
            standing.set_well(false, alone, now);
            standing.set_well(well, alone, now);
            state.ids.insert(place, id);
            state.servers.insert(place, standing);
        }
        drop(state);
        self.serve_waiting();
    }

    /// Servers that get nothing more. What they have in flight stays counted until it ends.
    pub(super) fn leave(self: &Arc<Self>, ids: &[usize]) {
        let mut state = self.state.lock();
        for id in ids {
            let Ok(place) = state.ids.binary_search(id) else {
                continue;
            };
            state.ids.remove(place);
            let in_flight = state.servers.remove(place).in_flight;
            if in_flight > 0 {
                state.gone.insert(*id, in_flight);
            }
        }
        drop(state);
        // Where those that were trusted have gone, the others are used.
        self.serve_waiting();
    }

    /// A stream beside the budget, up to `max_streams`.
    pub(super) fn stream(self: &Arc<Self>) -> Result<Stream, Refused> {
        let mut state = self.state.lock();
        if state.streams >= self.terms.max_streams {
            return Err(Refused::Streams);
        }
        state.streams += 1;
        drop(state);
        Ok(Stream {
            budget: self.clone(),
        })
    }

    /// The server could not be reached.
    pub(super) fn unreachable(&self, server: usize) {
        self.with(server, |standing, now| standing.unreachable(now));
    }

    /// The server was reached.
    pub(super) fn reached(self: &Arc<Self>, server: usize) {
        if self.with(server, |standing, _| standing.reached()) == Some(true) {
            self.serve_waiting();
        }
    }

    /// Whether the server is to be used, as far as there is another.
    pub(super) fn set_well(self: &Arc<Self>, server: usize, well: bool) {
        let now = clock::timer();
        let mut state = self.state.lock();
        let serves = |other: &Standing| other.role.weight > 0 && other.is_trusted(now);
        let alone = !state.servers.iter().any(serves);
        if let Some(standing) = state.standing(server) {
            standing.set_well(well, alone, now);
        }
        drop(state);
        // For those who wait there may be one more; also where it was the last that was well, and all are used now.
        self.serve_waiting();
    }

    /// Whether nothing is to be had of any server.
    pub(super) fn is_none_left(&self) -> bool {
        let now = clock::timer();
        let state = self.state.lock();
        let mut used = state.servers.iter().filter(|one| one.role.weight > 0);
        used.all(|server| server.is_out(now))
    }

    /// The upstream is back: forgets what its servers were left alone for since then.
    pub(super) fn restore(self: &Arc<Self>, since: Instant) {
        let mut state = self.state.lock();
        state
            .servers
            .iter_mut()
            .for_each(|server| server.restore(since));
        drop(state);
        self.serve_waiting();
    }

    /// A probe of the server went wrong.
    pub(super) fn probe_failed(&self, server: usize) {
        self.with(server, |standing, _| standing.probe_failed());
    }

    /// How long it takes to work off what waits, as quick as answers are of late.
    pub(super) fn backlog(&self) -> Duration {
        let state = self.state.lock();
        let places = state.total().max(1);
        let ahead = state.waiting.len() as f64 / places as f64;
        state.takes.mul_f64(ahead)
    }

    /// The server has begun an answer, `took` after it was asked.
    pub(super) fn answered(&self, server: usize, took: Duration) {
        let now = clock::timer();
        let mut state = self.state.lock();
        if let Some(standing) = state.standing(server) {
            standing.answered(took, now);
        }
        state.takes = match state.takes {
            Duration::ZERO => took,
            takes => (takes * 15 + took) / 16,
        };
    }

    /// The server has ended one.
    pub(super) fn ended(&self, server: usize) {
        self.with(server, |standing, _| standing.ended());
    }

    /// The server has failed a request. How long it is ejected for that, if it is.
    pub(super) fn failed(&self, server: usize) -> Option<Duration> {
        let now = clock::timer();
        let mut state = self.state.lock();
        let rules = &self.terms.rules;
        let place = state.place(server)?;
        let is_due = state.servers[place].failed(rules, now);
        (is_due && state.can_spare(place, rules, now))
            .then(|| state.servers[place].eject(rules, now))
    }

    /// Whether a server beside this one is to be used, and has room.
    pub(super) fn has_another(&self, server: usize) -> bool {
        let now = clock::timer();
        let state = self.state.lock();
        let place = state.place(server);
        let others = Pool::of(&state.servers, &self.terms.rules, place, now);
        // Also where the server itself has gone: then it is any other.
        others.open().iter().any(|at| Some(*at) != place)
    }

    /// Requests that one server has, also one that has gone.
    pub(super) fn in_flight_at(&self, server: usize) -> usize {
        let state = self.state.lock();
        match state.place(server) {
            Some(place) => state.servers[place].in_flight,
            None => state.gone.get(&server).copied().unwrap_or(0),
        }
    }

    /// Whether the server is ejected.
    pub(super) fn is_ejected(&self, server: usize) -> bool {
        self.with(server, |standing, now| standing.is_ejected(now)) == Some(true)
    }

    /// As rooms know it.
    fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    fn with<T>(&self, server: usize, of: impl FnOnce(&mut Standing, Instant) -> T) -> Option<T> {
        let now = clock::timer();
        let mut state = self.state.lock();
        state.standing(server).map(|standing| of(standing, now))
    }
}

impl State {
    /// Where a server stands, if it is here.
    fn place(&self, server: usize) -> Option<usize> {
        self.ids.binary_search(&server).ok()
    }

    fn standing(&mut self, server: usize) -> Option<&mut Standing> {
        let place = self.place(server)?;
        self.servers.get_mut(place)
    }

    /// Counts one more request at the server that is to have it.
    fn pick(
        &mut self,
        budget: &Budget,
        avoid: Option<usize>,
        steer: Steer,
    ) -> Option<(usize, Option<Begun>)> {
        let now = clock::timer();
        let avoid = avoid.and_then(|server| self.place(server));
        let mut choice = Choice {
            servers: &mut self.servers,
            rules: &budget.terms.rules,
            balance: budget.terms.balance,
            steer,
            avoid,
            now,
        };
        let chosen = choice.make(ids::random)?;
        let begun = self.servers[chosen].take(now, budget.at(now));
        self.is_new = false;
        Some((self.ids[chosen], begun))
    }

    /// What all servers that are not drained may have together, backups too.
    fn total(&self) -> usize {
        let used = self.servers.iter().filter(|server| server.role.weight > 0);
        used.map(|server| server.room.most()).sum()
    }

    /// One request less.
    fn release(&mut self, slot: &Slot) {
        let server = slot.server;
        if let Some(standing) = self.standing(server) {
            standing.in_flight -= 1;
            let now = slot.budget.at(clock::timer());
            standing.room.end(slot.begun, now, slot.fate.came());
        } else if let Some(left) = self.gone.get_mut(&server) {
            *left -= 1;
            if *left == 0 {
                self.gone.remove(&server);
            }
        }
    }

    /// Whether enough of its like are left without it; where backups stand ready, none has to be.
    fn can_spare(&self, server: usize, rules: &Rules, now: Instant) -> bool {
        let used = || self.servers.iter().filter(|one| one.role.weight > 0);
        let Some(leaves) = self.servers.get(server) else {
            return false;
        };
        let ready = |one: &Standing| one.role.backup && one.is_trusted(now) && !one.rests(now);
        if !leaves.role.backup && used().any(ready) {
            return true;
        }
        let like = || used().filter(|one| one.role.backup == leaves.role.backup);
        // It counts as out already where it is ill.
        let out = like().filter(|one| !one.is_trusted(now)).count();
        let out = out + usize::from(leaves.is_trusted(now));
        out * 100 <= like().count() * rules.eject_most
    }
}

/// Looks after those who wait, as long as any do: a rest or an ejection may have ended, or an answer have become too late,
/// without a request that begins or ends to notice it.
async fn tend(budget: Weak<Budget>) {
    loop {
        tokio::time::sleep(TENDS).await;
        let Some(budget) = budget.upgrade() else {
            return;
        };
        budget.serve_waiting();
        budget.refuse_late();
        let mut state = budget.state.lock();
        if state.waiting.is_empty() {
            state.is_tended = false;
            return;
        }
    }
}

enum Entered {
    Served(Slot),
    Waits(Waiter),
}

/// A place in the queue. A slot that reached it after it stopped looking goes on to the next when this is dropped.
struct Waiter {
    budget: Arc<Budget>,
    ticket: Ticket,
    served: oneshot::Receiver<Result<Slot, Refused>>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let left = self.budget.state.lock().waiting.leave(self.ticket);
        drop(left);
    }
}

/// One request in flight at one server.
pub(super) struct Slot {
    budget: Arc<Budget>,
    server: usize,
    begun: Option<Begun>,
    fate: Fate,
}

impl Slot {
    pub(super) fn server(&self) -> usize {
        self.server
    }

    /// Where its exchange says what became of it.
    pub(super) fn fate(&self) -> Fate {
        self.fate.clone()
    }

    /// The slot becomes a stream, and is free again; it is free also where no stream was to be had.
    pub(super) fn into_stream(self) -> Result<Stream, Refused> {
        self.budget.stream()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock();
        state.release(self);
        drop(state);
        self.budget.serve_waiting();
    }
}

/// One long-lived stream, beside the budget.
pub(super) struct Stream {
    budget: Arc<Budget>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.budget.state.lock().streams -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::super::queue::Wanted;
    use super::super::standing::tests::RULES;
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn budget(servers: usize, per_server: usize, queue: usize, streams: usize) -> Arc<Budget> {
        let role = Role {
            most: Some(per_server),
            ..Role::default()
        };
        let terms = Terms {
            queue,
            max_streams: streams,
            balance: Balance::LeastInFlight,
            rules: RULES,
        };
        Budget::new(vec![role; servers], terms)
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

    type Waiting = Pin<Box<dyn Future<Output = Result<Slot, Refused>>>>;

    fn ask(budget: &Arc<Budget>) -> Waiting {
        let budget = budget.clone();
        Box::pin(async move { budget.slot(LONG, shared()).await })
    }

    fn poll(waiting: &mut Waiting) -> Poll<Result<Slot, Refused>> {
        waiting
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask,
        Poll(usize),
        Cancel(usize),
        Release(usize),
        Fail(usize),
        Reach(usize),
        Join,
        Leave(usize),
        Return(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Ask),
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
                    Step::Ask => {
                        let mut new = ask(&budget);
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
                prop_assert_eq!(budget.total(), here.len() * per_server);
                prop_assert!(of(&here) <= budget.total());
                prop_assert_eq!(of(&here) + of(&gone), in_flight);
                prop_assert!(budget.queued() <= queue);
                // Those who hold, and those who were handed one and have not looked.
                prop_assert_eq!(in_flight, held.len() + waiting.len() - budget.queued());
                for load in &budget.state.lock().servers {
                    prop_assert!(load.in_flight <= per_server);
                }
                // Nobody waits for nothing.
                prop_assert!(budget.queued() == 0 || in_flight > 0);
            }
            // Everybody who waits is served in the end, in order.
            while let Some(mut next) = (!waiting.is_empty()).then(|| waiting.remove(0)) {
                let slot = loop {
                    match poll(&mut next) {
                        Poll::Ready(slot) => break slot,
                        Poll::Pending => {
                            prop_assert!(!held.is_empty(), "a permit was lost");
                            drop(held.pop());
                        }
                    }
                };
                prop_assert!(slot.is_ok());
                held.extend(slot);
            }
            drop(held);
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
        // It returns with what it has, which is as much as it may have at first.
        budget.join(&joining(&[leaves], 2), true);
        assert_eq!((budget.in_flight_at(leaves), budget.total()), (1, 4));
        assert!(poll(&mut waits).is_pending());
        drop(one);
        let Poll::Ready(Ok(one)) = poll(&mut waits) else {
            panic!("it has room");
        };
        assert_eq!(one.server(), leaves);
        drop(one);
        assert_eq!(budget.in_flight_at(leaves), 0);
        budget.leave(&[leaves]);
        assert!(budget.state.lock().gone.is_empty());
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
        assert!(budget.has_another(failed));
        let other = budget.slot(LONG, again(failed)).await.unwrap();
        assert_ne!(other.server(), failed);
        // The other has filled up meanwhile.
        assert!(!budget.has_another(failed));
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
        let terms = Terms {
            queue: 8,
            max_streams: 1,
            balance: Balance::RoundRobin,
            rules: RULES,
        };
        let budget = Budget::new([role(false), role(false), role(true)], terms);
        let fails = |server| {
            let mut all = (0..RULES.eject_after).map(|_| budget.failed(server));
            all.any(|ejected| ejected.is_some())
        };
        assert!(fails(0) && fails(1));
        assert_eq!(budget.slot(LONG, shared()).await.unwrap().server(), 2);
        assert!(!fails(2), "the last of all is not");
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
}
