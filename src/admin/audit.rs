//! `GET /v1/audit`: who has changed what of late.

use std::sync::Arc;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Desk;
use super::gate::Asking;
use super::problem::Problem;
use crate::state::audit::Entry;

/// More than so many are not told at once.
const MOST: u16 = 1000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Of {
    /// How many, the newest of all: 50, or up to 1000
    last: Option<u16>,
}

/// Changes that were asked for, the newest last.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Audit {
    pub entries: Vec<Told>,
    /// Lines among them that are no entries.
    pub unreadable: usize,
}

/// A change that somebody asked for.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct Told {
    /// RFC 3339
    pub time: String,
    /// How the asker is known: by the token, or as a user of this machine
    pub who: String,
    /// What the asker says to be called
    #[serde(rename = "as")]
    pub actor: Option<String>,
    /// Method and path, or what did it by itself
    pub what: String,
    /// What it was asked for with; secrets are not told
    #[schema(value_type = Object, nullable)]
    pub parameters: serde_json::Value,
    pub reason: Option<String>,
    /// `done`, or why not
    pub result: String,
}

impl From<Entry> for Told {
    fn from(entry: Entry) -> Told {
        Told {
            time: entry.time,
            who: entry.who,
            actor: entry.actor,
            what: entry.what,
            parameters: entry.parameters,
            reason: entry.reason,
            result: entry.result,
        }
    }
}

/// Who has changed what
#[utoipa::path(get, path = "/v1/audit", params(Of), responses((status = 200, body = Audit)))]
pub(super) async fn audit(admin: Desk, Asking(of): Asking<Of>) -> Result<Json<Audit>, Problem> {
    let most = of.last.unwrap_or(50);
    if most > MOST {
        return Err(Problem::bad(format!("`last` is {MOST} at most")));
    }
    let Some(log) = &admin.audit else {
        let why = "there is no audit log, for want of a state directory";
        return Err(Problem::unavailable(why));
    };
    let log = Arc::clone(log);
    let read = tokio::task::spawn_blocking(move || log.last(most.into())).await;
    let told = |why: String| Problem::unavailable(format!("the audit log can't be read: {why}"));
    let (entries, unreadable) = read
        .map_err(|error| told(error.to_string()))?
        .map_err(|error| told(error.to_string()))?;
    Ok(Json(Audit {
        entries: entries.into_iter().map(Told::from).collect(),
        unreadable,
    }))
}
