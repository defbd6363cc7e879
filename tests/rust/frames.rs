//! HTTP/2 (RFC 9113) as bytes: frames of the caller's own making, right or wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long anything that should come may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection of which every byte is the test's.
pub struct Raw(pub TcpStream);

/// A frame's kind, flags, stream and payload.
pub type Frame = (u8, u8, u32, Vec<u8>);

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Fields as literals that no table remembers (RFC 7541 §6.2.2).
pub fn literals(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend_from_slice(text);
        }
    }
    block
}

impl Raw {
    pub fn connect(to: SocketAddr, settings: &[u8]) -> Result<Raw, String> {
        let mut raw = Raw(TcpStream::connect(to).map_err(|e| e.to_string())?);
        raw.patience()?;
        let preface = [PREFACE, &frame(SETTINGS, 0, 0, settings)[..]].concat();
        raw.write(&preface)?;
        Ok(raw)
    }

    pub fn patience(&mut self) -> Result<(), String> {
        let told = |e: std::io::Error| e.to_string();
        self.0.set_read_timeout(Some(PATIENCE)).map_err(told)?;
        self.0.set_write_timeout(Some(PATIENCE)).map_err(told)
    }

    /// Whatever comes, the other side ends it.
    pub fn ends(&mut self) -> Result<(), String> {
        match std::io::copy(&mut self.0, &mut std::io::sink()) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err("it is still open".into())
            }
            _ => Ok(()),
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.write_all(bytes).map_err(|e| e.to_string())
    }

    /// The next frame; none at the end.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5] & 127, head[6], head[7], head[8]]);
        let mut payload = vec![0; len as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[3], head[4], stream, payload))
    }

    /// What became of stream 1.
    pub fn verdict(&mut self) -> &'static str {
        loop {
            match self.frame() {
                Some((HEADERS, _, 1, block)) => {
                    // Past a size update, the status: 200 is the eighth of the static table.
                    let block = block.iter().find(|byte| **byte & 0xe0 != 0x20);
                    return if block == Some(&0x88) {
                        "200"
                    } else {
                        "refused"
                    };
                }
                Some((RST_STREAM | GOAWAY, ..)) | None => return "refused",
                Some(_) => {}
            }
        }
    }
}

/// A field's name and value.
pub type Field = (&'static [u8], &'static [u8]);

/// A request that nothing is wrong with.
pub const GET: [Field; 4] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/p"),
    (b":authority", b"a.test"),
];
