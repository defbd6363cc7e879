//! The load: 64 keep-alive connections, each with its next request as soon as it has its answer. Every answer's status
//! and length are checked, and the bytes of one in sixteen.

use super::support::http::{self, Response};
use super::support::noise::Body;
use super::support::process::Server;
use super::support::sys::{self, Epoll};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

const CONNECTIONS: usize = 64;
const WARM_UP: u64 = 100_000_000;

/// One run's figures.
#[derive(Clone, Copy)]
pub struct Sample {
    pub requests: u64,
    /// CPU microseconds of the server's processes a request.
    pub cpu_us: f64,
    pub per_second: f64,
    /// Share of the time that the server and that this generator were on a CPU.
    pub server_share: f64,
    pub generator_share: f64,
}

struct Connection {
    stream: TcpStream,
    /// A head that has not come whole.
    head: Vec<u8>,
    /// Body bytes read; `None` while in the head.
    at: Option<usize>,
    answers: u64,
}

/// Runs the load against a server for `nanoseconds` and accounts for it.
pub fn run(
    server: &Server,
    port: u16,
    path: &str,
    body: Body,
    nanoseconds: u64,
) -> Result<Sample, String> {
    let request = http::get(path);
    let epoll = Epoll::new();
    let mut connections = Vec::new();
    for number in 0..CONNECTIONS {
        let mut stream = sys::connect(port).map_err(|e| e.to_string())?;
        epoll.add(&stream, number, sys::IN);
        stream.write_all(&request).map_err(|e| e.to_string())?;
        connections.push(Connection {
            stream,
            head: Vec::new(),
            at: None,
            answers: number as u64,
        });
    }
    let mut load = Load {
        epoll,
        connections,
        buffer: vec![0; 256 << 10],
        request,
        body,
        answered: 0,
    };
    load.until(sys::now() + WARM_UP)?;

    let (cpu, own, answered, start) = (server.cpu(), sys::thread_cpu(), load.answered, sys::now());
    load.until(start + nanoseconds)?;
    let (cpu, own) = (server.cpu().since(&cpu), sys::thread_cpu() - own);
    let took = (sys::now() - start) as f64;
    let requests = load.answered - answered;
    Ok(Sample {
        requests,
        cpu_us: cpu as f64 / 1e3 / requests as f64,
        per_second: requests as f64 / took * 1e9,
        server_share: cpu as f64 / took,
        generator_share: own as f64 / took,
    })
}

struct Load {
    epoll: Epoll,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    request: Vec<u8>,
    body: Body,
    answered: u64,
}

impl Load {
    fn until(&mut self, end: u64) -> Result<(), String> {
        let mut ready = Vec::new();
        let mut silent_since = sys::now();
        loop {
            let now = sys::now();
            if now >= end {
                return Ok(());
            }
            // It never sleeps: a server would pay for waking it, the more the faster it is, and in the field its clients are
            // on other machines.
            self.epoll.wait(0, &mut ready);
            if !ready.is_empty() {
                silent_since = now;
            } else if now - silent_since > 2_000_000_000 {
                return Err("no answer for 2 s".into());
            }
            for &(number, _) in &ready {
                self.read(number)?;
            }
        }
    }

    fn read(&mut self, number: usize) -> Result<(), String> {
        let connection = &mut self.connections[number];
        let count = match connection.stream.read(&mut self.buffer) {
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let mut bytes = &self.buffer[..count];
        if connection.at.is_none() {
            let joined;
            if !connection.head.is_empty() {
                connection.head.extend_from_slice(bytes);
                joined = std::mem::take(&mut connection.head);
                bytes = &joined;
            }
            let Some(head_len) = head_len(bytes, self.body.len)? else {
                connection.head = bytes.to_vec();
                return Ok(());
            };
            let rest = &bytes[head_len..];
            connection.at = Some(0);
            return Self::take_body(
                connection,
                rest,
                &self.body,
                &self.request,
                &mut self.answered,
            );
        }
        Self::take_body(
            connection,
            bytes,
            &self.body,
            &self.request,
            &mut self.answered,
        )
    }

    fn take_body(
        connection: &mut Connection,
        bytes: &[u8],
        body: &Body,
        request: &[u8],
        answered: &mut u64,
    ) -> Result<(), String> {
        let at = connection.at.unwrap_or(0);
        if connection.answers.is_multiple_of(16) && !body.agrees(at, bytes) {
            return Err("an answer had other bytes than the page".into());
        }
        let at = at + bytes.len();
        connection.at = Some(at);
        if at < body.len {
            return Ok(());
        }
        if at > body.len {
            return Err("an answer was longer than the page".into());
        }
        connection.at = None;
        connection.answers += 1;
        *answered += 1;
        connection
            .stream
            .write_all(request)
            .map_err(|e| e.to_string())
    }
}

/// The length of a head that says 200 and the right Content-Length; `None` if it is not whole yet.
fn head_len(bytes: &[u8], body_len: usize) -> Result<Option<usize>, String> {
    let mut at = 0;
    let mut length = None;
    while let Some(line_len) = bytes[at..].iter().position(|&b| b == b'\n') {
        let line = &bytes[at..at + line_len];
        at += line_len + 1;
        if line.len() <= 1 {
            let status = bytes.get(9..12).unwrap_or_default();
            if status != b"200" || length != Some(body_len) {
                return Err(format!(
                    "an answer was not the page: {}",
                    String::from_utf8_lossy(&bytes[..at])
                ));
            }
            return Ok(Some(at));
        }
        if line.len() > 15
            && line[0] | 32 == b'c'
            && line[..15].eq_ignore_ascii_case(b"content-length:")
        {
            length = str::from_utf8(&line[15..])
                .ok()
                .and_then(|v| v.trim().parse().ok());
        }
    }
    Ok(None)
}

/// One answer, whole: (head and body as bytes) for the ceiling to repeat.
pub fn one_answer(port: u16, path: &str, body: Body) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    let timeout = Some(std::time::Duration::from_secs(5));
    stream
        .set_read_timeout(timeout)
        .map_err(|e| e.to_string())?;
    stream
        .write_all(&http::get(path))
        .map_err(|e| e.to_string())?;
    let mut response = Response::new(Some(body));
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut buffer).map_err(|e| e.to_string())?;
        let end = match count {
            0 => Some(response.closed()),
            _ => response.feed(&buffer[..count]),
        };
        match end {
            None => {}
            Some(http::End::Whole) if response.status == 200 => {
                return Ok([response.head, body.to_vec()].concat());
            }
            Some(end) => return Err(format!("{path}: status {}, {end:?}", response.status)),
        }
    }
}
