//! The load: 64 keep-alive connections, each with its next request as soon as it has its answer. Every answer's status and
//! length are checked.

use super::support::http;
use super::support::process::Server;
use super::support::sys::{self, Epoll};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

const CONNECTIONS: usize = 64;
const WARM_UP: u64 = 100_000_000;

/// CPU microseconds of the server a request, and the share of the time that it was on a CPU.
#[derive(Clone, Copy)]
pub struct Sample {
    pub cpu_us: f64,
    pub share: f64,
}

pub fn run(
    server: &Server,
    port: u16,
    path: &str,
    status: u16,
    nanoseconds: u64,
) -> Result<Sample, String> {
    let request = http::get(path);
    let mut epoll = Epoll::new();
    let mut connections = Vec::new();
    for number in 0..CONNECTIONS {
        let mut stream = sys::connect(port).map_err(|e| e.to_string())?;
        epoll.add(&stream, number, sys::IN);
        stream.write_all(&request).map_err(|e| e.to_string())?;
        connections.push((stream, Vec::new()));
    }
    let mut answered = 0;
    until(
        &mut epoll,
        &mut connections,
        &request,
        status,
        WARM_UP,
        &mut answered,
    )?;
    let (cpu, before, began) = (server.cpu(), answered, sys::now());
    until(
        &mut epoll,
        &mut connections,
        &request,
        status,
        nanoseconds,
        &mut answered,
    )?;
    let cpu = server.cpu().since(&cpu) as f64;
    Ok(Sample {
        cpu_us: cpu / 1e3 / (answered - before) as f64,
        share: cpu / (sys::now() - began) as f64,
    })
}

fn until(
    epoll: &mut Epoll,
    connections: &mut [(TcpStream, Vec<u8>)],
    request: &[u8],
    status: u16,
    nanoseconds: u64,
    answered: &mut u64,
) -> Result<(), String> {
    let end = sys::now() + nanoseconds;
    let mut ready = Vec::new();
    let mut buffer = [0; 16 << 10];
    while sys::now() < end {
        // It never sleeps: a server would pay for waking it.
        epoll.wait(0, &mut ready);
        for &(number, _) in &ready {
            let (stream, held) = &mut connections[number];
            let count = match stream.read(&mut buffer) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.to_string()),
            };
            held.extend_from_slice(&buffer[..count]);
            if is_whole(held, status)? {
                held.clear();
                *answered += 1;
                stream.write_all(request).map_err(|e| e.to_string())?;
            }
        }
    }
    Ok(())
}

/// Whether it is one whole answer, and nothing else.
fn is_whole(bytes: &[u8], status: u16) -> Result<bool, String> {
    let Some(head) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(false);
    };
    let shown = || String::from_utf8_lossy(&bytes[..head]).into_owned();
    if bytes.get(9..12) != Some(status.to_string().as_bytes()) {
        return Err(format!("should be {status}: {}", shown()));
    }
    let name = b"Content-Length: ";
    let at = memchr::memmem::find(&bytes[..head], name).ok_or_else(shown)?;
    let digits = bytes[at + name.len()..].split(|byte| *byte == b'\r').next();
    let length = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let length: usize = length.ok_or_else(shown)?;
    Ok(bytes.len() == head + 4 + length)
}

/// One answer, whole: head and body.
pub fn one_answer(port: u16, path: &str, status: u16) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    let patience = std::time::Duration::from_secs(5);
    stream
        .set_read_timeout(Some(patience))
        .map_err(|e| e.to_string())?;
    stream
        .write_all(&http::get(path))
        .map_err(|e| e.to_string())?;
    let (mut held, mut buffer) = (Vec::new(), [0; 16 << 10]);
    while !is_whole(&held, status)? {
        match stream.read(&mut buffer).map_err(|e| e.to_string())? {
            0 => return Err("the end instead of an answer".into()),
            count => held.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(held)
}
