//! Fleets against a real Redis, and against what is none.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use parking_lot::Mutex;
use redis::Value;
use tempfile::NamedTempFile;

use super::message::{Asks, Message, Name, Reply, SCRIPT};
use super::*;
use crate::clock;
use crate::limits::spec::{Action, Cost, Counts, Key, LimitSpec, Rate, Tell};
use crate::limits::table::Hold;
use crate::limits::{self, Asked, Limits};
use crate::redis::server::{RedisServer, until};
use crate::redis::{Failure, LONGEST_ANSWER, Link, Server, Words};
use crate::rules::gcra::{Cell, Gcra, Verdict};
use crate::rules::lease::{Grant, LEASE, Lease, Report, ledger};

const CLIENT: u64 = 7;

/// A proxy as far as limits go: one limit, its table, and the fleet it is in.
struct Proxy {
    part: Arc<Part>,
    cells: Arc<Mutex<HashMap<u64, Cell>>>,
    fleet: Fleet,
}

struct Kept(Arc<Mutex<HashMap<u64, Cell>>>);

impl Cells for Kept {
    fn cell(&self, client: u64) -> Cell {
        self.0.lock().get(&client).copied().unwrap_or_default()
    }

    fn set_cell(&self, client: u64, cell: Cell, _now: u64) {
        self.0.lock().insert(client, cell);
    }
}

fn spec(port: u16) -> FleetSpec {
    FleetSpec {
        redis: RedisSpec {
            servers: vec![Server {
                host: "127.0.0.1".to_owned(),
                port,
                tls: false,
                database: 0,
            }],
            username: None,
            password: None,
            ca: None,
            timeout: Duration::from_millis(500),
            prefix: "tidegate".to_owned(),
        },
        proxies: 1,
    }
}

impl Proxy {
    fn join(spec: FleetSpec, rate: u64, burst: u64) -> Proxy {
        let whole = Gcra::new(rate, Duration::from_secs(1), burst).unwrap();
        let part = Arc::new(Part::new(b"secret", "visitors", whole, 1, spec.proxies));
        let cells = Arc::default();
        part.set_cells(Box::new(Kept(Arc::clone(&cells))));
        let fleet = Fleet::join(spec, vec![Arc::clone(&part)], &Metrics::new()).unwrap();
        Proxy { part, cells, fleet }
    }

    fn request(&self, client: u64) -> bool {
        let now = clock::tick().nanos();
        if let Some(verdict) = self.part.decide(client, now, 1) {
            return matches!(verdict, Verdict::Admit { .. });
        }
        let mut cells = self.cells.lock();
        let cell = cells.entry(client).or_default();
        match self.part.even().load().decide(*cell, now, 1) {
            Verdict::Admit { cell: after, .. } => {
                *cell = after;
                true
            }
            _ => {
                self.part.refused(client);
                false
            }
        }
    }

    /// Asks until it is refused and the fleet knows.
    fn heat(&self, client: u64) {
        until(|| {
            while self.request(client) {}
            self.part.look(client, clock::tick().nanos(), 1).is_some()
        })
        .unwrap();
    }

    fn is_up(&self) -> bool {
        self.fleet.state().is_up()
    }

    fn came_to(&self, result: RedisResult) -> u64 {
        self.fleet.state().operations(result)
    }

    fn wait_for(&self, result: RedisResult) {
        let before = self.came_to(result);
        until(|| self.came_to(result) > before).unwrap_or_else(|_| {
            let all = RedisResult::ALL
                .iter()
                .map(|result| (result.label(), self.came_to(*result)));
            panic!("no {result:?}: {:?}", all.collect::<Vec<_>>())
        });
    }
}

fn joined(server: &RedisServer) -> Proxy {
    let proxy = Proxy::join(spec(server.port), 1000, 1000);
    until(|| proxy.is_up()).expect("it joins");
    proxy
}

#[test]
fn four_proxies_admit_the_rate_however_a_client_spreads() {
    let server = RedisServer::start(&[]);
    let proxies: Vec<_> = (0..4)
        .map(|_| Proxy::join(spec(server.port), 2000, 400))
        .collect();
    let all_know = |proxy: &Proxy| proxy.fleet.state().proxies() == 4;
    until(|| proxies.iter().all(all_know)).expect("they find each other");
    // Three of four requests come to one of them.
    let (start, mut asked, mut admitted) = (clock::tick().nanos(), 0_u64, 0_u64);
    let (mut from, mut before) = (start, 0);
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    loop {
        let now = clock::tick().nanos();
        let due = (seconds(now - start) * 8000.0) as u64;
        if asked >= due {
            thread::sleep(Duration::from_millis(1));
        }
        while asked < due {
            let proxy = if asked % 4 == 0 { 1 + asked / 4 % 3 } else { 0 };
            admitted += u64::from(proxies[proxy as usize].request(CLIENT));
            asked += 1;
        }
        if from == start && now - start > 1_500_000_000 {
            (from, before) = (now, admitted);
        }
        if now - start > 4_500_000_000 {
            let most = 400.0 + 2000.0 * seconds(now - start) * 1.01;
            assert!(admitted as f64 <= most, "{admitted} of {most}");
            let rate = (admitted - before) as f64 / seconds(now - from);
            assert!((1940.0..=2060.0).contains(&rate), "{rate}/s");
            break;
        }
    }
    let messages: u64 = proxies
        .iter()
        .map(|proxy| proxy.came_to(RedisResult::Ok))
        .sum();
    // One for a hundred requests, two a second that have nothing to tell, and some to begin with.
    assert!(
        messages <= asked / 100 + 4 * (2 * 5 + 20),
        "{messages} of {asked}"
    );
}

#[test]
fn c80_down_at_the_start_killed_and_restarted() {
    let mut server = RedisServer::start(&[]);
    server.kill();
    let mut down = spec(server.port);
    down.proxies = 4;
    let proxy = Proxy::join(down, 1000, 1000);
    proxy.wait_for(RedisResult::Unreachable);
    // A fourth of the burst, as there are four.
    let at_once = (0..1000).filter(|_| proxy.request(CLIENT)).count();
    assert!((250..=500).contains(&at_once), "{at_once}");
    assert!(!proxy.is_up());
    assert!(server.restart());
    until(|| proxy.is_up()).expect("it finds Redis");
    assert_eq!(
        proxy.fleet.state().proxies(),
        4,
        "the others may only be coming"
    );

    proxy.heat(CLIENT);
    server.kill();
    until(|| !proxy.is_up()).expect("it notices");
    assert!(server.restart());
    until(|| proxy.is_up()).expect("it comes back");
    proxy.heat(CLIENT);
    until(|| server.keys().iter().any(|(key, ..)| key.contains(":c:"))).expect("told anew");
}

#[test]
fn c81_a_redis_that_hangs_is_left_alone_and_taken_back() {
    let server = RedisServer::start(&[]);
    let proxy = joined(&server);
    server.hold(true);
    until(|| !proxy.is_up()).expect("it notices");
    assert!(proxy.came_to(RedisResult::Timeout) >= 1);
    // Leaving does not hang either.
    let other = Proxy::join(spec(server.port), 1000, 1000);
    other.fleet.leave();
    server.hold(false);
    until(|| proxy.is_up()).expect("it comes back");
}

#[test]
fn c81_a_grant_ends_though_redis_is_waited_for() {
    let server = RedisServer::start(&[]);
    let mut patient = spec(server.port);
    patient.redis.timeout = Duration::from_secs(60);
    let proxies = [0, 1].map(|_| Proxy::join(patient.clone(), 1000, 1000));
    let two = |proxy: &Proxy| proxy.fleet.state().proxies() == 2;
    until(|| proxies.iter().all(two)).expect("they find each other");
    let share = || {
        let hot = proxies[0].part.hot();
        let lease = hot.get(&CLIENT).map(Arc::clone);
        lease.map_or(0.0, |lease| lease.lock().share())
    };
    // Nobody else has use for his rate.
    until(|| {
        while proxies[0].request(CLIENT) {}
        share() > 0.9
    })
    .expect("all of it");
    server.hold(true);
    until(|| share() <= 0.5).expect("no more than its even part");
    server.hold(false);
    until(|| {
        while proxies[0].request(CLIENT) {}
        share() > 0.9
    })
    .expect("all of it again");
}

#[test]
fn c83_many_hot_clients_do_not_hold_redis_up() {
    let server = RedisServer::start(&[]);
    let mut spec = spec(server.port);
    spec.redis.timeout = Duration::from_millis(50);
    spec.proxies = 4;
    let proxies: Vec<_> = (0..4)
        .map(|_| Proxy::join(spec.clone(), 100, 100))
        .collect();
    let all_know = |proxy: &Proxy| proxy.fleet.state().proxies() == 4;
    until(|| proxies.iter().all(all_know)).expect("they find each other");
    let clients = 1..=1_000;
    // Each asks for more than his part everywhere, and goes on.
    until(|| {
        for client in clients.clone() {
            for proxy in &proxies {
                while proxy.request(client) {}
            }
        }
        let know = |proxy: &Proxy| proxy.fleet.state().hot() == 1_000;
        proxies.iter().all(know)
    })
    .expect("all of them hot at all four");
    until(|| {
        for client in clients.clone() {
            for proxy in &proxies {
                proxy.request(client);
            }
        }
        let is_told = |proxy: &Proxy| {
            let hot = proxy.part.hot();
            hot.values().all(|lease| lease.lock().reported() > 0)
        };
        proxies.iter().all(is_told)
    })
    .expect("and told of by all four");
    for proxy in &proxies {
        let (good, late) = (
            proxy.came_to(RedisResult::Ok),
            proxy.came_to(RedisResult::Timeout),
        );
        assert!(late * 5 <= good, "{late} of {good} messages took too long");
        assert!(proxy.is_up());
    }
}

/// Limits of one kind, of which this proxy has a fourth.
fn of_four(limit: LimitSpec, room: fn(usize) -> Option<Hold>) -> Limits {
    let mut fleet = spec(1);
    fleet.proxies = 4;
    Limits::new(&[limit], 0, Some(&fleet), room, &Metrics::new())
}

fn limit(count: u64, per: u64) -> LimitSpec {
    LimitSpec {
        name: "login".to_owned(),
        key: Key(vec![crate::limits::spec::Part::Address]),
        rate: Some(Rate {
            count,
            per: Duration::from_secs(per),
            burst: count,
        }),
        concurrency: None,
        routes: Vec::new(),
        methods: Vec::new(),
        by_rules: None,
        tier: None,
        tiers: Vec::new(),
        counts: Counts::All,
        cost: Cost::Is(1),
        action: Action::Refuse,
        max_delay: Duration::ZERO,
        penalty: Duration::ZERO,
        max_clients: 1_000,
        tell: Tell::Refused,
        shared: true,
        x_ratelimit: false,
    }
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn who_is_refused_by_a_part_is_not_punished_for_it() {
    let login = LimitSpec {
        penalty: Duration::from_secs(900),
        ..limit(5, 60)
    };
    let limits = of_four(login, |_| Some(Box::new(())));
    let ask = |now| {
        let limit = &limits.all()[0];
        let asked = Asked {
            limit,
            client: CLIENT,
        };
        let refusal = limits::ask(&[asked], now, || false).err()?;
        Some(refusal.wait.unwrap().as_secs())
    };
    assert_eq!(ask(0), None);
    // Four more are his elsewhere: as soon as this is known he has them.
    for _ in 0..100 {
        let wait = ask(5 * SECOND).expect("a fourth of five is one");
        assert!(wait <= 13, "{wait} s");
    }
    assert_eq!(ask(48 * SECOND), None, "none of the hundred counted");
}

#[test]
fn what_has_no_place_in_the_table_takes_none_from_it() {
    static THERE_IS: AtomicBool = AtomicBool::new(false);
    let at_once = LimitSpec {
        concurrency: Some(1),
        ..limit(1000, 1)
    };
    let room = |_| THERE_IS.load(Relaxed).then(|| Box::new(()) as Hold);
    let limits = of_four(at_once, room);
    let limit = &limits.all()[0];
    let part = limit.part.as_ref().unwrap();
    let lease = Lease::new(part.whole, 4, 1.0, Cell::default(), true, 0);
    let mut hot = part::Hot::default();
    hot.insert(CLIENT, Arc::new(Mutex::new(lease)));
    part.set_hot(hot);
    let asked = Asked {
        limit,
        client: CLIENT,
    };
    let without = limits::ask(&[asked], 0, || false).ok().unwrap();
    THERE_IS.store(true, Relaxed);
    let within = limits::ask(&[asked], 0, || false).ok().unwrap();
    drop(without);
    assert!(
        limits::ask(&[asked], 0, || false).is_err(),
        "one is in hand"
    );
    drop(within);
    assert!(limits::ask(&[asked], 0, || false).is_ok());
}

#[test]
fn who_was_refused_first_is_hot_first() {
    let whole = Gcra::new(1, Duration::from_secs(1), 1).unwrap();
    let part = Part::new(b"secret", "a", whole, 1, 4);
    for client in [9, 3, 9, 7, 3, 5, 1] {
        part.refused(client);
    }
    assert_eq!(part.take_refused(2), [9, 3]);
    part.refused(2);
    assert!(part.has_refused());
    assert_eq!(part.take_refused(3), [9, 7, 3]);
    assert_eq!(part.take_refused(100), [5, 1, 2]);
    assert!(!part.has_refused());
}

#[test]
fn c82_what_somebody_wrote_into_redis_is_mended() {
    let server = RedisServer::start(&[]);
    let proxy = joined(&server);
    proxy.heat(CLIENT);
    let account = || {
        let keys = server.keys();
        keys.into_iter()
            .find(|(key, ..)| key.contains(":c:"))
            .map(|(key, ..)| key)
    };
    until(|| account().is_some()).expect("an account");
    let account = account().unwrap();
    let of = |rest: &str| format!("{{tidegate}}:{rest}");
    let (members, hot, version) = (of("members"), of("hot"), of("version"));
    let long = "9".repeat(1 << 20);
    let me = format!("{:016x}", 1);
    let poison: &[&[&str]] = &[
        &["SET", &members, "x"],
        &["SET", &hot, "x"],
        &["DEL", &version],
        &["LPUSH", &version, "x"],
        &["SET", &version, &long],
        &["ZADD", &members, "nan", "x"],
        &["ZADD", &members, "inf", "x", "-inf", "y", "1e300", "z"],
        &["ZADD", &hot, "inf", "x", "-inf", "y", "1e300", &long],
        &["DEL", &account],
        &["LPUSH", &account, "x"],
        &["SET", &account, &long],
        &["SET", &account, "nan nan nan nan"],
        &["SET", &account, "-5 1 1 1"],
        &["SET", &account, "1e308 1e308 1e308 1e308"],
        &["SET", &account, "1 1 1 4 x 1"],
        &["SET", &account, "1 1 1 0"],
        &["SET", &account, "0 1 1 1 x -1 nan inf 0 0"],
        &["SET", &account, "0 1 1 1 x 1e9 1e9 1e9 1e9 1e9"],
        &["SET", &account, "\0\r\n$-1\r\n"],
        &["PERSIST", &account],
        &["PERSIST", &members],
        &["PERSIST", &hot],
        &["PERSIST", &version],
        &["ZADD", &members, "1", &me],
        &["SCRIPT", "FLUSH"],
    ];
    let long_of = |words: &[&str]| {
        words
            .iter()
            .map(|w| &w[..w.len().min(40)])
            .collect::<Vec<_>>()
            .join(" ")
    };
    for words in poison {
        // Some of it Redis itself won't take.
        let _ = server.ask(words);
        println!("{}", long_of(words));
        // The next but one message was certainly sent after it.
        for _ in 0..2 {
            // There is traffic to speak of, so messages are soon.
            while proxy.part.requests.total() % 400 != 399 {
                proxy.request(CLIENT);
            }
            proxy.request(CLIENT);
            proxy.wait_for(RedisResult::Ok);
        }
        proxy.heat(CLIENT);
        let kinds: HashMap<_, _> = server
            .keys()
            .into_iter()
            .map(|(k, kind, left)| (k, (kind, left)))
            .collect();
        let mended = until(|| {
            proxy.request(CLIENT);
            let keys = server.keys();
            let right = |(key, kind, left): &(String, String, i64)| {
                let wants = if *key == members || *key == hot {
                    "zset"
                } else {
                    "string"
                };
                kind == wants && (1..=600).contains(left)
            };
            keys.len() == 4 && keys.iter().all(right)
        });
        mended.unwrap_or_else(|_| panic!("after {}: {kinds:?}", long_of(words)));
    }
    for result in [
        RedisResult::Unbelievable,
        RedisResult::Timeout,
        RedisResult::Unreachable,
    ] {
        assert_eq!(proxy.came_to(result), 0, "{result:?}");
    }
    assert!(proxy.is_up());
}

#[test]
fn c82_errors_of_redis_are_outages() {
    let server = RedisServer::start(&[]);
    let proxy = joined(&server);
    let dead = server.port.to_string();
    for (wrong, right) in [
        (
            vec!["CONFIG", "SET", "maxmemory", "1"],
            vec!["CONFIG", "SET", "maxmemory", "0"],
        ),
        // Of itself: a replica that will never be one.
        (
            vec!["REPLICAOF", "127.0.0.1", &dead],
            vec!["REPLICAOF", "NO", "ONE"],
        ),
    ] {
        server.ask(&wrong).unwrap();
        proxy.wait_for(RedisResult::Refused);
        until(|| !proxy.is_up()).unwrap_or_else(|_| panic!("{wrong:?}"));
        server.ask(&right).unwrap();
        until(|| proxy.is_up()).unwrap_or_else(|_| panic!("{right:?}"));
    }
}

#[test]
fn c82_a_wrong_password_is_an_outage_and_the_right_one_is_not() {
    let server = RedisServer::start(&["--requirepass", "sesame"]);
    let mut wrong = spec(server.port);
    wrong.redis.password = Some("simsalabim".to_owned());
    let proxy = Proxy::join(wrong.clone(), 1000, 1000);
    proxy.wait_for(RedisResult::Refused);
    assert!(!proxy.is_up());
    let mut right = wrong;
    right.redis.password = Some("sesame".to_owned());
    let proxy = Proxy::join(right, 1000, 1000);
    until(|| proxy.is_up()).expect("it joins");
}

#[test]
fn c82_whatever_a_server_answers() {
    let answers: &[&[u8]] = &[
        b"",
        b"\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-MOVED 1 127.0.0.1:1\r\n",
        b"-MOVED \r\n",
        b"-MOVED 1 nowhere\r\n",
        b"-ASK 1 127.0.0.1:1\r\n",
        b"-NOSCRIPT no\r\n",
        b"-\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b":99999999999999999999\r\n",
        b"$-2\r\n",
        b"$536870912\r\n",
        b"$9223372036854775807\r\nx",
        b"*-2\r\n",
        b"*1000000000\r\n",
        b"*9223372036854775807\r\n:1\r\n",
        b"*4\r\n:-1\r\n$1\r\n1\r\n$-1\r\n*0\r\n",
        b"*4\r\n:1000000\r\n$1\r\n1\r\n$-1\r\n*0\r\n",
        b"*4\r\n:1\r\n$33\r\n111111111111111111111111111111111\r\n$-1\r\n*0\r\n",
        b"*4\r\n:1\r\n$1\r\n1\r\n$-1\r\n*1\r\n$0\r\n\r\n",
        b"*4\r\n:1\r\n$1\r\n\xff\r\n$-1\r\n*0\r\n",
        b"%-1\r\n",
        b"%9223372036854775807\r\n",
        b"|1\r\n+a\r\n+b\r\n",
        b">2\r\n+message\r\n+x\r\n",
        b"=5\r\nabcde\r\n",
        b"=-1\r\n",
        b"(12345678901234567890\r\n",
    ];
    for answer in answers {
        let fake = Fake::answering(answer.to_vec(), false);
        let mut spec = spec(fake.port);
        spec.redis.timeout = Duration::from_millis(50);
        let proxy = Proxy::join(spec, 1000, 1000);
        let failures = || -> u64 {
            let results = RedisResult::ALL
                .iter()
                .filter(|result| **result != RedisResult::Ok);
            results.map(|result| proxy.came_to(*result)).sum()
        };
        until(|| failures() > 0).unwrap();
        let told = String::from_utf8_lossy(answer);
        assert_eq!(proxy.came_to(RedisResult::Ok), 0, "{told:?}");
        assert!(!proxy.is_up(), "{told:?}");
        assert!(proxy.request(CLIENT), "{told:?}");
    }
}

#[test]
fn c82_an_answer_without_an_end_is_not_read() {
    for begin in ["$536870912\r\n", "*536870912\r\n", "+"] {
        let fake = Fake::answering(begin.as_bytes().to_vec(), true);
        let mut spec = spec(fake.port);
        // Time enough for it to be read whole, were it read.
        spec.redis.timeout = Duration::from_secs(60);
        let proxy = Proxy::join(spec, 1000, 1000);
        until(|| fake.hung_up() > 0).unwrap_or_else(|_| panic!("{begin:?}"));
        let most = LONGEST_ANSWER as u64 + (16 << 20);
        let sent = fake.sent.load(Relaxed);
        assert!(sent <= most, "{begin:?}: {sent} bytes went out");
        assert_eq!(proxy.came_to(RedisResult::Ok), 0);
    }
}

#[test]
fn c83_keys_have_one_form_and_an_end() {
    let server = RedisServer::start(&[]);
    let proxy = joined(&server);
    let who = "evil\r\nFLUSHALL\r\n{x}*?:";
    let client = proxy.part.client(&who);
    assert_eq!(client, proxy.part.client(&who));
    proxy.heat(client);
    until(|| server.keys().len() == 4).expect("an account");
    for (key, _, left) in server.keys() {
        let rest = key.strip_prefix("{tidegate}:").expect(&key);
        let of_client = rest.strip_prefix("c:");
        let is_name = |name: &str| name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(of_client.is_none_or(is_name), "{key}");
        assert!((1..=600).contains(&left), "{key} has {left} s left");
    }
    // One that has gone for good is forgotten, here and there.
    until(|| server.keys().len() < 4).expect("the account is closed");
    until(|| proxy.part.look(client, clock::tick().nanos(), 1).is_none()).expect("and forgotten");
}

#[test]
fn limits_that_differ_share_nothing() {
    let whole = |count| Gcra::new(count, Duration::from_secs(1), 10).unwrap();
    let part = |secret: &[u8], name, count, least| Part::new(secret, name, whole(count), least, 1);
    let one = part(b"secret", "a", 10, 1);
    let same = part(b"secret", "a", 10, 1);
    assert_eq!((one.tag, one.client(&1)), (same.tag, same.client(&1)));
    for other in [
        part(b"secret", "b", 10, 1),
        part(b"secretb", "a", 10, 1),
        part(b"secreta", "", 10, 1),
    ] {
        assert_ne!(one.tag, other.tag);
        assert_ne!(one.client(&1), other.client(&1));
    }
    // Where only the rate is another it is another limit to the fleet, of the same clients to this proxy.
    for other in [part(b"secret", "a", 11, 1), part(b"secret", "a", 10, 2)] {
        assert_ne!(one.tag, other.tag);
        assert_eq!(one.client(&1), other.client(&1));
    }
}

#[test]
fn tiers_of_a_limit_share_nothing_and_are_the_same_everywhere() {
    let (fleet, rate) = (spec(6379), Duration::from_secs(1));
    let part = |tier: Option<&str>| {
        let limit = LimitSpec {
            tier: tier.map(str::to_owned),
            ..crate::limits::tests::spec("visitors", 10, 10)
        };
        Part::of(&fleet, &limit, Gcra::new(10, rate, 10).unwrap())
    };
    let gold = part(Some("gold"));
    assert_eq!(gold.tag, part(Some("gold")).tag);
    assert_eq!(gold.client(&1), part(Some("gold")).client(&1));
    for other in [part(None), part(Some("signed_in"))] {
        assert_ne!(gold.tag, other.tag);
        assert_ne!(gold.client(&1), other.client(&1));
    }
}

#[test]
fn a_proxy_that_leaves_is_gone_at_once() {
    let server = RedisServer::start(&[]);
    let stays = joined(&server);
    let leaves = joined(&server);
    let members = || server.text(&["ZCARD", "{tidegate}:members"]);
    until(|| stays.fleet.state().proxies() == 2).expect("they find each other");
    leaves.fleet.leave();
    assert_eq!(members(), "1");
}

#[test]
fn who_leaves_has_what_he_had_until_nobody_asks_him() {
    let server = RedisServer::start(&[]);
    let proxy = joined(&server);
    proxy.heat(CLIENT);
    let share = || {
        let lease = proxy.part.hot().get(&CLIENT).map(Arc::clone);
        lease.map_or(0.0, |lease| lease.lock().share())
    };
    until(|| {
        while proxy.request(CLIENT) {}
        share() > 0.9
    })
    .expect("nobody else is there");
    proxy.fleet.leave();
    assert!(share() > 0.9, "{}", share());
}

#[test]
fn another_limit_takes_the_place_of_one_and_what_that_had_is_the_others() {
    let server = RedisServer::start(&[]);
    let proxies = [0, 1].map(|_| Proxy::join(spec(server.port), 1000, 1000));
    let two = |proxy: &Proxy| proxy.fleet.state().proxies() == 2;
    until(|| proxies.iter().all(two)).expect("they find each other");
    let share = |proxy: &Proxy| {
        let lease = proxy.part.hot().get(&CLIENT).map(Arc::clone);
        lease.map_or(0.0, |lease| lease.lock().share())
    };
    until(|| {
        proxies
            .iter()
            .for_each(|proxy| while proxy.request(CLIENT) {});
        proxies.iter().all(|proxy| share(proxy) > 0.3)
    })
    .expect("each has about a half");
    let half = Gcra::new(500, Duration::from_secs(1), 500).unwrap();
    let other = Arc::new(Part::new(b"secret", "visitors", half, 1, 1));
    proxies[0].fleet.renew(vec![Arc::clone(&other)]);
    assert_eq!(
        other.even().load().rate(),
        250.0,
        "there are two, it is known"
    );
    until(|| {
        while proxies[1].request(CLIENT) {}
        share(&proxies[1]) > 0.9
    })
    .expect("the other gets it");
    assert!(proxies[0].part.hot().is_empty());
    assert!(proxies[0].cells.lock().contains_key(&CLIENT));
    assert!(proxies.iter().all(two), "nobody came, nobody left");
    // The new one is kept in step as well.
    other.refused(CLIENT);
    until(|| other.is_hot(CLIENT)).expect("it is shared");
}

#[test]
fn limits_that_change_stay_in_their_fleet() {
    let server = RedisServer::start(&[]);
    let fleet = spec(server.port);
    let room = |_: usize| Some(Box::new(()) as Hold);
    let metrics = Metrics::new();
    let limits = Limits::new(&[limit(5, 60)], 0, Some(&fleet), room, &metrics);
    limits.join(&fleet, &metrics).unwrap();
    let members = || server.text(&["ZCARD", "{tidegate}:members"]);
    until(|| members() == "1").expect("it joins");
    let renewed = limits.renewed(&[limit(9, 60)], 0, Some(&fleet), room, &metrics);
    assert!(renewed.stays_with(&limits));
    renewed.take_over(&limits);
    let [part] = renewed.parts().collect::<Vec<_>>()[..] else {
        panic!("one limit");
    };
    part.refused(CLIENT);
    until(|| part.is_hot(CLIENT)).expect("it is the one that is shared");
    assert_eq!(members(), "1");
    // Another fleet is another membership.
    let mut elsewhere = fleet.clone();
    elsewhere.redis.prefix = "other".to_owned();
    let other = renewed.renewed(&[limit(9, 60)], 0, Some(&elsewhere), room, &metrics);
    assert!(!other.stays_with(&renewed));
}

#[test]
fn of_a_cluster_the_node_is_found_that_has_the_keys() {
    let nodes = [(); 2].map(|()| RedisServer::start(&["--cluster-enabled", "yes"]));
    for (node, slots) in nodes.iter().zip([["0", "8191"], ["8192", "16383"]]) {
        node.ask(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]])
            .unwrap();
    }
    nodes[0]
        .ask(&["CLUSTER", "MEET", "127.0.0.1", &nodes[1].port.to_string()])
        .unwrap();
    let is_ready =
        |node: &RedisServer| node.text(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
    until(|| nodes.iter().all(is_ready)).expect("a cluster");
    let proxies: Vec<_> = nodes.iter().map(joined).collect();
    until(|| {
        proxies
            .iter()
            .all(|proxy| proxy.fleet.state().proxies() == 2)
    })
    .expect("one fleet");
    proxies[0].heat(CLIENT);
    until(|| nodes.iter().any(|node| node.keys().len() == 4)).expect("its keys in one slot");
}

#[test]
fn tls_with_the_right_authority_alone() {
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::NoCa;
    let key = rcgen::KeyPair::generate().unwrap();
    let its = params.self_signed(&key).unwrap();
    let file = |text: &str| {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    let (cert, secret) = (file(&its.pem()), file(&key.serialize_pem()));
    let path = |file: &NamedTempFile| file.path().to_str().unwrap().to_owned();
    let server = RedisServer::start(&[
        "--tls-port",
        "PORT",
        "--tls-cert-file",
        &path(&cert),
        "--tls-key-file",
        &path(&secret),
        "--tls-ca-cert-file",
        &path(&cert),
        "--tls-auth-clients",
        "no",
    ]);
    let other = rcgen::KeyPair::generate().unwrap();
    let other = file(&params.self_signed(&other).unwrap().pem());
    let mut spec = spec(server.port);
    spec.redis.servers[0].tls = true;
    spec.redis.ca = Some(other.path().to_owned());
    let proxy = Proxy::join(spec.clone(), 1000, 1000);
    proxy.wait_for(RedisResult::Unreachable);
    assert!(!proxy.is_up());
    spec.redis.ca = Some(cert.path().to_owned());
    let proxy = Proxy::join(spec.clone(), 1000, 1000);
    until(|| proxy.is_up()).expect("it joins");
    spec.redis.ca = Some("/nowhere".into());
    assert!(Link::new(spec.redis, SCRIPT, LEASE).is_err());
}

/// The script and its twin say the same, to the last digit that is written.
#[test]
fn the_script_does_what_the_simulations_do() {
    let server = RedisServer::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut link = Link::new(spec(server.port).redis, SCRIPT, LEASE).unwrap();
    let seed = crate::telemetry::ids::random();
    println!("seed {seed}");
    let mut dice = seed;
    let mut unit = move || {
        dice = dice
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (dice >> 11) as f64 / (1_u64 << 53) as f64
    };
    for client in 0..20 {
        let asks = Asks {
            rate: (1.0 + unit() * 1000.0).round(),
            burst: (1.0 + unit() * 500.0).round(),
            least: 1.0 + (unit() * 3.0).floor(),
        };
        let whole = ledger::Whole {
            rate: asks.rate,
            burst: asks.burst,
            least: asks.least,
        };
        let name = Name { tag: 1, client };
        let key = format!("{{tidegate}}:c:00000001{client:016x}");
        let (mut members, mut account) = (ledger::Members::default(), None);
        for nth in 0..40 {
            let me = 1 + (unit() * 4.0) as u64;
            // Now and then one comes that was said long ago.
            let number = if unit() < 0.1 { 1 } else { nth + 1 };
            let staying = unit() < 0.95;
            let rounded = |number: f64| (number * 1e6).round() / 1e6;
            let tokens = rounded(unit() * asks.burst / 4.0);
            let report = Report {
                demand: if unit() < 0.3 {
                    0.0
                } else {
                    rounded(unit() * 2.0 * asks.rate)
                },
                tokens,
                peak: rounded(tokens * (1.0 + unit())),
                back: rounded(unit() * asks.burst / 4.0),
                share: rounded(unit() * 1.1),
                burst: rounded(unit() * asks.burst * 1.1),
            };
            let message = Message {
                prefix: "tidegate",
                me,
                number,
                staying,
                known: 4,
                version: "",
                reports: &[(name, asks, report)],
            };
            let command = |sha: &str| message.command(sha);
            let words = Words::Script(&command);
            let said = link.say(&words, |value| message.read(value));
            let reply = runtime.block_on(said).unwrap();
            let grant = reply.grants[0];
            let text = server.ask(&["GET", &key]).unwrap();
            let text: Option<String> = redis::from_redis_value(text).unwrap();
            let now: f64 = match text.as_deref().and_then(|text| text.split(' ').nth(1)) {
                Some(at) => at.parse().unwrap(),
                // It is closed: the twin has to say so at about that time.
                None => reply.version.parse().unwrap(),
            };
            match staying {
                true => drop(members.heard(me, now)),
                false => members.left(me),
            }
            let twin = account.get_or_insert_with(|| ledger::Account::new(4, now));
            let expected = twin.step((me, number), whole, report, &members, now);
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-4 * (1.0 + b.abs());
            match (grant, expected) {
                (Some(grant), Some(twin)) => assert!(
                    close(grant.share, twin.share)
                        && close(grant.burst, twin.burst)
                        && close(grant.tokens, twin.tokens),
                    "{grant:?} where the twin has {twin:?}"
                ),
                (None, None) => account = None,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn answers_are_read_to_the_letter() {
    let report = Report {
        demand: 1.0,
        tokens: 1.0,
        peak: 1.0,
        back: 0.0,
        share: 1.0,
        burst: 1.0,
    };
    let asks = Asks {
        rate: 1.0,
        burst: 1.0,
        least: 1.0,
    };
    let name = Name { tag: 1, client: 2 };
    let message = Message {
        prefix: "tidegate",
        me: 1,
        number: 1,
        staying: true,
        known: 1,
        version: "",
        reports: &[(name, asks, report)],
    };
    let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
    let read = |hot: Value, grant: Value| {
        let parts = vec![Value::Int(3), text("1.5"), hot, Value::Array(vec![grant])];
        message.read(Value::Array(parts))
    };
    let names = Value::Array(vec![
        text("000000010000000000000002"),
        text("00000001000000000000000g"),
        text("+00000010000000000000002"),
        text("short"),
        Value::Int(1),
    ]);
    let good = Reply {
        counted: 3,
        version: "1.5".to_owned(),
        hot: Some(vec![name]),
        grants: vec![Some(Grant {
            share: 0.5,
            burst: 2.0,
            tokens: 1e-7,
        })],
    };
    assert_eq!(read(names, text("0.5 2 1e-07")).unwrap(), good);
    assert_eq!(read(Value::Nil, text("")).unwrap().grants, [None]);
    for wrong in ["1", "1 2", "1 2 3 4", " 1 2 3", "a b c", "1  2 3", "1 2 "] {
        let Failure { result, .. } = read(Value::Nil, text(wrong)).unwrap_err();
        assert_eq!(result, RedisResult::Unbelievable, "{wrong:?}");
    }
    assert!(read(Value::Int(1), text("")).is_err());
    assert!(read(Value::Nil, Value::Nil).is_err());
    let too_many = Value::Array(vec![text("x"); part::MOST_HOT + 1]);
    assert!(read(too_many, text("")).is_err());
}

/// A server that says one thing, whatever it is asked.
struct Fake {
    port: u16,
    sent: Arc<AtomicU64>,
    hung_up: Arc<AtomicU64>,
}

impl Fake {
    /// `on_and_on`: with no end to it.
    fn answering(answer: Vec<u8>, on_and_on: bool) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sent, hung_up) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let told = (Arc::clone(&sent), Arc::clone(&hung_up));
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut asked = [0; 16 * 1024];
                while stream.read(&mut asked).is_ok_and(|length| length > 0) {
                    let mut going = stream.write_all(&answer).is_ok();
                    while going && on_and_on {
                        going = stream.write_all(&[b'1'; 4096]).is_ok();
                        told.0.fetch_add(4096, Relaxed);
                    }
                    if on_and_on {
                        told.1.fetch_add(1, Relaxed);
                    }
                }
            }
        });
        Fake {
            port,
            sent,
            hung_up,
        }
    }

    fn hung_up(&self) -> u64 {
        self.hung_up.load(Relaxed)
    }
}
