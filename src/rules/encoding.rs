//! Which answers may be given in a content coding of our own, and in which (RFC 9110 §8.4, §12.5.3).
//!
//! A coding makes another representation: its strong ETag can't be the origin's, and what names bytes of the content
//! (digests, ranges) would be untrue of it.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::cache_control::ResponseDirectives;
use super::vary::{self, Codings};

/// A coding that pages are given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// RFC 7932
    Br,
    /// RFC 8878
    Zstd,
    /// RFC 1952
    Gzip,
}

impl Coding {
    pub const ALL: [Coding; 3] = [Coding::Br, Coding::Zstd, Coding::Gzip];

    /// As Content-Encoding names it.
    pub const fn name(self) -> &'static str {
        match self {
            Coding::Br => "br",
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        }
    }

    /// As one of those that a client takes.
    pub const fn as_set(self) -> Codings {
        match self {
            Coding::Br => Codings::BR,
            Coding::Zstd => Codings::ZSTD,
            Coding::Gzip => Codings::GZIP,
        }
    }
}

/// Shorter bodies fit into a packet or two either way; longer ones would hold the one thread that encodes for long.
pub const SIZES: std::ops::RangeInclusive<u64> = 512..=8 * 1024 * 1024;

/// Fields that are true of the bytes as the origin sent them, and of no others (RFC 9530, RFC 1864, RFC 3230).
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// Whether an answer with these fields may be encoded: text, of the origin's own coding none, nothing said against it.
pub fn may_encode(fields: &HeaderMap) -> bool {
    let named = DIGESTS.iter().any(|name| fields.contains_key(*name));
    // A visitor's own page may hold a secret beside what a stranger had them ask for: its length would tell of it (BREACH).
    !named
        && !vary::of(fields).names_credentials()
        && !fields.contains_key(header::CONTENT_ENCODING)
        && !fields.contains_key(header::CONTENT_RANGE)
        && fields.get(header::CONTENT_TYPE).is_some_and(is_text)
        && !forbids(fields)
}

fn forbids(fields: &HeaderMap) -> bool {
    let lines = fields.get_all(header::CACHE_CONTROL);
    ResponseDirectives::parse(lines.iter().map(HeaderValue::as_bytes)).no_transform
}

/// Types whose content repeats itself. Event streams are never whole, so never asked about.
fn is_text(content_type: &HeaderValue) -> bool {
    let essence = content_type.as_bytes().split(|byte| *byte == b';').next();
    let essence = essence
        .unwrap_or_default()
        .trim_ascii()
        .to_ascii_lowercase();
    let Ok(essence) = std::str::from_utf8(&essence) else {
        return false;
    };
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || matches!(
            essence,
            "application/json"
                | "application/javascript"
                | "application/x-javascript"
                | "application/xml"
                | "application/wasm"
                | "application/x-ndjson"
                | "application/vnd.ms-fontobject"
                | "font/ttf"
                | "font/otf"
        )
}

/// The line that every representation of such an answer bears, unless the origin's own Vary says as much.
pub fn vary_line(fields: &HeaderMap) -> Option<(HeaderName, HeaderValue)> {
    let said = vary::of(fields).names().contains(&header::ACCEPT_ENCODING);
    (!said).then(|| (header::VARY, HeaderValue::from_static("Accept-Encoding")))
}

/// The fields of the answer in `coding`: a weak ETag (its bytes are others, its meaning is the same), and no word of
/// ranges, which are cut from the origin's bytes only.
pub fn encoded(mut fields: HeaderMap, coding: Coding) -> HeaderMap {
    fields.insert(
        header::CONTENT_ENCODING,
        HeaderValue::from_static(coding.name()),
    );
    fields.remove(header::ACCEPT_RANGES);
    let strong = fields
        .get(header::ETAG)
        .filter(|etag| !etag.as_bytes().starts_with(b"W/"));
    let weak = strong.map(|etag| [b"W/", etag.as_bytes()].concat());
    if let Some(weak) = weak.and_then(|weak| HeaderValue::from_bytes(&weak).ok()) {
        fields.insert(header::ETAG, weak);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn text_is_encoded_and_nothing_that_is_packed_already() {
        for (kind, may) in [
            ("text/html; charset=utf-8", true),
            ("TEXT/CSS", true),
            ("application/json", true),
            ("application/ld+json", true),
            ("image/svg+xml", true),
            ("application/wasm", true),
            ("image/png", false),
            ("application/octet-stream", false),
            ("application/zip", false),
            ("font/woff2", false),
            ("", false),
        ] {
            assert_eq!(
                may_encode(&fields(&[("content-type", kind)])),
                may,
                "{kind}"
            );
        }
        assert!(!may_encode(&HeaderMap::new()));
    }

    #[test]
    fn rfc9111_5_2_2_6_nothing_is_encoded_against_the_origins_word() {
        let html = ("content-type", "text/html");
        for against in [
            ("cache-control", "max-age=60, No-Transform"),
            ("content-encoding", "gzip"),
            ("content-digest", "sha-256=:x:"),
            ("repr-digest", "sha-256=:x:"),
            ("digest", "sha-256=x"),
            ("content-md5", "x"),
            ("content-range", "bytes 0-1/2"),
            ("vary", "Accept, Cookie"),
            ("vary", "authorization"),
        ] {
            assert!(!may_encode(&fields(&[html, against])), "{against:?}");
        }
        assert!(may_encode(&fields(&[
            html,
            ("cache-control", "max-age=60")
        ])));
    }

    #[test]
    fn rfc9110_8_8_3_3_a_coding_has_no_strong_etag() {
        let of = |etag| encoded(fields(&[("etag", etag)]), Coding::Br)[header::ETAG].clone();
        assert_eq!(of("\"x\""), "W/\"x\"");
        assert_eq!(of("W/\"x\""), "W/\"x\"");
        let without = encoded(fields(&[("accept-ranges", "bytes")]), Coding::Gzip);
        assert_eq!(without, fields(&[("content-encoding", "gzip")]));
    }

    #[test]
    fn vary_is_said_once() {
        assert!(vary_line(&fields(&[("vary", "Origin")])).is_some());
        assert!(vary_line(&fields(&[("vary", "Origin, accept-encoding")])).is_none());
    }
}
