//! How much may be in flight to the servers of one upstream, and the queue for it.
//!
//! A [`Slot`] is one request at one server. It is a value: dropping it, however its holder ends, gives it back, and
//! whoever is next in the [`queue`](super::queue) gets it.
//! Which server it is at, [`balance`](super::balance) says, by what is known of each ([`standing`](super::standing)).
//!
//! Servers come and go. Outside, one is called by an id that no other ever has; a slot of one that has gone stays valid.

#[cfg(test)]
mod tests;

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
use crate::clock;
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
            // Whoever avoids a server has not waited.
            let steer = ask.steer;
            let Some(server) = state.pick(self, None, steer) else {
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

    /// After `time` the server had not begun an answer, and nobody waited for it any more.
    pub(super) fn waited(&self, server: usize, time: Duration) {
        self.with(server, |standing, now| standing.waited(time, now));
    }

    /// Seconds that the server's answers take, as far as that is known.
    #[cfg(test)]
    pub(super) fn took(&self, server: usize) -> Option<f64> {
        self.with(server, |standing, _| standing.took())?
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
