//! Who is kept out, and what is done with whose requests, as believed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{At, Compile, pick};
use crate::config::file::File;
use crate::config::nearest::nearest;
use crate::config::options;
use crate::config::policy::{Geo, List, PurgeFrom, Route, Rule};
use crate::config::report::Mistake;
use crate::config::walk::Given;
use crate::config::words::{Name, Purger, RuleAction};
use crate::limits::spec::LimitSpec;
use crate::rules::expression::{Expression, Flaw};
use crate::rules::geo::Database;
use crate::rules::listing;
use crate::rules::networks::MOST_LISTS;

/// The most rules that tag: a bit each.
const MOST_TAGS: usize = 32;

impl Compile<'_, '_> {
    pub(super) fn lists(&mut self, written: &[options::List]) -> Vec<List> {
        let lists: Vec<_> = written.iter().map(|list| self.list(list)).collect();
        let names = written.iter().map(|list| named(&list.name));
        self.twins("list", names);
        if let Some(more) = written.get(MOST_LISTS) {
            let what = format!("{} lists", written.len());
            let help =
                format!("{MOST_LISTS} at most; put those together that are asked for together");
            self.tell(&more.at, what, help);
        }
        lists
    }

    fn list(&mut self, list: &options::List) -> List {
        self.needed("list", "name", "office", &list.name, &list.at);
        let (networks, file) = (&list.networks, &list.file);
        if networks.value.is_empty()
            && file.value.is_none()
            && networks.at != At::Told
            && file.at != At::Told
        {
            let at = pick(&networks.at, &list.at);
            let help = "add `networks = [\"192.0.2.0/24\"]`, or a `file`";
            self.tell(at, "a list of nobody", help);
        }
        if let Some(path) = &file.value {
            let read = self.read(path, &file.at, "a file of addresses, readable by this user");
            if let Some(Err(flaw)) = read.map(|bytes| listing::read(&bytes)) {
                let line = flaw.line.map_or(String::new(), |line| format!(":{line}"));
                let what = format!("{}{line}: {}", path.display(), flaw.what);
                let help = "one address or network a line, or JSON with `prefixes`";
                self.tell(&file.at, what, help);
            }
        }
        List {
            name: name(&list.name),
            networks: networks.value.iter().map(|network| network.0).collect(),
            file: file.value.clone(),
            action: list.action.value,
        }
    }

    pub(super) fn purge_from(
        &mut self,
        written: &Given<Vec<Purger>>,
        lists: &[options::List],
    ) -> PurgeFrom {
        let mut from = PurgeFrom::default();
        for (at, purger) in written.value.iter().enumerate() {
            match purger {
                Purger::Network(network) => from.networks.push(*network),
                Purger::List(list) => match lists.iter().position(|l| name(&l.name) == *list) {
                    Some(bit) => from.lists |= 1u64.checked_shl(bit as u32).unwrap_or(0),
                    None => self.no_list(list, written.element(at), lists),
                },
            }
        }
        from
    }

    fn no_list(&mut self, wanted: &str, at: &At, lists: &[options::List]) {
        let known: Vec<_> = lists.iter().map(|list| name(&list.name)).collect();
        let known = || known.iter().map(String::as_str);
        let help = match nearest(wanted, known()) {
            Some(near) => format!("did you mean `\"list:{near}\"`?"),
            None => format!("add `[[list]]` with `name = \"{wanted}\"`"),
        };
        self.tell(at, format!("no list is called `{wanted}`"), help);
    }

    pub(super) fn geo(&mut self, geo: &options::Geo) -> Geo {
        Geo {
            country: self.database(&geo.country, Database::country),
            asn: self.database(&geo.asn, Database::asn),
        }
    }

    fn database(
        &mut self,
        written: &Given<Option<PathBuf>>,
        read: fn(Vec<u8>) -> Result<Database, String>,
    ) -> Option<PathBuf> {
        let path = written.value.as_ref()?;
        let help = "a file in the MaxMind DB format, readable by this user";
        let bytes = self.read(path, &written.at, help);
        if let Some(Err(why)) = bytes.map(read) {
            self.tell(&written.at, format!("{}: {why}", path.display()), help);
        }
        Some(path.clone())
    }

    /// A file's bytes; that it can't be read is told.
    pub(super) fn read(&mut self, path: &Path, at: &At, help: &str) -> Option<Vec<u8>> {
        let read = (self.world.read)(path);
        read.map_err(|error| self.tell(at, format!("{}: {error}", path.display()), help))
            .ok()
    }

    /// `text`: of the file.
    pub(super) fn rules(
        &mut self,
        file: &File,
        text: &str,
        routes: &[Arc<Route>],
        limits: &[LimitSpec],
    ) -> Vec<Rule> {
        let written = &file.rules;
        let rules: Vec<_> = written
            .iter()
            .filter_map(|rule| {
                let limit = self.limit_of(rule, file, limits);
                if rule.action.value == Some(RuleAction::Challenge) {
                    self.needs_challenge(&rule.action.at, &file.challenge);
                }
                let rule = self.rule(rule, file, text, routes)?;
                Some(Rule { limit, ..rule })
            })
            .collect();
        self.twins("rule", written.iter().map(|rule| named(&rule.name)));
        let tags = |rule: &&options::Rule| rule.action.value == Some(RuleAction::Tag);
        if let Some(more) = written.iter().filter(tags).nth(MOST_TAGS) {
            let what = format!("more than {MOST_TAGS} rules that tag");
            self.tell(&more.action.at, what, "make some of them one, with `||`");
        }
        rules
    }

    fn rule(
        &mut self,
        rule: &options::Rule,
        file: &File,
        text: &str,
        routes: &[Arc<Route>],
    ) -> Option<Rule> {
        self.needed("rule", "name", "no-scanners", &rule.name, &rule.at);
        let example = "path.startsWith('/wp-admin')";
        self.needed("rule", "when", example, &rule.when, &rule.at);
        self.needed("rule", "action", "block", &rule.action, &rule.at);
        let only = rule.routes.value.as_ref().map(|names| {
            let ids = (0..).zip(names).filter_map(|(at, name)| {
                let found = routes.iter().position(|route| route.name == name.0);
                if found.is_none() {
                    self.no_route(&name.0, rule.routes.element(at), routes);
                }
                found
            });
            ids.collect()
        });
        let written = rule.when.value.as_deref()?;
        let lists: Vec<_> = file.lists.iter().map(|list| name(&list.name)).collect();
        let lists: Vec<_> = lists.iter().map(String::as_str).collect();
        let when = match Expression::read(written, &lists) {
            Ok(when) => when,
            Err(flaws) => {
                for flaw in flaws {
                    self.flaw(flaw, written, &rule.when.at, text);
                }
                return None;
            }
        };
        let reads = when.reads();
        for (word, is_read, database) in [
            ("country", reads.country, &file.geo.country),
            ("asn", reads.asn, &file.geo.asn),
        ] {
            if is_read && database.value.is_none() && database.at != At::Told {
                let what = format!("`{word}` without a database that knows it");
                let help = format!("add `[geo]` with `{word} = \"…\"`");
                self.tell(&rule.when.at, what, help);
            }
        }
        Some(Rule {
            name: name(&rule.name),
            when,
            action: rule.action.value?,
            limit: None,
            routes: only,
        })
    }

    /// The place of the limit that a rule names.
    fn limit_of(&mut self, rule: &options::Rule, file: &File, limits: &[LimitSpec]) -> Option<u8> {
        let Some(name) = &rule.limit.value else {
            if rule.action.value == Some(RuleAction::Limit) && rule.limit.at != At::Told {
                let what = "`limit` as a rule's action, and no limit named";
                let help = "add `limit = \"…\"`, the name of a `[[limit]]`";
                self.tell(&rule.action.at, what, help);
            }
            return None;
        };
        let known = || limits.iter().map(|limit| limit.name.as_str());
        let found = limits.iter().find(|limit| limit.name == name.0);
        // One whose name could not be read may be the one.
        let are_told = file.limits.iter().any(|limit| limit.name.at == At::Told);
        if found.is_none() && !are_told {
            let help = match nearest(&name.0, known()) {
                Some(near) => format!("did you mean `\"{near}\"`?"),
                None if limits.is_empty() => {
                    format!("add a `[[limit]]` with `name = \"{}\"`", name.0)
                }
                None => format!("the limits are {}", known().collect::<Vec<_>>().join(", ")),
            };
            let what = format!("no limit is called `{}`", name.0);
            self.tell(&rule.limit.at, what, help);
        }
        found.and_then(|limit| limit.by_rules)
    }

    fn no_route(&mut self, name: &str, at: &At, routes: &[Arc<Route>]) {
        let known = || routes.iter().map(|route| route.name.as_str());
        let help = match nearest(name, known()) {
            Some(near) => format!("did you mean `\"{near}\"`?"),
            None => format!("the routes are {}", known().collect::<Vec<_>>().join(", ")),
        };
        self.tell(at, format!("no route is called `{name}`"), help);
    }

    /// A flaw of an expression, where it stands in the file if it stands there as it is.
    fn flaw(&mut self, flaw: Flaw, expression: &str, at: &At, text: &str) {
        let at = match at {
            At::File(span) => {
                let raw = text.get(span.clone()).unwrap_or_default();
                match raw.find(expression) {
                    Some(from) => {
                        let from = span.start + from;
                        At::File(from + flaw.at.start..from + flaw.at.end)
                    }
                    None => at.clone(),
                }
            }
            at => at.clone(),
        };
        let mistake = Mistake::new(&at, format!("`when`: {}", flaw.what));
        self.mistakes.push(match flaw.help {
            Some(help) => mistake.help(help),
            None => mistake,
        });
    }

    /// Tells that something was not written and has to be.
    fn needed<T>(
        &mut self,
        table: &str,
        option: &str,
        example: &str,
        written: &Given<Option<T>>,
        at: &At,
    ) {
        if written.value.is_none() && written.at != At::Told {
            let what = format!("a {table} without `{option}`");
            self.tell(at, what, format!("add `{option} = \"{example}\"`"));
        }
    }
}

fn name(written: &Given<Option<Name>>) -> String {
    let name = written.value.as_ref();
    name.map_or_else(String::new, |name| name.0.clone())
}

fn named(written: &Given<Option<Name>>) -> (&str, &At) {
    let name = written.value.as_ref();
    (name.map_or("", |name| name.0.as_str()), &written.at)
}
