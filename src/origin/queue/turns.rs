//! Whose turn it was of late.

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt};
use tokio::time::Instant;

use super::PATIENCE;
use crate::rules::client::Client;

/// Clients that have had a place within [`PATIENCE`]: who has had none for so long is as good as one who has had none.
pub(super) struct Turns {
    last: HashMap<Client, Instant>,
    order: VecDeque<(Instant, Client)>,
}

impl Turns {
    /// When it last had a place.
    pub fn last(&self, client: Client) -> Option<Instant> {
        self.last.get(&client).copied()
    }

    pub fn had(&mut self, client: Client, now: Instant) {
        self.last.insert(client, now);
        self.order.push_back((now, client));
    }

    pub fn forget(&mut self, now: Instant) {
        while let Some((at, client)) = self.order.front()
            && now >= *at + PATIENCE
        {
            if self.last.get(client) == Some(at) {
                self.last.remove(client);
            }
            self.order.pop_front();
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> (usize, usize) {
        (self.last.len(), self.order.len())
    }
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            last: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}
