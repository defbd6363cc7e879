//! A checker of what the cache promises about time (class C75): pages have versions, writers raise them through the proxy,
//! editors behind it, who purge then in every way there is, the origin fails in every way at random, and no reader may be
//! told of a version older than the last that a writer was told of, or that an editor had purged, before the reader asked
//! (softly: but as a stale one); nor of another page, nor half of one.
//!
//! `TIDEGATE_SECONDS` and `TIDEGATE_SEED` set how long and which run; a failure prints the seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::site::{Client, Origin, Reply, Site, answer};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![(
        "consistency::c75_nobody_is_told_what_is_outdated",
        c75_checked,
    )]
}

const PAGES: usize = 6;
const READERS: u64 = 8;
const WRITERS: u64 = 2;
const EDITORS: u64 = 2;

/// A page's text says which it is, its version twice, and is as long as that version wants.
fn page(at: usize, version: u64) -> String {
    let filler = "x".repeat((version * 977 % 40_000) as usize);
    format!("page {at} version {version} {filler} end of {version}")
}

/// What a reply's text says it is, if it says so wholly.
fn read(reply: &Reply, at: usize) -> Result<u64, String> {
    let text = reply.text();
    let mut words = text.split(' ');
    let version = match (words.next(), words.next(), words.next(), words.next()) {
        (Some("page"), Some(which), Some("version"), Some(version)) if which == at.to_string() => {
            version.parse().map_err(|_| format!("{reply:?}"))?
        }
        _ => return Err(format!("page {at} is not this: {reply:?}")),
    };
    match text == page(at, version) {
        true => Ok(version),
        false => Err(format!("page {at} version {version} is torn: {reply:?}")),
    }
}

/// Numbers that follow from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn of(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % most
    }
}

struct World {
    /// At the origin.
    versions: [AtomicU64; PAGES],
    /// As writers have been told, and as editors have purged what was before.
    told: [AtomicU64; PAGES],
    /// As they have marked it stale.
    marked: [AtomicU64; PAGES],
    requests: AtomicU64,
    seed: u64,
}

fn origin(world: &Arc<World>) -> Result<Origin, String> {
    let world = Arc::clone(world);
    Origin::start(move |asked, conn: &mut Conn| {
        let number = world.requests.fetch_add(1, Ordering::SeqCst);
        let mut dice = Dice::of(world.seed ^ number << 20);
        let at: usize = asked.target[1..].parse().map_err(|_| "no page")?;
        let version = match asked.method.as_str() {
            "POST" => world.versions[at].fetch_add(1, Ordering::SeqCst) + 1,
            _ => world.versions[at].load(Ordering::SeqCst),
        };
        if dice.below(4) == 0 {
            thread::sleep(Duration::from_millis(dice.below(15)));
        }
        let tags = format!("Surrogate-Key: p{at} {}\r\n", half(at));
        let fields = [
            "Cache-Control: max-age=1\r\n",
            "Cache-Control: max-age=1, stale-while-revalidate=60, stale-if-error=60\r\n",
            "Cache-Control: max-age=600\r\nETag: W/\"v\"\r\n",
            "Cache-Control: no-cache\r\n",
            "Cache-Control: no-store\r\n",
            "Cache-Control: max-age=600\r\nVary: Accept-Language\r\nContent-Type: text/html\r\n",
        ][dice.below(6) as usize];
        let fields = &(tags + fields);
        let body = page(at, version);
        match dice.below(24) {
            0 => answer(conn, 500, fields, b"broken"),
            1 => answer(conn, 503, "", b"busy"),
            2 => Err("on purpose".into()),
            3 => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n",
                    body.len()
                );
                conn.write(&[head.as_bytes(), &body.as_bytes()[..body.len() / 2]].concat())?;
                conn.shutdown()?;
                Err("half of it, on purpose".into())
            }
            _ => answer(conn, 200, fields, body.as_bytes()),
        }
    })
}

fn c75_checked() -> Outcome {
    let number = |name: &str, default| {
        let set = std::env::var(name).ok().and_then(|set| set.parse().ok());
        set.unwrap_or(default)
    };
    let seed = number("TIDEGATE_SEED", 75);
    let time = Duration::from_secs(number("TIDEGATE_SECONDS", 3));
    let world = Arc::new(World {
        versions: Default::default(),
        told: Default::default(),
        marked: Default::default(),
        requests: AtomicU64::new(0),
        seed,
    });
    let origin = origin(&world)?;
    let config = "[[upstream]]\nqueue_wait = '10s'\n\
        [[route]]\nserve_stale_after = '5ms'\npurge_from = ['127.0.0.1']";
    let site = Site::start(origin.address, config)?;
    let over = AtomicBool::new(false);
    let (site, world, over) = (&site, &*world, &over);
    let (read, written, purged) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let (read, written, purged) = (&read, &written, &purged);
    let done = thread::scope(|scope| {
        let readers = (0..READERS).map(|id| {
            scope.spawn(move || {
                let done = reader(site, world, Dice::of(seed + id), over, read);
                over.fetch_or(done.is_err(), Ordering::SeqCst);
                done
            })
        });
        let mut all: Vec<_> = readers.collect();
        all.extend((0..WRITERS).map(|id| {
            scope.spawn(move || {
                let done = writer(site, world, Dice::of(seed + 1000 + id), over, written);
                over.fetch_or(done.is_err(), Ordering::SeqCst);
                done
            })
        }));
        all.extend((0..EDITORS).map(|id| {
            scope.spawn(move || {
                let done = editor(site, world, Dice::of(seed + 2000 + id), over, purged);
                over.fetch_or(done.is_err(), Ordering::SeqCst);
                done
            })
        }));
        let until = clock::now() + time;
        while clock::now() < until && !over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::SeqCst);
        all.into_iter()
            .try_for_each(|one| one.join().unwrap_or(Err("it panicked".into())))
    });
    let [read, written, purged] = [read, written, purged].map(|n| n.load(Ordering::SeqCst));
    println!("{read} pages read, {written} versions written, {purged} purges, seed {seed}");
    done.map_err(|why| format!("seed {seed}: {why}"))?;
    if read < 100 || written < 10 || purged < 10 {
        return Err(format!(
            "{read} pages read, {written} versions written and {purged} purges prove nothing"
        ));
    }
    site.proxy.healthy()
}

/// A connection that is made anew whenever it has broken.
struct Line<'a> {
    site: &'a Site,
    client: Option<Client>,
}

impl Line<'_> {
    fn ask(&mut self, method: &str, path: &str, fields: &str) -> Result<Option<Reply>, String> {
        if self.client.is_none() {
            self.client = Some(self.site.client()?);
        }
        let asked = self
            .client
            .as_mut()
            .map(|client| client.ask(method, path, fields, b""));
        match asked {
            Some(Ok(reply)) if reply.whole && reply.field("connection") != "close" => {
                Ok(Some(reply))
            }
            Some(Ok(reply)) => {
                self.client = None;
                Ok(reply.whole.then_some(reply))
            }
            // Broken off, as a broken answer has to be.
            _ => {
                self.client = None;
                Ok(None)
            }
        }
    }
}

fn reader(
    site: &Site,
    world: &World,
    mut dice: Dice,
    over: &AtomicBool,
    count: &AtomicU64,
) -> Outcome {
    let mut line = Line { site, client: None };
    while !over.load(Ordering::SeqCst) {
        let at = dice.below(PAGES as u64) as usize;
        let fields = [
            "",
            "Accept-Language: de\r\n",
            "Cookie: who=1\r\n",
            "Range: bytes=0-\r\n",
        ];
        let fields = fields[dice.below(4) as usize];
        let floor = world.told[at].load(Ordering::SeqCst);
        let marked = world.marked[at].load(Ordering::SeqCst);
        let Some(reply) = line.ask("GET", &format!("/{at}"), fields)? else {
            continue;
        };
        if reply.status == 200 || reply.status == 206 {
            let version = read(&reply, at)?;
            count.fetch_add(1, Ordering::SeqCst);
            if version < floor {
                return Err(format!(
                    "page {at}: {floor} was told of, and then {reply:?}"
                ));
            }
            if version < marked && !is_told_stale(&reply) {
                return Err(format!(
                    "page {at}: what was before {marked} was marked stale, and then {reply:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Whether it says of itself that it is stale.
fn is_told_stale(reply: &Reply) -> bool {
    let status = reply.field("cache-status");
    let ttl = status.split("ttl=").nth(1).and_then(|rest| {
        let end = rest.find(';').unwrap_or(rest.len());
        rest[..end].parse::<i64>().ok()
    });
    ttl.is_some_and(|ttl| ttl <= 0)
}

fn half(at: usize) -> &'static str {
    ["even", "odd"][at % 2]
}

/// Changes pages behind the proxy, and purges them.
fn editor(
    site: &Site,
    world: &World,
    mut dice: Dice,
    over: &AtomicBool,
    count: &AtomicU64,
) -> Outcome {
    let mut line = Line { site, client: None };
    while !over.load(Ordering::SeqCst) {
        let at = dice.below(PAGES as u64) as usize;
        let soft = dice.below(3) == 0;
        let (path, tags) = match dice.below(6) {
            0 | 1 => (format!("/{at}"), String::new()),
            2 => ("/".to_owned(), format!("Surrogate-Key: p{at}\r\n")),
            3 => ("/".to_owned(), format!("Cache-Tag: {}\r\n", half(at))),
            4 => (format!("/{at}*"), String::new()),
            _ => ("/*".to_owned(), String::new()),
        };
        let is_meant = |page: &usize| {
            *page == at
                || path == "/*"
                || (tags.starts_with("Cache-Tag") && half(*page) == half(at))
        };
        let meant = (0..PAGES).filter(is_meant);
        let changed: Vec<_> = meant
            .map(|page| {
                (
                    page,
                    world.versions[page].fetch_add(1, Ordering::SeqCst) + 1,
                )
            })
            .collect();
        let fields = format!("{tags}{}", if soft { "Soft-Purge: 1\r\n" } else { "" });
        let Some(reply) = line.ask("PURGE", &path, &fields)? else {
            continue;
        };
        if reply.status != 200 {
            return Err(format!("a purge: {reply:?}"));
        }
        let floors = if soft { &world.marked } else { &world.told };
        for (page, version) in changed {
            floors[page].fetch_max(version, Ordering::SeqCst);
        }
        count.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(dice.below(20)));
    }
    Ok(())
}

fn writer(
    site: &Site,
    world: &World,
    mut dice: Dice,
    over: &AtomicBool,
    count: &AtomicU64,
) -> Outcome {
    let mut line = Line { site, client: None };
    while !over.load(Ordering::SeqCst) {
        let at = dice.below(PAGES as u64) as usize;
        if let Some(reply) = line.ask("POST", &format!("/{at}"), "")?
            && reply.status == 200
        {
            world.told[at].fetch_max(read(&reply, at)?, Ordering::SeqCst);
            count.fetch_add(1, Ordering::SeqCst);
        }
        thread::sleep(Duration::from_millis(dice.below(20)));
    }
    Ok(())
}
