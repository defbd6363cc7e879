//! How requests are spread over an upstream's servers: by weight, by key, by what each may hold, to backups, and back to the
//! one that a visitor is bound to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::guests::from;
use super::lifecycle::{signal, successor};
use super::manners::{FAILS, HANGS, Manners, RESETS, WELL};
use super::site::{Client, Gate, Inside, Origin, Reply, Site, answer, crowd, equal, eventually};
use super::{Outcome, Test};
use crate::harness::proxy::lay_over;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("spread::weights_are_kept_to", weights),
        ("spread::weights_are_kept_to_under_load", weights_under_load),
        (
            "spread::who_answers_nobody_is_noticed_by_the_impatient",
            impatient,
        ),
        ("spread::who_is_drained_finishes_and_gets_nothing", drained),
        ("spread::a_backup_is_asked_while_no_other_can_be", backup),
        ("spread::each_server_holds_what_it_may", each_holds),
        (
            "spread::c71_nobody_is_asked_twice_for_the_same",
            never_twice,
        ),
        (
            "spread::a_page_has_its_server_and_moves_only_without_it",
            by_path,
        ),
        (
            "spread::a_header_a_cookie_an_address_has_its_server",
            by_others,
        ),
        ("spread::a_visitor_is_bound_until_its_server_is_gone", bound),
        (
            "spread::a_full_server_lets_its_visitors_go",
            bound_to_the_full,
        ),
        (
            "spread::proxies_with_one_key_know_each_others_visitors",
            one_key,
        ),
    ]
}

/// A server that tells its name, unless it has other manners. What is asked for below `/held` waits for its gate.
struct Server {
    origin: Origin,
    manners: Manners,
    gate: Arc<Gate>,
    inside: Arc<Inside>,
}

impl Server {
    fn start(name: impl Into<String>) -> Result<Server, String> {
        let (manners, gate) = (Manners::default(), Arc::new(Gate::default()));
        let inside = Arc::new(Inside::default());
        let (read, held, count) = (manners.clone(), gate.clone(), inside.clone());
        let name = name.into();
        let origin = Origin::start(move |asked, conn: &mut Conn| {
            let _visit = count.enter();
            if asked.target.starts_with("/held") {
                held.wait();
            }
            if asked.target.starts_with("/slow") {
                thread::sleep(Duration::from_millis(3));
            }
            if let Some(done) = read.misbehave(conn) {
                return done;
            }
            answer(conn, 200, "Cache-Control: no-store\r\n", name.as_bytes())
        })?;
        Ok(Server {
            origin,
            manners,
            gate,
            inside,
        })
    }

    fn several(count: usize) -> Result<Vec<Server>, String> {
        (0..count).map(|at| Server::start(at.to_string())).collect()
    }

    fn behave(&self, manners: u8) {
        self.manners.become_like(manners);
    }

    fn asked(&self) -> usize {
        self.origin.asked("GET")
    }

    fn address(&self) -> SocketAddr {
        self.origin.address
    }
}

fn counts(servers: &[Server]) -> Vec<usize> {
    servers.iter().map(Server::asked).collect()
}

/// Servers with what is to be said of each beside its address, and of them all.
fn config(servers: &[Server], each: &[&str], more: &str) -> String {
    let list: Vec<String> = servers
        .iter()
        .zip(each.iter().chain(std::iter::repeat(&"")))
        .map(|(server, say)| format!("{{ address = \"http://{}\"{say} }}", server.address()))
        .collect();
    format!(
        "[[upstream]]\nname = \"app\"\nservers = [{}]\n{more}\n",
        list.join(", ")
    )
}

fn site(servers: &[Server], each: &[&str], more: &str) -> Result<Site, String> {
    Site::start(servers[0].address(), &config(servers, each, more))
}

const WEIGHTS: [&str; 3] = [", weight = 1", ", weight = 2", ", weight = 5"];
const EJECTED: &str = "tidegate_origin_server_ejected";

/// One after the other: to the request.
fn weights() -> Outcome {
    let servers = Server::several(3)?;
    let site = site(&servers, &WEIGHTS, "balance = 'round_robin'")?;
    let mut client = site.client()?;
    for n in 0..80 {
        client.get(&format!("/{n}"), "")?.is(200)?;
    }
    equal("shares", counts(&servers), vec![10, 20, 50])
}

/// So many visitors, whose answers wait until `then` has ended.
fn held_by(
    site: &Site,
    servers: &[Server],
    visitors: usize,
    then: impl FnOnce() -> Outcome,
) -> Outcome {
    thread::scope(|scope| {
        let visits = scope.spawn(move || {
            crowd(visitors, |n| {
                site.get(&format!("/held/{n}"), "")?.is(200).map(drop)
            })
        });
        let told = then();
        servers.iter().for_each(|server| server.gate.open());
        let visited = visits.join().map_err(|_| "a visitor panicked".to_owned())?;
        told.and(visited)
    })
}

/// All at once, and none is answered before all have come.
fn weights_under_load() -> Outcome {
    for balance in ["p2c", "round_robin", "least_in_flight"] {
        let servers = Server::several(3)?;
        let more = format!("balance = '{balance}'\nmax_in_flight = 64");
        let site = site(&servers, &WEIGHTS, &more)?;
        held_by(&site, &servers, 40, || {
            eventually("all have come", || {
                Ok((counts(&servers).iter().sum::<usize>() == 40).then_some(()))
            })
        })?;
        let counts = counts(&servers);
        // Chance has its say with p2c.
        for (count, fair) in counts.iter().zip([5, 10, 25]) {
            if count.abs_diff(fair) > 5 {
                return Err(format!("{balance}: {counts:?}"));
            }
        }
    }
    Ok(())
}

/// The quicker of two takes requests and answers none, and nobody waits until that is a failure.
fn impatient() -> Outcome {
    const VISITORS: usize = 40;
    const PATIENCE: Duration = Duration::from_millis(300);
    let quick = Server::start("quick")?;
    let slow = Origin::start(|_, conn: &mut Conn| {
        thread::sleep(Duration::from_millis(50));
        answer(conn, 200, "Cache-Control: no-store\r\n", b"slow")
    })?;
    let servers = format!(
        "[[upstream]]\nservers = ['http://{}', 'http://{}']\nbalance = 'p2c'",
        quick.address(),
        slow.address
    );
    let site = Site::start(slow.address, &servers)?;
    eventually("both are known", || {
        site.client()?.ask("POST", "/before", "", b"")?.is(200)?;
        let known = quick.origin.asked("POST") > 0 && slow.asked("POST") > 0;
        Ok(known.then_some(()))
    })?;
    quick.behave(HANGS);
    let asked = || quick.origin.asked("POST");
    let (before, mut served) = (asked(), 0);
    for n in 0..VISITORS {
        let told = |e: std::io::Error| e.to_string();
        let stream = TcpStream::connect(site.address).map_err(told)?;
        let mut client = Client::over(stream.try_clone().map_err(told)?)?;
        client.send("POST", &format!("/{n}"), "", b"")?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
        if stream.peek(&mut [0]).is_ok() {
            client.reply("POST")?.is(200)?;
            served += 1;
        }
        drop((client, stream));
        site.until("tidegate_origin_in_flight", |in_flight| in_flight == 0.0)?;
    }
    let hung = asked() - before;
    let few = (1..=VISITORS / 5).contains(&hung);
    equal(&format!("{served} served, {hung} not"), few, true)?;
    // It has failed nobody.
    equal("ejected", site.metric(EJECTED)?, 0.0)?;
    let state = site.metric("tidegate_origin_breaker_state")?;
    quick.manners.release();
    equal("the breaker is closed", state, 0.0)
}

fn drained() -> Outcome {
    let servers = Server::several(2)?;
    let site = site(&servers, &[], "balance = 'round_robin'")?;
    let mut busy = site.client()?;
    busy.send("GET", "/held", "", b"")?;
    let held = eventually("it is asked for", || {
        Ok(servers.iter().position(|server| server.asked() == 1))
    })?;
    // The same proxy, with that one drained.
    let file = site.dir.path().join("tidegate.toml");
    let old = fs::read_to_string(&file).map_err(|e| e.to_string())?;
    let mut each = ["", ""];
    each[held] = ", weight = 0";
    let next = site.dir.path().join("next.toml");
    let new = lay_over(&old, &config(&servers, &each, "[[route]]\nx_cache = true"))?;
    fs::write(&next, new).map_err(|e| e.to_string())?;
    let _next = successor(&site, &next, "next")?;
    signal(&site, "-QUIT")?;
    // For a moment both are there: this connection is the new one's.
    let mut client = eventually("the new one serves", || {
        let mut client = site.client()?;
        let reply = client.get("/", "")?.is(200)?;
        Ok((reply.field("x-cache") == "MISS").then_some(client))
    })?;
    let before = servers[held].asked();
    for n in 0..20 {
        client.get(&format!("/{n}"), "")?.is(200)?;
    }
    equal("nothing new", servers[held].asked(), before)?;
    servers.iter().for_each(|server| server.gate.open());
    let reply = busy.reply("GET")?.is(200)?;
    equal("what it had in hand", reply.text(), held.to_string())
}

fn backup() -> Outcome {
    let servers = Server::several(2)?;
    let site = site(
        &servers,
        &["", ", backup = true"],
        "eject_after = 3\neject_for = '4s'\nslow_start = '0'\nretries = 100",
    )?;
    let [first, backup] = &servers[..] else {
        return Err("two servers".into());
    };
    let get = |n: usize| site.get(&format!("/{n}"), "")?.is(200);
    for n in 0..20 {
        equal("page", get(n)?.text(), "0".into())?;
    }
    equal("nobody else", backup.asked(), 0)?;
    first.behave(RESETS);
    // Nobody notices.
    for n in 0..20 {
        equal("page", get(n)?.text(), "1".into())?;
    }
    eventually("it is ejected", || {
        equal("page", get(0)?.text(), "1".into())?;
        Ok((site.metric(EJECTED)? == 1.0).then_some(()))
    })?;
    let before = first.asked();
    for n in 0..5 {
        equal("page", get(n)?.text(), "1".into())?;
    }
    equal("it is left alone", first.asked(), before)?;
    first.behave(WELL);
    site.until(EJECTED, |ejected| ejected == 0.0)?;
    eventually("it is back", || Ok((get(0)?.text() == "0").then_some(())))?;
    let before = backup.asked();
    for n in 0..20 {
        equal("page", get(n)?.text(), "0".into())?;
    }
    equal("the backup is left", backup.asked(), before)
}

fn each_holds() -> Outcome {
    let servers = Server::several(3)?;
    let site = site(
        &servers,
        &[", max_in_flight = 1", ", max_in_flight = 4", ""],
        "max_in_flight = 2",
    )?;
    equal("budget", site.metric("tidegate_origin_budget")?, 7.0)?;
    held_by(&site, &servers, 24, || {
        eventually("the others wait", || {
            let waiting = site.metric("tidegate_origin_queued")?;
            Ok((waiting == 17.0).then_some(()))
        })?;
        eventually("each has what it may", || {
            Ok((counts(&servers) == [1, 4, 2]).then_some(()))
        })
    })?;
    let most: Vec<_> = servers.iter().map(|server| server.inside.most()).collect();
    equal("at once", most, vec![1, 4, 2])
}

/// One server breaks every request, the other is nearly always full: what is asked again is asked there, or not at all.
fn never_twice() -> Outcome {
    let servers = Server::several(2)?;
    servers[0].behave(RESETS);
    let site = site(
        &servers,
        &["", ", max_in_flight = 2"],
        "retries = 100\neject_after = 0",
    )?;
    let pages = |visitor: usize| (0..20).map(move |n| format!("/slow/{visitor}/{n}"));
    crowd(8, |visitor| {
        let mut client = site.client()?;
        for page in pages(visitor) {
            let reply = client.get(&page, "")?;
            if reply.status != 502 {
                reply.is(200)?;
            }
        }
        Ok(())
    })?;
    equal("it was asked", servers[0].asked() > 0, true)?;
    for page in (0..8).flat_map(pages) {
        let asked = servers[0].origin.asked(&format!("GET {page}"));
        // `/slow/1/1` begins `/slow/1/10` to `/slow/1/19`, too.
        let alike = if page.ends_with("/1") { 11 } else { 1 };
        equal(&format!("{page}: at most"), asked <= alike, true)?;
    }
    Ok(())
}

fn by_path() -> Outcome {
    const PAGES: usize = 120;
    let servers = Server::several(5)?;
    let site = site(
        &servers,
        &[],
        "balance = 'consistent_hash'\neject_after = 3\neject_for = '4s'\nslow_start = '0'\nretries = 100",
    )?;
    let owners = || -> Result<Vec<String>, String> {
        let mut client = site.client()?;
        let mut get = |n| Ok(client.get(&format!("/{n}?a=b"), "")?.is(200)?.text());
        (0..PAGES).map(&mut get).collect()
    };
    let before = owners()?;
    equal("the same again", owners()?, before.clone())?;
    let mut had = BTreeMap::new();
    for owner in &before {
        *had.entry(owner.clone()).or_insert(0usize) += 1;
    }
    equal("all have some", had.len(), 5)?;
    // What is posted goes where its page is.
    let posted = site.client()?.ask("POST", "/7?a=b", "", b"x")?.is(200)?;
    equal("posted", posted.text(), before[7].clone())?;
    let leaves = before[0].clone();
    let gone = &servers[leaves.parse::<usize>().map_err(|e| e.to_string())?];
    gone.behave(RESETS);
    let without = owners()?;
    let pairs = || before.iter().zip(&without);
    let moved = pairs().filter(|(was, is)| was != is).count();
    equal("only its own move", moved, had[&leaves])?;
    let to: BTreeSet<_> = pairs()
        .filter(|(was, is)| was != is)
        .map(|(_, is)| is)
        .collect();
    equal(
        "to several others",
        to.len() > 1 && !to.contains(&leaves),
        true,
    )?;
    gone.behave(WELL);
    site.until(EJECTED, |ejected| ejected == 0.0)?;
    equal("they come back", owners()?, before)
}

fn by_others() -> Outcome {
    let servers = Server::several(4)?;
    let spread = |by: &str, ask: &dyn Fn(&Site, usize, usize) -> Result<Reply, String>| {
        let more = format!("balance = 'consistent_hash'\nhash_by = '{by}'");
        let site = site(&servers, &[], &more)?;
        let mut all = BTreeSet::new();
        for who in 0..16 {
            let mut own = BTreeSet::new();
            for n in 0..4 {
                own.insert(ask(&site, who, n)?.is(200)?.text());
            }
            equal(&format!("{by}: {who} has one server"), own.len(), 1)?;
            all.extend(own);
        }
        equal(&format!("{by}: all have several"), all.len() > 1, true)
    };
    spread("header:x-tenant", &|site, who, n| {
        site.get(&format!("/{who}/{n}"), &format!("X-Tenant: {who}\r\n"))
    })?;
    spread("cookie:cart", &|site, who, n| {
        let cookie = format!("Cookie: a={n}; cart={who}; b={n}\r\n");
        site.get(&format!("/{who}/{n}"), &cookie)
    })?;
    spread("address", &|site, who, n| {
        let address = Ipv4Addr::new(127, 0, 1, who as u8);
        from(address, site.address)?.get(&format!("/{who}/{n}"), "")
    })
}

/// The cookie that an answer sets, as it is brought.
fn set(reply: &Reply) -> Result<String, String> {
    let line = reply.field("set-cookie");
    let (cookie, _) = line
        .split_once(';')
        .ok_or(format!("no cookie: {reply:?}"))?;
    Ok(format!("Cookie: {cookie}\r\n"))
}

fn bound() -> Outcome {
    let servers = Server::several(3)?;
    let site = site(
        &servers,
        &[],
        "balance = 'round_robin'\nsticky = 'srv'\neject_after = 3\neject_for = '4s'\nslow_start = '0'",
    )?;
    let reply = site.get("/", "")?.is(200)?;
    let (cookie, name) = (set(&reply)?, reply.text());
    let own = &servers[name.parse::<usize>().map_err(|e| e.to_string())?];
    for told in [own.address().to_string(), own.address().port().to_string()] {
        equal("tells where it is", cookie.contains(&told), false)?;
    }
    for n in 0..12 {
        let reply = site.get(&format!("/{n}"), &cookie)?.is(200)?;
        equal("server", reply.text(), name.clone())?;
        equal("set again", reply.field("set-cookie"), "")?;
    }
    own.behave(FAILS);
    for n in 0..3 {
        let reply = site.get(&format!("/{n}"), &cookie)?.is(503)?;
        equal("set with an error", reply.field("set-cookie"), "")?;
    }
    let reply = site.get("/", &cookie)?.is(200)?;
    let (new, other) = (set(&reply)?, reply.text());
    equal("another server", other != name && new != cookie, true)?;
    own.behave(WELL);
    site.until(EJECTED, |ejected| ejected == 0.0)?;
    for n in 0..12 {
        let reply = site.get(&format!("/{n}"), &new)?.is(200)?;
        equal("bound anew", reply.text(), other.clone())?;
    }
    // Who brings the old cookie is taken back.
    equal("the old one", site.get("/", &cookie)?.is(200)?.text(), name)
}

fn bound_to_the_full() -> Outcome {
    let servers = Server::several(2)?;
    let site = site(&servers, &[], "max_in_flight = 1\nsticky = 'srv'")?;
    let reply = site.get("/", "")?.is(200)?;
    let (cookie, name) = (set(&reply)?, reply.text());
    // Its place may be given back a little later than its answer is read.
    site.until("tidegate_origin_in_flight", |held| held == 0.0)?;
    let mut busy = site.client()?;
    busy.send("GET", "/held", &cookie, b"")?;
    eventually("it is asked for", || {
        let held = servers
            .iter()
            .map(|server| server.origin.asked("GET /held"));
        Ok((held.sum::<usize>() == 1).then_some(()))
    })?;
    let reply = site.get("/", &cookie)?.is(200)?;
    equal("another", reply.text() != name, true)?;
    equal("bound to it", set(&reply)? != cookie, true)?;
    servers.iter().for_each(|server| server.gate.open());
    equal("meanwhile", busy.reply("GET")?.is(200)?.text(), name)
}

fn one_key() -> Outcome {
    let servers = Server::several(2)?;
    let with = |key: &str| site(&servers, &[], &format!("sticky = 'srv'\n{key}"));
    let key = "sticky_key = 'an old and well kept secret'";
    let (one, other, stranger, own) = (
        with(key)?,
        with(key)?,
        with("sticky_key = 'a secret of somebody else'")?,
        with("")?,
    );
    let reply = one.get("/", "")?.is(200)?;
    let (cookie, name) = (set(&reply)?, reply.text());
    for n in 0..6 {
        let reply = other.get(&format!("/{n}"), &cookie)?.is(200)?;
        equal(
            "known",
            (reply.text(), reply.field("set-cookie")),
            (name.clone(), ""),
        )?;
    }
    for site in [&stranger, &own] {
        let reply = site.get("/", &cookie)?.is(200)?;
        equal("unknown", set(&reply)? != cookie, true)?;
    }
    Ok(())
}
