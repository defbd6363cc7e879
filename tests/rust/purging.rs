//! Purges under load: the hottest page costs one request, and a flood of them leaves the others as they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::levers::{done, has, refused};
use super::site::{Gate, Origin, Site, answer, crowd, equal, eventually};
use super::{Outcome, Test};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "purging::c42_the_hottest_page_is_fetched_once_after_a_purge",
            c42_hottest_page,
        ),
        (
            "purging::c55_a_flood_of_purges_costs_other_pages_nothing",
            c55_flood_of_purges,
        ),
        (
            "purging::a_flood_of_purges_by_tag_leaves_a_crowd_together",
            flood_on_a_crowd,
        ),
        (
            "purging::memory_of_what_is_purged_is_freed",
            memory_is_freed,
        ),
        ("purging::by_command", by_command),
        ("purging::by_the_admin_listener", by_the_admin_listener),
    ]
}

const PAGE: &str = "Cache-Control: max-age=600\r\nSurrogate-Key: hot\r\n";
/// As a client orders it: path and fields.
const ORDERS: [(&str, &str); 6] = [
    ("/", ""),
    ("/*", ""),
    ("/other", "Surrogate-Key: hot\r\n"),
    ("/", "Soft-Purge: 1\r\n"),
    ("/*", "Soft-Purge: 1\r\n"),
    ("/other", "Cache-Tag: hot\r\nSoft-Purge: 1\r\n"),
];

fn site(origin: &Origin) -> Result<Site, String> {
    Site::start(origin.address, "[[route]]\npurge_from = ['127.0.0.1']")
}

fn c42_hottest_page() -> Outcome {
    const VISITORS: usize = 16;
    let version = Arc::new(AtomicUsize::new(0));
    let at_origin = Arc::clone(&version);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        let version = at_origin.load(Ordering::SeqCst);
        // So long that many come meanwhile.
        thread::sleep(Duration::from_millis(20));
        answer(conn, 200, PAGE, version.to_string().as_bytes())
    })?;
    let site = site(&origin)?;
    let over = AtomicBool::new(false);
    let mut editor = site.client()?;
    editor.get("/", "")?.is(200)?;
    crowd(VISITORS + 1, |visitor| {
        if visitor < VISITORS {
            let mut client = site.client()?;
            while !over.load(Ordering::SeqCst) {
                client.get("/", "")?.is(200)?;
            }
            return Ok(());
        }
        let mut editor = site.client()?;
        let mut purges = || {
            for (n, (path, fields)) in (1..).zip(ORDERS.iter().chain(&ORDERS)) {
                version.store(n, Ordering::SeqCst);
                editor.ask("PURGE", path, fields, b"")?.is(200)?;
                eventually("the new page", || {
                    let page = editor.get("/", "")?.is(200)?;
                    Ok((page.text() == n.to_string()).then_some(()))
                })?;
                equal("requests to the origin", origin.asked("GET"), n + 1)?;
                // Refreshes are begun once a second.
                site.proxy.advance(Duration::from_secs(2))?;
            }
            Ok(())
        };
        let done = purges();
        over.store(true, Ordering::SeqCst);
        done
    })
}

fn c55_flood_of_purges() -> Outcome {
    const PAGES: usize = 50;
    let origin =
        Origin::start(|asked, conn: &mut Conn| answer(conn, 200, PAGE, asked.target.as_bytes()))?;
    let site = site(&origin)?;
    let mut client = site.client()?;
    for n in 0..PAGES {
        client.get(&format!("/{n}"), "")?.is(200)?;
    }
    let over = AtomicBool::new(false);
    let purges = AtomicUsize::new(0);
    crowd(6, |visitor| {
        let mut client = site.client()?;
        if visitor < 2 {
            let mut n = visitor;
            while !over.load(Ordering::SeqCst) {
                let (path, fields) = match n % 6 / 2 {
                    0 => (format!("/nothing/{n}"), String::new()),
                    1 => ("/".to_owned(), format!("Surrogate-Key: t{n}\r\n")),
                    _ => (format!("/below/{n}/*"), String::new()),
                };
                client.ask("PURGE", &path, &fields, b"")?.is(200)?;
                purges.fetch_add(1, Ordering::SeqCst);
                n += 2;
            }
            return Ok(());
        }
        let mut reads = || {
            let mut n = 0;
            while n < 2_000 || purges.load(Ordering::SeqCst) < 1_000 {
                let path = format!("/{}", n % PAGES);
                let page = client.get(&path, "")?.is(200)?;
                equal("a hit", page.told("hit"), true)?;
                equal("its text", page.text(), path)?;
                n += 1;
            }
            Ok(())
        };
        let done = reads();
        over.store(true, Ordering::SeqCst);
        done
    })?;
    equal("requests to the origin", origin.asked("GET"), PAGES)
}

/// Tags of a page are known when its head is there, so who comes after a purge waits for that; but with all others.
fn flood_on_a_crowd() -> Outcome {
    const VISITORS: usize = 24;
    let gate = Arc::new(Gate::default());
    let at_origin = Arc::clone(&gate);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        at_origin.wait();
        answer(conn, 200, PAGE, b"page")
    })?;
    let site = site(&origin)?;
    let mut editor = site.client()?;
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..VISITORS)
            .map(|n| {
                // Between any two of them comes a purge.
                let waiting = || {
                    let waiters = site.metric("tidegate_waiters")?;
                    Ok((waiters as usize >= n).then_some(()))
                };
                eventually("the visitor before", waiting)?;
                editor
                    .ask("PURGE", "/x", "Surrogate-Key: hot\r\n", b"")?
                    .is(200)?;
                let site = &site;
                Ok(scope.spawn(move || site.client()?.get("/", "")?.is(200).map(drop)))
            })
            .collect::<Result<_, String>>()?;
        eventually("all of them", || {
            let waiters = site.metric("tidegate_waiters")?;
            Ok((waiters as usize >= VISITORS).then_some(()))
        })?;
        gate.open();
        visitors
            .into_iter()
            .try_for_each(|visitor| visitor.join().unwrap_or(Err("it panicked".into())))
    })?;
    equal("requests to the origin", origin.asked("GET"), 2)
}

fn memory_is_freed() -> Outcome {
    const PAGES: usize = 200;
    let origin = Origin::start(|_, conn: &mut Conn| answer(conn, 200, PAGE, &[b'x'; 10_000]))?;
    let site = site(&origin)?;
    let mut client = site.client()?;
    for (path, fields) in [("/", "Surrogate-Key: hot\r\n"), ("/*", "")] {
        for n in 0..PAGES {
            client.get(&format!("/{n}"), "")?.is(200)?;
        }
        let full = site.metric("tidegate_cache_bytes")?;
        let told = client.ask("PURGE", path, fields, b"")?.is(200)?.text();
        equal("what it tells", told.contains("\"objects\":200,"), true)?;
        // Nobody asks for them, and most go all the same; what workers had at hand goes with the next that they have. The pass
        // gives way to all others, so on a busy machine it takes its time.
        let freed = || {
            let mut last = 0.0;
            let waited = eventually("memory that is given back", || {
                last = site.metric("tidegate_cache_bytes")?;
                Ok((last < full - (PAGES * 5_000) as f64).then_some(()))
            });
            waited.map_err(|why| format!("{why}: {last} of {full}"))
        };
        freed().or_else(|_| freed()).or_else(|_| freed())?;
    }
    Ok(())
}

/// Answers with a tag of the path's own and one of all, and how often it was asked.
fn counting() -> Result<(Origin, Site), String> {
    let asked = AtomicUsize::new(0);
    let origin = Origin::start(move |request, conn: &mut Conn| {
        let n = asked.fetch_add(1, Ordering::SeqCst) + 1;
        let fields = format!(
            "Cache-Control: max-age=600, stale-while-revalidate=600\r\nSurrogate-Key: all {}\r\n",
            request.target.trim_start_matches('/').replace('/', "-")
        );
        answer(conn, 200, &fields, n.to_string().as_bytes())
    })?;
    let site = Site::start(origin.address, "")?;
    site.proxy.healthy()?;
    Ok((origin, site))
}

const PATHS: [&str; 4] = ["/", "/blog/a", "/blog/b", "/other"];

/// Which pages have been fetched anew since the last time, by their numbers.
fn anew(site: &Site, seen: &mut [String; 4]) -> Result<Vec<&'static str>, String> {
    let mut client = site.client()?;
    let mut all = Vec::new();
    for (path, seen) in PATHS.iter().zip(seen) {
        let page = client.get(path, "")?.is(200)?.text();
        if *seen != page {
            all.push(*path);
            *seen = page;
        }
    }
    Ok(all)
}

fn by_command() -> Outcome {
    let (_origin, site) = counting()?;
    let mut seen = Default::default();
    anew(&site, &mut seen)?;
    equal("stored", anew(&site, &mut seen)?, vec![])?;
    let base = "http://a.test";
    let told = done(&site, "purge all --dry-run")?;
    has(
        "what would be",
        &told,
        "would be purged: 4 pages, 4 of them",
    )?;
    has("what would be", &told, "found ")?;
    equal("after a dry run", anew(&site, &mut seen)?, vec![])?;
    let commands: [(String, &str, &[&str]); 5] = [
        (
            format!("url {base}/blog/a"),
            "purged: 1 page\n",
            &["/blog/a"],
        ),
        (
            format!("prefix {base}/blog/"),
            "purged: 2 pages\n",
            &["/blog/a", "/blog/b"],
        ),
        (
            "tag other blog-b".into(),
            "purged: 2 pages\n        1  other\n",
            &["/blog/b", "/other"],
        ),
        ("host a.test".into(), "purged: 4 pages\n", &PATHS),
        ("all".into(), "purged: 4 pages\n", &PATHS),
    ];
    for (what, says, gone) in commands {
        let told = done(&site, &format!("purge {what} --reason wrong"))?;
        has(&what, &told, says)?;
        equal(&what, anew(&site, &mut seen)?, gone.to_vec())?;
    }
    // Softly: it is there while it is fetched.
    let told = done(&site, "purge tag blog-a --soft")?;
    has("soft", &told, "marked stale: 1 page\n")?;
    let stale = site.client()?.get("/blog/a", "")?.is(200)?;
    equal("softly", stale.text(), seen[1].clone())?;
    eventually("the new page", || {
        let page = site.client()?.get("/blog/a", "")?.is(200)?;
        Ok((page.text() != seen[1]).then_some(()))
    })?;
    // All of it is understood, or none of it is done.
    anew(&site, &mut seen)?;
    let why = refused(&site, &format!("purge url {base}/ nowhere"))?;
    has("no URL", &why, "\"nowhere\": a URL begins with http")?;
    equal("after a mistake", anew(&site, &mut seen)?, vec![])?;
    let audit = done(&site, "audit")?;
    has("audit", &audit, "wrong")?;
    has("audit", &audit, "4 answers")?;
    for (body, why) in [
        ("{}", "kind"),
        ("{\"kind\":\"all\",\"names\":[\"a\"]}", "takes no"),
        ("{\"kind\":\"tag\"}", "what to purge"),
        ("{\"kind\":\"tag\",\"names\":[\"\"]}", "1 to 1,024"),
        ("{\"kind\":\"host\",\"names\":[\"a b\"]}", "a b"),
        ("{\"kind\":\"all\",\"sofd\":true}", "sofd"),
    ] {
        let told = site.proxy.api("POST", "/v1/purge", body)?;
        equal(body, told.status, 400)?;
        has(body, &told.body, why)?;
    }
    equal("after mistakes", anew(&site, &mut seen)?, vec![])
}

fn by_the_admin_listener() -> Outcome {
    let (_origin, site) = counting()?;
    let mut seen = Default::default();
    anew(&site, &mut seen)?;
    let host = "Host: a.test\r\n".to_owned();
    let token = format!("Authorization: Bearer {}\r\n{host}", site.proxy.token()?);
    let purges: [(&str, &str, &[&str]); 4] = [
        ("/blog/a", "", &["/blog/a"]),
        ("/blog/*", "", &["/blog/a", "/blog/b"]),
        (
            "/",
            "Surrogate-Key: other blog-b\r\n",
            &["/blog/b", "/other"],
        ),
        ("/other", "Cache-Tag: all\r\n", &PATHS),
    ];
    for (target, fields, gone) in purges {
        // Who has no token changes nothing, nor does a browser.
        for (bad, status) in [
            (host.clone(), 401),
            (format!("Authorization: Bearer wrong\r\n{host}"), 401),
            (format!("{token}Origin: http://evil.example\r\n"), 403),
        ] {
            let told = site
                .proxy
                .api_with("PURGE", target, &format!("{bad}{fields}"), "")?;
            equal("a stranger", told.status, status)?;
        }
        equal("strangers", anew(&site, &mut seen)?, vec![])?;
        let told = site
            .proxy
            .api_with("PURGE", target, &format!("{token}{fields}"), "")?;
        equal(target, told.status, 200)?;
        equal(target, anew(&site, &mut seen)?, gone.to_vec())?;
    }
    let soft = format!("{token}Soft-Purge: 1\r\n");
    let told = site.proxy.api_with("PURGE", "/other", &soft, "")?;
    has("soft", &told.body, "\"soft\":true")?;
    // On the visitors' listener it is no method without `purge_from`.
    site.client()?.ask("PURGE", "/", "", b"")?.is(405)?;
    let audit = done(&site, "audit")?;
    has("audit", &audit, "PURGE /blog/*")
}
