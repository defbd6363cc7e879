//! The request target (RFC 9112 §3.2) and what of it goes into the key.
//!
//! The key's path and query are what the origin is asked for, byte for byte, so
//! a rewriting here can never make two pages share an entry unless the origin
//! itself sees one request. Dot segments stay, `%2F` and `%2E` stay, hex digits
//! keep their case: some servers tell each of these apart.

use memchr::memchr;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target<'a> {
    /// A path that begins with `/`, and what follows the first `?`.
    Origin {
        path: &'a str,
        query: Option<&'a str>,
    },
    /// `*`, the server as a whole (OPTIONS only).
    Asterisk,
}

/// Why a target is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    Form,
    Scheme,
    Fragment,
    Byte,
}

impl Flaw {
    /// One line for people.
    pub fn why(self) -> &'static str {
        match self {
            Flaw::Form => "the target is neither a path that begins with \"/\" nor an http URL",
            Flaw::Scheme => "the target's scheme is not the one of this listener",
            Flaw::Fragment => "the target has a fragment",
            Flaw::Byte => "the target has a character that must be percent-encoded",
        }
    }
}

/// Reads a target in origin-form, absolute-form or asterisk-form; gives the
/// authority of the absolute one, unchecked.
///
/// Refused is what no URI has (RFC 3986 §2): controls, space, 8-bit bytes, `#`
/// and ``"<>\^` ``. `{`, `|` and `}` are let through in the query alone, where
/// browsers leave them as typed.
pub fn read(raw: &str) -> Result<(Target<'_>, Option<&str>), Flaw> {
    match raw.as_bytes().first() {
        Some(b'/') => Ok((origin_form(raw)?, None)),
        Some(b'*') if raw.len() == 1 => Ok((Target::Asterisk, None)),
        _ => absolute_form(raw),
    }
}

fn origin_form(raw: &str) -> Result<Target<'_>, Flaw> {
    let (path, query) = match memchr(b'?', raw.as_bytes()) {
        Some(at) => (&raw[..at], Some(&raw[at + 1..])),
        None => (raw, None),
    };
    let seen = classes(path) | (classes(query.unwrap_or_default()) & !QUERY);
    match seen {
        0 => Ok(Target::Origin { path, query }),
        _ if seen & FRAGMENT != 0 => Err(Flaw::Fragment),
        _ => Err(Flaw::Byte),
    }
}

/// Which classes of bytes `part` has, as a set.
fn classes(part: &str) -> u8 {
    part.bytes()
        .fold(0, |seen, byte| seen | CLASSES[usize::from(byte)])
}

fn absolute_form(raw: &str) -> Result<(Target<'_>, Option<&str>), Flaw> {
    let (scheme, rest) = raw.split_once("://").ok_or(Flaw::Form)?;
    if !scheme.eq_ignore_ascii_case("http") {
        let named = scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        return Err(if named { Flaw::Scheme } else { Flaw::Form });
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let target = match origin_form(rest)? {
        Target::Origin { path: "", query } => Target::Origin { path: "/", query },
        target => target,
    };
    Ok((target, Some(authority)))
}

/// Good in a query, not in a path.
const QUERY: u8 = 1;
const FRAGMENT: u8 = 2;
const NEVER: u8 = 4;

const CLASSES: [u8; 256] = {
    let mut classes = [NEVER; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        classes[byte] = match byte as u8 {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' => NEVER,
            b'{' | b'|' | b'}' => QUERY,
            b'#' => FRAGMENT,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// Appends the path with its unreserved percent codes decoded (RFC 3986
/// §6.2.2.2), all but `%2E`: decoded dots could make a dot segment, which some
/// servers resolve before they decode and some after.
///
/// A path with a `%` that no two hex digits follow is appended as it stands:
/// decoding beside it could complete a code that was none.
pub fn write_path(path: &str, out: &mut String) {
    if memchr(b'%', path.as_bytes()).is_none() || !codes_are_whole(path.as_bytes()) {
        out.push_str(path);
        return;
    }
    let mut rest = path;
    while let Some(at) = memchr(b'%', rest.as_bytes()) {
        let (before, code) = rest.split_at(at);
        let (code, after) = code.split_at(3);
        out.push_str(before);
        match code_at(code.as_bytes()) {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) => {
                out.push(char::from(byte));
            }
            _ => out.push_str(code),
        }
        rest = after;
    }
    out.push_str(rest);
}

fn codes_are_whole(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'%', bytes).all(|at| code_at(&bytes[at..]).is_some())
}

/// The byte that `%XX` at the start of `code` stands for.
fn code_at(code: &[u8]) -> Option<u8> {
    let hex = |at: usize| char::from(*code.get(at)?).to_digit(16);
    u8::try_from(hex(1)? * 16 + hex(2)?).ok()
}

/// A parameter's name, or `prefix*`. Compared with the name as sent, so one
/// written otherwise (`utm%5Fsource`) is another parameter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
}

impl Pattern {
    pub fn new(text: &str) -> Pattern {
        match text.strip_suffix('*') {
            Some(prefix) => Pattern::Prefix(prefix.to_owned()),
            None => Pattern::Exact(text.to_owned()),
        }
    }

    pub fn matches(&self, name: &str) -> bool {
        match self {
            Pattern::Exact(exact) => name == exact,
            Pattern::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

/// What a route leaves of a query, in the key and towards the origin alike.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueryRules {
    /// Parameters to leave out.
    pub drop: Vec<Pattern>,
    /// If set, the only parameters to keep.
    pub keep: Option<Vec<Pattern>>,
    /// Whether to order by name; equal names keep their order.
    pub sort: bool,
}

impl QueryRules {
    /// Whether every query is left as sent.
    pub fn is_identity(&self) -> bool {
        self.drop.is_empty() && self.keep.is_none() && !self.sort
    }

    fn keeps(&self, parameter: &str) -> bool {
        let name = name_of(parameter);
        let listed = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(name));
        self.keep.as_deref().is_none_or(listed) && !listed(&self.drop)
    }
}

/// Appends `?` and what the rules leave of the query, or nothing if nothing is
/// left. Only `&` separates parameters: `;` never does, nor a code for either.
///
/// An empty query (`/p?`) is not an absent one, unless the rules say what to keep.
pub fn write_query(query: Option<&str>, rules: &QueryRules, out: &mut String) {
    let Some(query) = query else { return };
    if rules.is_identity() {
        out.push('?');
        out.push_str(query);
        return;
    }
    let kept = query.split('&').filter(|parameter| rules.keeps(parameter));
    if rules.sort {
        let mut sorted: Vec<&str> = kept.collect();
        sorted.sort_by_key(|parameter| name_of(parameter));
        join(sorted.into_iter(), out);
    } else {
        join(kept, out);
    }
}

fn name_of(parameter: &str) -> &str {
    parameter
        .split_once('=')
        .map_or(parameter, |(name, _)| name)
}

fn join<'q>(parameters: impl Iterator<Item = &'q str>, out: &mut String) {
    let mut separator = '?';
    for parameter in parameters {
        out.push(separator);
        out.push_str(parameter);
        separator = '&';
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(raw: &str) -> String {
        let mut out = String::new();
        write_path(raw, &mut out);
        out
    }

    fn query(raw: Option<&str>, rules: &QueryRules) -> String {
        let mut out = String::new();
        write_query(raw, rules, &mut out);
        out
    }

    fn patterns(names: &[&str]) -> Vec<Pattern> {
        names.iter().map(|name| Pattern::new(name)).collect()
    }

    fn origin<'a>(path: &'a str, query: Option<&'a str>) -> Target<'a> {
        Target::Origin { path, query }
    }

    #[test]
    fn c13_absolute_form_becomes_origin_form() {
        for (raw, authority, target) in [
            ("http://a", "a", origin("/", None)),
            ("http://a/", "a", origin("/", None)),
            ("HTTP://a:80/p?q", "a:80", origin("/p", Some("q"))),
            ("http://a?q", "a", origin("/", Some("q"))),
            ("http://u@a/p", "u@a", origin("/p", None)),
            ("http:///p", "", origin("/p", None)),
        ] {
            assert_eq!(read(raw), Ok((target, Some(authority))), "{raw}");
        }
        for (raw, flaw) in [
            ("ftp://a/p", Flaw::Scheme),
            ("https://a/p", Flaw::Scheme),
            ("://a", Flaw::Scheme),
            ("@x://a/p", Flaw::Form),
            ("http:/a", Flaw::Form),
            ("http://a#f", Flaw::Fragment),
            ("http://a/\"", Flaw::Byte),
        ] {
            assert_eq!(read(raw), Err(flaw), "{raw}");
        }
    }

    #[test]
    fn c14_targets_that_are_none() {
        for raw in ["", "p", "@evil/p", "evil:80", "?q", "**", "*/", "%2F"] {
            assert_eq!(read(raw), Err(Flaw::Form), "{raw}");
        }
        assert_eq!(read("/p#frag"), Err(Flaw::Fragment));
        assert_eq!(read("/p?q#frag"), Err(Flaw::Fragment));
        assert_eq!(read("*"), Ok((Target::Asterisk, None)));
        for byte in (0..=255u8)
            .filter(|b| !b.is_ascii() || b.is_ascii_control() || b"\"<>\\^` ".contains(b))
        {
            for raw in [format!("/{}", byte as char), format!("/?{}", byte as char)] {
                assert_eq!(read(&raw), Err(Flaw::Byte), "{raw:?}");
            }
        }
        assert_eq!(read("/a|b"), Err(Flaw::Byte));
        assert_eq!(read("/?a|{b}"), Ok((origin("/", Some("a|{b}")), None)));
    }

    #[test]
    fn targets_that_are_some() {
        for (raw, path, query) in [
            ("/", "/", None),
            ("//x", "//x", None),
            ("/p?", "/p", Some("")),
            ("/p?a?b", "/p", Some("a?b")),
            ("/a;b=c/@x:y,'!$&()*+[]~", "/a;b=c/@x:y,'!$&()*+[]~", None),
            ("/../%00%2f%zz", "/../%00%2f%zz", None),
        ] {
            assert_eq!(read(raw), Ok((origin(path, query), None)));
        }
    }

    #[test]
    fn c34_a_path_changes_only_in_unreserved_codes() {
        for (raw, written) in [
            ("/plain", "/plain"),
            ("/%41%7a%30%2D%5f%7E", "/Az0-_~"),
            ("/account%2fx.css", "/account%2fx.css"),
            ("/account%00.css", "/account%00.css"),
            ("/static/..%2faccount", "/static/..%2faccount"),
            ("/%2e%2E/%2e", "/%2e%2E/%2e"),
            ("/a/../b/./c//d", "/a/../b/./c//d"),
            ("/%3B%25%41", "/%3B%25A"),
            ("/%2541", "/%2541"),
            ("/%%341", "/%%341"),
            ("/%41%", "/%41%"),
            ("/%41%4", "/%41%4"),
            ("/%+1%41", "/%+1%41"),
            ("/account%0a", "/account%0a"),
        ] {
            assert_eq!(path(raw), written);
        }
    }

    #[test]
    fn c26_parameters_are_split_at_ampersands_alone() {
        let rules = QueryRules {
            drop: patterns(&["utm_*", "fbclid"]),
            ..QueryRules::default()
        };
        for (raw, left) in [
            (None, ""),
            (Some(""), "?"),
            (Some("a=1&utm_source=x&b=2&fbclid"), "?a=1&b=2"),
            (Some("utm_source=x"), ""),
            (Some("a=1;utm_source=x"), "?a=1;utm_source=x"),
            (Some("utm_source=x;a=1"), ""),
            (Some("a=1%26utm_source=x"), "?a=1%26utm_source=x"),
            (Some("utm%5Fsource=x"), "?utm%5Fsource=x"),
            (Some("fbclid2=x&UTM_A=y"), "?fbclid2=x&UTM_A=y"),
            (Some("a=1&&a=2&"), "?a=1&&a=2&"),
        ] {
            assert_eq!(query(raw, &rules), left, "{raw:?}");
        }
    }

    #[test]
    fn queries_are_kept_and_sorted_as_told() {
        let as_sent = QueryRules::default();
        assert!(as_sent.is_identity());
        assert_eq!(query(Some("b&a&b=%7E;c"), &as_sent), "?b&a&b=%7E;c");
        assert_eq!(query(Some(""), &as_sent), "?");
        let sorted = QueryRules {
            sort: true,
            ..QueryRules::default()
        };
        assert_eq!(query(Some("b=2&a=9&b=1&a"), &sorted), "?a=9&a&b=2&b=1");
        let kept = QueryRules {
            keep: Some(patterns(&["p*", "id"])),
            drop: patterns(&["pz"]),
            sort: false,
        };
        assert_eq!(
            query(Some("page=1&x=2&id=3&pz=4&idx=5"), &kept),
            "?page=1&id=3"
        );
        assert_eq!(query(Some("x"), &kept), "");
        assert_eq!(query(Some(""), &kept), "");
    }

    /// What a server that decodes every whole code sees.
    fn decoded(raw: &str) -> Vec<u8> {
        let (mut rest, mut out) = (raw.as_bytes(), Vec::new());
        while let Some(&byte) = rest.first() {
            let code = if byte == b'%' { code_at(rest) } else { None };
            out.push(code.unwrap_or(byte));
            rest = &rest[if code.is_some() { 3 } else { 1 }..];
        }
        out
    }

    proptest! {
        #[test]
        fn written_paths_decode_as_before(raw in "/([%0-9a-fA-F./~x]|%[0-9a-fA-F]{2}){0,12}") {
            let written = path(&raw);
            prop_assert_eq!(decoded(&written), decoded(&raw));
            prop_assert_eq!(path(&written), written.as_str());
            let dots = |p: &str| p.split('/').filter(|s| matches!(*s, "." | "..")).count();
            prop_assert_eq!(dots(&written), dots(&raw));
            prop_assert!(read(&written).is_ok());
        }

        #[test]
        fn written_queries_are_written_as_they_are(raw in "[ab=&;%]{0,16}", sort: bool) {
            let rules = QueryRules { drop: patterns(&["b*"]), keep: None, sort };
            let written = query(Some(&raw), &rules);
            prop_assert_eq!(query(written.strip_prefix('?'), &rules), written);
        }

        #[test]
        fn reading_never_panics(raw in any::<String>()) {
            let _ = read(&raw);
        }
    }
}
