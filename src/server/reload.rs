//! What brings another config into force without being asked over the admin listener: the file, when it changes, and a
//! trial that nobody has confirmed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::change;
use crate::clock;
use crate::config::live::{By, Live, Source};
use crate::files::{self, Watched};
use crate::front::InForce;
use crate::telemetry::{Metrics, names};

/// How often the file is looked at. It has changed once it was the same twice.
const LOOK: Duration = Duration::from_millis(500);

/// The config of what is in force now, which came from `source` and was `text`.
pub fn live(source: Source, text: &str, in_force: &InForce, metrics: &Arc<Metrics>) -> Arc<Live> {
    let (read, write) = (Arc::clone(in_force), Arc::clone(in_force));
    let told = Arc::clone(metrics);
    let live = Arc::new(Live::new(
        source,
        text,
        clock::now(),
        Box::new(move || Arc::clone(&read.load().policy)),
        Box::new(move |policy| change::put_in_force(&write, policy, &told)),
    ));
    let of = |read: fn(&Live) -> f64| {
        let live = Arc::clone(&live);
        move || read(&live)
    };
    let version = |live: &Live| live.version().number as f64;
    let done = |live: &Live| live.counts.done.load(Ordering::Relaxed) as f64;
    let refused = |live: &Live| live.counts.refused.load(Ordering::Relaxed) as f64;
    let is_refused = |live: &Live| f64::from(u8::from(live.refused().is_some()));
    metrics.gauge(&names::CONFIG_VERSION, &[], of(version));
    metrics.gauge(&names::CONFIG_REFUSED, &[], of(is_refused));
    metrics.count_from(&names::CONFIG_CHANGES, &["done"], of(done));
    metrics.count_from(&names::CONFIG_CHANGES, &["refused"], of(refused));
    live
}

/// Watches, from a thread of its own, until the process ends. `watched`: the file, as it was before it was read.
///
/// # Errors
/// No thread can be had; for people.
pub fn watch(live: &Arc<Live>, watched: Option<Watched>) -> Result<(), String> {
    let live = Arc::clone(live);
    let look = move || {
        // What they come to is logged and counted there.
        if watched.as_ref().is_some_and(Watched::has_changed) {
            let _ = live.reload(By::new("file", "it has changed"), clock::now());
        }
        let _ = live.end_trial(clock::now());
        true
    };
    files::watch("config", LOOK, look).map_err(|e| format!("cannot start a thread: {e}"))
}
