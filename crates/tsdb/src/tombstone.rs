//! Deletions: what was asked to go, applied at read and made true at merge.

use std::ops::Range;

use model::{Labels, Matcher};
use storage::Column;

use crate::merge::TimeConcatCache;

/// A deletion of samples: all series that match, within a time range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// Conditions on the series; all must hold.
    pub matchers: Vec<Matcher>,
    /// First deleted timestamp, inclusive, milliseconds.
    pub start_ms: i64,
    /// Last deleted timestamp, inclusive, milliseconds.
    pub end_ms: i64,
    /// Where the log stood when the deletion was asked for. It applies to places whose first log
    /// position is not above this: what was written later stays.
    pub position: u64,
}

impl Tombstone {
    /// Whether the series `labels` is meant.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matchers.iter().all(|m| m.matches(labels.get(&m.name).unwrap_or_default()))
    }
}

/// Deleted times of one series: inclusive, ascending, apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleted(Vec<(i64, i64)>);

impl Deleted {
    /// Adds a range, inclusive at both ends; one that ends before it starts adds nothing.
    pub fn add(&mut self, start_ms: i64, end_ms: i64) {
        if start_ms > end_ms {
            return;
        }
        let (mut start, mut end) = (start_ms, end_ms);
        self.0.retain(|&(s, e)| {
            let apart = e < start.saturating_sub(1) || s > end.saturating_add(1);
            if !apart {
                (start, end) = (start.min(s), end.max(e));
            }
            apart
        });
        let at = self.0.partition_point(|&(s, _)| s < start);
        self.0.insert(at, (start, end));
    }

    /// Whether nothing is deleted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, inclusive, ascending, apart.
    pub fn ranges(&self) -> &[(i64, i64)] {
        &self.0
    }

    fn covers(&self, time: i64) -> bool {
        let at = self.0.partition_point(|&(_, end)| end < time);
        self.0.get(at).is_some_and(|&(start, _)| start <= time)
    }

    /// Removes the deleted samples from `column`. Columns that share their times before share them
    /// after (through `cache`); a column that loses nothing keeps its `Arc`.
    pub fn apply(&self, column: &mut Column, cache: &mut TimeConcatCache) {
        if self.0.is_empty() {
            return;
        }
        column.histograms.retain(|(time, _)| !self.covers(*time));
        keep_rows(column, &self.kept(&column.times), cache);
    }

    /// The rows of `times` outside all ranges.
    fn kept(&self, times: &[i64]) -> Vec<Range<usize>> {
        let mut keep = Vec::with_capacity(self.0.len() + 1);
        let mut from = 0;
        for &(start, end) in &self.0 {
            let cut = times.partition_point(|&t| t < start);
            if cut > from {
                keep.push(from..cut);
            }
            from = from.max(times.partition_point(|&t| t <= end));
        }
        if from < times.len() {
            keep.push(from..times.len());
        }
        keep
    }
}

/// Keeps only the float rows `keep` (ascending, apart) of `column`.
pub(crate) fn keep_rows(column: &mut Column, keep: &[Range<usize>], cache: &mut TimeConcatCache) {
    if matches!(keep, [all] if *all == (0..column.times.len())) {
        return;
    }
    let some = keep.iter().any(|range| !range.is_empty());
    column.start_times = column.start_times.take().filter(|_| some).map(|starts| cache.cut(&starts, keep));
    column.times = cache.cut(&column.times, keep);
    let mut len = 0;
    for range in keep {
        column.values.copy_within(range.clone(), len);
        len += range.len();
    }
    column.values.truncate(len);
}

/// Keeps only the samples of `column` from `start_ms` to `end_ms`, both inclusive; times stay shared
/// through `cache`.
pub fn clip(column: &mut Column, start_ms: i64, end_ms: i64, cache: &mut TimeConcatCache) {
    let from = column.times.partition_point(|&t| t < start_ms);
    let to = column.times.partition_point(|&t| t <= end_ms).max(from);
    keep_rows(column, std::slice::from_ref(&(from..to)), cache);
    column.histograms.retain(|(time, _)| (start_ms..=end_ms).contains(time));
}
