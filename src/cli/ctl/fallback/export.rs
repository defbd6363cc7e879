//! `tidegate ctl fallback export`: lays cached pages down as files that `[fallback] dir` can serve, each where a request for it finds
//! it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::Desk;
use super::super::show::plain;
use crate::admin::{FallbackCopy, FallbackPage, FallbackPages};
use crate::cli::{DONE, FAILED, print, say};
use crate::fallback::ending;
use crate::rules::fallback::{file, is_plain};
use crate::rules::host::without_port;

/// Writes all that there is below `dir`, a folder for each host.
pub fn export(desk: &Desk<'_>, dir: &Path) -> u8 {
    if let Err(error) = empty(dir) {
        say(&format!("error: {}: {error}\n", dir.display()));
        return FAILED;
    }
    let mut written = Written::default();
    let (mut part, mut parts) = (0, 1);
    while part < parts {
        let target = format!("/v1/fallback/pages?part={part}&of={parts}");
        let told: FallbackPages = match desk.fetch(&target) {
            Ok(told) => told,
            Err(told) => return told,
        };
        if told.parts > parts {
            (part, parts) = (0, told.parts);
            continue;
        }
        for page in &told.pages {
            match lay_down(desk, dir, page) {
                Ok(bytes) => {
                    written.pages += 1;
                    written.bytes += bytes;
                }
                Err(Left::Out(why)) => *written.left_out.entry(why).or_default() += 1,
                Err(Left::Failed(error)) => {
                    say(&format!("error: {}: {error}\n", dir.display()));
                    return FAILED;
                }
                Err(Left::Lost(told)) => return told,
            }
        }
        part += 1;
    }
    print(&written.shown(dir));
    DONE
}

/// There is a folder, and nothing in it that could lead elsewhere.
fn empty(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    match fs::read_dir(dir)?.next() {
        None => Ok(()),
        Some(_) => Err(io::Error::other("it is not empty; name a new folder")),
    }
}

#[derive(Default)]
struct Written {
    pages: u64,
    bytes: u64,
    left_out: BTreeMap<&'static str, u64>,
}

impl Written {
    fn shown(&self, dir: &Path) -> String {
        let (pages, bytes) = (self.pages, self.bytes);
        let dir = plain(&dir.to_string_lossy());
        let mut out = format!("{pages} pages of {bytes} bytes are in {dir}\n");
        for (why, pages) in &self.left_out {
            let _ = writeln!(out, "left out: {pages}, {why}");
        }
        out
    }
}

/// Why a page is no file.
enum Left {
    Out(&'static str),
    /// Nor will others be.
    Failed(io::Error),
    /// The error has been told, and is the exit code.
    Lost(u8),
}

fn lay_down(desk: &Desk<'_>, dir: &Path, page: &FallbackPage) -> Result<u64, Left> {
    let target = format!(
        "/v1/fallback/page?scheme={}&host={}&target={}",
        encoded(&page.scheme),
        encoded(&page.host),
        encoded(&page.target)
    );
    let copy: FallbackCopy = match desk.look(&target).map_err(Left::Lost)? {
        Some(copy) => copy,
        None => return Err(Left::Out("which are gone or too large")),
    };
    if copy.status != 200 {
        return Err(Left::Out("which are errors, or lead elsewhere"));
    }
    if copy.content_encoding.is_some() {
        return Err(Left::Out("which are there compressed alone"));
    }
    let body = STANDARD.decode(&copy.body);
    let body = body.map_err(|_| Left::Out("which are gone or too large"))?;
    let path = place(page, copy.content_type.as_deref());
    let path = dir.join(path.ok_or(Left::Out("whose address or type makes no name of a file"))?);
    match write(&path, &body) {
        Ok(()) => Ok(body.len() as u64),
        Err(error) => Err(match error.kind() {
            // `/a` is a file, so there can be none for `/a/b`; or another scheme's page is there.
            io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidFilename => Left::Out("whose place another one has"),
            _ => Left::Failed(error),
        }),
    }
}

/// Below the folder, a host's first: plain names, so it leads nowhere else.
fn place(page: &FallbackPage, content_type: Option<&str>) -> Option<PathBuf> {
    let host = without_port(&page.host);
    let (path, query) = match page.target.split_once('?') {
        Some((path, query)) => (path, Some(query).filter(|query| !query.is_empty())),
        None => (&page.target[..], None),
    };
    let kind = content_type.and_then(ending);
    let file = file(path, query, kind)?;
    is_plain(host.as_bytes()).then(|| Path::new(host).join(std::ffi::OsStr::from_bytes(&file)))
}

fn write(path: &Path, body: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(body)
}

/// As a value in a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c56_a_page_lies_below_its_host() {
        let at = |host: &str, target: &str, kind: &str| {
            let page = FallbackPage {
                scheme: "https".into(),
                host: host.into(),
                target: target.into(),
            };
            let path = place(&page, Some(kind))?;
            Some(path.to_string_lossy().into_owned())
        };
        let html = "text/html; charset=utf-8";
        assert_eq!(at("a.test", "/", html).unwrap(), "a.test/index.html");
        assert_eq!(
            at("a.test:8080", "/b?p=2", html).unwrap(),
            "a.test/b?p=2.html"
        );
        assert_eq!(at("[::1]:80", "/s.css", "text/css").unwrap(), "[::1]/s.css");
        assert_eq!(at("a.test", "/?", html).unwrap(), "a.test/index.html");
        for (host, target) in [
            ("a.test", "/../x"),
            ("a.test", "/..%2fx"),
            ("a.test", "//x"),
            ("..", "/x"),
            ("", "/x"),
            ("a.test", "x"),
        ] {
            assert_eq!(at(host, target, html), None, "{host} {target}");
        }
        assert_eq!(encoded("/a?b=ä&c"), "%2Fa%3Fb%3D%C3%A4%26c");
    }
}
