//! What a fetch holds while it lasts: its place at the origin, and memory.

use std::sync::Arc;

use super::Fetcher;
use super::arrived::{self, Alone, Arrived};
use crate::cache::flight::{Failure, WINDOW_FLOOR};
use crate::cache::memory::Charge;
use crate::origin::{Exchange, OriginHead, Permit, Refused, StreamPermit};

/// What an exchange with an origin holds in buffers, in bytes.
const EXCHANGE_BUFFERS: usize = 96 * 1024;

/// What a window takes beside the pieces that are charged one by one: the one being read, the one that
/// waits, and the one on its way in.
const WINDOW_BUFFERS: usize = 3 * WINDOW_FLOOR;

/// Pieces are cut to this, so that windows and write deadlines stay fine-grained.
pub const PIECE: usize = 64 * 1024;

/// What of the origin an answer under way occupies.
pub enum Held {
    Work { _permit: Permit },
    Stream { _permit: StreamPermit },
}

impl Held {
    /// An event stream lives long and works little: from its head on it is one of the upstream's streams.
    ///
    /// # Errors
    /// It is a stream, and there are too many.
    pub fn for_answer(
        permit: Permit,
        head: &OriginHead,
        exchange: &mut Exchange,
    ) -> Result<Held, Refused> {
        if arrived::is_event_stream(&head.fields) {
            return Held::stream(permit, exchange);
        }
        Ok(Held::Work { _permit: permit })
    }

    /// Whether it holds no place among those at work.
    pub fn is_stream(&self) -> bool {
        matches!(self, Held::Stream { .. })
    }

    /// # Errors
    /// There are too many.
    pub fn stream(permit: Permit, exchange: &mut Exchange) -> Result<Held, Refused> {
        exchange.become_stream();
        Ok(Held::Stream {
            _permit: permit.into_stream()?,
        })
    }
}

/// A body of known length gets its memory before its first byte, so that it never has to be given up amid it. Where there
/// is none the answer is passed through a window, and nobody joins it.
pub async fn allow(
    fetcher: &Arc<Fetcher>,
    judged: Arrived,
    length: Option<u64>,
) -> (Arrived, Option<Charge>) {
    let (Arrived::Share(_), Some(length)) = (&judged, length) else {
        return (judged, None);
    };
    let bytes = length as usize + PIECE_COSTS * (length as usize / PIECE + 2);
    if let Some(charge) = fetcher.allowance(bytes) {
        return (judged, Some(charge));
    }
    fetcher.make_room().await;
    match fetcher.allowance(bytes) {
        Some(charge) => (judged, Some(charge)),
        None => (
            Arrived::LeaderOnly(Alone::just("no memory to keep it")),
            None,
        ),
    }
}

/// What a piece of [`PIECE`] bytes may cost beyond them, at most.
const PIECE_COSTS: usize = PIECE / 8 + 256;

/// What an exchange holds, shedding stored pages if need be.
pub async fn reserve(fetcher: &Arc<Fetcher>) -> Option<Charge> {
    if let Some(charge) = fetcher.memory.charge(EXCHANGE_BUFFERS) {
        return Some(charge);
    }
    fetcher.make_room().await;
    fetcher.memory.charge(EXCHANGE_BUFFERS)
}

/// What the window of a long answer takes. A short one is charged by its pieces.
pub async fn reserve_window(
    fetcher: &Arc<Fetcher>,
    length: Option<u64>,
) -> Result<Option<Charge>, Failure> {
    if length.is_some_and(|length| length <= WINDOW_FLOOR as u64) {
        return Ok(None);
    }
    if let Some(charge) = fetcher.memory.charge_modestly(WINDOW_BUFFERS) {
        return Ok(Some(charge));
    }
    fetcher.make_room().await;
    fetcher
        .memory
        .charge_modestly(WINDOW_BUFFERS)
        .map(Some)
        .ok_or(Failure::NoMemory)
}
