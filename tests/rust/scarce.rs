//! Running out: of files, of memory, of disk below the logs; and bodies larger than all memory.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::site::{Client, Gate, Origin, Site, answer, binary, equal, eventually};
use super::{Outcome, Test};
use crate::harness::proxy::{NO_STATE, free_port};
use crate::harness::wire::{Conn, PATIENCE};

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("scarce::c68_an_upload_without_end_streams", c68_upload),
        ("scarce::c68_a_download_without_end_streams", c68_download),
        ("scarce::c87_out_of_files_hits_go_on", c87_files),
        (
            "scarce::room_for_a_crowds_files_is_made_before_it_comes",
            crowd,
        ),
        ("scarce::c87_out_of_memory_hits_go_on", c87_memory),
        ("scarce::c87_without_room_to_start_it_ends", c87_start),
        ("scarce::c87_full_standard_output_harms_nobody", c87_output),
        ("scarce::c87_the_demo_needs_no_screen", c87_demo),
    ]
}

const MIB: usize = 1 << 20;
/// What a body says it is, and how much of it is sent.
const SAYS: u64 = 10 << 30;
const SENT: usize = 192 * MIB;
/// What the process may take more than before.
const MORE: usize = 20 * MIB;

/// Takes what comes, counts it, and says nothing.
fn sink() -> Result<(SocketAddr, Arc<AtomicU64>), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let taken = Arc::new(AtomicU64::new(0));
    let counts = Arc::clone(&taken);
    thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        let mut buffer = vec![0; 256 << 10];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            counts.fetch_add(len as u64, Ordering::SeqCst);
        }
    });
    Ok((address, taken))
}

/// As little memory as it can be given.
const SMALL: &str = "[listen]\nmax_body = 0\n[cache]\nmax_memory = \"8MiB\"\n";

fn bounded(site: &Site, before: usize) -> Outcome {
    let now = site.proxy.memory()?;
    if now > before + MORE {
        return Err(format!("resident memory went from {before} to {now}"));
    }
    Ok(())
}

fn c68_upload() -> Outcome {
    for chunked in [false, true] {
        let (origin, taken) = sink()?;
        let site = Site::start(origin, SMALL)?;
        let before = site.proxy.memory()?;
        let mut client = site.client()?;
        let framing = if chunked {
            "Transfer-Encoding: chunked\r\n".to_owned()
        } else {
            format!("Content-Length: {SAYS}\r\n")
        };
        let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n");
        client.raw(head.as_bytes())?;
        let piece = if chunked {
            [b"100000\r\n", &vec![b'x'; MIB][..], b"\r\n"].concat()
        } else {
            vec![b'x'; MIB]
        };
        for _ in 0..SENT / MIB {
            client.raw(&piece)?;
            bounded(&site, before)?;
        }
        eventually("the origin has all that was sent", || {
            Ok((taken.load(Ordering::SeqCst) > SENT as u64).then_some(()))
        })?;
        bounded(&site, before)?;
        site.proxy.healthy()?;
    }
    Ok(())
}

fn c68_download() -> Outcome {
    for fields in [
        "Cache-Control: max-age=60\r\n",
        "Cache-Control: private\r\n",
    ] {
        let origin = Origin::start(move |_, conn: &mut Conn| {
            conn.write(
                format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {SAYS}\r\n\r\n").as_bytes(),
            )?;
            let piece = vec![b'x'; MIB];
            while conn.write(&piece).is_ok() {}
            Err("the reader has left".into())
        })?;
        let site = Site::start(origin.address, SMALL)?;
        let before = site.proxy.memory()?;
        let mut stream = TcpStream::connect(site.address).map_err(|e| e.to_string())?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(|e| e.to_string())?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            .map_err(|e| e.to_string())?;
        let mut buffer = vec![0; MIB];
        for _ in 0..SENT / MIB {
            stream.read_exact(&mut buffer).map_err(|e| e.to_string())?;
            bounded(&site, before)?;
        }
        drop(stream);
        site.until("tidegate_origin_in_flight", |n| n == 0.0)?;
        bounded(&site, before)?;
        site.proxy.healthy()?;
    }
    Ok(())
}

/// Descriptors that the process holds.
fn files(pid: u32) -> Result<usize, String> {
    let held = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|e| e.to_string())?;
    Ok(held.count())
}

/// Hundredths of a second of a core that the process has used.
fn used(pid: u32) -> Result<u64, String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| e.to_string())?;
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let times = fields.skip(11).take(2).map(|n| n.parse().unwrap_or(0u64));
    Ok(times.sum())
}

/// Made when it is needed, it has a worker wait for the kernel's other processors, and everybody wait for the worker.
fn crowd() -> Outcome {
    const GUESTS: usize = 3000;
    let origin = Origin::start(|_, conn: &mut Conn| answer(conn, 200, "", b"page"))?;
    let site = Site::start(
        origin.address,
        &format!("[listen]\nmax_connections = {GUESTS}\n"),
    )?;
    site.client()?.get("/", "")?.is(200)?;
    let file = format!("/proc/{}/status", site.pid()?);
    let status = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    let places = line.and_then(|line| line.trim().parse::<usize>().ok());
    match places {
        Some(places) if places >= GUESTS => Ok(()),
        _ => Err(format!("room for {places:?} files")),
    }
}

fn c87_files() -> Outcome {
    const FILES: usize = 100;
    /// With as many at the origin, more than there are files.
    const BUSY: usize = 45;
    let gate = Arc::new(Gate::default());
    let door = Arc::clone(&gate);
    let origin = Origin::start(move |asked, conn: &mut Conn| {
        if asked.target.starts_with("/late") {
            door.wait();
        }
        answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page")
    })?;
    let config = "[listen]\nmax_connections_per_client = 100000\n[[upstream]]\nmax_in_flight = 64";
    let first = format!("ulimit -n {FILES}; exec");
    let site = Site::start_after(&first, origin.address, config)?;
    let pid = site.pid()?;
    let mut kept = site.client()?;
    kept.get("/hot", "")?.is(200)?;
    let mut busy: Vec<Client> = Vec::new();
    for n in 0..BUSY {
        let mut client = site.client()?;
        client.send("GET", &format!("/late-{n}"), "", b"")?;
        busy.push(client);
    }
    eventually("all files are in use", || {
        Ok((files(pid)? >= FILES).then_some(()))
    })?;
    // Others stand at the door: no more than there is room for, half of the files, while nobody is idle.
    let mut newcomers: Vec<Client> = Vec::new();
    for _ in 0..FILES / 2 - BUSY - 1 {
        let mut client = site.client()?;
        client.send("GET", "/hot", "", b"")?;
        newcomers.push(client);
    }
    for _ in 0..200 {
        let reply = kept.get("/hot", "")?.is(200)?;
        equal("a hit", reply.told("hit"), true)?;
    }
    // Whoever can't let anybody in must not try without a pause.
    let before = used(pid)?;
    thread::sleep(Duration::from_secs(1));
    let spent = used(pid)? - before;
    if spent > 50 {
        return Err(format!("it took {spent} % of a core to do nothing"));
    }
    site.proxy.alive()?;
    gate.open();
    let mut served = 0;
    for client in &mut busy {
        let reply = client.reply("GET")?;
        match reply.status {
            200 => served += 1,
            502..=504 => {}
            _ => return Err(format!("{reply:?}")),
        }
    }
    println!("{served} of {BUSY} served, the others told so");
    equal("some are served", served > 0, true)?;
    for client in &mut newcomers {
        client.reply("GET")?.is(200)?;
    }
    drop((busy, newcomers));
    eventually("a page that is not there yet", || {
        let reply = site.get("/cold", "");
        Ok(reply.is_ok_and(|reply| reply.status == 200).then_some(()))
    })?;
    site.proxy.healthy()
}

fn c87_memory() -> Outcome {
    let origin = Origin::start(|asked, conn: &mut Conn| {
        let len = if asked.target.starts_with("/big") {
            MIB
        } else {
            64 << 10
        };
        answer(conn, 200, "Cache-Control: max-age=60\r\n", &vec![b'x'; len])
    })?;
    const CAP: usize = 16 * MIB;
    let config = "[listen]\nmax_connections_per_client = 100000\n[cache]\nmax_memory = \"16MiB\"";
    let site = Site::start(origin.address, config)?;
    let before = site.proxy.memory()?;
    let mut kept = site.client()?;
    let mut asks = 0;
    let mut hot = |times: usize| -> Outcome {
        for _ in 0..times {
            kept.get("/hot", "")?.is(200)?;
        }
        asks += times;
        bounded(&site, before + CAP)
    };
    // More than all others will be, so that it is worth keeping.
    hot(640)?;
    // Readers that take nothing hold what they were promised: five times what there is.
    let mut slow = Vec::new();
    for n in 0..80 {
        let mut client = narrow(&site)?;
        client.send("GET", &format!("/big-{n}"), "", b"")?;
        slow.push(client);
        hot(8).map_err(|why| format!("{n} slow readers: {why}"))?;
    }
    equal("fetches of the hot page", origin.asked("GET /hot"), 1)?;
    let (mut served, mut shed) = (0, 0);
    for n in 0..200 {
        match site.get(&format!("/{n}"), "")?.status {
            200 => served += 1,
            503 => shed += 1,
            status => return Err(format!("{status}")),
        }
        hot(8)?;
    }
    let fetched = origin.asked("GET /hot");
    println!("{served} served, {shed} shed; the hot page: {fetched} fetches, {asks} answers");
    equal("the hot page is kept", fetched * 100 < asks, true)?;
    drop(slow);
    eventually("there is room again", || {
        let reply = site.get("/cold", "");
        Ok(reply.is_ok_and(|reply| reply.status == 200).then_some(()))
    })?;
    bounded(&site, before + CAP)?;
    site.proxy.healthy()
}

/// A client whose kernel takes next to nothing for it.
fn narrow(site: &Site) -> Result<Client, String> {
    let told = |e: std::io::Error| e.to_string();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(told)?;
    socket.set_recv_buffer_size(4096).map_err(told)?;
    socket.connect(&site.address.into()).map_err(told)?;
    Client::over(TcpStream::from(socket))
}

/// With however little it is started: it serves, or it says why not and ends.
fn c87_start() -> Outcome {
    let told = |e: std::io::Error| e.to_string();
    let (mut served, mut ended) = (0, 0);
    for kib in (20_000..=400_000).step_by(20_000) {
        let (address, admin) = (free_port(), free_port());
        let line = format!("ulimit -v {kib}; exec \"$@\"");
        let mut child = Command::new("sh")
            .args(["-c", &line, "sh"])
            .arg(binary())
            .args(["run", "--origin", "http://127.0.0.1:1"])
            .args(["--listen", &address.to_string()])
            .args(["--admin", &admin.to_string()])
            // What it says of a panic is nobody's affair here, and takes memory that is not there.
            .env_remove("RUST_BACKTRACE")
            .env(NO_STATE.0, NO_STATE.1)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(told)?;
        let came = eventually(&format!("it serves or ends, with {kib} KiB"), || {
            if let Some(status) = child.try_wait().map_err(told)? {
                return Ok(Some(Some(status)));
            }
            Ok(TcpStream::connect(address).is_ok().then_some(None))
        });
        let _ = child.kill();
        let _ = child.wait();
        match came? {
            None => served += 1,
            Some(status) if status.success() => return Err(format!("{kib} KiB: {status}")),
            Some(_) => ended += 1,
        }
    }
    println!("{served} served, {ended} ended");
    equal("both were seen", served > 0 && ended > 0, true)
}

fn c87_output() -> Outcome {
    let origin = Origin::start(|_, conn: &mut Conn| {
        answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page")
    })?;
    let config = "[log]\naccess = \"stdout\"\nlevel = \"debug\"";
    let full = "exec >/dev/full 2>/dev/full; exec";
    let site = Site::start_after(full, origin.address, config)?;
    for n in 0..200 {
        site.get(&format!("/{}", n % 10), "")?.is(200)?;
    }
    site.until("tidegate_log_dropped_total", |n| n > 0.0)?;
    site.proxy.healthy()
}

fn c87_demo() -> Outcome {
    let (address, admin) = (free_port(), free_port());
    let full = fs::File::options()
        .write(true)
        .open("/dev/full")
        .map_err(|e| e.to_string())?;
    let mut demo = Command::new(binary())
        .arg("demo")
        .env(NO_STATE.0, NO_STATE.1)
        .args([
            "--listen",
            &address.to_string(),
            "--admin",
            &admin.to_string(),
        ])
        .stdin(Stdio::null())
        .stdout(full)
        .spawn()
        .map_err(|e| e.to_string())?;
    let served = eventually("the demo answers", || {
        if let Ok(Some(ended)) = demo.try_wait() {
            return Err(format!("it ended: {ended}"));
        }
        Ok(Client::connect(address).ok())
    })
    .and_then(|mut client| client.get("/", "")?.is(200));
    let _ = demo.kill();
    let _ = demo.wait();
    served.map(drop)
}
