//! A request's body as it comes from its client: strictly framed, bounded, and not too slow.

use bytes::{Bytes, BytesMut};

use super::h1::Conn;
use crate::clock;
use crate::fetch::Upload;
use crate::rules::chunked::Decoder;
use crate::rules::request::RequestBody;

/// What a client must have sent before its patience is counted anew.
const UPLOAD_SLICE: u64 = 4 * 1024;

/// Why a body can't be had.
#[derive(Debug)]
pub enum BadBody {
    Malformed,
    TooLarge,
    Slow,
    Gone,
}

/// A body that is coming, or a tunnel's bytes.
///
/// The head's bytes stay at the front of the inbox until the answer is done; the body's are taken from behind them.
pub struct Source {
    pub head_len: usize,
    /// Body bytes read so far.
    pub read: u64,
    most: Option<u64>,
    left: Left,
    ahead: std::collections::VecDeque<Bytes>,
    /// When this slice was first waited for, in the process's milliseconds, and what had been read by then.
    since: Option<(u64, u64)>,
    ended: bool,
}

enum Left {
    Nothing,
    Length(u64),
    Chunked(Box<Decoder>),
    /// Until the stream of HTTP/2 ends.
    Stream,
    Tunnel,
}

impl Source {
    /// `framed`: a body of unknown length ends with its stream, not with a last chunk.
    pub fn new(body: RequestBody, head_len: usize, most: u64, framed: bool) -> Source {
        let left = match body {
            RequestBody::None => Left::Nothing,
            RequestBody::Length(length) => Left::Length(length),
            RequestBody::Chunked if framed => Left::Stream,
            RequestBody::Chunked => Left::Chunked(Box::new(Decoder::new())),
        };
        Source {
            head_len,
            read: 0,
            most: Some(most).filter(|most| *most > 0),
            left,
            ahead: Default::default(),
            since: None,
            ended: false,
        }
    }

    /// Whether the client still has to send some of it.
    pub fn is_owed(&self) -> bool {
        !matches!(self.left, Left::Nothing)
    }

    /// From here on the client's bytes are another protocol's.
    pub fn tunnel(&mut self) {
        self.left = Left::Tunnel;
        self.ended = false;
    }

    /// Reads up to about `most` bytes before anybody is asked for anything.
    ///
    /// # Errors
    /// The body is malformed, too large or too slow, or its client has gone.
    pub async fn read_ahead(&mut self, conn: &mut Conn, most: usize) -> Result<(), BadBody> {
        // Put together as it comes: a thousand small chunks are not a thousand pieces.
        let mut read = BytesMut::new();
        while self.is_owed() && read.len() < most {
            if let Some(piece) = self.read_piece(conn).await? {
                read.extend_from_slice(&piece);
            }
        }
        if !read.is_empty() {
            self.ahead.push_back(read.freeze());
        }
        Ok(())
    }

    /// The next piece, or the end; after the end, never again. Cancel-safe.
    ///
    /// # Errors
    /// As [`Source::read_ahead`].
    pub async fn next(&mut self, conn: &mut Conn) -> Result<Upload, BadBody> {
        if let Some(piece) = self.ahead.pop_front() {
            return Ok(Upload::Data(piece));
        }
        if self.ended {
            std::future::pending::<()>().await;
        }
        while self.is_owed() {
            if let Some(piece) = self.read_piece(conn).await? {
                return Ok(Upload::Data(piece));
            }
        }
        self.ended = true;
        Ok(Upload::End)
    }

    /// A piece, or nothing if the body has ended or only framing was read. Cancel-safe: bytes leave the inbox and enter
    /// the piece without a wait between.
    async fn read_piece(&mut self, conn: &mut Conn) -> Result<Option<Bytes>, BadBody> {
        if conn.inbox.len() == self.head_len {
            self.patience(conn);
            match conn.wire.fill(&mut conn.inbox).await {
                Ok(0) if matches!(self.left, Left::Tunnel | Left::Stream) => {
                    self.left = Left::Nothing;
                    return Ok(None);
                }
                Ok(0) => return Err(BadBody::Gone),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::TimedOut => return Err(BadBody::Slow),
                Err(_) => return Err(BadBody::Gone),
            }
        }
        let piece = self.take(conn)?;
        self.read += piece.len() as u64;
        if self.most.is_some_and(|most| self.read > most) && !matches!(self.left, Left::Tunnel) {
            return Err(BadBody::TooLarge);
        }
        Ok((!piece.is_empty()).then_some(piece))
    }

    fn take(&mut self, conn: &mut Conn) -> Result<Bytes, BadBody> {
        let held = &conn.inbox.bytes()[self.head_len..];
        let (used, piece, over) = match &mut self.left {
            Left::Nothing => (0, Bytes::new(), true),
            Left::Tunnel | Left::Stream => (held.len(), Bytes::copy_from_slice(held), false),
            Left::Length(left) => {
                let n = held.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                (n, Bytes::copy_from_slice(&held[..n]), *left == 0)
            }
            Left::Chunked(decoder) => decode(decoder, held)?,
        };
        conn.inbox.cut(self.head_len, used);
        if over {
            self.left = Left::Nothing;
        }
        Ok(piece)
    }

    /// The deadline for the next bytes: silence is bounded, and so is dribbling. A tunnel may be silent.
    fn patience(&mut self, conn: &Conn) {
        if matches!(self.left, Left::Tunnel) {
            conn.wire.post().disarm();
            return;
        }
        let now = clock::uptime_millis();
        // Anew with each slice: haste now is no credit for later.
        let (since, had) = *self.since.get_or_insert((now, 0));
        if self.read >= had + UPLOAD_SLICE {
            self.since = Some((now, self.read));
        }
        let since = self.since.map_or(since, |(since, _)| since);
        let listen = &conn.policy().listen;
        let silence = now + listen.body_timeout.as_millis() as u64;
        let pace = conn
            .wire
            .pace()
            .millis_for(UPLOAD_SLICE)
            .map_or(u64::MAX, |millis| since + millis);
        conn.wire.post().arm_at(silence.min(pace));
    }
}

/// Everything that `held` has of the body: what was used, the body's bytes, whether it has ended.
fn decode(decoder: &mut Decoder, held: &[u8]) -> Result<(usize, Bytes, bool), BadBody> {
    let mut body = BytesMut::new();
    let mut used = 0;
    loop {
        let step = decoder
            .decode(&held[used..])
            .map_err(|_| BadBody::Malformed)?;
        body.extend_from_slice(&held[used..][step.data]);
        used += step.consumed;
        if step.done || step.consumed == 0 || used == held.len() {
            return Ok((used, body.freeze(), step.done));
        }
    }
}
