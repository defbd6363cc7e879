//! `PURGE`: takes pages out of the cache, for who may on their route. For everybody else it is no method.

use std::io;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::Site;
use super::asking::{Asking, Noted};
use super::h1::{Conn, Next};
use super::lines::common_lines;
use super::lookup::Decision;
use super::problem::Problem;
use super::record::Outcome;
use crate::cache::store::Purged;
use crate::clock;
use crate::config::policy::Route;
use crate::rules::date;
use crate::rules::purge::{Purge, What};
use crate::rules::request::Method;
use crate::rules::tags;
use crate::telemetry::CacheResult;

/// What is ordered, by somebody who may.
pub struct Order {
    route: Arc<Route>,
    what: Vec<What>,
    soft: bool,
}

/// What is done with a request that would purge, by one of the words that caches know for it (C51).
pub fn decide(site: &Site, asking: &Asking) -> Option<Decision> {
    let Method::Other(method) = asking.request.method else {
        return None;
    };
    if !["PURGE", "BAN", "REFRESH", "PURGEALL"].contains(&method) {
        return None;
    }
    let from = &asking.route.purge_from;
    if method != "PURGE" || !from.holds(asking.client, site.guard.find(asking.client)) {
        return Some(Decision::Here(Problem::not_here()));
    }
    let what = match tagged(asking) {
        Ok(tags) if tags.is_empty() => vec![addressed(asking)],
        Ok(tags) => tags,
        Err(why) => return Some(Decision::Here(Problem::malformed(why))),
    };
    Some(Decision::Purge(Box::new(Order {
        route: Arc::clone(asking.route),
        what,
        soft: field(asking, "soft-purge")
            .next()
            .is_some_and(|value| value == b"1"),
    })))
}

/// The page of its target, or all below it.
fn addressed(asking: &Asking) -> What {
    let host = asking.host.to_owned();
    match asking.target.strip_suffix('*') {
        Some(start) if asking.target == asking.path => What::Prefix {
            host,
            start: start.to_owned(),
        },
        _ => What::Page {
            host,
            target: asking.target.to_owned(),
        },
    }
}

/// The tags that it names; said as an answer says its own.
fn tagged(asking: &Asking) -> Result<Vec<What>, &'static str> {
    let mut fields = HeaderMap::new();
    for name in tags::FIELDS {
        for value in field(asking, name.as_str()) {
            let value = HeaderValue::from_bytes(value).map_err(|_| UNREADABLE)?;
            fields.append(name.clone(), value);
        }
    }
    let read = tags::read(&fields);
    // A purge that leaves out what it was asked for has to say so.
    if read.beyond || (read.fields != 0 && read.tags.is_empty()) {
        return Err(UNREADABLE);
    }
    Ok(read
        .tags
        .into_iter()
        .map(|tag| What::Tag(tag.into()))
        .collect())
}

const UNREADABLE: &str = "these are no tags, or too many";

fn field<'a>(asking: &'a Asking, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let lines = asking.request.lines.iter();
    let named = lines.filter(move |line| line.name.eq_ignore_ascii_case(name));
    named.map(|line| line.value)
}

/// Purges, and tells how much that was.
///
/// # Errors
/// The client's connection failed.
pub async fn carry_out(conn: &mut Conn, noted: &Noted, order: Order) -> io::Result<Outcome> {
    let Order { route, what, soft } = order;
    let mut all = Purged::default();
    let kind = what.first().map_or("", |what| what.kind().word());
    for what in what {
        let fetcher = Arc::clone(&conn.site.fetcher);
        let counts = what.start().is_some();
        let purge = Purge {
            what,
            soft,
            dry_run: false,
        };
        let purged = match counts {
            // It goes through what is stored for a while.
            true => tokio::task::spawn_blocking(move || fetcher.purge(&purge))
                .await
                .map_err(io::Error::other)?,
            false => fetcher.purge(&purge),
        };
        all.objects += purged.objects;
        all.at_least |= purged.at_least;
    }
    let told = match conn.site.fleet.is_told().await {
        None => "",
        Some(true) => ",\"fleet\":\"told\"",
        Some(false) => ",\"fleet\":\"waits for redis\"",
    };
    let body = format!(
        "{{\"kind\":\"{kind}\",\"soft\":{soft},\"objects\":{},\"at_least\":{}{told}}}\n",
        all.objects, all.at_least
    );
    let mut head = format!(
        "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Type: application/json\r\nContent-Length: {}\r\nDate: ",
        body.len()
    )
    .into_bytes();
    head.extend_from_slice(&date::format(clock::now().wall));
    head.extend_from_slice(b"\r\n");
    // Its body must never be taken for the next request.
    let close = noted.has_body || conn.closes(noted);
    common_lines(noted, close, &mut head);
    head.extend_from_slice(b"\r\n");
    let bytes = body.len() as u64;
    conn.wire.send_body(&head, &[body.into()], false).await?;
    Ok(Outcome {
        status: 200,
        bytes,
        result: CacheResult::Purge,
        route: Some(route),
        asked: 0,
        next: if close { Next::Close } else { Next::Keep },
    })
}
