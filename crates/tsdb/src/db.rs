//! The store as its users see it.
//!
//! - `open`: the directory, its lock and its version, and how the log brings the head back;
//! - `append`: batches into log and head;
//! - `query`: head and parts as one;
//! - `refused`: tenants whose manifest cannot be read;
//! - `flush`: the head into parts, and the log cut behind it;
//! - `spill`: late samples into parts, within their budget;
//! - `outputs`: the parts that these two write;
//! - `compact`: parts into larger ones, retention, deletions made true;
//! - `delete`: deletions;
//! - `offline`: parts, times and imports, for tools;
//! - `snapshot`: a copy at one moment;
//! - `stats`: figures for the status page.

mod append;
mod compact;
mod delete;
mod flush;
mod offline;
pub(crate) mod open;
mod outputs;
mod problems;
mod query;
mod recover;
mod refused;
mod snapshot;
mod spill;
mod stats;
mod taken;
mod tenant;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use model::TenantId;
use parking_lot::{Condvar, Mutex, RwLock};
use prometheus_client::registry::Registry;

pub use self::compact::CompactError;
pub use self::flush::FlushError;
pub use self::offline::Import;
pub use self::open::OpenError;
pub use self::query::StoredExemplar;
pub use self::snapshot::{SnapshotError, SnapshotInfo};
pub use self::stats::{HeadStats, LabelCount, PartStats, Stats};
use self::taken::Taken;
pub(crate) use self::tenant::Tenant;
use crate::config::{Config, SyncPolicy};
use crate::head::budget::SeriesLimits;
use crate::metrics::Metrics;
use crate::wal::record::encode_checkpoint;
use crate::wal::writer::{Health, Wal};

/// Blocks taken are remembered for this much longer than retention, milliseconds: samples may come from
/// clocks that are ahead.
const TAKEN_SLACK_MS: i64 = 24 * 3600 * 1000;

/// An open store. Dropping it closes it, like [`Db::close`] without hearing of failures.
#[derive(Debug)]
pub struct Db {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A store that does not take writes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// The failure.
    pub reason: String,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) wal: Wal,
    pub(crate) tenants: RwLock<BTreeMap<TenantId, Arc<Tenant>>>,
    /// Those whose manifest cannot be read.
    refused: RwLock<BTreeMap<TenantId, Arc<refused::Refused>>>,
    /// Segments that waited for tenants that are open again: the next flush removes them.
    replayed_waiting: Mutex<Vec<std::path::PathBuf>>,
    /// By reference: whose, and its number in the tenant's head.
    sources: RwLock<Sources>,
    /// The next series' generation; 0 is nobody's.
    next_generation: AtomicU32,
    taken: Mutex<Taken>,
    /// What sources and jobs may have.
    pub(crate) limits: RwLock<SeriesLimits>,
    /// Names parts.
    random: Mutex<Random>,
    /// One flush, spill or deletion at a time.
    work: Mutex<()>,
    /// One compaction at a time. Whoever takes `work` as well takes it after this.
    merging: Mutex<()>,
    /// Whether a flush has left something to merge.
    merge_due: AtomicBool,
    problems: Arc<problems::Problems>,
    /// Estimated memory of all tenants' late samples, bytes.
    late_bytes: AtomicUsize,
    /// Whether late samples should be written to parts now.
    spill_wanted: AtomicBool,
    stop: Mutex<bool>,
    stopped: Condvar,
    /// Held locked while the store is open.
    _lock: Option<File>,
}

/// Random numbers for names: unpredictable is not asked for, different in every process is.
#[derive(Debug)]
struct Random(u128);

impl Random {
    fn seeded() -> Random {
        use std::hash::{BuildHasher, Hasher, RandomState};
        let seed = || u128::from(RandomState::new().build_hasher().finish());
        Random(seed() << 64 | seed())
    }

    fn next(&mut self) -> u128 {
        self.0 = self.0.wrapping_add(1);
        xxhash_rust::xxh3::xxh3_128(&self.0.to_le_bytes())
    }
}

/// Which source is meant by a reference.
#[derive(Debug, Default)]
struct Sources {
    next: u64,
    tenants: Vec<Arc<Tenant>>,
    /// Numbers of the tenant, here, and of the source among its own; who pushes has one for each series.
    by_reference: HashMap<u64, (u32, u32), foldhash::fast::RandomState>,
}

impl Sources {
    fn get(&self, reference: u64) -> Option<(&Arc<Tenant>, u32)> {
        let (tenant, number) = self.by_reference.get(&reference)?;
        Some((&self.tenants[*tenant as usize], *number))
    }

    fn insert(&mut self, reference: u64, tenant: &Arc<Tenant>, number: u32) {
        let known = self.tenants.iter().rposition(|known| Arc::ptr_eq(known, tenant));
        let tenant = known.unwrap_or_else(|| {
            self.tenants.push(Arc::clone(tenant));
            self.tenants.len() - 1
        });
        self.by_reference.insert(reference, (tenant as u32, number));
    }
}

impl Db {
    /// Opens the store in `config.dir`, bringing back everything that was acknowledged. Damage is
    /// reported by [`Db::problems`] and costs no more than it hit; a disk that cannot be written gives
    /// a store that answers and refuses writes, see [`Db::readiness`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: Config) -> Result<Db, OpenError> {
        let inner = Arc::new(open::open(config)?);
        let db = Db { inner, threads: Mutex::default() };
        if db.inner.config.background {
            db.start_threads().map_err(|source| OpenError::Io { attempt: "start threads".into(), source })?;
        }
        Ok(db)
    }

    fn start_threads(&self) -> std::io::Result<()> {
        let mut threads = self.threads.lock();
        let interval = match self.inner.config.sync {
            SyncPolicy::Always => Some(Duration::ZERO),
            SyncPolicy::Every(interval) => Some(interval),
            SyncPolicy::Off => None,
        };
        if let Some(interval) = interval {
            let inner = self.inner.clone();
            threads.push(
                std::thread::Builder::new()
                    .name("tsdb-commit".into())
                    .spawn(move || inner.wal.run_commits(interval))?,
            );
        }
        let inner = self.inner.clone();
        threads.push(
            std::thread::Builder::new().name("tsdb-flush".into()).spawn(move || inner.run_maintenance())?,
        );
        let inner = self.inner.clone();
        threads
            .push(std::thread::Builder::new().name("tsdb-merge".into()).spawn(move || inner.run_merges())?);
        Ok(())
    }

    /// Whether writes are taken; if not, why.
    ///
    /// # Errors
    /// [`NotReady`] with the failure that made the store read-only.
    pub fn readiness(&self) -> Result<(), NotReady> {
        self.inner.health.reason().map_or(Ok(()), |reason| Err(NotReady { reason }))
    }

    /// What could not be read, when the store was opened and since: file, place and reason, one message
    /// each.
    pub fn problems(&self) -> Vec<String> {
        self.inner.problems.listed()
    }

    /// Puts the store's own figures into `registry`, as `marigraph_tsdb_*`.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.inner.metrics.register(registry);
        self.inner.update_gauges();
    }

    /// Forces everything appended so far to the device.
    ///
    /// # Errors
    /// [`storage::StoreError::ReadOnly`] when the device refuses; it stays so until restart.
    pub fn sync(&self) -> Result<(), storage::StoreError> {
        self.inner.wal.sync()
    }

    /// The tenants that have data, sorted.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.inner.tenants.read().keys().cloned().collect()
    }

    /// Stops all threads and forces the log to the device. Later appends are refused.
    ///
    /// # Errors
    /// [`storage::StoreError::ReadOnly`] when the last sync failed: samples of the last moments may
    /// not survive a power cut.
    pub fn close(&self) -> Result<(), storage::StoreError> {
        *self.inner.stop.lock() = true;
        self.inner.stopped.notify_all();
        self.inner.wal.stop_commits();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        let synced = self.inner.wal.sync();
        self.inner.wal.close();
        synced
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the store");
        }
    }
}

impl Inner {
    /// The tenant, made when it is new.
    pub(crate) fn tenant(&self, id: &TenantId) -> Result<Arc<Tenant>, crate::manifest::ManifestError> {
        if let Some(tenant) = self.tenants.read().get(id) {
            return Ok(tenant.clone());
        }
        self.check_refused(id)?;
        let mut tenants = self.tenants.write();
        if let Some(tenant) = tenants.get(id) {
            return Ok(tenant.clone());
        }
        let ours = self.health.reason().is_none().then_some(0);
        let tenant = Arc::new(Tenant::open(&self.config, id, ours, &mut Vec::new())?);
        tenants.insert(id.clone(), tenant.clone());
        Ok(tenant)
    }

    pub(crate) fn all_tenants(&self) -> Vec<Arc<Tenant>> {
        self.tenants.read().values().cloned().collect()
    }

    /// Ends the log segment and starts the next. Its number and first position.
    pub(crate) fn roll(&self) -> Result<(u64, u64), storage::StoreError> {
        self.wal.roll(|failed| self.checkpoint(failed))
    }

    /// The blocks taken, but for those whose records the log has refused.
    fn checkpoint(&self, failed: &dyn Fn(u64) -> bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut taken = self.taken.lock();
        if self.config.retention.is_some() {
            let before_ms = self.retention_start_ms().saturating_sub(TAKEN_SLACK_MS);
            taken.forget_unused(before_ms, self.config.clock.now_ms());
        }
        encode_checkpoint(&taken.blocks(failed), &mut bytes);
        bytes
    }

    pub(crate) fn report(&self, problem: String) {
        self.problems.report(problem);
    }

    /// Samples before this are refused and dropped.
    pub(crate) fn retention_start_ms(&self) -> i64 {
        let Some(retention) = self.config.retention else { return i64::MIN };
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        self.config.clock.now_ms().saturating_sub(retention_ms)
    }

    pub(crate) fn head_bytes(&self) -> usize {
        self.all_tenants().iter().map(|tenant| tenant.lanes.read().bytes()).sum()
    }

    pub(crate) fn update_gauges(&self) {
        let tenants = self.all_tenants();
        let series: usize = tenants.iter().map(|tenant| tenant.index.read().len()).sum();
        let versions: Vec<_> = tenants.iter().map(|tenant| tenant.version.load()).collect();
        let parts = versions.iter().flat_map(|version| &version.parts);
        let (count, bytes) = parts.fold((0, 0), |(n, bytes), entry| (n + 1, bytes + entry.part.info().bytes));
        self.metrics.head_series.set(series as i64);
        self.metrics.head_bytes.set(self.head_bytes() as i64);
        self.metrics.late_bytes.set(self.late_bytes.load(Ordering::Relaxed) as i64);
        self.metrics.wal_bytes.set(self.wal.bytes() as i64);
        self.metrics.parts.set(count);
        self.metrics.parts_bytes.set(bytes as i64);
    }

    /// The merge thread: after each flush merges parts and drops what has outlived retention.
    fn run_merges(&self) {
        loop {
            {
                let mut stop = self.stop.lock();
                while !*stop && !self.merge_due.swap(false, Ordering::Relaxed) {
                    let _ = self.stopped.wait_for(&mut stop, Duration::from_secs(5));
                }
                if *stop {
                    return;
                }
            }
            self.compact_and_log();
            self.update_gauges();
        }
    }

    /// The maintenance thread: flushes on time or under memory pressure, and spills late samples as soon
    /// as they are too many.
    fn run_maintenance(&self) {
        let mut last_flush = std::time::Instant::now();
        let mut spilled_well = true;
        loop {
            {
                let mut stop = self.stop.lock();
                // After a failure every refused batch would ask for another try.
                let wanted = spilled_well && self.spill_wanted.load(Ordering::Relaxed);
                if !(*stop || wanted) {
                    let _ = self.stopped.wait_for(&mut stop, Duration::from_secs(5));
                }
                if *stop {
                    return;
                }
            }
            spilled_well = self.spill_and_log();
            self.update_gauges();
            let due = last_flush.elapsed() >= self.config.flush_interval;
            if due || self.head_bytes() > self.config.head_bytes_max {
                last_flush = std::time::Instant::now();
                self.flush_and_log();
                self.merge_due.store(true, Ordering::Relaxed);
                self.stopped.notify_all();
                self.update_gauges();
            }
        }
    }
}
