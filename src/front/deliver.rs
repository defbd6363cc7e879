//! Answers on the wire: from memory, and from a flight as it fills.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};

use super::asking::Noted;
use super::h1::{Conn, Next};
use super::lookup::{Hit, Miss};
use super::miss;
use super::part::Part;
use super::problem::Problem;
use super::record::Outcome;
use super::wire::SLICE;
use crate::cache::entry::{Entry, Head, write_status_line};
use crate::cache::flight::{Answer, Failure, Reader, Sharing};
use crate::clock;
use crate::rules::cache_status::Told;
use crate::rules::range::{self, Multipart};
use crate::rules::time::Moment;
use crate::rules::{conditional, fresh};
use crate::telemetry::{CacheResult, ids};

/// The part between head and body is written here; one buffer a worker.
const LINES: usize = 1024;
/// Buffers kept per worker.
const POOLED: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of the worker's, given back when dropped.
pub struct Lines(Vec<u8>);

impl Lines {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Lines {
    fn take() -> Lines {
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

/// The lines every answer gets: its id, and what becomes of the connection.
pub fn common_lines(noted: &Noted, close: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Request-Id: ");
    out.extend_from_slice(noted.id.as_bytes());
    out.extend_from_slice(b"\r\n");
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if noted.http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
}

/// Serves a hit.
///
/// # Errors
/// The client's connection failed.
pub async fn hit(conn: &mut Conn, noted: &Noted, hit: Hit) -> io::Result<Outcome> {
    let told = match hit.detail {
        Some(detail) => Told::stale(hit.ttl, detail),
        None => Told::hit(hit.ttl),
    };
    let told = Told {
        key: hit.key.as_deref(),
        ..told
    };
    let at = clock::moment_at(noted.began);
    let page = Page {
        entry: &hit.entry,
        part: &hit.part,
        told: &told,
        x_cache: hit.route.x_cache,
        at,
    };
    let (bytes, status, next) = send_page(conn, noted, page).await?;
    Ok(Outcome {
        status,
        bytes,
        result: hit.result,
        route: Some(hit.route),
        asked: 0,
        next,
    })
}

/// Serves a stored page to a request that had to wait.
///
/// # Errors
/// The client's connection failed.
pub async fn stored(
    conn: &mut Conn,
    noted: &Noted,
    miss: &Miss,
    entry: &Entry,
    told: Told<'_>,
    result: CacheResult,
) -> io::Result<Outcome> {
    let part = part_of(conn, &entry.head, Some(entry.body.len()));
    let told = Told {
        key: miss.status_key.as_deref(),
        ..told
    };
    let page = Page {
        entry,
        part: &part,
        told: &told,
        x_cache: miss.route.x_cache,
        at: clock::moment(),
    };
    let (bytes, status, next) = send_page(conn, noted, page).await?;
    Ok(Outcome {
        status,
        bytes,
        result,
        route: Some(Arc::clone(&miss.route)),
        asked: 1,
        next,
    })
}

/// A stored page on its way to one client.
struct Page<'a> {
    entry: &'a Entry,
    part: &'a Part,
    told: &'a Told<'a>,
    x_cache: bool,
    /// When its age is told.
    at: Moment,
}

/// Sends a stored page. Body bytes, status, and what becomes of the connection.
async fn send_page(conn: &mut Conn, noted: &Noted, page: Page<'_>) -> io::Result<(u64, u16, Next)> {
    let Page {
        entry,
        part,
        told,
        x_cache,
        at,
    } = page;
    let close = conn.closes(noted);
    let next = if close { Next::Close } else { Next::Keep };
    let mut lines = Lines::take();
    let out = &mut lines.0;
    let age = fresh::age(&entry.terms, entry.stored, at);
    let size = entry.body.len();
    match part {
        Part::Whole | Part::HeadOnly => {
            told_lines(age, told, x_cache, out);
            common_lines(noted, close, out);
            if has_body(entry.head.status) {
                out.extend_from_slice(entry.content_length.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
            let pieces = if *part == Part::Whole {
                entry.body.pieces()
            } else {
                &[]
            };
            send(conn, entry.head.bytes(), out, pieces).await?;
            let sent = if *part == Part::Whole { size } else { 0 };
            Ok((sent, entry.head.status, next))
        }
        Part::NotModified => {
            let mut head = BytesMut::new();
            write_status_line(304, &mut head);
            filtered(&entry.head, conditional::on_304, &mut head);
            told_lines(age, told, x_cache, out);
            common_lines(noted, close, out);
            out.extend_from_slice(b"\r\n");
            send(conn, &head, out, &[]).await?;
            Ok((0, 304, next))
        }
        Part::Range(range) => {
            let mut head = BytesMut::new();
            write_status_line(206, &mut head);
            head.extend_from_slice(entry.head.fields());
            told_lines(age, told, x_cache, out);
            common_lines(noted, close, out);
            range_lines(range, size, out);
            send(conn, &head, out, &entry.body.slice(range.start, range.end)).await?;
            Ok((range.end - range.start, 206, next))
        }
        Part::Ranges(ranges) => {
            let mut head = BytesMut::new();
            write_status_line(206, &mut head);
            filtered(&entry.head, |name| name != "content-type", &mut head);
            let fields = entry.head.to_map();
            let boundary = format!("{:016x}{:016x}", ids::random(), ids::random());
            let content_type = fields
                .get(header::CONTENT_TYPE)
                .map(|value| value.as_bytes());
            let parts = Multipart {
                boundary: &boundary,
                content_type,
                size,
            };
            let length = parts.length(ranges);
            told_lines(age, told, x_cache, out);
            common_lines(noted, close, out);
            out.extend_from_slice(b"Content-Type: multipart/byteranges; boundary=");
            out.extend_from_slice(boundary.as_bytes());
            out.extend_from_slice(format!("\r\nContent-Length: {length}\r\n\r\n").as_bytes());
            let mut pieces = Vec::new();
            for range in ranges {
                let mut part_head = Vec::new();
                parts.part_head(range, &mut part_head);
                pieces.push(Bytes::from(part_head));
                pieces.extend(entry.body.slice(range.start, range.end));
            }
            let mut tail = Vec::new();
            parts.tail(&mut tail);
            pieces.push(Bytes::from(tail));
            send(conn, &head, out, &pieces).await?;
            Ok((length, 206, next))
        }
        Part::Unsatisfiable => problem(conn, noted, &Problem::range(size)).await,
    }
}

async fn problem(
    conn: &mut Conn,
    noted: &Noted,
    problem: &Problem,
) -> io::Result<(u64, u16, Next)> {
    let outcome = conn.answer(problem, noted, None).await?;
    Ok((outcome.bytes, outcome.status, outcome.next))
}

/// Head, lines and body in one write, as far as the socket takes it: a small answer is put together first, a larger one
/// is gathered by the kernel.
async fn send(conn: &mut Conn, head: &[u8], lines: &[u8], pieces: &[Bytes]) -> io::Result<()> {
    match pieces {
        [] => send_small(conn, head, lines, &[]).await,
        [one] if one.len() <= SMALL => send_small(conn, head, lines, one).await,
        [one] => {
            conn.wire
                .send(&mut [IoSlice::new(head), IoSlice::new(lines), IoSlice::new(one)])
                .await
        }
        _ => {
            let mut slices = Vec::with_capacity(pieces.len() + 2);
            slices.push(IoSlice::new(head));
            slices.push(IoSlice::new(lines));
            slices.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
            conn.wire.send(&mut slices).await
        }
    }
}

/// Up to this a copy costs less than another slice in the kernel.
const SMALL: usize = 4 * 1024;

async fn send_small(conn: &mut Conn, head: &[u8], lines: &[u8], body: &[u8]) -> io::Result<()> {
    let mut whole = Lines::take();
    whole.0.extend_from_slice(head);
    whole.0.extend_from_slice(lines);
    whole.0.extend_from_slice(body);
    conn.wire.send_bytes(&whole.0).await
}

fn told_lines(age: u64, told: &Told<'_>, x_cache: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Age: ");
    decimal(age, out);
    out.extend_from_slice(b"\r\nCache-Status: ");
    told.write(out);
    out.extend_from_slice(b"\r\n");
    if x_cache {
        out.extend_from_slice(b"X-Cache: ");
        out.extend_from_slice(told.x_cache().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn range_lines(range: &Range<u64>, size: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Range: ");
    range::content_range(range, size, out);
    out.extend_from_slice(
        format!("\r\nContent-Length: {}\r\n\r\n", range.end - range.start).as_bytes(),
    );
}

/// What the request at hand asks for of a page with this head.
fn part_of(conn: &Conn, head: &Head, size: Option<u64>) -> Part {
    let wall = clock::now().wall;
    miss::with_request(conn, |request| Part::of(request, head, size, wall)).unwrap_or(Part::Whole)
}

/// The stored field lines whose lower-case names `keep` wants.
fn filtered(head: &Head, keep: impl Fn(&str) -> bool, out: &mut BytesMut) {
    for line in head.fields().split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if std::str::from_utf8(name).is_ok_and(|name| keep(&name.to_ascii_lowercase())) {
            out.extend_from_slice(line);
        }
    }
}

fn decimal(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Whether an answer of this status has a body, and so a length (RFC 9110 §6.4.1, §8.6).
fn has_body(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

/// Passes an interim answer on.
///
/// # Errors
/// The client's connection failed.
pub async fn interim(conn: &mut Conn, status: u16, fields: &HeaderMap) -> io::Result<()> {
    // A cookie belongs to one visitor, and whose this answer will be isn't known yet.
    let head = Head::render(status, fields, &[header::SET_COOKIE]);
    conn.wire
        .send(&mut [IoSlice::new(head.bytes()), IoSlice::new(b"\r\n")])
        .await
}

/// What a flight's answer looks like on this client's wire.
struct Shape {
    framing: Framing,
    /// The bytes of the body that are sent.
    from: u64,
    to: u64,
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

/// Follows a flight to its end.
///
/// # Errors
/// The client's connection failed.
pub async fn flight(
    conn: &mut Conn,
    noted: &Noted,
    miss: &Miss,
    mut reader: Reader,
    answer: &Answer,
    collapsed: bool,
) -> io::Result<Outcome> {
    let alone = reader.is_alone();
    let part = if alone {
        Part::Whole
    } else {
        part_of(conn, &answer.head, answer.length)
    };
    let status = match part {
        Part::Unsatisfiable => {
            let problem = Problem::range(answer.length.unwrap_or(0));
            let outcome = conn.answer(&problem, noted, None).await?;
            return Ok(Outcome {
                route: Some(Arc::clone(&miss.route)),
                asked: 1,
                ..outcome
            });
        }
        Part::NotModified => 304,
        Part::Range(_) => 206,
        _ => answer.head.status,
    };
    let shape = shape(noted, miss, answer, &part, status);
    let close = conn.closes(noted) || shape.framing == Framing::Close;
    let told = told(miss, answer, collapsed);
    let mut start = BytesMut::new();
    write_status_line(status, &mut start);
    match part {
        Part::NotModified => filtered(&answer.head, conditional::on_304, &mut start),
        _ => start.extend_from_slice(answer.head.fields()),
    }
    let range = match part {
        Part::Range(range) => Some((range.clone(), answer.length.unwrap_or(range.end))),
        _ => None,
    };
    let between = Between {
        age: age_of(answer),
        told: &told,
        x_cache: miss.route.x_cache,
        close,
        framing: shape.framing,
        range,
    };
    let opening = head(noted, &start, &between);
    let result = match (&answer.sharing, collapsed) {
        (Sharing::Everyone { .. }, true) => CacheResult::Collapsed,
        (Sharing::Leader { .. }, _) if alone => CacheResult::HitForMiss,
        _ => CacheResult::Miss,
    };
    let outcome = |bytes, next| Outcome {
        status,
        bytes,
        result,
        route: Some(Arc::clone(&miss.route)),
        asked: u32::from(!collapsed),
        next,
    };
    if shape.framing == Framing::None || shape.to == 0 {
        conn.wire.send_bytes(opening.bytes()).await?;
        return Ok(outcome(0, if close { Next::Close } else { Next::Keep }));
    }
    let (bytes, whole) = body(conn, &mut reader, &shape, opening).await?;
    let next = match whole {
        Ok(()) if close => Next::Close,
        Ok(()) => Next::Keep,
        Err(failure) => broken(&failure, noted),
    };
    Ok(outcome(bytes, next))
}

/// A body that broke off must not look whole: an unfinished framing ends with the connection.
fn broken(failure: &Failure, noted: &Noted) -> Next {
    tracing::info!(
        ?failure,
        request_id = noted.id.as_str(),
        "answer broken off"
    );
    Next::Break
}

/// How old an answer under way is by now, where that is to be told: whoever joins late gets it older.
fn age_of(answer: &Answer) -> Option<u64> {
    let here = clock::moment().since(answer.arrived).as_secs();
    match answer.age {
        Some(0) | None if here == 0 => answer.age.filter(|_| answer.stored.is_none()),
        age => Some(age.unwrap_or(0) + here).filter(|_| age.is_some() || answer.stored.is_some()),
    }
}

fn told<'a>(miss: &'a Miss, answer: &Answer, collapsed: bool) -> Told<'a> {
    let told = match answer.stored {
        Some(ttl) => {
            let here = clock::moment().since(answer.arrived).as_secs() as i64;
            Told::stored(miss.why, answer.fwd_status, ttl - here, collapsed)
        }
        None => Told::forwarded(miss.why, answer.fwd_status),
    };
    Told {
        key: miss.status_key.as_deref(),
        ..told
    }
}

fn shape(noted: &Noted, miss: &Miss, answer: &Answer, part: &Part, status: u16) -> Shape {
    let head_only = miss.head_only;
    if let Part::Range(range) = part {
        return Shape {
            framing: Framing::Length(range.end - range.start),
            from: range.start,
            to: range.end,
        };
    }
    let framing = Framing::of(status, answer.length, head_only, noted.http10);
    let to = match framing {
        _ if head_only => 0,
        Framing::Length(length) => length,
        _ => u64::MAX,
    };
    Shape {
        framing,
        from: 0,
        to,
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
        decimal(age, out);
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
        _ => common_lines(noted, between.close, out),
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

/// Sends the head, with what there is of the body, and streams the rest as it grows. What was sent, and whether that is
/// all.
async fn body(
    conn: &mut Conn,
    reader: &mut Reader,
    shape: &Shape,
    opening: Lines,
) -> io::Result<(u64, Result<(), Failure>)> {
    let chunked = shape.framing == Framing::Chunked;
    let (mut at, mut sent) = (0u64, 0u64);
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut opening = opening.bytes();
    while at < shape.to {
        if !opening.is_empty() && !reader.is_ready() {
            conn.wire.send_bytes(opening).await?;
            opening = &[];
        }
        pieces.clear();
        let taken = tokio::select! {
            biased;
            taken = reader.body(SLICE, &mut pieces) => taken,
            true = conn.wire.gone(&mut conn.inbox, miss::PIPELINED) => {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        };
        match taken {
            Ok(0) => break,
            Ok(_) => {}
            Err(failure) => {
                conn.wire.send_bytes(opening).await?;
                return Ok((sent, Err(failure)));
            }
        }
        let (start, end) = (
            at,
            at + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>(),
        );
        at = end;
        trim(&mut pieces, start, shape.from, shape.to);
        let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        if len > 0 {
            conn.wire.send_body(opening, &pieces, chunked).await?;
            opening = &[];
            sent += len;
        }
    }
    conn.wire.send_bytes(opening).await?;
    if let Framing::Length(length) = shape.framing
        && sent < length
    {
        return Ok((sent, Err(Failure::Lost)));
    }
    if chunked {
        conn.wire.send_bytes(b"0\r\n\r\n").await?;
    }
    Ok((sent, Ok(())))
}

/// Cuts pieces that start at offset `start` of the body to its bytes `from..to`.
fn trim(pieces: &mut Vec<Bytes>, start: u64, from: u64, to: u64) {
    let mut at = start;
    pieces.retain_mut(|piece| {
        let end = at + piece.len() as u64;
        let low = from.clamp(at, end);
        let high = to.clamp(low, end);
        *piece = piece.slice((low - at) as usize..(high - at) as usize);
        at = end;
        !piece.is_empty()
    });
}
