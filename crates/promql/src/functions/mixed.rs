//! Functions of windows for series that have histograms, alone or among floats.
//!
//! The float results of all steps come from [`OverCall::floats`]; here every step whose window holds
//! histograms is put right.
//!
//! Source: Prometheus `promql/functions.go`.

use std::sync::Arc;

use model::histogram::CounterResetHint;

use super::over_time::{OverCall, OverTime, Watch};
use super::rate::{self, Sampled};
use crate::annotations::{Annotations, Note, Operation};
use crate::ast::{RangeMode, Span};
use crate::eval::batches::Outcome;
use crate::eval::window::{Bounds, BoundsCache, Samples};
use crate::eval::{Cell, Row, absent, is_absent};
use crate::histogram::{FloatHistogram, HistogramSum, Incompatible, Reconciled};

/// A histogram and its time.
pub(crate) type Point = (i64, Arc<FloatHistogram>);

/// What a window holds beside its histograms.
struct Beside<'w> {
    times: &'w [i64],
    values: &'w [f64],
    /// As long as `times`, or empty.
    starts: &'w [i64],
    /// The start timestamps of the histograms, as many as these, or none.
    point_starts: &'w [i64],
}

/// Where annotations about a window go.
pub(crate) struct Notes<'n> {
    pub(crate) all: &'n mut Annotations,
    pub(crate) span: Span,
    pub(crate) name: &'n str,
}

impl Notes<'_> {
    fn add(&mut self, note: &Note<'_>) {
        self.all.add(self.span, note);
    }

    fn mixed(&mut self) {
        let name = self.name;
        self.add(&Note::MixedFloatsHistograms(name));
    }

    fn incompatible(&mut self) {
        let name = self.name;
        self.add(&Note::MixedExponentialCustom(name));
    }

    /// Notes what a sum or difference needed; says whether there is one.
    fn reconciled(&mut self, result: Result<Reconciled, Incompatible>, operation: Operation) -> bool {
        match result {
            Err(Incompatible) => {
                self.incompatible();
                false
            }
            Ok(reconciled) => {
                if reconciled.custom_bounds {
                    self.add(&Note::MismatchedCustomBuckets(operation));
                }
                true
            }
        }
    }
}

/// Fills the row of a series with histograms; gives the weight of the histograms looked at.
pub(crate) fn row(
    call: &OverCall<'_>,
    row: &mut Row,
    samples: &Samples,
    bounds: &Bounds,
    cache: &BoundsCache,
    outcome: &mut Outcome,
) {
    let Outcome { notes, tally, .. } = outcome;
    let labels = row.labels.clone();
    let name = labels.metric_name();
    row.floats = call.floats(samples, bounds, name, notes);
    let times: Vec<i64> = samples.histograms.iter().map(|(t, _)| *t).collect();
    let of_histograms = cache.of_slice(&times);
    let mut notes = Notes { all: notes, span: call.window_span, name };
    let mut reached = 0;
    let mut watch = Watch::of(call);
    for step in 0..call.steps.count {
        let (lo, hi) = of_histograms.at(step);
        if lo == hi {
            continue;
        }
        let points = &samples.histograms[lo..hi];
        let weight_of = |points: &[Point]| points.iter().map(|(_, h)| h.weight()).sum::<u64>();
        let weight = weight_of(points);
        if watch.stops(usize::try_from(weight).unwrap_or(usize::MAX)) {
            break;
        }
        tally.look(step, weight);
        tally.reach(step, weight_of(&samples.histograms[lo.max(reached)..hi]));
        reached = hi;
        let (float_lo, float_hi) = bounds.at(step);
        let beside = Beside {
            times: &samples.times[float_lo..float_hi],
            values: &samples.values[float_lo..float_hi],
            starts: samples
                .start_times
                .as_deref()
                .and_then(|s| s.get(float_lo..float_hi))
                .unwrap_or_default(),
            point_starts: samples.histogram_starts.get(lo..hi).unwrap_or_default(),
        };
        put_right(call, row, step, points, &beside, &mut notes);
    }
}

fn put_right(
    call: &OverCall<'_>,
    row: &mut Row,
    step: usize,
    points: &[Point],
    beside: &Beside<'_>,
    notes: &mut Notes<'_>,
) {
    use OverTime::*;
    let Beside { times, values, .. } = *beside;
    let has_floats = !values.is_empty();
    match call.function {
        Rate | Increase | Delta | Sum | Avg if has_floats => {
            row.clear(step);
            notes.mixed();
        }
        Rate | Increase | Delta => {
            let result = if call.mode == RangeMode::Plain {
                extrapolated(call, step, points, beside.point_starts, notes)
            } else {
                extended(call, step, points, notes)
            };
            set(row, step, result);
        }
        Sum | Avg => set(row, step, summed(points, call.function == Avg, notes)),
        Irate | Idelta => {
            let result = instant(call.function == Irate, points, beside, notes);
            match result {
                Some(Ok(histogram)) => row.set_histogram(step, Arc::new(histogram)),
                Some(Err(float)) => row.set(step, Cell::Float(float)),
                None => row.clear(step),
            }
        }
        Count => row.floats[step] = (values.len() + points.len()) as f64,
        Present | Absent => row.floats[step] = 1.0,
        First => {
            if times.first().is_none_or(|t| points[0].0 <= *t) {
                row.set_histogram(step, points[0].1.clone());
            }
        }
        Last => {
            let last = &points[points.len() - 1];
            if times.last().is_none_or(|t| last.0 >= *t) {
                row.set_histogram(step, last.1.clone());
            }
        }
        TsOfFirst => {
            let first = times.first().map_or(points[0].0, |t| points[0].0.min(*t));
            row.floats[step] = first as f64 / 1000.0;
        }
        TsOfLast => {
            let last = points[points.len() - 1].0;
            row.floats[step] = times.last().map_or(last, |t| last.max(*t)) as f64 / 1000.0;
        }
        Changes | Resets => row.floats[step] = count_pairs(call, step, points, beside),
        Deriv | DoubleExponential | Mad | Max | Min | PredictLinear | Quantile | Stddev | Stdvar
        | TsOfMax | TsOfMin => {
            if has_floats {
                let name = notes.name;
                notes.add(&Note::HistogramIgnoredInRange(name));
            }
        }
    }
}

fn set(row: &mut Row, step: usize, histogram: Option<FloatHistogram>) {
    match histogram {
        Some(histogram) => row.set_histogram(step, Arc::new(histogram)),
        None => row.clear(step),
    }
}

/// `rate`, `increase`, `delta`.
fn extrapolated(
    call: &OverCall<'_>,
    step: usize,
    points: &[Point],
    starts: &[i64],
    notes: &mut Notes<'_>,
) -> Option<FloatHistogram> {
    let mut e = call.extrapolation(step);
    e.is_counter = call.function != OverTime::Delta;
    let (first_t, first) = &points[0];
    let mut result = None;
    if points.len() > 1 {
        result = Some(increase(points, starts, e.is_counter, notes)?);
    }
    let scaling = e.scaling(Sampled {
        first_t: *first_t,
        last_t: points[points.len() - 1].0,
        count: points.len(),
        first_start: starts.first().copied().unwrap_or_default(),
        first: first.count,
        increase: result.as_ref().map_or(0.0, |r| r.count),
    })?;
    let mut result = match result {
        Some(mut result) if scaling.add_first => {
            notes.reconciled(result.add(first), Operation::Addition).then_some(result)?
        }
        Some(result) => result,
        None => (**first).clone(),
    };
    result.multiply(scaling.factor);
    Some(result)
}

/// Whether a counter started anew between two neighbouring points; `at` is the later one's index.
fn is_reset(points: &[Point], starts: &[i64], at: usize, previous: &FloatHistogram) -> bool {
    let by_start =
        !starts.is_empty() && rate::starts_anew(starts[at - 1], points[at - 1].0, starts[at], points[at].0);
    by_start || points[at].1.is_reset_after(previous)
}

fn is_gauge(h: &FloatHistogram) -> bool {
    h.counter_reset_hint == CounterResetHint::Gauge
}

/// The last histogram less the first, resets made good.
fn increase(
    points: &[Point],
    starts: &[i64],
    is_counter: bool,
    notes: &mut Notes<'_>,
) -> Option<FloatHistogram> {
    let (first, last) = (&points[0].1, &points[points.len() - 1].1);
    let inner = &points[1..points.len() - 1];
    if is_counter && points.iter().any(|(_, h)| is_gauge(h)) {
        let name = notes.name;
        notes.add(&Note::HistogramNotCounter(name));
    }
    // After a reset right behind the first sample nothing of it counts, its layout neither.
    let reset_first = is_counter && is_reset(points, starts, 1, first);
    let first = if reset_first { Arc::new(FloatHistogram::empty_like(&points[1].1)) } else { first.clone() };
    let custom = first.uses_custom_buckets();
    let mut schema = last.schema.min(first.schema);
    let mut compatible = last.uses_custom_buckets() == custom;
    if is_counter {
        for (_, h) in inner {
            schema = schema.min(h.schema);
            compatible &= h.uses_custom_buckets() == custom;
        }
    }
    if !compatible {
        notes.incompatible();
        return None;
    }
    let mut result = (**last).clone();
    if schema < result.schema {
        result.reduce_to(schema);
        result.counter_reset_hint = CounterResetHint::Unknown;
    }
    if !notes.reconciled(result.subtract(&first), Operation::Subtraction) {
        return None;
    }
    if is_counter {
        let mut previous: &FloatHistogram = &first;
        for at in 1..points.len() {
            if is_reset(points, starts, at, previous)
                && !notes.reconciled(result.add(previous), Operation::Addition)
            {
                return None;
            }
            previous = &points[at].1;
        }
        let overlaps = |at: usize| rate::starts_overlapping(starts[at - 1], points[at - 1].0, starts[at]);
        if (1..starts.len()).any(overlaps) {
            let name = notes.name;
            notes.add(&Note::StartTimeOverlap(name));
        }
    } else if !is_gauge(&points[0].1) || !is_gauge(last) {
        let name = notes.name;
        notes.add(&Note::HistogramNotGauge(name));
    }
    result.counter_reset_hint = CounterResetHint::Gauge;
    result.compact();
    Some(result)
}

/// `sum_over_time`, `avg_over_time`.
fn summed(points: &[Point], mean: bool, notes: &mut Notes<'_>) -> Option<FloatHistogram> {
    let mut sum = HistogramSum::new(&points[0].1);
    let mut custom_bounds = false;
    for (_, h) in &points[1..] {
        match if mean { sum.add_for_mean(h) } else { sum.add(h) } {
            Ok(reconciled) => custom_bounds |= reconciled.custom_bounds,
            Err(Incompatible) => {
                notes.incompatible();
                return None;
            }
        }
    }
    if custom_bounds {
        notes.add(&Note::MismatchedCustomBuckets(Operation::Aggregation));
    }
    let says = |hint| points.iter().any(|(_, h)| h.counter_reset_hint == hint);
    if says(CounterResetHint::Reset) && says(CounterResetHint::NotReset) {
        notes.add(&Note::CounterResetCollision(Operation::Aggregation));
    }
    let mut result = if mean { sum.mean() } else { sum.sum() };
    result.compact();
    Some(result)
}

/// `irate` and `idelta` of the last two samples of either kind: a histogram or, as `Err`, a float.
fn instant(
    is_rate: bool,
    points: &[Point],
    beside: &Beside<'_>,
    notes: &mut Notes<'_>,
) -> Option<Result<FloatHistogram, f64>> {
    let Beside { times, values, starts, point_starts } = *beside;
    if points.len() + values.len() < 2 {
        return None;
    }
    // Of the newest two of each kind, the newest two.
    let newest_float = |back: usize| times.len().checked_sub(back).map(|at| times[at]);
    let newest_point = |back: usize| points.len().checked_sub(back).map(|at| points[at].0);
    let floats_used = (1..=2).filter(|back| newest_float(*back) > newest_point(3 - back)).count();
    match floats_used {
        2 => Some(Err(rate::instant(times, values, starts, is_rate)))
            .filter(|r| !matches!(r, Err(v) if is_absent(*v))),
        1 => {
            notes.mixed();
            None
        }
        _ => {
            let ((t0, h0), (t1, h1)) = (&points[points.len() - 2], &points[points.len() - 1]);
            let mut result = (**h1).clone();
            let name = notes.name;
            if is_rate && (is_gauge(h0) || is_gauge(h1)) {
                notes.add(&Note::HistogramNotCounter(name));
            }
            if !is_rate && (!is_gauge(h0) || !is_gauge(h1)) {
                notes.add(&Note::HistogramNotGauge(name));
            }
            if (!is_rate || !is_reset(points, point_starts, points.len() - 1, h0))
                && !notes.reconciled(result.subtract(h0), Operation::Subtraction)
            {
                return None;
            }
            result.counter_reset_hint = CounterResetHint::Gauge;
            result.compact();
            if is_rate {
                result.divide((t1 - t0) as f64 / 1000.0);
            }
            Some(Ok(result))
        }
    }
}

/// `changes` and `resets` over samples of both kinds.
fn count_pairs(call: &OverCall<'_>, step: usize, points: &[Point], beside: &Beside<'_>) -> f64 {
    let Beside { times, values, starts, point_starts } = *beside;
    let mut merged: Vec<(i64, Cell<'_>, i64)> =
        times
            .iter()
            .enumerate()
            .map(|(i, t)| (*t, Cell::Float(values[i]), starts.get(i).copied().unwrap_or_default()))
            .chain(points.iter().enumerate().map(|(i, (t, h))| {
                (*t, Cell::Histogram(h), point_starts.get(i).copied().unwrap_or_default())
            }))
            .collect();
    merged.sort_by_key(|(t, ..)| *t);
    let mut from = 0;
    if call.mode == RangeMode::Anchored {
        let inside = merged.partition_point(|(t, ..)| *t <= call.extrapolation(step).range_start);
        if inside == merged.len() {
            return absent();
        }
        from = inside.saturating_sub(1);
    }
    let resets = call.function == OverTime::Resets;
    let counted = merged[from..].windows(2).filter(|pair| match (&pair[0], &pair[1]) {
        ((t0, Cell::Float(a), s0), (t1, Cell::Float(b), s1)) => {
            if resets {
                b < a || rate::starts_anew(*s0, *t0, *s1, *t1)
            } else {
                a != b && !(a.is_nan() && b.is_nan())
            }
        }
        ((t0, Cell::Histogram(a), s0), (t1, Cell::Histogram(b), s1)) => {
            if resets {
                rate::starts_anew(*s0, *t0, *s1, *t1) || b.is_reset_after(a)
            } else {
                !b.same_data(a)
            }
        }
        _ => true,
    });
    counted.count() as f64
}

/// The histogram at `t` on the straight line between two; a counter that was reset grows from zero.
fn interpolated(
    from: &Point,
    to: &Point,
    t: i64,
    is_counter: bool,
    notes: &mut Notes<'_>,
) -> Option<FloatHistogram> {
    if t == from.0 {
        return Some((*from.1).clone());
    }
    let mut result = (*to.1).clone();
    if t == to.0 {
        return Some(result);
    }
    let fraction = (t - from.0) as f64 / (to.0 - from.0) as f64;
    if is_counter && to.1.is_reset_after(&from.1) {
        result.multiply(fraction);
        return Some(result);
    }
    if !notes.reconciled(result.subtract(&from.1), Operation::Subtraction) {
        return None;
    }
    result.multiply(fraction);
    notes.reconciled(result.add(&from.1), Operation::Addition).then_some(result)
}

/// `rate`, `increase`, `delta` of an `anchored` or `smoothed` window.
fn extended(
    call: &OverCall<'_>,
    step: usize,
    points: &[Point],
    notes: &mut Notes<'_>,
) -> Option<FloatHistogram> {
    let e = call.extrapolation(step);
    let is_counter = call.function != OverTime::Delta;
    let smoothed = call.mode == RangeMode::Smoothed;
    let times: Vec<i64> = points.iter().map(|(t, _)| *t).collect();
    let (first, last) = rate::extended_ends(&times, e.range_start, e.range_end, smoothed)?;
    let used = &points[first..=last];
    if used.iter().any(|(_, h)| h.uses_custom_buckets() != used[0].1.uses_custom_buckets()) {
        notes.incompatible();
        return None;
    }
    let name = notes.name;
    if is_counter && used.iter().any(|(_, h)| is_gauge(h)) {
        notes.add(&Note::HistogramNotCounter(name));
    }
    let left = if smoothed && times[first] < e.range_start {
        interpolated(&points[first], &points[first + 1], e.range_start, is_counter, notes)?
    } else {
        (*points[first].1).clone()
    };
    let right = if smoothed && last > 0 && times[last] > e.range_end {
        interpolated(&points[last - 1], &points[last], e.range_end, is_counter, notes)?
    } else {
        (*points[last].1).clone()
    };
    if !is_counter && (!is_gauge(&left) || !is_gauge(&right)) {
        notes.add(&Note::HistogramNotGauge(name));
    }
    let mut result = right.clone();
    if !notes.reconciled(result.subtract(&left), Operation::Subtraction) {
        return None;
    }
    if is_counter {
        let ends = (&left, &right);
        let correction = correction(points, (first, last), ends, e.range_start, smoothed, notes)?;
        if let Some(correction) = correction
            && !notes.reconciled(result.add(&correction), Operation::Addition)
        {
            return None;
        }
    }
    if e.is_rate {
        result.divide(e.range_ms as f64 / 1000.0);
    }
    result.counter_reset_hint = CounterResetHint::Gauge;
    result.compact();
    Some(result)
}

/// What resets between the ends of an extended window took away; `None` outside when sums fail.
#[allow(clippy::option_option)] // "cannot be said" is not "nothing"
fn correction(
    points: &[Point],
    (first, last): (usize, usize),
    (left, right): (&FloatHistogram, &FloatHistogram),
    range_start: i64,
    smoothed: bool,
    notes: &mut Notes<'_>,
) -> Option<Option<FloatHistogram>> {
    let mut from = first + 1;
    let mut previous = left;
    if smoothed && points[first].0 < range_start && points[first + 1].1.is_reset_after(&points[first].1) {
        // The left end was interpolated across this reset already.
        previous = &points[first + 1].1;
        from += 1;
    }
    // The last sample is left out: the right end is made of it and has its hint.
    if from > last {
        return Some(None);
    }
    let mut total: Option<FloatHistogram> = None;
    for h in points[from..last].iter().map(|(_, h)| &**h).chain([right]) {
        if h.is_reset_after(previous) {
            match &mut total {
                None => total = Some(previous.clone()),
                Some(total) => {
                    if !notes.reconciled(total.add(previous), Operation::Addition) {
                        return None;
                    }
                }
            }
        }
        previous = h;
    }
    Some(total)
}

/// A `smoothed` instant selector: the sample at each step, or the line between its neighbours, or the
/// newest before it.
pub(crate) fn smooth(
    row: &mut Row,
    samples: &Samples,
    cache: &BoundsCache,
    span: Span,
    notes: &mut Annotations,
) {
    let labels = row.labels.clone();
    let mut notes = Notes { all: notes, span, name: labels.metric_name() };
    let floats = cache.of_samples(samples);
    let point_times: Vec<i64> = samples.histograms.iter().map(|(t, _)| *t).collect();
    let histograms = cache.of_slice(&point_times);
    for step in 0..cache.steps().count {
        let t = cache.reference(step);
        let (lo, hi) = floats.at(step);
        let (times, values) = (&samples.times[lo..hi], &samples.values[lo..hi]);
        let (lo, hi) = histograms.at(step);
        let points = &samples.histograms[lo..hi];
        if !times.is_empty() && !points.is_empty() {
            notes.mixed();
        } else if !times.is_empty() {
            let at = times.partition_point(|x| *x < t);
            if times.get(at) == Some(&t) {
                row.floats[step] = values[at];
            } else if at > 0 && at < times.len() {
                row.floats[step] =
                    rate::interpolate((times[at - 1], values[at - 1]), (times[at], values[at]), t, false);
            } else if at > 0 {
                row.floats[step] = values[at - 1];
            }
        } else if !points.is_empty() {
            set(row, step, smooth_point(points, t, &mut notes));
        }
    }
}

fn smooth_point(points: &[Point], t: i64, notes: &mut Notes<'_>) -> Option<FloatHistogram> {
    let at = points.partition_point(|(x, _)| *x < t);
    if points.get(at).is_some_and(|(x, _)| *x == t) {
        return Some((*points[at].1).clone());
    }
    let before = &points[at.checked_sub(1)?];
    let Some(after) = points.get(at) else {
        // The hint tells of a neighbour, not of the value.
        return Some(FloatHistogram { counter_reset_hint: CounterResetHint::Unknown, ..(*before.1).clone() });
    };
    if before.1.uses_custom_buckets() != after.1.uses_custom_buckets() {
        notes.incompatible();
        return None;
    }
    let is_counter = !(is_gauge(&before.1) && is_gauge(&after.1));
    interpolated(before, after, t, is_counter, notes)
}
