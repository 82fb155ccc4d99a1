//! Discovery and scraping, wired: what discovery finds goes to the pools of the scraper.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use discovery::{BoxFuture, HttpFetch, HttpRequest, HttpResponse, PoolTargets, Source, SystemResolver};
use model::status::{ActiveTarget, DroppedTarget, TargetMetadata};
use model::{Labels, TenantId};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use scrape::client::{Fetch, FetchError, HttpClient, TcpConnector};
use scrape::config::{HttpClientConfig, ScrapeConfig};
use scrape::{Clusters, Manager, ManagerParts, Turns};
use serde_json::json;
use stdx::clock::Clock;
use storage::Appender;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;
use web::{PoolConfig, TargetStatus};

use crate::config::{Config, Discovery, DnsRecord, Job};
use crate::hub::central::Central;
use crate::limits::LimitSet;

/// Time between two looks at what has been discovered.
const DISCOVERY_LOOK: Duration = Duration::from_millis(50);

/// Troubles that are told of.
const TROUBLES_MAX: usize = 200;

/// Discovery, scraping, and the task that hands targets from one to the other.
pub(crate) struct Pull {
    scraper: Arc<Manager>,
    central: Option<Arc<Central>>,
    discovery: discovery::Manager,
    handing_over: Mutex<Option<JoinHandle<()>>>,
    /// Pools whose targets have been found.
    found_pools: Arc<Mutex<BTreeSet<String>>>,
    /// Clients of HTTP discovery in force: an unchanged one goes on undisturbed over a reload.
    clients: Mutex<Vec<Arc<DiscoveryClient>>>,
    /// What the pages tell of each pool's configuration.
    configs: RwLock<BTreeMap<String, PoolConfig>>,
    jobs: Mutex<Jobs>,
}

/// The jobs as configured, and limits for all of them.
#[derive(Default)]
struct Jobs {
    configured: Vec<Arc<ScrapeConfig>>,
    limits: LimitSet,
}

impl Jobs {
    /// The jobs as they are to be scraped.
    fn narrowed(&self) -> Vec<Arc<ScrapeConfig>> {
        let narrow = |job: &Arc<ScrapeConfig>| {
            let limits = self.limits.narrow(job.limits);
            if limits == job.limits {
                return Arc::clone(job);
            }
            let mut narrowed = ScrapeConfig::clone(job);
            narrowed.limits = limits;
            Arc::new(narrowed)
        };
        self.configured.iter().map(narrow).collect()
    }
}

/// What scraping works with.
pub(crate) struct PullParts {
    /// Takes the rows.
    pub(crate) appender: Arc<dyn Appender>,
    /// Whose rows they are.
    pub(crate) tenant: TenantId,
    /// The cluster this role stands in; empty at a hub.
    pub(crate) cluster: String,
    /// What enrolment says every series carries; empty at a hub.
    pub(crate) stamped: Labels,
    /// Clusters that are scraped through their agents; absent at an agent.
    pub(crate) central: Option<Arc<Central>>,
    /// Which ticks are scraped here.
    pub(crate) turns: Arc<dyn Turns>,
    /// Wall time.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Pull {
    pub(crate) fn new(parts: PullParts, registry: &mut Registry) -> Pull {
        let central = parts.central.clone();
        let parts = ManagerParts {
            appender: parts.appender,
            tenant: parts.tenant,
            cluster: parts.cluster,
            stamped: parts.stamped,
            clock: parts.clock,
            connector: Arc::new(TcpConnector),
            clusters: parts.central.map(|central| central as Arc<dyn Clusters>),
            turns: parts.turns,
        };
        let scraper = Arc::new(Manager::new(parts, registry));
        let metrics = discovery::Metrics::register(registry);
        let resolver = Arc::new(SystemResolver);
        let stop = CancellationToken::new();
        let (discovery, found) =
            discovery::Manager::new(discovery::Options::default(), metrics, resolver, stop);
        let found_pools = Arc::<Mutex<BTreeSet<String>>>::default();
        let handing_over = tokio::spawn(hand_over(found, Arc::clone(&scraper), Arc::clone(&found_pools)));
        Pull {
            scraper,
            central,
            discovery,
            handing_over: Mutex::new(Some(handing_over)),
            found_pools,
            clients: Mutex::default(),
            configs: RwLock::default(),
            jobs: Mutex::default(),
        }
    }

    /// Makes `config`'s jobs the jobs; what is unchanged goes on undisturbed.
    ///
    /// # Errors
    /// A job whose client cannot be made (TLS files). Nothing has changed then.
    pub(crate) fn apply(&self, config: &Config) -> Result<()> {
        let mut clients = self.clients.lock();
        let mut used = Vec::new();
        let pools = config
            .jobs
            .iter()
            .map(|job| self.pool(job, &clients, &mut used))
            .collect::<Result<Vec<discovery::PoolConfig>>>()?;
        let mut jobs = self.jobs.lock();
        let configured = config.jobs.iter().map(|job| Arc::clone(&job.scrape)).collect();
        let next = Jobs { configured, limits: jobs.limits.clone() };
        self.scraper.apply(&next.narrowed())?;
        *jobs = next;
        drop(jobs);
        self.discovery.apply(pools);
        *clients = used;
        *self.configs.write() = config
            .jobs
            .iter()
            .zip(config.jobs_yaml())
            .map(|(job, yaml)| {
                let relabel = job.scrape.relabel.clone();
                (job.scrape.job_name.clone(), PoolConfig { yaml, relabel })
            })
            .collect();
        Ok(())
    }

    /// Makes `limits` hold for all jobs, where they are narrower than what is configured.
    ///
    /// # Errors
    /// As [`Pull::apply`].
    pub(crate) fn limit(&self, limits: LimitSet) -> Result<()> {
        let mut jobs = self.jobs.lock();
        let next = Jobs { configured: jobs.configured.clone(), limits };
        self.scraper.apply(&next.narrowed())?;
        self.scraper.limit_at_once(next.limits.scrapes_at_once());
        *jobs = next;
        Ok(())
    }

    /// What scrapes, for those who ask targets themselves.
    pub(crate) fn scraper(&self) -> Arc<Manager> {
        Arc::clone(&self.scraper)
    }

    /// What keeps targets from being scraped before relabelling could: discovery that fails (without a target), and what it
    /// found that is no target, or there already.
    pub(crate) fn troubles(&self) -> Vec<serde_json::Value> {
        let mut all = Vec::new();
        for pool in self.discovery.status() {
            for provider in pool.providers.iter().filter(|provider| !provider.last_error.is_empty()) {
                let (kind, targets, error) = (provider.mechanism, provider.targets, &provider.last_error);
                let what = format!("{kind} discovery fails, and goes on with {targets} targets: {error}");
                all.push(json!({ "pool": pool.pool, "target": "", "what": what }));
            }
        }
        let scraped = self.scraper.troubles().into_iter();
        all.extend(scraped.map(|one| json!({ "pool": one.pool, "target": one.address, "what": one.what })));
        all.truncate(TROUBLES_MAX);
        all
    }

    /// Waits until every job's discovery has answered once, but not longer than `patience`.
    pub(crate) async fn discovered(&self, patience: Duration) {
        let all = async {
            let found = || {
                let (pools, found) = (self.scraper.scrape_pools(), self.found_pools.lock());
                pools.iter().all(|pool| found.contains(pool))
            };
            while !found() {
                tokio::time::sleep(DISCOVERY_LOOK).await;
            }
        };
        // What is not found by then is away.
        let _ = tokio::time::timeout(patience, all).await;
    }

    /// Ends discovery, then scraping; when this returns nobody appends any more.
    pub(crate) async fn stop(&self) {
        self.discovery.shutdown().await;
        let handing_over = self.handing_over.lock().take();
        if let Some(task) = handing_over {
            task.abort();
        }
        self.scraper.shutdown().await;
    }

    fn pool(
        &self,
        job: &Job,
        before: &[Arc<DiscoveryClient>],
        used: &mut Vec<Arc<DiscoveryClient>>,
    ) -> Result<discovery::PoolConfig> {
        let name = &job.scrape.job_name;
        let source = |discovery: &Discovery| {
            Ok(match discovery {
                Discovery::Static(groups) => Source::Static(groups.clone()),
                Discovery::Agent { cluster } => {
                    let central = self.central.as_ref();
                    let central = central.with_context(|| format!("job {name}: `cluster` is for hubs"))?;
                    Source::Http(central.discovery(cluster))
                }
                Discovery::File { files, refresh_interval } => Source::File(discovery::FileConfig {
                    files: files.clone(),
                    refresh_interval: *refresh_interval,
                }),
                Discovery::Http { url, refresh_interval, client } => {
                    let fetch = self.client(client, before, used).with_context(|| format!("job {name}"))?;
                    Source::Http(discovery::HttpConfig {
                        url: url.clone(),
                        refresh_interval: *refresh_interval,
                        fetch,
                    })
                }
                Discovery::Dns { names, record, port, refresh_interval } => {
                    Source::Dns(discovery::DnsConfig {
                        names: names.clone(),
                        record: record_type(*record),
                        port: *port,
                        refresh_interval: *refresh_interval,
                    })
                }
            })
        };
        let sources = job.discovery.iter().map(source).collect::<Result<Vec<Source>>>()?;
        Ok(discovery::PoolConfig { name: name.clone(), sources })
    }

    fn client(
        &self,
        config: &HttpClientConfig,
        before: &[Arc<DiscoveryClient>],
        used: &mut Vec<Arc<DiscoveryClient>>,
    ) -> Result<Arc<DiscoveryClient>> {
        let known = used.iter().chain(before).find(|client| client.config == *config);
        let client = match known {
            Some(client) => Arc::clone(client),
            None => {
                let client = self.scraper.client(config).map_err(anyhow::Error::msg)?;
                Arc::new(DiscoveryClient { config: config.clone(), client })
            }
        };
        used.push(Arc::clone(&client));
        Ok(client)
    }
}

async fn hand_over(
    mut found: mpsc::Receiver<PoolTargets>,
    scraper: Arc<Manager>,
    pools: Arc<Mutex<BTreeSet<String>>>,
) {
    while let Some(targets) = found.recv().await {
        pools.lock().insert(targets.pool.clone());
        scraper.update_targets(&targets.pool, targets.groups);
    }
}

fn record_type(record: DnsRecord) -> discovery::DnsRecordType {
    match record {
        DnsRecord::Srv => discovery::DnsRecordType::Srv,
        DnsRecord::A => discovery::DnsRecordType::A,
        DnsRecord::Aaaa => discovery::DnsRecordType::Aaaa,
        DnsRecord::Mx => discovery::DnsRecordType::Mx,
        DnsRecord::Ns => discovery::DnsRecordType::Ns,
    }
}

/// The scraper's HTTP client, asking for target groups.
struct DiscoveryClient {
    config: HttpClientConfig,
    client: HttpClient,
}

impl HttpFetch for DiscoveryClient {
    fn fetch<'a>(&'a self, request: HttpRequest<'a>) -> BoxFuture<'a, Result<HttpResponse, String>> {
        Box::pin(async move {
            let url = Url::parse(request.url).map_err(|error| error.to_string())?;
            let fetch = Fetch {
                url: &url,
                accept: "*/*",
                gzip: true,
                timeout: request.timeout,
                announce_timeout: false,
                headers: request.headers,
                body_bytes_max: request.body_bytes_max,
                keep_alive: false,
            };
            match self.client.get(&fetch).await {
                Ok((head, body)) => Ok(HttpResponse {
                    status: 200,
                    content_type: head.content_type.unwrap_or_default(),
                    body: body.into(),
                }),
                Err(FetchError::Status { code, .. }) => {
                    Ok(HttpResponse { status: code.as_u16(), ..HttpResponse::default() })
                }
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

impl TargetStatus for Pull {
    fn active(&self, _tenant: &TenantId) -> Vec<ActiveTarget> {
        self.scraper.active_targets()
    }

    fn dropped(&self, _tenant: &TenantId) -> Vec<DroppedTarget> {
        self.scraper.dropped_targets()
    }

    fn dropped_counts(&self, _tenant: &TenantId) -> BTreeMap<String, usize> {
        self.scraper.dropped_counts()
    }

    fn scrape_pools(&self, _tenant: &TenantId) -> Vec<String> {
        self.scraper.scrape_pools()
    }

    fn pool_config(&self, _tenant: &TenantId, pool: &str) -> Option<PoolConfig> {
        self.configs.read().get(pool).cloned()
    }

    fn metadata(&self, _tenant: &TenantId, metric: Option<&str>) -> Vec<TargetMetadata> {
        self.scraper.target_metadata(metric)
    }
}
