//! Those who wait for a place at an origin, and who of them is next.
//!
//! Most wanted first: what many wait for helps most people soonest. It is asked anew whenever a place is free, since
//! people join while a request waits. But whoever has waited for [`PATIENCE`] comes before, in order of arrival, so that
//! nobody starves; and a client that has had a place of late stands, with what nobody else waits for, behind all that have
//! had none, so that a thousand requests of one delay the others no more than one would. A refresh that nobody waits for comes
//! last, and of several the one of the page that is asked for most. Routes may rank above and below all that:
//! what ranks low waits as long as anything above it does.
//!
//! What is for one client alone is worth its place only while that client waits. Where such requests keep the queue
//! standing, the newest is first (adaptive LIFO), so that those who are served have hardly waited; and where more of them come
//! than go, for several [windows](Pressure), whoever has waited longer than an answer takes is refused at once instead of late
//! (controlled delay: both Maurer, "Fail at Scale", ACM Queue 2015, after CoDel: Nichols and Jacobson, ACM Queue 2012). A
//! crowd that comes once and no more is served, however long that takes.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use tokio::time::Instant;

use super::balance::Steer;
use crate::rules::client::Client;

/// After this one is served before what is more wanted.
pub const PATIENCE: Duration = Duration::from_millis(400);
/// A place is worth waiting for so long in any case: nobody notices.
const LEAST: Duration = Duration::from_millis(50);
/// So many windows in a row in which more came than went are no crowd that comes once.
const PRESSED: u32 = 4;

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
}

/// A place in the queue.
pub type Ticket = u64;

/// The queue. `T` is how one who waits is told.
pub struct Queue<T> {
    most: usize,
    next: Ticket,
    /// By ticket, so by arrival.
    waiting: BTreeMap<Ticket, Waiting<T>>,
    clients: HashMap<Client, Turns>,
    /// When whose turn was, for as long as it counts.
    turns: VecDeque<(Instant, Client)>,
    /// Clients by how many requests each has here.
    by_number: BTreeSet<(usize, Client)>,
    /// Those that were refreshes when they came, whether or not somebody waits for them now.
    refreshes: BTreeSet<Ticket>,
    /// Since when somebody has been waiting alone, without a gap.
    stands_since: Option<Instant>,
    /// Those that wait for what nobody else waits for.
    alone: usize,
    pressure: Pressure,
}

/// Whether more requests that are for one client alone come than go, by windows as long as an answer takes.
#[derive(Default)]
struct Pressure {
    since: Option<Instant>,
    came: usize,
    served: usize,
    /// Windows in a row with more of the former.
    windows: u32,
}

impl Pressure {
    /// A window may be over. Whether there have been enough.
    fn persists(&mut self, now: Instant, window: Duration) -> bool {
        let since = *self.since.get_or_insert(now);
        if now >= since + window {
            let is_pressed = self.came > self.served;
            self.windows = if is_pressed { self.windows + 1 } else { 0 };
            (self.since, self.came, self.served) = (Some(now), 0, 0);
        }
        self.windows >= PRESSED
    }
}

struct Waiting<T> {
    ask: Ask,
    since: Instant,
    tell: T,
}

/// What a client has in the queue, and has had.
#[derive(Default)]
struct Turns {
    waiting: BTreeSet<Ticket>,
    /// When it last had a place, if that was within [`PATIENCE`].
    served: Option<Instant>,
}

impl<T> Queue<T> {
    /// A queue of at most so many.
    pub fn new(most: usize) -> Queue<T> {
        Queue {
            most,
            next: 0,
            waiting: BTreeMap::new(),
            clients: HashMap::new(),
            turns: VecDeque::new(),
            by_number: BTreeSet::new(),
            refreshes: BTreeSet::new(),
            stands_since: None,
            alone: 0,
            pressure: Pressure::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts somebody in. Where there is no room, a refresh makes some, or the client with the most requests, if it has more
    /// than this one would.
    ///
    /// # Errors
    /// No room: whom it is to be told to.
    pub fn enter(&mut self, ask: Ask, tell: T, now: Instant) -> Result<(Ticket, Option<T>), T> {
        self.forget_turns(now);
        let mut made_room = None;
        if self.waiting.len() >= self.most {
            match self.greediest(&ask) {
                Some(ticket) => made_room = self.leave(ticket),
                None => return Err(tell),
            }
        }
        let ticket = self.next;
        self.next += 1;
        if let Some(client) = ask.client {
            let waiting = &mut self.clients.entry(client).or_default().waiting;
            self.by_number.remove(&(waiting.len(), client));
            waiting.insert(ticket);
            self.by_number.insert((waiting.len(), client));
        }
        if ask.wanted() == 0 {
            self.refreshes.insert(ticket);
        }
        if ask.wanted.is_none() {
            self.alone += 1;
            self.pressure.came += 1;
            self.stands_since.get_or_insert(now);
        }
        let waiting = Waiting {
            ask,
            since: now,
            tell,
        };
        self.waiting.insert(ticket, waiting);
        Ok((ticket, made_room))
    }

    /// Who is to make room: the refresh least asked for of those that nobody waits for, or else the last request of the
    /// client that has the most here, if that is more than `ask`'s own client would have, or else, for one alone, the oldest
    /// of these, if its client has as many. A refresh makes room for no colder one.
    fn greediest(&self, ask: &Ask) -> Option<Ticket> {
        let of = |ticket: &Ticket| self.waiting.get(ticket);
        let idle = self
            .refreshes
            .iter()
            .rev()
            .filter_map(|ticket| Some((ticket, of(ticket)?)));
        let idle = idle.filter(|(_, waiting)| waiting.wanted() == 0);
        let coldest = idle.min_by_key(|(_, waiting)| waiting.ask.heat());
        let is_idle = ask.wanted() == 0;
        let yields = |other: &Ask| !is_idle || other.heat() < ask.heat();
        if let Some((ticket, waiting)) = coldest {
            return yields(&waiting.ask).then_some(*ticket);
        }
        if is_idle {
            return None;
        }
        let has = |client| {
            self.clients
                .get(&client)
                .map_or(0, |turns| turns.waiting.len())
        };
        let would_have = ask.client.map_or(0, has) + 1;
        let &(most, client) = self.by_number.last()?;
        if most <= would_have {
            // The newest would be first, and the oldest last.
            let mut alone = self
                .waiting
                .iter()
                .filter(|(_, waiting)| waiting.ask.wanted.is_none());
            let (oldest, waiting) = alone.next().filter(|_| ask.wanted.is_none())?;
            let its = waiting.ask.client.map_or(usize::MAX, has);
            return (its >= would_have).then_some(*oldest);
        }
        // What others wait for with it is not its own.
        let own = |ticket: &&Ticket| of(ticket).is_some_and(|waiting| !waiting.is_shared());
        self.clients
            .get(&client)?
            .waiting
            .iter()
            .rev()
            .find(own)
            .copied()
    }

    /// Takes somebody out.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let Waiting { ask, tell, .. } = self.waiting.remove(&ticket)?;
        if let Some(client) = ask.client
            && let Some(turns) = self.clients.get_mut(&client)
        {
            self.by_number.remove(&(turns.waiting.len(), client));
            turns.waiting.remove(&ticket);
            match turns.waiting.len() {
                0 if turns.served.is_none() => drop(self.clients.remove(&client)),
                0 => {}
                left => drop(self.by_number.insert((left, client))),
            }
        }
        self.refreshes.remove(&ticket);
        if ask.wanted.is_none() {
            self.alone -= 1;
            if self.alone == 0 {
                self.stands_since = None;
                self.pressure = Pressure::default();
            }
        }
        Some(tell)
    }

    /// Who is to have the next place, and what for. `takes`: how long an answer does.
    pub fn first(&self, now: Instant, takes: Duration) -> Option<(Ticket, &Ask)> {
        let worth = takes.max(LEAST);
        let stands = self.stands_since.is_some_and(|since| now >= since + LEAST);
        let standing = stands.then_some(worth);
        let waiting = self.waiting.iter();
        let first = waiting.min_by_key(|(ticket, waiting)| {
            let rank = self.rank(waiting, now, standing);
            (rank, **ticket)
        });
        first.map(|(ticket, waiting)| (*ticket, &waiting.ask))
    }

    /// Takes somebody out who has a place now.
    pub fn serve(&mut self, ticket: Ticket, now: Instant) -> Option<T> {
        self.forget_turns(now);
        let ask = self.waiting.get(&ticket).map(|next| &next.ask)?;
        self.pressure.served += usize::from(ask.wanted.is_none());
        if let Some(client) = ask.client
            && let Some(turns) = self.clients.get_mut(&client)
        {
            turns.served = Some(now);
            self.turns.push_back((now, client));
        }
        self.leave(ticket)
    }

    /// Who has had no place for long is as good as one who has had none.
    fn forget_turns(&mut self, now: Instant) {
        while let Some((at, client)) = self.turns.front()
            && now >= *at + PATIENCE
        {
            if let Some(turns) = self.clients.get_mut(client)
                && turns.served == Some(*at)
            {
                turns.served = None;
                if turns.waiting.is_empty() {
                    self.clients.remove(client);
                }
            }
            self.turns.pop_front();
        }
    }

    /// Who comes before whom: the least first. `standing`: since the queue stands, the newest of those alone comes first, as
    /// if it had waited so long, and the oldest not at all.
    fn rank(
        &self,
        waiting: &Waiting<T>,
        now: Instant,
        standing: Option<Duration>,
    ) -> (Priority, Place) {
        let mut since = waiting.since;
        let wanted = waiting.wanted();
        let client = waiting.ask.client.filter(|_| wanted <= 1);
        let turns = client.and_then(|client| self.clients.get(&client));
        let served = turns.and_then(|turns| turns.served);
        if let Some(worth) = standing.filter(|_| waiting.ask.wanted.is_none()) {
            let age = now.saturating_duration_since(since);
            // By then it would have been refused, were there too many.
            if age < PATIENCE.max(worth * 2 + LEAST) {
                since = now.checked_sub(worth.saturating_sub(age)).unwrap_or(since);
            }
        }
        let turn = served.map_or(since, |served| since.max(served));
        let starves = now.saturating_duration_since(turn) >= PATIENCE;
        let place = match wanted {
            0 => Place::Idle(Reverse(waiting.ask.heat()), since),
            _ if starves => Place::ByArrival(turn),
            _ => Place::ByWish(Reverse(wanted), served, since),
        };
        (waiting.ask.priority, place)
    }

    /// Takes out who waits alone and longer than an answer takes, while more such requests come than go; but for the
    /// last `places` of them, so that no place has to wait for somebody. A client's first in line has twice the time, and
    /// all it needs where the clients are no more than can be served in that: where one has many here, its own have to go
    /// before another's only one.
    pub fn late(&mut self, now: Instant, takes: Duration, places: usize) -> Vec<T> {
        let worth = takes.max(LEAST);
        if !self.pressure.persists(now, worth) || takes.is_zero() {
            return Vec::new();
        }
        let served = 2.0 * places as f64 * (worth.as_secs_f64() / takes.as_secs_f64());
        let (mut in_line, mut lines) = (HashSet::new(), 0);
        // In order of arrival, with whether it is its client's first.
        let alone = |waiting: &&Waiting<T>| waiting.ask.wanted.is_none();
        let alone = self.waiting.iter().filter(|(_, waiting)| alone(waiting));
        let alone: Vec<(Ticket, Instant, bool)> = alone
            .map(|(ticket, waiting)| {
                let client = waiting.ask.client;
                let is_first = client.is_none_or(|client| in_line.insert(client));
                lines += usize::from(is_first);
                (*ticket, waiting.since, is_first)
            })
            .collect();
        let firsts_are_served = lines as f64 <= served;
        let late = alone.iter().filter(|(_, since, is_first)| match is_first {
            true => !firsts_are_served && now >= *since + worth * 2,
            false => now >= *since + worth,
        });
        let late = late.take(alone.len().saturating_sub(places));
        late.filter_map(|(ticket, ..)| self.leave(*ticket))
            .collect()
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    ByArrival(Instant),
    /// And when its client has had a place, if it has: none is before any.
    ByWish(Reverse<usize>, Option<Instant>, Instant),
    Idle(Reverse<u32>, Instant),
}

impl Ask {
    fn wanted(&self) -> usize {
        self.wanted.as_ref().map_or(1, |wanted| wanted.by())
    }

    fn heat(&self) -> u32 {
        self.wanted.as_ref().map_or(0, |wanted| wanted.heat())
    }
}

impl<T> Waiting<T> {
    fn wanted(&self) -> usize {
        self.ask.wanted()
    }

    /// Whether others than its client wait for it.
    fn is_shared(&self) -> bool {
        self.wanted() > 1
    }
}
