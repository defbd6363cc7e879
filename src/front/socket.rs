//! A client's socket, out of the engine's hands: the one place that needs its descriptor.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use pingora::protocols::Stream;
use socket2::SockRef;
use tokio::net::TcpStream;

/// The socket below `stream`, of which nothing was read yet, without what the engine keeps around it: it reads the clock
/// at each turn of a stream and keeps some hundred bytes for each.
///
/// # Errors
/// No descriptor is left, or `stream` is more than a socket: below TLS there are other bytes.
#[expect(
    unsafe_code,
    reason = "a borrowed descriptor has no safe constructor; `stream` owns it and outlives the borrow"
)]
pub fn own(stream: Stream) -> io::Result<TcpStream> {
    let fd = stream.id();
    if fd < 0 || stream.get_ssl_digest().is_some() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: `stream` owns `fd` and is dropped after the borrow.
    let own = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?;
    // Closes the engine's descriptor, and only that: the connection is the other's as well.
    drop(stream);
    TcpStream::from_std(own.into())
}

/// Drops `stream` so that its peer sees a reset instead of an orderly end.
pub fn reset(stream: TcpStream) {
    // If it can't be set the close is an ordinary one, which a length or chunk framing still gives away.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
