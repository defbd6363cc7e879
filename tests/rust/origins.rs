//! Origins that speak TLS and HTTP/2, which wire scripts do not, behind the real binary.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use pingora::tls::{CertificateDer, PrivateKeyDer, ServerConfig, TlsAcceptor};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use super::site::{Site, equal, eventually, lock};
use super::{Outcome, Test};

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("origins::tls", || serves(Speaks::Tls)),
        ("origins::http2_by_alpn", || serves(Speaks::Http2OverTls)),
        ("origins::http2_by_prior_knowledge", || {
            serves(Speaks::Http2)
        }),
        (
            "origins::a_stream_that_breaks_is_a_broken_reply_over_tls",
            || breaks(Speaks::Tls),
        ),
        (
            "origins::a_stream_that_breaks_is_a_broken_reply_over_http2_and_tls",
            || breaks(Speaks::Http2OverTls),
        ),
        (
            "origins::a_stream_that_breaks_is_a_broken_reply_over_http2",
            || breaks(Speaks::Http2),
        ),
        (
            "origins::a_thousand_cold_clients_are_one_fetch_over_tls",
            || cold_crowd(Speaks::Tls),
        ),
        (
            "origins::a_thousand_cold_clients_are_one_fetch_over_http2_and_tls",
            || cold_crowd(Speaks::Http2OverTls),
        ),
        (
            "origins::a_thousand_cold_clients_are_one_fetch_over_http2",
            || cold_crowd(Speaks::Http2),
        ),
        (
            "origins::who_cannot_prove_itself_is_asked_nothing",
            a_stranger_is_asked_nothing,
        ),
        ("origins::are_watched_in_the_way_they_speak", are_watched),
        (
            "origins::fetches_and_refreshes_are_counted_by_what_came_of_them",
            fetches_are_counted,
        ),
    ]
}

/// What an origin speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Speaks {
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS, agreed upon by ALPN.
    Http2OverTls,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
}

impl Speaks {
    fn version(self) -> &'static str {
        match self {
            Speaks::Tls => "1.1",
            Speaks::Http2OverTls | Speaks::Http2 => "2",
        }
    }
}

/// A page's body: larger than one window of HTTP/2, not of whole pieces.
const LARGE: usize = 150_001;

/// An origin for `localhost`. It stops when it is dropped.
struct Origin {
    address: SocketAddr,
    speaks: Speaks,
    /// Vouches for it.
    ca: NamedTempFile,
    stage: Arc<Stage>,
    _runtime: Runtime,
}

/// What an origin's answers share.
struct Stage {
    /// How often was asked: version, method, path.
    asked: Mutex<HashMap<String, usize>>,
    /// `/held` is answered with a permit.
    held: Semaphore,
}

impl Origin {
    fn start(speaks: Speaks) -> Result<Origin, String> {
        let told = |e: std::io::Error| format!("origin: {e}");
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(told)?;
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["localhost".to_owned()]).map_err(|e| e.to_string())?;
        let mut ca = NamedTempFile::new().map_err(told)?;
        ca.write_all(cert.pem().as_bytes()).map_err(told)?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der())?;
        pingora::tls::install_default_crypto_provider();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(cert.der().to_vec())], key)
            .map_err(|e| e.to_string())?;
        config.alpn_protocols = match speaks {
            Speaks::Http2OverTls => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            _ => vec![b"http/1.1".to_vec()],
        };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .map_err(told)?;
        let address = listener.local_addr().map_err(told)?;
        let stage = Arc::new(Stage {
            asked: Mutex::default(),
            held: Semaphore::new(0),
        });
        let on_stage = Arc::clone(&stage);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, stage) = (acceptor.clone(), Arc::clone(&on_stage));
                tokio::spawn(async move {
                    if speaks == Speaks::Http2 {
                        return http2(stream, stage).await;
                    }
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    match stream.get_ref().1.alpn_protocol() {
                        Some(b"h2") => http2(stream, stage).await,
                        _ => http1(stream, &stage).await.unwrap_or_default(),
                    }
                });
            }
        });
        Ok(Origin {
            address,
            speaks,
            ca,
            stage,
            _runtime: runtime,
        })
    }

    /// A proxy in front of it; `config` goes into `[[upstream]]`.
    fn site(&self, config: &str) -> Result<Site, String> {
        let port = self.address.port();
        let upstream = match self.speaks {
            Speaks::Http2 => {
                format!("servers = [\"http://localhost:{port}\"]\nprotocol = \"http2\"")
            }
            _ => format!("servers = [\"https://localhost:{port}\"]"),
        };
        Site::start(self.address, &format!("[[upstream]]\n{upstream}\n{config}"))
    }

    /// A proxy that believes it.
    fn trusted(&self) -> Result<Site, String> {
        match self.speaks {
            Speaks::Http2 => self.site(""),
            _ => self.site(&format!("ca = \"{}\"", self.ca.path().display())),
        }
    }

    /// How often it was asked for a path, in the version that it speaks.
    fn asked(&self, method: &str, path: &str) -> usize {
        let what = format!("{} {method} {path}", self.speaks.version());
        lock(&self.stage.asked).get(&what).copied().unwrap_or(0)
    }
}

/// An answer, whichever way it is said.
struct Answer {
    fields: &'static str,
    body: Vec<u8>,
    /// It breaks off after half its body.
    breaks: bool,
}

impl Stage {
    async fn answer(&self, version: &str, method: &str, path: &str, body: Vec<u8>) -> Answer {
        let what = format!("{version} {method} {path}");
        *lock(&self.asked).entry(what).or_default() += 1;
        if path == "/held" {
            // Never closed.
            let _ = self.held.acquire().await.map(|permit| permit.forget());
        }
        let large = || (0..LARGE).map(|n| (n % 251) as u8).collect();
        Answer {
            fields: "max-age=60, stale-while-revalidate=600",
            body: if method == "POST" { body } else { large() },
            breaks: path == "/broken",
        }
    }
}

/// Requests in order, on one connection.
async fn http1(mut stream: impl AsyncRead + AsyncWrite + Unpin, stage: &Stage) -> Option<()> {
    let mut held = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = held.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            more(&mut stream, &mut held).await?;
        };
        let head = String::from_utf8_lossy(&held[..end]).to_ascii_lowercase();
        let start = String::from_utf8_lossy(&held[..end]).into_owned();
        let mut words = start.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let length = head.split("content-length: ").nth(1);
        let length: usize = length.map_or(Some(0), |rest| rest.lines().next()?.parse().ok())?;
        while held.len() < end + length {
            more(&mut stream, &mut held).await?;
        }
        let body = held[end..end + length].to_vec();
        held.drain(..end + length);
        let answer = stage.answer("1.1", method, path, body).await;
        let whole = answer.body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: {}\r\nContent-Length: {whole}\r\n\r\n",
            answer.fields
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        let sent = if answer.breaks { whole / 2 } else { whole };
        stream.write_all(&answer.body[..sent]).await.ok()?;
        stream.flush().await.ok()?;
        if answer.breaks {
            return None;
        }
    }
}

async fn more(stream: &mut (impl AsyncRead + Unpin), held: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(held).await.ok()?;
    (read > 0).then_some(())
}

async fn http2(stream: impl AsyncRead + AsyncWrite + Unpin, stage: Arc<Stage>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let stage = Arc::clone(&stage);
        tokio::spawn(async move { one_stream(request, respond, &stage).await });
    }
}

async fn one_stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    stage: &Stage,
) -> Option<()> {
    let (method, path) = (
        request.method().to_string(),
        request.uri().path().to_owned(),
    );
    let mut receiving = request.into_body();
    let mut body = Vec::new();
    while let Some(piece) = receiving.data().await {
        let piece = piece.ok()?;
        receiving
            .flow_control()
            .release_capacity(piece.len())
            .ok()?;
        body.extend_from_slice(&piece);
    }
    let answer = stage.answer("2", &method, &path, body).await;
    let head = Response::builder()
        .header("cache-control", answer.fields)
        .header("content-length", answer.body.len());
    let mut sending = respond.send_response(head.body(()).ok()?, false).ok()?;
    let whole = Bytes::from(answer.body);
    if !answer.breaks {
        return send(&mut sending, whole, true).await;
    }
    send(&mut sending, whole.slice(..whole.len() / 2), false).await?;
    sending.send_reset(Reason::INTERNAL_ERROR);
    Some(())
}

/// As the other side makes room.
async fn send(to: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Option<()> {
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| to.poll_capacity(cx))
            .await?
            .ok()?;
        let piece = bytes.split_to(room.min(bytes.len()));
        to.send_data(piece, end && bytes.is_empty()).ok()?;
    }
    Some(())
}

fn serves(speaks: Speaks) -> Outcome {
    let origin = Origin::start(speaks)?;
    let site = origin.trusted()?;
    let first = site.get("/page", "")?.is(200)?;
    equal("the first is stored", first.told("stored"), true)?;
    let again = site.get("/page", "")?.is(200)?;
    equal("the second is a hit", again.told("hit"), true)?;
    equal("its length", again.body.len(), LARGE)?;
    equal("its bytes", again.body == first.body, true)?;
    equal("fetches", origin.asked("GET", "/page"), 1)?;

    let body: Vec<u8> = (0..200_000_u32).map(|n| (n % 241) as u8).collect();
    let mut client = site.client()?;
    for _ in 0..2 {
        let echo = client.ask("POST", "/echo", "", &body)?.is(200)?;
        equal("the echo", echo.body == body, true)?;
    }
    equal("posts", origin.asked("POST", "/echo"), 2)
}

fn breaks(speaks: Speaks) -> Outcome {
    let origin = Origin::start(speaks)?;
    let site = origin.trusted()?;
    for turn in 1..=2 {
        match site.get("/broken", "") {
            // Nothing of it was stored, so it is fetched again.
            Ok(reply) if !reply.whole && reply.body.len() < LARGE => {}
            Ok(reply) if reply.status == 502 => {}
            Ok(reply) => {
                let (status, got) = (reply.status, reply.body.len());
                return Err(format!("looks whole: {status}, {got} bytes"));
            }
            Err(why) if why.contains("in time") => return Err(why),
            // A reset may take the head along.
            Err(_) => {}
        }
        equal("fetches", origin.asked("GET", "/broken") >= turn, true)?;
    }
    // The others go on.
    site.get("/page", "")?.is(200)?;
    equal("fetches after", origin.asked("GET", "/page"), 1)
}

fn cold_crowd(speaks: Speaks) -> Outcome {
    let origin = Origin::start(speaks)?;
    let site = origin.trusted()?;
    let crowd = 1_000.min(descriptors()? / 4);
    let mut clients = Vec::new();
    for _ in 0..crowd {
        let mut client = site.client()?;
        client.send("GET", "/held", "", b"")?;
        clients.push(client);
    }
    site.until("tidegate_waiters", |waiters| waiters == crowd as f64)?;
    origin.stage.held.add_permits(crowd);
    let mut first = None;
    for client in &mut clients {
        let reply = client.reply("GET")?.is(200)?;
        let first = first.get_or_insert_with(|| reply.body.clone());
        if reply.body.len() != LARGE || reply.body != *first {
            return Err(format!("another page: {} bytes", reply.body.len()));
        }
    }
    equal("fetches", origin.asked("GET", "/held"), 1)
}

/// How many this process may have open; the crowd is smaller where that is few.
fn descriptors() -> Result<usize, String> {
    let limits = fs::read_to_string("/proc/self/limits").map_err(|e| e.to_string())?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    Ok(soft
        .and_then(|soft| soft.parse().ok())
        .unwrap_or(usize::MAX))
}

fn a_stranger_is_asked_nothing() -> Outcome {
    let (origin, another) = (Origin::start(Speaks::Tls)?, Origin::start(Speaks::Tls)?);
    // It believes somebody else, under the same name.
    let site = origin.site(&format!("ca = \"{}\"", another.ca.path().display()))?;
    let reply = site.get("/page", "")?;
    equal("the answer", (reply.status, reply.whole), (502, true))?;
    let post = site.client()?.ask("POST", "/echo", "", b"secret")?;
    equal("the answer", post.status, 502)?;
    equal("what it was asked", lock(&origin.stage.asked).len(), 0)?;
    // Where a server need not prove itself, it is asked.
    let trusting = origin.site("verify = false")?;
    trusting.get("/page", "")?.is(200)?;
    equal("fetches", origin.asked("GET", "/page"), 1)
}

fn fetches_are_counted() -> Outcome {
    let origin = Origin::start(Speaks::Http2)?;
    let site = origin.trusted()?;
    for page in 0..5 {
        site.get(&format!("/{page}"), "")?.is(200)?;
    }
    site.until("tidegate_origin_requests_total", |fetches| fetches == 5.0)?;
    site.until("tidegate_origin_seconds_count", |fetches| fetches == 5.0)?;
    site.proxy.advance(std::time::Duration::from_secs(61))?;
    for page in 0..5 {
        let stale = site.get(&format!("/{page}"), "")?.is(200)?;
        equal("stale at once", stale.told("detail=swr"), true)?;
    }
    site.until("tidegate_refreshes_total", |refreshes| refreshes == 5.0)?;
    site.until("tidegate_origin_requests_total", |fetches| fetches == 10.0)
}

/// A health check asks as visitors do: the same version, and the same proof of who answers.
fn are_watched() -> Outcome {
    let check = "health = \"http\"\nhealth_path = \"/up\"\nhealth_interval = \"50ms\"\n";
    for speaks in [Speaks::Tls, Speaks::Http2OverTls, Speaks::Http2] {
        let origin = Origin::start(speaks)?;
        let ca = match speaks {
            Speaks::Http2 => String::new(),
            _ => format!("ca = \"{}\"\n", origin.ca.path().display()),
        };
        let site = origin.site(&format!("{ca}{check}"))?;
        eventually("it is asked again", || {
            Ok((origin.asked("GET", "/up") > 2).then_some(()))
        })?;
        equal("up", site.metric("tidegate_origin_server_up")?, 1.0)?;
        equal(
            "fetches",
            site.metric("tidegate_origin_requests_total")?,
            0.0,
        )?;
    }
    let origin = Origin::start(Speaks::Tls)?;
    let site = origin.site(check)?;
    equal("up", site.metric("tidegate_origin_server_up")?, 0.0)?;
    equal("asked", origin.asked("GET", "/up"), 0)
}
