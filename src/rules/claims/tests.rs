//! Tables: what is said, and what is believed of it.

use proptest::prelude::*;

use super::super::client::{Client, IPV6_PREFIX};
use super::*;

/// A field's line.
type Told<'a> = (&'a str, &'a [u8]);

const CLIENT: &str = "203.0.113.9";
const PEER: &str = "10.0.0.1";

fn networks() -> Vec<IpNet> {
    [
        "10.0.0.0/8",
        "192.0.2.7/32",
        "2001:db8:aaaa::/48",
        "fe80::/10",
    ]
    .map(|network| network.parse().unwrap())
    .to_vec()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn lines<'a>(all: &'a [Told<'a>]) -> Vec<Header<'a>> {
    let line = |(name, value): &Told<'a>| Header { name, value };
    all.iter().map(line).collect()
}

/// What is believed, and the proxies on the way from the client's on.
fn way(peer: &str, all: &[Told<'_>], by: ClaimedBy) -> (Believed, Vec<IpAddr>) {
    let mut passed = Vec::new();
    let told = lines(all);
    let believed = believed(ip(peer), &told, by, &networks(), &mut |ip| passed.push(ip));
    passed.reverse();
    (believed, passed)
}

fn x_forwarded_for(peer: &str, value: &str) -> IpAddr {
    let told = [("X-Forwarded-For", value.as_bytes())];
    way(peer, &told, ClaimedBy::XForwardedFor).0.client
}

fn forwarded(value: &str) -> (IpAddr, Option<Scheme>) {
    let told = [("Forwarded", value.as_bytes())];
    let believed = way(PEER, &told, ClaimedBy::Forwarded).0;
    (believed.client, believed.scheme)
}

#[test]
fn c43_nobody_else_is_believed() {
    for by in [ClaimedBy::XForwardedFor, ClaimedBy::Forwarded] {
        for peer in [
            "198.51.100.1",
            "::ffff:198.51.100.1",
            "2001:db8:bbbb::1",
            "11.0.0.1",
        ] {
            let told: [Told; 7] = [
                ("X-Forwarded-For", b"6.6.6.6"),
                ("Forwarded", b"for=6.6.6.6;proto=https"),
                ("X-Forwarded-Proto", b"https"),
                ("X-Real-IP", b"6.6.6.6"),
                ("True-Client-IP", b"6.6.6.6"),
                ("CF-Connecting-IP", b"6.6.6.6"),
                ("X-Client-IP", b"6.6.6.6"),
            ];
            let (believed, passed) = way(peer, &told, by);
            assert_eq!(believed.client, ip(peer).to_canonical());
            assert_eq!((believed.scheme, passed.len()), (None, 0));
        }
    }
    let mut nobody = |_| panic!("nobody is trusted");
    let told = [("X-Forwarded-For", &b"6.6.6.6"[..])];
    let told = lines(&told);
    let by = ClaimedBy::XForwardedFor;
    assert_eq!(
        believed(ip(PEER), &told, by, &[], &mut nobody).client,
        ip(PEER)
    );
}

#[test]
fn c43_other_fields_say_nothing_even_from_who_is_trusted() {
    for name in [
        "X-Real-IP",
        "True-Client-IP",
        "Forwarded",
        "X_Forwarded_For",
        "X-Forwarded-Host",
    ] {
        let told: [Told; 2] = [(name, b"for=6.6.6.6"), (name, b"6.6.6.6")];
        let (believed, _) = way(PEER, &told, ClaimedBy::XForwardedFor);
        assert_eq!(believed.client, ip(PEER), "{name}");
    }
    let told: [Told; 2] = [
        ("X-Forwarded-For", b"6.6.6.6"),
        ("X-Forwarded-Proto", b"https"),
    ];
    let (believed, _) = way(PEER, &told, ClaimedBy::Forwarded);
    assert_eq!((believed.client, believed.scheme), (ip(PEER), None));
}

#[test]
fn c44_the_rightmost_that_is_not_trusted_is_the_client() {
    for (value, client) in [
        // Alone, and behind what it made up.
        (CLIENT, CLIENT),
        ("6.6.6.6, 203.0.113.9", CLIENT),
        ("10.9.9.9, 203.0.113.9", CLIENT),
        // Through one proxy more, and two.
        ("203.0.113.9, 10.0.0.2", CLIENT),
        ("6.6.6.6, 203.0.113.9, 192.0.2.7, 10.3.2.1", CLIENT),
        ("203.0.113.9, 2001:db8:aaaa::1", CLIENT),
        // A network's neighbour is not in it.
        ("203.0.113.9, 192.0.2.8", "192.0.2.8"),
        ("203.0.113.9, 2001:db8:aaab::1", "2001:db8:aaab::1"),
        // All are trusted: the farthest.
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        // Nothing is said.
        ("", PEER),
        (" , ,", PEER),
        // Blanks and empty members.
        ("  203.0.113.9\t, ,10.0.0.2 ,", CLIENT),
    ] {
        assert_eq!(x_forwarded_for(PEER, value), ip(client), "{value}");
    }
}

#[test]
fn c44_an_address_is_the_same_however_it_is_written() {
    for text in [
        "203.0.113.9",
        "203.0.113.9:443",
        "203.0.113.9:0",
        "::ffff:203.0.113.9",
        "::FFFF:203.0.113.9",
        "::ffff:cb00:7109",
        "[::ffff:203.0.113.9]",
        "[::ffff:203.0.113.9]:65535",
        "[::ffff:203.0.113.9%eth0]:80",
    ] {
        assert_eq!(x_forwarded_for(PEER, text), ip(CLIENT), "{text}");
    }
    for text in [
        "2001:db8::1",
        "2001:DB8:0:0:0:0:0:1",
        "[2001:db8::1]",
        "[2001:db8::1]:443",
        "2001:db8::1%eth0",
        "[2001:db8::1%25eth0]:1",
    ] {
        assert_eq!(x_forwarded_for(PEER, text), ip("2001:db8::1"), "{text}");
    }
    // So is a peer.
    assert_eq!(x_forwarded_for("::ffff:10.0.0.1", CLIENT), ip(CLIENT));
    assert_eq!(x_forwarded_for("2001:db8:aaaa::2", CLIENT), ip(CLIENT));
    // And a proxy on a link.
    assert_eq!(
        x_forwarded_for(PEER, "203.0.113.9, fe80::1%eth0"),
        ip(CLIENT)
    );
}

#[test]
fn c44_what_cannot_be_read_ends_the_way() {
    for text in [
        "unknown",
        "_hidden",
        "garbage",
        "203.0.113.9.1",
        "203.0.113",
        "203.0.113.256",
        "0203.0.113.9",
        "203.0.113.9:",
        "203.0.113.9:http",
        "203.0.113.9:123456",
        "203.0.113.9:-1",
        "203.0.113.9 443",
        "203.0.113.9/32",
        "[203.0.113.9]",
        "[2001:db8::1",
        "2001:db8::1]",
        "[2001:db8::1]443",
        "[2001:db8::1]:",
        "[]",
        "[]:80",
        ":",
        ":80",
        "::1::2",
        "2001:db8::1%",
        "1:2:3:4:5:6:7:8:9",
        "\"203.0.113.9\"",
        "localhost",
        "203.0.113.9;for=1.2.3.4",
        "é",
    ] {
        assert_eq!(x_forwarded_for(PEER, text), ip(PEER), "{text}");
        // Whoever wrote it was believed before.
        let behind = format!("203.0.113.9, {text}, 10.0.0.2");
        assert_eq!(x_forwarded_for(PEER, &behind), ip("10.0.0.2"), "{behind}");
        // At its left it is the client's own.
        let before = format!("{text}, 203.0.113.9");
        assert_eq!(x_forwarded_for(PEER, &before), ip(CLIENT), "{before}");
    }
    let told = [("x-forwarded-for", &b"203.0.113.9\xff"[..])];
    assert_eq!(
        way(PEER, &told, ClaimedBy::XForwardedFor).0.client,
        ip(PEER)
    );
}

#[test]
fn c44_a_thousand_hops_are_bounded() {
    let proxies = vec!["10.0.0.2"; 1000].join(", ");
    let told = format!("203.0.113.9, {proxies}");
    let told = [("X-Forwarded-For", told.as_bytes())];
    let (believed, passed) = way(PEER, &told, ClaimedBy::XForwardedFor);
    assert_eq!(believed.client, ip("10.0.0.2"));
    assert_eq!(passed.len(), MAX_HOPS);
    // As many as are read may be the way.
    let proxies = vec!["10.0.0.2"; MAX_HOPS - 1].join(",");
    let most = format!("6.6.6.6, 203.0.113.9, {proxies}");
    assert_eq!(x_forwarded_for(PEER, &most), ip(CLIENT));
    // A thousand of the client's own cost nothing.
    let own = format!("{}203.0.113.9", "6.6.6.6, ".repeat(1000));
    assert_eq!(x_forwarded_for(PEER, &own), ip(CLIENT));
}

#[test]
fn c44_repeated_lines_are_one_list() {
    let told: [Told; 4] = [
        ("X-Forwarded-For", b"6.6.6.6"),
        ("Accept", b"203.0.113.1"),
        ("x-forwarded-for", b"7.7.7.7, 203.0.113.9"),
        ("X-FORWARDED-FOR", b"10.0.0.2"),
    ];
    let (believed, passed) = way(PEER, &told, ClaimedBy::XForwardedFor);
    assert_eq!(believed.client, ip(CLIENT));
    assert_eq!(passed, [ip("10.0.0.2"), ip(PEER)]);
}

#[test]
fn c45_a_network_behind_a_proxy_is_one_client() {
    let of = |n: u32| {
        let ip = x_forwarded_for(PEER, &format!("2001:db8:1:2:{:x}:{:x}::1", n >> 8, n & 255));
        Client::of(ip, IPV6_PREFIX)
    };
    let first = of(0);
    assert!((0..65_536).all(|n| of(n) == first));
}

#[test]
fn rfc7239_4_elements_and_nodes() {
    let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
    for (value, client, scheme) in [
        ("for=203.0.113.9", CLIENT, None),
        ("For=\"203.0.113.9:4711\"", CLIENT, None),
        ("for=203.0.113.9:4711", CLIENT, None),
        ("for=\"203.0.113.9:_obscured\"", CLIENT, None),
        (
            "for=\"[2001:db8:cafe::17]:4711\"",
            "2001:db8:cafe::17",
            None,
        ),
        ("for=\"[2001:db8:cafe::17]\"", "2001:db8:cafe::17", None),
        ("for=\"[::ffff:203.0.113.9%1]:1\"", CLIENT, None),
        ("for=203.0.113.9;proto=https;by=203.0.113.43", CLIENT, https),
        (
            "by=6.6.6.6;host=evil.test;PROTO=\"HTTP\";FOR=203.0.113.9",
            CLIENT,
            http,
        ),
        (
            "for=6.6.6.6, for=203.0.113.9;proto=https, for=10.0.0.2;proto=http",
            CLIENT,
            https,
        ),
        // The client's own element is not read.
        ("for=6.6.6.6;proto=https, for=203.0.113.9", CLIENT, None),
        // A proxy that hides its clients still says how they came.
        ("for=unknown;proto=https", PEER, https),
        ("for=_gazonk;proto=https", PEER, https),
        ("for=\"_gazonk:80\"", PEER, None),
        ("proto=https", PEER, https),
        ("for=203.0.113.9, for=unknown", PEER, None),
        (
            "for=203.0.113.9, for=unknown, for=10.0.0.2",
            "10.0.0.2",
            None,
        ),
        // What it may not say twice, or at all.
        ("for=203.0.113.9;for=6.6.6.6", PEER, None),
        ("for=203.0.113.9;proto=https;proto=http", PEER, None),
        ("for=", PEER, None),
        ("for", PEER, None),
        ("203.0.113.9", PEER, None),
        ("for=\"203.0.113.9", PEER, None),
        ("for=\"203.0.\\113.9\"", PEER, None),
        ("for=203.0.113.9;proto=gopher", CLIENT, None),
        ("for=203.0.113.9;proto=wss", CLIENT, https),
    ] {
        assert_eq!(forwarded(value), (ip(client), scheme), "{value}");
    }
}

#[test]
fn c44_an_open_quote_hides_nothing_behind_it() {
    for theirs in [
        "for=\"6.6.6.6",
        "for=\"",
        "\"",
        "for=\"\\",
        "for=\"a\\\"",
        "\\",
        "for=\"6.6.6.6, for=10.0.0.9",
        "for=\"a\";x=\"",
        "\"\"\"",
    ] {
        for (ours, client) in [
            ("for=203.0.113.9", CLIENT),
            ("for=\"203.0.113.9:80\"", CLIENT),
            ("for=\"[2001:db8::9]\"", "2001:db8::9"),
            ("for=\"203.0.113.9\", for=\"10.0.0.2:_a\"", CLIENT),
        ] {
            let value = format!("{theirs}, {ours}");
            assert_eq!(forwarded(&value).0, ip(client), "{value}");
        }
    }
    // A quoted comma is no end.
    let value = "for=203.0.113.9;ext=\"a, for=6.6.6.6 \\\", for=7.7.7.7\"";
    assert_eq!(forwarded(value).0, ip(CLIENT));
}

#[test]
fn the_scheme_is_the_word_of_who_met_the_client() {
    let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
    for (way_told, protos, scheme) in [
        ("203.0.113.9", "https", https),
        ("203.0.113.9", "HTTP", http),
        ("203.0.113.9", "wss", https),
        ("203.0.113.9", "ws", http),
        // The client's own word stands at the left.
        ("203.0.113.9", "https, http", http),
        // Added by each, or one for all.
        ("203.0.113.9, 10.0.0.2", "https, http", https),
        ("203.0.113.9, 10.0.0.2", "http, https, http", https),
        ("203.0.113.9, 10.0.0.2", "https", https),
        // No address, but a scheme.
        ("", "https", https),
        ("unknown", "http, https", https),
        // Nothing, or nothing that could be.
        ("203.0.113.9", "", None),
        ("203.0.113.9", "gopher", None),
        ("203.0.113.9", "https https", None),
        ("203.0.113.9", "\"https\"", None),
    ] {
        let told = [
            ("x-forwarded-for", way_told.as_bytes()),
            ("x-forwarded-proto", protos.as_bytes()),
        ];
        let (believed, _) = way(PEER, &told, ClaimedBy::XForwardedFor);
        assert_eq!(believed.scheme, scheme, "{way_told} by {protos}");
    }
}

proptest! {
    /// Whatever a client puts before what its proxy adds, it stays who it is.
    #[test]
    fn c44_nothing_at_the_left_changes_the_client(own in "[ -~]{0,60}", quoted in any::<bool>()) {
        let by_list = x_forwarded_for(PEER, &format!("{own}, 203.0.113.9"));
        prop_assert_eq!(by_list, ip(CLIENT));
        let added = if quoted { "for=\"203.0.113.9:1\"" } else { "for=203.0.113.9" };
        prop_assert_eq!(forwarded(&format!("{own}, {added}")).0, ip(CLIENT));
        // Nor in lines of its own.
        let told = [("X-Forwarded-For", own.as_bytes()), ("X-Forwarded-For", CLIENT.as_bytes())];
        prop_assert_eq!(way(PEER, &told, ClaimedBy::XForwardedFor).0.client, ip(CLIENT));
    }
}
