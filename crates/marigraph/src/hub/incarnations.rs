//! Incarnations of clusters: a cluster that is built anew keeps its name, and its agents name another incarnation. Two that
//! live at once are an alarm: two clusters send under one name.

use std::collections::{BTreeMap, BTreeSet};

use model::TenantId;
use parking_lot::Mutex;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tunnel::AgentState;

/// Two incarnations may be there together for so long, milliseconds: the agent before takes leave while the next
/// one has come.
const OVERLAP_MS: i64 = 5_000;

/// Tenant and cluster.
type Name = (String, String);

/// `cluster`, and `tenant` where that is not the default one.
type OfCluster = Vec<(&'static str, String)>;

fn of_cluster((tenant, cluster): &Name) -> OfCluster {
    let tenant = (tenant != TenantId::default().as_str()).then(|| ("tenant", tenant.clone()));
    [("cluster", cluster.clone())].into_iter().chain(tenant).collect()
}

/// Which incarnations are there.
#[derive(Debug, Default)]
pub(super) struct Incarnations {
    /// Clusters with several.
    several: Mutex<BTreeMap<Name, Several>>,
    shown: Mutex<BTreeSet<Name>>,
    count: Family<OfCluster, Gauge>,
}

/// A cluster with several incarnations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Several {
    /// Since when, milliseconds since the epoch.
    pub(super) since_ms: i64,
    /// The agents of each.
    pub(super) agents: BTreeMap<String, Vec<String>>,
    /// They are no longer just changing places.
    pub(super) is_alarm: bool,
}

impl Incarnations {
    /// As `marigraph_cluster_incarnations`.
    pub(super) fn register_metrics(&self, registry: &mut Registry) {
        registry.register(
            "marigraph_cluster_incarnations",
            "Incarnations of the cluster whose agents are connected; two are an alarm",
            self.count.clone(),
        );
    }

    /// The clusters of a tenant that have several incarnations, and have had for longer than a change takes.
    pub(super) fn alarms(&self, tenant: &str) -> Vec<(String, Several)> {
        let several = self.several.lock();
        let own = several.iter().filter(|((owner, _), several)| owner == tenant && several.is_alarm);
        own.map(|((_, cluster), several)| (cluster.clone(), several.clone())).collect()
    }

    /// Takes in who is connected.
    pub(super) fn look(&self, agents: &[AgentState], now_ms: i64) {
        let mut clusters: BTreeMap<Name, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        for agent in agents.iter().filter(|agent| agent.connections > 0) {
            let Some(incarnation) = agent.incarnation.clone() else { continue };
            let name = (agent.key.tenant.to_string(), agent.key.cluster.to_string());
            clusters
                .entry(name)
                .or_default()
                .entry(incarnation)
                .or_default()
                .push(agent.key.agent.to_string());
        }
        let mut counts: BTreeMap<Name, i64> = BTreeMap::new();
        let mut before = self.several.lock();
        let mut several = BTreeMap::new();
        for (name, agents) in clusters {
            let known = before.remove(&name);
            let count = counts.entry(name.clone()).or_insert(1);
            if agents.len() < 2 {
                known.filter(|known| known.is_alarm).into_iter().for_each(|_| over(&name));
                continue;
            }
            let since_ms = known.as_ref().map_or(now_ms, |known| known.since_ms);
            let is_alarm = now_ms - since_ms >= OVERLAP_MS;
            if is_alarm {
                *count = (*count).max(i64::try_from(agents.len()).unwrap_or(i64::MAX));
            }
            if is_alarm && !known.is_some_and(|known| known.is_alarm) {
                let (tenant, cluster) = &name;
                let living = shown(&agents);
                tracing::warn!(
                    tenant,
                    cluster,
                    living,
                    "two incarnations of a cluster live at once: two clusters have one name, or agents that belong \
                     together share neither leases nor --incarnation"
                );
            }
            several.insert(name, Several { since_ms, agents, is_alarm });
        }
        before.iter().filter(|(_, known)| known.is_alarm).for_each(|(name, _)| over(name));
        *before = several;
        drop(before);
        let mut told = self.shown.lock();
        for cluster in told.iter().filter(|cluster| !counts.contains_key(*cluster)) {
            self.count.remove(&of_cluster(cluster));
        }
        *told = counts.keys().cloned().collect();
        for (cluster, count) in counts {
            self.count.get_or_create(&of_cluster(&cluster)).set(count);
        }
    }
}

fn over((tenant, cluster): &Name) {
    tracing::info!(tenant, cluster, "one incarnation of the cluster is left");
}

/// `a (agents 1, 2); b (agent 3)`.
pub(super) fn shown(agents: &BTreeMap<String, Vec<String>>) -> String {
    let one = |(incarnation, agents): (&String, &Vec<String>)| {
        let word = if agents.len() == 1 { "agent" } else { "agents" };
        format!("{incarnation} ({word} {})", agents.join(", "))
    };
    agents.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use tunnel::AgentKey;

    use super::*;

    fn state(cluster: &str, agent: &str, incarnation: Option<&str>, connections: usize) -> AgentState {
        AgentState {
            key: AgentKey { tenant: "default".into(), cluster: cluster.into(), agent: agent.into() },
            labels: BTreeMap::new(),
            connected_since_ms: None,
            last_end: None,
            remote: None,
            version: None,
            started_ms: None,
            incarnation: incarnation.map(str::to_owned),
            certificate_not_after_ms: None,
            measured: None,
            connections,
            in_flight: 0,
            waiting: 0,
        }
    }

    #[test]
    fn two_that_stay_are_an_alarm_and_two_that_change_places_are_none() {
        let incarnations = Incarnations::default();
        let check = |at_s: i64, agents: &[(&str, Option<&str>, usize)], alarm: &str, count: i64| {
            let list: Vec<AgentState> =
                agents.iter().map(|(agent, of, connections)| state("a", agent, *of, *connections)).collect();
            incarnations.look(&list, at_s * 1000);
            let alarms: Vec<String> =
                incarnations.alarms("default").iter().map(|(_, s)| shown(&s.agents)).collect();
            assert_eq!(alarms.join(" | "), alarm, "{at_s} s: {agents:?}");
            let gauge = incarnations.count.get_or_create(&vec![("cluster", "a".to_owned())]).get();
            assert_eq!(gauge, count, "{at_s} s: {agents:?}");
            assert!(incarnations.alarms("other").is_empty());
        };
        let (old, new) = (Some("old"), Some("new"));
        check(0, &[("1", old, 1)], "", 1);
        // A pair.
        check(60, &[("1", old, 1), ("2", old, 2)], "", 1);
        // The cluster is built anew; its agents change places.
        check(61, &[("1", old, 1), ("3", new, 1)], "", 1);
        check(65, &[("1", old, 1), ("3", new, 1)], "", 1);
        check(66, &[("1", old, 0), ("3", new, 1)], "", 1);
        check(90, &[("3", new, 1)], "", 1);
        // Both stay.
        check(91, &[("1", old, 1), ("3", new, 1)], "", 1);
        check(96, &[("1", old, 1), ("3", new, 1), ("4", new, 1)], "new (agents 3, 4); old (agent 1)", 2);
        check(97, &[("3", new, 1), ("5", None, 1)], "", 1);
    }
}
