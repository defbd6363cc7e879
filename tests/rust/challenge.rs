//! Proof of work: who is asked for a pass, who gets one, and what it is good for. The page itself is a browser's to solve
//! (`browser::a_challenge_is_solved`).

use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ring::digest::{SHA256, digest};

use super::guests::from;
use super::site::{Asked, Client, Origin, Reply, Site, answer, equal, eventually, lock};
use super::{Outcome, Test, http2};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "challenge::rfc9110_15_5_4_who_solves_it_is_let_in",
            solve_and_enter,
        ),
        ("challenge::a_pass_is_one_clients_at_one_host", elsewhere),
        ("challenge::puzzles_and_passes_end", ends),
        ("challenge::passes_share_the_same_pages", shared),
        ("challenge::over_http2", over_http2),
        ("challenge::on_the_routes_that_are_named", named_routes),
        ("challenge::proxies_with_one_secret_know_each_others", fleet),
    ]
}

const HTML: &str = "Accept: text/html,*/*;q=0.8\r\n";
pub const JUDGE: &str = "/.tidegate/challenge";
const CHALLENGES: &str = "tidegate_challenges_total";

/// A config that challenges everybody, with a puzzle of so many bits.
pub fn challenged(bits: u8, more: &str) -> String {
    format!("[challenge]\nwhen = 'always'\ndifficulty = {bits}\n{more}")
}

/// The solution of the puzzle of eight bits in a page.
pub fn solution(page: &str) -> Result<String, String> {
    let (_, rest) = page
        .split_once("data-puzzle=\"")
        .ok_or_else(|| format!("no puzzle: {page}"))?;
    let (puzzle, _) = rest.split_once('"').unwrap_or_default();
    equal("a puzzle", puzzle.len(), 64)?;
    equal("its difficulty", &puzzle[10..12], "08")?;
    let texts = (0..u32::MAX).map(|nonce| format!("{puzzle}{nonce:08x}"));
    let solves = |text: &String| digest(&SHA256, text.as_bytes()).as_ref()[0] == 0;
    let mut solutions = texts.into_iter().filter(solves);
    solutions.next().ok_or_else(|| "no solution".to_owned())
}

/// The first pair of a Set-Cookie line.
pub fn cookie(line: &str) -> Result<String, String> {
    let (pair, rest) = line.split_once(';').ok_or("no cookie")?;
    for word in ["Path=/", "HttpOnly", "SameSite=Lax", "Max-Age="] {
        if !rest.contains(word) {
            return Err(format!("no {word}: {line}"));
        }
    }
    Ok(pair.to_owned())
}

/// Asks for the page, solves it, and gives the pass back as a Cookie line.
fn earn(client: &mut Client) -> Result<String, String> {
    let page = client.get("/", HTML)?.is(403)?;
    let solved = judge(client, &solution(&page.text())?)?.is(204)?;
    equal("stored", solved.field("cache-control"), "no-store")?;
    Ok(format!(
        "Cookie: {}\r\n",
        cookie(solved.field("set-cookie"))?
    ))
}

fn judge(client: &mut Client, solution: &str) -> Result<Reply, String> {
    client.ask("POST", &format!("{JUDGE}?{solution}"), "", b"")
}

/// What cookies an origin was shown, request by request.
type Shown = Arc<Mutex<Vec<String>>>;

/// An origin that takes them down.
fn origin(fields: &'static str) -> Result<(Origin, Shown), String> {
    let shown = Shown::default();
    let notes = Arc::clone(&shown);
    let origin = Origin::start(move |asked: &Asked, conn: &mut Conn| {
        lock(&notes).push(asked.field("cookie"));
        answer(conn, 200, fields, b"page")
    })?;
    Ok((origin, shown))
}

fn counted(site: &Site, result: &str) -> Result<Option<f64>, String> {
    let labels = [("result".to_owned(), result.to_owned())];
    site.proxy.metric(CHALLENGES, &labels)
}

fn solve_and_enter() -> Outcome {
    let (origin, shown) = origin("Cache-Control: max-age=60\r\n")?;
    let site = Site::start(origin.address, &challenged(8, ""))?;
    let mut client = site.client()?;
    equal("before", client.get(JUDGE, "")?.is(403)?.status, 403)?;
    let pass = earn(&mut client)?;
    client.get(JUDGE, &pass)?.is(204)?;
    equal("so far", origin.asked(""), 0)?;
    for told in ["stored", "hit", "hit"] {
        let page = client.get("/", &pass)?.is(200)?;
        equal(told, page.told(told), true)?;
        equal("a line", page.field("set-cookie"), "")?;
        equal("body", page.text(), "page".to_owned())?;
    }
    // What shows no pages is let in by the same pass, and the app sees its own cookies alone.
    let pair = pass.trim_end().strip_prefix("Cookie: ").unwrap_or_default();
    for fields in [
        format!("Cookie: sid=1; {pair}; theme=dark\r\n"),
        format!("Cookie: sid=1\r\nCookie: {pair}\r\nCookie: theme=dark\r\n"),
    ] {
        client.ask("POST", "/form", &fields, b"x")?.is(200)?;
    }
    let seen = lock(&shown).clone();
    equal(
        "cookies",
        seen,
        ["", "sid=1; theme=dark", "sid=1; theme=dark"]
            .map(str::to_owned)
            .to_vec(),
    )?;
    equal(
        "our paths",
        origin.asked("GET /.") + origin.asked("POST /."),
        0,
    )?;
    for (result, count) in [
        ("shown", 1.0),
        ("solved", 1.0),
        ("refused", 0.0),
        ("wrong", 0.0),
    ] {
        equal(result, counted(&site, result)?, Some(count))?;
    }
    let log = site.dir.path().join("access.log");
    eventually("lines of the log", || {
        let log = fs::read_to_string(&log).map_err(|e| e.to_string())?;
        let lines = log
            .lines()
            .filter(|line| line.contains("\"cache\":\"challenged\""));
        // The page, the solution, and two questions whether there is a pass.
        Ok((lines.count() == 4).then_some(()))
    })
}

fn elsewhere() -> Outcome {
    let (origin, _) = origin("Cache-Control: max-age=60\r\n")?;
    let site = Site::start(
        origin.address,
        &challenged(8, "secret = '0123456789abcdef'"),
    )?;
    let mut client = site.client()?;
    let pass = earn(&mut client)?;
    client.get("/", &pass)?.is(200)?;
    let mut other = from(Ipv4Addr::new(127, 0, 0, 2), site.address)?;
    other.get("/", &pass)?.is(403)?;
    other.get(JUDGE, &pass)?.is(403)?;
    // Nor is a solution worth anything at another address.
    let solved = solution(&client.get("/", HTML)?.is(403)?.text())?;
    judge(&mut other, &solved)?.is(403)?;
    // Twice at its own it is the same pass.
    let lines = [judge(&mut client, &solved)?, judge(&mut client, &solved)?];
    let [one, two] = lines.map(|reply| cookie(reply.field("set-cookie")));
    equal("the same solution", one?, two?)?;
    equal("wrong", counted(&site, "wrong")?, Some(1.0))?;
    // At another host.
    client.raw(format!("GET / HTTP/1.1\r\nHost: b.test\r\n{pass}\r\n").as_bytes())?;
    client.reply("GET")?.is(403)?;
    client.raw(format!("GET / HTTP/1.1\r\nHost: A.TEST:80\r\n{pass}\r\n").as_bytes())?;
    client.reply("GET")?.is(200)?;
    equal("asked", origin.asked(""), 1)
}

fn ends() -> Outcome {
    let (origin, _) = origin("Cache-Control: no-store\r\n")?;
    let more = "pass = '10m'\nsolve_within = '60s'";
    let site = Site::start(origin.address, &challenged(8, more))?;
    let mut client = site.client()?;
    let pass = earn(&mut client)?;
    let late = solution(&client.get("/", HTML)?.is(403)?.text())?;
    site.proxy.advance(Duration::from_secs(65))?;
    let told = judge(&mut client, &late)?.is(403)?;
    equal("a pass", told.field("set-cookie"), "")?;
    equal("late", told.text().contains("too late"), true)?;
    equal("expired", counted(&site, "expired")?, Some(1.0))?;
    client.get("/", &pass)?.is(200)?;
    site.proxy.advance(Duration::from_secs(600))?;
    let mut client = site.client()?;
    client.get("/", &pass)?.is(403)?;
    let again = earn(&mut client)?;
    client.get("/", &again)?.is(200)?;
    equal("asked", origin.asked(""), 2)
}

/// A pass makes nobody somebody: one page for all who have one, whatever lifetime it has and whatever it varies on.
fn shared() -> Outcome {
    let origin = Origin::start(|asked: &Asked, conn: &mut Conn| match &*asked.target {
        "/silent" => answer(conn, 200, "", b"all"),
        _ => answer(
            conn,
            200,
            "Cache-Control: max-age=60\r\nVary: Cookie\r\n",
            b"all",
        ),
    })?;
    let config = challenged(8, "[[route]]\ndefault_ttl = '60s'");
    let site = Site::start(origin.address, &config)?;
    for last in 1..=3 {
        let mut client = from(Ipv4Addr::new(127, 0, 0, last), site.address)?;
        let pass = earn(&mut client)?;
        for path in ["/silent", "/varies"] {
            let told = if last == 1 { "stored" } else { "hit" };
            let reply = client.get(path, &pass)?.is(200)?;
            equal(path, reply.told(told), true)?;
        }
    }
    equal("asked", origin.asked(""), 2)
}

fn over_http2() -> Outcome {
    let (origin, shown) = origin("Cache-Control: max-age=60\r\n")?;
    let config = challenged(8, "[listen]\nh2c = true");
    let site = Site::start(origin.address, &config)?;
    let client = http2::Client::connect(site.address)?;
    let ask = |method, path: &str, fields: &[(&str, &str)]| {
        client.ask(http2::request(method, path, fields), None)
    };
    equal("no page", ask("GET", "/", &[])?.status, 403)?;
    let page = ask("GET", "/", &[("accept", "text/html")])?;
    equal("the page", page.status, 403)?;
    let head = ask("HEAD", "/", &[("accept", "text/html")])?;
    equal("its head", (head.status, head.body.len()), (403, 0))?;
    let text = String::from_utf8_lossy(&page.body).into_owned();
    equal(
        "its length",
        head.field("content-length"),
        &text.len().to_string(),
    )?;
    let solved = ask("POST", &format!("{JUDGE}?{}", solution(&text)?), &[])?;
    equal("solved", solved.status, 204)?;
    let pass = cookie(solved.field("set-cookie"))?;
    // In crumbs (RFC 9113 §8.2.3).
    let crumbs = [("cookie", "a=b"), ("cookie", &*pass)];
    for _ in 0..2 {
        equal("let in", ask("GET", "/", &crumbs[1..])?.status, 200)?;
    }
    let kept = client.ask(http2::request("POST", "/form", &crumbs), Some(b"x"))?;
    equal("a form", kept.status, 200)?;
    let refused = client.ask(http2::request("POST", "/form", &[]), Some(b"x"))?;
    equal("a form without", refused.status, 403)?;
    let seen = lock(&shown).clone();
    equal("cookies", seen, vec![String::new(), "a=b".to_owned()])
}

fn named_routes() -> Outcome {
    let (origin, _) = origin("Cache-Control: max-age=60\r\n")?;
    let config = "[[route]]\nname = 'site'\n[[route]]\nname = 'shop'\npath = '/shop'\n\
                  [challenge]\nwhen = 'always'\ndifficulty = 8\nroutes = ['shop']";
    let site = Site::start(origin.address, config)?;
    site.get("/", HTML)?.is(200)?;
    site.get("/shop/1", HTML)?.is(403)?;
    let route = [
        ("route".to_owned(), "shop".to_owned()),
        ("result".to_owned(), "challenged".to_owned()),
    ];
    let told = site.proxy.metric("tidegate_requests_total", &route)?;
    equal("told of the route", told, Some(1.0))?;
    equal(
        "asked",
        (origin.asked("GET /"), origin.asked("GET /shop")),
        (1, 0),
    )
}

fn fleet() -> Outcome {
    let (origin, _) = origin("Cache-Control: max-age=60\r\n")?;
    let start = |more: &str| Site::start(origin.address, &challenged(8, more));
    let secret = "secret = '0123456789abcdef'";
    let (one, two) = (start(secret)?, start(secret)?);
    let pass = earn(&mut one.client()?)?;
    two.get("/", &pass)?.is(200)?;
    let solved = solution(&one.get("/", HTML)?.is(403)?.text())?;
    judge(&mut two.client()?, &solved)?.is(204)?;
    for other in [start("secret = 'fedcba9876543210'")?, start("")?] {
        other.get("/", &pass)?.is(403)?;
        judge(&mut other.client()?, &solved)?.is(403)?;
    }
    Ok(())
}
