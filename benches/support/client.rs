//! Many clients on one thread: each connection asks one page at a time and every answer is checked.

use super::http::{self, End, Response};
use super::noise::Body;
use super::sys::{self, Epoll};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// What became of one request. Times are monotonic nanoseconds.
pub struct Outcome {
    pub connection: usize,
    pub intended: u64,
    pub first_byte: u64,
    pub done: u64,
    pub end: End,
    pub status: u16,
    pub cache_status: Option<String>,
    pub request_id: Option<String>,
    /// What it says of limits, and whether it has an X-Cache: marks of the config that it was answered by.
    pub policy: Option<String>,
    pub x_cache: bool,
}

struct Slot {
    stream: Option<TcpStream>,
    asking: Option<Asking>,
}

struct Asking {
    response: Response,
    intended: u64,
    first_byte: u64,
}

pub struct Clients {
    port: u16,
    epoll: Epoll,
    slots: Vec<Slot>,
    ready: Vec<(usize, u32)>,
    buffer: Vec<u8>,
}

impl Clients {
    pub fn new(port: u16) -> Clients {
        Clients {
            port,
            epoll: Epoll::new(),
            slots: Vec::new(),
            ready: Vec::new(),
            buffer: vec![0; 256 << 10],
        }
    }

    /// One more client, connected; its number.
    pub fn add(&mut self) -> usize {
        self.slots.push(Slot {
            stream: None,
            asking: None,
        });
        let number = self.slots.len() - 1;
        self.ensure_connected(number);
        number
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    fn ensure_connected(&mut self, number: usize) -> bool {
        if self.slots[number].stream.is_none()
            && let Ok(stream) = sys::connect(self.port)
        {
            self.epoll.add(&stream, number, sys::IN);
            self.slots[number].stream = Some(stream);
        }
        self.slots[number].stream.is_some()
    }

    /// Sends a GET. `intended` is when it should have been sent, which is what its latency counts from.
    pub fn ask(&mut self, number: usize, path: &str, expected: Body, intended: u64) {
        let connected = self.ensure_connected(number);
        let slot = &mut self.slots[number];
        slot.asking = Some(Asking {
            response: Response::new(Some(expected)),
            intended,
            first_byte: 0,
        });
        if connected
            && let Some(mut stream) = slot.stream.as_ref()
            && stream.write_all(&http::get(path)).is_err()
        {
            // The reading side reports it as a broken answer.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// The same, unless nobody listens.
    pub fn try_ask(&mut self, number: usize, path: &str, expected: Body, intended: u64) -> bool {
        let connected = self.ensure_connected(number);
        if connected {
            self.ask(number, path, expected, intended);
        }
        connected
    }

    /// Waits at most `timeout_ms` and gives each finished request to `finished`.
    pub fn poll(&mut self, timeout_ms: i32, mut finished: impl FnMut(Outcome)) {
        let mut ready = std::mem::take(&mut self.ready);
        self.epoll.wait(timeout_ms, &mut ready);
        for &(number, _) in &ready {
            if let Some(outcome) = self.read(number) {
                finished(outcome);
            }
        }
        self.ready = ready;
    }

    fn read(&mut self, number: usize) -> Option<Outcome> {
        let slot = &mut self.slots[number];
        let end = match slot.stream.as_mut()?.read(&mut self.buffer) {
            Ok(0) => {
                slot.stream = None;
                slot.asking.as_mut().map(|a| a.response.closed())
            }
            Ok(count) => {
                let asking = slot.asking.as_mut()?;
                if asking.first_byte == 0 {
                    asking.first_byte = sys::now();
                }
                asking.response.feed(&self.buffer[..count])
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => {
                slot.stream = None;
                slot.asking.as_mut().map(|a| a.response.closed())
            }
        }?;
        let asking = slot.asking.take()?;
        let closes = asking
            .response
            .field("connection")
            .is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if closes || end != End::Whole {
            slot.stream = None;
        }
        let done = sys::now();
        Some(Outcome {
            connection: number,
            intended: asking.intended,
            first_byte: if asking.first_byte == 0 {
                done
            } else {
                asking.first_byte
            },
            done,
            end,
            status: asking.response.status,
            cache_status: asking.response.field("cache-status").map(str::to_owned),
            request_id: asking.response.field("x-request-id").map(str::to_owned),
            policy: asking.response.field("ratelimit-policy").map(str::to_owned),
            x_cache: asking.response.field("x-cache").is_some(),
        })
    }

    /// Clients still waiting for the end of an answer.
    pub fn waiting(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.asking.is_some())
            .count()
    }
}

/// Requests on a schedule, whatever became of those before: `rate` a second for `seconds`, `page(i)` the i-th page.
/// A request that finds no idle connection opens one. Those unanswered `patience` ns after the last are missing.
pub fn open_loop(
    port: u16,
    rate: u64,
    seconds: u64,
    patience: u64,
    page: impl Fn(u64) -> (String, usize),
) -> Vec<Outcome> {
    let mut clients = Clients::new(port);
    let mut idle: Vec<usize> = (0..64).map(|_| clients.add()).collect();
    let mut outcomes = Vec::new();
    let total = rate * seconds;
    let start = sys::now() + 1_000_000;
    let last = start + seconds * 1_000_000_000;
    let mut sent = 0;
    while (outcomes.len() as u64) < total && sys::now() < last + patience {
        let due = |i: u64| start + i * 1_000_000_000 / rate;
        while sent < total && due(sent) <= sys::now() {
            let client = idle.pop().unwrap_or_else(|| clients.add());
            let (path, len) = page(sent);
            clients.ask(client, &path, Body::of(&path, len), due(sent));
            sent += 1;
        }
        clients.poll(1, |outcome| {
            idle.push(outcome.connection);
            outcomes.push(outcome);
        });
    }
    outcomes
}

/// One request on a connection of its own, blocking, at most `patience_ms`.
pub fn fetch(port: u16, path: &str, len: usize, patience_ms: u64) -> Option<Outcome> {
    let mut clients = Clients::new(port);
    let client = clients.add();
    clients.ask(client, path, Body::of(path, len), sys::now());
    let give_up = sys::now() + patience_ms * 1_000_000;
    let mut answer = None;
    while answer.is_none() && sys::now() < give_up {
        clients.poll(10, |outcome| answer = Some(outcome));
    }
    answer
}
