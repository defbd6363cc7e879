//! Which connections are used again, and the one retry.

use super::Do::{AwaitClose, Pause, Read, Reset};
use super::OriginErrorKind as Kind;
use super::*;
use crate::clock;
use crate::origin::Ask;

#[tokio::test]
async fn connections_are_reused_only_when_nothing_speaks_against_it() {
    let twice = |first: &str| vec![Read, say(first), Read, say(HELLO), AwaitClose];
    let cases = [
        (HELLO.to_owned(), 1),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            1,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 1),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n".to_owned(),
            1,
        ),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(), 2),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned(),
            2,
        ),
        (
            "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 0\r\n\r\n".to_owned(),
            2,
        ),
        (format!("{HELLO}x"), 2),
    ];
    for (first, connections) in cases {
        let origin = Origin::start(vec![twice(&first)]).await;
        let upstream = upstream(origin.addr);
        fetch(&upstream, "GET").await.unwrap();
        assert_eq!(
            fetch(&upstream, "GET")
                .await
                .map(|_| ())
                .map_err(|why| why.kind),
            Ok(()),
            "{first:?}"
        );
        assert_eq!(origin.connections(), connections, "{first:?}");
    }
}

#[tokio::test]
async fn an_exchange_that_is_dropped_closes_its_connection() {
    let origin = Origin::start(vec![
        vec![
            Read,
            say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel"),
            AwaitClose,
        ],
        vec![Read, say(HELLO), AwaitClose],
    ])
    .await;
    let upstream = upstream(origin.addr);
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("GET"), Outgoing::None)
        .await
        .unwrap();
    assert!(matches!(exchange.next().await, Ok(Event::Head(_))));
    drop(exchange);
    drop(permit);
    assert_eq!(fetch(&upstream, "GET").await.unwrap().body, b"hello");
    assert_eq!(origin.connections(), 2);
}

/// Puts a connection into the pool that dies at its second request in the given way.
async fn stale(end: Vec<Do>) -> (Origin, Arc<Upstream>) {
    let first = [vec![Read, say(HELLO), Read], end].concat();
    let origin = Origin::start(vec![first, vec![Read, say(HELLO), AwaitClose]]).await;
    let upstream = upstream(origin.addr);
    fetch(&upstream, "GET").await.unwrap();
    (origin, upstream)
}

#[tokio::test]
async fn a_dead_pooled_connection_is_replaced_once() {
    for end in [vec![], vec![Reset]] {
        let (origin, upstream) = stale(end).await;
        let answer = fetch(&upstream, "GET").await.unwrap();
        assert_eq!((answer.status, answer.attempts), (200, 2));
        assert_eq!(origin.connections(), 2);
        assert_eq!(origin.heads().len(), 3);
    }
}

#[tokio::test]
async fn what_was_answered_or_may_not_be_repeated_is_not_tried_again() {
    // A byte of an answer.
    let (origin, upstream) = stale(vec![say("H")]).await;
    assert_eq!(fetch(&upstream, "GET").await.unwrap_err().kind, Kind::Reset);
    assert_eq!(origin.connections(), 1);
    // A method that is not idempotent.
    let (origin, upstream) = stale(vec![]).await;
    assert_eq!(
        fetch(&upstream, "POST").await.unwrap_err().kind,
        Kind::Reset
    );
    assert_eq!(origin.connections(), 1);
    // A fresh connection.
    let origin = Origin::start(vec![vec![Read, Reset]]).await;
    assert_eq!(
        fetch(&self::upstream(origin.addr), "GET")
            .await
            .unwrap_err()
            .kind,
        Kind::Reset
    );
    assert_eq!(origin.connections(), 1);
    // A request with a body.
    let (origin, upstream) = stale(vec![]).await;
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("PUT"), Outgoing::Length(2))
        .await
        .unwrap();
    let _ = exchange.send_body(Bytes::from_static(b"ab")).await;
    assert_eq!(receive(&mut exchange).await.unwrap_err().kind, Kind::Reset);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn the_second_try_bypasses_a_pool_of_dead_connections() {
    // Two connections in the pool, both dead at their second request.
    let dies = vec![Read, Pause(Duration::from_millis(100)), say(HELLO), Read];
    let origin = Origin::start(vec![dies.clone(), dies, vec![Read, say(HELLO), AwaitClose]]).await;
    let upstream = upstream(origin.addr);
    let (one, two) = tokio::join!(fetch(&upstream, "GET"), fetch(&upstream, "GET"));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(origin.connections(), 2);
    assert_eq!(fetch(&upstream, "GET").await.unwrap().attempts, 2);
    assert_eq!(origin.connections(), 3);
}

#[tokio::test]
async fn a_retry_survives_cancelled_calls() {
    let (origin, upstream) = stale(vec![Pause(Duration::from_millis(20))]).await;
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("GET"), Outgoing::None)
        .await
        .unwrap();
    let head = loop {
        tokio::select! {
            biased;
            event = exchange.next() => break event,
            () = tokio::task::yield_now() => {}
        }
    };
    assert!(matches!(head, Ok(Event::Head(_))));
    assert_eq!((exchange.attempts(), origin.connections()), (2, 2));
}

#[tokio::test]
async fn c73_a_crowd_shares_the_budget() {
    let origin = Origin::start(vec![vec![
        Read,
        Pause(Duration::from_millis(20)),
        say(HELLO),
    ]])
    .await;
    let mut spec = spec(origin.addr);
    spec.max_in_flight = Some(10);
    spec.queue = 50;
    let upstream = Upstream::new(spec).unwrap();
    let began = clock::timer();
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let fetched = fetch(&upstream, "GET").await;
                assert!(upstream.in_flight() <= 10);
                fetched.unwrap().status
            })
        })
        .collect();
    for one in crowd {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!((upstream.in_flight(), upstream.queued()), (0, 0));
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut spec = spec(listener.local_addr().unwrap());
    spec.keepalive = Duration::from_millis(150);
    let upstream = Upstream::new(spec).unwrap();
    let idle = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(HELLO.as_bytes()).await.unwrap();
        let began = clock::timer();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        began.elapsed()
    });
    fetch(&upstream, "GET").await.unwrap();
    let idle = timeout(LONG, idle).await.unwrap().unwrap();
    assert!(
        idle >= Duration::from_millis(100) && idle < Duration::from_secs(3),
        "{idle:?}"
    );
}

#[tokio::test]
async fn a_dead_server_among_two_does_not_swallow_the_traffic() {
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let origin = Origin::start(vec![vec![Read, say(HELLO)]]).await;
    let mut spec = spec(origin.addr);
    let mut other = spec.servers[0].clone();
    other.place = Place::Address(dead);
    spec.servers.push(other);
    let upstream = Upstream::new(spec).unwrap();
    let mut refused = 0;
    for _ in 0..20 {
        match fetch(&upstream, "GET").await {
            Ok(answer) => assert_eq!(answer.status, 200),
            Err(error) => {
                assert_eq!(error.kind, Kind::Connect);
                refused += 1;
            }
        }
    }
    // One a second.
    assert!(refused <= 3, "{refused}");
}
