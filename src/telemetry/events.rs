//! Events (starts, failures, refusals) as JSON lines, by `tracing`, through the same bounded way as
//! the access log.

use std::io::{self, Write};
use std::sync::Arc;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::ring::Ring;

/// An event that takes more is dropped, and counted.
const EVENT_MOST: usize = 64 * 1024;

/// Sends events of `level` and above to `ring`; what pingora says about single connections, from
/// `warn`. A subscriber that is already there stays.
///
/// # Errors
/// A level that is none.
pub fn install(level: &str, ring: Arc<Ring>) -> io::Result<()> {
    let level: LevelFilter = (level.parse()).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("no such log level: {level}"),
        )
    })?;
    let filter = Targets::new()
        .with_default(level)
        .with_target("pingora", level.min(LevelFilter::WARN))
        // What comes of its questions is told by who asks; it repeats itself with each.
        .with_target("hickory", level.min(LevelFilter::ERROR));
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(ToRing(ring));
    // An embedding program's own subscriber is as good.
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .try_init();
    Ok(())
}

struct ToRing(Arc<Ring>);

impl<'a> MakeWriter<'a> for ToRing {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines(&self.0)
    }
}

/// Takes one whole event a write, as the layer gives it.
struct Lines<'a>(&'a Ring);

impl Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.len() <= EVENT_MOST {
            self.0.push(line.len(), |out| out.put(line));
        } else {
            self.0.drop_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
