//! What a metric family says of itself: type, unit, help.

use std::fmt;

/// The type of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MetricType {
    /// Not stated.
    #[default]
    Unknown,
    /// Counts up, may reset.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, count and sum (classic or native).
    Histogram,
    /// A histogram whose buckets go up and down.
    GaugeHistogram,
    /// Quantiles, count and sum.
    Summary,
    /// Constant 1 with labels.
    Info,
    /// One series a state, 0 or 1.
    StateSet,
}

impl MetricType {
    /// The name Prometheus' APIs use: `counter`, `gaugehistogram`, `unknown`, ...
    pub fn as_str(self) -> &'static str {
        match self {
            MetricType::Unknown => "unknown",
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Histogram => "histogram",
            MetricType::GaugeHistogram => "gaugehistogram",
            MetricType::Summary => "summary",
            MetricType::Info => "info",
            MetricType::StateSet => "stateset",
        }
    }

    /// The inverse of [`MetricType::as_str`]; also takes `untyped`.
    pub fn parse(text: &str) -> Option<MetricType> {
        Some(match text {
            "unknown" | "untyped" => MetricType::Unknown,
            "counter" => MetricType::Counter,
            "gauge" => MetricType::Gauge,
            "histogram" => MetricType::Histogram,
            "gaugehistogram" => MetricType::GaugeHistogram,
            "summary" => MetricType::Summary,
            "info" => MetricType::Info,
            "stateset" => MetricType::StateSet,
            _ => return None,
        })
    }
}

impl fmt::Display for MetricType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Type, unit and help of a metric family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Metadata {
    /// The type.
    pub metric_type: MetricType,
    /// The unit, a suffix of the name in OpenMetrics; empty when not stated.
    pub unit: String,
    /// The help text; empty when not stated.
    pub help: String,
}
