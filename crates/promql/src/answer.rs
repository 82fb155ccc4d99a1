//! What a query gives: a value, what the user should know about it, and what it cost; or the reason
//! why there is none.

use std::sync::Arc;
use std::time::Duration;

use model::Labels;
use storage::QueryError;

use crate::ast::ValueType;
use crate::histogram::FloatHistogram;
use crate::parser::ParseError;

/// The answer to a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The value.
    pub value: Value,
    /// Texts that begin `PromQL warning: `, and what the store had to say; sorted, unique, all of
    /// them (see [`capped`]).
    pub warnings: Vec<String>,
    /// Texts that begin `PromQL info: `; sorted, unique, all of them.
    pub infos: Vec<String>,
    /// What the query cost.
    pub stats: Stats,
}

/// How many annotations of a kind the HTTP API shows.
pub const ANNOTATIONS_MAX: usize = 10;

/// The first ten of `texts`, and a line that says how many were left out (`kind` is `warning` or
/// `info`).
///
/// Source: Prometheus `util/annotations`, `AsStrings`; `web/api/v1` asks for ten of each.
pub fn capped(texts: &[String], kind: &str) -> Vec<String> {
    let mut shown: Vec<String> = texts.iter().take(ANNOTATIONS_MAX).cloned().collect();
    if texts.len() > ANNOTATIONS_MAX {
        shown.push(format!("{} more {kind} annotations omitted", texts.len() - ANNOTATIONS_MAX));
    }
    shown
}

/// The value of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// One number.
    Scalar {
        /// The evaluation time, milliseconds.
        t_ms: i64,
        /// The number.
        value: f64,
    },
    /// One text.
    String {
        /// The evaluation time, milliseconds.
        t_ms: i64,
        /// The text.
        text: String,
    },
    /// One sample a series; order matters only after `sort` and `topk`.
    Vector(Vec<VectorSample>),
    /// Samples over time; sorted by labels for range queries.
    Matrix(Vec<MatrixSeries>),
}

impl Value {
    /// The type, whose `api` name the HTTP API shows as `resultType`.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::Scalar { .. } => ValueType::Scalar,
            Value::String { .. } => ValueType::String,
            Value::Vector(_) => ValueType::Vector,
            Value::Matrix(_) => ValueType::Matrix,
        }
    }

    /// Keeps at most `limit` series (0: all); says whether any were cut.
    pub fn truncate(&mut self, limit: usize) -> bool {
        let (len, cut): (usize, &mut dyn FnMut(usize)) = match self {
            Value::Vector(samples) => (samples.len(), &mut |n| samples.truncate(n)),
            Value::Matrix(series) => (series.len(), &mut |n| series.truncate(n)),
            _ => return false,
        };
        let over = limit > 0 && len > limit;
        if over {
            cut(limit);
        }
        over
    }
}

/// One sample: a number or a native histogram.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleValue {
    /// A number.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<FloatHistogram>),
}

/// One series of an instant vector.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorSample {
    /// The series.
    pub labels: Labels,
    /// The evaluation time, milliseconds.
    pub t_ms: i64,
    /// The value.
    pub value: SampleValue,
}

/// One series of a matrix.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MatrixSeries {
    /// The series.
    pub labels: Labels,
    /// Numbers, ascending by time (milliseconds).
    pub floats: Vec<(i64, f64)>,
    /// Histograms, ascending by time (milliseconds); no time also in `floats`.
    pub histograms: Vec<(i64, Arc<FloatHistogram>)>,
}

/// What a query cost.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stats {
    /// Samples looked at: each window's samples count again for every step.
    pub total_queryable_samples: u64,
    /// Most samples held at once.
    pub peak_samples: u64,
    /// Samples read from the store.
    pub samples_read: u64,
    /// The same by step, where [`crate::engine::QueryOptions::per_step_stats`] asked for it; otherwise
    /// empty.
    pub per_step: Vec<StepStats>,
    /// Where the time went.
    pub timings: Timings,
}

/// What a step of a query cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepStats {
    /// The step's time, milliseconds.
    pub t_ms: i64,
    /// Samples looked at for it.
    pub queryable_samples: u64,
    /// Samples read for it that no earlier step needed; what is the same at every step, and what a range
    /// holds besides its windows, counts at no step or at the first.
    pub samples_read: u64,
}

/// Where the time of a query went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Parsing.
    pub parse: Duration,
    /// Finding the series of the selectors.
    pub prepare: Duration,
    /// Loading and computing, together.
    pub inner_eval: Duration,
    /// Putting the result in order.
    pub result_sort: Duration,
    /// Everything.
    pub total: Duration,
}

/// Why a query has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EvalError {
    /// The text is not PromQL: `bad_data`, status 400.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The request makes no sense before evaluation starts (a zero step, an end before the start):
    /// `bad_data`, status 400.
    #[error("{0}")]
    BadRequest(String),
    /// The evaluation failed on its data: `execution`, status 422.
    #[error("{0}")]
    Exec(String),
    /// Ran out of time: `timeout`, status 503.
    #[error("query timed out in expression evaluation")]
    Timeout,
    /// The caller gave up: `canceled`, status 499.
    #[error("query was canceled in expression evaluation")]
    Cancelled,
    /// Would hold more samples than allowed: `execution`, status 422.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// The store failed: `internal`, status 500.
    #[error("expanding series: {0}")]
    Storage(QueryError),
    /// A mistake of ours, caught: `internal`, status 500.
    #[error("unexpected error: {0}")]
    Internal(String),
}

impl From<QueryError> for EvalError {
    fn from(error: QueryError) -> EvalError {
        match error {
            QueryError::Cancelled => EvalError::Cancelled,
            other => EvalError::Storage(other),
        }
    }
}
