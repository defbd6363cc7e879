//! The audit log: one JSON object a line for every change that somebody asked for, carried out or refused.
//!
//! Lines are appended in one write and flushed to the disk before whoever asked gets an answer. The file may be renamed away
//! or cut short by others (`copytruncate`): each line goes to the file that has the name then. Two processes may write
//! to it, as they do while one takes over from another.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, Serializer};

use super::{AUDIT, Dir};
use crate::clock;
use crate::telemetry::access::stamp;
use crate::telemetry::{Counter, Metrics, names};

/// What a text in a line may take, in characters; the rest is cut.
const TEXT_MOST: usize = 1024;
/// What parameters may take as JSON; of larger ones only their size is written.
const PARAMETERS_MOST: usize = 8 * 1024;
/// How far back is read for the last lines.
const READ_MOST: u64 = 4 << 20;
/// Values below these names are not written: secrets, and whole files that may have some in them.
const HIDDEN: [&str; 4] = ["config", "password", "secret", "token"];

/// A change that somebody asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// RFC 3339, to the millisecond.
    pub time: String,
    /// How the asker is known: `token`, `unix:uid=0`, `nobody`.
    pub who: String,
    /// What the asker says to be called.
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Method and path, or what did it by itself.
    pub what: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub parameters: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `done`, or why not.
    pub result: String,
}

impl Entry {
    /// An entry of now. `parameters`: as they were asked with; a `reason` among them has a place of its own.
    pub fn new(who: &str, what: &str, mut parameters: Value, result: &str) -> Entry {
        let reason = match &mut parameters {
            Value::Object(members) => members.remove("reason"),
            _ => None,
        };
        Entry {
            time: stamp(clock::wall_millis(clock::moment())),
            who: who.to_owned(),
            actor: None,
            what: what.to_owned(),
            parameters,
            reason: reason.map(|reason| match reason {
                Value::String(text) => text,
                other => other.to_string(),
            }),
            result: result.to_owned(),
        }
    }

    pub fn by(mut self, actor: Option<&str>) -> Entry {
        self.actor = actor.map(str::to_owned);
        self
    }

    /// One line of printable ASCII, whatever was given.
    pub fn line(&self) -> String {
        let parameters = shown(self.parameters.clone());
        let size = parameters.to_string().len();
        let entry = Entry {
            time: self.time.clone(),
            who: cut(&self.who),
            actor: self.actor.as_deref().map(cut),
            what: cut(&self.what),
            parameters: match size > PARAMETERS_MOST {
                true => serde_json::json!({ "bytes": size }),
                false => parameters,
            },
            reason: self.reason.as_deref().map(cut),
            result: cut(&self.result),
        };
        let mut line = Vec::new();
        // It is all texts and numbers, and memory takes every byte.
        let _ = entry.serialize(&mut Serializer::with_formatter(&mut line, Ascii));
        line.push(b'\n');
        String::from_utf8_lossy(&line).into_owned()
    }
}

/// Parameters without what is nobody's to read, and with every text cut.
fn shown(parameters: Value) -> Value {
    match parameters {
        Value::String(text) => Value::String(cut(&text)),
        Value::Array(all) => Value::Array(all.into_iter().map(shown).collect()),
        Value::Object(members) => {
            let members = members.into_iter().map(|(name, value)| {
                let hidden = HIDDEN.contains(&name.to_ascii_lowercase().as_str());
                let value = match hidden {
                    true => Value::String("***".to_owned()),
                    false => shown(value),
                };
                (cut(&name), value)
            });
            Value::Object(members.collect())
        }
        other => other,
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The log of a state directory.
pub struct Audit {
    path: PathBuf,
    open: Mutex<Option<Open>>,
    failed: Arc<Counter>,
}

struct Open {
    file: File,
    /// The file that the name stood for: device and number.
    is: (u64, u64),
    /// Its last line has no end.
    torn: bool,
}

impl Audit {
    pub fn new(dir: &Dir, metrics: &Metrics) -> Audit {
        Audit {
            path: dir.file(AUDIT),
            open: Mutex::new(None),
            failed: metrics.counter(&names::AUDIT_FAILED, &[]),
        }
    }

    /// Writes an entry and waits until the disk has it. Blocks.
    ///
    /// # Errors
    /// It is not written, or not known to be; counted.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        let written = self.append(entry.line().as_bytes());
        if written.is_err() {
            self.failed.add(1);
        }
        written
    }

    /// The last entries, the oldest first; and how many lines between them are none. Blocks.
    ///
    /// # Errors
    /// The file is there and can't be read.
    pub fn last(&self, most: usize) -> io::Result<(Vec<Entry>, usize)> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        let from = size.saturating_sub(READ_MOST);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(READ_MOST).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        // The first one may be half a line.
        let mut lines: Vec<&str> = text.lines().skip(usize::from(from > 0)).collect();
        lines.drain(..lines.len().saturating_sub(most));
        let all = lines.len();
        let entries: Vec<Entry> = lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let strange = all - entries.len();
        Ok((entries, strange))
    }

    fn append(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock();
        let mut log = match open.take() {
            Some(log) if is(&self.path) == Some(log.is) => log,
            _ => self.open()?,
        };
        let line = match log.torn {
            true => [b"\n", line].concat(),
            false => line.to_vec(),
        };
        // If it fails it is opened anew, and then it is known what became of it.
        log.file.write_all(&line)?;
        log.file.sync_data()?;
        log.torn = false;
        *open = Some(log);
        Ok(())
    }

    fn open(&self) -> io::Result<Open> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        let about = file.metadata()?;
        let mut last = [b'\n'];
        if about.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        } else if let Some(folder) = self.path.parent() {
            // Its name is to last as well.
            File::open(folder)?.sync_all()?;
        }
        Ok(Open {
            is: (about.dev(), about.ino()),
            torn: last != [b'\n'],
            file,
        })
    }
}

fn is(path: &std::path::Path) -> Option<(u64, u64)> {
    let about = fs::metadata(path).ok()?;
    Some((about.dev(), about.ino()))
}

/// JSON in printable ASCII: what a terminal might take for an order to itself is written as a number.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for char in fragment.chars() {
            match char {
                ' '..='~' => writer.write_all(&[char as u8])?,
                other => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        write!(writer, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        let byte = match escape {
            CharEscape::Quote => return writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => return writer.write_all(b"\\\\"),
            CharEscape::Solidus => b'/',
            CharEscape::Backspace => 8,
            CharEscape::FormFeed => 12,
            CharEscape::LineFeed => b'\n',
            CharEscape::CarriageReturn => b'\r',
            CharEscape::Tab => b'\t',
            CharEscape::AsciiControl(byte) => byte,
        };
        write!(writer, "\\u{byte:04x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log() -> (tempfile::TempDir, Audit) {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        let audit = Audit::new(&dir, &Metrics::new());
        (folder, audit)
    }

    fn entry(result: &str) -> Entry {
        Entry::new("token", "POST /v1/x", json!({ "n": 1 }), result)
    }

    #[test]
    fn c60_a_line_is_one_line_of_printable_ascii() {
        let evil = "a\r\n{\"who\":\"root\"}\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2028}\\\"ä😀\0";
        let parameters = json!({ evil: [evil], "reason": evil });
        let entry = Entry::new(evil, evil, parameters, evil).by(Some(evil));
        let line = entry.line();
        let inside = line.strip_suffix('\n').unwrap();
        assert!(inside.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        let read: Entry = serde_json::from_str(inside).unwrap();
        assert_eq!(read, entry);
        assert_eq!(read.reason.as_deref(), Some(evil));
    }

    #[test]
    fn what_is_long_is_cut_and_what_is_secret_is_hidden() {
        let parameters = json!({
            "config": "password = \"hunter2\"", "deep": [{ "Token": { "x": "hunter2" } }], "text": "x".repeat(5000),
        });
        let line = Entry::new("token", "POST /v1/config", parameters, "done").line();
        assert!(!line.contains("hunter2"), "{line}");
        assert!(line.len() < 2000 && line.contains("\\u2026"), "{line}");
        let many = Value::Array(vec![json!("y".repeat(1000)); 100]);
        let line = Entry::new("token", "POST /v1/x", many, "done").line();
        assert!(line.contains("\"bytes\":100"), "{line}");
    }

    #[test]
    fn the_last_are_read_and_torn_lines_passed_over() {
        let (folder, audit) = log();
        assert_eq!(audit.last(5).unwrap(), (Vec::new(), 0));
        let path = folder.path().join(AUDIT);
        fs::write(&path, "{\"time\":\"20").unwrap();
        for n in 0..10 {
            audit.write(&entry(&n.to_string())).unwrap();
        }
        let (entries, strange) = audit.last(3).unwrap();
        let results: Vec<_> = entries.iter().map(|entry| entry.result.as_str()).collect();
        assert_eq!((&results[..], strange), (&["7", "8", "9"][..], 0));
        let (entries, strange) = audit.last(100).unwrap();
        assert_eq!((entries.len(), strange), (10, 1));
    }

    #[test]
    fn each_line_goes_to_the_file_of_that_name() {
        let (folder, audit) = log();
        let path = folder.path().join(AUDIT);
        let lines = |path| fs::read_to_string(path).unwrap().lines().count();
        audit.write(&entry("one")).unwrap();
        let about = fs::metadata(&path).unwrap();
        assert_eq!(about.mode() & 0o777, 0o600);
        fs::rename(&path, folder.path().join("old")).unwrap();
        audit.write(&entry("two")).unwrap();
        assert_eq!(
            (lines(folder.path().join("old")), lines(path.clone())),
            (1, 1)
        );
        // What copytruncate does.
        File::create(&path).unwrap();
        audit.write(&entry("three")).unwrap();
        assert_eq!(audit.last(9).unwrap().0.len(), 1);
    }

    #[test]
    fn a_disk_that_is_full_is_told_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join(AUDIT)).unwrap();
        let metrics = Metrics::new();
        let audit = Audit::new(&Dir::open(folder.path()).unwrap(), &metrics);
        assert!(audit.write(&entry("done")).is_err());
        assert!(audit.write(&entry("done")).is_err());
        let told = metrics.render();
        assert!(told.contains("\ntidegate_audit_failed_total 2\n"), "{told}");
    }
}
