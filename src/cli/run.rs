//! `tidegate run`: the proxy, from a config file, from flags, or from both.

use std::path::PathBuf;

use super::{DONE, MISUSED, failed, mistaken, say};
use crate::config::live::Source;
use crate::config::policy::Policy;
use crate::config::{self, Flags};
use crate::server::Start;

/// Serve: stand in front of an app
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
A whole deployment for an app that says nothing about caching:
  tidegate run --origin http://127.0.0.1:8000 --default-ttl 10s
`tidegate check --print default` shows every option of a config file.")]
pub struct Run {
    /// A server of the app; repeat it for several that are equal
    #[arg(long, value_name = "URL")]
    pub origin: Vec<String>,

    /// Where visitors connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,

    /// Where metrics and health are, or `off` [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,

    /// How long to keep pages that don't say [default: not at all]
    #[arg(long, value_name = "DURATION")]
    pub default_ttl: Option<String>,

    /// Config file; flags override it
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Wait for the running process to hand over its sockets, at SIGQUIT
    #[arg(long)]
    pub upgrade: bool,
}

pub(super) fn run(run: &Run) -> u8 {
    if run.origin.is_empty() && run.config.is_none() {
        say(
            "error: nothing to stand in front of; try `tidegate run --origin http://127.0.0.1:8000`, or -c FILE\n",
        );
        return MISUSED;
    }
    let flags = Flags {
        origins: run.origin.clone(),
        listen: run.listen.clone(),
        admin: run.admin.clone(),
        default_ttl: run.default_ttl.clone(),
    };
    let source = Source {
        path: run.config.clone(),
        flags,
    };
    let (policy, text) = match config::read(&source) {
        Ok(read) => read,
        Err(report) => return mistaken(&report, "nothing was started"),
    };
    say(&opening(&policy, run.upgrade));
    let start = match run.upgrade {
        true => Start::Upgrade,
        false => Start::Fresh,
    };
    match crate::server::run(policy, start, source, &text) {
        Ok(()) => DONE,
        Err(error) => failed(&error),
    }
}

/// What to open, for whoever started it by hand; the log on standard output is for machines.
fn opening(policy: &Policy, upgrade: bool) -> String {
    let admin = match policy.admin.address {
        Some(address) => format!("; metrics and health: http://{address}"),
        None => String::new(),
    };
    let scheme = match policy.listen.tls {
        Some(_) => "https",
        None => "http",
    };
    let address = policy.listen.address;
    match upgrade {
        true => {
            format!("to take over {scheme}://{address}, send the process that serves it SIGQUIT\n")
        }
        false => format!("open {scheme}://{address}{admin}\n"),
    }
}
