//! Who makes how many series.
//!
//! A series belongs to the source that resolved it first (after a restart: to the source of its first
//! row). Budgets shed only the excess: a source or job at its limit keeps all series it has, and
//! what would be new is refused.

use std::collections::HashMap;

use model::Labels;

use super::index::Index;
use super::{Lanes, NOWHERE};

/// The label whose values share a budget.
const JOB_LABEL: &str = "job";
/// Jobs whose refusals are counted by name; those of further ones only in all.
const JOBS_COUNTED_MAX: usize = 10_000;

/// How many series each may have in the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeriesLimits {
    /// A source: a scrape target; for pushes, a job and instance. `None` for no limit.
    pub per_source: Option<usize>,
    /// All series with the same label `job`. `None` for no limit.
    pub per_job: Option<usize>,
}

/// Which limit refuses a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Over {
    Tenant,
    Source,
    Job,
}

impl Over {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Over::Tenant => "tenant",
            Over::Source => "source",
            Over::Job => "job",
        }
    }
}

/// What is left of the budgets while one source makes series.
#[derive(Debug)]
pub(crate) struct Room {
    limits: SeriesLimits,
    tenant: usize,
    source: usize,
    jobs: HashMap<String, usize>,
}

impl Room {
    /// What `source` may still make of a tenant's `series_max`.
    pub(crate) fn of(
        limits: SeriesLimits,
        series_max: usize,
        index: &Index,
        lanes: &Lanes,
        source: u32,
    ) -> Room {
        let has = lanes.sources.get(source as usize).map_or(0, |source| source.series as usize);
        Room {
            limits,
            tenant: series_max.saturating_sub(index.len()),
            source: limits.per_source.map_or(usize::MAX, |max| max.saturating_sub(has)),
            jobs: HashMap::new(),
        }
    }

    /// Takes the room of a new series of these labels.
    pub(crate) fn take(&mut self, labels: &Labels, index: &Index) -> Result<(), Over> {
        if self.tenant == 0 {
            return Err(Over::Tenant);
        }
        if self.source == 0 {
            return Err(Over::Source);
        }
        if let Some(max) = self.limits.per_job
            && let Some(job) = labels.get(JOB_LABEL)
        {
            if !self.jobs.contains_key(job) {
                let left = max.saturating_sub(index.count(JOB_LABEL, job) as usize);
                self.jobs.insert(job.to_owned(), left);
            }
            match self.jobs.get_mut(job) {
                Some(0) => return Err(Over::Job),
                Some(left) => *left -= 1,
                None => {}
            }
        }
        self.tenant -= 1;
        self.source = self.source.saturating_sub(1);
        Ok(())
    }
}

/// Series that were refused, by who wanted them.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) by_job: HashMap<String, u64>,
}

impl Refusals {
    fn count(&mut self, job: &str) {
        if let Some(count) = self.by_job.get_mut(job) {
            *count += 1;
        } else if self.by_job.len() < JOBS_COUNTED_MAX {
            self.by_job.insert(job.to_owned(), 1);
        }
    }
}

impl Lanes {
    /// Notes whose series this is, if nobody's yet.
    pub(crate) fn own(&mut self, slot: u32, source: u32) {
        let (Some(home), Some(owner)) =
            (self.homes.get_mut(slot as usize), self.sources.get_mut(source as usize))
        else {
            return;
        };
        if home.owner == NOWHERE {
            home.owner = source;
            owner.series += 1;
        }
    }

    /// Takes a series that goes from its owner.
    pub(super) fn disown(&mut self, slot: u32) {
        let owner = self.homes.get(slot as usize).map_or(NOWHERE, |home| home.owner);
        if let Some(owner) = self.sources.get_mut(owner as usize) {
            owner.series = owner.series.saturating_sub(1);
        }
    }

    /// Counts a series that `source` wanted and did not get.
    pub(crate) fn count_refused(&mut self, source: u32, labels: &Labels) {
        if let Some(source) = self.sources.get_mut(source as usize) {
            source.refused += 1;
        }
        if let Some(job) = labels.get(JOB_LABEL) {
            self.refusals.count(job);
        }
    }
}

/// A source and its series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceUsage {
    /// The labels its series share.
    pub labels: Labels,
    /// Series it has in the head.
    pub series: u64,
    /// New series refused since the start, at whatever limit; a series that is tried again counts again.
    pub refused: u64,
}

/// A job and its series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUsage {
    /// The value of the label `job`.
    pub job: String,
    /// Series with it in the head.
    pub series: u64,
    /// New series refused since the start, at whatever limit; a series that is tried again counts again.
    pub refused: u64,
}

/// Who makes how many series: those that were refused most come first, then those that have most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeriesUsage {
    /// What is allowed.
    pub limits: SeriesLimits,
    /// What the tenant may have in all.
    pub series_max: u64,
    /// What it has.
    pub series: u64,
    /// The first sources.
    pub sources: Vec<SourceUsage>,
    /// The first jobs.
    pub jobs: Vec<JobUsage>,
}

impl SeriesUsage {
    /// Reads a head; lists are cut at `top`.
    pub(crate) fn of(index: &Index, lanes: &Lanes, top: usize) -> SeriesUsage {
        let mut sources: Vec<_> =
            lanes.sources.iter().filter(|source| source.series > 0 || source.refused > 0).collect();
        sources.sort_by_key(|source| std::cmp::Reverse((source.refused, source.series)));
        let sources = sources.iter().take(top).map(|source| SourceUsage {
            labels: source.labels.clone(),
            series: u64::from(source.series),
            refused: source.refused,
        });
        let mut names = Vec::new();
        index.label_values(JOB_LABEL, None, &mut names);
        names.extend(lanes.refusals.by_job.keys().cloned());
        names.sort_unstable();
        names.dedup();
        let usage = |job: String| JobUsage {
            series: index.count(JOB_LABEL, &job),
            refused: lanes.refusals.by_job.get(&job).copied().unwrap_or(0),
            job,
        };
        let mut jobs: Vec<JobUsage> = names.into_iter().map(usage).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse((job.refused, job.series)));
        jobs.truncate(top);
        let series = index.len() as u64;
        SeriesUsage { series, sources: sources.collect(), jobs, ..SeriesUsage::default() }
    }
}
