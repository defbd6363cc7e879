//! What has been had: one request in flight, or one stream beside the budget.

use std::sync::Arc;

use super::super::room::Fate;
use super::{Budget, Picked, Refused, State};
use crate::clock;

/// One request in flight at one server.
pub(in crate::origin) struct Slot {
    budget: Arc<Budget>,
    picked: Picked,
    fate: Fate,
}

impl Budget {
    /// A stream beside the budget, up to `max_streams`.
    pub(in crate::origin) fn stream(self: &Arc<Self>) -> Result<Stream, Refused> {
        let mut state = self.state.lock();
        if state.streams >= state.terms.max_streams {
            return Err(Refused::Streams);
        }
        state.streams += 1;
        drop(state);
        Ok(Stream {
            budget: self.clone(),
        })
    }

    pub(super) fn slot_at(self: &Arc<Self>, picked: Picked) -> Slot {
        Slot {
            budget: self.clone(),
            picked,
            fate: Fate::default(),
        }
    }
}

impl Slot {
    pub(in crate::origin) fn server(&self) -> usize {
        self.picked.server
    }

    /// Whose it is, if its route has a bulkhead.
    pub(in crate::origin) fn route(&self) -> Option<usize> {
        self.picked.route
    }

    /// Where its exchange says what became of it.
    pub(in crate::origin) fn fate(&self) -> Fate {
        self.fate.clone()
    }

    /// The slot becomes a stream, and is free again; it is free also where no stream was to be had.
    pub(in crate::origin) fn into_stream(self) -> Result<Stream, Refused> {
        self.budget.stream()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock();
        state.release(self);
        drop(state);
        self.budget.serve_waiting();
    }
}

/// One long-lived stream, beside the budget.
pub(in crate::origin) struct Stream {
    budget: Arc<Budget>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.budget.state.lock().streams -= 1;
    }
}

impl State {
    /// One request less.
    fn release(&mut self, slot: &Slot) {
        let Picked { server, route, .. } = slot.picked;
        self.shares.give_back(route);
        let standing = match self.place(server) {
            Some(place) => self.servers.get_mut(place),
            None => self.gone.get_mut(server),
        };
        if let Some(standing) = standing {
            standing.in_flight -= 1;
            let now = slot.budget.at(clock::timer());
            // It may have got another room since.
            if standing.rooms == slot.picked.room {
                standing.room.end(slot.picked.begun, now, slot.fate.came());
            }
        }
    }
}
