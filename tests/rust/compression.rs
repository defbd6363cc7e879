//! Hot pages of text go out compressed, once they have been; what that must never change.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::site::{Client, Origin, Reply, Site, answer, equal};
use super::{Outcome, Test};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "compression::each_in_what_it_likes",
            rfc9110_12_5_3_each_in_what_it_likes,
        ),
        (
            "compression::what_stays_as_it_came",
            rfc9111_5_2_2_6_what_stays_as_it_came,
        ),
        (
            "compression::validators_and_ranges",
            rfc9110_8_8_3_3_validators_and_ranges,
        ),
        ("compression::a_refreshed_page", a_refreshed_page),
        ("compression::another_version", another_version),
        ("compression::none_where_the_route_says_so", none),
        ("compression::the_crowd_shares_one_job", one_job),
    ]
}

const HTML: &str = "Content-Type: text/html\r\nCache-Control: max-age=60\r\n";
const ENCODED: &str = "tidegate_cache_encoded_total";

fn page(of: u64) -> String {
    format!("<p>page {of}: ") + &"what was said is said again; ".repeat(100)
}

/// Asks for a page until it comes in `coding`.
fn until_encoded(
    client: &mut Client,
    path: &str,
    accept: &str,
    coding: &str,
) -> Result<Reply, String> {
    let fields = format!("Accept-Encoding: {accept}\r\n");
    super::site::eventually(coding, || {
        let reply = client.get(path, &fields)?.is(200)?;
        Ok((reply.field("content-encoding") == coding).then_some(reply))
    })
}

fn decoded(reply: &Reply) -> Result<String, String> {
    let bytes = &reply.body[..];
    let mut out = String::new();
    match reply.field("content-encoding") {
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_string(&mut out),
        "zstd" => zstd::stream::read::Decoder::new(bytes)
            .and_then(|mut reader| reader.read_to_string(&mut out)),
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_string(&mut out),
        "" => return Ok(reply.text()),
        other => return Err(format!("unknown coding {other}")),
    }
    .map_err(|e| e.to_string())?;
    Ok(out)
}

fn plain_origin(fields: &'static str) -> Result<Origin, String> {
    Origin::start(move |_, conn: &mut Conn| answer(conn, 200, fields, page(0).as_bytes()))
}

fn rfc9110_12_5_3_each_in_what_it_likes() -> Outcome {
    let origin = plain_origin(HTML)?;
    let site = Site::start(origin.address, "")?;
    let mut client = site.client()?;
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, zstd", "zstd"),
        ("gzip", "gzip"),
        ("br;q=0.5, gzip", "gzip"),
        ("br;q=0, *", "zstd"),
    ] {
        let reply = until_encoded(&mut client, "/", accept, coding)?;
        equal("page", decoded(&reply)?, page(0))?;
        if reply.body.len() > 500 {
            return Err(format!("{coding}: {} bytes", reply.body.len()));
        }
        equal("vary", reply.field("vary"), "Accept-Encoding")?;
        if !reply.told("hit; ttl=") {
            return Err(format!("no hit: {reply:?}"));
        }
        let head = client.ask("HEAD", "/", &format!("Accept-Encoding: {accept}\r\n"), b"")?;
        equal("HEAD", head.field("content-encoding"), coding)?;
        equal(
            "HEAD",
            head.field("content-length"),
            &reply.body.len().to_string(),
        )?;
    }
    // None of it is for those who take none, and they are told what it depends on.
    for fields in [
        "",
        "Accept-Encoding: identity\r\n",
        "Accept-Encoding: deflate, compress\r\n",
        "Accept-Encoding: br;q=0, gzip;q=0.0\r\n",
        "Accept-Encoding: gzip;q=0.5, identity\r\n",
        "Accept-Encoding: br\r\nCache-Control: no-transform\r\n",
    ] {
        let reply = client.get("/", fields)?.is(200)?;
        equal(fields, reply.field("content-encoding"), "")?;
        equal("page", reply.text(), page(0))?;
        equal("vary", reply.field("vary"), "Accept-Encoding")?;
    }
    equal("requests", origin.asked("GET /"), 1)
}

fn rfc9111_5_2_2_6_what_stays_as_it_came() -> Outcome {
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let fields = match asked.target.as_str() {
            "/no-transform" => {
                "Content-Type: text/html\r\nCache-Control: max-age=60, no-transform\r\n"
            }
            "/targeted" => {
                "Content-Type: text/html\r\nCDN-Cache-Control: max-age=60\r\nCache-Control: no-transform\r\n"
            }
            "/targeted-no-transform" => {
                "Content-Type: text/html\r\nCDN-Cache-Control: max-age=60, no-transform\r\n"
            }
            "/coded" => {
                "Content-Type: text/html\r\nCache-Control: max-age=60\r\nContent-Encoding: x-own\r\n"
            }
            "/digest" => {
                "Content-Type: text/html\r\nCache-Control: max-age=60\r\nRepr-Digest: sha-256=:AA==:\r\n"
            }
            "/ones-own" => {
                "Content-Type: text/html\r\nCache-Control: max-age=60, public\r\nVary: Cookie\r\n"
            }
            "/image" => "Content-Type: image/png\r\nCache-Control: max-age=60\r\n",
            _ => HTML,
        };
        let body = if asked.target == "/short" {
            "short".into()
        } else {
            page(0)
        };
        answer(conn, 200, fields, body.as_bytes())
    })?;
    let site = Site::start(origin.address, "")?;
    let mut client = site.client()?;
    let left = [
        "/no-transform",
        "/targeted",
        "/targeted-no-transform",
        "/coded",
        "/digest",
        "/ones-own",
        "/image",
        "/short",
    ];
    for _ in 0..20 {
        for path in left {
            let reply = client.get(path, "Accept-Encoding: br, gzip\r\n")?.is(200)?;
            let coding = if path == "/coded" { "x-own" } else { "" };
            equal(path, reply.field("content-encoding"), coding)?;
            let vary = if path == "/ones-own" { "Cookie" } else { "" };
            equal(path, reply.field("vary"), vary)?;
        }
    }
    // The queue is done with what came before this.
    until_encoded(&mut client, "/page", "br", "br")?;
    site.until(ENCODED, |jobs| jobs == 1.0)?;
    for path in left {
        let reply = client.get(path, "Accept-Encoding: br, gzip\r\n")?.is(200)?;
        let coding = if path == "/coded" { "x-own" } else { "" };
        equal(path, reply.field("content-encoding"), coding)?;
    }
    Ok(())
}

fn rfc9110_8_8_3_3_validators_and_ranges() -> Outcome {
    const TAGGED: &str = "Content-Type: text/html\r\nCache-Control: max-age=60\r\nETag: \"x\"\r\n\
                          Last-Modified: Sat, 01 Aug 2026 10:00:00 GMT\r\nAccept-Ranges: bytes\r\n";
    let origin = plain_origin(TAGGED)?;
    let site = Site::start(origin.address, "")?;
    let mut client = site.client()?;
    let reply = until_encoded(&mut client, "/", "br", "br")?;
    equal("etag", reply.field("etag"), "W/\"x\"")?;
    equal("ranges", reply.field("accept-ranges"), "")?;
    equal(
        "last modified",
        reply.field("last-modified"),
        "Sat, 01 Aug 2026 10:00:00 GMT",
    )?;
    let identity = client.get("/", "")?.is(200)?;
    equal("etag", identity.field("etag"), "\"x\"")?;
    // Whoever has it in any coding has it.
    for known in [
        "If-None-Match: \"x\"",
        "If-None-Match: W/\"x\"",
        "If-Modified-Since: Sat, 01 Aug 2026 10:00:00 GMT",
    ] {
        let reply = client.get("/", &format!("Accept-Encoding: br\r\n{known}\r\n"))?;
        equal(known, reply.status, 304)?;
        equal("etag", reply.field("etag"), "W/\"x\"")?;
        equal("vary", reply.field("vary"), "Accept-Encoding")?;
    }
    // A range is one of the origin's bytes, and a weak validator joins nothing to them.
    let range = client
        .get("/", "Accept-Encoding: br\r\nRange: bytes=3-6\r\n")?
        .is(206)?;
    equal("range", range.text(), "page".to_owned())?;
    equal("coding", range.field("content-encoding"), "")?;
    equal("etag", range.field("etag"), "\"x\"")?;
    let strong = "Accept-Encoding: br\r\nRange: bytes=3-6\r\nIf-Range: \"x\"\r\n";
    equal(
        "If-Range",
        client.get("/", strong)?.is(206)?.text(),
        "page".to_owned(),
    )?;
    let weak = "Accept-Encoding: br\r\nRange: bytes=3-6\r\nIf-Range: W/\"x\"\r\n";
    equal("If-Range", client.get("/", weak)?.is(200)?.text(), page(0))?;
    // The date is that of every coding, so it tells none of their bytes apart.
    let dated = "Range: bytes=3-6\r\nIf-Range: Sat, 01 Aug 2026 10:00:00 GMT\r\n";
    equal("If-Range", client.get("/", dated)?.is(200)?.text(), page(0))?;
    equal("requests", origin.asked("GET /"), 1)
}

/// A page that the origin says is unchanged, or sends again as it was, keeps what was made of it.
fn a_refreshed_page() -> Outcome {
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let known = !asked.field("if-none-match").is_empty();
        let fields = match asked.target.as_str() {
            "/tagged" => "Content-Type: text/html\r\nCache-Control: max-age=60\r\nETag: \"x\"\r\n",
            _ => HTML,
        };
        match known {
            true => answer(
                conn,
                304,
                "Cache-Control: max-age=60\r\nETag: \"x\"\r\n",
                b"",
            ),
            false => answer(conn, 200, fields, page(0).as_bytes()),
        }
    })?;
    let site = Site::start(
        origin.address,
        "[[route]]\ndefault_ttl = '60s'\neager_refresh = false",
    )?;
    let mut client = site.client()?;
    for path in ["/tagged", "/untagged"] {
        let before = site.metric(ENCODED)?;
        until_encoded(&mut client, path, "br", "br")?;
        // A page goes out as soon as it is made, and is counted after.
        site.until(ENCODED, |jobs| jobs > before)?;
        let jobs = site.metric(ENCODED)?;
        site.proxy.advance(Duration::from_secs(61))?;
        let waited = client.get(path, "Accept-Encoding: br\r\n")?.is(200)?;
        equal("page", decoded(&waited)?, page(0))?;
        let reply = client.get(path, "Accept-Encoding: br\r\n")?.is(200)?;
        equal(path, reply.field("content-encoding"), "br")?;
        equal("vary", reply.field("vary"), "Accept-Encoding")?;
        equal("page", decoded(&reply)?, page(0))?;
        equal("jobs", site.metric(ENCODED)?, jobs)?;
        equal("requests", origin.asked(&format!("GET {path}")), 2)?;
    }
    Ok(())
}

/// A new version is encoded as soon as it is there, and nobody gets the old one's bytes.
fn another_version() -> Outcome {
    let version = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&version);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        answer(
            conn,
            200,
            HTML,
            page(read.load(Ordering::SeqCst)).as_bytes(),
        )
    })?;
    let site = Site::start(origin.address, "")?;
    let mut client = site.client()?;
    for now in 0..20 {
        version.store(now, Ordering::SeqCst);
        if now % 2 == 0 {
            client.ask("POST", "/", "", b"")?.is(200)?;
        } else {
            site.proxy.advance(Duration::from_secs(61))?;
        }
        for _ in 0..5 {
            let reply = client.get("/", "Accept-Encoding: gzip, br\r\n")?.is(200)?;
            equal("version", decoded(&reply)?, page(now))?;
        }
        let reply = until_encoded(&mut client, "/", "br", "br")?;
        equal("version", decoded(&reply)?, page(now))?;
    }
    Ok(())
}

fn none() -> Outcome {
    let origin = plain_origin(HTML)?;
    let config =
        "[[route]]\npath = '/raw'\ncompress = []\n[[route]]\npath = '/gzip'\ncompress = ['gzip']";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    for _ in 0..20 {
        let reply = client
            .get("/raw", "Accept-Encoding: br, gzip\r\n")?
            .is(200)?;
        equal("coding", reply.field("content-encoding"), "")?;
        equal("vary", reply.field("vary"), "")?;
        let reply = client.get("/gzip", "Accept-Encoding: br\r\n")?.is(200)?;
        equal("coding", reply.field("content-encoding"), "")?;
    }
    until_encoded(&mut client, "/gzip", "br, gzip", "gzip")?;
    site.until(ENCODED, |jobs| jobs == 1.0)
}

fn one_job() -> Outcome {
    let origin = plain_origin(HTML)?;
    let site = Site::start(origin.address, "")?;
    std::thread::scope(|scope| {
        let one = || {
            let mut client = site.client()?;
            for _ in 0..50 {
                let reply = client.get("/", "Accept-Encoding: zstd\r\n")?.is(200)?;
                equal("page", decoded(&reply)?, page(0))?;
            }
            Ok(())
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        let joined = |client: std::thread::ScopedJoinHandle<'_, Outcome>| {
            client.join().unwrap_or(Err("a client panicked".into()))
        };
        clients.into_iter().try_for_each(joined)
    })?;
    until_encoded(&mut site.client()?, "/", "zstd", "zstd")?;
    // Whatever was put into the queue for it has been done before this.
    until_encoded(&mut site.client()?, "/other", "zstd", "zstd")?;
    site.until(ENCODED, |jobs| jobs >= 2.0)?;
    equal("jobs", site.metric(ENCODED)?, 2.0)
}
