//! What the processes of a target take, as the system counts it: its own and those it has started.

use std::collections::HashMap;
use std::fs;

/// Of all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Taken {
    pub cpu_s: f64,
    /// The peaks of resident memory, added up.
    pub memory_bytes: u64,
}

/// Of `pid` and those below it. Zero for what has ended.
pub fn taken(pid: u32) -> Taken {
    // Linux tells in hundredths of a second, whatever its own clock is.
    const TICKS: f64 = 100.0;
    let all = tree(pid);
    let spent: u64 = all.iter().filter_map(|id| Some(stat(*id)?.1)).sum();
    Taken {
        cpu_s: spent as f64 / TICKS,
        memory_bytes: all.iter().map(|id| peak(*id)).sum(),
    }
}

/// A process, and all it has started, and they.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some((id, (parent, _))) = id.and_then(|id| Some((id, stat(id)?))) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(id) = all.get(at).copied() {
        all.extend(children.remove(&id).unwrap_or_default());
        at += 1;
    }
    all
}

/// Its parent, and what it has spent in user and system time (proc_pid_stat(5)).
fn stat(pid: u32) -> Option<(u32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name, in parentheses, may have any in it.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((u32::try_from(number(1)?).ok()?, number(11)? + number(12)?))
}

fn peak(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_what_it_has_started_are_counted() {
        let own = taken(std::process::id());
        assert!(own.memory_bytes > 1 << 20, "{own:?}");
        let started = std::process::Command::new("sh")
            .args(["-c", "sleep 20 & wait"])
            .spawn();
        let mut started = started.unwrap();
        // Both are there.
        while tree(started.id()).len() < 2 {
            std::thread::yield_now();
        }
        let all = tree(started.id());
        assert!(all.iter().all(|id| stat(*id).is_some()), "{all:?}");
        assert!(taken(started.id()).memory_bytes > 0);
        for id in &all[1..] {
            let raw = rustix::process::Pid::from_raw(*id as i32).unwrap();
            rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
        }
        started.kill().unwrap();
        started.wait().unwrap();
        assert_eq!(taken(started.id()).memory_bytes, 0);
    }
}
