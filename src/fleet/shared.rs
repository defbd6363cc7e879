//! What reader, writer and all who ask have in common: how things stand, what waits to be told, who has read how far.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::entry::Entry;
use super::message::{Heard, Log, Position, TOLD_MOST};
use super::queue::{Order, Queue};
use super::{Counts, Gate, PATIENCE};
use crate::levers::Uid;
use crate::telemetry::RedisResult;

/// Who has not turned for so long was not running: a process that was stopped. (A machine that sleeps stops this clock, too.)
const AWAY: u64 = 300;
/// Levers that are gone are remembered, so that nobody brings them back who has missed that.
const GONE: usize = 1_024;
/// Refusals that a proxy tells of, and how much of why.
const REFUSED: usize = 8;
const WHY_MOST: usize = 200;

/// See the module.
pub struct Shared {
    pub me: Uid,
    /// What this proxy is called: its machine and port.
    pub name: String,
    counts: Counts,
    gate: Arc<Gate>,
    state: Mutex<State>,
    /// Whoever waits looks anew.
    changed: watch::Sender<()>,
    /// The writer has something to do.
    pub work: Notify,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// The ticket of the last order that is in the log, and where that was by then.
    published: (u64, Option<Position>),
    /// Why Redis can't be written to.
    unwritable: Option<String>,
    /// Requests are served without waiting for it, until all is read again.
    behind: bool,
    /// When that was asked which showed that all is read; the process's milliseconds.
    current: u64,
    /// Since when this process runs without a break.
    awake: u64,
    turned: u64,
    /// How far the log is read.
    read: Option<Position>,
    /// Of that, entries about levers that are being put in force.
    under_way: VecDeque<u64>,
    proxies: Vec<Proxy>,
    refused: VecDeque<(Uid, String)>,
    gone: VecDeque<(Uid, Gone)>,
    /// Levers that were pulled here, and whose entries were not read yet: what is read before them was done before them.
    pulled: Vec<Uid>,
    /// Who waits for others' confirmations.
    waiting: usize,
    over: bool,
    /// Another fleet has the gate.
    is_former: bool,
    /// The ticket of the last one that can't be told to anybody, and why.
    unsayable: Option<(u64, String)>,
}

/// Why a lever is not pulled any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gone {
    Undone,
    /// Its time is over, or another has its place.
    Over,
}

/// Another proxy.
#[derive(Clone, PartialEq, Debug)]
pub struct Proxy {
    pub id: Uid,
    pub name: String,
    pub at: Option<Position>,
    /// Levers that are not in force there, and why.
    pub refused: Vec<(Uid, String)>,
    /// When it was heard; the process's milliseconds.
    pub heard: u64,
}

/// What a proxy tells of itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<Log>,
    entry: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    refused: Vec<(Uid, String)>,
}

/// How things stand, for operators.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Requests are served without knowing whether all is read.
    pub behind: bool,
    pub unwritable: Option<String>,
    /// What waits to be told.
    pub queued: usize,
    /// How far this proxy has read and done.
    pub at: Option<Position>,
    /// Levers of others that are not in force here.
    pub refused: usize,
    pub proxies: Vec<Proxy>,
}

impl Shared {
    pub fn new(me: Uid, name: String, gate: Arc<Gate>, counts: Counts, now: u64) -> Shared {
        Shared {
            me,
            name,
            counts,
            gate,
            state: Mutex::new(State {
                awake: now,
                turned: now,
                ..State::default()
            }),
            changed: watch::Sender::new(()),
            work: Notify::new(),
        }
    }

    /// Hears of whatever changes from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn change(&self) {
        self.changed.send_replace(());
    }

    /// Nobody waits for this any more.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.over = true;
        self.open(&state);
        drop(state);
        self.change();
    }

    /// The gate is another fleet's from now on: this one has to leave, and neither opens nor shuts it any more.
    pub fn resign(&self) {
        self.state.lock().is_former = true;
    }

    fn open(&self, state: &State) {
        if !state.is_former {
            self.gate.open();
        }
    }

    // Whether all is read.

    /// The log was read to its end, as it was when that was asked at `sent`.
    pub fn is_current(&self, sent: u64) {
        let mut state = self.state.lock();
        if state.over {
            return;
        }
        state.current = sent;
        if !state.is_former {
            self.gate.until(sent + PATIENCE.as_millis() as u64);
        }
        let was_behind = std::mem::replace(&mut state.behind, false);
        drop(state);
        if was_behind {
            tracing::info!("purges and levers of the other proxies are known again");
        }
        self.change();
    }

    /// It can't be known whether all is read: nobody waits for it until it is.
    pub fn is_behind(&self, why: &str) {
        let mut state = self.state.lock();
        self.fall_behind(&mut state, why);
    }

    /// Who has waited since `since` waited in vain.
    pub fn waited(&self, since: u64) {
        let mut state = self.state.lock();
        if !self.gate.is_open(since) {
            self.fall_behind(&mut state, "no answer from redis in time");
        }
    }

    fn fall_behind(&self, state: &mut State, why: &str) {
        if state.over || std::mem::replace(&mut state.behind, true) {
            return;
        }
        self.open(state);
        tracing::warn!(
            why,
            "pages are served without knowing whether another proxy has purged them, until that is known again"
        );
        self.change();
    }

    /// Called ten times a second, and after each step: where Redis keeps silent, that is noticed; but who was stopped asks first.
    pub fn turn(&self, now: u64) {
        let mut state = self.state.lock();
        if now.saturating_sub(state.turned) > AWAY {
            state.awake = now;
        }
        state.turned = now;
        let since = state.current.max(state.awake);
        if now.saturating_sub(since) >= PATIENCE.as_millis() as u64 {
            self.fall_behind(&mut state, "no answer from redis in time");
        }
    }

    /// How long it is since all was known to be read.
    pub fn silence(&self, now: u64) -> Duration {
        Duration::from_millis(now.saturating_sub(self.state.lock().current))
    }

    pub fn behind(&self) -> bool {
        self.state.lock().behind
    }

    // What is read, and done.

    /// It is read so far; `lever`: the last entry is about one, and is yet to be done.
    pub fn read(&self, at: Position, lever: bool) {
        let mut state = self.state.lock();
        if lever {
            state.under_way.push_back(at.entry);
        }
        let is_news = state.read != Some(at);
        state.read = Some(at);
        drop(state);
        if is_news {
            self.work.notify_one();
        }
    }

    /// An entry about a lever is done.
    pub fn done(&self, entry: u64) {
        let mut state = self.state.lock();
        state.under_way.retain(|one| *one != entry);
        drop(state);
        self.work.notify_one();
    }

    /// How far all is read and done.
    pub fn at(&self) -> Option<Position> {
        self.state.lock().done()
    }

    // What is to be told.

    pub fn say(&self, entry: &Entry) {
        match Order::of(entry) {
            Ok(order) => self.order(order),
            Err(why) => {
                tracing::error!(why, "the other proxies do not hear of a purge or lever");
                let mut state = self.state.lock();
                let ticket = state.queue.skip();
                state.unsayable = Some((ticket, format!("it can't be told: {why}")));
            }
        }
    }

    pub fn order(&self, order: Order) {
        let mut state = self.state.lock();
        let (_, gathered) = state.queue.push(order);
        let dropped = std::mem::take(&mut state.queue.dropped);
        drop(state);
        if dropped > 0 {
            tracing::error!(
                dropped,
                "so many levers wait to be told that the other proxies do not hear of the first of them"
            );
        } else if gathered {
            tracing::warn!(
                "so much was purged that the other proxies will hear of one purge of everything"
            );
        }
        self.work.notify_one();
    }

    /// The ticket of the last order.
    pub fn ticket(&self) -> u64 {
        self.state.lock().queue.last()
    }

    pub fn batch(&self) -> (Vec<Order>, u64) {
        self.state.lock().queue.batch()
    }

    pub fn has_orders(&self) -> bool {
        self.state.lock().queue.len() > 0
    }

    /// A message has arrived, with all orders up to `ticket`; 0: with none.
    pub fn written(&self, ticket: u64, at: Position) {
        let mut state = self.state.lock();
        state.unwritable = None;
        if ticket > 0 {
            state.queue.done(ticket);
            state.published = (ticket, Some(at));
        }
        drop(state);
        self.change();
    }

    pub fn unwritten(&self, why: &str) {
        self.state.lock().unwritable = Some(why.to_owned());
        self.change();
    }

    /// Where the log was once an order was in it; or why it can't be.
    pub fn published(&self, ticket: u64) -> Option<Result<Option<Position>, String>> {
        let state = self.state.lock();
        if let Some((unsayable, why)) = &state.unsayable
            && *unsayable == ticket
        {
            return Some(Err(why.clone()));
        }
        let (last, at) = state.published;
        if ticket <= last {
            return Some(Ok(at));
        }
        match &state.unwritable {
            Some(why) => Some(Err(why.clone())),
            None if state.over => Some(Err("this proxy leaves".to_owned())),
            None => None,
        }
    }

    // Who else there is.

    /// What the others are to know of this proxy, as text.
    pub fn told(&self) -> String {
        let state = self.state.lock();
        let at = state.done();
        let mut told = Told {
            name: self.name.clone(),
            log: at.map(|at| at.log),
            entry: at.map_or(0, |at| at.entry),
            refused: state.refused.iter().cloned().collect(),
        };
        drop(state);
        let text = |told: &Told| serde_json::to_string(told).unwrap_or_default();
        let mut whole = text(&told);
        while whole.len() > TOLD_MOST && told.refused.pop().is_some() {
            whole = text(&told);
        }
        whole
    }

    /// All proxies that there are, of which this is one.
    pub fn heard(&self, all: Vec<Heard>, now: u64) {
        let proxies = all.into_iter().filter(|heard| heard.id != self.me);
        let proxy = |heard: Heard| {
            let told: Told = serde_json::from_slice(&heard.told).ok()?;
            Some(Proxy {
                id: heard.id,
                name: told.name,
                at: told.log.map(|log| Position {
                    log,
                    entry: told.entry,
                }),
                refused: told.refused,
                heard: now.saturating_sub(heard.ago.as_millis() as u64),
            })
        };
        let mut proxies: Vec<_> = proxies.filter_map(proxy).collect();
        proxies.sort_by(|one, other| one.name.cmp(&other.name));
        self.state.lock().proxies = proxies;
        self.change();
    }

    /// Those that have this one's name: it had it before.
    pub fn namesakes(&self) -> Vec<Uid> {
        let state = self.state.lock();
        let its = state.proxies.iter().filter(|one| one.name == self.name);
        its.map(|one| one.id).collect()
    }

    pub fn standing(&self) -> Standing {
        let state = self.state.lock();
        Standing {
            behind: state.behind,
            unwritable: state.unwritable.clone(),
            queued: state.queue.len(),
            at: state.done(),
            refused: state.refused.len(),
            proxies: state.proxies.clone(),
        }
    }

    /// Somebody waits for the others to confirm, until what is given is dropped.
    pub fn wait(&self) -> Waiting<'_> {
        self.state.lock().waiting += 1;
        self.work.notify_one();
        Waiting(self)
    }

    pub fn is_waited_for(&self) -> bool {
        self.state.lock().waiting > 0
    }

    // Levers.

    pub fn refuse(&self, uid: Uid, why: &str) {
        let mut state = self.state.lock();
        state.refused.retain(|(one, _)| *one != uid);
        let why = &why[..why.floor_char_boundary(WHY_MOST)];
        state.refused.push_back((uid, why.to_owned()));
        if state.refused.len() > REFUSED {
            state.refused.pop_front();
        }
    }

    /// It is in force here, or nowhere.
    pub fn settle(&self, uid: Uid) {
        self.state.lock().refused.retain(|(one, _)| *one != uid);
    }

    pub fn gone(&self, uid: Uid, why: Gone) {
        let mut state = self.state.lock();
        if state.gone.iter().any(|(one, _)| *one == uid) {
            return;
        }
        state.gone.push_back((uid, why));
        if state.gone.len() > GONE {
            state.gone.pop_front();
        }
    }

    pub fn why_gone(&self, uid: Uid) -> Option<Gone> {
        let state = self.state.lock();
        let its = state.gone.iter().find(|(one, _)| *one == uid);
        its.map(|(_, why)| *why)
    }

    /// One is pulled here, and its entry is yet to be read.
    pub fn pulled(&self, uid: Uid) {
        let mut state = self.state.lock();
        // Where Redis forgets them they are never read.
        if state.pulled.len() >= GONE {
            state.pulled.remove(0);
        }
        state.pulled.push(uid);
    }

    /// The entry of one was read.
    pub fn has_read(&self, uid: Uid) {
        self.state.lock().pulled.retain(|one| *one != uid);
    }

    /// Whether the entry of one that was pulled here comes later.
    pub fn is_to_come(&self, uid: Uid) -> bool {
        self.state.lock().pulled.contains(&uid)
    }

    pub fn count(&self, result: RedisResult) {
        self.counts.operations[result as usize].add(1);
    }

    pub fn count_gap(&self) {
        self.counts.gaps.fetch_add(1, Relaxed);
    }
}

impl State {
    fn done(&self) -> Option<Position> {
        let entry = |read: Position| self.under_way.front().map_or(read.entry, |next| next - 1);
        self.read.map(|read| Position {
            entry: entry(read).min(read.entry),
            ..read
        })
    }
}

/// See [`Shared::wait`].
pub struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}
