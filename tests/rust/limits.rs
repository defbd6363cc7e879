//! Limits through the whole road: what counts, what is answered, and what is left of it when a client is gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::http2;
use super::site::{Client, Gate, Inside, Origin, Reply, Site, answer, crowd, equal, eventually};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "limits::c38_random_queries_meet_the_limit_of_misses",
            c38_misses,
        ),
        (
            "limits::c46_many_addresses_with_a_request_each_are_served",
            c46_addresses,
        ),
        (
            "limits::c48_everything_counts_and_no_edge_lets_more_in",
            c48_counts,
        ),
        (
            "limits::c48_streams_of_one_connection_count_like_any",
            c48_streams,
        ),
        (
            "limits::c50_who_is_refused_is_told_and_takes_nothing",
            c50_refused,
        ),
        (
            "limits::several_admit_together_or_count_not_at_all",
            together,
        ),
        (
            "limits::c48_what_is_no_request_counts_for_its_address_if_that_is_somebodys",
            c48_unread,
        ),
        (
            "limits::who_is_refused_past_the_door_has_taken_nothing_there",
            refused_late,
        ),
        (
            "limits::a_limit_that_is_tried_out_is_seen_and_not_felt",
            dry_run,
        ),
        ("limits::who_waits_for_his_turn_is_served", delayed),
        ("limits::past_a_limit_there_is_what_is_stored", stale),
        ("limits::requests_at_once_end_on_every_way_out", concurrency),
        (
            "limits::who_goes_on_stays_out_longer_and_not_for_ever",
            penalty,
        ),
        (
            "limits::time_of_the_origin_is_charged_afterwards",
            origin_time,
        ),
        (
            "limits::clients_are_told_apart_as_the_limit_says",
            identities,
        ),
        ("limits::what_is_left_is_told_to_who_is_near", told),
        ("limits::where_a_rule_says_so_and_nowhere_else", by_rules),
    ]
}

/// Pages that are stored for a minute, and below `/own` those that are nobody else's.
fn pages() -> Result<Origin, String> {
    Origin::start(|asked, conn: &mut Conn| {
        let fields = match asked.target.starts_with("/own") {
            true => "Cache-Control: no-store\r\n",
            false => "Cache-Control: max-age=60\r\n",
        };
        answer(conn, 200, fields, b"page")
    })
}

fn limited(site: &Site, limit: &str, action: &str) -> Result<f64, String> {
    let labels = [("limit", limit), ("action", action)];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(site
        .proxy
        .metric("tidegate_limited_total", &labels)?
        .unwrap_or(-1.0))
}

/// The statuses of so many requests, one after the other.
fn statuses(
    client: &mut Client,
    targets: impl Iterator<Item = String>,
) -> Result<Vec<u16>, String> {
    targets
        .map(|target| Ok(client.get(&target, "")?.status))
        .collect()
}

fn of(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|held| **held == status).count()
}

/// A connection from one of this machine's own addresses.
fn from(address: Ipv4Addr, to: SocketAddr) -> Result<Client, String> {
    let told = |e: std::io::Error| e.to_string();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(told)?;
    socket
        .bind(&SocketAddr::from((address, 0)).into())
        .map_err(told)?;
    socket.connect(&to.into()).map_err(told)?;
    Client::over(socket.into())
}

fn c38_misses() -> Outcome {
    let gate = Arc::<Gate>::default();
    let waits = Arc::clone(&gate);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        if asked.target == "/wanted" {
            waits.wait();
        }
        answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page")
    })?;
    let config = "[[limit]]\nname = 'misses'\nrate = '10/h'\ncounts = 'origin'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    client.get("/page", "")?.is(200)?;
    // What is stored is free,
    let hits = statuses(&mut client, (0..50).map(|_| "/page".to_owned()))?;
    equal("hits", of(&hits, 200), 50)?;
    // and so is what another asked for.
    thread::scope(|scope| {
        let readers: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| site.get("/wanted", "")))
            .collect();
        site.until("tidegate_waiters", |waiters| waiters == 20.0)?;
        gate.open();
        readers.into_iter().try_for_each(|reader| {
            let reply = reader.join().map_err(|_| "a reader panicked")?;
            reply?.is(200).map(drop)
        })
    })?;
    // Two of ten are gone. A field that asks for a fresh page changes nothing.
    let busted = (0..100).map(|n| format!("/page?{n}"));
    let replies: Vec<_> = busted
        .map(|target| {
            Ok(client
                .get(&target, "Cache-Control: no-cache\r\nPragma: no-cache\r\n")?
                .status)
        })
        .collect::<Result<_, String>>()?;
    equal("let through", of(&replies, 200), 8)?;
    equal("refused", of(&replies, 429), 92)?;
    equal("asked", origin.asked("GET /page?"), 8)?;
    // What goes past the cache counts like it.
    equal("POST", client.ask("POST", "/page", "", b"x")?.status, 429)?;
    let hits = statuses(&mut site.client()?, (0..50).map(|_| "/page".to_owned()))?;
    equal("hits beyond it", of(&hits, 200), 50)?;
    equal("counted", limited(&site, "misses", "refused")?, 93.0)
}

fn c46_addresses() -> Outcome {
    let origin = pages()?;
    let site = Site::start(origin.address, "[[limit]]\nname = 'strict'\nrate = '1/h'\n")?;
    let address = |n: u16| Ipv4Addr::new(127, 7, (n >> 8) as u8, n as u8);
    for n in 0..600 {
        from(address(n), site.address)?.get("/page", "")?.is(200)?;
    }
    equal("none", limited(&site, "strict", "refused")?, 0.0)?;
    for n in [0, 300, 599] {
        from(address(n), site.address)?.get("/page", "")?.is(429)?;
    }
    equal("remembered", site.metric("tidegate_limit_clients")?, 600.0)
}

fn c48_counts() -> Outcome {
    let origin = pages()?;
    let config = "[[route]]\nhosts = ['a.test']\n[[limit]]\nname = 'all'\nrate = '10/h'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    client.get("/page", "")?.is(200)?;
    client.get("/page", "")?.is(200)?;
    client.ask("HEAD", "/page", "", b"")?.is(200)?;
    client.ask("OPTIONS", "*", "", b"")?.is(204)?;
    client.ask("PURGE", "/page", "", b"")?.is(405)?;
    client.ask("POST", "/page", "", b"")?.is(200)?;
    // No route takes it.
    client.raw(b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")?;
    client.reply("GET")?.is(404)?;
    // What is no request at all counts too.
    for _ in 0..2 {
        let mut broken = site.client()?;
        broken.raw(b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n")?;
        broken.reply("GET")?.is(400)?;
    }
    client.get("/page", "")?.is(200)?;
    for method in ["GET", "HEAD", "POST", "OPTIONS", "PURGE"] {
        site.client()?.ask(method, "/page", "", b"")?.is(429)?;
    }
    client.raw(b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")?;
    client.reply("GET")?.is(429)?;
    equal("asked", origin.asked("GET") + origin.asked("POST"), 3)?;
    // The rate and no more comes in again: not another burst at the edge of an hour.
    for _ in 0..3 {
        site.proxy.advance(Duration::from_secs(1800))?;
        let replies = statuses(&mut site.client()?, (0..20).map(|_| "/page".to_owned()))?;
        let admitted = of(&replies, 200);
        if !(5..=6).contains(&admitted) {
            return Err(format!("{admitted} in half an hour"));
        }
    }
    Ok(())
}

fn c48_unread() -> Outcome {
    let origin = pages()?;
    let config = "[listen]\ntrusted_proxies = ['127.0.0.9']\nhead_deadline = '200ms'\n\
         [[limit]]\nname = 'all'\nrate = '3/d'\n";
    let site = Site::start(origin.address, config)?;
    let ask = |last: u8, bytes: &[u8], status: u16| {
        let mut client = from(Ipv4Addr::new(127, 0, 0, last), site.address)?;
        client.raw(bytes)?;
        client.reply("GET")?.is(status).map(drop)
    };
    let broken = b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n";
    let good = b"GET /page HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let half = b"GET /page HTTP/1.1\r\nHost: a.te";
    // A head that doesn't come to its end is one, too.
    for bytes in [&broken[..], half, half] {
        ask(8, bytes, if bytes == half { 408 } else { 400 })?;
    }
    ask(8, good, 429)?;
    // What comes through a trusted proxy is not that proxy's.
    for _ in 0..4 {
        ask(9, broken, 400)?;
    }
    ask(9, half, 408)?;
    ask(9, good, 200)
}

fn c48_streams() -> Outcome {
    let origin = pages()?;
    let config = format!("{}[[limit]]\nname = 'all'\nrate = '20/h'\n", http2::H2C);
    let site = Site::start(origin.address, &config)?;
    let client = http2::Client::connect(site.address)?;
    equal("first", client.get("/page")?.status, 200)?;
    let replies = client.at_once("/page", 60)?;
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status == 429).collect();
    equal("admitted", replies.len() - refused.len(), 19)?;
    for reply in refused {
        equal("no-store", reply.field("cache-control"), "no-store")?;
        if !String::from_utf8_lossy(&reply.body).contains("\"status\":429") {
            return Err(format!("{reply:?}"));
        }
    }
    // It is one client, whatever it speaks.
    site.get("/page", "")?.is(429).map(drop)
}

fn c50_refused() -> Outcome {
    let origin = pages()?;
    let config = "[cache]\nmax_waiters = 1\n\
         [[limit]]\nname = 'visitors'\nrate = '2/h'\nx_ratelimit = true\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    for _ in 0..2 {
        client.get("/own", "")?.is(200)?;
    }
    let reply = client.get("/own", "")?.is(429)?;
    for (name, value) in [
        ("cache-control", "no-store"),
        ("content-type", "application/problem+json"),
        ("ratelimit-policy", "\"visitors\";q=2;w=3600"),
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "0"),
    ] {
        equal(name, reply.field(name), value)?;
    }
    let retry: u64 = reply
        .field("retry-after")
        .parse()
        .map_err(|_| format!("{reply:?}"))?;
    if !(1_700..=1_860).contains(&retry) {
        return Err(format!("{retry} s, and one is free every half hour"));
    }
    if !reply.field("ratelimit").starts_with("\"visitors\";r=0;t=")
        || reply.field("date").is_empty()
    {
        return Err(format!("{reply:?}"));
    }
    let json: serde_json::Value = serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?;
    equal("status", json["status"].as_u64(), Some(429))?;
    equal("type", json["type"].as_str(), Some("about:blank"))?;
    let page = client.get("/own", "Accept: text/html,*/*\r\n")?.is(429)?;
    equal(
        "page",
        page.field("content-type"),
        "text/html; charset=utf-8",
    )?;
    let head = client.ask("HEAD", "/own", "", b"")?.is(429)?;
    equal(
        "length",
        head.field("content-length"),
        reply.field("content-length"),
    )?;
    // A crowd of refused ones asks for nothing and waits for nothing.
    crowd(20, |_| site.get("/own", "")?.is(429).map(drop))?;
    equal("asked", origin.asked("GET /own"), 2)?;
    // The body of one that is refused is never taken for a request.
    let mut client = site.client()?;
    let inner = b"GET /inner HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let reply = client.ask("POST", "/own", "", inner)?.is(429)?;
    equal("connection", reply.field("connection"), "close")?;
    equal("inner", origin.asked("GET /inner"), 0)?;
    let label = [("result".to_owned(), "limited".to_owned())];
    eventually("all of them counted", || {
        let results = site.proxy.metric("tidegate_requests_total", &label)?;
        Ok((results == Some(24.0)).then_some(()))
    })
}

fn together() -> Outcome {
    let origin = pages()?;
    let config = "[[limit]]\nname = 'wide'\nrate = '20/h'\n\
         [[limit]]\nname = 'posts'\nrate = '3/h'\nmethods = ['POST']\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    for _ in 0..3 {
        client.ask("POST", "/page", "", b"")?.is(200)?;
    }
    for _ in 0..30 {
        let reply = client.ask("POST", "/page", "", b"")?.is(429)?;
        equal(
            "strictest",
            reply.field("ratelimit-policy"),
            "\"posts\";q=3;w=3600",
        )?;
    }
    // None of those thirty counted for the other.
    let replies = statuses(&mut client, (0..30).map(|_| "/page".to_owned()))?;
    equal("admitted", of(&replies, 200), 17)?;
    equal("posts", limited(&site, "posts", "refused")?, 30.0)?;
    equal("wide", limited(&site, "wide", "refused")?, 13.0)
}

fn refused_late() -> Outcome {
    let origin = pages()?;
    let fetches = "[[limit]]\nname = 'fetches'\nrate = '2/d'\ncounts = 'origin'\n";
    for (second, counts) in [
        ("rate = '2/d'\ncounts = 'origin'", "refuse at the origin"),
        (
            "rate = '2/d'\ncounts = 'origin'\naction = 'stale'",
            "stale at the origin",
        ),
        ("rate = '2/d'\naction = 'stale'", "stale at the door"),
    ] {
        let config = format!(
            "[[limit]]\nname = 'visitors'\nrate = '20/d'\nconcurrency = 5\n\
             [[limit]]\nname = 'second'\n{second}\n{}",
            if second.contains("origin") {
                ""
            } else {
                fetches
            }
        );
        let site = Site::start(origin.address, &config)?;
        let mut client = site.client()?;
        client.get("/page", "")?.is(200)?;
        client.get("/other", "")?.is(200)?;
        for n in 0..30 {
            client.get(&format!("/page?{n}"), "")?.is(429)?;
            client.ask("POST", "/page", "", b"")?.is(429)?;
        }
        let hits = statuses(&mut client, (0..30).map(|_| "/page".to_owned()))?;
        equal(counts, of(&hits, 200), 18)?;
        // None of it stays in hand.
        let mut others = site.client()?;
        let refused = others.get("/page", "")?.is(429)?;
        equal(
            "at once",
            refused.field("ratelimit-policy"),
            "\"visitors\";q=20;w=86400",
        )?;
    }
    Ok(())
}

fn dry_run() -> Outcome {
    let origin = pages()?;
    let config = "[[limit]]\nname = 'new'\nrate = '3/h'\naction = 'log'\ntell = 'always'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    for _ in 0..10 {
        let reply = client.get("/page", "")?.is(200)?;
        equal("told", reply.field("ratelimit"), "")?;
    }
    equal("logged", limited(&site, "new", "logged")?, 7.0)?;
    equal("refused", limited(&site, "new", "refused")?, 0.0)?;
    let log = site.dir.path().join("access.log");
    eventually("seven lines that say so", || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let says = "\"limit\":\"new\",\"limit_action\":\"logged\"";
        Ok((log.matches(says).count() == 7).then_some(()))
    })
}

fn delayed() -> Outcome {
    let origin = pages()?;
    let config =
        "[[limit]]\nname = 'slow'\nrate = '2/s'\nburst = 1\naction = 'delay'\nmax_delay = '20s'\n";
    let site = Site::start(origin.address, config)?;
    let began = clock::now();
    site.get("/page", "")?.is(200)?;
    crowd(3, |_| site.get("/page", "")?.is(200).map(drop))?;
    let took = clock::now() - began;
    if took < Duration::from_millis(1_500) {
        return Err(format!("four at two a second took {took:?}"));
    }
    if limited(&site, "slow", "delayed")? < 1.0 {
        return Err("none was counted".into());
    }
    // Who leaves meanwhile is not asked for; the first may have found that it was its turn.
    for n in 0..4 {
        site.client()?.send("GET", &format!("/left?{n}"), "", b"")?;
    }
    site.until("tidegate_connections_open", |open| open == 0.0)?;
    site.get("/last", "")?.is(200)?;
    if origin.asked("GET /left") > 1 {
        return Err("who had left was asked for".into());
    }
    // And past the bound one is refused.
    let mut crowd_of_it: Vec<_> = (0..60).map(|_| site.client()).collect::<Result<_, _>>()?;
    for client in &mut crowd_of_it {
        client.send("GET", "/page", "", b"")?;
    }
    site.until("tidegate_limited_total", |all| all >= 60.0)?;
    eventually("somebody refused", || {
        Ok((limited(&site, "slow", "refused")? >= 10.0).then_some(()))
    })
}

fn stale() -> Outcome {
    let origin = Origin::start(|_, conn: &mut Conn| {
        answer(
            conn,
            200,
            "Cache-Control: max-age=60, stale-if-error=86400\r\n",
            b"page",
        )
    })?;
    for counts in ["all", "origin"] {
        let config = format!(
            "[[limit]]\nname = 'visitors'\nrate = '2/d'\naction = 'stale'\ncounts = '{counts}'\n"
        );
        let site = Site::start(origin.address, &config)?;
        let mut client = site.client()?;
        client.get("/page", "")?.is(200)?;
        client.get("/other", "")?.is(200)?;
        site.proxy.advance(Duration::from_secs(100))?;
        let before = origin.asked("GET /page");
        for _ in 0..5 {
            let reply = client.get("/page", "")?.is(200)?;
            if !reply.told("detail=limited") || reply.body != b"page" {
                return Err(format!("{counts}: {reply:?}"));
            }
        }
        equal("asked", origin.asked("GET /page"), before)?;
        client.get("/unknown", "")?.is(429)?;
        client.ask("POST", "/page", "", b"")?.is(429)?;
        equal("unknown", origin.asked("GET /unknown"), 0)?;
        equal("stale", limited(&site, "visitors", "stale")?, 7.0)?;
    }
    Ok(())
}

fn concurrency() -> Outcome {
    let (gate, inside) = (Arc::<Gate>::default(), Arc::<Inside>::default());
    let (waits, enters) = (Arc::clone(&gate), Arc::clone(&inside));
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        let _inside = enters.enter();
        if asked.target.starts_with("/slow") {
            waits.wait();
        }
        if asked.target.starts_with("/broken") {
            return Err("broken".into());
        }
        answer(conn, 200, "Cache-Control: no-store\r\n", b"page")
    })?;
    let config = "[[upstream]]\nretries = 0\nbreaker_after = 0\neject_after = 0\n\
         [[limit]]\nname = 'at-once'\nconcurrency = 2\n";
    let site = Site::start(origin.address, config)?;
    // Answers, errors, refusals: each gives its place back.
    let mut client = site.client()?;
    for _ in 0..6 {
        client.get("/own", "")?.is(200)?;
        client.get("/broken", "")?.is(502)?;
        client.ask("PURGE", "/own", "", b"")?.is(405)?;
        client.ask("HEAD", "/own", "", b"")?.is(200)?;
    }
    let hold = |n: usize| {
        let mut client = site.client()?;
        client.send("GET", &format!("/slow/{n}"), "", b"")?;
        Ok::<_, String>(client)
    };
    let mut first = hold(1)?;
    let second = hold(2)?;
    eventually("both at the origin", || {
        Ok((inside.now() == 2).then_some(()))
    })?;
    let reply = site.get("/own", "")?.is(429)?;
    equal(
        "policy",
        reply.field("ratelimit-policy"),
        "\"at-once\";q=2;qu=\"concurrent-requests\"",
    )?;
    if !["1", "2"].contains(&reply.field("retry-after")) {
        return Err(format!("{reply:?}"));
    }
    // Another address has places of its own.
    from(Ipv4Addr::new(127, 7, 7, 7), site.address)?
        .get("/own", "")?
        .is(200)?;
    // Who goes gives it back,
    drop(second);
    eventually("the place of who left", || {
        Ok((site.get("/own", "")?.status == 200).then_some(()))
    })?;
    // and who is answered.
    gate.open();
    first.reply("GET")?.is(200)?;
    eventually("both places", || {
        let both = crowd(2, |_| site.get("/own", "")?.is(200).map(drop));
        Ok(both.is_ok().then_some(()))
    })
}

fn penalty() -> Outcome {
    let origin = pages()?;
    let config = "[[limit]]\nname = 'login'\npreset = 'login'\nroutes = ['login']\n\
         [[route]]\nname = 'all'\n[[route]]\nname = 'login'\npath = '/login'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    let mut login = || client.ask("POST", "/login", "", b"");
    for _ in 0..5 {
        login()?.is(200)?;
    }
    let wait = |reply: &Reply| {
        reply
            .field("retry-after")
            .parse::<u64>()
            .map_err(|e| e.to_string())
    };
    let first = wait(&login()?.is(429)?)?;
    let mut last = 0;
    for _ in 0..200 {
        last = wait(&login()?.is(429)?)?;
    }
    // A quarter of an hour, and the spread.
    if first > 60 || !(890..=980).contains(&last) {
        return Err(format!("first {first} s, at last {last} s"));
    }
    // Other requests are none of its business.
    site.get("/login", "")?.is(200)?;
    site.client()?.ask("POST", "/page", "", b"")?.is(200)?;
    site.proxy.advance(Duration::from_secs(900))?;
    login()?.is(429)?;
    site.proxy.advance(Duration::from_secs(60))?;
    login()?.is(200).map(drop)
}

fn origin_time() -> Outcome {
    let origin = Origin::start(|_, conn: &mut Conn| {
        thread::sleep(Duration::from_millis(300));
        answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page")
    })?;
    let config = "[[limit]]\nname = 'time'\nrate = '60/min'\nburst = 200\ncost = 'origin_ms'\ncounts = 'origin'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    client.get("/page", "")?.is(200)?;
    site.until("tidegate_limit_clients", |clients| clients == 1.0)?;
    // It owes a hundred milliseconds and more, and gets one a second.
    let reply = client.get("/other", "")?.is(429)?;
    let wait: u64 = reply
        .field("retry-after")
        .parse()
        .map_err(|_| format!("{reply:?}"))?;
    if wait < 90 {
        return Err(format!("{wait} s for a debt of 100"));
    }
    client.get("/page", "")?.is(200)?;
    equal("asked", origin.asked("GET"), 1)?;
    // The most that may be owed is a burst.
    site.proxy.advance(Duration::from_secs(201))?;
    client.get("/other", "")?.is(200).map(drop)
}

fn identities() -> Outcome {
    let origin = pages()?;
    let config = "[[route]]\nname = 'all'\n[[route]]\nname = 'blog'\npath = '/blog'\n[[route]]\nname = 'shop'\npath = '/shop'\n\
         [[limit]]\nname = 'tokens'\nkey = 'header:Authorization'\nrate = '2/h'\nroutes = ['shop']\n\
         [[limit]]\nname = 'keys'\nkey = 'header:X-Api-Key'\nrate = '2/h'\nroutes = ['all']\n\
         [[limit]]\nname = 'carts'\nkey = 'cookie:session+route'\nrate = '1/h'\nroutes = ['blog']\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    let mut ask =
        |target: &str, fields: &str, status: u16| client.get(target, fields)?.is(status).map(drop);
    for key in ["X-Api-Key: a\r\n", "X-Api-Key: b\r\n", ""] {
        ask("/page", key, 200)?;
        ask("/page", key, 200)?;
        ask("/page", key, 429)?;
    }
    for cookie in ["Cookie: x=1; session=a\r\n", "Cookie: x=1\r\n"] {
        ask("/blog", cookie, 200)?;
        ask("/blog", cookie, 429)?;
    }
    ask("/blog", "Cookie: session=a\r\n", 429)?;
    // One thing said twice is that thing; who says several, one of them good perhaps, is known by the address.
    ask("/page", "X-Api-Key: c\r\nX-Api-Key: c\r\n", 200)?;
    ask("/page", "X-Api-Key: c\r\n", 200)?;
    ask("/page", "X-Api-Key: c\r\n", 429)?;
    for n in 0..3 {
        ask("/page", &format!("X-Api-Key: d\r\nX-Api-Key: {n}\r\n"), 429)?;
        let cookies = [
            format!("Cookie: session={n}; session=d\r\n"),
            format!("Cookie: session=d\r\nCookie: session={n}\r\n"),
        ];
        for cookies in cookies {
            ask("/blog", &cookies, 429)?;
        }
    }
    // Credentials are the same however their scheme is written.
    for (fields, status) in [
        ("Authorization: Bearer t\r\n", 200),
        ("Authorization: bEARER   t\r\n", 200),
        ("Authorization: bearer t\r\n", 429),
        ("Authorization: Bearer T\r\n", 200),
        ("Authorization: Basic t\r\n", 200),
    ] {
        ask("/shop", fields, status)?;
    }
    // Who brings nothing is known by the address, and nobody's cookie says as much.
    ask("/blog", "", 429)?;
    let mut other = from(Ipv4Addr::new(127, 9, 9, 9), site.address)?;
    other.get("/blog", "")?.is(200)?;
    other.get("/blog", "Cookie: session=a\r\n")?.is(429)?;
    // None of it is written down.
    let log = site.dir.path().join("access.log");
    eventually("the refusals in the log", || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        Ok((log.matches("\"limit_action\":\"refused\"").count() == 19).then_some(log))
    })
    .and_then(
        |log| match log.contains("session") || log.contains("Api-Key") {
            true => Err("what clients said is in the log".into()),
            false => Ok(()),
        },
    )
}

fn told() -> Outcome {
    let origin = pages()?;
    let config = "[[limit]]\nname = 'near'\nrate = '4/h'\nmethods = ['GET']\n\
         [[limit]]\nname = 'always'\nrate = '9/h'\nmethods = ['PUT']\ntell = 'always'\n\
         [[limit]]\nname = 'never'\nrate = '9/h'\nmethods = ['DELETE']\ntell = 'refused'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    let mut ask = |method: &str| {
        let reply = client.ask(method, "/page", "", b"")?;
        let left = reply
            .field("ratelimit")
            .split(';')
            .nth(1)
            .unwrap_or("-")
            .to_owned();
        Ok::<_, String>(left)
    };
    for (method, left) in [
        ("GET", ["-", "-", "r=1", "r=0", "r=0"]),
        ("PUT", ["r=8", "r=7", "r=6", "r=5", "r=4"]),
        ("DELETE", ["-"; 5]),
    ] {
        for left in left {
            equal(method, ask(method)?, left.to_owned())?;
        }
    }
    // HEAD is no way round a limit of GET: it fetches the page.
    site.client()?.ask("HEAD", "/page", "", b"")?.is(429)?;
    // A hot page that lies ready in one piece says it too: each answer its own.
    let config =
        "[listen]\nthreads = 1\n[[limit]]\nname = 'all'\nrate = '1000/d'\ntell = 'always'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    for left in (950..1000).rev() {
        let reply = client.get("/page", "")?.is(200)?;
        let told = format!("\"all\";r={left};");
        if !reply.field("ratelimit").starts_with(&told) {
            return Err(format!("{left} left: {reply:?}"));
        }
    }
    Ok(())
}

fn by_rules() -> Outcome {
    let origin = pages()?;
    let config = "[listen]\nh2c = true\n\
        [[route]]\nname = 'site'\nhosts = ['a.test']\n\
        [[route]]\nname = 'shop'\nhosts = ['a.test']\npath = '/shop'\n\
        [[limit]]\nname = 'searches'\nrate = '2/h'\n\
        [[limit]]\nname = 'orders'\nrate = '1/h'\nmethods = ['POST']\n\
        [[limit]]\nname = 'misses'\nrate = '1/h'\ncounts = 'origin'\n\
        [[rule]]\nname = 'page'\nwhen = \"path == '/search'\"\naction = 'limit'\nlimit = 'searches'\n\
        [[rule]]\nname = 'query'\nwhen = \"query.contains('q=')\"\naction = 'limit'\nlimit = 'searches'\n\
        [[rule]]\nname = 'order'\nwhen = 'true'\naction = 'limit'\nlimit = 'orders'\nroutes = ['shop']\n\
        [[rule]]\nname = 'miss'\nwhen = \"path.startsWith('/m')\"\naction = 'limit'\nlimit = 'misses'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    let pages = statuses(&mut client, (0..20).map(|n| format!("/page?{n}")))?;
    equal("what no rule is true of", of(&pages, 200), 20)?;
    // Two rules with one limit are one request to it.
    client.get("/search?q=1", "")?.is(200)?;
    client.get("/search", "")?.is(200)?;
    for path in ["/search", "/page?q=1", "/search?q=2"] {
        let told = client.get(path, "")?.is(429)?;
        equal(
            path,
            told.field("ratelimit").starts_with("\"searches\""),
            true,
        )?;
    }
    let over = http2::Client::connect(site.address)?;
    equal("over HTTP/2", over.get("/search")?.status, 429)?;
    equal("over HTTP/2", over.get("/page?0")?.status, 200)?;
    // A rule's routes and a limit's methods hold together.
    for (method, path, status) in [
        ("GET", "/shop", 200),
        ("GET", "/shop", 200),
        ("POST", "/page", 200),
        ("POST", "/shop", 200),
        ("POST", "/shop", 429),
        ("POST", "/page", 200),
        ("GET", "/shop", 200),
    ] {
        let reply = client.ask(method, path, "", b"")?;
        equal(&format!("{method} {path}"), reply.status, status)?;
    }
    // What reaches the origin counts there.
    for (path, status) in [("/m1", 200), ("/m1", 200), ("/m2", 429), ("/m1", 200)] {
        equal(path, client.get(path, "")?.status, status)?;
    }
    // What no route takes meets no rule.
    for _ in 0..4 {
        client.raw(b"GET /search?q=1 HTTP/1.1\r\nHost: b.test\r\n\r\n")?;
        client.reply("GET")?.is(404)?;
    }
    for (limit, refused) in [("searches", 4.0), ("orders", 1.0), ("misses", 1.0)] {
        equal(limit, limited(&site, limit, "refused")?, refused)?;
    }
    Ok(())
}
