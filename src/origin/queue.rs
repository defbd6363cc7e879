//! Those who wait for a place at an origin, and who of them is next.
//!
//! Most wanted first: what many wait for helps most people soonest. It is asked anew whenever a place is free, since
//! people join while a request waits. But whoever has waited for [`PATIENCE`] comes before, and after [`LAST`] in order of
//! arrival, so that nobody starves; and a client that waits for and has had more than its [equal part](turns) stands behind
//! the others, and starves only from its last place on, so that a thousand requests of one delay the others no more than a
//! few would. A refresh that nobody waits for comes last, and of several the one of the page that is asked for most. Routes
//! may rank above and below all that: what ranks low waits as long as anything above it does.
//!
//! What is for one client alone is worth its place only while that client waits. Where such requests keep the queue
//! standing, the newest is first (adaptive LIFO), so that those who are served have hardly waited; and where more of them come
//! than go, for several [windows](lane::Pressure), whoever has waited longer than an answer takes is refused at once instead of
//! late (controlled delay: both Maurer, "Fail at Scale", ACM Queue 2015, after CoDel: Nichols and Jacobson, ACM Queue 2012).
//! A crowd that comes once and no more is served, however long that takes.
//!
//! Requests of a route with a [bulkhead](super::bulkhead) stand in a [lane] of their own, that is passed over while the route
//! has all it may have. Whether more come than go, who stands for long and who is late is each lane's own affair, as the
//! route's answers may take longer than all others; turns are the whole queue's.

mod lane;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::balance::Steer;
use super::bulkhead::Bulkhead;
use crate::rules::client::Client;
use lane::{Lane, Waiting};
use turns::Turns;

/// Who has waited so long comes before those who have not, however wanted; among themselves the most wanted goes first, ...
///
/// The longer, the less most people wait, and the more some do. Simulated over twelve crowds of `make bench-origin`'s cold spike,
/// three at a time, p99 is 0.75 to 0.86 and p99.9 1.02 to 1.05 of first come, first served. With first come among those who
/// have waited for 400 ms it would be 0.78 to 0.88 and 1.02 to 1.04, for 420 ms 0.75 to 0.86 and 1.04 to 1.07.
pub const PATIENCE: Duration = Duration::from_millis(410);
/// ... and who has waited so long goes before all others, in order of arrival.
const LAST: Duration = Duration::from_millis(500);

/// How many wait for what a request brings.
pub trait Wanted: Send + Sync {
    fn by(&self) -> usize;

    /// Where nobody waits: how often the stored page has been asked for meanwhile.
    fn heat(&self) -> u32 {
        0
    }
}

/// A route's rank in the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

/// What the queue is to know of a request.
#[derive(Clone, Default)]
pub struct Ask {
    pub priority: Priority,
    /// Whose it is, if it is somebody's.
    pub client: Option<Client>,
    /// Those who wait for its answer; none: nobody else ever will.
    pub wanted: Option<Arc<dyn Wanted>>,
    /// The server that has failed it just now: never there again, so it has a place at once or not at all.
    pub avoid: Option<usize>,
    /// Which server it would have.
    pub steer: Steer,
    /// What its route may have, if that has a number of its own.
    pub bulkhead: Option<Bulkhead>,
}

/// A place in the queue. The lower came earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket {
    number: u64,
    route: Option<usize>,
}

/// The queue. `T` is how one who waits is told.
pub struct Queue<T> {
    most: usize,
    next: u64,
    waiting: usize,
    /// By route; those without a bulkhead share one. As many as are configured, also while nobody is in them.
    lanes: BTreeMap<Option<usize>, Lane<T>>,
    turns: Turns,
    /// How long a turn counts.
    counts: Duration,
}

impl<T> Queue<T> {
    /// At most so many from now on; who waits goes on waiting.
    pub fn resize(&mut self, most: usize) {
        self.most = most;
        // Of routes that are gone, maybe.
        let stays = |route: &Option<usize>, lane: &mut Lane<T>| route.is_none() || lane.len() > 0;
        self.lanes.retain(stays);
    }

    /// A queue of at most so many.
    pub fn new(most: usize) -> Queue<T> {
        Queue {
            most,
            next: 0,
            waiting: 0,
            lanes: BTreeMap::new(),
            turns: Turns::default(),
            counts: PATIENCE,
        }
    }

    pub fn len(&self) -> usize {
        self.waiting
    }

    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// How many of a route wait.
    pub fn len_of(&self, route: Option<usize>) -> usize {
        self.lanes.get(&route).map_or(0, Lane::len)
    }

    /// The routes of which somebody waits, and how many.
    pub fn routes(&self) -> impl Iterator<Item = (Option<usize>, usize)> {
        let lanes = self.lanes.iter();
        let all = lanes.map(|(route, lane)| (*route, lane.len()));
        all.filter(|(_, waiting)| *waiting > 0)
    }

    /// Puts somebody in. Where there is no room, in the queue or in its route's `share` of it, [another](lane::who_yields) may
    /// have to make some.
    ///
    /// # Errors
    /// No room: whom it is to be told to.
    pub fn enter(
        &mut self,
        ask: Ask,
        share: usize,
        tell: T,
        now: Instant,
    ) -> Result<(Ticket, Option<T>), T> {
        self.forget_turns(now);
        let route = ask.route();
        let yields = if self.len_of(route) >= share {
            Some(lane::who_yields(&ask, self.lanes.get(&route)))
        } else if self.waiting >= self.most {
            Some(lane::who_yields(&ask, self.lanes.values()))
        } else {
            None
        };
        let made_room = match yields {
            None => None,
            Some(Some(ticket)) => self.leave(ticket),
            Some(None) => return Err(tell),
        };
        let ticket = Ticket {
            number: self.next,
            route,
        };
        self.next += 1;
        self.waiting += 1;
        if let Some(client) = ask.client {
            self.turns.comes(client);
        }
        let waiting = Waiting {
            ask,
            since: now,
            tell,
        };
        self.lanes.entry(route).or_default().enter(ticket, waiting);
        Ok((ticket, made_room))
    }

    /// Takes somebody out.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let left = self.lanes.get_mut(&ticket.route)?.leave(ticket)?;
        self.waiting -= 1;
        if let Some(client) = left.ask.client {
            self.turns.leaves(client);
        }
        Some(left.tell)
    }

    /// Who is to have the next place, and what for. `takes`: how long an answer of a route does; none if the route has all
    /// it may have.
    pub fn first(
        &self,
        now: Instant,
        takes: impl Fn(Option<usize>) -> Option<Duration>,
    ) -> Option<(Ticket, &Ask)> {
        let lanes = self.lanes.iter();
        let firsts = lanes.filter_map(|(route, lane)| {
            if lane.len() == 0 {
                return None;
            }
            lane.first(now, takes(*route)?, &self.turns)
        });
        let first = firsts.min_by(|(one, ..), (other, ..)| one.cmp(other));
        first.map(|((_, ticket), ask)| (ticket, ask))
    }

    /// Takes somebody out who has a place now.
    pub fn serve(&mut self, ticket: Ticket, now: Instant) -> Option<T> {
        self.forget_turns(now);
        let client = self.lanes.get_mut(&ticket.route)?.serve(ticket)?;
        if let Some(client) = client {
            self.turns.had(client, now);
        }
        self.leave(ticket)
    }

    /// Takes out those who are late: see [`Lane::late`]. `of`: how long an answer of a route takes, and how many places the
    /// route may have.
    pub fn late(
        &mut self,
        now: Instant,
        of: impl Fn(Option<usize>) -> (Duration, usize),
    ) -> Vec<T> {
        let mut late = Vec::new();
        self.counts = PATIENCE;
        for (route, lane) in &mut self.lanes {
            let (takes, places) = of(*route);
            self.counts = self.counts.max(takes * 2);
            late.extend(lane.late(now, takes, places));
        }
        late.into_iter()
            .filter_map(|ticket| self.leave(ticket))
            .collect()
    }

    fn forget_turns(&mut self, now: Instant) {
        if let Some(until) = now.checked_sub(self.counts) {
            self.turns.forget(until);
        }
    }
}

impl Ask {
    /// Its route, if that has a number of its own.
    pub fn route(&self) -> Option<usize> {
        self.bulkhead.map(|bulkhead| bulkhead.route)
    }

    fn wanted(&self) -> usize {
        self.wanted.as_ref().map_or(1, |wanted| wanted.by())
    }

    fn heat(&self) -> u32 {
        self.wanted.as_ref().map_or(0, |wanted| wanted.heat())
    }
}
