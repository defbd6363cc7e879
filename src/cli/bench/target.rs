//! Who is asked, and whether he may be.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use http::Uri;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::Whom;
use crate::bench::spike::client::{Server, Tls};

/// The server that a URL names.
///
/// # Errors
/// It can't be found, or is not to be asked; for people.
pub fn find(url: &str, whom: &Whom) -> Result<Server, String> {
    let told = |why: &str| format!("{url}: {why}");
    let uri: Uri = url.parse().map_err(|_| told("that is no URL"))?;
    let is_tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(told("a URL begins with http:// or https://")),
    };
    let authority = uri.authority().ok_or_else(|| told("it names no host"))?;
    let host = authority.host().trim_matches(['[', ']']);
    let port = authority
        .port_u16()
        .unwrap_or(if is_tls { 443 } else { 80 });
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|e| told(&e.to_string()))?;
    let all: Vec<SocketAddr> = found.collect();
    let address = *all.first().ok_or_else(|| told("nobody is called so"))?;
    if !whom.i_own_this && !all.iter().all(|address| address.ip().is_loopback()) {
        return Err(told(
            "it is not on this machine: a crowd there is an attack, unless you own it; say so by --i-own-this",
        ));
    }
    let tls = match is_tls {
        true => Some(tls(host, whom.insecure).map_err(|why| told(&why))?),
        false => None,
    };
    Ok(Server {
        address,
        host: authority.as_str().to_owned(),
        tls,
    })
}

fn tls(host: &str, insecure: bool) -> Result<Tls, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let config = match insecure {
        true => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth(),
        false => {
            let mut roots = RootCertStore::empty();
            let native = rustls_native_certs::load_native_certs().map_err(|e| e.to_string())?;
            roots.add_parsable_certificates(
                native
                    .into_iter()
                    .map(|one| CertificateDer::from(one.to_vec())),
            );
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(Tls::new(&config, name))
}

/// Believes anybody: whoever asks for that measures his own.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
