//! `tidegate bench spike` itself: that it measures what is, and that it catches a proxy that mixes, cuts or leaks pages.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tidegate::bench::spike::app::App;
use tidegate::bench::spike::client::Server;
use tidegate::bench::spike::conduct::{Plan, Target, conduct};
use tidegate::bench::spike::report::Run;
use tidegate::bench::spike::scenario::Scenario;
use tidegate::bench::spike::visits::{Site, visits};

use super::site::{binary, equal, lock};
use super::{Outcome, Test};
use crate::harness::clock;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("spike::a_stall_is_measured_as_it_was", stall),
        ("spike::an_honest_proxy_is_believed", honest),
        ("spike::a_proxy_that_mixes_pages_is_caught", mixes),
        ("spike::a_proxy_that_leaks_private_pages_is_caught", leaks),
        ("spike::a_proxy_that_cuts_pages_short_is_caught", cuts),
        ("spike::a_proxy_that_tears_pages_is_caught", tears),
        ("spike::the_command_measures_and_judges", command),
        ("spike::nobody_elses_site_is_attacked", refuses),
        ("spike::a_proxy_that_forgets_to_forget_is_caught", forgets),
    ]
}

fn server(address: SocketAddr) -> Server {
    Server {
        address,
        host: "a.test".into(),
        tls: None,
    }
}

const STALLED: &str = "
    name = 'stalled'
    about = 'A server that stands still for a second.'
    lasts = '4s'
    [[crowd]]
    rate = [{ at = '0s', rate = 500 }]
    spacing = 'even'
    patience = '30s'
    [[pages]]
    name = 'page'
";

/// From when until when; none before the first request.
type Stall = Arc<Mutex<Option<(Instant, Instant)>>>;

/// A server that answers at once, but for a second, two seconds after its first request, in which it answers nobody. Tells when that was.
fn stalling() -> Result<(SocketAddr, Stall), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let stall = Arc::new(Mutex::new(None));
    let known = Arc::clone(&stall);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let known = Arc::clone(&known);
            thread::spawn(move || {
                let mut write = stream.try_clone().ok()?;
                let mut lines = BufReader::new(stream).lines();
                loop {
                    let (from, to) = *lock(&known).get_or_insert_with(|| {
                        let from = clock::now() + Duration::from_secs(2);
                        (from, from + Duration::from_secs(1))
                    });
                    while !lines.next()?.ok()?.is_empty() {}
                    let now = clock::now();
                    if now >= from && now < to {
                        thread::sleep(to - now);
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    write.write_all(answer).ok()?;
                }
                #[expect(unreachable_code, reason = "it says what the closure gives")]
                Some(())
            });
        }
    });
    Ok((address, stall))
}

fn stall() -> Outcome {
    let (address, stalled) = stalling()?;
    let scenario = Scenario::read(STALLED)?;
    let mut site = Site::of(&scenario);
    let visits = visits(&scenario, &mut site, 1)?;
    let plan = Plan {
        scenario: &scenario,
        site: &site,
        visits: Arc::clone(&visits),
        server: server(address),
        app: None,
        seed: 1,
    };
    let began = clock::now();
    let run = conduct(&plan, &mut Nobodys, |_| {})?;
    let (from, to) = lock(&stalled).ok_or("nobody came")?;
    // Who was due in it waited for its end, all others for nothing. The crowd begins within a moment of the call, as the stall's time tells:
    // it comes two seconds after the first.
    let first = from - Duration::from_secs(2);
    if first.saturating_duration_since(began) > Duration::from_secs(1) {
        return Err("the crowd came late: the machine is too busy to tell".into());
    }
    let mut truth: Vec<f64> = visits
        .iter()
        .map(|visit| match first + visit.at {
            due if due >= from && due < to => (to - due).as_secs_f64() * 1000.0,
            _ => 0.0,
        })
        .collect();
    truth.sort_by(f64::total_cmp);
    let at = |quantile: f64| truth[((truth.len() - 1) as f64 * quantile) as usize];
    let told = run.latency;
    // Beside other tests a machine is late by itself: there it is only to be seen at all.
    let strict = std::env::var_os("TIDEGATE_STRICT").is_some();
    let off = if strict { 0.05 } else { 0.5 };
    let close = |what: &str, is: f64, should: f64| match (is - should).abs() <= should * off {
        true => Ok(()),
        false => Err(format!("{what}: {is:.1} ms, should be {should:.1}")),
    };
    close("p90", told.p90, at(0.9))?;
    close("p99", told.p99, at(0.99))?;
    close("p99.9", told.p999, at(0.999))?;
    equal("good", run.answers.good, visits.len() as u64)?;
    // A closed loop waits with the server, and has next to none of it.
    let (address, _) = stalling()?;
    let mut stream = BufReader::new(TcpStream::connect(address).map_err(|e| e.to_string())?);
    let mut closed = Vec::new();
    let until = clock::now() + Duration::from_secs(4);
    while clock::now() < until {
        let asked = clock::now();
        let told = |e: std::io::Error| e.to_string();
        let ask = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
        stream.get_mut().write_all(ask).map_err(told)?;
        let mut line = String::new();
        while stream.read_line(&mut line).map_err(told)? > 2 {
            line.clear();
        }
        stream.read_exact(&mut [0; 2]).map_err(told)?;
        closed.push((clock::now() - asked).as_secs_f64() * 1000.0);
        thread::sleep(Duration::from_millis(2));
    }
    closed.sort_by(f64::total_cmp);
    let p99 = closed[closed.len() * 99 / 100];
    println!(
        "p99 {:.0} ms, in truth {:.0}; a closed loop says {p99:.1}",
        told.p99,
        at(0.99)
    );
    equal("a closed loop hides it", p99 < at(0.99) / 4.0, true)
}

struct Nobodys;

impl Target for Nobodys {
    fn purge(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn restart(&mut self) -> Result<(), String> {
        Ok(())
    }
}

const CROWD: &str = "
    name = 'crowd'
    about = 'Some who read, and some with carts.'
    lasts = '2s'
    [[crowd]]
    rate = [{ at = '0s', rate = 150 }]
    clients = 20
    [[pages]]
    name = 'post'
    count = 5
    size = '2KiB'
    [[pages]]
    name = 'cart'
    kind = 'private'
    size = '1KiB'
    [origin]
    at_once = 64
    takes = '1ms'
    spread = 'fixed'
    [[event]]
    at = '1s'
    what = 'purge'
";

/// A proxy that does to each answer, of a path, what it is made to do.
type Tampers = fn(&mut Memory, &str, Vec<u8>) -> Vec<u8>;

/// What it has kept: by path, or anything.
type Memory = std::collections::HashMap<String, Vec<u8>>;

fn proxy(app: SocketAddr, tampers: Tampers) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let memory = Arc::new(Mutex::new(Memory::new()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let memory = Arc::clone(&memory);
            thread::spawn(move || -> Option<()> {
                let mut write = stream.try_clone().ok()?;
                let mut lines = BufReader::new(stream).lines();
                loop {
                    let mut request = String::new();
                    loop {
                        let line = lines.next()?.ok()?;
                        if line.is_empty() {
                            break;
                        }
                        request += &line;
                        request += "\r\n";
                    }
                    request += "Connection: close\r\n\r\n";
                    let path = request.split(' ').nth(1)?.to_owned();
                    let mut origin = TcpStream::connect(app).ok()?;
                    origin.write_all(request.as_bytes()).ok()?;
                    let mut answer = Vec::new();
                    origin.read_to_end(&mut answer).ok()?;
                    let answer = tampers(&mut lock(&memory), &path, answer);
                    write.write_all(&answer).ok()?;
                }
            });
        }
    });
    Ok(address)
}

fn measured(tampers: Tampers) -> Result<Run, String> {
    let scenario = Scenario::read(CROWD)?;
    let mut site = Site::of(&scenario);
    let visits = visits(&scenario, &mut site, 1)?;
    let app = App::start(&scenario, site.clone(), 1).map_err(|e| e.to_string())?;
    let plan = Plan {
        scenario: &scenario,
        site: &site,
        visits,
        server: server(proxy(app.address, tampers)?),
        app: Some(&app),
        seed: 1,
    };
    conduct(&plan, &mut Nobodys, |_| {})
}

fn honest() -> Outcome {
    let run = measured(|_, _, answer| answer)?;
    equal("wrong", run.wrong.sum(), 0)?;
    equal("good", run.answers.good, run.load.due)?;
    equal(
        "all of them fetched",
        run.origin.map(|origin| origin.fetches),
        Some(run.load.due),
    )
}

fn mixes() -> Outcome {
    // One page for all.
    let run = measured(|memory, path, answer| match path.starts_with("/post") {
        true => memory.entry("any".into()).or_insert(answer).clone(),
        false => answer,
    })?;
    equal("mixed", run.wrong.page > 100, true)?;
    equal(
        "only mixed, and old",
        run.wrong.sum() - run.wrong.page,
        run.wrong.purged,
    )
}

fn leaks() -> Outcome {
    // The cart of who came first.
    let run = measured(|memory, path, answer| match path == "/cart" {
        true => memory.entry(path.into()).or_insert(answer).clone(),
        false => answer,
    })?;
    equal("leaked", run.wrong.user > 20, true)?;
    equal("no other page", run.wrong.page, 0)
}

fn with_body(answer: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.map_or(answer.len(), |end| end + 4);
    let mut body = answer[end..].to_vec();
    change(&mut body);
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let lines = head.trim_end().lines();
    let lines = lines.filter(|line| !line.starts_with("Content-Length"));
    let mut out = lines.collect::<Vec<_>>().join("\r\n").into_bytes();
    out.extend_from_slice(format!("\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    out.extend_from_slice(&body);
    out
}

fn cuts() -> Outcome {
    let run = measured(|_, _, answer| with_body(&answer, |body| body.truncate(body.len() - 1)))?;
    equal("short", run.wrong.short, run.load.due)?;
    equal("good", run.answers.good, 0)
}

fn tears() -> Outcome {
    let run = measured(|_, path, answer| {
        with_body(&answer, |body| {
            if path == "/post/0" {
                let last = body.len() - 1;
                body[last] ^= 1;
            }
        })
    })?;
    equal("torn", run.wrong.torn > 10, true)?;
    equal("nothing else", run.wrong.sum(), run.wrong.torn)
}

fn forgets() -> Outcome {
    // Pages are kept for ever.
    let run = measured(|memory, path, answer| match path.starts_with("/post") {
        true => memory.entry(path.into()).or_insert(answer).clone(),
        false => answer,
    })?;
    equal("older than the purge", run.wrong.purged > 50, true)?;
    equal("nothing else", run.wrong.sum(), run.wrong.purged)
}

fn bench(args: &[&str]) -> Result<(i32, String, String), String> {
    let ran = std::process::Command::new(binary())
        .arg("bench")
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((
        ran.status.code().unwrap_or(-1),
        text(ran.stdout),
        text(ran.stderr),
    ))
}

fn has(text: &str, part: &str) -> Outcome {
    match text.contains(part) {
        true => Ok(()),
        false => Err(format!("no {part:?} in {text}")),
    }
}

fn command() -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (scenario, json, html) = (path("small.toml"), path("report.json"), path("report.html"));
    std::fs::write(&scenario, CROWD).map_err(|e| e.to_string())?;
    let common = [
        "spike",
        "--scenario",
        &scenario,
        "--json",
        &json,
        "--html",
        &html,
    ];
    let with = |more: &[&'static str]| bench(&[&common[..], more].concat());
    // A generator that is late fails a run, and a machine that runs other tests has late ones: what is judged is told by name.
    let (_, out, _) = with(&["--fail-if", "wrong>0", "--fail-if", "refused>0"])?;
    has(&out, "wrong pages")?;
    let told = std::fs::read_to_string(&json).map_err(|e| e.to_string())?;
    let told: serde_json::Value = serde_json::from_str(&told).map_err(|e| e.to_string())?;
    let run = &told["runs"][0];
    equal("good", run["answers"]["good"] == run["load"]["due"], true)?;
    equal(
        "wrong",
        run["wrong"]
            .to_string()
            .contains(|c: char| ('1'..='9').contains(&c)),
        false,
    )?;
    equal(
        "events",
        run["events"][0]["what"] == "everything purged",
        true,
    )?;
    let page = std::fs::read_to_string(&html).map_err(|e| e.to_string())?;
    has(&page, "<svg")?;
    let (code, _, err) = with(&["--fail-if", "goodput<2"])?;
    equal("a threshold that is broken", code, 1)?;
    // Or that its generator was late: then nothing else is judged.
    has(&err, "failed: ")?;
    let (code, _, err) = with(&["--fail-if", "p98>1ms"])?;
    equal("no threshold", code, 2)?;
    has(&err, "p98")?;
    let (code, out, _) = bench(&["compare", &json, &json])?;
    equal("compare", code, 0)?;
    // Side by side, or why not.
    has(&out, "crowd at tidegate")?;
    let (code, out, _) = bench(&["table", &json])?;
    equal("table", code, 0)?;
    has(&out, "crowd")?;
    let (code, out, err) = bench(&[
        "capacity",
        "--scenario",
        &scenario,
        "--lasts",
        "1s",
        "--first",
        "50",
        "--most",
        "100",
        "--fail-if",
        "wrong>0",
    ])?;
    has(&out, "requests a second")
        .or_else(|_| has(&out, "lowest rate"))
        .map_err(|why| format!("{code} {why} {err}"))
}

fn refuses() -> Outcome {
    for (args, why) in [
        (&["--target", "http://192.0.2.1"][..], "--i-own-this"),
        (&["--target", "ftp://127.0.0.1"][..], "http://"),
        (
            &[
                "--target",
                "http://127.0.0.1:1",
                "--scenario",
                "origin-death",
            ][..],
            "started here",
        ),
        (&["--peers", "squid"][..], "none of tidegate"),
        (&["--scenario", "nowhere"][..], "viral-post"),
    ] {
        let (code, _, err) = bench(&[&["spike"][..], args].concat())?;
        equal(why, code, 2)?;
        has(&err, why)?;
    }
    Ok(())
}
