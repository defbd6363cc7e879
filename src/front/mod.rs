//! The road, client side: what meets a request, in the order it meets it.
//!
//! [`wire`] reads its bytes and [`h1`] runs the connection; [`asking`] routes it, names its key and class; [`lookup`]
//! decides; then it is answered from memory ([`deliver`]), by a flight ([`miss`], [`follow`]), past the cache ([`pass`],
//! its body by [`body`]), or by an answer of our own ([`problem`]); [`record`] counts and logs it. [`lines`] are what their
//! heads have in common, [`watch`] keeps the deadlines. Below HTTP, [`stream`] is a [`socket`] or [`tls`] on one.
//!
//! A hit goes through `wire`, `lookup`, `deliver`, `record` and awaits nothing but the client's socket.

mod asking;
mod body;
mod deliver;
mod exchange;
mod follow;
pub mod guests;
mod h1;
mod h2;
mod image;
mod lines;
mod lookup;
mod miss;
mod paced;
mod page;
mod part;
mod pass;
mod problem;
mod record;
mod socket;
mod stream;
pub mod tls;
mod translate;
pub mod watch;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Once};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::admin::Health;
use crate::cache::memory::Memory;
use crate::config::policy::Policy;
use crate::fetch::Fetcher;
use crate::rules::host::Scheme;
use crate::telemetry::sharded::Counter;
use crate::telemetry::{AccessLog, RouteMetrics};
use asking::Whence;
use guests::{Guest, Guests};
use problem::Problem;
use stream::Stream;
use watch::{Post, Watch};
use wire::{Pace, Wire};

/// A loop that has not turned for this long is not alive.
const ALIVE: Duration = Duration::from_secs(5);
const BEAT: Duration = Duration::from_millis(500);

/// Everything a request may need, wired once.
pub struct Site {
    pub policy: Arc<ArcSwap<Policy>>,
    pub fetcher: Arc<Fetcher>,
    pub watch: Arc<Watch>,
    pub access: Arc<AccessLog>,
    /// By route id.
    pub routes: Vec<Arc<RouteMetrics>>,
    pub unrouted: Arc<RouteMetrics>,
    pub connections: Arc<Counter>,
    pub guests: Arc<Guests>,
    pub failed_handshakes: Arc<Counter>,
    /// What images of hot pages may take.
    pub images: Arc<Memory>,
    /// Requests that wait for a flight's head.
    pub waiters: AtomicUsize,
    pub health: Arc<Health>,
}

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

/// The listener's application.
pub struct Front {
    site: Arc<Site>,
    door: Arc<Door>,
    started: Once,
}

impl Front {
    pub fn new(site: Arc<Site>, door: Door) -> Front {
        Front {
            site,
            door: Arc::new(door),
            started: Once::new(),
        }
    }

    /// Shows, from the first connection on, that the workers' loops turn.
    fn beat(&self) {
        self.started.call_once(|| {
            let whose = match self.door.redirect {
                Some(_) => "redirect",
                None => "workers",
            };
            let heart = self.site.health.heartbeat(whose, ALIVE);
            tokio::spawn(async move {
                loop {
                    heart.beat();
                    tokio::time::sleep(BEAT).await;
                }
            });
        });
    }
}

#[async_trait]
impl HttpServerApp for Front {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        _shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.beat();
        self.site.connections.add(1);
        // Nothing but HTTP/1 is offered on a listener without TLS.
        if let ServerSession::H1(session) = session {
            let stream = session.into_inner();
            let client = client_of(&stream);
            let listen = &self.site.policy.load().listen;
            let guest = self.site.guests.admit(client, listen, &self.site.watch)?;
            match socket::own(stream) {
                // A task of its own: the engine's, with all it holds, ends here.
                Ok(socket) => {
                    let (site, door) = (Arc::clone(&self.site), Arc::clone(&self.door));
                    tokio::spawn(enter(site, door, socket, client, guest));
                }
                Err(error) => tracing::warn!(%error, "a connection could not be taken on"),
            }
        }
        None
    }
}

/// One connection, from its first byte to its last.
async fn enter(site: Arc<Site>, door: Arc<Door>, socket: TcpStream, client: IpAddr, _place: Guest) {
    // A connection that says nothing at all has as long as one that says half a head, or half of TLS's greeting.
    let post = site.watch.enroll();
    post.arm(site.policy.load().listen.head_deadline);
    let stream = match &door.tls {
        None => Stream::Plain(socket),
        // Apart, so that a connection does not keep the room its handshake took.
        Some(tls) => match Box::pin(shake_hands(&site, tls, socket, &post)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    let whence = Whence {
        client,
        scheme: door.scheme(),
        http2: false,
        redirect: door.redirect,
    };
    drop(door);
    match stream.protocol() {
        Some(HTTP2) => Box::pin(h2::serve(site, stream, post, Bytes::new(), whence)).await,
        _ => h1::serve(site, stream, post, whence).await,
    }
}

/// Takes a connection into TLS, until its deadline.
async fn shake_hands(
    site: &Site,
    tls: &TlsAcceptor,
    socket: TcpStream,
    post: &Arc<Post>,
) -> Option<Stream> {
    let pace = Pace::of(&site.policy.load());
    let hands = async {
        let mut first = [0];
        let read = socket.peek(&mut first).await?;
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
    let mut hands = std::pin::pin!(hands);
    let shaken = std::future::poll_fn(|cx| match hands.as_mut().poll(cx) {
        Poll::Pending => post
            .poll_due(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into())),
        shaken => shaken,
    });
    match shaken.await {
        Ok(stream) => Some(Stream::Tls(Box::new(stream))),
        Err(error) => {
            site.failed_handshakes.add(1);
            tracing::debug!(%error, "no TLS");
            None
        }
    }
}

/// HTTP/2, as TLS's protocol negotiation knows it (RFC 9113 §3.2).
pub const HTTP2: &[u8] = b"h2";

/// What the first record of TLS begins with (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// A client that can't be told, since it has gone already, is nobody.
fn client_of(stream: &pingora::protocols::Stream) -> IpAddr {
    let digest = stream.get_socket_digest();
    let address = digest.as_ref().and_then(|digest| digest.peer_addr());
    address
        .and_then(|address| address.as_inet())
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}
