//! Health checks: servers that are ill, fall ill and get well again, behind the real binary.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use super::site::{Asked, Client, Gate, Origin, Reply, Site, answer, equal, eventually, lock};
use super::{Outcome, Test};
use crate::harness::proxy::free_port;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "probes::a_server_that_falls_ill_gets_nothing_until_it_is_well",
            falls_ill,
        ),
        (
            "probes::who_is_ill_from_the_start_gets_nothing",
            ill_from_the_start,
        ),
        (
            "probes::visitors_wait_for_the_first_answers",
            first_answers_first,
        ),
        (
            "probes::c76_single_failures_change_nothing",
            c76_single_failures,
        ),
        (
            "probes::c76_where_all_are_ill_all_are_used",
            c76_all_are_ill,
        ),
        ("probes::c77_a_probe_is_nobodys_request", c77_nobodys),
        ("probes::go_on_while_everybody_is_busy", everybody_is_busy),
        ("probes::a_connection_is_enough", || refused("tcp")),
        ("probes::nobody_is_there", || refused("http")),
        ("probes::grpc", grpc),
    ]
}

/// How a server answers when it is asked for `/up`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Well,
    Failing,
    Degraded,
    NotJson,
    TooLong,
    Garbage,
    Closes,
    Hangs,
    /// Fails twice, then doesn't.
    FailsTwoOfThree,
    /// Fails every other time.
    FailsOneOfTwo,
}

/// A server with a health page, `/up`; all else is a page that tells which server made it.
struct Server {
    origin: Origin,
    mood: Arc<Mutex<Mood>>,
}

impl Server {
    fn start(mood: Mood) -> Result<Server, String> {
        let mood = Arc::new(Mutex::new(mood));
        let (feels, probes) = (Arc::clone(&mood), AtomicUsize::new(0));
        let origin = Origin::start(move |asked, conn| match asked.target.as_str() {
            "/up" => up(&feels, probes.fetch_add(1, Ordering::SeqCst), conn),
            "/stored" => answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page"),
            _ => answer(conn, 200, "Cache-Control: no-store\r\n", b"page"),
        })?;
        Ok(Server { origin, mood })
    }

    fn is(&self, mood: Mood) {
        *lock(&self.mood) = mood;
    }

    /// How many of the visitors' requests it got.
    fn served(&self) -> usize {
        self.origin.asked("GET /page")
    }

    fn probed(&self) -> usize {
        self.origin.asked("GET /up")
    }
}

fn up(mood: &Mutex<Mood>, nth: usize, conn: &mut Conn) -> Outcome {
    let is = *lock(mood);
    let ok = r#"{"status": "ok"}"#;
    let json = |conn: &mut Conn, status, body: &str| answer(conn, status, "", body.as_bytes());
    match is {
        Mood::Well => json(conn, 200, ok),
        Mood::Failing => json(conn, 503, ok),
        Mood::FailsTwoOfThree if nth.is_multiple_of(3) => json(conn, 200, ok),
        Mood::FailsOneOfTwo if nth.is_multiple_of(2) => json(conn, 200, ok),
        Mood::FailsTwoOfThree | Mood::FailsOneOfTwo => json(conn, 503, ok),
        Mood::Degraded => json(conn, 200, r#"{"status": "degraded"}"#),
        Mood::NotJson => json(conn, 200, "status: ok"),
        Mood::TooLong => {
            let long = format!(r#"{{"status": "ok", "rest": "{}"}}"#, "x".repeat(100_000));
            json(conn, 200, &long)
        }
        Mood::Garbage => {
            conn.write(b"SSH-2.0-OpenSSH\r\n")?;
            Err("that was it".into())
        }
        Mood::Closes => {
            conn.write(b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"status\"")?;
            Err("that was it".into())
        }
        Mood::Hangs => {
            while *lock(mood) == Mood::Hangs {
                thread::sleep(Duration::from_millis(5));
            }
            Err("nobody waits any more".into())
        }
    }
}

/// A proxy in front of them, that asks often; `config` goes into `[[upstream]]`.
fn site(servers: &[SocketAddr], config: &str) -> Result<Site, String> {
    let urls: Vec<_> = servers
        .iter()
        .map(|address| format!("\"http://{address}\""))
        .collect();
    Site::start(
        servers[0],
        &format!(
            "[[upstream]]\nname = \"app\"\nservers = [{}]\nbalance = \"round_robin\"\nslow_start = \"0\"\n\
             health_interval = \"50ms\"\n{config}",
            urls.join(", ")
        ),
    )
}

const ASKS: &str = "health = \"http\"\nhealth_path = \"/up\"\nhealth_json = \"status=ok\"\nhealth_timeout = \"1s\"\n";

fn label(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

/// Waits until a server counts as ill, or well.
fn until_up(site: &Site, server: SocketAddr, up: bool) -> Outcome {
    let is = f64::from(u8::from(up));
    eventually(&format!("{server} is up: {up}"), || {
        let label = [label("server", server)];
        let now = site.proxy.metric("tidegate_origin_server_up", &label)?;
        Ok((now == Some(is)).then_some(()))
    })
}

/// Probes that came to this, of all servers.
fn probes(site: &Site, result: &str) -> Result<f64, String> {
    let label = [label("result", result)];
    let count = site.proxy.metric("tidegate_origin_probes_total", &label)?;
    Ok(count.unwrap_or(0.0))
}

/// Some pages, one after the other.
fn visit(site: &Site) -> Outcome {
    let mut client = site.client()?;
    for page in 0..6 {
        client.get(&format!("/page/{page}"), "")?.is(200)?;
    }
    Ok(())
}

/// Servers take turns, but who is still busy may be left out.
fn some(what: &str, count: usize) -> Outcome {
    equal(what, count > 0, true)
}

/// The events that were written of this.
fn said(site: &Site, what: &str) -> usize {
    let log = log(site);
    log.lines().filter(|line| line.contains(what)).count()
}

fn log(site: &Site) -> String {
    fs::read_to_string(site.dir.path().join("stdout")).unwrap_or_default()
}

fn until_said(site: &Site, what: &str) -> Outcome {
    let waited = eventually(what, || Ok((said(site, what) > 0).then_some(())));
    waited.map_err(|why| format!("{why}: {}", log(site)))
}

fn readyz(site: &Site) -> Result<Reply, String> {
    Client::connect(site.proxy.admin())?.get("/readyz", "Connection: close\r\n")
}

fn falls_ill() -> Outcome {
    let (one, other) = (Server::start(Mood::Well)?, Server::start(Mood::Well)?);
    let [address, healthy] = [one.origin.address, other.origin.address];
    let site = site(&[address, healthy], &format!("{ASKS}health_fall = 2\n"))?;
    visit(&site)?;
    some("of both", one.served().min(other.served()))?;
    for (mood, result, why) in [
        (Mood::Failing, "unfit", "status 503"),
        (Mood::Degraded, "unfit", r#"\"status\" is \"degraded\""#),
        (Mood::NotJson, "unfit", "body is not JSON"),
        (Mood::TooLong, "unfit", "body over 64 KiB"),
        (Mood::Garbage, "broken", "does not begin with HTTP/1."),
        (Mood::Closes, "broken", "the connection ended in a body"),
        (Mood::Hangs, "timeout", "timed out after 1s"),
    ] {
        let told = |what: String| format!("{mood:?}: {what}");
        let before = (probes(&site, result)?, one.served());
        one.is(mood);
        until_up(&site, address, false).map_err(told)?;
        until_said(&site, why).map_err(told)?;
        if probes(&site, result)? < before.0 + 2.0 {
            return Err(told(format!("not counted as {result}")));
        }
        visit(&site)?;
        equal(&told("asked".into()), one.served(), before.1)?;
        one.is(Mood::Well);
        until_up(&site, address, true).map_err(told)?;
        visit(&site)?;
        some(&told("asked again".into()), one.served() - before.1)?;
    }
    equal("fell ill", said(&site, "a server is ill"), 7)?;
    until_up(&site, healthy, true)
}

/// No traffic has to find out, and nobody waits longer than a probe.
fn ill_from_the_start() -> Outcome {
    for mood in [Mood::Failing, Mood::Hangs] {
        let (ill, well) = (Server::start(mood)?, Server::start(Mood::Well)?);
        let servers = [ill.origin.address, well.origin.address];
        let site = site(&servers, ASKS)?;
        visit(&site)?;
        equal("asked", (ill.served(), well.served()), (0, 6))?;
        until_up(&site, servers[0], false)?;
        ill.is(Mood::Well);
        until_up(&site, servers[0], true)?;
        visit(&site)?;
        some("asked again", ill.served())?;
    }
    Ok(())
}

/// Both are asked before either has answered, and nobody is let in before both have.
fn first_answers_first() -> Outcome {
    let gate = Arc::new(Gate::default());
    let server = |status: u16| {
        let gate = Arc::clone(&gate);
        Origin::start(move |asked, conn| {
            if asked.target == "/up" {
                gate.wait();
                return answer(conn, status, "", b"");
            }
            answer(conn, 200, "Cache-Control: no-store\r\n", b"page")
        })
    };
    let (ill, well) = (server(500)?, server(200)?);
    let servers = [ill.address, well.address];
    let starting = thread::spawn(move || {
        let config = "health = \"http\"\nhealth_path = \"/up\"\nhealth_timeout = \"10s\"\n";
        site(&servers, config)
    });
    eventually("both are asked", || {
        let both = ill.asked("GET /up") == 1 && well.asked("GET /up") == 1;
        Ok(both.then_some(()))
    })?;
    thread::sleep(Duration::from_millis(100));
    let early = starting.is_finished();
    gate.open();
    let site = starting.join().map_err(|_| "starting panicked")??;
    equal("let in before", early, false)?;
    visit(&site)?;
    let asked = (ill.asked("GET /page"), well.asked("GET /page"));
    equal("asked", asked, (0, 6))
}

fn c76_single_failures() -> Outcome {
    let (flaps, ill) = (
        Server::start(Mood::FailsTwoOfThree)?,
        Server::start(Mood::Failing)?,
    );
    let servers = [flaps.origin.address, ill.origin.address];
    let site = site(&servers, &format!("{ASKS}health_fall = 3\n"))?;
    ill.is(Mood::FailsOneOfTwo);
    eventually("some turns", || {
        Ok((flaps.probed() > 15 && ill.probed() > 15).then_some(()))
    })?;
    until_up(&site, servers[0], true)?;
    until_up(&site, servers[1], false)?;
    visit(&site)?;
    equal("asked", (flaps.served(), ill.served()), (6, 0))?;
    equal("changes", said(&site, "a server is"), 1)
}

fn c76_all_are_ill() -> Outcome {
    let (one, other) = (Server::start(Mood::Failing)?, Server::start(Mood::Failing)?);
    let servers = [one.origin.address, other.origin.address];
    let site = site(&servers, ASKS)?;
    site.until("tidegate_origin_all_ill", |all| all == 1.0)?;
    visit(&site)?;
    some("both are used", one.served().min(other.served()))?;
    // With nothing stored there is nothing to fall back on.
    let ready = readyz(&site)?.is(503)?;
    equal("told", ready.text().contains("app: 0 of 2 well"), true)?;
    site.get("/stored", "")?.is(200)?;
    eventually("a page is stored", || {
        Ok((readyz(&site)?.status == 200).then_some(()))
    })?;
    until_said(&site, "no server is well")?;
    one.is(Mood::Well);
    site.until("tidegate_origin_all_ill", |all| all == 0.0)?;
    let ready = readyz(&site)?.is(200)?;
    equal("told", ready.text().contains("app: 1 of 2 well"), true)?;
    let before = (one.served(), other.served());
    visit(&site)?;
    let after = (one.served(), other.served());
    equal("one is used", after, (before.0 + 6, before.1))?;
    equal("said once", said(&site, "no server is well"), 1)
}

/// A probe is neither stored nor answered from the store, counts for nobody, and says who asks.
fn c77_nobodys() -> Outcome {
    let wrong = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&wrong);
    let origin = Origin::start(move |asked, conn| {
        if asked.method == "HEAD" {
            lock(&told).extend(told_by(asked));
            return conn.write(b"HTTP/1.1 204 -\r\nCache-Control: max-age=60\r\n\r\n");
        }
        answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page")
    })?;
    let site = site(
        &[origin.address],
        "host = \"app.test\"\nhealth = \"http\"\nhealth_path = \"/up?now\"\nhealth_method = \"HEAD\"\n\
         health_status = [\"204\"]\nhealth_headers = [\"X-Token: secret\"]\n",
    )?;
    let until_asked = |more: usize| {
        let before = origin.asked("HEAD /up?now");
        eventually("it is asked", || {
            Ok((origin.asked("HEAD /up?now") >= before + more).then_some(()))
        })
    };
    until_asked(3)?;
    equal("stored", site.metric("tidegate_cache_entries")?, 0.0)?;
    let reply = site.get("/up?now", "")?.is(200)?;
    equal("fetched", reply.told("fwd=uri-miss"), true)?;
    until_asked(3)?;
    let reply = site.get("/up?now", "")?.is(200)?;
    equal("stored then", reply.told("hit"), true)?;
    equal(
        "fetches",
        site.metric("tidegate_origin_requests_total")?,
        1.0,
    )?;
    let wrong = lock(&wrong);
    equal("told", wrong.first().map(String::as_str), None)?;
    until_up(&site, origin.address, true)
}

/// What a probe tells that it should not, or the other way round.
fn told_by(asked: &Asked) -> Vec<String> {
    let agent = concat!("tidegate-health/", env!("CARGO_PKG_VERSION"));
    let all = [
        ("User-Agent", agent),
        ("Host", "app.test"),
        ("X-Token", "secret"),
        ("Connection", "close"),
        ("Via", ""),
        ("X-Forwarded-For", ""),
        ("Cookie", ""),
    ];
    let wrong = all
        .iter()
        .filter(|(name, value)| asked.field(&name.to_ascii_lowercase()) != *value);
    wrong
        .map(|(name, _)| format!("{name}: {}", asked.field(&name.to_ascii_lowercase())))
        .collect()
}

/// The only worker and the only permit are taken, and the server is asked all the same.
fn everybody_is_busy() -> Outcome {
    let gate = Arc::new(Gate::default());
    let at_gate = Arc::clone(&gate);
    let origin = Origin::start(move |asked, conn| {
        if asked.target == "/held" {
            at_gate.wait();
        }
        answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page")
    })?;
    let servers = format!("servers = [\"http://{}\"]", origin.address);
    let site = Site::start(
        origin.address,
        &format!(
            "[listen]\nthreads = 1\n[[upstream]]\n{servers}\nmax_in_flight = 1\nqueue = 0\nhealth = \"http\"\n\
             health_path = \"/up\"\nhealth_interval = \"50ms\"\nhealth_timeout = \"3s\"\n"
        ),
    )?;
    site.get("/hot", "")?.is(200)?;
    let mut held = site.client()?;
    held.send("GET", "/held", "", b"")?;
    site.until("tidegate_origin_in_flight", |requests| requests == 1.0)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = site.client()?;
                    while !over.load(Ordering::SeqCst) {
                        client.get("/hot", "")?.is(200)?;
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        let before = origin.asked("GET /up");
        let asked = eventually("it is asked", || {
            Ok((origin.asked("GET /up") > before + 10).then_some(()))
        });
        let in_flight = site.metric("tidegate_origin_in_flight");
        over.store(true, Ordering::SeqCst);
        for visitor in visitors {
            visitor.join().map_err(|_| "a visitor panicked")??;
        }
        equal("in flight", in_flight?, 1.0)?;
        asked
    })?;
    equal("failed", probes(&site, "timeout")?, 0.0)?;
    until_up(&site, origin.address, true)?;
    gate.open();
    held.reply("GET")?.is(200).map(drop)
}

/// A server that isn't there, comes, and goes again.
fn refused(health: &str) -> Outcome {
    let (away, well) = (free_port(), Server::start(Mood::Well)?);
    let site = site(
        &[away, well.origin.address],
        &format!("health = \"{health}\"\nhealth_fall = 2\n"),
    )?;
    until_up(&site, away, false)?;
    visit(&site)?;
    equal("all from the other", well.served(), 6)?;
    let page =
        |_: &Asked, conn: &mut Conn| answer(conn, 200, "Cache-Control: no-store\r\n", b"page");
    let here = Origin::start_at(away, page)?;
    until_up(&site, away, true)?;
    visit(&site)?;
    some("shared", here.asked("GET /page"))?;
    drop(here);
    until_up(&site, away, false)?;
    let before = well.served();
    visit(&site)?;
    equal("all from the other again", well.served(), before + 6)?;
    let refused = probes(&site, "connect")?;
    equal("counted", refused >= 3.0, true)
}

/// How a server of gRPC answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answers {
    Serving,
    NotServing,
    /// A head and nothing else.
    Unimplemented,
    /// The message, and then a bad end.
    Failing,
    /// No trailers.
    NoStatus,
    NotGrpc,
    Hanging,
}

/// A server of HTTP/2 that has grpc.health.v1. It stops when it is dropped.
struct Grpc {
    address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    /// What the last question was not as it should be.
    wrong: Arc<Mutex<Option<String>>>,
    /// Connections that are.
    open: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Grpc {
    fn start() -> Result<Grpc, String> {
        let told = |e: std::io::Error| format!("origin: {e}");
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(told)?;
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .map_err(told)?;
        let grpc = Grpc {
            address: listener.local_addr().map_err(told)?,
            answers: Arc::new(Mutex::new(Answers::Serving)),
            wrong: Arc::default(),
            open: Arc::default(),
            _runtime: runtime,
        };
        let (answers, wrong) = (Arc::clone(&grpc.answers), Arc::clone(&grpc.wrong));
        let open = Arc::clone(&grpc.open);
        grpc._runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, wrong) = (Arc::clone(&answers), Arc::clone(&wrong));
                let open = Arc::clone(&open);
                tokio::spawn(async move {
                    open.fetch_add(1, Ordering::SeqCst);
                    // A connection that breaks is the proxy's to tell.
                    let _ = checks(stream, &answers, &wrong).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(grpc)
    }
}

/// Each stream in a task of its own, so that the connection goes on meanwhile.
async fn checks(
    stream: TcpStream,
    answers: &Arc<Mutex<Answers>>,
    wrong: &Arc<Mutex<Option<String>>>,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(next) = connection.accept().await {
        let (asked, reply) = next?;
        let (answers, wrong) = (Arc::clone(answers), Arc::clone(wrong));
        tokio::spawn(async move { check(asked, reply, &answers, &wrong).await });
    }
    Ok(())
}

async fn check(
    mut asked: Request<RecvStream>,
    mut reply: SendResponse<Bytes>,
    answers: &Mutex<Answers>,
    wrong: &Mutex<Option<String>>,
) -> Result<(), h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = asked.body_mut().data().await {
        let data = data?;
        asked
            .body_mut()
            .flow_control()
            .release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    *lock(wrong) = question(&asked, &body);
    let answer = *lock(answers);
    let head = |status: u16| Response::builder().status(status);
    let grpc = || head(200).header("content-type", "application/grpc");
    let empty = |head: http::response::Builder| head.body(()).unwrap_or_default();
    let end = match answer {
        // Until the proxy has enough of it.
        Answers::Hanging => return std::future::pending().await,
        Answers::NotGrpc => {
            reply.send_response(empty(head(404)), true)?;
            return Ok(());
        }
        Answers::Unimplemented => {
            reply.send_response(empty(grpc().header("grpc-status", "12")), true)?;
            return Ok(());
        }
        Answers::Serving | Answers::NotServing => Some("0"),
        Answers::Failing => Some("14"),
        Answers::NoStatus => None,
    };
    let status = if answer == Answers::NotServing { 2 } else { 1 };
    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
    let mut sending = reply.send_response(empty(grpc()), false)?;
    sending.send_data(message, end.is_none())?;
    if let Some(end) = end {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static(end));
        sending.send_trailers(trailers)?;
    }
    Ok(())
}

/// What is wrong with a question.
fn question<B>(asked: &Request<B>, body: &[u8]) -> Option<String> {
    let field = |name: &str| {
        asked
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let agent = concat!("tidegate-health/", env!("CARGO_PKG_VERSION"));
    let is = (
        (asked.method().as_str(), asked.uri().path()),
        (field("content-type"), field("te"), field("user-agent")),
        body,
    );
    let should_be = (
        ("POST", "/grpc.health.v1.Health/Check"),
        (Some("application/grpc"), Some("trailers"), Some(agent)),
        &b"\0\0\0\0\x0c\x0a\x0ablog.Posts"[..],
    );
    (is != should_be).then(|| format!("{is:?}"))
}

fn grpc() -> Outcome {
    let server = Grpc::start()?;
    // Over plain text gRPC is HTTP/2 by prior knowledge, whatever visitors' requests are.
    let site = site(
        &[server.address],
        "health = \"grpc\"\nhealth_service = \"blog.Posts\"\nhealth_fall = 2\nhealth_timeout = \"1s\"\n",
    )?;
    until_up(&site, server.address, true)?;
    equal("question", lock(&server.wrong).take(), None)?;
    for (answers, why) in [
        (Answers::NotServing, "NOT_SERVING"),
        (Answers::Unimplemented, "grpc-status 12"),
        (Answers::Failing, "grpc-status 14"),
        (Answers::NoStatus, "no grpc-status"),
        (Answers::NotGrpc, "status 404"),
        (Answers::Hanging, "timed out after 1s"),
    ] {
        let told = |what: String| format!("{answers:?}: {what}");
        *lock(&server.answers) = answers;
        until_up(&site, server.address, false).map_err(told)?;
        until_said(&site, why).map_err(told)?;
        *lock(&server.answers) = Answers::Serving;
        until_up(&site, server.address, true).map_err(told)?;
    }
    // Of two dozen probes none has left a connection behind.
    eventually("no more connections than probes", || {
        Ok((server.open.load(Ordering::SeqCst) <= 1).then_some(()))
    })
}
