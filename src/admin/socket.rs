//! The operators' socket: a file that its owner alone can open.
//!
//! It is bound beside its place and moved there when this process is to be asked: what lay there before, of a process that is
//! gone or is being taken over from, is replaced in one step.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

const BACKLOG: i32 = 128;

/// A socket that listens beside its place.
pub struct Beside {
    listener: UnixListener,
    beside: PathBuf,
    place: PathBuf,
}

/// The place of a socket that listens. Dropped, it is cleared, unless another has it by then.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    is: (u64, u64),
}

impl Beside {
    /// `taking_over`: of a process that still listens there.
    ///
    /// # Errors
    /// Somebody listens there, something else than a socket is there, the path is too long, or the folder can't be written.
    pub fn bind(place: &Path, taking_over: bool) -> io::Result<Beside> {
        match fs::symlink_metadata(place) {
            Ok(about) if !about.file_type().is_socket() => {
                return Err(io::Error::other("something else than a socket is there"));
            }
            Ok(_) if !taking_over && UnixStream::connect(place).is_ok() => {
                return Err(io::Error::other("another process listens there"));
            }
            _ => {}
        }
        let beside = place.with_extension(format!("{}.new", std::process::id()));
        // Of a process that had this one's number.
        let _ = fs::remove_file(&beside);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&beside)?)?;
        let bound = Beside {
            listener: socket.into(),
            beside,
            place: place.to_owned(),
        };
        // Nobody can come in before it listens.
        fs::set_permissions(&bound.beside, Permissions::from_mode(0o600))?;
        socket2::SockRef::from(&bound.listener).listen(BACKLOG)?;
        bound.listener.set_nonblocking(true)?;
        Ok(bound)
    }

    /// Takes its place.
    ///
    /// # Errors
    /// The folder can't be written any more.
    pub fn take(self) -> io::Result<(UnixListener, Place)> {
        let about = fs::symlink_metadata(&self.beside)?;
        fs::rename(&self.beside, &self.place)?;
        let place = Place {
            path: self.place.clone(),
            is: (about.dev(), about.ino()),
        };
        Ok((self.listener.try_clone()?, place))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It has gone to its place, or is of no use.
        let _ = fs::remove_file(&self.beside);
    }
}

impl Place {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let about = fs::symlink_metadata(&self.path);
        if about.is_ok_and(|about| (about.dev(), about.ino()) == self.is) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_its_owners_and_replaces_what_is_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let (listener, place) = Beside::bind(&path, false).unwrap().take().unwrap();
        let mode = fs::symlink_metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        let why = Beside::bind(&path, false).err().unwrap().to_string();
        assert!(why.contains("another process"), "{why}");
        // As if it had been killed.
        std::mem::forget(place);
        drop(listener);
        let (_listener, place) = Beside::bind(&path, false).unwrap().take().unwrap();
        UnixStream::connect(&path).unwrap();
        drop(place);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_successor_takes_the_place_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let (old, old_place) = Beside::bind(&path, false).unwrap().take().unwrap();
        let next = Beside::bind(&path, true).unwrap();
        UnixStream::connect(&path).unwrap();
        old.accept().unwrap();
        let (new, _new_place) = next.take().unwrap();
        drop(old_place);
        UnixStream::connect(&path).unwrap();
        new.accept().unwrap();
    }

    #[test]
    fn a_successor_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let (_old, _place) = Beside::bind(&path, false).unwrap().take().unwrap();
        drop(Beside::bind(&path, true).unwrap());
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_else_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        fs::write(&path, "letters").unwrap();
        assert!(Beside::bind(&path, true).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"letters");
        assert!(Beside::bind(&folder.path().join("x".repeat(200)), false).is_err());
    }
}
