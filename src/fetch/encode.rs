//! Hot pages are encoded once, on a thread of their own, and stored beside the page as it came.
//!
//! No answer waits for it. The thread yields to whoever else wants a processor, rests after each page as long as that took,
//! and has a short queue: a page that finds it full goes out as it is, and is tried again when it was asked for a few more
//! times.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use flate2::write::GzEncoder;

use super::Fetcher;
use crate::cache::entry::{Body, Entry};
use crate::cache::key::Key;
use crate::cache::memory::Memory;
use crate::cache::store::Store;
use crate::clock;
use crate::rules::encoding::Coding;

/// Pages that wait for the thread.
const QUEUE: usize = 64;
/// How hard each coding tries. A page is encoded once and sent thousands of times, but its successor may come in a second.
const BR_QUALITY: u32 = 6;
const ZSTD_LEVEL: i32 = 9;
const GZIP_LEVEL: u32 = 6;
/// The window of brotli, as a power of two: 4 MiB.
const BR_WINDOW: u32 = 22;

/// The queue, and what came of it.
#[derive(Default)]
pub struct Encoder {
    queue: OnceLock<SyncSender<Job>>,
    pub counts: Arc<Counts>,
}

#[derive(Debug, Default)]
pub struct Counts {
    /// Representations made, by coding.
    pub made: [AtomicU64; Coding::ALL.len()],
    /// Pages that would not have been shorter.
    pub no_shorter: AtomicU64,
    /// The queue or the memory was full.
    pub put_off: AtomicU64,
}

/// What the thread works with.
struct Desk {
    store: Arc<Store>,
    memory: Arc<Memory>,
    counts: Arc<Counts>,
}

struct Job {
    key: Key,
    entry: Weak<Entry>,
    coding: Coding,
}

impl Fetcher {
    /// Has `entry` encoded. Its coding has been claimed.
    pub fn encode(&self, key: &Key, entry: &Arc<Entry>, coding: Coding) {
        let queue = self.encoder.queue.get_or_init(|| {
            start(Desk {
                store: Arc::clone(&self.store),
                memory: Arc::clone(&self.memory),
                counts: Arc::clone(&self.encoder.counts),
            })
        });
        let job = Job {
            key: key.clone(),
            entry: Arc::downgrade(entry),
            coding,
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(job) {
            entry.encoded.give_up(coding);
            self.encoder.counts.put_off.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Desk {
    fn do_job(&self, job: &Job) {
        // It may have been replaced or evicted while it waited.
        let Some(entry) = job.entry.upgrade() else {
            return;
        };
        let counts = &self.counts;
        let Some(made) = encode(&entry.body, job.coding) else {
            counts.no_shorter.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let encoded = Body::of(made, &self.memory)
            .and_then(|body| entry.in_coding(job.coding, body, &self.memory));
        let Some(encoded) = encoded else {
            entry.encoded.give_up(job.coding);
            counts.put_off.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (now, encoded) = (clock::now().mono, Arc::new(encoded));
        if self
            .store
            .encode(&job.key, &entry, job.coding, encoded, now)
        {
            counts.made[job.coding as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Gives a page that is about to be stored the codings its predecessor had: the same bytes if the page is the same, else
/// those that are to be made as soon as it is stored.
pub fn inherit(fetcher: &Fetcher, entry: &Entry, before: &Entry) -> Vec<Coding> {
    let had_any = before.encoded.made().next().is_some();
    if !had_any || !entry.may_encode() || entry.variant != before.variant {
        return Vec::new();
    }
    let same = entry.body.is_equal(&before.body);
    let mut missing = Vec::new();
    for (coding, encoded) in before.encoded.made() {
        let body = same.then(|| encoded.body.clone());
        match body.and_then(|body| entry.in_coding(coding, body, &fetcher.memory)) {
            Some(encoded) => entry.encoded.add(coding, Arc::new(encoded)),
            None => missing.extend(entry.encoded.claim(coding).then_some(coding)),
        }
    }
    missing
}

/// The thread ends with its encoder.
fn start(desk: Desk) -> SyncSender<Job> {
    let (sender, jobs) = sync_channel(QUEUE);
    let run = move || {
        // Without it, it competes with the workers as an equal: slower, not wrong.
        let _ = rustix::process::nice(19);
        work(&desk, &jobs);
    };
    let thread = std::thread::Builder::new().name("encoder".into());
    if let Err(error) = thread.spawn(run) {
        tracing::warn!(%error, "no thread to compress pages with: they go out as they are");
    }
    sender
}

fn work(desk: &Desk, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let began = clock::instant();
        // A page that an encoder panics over stays as it came; the thread is needed for the others.
        if catch_unwind(AssertUnwindSafe(|| desk.do_job(&job))).is_err() {
            tracing::error!(coding = job.coding.name(), "an encoder panicked");
        }
        // Where the process has a quota of time, what is taken here is taken from the workers.
        let took = began.elapsed();
        std::thread::sleep(took);
    }
}

/// The body in `coding`, if that is shorter.
fn encode(body: &Body, coding: Coding) -> Option<Bytes> {
    // Into memory nothing fails but the memory.
    let made = write(body, coding).ok()?;
    // Boxed: room that is not used would be held, and charged to nobody.
    ((made.len() as u64) < body.len()).then(|| made.into_boxed_slice().into())
}

fn write(body: &Body, coding: Coding) -> io::Result<Vec<u8>> {
    let out = Vec::with_capacity(body.len() as usize / 4);
    let all = |writer: &mut dyn Write| {
        body.pieces()
            .iter()
            .try_for_each(|piece| writer.write_all(piece))
    };
    Ok(match coding {
        Coding::Br => {
            let mut writer = brotli::CompressorWriter::new(out, 64 * 1024, BR_QUALITY, BR_WINDOW);
            all(&mut writer)?;
            writer.into_inner()
        }
        Coding::Zstd => {
            let mut writer = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
            writer.set_pledged_src_size(Some(body.len()))?;
            all(&mut writer)?;
            writer.finish()?
        }
        Coding::Gzip => {
            let mut writer = GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
            all(&mut writer)?;
            writer.finish()?
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::cache::memory::Memory;

    fn decoded(bytes: &[u8], coding: Coding) -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            Coding::Br => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes)
                .unwrap()
                .read_to_end(&mut out),
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        }
        .unwrap();
        out
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same_however_it_is_cut() {
        let text: Vec<u8> = (0..60_000u32)
            .flat_map(|n| n.to_string().into_bytes())
            .collect();
        let memory = Memory::new(8 << 20);
        for cut in [700, 64 * 1024, text.len()] {
            let pieces: Vec<Bytes> = text.chunks(cut).map(Bytes::copy_from_slice).collect();
            let body = Body::gather(&pieces, &memory);
            for coding in Coding::ALL {
                let made = encode(&body, coding).unwrap();
                assert!(made.len() < text.len() / 2, "{coding:?}");
                assert!(decoded(&made, coding) == text, "{coding:?}");
            }
        }
    }

    #[test]
    fn what_would_be_longer_is_left() {
        let noise: Vec<u8> = (0..1000u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        let body = Body::of(noise[..600].to_vec().into(), &Memory::new(1 << 20)).unwrap();
        for coding in [Coding::Zstd, Coding::Br] {
            assert_eq!(encode(&body, coding), None, "{coding:?}");
        }
    }
}
