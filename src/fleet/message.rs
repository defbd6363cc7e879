//! What is said to `log.lua` and what may be answered; and how the log is read.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value};

use super::entry::{Entry, LEVER_MOST};
use super::queue::Order;
use crate::levers::{Lever, Uid};
use crate::redis::Failure;
use crate::telemetry::RedisResult;

pub const SCRIPT: &str = include_str!("log.lua");
/// Levers, and proxies, that an answer may have.
const MOST: usize = 512;
/// What a proxy may tell of itself.
pub const TOLD_MOST: usize = 4 << 10;
/// Entries that are read at once: half of what an answer may be.
pub const ENTRIES: usize = 32;
/// Numbers of entries are less.
const MOST_ENTRIES: u64 = 1 << 53;

/// What a log is called: another where one began anew.
pub type Log = Uid;

/// How far somebody has read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub log: Log,
    /// The number of the last entry; the first one's is 1.
    pub entry: u64,
}

/// One message.
pub struct Message<'a> {
    pub prefix: &'a str,
    /// What to call the log, if it begins now.
    pub name: Log,
    pub me: Uid,
    /// What the others are to know of this proxy; None: that it leaves.
    pub told: Option<&'a str>,
    pub wants_levers: bool,
    pub wants_proxies: bool,
    /// Proxies that are not there any more.
    pub gone: &'a [Uid],
    pub orders: &'a [Order],
}

/// What came back.
#[derive(PartialEq, Debug)]
pub struct Reply {
    /// The log and its last entry, with those of the message.
    pub at: Position,
    /// All that are pulled, in their order, and how many there are that can't be read.
    pub levers: Option<(Vec<Lever>, usize)>,
    pub proxies: Option<Vec<Heard>>,
}

/// A proxy, as it tells of itself.
#[derive(PartialEq, Debug)]
pub struct Heard {
    pub id: Uid,
    pub ago: Duration,
    pub told: Vec<u8>,
}

/// A piece of the log.
#[derive(PartialEq, Debug)]
pub struct Piece {
    /// The last entry there was, at the least.
    pub at: Position,
    pub lines: Vec<Line>,
}

/// An entry as it stands there.
#[derive(PartialEq, Debug)]
pub struct Line {
    pub number: u64,
    /// Who did it. None: nobody of us.
    pub by: Option<Uid>,
    pub text: Vec<u8>,
}

impl Message<'_> {
    /// As a command, for a script that Redis calls `sha`.
    pub fn command(&self, sha: &str) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(sha).arg(4);
        for of in ["head", "log", "levers", "read"] {
            command.arg(key(self.prefix, of));
        }
        let mut wants = String::new();
        if self.wants_levers {
            wants.push('l');
        }
        if self.wants_proxies {
            wants.push('p');
        }
        command.arg(self.name.to_string()).arg(self.me.to_string());
        command.arg(self.told.unwrap_or_default()).arg(wants);
        command.arg(self.gone.len());
        for gone in self.gone {
            command.arg(gone.to_string());
        }
        for order in self.orders {
            let uid = order.uid.map(|uid| uid.to_string());
            command.arg(order.kind.word());
            command.arg(uid.unwrap_or_default()).arg(&order.text);
        }
        command
    }
}

/// Reads the answer to a message. `now`: Unix seconds.
///
/// # Errors
/// What the script can't have said.
pub fn reply(value: Value, now: u64) -> Result<Reply, Failure> {
    let [log, last, levers, proxies] = parts(value)?;
    Ok(Reply {
        at: position(&log, &last)?,
        levers: match levers {
            Value::Nil => None,
            levers => Some(read_levers(levers, now)?),
        },
        proxies: match proxies {
            Value::Nil => None,
            proxies => Some(threes(proxies)?.filter_map(heard).collect()),
        },
    })
}

/// What to ask for the log after an entry, and how many commands that is. `waits`: how long, if there is nothing new.
pub fn after(prefix: &str, entry: u64, waits: Duration) -> (Pipeline, usize) {
    let mut commands = redis::pipe();
    // Before the entries: there are at least as many as it says.
    commands.cmd("HMGET").arg(key(prefix, "head"));
    commands.arg("log").arg("last");
    commands.cmd("XREAD").arg("COUNT").arg(ENTRIES);
    // None is for ever, in Redis' words.
    if !waits.is_zero() {
        commands.arg("BLOCK").arg(waits.as_millis().max(1) as u64);
    }
    commands.arg("STREAMS").arg(key(prefix, "log"));
    commands.arg(format!("{entry}-0"));
    (commands, 2)
}

/// Reads the answer to that. None: there is no log.
///
/// # Errors
/// What can't be a log.
pub fn piece(value: Value) -> Result<Option<Piece>, Failure> {
    let [head, read] = parts(value)?;
    let [log, last] = parts(head)?;
    if let (Value::Nil, _) | (_, Value::Nil) = (&log, &last) {
        return Ok(None);
    }
    let at = position(&log, &last)?;
    let lines = match read {
        Value::Nil => Vec::new(),
        streams => {
            let [stream] = parts(streams)?;
            let [_, lines] = parts(stream)?;
            let Value::Array(lines) = lines else {
                return Err(absurd("no entries"));
            };
            if lines.len() > ENTRIES {
                return Err(absurd("more entries than were asked for"));
            }
            lines.into_iter().map(line).collect::<Result<_, _>>()?
        }
    };
    Ok(Some(Piece { at, lines }))
}

/// In braces: the part of a key that chooses its slot.
fn key(prefix: &str, of: &str) -> String {
    format!("{{{prefix}}}:{of}")
}

fn line(value: Value) -> Result<Line, Failure> {
    let [id, fields] = parts(value)?;
    let id = text(&id).and_then(|id| id.strip_suffix("-0"));
    let number = id
        .and_then(number)
        .ok_or_else(|| absurd("an entry without a number"))?;
    let Value::Array(fields) = fields else {
        return Err(absurd("an entry without fields"));
    };
    let field = |name: &str| {
        let mut pairs = fields.chunks_exact(2);
        let found = pairs.find(|pair| text(&pair[0]) == Some(name));
        found.map(|pair| &pair[1])
    };
    Ok(Line {
        number,
        by: field("by").and_then(text).and_then(Uid::parse),
        text: match field("is") {
            Some(Value::BulkString(bytes)) => bytes.clone(),
            _ => Vec::new(),
        },
    })
}

fn read_levers(value: Value, now: u64) -> Result<(Vec<Lever>, usize), Failure> {
    let (mut levers, mut unreadable) = (Vec::new(), 0);
    for [at, uid, is] in threes(value)? {
        let at = text(&at).and_then(number);
        let uid = text(&uid).and_then(Uid::parse);
        let entry = match &is {
            Value::BulkString(bytes) if bytes.len() <= LEVER_MOST => Entry::read(bytes, now).ok(),
            _ => None,
        };
        match (at, entry) {
            (Some(at), Some(Entry::Pull(lever))) if uid == Some(lever.uid) => {
                levers.push((at, lever));
            }
            _ => unreadable += 1,
        }
    }
    levers.sort_by_key(|(at, _)| *at);
    let levers = levers.into_iter().map(|(_, lever)| lever).collect();
    Ok((levers, unreadable))
}

fn heard([id, ago, told]: [Value; 3]) -> Option<Heard> {
    let Value::BulkString(told) = told else {
        return None;
    };
    Some(Heard {
        id: text(&id).and_then(Uid::parse)?,
        ago: Duration::from_millis(text(&ago).and_then(number)?),
        told: (told.len() <= TOLD_MOST).then_some(told)?,
    })
}

fn position(log: &Value, last: &Value) -> Result<Position, Failure> {
    let log = text(log).and_then(Uid::parse);
    let entry = text(last).and_then(number);
    match (log, entry) {
        (Some(log), Some(entry)) => Ok(Position { log, entry }),
        _ => Err(absurd("no log")),
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn number(text: &str) -> Option<u64> {
    let is_one = !text.is_empty() && text.len() <= 16 && text.bytes().all(|b| b.is_ascii_digit());
    let number = is_one.then(|| text.parse().ok()).flatten();
    number.filter(|number| *number < MOST_ENTRIES)
}

/// A list of so many.
fn parts<const N: usize>(value: Value) -> Result<[Value; N], Failure> {
    let Value::Array(parts) = value else {
        return Err(absurd("no list"));
    };
    parts
        .try_into()
        .map_err(|_| absurd("a list of another length"))
}

/// A flat list of threes, not too long.
fn threes(value: Value) -> Result<impl Iterator<Item = [Value; 3]>, Failure> {
    let Value::Array(flat) = value else {
        return Err(absurd("no list"));
    };
    if flat.len() % 3 != 0 || flat.len() > 3 * MOST {
        return Err(absurd("a list of another length"));
    }
    let mut flat = flat.into_iter();
    Ok(std::iter::from_fn(move || {
        Some([flat.next()?, flat.next()?, flat.next()?])
    }))
}

fn absurd(what: &str) -> Failure {
    Failure {
        result: RedisResult::Unbelievable,
        why: format!("an answer with {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::purge::{Purge, What};

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn list(values: impl IntoIterator<Item = Value>) -> Value {
        Value::Array(values.into_iter().collect())
    }

    fn head(last: &str) -> Value {
        list([bulk("00000000000000aa"), bulk(last)])
    }

    fn entry(id: &str, text: &str) -> Value {
        let fields = ["by", "00000000000000bb", "is", text].map(bulk);
        list([bulk(id), list(fields)])
    }

    fn read(entries: Value) -> Value {
        list([list([bulk("{tidegate}:log"), entries])])
    }

    #[test]
    fn a_piece_of_the_log() {
        let at = Position {
            log: Uid(0xaa),
            entry: 7,
        };
        assert_eq!(
            piece(list([head("7"), Value::Nil])),
            Ok(Some(Piece {
                at,
                lines: Vec::new()
            }))
        );
        let lines = vec![Line {
            number: 6,
            by: Some(Uid(0xbb)),
            text: b"x".to_vec(),
        }];
        assert_eq!(
            piece(list([head("7"), read(list([entry("6-0", "x")]))])),
            Ok(Some(Piece { at, lines }))
        );
        assert_eq!(
            piece(list([list([Value::Nil, Value::Nil]), Value::Nil])),
            Ok(None)
        );
    }

    #[test]
    fn c82_what_is_no_log_is_an_outage() {
        let many = list((0..=ENTRIES).map(|n| entry(&format!("{n}-0"), "x")));
        for wrong in [
            Value::Nil,
            Value::Int(1),
            list([]),
            list([head("x"), Value::Nil]),
            list([head("-1"), Value::Nil]),
            list([head("99999999999999999999"), Value::Nil]),
            list([list([bulk("zz"), bulk("1")]), Value::Nil]),
            list([head("7"), Value::Int(1)]),
            list([head("7"), list([])]),
            list([head("7"), read(Value::Nil)]),
            list([head("7"), read(list([Value::Nil]))]),
            list([head("7"), read(list([entry("1-1", "x")]))]),
            list([head("7"), read(list([entry("", "x")]))]),
            list([head("7"), read(many)]),
        ] {
            let shown = format!("{wrong:?}");
            assert!(piece(wrong).is_err(), "{shown}");
        }
        // An entry of somebody else's is one that says nothing.
        let odd = list([bulk("1-0"), list([Value::Int(1), Value::Nil, bulk("is")])]);
        let read = piece(list([head("7"), read(list([odd]))]))
            .unwrap()
            .unwrap();
        assert_eq!((read.lines[0].by, read.lines[0].text.len()), (None, 0));
    }

    #[test]
    fn c82_a_reply_is_read_to_the_letter() {
        let purge = Entry::Purge(Purge::hard(What::All)).text().unwrap();
        let whole = |levers: Value, proxies: Value| {
            let value = list([bulk("00000000000000aa"), bulk("7"), levers, proxies]);
            reply(value, 0)
        };
        let read = whole(Value::Nil, Value::Nil).unwrap();
        assert_eq!((read.levers, read.proxies), (None, None));
        let levers = ["1", "00000000000000bb", &purge, "x", "", "{}"].map(bulk);
        let read = whole(list(levers), Value::Nil).unwrap();
        assert_eq!(read.levers, Some((Vec::new(), 2)), "no purge is a lever");
        let long = "x".repeat(TOLD_MOST + 1);
        let proxies = [
            "00000000000000bb",
            "12",
            "told",
            "me",
            "1",
            "",
            "00000000000000cc",
            "1",
            &long,
        ];
        let read = whole(Value::Nil, list(proxies.map(bulk))).unwrap();
        let one = Heard {
            id: Uid(0xbb),
            ago: Duration::from_millis(12),
            told: b"told".to_vec(),
        };
        assert_eq!(read.proxies, Some(vec![one]));
        assert!(whole(Value::Int(1), Value::Nil).is_err());
        assert!(whole(list([bulk("1")]), Value::Nil).is_err());
        assert!(whole(Value::Nil, list(vec![Value::Nil; 3 * MOST + 3])).is_err());
        assert!(reply(list([bulk("x"), bulk("7"), Value::Nil, Value::Nil]), 0).is_err());
    }
}
