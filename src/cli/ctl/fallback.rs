//! `tidegate ctl fallback`: has visitors do without the app, and tells what they get.

use std::fmt::Write as _;

use serde_json::Value;

use super::pull::{Pulling, Where};
use super::show::{lever, plain, undone};
use super::{Desk, FAILED, pull, show};
use crate::admin::{Fallback, Levers, Pulled, PulledLever};
use crate::cli::{DONE, say};

#[derive(clap::Subcommand, Clone, Debug)]
pub enum What {
    /// Visitors get cached pages, however stale, files, the maintenance page
    On {
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        how: Pulling,
    },
    /// They get live pages again
    Off {
        #[command(flatten)]
        at: Where,
    },
    /// Try it on a share of the anonymous requests; the app answers where there is nothing
    Drill {
        /// Of how many of them, as in 1%
        #[arg(long, value_name = "PERCENT", value_parser = pull::share())]
        share: f64,
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        how: Pulling,
    },
    /// For whom it is on, since whose word, and what visitors got
    Status,
}

impl What {
    pub(super) fn run(&self, desk: &Desk<'_>) -> u8 {
        match self {
            What::On { at, how } => {
                let body = pull::fallback(at, how);
                desk.say_to("POST", "/v1/levers", Some(&body), show::pulled)
            }
            What::Drill { share, at, how } => {
                let body = pull::drill(at, *share, how);
                desk.say_to("POST", "/v1/levers", Some(&body), show::pulled)
            }
            What::Off { at } => off(desk, at.route.as_deref()),
            What::Status => desk.ask::<Fallback>("/v1/fallback", status),
        }
    }
}

/// Undoes the levers of a route, or all of them.
fn off(desk: &Desk<'_>, route: Option<&str>) -> u8 {
    let levers: Levers = match desk.fetch("/v1/levers") {
        Ok(levers) => levers,
        Err(told) => return told,
    };
    let of = |lever: &PulledLever, name: &str| {
        lever
            .pull
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let is_it = |one: &&PulledLever| {
        let is_on = of(one, "lever").as_deref() == Some("fallback");
        is_on && (route.is_none() || of(one, "route").as_deref() == route)
    };
    let found: Vec<_> = levers.levers.iter().filter(is_it).collect();
    if found.is_empty() {
        say(match route {
            Some(_) => {
                "error: nobody has pulled it for this route; `ctl fallback status` tells more\n"
            }
            None => "error: nobody has pulled it; `ctl fallback status` tells more\n",
        });
        return FAILED;
    }
    let undo = |lever: &PulledLever| {
        let target = format!("/v1/levers/{}", lever.id);
        desk.say_to("DELETE", &target, None, |pulled: &Pulled| undone(pulled))
    };
    let done: Vec<u8> = found.into_iter().map(undo).collect();
    done.into_iter().find(|done| *done != DONE).unwrap_or(DONE)
}

fn status(fallback: &Fallback) -> String {
    let mut out = String::from("     cache      file  maintenance   refused   route\n");
    for route in &fallback.routes {
        let answers = &route.answers;
        let _ = writeln!(
            out,
            "{:>10}{:>10}{:>13}{:>10}   {}{}",
            answers.cache,
            answers.file,
            answers.maintenance,
            answers.refused,
            plain(&route.name),
            match (route.on, route.by_itself) {
                (false, _) => "",
                (true, false) => ": on",
                (true, true) => ": on, by itself: nothing healthy is left of its upstream",
            }
        );
    }
    for route in fallback.routes.iter().filter(|route| route.drill.all() > 0) {
        let (drill, all) = (&route.drill, route.drill.all());
        let share = (all - drill.maintenance) as f64 * 100.0 / all as f64;
        let _ = writeln!(
            out,
            "tried on {all} requests of {}: {share:.1} % could be answered, {} from the cache, {} by files",
            plain(&route.name),
            drill.cache,
            drill.file
        );
    }
    out.extend(fallback.levers.iter().map(lever));
    out
}
