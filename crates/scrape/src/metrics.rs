//! What scraping tells of itself.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// A reason as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
}

/// A job as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Job {
    pub(crate) scrape_job: String,
}

/// Counters of a manager; cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) targets: Family<Job, Gauge>,
    pub(crate) targets_dropped: Family<Job, Gauge>,
    pub(crate) targets_invalid: Counter,
    pub(crate) scrapes: Counter,
    pub(crate) failures: Family<Reason, Counter>,
    pub(crate) samples: Counter,
    pub(crate) stale_markers: Counter,
    pub(crate) rejected: Family<Reason, Counter>,
    pub(crate) append_failures: Counter,
    pub(crate) ticks_skipped: Counter,
    pub(crate) targets_standing_by: Gauge,
    pub(crate) rows_not_held: Counter,
    pub(crate) body_bytes: Counter,
    pub(crate) duration: Histogram,
    pub(crate) lateness: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            targets: Family::default(),
            targets_dropped: Family::default(),
            targets_invalid: Counter::default(),
            scrapes: Counter::default(),
            failures: Family::default(),
            samples: Counter::default(),
            stale_markers: Counter::default(),
            rejected: Family::default(),
            append_failures: Counter::default(),
            ticks_skipped: Counter::default(),
            targets_standing_by: Gauge::default(),
            rows_not_held: Counter::default(),
            body_bytes: Counter::default(),
            duration: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
            lateness: Histogram::new(exponential_buckets(0.001, 4.0, 8)),
        };
        let m = metrics.clone();
        let registry = registry.sub_registry_with_prefix("marigraph_scrape");
        registry.register("targets", "Targets that are scraped", m.targets);
        registry.register("targets_dropped", "Targets that relabelling dropped", m.targets_dropped);
        registry.register("targets_invalid", "Discovered targets that cannot be scraped", m.targets_invalid);
        registry.register("scrapes", "Scrapes begun", m.scrapes);
        registry.register("failures", "Scrapes failed, by reason", m.failures);
        registry.register("samples", "Samples taken from targets", m.samples);
        registry.register("stale_markers", "Staleness markers written", m.stale_markers);
        registry.register("rejected_samples", "Samples that the store refused, by reason", m.rejected);
        registry.register("append_failures", "Rows that the store could not take", m.append_failures);
        registry.register(
            "targets_standing_by",
            "Targets that another agent scrapes, or nobody for now",
            m.targets_standing_by,
        );
        registry.register(
            "rows_not_held",
            "Rows thrown away because the lease ran out during their scrape",
            m.rows_not_held,
        );
        registry.register(
            "ticks_skipped",
            "Ticks without a scrape because the one before was late",
            m.ticks_skipped,
        );
        registry.register_with_unit("body", "Unpacked bodies read", Unit::Bytes, m.body_bytes);
        registry.register_with_unit("duration", "Time from request to parsed row", Unit::Seconds, m.duration);
        registry.register_with_unit("lateness", "Time from tick to request", Unit::Seconds, m.lateness);
        metrics
    }

    pub(crate) fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&Reason { reason }).inc();
    }
}
