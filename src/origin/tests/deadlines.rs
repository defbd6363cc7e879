//! Every deadline, and what it does not count.

use super::Do::{AwaitClose, Hang, Pause, Read, ReadBytes};
use super::OriginErrorKind as Kind;
use super::*;
use crate::clock;
use crate::origin::Ask;

#[tokio::test]
async fn c70_every_deadline_is_kept_and_is_a_504() {
    let short = Duration::from_millis(150);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let trickle = |bytes: &str| -> Vec<Do> {
        let pieces = bytes
            .as_bytes()
            .chunks(1)
            .flat_map(|byte| [say(byte), Pause(Duration::from_millis(40))]);
        std::iter::once(Read).chain(pieces).chain([Hang]).collect()
    };
    type Change = fn(&mut UpstreamSpec, Duration);
    let first: Change = |spec, short| spec.first_byte_timeout = short;
    let between: Change = |spec, short| spec.between_bytes_timeout = short;
    let total: Change = |spec, short| spec.total_timeout = short;
    let cases: Vec<(&str, Vec<Do>, Change, Kind, bool)> = vec![
        (
            "no head",
            vec![Read, Hang],
            first,
            Kind::FirstByteTimeout,
            true,
        ),
        (
            "nothing read",
            vec![Hang],
            first,
            Kind::FirstByteTimeout,
            true,
        ),
        (
            "a head that trickles",
            trickle(head),
            first,
            Kind::FirstByteTimeout,
            true,
        ),
        (
            "interim answers only",
            vec![Read, say("HTTP/1.1 103 x\r\n\r\n"), Hang],
            first,
            Kind::FirstByteTimeout,
            true,
        ),
        (
            "no body",
            vec![Read, say(head), Hang],
            between,
            Kind::BetweenBytes,
            false,
        ),
        (
            "half a body",
            vec![Read, say(head), say("hel"), Hang],
            between,
            Kind::BetweenBytes,
            false,
        ),
        ("no head at all", vec![Read, Hang], total, Kind::Total, true),
        (
            "a body that trickles",
            trickle(&format!("{head}hello")),
            total,
            Kind::Total,
            true,
        ),
    ];
    for (name, script, change, kind, before_head) in cases {
        let (error, took) = fails(script, |spec| change(spec, short)).await;
        assert_eq!(
            (error.kind, error.before_head),
            (kind, before_head),
            "{name}"
        );
        assert_eq!(error.status(), 504, "{name}");
        assert!(
            took >= short && took < short + Duration::from_secs(2),
            "{name}: {took:?}"
        );
    }
}

#[tokio::test]
async fn a_total_deadline_holds_against_an_origin_that_never_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut spec = spec(listener.local_addr().unwrap());
    spec.total_timeout = Duration::from_millis(200);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
    });
    let upstream = Upstream::new(spec).unwrap();
    let error = timeout(LONG, fetch(&upstream, "GET"))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind, Kind::Total);
}

#[tokio::test]
async fn c70_refused_and_unanswered_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let error = fetch(&upstream(addr), "GET").await.unwrap_err();
    assert_eq!((error.kind, error.status()), (Kind::Connect, 502));

    // Accepts TCP, never speaks TLS.
    let origin = Origin::start(vec![vec![Hang]]).await;
    let mut spec = spec(origin.addr);
    spec.servers[0].tls = true;
    spec.connect_timeout = Duration::from_millis(150);
    let upstream = Upstream::new(spec).unwrap();
    let error = fetch(&upstream, "GET").await.unwrap_err();
    assert_eq!((error.kind, error.status()), (Kind::ConnectTimeout, 504));
}

#[tokio::test]
async fn the_total_deadline_comes_before_bytes_that_wait() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let origin = Origin::start(vec![vec![
        Read,
        say(head),
        Pause(Duration::from_millis(50)),
        say("hello"),
        Hang,
    ]])
    .await;
    let mut spec = spec(origin.addr);
    spec.total_timeout = Duration::from_millis(200);
    let upstream = Upstream::new(spec).unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("GET"), Outgoing::None)
        .await
        .unwrap();
    assert!(matches!(exchange.next().await, Ok(Event::Head(_))));
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(exchange.next().await.unwrap_err().kind, Kind::Total);
    assert_eq!(exchange.next().await.unwrap_err().kind, Kind::Total);
}

#[tokio::test]
async fn silence_is_counted_while_somebody_listens() {
    let origin = Origin::start(vec![vec![
        Read,
        say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"),
        Pause(Duration::from_millis(900)),
        say("llo"),
    ]])
    .await;
    let mut spec = spec(origin.addr);
    spec.between_bytes_timeout = Duration::from_millis(500);
    let upstream = Upstream::new(spec).unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("GET"), Outgoing::None)
        .await
        .unwrap();
    assert!(matches!(exchange.next().await, Ok(Event::Head(_))));
    assert!(matches!(exchange.next().await, Ok(Event::Body(_))));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(receive(&mut exchange).await.unwrap().body, b"llo");
}

/// Who hangs up tells how long he waited for an answer that was due, and nothing worse.
#[tokio::test]
async fn who_hangs_up_before_the_head_tells_how_long_that_was() {
    let origin = Origin::start(vec![vec![Hang]]).await;
    let mut spec = spec(origin.addr);
    spec.breaker.after = 3;
    let upstream = Upstream::new(spec).unwrap();
    let begin = async |body| {
        let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
        let exchange = Exchange::start(&upstream, &permit, request("POST"), body).await;
        (exchange.unwrap(), permit)
    };
    let waits = async |exchange: &mut Exchange| {
        let wait = timeout(Duration::from_millis(150), exchange.next());
        assert!(wait.await.is_err());
    };
    // At once, or before all was sent.
    for _ in 0..20 {
        drop(begin(Outgoing::None).await);
    }
    let (mut sends, permit) = begin(Outgoing::Length(2)).await;
    waits(&mut sends).await;
    drop((sends, permit));
    assert_eq!(upstream.budget.took(0), None);
    for _ in 0..6 {
        let (mut exchange, _permit) = begin(Outgoing::None).await;
        waits(&mut exchange).await;
    }
    let took = upstream.budget.took(0);
    assert!(took.is_some_and(|took| (0.15..5.0).contains(&took)));
    assert!(!upstream.is_ejected(0) && upstream.circuit().is_closed());
    assert!(!upstream.budget.is_none_left());
}

/// A connection that nobody waited for any more, after a second and sooner.
#[tokio::test]
async fn a_connection_given_up_late_is_one_that_cannot_be_made() {
    // Accepts TCP, never speaks TLS.
    let origin = Origin::start(vec![vec![Hang]]).await;
    let mut spec = spec(origin.addr);
    spec.servers[0].tls = true;
    let upstream = Upstream::new(spec).unwrap();
    let gives_up = async |after| {
        let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
        let start = Exchange::start(&upstream, &permit, request("GET"), Outgoing::None);
        assert!(timeout(Duration::from_millis(after), start).await.is_err());
        upstream.budget.is_none_left()
    };
    assert!(!gives_up(50).await);
    assert!(gives_up(1_050).await);
    assert!(!upstream.is_ejected(0) && upstream.circuit().is_closed());
}

#[tokio::test]
async fn a_late_caller_is_not_the_origins_fault() {
    let origin = Origin::start(vec![vec![Read, say(HELLO), AwaitClose]]).await;
    let mut spec = spec(origin.addr);
    spec.between_bytes_timeout = Duration::from_millis(50);
    spec.first_byte_timeout = Duration::from_millis(50);
    let upstream = Upstream::new(spec).unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("GET"), Outgoing::None)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert!(matches!(exchange.next().await, Ok(Event::Head(_))));
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert!(matches!(exchange.next().await, Ok(Event::Body(_))));
    assert!(matches!(exchange.next().await, Ok(Event::End)));
    assert!(matches!(exchange.next().await, Ok(Event::End)));
}

#[tokio::test]
async fn deadlines_run_on_over_calls_that_are_cancelled() {
    let (error, took) = {
        let origin = Origin::start(vec![vec![
            Read,
            say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"),
            Hang,
        ]])
        .await;
        let mut spec = spec(origin.addr);
        spec.between_bytes_timeout = Duration::from_millis(200);
        let upstream = Upstream::new(spec).unwrap();
        let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
        let mut exchange = Exchange::start(&upstream, &permit, request("GET"), Outgoing::None)
            .await
            .unwrap();
        let mut body = Vec::new();
        let began = clock::timer();
        loop {
            match timeout(Duration::from_millis(5), exchange.next()).await {
                Err(_) | Ok(Ok(Event::Head(_))) => {
                    assert!(began.elapsed() < Duration::from_secs(5))
                }
                Ok(Ok(Event::Body(piece))) => body.extend_from_slice(&piece),
                Ok(Ok(other)) => panic!("{other:?}"),
                Ok(Err(error)) => break (error, (began.elapsed(), body)),
            }
        }
    };
    assert_eq!(error.kind, Kind::BetweenBytes);
    assert_eq!(took.1, b"he");
    assert!(took.0 >= Duration::from_millis(200));
}

#[tokio::test]
async fn the_first_byte_is_not_due_before_the_body_is_sent() {
    let origin = Origin::start(vec![vec![Read, ReadBytes(2), Hang]]).await;
    let mut spec = spec(origin.addr);
    spec.first_byte_timeout = Duration::from_millis(100);
    let upstream = Upstream::new(spec).unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("POST"), Outgoing::Length(2))
        .await
        .unwrap();
    assert!(
        timeout(Duration::from_millis(250), exchange.next())
            .await
            .is_err()
    );
    let mut sender = exchange.body_sender().unwrap();
    assert!(exchange.body_sender().is_none());
    let began = clock::timer();
    let (sent, event) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            sender.send(Bytes::from_static(b"ab")).await
        },
        exchange.next(),
    );
    sent.unwrap();
    assert_eq!(event.unwrap_err().kind, Kind::FirstByteTimeout);
    assert!(began.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn an_origin_that_takes_no_body_is_left() {
    let origin = Origin::start(vec![vec![Read, Hang]]).await;
    let mut spec = spec(origin.addr);
    spec.between_bytes_timeout = Duration::from_millis(200);
    let upstream = Upstream::new(spec).unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(
        &upstream,
        &permit,
        request("POST"),
        Outgoing::Length(1 << 40),
    )
    .await
    .unwrap();
    let error = loop {
        if let Err(error) = exchange.send_body(Bytes::from(vec![0; 1 << 20])).await {
            break error;
        }
    };
    assert_eq!((error.kind, error.status()), (Kind::BetweenBytes, 504));
}

#[tokio::test]
async fn a_stream_outlives_the_total_deadline() {
    let origin = Origin::start(vec![vec![
        Read,
        say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"),
        Pause(Duration::from_millis(300)),
        say("data: 2\n\n"),
    ]])
    .await;
    let mut spec = spec(origin.addr);
    spec.total_timeout = Duration::from_millis(150);
    let upstream = Upstream::new(spec).unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("GET"), Outgoing::None)
        .await
        .unwrap();
    assert!(matches!(exchange.next().await, Ok(Event::Head(_))));
    exchange.become_stream();
    assert_eq!(
        receive(&mut exchange).await.unwrap().body,
        b"data: 1\n\ndata: 2\n\n"
    );
}
