//! What can go wrong with certificates.

use std::io;
use std::path::PathBuf;

use super::peer::NameError;

/// Why a certificate, a key or a file of the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("{verb} {}: {source}", path.display())]
    File {
        /// `read`, `write`, ...
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate could not be understood, or is not one of ours.
    #[error("certificate: {0}")]
    Certificate(String),
    /// A request to sign could not be understood, or is too large.
    #[error("signing request: {0}")]
    SigningRequest(String),
    /// A key could not be made or read.
    #[error("key: {0}")]
    Key(String),
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(String),
    /// Who should be certified cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The root's key is not at this hub.
    #[error("the key of the fleet's root is not at this hub; do this at the hub that has it")]
    NoRootKey,
    /// The authority is not in the state that this needs.
    #[error("{0}")]
    State(String),
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        IdentityError::Certificate(error.to_string())
    }
}
