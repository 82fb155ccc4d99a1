//! The limits of the doors.

use std::time::Duration;

/// When a push is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// Once the store has written it: a death of the process loses nothing, a power cut what the
    /// store's commit interval covers.
    #[default]
    Written,
    /// Once it survives a power cut.
    Always,
}

/// Limits of the remote-write door.
#[derive(Debug, Clone)]
pub struct ReceiveConfig {
    /// Longest body as sent, bytes.
    pub body_bytes_max: usize,
    /// Bytes of bodies being received at once, each counted as long as it declares to be, or as long
    /// as it may be; further requests wait.
    pub arriving_bytes_max: usize,
    /// Longest body unpacked, bytes. Source: Prometheus, `decodeReadLimit` (32 MiB).
    pub decoded_bytes_max: usize,
    /// Most series, samples, exemplars and metadata entries together in a request.
    pub entries_max: usize,
    /// Samples further ahead of our clock are refused. Source: Prometheus, `maxAheadTime`.
    pub ahead_max: Duration,
    /// Samples of at most so many different days (UTC) are taken of a request.
    pub days_max: usize,
    /// When a push is acknowledged.
    pub sync: SyncPolicy,
    /// Requests worked on at once; further ones wait.
    pub concurrency_max: usize,
    /// What `Retry-After` says when the store takes nothing.
    pub retry_after: Duration,
}

impl Default for ReceiveConfig {
    fn default() -> ReceiveConfig {
        ReceiveConfig {
            body_bytes_max: 32 << 20,
            arriving_bytes_max: 512 << 20,
            decoded_bytes_max: 32 << 20,
            entries_max: 2 << 20,
            ahead_max: Duration::from_secs(600),
            days_max: 1000,
            sync: SyncPolicy::Written,
            concurrency_max: 16,
            retry_after: Duration::from_secs(30),
        }
    }
}
