//! The operators' listeners: `/metrics`, `/healthz`, `/readyz`, and the admin API below `/v1/`, on an address and a socket of their own.
//!
//! They run on a thread and a runtime of their own, so they answer however busy the road is. Nothing here is reachable from the
//! public listener (class C51). In reading order: [`serve`] has the connections, [`gate`] says who may ask for what, [`router`] has
//! the routes, each a file.

mod audit;
mod config;
mod copies;
mod fallback;
mod fleet;
mod gate;
mod health;
mod levers;
mod metrics;
mod problem;
mod purge;
mod rehearsal;
mod router;
mod serve;
mod socket;
mod status;
mod token;
mod top;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use axum::extract::State as FromState;
use tokio::sync::oneshot;

use crate::config::live::Live;
use crate::levers::board::Board;
use crate::state;
use crate::telemetry::Metrics;

pub use audit::{Audit, Told as AuditEntry};
pub use config::{Changed, Configs, Plan, Replayed, Told as ConfigVersion};
pub use copies::{FallbackCopy, FallbackPage, FallbackPages};
pub use fallback::Fallback;
pub use fleet::{Everywhere, FleetStatus};
pub use gate::{Asked, Asking, Caller, Gate};
pub use health::{Health, Heartbeat, Page, State};
pub use levers::{Levers, Pulled, Told as PulledLever};
pub use problem::{Body as ProblemBody, Problem};
pub use purge::{Kind as PurgeKind, Purged};
pub use rehearsal::FallbackCheck;
pub use router::openapi;
pub use socket::Beside;
pub use status::{Facts, Status};
pub use token::Token;
pub use top::Top;

/// What the listeners tell about, and what opens them.
pub struct Admin {
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub facts: Arc<dyn Facts>,
    pub live: Arc<Live>,
    pub board: Arc<Board>,
    pub gate: Gate,
    /// None: nobody gets in but by the socket.
    pub token: Option<Token>,
    pub state: Option<state::Dir>,
    pub audit: Option<Arc<state::audit::Audit>>,
    /// Where the socket is, once it listens there.
    pub socket: OnceLock<PathBuf>,
}

/// What endpoints take it as.
type Desk = FromState<Arc<Admin>>;

/// Where operators come in. None of them blocks.
pub struct Listeners {
    pub tcp: Option<TcpListener>,
    pub socket: Option<Beside>,
}

/// Running listeners; dropped, they stop.
pub struct Listening {
    address: Option<SocketAddr>,
    place: Option<socket::Place>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Serves from a thread of its own. A socket that can't take its place is told in the log.
///
/// # Errors
/// A thread or runtime that cannot be started.
pub fn start(listeners: Listeners, admin: Admin) -> io::Result<Listening> {
    let Listeners { tcp, socket } = listeners;
    let address = tcp.as_ref().map(TcpListener::local_addr).transpose()?;
    let (unix, place) = socket.and_then(take).unzip();
    if let Some(place) = &place {
        // It is the first that is set.
        let _ = admin.socket.set(place.path().to_owned());
    }
    let router = router::router(Arc::new(admin));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                // Both need the runtime to be made.
                let tcp = tcp.map(tokio::net::TcpListener::from_std).transpose();
                let unix = unix.map(tokio::net::UnixListener::from_std).transpose();
                let (tcp, unix) = match (tcp, unix) {
                    (Ok(tcp), Ok(unix)) => (tcp, unix),
                    (Err(error), _) | (_, Err(error)) => {
                        return tracing::error!(%error, "admin listener");
                    }
                };
                if let Some(tcp) = tcp {
                    tokio::spawn(serve::tcp(tcp, router.clone()));
                }
                if let Some(unix) = unix {
                    tokio::spawn(serve::unix(unix, router));
                }
                // Its sender is dropped, not used.
                let _ = stopped.await;
            });
        })?;
    Ok(Listening {
        address,
        place,
        stop: Some(stop),
        thread: Some(thread),
    })
}

fn take(socket: Beside) -> Option<(std::os::unix::net::UnixListener, socket::Place)> {
    match socket.take() {
        Ok(taken) => Some(taken),
        Err(error) => {
            tracing::error!(%error, "the admin socket can't take its place");
            None
        }
    }
}

impl Listening {
    /// The address bound, with the port that was found for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.place.take());
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, that was told.
            let _ = thread.join();
        }
    }
}

/// `POST /test/advance?ms=11000`, in debug builds only: tests turn the clock instead of waiting.
#[cfg(debug_assertions)]
async fn turn_clock(gate::Asking(turn): gate::Asking<Turn>) -> axum::Json<serde_json::Value> {
    crate::clock::advance(std::time::Duration::from_millis(turn.ms.into()));
    let now = crate::clock::now().mono.0;
    axum::Json(serde_json::json!({ "mono_ms": now }))
}

#[cfg(debug_assertions)]
#[derive(serde::Deserialize)]
struct Turn {
    ms: u32,
}

#[cfg(test)]
mod tests;
