//! Native histograms as the evaluator computes with them: float counts, absolute, each bucket with
//! its index. Runs of buckets (spans) are how histograms are stored and sent; sums and comparisons
//! are simpler on a sorted list of (index, count).
//!
//! Source: Prometheus `model/histogram/float_histogram.go`.

use std::sync::Arc;

use model::histogram::{CUSTOM_BUCKETS_SCHEMA, CounterResetHint};

/// A native histogram with float counts.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatHistogram {
    /// What is known of counter resets.
    pub counter_reset_hint: CounterResetHint,
    /// -4..=8 for exponential buckets, [`CUSTOM_BUCKETS_SCHEMA`] for custom ones.
    pub schema: i32,
    /// Half width of the zero bucket.
    pub zero_threshold: f64,
    /// Population of the zero bucket.
    pub zero_count: f64,
    /// Observations in all.
    pub count: f64,
    /// Sum of the observations.
    pub sum: f64,
    /// Index and population of the buckets of the positive side, ascending by index.
    pub positive: Vec<(i32, f64)>,
    /// Index and population of the buckets of the negative side, ascending by index (that is, away
    /// from zero).
    pub negative: Vec<(i32, f64)>,
    /// Upper bounds of custom buckets, ascending, without +Inf; shared, since bounds rarely change.
    pub custom_values: Arc<[f64]>,
}

/// A bucket with its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Whether an observation equal to the lower bound is inside.
    pub lower_inclusive: bool,
    /// Whether an observation equal to the upper bound is inside.
    pub upper_inclusive: bool,
    /// Population.
    pub count: f64,
}

impl Bucket {
    /// The number that stands for the kinds of bounds in the HTTP API: 0 = open left, 1 = open
    /// right, 2 = open both, 3 = closed both.
    pub fn boundary_rule(&self) -> u8 {
        match (self.lower_inclusive, self.upper_inclusive) {
            (false, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (true, true) => 3,
        }
    }
}

impl FloatHistogram {
    /// Whether the buckets have explicit bounds.
    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }
}
