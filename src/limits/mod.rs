//! How often each client may come: limits, each with its clients' cells.
//!
//! [`spec`] is what a limit is, [`table`] remembers clients, [`told`] is what they are told; what a cell means is the rules' to say
//! ([`gcra`](crate::rules::gcra)). Who a client is, whoever asks here has worked out: a client is a keyed hash.
//!
//! Several limits may be asked about one request. All of them admit it, or nothing is taken from any ([`ask`]).
//!
//! Clients may be known for more than an address: somebody with a key of the list, or with a token that was verified. Everybody
//! else is anonymous, and nobody is turned away for that: what an app thinks of a bad token is the app's to say.
//! [`identities`] reads a request; `keys` are API keys, `jwt` tokens, by secrets and the keys of `jwks`. `seen` knows
//! the tokens of late, `pace` who sends forged ones. [`standing`] is what comes of it. A [tier](spec::TierRate) of those who are
//! known has a limit of its own within a limit.

pub mod fleet;
pub mod identities;
mod jwks;
mod jwt;
mod keys;
mod pace;
mod seen;
pub mod spec;
pub mod standing;
pub mod table;
pub mod told;

use std::cell::LazyCell;
use std::fs;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::rules::gcra::{Cell, Gcra, Verdict};
use crate::telemetry::{Counter, Limited, Metrics, names};
use fleet::{Cells, Fleet, FleetSpec, Part};
pub use identities::{Identities, IdentitySpec, JwtSpec, KeySpec};
use siphasher::sip::SipHasher13;
use spec::{Action, Cost, Counts, LimitSpec, Tell, TierRate};
pub use standing::{Id, Kind, Known, Standing, Tier};
use table::{Entered, Hold, Law, Table, Taken};
use told::Lines;

/// The most limits that a request may meet.
pub const MOST: usize = 16;
/// More than this is no list of keys.
const MOST_BYTES: u64 = 64 << 20;

/// A file's text, if it is as long as keys may be.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = fs::File::open(path)?.take(MOST_BYTES + 1);
    file.read_to_string(&mut text)?;
    match text.len() as u64 > MOST_BYTES {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(text),
    }
}

/// What the clients of all limits may take of the cache's memory, so that a flood of them leaves room for pages.
pub fn room_for_clients(max_memory: usize) -> usize {
    max_memory / 10
}

/// All limits.
pub struct Limits {
    /// What clients are hashed with: another in each process, since strangers choose what is hashed.
    seed: RandomState,
    all: Vec<Arc<Limit>>,
    /// By route, and last those of requests that no route takes.
    of: Vec<OfRoute>,
    /// Whom those that are shared are shared with.
    with: Option<FleetSpec>,
    fleet: Arc<OnceLock<Fleet>>,
}

/// Makes a client's number. Limits that are shared have hashers of their own, the same on all proxies.
pub enum Numbers {
    Here(DefaultHasher),
    Everywhere(SipHasher13),
}

impl Hasher for Numbers {
    fn write(&mut self, bytes: &[u8]) {
        match self {
            Numbers::Here(hasher) => hasher.write(bytes),
            Numbers::Everywhere(hasher) => hasher.write(bytes),
        }
    }

    fn finish(&self) -> u64 {
        match self {
            Numbers::Here(hasher) => hasher.finish(),
            Numbers::Everywhere(hasher) => hasher.finish(),
        }
    }
}

/// The limits of a route.
#[derive(Default)]
pub struct OfRoute {
    /// Asked about each request.
    pub door: Box<[Arc<Limit>]>,
    /// About those that an origin is asked for.
    pub origin: Box<[Arc<Limit>]>,
    /// Of both those that take an origin's time.
    pub billed: Box<[Arc<Limit>]>,
}

/// One limit, and what it knows of its clients.
pub struct Limit {
    pub spec: LimitSpec,
    /// What clients are told of it.
    pub lines: Lines,
    table: Arc<Table>,
    /// What it has of a rate that others have, too.
    part: Option<Arc<Part>>,
    counts: [Arc<Counter>; Limited::ALL.len()],
    /// Of those who are known: a limit of the same name each, by their tier.
    tiers: Vec<(Tier, Arc<Limit>)>,
    goes_by_standing: bool,
}

/// A limit to be asked, and who asks.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub limit: &'a Arc<Limit>,
    pub client: u64,
}

/// A request that is let in.
#[derive(Default)]
pub struct Granted {
    /// How long it has to wait first.
    pub wait: Option<Duration>,
    /// It is to be served from what is stored, or refused.
    pub only_stored: Option<Refusal>,
    /// What its client is to know.
    pub quota: Option<Quota>,
    /// What was decided, if that is worth a word.
    pub note: Option<(Arc<Limit>, Limited)>,
    /// A bit for each of the limits asked that was taken from.
    taken: u32,
    held: Option<InHand>,
    more: Vec<InHand>,
}

/// A request that is not, by the limit that has it wait the longest.
#[derive(Clone)]
pub struct Refusal {
    pub limit: Arc<Limit>,
    /// None: until another of the client's requests is done.
    pub wait: Option<Duration>,
}

/// What is left of the limit of which least is.
pub struct Quota {
    pub limit: Arc<Limit>,
    pub remaining: u64,
    /// When there is all of it again.
    pub reset: Duration,
}

/// One of the requests that a client may have at once.
struct InHand {
    limit: Arc<Limit>,
    client: u64,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.limit.table.release(self.client);
    }
}

impl Limits {
    /// `routes`: how many there are. `fleet`: whom they are shared with. `room`: where the memory for clients is taken from.
    pub fn new(
        specs: &[LimitSpec],
        routes: usize,
        fleet: Option<&FleetSpec>,
        room: impl Fn(usize) -> Option<Hold> + Clone + Send + Sync + 'static,
        metrics: &Metrics,
    ) -> Limits {
        let none = Limits {
            seed: RandomState::new(),
            all: Vec::new(),
            of: Vec::new(),
            with: None,
            fleet: Arc::default(),
        };
        none.renewed(specs, routes, fleet, room, metrics)
    }

    /// Others in their place. What clients have used of a limit they have used of the one of the same name, as far as that
    /// counts the same and is not for many times as many of them.
    pub fn renewed(
        &self,
        specs: &[LimitSpec],
        routes: usize,
        fleet: Option<&FleetSpec>,
        room: impl Fn(usize) -> Option<Hold> + Clone + Send + Sync + 'static,
        metrics: &Metrics,
    ) -> Limits {
        let before = |spec: &LimitSpec| self.all.iter().find(|limit| limit.spec.name == spec.name);
        let make = |spec: &LimitSpec| {
            let limit = Limit::new(spec.clone(), fleet, &room, metrics, before(spec));
            Arc::new(limit)
        };
        let all: Vec<_> = specs.iter().map(make).collect();
        let of = |route: Option<usize>| {
            let is_its = |limit: &&Arc<Limit>| limit.spec.is_for(route);
            let its = |is: fn(&LimitSpec) -> bool| {
                let its = all.iter().filter(is_its).filter(|limit| is(&limit.spec));
                its.cloned().collect()
            };
            OfRoute {
                door: its(|spec| spec.counts == Counts::All),
                origin: its(|spec| spec.counts == Counts::Origin),
                billed: its(|spec| spec.cost == Cost::OriginMillis),
            }
        };
        let mut renewed = Limits {
            seed: self.seed.clone(),
            of: (0..routes).map(Some).chain([None]).map(of).collect(),
            all,
            with: fleet.cloned(),
            fleet: Arc::default(),
        };
        if renewed.with == self.with {
            renewed.fleet = Arc::clone(&self.fleet);
        }
        renewed
    }

    fn parts(&self) -> impl Iterator<Item = &Arc<Part>> {
        let limits = self.all.iter().flat_map(|limit| limit.and_tiers());
        limits.filter_map(|limit| limit.part.as_ref())
    }

    /// From now on these are shared by the membership that both have, instead of those of `before`.
    pub fn take_over(&self, before: &Limits) {
        let mut pairs = self.parts().zip(before.parts());
        let same = self.parts().count() == before.parts().count()
            && pairs.all(|(one, other)| Arc::ptr_eq(one, other));
        if let Some(fleet) = self.fleet.get().filter(|_| !same) {
            fleet.renew(self.parts().cloned().collect());
        }
    }

    /// Whether both are in a fleet by the same membership.
    pub fn stays_with(&self, other: &Limits) -> bool {
        Arc::ptr_eq(&self.fleet, &other.fleet)
    }

    /// Joins the fleet. Without that, or until it is known who else there is, shared limits are divided by as many as are
    /// expected.
    ///
    /// # Errors
    /// Roots that can't be read, a thread that can't be had; for people.
    pub fn join(&self, spec: &FleetSpec, metrics: &Metrics) -> Result<(), String> {
        let parts = self.parts().cloned().collect();
        let fleet = Fleet::join(spec.clone(), parts, metrics)?;
        // A second one would leave at once.
        let _ = self.fleet.set(fleet);
        Ok(())
    }

    /// How things stand in the fleet, if it has joined one.
    pub fn fleet(&self) -> Option<&fleet::State> {
        self.fleet.get().map(|fleet| &**fleet.state())
    }

    /// Leaves the fleet, which blocks for three of Redis's timeouts at most.
    pub fn leave(&self) {
        if let Some(fleet) = self.fleet.get() {
            fleet.leave();
        }
    }

    /// What to make a client's number with, for a limit.
    pub fn numbers(&self, limit: &Limit) -> Numbers {
        match &limit.part {
            Some(part) => Numbers::Everywhere(part.hasher()),
            None => Numbers::Here(self.seed.build_hasher()),
        }
    }

    /// Those of a route, or of requests that no route takes.
    pub fn of(&self, route: Option<usize>) -> &OfRoute {
        let none = self.of.len() - 1;
        &self.of[route.unwrap_or(none).min(none)]
    }

    /// Gives back memory that is used no longer: of each limit that of one shard, another for each `nth`.
    pub fn tidy(&self, nth: usize, now: u64) {
        for limit in self.all.iter().flat_map(|limit| limit.and_tiers()) {
            limit.table.tidy(nth, now);
        }
    }

    pub fn all(&self) -> &[Arc<Limit>] {
        &self.all
    }
}

impl Limit {
    fn new(
        spec: LimitSpec,
        fleet: Option<&FleetSpec>,
        room: &(impl Fn(usize) -> Option<Hold> + Clone + Send + Sync + 'static),
        metrics: &Metrics,
        before: Option<&Arc<Limit>>,
    ) -> Limit {
        let of_tier = |rate: &TierRate| {
            let before = before.and_then(|before| before.of_name(&rate.name));
            let spec = LimitSpec {
                rate: Some(rate.rate),
                tiers: Vec::new(),
                tier: Some(rate.name.clone()),
                ..spec.clone()
            };
            let limit = Limit::new(spec, fleet, room, metrics, before);
            (rate.tier, Arc::new(limit))
        };
        let tiers: Vec<_> = spec.tiers.iter().map(of_tier).collect();
        let whole = law(&spec);
        let law = Law {
            gcra: whole,
            concurrency: spec.concurrency,
        };
        let part = fleet.filter(|_| spec.shared).zip(whole);
        let part = part.map(|(fleet, whole)| Part::of(fleet, &spec, whole));
        let count = |what: &Limited| {
            let labels = [spec.name.as_str(), what.label()];
            metrics.counter(&names::LIMITED, &labels)
        };
        let knows = |before: &&Arc<Limit>| {
            let numbers = match (&before.part, &part) {
                (None, None) => true,
                (Some(had), Some(part)) => had.counts_like(part),
                _ => false,
            };
            numbers && before.spec.key == spec.key
        };
        let taken_over = before.filter(knows).and_then(|before| {
            let table = before.table.under(law, spec.max_clients)?;
            Some((table, before.part.as_ref()))
        });
        let had = taken_over.as_ref().and_then(|(_, had)| *had);
        let part = part.map(|part| {
            let same = had.filter(|had| had.is_same(&part));
            same.cloned().unwrap_or_else(|| Arc::new(part))
        });
        let table = match taken_over {
            Some((table, _)) => table,
            None => Table::new(law, spec.max_clients, Arc::new(room.clone())),
        };
        let table = Arc::new(match &part {
            Some(part) => table.having(part.even()),
            None => table,
        });
        if let Some(part) = &part {
            part.set_cells(Box::new(Kept(Arc::clone(&table))));
        }
        Limit {
            table,
            part,
            counts: std::array::from_fn(|at| count(&Limited::ALL[at])),
            lines: Lines::of(&spec),
            goes_by_standing: !tiers.is_empty()
                || spec.key.0.iter().any(spec::Part::goes_by_standing),
            tiers,
            spec,
        }
    }

    /// Whether it has to be known who asks.
    pub fn goes_by_standing(&self) -> bool {
        self.goes_by_standing
    }

    /// The limit that somebody meets instead of this one, by their tier, and who they are there: this one, and nobody in
    /// particular, if it has no rate for them.
    pub fn of<'a>(self: &'a Arc<Limit>, standing: &Standing) -> (&'a Arc<Limit>, Option<Id>) {
        let its = |tier: Tier| {
            let mut tiers = self.tiers.iter();
            tiers.find(|(of, _)| *of == tier).map(|(_, limit)| limit)
        };
        let found = standing.known().and_then(|known| {
            let limit = known.tier.and_then(its).or_else(|| its(Tier::SIGNED_IN));
            Some((limit?, Some(known.id)))
        });
        found.unwrap_or((self, None))
    }

    /// This one, and those that tiers have instead.
    fn and_tiers(&self) -> impl Iterator<Item = &Limit> {
        std::iter::once(self).chain(self.tiers.iter().map(|(_, limit)| &**limit))
    }

    /// A tier's, by what that is called: its place in the config's list may be another.
    fn of_name(&self, tier: &str) -> Option<&Arc<Limit>> {
        let mut limits = self.tiers.iter().map(|(_, limit)| limit);
        limits.find(|limit| limit.spec.tier.as_deref() == Some(tier))
    }

    /// Takes a request of `client`'s from it, or nothing. `now`: nanoseconds. The one place where it is decided.
    fn decide(&self, client: u64, now: u64) -> Taken {
        let Some(part) = &self.part else {
            return self.table.take(client, now, self.cost());
        };
        let by_number = self.spec.concurrency.is_some();
        // How many he has in hand, the table knows also of who is hot.
        let is_hot = by_number && part.is_hot(client);
        let entered = is_hot.then(|| self.table.enter(client, now));
        if entered == Some(Entered::Full) {
            return Taken::Refuse(None);
        }
        if is_hot || !by_number {
            let verdict = part.decide(client, now, self.cost());
            let is_let_in = matches!(verdict, Some(Verdict::Admit { .. } | Verdict::Wait { .. }));
            match (entered, verdict) {
                (Some(Entered::InHand), _) if !is_let_in => self.table.release(client),
                // To hold it, it would have to be in hand.
                (Some(Entered::Unremembered), _) if is_let_in => return Taken::Unremembered,
                _ => {}
            }
            if let Some(verdict) = verdict {
                return verdict.into();
            }
        }
        let taken = self.table.take(client, now, self.cost());
        if matches!(taken, Taken::Refuse(Some(_)) | Taken::Wait(_)) {
            part.refused(client);
        }
        part.told(taken)
    }

    /// Counts what could not be read as a request, which is refused in any case and in nobody's hand.
    pub fn count_unread(&self, client: u64, now: u64) {
        let taken = self.decide(client, now);
        if self.spec.concurrency.is_some() && matches!(taken, Taken::Admit { .. } | Taken::Wait(_))
        {
            self.table.release(client);
        }
    }

    /// Takes what is known only afterwards: milliseconds of an origin's time.
    pub fn charge(&self, client: u64, now: u64, cost: u64) {
        let part = self.part.as_ref();
        if part
            .and_then(|part| part.charge(client, now, cost))
            .is_none()
        {
            self.table.charge(client, now, cost);
        }
    }

    /// What would be decided.
    fn look(&self, client: u64, now: u64) -> Taken {
        let part = self.part.as_ref();
        let hot = part.and_then(|part| part.look(client, now, self.cost()));
        hot.map_or_else(|| self.table.look(client, now, self.cost()), Taken::from)
    }

    /// Gives back what a request took.
    fn give_back(&self, client: u64) {
        self.refund(client);
        if self.spec.concurrency.is_some() {
            self.table.release(client);
        }
    }

    /// The same, but for its being in hand.
    fn refund(&self, client: u64) {
        let part = self.part.as_ref();
        if part
            .and_then(|part| part.refund(client, self.cost()))
            .is_none()
        {
            self.table.refund(client, self.cost());
        }
    }

    /// Clients remembered, and how many requests were admitted for want of a place to remember them in.
    pub fn clients(&self) -> (usize, u64) {
        let tables = || self.and_tiers().map(|limit| &limit.table);
        let remembered = tables().map(|table| table.remembered()).sum();
        let unremembered = tables().map(|table| table.unremembered.total()).sum();
        (remembered, unremembered)
    }

    /// Requests beyond it that this became of.
    pub fn counted(&self, what: Limited) -> u64 {
        self.counts[what as usize].total()
    }

    /// The most that is left of it: a client's that has not been seen.
    pub fn most(&self) -> u64 {
        let at_once = || self.spec.concurrency.map_or(0, u64::from);
        self.spec.rate.map_or_else(at_once, |rate| rate.burst)
    }

    fn cost(&self) -> u64 {
        match self.spec.cost {
            Cost::Is(cost) => cost,
            Cost::OriginMillis => 0,
        }
    }

    /// What became of a request that it has turned away.
    pub fn refused_as(&self) -> Limited {
        match self.spec.action {
            Action::Challenge => Limited::Challenged,
            _ => Limited::Refused,
        }
    }

    fn count(&self, what: Limited) {
        self.counts[what as usize].add(1);
    }

    /// Whether a client is to know how much is left to it.
    fn is_told(&self, remaining: u64) -> bool {
        match self.spec.tell {
            // Nobody is to know of a limit that is only tried out.
            _ if self.spec.action == Action::Log => false,
            Tell::Always => true,
            Tell::Near => remaining.saturating_mul(2) < self.most(),
            Tell::Refused => false,
        }
    }
}

impl From<Verdict> for Taken {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Admit {
                remaining, reset, ..
            } => Taken::Admit { remaining, reset },
            Verdict::Wait { wait, .. } => Taken::Wait(wait),
            Verdict::Refuse { wait, .. } => Taken::Refuse(Some(wait)),
        }
    }
}

/// A limit's table, for those who turn hot and cool.
struct Kept(Arc<Table>);

impl Cells for Kept {
    fn cell(&self, client: u64) -> Cell {
        self.0.cell(client)
    }

    fn set_cell(&self, client: u64, cell: Cell, now: u64) {
        self.0.set_cell(client, cell, now);
    }
}

/// What a limit's rate comes to. The config has seen to it that it is within bounds.
fn law(spec: &LimitSpec) -> Option<Gcra> {
    let rate = spec.rate?;
    let gcra = Gcra::new(rate.count, rate.per, rate.burst)?;
    let gcra = match spec.action {
        Action::Delay => gcra.patient(spec.max_delay),
        _ => gcra,
    };
    let gcra = match spec.cost {
        Cost::OriginMillis => gcra.lending(),
        Cost::Is(_) => gcra,
    };
    Some(gcra.punishing(spec.penalty))
}

/// Asks all of `asked`, and takes from all of them or from none. `passes`: whether it brings a pass, which lets it through those
/// limits that ask for one. It is asked at most once.
///
/// # Errors
/// The request is refused: by the limit that would have it wait the longest, or, where a pass is all that it lacks, by the one
/// that asks for that.
pub fn ask(
    asked: &[Asked<'_>],
    now: u64,
    passes: impl FnOnce() -> bool,
) -> Result<Granted, Refusal> {
    let passes = LazyCell::new(passes);
    let mut granted = Granted::default();
    let mut least: Option<(&Arc<Limit>, u64, Duration)> = None;
    // A bit for each that was gone past with a pass.
    let mut passed = 0_u32;
    for (at, Asked { limit, client }) in asked.iter().enumerate() {
        let left = match limit.decide(*client, now) {
            Taken::Admit { remaining, reset } => (remaining, reset),
            Taken::Wait(wait) => {
                granted.wait = granted.wait.max(Some(wait));
                granted.note = Some((Arc::clone(limit), Limited::Delayed));
                (0, wait)
            }
            Taken::Unremembered => continue,
            Taken::Refuse(wait) => {
                let refusal = Refusal {
                    limit: Arc::clone(limit),
                    wait,
                };
                match limit.spec.action {
                    Action::Log => {
                        limit.count(Limited::Logged);
                        let note = (Arc::clone(limit), Limited::Logged);
                        granted.note.get_or_insert(note);
                    }
                    Action::Stale => granted.only_stored = Some(refusal),
                    Action::Challenge if *passes => passed |= 1 << at,
                    Action::Refuse | Action::Delay | Action::Challenge => {
                        give_back(asked, granted.taken);
                        let refusal = strictest(refusal, &asked[at + 1..], now);
                        refusal.limit.count(refusal.limit.refused_as());
                        return Err(refusal);
                    }
                }
                continue;
            }
        };
        granted.taken |= 1 << at;
        if limit.is_told(left.0) && least.is_none_or(|least| is_less(limit, left.0, least)) {
            least = Some((limit, left.0, left.1));
        }
    }
    if let Some(refusal) = &granted.only_stored {
        refusal.limit.count(Limited::Stale);
        granted.note = Some((Arc::clone(&refusal.limit), Limited::Stale));
    } else if let Some((limit, Limited::Delayed)) = &granted.note {
        limit.count(Limited::Delayed);
    }
    for (at, Asked { limit, .. }) in asked.iter().enumerate() {
        if passed & (1 << at) != 0 {
            limit.count(Limited::Passed);
            let note = (Arc::clone(limit), Limited::Passed);
            granted.note.get_or_insert(note);
        }
    }
    granted.quota = least.map(|(limit, remaining, reset)| Quota {
        limit: Arc::clone(limit),
        remaining,
        reset,
    });
    for (at, Asked { limit, client }) in asked.iter().enumerate() {
        if granted.taken & (1 << at) != 0 && limit.spec.concurrency.is_some() {
            granted.hold(InHand {
                limit: Arc::clone(limit),
                client: *client,
            });
        }
    }
    Ok(granted)
}

impl Granted {
    /// Gives back what was taken for the request, which is refused for another reason. What it has in hand ends with it.
    /// `asked`: as when it was granted.
    pub fn refund(&self, asked: &[Asked<'_>]) {
        for (at, Asked { limit, client }) in asked.iter().enumerate() {
            if self.taken & (1 << at) != 0 {
                limit.refund(*client);
            }
        }
    }

    fn hold(&mut self, in_hand: InHand) {
        match self.held {
            None => self.held = Some(in_hand),
            Some(_) => self.more.push(in_hand),
        }
    }
}

fn give_back(asked: &[Asked<'_>], taken: u32) {
    for (at, Asked { limit, client }) in asked.iter().enumerate() {
        if taken & (1 << at) != 0 {
            limit.give_back(*client);
        }
    }
}

/// Of all that refuse a request the one that would have it wait the longest, whether it brings a pass or not.
fn strictest(first: Refusal, others: &[Asked<'_>], now: u64) -> Refusal {
    let mut strictest = first;
    for Asked { limit, client } in others {
        if !matches!(limit.spec.action, Action::Refuse | Action::Delay) {
            continue;
        }
        if let Taken::Refuse(wait) = limit.look(*client, now)
            && (strictest.limit.spec.action == Action::Challenge || wait > strictest.wait)
        {
            strictest = Refusal {
                limit: Arc::clone(limit),
                wait,
            };
        }
    }
    strictest
}

/// Whether a smaller part is left of this one.
fn is_less(limit: &Limit, remaining: u64, than: (&Arc<Limit>, u64, Duration)) -> bool {
    let of = |limit: &Limit, remaining: u64| u128::from(remaining) * u128::from(limit.most());
    // remaining / most, without a division.
    let (other, left, _) = than;
    of(other, remaining) < of(limit, left)
}

#[cfg(test)]
mod tests;
