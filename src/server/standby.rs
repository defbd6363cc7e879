//! The static fallback goes on and off by itself: looked at from a thread of its own, by what health checks and breakers say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::clock;
use crate::files;
use crate::front::{InForce, Site};
use crate::origin::Upstream;
use crate::rules::standby::{Standby, Turn};
use crate::state::audit::{Audit, Entry};

/// How often upstreams are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Looks at the upstreams of what is in force by then, until the process ends. What changes is told in the log and in `audit`.
///
/// # Errors
/// No thread can be had; for people.
pub fn watch(in_force: &InForce, audit: Option<Arc<Audit>>) -> Result<(), String> {
    let in_force = Arc::clone(in_force);
    let mut known = BTreeMap::new();
    let look = move || {
        let site = in_force.load_full();
        for (upstream, turn) in look(&site, &mut known) {
            tell(&site, &upstream, turn, audit.as_deref());
        }
        true
    };
    files::watch("fallback", LOOK, look).map_err(|e| format!("cannot start a thread: {e}"))
}

fn look(site: &Site, known: &mut BTreeMap<String, Standby>) -> Vec<(Arc<Upstream>, Turn)> {
    let upstreams = site.fetcher.upstreams();
    known.retain(|name, _| upstreams.iter().any(|one| one.name() == name));
    let terms = site.policy.fallback.auto;
    let now = clock::moment();
    let turn = |upstream: &Arc<Upstream>| {
        let standby = known.entry(upstream.name().to_owned()).or_default();
        let turn = match &terms {
            Some(terms) => standby.look(is_healthy(upstream), now, terms),
            None => standby.end(),
        }?;
        Some((Arc::clone(upstream), turn))
    };
    upstreams.iter().filter_map(turn).collect()
}

/// Whether there is anybody who might answer.
fn is_healthy(upstream: &Upstream) -> bool {
    upstream.circuit().is_closed() && !upstream.is_all_ill()
}

fn tell(site: &Site, upstream: &Upstream, turn: Turn, audit: Option<&Audit>) {
    let name = upstream.name();
    site.reserve.sway(name, turn == Turn::On);
    let (what, reason) = match turn {
        Turn::On => ("fallback on", "nothing healthy is left"),
        Turn::Off => ("fallback off", "it is healthy again"),
    };
    match turn {
        Turn::On => tracing::warn!(upstream = name, reason, "fallback is on"),
        Turn::Off => tracing::info!(upstream = name, reason, "fallback is off"),
    }
    let parameters = json!({ "upstream": name, "reason": reason });
    if let Some(audit) = audit
        && let Err(error) = audit.write(&Entry::new("itself", what, parameters, "done"))
    {
        tracing::warn!(%error, "audit log");
    }
}
