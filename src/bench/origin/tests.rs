use super::super::ledger::{by_page, most_in_flight};
use super::super::wire::{Answer, Connection, Failed, get};
use super::*;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(2);

fn plan(at_once: usize, takes: Duration) -> Plan {
    Plan {
        at_once,
        takes,
        server: 7,
        page: |_| Page {
            len: 100,
            cache_control: "no-store",
        },
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(future)
}

async fn ask(address: SocketAddr, path: &str) -> Result<Answer, Failed> {
    let connection = Connection::open(address, 0).await;
    let mut connection = connection.map_err(|_| Failed::Refused)?;
    connection
        .ask(&get("test", path))
        .await
        .map(|(answer, _)| answer)
}

/// Waits until the origin has seen so many requests.
async fn seen(origin: &Origin, count: usize) {
    while origin.ledger.fetches().len() < count {
        tokio::time::sleep(SHORT).await;
    }
}

#[test]
fn answers_what_is_planned_again_and_again_on_a_connection() {
    let origin = Origin::start(plan(1, SHORT)).unwrap();
    now(async {
        let mut connection = Connection::open(origin.address, 3).await.unwrap();
        for _ in 0..3 {
            let (answer, goes_on) = connection.ask(&get("test", "/a")).await.unwrap();
            assert_eq!(
                (answer.status, answer.body, answer.server),
                (200, 100, Some(7))
            );
            assert!(goes_on && connection.is_open());
        }
    });
    assert_eq!(by_page(&origin.ledger.fetches())["/a"].len(), 3);
}

#[test]
fn closes_where_it_is_asked_to() {
    let origin = Origin::start(plan(1, SHORT)).unwrap();
    now(async {
        let mut stream = TcpStream::connect(origin.address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"."));
    });
}

#[test]
fn works_on_so_many_at_once_and_the_others_wait_in_order() {
    let origin = Origin::start(plan(2, LONG)).unwrap();
    now(async {
        let mut asked = JoinSet::new();
        for number in 1..=4 {
            let address = origin.address;
            asked.spawn(async move { ask(address, &format!("/{number}")).await });
            seen(&origin, number).await;
        }
    });
    let fetches = origin.ledger.fetches();
    let begun: Vec<bool> = fetches.iter().map(|fetch| fetch.began.is_some()).collect();
    assert_eq!(begun, [true, true, false, false]);
    let (first, now) = (fetches[0].arrived, clock::instant());
    assert_eq!(most_in_flight(&fetches, first, now), 4);
}

#[test]
fn the_next_begins_when_one_is_done() {
    let origin = Origin::start(plan(1, SHORT)).unwrap();
    now(async {
        let one = ask(origin.address, "/1");
        let other = ask(origin.address, "/2");
        let (one, other) = tokio::join!(one, other);
        assert!(one.is_ok() && other.is_ok());
    });
    let mut fetches = origin.ledger.fetches();
    fetches.sort_by_key(|fetch| fetch.began);
    let done = fetches[0].began.unwrap() + SHORT;
    assert!(fetches[1].began.unwrap() >= done);
    assert!(fetches.iter().all(|fetch| fetch.fate == Fate::Answered));
}

#[test]
fn killed_it_cuts_what_it_works_on_and_listens_again_when_told() {
    let origin = Origin::start(plan(1, LONG)).unwrap();
    now(async {
        let asked = tokio::spawn({
            let address = origin.address;
            async move { ask(address, "/cut").await }
        });
        seen(&origin, 1).await;
        tokio::task::spawn_blocking({
            let orders = origin.orders.clone().unwrap();
            move || {
                let (done, wait) = oneshot::channel();
                orders.send(Order::Kill(done)).ok().unwrap();
                wait.blocking_recv().unwrap();
            }
        })
        .await
        .unwrap();
        let cut = asked.await.unwrap();
        assert!(
            matches!(cut, Err(Failed::Closed | Failed::Broken)),
            "{cut:?}"
        );
        assert_eq!(ask(origin.address, "/").await, Err(Failed::Refused));
    });
    assert_eq!(origin.ledger.fetches()[0].fate, Fate::Cut);
    origin.revive().unwrap();
    now(async { Connection::open(origin.address, 0).await.unwrap() });
}

#[test]
fn flapping_it_is_up_and_down_by_turns() {
    let origin = Origin::start(plan(1, SHORT)).unwrap();
    origin.flap(Duration::from_millis(20), Duration::from_millis(20));
    now(async {
        for is_up in [false, true, false, true] {
            while Connection::open(origin.address, 0).await.is_ok() != is_up {
                tokio::time::sleep(SHORT).await;
            }
        }
    });
}

#[test]
fn slowed_it_takes_so_much_longer_and_is_wasted_on_those_who_have_gone() {
    let origin = Origin::start(plan(1, SHORT)).unwrap();
    origin.slow(20.0);
    now(async {
        assert!(ask(origin.address, "/stays").await.is_ok());
        let left = tokio::time::timeout(SHORT, ask(origin.address, "/left")).await;
        assert!(left.is_err());
        while origin
            .ledger
            .fetches()
            .iter()
            .any(|fetch| fetch.fate == Fate::Open)
        {
            tokio::time::sleep(SHORT).await;
        }
    });
    let fetches = origin.ledger.fetches();
    let stays = fetches
        .iter()
        .find(|fetch| &*fetch.path == "/stays")
        .unwrap();
    assert!(stays.left.unwrap() - stays.began.unwrap() >= SHORT * 20);
    let left = fetches.iter().filter(|fetch| &*fetch.path == "/left");
    assert!(
        left.map(|fetch| fetch.fate)
            .all(|fate| fate == Fate::Wasted)
    );
}
