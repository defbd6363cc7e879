//! One server of an upstream, and how to reach it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora::protocols::{Stream, TcpKeepalive};
use pingora::upstreams::peer::HttpPeer;

use super::health::Seen;
use super::idle::Idle;
use super::standing::Role;
use super::sticky::Signer;
use super::upstream::{Protocol, UpstreamSpec};
use crate::rules::concurrency::MOST;
use crate::rules::rendezvous;
use crate::rules::sticky::Token;

/// Streams we open on one HTTP/2 connection. Pingora's default is one.
const HTTP2_STREAMS: usize = 100;
/// Bytes an origin may send ahead on one HTTP/2 stream; a connection has room for all of its streams, so that a
/// reader that stops never stops the others.
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;

/// HTTP/1 connections that wait for a request at most.
const IDLE: usize = 1024;

/// A server of an upstream as it is configured; by name it may be several, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    pub place: Place,
    pub tls: bool,
    /// Name for SNI and the certificate; empty means the address itself.
    pub sni: String,
    /// `host:port` for Host where a request brings none, and for logs.
    pub authority: String,
    /// Its part of what all get, as a proportion; zero: it is drained.
    pub weight: u32,
    /// It is for when no other can be asked.
    pub backup: bool,
    /// Requests in flight to it; else the upstream's.
    pub max_in_flight: Option<usize>,
}

/// For how many servers there is room where a name stands, in pools and open files.
const PER_NAME: usize = 8;

impl ServerSpec {
    /// About how many servers it is.
    pub fn places(&self) -> usize {
        match self.place {
            Place::Address(_) => 1,
            Place::Name { .. } => PER_NAME,
        }
    }
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Address(SocketAddr),
    /// Wherever DNS says.
    Name {
        host: String,
        port: u16,
    },
}

/// One server, and how to reach it.
pub struct Server {
    spec: ServerSpec,
    /// Which of the upstream's specs it is of.
    pub(super) of: usize,
    addr: SocketAddr,
    name: String,
    pub(super) id: usize,
    pub(super) peer: HttpPeer,
    /// The same without HTTP/2, for upgrades.
    pub(super) http1_peer: HttpPeer,
    pub(super) idle: Arc<Idle<Stream>>,
    /// What visitors who are bound to it bring.
    pub(super) token: Option<Token>,
    /// Requests in flight to it; none: it is learned.
    most: Option<usize>,
    seen: Arc<Seen>,
}

impl Server {
    /// `of`: which of the upstream's specs it is of. `addr`: the address, or one that the name has.
    pub(super) fn new(
        id: usize,
        of: usize,
        addr: SocketAddr,
        upstream: &UpstreamSpec,
        signer: Option<&Signer>,
    ) -> Self {
        let spec = &upstream.servers[of];
        // An empty name would switch the check of the certificate off.
        let sni = match spec.sni.as_str() {
            "" => addr.ip().to_string(),
            name => name.to_owned(),
        };
        let mut peer = HttpPeer::new(addr, spec.tls, sni);
        let options = &mut peer.options;
        options.verify_cert = upstream.tls_verify;
        options.verify_hostname = upstream.tls_verify;
        options.connection_timeout = Some(upstream.connect_timeout);
        options.total_connection_timeout = Some(upstream.connect_timeout);
        options.max_h2_streams = HTTP2_STREAMS;
        options.h2_stream_window_size = Some(HTTP2_STREAM_WINDOW);
        options.h2_connection_window_size = Some(HTTP2_STREAM_WINDOW * HTTP2_STREAMS as u32);
        // Finds out about a peer that is gone under a tunnel, where no deadline of ours runs.
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_secs(15),
            interval: Duration::from_secs(5),
            count: 3,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::ZERO,
        });
        let most = upstream.max_in_flight_at(spec);
        let mut http1_peer = peer.clone();
        http1_peer.options.set_http_version(1, 1);
        match upstream.protocol {
            Protocol::Http1 => peer.options.set_http_version(1, 1),
            Protocol::Http2 => peer.options.set_http_version(2, 2),
            Protocol::Auto => peer.options.set_http_version(2, 1),
        }
        Self {
            spec: spec.clone(),
            of,
            addr,
            name: match &spec.place {
                Place::Address(_) => spec.authority.clone(),
                Place::Name { host, .. } => format!("{host}/{addr}"),
            },
            id,
            idle: Idle::new(most.unwrap_or(MOST).clamp(1, IDLE)),
            peer,
            http1_peer,
            token: signer.map(|key| key.token(&upstream.name, &spec.authority, addr)),
            most,
            seen: Arc::default(),
        }
    }

    /// Whether both are the same place, to whoever asks there.
    pub(super) fn is_same(&self, other: &Server) -> bool {
        self.addr == other.addr
            && self.spec.authority == other.spec.authority
            && self.spec.tls == other.spec.tls
    }

    /// Goes on as `before` stood. `connects`: its connections are as good, too.
    pub(super) fn goes_on(self, before: &Server, connects: bool) -> Server {
        let idle = match connects && self.spec.sni == before.spec.sni {
            true => Arc::clone(&before.idle),
            false => self.idle,
        };
        Server {
            idle,
            seen: Arc::clone(&before.seen),
            ..self
        }
    }

    /// What it is to do among the others.
    pub(super) fn role(&self) -> Role {
        let address = self.addr.to_string();
        Role {
            weight: self.spec.weight,
            backup: self.spec.backup,
            most: self.most,
            id: rendezvous::hash([self.spec.authority.as_bytes(), address.as_bytes()]),
            token: self.token,
        }
    }

    /// What it is called by; no other server of the upstream ever is.
    pub fn id(&self) -> usize {
        self.id
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// For logs and metrics: `host:port` as configured, or a name and one of its addresses, `app.internal/10.0.0.5:8000`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `host:port` as configured.
    pub fn authority(&self) -> &str {
        &self.spec.authority
    }

    /// How it is, by its health check.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    pub(super) fn tls(&self) -> bool {
        self.spec.tls
    }
}
