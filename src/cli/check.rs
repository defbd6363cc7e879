//! `tidegate check`: what a config file means, or every mistake in it.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use super::{DONE, MISUSED, mistaken, print};
use crate::config::report::Entry;
use crate::config::units::{show_duration, show_size};
use crate::config::{self, Flags, Policy, render, schema};

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
    if check.json {
        let mistakes = answer
            .as_ref()
            .err()
            .map(|report| report.entries())
            .unwrap_or_default();
        let found = Found {
            ok: answer.is_ok(),
            mistakes,
        };
        // Not a failure of the check: the answer is printed, and says no.
        print(&(serde_json::to_string_pretty(&found).unwrap_or_default() + "\n"));
        return if answer.is_ok() { DONE } else { MISUSED };
    }
    match answer {
        Ok(policy) => print(&summary(&policy)),
        Err(report) => mistaken(&report, "`tidegate run` would refuse to start"),
    }
}

#[derive(Serialize)]
struct Found<'a> {
    ok: bool,
    mistakes: Vec<Entry<'a>>,
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
            .map(|server| server.addr.to_string())
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
    out
}
