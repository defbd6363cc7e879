//! The process under test: its config, its ports, its life, and what it says of itself.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use super::clock;
use super::wire::PATIENCE;

pub struct Proxy {
    child: Mutex<Child>,
    errors: PathBuf,
    admin: SocketAddr,
    state: PathBuf,
}

/// An answer of the admin API.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    /// Status line and fields.
    pub head: String,
    pub body: String,
}

impl Told {
    /// One that came whole.
    pub fn read(answer: &[u8]) -> Result<Told, String> {
        let text = String::from_utf8_lossy(answer);
        let (head, body) = text
            .split_once("\r\n\r\n")
            .ok_or_else(|| format!("no answer: {text}"))?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok(Told {
            status: status.ok_or_else(|| format!("no status: {head}"))?,
            head: head.to_owned(),
            body: body.to_owned(),
        })
    }

    pub fn is(self, status: u16) -> Result<Told, String> {
        match self.status == status {
            true => Ok(self),
            false => Err(format!("should be a {status}: {self:?}")),
        }
    }

    pub fn json(&self) -> Result<serde_json::Value, String> {
        serde_json::from_str(&self.body).map_err(|error| format!("{error}: {}", self.body))
    }

    /// A field's value; empty where there is none.
    pub fn field(&self, name: &str) -> &str {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(held, _)| held.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value.trim())
    }
}

/// An environment in which no state directory can be had, for a proxy that is to leave nothing behind.
pub const NO_STATE: (&str, &str) = ("STATE_DIRECTORY", "/dev/null/state");

/// Ports of one process that tests; others that run beside it have other ones.
const PORTS: u16 = 3_900;

/// The first of this process's ports, and what keeps others from them: the one before it, taken.
static OWN: LazyLock<(TcpListener, u16)> = LazyLock::new(|| {
    let ranges = (11_000..31_000).step_by(usize::from(PORTS) + 1);
    let free = |first| {
        Some((
            TcpListener::bind((Ipv4Addr::LOCALHOST, first)).ok()?,
            first + 1,
        ))
    };
    ranges
        .into_iter()
        .find_map(free)
        .expect("no range of ports is free")
});

/// A port below the range that the kernel gives to clients, so that nobody takes it before its owner comes.
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = OWN.1 + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Not by binding it: a process that is being started would hold that for a moment longer, and its owner find it taken.
        if TcpStream::connect(address).is_err() {
            return address;
        }
    }
}

/// What every script's proxy runs with, before its own `config` section is laid over it. Stale-on-slow waits so long that
/// a busy machine does not bring it on; scripts about it set their own.
pub fn base_config(
    listen: SocketAddr,
    admin: SocketAddr,
    origin: SocketAddr,
    dir: &Path,
) -> String {
    format!(
        "[listen]\naddress = \"{listen}\"\nthreads = 2\n\
         [admin]\naddress = \"{admin}\"\n\
         [state]\ndir = \"{0}/state\"\n\
         [log]\naccess = \"{0}/access.log\"\n\
         [[upstream]]\nservers = [\"http://{origin}\"]\n\
         [[route]]\nserve_stale_after = \"3s\"\n",
        dir.display()
    )
}

/// Lays one config over another: tables key by key, arrays of tables one by one, all else replaced.
pub fn lay_over(base: &str, fragment: &str) -> Result<String, String> {
    let mut base: toml::Table = toml::from_str(base).map_err(|error| error.to_string())?;
    let fragment: toml::Table =
        toml::from_str(fragment).map_err(|error| format!("config: {error}"))?;
    merge(&mut base, fragment);
    toml::to_string(&base).map_err(|error| error.to_string())
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (Some(toml::Value::Array(base)), toml::Value::Array(over))
                if over.iter().chain(&*base).all(toml::Value::is_table) =>
            {
                for (index, value) in over.into_iter().enumerate() {
                    match (base.get_mut(index), value) {
                        (Some(toml::Value::Table(base)), toml::Value::Table(over)) => {
                            merge(base, over)
                        }
                        (_, value) => base.push(value),
                    }
                }
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

impl Proxy {
    /// Starts `tidegate run -c CONFIG FLAGS…` and waits until both listeners answer.
    pub fn start(
        bin: &Path,
        config: &Path,
        flags: &[String],
        listen: SocketAddr,
        admin: SocketAddr,
    ) -> Result<Proxy, String> {
        let dir = config.parent().unwrap_or(Path::new("."));
        let (errors, state) = (dir.join("stderr"), dir.join("state"));
        let file = |path: &Path| File::create(path).map_err(|error| error.to_string());
        let child = Command::new(bin)
            .args(["run", "-c"])
            .arg(config)
            .args(flags)
            // For configs that don't say where.
            .env("STATE_DIRECTORY", &state)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file(&dir.join("stdout"))?)
            .stderr(file(&errors)?)
            .spawn()
            .map_err(|error| format!("{}: {error}", bin.display()))?;
        let proxy = Proxy {
            child: Mutex::new(child),
            errors,
            admin,
            state,
        };
        let deadline = clock::now() + PATIENCE * 2;
        for address in [admin, listen] {
            while TcpStream::connect(address).is_err() {
                proxy.alive()?;
                if clock::now() > deadline {
                    return Err(format!("nobody listens on {address}\n{}", proxy.said()));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(proxy)
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// A file of its state directory.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// The token that it has made for itself.
    pub fn token(&self) -> Result<String, String> {
        let path = self.state("token");
        let token =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(token.trim_end().to_owned())
    }

    /// Asks the admin API over TCP, with the token. A body is JSON.
    pub fn api(&self, method: &str, target: &str, body: &str) -> Result<Told, String> {
        let token = self.token()?;
        let kind = match body.is_empty() {
            true => "",
            false => "Content-Type: application/json\r\n",
        };
        let fields = format!("Authorization: Bearer {token}\r\n{kind}");
        self.api_with(method, target, &fields, body)
    }

    /// The same with fields of the test's own, as whole lines.
    pub fn api_with(
        &self,
        method: &str,
        target: &str,
        fields: &str,
        body: &str,
    ) -> Result<Told, String> {
        let host = match fields.to_ascii_lowercase().contains("host:") {
            true => String::new(),
            false => format!("Host: {}\r\n", self.admin),
        };
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\n{host}{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        Told::read(&self.sent(request.as_bytes())?)
    }

    /// Bytes to the admin listener; the whole answer.
    pub fn sent(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let told = |error: std::io::Error| format!("admin: {error}\n{}", self.said());
        let mut stream = TcpStream::connect(self.admin).map_err(told)?;
        stream.set_read_timeout(Some(PATIENCE * 2)).map_err(told)?;
        stream.write_all(bytes).map_err(told)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(told)?;
        Ok(answer)
    }

    /// The process that was started.
    pub fn pid(&self) -> Result<u32, String> {
        let child = self.child.lock().map_err(|error| error.to_string())?;
        Ok(child.id())
    }

    /// Alive, and without a panic behind it.
    pub fn alive(&self) -> Result<(), String> {
        let mut child = self.child.lock().map_err(|error| error.to_string())?;
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the proxy ended: {status}\n{}", self.said()));
        }
        let said = self.said();
        if said.contains("panicked") {
            Err(format!("the proxy panicked\n{said}"))
        } else {
            Ok(())
        }
    }

    /// The last of what it wrote to standard error.
    pub fn said(&self) -> String {
        let said = fs::read(&self.errors).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    pub fn healthy(&self) -> Result<(), String> {
        self.alive()?;
        let answer = self.ask("GET", "/healthz")?;
        if answer.starts_with("HTTP/1.1 200") {
            Ok(())
        } else {
            Err(format!("/healthz: {answer}"))
        }
    }

    /// Turns the proxy's clock forward.
    pub fn advance(&self, by: Duration) -> Result<(), String> {
        let answer = self.ask("POST", &format!("/test/advance?ms={}", by.as_millis()))?;
        if answer.starts_with("HTTP/1.1 20") {
            Ok(())
        } else {
            Err(format!("the clock did not turn: {answer}"))
        }
    }

    /// The sum of the samples of one metric that carry all these labels; None where there is none.
    pub fn metric(&self, name: &str, labels: &[(String, String)]) -> Result<Option<f64>, String> {
        let page = self.ask("GET", "/metrics")?;
        let mut sum = None;
        for line in page.lines().filter(|line| line.starts_with(name)) {
            let Some((sample, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (held, held_labels) = sample.split_once('{').unwrap_or((sample, ""));
            let carries = |(label, value): &(String, String)| {
                held_labels.contains(&format!("{label}=\"{value}\""))
            };
            if held == name && labels.iter().all(carries) {
                *sum.get_or_insert(0.0) += value.parse::<f64>().map_err(|_| line.to_owned())?;
            }
        }
        Ok(sum)
    }

    /// How many series /metrics shows.
    pub fn series(&self) -> Result<usize, String> {
        let page = self.ask("GET", "/metrics")?;
        Ok(page
            .lines()
            .filter(|line| line.starts_with("tidegate_"))
            .count())
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> Result<usize, String> {
        let pid = self.child.lock().map_err(|error| error.to_string())?.id();
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string())?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .ok_or("no VmRSS")?;
        let pages: usize = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .map_err(|_| line.to_owned())?;
        Ok(pages << 10)
    }

    /// One request to the admin listener; the whole answer.
    fn ask(&self, method: &str, target: &str) -> Result<String, String> {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.admin
        );
        let answer = self
            .sent(request.as_bytes())
            .map_err(|why| format!("{method} {target}: {why}"))?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

impl Proxy {
    /// Ends it. Threads of scripted origins may hold it for longer than the test runs.
    pub fn stop(&self) {
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}
