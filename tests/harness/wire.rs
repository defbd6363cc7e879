//! HTTP/1 as bytes on a socket: heads, bodies by their framing, ends. Both sides of a script read through this, strictly:
//! what RFC 9112 forbids a sender is an error here, not something to be lenient about.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use super::text::show;

/// How long anything that should come may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

pub struct Conn {
    stream: Arc<TcpStream>,
    held: Vec<u8>,
    ended: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Closed,
    Reset,
}

pub struct Head {
    pub start: String,
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self
            .fields
            .iter()
            .filter(|(held, _)| held.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_slice()).collect()
    }

    pub fn one(&self, name: &str) -> Option<&[u8]> {
        self.all(name).first().copied()
    }

    pub fn shown(&self) -> String {
        let mut out = self.start.clone();
        for (name, value) in &self.fields {
            out.push_str(&format!("\n    {name}: {}", show(value)));
        }
        out
    }
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    Close,
}

impl Framing {
    pub fn of_request(head: &Head) -> Result<Framing, String> {
        Ok(stated(head)?.unwrap_or(Framing::None))
    }

    pub fn of_response(head: &Head, status: u16, method: &str) -> Result<Framing, String> {
        let stated = stated(head)?;
        if method == "HEAD" || status == 304 || status == 204 || status < 200 {
            return Ok(Framing::None);
        }
        Ok(stated.unwrap_or(Framing::Close))
    }
}

fn stated(head: &Head) -> Result<Option<Framing>, String> {
    let lengths = head.all("content-length");
    let codings = head.all("transfer-encoding");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(None),
        ([digits], []) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let digits = String::from_utf8_lossy(digits);
            digits
                .parse()
                .map(|length| Some(Framing::Length(length)))
                .map_err(|_| format!("Content-Length: {digits}"))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
        _ => Err(format!("broken framing in\n{}", head.shown())),
    }
}

/// What is left of a body.
pub struct Body {
    framing: Framing,
    left: u64,
    done: bool,
}

impl Body {
    pub fn new(framing: Framing) -> Body {
        let left = if let Framing::Length(length) = framing {
            length
        } else {
            0
        };
        Body {
            framing,
            left,
            done: framing == Framing::None || framing == Framing::Length(0),
        }
    }
}

/// A piece of a body, its end, or the break that came instead.
pub enum Piece {
    Data(Vec<u8>),
    Whole,
    Broken(End),
}

impl Conn {
    /// `keep` is shown the socket, so that somebody can cut it from outside.
    pub fn new(stream: TcpStream, keep: impl FnOnce(&Arc<TcpStream>)) -> Result<Conn, String> {
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let conn = Conn {
            stream: Arc::new(stream),
            held: Vec::new(),
            ended: None,
        };
        keep(&conn.stream);
        conn.patience(PATIENCE)?;
        conn.stream
            .set_write_timeout(Some(PATIENCE))
            .map_err(|error| error.to_string())?;
        Ok(conn)
    }

    pub fn patience(&self, time: Duration) -> Result<(), String> {
        self.stream
            .set_read_timeout(Some(time))
            .map_err(|error| error.to_string())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        (&*self.stream)
            .write_all(bytes)
            .map_err(|error| format!("could not send: {error}"))
    }

    pub fn shutdown(&self) -> Result<(), String> {
        self.stream
            .shutdown(std::net::Shutdown::Write)
            .map_err(|error| error.to_string())
    }

    /// Closing sends RST.
    pub fn reset(self) -> Result<(), String> {
        SockRef::from(&*self.stream)
            .set_linger(Some(Duration::ZERO))
            .map_err(|error| error.to_string())
    }

    /// Reads once; how the peer ended, if it has.
    fn fill(&mut self) -> Result<Option<End>, String> {
        if self.ended.is_some() {
            return Ok(self.ended);
        }
        let mut buffer = [0; 65_536];
        loop {
            match (&*self.stream).read(&mut buffer) {
                Ok(0) => self.ended = Some(End::Closed),
                Ok(count) => self.held.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Err(format!(
                        "nothing came in time; held so far: {}",
                        show(&self.held)
                    ));
                }
                Err(_) => self.ended = Some(End::Reset),
            }
            return Ok(self.ended);
        }
    }

    /// A line without its CRLF.
    fn line(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(at) = self.held.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.held.drain(..=at).collect();
                line.pop();
                if line.pop() != Some(b'\r') {
                    return Err("a line that ends in a bare LF".into());
                }
                return Ok(Some(line));
            }
            if self.fill()?.is_some() {
                return match self.held.is_empty() {
                    true => Ok(None),
                    false => Err(format!("cut off in a line: {}", show(&self.held))),
                };
            }
        }
    }

    /// A head, or None where the peer ended before its first byte.
    pub fn head(&mut self) -> Result<Option<Head>, String> {
        let Some(start) = self.line()? else {
            return Ok(None);
        };
        let start = String::from_utf8(start).map_err(|_| "a start line that is not ASCII")?;
        let mut fields = Vec::new();
        loop {
            let line = self
                .line()?
                .ok_or_else(|| format!("cut off in the head of {start}"))?;
            if line.is_empty() {
                return Ok(Some(Head { start, fields }));
            }
            let colon = line
                .iter()
                .position(|byte| *byte == b':')
                .ok_or_else(|| format!("no colon: {}", show(&line)))?;
            let name = &line[..colon];
            let token =
                |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
            if name.is_empty() || !name.iter().all(token) {
                return Err(format!("not a field name: {}", show(name)));
            }
            let value = line[colon + 1..].trim_ascii();
            if value
                .iter()
                .any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f)
            {
                return Err(format!("a control character in {}", show(&line)));
            }
            fields.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
        }
    }

    /// The next of a body, at most so many bytes, in whatever pieces the network makes of it.
    pub fn piece(&mut self, body: &mut Body, at_most: usize) -> Result<Piece, String> {
        loop {
            if body.done {
                return Ok(Piece::Whole);
            }
            if body.framing == Framing::Chunked && body.left == 0 {
                match self.chunk_size()? {
                    Some(0) => {
                        body.done = true;
                        if self.line()?.is_none_or(|line| !line.is_empty()) {
                            return Err("trailers, or a cut, after the last chunk".into());
                        }
                        continue;
                    }
                    Some(size) => body.left = size,
                    None => return Ok(Piece::Broken(self.ended.unwrap_or(End::Closed))),
                }
            }
            if self.held.is_empty()
                && let Some(end) = self.fill()?
            {
                body.done = body.framing == Framing::Close && end == End::Closed;
                return Ok(if body.done {
                    Piece::Whole
                } else {
                    Piece::Broken(end)
                });
            }
            let most = if body.framing == Framing::Close {
                u64::MAX
            } else {
                body.left
            };
            let count = self
                .held
                .len()
                .min(usize::try_from(most).unwrap_or(usize::MAX))
                .min(at_most);
            let data: Vec<u8> = self.held.drain(..count).collect();
            match body.framing {
                Framing::Chunked => {
                    body.left -= count as u64;
                    if body.left == 0 && self.line()?.is_none_or(|line| !line.is_empty()) {
                        return Err("a chunk without its CRLF".into());
                    }
                }
                Framing::Length(_) => {
                    body.left -= count as u64;
                    body.done = body.left == 0;
                }
                _ => {}
            }
            return Ok(Piece::Data(data));
        }
    }

    fn chunk_size(&mut self) -> Result<Option<u64>, String> {
        let line = match self.line() {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(None),
            Err(_) if self.ended.is_some() => return Ok(None),
            Err(error) => return Err(error),
        };
        let digits = String::from_utf8_lossy(&line).into_owned();
        u64::from_str_radix(&digits, 16)
            .map(Some)
            .map_err(|_| format!("not a chunk size: {}", show(&line)))
    }

    /// Exactly so many bytes as they come, without regard to HTTP.
    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>, String> {
        while self.held.len() < count {
            if self.fill()?.is_some() {
                return Err(format!("ended after {}", show(&self.held)));
            }
        }
        Ok(self.held.drain(..count).collect())
    }

    /// Waits for the peer's end; anything that still comes is an error.
    pub fn end(&mut self) -> Result<End, String> {
        loop {
            if !self.held.is_empty() {
                return Err(format!("expected the end, got {}", show(&self.held)));
            }
            if let Some(end) = self.fill()? {
                return Ok(end);
            }
        }
    }

    /// Reads until the peer ends, and keeps nothing.
    pub fn drain(&mut self) -> Result<(), String> {
        while self.fill()?.is_none() {
            self.held.clear();
        }
        Ok(())
    }

    /// Whether nothing comes for so long.
    pub fn silent(&mut self, time: Duration) -> Result<(), String> {
        self.patience(time)?;
        let came = self.held.is_empty().then(|| self.fill());
        self.patience(PATIENCE)?;
        match came {
            Some(Err(_)) => Ok(()),
            Some(Ok(Some(end))) => Err(format!("expected silence, got the end ({end:?})")),
            _ => Err(format!("expected silence, got {}", show(&self.held))),
        }
    }
}
