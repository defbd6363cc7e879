use super::*;

fn flight(window: Option<usize>) -> (Arc<Flight>, Filler, Arc<Memory>) {
    let memory = Memory::new(10 << 20);
    let flight = Flight::new(&memory, clock::instant(), 0, window);
    let filler = Filler::new(&flight, false);
    (flight, filler, memory)
}

async fn read_all(reader: &mut Reader) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    while reader.body(1 << 20, &mut out).await? > 0 {}
    Ok(out.concat())
}

#[tokio::test]
async fn readers_follow_from_the_start_whenever_they_board() {
    let (flight, filler, _memory) = flight(None);
    let mut early = flight.board_first();
    filler.push(&Bytes::from_static(b"ab")).await.unwrap();
    let mut late = flight.board().unwrap();
    filler.push(&Bytes::from_static(b"cd")).await.unwrap();
    filler.complete();
    assert_eq!(read_all(&mut early).await.unwrap(), b"abcd");
    assert_eq!(read_all(&mut late).await.unwrap(), b"abcd");
}

#[tokio::test]
async fn a_broken_flight_is_an_error_and_never_a_short_body() {
    let (flight, filler, _memory) = flight(None);
    let mut reader = flight.board_first();
    filler.push(&Bytes::from_static(b"ab")).await.unwrap();
    drop(filler);
    assert_eq!(read_all(&mut reader).await, Err(Failure::Lost));
}

#[tokio::test]
async fn a_window_waits_for_its_fastest_reader_and_breaks_off_the_slow() {
    let (flight, filler, _memory) = flight(Some(WINDOW_FLOOR));
    let mut fast = flight.board_first();
    let mut slow = flight.board().unwrap();
    let piece = Bytes::from(vec![1; WINDOW_FLOOR]);
    let mut out = Vec::new();
    for _ in 0..4 {
        filler.push(&piece).await.unwrap();
        assert!(
            futures_poll_once(filler.push(&piece)).await.is_none(),
            "a full window must wait for a reader"
        );
        fast.body(WINDOW_FLOOR, &mut out).await.unwrap();
    }
    assert_eq!(
        slow.body(WINDOW_FLOOR, &mut out).await,
        Err(Failure::FellBehind)
    );
    assert!(flight.board().is_none(), "the start is gone");
}

#[tokio::test]
async fn long_pieces_are_read_in_parts_and_lose_nothing() {
    let (flight, filler, _memory) = flight(None);
    let mut reader = flight.board_first();
    let pieces: Vec<Bytes> = (0..3u8).map(|n| Bytes::from(vec![n; 100_000])).collect();
    for piece in &pieces {
        filler.push(piece).await.unwrap();
    }
    filler.complete();
    let (mut out, mut largest) = (Vec::new(), 0);
    loop {
        match reader.body(65_536, &mut out).await.unwrap() {
            0 => break,
            taken => largest = largest.max(taken),
        }
    }
    assert_eq!(out.concat(), pieces.concat());
    assert!(largest <= 65_536);
}

#[tokio::test]
async fn leadership_moves_with_the_request_that_is_sent() {
    let (flight, _filler, _memory) = flight(None);
    let first = flight.board_first();
    let second = flight.board().unwrap();
    assert!(first.is_leader() && !second.is_leader());
    flight.lead(second.id());
    assert!(!first.is_leader() && second.is_leader());
}

#[tokio::test]
async fn without_readers_a_flight_that_is_not_kept_is_abandoned() {
    let (flight, filler, _memory) = flight(None);
    let reader = flight.board_first();
    filler.push(&Bytes::from_static(b"ab")).await.unwrap();
    drop(reader);
    assert_eq!(
        filler.push(&Bytes::from_static(b"cd")).await,
        Err(Abandoned)
    );
    filler.abandoned().await;
}

#[tokio::test]
async fn memory_comes_back_when_the_flight_and_its_readers_are_gone() {
    let (flight, filler, memory) = flight(None);
    let reader = flight.board_first();
    filler.push(&Bytes::from(vec![0; 100_000])).await.unwrap();
    assert!(memory.used() >= 100_000);
    drop((filler, flight));
    assert!(memory.used() >= 100_000, "a reader holds it");
    drop(reader);
    assert_eq!(memory.used(), 0);
}

async fn futures_poll_once<F: Future>(future: F) -> Option<F::Output> {
    tokio::pin!(future);
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(out) => Some(out),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
