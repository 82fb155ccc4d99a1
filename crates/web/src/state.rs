//! What the pages and APIs need from the rest of the program. Every trait here is implemented in the
//! wiring; their methods may block, and are called on threads that may.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::relabel::Rule;
use model::status::{ActiveTarget, DroppedTarget, TargetMetadata};
use model::{Labels, Matcher, TenantId};
use prometheus_client::registry::Registry;
use promql::engine::Engine;
use stdx::clock::Clock;
use storage::{Queryable, StoreError};

use crate::active::ActiveQueries;
use crate::auth::Auth;
use crate::completeness::Completeness;
use crate::metrics::WebMetrics;
use crate::notifications::Notifications;
use crate::query_log::QueryLog;
use crate::table::Endpoint;
use crate::work::Work;

/// Everything the router works on.
#[derive(Clone)]
pub struct WebState {
    /// Evaluates queries.
    pub engine: Arc<Engine>,
    /// Answers them.
    pub store: Arc<dyn Queryable>,
    /// Deletes, and tells how much there is.
    pub admin: Arc<dyn StoreAdmin>,
    /// What is scraped.
    pub targets: Arc<dyn TargetStatus>,
    /// The program: configuration, reload, end.
    pub lifecycle: Arc<dyn Lifecycle>,
    /// The time of instant queries that name none.
    pub clock: Arc<dyn Clock>,
    /// What `/metrics` shows; complete before the router is made.
    pub registry: Arc<Registry>,
    /// Our own figures, registered there by [`WebMetrics::register`].
    pub metrics: WebMetrics,
    /// Who may call.
    pub auth: Arc<Auth>,
    /// Places for what blocks; one for the life of the program.
    pub work: Work,
    /// Labels added where data leaves for other systems.
    pub external_labels: Labels,
    /// Where queries are logged.
    pub query_log: Arc<QueryLog>,
    /// Which queries are being evaluated, for the next start to know.
    pub active_queries: Arc<ActiveQueries>,
    /// Who keeps account of what was expected; none where nobody does.
    pub completeness: Option<Arc<dyn Completeness>>,
    /// What a person at the page should know.
    pub notifications: Arc<Notifications>,
    /// What is switched on, and what the status pages show.
    pub options: Arc<Options>,
}

/// What cannot be reloaded.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether `/api/v1/admin/*` works (Prometheus: `--web.enable-admin-api`).
    pub enable_admin_api: bool,
    /// Whether `/-/reload` and `/-/quit` work (Prometheus: `--web.enable-lifecycle`).
    pub enable_lifecycle: bool,
    /// Most samples of a remote read that is not a stream; 0 for any number (Prometheus:
    /// `--storage.remote.read-sample-limit`).
    pub read_sample_limit: u64,
    /// Bytes of a frame of a remote read, about (Prometheus: `--storage.remote.read-max-bytes-in-frame`).
    pub read_frame_bytes_max: usize,
    /// The doors beside this crate's endpoints, for lists of what there is.
    pub doors: Vec<Endpoint>,
    /// Where this program listens, `host:port`, for the `globalUrl` of local targets.
    pub listen_address: String,
    /// The flags by name, without dashes, as `/api/v1/status/flags` shows them.
    pub flags: BTreeMap<String, String>,
    /// What was built.
    pub build: BuildInfo,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            enable_admin_api: false,
            enable_lifecycle: false,
            read_sample_limit: 50_000_000,
            read_frame_bytes_max: 1 << 20,
            doors: Vec::new(),
            listen_address: String::new(),
            flags: BTreeMap::new(),
            build: BuildInfo::default(),
        }
    }
}

/// `/api/v1/status/buildinfo`.
#[derive(Debug, Clone, Default)]
pub struct BuildInfo {
    /// The version. Clients such as Grafana compare it with Prometheus' versions to learn what we can.
    pub version: String,
    /// The commit.
    pub revision: String,
    /// The branch.
    pub branch: String,
    /// Who built it.
    pub build_user: String,
    /// When.
    pub build_date: String,
    /// The compiler; stands in the field `goVersion`.
    pub compiler: String,
}

/// `/api/v1/status/runtimeinfo`, as far as the program knows better than the operating system.
#[derive(Debug, Clone, Default)]
pub struct RuntimeInfo {
    /// When the program started, milliseconds since the epoch.
    pub start_ms: i64,
    /// Whether the last (re)load of the configuration succeeded.
    pub reload_succeeded: bool,
    /// When it was, milliseconds since the epoch.
    pub last_config_ms: i64,
    /// Damaged places met in the store since the start.
    pub corruptions: u64,
    /// Retention as the user wrote it: `15d`, `15d or 10GiB`.
    pub retention: String,
}

/// Whether the program can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// Not yet: what it is busy with. Queries are refused.
    Starting(String),
    /// The store refuses writes: why. Queries go on.
    ReadOnly(String),
    /// No more. Queries are refused.
    Stopping,
}

/// The program as its API sees it.
pub trait Lifecycle: Send + Sync {
    /// Whether it can do its work.
    fn readiness(&self) -> Readiness;

    /// How many tenants are refused because their data cannot be read; the others are served.
    fn refused_tenants(&self) -> usize {
        0
    }

    /// Reloads the configuration, all or nothing.
    ///
    /// # Errors
    /// What is wrong with it, with file, line and column; the old one stays in force.
    fn reload(&self) -> Result<(), String>;

    /// Asks the program to end.
    fn quit(&self);

    /// The configuration in force, as YAML, secrets as `<secret>`.
    fn config_yaml(&self) -> String;

    /// Start, reloads, retention.
    fn runtime(&self) -> RuntimeInfo;
}

/// Maintenance of the store.
pub trait StoreAdmin: Send + Sync {
    /// Deletes the samples of matching series within the time, both ends included, milliseconds.
    /// `start_ms` may lie before and `end_ms` after everything that can be stored.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn delete_series(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Matcher],
    ) -> Result<(), StoreError>;

    /// Frees what deleted samples occupy.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn clean_tombstones(&self, tenant: &TenantId) -> Result<(), StoreError>;

    /// Copies the store, as it is now, below its directory of snapshots; the copy's name. `skip_head`
    /// leaves out what is not in parts yet.
    ///
    /// # Errors
    /// See [`StoreError`]; there is no such copy then.
    fn snapshot(&self, tenant: &TenantId, skip_head: bool) -> Result<String, StoreError>;

    /// How much there is, with at most `limit` entries a list.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn tsdb_status(&self, tenant: &TenantId, limit: usize) -> Result<TsdbStatus, StoreError>;

    /// What is finished on the disk, oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn blocks(&self, tenant: &TenantId) -> Result<Vec<BlockInfo>, StoreError>;

    /// Who makes how many series, with at most `limit` entries a list.
    fn series_usage(&self, tenant: &TenantId, limit: usize) -> SeriesUsage;
}

/// One of the files samples end in: `/api/v1/status/tsdb/blocks`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockInfo {
    /// Its name, a ULID.
    pub ulid: String,
    /// Oldest sample, milliseconds.
    pub min_ms: i64,
    /// Behind the newest sample, milliseconds.
    pub end_ms: i64,
    /// Float samples.
    pub floats: u64,
    /// Histogram samples.
    pub histograms: u64,
    /// Series.
    pub series: u64,
    /// How often its samples have been merged, from 1.
    pub level: u32,
}

/// Who makes how many series: `/api/v1/status/series`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeriesUsage {
    /// Series in the head.
    pub series: u64,
    /// How many the tenant may have.
    pub tenant_max: u64,
    /// How many a source may have; `None` for no limit.
    pub source_max: Option<u64>,
    /// How many the series of one `job` may be; `None` for no limit.
    pub job_max: Option<u64>,
    /// Sources: those refused most first, then those with most series.
    pub sources: Vec<SeriesMaker>,
    /// Jobs, in the same order.
    pub jobs: Vec<SeriesMaker>,
}

/// One who makes series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesMaker {
    /// What its series share.
    pub labels: Labels,
    /// Its series in the head.
    pub series: u64,
    /// New series refused since the start.
    pub refused: u64,
}

/// Cardinality of the store: `/api/v1/status/tsdb`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TsdbStatus {
    /// Series in the head.
    pub series: u64,
    /// Distinct pairs of label name and value in the head.
    pub label_pairs: u64,
    /// Tiles in the head; stands in the field `chunkCount`.
    pub tiles: u64,
    /// Oldest sample of the head, milliseconds; `i64::MAX` without samples.
    pub min_time_ms: i64,
    /// Newest sample of the head, milliseconds; `i64::MIN` without samples.
    pub max_time_ms: i64,
    /// Series by metric name, most first.
    pub series_by_metric_name: Vec<(String, u64)>,
    /// Distinct values by label name, most first.
    pub values_by_label_name: Vec<(String, u64)>,
    /// Bytes of the values by label name, most first.
    pub bytes_by_label_name: Vec<(String, u64)>,
    /// Series by `name=value`, most first.
    pub series_by_label_pair: Vec<(String, u64)>,
}

/// What is scraped.
pub trait TargetStatus: Send + Sync {
    /// Targets being scraped, ordered by pool.
    fn active(&self, tenant: &TenantId) -> Vec<ActiveTarget>;

    /// Targets that relabelling dropped, ordered by pool; may leave out what is beyond a limit.
    fn dropped(&self, tenant: &TenantId) -> Vec<DroppedTarget>;

    /// How many were dropped, by pool, all counted.
    fn dropped_counts(&self, tenant: &TenantId) -> BTreeMap<String, usize>;

    /// The names of all pools, sorted, also of those without targets.
    fn scrape_pools(&self, tenant: &TenantId) -> Vec<String>;

    /// The configuration of a pool; none when there is no such pool.
    fn pool_config(&self, tenant: &TenantId, pool: &str) -> Option<PoolConfig>;

    /// What active targets state of their metrics: of `metric`, or of all.
    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Vec<TargetMetadata>;
}

/// The configuration of a scrape pool.
#[derive(Debug, Clone, Default)]
pub struct PoolConfig {
    /// As YAML, secrets as `<secret>`.
    pub yaml: String,
    /// The rules its targets go through.
    pub relabel: Vec<Rule>,
}
