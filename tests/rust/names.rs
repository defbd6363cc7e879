//! Servers that are configured by name, and a DNS server of the test's own: what it says is what there is, without a reload;
//! what it fails to say changes nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, thread};

use super::site::{Client, Gate, Origin, Reply, Site, answer, binary, equal, eventually};
use super::{Outcome, Test};
use crate::harness::dns::{Dns, Says};
use crate::harness::proxy::free_port;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "names::c78_a_second_server_is_found_without_a_reload",
            found,
        ),
        (
            "names::c78_one_that_goes_gets_nothing_new_and_finishes",
            goes,
        ),
        (
            "names::c78_dns_that_fails_keeps_the_last_good_servers",
            fails,
        ),
        ("names::c78_a_name_unknown_at_start_appears", appears),
        ("names::c78_a_hundred_addresses_and_too_many", hundred),
        (
            "names::c78_stale_pages_go_out_without_an_address",
            stale_without,
        ),
        ("names::c78_new_servers_are_probed_first", probed),
        ("names::c78_all_at_once_are_others", replaced),
        ("names::the_hosts_file_comes_first", hosts),
        ("names::a_ttl_of_zero_or_a_day_is_bounded", bounded),
        ("names::check_warns_and_accepts", checked),
    ]
}

const SERVERS: &str = "tidegate_origin_servers";
const RESOLVES: &str = "tidegate_origin_resolves_total";
const NAME: &str = "app.test";

fn loopback(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

fn addresses(last: impl IntoIterator<Item = u8>, ttl: u32) -> Says {
    Says::Addresses(last.into_iter().map(loopback).collect(), ttl)
}

/// A server at an address of its own. A page tells its name, and which of its connections it came on; those below `/slow`
/// wait.
struct Server {
    origin: Origin,
    gate: Arc<Gate>,
    slow: Arc<AtomicUsize>,
}

impl Server {
    fn start(last: u8, port: u16) -> Result<Server, String> {
        let (gate, slow) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
        let (waits, count) = (Arc::clone(&gate), Arc::clone(&slow));
        let origin = Origin::start_at(
            SocketAddr::new(loopback(last), port),
            move |asked, conn: &mut Conn| {
                if asked.target.starts_with("/slow") {
                    count.fetch_add(1, Ordering::SeqCst);
                    waits.wait();
                }
                let connection = thread::current().id();
                let page = format!("{last} {connection:?}");
                answer(conn, 200, "Cache-Control: no-store\r\n", page.as_bytes())
            },
        )?;
        Ok(Server { origin, gate, slow })
    }

    fn slow(&self) -> usize {
        self.slow.load(Ordering::SeqCst)
    }
}

/// A proxy before `app.test`, as `dns` says. A TTL of zero is one of 100 ms here.
fn site(dns: &Dns, port: u16, more: &str) -> Result<Site, String> {
    let config = format!(
        "[[upstream]]\nservers = ['http://{NAME}:{port}']\nresolver = ['{}']\nresolve_min = '100ms'\n\
         max_in_flight = 64\nbalance = 'round_robin'\nslow_start = '0'\n{more}",
        dns.address
    );
    Site::start(SocketAddr::new(loopback(1), port), &config)
}

/// A port that is free on every address of the loopback.
fn port() -> u16 {
    free_port().port()
}

/// Which server answered.
fn who(reply: &Reply) -> String {
    let page = reply.text();
    page.split(' ').next().unwrap_or_default().to_owned()
}

fn visit(site: &Site) -> Result<String, String> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let page = format!("/{}", NEXT.fetch_add(1, Ordering::SeqCst));
    Ok(who(&site.get(&page, "")?.is(200)?))
}

/// A metric of one server; none where it has left.
fn of_server(site: &Site, name: &str, server: &str) -> Result<Option<f64>, String> {
    let labels = [("server".to_owned(), server.to_owned())];
    site.proxy.metric(name, &labels)
}

fn resolves(site: &Site, result: &str) -> Result<f64, String> {
    let labels = [("result".to_owned(), result.to_owned())];
    Ok(site.proxy.metric(RESOLVES, &labels)?.unwrap_or(0.0))
}

fn until_resolved(site: &Site, result: &str, more: f64) -> Outcome {
    let before = resolves(site, result)?;
    eventually(result, || {
        Ok((resolves(site, result)? >= before + more).then_some(()))
    })
}

fn readyz(site: &Site) -> Result<Reply, String> {
    Client::connect(site.proxy.admin())?.get("/readyz", "Connection: close\r\n")
}

/// How many lines of the log hold this.
fn logged(site: &Site, text: &str) -> Result<usize, String> {
    let log = fs::read_to_string(site.dir.path().join("stdout")).map_err(|e| e.to_string())?;
    Ok(log.lines().filter(|line| line.contains(text)).count())
}

fn found() -> Outcome {
    let (dns, port) = (Dns::start()?, port());
    let _one = Server::start(1, port)?;
    let two = Server::start(2, port)?;
    dns.say(NAME, addresses([1], 0));
    let site = site(&dns, port, "")?;
    for n in 0..5 {
        let reply = site.get(&format!("/before-{n}"), "")?.is(200)?;
        equal("the only server", who(&reply), "1".to_owned())?;
    }
    dns.say(NAME, addresses([2, 1], 0));
    site.until(SERVERS, |servers| servers == 2.0)?;
    let mut visits: Vec<Reply> = Vec::new();
    for n in 0..10 {
        visits.push(site.get(&format!("/after-{n}"), "")?.is(200)?);
    }
    let at_two = visits.iter().filter(|reply| who(reply) == "2").count();
    equal("in turns", at_two, 5)?;
    // Who stays keeps its connections, whoever comes or goes. Now and then one is asked for before it is in the pool, and
    // another made, so not at each change.
    let at_one = || {
        loop {
            let reply = site.get("/who", "")?.is(200)?;
            if who(&reply) == "1" {
                return Ok::<_, String>(reply.text());
            }
        }
    };
    let mut kept = 0;
    for also in [None, Some(2), None, Some(2)] {
        let before = at_one()?;
        dns.say(NAME, addresses(also.into_iter().chain([1]), 0));
        let count = 1.0 + f64::from(u8::from(also.is_some()));
        site.until(SERVERS, |servers| servers == count)?;
        kept += usize::from(at_one()? == before);
    }
    equal("connections are kept", kept > 0, true)?;
    let label = format!("{NAME}/127.0.0.2:{port}");
    let in_flight = of_server(&site, "tidegate_origin_server_in_flight", &label)?;
    equal("its metric", in_flight, Some(0.0))?;
    equal("budget", site.metric("tidegate_origin_budget")?, 128.0)?;
    dns.say(NAME, addresses([2], 0));
    site.until(SERVERS, |servers| servers == 1.0)?;
    for _ in 0..5 {
        equal("the only server", visit(&site)?, "2".into())?;
    }
    equal("asked", two.origin.asked("GET /") >= 10, true)
}

fn goes() -> Outcome {
    let (dns, port) = (Dns::start()?, port());
    let (one, two) = (Server::start(1, port)?, Server::start(2, port)?);
    dns.say(NAME, addresses([1, 2], 0));
    let site = site(&dns, port, "")?;
    let mut slow = Vec::new();
    for n in 0..2 {
        let mut client = site.client()?;
        client.send("GET", &format!("/slow-{n}"), "", b"")?;
        eventually("it is on its way", || {
            Ok((one.slow() + two.slow() == n + 1).then_some(()))
        })?;
        slow.push(client);
    }
    equal("one each", (one.slow(), two.slow()), (1, 1))?;
    dns.say(NAME, addresses([1], 0));
    site.until(SERVERS, |servers| servers == 1.0)?;
    let before = two.origin.asked("GET /");
    for _ in 0..20 {
        equal("who is left", visit(&site)?, "1".into())?;
    }
    equal("asked", two.origin.asked("GET /"), before)?;
    let label = format!("{NAME}/127.0.0.2:{port}");
    let gone = of_server(&site, "tidegate_origin_server_in_flight", &label)?;
    equal("its metric", gone, None)?;
    equal("counted", site.metric("tidegate_origin_in_flight")?, 2.0)?;
    one.gate.open();
    two.gate.open();
    let mut by = Vec::new();
    for client in &mut slow {
        by.push(who(&client.reply("GET")?.is(200)?));
    }
    by.sort();
    equal("they finish", by, vec!["1".to_owned(), "2".to_owned()])?;
    site.until("tidegate_origin_in_flight", |in_flight| in_flight == 0.0)
}

fn fails() -> Outcome {
    let (dns, port) = (Dns::start()?, port());
    let _one = Server::start(1, port)?;
    let _two = Server::start(2, port)?;
    dns.say(NAME, addresses([1, 2], 0));
    let site = site(&dns, port, "")?;
    const STAY: &str = "a name is not resolved: its servers stay";
    let cases = [
        (Says::NoSuchName, "no_such_name"),
        (Says::Nothing, "no_address"),
        (Says::Fails, "failed"),
        (Says::Silence, "timeout"),
        // A blocking resolver's way to say no.
        (
            Says::Addresses(vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)], 0),
            "no_address",
        ),
    ];
    for (n, (says, result)) in cases.into_iter().enumerate() {
        dns.say(NAME, says);
        until_resolved(&site, result, 2.0)?;
        equal(result, site.metric(SERVERS)?, 2.0)?;
        let both = [visit(&site)?, visit(&site)?];
        equal(result, both[0] != both[1], true)?;
        equal("told once", logged(&site, STAY)?, n + 1)?;
        dns.say(NAME, addresses([2, 1], 0));
        until_resolved(&site, "ok", 2.0)?;
        let again = logged(&site, "a name is resolved again")?;
        equal("told", again, n + 1)?;
    }
    equal("the first and only", logged(&site, "servers of a name")?, 1)
}

fn appears() -> Outcome {
    let (dns, port) = (Dns::start()?, port());
    let _one = Server::start(1, port)?;
    let site = site(&dns, port, "")?;
    let reply = site.get("/", "")?.is(503)?;
    equal("Retry-After", reply.field("retry-after").is_empty(), false)?;
    let reply = site.client()?.ask("POST", "/", "", b"body")?.is(503)?;
    equal("Retry-After", reply.field("retry-after").is_empty(), false)?;
    let ready = readyz(&site)?.is(503)?.text();
    equal(
        &ready,
        ready.contains("app.test: no such name (NXDOMAIN)"),
        true,
    )?;
    let told = logged(&site, "a name is not resolved: no servers of it")?;
    equal("told", told, 1)?;
    dns.say(NAME, addresses([1], 0));
    site.until(SERVERS, |servers| servers == 1.0)?;
    equal("there it is", visit(&site)?, "1".into())?;
    readyz(&site)?.is(200).map(drop)
}

fn hundred() -> Outcome {
    let (dns, port) = (Dns::start()?, port());
    // All of them are one.
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let origin = Origin::start_at(everywhere, |_, conn: &mut Conn| {
        answer(conn, 200, "Cache-Control: no-store\r\n", b"here")
    })?;
    dns.say(NAME, addresses(1..=100, 0));
    let site = site(&dns, port, "")?;
    equal("servers", site.metric(SERVERS)?, 100.0)?;
    equal("budget", site.metric("tidegate_origin_budget")?, 6400.0)?;
    for n in 0..100 {
        site.get(&format!("/{n}"), "")?.is(200)?;
    }
    equal("asked", origin.asked("GET /"), 100)?;
    dns.say(NAME, addresses(1..=1, 0));
    site.until(SERVERS, |servers| servers == 1.0)?;
    dns.say(NAME, addresses(1..=200, 0));
    site.until(SERVERS, |servers| servers == 128.0)?;
    until_resolved(&site, "ok", 3.0)?;
    let told = logged(&site, "a name has more addresses than are used")?;
    equal("told once", told, 1)?;
    equal("servers", site.metric(SERVERS)?, 128.0)?;
    site.get("/again", "")?.is(200).map(drop)
}

/// The name has no address any more, and where its server was there is none.
fn stale_without() -> Outcome {
    let (dns, port) = (Dns::start()?, port());
    let pages = |last: u8, page: &'static str| {
        Origin::start_at(
            SocketAddr::new(loopback(last), port),
            move |_, conn: &mut Conn| {
                answer(
                    conn,
                    200,
                    "Connection: close\r\nCache-Control: max-age=1\r\n",
                    page.as_bytes(),
                )
            },
        )
    };
    let one = pages(1, "old")?;
    dns.say(NAME, addresses([1], 0));
    let site = site(&dns, port, "")?;
    for page in ["/a", "/b"] {
        site.get(page, "")?.is(200)?;
    }
    let gone = |says, result: &str| {
        dns.say(NAME, says);
        until_resolved(&site, result, 1.0)
    };
    gone(Says::NoSuchName, "no_such_name")?;
    drop(one);
    let mut n = 0;
    eventually("nobody is there", || {
        n += 1;
        Ok((site.get(&format!("/new-{n}"), "")?.status != 200).then_some(()))
    })?;
    // It is asked less and less often.
    for (says, result) in [(Says::Nothing, "no_address"), (Says::Fails, "failed")] {
        gone(says, result)?;
        site.proxy.advance(Duration::from_secs(60))?;
        for page in ["/a", "/b"] {
            let reply = site.get(page, "")?.is(200)?;
            equal(result, reply.text(), "old".to_owned())?;
        }
        let status = site.get("/new", "")?.status;
        equal("what is not stored", (502..=504).contains(&status), true)?;
    }
    let _two = pages(2, "new")?;
    dns.say(NAME, addresses([2], 0));
    until_resolved(&site, "ok", 1.0)?;
    site.proxy.advance(Duration::from_secs(60))?;
    eventually("it is found", || {
        Ok((site.get("/a", "")?.text() == "new").then_some(()))
    })
}

/// A server that tells how it is once its gate is open.
struct Silent {
    origin: Origin,
    gate: Arc<Gate>,
}

const CHECKS: &str =
    "health = 'http'\nhealth_path = '/healthz'\nhealth_interval = '50ms'\nhealth_timeout = '1m'\n";

impl Silent {
    fn start(last: u8, port: u16) -> Result<Silent, String> {
        let gate = Arc::new(Gate::default());
        let waits = Arc::clone(&gate);
        let at = SocketAddr::new(loopback(last), port);
        let origin = Origin::start_at(at, move |asked, conn: &mut Conn| {
            if asked.target == "/healthz" {
                waits.wait();
            }
            let page = last.to_string();
            answer(conn, 200, "Cache-Control: no-store\r\n", page.as_bytes())
        })?;
        Ok(Silent { origin, gate })
    }

    fn probes(&self) -> usize {
        self.origin.asked("GET /healthz")
    }
}

fn probed() -> Outcome {
    let (dns, port) = (Dns::start()?, port());
    let _one = Server::start(1, port)?;
    let two = Silent::start(2, port)?;
    dns.say(NAME, addresses([1], 0));
    let site = site(&dns, port, CHECKS)?;
    dns.say(NAME, addresses([1, 2], 0));
    eventually("it is asked how it is", || {
        Ok((two.probes() > 0).then_some(()))
    })?;
    for _ in 0..20 {
        equal("the other is not known yet", visit(&site)?, "1".into())?;
    }
    let label = format!("{NAME}/127.0.0.2:{port}");
    let up = of_server(&site, "tidegate_origin_server_up", &label)?;
    equal("up", up, Some(0.0))?;
    equal("pages", two.origin.asked("GET /") - two.probes(), 0)?;
    two.gate.open();
    eventually("it is used", || Ok((visit(&site)? == "2").then_some(())))?;
    let up = of_server(&site, "tidegate_origin_server_up", &label)?;
    equal("up", up, Some(1.0))?;
    // Who has gone is asked no more.
    dns.say(NAME, addresses([1], 0));
    site.until(SERVERS, |servers| servers == 1.0)?;
    let gone = of_server(&site, "tidegate_origin_server_up", &label)?;
    equal("its metric", gone, None)?;
    let probes = two.probes();
    until_resolved(&site, "ok", 5.0)?;
    // One may have been on its way.
    equal("probes", two.probes() <= probes + 1, true)?;
    // And once it is back, again.
    dns.say(NAME, addresses([1, 2], 0));
    eventually("it is used", || Ok((visit(&site)? == "2").then_some(())))
}

/// With health checks and all addresses new, nobody waits for the first probe.
fn replaced() -> Outcome {
    let (dns, port) = (Dns::start()?, port());
    let _one = Server::start(1, port)?;
    let two = Silent::start(2, port)?;
    dns.say(NAME, addresses([1], 0));
    let site = site(&dns, port, CHECKS)?;
    equal("the old one", visit(&site)?, "1".into())?;
    dns.say(NAME, addresses([2], 0));
    eventually("the new one", || Ok((visit(&site)? == "2").then_some(())))?;
    two.gate.open();
    site.until("tidegate_origin_server_up", |up| up == 1.0)?;
    equal("the new one", visit(&site)?, "2".into())
}

fn hosts() -> Outcome {
    let (dns, port) = (Dns::start()?, port());
    let _one = Server::start(1, port)?;
    dns.say("localhost", Says::Silence);
    let config = format!(
        "[[upstream]]\nservers = ['http://localhost:{port}']\nresolver = ['{}']\n",
        dns.address
    );
    let site = Site::start(SocketAddr::new(loopback(1), port), &config)?;
    equal("found", visit(&site)?, "1".into())?;
    equal("servers: IPv4's", site.metric(SERVERS)?, 1.0)?;
    equal("DNS is not asked", dns.asked(), 0)
}

fn bounded() -> Outcome {
    let (dns, port) = (Dns::start()?, port());
    let _one = Server::start(1, port)?;
    dns.say(NAME, addresses([1], 0));
    let config = |bounds: &str| {
        format!(
            "[[upstream]]\nservers = ['http://{NAME}:{port}']\nresolver = ['{}']\n{bounds}",
            dns.address
        )
    };
    let origin = SocketAddr::new(loopback(1), port);
    let calm = Site::start(origin, &config("resolve_min = '10m'\nresolve_max = '10m'"))?;
    let questions = dns.asked();
    dns.say(NAME, addresses([1], 86_400));
    let eager = Site::start(
        origin,
        &config("resolve_min = '100ms'\nresolve_max = '100ms'"),
    )?;
    until_resolved(&eager, "ok", 5.0)?;
    equal("a TTL of zero does not hammer", resolves(&calm, "ok")?, 1.0)?;
    equal(
        "a TTL of a day does not blind",
        dns.asked() > questions + 5,
        true,
    )
}

fn checked() -> Outcome {
    let dns = Dns::start()?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = dir.path().join("tidegate.toml");
    let config = format!(
        "[[upstream]]\nservers = ['http://{NAME}:8000']\nresolver = ['{}']\n",
        dns.address
    );
    fs::write(&file, config).map_err(|e| e.to_string())?;
    let check = |flags: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["check", "-c"]).arg(&file).args(flags);
        let output = command.output().map_err(|e| e.to_string())?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        equal("accepted", output.status.code(), Some(0))?;
        Ok::<_, String>((text(output.stdout), text(output.stderr)))
    };
    const WARNING: &str = "`app.test` is not resolved: no such name (NXDOMAIN)";
    let (said, warned) = check(&[])?;
    equal(&said, said.starts_with("ok: "), true)?;
    equal(&warned, warned.contains(WARNING), true)?;
    let (json, _) = check(&["--json"])?;
    equal(&json, json.contains(r#""host": "app.test""#), true)?;
    dns.say(NAME, addresses([1], 0));
    let (said, warned) = check(&[])?;
    equal("warnings", warned, String::new())?;
    equal(&said, said.contains("app.test:8000"), true)
}
