use super::*;
use httparse::Header;
use proptest::prelude::*;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OURS: &str = "00-11111111111111111111111111111111-2222222222222222-00";

fn how(kind: Kind, class: Class) -> Forward<'static> {
    Forward {
        class,
        kind,
        scheme: "http",
        host_as_keyed: "a.example",
        upstream_host: None,
        accept_encoding: AcceptEncoding::Identity,
        client: None,
        proxies: &[],
        via_version: "1.1",
        cdn_id: "tidegate-7f",
        request_id: "0123456789abcdef",
        traceparent: OURS,
        upgrade: false,
        own_cookies: &[],
        forwarded: false,
    }
}

fn send(lines: &[(&str, &str)], how: &Forward<'_>) -> Result<HeaderMap, Loop> {
    let lines: Vec<_> = lines
        .iter()
        .map(|(name, value)| Header {
            name,
            value: value.as_bytes(),
        })
        .collect();
    fields(&lines.as_slice(), how)
}

fn sent(lines: &[(&str, &str)], how: &Forward<'_>) -> HeaderMap {
    send(lines, how).unwrap()
}

fn value<'m>(map: &'m HeaderMap, name: &str) -> Option<&'m str> {
    assert!(map.get_all(name).iter().count() <= 1, "{name} is repeated");
    map.get(name)
        .map(|value| std::str::from_utf8(value.as_bytes()).unwrap())
}

const KINDS: [Kind; 3] = [Kind::Shared, Kind::SingleReader, Kind::Pass];

#[test]
fn a_bare_request_gets_what_a_proxy_owes() {
    let map = sent(
        &[("Host", "A.example:80")],
        &how(Kind::Shared, Class::Anonymous),
    );
    let mut got: Vec<_> = map
        .iter()
        .map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()))
        .collect();
    got.sort();
    assert_eq!(
        got,
        [
            "accept-encoding: identity",
            "cdn-loop: tidegate-7f",
            "host: a.example",
            &format!("traceparent: {OURS}"),
            "via: 1.1 tidegate",
            "x-forwarded-host: a.example",
            "x-forwarded-proto: http",
            "x-request-id: 0123456789abcdef",
        ]
    );
}

#[test]
fn c17_hop_by_hop_and_nominated_fields_stay_here() {
    let lines = [
        (
            "Connection",
            "close, X-Mine, X-Forwarded-For, X-Real-IP, Authorization, Cookie, Content-Length, Host",
        ),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Trailer", "X"),
        ("Transfer-Encoding", "chunked"),
        ("Proxy-Authorization", "x"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy", "http://evil"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "x"),
        ("Content-Length", "5"),
        ("Expect", "100-continue"),
        ("X-Mine", "x"),
        ("X-Real-IP", "6.6.6.6"),
        ("Authorization", "Basic x"),
        ("Cookie", "a=1"),
        ("X-Other", "stays"),
    ];
    for kind in KINDS {
        let mut how = how(kind, Class::Identified);
        how.client = Some("203.0.113.9".parse().unwrap());
        let map = sent(&lines, &how);
        for name in [
            "connection",
            "keep-alive",
            "te",
            "trailer",
            "transfer-encoding",
            "proxy-authorization",
            "proxy-connection",
            "proxy",
            "upgrade",
            "http2-settings",
            "content-length",
            "expect",
            "x-mine",
            "x-real-ip",
        ] {
            assert_eq!(value(&map, name), None, "{name}");
        }
        assert_eq!(value(&map, "authorization"), Some("Basic x"));
        assert_eq!(value(&map, "cookie"), Some("a=1"));
        assert_eq!(value(&map, "host"), Some("a.example"));
        assert_eq!(value(&map, "x-forwarded-for"), Some("203.0.113.9"));
        assert_eq!(value(&map, "x-other"), Some("stays"));
    }
}

#[test]
fn c24_a_clients_claims_never_arrive() {
    let claims = [
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Scheme",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-For",
        "X-Forwarded-Anything",
        "X_Forwarded_Host",
        "x-forwarded_proto",
        "Forwarded",
        "X-Original-URL",
        "X-Original-Host",
        "X_Original_URL",
        "X.Forwarded.Host",
        "X~Forwarded!Proto",
        "X-Rewrite-URL",
        "X-Host",
        "X-Real-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "Client-IP",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "X-HTTP-Host-Override",
        "Front-End-Https",
        "Content_Length",
        "Transfer_Encoding",
    ];
    for kind in KINDS {
        for claim in claims {
            let map = sent(
                &[("Host", "a.example"), (claim, "evil")],
                &how(kind, Class::Anonymous),
            );
            assert!(
                !map.values().any(|value| value == "evil"),
                "{claim} by {kind:?}"
            );
        }
    }
    for name in [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X_HTTP_Method_Override",
    ] {
        let arrives =
            |kind| sent(&[(name, "PUT")], &how(kind, Class::Anonymous)).contains_key(name);
        assert_eq!(KINDS.map(arrives), [false, false, true], "{name}");
    }
}

#[test]
fn one_clients_wishes_stay_out_of_a_shared_fetch() {
    for name in [
        "Range",
        "If-Range",
        "If-Match",
        "If-None-Match",
        "If-Modified-Since",
        "If-Unmodified-Since",
        "Cache-Control",
        "Pragma",
    ] {
        let arrives = |kind| sent(&[(name, "x")], &how(kind, Class::Anonymous)).contains_key(name);
        assert_eq!(KINDS.map(arrives), [false, true, true], "{name}");
    }
}

#[test]
fn c24_a_shared_fetch_takes_no_name_with_two_readings() {
    for name in ["Accept_Language", "Accept.Language", "X_Mine"] {
        let arrives = |kind| sent(&[(name, "fr")], &how(kind, Class::Anonymous)).contains_key(name);
        assert_eq!(KINDS.map(arrives), [false, true, true], "{name}");
    }
}

#[test]
fn cookies_go_in_one_line_with_the_identified_only() {
    let lines = [
        ("Cookie", "a=1;tidegate_x=2"),
        ("Cookie", "b=3; ;tide=4"),
        ("Cookie", "tidegate_y"),
    ];
    let own = ["tidegate_*".to_owned(), "tide".to_owned()];
    let cookie = |kind, class| {
        let map = sent(
            &lines,
            &Forward {
                own_cookies: &own,
                ..how(kind, class)
            },
        );
        value(&map, "cookie").map(str::to_owned)
    };
    let both = Some("a=1; b=3".to_owned());
    assert_eq!(
        KINDS.map(|kind| cookie(kind, Class::Identified)),
        [both.clone(), both.clone(), both.clone()]
    );
    assert_eq!(
        KINDS.map(|kind| cookie(kind, Class::Anonymous)),
        [None, None, both]
    );
    let only_own = sent(
        &[("Cookie", "tide=1")],
        &Forward {
            own_cookies: &own,
            ..how(Kind::Pass, Class::Identified)
        },
    );
    assert_eq!(value(&only_own, "cookie"), None);
}

#[test]
fn codings_are_asked_for_as_the_route_says() {
    let ask = |kind, accept_encoding| {
        let map = sent(
            &[("Accept-Encoding", "br;q=1")],
            &Forward {
                accept_encoding,
                ..how(kind, Class::Anonymous)
            },
        );
        value(&map, "accept-encoding").map(str::to_owned)
    };
    for kind in [Kind::Shared, Kind::SingleReader] {
        assert_eq!(
            ask(kind, AcceptEncoding::Identity).as_deref(),
            Some("identity")
        );
        assert_eq!(ask(kind, AcceptEncoding::Gzip).as_deref(), Some("gzip"));
        assert_eq!(
            ask(kind, AcceptEncoding::Client(b"br")).as_deref(),
            Some("br")
        );
        assert_eq!(ask(kind, AcceptEncoding::Client(b"")), None);
    }
    assert_eq!(
        ask(Kind::Pass, AcceptEncoding::Identity).as_deref(),
        Some("br;q=1")
    );
}

#[test]
fn rfc8586_a_loop_is_seen() {
    let plain = how(Kind::Shared, Class::Anonymous);
    for value in [
        "tidegate-7f",
        "a, Tidegate-7F",
        "a;v=1,tidegate-7f;v=2",
        "\"open, tidegate-7f",
        "tidegate-7f, b",
    ] {
        assert_eq!(send(&[("CDN-Loop", value)], &plain), Err(Loop), "{value}");
    }
    assert_eq!(
        send(&[("cdn-loop", "a"), ("CDN-Loop", "tidegate-7f")], &plain),
        Err(Loop)
    );
    let map = sent(
        &[
            ("CDN-Loop", "a;v=1"),
            ("CDN-Loop", "tidegate-7"),
            ("Via", "1.0 x"),
            ("Via", "2 y"),
        ],
        &plain,
    );
    assert_eq!(
        value(&map, "cdn-loop"),
        Some("a;v=1, tidegate-7, tidegate-7f")
    );
    assert_eq!(value(&map, "via"), Some("1.0 x, 2 y, 1.1 tidegate"));
    assert_eq!(
        send(&[("CDN-Loop", map["cdn-loop"].to_str().unwrap())], &plain),
        Err(Loop)
    );
    assert_eq!(
        value(&sent(&[("Via", " , ")], &plain), "via"),
        Some("1.1 tidegate")
    );
}

#[test]
fn traces_go_on_if_they_are_traces() {
    let plain = how(Kind::Shared, Class::Anonymous);
    let map = sent(
        &[
            ("traceparent", TRACE),
            ("tracestate", "a=b"),
            ("X-Request-Id", "mine"),
        ],
        &plain,
    );
    assert_eq!(value(&map, "traceparent"), Some(TRACE));
    assert_eq!(value(&map, "tracestate"), Some("a=b"));
    assert_eq!(value(&map, "x-request-id"), Some("0123456789abcdef"));
    for wrong in [
        "",
        "00",
        &TRACE.to_uppercase(),
        &TRACE.replace("00-4", "ff-4"),
        &TRACE[1..],
        &format!("{TRACE}-x"),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    ] {
        let map = sent(&[("traceparent", wrong), ("tracestate", "a=b")], &plain);
        assert_eq!(
            (value(&map, "traceparent"), value(&map, "tracestate")),
            (Some(OURS), None),
            "{wrong}"
        );
    }
    let twice = sent(&[("traceparent", TRACE), ("traceparent", TRACE)], &plain);
    assert_eq!(value(&twice, "traceparent"), Some(OURS));
}

#[test]
fn the_origin_learns_where_the_client_came_in() {
    let mut to = how(Kind::Pass, Class::Anonymous);
    (to.upstream_host, to.forwarded) = (Some("app.internal:8000"), true);
    to.client = Some("::ffff:203.0.113.9".parse().unwrap());
    let map = sent(&[], &to);
    assert_eq!(value(&map, "host"), Some("app.internal:8000"));
    assert_eq!(value(&map, "x-forwarded-host"), Some("a.example"));
    assert_eq!(value(&map, "x-forwarded-for"), Some("203.0.113.9"));
    assert_eq!(
        value(&map, "forwarded"),
        Some("for=203.0.113.9;host=\"a.example\";proto=http")
    );
    to.client = Some("2001:db8::1".parse().unwrap());
    let proxies = ["192.0.2.7", "2001:db8::2"].map(|ip| ip.parse().unwrap());
    to.proxies = &proxies;
    let map = sent(
        &[("X-Forwarded-For", "6.6.6.6, 2001:db8::1, 192.0.2.7")],
        &to,
    );
    let way = "2001:db8::1, 192.0.2.7, 2001:db8::2";
    assert_eq!(value(&map, "x-forwarded-for"), Some(way));
    (to.upstream_host, to.host_as_keyed) = (None, "");
    let map = sent(&[], &to);
    assert_eq!(
        value(&map, "forwarded"),
        Some("for=\"[2001:db8::1]\";proto=http")
    );
    assert_eq!(
        (value(&map, "host"), value(&map, "x-forwarded-host")),
        (None, None)
    );
}

#[test]
fn an_upgrade_goes_along_when_told() {
    let lines = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "k"),
    ];
    let mut to = how(Kind::Pass, Class::Anonymous);
    assert_eq!(value(&sent(&lines, &to), "upgrade"), None);
    to.upgrade = true;
    let map = sent(&lines, &to);
    assert_eq!(value(&map, "connection"), Some("upgrade"));
    assert_eq!(value(&map, "upgrade"), Some("websocket"));
    assert_eq!(value(&map, "sec-websocket-key"), Some("k"));
}

#[test]
fn rfc9110_7_6_2_max_forwards_counts_down() {
    let left = |value| {
        sent(
            &[("Max-Forwards", value)],
            &how(Kind::SingleReader, Class::Anonymous),
        )
        .remove("max-forwards")
    };
    assert_eq!(left("10").unwrap(), "9");
    assert_eq!(left("0").unwrap(), "0");
    assert_eq!(left("x"), None);
}

proptest! {
    #[test]
    fn whatever_comes_the_origin_gets_no_framing_and_no_hop(
        lines in prop::collection::vec((
            "(Connection|TE|Upgrade|Content[-_]Length|Transfer[-_]Encoding|Host|Cookie|Via|X-A|Proxy-X|Expect)",
            "[ -~]{0,12}",
        ), 0..8),
        kind in prop::sample::select(&KINDS[..]),
    ) {
        let lines: Vec<_> = lines.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let map = sent(&lines, &how(kind, Class::Identified));
        for name in ["connection", "te", "upgrade", "content-length", "content_length", "transfer-encoding", "transfer_encoding", "proxy-x", "expect"] {
            prop_assert!(!map.contains_key(name), "{}", name);
        }
        for name in ["host", "cookie", "via", "cdn-loop"] {
            prop_assert!(map.get_all(name).iter().count() <= 1);
        }
        prop_assert_eq!(&map["host"], "a.example");
    }
}
