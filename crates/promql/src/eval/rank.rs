//! Aggregations that need all rows of a group at a step: `topk`, `bottomk`, `limitk`, `limit_ratio`,
//! `quantile`, `count_values`.
//!
//! Source: Prometheus `promql/engine.go` (`aggregationK`, `aggregationCountValues`).

use std::cmp::Ordering;

use model::number::{format_float, format_general};
use model::{Labels, LabelsBuilder};

use super::aggregate::Groups;
use super::plan::{AggregateNode, Kind, Node};
use super::rows::LabelMap;
use super::{Cell, Evaluator, Row, Steps, absent, is_absent};
use crate::annotations::Note;
use crate::answer::EvalError;
use crate::ast::{AggregateOp, Grouping, Span};
use crate::functions::math;

/// The largest float below 2^63.
const INT_MAX: f64 = 9_223_372_036_854_774_784.0;
const INT_MIN: f64 = -9_223_372_036_854_775_808.0;

/// The smallest and the largest of the parameters that are numbers, and whether any is not.
fn extent(params: &[f64]) -> (f64, f64, bool) {
    let numbers = params.iter().copied().filter(|v| !v.is_nan());
    let min = numbers.clone().fold(f64::INFINITY, f64::min);
    let max = numbers.fold(f64::NEG_INFINITY, f64::max);
    (min, max, params.iter().any(|v| v.is_nan()))
}

impl Evaluator<'_> {
    /// The parameter's values, and where it stands.
    fn parameter(&self, aggregate: &AggregateNode, steps: Steps) -> Result<(Vec<f64>, Span), EvalError> {
        let Some(param) = &aggregate.param else {
            return Err(EvalError::Internal("an aggregation lacks its parameter".into()));
        };
        Ok((self.scalar(param, steps)?, param.span))
    }

    /// The rows' numbers, group by group.
    fn grouped(grouping: &Grouping, rows: &[Row]) -> (Vec<Labels>, Vec<Vec<usize>>) {
        let mut groups = Groups::new(grouping);
        let mut members: Vec<Vec<usize>> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let group = groups.of(&row.labels);
            if group == members.len() {
                members.push(Vec::new());
            }
            members[group].push(at);
        }
        (groups.labels, members)
    }

    /// `topk`, `bottomk`, `limitk`.
    pub(crate) fn rank(
        &self,
        span: Span,
        aggregate: &AggregateNode,
        steps: Steps,
    ) -> Result<Vec<Row>, EvalError> {
        let (params, _) = self.parameter(aggregate, steps)?;
        let mut rows = self.vector(&aggregate.input, steps)?;
        let (min, max, has_nan) = extent(&params);
        if has_nan {
            return Err(EvalError::Exec("Parameter value is NaN".into()));
        }
        if max < 1.0 {
            return Ok(Vec::new());
        }
        if min <= INT_MIN {
            return Err(EvalError::Exec(format!("Scalar value {} underflows int64", format_general(min))));
        }
        if max >= INT_MAX {
            return Err(EvalError::Exec(format!("Scalar value {} overflows int64", format_general(max))));
        }
        let op = aggregate.op;
        if op != AggregateOp::Limitk {
            self.leave_out_histograms(&mut rows, op, span);
        }
        let (_, members) = Self::grouped(&aggregate.grouping, &rows);
        let mut order = Vec::new();
        let mut kept = vec![false; rows.len()];
        for (step, k) in params.iter().enumerate() {
            self.budget.check()?;
            // An instant query has one step, and its result the order of the ranking.
            order.clear();
            kept.fill(false);
            let k = if *k < 1.0 { 0 } else { *k as usize };
            for members in &members {
                order.extend(chosen(&rows, members, step, k, op));
            }
            for at in &order {
                kept[*at] = true;
            }
            for (row, kept) in rows.iter_mut().zip(&kept) {
                if !kept {
                    row.clear(step);
                }
            }
        }
        if steps.count == 1 {
            let mut all: Vec<Option<Row>> = rows.into_iter().map(Some).collect();
            return Ok(order.iter().filter_map(|at| all[*at].take()).collect());
        }
        rows.retain(|row| !row.is_empty());
        Ok(rows)
    }

    fn leave_out_histograms(&self, rows: &mut [Row], op: AggregateOp, span: Span) {
        for row in rows {
            if row.histograms.take().is_some_and(|all| all.iter().any(Option::is_some)) {
                self.note(span, &Note::HistogramIgnoredInAggregation(op.as_str()));
            }
        }
    }

    /// `limit_ratio`.
    pub(crate) fn limit_ratio(&self, aggregate: &AggregateNode, steps: Steps) -> Result<Vec<Row>, EvalError> {
        let (params, span) = self.parameter(aggregate, steps)?;
        let mut rows = self.vector(&aggregate.input, steps)?;
        let (min, max, has_nan) = extent(&params);
        if has_nan {
            return Err(EvalError::Exec("Ratio value is NaN".into()));
        }
        if max > 1.0 {
            self.note(span, &Note::InvalidRatio(max, 1.0));
        }
        if min < -1.0 {
            self.note(span, &Note::InvalidRatio(min, -1.0));
        }
        for row in &mut rows {
            let share = share_of(&row.labels);
            for (step, ratio) in params.iter().enumerate() {
                let ratio = ratio.clamp(-1.0, 1.0);
                let kept = if ratio >= 0.0 { share < ratio } else { share >= 1.0 + ratio };
                if !kept {
                    row.clear(step);
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        Ok(rows)
    }

    /// `quantile`.
    pub(crate) fn quantile(&self, aggregate: &AggregateNode, steps: Steps) -> Result<Vec<Row>, EvalError> {
        let (params, span) = self.parameter(aggregate, steps)?;
        let mut rows = self.vector(&aggregate.input, steps)?;
        let (min, max, has_nan) = extent(&params);
        if has_nan {
            self.note(span, &Note::InvalidQuantile(f64::NAN));
        }
        if max > 1.0 {
            self.note(span, &Note::InvalidQuantile(max));
        }
        if min < 0.0 {
            self.note(span, &Note::InvalidQuantile(min));
        }
        self.leave_out_histograms(&mut rows, aggregate.op, aggregate.input.span);
        let (labels, members) = Self::grouped(&aggregate.grouping, &rows);
        let mut values = Vec::new();
        let mut results = Vec::with_capacity(labels.len());
        for (labels, members) in labels.into_iter().zip(&members) {
            let mut out = Row::empty(labels, steps.count);
            out.drop_name = members.iter().any(|at| rows[*at].drop_name);
            for (step, v) in out.floats.iter_mut().enumerate() {
                if step % 64 == 0 {
                    self.budget.check()?;
                }
                values.clear();
                values.extend(members.iter().map(|at| rows[*at].floats[step]).filter(|v| !is_absent(*v)));
                *v = if values.is_empty() { absent() } else { math::quantile(params[step], &mut values) };
            }
            if !out.is_empty() {
                results.push(out);
            }
        }
        Ok(results)
    }

    /// `count_values`.
    pub(crate) fn count_values(
        &self,
        aggregate: &AggregateNode,
        steps: Steps,
    ) -> Result<Vec<Row>, EvalError> {
        let label = match aggregate.param.as_ref().map(|p: &Node| &p.kind) {
            Some(Kind::Text(text)) if !text.is_empty() => text,
            _ => return Err(EvalError::Exec("invalid label name \"\"".into())),
        };
        let mut grouping = aggregate.grouping.clone();
        if !grouping.without {
            grouping.labels.push(label.clone());
            grouping.labels.sort_unstable();
            grouping.labels.dedup();
        }
        let mut place: LabelMap<Labels, usize> = LabelMap::default();
        let mut out: Vec<Row> = Vec::new();
        let mut groups = Groups::new(&grouping);
        self.stream(&aggregate.input, steps, &mut |rows| {
            self.budget.check()?;
            for row in &rows {
                let mut last: Option<(u64, usize)> = None;
                for step in 0..steps.count {
                    let (bits, text) = match row.cell(step) {
                        Cell::Absent => continue,
                        // Most series stay at a value for a while.
                        Cell::Float(v) => (Some(v.to_bits()), format_float(v)),
                        Cell::Histogram(h) => (None, h.to_string()),
                    };
                    let at = match last {
                        Some((seen, at)) if bits == Some(seen) => at,
                        _ => {
                            let mut builder = LabelsBuilder::from_labels(&row.labels);
                            let group = groups.of(&builder.set(label, &text).build());
                            let labels = groups.labels[group].clone();
                            let next = out.len();
                            let at = *place.entry(labels.clone()).or_insert(next);
                            if at == next {
                                // These labels are nobody else's.
                                let own = labels.as_bytes().len() as u64 / 16;
                                self.budget.take(super::rows::row_weight(steps) + own)?;
                                out.push(Row::empty(labels, steps.count));
                            }
                            at
                        }
                    };
                    last = bits.map(|bits| (bits, at));
                    let count = &mut out[at].floats[step];
                    *count = if is_absent(*count) { 1.0 } else { *count + 1.0 };
                }
            }
            Ok(())
        })?;
        Ok(out)
    }
}

/// The chosen rows of a group, the best first.
fn chosen(rows: &[Row], members: &[usize], step: usize, k: usize, op: AggregateOp) -> Vec<usize> {
    let mut present: Vec<usize> = members.iter().copied().filter(|at| rows[*at].has(step)).collect();
    let k = k.min(present.len());
    if op != AggregateOp::Limitk && k > 0 {
        // NaN is worse than anything; the earlier row wins a tie, so that the order is total.
        let better = |a: &usize, b: &usize| {
            let (x, y) = (rows[*a].floats[step], rows[*b].floats[step]);
            let by_value = if op == AggregateOp::Topk { y.partial_cmp(&x) } else { x.partial_cmp(&y) };
            x.is_nan().cmp(&y.is_nan()).then(by_value.unwrap_or(Ordering::Equal)).then(a.cmp(b))
        };
        if k < present.len() {
            present.select_nth_unstable_by(k - 1, better);
        }
        present.truncate(k);
        present.sort_unstable_by(better);
    }
    present.truncate(k);
    present
}

/// Where in 0..1 a series stands, by a hash of its labels.
///
/// Source: Prometheus `HashRatioSampler`; `model/labels` for what is hashed.
fn share_of(labels: &Labels) -> f64 {
    let mut bytes = Vec::with_capacity(256);
    for (name, value) in labels {
        for text in [name, value] {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0xff);
        }
    }
    xxhash_rust::xxh64::xxh64(&bytes, 0) as f64 / u64::MAX as f64
}
