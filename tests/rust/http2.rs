//! Clients that speak HTTP/2: the same answers, whole or broken off, the same refusals, and what floods them.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::runtime::{Builder, Runtime};

use super::floods::floods;
use super::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Field, GET, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
    Raw, SETTINGS, WINDOW_UPDATE, frame, literals,
};
use super::site::{Asked, Gate, Origin, Site, answer, equal, eventually};
use super::{Outcome, Test};
use crate::harness::wire::{Conn, PATIENCE};

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("http2::a_miss_and_then_hits", miss_and_hits),
        ("http2::a_page_larger_than_all_windows_is_whole", large_page),
        ("http2::a_request_body_reaches_the_origin", request_body),
        (
            "http2::rfc9113_8_2_3_cookies_are_joined_for_the_origin",
            cookies,
        ),
        ("http2::a_broken_answer_is_a_reset_stream", broken),
        ("http2::a_crowd_on_one_connection_is_one_fetch", crowd),
        ("http2::c19_no_downgrade_reaches_an_origin", c19_downgrades),
        ("http2::c07_trailers_go_no_further", c07_trailers),
        ("http2::c20_floods_cost_little_and_harm_nobody", c20_floods),
        (
            "http2::rfc9113_6_9_1_a_window_that_overflows_ends_what_it_is_of",
            rfc9113_6_9_1_overflow,
        ),
        ("http2::c64_who_takes_nothing_is_cut", c64_zero_window),
        ("http2::c86_a_drain_says_goaway_and_finishes", c86_drain),
        (
            "http2::c86_a_drain_waits_for_who_does_not_keep_up",
            c86_slow_in_a_drain,
        ),
        (
            "http2::c86_what_is_answered_last_arrives_whole",
            c86_late_and_large,
        ),
        ("http2::c62_half_a_head_has_its_deadline", c62_half_a_head),
        (
            "http2::prior_knowledge_only_where_it_is_allowed",
            not_allowed,
        ),
    ]
}

const H2C: &str = "[listen]\nh2c = true\n";

/// A client on one connection.
pub struct Client {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    fields: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn field(&self, name: &str) -> &str {
        let value = self.fields.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }
}

impl Client {
    pub fn connect(to: SocketAddr) -> Result<Client, String> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let requests = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(to)
                .await
                .map_err(|e| e.to_string())?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            let (requests, connection) = h2::client::handshake(stream)
                .await
                .map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            Ok::<_, String>(requests)
        })?;
        Ok(Client { runtime, requests })
    }

    fn get(&self, path: &str) -> Result<Reply, String> {
        self.ask(request("GET", path, &[]), None)
    }

    pub fn ask(&self, request: Request<()>, body: Option<&[u8]>) -> Result<Reply, String> {
        self.runtime
            .block_on(ask(self.requests.clone(), request, body))
    }
}

pub fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://a.test{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request")
}

async fn ask(
    requests: SendRequest<Bytes>,
    request: Request<()>,
    body: Option<&[u8]>,
) -> Result<Reply, String> {
    let asked = async {
        let mut requests = requests.ready().await?;
        let (response, mut upload) = requests.send_request(request, body.is_none())?;
        if let Some(body) = body {
            // In pieces, the last of them empty.
            for piece in body.chunks(1000) {
                upload.send_data(Bytes::copy_from_slice(piece), false)?;
            }
            upload.send_data(Bytes::new(), true)?;
        }
        let (head, mut stream) = response.await?.into_parts();
        let mut body = Vec::new();
        while let Some(piece) = stream.data().await {
            let piece = piece?;
            stream.flow_control().release_capacity(piece.len())?;
            body.extend_from_slice(&piece);
        }
        Ok(Reply {
            status: head.status.as_u16(),
            fields: head.headers,
            body,
        })
    };
    let asked = tokio::time::timeout(PATIENCE * 2, asked).await;
    asked
        .map_err(|_| "no answer")?
        .map_err(|e: h2::Error| e.to_string())
}

fn page(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// `/N` is a page of N bytes.
fn pages() -> Result<Origin, String> {
    Origin::start(|asked: &Asked, conn: &mut Conn| {
        let len = asked.target[1..].parse().unwrap_or(4);
        answer(conn, 200, "Cache-Control: max-age=60\r\n", &page(len))
    })
}

fn miss_and_hits() -> Outcome {
    let origin = pages()?;
    let site = Site::start(origin.address, H2C)?;
    let client = Client::connect(site.address)?;
    for told in ["fwd=uri-miss", "hit", "hit"] {
        let reply = client.get("/10")?;
        equal("status", reply.status, 200)?;
        equal("body", reply.body.clone(), page(10))?;
        if !reply.field("cache-status").contains(told) || reply.field("x-request-id").len() != 16 {
            return Err(format!("{reply:?}"));
        }
        for gone in ["connection", "transfer-encoding", "keep-alive"] {
            equal(gone, reply.field(gone).to_owned(), String::new())?;
        }
    }
    let head = client.ask(request("HEAD", "/10", &[]), None)?;
    equal("HEAD", (head.status, head.body.len()), (200, 0))?;
    equal(
        "length",
        head.field("content-length").to_owned(),
        "10".into(),
    )?;
    // A refusal to HEAD has no body either.
    let refused = client.ask(request("HEAD", "/10", &[("host", "b.test")]), None)?;
    equal("refused", (refused.status, refused.body.len()), (400, 0))?;
    let part = client.ask(request("GET", "/10", &[("range", "bytes=2-4")]), None)?;
    equal(
        "206",
        (part.status, part.body),
        (206, page(10)[2..5].to_vec()),
    )?;
    // What the other protocol has stored is the same page.
    let reply = site.get("/10", "")?.is(200)?;
    equal("hit", reply.told("hit"), true)?;
    equal("asked", origin.asked("GET"), 1)
}

fn large_page() -> Outcome {
    const LEN: usize = 3_000_001;
    let origin = pages()?;
    let site = Site::start(origin.address, H2C)?;
    let client = Client::connect(site.address)?;
    for _ in 0..3 {
        let reply = client.get(&format!("/{LEN}"))?;
        if reply.body != page(LEN) {
            return Err(format!("{} bytes of {LEN}", reply.body.len()));
        }
    }
    equal("asked", origin.asked("GET"), 1)
}

fn request_body() -> Outcome {
    let origin = Origin::start(|asked: &Asked, conn: &mut Conn| {
        let framing = format!(
            "{}{}",
            asked.field("content-length"),
            asked.field("transfer-encoding")
        );
        answer(
            conn,
            200,
            &format!("Via-Was: {}\r\n", asked.field("via")),
            framing.as_bytes(),
        )
    })?;
    let site = Site::start(origin.address, H2C)?;
    let client = Client::connect(site.address)?;
    // Read whole before the origin is asked; streamed; of a length that was told.
    for (len, fields, framing) in [
        (3_000, &[][..], "3000"),
        (300_000, &[][..], "chunked"),
        (300_000, &[("content-length", "300000")][..], "300000"),
    ] {
        let reply = client.ask(request("POST", "/", fields), Some(&page(len)))?;
        equal(
            "framing",
            String::from_utf8_lossy(&reply.body).into_owned(),
            framing.into(),
        )?;
        if !reply.field("via-was").starts_with("2 ") {
            return Err(format!("{reply:?}"));
        }
    }
    Ok(())
}

fn cookies() -> Outcome {
    let origin = Origin::start(|asked: &Asked, conn: &mut Conn| {
        answer(conn, 200, "", asked.field("cookie").as_bytes())
    })?;
    let site = Site::start(origin.address, H2C)?;
    let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    let reply = Client::connect(site.address)?.ask(request("GET", "/", &fields), None)?;
    equal(
        "cookie",
        String::from_utf8_lossy(&reply.body).into_owned(),
        "a=1; b=2; c=3".into(),
    )
}

fn broken() -> Outcome {
    let origin = Origin::start(|_, conn: &mut Conn| {
        conn.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
        Err("broken off".into())
    })?;
    let site = Site::start(origin.address, H2C)?;
    let client = Client::connect(site.address)?;
    match client.get("/") {
        Err(why) if why.contains("stream") => {}
        other => return Err(format!("{other:?}")),
    }
    // The connection and its other requests are none the worse.
    equal("next", client.get("/").is_err(), true)
}

fn crowd() -> Outcome {
    let gate = Arc::new(Gate::default());
    let door = Arc::clone(&gate);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        door.wait();
        answer(conn, 200, "Cache-Control: max-age=60\r\n", &page(100_000))
    })?;
    let site = Site::start(origin.address, H2C)?;
    let client = Client::connect(site.address)?;
    client.runtime.block_on(async {
        let asking: Vec<_> = (0..90)
            .map(|_| tokio::spawn(ask(client.requests.clone(), request("GET", "/", &[]), None)))
            .collect();
        let all_wait = || async {
            for _ in 0..500 {
                if site.metric("tidegate_waiters")? == 90.0 {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err("not all of them wait".to_owned())
        };
        all_wait().await?;
        gate.open();
        for one in asking {
            let reply = one.await.map_err(|e| e.to_string())??;
            equal("body", reply.body == page(100_000), true)?;
        }
        Ok::<_, String>(())
    })?;
    equal("asked", origin.asked("GET"), 1)
}

/// `GET` with one pseudo-field's value changed.
fn with(name: &[u8], value: &'static [u8]) -> Vec<Field> {
    let change = |field: Field| {
        if field.0 == name {
            (field.0, value)
        } else {
            field
        }
    };
    GET.into_iter().map(change).collect()
}

fn and(more: &[Field]) -> Vec<Field> {
    GET.into_iter().chain(more.iter().copied()).collect()
}

fn without(name: &[u8]) -> Vec<Field> {
    GET.into_iter().filter(|field| field.0 != name).collect()
}

fn c19_downgrades() -> Outcome {
    let origin = pages()?;
    let site = Site::start(origin.address, H2C)?;
    let mut vectors = vec![
        without(b":method"),
        without(b":scheme"),
        without(b":path"),
        without(b":authority"),
        and(&[(b":path", b"/q")]),
        and(&[(b":method", b"POST")]),
        and(&[(b":status", b"200")]),
        and(&[(b":unknown", b"x")]),
        and(&[(b"a", b"b"), (b":path", b"/q")]),
        and(&[(b"host", b"b.test")]),
        and(&[(b"host", b"a.test"), (b"host", b"a.test")]),
        and(&[(b"content-length", b"1"), (b"content-length", b"2")]),
        and(&[(b"connection", b"x-forwarded-for")]),
    ];
    let fields: [(&[u8], &[&'static [u8]]); 5] = [
        (
            b":method",
            &[
                b"G ET",
                b"",
                b"GET\r\nX: y",
                b"CONNECT",
                b"TRACE",
                b"GET /evil HTTP/1.1\r\nX:",
            ],
        ),
        (b":scheme", &[b"https", b"ftp", b"", b"ht tp"]),
        (
            b":path",
            &[
                b"",
                b"p",
                b"@evil/p",
                b"/a b",
                b"/p HTTP/1.1\r\nX: y",
                b"/\0",
                b"/\x7f",
                b"http://b.test/",
                b"*",
                b"/<\">",
            ],
        ),
        (
            b":authority",
            &[
                b"",
                b"a b",
                b"user@a.test",
                b"a.test\r\nX: y",
                b"a.test/evil",
                b"a.test?x",
                b"a\0",
            ],
        ),
        (b"", &[]),
    ];
    for (name, values) in fields {
        vectors.extend(values.iter().map(|value| with(name, value)));
    }
    let lines: [Field; 19] = [
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"content-length", b"5"),
        (b"content-length", b"+0"),
        (b"content-length", b"0x0"),
        (b"connection", b"close"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"close"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"X-Upper", b"a"),
        (b"a b", b"c"),
        (b"a:b", b"c"),
        (b"", b"c"),
        (b"a\r\nb", b"c"),
        (b"a", b"b\r\nX: y"),
        (b"a", b"b\n"),
        (b"a", b"b\0"),
        (b"a\xff", b"b"),
    ];
    vectors.extend(lines.iter().map(|line| and(&[*line])));
    let ask = |fields: &[Field]| {
        let mut raw = Raw::connect(site.address, &[])?;
        raw.write(&frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            1,
            &literals(fields),
        ))?;
        Ok::<_, String>(raw.verdict())
    };
    for fields in &vectors {
        let said: Vec<String> = fields
            .iter()
            .map(|(n, v)| format!("{}: {}", n.escape_ascii(), v.escape_ascii()))
            .collect();
        equal(&said.join(", "), ask(fields)?, "refused")?;
    }
    equal("asked", origin.asked(""), 0)?;
    println!("{} vectors", vectors.len());
    equal("a proper one", ask(&and(&[(b"te", b"trailers")]))?, "200")
}

fn c20_floods() -> Outcome {
    let origin = pages()?;
    let site = Site::start(origin.address, H2C)?;
    let healthy = Client::connect(site.address)?;
    healthy.get("/1000")?;
    healthy.get("/1000000")?;
    let pid = site.pid()?;
    let before = resident(pid)?;
    for flood in floods() {
        let name = flood.name;
        let mut raw = Raw::connect(site.address, &flood.settings)?;
        raw.write(&flood.first)?;
        let mut reader = raw.0.try_clone().map_err(|e| e.to_string())?;
        // Whatever it is told is taken, so that it is for what it says that it is cut.
        let reads = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        let (mut cut, mut most) = (false, before);
        // As fast as it can, what it would say in four seconds.
        for n in 0..4 * flood.pace {
            if raw.write(&(flood.says)(1 + 2 * n)).is_err() {
                cut = true;
                break;
            }
            if n % 100 == 0 {
                most = most.max(resident(pid)?);
            }
        }
        cut |= reads.is_finished();
        most = most.max(resident(pid)?);
        if most > before + (20 << 20) {
            return Err(format!(
                "{name}: resident memory went from {before} to {most}"
            ));
        }
        let reply = healthy.get("/1000").map_err(|e| format!("{name}: {e}"))?;
        equal(name, reply.body == page(1000), true)?;
        println!(
            "{name}: {}, {} KiB more",
            if cut { "cut" } else { "borne" },
            most.saturating_sub(before) >> 10
        );
        let _ = raw.0.shutdown(std::net::Shutdown::Both);
        let _ = reads.join();
    }
    Ok(())
}

fn rfc9113_6_9_1_overflow() -> Outcome {
    const FLOW_CONTROL_ERROR: [u8; 4] = [0, 0, 0, 3];
    let origin = pages()?;
    let site = Site::start(origin.address, H2C)?;
    let wider = |stream: u32| frame(WINDOW_UPDATE, 0, stream, &(u32::MAX >> 1).to_be_bytes());
    // Of a stream that is open because nobody takes its answer; of the connection.
    for (on, kind) in [(1, RST_STREAM), (0, GOAWAY)] {
        let mut raw = Raw::connect(site.address, &[0, 4, 0, 0, 0, 1])?;
        let asks = literals(&with(b":path", b"/1000"));
        raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &asks))?;
        raw.write(&[wider(on), wider(on)].concat())?;
        let told = loop {
            match raw.frame() {
                Some((GOAWAY, .., payload)) => break (GOAWAY, payload[4..8].to_vec()),
                Some((RST_STREAM, .., payload)) => break (RST_STREAM, payload),
                Some(_) => {}
                None => return Err(format!("{on}: nothing was told")),
            }
        };
        equal("told", told, (kind, FLOW_CONTROL_ERROR.to_vec()))?;
        if kind == GOAWAY {
            raw.ends()?;
        }
    }
    Ok(())
}

fn c07_trailers() -> Outcome {
    let origin = Origin::start(|asked: &Asked, conn: &mut Conn| {
        let seen = [
            asked.field("host"),
            asked.field("x-forwarded-for"),
            asked.field("authorization"),
            asked.field("content-length"),
        ];
        answer(conn, 200, "", seen.join(" ").as_bytes())
    })?;
    let site = Site::start(origin.address, H2C)?;
    let hidden: [&[Field]; 4] = [
        &[(b"content-length", b"3")],
        &[(b"host", b"evil.test")],
        &[(b"x-forwarded-for", b"6.6.6.6")],
        &[(b"authorization", b"Basic eA==")],
    ];
    for trailers in hidden {
        let mut raw = Raw::connect(site.address, &[])?;
        let post = with(b":method", b"POST");
        raw.write(&frame(HEADERS, END_HEADERS, 1, &literals(&post)))?;
        raw.write(&frame(DATA, 0, 1, b"hello"))?;
        raw.write(&frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            1,
            &literals(trailers),
        ))?;
        let mut body = Vec::new();
        while let Some((kind, flags, _, payload)) = raw.frame() {
            if kind == DATA {
                body.extend_from_slice(&payload);
                if flags & END_STREAM != 0 {
                    break;
                }
            }
        }
        equal(
            "the origin got",
            String::from_utf8_lossy(&body).into_owned(),
            "a.test 127.0.0.1  5".into(),
        )?;
    }
    Ok(())
}

fn resident(pid: u32) -> Result<usize, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).map_err(|e| e.to_string())?;
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok());
    pages.map(|n| n * 4096).ok_or_else(|| text.clone())
}

fn c64_zero_window() -> Outcome {
    let origin = pages()?;
    let more = "min_rate = \"1GiB/s\"\nmin_rate_grace = \"300ms\"\n";
    let site = Site::start(origin.address, &format!("{H2C}{more}"))?;
    site.get("/1000", "")?.is(200)?;
    // SETTINGS_INITIAL_WINDOW_SIZE 0: asks, and takes nothing.
    let mut raw = Raw::connect(site.address, &[0, 4, 0, 0, 0, 0])?;
    raw.write(&frame(SETTINGS, 1, 0, &[]))?;
    let asks: Vec<Field> = with(b":path", b"/1000");
    raw.write(&frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        1,
        &literals(&asks),
    ))?;
    loop {
        match raw.frame() {
            Some((RST_STREAM, _, 1, _)) => return Ok(()),
            Some((DATA, ..)) => return Err("data beyond the window".into()),
            Some(_) => {}
            None => return Err("the connection ended before the stream was reset".into()),
        }
    }
}

fn c86_drain() -> Outcome {
    let gate = Arc::new(Gate::default());
    let door = Arc::clone(&gate);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        door.wait();
        answer(conn, 200, "", b"late")
    })?;
    let site = Site::start(origin.address, H2C)?;
    let (busy, mut idle) = (
        Client::connect(site.address)?,
        Raw::connect(site.address, &[])?,
    );
    let asking = busy
        .runtime
        .spawn(ask(busy.requests.clone(), request("GET", "/", &[]), None));
    eventually("the request is with the origin", || {
        Ok((origin.asked("GET") == 1).then_some(()))
    })?;
    terminate(&site)?;
    loop {
        match idle.frame() {
            Some((GOAWAY, ..)) => break,
            Some(_) => {}
            None => return Err("the connection ended without GOAWAY".into()),
        }
    }
    gate.open();
    let reply = busy.runtime.block_on(asking).map_err(|e| e.to_string())??;
    equal("body", reply.body, b"late".to_vec())
}

fn terminate(site: &Site) -> Outcome {
    let pid = site.pid()?.to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status();
    equal("kill", killed.is_ok_and(|status| status.success()), true)
}

/// Asks for `/` with windows that are wide open or narrow, and reads at some megabytes a second; `then` is done once
/// something has been read. How many bytes came, and whether the stream ended as it should.
fn slowly(
    site: &Site,
    wide: bool,
    then: impl FnOnce() -> Outcome,
) -> Result<(usize, bool), String> {
    let mut raw = Raw::connect(site.address, &[0, 4, 127, 255, 255, 255])?;
    if wide {
        raw.write(&frame(WINDOW_UPDATE, 0, 0, &[127, 254, 0, 0]))?;
    }
    let asks = literals(&with(b":path", b"/"));
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &asks))?;
    let (mut len, mut then, mut owed) = (0, Some(then), 0u32);
    while let Some((kind, flags, _, payload)) = raw.frame() {
        match kind {
            SETTINGS if flags & ACK == 0 => raw.write(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => raw.write(&frame(PING, ACK, 0, &payload))?,
            DATA => {
                len += payload.len();
                owed += payload.len() as u32;
                if !wide && owed > 30_000 {
                    raw.write(&frame(WINDOW_UPDATE, 0, 0, &owed.to_be_bytes()))?;
                    owed = 0;
                }
                std::thread::sleep(Duration::from_micros(payload.len() as u64 / 8));
                if flags & END_STREAM != 0 {
                    return Ok((len, true));
                }
                if let Some(then) = then.take() {
                    then()?;
                }
            }
            _ => {}
        }
    }
    Ok((len, false))
}

fn c86_slow_in_a_drain() -> Outcome {
    const LEN: usize = 24_000_000;
    let origin = Origin::start(|_, conn: &mut Conn| answer(conn, 200, "", &page(LEN)))?;
    let site = Site::start(origin.address, H2C)?;
    equal(
        "bytes",
        slowly(&site, true, || terminate(&site))?,
        (LEN, true),
    )
}

fn c86_late_and_large() -> Outcome {
    const LEN: usize = 2_000_000;
    let gate = Arc::new(Gate::default());
    let door = Arc::clone(&gate);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        door.wait();
        answer(conn, 200, "", &page(LEN))
    })?;
    let site = Site::start(origin.address, H2C)?;
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| slowly(&site, false, || Ok(())));
        eventually("the request is with the origin", || {
            Ok((origin.asked("GET") == 1).then_some(()))
        })?;
        terminate(&site)?;
        // The other side has said that it goes, and has heard that this was understood.
        std::thread::sleep(Duration::from_millis(300));
        gate.open();
        let read = reads.join().map_err(|_| "the reader panicked")??;
        equal("bytes", read, (LEN, true))
    })
}

fn c62_half_a_head() -> Outcome {
    let origin = pages()?;
    let more = "head_deadline = \"500ms\"\nidle_timeout = \"10m\"\n";
    let site = Site::start(origin.address, &format!("{H2C}{more}"))?;
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, &literals(&GET));
    let open = frame(HEADERS, END_STREAM, 1, &literals(&GET));
    let ping = frame(PING, 0, 0, b"pingpong");
    // A head cut anywhere, one that is never ended, one after a ping.
    let halves = [
        whole[..12].to_vec(),
        open.clone(),
        [&ping[..], &open].concat(),
    ];
    for half in halves {
        let mut raw = Raw::connect(site.address, &[])?;
        raw.write(&half)?;
        raw.ends()?;
    }
    // Nothing but the preface.
    let stream = TcpStream::connect(site.address).map_err(|e| e.to_string())?;
    let mut silent = Raw(stream);
    silent.patience()?;
    silent.write(PREFACE)?;
    silent.ends()
}

fn not_allowed() -> Outcome {
    let origin = pages()?;
    let site = Site::start(origin.address, "")?;
    let mut raw = Raw::connect(site.address, &[])?;
    let mut text = Vec::new();
    let _ = raw.0.read_to_end(&mut text);
    equal("answer", text.starts_with(b"HTTP/1.1 "), true)?;
    equal("asked", origin.asked(""), 0)
}
