//! Work beside the requests, on threads of its own, so that busy workers hold up none of it, nor it them.

use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::clock;

/// A first round ends with its work's own deadlines; so much later it does where its thread gets no turn.
pub(super) const GRACE: Duration = Duration::from_secs(1);

pub(super) type Tasks = Vec<JoinHandle<()>>;

type Start = Box<dyn FnOnce() -> Tasks + Send>;

/// A thread that waits for its work. Dropped without any, it ends.
pub(super) struct Aside(SyncSender<Start>);

impl Aside {
    /// # Errors
    /// A thread that can't be had; for people.
    pub(super) fn new(name: &str) -> Result<Aside, String> {
        let no_thread = |e: std::io::Error| format!("cannot start a thread: {e}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(no_thread)?;
        let (give, given) = mpsc::sync_channel::<Start>(1);
        let work = move || {
            let Ok(start) = given.recv() else { return };
            runtime.block_on(async {
                for task in start() {
                    // One that panics has told so, and is no reason to end the others.
                    let _ = task.await;
                }
            });
        };
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(work).map_err(no_thread)?;
        Ok(Aside(give))
    }

    /// Runs what `start` spawns until all of it has ended.
    pub(super) fn run(self, start: impl FnOnce() -> Tasks + Send + 'static) {
        // It waits for just this.
        let _ = self.0.send(Box::new(start));
    }
}

/// Held by whoever owes a first answer, and dropped with it.
pub(super) type First = Sender<()>;

/// Everybody's first answer, on its way.
pub struct FirstRound {
    answers: Receiver<()>,
    patience: Duration,
}

impl FirstRound {
    pub(super) fn new(patience: Duration) -> (First, FirstRound) {
        let (first, answers) = mpsc::channel();
        (first, FirstRound { answers, patience })
    }

    /// Blocks until all have answered, or should have.
    pub fn wait(self) {
        let until = clock::instant() + self.patience;
        loop {
            let left = until.saturating_duration_since(clock::instant());
            // Nothing is sent: the last to answer drops the last sender.
            match self.answers.recv_timeout(left) {
                Ok(()) => {}
                Err(_) => return,
            }
        }
    }
}
