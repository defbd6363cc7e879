//! How the process goes: told by a signal, it lets nobody in any more and waits for who is inside.

use std::panic;
use std::sync::Arc;
use std::thread;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use crate::admin::Health;
use crate::front::Site;
use crate::front::watch::SWEEP;

/// Runs `server` until SIGTERM or SIGINT: not ready from then on, the listeners close, idle connections are closed, the
/// others after the answer they wait for. A second signal doesn't wait for them, nor does the end of `drain`.
///
/// # Errors
/// No thread can be had, or the engine has stopped by itself; for people.
pub fn run_until_told(server: Server, site: &Arc<Site>, health: &Health) -> Result<(), String> {
    let told = |e: std::io::Error| format!("cannot start a thread: {e}");
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(told)?;
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
        .map_err(told)?;
    runtime.block_on(async {
        tokio::select! {
            () = stop_signal() => {}
            _ = ended => return Err("the engine has stopped".to_owned()),
            () = panicked.notified() => return Err("the engine has panicked".to_owned()),
        }
        tracing::info!("draining");
        health.drain();
        drop(stop);
        site.watch.drain();
        let idle = async {
            loop {
                // Whoever was let in last is counted by then.
                tokio::time::sleep(SWEEP).await;
                if site.guests.open() == 0 {
                    return;
                }
            }
        };
        let patience = site.policy.load().listen.drain;
        tokio::select! {
            () = idle => {}
            () = tokio::time::sleep(patience) => tracing::warn!("requests were still in flight"),
            () = stop_signal() => tracing::warn!("told twice: requests were still in flight"),
        }
        Ok(())
    })
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

async fn stop_signal() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without handlers the signals' default action ends the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
