//! A request head is judged the same however it comes in pieces, and what the origin gets of it is a request of one
//! reading.

use super::strict::{self, Reading};
use http::HeaderMap;
use tidegate::rules::forward::{self, AcceptEncoding, Forward, Kind};
use tidegate::rules::hop::is_hop_by_hop;
use tidegate::rules::host::{self, Scheme};
use tidegate::rules::identity::Class;
use tidegate::rules::request::{
    self, HeadLimits, MAX_METHOD, Method, Parsed, Reject, Request, RequestBody, Version, parse,
};
use tidegate::rules::target::{Target, write_path};

pub fn run(data: &[u8]) {
    let limits = HeadLimits::default();
    let mut lines = request::lines();
    match parse(data, &mut lines, &limits) {
        Err(why) => refused(data, why),
        Ok(Parsed::Partial) => assert!(data.len() < limits.head_bytes + 2),
        Ok(Parsed::Complete { request, head_len }) => {
            assert!(head_len <= data.len() && head_len <= limits.head_bytes + 2);
            assert!(data[..head_len].ends_with(b"\r\n\r\n"));
            in_pieces(data, head_len, &request);
            legal(&request, &limits);
            read_by_another(&data[..head_len], &request);
            for kind in [Kind::Shared, Kind::SingleReader, Kind::Pass] {
                forwarded(&request, kind);
            }
        }
    }
}

/// Once refused, more bytes do not help.
fn refused(data: &[u8], why: Reject) {
    assert!((400..=501).contains(&why.status()) && !why.why().is_empty());
    for more in [&b"x"[..], b"\r\n\r\n", b" HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let longer = [data, more].concat();
        let mut lines = request::lines();
        let again = parse(&longer, &mut lines, &HeadLimits::default());
        assert!(again.is_err(), "{why:?}, then {again:?}");
    }
}

/// What stands behind a head does not bear on it, and no beginning of it is refused or taken for the whole.
fn in_pieces(data: &[u8], head_len: usize, whole: &Request<'_>) {
    let limits = HeadLimits::default();
    let mut lines = request::lines();
    let alone = parse(&data[..head_len], &mut lines, &limits);
    assert_eq!(
        format!("{alone:?}"),
        format!(
            "{:?}",
            Ok::<_, Reject>(Parsed::Complete {
                request: *whole,
                head_len
            })
        )
    );
    let step = 1 + head_len / 128;
    for cut in (0..head_len).rev().step_by(step) {
        let mut lines = request::lines();
        let part = parse(&data[..cut], &mut lines, &limits);
        assert!(
            matches!(part, Ok(Parsed::Partial)),
            "cut at {cut}: {part:?}"
        );
    }
}

/// A strict reader sees the same request, and its body where it is looked for.
fn read_by_another(head: &[u8], request: &Request<'_>) {
    let body: &[u8] = match request.body {
        RequestBody::None => b"",
        RequestBody::Length(length) if length <= 1000 => &[b'x'; 1000][..length as usize],
        RequestBody::Length(_) => return,
        RequestBody::Chunked => b"0\r\n\r\n",
    };
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let bytes = [head, body].concat();
    match strict::request(&bytes) {
        Reading::Whole(read, used) => {
            assert_eq!(used, bytes.len());
            assert_eq!(read.method, request.method.as_str());
            assert_eq!(read.fields.len(), request.lines.len());
        }
        Reading::Partial => panic!("a strict reader waits for more"),
        Reading::Broken(why) => panic!("a strict reader refuses it: {why}"),
    }
}

/// RFC 9112 §3 and §6.3 once more, by what is left when all is read.
fn legal(request: &Request<'_>, limits: &HeadLimits) {
    let count = |name: &str| {
        request
            .lines
            .iter()
            .filter(|line| line.name.eq_ignore_ascii_case(name))
            .count()
    };
    let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
    assert!(request.lines.len() <= limits.fields);
    assert!(lengths + codings <= 1);
    assert!(codings == 0 || request.version == Version::Http11);
    match request.body {
        RequestBody::Chunked => assert_eq!(codings, 1),
        RequestBody::Length(length) => assert!(lengths == 1 && length > 0),
        RequestBody::None => assert_eq!(codings, 0),
    }
    assert!(count("host") == 1 || (count("host") == 0 && request.version == Version::Http10));
    assert!(!matches!(request.method, Method::Connect | Method::Trace));
    assert!(request.method.as_str().len() <= MAX_METHOD);
    if !request.host.is_empty() {
        assert_eq!(host::check(request.host.as_bytes()), Ok(request.host));
    }
    if let Some(upgrade) = request.upgrade {
        assert!(
            upgrade
                .split(|&b| b == b',')
                .all(|m| !m.trim_ascii().eq_ignore_ascii_case(b"h2c"))
        );
    }
    match request.target {
        Target::Asterisk => assert_eq!(request.method, Method::Options),
        Target::Origin { path, query } => {
            assert!(path.starts_with('/'));
            assert!(
                [path, query.unwrap_or_default()]
                    .concat()
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && b != b'#')
            );
        }
    }
}

/// The head for the origin, read by the same strictness: the target, the host and the framing it should have, and
/// nothing of the client's hop.
fn forwarded(request: &Request<'_>, kind: Kind) {
    let mut host = String::new();
    host::normalize(request.host, Scheme::Http, &mut host);
    let how = Forward {
        class: Class::Identified,
        kind,
        scheme: "http",
        host_as_keyed: &host,
        upstream_host: host.is_empty().then_some("origin.test"),
        accept_encoding: AcceptEncoding::Identity,
        client: Some([192, 0, 2, 1].into()),
        proxies: &[],
        via_version: request.version.number(),
        cdn_id: "tidegate-test",
        request_id: "id",
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        upgrade: kind == Kind::Pass && request.upgrade.is_some(),
        own_cookies: &[],
        forwarded: true,
    };
    let Ok(fields) = forward::fields(request, &how) else {
        return;
    };
    let (target, head) = render(request, &fields);
    // What we add may carry a head at the bound over it.
    let limits = HeadLimits {
        head_bytes: head.len(),
        fields: request::MAX_FIELDS,
        ..HeadLimits::default()
    };
    let mut lines = request::lines();
    let Ok(Parsed::Complete {
        request: got,
        head_len,
    }) = parse(&head, &mut lines, &limits)
    else {
        panic!("the origin would not take {}", head.escape_ascii());
    };
    assert_eq!(head_len, head.len());
    assert_eq!(
        (got.method, got.body, got.version),
        (request.method, request.body, Version::Http11)
    );
    assert_eq!(
        got.host,
        if host.is_empty() {
            "origin.test"
        } else {
            &host
        }
    );
    let written = match got.target {
        Target::Asterisk => "*".to_owned(),
        Target::Origin { path, query: None } => path.to_owned(),
        Target::Origin {
            path,
            query: Some(query),
        } => format!("{path}?{query}"),
    };
    assert_eq!(written, target);
    for line in got.lines {
        let framing = line.name.eq_ignore_ascii_case("transfer-encoding");
        let upgrade = how.upgrade && ["connection", "upgrade"].contains(&line.name);
        assert!(
            !is_hop_by_hop(line.name) || framing || upgrade,
            "{}",
            line.name
        );
        let mine = !line.name.eq_ignore_ascii_case("x-forwarded-for") || line.value == b"192.0.2.1";
        assert!(mine, "{}", line.value.escape_ascii());
    }
}

/// The target and the head that go to the origin; the framing is added as whoever sends the body does.
fn render(request: &Request<'_>, fields: &HeaderMap) -> (String, Vec<u8>) {
    let mut target = String::new();
    match request.target {
        Target::Asterisk => target.push('*'),
        Target::Origin { path, query } => {
            write_path(path, &mut target);
            if let Some(query) = query {
                target.push('?');
                target.push_str(query);
            }
        }
    }
    let mut head = format!("{} {target} HTTP/1.1\r\n", request.method.as_str()).into_bytes();
    for (name, value) in fields {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    match request.body {
        RequestBody::None => {}
        RequestBody::Length(length) => head.extend(format!("content-length: {length}\r\n").bytes()),
        RequestBody::Chunked => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    head.extend_from_slice(b"\r\n");
    (target, head)
}
