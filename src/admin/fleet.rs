//! What operators are told of the fleet: who is in it, how far behind, and who has done what was done here.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock;
use crate::fleet::{Confirmed, Fleet};
use crate::levers::Uid;

/// Which proxies of the fleet have done it.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Everywhere {
    /// All there are, with this one
    pub proxies: usize,
    /// Those that have confirmed, with this one
    pub confirmed: usize,
    /// What those are called that have not, within a second
    pub missing: Vec<String>,
    /// Those of the confirmed that could not do it
    pub refused: Vec<RefusedThere>,
    /// Why the others are to hear of it later, if they are: Redis is down
    pub waits: Option<String>,
}

/// A proxy that could not do it: its config is another, perhaps.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct RefusedThere {
    pub proxy: String,
    pub why: String,
}

/// The proxies that tell each other of purges and levers.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct FleetStatus {
    /// Pages are served without knowing whether another proxy has purged them
    pub behind: bool,
    /// Purges and levers that the others have not heard of yet
    pub queued: usize,
    /// Why they can't be told, if they can't
    pub unwritable: Option<String>,
    /// This one first
    pub proxies: Vec<ProxyStatus>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct ProxyStatus {
    /// Its machine and port
    pub name: String,
    /// Entries of the log that it has not done yet; nothing where it has read another log or none
    pub lag: Option<u64>,
    /// When it was heard last; nothing of this one
    pub heard_seconds: Option<f64>,
    /// Levers that are not in force there
    pub refused: usize,
}

/// Waits for the others, for a second at most. `lever`: what they may refuse. None: there are none.
pub(super) async fn everywhere(fleet: &Fleet, lever: Option<Uid>) -> Option<Everywhere> {
    let Confirmed {
        proxies,
        confirmed,
        missing,
        refused,
        waits,
    } = fleet.confirmed(lever).await?;
    let refused = refused
        .into_iter()
        .map(|(proxy, why)| RefusedThere { proxy, why });
    Some(Everywhere {
        proxies,
        confirmed,
        missing,
        refused: refused.collect(),
        waits,
    })
}

/// How it is now. None: there is no other proxy that could be told.
pub(super) fn status(fleet: &Fleet) -> Option<FleetStatus> {
    let standing = fleet.standing()?;
    let now = clock::uptime_millis();
    let all = || {
        standing
            .proxies
            .iter()
            .filter_map(|one| one.at)
            .chain(standing.at)
    };
    let log = standing.at.map(|at| at.log);
    let last = all()
        .filter(|at| Some(at.log) == log)
        .map(|at| at.entry)
        .max();
    let lag = |at: Option<crate::fleet::Position>| {
        let at = at.filter(|at| Some(at.log) == log)?;
        Some(last? - at.entry)
    };
    let ours = ProxyStatus {
        name: fleet.name().to_owned(),
        lag: lag(standing.at),
        heard_seconds: None,
        refused: standing.refused,
    };
    let others = standing.proxies.iter().map(|one| ProxyStatus {
        name: one.name.clone(),
        lag: lag(one.at),
        heard_seconds: Some(now.saturating_sub(one.heard) as f64 / 1000.0),
        refused: one.refused.len(),
    });
    Some(FleetStatus {
        behind: standing.behind,
        queued: standing.queued,
        proxies: std::iter::once(ours).chain(others).collect(),
        unwritable: standing.unwritable,
    })
}
