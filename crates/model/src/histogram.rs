//! Native histograms, exactly as they arrived: integer or float counts, exponential or custom
//! buckets.
//!
//! Source: Prometheus `model/histogram`; remote write 1.0/2.0 `Histogram`.

/// Schema number of histograms with custom (explicit) bucket bounds.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// What is known about a counter reset between the previous histogram and this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CounterResetHint {
    /// Nothing is known; compare the buckets.
    #[default]
    Unknown,
    /// This histogram starts anew.
    Reset,
    /// No reset happened.
    NotReset,
    /// A gauge histogram: resets have no meaning.
    Gauge,
}

/// A run of consecutive buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// Gap to the previous span's end (for the first span: the first bucket's index).
    pub offset: i32,
    /// How many buckets.
    pub length: u32,
}

/// Bucket populations.
#[derive(Debug, Clone, PartialEq)]
pub enum Buckets {
    /// Integer counts; a bucket is the difference to the bucket before it on the same side.
    Int {
        /// Observations in all.
        count: u64,
        /// Observations in the zero bucket.
        zero_count: u64,
        /// Deltas of the positive side, one for each bucket of the spans.
        positive: Vec<i64>,
        /// Deltas of the negative side.
        negative: Vec<i64>,
    },
    /// Float counts, absolute.
    Float {
        /// Observations in all.
        count: f64,
        /// Observations in the zero bucket.
        zero_count: f64,
        /// Counts of the positive side, one for each bucket of the spans.
        positive: Vec<f64>,
        /// Counts of the negative side.
        negative: Vec<f64>,
    },
}

/// A native histogram sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// What is known of counter resets.
    pub counter_reset_hint: CounterResetHint,
    /// -4..=8 for exponential buckets, [`CUSTOM_BUCKETS_SCHEMA`] for custom ones.
    pub schema: i32,
    /// Half width of the zero bucket.
    pub zero_threshold: f64,
    /// Sum of the observations; a staleness marker here ends the series.
    pub sum: f64,
    /// Runs of populated buckets, positive side (the only side of custom buckets).
    pub positive_spans: Vec<Span>,
    /// Runs of populated buckets, negative side.
    pub negative_spans: Vec<Span>,
    /// Upper bounds of custom buckets, ascending, without +Inf; empty for other schemas.
    pub custom_values: Vec<f64>,
    /// The populations.
    pub buckets: Buckets,
}

impl Histogram {
    /// A float histogram whose sum is the staleness marker.
    pub fn stale() -> Histogram {
        Histogram {
            counter_reset_hint: CounterResetHint::Unknown,
            schema: 0,
            zero_threshold: 0.0,
            sum: crate::stale_nan(),
            positive_spans: Vec::new(),
            negative_spans: Vec::new(),
            custom_values: Vec::new(),
            buckets: Buckets::Float {
                count: 0.0,
                zero_count: 0.0,
                positive: Vec::new(),
                negative: Vec::new(),
            },
        }
    }

    /// Whether this sample ends its series.
    pub fn is_stale(&self) -> bool {
        crate::is_stale(self.sum)
    }

    /// Observations in all, as a float.
    pub fn count(&self) -> f64 {
        match &self.buckets {
            Buckets::Int { count, .. } => *count as f64,
            Buckets::Float { count, .. } => *count,
        }
    }
}
