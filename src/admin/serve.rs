//! Connections of operators: one request each, heads, connections and time bounded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::geteuid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::gate::Peer;

const HEAD_MOST: usize = 8 * 1024;
const FIELDS_MOST: usize = 64;
/// Of each listener.
const CONNECTIONS_MOST: usize = 64;

/// How long clients may take.
#[derive(Clone, Copy)]
pub(super) struct Deadlines {
    /// From the connection to the whole head.
    pub(super) head: Duration,
    /// From the connection to the last byte of the answer.
    pub(super) whole: Duration,
    /// To close after being answered.
    pub(super) linger: Duration,
}

pub(super) const DEADLINES: Deadlines = Deadlines {
    head: Duration::from_secs(10),
    whole: Duration::from_secs(40),
    linger: Duration::from_secs(1),
};

pub(super) async fn tcp(listener: TcpListener, router: Router) {
    let places = Places::new();
    loop {
        let accepted = places.next(listener.accept()).await;
        let Some((place, (stream, from))) = accepted else {
            continue;
        };
        let Ok(at) = stream.local_addr() else {
            continue;
        };
        let (from, at) = (from.ip(), at.ip());
        let router = router.clone();
        tokio::spawn(async move {
            connection(stream, Peer::Tcp { from, at }, router, DEADLINES).await;
            drop(place);
        });
    }
}

pub(super) async fn unix(listener: UnixListener, router: Router) {
    let places = Places::new();
    loop {
        let Some((place, (stream, _))) = places.next(listener.accept()).await else {
            continue;
        };
        let Ok(credentials) = stream.peer_cred() else {
            continue;
        };
        let uid = credentials.uid();
        let owner = uid == 0 || uid == geteuid().as_raw();
        let router = router.clone();
        tokio::spawn(async move {
            connection(stream, Peer::Unix { uid, owner }, router, DEADLINES).await;
            drop(place);
        });
    }
}

/// Places for connections.
struct Places(Arc<Semaphore>);

impl Places {
    fn new() -> Places {
        Places(Arc::new(Semaphore::new(CONNECTIONS_MOST)))
    }

    /// The next connection, once there is a place for it.
    async fn next<T>(
        &self,
        accept: impl Future<Output = io::Result<T>>,
    ) -> Option<(impl Send + 'static, T)> {
        // The semaphore is never closed.
        let place = Arc::clone(&self.0).acquire_owned().await.ok()?;
        match accept.await {
            Ok(accepted) => Some((place, accepted)),
            // Out of descriptors, most likely: others close some.
            Err(error) => {
                tracing::warn!(%error, "admin listener");
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

pub(super) async fn connection(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    deadlines: Deadlines,
) {
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let served = timeout(
        deadlines.whole,
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(deadlines.head)
            .keep_alive(false)
            .max_buf_size(HEAD_MOST)
            .max_headers(FIELDS_MOST)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(&mut stream), service),
    )
    .await;
    let unheard = served.is_ok_and(|served| served.is_err_and(|error| error.is_timeout()));
    if unheard {
        const LATE: &[u8] =
            b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = timeout(deadlines.linger, stream.write_all(LATE)).await;
        let _ = stream.shutdown().await;
    }
    // Closing with bytes unread would reset the connection and take the answer with it.
    let _ = timeout(deadlines.linger, discard(&mut stream)).await;
}

async fn discard(stream: &mut (impl AsyncRead + Unpin)) {
    let mut nowhere = vec![0; 64 * 1024];
    for _ in 0..64 {
        if !matches!(stream.read(&mut nowhere).await, Ok(1..)) {
            return;
        }
    }
}
