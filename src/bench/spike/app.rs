//! The origin of a scenario: an app with so many workers, which becomes slower with what it has in hand, refuses what is too much, and can be made
//! ill in several ways. Every body it sends is [stamped](super::stamp), and it counts what reached it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::scenario::{Kind, Origin, Scenario, Spread, What};
use super::stamp::Stamp;
use super::visits::Site;
use crate::bench::schedule::Random;
use crate::bench::timer::Timer;
use crate::clock;
use crate::rules::date;

const BACKLOG: u32 = 4096;
const MOST_HEAD: usize = 32 << 10;
/// The cookie that says whose a private page is.
pub const COOKIE: &str = "session=user-";

/// Where it tells, at once, that it is there.
const HEALTH: &str = "/healthz";

/// A running app on 127.0.0.1, with a thread of its own; it ends when dropped. Its methods wait for that thread: call them from no
/// runtime.
pub struct App {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Kill(oneshot::Sender<()>),
    Revive(oneshot::Sender<io::Result<()>>),
}

struct Shared {
    plan: Origin,
    pages: Vec<Served>,
    site: Site,
    workers: Semaphore,
    in_hand: AtomicUsize,
    /// Of all pages: it counts up with each purge.
    version: AtomicU32,
    mood: Mutex<Mood>,
    random: Mutex<Random>,
    seen: Seen,
    fetched: Vec<AtomicU64>,
    /// Since when it is warm, nearly.
    came_up: Mutex<Instant>,
    ends: AtomicBool,
}

/// What is at each page's path, by the scenario's groups.
struct Served {
    size: u64,
    takes: f64,
    control: String,
}

#[derive(Clone, Copy)]
struct Mood {
    slower: f64,
    fails: f64,
    resets: bool,
    hangs: bool,
}

const WELL: Mood = Mood {
    slower: 1.0,
    fails: 0.0,
    resets: false,
    hangs: false,
};

/// What it counts.
#[derive(Default)]
struct Seen {
    fetches: AtomicU64,
    peak: AtomicUsize,
    failed: AtomicU64,
    wasted: AtomicU64,
    /// Nanoseconds that requests have spent in it, and when that was added up last.
    spent: Mutex<(u128, Option<Instant>)>,
}

/// What it has counted until a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub fetches: u64,
    pub pages: u64,
    pub peak: usize,
    pub failed: u64,
    pub wasted: u64,
    pub in_flight: usize,
    /// Seconds that requests have spent in it, all together.
    pub spent: f64,
}

impl App {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(scenario: &Scenario, site: Site, seed: u64) -> io::Result<App> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = runtime.block_on(async { listen((Ipv4Addr::LOCALHOST, 0).into()) })?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            pages: scenario.pages.iter().map(served).collect(),
            fetched: site.pages.iter().map(|_| AtomicU64::new(0)).collect(),
            workers: Semaphore::new(scenario.origin.at_once),
            plan: scenario.origin.clone(),
            site,
            in_hand: AtomicUsize::new(0),
            version: AtomicU32::new(1),
            mood: Mutex::new(WELL),
            random: Mutex::new(Random::new(seed ^ 0x0419)),
            seen: Seen::default(),
            came_up: Mutex::new(clock::instant()),
            ends: AtomicBool::new(false),
        });
        let (orders, received) = mpsc::unbounded_channel();
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("bench-app".to_owned())
            .spawn(move || runtime.block_on(live(listener, address, its, received)))?;
        Ok(App {
            address,
            shared,
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Something happens to it.
    ///
    /// # Errors
    /// Its port is somebody else's now.
    pub fn meet(&self, what: What) -> io::Result<()> {
        match what {
            What::Dead => self.order(Order::Kill)?,
            What::Back => {
                *self.shared.mood.lock() = WELL;
                self.order(Order::Revive)??;
            }
            What::Slow { times } => self.shared.mood.lock().slower = times,
            What::Errors { share } => self.shared.mood.lock().fails = share,
            What::Reset => self.shared.mood.lock().resets = true,
            What::Hang => self.shared.mood.lock().hangs = true,
            What::Purge => {
                self.shared.version.fetch_add(1, Relaxed);
            }
            What::Restart => {}
        }
        Ok(())
    }

    /// The version of its pages now.
    pub fn version(&self) -> u32 {
        self.shared.version.load(Relaxed)
    }

    pub fn counts(&self) -> Counts {
        let (shared, seen) = (&self.shared, &self.shared.seen);
        let in_flight = shared.in_hand.load(Relaxed);
        let fetched = shared.fetched.iter();
        Counts {
            fetches: seen.fetches.load(Relaxed),
            pages: fetched.filter(|count| count.load(Relaxed) > 0).count() as u64,
            peak: seen.peak.load(Relaxed),
            failed: seen.failed.load(Relaxed),
            wasted: seen.wasted.load(Relaxed),
            in_flight,
            spent: shared.spend(in_flight) as f64 / 1e9,
        }
    }

    /// Forgets what it has counted until now: that was to warm up.
    pub fn forget(&self) {
        let (shared, seen) = (&self.shared, &self.shared.seen);
        shared
            .fetched
            .iter()
            .for_each(|count| count.store(0, Relaxed));
        for count in [&seen.fetches, &seen.failed, &seen.wasted] {
            count.store(0, Relaxed);
        }
        seen.peak.store(shared.in_hand.load(Relaxed), Relaxed);
        *seen.spent.lock() = (0, None);
    }

    fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> io::Result<T> {
        let (done, wait) = oneshot::channel();
        if let Some(orders) = &self.orders {
            // The thread ends only with this.
            let _ = orders.send(order(done));
        }
        wait.blocking_recv().map_err(io::Error::other)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.shared.ends.store(true, Relaxed);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been told on stderr.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Adds up what was spent since the last time, with `in_hand` requests.
    fn spend(&self, in_hand: usize) -> u128 {
        let now = clock::instant();
        let mut spent = self.seen.spent.lock();
        let since = spent.1.replace(now);
        let passed = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        spent.0 += passed.as_nanos() * in_hand as u128;
        spent.0
    }

    fn enters(&self) -> usize {
        let before = self.in_hand.fetch_add(1, Relaxed);
        self.spend(before);
        self.seen.peak.fetch_max(before + 1, Relaxed);
        before + 1
    }

    fn leaves(&self) {
        let before = self.in_hand.fetch_sub(1, Relaxed);
        self.spend(before);
    }

    /// How long it works on a request, with so many in hand.
    fn takes(&self, group: usize, in_hand: usize) -> Duration {
        let plan = &self.plan;
        let times = {
            let mut random = self.random.lock();
            match plan.spread {
                Spread::Fixed => 1.0,
                Spread::Exponential => -(1.0 - random.share()).ln(),
                Spread::Lognormal => lognormal(&mut random),
            }
        };
        let over = (in_hand as f64 / plan.at_once as f64 - 1.0).max(0.0);
        let up = clock::instant().saturating_duration_since(*self.came_up.lock());
        let cold = match plan.cold_for.is_zero() {
            true => 0.0,
            false => (1.0 - up.as_secs_f64() / plan.cold_for.as_secs_f64()).max(0.0),
        };
        let slower = self.mood.lock().slower
            * (1.0 + plan.degrades * over)
            * (1.0 + (plan.cold_times - 1.0) * cold);
        let takes = self.pages.get(group).map_or(1.0, |pages| pages.takes);
        plan.takes.mul_f64((takes * times * slower).clamp(0.0, 1e4))
    }
}

/// With a mean of 1, and a standard deviation of a third (Box and Muller, 1958).
fn lognormal(random: &mut Random) -> f64 {
    const SIGMA: f64 = 0.325;
    let (one, other) = (1.0 - random.share(), random.share());
    let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
    (SIGMA * normal - SIGMA * SIGMA / 2.0).exp()
}

fn served(pages: &super::scenario::Pages) -> Served {
    let seconds = |time: Duration| time.as_secs();
    let control = match pages.kind {
        Kind::Public => format!(
            "max-age={}, stale-while-revalidate={}, stale-if-error={}",
            seconds(pages.ttl),
            seconds(pages.swr),
            seconds(pages.sie)
        ),
        Kind::Private => "private".to_owned(),
        Kind::Uncacheable => "no-store".to_owned(),
    };
    Served {
        size: pages.size,
        takes: pages.takes,
        control,
    }
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
    shared: Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Out of descriptors, most likely: the others' end makes room.
            Ok((stream, _)) = accepted => {
                connections.spawn(converse(stream, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
            order = orders.recv() => match order {
                None => return,
                Some(Order::Kill(done)) => {
                    listener = None;
                    connections.shutdown().await;
                    // Who asked may have gone.
                    let _ = done.send(());
                }
                Some(Order::Revive(done)) => {
                    let back = match listener {
                        Some(_) => Ok(()),
                        None => listen(address).map(|new| {
                            listener = Some(new);
                            *shared.came_up.lock() = clock::instant();
                        }),
                    };
                    let _ = done.send(back);
                }
            },
        }
    }
}

/// A request in hand; dropped, it has left.
struct InHand<'a>(&'a Shared);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.leaves();
    }
}

/// Requests without bodies on one connection, one after the other.
async fn converse(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::with_capacity(4096);
    let Ok(mut timer) = Timer::new() else {
        return;
    };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    while let Some(request) = read(&mut stream, &mut buffer).await {
        let closes = request.closes;
        let Some(answer) = answer(&mut stream, &shared, &mut timer, request).await else {
            return;
        };
        if stream.write_all(&answer).await.is_err() || closes {
            return;
        }
    }
}

/// None: the connection ends.
async fn answer(
    stream: &mut TcpStream,
    shared: &Shared,
    timer: &mut Timer,
    request: Request,
) -> Option<Vec<u8>> {
    let (seen, mood) = (&shared.seen, *shared.mood.lock());
    if request.path == HEALTH && !mood.resets && !mood.hangs {
        return Some(plain(200, "well\n", request.bodiless));
    }
    seen.fetches.fetch_add(1, Relaxed);
    let in_hand = shared.enters();
    let _in_hand = InHand(shared);
    let Some(page) = shared.site.find(&request.path) else {
        return Some(plain(404, "there is no such page\n", request.bodiless));
    };
    shared.fetched[page].fetch_add(1, Relaxed);
    if mood.resets {
        seen.failed.fetch_add(1, Relaxed);
        // What can't be set just closes.
        let _ = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
        return None;
    }
    if mood.hangs {
        seen.failed.fetch_add(1, Relaxed);
        return std::future::pending().await;
    }
    if in_hand > shared.plan.most {
        seen.failed.fetch_add(1, Relaxed);
        return Some(plain(503, "too much\n", request.bodiless));
    }
    let worker = shared.workers.acquire().await.ok()?;
    let group = shared.site.pages[page].group;
    let takes = shared.takes(group, in_hand);
    timer.until(clock::instant() + takes).await.ok()?;
    drop(worker);
    let mut byte = [0];
    let has_gone =
        !matches!(stream.try_read(&mut byte), Err(why) if why.kind() == io::ErrorKind::WouldBlock);
    if has_gone {
        seen.wasted.fetch_add(1, Relaxed);
        return None;
    }
    if mood.fails > 0.0 && shared.random.lock().share() < mood.fails {
        seen.failed.fetch_add(1, Relaxed);
        return Some(plain(500, "it broke\n", request.bodiless));
    }
    let served = &shared.pages[group];
    let user = request
        .user
        .filter(|_| shared.site.pages[page].kind == Kind::Private);
    let now = clock::now();
    let stamp = Stamp {
        page: page as u32,
        user,
        version: shared.version.load(Relaxed),
        made: clock::wall_millis(now.mono),
        len: served.size,
    };
    let body = stamp.body();
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nDate: {}\r\nContent-Type: text/plain\r\nCache-Control: {}\r\nContent-Length: {}\r\n\r\n",
        String::from_utf8_lossy(&date::format(now.wall)),
        served.control,
        body.len()
    )
    .into_bytes();
    if !request.bodiless {
        answer.extend_from_slice(&body);
    }
    Some(answer)
}

fn plain(status: u16, text: &str, bodiless: bool) -> Vec<u8> {
    let date = date::format(clock::now().wall);
    let head = format!(
        "HTTP/1.1 {status} Told\r\nDate: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        String::from_utf8_lossy(&date),
        text.len()
    );
    match bodiless {
        true => head.into_bytes(),
        false => (head + text).into_bytes(),
    }
}

struct Request {
    path: String,
    user: Option<u32>,
    bodiless: bool,
    closes: bool,
}

/// None if there is no more, or nothing that is known here.
async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            let head = std::str::from_utf8(&buffer[..end]).ok()?;
            let mut words = head.split(' ');
            let method = words
                .next()
                .filter(|method| matches!(*method, "GET" | "HEAD"))?;
            let target = words.next()?;
            let request = Request {
                path: target.to_owned(),
                user: head.lines().find_map(user),
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

fn user(line: &str) -> Option<u32> {
    let (name, value) = line.split_once(':')?;
    if !name.eq_ignore_ascii_case("cookie") {
        return None;
    }
    let (_, rest) = value.split_once(COOKIE)?;
    rest.split(';').next()?.trim().parse().ok()
}
