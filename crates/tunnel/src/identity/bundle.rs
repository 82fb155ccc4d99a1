//! The roots an agent or hub believes; several at once while one replaces another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::IdentityError;
use super::peer::CERTIFICATE_BYTES_MAX;

/// Most roots in a bundle.
const ROOTS_MAX: usize = 16;

/// The SHA-256 of a root's public key (its SubjectPublicKeyInfo, DER): what a token pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootPin(pub [u8; 32]);

impl RootPin {
    /// The pin of a certificate's public key.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<RootPin, IdentityError> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| IdentityError::Certificate(error.to_string()))?;
        let hash = digest::digest(&digest::SHA256, parsed.public_key().raw);
        let mut pin = [0; 32];
        pin.copy_from_slice(hash.as_ref());
        Ok(RootPin(pin))
    }
}

/// base64url without padding, 43 characters.
impl fmt::Display for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for RootPin {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<RootPin, IdentityError> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).ok();
        let pin = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).map(RootPin);
        pin.ok_or_else(|| IdentityError::Key(format!("{text:?} is not the hash of a root's key")))
    }
}

/// Roots that are trusted; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    roots: Vec<CertificateDer<'static>>,
}

impl Bundle {
    /// These roots, DER.
    ///
    /// # Errors
    /// There are none or too many, or one is no certificate.
    pub fn new(roots: Vec<CertificateDer<'static>>) -> Result<Bundle, IdentityError> {
        if roots.is_empty() || roots.len() > ROOTS_MAX {
            let what = format!("a bundle has 1 to {ROOTS_MAX} roots, not {}", roots.len());
            return Err(IdentityError::Certificate(what));
        }
        for root in &roots {
            if root.len() > CERTIFICATE_BYTES_MAX {
                return Err(IdentityError::Certificate("a root larger than 16 KiB".into()));
            }
            RootPin::of(root)?;
        }
        Ok(Bundle { roots })
    }

    /// Reads the certificates of a PEM text.
    ///
    /// # Errors
    /// It is no PEM, or see [`Bundle::new`].
    pub fn from_pem(text: &str) -> Result<Bundle, IdentityError> {
        Bundle::new(certificates_from_pem(text)?)
    }

    /// As PEM, one certificate after the other.
    pub fn to_pem(&self) -> String {
        certificates_to_pem(&self.roots)
    }

    /// The roots, DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The pins of the roots.
    pub fn pins(&self) -> Vec<RootPin> {
        self.roots.iter().filter_map(|root| RootPin::of(root).ok()).collect()
    }

    /// Both, without repeats: what a hub believes that also takes certificates of a user's own authority.
    ///
    /// # Errors
    /// Together they are too many.
    pub fn with(&self, others: &Bundle) -> Result<Bundle, IdentityError> {
        let mut roots = self.roots.clone();
        roots.extend(others.roots.iter().filter(|root| !self.roots.contains(root)).cloned());
        Bundle::new(roots)
    }

    /// For rustls.
    pub(super) fn store(&self) -> Result<Arc<RootCertStore>, IdentityError> {
        let mut store = RootCertStore::empty();
        for root in &self.roots {
            store.add(root.clone()).map_err(|error| IdentityError::Certificate(error.to_string()))?;
        }
        Ok(Arc::new(store))
    }
}

/// The certificates of a PEM text; other sections are passed over.
pub(super) fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    certificates.map_err(|error| IdentityError::Certificate(format!("PEM: {error}")))
}

/// PEM of certificates, in the order given.
pub(super) fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    use base64::engine::general_purpose::STANDARD;
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
