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
//! Until `ready` nothing has changed for the running process: if its successor dies it serves on, and if that says nothing in
//! time, it tells it to go away. A successor that is not told so serves, also when the process before it is gone meanwhile.
//! The sockets themselves are never closed, so no connection is refused or lost.

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
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::clock;

/// How long a successor waits for the running process to come.
pub const WAITS: Duration = Duration::from_secs(300);
/// How long it may then take until it serves.
const STARTS: Duration = Duration::from_secs(30);
/// What is sent with the sockets: another version's successor is told by it.
const GREETING: &[u8; 16] = b"tidegate sockets";
const READY: u8 = b'r';
const GO: u8 = b'g';
const AWAY: u8 = b'a';
/// How long it may take to reach a successor; a place that nobody clears takes no more callers.
const CALLS: Duration = Duration::from_secs(5);
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
            io::ErrorKind::AddrInUse => "somebody waits for these sockets already".to_owned(),
            _ => told(e),
        })?;
    tracing::info!(address = %public, "waiting for the running process: send it SIGQUIT");
    let until = clock::instant() + patience;
    loop {
        let left = until.saturating_duration_since(clock::instant());
        let running = accept_within(&door, left).map_err(|e| match e.kind() {
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
        let is_public = |socket: &TcpListener| socket.local_addr().is_ok_and(|at| at == public);
        if !sockets.iter().any(is_public) {
            return Err(format!("the running process has no listener at {public}"));
        }
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
        // If it can't be told, its answer says why: it has given up, or it is gone.
        let _ = self.0.write_all(&[READY]);
        match self.0.read_exact(&mut answer) {
            Ok(()) if answer == [AWAY] => {
                Err("not ready in time: the running process serves on, and this one ends".into())
            }
            _ => Ok(()),
        }
    }
}

/// Hands `sockets` to the successor that waits for `public`'s, and waits until it serves.
///
/// # Errors
/// There is none, or it did not come to serve: this process is to serve on; for people.
pub fn hand_over(public: SocketAddr, sockets: &[TcpListener]) -> Result<(), String> {
    let mut successor =
        call(public).map_err(|e| format!("no `tidegate run --upgrade` waits for {public}: {e}"))?;
    if !is_own(&successor) {
        return Err("another user's process waits in the successor's place".into());
    }
    let lost = |e: io::Error| format!("the successor did not come to serve: {e}");
    send(&successor, sockets).map_err(lost)?;
    successor.set_read_timeout(Some(STARTS)).map_err(lost)?;
    let mut word = [0];
    match successor.read_exact(&mut word) {
        Ok(()) if word == [READY] => successor.write_all(&[GO]).map_err(lost),
        came => {
            // If it can't be told, it is gone.
            let _ = successor.write_all(&[AWAY]);
            Err(came.map_or_else(lost, |()| "the successor spoke another language".into()))
        }
    }
}

/// Connects to where a successor waits.
fn call(public: SocketAddr) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // It holds for connecting too.
    socket.set_write_timeout(Some(CALLS))?;
    socket.connect(&SockAddr::unix(format!("\0{}", name(public)))?)?;
    Ok(socket.into())
}

fn name(public: SocketAddr) -> String {
    format!("tidegate-upgrade-{public}")
}

/// Where a successor waits: an address without a file, which goes with whoever has it.
fn place(public: SocketAddr) -> io::Result<LocalAddr> {
    LocalAddr::from_abstract_name(name(public))
}

/// Whether the process at the other end is of this one's user.
fn is_own(stream: &UnixStream) -> bool {
    sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == geteuid())
}

fn accept_within(door: &UnixListener, patience: Duration) -> io::Result<UnixStream> {
    // A deadline for accepting is the one for receiving.
    SockRef::from(door).set_read_timeout(Some(patience))?;
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
    fn a_successor_serves_when_the_process_before_it_is_gone() {
        let (socket, public) = listener();
        let successor = std::thread::spawn(move || {
            let (successor, _sockets) = wait(public, PATIENCE).unwrap();
            successor.ready()
        });
        let running = loop {
            match call(public) {
                Ok(running) => break running,
                Err(_) => std::thread::yield_now(),
            }
        };
        send(&running, std::slice::from_ref(&socket)).unwrap();
        drop(running);
        assert_eq!(successor.join().unwrap(), Ok(()));
    }

    #[test]
    fn a_successor_that_is_sent_away_ends() {
        let (mut running, successor) = UnixStream::pair().unwrap();
        running.write_all(&[AWAY]).unwrap();
        drop(running);
        assert!(Successor(successor).ready().is_err());
    }

    #[test]
    fn other_sockets_are_no_use() {
        let (_socket, public) = listener();
        let (other, _) = listener();
        let successor = std::thread::spawn(move || wait(public, PATIENCE).err());
        let _ = handed(public, &other);
        let why = successor.join().unwrap().unwrap();
        assert!(why.contains("no listener at"), "{why}");
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
        assert!(why.contains("somebody waits"), "{why}");
    }
}
