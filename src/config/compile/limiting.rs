//! Limits as believed.

use std::sync::Arc;
use std::time::Duration;

use super::{At, Compile};
use crate::config::file::File;
use crate::config::nearest::nearest;
use crate::config::options;
use crate::config::policy::Route;
use crate::limits;
use crate::limits::Tier;
use crate::limits::spec::{Action, Cost, LimitSpec, Rate, TierRate};
use crate::limits::standing::SIGNED_IN;
use crate::limits::table::Table;
use crate::rules::gcra::Gcra;

/// That a limit remembers where nothing is said and there is room.
const MANY_CLIENTS: usize = 1_000_000;
const FEW_CLIENTS: usize = 100;

impl Compile<'_, '_> {
    pub(super) fn limits(&mut self, file: &File, routes: &[Arc<Route>]) -> Vec<LimitSpec> {
        let written = &file.limits;
        let names = tiers(written);
        let mut specs: Vec<_> = written
            .iter()
            .enumerate()
            .map(|(at, limit)| {
                let spec = self.limit(at, limit, &file.routes, routes);
                let tiers = spec.rate.map(|rate| self.tier_rates(limit, rate, &names));
                LimitSpec {
                    tiers: tiers.unwrap_or_default(),
                    ..spec
                }
            })
            .collect();
        for limit in written {
            if limit.action.value == Action::Challenge {
                self.needs_challenge(&limit.action.at, &file.challenge);
            }
        }
        self.by_rules(file, &mut specs);
        let names = written.iter().zip(&specs);
        self.twins(
            "limit",
            names.map(|(written, spec)| (spec.name.as_str(), &written.name.at)),
        );
        self.too_many(written, &specs, routes.len());
        specs
    }

    fn limit(
        &mut self,
        at: usize,
        limit: &options::Limit,
        written_routes: &[options::Route],
        routes: &[Arc<Route>],
    ) -> LimitSpec {
        let said = limit.preset.value.map(|preset| preset.says());
        let name = match &limit.name.value {
            Some(name) => name.0.clone(),
            None => format!("limit-{}", at + 1),
        };
        self.idle(limit);
        LimitSpec {
            name,
            key: limit.key.value.clone(),
            rate: self.rate(limit),
            concurrency: limit
                .concurrency
                .value
                .and_then(|most| u16::try_from(most).ok()),
            routes: self.routes_of(limit, written_routes, routes),
            by_rules: None,
            methods: match (&said, limit.methods.at.is_written()) {
                (Some(said), false) => said.methods.iter().map(|&name| name.to_owned()).collect(),
                _ => limit
                    .methods
                    .value
                    .iter()
                    .map(|name| name.0.clone())
                    .collect(),
            },
            counts: match (&said, limit.counts.at.is_written()) {
                (Some(said), false) => said.counts,
                _ => limit.counts.value,
            },
            cost: limit.cost.value.0,
            action: limit.action.value,
            max_delay: limit.max_delay.value,
            penalty: match (&said, limit.penalty.at.is_written()) {
                (Some(said), false) => said.penalty,
                _ => limit.penalty.value,
            },
            max_clients: limit.max_clients.value.unwrap_or(MANY_CLIENTS),
            tell: limit.tell.value,
            shared: limit.shared.value,
            x_ratelimit: limit.x_ratelimit.value,
            tiers: Vec::new(),
            tier: None,
        }
    }

    /// Limits that rules name hold there alone.
    fn by_rules(&mut self, file: &File, specs: &mut [LimitSpec]) {
        let mut places = 0..=u8::MAX;
        for (spec, limit) in specs.iter_mut().zip(&file.limits) {
            let mut names = file
                .rules
                .iter()
                .filter_map(|rule| rule.limit.value.as_ref());
            if !names.any(|name| name.0 == spec.name) {
                continue;
            }
            spec.by_rules = places.next();
            if !limit.routes.value.is_empty() {
                let what = "`routes` of a limit that holds where a rule says so";
                let help = "write them as the `routes` of that rule";
                self.tell(&limit.routes.at, what, help);
            }
        }
    }

    /// What tiers may instead of `rate`.
    fn tier_rates(
        &mut self,
        limit: &options::Limit,
        rate: Rate,
        names: &[String],
    ) -> Vec<TierRate> {
        let tiers = &limit.tiers;
        let written = tiers.value.iter().flat_map(|tiers| &tiers.0);
        let mut rates = Vec::new();
        for (name, written) in written {
            let burst = burst(rate, written.count, written.per);
            let gcra = Gcra::new(written.count, written.per, burst);
            if gcra.is_none() {
                let what = format!(
                    "`{name}`: more than a million requests a second, or a burst that takes longer than a year to come again"
                );
                self.tell(&tiers.at, what, "anything between will do");
            }
            if let Cost::Is(cost) = limit.cost.value.0
                && cost > burst
            {
                let what = format!("`{name}`: no more than {burst} at once, and a cost of {cost}");
                let help = "so no request would ever be admitted: raise the rate, or lower `cost`";
                self.tell(&tiers.at, what, help);
            }
            if let Some(tier) = Tier::named(name, names) {
                rates.push(TierRate {
                    tier,
                    name: name.clone(),
                    rate: Rate {
                        count: written.count,
                        per: written.per,
                        burst,
                    },
                });
            }
        }
        rates
    }

    fn rate(&mut self, limit: &options::Limit) -> Option<Rate> {
        let said = limit.preset.value.map(|preset| preset.says().rate);
        let burst = limit.burst.value.map(|burst| burst as u64);
        let rate = match (limit.rate.value, said) {
            (Some(written), _) => Rate {
                count: written.count,
                per: written.per,
                burst: burst.unwrap_or(written.count),
            },
            (None, Some(said)) => Rate {
                burst: burst.unwrap_or(said.burst),
                ..said
            },
            (None, None) => {
                if limit.concurrency.value.is_none()
                    && limit.rate.at != At::Told
                    && limit.concurrency.at != At::Told
                    && limit.preset.at != At::Told
                {
                    let what = "a limit that limits nothing";
                    let help = "add `rate = \"100/min\"` or `concurrency = 8`, or both";
                    self.tell(&limit.at, what, help);
                }
                return None;
            }
        };
        let gcra = |burst| Gcra::new(rate.count, rate.per, burst);
        if gcra(1).is_none() {
            let what = "more than a million requests a second, or less than one a year";
            self.tell(&limit.rate.at, what, "anything between will do");
        } else if gcra(rate.burst).is_none() {
            let (at, what) = match limit.burst.at.is_written() {
                true => (
                    &limit.burst.at,
                    "a burst that takes longer than a year to come again",
                ),
                false => (&limit.rate.at, "a period of more than a year"),
            };
            self.tell(at, what, "make it less");
        }
        if let Cost::Is(cost) = limit.cost.value.0
            && cost > rate.burst
        {
            let what = format!("a cost of {cost}, and no more than {} at once", rate.burst);
            let help = "so no request would ever be admitted: raise `burst`, or lower `cost`";
            self.tell(&limit.cost.at, what, help);
        }
        Some(rate)
    }

    /// Tells what has no use here.
    fn idle(&mut self, limit: &options::Limit) {
        let has_rate = limit.rate.value.is_some()
            || limit.preset.value.is_some()
            || limit.rate.at == At::Told
            || limit.preset.at == At::Told;
        for (name, at) in [
            ("burst", &limit.burst.at),
            ("cost", &limit.cost.at),
            ("penalty", &limit.penalty.at),
            ("shared", &limit.shared.at),
            ("tiers", &limit.tiers.at),
        ] {
            if at.is_written() && !has_rate {
                let what = format!("`{name}` without `rate`");
                self.tell(at, what, "add `rate = \"100/min\"`, or leave it out");
            }
        }
        let action = &limit.action;
        // What is switched off by a word may keep its options.
        if limit.max_delay.at.is_written() && action.at == At::Default {
            let what = "`max_delay` without `delay`";
            let help = "make `action` `delay`, or leave it out";
            self.tell(&limit.max_delay.at, what, help);
        }
        if action.value == Action::Delay && !has_rate {
            let what = "`delay` without `rate`: what is over `concurrency` doesn't wait";
            self.tell(
                &action.at,
                what,
                "add `rate = \"100/min\"`, or leave it out",
            );
        }
    }

    /// Sees to it that the clients of all limits have room together. What is left by those that say how many theirs are,
    /// the others have in even parts.
    pub(super) fn room_for_clients(
        &mut self,
        written: &[options::Limit],
        specs: &mut [LimitSpec],
        cache: &options::Cache,
    ) {
        let max_memory = usize::try_from(cache.max_memory.value.0).unwrap_or(usize::MAX);
        let mut left = limits::room_for_clients(max_memory);
        let mut silent = 0;
        for (limit, spec) in written.iter().zip(&*specs) {
            // Its own, and each tier's.
            let tables = 1 + spec.tiers.len();
            let Some(clients) = limit.max_clients.value else {
                silent += tables;
                continue;
            };
            match left.checked_sub(tables * Table::takes(clients)) {
                Some(less) => left = less,
                None => {
                    let what = format!("no room for {clients} clients in a tenth of `max_memory`");
                    let help = format!(
                        "{} would fit; or raise `max_memory` in [cache]",
                        fitting(left / tables, usize::MAX).unwrap_or_default()
                    );
                    return self.tell(&limit.max_clients.at, what, help);
                }
            }
        }
        let most = fitting(left / silent.max(1), MANY_CLIENTS);
        for (limit, spec) in written.iter().zip(specs) {
            match (limit.max_clients.value, most) {
                (Some(_), _) => {}
                (None, Some(most)) => spec.max_clients = most,
                (None, None) => {
                    let what = "no room for clients is left by the other limits' `max_clients`";
                    let help = "make theirs less, or raise `max_memory` in [cache]";
                    return self.tell(&limit.at, what, help);
                }
            }
        }
    }

    /// The places of the routes that a limit names.
    fn routes_of(
        &mut self,
        limit: &options::Limit,
        written: &[options::Route],
        routes: &[Arc<Route>],
    ) -> Vec<usize> {
        let are_told = written.iter().any(|route| route.name.at == At::Told);
        let mut places = Vec::new();
        for (index, name) in limit.routes.value.iter().enumerate() {
            match routes.iter().position(|route| route.name == name.0) {
                Some(place) => places.push(place),
                None if are_told => {}
                None => {
                    let known = || routes.iter().map(|route| route.name.as_str());
                    let help = match nearest(&name.0, known()) {
                        Some(near) => format!("did you mean `\"{near}\"`?"),
                        None => {
                            format!("the routes are {}", known().collect::<Vec<_>>().join(", "))
                        }
                    };
                    let at = limit.routes.element(index).clone();
                    self.tell(&at, format!("no route is called `{}`", name.0), help);
                }
            }
        }
        places
    }

    /// Tells the first limit beyond as many as one request may meet.
    fn too_many(&mut self, written: &[options::Limit], specs: &[LimitSpec], routes: usize) {
        for route in (0..routes).map(Some).chain([None]) {
            let its = specs.iter().zip(written);
            let mut its = its.filter(|(spec, _)| spec.is_for(route));
            if let Some((_, one_more)) = its.nth(limits::MOST) {
                let what = format!("more than {} limits for one request", limits::MOST);
                return self.tell(&one_more.at, what, "let some of them be for other routes");
            }
        }
    }
}

/// How many clients there is room for in so many bytes, up to `most`; none if they are too few to be of use.
fn fitting(bytes: usize, most: usize) -> Option<usize> {
    // 20 bytes each, and what there is beside that.
    let mut clients = most.min(bytes / 20);
    while clients >= FEW_CLIENTS && Table::takes(clients) > bytes {
        clients -= clients.div_ceil(64);
    }
    (clients >= FEW_CLIENTS).then_some(clients)
}

/// The names of all tiers, if there are any, each once, [`SIGNED_IN`] first.
pub(super) fn tiers(limits: &[options::Limit]) -> Vec<String> {
    let tiers = limits.iter().flat_map(|limit| &limit.tiers.value);
    let mut names = Vec::new();
    for tiers in tiers {
        for name in std::iter::once(SIGNED_IN).chain(tiers.0.iter().map(|(name, _)| name.as_str()))
        {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

/// As many at once as come in the time that `rate`'s own burst takes to come; at least one.
fn burst(rate: Rate, count: u64, per: Duration) -> u64 {
    let all = [rate.burst.into(), rate.per.as_nanos(), count.into()];
    let all: u128 = all.iter().fold(1, |all, one| all.saturating_mul(*one));
    let burst = all / (u128::from(rate.count) * per.as_nanos()).max(1);
    u64::try_from(burst).unwrap_or(u64::MAX).max(1)
}
