//! Pages that are asked for again and again, which a worker keeps ready in one piece: what is patched into them, and that
//! nobody gets another's.

use std::collections::HashSet;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::site::{Client, Origin, Site, answer, equal};
use super::{Outcome, Test};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("hot::age_and_ttl_go_on", age_and_ttl_go_on),
        ("hot::another_version_is_another_image", another_version),
        ("hot::every_client_gets_its_own_head", its_own_head),
        ("hot::two_sites_on_one_connection", two_sites),
        (
            "hot::what_the_socket_does_not_take_comes_later",
            late_reader,
        ),
    ]
}

/// More often than a page is to be served before it gets an image.
const OFTEN: usize = 24;
const FRESH: &str = "Cache-Control: max-age=600\r\n";

fn one_worker(origin: &Origin) -> Result<Site, String> {
    Site::start(origin.address, "[listen]\nthreads = 1")
}

fn age_and_ttl_go_on() -> Outcome {
    let origin = Origin::start(|_, conn: &mut Conn| answer(conn, 200, FRESH, b"page"))?;
    let site = one_worker(&origin)?;
    let mut client = site.client()?;
    client.get("/", "")?.is(200)?;
    let mut ids = HashSet::new();
    // Ages of one digit, two, and three, the lifetime left of three and two: the head's length changes under way.
    for seconds in [0, 5, 5, 90, 450] {
        site.proxy.advance(Duration::from_secs(seconds))?;
        let mut last = None;
        for _ in 0..OFTEN {
            let reply = client.get("/", "")?.is(200)?;
            let age: u64 = reply.field("age").parse().map_err(|_| "no age")?;
            equal("status", reply.field("cache-status").to_owned(), {
                format!("Tidegate; hit; ttl={}", 600 - age)
            })?;
            equal("body", reply.text(), "page".into())?;
            if !ids.insert(reply.field("x-request-id").to_owned()) {
                return Err(format!("one id twice: {reply:?}"));
            }
            if last.is_some_and(|last| age < last) {
                return Err(format!("younger than before: {reply:?}"));
            }
            last = Some(age);
        }
    }
    equal("requests", origin.asked("GET /"), 1)
}

fn another_version() -> Outcome {
    // Enough pages that some have their images in one place.
    const PAGES: usize = 40;
    let version = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&version);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        let page = format!("{} {}", asked.target, read.load(Ordering::SeqCst));
        answer(conn, 200, FRESH, page.as_bytes())
    })?;
    let site = one_worker(&origin)?;
    let mut client = site.client()?;
    for now in 0..4 {
        version.store(now, Ordering::SeqCst);
        for page in 0..PAGES {
            client.ask("POST", &format!("/{page}"), "", b"")?.is(200)?;
        }
        // Each page often in a row, then all of them by turns.
        let in_a_row = (0..PAGES).flat_map(|page| [page; 12]);
        for page in in_a_row.chain((0..PAGES).cycle().take(PAGES * 4)) {
            let path = format!("/{page}");
            let reply = client.get(&path, "")?.is(200)?;
            equal("page", reply.text(), format!("{path} {now}"))?;
        }
    }
    Ok(())
}

fn its_own_head() -> Outcome {
    let fields = "Cache-Control: max-age=600\r\nETag: \"e\"\r\n";
    let origin = Origin::start(move |_, conn: &mut Conn| answer(conn, 200, fields, b"0123456789"))?;
    let site = one_worker(&origin)?;
    let mut client = site.client()?;
    for _ in 0..OFTEN {
        equal(
            "body",
            client.get("/", "")?.is(200)?.text(),
            "0123456789".into(),
        )?;
        let head = client.ask("HEAD", "/", "", b"")?.is(200)?;
        equal(
            "length",
            head.field("content-length").to_owned(),
            "10".into(),
        )?;
        equal("nothing", head.body.len(), 0)?;
        let part = client.get("/", "Range: bytes=2-4\r\n")?.is(206)?;
        equal("part", part.text(), "234".into())?;
        client.get("/", "If-None-Match: \"e\"\r\n")?.is(304)?;
        let last = site.client()?.get("/", "Connection: close\r\n")?.is(200)?;
        equal("last", last.field("connection").to_owned(), "close".into())?;
        equal(
            "kept",
            client.get("/", "")?.field("connection").to_owned(),
            "".into(),
        )?;
    }
    Ok(())
}

fn two_sites() -> Outcome {
    let origin = Origin::start(|asked, conn: &mut Conn| {
        answer(conn, 200, FRESH, asked.field("host").as_bytes())
    })?;
    let site = one_worker(&origin)?;
    let mut client = site.client()?;
    for turn in 0..4 * OFTEN {
        // A host that is spelled otherwise is the same one; one that is none is refused whatever came before it.
        let host = ["one.test", "two.test", "ONE.test.", "one.test:80"][turn % 4];
        client.raw(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
        let should_be = if turn % 4 == 1 {
            "two.test"
        } else {
            "one.test"
        };
        equal(host, client.reply("GET")?.is(200)?.text(), should_be.into())?;
    }
    equal("requests", origin.asked("GET /"), 2)?;
    client.raw(b"GET / HTTP/1.1\r\nHost: one.test@\r\n\r\n")?;
    client.reply("GET")?.is(400)?;
    Ok(())
}

fn late_reader() -> Outcome {
    const PIPELINED: usize = 2_000;
    // The smaller one has an image, the larger one has none.
    for size in [16 * 1024, 32 * 1024] {
        let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let page = body.clone();
        let origin = Origin::start(move |_, conn: &mut Conn| answer(conn, 200, FRESH, &page))?;
        let site = one_worker(&origin)?;
        let stream = TcpStream::connect(site.address).map_err(|e| e.to_string())?;
        let mut client = Client::over(stream)?;
        for _ in 0..OFTEN {
            client.get("/", "")?.is(200)?;
        }
        // 32 MB and more: the sockets don't hold it, so that answers stand half written.
        let all = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".repeat(PIPELINED);
        client.raw(all.as_bytes())?;
        // Others have the same page written for them meanwhile.
        let mut other = site.client()?;
        for _ in 0..OFTEN {
            if other.get("/", "")?.is(200)?.body != body {
                return Err(format!("another's page of {size} bytes came torn"));
            }
        }
        for _ in 0..PIPELINED {
            if client.reply("GET")?.is(200)?.body != body {
                return Err(format!("a page of {size} bytes came torn"));
            }
        }
    }
    Ok(())
}
