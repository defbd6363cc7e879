//! Taking out of the cache what is no longer so, and the pass behind it that frees its memory.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Errand, Fetcher};
use crate::cache::entry::Entry;
use crate::cache::key::{Key, KeyRef};
use crate::cache::store::{Purged, Store};
use crate::clock;
use crate::rules::identity::Class;
use crate::rules::purge::Purge;
use crate::rules::time::Moment;

/// Purges come in flocks: the pass waits so long for more.
const SETTLES: Duration = Duration::from_secs(1);
/// It rests so many times as long as it took, and no longer than this: who is busy has it take long.
const RESTS: u32 = 20;
const LONGEST: Duration = Duration::from_secs(2);

/// Wakes the thread that sweeps.
#[derive(Default)]
pub struct Sweeper(OnceLock<SyncSender<()>>);

/// Who hears of purges.
#[derive(Default)]
pub struct Told(OnceLock<Tell>);

type Tell = Box<dyn Fn(&Purge) + Send + Sync>;

impl Fetcher {
    /// Purges, from any thread, in milliseconds however much that is; or tells, for a dry run, what would be. Once it has
    /// returned, nothing that was stored or on its way before is told to who asks from then on (soft: but as stale). It
    /// may be repeated: what was fetched in between is fetched once more, and that is all.
    pub fn purge(&self, purge: &Purge) -> Purged {
        let store = || self.store.purge(purge, clock::moment());
        let purged = self.snapshot.purge(purge, store);
        if purge.dry_run {
            return purged;
        }
        self.follow_up(purge);
        if let Some(tell) = self.told.0.get() {
            tell(purge);
        }
        purged
    }

    /// Purges what another proxy has purged: nobody is told of it, and nothing counted.
    pub fn purge_too(&self, purge: &Purge) {
        let store = || self.store.purge_uncounted(purge, clock::moment());
        self.snapshot.purge(purge, store);
        self.follow_up(purge);
    }

    /// Has all purges told, once they are in effect. Once.
    pub fn tell(&self, tell: impl Fn(&Purge) + Send + Sync + 'static) {
        // A second one is told nothing.
        let _ = self.told.0.set(Box::new(tell));
    }

    fn follow_up(&self, purge: &Purge) {
        match purge.what.keys() {
            Some(keys) => keys.iter().for_each(|key| self.forget_marks(key)),
            None => {
                let sweeper = self.sweeper.0.get_or_init(|| start(&self.store));
                // Full: it has been woken already. Without the thread pages are freed when they are asked for or evicted.
                let _ = sweeper.try_send(());
            }
        }
    }

    /// Forgets a stored page that its origin wants stored no longer.
    pub(super) fn forget(&self, key: &Key, stored: &Arc<Entry>, now: Moment) {
        self.store.forget(key, stored, now);
        self.snapshot.forget(key, &stored.variant);
    }

    /// Uncacheable yesterday is not uncacheable now.
    fn forget_marks(&self, key: &[u8]) {
        let key = KeyRef::new(key).to_key();
        for class in [Class::Anonymous, Class::Identified] {
            self.table.forget_marks(&(key.clone(), class));
        }
    }

    /// What is purged is not validated, nor stands it in: its fetch begins anew. Who asked before may still be told of it.
    pub(super) fn without_the_purged(&self, errand: Errand) -> Errand {
        let stored = errand
            .stored
            .filter(|stored| self.store.is_there(&errand.key, stored));
        Errand { stored, ..errand }
    }
}

/// The thread ends with its sweeper.
fn start(store: &Arc<Store>) -> SyncSender<()> {
    let (sender, woken) = sync_channel(1);
    let store = Arc::clone(store);
    let run = move || {
        // Without it, it competes with the workers as an equal: slower, not wrong.
        let _ = rustix::process::nice(19);
        work(&store, &woken);
    };
    let thread = std::thread::Builder::new().name("sweeper".into());
    if let Err(error) = thread.spawn(run) {
        tracing::warn!(%error, "no thread to free what is purged: it goes when it is asked for, or for want of room");
    }
    sender
}

fn work(store: &Store, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        std::thread::sleep(SETTLES);
        // What has come meanwhile is seen by this pass.
        while woken.try_recv().is_ok() {}
        let began = clock::instant();
        store.sweep(clock::moment());
        std::thread::sleep((began.elapsed() * RESTS).min(LONGEST));
    }
}
