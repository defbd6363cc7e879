//! How much may be in flight to the servers of one upstream, and the queue for it.
//!
//! A [`Slot`] is one request at one server. It is a value: dropping it, however its holder ends, gives it back, and
//! whoever is next in the [`queue`](super::queue) gets it.
//! Which server it is at, [`balance`](super::balance) says, by what is known of each ([`standing`](super::standing)).
//!
//! Servers come and go. Outside, one is called by an id that no other ever has; a slot of one that has gone stays valid.

mod slot;
#[cfg(test)]
mod tests;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::balance::{Balance, Choice, Pool, Steer};
use super::bulkhead::Shares;
use super::gone::Gone;
use super::queue::Queue;
use super::standing::{Role, Rules, Standing};
use crate::clock;
use crate::rules::concurrency::Begun;
use crate::rules::outlier;
use crate::rules::recent::Came;
use crate::telemetry::ids;
pub(super) use slot::{Slot, Stream};

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
    terms: Terms,
    /// The servers' ids, rising, in step with `servers`.
    ids: Vec<usize>,
    servers: Vec<Standing>,
    gone: Gone,
    /// Nobody has been served: whoever joins now was there from the start.
    is_new: bool,
    /// Only those who still wait: a waiter that leaves takes its entry along.
    waiting: Queue<Serve>,
    /// What each route has.
    shares: Shares,
    /// Somebody looks after those who wait.
    is_tended: bool,
    streams: usize,
}

/// A server that is to have a request, which is counted already.
struct Picked {
    server: usize,
    route: Option<usize>,
    begun: Option<Begun>,
    /// Of which room.
    room: u32,
}

type Serve = oneshot::Sender<Result<Slot, Refused>>;

impl Budget {
    /// The servers are called 0, 1, and so on.
    pub(super) fn new(roles: impl IntoIterator<Item = Role>, terms: Terms) -> Arc<Self> {
        let servers: Vec<_> = roles.into_iter().map(Standing::of).collect();
        Arc::new(Self {
            born: clock::timer(),
            state: Mutex::new(State {
                terms,
                ids: (0..servers.len()).collect(),
                servers,
                gone: Gone::default(),
                is_new: true,
                waiting: Queue::new(terms.queue),
                shares: Shares::default(),
                is_tended: false,
                streams: 0,
            }),
        })
    }

    /// What the servers in use now may have together: not those that are ill, ejected or at rest, as far as there are
    /// others, nor backups that stand by.
    pub(super) fn total(&self) -> usize {
        self.state.lock().places(clock::timer())
    }

    /// Whether a server that is not drained is left without these.
    pub(super) fn has_but(&self, ids: &[usize]) -> bool {
        let state = self.state.lock();
        let mut here = state.ids.iter().zip(&state.servers);
        here.any(|(id, one)| one.role.weight > 0 && !ids.contains(id))
    }

    pub(super) fn in_flight(&self) -> usize {
        let state = self.state.lock();
        let all = state.servers.iter().chain(state.gone.all());
        all.map(|load| load.in_flight).sum()
    }

    pub(super) fn queued(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Whether a route has as many in flight as it may.
    pub(super) fn is_full(&self, route: Option<usize>) -> bool {
        self.state.lock().shares.is_full(route)
    }

    /// How many places a route's requests may have.
    pub(super) fn places(&self, route: Option<usize>) -> usize {
        let state = self.state.lock();
        let places = state.places(clock::timer());
        places.min(state.shares.most(route))
    }

    /// Requests of a route in flight, and those of it that wait.
    pub(super) fn of_route(&self, route: usize) -> (usize, usize) {
        let state = self.state.lock();
        let route = Some(route);
        (state.shares.in_flight(route), state.waiting.len_of(route))
    }

    pub(super) fn streams(&self) -> usize {
        self.state.lock().streams
    }

    /// Goes by other terms from now on, and by other roles of servers that stay. What is in flight stays counted.
    pub(super) fn renew(self: &Arc<Self>, terms: Terms, roles: Vec<(usize, Role)>) {
        let mut state = self.state.lock();
        state.terms = terms;
        state.waiting.resize(terms.queue);
        state.shares.forget_idle();
        for (id, role) in roles {
            let State {
                ids, servers, gone, ..
            } = &mut *state;
            let here = ids.binary_search(&id).ok().map(|place| &mut servers[place]);
            if let Some(standing) = here.or_else(|| gone.get_mut(id)) {
                standing.set_role(role);
            }
        }
        drop(state);
        self.serve_waiting();
    }

    /// Servers that are to have requests from now on, each with an id higher than all before, or the one it had when it
    /// left: then it goes on as it stood, if that is known, in the role it has now. Where others served meanwhile, those that
    /// are new begin small.
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
            let mut standing = match state.gone.back(id, now) {
                Some(mut back) => {
                    back.set_role(role.clone());
                    back
                }
                None => {
                    let mut new = Standing::of(role.clone());
                    new.set_well(false, alone, now);
                    new
                }
            };
            standing.set_well(well, alone, now);
            state.ids.insert(place, id);
            state.servers.insert(place, standing);
        }
        drop(state);
        self.serve_waiting();
    }

    /// Servers that get nothing more. What they have in flight stays counted until it ends.
    pub(super) fn leave(self: &Arc<Self>, ids: &[usize]) {
        let now = clock::timer();
        let mut state = self.state.lock();
        for id in ids {
            let Ok(place) = state.ids.binary_search(id) else {
                continue;
            };
            state.ids.remove(place);
            let standing = state.servers.remove(place);
            state.gone.leave(*id, standing, now);
        }
        drop(state);
        // Where those that were trusted have gone, the others are used.
        self.serve_waiting();
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
        let State { servers, gone, .. } = &mut *state;
        let all = servers.iter_mut().chain(gone.all_mut());
        all.for_each(|server| server.restore(since));
        drop(state);
        self.serve_waiting();
    }

    /// A probe of the server went wrong.
    pub(super) fn probe_failed(&self, server: usize) {
        self.with(server, |standing, _| standing.probe_failed());
    }

    /// The server has begun an answer to a request of the route, `took` after it was asked.
    pub(super) fn answered(&self, server: usize, route: Option<usize>, took: Duration) {
        let now = clock::timer();
        let mut state = self.state.lock();
        if let Some(standing) = state.standing(server) {
            standing.answered(took, now);
        }
        state.shares.answered(route, took);
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
        let now = clock::moment();
        self.with(server, |standing, _| {
            standing.ended();
            standing.lately.slice(now).answered += 1;
        });
    }

    /// The server has failed a request. How long it is ejected for that, if it is.
    pub(super) fn failed(&self, server: usize) -> Option<Duration> {
        let now = clock::timer();
        let mut state = self.state.lock();
        let rules = state.terms.rules;
        let place = state.place(server)?;
        let is_due = state.servers[place].failed(&rules, now);
        let is_due = state.stands_out(place, &rules, now) || is_due;
        (is_due && state.can_spare(place, &rules, now))
            .then(|| state.servers[place].eject(&rules, now))
    }

    /// Whether a server beside this one is to be used, and has room, and the route may have one more request.
    pub(super) fn has_another(&self, server: usize, route: Option<usize>) -> bool {
        let now = clock::timer();
        let state = self.state.lock();
        if state.shares.is_full(route) {
            return false;
        }
        let place = state.place(server);
        let others = Pool::of(&state.servers, &state.terms.rules, place, now);
        // Also where the server itself has gone: then it is any other.
        others.open().iter().any(|at| Some(*at) != place)
    }

    /// Requests that one server has, also one that has gone.
    pub(super) fn in_flight_at(&self, server: usize) -> usize {
        let state = self.state.lock();
        match state.place(server) {
            Some(place) => state.servers[place].in_flight,
            None => state.gone.get(server).map_or(0, |left| left.in_flight),
        }
    }

    /// Whether a server that has gone would go on as it was, or still has requests.
    pub(super) fn knows(&self, server: usize) -> bool {
        self.state.lock().gone.knows(server, clock::timer())
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

    /// Counts one more request of a route at the server that is to have it.
    fn pick(
        &mut self,
        budget: &Budget,
        avoid: Option<usize>,
        steer: Steer,
        route: Option<usize>,
    ) -> Option<Picked> {
        let now = clock::timer();
        let avoid = avoid.and_then(|server| self.place(server));
        let mut choice = Choice {
            servers: &mut self.servers,
            rules: &self.terms.rules,
            balance: self.terms.balance,
            steer,
            avoid,
            now,
        };
        let chosen = choice.make(ids::random)?;
        let begun = self.servers[chosen].take(now, budget.at(now));
        self.is_new = false;
        self.shares.take(route);
        Some(Picked {
            server: self.ids[chosen],
            route,
            begun,
            room: self.servers[chosen].rooms,
        })
    }

    /// What the servers in use may have together.
    fn places(&self, now: Instant) -> usize {
        Pool::of(&self.servers, &self.terms.rules, None, now).places()
    }

    /// It has failed, and fails more often than the others that are in use.
    fn stands_out(&mut self, server: usize, rules: &Rules, now: Instant) -> bool {
        let moment = clock::moment();
        self.servers[server].lately.slice(moment).failed += 1;
        if self.servers[server].is_ejected(now) {
            return false;
        }
        let own = self.servers[server].lately.sum(moment);
        let used = |one: &&mut Standing| one.role.weight > 0 && one.is_trusted(now);
        let others = self.servers.iter_mut().enumerate();
        let others = others.filter_map(|(at, one)| (at != server).then_some(one));
        let others = others.filter(used).map(|one| one.lately.sum(moment));
        outlier::stands_out(
            own,
            others.fold(Came::default(), Came::and),
            rules.eject_share,
        )
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
