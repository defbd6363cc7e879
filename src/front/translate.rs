//! HTTP/2 messages as HTTP/1.1 heads and back (RFC 9113 §8), so that one reader judges both and one renderer answers both.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};

use crate::rules::host::{self, Scheme};

/// Fields that are a connection's business, which HTTP/2 has none of (RFC 9113 §8.2.2).
const OF_CONNECTIONS: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Writes the head of `request` as HTTP/1.1. `ends`: no body follows.
///
/// # Errors
/// What no HTTP/1.1 request could say, in a line.
pub fn head<B>(
    request: &Request<B>,
    scheme: Scheme,
    ends: bool,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    let (uri, fields) = (request.uri(), request.headers());
    if uri.scheme_str().is_some_and(|told| told != scheme.as_str()) {
        return Err("the request's scheme is not the connection's");
    }
    let authority = uri.authority().map(|authority| authority.as_str());
    let host = host(authority, fields, scheme)?;
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let target = uri.path_and_query().map(|target| target.as_str());
    // CONNECT has no path.
    out.extend_from_slice(target.unwrap_or(host).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(host.as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut cookies = false;
    for (name, value) in fields {
        match name.as_str() {
            "host" => continue,
            // Interim answers are not sent over HTTP/2: who waits for one goes on after a while.
            "expect" if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => continue,
            // Chunks of one field (RFC 9113 §8.2.3).
            "cookie" if cookies => continue,
            "cookie" => {
                cookies = true;
                out.extend_from_slice(b"cookie: ");
                join(fields, header::COOKIE, out);
            }
            "te" if value == "trailers" => continue,
            "te" => return Err("TE in HTTP/2 says trailers, or nothing"),
            name if OF_CONNECTIONS.contains(&name) => {
                return Err("the request has a field of a connection, which HTTP/2 has none of");
            }
            name => {
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b": ");
                out.extend_from_slice(value.as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
    }
    if !ends && !fields.contains_key(header::CONTENT_LENGTH) {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The host asked for: `:authority`, or Host, which must agree if there are both.
fn host<'a>(
    authority: Option<&'a str>,
    fields: &'a HeaderMap,
    scheme: Scheme,
) -> Result<&'a str, &'static str> {
    let mut hosts = fields.get_all(header::HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err("the request has two hosts");
    }
    let host = host
        .map(|host| host.to_str().map_err(|_| "the host is malformed"))
        .transpose()?;
    match (authority, host) {
        (Some(authority), Some(host)) if !host::same(authority, host, scheme) => {
            Err("Host and :authority disagree")
        }
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err("the request names no host"),
    }
}

fn join(fields: &HeaderMap, name: HeaderName, out: &mut Vec<u8>) {
    for (at, value) in fields.get_all(name).iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(value.as_bytes());
    }
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The response whose HTTP/1.1 head `head` is, without what belongs to a connection.
///
/// # Errors
/// It is no head.
pub fn response(head: &[u8]) -> io::Result<Response<()>> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let held = Bytes::copy_from_slice(head);
    let mut fields = HeaderMap::with_capacity(20);
    let mut status = None;
    let mut at = 0;
    for end in memchr::memchr_iter(b'\n', head) {
        let line = head[at..end].strip_suffix(b"\r").ok_or_else(malformed)?;
        if status.is_none() {
            let digits = line.get(9..12).ok_or_else(malformed)?;
            status = Some(StatusCode::from_bytes(digits).map_err(|_| malformed())?);
        } else if !line.is_empty() {
            let colon = memchr::memchr(b':', line).ok_or_else(malformed)?;
            let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| malformed())?;
            if !OF_CONNECTIONS.contains(&name.as_str()) {
                let value = held.slice(at + colon + 2..at + line.len());
                let mut value = HeaderValue::from_maybe_shared(value).map_err(|_| malformed())?;
                // It is another each time, and would drive all that stays the same out of the client's table (RFC 7541
                // §6.2.3).
                value.set_sensitive(name == X_REQUEST_ID);
                fields.append(name, value);
            }
        }
        at = end + 1;
    }
    let mut response = Response::new(());
    *response.status_mut() = status.ok_or_else(malformed)?;
    *response.headers_mut() = fields;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(build: http::request::Builder, ends: bool) -> Result<String, &'static str> {
        let mut out = Vec::new();
        head(&build.body(()).unwrap(), Scheme::Https, ends, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn get() -> http::request::Builder {
        Request::get("https://site.test/p?q=1")
    }

    #[test]
    fn rfc9113_8_3_1_a_request_becomes_one_of_http1() {
        assert_eq!(
            translated(get().header("accept", "*/*"), true).unwrap(),
            "GET /p?q=1 HTTP/1.1\r\nHost: site.test\r\naccept: */*\r\n\r\n"
        );
        assert!(
            translated(get(), false)
                .unwrap()
                .ends_with("transfer-encoding: chunked\r\n\r\n")
        );
        let sized = translated(get().header("content-length", "3"), false).unwrap();
        assert!(!sized.contains("chunked"), "{sized}");
    }

    #[test]
    fn rfc9113_8_2_3_cookies_are_joined() {
        let build = get()
            .header("cookie", "a=1")
            .header("x", "y")
            .header("cookie", "b=2");
        let text = translated(build, true).unwrap();
        assert!(text.contains("\r\ncookie: a=1; b=2\r\n"), "{text}");
        assert_eq!(text.matches("cookie").count(), 1);
    }

    #[test]
    fn c19_what_http1_could_not_say_is_refused() {
        for (name, value) in [
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("upgrade", "h2c"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("te", "gzip"),
            ("host", "other.test"),
        ] {
            assert!(
                translated(get().header(name, value), true).is_err(),
                "{name}"
            );
        }
        assert!(translated(Request::get("http://site.test/"), true).is_err());
        assert!(translated(Request::get("/p"), true).is_err());
        let twice = Request::get("/p").header("host", "a").header("host", "a");
        assert!(translated(twice, true).is_err());
    }

    #[test]
    fn rfc9113_8_2_2_an_answer_loses_what_is_its_connections() {
        let head = b"HTTP/1.1 404 Not Found\r\nDate: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nA: 1\r\nA: 2\r\n\r\n";
        let response = response(head).unwrap();
        assert_eq!(response.status(), 404);
        let names: Vec<_> = response
            .headers()
            .keys()
            .map(|name| name.as_str())
            .collect();
        assert_eq!(names, ["date", "a"]);
        assert_eq!(response.headers().get_all("a").iter().count(), 2);
    }
}
