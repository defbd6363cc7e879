//! What other proxies of the fleet have pulled and undone.
//!
//! It may come twice and late; what is done already is done. A lever that is about something that this proxy's config doesn't have is
//! kept all the same, and does something once it is there. What would do harm here, and was not forced, is refused.

use super::{Board, Kept, Lever, MOST, State, Uid, apply};
use crate::config::policy::Policy;

/// What became of another proxy's lever.
#[derive(Clone, PartialEq, Debug)]
pub enum Taken {
    /// It was here already, or is over.
    Known,
    Pulled,
    /// It is kept, and does nothing; why, for people.
    Idle(String),
    /// It is not kept; why, for people.
    Refused(String),
}

/// What came of taking over all that a fleet has pulled.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Joined {
    /// New here.
    pub pulled: Vec<Lever>,
    /// Undone since this proxy knew of them.
    pub undone: Vec<Lever>,
    /// The fleet doesn't know of them.
    pub untold: Vec<Lever>,
    /// What is not in force here, and why.
    pub idle: Vec<(Uid, String)>,
}

impl Board {
    /// Pulls a lever that another proxy has pulled. Also those whose place it took. `now`: Unix seconds.
    pub fn accept(&self, lever: Lever, now: u64) -> (Taken, Vec<Uid>) {
        let mut state = self.state.lock();
        let mut kept = state.kept.clone();
        let (taken, instead) = add(&state.base, &mut kept, lever, now);
        if let Taken::Known | Taken::Refused(_) = taken {
            return (taken, instead);
        }
        match self.change(&mut state, kept) {
            Ok(unkept) => {
                warn_of(unkept);
                (taken, instead)
            }
            Err(why) => (Taken::Refused(why), Vec::new()),
        }
    }

    /// Undoes a lever that another proxy has undone. None: it is not pulled here.
    ///
    /// # Errors
    /// What it is about can't be had without it; for people. It stays.
    pub fn dismiss(&self, uid: Uid) -> Result<Option<Lever>, String> {
        let mut state = self.state.lock();
        let mut kept = state.kept.clone();
        let Some(at) = kept.levers.iter().position(|lever| lever.uid == uid) else {
            return Ok(None);
        };
        let lever = kept.levers.remove(at);
        warn_of(self.change(&mut state, kept)?);
        Ok(Some(lever))
    }

    /// Has all in force that the fleet has pulled, in one step, `all` in their order. `anew`: the fleet has forgotten what it knew, so
    /// what it doesn't know was not undone. `now`: Unix seconds.
    ///
    /// # Errors
    /// It can't be put in force; for people. Then nothing has changed.
    pub fn join(&self, all: Vec<Lever>, anew: bool, now: u64) -> Result<Joined, String> {
        let mut state = self.state.lock();
        let State { kept, base } = &mut *state;
        let before = kept.clone();
        let mut kept = before.clone();
        let mut joined = Joined::default();
        let is_known = |lever: &Lever| all.iter().any(|one| one.uid == lever.uid);
        kept.levers.retain(|lever| {
            let stays = is_known(lever) || anew || !lever.shared;
            if !stays {
                joined.undone.push(lever.clone());
            }
            stays
        });
        for lever in &mut kept.levers {
            lever.shared = is_known(lever);
            if !lever.shared {
                joined.untold.push(lever.clone());
            }
        }
        for lever in all {
            // What was pulled here meanwhile comes after it.
            if joined
                .untold
                .iter()
                .any(|one| one.pull.replaces(&lever.pull))
            {
                continue;
            }
            let uid = lever.uid;
            match add(base, &mut kept, lever, now).0 {
                Taken::Known => {}
                Taken::Pulled => joined.pulled.extend(kept.levers.last().cloned()),
                Taken::Idle(why) | Taken::Refused(why) => joined.idle.push((uid, why)),
            }
        }
        if kept.levers != before.levers {
            warn_of(self.change(&mut state, kept)?);
        }
        Ok(joined)
    }

    /// The fleet knows of these now.
    pub fn shared(&self, uids: &[Uid]) {
        let mut state = self.state.lock();
        let mut any = false;
        for lever in &mut state.kept.levers {
            if uids.contains(&lever.uid) && !lever.shared {
                lever.shared = true;
                any = true;
            }
        }
        if any {
            warn_of(self.write(&state.kept));
        }
    }
}

/// Adds a lever of another proxy's. What became of it, and those whose place it took.
fn add(base: &Policy, kept: &mut Kept, lever: Lever, now: u64) -> (Taken, Vec<Uid>) {
    let known = kept.levers.iter_mut().find(|one| one.uid == lever.uid);
    if let Some(known) = known {
        known.shared = true;
        return (Taken::Known, Vec::new());
    }
    if lever.until.is_some_and(|until| until <= now) {
        return (Taken::Known, Vec::new());
    }
    let instead = |one: &&Lever| lever.pull.replaces(&one.pull);
    let instead: Vec<Uid> = kept
        .levers
        .iter()
        .filter(instead)
        .map(|one| one.uid)
        .collect();
    let mut levers = kept.levers.clone();
    levers.retain(|one| !instead.contains(&one.uid));
    if levers.len() >= MOST {
        let why = format!("{MOST} levers are pulled, and there may be no more");
        return (Taken::Refused(why), Vec::new());
    }
    let taken = match apply::check(base, &levers, &lever.pull, true) {
        Err(why) => Taken::Idle(why),
        Ok(()) => match apply::check(base, &levers, &lever.pull, lever.force) {
            Err(harm) => return (Taken::Refused(harm), Vec::new()),
            Ok(()) => Taken::Pulled,
        },
    };
    kept.last += 1;
    levers.push(Lever {
        id: kept.last,
        shared: true,
        ..lever
    });
    kept.levers = levers;
    (taken, instead)
}

fn warn_of(unkept: Option<String>) {
    if let Some(why) = unkept {
        tracing::warn!(why, "a restart may not know of levers as they are now");
    }
}
