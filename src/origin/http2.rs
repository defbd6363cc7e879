//! One answer in HTTP/2 (RFC 9113), through pingora's session. Shaped like [`super::http1`]: `fill` awaits, `parse` tells.

use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::v2::client::Http2Session;
use pingora::{BError, ErrorType, RetryType};

use crate::rules::response::{self, BodyFraming, MAX_FIELDS, MAX_HEAD};

use super::body::{End, Sink};
use super::error::{OriginError, OriginErrorKind};
use super::exchange::{Event, OriginHead, Outgoing};
use super::http1::drop_hop_by_hop;
use super::server::Server;
use super::upstream::Upstream;

pub(super) struct Http2 {
    /// `None` only while being dropped.
    session: Option<Http2Session>,
    upstream: Arc<Upstream>,
    server: Arc<Server>,
    pub(super) reused: bool,
    head_request: bool,
    place: Place,
    next: Option<Result<Event, OriginError>>,
    trailers: Option<HeaderMap>,
    /// The failure says that the origin did nothing with the request.
    pub(super) unprocessed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Head,
    Body,
    Over,
}

impl Http2 {
    pub(super) fn new(
        session: Http2Session,
        upstream: Arc<Upstream>,
        server: Arc<Server>,
        reused: bool,
    ) -> Self {
        Self {
            session: Some(session),
            upstream,
            server,
            reused,
            head_request: false,
            place: Place::Head,
            next: None,
            trailers: None,
            unprocessed: false,
        }
    }

    /// Queues the head, and gives the way for the body.
    pub(super) fn send_head(
        &mut self,
        head: Box<RequestHeader>,
        outgoing: Outgoing,
    ) -> Result<Sink, OriginError> {
        let gone = || OriginError::new(OriginErrorKind::Write, "the stream has gone");
        let session = self.session.as_mut().ok_or_else(gone)?;
        self.head_request = head.method == http::Method::HEAD;
        let bodiless = matches!(outgoing, Outgoing::None | Outgoing::Length(0));
        session
            .write_request_header(head, bodiless)
            .map_err(|why| OriginError::new(OriginErrorKind::Write, cause(&why)))?;
        let mut body = session.take_request_body_writer().ok_or_else(gone)?;
        Ok(Sink::Http2(Box::new(move |cx, data, end| {
            while !data.is_empty() {
                body.reserve_capacity(data.len());
                if body.capacity() == 0 {
                    match ready!(body.poll_capacity(cx)) {
                        Some(Ok(_)) => continue,
                        Some(Err(why)) => return Poll::Ready(Err(why.to_string())),
                        None => return Poll::Ready(Err("the origin takes no body".to_owned())),
                    }
                }
                let piece = data.split_to(body.capacity().min(data.len()));
                body.send_data(piece, false)
                    .map_err(|why| why.to_string())?;
            }
            if end == End::Now {
                body.send_data(Bytes::new(), true)
                    .map_err(|why| why.to_string())?;
            }
            Poll::Ready(Ok(()))
        })))
    }

    pub(super) fn before_head(&self) -> bool {
        self.place == Place::Head
    }

    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    pub(super) fn wants_more(&self) -> bool {
        self.next.is_none() && self.place != Place::Over
    }

    /// Awaits the next event. Cancel-safe: pingora's session keeps what was polled.
    pub(super) async fn fill(&mut self) {
        let Some(session) = self.session.as_mut() else {
            return;
        };
        self.next = Some(match self.place {
            Place::Head => match session.read_response_header().await {
                Ok(()) => self.head(),
                Err(why) => {
                    self.unprocessed = why.retry == RetryType::Decided(true);
                    if matches!(why.etype(), ErrorType::H2Downgrade | ErrorType::InvalidH2) {
                        // Asked to come back with HTTP/1.1 (RFC 9113 §7); effective where TLS negotiates.
                        self.upstream.connector.prefer_h1(&self.server.peer);
                    }
                    Err(reset(&why))
                }
            },
            Place::Body => match session.read_response_body().await {
                Ok(Some(data)) => Ok(Event::Body(Bytes::copy_from_slice(&data))),
                // The end of the data is the end only if the trailers, if any, came whole.
                Ok(None) => match session.read_trailers().await {
                    Ok(trailers) => {
                        self.trailers = trailers;
                        Ok(Event::End)
                    }
                    Err(why) => Err(reset(&why)),
                },
                Err(why) => Err(reset(&why)),
            },
            Place::Over => Ok(Event::End),
        });
    }

    pub(super) fn parse(&mut self) -> Result<Option<Event>, OriginError> {
        if self.place == Place::Over {
            return Ok(Some(Event::End));
        }
        let Some(event) = self.next.take().transpose()? else {
            return Ok(None);
        };
        match &event {
            Event::Head(_) => self.place = Place::Body,
            Event::End => self.place = Place::Over,
            Event::Body(data) if data.is_empty() => return Ok(None),
            _ => {}
        }
        Ok(Some(event))
    }

    fn head(&self) -> Result<Event, OriginError> {
        let head = self
            .session
            .as_ref()
            .and_then(Http2Session::response_header);
        let Some(head) = head else {
            return Err(OriginError::new(OriginErrorKind::Reset, "no head"));
        };
        check_head(head)?;
        let status = head.status.as_u16();
        let mut fields: HeaderMap = head.headers.clone();
        let framing = match response::framing(status, self.head_request, &fields) {
            // HTTP/2 ends a body itself.
            BodyFraming::Chunked => BodyFraming::Close,
            framing => framing,
        };
        drop_hop_by_hop(&mut fields);
        Ok(Event::Head(OriginHead {
            status,
            fields,
            framing,
            version: "2",
        }))
    }

    /// No further request goes onto this connection: it may be dead, and others must not find that out one by one.
    pub(super) fn distrust(&self) {
        if let Some(session) = &self.session {
            session.conn.mark_shutdown();
        }
    }
}

/// The stream ends, with RST_STREAM if it is not over, and its connection stays with the pool, which counts streams
/// and idles it. So for every way an exchange can end.
impl Drop for Http2 {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let idle = self.upstream.keepalive(None);
            self.upstream
                .connector
                .release_http_session(session, &self.server.peer, Some(idle));
        }
    }
}

/// What the HTTP/2 engine lets pass and a cache can't: it has checked names, values and pseudo-fields.
fn check_head(head: &ResponseHeader) -> Result<(), OriginError> {
    let fields = &head.headers;
    let bytes: usize = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum();
    if fields.len() > MAX_FIELDS || bytes > MAX_HEAD {
        return Err(OriginError::new(
            OriginErrorKind::TooLarge,
            "the head is over 64 KiB or 128 fields",
        ));
    }
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
        if !digits || lengths.next().is_some() {
            return Err(OriginError::malformed("Content-Length is not one number"));
        }
    }
    match (200..600).contains(&head.status.as_u16()) {
        true => Ok(()),
        false => Err(OriginError::malformed("the status is no final one")),
    }
}

fn reset(why: &BError) -> OriginError {
    OriginError::new(OriginErrorKind::Reset, cause(why))
}

fn cause(why: &BError) -> String {
    let text: String = why.to_string().chars().take(200).collect();
    text.escape_debug().to_string()
}
