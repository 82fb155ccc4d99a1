//! The value of a whole query.

use std::sync::Arc;

use model::Labels;

use super::plan::{Kind, Node, Window};
use super::rows::{merged, same_labelset, without_metadata};
use super::select::Series;
use super::window::Samples;
use super::{Cell, Evaluator, Row, Steps};
use crate::answer::{EvalError, MatrixSeries, SampleValue, Value, VectorSample};
use crate::ast::{RangeMode, ValueType};
use crate::functions::rate;

impl Evaluator<'_> {
    /// The value at one time.
    pub(crate) fn instant(&self, node: &Node, kind: ValueType, t_ms: i64) -> Result<Value, EvalError> {
        let steps = Steps { start_ms: t_ms, step_ms: 1, count: 1 };
        let mut plain = node;
        while let Kind::Invariant(inner) = &plain.kind {
            plain = inner;
        }
        match (kind, &plain.kind) {
            (ValueType::String, Kind::Text(text)) => Ok(Value::String { t_ms, text: text.clone() }),
            (ValueType::Scalar, _) => {
                let values = self.scalar(node, steps)?;
                Ok(Value::Scalar { t_ms, value: values.first().copied().unwrap_or(f64::NAN) })
            }
            (ValueType::Matrix, Kind::Window(window)) => self.matrix(window, steps),
            (ValueType::Vector, _) => {
                let rows = self.named(self.vector(node, steps)?)?;
                let samples = rows.into_iter().filter_map(|row| {
                    let value = match row.cell(0) {
                        Cell::Float(v) => SampleValue::Float(v),
                        Cell::Histogram(h) => SampleValue::Histogram(h.clone()),
                        Cell::Absent => return None,
                    };
                    Some(VectorSample { labels: row.labels, t_ms, value })
                });
                Ok(Value::Vector(samples.collect()))
            }
            _ => Err(EvalError::Internal("a query without a value".into())),
        }
    }

    /// The values over a range.
    pub(crate) fn range(
        &self,
        node: &Node,
        kind: ValueType,
        steps: Steps,
    ) -> Result<Vec<MatrixSeries>, EvalError> {
        let rows = if kind == ValueType::Scalar {
            vec![Row::of_floats(Labels::empty(), self.scalar(node, steps)?)]
        } else {
            self.named(self.vector(node, steps)?)?
        };
        let series = rows.into_iter().map(|row| {
            let mut out = MatrixSeries { labels: row.labels.clone(), ..MatrixSeries::default() };
            for step in 0..steps.count {
                match row.cell(step) {
                    Cell::Float(v) => out.floats.push((steps.at(step), v)),
                    Cell::Histogram(h) => out.histograms.push((steps.at(step), h.clone())),
                    Cell::Absent => {}
                }
            }
            out
        });
        Ok(series.filter(|s| !s.floats.is_empty() || !s.histograms.is_empty()).collect())
    }

    /// Drops the names that were kept for the query's duration.
    fn named(&self, mut rows: Vec<Row>) -> Result<Vec<Row>, EvalError> {
        if !self.delayed_names {
            return Ok(rows);
        }
        for row in rows.iter_mut().filter(|row| row.drop_name) {
            row.labels = without_metadata(&row.labels);
        }
        merged(rows)
    }

    /// Samples as they are stored, or computed by a subquery.
    fn matrix(&self, window: &Window, steps: Steps) -> Result<Value, EvalError> {
        let end = window.when().reference(steps.start_ms);
        let start = end.saturating_sub(window.range_ms);
        let mut series: Vec<MatrixSeries> = Vec::new();
        for Series { labels, drop_name, samples } in self.raw_windows(window, steps)? {
            let labels = if drop_name { without_metadata(&labels) } else { labels };
            let floats = match window.mode() {
                RangeMode::Plain => {
                    samples.times.iter().copied().zip(samples.values.iter().copied()).collect()
                }
                mode => {
                    if !samples.histograms.is_empty() {
                        let mode = if mode == RangeMode::Smoothed { "smoothed" } else { "anchored" };
                        return Err(EvalError::Exec(format!(
                            "{mode} modifier is not supported with histograms"
                        )));
                    }
                    extended(&samples, start, end, mode == RangeMode::Smoothed)
                }
            };
            let histograms: Vec<(i64, Arc<_>)> = samples.histograms;
            if !floats.is_empty() || !histograms.is_empty() {
                series.push(MatrixSeries { labels, floats, histograms });
            }
        }
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
        if series.windows(2).any(|pair| pair[0].labels == pair[1].labels) {
            return Err(same_labelset());
        }
        Ok(Value::Matrix(series))
    }
}

/// The samples of an `anchored` or `smoothed` range, with one at each end.
fn extended(samples: &Samples, start: i64, end: i64, smoothed: bool) -> Vec<(i64, f64)> {
    let (times, values) = (&samples.times[..], &samples.values[..]);
    if times.is_empty() {
        return Vec::new();
    }
    let Some((first, last)) = rate::extended_ends(times, start, end, smoothed) else { return Vec::new() };
    let left = rate::left_value(times, values, first, start, smoothed, false);
    let right = rate::right_value(times, values, last, end, smoothed, false);
    let inside = (first..=last).filter(|at| times[*at] > start && times[*at] < end);
    std::iter::once((start, left))
        .chain(inside.map(|at| (times[at], values[at])))
        .chain([(end, right)])
        .collect()
}
