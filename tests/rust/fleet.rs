//! Four proxies that share limits over a Redis: one client who spreads over all, Redis taken away and given back, and what a
//! request's time has to do with that. `make bench-fleet` runs them for half a minute and more, and says what was measured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::identities::{SECRET, bearer, token};
use super::server::RedisServer;
use super::site::{Origin, Site, answer, equal};
use super::{Outcome, Test};
use crate::harness::clock;
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        (
            "fleet::c49_one_client_over_four_proxies_gets_the_rate",
            c49_the_rate,
        ),
        (
            "fleet::c49_who_is_known_gets_the_rate_of_the_tier",
            c49_a_tier,
        ),
        (
            "fleet::c80_redis_killed_under_load_is_nobodys_wait",
            c80_killed,
        ),
        (
            "fleet::c81_redis_that_hangs_under_load_is_nobodys_wait",
            c81_hung,
        ),
        (
            "fleet::a_limit_that_is_not_shared_is_each_proxys_own",
            not_shared,
        ),
    ]
}

const RATE: f64 = 200.0;
const BURST: f64 = 200.0;
/// How many of eight requests come to each proxy.
const SPREADS: [[f64; 4]; 2] = [[2.0; 4], [5.0, 1.5, 1.0, 0.5]];
/// Requests a second, together: what a busy machine bears that runs other tests, and what is measured by itself.
const OFFERED: [f64; 2] = [800.0, 2000.0];

struct Fleet {
    redis: Option<RedisServer>,
    sites: Vec<Site>,
    /// What the client's requests bring.
    fields: String,
    _origin: Origin,
}

impl Fleet {
    /// `limit`: what it says beside its name.
    fn start(limit: &str) -> Result<Fleet, String> {
        let origin = Origin::start(|_, conn: &mut Conn| {
            answer(conn, 200, "Cache-Control: max-age=600\r\n", b"page")
        })?;
        let redis = RedisServer::start(&[]);
        let config = format!(
            "[[limit]]\nname = 'visitors'\n{limit}\n\
             [redis]\nservers = ['redis://127.0.0.1:{}']\ntimeout = '500ms'\nproxies = 4\n",
            redis.port
        );
        let site = |_| Site::start(origin.address, &config);
        let sites = (0..4).map(site).collect::<Result<Vec<_>, _>>()?;
        let fleet = Fleet {
            redis: Some(redis),
            sites,
            fields: String::new(),
            _origin: origin,
        };
        fleet.until("tidegate_redis_up", 1.0)?;
        fleet.until("tidegate_fleet_proxies", 4.0)?;
        Ok(fleet)
    }

    /// Waits until a metric of all proxies is this.
    fn until(&self, metric: &str, value: f64) -> Outcome {
        let all = |site: &Site| site.until(metric, |is| is == value);
        self.sites.iter().try_for_each(all)
    }

    /// The sum of a metric over all proxies.
    fn sum(&self, metric: &str) -> Result<f64, String> {
        self.sites.iter().map(|site| site.metric(metric)).sum()
    }

    /// One client asks at all proxies for so long, its requests spread so; meanwhile `act` is run.
    fn load(
        &self,
        time: Duration,
        spread: [f64; 4],
        act: impl FnOnce() -> Outcome,
    ) -> Result<Load, String> {
        let over = AtomicBool::new(false);
        let offered = OFFERED[usize::from(given_seconds().is_some())];
        let start = clock::now();
        thread::scope(|scope| {
            let at = |(site, part): (_, f64)| {
                let over = &over;
                scope.spawn(move || ask(site, &self.fields, part * offered / 8.0, start, over))
            };
            let clients: Vec<_> = self.sites.iter().zip(spread).map(at).collect();
            let acted = act();
            while clock::now() - start < time && acted.is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
            over.store(true, Ordering::Relaxed);
            let mut all = Load::default();
            for client in clients {
                let load = client.join().map_err(|_| "a client panicked")??;
                all.admitted.extend(load.admitted);
                all.asked += load.asked;
                all.longest = all.longest.max(load.longest);
                all.late += load.late;
            }
            all.time = clock::now() - start;
            acted.map(|()| all)
        })
    }
}

/// What came of a client's requests.
#[derive(Default)]
struct Load {
    asked: usize,
    /// When those were answered that were let in.
    admitted: Vec<Duration>,
    longest: Duration,
    /// Requests that took more than 5 ms.
    late: usize,
    time: Duration,
}

impl Load {
    fn between(&self, from: f64, to: f64) -> f64 {
        let within = |at: &&Duration| (from..to).contains(&at.as_secs_f64());
        self.admitted.iter().filter(within).count() as f64
    }

    /// Never more than the burst and the rate, beside `slack`.
    fn is_bounded(&self, slack: f64) -> Outcome {
        let mut times: Vec<_> = self.admitted.iter().map(Duration::as_secs_f64).collect();
        times.sort_by(f64::total_cmp);
        for (at, time) in times.iter().enumerate() {
            let most = BURST + RATE * 1.01 * time + slack;
            if (at + 1) as f64 > most {
                return Err(format!("{} admitted after {time} s, of {most}", at + 1));
            }
        }
        Ok(())
    }

    /// Nobody waited: with a second's slack, since the machine is busy with other tests.
    fn is_prompt(&self) -> Outcome {
        match self.longest < Duration::from_secs(1) {
            true => Ok(()),
            false => Err(format!("a request took {:?}", self.longest)),
        }
    }
}

/// A client at one proxy: so many requests a second, evenly, until it is over.
fn ask(
    site: &Site,
    fields: &str,
    rate: f64,
    start: std::time::Instant,
    over: &AtomicBool,
) -> Result<Load, String> {
    let mut client = site.client()?;
    let mut load = Load::default();
    while !over.load(Ordering::Relaxed) {
        let due = Duration::from_secs_f64(load.asked as f64 / rate);
        let now = clock::now() - start;
        if now < due {
            thread::sleep(due - now);
            continue;
        }
        let began = clock::now();
        let reply = client.get("/", fields)?;
        let took = clock::now() - began;
        load.asked += 1;
        load.longest = load.longest.max(took);
        load.late += usize::from(took > Duration::from_millis(5));
        match reply.status {
            200 => load.admitted.push(clock::now() - start),
            429 => {}
            other => return Err(format!("status {other}")),
        }
    }
    Ok(load)
}

/// How long it is looked at: shorter among all the tests than for itself.
fn seconds(otherwise: f64) -> f64 {
    given_seconds().unwrap_or(otherwise)
}

fn given_seconds() -> Option<f64> {
    let given = std::env::var("TIDEGATE_SECONDS").ok();
    given.and_then(|text| text.parse().ok())
}

fn visitors() -> String {
    format!("rate = '{RATE}/s'\nburst = {BURST}")
}

fn c49_the_rate() -> Outcome {
    for spread in SPREADS {
        let fleet = Fleet::start(&visitors())?;
        let seconds = seconds(4.0);
        // What is left of the burst, and until shares have settled, is not the rate.
        let warm = 2.0;
        let before = fleet.sum("tidegate_redis_operations_total")?;
        let load = fleet.load(Duration::from_secs_f64(warm + seconds), spread, || Ok(()))?;
        let messages = fleet.sum("tidegate_redis_operations_total")? - before;
        let part = load.between(warm, warm + seconds) / (RATE * seconds);
        println!(
            "  {spread:?}: {:.2} % of the rate over {seconds} s; {messages} messages for {} requests, {} took more than 5 ms, the longest {:?}",
            part * 100.0,
            load.asked,
            load.late,
            load.longest
        );
        load.is_bounded(0.0)?;
        // A request at either end is a third of a percent of three seconds.
        let slack = 10.0 / (RATE * seconds);
        if !(0.98 - slack..=1.01 + slack).contains(&part) {
            return Err(format!("{spread:?}: {part} of the rate"));
        }
        if messages > load.asked as f64 * 0.01 + 4.0 * (load.time.as_secs_f64() * 2.0 + 22.0) {
            return Err(format!("{messages} messages for {} requests", load.asked));
        }
    }
    Ok(())
}

/// No proxy is told what identities are hashed with: it is what they share.
fn c49_a_tier() -> Outcome {
    let mut fleet = Fleet::start(&format!(
        "rate = '1/s'\ntiers = {{ signed_in = '{RATE}/s' }}\n[identity]\njwt_secret = '{SECRET}'"
    ))?;
    fleet.fields = bearer(&token(SECRET, serde_json::json!({"sub": "ada"})));
    let load = fleet.load(Duration::from_secs(4), SPREADS[1], || Ok(()))?;
    let part = load.between(2.0, 4.0) / (RATE * 2.0);
    println!("  {:.2} % of the tier's rate", part * 100.0);
    load.is_bounded(0.0)?;
    match part > 0.9 {
        true => Ok(()),
        false => Err(format!("{part} of the rate")),
    }
}

fn c80_killed() -> Outcome {
    let mut fleet = Fleet::start(&visitors())?;
    let around = seconds(6.0) / 3.0;
    let spread = SPREADS[1];
    let time = Duration::from_secs_f64(3.0 * around);
    let mut redis = fleet.redis.take().ok_or("no Redis")?;
    let load = fleet.load(time, spread, || {
        thread::sleep(Duration::from_secs_f64(around));
        redis.kill();
        fleet.until("tidegate_redis_up", 0.0)?;
        thread::sleep(Duration::from_secs_f64(around));
        if !redis.restart() {
            return Err("Redis does not come back".to_owned());
        }
        let back = clock::now();
        fleet.until("tidegate_redis_up", 1.0)?;
        println!("  back after {:?}", clock::now() - back);
        thread::sleep(Duration::from_secs(1));
        Ok(())
    })?;
    println!(
        "  Redis killed: {} of {} admitted in {:?}, {} took more than 5 ms, the longest {:?}",
        load.admitted.len(),
        load.asked,
        load.time,
        load.late,
        load.longest
    );
    load.is_prompt()?;
    // Grants end within half a second of one another, and then parts are even: so much may overlap, once.
    load.is_bounded(RATE * 0.6)
}

fn c81_hung() -> Outcome {
    let fleet = Fleet::start(&visitors())?;
    let redis = fleet.redis.as_ref().ok_or("no Redis")?;
    let around = seconds(6.0) / 3.0;
    let time = Duration::from_secs_f64(3.0 * around);
    let load = fleet.load(time, SPREADS[1], || {
        thread::sleep(Duration::from_secs_f64(around));
        redis.hold(true);
        let hung = fleet.until("tidegate_redis_up", 0.0);
        thread::sleep(Duration::from_secs_f64(around));
        redis.hold(false);
        hung?;
        fleet.until("tidegate_redis_up", 1.0)
    })?;
    println!(
        "  Redis hung: {} of {} admitted in {:?}, {} took more than 5 ms, the longest {:?}",
        load.admitted.len(),
        load.asked,
        load.time,
        load.late,
        load.longest
    );
    load.is_prompt()?;
    load.is_bounded(RATE * 0.6)
}

fn not_shared() -> Outcome {
    let fleet = Fleet::start("rate = '50/h'\nshared = false")?;
    for site in &fleet.sites {
        let mut client = site.client()?;
        let mut admitted = 0;
        while client.get("/", "")?.status == 200 {
            admitted += 1;
        }
        equal("admitted", admitted, 50)?;
    }
    Ok(())
}
