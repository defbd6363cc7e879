//! HTTP/1 answers: whole, broken, cut short, too large.

use super::Do::{AwaitClose, Pause, Read, Reset};
use super::OriginErrorKind as Kind;
use super::*;
use crate::origin::Ask;

#[test]
fn an_exchange_can_be_sent_to_another_task() {
    fn send<T: Send>() {}
    send::<Exchange>();
    send::<BodySender>();
    send::<Permit>();
    send::<StreamPermit>();
}

#[tokio::test]
async fn complete_answers_are_given_whole() {
    let large = "x".repeat(300_000);
    let cases: &[(&str, &str, String, u16, &str)] = &[
        ("a length", "GET", HELLO.into(), 200, "hello"),
        ("no body", "GET", "HTTP/1.1 204 No Content\r\n\r\n".into(), 204, ""),
        ("304 with the length it would have", "GET", "HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n".into(), 304, ""),
        ("HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".into(), 200, ""),
        (
            "chunks, an extension, a trailer",
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n".into(),
            200,
            "hello",
        ),
        ("HTTP/1.0, till it closes", "GET", "HTTP/1.0 200 OK\r\n\r\nhello".into(), 200, "hello"),
        ("HTTP/1.1, till it closes", "GET", "HTTP/1.1 200\r\n\r\nhello".into(), 200, "hello"),
        ("bytes past the end", "GET", format!("{HELLO}HTTP/1.1 200 OK\r\n"), 200, "hello"),
        (
            "more than a buffer",
            "GET",
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{large}", large.len()),
            200,
            &large,
        ),
    ];
    for (name, method, bytes, status, body) in cases {
        // In one piece, and in pieces of seven bytes.
        for pieces in [bytes.len(), 7] {
            if pieces == 7 && bytes.len() > 1000 {
                continue;
            }
            let mut script = vec![Read];
            for piece in bytes.as_bytes().chunks(pieces) {
                script.extend([say(piece), Pause(Duration::from_millis(1))]);
            }
            let origin = Origin::start(vec![script]).await;
            let answer = fetch(&upstream(origin.addr), method)
                .await
                .unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(answer.status, *status, "{name}");
            assert_eq!(String::from_utf8_lossy(&answer.body), *body, "{name}");
        }
    }
}

#[tokio::test]
async fn c22_answers_that_two_readers_could_read_in_two_ways_are_refused() {
    let cases = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 abc Word\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "<html>zero point nine</html>",
        "garbage\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ];
    for bytes in cases {
        // The origin does not close: what is wrong must be seen in the bytes.
        let (error, _) = fails(vec![Read, say(bytes), AwaitClose], |_| {}).await;
        assert!(
            matches!(error.kind, Kind::Malformed(_)),
            "{bytes:?}: {error}"
        );
        assert!(error.before_head, "{bytes:?}");
        assert_eq!(error.status(), 502);
    }
}

#[tokio::test]
async fn c22_bad_chunks_break_the_answer() {
    for chunk in [
        "5\nhello",
        "0x5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "5\r\nhelloX",
        "g\r\n",
        "10000000000000000\r\n",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
        let (error, _) = fails(vec![Read, say(bytes), AwaitClose], |_| {}).await;
        assert!(
            matches!(error.kind, Kind::Malformed(_)),
            "{chunk:?}: {error}"
        );
        assert!(!error.before_head, "{chunk:?}");
    }
}

#[tokio::test]
async fn c36_an_answer_cut_short_never_ends() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r",
            false,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Le", true),
        ("", true),
    ];
    for (bytes, before_head) in cases {
        let (error, _) = fails(vec![Read, say(bytes)], |_| {}).await;
        assert_eq!(
            (error.kind, error.before_head),
            (Kind::Reset, before_head),
            "{bytes:?}"
        );
    }
    for bytes in ["HTTP/1.1 200 OK\r\n\r\nhel", "HTTP/1.0 200 OK\r\n\r\nhel"] {
        let pause = Pause(Duration::from_millis(50));
        let (error, _) = fails(vec![Read, say(bytes), pause, Reset], |_| {}).await;
        assert_eq!(
            (error.kind, error.before_head),
            (Kind::Reset, false),
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn c79_floods_of_head_and_interim_answers_end() {
    let mut huge = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    huge.resize(2 << 20, b'a');
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(129));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(9);
    let hundreds = "HTTP/1.1 100 Continue\r\n\r\n".repeat(9);
    for bytes in [
        &huge[..],
        fields.as_bytes(),
        interim.as_bytes(),
        hundreds.as_bytes(),
    ] {
        let (error, _) = fails(vec![Read, say(bytes), AwaitClose], |_| {}).await;
        assert_eq!(
            (error.kind, error.before_head),
            (Kind::TooLarge, true),
            "{}",
            bytes.len()
        );
        assert!(error.detail.len() < 200);
    }
}

#[tokio::test]
async fn interim_answers_come_first_but_never_100() {
    let bytes = format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close\r\n\r\nHTTP/1.1 102 x\r\n\r\n{HELLO}"
    );
    let origin = Origin::start(vec![vec![Read, say(bytes), AwaitClose]]).await;
    let answer = fetch(&upstream(origin.addr), "GET").await.unwrap();
    assert_eq!((answer.interim, answer.status), (vec![103, 102], 200));
}

#[tokio::test]
async fn fields_of_the_connection_stay_here_and_none_can_be_taken_away_that_decides() {
    let bytes = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Own, Cache-Control\r\nKeep-Alive: timeout=5\r\n\
                 X-Own: 1\r\nCache-Control: private\r\nProxy-Authenticate: x\r\nContent-Length: 0\r\nX-Other: 2\r\n\r\n";
    let origin = Origin::start(vec![vec![Read, say(bytes), AwaitClose]]).await;
    let answer = fetch(&upstream(origin.addr), "GET").await.unwrap();
    let mut names: Vec<_> = answer.fields.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["cache-control", "content-length", "x-other"]);
}

#[tokio::test]
async fn a_call_that_is_cancelled_loses_no_byte() {
    let body: String = (0..400).map(|number| format!("{number},")).collect();
    let chunked: String = body
        .as_bytes()
        .chunks(3)
        .map(|part| format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part)))
        .collect();
    for bytes in [
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}0\r\n\r\n"),
    ] {
        let pieces = bytes
            .as_bytes()
            .chunks(11)
            .flat_map(|piece| [say(piece), Pause(Duration::from_micros(300))]);
        let origin = Origin::start(vec![
            std::iter::once(Read)
                .chain(pieces)
                .chain([AwaitClose])
                .collect(),
        ])
        .await;
        let upstream = upstream(origin.addr);
        let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
        let mut exchange = Exchange::start(&upstream, &permit, request("GET"), Outgoing::None)
            .await
            .unwrap();
        let mut received = Vec::new();
        loop {
            // Polled once, then dropped, over and over.
            let event = tokio::select! {
                biased;
                event = exchange.next() => event.unwrap(),
                () = tokio::task::yield_now() => continue,
            };
            match event {
                Event::Body(piece) => received.extend_from_slice(&piece),
                Event::End => break,
                _ => {}
            }
        }
        assert_eq!(String::from_utf8_lossy(&received), body);
    }
}
