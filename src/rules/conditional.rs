//! Conditional requests, answered from what is stored (RFC 9110 §13, RFC 9111 §4.3.2).
//!
//! If-Match and If-Unmodified-Since are for origins: a cache must not evaluate them (RFC 9111
//! §4.3.2) and may serve as if they were not there (RFC 9110 §13.1.1, §13.1.4).

use http::HeaderMap;
use http::header::{DATE, ETAG, LAST_MODIFIED};

use super::date;
use super::fields::{Fields, trim};

/// What a stored answer is known by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Validators<'a> {
    /// As it stands in the field, with its quotes.
    pub etag: Option<&'a [u8]>,
    /// As it stands in the field.
    pub last_modified: Option<&'a [u8]>,
    /// As it stands in the field.
    pub date: Option<&'a [u8]>,
}

impl<'a> Validators<'a> {
    /// Of an answer's fields; of several lines, the first.
    pub fn of(fields: &'a HeaderMap) -> Validators<'a> {
        let value = |name| fields.get(name).map(http::HeaderValue::as_bytes);
        Validators {
            etag: value(ETAG),
            last_modified: value(LAST_MODIFIED),
            date: value(DATE),
        }
    }
}

/// What a conditional GET or HEAD gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The answer as if the request had no condition.
    Serve,
    /// 304.
    NotModified,
}

/// Evaluates a GET's or HEAD's conditions on a stored answer: If-None-Match, and only without it
/// If-Modified-Since (§13.2.2). Conditions bear on nothing but a 2xx answer (§13.2.1). `wall` in
/// Unix seconds. Nothing is allocated.
pub fn evaluate(request: &dyn Fields, status: u16, stored: &Validators<'_>, wall: u64) -> Outcome {
    if !(200..300).contains(&status) {
        return Outcome::Serve;
    }
    let (mut asked, mut matched) = (false, false);
    request.each_named("if-none-match", &mut |line| {
        asked = true;
        matched |= none_match_names(line, stored.etag);
    });
    if !asked {
        matched = unmodified_since(request, stored, wall);
    }
    if matched {
        Outcome::NotModified
    } else {
        Outcome::Serve
    }
}

/// Whether a field goes into a 304 (§15.4.5): what the section names, the targeted kin of
/// Cache-Control, Last-Modified for caches that go by it, and what CORS asks of every answer. What
/// the proxy adds itself is its own affair.
pub fn on_304(name: &str) -> bool {
    const KEPT: [&str; 10] = [
        "cache-control",
        "cdn-cache-control",
        "content-location",
        "date",
        "etag",
        "expires",
        "last-modified",
        "surrogate-control",
        "vary",
        "cache-status",
    ];
    KEPT.iter().any(|kept| name.eq_ignore_ascii_case(kept))
        || name
            .get(..15)
            .is_some_and(|start| start.eq_ignore_ascii_case("access-control-"))
}

/// Strong comparison (§8.8.3.2): equal, and neither weak.
pub fn strong(a: &[u8], b: &[u8]) -> bool {
    match (tag(a), tag(b)) {
        (Some(a), Some(b)) => !a.weak && !b.weak && a.opaque == b.opaque,
        _ => false,
    }
}

/// Weak comparison (§8.8.3.2): the opaque parts are equal.
pub fn weak(a: &[u8], b: &[u8]) -> bool {
    match (tag(a), tag(b)) {
        (Some(a), Some(b)) => a.opaque == b.opaque,
        _ => false,
    }
}

/// Whether an entity tag is weak; none if it is no entity tag at all.
pub(super) fn is_weak(value: &[u8]) -> Option<bool> {
    tag(value).map(|tag| tag.weak)
}

/// An entity tag (§8.8.3).
struct Tag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

/// The whole of `value` as an entity tag.
fn tag(value: &[u8]) -> Option<Tag<'_>> {
    match leading_tag(trim(value))? {
        (tag, []) => Some(tag),
        _ => None,
    }
}

/// The entity tag that `value` begins with, and what follows it.
fn leading_tag(value: &[u8]) -> Option<(Tag<'_>, &[u8])> {
    let (weak, quoted) = value
        .strip_prefix(b"W/")
        .map_or((false, value), |rest| (true, rest));
    let inner = quoted.strip_prefix(b"\"")?;
    let end = inner.iter().position(|&b| b == b'"')?;
    let opaque = &inner[..end];
    let fit = opaque.iter().all(|&b| b > b' ' && b != 0x7f);
    fit.then_some((Tag { weak, opaque }, &inner[end + 1..]))
}

/// Whether one If-None-Match line is `*` or lists the tag, by weak comparison (§13.1.2). A
/// malformed member matches nothing; the next one is looked for behind the next comma.
fn none_match_names(line: &[u8], etag: Option<&[u8]>) -> bool {
    let mut rest = trim(line);
    if rest == b"*" {
        return true;
    }
    let Some(stored) = etag.and_then(tag) else {
        return false;
    };
    while !rest.is_empty() {
        rest = match leading_tag(rest) {
            Some((tag, behind)) => {
                let whole = matches!(trim(behind), [] | [b',', ..]);
                if whole && tag.opaque == stored.opaque {
                    return true;
                }
                behind
            }
            None => rest,
        };
        let comma = rest.iter().position(|&b| b == b',');
        rest = comma.map_or(&[][..], |at| trim(&rest[at + 1..]));
    }
    false
}

/// If-Modified-Since, where it stands once and is a date: against Last-Modified, or Date where
/// there is none (RFC 9111 §4.3.2).
fn unmodified_since(request: &dyn Fields, stored: &Validators<'_>, wall: u64) -> bool {
    let (mut lines, mut since) = (0, None);
    request.each_named("if-modified-since", &mut |line| {
        lines += 1;
        since = date::parse(trim(line), wall);
    });
    let Some(since) = since.filter(|_| lines == 1) else {
        return false;
    };
    let changed = stored.last_modified.or(stored.date);
    changed
        .and_then(|changed| date::parse(changed, wall))
        .is_some_and(|changed| changed <= since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WALL: u64 = 1_795_228_800;
    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEW: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn asked(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn none_match(values: &[&str], etag: &str) -> Outcome {
        let lines: Vec<_> = values.iter().map(|v| ("if-none-match", *v)).collect();
        let stored = Validators {
            etag: Some(etag.as_bytes()),
            ..Validators::default()
        };
        evaluate(&asked(&lines), 200, &stored, WALL)
    }

    fn since(lines: &[(&'static str, &str)], stored: &Validators<'_>) -> Outcome {
        evaluate(&asked(lines), 200, stored, WALL)
    }

    fn modified(at: &str) -> Validators<'_> {
        Validators {
            last_modified: Some(at.as_bytes()),
            ..Validators::default()
        }
    }

    #[test]
    fn rfc9110_13_1_2_if_none_match_compares_weakly() {
        for (values, etag, expected) in [
            (&["\"a\""][..], "\"a\"", Outcome::NotModified),
            (&["W/\"a\""], "\"a\"", Outcome::NotModified),
            (&["\"a\""], "W/\"a\"", Outcome::NotModified),
            (&["\"b\""], "\"a\"", Outcome::Serve),
            (&["\"A\""], "\"a\"", Outcome::Serve),
            (&["\"x\", W/\"y\" ,\"a\""], "\"a\"", Outcome::NotModified),
            (&["\"x\"", "\"a\""], "\"a\"", Outcome::NotModified),
            (&["\"x,\", \"a\""], "\"a\"", Outcome::NotModified),
            (&["\"x,\"a\""], "\"a\"", Outcome::Serve),
            (&["a"], "\"a\"", Outcome::Serve),
            (&["w/\"a\""], "\"a\"", Outcome::Serve),
            (&["\"a\"x"], "\"a\"", Outcome::Serve),
            (&["\"a"], "\"a\"", Outcome::Serve),
            (&[""], "\"a\"", Outcome::Serve),
            (&[",,\"a\",,"], "\"a\"", Outcome::NotModified),
        ] {
            assert_eq!(none_match(values, etag), expected, "{values:?} on {etag}");
        }
    }

    #[test]
    fn rfc9110_13_1_2_star_matches_anything_that_is_there() {
        let request = asked(&[("if-none-match", "*")]);
        let known_by_nothing = Validators::default();
        assert_eq!(
            evaluate(&request, 200, &known_by_nothing, WALL),
            Outcome::NotModified
        );
    }

    #[test]
    fn rfc9110_13_1_3_if_modified_since() {
        for (value, changed, expected) in [
            (OLD, OLD, Outcome::NotModified),
            (NEW, OLD, Outcome::NotModified),
            (OLD, NEW, Outcome::Serve),
            ("Sunday, 06-Nov-94 08:49:37 GMT", OLD, Outcome::NotModified),
            ("Sun Nov  6 08:49:37 1994", OLD, Outcome::NotModified),
            ("junk", OLD, Outcome::Serve),
            (OLD, "junk", Outcome::Serve),
        ] {
            let stored = modified(changed);
            assert_eq!(
                since(&[("if-modified-since", value)], &stored),
                expected,
                "{value} on {changed}"
            );
        }
    }

    #[test]
    fn rfc9110_13_1_3_more_than_one_is_ignored() {
        let twice = [("if-modified-since", NEW), ("if-modified-since", NEW)];
        assert_eq!(since(&twice, &modified(OLD)), Outcome::Serve);
    }

    #[test]
    fn rfc9111_4_3_2_if_modified_since_goes_by_date_without_last_modified() {
        let dated = |at: &'static str| Validators {
            date: Some(at.as_bytes()),
            ..Validators::default()
        };
        assert_eq!(
            since(&[("if-modified-since", OLD)], &dated(OLD)),
            Outcome::NotModified
        );
        assert_eq!(
            since(&[("if-modified-since", OLD)], &dated(NEW)),
            Outcome::Serve
        );
    }

    #[test]
    fn rfc9110_13_2_2_if_none_match_before_if_modified_since() {
        let stored = Validators {
            etag: Some(b"\"a\""),
            ..modified(OLD)
        };
        let other = [("if-none-match", "\"b\""), ("if-modified-since", NEW)];
        assert_eq!(since(&other, &stored), Outcome::Serve);
        let same = [("if-none-match", "\"a\""), ("if-modified-since", "junk")];
        assert_eq!(since(&same, &stored), Outcome::NotModified);
        // also where there is no tag to compare with
        assert_eq!(since(&other, &modified(OLD)), Outcome::Serve);
    }

    #[test]
    fn rfc9110_13_2_1_conditions_bear_on_success_only() {
        let request = asked(&[("if-none-match", "*"), ("if-modified-since", NEW)]);
        for status in [301, 404, 500] {
            assert_eq!(
                evaluate(&request, status, &modified(OLD), WALL),
                Outcome::Serve,
                "{status}"
            );
        }
        assert_eq!(
            evaluate(&request, 203, &modified(OLD), WALL),
            Outcome::NotModified
        );
    }

    #[test]
    fn rfc9111_4_3_2_conditions_for_origins_are_not_evaluated() {
        let request = asked(&[("if-match", "\"other\""), ("if-unmodified-since", OLD)]);
        assert_eq!(
            evaluate(&request, 200, &modified(NEW), WALL),
            Outcome::Serve
        );
    }

    #[test]
    fn rfc9110_8_8_3_2_comparison_table() {
        for (a, b, strongly, weakly) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
            ("1", "1", false, false),
        ] {
            assert_eq!(strong(a.as_bytes(), b.as_bytes()), strongly, "{a} {b}");
            assert_eq!(weak(a.as_bytes(), b.as_bytes()), weakly, "{a} {b}");
        }
    }

    #[test]
    fn rfc9110_15_4_5_fields_of_a_304() {
        for name in [
            "Content-Location",
            "Date",
            "ETag",
            "Vary",
            "Cache-Control",
            "Expires",
        ] {
            assert!(on_304(name), "{name}");
        }
        for name in [
            "Content-Length",
            "Content-Type",
            "Content-Encoding",
            "Content-Range",
            "Set-Cookie",
            "X-Powered-By",
        ] {
            assert!(!on_304(name), "{name}");
        }
        assert!(on_304("Access-Control-Allow-Origin"));
    }

    proptest! {
        #[test]
        fn rfc9110_13_1_2_a_listed_tag_is_found(before in proptest::collection::vec("(W/)?\"[a-c,]{0,3}\"", 0..4), tag in "\"[a-c,]{0,3}\"", after in "[a-c\", ]{0,8}") {
            let mut members = before.clone();
            members.push(tag.clone());
            let line = format!("{},{after}", members.join(", "));
            prop_assert_eq!(none_match(&[&line], &tag), Outcome::NotModified);
        }

        #[test]
        fn evaluating_never_panics(line in "[ -~]{0,40}", etag in "[ -~]{0,10}") {
            none_match(&[&line], &etag);
        }
    }
}
