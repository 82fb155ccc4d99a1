//! Figures about far stores.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// By cluster.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Cluster {
    pub(crate) cluster: String,
}

/// What has been asked of far stores.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) requests: Family<Cluster, Counter>,
    pub(crate) failures: Family<Cluster, Counter>,
    pub(crate) bytes: Family<Cluster, Counter>,
}

impl Metrics {
    /// Metrics in `registry`, named `marigraph_gather_*`.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register(
            "marigraph_gather_requests",
            "Selections and look-ups sent to the stores of clusters",
            metrics.requests.clone(),
        );
        registry.register(
            "marigraph_gather_failures",
            "Those that got no answer, or one that cannot be read",
            metrics.failures.clone(),
        );
        registry.register(
            "marigraph_gather_received_bytes",
            "Bytes of answers from the stores of clusters",
            metrics.bytes.clone(),
        );
        metrics
    }

    pub(crate) fn of(cluster: &str) -> Cluster {
        Cluster { cluster: cluster.to_owned() }
    }
}
