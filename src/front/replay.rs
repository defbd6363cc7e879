//! What another config would have done with the last minutes' requests.
//!
//! Each is judged twice as it would be at the door: by the config in force and by the other one, each with rules, limits and their clients of
//! its own, so that nothing is counted anywhere and nobody is refused for it.

use std::sync::Arc;

use super::asking::{Asking, Noted, with_route};
use super::limited::{self, Who};
use super::lookup::{Decision, is_cacheable, judge};
use super::recent::{Heard, Sample};
use super::{Challenges, Site, challenge};
use crate::clock;
use crate::config::policy::Policy;
use crate::guard::{Guard, Verdict};
use crate::limits::spec::{LimitSpec, Part};
use crate::limits::{Identities, Limits};
use crate::rules::host::KnownHost;
use crate::rules::replay::{Fate, Replay, Tally, What};
use crate::rules::request::{self, Parsed};
use crate::telemetry::Metrics;
use crate::telemetry::access::hide;

/// Tries `after` on the requests that `site` has heard.
///
/// # Errors
/// A file that the config names can't be read; for people.
pub fn replay(site: &Site, after: Policy) -> Result<Replay, String> {
    let now = clock::tick();
    let Sample {
        requests,
        per_mille,
    } = site.recent.sample(now);
    let is_whole = per_mille >= 1000;
    let first = requests.first().map_or(now, |first| first.at);
    let mut left_out = Vec::new();
    let before = thought(site, (*site.policy).clone(), is_whole, &mut left_out)?;
    let after = thought(site, after, is_whole, &mut left_out)?;
    let hidden = &after.policy.log.hide_query;
    let mut tally = Tally::default();
    for one in &requests {
        if let (Some(was), Some(is)) = (fate(&before, one), fate(&after, one)) {
            tally.add(&was, &is, || example(one, hidden));
        }
    }
    Ok(Replay {
        seconds: now.micros_since(first).div_ceil(1_000_000),
        per_mille,
        left_out,
        ..tally.done()
    })
}

/// A site that is like another one, and in force nowhere.
fn thought(
    site: &Site,
    mut policy: Policy,
    is_whole: bool,
    left_out: &mut Vec<String>,
) -> Result<Site, String> {
    // Counted for nobody.
    let metrics = Metrics::new();
    let guard = Guard::new(&policy, Some(&site.guard), &metrics)?;
    policy.limits.retain(|limit| {
        let stays = is_whole || counts_clients(limit);
        if !stays && !left_out.contains(&limit.name) {
            left_out.push(limit.name.clone());
        }
        stays
    });
    // What others of a fleet let in is not known: each limit is taken for this proxy's alone.
    let limits = Limits::new(
        &policy.limits,
        policy.routes.len(),
        None,
        |_| Some(Box::new(())),
        &metrics,
    );
    let identities = Identities::by(&policy.identity, site.identities.as_ref(), &metrics)?;
    let challenges = Challenges::beside(&site.challenges, &metrics);
    Ok(Site {
        guard,
        identities,
        challenges: Arc::new(challenges),
        limits: Arc::new(limits),
        policy: Arc::new(policy),
        ..site.clone()
    })
}

/// Whether each client counts for itself.
fn counts_clients(limit: &LimitSpec) -> bool {
    let together = |part: &Part| matches!(part, Part::Route | Part::Host);
    !limit.key.0.iter().all(together)
}

/// None: it can't be read, by limits that are others now.
fn fate(site: &Site, one: &Heard) -> Option<Fate> {
    let policy = &*site.policy;
    let mut lines = request::lines();
    let parsed = request::parse(&one.head, &mut lines, &policy.listen.head);
    let Ok(Parsed::Complete { request, head_len }) = parsed else {
        return None;
    };
    let from = one.from.of(policy, &request);
    let mut noted = Noted::of(&one.head, &request, head_len, from, one.at);
    let listed = site.guard.find(from.client);
    if listed.denied.is_some() {
        return Some(Fate {
            route: None,
            what: What::Blocked,
        });
    }
    let on_route = |asking: &Asking| {
        let what = match judge(site, asking, listed, &mut noted) {
            Verdict::Block => What::Blocked,
            Verdict::Through => at_the_door(site, &asking.who(), &noted)
                .unwrap_or_else(|| past_the_door(site, asking, &noted)),
        };
        Fate {
            route: Some(asking.route.name.as_str().into()),
            what,
        }
    };
    let routed = with_route(policy, &request, head_len, from, KnownHost::NONE, on_route);
    Some(routed.unwrap_or_else(|| {
        let who = Who {
            client: from.whose(policy),
            route: None,
            host: request.host,
            request: &request,
            asking: None,
        };
        let noted = Noted::of(&one.head, &request, head_len, from, one.at);
        Fate {
            route: None,
            what: at_the_door(site, &who, &noted).unwrap_or(What::Here),
        }
    }))
}

/// What limits say. How many of a client's requests are in hand at once is not replayed.
fn at_the_door(site: &Site, who: &Who, noted: &Noted) -> Option<What> {
    match limited::at_the_door(site, who, noted)? {
        Decision::Later(_) => Some(What::Delayed),
        Decision::Challenge(_) => Some(What::Challenged),
        _ => Some(What::Limited),
    }
}

fn past_the_door(site: &Site, asking: &Asking, noted: &Noted) -> What {
    let route = asking.route;
    if asking.redirect.is_some() || (route.pulled.readonly && !asking.request.method.is_safe()) {
        return What::Here;
    }
    let needs_pass = noted.marks.needs_pass() || asking.policy.challenge.is_on(route);
    if needs_pass && !challenge::passes(site, asking, noted) {
        return What::Challenged;
    }
    let looked_for = is_cacheable(asking) && route.cache && !route.pulled.bypass;
    match looked_for && !noted.marks.bypasses() {
        true => What::Cache(asking.key.bytes().into()),
        false => What::Past,
    }
}

/// Method and target, without what is secret in it.
fn example(one: &Heard, hidden: &[String]) -> String {
    let line = one.head.split(|byte| *byte == b'\r').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (method, target) = (words.next(), words.next());
    let (method, target) = (method.unwrap_or_default(), target.unwrap_or_default());
    match target.split_once('?') {
        Some((path, query)) => format!("{method} {path}?{}", hide(query, hidden)),
        None => format!("{method} {target}"),
    }
}
