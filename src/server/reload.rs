//! What brings another config into force without being asked over the admin listener: the file, when it changes, and a
//! trial that nobody has confirmed; and levers that are over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::change;
use crate::clock;
use crate::config::live::{By, Live, Source};
use crate::config::policy::Policy;
use crate::files::{self, Watched};
use crate::front::InForce;
use crate::levers::board::{self, Board};
use crate::levers::{Pull, apply};
use crate::telemetry::{Metrics, names};

/// How often the file is looked at. It has changed once it was the same twice.
const LOOK: Duration = Duration::from_millis(500);

/// The config of what is in force now, which came from `source` and was `text`.
pub fn live(
    (source, text): (Source, &str),
    in_force: &InForce,
    board: &Arc<Board>,
    metrics: &Arc<Metrics>,
) -> Arc<Live> {
    let read = Arc::clone(in_force);
    let board = Arc::clone(board);
    let live = Live::new(
        source,
        text,
        clock::now(),
        Box::new(move || Arc::clone(&read.load().policy)),
        Box::new(move |policy| board.rebase(policy)),
    );
    let live = Arc::new(live);
    let of = |read: fn(&Live) -> f64| {
        let live = Arc::clone(&live);
        move || read(&live)
    };
    let version = |live: &Live| live.version().number as f64;
    let done = |live: &Live| live.counts.done.load(Ordering::Acquire) as f64;
    let refused = |live: &Live| live.counts.refused.load(Ordering::Acquire) as f64;
    let is_refused = |live: &Live| f64::from(u8::from(live.refused().is_some()));
    metrics.gauge(&names::CONFIG_VERSION, &[], of(version));
    metrics.gauge(&names::CONFIG_REFUSED, &[], of(is_refused));
    metrics.count_from(&names::CONFIG_CHANGES, &["done"], of(done));
    metrics.count_from(&names::CONFIG_CHANGES, &["refused"], of(refused));
    live
}

/// What the process begins with: the config's policy under the levers that were pulled before.
pub fn begun(base: &Policy, kept: Option<&Path>) -> Policy {
    let (levers, why) = kept
        .map(|path| board::read(path, clock::now().wall))
        .unwrap_or_default();
    if let Some(why) = why {
        tracing::error!(why, "the levers that were pulled are lost");
    }
    for lever in &levers {
        let (id, name, by, reason) = (lever.id, lever.pull.name(), &lever.who, &lever.reason);
        tracing::warn!(id, name, by, reason, "a lever is pulled");
    }
    apply::over(base, &levers)
}

/// The levers over `base`, the config's policy: what is in force.
pub fn board(
    path: Option<PathBuf>,
    base: Arc<Policy>,
    in_force: &InForce,
    metrics: &Arc<Metrics>,
) -> Arc<Board> {
    let (write, told) = (Arc::clone(in_force), Arc::clone(metrics));
    let put = move |policy| change::put_in_force(&write, policy, &told);
    let board = Arc::new(Board::new(path, base, Box::new(put)));
    for name in Pull::NAMES {
        let board = Arc::clone(&board);
        let pulled = move || {
            let levers = board.levers();
            levers.iter().filter(|one| one.pull.name() == name).count() as f64
        };
        metrics.gauge(&names::LEVER_ACTIVE, &[name], pulled);
    }
    board
}

/// Takes over what operators have done until now: the configs that were in force, and, from a process that serves still (`is_late`), the levers
/// that were pulled since this one began. Blocks.
pub fn take_over(live: &Live, board: &Board, history: Option<PathBuf>, is_late: bool) {
    if let Some(path) = history {
        live.remember(path);
    }
    if is_late && let Err(why) = board.read_again() {
        tracing::error!(why, "levers that were pulled of late are lost");
    }
}

/// Watches, from a thread of its own, until the process ends. `watched`: the file, as it was before it was read.
///
/// # Errors
/// No thread can be had; for people.
pub fn watch(live: &Arc<Live>, board: &Arc<Board>, watched: Option<Watched>) -> Result<(), String> {
    let (live, board) = (Arc::clone(live), Arc::clone(board));
    let look = move || {
        // What they come to is logged and counted there.
        if watched.as_ref().is_some_and(Watched::has_changed) {
            let _ = live.reload(By::new("file", "it has changed"), clock::now());
        }
        let _ = live.end_trial(clock::now());
        for lever in board.expire(clock::now().wall) {
            let (id, name, by) = (lever.id, lever.pull.name(), &lever.who);
            tracing::info!(id, name, by, "a lever is over");
        }
        true
    };
    files::watch("config", LOOK, look).map_err(|e| format!("cannot start a thread: {e}"))
}
