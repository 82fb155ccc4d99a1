//! What the doors say of themselves.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Answer {
    pub(crate) version: &'static str,
    pub(crate) code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FoundBy {
    pub(crate) by: &'static str,
}

/// Figures of the doors.
#[derive(Debug, Clone)]
pub struct ReceiveMetrics {
    pub(crate) requests: Family<Answer, Counter>,
    pub(crate) samples: Counter,
    pub(crate) histograms: Counter,
    pub(crate) exemplars: Counter,
    pub(crate) refused: Family<Reason, Counter>,
    pub(crate) series_found: Family<FoundBy, Counter>,
    pub(crate) known_series: Gauge,
    pub(crate) body_bytes: Counter,
    pub(crate) decoded_bytes: Counter,
    pub(crate) seconds: Histogram,
}

impl Default for ReceiveMetrics {
    fn default() -> Self {
        ReceiveMetrics {
            requests: Family::default(),
            samples: Counter::default(),
            histograms: Counter::default(),
            exemplars: Counter::default(),
            refused: Family::default(),
            series_found: Family::default(),
            known_series: Gauge::default(),
            body_bytes: Counter::default(),
            decoded_bytes: Counter::default(),
            seconds: Histogram::new(exponential_buckets(0.0005, 3.0, 12)),
        }
    }
}

impl ReceiveMetrics {
    /// Puts all figures into `registry` as `marigraph_receive_*`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("marigraph_receive");
        let m = self;
        registry.register(
            "requests",
            "Remote-write requests answered, by version and status",
            m.requests.clone(),
        );
        registry.register("samples", "Float samples taken", m.samples.clone());
        registry.register("histograms", "Histogram samples taken", m.histograms.clone());
        registry.register("exemplars", "Exemplars taken", m.exemplars.clone());
        registry.register(
            "refused",
            "Samples (for invalid_labels: series) not taken, by reason",
            m.refused.clone(),
        );
        registry.register(
            "series_found",
            "Series of requests, by how they were found",
            m.series_found.clone(),
        );
        registry.register("known_series", "Series found without decoding labels", m.known_series.clone());
        registry.register_with_unit("body", "Bodies as sent", Unit::Bytes, m.body_bytes.clone());
        registry.register_with_unit("decoded", "Bodies unpacked", Unit::Bytes, m.decoded_bytes.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a body's end to its answer",
            Unit::Seconds,
            m.seconds.clone(),
        );
    }
}
