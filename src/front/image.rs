//! Hot pages as most clients get them: head, lines and body in one piece, which a worker keeps for itself and patches in
//! place.
//!
//! From one hit to the next only the request's id differs, once a second the age and what is left of the lifetime too. So
//! a hit renders nothing and is one write of one buffer, which the kernel copies faster than one it has to gather.
//!
//! An image is served only if the lookup found the very entry it was made of: what was invalidated or replaced is not
//! looked up any more. It holds no entry alive, and is charged to the cache's memory.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::asking::Noted;
use super::deliver::Page;
use super::lines::{LINES, common_lines, has_body, told_lines};
use super::part::Part;
use crate::cache::entry::Entry;
use crate::cache::memory::{Charge, Memory, weight};
use crate::rules::cache_status::Told;

/// Images a worker keeps at most.
const PLACES: usize = 32;
/// The largest body an image has: copies of larger ones would not stay in a processor's cache.
const LARGEST: usize = 16 * 1024;
/// A page has an image made when it was served so often without another in its place.
const WORTH: u32 = 8;

thread_local! {
    static IMAGES: RefCell<[Place; PLACES]> = const { RefCell::new([const { Place::EMPTY }; PLACES]) };
    static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Place {
    image: Option<Image>,
    /// Where the entry is that was served last, and how often it was in a row.
    asked: (usize, u32),
}

impl Place {
    const EMPTY: Place = Place {
        image: None,
        asked: (0, 0),
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

/// Has `send` send the whole answer, of which the first so many bytes are the head; `None` if there is no image of the
/// page, or this client gets another answer than most.
pub fn send<T>(
    page: &Page<'_>,
    noted: &Noted,
    close: bool,
    memory: &Arc<Memory>,
    send: impl FnOnce(&[u8], usize) -> T,
) -> Option<T> {
    if close || noted.http10 || page.told.key.is_some() || *page.part != Part::Whole {
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
        let place = &mut places[address / size_of::<Entry>() % PLACES];
        let image = place.image(page.entry, address, memory)?;
        if image.says != Some(says) {
            image.render(page, noted, says)?;
        }
        let id = image.bytes.get_mut(image.id_at..)?.first_chunk_mut()?;
        *id = *noted.id.as_bytes();
        Some(send(
            &image.bytes[image.start..],
            image.body_at - image.start,
        ))
    })
}

impl Place {
    /// The image of `entry`, made now if it is worth it.
    fn image(
        &mut self,
        entry: &Arc<Entry>,
        address: usize,
        memory: &Arc<Memory>,
    ) -> Option<&mut Image> {
        let is_its = |image: &Image| std::ptr::eq(image.entry.as_ptr(), Arc::as_ptr(entry));
        if !self.image.as_ref().is_some_and(is_its) {
            let (last, times) = self.asked;
            let times = if last == address { times + 1 } else { 0 };
            self.asked = (address, times);
            if times < WORTH {
                return None;
            }
            self.asked = (0, 0);
            // The other's memory goes first.
            self.image = None;
            self.image = Image::new(entry, memory);
        }
        self.image.as_mut()
    }
}

impl Image {
    fn new(entry: &Arc<Entry>, memory: &Arc<Memory>) -> Option<Image> {
        let [body] = entry.body.pieces() else {
            return None;
        };
        if body.len() > LARGEST || !has_body(entry.head.status) || memory.is_tight() {
            return None;
        }
        let body_at = entry.head.bytes().len() + entry.content_length.len() + LINES;
        let charge = memory.charge_modestly(weight(body_at + body.len()))?;
        let mut bytes = vec![0; body_at + body.len()];
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
        HEAD.with_borrow_mut(|head| {
            head.clear();
            head.extend_from_slice(page.entry.head.bytes());
            told_lines(says.0, page.told, page.x_cache, head);
            let id_at = head.len() + b"X-Request-Id: ".len();
            common_lines(noted, false, head);
            head.extend_from_slice(page.entry.content_length.as_bytes());
            head.extend_from_slice(b"\r\n");
            self.start = self.body_at.checked_sub(head.len())?;
            self.id_at = self.start + id_at;
            self.bytes[self.start..self.body_at].copy_from_slice(head);
            self.says = Some(says);
            Some(())
        })
    }
}
