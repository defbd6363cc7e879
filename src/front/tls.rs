//! TLS to clients: certificates by name, which are read anew when their files change.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, server};
use tokio_rustls::TlsAcceptor;

use crate::config::certificate::{self, Certificate};
use crate::config::policy::Tls;
use crate::files::{self, LOOK, Seen, Stamp, stamp};

/// Sessions that can be taken up by those who do not take tickets.
const SESSIONS: usize = 4096;

/// The certificates in use.
pub struct Certificates {
    paths: Vec<PathBuf>,
    held: ArcSwap<Held>,
    /// Of the files as they were just before they were first read.
    first: Vec<Stamp>,
    pub reloads: Reloads,
}

/// How often they were taken anew, and how often what lay there could not be.
#[derive(Debug, Default)]
pub struct Reloads {
    pub done: AtomicU64,
    pub refused: AtomicU64,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates")
            .field("paths", &self.paths)
            .finish()
    }
}

struct Held {
    all: Vec<Certificate>,
    /// By name; those for all below a name by that name.
    exact: HashMap<String, usize>,
    below: HashMap<String, usize>,
}

impl Held {
    fn load(paths: &[PathBuf]) -> Result<Held, String> {
        let mut held = Held {
            all: Vec::with_capacity(paths.len()),
            exact: HashMap::new(),
            below: HashMap::new(),
        };
        for (at, path) in paths.iter().enumerate() {
            let certificate =
                certificate::load(path).map_err(|why| format!("{}: {why}", path.display()))?;
            for name in &certificate.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(above) => (&mut held.below, above),
                    None => (&mut held.exact, name.as_str()),
                };
                names.entry(name.to_owned()).or_insert(at);
            }
            held.all.push(certificate);
        }
        Ok(held)
    }

    /// RFC 6125 §6.4.3: a wildcard stands for one label.
    fn find(&self, name: &str) -> Option<&Certificate> {
        let name = name.to_ascii_lowercase();
        let below = || self.below.get(name.split_once('.')?.1);
        let at = self.exact.get(&name).or_else(below)?;
        self.all.get(*at)
    }
}

impl Certificates {
    /// Reads all of them.
    ///
    /// # Errors
    /// What is wrong with one, for people.
    pub fn load(paths: &[PathBuf]) -> Result<Arc<Certificates>, String> {
        let first = stamps(paths);
        Ok(Arc::new(Certificates {
            first,
            paths: paths.to_vec(),
            held: ArcSwap::from_pointee(Held::load(paths)?),
            reloads: Reloads::default(),
        }))
    }

    /// Looks at the files from a thread of its own, and takes them when they have changed and all can be used.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn watch(self: &Arc<Certificates>) -> io::Result<()> {
        let certificates = Arc::clone(self);
        let mut seen = Seen::first(certificates.first.clone());
        files::watch("certificates", LOOK, move || {
            if seen.has_changed(stamps(&certificates.paths)) {
                certificates.reload();
            }
            true
        })
    }

    fn reload(&self) {
        match Held::load(&self.paths) {
            Ok(held) => {
                self.held.store(Arc::new(held));
                self.reloads.done.fetch_add(1, Relaxed);
                tracing::info!("certificates were read anew");
            }
            Err(why) => {
                self.reloads.refused.fetch_add(1, Relaxed);
                tracing::error!(
                    why,
                    "certificates have changed and can't be used; the old ones stay"
                );
            }
        }
    }

    /// When the first of them ends, in Unix seconds.
    pub fn expires(&self) -> i64 {
        let held = self.held.load();
        held.all.iter().map(|one| one.expires).min().unwrap_or(0)
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let files = paths.iter().map(|path| certificate::files(path));
    files
        .flat_map(|(chain, key)| [chain, key])
        .map(|file| stamp(&file))
        .collect()
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let held = self.held.load();
        let named = hello.server_name().and_then(|name| held.find(name));
        let certificate = named.or(held.all.first())?;
        Some(Arc::clone(&certificate.key))
    }
}

/// What takes connections into TLS 1.2 or 1.3 (RFC 8446), offering `protocols` (RFC 7301).
///
/// # Errors
/// The authorities of clients can't be read; for people.
pub fn acceptor(
    tls: &Tls,
    certificates: &Arc<Certificates>,
    protocols: &[&[u8]],
) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match &tls.client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let mut roots = RootCertStore::empty();
            let authorities = CertificateDer::pem_file_iter(path).map_err(|error| told(&error))?;
            for authority in authorities {
                let authority = authority.map_err(|error| told(&error))?;
                roots.add(authority).map_err(|error| told(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| told(&error))?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let resolver: Arc<dyn ResolvesServerCert> = certificates.clone();
    let mut config = config.with_cert_resolver(resolver);
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    if tls.client_ca.is_some() {
        // A session that is taken up again brings its client's certificate along, expired or not.
        config.session_storage = Arc::new(server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.session_storage = server::ServerSessionMemoryCache::new(SESSIONS);
        config.ticketer = ring::Ticketer::new().map_err(|error| error.to_string())?;
    }
    Ok(TlsAcceptor::from(Arc::new(config)))
}
