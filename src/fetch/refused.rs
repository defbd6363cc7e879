//! Requests that were not let through to an origin: counted, and what their clients are told.

use super::Fetcher;
use crate::cache::flight::{Failure, Refusal};
use crate::config::policy::Route;
use crate::origin::Refused;
use crate::rules::time::Moment;
use crate::telemetry::{OriginResult, RefusedReason};

impl Fetcher {
    /// A request that was to be asked at once had no permit.
    pub fn refused(&self, route: &Route, refused: Refused) -> Failure {
        self.metrics[route.upstream].count(OriginResult::Refused);
        self.turned_away(route, refused)
    }

    /// Whether the upstream of a route is down, so that nobody is to ask for anything: then a request that wants to is counted as
    /// refused.
    pub fn down(&self, route: &Route, now: Moment) -> Option<Refusal> {
        if self.upstreams[route.upstream].open_since(now).is_some() {
            return None;
        }
        match self.refused(route, Refused::Down) {
            Failure::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// A request was turned away, which may have been asked already.
    pub fn turned_away(&self, route: &Route, refused: Refused) -> Failure {
        let (reason, why) = match refused {
            Refused::QueueFull => (
                RefusedReason::QueueFull,
                "too many requests wait for the origin",
            ),
            Refused::Late => (
                RefusedReason::Late,
                "an answer of the origin would come too late",
            ),
            Refused::Waited => (
                RefusedReason::Waited,
                "the wait for the origin was too long",
            ),
            Refused::Streams => (
                RefusedReason::Streams,
                "too many streams are open at the origin",
            ),
            Refused::NoServer => (RefusedReason::NoServer, "the origin has no address yet"),
            Refused::Down => (RefusedReason::Breaker, "the origin is down"),
            // Told as the failure before it, where there was one.
            Refused::NowhereElse => (
                RefusedReason::QueueFull,
                "no other server of the origin has a place",
            ),
        };
        self.metrics[route.upstream].refused(reason);
        Failure::Refused(Refusal {
            why,
            is_down: refused == Refused::Down,
            backlog: match refused {
                Refused::Down => std::time::Duration::ZERO,
                _ => self.upstreams[route.upstream].backlog(route.bulkhead),
            },
        })
    }
}
