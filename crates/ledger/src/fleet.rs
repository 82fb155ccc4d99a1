//! Agents that have leave to send: who is silent.

use std::collections::{BTreeMap, BTreeSet};

use model::TenantId;
use parking_lot::Mutex;

/// An agent not seen for this long is silent: its tunnel is pinged every five seconds.
const SILENT_AFTER_MS: i64 = 15_000;

/// How an agent fares.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentStatus {
    /// Not seen for some pings, or never.
    pub silent: bool,
    /// Which cluster it speaks for.
    pub cluster: String,
    /// Its name.
    pub agent: String,
    /// When it enrolled, milliseconds; none where that is not known.
    pub enrolled_ms: Option<i64>,
    /// When it was last seen by this hub since the hub's start.
    pub seen_ms: Option<i64>,
}

type Key = (TenantId, String, String);

/// When it enrolled, and when it was last seen.
type Times = (Option<i64>, Option<i64>);

#[derive(Debug, Default)]
pub(crate) struct Agents(Mutex<BTreeMap<Key, Times>>);

impl Agents {
    pub(crate) fn enrolled(&self, tenant: &TenantId, cluster: &str, agent: &str, at_ms: i64) {
        self.0.lock().entry(key(tenant, cluster, agent)).or_default().0 = Some(at_ms);
    }

    pub(crate) fn seen(&self, tenant: &TenantId, cluster: &str, agent: &str, at_ms: i64) {
        let mut agents = self.0.lock();
        let seen = &mut agents.entry(key(tenant, cluster, agent)).or_default().1;
        *seen = Some(seen.map_or(at_ms, |before| before.max(at_ms)));
    }

    pub(crate) fn gone(&self, tenant: &TenantId, cluster: &str, agent: &str) {
        self.0.lock().remove(&key(tenant, cluster, agent));
    }

    /// Silent ones first.
    pub(crate) fn list(&self, tenant: &TenantId, now_ms: i64) -> Vec<AgentStatus> {
        let agents = self.0.lock();
        let own = agents.iter().filter(|((owner, ..), _)| owner == tenant);
        let mut list: Vec<AgentStatus> = own
            .map(|((_, cluster, agent), (enrolled_ms, seen_ms))| AgentStatus {
                silent: is_silent(*seen_ms, now_ms),
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
    pub(crate) fn clusters(&self, now_ms: i64) -> BTreeMap<String, bool> {
        let mut clusters = BTreeMap::new();
        for ((_, cluster, _), (_, seen_ms)) in &*self.0.lock() {
            *clusters.entry(cluster.clone()).or_insert(false) |= !is_silent(*seen_ms, now_ms);
        }
        clusters
    }
}

fn is_silent(seen_ms: Option<i64>, now_ms: i64) -> bool {
    seen_ms.is_none_or(|seen| now_ms - seen > SILENT_AFTER_MS)
}

fn key(tenant: &TenantId, cluster: &str, agent: &str) -> Key {
    (tenant.clone(), cluster.to_owned(), agent.to_owned())
}

/// Clusters that were there before and are not any more.
pub(crate) fn vanished(before: &BTreeSet<String>, now: &BTreeMap<String, bool>) -> Vec<String> {
    before.iter().filter(|cluster| !now.contains_key(*cluster)).cloned().collect()
}
