//! Which config is in force, which were before it, and how another comes into force.
//!
//! One change at a time: read, believed, and put in force by whoever made this, or refused with every mistake; what is
//! refused changes nothing. A change may be on trial: unless it is confirmed in time, what was in force before is again.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Flags, Policy, Report, fixed};
use crate::rules::time::{Moment, Now};
use crate::state::kept;

/// How many configs are remembered that were in force.
pub const REMEMBERED: usize = 20;

/// Where the config comes from: a file, if there is one, and what the command line says over it.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub path: Option<PathBuf>,
    pub flags: Flags,
}

/// Who wants a change, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct By {
    pub who: String,
    pub reason: String,
}

impl By {
    pub fn new(who: &str, reason: &str) -> By {
        By {
            who: who.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// A config that is in force, or was.
#[derive(Debug, Serialize, Deserialize)]
pub struct Version {
    /// Rising from 1, over restarts too where they are remembered.
    pub number: u64,
    /// When it came into force, in Unix seconds.
    pub since: u64,
    pub by: By,
    pub text: Arc<str>,
    /// Whether it is what the file said.
    pub from_file: bool,
}

/// What a change came to.
#[derive(Debug)]
pub struct Done {
    /// Who wanted it this time.
    pub by: By,
    pub version: Arc<Version>,
    /// Options that are written otherwise, and wait for a restart.
    pub waits: Vec<&'static str>,
    /// Until when it has to be confirmed.
    pub trial: Option<Moment>,
}

/// Why nothing was changed.
#[derive(Debug)]
pub enum Refused {
    /// The config's mistakes.
    Mistakes(Box<Report>),
    /// What could not be had, or is not there.
    Failed(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Mistakes(report) => report.fmt(f),
            Refused::Failed(why) => f.write_str(why),
        }
    }
}

/// Puts a policy in force, or says why it can't.
type Put = Box<dyn Fn(Policy) -> Result<(), String> + Send + Sync>;
/// The policy in force.
type InForce = Box<dyn Fn() -> Arc<Policy> + Send + Sync>;

/// See the module.
pub struct Live {
    source: Source,
    /// Where versions are remembered over restarts, if anywhere.
    history: OnceLock<PathBuf>,
    /// What there is instead of a file, if there is none.
    text: Arc<str>,
    in_force: InForce,
    put: Put,
    /// Held by a change from its reading to its end.
    changing: Mutex<()>,
    state: Mutex<State>,
    pub counts: Counts,
}

/// What changes came to.
#[derive(Debug, Default)]
pub struct Counts {
    pub done: AtomicU64,
    pub refused: AtomicU64,
}

struct State {
    /// The last is in force. Never empty.
    versions: VecDeque<Arc<Version>>,
    trial: Option<Trial>,
    /// Why the last change was refused, unless another was made since.
    refused: Option<String>,
}

struct Trial {
    until: Moment,
    /// What is to be in force again.
    before: Arc<Version>,
}

impl State {
    fn forget(&mut self) {
        while self.versions.len() > REMEMBERED + 1 {
            self.versions.pop_front();
        }
    }
}

impl Version {
    fn numbered(&self, number: u64) -> Version {
        Version {
            number,
            since: self.since,
            by: self.by.clone(),
            text: Arc::clone(&self.text),
            from_file: self.from_file,
        }
    }
}

impl Live {
    /// `text`: what the process has started with.
    pub fn new(source: Source, text: &str, now: Now, in_force: InForce, put: Put) -> Live {
        let first = Version {
            number: 1,
            since: now.wall,
            by: By::new("start", ""),
            text: text.into(),
            from_file: true,
        };
        Live {
            source,
            history: OnceLock::new(),
            text: text.into(),
            in_force,
            put,
            changing: Mutex::new(()),
            state: Mutex::new(State {
                versions: VecDeque::from([Arc::new(first)]),
                trial: None,
                refused: None,
            }),
            counts: Counts::default(),
        }
    }

    /// Knows of the versions that earlier processes have kept at `path`; from now on they are kept there. What this process has in force comes
    /// after them. Once.
    pub fn remember(&self, path: PathBuf) {
        let _one = self.changing.lock();
        let (versions, why) = kept::read::<Vec<Version>>(&path);
        if let Some(why) = why {
            tracing::error!(why, "the configs of before are lost");
        }
        let mut state = self.state.lock();
        let mut before: VecDeque<_> = versions.into_iter().map(Arc::new).collect();
        for own in std::mem::take(&mut state.versions) {
            let is_known =
                |last: &Arc<Version>| (&last.text, last.from_file) == (&own.text, own.from_file);
            if !before.back().is_some_and(is_known) {
                let number = before.back().map_or(1, |last| last.number + 1);
                before.push_back(Arc::new(own.numbered(number)));
            }
        }
        state.versions = before;
        state.forget();
        drop(state);
        // A second place would not be kept to.
        let _ = self.history.set(path);
        self.keep();
    }

    fn keep(&self) {
        let Some(path) = self.history.get() else {
            return;
        };
        let versions: Vec<_> = self.state.lock().versions.iter().cloned().collect();
        let all: Vec<&Version> = versions.iter().map(|version| &**version).collect();
        if let Err(error) = kept::write(path, &all) {
            tracing::warn!(path = %path.display(), %error, "a restart will not know of the configs of before");
        }
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The one that is in force.
    pub fn version(&self) -> Arc<Version> {
        let state = self.state.lock();
        Arc::clone(state.versions.back().expect("there is always one"))
    }

    /// Those that were in force, the last one first.
    pub fn versions(&self) -> Vec<Arc<Version>> {
        self.state.lock().versions.iter().rev().cloned().collect()
    }

    /// Until when the config in force has to be confirmed.
    pub fn trial(&self) -> Option<Moment> {
        self.state.lock().trial.as_ref().map(|trial| trial.until)
    }

    /// Why the last change was refused, if that was the last that was tried.
    pub fn refused(&self) -> Option<String> {
        self.state.lock().refused.clone()
    }

    /// Reads the file anew, and whatever files it names.
    ///
    /// # Errors
    /// It has mistakes, or could not be put in force.
    pub fn reload(&self, by: By, now: Now) -> Result<Done, Refused> {
        let _one = self.changing.lock();
        let text = self.written();
        self.told(text.and_then(|text| self.change(text.into(), true, by, None, now)))
    }

    /// Has `text` instead of the file's, for as long as the process lives or until the next reload. `trial`: unless that
    /// is [confirmed](Self::confirm) in time, what was in force before is again.
    ///
    /// # Errors
    /// It has mistakes, or could not be put in force.
    pub fn apply(
        &self,
        text: &str,
        by: By,
        trial: Option<Duration>,
        now: Now,
    ) -> Result<Done, Refused> {
        let _one = self.changing.lock();
        self.told(self.change(text.into(), false, by, trial, now))
    }

    /// Has what was in force before, or the version of that number.
    ///
    /// # Errors
    /// There is none such, it has mistakes by now, or could not be put in force.
    pub fn roll_back(&self, to: Option<u64>, by: By, now: Now) -> Result<Done, Refused> {
        let _one = self.changing.lock();
        self.told(self.find(to).and_then(|version| {
            self.change(Arc::clone(&version.text), version.from_file, by, None, now)
        }))
    }

    /// What is on trial stays.
    ///
    /// # Errors
    /// Nothing is.
    pub fn confirm(&self) -> Result<Arc<Version>, Refused> {
        let _one = self.changing.lock();
        match self.state.lock().trial.take() {
            Some(_) => {}
            None => {
                let why = "nothing is on trial: it was confirmed already, or its time was over";
                return Err(Refused::Failed(why.to_owned()));
            }
        }
        Ok(self.version())
    }

    /// Ends a trial whose time is over: what was in force before is again.
    pub fn end_trial(&self, now: Now) -> Option<Result<Done, Refused>> {
        let _one = self.changing.lock();
        let before = {
            let state = self.state.lock();
            let trial = state.trial.as_ref()?;
            (trial.until <= now.mono).then(|| Arc::clone(&trial.before))?
        };
        let by = By::new("trial", "not confirmed in time");
        let text = Arc::clone(&before.text);
        let done = self.change(text, before.from_file, by, None, now);
        // Whatever came of it, it is not tried again every second.
        self.state.lock().trial = None;
        Some(self.told(done))
    }

    /// What the file says now.
    ///
    /// # Errors
    /// It can't be read.
    pub fn written(&self) -> Result<String, Refused> {
        let read = super::source(self.source.path.as_deref());
        match &self.source.path {
            None => Ok(self.text.as_ref().to_owned()),
            Some(_) => read
                .map(|(_, text)| text)
                .map_err(|report| Refused::Mistakes(Box::new(report))),
        }
    }

    /// The policy of a text, which stays a thought.
    ///
    /// # Errors
    /// Its mistakes.
    pub fn believe(&self, text: &str) -> Result<(Policy, Vec<&'static str>), Report> {
        let name = self.source.path.as_ref();
        let name = name.map(|path| path.display().to_string());
        let flags = &self.source.flags;
        let mut policy =
            super::with_system(|world| super::believe(name, text.to_owned(), flags, world))?;
        let waits = fixed::keep(&(self.in_force)(), &mut policy);
        Ok((policy, waits))
    }

    fn change(
        &self,
        text: Arc<str>,
        from_file: bool,
        by: By,
        trial: Option<Duration>,
        now: Now,
    ) -> Result<Done, Refused> {
        let believed = self.believe(&text);
        let (policy, waits) = believed.map_err(|report| Refused::Mistakes(Box::new(report)))?;
        (self.put)(policy).map_err(Refused::Failed)?;
        let before = self.version();
        let mut state = self.state.lock();
        // What nobody has confirmed is nothing to go back to.
        let sure = match state.trial.take() {
            Some(trial) => trial.before,
            None => Arc::clone(&before),
        };
        state.trial = trial.map(|time| Trial {
            until: now.mono.after(time),
            before: sure,
        });
        let trial = state.trial.as_ref().map(|trial| trial.until);
        // Only files it names may have changed.
        let same = before.text == text && before.from_file == from_file;
        let version = match same {
            true => before,
            false => Arc::new(Version {
                number: before.number + 1,
                since: now.wall,
                by: by.clone(),
                text,
                from_file,
            }),
        };
        if !same {
            state.versions.push_back(Arc::clone(&version));
            state.forget();
        }
        drop(state);
        if !same {
            self.keep();
        }
        Ok(Done {
            by,
            version,
            waits,
            trial,
        })
    }

    fn find(&self, number: Option<u64>) -> Result<Arc<Version>, Refused> {
        let state = self.state.lock();
        let mut all = state.versions.iter().rev();
        let found = match number {
            None => all.nth(1),
            Some(number) => all.find(|version| version.number == number),
        };
        found.cloned().ok_or_else(|| {
            Refused::Failed(match number {
                None => "nothing was in force before".to_owned(),
                Some(number) => format!("version {number} is not remembered"),
            })
        })
    }

    /// Counts last: whoever sees the count sees the rest.
    fn told(&self, change: Result<Done, Refused>) -> Result<Done, Refused> {
        self.state.lock().refused = change.as_ref().err().map(ToString::to_string);
        match &change {
            Ok(done) => {
                let (version, by, reason) = (done.version.number, &done.by.who, &done.by.reason);
                tracing::info!(version, by, reason, "a config is in force");
                if !done.waits.is_empty() {
                    let options = done.waits.join(", ");
                    tracing::warn!(options, "written otherwise, and waiting for a restart");
                }
                self.counts.done.fetch_add(1, Ordering::Release);
            }
            Err(why) => {
                tracing::error!(%why, "a config is refused: the one before stays in force");
                self.counts.refused.fetch_add(1, Ordering::Release);
            }
        }
        change
    }
}

#[cfg(test)]
mod tests;
