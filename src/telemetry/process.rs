//! The process's own figures, from Linux's `/proc/self`. Elsewhere they are not shown.

use std::fs;

use super::metrics::Metrics;
use super::names;

/// Clock ticks a second in `/proc`: 100 wherever this runs (`USER_HZ` is part of the kernel's
/// interface).
const TICKS: f64 = 100.0;

/// Shows CPU time, resident memory, descriptors and threads.
pub fn register(metrics: &Metrics) {
    if fs::metadata("/proc/self/stat").is_err() {
        return;
    }
    metrics.count_from(&names::PROCESS_CPU, &[], || cpu_seconds().unwrap_or(0.0));
    metrics.gauge(&names::PROCESS_MEMORY, &[], || {
        status_line("VmRSS:").unwrap_or(0.0) * 1024.0
    });
    metrics.gauge(&names::PROCESS_THREADS, &[], || {
        status_line("Threads:").unwrap_or(0.0)
    });
    metrics.gauge(&names::PROCESS_FDS, &[], || {
        // Not the one that reads the list.
        fs::read_dir("/proc/self/fd").map_or(0.0, |list| list.count().saturating_sub(1) as f64)
    });
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold anything, come state and the numbers; user and system time are
    // the 12th and 13th.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_ascii_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

fn status_line(name: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_there_and_plausible() {
        if cfg!(target_os = "linux") {
            assert!(cpu_seconds().is_some());
            assert!(status_line("VmRSS:").unwrap() > 1000.0);
            assert!(status_line("Threads:").unwrap() >= 1.0);
        }
    }
}
