//! What Redis does, in Rust, for the simulations: the twin of `limits/fleet.lua`, line by line.

use std::collections::BTreeMap;

use super::{Grant, LEASE, LIVE, Report};

/// A limit as a message has it.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    pub rate: f64,
    pub burst: f64,
    pub least: f64,
}

/// Who is there, and when they were last heard, in seconds of the ledger's clock.
#[derive(Default, Debug)]
pub struct Members(BTreeMap<u64, f64>);

impl Members {
    /// One has left.
    pub fn left(&mut self, me: u64) {
        self.0.remove(&me);
    }

    /// Counts those who are there with `me`.
    pub fn heard(&mut self, me: u64, now: f64) -> u32 {
        self.0.insert(me, now);
        self.0
            .retain(|_, seen| now - *seen <= LIVE.as_secs_f64() && *seen <= now + 1.0);
        self.0.len() as u32
    }
}

/// What is known of one hot client.
#[derive(Clone, Debug)]
pub struct Account {
    /// Tokens that nobody has.
    pool: f64,
    /// When that was so.
    at: f64,
    born: f64,
    /// Proxies that had an even part when it began.
    parts: u32,
    holders: BTreeMap<u64, Holder>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Holder {
    share: f64,
    /// The most that he may have of it until he reports again: the answer that granted him less may be lost.
    held: f64,
    /// The share that he would use.
    need: f64,
    /// What he had of tokens and when, and how many can gather there.
    tokens: f64,
    at: f64,
    burst: f64,
    /// Of the message that he last reported in.
    number: u64,
}

impl Account {
    pub fn new(parts: u32, now: f64) -> Self {
        Account {
            pool: 0.0,
            at: now,
            born: now,
            parts,
            holders: BTreeMap::new(),
        }
    }

    /// What `me` gets for its report, in its message of that `number`. None: the account is closed, everybody has his even
    /// part again. Whom the members don't have is leaving.
    pub fn step(
        &mut self,
        (me, number): (u64, u64),
        whole: Whole,
        report: Report,
        members: &Members,
        now: f64,
    ) -> Option<Grant> {
        let Whole { rate, burst, least } = whole;
        // A later message was faster: nobody waits for this one's answer, and what it says is no longer so.
        if let Some(mine) = self.holders.get(&me).filter(|mine| mine.number >= number) {
            return Some(Grant {
                share: mine.share,
                burst: mine.burst,
                tokens: 0.0,
            });
        }
        // The clock went back: no time has passed, and what began has begun now.
        self.at = self.at.min(now);
        self.born = self.born.min(now);

        let held = self.held() + self.others_even(self.at);
        self.pool += (1.0 - held).max(0.0) * rate * (now - self.at);
        self.at = now;

        // Who has not been heard for longer than a lease has gone back to an even part; or is gone. Of whom the list of members
        // does not know, which may have been lost, his last report says when he was heard.
        let (even, stays) = (1.0 / f64::from(self.parts), members.0.contains_key(&me));
        self.holders.retain(|id, holder| {
            holder.at = holder.at.min(now);
            let silent = now - members.0.get(id).unwrap_or(&holder.at);
            if silent > LEASE.as_secs_f64() {
                *holder = Holder {
                    share: even,
                    held: even,
                    need: even,
                    tokens: burst,
                    burst: (burst * even).max(least),
                    ..*holder
                };
            }
            silent <= LIVE.as_secs_f64() && (*id != me || stays)
        });
        // Who leaves has nothing any more.
        if !stays {
            let nothing = Grant {
                share: 0.0,
                burst: 0.0,
                tokens: 0.0,
            };
            return (!self.holders.is_empty()).then_some(nothing);
        }

        let mine = self.holders.entry(me).or_default();
        mine.need = (report.demand / rate).min(1.0);
        mine.share = report.share.min(1.0);
        mine.held = mine.share;
        mine.number = number;
        let mine = *mine;
        let elsewhere = self.others_even(now);
        let others = self.held() - mine.held + elsewhere;
        let free = (1.0 - others).max(0.0);

        let share = self.share(me, mine, free, 1.0 - elsewhere).clamp(0.0, free);
        // What rounding leaves of one is none.
        let share = if share < 1e-6 { 0.0 } else { share };
        let held = mine.held.max(share);
        let entry = self.holders.get_mut(&me).expect("just put there");
        (entry.share, entry.held) = (share, held);

        // Who has no share keeps a request's worth; who has one gathers two, so that he makes use of it, and of the rest his share.
        let idle = self.holders.values().filter(|h| h.share == 0.0).count() as f64;
        let active = self.holders.len() as f64 - idle;
        let shared = (burst - idle * least).max(0.0);
        let base = (shared / active.max(1.0)).clamp(least, 2.0 * least);
        let rest = (shared - active * base).max(0.0);
        let gathers = if share == 0.0 {
            least
        } else {
            base + rest * share
        };
        // All buckets together hold no more than one would: what they may have had when here were the most. What a holder
        // has too much is on its way back.
        let has = |h: &Holder| {
            let by_now = h.tokens + h.held * rate * (now - h.at);
            by_now.min(h.burst.max(h.tokens))
        };
        let with_others = self.holders.iter().filter(|(id, _)| **id != me);
        let spread = with_others.map(|(_, h)| has(h)).sum::<f64>() + elsewhere * burst;
        let room = |here: f64| (burst - spread - here).max(0.0);
        self.pool = (self.pool + report.back).min(room(report.peak));
        let mut tokens = self.pool.min(gathers - report.tokens).max(0.0);
        // Of less than a request nobody has any use.
        if share == 0.0 && report.tokens + tokens < least {
            tokens = 0.0;
        }
        self.pool -= tokens;
        *self.holders.get_mut(&me).expect("just put there") = Holder {
            share,
            held,
            tokens: report.tokens + tokens,
            at: now,
            burst: gathers.max(report.burst.min(burst)),
            ..mine
        };

        let full = self.pool >= room(report.tokens + tokens) - 1e-6;
        let unwanted = self
            .holders
            .values()
            .all(|h| h.held == 0.0 && h.need == 0.0);
        if full && elsewhere == 0.0 && unwanted {
            return None;
        }
        Some(Grant {
            share,
            burst: gathers,
            tokens,
        })
    }

    /// The share that `me` should have: all that is free up to its part by demand; less than it has only where others lack.
    fn share(&self, me: u64, mine: Holder, free: f64, all: f64) -> f64 {
        if mine.need == 0.0 {
            return 0.0;
        }
        let target = self.targets(all);
        if mine.share <= target(mine.need) {
            return target(mine.need).min(free);
        }
        let lack = |holder: &Holder| (holder.need.min(target(holder.need)) - holder.share).max(0.0);
        let others = self.holders.iter().filter(|(id, _)| **id != me);
        let lacking: f64 = others.map(|(_, holder)| lack(holder)).sum();
        let unused = free - mine.share;
        (mine.share - (lacking - unused).max(0.0)).max(target(mine.need))
    }

    /// What `all` comes to for a need: all needs are met and the rest is dealt out by them; or they are met up to one level.
    fn targets(&self, all: f64) -> impl Fn(f64) -> f64 + use<> {
        let mut needs: Vec<f64> = self.holders.values().map(|holder| holder.need).collect();
        needs.sort_by(f64::total_cmp);
        let sum: f64 = needs.iter().sum();
        let (mut level, mut times) = (f64::INFINITY, 1.0);
        if sum <= all {
            times = all / sum;
        } else {
            let (mut left, mut count) = (all, needs.len() as f64);
            for need in needs {
                level = left / count;
                if need > level {
                    break;
                }
                left -= need;
                count -= 1.0;
            }
        }
        move |need| (need * times).min(level)
    }

    fn held(&self) -> f64 {
        self.holders.values().map(|holder| holder.held).sum()
    }

    /// The even parts of those who have not reported yet: they don't know of the account.
    fn others_even(&self, now: f64) -> f64 {
        if now - self.born > LIVE.as_secs_f64() {
            return 0.0;
        }
        let unheard = self.parts.saturating_sub(self.holders.len() as u32);
        f64::from(unheard) / f64::from(self.parts)
    }
}
