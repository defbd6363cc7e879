//! The way in: a listener, its accepting loops, and a connection on its way to its protocol.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::asking::Whence;
use super::guests::Guest;
use super::problem::Problem;
use super::proxied;
use super::stream::Stream;
use super::watch::Post;
use super::wire::{Pace, Wire};
use super::{InForce, Site, h1, h2};
use crate::clock;
use crate::config::policy::Listen;
use crate::rules::claims;
use crate::rules::client::Client;
use crate::rules::host::Scheme;

/// A loop that has not turned for this long is not alive.
const ALIVE: Duration = Duration::from_secs(5);
const BEAT: Duration = Duration::from_millis(500);
/// Loops that accept: one never keeps all the workers of a large machine busy.
const LOOPS: usize = 4;
/// What a loop rests when a connection could not be accepted, for want of descriptors most likely.
const RESTS: Duration = Duration::from_millis(50);
/// How often that is told.
const TELLS: Duration = Duration::from_secs(1);

/// A listener, as its visitors meet it.
pub struct Door {
    /// None: plain HTTP.
    pub tls: Option<TlsAcceptor>,
    /// It lets nobody in, but sends everybody to HTTPS on this port.
    pub redirect: Option<u16>,
}

impl Door {
    fn scheme(&self) -> Scheme {
        match self.tls {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        }
    }
}

/// A listener's service: it accepts until the engine is told to stop, and then closes the listener.
pub struct Front {
    in_force: InForce,
    door: Arc<Door>,
    listener: Mutex<Option<TcpListener>>,
    doors: Arc<Doors>,
}

/// All the doors of a process.
pub struct Doors {
    all: usize,
    /// Those that are accepted from, or were.
    opened: AtomicUsize,
    /// Those through which nobody comes any more.
    shut: AtomicUsize,
    /// One could not be opened, or not be shut as it should.
    lost: AtomicBool,
}

impl Doors {
    pub fn new(all: usize) -> Arc<Doors> {
        Arc::new(Doors {
            all,
            opened: AtomicUsize::new(0),
            shut: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        })
    }

    pub fn are_open(&self) -> bool {
        self.opened.load(Ordering::Acquire) == self.all
    }

    /// Whoever could come has been counted.
    pub fn are_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire) == self.all || self.is_one_lost()
    }

    pub fn is_one_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }
}

impl Front {
    /// `listener` doesn't block.
    pub fn new(in_force: InForce, door: Door, listener: TcpListener, doors: Arc<Doors>) -> Front {
        Front {
            in_force,
            door: Arc::new(door),
            listener: Mutex::new(Some(listener)),
            doors,
        }
    }

    /// Shows that the workers' loops turn.
    fn beat(&self) {
        let whose = match self.door.redirect {
            Some(_) => "redirect",
            None => "workers",
        };
        let heart = self.in_force.load().health.heartbeat(whose, ALIVE);
        tokio::spawn(async move {
            loop {
                heart.beat();
                tokio::time::sleep(BEAT).await;
            }
        });
    }
}

#[async_trait]
impl BackgroundService for Front {
    async fn start(&self, shutdown: ShutdownWatch) {
        let listener = self.listener.lock().take();
        let Some(listener) = listener else {
            return;
        };
        if let Err(error) = self.open(listener, shutdown).await {
            tracing::error!(%error, "a listener is lost");
            self.doors.lost.store(true, Ordering::Release);
        }
    }
}

impl Front {
    /// Accepts until told to stop.
    async fn open(&self, listener: TcpListener, mut shutdown: ShutdownWatch) -> io::Result<()> {
        let last = listener.try_clone()?;
        let listener = Arc::new(tokio::net::TcpListener::from_std(listener)?);
        let threads = self.in_force.load().policy.listen.threads;
        let loops: Vec<_> = (0..threads.clamp(1, LOOPS))
            .map(|_| {
                let (in_force, door) = (Arc::clone(&self.in_force), Arc::clone(&self.door));
                tokio::spawn(accept(in_force, door, Arc::clone(&listener)))
            })
            .collect();
        self.beat();
        self.doors.opened.fetch_add(1, Ordering::Release);
        // Its sender is never dropped before it has told.
        let _ = shutdown.changed().await;
        for accepting in loops {
            accepting.abort();
            // However it ended.
            let _ = accepting.await;
        }
        // Who has connected already is let in.
        while let Ok((socket, client)) = last.accept() {
            socket.set_nonblocking(true)?;
            admit(
                &self.in_force,
                &self.door,
                TcpStream::from_std(socket)?,
                client,
            );
        }
        self.doors.shut.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

async fn accept(in_force: InForce, door: Arc<Door>, listener: Arc<tokio::net::TcpListener>) {
    let mut told = None;
    loop {
        match listener.accept().await {
            Ok((socket, client)) => admit(&in_force, &door, socket, client),
            // It left before it was let in.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                let now = clock::timer();
                if told.is_none_or(|last| now >= last + TELLS) {
                    told = Some(now);
                    tracing::warn!(%error, "connections can't be accepted");
                }
                tokio::time::sleep(RESTS).await;
            }
        }
    }
}

fn admit(in_force: &InForce, door: &Arc<Door>, socket: TcpStream, client: SocketAddr) {
    let site = in_force.load();
    site.connections.add(1);
    let peer = client.ip().to_canonical();
    let listen = &site.policy.listen;
    let client = countable(peer, listen);
    if listen.proxy_protocol && client.is_some() {
        site.guests.refuse_proxy();
        return tracing::debug!(%peer, "not a trusted proxy");
    }
    let Some(guest) = site.guests.admit(client, listen, &site.watch) else {
        return;
    };
    // Without it an answer's end may wait for the client to acknowledge its beginning.
    if let Err(error) = socket.set_nodelay(true) {
        return tracing::debug!(%error, "a connection that is gone already");
    }
    let (in_force, door) = (Arc::clone(in_force), Arc::clone(door));
    tokio::spawn(enter(in_force, door, socket, peer, guest));
}

/// Whose a connection from `ip` is; nobody's if that is a trusted proxy, through which all may come.
fn countable(ip: IpAddr, listen: &Listen) -> Option<Client> {
    let anybodys = claims::trusts(&listen.trusted_proxies, ip);
    (!anybodys).then(|| Client::of(ip, listen.client_ipv6_prefix))
}

/// One connection, from its first byte to its last.
async fn enter(
    in_force: InForce,
    door: Arc<Door>,
    mut socket: TcpStream,
    peer: IpAddr,
    mut place: Guest,
) {
    // A connection that says nothing at all has as long as one that says half a head, or half of TLS's greeting.
    let site = in_force.load_full();
    let post = site.watch.enroll();
    post.arm(site.policy.listen.head_deadline);
    let mut whence = Whence {
        peer,
        claims: true,
        client: peer,
        scheme: door.scheme(),
        http2: false,
        redirect: door.redirect,
    };
    let proxied = site.policy.listen.proxy_protocol;
    if proxied
        && !Box::pin(introduce(
            &site,
            &mut socket,
            &post,
            &mut whence,
            &mut place,
        ))
        .await
    {
        return;
    }
    let stream = match &door.tls {
        None => Stream::Plain(socket),
        // Apart, so that a connection does not keep the room its handshake took.
        Some(tls) => match Box::pin(shake_hands(&site, tls, socket, &post)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    drop((door, site));
    match stream.protocol() {
        Some(super::HTTP2) => {
            Box::pin(h2::serve(&in_force, stream, post, Bytes::new(), whence)).await;
        }
        _ => h1::serve(&in_force, stream, post, whence).await,
    }
}

/// Learns from the proxy that a connection comes through whom it is from. False: it is to be closed.
async fn introduce(
    site: &Site,
    socket: &mut TcpStream,
    post: &Post,
    whence: &mut Whence,
    place: &mut Guest,
) -> bool {
    match proxied::header(socket, post).await {
        Ok(Some(client)) => {
            (whence.peer, whence.client) = (client, client);
            let listen = &site.policy.listen;
            countable(client, listen).is_none_or(|client| place.is_of(client, listen))
        }
        // It has not looked at the bytes, and names nobody whose word they could be.
        Ok(None) => {
            whence.claims = false;
            true
        }
        Err(error) => {
            // A balancer that only looks whether anybody is here leaves by itself.
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::TimedOut
            ) {
                site.guests.refuse_proxy();
            }
            tracing::debug!(%error, peer = %whence.peer, "no header of the PROXY protocol");
            false
        }
    }
}

/// Takes a connection into TLS, until its deadline.
async fn shake_hands(
    site: &Site,
    tls: &TlsAcceptor,
    socket: TcpStream,
    post: &Arc<Post>,
) -> Option<Stream> {
    let pace = Pace::of(&site.policy);
    let hands = async {
        let mut first = [0];
        let read = socket.peek(&mut first).await?;
        post.has_spoken();
        if read == 1 && first[0] != HANDSHAKE {
            let (mut head, mut body) = (Vec::new(), Vec::new());
            Problem::plain_http().render(false, false, None, &mut head, &mut body);
            head.extend_from_slice(b"Connection: close\r\n\r\n");
            let mut wire = Wire::new(Stream::Plain(socket), Arc::clone(post), pace);
            wire.send_body(&head, &[body.into()], false).await?;
            wire.close_gently().await;
            return Err(io::ErrorKind::InvalidData.into());
        }
        tls.accept(socket).await
    };
    match post.in_time(hands).await {
        Ok(stream) => Some(Stream::Tls(Box::new(stream))),
        Err(error) => {
            site.failed_handshakes.add(1);
            tracing::debug!(%error, "no TLS");
            None
        }
    }
}

/// What the first record of TLS begins with (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
