//! `tidegate check`: what a config file means, or every mistake in it.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use super::{DONE, MISUSED, mistaken, print, say};
use crate::config::report::Entry;
use crate::config::units::{show_duration, show_size};
use crate::config::{self, Flags, Policy, render, schema};
use crate::files::is_open;
use crate::limits::spec::{Action, LimitSpec};
use crate::origin::{self, Place};

/// Check a config file: every mistake at once
#[derive(clap::Args, Clone, Debug)]
pub struct Check {
    /// Config file
    #[arg(short, long, value_name = "FILE", required_unless_present = "print")]
    pub config: Option<PathBuf>,

    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,

    /// Print something else: the `default` file, or the JSON `schema`
    #[arg(long, value_name = "WHAT", hide_possible_values = true, conflicts_with_all = ["config", "json"])]
    pub print: Option<Print>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Print {
    Default,
    Schema,
}

pub(super) fn run(check: &Check) -> u8 {
    match check.print {
        Some(Print::Default) => return print(&render::default_file()),
        Some(Print::Schema) => return print(&schema::schema()),
        None => {}
    }
    let answer = config::load(check.config.as_deref(), &Flags::default());
    let unresolved = answer.as_ref().map(unresolved).unwrap_or_default();
    if check.json {
        let mistakes = answer
            .as_ref()
            .err()
            .map(|report| report.entries())
            .unwrap_or_default();
        let found = Found {
            ok: answer.is_ok(),
            mistakes,
            unresolved: &unresolved,
        };
        // Not a failure of the check: the answer is printed, and says no.
        print(&(serde_json::to_string_pretty(&found).unwrap_or_default() + "\n"));
        return if answer.is_ok() { DONE } else { MISUSED };
    }
    match answer {
        Ok(policy) => {
            for name in &unresolved {
                let Unresolved {
                    upstream,
                    host,
                    why,
                } = name;
                say(&format!(
                    "warning: upstream {upstream}: `{host}` is not resolved: {why}\n"
                ));
            }
            for path in policy.secrets.iter().filter(|path| is_open(path)) {
                let path = path.display();
                say(&format!(
                    "warning: {path}: everybody on this machine can read this secret\n"
                ));
            }
            print(&summary(&policy))
        }
        Err(report) => mistaken(&report, "`tidegate run` would refuse to start"),
    }
}

#[derive(Serialize)]
struct Found<'a> {
    ok: bool,
    mistakes: Vec<Entry<'a>>,
    unresolved: &'a [Unresolved],
}

/// A server's name without an address: no mistake, since it may have one by the time it is needed.
#[derive(Serialize)]
struct Unresolved {
    upstream: String,
    host: String,
    why: String,
}

fn unresolved(policy: &Policy) -> Vec<Unresolved> {
    let mut unresolved = Vec::new();
    for upstream in &policy.upstreams {
        for server in &upstream.servers {
            if let Place::Name { host, .. } = &server.place
                && let Err(why) = origin::look_up(host, &upstream.resolve)
            {
                let (upstream, host) = (upstream.name.clone(), host.clone());
                unresolved.push(Unresolved {
                    upstream,
                    host,
                    why,
                });
            }
        }
    }
    unresolved
}

/// What the policy comes to, routes in the order in which they are tried.
fn summary(policy: &Policy) -> String {
    let mut out = format!("ok: listens on {}", policy.listen.address);
    match policy.admin.address {
        Some(address) => out += &format!(", admin on {address}"),
        None => out += ", no admin",
    }
    out += &format!(", {} of cache\n", show_size(policy.cache.max_memory as u64));
    for upstream in &policy.upstreams {
        let servers: Vec<_> = upstream
            .servers
            .iter()
            .map(|server| match &server.place {
                Place::Address(address) => address.to_string(),
                Place::Name { host, port } => format!("{host}:{port}"),
            })
            .collect();
        out += &format!("upstream {}: {}\n", upstream.name, servers.join(", "));
    }
    for (host, path, route) in policy.order() {
        let upstream = policy
            .upstreams
            .get(route.upstream)
            .map_or("", |upstream| &upstream.name);
        let kept = match (route.cache, route.store.default_ttl) {
            (false, _) => "never stored".to_owned(),
            (true, None) => "stored as the origin says".to_owned(),
            (true, Some(ttl)) => {
                format!("stored as the origin says, else for {}", show_duration(ttl))
            }
        };
        out += &format!("route {host}{path} -> {upstream}, {kept}\n");
    }
    for spec in &policy.limits {
        out += &format!("limit {}: {}\n", spec.name, limit(spec));
    }
    out
}

/// What each client may, and what becomes of more.
fn limit(spec: &LimitSpec) -> String {
    let rate = spec.rate.map(|rate| {
        let (count, per) = (rate.count, show_duration(rate.per));
        format!("{count} in {per} and {} at once", rate.burst)
    });
    let in_hand = spec.concurrency.map(|most| format!("{most} in hand"));
    let may: Vec<_> = rate.into_iter().chain(in_hand).collect();
    let beyond = match spec.action {
        Action::Refuse => "more are refused".to_owned(),
        Action::Delay => format!("more wait up to {}", show_duration(spec.max_delay)),
        Action::Stale => "more get what is stored".to_owned(),
        Action::Challenge => "more need a pass".to_owned(),
        Action::Log => "tried out, refuses nobody".to_owned(),
    };
    let only = spec.by_rules.map_or("", |_| ", where rules say so");
    format!("{}{only}, {beyond}", may.join(", "))
}
