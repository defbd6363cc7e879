//! One request to a running proxy, over TCP or its socket, on a connection of its own and by one deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::clock;

/// What operators are answered is far below it.
const ANSWER_MOST: usize = 16 << 20;

/// Where a proxy is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum At {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Tcp(address) => write!(f, "http://{address}"),
            At::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What it is asked.
#[derive(Clone, Default)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub token: Option<&'a str>,
    /// Who asks, as he says.
    pub actor: Option<&'a str>,
    pub body: Option<&'a Value>,
}

/// What it answers.
pub struct Answer {
    pub status: u16,
    /// Why what was changed is not in the audit log.
    pub unwritten: Option<String>,
    pub body: Vec<u8>,
}

impl Request<'_> {
    fn bytes(&self, at: &At) -> Vec<u8> {
        let host = match at {
            At::Tcp(address) => address.to_string(),
            At::Unix(_) => "localhost".to_owned(),
        };
        let Request { method, target, .. } = self;
        let mut out = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in [
            ("Authorization: Bearer", self.token),
            ("X-Tidegate-Actor:", self.actor),
        ] {
            if let Some(value) = value {
                out += &format!("{name} {value}\r\n");
            }
        }
        let body = self.body.map(Value::to_string);
        if let Some(body) = &body {
            out += "Content-Type: application/json\r\n";
            out += &format!("Content-Length: {}\r\n", body.len());
        }
        out += "Connection: close\r\n\r\n";
        out += body.as_deref().unwrap_or_default();
        out.into_bytes()
    }
}

impl Answer {
    /// None: it is not HTTP, or not whole.
    pub fn read(bytes: &[u8]) -> Option<Answer> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(end)) = head.parse(bytes) else {
            return None;
        };
        let field = |name: &str| {
            let mut all = head.headers.iter();
            let found = all.find(|field| field.name.eq_ignore_ascii_case(name))?;
            Some(String::from_utf8_lossy(found.value).into_owned())
        };
        let body = match field("content-length") {
            None => &bytes[end..],
            Some(length) => bytes[end..].get(..length.trim().parse().ok()?)?,
        };
        Some(Answer {
            status: head.code?,
            unwritten: field("x-tidegate-audit"),
            body: body.to_vec(),
        })
    }
}

/// A connection, and when it is over.
pub struct Line {
    at: At,
    stream: Box<dyn Wire>,
    until: Instant,
}

impl Line {
    /// # Errors
    /// Nobody is there, or it takes too long.
    pub fn open(at: &At, timeout: Duration) -> io::Result<Line> {
        let until = clock::instant() + timeout;
        let stream: Box<dyn Wire> = match at {
            At::Tcp(address) => Box::new(TcpStream::connect_timeout(address, timeout)?),
            At::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                // It holds for connecting too.
                socket.set_write_timeout(Some(timeout))?;
                socket.connect(&SockAddr::unix(path)?)?;
                Box::new(UnixStream::from(socket))
            }
        };
        let at = at.clone();
        Ok(Line { at, stream, until })
    }

    /// Asks, and gives the whole answer as it came.
    ///
    /// # Errors
    /// The connection breaks, or it takes too long.
    pub fn ask(mut self, request: &Request<'_>) -> io::Result<Vec<u8>> {
        self.stream.write_by(left(self.until)?)?;
        self.stream.write_all(&request.bytes(&self.at))?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while answer.len() < ANSWER_MOST {
            self.stream.read_by(left(self.until)?)?;
            match self.stream.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => answer.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(answer)
    }
}

/// Whether it took too long.
pub fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

/// The time until `deadline`, of which there must be some.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(clock::instant());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

trait Wire: Read + Write {
    fn read_by(&self, within: Duration) -> io::Result<()>;
    fn write_by(&self, within: Duration) -> io::Result<()>;
}

impl Wire for TcpStream {
    fn read_by(&self, within: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(within))
    }

    fn write_by(&self, within: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(within))
    }
}

impl Wire for UnixStream {
    fn read_by(&self, within: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(within))
    }

    fn write_by(&self, within: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(within))
    }
}
