//! What visitors get while an app is gone: cached pages, however stale, files, the maintenance page; and who may still ask it.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::http2::{self, H2C};
use super::levers::{done, has, refused};
use super::reloads::{change, with};
use super::site::{Gate, Origin, Reply, Site, answer, crowd, equal, eventually};
use super::tls;
use super::{Outcome, Test};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("fallback::on_at_once_and_off_at_once", at_once),
        (
            "fallback::what_forbids_stale_use_is_served_and_nobody_keeps_it",
            forbidden,
        ),
        (
            "fallback::an_identified_visitor_gets_the_strangers_page",
            identified,
        ),
        ("fallback::a_fresh_page_is_the_page", fresh),
        ("fallback::files_stand_in_for_pages", files),
        ("fallback::c56_nothing_outside_the_directory", c56_outside),
        ("fallback::an_own_page_and_who_asks_for_json", own_page),
        ("fallback::who_waits_for_the_app_is_answered", who_waits),
        ("fallback::one_route_and_not_the_others", one_route),
        ("fallback::over_http2", over_http2),
        ("fallback::over_tls", over_tls),
        ("fallback::by_itself_where_a_breaker_is_open", by_a_breaker),
        ("fallback::by_itself_where_all_servers_are_ill", by_health),
        ("fallback::nobody_goes_to_the_app_but_to_see", only_to_see),
        (
            "fallback::an_app_that_nobody_reads_is_found_again",
            posts_alone,
        ),
        (
            "fallback::what_a_route_caches_no_more_is_nobodys",
            not_cached_any_more,
        ),
        ("fallback::a_drill_leaves_a_bypass_alone", drill_bypass),
        (
            "fallback::a_drill_asks_the_app_where_there_is_nothing",
            drill,
        ),
        ("fallback::what_would_be_there_is_told_before", check),
        ("fallback::an_export_is_a_site_that_can_be_served", export),
        ("fallback::the_last_good_copy_on_the_disk", from_disk),
        ("fallback::c57_flips_mix_nothing_and_fail_nobody", c57_flips),
    ]
}

const STRICT: &str = "Cache-Control: max-age=10, must-revalidate\r\nETag: \"v1\"\r\n";

/// What is to be kept by path: `/strict` forbids stale use, `/fresh` lives for long, `/silent` says nothing.
struct App {
    origin: Origin,
    is_gone: Arc<AtomicBool>,
}

impl App {
    fn goes(&self, gone: bool) {
        self.is_gone.store(gone, Ordering::SeqCst);
    }
}

fn pages() -> Result<App, String> {
    let is_gone = Arc::new(AtomicBool::new(false));
    let at_origin = Arc::clone(&is_gone);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        if at_origin.load(Ordering::SeqCst) {
            return Err("gone".into());
        }
        let (path, _) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let keep = match path {
            "/strict" => STRICT,
            "/fresh" => "Cache-Control: max-age=3600\r\n",
            "/silent" => "",
            "/error" => return answer(conn, 500, "Cache-Control: max-age=3600\r\n", b"error"),
            _ => "Cache-Control: no-store\r\n",
        };
        answer(conn, 200, keep, b"live")
    })?;
    Ok(App { origin, is_gone })
}

/// A site whose app was there until now, and is not any more.
fn left_alone(config: &str, warm: &[&str]) -> Result<Site, String> {
    let app = pages()?;
    let site = Site::start(app.origin.address, config)?;
    site.proxy.healthy()?;
    for path in warm {
        site.get(path, "")?;
    }
    app.goes(true);
    Ok(site)
}

fn from(reply: &Reply) -> &str {
    reply.field("tidegate-fallback")
}

/// An answer from there, which nobody keeps.
fn is_from(reply: Reply, status: u16, source: &str) -> Result<Reply, String> {
    let reply = reply.is(status)?;
    equal("source", from(&reply), source)?;
    equal("told", reply.told("detail=fallback"), true)?;
    equal("kept", reply.field("cache-control"), "no-store")?;
    Ok(reply)
}

fn counted(site: &Site, source: &str) -> Result<f64, String> {
    let labels = [("source".to_owned(), source.to_owned())];
    let count = site
        .proxy
        .metric("tidegate_fallback_answers_total", &labels)?;
    Ok(count.unwrap_or(0.0))
}

fn at_once() -> Outcome {
    let app = pages()?;
    let site = Site::start(
        app.origin.address,
        "[[upstream]]\nbreaker_after = 0\neject_after = 0\nretries = 0\n",
    )?;
    site.proxy.healthy()?;
    site.get("/strict", "")?.is(200)?;
    app.goes(true);
    site.proxy.advance(Duration::from_secs(3600))?;
    equal("gone", site.get("/strict", "")?.status, 502)?;
    has(
        "told",
        &done(&site, "fallback on --reason outage")?,
        "fallback",
    )?;
    is_from(site.get("/strict", "")?, 200, "cache")?;
    let page = is_from(site.get("/other", "")?, 503, "maintenance")?;
    let after: u64 = page
        .field("retry-after")
        .parse()
        .map_err(|_| "no Retry-After")?;
    equal("later", (30..=60).contains(&after), true)?;
    has("page", &page.text(), "<html")?;
    let mut client = site.client()?;
    for (method, body) in [("POST", &b"x"[..]), ("DELETE", b""), ("OPTIONS", b"")] {
        let mut client = site.client()?;
        is_from(client.ask(method, "/strict", "", body)?, 503, "refused")?;
    }
    let head = client.ask("HEAD", "/other", "", b"")?;
    equal(
        "head",
        (head.status, from(&head), head.body.len()),
        (503, "maintenance", 0),
    )?;
    equal("active", site.metric("tidegate_fallback_active")?, 1.0)?;
    equal("cache", counted(&site, "cache")?, 1.0)?;
    equal("maintenance", counted(&site, "maintenance")?, 2.0)?;
    equal("refused", counted(&site, "refused")?, 3.0)?;
    let status = done(&site, "fallback status")?;
    has("status", &status, ": on")?;
    has("who", &status, ": outage")?;

    let before = app.origin.asked("");
    app.goes(false);
    is_from(site.get("/strict", "")?, 200, "cache")?;
    equal("asked", app.origin.asked(""), before)?;
    done(&site, "fallback off")?;
    let live = site.get("/strict", "")?.is(200)?;
    equal(
        "live",
        (app.origin.asked(""), from(&live)),
        (before + 1, ""),
    )?;
    equal("active", site.metric("tidegate_fallback_active")?, 0.0)?;
    has(
        "off",
        &refused(&site, "fallback off")?,
        "nobody has pulled it",
    )
}

fn forbidden() -> Outcome {
    let site = left_alone("", &["/strict", "/error"])?;
    site.proxy.advance(Duration::from_secs(3600))?;
    done(&site, "fallback on --for 1h")?;
    let page = is_from(site.get("/strict", "")?, 200, "cache")?;
    equal(
        "age",
        page.field("age")
            .parse::<u64>()
            .is_ok_and(|age| age >= 3600),
        true,
    )?;
    equal("etag", page.field("etag"), "\"v1\"")?;
    let known = is_from(
        site.get("/strict", "If-None-Match: \"v1\"\r\n")?,
        304,
        "cache",
    )?;
    equal("nothing more", known.body.len(), 0)?;
    let part = is_from(site.get("/strict", "Range: bytes=1-2\r\n")?, 206, "cache")?;
    equal("part", part.text(), "iv".to_owned())?;
    // An error that is cached is no page.
    is_from(site.get("/error", "")?, 503, "maintenance")?;
    // It is over by itself.
    site.proxy.advance(Duration::from_secs(3601))?;
    site.until("tidegate_fallback_active", |active| active == 0.0)?;
    equal("gone", site.get("/strict", "")?.status >= 500, true)
}

fn identified() -> Outcome {
    let config = "[[route]]\ndefault_ttl = \"10s\"\n";
    let site = left_alone(config, &["/silent"])?;
    let cookie = "Cookie: session=a\r\n";
    equal("theirs", site.get("/silent", cookie)?.status >= 500, true)?;
    done(&site, "fallback on")?;
    for fields in [cookie, "Authorization: Basic x\r\n"] {
        is_from(site.get("/silent", fields)?, 200, "cache")?;
    }
    Ok(())
}

fn fresh() -> Outcome {
    let site = left_alone("", &["/fresh"])?;
    done(&site, "fallback on")?;
    let page = site.get("/fresh", "")?.is(200)?;
    equal("kept", page.field("cache-control"), "max-age=3600")?;
    equal("source", from(&page), "cache")?;
    equal("told", page.told("detail=fallback"), true)?;
    site.proxy.advance(Duration::from_secs(3601))?;
    is_from(site.get("/fresh", "")?, 200, "cache").map(drop)
}

/// A site in fallback, with files.
fn with_files(put: impl Fn(&Path)) -> Result<(tempfile::TempDir, Site), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    put(folder.path());
    let config = format!(
        "[cache]\nmax_object_size = \"64KiB\"\n[fallback]\ndir = {:?}\n",
        folder.path()
    );
    let site = left_alone(&config, &[])?;
    done(&site, "fallback on")?;
    Ok((folder, site))
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

fn files() -> Outcome {
    let (folder, site) = with_files(|folder| {
        write(&folder.join("index.html"), "home");
        write(&folder.join("about.html"), "about us");
        write(&folder.join("site.css"), "as it is");
        write(&folder.join("site.css.br"), "br");
        write(&folder.join("list?page=2.html"), "second");
        write(&folder.join("b.test/index.html"), "home of b");
    })?;
    let page = is_from(site.get("/about", "")?, 200, "file")?;
    equal(
        "type",
        page.field("content-type"),
        "text/html; charset=utf-8",
    )?;
    equal("sniffed", page.field("x-content-type-options"), "nosniff")?;
    equal("text", page.text(), "about us".to_owned())?;
    let fields = format!("If-None-Match: {}\r\n", page.field("etag"));
    is_from(site.get("/about", &fields)?, 304, "file")?;
    let part = is_from(site.get("/about", "Range: bytes=0-4\r\n")?, 206, "file")?;
    equal("part", part.text(), "about".to_owned())?;
    equal("of", part.field("content-range"), "bytes 0-4/8")?;
    let mut client = site.client()?;
    let head = is_from(client.ask("HEAD", "/about", "", b"")?, 200, "file")?;
    equal("length", head.field("content-length"), "8")?;
    for (path, text) in [
        ("/", "home"),
        ("/about?x=1", "about us"),
        ("/list?page=2", "second"),
    ] {
        equal(
            path,
            is_from(client.get(path, "")?, 200, "file")?.text(),
            text.to_owned(),
        )?;
    }
    is_from(client.get("/list", "")?, 503, "maintenance")?;
    let coded = is_from(
        client.get("/site.css", "Accept-Encoding: gzip, br\r\n")?,
        200,
        "file",
    )?;
    equal(
        "coding",
        (coded.field("content-encoding"), coded.text().as_str()),
        ("br", "br"),
    )?;
    equal("vary", coded.field("vary"), "Accept-Encoding")?;
    let plain = is_from(client.get("/site.css", "")?, 200, "file")?;
    equal(
        "plain",
        (plain.field("content-encoding"), plain.text().as_str()),
        ("", "as it is"),
    )?;
    client.raw(b"GET / HTTP/1.1\r\nHost: B.test:80\r\n\r\n")?;
    equal(
        "of b",
        is_from(client.reply("GET")?, 200, "file")?.text(),
        "home of b".to_owned(),
    )?;
    // What changes is seen at once.
    write(&folder.path().join("about.html"), "news");
    equal(
        "changed",
        is_from(client.get("/about", "")?, 200, "file")?.text(),
        "news".to_owned(),
    )
}

fn c56_outside() -> Outcome {
    let outside = tempfile::tempdir().map_err(|e| e.to_string())?;
    write(&outside.path().join("secret.html"), "secret");
    let name = outside.path().file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let (folder, site) = with_files(|folder| {
        write(&folder.join("index.html"), "home");
        write(&folder.join(".env"), "secret");
        write(&folder.join("large.html"), &"x".repeat(65 * 1024));
        symlink(outside.path(), folder.join("out")).expect("a link");
        symlink(outside.path().join("secret.html"), folder.join("link.html")).expect("a link");
        symlink("/dev/zero", folder.join("zero.html")).expect("a link");
        symlink("/proc/self/root", folder.join("root")).expect("a link");
        fs::create_dir(folder.join("folder.html")).expect("a folder");
        let made = Command::new("mkfifo")
            .arg(folder.join("pipe.html"))
            .status();
        assert!(made.is_ok_and(|made| made.success()), "a pipe");
    })?;
    let up = format!("/../{name}/secret.html");
    let mut paths: Vec<String> = [
        up.as_str(),
        "/..%2f",
        "/..%2fetc%2fpasswd",
        "/%2e%2e/etc/passwd",
    ]
    .map(str::to_owned)
    .into();
    for path in [
        "/%252e%252e/etc/passwd",
        "/..%252fetc/passwd",
        "/.%2e/.%2e/etc/passwd",
        "/a/../../etc/passwd",
        "/..%5c..%5cetc/passwd",
        "/index.html%00.css",
        "/%00",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/./index.html",
        "/out/secret.html",
        "/out/secret",
        "/link",
        "/link.html",
        "/zero",
        "/root/etc/passwd",
        "/folder",
        "/folder.html",
        "/pipe",
        "/large",
        "/.env",
    ] {
        paths.push(path.to_owned());
    }
    paths.push(up.replace("..", "%2e%2e").replace("/secret", "%2fsecret"));
    for path in &paths {
        let reply = site.get(path, "")?;
        is_from(reply, 503, "maintenance").map_err(|why| format!("{path}: {why}"))?;
    }
    equal(
        "home",
        is_from(site.get("/", "")?, 200, "file")?.text(),
        "home".to_owned(),
    )?;
    // A file that is swapped for a link again and again is read as itself or not at all.
    let page = folder.path().join("swapped.html");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (file, link) = (folder.path().join("file"), folder.path().join("a-link"));
            while !over.load(Ordering::SeqCst) {
                let _ = fs::write(&file, "page");
                let _ = fs::rename(&file, &page);
                let _ = symlink(outside.path().join("secret.html"), &link);
                let _ = fs::rename(&link, &page);
            }
        });
        let reads = || {
            let (mut client, mut files) = (site.client()?, 0);
            for _ in 0..500 {
                let reply = client.get("/swapped", "")?;
                match reply.status {
                    200 => {
                        files += 1;
                        equal(
                            "file",
                            is_from(reply, 200, "file")?.text(),
                            "page".to_owned(),
                        )?;
                    }
                    _ => drop(is_from(reply, 503, "maintenance")?),
                }
            }
            equal("some", files > 0, true)
        };
        let done = reads();
        over.store(true, Ordering::SeqCst);
        done
    })
}

fn own_page() -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let page = folder.path().join("own.html");
    write(&page, "<p>our own page");
    let config = format!("[fallback]\npage = {page:?}\nretry_after = \"2m\"\n");
    let site = left_alone(&config, &[])?;
    done(&site, "fallback on")?;
    let reply = is_from(
        site.get("/", "Accept: text/html, */*\r\n")?,
        503,
        "maintenance",
    )?;
    equal("page", reply.text(), "<p>our own page".to_owned())?;
    let after = reply.field("retry-after").parse::<u64>();
    equal(
        "later",
        after.is_ok_and(|after| (120..=180).contains(&after)),
        true,
    )?;
    let json = is_from(
        site.get("/", "Accept: application/json\r\n")?,
        503,
        "maintenance",
    )?;
    equal(
        "type",
        json.field("content-type"),
        "application/problem+json",
    )?;
    has("problem", &json.text(), "\"status\":503")
}

fn who_waits() -> Outcome {
    const VISITORS: usize = 20;
    let gate = Arc::new(Gate::default());
    let at_origin = Arc::clone(&gate);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        at_origin.wait();
        answer(conn, 200, "Cache-Control: max-age=60\r\n", b"late")
    })?;
    let site = Site::start(origin.address, "")?;
    site.proxy.healthy()?;
    thread::scope(|scope| {
        let visit = |n: usize| {
            let site = &site;
            move || is_from(site.get(&format!("/{}", n % 3), "")?, 503, "maintenance").map(drop)
        };
        let visitors: Vec<_> = (0..VISITORS).map(|n| scope.spawn(visit(n))).collect();
        site.until("tidegate_waiters", |waiting| waiting == VISITORS as f64)?;
        done(&site, "fallback on")?;
        let mut visitors = visitors.into_iter();
        visitors.try_for_each(|one| one.join().unwrap_or(Err("it panicked".into())))
    })?;
    equal("asked", origin.asked("GET"), 3)?;
    gate.open();
    // What was on its way is kept all the same.
    eventually("the page", || {
        let reply = site.get("/0", "")?;
        Ok((from(&reply) == "cache").then_some(()))
    })
}

fn one_route() -> Outcome {
    let config = "[[route]]\nname = \"rest\"\n[[route]]\nname = \"shop\"\npath = \"/shop\"\n";
    let app = pages()?;
    let site = Site::start(app.origin.address, config)?;
    site.proxy.healthy()?;
    has(
        "unknown",
        &refused(&site, "fallback on --route shp")?,
        "is it \"shop\"?",
    )?;
    done(&site, "fallback on --route shop")?;
    is_from(site.get("/shop/1", "")?, 503, "maintenance")?;
    equal(
        "live",
        site.get("/other", "")?.is(200)?.text(),
        "live".to_owned(),
    )?;
    has(
        "none",
        &refused(&site, "fallback off --route rest")?,
        "for this route",
    )?;
    // Another process has it on still.
    let site = site.again()?;
    site.proxy.healthy()?;
    is_from(site.get("/shop/1", "")?, 503, "maintenance")?;
    done(&site, "fallback off --route shop")?;
    equal(
        "live",
        site.get("/shop/1", "")?.is(200)?.text(),
        "live".to_owned(),
    )
}

fn over_http2() -> Outcome {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    write(&folder.path().join("about.html"), "about us");
    let config = format!("{H2C}[fallback]\ndir = {:?}\n", folder.path());
    let site = left_alone(&config, &["/strict"])?;
    done(&site, "fallback on")?;
    let client = http2::Client::connect(site.address)?;
    for (path, status, source, text) in [
        ("/strict", 200, "cache", "live"),
        ("/about", 200, "file", "about us"),
        ("/none", 503, "maintenance", "<!doctype"),
    ] {
        let reply = client.get(path)?;
        equal(
            path,
            (reply.status, reply.field("tidegate-fallback")),
            (status, source),
        )?;
        has(path, &String::from_utf8_lossy(&reply.body), text)?;
    }
    Ok(())
}

fn over_tls() -> Outcome {
    let app = pages()?;
    let folder = tls::Folder::new()?;
    let trusted = folder.write("a", &["a.test"])?;
    write(&folder.path("static").join("about.html"), "about us");
    let more = format!(
        "[fallback]\ndir = {:?}\n[[route]]\nhsts = \"1d\"\n",
        folder.path("static")
    );
    let config = tls::config(&[folder.path("a")], &more);
    let site = Site::start(app.origin.address, &config)?;
    site.proxy.healthy()?;
    done(&site, "fallback on")?;
    let stream = TcpStream::connect(site.address).map_err(|e| e.to_string())?;
    let client = http2::Client::over(stream, Some(tls::trusting(&trusted, None)?))?;
    let request = http::Request::get("https://a.test/about");
    let request = request.body(()).map_err(|e| e.to_string())?;
    let reply = client.ask(request, None)?;
    equal(
        "http2",
        (reply.status, reply.field("tidegate-fallback")),
        (200, "file"),
    )?;
    equal(
        "hsts",
        reply.field("strict-transport-security").is_empty(),
        false,
    )?;
    let stream = TcpStream::connect(site.address).map_err(|e| e.to_string())?;
    let mut client = tls::over(stream, "a.test", tls::trusting(&trusted, None)?)?;
    let text = tls::get(&mut client, "a.test", "/none")?;
    has("status", &text, "HTTP/1.1 503 ")?;
    has("source", &text, "Tidegate-Fallback: maintenance\r\n")
}

fn only_to_see() -> Outcome {
    let is_back = Arc::new(AtomicBool::new(true));
    let at_origin = Arc::clone(&is_back);
    let origin =
        Origin::start(
            move |asked, conn: &mut Conn| match at_origin.load(Ordering::SeqCst) {
                true if asked.target == "/page" => {
                    answer(conn, 200, "Cache-Control: max-age=1\r\n", b"live")
                }
                true => answer(conn, 200, "Cache-Control: no-store\r\n", b"live"),
                false => Err("gone".into()),
            },
        )?;
    let site = Site::start(origin.address, "[[upstream]]\nretries = 0\n")?;
    site.proxy.healthy()?;
    site.get("/page", "")?.is(200)?;
    // While the breaker is closed nobody goes at all.
    done(&site, "fallback on")?;
    site.proxy.advance(Duration::from_secs(10))?;
    for _ in 0..20 {
        is_from(site.get("/page", "")?, 200, "cache")?;
        is_from(site.get("/none", "")?, 503, "maintenance")?;
    }
    equal("asked", origin.asked("GET"), 1)?;
    done(&site, "fallback off")?;
    is_back.store(false, Ordering::SeqCst);
    eventually("an open breaker", || {
        site.get("/other", "")?;
        Ok((site.metric("tidegate_origin_breaker_state")? == 2.0).then_some(()))
    })?;
    done(&site, "fallback on")?;
    let before = origin.asked("GET");
    is_back.store(true, Ordering::SeqCst);
    // Somebody goes to see, and nobody waits for that.
    eventually("a closed breaker", || {
        is_from(site.get("/none", "")?, 503, "maintenance")?;
        Ok((site.metric("tidegate_origin_breaker_state")? == 0.0).then_some(()))
    })?;
    let seen = origin.asked("GET") - before;
    equal("went to see", (1..=3).contains(&seen), true)?;
    let asked = origin.asked("GET");
    for _ in 0..20 {
        site.get("/another", "")?;
    }
    equal("nobody else", origin.asked("GET"), asked)
}

/// An app without a health check: whether it is back is found out by who asks for a page.
fn by_a_breaker() -> Outcome {
    let app = pages()?;
    let config = "[fallback]\nauto = true\nauto_after = \"5s\"\nauto_hold = \"10s\"\n";
    let site = Site::start(app.origin.address, config)?;
    site.proxy.healthy()?;
    site.get("/strict", "")?.is(200)?;
    site.proxy.advance(Duration::from_secs(60))?;
    app.goes(true);
    eventually("an open breaker", || {
        site.get("/other", "")?;
        Ok((site.metric("tidegate_origin_breaker_state")? >= 1.0).then_some(()))
    })?;
    // Before its time is over all is as ever.
    let early = site.get("/strict", "")?;
    equal("early", (early.status >= 500, from(&early)), (true, ""))?;
    site.proxy.advance(Duration::from_secs(6))?;
    site.until("tidegate_fallback_active", |active| active == 1.0)?;
    is_from(site.get("/strict", "")?, 200, "cache")?;
    has("status", &done(&site, "fallback status")?, "on, by itself")?;
    has(
        "off",
        &refused(&site, "fallback off")?,
        "nobody has pulled it",
    )?;
    app.goes(false);
    let before = app.origin.asked("");
    eventually("a closed breaker", || {
        is_from(site.get("/other", "")?, 503, "maintenance")?;
        Ok((site.metric("tidegate_origin_breaker_state")? == 0.0).then_some(()))
    })?;
    let seen = app.origin.asked("") - before;
    equal("went to see", (1..=3).contains(&seen), true)?;
    // It has to stay so for a while. The thread that looks has seen it by the time that it sees the next change.
    site.proxy.advance(Duration::from_millis(9_000))?;
    is_from(site.get("/strict", "")?, 200, "cache")?;
    eventually("a look", || {
        site.proxy.advance(Duration::from_millis(500))?;
        let active = site.metric("tidegate_fallback_active")?;
        Ok((active == 0.0).then_some(()))
    })?;
    equal(
        "live",
        site.get("/strict", "")?.is(200)?.text(),
        "live".to_owned(),
    )?;
    equal("turns", site.metric("tidegate_fallback_turns_total")?, 2.0)?;
    let audit = done(&site, "audit")?;
    has("audit", &audit, "fallback on")?;
    has("audit", &audit, "fallback off")
}

/// It goes off by itself for an app that gets no reads, by one of those who want something else.
fn posts_alone() -> Outcome {
    let app = pages()?;
    let config = "[fallback]\nauto = true\nauto_after = \"0s\"\nauto_hold = \"0s\"\n";
    let site = Site::start(app.origin.address, config)?;
    site.proxy.healthy()?;
    let post = || site.client()?.ask("POST", "/order", "", b"x");
    post()?.is(200)?;
    app.goes(true);
    eventually("fallback", || {
        equal("refused", post()?.status >= 500, true)?;
        Ok((site.metric("tidegate_fallback_active")? == 1.0).then_some(()))
    })?;
    // Where somebody has said that the app is gone nobody changes anything there, though it is time to see.
    done(&site, "fallback on")?;
    site.proxy.advance(Duration::from_secs(60))?;
    let before = app.origin.asked("POST");
    for _ in 0..3 {
        is_from(post()?, 503, "refused")?;
    }
    equal("asked", app.origin.asked("POST"), before)?;
    done(&site, "fallback off")?;
    app.goes(false);
    let mut refused = 0;
    eventually("an answer of the app", || {
        let reply = post()?;
        if reply.status == 200 {
            return Ok(Some(()));
        }
        refused += 1;
        is_from(reply, 503, "refused").map(|_| None)
    })?;
    let asked = app.origin.asked("POST") - before;
    equal(
        &format!("{asked} asked, {refused} refused"),
        (1..=3).contains(&asked),
        true,
    )?;
    site.until("tidegate_fallback_active", |active| active == 0.0)?;
    post()?.is(200).map(drop)
}

/// A route that was told to cache nothing: neither in fallback nor in a drill nor live does anybody get what it has stored before.
fn not_cached_any_more() -> Outcome {
    let app = pages()?;
    let site = Site::start(app.origin.address, "")?;
    site.proxy.healthy()?;
    site.get("/fresh", "")?.is(200)?;
    site.until("tidegate_snapshot_pages", |pages| pages == 1.0)?;
    done(&site, "fallback drill --share 100%")?;
    equal(
        "drill",
        from(&site.get("/fresh", "")?.is(200)?),
        "cache; drill",
    )?;
    change(&site, &with(&site, "[[route]]\ncache = false\n")?)?;
    let asked = app.origin.asked("");
    equal("drill", from(&site.get("/fresh", "")?.is(200)?), "")?;
    equal("live", app.origin.asked(""), asked + 1)?;
    done(&site, "fallback on")?;
    is_from(site.get("/fresh", "")?, 503, "maintenance")?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let dir = folder.path().join("site");
    let told = done(&site, &format!("fallback export {}", dir.display()))?;
    has("export", &told, "0 pages")
}

/// What goes past the cache by a rule or lever is not tried; without the app there is nothing else than what strangers get.
fn drill_bypass() -> Outcome {
    let app = pages()?;
    let config = "[[rule]]\nname = 'preview'\nwhen = \"'x-preview' in headers\"\naction = 'bypass'\n\
                  [[route]]\nname = 'all'\n";
    let site = Site::start(app.origin.address, config)?;
    site.proxy.healthy()?;
    site.get("/fresh", "")?.is(200)?;
    done(&site, "fallback drill --share 100%")?;
    let asked = app.origin.asked("");
    let preview = "X-Preview: 1\r\n";
    equal("tried", from(&site.get("/fresh", "")?), "cache; drill")?;
    equal("preview", from(&site.get("/fresh", preview)?.is(200)?), "")?;
    equal("asked", app.origin.asked(""), asked + 1)?;
    done(&site, "bypass all")?;
    equal("bypassed", from(&site.get("/fresh", "")?.is(200)?), "")?;
    equal("asked", app.origin.asked(""), asked + 2)?;
    done(&site, "fallback on")?;
    equal("gone", from(&site.get("/fresh", preview)?), "cache")
}

fn by_health() -> Outcome {
    let is_ill = Arc::new(AtomicBool::new(false));
    let at_origin = Arc::clone(&is_ill);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        let status = match asked.target == "/healthz" && at_origin.load(Ordering::SeqCst) {
            true => 500,
            false => 200,
        };
        answer(conn, status, "Cache-Control: no-store\r\n", b"live")
    })?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    write(&folder.path().join("index.html"), "home");
    // A directory says that it is to go on by itself.
    let config = format!(
        "[[upstream]]\nhealth = \"http\"\nhealth_path = \"/healthz\"\nhealth_interval = \"100ms\"\n\
         [fallback]\ndir = {:?}\nauto_after = \"0s\"\nauto_hold = \"0s\"\n",
        folder.path()
    );
    let site = Site::start(origin.address, &config)?;
    site.proxy.healthy()?;
    equal(
        "live",
        site.get("/", "")?.is(200)?.text(),
        "live".to_owned(),
    )?;
    is_ill.store(true, Ordering::SeqCst);
    site.until("tidegate_fallback_active", |active| active == 1.0)?;
    let asked = origin.asked("GET /x");
    equal(
        "home",
        is_from(site.get("/", "")?, 200, "file")?.text(),
        "home".to_owned(),
    )?;
    is_from(site.get("/x", "")?, 503, "maintenance")?;
    equal("asked", origin.asked("GET /x"), asked)?;
    is_ill.store(false, Ordering::SeqCst);
    site.until("tidegate_fallback_active", |active| active == 0.0)?;
    equal(
        "live",
        site.get("/", "")?.is(200)?.text(),
        "live".to_owned(),
    )
}

fn drill() -> Outcome {
    let app = pages()?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    write(&folder.path().join("about.html"), "about us");
    let config = format!("[fallback]\ndir = {:?}\n", folder.path());
    let site = Site::start(app.origin.address, &config)?;
    site.proxy.healthy()?;
    site.get("/strict", "")?.is(200)?;
    site.proxy.advance(Duration::from_secs(60))?;
    has(
        "share",
        &refused(&site, "fallback drill --share 0.00001%")?,
        "more than 0 %",
    )?;
    has(
        "for a while",
        &done(&site, "fallback drill --share 100%")?,
        "for another 10 min",
    )?;
    let asked = app.origin.asked("");
    let kept = site.get("/strict", "")?.is(200)?;
    equal(
        "kept",
        (from(&kept), kept.field("cache-control")),
        ("cache; drill", "no-store"),
    )?;
    let file = site.get("/about", "")?.is(200)?;
    equal(
        "file",
        (from(&file), file.text().as_str()),
        ("file; drill", "about us"),
    )?;
    equal("asked", app.origin.asked(""), asked)?;
    // Where there is nothing, for somebody in particular, and for what changes something the app answers.
    equal("nothing", from(&site.get("/none", "")?.is(200)?), "")?;
    equal(
        "own",
        from(&site.get("/strict", "Cookie: session=a\r\n")?.is(200)?),
        "",
    )?;
    let mut client = site.client()?;
    equal(
        "post",
        from(&client.ask("POST", "/about", "", b"x")?.is(200)?),
        "",
    )?;
    equal("asked", app.origin.asked(""), asked + 3)?;
    let status = done(&site, "fallback status")?;
    has(
        "status",
        &status,
        "tried on 3 requests of /: 66.7 % could be answered, 1 from the cache, 0 from the disk, 1 by files",
    )?;
    equal(
        "drilled",
        site.metric("tidegate_fallback_drilled_total")?,
        3.0,
    )?;
    equal("active", site.metric("tidegate_fallback_active")?, 0.0)?;
    // A small share is a few of many.
    done(&site, "fallback drill --share 10% --for 1h")?;
    let mut tried = 0;
    for _ in 0..1_000 {
        tried += usize::from(from(&client.get("/about", "")?.is(200)?) == "file; drill");
    }
    equal(
        &format!("{tried} of a thousand"),
        (40..=180).contains(&tried),
        true,
    )?;
    site.proxy.advance(Duration::from_secs(3601))?;
    site.until("tidegate_lever_active", |pulled| pulled == 0.0)?;
    equal("over", from(&site.get("/about", "")?.is(200)?), "")
}

fn check() -> Outcome {
    let app = pages()?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    write(&folder.path().join("about.html"), "about us");
    let config = format!(
        "[log]\nhide_query = [\"token\"]\n[fallback]\ndir = {:?}\n",
        folder.path()
    );
    let site = Site::start(app.origin.address, &config)?;
    site.proxy.healthy()?;
    let mut client = site.client()?;
    for (path, times) in [
        ("/strict", 5),
        ("/about", 3),
        ("/none?token=x", 1),
        ("/other", 2),
    ] {
        for _ in 0..times {
            client.get(path, "")?.is(200)?;
        }
    }
    client.ask("POST", "/strict", "", b"x")?.is(200)?;
    client.get("/strict", "")?.is(200)?;
    let asked = app.origin.asked("");
    let told = done(&site, "fallback check")?;
    has("share", &told, "of 12 requests for pages")?;
    has(
        "share",
        &told,
        "75.0 % could be answered: 6 from the cache, 0 from the disk, 3 by files",
    )?;
    has(
        "beside",
        &told,
        "beside them 1 were for what only the app can do",
    )?;
    let lines: Vec<&str> = told.lines().rev().take(2).map(str::trim).collect();
    equal(
        "missing",
        lines,
        vec![
            "1   http://a.test/none?token=***",
            "2   http://a.test/other",
        ],
    )?;
    equal("nobody was asked", app.origin.asked(""), asked)?;
    equal(
        "nor answered",
        site.metric("tidegate_fallback_answers_total")?,
        0.0,
    )
}

/// What one site exports another one serves, byte for byte.
fn export() -> Outcome {
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let (status, kind) = match &asked.target[..] {
            "/moved" => (301, "text/html"),
            "/site.css?v=2" => (200, "text/css"),
            "/feed" => (200, "application/rss+xml"),
            "/..%2fetc" => (200, "text/html"),
            _ => (200, "text/html; charset=utf-8"),
        };
        let fields = format!("Cache-Control: max-age=600\r\nContent-Type: {kind}\r\n");
        let text = format!("<p>page {}", asked.target);
        answer(conn, status, &fields, text.as_bytes())
    })?;
    let site = Site::start(origin.address, "")?;
    site.proxy.healthy()?;
    let paths = [
        "/",
        "/a",
        "/a/b",
        "/a/b/",
        "/list?page=2",
        "/site.css?v=2",
        "/feed",
    ];
    for path in paths.iter().chain(&["/moved", "/..%2fetc"]) {
        site.get(path, "")?;
    }
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let dir = folder.path().join("site");
    let told = done(&site, &format!("fallback export {}", dir.display()))?;
    has("told", &told, "7 pages of")?;
    has(
        "left out",
        &told,
        "left out: 1, which are errors, or lead elsewhere",
    )?;
    has(
        "left out",
        &told,
        "left out: 1, whose address or type makes no name",
    )?;
    let beside: Vec<_> = fs::read_dir(folder.path())
        .map_err(|e| e.to_string())?
        .collect();
    equal("nothing beside it", beside.len(), 1)?;
    let again = refused(&site, &format!("fallback export {}", dir.display()))?;
    has("again", &again, "not empty")?;
    let other = Site::start(origin.address, &format!("[fallback]\ndir = {dir:?}\n"))?;
    other.proxy.healthy()?;
    done(&other, "fallback on")?;
    for path in paths {
        let (live, file) = (site.get(path, "")?.is(200)?, other.get(path, "")?);
        let file = is_from(file, 200, "file").map_err(|why| format!("{path}: {why}"))?;
        equal(path, file.text(), live.text())?;
        let kind = |reply: &Reply| {
            reply
                .field("content-type")
                .split(';')
                .next()
                .map(str::to_owned)
        };
        equal(path, kind(&file), kind(&live))?;
    }
    Ok(())
}

/// A page that memory has no room for lies on the disk still, and goes before a file.
fn from_disk() -> Outcome {
    const PAGES: usize = 60;
    let gone = Arc::new(AtomicBool::new(false));
    let at_origin = Arc::clone(&gone);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        if at_origin.load(Ordering::SeqCst) {
            return Err("gone".into());
        }
        let text = format!("{} ", asked.target).repeat(40_000);
        let fields = "Cache-Control: max-age=10, must-revalidate\r\nContent-Type: text/plain\r\n";
        answer(conn, 200, fields, text.as_bytes())
    })?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    for n in 0..PAGES {
        write(&folder.path().join(format!("{n:02}.html")), "a file");
    }
    let config = format!(
        "[cache]\nmax_memory = \"8MiB\"\n[fallback]\nauto = false\ndir = {:?}\n",
        folder.path()
    );
    let site = Site::start(origin.address, &config)?;
    site.proxy.healthy()?;
    for n in 0..PAGES {
        let page = site.get(&format!("/{n:02}"), "")?.is(200)?;
        equal("whole", page.body.len(), 4 * 40_000)?;
        // One after the other, so that each is still there when it is its turn to be written.
        site.until("tidegate_snapshot_pages", |pages| pages == (n + 1) as f64)?;
    }
    gone.store(true, Ordering::SeqCst);
    site.proxy.advance(Duration::from_secs(60))?;
    done(&site, "fallback on")?;
    let mut sources = std::collections::BTreeMap::<String, usize>::new();
    let mut on_disk = None;
    for n in 0..PAGES {
        let path = format!("/{n:02}");
        // Where no memory is left at a moment to read the copy into, the file stands in.
        let page = eventually(&path, || {
            let page = site.get(&path, "")?.is(200)?;
            Ok((from(&page) != "file").then_some(page))
        })?;
        let source = from(&page).to_owned();
        equal(
            &path,
            page.text() == format!("{path} ").repeat(40_000),
            true,
        )?;
        equal("kept", page.field("cache-control"), "no-store")?;
        equal(
            "old",
            page.field("age").parse::<u64>().is_ok_and(|age| age >= 60),
            true,
        )?;
        if source == "snapshot" {
            on_disk = Some(path);
        }
        *sources.entry(source).or_default() += 1;
    }
    let told = format!("{sources:?}");
    equal(&told, sources.len(), 2)?;
    equal(
        &told,
        sources.contains_key("cache") && sources.contains_key("snapshot"),
        true,
    )?;
    let path = on_disk.ok_or("none from the disk")?;
    let part = eventually("a part", || {
        let part = site.get(&path, "Range: bytes=1-2\r\n")?;
        Ok((from(&part) != "file").then_some(part))
    })?;
    let part = is_from(part, 206, "snapshot")?;
    equal("part", part.text(), path[1..].to_owned())?;
    has("check", &done(&site, "fallback check")?, " from the disk")?;
    // All of them can be laid down, and what was purged is nowhere.
    done(&site, &format!("purge url http://a.test{path}"))?;
    let purged = site.get(&path, "")?;
    equal("purged", from(&purged), "file")?;
    let dir = folder.path().join("export");
    let told = done(&site, &format!("fallback export {}", dir.display()))?;
    has("export", &told, &format!("{} pages of", PAGES - 1))
}

/// Each page says of itself which one it is, so that none that is put together of two goes unseen.
fn c57_flips() -> Outcome {
    const FLIPS: usize = 100;
    const VISITORS: usize = 6;
    const PAGES: usize = 8;
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let text = format!("live {} ", asked.target).repeat(500);
        let fields = "Cache-Control: max-age=0, must-revalidate\r\nX-Page: live\r\n";
        answer(conn, 200, fields, text.as_bytes())
    })?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    for n in 0..PAGES {
        let text = format!("file /{n} ").repeat(500);
        write(&folder.path().join(format!("{n}.html")), &text);
    }
    let config = format!("[fallback]\ndir = {:?}\n", folder.path());
    let site = Site::start(origin.address, &config)?;
    site.proxy.healthy()?;
    let over = AtomicBool::new(false);
    let (live, file, kept) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    crowd(VISITORS + 1, |visitor| {
        if visitor == VISITORS {
            let flips = || {
                for n in 0..FLIPS {
                    match n % 2 {
                        0 => flip(&site, true)?,
                        _ => flip(&site, false)?,
                    }
                }
                Ok(())
            };
            let done = flips();
            over.store(true, Ordering::SeqCst);
            return done;
        }
        let mut client = site.client()?;
        let mut n = visitor;
        while !over.load(Ordering::SeqCst) {
            let path = format!("/{}", n % PAGES);
            let reply = client.get(&path, "")?.is(200)?;
            let (text, marked) = (reply.text(), reply.field("x-page") == "live");
            match from(&reply) {
                "" => {
                    equal(
                        "live",
                        (text, marked),
                        (format!("live {path} ").repeat(500), true),
                    )?;
                    live.fetch_add(1, Ordering::SeqCst);
                }
                "cache" => {
                    equal(
                        "cached",
                        (text, marked),
                        (format!("live {path} ").repeat(500), true),
                    )?;
                    equal("not to be kept", reply.field("cache-control"), "no-store")?;
                    kept.fetch_add(1, Ordering::SeqCst);
                }
                _ => {
                    let reply = is_from(reply, 200, "file")?;
                    equal(
                        "file",
                        (reply.text(), marked),
                        (format!("file {path} ").repeat(500), false),
                    )?;
                    file.fetch_add(1, Ordering::SeqCst);
                }
            }
            n += 1;
        }
        Ok(())
    })?;
    let counts = [live, file, kept].map(|count| count.into_inner());
    equal(
        &format!("both {counts:?}"),
        counts[0] > 0 && counts[1] + counts[2] > 0,
        true,
    )
}

/// Over the API, which takes less time than another process.
fn flip(site: &Site, on: bool) -> Outcome {
    if on {
        let body = "{\"pull\": {\"lever\": \"fallback\"}}";
        return site
            .proxy
            .api("POST", "/v1/levers", body)?
            .is(200)
            .map(drop);
    }
    let levers = site.proxy.api("GET", "/v1/levers", "")?.is(200)?.json()?;
    let id = &levers["levers"][0]["id"];
    let path = format!("/v1/levers/{id}");
    site.proxy.api("DELETE", &path, "")?.is(200).map(drop)
}
