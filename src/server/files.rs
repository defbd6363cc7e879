//! The process's open files: as many as it may have, and room for them before anybody comes.

use std::io;
use std::os::fd::RawFd;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::policy::Policy;
use crate::front::guests::Guests;

/// Descriptors of the process itself: the admin listener's connections, logs, runtimes, certificates being read.
const OWN: usize = 256;
/// For more than so many no room is made beforehand: it would take more than 2 MiB.
const BEFOREHAND: usize = 1 << 18;

/// Leaves clients as many files as `policy` needs not for origins and operators, and room in the kernel's table for them.
pub fn leave_room(policy: &Policy, guests: &Guests) {
    let files = Files::raise(policy);
    if !guests.set_room(files.guests()) {
        return;
    }
    let (asked, most) = (policy.listen.max_connections, guests.most(&policy.listen));
    if asked > most {
        tracing::warn!(
            asked,
            most,
            "open files allow fewer connections than `max_connections`"
        );
    }
    if let Err(why) = files.make_room(most) {
        tracing::warn!(why = %why, "no room for open files beforehand");
    }
}

/// How many there may be, and how many of them are not for clients: those of origins, of the admin listener, and logs.
struct Files {
    most: usize,
    kept: usize,
}

impl Files {
    /// Raises what the process may have to what the system lets it.
    fn raise(policy: &Policy) -> Files {
        let limits = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limits.maximum,
            ..limits
        };
        // Where that is not allowed, what was allowed before still is.
        let most = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limits.maximum,
            Err(_) => limits.current,
        };
        let most = most.map_or(usize::MAX, |most| {
            usize::try_from(most).unwrap_or(usize::MAX)
        });
        let servers = policy.upstreams.iter().map(|upstream| {
            let probes = usize::from(upstream.health.is_some());
            upstream.most_in_flight() + upstream.places() * probes + upstream.max_streams
        });
        let kept = servers.sum::<usize>().min(most / 4) + OWN.min(most / 4);
        Files { most, kept }
    }

    /// Connections of clients that there is room for.
    fn guests(&self) -> usize {
        (self.most - self.kept).max(1)
    }

    /// Has the kernel make its table of our descriptors as large as so many `guests` may need. Else it doubles the table
    /// whenever it is full, and where a process has threads, the one that opens the file waits for a grace period of RCU
    /// each time (`expand_files` in Linux): more than 10 ms in which a worker serves nobody, in the middle of a crowd.
    ///
    /// # Errors
    /// What the system says; nothing but that wait is lost.
    fn make_room(&self, guests: usize) -> io::Result<()> {
        let needed = guests.saturating_add(self.kept);
        let last = needed.min(self.most).clamp(1, BEFOREHAND) - 1;
        let last = RawFd::try_from(last).map_err(io::Error::other)?;
        // The table never shrinks.
        drop(fcntl_dupfd_cloexec(io::stderr(), last)?);
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::config::policy::Listen;
    use crate::telemetry::Metrics;
    use crate::{config, server};

    /// How many descriptors the kernel's table has places for.
    fn places() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
        line.unwrap().trim().parse().unwrap()
    }

    #[test]
    fn who_needs_more_files_leaves_fewer_to_clients() {
        let policy = |most: usize| {
            let text =
                format!("[[upstream]]\nservers = ['http://127.0.0.1:1']\nmax_in_flight = {most}\n");
            config::compile("t.toml", &text).unwrap()
        };
        let guests = Guests::new(server::told(&Metrics::new()));
        let room = |most| {
            let policy = policy(most);
            leave_room(&policy, &guests);
            guests.most(&Listen {
                max_connections: 0,
                ..policy.listen
            })
        };
        assert_eq!(room(1), room(11) + 10);
    }

    #[test]
    fn the_table_has_room_for_guests_before_they_come() {
        let most = getrlimit(Resource::Nofile).current.unwrap_or(4000);
        let most = usize::try_from(most.min(4000)).unwrap();
        let files = Files { most, kept: 10 };
        files.make_room(most / 2).unwrap();
        assert!(places() >= most / 2 + 10, "{}", places());
        // No more than there may be, however many are asked for.
        files.make_room(usize::MAX).unwrap();
        assert!(places() >= most, "{}", places());
    }
}
