//! Opening a file below a directory and nowhere else, whatever its name is and whoever changes the directory meanwhile.
//!
//! The kernel resolves the whole way beneath the directory and follows no link (openat2, since Linux 5.6). Where it has no such call, or
//! a container's filter keeps it from us, each step is opened by itself, and none of them through a link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Nothing waits for the other end of a pipe, and no terminal becomes ours.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// The kernel gives up where names change at the very moment.
const TRIES: usize = 8;

/// Opens a file below `dir` for reading; whatever it is.
///
/// # Errors
/// It is not there, or the way to it leads out of `dir` or through a link.
pub fn read(dir: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(dir, path, READ)
}

/// Opens a folder below `dir`, to find others below it.
///
/// # Errors
/// As with [`read`], or it is no folder.
pub fn folder(dir: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(dir, path, FOLDER)
}

fn open(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    static IS_MISSING: AtomicBool = AtomicBool::new(false);
    if IS_MISSING.load(Ordering::Relaxed) {
        return by_steps(dir, path, flags);
    }
    match at_once(dir, path, flags) {
        // Filters of containers say EPERM of calls that they don't know.
        Err(Errno::NOSYS | Errno::PERM) => {
            let opened = by_steps(dir, path, flags)?;
            IS_MISSING.store(true, Ordering::Relaxed);
            Ok(opened)
        }
        opened => Ok(opened?),
    }
}

fn at_once(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), within) {
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

fn by_steps(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut steps = path.split(|byte| *byte == b'/').peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(step) = steps.next() {
        if matches!(step, b"" | b"." | b"..") {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let is_last = steps.peek().is_none();
        let flags = if is_last { flags } else { FOLDER } | OFlags::NOFOLLOW;
        let from = at.as_ref().map_or(dir, AsFd::as_fd);
        at = Some(rustix::fs::openat(from, step, flags, Mode::empty())?);
    }
    at.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::fs::symlink;

    type Way = fn(BorrowedFd<'_>, &[u8], OFlags) -> io::Result<OwnedFd>;
    const WAYS: [Way; 2] = [|dir, path, flags| Ok(at_once(dir, path, flags)?), by_steps];

    #[test]
    fn c56_what_lies_beneath_is_opened_and_nothing_else() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/page"), "page").unwrap();
        symlink(outside.path(), at("out")).unwrap();
        symlink(outside.path().join("secret"), at("file")).unwrap();
        symlink("a", at("within")).unwrap();
        symlink("/proc/self/root", at("magic")).unwrap();
        let dir = File::open(folder.path()).unwrap();
        for way in WAYS {
            let opened = way(dir.as_fd(), b"a/b/page", READ).unwrap();
            let mut text = String::new();
            File::from(opened).read_to_string(&mut text).unwrap();
            assert_eq!(text, "page");
            assert!(way(dir.as_fd(), b"a/b", FOLDER).is_ok());
            let absolute = outside.path().join("secret");
            for path in [
                "out/secret",
                "file",
                "within/b/page",
                "magic/etc/passwd",
                "a/../../secret",
                "a/b/../b/../../../etc/passwd",
                "..",
                "",
                "a/b/none",
                absolute.to_str().unwrap(),
            ] {
                assert!(way(dir.as_fd(), path.as_bytes(), READ).is_err(), "{path}");
            }
            for path in ["out", "within", "a/b/page"] {
                assert!(way(dir.as_fd(), path.as_bytes(), FOLDER).is_err(), "{path}");
            }
        }
    }
}
