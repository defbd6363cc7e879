//! What is kept in a file of the state directory, as JSON: all of it at once, or as it was before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is there, nothing if there is no such file; and why it could not be read, if it could not: then the file lies beside, with `.bad` behind
/// its name.
pub fn read<T: DeserializeOwned + Default>(path: &Path) -> (T, Option<String>) {
    let read = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (T::default(), None),
        Err(error) => Err(error.to_string()),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
    };
    match read {
        Ok(kept) => (kept, None),
        Err(why) => {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".bad");
            // What is written next would take its place, and it may be read another time.
            let _ = fs::rename(path, aside);
            (T::default(), Some(format!("{}: {why}", path.display())))
        }
    }
}

/// Whoever is killed in the middle leaves the file as it was. It is this user's alone.
///
/// # Errors
/// It can't be written.
pub fn write<T: Serialize>(path: &Path, kept: &T) -> io::Result<()> {
    let next = path.with_extension("next");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&next)?;
    let mut file = BufWriter::new(file);
    serde_json::to_writer_pretty(&mut file, kept)?;
    file.write_all(b"\n")?;
    file.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    fs::rename(&next, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.json");
        assert_eq!(read::<Vec<u8>>(&path), (Vec::new(), None));
        write(&path, &[1, 2]).unwrap();
        write(&path, &[3]).unwrap();
        assert_eq!(read::<Vec<u8>>(&path), (vec![3], None));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_being_written_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.json");
        write(&path, &[1, 2]).unwrap();
        fs::write(path.with_extension("next"), "[3,").unwrap();
        assert_eq!(read::<Vec<u8>>(&path), (vec![1, 2], None));
        write(&path, &[4]).unwrap();
        assert_eq!(read::<Vec<u8>>(&path), (vec![4], None));
    }

    #[test]
    fn what_cannot_be_read_lies_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.json");
        fs::write(&path, "[1,").unwrap();
        let (kept, why) = read::<Vec<u8>>(&path);
        assert_eq!(kept, [0u8; 0]);
        assert!(why.unwrap().contains("some.json"));
        assert!(!path.exists() && folder.path().join("some.json.bad").exists());
    }
}
