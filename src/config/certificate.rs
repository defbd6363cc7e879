//! A certificate as it lies on disk: where its chain and key are, what it names, when it ends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Chain and key in a folder, by who writes it there: certbot, Kubernetes.
const LAYOUTS: [(&str, &str); 2] = [("fullchain.pem", "privkey.pem"), ("tls.crt", "tls.key")];

/// A certificate that can be used.
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    /// The names it is for, in lower case; `*.` begins those that stand for all below them.
    pub names: Vec<String>,
    /// Unix seconds.
    pub expires: i64,
}

/// The files of chain and key; one file may hold both.
pub fn files(path: &Path) -> (PathBuf, PathBuf) {
    if !path.is_dir() {
        return (path.to_owned(), path.to_owned());
    }
    let all = LAYOUTS.map(|(chain, key)| (path.join(chain), path.join(key)));
    let [first, second] = all;
    match second.0.exists() && !first.0.exists() {
        true => second,
        false => first,
    }
}

/// Reads a certificate and its key, which must belong together.
///
/// # Errors
/// What is wrong with them, for people.
pub fn load(path: &Path) -> Result<Certificate, String> {
    let (chain_file, key_file) = files(path);
    let chain = CertificateDer::pem_file_iter(&chain_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(&chain_file, error))?;
    let leaf = chain
        .first()
        .ok_or_else(|| format!("no certificate in {}", chain_file.display()))?;
    let (names, expires) = about(leaf).ok_or_else(|| {
        format!(
            "the first certificate in {} is malformed",
            chain_file.display()
        )
    })?;
    let key =
        PrivateKeyDer::from_pem_file(&key_file).map_err(|error| unreadable(&key_file, error))?;
    let key = any_supported_type(&key).map_err(|_| {
        format!(
            "the key in {} is of no kind that TLS uses",
            key_file.display()
        )
    })?;
    let key = CertifiedKey::new(chain, key);
    match key.keys_match() {
        // A kind of key that can't be compared is taken at its word.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Certificate {
            key: Arc::new(key),
            names,
            expires,
        }),
        Err(_) => Err("the key is another certificate's".to_owned()),
    }
}

fn unreadable(file: &Path, error: pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => format!("nothing of the kind in {}", file.display()),
        pem::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            format!("no file {}", file.display())
        }
        error => format!("{}: {error}", file.display()),
    }
}

/// The names a certificate is for, and its end.
fn about(leaf: &CertificateDer) -> Option<(Vec<String>, i64)> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    Some((names, certificate.validity().not_after.timestamp()))
}
