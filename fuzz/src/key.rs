//! What is written into a key reads as it was written, and writing it again changes nothing: one page, one key. The first
//! part of the input is a target; behind an empty line follow a host, and a `Location` on a third line.

use http::HeaderMap;
use http::HeaderValue;
use tidegate::rules::host::{self, KnownHost, Scheme};
use tidegate::rules::invalidate::{self, Place};
use tidegate::rules::request::Method;
use tidegate::rules::target::{self, Pattern, QueryRules, Target, write_path, write_query};

pub fn run(data: &[u8]) {
    let (target, rest) = super::halves(data);
    let mut rest = rest.splitn(2, |&b| b == b'\n');
    let host = rest.next().unwrap_or_default();
    let host = host::check(host).inspect(|host| normalised(host));
    let Some((path, query)) = std::str::from_utf8(target).ok().and_then(written) else {
        return;
    };
    if let (Ok(host), Some(location)) = (host, rest.next()) {
        invalidated(&path, query.as_deref(), host, location);
    }
}

fn normalised(host: &str) {
    for scheme in [Scheme::Http, Scheme::Https] {
        let normal = |host: &str| {
            let mut out = String::new();
            host::normalize(host, scheme, &mut out);
            out
        };
        let once = normal(host);
        assert_eq!(host::check(once.as_bytes()), Ok(once.as_str()), "of {host}");
        assert_eq!(normal(&once), once);
        assert!(host::same(host, &once, scheme));
        assert!(!once.bytes().any(|b| b.is_ascii_uppercase()));
        let mut known = KnownHost::default();
        known.learn(host, scheme);
        let mut lent = String::new();
        known.normalize(
            known.check(host.as_bytes()).expect("it is known"),
            scheme,
            &mut lent,
        );
        assert_eq!(lent, once);
    }
}

/// Path and query of a target in origin-form, as a key has them.
fn written(raw: &str) -> Option<(String, Option<String>)> {
    let (Target::Origin { path, query }, _) = target::read(raw).ok()? else {
        return None;
    };
    let write = |path: &str, query: Option<&str>, rules: &QueryRules| {
        let mut out = String::new();
        write_path(path, &mut out);
        write_query(query, rules, &mut out);
        out
    };
    let names = || vec![Pattern::new("a"), Pattern::new("utm_*")];
    for rules in [
        QueryRules::default(),
        QueryRules {
            sort: true,
            ..QueryRules::default()
        },
        QueryRules {
            drop: names(),
            ..QueryRules::default()
        },
        QueryRules {
            keep: Some(names()),
            sort: true,
            ..QueryRules::default()
        },
    ] {
        let once = write(path, query, &rules);
        let Ok((
            Target::Origin {
                path: again,
                query: kept,
            },
            None,
        )) = target::read(&once)
        else {
            panic!("{raw} is written as {once}, which is no target");
        };
        assert_eq!(write(again, kept, &rules), once, "of {raw}");
        assert!(once.len() <= raw.len() + 1);
        assert_eq!(dots(again), dots(path), "segments of dots come or go");
    }
    let mut plain = String::new();
    write_path(path, &mut plain);
    Some((plain, query.map(str::to_owned)))
}

fn dots(path: &str) -> usize {
    path.split('/')
        .filter(|segment| matches!(*segment, "." | ".."))
        .count()
}

/// What an answer's `Location` makes wrong is of the same site, and could be asked for.
fn invalidated(path: &str, query: Option<&str>, host: &str, location: &[u8]) {
    let mut fields = HeaderMap::new();
    if let Ok(location) = HeaderValue::from_bytes(location) {
        fields.insert("location", location);
    }
    let place = Place {
        scheme: Scheme::Http,
        host,
        path,
        query,
    };
    let pages = invalidate::targets(Method::Post, 201, &fields, &place);
    assert!((1..=2).contains(&pages.len()));
    assert_eq!(
        (pages[0].path.as_str(), pages[0].query.as_deref()),
        (path, query)
    );
    for page in &pages {
        let target = match &page.query {
            Some(query) => format!("{}?{query}", page.path),
            None => page.path.clone(),
        };
        let read = target::read(&target);
        assert!(
            matches!(read, Ok((Target::Origin { .. }, None))),
            "{target}: {read:?}"
        );
    }
    assert!(invalidate::targets(Method::Get, 200, &fields, &place).is_empty());
}
