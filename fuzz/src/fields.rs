//! Field parsers: whatever the lines say, nothing is read out of bounds, order and letter case do not count where they
//! should not, and what forbids is heard. The input is `Name: value` lines, read as a request's and as an answer's.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tidegate::rules::cache_control::{MAX_SECONDS, RequestDirectives, ResponseDirectives};
use tidegate::rules::conditional::{Outcome, Validators, evaluate, strong, weak};
use tidegate::rules::date;
use tidegate::rules::identity::{self, Class, Harmless};
use tidegate::rules::range::{MAX_RANGES, Ranges, content_range, if_range, resolve};
use tidegate::rules::storing::{Asked, Audience, Method, StoreTerms, Terms, Verdict, judge};
use tidegate::rules::targeted::{self, From};
use tidegate::rules::time::{Moment, Now};
use tidegate::rules::vary::{self, AsSent, Codings, MAX_NAMES, Vary};

/// 2026-11-27.
const WALL: u64 = 1_795_737_600;

pub fn run(data: &[u8]) {
    let fields = super::header_map(data);
    cache_control(&fields);
    vary_names(&fields);
    stored(&fields);
    conditions(&fields);
    class(&fields);
    for value in fields.values().map(HeaderValue::as_bytes) {
        ranges(value);
        dates(value);
    }
}

fn cache_control(fields: &HeaderMap) {
    let lines: Vec<&[u8]> = fields
        .get_all("cache-control")
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let read = ResponseDirectives::parse(lines.iter().copied());
    bounded(&read);
    assert!(read.known || read == ResponseDirectives::default());
    assert_eq!(
        ResponseDirectives::parse(lines.iter().rev().copied()),
        read,
        "order counts"
    );
    let upper: Vec<_> = lines.iter().map(|line| line.to_ascii_uppercase()).collect();
    assert_eq!(
        ResponseDirectives::parse(upper.iter().map(Vec::as_slice)),
        read,
        "letter case counts"
    );
    for (more, heard) in [
        (
            &b"no-store"[..],
            ResponseDirectives {
                no_store: true,
                known: true,
                ..read
            },
        ),
        (
            b"private",
            ResponseDirectives {
                private: true,
                known: true,
                ..read
            },
        ),
        (
            b"max-age=0",
            ResponseDirectives {
                max_age: Some(0),
                known: true,
                ..read
            },
        ),
        (b"unknown", read),
    ] {
        assert_eq!(
            ResponseDirectives::parse(lines.iter().copied().chain([more])),
            heard
        );
    }
    let policy = targeted::policy(fields);
    bounded(&policy.directives);
    if !policy.is_targeted() {
        let pragma = ResponseDirectives {
            no_cache: policy.directives.no_cache,
            ..read
        };
        assert_eq!(policy.directives, pragma);
    }
    let asked = RequestDirectives::of(fields);
    for figure in [asked.max_age, asked.max_stale, asked.min_fresh] {
        assert!(figure <= Some(MAX_SECONDS));
    }
}

fn bounded(read: &ResponseDirectives) {
    for figure in [
        read.max_age,
        read.s_maxage,
        read.stale_if_error,
        read.stale_while_revalidate,
    ] {
        assert!(figure <= Some(MAX_SECONDS));
    }
}

fn vary_names(fields: &HeaderMap) {
    let read = vary::of(fields);
    let names = read.names();
    assert!(names.len() <= MAX_NAMES && names.is_sorted_by(|a, b| a.as_str() < b.as_str()));
    let mut again = HeaderMap::new();
    for name in names.iter().rev() {
        again.append(
            "vary",
            HeaderValue::from_str(name.as_str()).expect("a token"),
        );
    }
    assert!(read == Vary::Star || vary::of(&again) == read);
    // By all names that are there: a length and so many bytes for each, and nothing else.
    let all: Vec<HeaderName> = fields.keys().cloned().collect();
    let sent = AsSent {
        class: Class::Identified,
        codings: Codings::of(fields),
        client: None,
    };
    let mut selected = Vec::new();
    vary::select(&all, fields, &sent, &mut selected);
    let mut rest = selected.as_slice();
    for _ in &all {
        let (length, behind) = rest.split_first_chunk::<4>().expect("a length");
        let length = u32::from_le_bytes(*length);
        rest = &behind[if length == u32::MAX {
            0
        } else {
            length as usize
        }..];
    }
    assert!(rest.is_empty());
    let mut once = HeaderMap::new();
    let codings = Codings::of(fields);
    once.insert(
        "accept-encoding",
        HeaderValue::from_static(codings.as_str()),
    );
    assert_eq!(Codings::of(&once), codings);
}

/// What the answer with these fields is stored as, if it is.
fn store(fields: &HeaderMap, class: Class) -> Option<Terms> {
    let asked = Asked {
        method: Method::Get,
        body: false,
        class,
        authorization: false,
        head_bytes: 100,
        method_override: false,
        no_store: false,
    };
    let route = StoreTerms {
        default_ttl: Some(Duration::from_secs(10)),
        ..StoreTerms::default()
    };
    let now = Now {
        mono: Moment(1_000_000),
        wall: WALL,
    };
    match judge(&asked, 200, fields, &route, now, Duration::from_millis(20)) {
        Verdict::Store(terms) => Some(terms),
        Verdict::Refuse(refusal) => {
            assert!(!refusal.why().is_empty());
            None
        }
    }
}

fn stored(fields: &HeaderMap) {
    let policy = targeted::policy(fields);
    let anonymous = store(fields, Class::Anonymous);
    if let Some(terms) = &anonymous {
        // must-understand takes the place of no-store where the status is understood (RFC 9111 §5.2.2.3).
        assert!(!policy.directives.no_store || policy.directives.must_understand);
        assert!(!policy.directives.private);
        assert!(!fields.contains_key("set-cookie") && terms.vary != Vary::Star);
        assert!(terms.vary == vary::of(fields));
        // An older answer is not a younger one.
        let mut older = fields.clone();
        older.insert("age", HeaderValue::from_static("1000"));
        if let Some(older) = store(&older, Class::Anonymous) {
            assert!(older.initial_age >= Duration::from_secs(1000));
        }
    }
    if let Some(terms) = store(fields, Class::Identified) {
        assert_eq!(terms.audience, Audience::Everyone);
        // Somebody's own is kept no longer than anybody's.
        let shared = anonymous.expect("what may be kept of somebody may be kept");
        assert_eq!(
            (terms.lifetime, terms.initial_age),
            (shared.lifetime, shared.initial_age)
        );
        assert!(terms.swr <= shared.swr && terms.sie <= shared.sie);
    }
    if policy.from == From::CacheControl {
        let mut forbidden = fields.clone();
        forbidden.append("cache-control", HeaderValue::from_static("private"));
        assert_eq!(store(&forbidden, Class::Anonymous), None);
    }
}

fn conditions(fields: &HeaderMap) {
    let stored = Validators::of(fields);
    assert_eq!(evaluate(fields, 404, &stored, WALL), Outcome::Serve);
    evaluate(fields, 200, &stored, WALL);
    let mut any = HeaderMap::new();
    any.insert("if-none-match", HeaderValue::from_static("*"));
    assert_eq!(evaluate(&any, 200, &stored, WALL), Outcome::NotModified);
    let tag = stored.etag.unwrap_or_default();
    if weak(tag, tag) {
        let mut same = HeaderMap::new();
        same.insert("if-none-match", fields["etag"].clone());
        assert_eq!(evaluate(&same, 200, &stored, WALL), Outcome::NotModified);
    }
    for other in fields.values().map(HeaderValue::as_bytes) {
        assert_eq!(weak(tag, other), weak(other, tag));
        assert_eq!(strong(tag, other), strong(other, tag));
        assert!(!strong(tag, other) || weak(tag, other));
        // A range goes on only with an answer that is the very same.
        let tagged = other.contains(&b'"') && if_range(other, &stored, WALL);
        assert!(!tagged || strong(other, tag));
    }
}

fn class(fields: &HeaderMap) {
    let lines: Vec<&[u8]> = fields
        .get_all("cookie")
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let harmless = Harmless::default();
    let read = |lines: &[&[u8]]| identity::class(false, lines.iter().copied(), &harmless);
    let class = read(&lines);
    let parts: Vec<&[u8]> = lines
        .iter()
        .flat_map(|line| line.split(|&b| b == b';'))
        .collect();
    assert_eq!(
        read(&parts),
        class,
        "a line for each cookie is another class"
    );
    assert_eq!(
        read(&[lines.as_slice(), &[b"session=1"]].concat()),
        Class::Identified
    );
    assert_eq!(read(&[lines.as_slice(), &[b"_ga=1"]].concat()), class);
    assert_eq!(identity::class(true, lines, &harmless), Class::Identified);
}

fn ranges(value: &[u8]) {
    for size in [0, 1, 10, 1_000, u64::MAX] {
        let found = match resolve(value, size) {
            Ranges::Whole | Ranges::Unsatisfiable => continue,
            Ranges::Single(range) => vec![range],
            Ranges::Multi(ranges) => ranges,
        };
        assert!((1..=MAX_RANGES).contains(&found.len()));
        let mut sorted = found.clone();
        sorted.sort_by_key(|range| range.start);
        assert!(
            sorted.windows(2).all(|two| two[0].end <= two[1].start),
            "bytes twice"
        );
        for range in found {
            assert!(range.start < range.end && range.end <= size);
            let mut told = Vec::new();
            content_range(&range, size, &mut told);
            assert_eq!(
                told,
                format!("bytes {}-{}/{size}", range.start, range.end - 1).into_bytes()
            );
        }
    }
}

fn dates(value: &[u8]) {
    if let Some(seconds) = date::parse(value, WALL) {
        let told = date::format(seconds);
        assert_eq!(
            date::parse(&told, WALL),
            Some(seconds),
            "{}",
            value.escape_ascii()
        );
    }
}
