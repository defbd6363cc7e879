//! A whole answer becomes a stored page.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::encode::inherit;
use super::{Errand, Fetcher};
use crate::cache::entry::{Body, Entry, EntryParts, Head};
use crate::cache::store::Kept;
use crate::cache::table::Variant;
use crate::cache::tags::Set;
use crate::clock;
use crate::rules::identity::Class;
use crate::rules::storing::{self, Terms};

/// What is known of an answer when its head has been judged.
pub struct Keeping {
    pub head: Head,
    pub terms: Terms,
    pub variant: Variant,
    pub stored: crate::rules::time::Moment,
    pub cost: Duration,
    pub generation: u64,
    pub tags: Set,
}

/// Stores a body of `len` bytes under its head, if `pieces` are all of it: the last may not have found memory.
pub fn keep(fetcher: &Arc<Fetcher>, errand: &Errand, keeping: Keeping, pieces: &[Bytes], len: u64) {
    let whole = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>() == len;
    if !whole || shadows_a_better_page(fetcher, errand, &keeping) {
        return;
    }
    let body = Body::gather(pieces, &fetcher.memory);
    if let Some(entry) = entry(fetcher, keeping, body) {
        put(fetcher, errand, &entry);
    }
}

/// Renews a stored page that the origin said is still true (RFC 9111 §4.3.4). The body is shared with the old one.
pub fn renew(fetcher: &Arc<Fetcher>, errand: &Errand, keeping: Keeping) -> Option<Arc<Entry>> {
    let body = errand.stored.as_ref()?.body.clone();
    let entry = entry(fetcher, keeping, body)?;
    put(fetcher, errand, &entry);
    Some(entry)
}

fn entry(fetcher: &Fetcher, keeping: Keeping, body: Body) -> Option<Arc<Entry>> {
    let Keeping {
        head,
        terms,
        variant,
        stored,
        cost,
        generation,
        tags,
    } = keeping;
    Entry::new(
        EntryParts {
            head,
            body,
            terms,
            stored,
            variant,
            cost,
            generation,
            tags,
        },
        &fetcher.memory,
    )
    .map(Arc::new)
}

fn put(fetcher: &Arc<Fetcher>, errand: &Errand, entry: &Arc<Entry>) {
    let now = clock::now();
    if is_public(errand, entry) {
        entry.make_public();
    }
    let before = errand.stored.as_ref();
    let missing = before.map(|before| inherit(fetcher, entry, before));
    if (fetcher.store).put(&errand.key, Arc::clone(entry), fetcher.reign, now.mono) == Kept::Yes {
        fetcher.counts.stored.fetch_add(1, Ordering::Relaxed);
        if entry.is_public() {
            let origin = fetcher.origin(errand.route.upstream);
            fetcher.snapshot.note(&errand.key, origin);
        }
        for coding in missing.unwrap_or_default() {
            fetcher.encode(&errand.key, entry, coding);
        }
    }
}

/// Whether a page may be kept for the day when nobody can be asked: it was given to somebody who said nothing of himself, sets no
/// cookie, and is no error.
fn is_public(errand: &Errand, entry: &Entry) -> bool {
    errand.class == Class::Anonymous
        && !errand.asked.authorization
        && entry.head.status < 400
        // As heads are rendered.
        && memchr::memmem::find(entry.head.bytes(), b"\r\nSet-Cookie:").is_none()
}

/// An error with freshness is stored like any answer, but never over a page that stale-if-error could use.
fn shadows_a_better_page(fetcher: &Fetcher, errand: &Errand, keeping: &Keeping) -> bool {
    let now = clock::now().mono;
    let Some(slot) = fetcher.store.get(errand.key.as_ref(), now) else {
        return false;
    };
    slot.variants()
        .iter()
        .filter(|old| old.variant == keeping.variant)
        .any(|old| {
            !storing::may_replace(
                keeping.head.status,
                old.head.status,
                &old.terms,
                old.stored,
                now,
            )
        })
}
