//! What stands in for a page whose app is gone: which files its path may mean, and what a client would rather read.
//!
//! A path becomes names of files here, and nothing that leads elsewhere: each of its segments is a plain name or the path means no
//! file at all. Who opens them looks again, in the kernel.

use std::iter;

/// The longest name of a file, in bytes, less what is put behind it here.
const NAME: usize = 240;
/// No path means a file that lies deeper.
const DEEPEST: usize = 32;
/// What a page is called by whose path does not tell what it is.
const KINDS: [&str; 6] = ["html", "xml", "json", "txt", "rss", "atom"];
/// What a page is called whose path ends with a slash.
const INDEX: &[u8] = b"index";

/// The files that may stand for a page, the best first, below the directory. `path` and `query` are as the page's key has them. None
/// are the files of a path that could lead elsewhere, or to what is hidden.
///
/// One that is there for this very query goes before one for the path, which stands for it whatever the query is.
pub fn files(path: &str, query: Option<&str>) -> Vec<Vec<u8>> {
    let Some(place) = Place::of(path) else {
        return Vec::new();
    };
    let queried = query.and_then(query_name);
    let queried = queried.map(|query| [&place.stem[..], query.as_bytes()].concat());
    let mut files = Vec::new();
    for stem in queried.iter().chain(iter::once(&place.stem)) {
        if !place.is_folder {
            files.push(stem.clone());
        }
        let kinds = KINDS.iter().map(|kind| with_kind(stem, kind));
        files.extend(kinds);
    }
    let beside = match place.is_folder {
        // `/a/` may lie in `a.html`, as `/a` may in `a/index.html`.
        true => place.folder().map(|folder| with_kind(folder, KINDS[0])),
        false => Some(with_kind(
            &[&place.stem[..], b"/", INDEX].concat(),
            KINDS[0],
        )),
    };
    files.extend(beside);
    files
}

/// The file that a page is kept in, so that [`files`] finds it there. `kind`: what the name of such a file ends with, `html` say; none
/// where that is not known. None: no file may be called so.
pub fn file(path: &str, query: Option<&str>, kind: Option<&str>) -> Option<Vec<u8>> {
    let place = Place::of(path)?;
    let mut name = place.stem.clone();
    if let Some(query) = query {
        name.extend_from_slice(query_name(query)?.as_bytes());
    }
    let told = kind_of(&place.stem);
    match kind {
        Some(kind) if place.is_folder || told.as_deref() != Some(kind) => {
            KINDS.contains(&kind).then(|| with_kind(&name, kind))
        }
        _ if place.is_folder => None,
        _ => Some(name),
    }
}

/// What the name of a file says that it is, in lower case: what stands behind its last dot, before the query.
pub fn kind_of(name: &[u8]) -> Option<String> {
    let last = name.rsplit(|byte| *byte == b'/').next()?;
    let ends = |name: &[u8]| {
        let at = name.iter().rposition(|byte| *byte == b'.')?;
        let kind = std::str::from_utf8(name.get(at + 1..)?).ok()?;
        let is_one = at > 0 && (1..=12).contains(&kind.len());
        (is_one && kind.bytes().all(|byte| byte.is_ascii_alphanumeric()))
            .then(|| kind.to_ascii_lowercase())
    };
    let asked_at = last.iter().position(|byte| *byte == b'?');
    match asked_at {
        None => ends(last),
        // `list?page=2.html` is one of ours; `site.css?v=3` is what it is without its query.
        Some(at) => {
            let ours = ends(&last[at..]).filter(|kind| KINDS.contains(&kind.as_str()));
            ours.or_else(|| ends(&last[..at]))
        }
    }
}

/// Whether a text is a plain name: it can be no way to anywhere.
pub fn is_plain(name: &[u8]) -> bool {
    let is_hidden = name.starts_with(b".") && name != b".well-known";
    let is_odd = |byte: &u8| byte.is_ascii_control() || matches!(byte, b'/' | b'\\' | b'?');
    !name.is_empty() && !is_hidden && name.len() <= NAME && !name.iter().any(is_odd)
}

struct Place {
    /// The file's name, as far as it doesn't depend on what is in it.
    stem: Vec<u8>,
    is_folder: bool,
}

impl Place {
    fn of(path: &str) -> Option<Place> {
        let path = path.strip_prefix('/')?;
        let is_folder = path.is_empty() || path.ends_with('/');
        let inner = path.strip_suffix('/').unwrap_or(path);
        let mut stem = Vec::new();
        if !path.is_empty() {
            if inner.split('/').count() > DEEPEST {
                return None;
            }
            for segment in inner.split('/') {
                let name = decoded(segment)?;
                if !is_plain(&name) {
                    return None;
                }
                if !stem.is_empty() {
                    stem.push(b'/');
                }
                stem.extend_from_slice(&name);
            }
        }
        if is_folder {
            if !stem.is_empty() {
                stem.push(b'/');
            }
            stem.extend_from_slice(INDEX);
        }
        Some(Place { stem, is_folder })
    }

    /// The folder itself; none for the outermost.
    fn folder(&self) -> Option<&[u8]> {
        let folder = self.stem.strip_suffix(INDEX)?.strip_suffix(b"/");
        folder.filter(|_| self.is_folder)
    }
}

fn with_kind(stem: &[u8], kind: &str) -> Vec<u8> {
    [stem, b".", kind.as_bytes()].concat()
}

/// `?` and the query, with all that can't be in a name written as percent codes.
fn query_name(query: &str) -> Option<String> {
    if query.is_empty() {
        return None;
    }
    let mut out = String::from("?");
    for byte in query.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'-' | b'.' | b'_' | b'~' | b'=' | b'&' | b'+' | b'%' | b',' | b':' | b';' | b'@' => {
                out.push(char::from(byte));
            }
            other => out += &format!("%{other:02X}"),
        }
    }
    (out.len() <= NAME / 2).then_some(out)
}

/// What percent codes stand for, once: `%252e` is a name with a percent sign. None: one is not whole.
fn decoded(segment: &str) -> Option<Vec<u8>> {
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            out.push(byte);
            at += 1;
            continue;
        }
        let hex = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
        out.push(u8::try_from(hex(at + 1)? * 16 + hex(at + 2)?).ok()?);
        at += 3;
    }
    Some(out)
}

/// Whether a client that accepts so would rather have JSON than a page (RFC 9110 §12.5.1): it names JSON, and a page not or less. All
/// others get the page, also those that take anything.
pub fn prefers_json(accept: &[u8]) -> bool {
    let (mut json, mut page) = (0, 0);
    for member in accept.split(|byte| *byte == b',') {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let range = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix(b"q=").or(part.strip_prefix(b"Q=")));
        let quality = quality.map_or(1000, thousandths);
        match &range[..] {
            b"text/html" | b"application/xhtml+xml" => page = quality.max(page),
            b"application/json" => json = quality.max(json),
            other if other.ends_with(b"+json") => json = quality.max(json),
            _ => {}
        }
    }
    json > page
}

/// A weight in thousandths (RFC 9110 §12.4.2); a malformed one is 0.
fn thousandths(weight: &[u8]) -> u16 {
    let text = std::str::from_utf8(weight).unwrap_or_default();
    let is_one = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value: f32 = text.parse().ok().filter(|_| is_one).unwrap_or(0.0);
    (value.clamp(0.0, 1.0) * 1000.0) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(path: &str, query: Option<&str>) -> Vec<String> {
        let files = files(path, query).into_iter();
        files.map(|file| String::from_utf8(file).unwrap()).collect()
    }

    #[test]
    fn a_path_means_these_files() {
        assert_eq!(names("/", None)[..2], ["index.html", "index.xml"]);
        assert_eq!(names("/", None).len(), KINDS.len());
        let page = names("/a/page", None);
        assert_eq!(page[..2], ["a/page", "a/page.html"]);
        assert_eq!(page.last().unwrap(), "a/page/index.html");
        let folder = names("/a/", None);
        assert_eq!(folder[0], "a/index.html");
        assert_eq!(folder.last().unwrap(), "a.html");
        assert_eq!(names("/b%20c/%c3%a4", None)[0], "b c/ä");
        assert_eq!(names("/.well-known/x", None)[0], ".well-known/x");
        let queried = names("/list", Some("page=2&q=a/b"));
        assert_eq!(
            queried[..2],
            ["list?page=2&q=a%2Fb", "list?page=2&q=a%2Fb.html"]
        );
        assert!(queried.contains(&"list.html".to_owned()));
        assert_eq!(names("/list", Some("")), names("/list", None));
    }

    #[test]
    fn c56_what_leads_elsewhere_means_no_file() {
        for path in [
            "",
            "*",
            "page",
            "/..",
            "/../etc/passwd",
            "/a/../b",
            "/a/..",
            "/./a",
            "/%2e%2e/a",
            "/%2E%2E/a",
            "/.%2e/a",
            "/..%2f..%2fetc/passwd",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/%00",
            "/a%0ab",
            "//a",
            "/a//b",
            "/a//",
            "//",
            "/.git/config",
            "/.htaccess",
            "/a%3fb",
            "/a%",
            "/a%2",
            "/a%zz",
        ] {
            assert!(files(path, None).is_empty(), "{path}");
            assert_eq!(file(path, None, Some("html")), None, "{path}");
        }
        // It is a name, of a file that is not there.
        assert_eq!(names("/%252e%252e/a", None)[0], "%2e%2e/a");
        assert!(files(&format!("/{}", "x".repeat(241)), None).is_empty());
        assert!(files(&"/x".repeat(33), None).is_empty());
    }

    #[test]
    fn a_page_is_kept_where_it_is_found() {
        let kept = |path, query, kind| {
            let file = file(path, query, kind)?;
            assert!(files(path, query).contains(&file), "{path}");
            Some(String::from_utf8(file).unwrap())
        };
        assert_eq!(kept("/", None, Some("html")).unwrap(), "index.html");
        assert_eq!(kept("/a", None, Some("html")).unwrap(), "a.html");
        assert_eq!(kept("/a.html", None, Some("html")).unwrap(), "a.html");
        assert_eq!(kept("/a/", None, Some("xml")).unwrap(), "a/index.xml");
        assert_eq!(kept("/s.css", None, Some("css")).unwrap(), "s.css");
        assert_eq!(kept("/x.php", None, Some("html")).unwrap(), "x.php.html");
        assert_eq!(kept("/logo", None, Some("png")), None);
        assert_eq!(kept("/logo", None, None).unwrap(), "logo");
        let queried = kept("/a", Some("p=2"), Some("html"));
        assert_eq!(queried.unwrap(), "a?p=2.html");
        let queried = kept("/s.css", Some("v=3.1"), Some("css"));
        assert_eq!(queried.unwrap(), "s.css?v=3.1");
        assert_eq!(kept("/a", Some(&"x".repeat(200)), Some("html")), None);
    }

    #[test]
    fn what_a_name_says() {
        let kind = |name: &str| kind_of(name.as_bytes());
        assert_eq!(kind("a/b.HTML").as_deref(), Some("html"));
        assert_eq!(kind("a.b/c"), None);
        assert_eq!(kind("s.css?v=3.1").as_deref(), Some("css"));
        assert_eq!(kind("a?p=2.html").as_deref(), Some("html"));
        assert_eq!(kind("a?p=2"), None);
        assert_eq!(kind(".well-known"), None);
    }

    #[test]
    fn rfc9110_12_5_1_json_is_for_who_names_it() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, json) in [
            ("", false),
            ("*/*", false),
            (browser, false),
            ("application/json", true),
            ("application/json, text/plain, */*", true),
            ("application/problem+json", true),
            ("text/html, application/json", false),
            ("text/html;q=0.5, application/json;q=0.9", true),
            ("text/html;q=0.9, APPLICATION/JSON;Q=0.5", false),
            ("application/json;q=0", false),
            ("application/json;q=x", false),
        ] {
            assert_eq!(prefers_json(accept.as_bytes()), json, "{accept}");
        }
    }

    proptest! {
        #[test]
        fn c56_no_path_leads_out(path in "[/a.%2feE5cC0?\\\\ -]{0,40}", query in proptest::option::of("[/.%a=&?]{0,20}")) {
            for file in files(&format!("/{path}"), query.as_deref()) {
                prop_assert!(!file.starts_with(b"/"));
                for name in file.split(|byte| *byte == b'/') {
                    prop_assert!(!matches!(name, b"" | b"." | b".."), "{}", file.escape_ascii());
                    prop_assert!(!name.iter().any(|byte| matches!(byte, 0 | b'\\')));
                }
            }
        }
    }
}
