//! Starts the proxy under test from a config file, on free ports.

use super::process::Server;
use super::sys;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the programs vary; the rest is as the proxy's defaults have it.
pub struct Setup<'a> {
    pub origin: u16,
    pub core: usize,
    /// Lines below `[cache]`.
    pub cache: &'a str,
    /// Lines below `[[upstream]]`.
    pub upstream: &'a str,
    /// Lines below `[[route]]`.
    pub route: &'a str,
    /// Another build than [`binary`] names.
    pub build: Option<PathBuf>,
}

pub struct Tidegate {
    pub server: Server,
    pub port: u16,
    pub log: PathBuf,
}

impl Tidegate {
    /// Starts it with one worker, metrics on and the access log in `folder`.
    pub fn start(folder: &Path, setup: &Setup) -> Result<Tidegate, String> {
        let (port, admin) = (sys::free_port(), sys::free_port());
        let log = folder.join(format!("tidegate-{port}-access.log"));
        let config = format!(
            "[listen]\naddress = \"127.0.0.1:{port}\"\nthreads = 1\n\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n\n\
             [log]\naccess = \"{}\"\n\n\
             [cache]\n{}\n\n\
             [[upstream]]\nname = \"origin\"\nservers = [\"http://127.0.0.1:{}\"]\n{}\n\n\
             [[route]]\nupstream = \"origin\"\n{}\n",
            log.display(),
            setup.cache,
            setup.origin,
            setup.upstream,
            setup.route
        );
        let file = folder.join(format!("tidegate-{port}.toml"));
        fs::write(&file, config).map_err(|e| format!("{}: {e}", file.display()))?;
        let build = match &setup.build {
            Some(build) => build.clone(),
            None => binary()?,
        };
        let mut command = Command::new(build);
        command.arg("run").arg("-c").arg(&file);
        command.env("STATE_DIRECTORY", folder.join("state"));
        let output = folder.join(format!("tidegate-{port}.out"));
        let server = Server::start(&mut command, setup.core, port, &output)?;
        Ok(Tidegate { server, port, log })
    }
}

/// `TIDEGATE_BIN`, or the release binary beside these programs.
pub fn binary() -> Result<PathBuf, String> {
    let named = std::env::var_os("TIDEGATE_BIN").map(PathBuf::from);
    let path = named.unwrap_or_else(|| target().join("release/tidegate"));
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(_) => Err(format!(
            "{} is not there: build it, or name one by TIDEGATE_BIN",
            path.display()
        )),
    }
}

/// Cargo's target folder, found from where this program lies.
pub fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let profile = own
        .ancestors()
        .find(|p| p.ends_with("release") || p.ends_with("debug"));
    profile
        .and_then(Path::parent)
        .map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}

/// A folder of this run's own, removed with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn below(parent: &Path, program: &str) -> Folder {
        let prefix = format!("tidegate-{program}-");
        remove_leftovers(parent, &prefix);
        let path = parent.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    pub fn temporary(program: &str) -> Folder {
        Folder::below(&std::env::temp_dir(), program)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what runs left behind that were ended from outside: folders named after a process that is no more.
fn remove_leftovers(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
