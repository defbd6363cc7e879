//! Is what is stored still right: asking the origin, and taking its 304 (RFC 9111 §4.3).

use http::HeaderMap;
use http::header::{
    AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderName, HeaderValue,
    LAST_MODIFIED,
};

use super::conditional::{is_weak, strong, weak};
use super::hop::{Nominated, is_hop_by_hop};

/// The conditions to ask the origin with; both empty where nothing is known to ask by.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Conditions {
    /// The stored ETag, where it is a well-formed one.
    pub if_none_match: Option<HeaderValue>,
    /// The stored Last-Modified, to the byte.
    pub if_modified_since: Option<HeaderValue>,
}

impl Conditions {
    /// Whether there is nothing to validate by.
    pub fn is_empty(&self) -> bool {
        self.if_none_match.is_none() && self.if_modified_since.is_none()
    }
}

/// The conditions that validate a stored answer (§4.3.1): of what the origin sent, both validators.
pub fn conditions(stored: &HeaderMap) -> Conditions {
    let etag = only(stored, ETAG);
    Conditions {
        if_none_match: etag
            .filter(|etag| is_weak(etag.as_bytes()).is_some())
            .cloned(),
        if_modified_since: only(stored, LAST_MODIFIED).cloned(),
    }
}

/// Whether a 304 speaks of the stored answer it was asked by (§4.3.4). One with a strong tag has to
/// bear the same tag, one with a weak tag an equal one, one with Last-Modified alone the same date.
/// One that names nothing can only mean the answer whose validators were sent. Where it does not,
/// what is stored must not be updated, and the page is fetched again without conditions.
pub fn matches(stored: &HeaderMap, from304: &HeaderMap) -> bool {
    let equal = |name: &HeaderName, same: fn(&[u8], &[u8]) -> bool| {
        let (old, new) = (stored.get(name), from304.get(name));
        old.zip(new)
            .is_some_and(|(old, new)| same(old.as_bytes(), new.as_bytes()))
    };
    match from304.get(ETAG).map(|etag| is_weak(etag.as_bytes())) {
        Some(Some(false)) => equal(&ETAG, strong),
        Some(Some(true)) => equal(&ETAG, weak),
        // not a tag: whatever it is, it has to be the same
        Some(None) => equal(&ETAG, |old, new| old == new),
        None if from304.contains_key(LAST_MODIFIED) => equal(&LAST_MODIFIED, |old, new| old == new),
        None => true,
    }
}

/// The stored head with every field a 304 brings in the place of its own (§3.2), but those of §3.1
/// and what describes the stored body: Content-Length, Content-Encoding, Content-Range. Age and
/// Date are the 304's or nobody's: it is from its arrival that the answer is counted.
pub fn merge(stored: &HeaderMap, from304: &HeaderMap) -> HeaderMap {
    let nominated = Nominated::of(from304);
    let brings = |name: &HeaderName| {
        !matches!(*name, CONTENT_LENGTH | CONTENT_ENCODING | CONTENT_RANGE)
            && !is_hop_by_hop(name.as_str())
            && !nominated.removes(name.as_str())
    };
    let mut merged = stored.clone();
    merged.remove(AGE);
    merged.remove(DATE);
    for name in from304.keys().filter(|name| brings(name)) {
        merged.remove(name);
        for value in from304.get_all(name) {
            merged.append(name, value.clone());
        }
    }
    merged
}

fn only(fields: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut lines = fields.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        map
    }

    const MODIFIED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    const LATER: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:38 GMT");

    #[test]
    fn rfc9111_4_3_1_asks_by_both_validators() {
        let asked = conditions(&map(&[("etag", "W/\"a\""), MODIFIED]));
        assert_eq!(asked.if_none_match.unwrap(), "W/\"a\"");
        assert_eq!(asked.if_modified_since.unwrap(), MODIFIED.1);
        assert!(conditions(&map(&[("date", MODIFIED.1)])).is_empty());
    }

    #[test]
    fn rfc9111_4_3_1_never_by_a_malformed_or_doubtful_tag() {
        assert!(conditions(&map(&[("etag", "abc")])).is_empty());
        assert!(conditions(&map(&[("etag", "\"a\""), ("etag", "\"b\"")])).is_empty());
    }

    #[test]
    fn rfc9111_4_3_4_a_304_has_to_name_what_is_stored() {
        let tag = |value: &'static str| ("etag", value);
        for (stored, fresh, expected) in [
            (&[tag("\"a\"")][..], &[tag("\"a\"")][..], true),
            (&[tag("\"a\"")], &[tag("\"b\"")], false),
            (&[tag("W/\"a\"")], &[tag("\"a\"")], false),
            (&[tag("\"a\"")], &[tag("W/\"a\"")], true),
            (&[tag("W/\"a\"")], &[tag("W/\"b\"")], false),
            (&[MODIFIED], &[tag("\"a\"")], false),
            (&[tag("\"a\""), MODIFIED], &[tag("\"b\""), MODIFIED], false),
            (&[tag("\"a\""), MODIFIED], &[tag("\"a\""), LATER], true),
            (&[MODIFIED], &[MODIFIED], true),
            (&[MODIFIED], &[LATER], false),
            (&[tag("\"a\"")], &[MODIFIED], false),
            (&[tag("\"a\"")], &[], true),
            (&[MODIFIED], &[], true),
        ] {
            assert_eq!(
                matches(&map(stored), &map(fresh)),
                expected,
                "{stored:?} {fresh:?}"
            );
        }
    }

    #[test]
    fn rfc9111_3_2_every_field_of_a_304_replaces_the_stored() {
        let stored = map(&[
            ("cache-control", "max-age=1"),
            ("x-kept", "1"),
            ("x-list", "a"),
            ("x-list", "b"),
        ]);
        let merged = merge(
            &stored,
            &map(&[
                ("cache-control", "max-age=9"),
                ("x-list", "c"),
                ("x-list", "d"),
                ("x-new", "2"),
            ]),
        );
        let expected = map(&[
            ("cache-control", "max-age=9"),
            ("x-kept", "1"),
            ("x-list", "c"),
            ("x-list", "d"),
            ("x-new", "2"),
        ]);
        assert_eq!(merged, expected);
    }

    #[test]
    fn rfc9111_3_2_the_stored_body_keeps_its_description() {
        let stored = map(&[("content-length", "9"), ("content-encoding", "gzip")]);
        let fresh = map(&[
            ("content-length", "0"),
            ("content-encoding", "br"),
            ("content-range", "bytes 0-0/1"),
        ]);
        assert_eq!(merge(&stored, &fresh), stored);
    }

    #[test]
    fn rfc9111_3_1_hop_by_hop_fields_of_a_304_are_not_taken() {
        let fresh = map(&[
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("proxy-authenticate", "x"),
            ("transfer-encoding", "chunked"),
        ]);
        assert_eq!(merge(&HeaderMap::new(), &fresh), HeaderMap::new());
    }

    #[test]
    fn rfc9111_4_2_3_age_and_date_are_counted_from_the_304() {
        let stored = map(&[("age", "50"), ("date", MODIFIED.1)]);
        assert_eq!(merge(&stored, &HeaderMap::new()), HeaderMap::new());
        let fresh = map(&[("age", "3"), ("date", LATER.1)]);
        assert_eq!(merge(&stored, &fresh), fresh);
    }

    proptest! {
        /// After a merge every field the 304 may bring stands as it brought it, and the others as
        /// they stood.
        #[test]
        fn rfc9111_3_2_merge_takes_all_and_loses_nothing(
            stored in proptest::collection::vec(("x-[a-e]", "[a-z]{1,3}"), 0..8),
            fresh in proptest::collection::vec(("x-[a-e]", "[a-z]{1,3}"), 0..8),
        ) {
            let of = |fields: &[(String, String)]| map(&fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>());
            let (stored, fresh) = (of(&stored), of(&fresh));
            let merged = merge(&stored, &fresh);
            for name in stored.keys().chain(fresh.keys()) {
                let from = if fresh.contains_key(name) { &fresh } else { &stored };
                prop_assert!(merged.get_all(name).iter().eq(from.get_all(name).iter()));
            }
        }
    }
}
