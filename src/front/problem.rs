//! Answers of our own: refusals and failures, as problem+json (RFC 9457) or a small page, by what the client prefers.

use std::time::Duration;

use http::StatusCode;

use crate::cache::flight::Failure;
use crate::rules::cache_status::Told;
use crate::rules::decimal;
use crate::rules::host;
use crate::rules::request::{ALLOW, Reject, Request, Target};
use crate::rules::retry_after::retry_after;
use crate::telemetry::{CacheResult, ids};

/// Whether who accepts so prefers a page to JSON.
pub fn prefers_html(accept: &[u8]) -> bool {
    memchr::memmem::find(accept, b"text/html").is_some()
}

/// Room for the head of most answers of our own.
const HEAD: usize = 512;

/// An answer of our own.
#[derive(Debug, Clone)]
pub struct Problem {
    pub status: u16,
    pub why: &'static str,
    pub result: CacheResult,
    /// The connection cannot go on: its next bytes are not to be trusted, or not to be read.
    pub close: bool,
    allow: bool,
    /// How long it takes to work off what waits: then those who were refused may come back.
    retry: Option<Duration>,
    /// Size of the page, for 416.
    size: Option<u64>,
    /// Where the page is, for 308.
    location: Option<Box<str>>,
    /// Set-Cookie.
    cookie: Option<Box<str>>,
}

impl Problem {
    fn new(status: u16, why: &'static str, result: CacheResult) -> Problem {
        Problem {
            status,
            why,
            result,
            close: false,
            allow: status == 405,
            retry: (status == 503).then_some(Duration::ZERO),
            size: None,
            location: None,
            cookie: None,
        }
    }

    /// The same page over HTTPS, whatever the method (RFC 9110 §15.4.9).
    pub fn to_https(request: &Request, port: u16) -> Problem {
        let host = host::without_port(request.host);
        if host.is_empty() {
            return Problem::no_route();
        }
        let (path, query) = match request.target {
            Target::Origin { path, query } => (path, query),
            Target::Asterisk => ("/", None),
        };
        let mut location = format!("https://{host}");
        if port != 443 {
            location.push_str(&format!(":{port}"));
        }
        location.push_str(path);
        if let Some(query) = query {
            location.push('?');
            location.push_str(query);
        }
        Problem {
            location: Some(location.into()),
            ..Problem::new(308, "this site speaks HTTPS", CacheResult::Refused)
        }
    }

    /// HTTP without TLS where TLS is spoken.
    pub fn plain_http() -> Problem {
        Problem {
            close: true,
            ..Problem::new(400, "this port speaks HTTPS", CacheResult::Refused)
        }
    }

    /// A request of HTTP/2 that HTTP/1.1 could not say.
    pub fn malformed(why: &'static str) -> Problem {
        Problem::new(400, why, CacheResult::Refused)
    }

    pub fn reject(reject: Reject) -> Problem {
        Problem {
            close: true,
            ..Problem::new(reject.status(), reject.why(), CacheResult::Refused)
        }
    }

    pub fn no_route() -> Problem {
        Problem::new(
            404,
            "no route serves this host and path",
            CacheResult::Refused,
        )
    }

    /// A route takes no changes, for as long as operators say so.
    pub fn readonly() -> Problem {
        Problem::new(
            503,
            "this site takes no changes for the moment: it can be read",
            CacheResult::Refused,
        )
    }

    pub fn blocked() -> Problem {
        Problem::new(
            403,
            "this site does not answer this request",
            CacheResult::Refused,
        )
    }

    /// A pass is asked for, and none was brought.
    pub fn no_pass() -> Problem {
        let why = "a browser has to solve a small puzzle first: open a page of this site in one";
        Problem::new(403, why, CacheResult::Challenged)
    }

    /// A pass was brought, or is given by this line.
    pub fn passed(cookie: Option<String>) -> Problem {
        Problem {
            cookie: cookie.map(Into::into),
            ..Problem::new(204, "", CacheResult::Challenged)
        }
    }

    pub fn wrong_solution() -> Problem {
        let why = "this solves no puzzle of ours for this address";
        Problem::new(403, why, CacheResult::Challenged)
    }

    pub fn late_solution() -> Problem {
        Problem::new(
            403,
            "the puzzle was solved too late",
            CacheResult::Challenged,
        )
    }

    /// A path of ours that stands for nothing.
    pub fn nothing_here() -> Problem {
        Problem::new(404, "nothing is here", CacheResult::Refused)
    }

    pub fn not_here() -> Problem {
        Problem::new(405, "pages are not purged from here", CacheResult::Refused)
    }

    pub fn looped() -> Problem {
        Problem::new(
            508,
            "this request has been through here already",
            CacheResult::Refused,
        )
    }

    pub fn body_too_large() -> Problem {
        Problem {
            close: true,
            ..Problem::new(413, "the request's body is too large", CacheResult::Refused)
        }
    }

    pub fn bad_body() -> Problem {
        Problem {
            close: true,
            ..Problem::new(400, "the request's body is malformed", CacheResult::Refused)
        }
    }

    pub fn slow_head() -> Problem {
        Problem {
            close: true,
            ..Problem::new(
                408,
                "the request's head took too long",
                CacheResult::Refused,
            )
        }
    }

    pub fn slow_body() -> Problem {
        Problem {
            close: true,
            ..Problem::new(
                408,
                "the request's body took too long",
                CacheResult::Refused,
            )
        }
    }

    pub fn only_if_cached() -> Problem {
        Problem::new(
            504,
            "the page is not in the cache, and only-if-cached asks for no other",
            CacheResult::Miss,
        )
    }

    pub fn range(size: u64) -> Problem {
        Problem {
            size: Some(size),
            ..Problem::new(416, "the page has no such bytes", CacheResult::Hit)
        }
    }

    pub fn limited() -> Problem {
        Problem::new(
            429,
            "too many requests have come from you",
            CacheResult::Limited,
        )
    }

    /// An answer to OPTIONS, which is none of the origin's business.
    pub fn options() -> Problem {
        Problem {
            allow: true,
            ..Problem::new(204, "", CacheResult::Pass)
        }
    }

    /// `backlog`: how long it takes to work off what waits for its upstream.
    pub fn too_many_waiters(backlog: Duration) -> Problem {
        Problem::new(503, "too many requests wait already", CacheResult::Overload).after(backlog)
    }

    pub fn waited(backlog: Duration) -> Problem {
        Problem::new(503, "the page did not come in time", CacheResult::Overload).after(backlog)
    }

    fn after(self, backlog: Duration) -> Problem {
        Problem {
            retry: Some(backlog),
            ..self
        }
    }

    /// What a client is told of a failure behind us.
    pub fn failure(failure: &Failure) -> Problem {
        match failure {
            Failure::BadGateway(why) => Problem::new(502, why, CacheResult::Error),
            Failure::OriginStatus(_) => {
                Problem::new(502, "the origin failed to answer", CacheResult::Error)
            }
            Failure::Timeout(why) => Problem::new(504, why, CacheResult::Error),
            Failure::Refused(refusal) => {
                Problem::new(503, refusal.why, CacheResult::Overload).after(refusal.backlog)
            }
            Failure::NoMemory => {
                Problem::new(503, "no memory left for this answer", CacheResult::Overload)
            }
            Failure::FellBehind | Failure::Lost => {
                Problem::new(502, "the answer was lost on its way", CacheResult::Error)
            }
        }
    }

    /// What is the same in each answer to it: the start of its head, and its body.
    pub fn render_undated(&self, html: bool, out: &mut Vec<u8>, body: &mut Vec<u8>) {
        self.status_line(out);
        out.extend_from_slice(b"Cache-Control: no-store\r\n");
        *body = self.body(html, out);
    }

    /// Head fields and body, without the lines every answer gets.
    pub fn render(
        &self,
        html: bool,
        head_only: bool,
        told: Option<&Told>,
        out: &mut Vec<u8>,
        body: &mut Vec<u8>,
    ) {
        self.status_line(out);
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(&crate::rules::date::format(crate::clock::now().wall));
        out.extend_from_slice(b"\r\nCache-Control: no-store\r\n");
        if let Some(told) = told {
            out.extend_from_slice(b"Cache-Status: ");
            told.write(out);
            out.extend_from_slice(b"\r\n");
        }
        if self.allow {
            out.extend_from_slice(format!("Allow: {ALLOW}\r\n").as_bytes());
        }
        if let Some(backlog) = self.retry {
            out.extend_from_slice(b"Retry-After: ");
            decimal::write(retry_after(backlog, ids::random()), out);
            out.extend_from_slice(b"\r\n");
        }
        if let Some(location) = &self.location {
            out.extend_from_slice(format!("Location: {location}\r\n").as_bytes());
        }
        if let Some(cookie) = &self.cookie {
            out.extend_from_slice(format!("Set-Cookie: {cookie}\r\n").as_bytes());
        }
        if let Some(size) = self.size {
            out.extend_from_slice(format!("Content-Range: bytes */{size}\r\n").as_bytes());
        }
        if self.status == 204 {
            return;
        }
        let text = self.body(html, out);
        if !head_only {
            *body = text;
        }
    }

    fn status_line(&self, out: &mut Vec<u8>) {
        out.reserve(HEAD);
        out.extend_from_slice(b"HTTP/1.1 ");
        decimal::write(self.status, out);
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// The body, whose lines are appended to the head.
    fn body(&self, html: bool, out: &mut Vec<u8>) -> Vec<u8> {
        let (kind, text) = self.page(html);
        out.extend_from_slice(b"Content-Type: ");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\r\nContent-Length: ");
        decimal::write(text.len(), out);
        out.extend_from_slice(b"\r\n");
        text.into_bytes()
    }

    /// Its Content-Type and body.
    pub fn page(&self, html: bool) -> (&'static str, String) {
        let title = reason(self.status);
        match html {
            true => ("text/html; charset=utf-8", self.html(title)),
            false => ("application/problem+json", self.json(title)),
        }
    }

    /// Put together by hand: a refusal is to cost no more than a hit, and none of these texts has to be escaped.
    fn json(&self, title: &str) -> String {
        let mut status = itoa::Buffer::new();
        [
            "{\"detail\":\"",
            self.why,
            "\",\"status\":",
            status.format(self.status),
            ",\"title\":\"",
            title,
            "\",\"type\":\"about:blank\"}\n",
        ]
        .concat()
    }

    fn html(&self, title: &str) -> String {
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\">\
             <title>{status} {title}</title>\
             <body style=\"font:1.1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:15vh auto;padding:0 1rem\">\
             <h1>{title}</h1><p>{why}.</p><p><small>{status}</small></p></body></html>\n",
            status = self.status,
            why = self.why,
        )
    }
}

fn reason(status: u16) -> &'static str {
    let status = StatusCode::from_u16(status).ok();
    let reason = status.and_then(|status| status.canonical_reason());
    reason.unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::flight::Refusal;

    fn rendered(problem: &Problem, html: bool) -> (String, String) {
        let (mut head, mut body) = (Vec::new(), Vec::new());
        problem.render(html, false, None, &mut head, &mut body);
        (
            String::from_utf8(head).unwrap(),
            String::from_utf8(body).unwrap(),
        )
    }

    #[test]
    fn rfc9457_problems_are_json_or_html() {
        let (head, body) = rendered(&Problem::no_route(), false);
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{head}");
        assert!(head.contains("Content-Type: application/problem+json\r\n"));
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["status"], 404);
        let (head, body) = rendered(&Problem::no_route(), true);
        assert!(head.contains("Content-Type: text/html"));
        assert!(body.contains("<h1>Not Found</h1>"));
    }

    #[test]
    fn every_503_says_when_to_come_back() {
        for (backlog, expected) in [(0, 1..=4), (10, 10..=20), (10_000, 30..=60)] {
            for _ in 0..20 {
                let backlog = Duration::from_secs(backlog);
                let (head, _) = rendered(&Problem::too_many_waiters(backlog), false);
                let at = head.find("Retry-After: ").expect("Retry-After") + 13;
                let seconds: u32 = head[at..].lines().next().unwrap().parse().unwrap();
                assert!(expected.contains(&seconds), "{seconds}");
            }
        }
    }

    #[test]
    fn no_text_has_to_be_escaped() {
        let refused = |why| {
            Problem::failure(&Failure::Refused(Refusal {
                why,
                is_down: true,
                backlog: Duration::ZERO,
            }))
        };
        for problem in [
            Problem::no_route(),
            Problem::blocked(),
            Problem::looped(),
            Problem::only_if_cached(),
            Problem::no_pass(),
            Problem::wrong_solution(),
            Problem::range(7),
            refused("the origin is down"),
        ] {
            let (head, body) = rendered(&problem, false);
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["detail"], problem.why);
            assert_eq!(json["type"], "about:blank");
            let length = format!("Content-Length: {}\r\n", body.len());
            assert!(head.contains(&length), "{head}");
        }
    }
}
