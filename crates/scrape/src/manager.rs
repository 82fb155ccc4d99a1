//! The scrape pools of all jobs: reload, targets, status.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, Response};
use hyper::body::Incoming;
use model::status::{ActiveTarget, DroppedTarget, TargetMetadata};
use model::{Labels, SourceId, TargetGroup, TenantId};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use stdx::at_once::AtOnce;
use stdx::clock::Clock;
use stdx::intern::Interned;
use storage::Appender;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::exposition::SharedText;

use crate::client::{Connector, HttpClient, TlsConfigs};
use crate::config::{HttpClientConfig, ScrapeConfig};
use crate::failures::FailureLogs;
use crate::metrics::Metrics;
use crate::pool::{Pool, Trouble};
use crate::relay::RelayError;
use crate::schedule::SteadyClock;
use crate::shared::{Shared, Spares};
use crate::target::Owner;
use crate::turns::Turns;

/// Time between two looks at scrapes that are to end.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// A configuration that cannot be put to work. Nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("job {job}: {problem}")]
pub struct ApplyError {
    /// The job at fault.
    pub job: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Scrapes for one tenant. Each target has a task of its own, so none waits for another.
///
/// Methods that start tasks ([`Manager::apply`], [`Manager::update_targets`]) are called within a
/// tokio runtime with timers and network.
pub struct Manager {
    shared: Arc<Shared>,
    pools: Mutex<BTreeMap<String, Pool>>,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager").field("pools", &self.scrape_pools()).finish_non_exhaustive()
    }
}

/// What a manager works with.
pub struct ManagerParts {
    /// Takes the rows.
    pub appender: Arc<dyn Appender>,
    /// Whose rows they are.
    pub tenant: TenantId,
    /// The cluster the targets are in; part of their identity and of their place in the interval.
    /// Empty where there is only one.
    pub cluster: String,
    /// Labels that every target and series has, whatever relabelling and exporters say: those of an
    /// enrolled agent, `cluster` among them. What an exporter says otherwise becomes `exported_<name>`.
    pub stamped: Labels,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// The way to the targets.
    pub connector: Arc<dyn Connector>,
    /// The ways to targets of other clusters, for jobs that name one; without it such jobs are refused.
    pub clusters: Option<Arc<dyn Clusters>>,
    /// Which ticks are scraped here; [`Alone`](crate::Alone) where nobody shares the targets.
    pub turns: Arc<dyn Turns>,
}

/// The ways to targets that only somebody in their cluster can reach.
pub trait Clusters: Send + Sync + 'static {
    /// The way to targets of `cluster`. It need not be there now: then each connection says so.
    fn connector(&self, cluster: &str) -> Arc<dyn Connector>;
}

impl Manager {
    /// A manager without pools; its metrics go to `registry`, named `marigraph_scrape_*`.
    pub fn new(parts: ManagerParts, registry: &mut Registry) -> Manager {
        Manager {
            shared: Arc::new(Shared {
                owner: Arc::new(Owner {
                    tenant: parts.tenant,
                    cluster: parts.cluster,
                    stamped: parts.stamped,
                }),
                appender: parts.appender,
                connector: parts.connector,
                clusters: parts.clusters,
                tls: Arc::new(TlsConfigs::default()),
                clock: Arc::new(SteadyClock::new(parts.clock)),
                turns: parts.turns,
                under_way: AtomicUsize::new(0),
                at_once: AtOnce::default(),
                metrics: Metrics::new(registry),
                failures: FailureLogs::default(),
                bodies: Spares::default(),
                scratches: Spares::default(),
                text: SharedText::default(),
                places: Interned::default(),
                families: Interned::default(),
                shutdown: CancellationToken::new(),
                tasks: TaskTracker::new(),
            }),
            pools: Mutex::new(BTreeMap::new()),
        }
    }

    /// Makes `configs` the configuration. Pools whose configuration is unchanged go on undisturbed;
    /// changed ones keep their targets and hand them over; those no longer there end.
    ///
    /// # Errors
    /// A job whose client cannot be made (TLS files, a cluster without a way there) or whose log cannot be opened. Nothing has changed
    /// then.
    pub fn apply(&self, configs: &[Arc<ScrapeConfig>]) -> Result<(), ApplyError> {
        let mut pools = self.pools.lock();
        let mut changed = Vec::new();
        for config in configs {
            if pools.get(&config.job_name).is_some_and(|pool| **pool.config() == **config) {
                continue;
            }
            let client = self
                .connector(config)
                .and_then(|connector| HttpClient::new(&config.http, connector, self.shared.tls.clone()))
                .map_err(|problem| ApplyError { job: config.job_name.clone(), problem })?;
            changed.push((config.clone(), Arc::new(client)));
        }
        let named = |config: &&Arc<ScrapeConfig>| config.failure_log.is_some();
        let job = configs.iter().find(named).map(|config| config.job_name.clone()).unwrap_or_default();
        let logs = configs.iter().filter_map(|config| config.failure_log.as_deref());
        self.shared.failures.open(logs).map_err(|problem| ApplyError { job, problem })?;
        let wanted: std::collections::HashSet<&str> =
            configs.iter().map(|config| config.job_name.as_str()).collect();
        for (_, pool) in pools.extract_if(.., |name, _| !wanted.contains(name.as_str())) {
            pool.stop();
        }
        for (config, client) in changed {
            match pools.get_mut(&config.job_name) {
                Some(pool) => pool.reconfigure(config, client),
                None => {
                    let name = config.job_name.clone();
                    pools.insert(name, Pool::new(self.shared.clone(), config, client));
                }
            }
        }
        drop(pools);
        self.shared.tls.forget_unused();
        Ok(())
    }

    /// The targets of `pool` are now exactly those of `groups`. A pool that is not configured
    /// (any more) is left alone.
    pub fn update_targets(&self, pool: &str, groups: Vec<TargetGroup>) {
        if let Some(pool) = self.pools.lock().get_mut(pool) {
            pool.update(groups);
        }
    }

    /// A client for requests beside scraping (HTTP discovery), over the same connector.
    ///
    /// # Errors
    /// A TLS file that cannot be read or used; the message names it.
    pub fn client(&self, config: &HttpClientConfig) -> Result<HttpClient, String> {
        HttpClient::new(config, self.shared.connector.clone(), self.shared.tls.clone())
    }

    /// The way to the targets of a job.
    fn connector(&self, config: &ScrapeConfig) -> Result<Arc<dyn Connector>, String> {
        match (&config.cluster, &self.shared.clusters) {
            (None, _) => Ok(Arc::clone(&self.shared.connector)),
            (Some(cluster), Some(clusters)) => Ok(clusters.connector(cluster)),
            (Some(_), None) => Err("`cluster` is for hubs, which ask through agents' tunnels".to_owned()),
        }
    }

    /// At most so many scrapes are under way at once; others wait for up to half of their timeout, and then have failed.
    /// `None` is no bound.
    pub fn limit_at_once(&self, max: Option<usize>) {
        self.shared.at_once.set(max);
    }

    /// The names of all pools, sorted.
    pub fn scrape_pools(&self) -> Vec<String> {
        self.pools.lock().keys().cloned().collect()
    }

    /// Targets being scraped, by pool, then labels.
    pub fn active_targets(&self) -> Vec<ActiveTarget> {
        let mut targets = Vec::new();
        self.pools.lock().values().for_each(|pool| pool.active(&mut targets));
        targets
    }

    /// Targets that relabelling dropped, by pool, as far as they are remembered.
    pub fn dropped_targets(&self) -> Vec<DroppedTarget> {
        self.pools.lock().values().flat_map(|pool| pool.dropped().to_vec()).collect()
    }

    /// How many targets relabelling dropped, by pool.
    pub fn dropped_counts(&self) -> BTreeMap<String, usize> {
        self.pools.lock().iter().map(|(name, pool)| (name.clone(), pool.dropped_count())).collect()
    }

    /// What was discovered and is not scraped, because it is no target, or there already: by pool, as far as it is
    /// remembered.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.pools.lock().values().flat_map(|pool| pool.troubles().to_vec()).collect()
    }

    /// What active targets say of their metrics: of `metric`, or of all.
    pub fn target_metadata(&self, metric: Option<&str>) -> Vec<TargetMetadata> {
        let mut metadata = Vec::new();
        self.pools.lock().values().for_each(|pool| pool.metadata(metric, &mut metadata));
        metadata
    }

    /// Asks target `id` for somebody else, with the credentials, TLS and proxy of its job: only targets
    /// that are scraped can be asked, at the very URL that is scraped. The answer is passed on as it
    /// comes, packed as the target packed it, and is in no way scraped by it.
    ///
    /// Of `headers` those go along that negotiate the answer's form and announce the asker's patience.
    ///
    /// # Errors
    /// See [`RelayError`].
    pub async fn relay(
        &self,
        id: SourceId,
        headers: &HeaderMap,
        timeout: Duration,
    ) -> Result<Response<Incoming>, RelayError> {
        let relayed = self.pools.lock().values().find_map(|pool| pool.relayed(id));
        relayed.ok_or(RelayError::UnknownTarget(id))?.get(headers, timeout).await
    }

    /// The clock that ticks go by.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.shared.clock) as _
    }

    /// Waits until no scrape is under way, but not longer than `patience`; for when no more begin.
    pub async fn drain(&self, patience: Duration) {
        let drained = async {
            while self.shared.under_way.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        // What is not done by then is broken off.
        let _ = tokio::time::timeout(patience, drained).await;
    }

    /// Stops all scraping and waits until nobody appends any more. Writes no staleness markers:
    /// the targets are still there.
    pub async fn shutdown(&self) {
        self.shared.shutdown.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}
