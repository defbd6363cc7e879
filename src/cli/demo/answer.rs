//! What goes in and out of the demo blog, and the answers that every site has.

use std::time::{Duration, UNIX_EPOCH};

/// What the blog needs to know of a request.
pub struct Ask<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub cookie: Option<&'a str>,
    pub if_none_match: Option<&'a str>,
    pub body: &'a [u8],
}

pub enum Reply {
    Whole(Answer),
    /// A `text/event-stream` without an end.
    Events,
    /// The connection breaks without a word.
    HangUp,
}

pub struct Answer {
    pub status: u16,
    pub fields: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

pub fn see_other(to: &str) -> Answer {
    Answer {
        status: 303,
        fields: vec![
            ("Location", to.to_owned()),
            ("Cache-Control", "no-store".to_owned()),
        ],
        body: Vec::new(),
    }
}

pub fn moved(to: &str) -> Answer {
    Answer {
        status: 302,
        fields: vec![
            ("Location", to.to_owned()),
            ("Cache-Control", "public, max-age=60".to_owned()),
        ],
        body: Vec::new(),
    }
}

pub fn not_modified(etag: &str, cache: &str) -> Answer {
    Answer {
        status: 304,
        fields: vec![
            ("ETag", etag.to_owned()),
            ("Cache-Control", cache.to_owned()),
        ],
        body: Vec::new(),
    }
}

pub fn not_allowed() -> Answer {
    let mut answer = plain(405, "this address is for reading\n");
    answer.fields.push(("Allow", "GET, HEAD".to_owned()));
    answer
}

pub fn plain(status: u16, text: &str) -> Answer {
    Answer {
        status,
        fields: vec![
            ("Content-Type", "text/plain; charset=utf-8".to_owned()),
            ("Cache-Control", "no-store".to_owned()),
        ],
        body: text.into(),
    }
}

/// A field of an urlencoded form. Percent codes are left as they stand: no value here needs them.
pub fn form_value(body: &[u8], name: &str) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    body.split('&').find_map(|pair| match pair.split_once('=') {
        Some((key, value)) if key == name => Some(value.to_owned()),
        _ => None,
    })
}

pub fn matches_etag(if_none_match: Option<&str>, etag: &str) -> bool {
    let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    if_none_match.is_some_and(|tags| {
        tags.trim() == "*" || tags.split(',').any(|tag| weak(tag) == weak(etag))
    })
}

pub fn http_date(unix: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix))
}
