//! What came of one request to an origin, counted however it ends.

use std::sync::Arc;
use std::time::Instant;

use crate::clock;
use crate::origin::{OriginError, OriginErrorKind, OriginHead};
use crate::telemetry::{OriginResult, UpstreamMetrics};

/// One request's count. Dropped early, the request was cancelled.
pub struct Meter {
    metrics: Arc<UpstreamMetrics>,
    permitted: Instant,
    result: OriginResult,
}

impl Meter {
    /// From the permit on.
    pub fn start(metrics: &Arc<UpstreamMetrics>) -> Meter {
        Meter {
            metrics: Arc::clone(metrics),
            permitted: clock::instant(),
            result: OriginResult::Cancelled,
        }
    }

    /// A final head came.
    pub fn head(&mut self, head: &OriginHead) {
        self.metrics
            .head_after(self.permitted.elapsed().as_micros() as u64);
        if head.status >= 500 {
            self.result = OriginResult::ServerError;
        }
    }

    /// The answer came to its end.
    pub fn end(&mut self) {
        if self.result == OriginResult::Cancelled {
            self.result = OriginResult::Ok;
        }
    }

    pub fn failed(&mut self, error: &OriginError) {
        self.result = match error.kind {
            OriginErrorKind::Connect | OriginErrorKind::Tls => OriginResult::Connect,
            OriginErrorKind::Malformed(_) | OriginErrorKind::TooLarge => OriginResult::Malformed,
            OriginErrorKind::Reset | OriginErrorKind::Write => OriginResult::Reset,
            _ => OriginResult::Timeout,
        };
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.metrics.count(self.result);
    }
}
