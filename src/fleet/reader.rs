//! Follows the log: does what others have done, and knows up to when that is all.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

use super::entry::Entry;
use super::levers::Job;
use super::message::{self, ENTRIES, Line, Message, Piece, Position, Reply};
use super::shared::Shared;
use super::{Cache, PATIENCE, now};
use crate::clock;
use crate::levers::Uid;
use crate::redis::{Failure, Link, Words};
use crate::rules::purge::{Purge, What};
use crate::telemetry::RedisResult;

/// Redis keeps a question for so long until there is something new.
const BLOCK: Duration = Duration::from_millis(100);
/// How often it is looked whether Redis still answers.
const TURN: Duration = Duration::from_millis(100);
/// Between questions after failures: the first, and the longest. A connection takes a second at most, so it is back within five.
const REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(2);
/// What is unreadable so often is left out.
const SKIPPED_AFTER: u32 = 5;

pub struct Reader {
    link: Link,
    shared: Arc<Shared>,
    cache: Arc<dyn Cache>,
    jobs: Sender<Job>,
    /// How far it has read.
    at: Option<Position>,
    /// Entries about levers up to this one are in what was taken over; None: nothing is yet.
    taken: Option<u64>,
    /// What comes next need not follow what came last: that is gone from the log, and its absence seen to.
    jumps: bool,
    /// In a row; and those of them to read what is there.
    failures: u32,
    unreadable: u32,
    told_of_unknown: bool,
}

impl Reader {
    /// `at`: how far the process before has read, if that is known.
    pub fn new(
        link: Link,
        shared: Arc<Shared>,
        cache: Arc<dyn Cache>,
        jobs: Sender<Job>,
        at: Option<Position>,
    ) -> Reader {
        Reader {
            link,
            shared,
            cache,
            jobs,
            at,
            taken: None,
            jumps: false,
            failures: 0,
            unreadable: 0,
            told_of_unknown: false,
        }
    }

    pub async fn run(mut self) {
        loop {
            let step = match self.taken {
                None => self.take().await,
                Some(_) => self.read().await,
            };
            self.shared.turn(now());
            let failure = match step {
                Ok(true) => {
                    (self.failures, self.unreadable) = (0, 0);
                    continue;
                }
                Ok(false) => continue,
                Err(failure) => failure,
            };
            self.shared.count(failure.result);
            // Whatever it was, the script mends keys that are none.
            self.taken = None;
            self.failures += 1;
            if failure.result == RedisResult::Unbelievable {
                self.unreadable += 1;
            }
            if failure.result != RedisResult::Timeout {
                self.shared.is_behind(&failure.why);
            }
            // Until it is known to be down it is asked again at once.
            if self.shared.behind() {
                let rest = (REST * 2_u32.pow(self.failures.min(8))).min(LONGEST_REST);
                watching(&self.shared, sleep(rest)).await;
            }
        }
    }

    /// Takes over all that the fleet has pulled, and finds the place in the log. Never whether all is read.
    async fn take(&mut self) -> Result<bool, Failure> {
        let prefix = self.link.prefix().to_owned();
        let told = self.shared.told();
        let message = Message {
            prefix: &prefix,
            name: Uid::fresh(),
            me: self.shared.me,
            told: Some(&told),
            wants_levers: true,
            wants_proxies: true,
            gone: &[],
            orders: &[],
        };
        let command = |sha: &str| message.command(sha);
        let words = Words::Script(&command);
        let wall = clock::now().wall;
        let said = self.link.say(&words, |value| message::reply(value, wall));
        let Reply {
            at,
            levers,
            proxies,
        } = watching(&self.shared, said).await?;
        self.shared.count(RedisResult::Ok);
        self.shared.heard(proxies.unwrap_or_default(), now());
        let (levers, unreadable) = levers.unwrap_or_default();
        if unreadable > 0 {
            self.tell_of_unknown(&format!("{unreadable} levers that can't be read"));
        }
        let anew = self.at.is_none_or(|had| had.log != at.log);
        match self.at {
            Some(had) if had.log == at.log && had.entry <= at.entry => {
                if self.unreadable >= SKIPPED_AFTER {
                    self.miss("it can't be read");
                    self.at = Some(at);
                }
            }
            // Nothing is stored that could have been purged.
            None if !self.cache.has_pages() => self.at = Some(at),
            had => {
                self.miss(match had {
                    None => "it is not known how far it was read",
                    Some(_) => "it is another",
                });
                // What it still knows is done as it says.
                self.at = Some(Position { entry: 0, ..at });
                self.jumps = true;
            }
        }
        self.taken = Some(at.entry);
        self.job(Job::All { levers, anew }).await;
        Ok(false)
    }

    /// Reads on. Whether something could be read.
    async fn read(&mut self) -> Result<bool, Failure> {
        let Some(had) = self.at else {
            self.taken = None;
            return Ok(false);
        };
        let sent = now();
        // Who has not read for long doesn't wait for what is new.
        let waits = match self.shared.silence(sent) > PATIENCE / 2 {
            true => Duration::ZERO,
            false => BLOCK,
        };
        let (commands, count) = message::after(self.link.prefix(), had.entry, waits);
        let words = Words::Plain {
            commands: &commands,
            count,
            waits,
        };
        let said = watching(&self.shared, self.link.say(&words, message::piece)).await?;
        self.shared.count(RedisResult::Ok);
        let Some(Piece { at, lines }) = said.filter(|piece| piece.at.log == had.log) else {
            self.taken = None;
            return Ok(true);
        };
        let is_all = lines.len() < ENTRIES;
        for line in lines {
            self.line(had, line).await?;
        }
        let read = self.at.map_or(0, |at| at.entry);
        if is_all && read >= at.entry {
            self.shared.read(Position { entry: read, ..at }, false);
            self.shared.is_current(sent);
        } else if is_all {
            // Its end is gone: the script sees that.
            self.taken = None;
        }
        Ok(true)
    }

    async fn line(&mut self, had: Position, line: Line) -> Result<(), Failure> {
        let last = self.at.map_or(0, |at| at.entry);
        if line.number <= last {
            return Err(Failure {
                result: RedisResult::Unbelievable,
                why: "an entry that comes again".to_owned(),
            });
        }
        let follows = line.number == last + 1;
        if !follows && !std::mem::take(&mut self.jumps) {
            self.miss("entries are gone that were not read");
            // Also what they said of levers.
            self.taken = None;
        }
        self.jumps = false;
        let at = Position {
            entry: line.number,
            ..had
        };
        self.at = Some(at);
        let is_ours = line.by == Some(self.shared.me);
        let entry = match Entry::read(&line.text, clock::now().wall) {
            Ok(entry) => entry,
            Err(why) => {
                self.tell_of_unknown(&why);
                // It may have been a purge, which is not to be confirmed without having been one.
                if !Entry::is_of_a_lever(&line.text) {
                    self.miss("an entry can't be read");
                }
                self.shared.read(at, false);
                return Ok(());
            }
        };
        let known = self.taken.is_some_and(|taken| line.number <= taken);
        match entry {
            Entry::Purge(purge) => {
                if !is_ours {
                    self.cache.purge(&purge);
                }
                self.shared.read(at, false);
            }
            Entry::Pull(_) | Entry::Undo(_) if known => self.shared.read(at, false),
            Entry::Pull(lever) => {
                self.shared.read(at, true);
                let entry = line.number;
                self.job(Job::Pull { lever, entry }).await;
            }
            Entry::Undo(uid) => {
                self.shared.read(at, true);
                let entry = line.number;
                self.job(Job::Undo { uid, entry }).await;
            }
        }
        Ok(())
    }

    /// Nobody knows what was purged: all that is stored is stale.
    fn miss(&self, why: &str) {
        tracing::warn!(
            why,
            "the log of purges has a gap: all that is stored is taken for stale, also what may have been purged for good"
        );
        self.shared.count_gap();
        self.cache.purge(&Purge::soft(What::All));
    }

    fn tell_of_unknown(&mut self, why: &str) {
        if !std::mem::replace(&mut self.told_of_unknown, true) {
            tracing::warn!(
                why,
                "there are entries in the log of purges and levers that this version does not know; levers are left out, for others all that is stored is taken for stale; it is not told of again"
            );
        }
    }

    /// It waits where very many come at once.
    async fn job(&self, job: Job) {
        // An error is the end of who does them, and of this fleet.
        let _ = watching(&self.shared, self.jobs.send(job)).await;
    }
}

/// Does something that may take long, and looks meanwhile whether Redis still answers.
async fn watching<T>(shared: &Shared, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = sleep(TURN) => shared.turn(now()),
        }
    }
}
