//! Child processes: started pinned, accounted for as a tree, ended with the program.

use super::sys;
use std::collections::HashMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where a program lies, system folders included that are not on everyone's path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let candidates = std::env::split_paths(&path).chain(system);
    candidates
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

pub struct Server {
    /// None once it has ended.
    child: Option<Child>,
}

impl Server {
    /// None at all: a place for one.
    pub fn none() -> Server {
        Server { child: None }
    }

    /// Starts a command on `core`, both outputs into `output`, and waits until it listens on `port`.
    pub fn start(
        command: &mut Command,
        core: usize,
        port: u16,
        output: &Path,
    ) -> Result<Server, String> {
        let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        Server::start_and_wait(
            command,
            core,
            output,
            &format!("listen on port {port}"),
            listens,
        )
    }

    /// The same, until its output has `words`.
    pub fn start_until(
        command: &mut Command,
        core: usize,
        output: &Path,
        words: &str,
    ) -> Result<Server, String> {
        let said = || fs::read_to_string(output).is_ok_and(|said| said.contains(words));
        Server::start_and_wait(command, core, output, &format!("say \"{words}\""), said)
    }

    fn start_and_wait(
        command: &mut Command,
        core: usize,
        output: &Path,
        what: &str,
        is_there: impl Fn() -> bool,
    ) -> Result<Server, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let file = fs::File::create(output).map_err(|e| format!("{}: {e}", output.display()))?;
        let also = file.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(file).stderr(also);
        sys::tie(command, core);
        let mut child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
        for _ in 0..2000 {
            if is_there() {
                return Ok(Server { child: Some(child) });
            }
            if let Ok(Some(status)) = child.try_wait() {
                let said = fs::read_to_string(output).unwrap_or_default();
                return Err(format!("{name} ended ({status}): {}", said.trim()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(Server { child: Some(child) });
        Err(format!("{name} did not {what} within 10 s"))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// CPU time of the whole tree so far.
    pub fn cpu(&self) -> Cpu {
        Cpu::of_tree(self.pid())
    }

    /// Tells it by a signal to go, and waits at most 30 s until it has, well.
    pub fn end(mut self, signal: i32) -> Result<(), String> {
        let mut child = self.child.take().ok_or("there is no process")?;
        sys::signal(child.id(), signal);
        for _ in 0..6000 {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("it ended with {status}")),
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        self.child = Some(child);
        Err(format!("it did not end at signal {signal} within 30 s"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        let tree = tree(self.pid());
        sys::signal(self.pid(), libc::SIGTERM);
        for _ in 0..400 {
            if !self.is_running() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        tree.iter().for_each(|&pid| sys::signal(pid, libc::SIGKILL));
        if let Some(child) = self.child.as_mut() {
            let _ = child.wait();
        }
    }
}

/// CPU time of a process tree: by thread in nanoseconds, and as the system's own total in clock ticks.
pub struct Cpu {
    threads: HashMap<u32, u64>,
    ticks: u64,
}

impl Cpu {
    fn of_tree(root: u32) -> Cpu {
        let mut cpu = Cpu {
            threads: HashMap::new(),
            ticks: 0,
        };
        for pid in tree(root) {
            cpu.ticks += ticks(pid);
            for thread in numbers_in(&format!("/proc/{pid}/task")) {
                let stat = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat"));
                let on_cpu = stat.ok().and_then(|s| s.split(' ').next()?.parse().ok());
                if let Some(nanoseconds) = on_cpu {
                    cpu.threads.insert(thread, nanoseconds);
                }
            }
        }
        cpu
    }

    /// Nanoseconds used since `earlier`. From the threads' accounts, unless one of them ended meanwhile and took its
    /// account along, or the kernel keeps none: then from the total, whose grain is 10 ms.
    pub fn since(&self, earlier: &Cpu) -> u64 {
        let complete = !self.threads.is_empty()
            && earlier.threads.keys().all(|t| self.threads.contains_key(t));
        if complete {
            self.threads
                .iter()
                .map(|(t, now)| now - earlier.threads.get(t).copied().unwrap_or(0))
                .sum()
        } else {
            let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
            (self.ticks - earlier.ticks) * (1_000_000_000 / per_second)
        }
    }
}

/// The process and everything under it, by the parents that proc(5) names.
fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = numbers_in("/proc")
        .into_iter()
        .filter_map(|pid| Some((pid, stat(pid).nth(1)?.parse().ok()?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| pid),
        );
        next += 1;
    }
    found
}

fn numbers_in(folder: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

/// utime + stime of a process, ended threads included.
fn ticks(pid: u32) -> u64 {
    stat(pid)
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum()
}

/// The fields of /proc/PID/stat from the third, the state, on.
fn stat(pid: u32) -> impl Iterator<Item = String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat
        .rsplit_once(") ")
        .map_or("", |(_, rest)| rest)
        .to_owned();
    after_name
        .split(' ')
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .into_iter()
}

/// What a process takes (VmRSS, VmHWM and Threads of proc(5)).
pub struct Taken {
    /// Resident bytes now.
    pub resident: u64,
    /// The most that was resident.
    pub peak: u64,
    pub threads: u64,
}

pub fn taken(pid: u32) -> Taken {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let number = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    };
    Taken {
        resident: number("VmRSS:") << 10,
        peak: number("VmHWM:") << 10,
        threads: number("Threads:"),
    }
}

/// Starts VmHWM anew from what is resident now.
pub fn forget_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}
