//! What all answers have in common: the lines of their heads that are not the page's own, and where they are written.

use std::cell::RefCell;
use std::ops::Range;

use bytes::BufMut;

use super::asking::Noted;
use crate::cache::entry::Head;
use crate::rules::cache_status::Told;
use crate::rules::{decimal, range};

/// What a head takes at first.
const LINES: usize = 1024;
/// Buffers kept per worker.
const POOLED: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of the worker's, given back when dropped.
pub struct Lines(pub Vec<u8>);

impl Lines {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn take() -> Lines {
        Lines(
            POOL.with_borrow_mut(Vec::pop)
                .unwrap_or_else(|| Vec::with_capacity(LINES)),
        )
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let mut lines = std::mem::take(&mut self.0);
        if lines.capacity() <= 16 * LINES {
            lines.clear();
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED {
                    pool.push(lines);
                }
            });
        }
    }
}

/// The lines every answer gets: what is left of a limit, its id, and what becomes of the connection. Where in `out` the id
/// begins.
pub fn common_lines(noted: &Noted, close: bool, out: &mut Vec<u8>) -> usize {
    noted.admission.lines(out);
    id_lines(noted, close, out)
}

/// The same without a word of limits.
pub fn id_lines(noted: &Noted, close: bool, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(b"X-Request-Id: ");
    let id_at = out.len();
    out.extend_from_slice(noted.id.as_bytes());
    out.extend_from_slice(b"\r\n");
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if noted.http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    id_at
}

/// An answer's age, and how it was come by.
pub fn told_lines(age: u64, told: &Told<'_>, x_cache: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Age: ");
    decimal::write(age, out);
    out.extend_from_slice(b"\r\nCache-Status: ");
    told.write(out);
    out.extend_from_slice(b"\r\n");
    if x_cache {
        out.extend_from_slice(b"X-Cache: ");
        out.extend_from_slice(told.x_cache().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The last lines of a part of a page.
pub fn range_lines(range: &Range<u64>, size: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Range: ");
    range::content_range(range, size, out);
    out.extend_from_slice(
        format!("\r\nContent-Length: {}\r\n\r\n", range.end - range.start).as_bytes(),
    );
}

/// The stored field lines whose lower-case names `keep` wants.
pub fn filtered(head: &Head, keep: impl Fn(&str) -> bool, out: &mut impl BufMut) {
    for line in head.fields().split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if std::str::from_utf8(name).is_ok_and(|name| keep(&name.to_ascii_lowercase())) {
            out.put_slice(line);
        }
    }
}

/// Whether an answer of this status has a body, and so a length (RFC 9110 §6.4.1, §8.6).
pub fn has_body(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

/// How a client knows where a body ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    /// HTTP/1.0: until the connection ends.
    Close,
    /// Another protocol's business from here on.
    Upgrade,
}

impl Framing {
    /// For an answer with this status and body length to this client.
    pub fn of(status: u16, length: Option<u64>, head_only: bool, http10: bool) -> Framing {
        match length {
            _ if status == 101 => Framing::Upgrade,
            _ if !has_body(status) => Framing::None,
            Some(length) => Framing::Length(length),
            None if head_only => Framing::None,
            None if http10 => Framing::Close,
            None => Framing::Chunked,
        }
    }
}

/// The lines between an answer's own head and its body.
pub struct Between<'a> {
    /// As `Age`, if there is one to tell.
    pub age: Option<u64>,
    pub told: &'a Told<'a>,
    pub x_cache: bool,
    pub close: bool,
    pub framing: Framing,
    /// The bytes sent, of how many.
    pub range: Option<(Range<u64>, u64)>,
}

/// The head of an answer that is still on its way, from its status line to its empty line.
pub fn head(noted: &Noted, start: &[u8], between: &Between<'_>) -> Lines {
    let mut lines = Lines::take();
    let out = &mut lines.0;
    out.extend_from_slice(start);
    if let Some(age) = between.age {
        out.extend_from_slice(b"Age: ");
        decimal::write(age, out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"Cache-Status: ");
    between.told.write(out);
    out.extend_from_slice(b"\r\n");
    if between.x_cache {
        out.extend_from_slice(format!("X-Cache: {}\r\n", between.told.x_cache()).as_bytes());
    }
    match between.framing {
        Framing::Upgrade => {
            out.extend_from_slice(b"Connection: upgrade\r\n\r\n");
            return lines;
        }
        _ => {
            common_lines(noted, between.close, out);
        }
    }
    match (&between.range, between.framing) {
        (Some((range, size)), _) => range_lines(range, *size, out),
        (_, Framing::Length(length)) => {
            out.extend_from_slice(format!("Content-Length: {length}\r\n\r\n").as_bytes())
        }
        (_, Framing::Chunked) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n"),
        _ => out.extend_from_slice(b"\r\n"),
    }
    lines
}
