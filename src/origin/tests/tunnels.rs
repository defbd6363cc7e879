//! What comes after a 101.

use super::Do::{AwaitClose, Echo, Read};
use super::OriginErrorKind as Kind;
use super::*;
use crate::origin::Ask;

fn upgrade() -> Box<RequestHeader> {
    let mut head = request("GET");
    head.insert_header("Connection", "upgrade").unwrap();
    head.insert_header("Upgrade", "websocket").unwrap();
    head
}

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n";

#[tokio::test]
async fn a_tunnel_flows_both_ways_at_once() {
    const SIZE: usize = 24 << 20;
    // Echoes, so it stops reading when we do.
    let origin = Origin::start(vec![vec![Read, say(SWITCH), Echo]]).await;
    let mut spec = spec(origin.addr);
    spec.total_timeout = Duration::from_secs(1);
    let upstream = Upstream::new(spec).unwrap();
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, upgrade(), Outgoing::None)
        .await
        .unwrap();
    let Ok(Event::Switched(head)) = exchange.next().await else {
        panic!("no switch");
    };
    assert_eq!(head.fields.get("upgrade").unwrap(), "WebSocket");
    let stream = permit.into_stream().unwrap();
    assert_eq!((upstream.in_flight(), upstream.streams()), (0, 1));
    // Neither deadline is for tunnels.
    assert!(
        timeout(Duration::from_millis(1200), exchange.next())
            .await
            .is_err()
    );
    let mut sender = exchange.body_sender().unwrap();
    let sending = async move {
        let piece = Bytes::from(vec![7; 1 << 20]);
        for _ in 0..SIZE >> 20 {
            sender.send(piece.clone()).await.unwrap();
        }
        sender.end().await.unwrap();
    };
    let receiving = async {
        let mut received = 0;
        loop {
            match exchange.next().await.unwrap() {
                Event::Body(piece) => received += piece.len(),
                Event::End => return received,
                other => panic!("{other:?}"),
            }
        }
    };
    let ((), received) = timeout(LONG, async { tokio::join!(sending, receiving) })
        .await
        .unwrap();
    assert_eq!(received, SIZE);
    drop(stream);
    assert_eq!(upstream.streams(), 0);
}

#[tokio::test]
async fn a_tunnel_can_be_worked_by_select_and_brings_what_came_with_the_101() {
    let origin = Origin::start(vec![vec![Read, say(format!("{SWITCH}early")), Echo]]).await;
    let upstream = upstream(origin.addr);
    let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
    let mut exchange = Exchange::start(&upstream, &permit, upgrade(), Outgoing::None)
        .await
        .unwrap();
    assert!(matches!(exchange.next().await, Ok(Event::Switched(_))));
    let (client, mut inputs) = tokio::sync::mpsc::channel::<Bytes>(1);
    client.send(Bytes::from_static(b"ping")).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 9 {
        tokio::select! {
            Some(input) = inputs.recv() => exchange.send_body(input).await.unwrap(),
            event = exchange.next() => match event.unwrap() {
                Event::Body(piece) => received.extend_from_slice(&piece),
                other => panic!("{other:?}"),
            },
        }
    }
    assert_eq!(received, b"earlyping");
    exchange.end_body().await.unwrap();
    assert!(matches!(exchange.next().await, Ok(Event::End)));
}

#[tokio::test]
async fn a_switch_to_what_was_not_asked_for_is_refused() {
    for bytes in [
        "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 x\r\nConnection: upgrade\r\n\r\n",
    ] {
        let origin = Origin::start(vec![vec![Read, say(bytes), AwaitClose]]).await;
        let upstream = upstream(origin.addr);
        let permit = upstream.permit(LONG, Ask::default()).await.unwrap();
        let mut exchange = Exchange::start(&upstream, &permit, upgrade(), Outgoing::None)
            .await
            .unwrap();
        assert!(
            matches!(exchange.next().await.unwrap_err().kind, Kind::Malformed(_)),
            "{bytes:?}"
        );
    }
}
