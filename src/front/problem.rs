//! Answers of our own: refusals and failures, as problem+json (RFC 9457) or a small page, by what the client prefers.

use http::StatusCode;

use crate::cache::flight::Failure;
use crate::rules::cache_status::Told;
use crate::rules::host;
use crate::rules::request::{ALLOW, Reject, Request, Target};
use crate::telemetry::{CacheResult, ids};

/// An answer of our own.
#[derive(Debug, Clone)]
pub struct Problem {
    pub status: u16,
    pub why: &'static str,
    pub result: CacheResult,
    /// The connection cannot go on: its next bytes are not to be trusted, or not to be read.
    pub close: bool,
    allow: bool,
    retry: bool,
    /// Size of the page, for 416.
    size: Option<u64>,
    /// Where the page is, for 308.
    location: Option<Box<str>>,
}

impl Problem {
    fn new(status: u16, why: &'static str, result: CacheResult) -> Problem {
        Problem {
            status,
            why,
            result,
            close: false,
            allow: status == 405,
            retry: status == 503,
            size: None,
            location: None,
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

    /// An answer to OPTIONS, which is none of the origin's business.
    pub fn options() -> Problem {
        Problem {
            allow: true,
            ..Problem::new(204, "", CacheResult::Pass)
        }
    }

    pub fn too_many_waiters() -> Problem {
        Problem::new(503, "too many requests wait already", CacheResult::Overload)
    }

    pub fn waited() -> Problem {
        Problem::new(503, "the page did not come in time", CacheResult::Overload)
    }

    /// What a client is told of a failure behind us.
    pub fn failure(failure: &Failure) -> Problem {
        match failure {
            Failure::BadGateway(why) => Problem::new(502, why, CacheResult::Error),
            Failure::OriginStatus(_) => {
                Problem::new(502, "the origin failed to answer", CacheResult::Error)
            }
            Failure::Timeout(why) => Problem::new(504, why, CacheResult::Error),
            Failure::Refused(why) => Problem::new(503, why, CacheResult::Overload),
            Failure::NoMemory => {
                Problem::new(503, "no memory left for this answer", CacheResult::Overload)
            }
            Failure::FellBehind | Failure::Lost => {
                Problem::new(502, "the answer was lost on its way", CacheResult::Error)
            }
        }
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
        let reason = StatusCode::from_u16(self.status)
            .ok()
            .and_then(|s| s.canonical_reason())
            .unwrap_or("Error");
        out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", self.status).as_bytes());
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
        if self.retry {
            // Apart, so that those turned away together don't come back together.
            out.extend_from_slice(format!("Retry-After: {}\r\n", 1 + ids::random() % 4).as_bytes());
        }
        if let Some(location) = &self.location {
            out.extend_from_slice(format!("Location: {location}\r\n").as_bytes());
        }
        if let Some(size) = self.size {
            out.extend_from_slice(format!("Content-Range: bytes */{size}\r\n").as_bytes());
        }
        if self.status == 204 {
            return;
        }
        let text = if html {
            self.html(reason)
        } else {
            self.json(reason)
        };
        let kind = if html {
            "text/html; charset=utf-8"
        } else {
            "application/problem+json"
        };
        out.extend_from_slice(
            format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", text.len()).as_bytes(),
        );
        if !head_only {
            body.extend_from_slice(text.as_bytes());
        }
    }

    fn json(&self, title: &str) -> String {
        serde_json::json!({"type": "about:blank", "title": title, "status": self.status, "detail": self.why}).to_string()
            + "\n"
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

#[cfg(test)]
mod tests {
    use super::*;

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
        for _ in 0..20 {
            let (head, _) = rendered(&Problem::too_many_waiters(), false);
            let at = head.find("Retry-After: ").expect("Retry-After") + 13;
            let seconds: u32 = head[at..].lines().next().unwrap().parse().unwrap();
            assert!((1..=4).contains(&seconds));
        }
    }
}
