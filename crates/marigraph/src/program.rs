//! The program as its API sees it, whatever its role: configuration and reloads, readiness, the end.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use anyhow::{Context, Result};
use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use stdx::clock::Clock;
use tokio::sync::{Notify, mpsc, oneshot};
use tsdb::SeriesLimits;
use web::{Auth, BuildInfo, Lifecycle, Notice, Notifications, QueryLog, Readiness, RuntimeInfo};

use crate::config::Config;
use crate::credentials::{auth, require_credential};
use crate::front::Bound;

/// Where the outcome of a reload goes.
type Reply = oneshot::Sender<Result<(), String>>;

/// Reloads that were asked for over HTTP.
pub(crate) type Reloads = mpsc::Receiver<Reply>;

/// Reloads that may wait; they are carried out one by one.
const RELOADS_WAITING: usize = 4;

/// What a role begins with: an address that is its, a configuration that can be used, and who may call.
pub(crate) struct Beginning {
    pub(crate) bound: Bound,
    pub(crate) source: ConfigSource,
    pub(crate) config: Config,
    pub(crate) auth: Auth,
}

impl Beginning {
    /// Binds `listen`, and reads the configuration `file` or the one that is built in.
    ///
    /// # Errors
    /// The address cannot be had, the configuration is wrong, or nothing guards an address off loopback.
    pub(crate) async fn of(listen: &str, file: Option<&Path>) -> Result<Beginning> {
        let bound = Bound::to(listen).await?;
        let source = match file {
            Some(path) => ConfigSource::File(path.to_owned()),
            None => ConfigSource::Embedded(bound.addr),
        };
        let config = source.load()?;
        let auth = auth(&config.web_auth)?;
        require_credential(bound.addr, &auth)?;
        Ok(Beginning { bound, source, config, auth })
    }
}

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub(crate) enum ConfigSource {
    /// `--config`.
    File(PathBuf),
    /// Ours, for the address the hub listens on.
    Embedded(SocketAddr),
}

impl ConfigSource {
    /// Reads it; what it warns of is in the log.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        let config = match self {
            ConfigSource::File(path) => Config::load(path)?,
            ConfigSource::Embedded(addr) => Config::embedded(&addr.to_string()),
        };
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        Ok(config)
    }
}

/// What keeps the rows, as far as every role has to know.
pub(crate) trait Keeper: Send + Sync {
    /// Why it takes no writes, when it does not.
    fn not_ready(&self) -> Option<String>;

    /// How many tenants are refused because their data cannot be read; the others are served.
    fn refused_tenants(&self) -> usize {
        0
    }

    /// Damaged places met since the start.
    fn problems(&self) -> u64 {
        0
    }

    /// Puts budgets of series in force.
    fn set_series_limits(&self, limits: SeriesLimits);
}

/// The program as its API sees it.
pub(crate) struct Program {
    /// Where the configuration comes from.
    pub(crate) source: ConfigSource,
    /// Raised when somebody asks the program to end.
    pub(crate) quit: Notify,
    keeper: Arc<dyn Keeper>,
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
        keeper: Arc<dyn Keeper>,
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
            keeper,
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
        self.keeper.set_series_limits(config.limits);
        let now = self.clock.now_ms();
        self.last_config_ms.store(now, Ordering::Relaxed);
        self.reload_time_gauge.set(now / 1000);
        self.loaded(true);
    }

    /// A reload of the configuration came to this end.
    pub(crate) fn reloaded(&self, outcome: &anyhow::Result<()>) {
        self.loaded(outcome.is_ok());
        match outcome {
            Ok(()) => tracing::info!("configuration reloaded"),
            Err(error) => {
                tracing::error!("reload failed, the last good configuration stays in force: {error:#}");
            }
        }
    }

    fn loaded(&self, success: bool) {
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
        self.keeper.not_ready().map_or(Readiness::Ready, |reason| self.read_only(reason))
    }

    fn refused_tenants(&self) -> usize {
        self.keeper.refused_tenants()
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
            corruptions: self.keeper.problems(),
            retention: self.retention.clone(),
        }
    }
}

/// The file for the query log, if a configuration asks for one.
///
/// # Errors
/// Its file cannot be opened.
pub(crate) fn query_log(config: &Config) -> anyhow::Result<Option<File>> {
    let open = |path: &std::path::Path| {
        QueryLog::open(path).with_context(|| format!("open the query log {}", path.display()))
    };
    config.global.query_log_file.as_deref().map(open).transpose()
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
