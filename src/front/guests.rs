//! Who is let in: connections are counted, in all and by client, and when there is no room the least useful one goes.
//!

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use super::watch::Watch;
use crate::config::policy::Listen;
use crate::rules::client::Client;
use crate::telemetry::sharded::Counter;

const SHARDS: usize = 64;
/// What goes at once when there is no room: this part of what there may be, so that a search serves many.
const SHED: usize = 64;

/// Open connections.
pub struct Guests {
    /// What the process's files leave room for.
    room: AtomicUsize,
    open: AtomicUsize,
    clients: [Mutex<HashMap<Client, usize, foldhash::fast::RandomState>>; SHARDS],
    told: Told,
}

/// What is counted of them.
pub struct Told {
    /// Idle ones that were closed to make room.
    pub shed: Arc<Counter>,
    /// Those of a client that has too many.
    pub refused_client: Arc<Counter>,
    /// Those that no idle one could make room for.
    pub refused_full: Arc<Counter>,
    /// Those that should come through a trusted proxy, and don't, or by which it doesn't say for whom.
    pub refused_proxy: Arc<Counter>,
}

fn shard(client: Client) -> usize {
    let bytes: &[u8] = match &client {
        Client::V4(bytes) => bytes,
        Client::V6(bytes) => bytes,
    };
    bytes
        .iter()
        .fold(0, |sum, byte| (sum * 31 + usize::from(*byte)) % SHARDS)
}

/// A connection's place, given back when dropped.
pub struct Guest {
    guests: Arc<Guests>,
    /// Whose it is, if it counts as one of somebody's.
    client: Option<Client>,
}

impl Guests {
    /// There is no room until it is [set](Self::set_room).
    pub fn new(told: Told) -> Guests {
        Guests {
            room: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            clients: std::array::from_fn(|_| Mutex::default()),
            told,
        }
    }

    /// Connections now.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// The most connections at once.
    pub fn most(&self, listen: &Listen) -> usize {
        let room = self.room.load(Relaxed);
        match listen.max_connections {
            0 => room,
            most => most.min(room),
        }
    }

    /// The process's files leave room for so many. Whether those were others before.
    pub fn set_room(&self, room: usize) -> bool {
        self.room.swap(room, Relaxed) != room
    }

    /// Lets a connection in, if there is room or can be made. None: it is to be closed. `client`: whose it is, unless that
    /// may have any number.
    pub fn admit(
        self: &Arc<Guests>,
        client: Option<Client>,
        listen: &Listen,
        watch: &Watch,
    ) -> Option<Guest> {
        let most = self.most(listen);
        if client.is_some_and(|client| !self.enters(client, listen)) {
            return None;
        }
        // From here on it counts, and is given back by being dropped.
        let guest = Guest {
            guests: Arc::clone(self),
            client,
        };
        if self.open.fetch_add(1, Relaxed) >= most {
            let shed = watch.shed(most / SHED + 1);
            self.told.shed.add(shed as u64);
            if shed == 0 {
                self.told.refused_full.add(1);
                return None;
            }
        }
        Some(guest)
    }

    /// Counts a connection that is closed since it is not a trusted proxy's, or does not say for whom it is.
    pub fn refuse_proxy(&self) {
        self.told.refused_proxy.add(1);
    }

    /// Counts one more of a client, unless that has too many.
    fn enters(&self, client: Client, listen: &Listen) -> bool {
        let most = match listen.max_connections_per_client {
            0 => self.most(listen).div_ceil(4),
            most => most,
        };
        let mut clients = self.clients[shard(client)].lock();
        let has = clients.entry(client).or_default();
        if *has >= most {
            drop(clients);
            self.told.refused_client.add(1);
            return false;
        }
        *has += 1;
        true
    }

    fn leaves(&self, client: Client) {
        let mut clients = self.clients[shard(client)].lock();
        if let Some(has) = clients.get_mut(&client) {
            *has -= 1;
            if *has == 0 {
                clients.remove(&client);
            }
        }
    }
}

impl Guest {
    /// Counts it as `client`'s from now on; false: that has too many.
    pub fn is_of(&mut self, client: Client, listen: &Listen) -> bool {
        let enters = self.guests.enters(client, listen);
        if enters && let Some(before) = self.client.replace(client) {
            self.guests.leaves(before);
        }
        enters
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.open.fetch_sub(1, Relaxed);
        if let Some(client) = self.client {
            self.guests.leaves(client);
        }
    }
}
