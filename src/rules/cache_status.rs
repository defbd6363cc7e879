//! Cache-Status (RFC 9211): how an answer was come by, in one member of ours after those of caches
//! before us.

use super::decimal;

/// The name of this cache in the field.
pub const NAME: &str = "Tidegate";

/// Why a request went to the origin (§2.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fwd {
    /// The route does not cache.
    Bypass,
    /// The method has to be forwarded.
    Method,
    /// Nothing is stored for the URI.
    UriMiss,
    /// Something is, but no variant for this request.
    VaryMiss,
    /// Nothing that may serve this request, for either reason.
    Miss,
    /// The request's own directives.
    Request,
    /// What is stored is stale, or has to be validated.
    Stale,
    /// What is stored lacks a part of what is asked for.
    Partial,
}

impl Fwd {
    /// The token of the field.
    pub fn as_str(self) -> &'static str {
        match self {
            Fwd::Bypass => "bypass",
            Fwd::Method => "method",
            Fwd::UriMiss => "uri-miss",
            Fwd::VaryMiss => "vary-miss",
            Fwd::Miss => "miss",
            Fwd::Request => "request",
            Fwd::Stale => "stale",
            Fwd::Partial => "partial",
        }
    }
}

/// Why an answer goes out that is not fresh from the origin (§2.8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Detail {
    /// Stale while one refresh runs.
    Swr,
    /// Stale because the origin failed.
    Sie,
    /// Stale because the origin is slow.
    Slow,
    /// The origin is down and was not asked: stale, or no answer at all.
    Breaker,
    /// Stale because the client has come too often for the origin to be asked.
    Limited,
    /// From the static fallback.
    Fallback,
}

impl Detail {
    /// The token of the field.
    pub fn as_str(self) -> &'static str {
        match self {
            Detail::Swr => "swr",
            Detail::Sie => "sie",
            Detail::Slow => "slow",
            Detail::Breaker => "breaker",
            Detail::Limited => "limited",
            Detail::Fallback => "fallback",
        }
    }
}

/// Whether the origin had a part in an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// None: it came from the cache (§2.1).
    Hit,
    /// The request was forwarded (§2.2).
    Forwarded {
        /// Why.
        why: Fwd,
        /// What the origin answered (§2.3), where that is not the status sent or it bears telling;
        /// none if it has not.
        status: Option<u16>,
        /// Whether the answer was stored (§2.5).
        stored: bool,
        /// Whether one fetch served other requests too, this among them (§2.6).
        collapsed: bool,
    },
}

/// What is told of one answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told<'a> {
    /// From the cache or by way of the origin.
    pub way: Way,
    /// Seconds of freshness left, below 0 when stale (§2.4).
    pub ttl: Option<i64>,
    /// Why it is served stale.
    pub detail: Option<Detail>,
    /// The cache key (§2.7), only where the route wants it told.
    pub key: Option<&'a [u8]>,
}

impl<'a> Told<'a> {
    /// A fresh hit.
    pub fn hit(ttl: i64) -> Told<'a> {
        Told {
            way: Way::Hit,
            ttl: Some(ttl),
            detail: None,
            key: None,
        }
    }

    /// A stale answer for which nothing was forwarded.
    pub fn stale(ttl: i64, detail: Detail) -> Told<'a> {
        Told {
            detail: Some(detail),
            ..Told::hit(ttl)
        }
    }

    /// An answer of the static fallback.
    pub fn fallback() -> Told<'a> {
        Told {
            way: Way::Hit,
            ttl: None,
            detail: Some(Detail::Fallback),
            key: None,
        }
    }

    /// No answer, since the origin is down and was not asked.
    pub fn refused(why: Fwd) -> Told<'a> {
        let way = Way::Forwarded {
            why,
            status: None,
            stored: false,
            collapsed: false,
        };
        Told {
            way,
            ttl: None,
            detail: Some(Detail::Breaker),
            key: None,
        }
    }

    /// The origin's own answer, not stored.
    pub fn forwarded(why: Fwd, status: u16) -> Told<'a> {
        let way = Way::Forwarded {
            why,
            status: Some(status),
            stored: false,
            collapsed: false,
        };
        Told {
            way,
            ttl: None,
            detail: None,
            key: None,
        }
    }

    /// An answer that was stored; `collapsed` if it was fetched for others too.
    pub fn stored(why: Fwd, status: u16, ttl: i64, collapsed: bool) -> Told<'a> {
        let way = Way::Forwarded {
            why,
            status: Some(status),
            stored: true,
            collapsed,
        };
        Told {
            way,
            ttl: Some(ttl),
            detail: None,
            key: None,
        }
    }

    /// A stale answer after the origin was asked: `status` is what it answered, if it did.
    pub fn rescued(why: Fwd, status: Option<u16>, ttl: i64, detail: Detail) -> Told<'a> {
        let way = Way::Forwarded {
            why,
            status,
            stored: false,
            collapsed: false,
        };
        Told {
            way,
            ttl: Some(ttl),
            detail: Some(detail),
            key: None,
        }
    }

    /// Appends the field's value. Nothing is allocated while `out` has room for it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(NAME.as_bytes());
        match self.way {
            Way::Hit => out.extend_from_slice(b"; hit"),
            Way::Forwarded {
                why,
                status,
                stored,
                collapsed,
            } => {
                out.extend_from_slice(b"; fwd=");
                out.extend_from_slice(why.as_str().as_bytes());
                if let Some(status) = status {
                    out.extend_from_slice(b"; fwd-status=");
                    integer(status.into(), out);
                }
                if stored {
                    out.extend_from_slice(b"; stored");
                }
                if collapsed {
                    out.extend_from_slice(b"; collapsed");
                }
            }
        }
        if let Some(ttl) = self.ttl {
            out.extend_from_slice(b"; ttl=");
            integer(ttl, out);
        }
        if let Some(key) = self.key {
            out.extend_from_slice(b"; key=");
            string(key, out);
        }
        if let Some(detail) = self.detail {
            out.extend_from_slice(b"; detail=");
            out.extend_from_slice(detail.as_str().as_bytes());
        }
    }

    /// The same for old tools, in one word (`X-Cache`).
    pub fn x_cache(&self) -> &'static str {
        match (self.way, self.detail) {
            (Way::Forwarded { .. }, Some(Detail::Breaker)) if self.ttl.is_none() => "MISS",
            (
                _,
                Some(Detail::Swr | Detail::Sie | Detail::Slow | Detail::Breaker | Detail::Limited),
            ) => "STALE",
            (_, Some(Detail::Fallback)) => "FALLBACK",
            (Way::Hit, None) => "HIT",
            (
                Way::Forwarded {
                    why: Fwd::Bypass | Fwd::Method,
                    ..
                },
                None,
            ) => "BYPASS",
            (Way::Forwarded { .. }, None) => "MISS",
        }
    }
}

/// A structured-field Integer (RFC 9651 §3.3.1): at most fifteen digits.
fn integer(n: i64, out: &mut Vec<u8>) {
    const MOST: i64 = 999_999_999_999_999;
    decimal::write(n.clamp(-MOST, MOST), out);
}

/// A structured-field String (RFC 9651 §3.3.3); bytes that cannot stand in one become `?`.
fn string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            _ => out.push(b'?'),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sfv::{BareItem, List, ListEntry, Parser};

    fn written(told: &Told<'_>) -> String {
        let mut out = Vec::new();
        told.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rfc9211_2_every_form() {
        for (told, expected) in [
            (Told::hit(42), "Tidegate; hit; ttl=42"),
            (
                Told::stale(-3, Detail::Swr),
                "Tidegate; hit; ttl=-3; detail=swr",
            ),
            (
                Told::stale(-3, Detail::Sie),
                "Tidegate; hit; ttl=-3; detail=sie",
            ),
            (
                Told::rescued(Fwd::Stale, Some(500), -3, Detail::Sie),
                "Tidegate; fwd=stale; fwd-status=500; ttl=-3; detail=sie",
            ),
            (
                Told::rescued(Fwd::Stale, None, -3, Detail::Slow),
                "Tidegate; fwd=stale; ttl=-3; detail=slow",
            ),
            (
                Told::stale(-3, Detail::Breaker),
                "Tidegate; hit; ttl=-3; detail=breaker",
            ),
            (
                Told::refused(Fwd::UriMiss),
                "Tidegate; fwd=uri-miss; detail=breaker",
            ),
            (Told::fallback(), "Tidegate; hit; detail=fallback"),
            (
                Told::stored(Fwd::UriMiss, 200, 60, true),
                "Tidegate; fwd=uri-miss; fwd-status=200; stored; collapsed; ttl=60",
            ),
            (
                Told::stored(Fwd::VaryMiss, 200, 60, false),
                "Tidegate; fwd=vary-miss; fwd-status=200; stored; ttl=60",
            ),
            (
                Told::forwarded(Fwd::Method, 201),
                "Tidegate; fwd=method; fwd-status=201",
            ),
        ] {
            assert_eq!(written(&told), expected);
        }
    }

    #[test]
    fn rfc9211_2_7_key_is_a_quoted_string() {
        let told = Told {
            key: Some(b"http://a/\"b\\\xff"),
            ..Told::hit(1)
        };
        assert_eq!(
            written(&told),
            r#"Tidegate; hit; ttl=1; key="http://a/\"b\\?""#
        );
    }

    #[test]
    fn x_cache_in_a_word() {
        for (told, expected) in [
            (Told::hit(1), "HIT"),
            (Told::stale(-1, Detail::Swr), "STALE"),
            (Told::rescued(Fwd::Stale, None, -1, Detail::Slow), "STALE"),
            (Told::stored(Fwd::UriMiss, 200, 1, false), "MISS"),
            (Told::forwarded(Fwd::Method, 200), "BYPASS"),
            (Told::fallback(), "FALLBACK"),
            (Told::stale(-1, Detail::Breaker), "STALE"),
            (Told::refused(Fwd::UriMiss), "MISS"),
        ] {
            assert_eq!(told.x_cache(), expected);
        }
    }

    proptest! {
        /// Whatever is told is one member of a structured list that says the same.
        #[test]
        fn rfc9211_2_is_a_structured_list(
            status in proptest::option::of(100u16..600), stored: bool, collapsed: bool, ttl: i64, key in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let way = Way::Forwarded { why: Fwd::Stale, status, stored, collapsed };
            let told = Told { way, ttl: Some(ttl), detail: Some(Detail::Sie), key: Some(&key) };
            let list: List = Parser::new(&written(&told)).parse().unwrap();
            prop_assert_eq!(list.len(), 1);
            let ListEntry::Item(item) = &list[0] else { panic!("an item") };
            let bare = |name: &str| item.params.get(name).cloned();
            let most = 999_999_999_999_999;
            prop_assert_eq!(bare("ttl"), Some(BareItem::Integer(ttl.clamp(-most, most).try_into().unwrap())));
            prop_assert_eq!(bare("fwd-status"), status.map(|s| BareItem::Integer(s.into())));
            prop_assert_eq!(bare("stored"), stored.then_some(BareItem::Boolean(true)));
            prop_assert_eq!(bare("collapsed"), collapsed.then_some(BareItem::Boolean(true)));
        }
    }
}
