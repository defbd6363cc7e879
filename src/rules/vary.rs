//! Vary: which request fields choose between the variants of a key (RFC 9111 §4.1, RFC 9110 §12.5).
//!
//! Compared are normalised values of the fields *as the origin would get them*: what a fetch leaves
//! out or replaces (see [`super::forward`]) chooses nothing, or any client could multiply variants
//! at will.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::HeaderMap;
use http::header::{HeaderName, VARY};

use super::fields::Fields;
use super::hop::is_hop_by_hop;
use super::identity::{self, Class};

/// The most names that are told apart; an answer with more is as good as `*`.
pub const MAX_NAMES: usize = 32;

/// The members of all Vary lines of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Vary {
    /// One answer for every request.
    #[default]
    None,
    /// No request that is known beforehand: never stored.
    Star,
    /// By these fields: sorted, each once.
    Names(Box<[HeaderName]>),
}

impl Vary {
    /// The names to select by: none for [`Vary::None`], and for [`Vary::Star`], which nothing
    /// stored has.
    pub fn names(&self) -> &[HeaderName] {
        match self {
            Vary::Names(names) => names,
            Vary::None | Vary::Star => &[],
        }
    }

    /// Whether answers depend on who asks.
    pub fn names_credentials(&self) -> bool {
        self.names()
            .iter()
            .any(|name| matches!(name.as_str(), "cookie" | "authorization"))
    }
}

/// Reads every Vary line. Any `*` among the members wins; so does a member that is no field name, a
/// field that is made anew for each request, and a list longer than [`MAX_NAMES`].
pub fn of(fields: &HeaderMap) -> Vary {
    let mut names: Vec<HeaderName> = Vec::new();
    for line in fields.get_all(VARY) {
        for member in line
            .as_bytes()
            .split(|&b| b == b',')
            .map(<[u8]>::trim_ascii)
        {
            if member.is_empty() {
                continue;
            }
            // `*` itself is a token, so it needs its own question
            let Some(name) = HeaderName::from_bytes(member)
                .ok()
                .filter(|name| name.as_str() != "*")
            else {
                return Vary::Star;
            };
            if matches!(name.as_str(), "x-request-id" | "traceparent" | "tracestate") {
                return Vary::Star;
            }
            if let Err(at) = names.binary_search_by(|known| known.as_str().cmp(name.as_str())) {
                names.insert(at, name);
            }
        }
    }
    match names.len() {
        0 => Vary::None,
        1..=MAX_NAMES => Vary::Names(names.into()),
        _ => Vary::Star,
    }
}

/// What a fetch would make of a request, as far as it bears on Vary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsSent {
    /// Anonymous requests are sent without cookies.
    pub class: Class,
    /// The Accept-Encoding that is sent.
    pub codings: Codings,
    /// The address sent in X-Forwarded-For, if one is.
    pub client: Option<IpAddr>,
}

/// Appends what `names` select by in `request`: equal bytes for equal selecting fields, and only
/// for those. Nothing is allocated while `out` has room.
pub fn select(names: &[HeaderName], request: &dyn Fields, sent: &AsSent, out: &mut Vec<u8>) {
    for name in names {
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let there = value(name.as_str(), request, sent, out);
        let length = u32::try_from(out.len() - length_at - 4).unwrap_or(u32::MAX - 1);
        let length = if there { length } else { u32::MAX };
        out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// Appends one field's normalised value; false if the origin would not get the field.
fn value(name: &str, request: &dyn Fields, sent: &AsSent, out: &mut Vec<u8>) -> bool {
    match name {
        "accept-encoding" => {
            out.extend_from_slice(sent.codings.as_str().as_bytes());
            true
        }
        "cookie" => sent.class == Class::Identified && cookies(request, out),
        "x-forwarded-for" => match sent.client {
            Some(client) => write!(Text(out), "{client}").is_ok(),
            None => false,
        },
        "accept" | "accept-language" | "accept-charset" => listed(name, request, out),
        _ if unsent(name) => false,
        _ => verbatim(name, request, out),
    }
}

/// The fields of a request that a shared fetch drops, or sends as the key has them. A test holds
/// this to [`super::forward`].
fn unsent(name: &str) -> bool {
    // CGI-like apps know `_` and `-` by one name
    let begins = |known: &str| {
        let mut bytes = name.bytes();
        known.bytes().all(|k| {
            bytes
                .next()
                .is_some_and(|b| b == k || (b == b'_' && k == b'-'))
        })
    };
    is_hop_by_hop(name)
        || begins("x-forwarded-")
        || begins("x-original-")
        || DROPPED
            .iter()
            .any(|known| known.len() == name.len() && begins(known))
}

const DROPPED: [&str; 47] = [
    "cache-control",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-visitor",
    "client-ip",
    "content-length",
    "expect",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "forwarded-for",
    "forwarded-host",
    "forwarded-proto",
    "front-end-https",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "max-forwards",
    "pragma",
    "proxy",
    "range",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-azure-clientip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-forwarder-for",
    "x-host",
    "x-host-override",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-rewrite-uri",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
];

/// Lists of words whose case and spacing mean nothing: lines joined, spaces dropped, lower case.
fn listed(name: &str, request: &dyn Fields, out: &mut Vec<u8>) -> bool {
    let mut there = false;
    request.each_named(name, &mut |line| {
        for member in line.split(|&b| b == b',') {
            let from = out.len();
            if there {
                out.push(b',');
            }
            let kept = out.len();
            out.extend(
                member
                    .iter()
                    .filter(|b| !b.is_ascii_whitespace())
                    .map(u8::to_ascii_lowercase),
            );
            if out.len() == kept {
                out.truncate(from);
            } else {
                there = true;
            }
        }
    });
    there
}

/// The cookies as one line, without the proxy's own.
fn cookies(request: &dyn Fields, out: &mut Vec<u8>) -> bool {
    let mut there = false;
    request.each_named("cookie", &mut |line| {
        for pair in identity::pairs(line).filter(|pair| !pair.is_own()) {
            if there {
                out.extend_from_slice(b"; ");
            }
            out.extend_from_slice(pair.whole);
            there = true;
        }
    });
    there
}

fn verbatim(name: &str, request: &dyn Fields, out: &mut Vec<u8>) -> bool {
    let mut there = false;
    request.each_named(name, &mut |line| {
        if there {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(line.trim_ascii());
        there = true;
    });
    there
}

struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.extend_from_slice(s.as_bytes());
        Ok(())
    }
}

/// The content codings that are told apart: a set of br, zstd and gzip; the empty set is identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Codings(u8);

impl Codings {
    /// Nothing but the bytes as they are.
    pub const IDENTITY: Codings = Codings(0);
    /// gzip, and identity.
    pub const GZIP: Codings = Codings(1);
    /// zstd, and identity.
    pub const ZSTD: Codings = Codings(2);
    /// br, and identity.
    pub const BR: Codings = Codings(4);

    /// Reads Accept-Encoding (RFC 9110 §12.5.3): the known codings that the client likes best,
    /// those of equal weight together. A malformed weight is 0. Without the field, or where
    /// identity is liked better, identity.
    pub fn of(request: &dyn Fields) -> Codings {
        let mut weights = Weights::default();
        request.each_named("accept-encoding", &mut |line| weights.take(line));
        weights.best()
    }

    /// The same of the field's only line.
    pub fn of_line(line: &[u8]) -> Codings {
        let mut weights = Weights::default();
        weights.take(line);
        weights.best()
    }

    /// The codings that are in both.
    pub fn and(self, other: Codings) -> Codings {
        Codings(self.0 & other.0)
    }

    /// Whether all of `other` are in here.
    pub fn contains(self, other: Codings) -> bool {
        self.0 & other.0 == other.0
    }

    /// As an Accept-Encoding value, in a fixed order.
    pub fn as_str(self) -> &'static str {
        match self.0 {
            1 => "gzip",
            2 => "zstd",
            3 => "zstd, gzip",
            4 => "br",
            5 => "br, gzip",
            6 => "br, zstd",
            7 => "br, zstd, gzip",
            _ => "identity",
        }
    }
}

/// What a client thinks of the codings, in thousandths.
#[derive(Default)]
struct Weights {
    named: [Option<u16>; 3],
    identity: Option<u16>,
    any: Option<u16>,
}

impl Weights {
    fn take(&mut self, line: &[u8]) {
        for member in line.split(|&b| b == b',') {
            let (coding, weight) = weighted(member);
            let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
            let slot = if is("gzip") || is("x-gzip") {
                &mut self.named[0]
            } else if is("zstd") {
                &mut self.named[1]
            } else if is("br") {
                &mut self.named[2]
            } else if is("identity") {
                &mut self.identity
            } else if is("*") {
                &mut self.any
            } else {
                continue;
            };
            *slot = Some(weight);
        }
    }

    fn best(&self) -> Codings {
        let weights = self.named.map(|weight| weight.or(self.any).unwrap_or(0));
        let best = weights.into_iter().max().unwrap_or(0);
        if best == 0 || self.identity > Some(best) {
            return Codings::IDENTITY;
        }
        let set = (0..3)
            .filter(|&i| weights[i] == best)
            .fold(0, |set, i| set | 1 << i);
        Codings(set)
    }
}

/// A coding and its weight in thousandths (RFC 9110 §12.4.2).
fn weighted(member: &[u8]) -> (&[u8], u16) {
    let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
    let coding = parts.next().unwrap_or_default();
    let weight = match (parts.next(), parts.next()) {
        (None, _) => 1000,
        (Some([b'q' | b'Q', b'=', value @ ..]), None) => thousandths(value).unwrap_or(0),
        _ => 0,
    };
    (coding, weight)
}

fn thousandths(value: &[u8]) -> Option<u16> {
    let (whole, digits) = match value {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut total = u16::from(whole - b'0') * 1000;
    for (digit, unit) in digits.iter().zip([100, 10, 1]) {
        total += digit
            .is_ascii_digit()
            .then(|| u16::from(digit - b'0') * unit)?;
    }
    (total <= 1000).then_some(total)
}

#[cfg(test)]
mod tests;
