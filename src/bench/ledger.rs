//! What an origin knows of its own requests: the truth that a proxy's figures are held against.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;

/// One request as the origin has seen it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub path: Arc<str>,
    /// When its head had come.
    pub arrived: Instant,
    /// When its work began: it waited in the origin's own backlog until then.
    pub began: Option<Instant>,
    /// When it was over, in whichever way.
    pub left: Option<Instant>,
    pub fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Waits or is worked on.
    Open,
    Answered,
    /// It was worked on to the end for somebody who had gone.
    Wasted,
    /// The origin was killed, or the connection broke.
    Cut,
}

/// Every request of an origin's life. Cheap to clone: all clones are one.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    fetches: Vec<Fetch>,
    paths: HashMap<String, Arc<str>>,
}

/// A request's line in the ledger. Dropped before its end, it was cut.
pub(super) struct Entry {
    ledger: Ledger,
    number: usize,
}

impl Ledger {
    /// A request has come.
    pub(super) fn arrived(&self, path: &str) -> Entry {
        let arrived = clock::instant();
        let mut book = self.0.lock();
        let path = match book.paths.get(path) {
            Some(known) => known.clone(),
            None => {
                let new: Arc<str> = path.into();
                book.paths.insert(path.to_owned(), new.clone());
                new
            }
        };
        book.fetches.push(Fetch {
            path,
            arrived,
            began: None,
            left: None,
            fate: Fate::Open,
        });
        Entry {
            ledger: self.clone(),
            number: book.fetches.len() - 1,
        }
    }

    /// All so far, in the order they arrived.
    pub fn fetches(&self) -> Vec<Fetch> {
        self.0.lock().fetches.clone()
    }
}

impl Entry {
    pub(super) fn begins(&self) {
        let now = clock::instant();
        self.ledger.0.lock().fetches[self.number].began = Some(now);
    }

    pub(super) fn ends(self, fate: Fate) {
        self.end(fate);
    }

    fn end(&self, fate: Fate) {
        let now = clock::instant();
        let mut book = self.ledger.0.lock();
        let fetch = &mut book.fetches[self.number];
        if fetch.left.is_none() {
            fetch.left = Some(now);
            fetch.fate = fate;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.end(Fate::Cut);
    }
}

/// The most that were in flight at once, worked on or in the origin's backlog, from `from` until `to`.
pub fn most_in_flight(fetches: &[Fetch], from: Instant, to: Instant) -> usize {
    let steps = steps(fetches);
    let before = steps.range(..from).next_back().map_or(0, |(_, n)| *n);
    steps
        .range(from..to)
        .map(|(_, n)| *n)
        .fold(before, usize::max)
}

/// How many were in flight on average in each `grain` from `from` on, until `to`.
pub fn in_flight(fetches: &[Fetch], from: Instant, to: Instant, grain: Duration) -> Vec<f64> {
    let mut sums = slots(from, to, grain);
    for fetch in fetches {
        let left = fetch.left.unwrap_or(to).min(to);
        for (slot, sum) in sums.iter_mut().enumerate() {
            let begins = from + grain * slot as u32;
            let (first, last) = (fetch.arrived.max(begins), left.min(begins + grain));
            *sum += last.saturating_duration_since(first).as_secs_f64() / grain.as_secs_f64();
        }
    }
    sums
}

/// How many were answered in each `grain` from `from` on, until `to`.
pub fn answered(fetches: &[Fetch], from: Instant, to: Instant, grain: Duration) -> Vec<f64> {
    let mut counts = slots(from, to, grain);
    for fetch in fetches.iter().filter(|fetch| fetch.fate == Fate::Answered) {
        let after = fetch
            .left
            .and_then(|left| left.checked_duration_since(from));
        let slot = after.map(|after| (after.as_secs_f64() / grain.as_secs_f64()) as usize);
        if let Some(count) = slot.and_then(|slot| counts.get_mut(slot)) {
            *count += 1.0;
        }
    }
    counts
}

/// When each page was fetched, in order.
pub fn by_page(fetches: &[Fetch]) -> HashMap<Arc<str>, Vec<Instant>> {
    let mut pages: HashMap<Arc<str>, Vec<Instant>> = HashMap::new();
    for fetch in fetches {
        pages
            .entry(fetch.path.clone())
            .or_default()
            .push(fetch.arrived);
    }
    pages
}

/// How long the work of each answered one took.
pub fn worked(fetches: &[Fetch]) -> Vec<Duration> {
    let times = fetches.iter().filter(|fetch| fetch.fate == Fate::Answered);
    times
        .filter_map(|fetch| Some(fetch.left? - fetch.began?))
        .collect()
}

fn slots(from: Instant, to: Instant, grain: Duration) -> Vec<f64> {
    let length = to.saturating_duration_since(from);
    vec![0.0; (length.as_secs_f64() / grain.as_secs_f64()).round() as usize]
}

/// How many there were from each moment on at which that changed.
fn steps(fetches: &[Fetch]) -> BTreeMap<Instant, usize> {
    let mut changes: BTreeMap<Instant, isize> = BTreeMap::new();
    for fetch in fetches {
        *changes.entry(fetch.arrived).or_default() += 1;
        if let Some(left) = fetch.left {
            *changes.entry(left).or_default() -= 1;
        }
    }
    let mut count = 0;
    let so_far = changes.into_iter().map(|(at, change)| {
        count += change;
        (at, usize::try_from(count).unwrap_or(0))
    });
    so_far.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn fetch(start: Instant, arrived: u64, left: u64, fate: Fate) -> Fetch {
        Fetch {
            path: "/".into(),
            arrived: start + ms(arrived),
            began: Some(start + ms(arrived)),
            left: Some(start + ms(left)),
            fate,
        }
    }

    #[test]
    fn who_was_in_flight_when() {
        let start = clock::instant();
        let fetches = [
            fetch(start, 0, 100, Fate::Answered),
            fetch(start, 50, 150, Fate::Answered),
            fetch(start, 150, 250, Fate::Cut),
        ];
        let most = |from, to| most_in_flight(&fetches, start + ms(from), start + ms(to));
        assert_eq!(most(0, 300), 2);
        // One leaves as another comes.
        assert_eq!(most(110, 300), 1);
        assert_eq!(most(60, 90), 2);
        assert_eq!(most(260, 300), 0);
        let average = in_flight(&fetches, start, start + ms(300), ms(100));
        assert_eq!(average, [1.5, 1.0, 0.5]);
        let answers = answered(&fetches, start, start + ms(300), ms(100));
        assert_eq!(answers, [0.0, 2.0, 0.0]);
    }

    #[test]
    fn what_is_dropped_was_cut_and_what_has_ended_stays_so() {
        let ledger = Ledger::default();
        let (answered, cut) = (ledger.arrived("/a"), ledger.arrived("/b"));
        answered.begins();
        answered.ends(Fate::Answered);
        drop(cut);
        let fates: Vec<Fate> = ledger.fetches().iter().map(|fetch| fetch.fate).collect();
        assert_eq!(fates, [Fate::Answered, Fate::Cut]);
        assert_eq!(worked(&ledger.fetches()).len(), 1);
        assert_eq!(by_page(&ledger.fetches()).len(), 2);
    }
}
