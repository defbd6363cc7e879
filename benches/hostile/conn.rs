//! A client's connection: bytes as they come, and strictly read answers.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::harness::clock;
use super::judge;
use super::strict::{self, Reading};
use super::{LIMIT, from_stage};

pub struct Conn {
    pub stream: TcpStream,
    pub held: Vec<u8>,
    pub ended: bool,
}

/// What came for an answer.
pub enum Got {
    /// Its status and its bytes.
    Whole(u16, Vec<u8>),
    /// Why it is none, and its bytes.
    Broken(String, Vec<u8>),
    /// Broken off, or never begun.
    Cut,
    /// Neither an answer nor the end.
    Nothing,
}

impl Conn {
    pub fn new(port: u16) -> std::io::Result<Conn> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Conn {
            stream,
            held: Vec::new(),
            ended: false,
        })
    }

    /// Reads once; whether something came, be it the end.
    pub fn fill(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(clock::now());
        if self.ended || left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
            return false;
        }
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(count) => self.held.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => self.ended = true,
        }
        true
    }

    pub fn has_ended(&mut self) -> bool {
        let soon = clock::now() + Duration::from_millis(2);
        while self.fill(soon) {}
        self.ended
    }

    /// The next answer, to a request of this method, that is not an interim one.
    pub fn answer(&mut self, method: &str) -> Got {
        let deadline = clock::now() + LIMIT;
        loop {
            let held = match judge::of_http11(from_stage(&self.held)) {
                Ok(held) => held,
                Err(held) => {
                    self.held.clear();
                    let why = "Transfer-Encoding in HTTP/1.0".to_owned();
                    return Got::Broken(why, held);
                }
            };
            match strict::answer(&held, Some(method), self.ended) {
                Reading::Whole(answer, used) => {
                    self.held.drain(..used);
                    if (100..200).contains(&answer.status) && answer.status != 101 {
                        continue;
                    }
                    let bytes = held[..used].to_vec();
                    return match judge::status_line(&bytes) {
                        Ok(()) => Got::Whole(answer.status, bytes),
                        Err(why) => Got::Broken(why, bytes),
                    };
                }
                Reading::Broken(why) => {
                    self.held.clear();
                    return Got::Broken(why, held);
                }
                Reading::Partial if self.ended => {
                    self.held.clear();
                    return match held.is_empty() || held.starts_with(b"HTTP/") {
                        true => Got::Cut,
                        false => Got::Broken("no head".into(), held),
                    };
                }
                Reading::Partial => {
                    if !self.fill(deadline) {
                        self.held.clear();
                        return Got::Nothing;
                    }
                }
            }
        }
    }
}
