//! How much of what is asked for there would be without the app: tried on the last minutes' requests, and told to nobody but operators.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;

use super::Site;
use super::asking::with_route;
use super::fallback::{Found, found};
use super::recent::{Heard, Sample};
use crate::clock;
use crate::fallback::Rehearsal;
use crate::rules::host::KnownHost;
use crate::rules::request::{self, Parsed};
use crate::rules::time::Now;
use crate::telemetry::FallbackSource;

/// Tries it on the requests that `site` has heard, but for those that are turned away at the door. Blocks.
pub fn rehearse(site: &Arc<Site>) -> Rehearsal {
    let now = clock::tick();
    let Sample {
        requests,
        per_mille,
    } = site.recent.sample(now);
    let first = requests.first().map_or(now, |first| first.at);
    let mut tried = Tried {
        site,
        now: clock::now(),
        files: HashMap::new(),
    };
    let mut rehearsal = Rehearsal {
        seconds: now.micros_since(first).div_ceil(1_000_000),
        per_mille,
        ..Rehearsal::default()
    };
    let mut missing = HashMap::<Box<[u8]>, u64>::new();
    for (source, key) in requests.iter().filter_map(|one| tried.source(one)) {
        rehearsal.answers[source as usize] += 1;
        if source == FallbackSource::Maintenance {
            *missing.entry(key).or_default() += 1;
        }
    }
    rehearsal.missing = missing.into_iter().collect();
    rehearsal
        .missing
        .sort_by(|one, other| (other.1, &one.0).cmp(&(one.1, &other.0)));
    rehearsal
}

struct Tried<'a> {
    site: &'a Arc<Site>,
    now: Now,
    /// Where pages that are not cached would come from, by their keys.
    files: HashMap<Box<[u8]>, FallbackSource>,
}

impl Tried<'_> {
    /// Where its answer would come from, and its page's key. None: it is not one that would be asked.
    fn source(&mut self, one: &Heard) -> Option<(FallbackSource, Box<[u8]>)> {
        let (site, now) = (Arc::clone(self.site), self.now);
        let policy = &*site.policy;
        let mut lines = request::lines();
        let parsed = request::parse(&one.head, &mut lines, &policy.listen.head);
        let Ok(Parsed::Complete { request, head_len }) = parsed else {
            return None;
        };
        let from = one.from.of(policy, &request);
        if site.guard.find(from.client).denied.is_some() {
            return None;
        }
        let (found, key) = with_route(
            policy,
            &request,
            head_len,
            from,
            KnownHost::NONE,
            |asking| {
                let key: Box<[u8]> = asking.key.bytes().into();
                (asking.redirect.is_none()).then(|| (found(&site, asking, now), key))
            },
        )??;
        let source = match found {
            Found::Cached => FallbackSource::Cache,
            Found::Nothing => FallbackSource::Refused,
            Found::Elsewhere(elsewhere) => match self.files.entry(key.clone()) {
                Place::Occupied(known) => *known.get(),
                Place::Vacant(place) => *place.insert(elsewhere.source(&site)),
            },
        };
        Some((source, key))
    }
}
