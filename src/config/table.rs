//! Which route a request takes: the most specific host, then the longest path.
//!
//! Hosts are tried from exact names over wildcards, the longest first, to any; the first that has a path for the request
//! wins, so a host's routes need not cover every path.

use crate::rules::host::without_port;

/// Hosts and paths to the numbers of routes, in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Sorted by name.
    exact: Vec<(Box<str>, Paths)>,
    /// `.example.com` for `*.example.com`, the longest first.
    below: Vec<(Box<str>, Paths)>,
    any: Paths,
}

/// The longest first.
type Paths = Vec<(Box<str>, usize)>;

impl Table {
    /// Adds a route under a host (`*.` before it means those below; none is any) and path, both normalised.
    ///
    /// # Errors
    /// The route that has this place already.
    pub fn insert(&mut self, host: Option<&str>, path: &str, route: usize) -> Result<(), usize> {
        let paths = match host.map(|host| (host, host.strip_prefix('*'))) {
            None => &mut self.any,
            Some((_, Some(suffix))) => {
                let longest = |held: &str| (suffix.len(), held).cmp(&(held.len(), suffix));
                paths_of(&mut self.below, suffix, |(held, _)| longest(held))
            }
            Some((host, None)) => paths_of(&mut self.exact, host, |(held, _)| (**held).cmp(host)),
        };
        let place = paths.binary_search_by(|(held, _)| {
            path.len().cmp(&held.len()).then_with(|| (**held).cmp(path))
        });
        match place {
            Ok(taken) => Err(paths[taken].1),
            Err(free) => {
                paths.insert(free, (path.into(), route));
                Ok(())
            }
        }
    }

    /// The route of a host, with or without a port, and a path.
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        if self.exact.is_empty() && self.below.is_empty() {
            return longest(&self.any, path);
        }
        let host = without_port(host);
        let exact = self.exact.binary_search_by(|(held, _)| (**held).cmp(host));
        let exact = exact.ok().map(|at| &self.exact[at].1);
        let below = self
            .below
            .iter()
            .filter(|(suffix, _)| host.ends_with(&**suffix));
        exact
            .into_iter()
            .chain(below.map(|(_, paths)| paths))
            .chain([&self.any])
            .find_map(|paths| longest(paths, path))
    }

    /// Host (none is empty), path and route of every place, in the order in which they are tried.
    pub fn order(&self) -> impl Iterator<Item = (String, &str, usize)> {
        let exact = self
            .exact
            .iter()
            .map(|(host, paths)| (host.to_string(), paths));
        let below = self
            .below
            .iter()
            .map(|(suffix, paths)| (format!("*{suffix}"), paths));
        exact
            .chain(below)
            .chain([(String::new(), &self.any)])
            .flat_map(|(host, paths)| {
                paths
                    .iter()
                    .map(move |(path, route)| (host.clone(), &**path, *route))
            })
    }
}

/// Whether `path` is at `prefix` or below it.
///
/// `/account` ends where a segment may: before `/`, and before `;` and `%`, behind which some apps see no more than
/// parameters or a slash. So `/account;x.css` and `/account%2fx.css` have the route of `/account`, not that of `/`.
fn is_below(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        None => false,
        Some(rest) => {
            prefix.ends_with('/')
                || matches!(rest.as_bytes().first(), None | Some(b'/' | b';' | b'%'))
        }
    }
}

fn longest(paths: &Paths, path: &str) -> Option<usize> {
    paths
        .iter()
        .find(|(prefix, _)| is_below(path, prefix))
        .map(|(_, route)| *route)
}

fn paths_of<'a>(
    hosts: &'a mut Vec<(Box<str>, Paths)>,
    host: &str,
    order: impl FnMut(&(Box<str>, Paths)) -> std::cmp::Ordering,
) -> &'a mut Paths {
    let at = hosts.binary_search_by(order).unwrap_or_else(|free| {
        hosts.insert(free, (host.into(), Paths::new()));
        free
    });
    &mut hosts[at].1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(places: &[(&str, &str)]) -> Table {
        let mut table = Table::default();
        for (route, (host, path)) in places.iter().enumerate() {
            let host = Some(*host).filter(|host| *host != "*");
            assert_eq!(table.insert(host, path, route), Ok(()));
        }
        table
    }

    #[test]
    fn the_most_specific_host_then_the_longest_path() {
        let table = table(&[
            ("*", "/"),
            ("*.example.com", "/"),
            ("*.shop.example.com", "/"),
            ("www.example.com", "/blog"),
            ("www.example.com", "/blog/feed"),
            ("*.example.com", "/blog"),
            ("*", "/static"),
        ]);
        for (host, path, route) in [
            ("www.example.com", "/blog/feed.xml", 3),
            ("www.example.com", "/blog/feed/x", 4),
            ("www.example.com:8080", "/blog", 3),
            ("www.example.com", "/", 1),
            ("www.example.com", "/static/a.css", 1),
            ("a.shop.example.com", "/blog", 2),
            ("b.example.com", "/blog/x", 5),
            ("example.com", "/blog", 0),
            ("", "/static/a.css", 6),
            ("[::1]:80", "/", 0),
        ] {
            assert_eq!(table.find(host, path), Some(route), "{host}{path}");
        }
    }

    #[test]
    fn the_order_shown_is_the_order_tried() {
        let table = table(&[
            ("*", "/"),
            ("*.a.example", "/"),
            ("b.example", "/"),
            ("b.example", "/x"),
            ("*.c.a.example", "/"),
        ]);
        let order: Vec<_> = table.order().map(|(_, _, route)| route).collect();
        assert_eq!(order, [3, 2, 4, 1, 0]);
    }

    #[test]
    fn c34_a_path_ends_where_an_app_may_see_its_end() {
        for (path, is) in [
            ("/account", true),
            ("/account/", true),
            ("/account/x.css", true),
            ("/account;x.css", true),
            ("/account%2fx.css", true),
            ("/account%00.css", true),
            ("/accounts", false),
            ("/account.css", false),
            ("/", false),
        ] {
            assert_eq!(is_below(path, "/account"), is, "{path}");
        }
        assert!(is_below("/a/b", "/a/") && !is_below("/a", "/a/"));
    }

    #[test]
    fn a_place_is_taken_once() {
        let mut table = table(&[("a.example", "/x"), ("*", "/x"), ("*.a.example", "/x")]);
        for (host, route) in [(Some("a.example"), 0), (None, 1), (Some("*.a.example"), 2)] {
            assert_eq!(table.insert(host, "/x", 9), Err(route));
        }
    }

    proptest! {
        /// Whatever the order of the file, the answer is the one that trying every place would give.
        #[test]
        fn agrees_with_trying_every_place(
            places in proptest::collection::btree_set(("(\\*|(\\*\\.)?[ab](\\.[ab])?)", "/[ab]{0,2}(/[ab])?/?"), 0..12),
            host in "[ab](\\.[ab]){0,2}",
            path in "/[ab]{0,2}(/[ab]){0,2}",
        ) {
            let places: Vec<_> = places.iter().map(|(host, path)| (host.as_str(), path.as_str())).collect();
            let rank = |at: &usize| {
                let (pattern, prefix) = places[*at];
                let hosts = match pattern.strip_prefix('*') {
                    Some("") => (0, 0),
                    Some(suffix) => (1, suffix.len()),
                    None => (2, 0),
                };
                (hosts, prefix.len())
            };
            let fits = |at: &usize| {
                let (pattern, prefix) = places[*at];
                let host_fits = match pattern.strip_prefix('*') {
                    Some(suffix) => host.ends_with(suffix),
                    None => host == pattern,
                };
                host_fits && is_below(&path, prefix)
            };
            let best = (0..places.len()).filter(fits).max_by_key(rank);
            prop_assert_eq!(table(&places).find(&host, &path), best);
        }
    }
}
