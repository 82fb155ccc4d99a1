//! Aggregations that fold: every row is added to its group as it comes, and then forgotten.
//!
//! Source: Prometheus `promql/engine.go` (`aggregation`).

use std::sync::Arc;

use foldhash::fast::RandomState;
use model::Labels;
use model::histogram::CounterResetHint;
use model::labels::METRIC_NAME;

use super::matching::write_key;
use super::plan::AggregateNode;
use super::rows::{LabelMap, is_metadata, row_weight};
use super::{Evaluator, Reduce, Row, Steps, absent, is_absent};
use crate::annotations::{Note, Operation};
use crate::answer::EvalError;
use crate::ast::{AggregateOp, Grouping, Span};
use crate::functions::kahan::{self, Mean};
use crate::histogram::{FloatHistogram, HistogramSum};

impl AggregateOp {
    fn ignores_histograms(self) -> bool {
        use AggregateOp::{Max, Min, Stddev, Stdvar};
        matches!(self, Min | Max | Stddev | Stdvar)
    }
}

/// Finds the group of each row.
pub(crate) struct Groups<'g> {
    grouping: &'g Grouping,
    numbers: LabelMap<Box<[u8]>, u32>,
    key: Vec<u8>,
    /// The groups' labels.
    pub(crate) labels: Vec<Labels>,
}

impl<'g> Groups<'g> {
    pub(crate) fn new(grouping: &'g Grouping) -> Groups<'g> {
        let numbers = LabelMap::with_hasher(RandomState::default());
        Groups { grouping, numbers, key: Vec::new(), labels: Vec::new() }
    }

    /// The number of the group that `labels` belong to; a new one is the count of those before.
    pub(crate) fn of(&mut self, labels: &Labels) -> usize {
        let grouping = self.grouping;
        if !grouping.without && grouping.labels.is_empty() {
            if self.labels.is_empty() {
                self.labels.push(Labels::empty());
            }
            return 0;
        }
        write_key(&mut self.key, labels, |name| takes_part(grouping, name));
        if let Some(found) = self.numbers.get(self.key.as_slice()) {
            return *found as usize;
        }
        let next = self.labels.len();
        self.numbers.insert(self.key.as_slice().into(), next as u32);
        self.labels.push(labels.only(|name| takes_part(grouping, name)));
        next
    }
}

fn takes_part(grouping: &Grouping, name: &str) -> bool {
    let listed = grouping.labels.binary_search_by(|l| l.as_str().cmp(name)).is_ok();
    if grouping.without { !listed && name != METRIC_NAME } else { listed }
}

/// A group's running result at each step.
#[derive(Debug)]
enum Fold {
    /// Sum and compensation.
    Sum(Vec<f64>, Vec<f64>),
    Avg(Vec<Option<Mean>>),
    /// The best value so far; whether smaller is better.
    Extreme(Vec<f64>, bool),
    Count(Vec<f64>),
    Group(Vec<f64>),
    /// Count, mean, sum of squared deviations.
    Variance(Vec<(f64, f64, f64)>),
}

/// The histograms of a group at one step.
#[derive(Debug, Clone, Default)]
struct Histograms {
    sum: Option<HistogramSum>,
    incompatible: bool,
    reset: bool,
    not_reset: bool,
}

#[derive(Debug)]
struct GroupState {
    fold: Fold,
    histograms: Option<Vec<Histograms>>,
    drop_name: bool,
}

impl Fold {
    fn new(op: AggregateOp, steps: usize) -> Fold {
        match op {
            AggregateOp::Avg => Fold::Avg(vec![None; steps]),
            AggregateOp::Min => Fold::Extreme(vec![absent(); steps], true),
            AggregateOp::Max => Fold::Extreme(vec![absent(); steps], false),
            AggregateOp::Count => Fold::Count(vec![0.0; steps]),
            AggregateOp::Group => Fold::Group(vec![absent(); steps]),
            AggregateOp::Stddev | AggregateOp::Stdvar => Fold::Variance(vec![(0.0, 0.0, 0.0); steps]),
            _ => Fold::Sum(vec![absent(); steps], vec![0.0; steps]),
        }
    }

    fn add(&mut self, row: &Row) {
        let present = row.floats.iter().enumerate().filter(|(_, v)| !is_absent(**v));
        match self {
            Fold::Sum(sums, compensations) => {
                for ((sum, c), v) in sums.iter_mut().zip(compensations).zip(&row.floats) {
                    if is_absent(*v) {
                    } else if is_absent(*sum) {
                        *sum = *v;
                    } else {
                        (*sum, *c) = kahan::inc(*v, *sum, *c);
                    }
                }
            }
            Fold::Avg(means) => present.for_each(|(step, v)| match &mut means[step] {
                Some(mean) => mean.add(*v),
                unseen => *unseen = Some(Mean::new(*v)),
            }),
            Fold::Extreme(best, smaller) => {
                for (best, v) in best.iter_mut().zip(&row.floats) {
                    let better = if *smaller { *best > *v } else { *best < *v };
                    if !is_absent(*v) && (better || best.is_nan()) {
                        *best = *v;
                    }
                }
            }
            Fold::Count(counts) => {
                for (step, count) in counts.iter_mut().enumerate() {
                    *count += f64::from(u8::from(row.has(step)));
                }
            }
            Fold::Group(seen) => {
                for (step, v) in seen.iter_mut().enumerate() {
                    if row.has(step) {
                        *v = 1.0;
                    }
                }
            }
            Fold::Variance(states) => present.for_each(|(step, v)| {
                let (count, mean, squares) = &mut states[step];
                *count += 1.0;
                if *count == 1.0 {
                    (*mean, *squares) = (*v, if v.is_finite() { 0.0 } else { f64::NAN });
                } else {
                    let delta = v - *mean;
                    *mean += delta / *count;
                    *squares += delta * (v - *mean);
                }
            }),
        }
    }

    /// Adds what [`joined`] has made of several rows.
    fn add_partial(&mut self, row: &Row) {
        match self {
            Fold::Count(counts) => {
                for (count, n) in counts.iter_mut().zip(&row.floats).filter(|(_, n)| !is_absent(**n)) {
                    *count += n;
                }
            }
            // A sum of sums, the least of the least.
            _ => self.add(row),
        }
    }

    fn finish(self, op: AggregateOp) -> Vec<f64> {
        match self {
            Fold::Sum(sums, c) => {
                sums.iter().zip(&c).map(|(sum, c)| if is_absent(*sum) { *sum } else { sum + c }).collect()
            }
            Fold::Avg(means) => means.iter().map(|m| m.as_ref().map_or(absent(), Mean::get)).collect(),
            Fold::Extreme(values, _) | Fold::Group(values) => values,
            Fold::Count(counts) => counts.iter().map(|n| if *n == 0.0 { absent() } else { *n }).collect(),
            Fold::Variance(states) => states
                .iter()
                .map(|(count, _, squares)| match op {
                    _ if *count == 0.0 => absent(),
                    AggregateOp::Stddev => (squares / count).sqrt(),
                    _ => squares / count,
                })
                .collect(),
        }
    }
}

/// Makes one row of all rows of a group. Rows with histograms stay as they are.
fn joined(op: AggregateOp, grouping: &Grouping, rows: Vec<Row>) -> Vec<Row> {
    use AggregateOp::{Count, Group, Max, Min, Sum};
    let is_plain = |row: &Row| row.histograms.is_none() && !row.drop_name;
    if !matches!(op, Sum | Min | Max | Count | Group) || !rows.iter().all(is_plain) {
        return rows;
    }
    let mut groups = Groups::new(grouping);
    let mut folds: Vec<Fold> = Vec::new();
    for row in &rows {
        let at = groups.of(&row.labels);
        if at == folds.len() {
            folds.push(Fold::new(op, row.floats.len()));
        }
        folds[at].add(row);
    }
    let joined = folds.into_iter().zip(groups.labels);
    joined.map(|(fold, labels)| Row { partial: true, ..Row::of_floats(labels, fold.finish(op)) }).collect()
}

impl Evaluator<'_> {
    /// Any aggregation.
    pub(crate) fn aggregate(
        &self,
        span: Span,
        aggregate: &AggregateNode,
        steps: Steps,
    ) -> Result<Vec<Row>, EvalError> {
        use AggregateOp::{
            Avg, Bottomk, Count, CountValues, Group, LimitRatio, Limitk, Max, Min, Quantile, Stddev, Stdvar,
            Sum, Topk,
        };
        match aggregate.op {
            Sum | Avg | Min | Max | Count | Group | Stddev | Stdvar => self.fold(aggregate, steps),
            Quantile => self.quantile(aggregate, steps),
            Topk | Bottomk | Limitk => self.rank(span, aggregate, steps),
            LimitRatio => self.limit_ratio(aggregate, steps),
            CountValues => self.count_values(aggregate, steps),
        }
    }

    fn fold(&self, aggregate: &AggregateNode, steps: Steps) -> Result<Vec<Row>, EvalError> {
        let op = aggregate.op;
        let mut groups = Groups::new(&aggregate.grouping);
        let mut states: Vec<GroupState> = Vec::new();
        let grouping = &aggregate.grouping;
        let reduce = Reduce {
            rows: &|rows| joined(op, grouping, rows),
            uses_names: !grouping.without && grouping.labels.iter().any(|name| is_metadata(name)),
        };
        self.stream_reduced(&aggregate.input, steps, reduce, &mut |rows| {
            for row in &rows {
                let at = groups.of(&row.labels);
                if at == states.len() {
                    self.budget.take(2 * row_weight(steps))?;
                    states.push(GroupState {
                        fold: Fold::new(op, steps.count),
                        histograms: None,
                        drop_name: false,
                    });
                }
                let state = &mut states[at];
                state.drop_name |= row.drop_name;
                if row.partial {
                    state.fold.add_partial(row);
                } else {
                    state.fold.add(row);
                }
                if row.histograms.is_some() {
                    self.add_histograms(op, state, row, aggregate.input.span);
                }
            }
            Ok(())
        })?;
        let rows = states.into_iter().zip(&groups.labels).map(|(state, labels)| {
            let mut row = Row::of_floats(labels.clone(), state.fold.finish(op));
            row.drop_name = state.drop_name;
            if let Some(histograms) = state.histograms {
                self.finish_histograms(op, &mut row, histograms, aggregate.input.span);
            }
            row
        });
        Ok(rows.filter(|row| !row.is_empty()).collect())
    }

    fn add_histograms(&self, op: AggregateOp, state: &mut GroupState, row: &Row, span: Span) {
        let present =
            row.histograms.iter().flatten().enumerate().filter_map(|(step, h)| Some((step, h.as_ref()?)));
        if op.ignores_histograms() {
            if present.count() > 0 {
                self.note(span, &Note::HistogramIgnoredInAggregation(op.as_str()));
            }
            return;
        }
        if !matches!(op, AggregateOp::Sum | AggregateOp::Avg) {
            return;
        }
        let all = state.histograms.get_or_insert_with(|| vec![Histograms::default(); row.floats.len()]);
        for (step, h) in present {
            self.add_histogram(op, &mut all[step], h, row, span);
        }
    }

    fn add_histogram(
        &self,
        op: AggregateOp,
        into: &mut Histograms,
        h: &FloatHistogram,
        row: &Row,
        span: Span,
    ) {
        if into.incompatible {
            return;
        }
        into.reset |= h.counter_reset_hint == CounterResetHint::Reset;
        into.not_reset |= h.counter_reset_hint == CounterResetHint::NotReset;
        let Some(sum) = &mut into.sum else {
            into.sum = Some(HistogramSum::new(h));
            return;
        };
        match if op == AggregateOp::Avg { sum.add_for_mean(h) } else { sum.add(h) } {
            Ok(reconciled) if reconciled.custom_bounds => {
                self.note(span, &Note::MismatchedCustomBuckets(Operation::Aggregation));
            }
            Ok(_) => {}
            Err(_) => {
                into.incompatible = true;
                self.note(span, &Note::MixedExponentialCustom(row.labels.metric_name()));
            }
        }
    }

    fn finish_histograms(&self, op: AggregateOp, row: &mut Row, histograms: Vec<Histograms>, span: Span) {
        for (step, found) in histograms.into_iter().enumerate() {
            let Some(sum) = found.sum else { continue };
            if !is_absent(row.floats[step]) {
                row.floats[step] = absent();
                self.note(span, &Note::MixedFloatsHistogramsAggregation);
                continue;
            }
            if found.incompatible {
                continue;
            }
            if found.reset && found.not_reset {
                self.note(span, &Note::CounterResetCollision(Operation::Aggregation));
            }
            let mut result = if op == AggregateOp::Avg { sum.mean() } else { sum.sum() };
            result.compact();
            row.set_histogram(step, Arc::new(result));
        }
    }
}
