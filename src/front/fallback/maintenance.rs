//! Word that there is nothing without the app, and when to come again.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock;
use crate::config::policy::Route;
use crate::front::asking::{Noted, Verb};
use crate::front::h1::{Conn, Next};
use crate::front::lines::{Lines, common_lines};
use crate::front::page::Guise;
use crate::front::record::Outcome;
use crate::rules::cache_status::{Detail, Fwd, Told};
use crate::rules::date;
use crate::rules::decimal;
use crate::rules::fallback as rules;
use crate::rules::retry_after::after_wait;
use crate::telemetry::{CacheResult, FallbackSource, ids};

/// Says so.
///
/// # Errors
/// The client's connection failed.
pub async fn maintenance(
    conn: &mut Conn,
    noted: &Noted,
    route: &Arc<Route>,
    source: FallbackSource,
    key: Option<&[u8]>,
) -> io::Result<Outcome> {
    let reserve = &conn.site.reserve;
    reserve.count(route, source);
    let accept = noted.accept.map(|accept| accept.bytes(conn.inbox.bytes()));
    let json = accept.is_some_and(rules::prefers_json);
    let (kind, body) = match (json, source) {
        (true, FallbackSource::Refused) => (PROBLEM, Bytes::from_static(CHANGES_NOTHING)),
        (true, _) => (PROBLEM, Bytes::from_static(NO_PAGE)),
        (false, _) => (PAGE, reserve.page().clone()),
    };
    let retry = after_wait(reserve.retry_after, ids::random());
    // A body that was sent along must never be taken for the next request.
    let close = noted.has_body || conn.closes(noted);
    let told = Told {
        detail: Some(Detail::Fallback),
        key,
        ..Told::refused(match source {
            FallbackSource::Refused => Fwd::Method,
            _ => Fwd::UriMiss,
        })
    };
    let mut lines = Lines::take();
    let out = &mut lines.0;
    out.extend_from_slice(b"HTTP/1.1 503 Service Unavailable\r\nDate: ");
    out.extend_from_slice(&date::format(clock::now().wall));
    out.extend_from_slice(b"\r\nCache-Control: no-store\r\nRetry-After: ");
    decimal::write(retry, out);
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\r\nContent-Length: ");
    decimal::write(body.len(), out);
    out.extend_from_slice(b"\r\nCache-Status: ");
    told.write(out);
    out.extend_from_slice(b"\r\n");
    if route.x_cache {
        out.extend_from_slice(format!("X-Cache: {}\r\n", told.x_cache()).as_bytes());
    }
    Guise::line(source, false, out);
    common_lines(noted, close, out);
    out.extend_from_slice(b"\r\n");
    let pieces: &[Bytes] = match noted.method {
        Verb::Known("HEAD") => &[],
        _ => std::slice::from_ref(&body),
    };
    conn.wire.send_body(lines.bytes(), pieces, false).await?;
    Ok(Outcome {
        status: 503,
        bytes: pieces.iter().map(|piece| piece.len() as u64).sum(),
        result: CacheResult::Fallback,
        route: Some(Arc::clone(route)),
        asked: 0,
        next: if close { Next::Close } else { Next::Keep },
    })
}

const PAGE: &str = "text/html; charset=utf-8";
const PROBLEM: &str = "application/problem+json";
const NO_PAGE: &[u8] =
    b"{\"detail\":\"the app behind this site is not there, and no copy of this page is\",\
\"status\":503,\"title\":\"Service Unavailable\",\"type\":\"about:blank\"}\n";
const CHANGES_NOTHING: &[u8] = b"{\"detail\":\"the app behind this site is not there: it can be read, as far as there are copies\",\
\"status\":503,\"title\":\"Service Unavailable\",\"type\":\"about:blank\"}\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9457_both_bodies_are_problems() {
        for body in [NO_PAGE, CHANGES_NOTHING] {
            let json: serde_json::Value = serde_json::from_slice(body).unwrap();
            assert_eq!(json["status"], 503);
        }
    }
}
