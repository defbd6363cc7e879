//! A flight's answer on a client's wire, as it fills.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};

use super::asking::Noted;
use super::h1::{Conn, Next};
use super::lines::{Between, Framing, Lines, filtered, head};
use super::lookup::Miss;
use super::miss::{self, part_of};
use super::part::Part;
use super::problem::Problem;
use super::record::Outcome;
use super::wire::SLICE;
use crate::cache::entry::{Head, write_status_line};
use crate::cache::flight::{Answer, Failure, Reader, Sharing};
use crate::clock;
use crate::rules::cache_status::Told;
use crate::rules::conditional;
use crate::telemetry::CacheResult;

/// Passes an interim answer on.
///
/// # Errors
/// The client's connection failed.
pub async fn interim(conn: &mut Conn, status: u16, fields: &HeaderMap) -> io::Result<()> {
    // A cookie belongs to one visitor, and whose this answer will be isn't known yet.
    let head = Head::render(status, fields, &[header::SET_COOKIE], &[]);
    conn.wire
        .send_interim(&[head.bytes(), &b"\r\n"[..]].concat())
        .await
}

/// What a flight's answer looks like on this client's wire.
struct Shape {
    framing: Framing,
    /// The bytes of the body that are sent.
    from: u64,
    to: u64,
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
        conn.wire.send_head(opening.bytes()).await?;
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
            conn.wire.send_head(opening).await?;
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
                conn.wire.send_head(opening).await?;
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
    conn.wire.send_head(opening).await?;
    if let Framing::Length(length) = shape.framing
        && sent < length
    {
        return Ok((sent, Err(Failure::Lost)));
    }
    if chunked {
        conn.wire.send_last_chunk().await?;
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
