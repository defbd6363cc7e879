//! Pulls and undoes here what others have pulled and undone. On a thread of its own: what it takes to put a lever in force may be
//! slow, and purges don't wait for it.

use tokio::sync::mpsc::Receiver;

use super::entry::Entry;
use super::queue::Order;
use super::shared::{Gone, Shared};
use crate::clock;
use crate::levers::board::Board;
use crate::levers::board::elsewhere::{Joined, Taken};
use crate::levers::{Lever, Uid};

/// So many may wait.
pub const MOST_JOBS: usize = 1_024;

/// What is to be done.
pub enum Job {
    /// Take over all that the fleet has pulled. `anew`: it has forgotten what it knew before.
    All {
        levers: Vec<Lever>,
        anew: bool,
    },
    Pull {
        lever: Lever,
        entry: u64,
    },
    Undo {
        uid: Uid,
        entry: u64,
    },
    /// The fleet knows of these.
    Shared(Vec<Uid>),
}

/// Does what comes, until nothing can come any more.
pub fn work(mut jobs: Receiver<Job>, board: &Board, shared: &Shared) {
    while let Some(job) = jobs.blocking_recv() {
        match job {
            Job::All { levers, anew } => all(levers, anew, board, shared),
            Job::Pull { lever, entry } => {
                pull(lever, board, shared);
                shared.done(entry);
            }
            Job::Undo { uid, entry } => {
                undo(uid, board, shared);
                shared.done(entry);
            }
            Job::Shared(uids) => board.shared(&uids),
        }
    }
}

fn all(mut levers: Vec<Lever>, anew: bool, board: &Board, shared: &Shared) {
    let now = clock::now().wall;
    levers.retain(|lever| {
        shared.has_read(lever.uid);
        if is_gone(lever.uid, shared) {
            return false;
        }
        let is_over = lever.until.is_some_and(|until| until <= now);
        if is_over {
            shared.order(Order::over(lever.uid));
        }
        !is_over
    });
    let Joined {
        pulled,
        undone,
        untold,
        idle,
    } = match board.join(levers, anew, now) {
        Ok(joined) => joined,
        Err(why) => {
            return tracing::error!(why, "the fleet's levers can't be put in force here");
        }
    };
    for lever in &pulled {
        tell(lever, "a lever that another proxy has pulled");
    }
    for lever in &undone {
        tell(lever, "a lever is undone by another proxy");
    }
    for (uid, why) in &idle {
        refuse(*uid, why, shared);
    }
    for lever in untold {
        shared.say(&Entry::Pull(lever));
    }
}

fn pull(lever: Lever, board: &Board, shared: &Shared) {
    let uid = lever.uid;
    shared.has_read(uid);
    if is_gone(uid, shared) {
        return;
    }
    // What was pulled here stands after it in the log.
    let is_later = |one: &Lever| one.pull.replaces(&lever.pull) && shared.is_to_come(one.uid);
    if board.levers().iter().any(is_later) {
        return shared.order(Order::over(uid));
    }
    let told = lever.clone();
    let (taken, instead) = board.accept(lever, clock::now().wall);
    let over = instead.into_iter().filter(|one| !shared.is_to_come(*one));
    over.for_each(|over| shared.order(Order::over(over)));
    match taken {
        Taken::Known => {}
        Taken::Pulled => {
            shared.settle(uid);
            tell(&told, "a lever that another proxy has pulled");
        }
        Taken::Idle(why) | Taken::Refused(why) => refuse(uid, &why, shared),
    }
}

/// Whether one is gone here. Who brings it back has missed that, and is told.
fn is_gone(uid: Uid, shared: &Shared) -> bool {
    match shared.why_gone(uid) {
        None => return false,
        Some(Gone::Undone) => shared.say(&Entry::Undo(uid)),
        Some(Gone::Over) => shared.order(Order::over(uid)),
    }
    true
}

fn undo(uid: Uid, board: &Board, shared: &Shared) {
    shared.gone(uid, Gone::Undone);
    shared.settle(uid);
    match board.dismiss(uid) {
        Ok(Some(lever)) => tell(&lever, "a lever is undone by another proxy"),
        Ok(None) => {}
        Err(why) => refuse(uid, &why, shared),
    }
}

fn refuse(uid: Uid, why: &str, shared: &Shared) {
    tracing::warn!(%uid, why, "what another proxy has pulled or undone is not in force here");
    shared.refuse(uid, why);
}

fn tell(lever: &Lever, what: &str) {
    let (name, by, reason) = (lever.pull.name(), &lever.who, &lever.reason);
    tracing::warn!(name, by, reason, "{what}");
}
