//! Who is measured: a proxy, freshly started, in front of origins of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tidegate::bench::origin::{Origin, Plan, THREAD};

use super::support::process::{Server, find};
use super::support::sys;
use super::support::tidegate::binary;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    Tidegate,
    Nginx,
    Varnish,
}

impl Which {
    pub fn name(self) -> &'static str {
        match self {
            Which::Tidegate => "tidegate",
            Which::Nginx => "nginx",
            Which::Varnish => "varnish",
        }
    }
}

/// What a measurement sets beside what is always set: each proxy's best for it.
pub struct Settings {
    /// Lines below `[[upstream]]` and `[[route]]`.
    tidegate: [String; 2],
    /// Lines in `http`, the first of `upstream`, what follows each server's address, lines in `location`.
    nginx: [String; 4],
    /// Lines in each backend, and subroutines.
    varnish: [String; 2],
}

impl Settings {
    pub fn new(tidegate: [&str; 2], nginx: [&str; 4], varnish: [&str; 2]) -> Settings {
        Settings {
            tidegate: tidegate.map(str::to_owned),
            nginx: nginx.map(str::to_owned),
            varnish: varnish.map(str::to_owned),
        }
    }
}

/// Where they run.
pub struct Place<'a> {
    pub dir: &'a Path,
    /// On tmpfs.
    pub shm: &'a Path,
    pub core: usize,
}

/// A proxy and its origins, which end with it.
pub struct Stand {
    pub which: Which,
    pub address: SocketAddr,
    /// Before the origins: it goes first.
    _server: Server,
    pub origins: Vec<Origin>,
}

/// Those that are installed, ours first.
pub fn contenders() -> Vec<Which> {
    let peers = [(Which::Nginx, "nginx"), (Which::Varnish, "varnishd")];
    let mut all = vec![Which::Tidegate];
    for (which, program) in peers {
        match find(program) {
            Some(_) => all.push(which),
            None => println!("skipped: {} is not installed", which.name()),
        }
    }
    all
}

/// Starts origins by `plans` and a proxy in front of them.
pub fn stand(
    which: Which,
    place: &Place,
    settings: &Settings,
    plans: &[Plan],
) -> Result<Stand, String> {
    let origins = plans
        .iter()
        .cloned()
        .map(Origin::start)
        .collect::<Result<Vec<_>, _>>();
    let origins = origins.map_err(|e| format!("origin: {e}"))?;
    // An origin is another machine: it is not to wait for the crowd to leave it the core.
    if !sys::come_first(THREAD) {
        println!(
            "! origins share their core with the crowd as equals: they come late, whoever asks"
        );
    }
    let ports: Vec<u16> = origins.iter().map(|origin| origin.address.port()).collect();
    let port = sys::free_port();
    let name = which.name();
    let dir = place.dir.join(format!("{name}-{port}"));
    let shm = place.shm.join(format!("{name}-{port}"));
    for folder in [&dir, &shm] {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let own = Place {
        dir: &dir,
        shm: &shm,
        core: place.core,
    };
    let mut command = match which {
        Which::Tidegate => tidegate(&own, settings, port, &ports)?,
        Which::Nginx => nginx(&own, settings, port, &ports)?,
        Which::Varnish => varnish(&own, settings, port, &ports)?,
    };
    let server = Server::start(&mut command, place.core, port, &dir.join("output"))?;
    Ok(Stand {
        which,
        address: ([127, 0, 0, 1], port).into(),
        _server: server,
        origins,
    })
}

fn tidegate(
    place: &Place,
    settings: &Settings,
    port: u16,
    origins: &[u16],
) -> Result<Command, String> {
    let servers: Vec<String> = origins
        .iter()
        .map(|port| format!("\"http://127.0.0.1:{port}\""))
        .collect();
    let [upstream, route] = &settings.tidegate;
    let config = format!(
        "[listen]\naddress = \"127.0.0.1:{port}\"\nthreads = 1\n\n[admin]\naddress = \"127.0.0.1:{}\"\n\n\
         [log]\naccess = \"{}/access.log\"\n\n[[upstream]]\nname = \"origin\"\nservers = [{}]\n{upstream}\n\n\
         [[route]]\nupstream = \"origin\"\n{route}\n",
        sys::free_port(),
        place.dir.display(),
        servers.join(", ")
    );
    let file = write(place, "tidegate.toml", config)?;
    let mut command = Command::new(binary()?);
    command.arg("run").arg("-c").arg(file);
    command.env("STATE_DIRECTORY", place.dir.join("state"));
    Ok(command)
}

fn nginx(
    place: &Place,
    settings: &Settings,
    port: u16,
    origins: &[u16],
) -> Result<Command, String> {
    let [zones, balance, server, location] = &settings.nginx;
    let servers: Vec<String> = origins
        .iter()
        .map(|port| format!("        server 127.0.0.1:{port} {server};"))
        .collect();
    let config = include_str!("nginx.conf")
        .replace("{user}", if sys::is_root() { "user root;" } else { "" })
        .replace("{dir}", &place.dir.display().to_string())
        .replace("{shm}", &place.shm.display().to_string())
        .replace("{port}", &port.to_string())
        .replace("{zones}", zones)
        .replace("{balance}", balance)
        .replace("{servers}", &servers.join("\n"))
        .replace("{location}", location);
    let file = write(place, "nginx.conf", config)?;
    let mut command = Command::new(find("nginx").ok_or("nginx is not installed")?);
    command.arg("-p").arg(place.dir).arg("-c").arg(file);
    Ok(command)
}

fn varnish(
    place: &Place,
    settings: &Settings,
    port: u16,
    origins: &[u16],
) -> Result<Command, String> {
    let [backend, rules] = &settings.varnish;
    let servers = origins.iter().enumerate().map(|(number, port)| {
        format!("backend s{number} {{\n    .host = \"127.0.0.1\";\n    .port = \"{port}\";\n{backend}\n}}\n")
    });
    let members = (0..origins.len()).map(|number| format!("    origin.add_backend(s{number});\n"));
    let config = include_str!("varnish.vcl")
        .replace("{servers}", &servers.collect::<String>())
        .replace("{members}", &members.collect::<String>())
        .replace("{rules}", rules);
    let file = write(place, "varnish.vcl", config)?;
    let mut command = Command::new(find("varnishd").ok_or("varnish is not installed")?);
    // Threads for a crowd at hand; by default they are made while it waits, and most of it is turned away.
    let words = [
        "thread_pools=1",
        "thread_pool_min=1000",
        "thread_queue_limit=4000",
    ];
    command.args(["-F", "-j", "none", "-s", "malloc,256m", "-a"]);
    command
        .arg(format!("127.0.0.1:{port}"))
        .arg("-f")
        .arg(file)
        .arg("-n")
        .arg(place.dir.join("own"));
    words.iter().for_each(|word| {
        command.args(["-p", word]);
    });
    Ok(command)
}

fn write(place: &Place, name: &str, config: String) -> Result<std::path::PathBuf, String> {
    let file = place.dir.join(name);
    fs::write(&file, config).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(file)
}
