//! Files that may change while they are in use: whether one has, and all that is in it; and who looks, off the road.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

/// How often files are looked at, for all but the config.
pub const LOOK: Duration = Duration::from_secs(1);

/// Has `look` look from a thread of its own, as long as it says true.
///
/// # Errors
/// No thread can be had.
pub fn watch(
    name: &str,
    every: Duration,
    mut look: impl FnMut() -> bool + Send + 'static,
) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    let looks = move || {
        loop {
            std::thread::sleep(every);
            if !look() {
                return;
            }
        }
    };
    thread.spawn(looks).map(drop)
}

/// What tells that a file has changed: its inode, size and the time of its last change, or of the last to who may read it; none
/// while it can't be seen. Behind a symbolic link it is the file's that the link leads to.
pub type Stamp = Option<(u64, u64, i64, i64)>;

/// Where secrets of containers are, readable by all who are in there.
const MOUNTED: &str = "/run/secrets";

/// Whether everybody on this machine can read what nobody should.
pub fn is_open(path: &Path) -> bool {
    let about = fs::metadata(path);
    about.is_ok_and(|about| about.mode() & 0o004 != 0) && !path.starts_with(MOUNTED)
}

/// A file's.
pub fn stamp(path: &Path) -> Stamp {
    let about = fs::metadata(path).ok()?;
    Some((about.ino(), about.size(), about.ctime(), about.ctime_nsec()))
}

/// What was taken, and what was there at the last look: the stamp of a file, or of several.
pub struct Seen<S> {
    taken: S,
    last: S,
}

impl<S: PartialEq + Clone> Seen<S> {
    /// To be made before anything is read.
    pub fn first(taken: S) -> Seen<S> {
        let last = taken.clone();
        Seen { taken, last }
    }

    /// Whether it is another than what was taken, and whoever wrote it has finished: it was the same twice. Then it counts
    /// as taken.
    pub fn has_changed(&mut self, now: S) -> bool {
        let changed = now != self.taken && now == self.last;
        if changed {
            self.taken = now.clone();
        }
        self.last = now;
        changed
    }
}

/// A file that is looked at now and then.
pub struct Watched {
    path: PathBuf,
    seen: Mutex<Seen<Stamp>>,
}

impl Watched {
    /// To be made before the file is first read.
    pub fn new(path: &Path) -> Watched {
        Watched {
            path: path.to_owned(),
            seen: Mutex::new(Seen::first(stamp(path))),
        }
    }

    /// Whether it has changed since it was last taken. Then it counts as taken.
    pub fn has_changed(&self) -> bool {
        self.seen.lock().has_changed(stamp(&self.path))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// It can't be read; for people.
    pub fn read(&self) -> Result<Vec<u8>, String> {
        fs::read(&self.path).map_err(|error| self.told(&error))
    }

    fn told(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_change_counts_once_and_when_it_stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        fs::write(&path, "one").unwrap();
        let watched = Watched::new(&path);
        assert!(!watched.has_changed() && !watched.has_changed());
        fs::write(&path, "one and").unwrap();
        assert!(!watched.has_changed());
        fs::write(&path, "one and two").unwrap();
        assert!(!watched.has_changed());
        assert!(watched.has_changed());
        assert!(!watched.has_changed());
        fs::remove_file(&path).unwrap();
        assert!(!watched.has_changed());
        assert!(watched.has_changed());
        assert!(watched.read().unwrap_err().contains("list: "));
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_a_change() {
        // As mounted secrets and config maps are changed.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["first", "second"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("list"), "same").unwrap();
        }
        symlink("first", at("current")).unwrap();
        symlink("current/list", at("list")).unwrap();
        let watched = Watched::new(&at("list"));
        symlink("second", at("next")).unwrap();
        fs::rename(at("next"), at("current")).unwrap();
        assert!(!watched.has_changed());
        assert!(watched.has_changed());
    }
}
