//! Entries of the log, as text: what is written is bounded, and what is read is taken to the letter or not at all.

use serde::{Deserialize, Serialize};

use crate::levers::{Lever, Pull, Uid};
use crate::rules::purge::{Purge, What};

/// The longest entry of a purge. One whose URL is longer purges all that begins with as much of it.
const PURGE_MOST: usize = 8 << 10;
/// The longest entry of a lever.
pub const LEVER_MOST: usize = 4 << 10;
/// Bytes of what people have written.
const WORDS_MOST: usize = 1 << 10;
/// The longest that a lever may still be pulled for, in seconds: somewhat more than the longest that may be asked for.
const LONGEST: u64 = 400 * 24 * 60 * 60;

/// Something that was done at one proxy and is to be done at all.
#[derive(Clone, PartialEq, Debug)]
pub enum Entry {
    Purge(Purge),
    Pull(Lever),
    Undo(Uid),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Wire {
    Purge { what: Purged, soft: bool },
    Pull(Pulled),
    Undo { uid: Uid },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Purged {
    Page { host: String, target: String },
    Prefix { host: String, start: String },
    Tag(String),
    Host(String),
    All,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pulled {
    uid: Uid,
    pull: Pull,
    who: String,
    reason: String,
    since: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    force: bool,
}

impl Entry {
    /// As it stands in the log.
    ///
    /// # Errors
    /// It is too long for it; for people.
    pub fn text(&self) -> Result<String, String> {
        let (wire, most) = match self {
            Entry::Purge(purge) => {
                let text = write(&purge_as(purge.what.clone(), purge.soft));
                return match text.len() <= PURGE_MOST {
                    true => Ok(text),
                    false => shorter(purge).ok_or_else(|| too_long(text.len(), PURGE_MOST)),
                };
            }
            Entry::Pull(lever) => (Wire::Pull(pulled(lever)), LEVER_MOST),
            Entry::Undo(uid) => (Wire::Undo { uid: *uid }, LEVER_MOST),
        };
        let text = write(&wire);
        match text.len() <= most {
            true => Ok(text),
            false => Err(too_long(text.len(), most)),
        }
    }

    /// Whether what can't be read says of itself that it is about a lever.
    pub fn is_of_a_lever(text: &[u8]) -> bool {
        type Words = std::collections::BTreeMap<String, serde::de::IgnoredAny>;
        let words = serde_json::from_slice::<Words>(text).unwrap_or_default();
        let is_its = |word: &String| matches!(&word[..], "pull" | "undo");
        !words.is_empty() && words.keys().all(is_its)
    }

    /// Reads what may be one. `now`: Unix seconds.
    ///
    /// # Errors
    /// It is none that this version knows; for people.
    pub fn read(text: &[u8], now: u64) -> Result<Entry, String> {
        if text.len() > PURGE_MOST {
            return Err(too_long(text.len(), PURGE_MOST));
        }
        let wire: Wire = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        Ok(match wire {
            Wire::Purge { what, soft } => Entry::Purge(Purge {
                what: match what {
                    Purged::Page { host, target } => What::Page { host, target },
                    Purged::Prefix { host, start } => What::Prefix { host, start },
                    Purged::Tag(tag) => What::Tag(tag),
                    Purged::Host(host) => What::Host(host),
                    Purged::All => What::All,
                },
                soft,
                dry_run: false,
            }),
            Wire::Pull(pulled) => {
                let words = pulled.who.len().max(pulled.reason.len());
                if text.len() > LEVER_MOST || words > WORDS_MOST {
                    return Err("a lever with too many words".to_owned());
                }
                if pulled.until.is_some_and(|until| until > now + LONGEST) {
                    return Err("a lever without an end that anybody could mean".to_owned());
                }
                Entry::Pull(Lever {
                    // The board gives it one of its own.
                    id: 0,
                    uid: pulled.uid,
                    shared: true,
                    pull: pulled.pull,
                    who: pulled.who,
                    reason: pulled.reason,
                    since: pulled.since,
                    until: pulled.until,
                    force: pulled.force,
                })
            }
            Wire::Undo { uid } => Entry::Undo(uid),
        })
    }
}

fn write(wire: &Wire) -> String {
    // It is made of words and numbers.
    serde_json::to_string(wire).unwrap_or_default()
}

fn purge_as(what: What, soft: bool) -> Wire {
    let what = match what {
        What::Page { host, target } => Purged::Page { host, target },
        What::Prefix { host, start } => Purged::Prefix { host, start },
        What::Tag(tag) => Purged::Tag(tag),
        What::Host(host) => Purged::Host(host),
        What::All => Purged::All,
    };
    Wire::Purge { what, soft }
}

/// A purge of more, by less of the URL. None: it has none.
fn shorter(purge: &Purge) -> Option<String> {
    let (What::Page {
        host,
        target: start,
    }
    | What::Prefix { host, start }) = &purge.what
    else {
        return None;
    };
    // In JSON a byte takes six at most.
    let most = start.floor_char_boundary(PURGE_MOST / 8);
    let what = What::Prefix {
        host: host.clone(),
        start: start[..most].to_owned(),
    };
    let text = write(&purge_as(what, purge.soft));
    (text.len() <= PURGE_MOST).then_some(text)
}

fn pulled(lever: &Lever) -> Pulled {
    let words = |text: &str| {
        // In JSON a byte takes six at most.
        let most = text.floor_char_boundary(WORDS_MOST / 4);
        text[..most].to_owned()
    };
    Pulled {
        uid: lever.uid,
        pull: lever.pull.clone(),
        who: words(&lever.who),
        reason: words(&lever.reason),
        since: lever.since,
        until: lever.until,
        force: lever.force,
    }
}

fn too_long(len: usize, most: usize) -> String {
    format!("{len} bytes, where {most} is the most")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn lever() -> Lever {
        Lever {
            id: 7,
            uid: Uid(0xabc),
            shared: false,
            pull: Pull::Ttl {
                route: Some("blog".into()),
                stretch: 10.0,
                least: 0,
            },
            who: "ada".into(),
            reason: "a crowd".into(),
            since: NOW,
            until: Some(NOW + 60),
            force: false,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let host = || "a.test".to_owned();
        let whats = [
            What::Page {
                host: host(),
                target: "/a?\"ä\"".into(),
            },
            What::Prefix {
                host: host(),
                start: "/a".into(),
            },
            What::Tag("news".into()),
            What::Host(host()),
            What::All,
        ];
        let purges = whats.into_iter().flat_map(|what| {
            let both = [Purge::hard(what.clone()), Purge::soft(what)];
            both.map(Entry::Purge)
        });
        let undo = Entry::Undo(Uid(1));
        for entry in purges.chain([undo]) {
            let text = entry.text().unwrap();
            assert_eq!(Entry::read(text.as_bytes(), NOW), Ok(entry), "{text}");
        }
        let text = Entry::Pull(lever()).text().unwrap();
        let expected = Lever {
            id: 0,
            shared: true,
            ..lever()
        };
        assert_eq!(
            Entry::read(text.as_bytes(), NOW),
            Ok(Entry::Pull(expected)),
            "{text}"
        );
    }

    #[test]
    fn a_long_url_purges_what_begins_with_it() {
        let target = format!("/{}", "ä\n".repeat(20_000));
        let page = What::Page {
            host: "a.test".into(),
            target: target.clone(),
        };
        let text = Entry::Purge(Purge::soft(page)).text().unwrap();
        let Ok(Entry::Purge(purge)) = Entry::read(text.as_bytes(), NOW) else {
            panic!("{text}");
        };
        assert!(purge.soft);
        let key = format!("https\0a.test\0{target}");
        assert!(purge.what.covers(key.as_bytes(), |_| false));
        assert!(!purge.what.covers(b"https\0a.test\0/", |_| false));
        let long = What::Tag("x".repeat(20_000));
        assert!(Entry::Purge(Purge::hard(long)).text().is_err());
    }

    #[test]
    fn people_may_write_much() {
        let mut long = lever();
        long.reason = "\u{1}".repeat(100_000);
        let text = Entry::Pull(long).text().unwrap();
        let read = Entry::read(text.as_bytes(), NOW);
        assert!(matches!(read, Ok(Entry::Pull(lever)) if lever.reason.len() == 256));
    }

    #[test]
    fn c82_what_is_none_is_not_taken() {
        let far = Entry::Pull(Lever {
            until: Some(u64::MAX),
            ..lever()
        });
        let far = far.text().unwrap();
        let long = format!(
            "{{\"purge\":{{\"what\":{{\"tag\":\"{}\"}},\"soft\":true}}}}",
            "x".repeat(PURGE_MOST)
        );
        for wrong in [
            "",
            "null",
            "[]",
            "{\"purge\":{\"what\":\"all\"}}",
            "{\"purge\":{\"what\":\"all\",\"soft\":1}}",
            "{\"purge\":{\"what\":\"all\",\"soft\":true,\"more\":1}}",
            "{\"purge\":{\"what\":{\"tag\":1},\"soft\":true}}",
            "{\"undo\":{\"uid\":\"1\"}}",
            "{\"undo\":{\"uid\":1}}",
            "{\"launch\":{}}",
            "{\"pull\":{\"uid\":\"0000000000000abc\",\"pull\":{\"lever\":\"self_destruct\"},\"who\":\"\",\"reason\":\"\",\"since\":0}}",
            &far,
            &long,
            &"[".repeat(8_000),
        ] {
            assert!(Entry::read(wrong.as_bytes(), NOW).is_err(), "{wrong}");
        }
        assert!(Entry::read(b"\xff\xfe", NOW).is_err());
    }
}
