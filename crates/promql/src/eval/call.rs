//! Functions of instant vectors and scalars.
//!
//! Source: Prometheus `promql/functions.go`.

use std::cmp::Ordering;

use model::{Labels, LabelsBuilder, MatchOp, Matcher};

use super::plan::{Kind, Node, WindowSource};
use super::rows::{label_weight, merged};
use super::{Cell, Evaluator, Row, Sink, Steps, absent, is_absent};
use crate::annotations::Note;
use crate::answer::EvalError;
use crate::ast::Span;
use crate::functions::datetime::{self, Civil};
use crate::functions::{math, natural};
use crate::histogram::FloatHistogram;

/// Whether a function takes every sample by itself; its first vector argument is the one.
pub(crate) fn is_elementwise(name: &str) -> bool {
    math::by_name(name).is_some()
        || datetime::by_name(name).is_some()
        || of_histogram(name).is_some()
        || matches!(name, "clamp" | "clamp_max" | "clamp_min" | "round" | "timestamp" | "start_timestamp")
}

/// Whether a node gives a scalar.
pub(crate) fn is_scalar(node: &Node) -> bool {
    match &node.kind {
        Kind::Number(_) => true,
        Kind::Call { name, .. } => matches!(*name, "time" | "pi" | "scalar" | "min_of" | "max_of"),
        Kind::Chain(chain) => chain.vectors == 0,
        Kind::Negate(inner) | Kind::Invariant(inner) => is_scalar(inner),
        _ => false,
    }
}

/// The function called `name`, if it takes a native histogram by itself.
fn of_histogram(name: &str) -> Option<fn(&FloatHistogram) -> f64> {
    Some(match name {
        "histogram_avg" => |h| h.sum / h.count,
        "histogram_count" => |h| h.count,
        "histogram_stddev" => |h| h.variance().sqrt(),
        "histogram_stdvar" => FloatHistogram::variance,
        "histogram_sum" => |h| h.sum,
        _ => return None,
    })
}

/// The labels that an `absent` function can tell: those that must have one value.
pub(crate) fn labels_of_absent(matchers: &[Matcher]) -> Labels {
    let mut builder = LabelsBuilder::default();
    let mut seen: Vec<&str> = Vec::new();
    for m in matchers.iter().filter(|m| m.name != "__name__") {
        if m.op == MatchOp::Equal && !seen.contains(&m.name.as_str()) {
            builder.set(&m.name, &m.value);
            seen.push(&m.name);
        } else {
            builder.remove(&m.name);
        }
    }
    builder.build()
}

pub(crate) fn text_of(node: Option<&Node>) -> &str {
    match node.map(|n| &n.kind) {
        Some(Kind::Text(text)) => text,
        _ => "",
    }
}

fn arg(args: &[Node], at: usize) -> Result<&Node, EvalError> {
    args.get(at).ok_or_else(|| EvalError::Internal(format!("argument {at} is missing")))
}

/// A valid label name is any text but the empty one.
fn check_label_name(name: &str, what: &str, function: &str) -> Result<(), EvalError> {
    if name.is_empty() {
        return Err(EvalError::Exec(format!("invalid {what} label name in {function}(): {name}")));
    }
    Ok(())
}

/// The longest value of a label that a function makes, in bytes.
const MADE_VALUE_BYTES_MAX: usize = 1 << 20;

/// Refuses to make a longer value; `bytes` may be guessed too large by a few times.
fn check_made_value(bytes: usize, bytes_max: usize, function: &str) -> Result<(), EvalError> {
    if bytes > bytes_max {
        let message =
            format!("{function}() would make a label value of more than {MADE_VALUE_BYTES_MAX} bytes");
        return Err(EvalError::Exec(message));
    }
    Ok(())
}

impl Evaluator<'_> {
    /// A function that gives a scalar.
    pub(crate) fn scalar_call(&self, name: &str, args: &[Node], steps: Steps) -> Result<Vec<f64>, EvalError> {
        let both = |f: fn(f64, f64) -> f64| -> Result<Vec<f64>, EvalError> {
            let (a, b) = (self.scalar(arg(args, 0)?, steps)?, self.scalar(arg(args, 1)?, steps)?);
            Ok(a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect())
        };
        match name {
            "time" => Ok((0..steps.count).map(|step| steps.at(step) as f64 / 1000.0).collect()),
            "pi" => Ok(vec![std::f64::consts::PI; steps.count]),
            "max_of" => both(math::max),
            "min_of" => both(math::min),
            "scalar" => {
                let mut found = vec![absent(); steps.count];
                self.stream(arg(args, 0)?, steps, &mut |rows| {
                    for row in &rows {
                        for (out, v) in found.iter_mut().zip(&row.floats) {
                            if !is_absent(*v) {
                                *out = if is_absent(*out) { *v } else { f64::NAN };
                            }
                        }
                    }
                    Ok(())
                })?;
                Ok(found.into_iter().map(|v| if is_absent(v) { f64::NAN } else { v }).collect())
            }
            _ => Err(EvalError::Internal(format!("{name} gives no scalar"))),
        }
    }

    /// A function that takes every sample by itself.
    pub(crate) fn stream_call(
        &self,
        name: &'static str,
        args: &[Node],
        steps: Steps,
        sink: Sink<'_>,
    ) -> Result<(), EvalError> {
        let input = arg(args, 0)?;
        let params: Vec<Vec<f64>> =
            args[1..].iter().map(|p| self.scalar(p, steps)).collect::<Result<_, _>>()?;
        let map = |row: Row| -> Row {
            if let Some(f) = math::by_name(name) {
                return row.map_floats(|_, v| f(v));
            }
            if let Some(f) = datetime::by_name(name) {
                return row.map_floats(|_, v| f(&Civil::from_seconds(v as i64)));
            }
            if let Some(f) = of_histogram(name) {
                let mut out = Row { drop_name: row.drop_name, ..Row::empty(row.labels.clone(), steps.count) };
                for (step, v) in out.floats.iter_mut().enumerate() {
                    if let Some(h) = row.histogram(step) {
                        *v = f(h);
                    }
                }
                return out;
            }
            match name {
                "clamp" => row.map_floats(|step, v| clamp(v, params[0][step], params[1][step])),
                "clamp_min" => row.map_floats(|step, v| clamp(v, params[0][step], f64::INFINITY)),
                "clamp_max" => row.map_floats(|step, v| clamp(v, f64::NEG_INFINITY, params[0][step])),
                "round" => row.map_floats(|step, v| {
                    let inverse = 1.0 / params.first().map_or(1.0, |p| p[step]);
                    (v * inverse + 0.5).floor() / inverse
                }),
                "timestamp" => {
                    let mut row = row;
                    for step in (0..steps.count).filter(|step| row.has(*step)).collect::<Vec<_>>() {
                        row.set(step, Cell::Float(steps.at(step) as f64 / 1000.0));
                    }
                    row
                }
                // Start timestamps are known of stored samples only.
                _ => Row::empty(row.labels, steps.count),
            }
        };
        self.stream(input, steps, &mut |rows| {
            let rows = rows.into_iter().map(map).filter(|row| !row.is_empty());
            sink(
                rows.map(|mut row| {
                    self.drop_name(&mut row);
                    row
                })
                .collect(),
            )
        })
    }

    /// Unary minus.
    pub(crate) fn negated(&self, rows: Vec<Row>) -> Vec<Row> {
        rows.into_iter()
            .map(|mut row| {
                for v in row.floats.iter_mut().filter(|v| !is_absent(**v)) {
                    *v = -*v;
                }
                for h in row.histograms.iter_mut().flatten().flatten() {
                    std::sync::Arc::make_mut(h).multiply(-1.0);
                }
                self.drop_name(&mut row);
                row
            })
            .collect()
    }

    /// Any other function.
    pub(crate) fn call(
        &self,
        span: Span,
        name: &'static str,
        args: &[Node],
        steps: Steps,
    ) -> Result<Vec<Row>, EvalError> {
        match name {
            "absent" => self.absent(arg(args, 0)?, steps),
            "vector" => Ok(vec![Row::of_floats(Labels::empty(), self.scalar(arg(args, 0)?, steps)?)]),
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
                self.sort(span, name, args, steps)
            }
            "label_replace" => self.label_replace(args, steps),
            "label_join" => self.label_join(args, steps),
            "histogram_quantile" => self.histogram_quantile(args, steps),
            "histogram_quantiles" => self.histogram_quantiles(args, steps),
            "histogram_fraction" => self.histogram_fraction(args, steps),
            "info" => self.info(args, steps),
            _ => match datetime::by_name(name) {
                Some(f) => {
                    let at = |step| f(&Civil::from_seconds(steps.at(step).div_euclid(1000)));
                    Ok(vec![Row::of_floats(Labels::empty(), (0..steps.count).map(at).collect())])
                }
                None => Err(EvalError::Internal(format!("unknown function {name}"))),
            },
        }
    }

    fn absent(&self, input: &Node, steps: Steps) -> Result<Vec<Row>, EvalError> {
        let mut floats = vec![1.0; steps.count];
        self.stream(input, steps, &mut |rows| {
            for row in &rows {
                for (step, v) in floats.iter_mut().enumerate() {
                    if row.has(step) {
                        *v = absent();
                    }
                }
            }
            Ok(())
        })?;
        let mut selected = input;
        while let Kind::Invariant(inner) = &selected.kind {
            selected = inner;
        }
        let labels = match &selected.kind {
            Kind::Select(selector) => labels_of_absent(&selector.matchers),
            Kind::Window(window) => match &window.source {
                WindowSource::Select(selector) => labels_of_absent(&selector.matchers),
                WindowSource::Subquery { .. } => Labels::empty(),
            },
            _ => Labels::empty(),
        };
        let row = Row::of_floats(labels, floats);
        Ok(if row.is_empty() { Vec::new() } else { vec![row] })
    }

    fn sort(&self, span: Span, name: &str, args: &[Node], steps: Steps) -> Result<Vec<Row>, EvalError> {
        let mut rows = self.vector(arg(args, 0)?, steps)?;
        let by_value = matches!(name, "sort" | "sort_desc");
        if by_value {
            for row in &mut rows {
                row.histograms = None;
            }
            rows.retain(|row| !row.is_empty());
        }
        if steps.count != 1 {
            self.note(span, &Note::SortInRangeQuery);
            return Ok(rows);
        }
        let descending = name.ends_with("_desc");
        if by_value {
            rows.sort_by(|a, b| by_value_nan_last(a.floats[0], b.floats[0], descending));
        } else {
            let labels: Vec<&str> = args[1..].iter().map(|a| text_of(Some(a))).collect();
            rows.sort_by(|a, b| {
                let value = |row: &Row, label: &str| row.labels.get(label).unwrap_or_default().to_owned();
                let order = labels
                    .iter()
                    .map(|label| natural::compare(&value(a, label), &value(b, label)))
                    .find(|order| *order != Ordering::Equal)
                    .unwrap_or_else(|| a.labels.cmp(&b.labels));
                if descending { order.reverse() } else { order }
            });
        }
        Ok(rows)
    }

    fn label_replace(&self, args: &[Node], steps: Steps) -> Result<Vec<Row>, EvalError> {
        let [target, template, source, pattern] = [1, 2, 3, 4].map(|at| text_of(args.get(at)));
        let regex = re2::Regex::wrapped(pattern).map_err(|_| {
            EvalError::Exec(format!("invalid regular expression in label_replace(): {pattern}"))
        })?;
        check_label_name(target, "destination", "label_replace")?;
        let mut rows = self.vector(arg(args, 0)?, steps)?;
        let groups = template.matches('$').count();
        for (at, row) in rows.iter_mut().enumerate() {
            if at % 1024 == 0 {
                self.budget.check()?;
            }
            let value = row.labels.get(source).unwrap_or_default();
            let bytes = template.len().saturating_add(groups.saturating_mul(value.len()));
            check_made_value(bytes, 16 * MADE_VALUE_BYTES_MAX, "label_replace")?;
            if let Some(replaced) = regex.expand(value, template) {
                check_made_value(replaced.len(), MADE_VALUE_BYTES_MAX, "label_replace")?;
                let mut builder = LabelsBuilder::from_labels(&row.labels);
                row.labels = builder.set(target, &replaced).build();
                self.budget.take(label_weight(&row.labels))?;
                row.drop_name &= target != "__name__";
            }
        }
        merged(rows)
    }

    fn label_join(&self, args: &[Node], steps: Steps) -> Result<Vec<Row>, EvalError> {
        let (target, separator) = (text_of(args.get(1)), text_of(args.get(2)));
        let sources: Vec<&str> = args.iter().skip(3).map(|a| text_of(Some(a))).collect();
        for source in &sources {
            check_label_name(source, "source", "label_join")?;
        }
        check_label_name(target, "destination", "label_join")?;
        let mut rows = self.vector(arg(args, 0)?, steps)?;
        for (at, row) in rows.iter_mut().enumerate() {
            if at % 64 == 0 {
                self.budget.check()?;
            }
            let values: Vec<&str> = sources.iter().map(|s| row.labels.get(s).unwrap_or_default()).collect();
            let bytes: usize = values.iter().map(|value| value.len() + separator.len()).sum();
            check_made_value(bytes, MADE_VALUE_BYTES_MAX + separator.len(), "label_join")?;
            let joined = values.join(separator);
            let mut builder = LabelsBuilder::from_labels(&row.labels);
            row.labels = builder.set(target, &joined).build();
            self.budget.take(label_weight(&row.labels))?;
            row.drop_name &= target != "__name__";
        }
        merged(rows)
    }
}

/// NaN comes last in both directions.
fn by_value_nan_last(a: f64, b: f64, descending: bool) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then_with(|| {
        let order = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
        if descending { order.reverse() } else { order }
    })
}

fn clamp(v: f64, min: f64, max: f64) -> f64 {
    if max < min { absent() } else { math::max(min, math::min(max, v)) }
}
