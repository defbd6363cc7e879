//! The command line: one file per command, and what they share.

mod ask;
pub mod bench;
pub mod check;
pub mod ctl;
pub mod demo;
pub mod health;
pub mod run;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Report;

/// Done.
const DONE: u8 = 0;
/// It could not be done.
const FAILED: u8 = 1;
/// Bad usage or config; nothing was started. Clap's own code too.
const MISUSED: u8 = 2;

/// A caching reverse proxy that keeps a site up when the crowd comes.
#[derive(Parser, Debug)]
#[command(name = "tidegate", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Try it:
  tidegate demo                                 a small site with the proxy in front of it
  tidegate run --origin http://127.0.0.1:8000   in front of your own app
Exit codes: 0 done, 1 failed, 2 bad usage or config";

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Ctl(ctl::Ctl),
    Demo(demo::Demo),
    Health(health::Health),
    Bench(bench::Bench),
}

/// Runs the process's own command line.
pub fn main() -> ExitCode {
    let Line { command } = Line::parse();
    ExitCode::from(match command {
        Command::Run(run) => run::run(&run),
        Command::Check(check) => check::run(&check),
        Command::Ctl(ctl) => ctl::run(&ctl),
        Command::Health(health) => health::run(&health),
        Command::Bench(bench) => bench::run(&bench),
        Command::Demo(demo) => match demo::run(&demo) {
            Ok(()) => DONE,
            Err(error) => failed(&error),
        },
    })
}

/// Says why a command failed.
fn failed(error: &str) -> u8 {
    say(&format!("error: {error}\n"));
    FAILED
}

/// Prints every mistake and what follows from them.
fn mistaken(report: &Report, consequence: &str) -> u8 {
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    say(&format!(
        "{}{}; {consequence}\n",
        report.render(colour),
        report.count()
    ));
    MISUSED
}

fn say(text: &str) {
    // A closed standard error is no reason to die.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn print(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => DONE,
        Err(_) => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.command)
    }

    #[test]
    fn the_declarations_agree_with_each_other() {
        Line::command().debug_assert();
    }

    #[test]
    fn help_fits_a_screen() {
        let mut line = Line::command();
        line.build();
        let below =
            |command: &clap::Command| -> Vec<_> { command.get_subcommands().cloned().collect() };
        let mut commands = vec![line];
        while let Some(mut command) = commands.pop() {
            commands.extend(below(&command));
            let help = command.render_help().to_string();
            let wide = help.lines().map(|line| line.chars().count()).max();
            assert!(help.lines().count() <= 24 && wide <= Some(100), "{help}");
        }
    }

    #[test]
    fn run_takes_several_origins() {
        let line = "tidegate run --origin http://a --origin http://b --default-ttl 10s -c x.toml";
        let Ok(Command::Run(run)) = parse(line) else {
            panic!("run");
        };
        assert_eq!(run.origin, ["http://a", "http://b"]);
        assert_eq!(run.default_ttl.as_deref(), Some("10s"));
        assert_eq!(run.config.as_deref(), Some("x.toml".as_ref()));
    }

    #[test]
    fn bad_usage_is_code_2() {
        for line in [
            "tidegate",
            "tidegate rnu",
            "tidegate check",
            "tidegate run --orign http://a",
            "tidegate check --print default -c x.toml",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn nothing_to_do_and_bad_config_are_code_2() {
        let Ok(Command::Run(nothing)) = parse("tidegate run --listen 127.0.0.1:0") else {
            panic!("run");
        };
        assert_eq!(run::run(&nothing), MISUSED);
        let Ok(Command::Check(missing)) = parse("tidegate check -c /nonexistent/t.toml") else {
            panic!("check");
        };
        assert_eq!(check::run(&missing), MISUSED);
    }
}
