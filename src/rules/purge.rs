//! What a purge takes out of the cache, and what of it is left of an answer.
//!
//! Purges and invalidations are numbered; what lies between two of them is a *generation*. A fetch belongs to the one in
//! which it begins, and so does what it brings: a later purge that covers it means it. Nothing has to be searched for that.
//!
//! A page is meant by whichever scheme it is asked for: `http` and `https` are two keys and one thing to its author.

use std::borrow::Cow;

use super::host::{self, Scheme};
use super::target;

/// What is purged.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// One page in all its variants; host, path and query as keys have them.
    Page {
        host: String,
        target: String,
    },
    /// The pages of a host whose path, or path and query, begins so, byte for byte.
    Prefix {
        host: String,
        start: String,
    },
    /// What carries this tag, of all hosts.
    Tag(String),
    /// All pages of a host, as keys have it: a port that is not the scheme's own belongs to it.
    Host(String),
    All,
}

/// The same without its object, for counting.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Page,
    Prefix,
    Tag,
    Host,
    All,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Page, Kind::Prefix, Kind::Tag, Kind::Host, Kind::All];

    pub fn word(self) -> &'static str {
        match self {
            Kind::Page => "url",
            Kind::Prefix => "prefix",
            Kind::Tag => "tag",
            Kind::Host => "host",
            Kind::All => "all",
        }
    }
}

/// An order to purge.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Purge {
    pub what: What,
    /// It is marked stale, not taken away: served so while it is fetched anew, and when that fails, as long as it could have
    /// been served anyway.
    pub soft: bool,
    /// Nothing is purged; it is only told what would be.
    pub dry_run: bool,
}

impl Purge {
    pub fn hard(what: What) -> Purge {
        Purge {
            what,
            soft: false,
            dry_run: false,
        }
    }

    pub fn soft(what: What) -> Purge {
        Purge {
            soft: true,
            ..Purge::hard(what)
        }
    }
}

impl What {
    /// All that begins with this URL; a star at its end may be left out.
    ///
    /// # Errors
    /// It is no URL.
    pub fn below(url: &str) -> Result<What, Flaw> {
        let Located { host, path, query } = locate(url.strip_suffix('*').unwrap_or(url))?;
        let mut start = String::new();
        target::write_path(path, &mut start);
        if let Some(query) = query {
            start.push('?');
            start.push_str(query);
        }
        Ok(What::Prefix { host, start })
    }

    /// A host as keys have it.
    ///
    /// # Errors
    /// It is no host.
    pub fn host(host: &str) -> Result<What, Flaw> {
        let mut normal = String::new();
        let host = host::check(host.as_bytes()).map_err(Flaw::Host)?;
        host::normalize(host, Scheme::Http, &mut normal);
        Ok(What::Host(normal))
    }

    pub fn kind(&self) -> Kind {
        match self {
            What::Page { .. } => Kind::Page,
            What::Prefix { .. } => Kind::Prefix,
            What::Tag(_) => Kind::Tag,
            What::Host(_) => Kind::Host,
            What::All => Kind::All,
        }
    }

    /// The keys of a page.
    pub fn keys(&self) -> Option<[Vec<u8>; 2]> {
        let What::Page { host, target } = self else {
            return None;
        };
        let key = |scheme: Scheme| format!("{}\0{host}\0{target}", scheme.as_str()).into_bytes();
        Some([Scheme::Http, Scheme::Https].map(key))
    }

    /// What the places of all that it covers begin with, where that is how they are told.
    pub fn start(&self) -> Option<Vec<u8>> {
        match self {
            What::Page { .. } | What::Tag(_) => None,
            What::Prefix { host, start } => Some(format!("{host}\0{start}").into_bytes()),
            What::Host(host) => Some(format!("{host}\0").into_bytes()),
            What::All => Some(Vec::new()),
        }
    }

    /// Whether it covers what is stored under `key` and carries the tags of which `has` knows.
    pub fn covers(&self, key: &[u8], has: impl FnOnce(&str) -> bool) -> bool {
        match self {
            What::Page { host, target } => {
                let page = place(key).strip_prefix(host.as_bytes());
                page.and_then(|rest| rest.strip_prefix(b"\0")) == Some(target.as_bytes())
            }
            What::Tag(tag) => has(tag),
            What::Prefix { .. } | What::Host(_) | What::All => self
                .start()
                .is_some_and(|start| place(key).starts_with(&start)),
        }
    }
}

/// A key without its scheme.
pub fn place(key: &[u8]) -> &[u8] {
    match memchr::memchr(0, key) {
        Some(end) => &key[end + 1..],
        None => key,
    }
}

/// Why it can't be told what is to be purged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    Scheme,
    Host(host::Flaw),
    Target(target::Flaw),
}

impl Flaw {
    /// One line for people.
    pub fn why(self) -> &'static str {
        match self {
            Flaw::Scheme => "a URL begins with http:// or https://",
            Flaw::Host(flaw) => flaw.why(),
            Flaw::Target(flaw) => flaw.why(),
        }
    }
}

/// Where a URL points.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located<'a> {
    /// As keys have it.
    pub host: String,
    /// As written, from its `/`.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

/// Reads a whole URL. A fragment is nothing to a server, and left out.
///
/// # Errors
/// It is none, or not of HTTP.
pub fn locate(url: &str) -> Result<Located<'_>, Flaw> {
    let (scheme, rest) = url.split_once("://").ok_or(Flaw::Scheme)?;
    let scheme = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
        _ if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
        _ => return Err(Flaw::Scheme),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority = host::check(authority.as_bytes()).map_err(Flaw::Host)?;
    let mut host = String::new();
    host::normalize(authority, scheme, &mut host);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let whole = match target.starts_with('/') {
        true => Cow::Borrowed(target),
        false => Cow::Owned(format!("/{target}")),
    };
    target::read(&whole).map_err(Flaw::Target)?;
    Ok(Located {
        host,
        path: if path.is_empty() { "/" } else { path },
        query,
    })
}

/// When what is filed under one name was purged last, as generations; 0: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Epoch {
    pub hard: u64,
    pub soft: u64,
}

impl Epoch {
    pub fn of(generation: u64, soft: bool) -> Epoch {
        let mut epoch = Epoch::default();
        epoch.raise(generation, soft);
        epoch
    }

    pub fn raise(&mut self, generation: u64, soft: bool) {
        let which = if soft { &mut self.soft } else { &mut self.hard };
        *which = generation.max(*which);
    }

    pub fn latest(self) -> u64 {
        self.hard.max(self.soft)
    }

    /// The later of each.
    pub fn or(self, other: Epoch) -> Epoch {
        Epoch {
            hard: self.hard.max(other.hard),
            soft: self.soft.max(other.soft),
        }
    }

    /// What is left of an answer whose fetch began in `generation`.
    pub fn leaves(self, generation: u64) -> Standing {
        match () {
            () if self.hard > generation => Standing::Gone,
            () if self.soft > generation => Standing::Stale,
            () => Standing::Good,
        }
    }
}

/// What purges have left of an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Standing {
    Good,
    /// It is to be served as stale only.
    Stale,
    Gone,
}

/// Whether an answer may be told to a request that began in generation `since`, if its fetch began in `fetched` and the
/// last purge that covers it was `purged`. Where there were several, the earlier ones are not known: who came after the fetch
/// had begun is refused to be sure.
pub fn is_outdated(fetched: u64, purged: u64, since: u64) -> bool {
    purged > fetched && since > fetched
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(host: &str, target: &str) -> What {
        What::Page {
            host: host.into(),
            target: target.into(),
        }
    }

    #[test]
    fn urls_are_located_as_keys_are_made() {
        let at = |url| locate(url).map(|l| (l.host, l.path.to_owned(), l.query.map(str::to_owned)));
        let is = |host: &str, path: &str, query: Option<&str>| {
            Ok((host.to_owned(), path.to_owned(), query.map(str::to_owned)))
        };
        assert_eq!(
            at("https://A.example:443/p?q#f"),
            is("a.example", "/p", Some("q"))
        );
        assert_eq!(at("http://a.example:443"), is("a.example:443", "/", None));
        assert_eq!(at("HTTP://a.example.?q"), is("a.example", "/", Some("q")));
        assert_eq!(at("http://[::1]:80/"), is("[::1]", "/", None));
        for (url, flaw) in [
            ("/p", Flaw::Scheme),
            ("a.example/p", Flaw::Scheme),
            ("ftp://a.example/", Flaw::Scheme),
            ("http:///p", Flaw::Host(host::Flaw::Empty)),
            ("http://u@a.example/", Flaw::Host(host::Flaw::Userinfo)),
            ("http://a.example/ p", Flaw::Target(target::Flaw::Byte)),
            ("http://a.example/\u{e9}", Flaw::Target(target::Flaw::Byte)),
        ] {
            assert_eq!(at(url), Err(flaw), "{url}");
        }
    }

    #[test]
    fn each_kind_covers_what_it_says() {
        let keys = |what: &What| -> Vec<usize> {
            let all = [
                "http\0a\0/",
                "https\0a\0/",
                "http\0a\0/blog/1",
                "http\0a\0/blogs",
                "http\0a:81\0/",
                "http\0ab\0/",
                "https\0a\0/blog/1?x=1",
                "http\0b\0/blog/1",
            ];
            let covered =
                |at: &usize| what.covers(all[*at].as_bytes(), |tag| tag == "t" && *at == 5);
            (0..all.len()).filter(covered).collect()
        };
        assert_eq!(keys(&page("a", "/")), [0, 1]);
        assert_eq!(keys(&page("a", "/blog/1")), [2]);
        assert_eq!(keys(&What::below("http://a/blog/*").unwrap()), [2, 6]);
        assert_eq!(keys(&What::below("https://a/blog").unwrap()), [2, 3, 6]);
        assert_eq!(keys(&What::below("https://a/blog/1?x").unwrap()), [6]);
        assert_eq!(keys(&What::host("A.").unwrap()), [0, 1, 2, 3, 6]);
        assert_eq!(keys(&What::host("a:81").unwrap()), [4]);
        assert_eq!(keys(&What::All), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(keys(&What::Tag("t".into())), [5]);
        assert!(What::host("a/b").is_err() && What::below("/x").is_err());
    }

    #[test]
    fn a_prefix_is_normalised_as_paths_are() {
        let start = |url| match What::below(url).unwrap() {
            What::Prefix { start, .. } => start,
            other => panic!("{other:?}"),
        };
        assert_eq!(start("http://a/%7euser/%2e"), "/~user/%2e");
        assert_eq!(start("http://a"), "/");
        assert_eq!(start("http://a/p?a=%7e*"), "/p?a=%7e");
    }

    #[test]
    fn a_purge_means_what_was_fetched_before() {
        let epoch = Epoch::of(5, false).or(Epoch::of(7, true));
        assert_eq!(epoch.leaves(4), Standing::Gone);
        assert_eq!(epoch.leaves(5), Standing::Stale);
        assert_eq!(epoch.leaves(7), Standing::Good);
        assert_eq!(epoch.latest(), 7);
    }

    #[test]
    fn who_began_before_the_purge_may_have_what_was_fetched_before() {
        // Fetched in 4, purged in 6.
        assert!(!is_outdated(4, 6, 4));
        assert!(is_outdated(4, 6, 6));
        // It may have been purged in 5 as well.
        assert!(is_outdated(4, 6, 5));
        assert!(!is_outdated(6, 6, 9));
    }

    proptest! {
        #[test]
        fn a_page_is_covered_under_its_keys_and_below_itself(host in "[a-c]{1,3}", path in "/[a-c/]{0,6}") {
            let page = page(&host, &path);
            let below = What::below(&format!("http://{host}{path}")).unwrap();
            for key in page.keys().unwrap() {
                prop_assert!(page.covers(&key, |_| false));
                prop_assert!(below.covers(&key, |_| false));
                prop_assert!(What::host(&host).unwrap().covers(&key, |_| false));
            }
        }

        #[test]
        fn locating_never_panics(url in "\\PC{0,40}") {
            let _ = locate(&url);
            let _ = locate(&format!("http://{url}"));
        }
    }
}
