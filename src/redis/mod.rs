//! How Redis is spoken to: one connection and one script each for whoever speaks, with an end to everything.
//!
//! [`link`] makes connections and says things; what is said, and what may be answered, is its users' to know. What comes from
//! there is not trusted: an answer has a length, and whatever is none is a [`Failure`] like any other.

pub mod link;
#[cfg(test)]
pub mod server;

use std::path::PathBuf;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

use crate::telemetry::RedisResult;
pub use link::{Link, Words};

/// No answer of ours is as long: the names of all hot clients take a third of it, a batch of the log half.
pub const LONGEST_ANSWER: usize = 1 << 20;

/// Where Redis is and how it is spoken to.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSpec {
    /// One, or several that are tried in turn: a cluster's nodes, say.
    pub servers: Vec<Server>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// PEM file with the only roots to believe; else the system's.
    pub ca: Option<PathBuf>,
    /// For a message and its answer; ten times as much for a new connection, a second at most.
    pub timeout: Duration,
    /// What all keys begin with.
    pub prefix: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    pub database: u16,
}

impl std::fmt::Debug for RedisSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSpec")
            .field("servers", &self.servers)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub result: RedisResult,
    /// For people.
    pub why: String,
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let result = match error.kind() {
            ErrorKind::Io => RedisResult::Unreachable,
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => RedisResult::Unbelievable,
            _ => RedisResult::Refused,
        };
        let mut why = error.to_string();
        // It may be as long as the answer was.
        why.truncate(why.floor_char_boundary(200));
        Failure { result, why }
    }
}

fn unreachable(why: impl ToString) -> Failure {
    Failure {
        result: RedisResult::Unreachable,
        why: why.to_string(),
    }
}

fn late(limit: Duration) -> Failure {
    Failure {
        result: RedisResult::Timeout,
        why: format!("no answer within {limit:?}"),
    }
}
