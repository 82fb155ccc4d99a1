//! `rate`, `increase`, `delta` and their instant forms, on floats.
//!
//! Source: Prometheus `promql/functions.go` (`extrapolatedRate`, `instantValue`): same formulas in the
//! same order, so same bits.

use crate::eval::absent;

/// The window of one step, and how its increase is turned into the result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extrapolation {
    /// Exclusive, milliseconds.
    pub(crate) range_start: i64,
    /// Inclusive, milliseconds.
    pub(crate) range_end: i64,
    pub(crate) range_ms: i64,
    pub(crate) is_counter: bool,
    pub(crate) is_rate: bool,
}

/// What the samples inside the window look like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sampled {
    pub(crate) first_t: i64,
    pub(crate) last_t: i64,
    pub(crate) count: usize,
    /// The first sample's start timestamp, 0 when unknown.
    pub(crate) first_start: i64,
    /// The first sample's value (a histogram's count).
    pub(crate) first: f64,
    /// What it grew by, resets made good (a histogram's count); 0 for one sample.
    pub(crate) increase: f64,
}

/// How to get from the increase between samples to the result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scaling {
    pub(crate) factor: f64,
    /// The counter started inside the window: its first value counts as increase, before scaling.
    pub(crate) add_first: bool,
}

impl Extrapolation {
    /// The scaling, or none when a single sample says nothing.
    pub(crate) fn scaling(&self, s: Sampled) -> Option<Scaling> {
        let mut to_start = (s.first_t - self.range_start) as f64 / 1000.0;
        let mut to_end = (self.range_end - s.last_t) as f64 / 1000.0;
        let mut sampled = (s.last_t - s.first_t) as f64 / 1000.0;
        let average = if s.count > 1 { sampled / (s.count - 1) as f64 } else { 0.0 };
        let threshold = average * 1.1;
        let started_inside = self.is_counter
            && s.first_start != 0
            && s.first_start > self.range_start
            && s.first_start < s.first_t;
        if started_inside {
            to_start = 0.0;
            sampled = (s.last_t - s.first_start) as f64 / 1000.0;
        } else if s.count < 2 {
            return None;
        } else {
            // Samples close to a boundary are taken to go on to it; otherwise the series is taken to
            // start or end half an interval away from its outermost sample.
            if to_start >= threshold {
                to_start = average / 2.0;
            }
            if self.is_counter && s.increase > 0.0 && s.first >= 0.0 {
                // A counter cannot have been below zero.
                let to_zero = sampled * (s.first / s.increase);
                if to_zero < to_start {
                    to_start = to_zero;
                }
            }
        }
        if to_end >= threshold {
            to_end = average / 2.0;
        }
        let mut factor = 1.0;
        if sampled != 0.0 {
            factor = (sampled + to_start + to_end) / sampled;
        }
        if self.is_rate {
            factor /= self.range_ms as f64 / 1000.0;
        }
        Some(Scaling { factor, add_first: started_inside })
    }
}

/// Where a column falls: indexes whose value is below the one before. Found once for a series, so
/// that a window without resets costs no look at its samples.
pub(crate) fn falls(values: &[f64]) -> Vec<u32> {
    values.windows(2).enumerate().filter(|(_, w)| w[1] < w[0]).map(|(i, _)| i as u32 + 1).collect()
}

/// The increase between the first and the last of `values`, resets made good. `falls` are the
/// [`falls`] of the column that `values` is the slice of from index `lo`.
pub(crate) fn increase(column: &[f64], lo: usize, hi: usize, falls: &[u32]) -> f64 {
    let mut result = column[hi - 1] - column[lo];
    let from = falls.partition_point(|at| *at as usize <= lo);
    for at in &falls[from..] {
        if *at as usize >= hi {
            break;
        }
        result += column[*at as usize - 1];
    }
    result
}

/// Whether a start timestamp says that a counter started anew between two samples.
pub(crate) fn starts_anew(previous_start: i64, previous_t: i64, start: i64, t: i64) -> bool {
    if start == 0 || start >= t || start < previous_t {
        return false;
    }
    if start > previous_t {
        return true;
    }
    // It starts where the sample before ends: delta data, unless that sample's start is unknown.
    previous_start <= previous_t && previous_start != 0 && previous_start != previous_t
}

/// Whether a start timestamp contradicts the sample before.
pub(crate) fn starts_overlapping(previous_start: i64, previous_t: i64, start: i64) -> bool {
    start != 0 && start < previous_t && start != previous_start
}

/// The increase with start timestamps, and whether any overlap.
pub(crate) fn increase_with_starts(times: &[i64], values: &[f64], starts: &[i64]) -> (f64, bool) {
    let mut result = values[values.len() - 1] - values[0];
    let mut overlap = false;
    for i in 1..values.len() {
        overlap |= starts_overlapping(starts[i - 1], times[i - 1], starts[i]);
        if values[i] < values[i - 1] || starts_anew(starts[i - 1], times[i - 1], starts[i], times[i]) {
            result += values[i - 1];
        }
    }
    (result, overlap)
}

/// `irate` and `idelta` of a window's last two samples; absent with fewer.
pub(crate) fn instant(times: &[i64], values: &[f64], starts: &[i64], is_rate: bool) -> f64 {
    let n = values.len();
    if n < 2 {
        return absent();
    }
    let interval = times[n - 1] - times[n - 2];
    let reset = values[n - 1] < values[n - 2]
        || (!starts.is_empty() && starts_anew(starts[n - 2], times[n - 2], starts[n - 1], times[n - 1]));
    if !is_rate {
        return values[n - 1] - values[n - 2];
    }
    let grown = if reset { values[n - 1] } else { values[n - 1] - values[n - 2] };
    grown / (interval as f64 / 1000.0)
}

/// Linear interpolation at `t` between two points; a counter that falls is taken to start at zero.
pub(crate) fn interpolate(p1: (i64, f64), p2: (i64, f64), t: i64, is_counter: bool) -> f64 {
    let y1 = if is_counter && p2.1 < p1.1 { 0.0 } else { p1.1 };
    y1 + (p2.1 - y1) * (t - p1.0) as f64 / (p2.0 - p1.0) as f64
}

/// The samples of an `anchored` or `smoothed` window that count: the one that stands for the start,
/// and the one that stands for the end; none when the window says nothing.
pub(crate) fn extended_ends(
    times: &[i64],
    range_start: i64,
    range_end: i64,
    smoothed: bool,
) -> Option<(usize, usize)> {
    let mut last = times.len() - 1;
    let first = times[..last].partition_point(|t| *t <= range_start).saturating_sub(1);
    if smoothed {
        last = times[..last].partition_point(|t| *t < range_end);
    }
    if times[last] <= range_start || (smoothed && times[first] > range_end) {
        return None;
    }
    Some((first, last))
}

/// The value at the start of an extended window.
pub(crate) fn left_value(
    times: &[i64],
    values: &[f64],
    first: usize,
    start: i64,
    smoothed: bool,
    counter: bool,
) -> f64 {
    if smoothed && times[first] < start {
        interpolate((times[first], values[first]), (times[first + 1], values[first + 1]), start, counter)
    } else {
        values[first]
    }
}

/// The value at the end of an extended window.
pub(crate) fn right_value(
    times: &[i64],
    values: &[f64],
    last: usize,
    end: i64,
    smoothed: bool,
    counter: bool,
) -> f64 {
    if smoothed && last > 0 && times[last] > end {
        interpolate((times[last - 1], values[last - 1]), (times[last], values[last]), end, counter)
    } else {
        values[last]
    }
}

/// `rate`, `increase` and `delta` of an `anchored` or `smoothed` window.
pub(crate) fn extended(times: &[i64], values: &[f64], e: &Extrapolation, smoothed: bool) -> f64 {
    let Some((mut first, last)) = extended_ends(times, e.range_start, e.range_end, smoothed) else {
        return absent();
    };
    let left = left_value(times, values, first, e.range_start, smoothed, e.is_counter);
    let right = right_value(times, values, last, e.range_end, smoothed, e.is_counter);
    let mut result = right - left;
    if e.is_counter {
        // Only samples strictly inside; the ends have taken care of resets around them.
        if times[first] <= e.range_start {
            first += 1;
        }
        let end = if times[last] >= e.range_end { last } else { last + 1 };
        let mut previous = left;
        let mut correction = 0.0;
        for v in values.get(first..end).unwrap_or_default() {
            if *v < previous {
                correction += previous;
            }
            previous = *v;
        }
        if right < previous {
            correction += previous;
        }
        result += correction;
    }
    if e.is_rate {
        result /= e.range_ms as f64 / 1000.0;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Extrapolation = Extrapolation {
        range_start: 0,
        range_end: 60_000,
        range_ms: 60_000,
        is_counter: true,
        is_rate: false,
    };

    fn sampled(first_t: i64, last_t: i64, count: usize, first: f64, increase: f64) -> Sampled {
        Sampled { first_t, last_t, count, first_start: 0, first, increase }
    }

    #[test]
    fn extrapolates_to_close_boundaries_only() {
        let factor = |s| MINUTE.scaling(s).map(|scaling| scaling.factor);
        // 10 s from both ends, 10 s apart: close enough.
        assert_eq!(factor(sampled(10_000, 50_000, 5, 100.0, 4.0)), Some(60.0 / 40.0));
        // 30 s from the end: half an interval.
        assert_eq!(factor(sampled(10_000, 30_000, 3, 100.0, 2.0)), Some((20.0 + 10.0 + 5.0) / 20.0));
        // The counter would have been zero 5 s before its first sample.
        assert_eq!(factor(sampled(10_000, 50_000, 5, 1.0, 8.0)), Some((40.0 + 5.0 + 10.0) / 40.0));
        assert_eq!(factor(sampled(10_000, 10_000, 1, 1.0, 0.0)), None);
    }

    #[test]
    fn resets_are_made_good_inside_the_window_only() {
        let column = [5.0, 1.0, 2.0, 0.5, 3.0];
        let falls = falls(&column);
        assert_eq!(falls, [1, 3]);
        assert_eq!(increase(&column, 0, 5, &falls), 3.0 - 5.0 + 5.0 + 2.0);
        assert_eq!(increase(&column, 1, 3, &falls), 1.0);
        assert_eq!(increase(&column, 3, 5, &falls), 2.5);
    }

    #[test]
    fn start_timestamps_tell_delta_from_cumulative() {
        assert!(starts_anew(0, 10, 15, 20));
        assert!(starts_anew(5, 10, 10, 20));
        assert!(!starts_anew(0, 10, 10, 20));
        assert!(!starts_anew(5, 10, 5, 20));
        assert!(starts_overlapping(5, 10, 7));
        assert!(!starts_overlapping(5, 10, 5));
    }
}
