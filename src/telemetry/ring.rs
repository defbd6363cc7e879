//! The bounded way from the road to a log: each thread writes lines into a buffer of its own, one
//! writer thread collects them and writes.
//!
//! A buffer ("lane") is locked by its thread for one line and by the writer for the exchange of two
//! pointers, twenty times a second: the lock is all but never contended, and the road makes no
//! allocation and no system call, but for waking the writer once every 128 KiB, or from its sleep.
//! A lane that is full drops the line and counts it; nothing waits for a log. An idle writer sleeps
//! until the next line wakes it.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::sink::{Output, PATIENCE, Sink};

/// What a lane holds at most.
const LANE_BYTES: usize = 1 << 20;
/// From here on the writer is woken before its time.
const WAKE_BYTES: usize = LANE_BYTES / 8;
/// How long the writer lets lines gather.
const GATHER: Duration = Duration::from_millis(50);

/// Lines on their way to one output.
pub struct Ring {
    shared: Arc<Shared>,
    writer: Thread,
}

struct Shared {
    id: u64,
    lanes: Mutex<Lanes>,
    /// The writer has seen all lanes empty; who pushes next must wake it. Written before the writer
    /// locks each lane a last time and read after a lane was locked to push, so the locks order it:
    /// either the writer sees the line, or its pusher sees the flag.
    asleep: AtomicBool,
    closing: AtomicBool,
    dropped: AtomicU64,
    finished: Mutex<bool>,
    finishing: Condvar,
}

#[derive(Default)]
struct Lanes {
    all: Vec<Arc<Lane>>,
    closed: bool,
}

struct Lane(Mutex<Pending>);

struct Pending {
    /// As long as a lane; what was not written yet costs nothing.
    room: Vec<u8>,
    filled: usize,
    closed: bool,
}

/// Room for one line.
pub struct Line<'a> {
    room: &'a mut [u8],
    len: usize,
    /// More was given than there is room for.
    torn: bool,
}

impl<'a> Line<'a> {
    pub fn new(room: &'a mut [u8]) -> Line<'a> {
        Line {
            room,
            len: 0,
            torn: false,
        }
    }

    /// Appends `bytes`. A line that they don't fit into is none any more.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        let room = self.room.get_mut(self.len..).unwrap_or_default();
        if let Some(room) = room.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        } else {
            self.torn = true;
        }
    }

    /// Bytes it has so far.
    pub fn written(&self) -> usize {
        self.len
    }

    /// Takes back what was appended since it was `len` long.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Lane {
    /// For the writer: while it waits for the lock it is not in the lock's queue, so that the road
    /// need not wake it on letting go.
    fn lock_standing_back(&self) -> MutexGuard<'_, Pending> {
        loop {
            match self.0.try_lock() {
                Some(pending) => return pending,
                None => thread::yield_now(),
            }
        }
    }
}

thread_local! {
    /// This thread's lanes, by the ring's id.
    static MINE: RefCell<Vec<(u64, Arc<Lane>)>> = const { RefCell::new(Vec::new()) };
}

impl Ring {
    /// Opens the output and starts its writer.
    ///
    /// # Errors
    /// A file that cannot be opened, a thread that cannot be had.
    pub fn start(output: &Output) -> io::Result<Ring> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut sink = Sink::open(output)?;
        let shared = Arc::new(Shared {
            id: NEXT.fetch_add(1, Relaxed),
            lanes: Mutex::default(),
            asleep: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            finished: Mutex::new(false),
            finishing: Condvar::new(),
        });
        let writing = shared.clone();
        let thread = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writing.write_until_closed(&mut sink))?;
        Ok(Ring {
            shared,
            writer: thread.thread().clone(),
        })
    }

    /// Has `format` write one line, with its line feed, into `most` bytes; one that needs more is
    /// dropped. It is not called when there is no room, and must not push to a ring itself.
    pub fn push(&self, most: usize, format: impl FnOnce(&mut Line<'_>)) {
        let wake = MINE.try_with(|mine| {
            let mut mine = mine.try_borrow_mut().ok()?;
            let at = match mine.iter().position(|(id, _)| *id == self.shared.id) {
                Some(at) => at,
                None => {
                    mine.retain(|(_, lane)| !lane.0.lock().closed);
                    mine.push((self.shared.id, self.shared.new_lane()));
                    mine.len() - 1
                }
            };
            let mut pending = mine[at].1.0.lock();
            let before = pending.filled;
            if pending.closed {
                return None;
            }
            let mut line = Line::new(pending.room.get_mut(before..before + most)?);
            format(&mut line);
            if line.torn {
                return None;
            }
            let filled = before + line.written();
            pending.filled = filled;
            Some(before < WAKE_BYTES && filled >= WAKE_BYTES)
        });
        match wake {
            Ok(Some(wake)) => {
                if wake
                    || (self.shared.asleep.load(Relaxed) && self.shared.asleep.swap(false, Relaxed))
                {
                    self.writer.unpark();
                }
            }
            // Full, closed, too long, or the thread is on its way out.
            Ok(None) | Err(_) => self.shared.lost(1),
        }
    }

    /// Counts a line that was too long to be pushed.
    pub fn drop_one(&self) {
        self.shared.lost(1);
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Writes out everything pushed before, then drops and counts what comes after. False if that
    /// took longer than `patience`.
    pub fn close(&self, patience: Duration) -> bool {
        self.shared.closing.store(true, Relaxed);
        self.writer.unpark();
        let mut finished = self.shared.finished.lock();
        if !*finished {
            self.shared.finishing.wait_for(&mut finished, patience);
        }
        *finished
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.close(PATIENCE);
    }
}

impl Shared {
    fn new_lane(&self) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        let lane = Arc::new(Lane(Mutex::new(Pending {
            room: vec![0; if lanes.closed { 0 } else { LANE_BYTES }],
            filled: 0,
            closed: lanes.closed,
        })));
        lanes.all.push(lane.clone());
        lane
    }

    fn lost(&self, lines: u64) {
        self.dropped.fetch_add(lines, Relaxed);
    }

    fn write_until_closed(&self, sink: &mut Sink) {
        let mut lines = vec![0; LANE_BYTES];
        loop {
            let closing = self.closing.load(Relaxed);
            if self.collect(&mut lines, sink, closing) == 0 && !closing {
                self.asleep.store(true, Relaxed);
                if self.collect(&mut lines, sink, false) == 0 {
                    thread::park();
                }
                self.asleep.store(false, Relaxed);
            } else if !closing {
                thread::park_timeout(GATHER);
            }
            if closing {
                break;
            }
        }
        *self.finished.lock() = true;
        self.finishing.notify_all();
    }

    /// Writes what the lanes hold, and gives back how many bytes that was.
    fn collect(&self, lines: &mut Vec<u8>, sink: &mut Sink, close: bool) -> usize {
        let mut lanes = {
            let mut lanes = self.lanes.lock();
            lanes.closed |= close;
            // Lanes whose thread is gone, once they are empty.
            lanes
                .all
                .retain(|lane| Arc::strong_count(lane) > 1 || lane.0.lock().filled > 0);
            lanes.all.clone()
        };
        let mut bytes = 0;
        for lane in &mut lanes {
            let filled = {
                let mut pending = lane.lock_standing_back();
                pending.closed |= close;
                if pending.filled > 0 {
                    std::mem::swap(&mut pending.room, lines);
                }
                std::mem::take(&mut pending.filled)
            };
            if filled > 0 {
                bytes += filled;
                self.lost(sink.write(&lines[..filled]));
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read};
    use std::os::fd::AsRawFd;

    const AMPLE: Duration = Duration::from_secs(10);

    fn push(ring: &Ring, line: &str) {
        ring.push(line.len() + 1, |out| {
            out.put(line.as_bytes());
            out.put(b"\n");
        });
    }

    /// A ring into a pipe. The writing end given back is the test's own, to be dropped for the
    /// reader to see an end.
    fn piped() -> (Ring, PipeReader, PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        (
            Ring::start(&Output::File(path.into())).unwrap(),
            reader,
            writer,
        )
    }

    #[test]
    fn no_line_of_many_threads_is_lost_torn_or_out_of_its_threads_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let ring = Arc::new(Ring::start(&Output::File(path.clone())).unwrap());
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let ring = ring.clone();
                // Short of a lane, so that none is dropped however late the writer is.
                thread::spawn(move || {
                    for line in 0..10_000 {
                        push(&ring, &format!("{thread} {line} {}", "x".repeat(line % 64)));
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert!(ring.close(AMPLE));
        assert_eq!(ring.dropped(), 0);

        let mut next = [0; 8];
        for text in std::fs::read_to_string(&path).unwrap().lines() {
            let words: Vec<&str> = text.split(' ').collect();
            let (thread, line): (usize, usize) =
                (words[0].parse().unwrap(), words[1].parse().unwrap());
            assert_eq!(words[2], "x".repeat(line % 64));
            assert_eq!(line, next[thread]);
            next[thread] += 1;
        }
        assert_eq!(next, [10_000; 8]);
    }

    #[test]
    fn a_line_shows_soon_without_closing_also_after_a_rest() {
        let (ring, reader, _writer) = piped();
        let mut lines = BufReader::new(reader).lines();
        for round in ["first", "second", "third"] {
            let before = clock::instant();
            push(&ring, round);
            assert_eq!(lines.next().unwrap().unwrap(), round);
            // 50 ms and room for a busy machine; the point is that nothing else had to happen.
            assert!(before.elapsed() < Duration::from_secs(2));
            while !ring.shared.asleep.load(Relaxed) {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn a_full_lane_drops_and_counts_and_nothing_waits() {
        let (ring, mut reader, writer) = piped();
        let pushed = 40_000;
        for line in 0..pushed {
            // 4 MB, of which nobody reads any yet.
            push(&ring, &format!("{line:0>99}"));
        }
        let dropped = ring.dropped();
        assert!(dropped > 0);
        let mut text = String::new();
        drop(writer);
        thread::scope(|threads| {
            threads.spawn(|| reader.read_to_string(&mut text).unwrap());
            assert!(ring.close(AMPLE));
            drop(ring);
        });
        assert!(text.lines().all(|line| line.len() == 99));
        assert_eq!(text.lines().count() as u64 + dropped, pushed);
    }

    #[test]
    fn a_line_longer_than_it_said_is_dropped_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let ring = Ring::start(&Output::File(path.clone())).unwrap();
        push(&ring, "before");
        ring.push(5, |out| {
            out.put(b"long");
            out.put(b"er");
            out.put(b"\n");
        });
        push(&ring, "after");
        assert!(ring.close(AMPLE));
        assert_eq!(ring.dropped(), 1);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }

    #[test]
    fn c87_a_full_disk_drops_and_counts() {
        let ring = Ring::start(&Output::File("/dev/full".into())).unwrap();
        (0..100).for_each(|_| push(&ring, "line"));
        assert!(ring.close(AMPLE));
        assert_eq!(ring.dropped(), 100);
    }

    #[test]
    fn after_closing_lines_are_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let ring = Ring::start(&Output::File(path.clone())).unwrap();
        push(&ring, "before");
        assert!(ring.close(AMPLE));
        push(&ring, "after");
        thread::scope(|threads| {
            threads.spawn(|| push(&ring, "after, from a new thread"));
        });
        assert_eq!(ring.dropped(), 2);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\n");
    }

    #[test]
    fn closing_does_not_wait_for_a_reader_that_does_not_read() {
        let (ring, reader, writer) = piped();
        (0..5_000).for_each(|line| push(&ring, &format!("{line:0>99}")));
        assert!(!ring.close(Duration::from_millis(20)));
        drop((reader, writer));
    }

    #[test]
    fn a_thread_that_ends_leaves_its_lines_and_no_lane() {
        let (ring, reader, _writer) = piped();
        let mut lines = BufReader::new(reader).lines();
        thread::scope(|threads| {
            threads.spawn(|| push(&ring, "from a thread"));
        });
        assert_eq!(lines.next().unwrap().unwrap(), "from a thread");
        push(&ring, "from another");
        assert_eq!(lines.next().unwrap().unwrap(), "from another");
        while ring.shared.lanes.lock().all.len() > 1 {
            thread::yield_now();
        }
    }
}
