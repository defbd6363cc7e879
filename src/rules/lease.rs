//! One rate for a fleet of proxies, without asking anybody while a request waits.
//!
//! Of each limit a proxy has a part: at first as much as every other one, `1/n` of the rate and of the burst. That is enough
//! for whoever stays below it wherever he comes, and it can't come to more than the whole. A client who is refused by a part
//! is *hot*: where he comes unevenly, the others may have to spare what he is short of here. From then on the proxies report
//! what is asked of them, and a ledger that they share answers with a [`Grant`]: what part of the rate, how much at once. It gives
//! out shares that come to 1 at most, and tokens that somebody gave back or that nobody's share has made; so however late or
//! seldom reports come, the sum is never above the rate. What is between two reports costs fairness alone.
//!
//! A grant is good for [`LEASE`]. Who does not hear from the ledger for longer goes back to its even part, and others count
//! on just that ([`Standing`]).
//!
//! Two things are dearer than the rule says. A bucket that holds less than one request lets nobody in, so at each proxy it
//! holds one: a burst below the number of proxies counts as that number. And a proxy that can't reach the ledger while others
//! can has its even part beside theirs.
//!
//! The ledger is `limits/fleet.lua`; its twin for the tests is `lease/ledger.rs`.

use std::time::Duration;

use super::gcra::{Cell, Gcra, Verdict};

/// How long a grant is good for, from when it was asked for.
pub const LEASE: Duration = Duration::from_secs(2);
/// So much later all others' grants have ended too: they ask at least every [`REST`].
const ENDING: Duration = Duration::from_millis(600);
/// How long a proxy counts as one of the fleet after it was last heard.
pub const LIVE: Duration = Duration::from_secs(10);
/// Between two reports while there is something to tell.
pub const BRISK: Duration = Duration::from_millis(100);
/// Between two reports where there is nothing.
pub const REST: Duration = Duration::from_millis(500);
/// Who asks nothing for so long wants nothing.
const QUIET: Duration = Duration::from_secs(3);
/// And so does he of whom so many requests were due and none came: by chance that is one time in three thousand.
const MISSED: f64 = 8.0;
/// Who wants nothing and has nothing is told of four times while his bucket fills, so that he is forgotten once it is full;
/// and at least and at most after so long.
const IDLE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(120)];
/// What is asked is averaged over so many seconds: growing demand is told soon, a lull is not the end.
const RISING: f64 = 0.2;
const FALLING: f64 = 1.0;
/// What is wanted, of what is asked: by who has no tokens left, and by who has as many as may gather.
const EMPTY: f64 = 1.15;
const FULL: f64 = 0.85;
/// A share of nothing, as a rate that can be divided by.
const NOTHING: f64 = 1e-6;
/// Demand that has changed by so much is told soon.
const NEWS: f64 = 0.2;

/// The part of each client's rate that a proxy has while nobody knows of him elsewhere: `least` is what the dearest
/// request costs.
///
/// It punishes nobody: whom it refuses may be well within the limit.
pub fn even(whole: &Gcra, proxies: u32, least: f64) -> Gcra {
    let share = 1.0 / f64::from(proxies.max(1));
    let part = whole.part(share, (whole.burst() * share).max(least));
    part.punishing(Duration::ZERO)
}

/// What a client is told to wait whom a part refuses: as long as the whole rate would take, and a moment for the others to
/// spare theirs.
pub fn told_wait(wait: Duration, part: &Gcra, whole: &Gcra) -> Duration {
    let by_the_whole = wait.mul_f64((part.rate() / whole.rate()).min(1.0));
    wait.min(by_the_whole + Duration::from_secs(1))
}

/// What a proxy tells the ledger of one client.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Report {
    /// Tokens a second that are asked for here, lately.
    pub demand: f64,
    /// Tokens that are here.
    pub tokens: f64,
    /// The most that were since the last answer.
    pub peak: f64,
    /// Tokens that are no longer here, for the others.
    pub back: f64,
    /// What is held here of the rate, and how many tokens may gather. It is another than was granted last where that answer
    /// was lost.
    pub share: f64,
    pub burst: f64,
}

/// What the ledger lets a proxy have for one client.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Grant {
    /// Of the rate: 0 to 1.
    pub share: f64,
    /// How many tokens may gather here.
    pub burst: f64,
    /// Tokens beside those that are here.
    pub tokens: f64,
}

impl Grant {
    /// Whether a ledger can have said that of a limit, and not somebody who wrote into it.
    pub fn is_possible(&self, whole: &Gcra, least: f64) -> bool {
        let most = whole.burst().max(least) + 1.0;
        (0.0..=1.0).contains(&self.share)
            && (0.0..=most).contains(&self.burst)
            && (0.0..=most).contains(&self.tokens)
    }
}

/// A hot client's part of a limit on this proxy.
#[derive(Debug)]
pub struct Lease {
    whole: Gcra,
    least: f64,
    part: Gcra,
    cell: Cell,
    share: f64,
    burst: f64,
    /// What was asked since the last report, in tokens.
    asked: u64,
    /// Tokens a second, averaged.
    demand: f64,
    /// As the last report said.
    told: f64,
    back: f64,
    /// What the ledger counts as held here of the rate beside the share, until it knows that its answer was heard.
    spared: f64,
    /// Since when that is spared.
    spares: u64,
    /// Until when `back` counts what ran over.
    counted: u64,
    /// The least that was used since the last answer.
    least_used: u64,
    /// Whether the ledger has to hear of it soon.
    news: bool,
    /// Whether the ledger was ever told of it, when it was last, and when it was last asked for.
    is_told: bool,
    reported: u64,
    wanted: u64,
}

impl Lease {
    /// Of a client who has just become known as hot. `cell` is what his even part came to, `refused` whether he is hot by
    /// a refusal of this proxy. Times are nanoseconds.
    pub fn new(whole: Gcra, proxies: u32, least: f64, cell: Cell, refused: bool, now: u64) -> Self {
        let part = even(&whole, proxies, least);
        let here = refused || !part.is_full(cell, now);
        Lease {
            share: 1.0 / f64::from(proxies.max(1)),
            burst: part.burst(),
            demand: if here { part.rate() } else { 0.0 },
            told: 0.0,
            whole,
            least,
            part,
            cell,
            asked: 0,
            back: 0.0,
            spared: 0.0,
            spares: now,
            counted: now,
            least_used: part.used(cell, now),
            news: true,
            is_told: false,
            reported: now,
            wanted: if here { now } else { 0 },
        }
    }

    /// Decides on a request, and takes what it costs.
    pub fn decide(&mut self, now: u64, cost: u64) -> Verdict {
        self.asked = self.asked.saturating_add(cost);
        self.wanted = now;
        self.spill(now);
        let verdict = self.look(now, cost);
        self.cell = match verdict {
            Verdict::Admit { cell, .. } => cell,
            Verdict::Wait { cell, .. } | Verdict::Refuse { cell, .. } => cell,
        };
        verdict
    }

    /// What would be decided.
    pub fn look(&self, now: u64, cost: u64) -> Verdict {
        self.as_told(self.part.decide(self.cell, now, cost))
    }

    /// Takes what is known only afterwards.
    pub fn charge(&mut self, now: u64, cost: u64) {
        self.asked = self.asked.saturating_add(cost);
        self.wanted = now;
        self.spill(now);
        self.cell = self.part.charge(self.cell, now, cost);
    }

    /// Gives back what a request cost that did not come through.
    pub fn refund(&mut self, cost: u64) {
        self.cell = self.part.refund(self.cell, cost);
    }

    /// When it was reported last; zero if never: then it is to be first, since the ledger counts an even part for it as long.
    pub fn reported(&self) -> u64 {
        if self.is_told { self.reported } else { 0 }
    }

    /// What of the rate is held here.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Whether a report of it should be in the next message.
    pub fn is_due(&self, now: u64) -> bool {
        let since = Duration::from_nanos(now.saturating_sub(self.reported));
        let idle = (self.whole.fills_in() / 4).clamp(IDLE[0], IDLE[1]);
        self.news || self.asked > 0 || !self.is_idle() || since >= idle
    }

    /// Whether the next message should be soon.
    pub fn has_news(&self, now: u64) -> bool {
        let demand = self.averaged(now);
        self.news || (demand - self.told).abs() > NEWS * self.told
    }

    /// Whether nobody asks for it here and nothing is kept for him.
    pub fn is_idle(&self) -> bool {
        self.demand == 0.0 && self.share == 0.0 && self.back == 0.0
    }

    /// Tells what there is to tell, once: what is given back is gone, whether the ledger hears of it or not.
    pub fn report(&mut self, now: u64) -> Report {
        self.spill(now);
        let spares = now.saturating_sub(self.spares) as f64 / 1e9;
        self.back += std::mem::take(&mut self.spared) * self.whole.rate() * spares;
        self.demand = self.averaged(now);
        self.told = self.demand;
        self.asked = 0;
        self.is_told = true;
        self.reported = now;
        self.news = false;
        let tokens = self.part.tokens(self.cell, now).max(0.0);
        // Where tokens are left over, less is wanted; so the share settles at what is used, and no bucket runs over.
        let wanted = EMPTY - (EMPTY - FULL) * tokens / self.burst;
        Report {
            demand: self.demand * wanted,
            tokens,
            peak: self.part.left(self.least_used).max(0.0),
            back: std::mem::take(&mut self.back),
            share: self.share,
            burst: self.burst,
        }
    }

    /// The ledger's answer to the last report.
    pub fn granted(&mut self, grant: Grant, now: u64) {
        // Others may be waiting for what is free now, and get it once the ledger knows that this has been heard.
        self.news = (grant.share - self.share).abs() > 0.05 * self.share;
        self.spared = (self.share - grant.share).max(0.0);
        self.spares = now;
        self.take(grant, self.whole, now);
    }

    /// The ledger was not heard for longer than a lease: the even part, or what there was of it as long as others may have more.
    pub fn fall_back(&mut self, standing: Standing, proxies: u32, now: u64) {
        let part = even(&self.whole, proxies, self.least);
        let (mut share, mut burst) = (1.0 / f64::from(proxies.max(1)), part.burst());
        if standing == Standing::Leaving {
            share = share.min(self.share);
            burst = burst.min(self.burst);
        }
        self.take(
            Grant {
                share,
                burst,
                tokens: 0.0,
            },
            self.whole.punishing(Duration::ZERO),
            now,
        );
        (self.back, self.spared) = (0.0, 0.0);
        self.news = true;
    }

    /// The cell that goes on in the even part, for a client who is hot no longer.
    pub fn cooled(&self, proxies: u32, now: u64) -> Cell {
        let part = even(&self.whole, proxies, self.least);
        let tokens = self.part.tokens(self.cell, now).min(part.burst());
        part.holding(tokens, now)
    }

    /// As a client is to know it: of the whole, what is left here of the part.
    fn as_told(&self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Refuse { cell, wait } => Verdict::Refuse {
                cell,
                wait: told_wait(wait, &self.part, &self.whole),
            },
            Verdict::Admit {
                cell,
                remaining,
                reset,
            } => Verdict::Admit {
                cell,
                remaining: (remaining as f64 * self.whole.burst() / self.burst) as u64,
                reset,
            },
            other => other,
        }
    }

    /// `of`: what to have a share of.
    fn take(&mut self, grant: Grant, of: Gcra, now: u64) {
        self.spill(now);
        let tokens = self.part.tokens(self.cell, now) + grant.tokens;
        self.share = grant.share;
        self.burst = grant.burst.max(self.least);
        self.part = of.part(self.share.max(NOTHING), self.burst);
        let over = (tokens - self.burst).max(0.0);
        self.back += over;
        self.news |= over > 0.0;
        self.cell = self.part.holding(tokens.min(self.burst), now);
        self.least_used = self.part.used(self.cell, now);
    }

    /// What did not find room here is for the others.
    fn spill(&mut self, now: u64) {
        if self.share > 0.0 {
            self.back += self.part.spilled(self.cell, self.counted, now);
        }
        self.counted = now;
        self.least_used = self.least_used.min(self.part.used(self.cell, now));
    }

    fn averaged(&self, now: u64) -> f64 {
        let quiet = now.saturating_sub(self.wanted) as f64 / 1e9;
        if quiet >= QUIET.as_secs_f64() || self.asked == 0 && quiet * self.demand >= MISSED {
            return 0.0;
        }
        let since = now.saturating_sub(self.reported).max(1_000_000) as f64 / 1e9;
        let lately = self.asked as f64 / since;
        let over = if lately > self.demand {
            RISING
        } else {
            FALLING
        };
        self.demand + (lately - self.demand) * (1.0 - (-since / over).exp())
    }
}

/// How a proxy stands with the fleet, by how long ago it asked what the ledger last answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// What was granted holds.
    Member,
    /// It holds no longer, but others' grants may.
    Leaving,
    /// Nobody's does.
    Alone,
}

impl Standing {
    pub fn after(silence: Duration) -> Standing {
        if silence < LEASE {
            Standing::Member
        } else if silence < LEASE + ENDING {
            Standing::Leaving
        } else {
            Standing::Alone
        }
    }
}

/// How many proxies there are, as far as this one knows.
///
/// A count that falls is believed after it has been lower for [`LIVE`] without a break, and then as the most that it was:
/// after an outage of the ledger, or where that has forgotten who is there, the others come back one by one, and until then
/// their parts are theirs.
#[derive(Debug)]
pub struct Count {
    known: u32,
    lower: Option<Lower>,
}

#[derive(Debug)]
struct Lower {
    since: u64,
    most: u32,
}

impl Count {
    /// `expected` is believed until there was time to count.
    pub fn new(expected: u32) -> Self {
        Count {
            known: expected.max(1),
            lower: None,
        }
    }

    pub fn known(&self) -> u32 {
        self.known
    }

    pub fn heard(&mut self, counted: u32, now: u64) {
        let counted = counted.max(1);
        if counted >= self.known {
            self.known = counted;
            self.lower = None;
            return;
        }
        let first = Lower {
            since: now,
            most: counted,
        };
        let lower = self.lower.get_or_insert(first);
        lower.most = lower.most.max(counted);
        if now.saturating_sub(lower.since) >= LIVE.as_nanos() as u64 {
            self.known = lower.most;
            self.lower = None;
        }
    }

    /// The ledger is out of reach.
    pub fn lost(&mut self) {
        self.lower = None;
    }
}

/// When the next message is due: while there is news, one for a hundred requests at most, and more of them the more it
/// reports; and seldom otherwise.
#[derive(Debug)]
pub struct Pace {
    /// Messages that may go out soon.
    saved: f64,
}

/// Messages are to be at most so many of all requests.
const OF_REQUESTS: f64 = 0.01;
/// So many may go out in a row beyond that.
const SAVED: f64 = 20.0;
/// So many reports take the ledger as long as a message does by itself.
const REPORTS: f64 = 50.0;

impl Default for Pace {
    fn default() -> Self {
        Pace { saved: SAVED }
    }
}

impl Pace {
    /// After a message with so many reports, and `requests` since the one before.
    pub fn sent(&mut self, requests: u64, reports: usize) {
        let costs = 1.0 + reports as f64 / REPORTS;
        self.saved = (self.saved + requests as f64 * OF_REQUESTS - costs).clamp(0.0, SAVED);
    }

    /// How long after the last message the next one is due.
    pub fn next(&self, news: bool) -> Duration {
        match news && self.saved >= 1.0 {
            true => BRISK,
            false => REST,
        }
    }
}

#[cfg(test)]
pub(crate) mod ledger;
#[cfg(test)]
mod tests;
