//! `tidegate health`: asks the running one how it is, for containers and scripts.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::ask::{Answer, At, Line, Request, is_late};
use super::{FAILED, MISUSED, failed, mistaken, print, say};
use crate::admin::Page;
use crate::config::units::{self, show_duration};
use crate::config::{self, Flags};
use crate::server::reachable;

/// Ask the running one whether it is well
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0 it is well, 1 it is not, 2 bad usage or config")]
pub struct Health {
    /// Where its metrics and health are [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,

    /// Config file to take that address from; the flag overrides it
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Ask only whether it is alive, not whether it is ready for visitors
    #[arg(long)]
    pub live: bool,

    /// How long it may take to answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = timeout)]
    pub timeout: Duration,
}

pub(super) fn run(health: &Health) -> u8 {
    let flags = Flags {
        admin: health.admin.clone(),
        ..Flags::default()
    };
    let address = match config::admin_address(health.config.as_deref(), &flags) {
        Ok(Some(address)) => reachable(address),
        Ok(None) => {
            say("error: the admin listener is off, so there is nobody to ask\n");
            return MISUSED;
        }
        Err(report) => return mistaken(&report, "nobody was asked"),
    };
    let (path, well) = match health.live {
        false => ("/readyz", "ready"),
        true => ("/healthz", "alive"),
    };
    match ask(address, path, health.timeout) {
        Ok(answer) => match verdict(&answer) {
            Ok(()) => print(&format!("{well}\n")),
            Err(why) => failed(&format!("not {well}: {why}")),
        },
        Err(error) => {
            let why = match is_late(&error) {
                true => format!("no answer within {}", show_duration(health.timeout)),
                false => error.to_string(),
            };
            say(&format!("error: http://{address}{path}: {why}\n"));
            FAILED
        }
    }
}

/// The whole answer, as it came.
fn ask(address: SocketAddr, target: &str, timeout: Duration) -> io::Result<Vec<u8>> {
    let request = Request {
        method: "GET",
        target,
        ..Request::default()
    };
    Line::open(&At::Tcp(address), timeout)?.ask(&request)
}

/// Whether the answer says that all is well; if not, what isn't.
fn verdict(answer: &[u8]) -> Result<(), String> {
    let Some(answer) = Answer::read(answer) else {
        return Err("the answer is not HTTP; is this the admin address?".into());
    };
    let status = answer.status;
    let Ok(page) = serde_json::from_slice::<Page>(&answer.body) else {
        return Err(format!(
            "the answer is a {status} of something else; is this the admin address?"
        ));
    };
    match (status, page.ok) {
        (200, true) => Ok(()),
        (status, true) => Err(format!("the answer is a {status}")),
        _ => Err(failing(&page)),
    }
}

/// The parts that are not well, in one line.
fn failing(page: &Page) -> String {
    let failing = page.parts.iter().filter(|(_, part)| !part.ok);
    let told: Vec<_> = failing
        .map(|(name, part)| format!("{name}: {}", part.detail))
        .collect();
    told.join("; ")
}

pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match units::duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("it has to take some time".into()),
        Err(_) => Err("expected a duration such as 2s or 500ms".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_200_that_says_so_is_well() {
        let answer = |status: &str, body: &str| {
            verdict(format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}").as_bytes())
        };
        let well = r#"{"ok":true,"parts":{"config":{"ok":true,"detail":"valid"}}}"#;
        let ill = r#"{"ok":false,"parts":{"config":{"ok":true,"detail":"valid"},"draining":{"ok":false,"detail":"yes"}}}"#;
        assert_eq!(answer("200 OK", well), Ok(()));
        assert!(answer("503 Service Unavailable", well).is_err());
        assert!(answer("200 OK", "").is_err());
        assert!(answer("200 OK", "<html>").is_err());
        assert!(verdict(b"").is_err());
        assert!(verdict(b"SSH-2.0-OpenSSH_9.2\r\n").is_err());
        assert_eq!(
            answer("503 Service Unavailable", ill),
            Err("draining: yes".to_owned())
        );
    }

    #[test]
    fn a_timeout_is_a_duration_that_is_not_nothing() {
        assert_eq!(timeout("500ms"), Ok(Duration::from_millis(500)));
        assert!(timeout("0").is_err());
        assert!(timeout("2").is_err());
    }
}
