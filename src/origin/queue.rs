//! Those who wait for a place at an origin, and who of them is next.
//!
//! Most wanted first: what many wait for helps most people soonest. It is asked anew whenever a place is free, since
//! people join while a request waits. But whoever has waited for [`PATIENCE`] comes before, in order of arrival, so that
//! nobody starves; and a client's requests that nobody else waits for arrive one after the other, each when the one before
//! it has had its place, so that a thousand of them delay the others no more than one would. A refresh that nobody waits
//! for comes last, and of several the one of the page that is asked for most. Routes may rank above and below all that:
//! what ranks low waits as long as anything above it does.
//!
//! What is for one client alone is worth its place only while that client waits. Where such requests keep the queue
//! standing, the newest is first (adaptive LIFO), so that those who are served have hardly waited; and where more of them come
//! than go, for several [windows](Pressure), whoever has waited longer than an answer takes is refused at once instead of late
//! (controlled delay: both Maurer, "Fail at Scale", ACM Queue 2015, after CoDel: Nichols and Jacobson, ACM Queue 2012). A
//! crowd that comes once and no more is served, however long that takes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
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

/// What a client with requests in the queue has had.
#[derive(Default)]
struct Turns {
    waiting: BTreeSet<Ticket>,
    /// When it last had a place.
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
                0 => drop(self.clients.remove(&client)),
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
        let ask = self.waiting.get(&ticket).map(|next| &next.ask)?;
        self.pressure.served += usize::from(ask.wanted.is_none());
        if let Some(turns) = ask.client.and_then(|client| self.clients.get_mut(&client)) {
            turns.served = Some(now);
        }
        self.leave(ticket)
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
        let turns = waiting
            .ask
            .client
            .and_then(|client| self.clients.get(&client));
        let served = turns.and_then(|turns| turns.served).filter(|_| wanted <= 1);
        if let Some(worth) = standing.filter(|_| waiting.ask.wanted.is_none()) {
            let age = now.saturating_duration_since(since);
            // By then it would have been refused, were there too many.
            if age < PATIENCE.max(worth * 2 + LEAST) {
                since = now.checked_sub(worth.saturating_sub(age)).unwrap_or(since);
            }
        }
        since = served.map_or(since, |served| since.max(served));
        let starves = now.saturating_duration_since(since) >= PATIENCE;
        let place = match wanted {
            0 => Place::Idle(Reverse(waiting.ask.heat()), since),
            _ if starves => Place::ByArrival(since),
            _ => Place::ByWish(Reverse(wanted), since),
        };
        (waiting.ask.priority, place)
    }

    /// Takes out who waits alone and longer than an answer takes, while more such requests come than go; but for the
    /// last `places` of them, so that no place has to wait for somebody. A client's first in line has twice the time: where
    /// one has many here, its own have to go before another's only one.
    pub fn late(&mut self, now: Instant, takes: Duration, places: usize) -> Vec<T> {
        let worth = takes.max(LEAST);
        if !self.pressure.persists(now, worth) || takes.is_zero() {
            return Vec::new();
        }
        let mut in_line = HashSet::new();
        let alone = |waiting: &&Waiting<T>| waiting.ask.wanted.is_none();
        let late = self.waiting.iter().filter(|(_, waiting)| alone(waiting));
        let late = late.filter(|(_, waiting)| {
            let client = waiting.ask.client;
            let is_first = client.is_none_or(|client| in_line.insert(client));
            now >= waiting.since + worth * if is_first { 2 } else { 1 }
        });
        let late = late.take(self.alone.saturating_sub(places));
        let late: Vec<Ticket> = late.map(|(ticket, _)| *ticket).collect();
        late.into_iter()
            .filter_map(|ticket| self.leave(ticket))
            .collect()
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    ByArrival(Instant),
    ByWish(Reverse<usize>, Instant),
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::clock;

    impl Wanted for AtomicUsize {
        fn by(&self) -> usize {
            self.load(Ordering::Relaxed)
        }
    }

    fn by(wanted: usize) -> Arc<AtomicUsize> {
        Arc::new(AtomicUsize::new(wanted))
    }

    fn page(wanted: &Arc<AtomicUsize>) -> Ask {
        Ask {
            wanted: Some(wanted.clone()),
            ..Ask::default()
        }
    }

    fn of(client: u8) -> Ask {
        Ask {
            client: Some(IpAddr::from([192, 0, 2, client]).into()),
            ..Ask::default()
        }
    }

    const TAKES: Duration = Duration::from_millis(50);

    /// A queue, and a clock that is turned by hand.
    struct Line {
        queue: Queue<&'static str>,
        now: Instant,
    }

    impl Line {
        fn of(most: usize) -> Line {
            Line {
                queue: Queue::new(most),
                now: clock::timer(),
            }
        }

        fn enter(&mut self, ask: Ask, name: &'static str) -> Ticket {
            self.queue.enter(ask, name, self.now).unwrap().0
        }

        fn after(&mut self, millis: u64) -> &mut Line {
            self.now += Duration::from_millis(millis);
            self
        }

        fn pop(&mut self) -> &'static str {
            let first = self.queue.first(self.now, TAKES).map(|(ticket, _)| ticket);
            let served = first.and_then(|ticket| self.queue.serve(ticket, self.now));
            served.unwrap_or("nobody")
        }
    }

    #[test]
    fn the_most_wanted_is_first_as_things_stand_when_a_place_is_free() {
        let mut line = Line::of(9);
        let (rising, steady) = (by(1), by(5));
        line.enter(page(&rising), "rising");
        line.enter(page(&steady), "steady");
        line.enter(page(&by(3)), "third");
        line.enter(page(&by(3)), "fourth");
        rising.store(7, Ordering::Relaxed);
        let order: Vec<_> = (0..5).map(|_| line.pop()).collect();
        assert_eq!(order, ["rising", "steady", "third", "fourth", "nobody"]);
    }

    #[test]
    fn who_has_waited_long_starves_no_longer() {
        let mut line = Line::of(9);
        line.enter(page(&by(1)), "rare");
        line.after(399).enter(page(&by(100)), "hot");
        assert_eq!(line.pop(), "hot");
        line.enter(page(&by(100)), "hot");
        assert_eq!(line.after(1).pop(), "rare");
    }

    #[test]
    fn a_greedy_client_takes_turns_with_the_others() {
        let mut line = Line::of(100);
        for _ in 0..50 {
            line.enter(of(1), "greedy");
        }
        line.after(1_000);
        for _ in 0..3 {
            line.enter(of(2), "two");
            line.enter(of(3), "three");
        }
        let order: Vec<_> = (0..8).map(|_| line.after(1).pop()).collect();
        let of = |name| order.iter().filter(|one| **one == name).count();
        assert_eq!(order[0], "greedy", "it came first");
        assert!(of("two") >= 2 && of("three") >= 2, "{order:?}");
    }

    #[test]
    fn a_greedy_client_makes_room_for_the_others() {
        let mut line = Line::of(4);
        for name in ["first", "second", "third", "fourth"] {
            line.enter(of(1), name);
        }
        let (_, made) = line.queue.enter(of(2), "other", line.now).unwrap();
        assert_eq!(made, Some("fourth"));
        let (_, made) = line.queue.enter(of(2), "again", line.now).unwrap();
        assert_eq!(made, Some("third"));
        // Two of each are as fair as it gets.
        assert_eq!(line.queue.enter(of(2), "more", line.now), Err("more"));
        assert_eq!(line.queue.enter(of(1), "more", line.now), Err("more"));
        assert_eq!(line.queue.len(), 4);
    }

    #[test]
    fn where_all_have_one_the_oldest_makes_room_for_the_newest() {
        let mut line = Line::of(3);
        line.enter(page(&by(1)), "page");
        line.enter(of(1), "oldest");
        line.enter(of(2), "older");
        let (_, made) = line.queue.enter(of(3), "newest", line.now).unwrap();
        assert_eq!(made, Some("oldest"));
        assert_eq!(line.queue.enter(of(3), "second", line.now), Err("second"));
        let another = line.queue.enter(page(&by(1)), "another", line.now);
        assert_eq!(another, Err("another"), "it has a longer time to wait");
    }

    #[test]
    fn a_refresh_makes_room_and_puts_nobody_off() {
        let mut line = Line::of(2);
        line.enter(page(&by(0)), "refresh");
        line.after(5_000).enter(page(&by(1)), "page");
        let (_, made) = line.queue.enter(of(1), "one", line.now).unwrap();
        assert_eq!(made, Some("refresh"));
        let mut line = Line::of(9);
        line.enter(page(&by(0)), "refresh");
        line.after(5_000).enter(page(&by(1)), "page");
        assert_eq!([line.pop(), line.pop()], ["page", "refresh"]);
    }

    /// A page that nobody waits for, asked for so often meanwhile.
    struct Heat(u32);

    impl Wanted for Heat {
        fn by(&self) -> usize {
            0
        }

        fn heat(&self) -> u32 {
            self.0
        }
    }

    fn refresh(heat: u32) -> Ask {
        Ask {
            wanted: Some(Arc::new(Heat(heat))),
            ..Ask::default()
        }
    }

    #[test]
    fn the_hottest_refresh_is_first_and_the_coldest_makes_room() {
        let mut line = Line::of(4);
        line.enter(refresh(5), "warm");
        line.after(5_000).enter(refresh(100), "hot");
        line.enter(refresh(1), "cold");
        line.enter(page(&by(1)), "page");
        let (_, made) = line.queue.enter(refresh(7), "warmer", line.now).unwrap();
        assert_eq!(made, Some("cold"));
        assert_eq!(line.queue.enter(refresh(5), "no", line.now), Err("no"));
        let order: Vec<_> = (0..4).map(|_| line.pop()).collect();
        assert_eq!(order, ["page", "hot", "warmer", "warm"]);
    }

    #[test]
    fn routes_rank() {
        let mut line = Line::of(9);
        let ranked = |priority, wanted| Ask {
            priority,
            ..page(&by(wanted))
        };
        line.enter(ranked(Priority::Low, 9), "low");
        line.enter(ranked(Priority::Normal, 1), "normal");
        line.enter(ranked(Priority::High, 1), "high");
        let order: Vec<_> = (0..3).map(|_| line.pop()).collect();
        assert_eq!(order, ["high", "normal", "low"]);
    }

    /// Windows of 50 ms, in each of which so many come, of clients of their own, and so many are served.
    fn windows(line: &mut Line, count: usize, come: usize, served: usize) -> (usize, usize) {
        let (mut late, mut most) = (0, 0);
        for _ in 0..count {
            for n in 0..come {
                line.enter(of(n as u8), "new");
            }
            for _ in 0..served {
                let first = line.queue.first(line.now, TAKES).map(|(ticket, _)| ticket);
                let Some(ticket) = first else { break };
                let since = line.queue.waiting[&ticket].since;
                most = most.max(line.now.duration_since(since).as_millis() as usize);
                line.queue.serve(ticket, line.now);
            }
            let now = line.after(50).now;
            late += line.queue.late(now, TAKES, 0).len();
        }
        (late, most)
    }

    #[test]
    fn c84_who_waits_alone_is_refused_when_it_would_be_late() {
        let mut line = Line::of(1000);
        let (late, _) = windows(&mut line, 3, 30, 8);
        assert_eq!(late, 0, "it may be a burst");
        let (late, most) = windows(&mut line, 20, 30, 8);
        assert!((380..=440).contains(&late), "22 too many each time: {late}");
        assert!(
            most <= 50,
            "those that are served have hardly waited: {most} ms"
        );
        assert!(line.queue.len() <= 90, "{}", line.queue.len());
    }

    #[test]
    fn a_crowd_that_comes_once_is_served_all() {
        let mut line = Line::of(1000);
        assert_eq!(windows(&mut line, 1, 200, 8).0, 0);
        let (late, most) = windows(&mut line, 40, 0, 8);
        assert_eq!((late, line.queue.len()), (0, 0));
        assert!(most >= 1000, "however long it takes");
        // Nor are those who come as fast as they go.
        windows(&mut line, 1, 40, 8);
        assert_eq!(windows(&mut line, 40, 8, 8).0, 0);
    }

    #[test]
    fn nobody_starves_where_as_many_come_as_go() {
        let mut line = Line::of(1000);
        let first = line.enter(of(200), "first");
        windows(&mut line, 1, 9, 8);
        windows(&mut line, 10, 8, 8);
        assert!(!line.queue.waiting.contains_key(&first));
    }

    #[test]
    fn a_place_that_may_be_free_at_any_moment_has_somebody_to_wait_for_it() {
        let mut line = Line::of(1000);
        line.enter(page(&by(1)), "page");
        for _ in 0..6 {
            line.enter(of(1), "one");
            line.enter(of(2), "two");
            let now = line.after(50).now;
            line.queue.late(now, TAKES, 3);
        }
        line.after(5_000);
        line.queue.late(line.now, TAKES, 3);
        assert_eq!((line.queue.alone, line.queue.len()), (3, 4));
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let mut line = Line::of(9);
        let ticket = line.enter(of(1), "one");
        assert_eq!(line.queue.leave(ticket), Some("one"));
        assert_eq!(line.queue.leave(ticket), None);
        assert!(line.queue.is_empty() && line.queue.clients.is_empty());
        assert!(line.queue.by_number.is_empty() && line.queue.refreshes.is_empty());
        assert_eq!((line.queue.alone, line.queue.stands_since), (0, None));
    }
}
