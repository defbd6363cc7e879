//! The exchange with Redis, message by message.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::sleep;

use super::message::{Asks, MOST_REPORTS, Message, Name, Reply, SCRIPT};
use super::part::{Hot, MOST_HOT, Part};
use super::{FleetSpec, State, Word};
use crate::clock;
use crate::redis::{Failure, Link, Words};
use crate::rules::lease::{BRISK, Count, Grant, LEASE, Lease, Pace, Report, Standing};
use crate::telemetry::{RedisResult, ids};

/// After so many failures in a row Redis is down, and is left alone for longer and longer.
const FAILURES: u32 = 3;
/// At most for so long. A connection takes half a second at most, so it is back within five.
const LONGEST_REST: Duration = Duration::from_secs(2);
/// Reports that a message may have however long Redis takes for them.
const LEAST_REPORTS: usize = 10;

pub struct Task {
    link: Link,
    parts: Vec<Arc<Part>>,
    state: Arc<State>,
    told: UnboundedReceiver<Word>,
    /// Leases of limits that are shared no longer, which the others may have.
    given_up: Vec<(Name, Asks, Report)>,
    me: u64,
    count: Count,
    pace: Pace,
    version: String,
    /// Of the last message.
    number: u64,
    /// Reports that the next one may have, so that it doesn't take Redis too long.
    most: usize,
    standing: Standing,
    /// When that was asked which was answered last; nanoseconds.
    heard: Option<u64>,
    /// When the last message went out.
    sent: u64,
    requests: u64,
    /// Failures in a row.
    failures: u32,
}

/// A client's lease that is to be told of.
struct Due {
    part: usize,
    client: u64,
    lease: Arc<Mutex<Lease>>,
    reported: u64,
}

impl Task {
    pub fn new(
        spec: FleetSpec,
        parts: Vec<Arc<Part>>,
        state: Arc<State>,
        told: UnboundedReceiver<Word>,
    ) -> Result<Task, String> {
        Ok(Task {
            // What is granted later than that has ended before it is heard.
            link: Link::new(spec.redis, SCRIPT, LEASE)?,
            parts,
            state,
            told,
            given_up: Vec::new(),
            me: ids::random(),
            count: Count::new(spec.proxies),
            pace: Pace::default(),
            version: String::new(),
            number: 0,
            most: MOST_REPORTS,
            standing: Standing::Alone,
            heard: None,
            sent: 0,
            requests: 0,
            failures: 0,
        })
    }

    pub async fn run(mut self) {
        loop {
            let now = nanos();
            self.standing = self.stood(now);
            let due = self.due_in(now);
            if due.is_zero() {
                self.exchange(now, true).await;
                continue;
            }
            tokio::select! {
                () = sleep(due.min(BRISK)) => {}
                word = self.told.recv() => match word {
                    Some(Word::Parts(parts)) => self.renew(parts, nanos()),
                    Some(Word::Goodbye(done)) => {
                        self.exchange(nanos(), false).await;
                        return drop(done);
                    }
                    None => return self.exchange(nanos(), false).await,
                }
            }
        }
    }

    /// Shares these limits from now on. What clients had of those that are gone stays used in their tables, and what was held
    /// for them in Redis is the others'.
    fn renew(&mut self, parts: Vec<Arc<Part>>, now: u64) {
        let before = std::mem::replace(&mut self.parts, parts);
        let proxies = self.count.known();
        for part in before {
            if self.parts.iter().any(|one| Arc::ptr_eq(one, &part)) {
                continue;
            }
            for (client, lease) in leases(&part.hot()) {
                let report = Report {
                    demand: 0.0,
                    tokens: 0.0,
                    peak: lease.lock().report(now).peak,
                    // What he has here he keeps.
                    back: 0.0,
                    share: 0.0,
                    burst: 0.0,
                };
                self.given_up
                    .push((name(&part, client), asks(&part), report));
                let cell = lease.lock().cooled(proxies, now);
                if let Some(cells) = part.cells() {
                    cells.set_cell(client, cell, now);
                }
            }
            part.set_hot(Hot::default());
        }
        self.parts.iter().for_each(|part| part.set_proxies(proxies));
        self.requests = self.requests();
        // Who is hot of those that are new.
        self.version = String::new();
    }

    /// Requests at all limits.
    fn requests(&self) -> u64 {
        self.parts.iter().map(|part| part.requests.total()).sum()
    }

    /// How long until the next message.
    fn due_in(&self, now: u64) -> Duration {
        let since = Duration::from_nanos(now.saturating_sub(self.sent));
        let interval = match self.failures {
            0 => self.pace.next(since >= BRISK && self.has_news(now)),
            failures => (BRISK * 2_u32.pow(failures.min(8))).min(LONGEST_REST),
        };
        interval.saturating_sub(since)
    }

    fn has_news(&self, now: u64) -> bool {
        let has_news = |part: &Arc<Part>| {
            part.has_refused() || part.hot().values().any(|lease| lease.lock().has_news(now))
        };
        self.parts.iter().any(has_news)
    }

    async fn exchange(&mut self, now: u64, staying: bool) {
        self.sent = now;
        self.heat(now);
        let due = self.due(now);
        let requests = self.requests();
        self.pace.sent(requests - self.requests, due.len());
        self.requests = requests;

        let mut reports: Vec<_> = due.iter().map(|due| self.report(due, now)).collect();
        let room = self.given_up.len().min(MOST_REPORTS - due.len());
        // Behind the others: what is granted for them is nobody's.
        reports.extend(self.given_up.drain(..room));
        let prefix = self.link.prefix().to_owned();
        self.number += 1;
        let message = Message {
            prefix: &prefix,
            me: self.me,
            number: self.number,
            staying,
            known: self.count.known(),
            version: &self.version,
            reports: &reports,
        };
        let said = {
            let command = |sha: &str| message.command(sha);
            let words = Words::Script(&command);
            let mut saying = pin!(self.link.say(&words, |value| message.read(value)));
            let still = Still {
                parts: &self.parts,
                heard: self.heard,
                proxies: self.count.known(),
            };
            loop {
                tokio::select! {
                    said = &mut saying => break said,
                    // A grant ends when it does, whatever Redis takes its time for.
                    () = sleep(BRISK) => self.standing = still.stood(self.standing, nanos()),
                }
            }
        };
        let took = Duration::from_nanos(nanos().saturating_sub(now));
        self.most = match took > self.link.timeout() / 4 {
            true => (self.most / 2).max(LEAST_REPORTS),
            false => (self.most + LEAST_REPORTS).min(MOST_REPORTS),
        };
        // What is granted to who leaves is nothing, and his limits may still be asked.
        if !staying {
            return;
        }
        let said = said.and_then(|reply| self.believe(&due, reply));
        if said.is_err() {
            self.given_up.extend(reports.drain(due.len()..));
        }
        let result = said
            .as_ref()
            .map_or_else(|failure| failure.result, |_| RedisResult::Ok);
        self.state.operations[result as usize].add(1);
        match said {
            Ok(reply) => self.hear(&due, reply, now),
            Err(failure) => self.miss(&failure),
        }
    }

    /// Makes those hot who were refused.
    fn heat(&self, now: u64) {
        for part in &self.parts {
            let refused = part.take_refused(self.most);
            if refused.is_empty() {
                continue;
            }
            let mut hot = Hot::clone(&part.hot());
            for client in refused {
                if hot.len() < MOST_HOT {
                    hot.entry(client)
                        .or_insert_with(|| self.lease(part, client, true, now));
                }
            }
            part.set_hot(hot);
        }
    }

    fn lease(&self, part: &Part, client: u64, refused: bool, now: u64) -> Arc<Mutex<Lease>> {
        let cell = part
            .cells()
            .map_or_else(Default::default, |cells| cells.cell(client));
        let proxies = self.count.known();
        let lease = Lease::new(part.whole, proxies, part.least, cell, refused, now);
        Arc::new(Mutex::new(lease))
    }

    /// What is to be told of, the longest untold first.
    fn due(&self, now: u64) -> Vec<Due> {
        let mut all = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            for (client, lease) in leases(&part.hot()) {
                let (is_due, reported) = {
                    let lease = lease.lock();
                    (lease.is_due(now), lease.reported())
                };
                if is_due {
                    all.push(Due {
                        part: at,
                        client,
                        lease,
                        reported,
                    });
                }
            }
        }
        if all.len() > self.most {
            all.select_nth_unstable_by_key(self.most, |due| due.reported);
            all.truncate(self.most);
        }
        all
    }

    fn stood(&self, now: u64) -> Standing {
        let still = Still {
            parts: &self.parts,
            heard: self.heard,
            proxies: self.count.known(),
        };
        still.stood(self.standing, now)
    }

    fn report(&self, due: &Due, now: u64) -> (Name, Asks, Report) {
        let part = &self.parts[due.part];
        let report = due.lease.lock().report(now);
        (name(part, due.client), asks(part), report)
    }

    /// All of a reply, or nothing.
    fn believe(&self, due: &[Due], reply: Reply) -> Result<Reply, Failure> {
        let is_possible = |(due, grant): (&Due, Option<Grant>)| {
            let part = &self.parts[due.part];
            grant.is_none_or(|grant| grant.is_possible(&part.whole, part.least))
        };
        let mut each = due.iter().zip(reply.grants.iter().copied());
        match each.all(is_possible) {
            true => Ok(reply),
            false => Err(Failure {
                result: RedisResult::Unbelievable,
                why: "a grant of more than there is".to_owned(),
            }),
        }
    }

    fn hear(&mut self, due: &[Due], reply: Reply, sent: u64) {
        let now = nanos();
        if !self.state.up.swap(true, Relaxed) {
            let proxies = reply.counted;
            tracing::info!(proxies, "redis answers: limits are shared");
        }
        self.failures = 0;
        self.heard = Some(sent);
        self.standing = Standing::Member;
        self.count.heard(reply.counted, now);
        let proxies = self.count.known();
        self.state.proxies.store(proxies, Relaxed);
        self.version = reply.version;
        let mut cooled = Vec::new();
        for (due, grant) in due.iter().zip(reply.grants) {
            match grant {
                Some(grant) => due.lease.lock().granted(grant, now),
                None => cooled.push((due.part, due.client)),
            }
        }
        let mut hot = 0;
        for (at, part) in self.parts.iter().enumerate() {
            part.set_proxies(proxies);
            let cooled = cooled.iter().filter(|(part, _)| *part == at);
            let cooled: Vec<u64> = cooled.map(|(_, client)| *client).collect();
            if reply.hot.is_some() || !cooled.is_empty() {
                self.turn_over(part, &cooled, reply.hot.as_deref(), now);
            }
            hot += part.hot().len();
        }
        self.state.hot.store(hot, Relaxed);
    }

    /// Who is hot by now: without those who have cooled, with those of the list, if there is one.
    fn turn_over(&self, part: &Part, cooled: &[u64], list: Option<&[Name]>, now: u64) {
        let mut hot = Hot::clone(&part.hot());
        for client in cooled {
            self.cool(part, &mut hot, *client, now);
        }
        if let Some(list) = list {
            let its = list.iter().filter(|name| name.tag == part.tag);
            let listed: HashSet<u64> = its.map(|name| name.client).collect();
            for client in &listed {
                hot.entry(*client)
                    .or_insert_with(|| self.lease(part, *client, false, now));
            }
            // Who is not in it but asks for something gets into it again.
            let is_gone = |client: &u64, lease: &Mutex<Lease>| {
                !listed.contains(client) && lease.lock().is_idle()
            };
            let gone: Vec<u64> = leases(&hot)
                .filter(|(client, lease)| is_gone(client, lease))
                .map(|(client, _)| client)
                .collect();
            for client in gone {
                self.cool(part, &mut hot, client, now);
            }
        }
        part.set_hot(hot);
    }

    fn cool(&self, part: &Part, hot: &mut Hot, client: u64, now: u64) {
        if let Some(lease) = hot.remove(&client) {
            let cell = lease.lock().cooled(self.count.known(), now);
            if let Some(cells) = part.cells() {
                cells.set_cell(client, cell, now);
            }
        }
    }

    fn miss(&mut self, failure: &Failure) {
        self.failures += 1;
        self.count.lost();
        let was_up = self.failures == FAILURES && self.state.up.swap(false, Relaxed);
        if was_up || (self.failures == FAILURES && self.heard.is_none()) {
            let (proxies, why) = (self.count.known(), &failure.why);
            tracing::warn!(
                proxies,
                why,
                "no answer from redis: each proxy has its even part of the limits"
            );
        }
    }
}

/// What the leases hang on.
struct Still<'a> {
    parts: &'a [Arc<Part>],
    heard: Option<u64>,
    proxies: u32,
}

impl Still<'_> {
    /// How things stand by now. Where grants have ended, the even parts take their place.
    fn stood(&self, before: Standing, now: u64) -> Standing {
        let silence = |heard| Duration::from_nanos(now.saturating_sub(heard));
        let standing = Standing::after(self.heard.map_or(Duration::MAX, silence));
        if standing != before && standing != Standing::Member {
            for (_, lease) in self.parts.iter().flat_map(|part| leases(&part.hot())) {
                lease.lock().fall_back(standing, self.proxies, now);
            }
        }
        standing
    }
}

fn name(part: &Part, client: u64) -> Name {
    Name {
        tag: part.tag,
        client,
    }
}

fn asks(part: &Part) -> Asks {
    Asks {
        rate: part.whole.rate(),
        burst: part.whole.burst(),
        least: part.least,
    }
}

fn leases(hot: &Hot) -> impl Iterator<Item = (u64, Arc<Mutex<Lease>>)> + use<> {
    let all: Vec<_> = hot
        .iter()
        .map(|(client, lease)| (*client, Arc::clone(lease)))
        .collect();
    all.into_iter()
}

fn nanos() -> u64 {
    clock::tick().nanos()
}
