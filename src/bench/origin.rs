//! An origin of known capacity: it works on so many requests at once, so long on each, whatever is asked of it, like an app
//! with a pool of workers. What comes on top waits in its backlog, first come, first served. It can be killed and brought
//! back, slowed and made to flap while it runs, and keeps the truth in a [`Ledger`].
//!
//! Like most apps it does not notice that somebody has gone until it has done the work.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::ledger::{Fate, Ledger};
use super::timer::Timer;
use crate::clock;
use crate::rules::date;

const BACKLOG: u32 = 4096;
const MOST_HEAD: usize = 32 << 10;

/// What the thread of each origin is called.
pub const THREAD: &str = "bench-origin";

/// What an origin can do, and what it answers.
#[derive(Clone)]
pub struct Plan {
    /// Requests it works on at once.
    pub at_once: usize,
    /// How long it works on each.
    pub takes: Duration,
    /// Its number, told in `X-Server`.
    pub server: u8,
    /// What is at a path.
    pub page: fn(&str) -> Page,
}

/// An answer of status 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub len: usize,
    pub cache_control: &'static str,
}

/// A running origin on 127.0.0.1, with a thread of its own; it ends when dropped. Its methods wait for that thread: call them
/// from no runtime.
pub struct Origin {
    pub address: SocketAddr,
    pub ledger: Ledger,
    /// How many times slower than planned, in thousandths.
    slower: Arc<AtomicU64>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Kill(oneshot::Sender<()>),
    Revive(oneshot::Sender<io::Result<()>>),
    Flap(Duration, Duration),
}

impl Origin {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(plan: Plan) -> io::Result<Origin> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = runtime.block_on(async { listen((Ipv4Addr::LOCALHOST, 0).into()) })?;
        let address = listener.local_addr()?;
        let (ledger, slower) = (Ledger::default(), Arc::new(AtomicU64::new(1000)));
        let (orders, received) = mpsc::unbounded_channel();
        let app = App {
            places: Arc::new(Semaphore::new(plan.at_once)),
            plan,
            ledger: ledger.clone(),
            slower: slower.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || runtime.block_on(live(listener, address, Arc::new(app), received)))?;
        Ok(Origin {
            address,
            ledger,
            slower,
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Every connection breaks and nobody listens any more. It also ends flapping.
    pub fn kill(&self) {
        let (done, wait) = oneshot::channel();
        self.order(Order::Kill(done));
        // It has ended otherwise: killed as well.
        let _ = wait.blocking_recv();
    }

    /// It listens again, on the same port. It also ends flapping.
    ///
    /// # Errors
    /// The port is somebody else's now.
    pub fn revive(&self) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.order(Order::Revive(done));
        wait.blocking_recv().map_err(io::Error::other)?
    }

    /// From now on it is up and killed by turns, for so long each; killed first.
    pub fn flap(&self, up: Duration, down: Duration) {
        self.order(Order::Flap(up, down));
    }

    /// What begins from now on takes so many times as long as planned.
    pub fn slow(&self, times: f64) {
        self.slower
            .store((times * 1000.0) as u64, Ordering::Relaxed);
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread ends only with this.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been told on stderr.
            let _ = thread.join();
        }
    }
}

struct App {
    plan: Plan,
    /// First come, first served, as tokio has it.
    places: Arc<Semaphore>,
    ledger: Ledger,
    slower: Arc<AtomicU64>,
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn live(
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut flaps: Option<(Duration, Duration)> = None;
    let mut turns = clock::timer();
    loop {
        tokio::select! {
            accepted = accept(listener.as_ref()) => {
                // Out of descriptors, most likely: the others' end makes room.
                if let Ok((stream, _)) = accepted {
                    connections.spawn(converse(stream, app.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
            order = orders.recv() => match order {
                None => return,
                Some(Order::Kill(done)) => {
                    flaps = None;
                    listener = None;
                    connections.shutdown().await;
                    // Who asked may have gone.
                    let _ = done.send(());
                }
                Some(Order::Revive(done)) => {
                    flaps = None;
                    let _ = done.send(revive(&mut listener, address));
                }
                Some(Order::Flap(up, down)) => {
                    flaps = Some((up, down));
                    turns = clock::timer();
                }
            },
            () = sleep_until(turns), if flaps.is_some() => {
                let (up, down) = flaps.unwrap_or_default();
                if listener.take().is_some() {
                    connections.shutdown().await;
                    turns += down;
                } else {
                    // Its port is taken: the next turn tries again.
                    let _ = revive(&mut listener, address);
                    turns += up;
                }
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn revive(listener: &mut Option<TcpListener>, address: SocketAddr) -> io::Result<()> {
    if listener.is_none() {
        *listener = Some(listen(address)?);
    }
    Ok(())
}

/// Requests without bodies on one connection, one after the other.
async fn converse(mut stream: TcpStream, app: Arc<App>) {
    let mut buffer = Vec::with_capacity(4096);
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut timer = match Timer::new() {
        Ok(timer) => timer,
        Err(error) => return eprintln!("the origin has no timer for a connection: {error}"),
    };
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let entry = app.ledger.arrived(&request.path);
        let Ok(place) = app.places.acquire().await else {
            return;
        };
        entry.begins();
        let slower = app.slower.load(Ordering::Relaxed) as f64 / 1000.0;
        let takes = app.plan.takes.mul_f64(slower);
        if timer.until(clock::instant() + takes).await.is_err() {
            return;
        }
        // The worker is free before anybody has read what it did.
        drop(place);
        if has_gone(&stream) {
            entry.ends(Fate::Wasted);
            return;
        }
        entry.ends(Fate::Answered);
        let page = (app.plan.page)(&request.path);
        if stream
            .write_all(&answer(&app.plan, page, request.bodiless))
            .await
            .is_err()
            || request.closes
        {
            return;
        }
    }
}

struct Request {
    path: String,
    bodiless: bool,
    closes: bool,
}

/// None if there is no more, or nothing that is known here.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            let head = str::from_utf8(&buffer[..end]).ok()?;
            let mut words = head.split(' ');
            let method = words
                .next()
                .filter(|method| matches!(*method, "GET" | "HEAD"))?;
            let request = Request {
                path: words.next()?.to_owned(),
                bodiless: method == "HEAD",
                closes: head.lines().any(closes),
            };
            buffer.drain(..end + 4);
            return Some(request);
        }
        if buffer.len() > MOST_HEAD || stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn closes(line: &str) -> bool {
    line.split_once(':').is_some_and(|(name, value)| {
        name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close")
    })
}

fn has_gone(stream: &TcpStream) -> bool {
    let mut byte = [0];
    !matches!(stream.try_read(&mut byte), Err(why) if why.kind() == io::ErrorKind::WouldBlock)
}

fn answer(plan: &Plan, page: Page, bodiless: bool) -> Vec<u8> {
    let date = date::format(clock::now().wall);
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nDate: {}\r\nContent-Type: text/html\r\nX-Server: {}\r\nCache-Control: {}\r\nContent-Length: {}\r\n\r\n",
        str::from_utf8(&date).unwrap_or_default(),
        plan.server,
        page.cache_control,
        page.len
    )
    .into_bytes();
    if !bodiless {
        bytes.resize(bytes.len() + page.len, b'.');
    }
    bytes
}

#[cfg(test)]
mod tests;
