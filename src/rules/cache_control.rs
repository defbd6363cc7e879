//! Cache-Control and Pragma, read the strict way (RFC 9111 §5.2, §5.4; RFC 5861; RFC 8246).
//!
//! Names without regard to case, unknown ones skipped; of figures that stand twice the smallest
//! counts, junk is 0 and what overflows is [`MAX_SECONDS`]; a directive that forbids counts
//! whatever its argument.

use super::fields::Fields;

/// The longest time that is told apart, in seconds (RFC 9111 §1.2.2).
pub const MAX_SECONDS: u64 = 1 << 31;

/// What an answer says of its own caching. Times in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResponseDirectives {
    /// §5.2.2.5
    pub no_store: bool,
    /// §5.2.2.7; the form with field names counts as the whole.
    pub private: bool,
    /// §5.2.2.4; the form with field names counts as the whole.
    pub no_cache: bool,
    /// §5.2.2.9
    pub public: bool,
    /// §5.2.2.2
    pub must_revalidate: bool,
    /// §5.2.2.8
    pub proxy_revalidate: bool,
    /// §5.2.2.3
    pub must_understand: bool,
    /// §5.2.2.6
    pub no_transform: bool,
    /// RFC 8246
    pub immutable: bool,
    /// §5.2.2.1
    pub max_age: Option<u64>,
    /// §5.2.2.10
    pub s_maxage: Option<u64>,
    /// RFC 5861 §3
    pub stale_while_revalidate: Option<u64>,
    /// RFC 5861 §4
    pub stale_if_error: Option<u64>,
    /// Whether any of the above stood, with whatever argument.
    pub known: bool,
}

impl ResponseDirectives {
    /// Reads the values of all Cache-Control lines of an answer.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> ResponseDirectives {
        let mut read = ResponseDirectives::default();
        for directive in lines.into_iter().flat_map(Directives::of) {
            read.take(&directive);
        }
        read
    }

    fn take(&mut self, directive: &Directive<'_>) {
        let name = directive.name;
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            6 if is("public") => self.public = true,
            7 if is("private") => self.private = true,
            7 if is("max-age") => self.max_age = least(self.max_age, directive),
            8 if is("no-store") => self.no_store = true,
            8 if is("no-cache") => self.no_cache = true,
            8 if is("s-maxage") => self.s_maxage = least(self.s_maxage, directive),
            9 if is("immutable") => self.immutable = true,
            12 if is("no-transform") => self.no_transform = true,
            14 if is("stale-if-error") => {
                self.stale_if_error = least(self.stale_if_error, directive)
            }
            15 if is("must-revalidate") => self.must_revalidate = true,
            15 if is("must-understand") => self.must_understand = true,
            16 if is("proxy-revalidate") => self.proxy_revalidate = true,
            22 if is("stale-while-revalidate") => {
                self.stale_while_revalidate = least(self.stale_while_revalidate, directive);
            }
            _ => return,
        }
        self.known = true;
    }
}

/// What a request asks of caches (§5.2.1). Times in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RequestDirectives {
    /// §5.2.1.4, or `Pragma: no-cache` where no Cache-Control stands (§5.4).
    pub no_cache: bool,
    /// §5.2.1.5
    pub no_store: bool,
    /// §5.2.1.7
    pub only_if_cached: bool,
    /// §5.2.1.1
    pub max_age: Option<u64>,
    /// §5.2.1.3; of several the largest, which is the strict way here.
    pub min_fresh: Option<u64>,
    /// §5.2.1.2; without a figure any staleness will do.
    pub max_stale: Option<u64>,
    /// §5.2.1.6
    pub no_transform: bool,
}

impl RequestDirectives {
    /// Reads Cache-Control and Pragma of a request.
    pub fn of(request: &dyn Fields) -> RequestDirectives {
        let mut read = RequestDirectives::default();
        let mut stands = false;
        request.each_named("cache-control", &mut |line| {
            for directive in Directives::of(line) {
                stands = true;
                read.take(&directive);
            }
        });
        if !stands {
            request.each_named("pragma", &mut |line| {
                read.no_cache |= pragma_says_no_cache(line)
            });
        }
        read
    }

    fn take(&mut self, directive: &Directive<'_>) {
        let name = directive.name;
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            7 if is("max-age") => self.max_age = least(self.max_age, directive),
            8 if is("no-cache") => self.no_cache = true,
            8 if is("no-store") => self.no_store = true,
            9 if is("min-fresh") => {
                // junk asks for nothing that can be had
                let asked = directive.number().unwrap_or(MAX_SECONDS);
                self.min_fresh = Some(self.min_fresh.map_or(asked, |other| other.max(asked)));
            }
            9 if is("max-stale") && directive.argument == Argument::None => {
                self.max_stale = Some(self.max_stale.unwrap_or(MAX_SECONDS));
            }
            9 if is("max-stale") => self.max_stale = least(self.max_stale, directive),
            12 if is("no-transform") => self.no_transform = true,
            14 if is("only-if-cached") => self.only_if_cached = true,
            _ => {}
        }
    }
}

/// Whether one Pragma line holds `no-cache` (§5.4).
pub fn pragma_says_no_cache(line: &[u8]) -> bool {
    Directives::of(line).any(|d| d.name.eq_ignore_ascii_case(b"no-cache"))
}

/// Reads delta-seconds (§1.2.2): digits only, at most [`MAX_SECONDS`].
pub fn delta_seconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0, |n: u64, d| {
        d.is_ascii_digit()
            .then(|| (n * 10 + u64::from(d - b'0')).min(MAX_SECONDS))
    })
}

fn least(known: Option<u64>, directive: &Directive<'_>) -> Option<u64> {
    let new = directive.number().unwrap_or(0);
    Some(known.map_or(new, |known| known.min(new)))
}

/// One `name[=argument]` of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Directive<'a> {
    name: &'a [u8],
    argument: Argument<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Argument<'a> {
    None,
    /// A token, or what stands between the quotes.
    Value(&'a [u8]),
    /// Space around the `=`, or a quote that does not end the value.
    Junk,
}

impl Directive<'_> {
    fn number(&self) -> Option<u64> {
        match self.argument {
            Argument::Value(value) => delta_seconds(value),
            Argument::None | Argument::Junk => None,
        }
    }
}

/// Walks the members of one line. Commas in a quoted argument do not part; a quote that is never
/// closed is no quote, so that nothing can hide behind it.
struct Directives<'a> {
    rest: &'a [u8],
    unclosed: bool,
}

impl<'a> Directives<'a> {
    fn of(line: &'a [u8]) -> Directives<'a> {
        Directives {
            rest: line,
            unclosed: false,
        }
    }

    /// Where the quoted string that opens at `open` ends, if it does.
    fn closes(&mut self, open: usize) -> Option<usize> {
        let mut at = open + 1;
        while !self.unclosed {
            match self.rest.get(at) {
                Some(b'"') => return Some(at),
                Some(b'\\') => at += 2,
                Some(_) => at += 1,
                None => self.unclosed = true,
            }
        }
        None
    }

    fn member(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let mut at = 0;
        while at < self.rest.len() && self.rest[at] != b',' {
            if self.rest[at] == b'"' && at > 0 && self.rest[at - 1] == b'=' {
                at = self.closes(at).unwrap_or(at);
            }
            at += 1;
        }
        let (member, rest) = self.rest.split_at(at.min(self.rest.len()));
        self.rest = rest.get(1..).unwrap_or_default();
        Some(member)
    }
}

impl<'a> Iterator for Directives<'a> {
    type Item = Directive<'a>;

    fn next(&mut self) -> Option<Directive<'a>> {
        loop {
            let member = self.member()?.trim_ascii();
            let directive = match member.iter().position(|&b| b == b'=') {
                None => Directive {
                    name: member,
                    argument: Argument::None,
                },
                Some(at) => Directive {
                    name: member[..at].trim_ascii_end(),
                    argument: argument(member, at),
                },
            };
            if !directive.name.is_empty() {
                return Some(directive);
            }
        }
    }
}

fn argument(member: &[u8], equals: usize) -> Argument<'_> {
    let spaced = equals > 0 && member[equals - 1].is_ascii_whitespace();
    match &member[equals + 1..] {
        _ if spaced => Argument::Junk,
        [b'"', inner @ .., b'"'] if !inner.contains(&b'"') => Argument::Value(inner),
        value if value.contains(&b'"') => Argument::Junk,
        value => Argument::Value(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> ResponseDirectives {
        ResponseDirectives::parse(lines.iter().map(|l| l.as_bytes()))
    }

    fn asked(fields: &[(&'static str, &str)]) -> RequestDirectives {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        RequestDirectives::of(&map)
    }

    #[test]
    fn rfc9111_5_2_names_without_regard_to_case() {
        let d = read(&["No-Store, PRIVATE, MAX-AGE=5, S-MaxAge=6, Must-Revalidate"]);
        assert!(d.no_store && d.private && d.must_revalidate);
        assert_eq!((d.max_age, d.s_maxage), (Some(5), Some(6)));
    }

    #[test]
    fn rfc9111_5_2_every_response_directive_is_read() {
        let d = read(&[
            "no-store, private, no-cache, public, must-revalidate, proxy-revalidate, must-understand, no-transform, immutable",
            "max-age=1, s-maxage=2, stale-while-revalidate=3, stale-if-error=4",
        ]);
        assert!(d.no_store && d.private && d.no_cache && d.public && d.must_revalidate);
        assert!(d.proxy_revalidate && d.must_understand && d.no_transform && d.immutable);
        assert_eq!((d.max_age, d.s_maxage), (Some(1), Some(2)));
        assert_eq!(
            (d.stale_while_revalidate, d.stale_if_error),
            (Some(3), Some(4))
        );
    }

    #[test]
    fn rfc9111_5_2_3_unknown_directives_are_skipped() {
        assert_eq!(
            read(&["foo, bar=1, x-no-store, no-storex, community=\"UCI\""]),
            ResponseDirectives::default()
        );
        assert_eq!(
            read(&["foo=\"no-store, private\", max-age=7"]),
            read(&["max-age=7"])
        );
        assert_eq!(
            read(&["foo=\"a\\\"b, no-store\", max-age=7"]),
            read(&["max-age=7"])
        );
    }

    #[test]
    fn rfc9111_5_2_a_quote_left_open_hides_nothing() {
        assert!(read(&["foo=\"bar, no-store"]).no_store);
        assert!(read(&["foo\"bar, no-store, x\""]).no_store);
        assert!(read(&["foo=\"bar\\\", no-store"]).no_store);
    }

    #[test]
    fn rfc9111_5_2_2_4_and_7_field_lists_count_as_the_whole() {
        assert!(read(&["private=\"set-cookie, x-user\", max-age=60"]).private);
        assert!(read(&["no-cache=\"set-cookie\", max-age=60"]).no_cache);
        assert!(read(&["no-store=1"]).no_store);
        assert!(read(&["private =x"]).private);
    }

    #[test]
    fn rfc9111_4_2_1_duplicates_the_strict_way() {
        assert_eq!(read(&["max-age=60, max-age=5"]).max_age, Some(5));
        assert_eq!(read(&["max-age=5", "max-age=60"]).max_age, Some(5));
        assert_eq!(read(&["max-age=60, max-age=junk"]).max_age, Some(0));
        assert_eq!(
            read(&["stale-if-error=9, stale-if-error=3"]).stale_if_error,
            Some(3)
        );
    }

    #[test]
    fn rfc9111_1_2_2_overflow_clamps() {
        for value in ["2147483648", "2147483649", "99999999999999999999999999"] {
            assert_eq!(
                read(&[&format!("max-age={value}")]).max_age,
                Some(MAX_SECONDS),
                "{value}"
            );
        }
    }

    #[test]
    fn rfc9111_4_2_1_junk_is_stale() {
        for value in [
            "", "-1", "+5", "5.5", "0x10", "5s", "5;6", "'5'", " 5", "\"5", "\"5\"x", "five",
            "5 5", "\"\"",
        ] {
            assert_eq!(
                read(&[&format!("max-age={value}")]).max_age,
                Some(0),
                "{value:?}"
            );
        }
        assert_eq!(read(&["max-age"]).max_age, Some(0));
        assert_eq!(read(&["max-age =5"]).max_age, Some(0));
    }

    #[test]
    fn rfc9111_5_2_token_and_quoted_arguments() {
        for value in ["60", "\"60\"", "0060", "60 ", "60\t"] {
            assert_eq!(
                read(&[&format!("max-age={value}, public")]).max_age,
                Some(60),
                "{value:?}"
            );
        }
    }

    #[test]
    fn rfc9111_5_2_1_every_request_directive_is_read() {
        let d = asked(&[
            ("cache-control", "no-cache, no-store, only-if-cached"),
            ("cache-control", "max-age=1, min-fresh=2, max-stale=3"),
        ]);
        assert!(d.no_cache && d.no_store && d.only_if_cached);
        assert_eq!(
            (d.max_age, d.min_fresh, d.max_stale),
            (Some(1), Some(2), Some(3))
        );
    }

    #[test]
    fn rfc9111_5_2_1_2_max_stale_without_a_figure() {
        assert_eq!(
            asked(&[("cache-control", "max-stale")]).max_stale,
            Some(MAX_SECONDS)
        );
        assert_eq!(
            asked(&[("cache-control", "max-stale, max-stale=4")]).max_stale,
            Some(4)
        );
        assert_eq!(
            asked(&[("cache-control", "max-stale=x")]).max_stale,
            Some(0)
        );
    }

    #[test]
    fn rfc9111_5_4_pragma_counts_only_without_cache_control() {
        assert!(asked(&[("pragma", "foo, No-Cache")]).no_cache);
        assert!(!asked(&[("pragma", "no-cache"), ("cache-control", "max-age=5")]).no_cache);
        assert!(!asked(&[("pragma", "no-cachex")]).no_cache);
    }

    fn line() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("no-store".to_owned()),
            Just("private".to_owned()),
            Just("public".to_owned()),
            "(max-age|s-maxage|stale-if-error|foo)=\"?[0-9]{0,12}\"?",
            "[ -~]{0,12}",
        ];
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.join(","))
    }

    proptest! {
        #[test]
        fn reading_never_panics(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..4)) {
            ResponseDirectives::parse(lines.iter().map(Vec::as_slice));
        }

        /// Whatever else a line holds, what forbids on a line of its own is heard.
        #[test]
        fn a_line_that_forbids_is_heard(before in line(), after in line()) {
            prop_assert!(read(&[&before, "no-store", &after]).no_store);
            prop_assert!(read(&[&before, "private", &after]).private);
        }

        /// More lines never lengthen a life.
        #[test]
        fn another_line_never_lengthens(first in line(), second in line()) {
            let (alone, both) = (read(&[&first]), read(&[&first, &second]));
            for (before, after) in [(alone.max_age, both.max_age), (alone.s_maxage, both.s_maxage), (alone.stale_if_error, both.stale_if_error)] {
                prop_assert!(before.is_none() || after <= before);
            }
            prop_assert!(both.no_store >= alone.no_store && both.private >= alone.private);
        }

        #[test]
        fn figures_stay_within_bounds(value in "[0-9]{1,40}") {
            prop_assert_eq!(delta_seconds(value.as_bytes()).unwrap(), value.parse::<u128>().unwrap_or(u128::MAX).min(u128::from(MAX_SECONDS)) as u64);
        }
    }
}
