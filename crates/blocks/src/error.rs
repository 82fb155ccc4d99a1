//! What can go wrong with a block: always a file, and a byte where there is one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A block that could not be written, or a piece of one that could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlockError {
    /// The disk refused.
    #[error("{attempt} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// Bytes are not what a writer of blocks leaves.
    #[error("{path}, byte {offset}: {reason}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A version of the format that is not known here.
    #[error("{path}: {reason}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not understood.
        reason: String,
    },
    /// The caller broke a rule of the writer (order of series or samples).
    #[error("block {path}: {reason}", path = path.display())]
    Invalid {
        /// The block's directory.
        path: PathBuf,
        /// Which rule.
        reason: String,
    },
}

impl BlockError {
    pub(crate) fn io(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlockError {
        let path = path.to_owned();
        move |source| BlockError::Io { attempt, path, source: Arc::new(source) }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, reason: impl Into<String>) -> BlockError {
        BlockError::Corrupt { path: path.to_owned(), offset, reason: reason.into() }
    }
}
