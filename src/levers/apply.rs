//! What levers make of a policy.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Lever, Pull};
use crate::config::nearest::nearest;
use crate::config::policy::{List, ListAction, Policy, Route, RuleAction};
use crate::rules::gcra::Gcra;
use crate::rules::networks::MOST_LISTS;

/// The most a lever may stretch or narrow something.
const MOST_TIMES: f64 = 10_000.0;
const LEAST_TIMES: f64 = 0.001;
/// The smallest part of all requests.
const LEAST_SHARE: f64 = 1e-6;

/// The policy with all levers over it, in their order. What a lever is about may be gone from the config since it was pulled:
/// such a lever does nothing, until it is there again.
pub fn over(policy: &Policy, levers: &[Lever]) -> Policy {
    let mut policy = policy.clone();
    for lever in levers {
        // What it is about was there when it was pulled.
        let _ = pull(&mut policy, &lever.pull);
    }
    policy
}

/// Whether a lever may be pulled on top of these.
///
/// # Errors
/// What it is about is not there, or it would do harm that nobody can want; for people.
pub fn check(policy: &Policy, levers: &[Lever], wants: &Pull, force: bool) -> Result<(), String> {
    let mut pulled = over(policy, levers);
    if !force && let Some(harm) = harm(&pulled, wants) {
        return Err(format!("{harm}; with --force it is done all the same"));
    }
    pull(&mut pulled, wants)
}

/// What nobody can want.
fn harm(policy: &Policy, wants: &Pull) -> Option<String> {
    match wants {
        Pull::Block { network } if is_wide(network) => {
            Some(format!("{network} is a large part of all there are"))
        }
        Pull::Drain { upstream, server } => {
            let upstream = policy.upstreams.iter().find(|one| one.name == *upstream)?;
            let mut others = upstream
                .servers
                .iter()
                .filter(|one| one.authority != *server);
            let is_last = others.all(|one| one.weight == 0);
            is_last.then(|| format!("{server} is the last server of {}", upstream.name))
        }
        _ => None,
    }
}

/// An eighth of all addresses of its kind, or more.
fn is_wide(network: &IpNet) -> bool {
    match network {
        IpNet::V4(network) => network.prefix_len() <= 3,
        // All that are given out begin with 001.
        IpNet::V6(network) => network.prefix_len() <= 6,
    }
}

fn pull(policy: &mut Policy, pull: &Pull) -> Result<(), String> {
    match pull {
        Pull::Ttl {
            route,
            stretch,
            least,
        } => {
            if !(1.0..=MOST_TIMES).contains(stretch) {
                return Err(format!(
                    "{stretch} times: anything from 1 to {MOST_TIMES} will do"
                ));
            }
            let hundredths = ((stretch - 1.0) * 100.0).round() as u32;
            let least = std::time::Duration::from_secs(*least);
            on_routes(policy, route.as_deref(), |route| {
                route.pulled.pages.stretch = hundredths;
                route.pulled.pages.least = least;
            })
        }
        Pull::Stale { route, window } => {
            let window = std::time::Duration::from_secs(*window);
            on_routes(policy, route.as_deref(), |route| {
                route.pulled.pages.stale = window;
            })
        }
        Pull::Readonly { route } => on_routes(policy, route.as_deref(), |route| {
            route.pulled.readonly = true
        }),
        Pull::Fallback { route } => on_routes(policy, route.as_deref(), |route| {
            route.pulled.fallback = true;
        }),
        Pull::Drill { route, share } => {
            if !(LEAST_SHARE..=1.0).contains(share) {
                return Err("a share of more than 0 %, and of 100 % at most".to_owned());
            }
            let of_all = (share * f64::from(u32::MAX)) as u32;
            on_routes(policy, route.as_deref(), |route| {
                route.pulled.drill = of_all.max(1);
            })
        }
        Pull::Bypass { route } => on_routes(policy, Some(route), |route| {
            route.pulled.bypass = true;
        }),
        Pull::Challenge { route } => challenge(policy, route.as_deref()),
        Pull::Limit { limit, times } => limits(policy, limit.as_deref(), *times),
        Pull::Block { network } => list(policy, *network, ListAction::Deny),
        Pull::Allow { network } => list(policy, *network, ListAction::Allow),
        Pull::BlockRule { rule: name } => rule(policy, name, RuleAction::Block),
        Pull::AllowRule { rule: name } => rule(policy, name, RuleAction::Count),
        Pull::Drain { upstream, server } => drain(policy, upstream, server),
        Pull::Budget { upstream, most } => budget(policy, upstream, *most),
    }
}

/// Does something to a route, or to all.
fn on_routes(
    policy: &mut Policy,
    name: Option<&str>,
    mut with: impl FnMut(&mut Route),
) -> Result<(), String> {
    let mut found = name.is_none();
    for route in &mut policy.routes {
        if name.is_none_or(|name| route.name == name) {
            with(Arc::make_mut(route));
            found = true;
        }
    }
    match (found, name) {
        (false, Some(name)) => {
            let names = policy.routes.iter().map(|route| route.name.as_str());
            Err(unknown("route", name, names))
        }
        _ => Ok(()),
    }
}

fn challenge(policy: &mut Policy, name: Option<&str>) -> Result<(), String> {
    let ids: Vec<_> = policy
        .routes
        .iter()
        .filter(|route| name.is_none_or(|name| route.name == name))
        .map(|route| route.id)
        .collect();
    if ids.is_empty() {
        let names = policy.routes.iter().map(|route| route.name.as_str());
        return Err(unknown("route", name.unwrap_or_default(), names));
    }
    ids.into_iter()
        .for_each(|id| policy.challenge.switch_on(id));
    Ok(())
}

fn limits(policy: &mut Policy, name: Option<&str>, times: f64) -> Result<(), String> {
    if !(LEAST_TIMES..=MOST_TIMES).contains(&times) {
        return Err(format!(
            "{times} times: anything from {LEAST_TIMES} to {MOST_TIMES} will do"
        ));
    }
    let mut found = false;
    for limit in &mut policy.limits {
        if name.is_none_or(|name| limit.name == name) {
            let mut pulled = limit.clone();
            pulled.stretch(times);
            let rates = pulled
                .rate
                .iter()
                .chain(pulled.tiers.iter().map(|tier| &tier.rate));
            for rate in rates {
                if Gcra::new(rate.count, rate.per, rate.burst).is_none() {
                    let name = &limit.name;
                    return Err(format!(
                        "{times} times the rate of {name:?} is more than a million a second, or less than one a year"
                    ));
                }
            }
            *limit = pulled;
            found = true;
        }
    }
    match (found, name) {
        (true, _) => Ok(()),
        (false, None) => Err("there is no limit in the config".to_owned()),
        (false, Some(name)) => {
            let names = policy.limits.iter().map(|limit| limit.name.as_str());
            Err(unknown("limit", name, names))
        }
    }
}

fn list(policy: &mut Policy, network: IpNet, action: ListAction) -> Result<(), String> {
    let name = match action {
        ListAction::Deny => "lever:block",
        ListAction::Allow => "lever:allow",
    };
    // They are asked for in this order by nobody, so one list holds all of a kind.
    if let Some(list) = policy.lists.iter_mut().find(|list| list.name == name) {
        list.networks.push(network);
        return Ok(());
    }
    if policy.lists.len() >= MOST_LISTS {
        return Err("the config has as many lists as there may be".to_owned());
    }
    policy.lists.push(List {
        name: name.to_owned(),
        networks: vec![network],
        file: None,
        action: Some(action),
    });
    Ok(())
}

fn rule(policy: &mut Policy, name: &str, action: RuleAction) -> Result<(), String> {
    match policy.rules.iter_mut().find(|rule| rule.name == name) {
        Some(rule) => {
            rule.action = action;
            Ok(())
        }
        None => {
            let names = policy.rules.iter().map(|rule| rule.name.as_str());
            Err(unknown("rule", name, names))
        }
    }
}

fn drain(policy: &mut Policy, upstream: &str, server: &str) -> Result<(), String> {
    let at = upstream_of(policy, upstream)?;
    let servers = &mut policy.upstreams[at].servers;
    let is_its = |authority: &str| authority == server;
    if let Some(one) = servers.iter_mut().find(|one| is_its(&one.authority)) {
        one.weight = 0;
        return Ok(());
    }
    let names = servers.iter().map(|one| one.authority.as_str());
    Err(unknown("server", server, names))
}

fn budget(policy: &mut Policy, upstream: &str, most: usize) -> Result<(), String> {
    if most == 0 {
        return Err("no request at once: drain its servers instead".to_owned());
    }
    let at = upstream_of(policy, upstream)?;
    let upstream = &mut policy.upstreams[at];
    upstream.max_in_flight = Some(most);
    for server in &mut upstream.servers {
        server.max_in_flight = None;
    }
    Ok(())
}

/// Its place.
fn upstream_of(policy: &Policy, name: &str) -> Result<usize, String> {
    let at = policy.upstreams.iter().position(|one| one.name == name);
    at.ok_or_else(|| {
        let names = policy.upstreams.iter().map(|one| one.name.as_str());
        unknown("upstream", name, names)
    })
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(name, known.clone()) {
        Some(near) => format!("no {what} is called {name:?}; is it {near:?}?"),
        None => {
            let known: Vec<_> = known.map(|name| format!("{name:?}")).collect();
            match known.is_empty() {
                true => format!("no {what} is called {name:?}: there is none"),
                false => format!(
                    "no {what} is called {name:?}: there are {}",
                    known.join(", ")
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests;
