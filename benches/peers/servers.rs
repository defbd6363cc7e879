//! The servers that are compared: how each is found, configured and started.

use super::support::process::{Server, find};
use super::support::sys;
use super::support::tidegate::{Setup, Tidegate};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One running server.
pub struct Contender {
    pub name: &'static str,
    pub version: String,
    pub port: u16,
    pub server: Server,
    /// Its access log, if it writes one; emptied between the rounds.
    pub log: Option<PathBuf>,
}

pub struct Place<'a> {
    /// Configs, logs, sockets.
    pub dir: &'a Path,
    /// On tmpfs.
    pub shm: &'a Path,
    pub origin: u16,
    pub core: usize,
    /// What nginx, HAProxy and Varnish are configured with.
    pub configs: [&'a str; 3],
}

struct Peer {
    name: &'static str,
    program: &'static str,
    version_flag: &'static str,
    /// Its place in [`Place::configs`], and the file that is written.
    config: (usize, &'static str),
    log: Option<&'static str>,
    arguments: fn(&Place, &Path, u16) -> Vec<String>,
}

const PEERS: [Peer; 3] = [
    Peer {
        name: "nginx",
        program: "nginx",
        version_flag: "-v",
        config: (0, "nginx.conf"),
        log: Some("nginx-access.log"),
        arguments: |place, config, _| vec!["-p".into(), text(place.dir), "-c".into(), text(config)],
    },
    Peer {
        name: "haproxy",
        program: "haproxy",
        version_flag: "-v",
        config: (1, "haproxy.cfg"),
        log: None,
        arguments: |_, config, _| vec!["-db".into(), "-f".into(), text(config)],
    },
    Peer {
        name: "varnish",
        program: "varnishd",
        version_flag: "-V",
        config: (2, "varnish.vcl"),
        log: None,
        arguments: |place, config, port| {
            let listen = format!("127.0.0.1:{port}");
            let words = [
                "-F",
                "-j",
                "none",
                "-a",
                &listen,
                "-f",
                &text(config),
                "-s",
                "malloc,256m",
                "-p",
                "thread_pools=1",
            ];
            let own = place.dir.join("varnish");
            words
                .iter()
                .map(ToString::to_string)
                .chain(["-n".into(), text(&own)])
                .collect()
        },
    },
];

/// Starts every peer there is, after installing those that are missing; says which are left out, and why.
pub fn start_peers(place: &Place) -> Vec<Contender> {
    install_missing();
    let mut running = Vec::new();
    for peer in &PEERS {
        let Some(program) = find(peer.program) else {
            println!("skipped: {} is not installed and could not be", peer.name);
            continue;
        };
        match start(peer, &program, place) {
            Ok(contender) => running.push(contender),
            Err(why) => println!("skipped: {} does not start: {why}", peer.name),
        }
    }
    running
}

/// This tree's Tidegate, or another `build` of it.
pub fn start_tidegate(
    name: &'static str,
    build: Option<PathBuf>,
    place: &Place,
) -> Result<Contender, String> {
    let setup = Setup {
        origin: place.origin,
        core: place.core,
        cache: "",
        upstream: "",
        route: "",
        build,
    };
    let version = match &setup.build {
        Some(build) => text(build),
        None => "this tree".into(),
    };
    let tidegate = Tidegate::start(place.dir, &setup)?;
    Ok(Contender {
        name,
        version,
        port: tidegate.port,
        server: tidegate.server,
        log: Some(tidegate.log),
    })
}

fn start(peer: &Peer, program: &Path, place: &Place) -> Result<Contender, String> {
    let port = sys::free_port();
    let (which, file) = peer.config;
    let config = place.dir.join(file);
    let filled = place.configs[which]
        .replace("{user}", if sys::is_root() { "user root;" } else { "" })
        .replace("{dir}", &text(place.dir))
        .replace("{shm}", &text(place.shm))
        .replace("{origin}", &place.origin.to_string())
        .replace("{port}", &port.to_string());
    fs::write(&config, filled).map_err(|e| format!("{}: {e}", config.display()))?;
    let mut command = Command::new(program);
    command.args((peer.arguments)(place, &config, port));
    let output = place.dir.join(format!("{}.out", peer.name));
    Ok(Contender {
        name: peer.name,
        version: version(program, peer.version_flag),
        port,
        server: Server::start(&mut command, place.core, port, &output)?,
        log: peer.log.map(|name| place.dir.join(name)),
    })
}

fn install_missing() {
    let missing: Vec<&str> = PEERS
        .iter()
        .filter(|p| find(p.program).is_none())
        .map(|p| p.name)
        .collect();
    if missing.is_empty() {
        return;
    }
    if !sys::is_root() || find("apt-get").is_none() {
        println!(
            "not installed: {}; install them, or run this as root where there is apt-get",
            missing.join(", ")
        );
        return;
    }
    println!(
        "installing {} from the system's packages, without starting them",
        missing.join(", ")
    );
    let script = include_str!("install.sh");
    let output = Command::new("sh")
        .args(["-c", script, "install.sh"])
        .args(&missing)
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            println!(
                "not everything could be installed: {}",
                said.trim().lines().last().unwrap_or("no reason given")
            );
        }
        Err(error) => println!("not installed: {error}"),
    }
}

/// The first number with dots in what the program says of its version.
fn version(program: &Path, flag: &str) -> String {
    let said = Command::new(program)
        .arg(flag)
        .output()
        .map(|o| [o.stdout, o.stderr].concat())
        .unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let mut words = said.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    words
        .find(|word| word.contains('.') && word.len() > 2)
        .unwrap_or("unknown")
        .to_owned()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
