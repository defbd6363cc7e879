//! Which bytes of a complete stored answer a Range asks for (RFC 9110 §14), and the frame of
//! several.

use std::io::Write;
use std::ops::Range;

use super::conditional::{Validators, strong};
use super::date;
use super::fields::{members, trim};

/// More ranges than this in one request get the whole.
pub const MAX_RANGES: usize = 16;

/// What a Range gets. Every range lies within the size and is not empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ranges {
    /// 200 with everything: the field is malformed, of another unit, asks for too much, or for
    /// bytes twice.
    Whole,
    /// 206 with these bytes.
    Single(Range<u64>),
    /// 206 as `multipart/byteranges`, in the order asked for.
    Multi(Vec<Range<u64>>),
    /// 416 with the size.
    Unsatisfiable,
}

/// Reads a Range field for a representation of `size` bytes (§14.1.2, §14.2). Nothing is allocated
/// but for [`Ranges::Multi`].
pub fn resolve(range: &[u8], size: u64) -> Ranges {
    let Some(set) = byte_set(trim(range)) else {
        return Ranges::Whole;
    };
    let mut asked = 0;
    let mut room = [const { 0..0 }; MAX_RANGES];
    let mut count = 0;
    for spec in members(set) {
        asked += 1;
        if asked > MAX_RANGES {
            return Ranges::Whole;
        }
        match resolve_one(spec, size) {
            One::Bytes(range) => {
                room[count] = range;
                count += 1;
            }
            One::Nothing => {}
            One::Malformed | One::Everything => return Ranges::Whole,
        }
    }
    let found = &room[..count];
    if asked == 0 || overlap(found) {
        return Ranges::Whole;
    }
    match found {
        [] => Ranges::Unsatisfiable,
        [only] => Ranges::Single(only.clone()),
        several => Ranges::Multi(several.to_vec()),
    }
}

/// Whether If-Range lets a Range stand (§13.1.5): a tag that compares strongly, or exactly the date
/// of Last-Modified, where that is a strong validator: older than Date (§8.8.2.2). `wall` in Unix
/// seconds.
pub fn if_range(value: &[u8], stored: &Validators<'_>, wall: u64) -> bool {
    let value = trim(value);
    if value.contains(&b'"') {
        return stored.etag.is_some_and(|etag| strong(value, etag));
    }
    let read = |value: Option<&[u8]>| value.and_then(|value| date::parse(value, wall));
    match (
        date::parse(value, wall),
        read(stored.last_modified),
        read(stored.date),
    ) {
        (Some(asked), Some(changed), Some(served)) => asked == changed && changed < served,
        _ => false,
    }
}

/// Appends a Content-Range value: `bytes 0-4/10`.
pub fn content_range(range: &Range<u64>, size: u64, out: &mut Vec<u8>) {
    // a Vec takes all that is written to it
    let _ = write!(
        out,
        "bytes {}-{}/{size}",
        range.start,
        range.end.saturating_sub(1)
    );
}

/// Appends the Content-Range of a 416: `bytes */10`.
pub fn unsatisfied(size: u64, out: &mut Vec<u8>) {
    let _ = write!(out, "bytes */{size}");
}

/// The frame of a `multipart/byteranges` body (§14.6).
#[derive(Clone, Copy, Debug)]
pub struct Multipart<'a> {
    /// Stands nowhere in the content.
    pub boundary: &'a str,
    /// Of the whole.
    pub content_type: Option<&'a [u8]>,
    /// Of the whole.
    pub size: u64,
}

impl Multipart<'_> {
    /// Appends what stands before the bytes of one part.
    pub fn part_head(&self, range: &Range<u64>, out: &mut Vec<u8>) {
        let _ = write!(out, "\r\n--{}\r\n", self.boundary);
        if let Some(content_type) = self.content_type {
            out.extend_from_slice(b"Content-Type: ");
            out.extend_from_slice(content_type);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"Content-Range: ");
        content_range(range, self.size, out);
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// Appends what stands behind the last part.
    pub fn tail(&self, out: &mut Vec<u8>) {
        let _ = write!(out, "\r\n--{}--\r\n", self.boundary);
    }

    /// The length of the body: every part with its head, and the tail.
    pub fn length(&self, ranges: &[Range<u64>]) -> u64 {
        let mut frame = Vec::new();
        let mut bytes = 0;
        for range in ranges {
            self.part_head(range, &mut frame);
            bytes += range.end - range.start;
        }
        self.tail(&mut frame);
        bytes + frame.len() as u64
    }
}

enum One {
    Bytes(Range<u64>),
    /// Well formed, but nothing of it is there.
    Nothing,
    /// The end of an empty representation: satisfiable, though no range can say so.
    Everything,
    Malformed,
}

fn resolve_one(spec: &[u8], size: u64) -> One {
    let Some(dash) = spec.iter().position(|&b| b == b'-') else {
        return One::Malformed;
    };
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        return match number(last) {
            None => One::Malformed,
            Some(0) => One::Nothing,
            Some(_) if size == 0 => One::Everything,
            Some(length) => One::Bytes(size.saturating_sub(length)..size),
        };
    }
    let last = if last.is_empty() {
        Some(u64::MAX)
    } else {
        number(last)
    };
    match (number(first), last) {
        (Some(first), Some(last)) if first > last => One::Malformed,
        (Some(first), Some(_)) if first >= size => One::Nothing,
        (Some(first), Some(last)) => One::Bytes(first..last.saturating_add(1).min(size)),
        _ => One::Malformed,
    }
}

/// What follows `bytes=`.
fn byte_set(range: &[u8]) -> Option<&[u8]> {
    let (unit, set) = range.split_at_checked(6)?;
    unit.eq_ignore_ascii_case(b"bytes=").then_some(set)
}

/// Digits only; what overflows lies past every end.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, d| {
        d.is_ascii_digit()
            .then(|| n.saturating_mul(10).saturating_add(u64::from(d - b'0')))
    })
}

fn overlap(ranges: &[Range<u64>]) -> bool {
    ranges.iter().enumerate().any(|(i, a)| {
        ranges[..i]
            .iter()
            .any(|b| a.start < b.end && b.start < a.end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WALL: u64 = 1_795_228_800;

    fn of(range: &str) -> Ranges {
        resolve(range.as_bytes(), 10)
    }

    #[test]
    fn rfc9110_14_1_2_single_ranges() {
        for (range, expected) in [
            ("bytes=0-4", 0..5),
            ("bytes=5-", 5..10),
            ("bytes=-3", 7..10),
            ("bytes=-99", 0..10),
            ("bytes=9-9", 9..10),
            ("bytes=4-99", 4..10),
            ("BYTES=0-0", 0..1),
            ("bytes= 0-4 ", 0..5),
            ("bytes=,0-4,,", 0..5),
            ("bytes=0-99999999999999999999999", 0..10),
            ("bytes=-99999999999999999999999", 0..10),
            ("bytes=0-4,20-30", 0..5),
        ] {
            assert_eq!(of(range), Ranges::Single(expected), "{range}");
        }
    }

    #[test]
    fn rfc9110_14_2_several_ranges_in_their_order() {
        assert_eq!(of("bytes=8-9, 0-1"), Ranges::Multi(vec![8..10, 0..2]));
        assert_eq!(
            of("bytes=0-1,2-3,-1"),
            Ranges::Multi(vec![0..2, 2..4, 9..10])
        );
    }

    #[test]
    fn rfc9110_14_1_1_malformed_or_foreign_is_ignored() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=4-2",
            "bytes=a-b",
            "bytes=0-4,x",
            "bytes=0 - 4",
            "bytes=0-4-5",
            "bytes=+0-4",
            "bytes 0-4",
            "bytes =0-4",
            "items=0-4",
            "bytes:0-4",
            "bytes=--4",
            "bytes=0x0-4",
            "0-4",
        ] {
            assert_eq!(of(range), Ranges::Whole, "{range:?}");
        }
    }

    #[test]
    fn rfc9110_15_5_17_unsatisfiable_with_the_size() {
        for range in [
            "bytes=10-",
            "bytes=10-12",
            "bytes=-0",
            "bytes=99-,-0",
            "bytes=99999999999999999999999-",
        ] {
            assert_eq!(of(range), Ranges::Unsatisfiable, "{range}");
        }
        assert_eq!(resolve(b"bytes=0-", 0), Ranges::Unsatisfiable);
        assert_eq!(resolve(b"bytes=-5", 0), Ranges::Whole);
        let mut value = Vec::new();
        unsatisfied(10, &mut value);
        assert_eq!(value, b"bytes */10");
    }

    #[test]
    fn c37_overlapping_or_many_ranges_get_the_whole_once() {
        assert_eq!(of("bytes=0-4,4-6"), Ranges::Whole);
        assert_eq!(of("bytes=0-,0-"), Ranges::Whole);
        let many = |n: u64| {
            let specs: Vec<_> = (0..n).map(|i| format!("{i}-{i}")).collect();
            resolve(format!("bytes={}", specs.join(",")).as_bytes(), 1_000)
        };
        assert_eq!(many(17), Ranges::Whole);
        assert!(matches!(many(16), Ranges::Multi(ranges) if ranges.len() == 16));
    }

    #[test]
    fn rfc9110_13_1_5_if_range() {
        let (old, new) = (
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:38 GMT",
        );
        let stored = |etag: &'static str, changed: &'static str, date: &'static str| Validators {
            etag: Some(etag.as_bytes()),
            last_modified: Some(changed.as_bytes()),
            date: Some(date.as_bytes()),
        };
        for (value, stored, expected) in [
            ("\"a\"", stored("\"a\"", old, new), true),
            ("W/\"a\"", stored("\"a\"", old, new), false),
            ("\"a\"", stored("W/\"a\"", old, new), false),
            ("\"b\"", stored("\"a\"", old, new), false),
            (old, stored("\"a\"", old, new), true),
            (new, stored("\"a\"", old, new), false),
            ("junk", stored("\"a\"", old, new), false),
            ("*", stored("\"a\"", old, new), false),
            // changed within the second it was served: weak (§8.8.2.2)
            (old, stored("\"a\"", old, old), false),
        ] {
            assert_eq!(
                if_range(value.as_bytes(), &stored, WALL),
                expected,
                "{value} on {stored:?}"
            );
        }
        assert!(!if_range(old.as_bytes(), &Validators::default(), WALL));
    }

    #[test]
    fn rfc9110_14_6_multipart() {
        let frame = Multipart {
            boundary: "B",
            content_type: Some(b"text/plain"),
            size: 10,
        };
        let mut body = Vec::new();
        frame.part_head(&(0..2), &mut body);
        body.extend_from_slice(b"ab");
        frame.part_head(&(8..10), &mut body);
        body.extend_from_slice(b"ij");
        frame.tail(&mut body);
        let expected = "\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\nab\
                        \r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\nij\r\n--B--\r\n";
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        assert_eq!(frame.length(&[0..2, 8..10]), expected.len() as u64);
    }

    proptest! {
        /// C37: whatever is asked, the bytes sent are inside and none is sent twice.
        #[test]
        fn c37_ranges_stay_inside_and_apart(specs in proptest::collection::vec("[0-9]{0,3}-[0-9]{0,3}", 0..20), size in 0u64..1_000) {
            let ranges = match resolve(format!("bytes={}", specs.join(",")).as_bytes(), size) {
                Ranges::Single(range) => vec![range],
                Ranges::Multi(ranges) => ranges,
                Ranges::Whole | Ranges::Unsatisfiable => vec![],
            };
            prop_assert!(ranges.len() <= MAX_RANGES);
            let mut seen = std::collections::HashSet::new();
            for range in ranges {
                prop_assert!(!range.is_empty() && range.end <= size);
                prop_assert!(range.into_iter().all(|byte| seen.insert(byte)));
            }
        }

        #[test]
        fn reading_never_panics(range in "(bytes=)?[0-9,\\- a-z]{0,40}", size: u64) {
            resolve(range.as_bytes(), size);
        }
    }
}
