//! HTTP/2 origins, by prior knowledge.

use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::OriginErrorKind as Kind;
use super::*;
use crate::origin::Ask;

type Stream = (Request<RecvStream>, SendResponse<Bytes>);

/// Serves every stream of every connection with `handle`; counts connections.
async fn http2<F, Done>(handle: F) -> (SocketAddr, Arc<Mutex<usize>>)
where
    F: Fn(Stream) -> Done + Clone + Send + 'static,
    Done: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(Mutex::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *count.lock() += 1;
            tokio::spawn(serve(stream, handle.clone()));
        }
    });
    (addr, connections)
}

pub(super) async fn serve<F, Done>(stream: impl AsyncRead + AsyncWrite + Unpin, handle: F)
where
    F: Fn(Stream) -> Done,
    Done: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok(stream)) = connection.accept().await {
        let goes_away = stream.0.uri().path() == "/last";
        tokio::spawn(handle(stream));
        if goes_away {
            connection.graceful_shutdown();
        }
    }
}

pub(super) async fn hello((_, mut respond): Stream) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"hello"), true).unwrap();
}

fn prior_knowledge(addr: SocketAddr) -> UpstreamSpec {
    UpstreamSpec {
        protocol: Protocol::Http2,
        ..spec(addr)
    }
}

fn get(path: &str) -> Box<RequestHeader> {
    Box::new(RequestHeader::build("GET", path.as_bytes(), None).unwrap())
}

#[tokio::test]
async fn one_connection_carries_many_streams() {
    let (addr, connections) = http2(|stream: Stream| async {
        assert_eq!(stream.0.uri().authority().unwrap(), "app.test:80");
        tokio::time::sleep(Duration::from_millis(30)).await;
        hello(stream).await;
    })
    .await;
    let upstream = Upstream::new(UpstreamSpec {
        max_in_flight: Some(50),
        ..prior_knowledge(addr)
    })
    .unwrap();
    fetch(&upstream, "GET").await.unwrap();
    let crowd: Vec<_> = (0..40)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { fetch(&upstream, "GET").await.unwrap().body })
        })
        .collect();
    for one in crowd {
        assert_eq!(one.await.unwrap(), b"hello");
    }
    // The pool lends a connection by taking it out for a moment; a few more than one may arise.
    assert!(*connections.lock() < 8, "{}", connections.lock());
}

#[tokio::test]
async fn heads_without_a_body_end() {
    let (addr, _) = http2(|(request, mut respond): Stream| async move {
        let status = if request.method() == "HEAD" { 200 } else { 204 };
        let mut head = Response::builder().status(status);
        if status == 200 {
            head = head.header("content-length", "5");
        }
        respond.send_response(head.body(()).unwrap(), true).unwrap();
    })
    .await;
    let upstream = Upstream::new(prior_knowledge(addr)).unwrap();
    for (method, status) in [("HEAD", 200), ("GET", 204)] {
        let answer = fetch(&upstream, method).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0));
    }
}

#[tokio::test]
async fn c22_c36_broken_answers_never_end() {
    let (addr, _) = http2(|(request, mut respond): Stream| async move {
        let path = request.uri().path().to_owned();
        let mut head = Response::new(());
        if path == "/twice" {
            head.headers_mut()
                .append("content-length", HeaderValue::from(5));
            head.headers_mut()
                .append("content-length", HeaderValue::from(5));
        } else if path == "/short" {
            head.headers_mut()
                .append("content-length", HeaderValue::from(9));
        } else if path == "/fields" {
            for _ in 0..129 {
                head.headers_mut()
                    .append("a", HeaderValue::from_static("b"));
            }
        } else if path == "/huge" {
            head.headers_mut()
                .append("a", HeaderValue::from_str(&"b".repeat(65_000)).unwrap());
            head.headers_mut()
                .append("a", HeaderValue::from_str(&"b".repeat(5_000)).unwrap());
        } else if path == "/nothing" {
            return respond.send_reset(Reason::INTERNAL_ERROR);
        }
        let Ok(mut body) = respond.send_response(head, false) else {
            return;
        };
        let ends = path != "/reset";
        let _ = body.send_data(Bytes::from_static(b"hello"), ends);
        if !ends {
            tokio::time::sleep(Duration::from_millis(50)).await;
            body.send_reset(Reason::CANCEL);
        }
    })
    .await;
    let upstream = Upstream::new(prior_knowledge(addr)).unwrap();
    let malformed = Kind::Malformed("Content-Length is not one number");
    for (path, kind, before_head) in [
        ("/twice", Some(malformed), true),
        ("/short", None, false),
        ("/fields", Some(Kind::TooLarge), true),
        ("/huge", Some(Kind::TooLarge), true),
        ("/nothing", Some(Kind::Reset), true),
        ("/reset", Some(Kind::Reset), false),
    ] {
        let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
        let mut exchange = Exchange::start(&upstream, &permit, get(path), Outgoing::None)
            .await
            .unwrap();
        let error = timeout(LONG, receive(&mut exchange))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.before_head, before_head, "{path}: {error}");
        assert_eq!(error.kind, kind.unwrap_or(error.kind), "{path}: {error}");
        // A stream that broke takes no connection along.
        assert_eq!(error.status(), 502);
    }
}

#[tokio::test]
async fn deadlines_hold_and_a_silent_connection_is_left() {
    let (addr, connections) = http2(|(request, mut respond): Stream| async move {
        match request.uri().path() {
            "/silent" => std::future::pending().await,
            "/half" => {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"he"), false).unwrap();
                std::future::pending().await
            }
            _ => hello((request, respond)).await,
        }
    })
    .await;
    let mut spec = prior_knowledge(addr);
    spec.first_byte_timeout = Duration::from_millis(100);
    spec.between_bytes_timeout = Duration::from_millis(100);
    let upstream = Upstream::new(spec).unwrap();
    for (path, kind) in [
        ("/silent", Kind::FirstByteTimeout),
        ("/half", Kind::BetweenBytes),
    ] {
        let before = *connections.lock();
        let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
        let mut exchange = Exchange::start(&upstream, &permit, get(path), Outgoing::None)
            .await
            .unwrap();
        let error = timeout(LONG, receive(&mut exchange))
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!((error.kind, error.status()), (kind, 504), "{path}");
        drop(exchange);
        fetch(&upstream, "GET").await.unwrap();
        assert!(*connections.lock() > before, "{path}");
    }
}

#[tokio::test]
async fn a_dropped_exchange_resets_its_stream_and_keeps_the_connection() {
    let (told, mut resets) = mpsc::unbounded_channel();
    let (addr, connections) = http2(move |(request, mut respond): Stream| {
        let told = told.clone();
        async move {
            if request.uri().path() != "/endless" {
                return hello((request, respond)).await;
            }
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"he"), false).unwrap();
            let reset = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
            told.send(reset.unwrap()).unwrap();
        }
    })
    .await;
    let upstream = Upstream::new(prior_knowledge(addr)).unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, get("/endless"), Outgoing::None)
        .await
        .unwrap();
    assert!(matches!(exchange.next().await, Ok(Event::Head(_))));
    drop(exchange);
    let reason = timeout(LONG, resets.recv()).await.unwrap().unwrap();
    assert_eq!(reason, Reason::CANCEL);
    fetch(&upstream, "GET").await.unwrap();
    assert_eq!(*connections.lock(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_however_its_streams_ended() {
    for whole in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut spec = prior_knowledge(listener.local_addr().unwrap());
        spec.keepalive = Duration::from_millis(150);
        let upstream = Upstream::new(spec).unwrap();
        let ended = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, |(request, mut respond): Stream| async move {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                let ends = request.uri().path() == "/whole";
                body.send_data(Bytes::from_static(b"hello"), ends).unwrap();
                let _ = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
            })
            .await;
        });
        let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
        let path = if whole { "/whole" } else { "/endless" };
        let mut exchange = Exchange::start(&upstream, &permit, get(path), Outgoing::None)
            .await
            .unwrap();
        assert!(matches!(exchange.next().await, Ok(Event::Head(_))));
        assert!(matches!(exchange.next().await, Ok(Event::Body(_))));
        if whole {
            assert!(matches!(exchange.next().await, Ok(Event::End)));
            exchange.finish().await;
        } else {
            drop(exchange);
        }
        let ended = timeout(Duration::from_secs(3), ended).await;
        assert!(ended.is_ok(), "whole: {whole}");
    }
}

#[tokio::test]
async fn bodies_go_through_flow_control_both_ways_at_once() {
    const SIZE: usize = 4 << 20;
    let (addr, _) = http2(|(request, mut respond): Stream| async move {
        let mut body = request.into_body();
        let mut echo = respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(mut data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            while !data.is_empty() {
                echo.reserve_capacity(data.len());
                if echo.capacity() == 0 {
                    let _ = std::future::poll_fn(|cx| echo.poll_capacity(cx)).await;
                    continue;
                }
                let piece = data.split_to(echo.capacity().min(data.len()));
                echo.send_data(piece, false).unwrap();
            }
        }
        echo.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let upstream = Upstream::new(prior_knowledge(addr)).unwrap();
    for outgoing in [Outgoing::Length(SIZE as u64), Outgoing::Chunked] {
        let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
        let mut exchange = Exchange::start(&upstream, &permit, request("POST"), outgoing)
            .await
            .unwrap();
        let mut sender = exchange.body_sender().unwrap();
        let sending = async move {
            for _ in 0..SIZE >> 16 {
                sender.send(Bytes::from(vec![7; 1 << 16])).await.unwrap();
            }
            sender.end().await.unwrap();
        };
        let (received, ()) = timeout(LONG, async {
            tokio::join!(receive(&mut exchange), sending)
        })
        .await
        .unwrap();
        assert_eq!(received.unwrap().body.len(), SIZE);
    }
}

#[tokio::test]
async fn an_answer_before_the_bodys_end_is_heard() {
    let (addr, _) = http2(|(_unread, mut respond): Stream| async move {
        let head = Response::builder().status(413).body(()).unwrap();
        respond.send_response(head, true).unwrap();
        std::future::pending().await
    })
    .await;
    let upstream = Upstream::new(prior_knowledge(addr)).unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(
        &upstream,
        &permit,
        request("POST"),
        Outgoing::Length(1 << 40),
    )
    .await
    .unwrap();
    let mut sender = exchange.body_sender().unwrap();
    let sending = async move { while sender.send(Bytes::from(vec![0; 1 << 20])).await.is_ok() {} };
    let status = tokio::select! {
        () = sending => panic!("all taken"),
        answer = receive(&mut exchange) => answer.unwrap().status,
    };
    assert_eq!(status, 413);
}

#[tokio::test]
async fn a_connection_that_went_away_is_replaced() {
    let (addr, connections) = http2(hello).await;
    let upstream = Upstream::new(prior_knowledge(addr)).unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, get("/last"), Outgoing::None)
        .await
        .unwrap();
    receive(&mut exchange).await.unwrap();
    exchange.finish().await;
    assert_eq!(fetch(&upstream, "GET").await.unwrap().body, b"hello");
    assert_eq!(*connections.lock(), 2);
}

#[tokio::test]
async fn an_origin_without_http2_is_no_http2_origin() {
    let origin = Origin::start(vec![vec![Do::Read, say(HELLO), Do::AwaitClose]]).await;
    let upstream = Upstream::new(UpstreamSpec {
        first_byte_timeout: Duration::from_secs(1),
        ..prior_knowledge(origin.addr)
    })
    .unwrap();
    let error = timeout(LONG, fetch(&upstream, "GET"))
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.before_head);
}
