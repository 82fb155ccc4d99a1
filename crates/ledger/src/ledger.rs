//! All tenants' accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::{Labels, Matcher, SourceId, TenantId};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use stdx::clock::Clock;
use stdx::disk::Disk;
use storage::{Appender, CommitPosition, EndReason, StoreError};

use crate::fleet::{AgentStatus, Agents};
use crate::metrics::Metrics;
use crate::present::{self, KnownSource, SilentSource};
use crate::pushed::{Pushed, PushedRows};
use crate::report::{self, Ask, Incomplete, Report};
use crate::source::{LossReport, Overlay, Pause, Said, Window};
use crate::tenant::Tenant;

/// For how long the list of incomplete times is used again.
const INCOMPLETE_FOR_MS: i64 = 2_000;
/// How often what was pushed is written down, milliseconds.
const PUSHED_EVERY_MS: i64 = 10_000;
/// Rows that a source without a schedule may be behind before the counters go on.
const UNSCHEDULED_LAG_MS: i64 = 120_000;

/// Where and how a ledger keeps its accounts.
#[derive(Debug, Clone)]
pub struct LedgerConfig {
    /// Its directory, one below it for each tenant; made when it is not there.
    pub directory: PathBuf,
    /// How long accounts are kept: as long as the store's rows. None keeps them for ever.
    pub retention: Option<Duration>,
    /// The label that names a source's cluster.
    pub cluster_label: String,
    /// Names this start of the machine, so that a kill can be told from a power cut
    /// ([`LedgerConfig::boot_id`]). Empty where it is not known: then every restart counts as a power cut.
    pub boot: String,
    /// Only reads what there is; what is told is kept in memory.
    pub read_only: bool,
}

impl LedgerConfig {
    /// Accounts below `directory`, kept for ever, clusters by the label `cluster`.
    pub fn new(directory: &Path) -> LedgerConfig {
        LedgerConfig {
            directory: directory.to_owned(),
            retention: None,
            cluster_label: "cluster".to_owned(),
            boot: LedgerConfig::boot_id(),
            read_only: false,
        }
    }

    /// What Linux calls this start of the machine; empty elsewhere.
    pub fn boot_id() -> String {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    }
}

/// A ledger that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("open the ledger in {}: {source}", directory.display())]
pub struct OpenError {
    /// Where.
    pub directory: PathBuf,
    /// The cause.
    pub source: io::Error,
}

/// The incomplete times of a tenant, and when they were put together.
type IncompleteAt = (i64, Arc<Vec<Incomplete>>);

/// The accounts of all tenants. All methods may be called from many threads; those that name a tenant
/// see nothing of others.
#[derive(Debug)]
pub struct Ledger {
    config: LedgerConfig,
    disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    tenants: RwLock<BTreeMap<TenantId, Arc<Tenant>>>,
    /// Tenants whose accounts cannot be read, with the cause; their batches are not acknowledged.
    unread: Mutex<BTreeMap<TenantId, String>>,
    agents: Agents,
    pub(crate) pushed: PushedRows,
    /// When what was pushed was last written down.
    pushed_ms: Mutex<i64>,
    metrics: Metrics,
    incomplete: Mutex<BTreeMap<TenantId, IncompleteAt>>,
    opened_ms: i64,
}

impl Ledger {
    /// Opens the ledger: what it holds is read, damage is logged and shows as unknown.
    ///
    /// Whoever opens it has made sure that the store's log survives a power cut as far as it goes; the
    /// ledger never says more than the store holds.
    ///
    /// # Errors
    /// The directory cannot be read or written.
    pub fn open(
        config: LedgerConfig,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Ledger, OpenError> {
        let directory = config.directory.clone();
        let opened_ms = clock.now_ms();
        let ledger = Ledger {
            config,
            disk,
            clock,
            tenants: RwLock::default(),
            unread: Mutex::default(),
            agents: Agents::default(),
            pushed: PushedRows::default(),
            pushed_ms: Mutex::default(),
            metrics: Metrics::default(),
            incomplete: Mutex::default(),
            opened_ms,
        };
        ledger.read_tenants().map_err(|source| OpenError { directory, source })?;
        Ok(ledger)
    }

    fn read_tenants(&self) -> io::Result<()> {
        let directory = &self.config.directory;
        if !self.config.read_only {
            self.disk.create_dir_all(directory)?;
            directory.parent().map_or(Ok(()), |parent| self.disk.sync_dir(parent))?;
        }
        for path in self.disk.read_dir(directory)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Ok(tenant) = TenantId::new(name) {
                let accounts = self.read_tenant(&path)?;
                self.pushed.restore(&tenant, &accounts.inner.lock().pushed);
                self.tenants.write().insert(tenant, Arc::new(accounts));
            }
        }
        Ok(())
    }

    fn read_tenant(&self, dir: &Path) -> io::Result<Tenant> {
        Tenant::open(Arc::clone(&self.disk), dir, &self.config, self.clock.now_ms())
    }

    /// The label that names a source's cluster.
    pub fn cluster_label(&self) -> &str {
        &self.config.cluster_label
    }

    /// Registers `marigraph_ledger_*`, `marigraph_cluster_up` and `marigraph_cluster_silent_targets`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// What of the tenant's rows was expected, is stored, is missing.
    pub fn report(&self, tenant: &TenantId, ask: &Ask) -> Report {
        let Some(tenant) = self.known(tenant) else { return Report::default() };
        let now_ms = self.clock.now_ms();
        report::report(&tenant.inner.lock(), ask, (now_ms, self.opened_ms), &self.config.cluster_label)
    }

    /// Sources of which nothing has been heard for two intervals although rows are due, of clusters that `is_asked`:
    /// the `max` longest silent, and how many more there are. Since the program began is long enough.
    pub fn silent(
        &self,
        tenant: &TenantId,
        is_asked: impl Fn(&str) -> bool,
        max: usize,
    ) -> (Vec<SilentSource>, usize) {
        let Some(accounts) = self.known(tenant) else { return (Vec::new(), 0) };
        let times = (self.clock.now_ms(), self.opened_ms);
        present::silent(&accounts.inner.lock(), &self.config.cluster_label, times, is_asked, max)
    }

    /// The sources that `is_asked` (cluster, labels), `max` at most, with the last word about each. Goes once over all.
    pub fn sources(
        &self,
        tenant: &TenantId,
        is_asked: impl Fn(&str, &Labels) -> bool,
        max: usize,
    ) -> Vec<KnownSource> {
        let Some(accounts) = self.known(tenant) else { return Vec::new() };
        let now_ms = self.clock.now_ms();
        present::sources(&accounts.inner.lock(), &self.config.cluster_label, now_ms, is_asked, max)
    }

    /// What was pushed.
    pub fn pushed(&self, tenant: &TenantId) -> Vec<Pushed> {
        self.pushed.list(tenant)
    }

    /// Times in which the record has gaps that touch one of `selections` (matchers, first and last
    /// millisecond). Costs next to nothing while everything is complete. May be some seconds old.
    pub fn incomplete(&self, tenant: &TenantId, selections: &[(&[Matcher], i64, i64)]) -> Vec<Incomplete> {
        let all = self.all_incomplete(tenant);
        let touched = |one: &&Incomplete| {
            selections.iter().any(|(matchers, from_ms, to_ms)| {
                one.from_ms <= *to_ms
                    && one.to_ms >= *from_ms
                    && matchers.iter().all(|matcher| match matcher.name.as_str() {
                        "job" => matcher.matches(&one.job),
                        name if name == self.config.cluster_label => matcher.matches(&one.cluster),
                        _ => true,
                    })
            })
        };
        all.iter().filter(touched).cloned().collect()
    }

    /// Whether [`Ledger::incomplete`] may find anything.
    pub fn has_gaps(&self, tenant: &TenantId) -> bool {
        !self.all_incomplete(tenant).is_empty()
    }

    fn all_incomplete(&self, tenant: &TenantId) -> Arc<Vec<Incomplete>> {
        let now_ms = self.clock.now_ms();
        let mut known = self.incomplete.lock();
        if let Some((at_ms, list)) = known.get(tenant)
            && (*at_ms..*at_ms + INCOMPLETE_FOR_MS).contains(&now_ms)
        {
            return Arc::clone(list);
        }
        let Some(accounts) = self.known(tenant) else { return Arc::default() };
        let list = report::incomplete(&accounts.inner.lock(), now_ms, &self.config.cluster_label);
        let list = Arc::new(list);
        known.insert(tenant.clone(), (now_ms, Arc::clone(&list)));
        list
    }

    /// Nothing is expected of `cluster` from `from_ms` up to `until_ms`.
    ///
    /// # Errors
    /// It cannot be written down; it does not hold then after a restart.
    pub fn pause(&self, tenant: &TenantId, cluster: &str, from_ms: i64, until_ms: i64) -> io::Result<()> {
        self.overlay(tenant, Overlay::Pause { cluster: cluster.to_owned(), from_ms, until_ms })
    }

    /// Pauses of `cluster` that are in force at `at_ms` end then.
    ///
    /// # Errors
    /// It cannot be written down; it does not hold then after a restart.
    pub fn resume(&self, tenant: &TenantId, cluster: &str, at_ms: i64) -> io::Result<()> {
        self.pause(tenant, cluster, at_ms, at_ms)
    }

    /// The pauses in force at `at_ms`, by cluster.
    pub fn pauses(&self, tenant: &TenantId, at_ms: i64) -> Vec<Pause> {
        self.known(tenant).map(|accounts| accounts.inner.lock().pauses(at_ms)).unwrap_or_default()
    }

    /// The clusters that have agents or sources, by name.
    pub fn clusters(&self, tenant: &TenantId) -> Vec<String> {
        let mut clusters: Vec<String> =
            self.agents.list(tenant, self.clock.now_ms()).into_iter().map(|agent| agent.cluster).collect();
        if let Some(accounts) = self.known(tenant) {
            let accounts = accounts.inner.lock();
            let of_source = |source| report::place(source, &self.config.cluster_label).0.to_owned();
            clusters.extend(accounts.live().map(of_source));
        }
        clusters.sort_unstable();
        clusters.dedup();
        clusters
    }

    /// The clusters of which nothing is expected any more, by name.
    pub fn retired(&self, tenant: &TenantId) -> Vec<String> {
        let accounts = self.known(tenant);
        accounts.map_or_else(Vec::new, |accounts| {
            present::retired(&accounts.inner.lock(), &self.config.cluster_label)
        })
    }

    /// Nothing is expected of `cluster` from `at_ms` on, until its sources begin anew.
    ///
    /// # Errors
    /// It cannot be written down; it does not hold then after a restart.
    pub fn retire(&self, tenant: &TenantId, cluster: &str, at_ms: i64) -> io::Result<()> {
        self.overlay(tenant, Overlay::Retire { cluster: cluster.to_owned(), at_ms })
    }

    /// Rows were lost: whoever lost them says so. What of them is stored all the same stays stored.
    ///
    /// # Errors
    /// It cannot be written down; it does not hold then after a restart.
    pub fn lost(&self, tenant: &TenantId, loss: LossReport) -> io::Result<()> {
        self.overlay(tenant, Overlay::Loss(loss))
    }

    fn overlay(&self, tenant: &TenantId, overlay: Overlay) -> io::Result<()> {
        let accounts = self.tenant(tenant)?;
        let now_ms = self.clock.now_ms();
        accounts.tell(0, now_ms, |telling| telling.overlay(overlay));
        accounts.sync(0, now_ms).map_err(io::Error::other)
    }

    /// Whoever scrapes `cluster` has begun everything it knows since `since_ms`: sources of which nothing
    /// was heard since then are gone.
    ///
    /// # Errors
    /// The tenant's files cannot be written.
    pub fn settled(&self, tenant: &TenantId, cluster: &str, since_ms: i64) -> io::Result<()> {
        let accounts = self.tenant(tenant)?;
        let now_ms = self.clock.now_ms();
        accounts.tell(0, now_ms, |telling| {
            let gone: Vec<_> = telling
                .inner()
                .live()
                .filter(|source| report::place(source, &self.config.cluster_label).0 == cluster)
                .filter(|source| source.newest_ms() < since_ms && source.is_expected(since_ms))
                // A source is begun with its first row, so that of a slow one may still come.
                .filter(|source| {
                    let schedule = source.schedule_at(since_ms);
                    schedule.is_none_or(|schedule| now_ms - since_ms > 2 * schedule.interval_ms)
                })
                .map(|source| (source.id, source.labels.clone()))
                .collect();
            for (id, labels) in gone {
                telling.said(id, &labels, since_ms, Said::End(EndReason::Gone));
            }
        });
        Ok(())
    }

    /// An agent has leave to send. It counts as silent until it is seen.
    pub fn agent_enrolled(&self, tenant: &TenantId, cluster: &str, agent: &str, at_ms: i64) {
        self.agents.enrolled(tenant, cluster, agent, at_ms);
    }

    /// The shortest interval of a cluster's sources, milliseconds: how soon a silent agent has to show. May be some
    /// seconds old.
    pub fn shortest_interval_ms(&self, tenant: &TenantId, cluster: &str) -> Option<i64> {
        self.agents.interval_ms(tenant, cluster)
    }

    /// An agent has given a sign of life at `at_ms`.
    pub fn agent_seen(&self, tenant: &TenantId, cluster: &str, agent: &str, at_ms: i64) {
        self.agents.seen(tenant, cluster, agent, at_ms);
    }

    /// An agent is no longer expected (revoked, retired).
    pub fn agent_gone(&self, tenant: &TenantId, cluster: &str, agent: &str) {
        self.agents.gone(tenant, cluster, agent);
    }

    /// The tenant's agents, silent ones first.
    pub fn agents(&self, tenant: &TenantId) -> Vec<AgentStatus> {
        self.agents.list(tenant, self.clock.now_ms())
    }

    /// What is to be done about once a second: counters go on, what was told is made durable together
    /// with the store's rows, long logs become snapshots, what is older than retention goes. Blocks.
    ///
    /// # Errors
    /// The store or a file of the ledger could not be synced.
    pub fn maintain(&self, store: &dyn Appender) -> Result<(), StoreError> {
        self.count();
        self.write_pushed(PUSHED_EVERY_MS);
        self.commit(store)?;
        let now_ms = self.clock.now_ms();
        let retention = self.config.retention.and_then(|kept| i64::try_from(kept.as_millis()).ok());
        let oldest_ms = retention.map_or(i64::MIN, |kept| now_ms - kept);
        for tenant in self.all() {
            if tenant.is_long(now_ms) {
                let durable =
                    |position| store.wait_durable(CommitPosition(position)).map_err(io::Error::other);
                tenant.compact(now_ms, oldest_ms, durable).map_err(|source| StoreError::Io {
                    attempt: "write a snapshot of the ledger".to_owned(),
                    source,
                })?;
            }
        }
        self.pushed.forget_before(oldest_ms);
        Ok(())
    }

    /// Writes down what was pushed since the last time, unless that is less than `every_ms` ago.
    pub(crate) fn write_pushed(&self, every_ms: i64) {
        let now_ms = self.clock.now_ms();
        {
            let mut written_ms = self.pushed_ms.lock();
            if now_ms.saturating_sub(*written_ms) < every_ms {
                return;
            }
            *written_ms = now_ms;
        }
        for tenant in self.pushed.tenants() {
            let (totals, position) = self.pushed.totals(&tenant);
            let accounts = match self.tenant(&tenant) {
                Ok(accounts) => accounts,
                Err(error) => {
                    tracing::error!(%tenant, "open the tenant's ledger: {error}");
                    continue;
                }
            };
            let news: Vec<_> = {
                let inner = accounts.inner.lock();
                totals.into_iter().filter(|(key, totals)| inner.pushed.get(key) != Some(totals)).collect()
            };
            if !news.is_empty() {
                accounts.tell(position, now_ms, |telling| {
                    news.into_iter().for_each(|(key, totals)| telling.pushed(key, totals));
                });
            }
        }
    }

    /// Makes everything told so far durable, the store's rows first.
    ///
    /// # Errors
    /// As [`Ledger::maintain`].
    pub fn commit(&self, store: &dyn Appender) -> Result<(), StoreError> {
        for tenant in self.all() {
            if let Some(position) = tenant.unmarked() {
                store.wait_durable(CommitPosition(position))?;
                tenant.sync(position, self.clock.now_ms())?;
            }
        }
        Ok(())
    }

    /// The store has everything up to `position` for good: so has the ledger, when this returns.
    pub(crate) fn sync(&self, position: CommitPosition) -> Result<(), StoreError> {
        if let Some((tenant, cause)) = self.unread.lock().first_key_value() {
            let attempt = format!("read the ledger of tenant {tenant}");
            return Err(StoreError::Io { attempt, source: io::Error::other(cause.clone()) });
        }
        let now_ms = self.clock.now_ms();
        self.all().iter().try_for_each(|tenant| tenant.sync(position.0, now_ms))
    }

    fn all(&self) -> Vec<Arc<Tenant>> {
        self.tenants.read().values().cloned().collect()
    }

    fn known(&self, tenant: &TenantId) -> Option<Arc<Tenant>> {
        self.tenants.read().get(tenant).cloned()
    }

    /// The accounts of a tenant, begun where there are none.
    pub(crate) fn tenant(&self, tenant: &TenantId) -> io::Result<Arc<Tenant>> {
        if let Some(known) = self.known(tenant) {
            return Ok(known);
        }
        let mut tenants = self.tenants.write();
        if let Some(known) = tenants.get(tenant) {
            return Ok(Arc::clone(known));
        }
        let opened = match self.read_tenant(&self.config.directory.join(tenant.as_str())) {
            Ok(opened) => Arc::new(opened),
            Err(error) => {
                self.unread.lock().insert(tenant.clone(), error.to_string());
                return Err(error);
            }
        };
        self.unread.lock().remove(tenant);
        tenants.insert(tenant.clone(), Arc::clone(&opened));
        Ok(opened)
    }

    /// Carries the counters on over ticks that are due by now, each once.
    fn count(&self) {
        let now_ms = self.clock.now_ms();
        let tenants: Vec<_> =
            self.tenants.read().iter().map(|(id, accounts)| (id.clone(), Arc::clone(accounts))).collect();
        let mut intervals: BTreeMap<(TenantId, String), i64> = BTreeMap::new();
        let mut silent: BTreeMap<(TenantId, String), u64> = BTreeMap::new();
        let mut retired: BTreeSet<(TenantId, String)> = BTreeSet::new();
        for (id, tenant) in tenants {
            let mut shortest: BTreeMap<String, i64> = BTreeMap::new();
            let mut silent_here: BTreeMap<String, u64> = BTreeMap::new();
            let inner = &mut *tenant.inner.lock();
            let gone = present::retired(inner, &self.config.cluster_label).into_iter();
            retired.extend(gone.map(|cluster| (id.clone(), cluster)));
            let (sources, overlays, lost) = (&mut inner.sources, &inner.overlays, &inner.lost);
            for source in sources.iter_mut().flatten() {
                let (cluster, _) = report::place(source, &self.config.cluster_label);
                let of_cluster = overlays.get(cluster).map_or(&[][..], Vec::as_slice);
                let is_silent = source.silent_since(now_ms, of_cluster, self.opened_ms).is_some();
                match silent_here.get_mut(cluster) {
                    Some(count) => *count += u64::from(is_silent),
                    None => _ = silent_here.insert(cluster.to_owned(), u64::from(is_silent)),
                }
                if let Some(schedule) = source.schedule_at(now_ms).filter(|_| source.is_expected(now_ms)) {
                    match shortest.get_mut(cluster) {
                        Some(known) => *known = (*known).min(schedule.interval_ms),
                        None => _ = shortest.insert(cluster.to_owned(), schedule.interval_ms),
                    }
                }
                let lag = source.schedule_at(now_ms).map(|schedule| schedule.interval_ms + 10_000);
                let end = now_ms - lag.unwrap_or(UNSCHEDULED_LAG_MS);
                if source.counted_ms == i64::MIN {
                    source.counted_ms = source.oldest_ms().max(self.opened_ms - UNSCHEDULED_LAG_MS);
                }
                if end <= source.counted_ms {
                    continue;
                }
                let (cluster, job) = report::place(source, &self.config.cluster_label);
                let overlays = overlays.get(cluster).map_or(&[][..], Vec::as_slice);
                let window = Window { start: source.counted_ms, end, now: now_ms, overlays, lost };
                let counters = self.metrics.of(&id, cluster, job);
                source.judge(&window, |piece| counters.count(piece.verdict, piece.count, piece.cells_lost));
                source.counted_ms = end;
            }
            silent.extend(silent_here.into_iter().map(|(cluster, count)| ((id.clone(), cluster), count)));
            intervals
                .extend(shortest.into_iter().map(|(cluster, interval)| ((id.clone(), cluster), interval)));
        }
        self.agents.set_intervals(intervals);
        let mut clusters = self.agents.clusters(now_ms);
        // Nobody waits for their agents.
        clusters.retain(|cluster, up| *up || !retired.contains(cluster));
        self.metrics.clusters(clusters);
        self.metrics.silent(silent);
    }

    /// A row came after the counters had gone on.
    pub(crate) fn count_late(&self, source: SourceId, tenant: &TenantId, accounts: &Tenant) {
        if let Some(source) = accounts.inner.lock().by_id(source) {
            let (cluster, job) = report::place(source, &self.config.cluster_label);
            self.metrics.of(tenant, cluster, job).late.inc();
        }
    }
}
