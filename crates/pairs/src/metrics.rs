//! What a member tells of itself.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Figures of a member; cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) members: Gauge,
    pub(crate) view_changes: Counter,
    pub(crate) lapses: Counter,
    pub(crate) renewals: Counter,
    pub(crate) write_failures: Counter,
    pub(crate) read_failures: Counter,
    pub(crate) word_failures: Counter,
    pub(crate) clock_ahead: Gauge<f64, AtomicU64>,
    pub(crate) away: Gauge<f64, AtomicU64>,
    pub(crate) keeps_share: Gauge,
}

impl Metrics {
    /// Figures in `registry`, named `marigraph_pairs_*`.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        let m = metrics.clone();
        let registry = registry.sub_registry_with_prefix("marigraph_pairs");
        registry.register(
            "members",
            "Agents that share the targets, this one included; 0 without a lease",
            m.members,
        );
        registry.register("view_changes", "Changes of who shares the targets", m.view_changes);
        registry.register("lapses", "Times that the own lease ran out or was taken away", m.lapses);
        registry.register("renewals", "Renewals of the own lease", m.renewals);
        registry.register("write_failures", "Renewals that failed", m.write_failures);
        registry.register("read_failures", "Reads of all leases that failed", m.read_failures);
        registry.register(
            "word_failures",
            "Signs of life by way of a hub that failed, while leases were not renewed",
            m.word_failures,
        );
        registry.register(
            "away_seconds",
            "For how long the leases could not be read; 0 when the last read went well",
            m.away,
        );
        registry.register(
            "keeps_share",
            "Whether this agent goes on with the targets it had while it cannot read the leases, as the others know by way of a hub",
            m.keeps_share,
        );
        registry.register(
            "clock_ahead_seconds",
            "How far the clock of the member that differs most is ahead of ours, about",
            m.clock_ahead,
        );
        metrics
    }
}
