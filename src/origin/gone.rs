//! Servers that have left an upstream: what they still have in flight, and how they stood, should they return.
//!
//! A name's addresses may take turns from one answer of DNS to the next. Who returns within minutes goes on as it was: as
//! large, as quick, and ejected as long as it would have been.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::standing::Standing;

/// How long one is remembered: longer than any ejection.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How many are that have nothing in flight.
const MOST: usize = 256;

/// By id.
#[derive(Default)]
pub struct Gone(BTreeMap<usize, Left>);

struct Left {
    standing: Standing,
    at: Instant,
}

impl Left {
    fn is_known(&self, now: Instant) -> bool {
        self.standing.in_flight > 0 || now.saturating_duration_since(self.at) < REMEMBERED
    }
}

impl Gone {
    /// One leaves. Who left long ago is forgotten for it.
    pub fn leave(&mut self, id: usize, standing: Standing, now: Instant) {
        self.0.insert(id, Left { standing, at: now });
        self.0.retain(|_, left| left.is_known(now));
        let idle = self
            .0
            .iter()
            .filter(|(_, left)| left.standing.in_flight == 0);
        let idle: Vec<_> = idle.map(|(id, left)| (left.at, *id)).collect();
        if idle.len() > MOST
            && let Some((_, first)) = idle.iter().min()
        {
            self.0.remove(first);
        }
    }

    /// One returns. How it stood, if that is known.
    pub fn back(&mut self, id: usize, now: Instant) -> Option<Standing> {
        let left = self.0.remove(&id)?;
        left.is_known(now).then_some(left.standing)
    }

    /// Whether it would go on as it was.
    pub fn knows(&self, id: usize, now: Instant) -> bool {
        self.0.get(&id).is_some_and(|left| left.is_known(now))
    }

    pub fn get(&self, id: usize) -> Option<&Standing> {
        self.0.get(&id).map(|left| &left.standing)
    }

    pub fn get_mut(&mut self, id: usize) -> Option<&mut Standing> {
        self.0.get_mut(&id).map(|left| &mut left.standing)
    }

    pub fn all(&self) -> impl Iterator<Item = &Standing> {
        self.0.values().map(|left| &left.standing)
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Standing> {
        self.0.values_mut().map(|left| &mut left.standing)
    }
}

#[cfg(test)]
mod tests {
    use super::super::standing::tests::start;
    use super::*;

    fn busy(in_flight: usize) -> Standing {
        let mut standing = Standing::default();
        standing.in_flight = in_flight;
        standing
    }

    #[test]
    fn who_left_is_known_for_minutes_and_as_long_as_it_is_busy() {
        let (mut gone, start) = (Gone::default(), start());
        gone.leave(1, busy(0), start);
        gone.leave(2, busy(1), start);
        let late = start + REMEMBERED;
        assert!(gone.knows(1, late - Duration::from_secs(1)));
        assert!(!gone.knows(1, late) && gone.knows(2, late) && !gone.knows(3, start));
        gone.leave(3, busy(0), late);
        assert!(gone.get(1).is_none() && gone.get(2).is_some());
        assert!(gone.back(3, late).is_some() && gone.back(3, late).is_none());
        gone.leave(4, busy(0), start);
        assert!(gone.back(4, late).is_none());
    }

    #[test]
    fn of_many_the_last_are_known() {
        let (mut gone, start) = (Gone::default(), start());
        gone.leave(0, busy(1), start);
        // Not in the order of their ids.
        for n in 1..=2 * MOST {
            let left = start + Duration::from_millis(n as u64);
            gone.leave(10_000 - n, busy(0), left);
        }
        let now = start + Duration::from_secs(1);
        assert_eq!(gone.all().count(), MOST + 1);
        assert!(gone.knows(0, now) && gone.knows(10_000 - 2 * MOST, now));
        assert!(!gone.knows(9_999, now));
    }
}
