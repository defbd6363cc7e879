//! `tidegate bench`: measures what a crowd does to a site or a proxy.

mod spike;
mod stand;
mod target;

use std::path::PathBuf;

/// Measure what a crowd does
#[derive(clap::Args, Clone, Debug)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum What {
    /// Send a crowd, and tell what came of it
    Spike(spike::Spike),
}

/// Who is measured.
#[derive(clap::Args, Clone, Debug)]
struct Whom {
    /// A site or a proxy that runs already; one not on this machine takes --i-own-this
    #[arg(long, value_name = "URL", conflicts_with = "peers")]
    target: Option<String>,

    /// Proxies that are started here, each in front of the same app: tidegate, nginx, varnish, haproxy; those that are not installed are left out
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "tidegate"
    )]
    peers: Vec<String>,

    /// What to ask a target for, instead of the scenario's pages; several times, the most wanted first
    #[arg(long = "path", value_name = "PATH", requires = "target")]
    paths: Vec<String>,

    /// The target is mine, or its owner knows: a crowd is an attack to everybody else
    #[arg(long, requires = "target")]
    i_own_this: bool,

    /// Take any certificate of the target's
    #[arg(long, requires = "target")]
    insecure: bool,

    /// Another crowd of the same kind
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Where what came of it goes.
#[derive(clap::Args, Clone, Debug)]
struct Out {
    /// Write all figures to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) fn run(bench: &Bench) -> u8 {
    match &bench.what {
        What::Spike(spike) => spike::run(spike),
    }
}
