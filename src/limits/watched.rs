//! Whether a file has changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Inode, size, and the time of the last change to the file or to who may read it; none where it isn't there.
type Stamp = Option<(u64, u64, i64, i64)>;

pub struct Watched {
    path: PathBuf,
    taken: Stamp,
    last: Stamp,
}

impl Watched {
    /// To be made before the file is read for the first time.
    pub fn new(path: &Path) -> Watched {
        let stamp = stamp(path);
        Watched {
            path: path.to_owned(),
            taken: stamp,
            last: stamp,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is another than the last time, and the same as at the last look: whoever writes it has finished.
    pub fn changed(&mut self) -> bool {
        let now = stamp(&self.path);
        let has = now != self.taken && now == self.last;
        if has {
            self.taken = now;
        }
        self.last = now;
        has
    }
}

fn stamp(path: &Path) -> Stamp {
    let about = fs::metadata(path).ok()?;
    Some((about.ino(), about.size(), about.ctime(), about.ctime_nsec()))
}
