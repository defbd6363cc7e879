//! The fleet: what other proxies purge and pull is done here, and what is done here they are told.

use std::path::PathBuf;
use std::sync::Arc;

use crate::fleet::{Cache, Fleet};
use crate::front::InForce;
use crate::levers::board::Board;
use crate::rules::purge::Purge;
use crate::telemetry::Metrics;

/// Of nobody yet. `path`: where its place in what the fleet tells is kept.
pub fn alone(port: u16, path: Option<PathBuf>) -> Arc<Fleet> {
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_string_lossy().into_owned();
    Fleet::new(format!("{machine}:{port}"), path)
}

/// Joins the one that the policy names, if it does, and reads what was missed, for half a second at most.
///
/// # Errors
/// Roots that can't be read, a thread that can't be had; for people.
pub fn join(in_force: &InForce, board: &Arc<Board>, metrics: &Metrics) -> Result<(), String> {
    let site = in_force.load_full();
    let fleet = &site.fleet;
    fleet.serves(Arc::new(Here(Arc::clone(in_force))), Arc::clone(board));
    let tell = Arc::clone(fleet);
    board.tell(move |change| tell.changed(change));
    let tell = Arc::clone(fleet);
    site.fetcher.tell(move |purge| tell.purged(purge));
    let redis = site.policy.fleet.as_ref().map(|fleet| &fleet.redis);
    fleet.take(fleet.prepare(redis, metrics)?);
    fleet.first_read();
    Ok(())
}

struct Here(InForce);

impl Cache for Here {
    fn purge(&self, purge: &Purge) {
        self.0.load().fetcher.purge_too(purge);
    }

    fn has_pages(&self) -> bool {
        let site = self.0.load();
        let fetcher = &site.fetcher;
        fetcher.store.size().0 > 0 || fetcher.snapshot.told().pages > 0
    }
}
