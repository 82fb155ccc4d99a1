//! What the HTTP side asks of the program and the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use model::{Labels, Matcher, TenantId};
use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use stdx::clock::Clock;
use storage::StoreError;
use tokio::sync::{Notify, mpsc, oneshot};
use tsdb::Db;
use web::{
    BlockInfo, BuildInfo, Lifecycle, Notice, Notifications, Readiness, RuntimeInfo, SeriesMaker, SeriesUsage,
    StoreAdmin, TsdbStatus,
};

use super::ConfigSource;
use crate::config::Config;

/// Where the outcome of a reload goes.
type Reply = oneshot::Sender<Result<(), String>>;

/// Reloads that were asked for over HTTP.
pub(crate) type Reloads = mpsc::Receiver<Reply>;

/// Reloads that may wait; they are carried out one by one.
const RELOADS_WAITING: usize = 4;

/// The program as its API sees it.
pub(crate) struct Program {
    /// Where the configuration comes from.
    pub(crate) source: ConfigSource,
    /// Raised when somebody asks the program to end.
    pub(crate) quit: Notify,
    store: Arc<Db>,
    clock: Arc<dyn Clock>,
    start_ms: i64,
    retention: String,
    config_yaml: RwLock<String>,
    reload_succeeded: AtomicBool,
    last_config_ms: AtomicI64,
    stopping: AtomicBool,
    reloads: mpsc::Sender<Reply>,
    reload_gauge: Gauge,
    reload_time_gauge: Gauge,
    /// What a person at the page should know.
    pub(crate) notifications: Arc<Notifications>,
}

impl Program {
    pub(crate) fn new(
        source: ConfigSource,
        store: Arc<Db>,
        retention: String,
        clock: Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> (Arc<Program>, Reloads) {
        let (reloads, waiting) = mpsc::channel(RELOADS_WAITING);
        let now = clock.now_ms();
        let (reload_gauge, reload_time_gauge) = (Gauge::default(), Gauge::default());
        registry.register(
            "marigraph_config_last_reload_successful",
            "Whether the last (re)load of the configuration succeeded",
            reload_gauge.clone(),
        );
        registry.register(
            "marigraph_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was loaded",
            reload_time_gauge.clone(),
        );
        registry.register(
            "marigraph_build",
            "What was built, value always 1",
            Info::new(vec![
                ("version", env!("CARGO_PKG_VERSION")),
                ("compiler", env!("CARGO_PKG_RUST_VERSION")),
            ]),
        );
        let program = Program {
            source,
            quit: Notify::new(),
            store,
            clock,
            start_ms: now,
            retention,
            config_yaml: RwLock::default(),
            reload_succeeded: AtomicBool::new(true),
            last_config_ms: AtomicI64::new(now),
            stopping: AtomicBool::new(false),
            reloads,
            reload_gauge,
            reload_time_gauge,
            notifications: Arc::default(),
        };
        (Arc::new(program), waiting)
    }

    /// `config` is in force from now on.
    pub(crate) fn in_force(&self, config: &Config) {
        *self.config_yaml.write() = config.to_yaml();
        self.store.set_series_limits(config.limits);
        let now = self.clock.now_ms();
        self.last_config_ms.store(now, Ordering::Relaxed);
        self.reload_time_gauge.set(now / 1000);
        self.reloaded(true);
    }

    /// A load of the configuration came to this end.
    pub(crate) fn reloaded(&self, success: bool) {
        self.reload_succeeded.store(success, Ordering::Relaxed);
        self.reload_gauge.set(i64::from(success));
        self.notifications.set(Notice::ReloadFailed, !success, self.clock.now_ms());
    }

    fn read_only(&self, reason: String) -> Readiness {
        self.notifications.set(Notice::ReadOnly, true, self.clock.now_ms());
        Readiness::ReadOnly(reason)
    }

    /// The program ends.
    pub(crate) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.notifications.set(Notice::Stopping, true, self.clock.now_ms());
        // pages that listen would keep the listener from stopping
        self.notifications.close();
    }
}

impl Lifecycle for Program {
    fn readiness(&self) -> Readiness {
        if self.stopping.load(Ordering::Relaxed) {
            return Readiness::Stopping;
        }
        self.store
            .readiness()
            .map_or_else(|not_ready| self.read_only(not_ready.reason), |()| Readiness::Ready)
    }

    fn refused_tenants(&self) -> usize {
        self.store.refused().len()
    }

    fn reload(&self) -> Result<(), String> {
        let (reply, outcome) = oneshot::channel();
        let gone = |_| "the program is stopping".to_owned();
        self.reloads.blocking_send(reply).map_err(|_| gone(()))?;
        outcome.blocking_recv().map_err(|_| gone(()))?
    }

    fn quit(&self) {
        self.quit.notify_one();
    }

    fn config_yaml(&self) -> String {
        self.config_yaml.read().clone()
    }

    fn runtime(&self) -> RuntimeInfo {
        RuntimeInfo {
            start_ms: self.start_ms,
            reload_succeeded: self.reload_succeeded.load(Ordering::Relaxed),
            last_config_ms: self.last_config_ms.load(Ordering::Relaxed),
            corruptions: self.store.problems().len() as u64,
            retention: self.retention.clone(),
        }
    }
}

/// Maintenance of the embedded store.
pub(crate) struct Store(pub(crate) Arc<Db>);

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

/// The Prometheus whose API this is. Grafana and others decide by this number what they may ask.
const API_VERSION: &str = "3.14.0";

/// What `/api/v1/status/buildinfo` says: the version is that of the API, the revision is ours.
pub(crate) fn build_info() -> BuildInfo {
    BuildInfo {
        version: API_VERSION.to_owned(),
        revision: concat!("marigraph-", env!("CARGO_PKG_VERSION")).to_owned(),
        compiler: concat!("rust ", env!("CARGO_PKG_RUST_VERSION")).to_owned(),
        ..BuildInfo::default()
    }
}
