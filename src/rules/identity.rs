//! Who may share: whether a request is one of a crowd or somebody's own.
//!
//! A wrong "anonymous" cannot leak: an anonymous request is fetched without its cookies, so the
//! worst that follows from a cookie wrongly called harmless is that its owner sees the page for
//! strangers.

/// Whether a request carries credentials: `Authorization`, or a cookie that its route doesn't call
/// harmless.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// One of the crowd: fetched without cookies.
    Anonymous,
    /// Somebody: shares only what the origin itself calls shared.
    Identified,
}

/// What names of the proxy's own cookies begin with, the last over TLS alone. They identify nobody and never reach an
/// origin.
pub const OWN_PREFIXES: [&str; 2] = ["tidegate_", "__Host-tidegate-"];

/// Cookies that scripts set for measuring and advertising, which pages are not made from.
pub const ANALYTICS: &[&str] = &[
    // Google Analytics, Ads and Publisher Tags
    "_ga",
    "_ga_*",
    "_gid",
    "_gat",
    "_gat_*",
    "_gac_*",
    "_gcl_*",
    "__utm*",
    "__gads",
    "__gpi",
    "__gsas",
    "__eoi",
    // Meta, Microsoft, X, TikTok, Pinterest, Reddit, Snap, LinkedIn
    "_fbp",
    "_fbc",
    "_uetsid",
    "_uetvid",
    "_uetmsclkid",
    "_clck",
    "_clsk",
    "_twclid",
    "_ttp",
    "_pin_unauth",
    "_rdt_uuid",
    "_scid",
    "_scid_r",
    "li_fat_id",
    // Matomo, Hotjar, Yandex Metrica, HubSpot, Quantcast, Parse.ly, Chartbeat
    "_pk_*",
    "_hj*",
    "_ym_*",
    "__hstc",
    "__hssc",
    "__hssrc",
    "hubspotutk",
    "__qca",
    "_parsely_*",
    "_cb",
    "_cb_ls",
    "_cb_svref",
    "_chartbeat*",
    // what a CDN in front sets for itself
    "__cf_bm",
    "_cfuvid",
];

/// Whether a field beside Authorization and Cookie says who asks: API keys and tokens that apps read by custom.
pub fn is_credential(name: &str) -> bool {
    // most fields of most requests are told by their length
    match name.len() {
        7 => name.eq_ignore_ascii_case("api-key") || name.eq_ignore_ascii_case("x-token"),
        9 => name.eq_ignore_ascii_case("x-api-key"),
        12 => [
            "x-auth-token",
            "x-csrf-token",
            "x-session-id",
            "x-user-token",
        ]
        .iter()
        .any(|n| name.eq_ignore_ascii_case(n)),
        13 => name.eq_ignore_ascii_case("authorization"),
        14 => name.eq_ignore_ascii_case("x-access-token"),
        15 => name.eq_ignore_ascii_case("x-authorization"),
        20 => name.eq_ignore_ascii_case("x-amz-security-token"),
        _ => false,
    }
}

/// Reads the class of a request: `cookies` are the values of its Cookie lines.
pub fn class<'a>(
    authorization: bool,
    cookies: impl IntoIterator<Item = &'a [u8]>,
    harmless: &Harmless,
) -> Class {
    if authorization {
        return Class::Identified;
    }
    for line in cookies {
        if !pairs(line).all(|pair| pair.name.is_some_and(|name| harmless.covers(name))) {
            return Class::Identified;
        }
    }
    Class::Anonymous
}

/// One cookie of a Cookie line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair<'a> {
    /// The name; none if there is no `=`: a nameless cookie may mean anything to the app.
    pub name: Option<&'a [u8]>,
    /// The pair as it stands, without the spaces around it.
    pub whole: &'a [u8],
}

impl<'a> Pair<'a> {
    /// The value, if the cookie is called so.
    pub fn value_of(&self, name: &[u8]) -> Option<&'a [u8]> {
        let at = self.whole.iter().position(|&b| b == b'=')?;
        (self.name == Some(name)).then(|| self.whole[at + 1..].trim_ascii_start())
    }

    /// Whether the proxy set this cookie itself.
    pub fn is_own(&self) -> bool {
        let is_of = |name: &[u8]| {
            OWN_PREFIXES
                .iter()
                .any(|own| name.starts_with(own.as_bytes()))
        };
        self.name.is_some_and(is_of)
    }
}

/// The cookies of one Cookie line (RFC 6265 §4.2.1), empty ones left out.
pub fn pairs(line: &[u8]) -> impl Iterator<Item = Pair<'_>> {
    line.split(|&b| b == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|whole| !whole.is_empty())
        .map(|whole| {
            let name = whole
                .iter()
                .position(|&b| b == b'=')
                .map(|at| whole[..at].trim_ascii_end());
            Pair { name, whole }
        })
}

/// The cookies a route calls harmless: exact names and `prefix*` patterns, with regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harmless {
    /// Sorted, so that the few with a name's first byte stand together.
    patterns: Box<[Pattern]>,
    every: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern {
    text: Box<[u8]>,
    prefix: bool,
}

/// A cookie pattern that could never match as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPattern {
    /// The pattern as written.
    pub pattern: String,
    /// What is wrong with it, in a few words.
    pub why: &'static str,
}

impl std::fmt::Display for BadPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cookie pattern {:?}: {}", self.pattern, self.why)
    }
}

impl Default for Harmless {
    /// [`ANALYTICS`] and the proxy's own.
    fn default() -> Self {
        Harmless::of(ANALYTICS.iter().map(|p| Pattern::new(p)))
    }
}

impl Harmless {
    /// The default list and `extra` patterns: names, or prefixes that end in `*`; `*` alone is
    /// every named cookie.
    ///
    /// # Errors
    /// The first pattern that is empty, has a `*` before its end, or a byte no cookie name can
    /// have.
    pub fn with<S: AsRef<str>>(extra: &[S]) -> Result<Harmless, BadPattern> {
        for pattern in extra.iter().map(AsRef::as_ref) {
            if let Some(why) = fault(pattern) {
                return Err(BadPattern {
                    pattern: pattern.to_owned(),
                    why,
                });
            }
        }
        let extra = extra.iter().map(|p| Pattern::new(p.as_ref()));
        Ok(Harmless::of(
            ANALYTICS.iter().map(|p| Pattern::new(p)).chain(extra),
        ))
    }

    /// Whether a cookie of this name says nothing about who asks.
    pub fn covers(&self, name: &[u8]) -> bool {
        let Some(&first) = name.first() else {
            return false;
        };
        if self.every {
            return true;
        }
        let from = self.patterns.partition_point(|p| p.text[0] < first);
        self.patterns[from..]
            .iter()
            .take_while(|p| p.text[0] == first)
            .any(|p| p.matches(name))
    }

    fn of(patterns: impl Iterator<Item = Pattern>) -> Harmless {
        let own = OWN_PREFIXES.map(|own| Pattern {
            text: own.as_bytes().into(),
            prefix: true,
        });
        let (empty, mut patterns): (Vec<_>, Vec<_>) =
            patterns.chain(own).partition(|p| p.text.is_empty());
        patterns.sort();
        patterns.dedup();
        Harmless {
            patterns: patterns.into(),
            every: !empty.is_empty(),
        }
    }
}

impl Pattern {
    fn new(pattern: &str) -> Pattern {
        let (text, prefix) = pattern
            .strip_suffix('*')
            .map_or((pattern, false), |text| (text, true));
        Pattern {
            text: text.as_bytes().into(),
            prefix,
        }
    }

    fn matches(&self, name: &[u8]) -> bool {
        if self.prefix {
            name.starts_with(&self.text)
        } else {
            *name == *self.text
        }
    }
}

fn fault(pattern: &str) -> Option<&'static str> {
    let text = pattern.strip_suffix('*').unwrap_or(pattern);
    if pattern.is_empty() {
        Some("is empty")
    } else if text.contains('*') {
        Some("may have a * only at its end")
    } else if text
        .bytes()
        .any(|b| !b.is_ascii_graphic() || matches!(b, b'=' | b';' | b',' | b'"'))
    {
        Some("has a character that no cookie name has")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(lines: &[&str]) -> Class {
        class(
            false,
            lines.iter().map(|l| l.as_bytes()),
            &Harmless::default(),
        )
    }

    #[test]
    fn share_authorization_identifies() {
        assert_eq!(class(true, [], &Harmless::default()), Class::Identified);
        assert_eq!(class(false, [], &Harmless::default()), Class::Anonymous);
    }

    #[test]
    fn share_cookies_identify_unless_harmless() {
        for (lines, expected) in [
            (&["session=1"][..], Class::Identified),
            (&["_ga=GA1.2.3"], Class::Anonymous),
            (&["_ga=1; _ga_ABC=2;_gid=3 ; __utmz=4"], Class::Anonymous),
            (&["_ga=1; session=2"], Class::Identified),
            (&["_ga=1", "session=2"], Class::Identified),
            (&["_gax=1"], Class::Identified),
            (&["_GA=1"], Class::Identified),
            (&[""], Class::Anonymous),
            (&[" ; ;"], Class::Anonymous),
            (&["_ga = 1"], Class::Anonymous),
        ] {
            assert_eq!(of(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn share_a_nameless_cookie_identifies() {
        assert_eq!(of(&["_ga"]), Class::Identified);
        assert_eq!(of(&["=x"]), Class::Identified);
        let every = Harmless::with(&["*"]).unwrap();
        assert_eq!(class(false, [&b"=x"[..]], &every), Class::Identified);
    }

    #[test]
    fn share_own_cookies_identify_nobody() {
        assert_eq!(of(&["tidegate_visit=abc"]), Class::Anonymous);
        assert_eq!(of(&["__Host-tidegate-pass=abc"]), Class::Anonymous);
        assert_eq!(of(&["__Host-sid=abc"]), Class::Identified);
        assert!(pairs(b"a=1; tidegate_visit=2").nth(1).unwrap().is_own());
    }

    #[test]
    fn share_a_route_adds_names_and_prefixes() {
        let harmless = Harmless::with(&["theme", "ab_*"]).unwrap();
        for (name, expected) in [
            ("theme", true),
            ("themes", false),
            ("ab_", true),
            ("ab_test", true),
            ("ab", false),
            ("_ga", true),
        ] {
            assert_eq!(harmless.covers(name.as_bytes()), expected, "{name}");
        }
        assert!(Harmless::with(&["*"]).unwrap().covers(b"session"));
    }

    #[test]
    fn share_a_pattern_that_cannot_match_is_refused() {
        for pattern in ["", "a*b", "a=b", "a b", "a;b", "é"] {
            assert_eq!(Harmless::with(&[pattern]).unwrap_err().pattern, pattern);
        }
    }

    proptest! {
        /// The narrowed search agrees with trying every pattern.
        #[test]
        fn share_covers_is_what_its_patterns_say(name in "[_a-g]{0,6}", patterns in proptest::collection::vec("[_a-g]{1,4}\\*?", 0..8)) {
            let plain = OWN_PREFIXES.iter().any(|own| name.starts_with(own)) || ANALYTICS.iter().copied().chain(patterns.iter().map(String::as_str))
                .any(|p| p.strip_suffix('*').map_or(p == name, |prefix| name.starts_with(prefix)));
            prop_assert_eq!(Harmless::with(&patterns).unwrap().covers(name.as_bytes()), plain && !name.is_empty());
        }

        /// Another cookie never makes a request less identified.
        #[test]
        fn share_more_cookies_never_hide_one(before in "[ -~]{0,30}", after in "[ -~]{0,30}") {
            let line = format!("{before};session=1;{after}");
            prop_assert_eq!(of(&[line.as_str()]), Class::Identified);
        }
    }
}
