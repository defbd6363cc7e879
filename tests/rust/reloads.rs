//! Another config while requests come: by the file, by SIGHUP; bad ones; what stays and what waits.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::lifecycle::signal;
use super::site::{Client, Gate, Origin, Reply, Site, answer, equal, eventually};
use super::{Outcome, Test};
use crate::harness::proxy::{free_port, lay_over};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "reloads::a_hundred_under_load_fail_nobody_and_mix_nothing",
            a_hundred,
        ),
        (
            "reloads::a_bad_file_changes_nothing_and_is_told",
            a_bad_file,
        ),
        ("reloads::what_is_known_stays_known", what_stays),
        ("reloads::another_origin_is_asked_at_once", another_origin),
        (
            "reloads::nobody_boards_what_another_path_has_asked_for",
            another_path,
        ),
        ("reloads::a_budget_holds_through_changes", budgets_hold),
        (
            "reloads::servers_come_and_go_and_who_stays_is_known",
            servers_come_and_go,
        ),
        ("reloads::what_cannot_change_waits_and_is_told", what_waits),
        ("reloads::a_mounted_config_map_is_followed", a_link),
        (
            "reloads::what_cannot_be_done_whole_is_not_begun",
            half_of_it,
        ),
        (
            "reloads::only_what_is_in_force_is_shown",
            only_what_is_in_force,
        ),
        (
            "reloads::who_stays_holds_no_thread_and_no_list_of_before",
            nothing_piles_up,
        ),
    ]
}

/// An origin whose pages say where they come from, and may be kept.
fn origin(says: &'static str) -> Result<Origin, String> {
    Origin::start(move |asked, conn: &mut Conn| {
        let keep = match asked.target.starts_with("/kept") {
            true => "Cache-Control: max-age=600\r\n",
            false => "Cache-Control: no-store\r\n",
        };
        answer(conn, 200, keep, says.as_bytes())
    })
}

/// Writes a config over the file, and waits until it is in force.
pub fn change(site: &Site, to: &str) -> Outcome {
    let before = site.metric("tidegate_config_changes_total")?;
    write(&site.dir.path().join("tidegate.toml"), to)?;
    signal(site, "-HUP")?;
    site.until("tidegate_config_changes_total", |changes| changes > before)
}

/// All of a file at once, as editors and tools do it.
fn write(path: &Path, text: &str) -> Outcome {
    let next = path.with_extension("next");
    fs::write(&next, text).map_err(|e| e.to_string())?;
    fs::rename(&next, path).map_err(|e| e.to_string())
}

fn read(site: &Site) -> Result<String, String> {
    fs::read_to_string(site.dir.path().join("tidegate.toml")).map_err(|e| e.to_string())
}

/// The file with something over it.
pub fn with(site: &Site, config: &str) -> Result<String, String> {
    lay_over(&read(site)?, config)
}

fn version(site: &Site) -> Result<f64, String> {
    site.metric("tidegate_config_version")
}

/// Waits until the log has these words.
fn logged(site: &Site, words: &str) -> Outcome {
    eventually(words, || {
        let log = fs::read_to_string(site.dir.path().join("stdout")).map_err(|e| e.to_string())?;
        let has = log.contains(words) || site.proxy.said().contains(words);
        Ok(has.then_some(()))
    })
}

/// One policy has two marks on its answers, made from different tables; an answer with marks of two is a mixture.
fn marked(number: usize) -> String {
    format!(
        "[[route]]\nx_cache = {}\n\
         [[limit]]\nname = \"n{number}\"\nrate = \"{}/s\"\ntell = \"always\"\n",
        number % 2 == 1,
        100_000 + number
    )
}

/// Whether its route is marked, and what its limit is called.
fn marks(reply: &Reply) -> Result<(bool, usize), String> {
    let limit = reply.field("ratelimit-policy");
    let number = limit
        .strip_prefix("\"n")
        .and_then(|limit| limit.split('"').next());
    let number = number.and_then(|number| number.parse().ok());
    Ok((
        !reply.field("x-cache").is_empty(),
        number.ok_or(format!("policy: {limit:?}"))?,
    ))
}

fn a_hundred() -> Outcome {
    const CHANGES: usize = 100;
    const CLIENTS: usize = 6;
    let origin = origin("page")?;
    let site = Site::start(origin.address, &marked(0))?;
    let base = read(&site)?;
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask = |path: &'static str| {
        let (site, over, answered) = (&site, &over, &answered);
        move || {
            let mut client = site.client()?;
            while !over.load(Ordering::Relaxed) {
                let reply = client.get(path, "")?.is(200)?;
                let marks = marks(&reply)?;
                equal("both marks", marks.0, marks.1 % 2 == 1)?;
                equal("page", reply.text(), "page".into())?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    };
    let changes = || {
        let mut last = 0;
        for turn in 1..=CHANGES {
            let good = turn % 5 != 0;
            match good {
                true => {
                    change(&site, &lay_over(&base, &marked(turn))?)?;
                    last = turn;
                }
                false => change(&site, "[[rout")?,
            }
            // Whoever asks from now on sees it.
            let seen = site.get("/kept", "")?.is(200)?;
            equal("in force", marks(&seen)?.1, last)?;
            let before = answered.load(Ordering::Relaxed);
            eventually("others are served", || {
                Ok((answered.load(Ordering::Relaxed) > before).then_some(()))
            })?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let paths = ["/kept", "/passed"].into_iter().cycle().take(CLIENTS);
        let clients: Vec<_> = paths.map(|path| scope.spawn(ask(path))).collect();
        let changed: Outcome = changes();
        over.store(true, Ordering::Relaxed);
        let joined = |client: thread::ScopedJoinHandle<'_, Outcome>| {
            client.join().unwrap_or(Err("a client panicked".into()))
        };
        clients.into_iter().try_for_each(joined)?;
        changed
    })?;
    let result = |result: &str| {
        let labels = [("result".to_owned(), result.to_owned())];
        site.proxy.metric("tidegate_config_changes_total", &labels)
    };
    equal("refused", result("refused")?, Some(20.0))
}

fn a_bad_file() -> Outcome {
    let origin = origin("page")?;
    let site = Site::start(origin.address, "")?;
    site.get("/kept", "")?.is(200)?;
    let good = read(&site)?;
    change(&site, &format!("{good}\n[[rule]]\nwhen = 'tru'\n"))?;
    equal("version", version(&site)?, 1.0)?;
    equal("told", site.metric("tidegate_config_refused")?, 1.0)?;
    logged(&site, "when = 'tru'")?;
    equal(
        "still",
        site.get("/kept", "")?.is(200)?.text(),
        "page".into(),
    )?;
    // As it was: nothing is refused any more, and there is no other version.
    change(&site, &good)?;
    equal("told", site.metric("tidegate_config_refused")?, 0.0)?;
    equal("version", version(&site)?, 1.0)
}

fn what_stays() -> Outcome {
    let origin = origin("page")?;
    let limit = "[[limit]]\nname = \"all\"\nrate = \"2/h\"\nburst = 2\ncounts = \"origin\"\n";
    let site = Site::start(origin.address, limit)?;
    let mut open = site.client()?;
    open.get("/kept", "")?.is(200)?;
    open.get("/passed", "")?.is(200)?;
    open.get("/passed", "")?.is(429)?;
    let budget = site.metric("tidegate_origin_budget")?;
    let served = site.metric("tidegate_requests_total")?;
    // Everything but the limit's name, key and table is another.
    let more = "[[limit]]\nrate = \"3/h\"\n[[route]]\nx_cache = true\n";
    change(&site, &with(&site, more)?)?;
    // The connection, the page, what the client has used, the counts, what is known of the origin.
    let kept = open.get("/kept", "")?.is(200)?;
    equal("mark", kept.field("x-cache").to_owned(), "HIT".to_owned())?;
    equal("fetched", origin.asked("GET /kept"), 1)?;
    open.get("/passed", "")?.is(429)?;
    equal("budget", site.metric("tidegate_origin_budget")?, budget)?;
    let after = site.metric("tidegate_requests_total")?;
    equal("counted on", after >= served + 2.0, true)
}

fn another_origin() -> Outcome {
    let (one, other) = (origin("one")?, origin("other")?);
    let site = Site::start(one.address, "")?;
    let mut open: Client = site.client()?;
    equal(
        "before",
        open.get("/passed", "")?.is(200)?.text(),
        "one".into(),
    )?;
    open.get("/kept", "")?.is(200)?;
    let to = format!("[[upstream]]\nservers = [\"http://{}\"]\n", other.address);
    change(&site, &with(&site, &to)?)?;
    equal(
        "after",
        open.get("/passed", "")?.is(200)?.text(),
        "other".into(),
    )?;
    // What was stored is kept.
    equal("kept", open.get("/kept", "")?.is(200)?.text(), "one".into())?;
    equal(
        "new",
        open.get("/kept/2", "")?.is(200)?.text(),
        "other".into(),
    )
}

/// An origin that answers once the gate is open, with a page that may be kept.
fn gated(says: &'static str, gate: &Arc<Gate>) -> Result<Origin, String> {
    let door = Arc::clone(gate);
    Origin::start(move |_, conn: &mut Conn| {
        door.wait();
        answer(conn, 200, "Cache-Control: max-age=600\r\n", says.as_bytes())
    })
}

/// Two upstreams, of which one has a path of its own.
fn two_upstreams(green: &Origin, path: &str) -> String {
    format!(
        "[[upstream]]\nname = \"blue\"\n\
         [[upstream]]\nname = \"green\"\nservers = [\"http://{}\"]\n\
         [[route]]\nname = \"blue\"\nupstream = \"blue\"\n\
         [[route]]\nname = \"green\"\nupstream = \"green\"\npath = \"{path}\"\n",
        green.address
    )
}

/// While a page is on its way from one origin, its path becomes another's: whoever has asked gets it, and nobody else.
fn another_path() -> Outcome {
    let gate = Arc::new(Gate::default());
    let (blue, green) = (gated("blue", &gate)?, origin("green")?);
    let site = Site::start(blue.address, &two_upstreams(&green, "/green"))?;
    let mut early = site.client()?;
    early.send("GET", "/kept", "", b"")?;
    eventually("it is asked for", || {
        Ok((blue.asked("GET /kept") == 1).then_some(()))
    })?;
    let text = read(&site)?.replace("\"/green\"", "\"/kept\"");
    change(&site, &text)?;
    let now = site.get("/kept", "")?.is(200)?.text();
    equal("of the path's route by now", now, "green".into())?;
    gate.open();
    equal(
        "as it was asked",
        early.reply("GET")?.is(200)?.text(),
        "blue".into(),
    )?;
    let stored = site.get("/kept", "")?.is(200)?;
    equal("of the path's route", stored.text(), "green".into())?;
    equal("stored", green.asked("GET /kept"), 1)
}

fn what_waits() -> Outcome {
    let origin = origin("page")?;
    let site = Site::start(origin.address, "")?;
    let more = "[listen]\naddress = \"127.0.0.1:1\"\nmax_target = \"1KiB\"\n";
    change(&site, &with(&site, more)?)?;
    equal("version", version(&site)?, 2.0)?;
    logged(&site, "listen.address")?;
    // All else is in force.
    let long = format!("/{}", "x".repeat(2_000));
    site.get(&long, "")?.is(414).map(drop)
}

/// The roots by which an upstream's servers are believed are gone when its health check is to be another: nobody could ask
/// them any more.
fn half_of_it() -> Outcome {
    let origin = origin("page")?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let roots = folder.path().join("roots.pem");
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]);
    let made = made.map_err(|e| e.to_string())?;
    fs::write(&roots, made.cert.pem()).map_err(|e| e.to_string())?;
    let dead = free_port();
    let apps = format!(
        "[[upstream]]\nname = 'app'\n\
         [[upstream]]\nname = 'secure'\nservers = ['https://{dead}']\nca = '{}'\nhealth = 'tcp'\n\
         health_interval = '100ms'\nhealth_timeout = '100ms'\n\
         [[route]]\nname = 'all'\nupstream = 'app'\n\
         [[route]]\nname = 'secure'\nupstream = 'secure'\npath = '/secure'\n",
        roots.display()
    );
    let site = Site::start(origin.address, &apps)?;
    fs::remove_file(&roots).map_err(|e| e.to_string())?;
    let more = "[[upstream]]\n[[upstream]]\nhealth_timeout = '90ms'\n[[route]]\nx_cache = true\n";
    change(&site, &with(&site, more)?)?;
    equal("version", version(&site)?, 1.0)?;
    equal("told", site.metric("tidegate_config_refused")?, 1.0)?;
    let mark = site.get("/kept", "")?.is(200)?.field("x-cache").to_owned();
    equal("mark", mark, String::new())?;
    // And who looked after the servers still does.
    let probes = site.metric("tidegate_origin_probes_total")?;
    site.until("tidegate_origin_probes_total", |now| now > probes + 2.0)
}

/// Neither what was refused nor what is gone is shown among the metrics.
fn only_what_is_in_force() -> Outcome {
    let origin = origin("page")?;
    let list = |networks: &str| format!("[[list]]\nname = 'bad'\nnetworks = [{networks}]\n");
    let site = Site::start(origin.address, &list("'192.0.2.1'"))?;
    let base = read(&site)?;
    let redis = |server: &str, more: &str| {
        format!("[redis]\nservers = ['{server}']\nproxies = 2\nprefix = 'it'\n{more}")
    };
    let is_up = || site.proxy.metric("tidegate_redis_up", &[]);
    let nowhere = redis("rediss://127.0.0.1:1", "ca = '/no/such/roots.pem'\n");
    let refused = format!("{}{nowhere}", list("'192.0.2.1', '192.0.2.2'"));
    change(&site, &lay_over(&base, &refused)?)?;
    equal("refused", site.metric("tidegate_config_refused")?, 1.0)?;
    equal("networks", site.metric("tidegate_list_entries")?, 1.0)?;
    equal("redis", is_up()?, None)?;
    let dead = redis(&format!("redis://{}", free_port()), "");
    change(&site, &lay_over(&base, &dead)?)?;
    equal("redis", is_up()?, Some(0.0))?;
    change(&site, &base)?;
    equal("redis", is_up()?, None)
}

/// Connections that ask for nothing keep the config that they last asked under.
fn nothing_piles_up() -> Outcome {
    let origin = origin("page")?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = folder.path().join("bad");
    fs::write(&path, "192.0.2.0/24\n").map_err(|e| e.to_string())?;
    let list = format!(
        "[[list]]\nname = 'bad'\nfile = '{}'\naction = 'deny'\n",
        path.display()
    );
    let site = Site::start(origin.address, &list)?;
    let base = read(&site)?;
    let pid = site.pid()?;
    let threads = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?;
        Ok::<_, String>(tasks.count())
    };
    let mut stay = Vec::new();
    let mut before = 0;
    for turn in 0..10 {
        change(&site, &lay_over(&base, &marked(turn))?)?;
        let mut client = site.client()?;
        client.get("/kept", "")?.is(200)?;
        stay.push(client);
        if turn == 1 {
            before = threads()?;
        }
    }
    let after = threads()?;
    equal("more threads", after.saturating_sub(before) > 3, false)?;
    // The one that looks does so for what is in force.
    fs::write(&path, "127.0.0.0/8\n").map_err(|e| e.to_string())?;
    eventually("the list is read anew", || {
        Ok((site.get("/kept", "")?.status == 403).then_some(()))
    })
}

fn a_link() -> Outcome {
    let origin = origin("page")?;
    let site = Site::start(origin.address, "")?;
    let at = |name: &str| site.dir.path().join(name);
    let told = |e: std::io::Error| e.to_string();
    let base = read(&site)?;
    for (number, name) in ["first", "second"].into_iter().enumerate() {
        fs::create_dir(at(name)).map_err(told)?;
        let text = lay_over(&base, &marked(number + 1))?;
        fs::write(at(name).join("tidegate.toml"), text).map_err(told)?;
    }
    symlink("first", at("current")).map_err(told)?;
    symlink("current/tidegate.toml", at("link")).map_err(told)?;
    fs::rename(at("link"), at("tidegate.toml")).map_err(told)?;
    site.until("tidegate_config_version", |version| version == 2.0)?;
    equal("first", marks(&site.get("/", "")?)?, (true, 1))?;
    symlink("second", at("next")).map_err(told)?;
    fs::rename(at("next"), at("current")).map_err(told)?;
    site.until("tidegate_config_version", |version| version == 3.0)?;
    equal("second", marks(&site.get("/", "")?)?, (false, 2))
}

/// As many wait at the origin as one config allows; another one with fewer, and another server, changes nothing for them
/// and lets nobody in beside them.
fn budgets_hold() -> Outcome {
    let gate = Arc::new(Gate::default());
    let door = Arc::clone(&gate);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        door.wait();
        answer(conn, 200, "Cache-Control: no-store\r\n", b"page")
    })?;
    let most = |most: usize| format!("[[upstream]]\nmax_in_flight = {most}\nqueue_wait = \"1m\"\n");
    let site = Site::start(origin.address, &most(4))?;
    // Each another page, or they would wait for one answer.
    let ask =
        |(at, client): (usize, &mut Client)| client.send("GET", &format!("/passed/{at}"), "", b"");
    let mut clients = (0..6)
        .map(|_| site.client())
        .collect::<Result<Vec<_>, _>>()?;
    clients.iter_mut().enumerate().try_for_each(ask)?;
    site.until("tidegate_origin_queued", |queued| queued == 2.0)?;
    eventually("four are at the origin", || {
        Ok((origin.asked("GET /passed") == 4).then_some(()))
    })?;
    change(&site, &with(&site, &most(2))?)?;
    let mut late = site.client()?;
    ask((6, &mut late))?;
    site.until("tidegate_origin_queued", |queued| queued == 3.0)?;
    equal("in flight", site.metric("tidegate_origin_in_flight")?, 4.0)?;
    equal("budget", site.metric("tidegate_origin_budget")?, 2.0)?;
    equal("at the origin", origin.asked("GET /passed"), 4)?;
    change(&site, &with(&site, &most(5))?)?;
    // One more place, for the one who waits longest.
    eventually("the fifth", || {
        Ok((origin.asked("GET /passed") == 5).then_some(()))
    })?;
    site.until("tidegate_origin_queued", |queued| queued == 2.0)?;
    gate.open();
    clients.push(late);
    for client in &mut clients {
        client.reply("GET")?.is(200)?;
    }
    site.until("tidegate_origin_in_flight", |in_flight| in_flight == 0.0)
}

/// A server more and one less: who stays keeps what is known of it, who goes gets nothing more.
fn servers_come_and_go() -> Outcome {
    let (one, two, three) = (origin("one")?, origin("two")?, origin("three")?);
    let servers = |origins: &[&Origin]| {
        let urls = origins
            .iter()
            .map(|origin| format!("\"http://{}\"", origin.address));
        format!(
            "[[upstream]]\nservers = [{}]\nbalance = \"round_robin\"\n",
            urls.collect::<Vec<_>>().join(", ")
        )
    };
    let site = Site::start(one.address, &servers(&[&one, &two]))?;
    let mut client = site.client()?;
    let mut seen = |times: usize| {
        let mut seen = (0..times)
            .map(|_| Ok(client.get("/passed", "")?.is(200)?.text()))
            .collect::<Result<Vec<_>, String>>()?;
        seen.sort();
        Ok::<_, String>(seen)
    };
    equal(
        "two",
        seen(4)?,
        ["one", "one", "two", "two"].map(str::to_owned).to_vec(),
    )?;
    change(&site, &with(&site, &servers(&[&two, &three]))?)?;
    equal("servers", site.metric("tidegate_origin_servers")?, 2.0)?;
    equal(
        "others",
        seen(4)?,
        ["three", "three", "two", "two"].map(str::to_owned).to_vec(),
    )?;
    // Back in the other order, with a health check: nobody waits for its first answers, and who is well is used.
    let more = format!(
        "{}health = \"http\"\nhealth_path = \"/kept\"\n",
        servers(&[&three, &one])
    );
    change(&site, &with(&site, &more)?)?;
    equal("at once", seen(1)?, vec!["three".to_owned()])?;
    let both = || Ok(seen(4)?.contains(&"one".to_owned()).then_some(()));
    eventually("the one that came is well", both)
}
