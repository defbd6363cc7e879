//! Pages on the disk: there after a crash, and nothing that was purged or is somebody's own.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::consistency::Dice;
use super::levers::{done, has};
use super::lifecycle::{signal, successor as waiting};
use super::site::{Asked, Origin, Reply, Site, answer, equal, eventually, lock};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "snapshot::killed_and_without_an_origin_it_has_its_pages",
            there_after_a_kill,
        ),
        (
            "snapshot::what_memory_has_not_room_for_is_looked_up_on_the_disk",
            looked_up,
        ),
        (
            "snapshot::killed_at_any_moment_its_pages_are_whole_and_purged_ones_gone",
            kills,
        ),
        (
            "snapshot::nothing_of_anybodys_own_is_written",
            nothing_private,
        ),
        ("snapshot::another_app_has_none_of_these_pages", another_app),
        ("snapshot::a_full_disk_harms_nobody", full_disk),
        ("snapshot::its_size_is_obeyed_at_once", reloaded),
        ("snapshot::a_successor_goes_on_with_it", successor),
    ]
}

const LONG: &str = "Cache-Control: public, max-age=3600\r\n";

/// So many pages are on the disk, and nothing waits for it.
fn on_disk(site: &Site, pages: usize) -> Outcome {
    eventually("pages on the disk", || {
        let status = site.proxy.api("GET", "/v1/status", "")?.is(200)?.json()?;
        let (held, queued) = (&status["snapshot"]["pages"], &status["snapshot"]["queued"]);
        Ok((held == pages && queued == 0).then_some(()))
    })
}

fn killed(site: Site) -> Result<Site, String> {
    site.proxy.stop();
    site.again()
}

/// A page of this path, which says so; by `Accept`, where its path says so; and tagged by its last word.
fn page(asked: &Asked, conn: &mut Conn) -> Outcome {
    let target = &asked.target;
    let varies = target.starts_with("/vary");
    let body = match varies {
        true => format!("{target} as {}", asked.field("accept")),
        false => format!("{target} {}", "x".repeat(2_000)),
    };
    let tag = target.rsplit('/').next().unwrap_or_default();
    let vary = if varies { "Vary: Accept\r\n" } else { "" };
    let fields = format!("{LONG}Surrogate-Key: {tag} all\r\n{vary}");
    answer(conn, 200, &fields, body.as_bytes())
}

const PURGER: &str = "[[route]]\npurge_from = [\"127.0.0.1\"]\n";

fn there_after_a_kill() -> Outcome {
    const PAGES: usize = 2_000;
    let origin = Origin::start(page)?;
    let site = Site::start(origin.address, PURGER)?;
    let mut client = site.client()?;
    let paths: Vec<_> = (0..PAGES).map(|n| format!("/{n}")).collect();
    for path in &paths {
        client.get(path, "")?.is(200)?;
    }
    for accept in ["text/html", "text/plain"] {
        client
            .get("/vary", &format!("Accept: {accept}\r\n"))?
            .is(200)?;
    }
    for path in ["/gone/tagged", "/soft/marked", "/gone/posted"] {
        client.get(path, "")?.is(200)?;
    }
    on_disk(&site, PAGES + 5)?;
    let mut purge = |fields: &str| client.ask("PURGE", "/", fields, b"")?.is(200);
    purge("Surrogate-Key: tagged\r\n")?;
    purge("Surrogate-Key: marked\r\nSoft-Purge: 1\r\n")?;
    client.ask("POST", "/gone/posted", "", b"x")?.is(200)?;
    // No second to make anything good.
    site.proxy.stop();
    drop(origin);
    let began = clock::now();
    let site = site.again()?;
    let mut client = site.client()?;
    for path in &paths {
        let reply = client.get(path, "")?.is(200)?;
        equal("a hit", reply.told("hit"), true)?;
        equal(
            "its own",
            reply.text().starts_with(&format!("{path} ")),
            true,
        )?;
    }
    println!(
        "{PAGES} pages within {:?} of the start",
        clock::now() - began
    );
    for accept in ["text/html", "text/plain"] {
        let fields = format!("Accept: {accept}\r\n");
        let reply = client.get("/vary", &fields)?.is(200)?;
        equal("its variant", reply.text(), format!("/vary as {accept}"))?;
    }
    for path in ["/gone/tagged", "/gone/posted"] {
        equal(path, client.get(path, "")?.status, 502)?;
    }
    let reply = client.get("/soft/marked", "")?.is(200)?;
    has("stale", reply.field("cache-status"), "detail=")?;
    Ok(())
}

fn looked_up() -> Outcome {
    const PAGES: usize = 1_000;
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let body = format!("{} {}", asked.target, "x".repeat(10_000));
        answer(conn, 200, LONG, body.as_bytes())
    })?;
    let site = Site::start(origin.address, "[cache]\nmax_memory = \"8MiB\"")?;
    let mut client = site.client()?;
    let paths: Vec<_> = (0..PAGES).map(|n| format!("/{n}")).collect();
    for path in &paths {
        client.get(path, "")?.is(200)?;
    }
    let held = || {
        let pages = site.metric("tidegate_snapshot_pages")?;
        Ok((pages as usize == PAGES).then_some(()))
    };
    // What was thrown out of memory before it was written is asked for again.
    eventually("all of them", || {
        for path in &paths {
            client.get(path, "")?.is(200)?;
        }
        held()
    })?;
    let before = origin.asked("GET");
    let site = killed(site)?;
    let mut client = site.client()?;
    for path in &paths {
        let reply = client.get(path, "")?.is(200)?;
        equal(
            "its own",
            reply.text().starts_with(&format!("{path} ")),
            true,
        )?;
        if reply.field("age").is_empty() {
            return Err(format!("{path} was asked for: {reply:?}"));
        }
    }
    equal("asked for again", origin.asked("GET"), before)
}

/// Sites beside each other, and how often each is killed.
const SITES: u64 = 4;
const KILLS: usize = 6;
const STABLE: usize = 30;

/// Pages that change whenever they are asked for: what each was last, and from which on it may be served.
struct Editions {
    next: AtomicU64,
    /// By page: the one that was purged last.
    purged: Mutex<Vec<u64>>,
}

fn kills() -> Outcome {
    let site = |seed| {
        thread::spawn(move || killed_often(seed).map_err(|why| format!("seed {seed}: {why}")))
    };
    let all: Vec<_> = (1..=SITES).map(site).collect();
    let ended = all
        .into_iter()
        .map(|site| site.join().unwrap_or(Err("it panicked".into())));
    ended.collect()
}

fn killed_often(seed: u64) -> Outcome {
    const PAGES: usize = 20;
    let mut dice = Dice::of(seed);
    let editions = Arc::new(Editions {
        next: AtomicU64::new(1),
        purged: Mutex::new(vec![0; PAGES]),
    });
    let at_origin = Arc::clone(&editions);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        if asked.target.starts_with("/stable") {
            return page(asked, conn);
        }
        let edition = at_origin.next.fetch_add(1, Ordering::SeqCst);
        let word = format!("{}:{edition} ", asked.target);
        let body = word.repeat(1 + (edition % 977) as usize);
        let tag = asked.target.trim_start_matches('/');
        answer(
            conn,
            200,
            &format!("{LONG}Surrogate-Key: p{tag}\r\n"),
            body.as_bytes(),
        )
    })?;
    let mut site = Site::start(origin.address, PURGER)?;
    let mut client = site.client()?;
    for n in 0..STABLE {
        client.get(&format!("/stable/{n}"), "")?.is(200)?;
    }
    on_disk(&site, STABLE)?;
    for kill in 0..KILLS {
        let at = Duration::from_micros(dice.below(400_000));
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for n in 0..3 {
                let (site, editions, over) = (&site, &editions, &over);
                let mut dice = Dice::of(seed * 1_000 + kill as u64 * 10 + n);
                scope.spawn(move || churn(site, editions, over, &mut dice));
            }
            thread::sleep(at);
            site.proxy.stop();
            over.store(true, Ordering::SeqCst);
        });
        let purged = lock(&editions.purged).clone();
        site = site.again()?;
        let told = |why: String| format!("kill {kill} after {at:?}: {why}");
        whole(&site, &purged).map_err(told)?;
    }
    Ok(())
}

/// Asks for pages and purges them by their tags, so that they come anew, until nobody answers.
fn churn(site: &Site, editions: &Editions, over: &AtomicBool, dice: &mut Dice) {
    let Ok(mut client) = site.client() else {
        return;
    };
    while !over.load(Ordering::SeqCst) {
        let n = dice.below(20) as usize;
        let path = format!("/{n}");
        let asked = match dice.below(3) {
            0 => {
                let before = editions.next.load(Ordering::SeqCst);
                let by_tag = format!("Surrogate-Key: p{n}\r\n");
                let (target, fields) = match dice.below(2) {
                    0 => (path.as_str(), ""),
                    _ => ("/", by_tag.as_str()),
                };
                let done = client.ask("PURGE", target, fields, b"");
                done.and_then(|reply| reply.is(200)).map(|_| {
                    let mut purged = lock(&editions.purged);
                    // Those that were given out by then had been asked for before.
                    purged[n] = purged[n].max(before);
                })
            }
            _ => client
                .get(&path, "")
                .and_then(|reply| reply.is(200))
                .map(drop),
        };
        if asked.is_err() {
            return;
        }
    }
}

/// What the next process has without asking anybody.
fn whole(site: &Site, purged: &[u64]) -> Outcome {
    let mut client = site.client()?;
    let mut stored = |path: &str| -> Result<Option<Reply>, String> {
        let reply = client.get(path, "Cache-Control: only-if-cached\r\n")?;
        match reply.status {
            504 => Ok(None),
            _ => reply.is(200).map(Some),
        }
    };
    for n in 0..STABLE {
        let path = format!("/stable/{n}");
        let reply = stored(&path)?.ok_or(format!("{path} is lost"))?;
        equal(
            "its own",
            reply.text().starts_with(&format!("{path} ")),
            true,
        )?;
    }
    for (n, purged) in purged.iter().enumerate() {
        let Some(reply) = stored(&format!("/{n}"))? else {
            continue;
        };
        let text = reply.text();
        let words: Vec<_> = text.split(' ').filter(|word| !word.is_empty()).collect();
        let edition = words[0].strip_prefix(&format!("/{n}:"));
        let edition: u64 = edition
            .and_then(|number| number.parse().ok())
            .ok_or(&*text)?;
        equal(
            "one edition",
            words.iter().all(|word| *word == words[0]),
            true,
        )?;
        equal("all of it", words.len(), 1 + (edition % 977) as usize)?;
        if edition < *purged {
            return Err(format!("/{n}: edition {edition} was purged, by {purged}"));
        }
    }
    equal("torn", site.metric("tidegate_snapshot_skipped_total")?, 0.0)
}

fn nothing_private() -> Outcome {
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let fields = match asked.target.as_str() {
            "/cookie" => format!("{LONG}Set-Cookie: SECRET=1\r\n"),
            _ => LONG.to_owned(),
        };
        let who = format!("{}{}", asked.field("authorization"), asked.field("cookie"));
        answer(
            conn,
            200,
            &fields,
            format!("{} {who}", asked.target).as_bytes(),
        )
    })?;
    let site = Site::start(origin.address, "[[route]]\nset_cookie = \"share\"")?;
    site.get("/authorized", "Authorization: Bearer SECRET\r\n")?
        .is(200)?;
    site.get("/known", "Cookie: session=SECRET\r\n")?.is(200)?;
    site.get("/cookie", "")?.is(200)?;
    site.get("/public", "")?.is(200)?;
    equal("stored", site.get("/cookie", "")?.told("hit"), true)?;
    on_disk(&site, 1)?;
    for file in fs::read_dir(site.proxy.state("snapshot")).map_err(|e| e.to_string())? {
        let file = file.map_err(|e| e.to_string())?.path();
        let bytes = fs::read(&file).map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&bytes);
        equal("a secret", text.contains("SECRET"), false)?;
    }
    let site = killed(site)?;
    let asked = origin.asked("GET");
    equal("public", site.get("/public", "")?.told("hit"), true)?;
    equal("asked", origin.asked("GET"), asked)?;
    site.get("/known", "")?.is(200)?;
    equal("asked", origin.asked("GET"), asked + 1)
}

fn another_app() -> Outcome {
    let origin = Origin::start(page)?;
    let site = Site::start(origin.address, "")?;
    site.get("/", "")?.is(200)?;
    on_disk(&site, 1)?;
    let other = Origin::start(|_, conn: &mut Conn| answer(conn, 200, LONG, b"other"))?;
    let path = site.dir.path().join("tidegate.toml");
    let text = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let text = text.replace(&origin.address.to_string(), &other.address.to_string());
    fs::write(&path, text).map_err(|e| e.to_string())?;
    let site = killed(site)?;
    equal("the page", site.get("/", "")?.text(), "other".to_owned())
}

fn full_disk() -> Outcome {
    let origin = Origin::start(page)?;
    // Files may have 20 kB, and who writes more is told.
    let first = "trap '' XFSZ; ulimit -f 40; exec";
    let site = Site::start_after(first, origin.address, "")?;
    let mut client = site.client()?;
    for round in 0..2 {
        for n in 0..200 {
            let reply = client.get(&format!("/{n}"), "")?.is(200)?;
            equal("a hit", reply.told("hit"), round == 1)?;
        }
    }
    site.until("tidegate_snapshot_skipped_total", |n| n > 0.0)?;
    let told = done(&site, "status")?;
    has("told", &told, "pages can't be written")?;
    site.proxy.healthy()?;
    // What could be written is whole.
    let pages = site.metric("tidegate_snapshot_pages")?;
    let site = killed(site)?;
    equal("pages", site.metric("tidegate_snapshot_pages")?, pages)
}

fn reloaded() -> Outcome {
    let origin = Origin::start(page)?;
    let site = Site::start(origin.address, "")?;
    let mut client = site.client()?;
    for n in 0..100 {
        client.get(&format!("/{n}"), "")?.is(200)?;
    }
    on_disk(&site, 100)?;
    has("told", &done(&site, "status")?, "100 pages on the disk")?;
    let path = site.dir.path().join("tidegate.toml");
    let before = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let with = |size: &str| -> Outcome {
        let text = format!("{before}\n[fallback]\nsnapshot = \"{size}\"\n");
        fs::write(&path, text).map_err(|e| e.to_string())?;
        done(&site, "reload").map(drop)
    };
    with("200kB")?;
    site.until("tidegate_snapshot_bytes", |bytes| {
        bytes > 0.0 && bytes <= 200_000.0
    })?;
    with("0")?;
    site.until("tidegate_snapshot_bytes", |bytes| bytes == 0.0)?;
    let status = site.proxy.api("GET", "/v1/status", "")?.json()?;
    equal("on", status["snapshot"]["on"].as_bool(), Some(false))?;
    equal("pages stay", client.get("/7", "")?.told("hit"), true)?;
    with("1MB")?;
    client.get("/new", "")?.is(200)?;
    on_disk(&site, 1)
}

fn successor() -> Outcome {
    let origin = Origin::start(page)?;
    let site = Site::start(origin.address, PURGER)?;
    for path in ["/a", "/b", "/c"] {
        site.get(path, "")?.is(200)?;
    }
    on_disk(&site, 3)?;
    let asked = origin.asked("GET");
    let config = site.dir.path().join("tidegate.toml");
    let new = waiting(&site, &config, "successor")?;
    signal(&site, "-QUIT")?;
    eventually("the end of the one before", || {
        Ok(site.proxy.alive().is_err().then_some(()))
    })?;
    for path in ["/a", "/b", "/c"] {
        equal(path, site.get(path, "")?.told("hit"), true)?;
    }
    equal("asked", origin.asked("GET"), asked)?;
    site.client()?.ask("PURGE", "/b", "", b"")?.is(200)?;
    site.get("/d", "")?.is(200)?;
    on_disk(&site, 3)?;
    drop(new);
    let site = site.again()?;
    let asked = origin.asked("GET");
    for path in ["/a", "/c", "/d"] {
        equal(path, site.get(path, "")?.told("hit"), true)?;
    }
    equal("asked", origin.asked("GET"), asked)?;
    equal("purged", site.get("/b", "")?.told("hit"), false)
}
