//! `tidegate ctl fallback`: has visitors do without the app, and tells what they get.

mod export;

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use super::pull::{Pulling, Where};
use super::show::{lever, plain, undone};
use super::{Desk, FAILED, pull, show};
use crate::admin::{Fallback, FallbackCheck, Levers, Pulled, PulledLever};
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
    /// Try it on a share of the anonymous requests
    Drill {
        /// Of how many of them, as in 1%
        #[arg(long, value_name = "PERCENT", value_parser = pull::share())]
        share: f64,
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        how: Pulling,
    },
    /// How many of the last minutes' requests it could answer, and what is missing
    Check,
    /// Lay copies of pages down as files that `[fallback] dir` can serve
    Export {
        /// A new folder, or an empty one
        #[arg(value_name = "DIR")]
        dir: PathBuf,
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
            What::Check => desk.ask::<FallbackCheck>("/v1/fallback/check", check),
            What::Export { dir } => export::export(desk, dir),
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

fn check(check: &FallbackCheck) -> String {
    let requests = &check.requests;
    let all = requests.cache + requests.snapshot + requests.file + requests.maintenance;
    let some = match check.per_mille {
        1000.. => String::new(),
        some => format!(", from {:.1} % of the clients,", f64::from(some) / 10.0),
    };
    let mut out = format!(
        "of {all} requests for pages in {} s{some} {:.1} % could be answered: {} from the cache, {} from the disk, {} by files\n",
        check.seconds, check.share, requests.cache, requests.snapshot, requests.file
    );
    if requests.refused > 0 {
        let _ = writeln!(
            out,
            "beside them {} were for what only the app can do",
            requests.refused
        );
    }
    let _ = writeln!(
        out,
        "of the {} cached pages that were found most often {} are on the disk, too",
        check.hot, check.hot_on_disk
    );
    if !check.missing.is_empty() {
        out += "there is nothing of these:\n";
    }
    for page in &check.missing {
        let _ = writeln!(out, "{:>10}   {}", page.requests, plain(&page.url));
    }
    out
}

fn status(fallback: &Fallback) -> String {
    let mut out = String::from("     cache  snapshot      file  maintenance   refused   route\n");
    for route in &fallback.routes {
        let answers = &route.answers;
        let _ = writeln!(
            out,
            "{:>10}{:>10}{:>10}{:>13}{:>10}   {}{}",
            answers.cache,
            answers.snapshot,
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
            "tried on {all} requests of {}: {share:.1} % could be answered, {} from the cache, {} from the disk, {} by files",
            plain(&route.name),
            drill.cache,
            drill.snapshot,
            drill.file
        );
    }
    out.extend(fallback.levers.iter().map(lever));
    out
}
