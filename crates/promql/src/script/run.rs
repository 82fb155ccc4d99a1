//! Executes scripts on a store.

use std::collections::BTreeMap;

use model::histogram::{Buckets, Span};
use model::{Histogram, Labels, SourceId, TenantId};
use storage::{Appender, Batch, Conflict, Late, Policy, Queryable, Row, SeriesRef, SourceDesc};

use super::{Command, Eval, Expected, Load, Script, When, compare, nhcb};
use crate::answer::{Answer, EvalError, MatrixSeries, SampleValue, Value, VectorSample};
use crate::ast::{At, Expr, ExprKind};
use crate::engine::{Engine, QueryOptions};
use crate::histogram::FloatHistogram;
use crate::parser;
use crate::series::SequenceValue;

/// What a script needs of a store.
pub trait Store: Appender + Queryable {}

impl<T: Appender + Queryable> Store for T {}

/// What became of one evaluation.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Line of the command, from 1.
    pub line: usize,
    /// The query.
    pub query: String,
    /// The first difference, if there is one.
    pub result: Result<(), String>,
}

/// Functions whose results depend on when they are asked, even of data that stand still.
///
/// Source: Prometheus `promql/functions.go`, `AtModifierUnsafeFunctions`.
const TIME_DEPENDENT: [&str; 15] = [
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "end",
    "hour",
    "minute",
    "month",
    "predict_linear",
    "range",
    "start",
    "step",
    "time",
    "timestamp",
    "year",
];

const MINUTE_MS: i64 = 60_000;

/// Runs a script: every evaluation has an outcome. `new_store` is asked at the start and after each
/// `clear`.
///
/// Instant queries are also asked with `@` on every selector at other times, and as the middle of a
/// range query; the answers must agree.
///
/// # Errors
/// Data that the store does not take.
pub fn run(
    script: &Script,
    engine: &Engine,
    new_store: &mut dyn FnMut() -> Box<dyn Store>,
) -> Result<Vec<Outcome>, String> {
    let mut store = new_store();
    let mut outcomes = Vec::new();
    for command in &script.commands {
        match command {
            Command::Clear => store = new_store(),
            Command::Load(load) => append(store.as_ref(), load)?,
            Command::Eval(eval) => {
                let result = Asker { engine, store: store.as_ref(), eval }.ask();
                outcomes.push(Outcome { line: eval.line, query: eval.query.clone(), result });
            }
        }
    }
    Ok(outcomes)
}

/// The samples of one time.
#[derive(Default)]
struct RowParts {
    series: Vec<SeriesRef>,
    values: Vec<f64>,
    histograms: Vec<(SeriesRef, Histogram)>,
    starts: Vec<(SeriesRef, i64)>,
}

fn append(store: &dyn Store, load: &Load) -> Result<(), String> {
    let native = if load.with_nhcb { nhcb::convert(load)? } else { Vec::new() };
    let mut labels: Vec<Labels> = load.series.iter().map(|series| series.labels.clone()).collect();
    labels.extend(native.iter().map(|(labels, _, _)| labels.clone()));
    let tenant = TenantId::default();
    let id = SourceId::of(&tenant, "", "script", &Labels::empty(), "");
    let failed = |error: storage::StoreError| error.to_string();
    let source = store.open_source(&SourceDesc { tenant, id, labels: Labels::empty() }).map_err(failed)?;
    let refs = store.resolve(source, &labels).map_err(failed)?;
    let refs = refs.into_iter().collect::<Option<Vec<SeriesRef>>>().ok_or("a series was refused")?;

    let mut rows: BTreeMap<i64, RowParts> = BTreeMap::new();
    for (at, series) in load.series.iter().enumerate() {
        if labels[at + 1..load.series.len()].contains(&series.labels) {
            continue; // a series described twice has the later values
        }
        let mut previous: Option<FloatHistogram> = None;
        for (step, value) in series.values.iter().enumerate() {
            let t_ms = load.interval_ms.saturating_mul(step as i64);
            let row = rows.entry(t_ms).or_default();
            match value {
                SequenceValue::Omitted => continue,
                SequenceValue::Float(value) => {
                    previous = None;
                    row.series.push(refs[at]);
                    row.values.push(*value);
                }
                SequenceValue::Histogram { histogram, .. } => {
                    // As a store does that has seen the sample before.
                    let mut histogram = FloatHistogram::clone(histogram);
                    if let Some(previous) = &previous {
                        histogram.learn_from(previous, false);
                    }
                    row.histograms.push((refs[at], stored(&histogram)));
                    previous = Some(histogram);
                }
            }
            if let Some(Some(offset_ms)) = series.starts.get(step) {
                row.starts.push((refs[at], t_ms.saturating_add(*offset_ms)));
            }
        }
    }
    for (at, (_, step, histogram)) in native.iter().enumerate() {
        let row = rows.entry(load.interval_ms.saturating_mul(*step as i64)).or_default();
        row.histograms.push((refs[load.series.len() + at], stored(histogram)));
    }
    let rows: Vec<Row<'_>> = rows
        .iter()
        .map(|(t_ms, parts)| Row {
            source,
            timestamp_ms: *t_ms,
            series: &parts.series,
            values: &parts.values,
            histograms: &parts.histograms,
            start_timestamps: &parts.starts,
            exemplars: &[],
        })
        .collect();
    let policy = Policy { late: Late::Accept, conflict: Conflict::Replace };
    let appended = store.append(&Batch::rows(&rows, policy)).map_err(failed)?;
    match appended.rejected.first() {
        Some(rejection) => Err(format!("a sample was not taken: {}", rejection.reason)),
        None => Ok(()),
    }
}

fn stored(histogram: &FloatHistogram) -> Histogram {
    let (positive_spans, positive) = spans(&histogram.positive);
    let (negative_spans, negative) = spans(&histogram.negative);
    Histogram {
        counter_reset_hint: histogram.counter_reset_hint,
        schema: histogram.schema,
        zero_threshold: histogram.zero_threshold,
        sum: histogram.sum,
        positive_spans,
        negative_spans,
        custom_values: histogram.custom_values.to_vec(),
        buckets: Buckets::Float {
            count: histogram.count,
            zero_count: histogram.zero_count,
            positive,
            negative,
        },
    }
}

fn spans(buckets: &[(i32, f64)]) -> (Vec<Span>, Vec<f64>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut next = 0;
    for (index, _) in buckets {
        match spans.last_mut() {
            Some(span) if *index == next => span.length += 1,
            _ => spans.push(Span { offset: index - next, length: 1 }),
        }
        next = index + 1;
    }
    (spans, buckets.iter().map(|(_, count)| *count).collect())
}

struct Asker<'a> {
    engine: &'a Engine,
    store: &'a dyn Store,
    eval: &'a Eval,
}

impl Asker<'_> {
    fn ask(&self) -> Result<(), String> {
        match self.eval.when {
            When::Range(steps) => {
                let answer = self.range(&self.eval.query, steps.start_ms, steps.end_ms, steps.step_ms);
                self.judge(answer).map(drop)
            }
            When::Instant { at_ms } => {
                self.instant(&self.eval.query, at_ms)?;
                self.instant_elsewhere(at_ms)
            }
        }
    }

    fn range(&self, query: &str, start_ms: i64, end_ms: i64, step_ms: i64) -> Result<Answer, EvalError> {
        let (tenant, options) = (TenantId::default(), QueryOptions::default());
        self.engine.range(self.store, &tenant, query, start_ms, end_ms, step_ms, &options)
    }

    /// Compares an answer with what is expected; gives it back when it is not an expected failure.
    fn judge(&self, answer: Result<Answer, EvalError>) -> Result<Option<Answer>, String> {
        let expected: &Expected = &self.eval.expected;
        match (answer, &expected.fail) {
            (Err(error), Some(text)) if text.matches(&error.to_string()) => Ok(None),
            (Err(error), Some(text)) => {
                Err(format!("failed with {:?}, expected {text:?}", error.to_string()))
            }
            (Err(error), None) => Err(format!("failed: {error}")),
            (Ok(_), Some(_)) => Err("did not fail".to_owned()),
            (Ok(answer), None) => {
                compare::annotations(expected, &answer.warnings, &answer.infos)?;
                compare::value(self.eval, &answer.value)?;
                Ok(Some(answer))
            }
        }
    }

    /// Asks the same of the same data from other times.
    fn instant_elsewhere(&self, at_ms: i64) -> Result<(), String> {
        let Ok(mut expr) = parser::parse(&self.eval.query, &self.engine.options().features) else {
            return Ok(());
        };
        if !pin(&mut expr, at_ms) {
            return Ok(());
        }
        let query = expr.to_string();
        let times: &[i64] =
            if at_ms == 0 { &[-1000, 0, 1000] } else { &[-10 * at_ms, 0, at_ms / 5, at_ms, 10 * at_ms] };
        for time_ms in times {
            self.instant(&query, *time_ms)
                .map_err(|reason| format!("as {query} at {time_ms} ms: {reason}"))?;
        }
        Ok(())
    }

    fn instant(&self, query: &str, at_ms: i64) -> Result<(), String> {
        let (tenant, options) = (TenantId::default(), QueryOptions::default());
        let answer = self.engine.instant(self.store, &tenant, query, at_ms, &options);
        let Some(answer) = self.judge(answer)? else { return Ok(()) };
        let expected = &self.eval.expected;
        let of_query_times =
            ["start()", "end()", "range()", "step()"].iter().any(|call| query.contains(call));
        if expected.range_vector.is_some() || expected.string.is_some() || of_query_times {
            return Ok(());
        }
        let in_range = self
            .range(query, at_ms - MINUTE_MS, at_ms + MINUTE_MS, MINUTE_MS)
            .map_err(|error| format!("in a range query: failed: {error}"))?;
        if expected.ordered {
            return Ok(()); // range queries are in the order of labels
        }
        let Value::Matrix(series) = in_range.value else {
            return Err("a range query gave no matrix".to_owned());
        };
        compare::sorted(&series)?;
        let middle = middle(&series, at_ms);
        let value = match (&answer.value, &middle[..]) {
            (Value::Scalar { .. }, [VectorSample { value: SampleValue::Float(value), .. }]) => {
                Value::Scalar { t_ms: at_ms, value: *value }
            }
            _ => Value::Vector(middle),
        };
        compare::value(self.eval, &value).map_err(|reason| format!("in a range query: {reason}"))
    }
}

/// The samples at one time.
fn middle(series: &[MatrixSeries], t_ms: i64) -> Vec<VectorSample> {
    let mut out = Vec::new();
    for one in series {
        let float = one.floats.iter().find(|(t, _)| *t == t_ms).map(|(_, value)| SampleValue::Float(*value));
        let histogram =
            one.histograms.iter().find(|(t, _)| *t == t_ms).map(|(_, h)| SampleValue::Histogram(h.clone()));
        if let Some(value) = float.or(histogram) {
            out.push(VectorSample { labels: one.labels.clone(), t_ms, value });
        }
    }
    out
}

/// Pins every selector that has no time of its own to `at_ms`; what is inside a subquery is pinned by
/// the subquery. Says whether the result no longer depends on when it is asked.
fn pin(expr: &mut Expr, at_ms: i64) -> bool {
    let pin_to = |at: &mut Option<At>| {
        if !matches!(at, Some(At::Timestamp(_))) {
            *at = Some(At::Timestamp(at_ms));
        }
        true
    };
    match &mut expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => true,
        ExprKind::Vector(selector) => pin_to(&mut selector.shift.at),
        ExprKind::Matrix(matrix) => pin_to(&mut matrix.selector.shift.at),
        ExprKind::Subquery(subquery) => pin_to(&mut subquery.shift.at),
        ExprKind::Call(call) => {
            !TIME_DEPENDENT.contains(&call.function.name) && call.args.iter_mut().all(|arg| pin(arg, at_ms))
        }
        ExprKind::Aggregate(aggregate) => {
            pin(&mut aggregate.expr, at_ms) && aggregate.param.as_mut().is_none_or(|param| pin(param, at_ms))
        }
        ExprKind::Chain(chain) => {
            pin(&mut chain.first, at_ms) && chain.links.iter_mut().all(|link| pin(&mut link.operand, at_ms))
        }
        ExprKind::Unary(unary) => pin(&mut unary.operand, at_ms),
        ExprKind::Paren(inner) => pin(inner, at_ms),
    }
}
