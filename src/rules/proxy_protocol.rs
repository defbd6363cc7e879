//! Who a connection is from, by the header of the PROXY protocol in front of it (versions 1 and 2, as HAProxy's
//! `proxy-protocol.txt` has them).
//!
//! Where the header ends is told here, so that no byte of what follows is taken for a part of it; what it says is
//! `proxy-header`'s to read.

use std::net::IpAddr;

use memchr::memchr;
use proxy_header::{ParseConfig, ProxyHeader};

const V1: &[u8] = b"PROXY ";
/// The longest line of version 1, its CRLF included (§2.1).
const V1_MOST: usize = 107;
/// Likewise the shortest: `PROXY UNKNOWN`.
const V1_LEAST: usize = 15;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and protocol, and the length of what follows (§2.2).
const V2_FIXED: usize = 16;
/// The most that may follow it: two addresses of 108 bytes, and what a proxy says beside, its client's certificate at most.
const V2_MOST: usize = 4096;
/// The proxy speaks for itself: whatever the rest says.
const V2_LOCAL: u8 = 0x20;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// The beginning of a header, which has so many bytes more at least: whoever reads that many takes nothing else.
    More(usize),
    /// A header of `len` bytes. Without a client it speaks for nobody but its sender.
    Whole { client: Option<IpAddr>, len: usize },
}

/// Why a connection's first bytes are no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It begins with something else.
    None,
    TooLong,
    Malformed,
}

impl Flaw {
    /// One line for people.
    pub fn why(self) -> &'static str {
        match self {
            Flaw::None => "the connection does not begin with a header of the PROXY protocol",
            Flaw::TooLong => "the header of the PROXY protocol is too long",
            Flaw::Malformed => "the header of the PROXY protocol is malformed",
        }
    }
}

/// Reads the header at the start of `held`.
///
/// # Errors
/// It is none, whatever else may come.
pub fn parse(held: &[u8]) -> Result<Parsed, Flaw> {
    if may_become(held, V1) {
        return version_1(held);
    }
    if may_become(held, V2) {
        return version_2(held);
    }
    Err(Flaw::None)
}

fn may_become(held: &[u8], first: &[u8]) -> bool {
    let common = held.len().min(first.len());
    held[..common] == first[..common]
}

fn version_1(held: &[u8]) -> Result<Parsed, Flaw> {
    let most = &held[..held.len().min(V1_MOST)];
    match memchr(b'\n', most) {
        Some(end) => read(&held[..=end]),
        None if held.len() >= V1_MOST => Err(Flaw::TooLong),
        None => {
            let least = match held.get(V1.len()..) {
                Some([b'T', b'C', b'P', b'4', ..]) => b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n".len(),
                Some([b'T', b'C', b'P', b'6', ..]) => b"PROXY TCP6 :: :: 1 1\r\n".len(),
                _ => V1_LEAST,
            };
            let end = if held.ends_with(b"\r") { 1 } else { 2 };
            Ok(Parsed::More(least.saturating_sub(held.len()).max(end)))
        }
    }
}

fn version_2(held: &[u8]) -> Result<Parsed, Flaw> {
    let Some(&[command, _, high, low]) = held.get(V2.len()..V2_FIXED) else {
        return Ok(Parsed::More(V2_FIXED - held.len()));
    };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    if rest > V2_MOST {
        return Err(Flaw::TooLong);
    }
    let len = V2_FIXED + rest;
    match held.get(..len) {
        None => Ok(Parsed::More(len - held.len())),
        Some(_) if command == V2_LOCAL => Ok(Parsed::Whole { client: None, len }),
        Some(header) => read(header),
    }
}

/// What a whole header says.
fn read(header: &[u8]) -> Result<Parsed, Flaw> {
    match ProxyHeader::parse(header, ParseConfig::default()) {
        Ok((said, len)) if len == header.len() => Ok(Parsed::Whole {
            client: said
                .proxied_address()
                .map(|address| address.source.ip().to_canonical()),
            len,
        }),
        _ => Err(Flaw::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length, rest].concat()
    }

    fn v4(source: [u8; 4]) -> Vec<u8> {
        [&source[..], &[127, 0, 0, 1], &[0x11, 0x5c, 0, 80]].concat()
    }

    fn v6(source: &str) -> Vec<u8> {
        let source: std::net::Ipv6Addr = source.parse().unwrap();
        [&source.octets()[..], &[0; 16], &[0x11, 0x5c, 0, 80]].concat()
    }

    /// Reads as a reader of a socket does, and says what came of it and what was left.
    fn read_from(bytes: &[u8]) -> (Result<Option<IpAddr>, Flaw>, &[u8]) {
        let mut held = 0;
        loop {
            match parse(&bytes[..held]) {
                Ok(Parsed::More(more)) if held + more > bytes.len() => panic!("waits for more"),
                Ok(Parsed::More(more)) => held += more,
                Ok(Parsed::Whole { client, len }) => {
                    assert_eq!(len, held, "it was read too far");
                    return (Ok(client), &bytes[held..]);
                }
                Err(flaw) => return (Err(flaw), &bytes[held..]),
            }
        }
    }

    #[test]
    fn headers_say_whom_they_are_from() {
        let long = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        let unknown = format!("PROXY UNKNOWN {} 65535 65535\r\n", "f".repeat(79));
        assert_eq!((long.len(), unknown.len()), (104, V1_MOST));
        let tlvs = [&v4([203, 0, 113, 9])[..], &[0x20, 0, 3, 1, 2, 3]].concat();
        let full = [&v4([203, 0, 113, 9])[..], &vec![0; V2_MOST - 12]].concat();
        for (header, client) in [
            (
                b"PROXY TCP4 203.0.113.9 127.0.0.1 4444 80\r\n".to_vec(),
                "203.0.113.9",
            ),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(), "1.1.1.1"),
            (
                b"PROXY TCP6 2001:db8::9 ::1 4444 443\r\n".to_vec(),
                "2001:db8::9",
            ),
            (b"PROXY TCP6 :: :: 1 1\r\n".to_vec(), "::"),
            (
                b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 1\r\n".to_vec(),
                "203.0.113.9",
            ),
            (long.into(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            (b"PROXY UNKNOWN\r\n".to_vec(), ""),
            (b"PROXY UNKNOWN 203.0.113.9 127.0.0.1 1 1\r\n".to_vec(), ""),
            (unknown.into(), ""),
            (v2(0x21, 0x11, &v4([203, 0, 113, 9])), "203.0.113.9"),
            (v2(0x21, 0x21, &v6("2001:db8::9")), "2001:db8::9"),
            (v2(0x21, 0x21, &v6("::ffff:203.0.113.9")), "203.0.113.9"),
            (v2(0x21, 0x11, &tlvs), "203.0.113.9"),
            (v2(0x21, 0x11, &full), "203.0.113.9"),
            (v2(0x21, 0x00, &[]), ""),
            (v2(0x21, 0x00, b"whatever"), ""),
            // Addresses of UNIX sockets.
            (v2(0x21, 0x31, &[0; 216]), ""),
            // The proxy itself, whatever it says.
            (v2(0x20, 0x00, &[]), ""),
            (v2(0x20, 0x11, &v4([203, 0, 113, 9])), ""),
            (v2(0x20, 0xff, b"x"), ""),
        ] {
            let client = Some(client).filter(|text| !text.is_empty());
            let client = client.map(|text| text.parse().unwrap());
            for behind in [
                &b""[..],
                b"GET / HTTP/1.1\r\n",
                b"\n",
                b"\x16\x03\x01",
                &header,
            ] {
                let bytes = [&header[..], behind].concat();
                let shown = bytes.escape_ascii();
                assert_eq!(read_from(&bytes), (Ok(client), behind), "{shown}");
                // However much of it is at hand.
                let len = header.len();
                assert_eq!(parse(&bytes), Ok(Parsed::Whole { client, len }), "{shown}");
            }
            for cut in 0..header.len() {
                let more = match parse(&header[..cut]) {
                    Ok(Parsed::More(more)) => more,
                    other => panic!("{other:?} at {cut} of {}", header.escape_ascii()),
                };
                assert!(more > 0 && cut + more <= header.len(), "{cut} + {more}");
            }
        }
    }

    #[test]
    fn what_is_no_header() {
        for (bytes, flaw) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Flaw::None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Flaw::None),
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00".to_vec(),
                Flaw::None,
            ),
            (b"\r\n\r\n\0\r\nQUIT\r\n\r\n\r\n\r\n".to_vec(), Flaw::None),
            (b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(), Flaw::None),
            (b"PROXY\tTCP4 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(), Flaw::None),
            (b"PROXYTCP4 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(), Flaw::None),
            (
                b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n".to_vec(),
                Flaw::Malformed,
            ),
            (
                b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r \n".to_vec(),
                Flaw::Malformed,
            ),
            (
                b"PROXY TCP4 ::1 ::1 1 1 trailing here\r\n".to_vec(),
                Flaw::Malformed,
            ),
            (
                b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(),
                Flaw::Malformed,
            ),
            (
                b"PROXY TCP4 1.1.1.256 1.1.1.1 1 1\r\n".to_vec(),
                Flaw::Malformed,
            ),
            (
                b"PROXY TCP4 1.1.1.1 1.1.1.1 99999 1\r\n".to_vec(),
                Flaw::Malformed,
            ),
            (
                b"PROXY TCP4 1.1.1.1  1.1.1.1 1 1\r\n".to_vec(),
                Flaw::Malformed,
            ),
            (
                b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(),
                Flaw::Malformed,
            ),
            (b"PROXY \r\n............".to_vec(), Flaw::Malformed),
            (
                format!("PROXY UNKNOWN {}\r\n", "f".repeat(92)).into(),
                Flaw::TooLong,
            ),
            (vec![b'P'; 200], Flaw::None),
            (v2(0x22, 0x11, &v4([1; 4])), Flaw::Malformed),
            (v2(0x11, 0x11, &v4([1; 4])), Flaw::Malformed),
            (v2(0x21, 0x11, &[1; 11]), Flaw::Malformed),
            (v2(0x21, 0x21, &v4([1; 4])), Flaw::Malformed),
            (v2(0x21, 0x31, &[0; 215]), Flaw::Malformed),
            (v2(0x21, 0x41, &[0; 36]), Flaw::Malformed),
            (v2(0x21, 0x11, &vec![0; V2_MOST + 1]), Flaw::TooLong),
        ] {
            let more = [&bytes[..], &[b'x'; V1_MOST]].concat();
            assert_eq!(read_from(&more).0, Err(flaw), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_header_that_is_too_long_is_refused_before_it_is_read() {
        let header = v2(0x20, 0x00, &vec![0; V2_MOST + 1]);
        assert_eq!(parse(&header[..V2_FIXED]), Err(Flaw::TooLong));
        let line = [V1, &[b'x'; V1_MOST]].concat();
        assert_eq!(parse(&line[..V1_MOST]), Err(Flaw::TooLong));
    }
}
