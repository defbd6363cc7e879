//! What is said to `fleet.lua` and what it may answer.

use std::fmt::Write as _;

use redis::{Cmd, Value};

use super::part::MOST_HOT;
use crate::redis::Failure;
use crate::rules::lease::{Grant, Report};
use crate::telemetry::RedisResult;

pub const SCRIPT: &str = include_str!("fleet.lua");
/// Reports in a message. Redis serves nobody else while it reads them: four milliseconds, where four proxies report.
pub const MOST_REPORTS: usize = 100;
/// Proxies that a fleet may have.
pub const MOST_PROXIES: i64 = 256;

/// A client of a limit, as Redis knows it: the limit's tag, and his number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    pub tag: u32,
    pub client: u64,
}

impl Name {
    fn text(self) -> String {
        format!("{:08x}{:016x}", self.tag, self.client)
    }

    fn parse(text: &[u8]) -> Option<Name> {
        let hex = |bytes: &[u8]| {
            let digits = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
            let text = std::str::from_utf8(bytes).ok()?;
            u64::from_str_radix(text, 16)
                .ok()
                .filter(|_| bytes.iter().all(digits))
        };
        let (tag, client) = text.split_at_checked(8)?;
        (client.len() == 16).then_some(())?;
        Some(Name {
            tag: hex(tag)? as u32,
            client: hex(client)?,
        })
    }
}

/// One message.
pub struct Message<'a> {
    pub prefix: &'a str,
    pub me: u64,
    /// Each message's of a proxy is greater than the last one's.
    pub number: u64,
    pub staying: bool,
    /// Proxies, as far as is known.
    pub known: u32,
    /// Of the hot list that was heard last.
    pub version: &'a str,
    pub reports: &'a [(Name, Asks, Report)],
}

/// What a limit is.
#[derive(Clone, Copy, Debug)]
pub struct Asks {
    pub rate: f64,
    pub burst: f64,
    pub least: f64,
}

/// What came back.
#[derive(PartialEq, Debug)]
pub struct Reply {
    pub counted: u32,
    pub version: String,
    /// All hot clients, where they are others than in the version before.
    pub hot: Option<Vec<Name>>,
    /// For each report. None: the client is hot no longer.
    pub grants: Vec<Option<Grant>>,
}

impl Message<'_> {
    /// As a command, for a script that Redis calls `sha`.
    pub fn command(&self, sha: &str) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(sha).arg(3 + self.reports.len());
        // In braces: the part of a key that chooses its slot.
        let mut key = |rest: &str| {
            command.arg(format!("{{{}}}:{rest}", self.prefix));
        };
        key("members");
        key("hot");
        key("version");
        for (name, ..) in self.reports {
            key(&format!("c:{}", name.text()));
        }
        command.arg(format!("{:016x}", self.me)).arg(self.known);
        command.arg(self.version);
        command.arg(if self.staying { "here" } else { "leaving" });
        command.arg(self.number);
        for (name, asks, report) in self.reports {
            command.arg(name.text());
            let Asks { rate, burst, least } = asks;
            let Report {
                demand,
                tokens,
                peak,
                back,
                share,
                burst: gathers,
            } = report;
            for number in [
                rate, burst, least, demand, tokens, peak, back, share, gathers,
            ] {
                let mut text = String::with_capacity(24);
                // Never an exponent, which `{}` has not either.
                let _ = write!(text, "{number:.6}");
                command.arg(text);
            }
        }
        command
    }

    /// Reads the answer to it.
    ///
    /// # Errors
    /// What the script can't have said.
    pub fn read(&self, value: Value) -> Result<Reply, Failure> {
        let absurd = |what: &str| Failure {
            result: RedisResult::Unbelievable,
            why: format!("an answer with {what}"),
        };
        let Value::Array(parts) = value else {
            return Err(absurd("no list"));
        };
        let parts: [Value; 4] = parts
            .try_into()
            .map_err(|_| absurd("other than four parts"))?;
        let [counted, version, hot, grants] = parts;
        let counted = match counted {
            Value::Int(counted @ 0..=MOST_PROXIES) => counted as u32,
            _ => return Err(absurd("no count of proxies")),
        };
        let version = match version {
            Value::BulkString(bytes) if bytes.len() <= 32 => String::from_utf8(bytes).ok(),
            _ => None,
        };
        let version = version.ok_or_else(|| absurd("no version"))?;
        let hot = match hot {
            Value::Nil => None,
            Value::Array(names) if names.len() <= MOST_HOT => {
                // Names of another form are somebody else's.
                let name = |value| match value {
                    Value::BulkString(bytes) => Name::parse(&bytes),
                    _ => None,
                };
                Some(names.into_iter().filter_map(name).collect())
            }
            _ => return Err(absurd("no list of clients")),
        };
        let Value::Array(grants) = grants else {
            return Err(absurd("no grants"));
        };
        if grants.len() != self.reports.len() {
            return Err(absurd("more or fewer grants than reports"));
        }
        let grant = |value| match value {
            Value::BulkString(bytes) if bytes.is_empty() => Ok(None),
            Value::BulkString(bytes) => grant(&bytes).map(Some),
            _ => None.ok_or(()),
        };
        let grants: Result<_, ()> = grants.into_iter().map(grant).collect();
        Ok(Reply {
            counted,
            version,
            hot,
            grants: grants.map_err(|()| absurd("a grant that is none"))?,
        })
    }
}

fn grant(bytes: &[u8]) -> Result<Grant, ()> {
    let text = std::str::from_utf8(bytes).map_err(drop)?;
    let mut numbers = text.split(' ').map(|number| number.parse().map_err(drop));
    let mut number = || numbers.next().unwrap_or(Err(()));
    let grant = Grant {
        share: number()?,
        burst: number()?,
        tokens: number()?,
    };
    numbers.next().is_none().then_some(grant).ok_or(())
}
