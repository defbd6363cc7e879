//! Those who ask: served at once, in their turn, or told that it comes to nothing.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::balance::Pool;
use super::super::queue::{Ask, Ticket};
use super::{Budget, Refused, Slot, State};
use crate::clock;

/// How often those who wait are looked after.
const TENDS: Duration = Duration::from_millis(25);

impl Budget {
    /// A slot, at once or after `patience` at most. Cancelling the future loses nothing.
    pub(in crate::origin) async fn slot(
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
        let route = ask.route();
        state.shares.know(ask.bulkhead);
        // Nobody overtakes those who wait for the same places.
        if !state.shares.is_full(route)
            && !state.has_next()
            && let Some(picked) = state.pick(self, ask.avoid, ask.steer, route)
        {
            drop(state);
            return Ok(Entered::Served(self.slot_at(picked)));
        }
        if ask.avoid.is_some() {
            return Err(Refused::NowhereElse);
        }
        if patience.is_zero() {
            return Err(Refused::Waited);
        }
        let (serve, served) = oneshot::channel();
        let share = ask.bulkhead.map_or(usize::MAX, |bulkhead| {
            bulkhead.of_queue(state.terms.queue, state.places(clock::timer()))
        });
        let entered = state.waiting.enter(ask, share, serve, clock::timer());
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

    pub(super) fn serve_waiting(self: &Arc<Self>) {
        let now = clock::timer();
        loop {
            let mut state = self.state.lock();
            // Looking through the queue is worth it only then.
            if state.waiting.is_empty() {
                return;
            }
            let pool = Pool::of(&state.servers, &state.terms.rules, None, now);
            if pool.open().is_empty() {
                return;
            }
            let shares = &state.shares;
            let takes = |route| (!shares.is_full(route)).then(|| shares.takes(route));
            let Some((ticket, ask)) = state.waiting.first(now, takes) else {
                return;
            };
            // Whoever avoids a server has not waited.
            let (steer, route) = (ask.steer, ask.route());
            let Some(picked) = state.pick(self, None, steer, route) else {
                return;
            };
            let Some(serve) = state.waiting.serve(ticket, now) else {
                return;
            };
            drop(state);
            // A waiter that left in this instant hands the slot back to us by dropping it.
            drop(serve.send(Ok(self.slot_at(picked))));
        }
    }

    /// Tells those who would be served too late.
    fn refuse_late(&self) {
        let now = clock::timer();
        let mut locked = self.state.lock();
        let state = &mut *locked;
        let places = state.places(now);
        let shares = &state.shares;
        let of = |route| (shares.takes(route), places.min(shares.most(route)));
        let late = state.waiting.late(now, of);
        drop(locked);
        for serve in late {
            // Whoever left meanwhile need not be told.
            let _ = serve.send(Err(Refused::Late));
        }
    }

    /// How long it takes to work off what waits for the places of a route, as quick as its answers are of late. What a
    /// full route keeps waiting is in nobody else's way.
    pub(in crate::origin) fn backlog(&self, route: Option<usize>) -> Duration {
        let state = self.state.lock();
        let total = state.places(clock::timer()).max(1);
        let work = |(route, waiting): (Option<usize>, usize), places: usize| {
            let rounds = waiting as f64 / places as f64;
            state.shares.takes(route).mul_f64(rounds)
        };
        let next = state.waiting.routes();
        let next = next.filter(|(route, _)| !state.shares.is_full(*route));
        let all: Duration = next.map(|lane| work(lane, total)).sum();
        let places = total.min(state.shares.most(route));
        all.max(work((route, state.waiting.len_of(route)), places))
    }
}

impl State {
    /// Whether somebody waits who could have a place, were there one at a server.
    fn has_next(&self) -> bool {
        let mut routes = self.waiting.routes();
        routes.any(|(route, _)| !self.shares.is_full(route))
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
