use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
