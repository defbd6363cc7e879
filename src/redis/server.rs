//! A Redis of a test's own: a port, a directory, and an end.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::TempDir;

/// Ports below those that the kernel gives to clients, and beside those of other tests' servers.
const PORTS: std::ops::Range<u16> = 31_200..32_700;
const PATIENCE: Duration = Duration::from_secs(20);

pub struct RedisServer {
    pub port: u16,
    args: Vec<String>,
    child: Option<Child>,
    dir: TempDir,
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl RedisServer {
    /// # Panics
    /// Where redis-server can't be started.
    pub fn start(args: &[&str]) -> RedisServer {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let count = PORTS.end - PORTS.start;
        // Several processes test at once.
        let first = (std::process::id() % u32::from(count)) as u16;
        loop {
            let next = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed) * 7);
            let mut server = RedisServer {
                port: PORTS.start + next % count,
                args: args.iter().map(|&arg| arg.to_owned()).collect(),
                child: None,
                dir: tempfile::tempdir().expect("a directory"),
            };
            if server.restart() {
                return server;
            }
        }
    }

    /// Starts it again, on the same port and with nothing in it. False: the port is another's.
    pub fn restart(&mut self) -> bool {
        let port = self.port.to_string();
        let args = self.args.iter().map(|arg| arg.replace("PORT", &port));
        let child = Command::new("redis-server")
            .args(["--port", if self.has_tls() { "0" } else { &port }])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is not installed; make test installs it");
        let child = self.child.insert(child);
        let (mut waited, step) = (Duration::ZERO, Duration::from_millis(5));
        loop {
            if child.try_wait().expect("a process").is_some() {
                return false;
            }
            if std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                // It may be another's that was there before.
                std::thread::sleep(4 * step);
                return child.try_wait().expect("a process").is_none();
            }
            assert!(waited < PATIENCE, "redis-server does not start");
            std::thread::sleep(step);
            waited += step;
        }
    }

    fn has_tls(&self) -> bool {
        self.args.iter().any(|arg| arg == "--tls-port")
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it where it is, or lets it go on.
    pub fn hold(&self, held: bool) {
        use rustix::process::{Pid, Signal, kill_process};
        let signal = if held { Signal::STOP } else { Signal::CONT };
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id() as i32).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    /// Asks it something.
    pub fn ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(("127.0.0.1", self.port))?;
        let mut connection = client.get_connection_with_timeout(PATIENCE)?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection)
    }

    /// The same, as text.
    ///
    /// # Panics
    /// Where it has no such answer.
    pub fn text(&self, words: &[&str]) -> String {
        let value = self.ask(words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
        redis::from_redis_value(value).unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// All keys there are, with their type and the seconds they have left.
    pub fn keys(&self) -> Vec<(String, String, i64)> {
        let keys = self.ask(&["KEYS", "*"]).expect("keys");
        let keys: Vec<String> = redis::from_redis_value(keys).expect("texts");
        let about = |key: String| {
            let kind = self.text(&["TYPE", &key]);
            let left = self.text(&["TTL", &key]).parse().expect("a number");
            (key, kind, left)
        };
        keys.into_iter().map(about).collect()
    }
}

/// Waits for what can only be watched.
///
/// # Errors
/// It did not come about within 20 s.
pub fn until(mut is_so: impl FnMut() -> bool) -> io::Result<()> {
    let (mut waited, step) = (Duration::ZERO, Duration::from_millis(5));
    while !is_so() {
        if waited >= PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(step);
        waited += step;
    }
    Ok(())
}
