//! The only clock. Everything else takes the time as an argument, or asks here.
//!
//! Two readings: monotonic milliseconds since the process started, which decide, and the wall
//! clock, which is only told (Date, logs). The wall clock is read once a second and carried forward
//! by the monotonic one in between, so [`now`] costs one clock reading; a step of the system's
//! clock shows within a second.
//!
//! Debug builds can be turned forward by hand with [`advance`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::rules::time::{Moment, Now};

/// Both clocks: monotonic milliseconds since the start, and Unix seconds.
pub fn now() -> Now {
    let mono = moment();
    Now {
        mono,
        wall: wall_millis(mono) / 1000,
    }
}

/// A reading of the monotonic clock: nanoseconds since the process first asked. Never turned by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(u64);

/// Reads the monotonic clock once, for all that is to be told of one wake-up.
pub fn tick() -> Tick {
    // 584 years fit.
    Tick(start().elapsed().as_nanos() as u64)
}

impl Tick {
    /// The process's milliseconds: [`uptime_millis`] as it was.
    pub fn uptime_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// [`moment`] as it was.
    pub fn moment(self) -> Moment {
        Moment(self.uptime_millis() + turned())
    }

    /// Nanoseconds, turned with [`moment`].
    pub fn nanos(self) -> u64 {
        self.0 + turned() * 1_000_000
    }

    /// [`now`] as it was, for a tick of a short while ago.
    pub fn now(self) -> Now {
        let mono = self.moment();
        Now {
            mono,
            wall: wall_millis(mono) / 1000,
        }
    }

    /// For deadlines on sockets.
    pub fn instant(self) -> Instant {
        start() + Duration::from_nanos(self.0)
    }

    pub fn micros_since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }
}

/// Monotonic milliseconds since the process first asked.
pub fn moment() -> Moment {
    Moment(uptime_millis() + turned())
}

/// The wall clock at `at`, in Unix milliseconds. For moments of about now: an earlier or later step
/// of the system's clock is not known.
pub fn wall_millis(at: Moment) -> u64 {
    start();
    if at.0 >= NEXT_READING.load(Relaxed) {
        read_wall(uptime_millis());
        NEXT_READING.store(at.0 + 1000, Relaxed);
    }
    at.0.saturating_add_signed(WALL_AHEAD.load(Relaxed))
}

/// Milliseconds since the process first asked, never turned by hand: for what watches the process
/// itself.
pub fn uptime_millis() -> u64 {
    tick().uptime_millis()
}

/// The engine's clock, for deadlines on sockets and for measuring how long something took. Never
/// turned by hand.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn instant() -> Instant {
    Instant::now()
}

/// The timers' clock: [`instant`], but for tests that pause the runtime's time.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn timer() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Turns the clock of [`now`] and [`moment`] forward, for tests that will not wait.
#[cfg(debug_assertions)]
pub fn advance(by: Duration) {
    TURNED.fetch_add(whole_millis(by), Relaxed);
}

static START: OnceLock<Instant> = OnceLock::new();
/// Wall clock minus uptime, in milliseconds.
static WALL_AHEAD: AtomicI64 = AtomicI64::new(0);
/// The monotonic millisecond from which the wall clock is read again.
static NEXT_READING: AtomicU64 = AtomicU64::new(0);
#[cfg(debug_assertions)]
static TURNED: AtomicU64 = AtomicU64::new(0);

fn start() -> Instant {
    *START.get_or_init(|| {
        read_wall(0);
        instant()
    })
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn read_wall(uptime: u64) {
    // A wall clock before 1970 is told as 1970.
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    WALL_AHEAD.store(whole_millis(wall) as i64 - uptime as i64, Relaxed);
}

fn turned() -> u64 {
    #[cfg(debug_assertions)]
    return TURNED.load(Relaxed);
    #[cfg(not(debug_assertions))]
    0
}

fn whole_millis(d: Duration) -> u64 {
    d.as_secs() * 1000 + u64::from(d.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "compared with the system's clock"
    )]
    fn the_wall_clock_is_the_systems_plus_what_was_turned() {
        let least = turned();
        let told = wall_millis(moment());
        let most = turned();
        let system = whole_millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        assert!(told + 2000 >= system + least, "{told} against {system}");
        assert!(told <= system + most + 2000, "{told} against {system}");
    }

    #[cfg(debug_assertions)]
    #[test]
    fn advancing_moves_both_clocks() {
        let before = now();
        advance(Duration::from_secs(100));
        let after = now();
        assert!(after.mono.since(before.mono) >= Duration::from_secs(100));
        assert!(after.wall - before.wall >= 100);
    }

    #[test]
    fn never_turns_back() {
        let mut last = moment();
        for _ in 0..10_000 {
            let next = moment();
            assert!(next >= last);
            last = next;
        }
    }
}
