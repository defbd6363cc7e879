//! Field lines of a message (RFC 9110 §5), whatever holds them, and the small
//! grammar that several rules read in them.

use http::HeaderMap;
use httparse::Header;

/// Field lines in order; names are compared without regard to case.
pub trait Fields {
    /// Calls `f` with the value of each line called `name`, in order.
    fn each_named(&self, name: &str, f: &mut dyn FnMut(&[u8]));

    /// Calls `f` with the name, as held, and the value of each line.
    fn each(&self, f: &mut dyn FnMut(&str, &[u8]));

    /// Whether a line called `name` is there.
    fn contains(&self, name: &str) -> bool {
        let mut found = false;
        self.each_named(name, &mut |_| found = true);
        found
    }

    /// Appends the values of all lines called `name`, joined by `", "`
    /// (RFC 9110 §5.3).
    fn joined(&self, name: &str, out: &mut Vec<u8>) {
        let mut first = true;
        self.each_named(name, &mut |value| {
            if !first {
                out.extend_from_slice(b", ");
            }
            first = false;
            out.extend_from_slice(value);
        });
    }
}

impl Fields for HeaderMap {
    fn each_named(&self, name: &str, f: &mut dyn FnMut(&[u8])) {
        for value in self.get_all(name) {
            f(value.as_bytes());
        }
    }

    fn each(&self, f: &mut dyn FnMut(&str, &[u8])) {
        for (name, value) in self {
            f(name.as_str(), value.as_bytes());
        }
    }
}

impl Fields for [Header<'_>] {
    fn each_named(&self, name: &str, f: &mut dyn FnMut(&[u8])) {
        for line in self {
            if line.name.eq_ignore_ascii_case(name) {
                f(line.value);
            }
        }
    }

    fn each(&self, f: &mut dyn FnMut(&str, &[u8])) {
        for line in self {
            f(line.name, line.value);
        }
    }
}

impl<T: Fields + ?Sized> Fields for &T {
    fn each_named(&self, name: &str, f: &mut dyn FnMut(&[u8])) {
        (**self).each_named(name, f);
    }

    fn each(&self, f: &mut dyn FnMut(&str, &[u8])) {
        (**self).each(f);
    }
}

/// A byte of a token (RFC 9110 §5.6.2).
pub fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A byte of a field value (RFC 9110 §5.5): no control character but HTAB.
pub fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// `value` without the spaces and tabs around it (OWS, RFC 9110 §5.6.3).
pub fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|b| !blank(b))
        .map_or(start, |i| i + 1);
    &value[start..end]
}

/// The members of a comma-separated list (RFC 9110 §5.6.1), trimmed, empty
/// ones left out. Commas in quoted strings split too: for lists of tokens.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&b| b == b',')
        .map(trim)
        .filter(|m| !m.is_empty())
}

/// 1*DIGIT as a number: no sign, no space, no list; `None` past `u64`.
pub fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Room for a folded name; no name that a rule lists is as long.
pub type Folded = [u8; 40];

/// `name` in lower case, with `-` for all that is no letter or digit, cut at the
/// room's length.
///
/// CGI-like interfaces know `X_Forwarded_Host` and `X-Forwarded-Host` by one name
/// (`HTTP_X_FORWARDED_HOST`), some `X.Forwarded.Host` too, so a rule that strips
/// one strips them all.
pub fn fold<'k>(name: &[u8], room: &'k mut Folded) -> &'k [u8] {
    let len = name.len().min(room.len());
    for (to, from) in room.iter_mut().zip(name) {
        *to = match from.is_ascii_alphanumeric() {
            true => from.to_ascii_lowercase(),
            false => b'-',
        };
    }
    &room[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [Header<'static>; 3] = [
        Header {
            name: "Accept",
            value: b"a",
        },
        Header {
            name: "Cookie",
            value: b"c",
        },
        Header {
            name: "ACCEPT",
            value: b"b",
        },
    ];

    fn held(fields: &dyn Fields) -> (String, bool, bool, Vec<String>) {
        let mut joined = Vec::new();
        fields.joined("accept", &mut joined);
        let mut names = Vec::new();
        fields.each(&mut |name, _| names.push(name.to_owned()));
        (
            String::from_utf8(joined).unwrap(),
            fields.contains("cookie"),
            fields.contains("host"),
            names,
        )
    }

    #[test]
    fn lines_and_maps_answer_alike() {
        let lines = &LINES[..];
        assert_eq!(
            held(&lines),
            (
                "a, b".into(),
                true,
                false,
                vec!["Accept".into(), "Cookie".into(), "ACCEPT".into()]
            )
        );
        let mut map = HeaderMap::new();
        for line in LINES {
            map.append(
                http::HeaderName::from_bytes(line.name.as_bytes()).unwrap(),
                http::HeaderValue::from_static(std::str::from_utf8(line.value).unwrap()),
            );
        }
        let (joined, cookie, host, _) = held(&map);
        assert_eq!((joined.as_str(), cookie, host), ("a, b", true, false));
    }

    #[test]
    fn digits_are_digits_alone() {
        assert_eq!(digits(b"0"), Some(0));
        assert_eq!(digits(b"007"), Some(7));
        assert_eq!(digits(b"18446744073709551615"), Some(u64::MAX));
        for wrong in [
            &b""[..],
            b"+1",
            b"-1",
            b" 1",
            b"1 ",
            b"1,1",
            b"0x1",
            b"1e3",
            b"18446744073709551616",
        ] {
            assert_eq!(digits(wrong), None, "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn members_are_trimmed_and_never_empty() {
        let got: Vec<_> = members(b" a ,,\tb\t, ,c").collect();
        assert_eq!(got, [b"a", b"b", b"c"]);
        assert_eq!(members(b"").count(), 0);
    }

    #[test]
    fn folding_joins_what_cgi_joins() {
        let mut room = [0; 40];
        assert_eq!(fold(b"X_Forwarded.HOST", &mut room), b"x-forwarded-host");
        assert_eq!(fold(&[b'a'; 99], &mut room).len(), 40);
    }
}
