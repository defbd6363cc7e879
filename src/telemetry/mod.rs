//! What can be seen from outside: metrics, the access log, events, request ids. A leaf: it knows
//! the clock and nothing else of the house.
//!
//! The road pays for it with thread-local work only: counters sharded by thread ([`sharded`]),
//! lines written straight into the thread's own buffer ([`ring`]), ids from the thread's own
//! generator ([`ids`]).

pub mod access;
pub mod events;
pub mod ids;
pub mod labels;
pub mod metrics;
pub mod names;
pub mod process;
pub mod ring;
pub mod sharded;
mod sink;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use access::{Access, AccessLog, Client};
pub use ids::{RequestId, TraceParent};
pub use labels::{
    AdminRefused, CacheResult, ChallengeResult, FallbackSource, Limited, OriginResult, ProbeResult,
    RedisResult, RefreshResult, RefusedReason, ResolveResult,
};
pub use metrics::{Metrics, RouteMetrics, UpstreamMetrics};
pub use ring::Ring;
pub use sharded::Counter;
pub use sink::Output;

/// How long [`Telemetry::close`] waits for a log's reader that does not read.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Everything of this room, started.
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    pub access: Arc<AccessLog>,
    rings: Vec<Arc<Ring>>,
}

/// Starts the logs and the metrics. Events of `level` (`off`, `error`, `warn`, `info`, `debug`,
/// `trace`) go to stdout as JSON lines, access lines to `access`; the values of `hide_query`
/// parameters are not written.
///
/// # Errors
/// A log file that cannot be opened, a level that is none, a thread that cannot be had.
pub fn start(access: &Output, level: &str, hide_query: &[String]) -> io::Result<Telemetry> {
    let metrics = Arc::new(Metrics::new());
    let stdout = Arc::new(Ring::start(&Output::Stdout)?);
    let mut rings = vec![stdout.clone()];
    let access = match access {
        Output::Off => AccessLog::off(),
        Output::Stdout => AccessLog::new(stdout.clone(), hide_query),
        Output::File(_) => {
            let file = Arc::new(Ring::start(access)?);
            rings.push(file.clone());
            AccessLog::new(file, hide_query)
        }
    };
    let counted = rings.clone();
    metrics.count_from(&names::LOG_DROPPED, &[], move || {
        counted.iter().map(|ring| ring.dropped()).sum::<u64>() as f64
    });
    process::register(&metrics);
    events::install(level, stdout)?;
    Ok(Telemetry {
        metrics,
        access: Arc::new(access),
        rings,
    })
}

impl Telemetry {
    /// Writes out what the logs still hold. Lines given later are dropped and counted. False if a
    /// reader did not take them in two seconds.
    pub fn close(&self) -> bool {
        let closed: Vec<bool> = (self.rings.iter())
            .map(|ring| ring.close(CLOSE_PATIENCE))
            .collect();
        !closed.contains(&false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn started_with_a_file_it_holds_every_line_once_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let telemetry = start(&Output::File(path.clone()), "off", &["token".to_owned()]).unwrap();
        let client = std::net::IpAddr::from([127, 0, 0, 1]).into();
        let ids: Vec<RequestId> = (0..100).map(|_| RequestId::fresh()).collect();
        for id in &ids {
            telemetry.access.write(&Access {
                at: crate::clock::moment(),
                request_id: id,
                trace_id: None,
                client: &client,
                method: "GET",
                host: b"example.com",
                path: b"/",
                query: Some("token=secret"),
                user_agent: None,
                status: 200,
                bytes: 0,
                micros: 0,
                cache: CacheResult::Miss,
                limit: None,
                upstream: Some("app"),
                attempts: 1,
                marked: access::Marked::default(),
            });
        }
        assert!(telemetry.close());
        let log = std::fs::read_to_string(&path).unwrap();
        let told: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(told.len(), ids.len());
        for (line, id) in told.iter().zip(&ids) {
            assert_eq!(line["request_id"], id.as_str());
            assert_eq!(line["path"], "/?token=***");
        }
        assert!(
            telemetry
                .metrics
                .render()
                .contains("\ntidegate_log_dropped_total 0\n")
        );
    }

    #[test]
    fn a_level_or_file_that_is_none_is_an_error() {
        assert!(start(&Output::Off, "loud", &[]).is_err());
        assert!(start(&Output::File("/no/such/folder/log".into()), "info", &[]).is_err());
    }
}
