//! A client's connection: one GET after the other over HTTP/1.1, each answer read whole.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::rules::chunked::Decoder;
use crate::rules::response::{BodyFraming, check_head, framing};

const BUFFER: usize = 32 << 10;

/// An answer that came whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Bytes of the body.
    pub body: u64,
    /// How the server's cache came by it ([`came_by`]).
    pub cache: String,
    /// Whether it says when to come again.
    pub retry_after: bool,
    /// Who answered, where an origin tells (`X-Server`).
    pub server: Option<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failed {
    /// No connection.
    Refused,
    /// The connection ended before the answer had begun, ...
    Closed,
    /// ... or in the middle of it.
    Broken,
    /// What came was no HTTP/1.1.
    Garbage,
    /// The client's patience ended first.
    TimedOut,
}

/// A connection between requests.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The address of a client on loopback: all of 127.0.0.0/8 is this machine's. None for client 0.
pub fn address(client: u32) -> Option<Ipv4Addr> {
    const FIRST: u32 = 0x7f01_0000;
    // Below the broadcast address.
    (client > 0).then(|| Ipv4Addr::from_bits(FIRST + client % 0x00fe_0000))
}

impl Connection {
    /// Connects as `client`, from an address of its own where the server is on loopback.
    ///
    /// # Errors
    /// What the system says.
    pub async fn open(server: SocketAddr, client: u32) -> io::Result<Connection> {
        let stream = match (server.ip(), address(client)) {
            (IpAddr::V4(ip), Some(own)) if ip.is_loopback() => {
                let socket = TcpSocket::new_v4()?;
                socket.bind((own, 0).into())?;
                socket.connect(server).await?
            }
            _ => TcpStream::connect(server).await?,
        };
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Whether the server has left it open, as far as is known.
    pub fn is_open(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(why) if why.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends `request`, a GET's head, and reads the answer; says whether the connection goes on.
    ///
    /// # Errors
    /// Why there is no whole answer; the connection is of no use then.
    pub async fn ask(&mut self, request: &[u8]) -> Result<(Answer, bool), Failed> {
        // A server may answer without having read: what it says tells more than the write's failure.
        let written = self.stream.write_all(request).await;
        let (status, fields) = self.head().await?.ok_or(Failed::Closed)?;
        let (body, ends_here) = self.body(framing(status, false, &fields)).await?;
        let closes = fields
            .get(CONNECTION)
            .is_some_and(|told| told.as_bytes().eq_ignore_ascii_case(b"close"));
        self.buffer.clear();
        let answer = Answer {
            status,
            body,
            cache: came_by(&fields),
            retry_after: fields.contains_key(RETRY_AFTER),
            server: text(fields.get(X_SERVER)).and_then(|server| server.parse().ok()),
        };
        Ok((answer, ends_here && !closes && written.is_ok()))
    }

    /// The head, interim ones left out; what follows it stays in the buffer. None if the connection ended before it.
    async fn head(&mut self) -> Result<Option<(u16, HeaderMap)>, Failed> {
        loop {
            let mut searched = 0;
            let end = loop {
                let found = memchr::memmem::find(&self.buffer[searched..], b"\r\n\r\n");
                if let Some(found) = found {
                    break searched + found + 4;
                }
                searched = self.buffer.len().saturating_sub(3);
                if self.more().await? == 0 {
                    return match self.buffer.is_empty() {
                        true => Ok(None),
                        false => Err(Failed::Broken),
                    };
                }
            };
            let (status, fields) = read_head(&self.buffer[..end]).ok_or(Failed::Garbage)?;
            self.buffer.drain(..end);
            if status >= 200 {
                return Ok(Some((status, fields)));
            }
        }
    }

    /// Reads the body away; its length, and whether the connection goes on behind it.
    async fn body(&mut self, framing: BodyFraming) -> Result<(u64, bool), Failed> {
        match framing {
            BodyFraming::None => Ok((0, true)),
            BodyFraming::Length(length) => {
                let mut left = length;
                loop {
                    left = left
                        .checked_sub(self.buffer.len() as u64)
                        .ok_or(Failed::Garbage)?;
                    self.buffer.clear();
                    if left == 0 {
                        return Ok((length, true));
                    }
                    if self.more().await? == 0 {
                        return Err(Failed::Broken);
                    }
                }
            }
            BodyFraming::Chunked => self.chunks().await,
            BodyFraming::Close => {
                let mut length = 0;
                loop {
                    length += self.buffer.len() as u64;
                    self.buffer.clear();
                    if self.more().await? == 0 {
                        return Ok((length, false));
                    }
                }
            }
        }
    }

    async fn chunks(&mut self) -> Result<(u64, bool), Failed> {
        let (mut decoder, mut length) = (Decoder::new(), 0);
        loop {
            let mut at = 0;
            while at < self.buffer.len() && !decoder.is_done() {
                let step = decoder.decode(&self.buffer[at..]);
                let step = step.map_err(|_| Failed::Garbage)?;
                length += step.data.len() as u64;
                at += step.consumed;
            }
            if decoder.is_done() {
                return match at == self.buffer.len() {
                    true => Ok((length, true)),
                    false => Err(Failed::Garbage),
                };
            }
            self.buffer.clear();
            if self.more().await? == 0 {
                return Err(Failed::Broken);
            }
        }
    }

    async fn more(&mut self) -> Result<usize, Failed> {
        self.buffer.reserve(BUFFER);
        let read = self.stream.read_buf(&mut self.buffer).await;
        read.map_err(|_| match self.buffer.is_empty() {
            true => Failed::Closed,
            false => Failed::Broken,
        })
    }
}

/// A GET's head.
pub fn get(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tidegate-bench\r\nAccept: */*\r\n\r\n"
    )
    .into_bytes()
}

pub(super) fn read_head(raw: &[u8]) -> Option<(u16, HeaderMap)> {
    check_head(raw).ok()?;
    let mut lines = raw.split(|byte| *byte == b'\n');
    let status = str::from_utf8(lines.next()?.get(9..12)?)
        .ok()?
        .parse()
        .ok()?;
    let mut fields = HeaderMap::new();
    for line in lines.take_while(|line| line.len() > 1) {
        let colon = memchr::memchr(b':', line)?;
        let value = line[colon + 1..].trim_ascii();
        fields.append(
            HeaderName::from_bytes(&line[..colon]).ok()?,
            HeaderValue::from_bytes(value).ok()?,
        );
    }
    Some((status, fields))
}

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_VARNISH: HeaderName = HeaderName::from_static("x-varnish");
const X_SERVER: HeaderName = HeaderName::from_static("x-server");

/// How a cache came by an answer, in a few words: of the last cache in `Cache-Status` (RFC 9211), `hit` or why it was
/// forwarded (`expired` if what was stored was stale), `collapsed`, and the detail; else what `X-Cache` says, as nginx is set up to; else `hit` or `miss` by the ids
/// in Varnish's `X-Varnish`; else nothing.
pub fn came_by(fields: &HeaderMap) -> String {
    if let Some(told) = text(fields.get_all(CACHE_STATUS).iter().next_back()) {
        let last = told.rsplit(',').next().unwrap_or_default();
        let parameters = last.split(';').skip(1).map(str::trim);
        let words: Vec<&str> = parameters
            .filter_map(|parameter| match parameter.split_once('=') {
                None => matches!(parameter, "hit" | "collapsed").then_some(parameter),
                // Asked for anew. Alone, `stale` is what others call an old copy that went out.
                Some(("fwd", "stale")) => Some("expired"),
                Some(("fwd" | "detail", value)) => Some(value),
                Some(_) => None,
            })
            .collect();
        return words.join(" ");
    }
    if let Some(told) = text(fields.get(X_CACHE)) {
        return told.to_ascii_lowercase();
    }
    match text(fields.get(X_VARNISH)) {
        Some(ids) if ids.contains(' ') => "hit".to_owned(),
        Some(_) => "miss".to_owned(),
        None => String::new(),
    }
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_have_addresses_of_their_own() {
        assert_eq!(address(0), None);
        assert_eq!(address(1), Some(Ipv4Addr::new(127, 1, 0, 1)));
        assert_eq!(address(65_536), Some(Ipv4Addr::new(127, 2, 0, 0)));
        assert!(address(u32::MAX).is_some_and(|address| address.is_loopback()));
    }

    #[test]
    fn how_an_answer_was_come_by_is_told_in_words() {
        let told = |name: &'static str, value: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert(name, HeaderValue::from_static(value));
            came_by(&fields)
        };
        assert_eq!(told("cache-status", "Tidegate; hit; ttl=3"), "hit");
        assert_eq!(
            told("cache-status", "Tidegate; hit; ttl=-3; detail=sie"),
            "hit sie"
        );
        assert_eq!(
            told(
                "cache-status",
                "edge; hit, Tidegate; fwd=uri-miss; stored; collapsed; ttl=60"
            ),
            "uri-miss collapsed"
        );
        assert_eq!(told("cache-status", "Tidegate; fwd=stale"), "expired");
        assert_eq!(told("x-cache", "UPDATING"), "updating");
        assert_eq!(told("x-varnish", "5 3"), "hit");
        assert_eq!(told("x-varnish", "5"), "miss");
        assert_eq!(told("server", "plain"), "");
    }
}
