use std::sync::Arc;

use super::*;

const FIRST: &str = "[[upstream]]\nname = 'app'\nservers = ['http://127.0.0.1:8000']\n";

fn now(seconds: u64) -> Now {
    Now {
        mono: Moment(seconds * 1_000),
        wall: 1_000 + seconds,
    }
}

fn with(path: Option<PathBuf>) -> (Live, Arc<Mutex<Arc<Policy>>>) {
    let policy = super::super::compile("first", FIRST).unwrap();
    let kept = Arc::new(Mutex::new(Arc::new(policy)));
    let (read, write) = (Arc::clone(&kept), Arc::clone(&kept));
    let source = Source {
        path,
        flags: Flags::default(),
    };
    let put = move |policy: Policy| {
        if policy.upstreams[0].queue == 13 {
            return Err("no such luck".to_owned());
        }
        *write.lock() = Arc::new(policy);
        Ok(())
    };
    let read = move || Arc::clone(&read.lock());
    let live = Live::new(source, FIRST, now(0), Box::new(read), Box::new(put));
    (live, kept)
}

/// The first config, with another queue.
fn text(queue: usize) -> String {
    format!("{FIRST}queue = {queue}\n")
}

fn by() -> By {
    By::new("ada", "a try")
}

#[test]
fn a_change_is_in_force_or_has_changed_nothing() {
    let (live, kept) = with(None);
    let done = live.apply(&text(7), by(), None, now(1)).unwrap();
    assert_eq!((done.version.number, done.version.since), (2, 1_001));
    assert_eq!(kept.lock().upstreams[0].queue, 7);
    for bad in [format!("{FIRST}queu = 1\n"), text(13)] {
        let why = live
            .apply(&bad, by(), None, now(2))
            .unwrap_err()
            .to_string();
        assert!(why.contains("queu") || why == "no such luck", "{why}");
        assert_eq!(live.refused(), Some(why));
        assert_eq!(kept.lock().upstreams[0].queue, 7);
        assert_eq!(live.version().number, 2);
    }
    live.apply(&text(8), by(), None, now(3)).unwrap();
    assert_eq!((live.refused(), live.version().number), (None, 3));
    let counts = (&live.counts.done, &live.counts.refused);
    let counts = (
        counts.0.load(Ordering::Relaxed),
        counts.1.load(Ordering::Relaxed),
    );
    assert_eq!(counts, (2, 2));
}

#[test]
fn what_is_not_confirmed_is_over_in_time() {
    let (live, kept) = with(None);
    let two_minutes = Some(Duration::from_secs(120));
    live.apply(&text(7), by(), None, now(0)).unwrap();
    live.apply(&text(8), by(), two_minutes, now(10)).unwrap();
    assert_eq!(live.trial(), Some(now(130).mono));
    assert!(live.end_trial(now(129)).is_none());
    assert_eq!(kept.lock().upstreams[0].queue, 8);
    let done = live.end_trial(now(130)).unwrap().unwrap();
    assert_eq!(
        (done.version.number, done.version.by.who.as_str()),
        (4, "trial")
    );
    assert_eq!(kept.lock().upstreams[0].queue, 7);
    assert!(live.confirm().is_err() && live.end_trial(now(500)).is_none());

    live.apply(&text(9), by(), two_minutes, now(600)).unwrap();
    assert_eq!(live.confirm().unwrap().number, 5);
    assert!(live.end_trial(now(10_000)).is_none());
    assert_eq!(kept.lock().upstreams[0].queue, 9);
}

#[test]
fn a_trial_upon_a_trial_goes_back_to_what_was_sure() {
    let (live, kept) = with(None);
    let two_minutes = Some(Duration::from_secs(120));
    live.apply(&text(7), by(), None, now(0)).unwrap();
    live.apply(&text(8), by(), two_minutes, now(10)).unwrap();
    live.apply(&text(9), by(), two_minutes, now(60)).unwrap();
    live.end_trial(now(200)).unwrap().unwrap();
    assert_eq!(kept.lock().upstreams[0].queue, 7);
}

#[test]
fn what_was_in_force_can_be_again() {
    let (live, kept) = with(None);
    assert!(live.roll_back(None, by(), now(0)).is_err());
    for queue in 20..60 {
        live.apply(&text(queue), by(), None, now(1)).unwrap();
    }
    // The twenty before the one in force, and that.
    let numbers: Vec<_> = live.versions().iter().map(|one| one.number).collect();
    assert_eq!(numbers, (21..=41).rev().collect::<Vec<_>>());
    live.roll_back(None, by(), now(2)).unwrap();
    assert_eq!(kept.lock().upstreams[0].queue, 58);
    live.roll_back(Some(30), by(), now(2)).unwrap();
    assert_eq!(kept.lock().upstreams[0].queue, 48);
    let why = live.roll_back(Some(3), by(), now(2)).unwrap_err();
    assert_eq!(why.to_string(), "version 3 is not remembered");
}

#[test]
fn the_file_is_read_anew_and_what_is_fixed_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tidegate.toml");
    let (live, kept) = with(Some(path.clone()));
    let why = live.reload(by(), now(1)).unwrap_err().to_string();
    assert!(why.contains("can't read the config file"), "{why}");
    let moved = format!("[listen]\naddress = '127.0.0.1:1234'\n[cache]\nmax_wait = '3s'\n{FIRST}");
    std::fs::write(&path, moved).unwrap();
    let done = live.reload(by(), now(1)).unwrap();
    assert_eq!(done.waits, ["listen.address"]);
    assert!(done.version.from_file);
    let policy = Arc::clone(&kept.lock());
    assert_eq!(policy.listen.address.port(), 8080);
    assert_eq!(policy.cache.max_wait, Duration::from_secs(3));
    // The same again is no other version.
    assert_eq!(live.reload(by(), now(2)).unwrap().version.number, 2);
    std::fs::write(&path, FIRST).unwrap();
    assert_eq!(live.reload(by(), now(3)).unwrap().waits, [""; 0]);
}

#[test]
fn a_restart_knows_of_the_configs_of_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("configs.json");
    let start = || {
        let (live, _) = with(None);
        live.remember(path.clone());
        live
    };
    let numbers = |live: &Live| -> Vec<u64> {
        live.versions()
            .iter()
            .map(|version| version.number)
            .collect()
    };
    let live = start();
    live.apply(&text(7), by(), None, now(1)).unwrap();
    assert_eq!(numbers(&live), [2, 1]);
    // What was applied was for that process.
    let live = start();
    assert_eq!(numbers(&live), [3, 2, 1]);
    let (version, before) = (live.version(), live.find(Some(2)).unwrap());
    assert_eq!((&*version.text, version.from_file), (FIRST, true));
    assert_eq!((&*before.text, &*before.by.who), (&*text(7), "ada"));
    live.roll_back(Some(2), by(), now(2)).unwrap();
    live.roll_back(None, by(), now(2)).unwrap();
    // The same again is no other version.
    assert_eq!(numbers(&start()), [5, 4, 3, 2, 1]);
    for queue in 20..60 {
        live.apply(&text(queue), by(), None, now(3)).unwrap();
    }
    assert_eq!(numbers(&start()).len(), REMEMBERED + 1);
    // Whoever can't read it begins anew.
    std::fs::write(&path, "[").unwrap();
    assert_eq!(numbers(&start()), [1]);
}
