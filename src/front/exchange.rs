//! One request and its answer on a stream of HTTP/2: the wire of whoever serves it.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};

use super::translate;

pub struct Exchange {
    body: RecvStream,
    way: Way,
}

/// How far its answer is.
enum Way {
    Unanswered(SendResponse<Bytes>),
    Answering(SendStream<Bytes>),
    /// Its head was all there is.
    Over,
}

impl Exchange {
    pub fn new(body: RecvStream, respond: SendResponse<Bytes>) -> Exchange {
        Exchange {
            body,
            way: Way::Unanswered(respond),
        }
    }

    /// One whose answer's head is sent.
    pub fn answering(body: RecvStream, stream: SendStream<Bytes>) -> Exchange {
        Exchange {
            body,
            way: Way::Answering(stream),
        }
    }

    /// The next bytes of the request's body; none at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        loop {
            match ready!(self.body.poll_data(cx)) {
                None => return Poll::Ready(Ok(Bytes::new())),
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => {
                    // What is read is gone from here at once: the window may open again.
                    let released = self.body.flow_control().release_capacity(piece.len());
                    return Poll::Ready(released.map(|()| piece).map_err(io::Error::other));
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
    }

    /// Sends the answer's head, given as HTTP/1.1 has it.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn answer(&mut self, head: &[u8]) -> io::Result<()> {
        let Way::Unanswered(respond) = &mut self.way else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let response = translate::response(head)?;
        let stream = respond
            .send_response(response, false)
            .map_err(io::Error::other)?;
        self.way = Way::Answering(stream);
        Ok(())
    }

    /// Sends as much of `piece` as the client's windows allow, and takes that off it.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        let Way::Answering(stream) = &mut self.way else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        stream.reserve_capacity(piece.len());
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let part = piece.split_to(stream.capacity().min(piece.len()));
        let len = part.len();
        Poll::Ready(
            stream
                .send_data(part, false)
                .map(|()| len)
                .map_err(io::Error::other),
        )
    }

    /// Ready once the client wants no answer any more, or is gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.way {
            Way::Unanswered(respond) => respond.poll_reset(cx).map(drop),
            Way::Answering(stream) => stream.poll_reset(cx).map(drop),
            Way::Over => Poll::Ready(()),
        }
    }

    /// Ends the answer, or breaks it off so that nobody takes what was sent for the whole.
    pub fn end(&mut self, whole: bool) {
        match std::mem::replace(&mut self.way, Way::Over) {
            Way::Answering(mut stream) if whole => {
                // If it is gone, there is nobody to tell.
                let _ = stream.send_data(Bytes::new(), true);
            }
            Way::Answering(mut stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            Way::Unanswered(mut respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Way::Over => {}
        }
    }
}
