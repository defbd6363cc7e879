//! The invariants of the architecture, each with a test that carries its name: here, where it takes a crowd or a look
//! at the process, else a wire script, a test of the flight table's or of a module's own. [`INVARIANTS`] says which.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::site::{Client, Gate, Inside, Origin, Site, answer, crowd, equal, eventually, lock};
use super::{Outcome, Test, flight_table};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("invariants::every_one_has_its_test", every_one_has_its_test),
        (
            "invariants::a_hit_awaits_nothing_but_the_socket",
            a_hit_awaits_nothing,
        ),
        (
            "invariants::a_hit_is_one_write_and_wakes_nobody",
            a_hit_is_one_write,
        ),
        (
            "invariants::one_joinable_flight_whatever_its_outcome",
            one_joinable_flight,
        ),
        (
            "invariants::in_flight_never_exceeds_the_budget",
            in_flight_within_the_budget,
        ),
        (
            "invariants::a_broken_fill_ends_in_a_broken_reply",
            a_broken_fill,
        ),
        (
            "invariants::what_may_not_be_shared_is_never_answered_from_memory_to_another",
            never_shared,
        ),
        (
            "invariants::after_an_invalidation_returned_nothing_older_is_served",
            nothing_older_after_an_invalidation,
        ),
        (
            "invariants::a_background_refresh_is_not_a_client",
            a_refresh_is_not_a_client,
        ),
        (
            "invariants::memory_stays_under_its_cap_with_any_traffic",
            memory_under_its_cap,
        ),
        (
            "invariants::file_descriptors_and_label_sets_stay_bounded",
            descriptors_and_labels_bounded,
        ),
    ]
}

/// Where an invariant is tested.
enum By {
    /// Here.
    Here(&'static str),
    /// By the model checker.
    Model(&'static str),
    /// A file of `tests/wire/`, without its ending.
    Wire(&'static str),
    /// What it speaks of does not exist yet.
    Later,
}
use By::{Here, Later, Model, Wire};

const INVARIANTS: &[(&str, &[By])] = &[
    (
        "A hit in memory awaits nothing but the client's socket, takes no global lock, and makes no Redis call.",
        &[
            Here("a_hit_awaits_nothing_but_the_socket"),
            Here("a_hit_is_one_write_and_wakes_nobody"),
        ],
    ),
    (
        "For one key, class and variant there is at most one joinable flight per process, whatever its outcome.",
        &[
            Here("one_joinable_flight_whatever_its_outcome"),
            Model("a_crowd_is_one_flight_and_nobody_is_lost"),
            Model("one_flight_a_variant_when_the_head_tells_it"),
            Wire("02-sharing/classes-do-not-mix"),
        ],
    ),
    (
        "A slow, idle or endless client holds an origin's permit no longer than the minimum rate allows; a slow reader \
         never slows a flight or another reader.",
        &[
            Wire("01-front/minimum-rate-down"),
            Wire("01-front/minimum-rate-up"),
            Wire("01-front/events-hold-no-permit"),
            Wire("09-flights/private-slow-reader-is-cut"),
            Wire("09-flights/slow-follower-slows-nobody"),
            Wire("09-flights/waiters-leave"),
        ],
    ),
    (
        "In-flight requests to an upstream never exceed its budget, counting every cause.",
        &[
            Here("in_flight_never_exceeds_the_budget"),
            Wire("09-flights/budget-counts-everything"),
        ],
    ),
    (
        "A response is never shorter than it says: a broken fill ends in a broken reply, never in a complete-looking one.",
        &[
            Here("a_broken_fill_ends_in_a_broken_reply"),
            Wire("03-9111-3-storing/unfinished"),
        ],
    ),
    (
        "Nothing that a rule calls private, uncacheable or vary-excluded is ever answered from memory to another client.",
        &[Here(
            "what_may_not_be_shared_is_never_answered_from_memory_to_another",
        )],
    ),
    (
        "A purge that returned is true: nothing stored or in flight before it is served after it, except to requests \
         that began before it returned (soft purge: as stale only).",
        &[
            Here("after_an_invalidation_returned_nothing_older_is_served"),
            Model("an_invalidated_generation_is_never_joined"),
            Model("nobody_follows_what_was_purged_before_he_came"),
            Wire("08-9111-4.4-invalidating/flights-begun-before"),
        ],
    ),
    (
        "A background refresh is not a client: it meets no limiter and no client metric.",
        &[Here("a_background_refresh_is_not_a_client")],
    ),
    (
        "A reload or lever that is refused changes nothing; one that is accepted is seen by the next request.",
        &[Later],
    ),
    (
        "Memory stays under the configured cap with any traffic; so do file descriptors and metric label sets.",
        &[
            Here("memory_stays_under_its_cap_with_any_traffic"),
            Here("file_descriptors_and_label_sets_stay_bounded"),
            Wire("09-flights/memory-under-slow-readers"),
        ],
    ),
];

fn every_one_has_its_test() -> Outcome {
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let has = |tests: Vec<Test>, name: &str| {
        tests
            .iter()
            .any(|(held, _)| held.rsplit("::").next() == Some(name))
    };
    let mut missing = Vec::new();
    for (invariant, carried) in INVARIANTS {
        for by in *carried {
            let (there, name) = match by {
                Here(name) => (has(tests(), name), name),
                Model(name) => (has(flight_table::tests(), name), name),
                Wire(name) => (wire.join(format!("{name}.wire")).exists(), name),
                Later => (true, &""),
            };
            if !there {
                missing.push(format!("{name}\n    for: {invariant}"));
            }
        }
    }
    missing.extend(named_by_the_architecture()?);
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("no such test: {}", missing.join("\n  "))),
    }
}

/// What the page on the architecture names as an invariant's test, and is not there.
fn named_by_the_architecture() -> Result<Vec<String>, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.join("ARCHITECTURE.md");
    let text = fs::read_to_string(&page).map_err(|e| format!("{}: {e}", page.display()))?;
    let section = text
        .split("\n## ")
        .find(|part| part.starts_with("Invariants"));
    let rows = section.ok_or("ARCHITECTURE.md has no invariants")?.lines();
    let cells = rows.filter_map(|row| row.trim_end_matches('|').rsplit_once('|'));
    let names: Vec<&str> = cells
        .flat_map(|(_, tests)| tests.split('`').skip(1).step_by(2))
        .filter(|name| !name.starts_with("make "))
        .collect();
    if names.len() < 5 {
        return Err("ARCHITECTURE.md names hardly a test for its invariants".into());
    }
    let ours = super::tests();
    let mut scripts = Vec::new();
    wire_scripts(&root.join("tests/wire"), "", &mut scripts);
    let is = |held: &str, name: &str| match name.split_once('*') {
        Some((start, end)) => held.starts_with(start) && held.ends_with(end),
        None => held == name,
    };
    let there = |name: &&str| {
        let of_a_module = name.split_once("::").is_some_and(|(module, function)| {
            let file = match module {
                "fastapi" => root.join("tests/e2e/fastapi.rs"),
                room => root.join("src").join(room).join(format!("{function}.rs")),
            };
            let text = fs::read_to_string(file).unwrap_or_default();
            text.contains(&format!("fn {function}("))
                || text.contains("#[cfg(test)]")
                || (function == "tests" && text.contains("#[test]"))
        });
        of_a_module
            || ours.iter().any(|(held, _)| is(held, name))
            || scripts.iter().any(|held| is(held, name))
    };
    let gone = names.iter().filter(|name| !there(name));
    Ok(gone
        .map(|name| format!("{name}, named in ARCHITECTURE.md"))
        .collect())
}

fn wire_scripts(folder: &Path, name: &str, out: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let held = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if path.is_dir() {
            wire_scripts(&path, &format!("{name}{held}/"), out);
        } else if let Some(script) = held.strip_suffix(".wire") {
            out.push(format!("{name}{script}"));
        }
    }
}

/// A page that may be kept for a minute.
const FRESH: &str = "Cache-Control: max-age=60\r\n";

fn a_hit_awaits_nothing() -> Outcome {
    let gate = Arc::new(Gate::default());
    let origin = Origin::start({
        let gate = Arc::clone(&gate);
        move |asked, conn: &mut Conn| {
            if asked.target == "/held" {
                gate.wait();
            }
            answer(conn, 200, FRESH, b"page")
        }
    })?;
    // One worker, one permit, no queue, one waiter's place.
    let site = Site::start(
        origin.address,
        "[listen]\nthreads = 1\n[cache]\nmax_waiters = 1\n\
         [[upstream]]\nmax_in_flight = 1\nqueue = 0\n[log]\naccess = \"/dev/full\"",
    )?;
    site.get("/page", "")?.is(200)?;
    let mut held = site.client()?;
    held.send("GET", "/held", "", b"")?;
    site.until("tidegate_waiters", |waiters| waiters == 1.0)?;
    // From here on the origin, its permit, and the waiters' place are taken, and no log line can be written.
    let refused = site.get("/other", "")?;
    equal("a miss meanwhile", refused.status, 503)?;
    let mut client = site.client()?;
    for turn in 0..20 {
        for _ in 0..50 {
            client.send("GET", "/page", "", b"")?;
        }
        for _ in 0..50 {
            let reply = client.reply("GET")?.is(200)?;
            if !reply.told("hit") {
                return Err(format!("turn {turn}: {reply:?}"));
            }
        }
    }
    equal("requests at the origin", origin.asked("GET "), 2)?;
    gate.open();
    held.reply("GET")?.is(200)?;
    Ok(())
}

fn a_hit_is_one_write() -> Outcome {
    const HITS: u32 = 1_000;
    // One that a worker keeps in one piece, one that the kernel gathers, and one that is put behind its head. Writes are
    // counted where they are no sends: the second one's, and those that wake another thread.
    for (size, fields, writes) in [
        (10_000, "", 0),
        (30_000, "", HITS),
        (100, "Connection: keep-alive\r\n", 0),
    ] {
        let version = if fields.is_empty() { "1.1" } else { "1.0" };
        let request = format!("GET /page HTTP/{version}\r\nHost: a.test\r\n{fields}\r\n");
        let origin =
            Origin::start(move |_, conn: &mut Conn| answer(conn, 200, FRESH, &vec![b'x'; size]))?;
        let site = Site::start(
            origin.address,
            "[listen]\nthreads = 1\n[log]\naccess = \"off\"",
        )?;
        let stream = TcpStream::connect(site.address).map_err(|e| format!("connect: {e}"))?;
        let received = stream.try_clone().map_err(|e| e.to_string())?;
        let mut client = Client::over(stream)?;
        client.get("/page", "")?.is(200)?;
        let pid = site.pid()?;
        let hits = |client: &mut Client| -> Outcome {
            // In tens, so that one wake-up serves many: what is counted is what hits cost beside their socket.
            for _ in 0..HITS / 10 {
                client.raw(request.repeat(10).as_bytes())?;
                for _ in 0..10 {
                    let reply = client.reply("GET")?.is(200)?;
                    if !reply.told("hit") || reply.body.len() != size {
                        return Err(format!("not a hit: {reply:?}"));
                    }
                }
            }
            Ok(())
        };
        hits(&mut client)?;
        let before = (sleeps(pid)?, written(pid)?, data_segments(&received)?);
        hits(&mut client)?;
        let (sleeps, segments) = (
            sleeps(pid)? - before.0,
            data_segments(&received)? - before.2,
        );
        let written = written(pid)? - before.1;
        if written > u64::from(writes + HITS / 20) {
            return Err(format!("{written} writes for {HITS} hits of {size} bytes"));
        }
        // Without Nagle's delay a write is a segment, unless the one before it has not left yet.
        if segments > HITS + HITS / 20 {
            return Err(format!(
                "{segments} segments for {HITS} hits of {size} bytes"
            ));
        }
        // Up to ten wake-ups for ten hits would be one each; half of that is a busy machine's.
        if sleeps > u64::from(HITS) / 2 {
            return Err(format!("the process slept {sleeps} times for {HITS} hits"));
        }
    }
    Ok(())
}

/// Segments with data in them that this end of a connection has received (tcp_info of tcp(7), of which libc's does not
/// reach so far).
#[expect(unsafe_code, reason = "a socket option that std does not have")]
fn data_segments(stream: &TcpStream) -> Result<u32, String> {
    const DATA_SEGS_IN: usize = 152;
    let mut info = [0u8; 256];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `info`.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    let field = info[..len as usize].get(DATA_SEGS_IN..DATA_SEGS_IN + 4);
    match (done, field) {
        (0, Some(&[a, b, c, d])) => Ok(u32::from_ne_bytes([a, b, c, d])),
        _ => Err(format!("TCP_INFO: {}", std::io::Error::last_os_error())),
    }
}

/// Calls of `write` and `writev`.
fn written(pid: u32) -> Result<u64, String> {
    let file = format!("/proc/{pid}/io");
    let io = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
    let calls = io.lines().find_map(|line| line.strip_prefix("syscw:"));
    calls
        .and_then(|calls| calls.trim().parse().ok())
        .ok_or(file)
}

/// How often a process's threads went to sleep, but for the one that turns by the clock.
fn sleeps(pid: u32) -> Result<u64, String> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let mut sleeps = 0;
    for task in fs::read_dir(tasks).map_err(|e| e.to_string())?.flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if read("comm").trim() != "watch" {
            let status = read("status");
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            sleeps += line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(sleeps)
}

fn one_joinable_flight() -> Outcome {
    const CROWD: usize = 30;
    // Path, the status followers get, requests at the origin in all.
    let outcomes = [
        ("/stored", 200, 1),
        ("/private", 200, CROWD),
        ("/large", 200, CROWD),
        ("/error", 502, 1),
        // One other waiter's request is tried.
        ("/broken", 502, 2),
    ];
    let gates: Arc<Vec<Gate>> = Arc::new(outcomes.iter().map(|_| Gate::default()).collect());
    let origin = Origin::start({
        let gates = Arc::clone(&gates);
        move |asked, conn: &mut Conn| {
            let at = outcomes.iter().position(|(path, ..)| *path == asked.target);
            if let Some(at) = at {
                gates[at].wait();
            }
            match &*asked.target {
                "/stored" | "/meanwhile" => answer(conn, 200, FRESH, b"page"),
                "/private" => answer(conn, 200, "Cache-Control: private\r\n", b"page"),
                "/large" => answer(conn, 200, FRESH, &[b'x'; 4096]),
                "/error" => answer(conn, 500, "", b"sorry"),
                _ => Err("the connection breaks".into()),
            }
        }
    })?;
    let site = Site::start(
        origin.address,
        "[listen]\nthreads = 1\n[[upstream]]\nkeepalive = \"0\"\n[cache]\nmax_object_size = \"2KiB\"",
    )?;
    for (at, (path, status, fetches)) in outcomes.into_iter().enumerate() {
        let line = format!("GET {path}");
        let mut clients = Vec::new();
        for _ in 0..CROWD {
            let mut client = site.client()?;
            client.send("GET", path, "", b"")?;
            clients.push(client);
        }
        site.until("tidegate_waiters", |waiters| waiters == CROWD as f64)?;
        // Who is counted as waiting is about to board: the one worker has let it by the time it answers another.
        site.get("/meanwhile", "")?.is(200)?;
        let told = |what| format!("{path}: {what}");
        // A second one would be in the air before its leader waits.
        site.until("tidegate_flights", |flights| flights == 1.0)?;
        eventually(&line, || Ok((origin.asked(&line) > 0).then_some(())))?;
        equal(&told("fetches before the answer"), origin.asked(&line), 1)?;
        gates[at].open();
        let mut of_status = 0;
        for client in &mut clients {
            let reply = client.reply("GET")?;
            let right = reply.status == 200 || reply.status >= 500;
            if !reply.whole || !right {
                return Err(told(&format!("{reply:?}")));
            }
            of_status += usize::from(reply.status == status);
        }
        // An error's leader gets the origin's own.
        let others = CROWD - usize::from(path == "/error");
        equal(&told("answers of the status"), of_status, others)?;
        equal(&told("fetches in all"), origin.asked(&line), fetches)?;
    }
    Ok(())
}

type Gates = Arc<Mutex<HashMap<String, Arc<Gate>>>>;

fn gate(gates: &Gates, path: &str) -> Arc<Gate> {
    Arc::clone(lock(gates).entry(path.to_owned()).or_default())
}

fn in_flight_within_the_budget() -> Outcome {
    const BUDGET: usize = 3;
    const STREAMS: usize = 2;
    let (working, streaming) = (Arc::new(Inside::default()), Arc::new(Inside::default()));
    let gates = Gates::default();
    let origin = Origin::start({
        let (working, gates) = (Arc::clone(&working), Arc::clone(&gates));
        move |asked, conn: &mut Conn| {
            let visit = working.enter();
            // The origin's work. It is over before the answer's last byte, lest the next request overtakes its end.
            thread::sleep(Duration::from_millis(2));
            let path = &*asked.target;
            if path.starts_with("/stream") {
                drop(visit);
                let head: &[u8] = match asked.field("upgrade").is_empty() {
                    true => b"HTTP/1.1 200 -\r\nContent-Type: text/event-stream\r\n\r\n",
                    false => b"HTTP/1.1 101 -\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
                };
                conn.write(head)?;
                // Until the client has looked.
                gate(&gates, path).wait();
                return Err("the stream is over".into());
            }
            if !asked.field("if-none-match").is_empty() {
                drop(visit);
                return conn.write(b"HTTP/1.1 304 -\r\nCache-Control: max-age=60\r\n\r\n");
            }
            let fields = match path.split('/').nth(1).unwrap_or_default() {
                "swr" => "Cache-Control: max-age=60, stale-while-revalidate=600\r\n",
                "etag" => "Cache-Control: max-age=60\r\nETag: \"1\"\r\n",
                "private" | "mine" => "Cache-Control: private\r\n",
                _ => FRESH,
            };
            let body: &[u8] = if asked.method == "HEAD" { b"" } else { b"page" };
            drop(visit);
            answer(conn, 200, fields, body)
        }
    })?;
    let site = Site::start(
        origin.address,
        &format!("[[upstream]]\nmax_in_flight = {BUDGET}\nmax_streams = {STREAMS}"),
    )?;
    let pages = 12;
    for page in 0..pages {
        site.get(&format!("/swr/{page}"), "")?.is(200)?;
        site.get(&format!("/etag/{page}"), "")?.is(200)?;
    }
    let warming = origin.asked("");
    site.proxy.advance(Duration::from_secs(61))?;
    crowd(12, |visitor| {
        let page = visitor % pages;
        let mut client = site.client()?;
        // A refresh in the background, and one that is waited for.
        client.get(&format!("/swr/{page}"), "")?.is(200)?;
        client.get(&format!("/etag/{page}"), "")?.is(200)?;
        for turn in 0..3 {
            client
                .get(&format!("/miss/{visitor}/{turn}"), "")?
                .is(200)?;
            client
                .get(
                    &format!("/mine/{turn}"),
                    &format!("Cookie: sid={visitor}\r\n"),
                )?
                .is(200)?;
            client.get(&format!("/private/{turn}"), "")?.is(200)?;
            client.ask("HEAD", &format!("/private/{turn}"), "", b"")?;
            client.ask("POST", "/post", "", b"body")?.is(200)?;
            client.ask("OPTIONS", "/options", "", b"")?.is(200)?;
            for fields in ["", "Connection: upgrade\r\nUpgrade: echo\r\n"] {
                let path = format!("/stream/{visitor}/{turn}/{}", fields.len());
                let mut client = site.client()?;
                client.send("GET", &path, fields, b"")?;
                let (head, _) = client.head("GET")?;
                // Who is let in is counted while it is surely open at the origin.
                let visit = matches!(head.status, 101 | 200).then(|| streaming.enter());
                if visit.is_none() && head.status != 503 {
                    return Err(format!("{path}: {head:?}"));
                }
                thread::sleep(Duration::from_millis(2));
                drop(visit);
                gate(&gates, &path).open();
            }
        }
        Ok(())
    })?;
    site.until("tidegate_origin_in_flight", |requests| requests == 0.0)?;
    equal("the most requests at once", working.most(), BUDGET)?;
    let streams = streaming.most();
    if !(1..=STREAMS).contains(&streams) {
        return Err(format!("{streams} streams at once, {STREAMS} at most"));
    }
    for (cause, times) in [
        ("GET /swr/", 2 * pages),
        ("GET /etag/", 2 * pages),
        ("GET /miss/", 36),
        ("GET /mine/", 36),
        ("POST /post", 36),
        ("OPTIONS /options", 36),
    ] {
        eventually(cause, || Ok((origin.asked(cause) == times).then_some(())))?;
    }
    equal("requests while warming", warming, 2 * pages)
}

fn a_broken_fill() -> Outcome {
    const LENGTH: usize = 100_000;
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let mut words = asked.target.split('/').skip(1);
        let (sharing, framing) = (words.next(), words.next());
        let cut: usize = words.next().and_then(|cut| cut.parse().ok()).unwrap_or(0);
        let sharing = match sharing {
            Some("shared") => FRESH,
            _ => "Cache-Control: private\r\n",
        };
        let body = [b'x'; LENGTH];
        match framing {
            Some("length") => {
                conn.write(
                    format!("HTTP/1.1 200 OK\r\n{sharing}Content-Length: {LENGTH}\r\n\r\n")
                        .as_bytes(),
                )?;
                conn.write(&body[..cut])?;
            }
            _ => {
                conn.write(
                    format!("HTTP/1.1 200 OK\r\n{sharing}Transfer-Encoding: chunked\r\n\r\n")
                        .as_bytes(),
                )?;
                if cut > 0 {
                    conn.write(format!("{cut:x}\r\n").as_bytes())?;
                    conn.write(&body[..cut])?;
                    conn.write(b"\r\n")?;
                }
            }
        }
        Err("the connection breaks".into())
    })?;
    let site = Site::start(origin.address, "[[upstream]]\nbreaker_after = 0")?;
    for sharing in ["shared", "private"] {
        for framing in ["length", "chunked"] {
            for cut in [0, 1, LENGTH / 2, LENGTH - 1] {
                for version in ["1.1", "1.0"] {
                    let path = format!("/{sharing}/{framing}/{cut}/{version}");
                    let mut client = site.client()?;
                    client.raw(
                        format!("GET {path} HTTP/{version}\r\nHost: a.test\r\n\r\n").as_bytes(),
                    )?;
                    match client.reply("GET") {
                        Ok(reply) if reply.whole && reply.status != 502 => {
                            let (status, got) = (reply.status, reply.body.len());
                            return Err(format!("{path}: looks whole: {status}, {got} bytes"));
                        }
                        Err(why) if why.contains("in time") => {
                            return Err(format!("{path}: no end: {why}"));
                        }
                        // A break, or its announcement; a reset may take the head along.
                        Ok(_) | Err(_) => {}
                    }
                }
            }
        }
    }
    Ok(())
}

fn never_shared() -> Outcome {
    let numbers = AtomicU64::new(1);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        let number = numbers.fetch_add(1, Ordering::SeqCst);
        let fields = match asked.target.trim_start_matches('/') {
            "private" => "Cache-Control: private, max-age=60\r\n",
            "private-field" => "Cache-Control: max-age=60, private=\"x-a\"\r\n",
            "no-store" => "Cache-Control: no-store, max-age=60\r\n",
            "targeted" => "CDN-Cache-Control: no-store\r\nCache-Control: max-age=60\r\n",
            "vary-star" => "Cache-Control: max-age=60\r\nVary: Accept, *\r\n",
            "set-cookie" => "Cache-Control: max-age=60\r\nSet-Cookie: sid=1\r\n",
            "stale" => "Cache-Control: max-age=0\r\nSet-Cookie: sid=1\r\n",
            "authorization" | "public-but-vary" => FRESH,
            "team" => "Cache-Control: max-age=60\r\nVary: X-Team\r\n",
            // Says nothing: kept by the route, for the anonymous.
            _ => "",
        };
        let from = ["cookie", "authorization", "x-team"]
            .map(|name| asked.field(name))
            .concat();
        thread::sleep(Duration::from_millis(1));
        answer(
            conn,
            200,
            fields,
            format!("{number} for [{from}]").as_bytes(),
        )
    })?;
    let site = Site::start(origin.address, "[[route]]\ndefault_ttl = \"60s\"")?;
    let nobodys = [
        "private",
        "private-field",
        "no-store",
        "targeted",
        "vary-star",
        "set-cookie",
        "stale",
    ];
    // An anonymous page lies ready where the signed-in come.
    site.get("/account", "")?.is(200)?;
    let bodies: Mutex<HashSet<String>> = Mutex::default();
    crowd(16, |visitor| {
        let mut client = site.client()?;
        for turn in 0..2 {
            for page in nobodys {
                let reply = client.get(&format!("/{page}"), "")?.is(200)?;
                if !lock(&bodies).insert(reply.text()) {
                    return Err(format!("/{page}: answered to two: {reply:?}"));
                }
            }
            let cookie = format!("sid={visitor}-{turn}");
            let token = format!("Bearer {visitor}-{turn}");
            let team = format!("team-{}", visitor % 4);
            for (page, name, value) in [
                ("account", "Cookie", cookie),
                ("authorization", "Authorization", token),
                ("team", "X-Team", team),
            ] {
                let reply = client.get(&format!("/{page}"), &format!("{name}: {value}\r\n"))?;
                let reply = reply.is(200)?;
                if !reply.text().ends_with(&format!("[{value}]")) {
                    return Err(format!("/{page} for {value}: {reply:?}"));
                }
            }
        }
        Ok(())
    })?;
    equal("fetches for four teams", origin.asked("GET /team"), 4)?;
    let anonymous = site.get("/account", "")?.is(200)?;
    equal("the anonymous page", anonymous.text().ends_with("[]"), true)
}

fn nothing_older_after_an_invalidation() -> Outcome {
    const WRITES: u64 = 40;
    let version = Arc::new(AtomicU64::new(0));
    let origin = Origin::start({
        let version = Arc::clone(&version);
        move |asked, conn: &mut Conn| {
            if asked.method == "POST" {
                version.fetch_add(1, Ordering::SeqCst);
                return answer(conn, 200, "", b"changed");
            }
            let read = version.load(Ordering::SeqCst);
            // Time for a change while the old page is on its way.
            thread::sleep(Duration::from_millis(read % 3));
            answer(
                conn,
                200,
                "Cache-Control: max-age=600\r\n",
                read.to_string().as_bytes(),
            )
        }
    })?;
    let site = Site::start(origin.address, "")?;
    // The version whose change has been answered.
    let returned = AtomicU64::new(0);
    let hits = AtomicUsize::new(0);
    crowd(6, |visitor| {
        let mut client = site.client()?;
        if visitor == 0 {
            for write in 1..=WRITES {
                client.ask("POST", "/page", "", b"x")?.is(200)?;
                returned.store(write, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(write % 7));
            }
            return Ok(());
        }
        while returned.load(Ordering::SeqCst) < WRITES {
            let at_least = returned.load(Ordering::SeqCst);
            let reply = client.get("/page", "")?.is(200)?;
            let got: u64 = reply.text().parse().map_err(|_| format!("{reply:?}"))?;
            if got < at_least {
                return Err(format!(
                    "asked after change {at_least}, got page {got}: {reply:?}"
                ));
            }
            hits.fetch_add(usize::from(reply.told("hit")), Ordering::Relaxed);
        }
        Ok(())
    })?;
    equal("pages were stored meanwhile", hits.into_inner() > 0, true)
}

fn a_refresh_is_not_a_client() -> Outcome {
    const PAGES: usize = 10;
    let gate = Arc::new(Gate::default());
    let origin = Origin::start({
        let gate = Arc::clone(&gate);
        move |asked, conn: &mut Conn| {
            if asked.target == "/held" {
                gate.wait();
            }
            let fields = "Cache-Control: max-age=60, stale-while-revalidate=600\r\n";
            answer(conn, 200, fields, b"page")
        }
    })?;
    let site = Site::start(origin.address, "[cache]\nmax_waiters = 1")?;
    for page in 0..PAGES {
        site.get(&format!("/{page}"), "")?.is(200)?;
    }
    // The waiters' only place is taken: refreshes need none.
    let mut held = site.client()?;
    held.send("GET", "/held", "", b"")?;
    site.until("tidegate_waiters", |waiters| waiters == 1.0)?;
    site.proxy.advance(Duration::from_secs(61))?;
    for page in 0..PAGES {
        let reply = site.get(&format!("/{page}"), "")?.is(200)?;
        equal("served stale at once", reply.told("detail=swr"), true)?;
    }
    let clients = 2 * PAGES + 1;
    eventually("the refreshes", || {
        Ok((origin.asked("GET ") == clients).then_some(()))
    })?;
    gate.open();
    held.reply("GET")?.is(200)?;
    for metric in [
        "tidegate_requests_total",
        "tidegate_responses_total",
        "tidegate_request_seconds_count",
    ] {
        site.until(metric, |requests| requests == clients as f64)?;
    }
    site.until("tidegate_connections_total", |connections| {
        connections >= clients as f64
    })?;
    equal("fetches", origin.asked("GET "), clients)?;
    let log = site.dir.path().join("access.log");
    let lines = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    eventually("the log's lines", || Ok((lines() >= clients).then_some(())))?;
    equal("lines in the log", lines(), clients)
}

fn memory_under_its_cap() -> Outcome {
    const CAP: f64 = 8.0 * 1024.0 * 1024.0;
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let fields = match asked.target.split('/').nth(1) {
            Some("private") => "Cache-Control: private\r\n",
            _ => "Cache-Control: max-age=600\r\nVary: X-Team\r\n",
        };
        answer(conn, 200, fields, &[b'x'; 96 * 1024])
    })?;
    let site = Site::start(
        origin.address,
        "[cache]\nmax_memory = \"8MiB\"\n[log]\naccess = \"off\"",
    )?;
    site.get("/warm", "")?.is(200)?;
    let idle = site.proxy.memory()?;
    // Readers who ask for much and take nothing, while others go through ten times the memory.
    let mut slow = Vec::new();
    for page in 0..20 {
        let mut client = site.client()?;
        for turn in 0..4 {
            let kind = ["private", "slow"][page % 2];
            client.send("GET", &format!("/{kind}/{page}/{turn}"), "", b"")?;
        }
        slow.push(client);
    }
    let most = Mutex::new(0.0f64);
    crowd(6, |visitor| {
        let mut client = site.client()?;
        for page in 0..160 {
            let team = format!("X-Team: {}\r\n", page % 3);
            let kind = ["page", "private", "page"][page % 3];
            let reply = client.get(&format!("/{kind}/{visitor}/{}", page / 2), &team)?;
            if !reply.whole || !matches!(reply.status, 200 | 503) {
                return Err(format!("{} whole {}", reply.status, reply.whole));
            }
            if page % 20 == visitor {
                let used = site.metric("tidegate_cache_bytes")?;
                let mut most = lock(&most);
                *most = most.max(used);
            }
        }
        Ok(())
    })?;
    let most = *lock(&most);
    if !(CAP / 4.0..=CAP).contains(&most) {
        return Err(format!("{most} bytes charged, with a cap of {CAP}"));
    }
    // The cap, a tenth of it, and what an unoptimised build's allocator and connections take for themselves.
    let grown = site.proxy.memory()?.saturating_sub(idle) as f64;
    if grown > CAP * 1.1 + 32.0 * 1024.0 * 1024.0 {
        return Err(format!(
            "resident memory grew by {grown} bytes, with a cap of {CAP}"
        ));
    }
    drop(slow);
    site.until("tidegate_flights", |flights| flights == 0.0)?;
    // What is stored fills three quarters; the rest was on its way and is given back.
    site.until("tidegate_cache_bytes", |bytes| bytes <= CAP * 0.9)
}

fn descriptors_and_labels_bounded() -> Outcome {
    const BUDGET: f64 = 4.0;
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let status = asked
            .target
            .rsplit('/')
            .next()
            .and_then(|s| s.parse().ok())
            .unwrap_or(200);
        answer(conn, status, &format!("X-{}: 1\r\n", status), b"")
    })?;
    let site = Site::start(origin.address, "[[upstream]]\nmax_in_flight = 4")?;
    site.get("/warm/200", "")?.is(200)?;
    let (series, files) = (site.proxy.series()?, site.metric("process_open_fds")?);
    crowd(20, |visitor| {
        for turn in 0..8 {
            let mut client = site.client()?;
            let status = 200 + visitor * 15 + turn;
            let status = if matches!(status, 204 | 205 | 206 | 304) {
                200
            } else {
                status
            };
            let method =
                ["GET", "POST", "PURGE", &format!("M{visitor}{turn}")][turn % 4].to_owned();
            let fields = format!("User-Agent: {visitor}-{turn}\r\nX-Forwarded-Host: {turn}\r\n");
            client.send(
                &method,
                &format!("/{visitor}/{turn}/{status}"),
                &fields,
                b"",
            )?;
            client.head(&method)?;
            let mut other = site.client()?;
            other.raw(
                format!("GET /{turn} HTTP/1.1\r\nHost: h{visitor}-{turn}.test\r\n\r\n").as_bytes(),
            )?;
            other.head("GET")?;
            let mut bad = site.client()?;
            bad.raw(format!("{turn} {visitor}\r\n\r\n").as_bytes())?;
            bad.head("GET")?;
        }
        Ok(())
    })?;
    equal("series on /metrics", site.proxy.series()?, series)?;
    // What was open for clients is closed; the pool keeps as many as may be in flight.
    site.until("tidegate_connections_open", |open| open == 0.0)?;
    site.until("process_open_fds", |open| open <= files + BUDGET + 2.0)
}
