//! A stored page: its head as it goes on the wire, its body, and what the rules said of it.
//!
//! The head is rendered once, when it is stored. A hit adds the few lines that differ from answer to answer (Age,
//! Cache-Status, the request's id) and writes head, lines and body in one go.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::encoded::Encoded;
use super::memory::{Charge, Memory, weight};
use super::table::Variant;
use super::tags::Set;
use crate::rules::conditional::Validators;
use crate::rules::encoding::{self, Coding};
use crate::rules::fresh;
use crate::rules::refresh;
use crate::rules::reuse::{self, Demand, Reuse};
use crate::rules::storing::Terms;
use crate::rules::time::Moment;

/// What an entry costs beside its bytes: itself, its slot, and the index's nodes.
pub const ENTRY_OVERHEAD: usize = 752;

/// A status line and field lines, ready for the wire, without framing fields and without the empty line.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    bytes: Bytes,
    /// Where the status line ends.
    fields_at: usize,
    /// Where the fields end that came with the answer, and those begin that are ours.
    own_at: usize,
    etag: Option<(usize, usize)>,
    last_modified: Option<(usize, usize)>,
    date: Option<(usize, usize)>,
    /// Whether the page may be given in a coding of ours.
    pub may_encode: bool,
}

impl Head {
    /// Renders `fields` but for Content-Length, Age and what `hidden` names, and then the `own` ones, which were added
    /// here.
    pub fn render(
        status: u16,
        fields: &HeaderMap,
        hidden: &[HeaderName],
        own: &[(HeaderName, HeaderValue)],
    ) -> Head {
        let mut out = BytesMut::with_capacity(512);
        write_status_line(status, &mut out);
        let fields_at = out.len();
        let (mut etag, mut last_modified, mut date) = (None, None, None);
        for (name, value) in fields {
            if *name == header::CONTENT_LENGTH || *name == header::AGE || hidden.contains(name) {
                continue;
            }
            let span = write_field(name, value, &mut out);
            match *name {
                header::ETAG => etag = etag.or(Some(span)),
                header::LAST_MODIFIED => last_modified = last_modified.or(Some(span)),
                header::DATE => date = date.or(Some(span)),
                _ => {}
            }
        }
        let own_at = out.len();
        for (name, value) in own {
            write_field(name, value, &mut out);
        }
        Head {
            status,
            bytes: Bytes::copy_from_slice(&out),
            fields_at,
            own_at,
            etag,
            last_modified,
            date,
            may_encode: false,
        }
    }

    /// One that was rendered before, from what it was: `own_at` is [`own_at`](Self::own_at). None: it is no head.
    pub fn restore(bytes: Bytes, own_at: usize, may_encode: bool) -> Option<Head> {
        let end = |at: usize| memchr::memchr(b'\n', bytes.get(at..)?).map(|len| at + len + 1);
        let status = std::str::from_utf8(bytes.get(9..12)?).ok()?.parse().ok()?;
        let fields_at = end(0)?;
        let (mut etag, mut last_modified, mut date) = (None, None, None);
        let (mut at, mut begins_own) = (fields_at, own_at == fields_at);
        while at < bytes.len() {
            let next = end(at)?;
            let line = bytes[at..next].strip_suffix(b"\r\n")?;
            let colon = memchr::memchr(b':', line)?;
            let span = (at + colon + 2, next - 2);
            if at < own_at && span.0 <= span.1 {
                let is = |name: &HeaderName| line[..colon].eq_ignore_ascii_case(name.as_ref());
                match () {
                    () if is(&header::ETAG) => etag = etag.or(Some(span)),
                    () if is(&header::LAST_MODIFIED) => {
                        last_modified = last_modified.or(Some(span))
                    }
                    () if is(&header::DATE) => date = date.or(Some(span)),
                    () => {}
                }
            }
            at = next;
            begins_own |= at == own_at;
        }
        begins_own.then_some(Head {
            status,
            bytes,
            fields_at,
            own_at,
            etag,
            last_modified,
            date,
            may_encode,
        })
    }

    /// Where the fields begin in [`bytes`](Self::bytes) that did not come with the answer.
    pub fn own_at(&self) -> usize {
        self.own_at
    }

    /// Status line and fields.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The fields alone, for an answer with a status of its own (206, 304).
    pub fn fields(&self) -> &[u8] {
        &self.bytes[self.fields_at..]
    }

    /// What it is known by.
    pub fn validators(&self) -> Validators<'_> {
        let at = |span: Option<(usize, usize)>| span.map(|(from, to)| &self.bytes[from..to]);
        Validators {
            etag: at(self.etag),
            last_modified: at(self.last_modified),
            date: at(self.date),
        }
    }

    /// The fields that came with the answer, as a map again: for merging a 304 and for validators, which are rare.
    pub fn to_map(&self) -> HeaderMap {
        self.map_of(self.fields_at..self.own_at)
    }

    /// The same page's head in `coding`.
    pub fn in_coding(&self, coding: Coding) -> Head {
        let own = self.map_of(self.own_at..self.bytes.len());
        let own: Vec<_> = own
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let fields = encoding::encoded(self.to_map(), coding);
        Head::render(self.status, &fields, &[], &own)
    }

    fn map_of(&self, lines: std::ops::Range<usize>) -> HeaderMap {
        let mut map = HeaderMap::new();
        for line in self.bytes[lines].split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let name = HeaderName::from_bytes(&line[..colon]);
            let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
            if let (Ok(name), Ok(value)) = (name, value) {
                map.append(name, value);
            }
        }
        map
    }
}

/// Writes a field line. Where its value stands.
fn write_field(name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) -> (usize, usize) {
    out.extend_from_slice(title(name).as_bytes());
    out.extend_from_slice(b": ");
    let start = out.len();
    out.extend_from_slice(value.as_bytes());
    let end = out.len();
    out.extend_from_slice(b"\r\n");
    (start, end)
}

/// Writes `HTTP/1.1 200 OK` and its line end.
pub fn write_status_line(status: u16, out: &mut impl BufMut) {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|code| code.canonical_reason())
        .unwrap_or("");
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(&[
        b'0' + (status / 100) as u8,
        b'0' + (status / 10 % 10) as u8,
        b'0' + (status % 10) as u8,
    ]);
    out.put_slice(b" ");
    out.put_slice(reason.as_bytes());
    out.put_slice(b"\r\n");
}

/// `content-type` as people write it: `Content-Type`. Names are caseless; this is for eyes and for old clients.
fn title(name: &HeaderName) -> String {
    match name.as_str() {
        "etag" => return "ETag".into(),
        "www-authenticate" => return "WWW-Authenticate".into(),
        _ => {}
    }
    let mut out = String::with_capacity(name.as_str().len());
    let mut start = true;
    for ch in name.as_str().chars() {
        out.push(if start { ch.to_ascii_uppercase() } else { ch });
        start = ch == '-';
    }
    out
}

/// A whole body: its pieces in order. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Body {
    pieces: std::sync::Arc<[Bytes]>,
    len: u64,
}

/// Up to this size a body is kept as one piece, so that a hit is one write.
const ONE_PIECE: u64 = 256 * 1024;
/// Pieces of larger bodies are at least this long.
const PIECE: usize = 64 * 1024;

impl Body {
    /// A body of one piece, or nothing if memory has no room for it.
    pub fn of(bytes: Bytes, memory: &std::sync::Arc<Memory>) -> Option<Body> {
        let len = bytes.len() as u64;
        let pieces = [memory.hold(bytes)?].into();
        Some(Body { pieces, len })
    }

    /// Whether both are the same bytes, however they are cut.
    pub fn is_equal(&self, other: &Body) -> bool {
        if std::ptr::eq(&*self.pieces, &*other.pieces) {
            return true;
        }
        if self.len != other.len {
            return false;
        }
        let mut others = other.pieces.iter();
        let mut left: &[u8] = &[];
        self.pieces.iter().all(|piece| {
            let mut piece = &piece[..];
            while !piece.is_empty() {
                if left.is_empty() {
                    left = others.next().map_or(&[], |next| next);
                }
                let len = piece.len().min(left.len());
                if len == 0 || piece[..len] != left[..len] {
                    return false;
                }
                (piece, left) = (&piece[len..], &left[len..]);
            }
            true
        })
    }

    /// The body that `pieces` make, put together into fewer ones where memory allows.
    pub fn gather(pieces: &[Bytes], memory: &std::sync::Arc<Memory>) -> Body {
        let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let target = if len <= ONE_PIECE {
            len as usize
        } else {
            PIECE
        };
        let mut gathered: Vec<Bytes> = Vec::new();
        let mut run: Vec<&Bytes> = Vec::new();
        let mut run_len = 0;
        for piece in pieces {
            run.push(piece);
            run_len += piece.len();
            if run_len >= target {
                join(&mut run, run_len, memory, &mut gathered);
                run_len = 0;
            }
        }
        join(&mut run, run_len, memory, &mut gathered);
        Body {
            pieces: gathered.into(),
            len,
        }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// The pieces of the bytes `from..to`, sharing what they hold.
    pub fn slice(&self, from: u64, to: u64) -> Vec<Bytes> {
        let mut out = Vec::new();
        let mut at = 0u64;
        for piece in self.pieces.iter() {
            let end = at + piece.len() as u64;
            if end > from && at < to {
                let low = from.saturating_sub(at) as usize;
                let high = (to.min(end) - at) as usize;
                out.push(piece.slice(low..high));
            }
            at = end;
        }
        out
    }
}

fn join(run: &mut Vec<&Bytes>, len: usize, memory: &std::sync::Arc<Memory>, out: &mut Vec<Bytes>) {
    if run.len() > 1 {
        let mut whole = Vec::with_capacity(len);
        run.iter().for_each(|piece| whole.extend_from_slice(piece));
        match memory.hold(Bytes::from(whole)) {
            Some(piece) => out.push(piece),
            None => out.extend(run.iter().map(|piece| (*piece).clone())),
        }
    } else {
        out.extend(run.iter().map(|piece| (*piece).clone()));
    }
    run.clear();
}

/// A stored answer.
#[derive(Debug)]
pub struct Entry {
    pub head: Head,
    pub body: Body,
    pub terms: Terms,
    /// When it arrived, or was validated last.
    pub stored: Moment,
    pub variant: Variant,
    /// How long the origin took for it, for the eager refresh.
    pub cost: Duration,
    /// Framing as it goes on the wire for the whole body.
    pub content_length: Box<str>,
    pub rest: Rest,
    pub encoded: Encoded,
    /// In which its fetch began.
    pub generation: u64,
    pub tags: Set,
    /// Whether its tags count it.
    is_counted: AtomicBool,
    /// Whether it is nobody's in particular: asked for by somebody who showed nothing of himself.
    is_public: AtomicBool,
    /// When a soft purge made it stale, in milliseconds; [`NEVER`] if none did.
    marked: AtomicU64,
    weight: u32,
    _charge: Charge,
}

const NEVER: u64 = u64::MAX;

impl Entry {
    /// Puts an entry together and charges its head (its body is charged already), or nothing if memory is full.
    pub fn new(parts: EntryParts, memory: &std::sync::Arc<Memory>) -> Option<Entry> {
        let EntryParts {
            head,
            body,
            terms,
            stored,
            variant,
            cost,
            generation,
            tags,
        } = parts;
        let own = weight(head.bytes.len()) + variant.values.len() + ENTRY_OVERHEAD;
        let body_weight: usize = body.pieces.iter().map(|piece| weight(piece.len())).sum();
        let charge = memory.charge(own)?;
        tags.enter(generation);
        Some(Entry {
            content_length: format!("Content-Length: {}\r\n", body.len()).into(),
            weight: u32::try_from(own + body_weight + tags.weight()).unwrap_or(u32::MAX),
            is_counted: AtomicBool::new(!tags.is_empty()),
            is_public: AtomicBool::new(false),
            marked: AtomicU64::new(NEVER),
            generation,
            tags,
            rest: Rest::default(),
            encoded: Encoded::default(),
            _charge: charge,
            head,
            body,
            terms,
            stored,
            variant,
            cost,
        })
    }

    /// The page in `coding`, if `body` is that: with its own head, on the same terms.
    pub fn in_coding(
        &self,
        coding: Coding,
        body: Body,
        memory: &std::sync::Arc<Memory>,
    ) -> Option<Entry> {
        let parts = EntryParts {
            head: self.head.in_coding(coding),
            body,
            terms: self.terms.clone(),
            stored: self.stored,
            variant: self.variant.clone(),
            cost: self.cost,
            generation: self.generation,
            // It goes with this one.
            tags: Set::default(),
        };
        Entry::new(parts, memory)
    }

    /// How it serves a request.
    pub fn reuse(&self, now: Moment, demand: &Demand) -> Reuse {
        reuse::reuse(&self.terms, self.stored, self.marked(), now, demand)
    }

    /// How it does where requests are to go to the origin.
    pub fn bypassed(&self, now: Moment, demand: &Demand) -> Reuse {
        reuse::bypassed(&self.terms, self.stored, self.marked(), now, demand)
    }

    /// Seconds of life it has left, negative when stale.
    pub fn ttl(&self, now: Moment) -> i64 {
        fresh::ttl_of_marked(&self.terms, self.stored, self.marked(), now)
    }

    /// A soft purge has made it stale; the first one says when.
    pub fn mark(&self, now: Moment) -> bool {
        let (new, order) = (now.0.min(NEVER - 1), Ordering::Relaxed);
        self.marked
            .compare_exchange(NEVER, new, order, order)
            .is_ok()
    }

    pub fn is_marked(&self) -> bool {
        self.marked().is_some()
    }

    /// From now on it is known as public.
    pub fn make_public(&self) {
        self.is_public.store(true, Ordering::Relaxed);
    }

    pub fn is_public(&self) -> bool {
        self.is_public.load(Ordering::Relaxed)
    }

    fn marked(&self) -> Option<Moment> {
        let marked = self.marked.load(Ordering::Relaxed);
        (marked != NEVER).then_some(Moment(marked))
    }

    /// It is stored no longer, whoever reads it still.
    pub fn leave(&self) {
        if self.is_counted.swap(false, Ordering::AcqRel) {
            self.tags.exit(self.generation);
        }
    }

    /// Whether it may be given in a coding of ours and is of a size for it.
    pub fn may_encode(&self) -> bool {
        self.head.may_encode && encoding::SIZES.contains(&self.body.len())
    }

    /// Bytes it takes of the store's share, in all its codings.
    pub fn weight(&self) -> u32 {
        let encoded = self.encoded.made().map(|(_, entry)| entry.weight);
        encoded.fold(self.weight, u32::saturating_add)
    }

    /// Whether somebody but the store holds it.
    pub fn is_read(self: &std::sync::Arc<Self>) -> bool {
        let held = |entry| std::sync::Arc::strong_count(entry) > 1;
        held(self) || self.encoded.made().any(|(_, entry)| held(entry))
    }
}

/// What [`Entry::new`] puts together.
pub struct EntryParts {
    pub head: Head,
    pub body: Body,
    pub terms: Terms,
    pub stored: Moment,
    pub variant: Variant,
    pub cost: Duration,
    pub generation: u64,
    pub tags: Set,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.leave();
    }
}

/// After a failed refresh a page rests before the next try (1 s, doubling to 30 s; always 1 s where the origin had no place
/// for it): clients get it stale meanwhile. What happened before its upstream went away and returned counts no longer:
/// `returned` is that moment.
#[derive(Debug, Default)]
pub struct Rest {
    /// When it failed last.
    since: AtomicU64,
    until: AtomicU64,
    failures: AtomicU32,
    claimed_until: AtomicU64,
    /// How often it has been asked for since it was stale.
    asked: AtomicU32,
}

/// How long a claimed refresh keeps others from trying, in milliseconds. The flight table does so for as long as it takes.
const CLAIM: u64 = 1_000;

impl Rest {
    pub fn holds(&self, now: Moment, returned: Moment) -> bool {
        now.0 < self.until.load(Ordering::Relaxed) && !self.is_of_before(returned)
    }

    fn is_of_before(&self, returned: Moment) -> bool {
        self.since.load(Ordering::Relaxed) <= returned.0
    }

    /// One failure, however many requests shared it.
    pub fn failed(&self, now: Moment, returned: Moment) {
        self.rests(now, returned, || {
            let before = self.failures.fetch_add(1, Ordering::Relaxed);
            refresh::rest(before.saturating_add(1))
        });
    }

    /// The origin was not asked, for want of a place: that's no failure, and over as soon as there is one.
    pub fn turned_away(&self, now: Moment, returned: Moment) {
        self.rests(now, returned, || refresh::TURNED_AWAY);
    }

    fn rests(&self, now: Moment, returned: Moment, time: impl FnOnce() -> Duration) {
        if self.holds(now, returned) {
            return;
        }
        if self.is_of_before(returned) {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.since.store(now.0, Ordering::Relaxed);
        self.until.store(now.after(time()).0, Ordering::Relaxed);
    }

    /// Whether this request is to start the refresh: one a second is, and none while the page rests.
    pub fn claim(&self, now: Moment, returned: Moment) -> bool {
        let claimed = self.claimed_until.load(Ordering::Relaxed);
        let is_claimed = now.0 < claimed && claimed > returned.0.saturating_add(CLAIM);
        !self.holds(now, returned)
            && !is_claimed
            && self
                .claimed_until
                .compare_exchange(claimed, now.0 + CLAIM, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// It is stale, and somebody asks for it.
    pub fn asked_for(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_was_turned_away_rests_a_second_however_often() {
        let (rest, returned) = (Rest::default(), Moment(0));
        let at = |ms: u64| Moment(10_000 + ms);
        for n in 0..10 {
            rest.turned_away(at(n * 1_000), returned);
            assert!(rest.holds(at(n * 1_000 + 999), returned));
            assert!(!rest.holds(at(n * 1_000 + 1_000), returned));
        }
        rest.failed(at(10_000), returned);
        assert!(!rest.holds(at(11_000), returned), "the first failure");
        rest.turned_away(at(11_000), returned);
        rest.failed(at(12_000), returned);
        assert!(rest.holds(at(13_999), returned), "the second in a row");
        // Nothing of that counts once its upstream has returned.
        rest.turned_away(at(15_000), at(14_500));
        assert!(!rest.holds(at(15_500), at(15_200)));
        rest.failed(at(16_000), at(14_500));
        assert!(!rest.holds(at(17_000), at(14_500)));
    }

    #[test]
    fn a_head_is_rendered_once_and_read_back() {
        let mut fields = HeaderMap::new();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("3"));
        fields.insert(header::ETAG, HeaderValue::from_static("\"a\""));
        fields.insert("surrogate-key", HeaderValue::from_static("k"));
        let head = Head::render(
            200,
            &fields,
            &[HeaderName::from_static("surrogate-key")],
            &[(header::VARY, HeaderValue::from_static("Accept-Encoding"))],
        );
        assert_eq!(
            &head.bytes()[..],
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nETag: \"a\"\r\nVary: Accept-Encoding\r\n"
        );
        assert_eq!(head.validators().etag, Some(&b"\"a\""[..]));
        assert_eq!(head.to_map().get("content-type").unwrap(), "text/html");
        assert!(!head.to_map().contains_key("vary"), "ours");
        let again = Head::restore(head.bytes().clone(), head.own_at(), false).unwrap();
        assert_eq!(format!("{again:?}"), format!("{head:?}"));
        assert!(Head::restore(head.bytes().clone(), head.own_at() + 1, false).is_none());
        assert!(Head::restore(head.bytes().slice(1..), head.own_at(), false).is_none());
    }

    #[test]
    fn pieces_are_gathered_and_sliced_across_their_borders() {
        let memory = Memory::new(1 << 20);
        let pieces: Vec<Bytes> = [&b"abc"[..], b"def", b"ghi"]
            .iter()
            .map(|p| Bytes::from_static(p))
            .collect();
        let body = Body::gather(&pieces, &memory);
        assert_eq!(body.pieces().len(), 1, "small bodies are one piece");
        let apart = Body {
            pieces: pieces.into(),
            len: 9,
        };
        let cut: Vec<u8> = apart.slice(2, 7).concat();
        assert_eq!(cut, b"cdefg");
        assert!(body.is_equal(&apart) && apart.is_equal(&body));
        let another = Body::of(Bytes::from_static(b"abcdefghX"), &memory).unwrap();
        assert!(!apart.is_equal(&another) && !another.is_equal(&apart));
        let shorter = Body::of(Bytes::from_static(b"abcdefgh"), &memory).unwrap();
        assert!(!apart.is_equal(&shorter) && !shorter.is_equal(&apart));
    }

    #[test]
    fn rest_doubles_and_ends() {
        let (rest, never) = (Rest::default(), Moment(0));
        assert!(!rest.holds(Moment(5), never));
        rest.failed(Moment(1_000), never);
        assert!(rest.holds(Moment(1_999), never));
        assert!(!rest.holds(Moment(2_000), never));
        rest.failed(Moment(2_000), never);
        assert!(rest.holds(Moment(3_999), never));
    }

    #[test]
    fn rest_ends_when_the_upstream_has_returned() {
        let (rest, never) = (Rest::default(), Moment(0));
        assert!(rest.claim(Moment(900), never) && !rest.claim(Moment(950), never));
        for now in [1_000, 2_000, 4_000] {
            rest.failed(Moment(now), never);
        }
        let returned = Moment(4_500);
        assert!(rest.holds(Moment(4_600), never) && !rest.claim(Moment(4_600), never));
        assert!(!rest.holds(Moment(4_600), returned));
        assert!(rest.claim(Moment(4_600), returned));
        assert!(!rest.claim(Moment(4_700), returned), "once a second");
        rest.failed(Moment(4_800), returned);
        assert!(rest.holds(Moment(5_799), returned));
        assert!(!rest.holds(Moment(5_800), returned), "a second again");
        // While somebody is to go and see, any page will do.
        assert!(rest.claim(Moment(5_000), Moment(u64::MAX)));
    }
}
