//! Databases that tell where clients are, taken anew when they change.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::policy;
use crate::files::Watched;
use crate::rules::expression::Whereabouts;
use crate::rules::geo::{self, Database};
use crate::telemetry::{Counter, Metrics, names};

pub struct Geo {
    spec: policy::Geo,
    country: Option<Held>,
    asn: Option<Held>,
}

/// A database in use.
struct Held {
    what: &'static str,
    file: Watched,
    make: fn(Vec<u8>) -> Result<Database, String>,
    database: ArcSwap<Database>,
    reloaded: Arc<Counter>,
    refused: Arc<Counter>,
}

impl Geo {
    /// Reads those that there are.
    ///
    /// # Errors
    /// One can't be used; for people.
    pub fn read(geo: &policy::Geo, metrics: &Metrics) -> Result<Arc<Geo>, String> {
        let held = |path: &Option<_>, what, make| {
            let path: Option<&Path> = path.as_deref();
            path.map(|path| Held::read(path, what, make, metrics))
                .transpose()
        };
        Ok(Arc::new(Geo {
            spec: geo.clone(),
            country: held(&geo.country, "country", Database::country)?,
            asn: held(&geo.asn, "asn", Database::asn)?,
        }))
    }

    /// Whether they are what a config says.
    pub fn are_by(&self, geo: &policy::Geo) -> bool {
        self.spec == *geo
    }

    pub fn locate(&self, client: IpAddr) -> Whereabouts {
        let country = self.country.as_ref().map(|held| held.database.load());
        let asn = self.asn.as_ref().map(|held| held.database.load());
        geo::locate(
            country.as_deref().map(|d| &**d),
            asn.as_deref().map(|d| &**d),
            client,
        )
    }

    /// Takes what has changed; what can't be used changes nothing.
    pub fn look(&self) {
        for held in [&self.country, &self.asn].into_iter().flatten() {
            held.look();
        }
    }
}

impl Held {
    fn read(
        path: &Path,
        what: &'static str,
        make: fn(Vec<u8>) -> Result<Database, String>,
        metrics: &Metrics,
    ) -> Result<Held, String> {
        let file = Watched::new(path);
        let database = database(&file, make)?;
        let reloads = |result| metrics.counter(&names::GEO_RELOADS, &[what, result]);
        Ok(Held {
            what,
            file,
            make,
            database: ArcSwap::from_pointee(database),
            reloaded: reloads("done"),
            refused: reloads("refused"),
        })
    }

    fn look(&self) {
        if !self.file.has_changed() {
            return;
        }
        let database_of = self.what;
        match database(&self.file, self.make) {
            Ok(database) => {
                self.database.store(Arc::new(database));
                self.reloaded.add(1);
                tracing::info!(database_of, "a database was read anew");
            }
            Err(why) => {
                self.refused.add(1);
                tracing::error!(
                    database_of,
                    why,
                    "a database has changed and can't be used; the last one stays"
                );
            }
        }
    }
}

fn database(
    file: &Watched,
    make: fn(Vec<u8>) -> Result<Database, String>,
) -> Result<Database, String> {
    make(file.read()?).map_err(|why| format!("{}: {why}", file.path().display()))
}
