//! What the origin receives.

use super::Do::{AwaitClose, Hang, Read, ReadBytes};
use super::OriginErrorKind as Kind;
use super::*;
use crate::origin::Ask;

#[tokio::test]
async fn what_the_origin_receives() {
    let origin = Origin::start(vec![vec![Read, say(HELLO), AwaitClose]]).await;
    let upstream = upstream(origin.addr);
    for (method, body) in [
        ("GET", Outgoing::None),
        ("POST", Outgoing::None),
        ("POST", Outgoing::Length(3)),
        ("POST", Outgoing::Chunked),
    ] {
        let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
        let mut head = request(method);
        head.insert_header("Content-Length", "99").unwrap();
        head.insert_header("Transfer-Encoding", "chunked").unwrap();
        let exchange = Exchange::start(&upstream, &permit, head, body)
            .await
            .unwrap();
        drop(exchange);
    }
    while origin.heads().len() < 4 {
        tokio::task::yield_now().await;
    }
    let mut heads = origin.heads();
    heads.sort();
    let line = |method: &str| format!("{method} /page?q=1 HTTP/1.1\r\n");
    let mut wanted = [
        format!("{}Host: app.test:80\r\n\r\n", line("GET")),
        format!(
            "{}Content-Length: 0\r\nHost: app.test:80\r\n\r\n",
            line("POST")
        ),
        format!(
            "{}Content-Length: 3\r\nHost: app.test:80\r\n\r\n",
            line("POST")
        ),
        format!(
            "{}Transfer-Encoding: chunked\r\nHost: app.test:80\r\n\r\n",
            line("POST")
        ),
    ];
    wanted.sort();
    assert_eq!(sorted_fields(&heads), sorted_fields(&wanted));
}

fn sorted_fields(heads: &[String]) -> Vec<Vec<String>> {
    let fields = |head: &String| {
        let mut lines: Vec<_> = head.lines().map(str::to_ascii_lowercase).collect();
        lines.sort();
        lines
    };
    heads.iter().map(fields).collect()
}

#[tokio::test]
async fn bodies_are_sent_as_announced() {
    let origin = Origin::start(vec![vec![Read, ReadBytes(5), say(HELLO), AwaitClose]]).await;
    let upstream = self::upstream(origin.addr);
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("POST"), Outgoing::Length(5))
        .await
        .unwrap();
    exchange.send_body(Bytes::from_static(b"he")).await.unwrap();
    exchange
        .send_body(Bytes::from_static(b"llo"))
        .await
        .unwrap();
    exchange.end_body().await.unwrap();
    let more = exchange
        .send_body(Bytes::from_static(b"!"))
        .await
        .unwrap_err();
    assert_eq!(more.kind, Kind::Write);
    assert_eq!(receive(&mut exchange).await.unwrap().body, b"hello");

    let wire = "2\r\nab\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = self::upstream(listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        let mut body = vec![0; wire.len()];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(HELLO.as_bytes()).await.unwrap();
        String::from_utf8(body).unwrap()
    });
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("POST"), Outgoing::Chunked)
        .await
        .unwrap();
    exchange.send_body(Bytes::from_static(b"ab")).await.unwrap();
    exchange.send_body(Bytes::new()).await.unwrap();
    exchange
        .send_body(Bytes::from_static(b"0123456789abcdef"))
        .await
        .unwrap();
    exchange.end_body().await.unwrap();
    assert_eq!(receive(&mut exchange).await.unwrap().body, b"hello");
    assert_eq!(served.await.unwrap(), wire);
}

#[tokio::test]
async fn a_body_shorter_than_announced_is_not_ended() {
    let origin = Origin::start(vec![vec![Read, Hang]]).await;
    let upstream = upstream(origin.addr);
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, request("POST"), Outgoing::Length(5))
        .await
        .unwrap();
    exchange.send_body(Bytes::from_static(b"he")).await.unwrap();
    assert_eq!(exchange.end_body().await.unwrap_err().kind, Kind::Write);
}

#[tokio::test]
async fn c11_an_answer_before_the_bodys_end_is_heard_and_the_connection_not_reused() {
    let origin = Origin::start(vec![
        vec![
            Read,
            say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"),
            AwaitClose,
        ],
        vec![Read, say(HELLO), AwaitClose],
    ])
    .await;
    let upstream = upstream(origin.addr);
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(
        &upstream,
        &permit,
        request("POST"),
        Outgoing::Length(1 << 40),
    )
    .await
    .unwrap();
    exchange.send_body(Bytes::from_static(b"he")).await.unwrap();
    let answer = receive(&mut exchange).await.unwrap();
    assert_eq!((answer.status, answer.body), (413, b"no".to_vec()));
    exchange.finish().await;
    assert_eq!(fetch(&upstream, "GET").await.unwrap().body, b"hello");
    assert_eq!(origin.connections(), 2);
}
