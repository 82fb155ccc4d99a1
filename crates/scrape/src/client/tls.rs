//! TLS settings, made once for each content and shared.
//!
//! A client configuration holds the whole store of trusted roots, so every target of every job that
//! says the same uses the same one. Files are looked at (time and size) whenever a connection is
//! opened, and read again when they have changed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::config::{Source, TlsConfig};

/// Client configurations by what they say.
#[derive(Debug, Default)]
pub struct TlsConfigs {
    made: Mutex<HashMap<(TlsConfig, bool), Made>>,
}

#[derive(Debug)]
struct Made {
    stamps: Vec<Option<(SystemTime, u64)>>,
    config: Arc<ClientConfig>,
}

impl TlsConfigs {
    /// The client configuration for `tls`; `http2` says whether HTTP/2 is offered.
    ///
    /// # Errors
    /// A file that cannot be read or used; the message names it.
    pub fn get(&self, tls: &TlsConfig, http2: bool) -> Result<Arc<ClientConfig>, String> {
        let stamps: Vec<_> = files(tls).map(stamp).collect();
        let key = (tls.clone(), http2);
        if let Some(made) = self.made.lock().get(&key)
            && made.stamps == stamps
        {
            return Ok(made.config.clone());
        }
        let config = Arc::new(make(tls, http2)?);
        self.made.lock().insert(key, Made { stamps, config: config.clone() });
        Ok(config)
    }

    /// Forgets configurations that nobody else holds.
    pub fn forget_unused(&self) {
        self.made.lock().retain(|_, made| Arc::strong_count(&made.config) > 1);
    }
}

fn files(tls: &TlsConfig) -> impl Iterator<Item = &Path> {
    let identity = tls.identity.iter().flat_map(|(cert, key)| [cert, key]);
    tls.ca.iter().chain(identity).filter_map(|source| match source {
        Source::File(path) => Some(path.as_path()),
        Source::Inline(_) => None,
    })
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn make(tls: &TlsConfig, http2: bool) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
    if tls.tls13 {
        versions.push(&rustls::version::TLS13);
    }
    if tls.tls12 {
        versions.push(&rustls::version::TLS12);
    }
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .map_err(|e| format!("TLS versions: {e}"))?;
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
    } else {
        builder.with_root_certificates(roots(tls)?)
    };
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let key_text = key.read()?;
            let key_der = PrivateKeyDer::from_pem_slice(key_text.reveal().as_bytes())
                .map_err(|e| format!("{}: no private key in PEM: {e}", named(key, "key")))?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|e| format!("{}: {e}", named(cert, "cert")))?
        }
    };
    if http2 {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(config)
}

fn roots(tls: &TlsConfig) -> Result<Arc<RootCertStore>, String> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let Some(ca) = &tls.ca else {
        let system = SYSTEM.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let loaded = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(loaded.certs);
            Arc::new(roots)
        });
        return Ok(system.clone());
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|e| format!("{}: {e}", named(ca, "ca")))?;
    }
    Ok(Arc::new(roots))
}

fn certificates(source: &Source) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = source.read()?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.reveal().as_bytes()).collect();
    let found = found.map_err(|e| format!("{}: not PEM: {e}", named(source, "certificate")))?;
    if found.is_empty() {
        return Err(format!("{}: no certificate in PEM", named(source, "certificate")));
    }
    Ok(found)
}

fn named(source: &Source, inline: &str) -> String {
    match source {
        Source::Inline(_) => format!("tls_config {inline}"),
        Source::File(path) => path.display().to_string(),
    }
}

/// `insecure_skip_verify`: any certificate will do, signatures are still checked.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
