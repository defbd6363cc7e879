//! Closing a socket with a reset: the one place that needs its descriptor.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use pingora::protocols::Stream;
use socket2::SockRef;

/// Drops `stream` so that its peer sees a reset instead of an orderly end.
#[expect(
    unsafe_code,
    reason = "a borrowed descriptor has no safe constructor; `stream` owns it and outlives the borrow"
)]
pub fn with_reset(stream: Stream) {
    let fd = stream.id();
    if fd >= 0 {
        // SAFETY: `stream` is alive until the end of this function and owns `fd`.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        // If it can't be set the close is an ordinary one, which a length or chunk framing still gives away.
        let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
    drop(stream);
}
