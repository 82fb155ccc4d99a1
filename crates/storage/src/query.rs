//! The reading half of the contract: columns that share their time columns.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use model::{Exemplar, Histogram, Labels, Matcher, Metadata, TenantId};

use crate::QueryError;

/// What a selector needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// Whose data.
    pub tenant: TenantId,
    /// First timestamp wanted, inclusive, milliseconds.
    pub start_ms: i64,
    /// Last timestamp wanted, inclusive, milliseconds.
    pub end_ms: i64,
    /// Conditions; all must hold.
    pub matchers: Vec<Matcher>,
}

/// The samples of one series within the selected time.
///
/// Columns of one source normally share `times` (the same `Arc`), so whatever is computed from
/// times alone, such as window boundaries, is computed once for all of them.
#[derive(Debug, Clone)]
pub struct Column {
    /// Timestamps of the float samples, ascending, unique, milliseconds.
    pub times: Arc<[i64]>,
    /// Float values, as long as `times`; staleness markers included.
    pub values: Vec<f64>,
    /// Histogram samples, ascending by time, no time also in `times`.
    pub histograms: Vec<(i64, Arc<Histogram>)>,
    /// Start timestamps of the float samples, as long as `times`, 0 where unknown; `None` when all
    /// are unknown.
    pub start_times: Option<Arc<[i64]>>,
    /// Start timestamps of the histograms, as long as `histograms`, 0 where unknown; `None` when all are
    /// unknown.
    pub histogram_starts: Option<Arc<[i64]>>,
}

impl Default for Column {
    fn default() -> Self {
        Column {
            times: Arc::from([]),
            values: Vec::new(),
            histograms: Vec::new(),
            start_times: None,
            histogram_starts: None,
        }
    }
}

impl Column {
    /// Whether there are no samples at all.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty() && self.histograms.is_empty()
    }
}

/// The series of a selection: labels at once, samples on demand and in parallel.
///
/// Pins one snapshot of the store: every `load` sees the same samples. Sorted by labels. A series
/// whose samples all lie outside the selected time may be listed; its column is then empty.
pub trait SeriesSet: Send + Sync + fmt::Debug {
    /// How many series.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels of series `at`.
    fn labels(&self, at: usize) -> &Labels;

    /// Appends the columns of `range` to `out`, in order. Ranges of neighbours are cheapest.
    ///
    /// What is damaged on a disk is left out, and told by [`warnings`](Self::warnings) from then on.
    ///
    /// # Errors
    /// [`QueryError::Corrupt`] when nothing sensible can be answered.
    fn load(&self, range: Range<usize>, out: &mut Vec<Column>) -> Result<(), QueryError>;

    /// What the user should know about the selection (unreadable pages, incomplete sources). Loading may
    /// add to it: whoever shows an answer asks again after the last [`load`](Self::load).
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What a look-up has found, with what the user should know about it.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    /// Sorted, unique.
    pub values: Vec<T>,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// Label names or values.
pub type ListedLabels = Listed<String>;

/// Metadata by metric name, sorted by it; each with every distinct statement.
pub type ListedMetadata = Listed<(String, Vec<Metadata>)>;

/// Exemplars by series, sorted by it.
pub type ListedExemplars = Listed<SeriesExemplars>;

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed { values: Vec::new(), warnings: Vec::new() }
    }
}

impl<T> From<Vec<T>> for Listed<T> {
    /// Without warnings.
    fn from(values: Vec<T>) -> Self {
        Listed { values, warnings: Vec::new() }
    }
}

/// The exemplars of one series.
#[derive(Debug, Clone)]
pub struct SeriesExemplars {
    /// The series.
    pub series: Labels,
    /// Its exemplars, ascending by time, each once; never empty.
    pub exemplars: Vec<Exemplar>,
}

/// Sorts what a store has found into what [`Queryable::exemplars_of`] gives.
pub fn exemplars_by_series(found: impl IntoIterator<Item = (Labels, Exemplar)>) -> Vec<SeriesExemplars> {
    let mut by_series: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
    for (series, exemplar) in found {
        by_series.entry(series).or_default().push(exemplar);
    }
    let ordered = |(series, mut exemplars): (Labels, Vec<Exemplar>)| {
        let bits = |exemplar: &Exemplar| exemplar.value.to_bits();
        exemplars.sort_by(|a, b| {
            let by_value = || a.value.total_cmp(&b.value).then_with(|| a.labels.cmp(&b.labels));
            a.timestamp_ms.cmp(&b.timestamp_ms).then_with(by_value)
        });
        exemplars
            .dedup_by(|a, b| (a.timestamp_ms, bits(a), &a.labels) == (b.timestamp_ms, bits(b), &b.labels));
        SeriesExemplars { series, exemplars }
    };
    by_series.into_iter().map(ordered).collect()
}

/// What to do where part of the data cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// Answer with the rest, and warn.
    #[default]
    Warn,
    /// Fail where somebody who may have data does not answer; warn where data are older than what is kept.
    FailUnanswered,
    /// Fail ([`QueryError::Incomplete`]).
    Fail,
}

/// What one request wants of a store that has to ask others.
#[derive(Clone, Default)]
pub struct Request {
    /// What to do where part of the data cannot be had.
    pub missing: Missing,
    /// The time there is for all of it; the store's own bounds where none is given.
    pub time_left: Option<Duration>,
    /// Tells that nobody waits for the answer any more.
    pub gone: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    /// How many samples all of it may hold at once; as many as there is memory for where none is given.
    pub samples_max: Option<u64>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Request");
        shown.field("missing", &self.missing).field("time_left", &self.time_left).finish_non_exhaustive()
    }
}

/// A store that answers.
pub trait Queryable: Send + Sync {
    /// The store for one request with all its selections, where it makes a difference: a store that asks
    /// others bounds what a request takes as a whole.
    fn for_request(&self, _request: &Request) -> Option<Arc<dyn Queryable>> {
        None
    }

    /// Whether an answer to `tenant` may have to wait for others; one that does not takes what there is at hand.
    fn asks_others(&self, _tenant: &TenantId) -> bool {
        false
    }

    /// Tells what this request is going to select ([`select`](Self::select)), in about that order, a selection
    /// as often as it will be made. A hint: a store that asks others asks for all of it now, and others need
    /// not look.
    fn expect(&self, _selections: &dyn Fn() -> Vec<Select>) {}

    /// The series that match, with samples in the selected time.
    ///
    /// # Errors
    /// See [`QueryError`].
    fn select(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError>;

    /// The series that match, for their labels alone: loading samples of them may give none. A store that
    /// finds labels cheaper than samples says so here.
    ///
    /// # Errors
    /// See [`QueryError`].
    fn series(&self, select: &Select) -> Result<Box<dyn SeriesSet>, QueryError> {
        self.select(select)
    }

    /// The label names of the series that match (of all, with no matchers).
    ///
    /// # Errors
    /// See [`QueryError`].
    fn label_names(&self, select: &Select) -> Result<ListedLabels, QueryError>;

    /// The values that label `name` has in the series that match (in all, with no matchers).
    ///
    /// # Errors
    /// See [`QueryError`].
    fn label_values(&self, name: &str, select: &Select) -> Result<ListedLabels, QueryError>;

    /// Metadata of `metric`, or of all.
    ///
    /// # Errors
    /// See [`QueryError`].
    fn metadata(&self, tenant: &TenantId, metric: Option<&str>) -> Result<ListedMetadata, QueryError>;

    /// The exemplars from `start_ms` to `end_ms`, both included, of the series that satisfy all of one
    /// of the lists of `matchers`. Stores keep the latest ones only, or, as here, none.
    ///
    /// # Errors
    /// See [`QueryError`].
    fn exemplars_of(
        &self,
        _tenant: &TenantId,
        _start_ms: i64,
        _end_ms: i64,
        _matchers: &[Vec<Matcher>],
    ) -> Result<ListedExemplars, QueryError> {
        Ok(Listed::default())
    }
}
