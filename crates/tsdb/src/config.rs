//! What can be set.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stdx::clock::{Clock, SystemClock};
use stdx::disk::{Disk, RealDisk};

/// When the log is forced to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// As soon as there is something to force; batches that arrive meanwhile share the next turn.
    Always,
    /// Once in this time, for all tenants together.
    Every(Duration),
    /// Only at segment ends, at close, and when somebody waits for it.
    Off,
}

/// How a [`crate::Db`] is opened.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory; made when it does not exist.
    pub dir: PathBuf,
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Whether to take the `LOCK` file (always, except on a simulated disk).
    pub lock: bool,
    /// Whether the directory is only read: nothing in it is changed, not even the lock's file, and every
    /// write is refused. The directory has to be there, and no other process may have it open for writing.
    pub read_only: bool,
    /// Whether threads of our own sync, flush and compact. Without them the owner calls
    /// [`crate::Db::sync`], [`crate::Db::flush`] and [`crate::Db::compact`].
    pub background: bool,
    /// When the log is forced to the device.
    pub sync: SyncPolicy,
    /// A log segment is ended when it is longer than this, bytes.
    pub segment_bytes_max: u64,
    /// The log refuses further batches beyond this, bytes (flushes must have been failing for long).
    pub wal_bytes_max: u64,
    /// Time between flushes.
    pub flush_interval: Duration,
    /// A flush also happens when the samples of all heads are estimated to hold more than this, bytes.
    pub head_bytes_max: usize,
    /// Late samples of all tenants hold at most about this much memory, bytes. Those of a tenant are
    /// written to parts when they hold a quarter of it; a tenant with half of it, or anybody once all of it
    /// is taken, has batches with late samples refused for the moment ([`storage::StoreError::Limit`]).
    pub late_bytes_max: usize,
    /// A tenant with fewer samples than this in its head has them written to the log again at a flush,
    /// instead of getting a part for them.
    pub small_tenant_samples: usize,
    /// Samples older than this at a flush go to one late part.
    pub late_after: Duration,
    /// Samples older than this are dropped; `None` keeps them for ever.
    pub retention: Option<Duration>,
    /// The oldest parts are dropped when all parts together are larger than this, bytes.
    pub retention_bytes: Option<u64>,
    /// Most series a tenant may have in its head.
    pub series_max: usize,
    /// Most exemplars kept for a tenant.
    pub exemplars_max: usize,
    /// Most distinct metadata statements kept for a metric name.
    pub metadata_statements_max: usize,
}

impl Config {
    /// The defaults, for the data directory `dir` on this machine.
    pub fn new(dir: impl Into<PathBuf>) -> Config {
        Config {
            dir: dir.into(),
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            lock: true,
            read_only: false,
            background: true,
            sync: SyncPolicy::Every(Duration::from_millis(200)),
            segment_bytes_max: 64 << 20,
            wal_bytes_max: 16 << 30,
            flush_interval: Duration::from_secs(30 * 60),
            head_bytes_max: 1 << 30,
            late_bytes_max: 256 << 20,
            small_tenant_samples: 20_000,
            late_after: Duration::from_secs(2 * 24 * 3600),
            retention: Some(Duration::from_secs(15 * 24 * 3600)),
            retention_bytes: None,
            series_max: 20_000_000,
            exemplars_max: 10_000,
            metadata_statements_max: 16,
        }
    }
}
