//! Clients' connections: HTTP/1.1 or HTTP/2, in clear or over TLS, each from its client's own address where that is possible; and one
//! request after the other on them, each answer read to its end and its body checked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::stamp::{Check, Seen};
use crate::bench::wire::{self, Failed, came_by};
use crate::clock;
use crate::rules::chunked::Decoder;
use crate::rules::response::{BodyFraming, framing};

const BUFFER: usize = 32 << 10;

/// Who is asked.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    /// As Host has it.
    pub host: String,
    /// None: in clear.
    pub tls: Option<Tls>,
}

#[derive(Clone)]
pub struct Tls {
    /// By protocol: that of HTTP/1.1, and of HTTP/2.
    pub http1: TlsConnector,
    pub http2: TlsConnector,
    pub name: ServerName<'static>,
}

impl Tls {
    /// `config`: whom it believes.
    pub fn new(config: &rustls::ClientConfig, name: ServerName<'static>) -> Tls {
        let speaking = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        Tls {
            http1: speaking(b"http/1.1"),
            http2: speaking(b"h2"),
            name,
        }
    }
}

/// A request.
pub struct Ask<'a> {
    pub client: u32,
    pub path: &'a str,
    /// Further fields, in lower case.
    pub fields: &'a [(&'static str, String)],
    pub new_connection: bool,
    pub http2: bool,
}

/// An answer that came to its end.
pub struct Answer {
    pub status: u16,
    pub first_byte: Instant,
    /// What its body turned out to be.
    pub seen: Seen,
    /// How the server's cache came by it.
    pub cache: String,
}

/// All connections of all clients.
pub struct Connections {
    server: Server,
    idle: RefCell<HashMap<u32, Vec<Http1>>>,
    shared: RefCell<HashMap<u32, h2::client::SendRequest<Bytes>>>,
    opened: RefCell<u64>,
}

impl Connections {
    pub fn new(server: Server) -> Connections {
        Connections {
            server,
            idle: RefCell::default(),
            shared: RefCell::default(),
            opened: RefCell::new(0),
        }
    }

    /// How many have been opened.
    pub fn opened(&self) -> u64 {
        *self.opened.borrow()
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// Why there is no whole answer.
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, Failed> {
        match ask.http2 {
            true => self.over_http2(ask).await,
            false => self.over_http1(ask).await,
        }
    }

    async fn over_http1(&self, ask: &Ask<'_>) -> Result<Answer, Failed> {
        let kept = || {
            self.idle
                .borrow_mut()
                .get_mut(&ask.client)
                .and_then(Vec::pop)
        };
        let mut connection = loop {
            match kept().filter(|_| !ask.new_connection) {
                Some(kept) if kept.is_open() => break kept,
                Some(_) => {}
                None => {
                    break Http1 {
                        stream: self.open(ask.client, false).await?,
                        buffer: Vec::new(),
                    };
                }
            }
        };
        let mut request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\n",
            ask.path, self.server.host
        );
        for (name, value) in ask.fields {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        let (answer, goes_on) = connection.ask(request.as_bytes()).await?;
        if goes_on && !ask.new_connection {
            let mut idle = self.idle.borrow_mut();
            idle.entry(ask.client).or_default().push(connection);
        }
        Ok(answer)
    }

    async fn over_http2(&self, ask: &Ask<'_>) -> Result<Answer, Failed> {
        let kept = self.shared.borrow().get(&ask.client).cloned();
        let kept = kept.filter(|_| !ask.new_connection);
        let ready = match kept {
            Some(kept) => kept.ready().await.ok(),
            None => None,
        };
        let mut sender = match ready {
            Some(ready) => ready,
            None => {
                let stream = self.open(ask.client, true).await?;
                let handshake = h2::client::Builder::new()
                    .initial_window_size(1 << 20)
                    .initial_connection_window_size(4 << 20)
                    .handshake(stream);
                let (sender, connection) = handshake.await.map_err(|_| Failed::Closed)?;
                tokio::task::spawn_local(async move {
                    // Those who wait on it are told.
                    let _ = connection.await;
                });
                if !ask.new_connection {
                    self.shared.borrow_mut().insert(ask.client, sender.clone());
                }
                sender.ready().await.map_err(|_| Failed::Closed)?
            }
        };
        let scheme = if self.server.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let mut request = http::Request::builder()
            .method("GET")
            .uri(format!("{scheme}://{}{}", self.server.host, ask.path));
        for (name, value) in ask.fields {
            request = request.header(*name, value);
        }
        let request = request.body(()).map_err(|_| Failed::Garbage)?;
        let (answer, _) = sender
            .send_request(request, true)
            .map_err(|_| Failed::Closed)?;
        let answer = answer.await.map_err(|_| Failed::Closed)?;
        let first_byte = clock::instant();
        let (head, mut body) = answer.into_parts();
        let mut check = Check::default();
        while let Some(data) = body.data().await {
            let data = data.map_err(|_| Failed::Broken)?;
            check.feed(&data);
            // What is read makes room.
            let _ = body.flow_control().release_capacity(data.len());
        }
        Ok(Answer {
            status: head.status.as_u16(),
            first_byte,
            seen: check.end(),
            cache: came_by(&head.headers),
        })
    }

    async fn open(&self, client: u32, http2: bool) -> Result<Stream, Failed> {
        *self.opened.borrow_mut() += 1;
        let stream = connect(self.server.address, client).await;
        let stream = stream.map_err(|_| Failed::Refused)?;
        let Some(tls) = &self.server.tls else {
            return Ok(Stream::Plain(stream));
        };
        let connector = if http2 { &tls.http2 } else { &tls.http1 };
        let stream = connector.connect(tls.name.clone(), stream).await;
        Ok(Stream::Tls(Box::new(stream.map_err(|_| Failed::Closed)?)))
    }
}

async fn connect(server: SocketAddr, client: u32) -> io::Result<TcpStream> {
    let stream = match (server.ip(), wire::address(client)) {
        (IpAddr::V4(ip), Some(own)) if ip.is_loopback() => {
            let socket = TcpSocket::new_v4()?;
            socket.bind((own, 0).into())?;
            socket.connect(server).await?
        }
        _ => TcpStream::connect(server).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

/// A connection of HTTP/1.1 between requests.
struct Http1 {
    stream: Stream,
    buffer: Vec<u8>,
}

impl Http1 {
    /// Whether the server has left it open, as far as is known.
    fn is_open(&self) -> bool {
        let socket = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        let mut byte = [std::mem::MaybeUninit::new(0)];
        let peeked = socket2::SockRef::from(socket).peek(&mut byte);
        matches!(peeked, Err(why) if why.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether it goes on behind the answer, too.
    async fn ask(&mut self, request: &[u8]) -> Result<(Answer, bool), Failed> {
        // A server may answer without having read: what it says tells more than the write's failure.
        let written = self.stream.write_all(request).await.is_ok();
        if let Stream::Tls(stream) = &mut self.stream {
            // What can't be sent is told by the read.
            let _ = stream.flush().await;
        }
        let (status, fields, first_byte) = self.head().await?;
        let mut check = Check::default();
        let ends_here = self
            .body(framing(status, false, &fields), &mut check)
            .await?;
        let closes = fields
            .get(CONNECTION)
            .is_some_and(|told| told.as_bytes().eq_ignore_ascii_case(b"close"));
        self.buffer.clear();
        let answer = Answer {
            status,
            first_byte,
            seen: check.end(),
            cache: came_by(&fields),
        };
        Ok((answer, ends_here && !closes && written))
    }

    /// The head, interim ones left out; what follows it stays in the buffer.
    async fn head(&mut self) -> Result<(u16, HeaderMap, Instant), Failed> {
        let mut first_byte = None;
        loop {
            let mut searched = 0;
            let end = loop {
                let found = memchr::memmem::find(&self.buffer[searched..], b"\r\n\r\n");
                if let Some(found) = found {
                    break searched + found + 4;
                }
                searched = self.buffer.len().saturating_sub(3);
                if self.more().await? == 0 {
                    return Err(match self.buffer.is_empty() {
                        true => Failed::Closed,
                        false => Failed::Broken,
                    });
                }
                first_byte.get_or_insert_with(clock::instant);
            };
            let (status, fields) = wire::read_head(&self.buffer[..end]).ok_or(Failed::Garbage)?;
            self.buffer.drain(..end);
            if status >= 200 {
                let first_byte = first_byte.unwrap_or_else(clock::instant);
                return Ok((status, fields, first_byte));
            }
        }
    }

    /// Reads the body; whether the connection goes on behind it.
    async fn body(&mut self, framing: BodyFraming, check: &mut Check) -> Result<bool, Failed> {
        match framing {
            BodyFraming::None => Ok(true),
            BodyFraming::Length(length) => {
                let mut left = length;
                loop {
                    left = left
                        .checked_sub(self.buffer.len() as u64)
                        .ok_or(Failed::Garbage)?;
                    check.feed(&self.buffer);
                    self.buffer.clear();
                    if left == 0 {
                        return Ok(true);
                    }
                    if self.more().await? == 0 {
                        return Err(Failed::Broken);
                    }
                }
            }
            BodyFraming::Chunked => self.chunks(check).await,
            BodyFraming::Close => loop {
                check.feed(&self.buffer);
                self.buffer.clear();
                if self.more().await? == 0 {
                    return Ok(false);
                }
            },
        }
    }

    async fn chunks(&mut self, check: &mut Check) -> Result<bool, Failed> {
        let mut decoder = Decoder::new();
        loop {
            let mut at = 0;
            while at < self.buffer.len() && !decoder.is_done() {
                let step = decoder.decode(&self.buffer[at..]);
                let step = step.map_err(|_| Failed::Garbage)?;
                let data = &self.buffer[at..][step.data];
                check.feed(data);
                at += step.consumed;
            }
            if decoder.is_done() {
                return match at == self.buffer.len() {
                    true => Ok(true),
                    false => Err(Failed::Garbage),
                };
            }
            self.buffer.clear();
            if self.more().await? == 0 {
                return Err(Failed::Broken);
            }
        }
    }

    async fn more(&mut self) -> Result<usize, Failed> {
        self.buffer.reserve(BUFFER);
        let read = self.stream.read_buf(&mut self.buffer).await;
        read.map_err(|_| match self.buffer.is_empty() {
            true => Failed::Closed,
            false => Failed::Broken,
        })
    }
}
