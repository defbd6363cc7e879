//! The real binary, an origin of plain threads behind it, and clients in front. Sockets and the process are the wire
//! harness'.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{env, fs, thread};

use tempfile::TempDir;

use super::Outcome;
use crate::harness::clock;
use crate::harness::proxy::{Proxy, base_config, free_port, lay_over};
use crate::harness::wire::{Body, Conn, Framing, Head, PATIENCE, Piece};

/// A proxy in front of something, in a directory of its own.
pub struct Site {
    pub proxy: Proxy,
    pub address: SocketAddr,
    pub dir: TempDir,
}

impl Site {
    /// `config` is laid over what the wire scripts run with.
    pub fn start(origin: SocketAddr, config: &str) -> Result<Site, String> {
        Site::start_as(&binary(), origin, config)
    }

    /// The same by a program of the test's own, which runs the real one.
    pub fn start_as(program: &Path, origin: SocketAddr, config: &str) -> Result<Site, String> {
        let told = |e: std::io::Error| e.to_string();
        let dir = tempfile::tempdir().map_err(told)?;
        let (address, admin) = (free_port(), free_port());
        let base = base_config(address, admin, origin, dir.path());
        let file = dir.path().join("tidegate.toml");
        fs::write(&file, lay_over(&base, config)?).map_err(told)?;
        let proxy = Proxy::start(program, &file, &[], address, admin)?;
        Ok(Site {
            proxy,
            address,
            dir,
        })
    }

    /// The same by a shell that is told `first` before it becomes the real one, as in `ulimit -n 100; exec`.
    pub fn start_after(first: &str, origin: SocketAddr, config: &str) -> Result<Site, String> {
        let told = |e: std::io::Error| e.to_string();
        let folder = tempfile::tempdir().map_err(told)?;
        let program = folder.path().join("program");
        let script = format!("#!/bin/sh\n{first} {:?} \"$@\"\n", binary());
        fs::write(&program, script).map_err(told)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).map_err(told)?;
        Site::start_as(&program, origin, config)
    }

    /// Another process in the place of this one, which has ended or ends.
    pub fn again(self) -> Result<Site, String> {
        let Site {
            proxy,
            address,
            dir,
        } = self;
        let admin = proxy.admin();
        drop(proxy);
        let config = dir.path().join("tidegate.toml");
        let proxy = Proxy::start(&binary(), &config, &[], address, admin)?;
        // Operators come in last.
        proxy.healthy()?;
        Ok(Site {
            proxy,
            address,
            dir,
        })
    }

    pub fn client(&self) -> Result<Client, String> {
        Client::connect(self.address)
    }

    /// One GET on a connection of its own.
    pub fn get(&self, path: &str, fields: &str) -> Result<Reply, String> {
        self.client()?.get(path, fields)
    }

    /// A metric's sum over all its labels; 0 where it is not there yet.
    pub fn metric(&self, name: &str) -> Result<f64, String> {
        Ok(self.proxy.metric(name, &[])?.unwrap_or(0.0))
    }

    /// Waits until a metric is what it should be.
    pub fn until(&self, name: &str, is: impl Fn(f64) -> bool) -> Outcome {
        let mut last = 0.0;
        let waited = eventually(name, || {
            last = self.metric(name)?;
            Ok(is(last).then_some(()))
        });
        waited.map_err(|why| format!("{why}: {last}"))
    }

    /// The proxy's process id.
    pub fn pid(&self) -> Result<u32, String> {
        let config = self.dir.path().join("tidegate.toml");
        let config = config.to_string_lossy();
        let runs = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*config))
        };
        let entries = fs::read_dir("/proc").map_err(|e| e.to_string())?;
        let mut pids = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(runs).ok_or("the proxy has no process".into())
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    let beside = option_env!("CARGO_BIN_EXE_tidegate").unwrap_or("tidegate");
    env::var_os("TIDEGATE_BIN").map_or_else(|| PathBuf::from(beside), PathBuf::from)
}

/// An answer as a client got it.
pub struct Reply {
    pub status: u16,
    fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says it should.
    pub whole: bool,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.body.len().min(200);
        let body = self.body[..shown].escape_ascii();
        let (status, fields, whole) = (self.status, &self.fields, self.whole);
        write!(
            out,
            "{status} {fields:?} {} bytes: {body} (whole: {whole})",
            self.body.len()
        )
    }
}

impl Reply {
    pub fn field(&self, name: &str) -> &str {
        let named = |(held, _): &&(String, String)| held.eq_ignore_ascii_case(name);
        self.fields
            .iter()
            .find(named)
            .map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whole, and of this status.
    pub fn is(self, status: u16) -> Result<Reply, String> {
        if self.status == status && self.whole {
            Ok(self)
        } else {
            Err(format!("should be a whole {status}: {self:?}"))
        }
    }

    pub fn told(&self, what: &str) -> bool {
        self.field("cache-status").contains(what)
    }
}

/// A connection to the proxy.
pub struct Client {
    conn: Conn,
}

impl Client {
    pub fn connect(to: SocketAddr) -> Result<Client, String> {
        Client::over(TcpStream::connect(to).map_err(|e| format!("connect: {e}"))?)
    }

    pub fn over(stream: TcpStream) -> Result<Client, String> {
        Ok(Client {
            conn: Conn::new(stream, |_| {})?,
        })
    }

    pub fn get(&mut self, path: &str, fields: &str) -> Result<Reply, String> {
        self.ask("GET", path, fields, b"")
    }

    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> Result<Reply, String> {
        self.send(method, path, fields, body)?;
        self.reply(method)
    }

    /// `fields` are whole lines.
    pub fn send(&mut self, method: &str, path: &str, fields: &str, body: &[u8]) -> Outcome {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}{length}\r\n");
        self.raw(&[head.as_bytes(), body].concat())
    }

    pub fn raw(&mut self, bytes: &[u8]) -> Outcome {
        self.conn.write(bytes)
    }

    /// The next answer, however it ends.
    pub fn reply(&mut self, method: &str) -> Result<Reply, String> {
        let (mut reply, mut body) = self.head(method)?;
        reply.whole = loop {
            match self.conn.piece(&mut body, usize::MAX)? {
                Piece::Data(data) => reply.body.extend_from_slice(&data),
                Piece::Whole => break true,
                Piece::Broken(_) => break false,
            }
        };
        Ok(reply)
    }

    /// The next head, and what is to be known of the body.
    pub fn head(&mut self, method: &str) -> Result<(Reply, Body), String> {
        let head = self.conn.head()?.ok_or("the end instead of an answer")?;
        let status = head
            .start
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| format!("not a status line: {}", head.start))?;
        let framing = Framing::of_response(&head, status, method)?;
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        let fields = head
            .fields
            .into_iter()
            .map(|(name, value)| (name, text(value)));
        let reply = Reply {
            status,
            fields: fields.collect(),
            body: Vec::new(),
            whole: false,
        };
        Ok((reply, Body::new(framing)))
    }
}

/// A request as it came to the origin.
pub struct Asked {
    pub method: String,
    pub target: String,
    head: Head,
}

impl Asked {
    pub fn field(&self, name: &str) -> String {
        String::from_utf8_lossy(self.head.one(name).unwrap_or_default()).into_owned()
    }
}

/// An HTTP/1.1 origin, a thread a connection.
pub struct Origin {
    pub address: SocketAddr,
    over: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

/// Answers one request; an error ends the connection.
pub trait Answers: Fn(&Asked, &mut Conn) -> Outcome + Send + Sync + 'static {}
impl<F: Fn(&Asked, &mut Conn) -> Outcome + Send + Sync + 'static> Answers for F {}

impl Origin {
    pub fn start(answers: impl Answers) -> Result<Origin, String> {
        Origin::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), answers)
    }

    /// The same where it is expected.
    pub fn start_at(address: SocketAddr, answers: impl Answers) -> Result<Origin, String> {
        let listener = TcpListener::bind(address).map_err(|e| format!("origin: {e}"))?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let origin = Origin {
            address,
            over: Arc::default(),
            asked: Arc::default(),
        };
        let (over, asked) = (Arc::clone(&origin.over), Arc::clone(&origin.asked));
        let answers = Arc::new(answers);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
                thread::spawn(move || serve(stream, &*answers, &asked));
            }
        });
        Ok(origin)
    }

    /// Requests whose line begins so, as in `GET /page`.
    pub fn asked(&self, line: &str) -> usize {
        let asked = lock(&self.asked);
        let begins =
            |(method, target): &&(String, String)| format!("{method} {target}").starts_with(line);
        asked.iter().filter(begins).count()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, answers: &impl Answers, seen: &Mutex<Vec<(String, String)>>) {
    let Ok(mut conn) = Conn::new(stream, |_| {}) else {
        return;
    };
    // Idle connections are the proxy's to close.
    let _ = conn.patience(PATIENCE * 4);
    while let Ok(Some(asked)) = request(&mut conn) {
        lock(seen).push((asked.method.clone(), asked.target.clone()));
        if answers(&asked, &mut conn).is_err() {
            return;
        }
    }
}

fn request(conn: &mut Conn) -> Result<Option<Asked>, String> {
    let Some(head) = conn.head()? else {
        return Ok(None);
    };
    let mut words = head.start.split(' ').map(str::to_owned);
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut body = Body::new(Framing::of_request(&head)?);
    loop {
        match conn.piece(&mut body, usize::MAX)? {
            Piece::Data(_) => {}
            Piece::Whole => break,
            Piece::Broken(_) => return Err("a request cut short".into()),
        }
    }
    Ok(Some(Asked {
        method,
        target,
        head,
    }))
}

/// A whole answer with a length; `fields` are whole lines.
pub fn answer(conn: &mut Conn, status: u16, fields: &str, body: &[u8]) -> Outcome {
    let head = format!(
        "HTTP/1.1 {status} -\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    );
    conn.write(&[head.as_bytes(), body].concat())
}

/// A door that those who come to it wait at until it is opened.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *lock(&self.open) = true;
        self.opened.notify_all();
    }

    pub fn wait(&self) {
        let open = lock(&self.open);
        let waited = self
            .opened
            .wait_timeout_while(open, PATIENCE * 2, |open| !*open);
        drop(waited);
    }
}

/// Counts those inside, and the most there ever were.
#[derive(Default)]
pub struct Inside {
    now: AtomicUsize,
    most: AtomicUsize,
}

pub struct Visit(Arc<Inside>);

impl Inside {
    pub fn enter(self: &Arc<Self>) -> Visit {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Visit(Arc::clone(self))
    }

    pub fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// So many at the same moment; the first complaint is the outcome.
pub fn crowd(visitors: usize, visit: impl Fn(usize) -> Outcome + Sync) -> Outcome {
    let start = Barrier::new(visitors);
    thread::scope(|scope| {
        let (start, visit) = (&start, &visit);
        let threads: Vec<_> = (0..visitors)
            .map(|visitor| {
                scope.spawn(move || {
                    start.wait();
                    visit(visitor).map_err(|why| format!("visitor {visitor}: {why}"))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let end = thread.join();
            end.unwrap_or_else(|_| Err("a visitor panicked".into()))
        })
    })
}

/// Asks until `look` finds something, as long as the harness has patience.
pub fn eventually<T>(
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let until = clock::now() + PATIENCE * 2;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if clock::now() > until {
            return Err(format!("waited in vain: {what}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should_be: T) -> Outcome {
    if is == should_be {
        Ok(())
    } else {
        Err(format!("{what}: {is:?}, should be {should_be:?}"))
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
