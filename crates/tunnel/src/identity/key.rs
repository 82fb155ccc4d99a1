//! The key of an agent or hub, and the request to certify it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::IdentityError;

/// A key that was made here. It leaves only into the owner's own file.
pub struct LocalKey(KeyPair);

/// Prints no key.
impl std::fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalKey")
    }
}

impl LocalKey {
    /// A new key: ECDSA with P-256.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<LocalKey, IdentityError> {
        KeyPair::generate().map(LocalKey).map_err(|error| IdentityError::Key(error.to_string()))
    }

    /// Reads a key, PEM (PKCS #8).
    ///
    /// # Errors
    /// It is none.
    pub fn from_pem(pem: &str) -> Result<LocalKey, IdentityError> {
        KeyPair::from_pem(pem).map(LocalKey).map_err(|error| IdentityError::Key(error.to_string()))
    }

    /// The key, PEM (PKCS #8).
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The request to certify it, PKCS #10, PEM. Its subject is empty: who the holder is comes from the
    /// token or the certificate it has.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn request(&self) -> Result<String, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.0)?;
        Ok(request.pem()?)
    }
}
