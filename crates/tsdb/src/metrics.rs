//! What the store says of itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Figures of one open store.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) head_series: Gauge,
    pub(crate) head_bytes: Gauge,
    pub(crate) samples: Counter,
    pub(crate) late_samples: Counter,
    pub(crate) late_bytes: Gauge,
    pub(crate) late_refused: Counter,
    pub(crate) spills: Counter,
    pub(crate) spill_failures: Counter,
    pub(crate) spill_seconds: Histogram,
    pub(crate) rejected: Counter,
    pub(crate) series_created: Counter,
    pub(crate) series_removed: Counter,
    pub(crate) series_refused: Family<Vec<(&'static str, &'static str)>, Counter>,
    pub(crate) wal_bytes: Gauge,
    pub(crate) wal_bytes_written: Counter,
    pub(crate) wal_writes: Counter,
    pub(crate) wal_write_failures: Counter,
    pub(crate) wal_sync_failures: Counter,
    pub(crate) wal_sync_seconds: Histogram,
    pub(crate) wal_damage: Counter,
    pub(crate) part_damage: Counter,
    pub(crate) part_damage_reads: Counter,
    pub(crate) parts: Gauge,
    pub(crate) parts_bytes: Gauge,
    pub(crate) flushes: Counter,
    pub(crate) flush_failures: Counter,
    pub(crate) flush_seconds: Histogram,
    pub(crate) merges: Counter,
    pub(crate) merge_failures: Counter,
    pub(crate) retention_dropped: Counter,
    pub(crate) read_only: Gauge,
    pub(crate) tenants_refused: Family<Vec<(&'static str, String)>, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.0005, 3.0, 12));
        Metrics {
            head_series: Gauge::default(),
            head_bytes: Gauge::default(),
            samples: Counter::default(),
            late_samples: Counter::default(),
            late_bytes: Gauge::default(),
            late_refused: Counter::default(),
            spills: Counter::default(),
            spill_failures: Counter::default(),
            spill_seconds: seconds(),
            rejected: Counter::default(),
            series_created: Counter::default(),
            series_removed: Counter::default(),
            series_refused: Family::default(),
            wal_bytes: Gauge::default(),
            wal_bytes_written: Counter::default(),
            wal_writes: Counter::default(),
            wal_write_failures: Counter::default(),
            wal_sync_failures: Counter::default(),
            wal_sync_seconds: seconds(),
            wal_damage: Counter::default(),
            part_damage: Counter::default(),
            part_damage_reads: Counter::default(),
            parts: Gauge::default(),
            parts_bytes: Gauge::default(),
            flushes: Counter::default(),
            flush_failures: Counter::default(),
            flush_seconds: seconds(),
            merges: Counter::default(),
            merge_failures: Counter::default(),
            retention_dropped: Counter::default(),
            read_only: Gauge::default(),
            tenants_refused: Family::default(),
        }
    }
}

impl Metrics {
    /// Counts a series refused at a budget.
    pub(crate) fn count_refused_series(&self, over: crate::head::budget::Over) {
        self.series_refused.get_or_create(&vec![("budget", over.as_str())]).inc();
    }

    /// Puts all figures into `registry` as `marigraph_tsdb_*`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("marigraph_tsdb");
        let m = self;
        registry.register("head_series", "Series in all heads", m.head_series.clone());
        registry.register_with_unit(
            "head_samples",
            "Estimated size of the samples in all heads",
            Unit::Bytes,
            m.head_bytes.clone(),
        );
        registry.register("samples_appended", "Samples taken", m.samples.clone());
        registry.register(
            "late_samples_appended",
            "Samples taken that were older than their series' newest",
            m.late_samples.clone(),
        );
        registry.register_with_unit(
            "late_samples",
            "Estimated size of the late samples that are not in parts yet",
            Unit::Bytes,
            m.late_bytes.clone(),
        );
        registry.register(
            "late_batches_refused",
            "Batches refused for the moment because late samples hold too much memory",
            m.late_refused.clone(),
        );
        registry.register("spills", "Writings of a tenant's late samples to parts", m.spills.clone());
        registry.register(
            "spill_failures",
            "Writings of a tenant's late samples that failed and will be tried again",
            m.spill_failures.clone(),
        );
        registry.register_with_unit(
            "spill_duration",
            "Time the writing of a tenant's late samples took",
            Unit::Seconds,
            m.spill_seconds.clone(),
        );
        registry.register("samples_rejected", "Samples not taken", m.rejected.clone());
        registry.register("head_series_created", "Series created in heads", m.series_created.clone());
        registry.register("head_series_removed", "Idle series removed from heads", m.series_removed.clone());
        registry.register(
            "series_refused",
            "New series refused, by the budget that was spent",
            m.series_refused.clone(),
        );
        registry.register_with_unit(
            "wal_size",
            "Length of all log segments",
            Unit::Bytes,
            m.wal_bytes.clone(),
        );
        registry.register_with_unit(
            "wal_written",
            "Bytes written to the log",
            Unit::Bytes,
            m.wal_bytes_written.clone(),
        );
        registry.register(
            "wal_writes",
            "Writes to the log; a write may hold several batches",
            m.wal_writes.clone(),
        );
        registry.register(
            "wal_write_failures",
            "Writes to the log that failed",
            m.wal_write_failures.clone(),
        );
        registry.register(
            "wal_sync_failures",
            "Syncs of the log that failed; one makes the store read-only",
            m.wal_sync_failures.clone(),
        );
        registry.register_with_unit(
            "wal_sync_duration",
            "Time a sync of the log took",
            Unit::Seconds,
            m.wal_sync_seconds.clone(),
        );
        registry.register(
            "wal_damaged_places",
            "Places in the log that could not be read at start",
            m.wal_damage.clone(),
        );
        registry.register(
            "part_damaged_places",
            "Places in parts that queries could not read, each counted once",
            m.part_damage.clone(),
        );
        registry.register(
            "part_damaged_reads",
            "Reads of queries that met damage in a part and were answered without it",
            m.part_damage_reads.clone(),
        );
        registry.register("parts", "Part files", m.parts.clone());
        registry.register_with_unit(
            "parts_size",
            "Length of all part files",
            Unit::Bytes,
            m.parts_bytes.clone(),
        );
        registry.register("flushes", "Flushes of a tenant's head", m.flushes.clone());
        registry.register(
            "flush_failures",
            "Flushes of a tenant's head that failed and will be tried again",
            m.flush_failures.clone(),
        );
        registry.register_with_unit(
            "flush_duration",
            "Time a flush of all tenants took",
            Unit::Seconds,
            m.flush_seconds.clone(),
        );
        registry.register("merges", "Merges of parts", m.merges.clone());
        registry.register(
            "merge_failures",
            "Merges of parts that failed and will be tried again",
            m.merge_failures.clone(),
        );
        registry.register(
            "retention_dropped_parts",
            "Parts dropped by retention",
            m.retention_dropped.clone(),
        );
        registry.register(
            "read_only",
            "1 when a failure has made the store refuse writes until restart",
            m.read_only.clone(),
        );
        registry.register(
            "tenant_refused",
            "1 for a tenant of which nothing is answered or taken, as its manifest cannot be read",
            m.tenants_refused.clone(),
        );
    }
}
