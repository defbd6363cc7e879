//! Clients that stay: slow readers of large objects, and readers of event streams. One thread serves them all.

use super::http::{self, End, Response};
use super::noise::Body;
use super::sys;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);

/// One of them, before it has connected.
pub struct Reader {
    pub path: String,
    /// Body length to expect; `None` for an event stream.
    pub len: Option<usize>,
    /// Bytes it reads each 100 ms.
    pub per_tick: usize,
}

/// How they fared.
#[derive(Default, Debug)]
pub struct Tally {
    /// Answered 200 and still being served, or done, all bytes right.
    pub served: usize,
    /// Of those, how many had the whole object.
    pub whole: usize,
    /// Any other status: an honest refusal.
    pub refused: usize,
    /// 200, then broken off: bytes right as far as they went.
    pub broken: usize,
    /// 200 with other bytes than asked for.
    pub wrong: usize,
    /// No answer at all.
    pub silent: usize,
    pub bytes: u64,
}

pub struct Readers {
    stop: Arc<AtomicBool>,
    begun: Arc<AtomicUsize>,
    thread: JoinHandle<Tally>,
}

impl Readers {
    pub fn start(core: usize, port: u16, readers: Vec<Reader>) -> Readers {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Arc::new(AtomicUsize::new(0));
        let (stopped, counted) = (stop.clone(), begun.clone());
        let thread = std::thread::spawn(move || {
            sys::pin(core);
            let mut seats: Vec<Seat> = readers
                .into_iter()
                .map(|reader| Seat::take(port, reader))
                .collect();
            let mut buffer = vec![0; 64 << 10];
            while !stopped.load(Relaxed) {
                let from = sys::now();
                seats.iter_mut().for_each(|seat| seat.tick(&mut buffer));
                counted.store(
                    seats
                        .iter()
                        .filter(|s| s.response.status != 0 || s.end.is_some())
                        .count(),
                    Relaxed,
                );
                let spent = Duration::from_nanos(sys::now() - from);
                std::thread::sleep(TICK.saturating_sub(spent));
            }
            tally(&seats)
        });
        Readers {
            stop,
            begun,
            thread,
        }
    }

    /// How many have had the head of an answer, or lost their connection.
    pub fn begun(&self) -> usize {
        self.begun.load(Relaxed)
    }

    /// Waits until `count` have begun, at most `patience`.
    pub fn wait_begun(&self, count: usize, patience: Duration) -> bool {
        let until = sys::now() + patience.as_nanos() as u64;
        while self.begun() < count && sys::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.begun() >= count
    }

    pub fn finish(self) -> Tally {
        self.stop.store(true, Relaxed);
        self.thread
            .join()
            .expect("the readers' thread did not panic")
    }
}

struct Seat {
    stream: Option<TcpStream>,
    response: Response,
    per_tick: usize,
    end: Option<End>,
}

impl Seat {
    fn take(port: u16, reader: Reader) -> Seat {
        let stream = sys::connect(port).ok();
        if let Some(mut stream) = stream.as_ref() {
            sys::shrink_receive_buffer(stream, 16 << 10);
            let _ = stream.write_all(&http::get(&reader.path));
        }
        Seat {
            stream,
            response: Response::new(reader.len.map(|len| Body::of(&reader.path, len))),
            per_tick: reader.per_tick,
            end: None,
        }
    }

    fn tick(&mut self, buffer: &mut [u8]) {
        let (Some(stream), None) = (&mut self.stream, self.end) else {
            return;
        };
        let most = self.per_tick.min(buffer.len());
        self.end = match stream.read(&mut buffer[..most]) {
            Ok(0) => Some(self.response.closed()),
            Ok(count) => self.response.feed(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(self.response.closed()),
        };
    }
}

fn tally(seats: &[Seat]) -> Tally {
    let mut tally = Tally::default();
    for seat in seats {
        tally.bytes += seat.response.body_bytes;
        let count = match (seat.response.status, seat.end) {
            (0, _) => &mut tally.silent,
            (200, _) if !seat.response.right_so_far() => &mut tally.wrong,
            (200, Some(End::Broken)) => &mut tally.broken,
            (200, Some(End::Wrong)) => &mut tally.wrong,
            (200, Some(End::Whole)) => {
                tally.whole += 1;
                &mut tally.served
            }
            (200, None) => &mut tally.served,
            _ => &mut tally.refused,
        };
        *count += 1;
    }
    tally
}
