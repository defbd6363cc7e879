use super::*;
use crate::rules::{host, target};
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes: 32 * 1024,
    fields: 100,
    target_bytes: 8 * 1024,
};

/// The verdict on a whole head: what `f` makes of the request, or the cause.
fn with<T>(head: impl AsRef<[u8]>, f: impl FnOnce(&Request<'_>) -> T) -> Result<T, Reject> {
    let head = head.as_ref();
    let mut room = lines();
    match parse(head, &mut room, &LIMITS)? {
        Parsed::Complete { request, head_len } => {
            assert_eq!(head_len, head.len());
            Ok(f(&request))
        }
        Parsed::Partial => panic!("partial: {}", head.escape_ascii()),
    }
}

fn verdict(head: impl AsRef<[u8]>) -> Result<(), Reject> {
    with(head, |_| ())
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn is_partial(head: &[u8]) -> bool {
    matches!(parse(head, &mut lines(), &LIMITS), Ok(Parsed::Partial))
}

fn all_refused(heads: &[(&str, Reject)]) {
    for (head, cause) in heads {
        assert_eq!(verdict(head), Err(*cause), "{head:?}");
    }
}

fn all_fields_refused(fields: &[(&str, Reject)]) {
    for (line, cause) in fields {
        assert_eq!(verdict(get(line)), Err(*cause), "{line:?}");
    }
}

#[test]
fn a_browser_is_understood() {
    let head = "GET /a/b?c=d HTTP/1.1\r\nHost: example.com:8080\r\nConnection: keep-alive\r\n\
        Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/html\r\n\
        Accept-Encoding: gzip, br\r\nCookie: a=1\r\nIf-None-Match: \"x\"\r\n\
        If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-Name: caf\u{e9}\r\n\r\n";
    with(head, |request| {
        assert_eq!(request.method, Method::Get);
        assert_eq!(request.version, Version::Http11);
        assert_eq!(
            request.target,
            Target::Origin {
                path: "/a/b",
                query: Some("c=d")
            }
        );
        assert_eq!(request.host, "example.com:8080");
        assert_eq!(request.body, RequestBody::None);
        assert!(request.keep_alive && !request.expect_continue);
        assert_eq!((request.upgrade, request.lines.len()), (None, 10));
        let known = Known {
            host: Some(b"example.com:8080"),
            cookie: Some(b"a=1"),
            if_none_match: Some(b"\"x\""),
            if_modified_since: Some(b"Sun, 06 Nov 1994 08:49:37 GMT"),
            accept_encoding: Some(b"gzip, br"),
            accept: Some(b"text/html"),
            user_agent: Some(b"Mozilla/5.0"),
            ..Known::default()
        };
        assert_eq!(request.known, known);
        assert!(request.contains("x-name") && !request.contains("x-nam"));
    })
    .unwrap();
}

#[test]
fn every_known_field_is_known() {
    let head = get(
        "authorization: x\r\nRANGE: bytes=0-\r\nIf-Range: \"e\"\r\nif-match: *\r\n\
        If-Unmodified-Since: x\r\nCache-Control: no-cache\r\nPragma: no-cache\r\n\
        X-Request-ID: r\r\nTraceParent: t\r\nCDN-Loop: x\r\nMax-Forwards: 3\r\nX-HTTP-Method: PUT\r\n",
    );
    let known = Known {
        host: Some(b"a"),
        authorization: true,
        range: Some(b"bytes=0-"),
        if_range: Some(b"\"e\""),
        if_match: true,
        if_unmodified_since: true,
        cache_control: true,
        pragma: true,
        x_request_id: Some(b"r"),
        traceparent: Some(b"t"),
        cdn_loop: true,
        max_forwards: Some(b"3"),
        method_override: true,
        ..Known::default()
    };
    with(&head, |request| assert_eq!(request.known, known)).unwrap();
    for name in [
        "X-HTTP-Method-Override",
        "x-method-override",
        "X_Http_Method-Override",
    ] {
        let head = get(&format!("{name}: DELETE\r\n"));
        assert_eq!(with(&head, |r| r.known.method_override), Ok(true), "{name}");
    }
}

#[test]
fn repeated_fields_are_told() {
    let twice = |line: &str| get(&format!("{line}: a\r\n{line}: b\r\n"));
    with(twice("Cookie"), |r| {
        assert_eq!(
            (r.known.cookie, r.known.cookies_many),
            (Some(&b"a"[..]), true)
        )
    })
    .unwrap();
    with(twice("If-None-Match"), |r| {
        assert!(r.known.if_none_match_many)
    })
    .unwrap();
    with(twice("Accept-Encoding"), |r| {
        assert!(r.known.accept_encoding_many)
    })
    .unwrap();
    with(twice("Range"), |r| assert_eq!(r.known.range, None)).unwrap();
    with(twice("If-Range"), |r| {
        assert_eq!(r.known.if_range, Some(&b""[..]))
    })
    .unwrap();
    with(twice("If-Modified-Since"), |r| {
        assert_eq!(r.known.if_modified_since, None)
    })
    .unwrap();
}

#[test]
fn c01_length_and_transfer_encoding() {
    all_fields_refused(&[
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Reject::LengthAndTransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            Reject::LengthAndTransferEncoding,
        ),
        (
            "Content-Length: 0\r\ntransfer-encoding: CHUNKED\r\n",
            Reject::LengthAndTransferEncoding,
        ),
        (
            "Transfer-Encoding: gzip\r\nContent-Length: 5\r\n",
            Reject::LengthAndTransferEncoding,
        ),
    ]);
}

#[test]
fn c02_repeated_content_length() {
    all_fields_refused(&[
        (
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            Reject::ContentLengthRepeated,
        ),
        (
            "Content-Length: 0\r\ncontent-LENGTH: 0\r\n",
            Reject::ContentLengthRepeated,
        ),
        ("Content-Length: 1, 1\r\n", Reject::ContentLength),
        ("Content-Length: 1,\r\n", Reject::ContentLength),
    ]);
}

#[test]
fn c03_content_length_values() {
    for value in [
        "+1",
        "-1",
        "0x1",
        "",
        "1 2",
        "1e1",
        "1.0",
        "\"1\"",
        "1;",
        "100000000000000000000000",
        "18446744073709551616",
    ] {
        let head = get(&format!("Content-Length: {value}\r\n"));
        assert_eq!(verdict(head), Err(Reject::ContentLength), "{value:?}");
    }
    assert_eq!(
        verdict(get("Content-Length: 5\r\nContent-Length: 6\r\n")),
        Err(Reject::ContentLengthRepeated)
    );
    for (value, body) in [
        ("0", RequestBody::None),
        ("  7\t", RequestBody::Length(7)),
        ("007", RequestBody::Length(7)),
        ("18446744073709551615", RequestBody::Length(u64::MAX)),
    ] {
        let head = get(&format!("Content-Length: {value}\r\n"));
        assert_eq!(with(head, |r| r.body), Ok(body));
    }
}

#[test]
fn c04_transfer_encodings() {
    let te = |value: &str| verdict(get(&format!("Transfer-Encoding: {value}\r\n")));
    for value in [
        "identity",
        "gzip",
        "chunked,chunked",
        "chunked,gzip",
        ",chunked",
        "chunked,",
        "\"chunked\"",
        "chunked;q=1",
        "xchunked",
        "",
    ] {
        assert_eq!(te(value), Err(Reject::TransferEncoding), "{value:?}");
    }
    for value in ["gzip,chunked", "x, chunked", "identity, chunked"] {
        assert_eq!(te(value), Err(Reject::TransferEncodingUnknown), "{value:?}");
    }
    all_fields_refused(&[
        ("Transfer-Encoding: \u{b}chunked\r\n", Reject::FieldValue),
        ("Transfer-Encoding: chunked\u{b}\r\n", Reject::FieldValue),
        ("Transfer-Encoding:\r\n chunked\r\n", Reject::Fold),
        ("Transfer-Encoding: chunked\r\n\tx\r\n", Reject::Fold),
        ("Transfer-Encoding : chunked\r\n", Reject::FieldName),
        ("Transfer-Encoding\t: chunked\r\n", Reject::FieldName),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Reject::TransferEncodingRepeated,
        ),
        (
            "Transfer-Encoding: chunked\r\ntransfer-encoding: identity\r\n",
            Reject::TransferEncodingRepeated,
        ),
    ]);
    for value in ["chunked", "Chunked", "\t chunked \t"] {
        let head = get(&format!("Transfer-Encoding: {value}\r\n"));
        assert_eq!(with(head, |r| r.body), Ok(RequestBody::Chunked));
    }
    assert_eq!(Reject::TransferEncodingUnknown.status(), 501);
}

#[test]
fn c05_http10_bodies() {
    all_refused(&[
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            Reject::TransferEncodingOn10,
        ),
        (
            "GET / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n",
            Reject::TransferEncodingOn10,
        ),
    ]);
    for (head, body, keep_alive) in [
        (
            "POST / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            RequestBody::None,
            false,
        ),
        (
            "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
            RequestBody::None,
            true,
        ),
        (
            "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n",
            RequestBody::Length(3),
            true,
        ),
        (
            "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            RequestBody::None,
            true,
        ),
        ("GET / HTTP/1.0\r\n\r\n", RequestBody::None, false),
    ] {
        assert_eq!(
            with(head, |r| (r.body, r.keep_alive)),
            Ok((body, keep_alive)),
            "{head:?}"
        );
    }
}

#[test]
fn c08_upgrades() {
    let upgrade = |fields: &str| with(get(fields), |r| r.upgrade.map(<[u8]>::to_vec)).unwrap();
    assert_eq!(
        upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"),
        Some(b"websocket".to_vec())
    );
    for fields in [
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Connection: upgrade\r\nUpgrade:\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: websocket, H2C\r\nHTTP2-Settings: x\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: web socket\r\n",
    ] {
        assert_eq!(upgrade(fields), None, "{fields:?}");
    }
    let old = "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(with(old, |r| r.upgrade.is_some()), Ok(false));
}

#[test]
fn c09_connect_and_trace() {
    all_refused(&[
        (
            "CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n",
            Reject::Connect,
        ),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Reject::Connect),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Reject::Trace),
    ]);
    assert_eq!(
        (Reject::Connect.status(), Reject::Trace.status()),
        (405, 405)
    );
    assert!(!ALLOW.contains("CONNECT") && !ALLOW.contains("TRACE"));
}

#[test]
fn methods_are_told_apart() {
    for name in [
        "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE", "M-SEARCH",
    ] {
        let head = format!("{name} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let safe = matches!(name, "GET" | "HEAD" | "OPTIONS");
        assert_eq!(
            with(head, |r| (r.method.as_str() == name, r.method.is_safe())),
            Ok((true, safe))
        );
    }
    for name in ["get", "Head", "trace", "connecT"] {
        let head = format!("{name} / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(verdict(head), Err(Reject::MethodCase), "{name}");
    }
    let long = "M".repeat(MAX_METHOD + 1);
    assert_eq!(
        verdict(format!("{long} / HTTP/1.1\r\nHost: a\r\n\r\n")),
        Err(Reject::MethodTooLong)
    );
    assert_eq!(verdict(&long), Err(Reject::MethodTooLong));
}

#[test]
fn c12_hosts() {
    use host::Flaw;
    all_refused(&[
        ("GET / HTTP/1.1\r\n\r\n", Reject::NoHost),
        ("GET http://a/ HTTP/1.1\r\n\r\n", Reject::NoHost),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            Reject::ManyHosts,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            Reject::ManyHosts,
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
            Reject::ManyHosts,
        ),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Reject::Host(Flaw::Empty)),
        ("GET / HTTP/1.0\r\nHost:\r\n\r\n", Reject::Host(Flaw::Empty)),
        (
            "GET / HTTP/1.1\r\nHost: a/b?c@d\r\n\r\n",
            Reject::Host(Flaw::Character),
        ),
        (
            "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
            Reject::Host(Flaw::Userinfo),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            Reject::Host(Flaw::Character),
        ),
        ("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", Reject::FieldValue),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Reject::Fold),
    ]);
    assert_eq!(with("GET / HTTP/1.0\r\n\r\n", |r| r.host.len()), Ok(0));
    assert_eq!(
        with("GET / HTTP/1.0\r\nHost: a\r\n\r\n", |r| r.host == "a"),
        Ok(true)
    );
}

#[test]
fn c13_absolute_form() {
    use target::Flaw;
    let go = |target: &str, host: &str| {
        with(
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            |r| format!("{} {:?}", r.host, r.target),
        )
    };
    for (target, host, left) in [
        (
            "http://a/p?q",
            "a",
            "a Origin { path: \"/p\", query: Some(\"q\") }",
        ),
        ("HTTP://A:80", "a", "a Origin { path: \"/\", query: None }"),
        (
            "http://a.?q",
            "A:80",
            "A:80 Origin { path: \"/\", query: Some(\"q\") }",
        ),
    ] {
        assert_eq!(go(target, host).as_deref(), Ok(left), "{target}");
    }
    for (target, cause) in [
        ("http://b/", Reject::HostsDisagree),
        ("http://a:81/", Reject::HostsDisagree),
        ("http://u@a/", Reject::Host(host::Flaw::Userinfo)),
        ("http:///p", Reject::Host(host::Flaw::Empty)),
        ("http://a\\b/", Reject::Host(host::Flaw::Character)),
        ("ftp://a/p", Reject::Target(Flaw::Scheme)),
        ("https://a/p", Reject::Target(Flaw::Scheme)),
        ("http://a/p#f", Reject::Target(Flaw::Fragment)),
    ] {
        assert_eq!(go(target, "a"), Err(cause), "{target}");
    }
    assert_eq!(
        with("GET http://a/ HTTP/1.0\r\n\r\n", |r| r.host == "a"),
        Ok(true)
    );
}

#[test]
fn c14_targets() {
    use target::Flaw;
    let go = |target: &str| verdict(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    for (target, cause) in [
        ("p", Reject::Target(Flaw::Form)),
        ("@evil/p", Reject::Target(Flaw::Form)),
        ("evil:80", Reject::Target(Flaw::Form)),
        ("*", Reject::Asterisk),
        ("/p#frag", Reject::Target(Flaw::Fragment)),
        ("#frag", Reject::Target(Flaw::Form)),
        ("/\tp", Reject::Target(Flaw::Byte)),
        ("/p\u{7f}", Reject::Target(Flaw::Byte)),
        ("/caf\u{e9}", Reject::Target(Flaw::Byte)),
        ("/\"", Reject::Target(Flaw::Byte)),
        ("/<b>", Reject::Target(Flaw::Byte)),
        ("/?^", Reject::Target(Flaw::Byte)),
        ("/\\evil", Reject::Target(Flaw::Byte)),
        ("/\0", Reject::Target(Flaw::Byte)),
    ] {
        assert_eq!(go(target), Err(cause), "{target:?}");
    }
    assert_eq!(
        verdict(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"),
        Err(Reject::Target(Flaw::Byte))
    );
    let options = |target: &str| {
        with(
            format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n"),
            |r| r.target == Target::Asterisk,
        )
    };
    assert_eq!(options("*"), Ok(true));
    assert_eq!(options("http://a"), Ok(true));
    assert_eq!(options("http://a/"), Ok(false));
    assert_eq!(options("/"), Ok(false));
}

#[test]
fn c15_request_lines() {
    all_refused(&[
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Reject::RequestLine),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Reject::RequestLine),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Reject::LineEnd),
        ("GET /p p HTTP/1.1\r\nHost: a\r\n\r\n", Reject::RequestLine),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Reject::Method),
        ("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", Reject::RequestLine),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Reject::RequestLine),
        ("GET / HTTP/01.1\r\nHost: a\r\n\r\n", Reject::Version),
        ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", Reject::LineEnd),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Reject::Version),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Reject::Version),
        ("PRI * HTTP/2.0\r\n\r\n", Reject::Version),
        ("GET / HTTP/1\r\nHost: a\r\n\r\n", Reject::Version),
        ("GET / HTTPS/1.1\r\nHost: a\r\n\r\n", Reject::RequestLine),
        ("GET /\r\n", Reject::RequestLine),
        ("GET\r\n", Reject::RequestLine),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Reject::Method),
        ("\tGET / HTTP/1.1\r\n", Reject::Method),
        ("G(T / HTTP/1.1\r\n", Reject::Method),
        ("\u{16}\u{3}\u{1}\u{2}", Reject::Method),
        ("GET / HTTP/1.1\nHost: a\n\n", Reject::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Reject::LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Reject::LineEnd),
        ("GET / HTTP/1.1\rHost: a\r\n\r\n", Reject::LineEnd),
        ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", Reject::LineEnd),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Reject::LineEnd),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Reject::LineEnd),
        (
            "\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            Reject::EmptyLines,
        ),
        (
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            Reject::EmptyLines,
        ),
    ]);
    assert_eq!(verdict("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(()));
}

#[test]
fn c15_a_wrong_beginning_is_not_waited_for() {
    for head in [
        "GET / HTTP/1.1\n",
        "GET /\n",
        " ",
        "GET  ",
        "GET / HTTP/2",
        "GET / HTTP/1.1\r\nHost: a\n",
        "\r\n\r",
        "A:",
    ] {
        assert!(
            parse(head.as_bytes(), &mut lines(), &LIMITS).is_err(),
            "{head:?}"
        );
    }
    let whole = b"\r\nPOST /p?q HTTP/1.1\r\nHost: a\r\nX: \xff y \r\nContent-Length: 3\r\n\r\n";
    for len in 0..whole.len() {
        assert!(is_partial(&whole[..len]), "{len}");
    }
}

#[test]
fn c16_fields() {
    all_fields_refused(&[
        (": x\r\n", Reject::FieldName),
        ("X\r\n", Reject::FieldName),
        ("X Y: z\r\n", Reject::FieldName),
        ("X : z\r\n", Reject::FieldName),
        ("X\u{e9}: z\r\n", Reject::FieldName),
        ("X\0: z\r\n", Reject::FieldName),
        ("X(: z\r\n", Reject::FieldName),
        ("X: y\r\n z\r\n", Reject::Fold),
        ("X: y\r\n\tz\r\n", Reject::Fold),
        ("X: y\rZ: z\r\n", Reject::LineEnd),
        ("X: y\nZ: z\r\n", Reject::LineEnd),
        ("X: y\r\r\n", Reject::LineEnd),
    ]);
    assert_eq!(
        verdict("GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        Err(Reject::Fold)
    );
    // Controls wherever a wide scan might step over them.
    for byte in (0..0x20u8)
        .chain([0x7f])
        .filter(|b| !matches!(b, b'\t' | b'\n' | b'\r'))
    {
        for before in [0, 1, 7, 15, 16, 31, 40] {
            let mut head = get("X: ").into_bytes();
            head.truncate(head.len() - 2);
            head.extend(std::iter::repeat_n(b'a', before));
            head.push(byte);
            head.extend_from_slice(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n");
            assert_eq!(
                verdict(&head),
                Err(Reject::FieldValue),
                "{byte:#x} after {before}"
            );
        }
    }
    assert_eq!(verdict(get("X:\tobs \u{e9}\t\r\nY:\r\nZ: \r\n")), Ok(()));
}

#[test]
fn c17_connection_changes_no_framing() {
    let head = get("Connection: close, Content-Length, Host\r\nContent-Length: 5\r\n");
    assert_eq!(
        with(head, |r| (r.body, r.keep_alive, r.host == "a")),
        Ok((RequestBody::Length(5), false, true))
    );
    for (fields, keep_alive) in [
        ("", true),
        ("Connection: keep-alive, Close\r\n", false),
        ("Connection: x\r\nConnection: close\r\n", false),
        ("Connection: closed\r\n", true),
    ] {
        assert_eq!(
            with(get(fields), |r| r.keep_alive),
            Ok(keep_alive),
            "{fields:?}"
        );
    }
}

#[test]
fn c18_sizes() {
    let head = |n: usize| get(&format!("X: {}\r\n", "y".repeat(n - get("X: \r\n").len())));
    assert_eq!(verdict(head(LIMITS.head_bytes)), Ok(()));
    assert_eq!(
        verdict(head(LIMITS.head_bytes + 1)),
        Err(Reject::HeadTooLarge)
    );
    let unfinished = &head(LIMITS.head_bytes + 1)[..LIMITS.head_bytes];
    assert_eq!(verdict(unfinished), Err(Reject::HeadTooLarge));

    let fields = |n: usize| get(&"X: y\r\n".repeat(n - 1));
    assert_eq!(verdict(fields(100)), Ok(()));
    assert_eq!(verdict(fields(101)), Err(Reject::TooManyFields));

    let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(n - 1));
    assert_eq!(verdict(target(LIMITS.target_bytes)), Ok(()));
    assert_eq!(
        verdict(target(LIMITS.target_bytes + 1)),
        Err(Reject::TargetTooLong)
    );
    assert_eq!(
        verdict(target(LIMITS.head_bytes + 1)),
        Err(Reject::TargetTooLong)
    );
    assert_eq!(
        verdict(&target(LIMITS.target_bytes + 1)[..8 * 1024 + 5]),
        Err(Reject::TargetTooLong)
    );
    assert!(is_partial(
        &target(LIMITS.target_bytes + 1).as_bytes()[..8 * 1024 + 4]
    ));

    for (cause, status) in [
        (Reject::HeadTooLarge, 431),
        (Reject::TooManyFields, 431),
        (Reject::TargetTooLong, 414),
        (Reject::LineEnd, 400),
    ] {
        assert_eq!(cause.status(), status);
    }
}

#[test]
fn rfc9110_10_1_1_expect() {
    let post = |version: &str, fields: &str| {
        let head = format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        with(head, |r| r.expect_continue)
    };
    assert_eq!(
        post("1.1", "Content-Length: 1\r\nExpect: 100-Continue\r\n"),
        Ok(true)
    );
    assert_eq!(
        post(
            "1.1",
            "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"
        ),
        Ok(true)
    );
    assert_eq!(
        post("1.1", "Content-Length: 0\r\nExpect: 100-continue\r\n"),
        Ok(false)
    );
    assert_eq!(post("1.1", "Expect: 100-continue\r\n"), Ok(false));
    assert_eq!(post("1.0", "Content-Length: 1\r\nExpect: x\r\n"), Ok(false));
    for value in [
        "x",
        "",
        "100-continue, x",
        "100-continue\r\nExpect: x",
        "x\r\nExpect: 100-continue",
    ] {
        assert_eq!(
            post("1.1", &format!("Content-Length: 1\r\nExpect: {value}\r\n")),
            Err(Reject::Expect)
        );
    }
    assert_eq!(Reject::Expect.status(), 417);
}

#[test]
fn c10_what_follows_a_head_is_left_alone() {
    let both = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /evil HTTP/9\n\n";
    match parse(both, &mut lines(), &LIMITS) {
        Ok(Parsed::Complete { head_len, .. }) => {
            assert_eq!(&both[head_len..], b"GET /evil HTTP/9\n\n")
        }
        other => panic!("{other:?}"),
    }
}

fn written(request: &Request<'_>) -> Vec<u8> {
    // An HTTP/1.0 request may name its host in the target alone.
    let absolute = match request.contains("host") || request.host.is_empty() {
        true => String::new(),
        false => format!("http://{}", request.host),
    };
    let target = match request.target {
        Target::Asterisk if absolute.is_empty() => "*".to_owned(),
        Target::Asterisk => absolute,
        Target::Origin { path, query: None } => format!("{absolute}{path}"),
        Target::Origin {
            path,
            query: Some(query),
        } => format!("{absolute}{path}?{query}"),
    };
    let mut out = format!("{} {target}", request.method.as_str()).into_bytes();
    out.extend_from_slice(format!(" HTTP/{}\r\n", request.version.number()).as_bytes());
    for line in request.lines {
        out.extend_from_slice(line.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(line.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn described(request: &Request<'_>) -> String {
    let Request {
        method,
        version,
        target,
        host,
        body,
        keep_alive,
        upgrade,
        expect_continue,
        lines,
        known,
    } = request;
    format!(
        "{method:?} {version:?} {target:?} {host} {body:?} {keep_alive} {upgrade:?} {expect_continue} {lines:?} {known:?}"
    )
}

/// A head of plausible parts, most of them good, so that many are accepted.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("Content-Length: 5"),
        Just("content-length:0"),
        Just("Transfer-Encoding: chunked"),
        Just("Connection: close"),
        Just("Connection: upgrade, x"),
        Just("Upgrade: websocket"),
        Just("Cookie: a=b"),
        Just("Range: bytes=0-1"),
        Just("X-A:\t\u{e9} "),
        Just("Expect: 100-continue"),
        Just("If-None-Match: *"),
        Just("X: y\n z"),
        Just("Host: b"),
    ];
    (
        "(GET|POST|OPTIONS|get|X)",
        "(/[a-z%?|#]{0,5}|\\*|http://a/[a-z]{0,2}|http://b)",
        "1\\.[01]",
        prop::collection::vec(line, 0..4),
        prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    )
        .prop_map(|(method, target, version, lines, damage)| {
            let fields: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let mut head =
                format!("{method} {target} HTTP/{version}\r\nHost: a\r\n{fields}\r\n").into_bytes();
            if let Some((at, byte)) = damage {
                let at = at.index(head.len());
                head[at] = byte;
            }
            head
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn parsing_never_panics(head in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&head, &mut lines(), &LIMITS);
    }

    #[test]
    fn c21_what_is_accepted_is_accepted_again_and_equal(head in plausible()) {
        let mut room = lines();
        if let Ok(Parsed::Complete { request, .. }) = parse(&head, &mut room, &LIMITS) {
            let again = written(&request);
            let mut room = lines();
            match parse(&again, &mut room, &LIMITS) {
                Ok(Parsed::Complete { request: second, head_len }) => {
                    prop_assert_eq!(head_len, again.len());
                    prop_assert_eq!(described(&second), described(&request));
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn c21_what_is_accepted_has_one_reading(head in plausible()) {
        let mut room = lines();
        if let Ok(Parsed::Complete { request, head_len }) = parse(&head, &mut room, &LIMITS) {
            let head = &head[..head_len];
            prop_assert!(!head.contains(&0));
            let crlf = head.windows(2).filter(|pair| pair == b"\r\n").count();
            prop_assert_eq!(head.iter().filter(|&&b| b == b'\n').count(), crlf);
            prop_assert_eq!(head.iter().filter(|&&b| b == b'\r').count(), crlf);
            prop_assert!(crlf == request.lines.len() + 2 || head.starts_with(b"\r\n"));
            let count = |name: &str| request.lines.iter().filter(|l| l.name.eq_ignore_ascii_case(name)).count();
            prop_assert!(count("content-length") + count("transfer-encoding") <= 1);
            prop_assert!(count("host") <= 1);
            if let Target::Origin { path, .. } = request.target {
                prop_assert!(path.starts_with('/'));
            }
        }
    }

    #[test]
    fn c21_a_refused_beginning_stays_refused(head in plausible(), cut: prop::sample::Index) {
        let whole = parse(&head, &mut lines(), &LIMITS).is_err();
        let part = parse(&head[..cut.index(head.len())], &mut lines(), &LIMITS).is_err();
        prop_assert!(whole || !part, "refused in part, accepted whole");
    }
}
