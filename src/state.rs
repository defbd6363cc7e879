//! The state directory: what outlives the process. The token, the [`audit`] log, the levers that are pulled, the operators' socket.
//!
//! It is this user's alone. A proxy without one serves all the same; what needs it says so and is not to be had.

pub mod audit;
pub mod kept;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The operators' socket, where the config has no other place for it.
pub const SOCKET: &str = "admin.sock";
/// The token that opens the admin API over TCP, where the config has no other.
pub const TOKEN: &str = "token";
/// The levers that are pulled.
pub const LEVERS: &str = "levers.json";
/// The configs that were in force.
pub const CONFIGS: &str = "configs.json";
/// How far this proxy has read what its fleet tells.
pub const FLEET: &str = "fleet.json";
/// The audit log.
pub const AUDIT: &str = "audit.jsonl";

/// A state directory that is there and can be written.
#[derive(Clone, Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// Opens a directory, and makes it first where it isn't there, for this user alone.
    ///
    /// # Errors
    /// It can't be made or written, or anybody could write in it.
    pub fn open(path: &Path) -> io::Result<Dir> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        access(path, Access::WRITE_OK | Access::EXEC_OK)?;
        match fs::metadata(path)?.mode() & 0o002 {
            0 => Ok(Dir(path.to_owned())),
            _ => Err(io::Error::other("anybody may write there")),
        }
    }

    /// The first of several that can be had.
    ///
    /// # Errors
    /// None of them can; why, of each, for people.
    pub fn first(paths: &[PathBuf]) -> Result<Dir, String> {
        let mut why = Vec::new();
        for path in paths {
            match Dir::open(path) {
                Ok(dir) => return Ok(dir),
                Err(error) => why.push(format!("{}: {error}", path.display())),
            }
        }
        Err(why.join("; "))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a file of this name is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes a file that this user alone can read: whole, or not at all, and never over one that is there. Whether it did.
    ///
    /// # Errors
    /// It can't be written.
    pub fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let beside = self.file(&format!("{name}.{}.new", std::process::id()));
        let made = write_new(&beside, bytes).and_then(|()| {
            match fs::hard_link(&beside, self.file(name)) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(error),
            }
        });
        // It has its other name, or is of no use.
        let _ = fs::remove_file(&beside);
        if made.as_ref().is_ok_and(|made| *made) {
            File::open(&self.0)?.sync_all()?;
        }
        made
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Where the state of a proxy is that listens at `port` and whose config doesn't say, the best place first; `env` tells the
/// environment.
pub fn places(port: u16, env: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    // Of systemd's several directories (systemd.exec, `StateDirectory=`) the first is it.
    if let Some(given) = set("STATE_DIRECTORY") {
        return given.split(':').take(1).map(PathBuf::from).collect();
    }
    let port = port.to_string();
    let home = || Some(PathBuf::from(set("HOME")?).join(".local/state"));
    let own = set("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
    let mut places = vec![Path::new("/var/lib/tidegate").join(&port)];
    places.extend(own.map(|own| own.join("tidegate").join(&port)));
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_this_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some/where");
        let dir = Dir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert!(dir.create("token", b"one").unwrap());
        assert_eq!(mode(&dir.file("token")), 0o600);
        assert!(!dir.create("token", b"two").unwrap());
        assert_eq!(fs::read(dir.file("token")).unwrap(), b"one");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let why = Dir::open(&path).unwrap_err().to_string();
        assert!(why.contains("anybody"), "{why}");
    }

    #[test]
    fn the_first_that_can_be_had_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let places = [file.join("below"), folder.path().join("own")];
        assert_eq!(Dir::first(&places).unwrap().path(), places[1]);
        let why = Dir::first(&places[..1]).unwrap_err();
        assert!(why.contains("file/below"), "{why}");
    }

    #[test]
    fn places_by_what_the_environment_says() {
        let places = |set: &'static [(&str, &str)]| {
            let env = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let places = places(80, env);
            places
                .iter()
                .map(|place| place.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(places(&[]), ["/var/lib/tidegate/80"]);
        assert_eq!(
            places(&[("HOME", "/home/a")]),
            ["/var/lib/tidegate/80", "/home/a/.local/state/tidegate/80"]
        );
        assert_eq!(
            places(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "/s")]),
            ["/var/lib/tidegate/80", "/s/tidegate/80"]
        );
        assert_eq!(places(&[("STATE_DIRECTORY", "/s:/t")]), ["/s"]);
    }
}
