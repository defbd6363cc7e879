//! The listeners in this process, with a proxy behind them that does nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::cache::memory::Memory;
use crate::cache::store::Store;
use crate::clock;
use crate::config::{self, Policy};
use crate::fallback::{Rehearsal, Reserve};
use crate::fetch::{Fetcher, Limits};
use crate::fleet::Fleet;
use crate::limits::Limit;
use crate::rules::replay::Replay;
use crate::telemetry::CacheResult;

const TOKEN: &str = "0123456789abcdef";

struct Idle {
    policy: Arc<Policy>,
    fetcher: Arc<Fetcher>,
}

impl Idle {
    fn new() -> Idle {
        let config = "[[upstream]]\nservers = [\"http://127.0.0.1:1\"]\n";
        let policy = config::compile("test.toml", config).unwrap();
        let memory = Memory::new(1 << 20);
        let limits = Limits {
            max_object_size: 1,
            pass_buffer: 1,
            hit_for_miss: Duration::ZERO,
        };
        let store = Store::new(Arc::clone(&memory), 1);
        Idle {
            policy: Arc::new(policy),
            fetcher: Fetcher::new(store, memory, Vec::new(), Vec::new(), limits),
        }
    }
}

impl Facts for Idle {
    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    fn fetcher(&self) -> Arc<Fetcher> {
        Arc::clone(&self.fetcher)
    }

    fn limits(&self) -> Vec<Arc<Limit>> {
        Vec::new()
    }

    fn connections(&self) -> (usize, usize) {
        (1, 2)
    }

    fn reserve(&self) -> (Arc<Policy>, Arc<Reserve>) {
        let reserve = Reserve::new(&self.policy, None, &Metrics::new());
        (Arc::clone(&self.policy), Arc::new(reserve))
    }

    fn rehearse(&self) -> Rehearsal {
        Rehearsal::default()
    }

    fn waiters(&self) -> usize {
        3
    }

    fn replay(&self, _: Policy) -> Result<Replay, String> {
        Ok(Replay::default())
    }

    fn fleet(&self) -> Arc<Fleet> {
        Fleet::new("here:80".to_owned(), None)
    }
}

struct Running {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    listening: Listening,
    dir: state::Dir,
    _folder: tempfile::TempDir,
}

fn admin(dir: &state::Dir) -> Admin {
    let metrics = Arc::new(Metrics::new());
    let policy = Idle::new().policy();
    let in_force = Arc::clone(&policy);
    let live = Live::new(
        crate::config::live::Source::default(),
        "",
        clock::now(),
        Box::new(move || Arc::clone(&in_force)),
        Box::new(|_| Ok(())),
    );
    Admin {
        live: Arc::new(live),
        board: Arc::new(Board::new(None, policy, Box::new(|_| Ok(())))),
        gate: Gate::new(&metrics),
        health: Health::new(),
        facts: Arc::new(Idle::new()),
        token: Some(Token::new(TOKEN.as_bytes()).unwrap()),
        audit: Some(Arc::new(state::audit::Audit::new(dir, &metrics))),
        state: Some(dir.clone()),
        socket: OnceLock::new(),
        metrics,
    }
}

fn running() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let dir = state::Dir::open(folder.path()).unwrap();
    let admin = admin(&dir);
    let (health, metrics) = (Arc::clone(&admin.health), Arc::clone(&admin.metrics));
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    let listeners = Listeners {
        tcp: Some(tcp),
        socket: Some(Beside::bind(&dir.file(state::SOCKET), false).unwrap()),
    };
    Running {
        health,
        metrics,
        listening: start(listeners, admin).unwrap(),
        dir,
        _folder: folder,
    }
}

impl Running {
    /// The answer's head and body to these bytes.
    fn ask(&self, bytes: &[u8]) -> (String, String) {
        let stream = TcpStream::connect(self.listening.address().unwrap()).unwrap();
        exchange(stream, bytes)
    }

    fn get(&self, target: &str) -> (String, String) {
        self.ask(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
    }

    fn over_socket(&self, bytes: &[u8]) -> (String, String) {
        exchange(
            UnixStream::connect(self.dir.file(state::SOCKET)).unwrap(),
            bytes,
        )
    }

    /// The audit log's last entry.
    fn last(&self) -> Value {
        let log = std::fs::read_to_string(self.dir.file(state::AUDIT)).unwrap();
        json(log.lines().last().unwrap())
    }
}

fn exchange(mut stream: impl Read + Write, bytes: &[u8]) -> (String, String) {
    stream.write_all(bytes).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
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
    let length = format!("\r\nContent-Length: {}\r\n", body.len());
    assert!(
        head.to_ascii_lowercase()
            .contains(&length.to_ascii_lowercase()),
        "{head}"
    );
    assert!(head.contains("\r\nCache-Control: no-store\r\n"), "{head}");
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
    assert_eq!(json(&body)["parts"]["draining"]["detail"], "yes");
    // It is alive all the same.
    assert!(admin.get("/healthz").0.starts_with("HTTP/1.1 200 "));
}

#[test]
fn refusals_are_problems() {
    let admin = running();
    for (bytes, code, field) in [
        ("GET / HTTP/1.1\r\n\r\n", "404", ""),
        ("PROPFIND /metrics HTTP/1.1\r\n\r\n", "405", "Allow: GET"),
        ("PURGE /metrics HTTP/1.1\r\n\r\n", "401", "Bearer"),
        (
            "POST /healthz HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "405",
            "Allow: GET",
        ),
        (
            "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "401",
            "Bearer",
        ),
        ("GET /v1/status HTTP/1.1\r\n\r\n", "403", ""),
    ] {
        let (head, body) = admin.ask(bytes.as_bytes());
        assert_eq!(status(&head), code, "{bytes:.40}: {head}");
        assert!(
            head.contains("\r\nContent-Type: application/problem+json\r\n"),
            "{head}"
        );
        assert!(head.contains(field), "{head}");
        assert_eq!(json(&body)["status"].to_string(), code, "{body}");
    }
}

#[test]
fn what_is_no_request_is_refused() {
    let admin = running();
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: a\r\n".repeat(65));
    for (bytes, code) in [
        ("GET /metrics\r\n\r\n", "400"),
        ("\0\0\r\n\r\n", "400"),
        (&many, "431"),
        (&long, "431"),
    ] {
        let (head, _) = admin.ask(bytes.as_bytes());
        assert_eq!(status(&head), code, "{bytes:.40}: {head}");
    }
}

#[test]
fn c52_the_token_opens_it_and_the_owner_needs_none() {
    let admin = running();
    let with = format!("Host: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let (head, body) = admin.ask(format!("GET /v1/status HTTP/1.1\r\n{with}").as_bytes());
    assert_eq!(status(&head), "200", "{body}");
    let told = json(&body);
    assert_eq!(told["config"], "test.toml");
    assert_eq!(told["cache"]["waiters"], 3);
    let (head, body) = admin.over_socket(b"GET /v1/status HTTP/1.1\r\nHost: any.test\r\n\r\n");
    assert_eq!(status(&head), "200", "{body}");
    let socket = admin.dir.file(state::SOCKET).display().to_string();
    assert_eq!(json(&body)["listeners"]["socket"], socket);
}

#[test]
fn changes_are_written_down_and_so_are_those_of_strangers() {
    let admin = running();
    let change = |head: &str, body: &str| {
        let length = body.len();
        format!(
            "POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {length}\r\n\r\n{body}"
        )
    };
    let json_kind = "Content-Type: application/json\r\n";
    let body = r#"{"n":1,"password":"hunter2","reason":"to try"}"#;
    let named = format!("{json_kind}X-Tidegate-Actor: anna\r\n");
    let (head, _) = admin.over_socket(change(&named, body).as_bytes());
    assert_eq!(status(&head), "404", "{head}");
    let entry = admin.last();
    let who = entry["who"].as_str().unwrap();
    assert!(who.starts_with("unix:uid="), "{entry}");
    assert_eq!(entry["as"], "anna");
    assert_eq!(entry["what"], "POST /v1/nothing");
    assert_eq!(entry["parameters"]["n"], 1);
    assert_eq!(entry["parameters"]["password"], "***");
    assert_eq!(entry["reason"], "to try");
    assert!(
        entry["result"].as_str().unwrap().starts_with("404: "),
        "{entry}"
    );

    let (head, _) = admin.ask(change(json_kind, "{}").as_bytes());
    assert_eq!(status(&head), "401", "{head}");
    let entry = admin.last();
    assert_eq!(entry["who"], "nobody at 127.0.0.1");
    // A few of them; a disk is finite.
    for _ in 0..30 {
        admin.ask(change(json_kind, "{}").as_bytes());
    }
    let log = std::fs::read_to_string(admin.dir.file(state::AUDIT)).unwrap();
    assert!((5..20).contains(&log.lines().count()), "{log}");

    let with = format!("{json_kind}Authorization: Bearer {TOKEN}\r\n");
    admin.ask(change(&with, "[1").as_bytes());
    let entry = admin.last();
    assert_eq!(
        (&entry["who"], &entry["parameters"]["bytes"]),
        (&"token".into(), &2.into())
    );
}

#[test]
fn a_change_that_cannot_be_written_down_says_so() {
    let admin = running();
    std::os::unix::fs::symlink("/dev/full", admin.dir.file(state::AUDIT)).unwrap();
    let (head, _) = admin.over_socket(
        b"POST /v1/nothing HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    );
    assert!(
        head.contains("\r\nX-Tidegate-Audit: not written: "),
        "{head}"
    );
    let told = admin.metrics.render();
    assert!(told.contains("\ntidegate_audit_failed_total 1\n"), "{told}");
}

#[cfg(debug_assertions)]
#[test]
fn the_clock_can_be_turned_in_debug_builds() {
    let admin = running();
    let before = clock::now();
    let (head, _) = admin.ask(b"POST /test/advance?ms=11000 HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(clock::now().mono.since(before.mono) >= Duration::from_secs(11));
    assert_eq!(status(&admin.get("/test/advance?ms=1").0), "405");
    let (head, _) = admin.ask(b"POST /test/advance?ms=-1 HTTP/1.1\r\n\r\n");
    assert_eq!(status(&head), "400");
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
    let folder = tempfile::tempdir().unwrap();
    let admin = admin(&state::Dir::open(folder.path()).unwrap());
    let local = [127, 0, 0, 1].into();
    let peer = gate::Peer::Tcp {
        from: local,
        at: local,
    };
    let deadlines = serve::Deadlines {
        head: Duration::from_millis(30),
        ..serve::DEADLINES
    };
    let serving = std::thread::spawn(move || {
        runtime.block_on(async {
            let server = tokio::net::TcpStream::from_std(server).unwrap();
            let router = router::router(Arc::new(admin));
            serve::connection(server, peer, router, deadlines).await;
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
    let address = admin.listening.address().unwrap();
    let socket = admin.dir.file(state::SOCKET);
    assert!(socket.exists());
    drop(admin.listening);
    assert!(TcpStream::connect(address).is_err());
    assert!(!socket.exists());
}

/// Every function with a `utoipa::path` is a route, and no route is without one but the tests' own.
#[test]
fn every_route_is_in_the_document() {
    let document = serde_json::to_value(openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin");
    let mut written = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("axum::routing::post(super::turn_clock)", "");
        assert!(!text.contains("axum::routing"), "{}", path.display());
        for attribute in text.split("#[utoipa::path(").skip(1) {
            let attribute: String = attribute.split_whitespace().collect();
            let (method, rest) = attribute.split_once(",path=\"").unwrap();
            let (path, _) = rest.split_once('"').unwrap();
            written.push((path.to_owned(), method.to_owned()));
        }
    }
    let mut told = Vec::new();
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys() {
            told.push((path.clone(), method.clone()));
        }
    }
    written.sort();
    told.sort();
    assert_eq!(told, written);
    assert!(told.len() >= 7, "{told:?}");
}

/// And answers as the document says: with what it wants, or that it wants more.
#[test]
fn every_path_of_the_document_is_a_route() {
    let admin = running();
    let document = serde_json::to_value(openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_ascii_uppercase();
            let path = path.replace(['{', '}'], "");
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let code = status(&admin.over_socket(request.as_bytes()).0).to_owned();
            assert!(!["404", "405"].contains(&&*code), "{method} {path}: {code}");
            let is_open = operation["security"] == serde_json::json!([{}]);
            let code = status(&admin.ask(request.as_bytes()).0).to_owned();
            assert_eq!(code == "401", !is_open, "{method} {path}: {code}");
        }
    }
}

/// A change with a word that nobody knows is a mistake, and not half of what was meant.
#[test]
fn what_changes_are_asked_with_is_closed() {
    let document = serde_json::to_value(openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let body = &operation["requestBody"]["content"]["application/json"]["schema"];
            let schema = match body["$ref"].as_str() {
                Some(name) => document.pointer(&name[1..]).unwrap(),
                None => body,
            };
            if !body.is_null() {
                assert_eq!(schema["additionalProperties"], false, "{method} {path}");
            }
        }
    }
}
