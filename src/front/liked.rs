//! Which coding of a stored page a client gets.

use std::sync::Arc;

use super::Site;
use super::asking::Asking;
use crate::cache::entry::Entry;
use crate::rules::vary::Codings;

/// The page in the coding that this client likes best and that is there, and a wish for the one that it should be.
/// Ranges are cut from the page as it came.
pub fn in_liked_coding<'a>(site: &Site, asking: &Asking, entry: &'a Arc<Entry>) -> &'a Arc<Entry> {
    let known = &asking.request.known;
    let Some(line) = known.accept_encoding else {
        return entry;
    };
    if known.range.is_some() || asking.no_transform || !entry.may_encode() {
        return entry;
    }
    let accepted = match known.accept_encoding_many {
        false => Codings::of_line(line),
        true => Codings::of(asking.request),
    };
    let codings = asking.route.compress.iter().copied();
    let mut liked = codings.filter(|coding| accepted.contains(coding.as_set()));
    let Some(best) = liked.next() else {
        return entry;
    };
    if let Some(encoded) = entry.encoded.get(best) {
        return encoded;
    }
    if entry.encoded.wished(best) {
        site.fetcher.encode(&asking.key.to_key(), entry, best);
    }
    let there = liked.find_map(|coding| entry.encoded.get(coding));
    there.unwrap_or(entry)
}
