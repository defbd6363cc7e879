//! How the process goes: told by a signal, it lets nobody in any more and waits for who is inside. Before that it may
//! hand its sockets over.

use std::net::{SocketAddr, TcpListener};
use std::panic;
use std::sync::Arc;
use std::thread;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_blocking;

use super::handover;
use crate::admin::{Health, Listening};
use crate::clock;
use crate::config::live::{By, Live};
use crate::front::InForce;
use crate::front::door::Doors;
use crate::front::watch::SWEEP;

/// What people come in by.
pub struct Entrance {
    /// Copies of all listeners, for a successor.
    pub sockets: Vec<TcpListener>,
    pub doors: Arc<Doors>,
}

/// Why the process goes.
enum Why {
    Told,
    /// Its successor serves.
    Succeeded,
}

/// Hears the process's signals from before anybody can be let in.
pub struct Leave {
    runtime: Runtime,
    signals: Signals,
}

impl Leave {
    /// # Errors
    /// No thread can be had, or signals cannot be heard; for people.
    pub fn prepare() -> Result<Leave, String> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        let entered = runtime.enter();
        let signals = Signals::new().map_err(|e| format!("cannot hear signals: {e}"))?;
        drop(entered);
        Ok(Leave { runtime, signals })
    }

    /// Waits for `wait`, which blocks, unless told to stop.
    ///
    /// # Errors
    /// Its own, or that the process was told to stop; for people.
    pub fn unless_told<T: Send + 'static>(
        mut self,
        wait: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<(Leave, T), String> {
        let signals = &mut self.signals;
        let waited = self.runtime.block_on(async {
            tokio::select! {
                waited = spawn_blocking(wait) => waited.unwrap_or_else(|e| Err(e.to_string())),
                () = signals.stop() => Err("told to stop".to_owned()),
            }
        });
        match waited {
            Ok(waited) => Ok((self, waited)),
            Err(why) => {
                // The thread that waits is not waited for.
                self.runtime.shutdown_background();
                Err(why)
            }
        }
    }

    /// Runs `server` until SIGTERM or SIGINT, or until SIGQUIT and a successor that serves: not ready from then on, the
    /// listeners close, connections are closed after their next answer or when they ask for nothing. A second signal
    /// doesn't wait for them, nor does the end of `drain`. `begun` ends when the process serves, with the operators' listener.
    ///
    /// # Errors
    /// No thread can be had, the engine has stopped by itself, or `begun` has failed; for people.
    pub fn when_told(
        self,
        server: Server,
        in_force: &InForce,
        live: &Arc<Live>,
        health: &Health,
        entrance: Entrance,
        begun: impl Future<Output = Result<Option<Listening>, String>>,
    ) -> Result<(), String> {
        let Leave { runtime, signals } = self;
        let (stop, stopped) = oneshot::channel();
        let (running, ended) = oneshot::channel::<()>();
        let panicked = told_of_panics();
        thread::Builder::new()
            .name(ENGINE.into())
            .spawn(move || {
                // Dropped with the engine, however it ends.
                let _running = running;
                server.run(RunArgs {
                    shutdown_signal: Box::new(Told(Mutex::new(Some(stopped)))),
                });
            })
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        let served = runtime.block_on(async {
            tokio::select! {
                served = drain_when_told(signals, stop, in_force, live, health, entrance, begun) => served,
                _ = ended => Err("the engine has stopped".to_owned()),
                () = panicked.notified() => Err("the engine has panicked".to_owned()),
            }
        });
        let site = in_force.load_full();
        site.limits.leave();
        site.fleet.leave();
        // A thread that still waits for a successor is not waited for.
        runtime.shutdown_background();
        served
    }
}

async fn drain_when_told(
    mut signals: Signals,
    stop: oneshot::Sender<()>,
    in_force: &InForce,
    live: &Arc<Live>,
    health: &Health,
    entrance: Entrance,
    begun: impl Future<Output = Result<Option<Listening>, String>>,
) -> Result<(), String> {
    let Entrance { sockets, doors } = entrance;
    let address = in_force.load().policy.listen.address;
    let begun = tokio::select! {
        begun = begun => begun,
        () = signals.stop() => Err("told to stop before it served".to_owned()),
    };
    let (mut admin, failed) = match begun {
        Ok(admin) => (admin, None),
        // Some may have been let in all the same.
        Err(why) => (None, Some(why)),
    };
    let why = match failed {
        None => signals.until_told(live, address, &sockets).await,
        Some(_) => Why::Told,
    };
    tracing::info!("draining");
    let site = in_force.load_full();
    health.drain();
    drop(sockets);
    // Its place is the successor's, or the next process's.
    let snapshot = Arc::clone(&site.fetcher.snapshot);
    let left = spawn_blocking(move || snapshot.leave());
    if matches!(why, Why::Succeeded) {
        // Operators ask the successor from now on.
        admin.take();
    }
    drop(stop);
    site.watch.drain();
    let idle = async {
        while !doors.are_shut() || site.guests.open() > 0 {
            tokio::time::sleep(SWEEP).await;
        }
    };
    tokio::select! {
        () = idle => {}
        () = tokio::time::sleep(site.policy.listen.drain) => tracing::warn!("requests were still in flight"),
        () = signals.stop() => tracing::warn!("told twice: requests were still in flight"),
    }
    // It has a bound of its own.
    let _ = left.await;
    failed.map_or(Ok(()), Err)
}

const ENGINE: &str = "engine";

/// Notified when the engine's own thread panics, as it does where the system has no more threads for it. Unwinding then
/// waits for ever for those it has, and nothing else would tell. Panics of workers end there.
fn told_of_panics() -> Arc<Notify> {
    let panicked = Arc::new(Notify::new());
    let tell = Arc::clone(&panicked);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |about| {
        before(about);
        if thread::current().name() == Some(ENGINE) {
            tell.notify_one();
        }
    }));
    panicked
}

/// What the engine hears: it closes its listeners, and goes on with what is under way as long as the process lives.
struct Told(Mutex<Option<oneshot::Receiver<()>>>);

#[async_trait]
impl ShutdownSignalWatch for Told {
    async fn recv(&self) -> ShutdownSignal {
        let stopped = self.0.lock().take();
        if let Some(stopped) = stopped {
            // Its sender is dropped, not used.
            let _ = stopped.await;
        }
        ShutdownSignal::GracefulTerminate
    }
}

/// The signals this process hears.
struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    async fn until_told(
        &mut self,
        live: &Arc<Live>,
        public: SocketAddr,
        sockets: &[TcpListener],
    ) -> Why {
        let reloading = Reloading::new(live);
        loop {
            tokio::select! {
                _ = self.term.recv() => return Why::Told,
                _ = self.int.recv() => return Why::Told,
                _ = self.hup.recv() => {
                    reloading.asked();
                    continue;
                }
                _ = self.quit.recv() => {}
            }
            tracing::info!("handing over to a successor");
            let handed = tokio::select! {
                handed = hand_over(public, sockets) => handed,
                () = self.stop() => return Why::Told,
            };
            match handed {
                Ok(()) => return Why::Succeeded,
                Err(why) => {
                    tracing::error!("nothing was handed over, this process serves on: {why}")
                }
            }
        }
    }
}

/// Reads the config anew when it is asked to, one time after the other, however often it was asked meanwhile.
struct Reloading(Arc<Notify>);

impl Reloading {
    fn new(live: &Arc<Live>) -> Reloading {
        let (asked, live) = (Arc::new(Notify::new()), Arc::clone(live));
        let told = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                told.notified().await;
                let live = Arc::clone(&live);
                let read = move || live.reload(By::new("SIGHUP", ""), clock::now());
                // What comes of it is logged and counted there.
                let _ = spawn_blocking(read).await;
            }
        });
        Reloading(asked)
    }

    fn asked(&self) {
        self.0.notify_one();
    }
}

async fn hand_over(public: SocketAddr, sockets: &[TcpListener]) -> Result<(), String> {
    let copies: Result<Vec<_>, _> = sockets.iter().map(TcpListener::try_clone).collect();
    let copies = copies.map_err(|e| e.to_string())?;
    spawn_blocking(move || handover::hand_over(public, &copies))
        .await
        .unwrap_or_else(|e| Err(e.to_string()))
}
