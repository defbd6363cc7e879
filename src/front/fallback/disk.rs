//! What lies on the disk instead of a page: its last good copy, or a file that stands for it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{as_stranger, demand, is_fresh};
use crate::cache::entry::Entry;
use crate::cache::key::Key;
use crate::clock;
use crate::fallback::Wanted;
use crate::fetch::vary_values;
use crate::front::Site;
use crate::front::asking::Asking;
use crate::front::h1::Conn;
use crate::front::miss::Place;
use crate::rules::fallback as rules;
use crate::rules::host;
use crate::rules::host::Scheme;
use crate::rules::reuse::Demand;
use crate::rules::vary::{AsSent, Codings};
use crate::telemetry::FallbackSource;

/// How long the disk is looked at: a disk that hangs is as good as none.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be looked for.
pub struct Look {
    copy: Option<Kept>,
    host: Box<str>,
    files: Vec<Vec<u8>>,
    codings: Codings,
    own: Vec<(HeaderName, HeaderValue)>,
}

impl Look {
    /// Whether there is anything to look for.
    pub fn is_worth_it(&self) -> bool {
        self.copy.is_some() || !self.files.is_empty()
    }

    /// Where it would be found. Blocks.
    pub fn source(&self, site: &Site) -> FallbackSource {
        let wanted = self.wanted(site);
        match self.copy {
            Some(_) => FallbackSource::Snapshot,
            None if site.reserve.has_file(&wanted) => FallbackSource::File,
            None => FallbackSource::Maintenance,
        }
    }

    /// Reads the disk.
    fn find(&self, site: &Site) -> Option<Lying> {
        let copy = self.copy.as_ref().and_then(|copy| {
            let entry = copy.find(site)?;
            Some(Lying {
                keeps: is_fresh(&entry, &copy.demand, clock::moment()),
                entry,
                source: FallbackSource::Snapshot,
            })
        });
        copy.or_else(|| {
            let entry = site
                .reserve
                .file(&self.wanted(site), &site.fetcher.memory)?;
            Some(Lying {
                entry,
                source: FallbackSource::File,
                keeps: false,
            })
        })
    }

    fn wanted(&self, site: &Site) -> Wanted<'_> {
        Wanted {
            host: &self.host,
            files: &self.files,
            codings: self.codings,
            most: site.policy.cache.max_object_size,
            own: &self.own,
            now: clock::now(),
        }
    }
}

pub fn look(site: &Site, asking: &Asking) -> Look {
    let query = asking.target.split_once('?').map(|(_, query)| query);
    let files = match site.reserve.has_files() {
        true => rules::files(asking.path, query),
        false => Vec::new(),
    };
    let plain = asking.request.known.range.is_some() || asking.no_transform;
    let hsts = asking.route.hsts.clone();
    let hsts = hsts.filter(|_| asking.scheme == Scheme::Https);
    let hsts = hsts.map(|value| (header::STRICT_TRANSPORT_SECURITY, value));
    Look {
        copy: Kept::of(site, asking),
        host: host::without_port(asking.host).into(),
        files,
        codings: match plain {
            true => Codings::IDENTITY,
            false => Codings::of(asking.request),
        },
        own: asking.route.added.iter().cloned().chain(hsts).collect(),
    }
}

/// What was found on the disk.
pub struct Lying {
    pub entry: Arc<Entry>,
    pub source: FallbackSource,
    /// It is as fresh as ever.
    pub keeps: bool,
}

/// The copy of a page or the file that stands for it, looked for off the worker's thread.
pub async fn on_disk(conn: &Conn, look: Look) -> Option<Lying> {
    if !look.is_worth_it() {
        return None;
    }
    let _place = Place::take(&conn.site, conn.policy().cache.max_waiters)?;
    let site = Arc::clone(&conn.site);
    let looks = async move {
        let turn = Arc::clone(site.reserve.readers());
        let turn = turn.acquire_owned().await.ok()?;
        let found = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            look.find(&site)
        });
        found.await.ok()?
    };
    tokio::time::timeout(PATIENCE, looks).await.ok()?
}

/// A copy in the snapshot, which holds what strangers were given.
struct Kept {
    key: Key,
    /// From which upstream it is to be.
    origin: u64,
    /// The request's fields, and what of them selects a copy.
    fields: HeaderMap,
    sent: AsSent,
    demand: Demand,
}

impl Kept {
    fn of(site: &Site, asking: &Asking) -> Option<Kept> {
        if !site.fetcher.has_copy(asking.key, asking.route) {
            return None;
        }
        let mut fields = HeaderMap::new();
        for line in asking.request.lines {
            let name = HeaderName::from_bytes(line.name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value)) {
                fields.append(name, value);
            }
        }
        Some(Kept {
            key: asking.key.to_key(),
            origin: site.fetcher.origin(asking.route.upstream),
            fields,
            sent: as_stranger(asking),
            demand: demand(asking),
        })
    }

    /// Reads the disk.
    fn find(&self, site: &Site) -> Option<Arc<Entry>> {
        let select = |names: &[HeaderName]| vary_values(names, &self.fields, &self.sent);
        let snapshot = &site.fetcher.snapshot;
        snapshot.find(self.key.as_ref(), self.origin, select)
    }
}
