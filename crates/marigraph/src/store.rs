//! The embedded store as the HTTP side and the program see it, at a hub and at an agent that keeps its data.

use std::sync::Arc;
use std::time::Duration;

use model::{Labels, Matcher, TenantId};
use scrape::config::ConfigDuration;
use storage::StoreError;
use tsdb::{Db, SeriesLimits};
use web::{BlockInfo, SeriesMaker, SeriesUsage, StoreAdmin, TsdbStatus};

use crate::program::Keeper;

/// The embedded store.
pub(crate) struct Store(pub(crate) Arc<Db>);

/// What is kept; without a bound where there is none.
pub(crate) struct Retention {
    pub(crate) time: Option<Duration>,
    pub(crate) bytes: Option<u64>,
}

impl Retention {
    /// As it is written: zero is no bound.
    pub(crate) fn new(time: Duration, bytes: u64) -> Retention {
        Retention {
            time: Some(time).filter(|time| !time.is_zero()),
            bytes: Some(bytes).filter(|bytes| *bytes > 0),
        }
    }

    /// For people: `15d`, `15d or 10240MiB`, `for ever`.
    pub(crate) fn shown(&self) -> String {
        let time = self.time.map(|time| ConfigDuration(time).to_string());
        let size = self.bytes.map(|bytes| format!("{}MiB", bytes >> 20));
        let parts: Vec<String> = time.into_iter().chain(size).collect();
        if parts.is_empty() { "for ever".to_owned() } else { parts.join(" or ") }
    }
}

impl StoreAdmin for Store {
    fn delete_series(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Matcher],
    ) -> Result<(), StoreError> {
        self.0.delete_series(tenant, matchers, start_ms, end_ms)
    }

    fn clean_tombstones(&self, _tenant: &TenantId) -> Result<(), StoreError> {
        self.0.clean_tombstones().map_err(|error| StoreError::Io {
            attempt: "clean tombstones".to_owned(),
            source: std::io::Error::other(error.to_string()),
        })
    }

    fn snapshot(&self, _tenant: &TenantId, skip_head: bool) -> Result<String, StoreError> {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let name = format!("{now}-{:016x}", rand::random::<u64>());
        let dir = self.0.snapshots_dir().join(&name);
        let made = self.0.snapshot(&dir, skip_head, &mut |_| ()).map_err(|error| match error {
            tsdb::SnapshotError::Store(error) => error,
            other => StoreError::Io {
                attempt: format!("make snapshot {name}"),
                source: std::io::Error::other(other.to_string()),
            },
        })?;
        tracing::info!(
            name,
            parts = made.parts,
            segments = made.segments,
            bytes = made.bytes,
            "made a snapshot"
        );
        Ok(name)
    }

    fn blocks(&self, tenant: &TenantId) -> Result<Vec<BlockInfo>, StoreError> {
        let block = |part: tsdb::part::PartInfo| BlockInfo {
            ulid: part.spec.id.to_string(),
            min_ms: part.min_ms,
            end_ms: part.max_ms.saturating_add(1),
            floats: part.samples,
            histograms: part.histograms,
            series: u64::from(part.series),
            level: u32::from(part.spec.level) + 1,
        };
        Ok(self.0.part_infos(tenant).into_iter().map(block).collect())
    }

    fn series_usage(&self, tenant: &TenantId, limit: usize) -> SeriesUsage {
        let usage = self.0.series_usage(tenant, limit);
        let of_source = |source: tsdb::SourceUsage| SeriesMaker {
            labels: source.labels,
            series: source.series,
            refused: source.refused,
        };
        let of_job = |job: tsdb::JobUsage| SeriesMaker {
            labels: Labels::from_pairs([("job", &job.job)]),
            series: job.series,
            refused: job.refused,
        };
        SeriesUsage {
            series: usage.series,
            tenant_max: usage.series_max,
            source_max: usage.limits.per_source.map(|max| max as u64),
            job_max: usage.limits.per_job.map(|max| max as u64),
            sources: usage.sources.into_iter().map(of_source).collect(),
            jobs: usage.jobs.into_iter().map(of_job).collect(),
        }
    }

    fn tsdb_status(&self, tenant: &TenantId, limit: usize) -> Result<TsdbStatus, StoreError> {
        let stats = self.0.stats(tenant, limit);
        let list = |counts: Vec<tsdb::LabelCount>| counts.into_iter().map(|c| (c.name, c.value)).collect();
        Ok(TsdbStatus {
            series: stats.head.series,
            label_pairs: stats.head.label_pairs,
            tiles: stats.head.tiles,
            min_time_ms: stats.head.min_ms,
            max_time_ms: stats.head.max_ms,
            series_by_metric_name: list(stats.series_count_by_metric_name),
            values_by_label_name: list(stats.label_value_count_by_label_name),
            bytes_by_label_name: list(stats.memory_in_bytes_by_label_name),
            series_by_label_pair: list(stats.series_count_by_label_value_pair),
        })
    }
}

impl Keeper for Store {
    fn not_ready(&self) -> Option<String> {
        self.0.readiness().err().map(|not_ready| not_ready.reason)
    }

    fn refused_tenants(&self) -> usize {
        self.0.refused().len()
    }

    fn problems(&self) -> u64 {
        self.0.problems().len() as u64
    }

    fn set_series_limits(&self, limits: SeriesLimits) {
        self.0.set_series_limits(limits);
    }
}
