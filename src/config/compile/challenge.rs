//! Who has to show a pass, as believed.

use std::sync::Arc;

use super::Compile;
use crate::config::file::File;
use crate::config::nearest::nearest;
use crate::config::options;
use crate::config::policy::{Challenge, Route};
use crate::config::report::At;
use crate::config::walk::Given;
use crate::config::words::When;
use crate::rules::proof::{Key, Terms};

impl Compile<'_, '_> {
    pub(super) fn challenge(&mut self, file: &File, routes: &[Arc<Route>]) -> Challenge {
        let written = &file.challenge;
        let (pass, within) = (written.pass.value, written.solve_within.value);
        if within >= pass {
            let (at, told) = match written.solve_within.at.is_written() {
                true => (&written.solve_within.at, "`solve_within`"),
                false => (&written.pass.at, "`pass`"),
            };
            let what = format!("{told}: a pass lasts from its puzzle on, and would end unused");
            self.tell(at, what, "make `pass` longer than `solve_within`");
        }
        let key = self.secret("secret", &written.secret);
        Challenge {
            terms: Terms {
                // Its bounds are far below.
                bits: u8::try_from(written.difficulty.value).unwrap_or(u8::MAX),
                pass: pass.as_secs(),
                solve_within: within.as_secs(),
            },
            key: key.map(|secret| Key::new(&secret.0)),
            exempt: self.exempt(written, &file.lists),
            routes: self.challenged(written, &file.routes, routes),
        }
    }

    /// Tells that a pass is asked for at a place of the file where nobody could earn one.
    pub(super) fn needs_challenge(&mut self, at: &At, challenge: &options::Challenge) {
        if challenge.when.value == When::Off && challenge.when.at != At::Told {
            let what = "`challenge` while `[challenge]` is off";
            let help = "write `when = \"asked\"` there, or `\"always\"`";
            self.tell(at, what, help);
        }
    }

    /// By list.
    fn exempt(&mut self, written: &options::Challenge, lists: &[options::List]) -> u64 {
        let named = &written.exempt;
        self.idle_without_when("exempt", &named.at, &written.when);
        let name = |list: &options::List| list.name.value.as_ref().map(|name| name.0.clone());
        let known: Vec<_> = lists
            .iter()
            .map(|list| name(list).unwrap_or_default())
            .collect();
        let are_told = lists.iter().any(|list| list.name.at == At::Told);
        let mut exempt = 0;
        for (index, name) in named.value.iter().enumerate() {
            match (0..).zip(&known).find(|(_, known)| **known == name.0) {
                // Of lists past those that there may be, another mistake tells.
                Some((place, _)) => exempt |= 1_u64.checked_shl(place).unwrap_or(0),
                None if are_told => {}
                None => {
                    let help = match nearest(&name.0, known.iter().map(String::as_str)) {
                        Some(near) => format!("did you mean `\"{near}\"`?"),
                        None => format!("add a `[[list]]` with `name = \"{}\"`", name.0),
                    };
                    let what = format!("no list is called `{}`", name.0);
                    self.tell(named.element(index), what, help);
                }
            }
        }
        exempt
    }

    /// Tells an option that nothing comes of. What is switched off by a word may keep its options.
    fn idle_without_when(&mut self, option: &str, at: &At, when: &Given<When>) {
        if at.is_written() && !when.at.is_written() && when.at != At::Told {
            let what = format!("`{option}` without a challenge");
            self.tell(at, what, "add `when = \"always\"`, or leave it out");
        }
    }

    /// By route id.
    fn challenged(
        &mut self,
        written: &options::Challenge,
        all: &[options::Route],
        routes: &[Arc<Route>],
    ) -> Vec<bool> {
        let (when, named) = (&written.when, &written.routes);
        self.idle_without_when("routes", &named.at, when);
        if when.value == When::Asked && !named.value.is_empty() {
            let what = "`routes` where only rules and limits ask for a pass";
            let help = "make `when` `\"always\"`, or leave them out";
            self.tell(&named.at, what, help);
        }
        let known = || routes.iter().map(|route| route.name.as_str());
        // One whose name could not be read may be the one.
        let are_told = all.iter().any(|route| route.name.at == At::Told);
        for (index, name) in named.value.iter().enumerate() {
            if are_told || known().any(|known| known == name.0) {
                continue;
            }
            let help = match nearest(&name.0, known()) {
                Some(near) => format!("did you mean `\"{near}\"`?"),
                None => "give the route that is meant a `name`, and write that".to_owned(),
            };
            let what = format!("no route is called `{}`", name.0);
            self.tell(named.element(index), what, help);
        }
        match when.value {
            When::Off | When::Asked => Vec::new(),
            When::Always if named.value.is_empty() => vec![true; routes.len()],
            When::Always => {
                let is_named = |name: &str| named.value.iter().any(|named| named.0 == name);
                known().map(is_named).collect()
            }
        }
    }
}
