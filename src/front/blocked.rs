//! A request that a list or a rule turns away: 403, with all but its date and id made beforehand.

use std::io;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use super::asking::{Noted, Verb};
use super::h1::{Conn, Next};
use super::lines::{Lines, common_lines};
use super::problem::Problem;
use super::record::Outcome;
use crate::clock;
use crate::config::policy::Route;
use crate::rules::date;
use crate::telemetry::CacheResult;

/// An answer but for its last lines.
struct Ready {
    /// Up to the date.
    head: Vec<u8>,
    body: Bytes,
}

/// For who prefers JSON, and for who prefers a page.
static READY: LazyLock<[Ready; 2]> = LazyLock::new(|| {
    [false, true].map(|html| {
        let (kind, body) = Problem::blocked().page(html);
        let length = body.len();
        let head = format!(
            "HTTP/1.1 403 Forbidden\r\nCache-Control: no-store\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nDate: "
        );
        Ready {
            head: head.into(),
            body: body.into(),
        }
    })
});

/// Turns it away. `route`: if it came so far.
///
/// # Errors
/// The client's connection failed.
pub async fn refuse(
    conn: &mut Conn,
    noted: &Noted,
    route: Option<Arc<Route>>,
) -> io::Result<Outcome> {
    let html = noted.wants_html(conn.inbox.bytes());
    let ready = &READY[usize::from(html)];
    // What a body has brought along must never be taken for the next request.
    let close = noted.has_body || conn.closes(noted);
    let mut lines = Lines::take();
    let head = &mut lines.0;
    head.extend_from_slice(&ready.head);
    head.extend_from_slice(&date::format(clock::now().wall));
    head.extend_from_slice(b"\r\n");
    common_lines(noted, close, head);
    head.extend_from_slice(b"\r\n");
    let body = match noted.method {
        Verb::Known("HEAD") => Bytes::new(),
        _ => ready.body.clone(),
    };
    let bytes = body.len() as u64;
    conn.wire.send_body(lines.bytes(), &[body], false).await?;
    Ok(Outcome {
        status: 403,
        bytes,
        result: CacheResult::Refused,
        route,
        asked: 0,
        next: if close { Next::Close } else { Next::Keep },
    })
}
