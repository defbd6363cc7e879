//! Where the proxy is that is asked, and what opens it.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use super::Whom;
use crate::cli::ask::{At, Line, is_late};
use crate::cli::{MISUSED, mistaken, say};
use crate::config::policy::{SocketPlace, StateDir};
use crate::config::{self, Reach, Secret};
use crate::server::reachable;
use crate::state;

/// A way to a proxy.
pub struct Way {
    pub at: At,
    pub token: Option<String>,
    /// Why there is no token, where it may take one.
    pub missing: Option<String>,
}

/// All that may lead to the one that is meant, the best first. An error has been told, and is the exit code.
pub fn ways(whom: &Whom) -> Result<Vec<Way>, u8> {
    let reach = match config::reach(whom.config.as_deref()) {
        Ok(reach) => reach,
        Err(report) => return Err(mistaken(&report, "nobody was asked")),
    };
    let dirs = dirs(&reach);
    let token = token(whom, &reach, &dirs)?;
    let way = |at| Way {
        token: token.as_ref().ok().cloned(),
        missing: token.as_ref().err().cloned(),
        at,
    };
    if let Some(path) = &whom.socket {
        return Ok(vec![way(At::Unix(path.clone()))]);
    }
    if let Some(url) = &whom.admin {
        let address = address(url).map_err(|why| misused(&format!("--admin {url}: {why}")))?;
        return Ok(vec![way(At::Tcp(address))]);
    }
    let sockets = match &reach.socket {
        SocketPlace::Off => Vec::new(),
        SocketPlace::At(path) => vec![path.clone()],
        SocketPlace::Usual => dirs.iter().map(|dir| dir.join(state::SOCKET)).collect(),
    };
    let mut ways: Vec<Way> = sockets.into_iter().map(At::Unix).map(way).collect();
    ways.extend(reach.admin.map(|admin| way(At::Tcp(reachable(admin)))));
    match ways.is_empty() {
        true => Err(misused(
            "the admin listener and its socket are off, so there is nobody to ask",
        )),
        false => Ok(ways),
    }
}

/// The state directories that it may have.
fn dirs(reach: &Reach) -> Vec<PathBuf> {
    match &reach.state {
        StateDir::Off => Vec::new(),
        StateDir::At(dir) => vec![dir.clone()],
        StateDir::Usual => {
            let port = reach.listen.port();
            let mut dirs = state::places(port, |name| env::var(name).ok());
            // What systemd gives to `StateDirectory=tidegate` is known to the service alone.
            dirs.push("/var/lib/tidegate".into());
            dirs
        }
    }
}

/// The token, or why there is none.
fn token(whom: &Whom, reach: &Reach, dirs: &[PathBuf]) -> Result<Result<String, String>, u8> {
    if let Some(path) = &whom.token_file {
        let read = read(path);
        return read
            .map(Ok)
            .map_err(|error| misused(&format!("--token-file {}: {error}", path.display())));
    }
    let paths = match &reach.token {
        Some(Secret::Text(text)) => return Ok(Ok(text.clone())),
        Some(Secret::File(path)) => vec![path.clone()],
        None => dirs.iter().map(|dir| dir.join(state::TOKEN)).collect(),
    };
    let mut why = Vec::new();
    for path in &paths {
        match read(path) {
            Ok(token) => return Ok(Ok(token)),
            Err(error) => why.push(format!("{}: {error}", path.display())),
        }
    }
    let why = match why.is_empty() {
        true => "it has no state directory".to_owned(),
        false => why.join("; "),
    };
    Ok(Err(format!(
        "none can be read ({why}); --token-file names another"
    )))
}

fn read(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?.trim_end().to_owned();
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text),
        false => Err(io::Error::other("there is no token in it")),
    }
}

/// `http://HOST:PORT`, with the scheme or without.
fn address(url: &str) -> Result<SocketAddr, String> {
    let rest = match url.split_once("://") {
        None => url,
        Some(("http", rest)) => rest,
        Some(_) => return Err("the admin API speaks http".to_owned()),
    };
    let place = rest.trim_end_matches('/');
    let mut found = place
        .to_socket_addrs()
        .map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => {
                "expected a host and a port, as in http://127.0.0.1:9901".into()
            }
            _ => error.to_string(),
        })?;
    found.next().ok_or_else(|| "no address".to_owned())
}

/// What the asker is to be called.
pub fn actor(whom: &Whom) -> Result<Option<String>, u8> {
    let is_name = |name: &str| name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    match &whom.actor {
        Some(name) if is_name(name) => Ok(Some(name.clone())),
        Some(_) => Err(misused("--as takes visible ASCII")),
        None => {
            let known = ["SUDO_USER", "USER"].into_iter();
            let mut known = known.filter_map(|name| env::var(name).ok());
            Ok(known.find(|name| !name.is_empty() && is_name(name)))
        }
    }
}

/// A connection by the first way that leads anywhere.
pub fn line(ways: &[Way], timeout: Duration) -> Result<(&Way, Line), String> {
    let mut why = Vec::new();
    for way in ways {
        match Line::open(&way.at, timeout) {
            Ok(line) => return Ok((way, line)),
            Err(error) => why.push((&way.at, error)),
        }
    }
    let shut = why
        .iter()
        .find(|(_, error)| error.kind() == ErrorKind::PermissionDenied);
    if let Some((At::Unix(path), _)) = shut {
        return Err(format!("{}: {}", path.display(), owner(path)));
    }
    let told = why.iter().map(|(at, error)| {
        let why = match error.kind() {
            ErrorKind::NotFound => "not there".to_owned(),
            ErrorKind::ConnectionRefused => "nobody listens".to_owned(),
            _ if is_late(error) => "it takes too long".to_owned(),
            _ => error.to_string(),
        };
        format!("  {at}: {why}")
    });
    let told: Vec<_> = told.collect();
    Err(format!(
        "no proxy can be reached; is it running?\n{}\n-c FILE, --socket or --admin say where it is",
        told.join("\n")
    ))
}

fn owner(path: &Path) -> String {
    let whose = match fs::symlink_metadata(path) {
        Ok(about) if about.uid() == 0 => "root alone".to_owned(),
        Ok(about) => format!("user {} and root alone", about.uid()),
        // Not even its folder is this user's to look into.
        Err(_) => "its owner and root alone".to_owned(),
    };
    format!("permission denied: it is for {whose}; try sudo, or --admin with --token-file")
}

fn misused(why: &str) -> u8 {
    say(&format!("error: {why}\n"));
    MISUSED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        let at = |url: &str| address(url).map(|address| address.to_string());
        for url in [
            "127.0.0.1:9901",
            "http://127.0.0.1:9901",
            "http://127.0.0.1:9901/",
        ] {
            assert_eq!(at(url).as_deref(), Ok("127.0.0.1:9901"), "{url}");
        }
        assert_eq!(at("http://[::1]:1").as_deref(), Ok("[::1]:1"));
        assert!(at("https://127.0.0.1:1").unwrap_err().contains("http"));
        assert!(at("127.0.0.1").unwrap_err().contains("a port"));
    }
}
