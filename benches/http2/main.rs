//! HTTP/2: CPU time per cached page beside nginx, in clear and over TLS; and what an idle connection takes.
//!
//! h2load asks: 32 connections with 16 streams each, a page of 10 KB. Each server has one core, h2load the other; short
//! turns, one after the other, and a ratio is the median of the rounds' own, as in `peers`.

#![expect(unsafe_code, reason = "pinning and signals are system calls")]

#[expect(dead_code, reason = "each program uses its own part")]
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use support::args::{self, Args};
use support::origin::{Origin, Plan};
use support::process::{Server, find, taken};
use support::report::{Checks, count, median, spread, table};
use support::sys;
use support::tidegate::{Folder, binary};

const PAGE: usize = 10 << 10;
const REQUESTS: u64 = 60_000;
/// The least ratio of nginx's CPU per request to ours: in clear, over TLS.
const AHEAD: [(Tls, f64); 2] = [(Tls(false), 1.4), (Tls(true), 1.1)];
/// The most resident memory of an idle connection.
const IDLE: f64 = 6.0 * 1024.0;

/// A server that speaks HTTP/2 in one way.
struct Contender {
    name: &'static str,
    server: Server,
    port: u16,
}

/// Whether over TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tls(bool);

impl Tls {
    fn name(self) -> &'static str {
        if self.0 { "TLS" } else { "clear" }
    }

    fn url(self, port: u16) -> String {
        format!(
            "{}://127.0.0.1:{port}/10k",
            if self.0 { "https" } else { "http" }
        )
    }
}

fn main() -> ExitCode {
    args::run(
        "http2",
        "HTTP/2 beside nginx, in clear and over TLS; memory of idle connections.",
        &[
            ("--rounds", "rounds, 15"),
            ("--idle", "idle connections, 10000"),
        ],
        compare,
    )
}

fn compare(args: &Args) -> Result<Checks, String> {
    let rounds = args.number("--rounds", if args.quick { 2 } else { 15 });
    let (server_core, client_core) = sys::cores();
    sys::pin(client_core);
    let (dir, shm) = (
        Folder::temporary("http2"),
        Folder::below(Path::new("/dev/shm"), "http2"),
    );
    let origin = Origin::start(client_core, false, |_| Plan::Page {
        delay: Duration::ZERO,
        len: PAGE,
        cache_control: "public, max-age=36000",
    });
    let certificate = certificate(dir.path())?;
    let h2load = find("h2load").ok_or("h2load is not installed (package nghttp2-client)")?;
    let place = Place {
        dir: dir.path(),
        shm: shm.path(),
        origin: origin.port,
        certificate: &certificate,
        core: server_core,
    };
    let nginx = find("nginx");
    if nginx.is_none() {
        println!("skipped: nginx is not installed");
    }
    let mut checks = Checks::default();
    println!(
        "{rounds} rounds of {} requests, 32 connections of 16 streams, server on core {server_core}, h2load on core {client_core}, {}\n",
        count(REQUESTS),
        sys::processor()
    );
    for (way, least) in AHEAD {
        let mut contenders = vec![tidegate(&place, way)?];
        if let Some(nginx) = &nginx {
            contenders.push(peer(nginx, &place, way)?);
        }
        let mut samples: Vec<Vec<(f64, f64)>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..=rounds as usize {
            for turn in 0..contenders.len() {
                let number = (turn + round) % contenders.len();
                let contender = &contenders[number];
                let sample = run(&h2load, &contender.server, &way.url(contender.port))?;
                // The first is to warm.
                if round > 0 {
                    samples[number].push(sample);
                }
            }
        }
        let cpu = |at: usize| samples[at].iter().map(|s| s.0).collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = contenders
            .iter()
            .enumerate()
            .map(|(at, contender)| {
                let rate = median(&samples[at].iter().map(|s| s.1).collect::<Vec<_>>());
                vec![
                    contender.name.to_owned(),
                    format!("{:.2}", median(&cpu(at))),
                    format!("{:.0} %", spread(&cpu(at)) * 100.0),
                    count(rate as u64),
                    format!("{:.2}", ratio(&cpu(at), &cpu(0))),
                ]
            })
            .collect();
        println!(
            "{}",
            table(
                &[
                    way.name(),
                    "CPU µs/request",
                    "spread",
                    "requests/s",
                    "to ours"
                ],
                &rows
            )
        );
        if contenders.len() > 1 {
            let ratio = ratio(&cpu(1), &cpu(0));
            checks.check(
                ratio >= least,
                format!("{}: nginx's CPU at least {least} times ours", way.name()),
                format!("{ratio:.2}"),
            );
        }
    }
    let ours = tidegate(&place, Tls(false))?;
    idle(
        &ours,
        args.number("--idle", if args.quick { 500 } else { 10_000 }),
        &mut checks,
    )?;
    Ok(checks)
}

fn ratio(over: &[f64], under: &[f64]) -> f64 {
    median(
        &over
            .iter()
            .zip(under)
            .map(|(over, under)| over / under)
            .collect::<Vec<_>>(),
    )
}

/// CPU microseconds a request, and requests a second.
fn run(h2load: &Path, server: &Server, url: &str) -> Result<(f64, f64), String> {
    let before = server.cpu();
    let output = Command::new(h2load)
        .args(["-n", &REQUESTS.to_string(), "-c", "32", "-m", "16", url])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("h2load: {e}"))?;
    let cpu = server.cpu().since(&before) as f64 / 1e3 / REQUESTS as f64;
    let said = String::from_utf8_lossy(&output.stdout);
    let whole = format!("{REQUESTS} succeeded, 0 failed, 0 errored");
    if !said.contains(&whole) {
        return Err(format!("{url}: not every request succeeded:\n{said}"));
    }
    let rate = said
        .split(" req/s")
        .next()
        .and_then(|before| before.rsplit(' ').next()?.parse().ok());
    Ok((cpu, rate.unwrap_or(0.0)))
}

/// What connections take that have been answered once and stay.
fn idle(ours: &Contender, most: u64, checks: &mut Checks) -> Result<(), String> {
    let one = || -> Result<TcpStream, String> {
        let told = |e: std::io::Error| format!("connection: {e}");
        let mut stream = TcpStream::connect(("127.0.0.1", ours.port)).map_err(told)?;
        stream
            .write_all(b"GET /small HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .map_err(told)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .map_err(told)?;
        let (mut read, mut buffer) = (0, vec![0; 16 << 10]);
        while read < PAGE {
            match stream.read(&mut buffer).map_err(told)? {
                0 => return Err("closed".into()),
                n => read += n,
            }
        }
        Ok(stream)
    };
    drop(one()?);
    let before = taken(ours.server.pid()).resident;
    let held = (0..most).map(|_| one()).collect::<Result<Vec<_>, _>>()?;
    let each =
        (taken(ours.server.pid()).resident.saturating_sub(before)) as f64 / held.len() as f64;
    checks.check(
        each <= IDLE,
        format!(
            "{} idle connections: at most 6 KiB of resident memory each",
            count(most)
        ),
        format!("{:.2} KiB", each / 1024.0),
    );
    Ok(())
}

struct Place<'a> {
    dir: &'a Path,
    /// On tmpfs.
    shm: &'a Path,
    origin: u16,
    certificate: &'a Path,
    core: usize,
}

fn tidegate(place: &Place, tls: Tls) -> Result<Contender, String> {
    let port = sys::free_port();
    let speaks = match tls {
        Tls(true) => format!("certificates = [{:?}]", place.certificate),
        Tls(false) => "h2c = true".to_owned(),
    };
    let config = format!(
        "[listen]\naddress = \"127.0.0.1:{port}\"\nthreads = 1\nmax_connections_per_client = 100000\n{speaks}\n\
         [admin]\naddress = \"127.0.0.1:{}\"\n[log]\naccess = \"{}/tidegate-access.log\"\n\
         [[upstream]]\nservers = [\"http://127.0.0.1:{}\"]\n",
        sys::free_port(),
        place.dir.display(),
        place.origin
    );
    let file = place.dir.join("tidegate.toml");
    fs::write(&file, config).map_err(|e| e.to_string())?;
    let mut command = Command::new(binary()?);
    command.arg("run").arg("-c").arg(&file);
    command.env("STATE_DIRECTORY", place.dir.join("state"));
    let output = place.dir.join("tidegate.out");
    Ok(Contender {
        name: "tidegate",
        server: Server::start(&mut command, place.core, port, &output)?,
        port,
    })
}

fn peer(nginx: &Path, place: &Place, tls: Tls) -> Result<Contender, String> {
    let port = sys::free_port();
    let filled = include_str!("nginx.conf")
        .replace("{user}", if sys::is_root() { "user root;" } else { "" })
        .replace("{dir}", &place.dir.display().to_string())
        .replace("{shm}", &place.shm.display().to_string())
        .replace("{certificate}", &place.certificate.display().to_string())
        .replace("{origin}", &place.origin.to_string())
        .replace("{port}", &port.to_string())
        .replace("{ssl}", if tls.0 { "ssl" } else { "" });
    let config = place.dir.join("nginx.conf");
    fs::write(&config, filled).map_err(|e| e.to_string())?;
    let mut command = Command::new(nginx);
    command.arg("-p").arg(place.dir).arg("-c").arg(&config);
    Ok(Contender {
        name: "nginx",
        server: Server::start(&mut command, place.core, port, &place.dir.join("nginx.out"))?,
        port,
    })
}

fn certificate(dir: &Path) -> Result<PathBuf, String> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let made = made.map_err(|e| e.to_string())?;
    let folder = dir.join("certificate");
    fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    for (name, text) in [
        ("fullchain.pem", made.cert.pem()),
        ("privkey.pem", made.signing_key.serialize_pem()),
    ] {
        fs::write(folder.join(name), text).map_err(|e| e.to_string())?;
    }
    Ok(folder)
}
