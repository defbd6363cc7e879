//! Warm from the start: pages that processes before have left on the disk go into memory, those first that were asked for
//! last.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::cache::key::KeyRef;
use crate::clock;
use crate::config::policy::{Policy, Route};
use crate::front::InForce;
use crate::snapshot::{self, Candidate, Thawed, Writer};

/// How long visitors wait for it. What is not there by then is brought in beside them, and at once when it is asked for.
const FIRST: Duration = Duration::from_secs(1);

/// Begins to keep pages on the disk, and brings back those that are there.
///
/// # Errors
/// No thread can be had; for people.
pub fn begin(in_force: &InForce) -> Result<(), String> {
    let told = |e: std::io::Error| format!("cannot start a thread: {e}");
    let snapshot = Arc::clone(&in_force.load().fetcher.snapshot);
    if !snapshot.has_place() {
        tracing::info!("no state directory: pages are not kept on the disk");
        return Ok(());
    }
    let (done, ended) = channel::<()>();
    let in_force = Arc::clone(in_force);
    let run = move || {
        let Some(writer) = Writer::open(&snapshot) else {
            return;
        };
        let thread = thread::Builder::new().name("snapshot".into());
        if let Err(why) = thread.spawn(move || writer.work()) {
            tracing::warn!(%why, "no thread to write pages to the disk");
            snapshot.stop();
        }
        bring_back(&in_force);
        drop(done);
    };
    let thread = thread::Builder::new().name("thaw".into());
    thread.spawn(run).map_err(told)?;
    if ended.recv_timeout(FIRST) == Err(RecvTimeoutError::Timeout) {
        tracing::info!("pages are still brought back");
    }
    Ok(())
}

/// As many as half of the memory takes.
fn bring_back(in_force: &InForce) {
    let began = clock::instant();
    let candidates = in_force.load().fetcher.snapshot.candidates();
    let (all, mut pages) = (candidates.len(), 0);
    for candidate in candidates {
        // By what is in force then: a config or lever may come meanwhile.
        let site = in_force.load();
        let (fetcher, policy) = (&site.fetcher, &site.policy);
        if fetcher.store.size().1 > fetcher.memory.cap() as u64 / 2 {
            break;
        }
        let Some(route) = wants(policy, &candidate) else {
            continue;
        };
        if matches!(fetcher.thaw(&candidate.key, route), Thawed::NoMemory) {
            break;
        }
        pages += 1;
    }
    if all > 0 {
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(pages, all, ms, "pages were brought back from the disk");
    }
}

/// The route that such a page is of, if it is cached there, under such a key, and comes from there.
fn wants<'a>(policy: &'a Policy, candidate: &Candidate) -> Option<&'a Route> {
    let key = std::str::from_utf8(KeyRef::bytes(candidate.key.as_ref())).ok()?;
    let mut parts = key.splitn(3, '\0').skip(1);
    let (host, target) = (parts.next()?, parts.next()?);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let route = policy.route(host, path)?;
    let origin = snapshot::origin(&policy.upstreams.get(route.upstream)?.name);
    let is_its = route.cache && origin == candidate.origin;
    (is_its && policy.target(host, path, query) == target).then_some(route)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn pages_are_wanted_by_what_the_config_says_now() {
        let text = "
            [[upstream]]
            name = 'app'
            servers = ['http://127.0.0.1:1']
            [[upstream]]
            name = 'shop'
            servers = ['http://127.0.0.1:2']
            [[route]]
            name = 'rest'
            upstream = 'app'
            query_drop = ['utm_*']
            [[route]]
            name = 'shop'
            hosts = ['shop.a']
            upstream = 'shop'
            [[route]]
            name = 'raw'
            path = '/raw'
            upstream = 'app'
            cache = false
        ";
        let policy = config::compile("t.toml", text).unwrap();
        let route = |key: &str, origin: &str| {
            let candidate = Candidate {
                key: KeyRef::new(key.as_bytes()).to_key(),
                origin: snapshot::origin(origin),
            };
            wants(&policy, &candidate).map(|route| route.name.clone())
        };
        let rest = Some("rest".to_owned());
        assert_eq!(route("http\0a\0/p?q=1", "app"), rest);
        assert_eq!(route("https\0a:81\0/", "app"), rest);
        assert_eq!(route("http\0shop.a\0/", "shop"), Some("shop".to_owned()));
        // Of an app that was there before, under a key of before, where nothing is cached, or no key at all.
        assert_eq!(route("http\0shop.a\0/", "app"), None);
        assert_eq!(route("http\0a\0/p?utm_source=x", "app"), None);
        assert_eq!(route("http\0a\0/raw/1", "app"), None);
        assert_eq!(route("/p", "app"), None);
    }
}
