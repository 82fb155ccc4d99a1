//! What the ledger tells of itself: by cluster and job, never by source.

use std::collections::{BTreeMap, BTreeSet};

use model::TenantId;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::fact::Verdict;
use crate::fleet::vanished;

/// `cluster`, and `tenant` where that is not the default one; then what else there is.
type Names = Vec<(&'static str, String)>;

fn names(tenant: &TenantId, cluster: &str) -> Names {
    let tenant = (*tenant != TenantId::default()).then(|| ("tenant", tenant.to_string()));
    [("cluster", cluster.to_owned())].into_iter().chain(tenant).collect()
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    expected: Family<Names, Counter>,
    stored: Family<Names, Counter>,
    missing: Family<Names, Counter>,
    unknown: Family<Names, Counter>,
    late: Family<Names, Counter>,
    cells_lost: Family<Names, Counter>,
    cluster_up: Family<Names, Gauge>,
    silent_targets: Family<Names, Gauge>,
    clusters: Mutex<BTreeSet<(TenantId, String)>>,
    with_targets: Mutex<BTreeSet<(TenantId, String)>>,
}

/// The counters of one job.
pub(crate) struct Counters<'a> {
    place: Names,
    metrics: &'a Metrics,
    pub(crate) late: Counter,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let ledger = registry.sub_registry_with_prefix("marigraph_ledger");
        ledger.register(
            "rows_expected",
            "Ticks at which a row was due, two intervals ago or earlier",
            self.expected.clone(),
        );
        ledger.register("rows_stored", "Rows stored by then", self.stored.clone());
        ledger.register(
            "rows_missing",
            "Rows known not to be stored by then, by reason",
            self.missing.clone(),
        );
        ledger.register("rows_unknown", "Rows of which nobody knew by then", self.unknown.clone());
        ledger.register("rows_late", "Rows told of after they had been counted", self.late.clone());
        ledger.register("cells_lost", "Cells lost of rows that are stored", self.cells_lost.clone());
        registry.register(
            "marigraph_cluster_up",
            "Whether one of the cluster's agents is there",
            self.cluster_up.clone(),
        );
        registry.register(
            "marigraph_cluster_silent_targets",
            "Sources of which nothing has been heard for two intervals although rows are due",
            self.silent_targets.clone(),
        );
    }

    pub(crate) fn of(&self, tenant: &TenantId, cluster: &str, job: &str) -> Counters<'_> {
        let mut place = names(tenant, cluster);
        place.push(("ledger_job", job.to_owned()));
        let late = self.late.get_or_create(&place).clone();
        Counters { place, metrics: self, late }
    }

    /// Which clusters have an agent that is there.
    pub(crate) fn clusters(&self, now: BTreeMap<(TenantId, String), bool>) {
        let mut before = self.clusters.lock();
        for (tenant, cluster) in vanished(&before, &now) {
            self.cluster_up.remove(&names(&tenant, &cluster));
        }
        *before = now.keys().cloned().collect();
        for ((tenant, cluster), up) in now {
            self.cluster_up.get_or_create(&names(&tenant, &cluster)).set(i64::from(up));
        }
    }

    /// How many sources of each cluster are silent.
    pub(crate) fn silent(&self, now: BTreeMap<(TenantId, String), u64>) {
        let mut before = self.with_targets.lock();
        for (tenant, cluster) in vanished(&before, &now) {
            self.silent_targets.remove(&names(&tenant, &cluster));
        }
        *before = now.keys().cloned().collect();
        for ((tenant, cluster), sources) in now {
            let sources = i64::try_from(sources).unwrap_or(i64::MAX);
            self.silent_targets.get_or_create(&names(&tenant, &cluster)).set(sources);
        }
    }
}

impl Counters<'_> {
    pub(crate) fn count(&self, verdict: Verdict, rows: u64, cells_lost: u64) {
        let (metrics, place) = (self.metrics, &self.place);
        metrics.expected.get_or_create(place).inc_by(rows);
        if cells_lost > 0 {
            metrics.cells_lost.get_or_create(place).inc_by(cells_lost);
        }
        if verdict.is_stored() {
            metrics.stored.get_or_create(place).inc_by(rows);
        } else if verdict.is_unknown() {
            metrics.unknown.get_or_create(place).inc_by(rows);
        } else {
            let mut cause = place.clone();
            cause.push(("reason", verdict.as_str().to_owned()));
            metrics.missing.get_or_create(&cause).inc_by(rows);
        }
    }
}
