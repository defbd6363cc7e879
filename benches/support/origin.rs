//! The origin: one thread, any number of connections, each answer after its delay, and a count of what is in flight.
//!
//! A request is in flight from the last byte of its head to the last byte of its answer, or to the head of an
//! event stream; from there on it is a stream.

use super::http;
use super::noise::Body;
use super::sys::{self, Epoll};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a path is answered with.
pub enum Plan {
    Page {
        delay: Duration,
        len: usize,
        cache_control: &'static str,
    },
    /// An endless `text/event-stream`, an event each 200 ms.
    Events,
}

/// What the origin does to every request from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    Serve,
    Error500,
    /// Takes the request and resets the connection.
    Reset,
    /// Takes the request and says nothing.
    Hang,
    /// Answers as planned, 30 s later.
    Slow,
}

const MODES: [Mode; 5] = [
    Mode::Serve,
    Mode::Error500,
    Mode::Reset,
    Mode::Hang,
    Mode::Slow,
];
const EVENT: &[u8] = b"data: tick\n\n";
const EVENT_EVERY: u64 = 200_000_000;

/// The counts, shared with the program.
#[derive(Default)]
pub struct Seen {
    mode: AtomicU8,
    stop: AtomicBool,
    pub requests: AtomicU64,
    pub in_flight: AtomicUsize,
    pub in_flight_peak: AtomicUsize,
    pub streams: AtomicUsize,
    /// Per path: requests, and when the last answer began (monotonic nanoseconds).
    pub ledger: Mutex<HashMap<String, (u64, u64)>>,
}

impl Seen {
    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Relaxed);
    }

    pub fn requests_of(&self, path: &str) -> u64 {
        self.ledger().get(path).map_or(0, |entry| entry.0)
    }

    pub fn answered_at(&self, path: &str) -> u64 {
        self.ledger().get(path).map_or(0, |entry| entry.1)
    }

    /// The peak since the last call.
    pub fn take_peak(&self) -> usize {
        self.in_flight_peak
            .swap(self.in_flight.load(Relaxed), Relaxed)
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, HashMap<String, (u64, u64)>> {
        self.ledger
            .lock()
            .expect("the origin's thread did not panic")
    }
}

/// A running origin; dropping it closes every connection and refuses new ones.
pub struct Origin {
    pub port: u16,
    pub seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// `keep_ledger`: whether to count by path, which costs memory for each.
    pub fn start(
        core: usize,
        keep_ledger: bool,
        plan: impl Fn(&str) -> Plan + Send + 'static,
    ) -> Origin {
        let listener = sys::listen(0).expect("a loopback listener");
        let port = listener.local_addr().expect("its address").port();
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        let thread = std::thread::spawn(move || {
            sys::pin(core);
            Loop {
                listener,
                epoll: Epoll::new(),
                connections: Vec::new(),
                due: BinaryHeap::new(),
                seen: shared,
                keep_ledger,
                plan,
                serial: 0,
            }
            .run();
        });
        Origin {
            port,
            seen,
            thread: Some(thread),
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.seen.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a connection is doing. `path` names the request for the ledger.
enum State {
    Reading,
    Waiting {
        path: String,
        plan: Plan,
    },
    Hanging,
    Sending {
        head: Vec<u8>,
        body: Body,
        sent: usize,
    },
    Streaming {
        unsent: Vec<u8>,
    },
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    state: State,
    serial: u64,
    wants_out: bool,
}

const LISTENER: usize = usize::MAX;

struct Loop<P> {
    listener: TcpListener,
    epoll: Epoll,
    /// By file descriptor.
    connections: Vec<Option<Connection>>,
    /// (when, descriptor, serial of the connection it was meant for)
    due: BinaryHeap<Reverse<(u64, usize, u64)>>,
    seen: Arc<Seen>,
    keep_ledger: bool,
    plan: P,
    serial: u64,
}

impl<P: Fn(&str) -> Plan> Loop<P> {
    fn run(&mut self) {
        self.epoll.add(&self.listener, LISTENER, sys::IN);
        let mut ready = Vec::new();
        while !self.seen.stop.load(Relaxed) {
            let timeout = self.due.peek().map_or(20_000_000, |Reverse((at, ..))| {
                at.saturating_sub(sys::now())
            });
            self.epoll
                .wait(timeout.div_ceil(1_000_000).min(20) as i32, &mut ready);
            // Who left goes first: the proxy counts a request as over before it sends the next one.
            for &(token, events) in ready.iter().filter(|(_, events)| events & sys::HANGUP != 0) {
                let _ = events;
                self.close(token);
            }
            for &(token, events) in &ready {
                match token {
                    LISTENER => self.accept(),
                    token if events & sys::IN != 0 => self.read(token),
                    token => self.advance(token),
                }
            }
            self.fire();
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let token = stream.as_raw_fd() as usize;
            if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
                continue;
            }
            self.epoll
                .add(&stream, token, sys::IN | libc::EPOLLRDHUP as u32);
            if self.connections.len() <= token {
                self.connections.resize_with(token + 1, || None);
            }
            self.serial += 1;
            self.connections[token] = Some(Connection {
                stream,
                input: Vec::new(),
                state: State::Reading,
                serial: self.serial,
                wants_out: false,
            });
        }
    }

    fn read(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(token).and_then(Option::as_mut) else {
            return;
        };
        let mut buffer = [0; 16 << 10];
        match connection.stream.read(&mut buffer) {
            Ok(0) => return self.close(token),
            Ok(count) => connection.input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => return self.close(token),
        }
        if connection.input.ends_with(b"\r\n\r\n") && matches!(connection.state, State::Reading) {
            let path = target(&connection.input);
            connection.input.clear();
            self.begin(token, path);
        }
    }

    /// A whole request is here.
    fn begin(&mut self, token: usize, path: String) {
        self.seen.requests.fetch_add(1, Relaxed);
        let now_in_flight = self.seen.in_flight.fetch_add(1, Relaxed) + 1;
        self.seen.in_flight_peak.fetch_max(now_in_flight, Relaxed);
        if self.keep_ledger {
            self.seen.ledger().entry(path.clone()).or_default().0 += 1;
        }
        let mode = MODES[self.seen.mode.load(Relaxed) as usize];
        let plan = (self.plan)(&path);
        let Some(connection) = self.connections[token].as_mut() else {
            return;
        };
        let delay = match (mode, &plan) {
            (Mode::Slow, _) => Duration::from_secs(30),
            (_, Plan::Page { delay, .. }) => *delay,
            (_, Plan::Events) => Duration::ZERO,
        };
        match mode {
            Mode::Reset => {
                self.seen.in_flight.fetch_sub(1, Relaxed);
                if let Some(connection) = self.connections[token].take() {
                    sys::reset(connection.stream);
                }
                return;
            }
            Mode::Hang => {
                connection.state = State::Hanging;
                return;
            }
            Mode::Error500 => {
                let head = format!(
                    "HTTP/1.1 500 Internal Server Error\r\nDate: {}\r\nContent-Length: 0\r\n\r\n",
                    http::date(sys::wall())
                );
                connection.state = State::Sending {
                    head: head.into_bytes(),
                    body: Body::of(&path, 0),
                    sent: 0,
                };
                return self.advance(token);
            }
            Mode::Serve | Mode::Slow => connection.state = State::Waiting { path, plan },
        }
        if delay.is_zero() {
            self.answer(token);
        } else {
            let at = sys::now() + delay.as_nanos() as u64;
            self.due.push(Reverse((at, token, connection.serial)));
        }
    }

    /// Timers that are due: an answer, or the next event of a stream.
    fn fire(&mut self) {
        while let Some(&Reverse((at, token, serial))) = self.due.peek() {
            if at > sys::now() {
                return;
            }
            self.due.pop();
            let connection = self.connections.get_mut(token).and_then(Option::as_mut);
            let Some(connection) = connection.filter(|c| c.serial == serial) else {
                continue;
            };
            if let State::Streaming { unsent } = &mut connection.state {
                if unsent.len() < 1 << 16 {
                    unsent.extend_from_slice(EVENT);
                }
                self.due.push(Reverse((at + EVENT_EVERY, token, serial)));
                self.advance(token);
            } else {
                self.answer(token);
            }
        }
    }

    fn answer(&mut self, token: usize) {
        let Some(connection) = self.connections[token].as_mut() else {
            return;
        };
        let State::Waiting { path, plan } = &connection.state else {
            return;
        };
        let now = sys::now();
        if self.keep_ledger {
            self.seen.ledger().entry(path.clone()).or_default().1 = now;
        }
        let date = http::date(sys::wall());
        connection.state = match plan {
            Plan::Page {
                len, cache_control, ..
            } => State::Sending {
                head: format!(
                    "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: text/html; charset=utf-8\r\n\
                     Content-Length: {len}\r\nCache-Control: {cache_control}\r\n\r\n"
                )
                .into_bytes(),
                body: Body::of(path, *len),
                sent: 0,
            },
            Plan::Events => {
                self.seen.in_flight.fetch_sub(1, Relaxed);
                self.seen.streams.fetch_add(1, Relaxed);
                self.due
                    .push(Reverse((now + EVENT_EVERY, token, connection.serial)));
                State::Streaming {
                    unsent: format!(
                        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: text/event-stream\r\n\
                         Cache-Control: no-store\r\nConnection: close\r\n\r\n"
                    )
                    .into_bytes(),
                }
            }
        };
        self.advance(token);
    }

    /// Writes what the connection has to write, as far as it goes.
    fn advance(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(token).and_then(Option::as_mut) else {
            return;
        };
        loop {
            let written = match &mut connection.state {
                State::Sending { head, body, sent } => {
                    if *sent == head.len() + body.len {
                        connection.state = State::Reading;
                        self.seen.in_flight.fetch_sub(1, Relaxed);
                        break;
                    }
                    let slices = body.slices(head, *sent);
                    connection
                        .stream
                        .write_vectored(&slices)
                        .inspect(|count| *sent += count)
                }
                State::Streaming { unsent } if !unsent.is_empty() => connection
                    .stream
                    .write(unsent)
                    .inspect(|&count| drop(unsent.drain(..count))),
                _ => break,
            };
            match written {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !connection.wants_out {
                        connection.wants_out = true;
                        let events = sys::IN | sys::OUT | libc::EPOLLRDHUP as u32;
                        self.epoll.change(&connection.stream, token, events);
                    }
                    return;
                }
                Err(_) => return self.close(token),
            }
        }
        if connection.wants_out {
            connection.wants_out = false;
            self.epoll
                .change(&connection.stream, token, sys::IN | libc::EPOLLRDHUP as u32);
        }
    }

    fn close(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(token).and_then(Option::take) else {
            return;
        };
        match connection.state {
            State::Reading => {}
            State::Streaming { .. } => drop(self.seen.streams.fetch_sub(1, Relaxed)),
            State::Waiting { .. } | State::Hanging | State::Sending { .. } => {
                self.seen.in_flight.fetch_sub(1, Relaxed);
            }
        }
    }
}

/// The target of a request head.
fn target(head: &[u8]) -> String {
    let word = head.split(|&b| b == b' ').nth(1).unwrap_or_default();
    String::from_utf8_lossy(word).into_owned()
}
