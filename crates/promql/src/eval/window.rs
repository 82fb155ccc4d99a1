//! Which samples each step sees: found once for a time column, used by every series that shares it.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use model::is_stale;
use parking_lot::Mutex;
use storage::Column;

use super::Steps;
use super::plan::When;
use crate::histogram::FloatHistogram;

/// The samples of a series without staleness markers, ready for windows.
#[derive(Debug, Clone)]
pub(crate) struct Samples {
    pub(crate) times: Arc<[i64]>,
    pub(crate) values: Vec<f64>,
    pub(crate) histograms: Vec<(i64, Arc<FloatHistogram>)>,
    /// As long as `histograms`, or empty.
    pub(crate) histogram_starts: Vec<i64>,
    /// As long as `times`; present only when the query uses them.
    pub(crate) start_times: Option<Arc<[i64]>>,
    /// Whether other series have the very same `times`.
    pub(crate) shared_times: bool,
}

impl Samples {
    /// Takes over a column; `start_times` says whether start timestamps matter.
    pub(crate) fn from_column(column: Column, start_times: bool, statistics: bool) -> Samples {
        let histograms: Vec<_> = computed_histograms(&column, statistics)
            .into_iter()
            .zip(&column.histograms)
            .filter_map(|(computed, (t, _))| Some((*t, computed?)))
            .collect();
        let Column { mut times, mut values, start_times: mut starts, .. } = column;
        if !start_times {
            starts = None;
        }
        let shared_times = !values.iter().any(|v| is_stale(*v));
        if !shared_times {
            let keep: Vec<bool> = values.iter().map(|v| !is_stale(*v)).collect();
            times = kept(&times, &keep);
            starts = starts.map(|s| kept(&s, &keep));
            let mut at = 0..;
            values.retain(|_| at.next().is_some_and(|i| keep[i]));
        }
        Samples { times, values, histograms, histogram_starts: Vec::new(), start_times: starts, shared_times }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty() && self.histograms.is_empty()
    }

    /// How many samples, histograms weighed by their size.
    pub(crate) fn weight(&self) -> u64 {
        self.values.len() as u64 + self.histograms.iter().map(|(_, h)| h.weight()).sum::<u64>()
    }
}

/// The histograms of a column ready for computing, none for a staleness marker. Where the store says
/// nothing of counter resets, what their neighbours tell is filled in.
///
/// A counter that goes on says so; one that starts anew says so only for `statistics`, where later
/// functions do not look at buckets.
///
/// Source: Prometheus `tsdb/chunkenc` (`counterResetHint`), `promql/histogram_stats_iterator.go`.
pub(crate) fn computed_histograms(column: &Column, statistics: bool) -> Vec<Option<Arc<FloatHistogram>>> {
    let mut previous: Option<(i64, Arc<FloatHistogram>)> = None;
    let mut out = Vec::with_capacity(column.histograms.len());
    for (t, stored) in &column.histograms {
        if stored.is_stale() {
            previous = None;
            out.push(None);
            continue;
        }
        let mut histogram = FloatHistogram::from(&**stored);
        if let Some((before_t, before)) = previous.take()
            && column.times.partition_point(|float| *float < before_t)
                == column.times.partition_point(|float| *float < *t)
        {
            histogram.learn_from(&before, statistics);
        }
        let histogram = Arc::new(histogram);
        previous = Some((*t, histogram.clone()));
        out.push(Some(histogram));
    }
    out
}

fn kept(all: &[i64], keep: &[bool]) -> Arc<[i64]> {
    all.iter().zip(keep).filter(|(_, keep)| **keep).map(|(t, _)| *t).collect()
}

/// For each step, the range of sample indexes inside its window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounds {
    ranges: Vec<(u32, u32)>,
    samples: u64,
}

impl Bounds {
    /// The samples of `times` in (reference - `before_ms`, reference + `after_ms`] of each step.
    pub(crate) fn find(times: &[i64], steps: Steps, when: When, before_ms: i64, after_ms: i64) -> Bounds {
        let mut ranges = Vec::with_capacity(steps.count);
        let (mut lo, mut hi) = (0, 0);
        let mut samples = 0;
        for step in 0..steps.count {
            let reference = when.reference(steps.at(step));
            // References never go back, so the bounds only ever move on.
            lo += advance(&times[lo..], reference.saturating_sub(before_ms));
            hi = hi.max(lo);
            hi += advance(&times[hi..], reference.saturating_add(after_ms));
            samples += (hi - lo) as u64;
            ranges.push((lo as u32, hi as u32));
        }
        Bounds { ranges, samples }
    }

    /// The window of a step: first index, and one past the last.
    #[inline]
    pub(crate) fn at(&self, step: usize) -> (usize, usize) {
        let (lo, hi) = self.ranges[step];
        (lo as usize, hi as usize)
    }

    /// Samples in all windows together.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }
}

/// How many of `times` are at or before `t`: a few steps, or a leap with a binary search at its end.
fn advance(times: &[i64], t: i64) -> usize {
    let mut reach = 8;
    for (i, at) in times.iter().take(reach).enumerate() {
        if *at > t {
            return i;
        }
    }
    while reach < times.len() && times[reach - 1] <= t {
        reach *= 2;
    }
    times[..reach.min(times.len())].partition_point(|at| *at <= t)
}

/// The bounds already found, by time column. Holds the columns, so that their addresses stay theirs.
#[derive(Debug)]
pub(crate) struct BoundsCache {
    steps: Steps,
    when: When,
    before_ms: i64,
    after_ms: i64,
    found: Mutex<HashMap<usize, Found, FixedState>>,
}

#[derive(Debug)]
struct Found {
    bounds: Arc<Bounds>,
    /// Keeps the address taken.
    _times: Arc<[i64]>,
}

/// Windows remembered, of all columns; stores that share no times would only fill memory.
const CACHE_WINDOWS_MAX: usize = 8 << 20;
/// Columns remembered.
const CACHE_COLUMNS_MAX: usize = 4096;

impl BoundsCache {
    pub(crate) fn new(steps: Steps, when: When, before_ms: i64, after_ms: i64) -> BoundsCache {
        BoundsCache { steps, when, before_ms, after_ms, found: Mutex::default() }
    }

    /// The steps that the bounds are for.
    pub(crate) fn steps(&self) -> Steps {
        self.steps
    }

    /// The time that stands for a step.
    pub(crate) fn reference(&self, step: usize) -> i64 {
        self.when.reference(self.steps.at(step))
    }

    /// The bounds for the floats of a series.
    pub(crate) fn of_samples(&self, samples: &Samples) -> Arc<Bounds> {
        if samples.shared_times { self.of(&samples.times) } else { Arc::new(self.of_slice(&samples.times)) }
    }

    /// The bounds for a column.
    pub(crate) fn of(&self, times: &Arc<[i64]>) -> Arc<Bounds> {
        let key = times.as_ptr() as usize;
        if let Some(found) = self.found.lock().get(&key) {
            return found.bounds.clone();
        }
        let bounds = Arc::new(self.of_slice(times));
        if !times.is_empty() {
            let mut found = self.found.lock();
            if found.len() >= CACHE_COLUMNS_MAX.min(CACHE_WINDOWS_MAX / self.steps.count.max(1)) {
                found.clear();
            }
            found.insert(key, Found { bounds: bounds.clone(), _times: times.clone() });
        }
        bounds
    }

    /// The bounds for times that nobody shares.
    pub(crate) fn of_slice(&self, times: &[i64]) -> Bounds {
        Bounds::find(times, self.steps, self.when, self.before_ms, self.after_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: When = When { offset_ms: 0, at_ms: None };

    #[test]
    fn windows_are_open_on_the_left() {
        let steps = Steps { start_ms: 10, step_ms: 10, count: 3 };
        let bounds = Bounds::find(&[0, 5, 10, 15, 20], steps, NOW, 10, 0);
        assert_eq!(bounds.ranges, [(1, 3), (3, 5), (5, 5)]);
        assert_eq!(bounds.samples(), 4);
    }

    #[test]
    fn a_fixed_time_gives_every_step_the_same_window() {
        let steps = Steps { start_ms: 100, step_ms: 10, count: 2 };
        let when = When { offset_ms: 5, at_ms: Some(20) };
        assert_eq!(Bounds::find(&[0, 5, 10, 15, 20], steps, when, 10, 0).ranges, [(2, 4), (2, 4)]);
    }

    proptest! {
        #[test]
        fn bounds_are_what_a_plain_search_finds(
            gaps in prop::collection::vec(1i64..40, 0..60),
            start in -50i64..400, step in 1i64..60, count in 1usize..30,
            before in 1i64..200, after in 0i64..50, offset in -30i64..30,
        ) {
            let times: Vec<i64> = gaps.iter().scan(0, |t, gap| { *t += gap; Some(*t) }).collect();
            let steps = Steps { start_ms: start, step_ms: step, count };
            let bounds = Bounds::find(&times, steps, When { offset_ms: offset, at_ms: None }, before, after);
            for i in 0..count {
                let t = steps.at(i) - offset;
                let lo = times.iter().filter(|x| **x <= t - before).count();
                let hi = times.iter().filter(|x| **x <= t + after).count();
                prop_assert_eq!(bounds.at(i), (lo, hi.max(lo)));
            }
        }
    }
}
