//! Where log lines end: stdout or a file.
//!
//! A line is written whole or not at all: what a failing file takes of one is cut off again, or,
//! where that cannot be done (a pipe), ended.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use memchr::{memchr_iter, memrchr};

use crate::clock;

/// How long a reader that does not read (a full pipe that does not block) is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    Off,
    Stdout,
    /// Appended to, created with mode 0640; opened again within a second after it was moved away.
    File(PathBuf),
}

impl Output {
    /// As the config says it: `off`, `stdout`, or a path.
    pub fn from_setting(setting: &str) -> Output {
        match setting {
            "off" => Output::Off,
            "stdout" => Output::Stdout,
            path => Output::File(path.into()),
        }
    }
}

/// The output, opened.
pub(super) struct Sink {
    file: File,
    kind: SinkKind,
    /// The last thing written is a part of a line.
    torn: bool,
}

enum SinkKind {
    Stdout,
    File { path: PathBuf, looked: Instant },
    Nothing,
}

impl Sink {
    pub(super) fn open(output: &Output) -> io::Result<Sink> {
        let (file, kind) = match output {
            Output::Off => (append_to(Path::new("/dev/null"))?, SinkKind::Nothing),
            Output::Stdout => (
                io::stdout().as_fd().try_clone_to_owned()?.into(),
                SinkKind::Stdout,
            ),
            Output::File(path) => {
                let looked = clock::instant();
                let file = append_to(path).map_err(|e| {
                    io::Error::new(e.kind(), format!("log {}: {e}", path.display()))
                })?;
                (
                    file,
                    SinkKind::File {
                        path: path.clone(),
                        looked,
                    },
                )
            }
        };
        Ok(Sink {
            file,
            kind,
            torn: false,
        })
    }

    /// Writes whole lines, and gives back how many could not be.
    pub(super) fn write(&mut self, lines: &[u8]) -> u64 {
        self.reopen_if_moved();
        // Whoever else prints to stdout prints before or after, not amid.
        let _alone = matches!(self.kind, SinkKind::Stdout).then(|| io::stdout().lock());
        if self.torn {
            if self.write_some(b"\n") == 0 {
                return count_lines(lines);
            }
            self.torn = false;
        }
        let written = self.write_some(lines);
        if written == lines.len() {
            return 0;
        }
        let whole = memrchr(b'\n', &lines[..written]).map_or(0, |at| at + 1);
        if whole < written {
            self.torn = self.cut(written - whole).is_err();
        }
        count_lines(&lines[whole..])
    }

    /// Writes until all is written or an error says that no more will be; gives back how much was.
    fn write_some(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        let mut give_up = None;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let now = clock::instant();
                    if now >= *give_up.get_or_insert(now + PATIENCE) {
                        break;
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                Err(_) => break,
            }
        }
        written
    }

    /// Takes the last bytes off a file again.
    fn cut(&mut self, bytes: usize) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.file
            .set_len(metadata.len().saturating_sub(bytes as u64))
    }

    /// Log rotation moves the file away: the path then names another file, or none.
    fn reopen_if_moved(&mut self) {
        let SinkKind::File { path, looked } = &mut self.kind else {
            return;
        };
        let now = clock::instant();
        if now.duration_since(*looked) < Duration::from_secs(1) {
            return;
        }
        *looked = now;
        let named = std::fs::metadata(&*path)
            .map(|it| (it.dev(), it.ino()))
            .ok();
        let held = self.file.metadata().map(|it| (it.dev(), it.ino())).ok();
        if named != held
            && let Ok(file) = append_to(path)
        {
            self.file = file;
            self.torn = false;
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

fn count_lines(lines: &[u8]) -> u64 {
    memchr_iter(b'\n', lines).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_file_moved_away_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut sink = Sink::open(&Output::File(path.clone())).unwrap();
        assert_eq!(sink.write(b"one\n"), 0);
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(sink.write(b"two\n"), 0);
        let SinkKind::File { looked, .. } = &mut sink.kind else {
            unreachable!()
        };
        *looked = looked.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(sink.write(b"three\n"), 0);
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_part_of_a_line_is_cut_off_a_file_and_ended_in_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut sink = Sink::open(&Output::File(path.clone())).unwrap();
        assert_eq!(sink.write_some(b"whole\npart"), 10);
        sink.cut(4).unwrap();
        assert_eq!(sink.write(b"next\n"), 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\nnext\n");

        let (mut reader, writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let mut sink = Sink::open(&Output::File(path.into())).unwrap();
        assert_eq!(sink.write_some(b"part"), 4);
        assert!(sink.cut(4).is_err());
        sink.torn = true;
        assert_eq!(sink.write(b"next\n"), 0);
        drop((sink, writer));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "part\nnext\n");
    }
}
