//! Fleets against a real Redis, and one that is stopped, killed, emptied and filled with rubbish.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::config;
use crate::levers::{Lever, Order as PullOrder, Pull};
use crate::redis::Server;
use crate::redis::server::{RedisServer, until};
use crate::rules::purge::What;

const TEXT: &str = "[[upstream]]\nservers = ['http://127.0.0.1:8000']\n[[route]]\nname = 'blog'\n";

/// What was purged at a proxy by others.
#[derive(Default)]
struct Kept {
    purged: Mutex<Vec<Purge>>,
    has_pages: AtomicBool,
}

impl Cache for Kept {
    fn purge(&self, purge: &Purge) {
        self.purged.lock().push(purge.clone());
    }

    fn has_pages(&self) -> bool {
        self.has_pages.load(Ordering::Relaxed)
    }
}

struct Proxy {
    fleet: Arc<Fleet>,
    cache: Arc<Kept>,
    board: Arc<Board>,
}

/// Where a proxy keeps what outlives it, and what it serves by.
#[derive(Clone, Default)]
struct Home {
    name: String,
    levers: Option<PathBuf>,
    place: Option<PathBuf>,
    text: Option<String>,
    has_pages: bool,
}

fn home(name: &str) -> Home {
    Home {
        name: name.to_owned(),
        ..Home::default()
    }
}

fn spec(port: u16) -> RedisSpec {
    RedisSpec {
        servers: vec![Server {
            host: "127.0.0.1".to_owned(),
            port,
            tls: false,
            database: 0,
        }],
        username: None,
        password: None,
        ca: None,
        timeout: Duration::from_millis(200),
        prefix: "tidegate".to_owned(),
    }
}

impl Proxy {
    fn start(home: Home, spec: &RedisSpec) -> Proxy {
        let text = home.text.as_deref().unwrap_or(TEXT);
        let base = Arc::new(config::compile("fleet", text).unwrap());
        let board = Arc::new(Board::new(home.levers, base, Box::new(|_| Ok(()))));
        let fleet = Fleet::new(home.name, home.place);
        let cache = Arc::new(Kept::default());
        cache.has_pages.store(home.has_pages, Ordering::Relaxed);
        fleet.serves(Arc::<Kept>::clone(&cache), Arc::clone(&board));
        let tell = Arc::clone(&fleet);
        board.tell(move |change| tell.changed(change));
        fleet.take(fleet.prepare(Some(spec), &Metrics::new()).unwrap());
        Proxy {
            fleet,
            cache,
            board,
        }
    }

    /// Has read all that there is.
    fn is_up(&self) -> bool {
        let standing = self.fleet.standing().unwrap();
        !standing.behind && standing.at.is_some() && standing.unwritable.is_none()
    }

    fn is_behind(&self) -> bool {
        self.fleet.standing().unwrap().behind
    }

    /// Purges a tag here.
    fn purge(&self, tag: &str) {
        self.fleet.purged(&Purge::hard(What::Tag(tag.to_owned())));
    }

    /// Tags that others have purged, in their order; `~`: all, softly; `!`: all, for good.
    fn purged(&self) -> Vec<String> {
        let purged = self.cache.purged.lock();
        let name = |purge: &Purge| match (&purge.what, purge.soft) {
            (What::Tag(tag), false) => tag.clone(),
            (What::All, true) => "~".to_owned(),
            (What::All, false) => "!".to_owned(),
            _ => panic!("{purge:?}"),
        };
        purged.iter().map(name).collect()
    }

    fn pull(&self, pull: Pull, seconds: Option<u64>) -> Lever {
        let order = PullOrder {
            who: "ada".into(),
            reason: "a crowd".into(),
            time: seconds.map(Duration::from_secs),
            force: false,
        };
        let wall = clock::now().wall;
        self.board.pull(pull, order, wall).unwrap().lever
    }

    fn pulled(&self) -> Vec<Uid> {
        let mut all: Vec<_> = self.board.levers().iter().map(|one| one.uid).collect();
        all.sort_by_key(|uid| uid.0);
        all
    }

    fn confirmed(&self, lever: Option<Uid>) -> Confirmed {
        block_on(self.fleet.confirmed(lever)).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.fleet.leave();
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

fn joined(server: &RedisServer, name: &str) -> Proxy {
    let proxy = Proxy::start(home(name), &spec(server.port));
    until(|| proxy.is_up()).expect("it joins");
    proxy
}

/// Two that know each other.
fn pair(server: &RedisServer) -> [Proxy; 2] {
    let two = ["one:80", "two:80"].map(|name| joined(server, name));
    let know = |proxy: &Proxy| proxy.fleet.standing().unwrap().proxies.len() == 1;
    until(|| two.iter().all(know)).expect("they find each other");
    two
}

fn readonly() -> Pull {
    Pull::Readonly { route: None }
}

fn ttl(stretch: f64) -> Pull {
    Pull::Ttl {
        route: None,
        stretch,
        least: 0,
    }
}

fn count(server: &RedisServer, command: &str, of: &str) -> usize {
    let told = server.text(&[command, &format!("{{tidegate}}:{of}")]);
    told.parse().unwrap()
}

#[test]
fn purges_reach_all_others_once_and_in_order() {
    let server = RedisServer::start(&[]);
    let [one, two] = pair(&server);
    for n in 0..100 {
        one.purge(&format!("t{n}"));
    }
    let expected: Vec<_> = (0..100).map(|n| format!("t{n}")).collect();
    until(|| two.purged().len() >= 100).expect("they come");
    assert_eq!(two.purged(), expected);
    let told = one.confirmed(None);
    assert_eq!((told.proxies, told.confirmed, told.waits), (2, 2, None));
    // Not its own, nor anything that was there before it came.
    let third = joined(&server, "three:80");
    two.purge("last");
    until(|| third.purged() == ["last"] && one.purged() == ["last"]).expect("one more");
    for (key, _, left) in server.keys() {
        assert!(key.starts_with("{tidegate}:"), "{key}");
        assert!((1..=30 * 24 * 60 * 60).contains(&left), "{key}: {left} s");
    }
}

#[test]
fn levers_are_in_force_everywhere_and_undone_everywhere() {
    let server = RedisServer::start(&[]);
    let [one, two] = pair(&server);
    let lever = one.pull(readonly(), None);
    let told = one.confirmed(Some(lever.uid));
    assert_eq!((told.proxies, told.confirmed), (2, 2), "{told:?}");
    assert_eq!(two.pulled(), [lever.uid]);
    let there = two.board.levers().remove(0);
    assert_eq!((there.who, there.reason), (lever.who, lever.reason));
    // Who comes later has it, too.
    let third = joined(&server, "three:80");
    until(|| third.pulled() == [lever.uid]).expect("it takes it over");
    two.board.undo(there.id).unwrap();
    until(|| one.pulled().is_empty() && third.pulled().is_empty()).expect("it is undone");
    assert_eq!(count(&server, "HLEN", "levers"), 0);
    // What is over is nobody's any more.
    one.pull(ttl(2.0), Some(5));
    until(|| two.pulled().len() == 1 && third.pulled().len() == 1).expect("it is pulled");
    let later = clock::now().wall + 10;
    assert_eq!(two.board.expire(later).len(), 1);
    until(|| count(&server, "HLEN", "levers") == 0).expect("it is over");
    assert_eq!(one.board.expire(later).len(), 1);
}

#[test]
fn who_pulls_at_the_same_place_at_once_agrees_in_the_end() {
    let server = RedisServer::start(&[]);
    let [one, two] = pair(&server);
    for n in 0..20 {
        let barrier = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for proxy in [&one, &two] {
                scope.spawn(|| {
                    barrier.wait();
                    proxy.pull(ttl(2.0 + f64::from(n)), None);
                });
            }
        });
        let agree = || one.pulled() == two.pulled() && one.pulled().len() == 1;
        let kept = || count(&server, "HLEN", "levers") == 1;
        // Both have read everything.
        one.confirmed(None);
        two.confirmed(None);
        until(|| agree() && kept()).expect("one of both");
        let uid = one.pulled()[0].to_string();
        assert_eq!(
            server.text(&["HEXISTS", "{tidegate}:levers", &uid]),
            "1",
            "who comes later takes the same"
        );
    }
}

#[test]
fn a_lever_of_no_use_somewhere_is_told_as_such() {
    let server = RedisServer::start(&[]);
    let one = joined(&server, "one:80");
    let other = Home {
        text: Some(TEXT.replace("blog", "shop")),
        ..home("two:80")
    };
    let two = Proxy::start(other, &spec(server.port));
    until(|| one.fleet.standing().unwrap().proxies.len() == 1).expect("it joins");
    let lever = one.pull(
        Pull::Bypass {
            route: "blog".into(),
        },
        None,
    );
    let told = one.confirmed(Some(lever.uid));
    assert_eq!((told.confirmed, told.missing.len()), (2, 0), "{told:?}");
    let [(proxy, why)] = &told.refused[..] else {
        panic!("{told:?}");
    };
    assert!(proxy == "two:80" && why.contains("\"blog\""), "{told:?}");
    assert_eq!(two.pulled(), [lever.uid], "it is kept");
    one.board.undo(lever.id).unwrap();
    until(|| two.pulled().is_empty()).expect("it is undone");
    until(|| one.fleet.standing().unwrap().proxies[0].refused.is_empty()).expect("and forgotten");
}

#[test]
fn who_was_away_reads_what_he_missed_and_no_more() {
    let server = RedisServer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let away = Home {
        levers: Some(folder.path().join("levers.json")),
        place: Some(folder.path().join("fleet.json")),
        has_pages: true,
        ..home("two:80")
    };
    let one = joined(&server, "one:80");
    one.purge("before");
    let stays = one.pull(readonly(), None);
    let goes = one.pull(ttl(2.0), None);
    one.confirmed(None);
    let two = Proxy::start(away.clone(), &spec(server.port));
    until(|| two.pulled().len() == 2).expect("it takes over");
    // It has pages and no place: they are stale, and what the log still has is done as it says.
    until(|| two.purged() == ["~", "before"]).expect("what may have been missed");
    assert_eq!(two.fleet.gaps(), 1);
    let place = || place::read(away.place.as_ref().unwrap());
    let at = two.fleet.standing().unwrap().at;
    until(|| at.is_some() && place() == at).expect("it is written down");
    drop(two);
    one.purge("missed");
    one.board.undo(goes.id).unwrap();
    one.confirmed(None);
    let two = Proxy::start(away.clone(), &spec(server.port));
    until(|| two.purged() == ["missed"] && two.pulled() == [stays.uid]).expect("what he missed");
    assert_eq!(two.fleet.gaps(), 0);
    // A lever that was pulled while nobody could hear of it is told when it starts again.
    drop(two);
    let port = server.port;
    drop(server);
    let two = Proxy::start(away.clone(), &spec(port));
    until(|| two.is_behind()).expect("there is no Redis");
    let own = two.pull(ttl(3.0), None);
    drop(two);
    drop(one);
    let server = RedisServer::start(&[]);
    let one = joined(&server, "one:80");
    let two = Proxy::start(away, &spec(server.port));
    until(|| one.pulled().len() == 2 && one.pulled().contains(&own.uid)).expect("it is told");
    assert_eq!(two.pulled().len(), 2);
}

#[test]
fn c80_down_at_the_start_killed_and_restarted() {
    let mut server = RedisServer::start(&[]);
    server.kill();
    let down = spec(server.port);
    let [one, two] = ["one:80", "two:80"].map(|name| Proxy::start(home(name), &down));
    until(|| one.is_behind() && two.is_behind()).expect("they notice");
    for proxy in [&one, &two] {
        assert!(proxy.fleet.is_current(clock::tick()), "nobody waits");
    }
    one.purge("early");
    let lever = one.pull(readonly(), None);
    let told = one.confirmed(Some(lever.uid));
    assert!(told.waits.is_some(), "{told:?}");
    assert_eq!(block_on(one.fleet.is_told()), Some(false));
    // It has served meanwhile.
    two.cache.has_pages.store(true, Ordering::Relaxed);
    assert!(server.restart());
    until(|| two.purged() == ["~", "early"] && two.pulled() == [lever.uid]).expect("it is told");
    until(|| one.is_up() && two.is_up()).expect("they are back");

    server.kill();
    until(|| one.is_behind() && two.is_behind()).expect("they notice");
    one.purge("late");
    assert!(server.restart());
    // It has forgotten everything, so nobody knows what it knew.
    until(|| two.purged() == ["~", "early", "~", "late"]).expect("a gap, and what came after");
    until(|| one.is_up() && two.is_up()).expect("they are back");
    until(|| count(&server, "HLEN", "levers") == 1).expect("told anew");
    assert_eq!(two.pulled(), [lever.uid]);
    two.board.undo(two.board.levers()[0].id).unwrap();
    until(|| one.pulled().is_empty()).expect("it is undone");
}

#[test]
fn an_undone_lever_is_not_brought_back_by_who_has_missed_that() {
    let mut server = RedisServer::start(&[]);
    let [one, two] = pair(&server);
    let lever = one.pull(readonly(), None);
    until(|| two.pulled() == [lever.uid]).expect("it is pulled");
    server.kill();
    until(|| one.is_behind() && two.is_behind()).expect("they notice");
    one.board.undo(lever.id).unwrap();
    assert!(server.restart());
    until(|| one.is_up() && two.is_up()).expect("they are back");
    one.confirmed(None);
    two.confirmed(None);
    until(|| two.pulled().is_empty() && one.pulled().is_empty()).expect("it is undone");
    until(|| count(&server, "HLEN", "levers") == 0).expect("also there");
}

#[test]
fn c81_a_redis_that_hangs_keeps_nobody_waiting() {
    let server = RedisServer::start(&[]);
    let [one, two] = pair(&server);
    server.hold(true);
    until(|| one.is_behind() && two.is_behind()).expect("they notice");
    assert!(one.fleet.is_current(clock::tick()), "nobody waits");
    one.purge("hung");
    let began = now();
    let told = one.confirmed(None);
    assert!(
        told.waits.is_some() && told.missing == ["two:80"],
        "{told:?}"
    );
    assert!(now() - began < 2_000);
    server.hold(false);
    // Perhaps several times: what was sent in vain is read all the same.
    until(|| !two.purged().is_empty()).expect("it is told");
    assert!(two.purged().iter().all(|tag| tag == "hung"));
    until(|| one.is_up() && two.is_up()).expect("they are back");
    assert_eq!(two.fleet.gaps(), 0, "nothing was lost");
}

#[test]
fn a_request_waits_for_what_is_not_read_and_only_once() {
    let gate = Arc::new(Gate(AtomicU64::new(0)));
    let counts = Counts {
        operations: std::array::from_fn(|_| Arc::default()),
        gaps: Arc::default(),
    };
    let shared = Shared::new(Uid(1), "one:80".into(), Arc::clone(&gate), counts, 1_000);
    assert!(!gate.is_open(1_000), "nothing is read yet");
    shared.turn(1_400);
    assert!(!shared.behind());
    shared.is_current(1_400);
    assert!(gate.is_open(1_899) && !gate.is_open(1_900));
    // It was stopped: requests wait, and Redis is asked before it is called down.
    shared.turn(9_000);
    assert!(!shared.behind() && !gate.is_open(9_000));
    shared.is_current(9_010);
    assert!(gate.is_open(9_020));
    // It was not: Redis keeps silent.
    (9_100..9_601).step_by(100).for_each(|at| shared.turn(at));
    assert!(shared.behind() && gate.is_open(99_000), "nobody waits");
    shared.is_current(9_700);
    assert!(!shared.behind() && !gate.is_open(10_200));
    // Who has waited in vain was the last to do so.
    shared.waited(10_200);
    assert!(shared.behind() && gate.is_open(99_000));
    shared.is_current(99_000);
    shared.waited(99_100);
    assert!(!shared.behind(), "it is known again by now");
    shared.end();
    shared.is_current(100_000);
    assert!(gate.is_open(999_000), "nobody waits for what is over");
}

#[test]
fn c82_rubbish_in_redis_is_an_outage_or_nothing() {
    let server = RedisServer::start(&[]);
    let [one, two] = pair(&server);
    one.purge("first");
    let lever = one.pull(readonly(), None);
    until(|| two.pulled() == [lever.uid] && two.purged() == ["first"]).expect("it works");
    let keys = ["head", "log", "levers", "read"].map(|of| format!("{{tidegate}}:{of}"));
    let [head, log, levers, read] = &keys;
    let huge = "x".repeat(2 << 20);
    let spoiled: &[&[&[&str]]] = &[
        &[&["SET", head, "1"]],
        &[&["SET", log, &huge]],
        &[&["SET", levers, "1"], &["SET", read, "1"]],
        &[&["DEL", head], &["RPUSH", head, "1"]],
        &[&["HSET", head, "last", "-1"]],
        &[&["HSET", head, "last", "nan"]],
        &[&["HSET", head, "last", "1e400"]],
        &[&["HSET", head, "log", &huge]],
        &[&["HSET", head, "log", "0123"]],
        &[&["DEL", log]],
        &[&["DEL", levers]],
        &[&["DEL", head]],
        &[&["XADD", log, "99999-7", "a", "b"]],
        &[&["XTRIM", log, "MAXLEN", "0"]],
        &[&["HSET", levers, "0123456789abcdef", "x"]],
        &[
            &["HSET", levers, "0123456789abcdef", "1 {}"],
            &["HSET", head, "pulled", "2"],
        ],
        &[
            &["HSET", levers, "x", &huge],
            &["HSET", head, "pulled", "2"],
        ],
        &[&["HSET", read, "0123456789abcdef", "99999999999 {}"]],
        &[&["HSET", read, "0123456789abcdef", &huge]],
        &[&["SCRIPT", "FLUSH"]],
        &[&["FLUSHALL"]],
    ];
    for (nth, commands) in spoiled.iter().enumerate() {
        for command in *commands {
            // What has another type by then can't be spoiled in this way.
            let _ = server.ask(command);
        }
        let tag = format!("after {nth}");
        one.purge(&tag);
        until(|| two.purged().contains(&tag)).unwrap_or_else(|_| {
            panic!("{nth}: {:?} {:?}", two.purged(), two.fleet.standing());
        });
        until(|| one.is_up() && two.is_up()).unwrap();
        let uid = lever.uid.to_string();
        until(|| server.text(&["HEXISTS", levers, &uid]) == "1").unwrap_or_else(|_| {
            panic!("{nth}: it is forgotten");
        });
        for (key, _, left) in server.keys() {
            assert!(left > 0, "{nth}: {key} has no end");
        }
    }
    assert_eq!(
        (one.pulled(), two.pulled()),
        (vec![lever.uid], vec![lever.uid])
    );
}

#[test]
fn c82_entries_of_others_may_be_purges_and_endless_ones_are_skipped() {
    let server = RedisServer::start(&[]);
    let [one, two] = pair(&server);
    two.cache.has_pages.store(true, Ordering::Relaxed);
    // In one step, as whoever knows how it is done.
    const ADD: &str = "local last = redis.call('HINCRBY', KEYS[1], 'last', 1) \
        return redis.call('XADD', KEYS[2], last .. '-0', 'by', 'x', 'is', ARGV[1])";
    let add = |text: &str| {
        let keys = ["{tidegate}:head", "{tidegate}:log"];
        let add = ["EVAL", ADD, "2", keys[0], keys[1], text];
        server.ask(&add).unwrap();
    };
    // Of levers that it does not know a proxy needs to do nothing.
    add("{\"pull\":{\"launch\":\"missiles\"}}");
    one.purge("good");
    until(|| two.purged() == ["good"]).expect("it is left out");
    assert_eq!(two.fleet.gaps(), 0);
    add("{\"launch\":\"missiles\"}");
    add("{\"purge\":{\"what\":\"all\",\"soft\":false,\"since\":1}}");
    add("\u{0}");
    one.purge("better");
    until(|| two.purged() == ["good", "~", "~", "~", "better"]).expect("they may be purges");
    until(|| one.fleet.gaps() == 3).expect("so they may there");
    assert_eq!(two.fleet.gaps(), 3);
    // Longer than any answer may be: it can't be read, and what is behind it neither.
    add(&"x".repeat(2 << 20));
    until(|| two.fleet.gaps() == 4 && one.fleet.gaps() == 4).expect("it is skipped");
    one.purge("after");
    until(|| two.purged().ends_with(&["after".to_owned()])).expect("it goes on");
    let purged = ["good", "~", "~", "~", "better", "~", "after"];
    assert_eq!(two.purged(), purged);
}

#[test]
fn c82_what_redis_refuses_is_an_outage() {
    let server = RedisServer::start(&["--requirepass", "sesame"]);
    for password in [None, Some("wrong")] {
        let spec = RedisSpec {
            password: password.map(str::to_owned),
            ..spec(server.port)
        };
        let proxy = Proxy::start(home("one:80"), &spec);
        until(|| proxy.is_behind()).expect("it notices");
        proxy.purge("x");
        assert!(proxy.confirmed(None).waits.is_some());
    }
    let mut server = RedisServer::start(&[]);
    server.kill();
    let dead = server.port.to_string();
    let server = RedisServer::start(&[]);
    let [one, two] = pair(&server);
    for (wrong, right) in [
        (
            ["CONFIG", "SET", "maxmemory", "1"].as_slice(),
            ["CONFIG", "SET", "maxmemory", "0"].as_slice(),
        ),
        // Of itself: a replica that will never be one.
        (
            &["REPLICAOF", "127.0.0.1", &dead],
            &["REPLICAOF", "NO", "ONE"],
        ),
    ] {
        server.ask(wrong).unwrap();
        until(|| one.fleet.standing().unwrap().unwritable.is_some()).expect("it notices");
        one.purge(wrong[0]);
        assert!(one.confirmed(None).waits.is_some(), "{wrong:?}");
        assert!(!two.purged().contains(&wrong[0].to_owned()));
        server.ask(right).unwrap();
        until(|| two.purged().contains(&wrong[0].to_owned())).expect("it is told");
        until(|| one.is_up() && two.is_up()).expect("they are back");
    }
}

#[test]
fn a_log_that_is_cut_has_a_gap() {
    let server = RedisServer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let away = Home {
        place: Some(folder.path().join("fleet.json")),
        has_pages: true,
        ..home("two:80")
    };
    let one = joined(&server, "one:80");
    one.purge("first");
    one.confirmed(None);
    let at = one.fleet.standing().unwrap().at.unwrap();
    place::write(away.place.as_ref().unwrap(), at).unwrap();
    for n in 0..5 {
        one.purge(&format!("t{n}"));
    }
    one.confirmed(None);
    server
        .ask(&["XTRIM", "{tidegate}:log", "MAXLEN", "2"])
        .unwrap();
    let two = Proxy::start(away, &spec(server.port));
    until(|| two.purged() == ["~", "t3", "t4"]).expect("what there is");
    assert_eq!(two.fleet.gaps(), 1);
    until(|| two.is_up()).unwrap();
}

#[test]
fn too_much_for_the_queue_is_everything() {
    let mut server = RedisServer::start(&[]);
    let [one, two] = pair(&server);
    server.kill();
    until(|| one.is_behind() && two.is_behind()).expect("they notice");
    for n in 0..5_000 {
        one.purge(&format!("t{n}"));
    }
    assert!(one.fleet.standing().unwrap().queued < 2_000);
    assert!(server.restart());
    until(|| two.purged().contains(&"t4999".to_owned())).expect("they are told");
    assert!(two.purged().contains(&"!".to_owned()));
    assert!(two.purged().len() < 2_000);
}

#[test]
fn another_fleet_or_none() {
    let server = RedisServer::start(&[]);
    let [one, two] = pair(&server);
    let metrics = Metrics::new();
    let fleet = &one.fleet;
    let same = fleet.prepare(Some(&spec(server.port)), &metrics).unwrap();
    assert!(matches!(same.0, Next::Stay));
    let other = RedisSpec {
        prefix: "other".to_owned(),
        ..spec(server.port)
    };
    // What is prepared and not taken changes nothing.
    drop(fleet.prepare(Some(&other), &metrics).unwrap());
    two.purge("here");
    until(|| one.purged() == ["here"]).unwrap();
    fleet.take(fleet.prepare(Some(&other), &metrics).unwrap());
    until(|| one.is_up()).expect("it joins");
    until(|| two.fleet.standing().unwrap().proxies.is_empty()).expect("it has left");
    one.purge("elsewhere");
    fleet.take(fleet.prepare(None, &metrics).unwrap());
    assert!(fleet.standing().is_none() && fleet.is_current(clock::tick()));
    assert_eq!(block_on(fleet.confirmed(None)), None);
    assert_eq!(block_on(fleet.is_told()), None);
    assert!(two.purged().is_empty());
    let wrong = RedisSpec {
        ca: Some("/nowhere".into()),
        servers: vec![Server {
            tls: true,
            ..other.servers[0].clone()
        }],
        ..other
    };
    assert!(fleet.prepare(Some(&wrong), &metrics).is_err());
}

#[test]
fn who_is_there_again_was_there_once() {
    let server = RedisServer::start(&[]);
    let one = joined(&server, "one:80");
    let before = joined(&server, "two:80");
    until(|| one.fleet.standing().unwrap().proxies.len() == 1).unwrap();
    // Killed, it says no goodbye.
    let killed = before.fleet.following.load_full().unwrap();
    killed.shared.end();
    let id = killed.shared.me.to_string();
    drop(before);
    server
        .ask(&["HSET", "{tidegate}:read", &id, &dead(&server, "two:80")])
        .unwrap();
    let _again = joined(&server, "two:80");
    until(|| {
        let proxies = one.fleet.standing().unwrap().proxies;
        proxies.len() == 1 && proxies[0].id != killed.shared.me
    })
    .expect("one of that name");
}

#[test]
fn of_a_cluster_the_node_is_found_that_has_the_log() {
    let nodes = [(); 2].map(|()| RedisServer::start(&["--cluster-enabled", "yes"]));
    for (node, slots) in nodes.iter().zip([["0", "8191"], ["8192", "16383"]]) {
        node.ask(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]])
            .unwrap();
    }
    let port = nodes[1].port.to_string();
    nodes[0]
        .ask(&["CLUSTER", "MEET", "127.0.0.1", &port])
        .unwrap();
    let is_ready =
        |node: &RedisServer| node.text(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
    until(|| nodes.iter().all(is_ready)).expect("a cluster");
    let proxies = [0, 1].map(|at| joined(&nodes[at], ["one:80", "two:80"][at]));
    proxies[0].purge("there");
    until(|| proxies[1].purged() == ["there"]).expect("it comes");
    proxies[1].purge("back");
    until(|| proxies[0].purged() == ["back"]).expect("it comes");
}

/// What a proxy told that is dead.
fn dead(server: &RedisServer, name: &str) -> String {
    let time: Vec<String> = redis::from_redis_value(server.ask(&["TIME"]).unwrap()).unwrap();
    format!("{}.0 {{\"name\":\"{name}\",\"entry\":0}}", time[0])
}

fn shared(gate: &Arc<Gate>) -> Shared {
    let metrics = Metrics::new();
    let count = |at: usize| metrics.counter(&names::FLEET_LOG, &[RedisResult::ALL[at].label()]);
    let counts = Counts {
        operations: std::array::from_fn(count),
        gaps: Arc::default(),
    };
    Shared::new(Uid(1), "one".into(), Arc::clone(gate), counts, 0)
}

#[test]
fn who_leaves_opens_no_gate_that_another_fleet_has_shut() {
    let gate = Arc::new(Gate(AtomicU64::new(ALWAYS)));
    let former = shared(&gate);
    former.resign();
    gate.until(0);
    former.is_current(now());
    assert!(!gate.is_open(1));
    former.is_behind("redis is gone");
    former.end();
    assert!(!gate.is_open(1));
    shared(&gate).end();
    assert!(gate.is_open(1));
}

#[test]
fn what_is_too_long_for_the_log_is_not_confirmed() {
    let shared = shared(&Arc::new(Gate(AtomicU64::new(ALWAYS))));
    let at = Position {
        log: Uid(1),
        entry: 1,
    };
    let tag = |len| Entry::Purge(Purge::hard(What::Tag("x".repeat(len))));
    shared.say(&tag(1));
    shared.written(shared.batch().1, at);
    assert_eq!(shared.published(shared.ticket()), Some(Ok(Some(at))));
    shared.say(&tag(20_000));
    let told = shared.published(shared.ticket());
    assert!(
        matches!(&told, Some(Err(why)) if why.contains("bytes")),
        "{told:?}"
    );
    shared.say(&tag(2));
    assert_eq!(shared.published(shared.ticket()), None);
}
