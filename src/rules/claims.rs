//! Who a request is from, by the word of trusted proxies: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! A proxy adds at the right whom it was asked by. So the last entry is our peer's word, the one before it the word of whom
//! the last one names, and so on: each is worth what its writer is. The first whom nobody vouches for is the client, and
//! whatever stands left of it was written by the client, or by nobody knows whom.

use std::net::{IpAddr, Ipv6Addr};

use httparse::Header;
use ipnet::IpNet;

use super::fields::{is_tchar, trim};
use super::host::Scheme;

/// The most entries that are read of a field: no honest way is as long.
pub const MAX_HOPS: usize = 64;

/// In which field trusted proxies say whom they were asked by. The other one is whoever's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimedBy {
    /// The scheme is in `X-Forwarded-Proto`.
    XForwardedFor,
    /// RFC 7239. The scheme is its `proto`.
    Forwarded,
}

/// What is believed of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Believed {
    /// IPv4 is IPv4, however it was written.
    pub client: IpAddr,
    /// By which the client reached the first proxy; none: nobody who is trusted says.
    pub scheme: Option<Scheme>,
}

/// Whether `ip` is a trusted proxy's. Networks of IPv4 are to be written as such.
pub fn trusts(trusted: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    trusted.iter().any(|network| network.contains(&ip))
}

/// What to believe of a request that came from `peer`. `passed` is told the proxies that it came through, `peer` first.
/// Nothing is allocated.
pub fn believed(
    peer: IpAddr,
    lines: &[Header<'_>],
    by: ClaimedBy,
    trusted: &[IpNet],
    passed: &mut dyn FnMut(IpAddr),
) -> Believed {
    let mut believed = Believed {
        client: peer.to_canonical(),
        scheme: None,
    };
    if !trusts(trusted, peer) {
        return believed;
    }
    let name = match by {
        ClaimedBy::XForwardedFor => "x-forwarded-for",
        ClaimedBy::Forwarded => "forwarded",
    };
    let mut read = 0;
    for entry in from_the_right(lines, name).take(MAX_HOPS) {
        read += 1;
        let named = match by {
            ClaimedBy::XForwardedFor => node(entry),
            ClaimedBy::Forwarded => {
                let element = Element::read(entry);
                believed.scheme = element.proto;
                element.of
            }
        };
        // What can't be read names nobody: then its writer is as far as we can see.
        let Some(ip) = named else {
            break;
        };
        passed(believed.client);
        believed.client = ip;
        if !trusts(trusted, ip) {
            break;
        }
    }
    if by == ClaimedBy::XForwardedFor {
        // One for each hop where proxies add theirs, a single one where they replace it.
        let told = from_the_right(lines, "x-forwarded-proto").take(read.max(1));
        believed.scheme = told.last().and_then(scheme);
    }
    believed
}

/// The members of all lines called `name` as one list (RFC 9110 §5.3), the last one first, empty ones left out.
fn from_the_right<'a>(lines: &'a [Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = lines
        .iter()
        .rev()
        .filter(move |line| line.name.eq_ignore_ascii_case(name));
    named
        .flat_map(|line| {
            let mut rest = Some(line.value);
            std::iter::from_fn(move || {
                let (before, last) = split_last(rest?);
                rest = before;
                Some(trim(last))
            })
        })
        .filter(|member| !member.is_empty())
}

/// A list without its last member, and that. Quoted strings are told from the right as well: whoever opens one at the left,
/// and never closes it, hides nothing that a proxy added behind it.
fn split_last(list: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let mut quoted = false;
    for (at, byte) in list.iter().enumerate().rev() {
        match byte {
            b'"' if !is_escaped(list, at) => quoted = !quoted,
            b',' if !quoted => return (Some(&list[..at]), &list[at + 1..]),
            _ => {}
        }
    }
    (None, list)
}

fn is_escaped(text: &[u8], at: usize) -> bool {
    let slashes = text[..at].iter().rev().take_while(|b| **b == b'\\');
    slashes.count() % 2 == 1
}

/// An element of `Forwarded`, as far as it matters here.
#[derive(Default)]
struct Element {
    /// Whom its writer was asked by.
    of: Option<IpAddr>,
    proto: Option<Scheme>,
}

impl Element {
    /// RFC 7239 §4: pairs, none of them twice.
    fn read(text: &[u8]) -> Element {
        let (mut of, mut proto) = (None, None);
        // None of the values that are read here has a semicolon, quoted or not.
        for pair in text.split(|b| *b == b';') {
            let Some(equals) = pair.iter().position(|b| *b == b'=') else {
                continue;
            };
            let (name, value) = (trim(&pair[..equals]), trim(&pair[equals + 1..]));
            let slot = match name {
                name if name.eq_ignore_ascii_case(b"for") => &mut of,
                name if name.eq_ignore_ascii_case(b"proto") => &mut proto,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Element::default();
            }
        }
        Element {
            of: of.map(unquoted).and_then(node),
            proto: proto.map(unquoted).and_then(scheme),
        }
    }
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        value => value,
    }
}

/// A node's address (RFC 7239 §6), with a port or without; of `unknown`, made-up names and all else there is none. IPv6 stands
/// in brackets, or bare as in `X-Forwarded-For`.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, behind) = rest.split_once(']')?;
        let port = behind.strip_prefix(':');
        return ipv6(address).filter(|_| behind.is_empty() || port.is_some_and(is_port));
    }
    match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => ipv6(text),
        Some((address, port)) => ipv4(address).filter(|_| is_port(port)),
        None => ipv4(text),
    }
}

fn ipv4(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(IpAddr::V4)
}

/// A zone says which of its writer's links the address is on (RFC 4007 §11), and nothing to us.
fn ipv6(text: &str) -> Option<IpAddr> {
    let address = match text.split_once('%') {
        Some((_, "")) => return None,
        Some((address, _)) => address,
        None => text,
    };
    let address: Ipv6Addr = address.parse().ok()?;
    Some(IpAddr::V6(address).to_canonical())
}

/// Digits, or a made-up name (RFC 7239 §6.3).
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(is_tchar),
        None => (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// WebSockets have names of their own for the two.
fn scheme(text: &[u8]) -> Option<Scheme> {
    let is = |name: &[u8]| text.eq_ignore_ascii_case(name);
    if is(b"https") || is(b"wss") {
        Some(Scheme::Https)
    } else if is(b"http") || is(b"ws") {
        Some(Scheme::Http)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
