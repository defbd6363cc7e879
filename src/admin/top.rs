//! `GET /v1/top`: what is asked for most.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Desk;
use super::gate::Asking;
use super::problem::Problem;
use crate::cache::store::Warm;
use crate::clock;
use crate::telemetry::access::hide;
use crate::telemetry::{CacheResult, Metrics, RouteMetrics};

const MOST: u8 = 100;
const SECONDS: u8 = 10;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Of {
    /// How many of each: 10, or up to 100
    most: Option<u8>,
    /// For how many seconds requests are counted: 1, or up to 10
    seconds: Option<u8>,
}

/// What is asked for most.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Top {
    /// For how long requests were counted
    pub seconds: f64,
    /// Busy routes, the busiest first; `-` are requests that no route took
    pub routes: Vec<TopRoute>,
    /// Stored pages, those first that were found most often
    pub pages: Vec<TopPage>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct TopRoute {
    pub name: String,
    /// Requests a second
    pub rate: f64,
    /// How many of them were answered from memory, in hundredths
    pub hits: f64,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct TopPage {
    /// As visitors ask for it; parameters of `hide_query` are not told
    pub url: String,
    /// How often a request has found it since it was first stored, within 32 for each of the proxy's threads
    pub found: u64,
    pub bytes: u64,
    pub variants: usize,
}

/// What is asked for most
#[utoipa::path(get, path = "/v1/top", params(Of), responses((status = 200, body = Top)))]
pub(super) async fn top(admin: Desk, Asking(of): Asking<Of>) -> Result<Json<Top>, Problem> {
    let (most, seconds) = (of.most.unwrap_or(10), of.seconds.unwrap_or(1));
    if most > MOST {
        return Err(Problem::bad(format!("`most` is {MOST} at most")));
    }
    if !(1..=SECONDS).contains(&seconds) {
        return Err(Problem::bad(format!("`seconds` is from 1 to {SECONDS}")));
    }
    let before = counts(&admin.metrics);
    let began = clock::instant();
    tokio::time::sleep(Duration::from_secs(seconds.into())).await;
    let lasted = (clock::instant() - began).as_secs_f64();
    let routes = rates(&before, &counts(&admin.metrics), lasted, most.into());
    let (fetcher, policy) = (admin.facts.fetcher(), admin.facts.policy());
    // All pages are looked at.
    let warmest = tokio::task::spawn_blocking(move || fetcher.store.warmest(most.into())).await;
    let warmest = warmest.map_err(|error| Problem::unavailable(error.to_string()))?;
    let page = |page: Warm| TopPage {
        url: url(page.key.as_ref().bytes(), &policy.log.hide_query),
        found: page.found,
        bytes: page.bytes,
        variants: page.variants,
    };
    Ok(Json(Top {
        seconds: lasted,
        routes,
        pages: warmest.into_iter().map(page).collect(),
    }))
}

/// Of each route, how many requests came and how many of them were hits.
type Counts = Vec<(String, u64, u64)>;

fn counts(metrics: &Metrics) -> Counts {
    const FROM_MEMORY: [CacheResult; 4] = [
        CacheResult::Hit,
        CacheResult::Stale,
        CacheResult::StaleError,
        CacheResult::StaleSlow,
    ];
    let count = |(name, route): (String, Arc<RouteMetrics>)| {
        let of = |results: &[CacheResult]| {
            let counts = results.iter().map(|result| route.counted(*result));
            counts.sum::<u64>()
        };
        (name, of(CacheResult::ALL), of(&FROM_MEMORY))
    };
    metrics.routes().into_iter().map(count).collect()
}

fn rates(before: &Counts, after: &Counts, seconds: f64, most: usize) -> Vec<TopRoute> {
    let since = |(name, all, hits): &(String, u64, u64)| {
        let first = before.iter().find(|(before, ..)| before == name);
        let (first, first_hits) = first.map_or((0, 0), |(_, all, hits)| (*all, *hits));
        (
            name.clone(),
            all.saturating_sub(first),
            hits.saturating_sub(first_hits),
        )
    };
    let mut busy: Vec<_> = after
        .iter()
        .map(since)
        .filter(|(_, all, _)| *all > 0)
        .collect();
    busy.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    busy.truncate(most);
    let told = |(name, all, hits): (String, u64, u64)| TopRoute {
        name,
        rate: all as f64 / seconds,
        hits: (hits as f64 / all as f64 * 100.0).min(100.0),
    };
    busy.into_iter().map(told).collect()
}

/// A page's address, by its key: scheme, host, path and query.
pub(super) fn url(key: &[u8], hidden: &[String]) -> String {
    let text = String::from_utf8_lossy(key);
    let mut parts = text.splitn(3, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (scheme, host, target) = (part(), part(), part());
    match target.split_once('?') {
        None => format!("{scheme}://{host}{target}"),
        Some((path, query)) => format!("{scheme}://{host}{path}?{}", hide(query, hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_by_what_came_meanwhile() {
        let count = |name: &str, all, hits| (name.to_owned(), all, hits);
        let before = vec![count("a", 100, 100), count("b", 0, 0), count("c", 7, 0)];
        let after = vec![
            count("a", 110, 105),
            count("b", 20, 0),
            count("c", 7, 0),
            count("d", 5, 5),
        ];
        let told: Vec<_> = rates(&before, &after, 2.0, 2)
            .into_iter()
            .map(|route| (route.name, route.rate, route.hits))
            .collect();
        assert_eq!(told, [("b".into(), 10.0, 0.0), ("a".into(), 5.0, 50.0)]);
    }

    #[test]
    fn addresses_without_what_is_hidden() {
        let hidden = ["token".to_owned()];
        assert_eq!(url(b"http\0a.test\0/p", &hidden), "http://a.test/p");
        assert_eq!(
            url(b"https\0a.test:444\0/p?q=1&to%6ben=x", &hidden),
            "https://a.test:444/p?q=1&to%6ben=***"
        );
    }
}
