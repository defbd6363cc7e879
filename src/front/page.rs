//! A stored page on its way to one client.

use std::sync::Arc;

use bytes::BufMut;

use super::asking::Noted;
use super::lines::{common_lines, filtered, has_body, told_lines};
use super::part::Part;
use crate::cache::entry::{Entry, write_status_line};
use crate::rules::cache_status::Told;
use crate::rules::fresh;
use crate::rules::time::Moment;
use crate::telemetry::FallbackSource;

pub struct Page<'a> {
    pub entry: &'a Arc<Entry>,
    pub part: &'a Part,
    pub told: &'a Told<'a>,
    pub x_cache: bool,
    /// When its age is told.
    pub at: Moment,
    /// None: it is the page.
    pub guise: Option<Guise>,
}

/// What is said of a page that goes out though its app is gone.
#[derive(Clone, Copy)]
pub struct Guise {
    pub source: FallbackSource,
    /// Whoever is downstream may keep it as its origin said.
    pub keeps: bool,
    /// The app is there: it is only tried.
    pub is_drill: bool,
}

impl Guise {
    /// Appends the line that tells where it is from.
    pub fn line(source: FallbackSource, is_drill: bool, out: &mut impl BufMut) {
        out.put_slice(b"Tidegate-Fallback: ");
        out.put_slice(source.label().as_bytes());
        if is_drill {
            out.put_slice(b"; drill");
        }
        out.put_slice(b"\r\n");
    }

    /// Whether a field of the page says how long it may be kept.
    fn drops(self, name: &str) -> bool {
        const OF_KEEPING: [&str; 5] = [
            "cache-control",
            "edge-control",
            "expires",
            "pragma",
            "surrogate-control",
        ];
        // Whatever a cache is called (RFC 9213 §3), its own field goes before ours.
        !self.keeps && (OF_KEEPING.contains(&name) || name.ends_with("-cache-control"))
    }
}

impl Page<'_> {
    /// In seconds.
    pub fn age(&self) -> u64 {
        fresh::age(&self.entry.terms, self.entry.stored, self.at)
    }

    /// Appends its own fields whose lower-case names `keep` wants, and what its guise puts in their place.
    pub fn fields(&self, keep: impl Fn(&str) -> bool, out: &mut impl BufMut) {
        let Some(guise) = self.guise else {
            return filtered(&self.entry.head, keep, out);
        };
        filtered(
            &self.entry.head,
            |name| keep(name) && !guise.drops(name),
            out,
        );
        if !guise.keeps {
            out.put_slice(b"Cache-Control: no-store\r\n");
        }
        Guise::line(guise.source, guise.is_drill, out);
    }

    /// Appends the head of the whole page's answer. Where in `out` the request's id begins.
    pub fn head(&self, noted: &Noted, close: bool, out: &mut Vec<u8>) -> usize {
        let entry = self.entry;
        match self.guise {
            None => out.extend_from_slice(entry.head.bytes()),
            Some(_) => {
                write_status_line(entry.head.status, out);
                self.fields(|_| true, out);
            }
        }
        told_lines(self.age(), self.told, self.x_cache, out);
        let id_at = common_lines(noted, close, out);
        if has_body(entry.head.status) {
            out.extend_from_slice(entry.content_length.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        id_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9213_3_no_cache_is_told_to_keep_a_stand_in() {
        let guise = |keeps| Guise {
            source: FallbackSource::Cache,
            keeps,
            is_drill: false,
        };
        for name in [
            "cache-control",
            "cdn-cache-control",
            "cloudflare-cdn-cache-control",
            "netlify-cdn-cache-control",
            "edge-control",
            "surrogate-control",
            "expires",
            "pragma",
        ] {
            assert!(guise(false).drops(name), "{name}");
            assert!(!guise(true).drops(name), "{name}");
        }
        for name in ["cache-status", "age", "etag", "x-cache-controls"] {
            assert!(!guise(false).drops(name), "{name}");
        }
    }
}
