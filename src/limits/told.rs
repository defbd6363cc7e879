//! What clients are told of a limit: RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10 §3, §4).

use std::time::Duration;

use super::spec::{LimitSpec, Rate};
use crate::rules::decimal;

/// The lines about one limit, as far as they are always the same.
pub struct Lines {
    /// The policy's line, and the other's up to what is left.
    start: Box<[u8]>,
    /// Told in `X-RateLimit-*` as well: the line of how many there are, and the next one's beginning.
    other: Option<Box<[u8]>>,
}

impl Lines {
    pub fn of(spec: &LimitSpec) -> Lines {
        let name = &spec.name;
        let (policy, quota) = match (spec.rate, spec.concurrency) {
            (Some(Rate { count, per, .. }), _) => {
                (format!("q={count};w={}", whole_seconds(per)), count)
            }
            (None, at_once) => {
                let most = at_once.map_or(0, u64::from);
                (format!("q={most};qu=\"concurrent-requests\""), most)
            }
        };
        let start = format!("RateLimit-Policy: \"{name}\";{policy}\r\nRateLimit: \"{name}\";r=");
        let other = format!("X-RateLimit-Limit: {quota}\r\nX-RateLimit-Remaining: ");
        Lines {
            start: start.into_bytes().into(),
            other: spec.x_ratelimit.then(|| other.into_bytes().into()),
        }
    }

    /// Appends them. `reset`: when there is more, or all, of it again.
    pub fn write(&self, remaining: u64, reset: Duration, out: &mut Vec<u8>) {
        let reset = whole_seconds(reset);
        out.extend_from_slice(&self.start);
        decimal::write(remaining, out);
        out.extend_from_slice(b";t=");
        decimal::write(reset, out);
        out.extend_from_slice(b"\r\n");
        if let Some(other) = &self.other {
            out.extend_from_slice(other);
            decimal::write(remaining, out);
            out.extend_from_slice(b"\r\nX-RateLimit-Reset: ");
            decimal::write(reset, out);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Rounded up.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
