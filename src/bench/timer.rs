//! Waiting to some ten microseconds. The runtime's own timer rings in milliseconds: a crowd on it comes late, and origins end
//! the work of a whole millisecond at once, as no app does.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::clock;

/// One wait at a time.
pub(super) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// Must run in a runtime.
    ///
    /// # Errors
    /// No descriptor is left.
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for descriptors that are not owned"
    )]
    pub(super) fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Timer(AsyncFd::new(descriptor)?))
    }

    /// Waits for a moment; not at all if it has passed.
    ///
    /// # Errors
    /// What the system says; nothing known.
    pub(super) async fn until(&mut self, moment: Instant) -> io::Result<()> {
        let ahead = moment.saturating_duration_since(clock::instant());
        // Nothing is what switches the timer off.
        if ahead.is_zero() {
            return Ok(());
        }
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(ahead).map_err(io::Error::other)?,
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable_mut().await?;
            let mut rings = [0; 8];
            let read = |timer: &mut AsyncFd<OwnedFd>| {
                rustix::io::read(timer.get_ref(), &mut rings).map_err(io::Error::from)
            };
            // It may have rung for a wait that was given up.
            match ready.try_io(read) {
                Ok(rang) if clock::instant() >= moment => return rang.map(drop),
                Ok(rang) => drop(rang?),
                Err(_not_yet) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_waits_no_less_than_it_was_told_to_and_again() {
        let mut timer = Timer::new().unwrap();
        for micros in [300, 0, 1700] {
            let moment = clock::instant() + Duration::from_micros(micros);
            timer.until(moment).await.unwrap();
            assert!(clock::instant() >= moment);
        }
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_ends_no_other() {
        let mut timer = Timer::new().unwrap();
        let soon = clock::instant() + Duration::from_millis(100);
        let given_up = tokio::time::timeout(Duration::from_millis(1), timer.until(soon)).await;
        assert!(given_up.is_err());
        tokio::time::sleep(Duration::from_millis(110)).await;
        let moment = clock::instant() + Duration::from_millis(20);
        timer.until(moment).await.unwrap();
        assert!(clock::instant() >= moment);
    }
}
