//! Many connections: caps in all and for each client, and files kept for those who need them.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use super::site::{Client, Gate, Origin, Site, answer, equal, eventually};
use super::{Outcome, Test};
use crate::harness::wire::Conn;

/// Every test here, with its name.
pub fn tests() -> Vec<Test> {
    vec![
        ("guests::c66_the_longest_idle_make_room", c66_idle_make_room),
        ("guests::c66_who_is_served_is_not_shed", c66_busy_stay),
        (
            "guests::c66_files_are_kept_for_origins_and_operators",
            c66_files,
        ),
        (
            "guests::c67_one_client_does_not_crowd_out_the_others",
            c67_one_client,
        ),
    ]
}

fn origin() -> Result<Origin, String> {
    Origin::start(|_, conn: &mut Conn| answer(conn, 200, "Cache-Control: max-age=60\r\n", b"page"))
}

/// Clients that have been answered once and stay.
fn idle(site: &Site, count: usize) -> Result<Vec<Client>, String> {
    let one = |_| {
        let mut client = site.client()?;
        client.get("/", "")?.is(200)?;
        Ok(client)
    };
    (0..count).map(one).collect()
}

/// How many of them are still served.
fn alive(clients: &mut [Client]) -> usize {
    let replies = clients.iter_mut().map(|client| client.get("/", ""));
    replies
        .filter(|reply| reply.as_ref().is_ok_and(|reply| reply.status == 200))
        .count()
}

fn c66_idle_make_room() -> Outcome {
    let origin = origin()?;
    let site = Site::start(
        origin.address,
        "[listen]\nmax_connections = 64\nmax_connections_per_client = 1000",
    )?;
    let mut early = idle(&site, 64)?;
    let mut late = idle(&site, 32)?;
    equal("the late", alive(&mut late), 32)?;
    let shed = site.metric("tidegate_connections_shed_total")?;
    equal("the early", alive(&mut early), 64 - shed as usize)?;
    if !(32.0..=64.0).contains(&shed) {
        return Err(format!("{shed} were shed"));
    }
    let first = alive(&mut early[..16]);
    equal("of the first", first, 0)?;
    equal(
        "refused",
        site.metric("tidegate_connections_refused_total")?,
        0.0,
    )
}

fn c66_busy_stay() -> Outcome {
    let gate = Arc::new(Gate::default());
    let door = Arc::clone(&gate);
    let origin = Origin::start(move |_, conn: &mut Conn| {
        door.wait();
        answer(conn, 200, "", b"page")
    })?;
    let site = Site::start(
        origin.address,
        "[listen]\nmax_connections = 8\nmax_connections_per_client = 1000",
    )?;
    // Whoever looked whether it listens has come and gone.
    site.until("tidegate_connections_total", |n| n >= 1.0)?;
    site.until("tidegate_connections_open", |n| n == 0.0)?;
    let mut busy: Vec<Client> = (0..8).map(|_| site.client()).collect::<Result<_, _>>()?;
    for (at, client) in busy.iter_mut().enumerate() {
        client.send("GET", &format!("/{at}"), "", b"")?;
    }
    eventually("all are with the origin", || {
        Ok((origin.asked("GET") == 8).then_some(()))
    })?;
    if let Ok(reply) = site.get("/", "") {
        return Err(format!("let in: {reply:?}"));
    }
    site.until("tidegate_connections_refused_total", |n| n >= 1.0)?;
    gate.open();
    for client in &mut busy {
        client.reply("GET")?.is(200)?;
    }
    // They are idle now: there is room again.
    site.get("/", "")?.is(200).map(drop)
}

fn c66_files() -> Outcome {
    let origin = origin()?;
    let more = "[listen]\nmax_connections_per_client = 100000";
    let site = Site::start_after("ulimit -n 200; exec", origin.address, more)?;
    let mut all = idle(&site, 600)?;
    // A page that has to be fetched, and an operator who looks.
    site.get("/cold", "")?.is(200)?;
    let shed = site.metric("tidegate_connections_shed_total")?;
    if shed < 400.0 {
        return Err(format!("{shed} were shed, of 200 files"));
    }
    equal(
        "refused",
        site.metric("tidegate_connections_refused_total")?,
        0.0,
    )?;
    let newest = all.len() - 20;
    equal("the newest", alive(&mut all[newest..]), 20)
}

/// A client that comes from an address of its own.
pub fn from(address: Ipv4Addr, to: SocketAddr) -> Result<Client, String> {
    let told = |e: std::io::Error| e.to_string();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(told)?;
    socket
        .bind(&SocketAddr::from((address, 0)).into())
        .map_err(told)?;
    socket.connect(&to.into()).map_err(told)?;
    Client::over(TcpStream::from(socket))
}

fn c67_one_client() -> Outcome {
    let origin = origin()?;
    let site = Site::start(origin.address, "[listen]\nmax_connections = 100")?;
    let greedy = Ipv4Addr::new(127, 0, 0, 2);
    let mut theirs: Vec<Client> = Vec::new();
    for _ in 0..60 {
        theirs.push(from(greedy, site.address)?);
    }
    equal("served", alive(&mut theirs), 25)?;
    equal(
        "refused",
        site.metric("tidegate_connections_refused_total")?,
        35.0,
    )?;
    for _ in 0..20 {
        site.get("/", "")?.is(200)?;
    }
    // What it lets go of it may have again.
    drop(theirs);
    eventually("a place for it", || {
        let reply = from(greedy, site.address).and_then(|mut client| client.get("/", ""));
        Ok(reply.is_ok().then_some(()))
    })
}
