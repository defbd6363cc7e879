//! The proxies that can be measured beside each other, each as its makers would have it for a crowd: `config/peers/` has their configs,
//! word for word but for ports and folders.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::conduct::Target;
use super::procs::{Taken, taken};
use super::report::{self, Process};
use super::scenario::{Scenario, What};
use crate::clock;

const STARTS: Duration = Duration::from_secs(10);
const ENDS: Duration = Duration::from_secs(10);
/// Where a peer keeps its cache: in memory, as ours is.
const SHM: &str = "/dev/shm";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    Tidegate,
    Nginx,
    Varnish,
    Haproxy,
}

impl Which {
    pub const ALL: [Which; 4] = [
        Which::Tidegate,
        Which::Nginx,
        Which::Varnish,
        Which::Haproxy,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Which::Tidegate => "tidegate",
            Which::Nginx => "nginx",
            Which::Varnish => "varnish",
            Which::Haproxy => "haproxy",
        }
    }

    /// By its name.
    ///
    /// # Errors
    /// It is none; for people.
    pub fn read(name: &str) -> Result<Which, String> {
        let all = Which::ALL.iter();
        all.copied()
            .find(|which| which.name() == name)
            .ok_or_else(|| format!("{name:?} is none of tidegate, nginx, varnish, haproxy"))
    }

    /// Its program, if that is installed.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Which::Tidegate => std::env::current_exe().ok(),
            Which::Nginx => find("nginx"),
            Which::Varnish => find("varnishd"),
            Which::Haproxy => find("haproxy"),
        }
    }

    /// Why it can't take part in a scenario, if it can't.
    pub fn lacks(self, scenario: &Scenario) -> Option<&'static str> {
        let purges = scenario.event.iter().any(|event| event.what == What::Purge);
        match self {
            Which::Nginx if purges => Some("nginx can't purge"),
            Which::Haproxy if purges => Some("HAProxy can't purge its cache"),
            _ => None,
        }
    }

    fn version(self, program: &Path) -> String {
        let flag = match self {
            Which::Tidegate => "--version",
            Which::Nginx | Which::Haproxy => "-v",
            Which::Varnish => "-V",
        };
        let told = Command::new(program)
            .arg(flag)
            .stdin(Stdio::null())
            .output();
        let Ok(told) = told else {
            return String::new();
        };
        let text = [told.stdout, told.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        // The first number with a dot in it.
        let is_version =
            |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
        let mut words = words.filter(is_version);
        words.next().unwrap_or_default().to_owned()
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where servers are, though few have it in their PATH.
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut folders = std::env::split_paths(&path).chain(more);
    folders.find_map(|folder| Some(folder.join(program)).filter(|path| path.is_file()))
}

/// A proxy that runs, in front of an origin. It ends when dropped, and its folders go.
pub struct Peer {
    which: Which,
    program: PathBuf,
    child: Option<Child>,
    pub address: SocketAddr,
    dir: tempdir::Folder,
    shm: tempdir::Folder,
    config: PathBuf,
    core: Option<usize>,
    /// What processes took that are gone.
    before: Taken,
}

impl Peer {
    /// Starts one in front of `origin`. `core`: the only one it may use.
    ///
    /// # Errors
    /// It is not installed, or doesn't start; for people.
    pub fn start(
        which: Which,
        scenario: &Scenario,
        origin: SocketAddr,
        core: Option<usize>,
    ) -> Result<Peer, String> {
        let name = which.name();
        let program = which.program().ok_or(format!("{name} is not installed"))?;
        let (port, admin) = (free_port()?, free_port()?);
        let told = |e: io::Error| format!("{name}: {e}");
        let dir = tempdir::Folder::new(&std::env::temp_dir()).map_err(told)?;
        let memory = Path::new(SHM);
        let memory = if memory.is_dir() { memory } else { dir.path() };
        let shm = tempdir::Folder::new(memory).map_err(told)?;
        let filled = |text: &str| {
            let limit = limit(which, scenario);
            text.replace("{port}", &port.to_string())
                .replace("{admin}", &admin.to_string())
                .replace("{origin}", &origin.port().to_string())
                .replace("{dir}", &dir.path().display().to_string())
                .replace("{shm}", &shm.path().display().to_string())
                .replace("{user}", if is_root() { "user root;" } else { "" })
                .replace("{capacity}", &(scenario.origin.at_once * 4).to_string())
                .replace("{limit_zone}", &limit.0)
                .replace("{limit}", &limit.1)
        };
        let (file, text) = match which {
            Which::Tidegate => (
                "tidegate.toml",
                include_str!("../../../config/peers/tidegate.toml"),
            ),
            Which::Nginx => (
                "nginx.conf",
                include_str!("../../../config/peers/nginx.conf"),
            ),
            Which::Varnish => (
                "varnish.vcl",
                include_str!("../../../config/peers/varnish.vcl"),
            ),
            Which::Haproxy => (
                "haproxy.cfg",
                include_str!("../../../config/peers/haproxy.cfg"),
            ),
        };
        let config = dir.path().join(file);
        fs::write(&config, filled(text)).map_err(told)?;
        let mut peer = Peer {
            which,
            program,
            child: None,
            address: (Ipv4Addr::LOCALHOST, port).into(),
            dir,
            shm,
            config,
            core,
            before: Taken::default(),
        };
        peer.run()?;
        Ok(peer)
    }

    /// As the report has it.
    pub fn told(&self) -> report::Target {
        report::Target {
            name: self.which.name().to_owned(),
            version: self.which.version(&self.program),
            url: format!("http://{}", self.address),
        }
    }

    /// What it has taken until now.
    pub fn taken(&self) -> Taken {
        let now = self
            .child
            .as_ref()
            .map_or(Taken::default(), |child| taken(child.id()));
        Taken {
            cpu_s: self.before.cpu_s + now.cpu_s,
            memory_bytes: self.before.memory_bytes.max(now.memory_bytes),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let name = self.which.name();
        let told = |e: io::Error| format!("{name}: {e}");
        let mut command = match self.core {
            // Its own threads inherit it.
            Some(core) if find("taskset").is_some() => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(core.to_string()).arg(&self.program);
                command
            }
            _ => Command::new(&self.program),
        };
        let config = &self.config;
        match self.which {
            Which::Tidegate => command.args(["run", "-c"]).arg(config),
            Which::Nginx => command.arg("-c").arg(config).arg("-p").arg(self.dir.path()),
            Which::Haproxy => command.arg("-db").arg("-f").arg(config),
            Which::Varnish => {
                let storage = "malloc,256m";
                command
                    .arg("-F")
                    .args(["-n".as_ref(), self.shm.path().join("work").as_os_str()])
                    .args(["-a", &self.address.to_string(), "-s", storage])
                    .args(["-p", "thread_pools=1", "-p", "thread_pool_max=4000"])
                    .args(["-p", "thread_pool_min=200", "-p", "vsl_space=16m"])
                    .args(["-j", "none", "-f"])
                    .arg(config)
            }
        };
        let output = self.dir.path().join("output");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&output)
            .map_err(told)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(told)?)
            .stderr(file)
            .spawn()
            .map_err(told)?;
        self.child = Some(child);
        let until = clock::instant() + STARTS;
        while TcpStream::connect(self.address).is_err() {
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                let said = fs::read_to_string(&output).unwrap_or_default();
                return Err(format!("{name} ended: {status}\n{said}"));
            }
            if clock::instant() > until {
                return Err(format!("{name} does not listen after {STARTS:?}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// All of its processes, at once.
    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        self.before = Taken {
            cpu_s: self.before.cpu_s + taken(child.id()).cpu_s,
            memory_bytes: self
                .taken()
                .memory_bytes
                .max(taken(child.id()).memory_bytes),
        };
        for pid in super::procs::tree(child.id()) {
            signal(pid, rustix::process::Signal::KILL);
        }
        // It can't refuse.
        let _ = child.wait();
        let until = clock::instant() + ENDS;
        while TcpListener::bind(self.address).is_err() && clock::instant() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// One request with a method of its own; its status.
    fn order(&self, method: &str, target: &str) -> Result<u16, String> {
        let told = |e: io::Error| e.to_string();
        let mut stream = TcpStream::connect(self.address).map_err(told)?;
        stream.set_read_timeout(Some(STARTS)).map_err(told)?;
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).map_err(told)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(told)?;
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        status.ok_or_else(|| "that is no answer".to_owned())
    }
}

impl Target for Peer {
    fn purge(&mut self) -> Result<(), String> {
        let status = match self.which {
            Which::Tidegate => self.order("PURGE", "/*")?,
            Which::Varnish => self.order("BAN", "/")?,
            Which::Nginx | Which::Haproxy => return Err("it can't".to_owned()),
        };
        match status {
            200 => Ok(()),
            status => Err(format!("it answers {status}")),
        }
    }

    fn restart(&mut self) -> Result<(), String> {
        self.kill();
        self.run()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What was taken between two moments, for so many answers.
pub fn process(before: Taken, after: Taken, answers: u64) -> Process {
    let cpu_s = (after.cpu_s - before.cpu_s).max(0.0);
    Process {
        cpu_s,
        cpu_us_per_answer: cpu_s * 1e6 / answers.max(1) as f64,
        peak_memory_bytes: after.memory_bytes,
    }
}

/// What each is told to let a client have, if the scenario has such a thing: what stands before its servers, and in them.
fn limit(which: Which, scenario: &Scenario) -> (String, String) {
    let Some(rate) = scenario.limit_per_client else {
        return Default::default();
    };
    let burst = rate * 2;
    let mut zone = String::new();
    let limit = match which {
        Which::Tidegate => {
            format!("[[limit]]\nrate = \"{rate}/s\"\nburst = {burst}\n")
        }
        Which::Nginx => {
            let _ = write!(
                zone,
                "limit_req_zone $binary_remote_addr zone=clients:16m rate={rate}r/s;\n    limit_req_status 429;"
            );
            format!("limit_req zone=clients burst={burst} nodelay;")
        }
        Which::Haproxy => format!(
            "stick-table type ip size 100k expire 60s store http_req_rate(1s)\n    http-request track-sc0 src\n    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {rate} }}"
        ),
        // Without a module that few have installed, it has none.
        Which::Varnish => String::new(),
    };
    (zone, limit)
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It has ended by itself otherwise.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// A folder that goes when it is dropped.
mod tempdir {
    use std::fs;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    pub struct Folder(PathBuf);

    impl Folder {
        pub fn new(place: &Path) -> io::Result<Folder> {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
            let path = place.join(format!("tidegate-bench-{pid}-{next}"));
            fs::create_dir(&path)?;
            Ok(Folder(path))
        }

        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // What is left of it is in a folder for what is left.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
