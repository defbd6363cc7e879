//! What an unsafe request makes wrong (RFC 9111 §4.4): its target, and what its answer names of the
//! same origin.

use http::HeaderMap;
use http::header::{CONTENT_LOCATION, LOCATION};

use super::fields::trim;
use super::host::{self, Scheme};
use super::request::Method;

/// The target of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place<'a> {
    /// As in the key.
    pub scheme: Scheme,
    /// With the port where it has one.
    pub host: &'a str,
    /// From its `/`.
    pub path: &'a str,
    /// Without its `?`.
    pub query: Option<&'a str>,
}

/// A page of the same origin, not yet normalised for the key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Page {
    /// From its `/`, dot segments resolved.
    pub path: String,
    /// Without its `?`.
    pub query: Option<String>,
}

/// The pages that an answer of `status` with `fields` to `method` at `target` makes wrong, each
/// once, the target first. None for safe methods and for errors; unknown methods are unsafe.
pub fn targets(
    method: Method<'_>,
    status: u16,
    fields: &HeaderMap,
    target: &Place<'_>,
) -> Vec<Page> {
    if method.is_safe() || !(200..400).contains(&status) {
        return Vec::new();
    }
    let mut pages = vec![Page {
        path: target.path.to_owned(),
        query: target.query.map(str::to_owned),
    }];
    for name in [LOCATION, CONTENT_LOCATION] {
        for value in fields.get_all(name) {
            let page = resolve(value.as_bytes(), target);
            pages.extend(page.filter(|page| !pages.contains(page)));
        }
    }
    pages
}

/// A URI reference seen from `base` (RFC 3986 §5.2), if it stays on the same origin.
fn resolve(reference: &[u8], base: &Place<'_>) -> Option<Page> {
    let reference = printable(trim(reference));
    let reference = reference.split('#').next().unwrap_or_default();
    let (scheme, rest) = scheme_of(reference);
    if scheme.is_some_and(|scheme| !scheme.eq_ignore_ascii_case(base.scheme.as_str())) {
        return None;
    }
    if let Some(rest) = rest.strip_prefix("//") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let authority = host::check(authority.as_bytes()).ok()?;
        if !host::same(authority, base.host, base.scheme) {
            return None;
        }
        let (path, query) = split_query(rest);
        return Some(page(path, query));
    }
    // `http:page`, without an authority, is no http URI
    if scheme.is_some() {
        return None;
    }
    let (path, query) = split_query(rest);
    if path.is_empty() {
        return Some(Page {
            path: base.path.to_owned(),
            query: query.or(base.query).map(str::to_owned),
        });
    }
    if path.starts_with('/') {
        return Some(page(path, query));
    }
    let folder = base.path.rfind('/').map_or("/", |at| &base.path[..=at]);
    Some(page(&format!("{folder}{path}"), query))
}

fn page(path: &str, query: Option<&str>) -> Page {
    Page {
        path: without_dots(path),
        query: query.map(str::to_owned),
    }
}

/// What a client would ask for: bytes that cannot stand in a target, percent-coded.
fn printable(reference: &[u8]) -> String {
    let mut text = String::with_capacity(reference.len());
    for &byte in reference {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn scheme_of(reference: &str) -> (Option<&str>, &str) {
    let end = reference.find([':', '/', '?']);
    match end {
        Some(at) if at > 0 && reference[at..].starts_with(':') => {
            (Some(&reference[..at]), &reference[at + 1..])
        }
        _ => (None, reference),
    }
}

fn split_query(text: &str) -> (&str, Option<&str>) {
    text.split_once('?')
        .map_or((text, None), |(path, query)| (path, Some(query)))
}

/// An absolute path without its `.` and `..` segments (RFC 3986 §5.2.4); an empty one is `/`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: Place<'static> = Place {
        scheme: Scheme::Http,
        host: "a.example",
        path: "/b/c/d;p",
        query: Some("q"),
    };

    fn answer(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(
                *name,
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        map
    }

    fn shown(pages: &[Page]) -> Vec<String> {
        let show = |p: &Page| {
            p.query
                .as_ref()
                .map_or(p.path.clone(), |q| format!("{}?{q}", p.path))
        };
        pages.iter().map(show).collect()
    }

    fn beside(location: &str) -> Option<String> {
        let pages = targets(Method::Post, 200, &answer(&[("location", location)]), &AT);
        shown(&pages).get(1).cloned()
    }

    #[test]
    fn rfc9111_4_4_an_unsafe_method_invalidates_its_target() {
        for method in [
            Method::Post,
            Method::Put,
            Method::Delete,
            Method::Patch,
            Method::Other("FROB"),
        ] {
            assert_eq!(
                shown(&targets(method, 204, &HeaderMap::new(), &AT)),
                ["/b/c/d;p?q"],
                "{method:?}"
            );
        }
        for method in [Method::Get, Method::Head, Method::Options] {
            assert!(
                targets(method, 200, &HeaderMap::new(), &AT).is_empty(),
                "{method:?}"
            );
        }
    }

    #[test]
    fn rfc9111_4_4_errors_invalidate_nothing() {
        let invalidates =
            |status| !targets(Method::Post, status, &HeaderMap::new(), &AT).is_empty();
        assert!(invalidates(200) && invalidates(201) && invalidates(303) && invalidates(399));
        assert!(!invalidates(400) && !invalidates(404) && !invalidates(500) && !invalidates(101));
    }

    #[test]
    fn rfc9111_4_4_location_and_content_location_of_the_same_origin() {
        let fields = answer(&[
            ("location", "/new"),
            ("content-location", "http://A.example:80/list?x#f"),
            ("location", "/new"),
        ]);
        assert_eq!(
            shown(&targets(Method::Post, 201, &fields, &AT)),
            ["/b/c/d;p?q", "/new", "/list?x"]
        );
    }

    #[test]
    fn rfc9111_4_4_never_of_another_origin() {
        for location in [
            "http://b.example/x",
            "https://a.example/x",
            "http://a.example:81/x",
            "//b.example/x",
            "http://user@a.example/x",
            "ftp://a.example/x",
            "http:/x",
            "http:x",
            "javascript:alert(1)",
            "http://a.example@b.example/",
            "///x",
            "http://a.example.b/",
        ] {
            assert_eq!(beside(location), None, "{location}");
        }
    }

    #[test]
    fn rfc3986_5_4_references_resolve() {
        for (reference, expected) in [
            ("g", "/b/c/g"),
            ("./g", "/b/c/g"),
            ("g/", "/b/c/g/"),
            ("/g", "/g"),
            ("//a.example", "/"),
            ("http://a.example?y", "/?y"),
            ("?y", "/b/c/d;p?y"),
            ("g?y", "/b/c/g?y"),
            ("g#s", "/b/c/g"),
            (";x", "/b/c/;x"),
            (".", "/b/c/"),
            ("..", "/b/"),
            ("../g", "/b/g"),
            ("../../../g", "/g"),
            ("/./g", "/g"),
            ("/../g", "/g"),
            ("g.", "/b/c/g."),
            ("./g/.", "/b/c/g/"),
            ("g;x=1/../y", "/b/c/y"),
            ("g?y/../x", "/b/c/g?y/../x"),
            ("g:h/../i?a:b", "/"),
            ("/a:b", "/a:b"),
            ("/caf\u{e9} x", "/caf%C3%A9%20x"),
        ] {
            let expected = (reference != "g:h/../i?a:b").then(|| expected.to_owned());
            assert_eq!(beside(reference), expected, "{reference}");
        }
        // the target itself stands once
        assert_eq!(beside(""), None);
        assert_eq!(beside("#s"), None);
    }

    proptest! {
        #[test]
        fn rfc9111_4_4_resolving_stays_on_the_origin(reference in "[a-z./:?#@\\[\\]%-]{0,24}") {
            if let Some(page) = resolve(reference.as_bytes(), &AT) {
                prop_assert!(page.path.starts_with('/'));
                prop_assert!(!page.path.split('/').any(|s| s == "." || s == ".."), "{}", page.path);
            }
        }

        #[test]
        fn resolving_never_panics(reference in proptest::collection::vec(any::<u8>(), 0..30)) {
            resolve(&reference, &AT);
        }
    }
}
