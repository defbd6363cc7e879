//! A request whose upstream is down, and nothing stored to serve it with: told so at once, at no more than a hit costs.

use std::io;
use std::sync::Arc;

use super::Site;
use super::asking::{Asking, Noted};
use super::h1::Conn;
use super::lookup::Miss;
use super::problem::Problem;
use super::record::Outcome;
use crate::cache::flight::{Failure, Refusal};
use crate::config::policy::Route;
use crate::rules::cache_status::{Fwd, Told};
use crate::rules::time::Moment;

/// A request whose upstream is down.
pub struct Down {
    pub route: Arc<Route>,
    pub why: Fwd,
    pub refusal: Refusal,
    /// Where the route wants it told.
    pub status_key: Option<Box<[u8]>>,
}

impl Down {
    pub fn of(miss: &Miss, refusal: Refusal) -> Down {
        Down {
            route: Arc::clone(&miss.route),
            why: miss.why,
            refusal,
            status_key: miss.status_key.clone(),
        }
    }

    /// The request at hand, if its upstream is.
    pub fn at_once(site: &Site, asking: &Asking, why: Fwd, now: Moment) -> Option<Down> {
        let refusal = site.fetcher.down(asking.route, now)?;
        Some(Down {
            route: Arc::clone(asking.route),
            why,
            refusal,
            status_key: asking.route.status_key.then(|| asking.key.bytes().into()),
        })
    }
}

/// Tells a client at once that it is.
///
/// # Errors
/// The client's connection failed.
pub async fn refuse(conn: &mut Conn, noted: &Noted, down: &Down) -> io::Result<Outcome> {
    let told = Told {
        key: down.status_key.as_deref(),
        ..Told::refused(down.why)
    };
    let problem = Problem::failure(&Failure::Refused(down.refusal));
    let outcome = conn.answer(&problem, noted, Some(&told)).await?;
    Ok(Outcome {
        route: Some(Arc::clone(&down.route)),
        ..outcome
    })
}
