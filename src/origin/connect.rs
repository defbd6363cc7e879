//! Opening an exchange: a connection from the pool or a new one, and the request's head on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Version};
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v1::client::http_req_header_to_wire;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::{BError, ErrorType};
use tokio::io::{ReadHalf, WriteHalf, split};
use tokio::time::{Instant, timeout_at};

use super::body::{Home, Sink, write_all};
use super::error::{OriginError, OriginErrorKind};
use super::exchange::Outgoing;
use super::http1::Http1;
use super::http2::Http2;
use super::server::Server;
use super::upstream::{Protocol, Upstream};
use crate::clock;

/// Where a connection may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    PoolOrNew,
    /// For the second try: a pool that held one dead connection may hold more.
    New,
}

/// A connection with the request's head on it.
pub(super) struct Opened {
    pub(super) line: Line,
    pub(super) body: Arc<Home>,
}

pub(super) enum Line {
    Http1(Http1),
    Http2(Box<Http2>),
}

/// Why there is none.
pub(super) struct NotOpened {
    pub(super) error: OriginError,
    /// It came from the pool, and may just have been too old.
    pub(super) reused: bool,
}

pub(super) struct Connection {
    pub(super) what: Wire,
    pub(super) reused: bool,
}

pub(super) enum Wire {
    Http1(Stream),
    Http2(Box<Http2Session>),
}

/// Connects and writes the head.
pub(super) async fn open(
    upstream: &Arc<Upstream>,
    server: &Arc<Server>,
    head: &RequestHeader,
    outgoing: Outgoing,
    from: Source,
    total: Instant,
) -> Result<Opened, NotOpened> {
    let connection = connect(upstream, server, head, from, total)
        .await
        .map_err(|error| NotOpened {
            error,
            reused: false,
        })?;
    let reused = connection.reused;
    let between_bytes = upstream.spec.between_bytes_timeout;
    let opened = match connection.what {
        Wire::Http1(stream) => {
            let wire = http1_head(head, outgoing, server);
            write_http1(wire, stream, between_bytes, total)
                .await
                .map(|(read, write)| Opened {
                    line: Line::Http1(Http1::new(read, head, reused)),
                    body: Home::new(Sink::Http1(write), outgoing, between_bytes, Some(total)),
                })
        }
        Wire::Http2(session) => {
            let mut line = Http2::new(*session, upstream.clone(), server.clone(), reused);
            let head = http2_head(head, outgoing, server);
            line.send_head(head, outgoing).map(|sink| Opened {
                line: Line::Http2(Box::new(line)),
                body: Home::new(sink, outgoing, between_bytes, Some(total)),
            })
        }
    };
    opened.map_err(|error| NotOpened { error, reused })
}

async fn write_http1(
    wire: Result<Bytes, OriginError>,
    stream: Stream,
    between_bytes: Duration,
    total: Instant,
) -> Result<(ReadHalf<Stream>, WriteHalf<Stream>), OriginError> {
    let (read, mut write) = split(stream);
    write_all(&mut write, wire?, between_bytes, Some(total)).await?;
    Ok((read, write))
}

/// Connects, and leaves it at that.
pub(super) async fn reach(upstream: &Upstream, server: &Server) -> Result<(), OriginError> {
    let connected = upstream.connector.transport().new_stream(&server.peer);
    match connected.await {
        Ok(_) => Ok(()),
        Err(why) => Err(not_connected(&why, server)),
    }
}

async fn connect(
    upstream: &Arc<Upstream>,
    server: &Server,
    head: &RequestHeader,
    from: Source,
    total: Instant,
) -> Result<Connection, OriginError> {
    let soon = clock::timer() + upstream.spec.connect_timeout;
    let (deadline, late) = match total < soon {
        true => (total, OriginErrorKind::Total),
        false => (soon, OriginErrorKind::ConnectTimeout),
    };
    let http1 = match upstream.spec.protocol {
        Protocol::Http1 => true,
        Protocol::Http2 => false,
        // An upgrade is a thing of HTTP/1.1 (RFC 9113 §8.6).
        Protocol::Auto => !server.tls() || head.headers.contains_key(UPGRADE),
    };
    let mut reaching = Reaching {
        upstream,
        server,
        since: clock::timer(),
        is_over: false,
    };
    let work = async {
        match http1 {
            true => connect_http1(upstream, server, from).await,
            false => connect_negotiating(upstream, server, from).await,
        }
    };
    let connected = match timeout_at(deadline, work).await {
        Ok(connected) => connected.map_err(|why| not_connected(&why, server)),
        Err(_) => Err(OriginError::new(
            late,
            format!("connecting to {}", server.name()),
        )),
    };
    reaching.is_over = true;
    match &connected {
        Ok(_) => upstream.budget.reached(server.id),
        Err(_) => upstream.budget.unreachable(server.id),
    }
    connected
}

/// A connection under way. Nobody may be left who waits for it: if it took long by then, its server counts as one that can't
/// be reached, as it would have after `connect_timeout`. No client can make that happen to a server that accepts at once.
struct Reaching<'a> {
    upstream: &'a Upstream,
    server: &'a Server,
    since: Instant,
    is_over: bool,
}

/// What is long: a first packet that was lost has been sent again by then (RFC 6298 §2).
const LONG: Duration = Duration::from_secs(1);

impl Drop for Reaching<'_> {
    fn drop(&mut self) {
        if !self.is_over && clock::timer().saturating_duration_since(self.since) >= LONG {
            self.upstream.budget.unreachable(self.server.id);
        }
    }
}

async fn connect_http1(
    upstream: &Upstream,
    server: &Server,
    from: Source,
) -> Result<Connection, BError> {
    if from == Source::PoolOrNew
        && let Some(connection) = idle_http1(server)
    {
        return Ok(connection);
    }
    let connector = upstream.connector.transport();
    Ok(Connection {
        what: Wire::Http1(connector.new_stream(&server.http1_peer).await?),
        reused: false,
    })
}

async fn connect_negotiating(
    upstream: &Upstream,
    server: &Server,
    from: Source,
) -> Result<Connection, BError> {
    if from == Source::PoolOrNew {
        // One that fails here is no worse than none.
        if let Ok(Some(session)) = upstream.connector.reused_http_session(&server.peer).await {
            return Ok(Connection {
                what: Wire::Http2(Box::new(session)),
                reused: true,
            });
        }
        if upstream.spec.protocol == Protocol::Auto
            && let Some(connection) = idle_http1(server)
        {
            return Ok(connection);
        }
    }
    let what = match upstream
        .connector
        .new_http_session::<_, ()>(&server.peer)
        .await?
    {
        HttpSession::H2(session) => Wire::Http2(Box::new(session)),
        HttpSession::H1(session) if upstream.spec.protocol == Protocol::Auto => {
            Wire::Http1(session.into_inner())
        }
        HttpSession::H1(_) | HttpSession::Custom(_) => {
            return Err(pingora::Error::explain(
                ErrorType::H2Error,
                "the origin does not speak HTTP/2",
            ));
        }
    };
    Ok(Connection {
        what,
        reused: false,
    })
}

fn idle_http1(server: &Server) -> Option<Connection> {
    Some(Connection {
        what: Wire::Http1(server.idle.take()?),
        reused: true,
    })
}

fn not_connected(why: &BError, server: &Server) -> OriginError {
    let kind = match why.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
            OriginErrorKind::ConnectTimeout
        }
        ErrorType::TLSHandshakeFailure | ErrorType::TLSWantX509Lookup | ErrorType::InvalidCert => {
            OriginErrorKind::Tls
        }
        _ => OriginErrorKind::Connect,
    };
    let mut cause = why.to_string();
    if let Some((end, _)) = cause.char_indices().nth(200) {
        cause.truncate(end);
    }
    OriginError::new(
        kind,
        format!("connecting to {}: {}", server.name(), cause.escape_debug()),
    )
}

/// The head as HTTP/1.1 bytes, framing by us.
fn http1_head(
    head: &RequestHeader,
    outgoing: Outgoing,
    server: &Server,
) -> Result<Bytes, OriginError> {
    let mut head = head.clone();
    head.set_version(Version::HTTP_11);
    head.remove_header(&TRANSFER_ENCODING);
    match outgoing {
        Outgoing::Chunked => {
            head.remove_header(&CONTENT_LENGTH);
            set(
                &mut head,
                TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            );
        }
        _ => frame_by_length(&mut head, outgoing),
    }
    name_host(&mut head, server);
    match http_req_header_to_wire(&head) {
        Some(wire) => Ok(wire.freeze()),
        None => Err(OriginError::new(
            OriginErrorKind::Write,
            "the target has bytes that no request line may have",
        )),
    }
}

/// The head without what HTTP/2 forbids (RFC 9113 §8.2.2).
fn http2_head(head: &RequestHeader, outgoing: Outgoing, server: &Server) -> Box<RequestHeader> {
    let mut head = Box::new(head.clone());
    // Trailers are all it may ask for.
    if head.headers.get_all(TE).iter().any(|te| te != "trailers") {
        head.remove_header(&TE);
    }
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        head.remove_header(&name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        head.remove_header(name);
    }
    frame_by_length(&mut head, outgoing);
    name_host(&mut head, server);
    head
}

/// RFC 9110 §8.6: no Content-Length without a body, unless the method leads the origin to expect one.
fn frame_by_length(head: &mut RequestHeader, outgoing: Outgoing) {
    head.remove_header(&CONTENT_LENGTH);
    let length = match outgoing {
        Outgoing::Length(length) => length,
        Outgoing::None if [Method::POST, Method::PUT, Method::PATCH].contains(&head.method) => 0,
        Outgoing::None | Outgoing::Chunked => return,
    };
    set(head, CONTENT_LENGTH, HeaderValue::from(length));
}

fn name_host(head: &mut RequestHeader, server: &Server) {
    if !head.headers.contains_key(HOST)
        && let Ok(authority) = HeaderValue::from_str(server.authority())
    {
        set(head, HOST, authority);
    }
}

fn set(head: &mut RequestHeader, name: http::HeaderName, value: HeaderValue) {
    // Fails only for names and values that don't parse; these have been parsed.
    let _ = head.insert_header(name, value);
}
