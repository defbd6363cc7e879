//! What holds for any bytes, a module a target. `fuzz_targets/` hands these functions to libFuzzer, and
//! `tests/rust/corpus.rs` runs them over `corpus/`, so that what was found once is tested ever after. [`strict`] is a reader that the parsers are held against.

pub mod chunked;
pub mod claims;
pub mod config;
pub mod expression;
pub mod fields;
pub mod identities;
pub mod key;
pub mod merge;
pub mod proxy_protocol;
pub mod request;
pub mod response;
pub mod strict;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A target's name, which is its corpus' too, and what it asserts.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("chunked", chunked::run),
    ("claims", claims::run),
    ("config", config::run),
    ("expression", expression::run),
    ("fields", fields::run),
    ("identities", identities::run),
    ("key", key::run),
    ("merge", merge::run),
    ("proxy_protocol", proxy_protocol::run),
    ("request", request::run),
    ("response", response::run),
];

/// `Name: value` lines as fields; what is none is left out.
fn header_map(text: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in text.split(|&b| b == b'\n') {
        let Some(colon) = line.iter().position(|&b| b == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            map.append(name, value);
        }
    }
    map
}

/// What stands before and behind the first empty line.
fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    match data.windows(2).position(|two| two == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, b""),
    }
}
