//! Whose turn it was of late, and who has more than a fair share.

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt};
use tokio::time::Instant;

use crate::rules::client::Client;

/// So many requests beyond an equal part are no greed: a page has some parts.
const GRACE: usize = 2;

/// Clients that wait, or have had a place of late.
pub(super) struct Turns {
    clients: HashMap<Client, Has>,
    /// Requests of all of them that wait.
    waiting: usize,
    /// Places they have had, in order.
    had: VecDeque<(Instant, Client)>,
}

#[derive(Default)]
struct Has {
    waiting: usize,
    had: usize,
    last: Option<Instant>,
}

impl Turns {
    pub fn comes(&mut self, client: Client) {
        self.clients.entry(client).or_default().waiting += 1;
        self.waiting += 1;
    }

    pub fn leaves(&mut self, client: Client) {
        if let Some(has) = self.clients.get_mut(&client) {
            has.waiting -= 1;
            self.waiting -= 1;
            self.drop_if_idle(client);
        }
    }

    /// One of its requests has a place.
    pub fn had(&mut self, client: Client, now: Instant) {
        let has = self.clients.entry(client).or_default();
        has.had += 1;
        has.last = Some(now);
        self.had.push_back((now, client));
    }

    /// What was up to `until` no longer counts.
    pub fn forget(&mut self, until: Instant) {
        while let Some((at, client)) = self.had.front().copied()
            && at <= until
        {
            self.had.pop_front();
            if let Some(has) = self.clients.get_mut(&client) {
                has.had -= 1;
                self.drop_if_idle(client);
            }
        }
    }

    /// When a client last had a place, if it has more, had or asked for, than an equal part of all and [`GRACE`].
    pub fn over(&self, client: Client) -> Option<Instant> {
        let has = self.clients.get(&client)?;
        let all = self.waiting + self.had.len();
        let beyond = (has.waiting + has.had).saturating_sub(GRACE);
        has.last.filter(|_| beyond * self.clients.len() > all)
    }

    fn drop_if_idle(&mut self, client: Client) {
        if let Some(has) = self.clients.get(&client)
            && has.waiting + has.had == 0
        {
            self.clients.remove(&client);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> (usize, usize) {
        (self.clients.len(), self.had.len())
    }
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            clients: HashMap::new(),
            waiting: 0,
            had: VecDeque::new(),
        }
    }
}
