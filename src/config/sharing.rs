//! The words of a fleet: where its Redis is, what opens it, and what its keys begin with.

use std::fmt;
use std::path::PathBuf;

use super::value::{Kind, Word, Wrong, is_not};
use super::words::Host;
use crate::redis::Server;

/// A server of Redis, as a URL has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisServer(pub Server);

impl Word for RedisServer {
    const WORD: Kind = Kind::Text {
        noun: "a Redis server's URL",
        pattern: Some("^rediss?://[^/@?#]+(/[0-9]{0,5})?$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        // What somebody took for the place of a password is not shown.
        let shown = if text.contains('@') { "this" } else { text };
        let wrong = |help: &str| Wrong::new(is_not(shown, Self::WORD), help);
        let (tls, rest) = match text.split_once("://") {
            Some(("redis", rest)) => (false, rest),
            Some(("rediss", rest)) => (true, rest),
            _ => {
                return Err(wrong(
                    "as in `\"redis://redis:6379\"`; `rediss://` with TLS",
                ));
            }
        };
        if rest.contains('@') {
            return Err(wrong("`username` and `password` are options of their own"));
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            digits => digits
                .parse()
                .map_err(|_| wrong("after the `/` there may be a database's number"))?,
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                let port = port.ok_or_else(|| wrong("a port is from 1 to 65535"))?;
                (host, port)
            }
            _ => (authority, 6379),
        };
        match Host::parse(host) {
            Ok(Host(host)) if !host.starts_with('*') => Ok(RedisServer(Server {
                host: host.trim_matches(['[', ']']).to_owned(),
                port,
                tls,
                database,
            })),
            _ => Err(wrong("as in `\"redis://redis:6379\"`")),
        }
    }
}

/// A password, or the file that has it. Never shown, in mistakes neither.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    Text(String),
    File(PathBuf),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Text(_) => f.write_str("Password"),
            Password::File(path) => write!(f, "Password in {}", path.display()),
        }
    }
}

impl Word for Password {
    const WORD: Kind = Kind::Secret {
        noun: "a password",
        pattern: Some("^(file:.+|.+)$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        match text.strip_prefix("file:") {
            Some("") => Err(Wrong::new(
                "`file:` without a path",
                "as in `\"file:/run/secrets/redis\"`",
            )),
            Some(path) => Ok(Password::File(path.into())),
            None if text.is_empty() => Err(Wrong::new(
                "an empty password",
                "leave it out, if Redis wants none",
            )),
            None => Ok(Password::Text(text.to_owned())),
        }
    }
}

/// What keys begin with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prefix(pub String);

impl Word for Prefix {
    const WORD: Kind = Kind::Text {
        noun: "a prefix of keys",
        pattern: Some("^[A-Za-z0-9._:-]{1,64}$"),
    };

    fn parse(text: &str) -> Result<Self, Wrong> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        match (1..=64).contains(&text.len()) && text.chars().all(fits) {
            true => Ok(Prefix(text.to_owned())),
            false => Err(Wrong::new(
                is_not(text, Self::WORD),
                "up to 64 of letters, digits, `.`, `_`, `:` and `-`",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_redis() {
        let server = |host: &str, port, tls, database| {
            let host = host.to_owned();
            Ok(RedisServer(Server {
                host,
                port,
                tls,
                database,
            }))
        };
        let parse = RedisServer::parse;
        assert_eq!(parse("redis://redis"), server("redis", 6379, false, 0));
        assert_eq!(
            parse("rediss://10.0.0.1:7000/"),
            server("10.0.0.1", 7000, true, 0)
        );
        assert_eq!(parse("redis://[::1]:1/3"), server("::1", 1, false, 3));
        assert_eq!(parse("redis://[::1]"), server("::1", 6379, false, 0));
        for (text, part) in [
            ("", "redis://redis:6379"),
            ("redis:6379", "redis://redis:6379"),
            ("http://redis", "redis://redis:6379"),
            ("redis://", "redis://redis:6379"),
            ("redis://*.redis", "redis://redis:6379"),
            ("redis://redis:0", "65535"),
            ("redis://redis:x", "65535"),
            ("redis://redis/x", "number"),
            ("redis://redis/70000", "number"),
            ("redis://redis/1/2", "number"),
            ("redis://me:hush@redis", "password"),
        ] {
            let wrong = parse(text).unwrap_err();
            assert!(!format!("{wrong:?}").contains("hush"), "{wrong:?}");
            let help = wrong.help.unwrap();
            assert!(help.contains(part), "{text}: {help}");
        }
    }

    #[test]
    fn a_password_is_not_told() {
        let password = Password::parse("sesame").unwrap();
        assert_eq!(format!("{password:?}"), "Password");
        let file = Password::parse("file:/run/secrets/redis").unwrap();
        assert_eq!(file, Password::File("/run/secrets/redis".into()));
        assert!(Password::parse("file:").is_err());
        assert!(Password::parse("").is_err());
    }
}
