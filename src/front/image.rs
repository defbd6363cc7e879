//! Hot pages as most clients get them: head, lines and body in one piece, which a worker keeps for itself and patches in
//! place.
//!
//! From one hit to the next only the request's id differs, once a second the age and what is left of the lifetime too. So
//! a hit renders nothing and is one write of one buffer, which the kernel copies faster than one it has to gather.
//!
//! An image is served only if the lookup found the very entry it was made of: what was invalidated or replaced is not
//! looked up any more. It holds no entry alive. Images have an account of their own in the cache's memory.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::asking::Noted;
use super::lines::{Lines, has_body};
use super::page::Page;
use crate::cache::entry::Entry;
use crate::cache::memory::{Charge, Memory, weight};
use crate::rules::cache_status::Told;

/// Images a worker keeps at most.
const PLACES: usize = 32;
/// The largest image: copies of larger answers would not stay in a processor's cache.
const LARGEST: usize = 20 * 1024;
/// Room for the lines between a page's own head and its body.
const LINES: usize = 512;
/// A page has an image made when it was asked for so often since its place's own was last served.
const WORTH: u32 = 8;

thread_local! {
    static IMAGES: RefCell<[Place; PLACES]> = const { RefCell::new([const { Place::EMPTY }; PLACES]) };
}

struct Place {
    image: Option<Image>,
    /// Where the other entry is that was served last, and how often it was in a row.
    other: (usize, u32),
}

impl Place {
    const EMPTY: Place = Place {
        image: None,
        other: (0, 0),
    };
}

struct Image {
    /// Keeps the entry's place in memory taken, so that no other can be mistaken for it.
    entry: Weak<Entry>,
    bytes: Vec<u8>,
    /// What `bytes` says: from where on, and where its parts are.
    start: usize,
    id_at: usize,
    body_at: usize,
    says: Option<Says>,
    _charge: Charge,
}

/// What the lines of an image tell, beside the request's id.
type Says = (u64, Told<'static>, bool);

/// Has `send` send the whole page's answer, of which the first so many bytes are the head; `None` if there is no image of
/// the page, or this client gets other lines than most.
pub fn send<T>(
    page: &Page<'_>,
    noted: &Noted,
    close: bool,
    memory: &Arc<Memory>,
    send: impl FnOnce(&[u8], usize) -> T,
) -> Option<T> {
    if close
        || page.guise.is_some()
        || noted.http10
        || page.told.key.is_some()
        || noted.admission.is_told()
    {
        return None;
    }
    let says = (
        page.age(),
        Told {
            way: page.told.way,
            ttl: page.told.ttl,
            detail: page.told.detail,
            key: None,
        },
        page.x_cache,
    );
    let address = Arc::as_ptr(page.entry) as usize;
    IMAGES.with_borrow_mut(|places| {
        let at = address / size_of::<Entry>() % PLACES;
        if !places[at].is_of(page.entry) {
            if !places[at].is_worth(address) {
                return None;
            }
            forget_the_gone(places);
            places[at].image = Some(Image::new(page.entry, memory)?);
        }
        let image = places[at].image.as_mut()?;
        if image.says != Some(says) {
            image.render(page, noted, says)?;
        }
        let id = image.bytes.get_mut(image.id_at..)?.first_chunk_mut()?;
        *id = *noted.id.as_bytes();
        let head_len = image.body_at - image.start;
        Some(send(&image.bytes[image.start..], head_len))
    })
}

/// Drops the images whose entries nobody holds any more.
fn forget_the_gone(places: &mut [Place]) {
    for place in places {
        place.image.take_if(|image| image.entry.strong_count() == 0);
    }
}

impl Place {
    fn is_of(&mut self, entry: &Arc<Entry>) -> bool {
        let image = self.image.as_ref();
        let is = image.is_some_and(|image| std::ptr::eq(image.entry.as_ptr(), Arc::as_ptr(entry)));
        if is {
            self.other.1 = 0;
        }
        is
    }

    /// Whether the entry at this address has been asked for often enough by now to have this place.
    fn is_worth(&mut self, address: usize) -> bool {
        let (last, times) = self.other;
        let times = if last == address { times + 1 } else { 1 };
        let is_worth = times > WORTH;
        self.other = (address, if is_worth { 0 } else { times });
        is_worth
    }
}

impl Image {
    fn new(entry: &Arc<Entry>, memory: &Arc<Memory>) -> Option<Image> {
        let [body] = entry.body.pieces() else {
            return None;
        };
        let body_at = entry.head.bytes().len() + entry.content_length.len() + LINES;
        let len = body_at + body.len();
        if len > LARGEST || !has_body(entry.head.status) {
            return None;
        }
        let charge = memory.charge(weight(len))?;
        let mut bytes = vec![0; len];
        bytes[body_at..].copy_from_slice(body);
        Some(Image {
            entry: Arc::downgrade(entry),
            bytes,
            start: body_at,
            id_at: body_at,
            body_at,
            says: None,
            _charge: charge,
        })
    }

    /// Writes the head so that it ends where the body begins; nothing if it has no room.
    fn render(&mut self, page: &Page<'_>, noted: &Noted, says: Says) -> Option<()> {
        self.says = None;
        let mut head = Lines::take();
        let id_at = page.head(noted, false, &mut head.0);
        self.start = self.body_at.checked_sub(head.0.len())?;
        self.id_at = self.start + id_at;
        self.bytes[self.start..self.body_at].copy_from_slice(&head.0);
        self.says = Some(says);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::part::Part;
    use super::*;
    use crate::cache::entry::{Body, EntryParts, Head};
    use crate::clock;
    use crate::rules::storing::tests::terms;
    use crate::rules::time::Moment;
    use crate::telemetry::RequestId;

    fn entry(size: usize) -> Arc<Entry> {
        let memory = Memory::new(1 << 20);
        let pieces = [Bytes::from(vec![b'x'; size])];
        let parts = EntryParts {
            head: Head::render(200, &HeaderMap::new(), &[], &[]),
            body: Body::gather(&pieces, &memory),
            terms: terms(600),
            stored: Moment(0),
            variant: Default::default(),
            cost: Duration::ZERO,
            generation: 0,
            tags: Default::default(),
        };
        Arc::new(Entry::new(parts, &memory).unwrap())
    }

    /// Another request, and what an image sends it at `at`.
    fn sent(entry: &Arc<Entry>, at: u64, memory: &Arc<Memory>) -> (Noted, Option<Vec<u8>>) {
        let noted = Noted {
            id: RequestId::fresh(),
            ..Noted::blank(clock::tick())
        };
        let told = Told::hit(600 - (at / 1000) as i64);
        let whole = send(
            &page(entry, &told, at),
            &noted,
            false,
            memory,
            |whole, _| whole.to_vec(),
        );
        (noted, whole)
    }

    fn page<'a>(entry: &'a Arc<Entry>, told: &'a Told<'a>, at: u64) -> Page<'a> {
        Page {
            entry,
            part: &Part::Whole,
            told,
            x_cache: false,
            at: Moment(at),
            guise: None,
        }
    }

    fn rendered(entry: &Arc<Entry>, noted: &Noted, at: u64) -> Vec<u8> {
        let told = Told::hit(600 - (at / 1000) as i64);
        let mut whole = Vec::new();
        page(entry, &told, at).head(noted, false, &mut whole);
        whole.extend_from_slice(&entry.body.pieces()[0]);
        whole
    }

    /// Asks until there is an image.
    fn warm(entry: &Arc<Entry>, memory: &Arc<Memory>) {
        for _ in 0..WORTH {
            assert!(sent(entry, 0, memory).1.is_none());
        }
        assert!(sent(entry, 0, memory).1.is_some());
    }

    #[test]
    fn a_page_that_is_worth_it_goes_out_as_it_would_have_been_rendered() {
        let (entry, memory) = (entry(1000), Memory::new(1 << 20));
        warm(&entry, &memory);
        for at in [0, 1, 999, 1000, 9_999, 10_000, 501_000, 500_000] {
            let (noted, whole) = sent(&entry, at, &memory);
            let should_be = rendered(&entry, &noted, at);
            assert_eq!(
                whole.unwrap().escape_ascii().to_string(),
                should_be.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn who_gets_other_lines_gets_no_image() {
        let (entry, memory) = (entry(1000), Memory::new(1 << 20));
        warm(&entry, &memory);
        let (hit, keyed) = (
            Told::hit(600),
            Told {
                key: Some(b"k"),
                ..Told::hit(600)
            },
        );
        let noted = Noted::blank(clock::tick());
        let old = Noted {
            http10: true,
            ..Noted::blank(clock::tick())
        };
        for (told, noted, close) in [
            (&hit, &noted, true),
            (&hit, &old, false),
            (&keyed, &noted, false),
        ] {
            assert!(send(&page(&entry, told, 0), noted, close, &memory, |_, _| ()).is_none());
        }
        assert!(send(&page(&entry, &hit, 0), &noted, false, &memory, |_, _| ()).is_some());
    }

    #[test]
    fn large_ones_and_those_without_memory_have_none() {
        let (large, small) = (entry(LARGEST), entry(1000));
        let (ample, little) = (Memory::new(1 << 20), Memory::new(1000));
        for _ in 0..4 * WORTH {
            assert!(sent(&large, 0, &ample).1.is_none());
            assert!(sent(&small, 0, &little).1.is_none());
        }
        assert_eq!((ample.used(), little.used()), (0, 0));
    }

    #[test]
    fn a_place_is_its_own_pages_as_long_as_that_is_served() {
        let mut place = Place::EMPTY;
        let own = entry(10);
        place.image = Image::new(&own, &Memory::new(1 << 20));
        for _ in 0..100 {
            for other in [1, 1, 1, 1, 2, 2] {
                assert!(!place.is_worth(other));
            }
            assert!(place.is_of(&own));
        }
        assert!((0..WORTH).all(|_| !place.is_worth(1)));
        assert!(place.is_worth(1));
    }

    #[test]
    fn the_memory_of_pages_that_are_gone_is_given_back() {
        let memory = Memory::new(1 << 20);
        let first = entry(1000);
        warm(&first, &memory);
        let used = memory.used();
        assert!(used > 1000);
        drop(first);
        let second = entry(1000);
        warm(&second, &memory);
        assert_eq!(memory.used(), used);
    }
}
