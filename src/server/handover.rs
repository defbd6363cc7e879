//! Hot upgrade: a running process gives its listening sockets to its successor, and goes only when that serves.
//!
//! The successor (`tidegate run --upgrade`) gets ready for everything but the sockets and then waits at a local address
//! that follows from the public one. SIGQUIT sends the running process there:
//!
//! | running process | successor |
//! |---|---|
//! | sends its sockets, and serves on | takes them, and begins to accept |
//! | | `ready` |
//! | `go`, and drains | serves alone |
//!
//! Until `ready` nothing has changed for the running process: if its successor dies or says nothing in time, it serves on.
//! A successor that hears no `go` ends. The sockets themselves are never closed, so no connection is refused or lost.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as LocalAddr, UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use rustix::process::geteuid;

/// How long a successor waits for the running process to come.
pub const WAITS: Duration = Duration::from_secs(300);
/// How long it may then take until it serves.
const STARTS: Duration = Duration::from_secs(30);
/// What is sent with the sockets: another version's successor is told by it.
const GREETING: &[u8; 16] = b"tidegate sockets";
const READY: u8 = b'r';
const GO: u8 = b'g';
/// The most sockets that come with a greeting.
const SOCKETS: usize = 16;

/// A successor that has the sockets, and has yet to say that it serves.
pub struct Successor(UnixStream);

/// Waits for the process that serves `public` to hand its sockets over.
///
/// # Errors
/// Another successor waits already, or nobody came; for people.
pub fn wait(
    public: SocketAddr,
    patience: Duration,
) -> Result<(Successor, Vec<TcpListener>), String> {
    let told = |e: io::Error| format!("cannot take the sockets over: {e}");
    let door =
        UnixListener::bind_addr(&place(public).map_err(told)?).map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => {
                "another `run --upgrade` waits for these sockets".to_owned()
            }
            _ => told(e),
        })?;
    tracing::info!(address = %public, "waiting for the running process: send it SIGQUIT");
    loop {
        let running = accept_within(&door, patience).map_err(|e| match e.kind() {
            io::ErrorKind::TimedOut => {
                format!(
                    "nobody handed over the sockets within {} s",
                    patience.as_secs()
                )
            }
            _ => told(e),
        })?;
        // Anybody on the machine can come to a local address.
        if !is_own(&running) {
            tracing::warn!("another user's process came instead of the running one");
            continue;
        }
        running.set_read_timeout(Some(STARTS)).map_err(told)?;
        let sockets = receive(&running).map_err(told)?;
        return Ok((Successor(running), sockets));
    }
}

impl Successor {
    /// Says that this process serves now, and waits until the other knows.
    ///
    /// # Errors
    /// It serves on, and this one is to end; for people.
    pub fn ready(mut self) -> Result<(), String> {
        let mut answer = [0];
        let told = self.0.write_all(&[READY]);
        match told.and_then(|()| self.0.read_exact(&mut answer)) {
            Ok(()) if answer == [GO] => Ok(()),
            _ => Err(
                "the running process serves on, and this one ends: it was not ready in time".into(),
            ),
        }
    }
}

/// Hands `sockets` to the successor that waits for `public`'s, and waits until it serves.
///
/// # Errors
/// There is none, or it did not come to serve: this process is to serve on; for people.
pub fn hand_over(public: SocketAddr, sockets: &[TcpListener]) -> Result<(), String> {
    let mut successor = place(public)
        .and_then(|place| UnixStream::connect_addr(&place))
        .map_err(|e| format!("no `tidegate run --upgrade` waits for {public}: {e}"))?;
    if !is_own(&successor) {
        return Err("another user's process waits in the successor's place".into());
    }
    let lost = |e: io::Error| format!("the successor did not come to serve: {e}");
    send(&successor, sockets).map_err(lost)?;
    successor.set_read_timeout(Some(STARTS)).map_err(lost)?;
    let mut word = [0];
    successor.read_exact(&mut word).map_err(lost)?;
    if word != [READY] {
        return Err("the successor spoke another language".into());
    }
    successor.write_all(&[GO]).map_err(lost)
}

/// Where a successor waits: an address without a file, which goes with whoever has it.
fn place(public: SocketAddr) -> io::Result<LocalAddr> {
    LocalAddr::from_abstract_name(format!("tidegate-upgrade-{public}"))
}

/// Whether the process at the other end is of this one's user.
fn is_own(stream: &UnixStream) -> bool {
    sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == geteuid())
}

fn accept_within(door: &UnixListener, patience: Duration) -> io::Result<UnixStream> {
    // A deadline for accepting is the one for receiving.
    socket2::SockRef::from(door).set_read_timeout(Some(patience))?;
    match door.accept() {
        Ok((stream, _)) => Ok(stream),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
        Err(e) => Err(e),
    }
}

fn send(successor: &UnixStream, sockets: &[TcpListener]) -> io::Result<()> {
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut with = SendAncillaryBuffer::new(&mut room);
    if !with.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("too many sockets"));
    }
    let sent = sendmsg(
        successor,
        &[IoSlice::new(GREETING)],
        &mut with,
        SendFlags::NOSIGNAL,
    )?;
    match sent == GREETING.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn receive(running: &UnixStream) -> io::Result<Vec<TcpListener>> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut with = RecvAncillaryBuffer::new(&mut room);
    let mut greeting = [0; GREETING.len()];
    let message = recvmsg(
        running,
        &mut [IoSliceMut::new(&mut greeting)],
        &mut with,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let sockets = with
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => sockets.map(TcpListener::from).collect(),
            _ => Vec::new(),
        })
        .collect();
    match message.bytes == GREETING.len() && &greeting == GREETING {
        true => Ok(sockets),
        false => Err(io::Error::other(
            "the running process is of another version",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Hands over as soon as somebody waits.
    fn handed(public: SocketAddr, socket: &TcpListener) -> Result<(), String> {
        loop {
            match hand_over(public, std::slice::from_ref(socket)) {
                Err(why) if why.starts_with("no `tidegate") => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    #[test]
    fn a_socket_goes_to_its_successor() {
        let (socket, public) = listener();
        let successor = std::thread::spawn(move || {
            let (successor, sockets) = wait(public, PATIENCE).unwrap();
            successor.ready().unwrap();
            sockets
        });
        handed(public, &socket).unwrap();
        drop(socket);
        let sockets = successor.join().unwrap();
        assert_eq!(sockets[0].local_addr().unwrap(), public);
        std::net::TcpStream::connect(public).unwrap();
    }

    #[test]
    fn a_successor_that_dies_changes_nothing() {
        let (socket, public) = listener();
        let successor = std::thread::spawn(move || drop(wait(public, PATIENCE).unwrap()));
        let why = handed(public, &socket).unwrap_err();
        assert!(why.contains("did not come to serve"), "{why}");
        successor.join().unwrap();
    }

    #[test]
    fn nobody_comes_and_nobody_waits() {
        let (socket, public) = listener();
        let why = hand_over(public, &[socket]).unwrap_err();
        assert!(why.contains("no `tidegate run --upgrade` waits"), "{why}");
        let why = wait(public, Duration::from_millis(10)).err().unwrap();
        assert!(why.contains("nobody handed over"), "{why}");
    }

    #[test]
    fn only_one_successor_waits() {
        let (_socket, public) = listener();
        let _first = UnixListener::bind_addr(&place(public).unwrap()).unwrap();
        let why = wait(public, PATIENCE).err().unwrap();
        assert!(why.contains("another `run --upgrade`"), "{why}");
    }
}
