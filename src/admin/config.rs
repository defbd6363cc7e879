//! `/v1/config`: which config is in force, and how another comes into force.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::gate::{Asked, Caller};
use super::problem::Problem;
use super::{Admin, Desk};
use crate::clock;
use crate::config::live::{By, Done, Live, Refused, Version};
use crate::config::plan;
use crate::levers::apply;
use crate::rules::replay::Replay;
use crate::rules::time::Moment;
use crate::telemetry::access::stamp;

/// The config in force, and those before it.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Configs {
    /// The one in force first
    pub versions: Vec<Told>,
    /// In so many seconds the one before is in force again, unless this one is confirmed
    pub trial_seconds: Option<u64>,
    /// Why the last change was refused, if that was the last that was tried
    pub refused: Option<String>,
}

/// A config that is in force, or was.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ConfigVersion)]
pub struct Told {
    pub number: u64,
    /// Since when (RFC 3339)
    pub since: String,
    /// Who wanted it
    pub who: String,
    pub reason: String,
    /// Whether it is what the file said
    pub from_file: bool,
}

/// What a change came to.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Changed {
    pub version: Told,
    /// Options that are written otherwise, and wait for a restart
    pub waits: Vec<String>,
    /// In so many seconds it is undone, unless it is confirmed
    pub trial_seconds: Option<u64>,
    /// Whether a restart would bring another config: the file's
    pub differs_from_file: bool,
}

/// What a config would change.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Option by option, in words
    pub changes: Vec<String>,
    /// Options that would wait for a restart
    pub waits: Vec<String>,
    /// What it would have done with the last minutes' requests
    pub replay: Replayed,
}

/// What a config would have done with the last minutes' requests, against the one in force.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Replayed {
    /// How many it was tried on: those that are remembered, 4,096 at most
    pub requests: u64,
    /// From the first of them to now
    pub seconds: u64,
    /// Of how many of a thousand clients they are
    pub per_mille: u32,
    /// How many another route would have taken, or none
    pub routed: u64,
    /// How many would have gone past the cache instead, been looked for there instead, or under another key
    pub cached: u64,
    /// How many limits would have refused or delayed, or would have no longer. What counts for limits only when it reaches an
    /// origin, and how many are in hand at once, is not replayed
    pub limited: u64,
    /// How many lists and rules would have turned away or asked for a pass, or would have no longer
    pub blocked: u64,
    /// By kind, the 20 most frequent
    pub differences: Vec<Difference>,
    /// Limits that were not tried, since by them all clients count together
    pub left_out: Vec<String>,
}

/// Requests of which the same would have been otherwise.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Difference {
    pub before: String,
    pub after: String,
    pub requests: u64,
    /// One of them
    pub example: String,
}

impl From<Replay> for Replayed {
    fn from(replay: Replay) -> Replayed {
        let differences = replay.differences.into_iter().map(|one| Difference {
            before: one.before,
            after: one.after,
            requests: one.requests,
            example: one.example,
        });
        Replayed {
            requests: replay.requests,
            seconds: replay.seconds,
            per_mille: replay.per_mille,
            routed: replay.routed,
            cached: replay.cached,
            limited: replay.limited,
            blocked: replay.blocked,
            differences: differences.collect(),
            left_out: replay.left_out,
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Apply {
    /// The whole config
    text: String,
    #[serde(default)]
    reason: String,
    /// It is undone after so many seconds, unless it is confirmed before
    #[serde(default)]
    confirm_seconds: Option<u64>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reload {
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollBack {
    /// The number of the version; else the one before
    #[serde(default)]
    to: Option<u64>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Planned {
    /// The whole config; else the file's
    #[serde(default)]
    text: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// The longest trial.
const TRIAL_MOST: u64 = 24 * 60 * 60;

/// The config in force, and those before it
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = Configs)))]
pub(super) async fn configs(admin: Desk) -> Json<Configs> {
    let live = &admin.live;
    Json(Configs {
        versions: live.versions().iter().map(|one| told(one)).collect(),
        trial_seconds: live.trial().map(left),
        refused: live.refused(),
    })
}

/// Puts a config in force, until the next reload or restart
#[utoipa::path(post, path = "/v1/config", request_body = Apply, responses((status = 200, body = Changed)))]
pub(super) async fn apply(
    admin: Desk,
    caller: axum::Extension<Caller>,
    Asked(asked): Asked<Apply>,
) -> Result<Json<Changed>, Problem> {
    let trial = match asked.confirm_seconds {
        Some(seconds) if !(1..=TRIAL_MOST).contains(&seconds) => {
            let detail = format!("`confirm_seconds` is from 1 to {TRIAL_MOST}");
            return Err(Problem::bad(detail));
        }
        seconds => seconds.map(Duration::from_secs),
    };
    let by = by(&caller, &asked.reason);
    change(&admin, move |live| {
        live.apply(&asked.text, by, trial, clock::now())
    })
    .await
}

/// Reads the config file anew, and the files it names
#[utoipa::path(post, path = "/v1/config/reload", request_body = Reload, responses((status = 200, body = Changed)))]
pub(super) async fn reload(
    admin: Desk,
    caller: axum::Extension<Caller>,
    Asked(asked): Asked<Reload>,
) -> Result<Json<Changed>, Problem> {
    let by = by(&caller, &asked.reason);
    change(&admin, move |live| live.reload(by, clock::now())).await
}

/// Puts an earlier config in force again
#[utoipa::path(post, path = "/v1/config/rollback", request_body = RollBack, responses((status = 200, body = Changed)))]
pub(super) async fn roll_back(
    admin: Desk,
    caller: axum::Extension<Caller>,
    Asked(asked): Asked<RollBack>,
) -> Result<Json<Changed>, Problem> {
    let by = by(&caller, &asked.reason);
    change(&admin, move |live| {
        live.roll_back(asked.to, by, clock::now())
    })
    .await
}

/// Keeps a config that is on trial
#[utoipa::path(post, path = "/v1/config/confirm", request_body = Nothing, responses((status = 200, body = Told)))]
pub(super) async fn confirm(
    admin: Desk,
    Asked(Nothing {}): Asked<Nothing>,
) -> Result<Json<Told>, Problem> {
    let confirmed = off_the_runtime(&admin, |live| live.confirm()).await?;
    Ok(Json(told(&confirmed)))
}

/// Tells what a config would change, and changes nothing
#[utoipa::path(post, path = "/v1/config/plan", request_body = Planned, responses((status = 200, body = Plan)))]
pub(super) async fn plan(admin: Desk, Asked(asked): Asked<Planned>) -> Result<Json<Plan>, Problem> {
    let (facts, board) = (Arc::clone(&admin.facts), Arc::clone(&admin.board));
    let plan = off_the_runtime(&admin, move |live| {
        let text = match asked.text {
            Some(text) => text,
            None => live.written()?,
        };
        let believed = live.believe(&text);
        let (policy, waits) = believed.map_err(|report| Refused::Mistakes(Box::new(report)))?;
        let policy = apply::over(&policy, &board.levers());
        let replay = facts.replay(policy).map_err(Refused::Failed)?;
        Ok(Plan {
            replay: replay.into(),
            changes: plan::changes(&live.version().text, &text),
            waits: waits.into_iter().map(str::to_owned).collect(),
        })
    });
    plan.await.map(Json)
}

fn by(caller: &Caller, reason: &str) -> By {
    By::new(&name(caller), reason)
}

/// Who it was, for people.
pub(super) fn name(caller: &Caller) -> String {
    match &caller.actor {
        Some(actor) => format!("{actor} ({})", caller.who),
        None => caller.who.clone(),
    }
}

async fn change(
    admin: &Arc<Admin>,
    change: impl FnOnce(&Live) -> Result<Done, Refused> + Send + 'static,
) -> Result<Json<Changed>, Problem> {
    let done = off_the_runtime(admin, change).await?;
    Ok(Json(Changed {
        version: told(&done.version),
        waits: done.waits.iter().map(|&name| name.to_owned()).collect(),
        trial_seconds: done.trial.map(left),
        differs_from_file: !done.version.from_file,
    }))
}

/// It reads files, and waits for servers that are new.
async fn off_the_runtime<T: Send + 'static>(
    admin: &Arc<Admin>,
    work: impl FnOnce(&Live) -> Result<T, Refused> + Send + 'static,
) -> Result<T, Problem> {
    let live = Arc::clone(&admin.live);
    let done = tokio::task::spawn_blocking(move || work(&live)).await;
    match done {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(refused)) => {
            let status = match &refused {
                Refused::Mistakes(_) => StatusCode::UNPROCESSABLE_ENTITY,
                Refused::Failed(_) => StatusCode::CONFLICT,
            };
            Err(Problem::new(status, refused.to_string()))
        }
        Err(_) => Err(Problem::unavailable("it broke off; the log may say why")),
    }
}

fn told(version: &Version) -> Told {
    Told {
        number: version.number,
        since: stamp(version.since.saturating_mul(1000)),
        who: version.by.who.clone(),
        reason: version.by.reason.clone(),
        from_file: version.from_file,
    }
}

fn left(until: Moment) -> u64 {
    until.since(clock::moment()).as_millis().div_ceil(1000) as u64
}
