//! Who has to show a pass, as believed.

use std::sync::Arc;

use super::Compile;
use crate::config::nearest::nearest;
use crate::config::options;
use crate::config::policy::{Challenge, Route};
use crate::config::report::At;
use crate::config::words::When;
use crate::rules::proof::{Key, Terms};

impl Compile<'_, '_> {
    pub(super) fn challenge(
        &mut self,
        written: &options::Challenge,
        all: &[options::Route],
        routes: &[Arc<Route>],
    ) -> Challenge {
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
            routes: self.challenged(written, all, routes),
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
        // What is switched off by a word may keep its options.
        if named.at.is_written() && !when.at.is_written() && when.at != At::Told {
            let what = "`routes` without a challenge";
            self.tell(&named.at, what, "add `when = \"always\"`, or leave it out");
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
            When::Off => Vec::new(),
            When::Always if named.value.is_empty() => vec![true; routes.len()],
            When::Always => {
                let is_named = |name: &str| named.value.iter().any(|named| named.0 == name);
                known().map(is_named).collect()
            }
        }
    }
}
