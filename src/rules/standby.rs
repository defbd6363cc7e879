//! When the static fallback goes on and off by itself.
//!
//! ```text
//!            nothing healthy is left           for `after`
//!   Live ─────────────────────────► Failing ─────────────────► On
//!    ▲ ◄──────────── healthy ─────────┘                        │ ▲
//!    └──────────── for `hold` ──────── Returning ◄── healthy ──┘ └─ not healthy
//! ```
//!
//! What changes back before its time is over begins that anew, so an upstream that comes and goes faster than `hold` stays in fallback.

use std::time::Duration;

use super::time::Moment;

/// How long it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Nothing healthy for so long: on.
    pub after: Duration,
    /// Healthy for so long: off.
    pub hold: Duration,
}

/// Where one upstream stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Standby {
    #[default]
    Live,
    Failing(Moment),
    On,
    Returning(Moment),
}

/// What one look has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    On,
    Off,
}

impl Standby {
    pub fn is_on(self) -> bool {
        matches!(self, Standby::On | Standby::Returning(_))
    }

    /// It is not to go on by itself any more.
    pub fn end(&mut self) -> Option<Turn> {
        let was_on = std::mem::take(self).is_on();
        was_on.then_some(Turn::Off)
    }

    /// The upstream was looked at.
    pub fn look(&mut self, is_healthy: bool, now: Moment, terms: &Terms) -> Option<Turn> {
        let lasted = |since: Moment, time: Duration| {
            let lasted = now.0.saturating_sub(since.0);
            u128::from(lasted) >= time.as_millis()
        };
        let since = match *self {
            Standby::Failing(since) | Standby::Returning(since) => since,
            Standby::Live | Standby::On => now,
        };
        let next = match (self.is_on(), is_healthy) {
            (false, true) => Standby::Live,
            (false, false) if lasted(since, terms.after) => Standby::On,
            (false, false) => Standby::Failing(since),
            (true, false) => Standby::On,
            (true, true) if lasted(since, terms.hold) => Standby::Live,
            (true, true) => Standby::Returning(since),
        };
        let was_on = std::mem::replace(self, next).is_on();
        match (was_on, next.is_on()) {
            (false, true) => Some(Turn::On),
            (true, false) => Some(Turn::Off),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms {
        after: Duration::from_secs(5),
        hold: Duration::from_secs(10),
    };

    #[test]
    fn it_goes_on_and_off_in_its_time() {
        let mut standby = Standby::default();
        let mut look =
            |healthy, seconds: u64| standby.look(healthy, Moment(seconds * 1000), &TERMS);
        assert_eq!(look(true, 0), None);
        assert_eq!(look(false, 100), None);
        assert_eq!(look(false, 104), None);
        assert_eq!(look(false, 105), Some(Turn::On));
        assert_eq!(look(false, 200), None);
        assert_eq!(look(true, 300), None);
        assert_eq!(look(true, 309), None);
        assert_eq!(look(true, 310), Some(Turn::Off));
        assert_eq!(look(true, 400), None);
        assert_eq!(standby.end(), None);
        standby = Standby::On;
        assert_eq!((standby.end(), standby), (Some(Turn::Off), Standby::Live));
    }

    #[test]
    fn a_relapse_begins_the_time_anew() {
        let mut standby = Standby::default();
        let mut look =
            |healthy, seconds: u64| standby.look(healthy, Moment(seconds * 1000), &TERMS);
        assert_eq!(look(false, 0), None);
        assert_eq!(look(true, 4), None);
        assert_eq!(look(false, 5), None);
        assert_eq!(look(false, 9), None);
        assert_eq!(look(false, 10), Some(Turn::On));
        assert_eq!(look(true, 11), None);
        assert_eq!(look(false, 20), None);
        assert_eq!(look(true, 21), None);
        assert_eq!(look(true, 30), None);
        assert_eq!(look(true, 31), Some(Turn::Off));
    }

    proptest! {
        /// Whatever the upstream does, between two turns lies at least the time that the second one takes.
        #[test]
        fn it_never_flaps(looks in proptest::collection::vec((any::<bool>(), 1u64..4_000), 1..400)) {
            let (mut standby, mut now, mut last) = (Standby::default(), 0, None);
            for (healthy, later) in looks {
                now += later;
                let turn = standby.look(healthy, Moment(now), &TERMS);
                let Some(turn) = turn else { continue };
                prop_assert_eq!(turn == Turn::On, !healthy);
                let least = if turn == Turn::On { TERMS.after } else { TERMS.hold };
                if let Some(last) = last {
                    prop_assert!(u128::from(now - last) >= least.as_millis());
                }
                last = Some(now);
            }
        }
    }
}
