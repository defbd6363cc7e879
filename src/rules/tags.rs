//! What an answer calls itself for purging: `Surrogate-Key` (separated by spaces), `Cache-Tag` (by commas) and
//! `Cache-Groups` (RFC 9875: a list of strings). A tag is the same in all three, and is compared as written.
//!
//! An answer with more or longer tags than are read here, or with some that can't be read, is *beyond*: it counts as having
//! every tag, so that none of those that were left out fails to purge it.

use std::collections::HashSet;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use sfv::{BareItem, List, ListEntry, Parser};

/// In the order of their bits in [`Read::fields`].
pub const FIELDS: [HeaderName; 3] = [
    HeaderName::from_static("surrogate-key"),
    HeaderName::from_static("cache-tag"),
    HeaderName::from_static("cache-groups"),
];

/// Tags of one answer that are read.
pub const MOST: usize = 1024;
/// The longest that is read, in bytes.
pub const LONGEST: usize = 1024;

/// What was read of an answer's tags.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Read<'a> {
    /// Each once.
    pub tags: HashSet<Tag<'a>>,
    /// A bit for each of [`FIELDS`] that is there.
    pub fields: u8,
    /// It counts as having every tag.
    pub beyond: bool,
}

type Tag<'a> = std::borrow::Cow<'a, str>;

/// Reads the tags of an answer.
pub fn read(fields: &HeaderMap) -> Read<'_> {
    let mut read = Read::default();
    for (at, name) in FIELDS.iter().enumerate() {
        let lines = || fields.get_all(name).iter();
        if lines().next().is_none() {
            continue;
        }
        read.fields |= 1 << at;
        match at {
            0 => read.plain(lines(), |byte| byte == ' ' || byte == '\t'),
            1 => read.plain(lines(), |byte| byte == ','),
            _ => read.structured(lines()),
        }
    }
    read
}

impl<'a> Read<'a> {
    fn plain(
        &mut self,
        lines: impl Iterator<Item = &'a HeaderValue>,
        separates: impl Fn(char) -> bool,
    ) {
        for line in lines {
            match std::str::from_utf8(line.as_bytes()) {
                Ok(line) => line
                    .split(&separates)
                    .map(str::trim_ascii)
                    .filter(|tag| !tag.is_empty())
                    .for_each(|tag| self.add(tag.into())),
                Err(_) => self.beyond = true,
            }
        }
    }

    /// RFC 9875 §2: strings; parameters mean nothing.
    fn structured(&mut self, lines: impl Iterator<Item = &'a HeaderValue>) {
        let lines: Vec<_> = lines.map(HeaderValue::as_bytes).collect();
        let Ok(groups) = Parser::new(&lines.join(&b", "[..])).parse::<List>() else {
            self.beyond = true;
            return;
        };
        for group in groups {
            match group {
                ListEntry::Item(item) => match item.bare_item {
                    BareItem::String(group) => self.add(String::from(group).into()),
                    _ => self.beyond = true,
                },
                ListEntry::InnerList(_) => self.beyond = true,
            }
        }
    }

    fn add(&mut self, tag: Tag<'a>) {
        if tag.len() > LONGEST || (self.tags.len() == MOST && !self.tags.contains(&tag)) {
            self.beyond = true;
        } else {
            self.tags.insert(tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    fn tags(lines: &[(&'static str, &[u8])]) -> (Vec<String>, bool) {
        let fields = fields(lines);
        let read = read(&fields);
        let mut tags: Vec<_> = read.tags.iter().map(|tag| tag.to_string()).collect();
        tags.sort();
        (tags, read.beyond)
    }

    fn exactly(tags: &[&str]) -> (Vec<String>, bool) {
        (tags.iter().map(|tag| (*tag).to_owned()).collect(), false)
    }

    #[test]
    fn each_field_has_its_separator() {
        assert_eq!(
            tags(&[
                ("surrogate-key", b"a  b\tc,d"),
                ("cache-tag", b"e , f g,,"),
                ("cache-groups", br#""h", "i j";x=1"#)
            ]),
            exactly(&["a", "b", "c,d", "e", "f g", "h", "i j"])
        );
        assert_eq!(
            tags(&[("surrogate-key", b"a"), ("surrogate-key", b"a b")]),
            exactly(&["a", "b"])
        );
        assert_eq!(tags(&[]), exactly(&[]));
        assert_eq!(tags(&[("cache-tag", b" ")]), exactly(&[]));
    }

    #[test]
    fn which_fields_are_there_is_told() {
        let of = |lines: &[(&'static str, &[u8])]| read(&fields(lines)).fields;
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[("cache-tag", b"")]), 2);
        assert_eq!(of(&[("cache-groups", b""), ("surrogate-key", b"a")]), 5);
    }

    #[test]
    fn rfc9875_2_what_is_no_list_of_strings_counts_as_every_tag() {
        for groups in [&b"a, b"[..], b"\"a", b"(\"a\" \"b\")", b"1", b"\"\xff\""] {
            assert!(tags(&[("cache-groups", groups)]).1, "{groups:?}");
        }
        let parted: &[(&str, &[u8])] = &[("cache-groups", b"\"a\""), ("cache-groups", b"\"b\"")];
        assert_eq!(tags(parted), exactly(&["a", "b"]));
    }

    #[test]
    fn what_is_left_out_is_not_forgotten() {
        let many = |most| {
            let all: Vec<_> = (0..most).map(|n| format!("t{n}")).collect();
            tags(&[("surrogate-key", all.join(" ").as_bytes())])
        };
        assert_eq!((many(MOST).0.len(), many(MOST).1), (MOST, false));
        assert_eq!((many(MOST + 1).0.len(), many(MOST + 1).1), (MOST, true));
        let long = |len| tags(&[("cache-tag", "x".repeat(len).as_bytes())]);
        assert_eq!((long(LONGEST).0.len(), long(LONGEST).1), (1, false));
        assert_eq!((long(LONGEST + 1).0.len(), long(LONGEST + 1).1), (0, true));
        assert!(tags(&[("surrogate-key", b"caf\xe9")]).1);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read(value in proptest::collection::vec(any::<u8>(), 0..80), field in 0usize..3) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let mut map = HeaderMap::new();
                map.insert(FIELDS[field].clone(), value);
                read(&map);
            }
        }
    }
}
