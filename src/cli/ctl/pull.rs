//! Levers on the command line.

use std::net::IpAddr;
use std::time::Duration;

use clap::builder::ValueParser;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::config::units;
use crate::levers::Pull;

/// How long a drill lasts where nobody says.
const DRILL: Duration = Duration::from_secs(600);

/// For how long, and why.
#[derive(clap::Args, Clone, Debug)]
pub struct Pulling {
    /// It undoes itself after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = duration())]
    time: Option<Duration>,
    /// Why, for the audit log and for whoever looks
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Do it though it may turn everybody away
    #[arg(long)]
    force: bool,
}

/// For a route or for all.
#[derive(clap::Args, Clone, Debug)]
pub struct Where {
    /// For this route alone
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
}

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Lever {
    /// Have pages stay fresh longer, also those that are stored
    #[command(subcommand)]
    Ttl(Ttl),
    /// Have pages served stale for this long at least, where their origin does not forbid it
    Stale {
        #[arg(value_name = "DURATION", value_parser = duration())]
        window: Duration,
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        how: Pulling,
    },
    /// Tighten a limit or relax it: 0.5x halves it
    Limit {
        /// So many times what it is
        #[arg(value_name = "TIMES", value_parser = times())]
        times: f64,
        /// This limit alone
        #[arg(long = "name", value_name = "NAME")]
        limit: Option<String>,
        #[command(flatten)]
        how: Pulling,
    },
    /// Turn away an address, a network, or whom a rule is true of
    Block {
        #[arg(value_name = "NETWORK|rule:NAME")]
        whom: String,
        #[command(flatten)]
        how: Pulling,
    },
    /// Let in an address or a network, or have a rule do nothing
    Allow {
        #[arg(value_name = "NETWORK|rule:NAME")]
        whom: String,
        #[command(flatten)]
        how: Pulling,
    },
    /// Have browsers show a pass
    Challenge {
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        how: Pulling,
    },
    /// Give a server nothing more
    Drain {
        upstream: String,
        /// As in the config: host and port
        server: String,
        #[command(flatten)]
        how: Pulling,
    },
    /// Have each server of an upstream work on so many requests at once
    Budget {
        upstream: String,
        #[arg(value_name = "N")]
        most: usize,
        #[command(flatten)]
        how: Pulling,
    },
    /// Have a route's requests go to the origin, each for itself
    Bypass {
        route: String,
        #[command(flatten)]
        how: Pulling,
    },
    /// Refuse what would change something
    Readonly {
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        how: Pulling,
    },
}

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Ttl {
    /// So many times as long, as in 10x
    Stretch {
        #[arg(value_name = "TIMES", value_parser = times())]
        times: f64,
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        how: Pulling,
    },
    /// At least this long
    Least {
        #[arg(value_name = "DURATION", value_parser = duration())]
        least: Duration,
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        how: Pulling,
    },
}

impl Lever {
    /// What is to be asked for.
    ///
    /// # Errors
    /// What was typed is no network; for people.
    pub fn body(&self) -> Result<Value, String> {
        let (pull, how) = self.pull()?;
        Ok(order(&pull, how))
    }

    fn pull(&self) -> Result<(Pull, &Pulling), String> {
        Ok(match self.clone() {
            Lever::Ttl(Ttl::Stretch { times, at, .. }) => (
                Pull::Ttl {
                    route: at.route,
                    stretch: times,
                    least: 0,
                },
                self.how(),
            ),
            Lever::Ttl(Ttl::Least { least, at, .. }) => (
                Pull::Ttl {
                    route: at.route,
                    stretch: 1.0,
                    least: least.as_secs(),
                },
                self.how(),
            ),
            Lever::Stale { window, at, .. } => (
                Pull::Stale {
                    route: at.route,
                    window: window.as_secs(),
                },
                self.how(),
            ),
            Lever::Limit { times, limit, .. } => (Pull::Limit { limit, times }, self.how()),
            Lever::Block { whom, .. } => (
                match whom.strip_prefix("rule:") {
                    Some(rule) => Pull::BlockRule { rule: rule.into() },
                    None => Pull::Block {
                        network: network(&whom)?,
                    },
                },
                self.how(),
            ),
            Lever::Allow { whom, .. } => (
                match whom.strip_prefix("rule:") {
                    Some(rule) => Pull::AllowRule { rule: rule.into() },
                    None => Pull::Allow {
                        network: network(&whom)?,
                    },
                },
                self.how(),
            ),
            Lever::Challenge { at, .. } => (Pull::Challenge { route: at.route }, self.how()),
            Lever::Drain {
                upstream, server, ..
            } => (Pull::Drain { upstream, server }, self.how()),
            Lever::Budget { upstream, most, .. } => (Pull::Budget { upstream, most }, self.how()),
            Lever::Bypass { route, .. } => (Pull::Bypass { route }, self.how()),
            Lever::Readonly { at, .. } => (Pull::Readonly { route: at.route }, self.how()),
        })
    }

    fn how(&self) -> &Pulling {
        match self {
            Lever::Ttl(Ttl::Stretch { how, .. } | Ttl::Least { how, .. })
            | Lever::Stale { how, .. }
            | Lever::Limit { how, .. }
            | Lever::Block { how, .. }
            | Lever::Allow { how, .. }
            | Lever::Challenge { how, .. }
            | Lever::Drain { how, .. }
            | Lever::Budget { how, .. }
            | Lever::Bypass { how, .. }
            | Lever::Readonly { how, .. } => how,
        }
    }
}

/// What is to be asked for to do without the app.
pub fn fallback(at: &Where, how: &Pulling) -> Value {
    let route = at.route.clone();
    order(&Pull::Fallback { route }, how)
}

/// What is to be asked for to try that.
pub fn drill(at: &Where, share: f64, how: &Pulling) -> Value {
    // Nobody wants to find a forgotten one.
    let how = Pulling {
        time: how.time.or(Some(DRILL)),
        ..how.clone()
    };
    let route = at.route.clone();
    order(&Pull::Drill { route, share }, &how)
}

/// `1%`, as a part of one.
pub fn share() -> ValueParser {
    ValueParser::new(|text: &str| {
        let number = text.strip_suffix('%').ok_or("as in 1%")?;
        let share: f64 = number.trim().parse().map_err(|_| "as in 1%")?;
        match share > 0.0 && share <= 100.0 {
            true => Ok(share / 100.0),
            false => Err("more than 0%, and 100% at most"),
        }
    })
}

fn order(pull: &Pull, how: &Pulling) -> Value {
    // What is not said is not written down either.
    let mut body = json!({ "pull": pull });
    if let Some(time) = how.time {
        body["for_seconds"] = time.as_secs().max(1).into();
    }
    if !how.reason.is_empty() {
        body["reason"] = how.reason.as_str().into();
    }
    if how.force {
        body["force"] = true.into();
    }
    body
}

/// An address is a network of one.
fn network(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>();
    net.or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|net| net.trunc())
        .map_err(|_| format!("{text:?} is no address or network, nor `rule:NAME`"))
}

fn duration() -> ValueParser {
    ValueParser::new(|text: &str| units::duration(text).map_err(|_| "as in 30s, 5m or 1h"))
}

/// `10x`, or `10`.
fn times() -> ValueParser {
    ValueParser::new(|text: &str| {
        let number = text.strip_suffix(['x', '×']).unwrap_or(text);
        let times: f64 = number.parse().map_err(|_| "as in 10x")?;
        match times.is_finite() && times > 0.0 {
            true => Ok(times),
            false => Err("more than 0, as in 0.5x"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        lever: Lever,
    }

    fn body(line: &str) -> Value {
        let words = std::iter::once("ctl").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().lever.body().unwrap()
    }

    #[test]
    fn a_line_is_a_lever() {
        let ttl = body("ttl stretch 10x --for 1m --reason crowd --route blog");
        assert_eq!(
            ttl,
            json!({
                "pull": { "lever": "ttl", "route": "blog", "stretch": 10.0 },
                "for_seconds": 60,
                "reason": "crowd",
            })
        );
        let pull = |line: &str| body(line)["pull"].clone();
        assert_eq!(pull("ttl least 1h")["least"], 3600);
        assert_eq!(pull("stale 1d")["window"], 86400);
        assert_eq!(
            pull("limit 0.5x"),
            json!({ "lever": "limit", "times": 0.5 })
        );
        assert_eq!(pull("block 192.0.2.7")["network"], "192.0.2.7/32");
        assert_eq!(pull("allow 192.0.2.7/24")["network"], "192.0.2.0/24");
        assert_eq!(pull("block rule:odd")["lever"], "block_rule");
        assert_eq!(pull("drain app 10.0.0.1:8000")["server"], "10.0.0.1:8000");
        assert_eq!(pull("budget app 8")["most"], 8);
        assert_eq!(pull("readonly"), json!({ "lever": "readonly" }));
        assert_eq!(body("block 0.0.0.0/0 --force")["force"], true);
        // What is sent is what is taken.
        for line in ["challenge", "bypass blog", "ttl stretch 2", "stale 5m"] {
            serde_json::from_value::<Pull>(pull(line)).unwrap();
        }
    }

    #[test]
    fn what_is_none_is_told() {
        let line = |line: &str| Line::try_parse_from(line.split_whitespace());
        assert!(line("ctl ttl stretch 0x").is_err());
        assert!(line("ctl limit -1").is_err());
        assert!(line("ctl stale soon").is_err());
        let block = line("ctl block everybody").unwrap().lever.body();
        assert!(block.unwrap_err().contains("no address"));
    }
}
