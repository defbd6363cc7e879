//! `/v1/levers`: what is pulled, and how it is pulled and undone.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::config::name;
use super::fleet::{Everywhere, everywhere};
use super::gate::{Asked, Caller};
use super::problem::Problem;
use super::{Admin, Desk};
use crate::clock;
use crate::levers::board::Board;
use crate::levers::{Lever, Order, Pull};
use crate::telemetry::access::stamp;

/// The levers that are pulled, in their order.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Levers {
    pub levers: Vec<Told>,
}

/// A lever that is pulled.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = PulledLever)]
pub struct Told {
    pub id: u64,
    /// What it is, and what it is about: `{"lever": "ttl", "route": "blog", "stretch": 10}`
    #[schema(value_type = Object)]
    pub pull: serde_json::Value,
    pub who: String,
    pub reason: String,
    /// Since when (RFC 3339)
    pub since: String,
    /// In so many seconds it undoes itself
    pub left_seconds: Option<u64>,
}

/// What pulling or undoing one came to.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Pulled {
    pub lever: Told,
    /// Those it took the place of
    pub instead: Vec<Told>,
    /// Why a restart would not know of it
    pub unkept: Option<String>,
    /// The other proxies; nothing without `[redis]`
    pub fleet: Option<Everywhere>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PullIt {
    /// What to pull: `{"lever": "ttl", "route": "blog", "stretch": 10}`
    #[schema(value_type = Object)]
    pull: Pull,
    /// It undoes itself after so many seconds
    #[serde(default)]
    for_seconds: Option<u64>,
    #[serde(default)]
    reason: String,
    /// Though it may turn everybody away
    #[serde(default)]
    force: bool,
}

/// The longest that a lever may be pulled for.
const LONGEST: u64 = 366 * 24 * 60 * 60;

/// The levers that are pulled
#[utoipa::path(get, path = "/v1/levers", responses((status = 200, body = Levers)))]
pub(super) async fn levers(admin: Desk) -> Json<Levers> {
    let levers = admin.board.levers();
    Json(Levers {
        levers: levers.iter().map(told).collect(),
    })
}

/// Pulls a lever
#[utoipa::path(post, path = "/v1/levers", request_body = PullIt, responses((status = 200, body = Pulled)))]
pub(super) async fn pull(
    admin: Desk,
    caller: axum::Extension<Caller>,
    Asked(asked): Asked<PullIt>,
) -> Result<Json<Pulled>, Problem> {
    if let Some(seconds) = asked.for_seconds
        && !(1..=LONGEST).contains(&seconds)
    {
        let detail = format!("`for_seconds` is from 1 to {LONGEST}");
        return Err(Problem::bad(detail));
    }
    let order = Order {
        who: name(&caller),
        reason: asked.reason,
        time: asked.for_seconds.map(Duration::from_secs),
        force: asked.force,
    };
    let pulled = off_the_runtime(&admin, move |board| {
        board.pull(asked.pull, order, clock::now().wall)
    });
    let pulled = pulled.await?;
    Ok(Json(Pulled {
        lever: told(&pulled.lever),
        instead: pulled.instead.iter().map(told).collect(),
        unkept: pulled.unkept,
        fleet: everywhere(&admin.facts.fleet(), Some(pulled.lever.uid)).await,
    }))
}

/// Undoes a lever
#[utoipa::path(delete, path = "/v1/levers/{id}", params(("id" = u64, Path)), responses((status = 200, body = Pulled)))]
pub(super) async fn undo(admin: Desk, Path(id): Path<u64>) -> Result<Json<Pulled>, Problem> {
    let (lever, unkept) = off_the_runtime(&admin, move |board| board.undo(id)).await?;
    Ok(Json(Pulled {
        lever: told(&lever),
        instead: Vec::new(),
        unkept,
        fleet: everywhere(&admin.facts.fleet(), Some(lever.uid)).await,
    }))
}

async fn off_the_runtime<T: Send + 'static>(
    admin: &Arc<Admin>,
    work: impl FnOnce(&Board) -> Result<T, String> + Send + 'static,
) -> Result<T, Problem> {
    let board = Arc::clone(&admin.board);
    match tokio::task::spawn_blocking(move || work(&board)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(why)) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)),
        Err(_) => Err(Problem::unavailable("it broke off; the log may say why")),
    }
}

pub(super) fn told(lever: &Lever) -> Told {
    let left = |until: u64| until.saturating_sub(clock::now().wall);
    Told {
        id: lever.id,
        // It is made of words and numbers.
        pull: serde_json::to_value(&lever.pull).unwrap_or_default(),
        who: lever.who.clone(),
        reason: lever.reason.clone(),
        since: stamp(lever.since.saturating_mul(1000)),
        left_seconds: lever.until.map(left),
    }
}
