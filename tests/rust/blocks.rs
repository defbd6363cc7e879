//! Who is kept out and what is done with whose requests: lists, databases and rules, through the binary, over both protocols.
//! Clients come from addresses of the loopback network, which are all this machine's.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use socket2::{Domain, Socket, Type};

use super::http2;
use super::site::{
    Asked, Client, Gate, Inside, Origin, Reply, Site, answer, binary, crowd, equal, eventually,
};
use super::{Outcome, Test};
use crate::harness::mmdb::{Record, database};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("blocks::who_is_denied_gets_no_page", denied),
        ("blocks::a_longer_prefix_lets_in", let_in),
        ("blocks::a_list_is_read_anew_or_stays", read_anew),
        ("blocks::a_hundred_thousand_networks_are_no_burden", many),
        ("blocks::rules_block_hits_and_misses", rules_block),
        ("blocks::tags_and_counts_change_no_answer", tags_and_counts),
        ("blocks::a_bypass_leaves_the_store_alone", bypass),
        ("blocks::a_bypass_boards_no_flight", bypass_in_flight),
        ("blocks::bypasses_keep_to_the_budget", bypass_budget),
        ("blocks::countries_and_operators", whereabouts),
        ("blocks::c58_a_wrong_expression_is_shown", shown),
    ]
}

const H2C: &str = "[listen]\nh2c = true\n";
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// A connection from another address of this machine.
fn from(local: Ipv4Addr, site: &Site) -> Result<TcpStream, String> {
    let told = |e: std::io::Error| format!("from {local}: {e}");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(told)?;
    socket
        .bind(&SocketAddr::from((local, 0)).into())
        .map_err(told)?;
    socket.connect(&site.address.into()).map_err(told)?;
    Ok(socket.into())
}

fn client_from(local: Ipv4Addr, site: &Site) -> Result<Client, String> {
    Client::over(from(local, site)?)
}

/// Pages that are numbered as they are made.
fn numbered() -> Result<Origin, String> {
    let made = std::sync::atomic::AtomicUsize::new(0);
    Origin::start(move |asked: &Asked, conn: &mut Conn| {
        let number = made.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        let page = format!("{} {number}", asked.target);
        answer(conn, 200, "Cache-Control: max-age=60\r\n", page.as_bytes())
    })
}

fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn counted(site: &Site, name: &str, pairs: &[(&str, &str)]) -> Result<f64, String> {
    Ok(site.proxy.metric(name, &labels(pairs))?.unwrap_or(-1.0))
}

/// The lines of the access log that hold all these, once there are any.
fn logged(site: &Site, parts: &[&str]) -> Result<Vec<serde_json::Value>, String> {
    eventually(&format!("{parts:?} in the access log"), || {
        let log = fs::read_to_string(site.dir.path().join("access.log")).unwrap_or_default();
        let held = |line: &&str| parts.iter().all(|part| line.contains(part));
        let lines = log.lines().filter(held).map(serde_json::from_str);
        let lines: Vec<_> = lines.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        Ok((!lines.is_empty()).then_some(lines))
    })
}

fn is_refusal(reply: &Reply, kind: &str) -> Outcome {
    equal("status", reply.status, 403)?;
    equal("kind", reply.field("content-type"), kind)?;
    equal("kept", reply.field("cache-control"), "no-store")?;
    equal("id", reply.field("x-request-id").len(), 16)?;
    equal("whole", reply.whole, true)
}

fn denied() -> Outcome {
    let origin = numbered()?;
    let config = format!(
        "{H2C}[[route]]\nname = 'all'\npath = '/p'\n\
         [[list]]\nname = 'strangers'\nnetworks = ['{STRANGER}']\naction = 'deny'\n"
    );
    let site = Site::start(origin.address, &config)?;
    for told in ["fwd=uri-miss", "hit"] {
        let reply = site.get("/p", "")?.is(200)?;
        equal(told, reply.told(told), true)?;
    }
    // A page in memory, one that is not, and one that nobody serves; on one connection.
    let mut stranger = client_from(STRANGER, &site)?;
    for path in ["/p", "/p/other", "/nobody"] {
        let reply = stranger.get(path, "")?;
        is_refusal(&reply, "application/problem+json")?;
        let problem: serde_json::Value =
            serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?;
        equal("problem", &problem["status"], &serde_json::json!(403))?;
    }
    let reply = stranger.get("/p", "Accept: text/html,*/*;q=0.8\r\n")?;
    is_refusal(&reply, "text/html; charset=utf-8")?;
    equal("a page", reply.text().contains("<h1>Forbidden</h1>"), true)?;
    let reply = stranger.ask("HEAD", "/p", "", b"")?;
    is_refusal(&reply, "application/problem+json")?;
    equal("to HEAD", reply.body.len(), 0)?;
    // A body is not read, and nothing behind it.
    let reply = stranger.ask("POST", "/p", "", b"a body")?;
    equal("closes", reply.field("connection"), "close")?;
    is_refusal(&reply, "application/problem+json")?;
    let over = http2::Client::over(from(STRANGER, &site)?, None)?;
    for path in ["/p", "/p/third"] {
        equal("over HTTP/2", over.get(path)?.status, 403)?;
    }
    equal("asked", origin.asked(""), 1)?;
    equal("others", site.get("/p", "")?.is(200)?.told("hit"), true)?;
    let of = [("list", "strangers")];
    equal(
        "counted",
        counted(&site, "tidegate_list_denied_total", &of)?,
        8.0,
    )?;
    equal(
        "entries",
        counted(&site, "tidegate_list_entries", &of)?,
        1.0,
    )?;
    let line = &logged(&site, &["\"list\":\"strangers\""])?[0];
    equal("logged", &line["client"], &serde_json::json!("127.0.0.9"))?;
    equal("logged", &line["status"], &serde_json::json!(403))
}

fn let_in() -> Outcome {
    let origin = numbered()?;
    let config = "[[list]]\nname = 'all'\nnetworks = ['127.0.0.0/8', '::/0']\naction = 'deny'\n\
        [[list]]\nname = 'office'\nnetworks = ['127.0.0.0/30']\naction = 'allow'\n";
    let site = Site::start(origin.address, config)?;
    site.get("/", "")?.is(200)?;
    let mut stranger = client_from(STRANGER, &site)?;
    is_refusal(&stranger.get("/", "")?, "application/problem+json")
}

fn read_anew() -> Outcome {
    let origin = numbered()?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = folder.path().join("bad.txt");
    let write = |text: &str| fs::write(&file, text).map_err(|e| e.to_string());
    write("# nobody yet\n")?;
    let config = format!(
        "[[list]]\nname = 'bad'\nfile = '{}'\naction = 'deny'\n",
        file.display()
    );
    let site = Site::start(origin.address, &config)?;
    let mut stranger = client_from(STRANGER, &site)?;
    let mut until = |what: &str, status: u16| {
        eventually(what, || {
            let reply = stranger.get("/", "")?;
            Ok((reply.status == status).then_some(()))
        })
    };
    let reloads = |result: &str, number: f64| {
        let pairs = [("list", "bad"), ("result", result)];
        eventually(result, || {
            let is = counted(&site, "tidegate_list_reloads_total", &pairs)?;
            Ok((is == number).then_some(()))
        })
    };
    until("a page", 200)?;
    write("127.0.0.8/30\n")?;
    until("kept out", 403)?;
    // A slip takes nobody off the list.
    write("127.0.0.8/300\n")?;
    reloads("refused", 1.0)?;
    until("kept out still", 403)?;
    fs::remove_file(&file).map_err(|e| e.to_string())?;
    reloads("refused", 2.0)?;
    until("kept out still", 403)?;
    write(r#"{"prefixes": [{"ipv6Prefix": "2001:db8::/32"}, {"ipv4Prefix": "127.0.0.16/28"}]}"#)?;
    until("let in", 200)?;
    reloads("done", 2.0)?;
    let entries = counted(&site, "tidegate_list_entries", &[("list", "bad")])?;
    equal("entries", entries, 2.0)
}

/// 100,000 networks start with the proxy, and are looked through for each request.
fn many() -> Outcome {
    let origin = numbered()?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = folder.path().join("many.txt");
    let net = |n: u32| format!("{}/30\n", Ipv4Addr::from(0x0B00_0000 + n * 8));
    let text: String = (0..100_000)
        .map(net)
        .chain(["127.0.0.9\n".into()])
        .collect();
    fs::write(&file, text).map_err(|e| e.to_string())?;
    let config = format!(
        "[[list]]\nname = 'many'\nfile = '{}'\naction = 'deny'\n",
        file.display()
    );
    let site = Site::start(origin.address, &config)?;
    let entries = counted(&site, "tidegate_list_entries", &[("list", "many")])?;
    equal("entries", entries, 100_001.0)?;
    site.get("/", "")?.is(200)?;
    is_refusal(
        &client_from(STRANGER, &site)?.get("/", "")?,
        "application/problem+json",
    )
}

fn rules_block() -> Outcome {
    let origin = numbered()?;
    let config = format!(
        "{H2C}[[route]]\nname = 'all'\n[[route]]\nname = 'blog'\npath = '/blog'\n\
         [[rule]]\nname = 'agents'\naction = 'block'\n\
         when = \"headers['user-agent'].matches('(?i)badbot')\"\n\
         [[rule]]\nname = 'setup'\nwhen = \"path == '/setup' || query.contains('debug=')\"\naction = 'block'\n\
         [[rule]]\nname = 'never'\nwhen = \"path == '/setup'\"\naction = 'count'\n\
         [[rule]]\nname = 'read-only'\nwhen = \"method in ['POST', 'PUT']\"\naction = 'block'\nroutes = ['blog']\n"
    );
    let site = Site::start(origin.address, &config)?;
    let over = http2::Client::connect(site.address)?;
    for path in ["/", "/", "/setup/x", "/blog"] {
        site.get(path, "")?.is(200)?;
        equal("over HTTP/2", over.get(path)?.status, 200)?;
    }
    let pages = origin.asked("");
    equal("pages", pages, 3)?;
    // Stored or not, however the path is written.
    let bot = "User-Agent: Mozilla/5.0 BADBOT\r\n";
    for (path, fields) in [
        ("/", bot),
        ("/new", bot),
        ("/setup", ""),
        ("/%73et%75p", ""),
        ("/setup?x=1", ""),
        ("/?debug=1", ""),
    ] {
        is_refusal(&site.get(path, fields)?, "application/problem+json")?;
    }
    for path in ["/setup", "/new?debug=1"] {
        equal(path, over.get(path)?.status, 403)?;
    }
    let bot = http2::request("GET", "/", &[("user-agent", "badbot")]);
    equal("a bot over HTTP/2", over.ask(bot, None)?.status, 403)?;
    // A rule of one route, and only of that.
    let mut client = site.client()?;
    equal("blog", client.ask("POST", "/blog/1", "", b"x")?.status, 403)?;
    let mut client = site.client()?;
    client.ask("POST", "/other", "", b"x")?.is(200)?;
    equal("asked", origin.asked(""), pages + 1)?;
    for (rule, action, number) in [
        ("agents", "block", 3.0),
        ("setup", "block", 6.0),
        // The first that blocks ends it.
        ("never", "count", 0.0),
        ("read-only", "block", 1.0),
    ] {
        let pairs = [("rule", rule), ("action", action)];
        equal(
            rule,
            counted(&site, "tidegate_rule_matches_total", &pairs)?,
            number,
        )?;
    }
    let refused = [("route", "blog"), ("result", "refused")];
    equal(
        "of its route",
        counted(&site, "tidegate_requests_total", &refused)?,
        1.0,
    )?;
    let line = &logged(&site, &["\"rule\":\"read-only\""])?[0];
    equal("logged", &line["status"], &serde_json::json!(403))
}

fn tags_and_counts() -> Outcome {
    let origin = numbered()?;
    let config = "[[rule]]\nname = 'trial'\nwhen = \"path.startsWith('/p')\"\naction = 'count'\n\
        [[rule]]\nname = 'curl'\nwhen = \"headers['user-agent'].startsWith('curl/')\"\naction = 'tag'\n\
        [[rule]]\nname = 'odd'\nwhen = \"!('accept' in headers)\"\naction = 'tag'\n";
    let site = Site::start(origin.address, config)?;
    for told in ["fwd=uri-miss", "hit"] {
        let reply = site.get("/p", "User-Agent: curl/8\r\n")?.is(200)?;
        equal(told, reply.told(told), true)?;
    }
    site.get("/p", "Accept: */*\r\n")?.is(200)?;
    equal("asked", origin.asked(""), 1)?;
    for (rule, action, number) in [
        ("trial", "count", 3.0),
        ("curl", "tag", 2.0),
        ("odd", "tag", 2.0),
    ] {
        let pairs = [("rule", rule), ("action", action)];
        equal(
            rule,
            counted(&site, "tidegate_rule_matches_total", &pairs)?,
            number,
        )?;
    }
    let line = &logged(&site, &["\"cache\":\"hit\"", "\"tags\":"])?[0];
    equal("tags", &line["tags"], &serde_json::json!(["curl", "odd"]))?;
    equal("no rule", line.get("rule"), None)
}

const FRESH: &str =
    "[[rule]]\nname = 'fresh'\nwhen = \"'x-fresh' in headers\"\naction = 'bypass'\n";

fn bypass() -> Outcome {
    let origin = numbered()?;
    let site = Site::start(origin.address, &format!("{H2C}{FRESH}"))?;
    let over = http2::Client::connect(site.address)?;
    let fresh = "X-Fresh: 1\r\n";
    // Nothing of it is stored,
    for text in ["/p 1", "/p 2"] {
        let reply = site.get("/p", fresh)?.is(200)?;
        equal("page", reply.text(), text.into())?;
        equal("told", reply.told("fwd=bypass"), true)?;
    }
    let request = http2::request("GET", "/p", &[("x-fresh", "1")]);
    equal(
        "over HTTP/2",
        over.ask(request, None)?.body,
        b"/p 3".to_vec(),
    )?;
    // so others begin anew;
    let reply = site.get("/p", "")?.is(200)?;
    equal(
        "a miss",
        (reply.text(), reply.told("stored")),
        ("/p 4".into(), true),
    )?;
    // and what they have stored is neither served to it nor replaced by it.
    equal(
        "bypass",
        site.get("/p", fresh)?.is(200)?.text(),
        "/p 5".into(),
    )?;
    let range = format!("{fresh}If-None-Match: \"x\"\r\n");
    equal(
        "bypass",
        site.get("/p", &range)?.is(200)?.text(),
        "/p 6".into(),
    )?;
    let head = site.client()?.ask("HEAD", "/p", fresh, b"")?;
    equal("HEAD", (head.status, head.body.len()), (200, 0))?;
    for _ in 0..2 {
        let reply = site.get("/p", "")?.is(200)?;
        equal(
            "a hit",
            (reply.text(), reply.told("hit")),
            ("/p 4".into(), true),
        )?;
    }
    equal("over HTTP/2", over.get("/p")?.body, b"/p 4".to_vec())?;
    let only = format!("{fresh}Cache-Control: only-if-cached\r\n");
    equal("only if cached", site.get("/p", &only)?.status, 504)?;
    equal("asked", (origin.asked("GET"), origin.asked("HEAD")), (6, 1))?;
    equal("stored", site.metric("tidegate_cache_stored_total")?, 1.0)?;
    let line = &logged(&site, &["\"rule\":\"fresh\"", "\"cache\":\"pass\""])?[0];
    equal("logged", &line["attempts"], &serde_json::json!(1))
}

/// While a page is on its way: who bypasses the cache waits for nobody's flight, and nobody joins its own.
fn bypass_in_flight() -> Outcome {
    let gate = Arc::<Gate>::default();
    let held = Arc::clone(&gate);
    let origin = Origin::start(move |asked: &Asked, conn: &mut Conn| {
        let page = match asked.field("x-fresh").is_empty() {
            true => {
                held.wait();
                "shared"
            }
            false => "own",
        };
        answer(conn, 200, "Cache-Control: max-age=60\r\n", page.as_bytes())
    })?;
    let site = Site::start(origin.address, FRESH)?;
    let outcome = thread::scope(|scope| {
        let waits = scope.spawn(|| Ok::<_, String>(site.get("/p", "")?.is(200)?.text()));
        let asked = (|| {
            site.until("tidegate_origin_in_flight", |requests| requests == 1.0)?;
            for _ in 0..2 {
                let reply = site.get("/p", "X-Fresh: 1\r\n")?.is(200)?;
                equal("its own", reply.text(), "own".into())?;
            }
            Ok::<_, String>(())
        })();
        gate.open();
        let waited = waits.join().unwrap_or(Err("a client panicked".into()));
        asked.and_then(|()| equal("the flight's", waited?, "shared".into()))
    });
    outcome?;
    let reply = site.get("/p", "")?.is(200)?;
    equal(
        "stored",
        (reply.text(), reply.told("hit")),
        ("shared".into(), true),
    )?;
    equal("asked", origin.asked("GET /p"), 3)
}

fn bypass_budget() -> Outcome {
    let inside = Arc::<Inside>::default();
    let enters = Arc::clone(&inside);
    let origin = Origin::start(move |_: &Asked, conn: &mut Conn| {
        let _inside = enters.enter();
        thread::yield_now();
        answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page")
    })?;
    let config = format!("[[upstream]]\nmax_in_flight = 2\nqueue_wait = '60s'\n{FRESH}");
    let site = Site::start(origin.address, &config)?;
    crowd(16, |_| {
        let mut client = site.client()?;
        for _ in 0..10 {
            client.get("/p", "X-Fresh: 1\r\n")?.is(200)?;
        }
        Ok(())
    })?;
    equal("asked", origin.asked("GET"), 160)?;
    equal("at most", inside.most() <= 2, true)
}

fn whereabouts() -> Outcome {
    let origin = numbered()?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (country, asn) = (folder.path().join("c.mmdb"), folder.path().join("a.mmdb"));
    let write = |path: &Path, bytes: &[u8]| fs::write(path, bytes).map_err(|e| e.to_string());
    let in_austria = [
        ("127.0.0.0/8", Record::Country("DE")),
        ("127.0.0.8/30", Record::Country("AT")),
        ("127.0.1.0/24", Record::Nothing),
    ];
    write(&country, &database(&in_austria))?;
    write(&asn, &database(&[("127.0.0.16/28", Record::Asn(64_500))]))?;
    let config = format!(
        "[geo]\ncountry = '{}'\nasn = '{}'\n\
         [[rule]]\nname = 'austria'\nwhen = \"country == 'AT'\"\naction = 'block'\n\
         [[rule]]\nname = 'hosters'\nwhen = \"asn in [64499, 64500]\"\naction = 'block'\n",
        country.display(),
        asn.display()
    );
    let site = Site::start(origin.address, &config)?;
    let status = |last: u8| {
        let mut client = client_from(Ipv4Addr::new(127, 0, 0, last), &site)?;
        Ok::<_, String>(client.get("/p", "")?.status)
    };
    // The page is in memory, and that helps nobody.
    equal("Germany", status(1)?, 200)?;
    for (last, expected) in [(9, 403), (12, 200), (16, 403), (31, 403), (32, 200)] {
        equal(&format!("127.0.0.{last}"), status(last)?, expected)?;
    }
    equal("asked", origin.asked(""), 1)?;
    let reloads = |result: &str| {
        let pairs = [("database", "country"), ("result", result)];
        eventually(result, || {
            let is = counted(&site, "tidegate_geo_reloads_total", &pairs)?;
            Ok((is == 1.0).then_some(()))
        })
    };
    // What is no database, or another one, leaves the last one in use.
    write(&country, &database(&[("127.0.0.0/8", Record::Asn(1))]))?;
    reloads("refused")?;
    equal("Austria still", status(9)?, 403)?;
    write(&country, &database(&in_austria[..1]))?;
    reloads("done")?;
    equal("Germany now", status(9)?, 200)
}

/// What is wrong is told at its place in the file, before anything is served.
fn shown() -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = folder.path().join("tidegate.toml");
    let text = "[[upstream]]\nservers = ['http://127.0.0.1:1']\n\n[[rule]]\nname = 'a'\n\
        when = \"method == 'GET' && pth == '/x'\"\naction = 'block'\n";
    fs::write(&file, text).map_err(|e| e.to_string())?;
    for command in ["check", "run"] {
        let mut ran = Command::new(binary());
        let ran = ran.args([command, "-c"]).arg(&file).output();
        let ran = ran.map_err(|e| e.to_string())?;
        equal("exit code", ran.status.code(), Some(2))?;
        let said = String::from_utf8_lossy(&ran.stderr) + String::from_utf8_lossy(&ran.stdout);
        for part in [
            "error: `when`: `pth` is not known here",
            "tidegate.toml:6:28",
            "6 | when = \"method == 'GET' && pth == '/x'\"",
            "|                            ^^^\n",
            "help: what is known is method, scheme, host, path",
        ] {
            equal(&format!("{part} in\n{said}"), said.contains(part), true)?;
        }
    }
    Ok(())
}
