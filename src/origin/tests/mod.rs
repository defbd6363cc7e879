//! Exchanges against small origins that do exactly what they are told, on a free port each.

use crate::clock;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pingora::http::RequestHeader;
use pingora::tls::ServerTlsStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::origin::Ask;

mod answers;
mod bodies;
mod connections;
mod deadlines;
mod http2;
mod tls;
mod tunnels;

const LONG: Duration = Duration::from_secs(20);

/// What an origin does with one connection, in order; at the end it closes.
#[derive(Clone, Debug)]
enum Do {
    /// Reads up to the end of a request's head.
    Read,
    /// Reads so many bytes of body.
    ReadBytes(usize),
    Write(Vec<u8>),
    Pause(Duration),
    Reset,
    Hang,
    /// Waits for the peer to close.
    AwaitClose,
    /// Sends back whatever comes.
    Echo,
}

use Do::{AwaitClose, Echo, Hang, Pause, Read, ReadBytes, Reset};

fn say(bytes: impl AsRef<[u8]>) -> Do {
    Do::Write(bytes.as_ref().to_vec())
}

/// The first connection meets the first script, and so on; the last script meets all later ones.
struct Origin {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Origin {
    async fn start(scripts: Vec<Vec<Do>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self {
            addr: listener.local_addr().unwrap(),
            heads: Arc::default(),
            connections: Arc::default(),
        };
        let (heads, connections) = (origin.heads.clone(), origin.connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = *connections.lock();
                *connections.lock() += 1;
                let script = scripts[number.min(scripts.len() - 1)].clone();
                tokio::spawn(play(stream, script, heads.clone()));
            }
        });
        origin
    }

    fn connections(&self) -> usize {
        *self.connections.lock()
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().clone()
    }
}

async fn play(mut stream: impl Peer, script: Vec<Do>, heads: Arc<Mutex<Vec<String>>>) {
    for step in script {
        let done = match step {
            Read => read_head(&mut stream)
                .await
                .map(|head| heads.lock().push(head)),
            ReadBytes(count) => stream.read_exact(&mut vec![0; count]).await.map(drop),
            Do::Write(bytes) => stream.write_all(&bytes).await,
            Pause(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Reset => stream.reset_on_close(),
            Hang => std::future::pending().await,
            AwaitClose => stream.read_to_end(&mut vec![]).await.map(drop),
            Echo => {
                let (mut read, mut write) = tokio::io::split(&mut stream);
                tokio::io::copy(&mut read, &mut write).await.map(drop)
            }
        };
        if done.is_err() {
            return;
        }
    }
}

/// What a script is played on.
trait Peer: AsyncRead + AsyncWrite + Unpin {
    fn reset_on_close(&self) -> std::io::Result<()>;
}

impl Peer for TcpStream {
    fn reset_on_close(&self) -> std::io::Result<()> {
        self.set_zero_linger()
    }
}

impl Peer for ServerTlsStream<TcpStream> {
    fn reset_on_close(&self) -> std::io::Result<()> {
        self.get_ref().0.set_zero_linger()
    }
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn spec(addr: SocketAddr) -> UpstreamSpec {
    UpstreamSpec {
        name: "app".into(),
        servers: vec![ServerSpec {
            place: Place::Address(addr),
            tls: false,
            sni: "localhost".into(),
            authority: "app.test:80".into(),
            weight: 1,
            backup: false,
            max_in_flight: None,
        }],
        resolve: ResolveSpec::default(),
        max_in_flight: Some(8),
        queue: 8,
        queue_wait: LONG,
        balance: Balance::default(),
        hash_by: HashBy::default(),
        sticky: None,
        rules: super::standing::tests::RULES,
        breaker: crate::rules::breaker::Rules {
            after: 0,
            share: 80,
        },
        retries: 10,
        max_streams: 2,
        connect_timeout: LONG,
        first_byte_timeout: LONG,
        between_bytes_timeout: LONG,
        total_timeout: LONG,
        keepalive: Duration::from_secs(4),
        protocol: Protocol::Auto,
        tls_verify: true,
        tls_ca: None,
        health: None,
    }
}

fn upstream(addr: SocketAddr) -> Arc<Upstream> {
    Upstream::new(spec(addr)).unwrap()
}

fn request(method: &str) -> Box<RequestHeader> {
    Box::new(RequestHeader::build(method, b"/page?q=1", None).unwrap())
}

#[derive(Debug, Default)]
struct Answer {
    status: u16,
    fields: http::HeaderMap,
    interim: Vec<u16>,
    body: Vec<u8>,
    attempts: u8,
}

/// One exchange to its end, back to the pool.
async fn fetch(upstream: &Arc<Upstream>, method: &str) -> Result<Answer, OriginError> {
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(upstream, &permit, request(method), Outgoing::None).await?;
    let answer = receive(&mut exchange).await?;
    exchange.finish().await;
    Ok(answer)
}

async fn receive(exchange: &mut Exchange) -> Result<Answer, OriginError> {
    let mut answer = Answer::default();
    loop {
        match exchange.next().await? {
            Event::Interim { status, .. } => answer.interim.push(status),
            Event::Head(head) | Event::Switched(head) => {
                answer.status = head.status;
                answer.fields = head.fields;
            }
            Event::Body(piece) => {
                assert!(!piece.is_empty());
                answer.body.extend_from_slice(&piece);
            }
            Event::End => {
                answer.attempts = exchange.attempts();
                return Ok(answer);
            }
        }
    }
}

async fn fails(script: Vec<Do>, change: impl FnOnce(&mut UpstreamSpec)) -> (OriginError, Duration) {
    let origin = Origin::start(vec![script]).await;
    let mut spec = spec(origin.addr);
    change(&mut spec);
    let upstream = Upstream::new(spec).unwrap();
    let began = clock::timer();
    let error = timeout(LONG, fetch(&upstream, "GET"))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(upstream.in_flight(), 0);
    (error, began.elapsed())
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
