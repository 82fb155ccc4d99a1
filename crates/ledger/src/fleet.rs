//! Agents that have leave to send: who is silent.

use std::collections::{BTreeMap, BTreeSet};

use model::TenantId;
use parking_lot::{Mutex, RwLock};

/// Between the last sign of life of an agent and its being silent, at most and at least, milliseconds. A tunnel that died
/// without a word is known after ten seconds. Rows come about once a second, or each interval, and some machines
/// are busy.
const SILENT_AFTER_MS: (i64, i64) = (2_500, 15_000);
/// What it takes to tell of it, beside that: signs of life are collected, and metrics set, once a second each.
const TELLING_MS: i64 = 1_500;

/// How an agent fares.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentStatus {
    /// Without a sign of life for almost two intervals (the shortest of its cluster's sources; 2.5 s at least, 15 s at
    /// most), or never seen.
    pub silent: bool,
    /// Which cluster it speaks for.
    pub cluster: String,
    /// Its name.
    pub agent: String,
    /// When it enrolled, milliseconds; none where that is not known.
    pub enrolled_ms: Option<i64>,
    /// When it last gave a sign of life to this hub since the hub's start.
    pub seen_ms: Option<i64>,
}

type Key = (TenantId, String, String);

/// When it enrolled, and when it was last seen.
type Times = (Option<i64>, Option<i64>);

#[derive(Debug, Default)]
pub(crate) struct Agents {
    times: Mutex<BTreeMap<Key, Times>>,
    /// The shortest interval of the sources, by tenant and cluster, milliseconds.
    intervals: RwLock<BTreeMap<(TenantId, String), i64>>,
}

impl Agents {
    pub(crate) fn enrolled(&self, tenant: &TenantId, cluster: &str, agent: &str, at_ms: i64) {
        self.times.lock().entry(key(tenant, cluster, agent)).or_default().0 = Some(at_ms);
    }

    pub(crate) fn seen(&self, tenant: &TenantId, cluster: &str, agent: &str, at_ms: i64) {
        let mut agents = self.times.lock();
        let seen = &mut agents.entry(key(tenant, cluster, agent)).or_default().1;
        *seen = Some(seen.map_or(at_ms, |before| before.max(at_ms)));
    }

    pub(crate) fn gone(&self, tenant: &TenantId, cluster: &str, agent: &str) {
        self.times.lock().remove(&key(tenant, cluster, agent));
    }

    /// The shortest interval of each cluster's sources, anew.
    pub(crate) fn set_intervals(&self, intervals: BTreeMap<(TenantId, String), i64>) {
        *self.intervals.write() = intervals;
    }

    /// The shortest interval of a cluster's sources.
    pub(crate) fn interval_ms(&self, tenant: &TenantId, cluster: &str) -> Option<i64> {
        self.intervals.read().get(&(tenant.clone(), cluster.to_owned())).copied()
    }

    /// Silent ones first.
    pub(crate) fn list(&self, tenant: &TenantId, now_ms: i64) -> Vec<AgentStatus> {
        let agents = self.times.lock();
        let own = agents.iter().filter(|((owner, ..), _)| owner == tenant);
        let mut list: Vec<AgentStatus> = own
            .map(|((_, cluster, agent), (enrolled_ms, seen_ms))| AgentStatus {
                silent: self.is_silent(tenant, cluster, *seen_ms, now_ms),
                cluster: cluster.clone(),
                agent: agent.clone(),
                enrolled_ms: *enrolled_ms,
                seen_ms: *seen_ms,
            })
            .collect();
        list.sort_by(|a, b| b.silent.cmp(&a.silent).then_with(|| a.cmp(b)));
        list
    }

    /// Every cluster with an agent, and whether one of its agents is there.
    pub(crate) fn clusters(&self, now_ms: i64) -> BTreeMap<(TenantId, String), bool> {
        let mut clusters = BTreeMap::new();
        for ((tenant, cluster, _), (_, seen_ms)) in &*self.times.lock() {
            let is_there = !self.is_silent(tenant, cluster, *seen_ms, now_ms);
            *clusters.entry((tenant.clone(), cluster.clone())).or_insert(false) |= is_there;
        }
        clusters
    }

    fn is_silent(&self, tenant: &TenantId, cluster: &str, seen_ms: Option<i64>, now_ms: i64) -> bool {
        let after_ms = silent_after_ms(self.interval_ms(tenant, cluster));
        seen_ms.is_none_or(|seen| now_ms - seen > after_ms)
    }
}

/// How long an agent may give no sign of life whose cluster has sources of this shortest interval: so that it shows
/// within two of them.
fn silent_after_ms(interval_ms: Option<i64>) -> i64 {
    let (least, most) = SILENT_AFTER_MS;
    interval_ms
        .map_or(most, |interval| interval.saturating_mul(2).saturating_sub(TELLING_MS).clamp(least, most))
}

fn key(tenant: &TenantId, cluster: &str, agent: &str) -> Key {
    (tenant.clone(), cluster.to_owned(), agent.to_owned())
}

/// Clusters that were there before and are not any more.
pub(crate) fn vanished<K: Ord + Clone, T>(before: &BTreeSet<K>, now: &BTreeMap<K, T>) -> Vec<K> {
    before.iter().filter(|cluster| !now.contains_key(*cluster)).cloned().collect()
}
