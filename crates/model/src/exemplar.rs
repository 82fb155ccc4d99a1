//! A sample's example: usually a trace that fell into a bucket.

use crate::Labels;

/// An exemplar of one series.
#[derive(Debug, Clone)]
pub struct Exemplar {
    /// Labels of the exemplar itself (`trace_id`, ...), at most 128 characters in all in OpenMetrics.
    pub labels: Labels,
    /// The observed value.
    pub value: f64,
    /// Milliseconds since the Unix epoch; the row's own time where the exposition gave none.
    pub timestamp_ms: i64,
}
