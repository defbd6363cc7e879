//! Purges on the command line.

use serde_json::{Value, json};

/// What to purge.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Purge {
    /// Pages, in all their variants
    Url {
        #[arg(value_name = "URL", required = true)]
        names: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// All pages whose URLs begin so
    Prefix {
        #[arg(value_name = "URL", required = true)]
        names: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// What carries a tag, of all hosts
    Tag {
        #[arg(value_name = "TAG", required = true)]
        names: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// All pages of a host
    Host {
        #[arg(value_name = "HOST", required = true)]
        names: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Everything
    All {
        #[command(flatten)]
        how: How,
    },
}

#[derive(clap::Args, Clone, Debug)]
pub struct How {
    /// Mark it stale instead: it is served so while it is fetched anew
    #[arg(long)]
    soft: bool,
    /// Purge nothing, but tell what would be
    #[arg(long)]
    dry_run: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

impl Purge {
    /// What is to be asked for.
    pub fn body(&self) -> Value {
        let none = Vec::new();
        let (kind, names, how) = match self {
            Purge::Url { names, how } => ("url", names, how),
            Purge::Prefix { names, how } => ("prefix", names, how),
            Purge::Tag { names, how } => ("tag", names, how),
            Purge::Host { names, how } => ("host", names, how),
            Purge::All { how } => ("all", &none, how),
        };
        // What is not said is not written down either.
        let mut body = json!({ "kind": kind });
        if !names.is_empty() {
            body["names"] = names.clone().into();
        }
        if how.soft {
            body["soft"] = true.into();
        }
        if how.dry_run {
            body["dry_run"] = true.into();
        }
        if !how.reason.is_empty() {
            body["reason"] = how.reason.as_str().into();
        }
        body
    }
}
