//! What discovery tells of itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type LabelPairs = Vec<(&'static str, String)>;

/// Counters and gauges of discovery.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    refreshes: Family<LabelPairs, Counter>,
    failures: Family<LabelPairs, Counter>,
    targets: Family<LabelPairs, Gauge>,
    updates: Family<LabelPairs, Counter>,
}

impl Metrics {
    /// Metrics that `registry` exposes as `marigraph_discovery_*`.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register(
            "marigraph_discovery_refreshes",
            "Answers from sources of targets, by mechanism",
            metrics.refreshes.clone(),
        );
        registry.register(
            "marigraph_discovery_failures",
            "Failed attempts to find targets, by mechanism",
            metrics.failures.clone(),
        );
        registry.register(
            "marigraph_discovery_targets",
            "Targets found before relabelling, by scrape pool",
            metrics.targets.clone(),
        );
        registry.register(
            "marigraph_discovery_updates",
            "Sets of targets handed to scraping, by scrape pool",
            metrics.updates.clone(),
        );
        metrics
    }

    pub(crate) fn refreshed(&self, mechanism: &'static str) {
        self.refreshes.get_or_create(&vec![("mechanism", mechanism.to_owned())]).inc();
    }

    pub(crate) fn failed(&self, mechanism: &'static str) {
        self.failures.get_or_create(&vec![("mechanism", mechanism.to_owned())]).inc();
    }

    pub(crate) fn updated(&self, pool: &str, targets: usize) {
        let pool = vec![("scrape_pool", pool.to_owned())];
        self.targets.get_or_create(&pool).set(i64::try_from(targets).unwrap_or(i64::MAX));
        self.updates.get_or_create(&pool).inc();
    }

    pub(crate) fn removed(&self, pool: &str) {
        let pool = vec![("scrape_pool", pool.to_owned())];
        self.targets.remove(&pool);
        self.updates.remove(&pool);
    }
}
