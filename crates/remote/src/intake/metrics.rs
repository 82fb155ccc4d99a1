//! What the intake says of itself.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use storage::RejectReason;

use crate::ship::Verdict;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub(crate) verdict: &'static str,
    pub(crate) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
}

/// Figures of an intake.
#[derive(Debug, Clone, Default)]
pub struct IntakeMetrics {
    pub(crate) blocks: Family<Outcome, Counter>,
    pub(crate) rows: Counter,
    pub(crate) samples: Counter,
    pub(crate) rejected: Family<Reason, Counter>,
    pub(crate) renamed: Counter,
    pub(crate) lost_rows: Counter,
    pub(crate) unproven_rows: Counter,
    pub(crate) agents: Gauge,
}

impl IntakeMetrics {
    /// Puts all figures into `registry` as `marigraph_remote_intake_*`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("marigraph_remote_intake");
        let m = self;
        registry.register("blocks", "Blocks of agents, by what became of them", m.blocks.clone());
        registry.register("rows", "Rows of agents handed to the store", m.rows.clone());
        registry.register("samples", "Samples of agents that the store took", m.samples.clone());
        registry.register(
            "rejected_samples",
            "Samples of agents that the store did not take, by reason",
            m.rejected.clone(),
        );
        registry.register(
            "renamed_series",
            "Sources and series whose cluster label was not that of the certificate",
            m.renamed.clone(),
        );
        registry.register("lost_rows", "Rows that agents say never come", m.lost_rows.clone());
        registry.register(
            "unproven_rows",
            "Rows that agents have lost or bring of another cluster, without a proof that they were that one's alone: not booked",
            m.unproven_rows.clone(),
        );
        registry.register("queues", "Queues of agents in memory", m.agents.clone());
    }

    pub(super) fn count(&self, verdict: &Verdict) {
        let (verdict, reason) = match verdict {
            Verdict::Stored => ("stored", ""),
            Verdict::Known => ("known", ""),
            Verdict::Context => ("context", ""),
            Verdict::NeedContext { .. } => ("needs_context", ""),
            Verdict::Refused(refusal) => ("refused", refusal.as_str()),
            Verdict::Later { .. } => ("later", ""),
        };
        self.blocks.get_or_create(&Outcome { verdict, reason }).inc();
    }

    pub(super) fn count_rejected(&self, reason: RejectReason, samples: u64) {
        let reason = match reason {
            RejectReason::TooOld => "too_old",
            RejectReason::OutOfOrder => "out_of_order",
            RejectReason::Duplicate => "duplicate",
            RejectReason::UnknownSeries => "unknown_series",
            RejectReason::SeriesLimit => "series_limit",
            RejectReason::Invalid => "invalid",
        };
        self.rejected.get_or_create(&Reason { reason }).inc_by(samples);
    }
}
