//! A stored page on its way to one client.

use std::sync::Arc;

use super::asking::Noted;
use super::lines::{common_lines, has_body, told_lines};
use super::part::Part;
use crate::cache::entry::Entry;
use crate::rules::cache_status::Told;
use crate::rules::fresh;
use crate::rules::time::Moment;

pub struct Page<'a> {
    pub entry: &'a Arc<Entry>,
    pub part: &'a Part,
    pub told: &'a Told<'a>,
    pub x_cache: bool,
    /// When its age is told.
    pub at: Moment,
}

impl Page<'_> {
    /// In seconds.
    pub fn age(&self) -> u64 {
        fresh::age(&self.entry.terms, self.entry.stored, self.at)
    }

    /// Appends the head of the whole page's answer. Where in `out` the request's id begins.
    pub fn head(&self, noted: &Noted, close: bool, out: &mut Vec<u8>) -> usize {
        let entry = self.entry;
        out.extend_from_slice(entry.head.bytes());
        told_lines(self.age(), self.told, self.x_cache, out);
        let id_at = common_lines(noted, close, out);
        if has_body(entry.head.status) {
            out.extend_from_slice(entry.content_length.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        id_at
    }
}
