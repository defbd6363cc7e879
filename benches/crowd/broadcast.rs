//! The least a server can do for a crowd: take every request, wait for one timer, write the same bytes to all.

use super::support::noise::Body;
use super::support::sys::{self, Epoll};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Broadcast {
    pub port: u16,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Broadcast {
    /// Answers with the body of the path of the round's first request, `delay` after that came.
    pub fn start(core: usize, delay: Duration, len: usize) -> Broadcast {
        let listener = sys::listen(0).expect("a loopback listener");
        let port = listener.local_addr().expect("its address").port();
        let answered = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (moment, stopped) = (answered.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            sys::pin(core);
            serve(&listener, delay, len, &moment, &stopped);
        });
        Broadcast {
            port,
            answered,
            stop,
            thread: Some(thread),
        }
    }

    /// When the last round's timer ended, monotonic nanoseconds.
    pub fn answered_at(&self) -> u64 {
        self.answered.load(Relaxed)
    }
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const LISTENER: usize = usize::MAX;

fn serve(
    listener: &TcpListener,
    delay: Duration,
    len: usize,
    answered: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut epoll = Epoll::new();
    epoll.add(listener, LISTENER, sys::IN);
    let mut clients: Vec<Option<TcpStream>> = Vec::new();
    let mut waiting: Vec<usize> = Vec::new();
    let mut timer: Option<(u64, Vec<u8>)> = None;
    let mut ready = Vec::new();
    let mut buffer = [0; 4096];
    while !stop.load(Relaxed) {
        let left = timer
            .as_ref()
            .map_or(20_000_000, |(at, _)| at.saturating_sub(sys::now()));
        epoll.wait(left.div_ceil(1_000_000).min(20) as i32, &mut ready);
        for &(token, _) in &ready {
            if token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    let token = stream.as_raw_fd() as usize;
                    let _ = stream.set_nonblocking(true);
                    epoll.add(&stream, token, sys::IN);
                    clients.resize_with(clients.len().max(token + 1), || None);
                    clients[token] = Some(stream);
                }
                continue;
            }
            let Some(stream) = clients[token].as_mut() else {
                continue;
            };
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    waiting.push(token);
                    timer.get_or_insert_with(|| {
                        (
                            sys::now() + delay.as_nanos() as u64,
                            answer(&buffer[..count], len),
                        )
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => clients[token] = None,
            }
        }
        if timer.as_ref().is_some_and(|(at, _)| *at <= sys::now())
            && let Some((_, bytes)) = timer.take()
        {
            answered.store(sys::now(), Relaxed);
            for token in waiting.drain(..) {
                if let Some(stream) = clients[token].as_mut() {
                    let _ = stream.write_all(&bytes);
                }
            }
        }
    }
}

fn answer(request: &[u8], len: usize) -> Vec<u8> {
    let target = request.split(|&b| b == b' ').nth(1).unwrap_or_default();
    let body = Body::of(&String::from_utf8_lossy(target), len);
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len}\r\n\r\n"
    )
    .into_bytes();
    bytes.extend(body.to_vec());
    bytes
}
