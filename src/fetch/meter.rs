//! What came of one request to an origin, counted however it ends.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::origin::{OriginError, OriginErrorKind, OriginHead};
use crate::telemetry::{OriginResult, UpstreamMetrics};

/// One request's count. Dropped early, the request was cancelled.
pub struct Meter {
    metrics: Arc<UpstreamMetrics>,
    permitted: Instant,
    result: OriginResult,
    bill: Option<Bill>,
}

/// Who is told how much of an origin's time a request took.
#[derive(Clone)]
pub struct Bill(pub Arc<dyn Fn(Duration) + Send + Sync>);

impl fmt::Debug for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bill")
    }
}

impl Meter {
    /// From the permit on.
    pub fn start(metrics: &Arc<UpstreamMetrics>, bill: Option<Bill>) -> Meter {
        Meter {
            metrics: Arc::clone(metrics),
            permitted: clock::instant(),
            result: OriginResult::Cancelled,
            bill,
        }
    }

    /// From here on it holds no place at its origin.
    pub fn pay(&mut self) {
        if let Some(Bill(tell)) = self.bill.take() {
            tell(self.permitted.elapsed());
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
        self.pay();
        self.metrics.count(self.result);
    }
}
