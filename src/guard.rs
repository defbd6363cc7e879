//! Who may ask, and how: lists of addresses, then rules, decided for each request before anything is looked up.
//!
//! [`lists`] and [`geo`] are read from files, and anew when those change ([`files`](crate::files)), off the road. What is asked
//! here on the road takes no lock, waits for nothing and allocates nothing.

mod geo;
mod lists;

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::policy::{Policy, Rule, RuleAction};
use crate::rules::expression::{View, Whereabouts};
use crate::rules::networks::Listed;
use crate::telemetry::access::Marked;
use crate::telemetry::{Counter, Metrics, names};
use geo::Geo;
use lists::Lists;

/// Lists and rules of a policy, wired once.
pub struct Guard {
    lists: Arc<Lists>,
    geo: Arc<Geo>,
    rules: Vec<Counted>,
    /// The names of the rules that tag, in the order of their bits.
    tags: Vec<Box<str>>,
}

struct Counted {
    rule: Rule,
    matches: Arc<Counter>,
    /// Its bit, if it tags.
    tag: u32,
}

/// What is to be done with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on: past the cache, with a pass, within more limits, if it is marked so.
    Through,
    /// Answered 403.
    Block,
}

/// What lists and rules made of a request, for its way and for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// The list that kept its client out.
    list: Option<u8>,
    /// The rule that blocked it, or the first that made its way another: past the cache, with a pass or a limit.
    rule: Option<u16>,
    /// A bit for each rule that tagged it.
    tags: u32,
    /// A bit for each limit that rules have it meet.
    limits: u16,
    bypasses: bool,
    needs_pass: bool,
}

impl Marks {
    /// Whether it is to be neither served from memory nor stored.
    pub fn bypasses(self) -> bool {
        self.bypasses
    }

    /// Whether a rule wants it to show a pass.
    pub fn needs_pass(self) -> bool {
        self.needs_pass
    }

    /// Whether it meets a limit that holds where rules say so, by its place among those.
    pub fn meets(self, place: u8) -> bool {
        self.limits & bit(place) != 0
    }
}

impl Guard {
    /// Reads all files, but for those of lists or databases that are `before`'s, too: these it has together with it.
    ///
    /// # Errors
    /// What is wrong with one, for people.
    pub fn new(
        policy: &Policy,
        before: Option<&Guard>,
        metrics: &Metrics,
    ) -> Result<Arc<Guard>, String> {
        let lists = before.filter(|before| before.lists.are_by(&policy.lists));
        let lists = match lists {
            Some(before) => Arc::clone(&before.lists),
            None => Lists::read(&policy.lists, metrics)?,
        };
        let geo = match before.filter(|before| before.geo.are_by(&policy.geo)) {
            Some(before) => Arc::clone(&before.geo),
            None => Geo::read(&policy.geo, metrics)?,
        };
        let mut tags = Vec::new();
        let rules = policy.rules.iter().map(|rule| {
            let labels = [rule.name.as_str(), rule.action.word()];
            let tag = match rule.action {
                RuleAction::Tag => {
                    tags.push(rule.name.as_str().into());
                    1u32.checked_shl(tags.len() as u32 - 1).unwrap_or(0)
                }
                _ => 0,
            };
            Counted {
                rule: rule.clone(),
                matches: metrics.counter(&names::RULE_MATCHES, &labels),
                tag,
            }
        });
        Ok(Arc::new(Guard {
            rules: rules.collect(),
            lists,
            geo,
            tags,
        }))
    }

    /// Takes what has changed of the files and can be used.
    pub fn look(&self) {
        self.lists.look();
        self.geo.look();
    }

    /// The lists' names, and how many networks are in each.
    pub fn entries(&self) -> impl Iterator<Item = (&str, usize)> {
        self.lists.entries()
    }

    /// What the lists say of a client.
    pub fn find(&self, client: IpAddr) -> Listed {
        self.lists.find(client)
    }

    /// Whether the lists keep a client out; then it is counted, and marked.
    pub fn denies(&self, listed: Listed, marks: &mut Marks) -> bool {
        let Some(list) = listed.denied else {
            return false;
        };
        self.lists.denied(list);
        marks.list = Some(list);
        true
    }

    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Where a client is.
    pub fn locate(&self, client: IpAddr) -> Whereabouts {
        self.geo.locate(client)
    }

    /// Asks the rules, in their order, about a request of a route; each that it meets is counted, and marked.
    pub fn judge(&self, route: usize, view: &View<'_>, marks: &mut Marks) -> Verdict {
        for (at, counted) in (0..).zip(&self.rules) {
            let rule = &counted.rule;
            let is_its = rule.routes.as_ref().is_none_or(|ids| ids.contains(&route));
            if !is_its || !rule.when.holds(view) {
                continue;
            }
            counted.matches.add(1);
            match rule.action {
                RuleAction::Count => {}
                RuleAction::Tag => marks.tags |= counted.tag,
                RuleAction::Bypass => {
                    marks.rule = marks.rule.or(Some(at));
                    marks.bypasses = true;
                }
                RuleAction::Challenge => {
                    marks.rule = marks.rule.or(Some(at));
                    marks.needs_pass = true;
                }
                RuleAction::Limit => {
                    marks.rule = marks.rule.or(Some(at));
                    marks.limits |= rule.limit.map_or(0, bit);
                }
                RuleAction::Block => {
                    marks.rule = Some(at);
                    return Verdict::Block;
                }
            }
        }
        Verdict::Through
    }

    /// The same by names.
    pub fn marked(&self, marks: Marks) -> Marked<'_> {
        Marked {
            list: marks.list.and_then(|list| self.lists.name(list)),
            rule: marks
                .rule
                .and_then(|at| self.rules.get(usize::from(at)))
                .map(|counted| counted.rule.name.as_str()),
            tags: marks.tags,
            names: &self.tags,
        }
    }
}

/// None for a place past those that the config allows.
fn bit(place: u8) -> u16 {
    1_u16.checked_shl(place.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
