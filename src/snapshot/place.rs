//! The snapshot's directory: this user's alone, and nothing in it is followed anywhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat,
    renameat, unlinkat,
};
use rustix::process::geteuid;

/// What makes sums and tags nobody else's.
pub type Key = [u64; 2];

const KEY: &str = "key";
const LOCK: &str = "lock";
/// What goes when all is to go: pages and purges, and when they were asked for.
const OURS: [&str; 3] = [".pages", ".purged", "recent"];

/// A directory that is there.
#[derive(Debug)]
pub struct Place(OwnedFd);

impl Place {
    /// Opens one, and makes it where it isn't there.
    ///
    /// # Errors
    /// It can't be had, or isn't this user's alone.
    pub fn open(path: &Path) -> io::Result<Place> {
        match mkdirat(CWD, path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Place::look(path)
    }

    /// Opens one that is there.
    ///
    /// # Errors
    /// It isn't, or not this user's alone.
    pub fn look(path: &Path) -> io::Result<Place> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(CWD, path, flags, Mode::empty())?;
        let about = fstat(&dir)?;
        if about.st_uid != geteuid().as_raw() || about.st_mode & 0o022 != 0 {
            return Err(io::Error::other("others may write there"));
        }
        Ok(Place(dir))
    }

    /// A file of it, for this user alone. `flags`: beside those that every file is opened with.
    ///
    /// # Errors
    /// It can't be opened, or is not a file of this user's.
    pub fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // Without NONBLOCK a pipe in its place would be waited for.
        let always = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = openat(&self.0, name, flags | always, Mode::RUSR | Mode::WUSR)?;
        let about = fstat(&file)?;
        let is_file = FileType::from_raw_mode(about.st_mode) == FileType::RegularFile;
        match is_file && about.st_uid == geteuid().as_raw() {
            true => Ok(file.into()),
            false => Err(io::Error::other("no file of this user's")),
        }
    }

    /// A file that was not there before.
    ///
    /// # Errors
    /// It was, or can't be made.
    pub fn create(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    /// Puts `bytes` in place of a file: all of them, or none.
    ///
    /// # Errors
    /// They can't be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = format!("{name}.{}.new", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mut file = self.file(&beside, flags)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        let moved = written.and_then(|()| Ok(renameat(&self.0, &beside, &self.0, name)?));
        if moved.is_err() {
            // It is of no use.
            let _ = self.remove(&beside);
        }
        moved
    }

    /// The whole of a file of at most `most` bytes.
    ///
    /// # Errors
    /// It isn't there, can't be read, or is longer.
    pub fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.file(name, OFlags::RDONLY)?;
        file.take(most + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > most {
            true => Err(io::ErrorKind::InvalidData.into()),
            false => Ok(bytes),
        }
    }

    /// # Errors
    /// It isn't there, or can't be taken away.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// The names in it.
    ///
    /// # Errors
    /// It can't be read.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// Takes all pages away, and what is known of them.
    ///
    /// # Errors
    /// Something stays.
    pub fn clear(&self) -> io::Result<()> {
        let names = self.names()?;
        let ours = |name: &&String| OURS.iter().any(|end| name.ends_with(end));
        names
            .iter()
            .filter(ours)
            .try_for_each(|name| self.remove(name))
    }

    /// The right to write here, for as long as the file is open; none while another process has it.
    ///
    /// # Errors
    /// It can't be asked for.
    pub fn lock(&self) -> io::Result<Option<File>> {
        let file = self.file(LOCK, OFlags::RDWR | OFlags::CREATE)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The key that was kept here.
    pub fn key(&self) -> Option<Key> {
        let bytes = self.read(KEY, 16).ok()?;
        let (one, other) = bytes.split_first_chunk::<8>()?;
        let other = other.try_into().ok()?;
        Some([*one, other].map(u64::from_le_bytes))
    }

    /// Keeps it here.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep(&self, key: Key) -> io::Result<()> {
        self.write(KEY, key.map(u64::to_le_bytes).as_flattened())
    }
}

/// A new key.
///
/// # Errors
/// The system has no random numbers.
pub fn random() -> io::Result<Key> {
    let mut bytes = [[0; 8]; 2];
    let dealt = SystemRandom::new().fill(bytes.as_flattened_mut());
    dealt.map_err(|_| io::Error::other("no random numbers"))?;
    Ok(bytes.map(u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn nothing_is_followed_and_nobody_else_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot");
        let place = Place::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        place.create("0.pages").unwrap();
        assert_eq!(mode(&path.join("0.pages")), 0o600);
        assert!(place.create("0.pages").is_err());
        fs::write(folder.path().join("other"), "other").unwrap();
        symlink(folder.path().join("other"), path.join("1.pages")).unwrap();
        assert!(place.file("1.pages", OFlags::RDWR).is_err());
        assert!(
            place.file("../other", OFlags::RDWR).is_ok(),
            "names are ours"
        );
        fs::create_dir(path.join("2.pages")).unwrap();
        assert!(place.file("2.pages", OFlags::RDONLY).is_err());
        symlink(&path, folder.path().join("link")).unwrap();
        assert!(Place::open(&folder.path().join("link")).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(Place::open(&path).is_err());
    }

    #[test]
    fn one_process_has_the_right_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::open(folder.path()).unwrap();
        let right = place.lock().unwrap().expect("nobody has it");
        assert!(place.lock().unwrap().is_none());
        drop(right);
        assert!(place.lock().unwrap().is_some());
    }

    #[test]
    fn a_key_stays_and_all_else_can_go() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::open(folder.path()).unwrap();
        assert_eq!(place.key(), None);
        let key = random().unwrap();
        place.keep(key).unwrap();
        place.create("1.pages").unwrap();
        place.write("recent", b"x").unwrap();
        assert_eq!(place.read("recent", 1).unwrap(), b"x");
        assert!(place.read("recent", 0).is_err());
        place.clear().unwrap();
        assert_eq!((place.key(), place.names().unwrap().len()), (Some(key), 3));
    }
}
