//! A limit's part on this proxy: what requests touch.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use ring::digest;
use siphasher::sip::SipHasher13;

use super::FleetSpec;
use crate::limits::spec::{Cost, LimitSpec};
use crate::limits::table::Taken;
use crate::rules::gcra::{Cell, Gcra, Verdict};
use crate::rules::lease::{Lease, even, told_wait};
use crate::telemetry::Counter;

/// The most clients that are hot, here and in Redis.
pub const MOST_HOT: usize = 10_000;
/// The most that wait for becoming so; who finds no place among them does with another refusal.
const MOST_REFUSED: usize = 1024;

/// Where a limit keeps the cells of clients who are not hot.
pub trait Cells: Send + Sync {
    /// Who is not known has the default.
    fn cell(&self, client: u64) -> Cell;
    fn set_cell(&self, client: u64, cell: Cell, now: u64);
}

/// A limit's part on this proxy.
pub struct Part {
    pub whole: Gcra,
    /// What the dearest request costs.
    pub least: f64,
    /// What the limit is called in Redis: another where anything about it is.
    pub(super) tag: u32,
    keys: (u64, u64),
    even: Arc<ArcSwap<Gcra>>,
    /// Of any: spares the look into the map.
    some_hot: AtomicBool,
    hot: ArcSwap<Hot>,
    refused: Mutex<Vec<u64>>,
    cells: OnceLock<Box<dyn Cells>>,
    pub(super) requests: Counter,
}

/// Of all pieces, each kept apart from the next by its length.
fn digest_of(pieces: &[&[u8]]) -> digest::Digest {
    let mut digest = digest::Context::new(&digest::SHA256);
    for piece in pieces {
        digest.update(&(piece.len() as u64).to_le_bytes());
        digest.update(piece);
    }
    digest.finish()
}

fn word(digest: &digest::Digest, at: usize) -> u64 {
    let bytes = digest.as_ref()[at..at + 8].try_into();
    u64::from_le_bytes(bytes.expect("eight bytes"))
}

pub(super) type Hot = HashMap<u64, Arc<Mutex<Lease>>, RandomState>;

impl Part {
    /// A limit's, whose rate comes to `whole`.
    pub fn of(fleet: &FleetSpec, spec: &LimitSpec, whole: Gcra) -> Part {
        let redis = &fleet.redis;
        let secret = [redis.password.as_deref().unwrap_or_default(), &redis.prefix].join("\n");
        let least = match spec.cost {
            Cost::Is(cost) => cost,
            Cost::OriginMillis => 1,
        };
        let tier = spec.tier.as_deref().map(|tier| format!(" of {tier}"));
        let name = format!("{} {:?}{}", spec.name, spec.key, tier.unwrap_or_default());
        Part::new(secret.as_bytes(), &name, whole, least, fleet.proxies)
    }

    /// `secret`: what clients are hashed with, known to all proxies and nobody else. `least`: what the dearest request costs.
    pub fn new(secret: &[u8], name: &str, whole: Gcra, least: u64, proxies: u32) -> Part {
        let least = least.max(1) as f64;
        let rate = format!("{whole:?}{least}");
        // Who is who does not hang on how much he may.
        let who = digest_of(&[secret, name.as_bytes()]);
        let what = digest_of(&[secret, name.as_bytes(), rate.as_bytes()]);
        Part {
            whole,
            least,
            tag: word(&what, 16) as u32,
            keys: (word(&who, 0), word(&who, 8)),
            even: Arc::new(ArcSwap::from_pointee(even(&whole, proxies, least))),
            some_hot: AtomicBool::new(false),
            hot: ArcSwap::default(),
            refused: Mutex::default(),
            cells: OnceLock::new(),
            requests: Counter::default(),
        }
    }

    /// Whether both are the same limit's to everybody.
    pub fn is_same(&self, other: &Part) -> bool {
        (self.tag, self.keys) == (other.tag, other.keys)
    }

    /// Whether both know clients by the same numbers.
    pub fn counts_like(&self, other: &Part) -> bool {
        self.keys == other.keys
    }

    /// Where those are kept who are not hot. Without it they are believed to have used nothing.
    pub fn set_cells(&self, cells: Box<dyn Cells>) {
        let _ = self.cells.set(cells);
    }

    pub(super) fn cells(&self) -> Option<&dyn Cells> {
        self.cells.get().map(|cells| &**cells)
    }

    /// What makes a client's number, the same on all proxies (SipHash-1-3).
    pub fn hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.keys.0, self.keys.1)
    }

    /// A client's number.
    pub fn client(&self, who: &impl Hash) -> u64 {
        let mut hasher = self.hasher();
        who.hash(&mut hasher);
        hasher.finish()
    }

    /// What a client may who is not hot; another when the number of proxies is.
    pub fn even(&self) -> Arc<ArcSwap<Gcra>> {
        Arc::clone(&self.even)
    }

    /// As a client is to know it, who knows of one limit and not of parts.
    pub fn told(&self, taken: Taken) -> Taken {
        match taken {
            Taken::Admit { remaining, reset } => {
                let times = self.whole.burst() / self.even.load().burst();
                let remaining = (remaining as f64 * times) as u64;
                Taken::Admit { remaining, reset }
            }
            Taken::Refuse(Some(wait)) => {
                Taken::Refuse(Some(told_wait(wait, &self.even.load(), &self.whole)))
            }
            other => other,
        }
    }

    pub fn is_hot(&self, client: u64) -> bool {
        self.with(client, |_| ()).is_some()
    }

    /// Decides on a request of a client who is hot. None: he is not, and the even part decides.
    pub fn decide(&self, client: u64, now: u64, cost: u64) -> Option<Verdict> {
        self.requests.add(1);
        self.with(client, |lease| lease.decide(now, cost))
    }

    /// What would be decided, as far as that is known here.
    pub fn look(&self, client: u64, now: u64, cost: u64) -> Option<Verdict> {
        self.with(client, |lease| lease.look(now, cost))
    }

    /// Takes what is known only afterwards. None: it is for the even part.
    pub fn charge(&self, client: u64, now: u64, cost: u64) -> Option<()> {
        self.with(client, |lease| lease.charge(now, cost))
    }

    /// Gives back what was taken for nothing. None: it is for the even part.
    pub fn refund(&self, client: u64, cost: u64) -> Option<()> {
        self.with(client, |lease| lease.refund(cost))
    }

    /// The even part refused this client: he may have more, if he comes here rather than elsewhere.
    pub fn refused(&self, client: u64) {
        let mut refused = self.refused.lock();
        if refused.len() < MOST_REFUSED && refused.last() != Some(&client) {
            refused.push(client);
        }
    }

    pub(super) fn has_refused(&self) -> bool {
        !self.refused.lock().is_empty()
    }

    /// Who was refused, each once and in the order of it, up to `most`. The others wait on, before whoever comes later.
    pub(super) fn take_refused(&self, most: usize) -> Vec<u64> {
        let mut refused = self.refused.lock();
        let (mut each, mut seen) = (Vec::new(), HashSet::new());
        let mut looked_at = 0;
        for client in refused.iter() {
            if each.len() == most {
                break;
            }
            looked_at += 1;
            if seen.insert(*client) {
                each.push(*client);
            }
        }
        refused.drain(..looked_at);
        each
    }

    pub(super) fn hot(&self) -> arc_swap::Guard<Arc<Hot>> {
        self.hot.load()
    }

    pub(super) fn set_hot(&self, hot: Hot) {
        self.some_hot.store(!hot.is_empty(), Relaxed);
        self.hot.store(Arc::new(hot));
    }

    pub(super) fn set_proxies(&self, proxies: u32) {
        let even = even(&self.whole, proxies, self.least);
        if even != **self.even.load() {
            self.even.store(Arc::new(even));
        }
    }

    fn with<T>(&self, client: u64, act: impl FnOnce(&mut Lease) -> T) -> Option<T> {
        if !self.some_hot.load(Relaxed) {
            return None;
        }
        let hot = self.hot.load();
        let lease = hot.get(&client)?;
        Some(act(&mut lease.lock()))
    }
}
