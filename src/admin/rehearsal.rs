//! `GET /v1/fallback/check`: how much of what is asked for there would be without the app.

use std::sync::Arc;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Desk;
use super::fallback::FallbackAnswers;
use super::problem::Problem;
use super::top::url;
use crate::cache::store::Warm;

/// Pages without anything are told of, so many at most.
const MOST: usize = 20;
/// So many of the pages that were found most often are looked at.
const HOT: usize = 100;

/// How much of what is asked for there would be without the app.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct FallbackCheck {
    /// From the first of the requests that it was tried on to now
    pub seconds: u64,
    /// Of how many of a thousand clients they are
    pub per_mille: u32,
    /// Where their answers would come from
    pub requests: FallbackAnswers,
    /// How many of them could be answered, of those that fallback is for, in hundredths
    pub share: f64,
    /// The cached pages that were found most often: how many of them were looked at,
    pub hot: usize,
    /// and how many are on the disk, too, for after a restart
    pub hot_on_disk: usize,
    /// The pages of which there is nothing, those first that were asked for most
    pub missing: Vec<MissingPage>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct MissingPage {
    /// As visitors ask for it; parameters of `hide_query` are not told
    pub url: String,
    /// How many of the requests were for it
    pub requests: u64,
}

/// How much of what is asked for there would be without the app
#[utoipa::path(get, path = "/v1/fallback/check", responses((status = 200, body = FallbackCheck)))]
pub(super) async fn check(admin: Desk) -> Result<Json<FallbackCheck>, Problem> {
    let facts = Arc::clone(&admin.facts);
    let looked = tokio::task::spawn_blocking(move || {
        let (fetcher, rehearsal) = (facts.fetcher(), facts.rehearse());
        let hot = fetcher.store.warmest(HOT);
        let is_on_disk = |page: &&Warm| fetcher.snapshot.covered(page.key.as_ref());
        (rehearsal, hot.len(), hot.iter().filter(is_on_disk).count())
    });
    let looked = looked.await;
    let (rehearsal, hot, hot_on_disk) =
        looked.map_err(|error| Problem::unavailable(error.to_string()))?;
    let requests = FallbackAnswers::new(|source| rehearsal.answers[source as usize]);
    let there = requests.cache + requests.snapshot + requests.file;
    let all = there + requests.maintenance;
    let hidden = admin.facts.policy().log.hide_query.clone();
    let missing = rehearsal.missing.iter().take(MOST);
    Ok(Json(FallbackCheck {
        seconds: rehearsal.seconds,
        per_mille: rehearsal.per_mille,
        share: match all {
            0 => 100.0,
            all => there as f64 * 100.0 / all as f64,
        },
        requests,
        hot,
        hot_on_disk,
        missing: missing
            .map(|(key, requests)| MissingPage {
                url: url(key, &hidden),
                requests: *requests,
            })
            .collect(),
    }))
}
