//! Deletions: what was asked to go, applied at read and made true at merge.

use std::ops::Range;
use std::sync::Arc;

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
        keep_histograms(column, |time| !self.covers(time));
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

/// Keeps only the histograms of `column` whose time `keep` wants.
pub(crate) fn keep_histograms(column: &mut Column, keep: impl Fn(i64) -> bool) {
    if column.histograms.iter().all(|(time, _)| keep(*time)) {
        return;
    }
    if let Some(starts) = column.histogram_starts.take() {
        let with_times = starts.iter().zip(&column.histograms);
        let kept: Arc<[i64]> =
            with_times.filter(|(_, (time, _))| keep(*time)).map(|(start, _)| *start).collect();
        column.histogram_starts = (!kept.is_empty()).then_some(kept);
    }
    column.histograms.retain(|(time, _)| keep(*time));
}

/// Keeps only the samples of `column` from `start_ms` to `end_ms`, both inclusive; times stay shared
/// through `cache`.
pub fn clip(column: &mut Column, start_ms: i64, end_ms: i64, cache: &mut TimeConcatCache) {
    let from = column.times.partition_point(|&t| t < start_ms);
    let to = column.times.partition_point(|&t| t <= end_ms).max(from);
    keep_rows(column, std::slice::from_ref(&(from..to)), cache);
    keep_histograms(column, |time| (start_ms..=end_ms).contains(&time));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(ranges: &[(i64, i64)]) -> Deleted {
        let mut deleted = Deleted::default();
        ranges.iter().for_each(|&(start, end)| deleted.add(start, end));
        deleted
    }

    #[test]
    fn ranges_that_touch_become_one() {
        for (ranges, joined) in [
            (vec![], vec![]),
            (vec![(5, 4)], vec![]),
            (vec![(5, 9), (1, 2)], vec![(1, 2), (5, 9)]),
            (vec![(5, 9), (1, 4)], vec![(1, 9)]),
            (vec![(1, 2), (8, 9), (3, 7)], vec![(1, 9)]),
            (vec![(i64::MIN, 0), (1, i64::MAX)], vec![(i64::MIN, i64::MAX)]),
            (vec![(2, 8), (3, 4)], vec![(2, 8)]),
        ] {
            assert_eq!(deleted(&ranges).ranges(), joined, "{ranges:?}");
        }
    }

    #[test]
    fn what_is_deleted_goes_and_the_rest_keeps_its_times() {
        let times: Arc<[i64]> = (0..10).collect();
        let column = || Column {
            times: times.clone(),
            values: vec![0.5; 10],
            start_times: Some(times.clone()),
            ..Column::default()
        };
        let mut cache = TimeConcatCache::default();
        let mut apply = |ranges: &[(i64, i64)]| {
            let mut column = column();
            deleted(ranges).apply(&mut column, &mut cache);
            assert_eq!(column.values.len(), column.times.len());
            column
        };
        assert!(Arc::ptr_eq(&apply(&[(20, 30)]).times, &times));
        let (one, two) = (apply(&[(2, 3), (7, 100)]), apply(&[(2, 3), (7, 100)]));
        assert_eq!(*one.times, [0, 1, 4, 5, 6]);
        assert_eq!(one.start_times.as_deref(), Some(&[0, 1, 4, 5, 6][..]));
        assert!(Arc::ptr_eq(&one.times, &two.times));
        let none = apply(&[(i64::MIN, i64::MAX)]);
        assert!(none.is_empty() && none.start_times.is_none());
    }

    #[test]
    fn a_tombstone_means_series_with_all_its_labels() {
        let tombstone = |matchers| Tombstone { matchers, start_ms: 0, end_ms: 1, position: 0 };
        let labels = Labels::from_pairs([("job", "a"), ("x", "1")]);
        assert!(tombstone(vec![Matcher::equal("job", "a"), Matcher::equal("y", "")]).matches(&labels));
        assert!(!tombstone(vec![Matcher::equal("job", "a"), Matcher::equal("x", "2")]).matches(&labels));
    }
}
