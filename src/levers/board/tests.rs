use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::elsewhere::Taken;
use super::*;
use crate::config;

const TEXT: &str = "[[upstream]]\nservers = ['http://127.0.0.1:8000']\n[[route]]\nname = 'blog'\n";

struct Running {
    board: Board,
    in_force: Arc<Mutex<Policy>>,
    broken: Arc<AtomicBool>,
}

fn running(path: Option<PathBuf>) -> Running {
    let base = config::compile("board", TEXT).unwrap();
    let in_force = Arc::new(Mutex::new(base.clone()));
    let broken = Arc::new(AtomicBool::new(false));
    let (kept, fails) = (Arc::clone(&in_force), Arc::clone(&broken));
    let put = move |policy| match fails.load(Ordering::Relaxed) {
        true => Err("no such luck".to_owned()),
        false => {
            *kept.lock() = policy;
            Ok(())
        }
    };
    Running {
        board: Board::new(path, Arc::new(base), Box::new(put)),
        in_force,
        broken,
    }
}

impl Running {
    fn stretch(&self) -> u32 {
        self.in_force.lock().routes[0].pulled.pages.stretch
    }
}

fn ttl(stretch: f64) -> Pull {
    Pull::Ttl {
        route: None,
        stretch,
        least: 0,
    }
}

fn order(seconds: Option<u64>) -> Order {
    Order {
        who: "ada".into(),
        reason: "a crowd".into(),
        time: seconds.map(Duration::from_secs),
        force: false,
    }
}

#[test]
fn pulled_replaced_and_undone() {
    let one = running(None);
    let first = one.board.pull(ttl(10.0), order(None), 100).unwrap();
    assert_eq!((first.lever.id, one.stretch()), (1, 900));
    assert!(first.unkept.is_some(), "there is nowhere to keep it");
    let second = one.board.pull(ttl(2.0), order(None), 110).unwrap();
    assert_eq!(second.instead, [first.lever]);
    assert_eq!((second.lever.id, one.stretch()), (2, 100));
    assert!(one.board.undo(1).is_err());
    assert_eq!(one.board.undo(2).unwrap().0, second.lever);
    assert_eq!((one.stretch(), one.board.levers()), (0, vec![]));
}

#[test]
fn what_is_over_undoes_itself() {
    let one = running(None);
    one.board.pull(ttl(10.0), order(Some(60)), 100).unwrap();
    one.board
        .pull(Pull::Readonly { route: None }, order(None), 100)
        .unwrap();
    assert_eq!(one.board.expire(159), []);
    assert_eq!(one.stretch(), 900);
    one.broken.store(true, Ordering::Relaxed);
    assert_eq!(one.board.expire(160), [], "and is tried again");
    one.broken.store(false, Ordering::Relaxed);
    assert_eq!(one.board.expire(161).len(), 1);
    assert_eq!((one.stretch(), one.board.levers().len()), (0, 1));
    assert!(one.in_force.lock().routes[0].pulled.readonly);
}

#[test]
fn what_is_refused_changes_nothing() {
    let one = running(None);
    let gone = Pull::Bypass {
        route: "gone".into(),
    };
    assert!(one.board.pull(gone, order(None), 0).is_err());
    one.broken.store(true, Ordering::Relaxed);
    assert_eq!(
        one.board.pull(ttl(10.0), order(None), 0).unwrap_err(),
        "no such luck"
    );
    assert_eq!((one.board.levers(), one.stretch()), (vec![], 0));
}

#[test]
fn levers_outlive_a_restart_and_another_config() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("levers.json");
    let one = running(Some(path.clone()));
    let pulled = one.board.pull(ttl(10.0), order(Some(60)), 100).unwrap();
    assert_eq!(pulled.unkept, None);
    let other = TEXT.replace("blog", "shop");
    one.board
        .rebase(config::compile("other", &other).unwrap())
        .unwrap();
    assert_eq!(
        (one.stretch(), one.in_force.lock().routes[0].name.clone()),
        (900, "shop".into())
    );
    drop(one);
    assert_eq!(read(&path, 0), (vec![pulled.lever.clone()], None));
    let again = running(Some(path.clone()));
    assert_eq!(again.board.levers(), [pulled.lever]);
    // Numbers go on.
    let next = again
        .board
        .pull(Pull::Readonly { route: None }, order(None), 0);
    assert_eq!(next.unwrap().lever.id, 2);
    assert_eq!(again.board.expire(160).len(), 1);
    assert_eq!(read(&path, 0).0.len(), 1);
}

#[test]
fn a_file_that_is_none_is_told_and_laid_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("levers.json");
    fs::write(&path, "{\"last\": 3, \"lev").unwrap();
    let (levers, why) = read(&path, 0);
    assert_eq!(levers, []);
    assert!(why.unwrap().contains("levers.json"));
    assert!(folder.path().join("levers.json.bad").exists());
    assert_eq!(read(&path, 0), (vec![], None));
}

/// As another proxy has pulled it.
fn theirs(uid: u64, pull: Pull) -> Lever {
    Lever {
        id: 0,
        uid: Uid(uid),
        shared: true,
        pull,
        who: "bob".into(),
        reason: String::new(),
        since: 90,
        until: Some(200),
        force: false,
    }
}

#[test]
fn what_others_pull_is_pulled_once_and_undone() {
    let one = running(None);
    assert_eq!(one.board.accept(theirs(7, ttl(10.0)), 100).0, Taken::Pulled);
    assert_eq!(one.board.accept(theirs(7, ttl(10.0)), 100).0, Taken::Known);
    assert_eq!(one.stretch(), 900);
    // Another at its place, and what is over.
    let (taken, instead) = one.board.accept(theirs(8, ttl(2.0)), 100);
    assert_eq!((taken, instead), (Taken::Pulled, vec![Uid(7)]));
    assert_eq!(one.board.accept(theirs(9, ttl(5.0)), 200).0, Taken::Known);
    let ids: Vec<_> = one.board.levers().iter().map(|lever| lever.id).collect();
    assert_eq!((one.stretch(), ids), (100, vec![2]));
    assert_eq!(one.board.dismiss(Uid(7)), Ok(None));
    assert_eq!(
        one.board.dismiss(Uid(8)).unwrap().map(|lever| lever.id),
        Some(2)
    );
    assert_eq!((one.stretch(), one.board.levers()), (0, vec![]));
}

#[test]
fn what_others_pull_may_be_of_no_use_here_or_harmful() {
    let one = running(None);
    let gone = Pull::Bypass {
        route: "shop".into(),
    };
    let (taken, _) = one.board.accept(theirs(1, gone), 100);
    assert!(matches!(taken, Taken::Idle(why) if why.contains("shop")));
    // It does something once it is about something.
    let other = TEXT.replace("blog", "shop");
    one.board
        .rebase(config::compile("other", &other).unwrap())
        .unwrap();
    assert!(one.in_force.lock().routes[0].pulled.bypass);
    let last = Pull::Drain {
        upstream: one.in_force.lock().upstreams[0].name.clone(),
        server: "127.0.0.1:8000".into(),
    };
    let (taken, _) = one.board.accept(theirs(2, last.clone()), 100);
    assert!(matches!(taken, Taken::Refused(_)), "{taken:?}");
    let forced = Lever {
        force: true,
        ..theirs(3, last)
    };
    assert_eq!(one.board.accept(forced, 100).0, Taken::Pulled);
    one.broken.store(true, Ordering::Relaxed);
    assert!(matches!(
        one.board.accept(theirs(4, ttl(2.0)), 100).0,
        Taken::Refused(_)
    ));
    assert!(one.board.dismiss(Uid(3)).is_err());
    assert_eq!(one.board.levers().len(), 2);
}

#[test]
fn a_fleet_that_is_joined_has_the_last_word_unless_it_forgot() {
    let one = running(None);
    for (uid, name) in [(1, "stays"), (2, "undone")] {
        let lever = theirs(uid, Pull::AllowRule { rule: name.into() });
        one.board.accept(lever, 100);
    }
    let own = one.board.pull(ttl(10.0), order(None), 100).unwrap().lever;
    let stays = theirs(
        1,
        Pull::AllowRule {
            rule: "stays".into(),
        },
    );
    let new = theirs(4, Pull::Readonly { route: None });
    // What was pulled here meanwhile, and nobody has heard of, stands against it.
    let fleet = vec![stays, theirs(3, ttl(2.0)), new];
    let joined = one.board.join(fleet.clone(), false, 110).unwrap();
    let uids = |levers: &[Lever]| levers.iter().map(|lever| lever.uid).collect::<Vec<_>>();
    assert_eq!(uids(&joined.pulled), [Uid(4)]);
    assert_eq!(uids(&joined.undone), [Uid(2)]);
    assert_eq!(uids(&joined.untold), [own.uid]);
    assert_eq!(one.stretch(), 900);
    // The fleet has heard of it, and forgets everything.
    one.board.shared(&[own.uid]);
    let joined = one.board.join(Vec::new(), true, 110).unwrap();
    assert_eq!(uids(&joined.untold), [Uid(1), own.uid, Uid(4)]);
    assert_eq!(one.board.levers().len(), 3);
    // And what it doesn't know, though it knew it, was undone.
    one.board.shared(&uids(&one.board.levers()));
    let joined = one.board.join(Vec::new(), false, 110).unwrap();
    assert_eq!((joined.undone.len(), one.stretch()), (3, 0));
}

#[test]
fn what_is_done_here_is_told_in_its_order() {
    let one = running(None);
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&told);
    one.board.tell(move |change| {
        hears.lock().push(match change {
            Change::Pulled(lever) => format!("pulled {}", lever.id),
            Change::Undone(_) => "undone".to_owned(),
            Change::Over(_) => "over".to_owned(),
        });
    });
    one.board.pull(ttl(10.0), order(None), 100).unwrap();
    one.board.pull(ttl(2.0), order(None), 100).unwrap();
    one.board.undo(2).unwrap();
    one.board.pull(ttl(2.0), order(Some(10)), 100).unwrap();
    one.board.expire(110);
    // What others have done, they know.
    one.board.accept(theirs(7, ttl(3.0)), 100);
    one.board.dismiss(Uid(7)).unwrap();
    assert!(one.board.undo(9).is_err());
    let expected = ["pulled 1", "pulled 2", "over", "undone", "pulled 3", "over"];
    assert_eq!(*told.lock(), expected);
}
