//! HTTP/2 floods: what a healthy client notices of them, and what they take.
//!
//! The proxy has one core; the flood and two healthy clients, one of HTTP/1.1 and one of HTTP/2, share the other. The
//! clients ask for a cached page at a modest, constant rate, each answer timed from when its request was due. Quiet
//! turns and flooded ones follow each other; a ratio is the median of the rounds' own. The flood goes on at a pace that
//! leaves the clients time on their core, gives way to them there, and takes a new connection whenever it is cut.

#![expect(unsafe_code, reason = "pinning and signals are system calls")]

#[path = "../../tests/rust/floods.rs"]
mod floods;
#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../../tests/rust/frames.rs"]
mod frames;
#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use floods::{Flood, floods};
use frames::{
    DATA, END_HEADERS, END_STREAM, GET, HEADERS, PREFACE, Raw, SETTINGS, WINDOW_UPDATE, frame,
    literals,
};
use support::args::{self, Args};
use support::client::open_loop;
use support::http::End;
use support::origin::{Origin, Plan};
use support::process::{Server, forget_peak, taken};
use support::report::{Checks, count, median, mib, quantile, table};
use support::sys;
use support::tidegate::{Folder, binary};

const PAGE: usize = 10 << 10;
/// Requests a second of each healthy client.
const RATE: u64 = 400;
const SECONDS: u64 = 1;
const SECOND: u64 = 1_000_000_000;
/// How long a healthy client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A quiet p99 below this counts as this: it is the scheduler's, not the proxy's.
const FLOOR: u64 = 1_000_000;
const WORSE: f64 = 2.0;
const MEMORY: u64 = 20 << 20;

fn main() -> ExitCode {
    args::run(
        "floods",
        "What a healthy client notices of HTTP/2 floods, and the memory they take.",
        &[(
            "--rounds",
            "quiet and flooded turns for each flood, 4; twice as many for one that fails",
        )],
        measure,
    )
}

fn measure(args: &Args) -> Result<Checks, String> {
    let rounds = args.number("--rounds", if args.quick { 1 } else { 4 });
    let (server_core, client_core) = sys::cores();
    sys::pin(client_core);
    let folder = Folder::temporary("floods");
    let origin = Origin::start(client_core, false, |_| Plan::Page {
        delay: Duration::ZERO,
        len: PAGE,
        cache_control: "public, max-age=36000",
    });
    let (server, port) = start(folder.path(), server_core, origin.port)?;
    println!(
        "{rounds} rounds of {SECONDS} s, two healthy clients of {RATE} requests/s each, proxy on core {server_core}, \
         clients and flood on core {client_core}, {}\n",
        sys::processor()
    );
    // To warm.
    healthy(port)?;
    let (mut checks, mut rows) = (Checks::default(), Vec::new());
    for flood in floods() {
        let mut all = Turns::default();
        all.take(rounds, &server, port, &flood)?;
        if !all.passes() {
            // On a machine with other work: more rounds, and the median of all of them.
            all.take(rounds, &server, port, &flood)?;
        }
        let ms = |turn, client| format!("{:.2}", all.p99(turn, client) / 1e6);
        rows.push(vec![
            flood.name.to_owned(),
            count(all.said / (all.samples.len() as u64 * SECONDS)),
            all.cuts.to_string(),
            ms(0, 0),
            ms(1, 0),
            ms(0, 1),
            ms(1, 1),
            mib(all.more),
        ]);
        let worse = [all.worse(0), all.worse(1)];
        checks.check(
            all.passes(),
            format!(
                "{}: p99 below {WORSE} times quiet, at most 20 MiB",
                flood.name
            ),
            format!(
                "{:.2} and {:.2} times, {}, {} rounds",
                worse[0],
                worse[1],
                mib(all.more),
                all.samples.len()
            ),
        );
    }
    println!(
        "\n{}",
        table(
            &[
                "flood",
                "times/s",
                "cut",
                "HTTP/1.1 p99 ms",
                "flooded",
                "HTTP/2 p99 ms",
                "flooded",
                "memory"
            ],
            &rows
        )
    );
    println!(
        "A quiet p99 below {} ms counts as that much.",
        FLOOR / 1_000_000
    );
    Ok(checks)
}

/// What came of one flood.
#[derive(Default)]
struct Turns {
    /// A round's p99, quiet and flooded, of either client.
    samples: Vec<[[u64; 2]; 2]>,
    said: u64,
    cuts: u64,
    /// The most memory that was resident beyond what was before.
    more: u64,
}

impl Turns {
    fn take(
        &mut self,
        rounds: u64,
        server: &Server,
        port: u16,
        flood: &Flood,
    ) -> Result<(), String> {
        for _ in 0..rounds {
            let quiet = healthy(port)?;
            let before = taken(server.pid()).resident;
            forget_peak(server.pid());
            let over = AtomicBool::new(false);
            let (flooded, told) = thread::scope(|scope| {
                let attack = scope.spawn(|| attack(port, flood, &over));
                let flooded = healthy(port);
                over.store(true, Ordering::SeqCst);
                (flooded, attack.join())
            });
            let told = told.map_err(|_| "the flood panicked")??;
            self.said += told.said;
            self.cuts += told.cuts;
            let more = taken(server.pid()).peak.saturating_sub(before);
            self.more = self.more.max(more);
            let flooded = flooded.map_err(|e| format!("{}: {e}", flood.name))?;
            self.samples.push([quiet, flooded]);
        }
        Ok(())
    }

    fn passes(&self) -> bool {
        self.worse(0) < WORSE && self.worse(1) < WORSE && self.more <= MEMORY
    }

    fn worse(&self, client: usize) -> f64 {
        let ratio = |s: &[[u64; 2]; 2]| s[1][client] as f64 / s[0][client].max(FLOOR) as f64;
        median(&self.samples.iter().map(ratio).collect::<Vec<_>>())
    }

    fn p99(&self, turn: usize, client: usize) -> f64 {
        let all: Vec<f64> = self
            .samples
            .iter()
            .map(|s| s[turn][client] as f64)
            .collect();
        median(&all)
    }
}

fn start(folder: &Path, core: usize, origin: u16) -> Result<(Server, u16), String> {
    let port = sys::free_port();
    let config = format!(
        "[listen]\naddress = \"127.0.0.1:{port}\"\nthreads = 1\nmax_connections_per_client = 100000\nh2c = true\n\
         [admin]\naddress = \"127.0.0.1:{}\"\n[log]\naccess = \"{}/access.log\"\n\
         [[upstream]]\nservers = [\"http://127.0.0.1:{origin}\"]\n",
        sys::free_port(),
        folder.display(),
    );
    let file = folder.join("tidegate.toml");
    fs::write(&file, config).map_err(|e| e.to_string())?;
    let mut command = Command::new(binary()?);
    command.arg("run").arg("-c").arg(&file);
    command.env("STATE_DIRECTORY", folder.join("state"));
    let server = Server::start(&mut command, core, port, &folder.join("tidegate.out"))?;
    Ok((server, port))
}

/// One turn of both healthy clients: their p99, HTTP/1.1's first. Each answer must be right.
fn healthy(port: u16) -> Result<[u64; 2], String> {
    let (first, second) = thread::scope(|scope| {
        let other = scope.spawn(|| http2(port));
        let outcomes = open_loop(port, RATE, SECONDS, PATIENCE.as_nanos() as u64, |_| {
            ("/healthy".to_owned(), PAGE)
        });
        (outcomes, other.join())
    });
    let whole = first
        .iter()
        .filter(|o| o.end == End::Whole && o.status == 200);
    let times: Vec<u64> = whole.map(|o| o.done - o.intended).collect();
    if times.len() as u64 != RATE * SECONDS {
        return Err(format!("HTTP/1.1: {} right answers", times.len()));
    }
    let second = second.map_err(|_| "the HTTP/2 client panicked")??;
    Ok([quantile(&times, 0.99), quantile(&second, 0.99)])
}

/// A connection that asks one after the other on a schedule; nanoseconds from due to done.
fn http2(port: u16) -> Result<Vec<u64>, String> {
    let mut raw = Raw::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &[])?;
    raw.0.set_nodelay(true).map_err(|e| e.to_string())?;
    let asks = literals(&GET.map(|field| match field.0 {
        b":path" => (field.0, b"/healthy".as_slice()),
        _ => field,
    }));
    let start = sys::now();
    let mut times = Vec::new();
    for n in 0..RATE * SECONDS {
        let due = start + n * SECOND / RATE;
        thread::sleep(Duration::from_nanos(due.saturating_sub(sys::now())));
        let stream = 1 + 2 * n as u32;
        let room = frame(WINDOW_UPDATE, 0, 0, &(PAGE as u32).to_be_bytes());
        let get = frame(HEADERS, END_STREAM | END_HEADERS, stream, &asks);
        raw.write(&[room, get].concat())?;
        let mut len = 0;
        loop {
            let Some((kind, flags, on, payload)) = raw.frame() else {
                return Err(format!("HTTP/2: the end after {n} answers"));
            };
            if kind == DATA && on == stream {
                len += payload.len();
                if flags & END_STREAM != 0 {
                    break;
                }
            }
        }
        if len != PAGE {
            return Err(format!("HTTP/2: {len} bytes"));
        }
        times.push(sys::now() - due);
    }
    Ok(times)
}

struct Told {
    said: u64,
    cuts: u64,
}

/// Says its thing at its pace until it is over, and takes whatever comes.
fn attack(port: u16, flood: &Flood, over: &AtomicBool) -> Result<Told, String> {
    sys::give_way();
    let mut told = Told { said: 0, cuts: 0 };
    let mut buffer = vec![0; 64 << 10];
    let start = sys::now();
    while !over.load(Ordering::SeqCst) {
        let mut stream =
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|e| e.to_string())?;
        stream.set_nonblocking(true).map_err(|e| e.to_string())?;
        let settings = frame(SETTINGS, 0, 0, &flood.settings);
        let mut owed = [PREFACE, &settings, &flood.first].concat();
        let mut number = 1;
        let cut = loop {
            if over.load(Ordering::SeqCst) {
                break false;
            }
            let due = (sys::now() - start) * u64::from(flood.pace) / SECOND;
            // Who is not listened to does not say more.
            while told.said < due && owed.len() < 64 << 10 {
                owed.extend((flood.says)(number));
                number += 2;
                told.said += 1;
            }
            let wrote = match stream.write(&owed) {
                Ok(len) => {
                    owed.drain(..len);
                    true
                }
                Err(e) => e.kind() == ErrorKind::WouldBlock,
            };
            let read = match stream.read(&mut buffer) {
                Ok(len) => len > 0,
                Err(e) => e.kind() == ErrorKind::WouldBlock,
            };
            if !(wrote && read) {
                break true;
            }
            thread::sleep(Duration::from_millis(1));
        };
        told.cuts += u64::from(cut);
    }
    Ok(told)
}
