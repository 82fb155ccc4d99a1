//! Parts into larger ones, retention, deletions made true.
//!
//! Flushes leave parts of at most two hours (level 0). When two hours are over, their parts become one
//! (level 1), and when a day is over, its parts do (level 2). A late part that spans days is split at
//! them first. A merge never crosses the boundary of the larger unit, so that retention can drop whole
//! parts.
//!
//! What is too little for that, samples here and there over many days, stays in parts that span these
//! days: they are merged by size, so that a trickle of late samples does not leave a part for each flush,
//! and rewritten when much of what they span has outlived retention.
//!
//! Flushes, spills and deletions go on meanwhile. What they add is not part of a merge under way: new parts
//! come later in the log than all that is being merged, and a new deletion concerns the merged part as it
//! concerned its inputs.
//!
//! Before a part with deletions in it is merged with others it is rewritten alone: merged, old samples
//! that are deleted and new ones that are not could no longer be told apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use storage::StoreError;
use ulid::Ulid;

use super::flush::SPAN_MS;
use super::{Db, Inner, Tenant};
use crate::filenames;
use crate::manifest::{Edit, ManifestError};
use crate::merge::{MergeOptions, merge};
use crate::part::{Part, PartError, file_name};
use crate::tombstone::Tombstone;
use crate::version::{PartEntry, Version};

const DAY_MS: i64 = 24 * 3600 * 1000;
/// A span is merged when it has been over for this long: stragglers come within minutes.
const SETTLE_MS: i64 = 10 * 60 * 1000;
/// A part over several days is only split when it has this many samples for each; with fewer it is sparse.
const SPLIT_SAMPLES_A_DAY: u64 = 1000;
/// A part is split into at most this many at a time.
const SPLIT_MAX: i64 = 62;
/// So many sparse parts of about the same size become one...
const SPARSE_MIN: usize = 4;
/// ...or up to so many at a time.
const SPARSE_MAX: usize = 32;
/// A finished day is only merged again with late parts when there are this many, or they are a
/// quarter of it.
const LATE_PARTS_MAX: usize = 6;

/// A merge that failed; its inputs stay, and it is tried again later.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The data directory is read-only.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part could not be read or written.
    #[error("merge parts of tenant {tenant}: {source}")]
    Part {
        /// Whose.
        tenant: String,
        /// The cause.
        source: PartError,
    },
    /// The manifest could not be written.
    #[error("merge parts of tenant {tenant}: {source}")]
    Manifest {
        /// Whose.
        tenant: String,
        /// The cause.
        source: ManifestError,
    },
}

/// One merge.
#[derive(Debug)]
struct Job {
    inputs: Vec<Arc<PartEntry>>,
    level: u8,
    cuts_ms: Vec<i64>,
    tombstones: Vec<Tombstone>,
}

impl Db {
    /// Drops what retention no longer wants, and merges parts as far as they are due.
    ///
    /// # Errors
    /// The first failure; the other tenants are served all the same.
    pub fn compact(&self) -> Result<(), CompactError> {
        self.inner.compact()
    }

    /// Makes deletions true: rewrites the parts that have deleted samples.
    ///
    /// # Errors
    /// The first failure; deletions stay in effect all the same.
    pub fn clean_tombstones(&self) -> Result<(), CompactError> {
        let _merging = self.inner.merging.lock();
        self.inner.health.check()?;
        self.inner.all_tenants().iter().try_for_each(|tenant| self.inner.clean(tenant))
    }
}

impl Inner {
    pub(super) fn compact_and_log(&self) {
        if self.health.reason().is_some() {
            return;
        }
        if let Err(error) = self.compact() {
            tracing::error!(%error, "compacting; it will be tried again");
        }
    }

    fn compact(&self) -> Result<(), CompactError> {
        let _merging = self.merging.lock();
        // A directory without a lock may be somebody else's, and a disk that failed to sync once is
        // not trusted with the only copy.
        self.health.check()?;
        let mut first_failure = None;
        for tenant in self.all_tenants() {
            let compacted = self.drop_outlived(&tenant).and_then(|()| self.compact_tenant(&tenant));
            let compacted = compacted.and_then(|()| self.forget_tombstones(&tenant));
            if let Err(error) = compacted {
                self.metrics.merge_failures.inc();
                first_failure.get_or_insert(error);
            }
        }
        if let Err(error) = self.drop_beyond_size() {
            first_failure.get_or_insert(error);
        }
        first_failure.map_or(Ok(()), Err)
    }

    fn compact_tenant(&self, tenant: &Tenant) -> Result<(), CompactError> {
        let now_ms = self.config.clock.now_ms();
        let mut first_failure = None;
        while !*self.stop.lock()
            && let Some(job) = next_job(&tenant.version.load(), now_ms, self.retention_start_ms())
        {
            if let Err(error) = self.run_or_set_aside(tenant, &job)? {
                first_failure.get_or_insert(error);
            }
            stdx::memory::give_back();
        }
        first_failure.map_or(Ok(()), Err)
    }

    /// Runs a job. If one of its inputs cannot be read, that part is set aside until restart, so that
    /// damage in one does not stop the others for ever: then gives the failure, and the next job comes
    /// without it.
    fn run_or_set_aside(&self, tenant: &Tenant, job: &Job) -> Result<Result<(), CompactError>, CompactError> {
        let Err(error) = self.run(tenant, job) else { return Ok(Ok(())) };
        let path = match &error {
            CompactError::Part { source, .. } => source.path(),
            CompactError::Store(_) | CompactError::Manifest { .. } => return Err(error),
        };
        let Some(entry) = job.inputs.iter().find(|entry| entry.part.path() == path) else {
            return Err(error);
        };
        entry.set_aside.store(true, Ordering::Relaxed);
        self.report(format!("{error}; the part is answered from as far as possible, and merged no more"));
        Ok(Err(error))
    }

    fn run(&self, tenant: &Tenant, job: &Job) -> Result<(), CompactError> {
        let in_part = |source| CompactError::Part { tenant: tenant.id.to_string(), source };
        let parts: Vec<Arc<Part>> = job.inputs.iter().map(|entry| entry.part.clone()).collect();
        let options = MergeOptions {
            level: job.level,
            cuts_ms: &job.cuts_ms,
            keep_from_ms: self.retention_start_ms(),
            tombstones: &job.tombstones,
        };
        let disk = &*self.config.disk;
        let infos =
            merge(disk, &tenant.parts_dir(), &parts, &options, &mut || self.new_id()).map_err(in_part)?;
        let cleaned = job.tombstones.iter().map(|tombstone| tombstone.position);
        let cleaned = cleaned.chain(job.inputs.iter().map(|entry| entry.cleaned)).max().unwrap_or(0);
        let mut entries = Vec::with_capacity(infos.len());
        for info in &infos {
            let path = filenames::part(&tenant.dir, &file_name(info.spec.id));
            entries
                .push(Arc::new(PartEntry::new(Arc::new(Part::open(disk, &path).map_err(in_part)?), cleaned)));
        }
        self.metrics.merges.inc();
        self.exchange(tenant, &job.inputs, entries)
    }

    /// Puts parts in the place of others: manifest, then version, then files.
    fn exchange(
        &self,
        tenant: &Tenant,
        gone: &[Arc<PartEntry>],
        fresh: Vec<Arc<PartEntry>>,
    ) -> Result<(), CompactError> {
        let id = |entry: &Arc<PartEntry>| entry.part.info().spec.id;
        let drop: Vec<Ulid> = gone.iter().map(id).collect();
        let add = fresh.iter().map(|entry| (id(entry), entry.cleaned)).collect();
        {
            let mut manifest = tenant.manifest.lock();
            manifest
                .edit(Edit::Parts { add, drop: drop.clone(), flushed: None, spilled: None })
                .map_err(|source| CompactError::Manifest { tenant: tenant.id.to_string(), source })?;
            let before = tenant.version.load();
            let kept = before.parts.iter().filter(|entry| !drop.contains(&id(entry))).cloned();
            tenant.version.store(before.with_parts(kept.chain(fresh).collect()));
        }
        // Queries that have pinned them keep reading: an open file outlives its name.
        for entry in gone {
            if let Err(error) = self.config.disk.remove_file(entry.part.path()) {
                tracing::warn!(path = %entry.part.path().display(), %error, "removing a part; the next start will");
            }
        }
        Ok(())
    }

    /// Drops parts that are wholly older than retention allows.
    fn drop_outlived(&self, tenant: &Tenant) -> Result<(), CompactError> {
        let oldest_ms = self.retention_start_ms();
        let version = tenant.version.load();
        let outlived: Vec<_> =
            version.parts.iter().filter(|entry| entry.part.info().max_ms < oldest_ms).cloned().collect();
        if outlived.is_empty() {
            return Ok(());
        }
        self.metrics.retention_dropped.inc_by(outlived.len() as u64);
        self.exchange(tenant, &outlived, Vec::new())
    }

    /// Drops the oldest parts of all tenants while all together are too large.
    fn drop_beyond_size(&self) -> Result<(), CompactError> {
        let Some(max) = self.config.retention_bytes else { return Ok(()) };
        let mut parts = Vec::new();
        for tenant in self.all_tenants() {
            let version = tenant.version.load();
            parts.extend(
                version.parts.iter().map(|entry| (entry.part.info().max_ms, tenant.clone(), entry.clone())),
            );
        }
        parts.sort_by_key(|(max_ms, _, _)| *max_ms);
        let mut bytes: u64 = parts.iter().map(|(_, _, entry)| entry.part.info().bytes).sum();
        for (_, tenant, entry) in parts {
            if bytes <= max {
                break;
            }
            bytes -= entry.part.info().bytes;
            self.metrics.retention_dropped.inc();
            self.exchange(&tenant, &[entry], Vec::new())?;
        }
        Ok(())
    }

    fn clean(&self, tenant: &Tenant) -> Result<(), CompactError> {
        let mut first_failure = None;
        loop {
            let version = tenant.version.load();
            let concerned = mergeable(&version).find_map(|entry| cleaning(&version, entry));
            let Some(job) = concerned else { break };
            if let Err(error) = self.run_or_set_aside(tenant, &job)? {
                first_failure.get_or_insert(error);
            }
        }
        self.forget_tombstones(tenant)?;
        first_failure.map_or(Ok(()), Err)
    }

    /// Forgets the deletions that concern no part any more.
    fn forget_tombstones(&self, tenant: &Tenant) -> Result<(), CompactError> {
        let mut manifest = tenant.manifest.lock();
        let version = tenant.version.load();
        if manifest.state().parts.len() != version.parts.len() {
            // What a part that cannot be opened has is not known.
            return Ok(());
        }
        let done = |t: &&Tombstone| !version.parts.iter().any(|entry| entry.is_concerned(t));
        let Some(last) = version.tombstones.iter().take_while(done).last() else { return Ok(()) };
        manifest
            .edit(Edit::Cleaned(last.position))
            .map_err(|source| CompactError::Manifest { tenant: tenant.id.to_string(), source })?;
        let mut version = (*version).clone();
        version.tombstones = manifest.state().tombstones.clone().into();
        tenant.version.store(version);
        Ok(())
    }
}

/// The parts that can be read, as far as is known.
fn mergeable(version: &Version) -> impl Iterator<Item = &Arc<PartEntry>> {
    version.parts.iter().filter(|entry| !entry.set_aside.load(Ordering::Relaxed))
}

/// The rewriting of a part that has deletions in it.
fn cleaning(version: &Version, entry: &Arc<PartEntry>) -> Option<Job> {
    let tombstones: Vec<Tombstone> =
        version.tombstones.iter().filter(|tombstone| entry.is_concerned(tombstone)).cloned().collect();
    let level = entry.part.info().spec.level;
    (!tombstones.is_empty()).then(|| Job {
        inputs: vec![entry.clone()],
        level,
        cuts_ms: Vec::new(),
        tombstones,
    })
}

/// What to merge next, if anything is due.
fn next_job(version: &Version, now_ms: i64, retention_start_ms: i64) -> Option<Job> {
    if let Some(job) = mergeable(version).find_map(splitting) {
        return Some(job);
    }
    let job = spans_due(version, now_ms)
        .or_else(|| day_due(version, now_ms))
        .or_else(|| sparse_due(version, now_ms))
        .or_else(|| mergeable(version).find_map(|entry| trimming(entry, retention_start_ms)))?;
    // Parts with deletions are rewritten alone first.
    let first = job.inputs.iter().find_map(|entry| cleaning(version, entry));
    Some(first.unwrap_or(job))
}

/// First and last day of a time range.
fn days_of(min_ms: i64, max_ms: i64) -> (i64, i64) {
    (min_ms.div_euclid(DAY_MS), max_ms.div_euclid(DAY_MS))
}

/// Whether so many samples over a time range are not worth a part for each day.
fn is_sparse(samples: u64, min_ms: i64, max_ms: i64) -> bool {
    let (first, last) = days_of(min_ms, max_ms);
    samples < (last.saturating_sub(first).max(0) as u64 + 1).saturating_mul(SPLIT_SAMPLES_A_DAY)
}

/// The splitting of a part that spans days, at those days; of one that spans very many, at some of them
/// for now.
fn splitting(entry: &Arc<PartEntry>) -> Option<Job> {
    let info = entry.part.info();
    let (first, last) = days_of(info.min_ms, info.max_ms);
    let days = last.checked_sub(first)?.checked_add(1)?;
    if days <= 1 || is_sparse(samples_of(entry), info.min_ms, info.max_ms) {
        return None;
    }
    let step = (days + SPLIT_MAX - 1) / SPLIT_MAX;
    let cuts_ms = (first + 1..=last).step_by(step as usize).map(|day| day * DAY_MS).collect();
    Some(Job { inputs: vec![entry.clone()], level: 0, cuts_ms, tombstones: Vec::new() })
}

fn samples_of(entry: &Arc<PartEntry>) -> u64 {
    entry.part.info().samples + entry.part.info().histograms
}

/// The rewriting of a part that spans days, when a quarter of its time has outlived retention: parts of a
/// day go as a whole.
fn trimming(entry: &Arc<PartEntry>, retention_start_ms: i64) -> Option<Job> {
    let info = entry.part.info();
    let (first, last) = days_of(info.min_ms, info.max_ms);
    let outlived = retention_start_ms.saturating_sub(info.min_ms);
    let due = first != last
        && info.max_ms >= retention_start_ms
        && outlived > DAY_MS
        && outlived >= info.max_ms.saturating_sub(info.min_ms) / 4;
    due.then(|| Job {
        inputs: vec![entry.clone()],
        level: info.spec.level,
        cuts_ms: Vec::new(),
        tombstones: Vec::new(),
    })
}

/// The merging of sparse parts of about the same size, near each other, into one that is still sparse: so a
/// merge never makes what a split would undo.
fn sparse_due(version: &Version, now_ms: i64) -> Option<Job> {
    let mut in_day: BTreeMap<i64, usize> = BTreeMap::new();
    for entry in &version.parts {
        let (first, last) = days_of(entry.part.info().min_ms, entry.part.info().max_ms);
        if first == last {
            *in_day.entry(first).or_default() += 1;
        }
    }
    let mut tiers: BTreeMap<(bool, u32), Vec<Arc<PartEntry>>> = BTreeMap::new();
    for entry in mergeable(version) {
        let info = entry.part.info();
        let (first, last) = days_of(info.min_ms, info.max_ms);
        // A part of one day waits until it is alone and nothing recent.
        let waits = first == last && (in_day.get(&first) != Some(&1) || !is_over(first + 1, DAY_MS, now_ms));
        if !waits && is_sparse(samples_of(entry), info.min_ms, info.max_ms) {
            let tier = samples_of(entry).max(1).ilog2() / 2;
            tiers.entry((info.spec.replace, tier)).or_default().push(entry.clone());
        }
    }
    tiers.into_iter().find_map(|((replace, _), mut entries)| {
        if replace {
            entries.sort_by_key(|entry| entry.part.info().rank());
        }
        let fits = |inputs: &[Arc<PartEntry>]| {
            let infos = || inputs.iter().map(|entry| entry.part.info());
            let samples = inputs.iter().map(samples_of).sum();
            let range = infos().map(|info| info.min_ms).min().zip(infos().map(|info| info.max_ms).max());
            range.is_some_and(|(min_ms, max_ms)| is_sparse(samples, min_ms, max_ms))
                && keeps_order(version, inputs)
        };
        (0..entries.len()).find_map(|from| {
            let rest = &entries[from..];
            let largest = rest.len().min(SPARSE_MAX);
            let taken = (SPARSE_MIN..=largest).rev().find(|taken| fits(&rest[..*taken]))?;
            let inputs = rest[..taken].to_vec();
            Some(Job { inputs, level: 0, cuts_ms: Vec::new(), tombstones: Vec::new() })
        })
    })
}

/// The parts of one unit of time, all of them within it. Replacements stay among themselves: merged with
/// other samples they would lend these their rank.
fn by_unit(version: &Version, unit_ms: i64) -> BTreeMap<(i64, bool), Vec<Arc<PartEntry>>> {
    let mut units: BTreeMap<(i64, bool), Vec<Arc<PartEntry>>> = BTreeMap::new();
    for entry in mergeable(version) {
        let info = entry.part.info();
        let unit = info.min_ms.div_euclid(unit_ms);
        if unit == info.max_ms.div_euclid(unit_ms) {
            units.entry((unit, info.spec.replace)).or_default().push(entry.clone());
        }
    }
    units
}

/// Whether no other part has replacements that came between those of `inputs` at the same times: merged,
/// the older ones would get the rank of the newest, and win over them.
fn keeps_order(version: &Version, inputs: &[Arc<PartEntry>]) -> bool {
    let infos = || inputs.iter().map(|entry| entry.part.info());
    let ranks = infos().map(|info| info.rank()).min().zip(infos().map(|info| info.rank()).max());
    let times = infos().map(|info| info.min_ms).min().zip(infos().map(|info| info.max_ms).max());
    let (Some((oldest, newest)), Some((first_ms, last_ms))) = (ranks, times) else { return true };
    !version.parts.iter().any(|entry| {
        let (info, rank) = (entry.part.info(), entry.part.info().rank());
        rank.replace
            && newest.replace
            && oldest < rank
            && rank < newest
            && info.overlaps(first_ms, last_ms)
            && !inputs.iter().any(|input| Arc::ptr_eq(input, entry))
    })
}

fn is_over(unit: i64, unit_ms: i64, now_ms: i64) -> bool {
    (unit + 1).saturating_mul(unit_ms).saturating_add(SETTLE_MS) <= now_ms
}

fn spans_due(version: &Version, now_ms: i64) -> Option<Job> {
    by_unit(version, SPAN_MS).into_iter().find_map(|((unit, _), entries)| {
        let inputs: Vec<_> = entries.into_iter().filter(|entry| entry.part.info().spec.level == 0).collect();
        let due = inputs.len() > 1 && is_over(unit, SPAN_MS, now_ms) && keeps_order(version, &inputs);
        due.then(|| Job { inputs, level: 1, cuts_ms: Vec::new(), tombstones: Vec::new() })
    })
}

fn day_due(version: &Version, now_ms: i64) -> Option<Job> {
    by_unit(version, DAY_MS).into_iter().find_map(|((unit, _), inputs)| {
        if inputs.len() < 2 || !is_over(unit, DAY_MS, now_ms) || !keeps_order(version, &inputs) {
            return None;
        }
        let bytes = |entry: &Arc<PartEntry>| entry.part.info().bytes;
        let finished: u64 =
            inputs.iter().filter(|e| e.part.info().spec.level >= 2).map(bytes).max().unwrap_or(0);
        let late = inputs.iter().map(bytes).sum::<u64>() - finished;
        let worth_it = finished == 0 || late * 4 >= finished || inputs.len() > LATE_PARTS_MAX;
        worth_it.then(|| Job { inputs, level: 2, cuts_ms: Vec::new(), tombstones: Vec::new() })
    })
}
