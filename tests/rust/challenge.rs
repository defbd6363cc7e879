//! Proof of work: who is asked for a pass, who gets one, and what it is good for. The page itself is a browser's to solve
//! (`browser::a_challenge_is_solved`).

use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ring::digest::{SHA256, digest};

use super::guests::from;
use super::site::{Asked, Client, Origin, Reply, Site, answer, equal, eventually, lock};
use super::{Outcome, Test, http2, reloads};
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
        (
            "challenge::c43_c44_c45_a_pass_is_its_clients_whoever_brings_it",
            believed,
        ),
        ("challenge::where_a_rule_asks_for_one", by_rule),
        (
            "challenge::c50_beyond_a_limit_one_goes_on_with_a_pass",
            by_limit,
        ),
        (
            "challenge::c38_beyond_a_limit_of_misses_too",
            by_limit_of_misses,
        ),
        ("challenge::c46_a_crowd_within_its_limit_sees_none", crowd),
        ("challenge::who_is_on_a_list_needs_none", exempt),
        ("challenge::c48_our_own_paths_count", our_paths),
        ("challenge::another_config_ends_no_pass", another_config),
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
    earn_at(client, "/", "")
}

/// The same at a path, with fields of the client's.
fn earn_at(client: &mut Client, path: &str, fields: &str) -> Result<String, String> {
    let page = client.get(path, &format!("{HTML}{fields}"))?.is(403)?;
    let solution = solution(&page.text())?;
    let solved = client
        .ask("POST", &format!("{JUDGE}?{solution}"), fields, b"")?
        .is(204)?;
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

/// What a limit did so many times.
fn limited(site: &Site, limit: &str, action: &str) -> Result<Option<f64>, String> {
    let labels = [("limit", limit), ("action", action)];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    site.proxy.metric("tidegate_limited_total", &labels)
}

/// Lines of the access log that hold all of these, once there are any.
fn logged(site: &Site, parts: &[&str]) -> Result<usize, String> {
    eventually(&format!("{parts:?} in the access log"), || {
        let log = fs::read_to_string(site.dir.path().join("access.log")).unwrap_or_default();
        let held = |line: &&str| parts.iter().all(|part| line.contains(part));
        let lines = log.lines().filter(held).count();
        Ok((lines > 0).then_some(lines))
    })
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

/// A pass is good for whom a trusted proxy names, and for nobody else of the many that come through it.
fn believed() -> Outcome {
    let (origin, _) = origin("Cache-Control: max-age=60\r\n")?;
    let more = "[listen]\ntrusted_proxies = ['127.0.0.9']";
    let site = Site::start(origin.address, &challenged(8, more))?;
    let mut proxy = from(Ipv4Addr::new(127, 0, 0, 9), site.address)?;
    let by = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    for (earner, same, others) in [
        (
            "192.0.2.1",
            [
                "::ffff:192.0.2.1",
                "192.0.2.1:4711",
                "198.51.100.7, 192.0.2.1",
            ],
            ["192.0.2.2", "192.0.2.1, 192.0.2.2", ""],
        ),
        (
            "2001:db8:1:2::1",
            [
                "2001:db8:1:2:ffff:ffff:ffff:ffff",
                "[2001:db8:1:2::9]:4711",
                "192.0.2.1, 2001:db8:1:2::1",
            ],
            [
                "2001:db8:1:3::1",
                "2001:db8:1:2::1, 192.0.2.1",
                "2001:db8::1",
            ],
        ),
    ] {
        let pass = earn_at(&mut proxy, "/", &by(earner))?;
        for (clients, status) in [(same, 200), (others, 403)] {
            for client in clients {
                let reply = proxy.get("/", &format!("{}{pass}", by(client)))?;
                equal(client, reply.status, status)?;
            }
        }
        // What a stranger says of himself makes him nobody else, neither with the pass nor with a puzzle of another's.
        let mut stranger = site.client()?;
        stranger
            .get("/", &format!("{}{pass}", by(earner)))?
            .is(403)?;
        let page = proxy.get("/", &format!("{HTML}{}", by(earner)))?.is(403)?;
        let target = format!("{JUDGE}?{}", solution(&page.text())?);
        stranger.ask("POST", &target, &by(earner), b"")?.is(403)?;
        proxy.ask("POST", &target, &by(earner), b"")?.is(204)?;
    }
    Ok(())
}

fn by_rule() -> Outcome {
    let (origin, _) = origin("Cache-Control: max-age=60\r\n")?;
    let config = "[listen]\nh2c = true\n[challenge]\nwhen = 'asked'\ndifficulty = 8\n\
        [[rule]]\nname = 'shop'\nwhen = \"path.startsWith('/shop')\"\naction = 'challenge'\n\
        [[rule]]\nname = 'past'\nwhen = \"path == '/shop/past'\"\naction = 'bypass'\n\
        [[rule]]\nname = 'wall'\nwhen = \"path == '/shop/wall'\"\naction = 'block'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    client.get("/", HTML)?.is(200)?;
    let told = client.get("/shop", "")?.is(403)?;
    equal(
        "told",
        told.text().contains("open a page of this site"),
        true,
    )?;
    let over = http2::Client::connect(site.address)?;
    equal("over HTTP/2", over.get("/shop")?.status, 403)?;
    let pass = earn_at(&mut client, "/shop", "")?;
    for told in ["stored", "hit"] {
        let page = client.get("/shop", &pass)?.is(200)?;
        equal(told, page.told(told), true)?;
    }
    // A page in memory is none for who has no pass.
    client.get("/shop", HTML)?.is(403)?;
    let pair = pass.trim_end().strip_prefix("Cookie: ").unwrap_or_default();
    let crumbs = [("cookie", pair)];
    let passed = over.ask(http2::request("GET", "/shop", &crumbs), None)?;
    equal("over HTTP/2, with it", passed.status, 200)?;
    // What the other rules say holds with a pass, too.
    client.get("/shop/past", &pass)?.is(200)?;
    client.get("/shop/past", HTML)?.is(403)?;
    let blocked = client.get("/shop/wall", &pass)?.is(403)?;
    equal("blocked", blocked.text().contains("does not answer"), true)?;
    let blocked = client.get("/shop/wall", HTML)?.is(403)?;
    equal("blocked", blocked.text().contains("data-puzzle"), false)?;
    equal("asked", origin.asked("GET /shop"), 2)?;
    let labels = [("rule", "shop"), ("action", "challenge")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let matched = site.proxy.metric("tidegate_rule_matches_total", &labels)?;
    equal("matched", matched, Some(11.0))?;
    logged(&site, &["\"rule\":\"shop\"", "\"cache\":\"challenged\""])?;
    logged(&site, &["\"rule\":\"wall\"", "\"cache\":\"refused\""])?;
    // Whose pass it is nobody learns from there.
    let value = pair.split_once('=').map_or(pair, |(_, value)| value);
    let log = fs::read_to_string(site.dir.path().join("access.log")).map_err(|e| e.to_string())?;
    equal("logged", log.contains(value), false)
}

/// It lets its bearer through the limit that asks for it, and counts like any other for those that don't.
fn by_limit() -> Outcome {
    let (origin, _) = origin("Cache-Control: max-age=60\r\n")?;
    let config = "[listen]\nh2c = true\n[challenge]\nwhen = 'asked'\ndifficulty = 8\n\
        [[limit]]\nname = 'asks'\nrate = '3/h'\naction = 'challenge'\n\
        [[limit]]\nname = 'all'\nrate = '12/h'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    for _ in 0..3 {
        client.get("/", HTML)?.is(200)?;
    }
    // Beyond it a browser gets the puzzle, and others the wait; neither takes anything from the other limit, or asks an origin.
    let page = client.get("/new", HTML)?.is(403)?;
    equal("stored", page.field("cache-control"), "no-store")?;
    for _ in 0..20 {
        let told = client.get("/new", "")?.is(429)?;
        equal("stored", told.field("cache-control"), "no-store")?;
        let wait: u64 = told.field("retry-after").parse().unwrap_or_default();
        equal(
            told.field("retry-after"),
            (1_190..1_500).contains(&wait),
            true,
        )?;
        equal(
            "by",
            told.field("ratelimit").starts_with("\"asks\";r=0"),
            true,
        )?;
    }
    let over = http2::Client::connect(site.address)?;
    equal("over HTTP/2", over.get("/new")?.status, 429)?;
    let request = http2::request("GET", "/new", &[("accept", "text/html")]);
    equal("a page over HTTP/2", over.ask(request, None)?.status, 403)?;
    equal("asked", origin.asked(""), 1)?;
    equal("in the air", site.metric("tidegate_flights")?, 0.0)?;
    // Nine of the twelve are left, of which the solution is one.
    let solution = solution(&page.text())?;
    let solved = judge(&mut client, &solution)?.is(204)?;
    let pair = cookie(solved.field("set-cookie"))?;
    let pass = format!("Cookie: {pair}\r\n");
    for _ in 0..4 {
        client.get("/new", &pass)?.is(200)?;
        let request = http2::request("GET", "/new", &[("cookie", &*pair)]);
        equal("over HTTP/2", over.ask(request, None)?.status, 200)?;
    }
    // Now nobody asks for a pass any more, since none would help.
    for fields in [
        format!("{HTML}{pass}"),
        pass,
        HTML.to_owned(),
        String::new(),
    ] {
        let told = client.get("/new", &fields)?.is(429)?;
        equal(
            "by",
            told.field("ratelimit").starts_with("\"all\";r=0"),
            true,
        )?;
    }
    judge(&mut client, &solution)?.is(429)?;
    for (limit, action, count) in [
        ("asks", "challenged", 23.0),
        ("asks", "passed", 9.0),
        ("asks", "refused", 0.0),
        ("all", "refused", 5.0),
        ("all", "passed", 0.0),
    ] {
        let is = limited(&site, limit, action)?;
        equal(&format!("{limit} {action}"), is, Some(count))?;
    }
    equal("shown", counted(&site, "shown")?, Some(2.0))?;
    let asks = "\"limit\":\"asks\"";
    logged(&site, &[asks, "\"limit_action\":\"challenged\"", "403"])?;
    logged(&site, &[asks, "\"limit_action\":\"challenged\"", "429"])?;
    logged(&site, &[asks, "\"limit_action\":\"passed\"", "200"]).map(drop)
}

fn by_limit_of_misses() -> Outcome {
    let origin = Origin::start(|asked: &Asked, conn: &mut Conn| {
        let own = asked.target.starts_with("/own");
        let fields = if own {
            "Cache-Control: no-store\r\n"
        } else {
            "Cache-Control: max-age=60\r\n"
        };
        answer(conn, 200, fields, b"page")
    })?;
    let config = "[challenge]\nwhen = 'asked'\ndifficulty = 8\n\
        [[limit]]\nname = 'misses'\nrate = '2/h'\ncounts = 'origin'\naction = 'challenge'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    for path in ["/a", "/b", "/a", "/b", "/a"] {
        client.get(path, HTML)?.is(200)?;
    }
    // One that can be stored, one that can't, and what goes past the cache.
    for path in ["/c", "/own"] {
        let page = client.get(path, HTML)?.is(403)?;
        equal(path, page.text().contains("data-puzzle"), true)?;
        client.get(path, "")?.is(429)?;
    }
    client.ask("POST", "/c", HTML, b"")?.is(429)?;
    client.get("/a", HTML)?.is(200)?;
    equal("asked", origin.asked(""), 2)?;
    equal("in the air", site.metric("tidegate_flights")?, 0.0)?;
    equal("waiting", site.metric("tidegate_waiters")?, 0.0)?;
    let pass = earn_at(&mut client, "/c", "")?;
    for told in ["stored", "hit"] {
        let page = client.get("/c", &pass)?.is(200)?;
        equal(told, page.told(told), true)?;
    }
    client.get("/own", &pass)?.is(200)?;
    client.ask("POST", "/c", &pass, b"x")?.is(200)?;
    equal("asked", origin.asked(""), 5)?;
    equal(
        "challenged",
        limited(&site, "misses", "challenged")?,
        Some(6.0),
    )?;
    equal("passed", limited(&site, "misses", "passed")?, Some(3.0))
}

fn crowd() -> Outcome {
    let (origin, _) = origin("Cache-Control: max-age=60\r\n")?;
    let config = "[challenge]\nwhen = 'asked'\ndifficulty = 8\n\
        [[limit]]\nname = 'asks'\nrate = '2/h'\naction = 'challenge'\n";
    let site = Site::start(origin.address, config)?;
    for n in 0..300_u16 {
        let address = Ipv4Addr::new(127, 7, (n >> 8) as u8, n as u8);
        let mut client = from(address, site.address)?;
        client.get("/", HTML)?.is(200)?;
        if n % 100 == 0 {
            client.get("/", HTML)?.is(200)?;
            client.get("/", HTML)?.is(403)?;
        }
    }
    equal("shown", counted(&site, "shown")?, Some(3.0))?;
    equal(
        "challenged",
        limited(&site, "asks", "challenged")?,
        Some(3.0),
    )
}

/// Crawlers are known by their owners' ranges, not by what they say.
fn exempt() -> Outcome {
    let (origin, _) = origin("Cache-Control: max-age=60\r\n")?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let ranges = folder.path().join("crawler.json");
    let published = r#"{"creationTime": "2026", "prefixes": [{"ipv4Prefix": "127.0.0.8/30"}, {"ipv6Prefix": "2001:db8::/64"}]}"#;
    fs::write(&ranges, published).map_err(|e| e.to_string())?;
    let config = format!(
        "[[list]]\nname = 'office'\nnetworks = ['127.0.0.128/32']\n\
         [[list]]\nname = 'crawler'\nfile = '{}'\n\
         [[list]]\nname = 'denied'\nnetworks = ['127.0.0.10']\naction = 'deny'\n\
         [[rule]]\nname = 'shop'\nwhen = \"path == '/shop'\"\naction = 'challenge'\n\
         [[limit]]\nname = 'asks'\nrate = '2/h'\nmethods = ['HEAD']\naction = 'challenge'\n{}",
        ranges.display(),
        challenged(8, "exempt = ['crawler']")
    );
    let site = Site::start(origin.address, &config)?;
    let says = "User-Agent: Crawler/2.1 (+http://crawler.test/bot)\r\n";
    let mut crawler = from(Ipv4Addr::new(127, 0, 0, 9), site.address)?;
    for path in ["/", "/shop", "/robots.txt"] {
        crawler.get(path, says)?.is(200)?;
    }
    for _ in 0..4 {
        crawler.ask("HEAD", "/", says, b"")?.is(200)?;
    }
    equal("passed", limited(&site, "asks", "passed")?, Some(2.0))?;
    // Not those who only say so, nor those of a list that is not named; and who is denied is not asked for anything.
    for stranger in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 128)] {
        from(stranger, site.address)?.get("/", says)?.is(403)?;
    }
    let mut denied = from(Ipv4Addr::new(127, 0, 0, 10), site.address)?;
    for path in ["/", "/shop", JUDGE] {
        let told = denied.get(path, HTML)?.is(403)?.text();
        equal(path, told.contains("does not answer"), true)?;
        equal(path, told.contains("data-puzzle"), false)?;
    }
    denied
        .ask("POST", &format!("{JUDGE}?x"), "", b"")?
        .is(403)?;
    equal("judged", counted(&site, "wrong")?, Some(0.0))?;
    // The ranges are read anew when they change.
    fs::write(&ranges, published.replace("127.0.0.8/30", "127.0.0.12/30"))
        .map_err(|e| e.to_string())?;
    eventually("the new ranges", || {
        let known = from(Ipv4Addr::new(127, 0, 0, 13), site.address)?.get("/", says)?;
        Ok((known.status == 200).then_some(()))
    })?;
    crawler.get("/", says)?.is(403).map(drop)
}

fn our_paths() -> Outcome {
    let (origin, _) = origin("")?;
    let config = "[listen]\nh2c = true\n[challenge]\nwhen = 'asked'\ndifficulty = 8\n\
        [[rule]]\nname = 'none'\nwhen = 'true'\naction = 'block'\n\
        [[limit]]\nname = 'all'\nrate = '5/h'\n\
        [[limit]]\nname = 'asks'\nrate = '1/h'\naction = 'challenge'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    let over = http2::Client::connect(site.address)?;
    // Rules hold nowhere here, and a limit that asks for a pass keeps nobody from earning one; all others count.
    client.get(JUDGE, "")?.is(403)?;
    client.get("/.tidegate/other", "")?.is(404)?;
    equal("over HTTP/2", over.get("/.tidegate/other")?.status, 404)?;
    judge(&mut client, "made-up")?.is(403)?;
    equal("over HTTP/2", over.get(JUDGE)?.status, 403)?;
    client.get(JUDGE, "")?.is(429)?;
    client.get("/.tidegate/other", "")?.is(429)?;
    equal("over HTTP/2", over.get(JUDGE)?.status, 429)?;
    judge(&mut client, "made-up")?.is(429)?;
    equal("judged", counted(&site, "wrong")?, Some(1.0))?;
    equal(
        "challenged",
        limited(&site, "asks", "challenged")?,
        Some(0.0),
    )?;
    equal("asked", origin.asked(""), 0)?;
    // Who has to wait for his turn gets the same answer, later.
    let config = "[[limit]]\nrate = '20/s'\nburst = 1\naction = 'delay'\n";
    let site = Site::start(origin.address, config)?;
    let mut client = site.client()?;
    for _ in 0..3 {
        client.get(JUDGE, "")?.is(403)?;
        client.get("/.tidegate/other", "")?.is(404)?;
    }
    Ok(())
}

/// What signs passes stays as long as the process, or as the config says; what asks for them is the config's in force.
fn another_config() -> Outcome {
    let (origin, _) = origin("Cache-Control: max-age=60\r\n")?;
    let site = Site::start(origin.address, &challenged(8, ""))?;
    let mut client = site.client()?;
    let pass = earn(&mut client)?;
    let asked = "[challenge]\nwhen = 'asked'\n\
        [[rule]]\nname = 'shop'\nwhen = \"path == '/shop'\"\naction = 'challenge'\n";
    reloads::change(&site, &reloads::with(&site, asked)?)?;
    client.get("/", HTML)?.is(200)?;
    client.get("/shop", HTML)?.is(403)?;
    client.get("/shop", &pass)?.is(200)?;
    let another = "[challenge]\nsecret = '0123456789abcdef'\n";
    reloads::change(&site, &reloads::with(&site, another)?)?;
    client.get("/shop", &pass)?.is(403)?;
    let pass = earn_at(&mut client, "/shop", "")?;
    client.get("/shop", &pass)?.is(200)?;
    reloads::change(&site, &reloads::with(&site, "[challenge]\nwhen = 'off'\n")?)?;
    client.get("/shop", HTML)?.is(403)?;
    equal("refused", site.metric("tidegate_config_refused")?, 1.0)
}
