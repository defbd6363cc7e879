//! Which proxies have done what was done here.

use std::time::Duration;

use tokio::time::timeout;

use super::Fleet;
use super::message::Position;
use super::shared::{Proxy, Shared};
use crate::levers::Uid;

/// For the log to take it, and for the others to confirm.
const TAKES: Duration = Duration::from_millis(200);
const CONFIRMS: Duration = Duration::from_secs(1);

/// Who has confirmed.
#[derive(Clone, PartialEq, Debug)]
pub struct Confirmed {
    /// All of the fleet, with this one.
    pub proxies: usize,
    /// Those that have done it, with this one.
    pub confirmed: usize,
    /// What the others are called, which have not yet.
    pub missing: Vec<String>,
    /// Those of the confirmed that could not do it, and why.
    pub refused: Vec<(String, String)>,
    /// Why it waits, if it is not in the log yet.
    pub waits: Option<String>,
}

impl Fleet {
    /// Waits until all that was done here is in the log. Whether it is; None: there is no fleet.
    pub async fn is_told(&self) -> Option<bool> {
        let following = self.following.load_full()?;
        let shared = &following.shared;
        let told = timeout(TAKES, told(shared, shared.ticket())).await;
        Some(matches!(told, Ok(Ok(_))))
    }

    /// Waits for the other proxies to have done what was done here, for a second at most; not at all, where Redis is down. `lever`: what they
    /// may refuse. None: there is no fleet.
    pub async fn confirmed(&self, lever: Option<Uid>) -> Option<Confirmed> {
        let following = self.following.load_full()?;
        let shared = &following.shared;
        let _waiting = shared.wait();
        let mut at = None;
        let all = async {
            let position = told(shared, shared.ticket()).await?;
            at = position;
            let mut changes = shared.changes();
            while !has_all(shared, position) && changes.changed().await.is_ok() {}
            Ok(())
        };
        let waits = match timeout(CONFIRMS, all).await {
            Ok(Err(why)) => Some(why),
            Err(_) if at.is_none() => Some("no answer from redis in time".to_owned()),
            _ => None,
        };
        let proxies = shared.standing().proxies;
        let (done, missing): (Vec<_>, Vec<_>) = proxies.iter().partition(|one| has(one, at));
        let refused = |one: &&Proxy| {
            let mut refused = one.refused.iter();
            let its = refused.find(|(uid, _)| lever == Some(*uid));
            its.map(|(_, why)| (one.name.clone(), why.clone()))
        };
        Some(Confirmed {
            proxies: 1 + proxies.len(),
            confirmed: 1 + done.len(),
            missing: missing.iter().map(|one| one.name.clone()).collect(),
            refused: done.iter().filter_map(refused).collect(),
            waits,
        })
    }
}

/// Where the log was once an order was in it.
async fn told(shared: &Shared, ticket: u64) -> Result<Option<Position>, String> {
    let mut changes = shared.changes();
    loop {
        if let Some(published) = shared.published(ticket) {
            return published;
        }
        if changes.changed().await.is_err() {
            return Err("this proxy leaves".to_owned());
        }
    }
}

fn has_all(shared: &Shared, at: Option<Position>) -> bool {
    shared.standing().proxies.iter().all(|one| has(one, at))
}

fn has(proxy: &Proxy, at: Option<Position>) -> bool {
    at.is_some_and(|at| {
        let its = proxy.at.filter(|its| its.log == at.log);
        its.is_some_and(|its| its.entry >= at.entry)
    })
}
