//! What can go wrong at the contract, sorted by what the caller can do about it.

use std::io;

/// A write that failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store refuses writes until restart; doors answer 503.
    #[error("the store is read-only: {reason}")]
    ReadOnly {
        /// The failure that made it so.
        reason: String,
    },
    /// The disk refused this write; the store is sound, trying again makes sense.
    #[error("{attempt}: {source}")]
    Io {
        /// What was attempted, with what.
        attempt: String,
        /// The cause.
        source: io::Error,
    },
    /// A source reference that this store never gave out.
    #[error("unknown source reference {0}")]
    UnknownSource(u64),
    /// The tenant is over a limit; doors answer 503 or 429.
    #[error("tenant {tenant}: {limit}")]
    Limit {
        /// Whose limit.
        tenant: String,
        /// Which limit, with its value.
        limit: String,
    },
}

/// A read that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// Stored bytes could not be read or fail their checksum.
    #[error("{0}")]
    Corrupt(String),
    /// The answer would pass a limit.
    #[error("{0}")]
    Limit(String),
    /// Part of the data cannot be had now, and the caller wants all or nothing.
    #[error("the answer would be incomplete: {0}")]
    Incomplete(String),
    /// The query was cancelled or ran out of time.
    #[error("query was cancelled")]
    Cancelled,
}
