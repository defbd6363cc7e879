//! How requests are spread over an upstream's servers, as believed.

use super::{At, Compile};
use crate::config::options::{self, Backend};
use crate::config::steering::{self, LEAST_SECRET};
use crate::config::walk::Given;
use crate::origin::{Balance, Bulkhead, Place, Secret, StickySpec, UpstreamSpec};
use crate::rules::rendezvous;

impl Compile<'_, '_> {
    /// Tells servers none of which would ever be asked.
    pub(super) fn roles(&mut self, servers: &Given<Vec<Backend>>) {
        if servers.value.is_empty() || servers.at == At::Told {
            return;
        }
        if servers.value.iter().all(|server| server.weight == 0) {
            let what = "every server has weight 0, so nobody is asked";
            self.tell(&servers.at, what, "leave one of them at 1 or more");
        } else if servers.value.iter().all(|server| server.backup) {
            let what = "every server is a backup, and of none";
            self.tell(
                &servers.at,
                what,
                "make those that are to be asked no backups",
            );
        }
    }

    pub(super) fn balance(&mut self, upstream: &options::Upstream) -> Balance {
        let balance = &upstream.balance;
        if let Balance::ConsistentHash { .. } = balance.value {
            return Balance::ConsistentHash {
                most: upstream.hash_bound.value,
            };
        }
        // What is switched off by a word may keep its options.
        let is_off =
            balance.at == At::Told || (balance.at.is_written() && balance.value == Balance::P2c);
        for (name, at) in [
            ("hash_by", &upstream.hash_by.at),
            ("hash_bound", &upstream.hash_bound.at),
        ] {
            if at.is_written() && !is_off {
                let what = format!("`{name}` without `consistent_hash`");
                let help = "make `balance` `consistent_hash`, or leave it out";
                self.tell(at, what, help);
            }
        }
        balance.value
    }

    pub(super) fn sticky(&mut self, upstream: &options::Upstream) -> Option<StickySpec> {
        let key = &upstream.sticky_key;
        let Some(cookie) = &upstream.sticky.value else {
            if key.at.is_written() && upstream.sticky.at != At::Told {
                let what = "`sticky_key` without sticky sessions";
                self.tell(
                    &key.at,
                    what,
                    "add `sticky = \"app_server\"`, or leave it out",
                );
            }
            return None;
        };
        Some(StickySpec {
            cookie: cookie.0.clone(),
            key: self.secret("sticky_key", key),
        })
    }

    /// `name`: the route's. Tells a number that more than all servers together may have.
    pub(super) fn bulkhead(
        &mut self,
        name: &str,
        route: &options::Route,
        spec: Option<&UpstreamSpec>,
    ) -> Option<Bulkhead> {
        let most = route.max_in_flight.value?;
        // Where it names none of them, that is told already.
        let is_its = |spec: &&UpstreamSpec| match &route.upstream.value {
            Some(name) => name.0 == spec.name,
            None => true,
        };
        if let Some(all) = spec.filter(is_its).and_then(fixed)
            && most > all
        {
            let what = format!("the upstream's servers together have no more than {all}");
            let help = "less leaves places to other routes; or leave it out";
            self.tell(&route.max_in_flight.at, what, help);
        }
        let route = rendezvous::hash([name.as_bytes()]) as usize;
        Some(Bulkhead { route, most })
    }

    /// What an option says, or the file that it names.
    pub(super) fn secret(
        &mut self,
        name: &str,
        given: &Given<Option<steering::Secret>>,
    ) -> Option<Secret> {
        let path = match given.value.as_ref()? {
            steering::Secret::Text(text) => return Some(Secret(text.clone().into_bytes())),
            steering::Secret::File(path) => path,
        };
        match (self.world.read)(path) {
            Ok(bytes) => {
                self.secrets.push(path.clone());
                // An editor ends a file with a line's end.
                let secret = bytes.trim_ascii_end();
                if secret.len() < LEAST_SECRET {
                    let wrong = steering::short();
                    let what = format!("`{name}`: {}: {}", path.display(), wrong.what);
                    self.tell(&given.at, what, wrong.help.unwrap_or_default());
                }
                Some(Secret(secret.to_vec()))
            }
            Err(error) => {
                let what = format!("`{name}`: {}: {error}", path.display());
                self.tell(&given.at, what, "a file that this user can read");
                None
            }
        }
    }
}

/// What the servers may have together, where that is certain: no number is learned, and no name may stand for several.
fn fixed(spec: &UpstreamSpec) -> Option<usize> {
    let used = spec.servers.iter().filter(|server| server.weight > 0);
    used.map(|server| match server.place {
        Place::Address(_) => spec.max_in_flight_at(server),
        Place::Name { .. } => None,
    })
    .sum::<Option<usize>>()
    .filter(|all| *all > 0)
}
