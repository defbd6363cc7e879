//! Answers from memory.
//!
//! A whole page is rendered and written without waiting: its head, as it was rendered when it was stored, the few lines
//! that are this answer's own, and its body, in one call. Only what the socket does not take at once is awaited.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header;

use super::asking::Noted;
use super::h1::{Conn, Next};
use super::image;
use super::lines::{Lines, common_lines, range_lines, told_lines};
use super::lookup::{Hit, Miss};
use super::miss::part_of;
use super::page::{Guise, Page};
use super::part::Part;
use super::problem::Problem;
use super::record::Outcome;
use crate::cache::entry::{Entry, write_status_line};
use crate::clock;
use crate::config::policy::Route;
use crate::rules::cache_status::Told;
use crate::rules::conditional;
use crate::rules::range::Multipart;
use crate::telemetry::{CacheResult, ids};

/// Up to this a copy costs less than another slice in the kernel.
const SMALL: usize = 4 * 1024;
/// Body pieces that go into the first write.
const FIRST_PIECES: usize = 15;

/// Serves a hit.
///
/// # Errors
/// The client's connection failed.
pub async fn hit(conn: &mut Conn, noted: &Noted, hit: Hit) -> io::Result<Outcome> {
    let told = told(&hit);
    let page = page(&hit, noted, &told);
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

fn told(hit: &Hit) -> Told<'_> {
    let told = match hit.detail {
        Some(detail) => Told::stale(hit.ttl, detail),
        None => Told::hit(hit.ttl),
    };
    Told {
        key: hit.key.as_deref(),
        ..told
    }
}

fn page<'a>(hit: &'a Hit, noted: &Noted, told: &'a Told<'a>) -> Page<'a> {
    Page {
        entry: &hit.entry,
        part: &hit.part,
        told,
        x_cache: hit.route.x_cache,
        at: noted.began.moment(),
        guise: None,
    }
}

/// Appends the head of a hit that is served whole.
pub fn write_head(noted: &Noted, hit: &Hit, out: &mut Vec<u8>) {
    page(hit, noted, &told(hit)).head(noted, false, out);
}

/// Serves a stored page to a request that had to wait.
///
/// # Errors
/// The client's connection failed.
pub async fn stored(
    conn: &mut Conn,
    noted: &Noted,
    miss: &Miss,
    entry: &Arc<Entry>,
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
        guise: None,
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

/// Serves a page that stands in for the app, and says so.
///
/// # Errors
/// The client's connection failed.
pub async fn disguised(
    conn: &mut Conn,
    noted: &Noted,
    route: &Arc<Route>,
    (entry, part): (&Arc<Entry>, &Part),
    told: &Told<'_>,
    guise: Guise,
) -> io::Result<Outcome> {
    let page = Page {
        entry,
        part,
        told,
        x_cache: route.x_cache,
        at: clock::moment(),
        guise: Some(guise),
    };
    let (bytes, status, next) = send_page(conn, noted, page).await?;
    Ok(Outcome {
        status,
        bytes,
        result: CacheResult::Fallback,
        route: Some(Arc::clone(route)),
        asked: 0,
        next,
    })
}

/// Sends a stored page. Body bytes, status, and what becomes of the connection.
async fn send_page(conn: &mut Conn, noted: &Noted, page: Page<'_>) -> io::Result<(u64, u16, Next)> {
    let close = conn.closes(noted);
    let next = if close { Next::Close } else { Next::Keep };
    let (entry, status) = (page.entry, page.entry.head.status);
    match page.part {
        Part::Whole => {
            let memory = &conn.site.images;
            let begun = image::send(&page, noted, close, memory, |whole, head_len| {
                let written = conn.wire.send_now(&[IoSlice::new(whole)])?;
                Ok(Rest::after(written, &whole[..head_len], whole.len()))
            });
            let begun = match begun {
                Some(begun) => begun,
                None => begin(conn, noted, &page, close, entry.body.pieces()),
            };
            if let Some(rest) = begun? {
                Box::pin(rest.send(conn, entry)).await?;
            }
            Ok((entry.body.len(), status, next))
        }
        Part::HeadOnly => {
            if let Some(rest) = begin(conn, noted, &page, close, &[])? {
                Box::pin(conn.wire.send_head(&rest.head)).await?;
            }
            Ok((0, status, next))
        }
        part => Box::pin(send_part(conn, noted, &page, part, close, next)).await,
    }
}

/// What of an answer the socket did not take at once.
pub struct Rest {
    head: Vec<u8>,
    /// Body bytes that are sent already.
    from: u64,
}

impl Rest {
    /// A body of which nothing is sent yet, but its head is.
    pub fn body() -> Rest {
        Rest {
            head: Vec::new(),
            from: 0,
        }
    }

    /// What is left of an answer of so many bytes in all once so many were written.
    fn after(written: usize, head: &[u8], total: usize) -> Option<Rest> {
        (written < total).then(|| Rest {
            head: head[written.min(head.len())..].to_vec(),
            from: written.saturating_sub(head.len()) as u64,
        })
    }

    /// # Errors
    /// The client's connection failed.
    pub async fn send(self, conn: &mut Conn, entry: &Entry) -> io::Result<()> {
        let pieces = entry.body.slice(self.from, entry.body.len());
        conn.wire.send_body(&self.head, &pieces, false).await
    }
}

thread_local! {
    static START: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes head and body, as far as the socket takes them: a small body is put behind the head first, a larger one is
/// gathered by the kernel.
fn begin(
    conn: &mut Conn,
    noted: &Noted,
    page: &Page<'_>,
    close: bool,
    pieces: &[Bytes],
) -> io::Result<Option<Rest>> {
    START.with_borrow_mut(|start| {
        start.clear();
        page.head(noted, close, start);
        let head_len = start.len();
        let written = match pieces {
            [] => conn.wire.send_now(&[IoSlice::new(start)])?,
            [one] if one.len() <= SMALL => {
                start.extend_from_slice(one);
                conn.wire.send_now(&[IoSlice::new(start)])?
            }
            [one] => conn
                .wire
                .send_now(&[IoSlice::new(start), IoSlice::new(one)])?,
            many => {
                let mut slices = [IoSlice::new(&[]); FIRST_PIECES + 1];
                slices[0] = IoSlice::new(start);
                for (slice, piece) in slices[1..].iter_mut().zip(many) {
                    *slice = IoSlice::new(piece);
                }
                conn.wire.send_now(&slices)?
            }
        };
        let total = head_len + pieces.iter().map(Bytes::len).sum::<usize>();
        Ok(Rest::after(written, &start[..head_len], total))
    })
}

/// Sends less than a whole page.
async fn send_part(
    conn: &mut Conn,
    noted: &Noted,
    page: &Page<'_>,
    part: &Part,
    close: bool,
    next: Next,
) -> io::Result<(u64, u16, Next)> {
    let (entry, size) = (page.entry, page.entry.body.len());
    let mut head = BytesMut::new();
    let mut lines = Lines::take();
    let out = &mut lines.0;
    let common = |out: &mut Vec<u8>| {
        told_lines(page.age(), page.told, page.x_cache, out);
        common_lines(noted, close, out);
    };
    match part {
        Part::Whole | Part::HeadOnly => unreachable!("sent by `begin`"),
        Part::NotModified => {
            write_status_line(304, &mut head);
            page.fields(conditional::on_304, &mut head);
            common(out);
            out.extend_from_slice(b"\r\n");
            send(conn, &head, out, &[]).await?;
            Ok((0, 304, next))
        }
        Part::Range(range) => {
            write_status_line(206, &mut head);
            page.fields(|_| true, &mut head);
            common(out);
            range_lines(range, size, out);
            send(conn, &head, out, &entry.body.slice(range.start, range.end)).await?;
            Ok((range.end - range.start, 206, next))
        }
        Part::Ranges(ranges) => {
            write_status_line(206, &mut head);
            page.fields(|name| name != "content-type", &mut head);
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
            common(out);
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
        Part::Unsatisfiable => {
            let outcome = conn.answer(&Problem::range(size), noted, None).await?;
            Ok((outcome.bytes, outcome.status, outcome.next))
        }
    }
}

async fn send(conn: &mut Conn, head: &[u8], lines: &[u8], pieces: &[Bytes]) -> io::Result<()> {
    let head = [head, lines].concat();
    conn.wire.send_body(&head, pieces, false).await
}
