//! A page that lies on the disk since before this process: brought back first, and then looked up again.

use std::io;
use std::sync::Arc;

use http::HeaderName;

use super::Site;
use super::asking::{Asking, Noted};
use super::h1::Conn;
use super::lookup::{self, Decision, Turn};
use super::record::Outcome;
use crate::cache::key::Key;
use crate::config::policy::Route;

/// Which page, and of which route.
pub struct Cold {
    key: Key,
    route: Arc<Route>,
}

/// What becomes of a request whose page is not in memory, if the disk has it as `select` says.
pub fn decide(
    site: &Site,
    asking: &Asking,
    turn: &Turn,
    select: impl FnMut(&[HeaderName]) -> Box<[u8]>,
) -> Option<Decision> {
    let is_cold =
        !matches!(turn, Turn::Thawed(_)) && site.fetcher.is_cold(asking.key, asking.route, select);
    is_cold.then(|| {
        Decision::Cold(Box::new(Cold {
            key: asking.key.to_key(),
            route: Arc::clone(asking.route),
        }))
    })
}

/// Brings it back, off the workers, and carries on.
///
/// # Errors
/// The client's connection failed.
pub async fn serve(conn: &mut Conn, noted: &Noted, cold: Cold) -> io::Result<Outcome> {
    let fetcher = Arc::clone(&conn.site.fetcher);
    let read = move || fetcher.thaw_now(&cold.key, &cold.route);
    let page = tokio::task::spawn_blocking(read).await.ok().flatten();
    let (site, from) = (&conn.site, conn.whence());
    let turn = Turn::Thawed(page);
    let decision = lookup::decide_again(site, conn.inbox.bytes(), from, noted, &turn);
    Box::pin(conn.carry_out(noted, decision)).await
}
