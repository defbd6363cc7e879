//! One answer in HTTP/1 (RFC 9112), from bytes to events. Reading and judging are apart: [`Http1::fill`] awaits bytes and
//! may be cancelled at any time, [`Http1::parse`] makes events of what is there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use tokio::io::{AsyncReadExt, ReadHalf};

use crate::rules::chunked::Decoder;
use crate::rules::hop::{self, Nominated};
use crate::rules::response::{self, BodyFraming, MAX_FIELDS, MAX_HEAD, Malformed};

use super::body::Home;
use super::error::{OriginError, OriginErrorKind};
use super::exchange::{Event, OriginHead};
use super::server::Server;
use super::upstream::Upstream;

const INTERIM_ANSWERS: u8 = 8;
/// Read at once, and held unread at most.
const PIECE: usize = 64 * 1024;

pub(super) struct Http1 {
    read: ReadHalf<Stream>,
    pub(super) reused: bool,
    /// What was read and not yet made an event of.
    unread: BytesMut,
    /// Bytes of `unread` known not to end a head.
    scanned: usize,
    /// Any byte of the answer was received.
    answered: bool,
    /// No more comes: the end, or a failure.
    ended: Option<Result<(), io::Error>>,
    place: Place,
    interims: u8,
    head_request: bool,
    /// The protocols an upgrade was asked to, if it was.
    upgrade: Option<HeaderValue>,
    persistence: Persistence,
}

/// Where in the answer the next byte belongs.
enum Place {
    Head,
    Length(u64),
    Chunks(Decoder),
    UntilClose,
    Tunnel,
    Over,
}

/// RFC 9112 §9.3
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Persistence {
    Close,
    /// For so long at most, if the origin says.
    Keep(Option<Duration>),
}

impl Http1 {
    pub(super) fn new(read: ReadHalf<Stream>, head: &RequestHeader, reused: bool) -> Self {
        let closes =
            tokens(&head.headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("close"));
        Self {
            read,
            reused,
            unread: BytesMut::new(),
            scanned: 0,
            answered: false,
            ended: None,
            place: Place::Head,
            interims: 0,
            head_request: head.method == Method::HEAD,
            upgrade: head.headers.get(UPGRADE).cloned(),
            // Until the answer agrees.
            persistence: match closes {
                true => Persistence::Close,
                false => Persistence::Keep(None),
            },
        }
    }

    pub(super) fn answered(&self) -> bool {
        self.answered
    }

    pub(super) fn before_head(&self) -> bool {
        matches!(self.place, Place::Head)
    }

    pub(super) fn is_tunnel(&self) -> bool {
        matches!(self.place, Place::Tunnel)
    }

    /// Whether `fill` would read: not past the end, and not more than is held at most.
    pub(super) fn wants_more(&self) -> bool {
        self.ended.is_none() && self.unread.len() < PIECE
    }

    /// Awaits bytes, or learns that none come. Cancel-safe.
    pub(super) async fn fill(&mut self) {
        let room = match self.place {
            Place::Head => 8 * 1024,
            Place::Length(left) => {
                usize::try_from(left).map_or(PIECE, |left| left.clamp(1024, PIECE))
            }
            Place::Chunks(_) | Place::UntilClose | Place::Tunnel => PIECE / 4,
            Place::Over => 1024,
        };
        self.unread.reserve(room);
        match self.read.read_buf(&mut self.unread).await {
            Ok(0) => self.ended = Some(Ok(())),
            Ok(_) => self.answered = true,
            Err(why) => self.ended = Some(Err(why)),
        }
    }

    /// The next event, if the bytes for it are there.
    pub(super) fn parse(&mut self, body: &Home) -> Result<Option<Event>, OriginError> {
        match &mut self.place {
            Place::Over => Ok(Some(Event::End)),
            Place::Head => {
                while let Some(length) = self.find_head_end()? {
                    let raw = self.unread.split_to(length).freeze();
                    self.scanned = 0;
                    if let Some(event) = self.judge_head(&raw, body)? {
                        return Ok(Some(event));
                    }
                }
                self.check_ended("in the head").map(|()| None)
            }
            Place::Length(left) => {
                let length = usize::try_from(*left)
                    .map_or(self.unread.len(), |left| left.min(self.unread.len()));
                if length == 0 {
                    return self.check_ended("in a body of known length").map(|()| None);
                }
                *left -= length as u64;
                if *left == 0 {
                    self.place = Place::Over;
                }
                Ok(Some(self.take(length)))
            }
            Place::Chunks(decoder) => {
                let (data, used, done) = decode(decoder, &self.unread)?;
                self.unread.advance(used);
                if done {
                    self.place = Place::Over;
                }
                match (data.is_empty(), done) {
                    (false, _) => Ok(Some(Event::Body(data.into_boxed_slice().into()))),
                    (true, true) => Ok(Some(Event::End)),
                    (true, false) => self.check_ended("in a chunked body").map(|()| None),
                }
            }
            Place::UntilClose | Place::Tunnel => {
                if !self.unread.is_empty() {
                    return Ok(Some(self.take(self.unread.len())));
                }
                match &self.ended {
                    None => Ok(None),
                    Some(Ok(())) => {
                        self.place = Place::Over;
                        self.persistence = Persistence::Close;
                        Ok(Some(Event::End))
                    }
                    Some(Err(_)) => self
                        .check_ended("in a body without a length")
                        .map(|()| None),
                }
            }
        }
    }

    /// Copies a piece out, so that it holds as much memory as it says and not the whole buffer.
    fn take(&mut self, length: usize) -> Event {
        let piece = Bytes::copy_from_slice(&self.unread[..length]);
        self.unread.advance(length);
        Event::Body(piece)
    }

    fn check_ended(&self, place: &str) -> Result<(), OriginError> {
        match &self.ended {
            None => Ok(()),
            Some(end) => {
                let how = match end {
                    Ok(()) => "closed".to_owned(),
                    Err(why) => why.to_string(),
                };
                Err(OriginError::new(
                    OriginErrorKind::Reset,
                    format!("the connection ended {place}: {how}"),
                ))
            }
        }
    }

    /// The length of the head if it is all there. What can't become one is refused before it is.
    fn find_head_end(&mut self) -> Result<Option<usize>, OriginError> {
        let begins = &self.unread[..self.unread.len().min(7)];
        if !b"HTTP/1.".starts_with(begins) {
            return Err(OriginError::malformed(
                "the answer does not begin with HTTP/1.",
            ));
        }
        while let Some(found) = memchr::memchr(b'\n', &self.unread[self.scanned..]) {
            let at = self.scanned + found;
            self.scanned = at + 1;
            if at == 0 || self.unread[at - 1] != b'\r' {
                return Err(OriginError::malformed("a line of the head ends without CR"));
            }
            if at > MAX_HEAD {
                break;
            }
            if self.unread[..at - 1].ends_with(b"\r\n") {
                return Ok(Some(at + 1));
            }
        }
        self.scanned = self.unread.len();
        match self.unread.len() > MAX_HEAD {
            true => Err(refused(Malformed::TooLarge)),
            false => Ok(None),
        }
    }

    fn judge_head(&mut self, raw: &[u8], body: &Home) -> Result<Option<Event>, OriginError> {
        response::check_head(raw).map_err(refused)?;
        let (status, http11, mut fields) = read_head(raw)?;
        if status == 101 {
            return self.switch(fields, body).map(Some);
        }
        if status < 200 {
            self.interims += 1;
            if self.interims > INTERIM_ANSWERS {
                return Err(OriginError::new(
                    OriginErrorKind::TooLarge,
                    "more than 8 interim answers",
                ));
            }
            drop_hop_by_hop(&mut fields);
            // 100 answers an Expect, which is never sent on.
            return Ok((status != 100).then_some(Event::Interim { status, fields }));
        }
        let framing = response::framing(status, self.head_request, &fields);
        if self.persistence != Persistence::Close {
            self.persistence = persistence(http11, &fields);
        }
        drop_hop_by_hop(&mut fields);
        self.place = match framing {
            BodyFraming::None | BodyFraming::Length(0) => Place::Over,
            BodyFraming::Length(length) => Place::Length(length),
            BodyFraming::Chunked => Place::Chunks(Decoder::new()),
            BodyFraming::Close => Place::UntilClose,
        };
        Ok(Some(Event::Head(OriginHead {
            status,
            fields,
            framing,
            version: if http11 { "1.1" } else { "1.0" },
        })))
    }

    /// 101: only where an upgrade was asked for, and only to a protocol it was asked to (RFC 9110 §15.2.2, §7.8).
    fn switch(&mut self, mut fields: HeaderMap, body: &Home) -> Result<Event, OriginError> {
        let asked = self.upgrade.as_ref().and_then(|asked| asked.to_str().ok());
        let Some(asked) = asked else {
            return Err(OriginError::malformed("101 without having been asked"));
        };
        let chosen = fields.get(UPGRADE).cloned();
        let known = chosen
            .as_ref()
            .and_then(|chosen| chosen.to_str().ok())
            .is_some_and(|chosen| {
                chosen.split(',').all(|one| {
                    let one = one.trim();
                    asked
                        .split(',')
                        .any(|protocol| protocol.trim().eq_ignore_ascii_case(one))
                })
            });
        if !known {
            return Err(OriginError::malformed(
                "101 to a protocol that was not asked for",
            ));
        }
        if !body.open_tunnel() {
            return Err(OriginError::malformed(
                "101 before the request's body ended",
            ));
        }
        drop_hop_by_hop(&mut fields);
        if let Some(chosen) = chosen {
            fields.insert(UPGRADE, chosen);
        }
        self.place = Place::Tunnel;
        self.persistence = Persistence::Close;
        Ok(Event::Switched(OriginHead {
            status: 101,
            fields,
            framing: BodyFraming::Close,
            version: "1.1",
        }))
    }

    /// Keeps the connection if another request may use it; else closes it.
    pub(super) fn release(self, body: &Arc<Home>, upstream: &Upstream, server: &Server) {
        let Persistence::Keep(origin) = self.persistence else {
            return;
        };
        // Bytes past the end of the answer: the answer stands, the connection does not.
        let clean =
            matches!(self.place, Place::Over) && self.unread.is_empty() && self.ended.is_none();
        let idle = upstream.keepalive(origin);
        if !clean || idle.is_zero() {
            return;
        }
        if let Some(write) = body.take_clean() {
            server.idle.put(self.read.unsplit(write), idle);
        }
    }
}

/// All data there is, so that small chunks don't become small events.
fn decode(decoder: &mut Decoder, input: &[u8]) -> Result<(Vec<u8>, usize, bool), OriginError> {
    let mut data = Vec::new();
    let mut used = 0;
    loop {
        let step = decoder
            .decode(&input[used..])
            .map_err(|why| OriginError::malformed(why.why()))?;
        data.extend_from_slice(&input[used..][step.data]);
        used += step.consumed;
        if step.done || step.consumed == 0 || used == input.len() {
            return Ok((data, used, step.done));
        }
    }
}

/// A head that has been checked.
fn read_head(raw: &[u8]) -> Result<(u16, bool, HeaderMap), OriginError> {
    let wrong = || OriginError::malformed("the origin's head does not parse");
    let mut lines = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut lines);
    if head.parse(raw) != Ok(httparse::Status::Complete(raw.len())) {
        return Err(wrong());
    }
    let mut fields = HeaderMap::with_capacity(head.headers.len());
    for line in head.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| wrong())?;
        fields.append(name, value);
    }
    match (head.code, head.version) {
        (Some(status), Some(version)) => Ok((status, version == 1, fields)),
        _ => Err(wrong()),
    }
}

fn refused(why: Malformed) -> OriginError {
    match why {
        Malformed::TooLarge | Malformed::TooManyFields => {
            OriginError::new(OriginErrorKind::TooLarge, why.why())
        }
        _ => OriginError::malformed(why.why()),
    }
}

fn persistence(http11: bool, fields: &HeaderMap) -> Persistence {
    let said =
        |what: &str| tokens(fields, &CONNECTION).any(|token| token.eq_ignore_ascii_case(what));
    if said("close") || !(http11 || said("keep-alive")) {
        return Persistence::Close;
    }
    let timeout = fields
        .get("keep-alive")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            let mut parts = value.split(',').filter_map(|part| part.split_once('='));
            let (_, seconds) =
                parts.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
            seconds.trim().parse().ok().map(Duration::from_secs)
        });
    Persistence::Keep(timeout)
}

/// RFC 9110 §7.6.1: the fields of the connection, and those it names.
pub(super) fn drop_hop_by_hop(fields: &mut HeaderMap) {
    let named = Nominated::of(fields);
    let gone =
        |name: &&HeaderName| hop::is_hop_by_hop(name.as_str()) || named.removes(name.as_str());
    let names: Vec<HeaderName> = fields.keys().filter(gone).cloned().collect();
    for name in names {
        fields.remove(name);
    }
}

fn tokens<'f>(fields: &'f HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'f str> {
    let values = fields
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt, duplex, split};

    use super::super::body::Sink;
    use super::super::exchange::Outgoing;
    use super::*;

    /// What came of an answer: heads, interim heads, the bytes of the body, and how it ended.
    type Outcome = (Vec<u16>, Vec<u8>, Result<(), OriginErrorKind>);

    /// Reads an answer that arrives in pieces of at most `piece` bytes, and then ends.
    async fn read(answer: Vec<u8>, piece: usize) -> Outcome {
        let (ours, mut theirs) = duplex(piece);
        let (half, write) = split(Box::new(ours) as Stream);
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("Upgrade", "websocket").unwrap();
        let mut line = Http1::new(half, &request, false);
        let body = Home::new(Sink::Http1(write), Outgoing::None, Duration::ZERO, None);
        let (mut statuses, mut bytes) = (vec![], vec![]);
        let reading = async {
            loop {
                match line.parse(&body) {
                    Ok(Some(Event::End)) => return Ok(()),
                    Ok(Some(Event::Body(piece))) => bytes.extend_from_slice(&piece),
                    Ok(Some(Event::Interim { status, .. })) => statuses.push(status),
                    Ok(Some(Event::Head(head) | Event::Switched(head))) => {
                        statuses.push(head.status)
                    }
                    Ok(None) => line.fill().await,
                    Err(why) => return Err(why.kind),
                }
            }
        };
        let writing = async move {
            let _ = theirs.write_all(&answer).await;
            let _ = theirs.shutdown().await;
            // Held open until all is read: a reader that has enough may close first.
            std::future::pending::<()>().await
        };
        let end = tokio::select! {
            end = reading => end,
            () = writing => unreachable!(),
        };
        (statuses, bytes, end)
    }

    fn fragment() -> impl Strategy<Value = Vec<u8>> {
        let known: Vec<&[u8]> = vec![
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.0 200 OK\r\n",
            b"HTTP/1.1 103 Early Hints\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"X: y\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"hello",
        ];
        prop_oneof![
            9 => proptest::sample::select(known).prop_map(<[u8]>::to_vec),
            1 => proptest::collection::vec(any::<u8>(), 0..8),
        ]
    }

    proptest! {
        /// No bytes make it panic or run on, and how they were cut into pieces changes nothing.
        #[test]
        fn an_answer_is_the_same_however_it_arrives(
            fragments in proptest::collection::vec(fragment(), 0..10),
            piece in 1..40usize,
        ) {
            let answer = fragments.concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let whole = runtime.block_on(read(answer.clone(), 1 << 20));
            let pieces = runtime.block_on(read(answer, piece));
            // What precedes a broken part may be given or not, depending on what was seen first.
            if whole.2.is_ok() || pieces.2.is_ok() {
                prop_assert_eq!(&whole, &pieces);
            }
            prop_assert_eq!(whole.2.is_ok(), pieces.2.is_ok());
            prop_assert!(pieces.1.starts_with(&whole.1) || whole.1.starts_with(&pieces.1));
        }
    }
}
