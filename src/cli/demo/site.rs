//! The demo blog: what each address answers, and with which caching headers. No sockets here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::answer::{
    Answer, Ask, Reply, form_value, http_date, matches_etag, moved, not_allowed, not_modified,
    plain, see_other,
};
use super::page::{self, Shows};
use super::posts::{self, POSTS};

/// How the origin feels. Set on the errors page; it holds for every page but that one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Well,
    Error,
    Reset,
    Hang,
}

impl Mood {
    const ALL: [(Mood, &'static str, &'static str); 4] = [
        (Mood::Well, "well", "answers as it should"),
        (Mood::Error, "error", "answers 500 to everything"),
        (Mood::Reset, "reset", "closes the connection without a word"),
        (Mood::Hang, "hang", "takes 30 seconds for everything"),
    ];
}

struct Asset {
    path: String,
    kind: &'static str,
    etag: String,
    body: &'static str,
}

pub struct Site {
    mood: AtomicU8,
    /// How long the slow page takes.
    slow: Duration,
    /// How often each page was made. Only pages that exist are counted, so it is bounded.
    made: Mutex<BTreeMap<&'static str, u64>>,
    assets: [Asset; 3],
}

/// How long the slow page takes; its text says so.
pub const SLOW: Duration = Duration::from_secs(2);
const HANG: Duration = Duration::from_secs(30);
const HTML: &str = "text/html; charset=utf-8";
/// The last change of the posts' text: Thu, 01 Oct 2026 08:00:00 GMT.
const POSTS_CHANGED: u64 = 1_790_841_600;

impl Site {
    pub fn new(slow: Duration) -> Site {
        Site {
            mood: AtomicU8::new(0),
            slow,
            made: Mutex::new(BTreeMap::new()),
            assets: [
                asset(
                    "site",
                    "css",
                    "text/css; charset=utf-8",
                    include_str!("site.css"),
                ),
                asset(
                    "site",
                    "js",
                    "text/javascript; charset=utf-8",
                    include_str!("site.js"),
                ),
                asset("tide", "svg", "image/svg+xml", include_str!("tide.svg")),
            ],
        }
    }

    pub async fn reply(&self, ask: &Ask<'_>) -> Reply {
        let reading = matches!(ask.method, "GET" | "HEAD");
        match (reading, ask.method, ask.path) {
            (true, _, "/errors") => return Reply::Whole(self.errors()),
            (false, "POST", "/errors") => return Reply::Whole(self.set_mood(ask.body)),
            _ => {}
        }
        match self.mood() {
            Mood::Well => {}
            Mood::Error => return Reply::Whole(self.broken()),
            Mood::Reset => return Reply::HangUp,
            Mood::Hang => tokio::time::sleep(HANG).await,
        }
        Reply::Whole(match (reading, ask.method, ask.path) {
            (true, _, "/") => self.index(),
            (true, _, "/slow") => {
                tokio::time::sleep(self.slow).await;
                self.slow()
            }
            (true, _, "/private") => self.private(name_of(ask.cookie)),
            (true, _, "/events") => self.events(),
            (true, _, "/events/stream") => return Reply::Events,
            (true, _, "/favicon.ico") => moved("/assets/tide.svg"),
            (true, _, path) if path.starts_with("/posts/") => match posts::find(&path[7..]) {
                Some(post) => self.post(post, ask.if_none_match),
                None => self.not_found(),
            },
            (true, _, path) if path.starts_with("/assets/") => self.asset(path, ask.if_none_match),
            (false, "POST", "/login") => login(ask.body),
            (false, "POST", "/logout") => logout(),
            (true, ..) => self.not_found(),
            (false, ..) => not_allowed(),
        })
    }

    fn index(&self) -> Answer {
        let list: String = POSTS
            .iter()
            .map(|post| {
                format!(
                    "<li><a href=\"/posts/{}\">{}</a><p>{}</p></li>",
                    post.slug, post.title, post.lead
                )
            })
            .collect();
        let main = format!(
            "<h1>Notes from the tide gate</h1>\
             <p class=\"lead\">A small blog that stands behind a caching proxy, so that you can watch the proxy work.</p>\
             <ul class=\"posts\">{list}</ul>"
        );
        self.page(
            "/",
            "Notes from the tide gate",
            &Shows {
                what: "Public, fresh for 10 seconds, then up to 30 seconds stale while one request fetches a new copy. \
                       Ask again and again: the number at the foot of the page rises about once in ten seconds, \
                       however many of you ask.",
                cache: Some("public, max-age=10, stale-while-revalidate=30"),
            },
            &main,
        )
    }

    fn post(&self, post: &'static posts::Post, if_none_match: Option<&str>) -> Answer {
        // Weak: the text is the same from one making to the next, the line at the foot is not.
        let etag = format!("W/\"{:x}\"", digest(post.text));
        let cache = "public, max-age=60";
        if matches_etag(if_none_match, &etag) {
            return not_modified(&etag, cache);
        }
        let main = format!(
            "<h1>{}</h1><p class=\"lead\">{}</p>{}",
            post.title, post.lead, post.text
        );
        let mut answer = self.page(
            post.slug,
            post.title,
            &Shows {
                what: "Public, fresh for a minute, with an ETag. When the minute is over the proxy asks whether the text has \
                       changed, gets a short 304, and goes on with the copy it has.",
                cache: Some(cache),
            },
            &main,
        );
        answer.fields.push(("ETag", etag));
        answer
            .fields
            .push(("Last-Modified", http_date(POSTS_CHANGED)));
        answer
    }

    fn slow(&self) -> Answer {
        self.page(
            "/slow",
            "A slow page",
            &Shows {
                what: "The origin needs two seconds for this page. Open it in many tabs at once: all of them arrive \
                       together, and the origin made it once.",
                cache: Some("public, max-age=20, stale-while-revalidate=60"),
            },
            "<h1>Two seconds</h1>\
             <p class=\"lead\">That is how long the origin thinks about this page. Somebody waited for it. Probably not you.</p>\
             <h2>A crowd in a terminal</h2>\
             <p>Fifty visitors at once. The first line is the slowest of them, the second the count of copies the origin made.</p>\
             <pre>seq 50 | xargs -P 50 -I{} curl -s -o /dev/null -w '%{time_total}\\n' http://127.0.0.1:8080/slow | sort | tail -1\n\
             curl -si http://127.0.0.1:8080/slow | grep -i demo-made</pre>\
             <p>Use the address you opened this page with, if it is another one.</p>",
        )
    }

    fn private(&self, name: Option<String>) -> Answer {
        let main = match &name {
            Some(name) => format!(
                "<h1>Hello, {name}</h1>\
                 <p class=\"lead\">This page was made for you alone.</p>\
                 <form method=\"post\" action=\"/logout\"><button class=\"quiet\">Log out</button></form>"
            ),
            None => "<h1>Hello, stranger</h1>\
                 <p class=\"lead\">Say who you are, and this page will greet you and nobody else.</p>\
                 <form method=\"post\" action=\"/login\">\
                 <label>Your name<input name=\"name\" required maxlength=\"24\" autocomplete=\"off\" spellcheck=\"false\"></label>\
                 <button>Log in</button></form>"
                .to_owned(),
        };
        self.page(
            "/private",
            "A page that knows your name",
            &Shows {
                what: "Marked private, and asked with a session cookie. Each request goes to the origin; nothing of it \
                       is stored. Log in with two browsers and no one will ever see the other's name.",
                cache: Some("private"),
            },
            &main,
        )
    }

    fn events(&self) -> Answer {
        self.page(
            "/events",
            "Events as they happen",
            &Shows {
                what: "The page is cached for a minute. The stream on it is server-sent events: never stored, \
                       passed on byte by byte, one line a second, for as long as you stay.",
                cache: Some("public, max-age=60"),
            },
            "<h1>The water, every second</h1>\
             <p class=\"lead\">A line appears each second while this page is open.</p>\
             <ul class=\"ticks\" data-from=\"/events/stream\" aria-label=\"Ticks, newest first\"></ul>\
             <noscript><p>The lines need JavaScript. In a terminal: <code>curl -N http://127.0.0.1:8080/events/stream</code></p></noscript>",
        )
    }

    fn errors(&self) -> Answer {
        let now = self.mood();
        let state = Mood::ALL
            .iter()
            .find(|(mood, ..)| *mood == now)
            .map_or("", |(.., text)| text);
        let buttons: String = Mood::ALL
            .iter()
            .filter(|(mood, ..)| *mood != now)
            .map(|(mood, word, text)| {
                let class = if *mood == Mood::Well {
                    ""
                } else {
                    " class=\"quiet\""
                };
                format!("<button name=\"mood\" value=\"{word}\"{class}>The origin {text}</button>")
            })
            .collect();
        let main = format!(
            "<h1>Break the origin</h1>\
             <p class=\"lead\">Then read on. What was asked for before is still there.</p>\
             <p class=\"state\" role=\"status\">Now: the origin {state}.</p>\
             <form method=\"post\" action=\"/errors\">{buttons}</form>\
             <p>It holds for every page but this one. Visit <a href=\"/\">the front page</a> and \
             <a href=\"/posts/old-bread\">a post</a> first, break the origin, wait a minute, and visit them again. \
             A page that nobody had asked for before cannot be saved: it gets an honest error.</p>"
        );
        self.page(
            "/errors",
            "Break the origin",
            &Shows {
                what: "Marked no-store. While the origin is broken, stored pages go out stale and say so: \
                       <code>detail=sie</code> after a failure, <code>detail=slow</code> when it takes too long, \
                       <code>detail=swr</code> while a new copy is fetched.",
                cache: Some("no-store"),
            },
            &main,
        )
    }

    fn set_mood(&self, body: &[u8]) -> Answer {
        let word = form_value(body, "mood");
        match Mood::ALL
            .iter()
            .position(|(_, name, _)| Some(*name) == word.as_deref())
        {
            Some(index) => {
                self.mood.store(index as u8, Ordering::Relaxed);
                see_other("/errors")
            }
            None => plain(400, "mood is one of: well, error, reset, hang\n"),
        }
    }

    fn mood(&self) -> Mood {
        Mood::ALL[usize::from(self.mood.load(Ordering::Relaxed)) % Mood::ALL.len()].0
    }

    fn asset(&self, path: &str, if_none_match: Option<&str>) -> Answer {
        let Some(asset) = self.assets.iter().find(|asset| asset.path == path) else {
            // The unversioned name, for favicons and bookmarks.
            return match path {
                "/assets/tide.svg" => moved(&self.assets[2].path),
                _ => self.not_found(),
            };
        };
        let cache = "public, max-age=31536000, immutable";
        if matches_etag(if_none_match, &asset.etag) {
            return not_modified(&asset.etag, cache);
        }
        Answer {
            status: 200,
            fields: vec![
                ("Content-Type", asset.kind.to_owned()),
                ("Cache-Control", cache.to_owned()),
                ("ETag", asset.etag.clone()),
            ],
            body: asset.body.into(),
        }
    }

    fn not_found(&self) -> Answer {
        let mut answer = self.page(
            "404",
            "No such page",
            &Shows {
                what: "An error with a lifetime of its own is stored like any page: a crowd on a dead link \
                       costs one request in ten seconds.",
                cache: Some("public, max-age=10"),
            },
            "<h1>Nothing at this address</h1><p class=\"lead\">The <a href=\"/\">front page</a> has everything there is.</p>",
        );
        answer.status = 404;
        answer
    }

    fn broken(&self) -> Answer {
        let mut answer = self.page(
            "500",
            "The origin is broken",
            &Shows {
                what: "This answer came from the origin itself: nothing was stored for this address.",
                cache: None,
            },
            "<h1>500</h1><p class=\"lead\">The origin is broken. <a href=\"/errors\">Mend it.</a></p>",
        );
        answer.status = 500;
        answer
    }

    fn page(&self, key: &'static str, title: &str, shows: &Shows, main: &str) -> Answer {
        let count = {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            let count = made.entry(key).or_insert(0);
            *count += 1;
            *count
        };
        let frame = page::Frame {
            title,
            here: key,
            style: &self.assets[0].path,
            script: &self.assets[1].path,
            icon: &self.assets[2].path,
            count,
            wall: crate::clock::now().wall,
        };
        let mut fields = vec![
            ("Content-Type", HTML.to_owned()),
            ("Content-Security-Policy", "default-src 'self'".to_owned()),
            ("Demo-Made", count.to_string()),
        ];
        if let Some(cache) = shows.cache {
            fields.push(("Cache-Control", cache.to_owned()));
        }
        Answer {
            status: 200,
            fields,
            body: frame.render(shows, main).into_bytes(),
        }
    }
}

fn login(body: &[u8]) -> Answer {
    let name: String = form_value(body, "name")
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(24)
        .collect();
    if name.is_empty() {
        return plain(400, "a name of letters and digits, please\n");
    }
    with_cookie(
        see_other("/private"),
        format!("session={name}; Path=/; HttpOnly; SameSite=Lax"),
    )
}

fn logout() -> Answer {
    with_cookie(
        see_other("/private"),
        "session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0".to_owned(),
    )
}

fn with_cookie(mut answer: Answer, cookie: String) -> Answer {
    answer.fields.push(("Set-Cookie", cookie));
    answer
}

/// The asset's name carries its content's digest, so that it may be kept for ever.
fn asset(stem: &str, extension: &str, kind: &'static str, body: &'static str) -> Asset {
    let version = digest(body);
    Asset {
        path: format!("/assets/{stem}-{version:x}.{extension}"),
        kind,
        etag: format!("\"{version:x}\""),
        body,
    }
}

/// FNV-1a: short, and good enough to tell two builds' files apart.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The session's name, if it is one that `login` could have given.
fn name_of(cookie: Option<&str>) -> Option<String> {
    let value = cookie?
        .split(';')
        .find_map(|pair| pair.trim().strip_prefix("session="))?;
    let ours = !value.is_empty()
        && value.len() <= 24
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    ours.then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask<'a>(method: &'a str, path: &'a str) -> Ask<'a> {
        Ask {
            method,
            path,
            cookie: None,
            if_none_match: None,
            body: b"",
        }
    }

    fn whole(site: &Site, ask: &Ask<'_>) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        match runtime.block_on(site.reply(ask)) {
            Reply::Whole(answer) => answer,
            Reply::Events => panic!("events"),
            Reply::HangUp => panic!("hung up"),
        }
    }

    fn field<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
        answer
            .fields
            .iter()
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value.as_str())
    }

    #[test]
    fn every_link_on_every_page_leads_somewhere() {
        let site = Site::new(Duration::ZERO);
        let mut todo = vec!["/".to_owned()];
        let mut seen = Vec::new();
        while let Some(path) = todo.pop() {
            let answer = whole(&site, &ask("GET", &path));
            assert!(
                matches!(answer.status, 200 | 302),
                "{path} answers {}",
                answer.status
            );
            let body = String::from_utf8(answer.body).expect("text");
            for attribute in ["href=\"", "src=\""] {
                for part in body.split(attribute).skip(1) {
                    let to = part.split('"').next().expect("a value").to_owned();
                    assert!(
                        to.starts_with('/') || to.starts_with('#'),
                        "{path} links outside: {to}"
                    );
                    if to.starts_with('/') && !seen.contains(&to) {
                        seen.push(to.clone());
                        todo.push(to);
                    }
                }
            }
        }
        assert!(seen.len() > POSTS.len() + 5, "{seen:?}");
    }

    #[test]
    fn a_post_is_told_apart_by_its_etag() {
        let site = Site::new(Duration::ZERO);
        let first = whole(&site, &ask("GET", "/posts/old-bread"));
        let etag = field(&first, "ETag").expect("an ETag").to_owned();
        let again = Ask {
            if_none_match: Some(&etag),
            ..ask("GET", "/posts/old-bread")
        };
        assert_eq!(whole(&site, &again).status, 304);
        let other = Ask {
            if_none_match: Some(&etag),
            ..ask("GET", "/posts/slack-water")
        };
        assert_eq!(whole(&site, &other).status, 200);
    }

    #[test]
    fn the_private_page_greets_whoever_logged_in() {
        let site = Site::new(Duration::ZERO);
        let login = whole(
            &site,
            &Ask {
                body: b"name=Ada<b>",
                ..ask("POST", "/login")
            },
        );
        assert_eq!(login.status, 303);
        let cookie = field(&login, "Set-Cookie")
            .and_then(|line| line.split(';').next())
            .expect("a cookie");
        assert_eq!(cookie, "session=Adab");
        let page = whole(
            &site,
            &Ask {
                cookie: Some(cookie),
                ..ask("GET", "/private")
            },
        );
        assert!(String::from_utf8_lossy(&page.body).contains("Hello, Adab"));
        assert_eq!(field(&page, "Cache-Control"), Some("private"));
        let forged = Ask {
            cookie: Some("session=<script>"),
            ..ask("GET", "/private")
        };
        assert!(String::from_utf8_lossy(&whole(&site, &forged).body).contains("stranger"));
    }

    #[test]
    fn a_broken_origin_can_be_mended() {
        let site = Site::new(Duration::ZERO);
        assert_eq!(
            whole(
                &site,
                &Ask {
                    body: b"mood=error",
                    ..ask("POST", "/errors")
                }
            )
            .status,
            303
        );
        assert_eq!(whole(&site, &ask("GET", "/")).status, 500);
        assert_eq!(whole(&site, &ask("GET", "/errors")).status, 200);
        assert_eq!(
            whole(
                &site,
                &Ask {
                    body: b"mood=well",
                    ..ask("POST", "/errors")
                }
            )
            .status,
            303
        );
        assert_eq!(whole(&site, &ask("GET", "/")).status, 200);
        assert_eq!(
            whole(
                &site,
                &Ask {
                    body: b"mood=odd",
                    ..ask("POST", "/errors")
                }
            )
            .status,
            400
        );
    }

    #[test]
    fn pages_count_how_often_they_were_made() {
        let site = Site::new(Duration::ZERO);
        whole(&site, &ask("GET", "/slow"));
        let second = whole(&site, &ask("GET", "/slow"));
        assert!(String::from_utf8_lossy(&second.body).contains("made this page 2 times"));
    }

    #[test]
    fn unsafe_methods_are_refused_where_nothing_takes_them() {
        assert_eq!(
            whole(&Site::new(Duration::ZERO), &ask("POST", "/")).status,
            405
        );
        assert_eq!(
            whole(&Site::new(Duration::ZERO), &ask("GET", "/nowhere")).status,
            404
        );
    }
}
