//! `tidegate ctl`: asks a running proxy, and changes it, over its admin API.
//!
//! A command is a variant of [`What`] and an arm in [`run`] that calls [`Desk::ask`], or [`Desk::say_to`] for a change.

mod fallback;
mod find;
mod pull;
mod purge;
mod show;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::ask::{Answer, Request, is_late};
use super::{DONE, FAILED, MISUSED, print, say};
use crate::admin::{Audit, Configs, Levers, ProblemBody, Status, Top};
use crate::config::units::show_duration;
use find::Way;
use pull::Lever;
use purge::Purge;

/// All commands, so that they fit a screen.
const COMMANDS: &str = "\
Look:    status  top  audit  config  levers
Config:  reload  plan  apply  confirm  rollback      Cache:  purge
Pull:    ttl  stale  limit  block  allow  challenge  drain  budget  bypass  readonly  fallback
         (--for 15m, --reason TEXT, --force), and undo

";

/// Ask the running one how it is, and change it
#[derive(clap::Args, Clone, Debug)]
#[command(
    help_template = "{about}\n\n{usage-heading} {usage}\n\n{before-help}\
                     Options:\n{options}\n\n{after-help}",
    before_help = COMMANDS,
    after_help = "`tidegate ctl COMMAND --help` says more. Exit codes: 0 done, 1 not done, 2 bad usage or config"
)]
pub struct Ctl {
    #[command(flatten)]
    whom: Whom,

    #[command(subcommand)]
    what: What,
}

// Without anything it is the one with the default configuration.
#[derive(clap::Args, Clone, Debug)]
pub struct Whom {
    /// Config file of the one to ask
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,

    /// Its admin socket
    #[arg(long, value_name = "PATH", global = true, conflicts_with = "admin")]
    socket: Option<PathBuf>,

    /// Its admin address, as in http://127.0.0.1:9901
    #[arg(long, value_name = "URL", global = true)]
    admin: Option<String>,

    /// The file with its token
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,

    /// Your name, for its audit log [default: whom you are logged in as]
    #[arg(long = "as", value_name = "NAME", global = true)]
    actor: Option<String>,

    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,

    /// How long it may take to answer
    #[arg(long, value_name = "DURATION", default_value = "30s", global = true, value_parser = super::health::timeout)]
    timeout: Duration,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum What {
    /// What runs, and how it is
    Status,
    /// What is asked for most
    Top {
        /// How many routes and pages
        #[arg(long, value_name = "N", default_value_t = 10)]
        most: u8,
        /// For how many seconds requests are counted
        #[arg(long, value_name = "N", default_value_t = 1)]
        seconds: u8,
        /// Go on until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Who has changed what
    Audit {
        /// How many changes, the newest of all
        #[arg(long, value_name = "N", default_value_t = 50)]
        last: u16,
    },
    /// Take what the config file says now
    Reload {
        #[command(flatten)]
        why: Why,
    },
    /// Tell what a config would change, in words: the file's, or another
    Plan {
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Put another config in force, until the next reload or restart
    Apply {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Undo it after this time, unless `ctl confirm` comes before
        #[arg(long, value_name = "DURATION", value_parser = super::health::timeout)]
        confirm: Option<Duration>,
        #[command(flatten)]
        why: Why,
    },
    /// Keep what `apply --confirm` has put in force
    Confirm,
    /// Put an earlier config in force again
    Rollback {
        /// Its number [default: the one before]
        #[arg(value_name = "VERSION")]
        to: Option<u64>,
        #[command(flatten)]
        why: Why,
    },
    /// Which config is in force, and which were
    Config,
    /// What is pulled
    Levers,
    /// Undo a lever
    Undo {
        #[arg(value_name = "ID")]
        id: u64,
    },
    /// Take out of the cache what is no longer so
    #[command(subcommand)]
    Purge(Purge),
    /// Have visitors do without the app, and tell what they get
    #[command(subcommand)]
    Fallback(fallback::What),
    #[command(flatten)]
    Pull(Lever),
}

#[derive(clap::Args, Clone, Debug)]
struct Why {
    /// Why, for the audit log and for whoever looks
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

pub(super) fn run(ctl: &Ctl) -> u8 {
    let desk = match Desk::find(&ctl.whom) {
        Ok(desk) => desk,
        Err(told) => return told,
    };
    match &ctl.what {
        What::Status => desk.ask::<Status>("/v1/status", show::status),
        What::Audit { last } => desk.ask::<Audit>(&format!("/v1/audit?last={last}"), show::audit),
        What::Reload { why } => {
            let body = json!({ "reason": why.reason });
            desk.say_to("POST", "/v1/config/reload", Some(&body), show::changed)
        }
        What::Plan { file } => {
            let text = match file.as_deref().map(read).transpose() {
                Ok(text) => text,
                Err(told) => return told,
            };
            let body = json!({ "text": text });
            desk.say_to("POST", "/v1/config/plan", Some(&body), show::plan)
        }
        What::Apply { file, confirm, why } => {
            let text = match read(file) {
                Ok(text) => text,
                Err(told) => return told,
            };
            let seconds = confirm.map(|time| time.as_secs().max(1));
            let body = json!({ "text": text, "confirm_seconds": seconds, "reason": why.reason });
            desk.say_to("POST", "/v1/config", Some(&body), show::changed)
        }
        What::Confirm => {
            let body = json!({});
            desk.say_to("POST", "/v1/config/confirm", Some(&body), show::confirmed)
        }
        What::Rollback { to, why } => {
            let body = json!({ "to": to, "reason": why.reason });
            desk.say_to("POST", "/v1/config/rollback", Some(&body), show::changed)
        }
        What::Config => desk.ask::<Configs>("/v1/config", show::configs),
        What::Levers => desk.ask::<Levers>("/v1/levers", show::levers),
        What::Undo { id } => desk.say_to("DELETE", &format!("/v1/levers/{id}"), None, show::undone),
        What::Purge(purge) => desk.say_to("POST", "/v1/purge", Some(&purge.body()), show::purged),
        What::Fallback(what) => what.run(&desk),
        What::Pull(lever) => match lever.body() {
            Ok(body) => desk.say_to("POST", "/v1/levers", Some(&body), show::pulled),
            Err(why) => {
                say(&format!("error: {why}\n"));
                MISUSED
            }
        },
        What::Top {
            most,
            seconds,
            watch,
        } => {
            let target = format!("/v1/top?most={most}&seconds={seconds}");
            let clears = *watch && !ctl.whom.json && io::stdout().is_terminal();
            loop {
                let done = desk.ask::<Top>(&target, |top| {
                    let clear = if clears { "\x1b[H\x1b[2J" } else { "" };
                    clear.to_owned() + &show::top(top)
                });
                if !watch || done != DONE {
                    return done;
                }
            }
        }
    }
}

/// The error has been told, and is the exit code.
fn read(file: &Path) -> Result<String, u8> {
    std::fs::read_to_string(file).map_err(|error| {
        say(&format!("error: {}: {error}\n", file.display()));
        MISUSED
    })
}

/// The proxy that is asked.
struct Desk<'a> {
    whom: &'a Whom,
    ways: Vec<Way>,
    actor: Option<String>,
}

impl<'a> Desk<'a> {
    /// The error has been told, and is the exit code.
    fn find(whom: &'a Whom) -> Result<Desk<'a>, u8> {
        Ok(Desk {
            whom,
            ways: find::ways(whom)?,
            actor: find::actor(whom)?,
        })
    }

    /// Asks a question, and prints what comes.
    fn ask<T: DeserializeOwned>(&self, target: &str, show: impl Fn(&T) -> String) -> u8 {
        self.say_to("GET", target, None, show)
    }

    /// Asks a question for what is to be done next. An error has been told, and is the exit code.
    fn fetch<T: DeserializeOwned>(&self, target: &str) -> Result<T, u8> {
        let answer = self.question(target)?;
        match answer.status {
            200 => read_answer(&answer),
            _ => Err(self.told(&answer, |_: &Value| String::new())),
        }
    }

    /// The same of what may not be there.
    fn look<T: DeserializeOwned>(&self, target: &str) -> Result<Option<T>, u8> {
        let answer = self.question(target)?;
        match answer.status {
            404 | 422 => Ok(None),
            200 => read_answer(&answer).map(Some),
            _ => Err(self.told(&answer, |_: &Value| String::new())),
        }
    }

    fn question(&self, target: &str) -> Result<Answer, u8> {
        let request = Request {
            method: "GET",
            target,
            actor: self.actor.as_deref(),
            ..Request::default()
        };
        self.answer(&request).map_err(|why| {
            say(&format!("error: {why}\n"));
            FAILED
        })
    }

    /// Sends a request and prints what comes of it.
    fn say_to<T: DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
        show: impl Fn(&T) -> String,
    ) -> u8 {
        let request = Request {
            method,
            target,
            token: None,
            actor: self.actor.as_deref(),
            body,
        };
        match self.answer(&request) {
            Ok(answer) => self.told(&answer, show),
            Err(why) => {
                say(&format!("error: {why}\n"));
                FAILED
            }
        }
    }

    /// The answer of the first that can be reached.
    fn answer(&self, request: &Request<'_>) -> Result<Answer, String> {
        let (way, line) = find::line(&self.ways, self.whom.timeout)?;
        let request = Request {
            token: way.token.as_deref(),
            ..request.clone()
        };
        let answer = line.ask(&request).map_err(|error| {
            let why = match is_late(&error) {
                true => format!("no answer within {}", show_duration(self.whom.timeout)),
                false => error.to_string(),
            };
            format!("{}: {why}", way.at)
        })?;
        let answer =
            Answer::read(&answer).ok_or_else(|| format!("{}: that is not an admin API", way.at))?;
        match (answer.status, &way.missing) {
            (401, Some(missing)) => Err(format!("{} wants a token, and {missing}", way.at)),
            _ => Ok(answer),
        }
    }

    fn told<T: DeserializeOwned>(&self, answer: &Answer, show: impl Fn(&T) -> String) -> u8 {
        if let Some(why) = &answer.unwritten {
            say(&format!("warning: audit log: {}\n", show::plain(why)));
        }
        let value: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let done = (200..300).contains(&answer.status);
        if self.whom.json
            && let Some(value) = &value
        {
            let printed = print(&show::json(value));
            return if done { printed } else { FAILED };
        }
        if !done {
            let problem = value.and_then(|value| serde_json::from_value(value).ok());
            let detail = problem.map(|problem: ProblemBody| problem.detail);
            let detail = detail.unwrap_or_else(|| format!("the answer is a {}", answer.status));
            // Mistakes of a config are lines of their own, which say so.
            let lines: Vec<_> = detail.trim_end().lines().map(show::plain).collect();
            let begins = if detail.starts_with("error") {
                ""
            } else {
                "error: "
            };
            say(&format!("{begins}{}\n", lines.join("\n")));
            return FAILED;
        }
        match value.and_then(|value| serde_json::from_value(value).ok()) {
            Some(told) => print(&show(&told)),
            None => {
                say("error: an answer of another version; try --json\n");
                FAILED
            }
        }
    }
}

/// The error has been told, and is the exit code.
fn read_answer<T: DeserializeOwned>(answer: &Answer) -> Result<T, u8> {
    serde_json::from_slice(&answer.body).map_err(|_| {
        say("error: an answer of another version; try --json\n");
        FAILED
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Subcommand;

    #[test]
    fn the_screen_names_every_command() {
        let all = What::augment_subcommands(clap::Command::new("ctl"));
        for command in all.get_subcommands() {
            let mut words = COMMANDS.split_whitespace();
            assert!(words.any(|word| word == command.get_name()), "{command}");
        }
    }
}
