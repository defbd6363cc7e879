//! A real app behind the real binary: `examples/fastapi-blog` under uvicorn, from the venv that `make test` prepares.
//!
//! Each test has an app and a proxy of its own. `TIDEGATE_BIN` and `TIDEGATE_VENV` name another binary or venv.

use std::collections::BTreeSet;
use std::time::Duration;

#[path = "fastapi/client.rs"]
mod client;
#[path = "fastapi/site.rs"]
mod site;

use client::{BINARY, CLOSE, PING, PONG, TEXT, WebSocket};
pub use site::venv;
use site::{Dates, Site, crowd, equal, eventually};

type Outcome = Result<(), String>;
/// A test and its name.
pub type Test = (&'static str, fn() -> Outcome);

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("fastapi::public_page_is_cached", public_page_is_cached),
        ("fastapi::etag_revalidates", etag_revalidates),
        (
            "fastapi::set_cookie_is_never_stored",
            set_cookie_is_never_stored,
        ),
        (
            "fastapi::private_pages_stay_private",
            private_pages_stay_private,
        ),
        ("fastapi::request_bodies_arrive", request_bodies_arrive),
        ("fastapi::streaming_streams", streaming_streams),
        (
            "fastapi::server_sent_events_come_as_they_happen",
            server_sent_events_come_as_they_happen,
        ),
        ("fastapi::websocket_echoes", websocket_echoes),
        (
            "fastapi::default_ttl_anonymous_crowd_costs_one_request_a_page",
            anonymous_crowd_costs_one_request_a_page,
        ),
        (
            "fastapi::default_ttl_signed_in_users_share_nothing",
            signed_in_users_share_nothing,
        ),
    ]
}

fn public_page_is_cached() -> Outcome {
    let site = Site::start(&[], Dates::Sent)?;
    let first = site.get("/", "")?;
    first
        .is(200)?
        .says("cache-status", "fwd=uri-miss")?
        .says("cache-status", "stored")?;
    // Whoever asks in the very moment the answer ends may still join it: either way nobody asks the app.
    eventually("a hit", || {
        let again = site.get("/", "")?;
        equal("the stored page", &again.is(200)?.text(), &first.text())?;
        let told = again.field("cache-status").unwrap_or_default();
        let hit = told.contains("hit; ttl=") && again.field("age").is_some();
        Ok(hit.then_some(()))
    })?;
    site.asked("GET /", 1)
}

fn etag_revalidates() -> Outcome {
    let site = Site::start(&[], Dates::Left)?;
    let path = "/posts/old-bread";
    let first = site.get(path, "")?;
    let etag = first
        .is(200)?
        .field("etag")
        .ok_or("no ETag came through")?
        .to_owned();

    let mine = site.get(path, &format!("If-None-Match: {etag}\r\n"))?;
    mine.is(304)?;
    site.asked("GET /posts/old-bread", 1)?;

    site.advance(Duration::from_secs(11))?;
    let renewed = site.get(path, "")?;
    renewed.is(200)?.says("cache-status", "fwd=stale")?;
    equal("the revalidated page", &renewed.text(), &first.text())?;
    site.eventually_asked("304 /posts/old-bread", 1)?;
    eventually("the page is fresh again", || {
        let again = site.get(path, "")?;
        equal("the page", &again.text(), &first.text())?;
        Ok(again
            .field("cache-status")
            .is_some_and(|told| told.contains("hit"))
            .then_some(()))
    })?;
    site.asked("GET /posts/old-bread", 2)
}

fn set_cookie_is_never_stored() -> Outcome {
    let site = Site::start(&["--default-ttl", "10s"], Dates::Sent)?;
    let cookies: Vec<String> = (0..3)
        .map(|_| {
            let answer = site.get("/visit", "")?;
            Ok(answer
                .is(200)?
                .field("set-cookie")
                .ok_or("the cookie was lost")?
                .to_owned())
        })
        .collect::<Result<_, String>>()?;
    equal(
        "different cookies",
        &cookies.iter().collect::<BTreeSet<_>>().len(),
        &3,
    )?;
    site.asked("GET /visit", 3)
}

fn private_pages_stay_private() -> Outcome {
    let site = Site::start(&["--default-ttl", "10s"], Dates::Sent)?;
    let users = [("ada", site.login("ada")?), ("grace", site.login("grace")?)];
    for path in ["/account", "/inbox"] {
        crowd(24, |visitor| {
            let (name, session) = &users[visitor % 2];
            let answer = site.get(path, session)?;
            answer
                .is(200)?
                .lacks("cache-status", "stored")?
                .lacks("cache-status", "hit")?;
            names_only(&answer.text(), name)
        })?;
        site.asked(&format!("GET {path}"), 24)?;
    }
    site.get("/account", "")?.is(303)?;
    site.get("/inbox", "")?.is(401)?;
    Ok(())
}

fn request_bodies_arrive() -> Outcome {
    let site = Site::start(&[], Dates::Sent)?;
    let body: String = (0..20_000).map(|number| format!("{number:>5}")).collect();
    let answer = site.ask(
        "POST",
        "/echo",
        "Content-Type: text/plain\r\n",
        body.as_bytes(),
    )?;
    answer.is(200)?;
    equal("the echoed length", &answer.body.len(), &body.len())?;
    equal("the echo", &(answer.body == body.as_bytes()), &true)
}

fn streaming_streams() -> Outcome {
    let site = Site::start(&[], Dates::Sent)?;
    let mut answer = site.open("GET", "/stream?gate=one", "", b"")?;
    equal("the status", &answer.status, &200)?;
    // The app holds the rest back until the gate opens: the first line must come without it.
    let mut body = answer.until(|body| body.ends_with(b"line 1\n"))?;
    site.app("POST", "/__gate/one")?.is(204)?;
    answer.rest(&mut body)?;
    equal(
        "the whole stream",
        &String::from_utf8_lossy(&body).as_ref(),
        &"line 1\nline 2\nline 3\nline 4\nline 5\n",
    )
}

fn server_sent_events_come_as_they_happen() -> Outcome {
    let site = Site::start(&["--default-ttl", "10s"], Dates::Sent)?;
    let mut streams = [
        site.open("GET", "/events", "", b"")?,
        site.open("GET", "/events", "", b"")?,
    ];
    for stream in &mut streams {
        equal("the status", &stream.status, &200)?;
        // The stream has no end: two events can only be read while it runs.
        let body = stream.until(|body| body.ends_with(b"data: 2\n\n"))?;
        equal("from its beginning", &body.starts_with(b"id: 1\n"), &true)?;
    }
    site.asked("GET /events", 2)
}

fn websocket_echoes() -> Outcome {
    let site = Site::start(&[], Dates::Sent)?;
    let mut socket = WebSocket::connect(site.proxy, "/ws")?;
    socket.send(TEXT, b"slack water")?;
    equal(
        "the text",
        &socket.receive()?,
        &(TEXT, b"slack water".to_vec()),
    )?;
    let large: Vec<u8> = (0..200_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    socket.send(BINARY, &large)?;
    let (kind, echo) = socket.receive()?;
    equal(
        "the kind and the bytes",
        &(kind, echo == large),
        &(BINARY, true),
    )?;
    socket.send(PING, b"there?")?;
    equal("the pong", &socket.receive()?, &(PONG, b"there?".to_vec()))?;
    socket.send(CLOSE, &1000_u16.to_be_bytes())?;
    equal("the close", &socket.receive()?.0, &CLOSE)
}

fn anonymous_crowd_costs_one_request_a_page() -> Outcome {
    let site = Site::start(&["--default-ttl", "10s"], Dates::Left)?;
    let pages = ["/plain/one", "/plain/two", "/plain/three"];
    for window in 1..=3 {
        if window > 1 {
            site.advance(Duration::from_secs(11))?;
        }
        // Harmless cookies make nobody somebody.
        crowd(60, |visitor| {
            let cookie = if visitor % 2 == 0 {
                ""
            } else {
                "Cookie: _ga=GA1.2.3\r\n"
            };
            let answer = site.get(pages[visitor % 3], cookie)?;
            names_only(&answer.is(200)?.text(), "nobody")
        })?;
        for page in pages {
            site.eventually_asked(&format!("GET {page}"), window)?;
            // The refresh has been answered; once it is in place the page is fresh, and costs nothing more.
            eventually("the page is fresh", || {
                let told = site
                    .get(page, "")?
                    .field("cache-status")
                    .unwrap_or_default()
                    .to_owned();
                Ok((told.contains("hit") && !told.contains("ttl=-")).then_some(()))
            })?;
        }
        crowd(30, |visitor| {
            site.get(pages[visitor % 3], "")?
                .is(200)?
                .says("cache-status", "hit")
                .map(drop)
        })?;
        for page in pages {
            site.asked(&format!("GET {page}"), window)?;
        }
    }
    Ok(())
}

fn signed_in_users_share_nothing() -> Outcome {
    let site = Site::start(&["--default-ttl", "10s"], Dates::Sent)?;
    let (ada, grace) = (site.login("ada")?, site.login("grace")?);
    let sees = |path: &str, cookie: &str, name: &str| {
        let answer = site.get(path, cookie)?;
        names_only(&answer.is(200)?.text(), name).map_err(|why| format!("{path} as {name}: {why}"))
    };

    // A stored page is not for those who are signed in ...
    sees("/plain/stored", "", "nobody")?;
    sees("/plain/stored", &ada, "ada")?;
    sees("/plain/stored", &grace, "grace")?;
    sees("/plain/stored", "", "nobody")?;
    site.asked("GET /plain/stored", 3)?;

    // ... and theirs is left behind for nobody.
    sees("/plain/left", &ada, "ada")?;
    sees("/plain/left", "", "nobody")?;
    sees("/plain/left", &grace, "grace")?;
    sees("/plain/left", &ada, "ada")?;
    sees("/plain/left", "", "nobody")?;
    site.asked("GET /plain/left", 4)?;

    // All at once, on a page that nobody has seen: the anonymous share one request, the others have their own.
    let readers = [
        ("nobody", String::new()),
        ("ada", ada.clone()),
        ("grace", grace.clone()),
    ];
    crowd(48, |visitor| {
        let (name, cookie) = &readers[visitor % 3];
        sees("/plain/together", cookie, name)
    })?;
    site.asked("GET /plain/together", 1 + 32)
}

/// The page greets `name` and none of the others.
fn names_only(page: &str, name: &str) -> Outcome {
    for other in ["nobody", "ada", "grace", "linus"] {
        let there = page.contains(&format!("signed in as {other}<"))
            || page.contains(&format!("letters for {other}<"));
        if there != (other == name) {
            return Err(format!(
                "a page for {name}, yet {other} is {}: {page}",
                if there { "on it" } else { "missing" }
            ));
        }
    }
    Ok(())
}
