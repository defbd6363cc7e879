//! A small blocking client: HTTP/1.1 as it comes in, piece by piece, and a websocket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Outcome;
use super::site::equal;

/// The longest any step here waits.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One request and its answer on a connection of its own.
pub struct Exchange {
    pub status: u16,
    fields: Vec<(String, String)>,
    body: Framing,
    stream: BufReader<TcpStream>,
}

enum Framing {
    Length(u64),
    Chunked,
    Close,
    Ended,
}

impl Exchange {
    pub fn open(
        to: SocketAddr,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> Result<Exchange, String> {
        let send = || -> std::io::Result<BufReader<TcpStream>> {
            let mut stream = connect(to)?;
            let length = if body.is_empty() && method == "GET" {
                String::new()
            } else {
                format!("Content-Length: {}\r\n", body.len())
            };
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: blog.test\r\n{fields}{length}Connection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes())?;
            stream.write_all(body)?;
            Ok(BufReader::new(stream))
        };
        let mut stream = send().map_err(|error| format!("{method} {path}: {error}"))?;
        let (status, fields) =
            read_head(&mut stream).map_err(|why| format!("{method} {path}: {why}"))?;
        let find = |name: &str| {
            fields
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| value.as_str())
        };
        let body = match (status, find("transfer-encoding"), find("content-length")) {
            (204 | 304, ..) => Framing::Ended,
            (_, Some(_), _) => Framing::Chunked,
            (_, None, Some(length)) => Framing::Length(
                length
                    .parse()
                    .map_err(|_| format!("Content-Length: {length}"))?,
            ),
            _ => Framing::Close,
        };
        Ok(Exchange {
            status,
            fields,
            body,
            stream,
        })
    }

    /// The next bytes of the body as they come; none at its end. A body cut short is an error.
    fn piece(&mut self) -> Result<Vec<u8>, String> {
        let mut piece = vec![0; 16 * 1024];
        let read = |stream: &mut BufReader<TcpStream>, room: &mut [u8]| {
            stream.read(room).map_err(|e| e.to_string())
        };
        match &mut self.body {
            Framing::Ended => piece.clear(),
            Framing::Close => {
                let count = read(&mut self.stream, &mut piece)?;
                piece.truncate(count);
            }
            Framing::Length(0) => piece.clear(),
            Framing::Length(left) => {
                let room = piece
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                let count = read(&mut self.stream, &mut piece[..room])?;
                if count == 0 {
                    return Err(format!("the body lacks {left} bytes"));
                }
                *left -= count as u64;
                piece.truncate(count);
            }
            Framing::Chunked => {
                let size = line(&mut self.stream)?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)
                    .map_err(|_| format!("not a chunk's size: {size:?}"))?;
                piece.resize(size, 0);
                self.stream
                    .read_exact(&mut piece)
                    .map_err(|error| error.to_string())?;
                equal("after a chunk", &line(&mut self.stream)?.as_str(), &"")?;
                if size == 0 {
                    self.body = Framing::Ended;
                }
            }
        }
        Ok(piece)
    }

    /// Reads until `enough` says so of the body so far.
    pub fn until(&mut self, enough: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        while !enough(&body) {
            let piece = self.piece()?;
            if piece.is_empty() {
                return Err(format!("ended early: {:?}", String::from_utf8_lossy(&body)));
            }
            body.extend(piece);
        }
        Ok(body)
    }

    pub fn rest(&mut self, body: &mut Vec<u8>) -> Outcome {
        loop {
            let piece = self.piece()?;
            if piece.is_empty() {
                return Ok(());
            }
            body.extend(piece);
        }
    }

    pub fn whole(mut self) -> Result<Answer, String> {
        let mut body = Vec::new();
        self.rest(&mut body)?;
        Ok(Answer {
            status: self.status,
            fields: self.fields,
            body,
        })
    }
}

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A status and the fields after it, names in lower case; interim answers are passed over.
fn read_head(stream: &mut BufReader<TcpStream>) -> Result<(u16, Vec<(String, String)>), String> {
    loop {
        let first = line(stream)?;
        let status: u16 = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| format!("not an answer: {first:?}"))?;
        let mut fields = Vec::new();
        loop {
            let line = line(stream)?;
            match line.split_once(':') {
                Some((name, value)) => {
                    fields.push((name.to_ascii_lowercase(), value.trim().to_owned()))
                }
                None if line.is_empty() => break,
                None => return Err(format!("not a field: {line:?}")),
            }
        }
        if status >= 200 || status == 101 {
            return Ok((status, fields));
        }
    }
}

fn line(stream: &mut BufReader<TcpStream>) -> Result<String, String> {
    let mut line = String::new();
    stream
        .read_line(&mut line)
        .map_err(|error| error.to_string())?;
    line.strip_suffix("\r\n")
        .map(str::to_owned)
        .ok_or_else(|| format!("the answer breaks off after {line:?}"))
}

pub struct Answer {
    pub status: u16,
    fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn is(&self, status: u16) -> Result<&Answer, String> {
        if self.status == status {
            return Ok(self);
        }
        Err(format!(
            "status {}, should be {status}: {:?} {}",
            self.status,
            self.fields,
            self.text()
        ))
    }

    pub fn says(&self, name: &str, part: &str) -> Result<&Answer, String> {
        match self.field(name) {
            Some(value) if value.contains(part) => Ok(self),
            other => Err(format!("{name}: {other:?}, should say {part:?}")),
        }
    }

    pub fn lacks(&self, name: &str, part: &str) -> Result<&Answer, String> {
        match self.field(name) {
            Some(value) if value.contains(part) => {
                Err(format!("{name}: {value:?}, should not say {part:?}"))
            }
            _ => Ok(self),
        }
    }
}

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A client of RFC 6455, as small as an echo needs it.
pub struct WebSocket(BufReader<TcpStream>);

impl WebSocket {
    pub fn connect(to: SocketAddr, path: &str) -> Result<WebSocket, String> {
        let mut stream = connect(to).map_err(|error| error.to_string())?;
        // Key and answer are the sample of RFC 6455 §1.3.
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream
            .write_all(head.as_bytes())
            .map_err(|error| error.to_string())?;
        let mut stream = BufReader::new(stream);
        let (status, fields) = read_head(&mut stream)?;
        equal("the handshake's status", &status, &101)?;
        let find = |name: &str| {
            fields
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| value.as_str())
        };
        equal(
            "the handshake's answer",
            &find("sec-websocket-accept"),
            &Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        )?;
        Ok(WebSocket(stream))
    }

    /// One whole frame, masked as a client's must be (§5.3).
    pub fn send(&mut self, kind: u8, data: &[u8]) -> Outcome {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![0x80 | kind];
        match data.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length @ 126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(
            data.iter()
                .zip(MASK.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        self.0
            .get_mut()
            .write_all(&frame)
            .map_err(|error| error.to_string())
    }

    /// One whole message: its kind and bytes, fragments joined.
    pub fn receive(&mut self) -> Result<(u8, Vec<u8>), String> {
        let mut message = Vec::new();
        let mut kind = 0;
        loop {
            let [first, second] = self.bytes()?;
            let length = match second & 0x7f {
                126 => u64::from(u16::from_be_bytes(self.bytes()?)),
                127 => u64::from_be_bytes(self.bytes()?),
                short => u64::from(short),
            };
            equal("masked by the server", &(second & 0x80), &0)?;
            if first & 0x0f != 0 {
                kind = first & 0x0f;
            }
            let begin = message.len();
            message.resize(
                begin + usize::try_from(length).map_err(|error| error.to_string())?,
                0,
            );
            self.0
                .read_exact(&mut message[begin..])
                .map_err(|error| error.to_string())?;
            if first & 0x80 != 0 {
                return Ok((kind, message));
            }
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.0
            .read_exact(&mut bytes)
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}
