//! The system calls the programs need and std does not offer: epoll, clocks, pinning, limits. Linux only.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

pub const IN: u32 = libc::EPOLLIN as u32;
pub const OUT: u32 = libc::EPOLLOUT as u32;
pub const HANGUP: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
pub const EDGE: u32 = libc::EPOLLET as u32;

pub struct Epoll {
    fd: OwnedFd,
    ready: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> Epoll {
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        assert!(fd >= 0, "epoll_create1: {}", io::Error::last_os_error());
        Epoll {
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            ready: vec![libc::epoll_event { events: 0, u64: 0 }; 1024],
        }
    }

    pub fn add(&self, what: &impl AsRawFd, token: usize, events: u32) {
        self.control(libc::EPOLL_CTL_ADD, what.as_raw_fd(), token, events);
    }

    pub fn change(&self, what: &impl AsRawFd, token: usize, events: u32) {
        self.control(libc::EPOLL_CTL_MOD, what.as_raw_fd(), token, events);
    }

    fn control(&self, operation: i32, fd: RawFd, token: usize, events: u32) {
        let mut event = libc::epoll_event {
            events,
            u64: token as u64,
        };
        let done = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) };
        assert!(done == 0, "epoll_ctl: {}", io::Error::last_os_error());
    }

    /// Waits at most `timeout_ms` (-1: without end) and leaves what is ready as (token, events) in `into`.
    pub fn wait(&mut self, timeout_ms: i32, into: &mut Vec<(usize, u32)>) {
        into.clear();
        let count = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.ready.as_mut_ptr(),
                self.ready.len() as i32,
                timeout_ms,
            )
        };
        for event in &self.ready[..count.max(0) as usize] {
            into.push((event.u64 as usize, event.events));
        }
    }
}

fn clock(which: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    unsafe { libc::clock_gettime(which, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Monotonic nanoseconds, the same clock in every process of the machine.
pub fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Unix time in seconds.
pub fn wall() -> u64 {
    clock(libc::CLOCK_REALTIME) / 1_000_000_000
}

/// CPU nanoseconds this thread has used.
pub fn thread_cpu() -> u64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The core for the server under test and the one for everything else. The same one twice on a one-core machine.
pub fn cores() -> (usize, usize) {
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    unsafe { libc::sched_getaffinity(libc::getpid(), size_of::<libc::cpu_set_t>(), &mut set) };
    let allowed: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .take(2)
        .collect();
    match allowed[..] {
        [server, client] => (server, client),
        [only] => (only, only),
        _ => (0, 0),
    }
}

/// Ties the calling thread, and what it starts later, to one core.
pub fn pin(core: usize) {
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

/// From here on the calling thread gives way to others on its core.
pub fn give_way() {
    // With 0 for the caller: of Linux's threads each has a priority of its own.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// From here on this process's threads of that name come before all others on their core, where the system allows it.
pub fn come_first(name: &str) -> bool {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let named = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    });
    let ids = named.filter_map(|task| task.file_name().to_str()?.parse::<libc::pid_t>().ok());
    let first = libc::sched_param { sched_priority: 1 };
    ids.map(|id| unsafe { libc::sched_setscheduler(id, libc::SCHED_FIFO, &raw const first) })
        .all(|done| done == 0)
}

/// Raises the limit of open files to what the system allows and says what that is. There is room for 16,384 from now on: while
/// the kernel makes some, for more than 10 ms each time, a crowd on one thread stands still.
pub fn raise_open_files() -> u64 {
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max.min(1 << 20);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        let last = limit.rlim_cur.min(1 << 14) as libc::c_int - 1;
        libc::close(libc::fcntl(2, libc::F_DUPFD_CLOEXEC, last));
        limit.rlim_cur
    }
}

/// Makes a child start pinned to `core` and end when the thread that starts it does.
pub fn tie(command: &mut Command, core: usize) {
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            pin(core);
            Ok(())
        });
    }
}

pub fn signal(pid: u32, signal: i32) {
    unsafe { libc::kill(pid as i32, signal) };
}

pub fn is_root() -> bool {
    unsafe { libc::geteuid() == 0 }
}

/// A non-blocking listener on loopback with a backlog for crowds; port 0 takes a free one.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    unsafe { libc::listen(listener.as_raw_fd(), 4096) };
    Ok(listener)
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
    listener.local_addr().expect("its address").port()
}

/// Connects to loopback, non-blocking afterwards, without Nagle's delay.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn set_option<T>(stream: &TcpStream, name: i32, value: &T) {
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        );
    }
}

/// Bounds the kernel's receive buffer, so that a reader who pauses is felt at the other end.
pub fn shrink_receive_buffer(stream: &TcpStream, bytes: i32) {
    set_option(stream, libc::SO_RCVBUF, &bytes);
}

/// Closes with a reset instead of a farewell.
pub fn reset(stream: TcpStream) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set_option(&stream, libc::SO_LINGER, &at_once);
}

/// The processor as the system names it.
pub fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or_else(|| "unknown".into(), |(_, name)| name.to_owned())
}
