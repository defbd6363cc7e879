//! The app, the proxy in front of it, and what the tests ask of both.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use super::Outcome;
use super::client::{Answer, Exchange, PATIENCE};
use crate::harness::proxy::NO_STATE;

/// Whether the app's answers carry Date. Where a test turns the proxy's clock forward they must not: the app's
/// clock stays behind, and its answers would look that much older.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dates {
    Sent,
    Left,
}

/// The app and the proxy in front of it.
pub struct Site {
    app: SocketAddr,
    pub proxy: SocketAddr,
    admin: SocketAddr,
    _app: Running,
    _proxy: Running,
}

impl Site {
    pub fn start(flags: &[&str], dates: Dates) -> Result<Site, String> {
        let (app, app_process) = start_app(dates)?;
        // Another process may take a port between its choice and its use: then once more.
        let mut last = String::new();
        for _ in 0..3 {
            match start_proxy(app, flags) {
                Ok((proxy, admin, proxy_process)) => {
                    return Ok(Site {
                        app,
                        proxy,
                        admin,
                        _app: app_process,
                        _proxy: proxy_process,
                    });
                }
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    pub fn get(&self, path: &str, fields: &str) -> Result<Answer, String> {
        self.ask("GET", path, fields, b"")
    }

    pub fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> Result<Answer, String> {
        self.open(method, path, fields, body)?.whole()
    }

    pub fn open(
        &self,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> Result<Exchange, String> {
        Exchange::open(self.proxy, method, path, fields, body)
    }

    /// Asks the app itself.
    pub fn app(&self, method: &str, path: &str) -> Result<Answer, String> {
        Exchange::open(self.app, method, path, "", b"")?.whole()
    }

    /// Signs in through the proxy; the cookie line to send from then on.
    pub fn login(&self, user: &str) -> Result<String, String> {
        let answer = self.ask("POST", &format!("/login/{user}"), "", b"")?;
        let cookie = answer
            .is(303)?
            .field("set-cookie")
            .ok_or("login set no cookie")?;
        let pair = cookie.split(';').next().unwrap_or_default();
        Ok(format!("Cookie: {pair}\r\n"))
    }

    /// How often the app has answered `what`, such as `GET /`.
    pub fn count(&self, what: &str) -> Result<u64, String> {
        let answer = self.app("GET", "/__hits")?;
        let counts: serde_json::Value =
            serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        Ok(counts[what].as_u64().unwrap_or(0))
    }

    pub fn asked(&self, what: &str, times: u64) -> Outcome {
        equal(
            &format!("how often the app answered {what}"),
            &self.count(what)?,
            &times,
        )
    }

    pub fn eventually_asked(&self, what: &str, times: u64) -> Outcome {
        eventually(
            &format!("the app has answered {what} {times} times"),
            || Ok((self.count(what)? >= times).then_some(())),
        )?;
        self.asked(what, times)
    }

    /// Turns the proxy's clock; debug builds can.
    pub fn advance(&self, by: Duration) -> Outcome {
        let path = format!("/test/advance?ms={}", by.as_millis());
        let answer = Exchange::open(self.admin, "POST", &path, "", b"")?.whole()?;
        match answer.status {
            200..=299 => Ok(()),
            status => Err(format!(
                "the proxy's clock cannot be turned ({status}): is it a debug build?"
            )),
        }
    }
}

/// uvicorn on a listener that is bound here, so that no port can be lost and early visitors wait in its queue.
fn start_app(dates: Dates) -> Result<(SocketAddr, Running), String> {
    let uvicorn = venv().join("bin/uvicorn");
    if !uvicorn.exists() {
        return Err(format!(
            "{} is missing: `make venv` prepares it",
            uvicorn.display()
        ));
    }
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let mut command = Command::new(uvicorn);
    command
        .args([
            "app:app",
            "--fd",
            "0",
            "--log-level",
            "warning",
            "--no-access-log",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/fastapi-blog"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    if dates == Dates::Left {
        command.arg("--no-date-header");
    }
    let mut process = Running::spawn("uvicorn", command)?;
    process.answers(address, "/__hits")?;
    Ok((address, process))
}

fn start_proxy(
    app: SocketAddr,
    flags: &[&str],
) -> Result<(SocketAddr, SocketAddr, Running), String> {
    let (proxy, admin) = free_ports().map_err(|error| error.to_string())?;
    let binary = std::env::var_os("TIDEGATE_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_tidegate").into(), PathBuf::from);
    let mut command = Command::new(binary);
    command
        .args(["run", "--origin", &format!("http://{app}")])
        .args([
            "--listen",
            &proxy.to_string(),
            "--admin",
            &admin.to_string(),
        ])
        .args(flags)
        .env(NO_STATE.0, NO_STATE.1)
        .stdin(Stdio::null());
    let mut process = Running::spawn("tidegate", command)?;
    process.answers(admin, "/readyz")?;
    process.answers(proxy, "/__hits")?;
    Ok((proxy, admin, process))
}

fn free_ports() -> std::io::Result<(SocketAddr, SocketAddr)> {
    let (one, two) = (
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
    );
    Ok((one.local_addr()?, two.local_addr()?))
}

/// The Python that `make venv` prepares.
pub fn venv() -> PathBuf {
    match std::env::var_os("TIDEGATE_VENV") {
        Some(path) => path.into(),
        // The target directory's tmp/ is cargo's, venv/ beside it is the Makefile's.
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("venv"),
    }
}

/// A process that ends with the test, its standard output and error kept for the report.
struct Running {
    name: &'static str,
    child: Child,
    said: File,
}

impl Running {
    fn spawn(name: &'static str, mut command: Command) -> Result<Running, String> {
        let kept = || -> std::io::Result<(File, File, File)> {
            let file = tempfile::tempfile()?;
            Ok((file.try_clone()?, file.try_clone()?, file))
        };
        let (out, err, said) = kept().map_err(|error| error.to_string())?;
        let child = command
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        Ok(Running { name, child, said })
    }

    /// Waits until `address` answers 200, or the process has ended.
    fn answers(&mut self, address: SocketAddr, path: &str) -> Outcome {
        let name = self.name;
        let ready = eventually(&format!("{name} answers {path}"), || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{name} ended: {status}"));
            }
            let answer = Exchange::open(address, "GET", path, "", b"").and_then(Exchange::whole);
            Ok(answer
                .is_ok_and(|answer| answer.status == 200)
                .then_some(()))
        });
        ready.map_err(|why| format!("{why}\n{}", self.last_words()))
    }

    fn last_words(&mut self) -> String {
        let mut text = String::new();
        let _ = self
            .said
            .rewind()
            .and_then(|()| self.said.read_to_string(&mut text));
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until `look` finds something, 30 seconds at most.
pub fn eventually<T>(
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let pause = Duration::from_millis(10);
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        if let Some(found) = look()? {
            return Ok(found);
        }
        thread::sleep(pause);
    }
    Err(format!("waited in vain: {what}"))
}

/// So many visitors at the same moment; the first complaint is the outcome.
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
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("panicked".into())))
    })
}

pub fn equal<T: PartialEq + std::fmt::Debug + ?Sized>(
    what: &str,
    is: &T,
    should_be: &T,
) -> Outcome {
    if is == should_be {
        Ok(())
    } else {
        Err(format!("{what}: {is:?}, should be {should_be:?}"))
    }
}
