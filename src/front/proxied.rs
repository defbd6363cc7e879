//! The header of the PROXY protocol in front of a connection, from its socket.

use std::io;
use std::net::IpAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::watch::Post;
use crate::rules::proxy_protocol::{Parsed, parse};

/// Reads it, and not a byte of what follows. None: its sender names nobody.
///
/// # Errors
/// The socket's; there is no header, or not before the deadline that `post` is armed with.
pub async fn header(socket: &mut TcpStream, post: &Post) -> io::Result<Option<IpAddr>> {
    let reading = async {
        let mut held = Vec::new();
        loop {
            match parse(&held) {
                Ok(Parsed::More(more)) => {
                    let from = held.len();
                    held.resize(from + more, 0);
                    socket.read_exact(&mut held[from..]).await?;
                }
                Ok(Parsed::Whole { client, .. }) => return Ok(client),
                Err(flaw) => return Err(io::Error::new(io::ErrorKind::InvalidData, flaw.why())),
            }
        }
    };
    post.in_time(reading).await
}
