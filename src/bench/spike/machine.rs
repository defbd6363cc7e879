//! The machine that is measured on.

use std::fs;
use std::thread::available_parallelism;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::system::uname;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::report::Machine;

pub fn this() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    let memory = after(&read("/proc/meminfo"), "MemTotal");
    let kib = memory.and_then(|memory| memory.split(' ').next()?.parse::<u64>().ok());
    let system = uname();
    // All of them, and not those that this thread may use.
    let cpus = read("/proc/cpuinfo");
    let cores = cpus
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    Machine {
        cpu: after(&cpus, "model name").unwrap_or_default(),
        cores: match cores {
            0 => available_parallelism().map_or(1, usize::from),
            cores => cores,
        },
        memory_bytes: kib.unwrap_or(0) * 1024,
        system: format!(
            "{} {}",
            system.sysname().to_string_lossy(),
            system.release().to_string_lossy()
        ),
    }
}

/// As many open files as the system lets this process have: each client is one.
pub fn raise_open_files() {
    let limits = getrlimit(Resource::Nofile);
    // Who may not has what he has.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limits.maximum,
            ..limits
        },
    );
}

/// From now on this thread, and those it starts, keep to the last core, so that who is measured has the others to himself: those. None on a
/// machine that has one.
pub fn keep_to_the_last_core() -> Vec<usize> {
    let Ok(all) = sched_getaffinity(None) else {
        return Vec::new();
    };
    let mut cores: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|core| all.is_set(*core))
        .collect();
    if cores.len() < 2 {
        return Vec::new();
    }
    let Some(last) = cores.pop() else {
        return Vec::new();
    };
    let mut own = CpuSet::new();
    own.set(last);
    match sched_setaffinity(None, &own) {
        Ok(()) => cores,
        Err(_) => Vec::new(),
    }
}
