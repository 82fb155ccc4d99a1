//! What can go wrong with a queue, and what the caller can do about it.

use std::io;
use std::path::PathBuf;

/// An operation on a queue failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The disk is full. Nothing of the block is in the queue; the next write may succeed.
    #[error("write queue {}: no space left on the device", .0.display())]
    Full(PathBuf),
    /// An earlier `fsync` failed: nobody knows what the disk holds, so nothing more is written until the
    /// queue is opened anew. Reading goes on.
    #[error("queue {} is read-only since a sync failed: {reason}", path.display())]
    ReadOnly {
        /// The queue's directory.
        path: PathBuf,
        /// What the device said then.
        reason: String,
    },
    /// The block is larger than the queue takes. Writing it again is of no use.
    #[error("block of {bytes} bytes is larger than {bytes_max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The floor of a block lies outside its segment: a mistake of the encoder.
    #[error("floor {floor} of block {block} is not within its segment, which starts at block {first}")]
    Floor {
        /// The block that was to be written.
        block: u64,
        /// Its floor.
        floor: u64,
        /// The first block of the segment.
        first: u64,
    },
    /// A name that cannot be a file name here.
    #[error(
        "reader name {0:?} is not 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', starting with a letter or digit"
    )]
    Name(String),
    /// There is a handle of that reader already.
    #[error("reader {0} is open already")]
    Open(String),
    /// The file comes from a later version.
    #[error("{} is of version {major}, and this program reads up to {known}", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its major version.
        major: u16,
        /// The highest that is known here.
        known: u16,
    },
    /// The operating system refused.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl QueueError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> QueueError {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => QueueError::Full(path),
            _ => QueueError::Io { what, path, source },
        }
    }
}
