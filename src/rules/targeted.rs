//! Which field decides: targeted Cache-Control (RFC 9213), Surrogate-Control, or Cache-Control
//! itself.
//!
//! The first that is valid and not empty replaces Cache-Control, Expires and Pragma for every
//! decision here; all of them are passed on as they came.

use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderName, PRAGMA};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::cache_control::{MAX_SECONDS, ResponseDirectives, pragma_says_no_cache};

/// RFC 9213 §3.1.
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// W3C Edge Architecture Specification §2.2.
pub const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// The field a policy was read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// CDN-Cache-Control.
    Cdn,
    /// Surrogate-Control.
    Surrogate,
    /// Cache-Control; Expires and Pragma speak too.
    CacheControl,
}

/// What the origin says of caching to a cache like this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Where it stood.
    pub from: From,
    /// What stood there, `Pragma: no-cache` included where it counts.
    pub directives: ResponseDirectives,
}

impl Policy {
    /// Whether the origin spoke to shared caches in particular.
    pub fn is_targeted(&self) -> bool {
        self.from != From::CacheControl
    }
}

/// Reads the field that decides (RFC 9213 §2.2).
pub fn policy(fields: &HeaderMap) -> Policy {
    if let Some(directives) = structured(fields) {
        return Policy {
            from: From::Cdn,
            directives,
        };
    }
    // One that has nothing we know (`content="ESI/1.0"`) does not lift what Cache-Control forbids.
    let surrogate = plain(fields, &SURROGATE_CONTROL);
    if surrogate.known {
        return Policy {
            from: From::Surrogate,
            directives: surrogate,
        };
    }
    let mut directives = plain(fields, &CACHE_CONTROL);
    let mut stands = fields
        .get_all(CACHE_CONTROL)
        .iter()
        .any(|v| !v.as_bytes().trim_ascii().is_empty());
    if !stands {
        stands = fields
            .get_all(PRAGMA)
            .iter()
            .any(|v| pragma_says_no_cache(v.as_bytes()));
        directives.no_cache |= stands;
    }
    Policy {
        from: From::CacheControl,
        directives,
    }
}

fn plain(fields: &HeaderMap, name: &HeaderName) -> ResponseDirectives {
    ResponseDirectives::parse(fields.get_all(name).iter().map(http::HeaderValue::as_bytes))
}

/// CDN-Cache-Control, unless it is absent, empty or malformed in any part.
fn structured(fields: &HeaderMap) -> Option<ResponseDirectives> {
    let mut joined = Vec::new();
    for line in fields.get_all(CDN_CACHE_CONTROL) {
        if !joined.is_empty() {
            joined.extend_from_slice(b", ");
        }
        joined.extend_from_slice(line.as_bytes());
    }
    let members: Dictionary = Parser::new(&joined).parse().ok()?;
    if members.is_empty() {
        return None;
    }
    let mut read = ResponseDirectives::default();
    for (name, value) in &members {
        match name.as_str() {
            "no-store" => read.no_store = unless_false(value),
            "private" => read.private = unless_false(value),
            "no-cache" => read.no_cache = unless_false(value),
            "public" => read.public = only_true(value),
            "must-revalidate" => read.must_revalidate = unless_false(value),
            "proxy-revalidate" => read.proxy_revalidate = unless_false(value),
            "must-understand" => read.must_understand = only_true(value),
            "no-transform" => read.no_transform = unless_false(value),
            "immutable" => read.immutable = only_true(value),
            "max-age" => read.max_age = Some(seconds(value)),
            "s-maxage" => read.s_maxage = Some(seconds(value)),
            "stale-while-revalidate" => read.stale_while_revalidate = Some(seconds(value)),
            "stale-if-error" => read.stale_if_error = Some(seconds(value)),
            _ => continue,
        }
        read.known = true;
    }
    Some(read)
}

/// For what forbids: anything but `?0`.
fn unless_false(value: &ListEntry) -> bool {
    !matches!(value, ListEntry::Item(item) if item.bare_item == BareItem::Boolean(false))
}

/// For what permits: nothing but `?1`.
fn only_true(value: &ListEntry) -> bool {
    matches!(value, ListEntry::Item(item) if item.bare_item == BareItem::Boolean(true))
}

/// An Integer; of another type, or negative, it is stale.
fn seconds(value: &ListEntry) -> u64 {
    match value {
        ListEntry::Item(item) => match item.bare_item {
            BareItem::Integer(n) => u64::try_from(i64::from(n)).unwrap_or(0).min(MAX_SECONDS),
            _ => 0,
        },
        ListEntry::InnerList(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(fields: &[(&'static str, &str)]) -> Policy {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(
                *name,
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        policy(&map)
    }

    #[test]
    fn rfc9213_2_2_the_first_valid_field_decides() {
        let cc = ("cache-control", "max-age=1");
        let (sc, cdn) = (
            ("surrogate-control", "max-age=2"),
            ("cdn-cache-control", "max-age=3"),
        );
        for (fields, from, max_age) in [
            (&[cc][..], From::CacheControl, 1),
            (&[cc, sc], From::Surrogate, 2),
            (&[cc, sc, cdn], From::Cdn, 3),
            (&[cdn, cc], From::Cdn, 3),
        ] {
            let policy = of(fields);
            assert_eq!(
                (policy.from, policy.directives.max_age),
                (from, Some(max_age)),
                "{fields:?}"
            );
        }
    }

    #[test]
    fn rfc9213_2_2_cache_control_beside_it_is_not_heard() {
        let policy = of(&[
            ("cdn-cache-control", "max-age=60"),
            ("cache-control", "no-store, private"),
            ("pragma", "no-cache"),
        ]);
        assert!(
            !policy.directives.no_store
                && !policy.directives.private
                && !policy.directives.no_cache
        );
    }

    #[test]
    fn rfc9213_2_1_malformed_or_empty_is_ignored_whole() {
        for value in [
            "",
            " ",
            "max-age=60, ,",
            "max-age=60,",
            "Max-Age=60",
            "max-age=60; NO",
            "max-age=60, x=\"open",
            "max-age==60",
            "é=1",
            "max-age=60 no-store",
        ] {
            let policy = of(&[("cdn-cache-control", value), ("cache-control", "no-store")]);
            assert_eq!(policy.from, From::CacheControl, "{value:?}");
            assert!(policy.directives.no_store, "{value:?}");
        }
    }

    #[test]
    fn rfc9213_2_1_types_other_than_specified_are_strict() {
        for value in [
            "max-age=\"60\"",
            "max-age=60.5",
            "max-age",
            "max-age=(60)",
            "max-age=-1",
            "max-age=x",
        ] {
            assert_eq!(
                of(&[("cdn-cache-control", value)]).directives.max_age,
                Some(0),
                "{value}"
            );
        }
        for value in [
            "no-store=1",
            "no-store=\"x\"",
            "no-store=()",
            "no-store=?1",
            "no-store",
        ] {
            assert!(
                of(&[("cdn-cache-control", value)]).directives.no_store,
                "{value}"
            );
        }
        assert!(
            !of(&[("cdn-cache-control", "no-store=?0, max-age=5")])
                .directives
                .no_store
        );
        assert!(!of(&[("cdn-cache-control", "public=1")]).directives.public);
    }

    #[test]
    fn rfc9213_2_1_parameters_are_ignored() {
        assert_eq!(
            of(&[("cdn-cache-control", "max-age=60;foo=bar, x=1")])
                .directives
                .max_age,
            Some(60)
        );
    }

    #[test]
    fn rfc9213_2_1_lines_are_one_dictionary() {
        let policy = of(&[
            ("cdn-cache-control", "max-age=60"),
            ("cdn-cache-control", "stale-if-error=9"),
        ]);
        assert_eq!(
            (policy.directives.max_age, policy.directives.stale_if_error),
            (Some(60), Some(9))
        );
    }

    #[test]
    fn rfc9213_2_1_overflow_clamps() {
        assert_eq!(
            of(&[("cdn-cache-control", "max-age=999999999999999")])
                .directives
                .max_age,
            Some(MAX_SECONDS)
        );
    }

    #[test]
    fn surrogate_control_without_a_known_directive_lifts_nothing() {
        for value in ["", "content=\"ESI/1.0\""] {
            let policy = of(&[("surrogate-control", value), ("cache-control", "private")]);
            assert_eq!(
                (policy.from, policy.directives.private),
                (From::CacheControl, true),
                "{value:?}"
            );
        }
    }

    #[test]
    fn rfc9111_5_4_response_pragma_counts_without_cache_control() {
        assert!(of(&[("pragma", "no-cache")]).directives.no_cache);
        assert!(
            !of(&[("pragma", "no-cache"), ("cache-control", "max-age=5")])
                .directives
                .no_cache
        );
        assert!(
            of(&[("pragma", "no-cache"), ("cache-control", "")])
                .directives
                .no_cache
        );
        assert!(!of(&[("pragma", "x")]).directives.no_cache);
    }

    proptest! {
        #[test]
        fn reading_never_panics(cdn in "[ -~]{0,60}", surrogate in "[ -~]{0,60}", cc in "[ -~]{0,60}") {
            of(&[("cdn-cache-control", &cdn), ("surrogate-control", &surrogate), ("cache-control", &cc)]);
        }
    }
}
