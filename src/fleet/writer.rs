//! Tells the others: what was done here, and how far this proxy has read.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use super::levers::Job;
use super::message::{self, Message, Position, Reply};
use super::queue::{Kind, Order};
use super::shared::Shared;
use super::{now, place};
use crate::clock;
use crate::levers::Uid;
use crate::redis::{Failure, Link, Words};
use crate::telemetry::RedisResult;

/// Between two messages with something to tell of this proxy, and without.
const BRISK: Duration = Duration::from_millis(20);
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(2);
/// The place that is written down is that of so long ago, so that whatever was done by then is on the disk.
const LAG: u64 = 5_000;
/// After so many failures in a row it says so.
const FAILURES: u32 = 3;

pub struct Writer {
    link: Link,
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    /// Where the place in the log is kept, if anywhere.
    path: Option<PathBuf>,
    kept: Option<Position>,
    /// Where it was, and when, of late.
    places: VecDeque<(u64, Position)>,
    /// Who waits for it to have left.
    leaving: Leaving,
    /// What the others know of this proxy.
    told: String,
    /// When the last message went out, and when the others were heard of.
    sent: u64,
    heard: u64,
    /// In a row.
    failures: u32,
    /// Proxies of this one's name that were there before it.
    gone: Option<Vec<Uid>>,
}

type Leaving = Arc<Mutex<Option<mpsc::Sender<()>>>>;

impl Writer {
    pub fn new(
        link: Link,
        shared: Arc<Shared>,
        jobs: Sender<Job>,
        path: Option<PathBuf>,
        leaving: Leaving,
    ) -> Writer {
        Writer {
            link,
            shared,
            jobs,
            path,
            kept: None,
            places: VecDeque::new(),
            leaving,
            told: String::new(),
            sent: 0,
            heard: 0,
            failures: 0,
            gone: None,
        }
    }

    pub async fn run(mut self) {
        loop {
            let leaving = self.leaving.lock().take();
            if let Some(done) = leaving {
                // Whoever is gone at once is not waited for; without it he is forgotten half a minute later.
                let _ = self.say(None).await;
                return drop(done);
            }
            self.keep_place().await;
            let due = self.due_in(now());
            if due.is_zero() {
                self.exchange().await;
                continue;
            }
            tokio::select! {
                () = sleep(due) => {}
                () = self.shared.work.notified() => {}
            }
        }
    }

    fn due_in(&self, now: u64) -> Duration {
        let since = Duration::from_millis(now.saturating_sub(self.sent));
        let interval = match self.failures {
            0 if self.shared.has_orders() => Duration::ZERO,
            0 if self.shared.is_waited_for() || self.told != self.shared.told() => BRISK,
            0 => REST,
            failures => (BRISK * 2_u32.pow(failures.min(8))).min(LONGEST_REST),
        };
        interval.saturating_sub(since)
    }

    async fn exchange(&mut self) {
        let (orders, ticket) = self.shared.batch();
        let told = self.shared.told();
        self.sent = now();
        match self.say(Some((&told, &orders))).await {
            Ok(Reply { at, proxies, .. }) => {
                self.shared.count(RedisResult::Ok);
                if self.failures >= FAILURES {
                    tracing::info!("the other proxies hear of purges and levers again");
                }
                self.failures = 0;
                self.told = told;
                self.shared.written(ticket, at);
                if let Some(proxies) = proxies {
                    self.heard = self.sent;
                    self.shared.heard(proxies, now());
                    // Once, since who had the name before may still have people to serve.
                    let namesakes = || self.shared.namesakes();
                    self.gone = Some(match self.gone {
                        None => namesakes(),
                        Some(_) => Vec::new(),
                    });
                }
                let pulled = orders.iter().filter(|order| order.kind == Kind::Pull);
                let pulled: Vec<Uid> = pulled.filter_map(|order| order.uid).collect();
                if !pulled.is_empty() {
                    // An error is the end of this fleet.
                    let _ = self.jobs.send(Job::Shared(pulled)).await;
                }
            }
            Err(failure) => {
                self.shared.count(failure.result);
                self.failures += 1;
                if self.failures == FAILURES {
                    let why = &failure.why;
                    tracing::warn!(why, "the other proxies do not hear of purges and levers");
                }
                self.shared.unwritten(&failure.why);
            }
        }
    }

    /// None: that this proxy leaves.
    async fn say(&mut self, what: Option<(&str, &[Order])>) -> Result<Reply, Failure> {
        let prefix = self.link.prefix().to_owned();
        let is_long_ago = self.sent.saturating_sub(self.heard) >= REST.as_millis() as u64;
        let message = Message {
            prefix: &prefix,
            name: Uid::fresh(),
            me: self.shared.me,
            told: what.map(|(told, _)| told),
            wants_levers: false,
            wants_proxies: self.shared.is_waited_for() || is_long_ago || self.heard == 0,
            gone: self.gone.as_deref().unwrap_or_default(),
            orders: what.map_or(&[], |(_, orders)| orders),
        };
        let command = |sha: &str| message.command(sha);
        let words = Words::Script(&command);
        let wall = clock::now().wall;
        let said = self.link.say(&words, |value| message::reply(value, wall));
        said.await
    }

    /// Writes down where it was a while ago.
    async fn keep_place(&mut self) {
        let Some(path) = &self.path else {
            return;
        };
        let now = now();
        let is_due = self.places.back().is_none_or(|(at, _)| at + 1_000 <= now);
        if is_due && let Some(at) = self.shared.at() {
            self.places.push_back((now, at));
        }
        let mut old = None;
        while let Some((_, at)) = self.places.pop_front_if(|(at, _)| *at + LAG <= now) {
            old = Some(at);
        }
        if let Some(old) = old.filter(|old| self.kept != Some(*old)) {
            self.kept = Some(old);
            let path = path.clone();
            let write = move || place::write(&path, old);
            // Without it a restart takes all for stale.
            if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
                tracing::warn!(%error, "the place in the log of purges is not kept");
            }
        }
    }
}
