//! How far the log was read, kept in a file, so that a process that starts with pages of the one before reads what that has missed.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::message::{Log, Position};

#[derive(Serialize, Deserialize)]
struct Kept {
    log: Log,
    entry: u64,
}

/// None: it is not known.
pub fn read(path: &Path) -> Option<Position> {
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let Kept { log, entry } = kept;
    Some(Position { log, entry })
}

/// # Errors
/// It can't be written.
pub fn write(path: &Path, at: Position) -> io::Result<()> {
    let Position { log, entry } = at;
    let next = path.with_extension("next");
    fs::write(&next, serde_json::to_vec(&Kept { log, entry })?)?;
    fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_or_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.json");
        assert_eq!(read(&path), None);
        let at = Position {
            log: crate::levers::Uid(7),
            entry: 9,
        };
        write(&path, at).unwrap();
        assert_eq!(read(&path), Some(at));
        fs::write(&path, "{\"log\":").unwrap();
        assert_eq!(read(&path), None);
    }
}
