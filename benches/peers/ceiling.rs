//! The ceiling: an epoll loop that answers from a constant, one recv and one send a request. Nothing that reads a
//! request can cost less.
//!
//! It runs as a process of its own (this program with `ceiling` as its first word), so that it is accounted for as the others are.

use super::support::sys::{self, Epoll};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The word that makes this program the ceiling.
pub const ROLE: &str = "ceiling";

const LISTENER: usize = usize::MAX;

struct Client {
    stream: TcpStream,
    /// Which answer, and how much of it is sent.
    answer: usize,
    sent: usize,
}

/// Serves the answers in `folder` (0, 1, 2: by the size that the target names) on `port`, without end.
pub fn serve(port: u16, folder: &Path) {
    let answers = [0, 1, 2]
        .map(|i| fs::read(folder.join(format!("answer-{i}"))).expect("the answers were written"));
    let listener = sys::listen(port).expect("the port is free");
    let mut epoll = Epoll::new();
    epoll.add(&listener, LISTENER, sys::IN);
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut ready = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        epoll.wait(-1, &mut ready);
        for &(token, events) in &ready {
            if token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    let token = stream.as_raw_fd() as usize;
                    let _ = stream.set_nonblocking(true);
                    let _ = stream.set_nodelay(true);
                    epoll.add(&stream, token, sys::IN | sys::OUT | sys::EDGE);
                    clients.resize_with(clients.len().max(token + 1), || None);
                    clients[token] = Some(Client {
                        stream,
                        answer: 0,
                        sent: answers[0].len(),
                    });
                }
                continue;
            }
            let Some(client) = clients[token].as_mut() else {
                continue;
            };
            let mut alive = true;
            if events & sys::IN != 0 {
                match client.stream.read(&mut buffer) {
                    Ok(count) if count > 8 => {
                        client.answer = answer_for(&buffer);
                        client.sent = 0;
                    }
                    Ok(_) => alive = false,
                    Err(error) => alive = error.kind() == std::io::ErrorKind::WouldBlock,
                }
            }
            let answer = &answers[client.answer];
            while alive && client.sent < answer.len() {
                match client.stream.write(&answer[client.sent..]) {
                    Ok(count) => client.sent += count,
                    Err(error) => {
                        alive = error.kind() == std::io::ErrorKind::WouldBlock;
                        break;
                    }
                }
            }
            if !alive {
                clients[token] = None;
            }
        }
    }
}

/// `GET /1k`, `GET /10k` or `GET /100k`.
fn answer_for(request: &[u8]) -> usize {
    match (request[6], request[7]) {
        (b'k', _) => 0,
        (_, b'k') => 1,
        _ => 2,
    }
}
