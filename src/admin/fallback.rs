//! `GET /v1/fallback`: which routes do without their app, since whose word, and what their visitors got.

use std::sync::Arc;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Desk;
use super::levers::{Told as PulledLever, told};
use crate::config::policy::Route;
use crate::fallback::Reserve;
use crate::levers::Pull;
use crate::telemetry::FallbackSource;

/// What there is without apps, and for whom it is on.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Fallback {
    /// In the order of the config
    pub routes: Vec<FallbackRoute>,
    /// The levers that have it on, or have it tried
    pub levers: Vec<PulledLever>,
}

/// One route's.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct FallbackRoute {
    pub name: String,
    /// Its visitors get what there is without its app
    pub on: bool,
    /// It is on by itself: nothing healthy is left of its upstream
    pub by_itself: bool,
    pub answers: FallbackAnswers,
    /// Requests on which it was tried while the app was there
    pub drill: FallbackDrill,
}

/// What trying it came to.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct FallbackDrill {
    pub cache: u64,
    pub snapshot: u64,
    pub file: u64,
    /// There was nothing, so the app answered
    pub maintenance: u64,
}

impl FallbackDrill {
    pub fn all(&self) -> u64 {
        self.cache + self.snapshot + self.file + self.maintenance
    }
}

/// Where answers came from since the process began.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct FallbackAnswers {
    /// Cached pages, however stale
    pub cache: u64,
    /// The last good copies on the disk
    pub snapshot: u64,
    /// Files of the directory
    pub file: u64,
    /// The maintenance page
    pub maintenance: u64,
    /// Requests for what can't be had without the app
    pub refused: u64,
}

/// Which routes do without their app, and what their visitors got
#[utoipa::path(get, path = "/v1/fallback", responses((status = 200, body = Fallback)))]
pub(super) async fn fallback(admin: Desk) -> Json<Fallback> {
    let (policy, reserve) = admin.facts.reserve();
    let levers = admin.board.levers().into_iter();
    let levers =
        levers.filter(|lever| matches!(lever.pull, Pull::Fallback { .. } | Pull::Drill { .. }));
    Json(Fallback {
        routes: (policy.routes.iter())
            .map(|route| of_route(route, &reserve))
            .collect(),
        levers: levers.map(|lever| told(&lever)).collect(),
    })
}

impl FallbackAnswers {
    pub(super) fn new(of: impl Fn(FallbackSource) -> u64) -> FallbackAnswers {
        FallbackAnswers {
            cache: of(FallbackSource::Cache),
            snapshot: of(FallbackSource::Snapshot),
            file: of(FallbackSource::File),
            maintenance: of(FallbackSource::Maintenance),
            refused: of(FallbackSource::Refused),
        }
    }
}

fn of_route(route: &Arc<Route>, reserve: &Reserve) -> FallbackRoute {
    let drilled = |source| reserve.drilled(route, source);
    FallbackRoute {
        name: route.name.clone(),
        on: reserve.is_on(route),
        by_itself: reserve.is_on_by_itself(route),
        answers: FallbackAnswers::new(|source| reserve.counted(route, source)),
        drill: FallbackDrill {
            cache: drilled(FallbackSource::Cache),
            snapshot: drilled(FallbackSource::Snapshot),
            file: drilled(FallbackSource::File),
            maintenance: drilled(FallbackSource::Maintenance),
        },
    }
}
