//! A flight: an answer on its way, and everyone who reads it.
//!
//! Head, then an append-only body, then an end that is either *complete* or *failed*. One [`Filler`] writes, any number
//! of [`Reader`]s follow at their own pace. A reader of a failed flight gets an error, never a short body.
//!
//! What is retained decides who may still join. A flight that keeps everything can be joined until it lands. One with a
//! window (a private page's spool, a body that turned out too large, no memory) is paced by its fastest reader; who
//! falls behind the window is broken off.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

use super::entry::{Entry, Head};
use super::memory::{Charge, Memory, held, weight};
use super::table::Variant;
use super::tags::Set;
#[cfg(test)]
use crate::clock;
use crate::rules::storing::Terms;
use crate::rules::time::Moment;

/// A window shrinks to this under memory pressure, in bytes.
pub const WINDOW_FLOOR: usize = 64 * 1024;

/// Why an answer did not come, or not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The origin refused, reset, or sent what isn't HTTP. 502.
    BadGateway(&'static str),
    /// A deadline of the origin's passed. 504.
    Timeout(&'static str),
    /// The origin answered this error, and the answer is the leader's alone. 502 for the others.
    OriginStatus(u16),
    /// It was not let through to the upstream. 503.
    Refused(Refusal),
    /// No memory for its window. 503.
    NoMemory,
    /// This reader fell behind the window.
    FellBehind,
    /// The fetch's task died.
    Lost,
}

/// Why a request was not let through to its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub why: &'static str,
    /// The upstream is down as a whole, whoever asks for whatever.
    pub is_down: bool,
    /// How long it takes to work off what waits for the upstream.
    pub backlog: Duration,
}

/// The head of an answer under way.
#[derive(Debug)]
pub struct Answer {
    pub head: Head,
    /// Body length, if the origin told it.
    pub length: Option<u64>,
    /// Seconds of age it came with, if that is known.
    pub age: Option<u64>,
    pub arrived: Moment,
    pub sharing: Sharing,
    /// Seconds it is stored for, if it is stored.
    pub stored: Option<i64>,
    /// The origin's status, for Cache-Status.
    pub fwd_status: u16,
    pub tags: Set,
}

/// Who may read an answer.
#[derive(Debug, Clone)]
pub enum Sharing {
    /// Every reader whose request selects this variant.
    Everyone { variant: Variant, terms: Arc<Terms> },
    /// Only the request it was fetched for, and why. `oddity`: for its Authorization, so that others may try together.
    Leader { why: &'static str, oddity: bool },
}

/// What a reader learns before the body.
#[derive(Debug, Clone)]
pub enum News {
    /// An interim answer (103), passed on to HTTP/1.1 clients. `mine`: it is to this reader's own request.
    Interim {
        status: u16,
        fields: Arc<HeaderMap>,
        mine: bool,
    },
    Head(Arc<Answer>),
    /// Nothing new to read: the stored page was validated, or another was there already.
    Landed {
        entry: Arc<Entry>,
        validated: bool,
    },
    Failed(Failure),
}

/// See the module.
pub struct Flight {
    /// When the fetch was asked for: stale-on-slow counts from here.
    pub started: Instant,
    generation: u64,
    alone: bool,
    /// The reader whose request was sent to the origin.
    leader: AtomicU64,
    next_reader: AtomicU64,
    state: Mutex<State>,
    /// For readers: something was added.
    grown: Notify,
    /// For the filler: something was read, or a reader left.
    drained: Notify,
    /// For the filler: the last reader left.
    readers: AtomicUsize,
    memory: Arc<Memory>,
    /// What its window may hold beyond pieces that are charged themselves.
    reserve: Mutex<Option<Charge>>,
}

struct State {
    /// With the reader whose request they were to.
    interims: Vec<(u64, u16, Arc<HeaderMap>)>,
    news: Option<News>,
    pieces: VecDeque<Bytes>,
    /// Offset of the first retained piece.
    base: u64,
    /// Offset of the end.
    len: u64,
    window: Option<usize>,
    /// Memory that was taken for the whole body before its first byte came.
    allowance: Option<Charge>,
    end: Option<Result<(), Failure>>,
    /// Where each reader is; `None` where one has left.
    positions: Vec<Option<u64>>,
    free: Vec<usize>,
}

impl Flight {
    /// An empty flight. `window` from the start for an answer that one reader alone will get.
    pub fn new(
        memory: &Arc<Memory>,
        started: Instant,
        generation: u64,
        window: Option<usize>,
    ) -> Arc<Flight> {
        Arc::new(Flight {
            started,
            generation,
            alone: window.is_some(),
            leader: AtomicU64::new(0),
            next_reader: AtomicU64::new(1),
            reserve: Mutex::default(),
            state: Mutex::new(State {
                interims: Vec::new(),
                news: None,
                pieces: VecDeque::new(),
                base: 0,
                len: 0,
                window,
                allowance: None,
                end: None,
                positions: Vec::new(),
                free: Vec::new(),
            }),
            grown: Notify::new(),
            drained: Notify::new(),
            readers: AtomicUsize::new(0),
            memory: Arc::clone(memory),
        })
    }

    /// In which generation it was begun.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The reader that a new flight is for: it leads.
    pub fn board_first(self: &Arc<Self>) -> Reader {
        let mut state = self.state.lock();
        let reader = self.seat(&mut state);
        self.lead(reader.id);
        reader
    }

    /// From now on the answer is to this reader's request.
    pub fn lead(&self, reader: u64) {
        self.leader.store(reader, Ordering::Release);
    }

    /// Holds a charge for as long as the flight has readers.
    pub fn reserve(&self, charge: Option<Charge>) {
        *self.reserve.lock() = charge;
    }

    /// A reader from the start, or `None` if the start has been let go already.
    pub fn board(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state.lock();
        if state.base > 0 {
            return None;
        }
        Some(self.seat(&mut state))
    }

    fn seat(self: &Arc<Self>, state: &mut State) -> Reader {
        self.readers.fetch_add(1, Ordering::Relaxed);
        let seat = state.free.pop().unwrap_or_else(|| {
            state.positions.push(None);
            state.positions.len() - 1
        });
        state.positions[seat] = Some(0);
        Reader {
            flight: Arc::clone(self),
            id: self.next_reader.fetch_add(1, Ordering::Relaxed),
            seat,
            at: 0,
            interims: 0,
        }
    }

    pub fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }
}

impl State {
    /// Memory for a piece: out of what was taken beforehand, or now.
    fn hold(&mut self, piece: &Bytes, memory: &Arc<Memory>) -> Option<Bytes> {
        let allowed = self.allowance.as_mut();
        match allowed.and_then(|left| left.split(weight(piece.len()))) {
            Some(charge) => Some(held(piece.clone(), charge)),
            None => memory.hold(piece.clone()),
        }
    }

    fn fastest(&self) -> u64 {
        self.positions.iter().flatten().copied().max().unwrap_or(0)
    }

    /// Lets go of what every reader has passed, and of what is behind the window.
    fn trim(&mut self) {
        let Some(window) = self.window else { return };
        let slowest = self
            .positions
            .iter()
            .flatten()
            .copied()
            .min()
            .unwrap_or(self.len);
        let keep_from = slowest.max(self.fastest().saturating_sub(window as u64));
        while let Some(first) = self.pieces.front() {
            let end = self.base + first.len() as u64;
            if end > keep_from {
                break;
            }
            self.base = end;
            self.pieces.pop_front();
        }
    }
}

/// One reader's place in a flight.
pub struct Reader {
    flight: Arc<Flight>,
    seat: usize,
    at: u64,
    interims: usize,
    id: u64,
}

impl Reader {
    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Whether its flight is for one reader only.
    pub fn is_alone(&self) -> bool {
        self.flight.alone
    }

    /// Whether it reads for the request that the origin was asked for.
    pub fn is_leader(&self) -> bool {
        self.flight.leader.load(Ordering::Acquire) == self.id
    }

    /// What it is known by in its flight.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The next thing known before the body: interim answers as they come, then the one that counts. Cancel-safe.
    pub async fn news(&mut self) -> News {
        loop {
            let grown = self.flight.grown.notified();
            {
                let state = self.flight.state.lock();
                if let Some((leader, status, fields)) = state.interims.get(self.interims) {
                    self.interims += 1;
                    let (status, fields) = (*status, Arc::clone(fields));
                    return News::Interim {
                        status,
                        fields,
                        mine: *leader == self.id,
                    };
                }
                if let Some(news) = &state.news {
                    return news.clone();
                }
                if let Some(Err(failure)) = &state.end {
                    return News::Failed(failure.clone());
                }
            }
            grown.await;
        }
    }

    /// Whether [`Reader::body`] would return at once.
    pub fn is_ready(&self) -> bool {
        let state = self.flight.state.lock();
        state.len > self.at || state.end.is_some()
    }

    /// The next pieces of the body, up to about `most` bytes; none at its end. Cancel-safe.
    ///
    /// # Errors
    /// The flight's failure, or that this reader fell behind the window.
    pub async fn body(&mut self, most: usize, out: &mut Vec<Bytes>) -> Result<usize, Failure> {
        loop {
            let grown = self.flight.grown.notified();
            {
                let mut state = self.flight.state.lock();
                if self.at < state.base {
                    return Err(Failure::FellBehind);
                }
                let taken = take(&mut self.at, &state, most, out);
                if taken > 0 {
                    state.positions[self.seat] = Some(self.at);
                    state.trim();
                    let paced = state.window.is_some();
                    drop(state);
                    if paced {
                        self.flight.drained.notify_one();
                    }
                    return Ok(taken);
                }
                match &state.end {
                    Some(Ok(())) => return Ok(0),
                    Some(Err(failure)) => return Err(failure.clone()),
                    None => {}
                }
            }
            grown.await;
        }
    }
}

/// Takes up to `most` bytes from offset `at` on, and moves it.
fn take(at: &mut u64, state: &State, most: usize, out: &mut Vec<Bytes>) -> usize {
    let mut start = state.base;
    let mut taken = 0;
    for piece in &state.pieces {
        let end = start + piece.len() as u64;
        if end > *at {
            let from = (*at - start) as usize;
            let to = piece.len().min(from + (most - taken));
            if from < to {
                out.push(piece.slice(from..to));
                taken += to - from;
                *at += (to - from) as u64;
            }
            if to < piece.len() {
                break;
            }
        }
        start = end;
    }
    taken
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.flight.state.lock();
        state.positions[self.seat] = None;
        state.free.push(self.seat);
        state.trim();
        drop(state);
        self.flight.readers.fetch_sub(1, Ordering::Relaxed);
        self.flight.drained.notify_one();
    }
}

/// The one that writes a flight. Dropping it without an end breaks the flight.
pub struct Filler {
    flight: Arc<Flight>,
    /// Whether the answer is wanted even when nobody reads it.
    kept: bool,
}

/// Nobody reads it and nobody will: stop asking the origin.
#[derive(Debug, PartialEq, Eq)]
pub struct Abandoned;

/// How a piece was taken.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Pushed {
    Kept,
    /// There is no memory to keep everything: call [`Filler::open_window`] and push again.
    NoMemory,
}

impl Filler {
    pub fn new(flight: &Arc<Flight>, kept: bool) -> Filler {
        Filler {
            flight: Arc::clone(flight),
            kept,
        }
    }

    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Whether the flight goes on without readers.
    pub fn keep(&mut self, kept: bool) {
        self.kept = kept;
    }

    pub fn interim(&self, status: u16, fields: HeaderMap) {
        let leader = self.flight.leader.load(Ordering::Acquire);
        self.flight
            .state
            .lock()
            .interims
            .push((leader, status, Arc::new(fields)));
        self.flight.grown.notify_waiters();
    }

    /// Tells readers what there is; for [`News::Landed`] and [`News::Failed`] that is the end as well.
    pub fn tell(&self, news: News) {
        let mut state = self.flight.state.lock();
        match &news {
            News::Landed { .. } => state.end = Some(Ok(())),
            News::Failed(failure) => state.end = Some(Err(failure.clone())),
            News::Head(_) | News::Interim { .. } => {}
        }
        // A head that was told stays told: what fails after it is the body.
        state.news.get_or_insert(news);
        drop(state);
        self.flight.grown.notify_waiters();
    }

    /// Keeps at most `window` bytes from now on, paced by the fastest reader.
    pub fn open_window(&self, window: usize) {
        let mut state = self.flight.state.lock();
        state.window = Some(window.max(WINDOW_FLOOR));
        state.allowance = None;
        state.trim();
    }

    /// Keeps everything, out of memory that was taken for it beforehand where its length is known.
    pub fn keep_all(&self, allowance: Option<Charge>) {
        let mut state = self.flight.state.lock();
        state.window = None;
        state.allowance = allowance;
    }

    /// Appends a piece, waiting for room if there is a window.
    ///
    /// # Errors
    /// [`Abandoned`] if nobody reads it and it isn't kept.
    pub async fn push(&self, piece: &Bytes) -> Result<Pushed, Abandoned> {
        loop {
            if !self.kept && self.flight.readers() == 0 {
                return Err(Abandoned);
            }
            let drained = self.flight.drained.notified();
            if let Some(pushed) = self.try_push(piece)? {
                return Ok(pushed);
            }
            drained.await;
        }
    }

    /// `None`: there is no room until somebody reads.
    fn try_push(&self, piece: &Bytes) -> Result<Option<Pushed>, Abandoned> {
        let mut state = self.flight.state.lock();
        let memory = &self.flight.memory;
        let Some(window) = state.window else {
            let kept = state.hold(piece, memory);
            return Ok(Some(
                kept.map_or(Pushed::NoMemory, |kept| self.append(state, kept)),
            ));
        };
        if state.positions.iter().all(Option::is_none) {
            return Err(Abandoned);
        }
        state.trim();
        let window = if memory.is_tight() {
            WINDOW_FLOOR
        } else {
            window
        };
        let unread = (state.len - state.fastest()) as usize;
        if unread > 0 && unread + piece.len() > window {
            return Ok(None);
        }
        match memory.hold(piece.clone()) {
            Some(held) => Ok(Some(self.append(state, held))),
            // The window's reserve is for this.
            None if unread == 0 => Ok(Some(self.append(state, piece.clone()))),
            None => Ok(None),
        }
    }

    /// What of a short answer is there at once, out of the memory taken for it; nothing if all is to be kept and can't be.
    pub fn hold(&self, pieces: &[Bytes]) -> Option<Vec<Bytes>> {
        let mut state = self.flight.state.lock();
        let has_window = state.window.is_some();
        let hold = |piece: &Bytes| {
            let kept = state.hold(piece, &self.flight.memory);
            // The window's reserve is for this.
            kept.or_else(|| has_window.then(|| piece.clone()))
        };
        pieces.iter().map(hold).collect()
    }

    /// A whole answer at once, with what [`Self::hold`] gave for its body, of no more than [`WINDOW_FLOOR`] bytes.
    pub fn land(&self, answer: Arc<Answer>, body: Vec<Bytes>) {
        let mut state = self.flight.state.lock();
        state.news.get_or_insert(News::Head(answer));
        state.len += body.iter().map(|piece| piece.len() as u64).sum::<u64>();
        state.pieces.extend(body);
        drop(state);
        self.complete();
    }

    fn append(&self, mut state: MutexGuard<'_, State>, piece: Bytes) -> Pushed {
        state.len += piece.len() as u64;
        state.pieces.push_back(piece);
        drop(state);
        self.flight.grown.notify_waiters();
        Pushed::Kept
    }

    /// Completes when the last reader has left; never, if the answer is wanted all the same.
    pub async fn abandoned(&self) {
        loop {
            let drained = self.flight.drained.notified();
            if !self.kept && self.flight.readers() == 0 {
                return;
            }
            drained.await;
        }
    }

    /// Completes when nobody is aboard.
    pub async fn empty(&self) {
        loop {
            let drained = self.flight.drained.notified();
            if self.flight.readers() == 0 {
                return;
            }
            drained.await;
        }
    }

    /// All pieces from the start, to be stored. Empty if some were let go.
    pub fn whole(&self) -> Option<Vec<Bytes>> {
        let state = self.flight.state.lock();
        (state.base == 0).then(|| state.pieces.iter().cloned().collect())
    }

    /// The body is complete.
    pub fn complete(&self) {
        self.finish(Ok(()));
    }

    /// The answer ends here, before its head or amid its body.
    pub fn end_with(&self, failure: Failure) {
        self.finish(Err(failure));
    }

    fn finish(&self, end: Result<(), Failure>) {
        let mut state = self.flight.state.lock();
        state.allowance = None;
        state.end.get_or_insert(end);
        drop(state);
        self.flight.grown.notify_waiters();
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.finish(Err(Failure::Lost));
    }
}
