//! What the record lacks: the questions that APIs ask of whoever keeps account, and the mark on answers to
//! queries that touch a gap.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use model::{Labels, Matcher, TenantId};
use storage::{ListedExemplars, ListedLabels, ListedMetadata, QueryError, Queryable, Select, SeriesSet};

/// Infos about gaps on one answer, at most; further ones are counted.
const INFOS_MAX: usize = 5;

/// Who knows what was expected, what is stored, and what is missing. Methods may block.
pub trait Completeness: Send + Sync {
    /// Sums and gaps.
    fn report(&self, tenant: &TenantId, ask: &CompletenessAsk) -> CompletenessReport;

    /// Whether there are gaps at all; asked before every query, so it costs next to nothing.
    fn has_gaps(&self, tenant: &TenantId) -> bool;

    /// The gaps that one of the selections touches, by cluster, job and time.
    fn touched(&self, tenant: &TenantId, selections: &[Select]) -> Vec<IncompleteTime>;
}

/// What is asked of [`Completeness::report`].
#[derive(Debug, Clone, Default)]
pub struct CompletenessAsk {
    /// Only this cluster (empty: the hub's own sources).
    pub cluster: Option<String>,
    /// The clusters the caller may see; all when empty.
    pub clusters: Vec<String>,
    /// Only this job.
    pub job: Option<String>,
    /// Only the source of this identity, 32 hexadecimal digits.
    pub source: Option<u128>,
    /// The first tick that counts, milliseconds.
    pub start_ms: i64,
    /// Behind the last one.
    pub end_ms: i64,
    /// How finely sums are given.
    pub by: CompletenessBy,
    /// Gaps listed, at most.
    pub gaps_max: usize,
}

/// How finely sums are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CompletenessBy {
    /// One for each cluster.
    #[default]
    Cluster,
    /// One for each job of each cluster.
    Job,
    /// One for each source.
    Source,
}

/// Sums of rows and cells.
#[derive(Debug, Clone, Default)]
pub struct RowTally {
    /// Sources summed up.
    pub sources: u64,
    /// Rows that were due: the sum of stored, missing and unknown.
    pub expected: u64,
    /// Rows stored.
    pub stored: u64,
    /// Of these, rows with cells lost.
    pub partial: u64,
    /// Rows not stored, by reason.
    pub missing: Vec<(&'static str, u64)>,
    /// Rows of which nobody knows, by kind.
    pub unknown: Vec<(&'static str, u64)>,
    /// Cells stored.
    pub cells_stored: u64,
    /// Cells lost of stored rows.
    pub cells_lost: u64,
    /// Stored of expected; none when nothing was expected.
    pub percent: Option<f64>,
    /// The longest time between two rows, the interval it should have been, and its begin, milliseconds.
    pub worst: Option<(i64, i64, i64)>,
    /// The newest stored tick, milliseconds.
    pub newest_ms: Option<i64>,
    /// Sources of which nothing has been heard for two intervals although rows are due.
    pub silent_sources: u64,
}

/// A sum with what it is the sum of.
#[derive(Debug, Clone, Default)]
pub struct TallyOf {
    /// Of which cluster.
    pub cluster: String,
    /// Of which job, when asked by job or finer.
    pub job: Option<String>,
    /// Of which source, when asked by source.
    pub source: Option<(u128, Labels)>,
    /// The sum.
    pub tally: RowTally,
}

/// Ticks of a source in a row that are not stored whole.
#[derive(Debug, Clone)]
pub struct RowGap {
    /// Of which cluster.
    pub cluster: String,
    /// Of which job.
    pub job: String,
    /// Of which source.
    pub source: u128,
    /// Its labels.
    pub labels: Labels,
    /// First tick, milliseconds.
    pub from_ms: i64,
    /// Last tick.
    pub to_ms: i64,
    /// How many.
    pub rows: u64,
    /// Why.
    pub reason: &'static str,
}

/// What one job of one cluster has pushed.
#[derive(Debug, Clone)]
pub struct PushedTally {
    /// Of which cluster.
    pub cluster: String,
    /// Of which job.
    pub job: String,
    /// Rows received since the start of the program.
    pub received: u64,
    /// Rows stored of these.
    pub stored: u64,
    /// Cells refused.
    pub cells_refused: u64,
    /// When the last row came, milliseconds.
    pub silent_since_ms: i64,
}

/// An agent that has leave to send.
#[derive(Debug, Clone)]
pub struct FleetAgent {
    /// Of which cluster.
    pub cluster: String,
    /// Its name.
    pub agent: String,
    /// Whether it is not there.
    pub silent: bool,
    /// When it enrolled, milliseconds.
    pub enrolled_ms: Option<i64>,
    /// When it was last seen.
    pub seen_ms: Option<i64>,
}

/// The answer of [`Completeness::report`].
#[derive(Debug, Clone, Default)]
pub struct CompletenessReport {
    /// Everything asked for.
    pub total: RowTally,
    /// As fine as asked.
    pub groups: Vec<TallyOf>,
    /// By time.
    pub gaps: Vec<RowGap>,
    /// Gaps that are not listed.
    pub gaps_left_off: u64,
    /// Times of which the account itself has lost detail, milliseconds, both ends included.
    pub detail_lost: Vec<(i64, i64)>,
    /// What was pushed.
    pub pushed: Vec<PushedTally>,
    /// Agents, silent ones first.
    pub agents: Vec<FleetAgent>,
}

/// A time in which the record of a job has gaps.
#[derive(Debug, Clone)]
pub struct IncompleteTime {
    /// Of which cluster; empty for the hub's own sources.
    pub cluster: String,
    /// Of which job.
    pub job: String,
    /// First tick concerned, milliseconds.
    pub from_ms: i64,
    /// Last tick concerned.
    pub to_ms: i64,
    /// Rows concerned.
    pub rows: u64,
    /// Why most of them are not whole.
    pub reason: &'static str,
}

impl IncompleteTime {
    fn info(&self) -> String {
        let time = |ms| Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| t.to_string());
        let place = match self.cluster.as_str() {
            "" => format!("job {:?}", self.job),
            cluster => format!("cluster {cluster:?}, job {:?}", self.job),
        };
        let (from, to) = (time(self.from_ms), time(self.to_ms));
        let rows = if self.rows == 1 { "row" } else { "rows" };
        format!("incomplete data: {place}, {from} to {to}: {} {rows} {}", self.rows, self.reason)
    }
}

/// What an answer says of the gaps it touches: infos, and the value of the header.
pub(crate) fn marks(touched: &[IncompleteTime]) -> (Vec<String>, Option<String>) {
    if touched.is_empty() {
        return (Vec::new(), None);
    }
    let mut infos: Vec<String> = touched.iter().take(INFOS_MAX).map(IncompleteTime::info).collect();
    if touched.len() > INFOS_MAX {
        infos.push(format!(
            "incomplete data: {} more times, see /api/v1/completeness",
            touched.len() - INFOS_MAX
        ));
    }
    let rows: u64 = touched.iter().map(|one| one.rows).sum();
    let from = touched.iter().map(|one| one.from_ms).min().unwrap_or(0);
    let to = touched.iter().map(|one| one.to_ms).max().unwrap_or(0);
    let seconds = |ms: i64| ms as f64 / 1000.0;
    (infos, Some(format!("incomplete; rows={rows}; start={}; end={}", seconds(from), seconds(to))))
}

/// A store that notes what is selected from it.
pub(crate) struct Noting<'a> {
    store: &'a dyn Queryable,
    selected: Mutex<Vec<Select>>,
}

impl<'a> Noting<'a> {
    pub(crate) fn new(store: &'a dyn Queryable) -> Noting<'a> {
        Noting { store, selected: Mutex::default() }
    }

    pub(crate) fn selected(self) -> Vec<Select> {
        self.selected.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queryable for Noting<'_> {
    fn asks_others(&self, tenant: &TenantId) -> bool {
        self.store.asks_others(tenant)
    }

    fn expect(&self, selections: &dyn Fn() -> Vec<Select>) {
        self.store.expect(selections);
    }

    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.selected.lock().unwrap_or_else(PoisonError::into_inner).push(select.clone());
        self.store.select(select)
    }

    fn series(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.store.series(select)
    }

    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError> {
        self.store.label_names(select)
    }

    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError> {
        self.store.label_values(name, select)
    }

    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<ListedMetadata, QueryError> {
        self.store.metadata(tenant, metric)
    }

    fn exemplars_of(
        &self,
        tenant: &TenantId,
        start_ms: i64,
        end_ms: i64,
        matchers: &[Vec<Matcher>],
    ) -> Result<ListedExemplars, QueryError> {
        self.store.exemplars_of(tenant, start_ms, end_ms, matchers)
    }
}
