//! The host a request is for: `uri-host [ ":" port ]` (RFC 9110 §7.2,
//! RFC 3986 §3.2.2), narrower than the grammar where no real name needs it.

use std::net::Ipv6Addr;

use memchr::{memchr, memrchr};

use super::fields::digits;

/// The scheme by which a client reached us.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn default_port(self) -> &'static str {
        match self {
            Scheme::Http => "80",
            Scheme::Https => "443",
        }
    }
}

/// `example.com:8080` → `example.com`; `[::1]` stays.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Why a host is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    Empty,
    TooLong,
    Userinfo,
    Character,
    Label,
    Address,
    Port,
}

impl Flaw {
    /// One line for people.
    pub fn why(self) -> &'static str {
        match self {
            Flaw::Empty => "the host is empty",
            Flaw::TooLong => "the host is longer than 255 bytes",
            Flaw::Userinfo => "the host carries user information",
            Flaw::Character => "the host has a character that no host name has",
            Flaw::Label => "the host name has an empty label",
            Flaw::Address => "the host is not a valid IPv6 address in brackets",
            Flaw::Port => "the port is not a number from 1 to 65535",
        }
    }
}

const LONGEST: usize = 255;

/// `host` as text if it is a name of letters, digits, `-`, `_` and `.`, an
/// IPv4 address or a bracketed IPv6 address, with a port or without.
pub fn check(host: &[u8]) -> Result<&str, Flaw> {
    if host.is_empty() {
        return Err(Flaw::Empty);
    }
    if host.len() > LONGEST {
        return Err(Flaw::TooLong);
    }
    let at = port_at(host).unwrap_or(host.len());
    if at == 0 || classes(&host[..at]) & !DOT != 0 || !is_port(&host[at..]) {
        check_closely(host)?;
    }
    std::str::from_utf8(host).map_err(|_| Flaw::Character)
}

/// Where `:` and a port's digits, or none, end a host.
fn port_at(host: &[u8]) -> Option<usize> {
    let digits = host.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let colon = (host.len() - digits).checked_sub(1)?;
    (host[colon] == b':').then_some(colon)
}

/// Tells what is wrong with a host that is no plain name, if something is: it may be an address in brackets.
#[cold]
fn check_closely(host: &[u8]) -> Result<(), Flaw> {
    let (name, port) = match host {
        [b'[', ..] => match memrchr(b':', host) {
            Some(colon) if memchr(b']', &host[colon..]).is_none() => host.split_at(colon),
            _ => (host, &b""[..]),
        },
        _ => host.split_at(memrchr(b':', host).unwrap_or(host.len())),
    };
    let port = port.get(1..).unwrap_or_default();
    match name {
        [b'[', address @ .., b']'] => check_address(address)?,
        [b'[', ..] => return Err(Flaw::Address),
        name => check_name(name)?,
    }
    check_port(port)?;
    Ok(())
}

/// A host that was checked and normalised before: what a connection asks for, it asks for again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KnownHost {
    /// As received; empty if none is known.
    raw: String,
    /// In lower case and so on, as [`normalize`] has it ...
    normal: String,
    /// ... under this scheme.
    scheme: Scheme,
}

impl KnownHost {
    pub const NONE: &KnownHost = &KnownHost {
        raw: String::new(),
        normal: String::new(),
        scheme: Scheme::Http,
    };

    /// [`check`], at the price of a comparison if it is this one.
    pub fn check<'a>(&'a self, host: &'a [u8]) -> Result<&'a str, Flaw> {
        if !host.is_empty() && host == self.raw.as_bytes() {
            return Ok(&self.raw);
        }
        check(host)
    }

    /// Whether `host` came from here, under the same scheme.
    pub fn lent(&self, host: &str, scheme: Scheme) -> bool {
        std::ptr::eq(host, self.raw.as_str()) && scheme == self.scheme
    }

    /// [`normalize`], at the price of a copy if it is this one.
    pub fn normalize(&self, host: &str, scheme: Scheme, out: &mut String) {
        if self.lent(host, scheme) {
            out.push_str(&self.normal);
        } else {
            normalize(host, scheme, out);
        }
    }

    /// Is `host`, which was checked, from now on.
    pub fn learn(&mut self, host: &str, scheme: Scheme) {
        self.raw.clear();
        self.raw.push_str(host);
        self.normal.clear();
        normalize(host, scheme, &mut self.normal);
        self.scheme = scheme;
    }
}

/// Whether two checked hosts are one under `scheme`.
pub fn same(a: &str, b: &str, scheme: Scheme) -> bool {
    let (a, b) = (essential(a, scheme), essential(b, scheme));
    a.0.eq_ignore_ascii_case(b.0) && a.1 == b.1
}

/// Appends a checked host in lower case, without the scheme's default port,
/// an empty port (RFC 9110 §4.2.3) or the root's trailing dot.
pub fn normalize(host: &str, scheme: Scheme, out: &mut String) {
    let (name, port) = essential(host, scheme);
    let start = out.len();
    out.push_str(name);
    out[start..].make_ascii_lowercase();
    if let Some(port) = port {
        out.push(':');
        out.push_str(port);
    }
}

fn essential(host: &str, scheme: Scheme) -> (&str, Option<&str>) {
    let (name, port) = split(host);
    let port = port.filter(|port| !port.is_empty() && *port != scheme.default_port());
    (name.strip_suffix('.').unwrap_or(name), port)
}

/// Name and port; a bracketed address keeps its brackets and colons.
fn split(host: &str) -> (&str, Option<&str>) {
    match port_at(host.as_bytes()) {
        Some(colon) => (&host[..colon], Some(&host[colon + 1..])),
        None => (host, None),
    }
}

fn check_name(name: &[u8]) -> Result<(), Flaw> {
    if name.is_empty() {
        return Err(Flaw::Empty);
    }
    let seen = classes(name);
    match seen & !DOT {
        0 => Ok(()),
        _ if seen & NEVER != 0 => {
            let bad = name.iter().find(|b| CLASSES[usize::from(**b)] == NEVER);
            match bad {
                Some(b'@') => Err(Flaw::Userinfo),
                _ => Err(Flaw::Character),
            }
        }
        _ => Err(Flaw::Label),
    }
}

/// What the bytes of a name are, as a set, gathered without a branch a byte.
fn classes(name: &[u8]) -> u8 {
    let (mut seen, mut before) = (0, DOT);
    for &byte in name {
        let class = CLASSES[usize::from(byte)];
        seen |= class | (class & before & DOT) << 1;
        before = class;
    }
    seen
}

const DOT: u8 = 1;
/// Two dots in a row, or one in front.
const DOTS: u8 = DOT << 1;
const NEVER: u8 = DOTS << 1;

const CLASSES: [u8; 256] = {
    let mut classes = [NEVER; 256];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = match byte as u8 {
            b'.' => DOT,
            b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => 0,
            _ => NEVER,
        };
        byte += 1;
    }
    classes
};

/// No zone (RFC 6874): it means nothing on another machine.
fn check_address(address: &[u8]) -> Result<(), Flaw> {
    let text = std::str::from_utf8(address).map_err(|_| Flaw::Address)?;
    match text.parse::<Ipv6Addr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Flaw::Address),
    }
}

/// Whether it is `:` and a port, or a part of that.
fn is_port(part: &[u8]) -> bool {
    part.is_empty() || check_port(&part[1..]).is_ok()
}

fn check_port(port: &[u8]) -> Result<(), Flaw> {
    match port {
        [] => Ok(()),
        [b'1'..=b'9', ..] if digits(port).is_some_and(|port| port <= u16::MAX.into()) => Ok(()),
        _ if port.contains(&b'@') => Err(Flaw::Userinfo),
        _ => Err(Flaw::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(host: &str, scheme: Scheme) -> String {
        let mut out = String::new();
        normalize(host, scheme, &mut out);
        out
    }

    #[test]
    fn a_known_host_is_known_under_its_scheme() {
        let mut known = KnownHost::default();
        known.learn("a.test:443", Scheme::Https);
        let host = known.check(b"a.test:443").unwrap();
        assert!(known.lent(host, Scheme::Https) && !known.lent(host, Scheme::Http));
        for (scheme, normal) in [(Scheme::Https, "a.test"), (Scheme::Http, "a.test:443")] {
            let mut out = String::new();
            known.normalize(host, scheme, &mut out);
            assert_eq!(out, normal);
        }
    }

    #[test]
    fn c12_hosts_that_are_hosts() {
        for good in [
            "a",
            "example.com",
            "EXAMPLE.com.",
            "a_b.c-d",
            "127.0.0.1",
            "localhost:8080",
            "a:",
            "[::1]",
            "[::1]:",
            "[::1]:8080",
            "[::ffff:1.2.3.4]",
            "xn--bcher-kva.example",
            "a:65535",
        ] {
            assert_eq!(check(good.as_bytes()), Ok(good));
        }
    }

    #[test]
    fn c12_hosts_that_are_not() {
        for (bad, flaw) in [
            (&b""[..], Flaw::Empty),
            (b":80", Flaw::Empty),
            (b".", Flaw::Label),
            (b".a", Flaw::Label),
            (b"a..b", Flaw::Label),
            (b"a..", Flaw::Label),
            (b"a b", Flaw::Character),
            (b"a,b", Flaw::Character),
            (b"a/b", Flaw::Character),
            (b"a/b?c@d", Flaw::Character),
            (b"a\\b", Flaw::Character),
            (b"a?b", Flaw::Character),
            (b"a#b", Flaw::Character),
            (b"a%2eb", Flaw::Character),
            (b"a\0b", Flaw::Character),
            (b"a\tb", Flaw::Character),
            (b"a\x7fb", Flaw::Character),
            ("bücher".as_bytes(), Flaw::Character),
            (b"\xff", Flaw::Character),
            (b"user@a", Flaw::Userinfo),
            (b"user:pass@a", Flaw::Userinfo),
            (b"a:80@evil", Flaw::Userinfo),
            (b"a:0", Flaw::Port),
            (b"a:080", Flaw::Port),
            (b"a:65536", Flaw::Port),
            (b"a:+80", Flaw::Port),
            (b"a:8 0", Flaw::Port),
            (b"a:80:80", Flaw::Character),
            (b"::1", Flaw::Character),
            (b"fe80::1", Flaw::Character),
            (b"[::1", Flaw::Address),
            (b"[::1]x", Flaw::Address),
            (b"[::1]:80]", Flaw::Address),
            (b"[::1]:x", Flaw::Port),
            (b"[fe80::1%25eth0]", Flaw::Address),
            (b"[v1.x]", Flaw::Address),
            (b"[]", Flaw::Address),
        ] {
            assert_eq!(check(bad), Err(flaw), "{}", bad.escape_ascii());
        }
        assert_eq!(check(&[b'a'; 256]), Err(Flaw::TooLong));
    }

    #[test]
    fn c23_one_host_has_one_spelling() {
        for (host, http, https) in [
            ("Example.COM", "example.com", "example.com"),
            ("example.com.", "example.com", "example.com"),
            ("example.com:80", "example.com", "example.com:80"),
            ("example.com.:443", "example.com:443", "example.com"),
            ("example.com:", "example.com", "example.com"),
            ("[2001:DB8::1]:80", "[2001:db8::1]", "[2001:db8::1]:80"),
            ("[::1]", "[::1]", "[::1]"),
        ] {
            assert_eq!(normal(host, Scheme::Http), http);
            assert_eq!(normal(host, Scheme::Https), https);
        }
        assert!(same("A.example:80", "a.example.", Scheme::Http));
        assert!(!same("a.example:80", "a.example", Scheme::Https));
        assert!(!same("a.example", "b.example", Scheme::Http));
    }

    proptest! {
        #[test]
        fn normalizing_twice_is_normalizing_once(host in "[a-zA-Z0-9.:_\\[\\]-]{1,24}") {
            if check(host.as_bytes()).is_ok() {
                let once = normal(&host, Scheme::Http);
                prop_assert_eq!(check(once.as_bytes()), Ok(once.as_str()));
                prop_assert_eq!(&normal(&once, Scheme::Http), &once);
                prop_assert!(same(&host, &once, Scheme::Http));
            }
        }

        #[test]
        fn checking_never_panics(host in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = check(&host);
        }
    }
}
