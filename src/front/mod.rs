//! The road, client side: what meets a request, in the order it meets it.
//!
//! [`wire`] reads its bytes and [`h1`] runs the connection; [`asking`] routes it, names its key and class; [`lookup`]
//! decides; then it is answered from memory ([`deliver`]), by a flight ([`miss`], [`follow`]), past the cache ([`pass`],
//! its body by [`body`]), or by an answer of our own ([`problem`]); [`record`] counts and logs it. [`lines`] are what their
//! heads have in common, [`watch`] keeps the deadlines.
//!
//! A hit goes through `wire`, `lookup`, `deliver`, `record` and awaits nothing but the client's socket.

mod asking;
mod body;
mod deliver;
mod follow;
mod h1;
mod image;
mod lines;
mod lookup;
mod miss;
mod page;
mod part;
mod pass;
mod problem;
mod record;
mod socket;
pub mod watch;
mod wire;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Once};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;

use crate::admin::Health;
use crate::cache::memory::Memory;
use crate::config::policy::Policy;
use crate::fetch::Fetcher;
use crate::rules::host::Scheme;
use crate::telemetry::sharded::Counter;
use crate::telemetry::{AccessLog, RouteMetrics};
use watch::Watch;

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
    /// What images of hot pages may take.
    pub images: Arc<Memory>,
    /// Requests that wait for a flight's head.
    pub waiters: AtomicUsize,
    pub health: Arc<Health>,
}

/// The listener's application.
pub struct Front {
    site: Arc<Site>,
    scheme: Scheme,
    started: Once,
}

impl Front {
    pub fn new(site: Arc<Site>, scheme: Scheme) -> Front {
        Front {
            site,
            scheme,
            started: Once::new(),
        }
    }

    /// Shows, from the first connection on, that the workers' loops turn.
    fn beat(&self) {
        self.started.call_once(|| {
            let heart = self.site.health.heartbeat("workers", ALIVE);
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
            match socket::own(stream) {
                // A task of its own: the engine's, with all it holds, ends here.
                Ok(socket) => {
                    let site = Arc::clone(&self.site);
                    tokio::spawn(h1::serve(site, socket, client, self.scheme));
                }
                Err(error) => tracing::warn!(%error, "a connection could not be taken on"),
            }
        }
        None
    }
}

/// A client that can't be told, since it has gone already, is nobody.
fn client_of(stream: &Stream) -> IpAddr {
    let digest = stream.get_socket_digest();
    let address = digest.as_ref().and_then(|digest| digest.peer_addr());
    address
        .and_then(|address| address.as_inet())
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}
