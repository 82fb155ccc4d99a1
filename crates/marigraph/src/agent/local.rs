//! An agent's own store: what stays in the cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use model::TenantId;
use prometheus_client::registry::Registry;
use serde_json::json;
use stdx::clock::Clock;
use tsdb::Db;

use crate::config::{LocalConfig, StorageConfig};
use crate::store::Retention;

/// The store, within the data directory.
const STORE: &str = "store";
/// Since when the store has been kept, within the data directory: milliseconds since the epoch, decimal.
const SINCE: &str = "store-since";
/// Samples in memory before they are written to parts, bytes: an agent is small.
const HEAD_BYTES_MAX: usize = 256 << 20;
/// Late samples in memory, bytes.
const LATE_BYTES_MAX: usize = 64 << 20;
/// The log refuses more than this, bytes, when nothing can be flushed for long.
const LOG_BYTES_MAX: u64 = 4 << 30;

/// An open store.
pub(super) struct Local {
    pub(super) db: Arc<Db>,
    retention: Retention,
    /// Milliseconds since the epoch.
    since_ms: i64,
}

impl Local {
    /// Opens the store in the data directory `data`, and puts its figures into `registry`.
    ///
    /// # Errors
    /// Its files cannot be read, or another process has it.
    pub(super) async fn open(
        data: &Path,
        config: &LocalConfig,
        storage: &StorageConfig,
        clock: &Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> Result<Local> {
        let retention = Retention::new(config.retention_time, config.retention_bytes);
        let mut store = tsdb::Config::new(data.join(STORE));
        store.retention = retention.time;
        store.retention_bytes = retention.bytes;
        store.head_bytes_max = HEAD_BYTES_MAX;
        store.late_bytes_max = LATE_BYTES_MAX;
        store.wal_bytes_max = LOG_BYTES_MAX;
        store.clock = Arc::clone(clock);
        if let Some(exemplars) = storage.max_exemplars {
            store.exemplars_max = exemplars;
        }
        let since_ms = since(&data.join(SINCE), store.dir.is_dir(), clock.now_ms())?;
        let directory = store.dir.display().to_string();
        let opened = tokio::task::spawn_blocking(move || Db::open(store)).await?;
        let db = opened.map_err(|error| anyhow!("open the store in {directory}: {error}"))?;
        db.register_metrics(registry);
        Ok(Local { db: Arc::new(db), retention, since_ms })
    }

    /// How far it reaches, for hubs; in docs/formats/tunnel.md.
    pub(super) fn status(&self) -> serde_json::Value {
        let bounds = self.db.time_bounds(&TenantId::default());
        // Pushes may bring samples from before there was a store; what is there of that time is not all.
        let oldest_ms = bounds.map(|(oldest, newest)| oldest.max(self.since_ms).min(newest));
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        json!({
            "oldest_ms": oldest_ms,
            "newest_ms": bounds.map(|(_, newest)| newest),
            "retention_ms": self.retention.time.map(ms),
        })
    }

    /// For people.
    pub(super) fn retention(&self) -> String {
        self.retention.shown()
    }
}

/// Since when there has been a store, as the file `path` says; `now_ms` for a new store, written down there.
fn since(path: &Path, has_store: bool, now_ms: i64) -> Result<i64> {
    let written = match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse::<i64>().ok(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    if let Some(since_ms) = written.filter(|_| has_store) {
        return Ok(since_ms);
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    std::fs::write(path, format!("{now_ms}\n")).with_context(|| format!("write {}", path.display()))?;
    Ok(now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_when_is_written_once_for_each_store() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("data").join(SINCE);
        assert_eq!(since(&path, false, 1_000)?, 1_000);
        assert_eq!(since(&path, true, 2_000)?, 1_000, "the same store again");
        assert_eq!(since(&path, false, 3_000)?, 3_000, "somebody removed the store");
        std::fs::write(&path, "no number")?;
        assert_eq!(since(&path, true, 4_000)?, 4_000, "nobody knows how far it reaches");
        assert_eq!(since(&path, true, 5_000)?, 4_000);
        Ok(())
    }
}
