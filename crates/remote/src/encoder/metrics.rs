//! What the encoder says of itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Figures of an encoder.
#[derive(Debug, Clone, Default)]
pub struct EncoderMetrics {
    pub(crate) samples: Counter,
    pub(crate) refused_samples: Counter,
    pub(crate) rows: Counter,
    pub(crate) repeated_rows: Counter,
    pub(crate) blocks: Counter,
    pub(crate) bytes: Counter,
    pub(crate) segments: Counter,
    pub(crate) lost_rows: Counter,
    pub(crate) sources: Gauge,
    pub(crate) series: Gauge,
    pub(crate) refused_series: Counter,
}

impl EncoderMetrics {
    /// Puts all figures into `registry` as `marigraph_remote_encoder_*`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("marigraph_remote_encoder");
        let m = self;
        registry.register("samples", "Samples taken for the queue", m.samples.clone());
        registry.register(
            "refused_samples",
            "Samples not taken: late, or of series that were forgotten",
            m.refused_samples.clone(),
        );
        registry.register("rows", "Rows written to the queue", m.rows.clone());
        registry.register(
            "repeated_rows",
            "Rows dropped because they repeat the one before exactly",
            m.repeated_rows.clone(),
        );
        registry.register("blocks", "Blocks written to the queue", m.blocks.clone());
        registry.register_with_unit("blocks", "Size of blocks written", Unit::Bytes, m.bytes.clone());
        registry.register("segments", "Segments begun after the first one", m.segments.clone());
        registry.register(
            "lost_rows",
            "Rows lost because the queue could not be written",
            m.lost_rows.clone(),
        );
        registry.register("sources", "Sources opened since the start", m.sources.clone());
        registry.register("series", "Series known", m.series.clone());
        registry.register("refused_series", "Series refused at a limit", m.refused_series.clone());
    }
}
