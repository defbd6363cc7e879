//! The clients of one limit, 16 bytes each: a fingerprint of who it is, how many of its requests are in hand, and its cell.
//!
//! A client may stand in either of two buckets of eight places, which its fingerprint names. A place whose client is as good
//! as one that was never seen is free, so the table holds only those who have been here lately, and the memory it takes
//! grows with them. Where both buckets are full and there may be no more, a newcomer takes the place of who has used
//! least of eight and eight, but of nobody who has used more than half of what he may or has a request in hand: however many
//! addresses somebody has, he can't make the table forget one that is limited. A newcomer for whom that leaves no place is
//! let in and counted. To keep it so, every place has to be fed at the full rate all the time, by requests that are
//! admitted anyway; and who goes on gets a place as soon as one of sixteen falls below the half.
//!
//! Fingerprints have 48 bits beside those that name the shard, and are keyed: nobody can look for one that is another's. Among
//! ten million clients there are two at odds of one in a hundred that count as one.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::rules::gcra::{Cell, Gcra, Verdict};
use crate::telemetry::Counter;

/// Places in a bucket: two lines of a processor's cache, which it fetches together.
const PLACES: usize = 8;
/// Those of a full bucket that are asked whether they could stand in their other one: few, since that is somewhere else in
/// memory, and enough to fill more than four places of five.
const ASKED: usize = 4;
/// Clients in a shard, about, where there may be many.
const SHARD: usize = 4096;
const MOST_SHARDS: usize = 256;
/// A shard may be so many times as large as it should be, where a table is to hold more than it was made for.
const STRETCH: usize = 4;

/// Takes bytes from an account of memory, as long as what it gives is held. None: there are not so many.
pub type Room = Arc<dyn Fn(usize) -> Option<Hold> + Send + Sync>;
pub type Hold = Box<dyn Any + Send + Sync>;

/// What each client may.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    pub gcra: Option<Gcra>,
    /// Requests at once.
    pub concurrency: Option<u16>,
}

/// What came of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    Admit {
        /// How many more of cost 1 would be.
        remaining: u64,
        /// When its client may have all again.
        reset: Duration,
    },
    /// Admitted, but so much later.
    Wait(Duration),
    /// None: once another of its client's is done.
    Refuse(Option<Duration>),
    /// Admitted, since there is no place to remember it in; nothing was taken.
    Unremembered,
}

/// What came of a request, as far as those at once go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entered {
    /// It is in hand until it is released.
    InHand,
    /// Its client has as many as he may.
    Full,
    /// There is no place to remember it in, and nothing to be released.
    Unremembered,
}

pub struct Table {
    shards: Arc<[Padded]>,
    /// Buckets that a shard may have.
    most: usize,
    law: Law,
    /// Instead of the law's, where its rate is shared: this proxy's part.
    part: Option<Arc<ArcSwap<Gcra>>>,
    room: Room,
    pub unremembered: Arc<Counter>,
}

/// Two lines, since processors fetch them in pairs.
#[repr(align(128))]
struct Padded(Mutex<Shard>);

#[derive(Default)]
struct Shard {
    buckets: Box<[Bucket]>,
    /// Places that are or were somebody's.
    used: usize,
    _hold: Option<Hold>,
}

#[derive(Clone, Copy, Default)]
#[repr(align(128))]
struct Bucket([Place; PLACES]);

#[derive(Clone, Copy, Default)]
struct Place {
    /// The fingerprint, and in the lower bits how many requests are in hand; zero is nobody's.
    who: u64,
    cell: Cell,
}

const IN_HAND: u64 = 0xffff;

impl Place {
    fn is(&self, print: u64) -> bool {
        self.who & !IN_HAND == print
    }

    fn in_hand(&self) -> u16 {
        (self.who & IN_HAND) as u16
    }
}

/// Where a client stands: bucket and place.
type At = (usize, usize);

impl Table {
    /// For so many clients.
    pub fn new(law: Law, clients: usize, room: Room) -> Table {
        let (shards, most) = size(clients);
        Table {
            shards: (0..shards).map(|_| Padded(Mutex::default())).collect(),
            most,
            law,
            part: None,
            room,
            unremembered: Arc::default(),
        }
    }

    /// The same clients under another law, for so many of them: what they have used stays used. None: it was made for far
    /// fewer, so that a shard would have a crowd at its lock, and grow under it for a long time; and clients can't be moved, since
    /// a fingerprint doesn't tell which of more shards is its.
    pub fn under(&self, law: Law, clients: usize) -> Option<Table> {
        let (shards, _) = size(clients);
        (shards <= self.shards.len() * STRETCH).then(|| Table {
            shards: Arc::clone(&self.shards),
            most: most(clients, self.shards.len()),
            law,
            part: None,
            room: Arc::clone(&self.room),
            unremembered: Arc::clone(&self.unremembered),
        })
    }

    /// Goes by this part of the law's rate, as it is by then.
    pub fn having(self, part: Arc<ArcSwap<Gcra>>) -> Table {
        Table {
            part: Some(part),
            ..self
        }
    }

    /// Takes `cost` and a request at once from `client`, a keyed hash, or nothing. `now`: nanoseconds.
    pub fn take(&self, client: u64, now: u64, cost: u64) -> Taken {
        let print = print(client);
        let mut shard = self.shard(client).lock();
        let at = match shard.find(print) {
            Some(at) => at,
            // Who has nothing taken from him needs no place.
            None if cost == 0 && self.law.concurrency.is_none() => {
                return self.decide(&mut Place::default(), now, cost);
            }
            None => match self.settle(&mut shard, print, now) {
                Some(at) => at,
                None => {
                    self.unremembered.add(1);
                    return Taken::Unremembered;
                }
            },
        };
        self.decide(shard.place(at), now, cost)
    }

    /// What would come of it.
    pub fn look(&self, client: u64, now: u64, cost: u64) -> Taken {
        let shard = self.shard(client).lock();
        let known = shard.find(print(client));
        let mut place = known.map_or(Place::default(), |(bucket, place)| {
            shard.buckets[bucket].0[place]
        });
        self.decide(&mut place, now, cost)
    }

    /// One request of those at once is done.
    pub fn release(&self, client: u64) {
        let mut shard = self.shard(client).lock();
        if let Some(at) = shard.find(print(client)) {
            let place = shard.place(at);
            place.who -= u64::from(place.in_hand() > 0);
        }
    }

    /// Gives back what a request cost that did not come through after all.
    pub fn refund(&self, client: u64, cost: u64) {
        let Some(gcra) = self.gcra() else { return };
        let mut shard = self.shard(client).lock();
        if let Some(at) = shard.find(print(client)) {
            let place = shard.place(at);
            place.cell = gcra.refund(place.cell, cost);
        }
    }

    /// Takes a request at once and nothing else.
    pub fn enter(&self, client: u64, now: u64) -> Entered {
        let print = print(client);
        let mut shard = self.shard(client).lock();
        let at = shard.find(print);
        let Some(at) = at.or_else(|| self.settle(&mut shard, print, now)) else {
            self.unremembered.add(1);
            return Entered::Unremembered;
        };
        let place = shard.place(at);
        let most = self.law.concurrency.unwrap_or(u16::MAX);
        if place.in_hand() >= most {
            return Entered::Full;
        }
        place.who += 1;
        Entered::InHand
    }

    /// What a client has used; who is not remembered has used nothing.
    pub fn cell(&self, client: u64) -> Cell {
        let mut shard = self.shard(client).lock();
        match shard.find(print(client)) {
            Some(at) => shard.place(at).cell,
            None => Cell::default(),
        }
    }

    /// Remembers what he has used, if there is a place for him.
    pub fn set_cell(&self, client: u64, cell: Cell, now: u64) {
        let print = print(client);
        let mut shard = self.shard(client).lock();
        let at = shard.find(print);
        if let Some(at) = at.or_else(|| self.settle(&mut shard, print, now)) {
            shard.place(at).cell = cell;
        }
    }

    /// Takes what is known only afterwards.
    pub fn charge(&self, client: u64, now: u64, cost: u64) {
        let Some(gcra) = self.gcra() else { return };
        let print = print(client);
        let mut shard = self.shard(client).lock();
        let at = shard.find(print);
        match at.or_else(|| self.settle(&mut shard, print, now)) {
            Some(at) => {
                let place = shard.place(at);
                place.cell = gcra.charge(place.cell, now, cost);
            }
            None => self.unremembered.add(1),
        }
    }

    /// How many clients are remembered, those included who are as good as new.
    pub fn remembered(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().used).sum()
    }

    /// What it takes now.
    pub fn bytes(&self) -> usize {
        let buckets: usize = self
            .shards
            .iter()
            .map(|shard| shard.0.lock().buckets.len())
            .sum();
        buckets * size_of::<Bucket>() + self.shards.len() * size_of::<Padded>()
    }

    /// What one for so many clients may take, while a shard of it grows.
    pub fn takes(clients: usize) -> usize {
        let (shards, most) = size(clients);
        (shards + 1) * most * size_of::<Bucket>() + shards * size_of::<Padded>()
    }

    /// What it may take.
    pub fn most_bytes(&self) -> usize {
        self.shards.len() * (self.most * size_of::<Bucket>() + size_of::<Padded>())
    }

    fn gcra(&self) -> Option<Gcra> {
        match &self.part {
            Some(part) => Some(**part.load()),
            None => self.law.gcra,
        }
    }

    fn shard(&self, client: u64) -> &Mutex<Shard> {
        // Bits that the fingerprint has not; the number of shards is a power of two.
        &self.shards[(client >> 48) as usize & (self.shards.len() - 1)].0
    }

    fn decide(&self, place: &mut Place, now: u64, cost: u64) -> Taken {
        let (gcra, concurrency) = (self.gcra(), &self.law.concurrency);
        if concurrency.is_some_and(|most| place.in_hand() >= most) {
            return Taken::Refuse(None);
        }
        let taken = match gcra {
            None => Taken::Admit {
                remaining: concurrency.map_or(0, |most| u64::from(most - place.in_hand() - 1)),
                reset: Duration::ZERO,
            },
            Some(gcra) => match gcra.decide(place.cell, now, cost) {
                Verdict::Admit {
                    cell,
                    remaining,
                    reset,
                } => {
                    place.cell = cell;
                    Taken::Admit { remaining, reset }
                }
                Verdict::Wait { cell, wait } => {
                    place.cell = cell;
                    Taken::Wait(wait)
                }
                Verdict::Refuse { cell, wait } => {
                    place.cell = cell;
                    return Taken::Refuse(Some(wait));
                }
            },
        };
        place.who += u64::from(concurrency.is_some());
        taken
    }

    /// A place for a newcomer.
    fn settle(&self, shard: &mut Shard, print: u64, now: u64) -> Option<At> {
        let at = loop {
            let is_free = |place: &Place| self.is_free(place, now);
            if let Some(at) = shard.vacancy(print, is_free) {
                break at;
            }
            if !self.grow(shard, now) {
                break self.least(shard, print, now)?;
            }
        };
        let place = shard.place(at);
        let was_nobody = place.who == 0;
        *place = Place {
            who: print,
            cell: Cell::default(),
        };
        shard.used += usize::from(was_nobody);
        Some(at)
    }

    fn is_free(&self, place: &Place, now: u64) -> bool {
        let full = |gcra: &Gcra| gcra.is_full(place.cell, now);
        place.in_hand() == 0 && self.gcra().as_ref().is_none_or(full)
    }

    /// The place of who has used least, if that is no more than half.
    fn least(&self, shard: &Shard, print: u64, now: u64) -> Option<At> {
        // Without a rate only those are remembered who have a request in hand.
        let gcra = self.gcra().filter(|_| !shard.buckets.is_empty())?;
        let places = shard.buckets_of(print).into_iter().flat_map(|bucket| {
            let places = shard.buckets[bucket].0.iter().enumerate();
            places.map(move |(at, place)| ((bucket, at), place))
        });
        let idle = places.filter(|(_, place)| place.in_hand() == 0);
        let used = idle.map(|(at, place)| (gcra.used(place.cell, now), at));
        let (least, at) = used.min_by_key(|(used, _)| *used)?;
        (!gcra.is_over_half(least)).then_some(at)
    }

    /// Makes a shard smaller whose clients have gone, or have all they may have again: the `nth`, of all in turn.
    pub fn tidy(&self, nth: usize, now: u64) {
        let mut shard = self.shards[nth % self.shards.len()].0.lock();
        let gcra = self.gcra();
        let full = |place: &Place| gcra.is_none_or(|gcra| gcra.is_full(place.cell, now));
        let all = shard.buckets.iter().flat_map(|bucket| &bucket.0);
        let taken = all
            .filter(|place| place.in_hand() > 0 || !full(place))
            .count();
        if taken == 0 {
            *shard = Shard::default();
        } else if taken * 4 <= shard.buckets.len() * PLACES {
            // Half of it is left for those who come.
            let size = self.step(|smaller| smaller * PLACES >= taken * 2);
            if size < shard.buckets.len()
                && let Some(hold) = (self.room)(size * size_of::<Bucket>())
                && let Some(smaller) = self.moved(&shard, size, hold, now)
            {
                *shard = smaller;
            }
        }
    }

    /// The least of the sizes that a shard may have, of which this is so: each is four fifths of the next, so that the last
    /// step is as large as the others.
    fn step(&self, is_so: impl Fn(usize) -> bool) -> usize {
        let mut size = self.most;
        while is_so(size * 4 / 5) {
            size = size * 4 / 5;
        }
        size
    }

    /// Makes the shard a quarter larger, if it may be. Who is as good as new is left behind.
    fn grow(&self, shard: &mut Shard, now: u64) -> bool {
        let old = shard.buckets.len();
        if old >= self.most {
            return false;
        }
        let mut size = self.step(|smaller| smaller > old);
        // Of a few buckets it may be that one is too many's.
        while size <= self.most {
            let Some(hold) = (self.room)(size * size_of::<Bucket>()) else {
                return false;
            };
            if let Some(grown) = self.moved(shard, size, hold, now) {
                *shard = grown;
                return true;
            }
            size += size / 4 + 1;
        }
        false
    }

    /// The shard with so many buckets; nothing if somebody would have no place in it.
    fn moved(&self, shard: &Shard, buckets: usize, hold: Hold, now: u64) -> Option<Shard> {
        let mut moved = Shard {
            buckets: vec![Bucket::default(); buckets].into_boxed_slice(),
            used: 0,
            _hold: Some(hold),
        };
        let all = shard.buckets.iter().flat_map(|bucket| &bucket.0);
        for place in all.filter(|place| !self.is_free(place, now)) {
            let at = moved.vacancy(place.who & !IN_HAND, |place| place.who == 0)?;
            *moved.place(at) = *place;
            moved.used += 1;
        }
        Some(moved)
    }
}

/// Shards for so many clients, and the buckets that each may have.
fn size(clients: usize) -> (usize, usize) {
    let shards = (clients / SHARD).next_power_of_two().clamp(1, MOST_SHARDS);
    (shards, most(clients, shards))
}

/// How many buckets each of so many shards may have.
fn most(clients: usize, shards: usize) -> usize {
    // A quarter more than there are clients, or some would find both of their buckets full.
    let places = clients.saturating_add(clients / 4);
    places.div_ceil(shards * PLACES).max(1)
}

/// A client's fingerprint: in the upper 48 bits, and never zero.
fn print(client: u64) -> u64 {
    (client << 16).max(1 << 16)
}

impl Shard {
    /// The buckets it may stand in. There has to be one.
    fn buckets_of(&self, print: u64) -> [usize; 2] {
        let of = |bits: u64| (((bits >> 32) * self.buckets.len() as u64) >> 32) as usize;
        [print, print.wrapping_mul(0x9e37_79b9_7f4a_7c15)].map(of)
    }

    fn find(&self, print: u64) -> Option<At> {
        if self.buckets.is_empty() {
            return None;
        }
        let buckets = self.buckets_of(print);
        let within = |bucket: usize| {
            let mut places = self.buckets[bucket].0.iter();
            let place = places.position(|place| place.is(print));
            place.map(|place| (bucket, place))
        };
        buckets.into_iter().find_map(within)
    }

    fn place(&mut self, (bucket, place): At) -> &mut Place {
        &mut self.buckets[bucket].0[place]
    }

    /// A place that is free, or is made so: one whose client has a free place in his other bucket.
    fn vacancy(&mut self, print: u64, is_free: impl Fn(&Place) -> bool) -> Option<At> {
        if self.buckets.is_empty() {
            return None;
        }
        if let Some(at) = self.free(print, &is_free) {
            return Some(at);
        }
        for bucket in self.buckets_of(print) {
            for at in (0..ASKED).map(|place| (bucket, place)) {
                let place = *self.place(at);
                if let Some(to) = self.free(place.who & !IN_HAND, &is_free) {
                    // What was nobody's yet is so where the newcomer comes.
                    *self.place(at) = std::mem::replace(self.place(to), place);
                    return Some(at);
                }
            }
        }
        None
    }

    /// One that is free: in the first of its buckets, if there is one, so that nine of ten are found at the first look. What is
    /// looked at is somewhere else in memory each time, and that is what a decision takes its time for.
    fn free(&self, print: u64, is_free: impl Fn(&Place) -> bool) -> Option<At> {
        let within = |bucket: usize| {
            let place = self.buckets[bucket].0.iter().position(&is_free);
            place.map(|place| (bucket, place))
        };
        self.buckets_of(print).into_iter().find_map(within)
    }
}

#[cfg(test)]
mod tests;
