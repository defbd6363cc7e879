//! The admin listener: `/metrics`, `/healthz`, `/readyz`, on an address of its own.
//!
//! It runs on a thread and a runtime of its own, so it answers however busy the road is. One
//! request a connection; heads, connections and time are bounded (class C51: nothing here is
//! reachable from the public listener, and nothing changes anything).

mod health;
mod metrics;
mod reply;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

#[cfg(debug_assertions)]
use crate::clock;
use crate::telemetry::Metrics;

use reply::Reply;

pub use health::{Health, Heartbeat, State};

/// From the connection to the whole head, and again to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may take to close after it was answered.
const LINGER: Duration = Duration::from_secs(1);
const HEAD_MOST: usize = 8 * 1024;
const FIELDS_MOST: usize = 64;
const CONNECTIONS_MOST: usize = 64;

/// What the listener tells about.
pub struct Admin {
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
}

/// A running listener; dropping it stops it.
pub struct Listening {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Serves `listener`, which doesn't block, from a thread of its own.
///
/// # Errors
/// A thread or runtime that cannot be started.
pub fn start(listener: TcpListener, admin: Admin) -> io::Result<Listening> {
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => tokio::select! {
                        () = serve(listener, Arc::new(admin)) => {}
                        _ = stopped => {}
                    },
                    Err(error) => tracing::error!(%error, "admin listener"),
                }
            });
        })?;
    Ok(Listening {
        address,
        stop: Some(stop),
        thread: Some(thread),
    })
}

impl Listening {
    /// The address bound, with the port that was found for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, that was told.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: tokio::net::TcpListener, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MOST));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = admin.clone();
                tokio::spawn(async move {
                    connection(stream, &admin, DEADLINE).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: others close some.
            Err(error) => {
                tracing::warn!(%error, "admin listener");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(mut stream: TcpStream, admin: &Admin, deadline: Duration) {
    let mut head = Vec::new();
    let reply = match timeout(deadline, read_head(&mut stream, &mut head)).await {
        Ok(Ok(true)) => answer(&head, admin),
        Ok(Ok(false)) => Reply::problem(431, "the request head is over 8 KiB"),
        Ok(Err(_)) => return,
        Err(_) => Reply::problem(408, "no whole request head in time"),
    };
    let bytes = reply.into_bytes(head.starts_with(b"HEAD "));
    if let Ok(Ok(())) = timeout(deadline, stream.write_all(&bytes)).await
        && stream.shutdown().await.is_ok()
    {
        // Closing with bytes unread would reset the connection and take the answer with it.
        let _ = timeout(LINGER, discard(&mut stream)).await;
    }
}

/// Reads until a head's empty line; false if it is too long.
async fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<bool> {
    while memchr::memmem::find(head, b"\r\n\r\n").is_none() {
        if head.len() >= HEAD_MOST {
            return Ok(false);
        }
        let room = (HEAD_MOST - head.len()) as u64;
        if (&mut *stream).take(room).read_buf(head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(true)
}

async fn discard(stream: &mut TcpStream) {
    let mut nowhere = [0; 4096];
    for _ in 0..64 {
        if !matches!(stream.read(&mut nowhere).await, Ok(1..)) {
            return;
        }
    }
}

fn answer(head: &[u8], admin: &Admin) -> Reply {
    let mut lines = [httparse::EMPTY_HEADER; FIELDS_MOST];
    let mut request = httparse::Request::new(&mut lines);
    let parsed = request.parse(head);
    let (Ok(httparse::Status::Complete(_)), Some(method), Some(target)) =
        (parsed, request.method, request.path)
    else {
        return Reply::problem(400, "not an HTTP/1 request");
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    #[cfg(debug_assertions)]
    if path == "/test/advance" {
        return turn_clock(method, query);
    }
    #[cfg(not(debug_assertions))]
    let _ = query;
    let page = match path {
        "/metrics" => metrics::page,
        "/healthz" => health::alive_page,
        "/readyz" => health::ready_page,
        _ => return Reply::problem(404, "here are /metrics, /healthz and /readyz"),
    };
    match method {
        "GET" | "HEAD" => page(admin),
        _ => Reply::problem(405, "only GET and HEAD").with("Allow", "GET, HEAD"),
    }
}

/// `POST /test/advance?ms=11000`, in debug builds only: tests turn the clock instead of waiting.
#[cfg(debug_assertions)]
fn turn_clock(method: &str, query: &str) -> Reply {
    if method != "POST" {
        return Reply::problem(405, "only POST").with("Allow", "POST");
    }
    let millis: Option<u32> = query.strip_prefix("ms=").and_then(|ms| ms.parse().ok());
    let Some(millis) = millis else {
        return Reply::problem(400, "ms=<milliseconds> is missing");
    };
    clock::advance(Duration::from_millis(millis.into()));
    Reply::json(200, format!("{{\"mono_ms\":{}}}\n", clock::now().mono.0))
}

#[cfg(test)]
mod tests {
    use super::reply::reason;
    use super::*;
    use crate::clock;
    use crate::telemetry::CacheResult;
    use serde_json::Value;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};

    struct Running {
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        listening: Listening,
    }

    fn running() -> Running {
        let (health, metrics) = (Health::new(), Arc::new(Metrics::new()));
        let admin = Admin {
            metrics: metrics.clone(),
            health: health.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listening = start(listener, admin).unwrap();
        Running {
            health,
            metrics,
            listening,
        }
    }

    impl Running {
        /// The answer's head and body to these bytes.
        fn ask(&self, bytes: &[u8]) -> (String, String) {
            let mut stream = TcpStream::connect(self.listening.address()).unwrap();
            stream.write_all(bytes).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head.to_owned(), body.to_owned())
        }

        fn get(&self, target: &str) -> (String, String) {
            self.ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
        }
    }

    fn json(body: &str) -> Value {
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn metrics_are_told() {
        let admin = running();
        admin
            .metrics
            .route("blog")
            .count(CacheResult::Hit, 200, 5, 1);
        let (head, body) = admin.get("/metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("\r\nContent-Type: text/plain; version=0.0.4\r\n"),
            "{head}"
        );
        assert!(
            head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())),
            "{head}"
        );
        assert!(
            body.contains("tidegate_response_bytes_total{route=\"blog\"} 5\n"),
            "{body}"
        );
    }

    #[test]
    fn head_is_get_without_the_body() {
        let admin = running();
        let (head, body) = admin.ask(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(!head.contains("Content-Length: 0"), "{head}");
        assert_eq!(body, "");
    }

    #[test]
    fn alive_while_every_loop_beats() {
        let admin = running();
        admin.health.heartbeat("front", Duration::from_secs(600));
        let (head, body) = admin.get("/healthz");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(json(&body)["parts"]["front"]["ok"], true);

        let silent = admin.health.heartbeat("fetch", Duration::ZERO);
        let born = clock::uptime_millis();
        while clock::uptime_millis() <= born {
            std::hint::spin_loop();
        }
        let (head, body) = admin.get("/healthz");
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert!(head.contains("\r\nRetry-After: "), "{head}");
        let body = json(&body);
        assert_eq!(
            (&body["ok"], &body["parts"]["fetch"]["ok"]),
            (&false.into(), &false.into())
        );
        assert_eq!(body["parts"]["front"]["ok"], true);
        silent.beat();
    }

    #[test]
    fn ready_when_all_parts_are_and_nothing_drains() {
        let admin = running();
        admin
            .health
            .ready_when("config", || State::Ok("valid".to_owned()));
        let (head, body) = admin.get("/readyz");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(json(&body)["parts"]["config"]["detail"], "valid");
        admin.health.drain();
        let (head, body) = admin.get("/readyz");
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(json(&body)["parts"]["draining"]["ok"], false);
        let (head, _) = admin.get("/healthz");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }

    #[test]
    fn refusals_are_problems() {
        let admin = running();
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(HEAD_MOST));
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "A: a\r\n".repeat(FIELDS_MOST + 1)
        );
        for (bytes, status, field) in [
            ("GET / HTTP/1.1\r\n\r\n", 404, ""),
            ("GET /v1/purge HTTP/1.1\r\n\r\n", 404, ""),
            ("PURGE /metrics HTTP/1.1\r\n\r\n", 405, "Allow: GET, HEAD"),
            (
                "POST /healthz HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
                405,
                "Allow: GET, HEAD",
            ),
            ("GET /metrics\r\n\r\n", 400, ""),
            ("\0\0\r\n\r\n", 400, ""),
            (&many, 400, ""),
            (&long, 431, ""),
        ] {
            let (head, body) = admin.ask(bytes.as_bytes());
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} {}\r\n", reason(status))),
                "{bytes:.40}: {head}"
            );
            assert!(
                head.contains("\r\nContent-Type: application/problem+json\r\n"),
                "{head}"
            );
            assert!(head.contains(field), "{head}");
            assert_eq!(json(&body)["status"], status, "{body}");
        }
    }

    #[cfg(debug_assertions)]
    #[test]
    fn the_clock_can_be_turned_in_debug_builds() {
        let admin = running();
        let before = clock::now();
        let (head, _) = admin.ask(b"POST /test/advance?ms=11000 HTTP/1.1\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(clock::now().mono.since(before.mono) >= Duration::from_secs(11));
        assert!(
            admin
                .get("/test/advance?ms=1")
                .0
                .starts_with("HTTP/1.1 405 ")
        );
        assert!(
            admin
                .ask(b"POST /test/advance?ms=-1 HTTP/1.1\r\n\r\n")
                .0
                .starts_with("HTTP/1.1 400 ")
        );
    }

    #[test]
    fn c65_a_silent_client_is_told_and_cut() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let admin = Admin {
            metrics: Arc::new(Metrics::new()),
            health: Health::new(),
        };
        let serving = std::thread::spawn(move || {
            runtime.block_on(async {
                let server = tokio::net::TcpStream::from_std(server).unwrap();
                connection(server, &admin, Duration::from_millis(30)).await;
            });
        });
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        client.shutdown(Shutdown::Both).unwrap();
        serving.join().unwrap();
    }

    #[test]
    fn dropping_it_frees_the_address() {
        let admin = running();
        let address = admin.listening.address();
        drop(admin);
        assert!(TcpStream::connect(address).is_err());
    }
}
