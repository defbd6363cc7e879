//! Those who wait for a place at an origin, and who of them is next.
//!
//! Most wanted first: what many wait for helps most people soonest. It is asked anew whenever a place is free, since
//! people join while a request waits. But whoever has waited for [`PATIENCE`] comes before, in order of arrival, so that
//! nobody starves; and a client's requests that nobody else waits for arrive one after the other, each when the one before
//! it has had its place, so that a thousand of them delay the others no more than one would. A refresh that nobody waits
//! for comes last, and of several the one of the page that is asked for most. Routes may rank above and below all that: what ranks low waits as long as anything above it does.
//!
//! What is for one client alone is worth its place only while that client waits. When such requests have kept the queue
//! standing for [`STANDS`], they wait no longer than an answer takes, and the others are refused at once instead of late
//! (CoDel: Nichols and Jacobson, ACM Queue 2012; as "controlled delay" in Maurer, "Fail at Scale", ACM Queue 2015).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::balance::Steer;
use crate::rules::client::Client;

/// After this one is served before what is more wanted.
pub const PATIENCE: Duration = Duration::from_millis(400);
/// A queue that has not been empty this long is no burst, nor a crowd that met a page nobody can share.
const STANDS: Duration = Duration::from_secs(1);
/// A place is worth waiting for so long in any case: nobody notices.
const LEAST: Duration = Duration::from_millis(50);

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
    /// Since when somebody has been waiting alone, without a gap.
    stands_since: Option<Instant>,
    /// Those that wait for what nobody else waits for.
    alone: usize,
}

struct Waiting<T> {
    ask: Ask,
    since: Instant,
    tell: T,
}

/// What a client with requests in the queue has had.
struct Turns {
    waiting: usize,
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
            stands_since: None,
            alone: 0,
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
            let turns = self.clients.entry(client).or_insert(Turns {
                waiting: 0,
                served: None,
            });
            turns.waiting += 1;
        }
        if ask.wanted.is_none() {
            self.alone += 1;
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
    /// client that has the most here for itself, if that is more than `ask`'s own client would have. A refresh makes room
    /// for no colder one.
    fn greediest(&self, ask: &Ask) -> Option<Ticket> {
        let idle = self.waiting.iter().rev();
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
        let mut own: HashMap<Client, (usize, Ticket)> = HashMap::new();
        for (ticket, waiting) in &self.waiting {
            if let Some(client) = waiting.ask.client.filter(|_| !waiting.is_shared()) {
                let (has, last) = own.entry(client).or_default();
                (*has, *last) = (*has + 1, *ticket);
            }
        }
        let asks = ask.client.and_then(|client| own.get(&client));
        let would_have = asks.map_or(0, |(has, _)| *has) + 1;
        let (has, last) = own.into_values().max()?;
        (has > would_have).then_some(last)
    }

    /// Takes somebody out.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let Waiting { ask, tell, .. } = self.waiting.remove(&ticket)?;
        if let Some(client) = ask.client
            && let Some(turns) = self.clients.get_mut(&client)
        {
            turns.waiting -= 1;
            if turns.waiting == 0 {
                self.clients.remove(&client);
            }
        }
        if ask.wanted.is_none() {
            self.alone -= 1;
            if self.alone == 0 {
                self.stands_since = None;
            }
        }
        Some(tell)
    }

    /// Who is to have the next place, and what for.
    pub fn first(&self, now: Instant) -> Option<(Ticket, &Ask)> {
        let waiting = self.waiting.iter();
        let first = waiting.min_by_key(|(ticket, waiting)| (self.rank(waiting, now), **ticket));
        first.map(|(ticket, waiting)| (*ticket, &waiting.ask))
    }

    /// Takes somebody out who has a place now.
    pub fn serve(&mut self, ticket: Ticket, now: Instant) -> Option<T> {
        let client = self.waiting.get(&ticket).and_then(|next| next.ask.client);
        if let Some(turns) = client.and_then(|client| self.clients.get_mut(&client)) {
            turns.served = Some(now);
        }
        self.leave(ticket)
    }

    /// Who comes before whom: the least first.
    fn rank(&self, waiting: &Waiting<T>, now: Instant) -> (Priority, Place) {
        let mut since = waiting.since;
        let wanted = waiting.wanted();
        if wanted <= 1
            && let Some(turns) = waiting
                .ask
                .client
                .and_then(|client| self.clients.get(&client))
            && let Some(served) = turns.served
        {
            since = since.max(served);
        }
        let starves = now.saturating_duration_since(since) >= PATIENCE;
        let place = match wanted {
            0 => Place::Idle(Reverse(waiting.ask.heat()), since),
            _ if starves => Place::ByArrival(since),
            _ => Place::ByWish(Reverse(wanted), since),
        };
        (waiting.ask.priority, place)
    }

    /// Takes out who waits alone and longer than an answer takes, while such requests keep the queue standing; but for the
    /// last `places` of them, so that no place has to wait for somebody. A client's first in line has twice the time: where
    /// one has many here, its own have to go before another's only one.
    pub fn late(&mut self, now: Instant, takes: Duration, places: usize) -> Vec<T> {
        let stands = self.stands_since.is_some_and(|since| now >= since + STANDS);
        if !stands || takes.is_zero() {
            return Vec::new();
        }
        let worth = takes.max(LEAST);
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
            let first = self.queue.first(self.now).map(|(ticket, _)| ticket);
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

    #[test]
    fn c84_who_waits_alone_is_refused_when_it_would_be_late() {
        const TAKES: Duration = Duration::from_millis(50);
        let mut line = Line::of(9);
        let late = |line: &mut Line| line.queue.late(line.now, TAKES, 0);
        line.enter(page(&by(1)), "page");
        line.enter(of(1), "alone");
        assert_eq!(late(line.after(999)), [""; 0], "a burst");
        line.enter(of(2), "new");
        line.enter(of(2), "second");
        assert_eq!(late(line.after(1)), ["alone"]);
        assert_eq!(late(line.after(48)), [""; 0]);
        assert_eq!(late(line.after(1)), ["second"]);
        assert_eq!(late(line.after(49)), [""; 0]);
        assert_eq!(late(line.after(1)), ["new"]);
        // The queue has been empty of such.
        line.enter(of(1), "next");
        assert_eq!(late(line.after(60)), [""; 0]);
        assert_eq!(line.queue.len(), 2);
        // A place that may be free at any moment has somebody to wait for it.
        line.enter(of(2), "last");
        line.after(5_000);
        assert_eq!(line.queue.late(line.now, TAKES, 1), ["next"]);
        assert_eq!(line.queue.late(line.now, TAKES, 1), [""; 0]);
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let mut line = Line::of(9);
        let ticket = line.enter(of(1), "one");
        assert_eq!(line.queue.leave(ticket), Some("one"));
        assert_eq!(line.queue.leave(ticket), None);
        assert!(line.queue.is_empty() && line.queue.clients.is_empty());
        assert_eq!((line.queue.alone, line.queue.stands_since), (0, None));
    }
}
