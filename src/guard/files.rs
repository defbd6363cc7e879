//! Files that may change while they are in use: whether one has, and all that is in it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// What tells that a file has changed: its inode, size and the time of its last change; none while it can't be seen. Behind a
/// symbolic link it is the file's that the link leads to.
type Stamp = Option<(u64, u64, i64, i64)>;

/// A file that is looked at now and then.
pub struct Watched {
    path: PathBuf,
    seen: Mutex<Seen>,
}

struct Seen {
    /// When it was last taken.
    taken: Stamp,
    last: Stamp,
}

impl Watched {
    /// To be made before the file is first read.
    pub fn new(path: &Path) -> Watched {
        let now = stamp(path);
        Watched {
            path: path.to_owned(),
            seen: Mutex::new(Seen {
                taken: now,
                last: now,
            }),
        }
    }

    /// Whether it has changed since it was last taken, and whoever wrote it has finished: it was the same twice. Then it
    /// counts as taken.
    pub fn has_changed(&self) -> bool {
        let now = stamp(&self.path);
        let mut seen = self.seen.lock();
        let changed = now != seen.taken && now == seen.last;
        seen.last = now;
        if changed {
            seen.taken = now;
        }
        changed
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

fn stamp(path: &Path) -> Stamp {
    let about = fs::metadata(path).ok()?;
    Some((about.ino(), about.size(), about.ctime(), about.ctime_nsec()))
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
