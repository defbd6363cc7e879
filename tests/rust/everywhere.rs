//! Purges and levers at two proxies that share a Redis: what is done at one is done at the other, also if that was stopped meanwhile;
//! and Redis taken away and given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::levers::{done, has};
use super::lifecycle::signal;
use super::server::RedisServer;
use super::site::{Client, Origin, Site, answer, equal, eventually};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("everywhere::a_purge_is_seen_at_the_other_proxy", purges),
        (
            "everywhere::who_was_stopped_serves_nothing_that_was_purged",
            stopped,
        ),
        (
            "everywhere::who_starts_warm_serves_nothing_that_was_purged",
            warm,
        ),
        ("everywhere::levers_are_pulled_and_undone_at_both", levers),
        (
            "everywhere::c80_redis_killed_is_nobodys_wait_and_what_was_done_is_told",
            c80_killed,
        ),
        ("everywhere::c81_redis_that_hangs_is_nobodys_wait", c81_hung),
        ("everywhere::another_redis_is_another_fleet", another_fleet),
    ]
}

/// Two proxies before one origin, whose pages are a number; all but `/other` are news.
struct Two {
    redis: RedisServer,
    sites: [Site; 2],
    version: Arc<AtomicUsize>,
    origin: Origin,
}

fn config(redis: &RedisServer, timeout: &str) -> String {
    format!(
        "[[route]]\npurge_from = ['127.0.0.1']\n[redis]\nservers = ['redis://127.0.0.1:{}']\ntimeout = '{timeout}'\nproxies = 2\n",
        redis.port
    )
}

impl Two {
    /// `timeout`: what a message to Redis may take. On a busy machine it takes long.
    fn start(timeout: &str) -> Result<Two, String> {
        let version = Arc::new(AtomicUsize::new(0));
        let at_origin = Arc::clone(&version);
        let origin = Origin::start(move |asked, conn: &mut Conn| {
            let version = at_origin.load(Ordering::SeqCst).to_string();
            let fields = match &*asked.target {
                "/other" => "Cache-Control: max-age=600\r\n",
                _ => "Cache-Control: max-age=600\r\nSurrogate-Key: news\r\n",
            };
            answer(conn, 200, fields, version.as_bytes())
        })?;
        let redis = RedisServer::start(&[]);
        let site = || Site::start(origin.address, &config(&redis, timeout));
        let two = Two {
            sites: [site()?, site()?],
            redis,
            version,
            origin,
        };
        let [one, other] = &two.sites;
        for site in [one, other] {
            site.proxy.healthy()?;
            eventually("they find each other", || {
                let told = done(site, "status")?;
                Ok(told.contains("s ago").then_some(()))
            })?;
        }
        Ok(two)
    }

    /// The origin's page is another from now on.
    fn publish(&self) -> String {
        let version = 1 + self.version.fetch_add(1, Ordering::SeqCst);
        version.to_string()
    }

    fn both(&self, what: &str, page: &str) -> Outcome {
        let [one, other] = &self.sites;
        for site in [one, other] {
            let got = site.get("/", "")?.is(200)?;
            equal(what, got.text(), page.to_owned())?;
        }
        Ok(())
    }
}

/// Has a tag purged, as operators do.
fn purge(site: &Site, body: &str) -> Result<serde_json::Value, String> {
    site.proxy.api("POST", "/v1/purge", body)?.is(200)?.json()
}

const NEWS: &str = "{\"kind\":\"tag\",\"names\":[\"news\"]}";

fn purges() -> Outcome {
    let two = Two::start("500ms")?;
    let [one, other] = &two.sites;
    for order in [
        NEWS,
        "{\"kind\":\"url\",\"names\":[\"http://a.test/\"]}",
        "{\"kind\":\"prefix\",\"names\":[\"http://a.test/\"]}",
        "{\"kind\":\"host\",\"names\":[\"a.test\"]}",
        "{\"kind\":\"all\"}",
    ] {
        let before = two.version.load(Ordering::SeqCst).to_string();
        two.both("before", &before)?;
        let page = two.publish();
        two.both("from memory", &before)?;
        let told = purge(one, order)?;
        equal("confirmed", told["fleet"]["confirmed"].as_u64(), Some(2))?;
        equal("its own", told["objects"].as_u64(), Some(1))?;
        two.both(order, &page)?;
    }
    // A soft one: stale, and fetched anew.
    let (before, page) = (two.version.load(Ordering::SeqCst), two.publish());
    purge(one, "{\"kind\":\"tag\",\"names\":[\"news\"],\"soft\":true}")?;
    let stale = other.get("/", "")?.is(200)?;
    equal(
        "stale",
        stale.told("hit"),
        stale.text() == before.to_string(),
    )?;
    for site in [one, other] {
        eventually("the new one", || {
            let got = site.get("/", "")?.is(200)?;
            Ok((got.text() == page).then_some(()))
        })?;
    }
    // By who may purge at the visitors' listener; and its own are no second time its own.
    two.both("before", &page)?;
    let asked = two.origin.asked("GET");
    let page = two.publish();
    let told = other.client()?.ask("PURGE", "/", "", b"")?.is(200)?;
    has("told", &told.text(), "\"fleet\":\"told\"")?;
    other.get("/", "")?.is(200)?;
    eventually("the other's", || {
        let got = one.get("/", "")?.is(200)?;
        Ok((got.text() == page).then_some(()))
    })?;
    two.both("after", &page)?;
    equal("requests", two.origin.asked("GET") - asked, 2)
}

fn stopped() -> Outcome {
    const TIMES: usize = 20;
    const CLIENTS: usize = 4;
    let two = Two::start("500ms")?;
    let [one, other] = &two.sites;
    for nth in 0..TIMES {
        let mut clients = (0..CLIENTS)
            .map(|_| other.client())
            .collect::<Result<Vec<Client>, _>>()?;
        for client in &mut clients {
            client.get("/", "")?.is(200)?;
        }
        let page = two.publish();
        signal(other, "-STOP")?;
        let stopped = clock::now();
        let purged = (|| match nth % 2 {
            0 => {
                let told = purge(one, NEWS)?;
                equal("confirmed", told["fleet"]["confirmed"].as_u64(), Some(1))?;
                let missing = told["fleet"]["missing"][0].as_str().unwrap_or_default();
                let port = format!(":{}", other.address.port());
                has("missing", missing, &port)
            }
            _ => {
                let told = one
                    .client()?
                    .ask("PURGE", "/x", "Surrogate-Key: news\r\n", b"")?;
                has("told", &told.is(200)?.text(), "\"fleet\":\"told\"")
            }
        })();
        // Who was away for less has asked less than half a second ago.
        while clock::now() - stopped < Duration::from_millis(600) {
            thread::sleep(Duration::from_millis(10));
        }
        // They wait for it when it wakes up.
        let sent = clients
            .iter_mut()
            .try_for_each(|client| client.send("GET", "/", "", b""));
        signal(other, "-CONT")?;
        purged?;
        sent?;
        for client in &mut clients {
            let got = client.reply("GET")?.is(200)?;
            equal("the first answer", got.text(), page.clone())?;
        }
    }
    equal("behind", other.metric("tidegate_fleet_behind")?, 0.0)
}

/// Killed, and started again with what was on the disk.
fn warm() -> Outcome {
    let two = Two::start("500ms")?;
    for page in ["/", "/other"] {
        two.sites[1].get(page, "")?.is(200)?;
    }
    two.sites[1].until("tidegate_snapshot_pages", |pages| pages == 2.0)?;
    let place = two.sites[1].dir.path().join("state/fleet.json");
    eventually("its place is kept", || Ok(place.exists().then_some(())))?;
    let page = two.publish();
    let Two {
        sites: [one, other],
        redis: _redis,
        origin,
        ..
    } = two;
    other.proxy.stop();
    purge(&one, NEWS)?;
    let other = other.again()?;
    let got = other.get("/", "")?.is(200)?;
    equal("the first answer", got.text(), page)?;
    let got = other.get("/other", "")?.is(200)?;
    equal("what was not purged", got.text(), "0".to_owned())?;
    equal("asked for", origin.asked("GET /other"), 1)
}

fn levers() -> Outcome {
    let two = Two::start("500ms")?;
    let Two {
        sites: [one, other],
        redis: _redis,
        origin: _origin,
        ..
    } = two;
    let readonly = |site: &Site| -> Result<u16, String> {
        let mut client = site.client()?;
        client.send("POST", "/", "", b"x")?;
        Ok(client.reply("POST")?.status)
    };
    let told = done(&one, "readonly --reason flood")?;
    has("told", &told, "2 of 2 proxies confirmed")?;
    equal("there", readonly(&other)?, 503)?;
    has("who and why", &done(&other, "levers")?, "flood")?;
    // The process that takes the place of the other knows of it.
    let one = one.again()?;
    one.proxy.healthy()?;
    equal("after a restart", readonly(&one)?, 503)?;
    let told = done(&other, "undo 1")?;
    has("told", &told, "of 2 proxies confirmed")?;
    eventually("undone at both", || {
        Ok((readonly(&one)? == 200 && readonly(&other)? == 200).then_some(()))
    })?;
    // And one that was not there when it was undone.
    done(&other, "readonly")?;
    equal("here again", readonly(&one)?, 503)?;
    let config = one.dir.path().join("state/levers.json");
    let kept = || std::fs::read_to_string(&config).map_err(|e| e.to_string());
    eventually("it is kept", || {
        Ok(kept()?.contains("\"shared\": true").then_some(()))
    })?;
    let place = one.dir.path().join("state/fleet.json");
    eventually("its place is kept", || Ok(place.exists().then_some(())))?;
    one.proxy.stop();
    done(&other, "undo 2")?;
    let one = one.again()?;
    one.proxy.healthy()?;
    eventually("undone meanwhile", || {
        Ok((readonly(&one)? == 200).then_some(()))
    })?;
    done(&one, "readonly --for 2s")?;
    for site in [&one, &other] {
        eventually("over by itself", || {
            Ok((readonly(site)? == 200).then_some(()))
        })?;
    }
    Ok(())
}

/// One who asks for the page all the time, until it is over: how many answers came, and the longest.
fn visitor(site: &Site, over: &AtomicBool) -> Result<(usize, Duration), String> {
    let mut client = site.client()?;
    let (mut answers, mut longest) = (0, Duration::ZERO);
    while !over.load(Ordering::SeqCst) {
        let began = clock::now();
        client.get("/", "")?.is(200)?;
        longest = longest.max(clock::now() - began);
        answers += 1;
        thread::sleep(Duration::from_millis(1));
    }
    Ok((answers, longest))
}

/// Has both visited while `act` goes on.
fn under_load(sites: &[Site; 2], act: impl FnOnce() -> Outcome) -> Outcome {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let visit = |site| {
            let over = &over;
            scope.spawn(move || visitor(site, over))
        };
        let visitors: Vec<_> = sites.iter().map(visit).collect();
        let acted = act();
        over.store(true, Ordering::SeqCst);
        for visitor in visitors {
            let (answers, longest) = visitor.join().map_err(|_| "a visitor panicked")??;
            println!("  {answers} answers, the longest after {longest:?}");
            if longest > Duration::from_secs(1) {
                return Err(format!("an answer took {longest:?}"));
            }
        }
        acted
    })
}

fn c80_killed() -> Outcome {
    let mut two = Two::start("500ms")?;
    two.both("before", "0")?;
    let (redis, sites) = (&mut two.redis, &two.sites);
    let version = &two.version;
    let [one, other] = sites;
    under_load(sites, || {
        redis.kill();
        for site in sites {
            site.until("tidegate_fleet_behind", |behind| behind == 1.0)?;
        }
        // What is done is done here, and told when it can be.
        let page = 1 + version.fetch_add(1, Ordering::SeqCst);
        let told = done(one, "purge tag news")?;
        has("told", &told, "1 of 2 proxies confirmed, redis is down")?;
        let told = done(one, "ttl stretch 2x")?;
        has("told", &told, "the others will hear of it")?;
        equal("here", one.get("/", "")?.text(), page.to_string())?;
        equal("there", other.get("/", "")?.text(), "0".to_owned())?;
        equal("queued", one.metric("tidegate_fleet_queued")?, 2.0)?;
        if !redis.restart() {
            return Err("Redis does not come back".to_owned());
        }
        for site in sites {
            site.until("tidegate_fleet_behind", |behind| behind == 0.0)?;
        }
        eventually("it is told", || {
            let got = other.get("/", "")?.is(200)?;
            Ok((got.text() == page.to_string()).then_some(()))
        })?;
        eventually("the lever, too", || {
            Ok(done(other, "levers")?.contains("ttl").then_some(()))
        })?;
        // What the old one knew is lost with it.
        for site in sites {
            equal("gaps", site.metric("tidegate_fleet_gaps_total")?, 1.0)?;
        }
        Ok(())
    })
}

fn c81_hung() -> Outcome {
    let two = Two::start("50ms")?;
    two.both("before", "0")?;
    let (redis, sites) = (&two.redis, &two.sites);
    let [one, other] = sites;
    under_load(sites, || {
        redis.hold(true);
        let hung = || {
            for site in sites {
                site.until("tidegate_fleet_behind", |behind| behind == 1.0)?;
            }
            // It is known, and nobody waits for it any more: an old page is better than none.
            two.publish();
            let began = clock::now();
            for _ in 0..100 {
                equal("there", other.get("/", "")?.is(200)?.text(), "0".to_owned())?;
            }
            let took = clock::now() - began;
            println!("  100 requests, each on a connection of its own, in {took:?}");
            // A wait of any of them would be 500 ms, of all of them 50 s.
            if took > Duration::from_secs(5) {
                return Err(format!("100 requests took {took:?}"));
            }
            has("told", &done(one, "purge tag news")?, "redis is down")
        };
        let hung = hung();
        redis.hold(false);
        hung?;
        for site in sites {
            site.until("tidegate_fleet_behind", |behind| behind == 0.0)?;
        }
        eventually("it is told", || {
            Ok((other.get("/", "")?.is(200)?.text() == "1").then_some(()))
        })?;
        equal("gaps", other.metric("tidegate_fleet_gaps_total")?, 0.0)
    })
}

/// A config with another Redis, and with none.
fn another_fleet() -> Outcome {
    let two = Two::start("500ms")?;
    two.both("before", "0")?;
    let [one, other] = &two.sites;
    let file = other.dir.path().join("tidegate.toml");
    let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
    let second = RedisServer::start(&[]);
    let elsewhere = text.replace(&two.redis.port.to_string(), &second.port.to_string());
    std::fs::write(&file, elsewhere).map_err(|e| e.to_string())?;
    done(other, "reload")?;
    eventually("it has left", || {
        Ok((!done(one, "status")?.contains("s ago")).then_some(()))
    })?;
    // Nobody knows what was purged there, so its page was stale and is fetched anew.
    other.until("tidegate_fleet_gaps_total", |gaps| gaps == 1.0)?;
    let told = done(one, "purge tag news")?;
    has("alone", &told, "1 of 1 proxies confirmed")?;
    let mut alone: toml::Table = text.parse().map_err(|e| format!("{e}"))?;
    alone.remove("redis");
    std::fs::write(&file, alone.to_string()).map_err(|e| e.to_string())?;
    done(other, "reload")?;
    let told = done(other, "purge tag news")?;
    equal("no fleet", told.contains("proxies"), false)?;
    other.get("/", "")?.is(200).map(drop)
}
