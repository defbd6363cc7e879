//! What was done here and is not in the log yet, in its order.

use std::collections::VecDeque;

use super::entry::Entry;
use crate::levers::Uid;
use crate::rules::purge::{Purge, What};

/// So much may wait. Where more is purged, all waiting purges become one purge of everything: a soft one, if they were all soft.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 4 << 20;
/// Of a message.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

/// What is to be said of one thing.
#[derive(Clone, PartialEq, Debug)]
pub struct Order {
    pub kind: Kind,
    /// Of a lever.
    pub uid: Option<Uid>,
    /// The log's entry.
    pub text: String,
    /// It is a purge, and not a soft one.
    pub is_hard: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Purge,
    Pull,
    Undo,
    /// A lever needs to be known no longer; no entry.
    Over,
}

impl Kind {
    /// What the script calls it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Purge => "log",
            Kind::Pull => "pull",
            Kind::Undo => "undo",
            Kind::Over => "over",
        }
    }
}

impl Order {
    /// # Errors
    /// It is too long for the log; for people.
    pub fn of(entry: &Entry) -> Result<Order, String> {
        let (kind, uid) = match entry {
            Entry::Purge(_) => (Kind::Purge, None),
            Entry::Pull(lever) => (Kind::Pull, Some(lever.uid)),
            Entry::Undo(uid) => (Kind::Undo, Some(*uid)),
        };
        Ok(Order {
            kind,
            uid,
            text: entry.text()?,
            is_hard: matches!(entry, Entry::Purge(purge) if !purge.soft),
        })
    }

    pub fn over(uid: Uid) -> Order {
        Order {
            kind: Kind::Over,
            uid: Some(uid),
            text: String::new(),
            is_hard: false,
        }
    }
}

/// See the module.
#[derive(Default)]
pub struct Queue {
    orders: VecDeque<(u64, Order)>,
    bytes: usize,
    /// The last ticket that was given.
    last: u64,
    /// Of levers, since there were too many; until that is told.
    pub dropped: usize,
}

impl Queue {
    /// Puts one at its end. Its ticket; all tickets are greater than those before. Whether purges had to be made one.
    pub fn push(&mut self, order: Order) -> (u64, bool) {
        self.last += 1;
        self.bytes += order.text.len();
        self.orders.push_back((self.last, order));
        let is_full = self.orders.len() > MOST || self.bytes > MOST_BYTES;
        if is_full {
            self.gather();
        }
        (self.last, is_full)
    }

    /// A ticket for one that can't wait here.
    pub fn skip(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The ticket of the last one that ever came.
    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn len(&self) -> usize {
        self.orders.len()
    }

    /// Those whose turn it is, and the ticket of the last of them; they stay until they are [`done`](Self::done).
    pub fn batch(&self) -> (Vec<Order>, u64) {
        let mut batch = Vec::new();
        let (mut bytes, mut ticket) = (0, 0);
        for (its, order) in self.orders.iter().take(BATCH) {
            bytes += order.text.len();
            if bytes > BATCH_BYTES && !batch.is_empty() {
                break;
            }
            batch.push(order.clone());
            ticket = *its;
        }
        (batch, ticket)
    }

    /// All up to this ticket are in the log.
    pub fn done(&mut self, ticket: u64) {
        while let Some((_, order)) = self.orders.pop_front_if(|(its, _)| *its <= ticket) {
            self.bytes -= order.text.len();
        }
    }

    /// Of levers there are few; of purges there may be any number.
    fn gather(&mut self) {
        let is_purge = |order: &Order| order.kind == Kind::Purge;
        let last = self.orders.iter().rposition(|(_, order)| is_purge(order));
        // What was to go for good goes for good.
        let all = match self.orders.iter().any(|(_, order)| order.is_hard) {
            true => Purge::hard(What::All),
            false => Purge::soft(What::All),
        };
        let all = Order::of(&Entry::Purge(all));
        if let (Some(last), Ok(all)) = (last, all) {
            self.orders[last].1 = all.clone();
            let ticket = self.orders[last].0;
            self.orders
                .retain(|(its, order)| !is_purge(order) || *its == ticket);
        }
        // What nobody needs to keep may be kept.
        if self.orders.len() > MOST {
            self.orders.retain(|(_, order)| order.kind != Kind::Over);
        }
        while self.orders.len() > MOST {
            self.orders.pop_front();
            self.dropped += 1;
        }
        self.bytes = self.orders.iter().map(|(_, order)| order.text.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(n: usize) -> Order {
        let purge = Purge::hard(What::Tag(format!("t{n}")));
        Order::of(&Entry::Purge(purge)).unwrap()
    }

    #[test]
    fn in_order_and_until_done() {
        let mut queue = Queue::default();
        for n in 1..=100 {
            assert_eq!(queue.push(tag(n)), (n as u64, false));
        }
        let (batch, ticket) = queue.batch();
        assert_eq!((batch.len(), ticket), (BATCH, BATCH as u64));
        assert_eq!(batch[0], tag(1));
        assert_eq!(queue.batch().1, ticket, "nothing is done yet");
        queue.done(ticket);
        assert_eq!(queue.batch().0[0], tag(BATCH + 1));
        queue.done(100);
        assert_eq!((queue.len(), queue.bytes, queue.last()), (0, 0, 100));
    }

    #[test]
    fn too_many_purges_are_one_and_levers_stay() {
        let mut queue = Queue::default();
        queue.push(Order::of(&Entry::Undo(Uid(1))).unwrap());
        let pushed: Vec<_> = (0..MOST).map(|n| queue.push(tag(n)).1).collect();
        assert_eq!(pushed.iter().filter(|one| **one).count(), 1);
        let (batch, ticket) = queue.batch();
        let kinds: Vec<_> = batch.iter().map(|order| order.kind).collect();
        assert_eq!(kinds, [Kind::Undo, Kind::Purge]);
        assert_eq!(ticket, MOST as u64 + 1);
        let all = Entry::Purge(Purge::hard(What::All));
        assert_eq!(Entry::read(batch[1].text.as_bytes(), 0), Ok(all));
        // And by their length.
        let long = Purge::hard(What::Tag("x".repeat(8_000)));
        let long = Order::of(&Entry::Purge(long)).unwrap();
        let gathered = (0..MOST_BYTES / 8_000).any(|_| queue.push(long.clone()).1);
        assert!(gathered && queue.bytes < MOST_BYTES);
    }

    #[test]
    fn only_soft_purges_become_a_soft_one() {
        let mut queue = Queue::default();
        let soft = Purge::soft(What::Tag("t".into()));
        let soft = Order::of(&Entry::Purge(soft)).unwrap();
        while !queue.push(soft.clone()).1 {}
        let all = Entry::Purge(Purge::soft(What::All));
        let (batch, _) = queue.batch();
        assert_eq!((batch.len(), queue.dropped), (1, 0));
        assert_eq!(Entry::read(batch[0].text.as_bytes(), 0), Ok(all));
    }

    #[test]
    fn levers_beyond_the_most_are_counted() {
        let mut queue = Queue::default();
        let undo = Order::of(&Entry::Undo(Uid(1))).unwrap();
        for _ in 0..MOST + 3 {
            queue.push(undo.clone());
        }
        assert_eq!((queue.len(), queue.dropped), (MOST, 3));
    }
}
