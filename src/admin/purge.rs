//! `POST /v1/purge`, and `PURGE` as caches know it: takes out of the cache what is no longer so.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::http::request::Parts;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::fleet::{Everywhere, everywhere};
use super::gate::Asked;
use super::problem::{Problem, Why};
use super::{Admin, Desk};
use crate::cache::store;
use crate::config::Policy;
use crate::rules::purge::{Purge, What};
use crate::rules::tags;

/// Has `PURGE` mark what it is about as stale.
const SOFT: HeaderName = HeaderName::from_static("soft-purge");
/// The method.
pub(super) const METHOD: &str = "PURGE";
/// More can't be purged by one request.
const MOST: usize = 1_000;
const LONGEST_TAG: usize = 1_024;

/// The kinds of what can be purged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Url,
    Prefix,
    Tag,
    Host,
    All,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PurgeIt {
    kind: Kind,
    /// URLs, beginnings of URLs, tags or hosts, 1,000 at most; none for `all`
    #[serde(default)]
    names: Vec<String>,
    /// Marked stale instead: served so while it is fetched anew
    #[serde(default)]
    soft: bool,
    /// Nothing is purged; it is told what would be
    #[serde(default)]
    dry_run: bool,
    /// For the audit log
    #[serde(default)]
    #[expect(dead_code, reason = "the gate writes down what was asked for, whole")]
    reason: String,
}

/// What was purged, or would be.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Purged {
    pub kind: Kind,
    pub soft: bool,
    pub dry_run: bool,
    /// Stored answers, each variant of a page one. What has two of several tags counts twice
    pub objects: u64,
    /// There were too many to count them all; they are purged all the same
    pub at_least: bool,
    /// Those of them that were asked for, or stored, in the last minute; of dry runs alone
    pub hot: Option<u64>,
    /// How often their pages were found since they were stored; of dry runs alone
    pub hits: Option<u64>,
    /// The same for each name
    pub names: Vec<PurgedName>,
    /// The other proxies; nothing without `[redis]`, and of dry runs
    pub fleet: Option<Everywhere>,
}

/// What was purged by one name.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct PurgedName {
    pub name: String,
    pub objects: u64,
}

/// Purges
#[utoipa::path(post, path = "/v1/purge", request_body = PurgeIt, responses((status = 200, body = Purged)))]
pub(super) async fn purge(admin: Desk, Asked(asked): Asked<PurgeIt>) -> Result<Response, Problem> {
    let names = match (asked.kind, asked.names) {
        (Kind::All, names) if names.is_empty() => vec![String::new()],
        (Kind::All, _) => return Err(Problem::bad("`all` is all: it takes no `names`")),
        (_, names) if names.is_empty() => return Err(Problem::bad("`names` says what to purge")),
        (_, names) if names.len() > MOST => {
            return Err(Problem::bad(format!("{MOST} names at most")));
        }
        (_, names) => names,
    };
    // All of it is understood before any of it is done.
    let what = |name: String| Ok((what(asked.kind, &name, &admin.facts.policy())?, name));
    let all = names.into_iter().map(what);
    let all = all.collect::<Result<Vec<_>, Problem>>()?;
    carry_out(&admin, asked.kind, all, asked.soft, asked.dry_run).await
}

fn what(kind: Kind, name: &str, policy: &Policy) -> Result<What, Problem> {
    let told = |why: &str| Problem::bad(format!("{name:?}: {why}"));
    match kind {
        Kind::Url => policy.page(name).map_err(|flaw| told(flaw.why())),
        Kind::Prefix => What::below(name).map_err(|flaw| told(flaw.why())),
        Kind::Host => What::host(name).map_err(|flaw| told(flaw.why())),
        Kind::Tag if name.is_empty() || name.len() > LONGEST_TAG => {
            Err(told("a tag has 1 to 1,024 bytes"))
        }
        Kind::Tag => Ok(What::Tag(name.into())),
        Kind::All => Ok(What::All),
    }
}

async fn carry_out(
    admin: &Arc<Admin>,
    kind: Kind,
    all: Vec<(What, String)>,
    soft: bool,
    dry_run: bool,
) -> Result<Response, Problem> {
    let fetcher = admin.facts.fetcher();
    // It may go through what is stored for a while.
    let purges = tokio::task::spawn_blocking(move || {
        let purge = |(what, name)| {
            let order = Purge {
                what,
                soft,
                dry_run,
            };
            (name, fetcher.purge(&order))
        };
        all.into_iter().map(purge).collect::<Vec<_>>()
    });
    let purges = purges
        .await
        .map_err(|_| Problem::unavailable("it broke off; the log may say why"))?;
    let fleet = match dry_run {
        true => None,
        false => everywhere(&admin.facts.fleet(), None).await,
    };
    let sum = |of: fn(&store::Purged) -> Option<u64>| {
        let each = purges.iter().filter_map(|(_, purged)| of(purged));
        each.sum::<u64>()
    };
    let told = Purged {
        kind,
        soft,
        dry_run,
        objects: sum(|purged| Some(purged.objects)),
        at_least: purges.iter().any(|(_, purged)| purged.at_least),
        hot: dry_run.then(|| sum(|purged| purged.hot)),
        hits: dry_run.then(|| sum(|purged| purged.hits)),
        names: purges
            .into_iter()
            .filter(|_| kind != Kind::All)
            .map(|(name, purged)| PurgedName {
                name,
                objects: purged.objects,
            })
            .collect(),
        fleet,
    };
    let why = Why(format!("{} answers", told.objects));
    let mut response = Json(told).into_response();
    response.extensions_mut().insert(why);
    Ok(response)
}

/// The method: the page of Host and target, all below it where it ends in a star, or what carries the tags that it names.
pub(super) async fn method(admin: &Arc<Admin>, parts: &Parts) -> Response {
    let done = match ordered(admin, parts) {
        Ok((kind, all)) => {
            let soft = (parts.headers.get(SOFT)).is_some_and(|value| value == "1");
            carry_out(admin, kind, all, soft, false).await
        }
        Err(problem) => Err(problem),
    };
    done.unwrap_or_else(IntoResponse::into_response)
}

fn ordered(admin: &Arc<Admin>, parts: &Parts) -> Result<(Kind, Vec<(What, String)>), Problem> {
    let read = tags::read(&parts.headers);
    if read.beyond || (read.fields != 0 && read.tags.is_empty()) {
        return Err(Problem::bad("these are no tags, or too many"));
    }
    if !read.tags.is_empty() {
        let tagged = |tag: &str| (What::Tag(tag.into()), tag.to_owned());
        let all = read.tags.iter().map(|tag| tagged(tag));
        return Ok((Kind::Tag, all.collect()));
    }
    let url = match parts.uri.scheme() {
        Some(_) => Cow::from(parts.uri.to_string()),
        None => {
            let mut hosts = parts.headers.get_all(header::HOST).iter();
            let (Some(host), None) = (hosts.next(), hosts.next()) else {
                return Err(Problem::bad("the page's host is named once, by Host"));
            };
            let host = String::from_utf8_lossy(host.as_bytes());
            Cow::from(format!("http://{host}{}", parts.uri))
        }
    };
    let kind = match url.ends_with('*') && parts.uri.query().is_none() {
        true => Kind::Prefix,
        false => Kind::Url,
    };
    let what = what(kind, &url, &admin.facts.policy())?;
    Ok((kind, vec![(what, url.into_owned())]))
}

/// What the audit log has of such a request.
pub(super) fn parameters(parts: &Parts) -> Value {
    let mut said = Map::new();
    let fields = tags::FIELDS.into_iter().chain([header::HOST, SOFT]);
    for name in fields {
        let values = parts.headers.get_all(&name).iter();
        let values: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        if !values.is_empty() {
            said.insert(name.as_str().to_owned(), values.join(", ").into());
        }
    }
    said.into()
}
