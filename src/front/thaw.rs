//! A page that lies on the disk since before this process: brought back first, and then looked up again.

use std::io;
use std::sync::Arc;

use super::asking::{Asking, Noted};
use super::h1::Conn;
use super::lookup::{self, Decision};
use super::record::Outcome;
use crate::cache::key::Key;
use crate::config::policy::Route;

/// Which page, and of which route.
pub struct Cold {
    key: Key,
    route: Arc<Route>,
}

/// Whether the page that is asked for is such a one.
pub fn decide(asking: &Asking, is_cold: impl FnOnce() -> bool) -> Option<Decision> {
    is_cold().then(|| {
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
    let read = move || fetcher.thaw(&cold.key, &cold.route);
    // Whatever comes of it, the page counts as brought back.
    let _ = tokio::task::spawn_blocking(read).await;
    let (site, from) = (&conn.site, conn.whence());
    let decision = lookup::after_wait(site, conn.inbox.bytes(), from, noted);
    Box::pin(conn.carry_out(noted, decision)).await
}
