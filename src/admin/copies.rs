//! `GET /v1/fallback/pages` and `/v1/fallback/page`: what is cached or in the snapshot, page by page, so that it can be laid down as files.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Desk;
use super::gate::Asking;
use super::problem::{Body, Problem};
use crate::cache::entry::Entry;
use crate::cache::key::{Key, KeyRef};
use crate::clock;
use crate::fetch::{Fetcher, vary_values};
use crate::rules::identity::Class;
use crate::rules::vary::{AsSent, Codings};

/// So many pages are told of at once.
const MOST: usize = 5_000;
/// The most parts that pages are told of in.
const PARTS: u32 = 65_536;
/// The largest page that is told, in bytes.
const LARGEST: u64 = 8 << 20;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// Which part of all pages: 0, or more
    part: Option<u32>,
    /// Of how many parts: 1, or more
    of: Option<u32>,
}

/// A part of the pages that there are copies of.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct FallbackPages {
    pub pages: Vec<FallbackPage>,
    /// In how many parts all of them fit into answers like this one. Where that is more than was asked for, some are missing here
    pub parts: u32,
}

/// A page that there is a copy of.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct FallbackPage {
    pub scheme: String,
    pub host: String,
    /// Path and query
    pub target: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    scheme: String,
    host: String,
    /// Path and query
    target: String,
}

/// A copy.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct FallbackCopy {
    pub status: u16,
    pub content_type: Option<String>,
    /// Its coding, if all copies of the page have one
    pub content_encoding: Option<String>,
    /// In base64
    pub body: String,
}

/// The pages that there are copies of, a part of them
#[utoipa::path(get, path = "/v1/fallback/pages", params(Part), responses((status = 200, body = FallbackPages)))]
pub(super) async fn pages(
    admin: Desk,
    Asking(asked): Asking<Part>,
) -> Result<Json<FallbackPages>, Problem> {
    let (part, of) = (asked.part.unwrap_or(0), asked.of.unwrap_or(1));
    if !(1..=PARTS).contains(&of) || part >= of {
        let detail = format!("`of` is from 1 to {PARTS}, and `part` less than that");
        return Err(Problem::bad(detail));
    }
    let fetcher = admin.facts.fetcher();
    // All pages are looked at.
    let keys = tokio::task::spawn_blocking(move || {
        let mut keys: HashSet<Key> = fetcher.store.keys().into_iter().collect();
        keys.extend(fetcher.snapshot.pages().into_iter().map(|page| page.key));
        keys
    });
    let keys = keys.await;
    let keys = keys.map_err(|error| Problem::unavailable(error.to_string()))?;
    let parts = u32::try_from(keys.len().div_ceil(MOST / 2)).unwrap_or(PARTS);
    let is_its = |key: &&Key| key.hash() % u64::from(of) == u64::from(part);
    let its: Vec<&Key> = keys.iter().filter(is_its).collect();
    Ok(Json(FallbackPages {
        parts: match its.len() > MOST {
            true => parts.max(of.saturating_mul(2)),
            false => of,
        },
        pages: (its.into_iter().take(MOST))
            .filter_map(|key| page(key.as_ref().bytes()))
            .collect(),
    }))
}

/// By its key.
fn page(key: &[u8]) -> Option<FallbackPage> {
    let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '\0');
    let mut part = || parts.next().map(str::to_owned);
    Some(FallbackPage {
        scheme: part()?,
        host: part()?,
        target: part()?,
    })
}

/// The copy of a page that most visitors get
#[utoipa::path(
    get, path = "/v1/fallback/page", params(Which),
    responses(
        (status = 200, body = FallbackCopy),
        (status = 400, description = "No page is named", body = Body, content_type = "application/problem+json")
    )
)]
pub(super) async fn copy(
    admin: Desk,
    Asking(which): Asking<Which>,
) -> Result<Json<FallbackCopy>, Problem> {
    let key = [&which.scheme[..], &which.host, &which.target].join("\0");
    let fetcher = admin.facts.fetcher();
    let found = tokio::task::spawn_blocking(move || {
        let key = KeyRef::new(key.as_bytes());
        cached(&fetcher, key).or_else(|| fetcher.snapshot.find(key, plainly))
    });
    let found = found.await;
    let found = found.map_err(|error| Problem::unavailable(error.to_string()))?;
    let entry =
        found.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "no copy of it is there"))?;
    if entry.body.len() > LARGEST {
        let detail = format!(
            "it has {} bytes; {LARGEST} at most are told",
            entry.body.len()
        );
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    Ok(Json(FallbackCopy {
        status: entry.head.status,
        content_type: field(&entry, &header::CONTENT_TYPE),
        content_encoding: coding(&entry),
        body: STANDARD.encode(entry.body.pieces().concat()),
    }))
}

fn cached(fetcher: &Fetcher, key: KeyRef<'_>) -> Option<Arc<Entry>> {
    let slot = fetcher.find(key, clock::moment())?;
    let mut variants = slot.variants().iter();
    let plain = variants.clone().find(|entry| coding(entry).is_none());
    plain.or(variants.next()).cloned()
}

/// As a request selects that says nothing of itself.
fn plainly(names: &[HeaderName]) -> Box<[u8]> {
    let sent = AsSent {
        class: Class::Anonymous,
        codings: Codings::IDENTITY,
        client: None,
    };
    vary_values(names, &HeaderMap::new(), &sent)
}

fn coding(entry: &Entry) -> Option<String> {
    field(entry, &header::CONTENT_ENCODING)
}

fn field(entry: &Entry, name: &HeaderName) -> Option<String> {
    let fields = entry.head.to_map();
    let value = fields.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}
