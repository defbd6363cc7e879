//! Those of the queue who wait for the same places.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use tokio::time::Instant;

use super::turns::Turns;
use super::{Ask, LAST, PATIENCE, Priority, Ticket};
use crate::rules::client::Client;

/// A place is worth waiting for so long in any case: nobody notices.
const LEAST: Duration = Duration::from_millis(50);
/// So many windows in which more came than went, of one more, are no crowd that comes once; the one is chance's.
const PRESSED: usize = 4;

pub(super) struct Lane<T> {
    /// By ticket, so by arrival.
    pub(super) waiting: BTreeMap<Ticket, Waiting<T>>,
    clients: HashMap<Client, BTreeSet<Ticket>>,
    /// Clients by how many requests each has here.
    by_number: BTreeSet<(usize, Client)>,
    /// Those that were refreshes when they came, whether or not somebody waits for them now.
    refreshes: BTreeSet<Ticket>,
    /// Since when somebody has been waiting alone, without a gap.
    stands_since: Option<Instant>,
    /// Those that wait for what nobody else waits for.
    pub(super) alone: usize,
    /// How many of each rank wait.
    ranks: [usize; 3],
    pressure: Pressure,
    /// There was pressure, and who has become late by it is still here.
    refuses: bool,
}

pub(super) struct Waiting<T> {
    pub ask: Ask,
    pub since: Instant,
    pub tell: T,
}

/// Who comes before whom: the least first.
pub(super) type Rank = (Priority, Place);

/// Who of these lanes is to make room: the refresh least asked for of those that nobody waits for; or else whoever ranks
/// lower, by the least wanted; or else the last request of the client that has the most in one of them, if that is more than
/// `ask`'s own client would have in all; or else the oldest alone, which would be last, if its client has as many. A refresh
/// makes room for no colder one, and nobody for who ranks lower.
pub(super) fn who_yields<'q, T: 'q>(
    ask: &Ask,
    lanes: impl IntoIterator<Item = &'q Lane<T>>,
) -> Option<Ticket> {
    let lanes: Vec<&Lane<T>> = lanes.into_iter().collect();
    let is_idle = ask.wanted() == 0;
    let coldest = lanes.iter().filter_map(|lane| lane.coldest());
    let coldest = coldest.min_by_key(|(heat, ticket)| (*heat, Reverse(*ticket)));
    if let Some((heat, ticket)) = coldest {
        return (!is_idle || heat < ask.heat()).then_some(ticket);
    }
    if is_idle {
        return None;
    }
    let below = lanes
        .iter()
        .filter_map(|lane| lane.least_below(ask.priority));
    if let Some((.., Reverse(ticket))) = below.min() {
        return Some(ticket);
    }
    let has = |client| lanes.iter().map(|lane| lane.has(client)).sum::<usize>();
    let would_have = ask.client.map_or(0, has) + 1;
    let greediest = lanes
        .iter()
        .filter_map(|lane| Some((lane.by_number.last()?, lane)));
    let greediest = greediest.max_by_key(|(most, _)| **most);
    if let Some((&(most, client), lane)) = greediest
        && most > would_have
    {
        return lane.last_of(client, ask.priority);
    }
    // The newest would be first.
    let oldest = lanes
        .iter()
        .filter_map(|lane| lane.oldest_alone(ask.priority));
    let (ticket, client) = oldest.min()?;
    let its = client.map_or(usize::MAX, has);
    (its >= would_have).then_some(ticket)
}

impl<T> Lane<T> {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Puts somebody in.
    pub fn enter(&mut self, ticket: Ticket, new: Waiting<T>) {
        if let Some(client) = new.ask.client {
            let waiting = self.clients.entry(client).or_default();
            self.by_number.remove(&(waiting.len(), client));
            waiting.insert(ticket);
            self.by_number.insert((waiting.len(), client));
        }
        if new.ask.wanted() == 0 {
            self.refreshes.insert(ticket);
        }
        self.ranks[new.ask.priority as usize] += 1;
        if new.ask.wanted.is_none() {
            self.alone += 1;
            self.pressure.came += 1;
            self.stands_since.get_or_insert(new.since);
        }
        self.waiting.insert(ticket, new);
    }

    /// Takes somebody out.
    pub fn leave(&mut self, ticket: Ticket) -> Option<Waiting<T>> {
        let left = self.waiting.remove(&ticket)?;
        if let Some(client) = left.ask.client
            && let Some(waiting) = self.clients.get_mut(&client)
        {
            self.by_number.remove(&(waiting.len(), client));
            waiting.remove(&ticket);
            match waiting.len() {
                0 => drop(self.clients.remove(&client)),
                left => drop(self.by_number.insert((left, client))),
            }
        }
        self.refreshes.remove(&ticket);
        self.ranks[left.ask.priority as usize] -= 1;
        if left.ask.wanted.is_none() {
            self.alone -= 1;
            if self.alone == 0 {
                self.stands_since = None;
                self.pressure = Pressure::default();
                self.refuses = false;
            }
        }
        Some(left)
    }

    /// One of them has a place now. Whose it is, if it is somebody's.
    pub fn serve(&mut self, ticket: Ticket) -> Option<Option<Client>> {
        let ask = &self.waiting.get(&ticket)?.ask;
        self.pressure.served += usize::from(ask.wanted.is_none());
        Some(ask.client)
    }

    /// Who of them is first, and what for. `takes`: how long an answer does.
    pub fn first(
        &self,
        now: Instant,
        takes: Duration,
        turns: &Turns,
    ) -> Option<((Rank, Ticket), &Ask)> {
        let worth = takes.max(LEAST);
        let stands = self.stands_since.is_some_and(|since| now >= since + LEAST);
        let standing = stands.then_some(worth);
        let ranked = self.waiting.iter().map(|(ticket, waiting)| {
            let rank = waiting.rank(now, standing, turns);
            ((rank, *ticket), &waiting.ask)
        });
        ranked.min_by(|(one, _), (other, _)| one.cmp(other))
    }

    /// Whether nothing is left of those who were here.
    #[cfg(test)]
    pub fn is_forgotten(&self) -> bool {
        let is_empty = self.waiting.is_empty() && self.clients.is_empty();
        let is_bare = self.by_number.is_empty() && self.refreshes.is_empty();
        is_empty && is_bare && (self.alone, self.stands_since) == (0, None)
    }

    fn has(&self, client: Client) -> usize {
        self.clients.get(&client).map_or(0, BTreeSet::len)
    }

    /// The refresh least asked for of those that nobody waits for.
    fn coldest(&self) -> Option<(u32, Ticket)> {
        let idle = self.refreshes.iter().rev().filter_map(|ticket| {
            let ask = &self.waiting.get(ticket)?.ask;
            (ask.wanted() == 0).then(|| (ask.heat(), *ticket))
        });
        idle.min_by_key(|(heat, _)| *heat)
    }

    /// Of those who rank below, the least wanted of the lowest, the newest first.
    fn least_below(&self, rank: Priority) -> Option<(Reverse<Priority>, usize, Reverse<Ticket>)> {
        if self.ranks[rank as usize + 1..]
            .iter()
            .all(|some| *some == 0)
        {
            return None;
        }
        let all = self.waiting.iter();
        let below = all.filter(|(_, waiting)| waiting.ask.priority > rank);
        let key = |(ticket, waiting): (&Ticket, &Waiting<T>)| {
            (
                Reverse(waiting.ask.priority),
                waiting.ask.wanted(),
                Reverse(*ticket),
            )
        };
        below.map(key).min()
    }

    /// With whose it is.
    fn oldest_alone(&self, rank: Priority) -> Option<(Ticket, Option<Client>)> {
        let mut all = self.waiting.iter();
        let is_alone = |ask: &Ask| ask.wanted.is_none() && ask.priority >= rank;
        let (ticket, oldest) = all.find(|(_, waiting)| is_alone(&waiting.ask))?;
        Some((*ticket, oldest.ask.client))
    }

    /// The last request of a client that others don't wait for as well; what they do is not its own, unless it has a quarter
    /// of all: then the least wanted goes.
    fn last_of(&self, client: Client, rank: Priority) -> Option<Ticket> {
        let its = self.clients.get(&client)?;
        let is_too_much = its.len() * 4 >= self.waiting.len();
        let wanted = its.iter().rev().filter_map(|ticket| {
            let ask = &self.waiting.get(ticket)?.ask;
            (ask.priority >= rank).then(|| (ask.wanted(), *ticket))
        });
        let least = wanted.min_by_key(|(wanted, _)| (*wanted).max(1))?;
        (least.0 <= 1 || is_too_much).then_some(least.1)
    }

    /// Who waits alone and longer than an answer takes, while more such requests come than go, and until those who came
    /// meanwhile are gone; but for the last `places` of them, so that no place has to wait for somebody. A client's first in
    /// line has twice the time, and all it needs where the clients are no more than can be served in that and most requests are
    /// not the first of theirs: where one has many here, its own have to go before another's only one.
    pub fn late(&mut self, now: Instant, takes: Duration, places: usize) -> Vec<Ticket> {
        let worth = takes.max(LEAST);
        let is_pressed = self.pressure.persists(now, worth);
        self.refuses |= is_pressed;
        if !self.refuses || takes.is_zero() {
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
        // Where hardly any is not its client's first, there are none that would go before these.
        let firsts_are_served = lines as f64 <= served && lines * 2 <= alone.len();
        let late = alone.iter().filter(|(_, since, is_first)| match is_first {
            true => !firsts_are_served && now >= *since + worth * 2,
            false => now >= *since + worth,
        });
        let late = late.take(alone.len().saturating_sub(places));
        let late: Vec<Ticket> = late.map(|(ticket, ..)| *ticket).collect();
        self.refuses = is_pressed || !late.is_empty();
        late
    }
}

impl<T> Waiting<T> {
    /// Who comes before whom: the least first. `standing`: since the queue stands, the newest of those alone comes first, as
    /// if it had waited so long, and the oldest not at all.
    fn rank(&self, now: Instant, standing: Option<Duration>, turns: &Turns) -> (Priority, Place) {
        let mut since = self.since;
        let wanted = self.ask.wanted();
        let over = self.ask.client.and_then(|client| turns.over(client));
        if let Some(worth) = standing.filter(|_| self.ask.wanted.is_none()) {
            let age = now.saturating_duration_since(since);
            // By then it would have been refused, were there too many; and nobody has starved who just came.
            if age < PATIENCE.max(worth * (PRESSED as u32 + 1) + LEAST) {
                let as_if = worth.min(PATIENCE - LEAST).saturating_sub(age);
                since = now.checked_sub(as_if).unwrap_or(since);
            }
        }
        let turn = over.map_or(since, |last| since.max(last));
        let waited = now.saturating_duration_since(turn);
        let place = match wanted {
            0 => Place::Idle(Reverse(self.ask.heat()), since),
            _ if waited >= LAST => Place::ByArrival(turn),
            _ if waited >= PATIENCE => Place::Starving(Reverse(wanted), turn),
            _ => Place::ByWish(Reverse(wanted), over, since),
        };
        (self.ask.priority, place)
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Lane<T> {
        Lane {
            waiting: BTreeMap::new(),
            clients: HashMap::new(),
            by_number: BTreeSet::new(),
            refreshes: BTreeSet::new(),
            stands_since: None,
            alone: 0,
            ranks: [0; 3],
            pressure: Pressure::default(),
            refuses: false,
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    ByArrival(Instant),
    /// For [`PATIENCE`] at least, and not yet for [`LAST`].
    Starving(Reverse<usize>, Instant),
    /// And when its client last had a place, if it has more than its share: those who have not are before all who have.
    ByWish(Reverse<usize>, Option<Instant>, Instant),
    Idle(Reverse<u32>, Instant),
}

/// Whether more requests that are for one client alone come than go, by windows as long as an answer takes.
#[derive(Default)]
pub(super) struct Pressure {
    since: Option<Instant>,
    came: usize,
    served: usize,
    /// Whether it was so in each of the last windows.
    last: [bool; PRESSED + 1],
}

impl Pressure {
    /// A window may be over. Whether there have been enough.
    fn persists(&mut self, now: Instant, window: Duration) -> bool {
        let since = *self.since.get_or_insert(now);
        if now >= since + window {
            self.last.rotate_left(1);
            self.last[PRESSED] = self.came > self.served;
            (self.since, self.came, self.served) = (Some(now), 0, 0);
        }
        self.last.iter().filter(|pressed| **pressed).count() >= PRESSED
    }
}
