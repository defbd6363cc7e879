//! What the admin listener answers with.

use std::time::Duration;

use crate::clock;
use crate::telemetry::ids;

/// An answer of this listener; never stored by anyone.
pub(super) struct Reply {
    status: u16,
    content_type: &'static str,
    extra: String,
    body: String,
}

impl Reply {
    pub(super) fn new(status: u16, content_type: &'static str, body: String) -> Reply {
        Reply {
            status,
            content_type,
            extra: String::new(),
            body,
        }
    }

    pub(super) fn json(status: u16, body: String) -> Reply {
        Reply::new(status, "application/json", body)
    }

    /// RFC 9457.
    pub(super) fn problem(status: u16, detail: &str) -> Reply {
        let body =
            serde_json::json!({ "title": reason(status), "status": status, "detail": detail });
        Reply::new(status, "application/problem+json", format!("{body}\n"))
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Reply {
        self.extra += &format!("{name}: {value}\r\n");
        self
    }

    /// With a `Retry-After` of a few seconds, not the same for all.
    pub(super) fn retry_later(self) -> Reply {
        let seconds = 1 + ids::random() % 3;
        self.with("Retry-After", &seconds.to_string())
    }

    pub(super) fn into_bytes(self, head_only: bool) -> Vec<u8> {
        let Reply {
            status,
            content_type,
            extra,
            body,
        } = self;
        let now = Duration::from_secs(clock::now().wall);
        let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + now);
        let mut bytes = format!(
            "HTTP/1.1 {status} {}\r\nDate: {date}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{extra}\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
            reason(status),
            body.len()
        )
        .into_bytes();
        if !head_only {
            bytes.extend_from_slice(body.as_bytes());
        }
        bytes
    }
}

pub(super) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "",
    }
}
