//! Another policy takes over: what hangs on it is made off the road, with all that is to stay, and put in force in one step.
//!
//! What stays: the store and what is on its way to it, clients' connections, what clients have used of limits, the
//! budgets of upstreams and what is known of servers that stay.

use std::sync::Arc;

use crate::cache::memory::Memory;
use crate::config::policy::{Policy, Pulled, Route};
use crate::fallback::Reserve;
use crate::fetch::Limits;
use crate::files;
use crate::front::{InForce, Site};
use crate::guard::Guard;
use crate::limits::Identities;
use crate::limits::table::Hold;
use crate::origin::{self, Upstream};
use crate::snapshot::Bounds;
use crate::telemetry::{Metrics, RouteMetrics, UpstreamMetrics};

/// Puts `policy` in force. Blocks: files are read, and servers that are new are found and asked how they are first.
///
/// # Errors
/// What can't be had, for people; then nothing has changed.
pub fn put_in_force(in_force: &InForce, policy: Policy, metrics: &Metrics) -> Result<(), String> {
    let before = in_force.load_full();
    let known = before.fetcher.upstreams();
    let upstreams = upstreams(&policy, known)?;
    let redis = policy.fleet.as_ref().map(|fleet| &fleet.redis);
    let step = before.fleet.prepare(redis, metrics)?;
    let heirs: Vec<_> = heirs(&upstreams, known).collect();
    let its: Vec<_> = heirs.iter().map(|(heir, _)| Arc::clone(heir)).collect();
    // All that can fail is done by now, and nothing has changed.
    let (resolving, watching) = (origin::resolving(&its)?, origin::watching(&its)?);
    let site = Arc::new(renewed(&before, &upstreams, policy, metrics)?);
    for (heir, before) in &heirs {
        heir.take_over(before);
    }
    site.fetcher.takes_over();
    super::files::leave_room(&site.policy, &site.guests);
    let stays = site.limits.stays_with(&before.limits);
    if stays {
        site.limits.take_over(&before.limits);
    }
    in_force.store(Arc::clone(&site));
    site.reserve.announce(&site.policy);
    site.fetcher.snapshot.obey(kept(&site.policy));
    site.fleet.take(step);
    for upstream in known {
        if !upstreams.iter().any(|one| Arc::ptr_eq(one, upstream)) {
            upstream.retire();
        }
    }
    // Whoever was there serves until it is known of the others.
    drop(resolving.map(|resolving| resolving.begin()));
    drop(watching.map(|watching| watching.begin()));
    if !stays {
        before.limits.leave();
    }
    Ok(())
}

fn renewed(
    before: &Site,
    upstreams: &[Arc<Upstream>],
    policy: Policy,
    metrics: &Metrics,
) -> Result<Site, String> {
    let known = before.fetcher.upstreams();
    let is_new = |one: &&Arc<Upstream>| !known.iter().any(|known| known.name() == one.name());
    let new: Vec<_> = upstreams.iter().filter(is_new).cloned().collect();
    warn_of_open(&policy);
    let guard = Guard::new(&policy, Some(&before.guard), metrics)?;
    let identities = Identities::by(&policy.identity, before.identities.as_ref(), metrics)?;
    let limits = before.limits.renewed(
        &policy.limits,
        policy.routes.len(),
        policy.fleet.as_ref(),
        room(&before.fetcher.memory),
        metrics,
    );
    let mut pairs = upstreams.iter().zip(known);
    let elsewhere = upstreams.len() != known.len()
        || !pairs.all(|(one, known)| Arc::ptr_eq(one, known))
        || !fetch_alike(&policy.routes, &before.policy.routes)
        || !policy.routes_like(&before.policy)
        || policy.credentials != before.policy.credentials;
    let joins = (policy.fleet.as_ref()).filter(|_| !limits.stays_with(&before.limits));
    // Last: who has joined is counted by the others.
    let ready = first_answers(&new);
    let ready = ready.and_then(|()| joins.map_or(Ok(()), |fleet| limits.join(fleet, metrics)));
    if let Err(why) = ready {
        new.iter().for_each(|upstream| upstream.retire());
        return Err(why);
    }
    let watched = watched(upstreams, metrics);
    let fetcher =
        (before.fetcher).renewed(upstreams.to_vec(), watched, fetching(&policy), elsewhere);
    let reserve = Reserve::new(&policy, Some(&before.reserve), metrics);
    Ok(Site {
        fetcher,
        reserve: Arc::new(reserve),
        routes: routes(&policy, metrics),
        limits: Arc::new(limits),
        guard,
        identities,
        policy: Arc::new(policy),
        ..before.clone()
    })
}

/// Nobody is sent to servers before it is known where they are and which of them are well.
fn first_answers(new: &[Arc<Upstream>]) -> Result<(), String> {
    if let Some(round) = origin::resolve(new)? {
        round.wait();
    }
    if let Some(round) = origin::watch(new)? {
        round.wait();
    }
    Ok(())
}

/// A policy's upstreams: those that are `known` and configured the same, and heirs of those that are not.
pub fn upstreams(policy: &Policy, known: &[Arc<Upstream>]) -> Result<Vec<Arc<Upstream>>, String> {
    let make = |spec: &origin::UpstreamSpec| match known.iter().find(|one| one.name() == spec.name)
    {
        None => Upstream::new(spec.clone()),
        Some(known) if known.spec() == spec => Ok(Arc::clone(known)),
        Some(known) => known.succeeded_by(spec.clone()),
    };
    policy.upstreams.iter().map(make).collect()
}

/// Those of `upstreams` that take over, each with whom from.
fn heirs<'a>(
    upstreams: &'a [Arc<Upstream>],
    known: &'a [Arc<Upstream>],
) -> impl Iterator<Item = (&'a Arc<Upstream>, &'a Arc<Upstream>)> {
    upstreams.iter().filter_map(|one| {
        let before = known.iter().find(|known| known.name() == one.name())?;
        (!Arc::ptr_eq(one, before)).then_some((one, before))
    })
}

/// Whether pages come from the same place on the same terms, whatever levers are pulled.
fn fetch_alike(routes: &[Arc<Route>], before: &[Arc<Route>]) -> bool {
    let bare = |route: &Route| Route {
        pulled: Pulled::default(),
        ..route.clone()
    };
    routes.len() == before.len()
        && (routes.iter().zip(before)).all(|(one, other)| bare(one) == bare(other))
}

/// Their counts.
pub fn watched(upstreams: &[Arc<Upstream>], metrics: &Metrics) -> Vec<Arc<UpstreamMetrics>> {
    let names = upstreams.iter().map(|upstream| upstream.name());
    names.map(|name| metrics.upstream(name)).collect()
}

pub fn routes(policy: &Policy, metrics: &Metrics) -> Vec<Arc<RouteMetrics>> {
    let names = policy.routes.iter().map(|route| &route.name);
    names.map(|name| metrics.route(name)).collect()
}

pub fn kept(policy: &Policy) -> Bounds {
    Bounds {
        size: policy.fallback.snapshot,
        rate: policy.fallback.snapshot_rate,
    }
}

pub fn fetching(policy: &Policy) -> Limits {
    Limits {
        max_object_size: policy.cache.max_object_size,
        pass_buffer: policy.cache.pass_buffer,
        hit_for_miss: policy.cache.hit_for_miss,
    }
}

/// Looks, from a thread of its own, at the files of what is in force by then.
///
/// # Errors
/// No thread can be had; for people.
pub fn look_at_files(in_force: &InForce) -> Result<(), String> {
    let in_force = Arc::clone(in_force);
    let look = move || {
        let site = in_force.load_full();
        site.guard.look();
        if let Some(identities) = &site.identities {
            identities.look();
        }
        true
    };
    files::watch("files", files::LOOK, look).map_err(|e| format!("cannot start a thread: {e}"))
}

/// Warns of secrets that are none.
pub fn warn_of_open(policy: &Policy) {
    for file in policy.secrets.iter().filter(|file| files::is_open(file)) {
        tracing::warn!(file = %file.display(), "everybody on this machine can read this secret");
    }
}

/// Where the memory for limits' clients is taken from.
pub fn room(memory: &Arc<Memory>) -> impl Fn(usize) -> Option<Hold> + Clone + Send + Sync + use<> {
    let account = Arc::clone(memory);
    move |bytes| Some(Box::new(account.charge_for_clients(bytes)?) as Hold)
}
