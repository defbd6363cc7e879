//! A visitor's own server, by a cookie of ours (`sticky`).
//!
//! The cookie says no more than which server it is, in a text that only the holder of the key can make or read: everybody
//! who is bound to a server has the same, so it tells nobody apart. It is nothing to the cache and to origins: it identifies
//! nobody, selects no variant, and is not sent on. And it is put only on answers to one client alone that no cache may
//! keep, neither ours nor another behind us.

use std::fmt;
use std::time::Duration;

use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::{HeaderMap, HeaderValue};

use super::cache_control::ResponseDirectives;
use super::fields::Fields;
use super::identity::{self, Class};
use super::reuse::is_origin_error;
use super::storing::{self, Asked, Method, SetCookie, StoreTerms, Verdict};
use super::time::Now;

/// Half of an HMAC-SHA256, in hex: a server's name in cookies, or what proves a text of ours.
#[derive(Clone, Copy)]
pub struct Token([u8; 32]);

impl Token {
    pub fn of(tag: &[u8; 16]) -> Token {
        let digit = |four: u8| b"0123456789abcdef"[usize::from(four)];
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(tag) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        Token(text)
    }

    /// What a cookie holds, if it can be one.
    pub fn read(value: &[u8]) -> Option<Token> {
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let text: [u8; 32] = value.try_into().ok()?;
        text.iter().all(is_hex).then_some(Token(text))
    }

    pub fn text(&self) -> &[u8; 32] {
        &self.0
    }
}

/// As long for a near miss as for a far one: nobody learns a token by guessing its beginning.
impl PartialEq for Token {
    fn eq(&self, other: &Token) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        pairs.fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What a request brings in the cookie of this name: the first value that can be a token.
pub fn brought(request: &dyn Fields, name: &str) -> Option<Token> {
    let mut found = None;
    request.each_named("cookie", &mut |line| {
        let mut values = identity::pairs(line).filter_map(|pair| pair.value_of(name.as_bytes()));
        found = found.or_else(|| values.find_map(Token::read));
    });
    found
}

/// The line that binds a visitor, until the browser is closed. `secure`: he came over HTTPS.
pub fn line(name: &str, token: &Token, secure: bool) -> Option<HeaderValue> {
    let token = std::str::from_utf8(&token.0).ok()?;
    let secure = if secure || asks_secure(name) {
        "; Secure"
    } else {
        ""
    };
    HeaderValue::try_from(format!(
        "{name}={token}; Path=/; HttpOnly; SameSite=Lax{secure}"
    ))
    .ok()
}

/// Without `Secure` browsers drop a cookie of such a name (RFC 6265bis §4.1.3, §5.7), also where TLS ends before us and the
/// request came to us without. What `__Host-` asks for beside it, a path of `/` and no domain, every line has.
fn asks_secure(name: &str) -> bool {
    let begins = |prefix: &str| {
        let start = name.as_bytes().get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    begins("__Host-") || begins("__Secure-")
}

/// Puts the line on an answer to one client alone, if it may carry one, and forbids other caches to keep it then.
pub fn bind(status: u16, fields: &mut HeaderMap, line: HeaderValue, now: Now) {
    if !may_carry(status, fields, now) {
        return;
    }
    fields.append(SET_COOKIE, line);
    let lines = fields.get_all(CACHE_CONTROL).iter();
    let says = ResponseDirectives::parse(lines.map(HeaderValue::as_bytes));
    if !says.no_store && !says.private {
        fields.append(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// Whether an answer may bind its visitor: not one that a cache could keep (RFC 9111 §3) however it came past ours, not an
/// error of the server's, and not a 304, whose fields go into what somebody has stored (§3.2).
fn may_carry(status: u16, fields: &HeaderMap, now: Now) -> bool {
    if status == 304 || is_origin_error(status) {
        return false;
    }
    let asked = Asked {
        method: Method::Get,
        body: false,
        class: Class::Anonymous,
        authorization: false,
        head_bytes: 0,
        method_override: false,
        no_store: false,
    };
    // Others may keep what is refused here for its own cookies.
    let terms = StoreTerms {
        set_cookie: SetCookie::Share,
        ..StoreTerms::default()
    };
    // And the parts of what could be kept whole.
    let status = if status == 206 { 200 } else { status };
    let verdict = storing::judge(&asked, status, fields, &terms, now, Duration::ZERO);
    matches!(verdict, Verdict::Refuse(_))
}

/// A request without the cookie of this name, if one is named.
pub struct Without<'a, F> {
    pub fields: F,
    pub cookie: Option<&'a str>,
}

impl<F: Fields> Fields for Without<'_, F> {
    fn each_named(&self, name: &str, f: &mut dyn FnMut(&[u8])) {
        match self.cookie {
            Some(cookie) if name.eq_ignore_ascii_case("cookie") => {
                self.fields
                    .each_named(name, &mut |line| each_other(line, cookie, f));
            }
            _ => self.fields.each_named(name, f),
        }
    }

    fn each(&self, f: &mut dyn FnMut(&str, &[u8])) {
        self.fields.each(&mut |name, line| match self.cookie {
            Some(cookie) if name.eq_ignore_ascii_case("cookie") => {
                each_other(line, cookie, &mut |line| f(name, line));
            }
            _ => f(name, line),
        });
    }
}

/// The line as it is, or what is left of it.
fn each_other(line: &[u8], cookie: &str, f: &mut dyn FnMut(&[u8])) {
    let is_it = |pair: &identity::Pair<'_>| pair.name == Some(cookie.as_bytes());
    if !identity::pairs(line).any(|pair| is_it(&pair)) {
        return f(line);
    }
    let others = identity::pairs(line).filter(|pair| !is_it(pair));
    let rest: Vec<&[u8]> = others.map(|pair| pair.whole).collect();
    if !rest.is_empty() {
        f(&rest.join(&b"; "[..]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::time::Moment;

    const NOW: Now = Now {
        mono: Moment(1_000_000),
        wall: 1_700_000_000,
    };

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, HeaderValue::from_static(value));
        }
        fields
    }

    #[test]
    fn a_token_is_what_it_was_written_as_and_nothing_else_is() {
        let token = Token::of(&[0xa7; 16]);
        let text = "a7".repeat(16);
        assert_eq!(Token::read(text.as_bytes()), Some(token));
        for other in ["", "a7", &text[1..], &text.to_uppercase(), &"g".repeat(32)] {
            assert_eq!(Token::read(other.as_bytes()), None, "{other}");
        }
        assert!(token != Token::of(&[0xa6; 16]));
        assert_eq!(format!("{token:?}"), "Token");
    }

    #[test]
    fn what_is_brought_is_the_first_that_can_be_one() {
        let token = Token::of(&[1; 16]);
        let text = "01".repeat(16);
        let of = |line: String| {
            let mut fields = HeaderMap::new();
            fields.insert("cookie", HeaderValue::try_from(line).unwrap());
            brought(&fields, "srv")
        };
        assert_eq!(of(format!("a=b; srv={text}")), Some(token));
        assert_eq!(of(format!("srv=app-1; srv={text};")), Some(token));
        for none in [
            format!("Srv={text}"),
            format!("srvs={text}"),
            format!("srv=\"{text}\""),
            "srv".to_owned(),
            "srv=".to_owned(),
        ] {
            assert_eq!(of(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn the_line_ends_with_the_session_and_is_not_for_scripts() {
        let token = Token::of(&[0; 16]);
        let text = "0".repeat(32);
        let plain = format!("srv={text}; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(line("srv", &token, false).unwrap(), plain);
        assert_eq!(
            line("srv", &token, true).unwrap(),
            format!("{plain}; Secure")
        );
    }

    #[test]
    fn a_name_that_asks_for_secure_has_it_without_tls_too() {
        let token = Token::of(&[0; 16]);
        for (name, is_secure) in [
            ("__Host-srv", true),
            ("__Secure-srv", true),
            ("__host-srv", true),
            ("__SECURE-srv", true),
            ("__Host", false),
            ("a__Host-srv", false),
            ("srv", false),
        ] {
            let text = line(name, &token, false).unwrap();
            let text = text.to_str().unwrap();
            assert_eq!(text.ends_with("; Secure"), is_secure, "{text}");
            assert!(text.contains("; Path=/;") && !text.contains("Domain"));
        }
    }

    #[test]
    fn only_what_no_cache_may_keep_binds() {
        let line = HeaderValue::from_static("srv=x");
        for (status, before, binds) in [
            (200, &[][..], true),
            (200, &[("cache-control", "private, max-age=60")], true),
            (
                200,
                &[("cache-control", "no-store"), ("set-cookie", "a=b")],
                true,
            ),
            (404, &[], true),
            (302, &[], true),
            (101, &[], true),
            (206, &[("cache-control", "private")], true),
            (200, &[("cache-control", "max-age=60")], false),
            (
                200,
                &[
                    ("cache-control", "public, max-age=60"),
                    ("set-cookie", "a=b"),
                ],
                false,
            ),
            (200, &[("cdn-cache-control", "max-age=60")], false),
            (206, &[("cache-control", "max-age=60")], false),
            (
                200,
                &[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
                false,
            ),
            (304, &[("cache-control", "private")], false),
            (503, &[("cache-control", "no-store")], false),
        ] {
            let mut after = fields(before);
            bind(status, &mut after, line.clone(), NOW);
            let bound = after.get_all(SET_COOKIE).iter().any(|value| value == line);
            assert_eq!(bound, binds, "{status} {before:?}");
            let says = ResponseDirectives::parse(
                after
                    .get_all(CACHE_CONTROL)
                    .iter()
                    .map(HeaderValue::as_bytes),
            );
            assert!(!bound || says.private || says.no_store, "{after:?}");
            if !bound {
                assert_eq!(after, fields(before));
            }
        }
    }

    #[test]
    fn a_request_without_it_is_as_one_that_never_had_it() {
        for (line, rest) in [
            ("srv=1", None),
            ("a=b; srv=1; c=d", Some("a=b; c=d")),
            ("a=b;c=d", Some("a=b;c=d")),
            ("srvs=1", Some("srvs=1")),
        ] {
            let held = fields(&[("cookie", line), ("accept", "text/html")]);
            let without = Without {
                fields: &held,
                cookie: Some("srv"),
            };
            let mut found = None;
            without.each_named("Cookie", &mut |line| found = Some(line.to_vec()));
            assert_eq!(found.as_deref(), rest.map(str::as_bytes), "{line}");
            let mut names = Vec::new();
            without.each(&mut |name, _| names.push(name.to_owned()));
            assert_eq!(names.len(), 1 + usize::from(rest.is_some()), "{line}");
            let nothing = Without {
                fields: &held,
                cookie: None,
            };
            assert!(nothing.contains("cookie") && nothing.contains("accept"));
        }
    }
}
