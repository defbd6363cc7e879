use super::*;
use crate::rules::forward::{self, AcceptEncoding, Forward, Kind};
use proptest::prelude::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    map
}

fn vary(lines: &[&str]) -> Vary {
    of(&map(&lines
        .iter()
        .map(|l| ("vary", *l))
        .collect::<Vec<_>>()))
}

const SENT: AsSent = AsSent {
    class: Class::Anonymous,
    codings: Codings::IDENTITY,
    client: None,
};

fn selected(names: &str, fields: &[(&str, &str)], sent: &AsSent) -> Vec<u8> {
    let mut out = Vec::new();
    select(vary(&[names]).names(), &map(fields), sent, &mut out);
    out
}

#[test]
fn rfc9111_4_1_star_among_the_members_of_any_line() {
    for lines in [&["*"][..], &["accept, *"], &["accept", "*"], &[" * ,x"]] {
        assert_eq!(vary(lines), Vary::Star, "{lines:?}");
    }
}

#[test]
fn rfc9111_4_1_lines_are_one_list() {
    let Vary::Names(names) = vary(&["Accept-Language, X-b", "x-A,,accept-language"]) else {
        panic!("names");
    };
    assert_eq!(
        names.iter().map(HeaderName::as_str).collect::<Vec<_>>(),
        ["accept-language", "x-a", "x-b"]
    );
    assert_eq!(vary(&[]), Vary::None);
    assert_eq!(vary(&["", " , "]), Vary::None);
}

#[test]
fn rfc9111_4_1_what_cannot_be_compared_is_a_star() {
    assert_eq!(vary(&["accept language"]), Vary::Star);
    assert_eq!(vary(&["X-Request-Id"]), Vary::Star);
    let many = (0..=MAX_NAMES)
        .map(|i| format!("x-{i}"))
        .collect::<Vec<_>>()
        .join(",");
    assert_eq!(vary(&[&many]), Vary::Star);
}

#[test]
fn rfc9111_4_1_all_named_fields_have_to_match() {
    let names = "accept-language, x-kind";
    let one = selected(names, &[("accept-language", "en"), ("x-kind", "a")], &SENT);
    assert_eq!(
        one,
        selected(
            names,
            &[("x-kind", "a"), ("accept-language", "en"), ("x-other", "1")],
            &SENT
        )
    );
    assert_ne!(
        one,
        selected(names, &[("accept-language", "en"), ("x-kind", "b")], &SENT)
    );
    assert_ne!(one, selected(names, &[("accept-language", "en")], &SENT));
}

#[test]
fn rfc9111_4_1_absent_matches_only_absent() {
    assert_ne!(
        selected("x-kind", &[("x-kind", "")], &SENT),
        selected("x-kind", &[], &SENT)
    );
    assert_eq!(
        selected("x-kind", &[], &SENT),
        selected("x-kind", &[("x-other", "")], &SENT)
    );
}

#[test]
fn rfc9111_4_1_whitespace_and_lines_normalised_in_lists() {
    let one = selected(
        "accept-language",
        &[("accept-language", "en, de;q=0.5")],
        &SENT,
    );
    assert_eq!(
        one,
        selected(
            "accept-language",
            &[
                ("accept-language", "EN"),
                ("accept-language", " de; q=0.5,")
            ],
            &SENT
        )
    );
    assert_ne!(
        one,
        selected(
            "accept-language",
            &[("accept-language", "de;q=0.5, en")],
            &SENT
        )
    );
}

#[test]
fn rfc9111_4_1_other_fields_to_the_byte() {
    let one = selected("x-kind", &[("x-kind", "a, b")], &SENT);
    assert_eq!(
        one,
        selected("x-kind", &[("x-kind", "a"), ("x-kind", "b")], &SENT)
    );
    assert_ne!(one, selected("x-kind", &[("x-kind", "A, b")], &SENT));
    assert_ne!(one, selected("x-kind", &[("x-kind", "a,b")], &SENT));
}

#[test]
fn variants_follow_what_the_origin_gets_of_cookies() {
    let identified = AsSent {
        class: Class::Identified,
        ..SENT
    };
    assert_eq!(
        selected("cookie", &[("cookie", "_ga=1")], &SENT),
        selected("cookie", &[], &SENT)
    );
    let one = selected("cookie", &[("cookie", "session=1; theme=x")], &identified);
    assert_eq!(
        one,
        selected(
            "cookie",
            &[("cookie", "tidegate_a=1;session=1"), ("cookie", "theme=x")],
            &identified
        )
    );
    assert_ne!(
        one,
        selected("cookie", &[("cookie", "session=2; theme=x")], &identified)
    );
}

#[test]
fn variants_ignore_fields_no_fetch_sends() {
    for name in [
        "Range",
        "If-None-Match",
        "Cache-Control",
        "X-Forwarded-Host",
        "X-Original-URL",
        "Host",
        "X-HTTP-Method-Override",
    ] {
        assert_eq!(
            selected(name, &[(name, "a")], &SENT),
            selected(name, &[], &SENT),
            "{name}"
        );
    }
}

/// What the origin would not get, or gets from us, chooses nothing; what it does get, chooses.
#[test]
fn variants_choose_by_what_a_fetch_forwards() {
    let how = Forward {
        class: Class::Anonymous,
        kind: Kind::Shared,
        scheme: "http",
        host_as_keyed: "a.example",
        upstream_host: None,
        accept_encoding: AcceptEncoding::Identity,
        client: None,
        proxies: &[],
        via_version: "1.1",
        cdn_id: "us",
        request_id: "1",
        traceparent: "2",
        upgrade: false,
        own_cookies: &[],
        forwarded: false,
    };
    let kept = [
        "accept",
        "accept-language",
        "user-agent",
        "origin",
        "referer",
        "via",
        "cdn-loop",
        "dnt",
        "x-kind",
        "sec-ch-ua",
        "save-data",
    ];
    let gone = [
        "cookie",
        "accept-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "proxy-authorization",
        "x-forwarded-for",
        "X_Forwarded_Host",
        "x-forwarded-port",
        "x-original-url",
    ];
    for name in kept.iter().chain(&gone).chain(&DROPPED) {
        let request = map(&[(name, "7-of-the-client")]);
        let sent = forward::fields(&request, &how).unwrap();
        let reaches = sent
            .values()
            .any(|value| value.as_bytes().starts_with(b"7-of-the-client"));
        let chooses =
            selected(name, &[(name, "7-of-the-client")], &SENT) != selected(name, &[], &SENT);
        assert_eq!(chooses, reaches, "{name}");
        assert_eq!(reaches, kept.contains(name), "{name}");
    }
}

#[test]
fn variants_by_client_only_where_its_address_is_sent() {
    let of = |address: &str| AsSent {
        client: Some(address.parse().unwrap()),
        ..SENT
    };
    let names = "x-forwarded-for";
    assert_eq!(
        selected(names, &[(names, "1.1.1.1")], &SENT),
        selected(names, &[], &SENT)
    );
    assert_ne!(
        selected(names, &[], &of("192.0.2.1")),
        selected(names, &[], &of("192.0.2.2"))
    );
    assert_eq!(
        selected(names, &[(names, "1.1.1.1")], &of("192.0.2.1")),
        selected(names, &[], &of("192.0.2.1"))
    );
}

#[test]
fn variants_by_encoding_as_it_is_sent() {
    let gzip = AsSent {
        codings: Codings::GZIP,
        ..SENT
    };
    let ask = [("accept-encoding", "gzip, br")];
    assert_eq!(
        selected("accept-encoding", &ask, &SENT),
        selected("accept-encoding", &[], &SENT)
    );
    assert_ne!(
        selected("accept-encoding", &ask, &gzip),
        selected("accept-encoding", &ask, &SENT)
    );
}

#[test]
fn rfc9110_12_5_3_accept_encoding_reduced() {
    for (value, expected) in [
        ("gzip, deflate, br, zstd", "br, zstd, gzip"),
        ("gzip, deflate", "gzip"),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", "br"),
        ("gzip;q=0.8, br;q=0.8", "br, gzip"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0, *", "br, zstd"),
        ("*", "br, zstd, gzip"),
        ("*;q=0", "identity"),
        ("identity", "identity"),
        ("identity;q=1, gzip;q=0.5", "identity"),
        ("identity;q=0.5, gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip; q=0.5", "gzip"),
        ("gzip;q=2", "identity"),
        ("gzip;q=0.1234", "identity"),
        ("gzip;level=9", "identity"),
        ("deflate, compress", "identity"),
        ("", "identity"),
    ] {
        assert_eq!(
            Codings::of(&map(&[("accept-encoding", value)])).as_str(),
            expected,
            "{value:?}"
        );
    }
    assert_eq!(Codings::of(&map(&[])), Codings::IDENTITY);
    let both = map(&[("accept-encoding", "gzip"), ("accept-encoding", "br")]);
    assert!(Codings::of(&both).contains(Codings::BR) && Codings::of(&both).contains(Codings::GZIP));
    assert_eq!(Codings::of(&both).and(Codings::GZIP), Codings::GZIP);
}

proptest! {
    /// No two sets of values run together.
    #[test]
    fn rfc9111_4_1_selection_is_unambiguous(
        a in proptest::collection::vec(proptest::option::of("[a-z,=;]{0,5}"), 3),
        b in proptest::collection::vec(proptest::option::of("[a-z,=;]{0,5}"), 3),
    ) {
        let key = |values: &[Option<String>]| {
            let fields: Vec<(String, &str)> = values.iter().enumerate()
                .filter_map(|(i, v)| v.as_deref().map(|v| (format!("x-{i}"), v))).collect();
            let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (n.as_str(), *v)).collect();
            selected("x-0, x-1, x-2", &fields, &SENT)
        };
        prop_assert_eq!(a == b, key(&a) == key(&b));
    }

    /// A crowd's Accept-Encoding never makes more than eight variants.
    #[test]
    fn variants_by_encoding_are_few(value in "[a-z*;=.,0-9 ]{0,40}") {
        let codings = Codings::of(&map(&[("accept-encoding", &value)]));
        prop_assert!(codings.0 < 8);
    }
}
