//! From the store to rows: selectors and windows, in parallel batches of neighbouring series.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashSet;
use model::{Labels, MatchOp, Matcher, Sample};
use storage::{Column, Select, SeriesSet};

use super::batches::{Outcome, batch_series, reduced};
use super::plan::{Over, Selector, When, Window, WindowSource};
use super::rows::{has_type_or_unit, row_weight, same_labelset, without_metadata};
use super::tally::Tally;
use super::window::{Bounds, BoundsCache, Samples, computed_histograms};
use super::{Cell, Evaluator, Reduce, Row, Sink, Steps, absent};
use crate::annotations::{Annotations, Note};
use crate::answer::EvalError;
use crate::ast::{RangeMode, Span};
use crate::functions::mixed;
use crate::functions::over_time::{OverCall, OverTime, any_present};

/// Whether a selector admits one metric name only.
pub(crate) fn pins_name(selector: &Selector) -> bool {
    selector
        .matchers
        .iter()
        .any(|m: &Matcher| m.name == "__name__" && m.op == MatchOp::Equal && !m.value.is_empty())
}

/// Where the newest samples of a series stand.
struct Newest<'c> {
    column: &'c Column,
    floats: &'c Bounds,
    histograms: &'c Bounds,
    /// As many as the column has histograms, or none.
    histogram_starts: &'c [i64],
}

/// Where a series comes from.
#[derive(Clone, Copy)]
enum Origin {
    /// The store. Its name may stay where it should go, since nobody looks.
    Stored {
        keep_name: bool,
    },
    Subquery,
}

/// A series with its samples, stored or computed by a subquery.
pub(crate) struct Series {
    pub(crate) labels: Labels,
    pub(crate) drop_name: bool,
    pub(crate) samples: Samples,
}

impl Evaluator<'_> {
    /// The series that match, with samples in (reference - `before_ms`, reference + `after_ms`] of
    /// any step.
    pub(crate) fn select(
        &self,
        matchers: &[Matcher],
        when: When,
        steps: Steps,
        before_ms: i64,
        after_ms: i64,
    ) -> Result<Box<dyn SeriesSet>, EvalError> {
        let set = self.store.select(&self.selection(matchers, when, steps, before_ms, after_ms))?;
        for warning in set.warnings() {
            self.notes.lock().add_store_warning(warning);
        }
        Ok(set)
    }

    /// What [`select`](Self::select) asks the store for.
    pub(crate) fn selection(
        &self,
        matchers: &[Matcher],
        when: When,
        steps: Steps,
        before_ms: i64,
        after_ms: i64,
    ) -> Select {
        Select {
            tenant: self.tenant.clone(),
            start_ms: when.reference(steps.start_ms).saturating_sub(before_ms).saturating_add(1),
            end_ms: when.reference(steps.last()).saturating_add(after_ms),
            matchers: matchers.to_vec(),
        }
    }

    /// Loads a batch and makes a row of each series; samples are held until the batch is done.
    fn load_batch(
        &self,
        set: &dyn SeriesSet,
        batch: Range<usize>,
        steps: Steps,
        make: impl Fn(usize, Column, &mut Outcome) -> Option<Row>,
    ) -> Result<Outcome, EvalError> {
        let mut columns = Vec::with_capacity(batch.len());
        set.load(batch.clone(), &mut columns)?;
        let mut outcome = self.outcome(steps);
        outcome.rows.reserve(batch.len());
        for warning in set.warnings() {
            outcome.notes.add_store_warning(warning);
        }
        outcome.held = columns.iter().map(|c| (c.values.len() + c.histograms.len()) as u64).sum();
        self.budget.fits(outcome.held)?;
        for (at, column) in batch.zip(columns) {
            if !column.is_empty() {
                let row = make(at, column, &mut outcome);
                outcome.rows.extend(row);
            }
        }
        Ok(outcome)
    }

    /// The newest sample of each series at each step.
    pub(crate) fn stream_newest(
        &self,
        span: Span,
        selector: &Selector,
        steps: Steps,
        reduce: Option<Reduce<'_>>,
        sink: Sink<'_>,
    ) -> Result<(), EvalError> {
        if selector.mode == RangeMode::Smoothed {
            return self.stream_smoothed(span, selector, steps, sink);
        }
        let set = self.select(&selector.matchers, selector.when, steps, self.lookback_ms, 0)?;
        let cache = BoundsCache::new(steps, selector.when, self.lookback_ms, 0);
        let work = |batch| {
            self.load_batch(&*set, batch, steps, |at, column, outcome| {
                let row = newest(set.labels(at), &column, &cache, steps, selector.statistics);
                let before = outcome.tally.read;
                (0..steps.count).filter(|step| row.has(*step)).for_each(|step| outcome.tally.see(step, 1));
                (outcome.tally.read > before).then_some(row)
            })
        };
        let span = span_ms(selector.when, steps, self.lookback_ms);
        let work = reduced(work, reduce, set.len(), batch_series(span, steps));
        self.in_batches(set.len(), span, steps, work, sink)
    }

    /// The time of the newest sample of each series, or its start timestamp, in seconds.
    pub(crate) fn stream_timestamps(
        &self,
        selector: &Selector,
        start: bool,
        steps: Steps,
        sink: Sink<'_>,
    ) -> Result<(), EvalError> {
        if start && !self.start_timestamps {
            return Ok(());
        }
        self.stream_newest_as(selector, steps, sink, |of, row, step| {
            let (float, histogram) = (of.floats.at(step).1, of.histograms.at(step).1);
            let time = match (start, row.histogram(step).is_some()) {
                (false, true) => of.column.histograms[histogram - 1].0,
                (false, false) => of.column.times[float - 1],
                (true, true) => of.histogram_starts.get(histogram - 1).copied().unwrap_or_default(),
                (true, false) => of.column.start_times.as_ref().map_or(0, |s| s[float - 1]),
            };
            row.set(step, Cell::Float(time as f64 / 1000.0));
        })
    }

    /// The time of the newest sample of each series, in milliseconds; histograms stay as they are.
    pub(crate) fn stream_times(
        &self,
        selector: &Selector,
        steps: Steps,
        sink: Sink<'_>,
    ) -> Result<(), EvalError> {
        self.stream_newest_as(selector, steps, sink, |of, row, step| {
            if row.histogram(step).is_none() {
                row.floats[step] = of.column.times[of.floats.at(step).1 - 1] as f64;
            }
        })
    }

    /// The newest sample of each series, changed by what is known of its place in the column.
    fn stream_newest_as(
        &self,
        selector: &Selector,
        steps: Steps,
        sink: Sink<'_>,
        change: impl Fn(&Newest<'_>, &mut Row, usize) + Sync,
    ) -> Result<(), EvalError> {
        let set = self.select(&selector.matchers, selector.when, steps, self.lookback_ms, 0)?;
        let cache = BoundsCache::new(steps, selector.when, self.lookback_ms, 0);
        let work = |batch| {
            self.load_batch(&*set, batch, steps, |at, column, outcome| {
                let mut row = newest(set.labels(at), &column, &cache, steps, selector.statistics);
                let of = Newest {
                    floats: &cache.of(&column.times),
                    histograms: &cache.of_slice(&histogram_times(&column).unwrap_or_default()),
                    histogram_starts: column.histogram_starts.as_deref().unwrap_or_default(),
                    column: &column,
                };
                for step in 0..steps.count {
                    if row.has(step) {
                        outcome.tally.see(step, 1);
                        change(&of, &mut row, step);
                    }
                }
                (!row.is_empty()).then_some(row)
            })
        };
        self.in_batches(set.len(), span_ms(selector.when, steps, self.lookback_ms), steps, work, sink)
    }

    /// `smoothed` instant selectors: between two samples, the straight line.
    fn stream_smoothed(
        &self,
        span: Span,
        selector: &Selector,
        steps: Steps,
        sink: Sink<'_>,
    ) -> Result<(), EvalError> {
        let lookback = self.lookback_ms;
        let set = self.select(&selector.matchers, selector.when, steps, lookback, lookback)?;
        let cache = BoundsCache::new(steps, selector.when, lookback, lookback);
        let work = |batch| {
            self.load_batch(&*set, batch, steps, |at, column, outcome| {
                let samples = Samples::from_column(column, false, selector.statistics);
                let mut row = Row::empty(set.labels(at).clone(), steps.count);
                mixed::smooth(&mut row, &samples, &cache, span, &mut outcome.notes);
                outcome.tally.see(0, samples.weight());
                (!row.is_empty()).then_some(row)
            })
        };
        self.in_batches(set.len(), span_ms(selector.when, steps, 2 * lookback), steps, work, sink)
    }

    /// A function of windows, series by series.
    pub(crate) fn stream_over(
        &self,
        over: &Over,
        steps: Steps,
        reduce: Option<Reduce<'_>>,
        sink: Sink<'_>,
    ) -> Result<(), EvalError> {
        let params: Vec<Vec<f64>> =
            over.params.iter().map(|p| self.scalar(p, steps)).collect::<Result<_, _>>()?;
        check_factors(over.function, &params)?;
        let window = &over.window;
        let call = OverCall {
            function: over.function,
            steps,
            when: window.when(),
            range_ms: window.range_ms,
            mode: window.mode(),
            params: &params,
            window_span: window.span,
            budget: &self.budget,
        };
        let (before, after) = self.reach(window);
        let cache = BoundsCache::new(steps, call.when, before, after);
        let use_starts = self.start_timestamps && over.function.uses_start_times();
        let drops_name =
            !over.function.keeps_name() && !self.delayed_names && over.function != OverTime::Absent;
        let mut seen: HashSet<Labels, foldhash::fast::RandomState> = HashSet::default();
        let mut unique = |rows: Vec<Row>| {
            if drops_name && !rows.iter().all(|r| seen.insert(r.labels.clone())) {
                return Err(same_labelset());
            }
            sink(rows)
        };
        match &window.source {
            WindowSource::Select(selector) => {
                let set = self.select(&selector.matchers, call.when, steps, before, after)?;
                // Series of one name, without type and unit, stay apart when their names go; where nobody
                // looks at names they may as well stay.
                let one_name =
                    pins_name(selector) && !(0..set.len()).any(|at| has_type_or_unit(set.labels(at)));
                let keep_name = drops_name && one_name && reduce.is_some_and(|reduce| !reduce.uses_names);
                let work = |batch| {
                    self.load_batch(&*set, batch, steps, |at, column, outcome| {
                        let stale: Vec<bool> = column.histograms.iter().map(|(_, h)| h.is_stale()).collect();
                        let histogram_starts = column.histogram_starts.clone();
                        let mut samples = Samples::from_column(column, use_starts, selector.statistics);
                        if use_starts && let Some(starts) = histogram_starts {
                            let kept = starts.iter().copied().zip(stale).filter(|(_, stale)| !stale);
                            samples.histogram_starts = kept.map(|(start, _)| start).collect();
                        }
                        outcome.tally.read += samples.weight();
                        let series = Series { labels: set.labels(at).clone(), drop_name: false, samples };
                        self.over_row(&call, &series, &cache, Origin::Stored { keep_name }, outcome)
                    })
                };
                let span = span_ms(call.when, steps, before + after);
                if one_name {
                    let work = reduced(work, reduce, set.len(), batch_series(span, steps));
                    self.in_batches(set.len(), span, steps, work, sink)
                } else {
                    self.in_batches(set.len(), span, steps, work, &mut unique)
                }
            }
            WindowSource::Subquery { .. } => {
                let computed = self.subquery(window, steps)?;
                let work = |batch: Range<usize>| {
                    let mut outcome = self.outcome(steps);
                    for series in &computed[batch] {
                        let row = self.over_row(&call, series, &cache, Origin::Subquery, &mut outcome);
                        outcome.rows.extend(row);
                    }
                    Ok(outcome)
                };
                self.in_batches(
                    computed.len(),
                    span_ms(call.when, steps, before + after),
                    steps,
                    work,
                    &mut unique,
                )
            }
        }
    }

    /// How far before and after its reference a window needs samples.
    pub(super) fn reach(&self, window: &Window) -> (i64, i64) {
        match window.mode() {
            RangeMode::Plain => (window.range_ms, 0),
            RangeMode::Anchored => (window.range_ms + self.lookback_ms, 0),
            RangeMode::Smoothed => (window.range_ms + self.lookback_ms, self.lookback_ms),
        }
    }

    fn over_row(
        &self,
        call: &OverCall<'_>,
        series: &Series,
        cache: &BoundsCache,
        origin: Origin,
        outcome: &mut Outcome,
    ) -> Option<Row> {
        let Series { labels, drop_name, samples } = series;
        if samples.is_empty() {
            return None;
        }
        let name = labels.metric_name();
        let bounds = cache.of_samples(samples);
        outcome.tally.look_through(&bounds, matches!(origin, Origin::Stored { .. }));
        let mut row = Row { drop_name: *drop_name, ..Row::of_floats(labels.clone(), Vec::new()) };
        if samples.histograms.is_empty() {
            row.floats = call.floats(samples, &bounds, name, &mut outcome.notes);
        } else {
            row.floats = vec![absent(); call.steps.count];
            mixed::row(call, &mut row, samples, &bounds, cache, outcome);
        }
        let has_floats = any_present(&row.floats);
        if !has_floats && row.is_empty() {
            return None;
        }
        if has_floats && matches!(call.function, OverTime::Rate | OverTime::Increase) {
            self.warn_of_gauge(labels, call.window_span, &mut outcome.notes);
        }
        if !call.function.keeps_name() {
            if !matches!(origin, Origin::Stored { keep_name: true }) {
                self.drop_name(&mut row);
            }
        } else if *drop_name && !self.delayed_names {
            row.labels = without_metadata(&row.labels);
        }
        Some(row)
    }

    /// Says so when the metric does not look like a counter.
    fn warn_of_gauge(&self, labels: &Labels, span: Span, notes: &mut Annotations) {
        let name = labels.metric_name();
        if name.is_empty() {
            return;
        }
        if self.type_labels {
            let kind = labels.get("__type__").unwrap_or_default();
            if !matches!(kind, "counter" | "histogram") {
                notes.add(span, &Note::PossibleNonCounterLabel(name, kind));
            }
        } else if !["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix)) {
            notes.add(span, &Note::PossibleNonCounter(name));
        }
    }

    /// Evaluates a subquery on its own steps.
    fn subquery(&self, window: &Window, steps: Steps) -> Result<Vec<Series>, EvalError> {
        let WindowSource::Subquery { node, step_ms, when } = &window.source else {
            return Err(EvalError::Internal("a subquery was expected".into()));
        };
        let inner = self.subquery_steps(window.range_ms, *step_ms, *when, steps);
        self.budget.take(row_weight(inner))?;
        self.budget.give(row_weight(inner));
        self.subqueries.fetch_add(1, Ordering::Relaxed);
        let rows = self.vector_or_scalar(node, inner)?;
        self.subqueries.fetch_sub(1, Ordering::Relaxed);
        let all: Arc<[i64]> = (0..inner.count).map(|step| inner.at(step)).collect();
        Ok(rows.into_iter().map(|row| computed(row, &all)).collect())
    }

    /// The steps of a subquery: multiples of its step inside the windows of all outer steps.
    pub(super) fn subquery_steps(&self, range_ms: i64, step_ms: i64, when: When, steps: Steps) -> Steps {
        let first = when.reference(steps.start_ms).saturating_sub(range_ms);
        let mut start = step_ms * (first / step_ms);
        if start <= first {
            start += step_ms;
        }
        Steps::new(start, when.reference(steps.last()), step_ms)
    }

    fn vector_or_scalar(&self, node: &super::plan::Node, steps: Steps) -> Result<Vec<Row>, EvalError> {
        if super::call::is_scalar(node) {
            let values = if steps.count == 0 { Vec::new() } else { self.scalar(node, steps)? };
            return Ok(vec![Row::of_floats(Labels::empty(), values)]);
        }
        self.vector(node, steps)
    }

    /// Windows as they are: the value of a whole query.
    pub(crate) fn raw_windows(&self, window: &Window, steps: Steps) -> Result<Vec<Series>, EvalError> {
        let (before, after) = self.reach(window);
        let WindowSource::Select(selector) = &window.source else {
            let computed = self.subquery(window, steps)?;
            let mut tally = Tally::new(steps, self.per_step);
            tally.look(0, computed.iter().map(|series| series.samples.weight()).sum());
            self.count(&tally, steps);
            return Ok(computed);
        };
        let set = self.select(&selector.matchers, window.when(), steps, before, after)?;
        let mut out = Vec::new();
        let mut tally = Tally::new(steps, self.per_step);
        let each = batch_series(span_ms(window.when(), steps, before + after), steps);
        for from in (0..set.len()).step_by(each) {
            self.budget.check()?;
            let batch = from..(from + each).min(set.len());
            let mut columns = Vec::with_capacity(batch.len());
            set.load(batch.clone(), &mut columns)?;
            for warning in set.warnings() {
                self.notes.lock().add_store_warning(warning);
            }
            for (at, column) in batch.zip(columns) {
                let samples = Samples::from_column(column, false, selector.statistics);
                self.budget.take(samples.weight())?;
                tally.see(0, samples.weight());
                out.push(Series { labels: set.labels(at).clone(), drop_name: false, samples });
            }
        }
        self.count(&tally, steps);
        Ok(out)
    }

    /// `absent_over_time`: 1 at the steps whose windows are all empty.
    pub(crate) fn absent_over_time(&self, over: &Over, steps: Steps) -> Result<Vec<Row>, EvalError> {
        let mut present = vec![false; steps.count];
        self.stream_over(over, steps, None, &mut |rows| {
            for row in rows {
                for (step, found) in present.iter_mut().enumerate() {
                    *found |= row.has(step);
                }
            }
            Ok(())
        })?;
        let labels = match &over.window.source {
            WindowSource::Select(selector) => super::call::labels_of_absent(&selector.matchers),
            WindowSource::Subquery { .. } => Labels::empty(),
        };
        let floats: Vec<f64> = present.iter().map(|found| if *found { absent() } else { 1.0 }).collect();
        let mut row = Row::of_floats(labels, floats);
        row.drop_name = self.delayed_names;
        Ok(if row.is_empty() { Vec::new() } else { vec![row] })
    }
}

/// How long a time is looked at, when each step looks at `reach_ms`.
fn span_ms(when: When, steps: Steps, reach_ms: i64) -> i64 {
    let moved = when.reference(steps.last()).saturating_sub(when.reference(steps.start_ms));
    moved.saturating_add(reach_ms)
}

/// The times of a column's histograms, if it has any.
fn histogram_times(column: &Column) -> Option<Vec<i64>> {
    (!column.histograms.is_empty()).then(|| column.histograms.iter().map(|(t, _)| *t).collect())
}

/// The newest sample at each step. A staleness marker is the very value of an absent cell.
fn newest(labels: &Labels, column: &Column, cache: &BoundsCache, steps: Steps, statistics: bool) -> Row {
    let bounds = cache.of(&column.times);
    let floats = (0..steps.count)
        .map(|step| {
            let (lo, hi) = bounds.at(step);
            if lo < hi { column.values[hi - 1] } else { absent() }
        })
        .collect();
    let mut row = Row::of_floats(labels.clone(), floats);
    if let Some(times) = histogram_times(column) {
        let converted = computed_histograms(column, statistics);
        let of_histograms = cache.of_slice(&times);
        for step in 0..steps.count {
            let (lo, hi) = of_histograms.at(step);
            let (float_lo, float_hi) = bounds.at(step);
            if lo == hi || (float_lo < float_hi && column.times[float_hi - 1] > times[hi - 1]) {
                continue;
            }
            row.clear(step);
            if let Some(histogram) = &converted[hi - 1] {
                row.set_histogram(step, histogram.clone());
            }
        }
    }
    row
}

/// A row of a subquery as a series of samples. Rows without gaps share their times.
fn computed(row: Row, all: &Arc<[i64]>) -> Series {
    use model::histogram::CounterResetHint;
    let gapless = any_present(&row.floats) && row.floats.iter().all(|v| !super::is_absent(*v));
    let (times, values) = if gapless {
        (all.clone(), row.floats)
    } else {
        let present: Vec<Sample> = row
            .floats
            .iter()
            .zip(all.iter())
            .filter(|(v, _)| !super::is_absent(**v))
            .map(|(v, t)| Sample { timestamp_ms: *t, value: *v })
            .collect();
        (present.iter().map(|s| s.timestamp_ms).collect(), present.iter().map(|s| s.value).collect())
    };
    // What the hints say is about stored neighbours, which need not be neighbours here.
    let histograms = row.histograms.into_iter().flatten().zip(all.iter()).filter_map(|(h, t)| {
        let mut h = h?;
        if matches!(h.counter_reset_hint, CounterResetHint::Reset | CounterResetHint::NotReset) {
            Arc::make_mut(&mut h).counter_reset_hint = CounterResetHint::Unknown;
        }
        Some((*t, h))
    });
    let samples = Samples {
        times,
        values,
        histograms: histograms.collect(),
        histogram_starts: Vec::new(),
        start_times: None,
        shared_times: gapless,
    };
    Series { labels: row.labels, drop_name: row.drop_name, samples }
}

/// The factors of double exponential smoothing lie between 0 and 1.
fn check_factors(function: OverTime, params: &[Vec<f64>]) -> Result<(), EvalError> {
    if function != OverTime::DoubleExponential {
        return Ok(());
    }
    for (values, name, short) in
        params.iter().zip([("smoothing", "sf"), ("trend", "tf")]).map(|(p, (name, short))| (p, name, short))
    {
        if let Some(bad) = values.iter().find(|v| !(**v > 0.0 && **v < 1.0)) {
            return Err(EvalError::Exec(format!(
                "invalid {name} factor. Expected: 0 < {short} < 1, got: {bad:.6}"
            )));
        }
    }
    Ok(())
}
