//! Functions of windows of samples.
//!
//! A series is evaluated for all steps at once: the bounds of every window are known (and shared by
//! all series with the same times), so a function sees plain slices. Series with histograms take the
//! slower road of [`super::mixed`].
//!
//! Source: Prometheus `promql/functions.go`.

use super::rate::{self, Extrapolation, Sampled};
use super::{kahan, math};
use crate::annotations::{Annotations, Note};
use crate::ast::{RangeMode, Span};
use crate::eval::budget::Budget;
use crate::eval::plan::When;
use crate::eval::window::{Bounds, Samples};
use crate::eval::{Steps, absent, is_absent};

/// The functions of windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OverTime {
    Absent,
    Avg,
    Changes,
    Count,
    Delta,
    Deriv,
    DoubleExponential,
    First,
    Idelta,
    Increase,
    Irate,
    Last,
    Mad,
    Max,
    Min,
    PredictLinear,
    Present,
    Quantile,
    Rate,
    Resets,
    Stddev,
    Stdvar,
    Sum,
    TsOfFirst,
    TsOfLast,
    TsOfMax,
    TsOfMin,
}

impl OverTime {
    pub(crate) fn by_name(name: &str) -> Option<OverTime> {
        use OverTime::*;
        Some(match name {
            "absent_over_time" => Absent,
            "avg_over_time" => Avg,
            "changes" => Changes,
            "count_over_time" => Count,
            "delta" => Delta,
            "deriv" => Deriv,
            "double_exponential_smoothing" => DoubleExponential,
            "first_over_time" => First,
            "idelta" => Idelta,
            "increase" => Increase,
            "irate" => Irate,
            "last_over_time" => Last,
            "mad_over_time" => Mad,
            "max_over_time" => Max,
            "min_over_time" => Min,
            "predict_linear" => PredictLinear,
            "present_over_time" => Present,
            "quantile_over_time" => Quantile,
            "rate" => Rate,
            "resets" => Resets,
            "stddev_over_time" => Stddev,
            "stdvar_over_time" => Stdvar,
            "sum_over_time" => Sum,
            "ts_of_first_over_time" => TsOfFirst,
            "ts_of_last_over_time" => TsOfLast,
            "ts_of_max_over_time" => TsOfMax,
            "ts_of_min_over_time" => TsOfMin,
            _ => return None,
        })
    }

    /// Whether the result is still the same metric.
    pub(crate) fn keeps_name(self) -> bool {
        matches!(self, OverTime::First | OverTime::Last)
    }

    /// Whether start timestamps matter.
    pub(crate) fn uses_start_times(self) -> bool {
        matches!(self, OverTime::Rate | OverTime::Irate | OverTime::Increase | OverTime::Resets)
    }

    pub(crate) fn is_counter(self) -> bool {
        matches!(self, OverTime::Rate | OverTime::Increase | OverTime::Irate)
    }
}

/// A call of such a function: all that is the same for every series.
#[derive(Debug)]
pub(crate) struct OverCall<'a> {
    pub(crate) function: OverTime,
    pub(crate) steps: Steps,
    pub(crate) when: When,
    pub(crate) range_ms: i64,
    pub(crate) mode: RangeMode,
    /// The scalar arguments, a value for each step.
    pub(crate) params: &'a [Vec<f64>],
    /// Where the windows stand in the query; annotations point there.
    pub(crate) window_span: Span,
    pub(crate) budget: &'a Budget,
}

/// Samples looked at between two looks at the budget: a fraction of a millisecond's work.
const SAMPLES_UNCHECKED_MAX: usize = 1 << 15;

/// Tells in the middle of a series' windows when the query must not go on. What is there of the row
/// then does not matter: the query ends with the budget's error.
pub(crate) struct Watch<'a> {
    budget: &'a Budget,
    unchecked: usize,
}

impl<'a> Watch<'a> {
    pub(crate) fn of(call: &OverCall<'a>) -> Watch<'a> {
        Watch { budget: call.budget, unchecked: 0 }
    }

    /// Whether to stop before a window of `samples`.
    #[inline]
    pub(crate) fn stops(&mut self, samples: usize) -> bool {
        self.unchecked = self.unchecked.saturating_add(samples);
        if self.unchecked < SAMPLES_UNCHECKED_MAX {
            return false;
        }
        self.unchecked = 0;
        self.budget.check().is_err()
    }
}

impl OverCall<'_> {
    pub(crate) fn extrapolation(&self, step: usize) -> Extrapolation {
        let range_end = self.when.reference(self.steps.at(step));
        Extrapolation {
            range_start: range_end.saturating_sub(self.range_ms),
            range_end,
            range_ms: self.range_ms,
            is_counter: self.function.is_counter(),
            is_rate: self.function == OverTime::Rate,
        }
    }

    /// The first sample that counts in an `anchored` window for `changes` and `resets`; none when
    /// nothing lies inside.
    fn anchor(&self, step: usize, times: &[i64]) -> Option<usize> {
        if self.mode != RangeMode::Anchored {
            return Some(0);
        }
        let start = self.extrapolation(step).range_start;
        let inside = times.partition_point(|t| *t <= start);
        (inside < times.len()).then(|| inside.saturating_sub(1))
    }

    pub(crate) fn warn_of_quantile(&self, q: f64, notes: &mut Annotations) {
        if q.is_nan() || !(0.0..=1.0).contains(&q) {
            notes.add(self.window_span, &Note::InvalidQuantile(q));
        }
    }

    /// The results for a series that has only floats; absent where the window is empty or too short.
    pub(crate) fn floats(
        &self,
        samples: &Samples,
        bounds: &Bounds,
        name: &str,
        notes: &mut Annotations,
    ) -> Vec<f64> {
        use OverTime::*;
        let (times, values) = (&samples.times[..], &samples.values[..]);
        let starts = samples.start_times.as_deref().unwrap_or_default();
        let each = |f: &mut dyn FnMut(usize, usize, usize) -> f64| each_window(self, bounds, f);
        let param = |at: usize, step: usize| self.params.get(at).map_or(f64::NAN, |p| p[step]);
        match self.function {
            Rate | Increase | Delta => self.rates(samples, bounds, name, notes),
            Irate | Idelta => {
                let is_rate = self.function == Irate;
                each(&mut |_, lo, hi| {
                    rate::instant(&times[lo..hi], &values[lo..hi], slice_or_empty(starts, lo, hi), is_rate)
                })
            }
            Sum => each(&mut |_, lo, hi| kahan::sum(&values[lo..hi])),
            Avg => each(&mut |_, lo, hi| mean(&values[lo..hi])),
            Min => extremes(self, bounds, values, |new, best| new < best),
            Max => extremes(self, bounds, values, |new, best| new > best),
            Count => each(&mut |_, lo, hi| (hi - lo) as f64),
            Present | Absent => each(&mut |_, _, _| 1.0),
            First => each(&mut |_, lo, _| values[lo]),
            Last => each(&mut |_, _, hi| values[hi - 1]),
            TsOfFirst => each(&mut |_, lo, _| times[lo] as f64 / 1000.0),
            TsOfLast => each(&mut |_, _, hi| times[hi - 1] as f64 / 1000.0),
            TsOfMin => {
                each(&mut |_, lo, hi| time_of(&times[lo..hi], &values[lo..hi], |new, best| new <= best))
            }
            TsOfMax => {
                each(&mut |_, lo, hi| time_of(&times[lo..hi], &values[lo..hi], |new, best| new >= best))
            }
            Stddev => each(&mut |_, lo, hi| variance(&values[lo..hi]).sqrt()),
            Stdvar => each(&mut |_, lo, hi| variance(&values[lo..hi])),
            Quantile => {
                let mut scratch = Vec::new();
                each(&mut |step, lo, hi| {
                    let q = param(0, step);
                    self.warn_of_quantile(q, notes);
                    scratch.clear();
                    scratch.extend_from_slice(&values[lo..hi]);
                    math::quantile(q, &mut scratch)
                })
            }
            Mad => {
                let mut scratch = Vec::new();
                each(&mut |_, lo, hi| median_deviation(&values[lo..hi], &mut scratch))
            }
            Changes => {
                let before = counts_before(values, |a, b| a != b && !(a.is_nan() && b.is_nan()));
                each(&mut |step, lo, hi| match self.anchor(step, &times[lo..hi]) {
                    Some(first) => f64::from(before[hi - 1] - before[lo + first]),
                    None => absent(),
                })
            }
            Resets => {
                let before = resets_before(times, values, starts);
                each(&mut |step, lo, hi| match self.anchor(step, &times[lo..hi]) {
                    Some(first) => f64::from(before[hi - 1] - before[lo + first]),
                    None => absent(),
                })
            }
            Deriv => each(&mut |_, lo, hi| {
                if hi - lo < 2 { absent() } else { regression(&times[lo..hi], &values[lo..hi], times[lo]).0 }
            }),
            PredictLinear => each(&mut |step, lo, hi| {
                if hi - lo < 2 {
                    return absent();
                }
                let (slope, intercept) = regression(&times[lo..hi], &values[lo..hi], self.steps.at(step));
                slope * param(0, step) + intercept
            }),
            DoubleExponential => {
                each(&mut |step, lo, hi| smoothed(&values[lo..hi], param(0, step), param(1, step)))
            }
        }
    }

    fn rates(&self, samples: &Samples, bounds: &Bounds, name: &str, notes: &mut Annotations) -> Vec<f64> {
        let (times, values) = (&samples.times[..], &samples.values[..]);
        if self.mode != RangeMode::Plain {
            return each_window(self, bounds, &mut |step, lo, hi| {
                let mut e = self.extrapolation(step);
                e.is_counter = self.function != OverTime::Delta;
                rate::extended(&times[lo..hi], &values[lo..hi], &e, self.mode == RangeMode::Smoothed)
            });
        }
        let is_counter = self.function != OverTime::Delta;
        let starts = samples.start_times.as_deref().filter(|_| is_counter);
        let falls = if is_counter && starts.is_none() { rate::falls(values) } else { Vec::new() };
        let mut overlap = false;
        let out = each_window(self, bounds, &mut |step, lo, hi| {
            let increase = match starts {
                Some(starts) => {
                    let (increase, overlaps) =
                        rate::increase_with_starts(&times[lo..hi], &values[lo..hi], &starts[lo..hi]);
                    overlap |= overlaps;
                    increase
                }
                None => rate::increase(values, lo, hi, &falls),
            };
            let sampled = Sampled {
                first_t: times[lo],
                last_t: times[hi - 1],
                count: hi - lo,
                first_start: starts.map_or(0, |s| s[lo]),
                first: values[lo],
                increase,
            };
            match self.extrapolation(step).scaling(sampled) {
                Some(scaling) if scaling.add_first => (increase + values[lo]) * scaling.factor,
                Some(scaling) => increase * scaling.factor,
                None => absent(),
            }
        });
        if overlap {
            notes.add(self.window_span, &Note::StartTimeOverlap(name));
        }
        out
    }
}

fn slice_or_empty(all: &[i64], lo: usize, hi: usize) -> &[i64] {
    all.get(lo..hi).unwrap_or_default()
}

#[inline]
fn each_window(
    call: &OverCall<'_>,
    bounds: &Bounds,
    f: &mut dyn FnMut(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let mut out = vec![absent(); call.steps.count];
    let mut watch = Watch::of(call);
    for (step, cell) in out.iter_mut().enumerate() {
        let (lo, hi) = bounds.at(step);
        if watch.stops(hi - lo) {
            break;
        }
        if lo < hi {
            *cell = f(step, lo, hi);
        }
    }
    out
}

fn mean(values: &[f64]) -> f64 {
    let mut mean = kahan::Mean::new(values[0]);
    for v in &values[1..] {
        mean.add(*v);
    }
    mean.get()
}

/// Windows this many times larger than the column as a whole are worth a queue of candidates.
const QUEUE_PAYS: u64 = 8;

/// The best value of each window; NaN only where there is nothing else.
fn extremes(call: &OverCall<'_>, bounds: &Bounds, values: &[f64], better: fn(f64, f64) -> bool) -> Vec<f64> {
    if bounds.samples() > QUEUE_PAYS * (values.len() + call.steps.count) as u64 {
        return extremes_by_queue(call, bounds, values, better);
    }
    each_window(call, bounds, &mut |_, lo, hi| best_of(&values[lo..hi], better))
}

pub(crate) fn best_of(values: &[f64], better: fn(f64, f64) -> bool) -> f64 {
    let mut best = values[0];
    for v in &values[1..] {
        if better(*v, best) || best.is_nan() {
            best = *v;
        }
    }
    best
}

/// Keeps, while the windows move on, the indexes that may still become the best: each better than all
/// after it. Every sample enters and leaves once.
fn extremes_by_queue(
    call: &OverCall<'_>,
    bounds: &Bounds,
    values: &[f64],
    better: fn(f64, f64) -> bool,
) -> Vec<f64> {
    let mut queue: std::collections::VecDeque<usize> = std::collections::VecDeque::new();
    let mut next = 0;
    each_window(call, bounds, &mut |_, lo, hi| {
        next = next.max(lo);
        while next < hi {
            let v = values[next];
            if !v.is_nan() {
                while queue.back().is_some_and(|back| better(v, values[*back])) {
                    queue.pop_back();
                }
                queue.push_back(next);
            }
            next += 1;
        }
        while queue.front().is_some_and(|front| *front < lo) {
            queue.pop_front();
        }
        queue.front().map_or(values[lo], |front| values[*front])
    })
}

/// The time, in seconds, of the last best value.
fn time_of(times: &[i64], values: &[f64], better: fn(f64, f64) -> bool) -> f64 {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if better(*v, values[best]) || values[best].is_nan() {
            best = i;
        }
    }
    times[best] as f64 / 1000.0
}

pub(crate) fn variance(values: &[f64]) -> f64 {
    let (mut count, mut mean, mut mean_c, mut aux, mut aux_c) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for v in values {
        count += 1.0;
        let delta = v - (mean + mean_c);
        (mean, mean_c) = kahan::inc(delta / count, mean, mean_c);
        (aux, aux_c) = kahan::inc(delta * (v - (mean + mean_c)), aux, aux_c);
    }
    (aux + aux_c) / count
}

pub(crate) fn median_deviation(values: &[f64], scratch: &mut Vec<f64>) -> f64 {
    if values.iter().any(|v| v.is_nan()) {
        return f64::NAN;
    }
    scratch.clear();
    scratch.extend_from_slice(values);
    let median = math::quantile(0.5, scratch);
    for v in scratch.iter_mut() {
        *v = (*v - median).abs();
    }
    math::quantile(0.5, scratch)
}

/// For each index, how many pairs of neighbours up to it are counted.
fn counts_before(values: &[f64], counted: fn(f64, f64) -> bool) -> Vec<u32> {
    let mut total = 0;
    let mut out = Vec::with_capacity(values.len());
    for (i, v) in values.iter().enumerate() {
        total += u32::from(i > 0 && counted(values[i - 1], *v));
        out.push(total);
    }
    out
}

fn resets_before(times: &[i64], values: &[f64], starts: &[i64]) -> Vec<u32> {
    if starts.is_empty() {
        return counts_before(values, |a, b| b < a);
    }
    let mut total = 0;
    let mut out = Vec::with_capacity(values.len());
    for i in 0..values.len() {
        let reset = i > 0
            && (values[i] < values[i - 1]
                || rate::starts_anew(starts[i - 1], times[i - 1], starts[i], times[i]));
        total += u32::from(reset);
        out.push(total);
    }
    out
}

/// Slope per second and value at `intercept_ms` of the least-squares line.
pub(crate) fn regression(times: &[i64], values: &[f64], intercept_ms: i64) -> (f64, f64) {
    let first = values[0];
    if values.iter().all(|v| *v == first) || values.len() == 1 {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    let (mut x_sum, mut y_sum, mut xy_sum, mut xx_sum) = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0));
    for (t, y) in times.iter().zip(values) {
        let x = (t - intercept_ms) as f64 / 1e3;
        x_sum = kahan::inc(x, x_sum.0, x_sum.1);
        y_sum = kahan::inc(*y, y_sum.0, y_sum.1);
        xy_sum = kahan::inc(x * y, xy_sum.0, xy_sum.1);
        xx_sum = kahan::inc(x * x, xx_sum.0, xx_sum.1);
    }
    let n = values.len() as f64;
    let (x, y, xy, xx) = (x_sum.0 + x_sum.1, y_sum.0 + y_sum.1, xy_sum.0 + xy_sum.1, xx_sum.0 + xx_sum.1);
    let covariance = xy - x * y / n;
    let variance = xx - x * x / n;
    let slope = covariance / variance;
    (slope, y / n - slope * x / n)
}

/// Double exponential smoothing with factors for level and trend; absent with fewer than two values.
pub(crate) fn smoothed(values: &[f64], factor: f64, trend: f64) -> f64 {
    if values.len() < 2 {
        return absent();
    }
    let (mut before, mut level, mut slope) = (0.0, values[0], values[1] - values[0]);
    for (i, v) in values.iter().enumerate().skip(1) {
        if i > 1 {
            slope = trend * (level - before) + (1.0 - trend) * slope;
        }
        let next = factor * v + (1.0 - factor) * (level + slope);
        (before, level) = (level, next);
    }
    level
}

/// Whether any step has a value.
pub(crate) fn any_present(values: &[f64]) -> bool {
    values.iter().any(|v| !is_absent(*v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::CancelFlag;

    fn call(steps: Steps, budget: &Budget) -> OverCall<'_> {
        OverCall {
            function: OverTime::Sum,
            steps,
            when: When { offset_ms: 0, at_ms: None },
            range_ms: 60_000,
            mode: RangeMode::Plain,
            params: &[],
            window_span: Span::default(),
            budget,
        }
    }

    #[test]
    fn a_cancelled_row_ends_after_a_few_windows() {
        let cancel = CancelFlag::default();
        let budget = Budget::new(u64::MAX, None, cancel.clone());
        let times: Vec<i64> = (0..10_000).map(|i| i * 1000).collect();
        let steps = Steps { start_ms: 10_000_000, step_ms: 0, count: 1000 };
        let bounds = Bounds::find(&times, steps, When { offset_ms: 0, at_ms: None }, i64::from(u32::MAX), 0);
        let mut windows = 0;
        each_window(&call(steps, &budget), &bounds, &mut |step, _, _| {
            windows += 1;
            if step == 9 {
                cancel.cancel();
            }
            0.0
        });
        assert!((10..20).contains(&windows), "{windows} windows of 10,000 samples, cancelled in the tenth");
    }

    #[test]
    fn a_queue_of_candidates_finds_the_same_extremes() {
        let values: Vec<f64> = (0..200)
            .map(|i| if i % 17 == 3 { f64::NAN } else { f64::from((i * 7919) % 101) - 50.0 })
            .collect();
        let times: Vec<i64> = (0..200).map(|i| i * 1000).collect();
        let steps = Steps { start_ms: -5000, step_ms: 3000, count: 80 };
        let bounds = Bounds::find(&times, steps, When { offset_ms: 0, at_ms: None }, 60_000, 0);
        let budget = Budget::new(u64::MAX, None, CancelFlag::default());
        let call = call(steps, &budget);
        for better in [|a: f64, b: f64| a < b, |a: f64, b: f64| a > b] {
            let by_queue = extremes_by_queue(&call, &bounds, &values, better);
            for (step, found) in by_queue.iter().enumerate() {
                let (lo, hi) = bounds.at(step);
                if lo < hi {
                    assert_eq!(found.to_bits(), best_of(&values[lo..hi], better).to_bits(), "step {step}");
                } else {
                    assert!(is_absent(*found));
                }
            }
        }
    }

    #[test]
    fn a_line_is_found_exactly() {
        let times = [0, 10_000, 20_000, 30_000];
        let (slope, at) = regression(&times, &[1.0, 3.0, 5.0, 7.0], 40_000);
        assert!((slope - 0.2).abs() < 1e-12 && (at - 9.0).abs() < 1e-12);
        assert_eq!(regression(&times, &[2.0; 4], 0), (0.0, 2.0));
        assert!(regression(&times, &[f64::INFINITY; 4], 0).0.is_nan());
    }

    #[test]
    fn deviations() {
        assert_eq!(variance(&[1.0, 3.0]), 1.0);
        assert!(variance(&[f64::INFINITY]).is_nan());
        assert_eq!(median_deviation(&[4.0, 6.0, 2.0, 1.0, 999.0, 1.0, 2.0], &mut Vec::new()), 1.0);
    }
}
