//! The harness's clocks, for deadlines and for dates in scripts. Scripts turn the proxy's, not these.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "the tests' own clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Since 1970.
#[expect(clippy::disallowed_methods, reason = "the tests' own clock")]
pub fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
