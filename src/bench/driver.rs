//! The open-loop driver: requests go out when they are due, whatever became of those before, and an answer's time counts
//! from when its request was due. A server that stalls is met by as large a crowd as one that doesn't (a closed loop would
//! wait with it, and leave the stall out of its figures: "coordinated omission").
//!
//! Each request takes an idle connection of its client, or opens one. One thread does it all; [`Driven::late`] tells how far
//! it fell behind.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout_at};

use super::schedule::Arrival;
use super::timer::Timer;
use super::wire::{Answer, Connection, Failed, get};
use crate::clock;

/// What to send, and where.
pub struct Load {
    pub server: SocketAddr,
    pub host: String,
    /// In the order they are due.
    pub arrivals: Arc<[Arrival]>,
    /// How long a client waits for the end of an answer, from when its request was due.
    pub patience: Duration,
    /// The path of a page.
    pub path: fn(u32) -> String,
}

/// What became of one request.
pub struct Outcome {
    /// Which, of the load's arrivals.
    pub number: usize,
    pub arrival: Arrival,
    /// From when it was due to its answer's last byte, or to when it was given up.
    pub took: Duration,
    pub end: Result<Answer, Failed>,
}

/// How it went for the driver itself.
pub struct Driven {
    /// The moment from which the arrivals' times count.
    pub began: Instant,
    /// The most that a request was sent later than it was due.
    pub late: Duration,
}

/// Sends the load and gives every outcome to `told`, in the order they come; returns when there is one for each.
///
/// # Errors
/// There is no runtime or timer to be had.
pub fn drive(load: &Load, mut told: impl FnMut(Outcome)) -> io::Result<Driven> {
    alone()?.block_on(LocalSet::new().run_until(async {
        let mut timer = Timer::new()?;
        let began = clock::instant();
        let (done, mut outcomes) = mpsc::unbounded_channel();
        let idle = Rc::new(RefCell::new(Idle::new()));
        let mut late = Duration::ZERO;
        let send = async {
            for (number, arrival) in load.arrivals.iter().enumerate() {
                let due = began + arrival.at;
                timer.until(due).await?;
                late = late.max(clock::instant().saturating_duration_since(due));
                let request = get(&load.host, &(load.path)(arrival.page));
                let (idle, done) = (idle.clone(), done.clone());
                let (server, patience, arrival) = (load.server, load.patience, *arrival);
                tokio::task::spawn_local(async move {
                    let asked = ask(server, arrival.client, &request, &idle);
                    let end = timeout_at((due + patience).into(), asked).await;
                    let outcome = Outcome {
                        number,
                        arrival,
                        took: clock::instant().saturating_duration_since(due),
                        end: end.unwrap_or(Err(Failed::TimedOut)),
                    };
                    // Nobody listens any more only when the load has been given up.
                    let _ = done.send(outcome);
                });
            }
            Ok(())
        };
        let receive = async {
            for _ in 0..load.arrivals.len() {
                if let Some(outcome) = outcomes.recv().await {
                    told(outcome);
                }
            }
            Ok::<(), io::Error>(())
        };
        tokio::try_join!(send, receive)?;
        Ok(Driven { began, late })
    }))
}

/// Connections between requests, by client, the one used last on top.
type Idle = HashMap<u32, Vec<Connection>>;

async fn ask(
    server: SocketAddr,
    client: u32,
    request: &[u8],
    idle: &RefCell<Idle>,
) -> Result<Answer, Failed> {
    let mut connection = loop {
        let kept = idle.borrow_mut().get_mut(&client).and_then(Vec::pop);
        match kept {
            Some(kept) if kept.is_open() => break kept,
            Some(_) => {}
            None => {
                let opened = Connection::open(server, client).await;
                break opened.map_err(|_| Failed::Refused)?;
            }
        }
    };
    let (answer, goes_on) = connection.ask(request).await?;
    if goes_on {
        idle.borrow_mut()
            .entry(client)
            .or_default()
            .push(connection);
    }
    Ok(answer)
}

/// A client that takes all it can: so many connections, each asking again `pause` after its answer, until told to stop. A
/// closed loop, so it measures nothing; it is there to be in the way of others.
pub struct Greedy {
    pub server: SocketAddr,
    pub host: String,
    pub client: u32,
    pub connections: usize,
    pub pause: Duration,
    pub path: String,
}

/// What a greedy client had.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Grabbed {
    /// 200s.
    pub served: u64,
    /// Other answers.
    pub refused: u64,
    /// Connections that failed or broke.
    pub failed: u64,
}

impl Greedy {
    /// Asks until `stop`.
    ///
    /// # Errors
    /// There is no runtime to be had.
    pub fn press(&self, stop: &AtomicBool) -> io::Result<Grabbed> {
        alone()?.block_on(LocalSet::new().run_until(async {
            let grabbed = Rc::new(RefCell::new(Grabbed::default()));
            for _ in 0..self.connections {
                tokio::task::spawn_local(grab(
                    self.server,
                    self.client,
                    get(&self.host, &self.path),
                    self.pause,
                    grabbed.clone(),
                ));
            }
            while !stop.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(10)).await;
            }
            Ok(*grabbed.borrow())
        }))
    }
}

async fn grab(
    server: SocketAddr,
    client: u32,
    request: Vec<u8>,
    pause: Duration,
    grabbed: Rc<RefCell<Grabbed>>,
) {
    let idle = RefCell::new(Idle::new());
    loop {
        let end = ask(server, client, &request, &idle).await;
        {
            let mut grabbed = grabbed.borrow_mut();
            match end {
                Ok(answer) if answer.status == 200 => grabbed.served += 1,
                Ok(_) => grabbed.refused += 1,
                Err(_) => grabbed.failed += 1,
            }
        }
        sleep(pause).await;
    }
}

fn alone() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use super::super::origin::{Origin, Page, Plan};
    use super::super::schedule::{Crowd, Spacing};
    use super::*;

    fn origin(at_once: usize, takes: Duration) -> Origin {
        let plan = Plan {
            at_once,
            takes,
            server: 0,
            page: |_| Page {
                len: 10,
                cache_control: "no-store",
            },
        };
        Origin::start(plan).unwrap()
    }

    fn load(server: SocketAddr, requests: u32, patience: Duration) -> Load {
        let crowd = Crowd {
            rate: 1000.0,
            lasts: Duration::from_millis(u64::from(requests)),
            spacing: Spacing::Even,
            pages: 1,
            exponent: 0.0,
            clients: 0,
            first_client: 0,
        };
        Load {
            server,
            host: "test".into(),
            arrivals: crowd.arrivals(1),
            patience,
            path: |page| format!("/{page}"),
        }
    }

    #[test]
    fn a_stalled_server_does_not_slow_the_arrivals() {
        let origin = origin(1, Duration::from_secs(60));
        let mut ends = Vec::new();
        let patience = Duration::from_millis(500);
        let driven = drive(&load(origin.address, 100, patience), |outcome| {
            ends.push(outcome)
        });
        driven.unwrap();
        assert_eq!(ends.len(), 100);
        assert!(
            ends.iter()
                .all(|outcome| outcome.end == Err(Failed::TimedOut))
        );
        assert!(ends.iter().all(|outcome| outcome.took >= patience));
        // All came, though none was answered.
        assert_eq!(origin.ledger.fetches().len(), 100);
    }

    #[test]
    fn time_counts_from_when_a_request_was_due() {
        // The last of twenty that come within 20 ms waits for nineteen of 10 ms.
        let takes = Duration::from_millis(10);
        let origin = origin(1, takes);
        let mut longest = Duration::ZERO;
        let load = load(origin.address, 20, Duration::from_secs(60));
        drive(&load, |outcome| {
            assert!(outcome.end.is_ok());
            longest = longest.max(outcome.took);
        })
        .unwrap();
        assert!(
            longest >= takes * 20 - Duration::from_millis(20),
            "{longest:?}"
        );
    }

    #[test]
    fn connections_are_kept_and_nobody_there_is_told() {
        let origin = origin(8, Duration::ZERO);
        let (mut answered, mut refused) = (0, 0);
        let told = load(origin.address, 50, Duration::from_secs(60));
        drive(&told, |outcome| {
            answered += usize::from(outcome.end.is_ok())
        })
        .unwrap();
        assert_eq!(answered, 50);
        origin.kill();
        drive(&told, |outcome| {
            refused += usize::from(outcome.end == Err(Failed::Refused));
        })
        .unwrap();
        assert_eq!(refused, 50);
    }

    #[test]
    fn a_greedy_client_takes_what_it_gets_until_it_is_stopped() {
        let origin = origin(2, Duration::from_millis(1));
        let greedy = Greedy {
            server: origin.address,
            host: "test".into(),
            client: 9,
            connections: 5,
            pause: Duration::ZERO,
            path: "/".into(),
        };
        let stop = AtomicBool::new(false);
        let grabbed = std::thread::scope(|scope| {
            let pressing = scope.spawn(|| greedy.press(&stop).unwrap());
            while origin.ledger.fetches().len() < 20 {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            pressing.join().unwrap()
        });
        assert!(grabbed.served >= 10 && grabbed.failed == 0, "{grabbed:?}");
    }
}
