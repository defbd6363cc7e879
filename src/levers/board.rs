//! Which levers are pulled: kept in a file, so that a restart undoes nothing; undone by command or by themselves, and the same
//! on all proxies of a fleet ([`elsewhere`] is what others have done).

pub mod elsewhere;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Lever, Order, Pull, Uid, apply};
use crate::config::policy::Policy;
use crate::state::kept;

/// So many may be pulled at once.
pub const MOST: usize = 256;

/// Puts a policy in force, or says why it can't.
type Put = Box<dyn Fn(Policy) -> Result<(), String> + Send + Sync>;

/// What was done here, for whoever tells other proxies of it. It may not ask the board anything.
type Tell = Box<dyn Fn(Change<'_>) + Send + Sync>;

/// What was done here.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Change<'a> {
    Pulled(&'a Lever),
    Undone(Uid),
    /// It is over, or another has its place.
    Over(Uid),
}

/// See the module.
pub struct Board {
    /// Where they are kept; none: nowhere.
    path: Option<PathBuf>,
    put: Put,
    tell: OnceLock<Tell>,
    state: Mutex<State>,
}

struct State {
    kept: Kept,
    /// The config's policy, without levers.
    base: Arc<Policy>,
}

/// What is written down.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Kept {
    /// The last id that was given.
    last: u64,
    levers: Vec<Lever>,
}

/// What pulling one came to.
#[derive(Debug)]
pub struct Pulled {
    pub lever: Lever,
    /// Those it took the place of.
    pub instead: Vec<Lever>,
    /// Why a restart would undo it, if it would.
    pub unkept: Option<String>,
}

/// The levers that were kept in a file and are not over `now` (Unix seconds), and why they could not be read, if they were not: then that file lies beside, with
/// `.bad` behind its name.
pub fn read(path: &Path, now: u64) -> (Vec<Lever>, Option<String>) {
    let (kept, why) = kept::read::<Kept>(path);
    let is_on = |lever: &Lever| lever.until.is_none_or(|until| until > now);
    (kept.levers.into_iter().filter(is_on).collect(), why)
}

impl Board {
    /// With what is kept at `path`. `base`: the config's policy. Nothing is put in force: the process has begun with
    /// [`over`](apply::over) these.
    pub fn new(path: Option<PathBuf>, base: Arc<Policy>, put: Put) -> Board {
        let kept = path.as_deref().map(|path| kept::read::<Kept>(path).0);
        Board {
            path,
            put,
            tell: OnceLock::new(),
            state: Mutex::new(State {
                kept: kept.unwrap_or_default(),
                base,
            }),
        }
    }

    /// Has all that is done here told, in its order. Once.
    pub fn tell(&self, tell: impl Fn(Change<'_>) + Send + Sync + 'static) {
        // A second one is told nothing.
        let _ = self.tell.set(Box::new(tell));
    }

    fn told(&self, change: Change<'_>) {
        if let Some(tell) = self.tell.get() {
            tell(change);
        }
    }

    /// Those that are pulled, in the order in which they were.
    pub fn levers(&self) -> Vec<Lever> {
        self.state.lock().kept.levers.clone()
    }

    /// Has in force what is kept now: the process before this one may have pulled some since this one began.
    ///
    /// # Errors
    /// It can't be put in force; then nothing has changed.
    pub fn read_again(&self) -> Result<(), String> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let mut state = self.state.lock();
        let (kept, why) = kept::read::<Kept>(path);
        if let Some(why) = why {
            return Err(why);
        }
        if kept.levers == state.kept.levers {
            return Ok(());
        }
        (self.put)(apply::over(&state.base, &kept.levers))?;
        state.kept = kept;
        Ok(())
    }

    /// Has another config's policy in force, under the levers.
    ///
    /// # Errors
    /// It can't be put in force; then nothing has changed.
    pub fn rebase(&self, policy: Policy) -> Result<(), String> {
        let mut state = self.state.lock();
        (self.put)(apply::over(&policy, &state.kept.levers))?;
        state.base = Arc::new(policy);
        Ok(())
    }

    /// Pulls one, in place of the same one on the same thing. `now`: Unix seconds.
    ///
    /// # Errors
    /// What it is about is not there, it would do harm, or can't be put in force; for people. Then nothing has changed.
    pub fn pull(&self, pull: Pull, order: Order, now: u64) -> Result<Pulled, String> {
        let mut state = self.state.lock();
        let mut kept = state.kept.clone();
        let (instead, stays) = kept
            .levers
            .into_iter()
            .partition(|lever: &Lever| pull.replaces(&lever.pull));
        kept.levers = stays;
        apply::check(&state.base, &kept.levers, &pull, order.force)?;
        if kept.levers.len() >= MOST {
            return Err(format!(
                "{MOST} levers are pulled, and there may be no more"
            ));
        }
        kept.last += 1;
        let lever = Lever {
            id: kept.last,
            uid: Uid::fresh(),
            shared: false,
            pull,
            who: order.who,
            reason: order.reason,
            since: now,
            until: order
                .time
                .map(|time| now.saturating_add(time.as_secs().max(1))),
            force: order.force,
        };
        kept.levers.push(lever.clone());
        let unkept = self.change(&mut state, kept)?;
        self.told(Change::Pulled(&lever));
        let over = instead.iter().map(|lever: &Lever| Change::Over(lever.uid));
        over.for_each(|change| self.told(change));
        Ok(Pulled {
            lever,
            instead,
            unkept,
        })
    }

    /// Undoes one. Gives it, and why a restart would bring it back, if it would.
    ///
    /// # Errors
    /// There is none such, or what it is about can't be had without it; for people.
    pub fn undo(&self, id: u64) -> Result<(Lever, Option<String>), String> {
        let mut state = self.state.lock();
        let mut kept = state.kept.clone();
        let Some(at) = kept.levers.iter().position(|lever| lever.id == id) else {
            return Err(format!("no lever {id} is pulled"));
        };
        let lever = kept.levers.remove(at);
        let unkept = self.change(&mut state, kept)?;
        self.told(Change::Undone(lever.uid));
        Ok((lever, unkept))
    }

    /// Undoes those whose time is over. `now`: Unix seconds.
    pub fn expire(&self, now: u64) -> Vec<Lever> {
        let mut state = self.state.lock();
        let is_over = |lever: &Lever| lever.until.is_some_and(|until| until <= now);
        if !state.kept.levers.iter().any(is_over) {
            return Vec::new();
        }
        let mut kept = state.kept.clone();
        let (over, stays) = kept.levers.into_iter().partition(is_over);
        kept.levers = stays;
        match self.change(&mut state, kept) {
            Ok(unkept) => {
                if let Some(why) = unkept {
                    tracing::error!(why, "levers that are over would be back after a restart");
                }
                let each = over.iter().map(|lever: &Lever| Change::Over(lever.uid));
                each.for_each(|change| self.told(change));
                over
            }
            // They are over all the same, and it is tried again.
            Err(why) => {
                tracing::error!(why, "levers that are over could not be undone");
                Vec::new()
            }
        }
    }

    fn change(&self, state: &mut State, kept: Kept) -> Result<Option<String>, String> {
        (self.put)(apply::over(&state.base, &kept.levers))?;
        state.kept = kept;
        Ok(self.write(&state.kept))
    }

    /// Why a restart would not know of it, if it would not.
    fn write(&self, kept: &Kept) -> Option<String> {
        match self.path.as_deref().map(|path| kept::write(path, kept)) {
            None => Some("there is no directory to keep it in".to_owned()),
            Some(Ok(())) => None,
            Some(Err(error)) => Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
